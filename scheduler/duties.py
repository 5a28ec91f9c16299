"""What the timetable does by the calendar: lapse, close, tidy up. Each may be done again: it finds nothing left."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.allocations import queries as allocation_queries
from compute_portal.allocations import service as allocations
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import NOT_STARTED, BookingKind, BookingState
from compute_portal.desk.models import TimetableRun
from compute_portal.policy import BookingPolicy
from compute_portal.sentences import Sentence
from compute_portal.signin.models import FormKey, SignInTry, UserSession
from compute_portal.statements import service as statements
from compute_portal.usage.models import BillingMonth, MonthState
from scheduler import metering
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase

log = logging.getLogger(__name__)
KEEP_FORM_KEYS = dt.timedelta(days=7)
KEEP_TRIES = dt.timedelta(days=2)
KEEP_SESSIONS = dt.timedelta(days=30)  # after their end
KEEP_RUNS = dt.timedelta(days=30)
FRIDAY = 4


def lapse_undecided(context: Context, now: dt.datetime) -> int:
    """Bookings that nobody decided on in time give everything back. Returns how many."""
    with context.database.read_only() as session:
        waiting = session.execute(
            sa.select(Booking.id, Booking.kind, Booking.starts_at, Booking.submitted_at).where(
                Booking.state == BookingState.SUBMITTED
            )
        ).all()
    rule = context.policy.bookings
    late = [
        id
        for id, kind, starts_at, submitted_at in waiting
        if lapses_at(submitted_at, starts_at if kind is BookingKind.FIXED else None, rule) <= now
    ]

    def work(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            bookings.lapse(session, id, by=SYSTEM, now=now)

    return _each(context, "lapse", late, work)


def lapses_at(submitted_at: dt.datetime, starts_at: dt.datetime | None, rule: BookingPolicy) -> dt.datetime:
    """Some working days after it was asked for; a fixed booking also some hours before its start."""
    undecided = after_working_days(submitted_at, rule.undecided_lapses_working_days)
    if starts_at is None:
        return undecided
    return min(undecided, starts_at - dt.timedelta(hours=rule.undecided_lapses_hours_before))


def after_working_days(instant: dt.datetime, days: int) -> dt.datetime:
    """The same time of day, so many working days (Monday to Friday) later.

    What comes at a weekend counts from the beginning of Monday.
    """
    local = instant.astimezone(clock.SHANGHAI)
    if local.weekday() > FRIDAY:
        local = dt.datetime.combine(local.date() + dt.timedelta(days=7 - local.weekday()), dt.time(), clock.SHANGHAI)
    while days > 0:
        local += dt.timedelta(days=1)
        days -= local.weekday() <= FRIDAY
    return local.astimezone(dt.UTC)


def close_allocations(context: Context, now: dt.datetime) -> int:
    """Allocations whose last day is over: what still waits on them is cancelled, what is left expires."""
    failed: set[int] = set()
    closed = 0
    while True:
        with context.database.read_only() as session:
            ids = [id for id in allocation_queries.list_ended(session, now) if id not in failed]
        if not ids:
            break
        for id in ids:
            _cancel_waiting(context, id, now)

        def work(session: Session, some: Sequence[int]) -> None:
            for id in some:
                allocations.close(session, id, by=SYSTEM, now=now)

        with phase("close-allocations"):
            left = in_batches(context, ids, work, lambda id, _error: failed.add(id))
        closed += len(ids) - left
    if failed:
        raise PassFailed(f"allocations not closed: {sorted(failed)}")
    return closed


def _cancel_waiting(context: Context, allocation_id: int, now: dt.datetime) -> None:
    with context.database.read_only() as session:
        last_day = session.get_one(Allocation, allocation_id).ends_on
        waiting = list(
            session.scalars(
                sa.select(Booking.id)
                .where(Booking.allocation_id == allocation_id, Booking.state.in_(NOT_STARTED))
                .order_by(Booking.id)
            )
        )
    why = Sentence("allocation-ended", last=last_day)

    def work(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            bookings.cancel(session, id, by=SYSTEM, now=now, why=why)

    _each(context, "cancel", waiting, work)


def close_months(context: Context, now: dt.datetime) -> int:
    """Every month before this one that is still open somewhere: metered to its end, then cut. Returns how many cuts."""
    problems: list[str] = []
    try:
        metering.run(context, now)
    except PassFailed as failure:
        problems.append(str(failure))
    closed = 0
    for month in _months_to_close(context, now):
        with context.database.read_only() as session:
            enterprise_ids = statements.list_to_close(session, month)
        for enterprise_id in enterprise_ids:
            error = _close_month(context, enterprise_id, month, now)
            if error is None:
                closed += 1
            else:
                problems.append(f"{month} of enterprise {enterprise_id}: {error}")
    if problems:
        raise PassFailed("; ".join(problems))
    return closed


def _months_to_close(context: Context, now: dt.datetime) -> list[str]:
    this = clock.month_of(now)
    with context.database.read_only() as session:
        months = session.scalars(
            sa.select(BillingMonth.month)
            .where(BillingMonth.state == MonthState.OPEN, BillingMonth.month < this)
            .distinct()
            .order_by(BillingMonth.month)
        )
        return list(months)


def _close_month(context: Context, enterprise_id: int, month: str, now: dt.datetime) -> str | None:
    errors: list[str] = []

    def work(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            statements.close_month(session, id, month, policy=context.policy.statements, by=SYSTEM, now=now)

    with phase("close-month"):
        in_batches(context, [enterprise_id], work, lambda _id, error: errors.append(str(error)))
    return errors[0] if errors else None


def tidy_up(context: Context, now: dt.datetime) -> None:
    """Rows that only mattered for a while: form keys, wrong passwords, ended sessions, old runs."""
    old = [
        sa.delete(FormKey).where(FormKey.at < now - KEEP_FORM_KEYS),
        sa.delete(SignInTry).where(SignInTry.at < now - KEEP_TRIES),
        sa.delete(UserSession).where(
            sa.or_(UserSession.ended_at < now - KEEP_SESSIONS, UserSession.expires_at < now - KEEP_SESSIONS)
        ),
        sa.delete(TimetableRun).where(TimetableRun.due_at < now - KEEP_RUNS),
    ]
    for statement in old:
        _execute(context, statement)


def _execute(context: Context, statement: sa.Delete) -> None:
    context.transact(lambda session: session.execute(statement, execution_options={"synchronize_session": False}))


def _each(context: Context, verb: str, ids: Sequence[int], work: Callable[[Session, Sequence[int]], None]) -> int:
    """Each in a transaction of its own. Raises PassFailed naming what could not be done; returns how many were."""
    failed: list[str] = []
    in_batches(context, ids, work, lambda id, error: failed.append(f"{verb} {id}: {error}"), size=1)
    if failed:
        raise PassFailed("; ".join(failed))
    return len(ids)
