"""Decide on requests, give GPU-hours, take back what is left at the end.

Owns: the allocation's life. Does not own: how a request is written (requests), its steps (review), the hours (ledger).
What is asked by the form has steps, and the last one calls `award` or `turn_down`. `approve` and `decline` decide what
`request` asked without steps, for seeds and simulations; no page leads there.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, must_see, require
from ..db import lock
from ..enterprises import notify
from ..enterprises.models import Enterprise
from ..enterprises.states import EnterpriseState
from ..ledger import service as ledger
from ..lifecycle import begin, move_to
from ..programmes import service as programmes
from ..programmes.models import Programme, ProgrammeVersion
from ..programmes.rules import Rules, Track
from ..sentences import NotFound, Refusal, Sentence
from . import conflicts, review, terms
from .models import Allocation, Report
from .review_models import RequestStep
from .states import LIFE, WAITING, AllocationState, ReportKind, ReportState

UPHOLD = "uphold"  # the verb of an appeal that is decided for the applicant


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    programme_id: int
    pool_id: int
    gpu_seconds: int
    starts_on: dt.date
    ends_on: dt.date
    purpose: str


def request(session: Session, asked: AllocationRequest, *, by: Actor, now: dt.datetime, shares: int = 1) -> Allocation:
    """Ask for GPU-hours in one go, without the form: it waits for an operator's `approve`. See `requests.submit`.

    Raises Refusal at `programme_id`, `hours`, `starts_on` or `ends_on`.
    """
    require(by, Permission.ALLOCATION_REQUEST)
    enterprise = session.get(Enterprise, by.enterprise_id) if by.enterprise_id else None
    if enterprise is None:
        raise NotFound
    if enterprise.state is not EnterpriseState.VERIFIED:
        raise Refusal(Sentence("enterprise-not-verified"))
    programme = session.get(Programme, asked.programme_id)
    if programme is None or not programmes.offers(session, asked.programme_id, asked.pool_id):
        raise Refusal(Sentence("programme-has-no-such-pool"), "programme_id")
    _check_period(programme, asked, clock.day_of(now))
    if asked.gpu_seconds > programme.most_gpu_seconds:
        raise Refusal(
            Sentence("programme-gives-at-most", most=programme.most_gpu_seconds, asked=asked.gpu_seconds), "hours"
        )
    version = programmes.newest_version(session, programme.id)
    rules = Rules.from_json(version.rules)
    track = rules.track_for(asked.gpu_seconds, (asked.ends_on - asked.starts_on).days + 1) or rules.largest
    allocation = Allocation(
        programme_id=programme.id,
        pool_id=asked.pool_id,
        enterprise_id=enterprise.id,
        state=AllocationState.SUBMITTED,
        purpose=asked.purpose,
        requested_by=by.user_id,
        requested_at=now,
        requested_gpu_seconds=asked.gpu_seconds,
        starts_on=asked.starts_on,
        ends_on=asked.ends_on,
        due_at=now + dt.timedelta(days=programme.decision_days),
        shares=shares,
        track=track.key,
        version_id=version.id,
        subsidy_percent=rules.subsidy(enterprise.size_class.value),
    )
    session.add(allocation)
    begin(session, allocation, verb="request", at=now, by=by, why=Sentence("asked-hours", hours=asked.gpu_seconds))
    return allocation


def _check_period(programme: Programme, asked: AllocationRequest, today: dt.date) -> None:
    if asked.starts_on < max(today, programme.starts_on):
        raise Refusal(Sentence("starts-too-early", first=max(today, programme.starts_on)), "starts_on")
    if asked.ends_on < asked.starts_on:
        raise Refusal(Sentence("end-day-before-start", start=asked.starts_on), "ends_on")
    if asked.ends_on > programme.ends_on:
        raise Refusal(Sentence("programme-ends", last=programme.ends_on), "ends_on")


def _to_decide(session: Session, allocation_id: int, permission: Permission, by: Actor) -> Allocation:
    """The request, locked in the order programme → allocation, if this person may decide on it."""
    require(by, permission)
    allocation = must_see(session.get(Allocation, allocation_id), by)
    lock(session, Programme, allocation.programme_id)
    fresh = lock(session, Allocation, allocation_id)
    if fresh is None:
        raise NotFound
    if by.user_id is not None and by.user_id == fresh.requested_by:
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, fresh, by)
    if session.scalar(sa.select(RequestStep.id).where(RequestStep.allocation_id == allocation_id).limit(1)) is not None:
        raise Refusal(Sentence("decided-by-steps"))
    if track_of(session, fresh).deciders > 1:
        raise Refusal(Sentence("two-decide"))
    return fresh


def approve(
    session: Session, allocation_id: int, *, awarded_gpu_seconds: int, reason: str, by: Actor, now: dt.datetime
) -> Allocation:
    """Award the whole or a part; less than asked needs a reason that the enterprise reads.

    Raises Refusal at `awarded_hours` or `reason`.
    """
    allocation = _to_decide(session, allocation_id, Permission.ALLOCATION_APPROVE, by)
    return award(session, allocation, awarded_gpu_seconds, reason=reason, by=by, now=now)


def rules_of(session: Session, allocation: Allocation) -> Rules:
    """The version of the rules that the request was made under; of an old one without any, today's."""
    if allocation.version_id is None:
        return Rules.from_json(programmes.newest_version(session, allocation.programme_id).rules)
    return Rules.from_json(session.get_one(ProgrammeVersion, allocation.version_id).rules)


def track_of(session: Session, allocation: Allocation) -> Track:
    return rules_of(session, allocation).track(allocation.track)


def award(
    session: Session,
    allocation: Allocation,
    awarded_gpu_seconds: int,
    *,
    reason: str,
    by: Actor,
    now: dt.datetime,
    verb: str = "approve",
    reason_code: str | None = None,
    policy_version_id: int | None = None,
) -> Allocation:
    """Give the hours: the decision on a request whose row is locked, after its programme's. What the track withholds
    waits for the progress report; reports get their due dates.

    Raises Refusal at `awarded_hours` or `reason`.
    """
    if by.user_id is not None and by.user_id == allocation.requested_by:
        raise Refusal(Sentence("not-your-own"))
    if allocation.state not in WAITING and verb != UPHOLD:  # only an appeal gives what was declined
        raise Refusal(Sentence("no-such-move", kind=LIFE.kind, before=allocation.state.value, verb=verb))
    if not 0 < awarded_gpu_seconds <= allocation.requested_gpu_seconds:
        raise Refusal(Sentence("award-more-than-asked", asked=allocation.requested_gpu_seconds), "awarded_hours")
    if awarded_gpu_seconds < allocation.requested_gpu_seconds and not reason.strip():
        raise Refusal(Sentence("award-less-needs-reason"), "reason")
    if allocation.ends_on < clock.day_of(now):
        raise Refusal(Sentence("period-is-over", last=allocation.ends_on))
    move_to(
        session,
        allocation,
        AllocationState.ACTIVE,
        verb=verb,
        at=now,
        by=by,
        why=Sentence("awarded-hours", hours=awarded_gpu_seconds, asked=allocation.requested_gpu_seconds),
        note=reason.strip() or None,
    )
    rules = rules_of(session, allocation)
    track = rules.track(allocation.track)
    allocation.awarded_gpu_seconds = awarded_gpu_seconds
    allocation.longest_run_seconds = None if track.longest_run_hours is None else track.longest_run_hours * 3600
    allocation.half_term_on = half_term(allocation.starts_on, allocation.ends_on)
    _decided(session, allocation, reason, by, now, reason_code, policy_version_id)
    session.flush()
    withheld = awarded_gpu_seconds * (100 - track.released_percent) // 100
    ledger.award(session, allocation.programme_id, allocation.id, awarded_gpu_seconds, withheld=withheld, at=now, by=by)
    _ask_for_reports(session, allocation, rules, withheld, by=by, now=now)
    tell_managers(
        session,
        allocation,
        Sentence(
            "told-awarded", number=allocation.id, hours=awarded_gpu_seconds, asked=allocation.requested_gpu_seconds
        ),
        key=f"allocation-{allocation.id}-awarded",
        now=now,
    )
    return allocation


def withheld_of(session: Session, allocation: Allocation, more: int) -> int:
    """The part of hours added later that waits for the progress report: as of the award, unless that is accepted."""
    open_report = sa.select(Report.id).where(
        Report.allocation_id == allocation.id,
        Report.kind == ReportKind.PROGRESS,
        Report.state != ReportState.ACCEPTED,
    )
    if session.scalar(open_report) is None:
        return 0
    return more * (100 - track_of(session, allocation).released_percent) // 100


def half_term(starts_on: dt.date, ends_on: dt.date) -> dt.date:
    """The first day of the second half."""
    return starts_on + dt.timedelta(days=((ends_on - starts_on).days + 1) // 2)


def _ask_for_reports(
    session: Session, allocation: Allocation, rules: Rules, withheld: int, *, by: Actor, now: dt.datetime
) -> None:
    days = (allocation.ends_on - allocation.starts_on).days + 1
    if withheld or rules.progress_report_percent is not None:
        after = days * (rules.progress_report_percent or 50) // 100
        due = allocation.starts_on + dt.timedelta(days=min(after, days - 1))
        ask_for_report(session, allocation, ReportKind.PROGRESS, due, by=by, now=now)
    if rules.final_report_days is not None:
        due = allocation.ends_on + dt.timedelta(days=rules.final_report_days)
        ask_for_report(session, allocation, ReportKind.FINAL, due, by=by, now=now)


def ask_for_report(
    session: Session, allocation: Allocation, kind: ReportKind, due_on: dt.date, *, by: Actor, now: dt.datetime
) -> Report:
    report = Report(
        allocation_id=allocation.id,
        enterprise_id=allocation.enterprise_id,
        kind=kind,
        state=ReportState.DUE,
        due_on=due_on,
    )
    session.add(report)
    begin(session, report, verb="ask", at=now, by=by, why=Sentence("report-due", day=due_on))
    return report


def decline(session: Session, allocation_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Allocation:
    allocation = _to_decide(session, allocation_id, Permission.ALLOCATION_DECLINE, by)
    return turn_down(session, allocation, reason=reason, by=by, now=now)


def turn_down(
    session: Session,
    allocation: Allocation,
    *,
    reason: str,
    by: Actor,
    now: dt.datetime,
    reason_code: str | None = None,
    policy_version_id: int | None = None,
) -> Allocation:
    """Decline a request whose row is locked. Raises Refusal at `reason`, which the enterprise reads."""
    if by.user_id is not None and by.user_id == allocation.requested_by:
        raise Refusal(Sentence("not-your-own"))
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    move_to(session, allocation, AllocationState.DECLINED, verb="decline", at=now, by=by, note=reason.strip())
    _decided(session, allocation, reason, by, now, reason_code, policy_version_id)
    session.flush()
    tell_managers(
        session,
        allocation,
        Sentence("told-declined", number=allocation.id),
        key=f"allocation-{allocation.id}-declined",
        now=now,
    )
    return allocation


def ask_changes(session: Session, allocation: Allocation, *, reason: str, by: Actor, now: dt.datetime) -> Allocation:
    """Something is missing: the enterprise has the ball, the clock of the open step stops. The row is locked.

    Raises Refusal at `reason`, which says what is missing.
    """
    if by.user_id is not None and by.user_id == allocation.requested_by:
        raise Refusal(Sentence("not-your-own"))
    if not reason.strip():
        raise Refusal(Sentence("changes-need-reason"), "reason")
    move_to(
        session, allocation, AllocationState.CHANGES_REQUESTED, verb="ask-changes", at=now, by=by, note=reason.strip()
    )
    review.pause(session, allocation, now=now)
    tell_managers(
        session, allocation, Sentence("told-changes", number=allocation.id),
        key=f"allocation-{allocation.id}-changes-{now.isoformat()}", now=now,
    )  # fmt: skip
    return allocation


def tell_managers(
    session: Session, allocation: Allocation, about: Sentence, *, key: str, now: dt.datetime, link: str | None = None
) -> None:
    """Once for each `key`, whatever restarts."""
    notify.send_to_managers(
        session, allocation.enterprise_id, about=about, link=link or f"/allocations/{allocation.id}", key=key, now=now
    )


def _decided(
    session: Session,
    allocation: Allocation,
    reason: str,
    by: Actor,
    now: dt.datetime,
    reason_code: str | None,
    policy_version_id: int | None,
) -> None:
    allocation.decided_by = by.user_id
    allocation.decided_at = now
    allocation.decision_reason = reason.strip() or None
    allocation.decided_version_id = programmes.newest_version(session, allocation.programme_id).id
    session.flush()
    review.decided(
        session, allocation, approved=allocation.awarded_gpu_seconds is not None, by=by, now=now,
        reason_code=reason_code, policy_version_id=policy_version_id,
    )  # fmt: skip


def withdraw(session: Session, allocation_id: int, *, by: Actor, now: dt.datetime) -> Allocation:
    """The enterprise takes its request back before it is decided."""
    require(by, Permission.ALLOCATION_WITHDRAW)
    allocation = must_see(lock(session, Allocation, allocation_id), by)
    move_to(session, allocation, AllocationState.WITHDRAWN, verb="withdraw", at=now, by=by)
    review.end(session, allocation_id, now=now)
    return allocation


def close(session: Session, allocation_id: int, *, by: Actor, now: dt.datetime) -> None:
    """The end date has passed: a part may be carried over, what is available expires. What still runs keeps its hold
    until it is settled.
    """
    seen = session.get(Allocation, allocation_id)
    if seen is None:
        raise NotFound
    lock(session, Programme, seen.programme_id)
    allocation = lock(session, Allocation, allocation_id)
    if allocation is None:
        raise NotFound
    if now < allocation.ends_at:
        raise Refusal(Sentence("not-ended-yet", last=allocation.ends_on))
    move_to(session, allocation, AllocationState.CLOSED, verb="close", at=now, by=by)
    carried = terms.carry_over(session, allocation, now=now)
    expired = ledger.expire(session, allocation_id, at=now, by=by)
    told = Sentence("told-ended", number=allocation_id)
    if expired or carried is not None:
        kept = 0 if carried is None else carried.requested_gpu_seconds
        told = Sentence("told-expired", number=allocation_id, hours=expired, kept=kept)
    tell_managers(session, allocation, told, key=f"allocation-{allocation_id}-closed", now=now)
