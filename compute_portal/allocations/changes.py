"""More hours, more time, fewer hours, hours in another pool: asked of an allocation that runs.

Giving back and exchanging happen at once, by the published rules; more hours and more time are decided, by two people
where the track says so. Locks: programme, then allocations by id, then the change.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, must_see, require
from ..db import lock
from ..enterprises.models import Enterprise
from ..ledger import service as ledger
from ..ledger.queries import programme_left
from ..lifecycle import begin, move_to, note_event
from ..programmes import service as programmes
from ..programmes.models import Programme
from ..programmes.rules import Rules, eligibility
from ..sentences import NotFound, Refusal, Sentence
from ..workdays.queries import load_calendar
from . import conflicts, review, service
from . import facts as found
from .models import Allocation, AllocationChange, Report
from .states import AllocationState, ChangeKind, ChangeState, ReportKind, ReportState

# What must still hold when more is asked for.
ASKED_AGAIN = frozenset({"verified", "breach", "final-report", "left"})


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `gpu_seconds`: all but an extension; `ends_on`: an extension; `to_allocation_id`: a transfer.

    `receiver_code` is the credit code that a transfer is meant for, if one was given.
    """

    kind: ChangeKind
    reason: str
    gpu_seconds: int | None = None
    ends_on: dt.date | None = None
    to_allocation_id: int | None = None
    receiver_code: str | None = None


def request(session: Session, allocation_id: int, wish: Wish, *, by: Actor, now: dt.datetime) -> AllocationChange:
    """Raises Refusal at `hours`, `ends_on`, `to_allocation_id` or `reason`; of an allocation that ended at no field."""
    require(by, Permission.CHANGE_REQUEST)
    seen = must_see(session.get(Allocation, allocation_id), by)
    programme = lock(session, Programme, seen.programme_id)
    if programme is None:
        raise NotFound
    ids = sorted({allocation_id, wish.to_allocation_id or allocation_id})
    locked = {id: lock(session, Allocation, id) for id in ids}
    allocation = locked[allocation_id]
    if allocation is None:
        raise NotFound
    _must_run(allocation, now)
    if not wish.reason.strip():
        raise Refusal(Sentence("required"), "reason")
    _one_at_a_time(session, allocation, wish.kind)
    rules = service.rules_of(session, allocation)
    change = AllocationChange(
        allocation_id=allocation.id,
        enterprise_id=allocation.enterprise_id,
        kind=wish.kind,
        state=ChangeState.SUBMITTED,
        gpu_seconds=wish.gpu_seconds,
        ends_on=wish.ends_on,
        reason=wish.reason.strip(),
        version_id=allocation.version_id,
        requested_by=by.user_id,
        requested_at=now,
        due_at=now,
    )
    if wish.kind is ChangeKind.EXTENSION:
        _check_extension(programme, allocation, rules, wish.ends_on)
        change.gpu_seconds = None
    else:
        _check_hours(wish.gpu_seconds)
        change.ends_on = None
    if wish.kind is ChangeKind.SUPPLEMENT:
        _check_supplement(session, programme, allocation, rules, wish.gpu_seconds or 0, now)
    target = None
    if wish.kind is ChangeKind.TRANSFER:
        target = _receiver(session, allocation, locked.get(wish.to_allocation_id or 0), wish)
        change.to_allocation_id = target.id
        change.receives_gpu_seconds = _exchanged(session, allocation, target, wish.gpu_seconds or 0, now)
    if wish.kind in (ChangeKind.SUPPLEMENT, ChangeKind.EXTENSION):
        change.due_at = load_calendar(session).add(now, max(1, rules.track(allocation.track).decision_days))
    session.add(change)
    begin(session, change, verb="request", at=now, by=by)
    if wish.kind is ChangeKind.REDUCTION:
        _give_back(session, allocation, change, by, now)
    elif target is not None:
        _exchange(session, allocation, target, change, by, now)
    return change


def _must_run(allocation: Allocation, now: dt.datetime) -> None:
    if allocation.state is AllocationState.CLOSED or now >= allocation.ends_at:
        raise Refusal(Sentence("ended-ask-anew", last=allocation.ends_on))
    if allocation.state is not AllocationState.ACTIVE:
        raise Refusal(Sentence("allocation-not-active"))


def _one_at_a_time(session: Session, allocation: Allocation, kind: ChangeKind) -> None:
    waiting = session.scalar(
        sa.select(AllocationChange.id).where(
            AllocationChange.allocation_id == allocation.id,
            AllocationChange.kind == kind,
            AllocationChange.state == ChangeState.SUBMITTED,
        )
    )
    if waiting is not None:
        raise Refusal(Sentence("change-already-waits", number=waiting))


def _check_hours(gpu_seconds: int | None) -> None:
    if gpu_seconds is None or gpu_seconds <= 0:
        raise Refusal(Sentence("required"), "hours")


def _check_extension(programme: Programme, allocation: Allocation, rules: Rules, ends_on: dt.date | None) -> None:
    if ends_on is None:
        raise Refusal(Sentence("required"), "ends_on")
    if ends_on <= allocation.ends_on:
        raise Refusal(Sentence("extension-must-be-later", last=allocation.ends_on), "ends_on")
    longest = allocation.ends_on + dt.timedelta(days=rules.track(allocation.track).most_days)
    latest = min(programme.ends_on, longest)
    if ends_on > latest:
        raise Refusal(Sentence("extension-too-long", last=latest), "ends_on")


def _check_supplement(
    session: Session, programme: Programme, allocation: Allocation, rules: Rules, gpu_seconds: int, now: dt.datetime
) -> None:
    track = rules.track(allocation.track)
    already = allocation.awarded_gpu_seconds or 0
    if already + gpu_seconds > track.most_gpu_seconds:
        raise Refusal(
            Sentence("supplement-beyond-track", track=track.key, most=track.most_gpu_seconds, already=already), "hours"
        )
    enterprise = session.get_one(Enterprise, allocation.enterprise_id)
    facts = found.find_facts(session, enterprise, programme, now, track=track.key, allocation_id=allocation.id)
    for result in eligibility(rules, facts):
        if not result.passed and result.rule in ASKED_AGAIN:
            raise Refusal(result.fix or result.text)


def _receiver(session: Session, allocation: Allocation, target: Allocation | None, wish: Wish) -> Allocation:
    """The own allocation that the hours go to. Whether another's exists is not told."""
    own_code = session.get_one(Enterprise, allocation.enterprise_id).credit_code
    if wish.receiver_code is not None and wish.receiver_code.strip().upper() != (own_code or ""):
        raise Refusal(Sentence("not-transferable"), "receiver_code")
    if target is None or target.enterprise_id != allocation.enterprise_id:
        raise Refusal(Sentence("not-transferable"), "to_allocation_id")
    if target.id == allocation.id or target.programme_id != allocation.programme_id:
        raise Refusal(Sentence("transfer-inside-programme"), "to_allocation_id")
    if target.state is not AllocationState.ACTIVE:
        raise Refusal(Sentence("allocation-not-active"), "to_allocation_id")
    if target.ends_on > allocation.ends_on:
        raise Refusal(Sentence("transfer-outlives", last=allocation.ends_on), "to_allocation_id")
    return target


def _exchanged(session: Session, allocation: Allocation, target: Allocation, gpu_seconds: int, now: dt.datetime) -> int:
    """What arrives in the other pool, by the weights of the day."""
    if target.pool_id == allocation.pool_id:
        return gpu_seconds
    day = clock.day_of(now)
    weights = [
        programmes.weight_on(session, allocation.programme_id, pool_id, day)
        for pool_id in (allocation.pool_id, target.pool_id)
    ]
    if weights[0] is None or weights[1] is None:
        raise Refusal(Sentence("no-exchange-rate"), "to_allocation_id")
    arrives = programmes.exchanged(gpu_seconds, weights[0], weights[1])
    if arrives <= 0:
        raise Refusal(Sentence("required"), "hours")
    return arrives


def _give_back(session: Session, allocation: Allocation, change: AllocationChange, by: Actor, now: dt.datetime) -> None:
    ledger.give_back(
        session, allocation.programme_id, allocation.id, change.gpu_seconds or 0, reference=f"change:{change.id}:back",
        at=now, by=by,
    )  # fmt: skip
    _done(session, change, SYSTEM, now, Sentence("given-back-hours", hours=change.gpu_seconds))


def _exchange(
    session: Session,
    allocation: Allocation,
    target: Allocation,
    change: AllocationChange,
    by: Actor,
    now: dt.datetime,
) -> None:
    arrives = change.receives_gpu_seconds or 0
    ledger.give_back(
        session, allocation.programme_id, allocation.id, change.gpu_seconds or 0, reference=f"change:{change.id}:back",
        at=now, by=by,
    )  # fmt: skip
    target.awarded_gpu_seconds = (target.awarded_gpu_seconds or 0) + arrives
    session.flush()
    ledger.award(session, target.programme_id, target.id, arrives, reference=f"change:{change.id}:award", at=now, by=by)
    _done(session, change, SYSTEM, now, Sentence("exchanged-hours", given=change.gpu_seconds, got=arrives))


def _done(
    session: Session, change: AllocationChange, by: Actor, now: dt.datetime, why: Sentence, note: str | None = None
) -> None:
    move_to(session, change, ChangeState.DONE, verb="approve", at=now, by=by, why=why, note=note)
    change.decided_by, change.decided_at, change.decision_reason = by.user_id, now, note
    session.flush()


# -- deciding ---------------------------------------------------------------------------------------------------------


def _to_decide(
    session: Session, change_id: int, permission: Permission, by: Actor
) -> tuple[Programme, Allocation, AllocationChange]:
    require(by, permission)
    seen = must_see(session.get(AllocationChange, change_id), by)
    programme = lock(session, Programme, session.get_one(Allocation, seen.allocation_id).programme_id)
    allocation = lock(session, Allocation, seen.allocation_id)
    change = lock(session, AllocationChange, change_id)
    if programme is None or allocation is None or change is None:
        raise NotFound
    if by.user_id is not None and by.user_id in (change.requested_by, allocation.requested_by):
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, allocation, by)
    return programme, allocation, change


def approve(session: Session, change_id: int, *, reason: str, by: Actor, now: dt.datetime) -> AllocationChange:
    """Give more hours or more time. Where two decide, the first approval waits for another person's.

    Raises Refusal("two-decide") for the same person twice, and what forbids the change by now.
    """
    programme, allocation, change = _to_decide(session, change_id, Permission.CHANGE_APPROVE, by)
    if change.state is not ChangeState.SUBMITTED:
        raise Refusal(Sentence("no-such-move", kind="change", before=change.state.value, verb="approve"))
    _must_run(allocation, now)
    rules = service.rules_of(session, allocation)
    if two_decide(session, allocation, change):
        if change.first_by is None:
            change.first_by = by.user_id
            session.flush()
            note_event(session, change, verb="first-approval", at=now, by=by)
            return change
        if change.first_by == by.user_id:
            raise Refusal(Sentence("two-decide"))
    if change.kind is ChangeKind.SUPPLEMENT:
        _supplement(session, allocation, change, by, now, reason)
    else:
        _extend(session, programme, allocation, rules, change, by, now, reason)
    service.tell_managers(
        session, allocation, Sentence("told-change-approved", number=allocation.id), key=f"change-{change.id}", now=now
    )
    return change


def two_decide(session: Session, allocation: Allocation, change: AllocationChange) -> bool:
    """As of a request of this track and, with a supplement, of this size: small steps do not get past the amount."""
    rules = service.rules_of(session, allocation)
    if rules.track(allocation.track).deciders > 1:
        return True
    total = allocation.awarded_gpu_seconds or 0
    if change.kind is ChangeKind.SUPPLEMENT:
        total += change.gpu_seconds or 0
    flow = review.flow_of(session, allocation.programme_id, allocation.track, rules)
    return any(step.deciders_for(total) > 1 for step in flow)


def _supplement(
    session: Session, allocation: Allocation, change: AllocationChange, by: Actor, now: dt.datetime, reason: str
) -> None:
    hours = change.gpu_seconds or 0
    left = programme_left(session, [allocation.programme_id])[allocation.programme_id]
    if left < hours:
        raise Refusal(Sentence("pool-too-small", asked=hours, left=left))
    allocation.awarded_gpu_seconds = (allocation.awarded_gpu_seconds or 0) + hours
    session.flush()
    ledger.award(
        session, allocation.programme_id, allocation.id, hours, reference=f"change:{change.id}:award", at=now, by=by
    )
    _done(session, change, by, now, Sentence("added-hours", hours=hours), reason.strip() or None)


def _extend(
    session: Session,
    programme: Programme,
    allocation: Allocation,
    rules: Rules,
    change: AllocationChange,
    by: Actor,
    now: dt.datetime,
    reason: str,
) -> None:
    _check_extension(programme, allocation, rules, change.ends_on)
    assert change.ends_on is not None
    moved = change.ends_on - allocation.ends_on
    allocation.ends_on = change.ends_on
    if allocation.depreciated_at is None:
        allocation.half_term_on = service.half_term(allocation.starts_on, allocation.ends_on)
    final = session.scalars(
        sa.select(Report).where(
            Report.allocation_id == allocation.id, Report.kind == ReportKind.FINAL, Report.state == ReportState.DUE
        )
    ).first()
    if final is not None:
        final.due_on += moved
    _done(session, change, by, now, Sentence("extended-to", last=change.ends_on), reason.strip() or None)


def decline(session: Session, change_id: int, *, reason: str, by: Actor, now: dt.datetime) -> AllocationChange:
    """Raises Refusal at `reason`, which the enterprise reads."""
    _, allocation, change = _to_decide(session, change_id, Permission.CHANGE_DECLINE, by)
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    move_to(session, change, ChangeState.DECLINED, verb="decline", at=now, by=by, note=reason.strip())
    change.decided_by, change.decided_at, change.decision_reason = by.user_id, now, reason.strip()
    session.flush()
    service.tell_managers(
        session, allocation, Sentence("told-change-declined", number=allocation.id), key=f"change-{change.id}", now=now
    )
    return change


def withdraw(session: Session, change_id: int, *, by: Actor, now: dt.datetime) -> AllocationChange:
    """The enterprise takes it back before it is decided."""
    require(by, Permission.CHANGE_WITHDRAW)
    change = must_see(lock(session, AllocationChange, change_id), by)
    move_to(session, change, ChangeState.WITHDRAWN, verb="withdraw", at=now, by=by)
    return change
