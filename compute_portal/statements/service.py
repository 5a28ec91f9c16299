"""An enterprise's month as a statement: a draft from the first charge on, closed on the first of the next month.

Owns: which charges make which line, and the freezing. Does not own: charges (usage), hours (ledger).
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..access import Actor
from ..bookings.models import Attempt, Booking
from ..enterprises.models import Enterprise
from ..lifecycle import begin, move_to
from ..policy import StatementPolicy
from ..sentences import Refusal, Sentence
from ..usage.models import BillingMonth, Charge, MonthState
from ..usage.service import ensure_month
from .models import Statement, StatementLine
from .queries import draft_lines
from .states import StatementState


def open_draft(
    session: Session, enterprise_id: int, month: str, *, policy: StatementPolicy, by: Actor, now: dt.datetime
) -> Statement:
    """The month's statement, created as a draft when there is none yet."""
    ensure_month(session, enterprise_id, month)
    # The month's row is the lock: two passes that open the same draft meet here.
    session.execute(_month(enterprise_id, month).with_for_update())
    statement = session.scalar(
        sa.select(Statement).where(Statement.enterprise_id == enterprise_id, Statement.month == month)
    )
    if statement is None:
        statement = Statement(
            number=f"S-{month.replace('-', '')}-{enterprise_id:05}",
            enterprise_id=enterprise_id,
            sponsor_id=_sponsor_of(session, enterprise_id),
            month=month,
            state=StatementState.DRAFT,
            opened_at=now,
            rule_version=policy.rule_version,
            tax_permille=policy.tax_permille,
        )
        session.add(statement)
        begin(session, statement, verb="open", at=now, by=by)
    return statement


def close_month(
    session: Session, enterprise_id: int, month: str, *, policy: StatementPolicy, by: Actor, now: dt.datetime
) -> Statement:
    """Cut the month: no later charge falls into it; the lines are frozen and the statement goes to review.

    Closing twice changes nothing. Raises Refusal("month-not-over") or Refusal("metering-incomplete").
    """
    _, end = clock.month_bounds(month)
    if now < end:
        raise Refusal(Sentence("month-not-over", month=month))
    statement = open_draft(session, enterprise_id, month, policy=policy, by=by, now=now)
    if statement.state is not StatementState.DRAFT:
        return statement
    late = unmetered_before(session, enterprise_id, end)
    if late:
        raise Refusal(Sentence("metering-incomplete", n=late, month=month))
    billing_month = session.scalars(_month(enterprise_id, month)).one()
    billing_month.state, billing_month.closed_at = MonthState.CLOSED, now
    lines = draft_lines(session, enterprise_id, month)
    for line in lines:
        session.add(
            StatementLine(
                statement_id=statement.id,
                booking_id=line.booking_id,
                tariff_id=line.tariff_id,
                adjustment=line.adjustment,
                gpu_seconds=line.gpu_seconds,
                price_micro_yuan=line.price_micro_yuan,
                amount_micro_yuan=line.amount_micro_yuan,
            )
        )
    statement.rule_version, statement.tax_permille = policy.rule_version, policy.tax_permille
    statement.sponsor_id = _sponsor_of(session, enterprise_id)
    statement.closed_at = now
    statement.gpu_seconds = sum(line.gpu_seconds for line in lines)
    statement.amount_micro_yuan = sum(line.amount_micro_yuan for line in lines)
    statement.tax_micro_yuan = units.tax_micro_yuan(statement.amount_micro_yuan, statement.tax_permille)
    session.flush()
    move_to(
        session,
        statement,
        StatementState.IN_REVIEW,
        verb="close",
        at=now,
        by=by,
        why=Sentence("closed-lines", n=len(lines), amount=statement.amount_micro_yuan),
    )
    return statement


def _sponsor_of(session: Session, enterprise_id: int) -> int | None:
    """Who has taken the team on and pays for it."""
    return session.scalar(
        sa.select(Enterprise.sponsor_id).where(
            Enterprise.id == enterprise_id, Enterprise.sponsor_confirmed_at.is_not(None)
        )
    )


def unmetered_before(session: Session, enterprise_id: int, end: dt.datetime) -> int:
    """Attempts of the enterprise that ran before `end` and are not metered up to it."""
    return (
        session.scalar(
            sa.select(sa.func.count())
            .select_from(Attempt)
            .join(Booking, Booking.id == Attempt.booking_id)
            .where(
                Booking.enterprise_id == enterprise_id,
                Attempt.metered_whole.is_(False),
                Attempt.granted_at < end,
                Attempt.metered_until_at < end,
            )
        )
        or 0
    )


def list_to_close(session: Session, month: str) -> list[int]:
    """Enterprises with charges billed in the month, or with a draft for it, that is still open."""
    billed = sa.select(Charge.enterprise_id).where(Charge.billed_in == month)
    drafts = sa.select(Statement.enterprise_id).where(Statement.month == month, Statement.state == StatementState.DRAFT)
    closed = sa.select(BillingMonth.enterprise_id).where(
        BillingMonth.month == month, BillingMonth.state == MonthState.CLOSED
    )
    found = sa.union(billed, drafts).subquery()
    return list(
        session.scalars(
            sa.select(found.c.enterprise_id).where(found.c.enterprise_id.not_in(closed)).order_by(found.c.enterprise_id)
        )
    )


def _month(enterprise_id: int, month: str) -> sa.Select[BillingMonth]:
    return sa.select(BillingMonth).where(BillingMonth.enterprise_id == enterprise_id, BillingMonth.month == month)
