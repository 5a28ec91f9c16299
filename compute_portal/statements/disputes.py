"""An enterprise disputes a line; finance answers by a deadline. Until then that line alone need not be paid.

What is upheld is given back as a credit in the month that is open: the issued statement stays as it is.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, Role, require
from ..db import lock
from ..enterprises import notify
from ..lifecycle import begin, move_to, note_event
from ..policy import StatementPolicy
from ..sentences import NotFound, Refusal, Sentence
from ..signin import notify as bureau_notify
from ..usage import service as usage
from ..usage.models import Charge, ChargeKind
from ..workdays.queries import load_calendar
from . import queries
from .models import Dispute, Statement, StatementLine
from .queries import Line
from .service import locked
from .states import FINAL, DisputeState

D = DisputeState
OUTCOMES = (D.UPHELD, D.PARTLY, D.REJECTED)


def open_dispute(
    session: Session, line_id: int, *, reason: str, policy: StatementPolicy, by: Actor, now: dt.datetime
) -> Dispute:
    """A manager of the enterprise, or of the sponsor who pays, says why the line is wrong.

    Raises NotFound, or Refusal("dispute-too-early" | "dispute-too-late" | "dispute-already-open"), or
    Refusal("statement-needs-reason", "reason").
    """
    require(by, Permission.DISPUTE_OPEN)
    line = session.get(StatementLine, line_id)
    if line is None:
        raise NotFound
    queries.get_sheet(session, line.statement_id, by)
    statement = locked(session, line.statement_id)
    if line.closing != statement.closing:
        raise NotFound
    if statement.state not in FINAL or statement.dispute_until_at is None:
        raise Refusal(Sentence("dispute-too-early"))
    if now > statement.dispute_until_at:
        raise Refusal(Sentence("dispute-too-late", until=statement.dispute_until_at))
    known = session.scalar(
        sa.select(Dispute.id).where(Dispute.line_id == line.id, Dispute.state != D.WITHDRAWN).limit(1)
    )
    if known is not None:
        raise Refusal(Sentence("dispute-already-open", number=known))
    if not reason.strip():
        raise Refusal(Sentence("statement-needs-reason"), "reason")
    dispute = Dispute(
        statement_id=statement.id,
        line_id=line.id,
        enterprise_id=statement.enterprise_id,
        state=D.OPENED,
        reason=reason.strip(),
        opened_by=by.user_id,
        opened_at=now,
        due_at=load_calendar(session).add(now, policy.dispute_answer_working_days),
    )
    session.add(dispute)
    begin(session, dispute, verb="open", at=now, by=by)
    note_event(
        session, statement, verb="dispute", at=now, by=by, why=Sentence("dispute-of-line", position=line.position)
    )
    bureau_notify.send_to_role(
        session,
        Role.FINANCE,
        about=Sentence("told-disputed", number=statement.number, position=line.position, until=dispute.due_at),
        link=f"/disputes/{dispute.id}",
        key=f"dispute:{dispute.id}:opened",
        now=now,
    )
    return dispute


def withdraw(session: Session, dispute_id: int, *, by: Actor, now: dt.datetime) -> Dispute:
    """The enterprise takes it back. Raises NotFound."""
    require(by, Permission.DISPUTE_WITHDRAW)
    dispute = _locked(session, dispute_id)
    queries.get_sheet(session, dispute.statement_id, by)
    move_to(session, dispute, D.WITHDRAWN, verb="withdraw", at=now, by=by)
    return dispute


def answer(
    session: Session,
    dispute_id: int,
    outcome: DisputeState,
    *,
    text: str,
    gpu_seconds: int | None = None,
    by: Actor,
    now: dt.datetime,
) -> Dispute:
    """Upheld gives all of the line's hours back, partly `gpu_seconds` of them, rejected none.

    Raises Refusal("statement-needs-reason", "text"), Refusal("partly-needs-hours", "hours") and
    Refusal("credit-cannot-be-credited") for a line that is itself a credit.
    """
    require(by, Permission.DISPUTE_ANSWER)
    dispute = session.get(Dispute, dispute_id)
    if dispute is None:
        raise NotFound
    if not text.strip():
        raise Refusal(Sentence("statement-needs-reason"), "text")
    statement = session.get_one(Statement, dispute.statement_id)
    line = session.get_one(StatementLine, dispute.line_id)
    if outcome is not D.REJECTED:
        # Its locks (billing month, allocation, booking) come before the row of the dispute.
        dispute.credited_gpu_seconds = _credit(session, dispute, statement, line, outcome, gpu_seconds, by, now)
    dispute.answer, dispute.answered_by, dispute.answered_at = text.strip(), by.user_id, now
    verb = {D.UPHELD: "uphold", D.PARTLY: "partly", D.REJECTED: "reject"}[outcome]
    why = Sentence("dispute-credited", hours=dispute.credited_gpu_seconds) if outcome is not D.REJECTED else None
    move_to(session, dispute, outcome, verb=verb, at=now, by=by, why=why)
    told = Sentence(f"told-dispute-{verb}", number=statement.number, position=line.position)
    for firm in {statement.enterprise_id, statement.sponsor_id} - {None}:
        assert firm is not None
        notify.send_to_managers(
            session, firm, about=told, link=f"/disputes/{dispute.id}", key=f"dispute:{dispute.id}:answered", now=now
        )
    return dispute


def _credit(
    session: Session,
    dispute: Dispute,
    statement: Statement,
    line: StatementLine,
    outcome: DisputeState,
    gpu_seconds: int | None,
    by: Actor,
    now: dt.datetime,
) -> int:
    if line.gpu_seconds <= 0:
        raise Refusal(Sentence("credit-cannot-be-credited"))
    ids = charge_ids(session, statement, line)
    left = sum(usage.left_of(session, ids).values())
    amount = left if outcome is D.UPHELD else gpu_seconds or 0
    if outcome is D.PARTLY and not 0 < amount < line.gpu_seconds:
        raise Refusal(Sentence("partly-needs-hours", most=line.gpu_seconds), "hours")
    if amount == 0 or amount > left:
        raise Refusal(Sentence("dispute-nothing-left", left=left), "hours")
    usage.credit_from(
        session,
        ids,
        amount,
        kind=ChargeKind.CORRECTION,
        reference=f"dispute:{dispute.id}",
        why=Sentence("credit-by-dispute", number=statement.number, position=line.position),
        by=by,
        now=now,
    )
    return amount


def charge_ids(session: Session, statement: Statement, line: StatementLine | Line) -> list[int]:
    """The charges that the line adds up."""
    return list(session.scalars(sa.select(Charge.id).where(*queries.charges_of(statement, line)).order_by(Charge.id)))


def tell_late(session: Session, *, now: dt.datetime) -> int:
    """Finance is told once of each dispute that was to be answered by now; returns how many."""
    late = session.scalars(
        sa.select(Dispute)
        .where(Dispute.state == D.OPENED, Dispute.due_at < now, Dispute.late_told_at.is_(None))
        .order_by(Dispute.id)
        .with_for_update()
    ).all()
    for dispute in late:
        dispute.late_told_at = now
        bureau_notify.send_to_role(
            session,
            Role.FINANCE,
            about=Sentence("told-dispute-late", number=dispute.id, until=dispute.due_at),
            link=f"/disputes/{dispute.id}",
            key=f"dispute:{dispute.id}:late",
            now=now,
        )
    return len(late)


def _locked(session: Session, dispute_id: int) -> Dispute:
    dispute = lock(session, Dispute, dispute_id)
    if dispute is None:
        raise NotFound
    return dispute
