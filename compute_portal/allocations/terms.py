"""What the calendar does to an allocation: warn, take hours back at half term, carry a part over, remind of reports.

Run by the timetable through scheduler/duties.py; each may be done again and finds nothing left to do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM
from ..db import lock
from ..ledger import service as ledger
from ..ledger.queries import balance
from ..lifecycle import begin, move_to, note_event
from ..programmes.models import Programme
from ..programmes.rules import Rules
from ..sentences import NotFound, Sentence
from . import service
from .models import Allocation, Report
from .states import AllocationState, ReportState

WARN_DAYS_BEFORE = (30, 7)  # of hours that will be taken back
REMIND_DAYS_BEFORE = (14, 3)  # of a report; and on the day after it was due


def list_at_half_term(session: Session, now: dt.datetime) -> list[int]:
    """Active allocations whose second half has begun and whose use nobody has looked at yet."""
    return list(
        session.scalars(
            sa.select(Allocation.id)
            .where(
                Allocation.state == AllocationState.ACTIVE,
                Allocation.depreciated_at.is_(None),
                Allocation.half_term_on <= clock.day_of(now),
            )
            .order_by(Allocation.id)
        )
    )


def depreciate(session: Session, allocation_id: int, *, now: dt.datetime) -> int:
    """At half term: who used less than the rule asks gives a part of the rest back. Returns GPU-seconds taken.

    What is held for bookings, or withheld until a report, is no rest.
    """
    programme, allocation = _locked(session, allocation_id)
    rules = service.rules_of(session, allocation)
    if allocation.depreciated_at is not None or allocation.state is not AllocationState.ACTIVE:
        return 0
    allocation.depreciated_at = now
    session.flush()
    taken = to_take(session, allocation, rules)
    if taken:
        ledger.give_back(
            session, programme.id, allocation.id, taken, reference=f"allocation:{allocation.id}:half-term", at=now,
            by=SYSTEM,
        )  # fmt: skip
        note_event(
            session, allocation, verb="depreciate", at=now, by=SYSTEM,
            why=Sentence("depreciated-hours", hours=taken, percent=rules.slow_percent),
        )  # fmt: skip
        service.tell_managers(
            session, allocation, Sentence("told-depreciated", number=allocation.id, hours=taken),
            key=f"allocation-{allocation.id}-depreciated", now=now,
        )  # fmt: skip
    return taken


def to_take(session: Session, allocation: Allocation, rules: Rules) -> int:
    """GPU-seconds that would go back if today were half term; 0 when enough is used."""
    if rules.slow_percent == 0 or rules.kept_percent >= 100:
        return 0
    now = balance(session, allocation.id)
    return rules.taken_at_half_term(now.used, now.awarded, now.available)


def _locked(session: Session, allocation_id: int) -> tuple[Programme, Allocation]:
    seen = session.get(Allocation, allocation_id)
    if seen is None:
        raise NotFound
    programme = lock(session, Programme, seen.programme_id)
    allocation = lock(session, Allocation, allocation_id)
    if programme is None or allocation is None:
        raise NotFound
    return programme, allocation


def list_to_warn(session: Session, now: dt.datetime) -> list[int]:
    """Active allocations whose half term is at most 30 days away."""
    today = clock.day_of(now)
    return list(
        session.scalars(
            sa.select(Allocation.id)
            .where(
                Allocation.state == AllocationState.ACTIVE,
                Allocation.depreciated_at.is_(None),
                Allocation.half_term_on > today,
                Allocation.half_term_on <= today + dt.timedelta(days=max(WARN_DAYS_BEFORE)),
            )
            .order_by(Allocation.id)
        )
    )


def warn(session: Session, allocation_id: int, *, now: dt.datetime) -> None:
    """30 and 7 days before half term, once each: so many hours go back unless more is used."""
    allocation = session.get(Allocation, allocation_id)
    if allocation is None or allocation.half_term_on is None:
        return
    taken = to_take(session, allocation, service.rules_of(session, allocation))
    days = step_of(WARN_DAYS_BEFORE, (allocation.half_term_on - clock.day_of(now)).days)
    if taken and days is not None:
        service.tell_managers(
            session, allocation,
            Sentence("told-slow", number=allocation.id, hours=taken, day=allocation.half_term_on),
            key=f"allocation-{allocation.id}-slow-{days}", now=now,
        )  # fmt: skip


def step_of(steps: Sequence[int], days_left: int) -> int | None:
    """The step of a ladder that stands now: with 12 days left of (30, 7) it is 30, with 5 it is 7."""
    return min((step for step in steps if days_left <= step), default=None)


# -- the end ----------------------------------------------------------------------------------------------------------


def carry_over(session: Session, allocation: Allocation, *, now: dt.datetime) -> Allocation | None:
    """When an allocation is closed: a part of what is unused goes on as an allocation of its own, once.

    The rows are locked, programme first. None where the rules, the programme's end or an empty rest leave nothing.
    """
    rules = service.rules_of(session, allocation)
    if rules.carry_over_percent == 0 or allocation.carried_from_id is not None:
        return None
    programme = session.get_one(Programme, allocation.programme_id)
    first = clock.day_of(now)
    last = min(first + dt.timedelta(days=rules.carry_over_days - 1), programme.ends_on)
    hours = rules.carried_over(balance(session, allocation.id).available)
    if hours == 0 or last < first:
        return None
    ledger.give_back(
        session, programme.id, allocation.id, hours, reference=f"allocation:{allocation.id}:carry-over", at=now,
        by=SYSTEM,
    )  # fmt: skip
    carried = Allocation(
        programme_id=programme.id,
        pool_id=allocation.pool_id,
        enterprise_id=allocation.enterprise_id,
        state=AllocationState.SUBMITTED,
        purpose=allocation.purpose,
        requested_by=allocation.requested_by,
        requested_at=now,
        requested_gpu_seconds=hours,
        starts_on=first,
        ends_on=last,
        due_at=now,
        awarded_gpu_seconds=hours,
        decided_at=now,
        shares=allocation.shares,
        track=allocation.track,
        version_id=allocation.version_id,
        price_micro_yuan=allocation.price_micro_yuan,
        subsidy_percent=allocation.subsidy_percent,
        carried_from_id=allocation.id,
        longest_run_seconds=allocation.longest_run_seconds,
    )
    session.add(carried)
    why = Sentence("carried-over", number=allocation.id, percent=rules.carry_over_percent)
    begin(session, carried, verb="carry-over", at=now, by=SYSTEM, why=why)
    move_to(session, carried, AllocationState.ACTIVE, verb="carry-over", at=now, by=SYSTEM, why=why)
    ledger.award(session, programme.id, carried.id, hours, at=now, by=SYSTEM)
    return carried


# -- reports ----------------------------------------------------------------------------------------------------------


def list_reports_to_remind(session: Session, now: dt.datetime) -> list[int]:
    today = clock.day_of(now)
    return list(
        session.scalars(
            sa.select(Report.id)
            .where(
                Report.state.in_((ReportState.DUE, ReportState.RETURNED)),
                Report.due_on <= today + dt.timedelta(days=max(REMIND_DAYS_BEFORE)),
            )
            .order_by(Report.id)
        )
    )


def remind(session: Session, report_id: int, *, now: dt.datetime) -> None:
    """14 and 3 days before a report is due, and when it is overdue: once each."""
    report = session.get(Report, report_id)
    if report is None:
        return
    allocation = session.get_one(Allocation, report.allocation_id)
    days_left = (report.due_on - clock.day_of(now)).days
    link = f"/reports/{report.id}"
    if days_left < 0:
        about, step = Sentence(f"told-{report.kind.value}-overdue", number=allocation.id, day=report.due_on), "overdue"
    else:
        about = Sentence("told-report-due", number=allocation.id, day=report.due_on)
        step = str(step_of(REMIND_DAYS_BEFORE, days_left))
    service.tell_managers(session, allocation, about, key=f"report-{report.id}-{step}", now=now, link=link)
