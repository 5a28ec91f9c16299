"""An enterprise's month as a statement: a draft from the first charge on, closed on the first of the next month,
checked by one person and approved by another, issued for ever, settled when it is paid.

Owns: which charges make which line, the freezing, and the life of a statement. Does not own: charges (usage), hours
(ledger), what a scheme bears (subsidies). Locks: billing months by enterprise, then statements, then schemes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, Role, require
from ..bookings.models import Attempt, Booking
from ..db import lock
from ..enterprises import notify
from ..enterprises.models import Enterprise
from ..lifecycle import Move, begin, begin_all, move_all, move_to, note_event
from ..policy import StatementPolicy
from ..review import letters
from ..sentences import NotFound, Refusal, Sentence
from ..signin import notify as bureau_notify
from ..subsidies import service as subsidies
from ..usage.models import BillingMonth, Charge, MonthState
from ..usage.service import ensure_month
from ..workdays.queries import load_calendar
from . import billing, content, queries, receipts
from .models import Dispute, Statement, StatementContent, StatementLine
from .pricing import Priced, Totals, total
from .states import COMPUTED, DisputeState, StatementState

_LINES = cast(sa.Table, StatementLine.__table__)
S = StatementState
LATE_DAYS = 7  # whoever was not told by then, because no scheduler ran, hears it from finance


def open_draft(
    session: Session, enterprise_id: int, month: str, *, policy: StatementPolicy, by: Actor, now: dt.datetime
) -> Statement:
    """The month's statement, created as a draft when there is none yet."""
    ensure_month(session, enterprise_id, month)
    # The month's row is the lock: two passes that open the same draft meet here.
    session.execute(_months([enterprise_id], month).with_for_update())
    statement = session.scalar(
        sa.select(Statement).where(Statement.enterprise_id == enterprise_id, Statement.month == month)
    )
    if statement is None:
        statement = _new_draft(enterprise_id, month, _sponsors_of(session, [enterprise_id]), policy, now)
        session.add(statement)
        begin(session, statement, verb="open", at=now, by=by)
    return statement


def _new_draft(
    enterprise_id: int, month: str, sponsors: dict[int, int], policy: StatementPolicy, now: dt.datetime
) -> Statement:
    return Statement(
        number=f"S-{month.replace('-', '')}-{enterprise_id:05}",
        enterprise_id=enterprise_id,
        sponsor_id=sponsors.get(enterprise_id),
        month=month,
        state=S.DRAFT,
        opened_at=now,
        rule_version=policy.rule_version,
        tax_permille=policy.tax_permille,
        closing=0,
        **_sums(Totals()),
    )


# -- closing


@dataclass(slots=True)
class Closed:
    """What closing many came to: statement ids that went to review, and since when metering of others is missing."""

    statement_ids: list[int] = field(default_factory=list)
    incomplete: dict[int, Gap] = field(default_factory=dict)


def close_month(
    session: Session, enterprise_id: int, month: str, *, policy: StatementPolicy, by: Actor, now: dt.datetime
) -> Statement:
    """Cut the month: no later charge falls into it; the lines are frozen and the statement goes to review.

    A returned statement is computed again and goes to review again, under its number. Closing twice changes nothing.
    Raises Refusal("month-not-over") or Refusal("metering-incomplete").
    """
    closed = close_months(session, [enterprise_id], month, policy=policy, by=by, now=now)
    if enterprise_id in closed.incomplete:
        gap = closed.incomplete[enterprise_id]
        raise Refusal(Sentence("metering-incomplete", n=gap.runs, month=month, since=gap.since))
    return session.scalars(
        sa.select(Statement)
        .where(Statement.enterprise_id == enterprise_id, Statement.month == month)
        .execution_options(populate_existing=True)
    ).one()


def close_months(
    session: Session,
    enterprise_ids: Sequence[int],
    month: str,
    *,
    policy: StatementPolicy,
    by: Actor,
    now: dt.datetime,
) -> Closed:
    """`close_month` of many enterprises in as many statements as of one.

    Those whose metering is missing stay drafts, marked since when, unless somebody has confirmed the gap.
    Raises Refusal("month-not-over").
    """
    _, end = clock.month_bounds(month)
    if now < end:
        raise Refusal(Sentence("month-not-over", month=month))
    ids = sorted(set(enterprise_ids))
    _ensure_months(session, ids, month)
    session.execute(_months(ids, month).with_for_update()).all()
    sponsors = _sponsors_of(session, ids)
    found = {
        statement.enterprise_id: statement
        for statement in session.scalars(
            sa.select(Statement)
            .where(Statement.enterprise_id.in_(ids), Statement.month == month)
            .execution_options(populate_existing=True)
        )
    }
    fresh = [_new_draft(id, month, sponsors, policy, now) for id in ids if id not in found]
    session.add_all(fresh)
    begin_all(session, fresh, verb="open", at=now, by=by)
    found.update({statement.enterprise_id: statement for statement in fresh})
    closed = Closed()
    gaps = find_gaps(session, [id for id in ids if found[id].state in COMPUTED], end)
    for id, gap in gaps.items():
        found[id].incomplete_since = gap.since
        if found[id].gap_confirmed_at is None:
            closed.incomplete[id] = gap
    cut = [id for id in ids if found[id].state in COMPUTED and id not in closed.incomplete]
    closed.statement_ids = [found[id].id for id in cut]
    if cut:
        _cut(session, month, [found[id] for id in cut], gaps, sponsors, policy, by, now)
    return closed


def _cut(
    session: Session,
    month: str,
    statements: Sequence[Statement],
    gaps: dict[int, Gap],
    sponsors: dict[int, int],
    policy: StatementPolicy,
    by: Actor,
    now: dt.datetime,
) -> None:
    """Freeze the lines of statements whose months are locked and complete, and send them to review."""
    ids = [statement.enterprise_id for statement in statements]
    session.flush()
    session.execute(
        sa.update(BillingMonth)
        .where(BillingMonth.enterprise_id.in_(ids), BillingMonth.month == month)
        .values(state=MonthState.CLOSED, closed_at=now)
    )
    months = billing.price_months(session, month, ids, lock=True)
    rows: list[dict[str, Any]] = []
    moves: dict[StatementState, list[Move]] = {S.DRAFT: [], S.RETURNED: []}
    for statement in statements:
        lines = months.lines.get(statement.enterprise_id, [])
        sums = total(lines, policy.tax_permille)
        closing, gap = statement.closing + 1, gaps.get(statement.enterprise_id)
        rows.extend(_row(statement.id, closing, position, line) for position, line in enumerate(lines, 1))
        why = Sentence("closed-lines", n=len(lines), amount=sums.amount_micro_yuan)
        moves[statement.state].append(
            Move(
                statement.id,
                statement.state,
                now,
                whys=(why,) if statement.state is S.DRAFT else (None, why),
                values={
                    "closing": closing,
                    "closed_at": now,
                    "closed_by": by.user_id,
                    "checked_by": None,
                    "checked_at": None,
                    "approved_by": None,
                    "rule_version": policy.rule_version,
                    "tax_permille": policy.tax_permille,
                    "sponsor_id": sponsors.get(statement.enterprise_id),
                    "incomplete_since": None if gap is None else gap.since,
                    **_sums(sums),
                },
            )
        )  # fmt: skip
    if rows:
        session.execute(sa.insert(_LINES), rows)
    move_all(session, Statement, moves[S.DRAFT], (S.IN_REVIEW, "close"), by=by)
    move_all(session, Statement, moves[S.RETURNED], (S.DRAFT, "reopen"), (S.IN_REVIEW, "close"), by=by)
    taken = [
        subsidies.StatementTakes(statement.id, statement.enterprise_id, months.takes[statement.enterprise_id])
        for statement in statements
        if months.takes.get(statement.enterprise_id)
    ]
    if taken:
        subsidies.take_all(session, month, taken, by=by, now=now)
    for statement in statements:
        session.expire(statement)


def _row(statement_id: int, closing: int, position: int, line: Priced) -> dict[str, Any]:
    group, price = line.group, line.group.price
    return {
        "statement_id": statement_id,
        "closing": closing,
        "position": position,
        "booking_id": group.booking_id,
        "kind": group.kind,
        "tariff_id": price.tariff_id,
        "discount_id": price.discount_id,
        "weight_milli": price.weight_milli,
        "scheme_version_id": line.scheme_version_id,
        "adjustment": group.adjustment,
        "gpu_seconds": group.gpu_seconds,
        "price_micro_yuan": price.list_micro_yuan,
        "contract_price_micro_yuan": price.contract_micro_yuan,
        "list_micro_yuan": line.list_micro_yuan,
        "discount_micro_yuan": line.discount_micro_yuan,
        "subsidy_micro_yuan": line.subsidy_micro_yuan,
        "voucher_micro_yuan": line.voucher_micro_yuan,
        "amount_micro_yuan": line.net_micro_yuan,
    }


def _sums(sums: Totals) -> dict[str, int]:
    return {
        "gpu_seconds": sums.gpu_seconds,
        "amount_micro_yuan": sums.amount_micro_yuan,
        "tax_micro_yuan": sums.tax_micro_yuan,
        "list_micro_yuan": sums.list_micro_yuan,
        "discount_micro_yuan": sums.discount_micro_yuan,
        "subsidy_micro_yuan": sums.subsidy_micro_yuan,
        "voucher_micro_yuan": sums.voucher_micro_yuan,
    }


def _sponsors_of(session: Session, enterprise_ids: Collection[int]) -> dict[int, int]:
    """Who has taken which team on and pays for it."""
    rows = session.execute(
        sa.select(Enterprise.id, Enterprise.sponsor_id).where(
            Enterprise.id.in_(enterprise_ids),
            Enterprise.sponsor_id.is_not(None),
            Enterprise.sponsor_confirmed_at.is_not(None),
        )
    )
    return {id: sponsor_id for id, sponsor_id in rows if sponsor_id is not None}


def _ensure_months(session: Session, enterprise_ids: Sequence[int], month: str) -> None:
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = [{"enterprise_id": id, "month": month, "state": MonthState.OPEN} for id in enterprise_ids]
    if rows:
        session.execute(insert(BillingMonth).values(rows).on_conflict_do_nothing())


def _months(enterprise_ids: Sequence[int], month: str) -> sa.Select[BillingMonth]:
    return (
        sa.select(BillingMonth)
        .where(BillingMonth.enterprise_id.in_(enterprise_ids), BillingMonth.month == month)
        .order_by(BillingMonth.enterprise_id)
    )


def list_to_close(session: Session, month: str) -> list[int]:
    """Enterprises with charges billed in the month, or with a draft for it, that is still open.

    What somebody returned is closed by a person.
    """
    billed = sa.select(Charge.enterprise_id).where(Charge.billed_in == month)
    drafts = sa.select(Statement.enterprise_id).where(Statement.month == month, Statement.state == S.DRAFT)
    closed = sa.select(BillingMonth.enterprise_id).where(
        BillingMonth.month == month, BillingMonth.state == MonthState.CLOSED
    )
    returned = sa.select(Statement.enterprise_id).where(Statement.month == month, Statement.state == S.RETURNED)
    found = sa.union(billed, drafts).subquery()
    return list(
        session.scalars(
            sa.select(found.c.enterprise_id)
            .where(found.c.enterprise_id.not_in(closed), found.c.enterprise_id.not_in(returned))
            .order_by(found.c.enterprise_id)
        )
    )


# -- missing metering


@dataclass(frozen=True, slots=True)
class Gap:
    """Runs that are not metered as far as they should be, and since when nothing is known of them."""

    runs: int
    since: dt.datetime


def find_gaps(session: Session, enterprise_ids: Collection[int], end: dt.datetime) -> dict[int, Gap]:
    """Attempts of each enterprise that ran before `end` and are not metered up to it: one query."""
    rows = session.execute(
        sa.select(Booking.enterprise_id, sa.func.count(), sa.func.min(Attempt.metered_until_at))
        .select_from(Attempt)
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(
            Booking.enterprise_id.in_(enterprise_ids),
            Attempt.metered_whole.is_(False),
            Attempt.granted_at < end,
            Attempt.metered_until_at < end,
        )
        .group_by(Booking.enterprise_id)
    )
    return {id: Gap(n, since) for id, n, since in rows if since is not None}


def unmetered_before(session: Session, enterprise_id: int, end: dt.datetime) -> int:
    """How many attempts of the enterprise ran before `end` and are not metered up to it."""
    gap = find_gaps(session, [enterprise_id], end).get(enterprise_id)
    return 0 if gap is None else gap.runs


def watch_metering(session: Session, *, policy: StatementPolicy, now: dt.datetime) -> int:
    """Mark drafts of enterprises whose runs have not been metered for too long, and tell operators and finance.

    A mark goes when the records have come. Returns how many are marked.
    """
    limit = clock.floor_hour(now) - dt.timedelta(hours=policy.metering_gap_hours)
    rows = session.execute(
        sa.select(Booking.enterprise_id, sa.func.count(), sa.func.min(Attempt.metered_until_at))
        .select_from(Attempt)
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(
            Attempt.metered_whole.is_(False),
            Attempt.granted_at.is_not(None),
            Attempt.metered_until_at < limit,
            sa.or_(Attempt.until_at.is_(None), Attempt.until_at > Attempt.metered_until_at),
        )
        .group_by(Booking.enterprise_id)
    )
    gaps = {id: Gap(n, since) for id, n, since in rows if since is not None}
    marked = session.scalars(
        sa.select(Statement)
        .where(
            Statement.state.in_(COMPUTED),
            sa.or_(Statement.incomplete_since.is_not(None), Statement.enterprise_id.in_(sorted(gaps))),
        )
        .order_by(Statement.id)
        .with_for_update()
    )
    count = 0
    for statement in marked:
        gap = gaps.get(statement.enterprise_id)
        start, end = clock.month_bounds(statement.month)
        since = None if gap is None or gap.since >= end or now < start else gap.since
        if since is not None and statement.incomplete_since is None:
            note_event(
                session, statement, verb="incomplete", at=now, by=SYSTEM, why=Sentence("metering-gap-since", at=since)
            )
            for role in (Role.OPERATOR, Role.FINANCE):
                bureau_notify.send_to_role(
                    session,
                    role,
                    about=Sentence("told-metering-gap", number=statement.number, at=since),
                    link=f"/statements/{statement.id}",
                    key=f"gap:{statement.id}:{since:%Y%m%d%H}",
                    now=now,
                )
        if since is None and statement.incomplete_since is not None:
            note_event(session, statement, verb="complete", at=now, by=SYSTEM)
        statement.incomplete_since = since
        count += since is not None
    return count


def confirm_gap(session: Session, statement_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Statement:
    """Somebody of finance lets a month be closed although metering is missing: what comes later is billed later.

    Raises Refusal("nothing-missing") or Refusal("reason-needed", "reason").
    """
    require(by, Permission.STATEMENT_CONFIRM)
    statement = locked(session, statement_id)
    _, end = clock.month_bounds(statement.month)
    gap = find_gaps(session, [statement.enterprise_id], end).get(statement.enterprise_id)
    if statement.state not in COMPUTED or gap is None:
        raise Refusal(Sentence("nothing-missing"))
    note = _reason(reason)
    statement.incomplete_since, statement.gap_confirmed_by, statement.gap_confirmed_at = gap.since, by.user_id, now
    note_event(
        session, statement, verb="confirm", at=now, by=by, why=Sentence("metering-gap-since", at=gap.since), note=note
    )
    return statement


# -- review by two people


def check(session: Session, statement_id: int, *, by: Actor, now: dt.datetime) -> Statement:
    """The first person has looked at it: another one may approve. Raises Refusal("already-checked")."""
    require(by, Permission.STATEMENT_CHECK)
    statement = locked(session, statement_id)
    _must_be(statement, S.IN_REVIEW, "check")
    if statement.checked_by is not None:
        raise Refusal(Sentence("already-checked"))
    statement.checked_by, statement.checked_at = by.user_id, now
    note_event(session, statement, verb="check", at=now, by=by)
    return statement


def return_(session: Session, statement_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Statement:
    """Something is wrong: its month is open again for corrections, its subsidies are given back; the number stays."""
    require(by, Permission.STATEMENT_RETURN)
    known = session.get(Statement, statement_id)
    if known is None:
        raise NotFound
    month = session.scalars(_months([known.enterprise_id], known.month).with_for_update()).one()
    statement = locked(session, statement_id)
    note = _reason(reason)
    move_to(session, statement, S.RETURNED, verb="return", at=now, by=by, note=note)
    month.state, month.closed_at = MonthState.OPEN, None
    subsidies.give_back(session, statement.id, by=by, now=now)
    for name, value in _sums(Totals()).items():
        setattr(statement, name, value)
    statement.checked_by = statement.checked_at = statement.approved_by = None
    statement.gap_confirmed_by = statement.gap_confirmed_at = None
    session.flush()
    return statement


def approve(session: Session, statement_id: int, *, by: Actor, now: dt.datetime) -> Statement:
    """The second person: neither who checked it nor who had it computed by hand.

    Raises Refusal("not-checked-yet" | "second-person-approves").
    """
    require(by, Permission.STATEMENT_APPROVE)
    statement = locked(session, statement_id)
    _must_be(statement, S.IN_REVIEW, "approve")
    if statement.checked_by is None:
        raise Refusal(Sentence("not-checked-yet"))
    if by.user_id in (statement.checked_by, statement.closed_by):
        raise Refusal(Sentence("second-person-approves"))
    statement.approved_by = by.user_id
    move_to(session, statement, S.APPROVED, verb="approve", at=now, by=by)
    return statement


def check_all(session: Session, month: str, *, by: Actor, now: dt.datetime) -> int:
    """Check what is in review, computed by the system and without a gap, in one go; returns how many."""
    require(by, Permission.STATEMENT_CHECK)
    found = session.scalars(
        sa.select(Statement)
        .where(
            Statement.month == month,
            Statement.state == S.IN_REVIEW,
            Statement.checked_by.is_(None),
            Statement.incomplete_since.is_(None),
        )
        .order_by(Statement.id)
        .with_for_update()
    ).all()
    for statement in found:
        statement.checked_by, statement.checked_at = by.user_id, now
        note_event(session, statement, verb="check", at=now, by=by)
    return len(found)


def approve_all(session: Session, month: str, *, by: Actor, now: dt.datetime) -> int:
    """Approve what others have checked and this person had no hand in; returns how many."""
    require(by, Permission.STATEMENT_APPROVE)
    found = session.scalars(
        sa.select(Statement)
        .where(
            Statement.month == month,
            Statement.state == S.IN_REVIEW,
            Statement.checked_by != by.user_id,
            sa.func.coalesce(Statement.closed_by, 0) != by.user_id,
        )
        .order_by(Statement.id)
        .with_for_update()
    ).all()
    moves = [Move(statement.id, S.IN_REVIEW, now, values={"approved_by": by.user_id}) for statement in found]
    move_all(session, Statement, moves, (S.APPROVED, "approve"), by=by)
    for statement in found:
        session.expire(statement)
    return len(found)


# -- issuing


@dataclass(frozen=True, slots=True)
class Issuer:
    """In whose name statements are issued, and with which key they are signed."""

    bureau: content.Bureau
    signer: receipts.Signer


def issue(
    session: Session,
    statement_id: int,
    *,
    issuer: Issuer,
    policy: StatementPolicy,
    by: Actor,
    now: dt.datetime,
) -> StatementContent:
    """From here on it never changes: its content is written, chained to the enterprise's one before, and signed.

    The chain needs the hash of the one before, so both hashes are taken here, in the transaction: some hundred
    kilobytes at the most. The PDF is made afterwards, from the content alone.
    Raises Refusal("metering-incomplete") when it would be issued blind, Refusal("font-lacks") when its PDF would have
    holes, and as `move_to`.
    """
    require(by, Permission.STATEMENT_ISSUE)
    statement = locked(session, statement_id)
    _must_be(statement, S.APPROVED, "issue")
    _must_be_complete(session, statement)
    lock(session, Enterprise, statement.enterprise_id)  # one link of its chain after the other
    statement.issued_at = now
    statement.pay_until_on = clock.day_of(now) + dt.timedelta(days=policy.payment_due_days)
    statement.dispute_until_at = load_calendar(session).add(now, policy.dispute_file_working_days)
    before = session.execute(
        sa.select(StatementContent.sequence, StatementContent.sha256)
        .where(StatementContent.enterprise_id == statement.enterprise_id)
        .order_by(StatementContent.sequence.desc())
        .limit(1)
    ).one_or_none()
    sequence, previous = (1, None) if before is None else (before[0] + 1, before[1])
    lines = queries.frozen_lines(session, statement.id)
    said = content.gather(session, statement, lines, queries.totals_of(statement, lines), issuer.bureau, issued_at=now)
    count, digest = content.digest(content.records(session, statement))
    said["records"] = {"count": count, "sha256": digest}
    said["chain"] = {"sequence": sequence, "previous_sha256": previous}
    _must_be_printable(said)
    text = content.canonical(said)
    written = StatementContent(
        statement_id=statement.id,
        enterprise_id=statement.enterprise_id,
        sequence=sequence,
        previous_sha256=previous,
        sha256=content.sha256(text),
        content=text,
        signature=issuer.signer.sign(text),
        key_id=receipts.key_of(session, issuer.signer, now),
        issued_at=now,
    )
    session.add(written)
    move_to(session, statement, S.ISSUED, verb="issue", at=now, by=by)
    _tell_issued(session, statement, now)
    return written


def _must_be_complete(session: Session, statement: Statement) -> None:
    """Metering that is missing again, or was never confirmed to be missing: nothing is issued blind."""
    _, end = clock.month_bounds(statement.month)
    gap = find_gaps(session, [statement.enterprise_id], end).get(statement.enterprise_id)
    if gap is not None and statement.gap_confirmed_at is None:
        raise Refusal(Sentence("metering-incomplete", n=gap.runs, month=statement.month, since=gap.since))


def _must_be_printable(said: content.Content) -> None:
    """Names must be written as they are; a sign in a booking's title that no font knows is replaced in print."""
    try:
        letters.check_glyphs({"names": [said["bureau"], said["enterprise"], said["payer"], said["allocations"]]})
    except letters.MissingGlyphs as missing:
        raise Refusal(Sentence("font-lacks", characters=" ".join(missing.characters))) from None


def _tell_issued(session: Session, statement: Statement, now: dt.datetime) -> None:
    assert statement.dispute_until_at is not None
    told = Sentence(
        "told-issued",
        month=statement.month,
        amount=statement.amount_micro_yuan + statement.tax_micro_yuan,
        until=clock.day_of(statement.dispute_until_at),
    )
    for firm in {statement.enterprise_id, statement.sponsor_id} - {None}:
        assert firm is not None
        notify.send_to_managers(
            session, firm, about=told, link=f"/statements/{statement.id}", key=f"issued:{statement.id}", now=now
        )


def settle(session: Session, statement_id: int, *, by: Actor, now: dt.datetime) -> Statement:
    """Paid in full, or nothing to pay: what the schemes bear of it is spent.

    Raises Refusal("dispute-open") or Refusal("not-paid-in-full").
    """
    require(by, Permission.STATEMENT_SETTLE)
    statement = locked(session, statement_id)
    _must_be(statement, S.ISSUED, "settle")
    if has_open_dispute(session, statement.id):
        raise Refusal(Sentence("dispute-open"))
    payable = statement.amount_micro_yuan + statement.tax_micro_yuan
    paid = queries.paid_micro_yuan(session, statement.id)
    if paid != max(0, payable):
        raise Refusal(Sentence("not-paid-in-full", paid=paid, payable=payable))
    move_to(session, statement, S.SETTLED, verb="settle", at=now, by=by)
    subsidies.spend(session, statement.id, by=by, now=now)
    return statement


def tell_overdue(session: Session, *, now: dt.datetime) -> int:
    """Managers, and those of the sponsor, are told once of each statement that was to be paid by yesterday."""
    today = clock.day_of(now)
    late = session.scalars(
        sa.select(Statement)
        .where(
            Statement.state == S.ISSUED,
            Statement.pay_until_on < today,
            Statement.pay_until_on >= today - dt.timedelta(days=LATE_DAYS),
        )
        .order_by(Statement.id)
    ).all()
    told = 0
    for statement in late:
        left = queries.owed_micro_yuan(session, statement)
        if left <= 0:
            continue
        payer = statement.sponsor_id or statement.enterprise_id
        told += notify.send_to_managers(
            session,
            payer,
            about=Sentence("told-overdue", number=statement.number, amount=left, until=statement.pay_until_on),
            link=f"/statements/{statement.id}",
            key=f"overdue:{statement.id}",
            now=now,
        )
    return told


def has_open_dispute(session: Session, statement_id: int) -> bool:
    return bool(
        session.scalar(
            sa.select(sa.func.count()).where(Dispute.statement_id == statement_id, Dispute.state == DisputeState.OPENED)
        )
    )


def locked(session: Session, statement_id: int) -> Statement:
    """The statement FOR UPDATE. Raises NotFound."""
    statement = lock(session, Statement, statement_id)
    if statement is None:
        raise NotFound
    return statement


def _must_be(statement: Statement, state: StatementState, verb: str) -> None:
    if statement.state is not state:
        raise Refusal(Sentence("no-such-move", kind="statement", before=statement.state.value, verb=verb))


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        raise Refusal(Sentence("statement-needs-reason"), "reason")
    return reason
