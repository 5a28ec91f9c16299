"""Ask for GPU-hours, decide, give them, take back what is left at the end.

Owns: the request's and the allocation's life. Does not own: the hours (ledger), what they are used for (bookings).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, must_see, require
from ..db import lock
from ..enterprises.models import Enterprise
from ..enterprises.states import EnterpriseState
from ..ledger import service as ledger
from ..lifecycle import begin, move_to
from ..programmes import service as programmes
from ..programmes.models import Programme
from ..sentences import NotFound, Refusal, Sentence
from .models import Allocation
from .states import AllocationState


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    programme_id: int
    pool_id: int
    gpu_seconds: int
    starts_on: dt.date
    ends_on: dt.date
    purpose: str


def request(session: Session, asked: AllocationRequest, *, by: Actor, now: dt.datetime, shares: int = 1) -> Allocation:
    """An enterprise manager asks for GPU-hours in a pool under a programme.

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
    return fresh


def approve(
    session: Session, allocation_id: int, *, awarded_gpu_seconds: int, reason: str, by: Actor, now: dt.datetime
) -> Allocation:
    """Award the whole or a part; less than asked needs a reason that the enterprise reads.

    Raises Refusal at `awarded_hours` or `reason`.
    """
    allocation = _to_decide(session, allocation_id, Permission.ALLOCATION_APPROVE, by)
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
        verb="approve",
        at=now,
        by=by,
        why=Sentence("awarded-hours", hours=awarded_gpu_seconds, asked=allocation.requested_gpu_seconds),
        note=reason.strip() or None,
    )
    allocation.awarded_gpu_seconds = awarded_gpu_seconds
    _decided(allocation, reason, by, now)
    session.flush()
    ledger.award(session, allocation.programme_id, allocation.id, awarded_gpu_seconds, at=now, by=by)
    return allocation


def decline(session: Session, allocation_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Allocation:
    allocation = _to_decide(session, allocation_id, Permission.ALLOCATION_DECLINE, by)
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    move_to(session, allocation, AllocationState.DECLINED, verb="decline", at=now, by=by, note=reason.strip())
    _decided(allocation, reason, by, now)
    session.flush()
    return allocation


def _decided(allocation: Allocation, reason: str, by: Actor, now: dt.datetime) -> None:
    allocation.decided_by = by.user_id
    allocation.decided_at = now
    allocation.decision_reason = reason.strip() or None


def withdraw(session: Session, allocation_id: int, *, by: Actor, now: dt.datetime) -> Allocation:
    """The enterprise takes its request back before it is decided."""
    require(by, Permission.ALLOCATION_WITHDRAW)
    allocation = must_see(lock(session, Allocation, allocation_id), by)
    move_to(session, allocation, AllocationState.WITHDRAWN, verb="withdraw", at=now, by=by)
    return allocation


def close(session: Session, allocation_id: int, *, by: Actor, now: dt.datetime) -> None:
    """The end date has passed: what is available expires. What still runs keeps its hold until it is settled."""
    allocation = lock(session, Allocation, allocation_id)
    if allocation is None:
        raise NotFound
    if now < allocation.ends_at:
        raise Refusal(Sentence("not-ended-yet", last=allocation.ends_on))
    move_to(session, allocation, AllocationState.CLOSED, verb="close", at=now, by=by)
    ledger.expire(session, allocation_id, at=now, by=by)
