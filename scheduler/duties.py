"""What the timetable does by the calendar: lapse, close, remove. Each may be done again: it finds nothing left."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, retention
from compute_portal.access import SYSTEM
from compute_portal.allocations import queries as allocation_queries
from compute_portal.allocations import service as allocations
from compute_portal.allocations import terms
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import NOT_STARTED, BookingKind, BookingState
from compute_portal.policy import BookingPolicy
from compute_portal.sentences import Sentence
from compute_portal.statements import service as statements
from compute_portal.subsidies import service as subsidies
from compute_portal.usage.models import BillingMonth, MonthState
from compute_portal.workdays.calendar import Calendar
from compute_portal.workdays.queries import load_calendar
from scheduler import metering, month_end
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase

log = logging.getLogger(__name__)


def lapse_undecided(context: Context, now: dt.datetime) -> int:
    """Bookings that nobody decided on in time give everything back. Returns how many."""
    with context.database.read_only() as session:
        waiting = session.execute(
            sa.select(Booking.id, Booking.kind, Booking.starts_at, Booking.submitted_at).where(
                Booking.state == BookingState.SUBMITTED
            )
        ).all()
        calendar = load_calendar(session) if waiting else None
    rule = context.policy.bookings
    late = [
        id
        for id, kind, starts_at, submitted_at in waiting
        if calendar is not None
        and lapses_at(submitted_at, starts_at if kind is BookingKind.FIXED else None, rule, calendar) <= now
    ]

    def work(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            bookings.lapse(session, id, by=SYSTEM, now=now)

    return _each(context, "lapse", late, work)


def lapses_at(
    submitted_at: dt.datetime, starts_at: dt.datetime | None, rule: BookingPolicy, calendar: Calendar
) -> dt.datetime:
    """Some working days after it was asked for; a fixed booking also some hours before its start."""
    undecided = calendar.same_time(submitted_at, rule.undecided_lapses_working_days)
    if starts_at is None:
        return undecided
    return min(undecided, starts_at - dt.timedelta(hours=rule.undecided_lapses_hours_before))


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


def keep_terms(context: Context, now: dt.datetime) -> int:
    """The terms of allocations: warn of half term, take slow users' hours back, remind of reports. Returns how many."""
    with context.database.read_only() as session:
        at_half_term = terms.list_at_half_term(session, now)
        to_warn = terms.list_to_warn(session, now)
        to_remind = terms.list_reports_to_remind(session, now)
    duties: tuple[tuple[str, list[int], Callable[[Session, int], object]], ...] = (
        ("depreciate", at_half_term, lambda session, id: terms.depreciate(session, id, now=now)),
        ("warn", to_warn, lambda session, id: terms.warn(session, id, now=now)),
        ("remind", to_remind, lambda session, id: terms.remind(session, id, now=now)),
    )
    done = 0
    problems: list[str] = []
    for verb, ids, duty in duties:

        def work(session: Session, some: Sequence[int], duty: Callable[[Session, int], object] = duty) -> None:
            for id in some:
                duty(session, id)

        try:
            done += _each(context, verb, ids, work)
        except PassFailed as failure:
            problems.append(str(failure))
    if problems:
        raise PassFailed("; ".join(problems))
    return done


def close_months(context: Context, now: dt.datetime) -> int:
    """Every month before this one that is still open somewhere: metered to its end, then cut. Returns how many cuts."""
    problems: list[str] = []
    try:
        metering.run(context, now)
    except PassFailed as failure:
        problems.append(str(failure))
    context.transact(lambda session: subsidies.cover_programmes(session, now=now))
    closed = 0
    for month in _months_to_close(context, now):
        with context.database.read_only() as session:
            enterprise_ids = statements.list_to_close(session, month)
        done, failed = month_end.close(context, month, enterprise_ids, now)
        closed += done
        problems += failed
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


def keep_retention(context: Context, now: dt.datetime) -> dict[str, int]:
    """Remove rows whose time is over by the policy. Returns how many of each kind."""
    removed = retention.remove(context.transact, context.policy.retention, now=now)
    log.info("retention", extra={name: rows for name, rows in removed.items() if rows})
    return removed


def _each(context: Context, verb: str, ids: Sequence[int], work: Callable[[Session, Sequence[int]], None]) -> int:
    """Each in a transaction of its own. Raises PassFailed naming what could not be done; returns how many were."""
    failed: list[str] = []
    in_batches(context, ids, work, lambda id, error: failed.append(f"{verb} {id}: {error}"), size=1)
    if failed:
        raise PassFailed("; ".join(failed))
    return len(ids)
