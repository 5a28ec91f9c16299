"""Another look at a decision: the enterprise files within its time, somebody who did not decide answers.

Lock order: programme, allocation.
"""

from __future__ import annotations

import datetime as dt
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, policy_versions
from ..access import SYSTEM, Actor, Permission, Role, must_see, require
from ..allocations import conflicts
from ..allocations import review as steps_of
from ..allocations import service as allocations
from ..allocations.models import Allocation
from ..allocations.review_models import Decision
from ..allocations.states import AllocationState
from ..db import lock
from ..enterprises import notify as tell_enterprise
from ..ledger import service as ledger
from ..lifecycle import begin, list_history, move_to, note_event
from ..policy import Policy, ReviewPolicy
from ..programmes.models import Programme
from ..sentences import NotFound, Refusal, Sentence
from ..signin import notify as tell_bureau
from ..workdays.calendar import Calendar
from ..workdays.queries import load_calendar
from .models import Appeal, Opinion
from .states import AppealState

FIRST_APPROVAL = "first-approval"  # where two decide: the verb of the first word, kept in the appeal's history


def file_until(decision: Decision, calendar: Calendar, rule: ReviewPolicy) -> dt.datetime:
    """The last instant at which an appeal against a decision may be filed."""
    return calendar.add(decision.decided_at, rule.appeal_file_working_days)


def may_be_appealed(allocation: Allocation, decision: Decision | None) -> bool:
    """A refusal, or an award of less than was asked for."""
    if decision is None or decision.on_appeal:
        return False
    return not decision.approved or decision.awarded_gpu_seconds < decision.asked_gpu_seconds


def first_decision(session: Session, allocation_id: int) -> Decision | None:
    return session.scalars(
        sa.select(Decision).where(Decision.allocation_id == allocation_id, Decision.on_appeal.is_(False))
    ).first()


def file(
    session: Session, allocation_id: int, *, text: str, policy: ReviewPolicy, by: Actor, now: dt.datetime
) -> Appeal:
    """Once per request, within the published working days. Raises Refusal at `text`."""
    require(by, Permission.APPEAL_FILE)
    allocation = must_see(lock(session, Allocation, allocation_id), by)
    decision = first_decision(session, allocation_id)
    if decision is None or not may_be_appealed(allocation, decision):
        raise Refusal(Sentence("appeal-nothing-to"))
    if session.scalar(sa.select(Appeal.id).where(Appeal.allocation_id == allocation_id)) is not None:
        raise Refusal(Sentence("appeal-only-once"))
    calendar = load_calendar(session)
    until = file_until(decision, calendar, policy)
    if now > until:
        raise Refusal(Sentence("appeal-too-late", until=until))
    if not text.strip():
        raise Refusal(Sentence("appeal-needs-text"), "text")
    appeal = Appeal(
        allocation_id=allocation_id,
        enterprise_id=allocation.enterprise_id,
        state=AppealState.FILED,
        text=text.strip(),
        filed_by=by.user_id,
        filed_at=now,
        due_at=calendar.add(now, policy.appeal_decide_working_days),
    )
    session.add(appeal)
    begin(session, appeal, verb="file", at=now, by=by)
    note_event(session, allocation, verb="appeal", at=now, by=by, why=Sentence("appeal-filed", due_at=appeal.due_at))
    return appeal


def deciders_of(session: Session, allocation: Allocation) -> set[int]:
    """Everybody who had a say in the first decision."""
    said = session.scalars(sa.select(Opinion.by_id).where(Opinion.allocation_id == allocation.id))
    decision = first_decision(session, allocation.id)
    people = {*said, allocation.decided_by, decision.decided_by if decision else None}
    return {id for id in people if id is not None}


def _to_decide(session: Session, appeal_id: int, permission: Permission, by: Actor) -> tuple[Appeal, Allocation]:
    require(by, permission)
    appeal = must_see(session.get(Appeal, appeal_id), by)
    seen = session.get_one(Allocation, appeal.allocation_id)
    lock(session, Programme, seen.programme_id)
    allocation = lock(session, Allocation, seen.id)
    fresh = lock(session, Appeal, appeal_id)
    if allocation is None or fresh is None:
        raise NotFound
    if fresh.state is not AppealState.FILED:
        raise Refusal(Sentence("moved-meanwhile", kind=Appeal.LIFE.kind))
    if by.user_id is None or by.user_id in deciders_of(session, allocation):
        raise Refusal(Sentence("appeal-other-person"))
    if by.user_id in (allocation.requested_by, fresh.filed_by):
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, allocation, by)
    return fresh, allocation


def dismiss(session: Session, appeal_id: int, *, reason: str, policy: Policy, by: Actor, now: dt.datetime) -> Appeal:
    """The decision stands. Raises Refusal at `reason`."""
    appeal, allocation = _to_decide(session, appeal_id, Permission.APPEAL_DISMISS, by)
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    first = first_decision(session, allocation.id)
    awarded = first.awarded_gpu_seconds if first is not None else 0
    _close(session, appeal, allocation, AppealState.DISMISSED, awarded, reason, policy, by, now)
    return appeal


def uphold(
    session: Session,
    appeal_id: int,
    *,
    awarded_gpu_seconds: int,
    reason: str,
    policy: Policy,
    by: Actor,
    now: dt.datetime,
) -> Appeal:
    """The enterprise gets more than was decided: `awarded_gpu_seconds` in all, at most what it asked for.

    Where two decided on the request, two give on appeal: the first word waits for another person's, and of two awards
    the smaller counts. Raises Refusal at `awarded_hours` or `reason`, Refusal("two-decide") for the same person twice.
    """
    appeal, allocation = _to_decide(session, appeal_id, Permission.APPEAL_UPHOLD, by)
    before = allocation.awarded_gpu_seconds or 0
    if not before < awarded_gpu_seconds <= allocation.requested_gpu_seconds:
        raise Refusal(
            Sentence("appeal-award-range", before=before, asked=allocation.requested_gpu_seconds), "awarded_hours"
        )
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    if allocation.ends_on < clock.day_of(now):
        raise Refusal(Sentence("period-is-over", last=allocation.ends_on))
    agreed = _agreed(session, appeal, allocation, awarded_gpu_seconds, by, now)
    if agreed is None:
        return appeal
    awarded_gpu_seconds = agreed
    if allocation.state is AllocationState.DECLINED:
        allocations.award(session, allocation, awarded_gpu_seconds, reason=reason, by=by, now=now, verb="uphold")
    elif allocation.state is AllocationState.ACTIVE:
        note_event(
            session, allocation, verb="uphold", at=now, by=by,
            why=Sentence("awarded-hours", hours=awarded_gpu_seconds, asked=allocation.requested_gpu_seconds),
        )  # fmt: skip
        allocation.awarded_gpu_seconds = awarded_gpu_seconds
        session.flush()
        more = awarded_gpu_seconds - before
        ledger.award(
            session, allocation.programme_id, allocation.id, more,
            withheld=allocations.withheld_of(session, allocation, more), reference=f"appeal:{appeal.id}:award",
            at=now, by=by,
        )  # fmt: skip
    else:
        raise Refusal(Sentence("allocation-not-active"))
    _close(session, appeal, allocation, AppealState.UPHELD, awarded_gpu_seconds, reason, policy, by, now)
    return appeal


def _agreed(
    session: Session, appeal: Appeal, allocation: Allocation, awarded: int, by: Actor, now: dt.datetime
) -> int | None:
    """What is given: where one person decides, what that person says; None while a second one has to agree."""
    steps = steps_of.list_steps(session, allocation.id)
    if allocations.track_of(session, allocation).deciders < 2 and all(step.deciders < 2 for step in steps):
        return awarded
    first = next(
        (entry for entry in list_history(session, Appeal.LIFE, appeal.id) if entry.verb == FIRST_APPROVAL), None
    )
    if first is None:
        why = Sentence("awarded-hours", hours=awarded, asked=allocation.requested_gpu_seconds)
        note_event(session, appeal, verb=FIRST_APPROVAL, at=now, by=by, why=why)
        return None
    if first.by_id == by.user_id:
        raise Refusal(Sentence("two-decide"))
    said = Sentence.from_json(first.why)
    return awarded if said is None else min(awarded, cast(int, said["hours"]))


def _close(
    session: Session,
    appeal: Appeal,
    allocation: Allocation,
    state: AppealState,
    awarded: int,
    reason: str,
    policy: Policy,
    by: Actor,
    now: dt.datetime,
) -> None:
    move_to(session, appeal, state, verb="uphold" if state is AppealState.UPHELD else "dismiss", at=now, by=by)
    appeal.decided_by, appeal.decided_at, appeal.reason = by.user_id, now, reason.strip()
    appeal.awarded_gpu_seconds = awarded if state is AppealState.UPHELD else None
    calendar = load_calendar(session)
    first = first_decision(session, allocation.id)
    session.add(
        Decision(
            allocation_id=allocation.id,
            enterprise_id=allocation.enterprise_id,
            programme_id=allocation.programme_id,
            track=allocation.track,
            on_appeal=True,
            approved=awarded > 0,
            asked_gpu_seconds=allocation.requested_gpu_seconds,
            awarded_gpu_seconds=awarded,
            reason=reason.strip(),
            decided_at=now,
            decided_by=by.user_id,
            used_seconds=calendar.working_seconds(appeal.filed_at, now),
            promised_seconds=calendar.working_seconds(appeal.filed_at, appeal.due_at),
            promised_days=policy.review.appeal_decide_working_days,
            policy_version_id=policy_versions.keep(session, policy, now=now).id,
            programme_version_id=first.programme_version_id if first is not None else allocation.version_id,
        )
    )
    session.flush()
    tell_enterprise.send_to_managers(
        session,
        allocation.enterprise_id,
        about=Sentence(f"told-appeal-{state}", number=allocation.id),
        link=f"/allocations/{allocation.id}/review",
        key=f"appeal-{appeal.id}-decided",
        now=now,
    )


# -- late appeals


def list_late(session: Session, now: dt.datetime) -> list[int]:
    return list(
        session.scalars(
            sa.select(Appeal.id)
            .where(Appeal.state == AppealState.FILED, Appeal.escalated_at.is_(None), Appeal.due_at <= now)
            .order_by(Appeal.due_at, Appeal.id)
        )
    )


def escalate(session: Session, appeal_id: int, *, now: dt.datetime) -> None:
    """Administrators and operators are told, once. The appeal stays open: nobody decides it by waiting."""
    appeal = lock(session, Appeal, appeal_id)
    if appeal is None or appeal.state is not AppealState.FILED or appeal.escalated_at is not None:
        return
    appeal.escalated_at = now
    session.flush()
    note_event(
        session, appeal, verb="escalate", at=now, by=SYSTEM, why=Sentence("review-escalated", due_at=appeal.due_at)
    )
    for role in (Role.ADMIN, Role.OPERATOR):
        tell_bureau.send_to_role(
            session, role, about=Sentence("told-appeal-late", number=appeal.allocation_id, due_at=appeal.due_at),
            link=f"/appeals/{appeal.id}", key=f"appeal-{appeal.id}-late", now=now,
        )  # fmt: skip
