"""A claim's way: opened by itself on a settled statement, confirmed, checked, approved by another person, paid.

Owns: claims and their lines. Does not own: caps, pools and budgets (subsidies), what a statement says (statements).
Locks: the statement's row or the claim's, then the schemes' rows, then the ledger's accounts.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, require
from ..allocations.models import Allocation
from ..bookings.models import Booking
from ..db import lock
from ..enterprises import notify
from ..enterprises.belonging import is_bound
from ..files import service as files
from ..lifecycle import begin, move_to
from ..policy import FilesPolicy
from ..pools.models import Pool
from ..sentences import NotFound, Refusal, Sentence
from ..statements.models import Statement, StatementLine
from ..statements.states import StatementState
from ..subsidies import queries as subsidies
from ..subsidies import service as uses
from ..subsidies.models import Trait
from ..subsidies.rules import Cost, Entitled, Take, split
from ..subsidies.states import Mode
from .amounts import Draft, Line, drafts, fen
from .models import Claim, ClaimLine, ClaimVisit
from .states import ClaimState

OVER = (ClaimState.DECLINED, ClaimState.WITHDRAWN)
FILES = "claim"  # `owner_kind` of documents


def open_for(session: Session, statement_id: int, *, by: Actor = SYSTEM, now: dt.datetime) -> list[Claim]:
    """The claims of a settled statement, one per scheme that gives something back; none the second time.

    What is claimed counts against cap, pool and budget from now on: the budget's pool → held.
    """
    statement = lock(session, Statement, statement_id)
    if statement is None:
        raise NotFound
    if statement.state is not StatementState.SETTLED:
        raise Refusal(Sentence("claim-needs-settled"))
    if session.get(ClaimVisit, statement_id) is not None:
        return []
    entitled = subsidies.entitlements(session, statement.enterprise_id, statement.month, mode=Mode.REIMBURSE, lock=True)
    found = drafts(entitled, _lines(session, statement), _bonuses(session, entitled)) if entitled.entitlements else []
    claims = [_open(session, statement, draft, by, now) for draft in found]
    session.add(ClaimVisit(statement_id=statement_id, at=now, opened=len(claims)))
    session.flush()
    return claims


def _lines(session: Session, statement: Statement) -> list[Line]:
    """What was paid, line by line; lines that a scheme lowered already are out: nothing is borne twice."""
    rows = session.execute(
        sa.select(StatementLine, Allocation.id, Allocation.programme_id, Pool.model)
        .join(Booking, Booking.id == StatementLine.booking_id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .join(Pool, Pool.id == Booking.pool_id)
        .where(
            StatementLine.statement_id == statement.id,
            StatementLine.closing == statement.closing,
            StatementLine.subsidy_micro_yuan == 0,
            StatementLine.voucher_micro_yuan == 0,
        )
        .order_by(StatementLine.position)
    )
    return [
        Line(line.id, Cost(fen(line.amount_micro_yuan), line.kind.value, allocation_id, programme_id, model))
        for line, allocation_id, programme_id, model in rows
    ]


def _bonuses(session: Session, entitled: Entitled) -> dict[int, int]:
    """For entries of a trait, such as filed models, that hold in the year: what no earlier claim has paid."""
    due = {}
    year = int(entitled.month[:4])
    for each in entitled.entitlements:
        if not each.rules.bonus_micro_yuan:
            continue
        entries = session.scalar(
            sa.select(sa.func.count())
            .select_from(Trait)
            .where(
                Trait.enterprise_id == entitled.enterprise_id,
                Trait.trait == each.rules.bonus_trait,
                Trait.from_on <= subsidies.last_day(entitled.month),
                sa.or_(Trait.until_on.is_(None), Trait.until_on >= dt.date(year, 1, 1)),
            )
        )
        given = session.scalar(
            sa.select(sa.func.coalesce(sa.func.sum(Claim.bonus_micro_yuan), 0))
            .join(Statement, Statement.id == Claim.statement_id)
            .where(
                Claim.enterprise_id == entitled.enterprise_id,
                Claim.scheme_id == each.scheme_id,
                Claim.state.not_in(OVER),
                Statement.month.startswith(f"{year}-"),
            )
        )
        due[each.scheme_id] = max(0, each.rules.bonus(entries or 0) - int(given or 0))
    return due


def _open(session: Session, statement: Statement, draft: Draft, by: Actor, now: dt.datetime) -> Claim:
    scheme = draft.scheme
    claim = Claim(
        number=f"C-{statement.month.replace('-', '')}-{statement.enterprise_id:05}-{scheme.scheme_id}",
        enterprise_id=statement.enterprise_id,
        statement_id=statement.id,
        scheme_id=scheme.scheme_id,
        version_id=scheme.version_id,
        state=ClaimState.OPENED,
        cost_micro_yuan=draft.cost_micro_yuan,
        amount_micro_yuan=draft.amount_micro_yuan,
        bonus_micro_yuan=draft.bonus_micro_yuan,
        shares=split(draft.amount_micro_yuan, scheme.rules.payers),
        opened_at=now,
    )
    session.add(claim)
    begin(
        session,
        claim,
        verb="open",
        at=now,
        by=by,
        why=Sentence("claim-opened", amount=claim.amount_micro_yuan, cost=claim.cost_micro_yuan),
    )
    session.add_all(
        ClaimLine(
            claim_id=claim.id, statement_line_id=line.id, cost_micro_yuan=int(line.cost.exact), rate_permille=rate
        )
        for line, rate in draft.lines
    )
    uses.take(
        session,
        statement.id,
        statement.enterprise_id,
        statement.month,
        [Take(scheme.version_id, draft.amount_micro_yuan, draft.allocation_ids)],
        by=by,
        now=now,
        cause=f"claim:{claim.id}",
    )
    notify.send_to_managers(
        session,
        claim.enterprise_id,
        about=Sentence("claim-is-ready", number=claim.number, amount=claim.amount_micro_yuan),
        link=f"/claims/{claim.id}",
        key=f"claim:{claim.id}:open",
        now=now,
    )
    return claim


def list_to_open(session: Session, limit: int = 200) -> list[int]:
    """Settled statements that nobody has looked at for claims, the oldest first."""
    return list(
        session.scalars(
            sa.select(Statement.id)
            .outerjoin(ClaimVisit, ClaimVisit.statement_id == Statement.id)
            .where(Statement.state == StatementState.SETTLED, ClaimVisit.statement_id.is_(None))
            .order_by(Statement.id)
            .limit(limit)
        )
    )


# -- the way of one ---------------------------------------------------------------------------------------------------


def _of_enterprise(session: Session, claim_id: int, by: Actor, permission: Permission) -> Claim:
    require(by, permission)
    claim = lock(session, Claim, claim_id)
    if claim is None or claim.enterprise_id != by.enterprise_id:
        raise NotFound
    return claim


def _of_bureau(session: Session, claim_id: int, by: Actor, permission: Permission) -> Claim:
    """Nobody decides for a firm they belong or belonged to."""
    require(by, permission)
    claim = lock(session, Claim, claim_id)
    if claim is None:
        raise NotFound
    if by.user_id is not None and is_bound(session, claim.enterprise_id, by.user_id):
        raise Refusal(Sentence("not-your-own"))
    return claim


def attach(
    session: Session,
    claim_id: int,
    *,
    name: str,
    content: bytes,
    policy: FilesPolicy,
    by: Actor,
    now: dt.datetime,
) -> None:
    """A proof of payment, before the claim is confirmed."""
    claim = _of_enterprise(session, claim_id, by, Permission.CLAIM_CONFIRM)
    if claim.state is not ClaimState.OPENED:
        raise Refusal(Sentence("claim-is-confirmed"))
    files.keep(
        session,
        name=name,
        content=content,
        kind="payment_proof",
        owner_kind=FILES,
        owner_id=claim.id,
        enterprise_id=claim.enterprise_id,
        policy=policy,
        by=by,
        now=now,
    )


def confirm(
    session: Session,
    claim_id: int,
    *,
    pack: bytes,
    missing: Sequence[str],
    policy: FilesPolicy,
    by: Actor,
    now: dt.datetime,
) -> Claim:
    """The enterprise says that the claim is right; its evidence pack is kept as it is now, with its hash.

    `pack` was put together before this transaction, `missing` names what it has not. Raises Refusal("pack-lacks").
    """
    claim = _of_enterprise(session, claim_id, by, Permission.CLAIM_CONFIRM)
    if missing:
        raise Refusal(Sentence("pack-lacks", kind=missing[0]))
    if claim.state is ClaimState.OPENED:
        file = files.keep(
            session,
            name=f"{claim.number}.zip",
            content=pack,
            kind="evidence_pack",
            owner_kind=FILES,
            owner_id=claim.id,
            enterprise_id=claim.enterprise_id,
            policy=policy,
            by=by,
            now=now,
        )
        claim.pack_file_id, claim.pack_sha256 = file.id, hashlib.sha256(pack).hexdigest()
    move_to(session, claim, ClaimState.CONFIRMED, verb="confirm", at=now, by=by)
    claim.confirmed_by, claim.confirmed_at = by.user_id, now
    return claim


def withdraw(session: Session, claim_id: int, *, by: Actor, now: dt.datetime) -> Claim:
    """The enterprise does not want it: what was promised goes back to the budget."""
    claim = _of_enterprise(session, claim_id, by, Permission.CLAIM_WITHDRAW)
    move_to(session, claim, ClaimState.WITHDRAWN, verb="withdraw", at=now, by=by)
    uses.give_back_claim(session, claim.statement_id, claim.id, by=by, now=now)
    return claim


def check(session: Session, claim_id: int, *, by: Actor, now: dt.datetime) -> Claim:
    """The first of two people of finance finds it in order."""
    claim = _of_bureau(session, claim_id, by, Permission.CLAIM_CHECK)
    move_to(session, claim, ClaimState.CHECKED, verb="check", at=now, by=by)
    claim.checked_by = by.user_id
    return claim


def approve(session: Session, claim_id: int, *, by: Actor, now: dt.datetime) -> Claim:
    """The second person. Raises Refusal("two-decide") for the one who checked it."""
    claim = _of_bureau(session, claim_id, by, Permission.CLAIM_APPROVE)
    if claim.state is ClaimState.CHECKED and claim.checked_by == by.user_id:
        raise Refusal(Sentence("two-decide"))
    move_to(session, claim, ClaimState.APPROVED, verb="approve", at=now, by=by)
    claim.approved_by = by.user_id
    _tell(session, claim, "claim-approved", now)
    return claim


def decline(session: Session, claim_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Claim:
    """With a reason that the enterprise reads: what was promised goes back to the budget."""
    claim = _of_bureau(session, claim_id, by, Permission.CLAIM_DECLINE)
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    move_to(session, claim, ClaimState.DECLINED, verb="decline", at=now, by=by, note=reason.strip())
    uses.give_back_claim(session, claim.statement_id, claim.id, by=by, now=now)
    _tell(session, claim, "claim-declined", now)
    return claim


def pay(
    session: Session, claim_id: int, *, paid_on: dt.date, payment_reference: str, by: Actor, now: dt.datetime
) -> Claim:
    """The money is on its way: the budget's held → used. Raises Refusal at `paid_on` or `payment_reference`."""
    claim = _of_bureau(session, claim_id, by, Permission.CLAIM_PAY)
    if not payment_reference.strip():
        raise Refusal(Sentence("payment-needs-reference"), "payment_reference")
    if not clock.day_of(claim.opened_at) <= paid_on <= clock.day_of(now):
        raise Refusal(Sentence("paid-between", first=clock.day_of(claim.opened_at)), "paid_on")
    move_to(session, claim, ClaimState.PAID, verb="pay", at=now, by=by)
    claim.paid_on, claim.payment_reference = paid_on, payment_reference.strip()
    uses.spend_claim(session, claim.statement_id, claim.id, by=by, now=now)
    _tell(session, claim, "claim-paid", now)
    return claim


def _tell(session: Session, claim: Claim, said: str, now: dt.datetime) -> None:
    notify.send_to_managers(
        session,
        claim.enterprise_id,
        about=Sentence(said, number=claim.number, amount=claim.amount_micro_yuan),
        link=f"/claims/{claim.id}",
        key=f"claim:{claim.id}:{claim.state.value}",
        now=now,
    )
