"""Decide on requests, step by step: one opinion per person, as many as the step wants, then the next step or the end.

Owns: opinions, comments, what happens to late steps. Does not own: a request's steps and clock (allocations.review),
the award itself (allocations.service), conflicts of interest (allocations.conflicts).
Lock order: programme, allocation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, policy_versions
from ..access import SYSTEM, Actor, Permission, Role, must_see, require
from ..allocations import conflicts
from ..allocations import review as steps_of
from ..allocations import service as allocations
from ..allocations.models import Allocation
from ..allocations.review_models import ReasonCode, RequestStep
from ..allocations.states import WAITING, AllocationState
from ..db import lock
from ..enterprises import notify as tell_enterprise
from ..enterprises.models import Enterprise
from ..lifecycle import move_to, note_event
from ..notices import service as notices
from ..policy import Policy
from ..programmes.models import Programme
from ..sentences import NotFound, Refusal, Sentence
from ..signin import notify as tell_bureau
from ..signin.models import BureauRole, User
from ..workdays.queries import load_calendar
from .models import Opinion, ReviewComment


def get_open(session: Session, allocation_id: int, by: Actor) -> Allocation:
    """The request for a reviewer's eyes. Raises NotFound, or Refusal for somebody with a conflict of interest."""
    require(by, Permission.REVIEW_VIEW)
    allocation = must_see(session.get(Allocation, allocation_id), by)
    if allocation.state is AllocationState.DRAFT:
        raise NotFound
    conflicts.must_be_free(session, allocation, by)
    return allocation


def _to_decide(
    session: Session, allocation_id: int, permission: Permission, by: Actor, now: dt.datetime
) -> tuple[Allocation, list[RequestStep], RequestStep]:
    """The locked request, its steps and the open one, if this person may decide on it now."""
    require(by, permission)
    allocation = must_see(session.get(Allocation, allocation_id), by)
    lock(session, Programme, allocation.programme_id)
    fresh = lock(session, Allocation, allocation_id)
    if fresh is None or fresh.state is AllocationState.DRAFT:
        raise NotFound
    if fresh.state not in WAITING:
        raise Refusal(Sentence("review-not-waiting"))
    if by.user_id is None or by.user_id == fresh.requested_by:
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, fresh, by)
    steps = steps_of.list_steps(session, allocation_id)
    if not steps:  # asked before there were steps
        steps = steps_of.start(session, fresh, by=SYSTEM, now=fresh.requested_at)
    step = steps_of.open_step(steps)
    if step is None:
        raise Refusal(Sentence("review-not-waiting"))
    if step.role not in by.roles and step.assigned_to != by.user_id:
        raise Refusal(Sentence("review-other-role", role=f"role-{step.role}"))
    return fresh, steps, step


def _must_be_new(session: Session, allocation: Allocation, step: RequestStep, by: Actor) -> None:
    """One person, one opinion on a request; after the applicant changed it the open step is asked again."""
    said = session.execute(
        sa.select(Opinion.step_id, Opinion.round).where(
            Opinion.allocation_id == allocation.id, Opinion.by_id == by.user_id
        )
    ).all()
    if any(step_id != step.id or round == step.round for step_id, round in said):
        raise Refusal(Sentence("review-said-already"))


def approve(
    session: Session,
    allocation_id: int,
    *,
    awarded_gpu_seconds: int,
    reason_code: str | None,
    reason: str,
    checked: Collection[int],
    ends_soon_confirmed: bool = False,
    policy: Policy,
    by: Actor,
    now: dt.datetime,
) -> Allocation:
    """Say yes to the open step, to all that is asked or less. The last opinion of the last step awards the hours: of
    several awards the smallest.

    `checked` are the points of the checklist, from 0, that were looked at. Raises Refusal at `awarded_hours`,
    `reason_code`, `reason`, `checked` or `ends_soon`.
    """
    allocation, steps, step = _to_decide(session, allocation_id, Permission.REVIEW_APPROVE, by, now)
    _must_be_new(session, allocation, step, by)
    if not 0 < awarded_gpu_seconds <= allocation.requested_gpu_seconds:
        raise Refusal(Sentence("award-more-than-asked", asked=allocation.requested_gpu_seconds), "awarded_hours")
    cut = awarded_gpu_seconds < allocation.requested_gpu_seconds
    if cut:
        _must_give_reason(session, reason_code, reason, cuts=True)
    if missing := set(range(len(step.checklist))) - set(checked):
        raise Refusal(Sentence("review-checklist", n=len(missing)), "checked")
    today = clock.day_of(now)
    if allocation.ends_on < today:
        raise Refusal(Sentence("period-is-over", last=allocation.ends_on))
    days_left = (allocation.ends_on - today).days
    if days_left < policy.review.warn_ends_within_days and not ends_soon_confirmed:
        raise Refusal(Sentence("review-ends-soon", n=days_left + 1, last=allocation.ends_on), "ends_soon")
    opinion = _say(session, allocation, step, True, awarded_gpu_seconds, reason_code if cut else None, reason, by, now)
    _settle_step(session, allocation, steps, step, opinion, policy, by, now)
    return allocation


def decline(
    session: Session,
    allocation_id: int,
    *,
    reason_code: str | None,
    reason: str,
    policy: Policy,
    by: Actor,
    now: dt.datetime,
) -> Allocation:
    """Say no to the open step. As many as decide it must say so. Raises Refusal at `reason_code` or `reason`."""
    allocation, steps, step = _to_decide(session, allocation_id, Permission.REVIEW_DECLINE, by, now)
    _must_be_new(session, allocation, step, by)
    _must_give_reason(session, reason_code, reason, cuts=False)
    opinion = _say(session, allocation, step, False, None, reason_code, reason, by, now)
    _settle_step(session, allocation, steps, step, opinion, policy, by, now)
    return allocation


def _must_give_reason(session: Session, code: str | None, reason: str, *, cuts: bool) -> None:
    known = session.get(ReasonCode, code) if code else None
    if known is None or not known.is_active or not (known.cuts if cuts else known.declines):
        raise Refusal(Sentence("review-needs-code"), "reason_code")
    if not reason.strip():
        raise Refusal(Sentence("award-less-needs-reason" if cuts else "decline-needs-reason"), "reason")


def _say(
    session: Session,
    allocation: Allocation,
    step: RequestStep,
    approves: bool,
    awarded: int | None,
    code: str | None,
    reason: str,
    by: Actor,
    now: dt.datetime,
) -> Opinion:
    assert by.user_id is not None
    opinion = Opinion(
        step_id=step.id,
        allocation_id=allocation.id,
        round=step.round,
        by_id=by.user_id,
        approves=approves,
        awarded_gpu_seconds=awarded,
        reason_code=code,
        reason=reason.strip() or None,
        at=now,
    )
    session.add(opinion)
    session.flush()
    return opinion


def _settle_step(
    session: Session,
    allocation: Allocation,
    steps: Sequence[RequestStep],
    step: RequestStep,
    opinion: Opinion,
    policy: Policy,
    by: Actor,
    now: dt.datetime,
) -> None:
    """Enough opinions of one kind: the step is done. With the last step, or a no, the request is decided."""
    said = list(
        session.scalars(
            sa.select(Opinion).where(Opinion.step_id == step.id, Opinion.round == step.round).order_by(Opinion.id)
        )
    )
    same = [each for each in said if each.approves is opinion.approves]
    if len(same) < step.deciders:
        missing = step.deciders - len(same)
        _under_way(session, allocation, Sentence("review-first-of", n=missing), by, now)
        return
    version = policy_versions.keep(session, policy, now=now)
    if not opinion.approves:
        allocations.turn_down(
            session,
            allocation,
            reason=opinion.reason or "",
            reason_code=opinion.reason_code,
            policy_version_id=version.id,
            by=by,
            now=now,
        )
        return
    if any(each.opened_at is None for each in steps):
        _under_way(session, allocation, Sentence("review-step-done", step=step.position, steps=len(steps)), by, now)
        steps_of.open_next(session, steps, now=now)
        return
    least = _least_award(session, allocation)
    allocations.award(
        session,
        allocation,
        least.awarded_gpu_seconds or 0,
        reason=least.reason or "",
        reason_code=least.reason_code,
        policy_version_id=version.id,
        by=by,
        now=now,
    )


def _least_award(session: Session, allocation: Allocation) -> Opinion:
    """The smallest award that was agreed to in the round in which each step was decided, with its reason."""
    return session.scalars(
        sa.select(Opinion)
        .join(RequestStep, RequestStep.id == Opinion.step_id)
        .where(Opinion.allocation_id == allocation.id, Opinion.approves, Opinion.round == RequestStep.round)
        .order_by(Opinion.awarded_gpu_seconds, Opinion.id)
        .limit(1)
    ).one()


def _under_way(session: Session, allocation: Allocation, why: Sentence, by: Actor, now: dt.datetime) -> None:
    if allocation.state is AllocationState.SUBMITTED:
        move_to(session, allocation, AllocationState.IN_REVIEW, verb="review", at=now, by=by, why=why)
    else:
        note_event(session, allocation, verb="review", at=now, by=by, why=why)


def ask_changes(session: Session, allocation_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Allocation:
    """Give the request back to the applicant, saying what is missing; the clock stops. Raises Refusal at `reason`."""
    allocation, _steps, _step = _to_decide(session, allocation_id, Permission.REVIEW_RETURN, by, now)
    return allocations.ask_changes(session, allocation, reason=reason, by=by, now=now)


def comment(
    session: Session, allocation_id: int, *, public_text: str, private_text: str, by: Actor, now: dt.datetime
) -> ReviewComment:
    """A remark for the applicant, one for the bureau, or both: two fields, never one.

    Raises Refusal at `public_text`.
    """
    require(by, Permission.REVIEW_COMMENT)
    allocation = get_open(session, allocation_id, by)
    if not public_text.strip() and not private_text.strip():
        raise Refusal(Sentence("required"), "public_text")
    said = ReviewComment(
        allocation_id=allocation.id,
        by_id=by.user_id,
        public_text=public_text.strip() or None,
        private_text=private_text.strip() or None,
        at=now,
    )
    session.add(said)
    session.flush()
    if said.public_text:
        tell_enterprise.send_to_managers(
            session,
            allocation.enterprise_id,
            about=Sentence("told-review-comment", number=allocation.id),
            link=f"/allocations/{allocation.id}/review",
            key=f"review-comment-{said.id}",
            now=now,
        )
    return said


# -- late steps: the applicant never pays for them


def list_late(session: Session, now: dt.datetime) -> list[int]:
    """Open steps that are due and not escalated yet; requests that were given back stand still."""
    return list(
        session.scalars(
            sa.select(RequestStep.id)
            .join(Allocation, Allocation.id == RequestStep.allocation_id)
            .where(
                RequestStep.opened_at.is_not(None),
                RequestStep.done_at.is_(None),
                RequestStep.paused_at.is_(None),
                RequestStep.escalated_at.is_(None),
                RequestStep.due_at <= now,
                Allocation.state.in_(WAITING),
            )
            .order_by(RequestStep.due_at, RequestStep.id)
        )
    )


def escalate(session: Session, step_id: int, *, now: dt.datetime) -> None:
    """The time is over: administrators and the other reviewers are told, once. The request stays as it is."""
    step = lock(session, RequestStep, step_id)
    if step is None or not step.is_open or step.escalated_at is not None or step.due_at is None:
        return
    allocation = session.get_one(Allocation, step.allocation_id)
    step.escalated_at = now
    session.flush()
    why = Sentence("review-escalated", due_at=step.due_at)
    note_event(session, allocation, verb="escalate", at=now, by=SYSTEM, why=why)
    for role in {Role.ADMIN, step.role}:
        tell_bureau.send_to_role(
            session,
            role,
            about=Sentence("told-review-late", number=allocation.id, due_at=step.due_at),
            link=f"/reviews/{allocation.id}",
            key=f"review-step-{step.id}-late",
            now=now,
        )


def list_very_late(session: Session, now: dt.datetime, percent: int) -> list[int]:
    """Escalated steps of whose time so many percent are over and that nobody got yet."""
    steps = session.scalars(
        sa.select(RequestStep)
        .join(Allocation, Allocation.id == RequestStep.allocation_id)
        .where(
            RequestStep.done_at.is_(None),
            RequestStep.paused_at.is_(None),
            RequestStep.escalated_at.is_not(None),
            RequestStep.delegated_at.is_(None),
            Allocation.state.in_(WAITING),
        )
        .order_by(RequestStep.id)
    ).all()
    if not steps:
        return []
    calendar = load_calendar(session)
    due = [(step.id, steps_of.delegates_at(step, calendar, percent)) for step in steps]
    return [id for id, at in due if at is not None and at <= now]


def delegate(session: Session, step_id: int, *, now: dt.datetime) -> int | None:
    """Give a step that is far too late to the reviewer with the fewest of them; who decided or is bound cannot get it.

    Returns who got it; None when nobody can, which administrators are told.
    """
    step = lock(session, RequestStep, step_id)
    if step is None or not step.is_open or step.delegated_at is not None:
        return None
    allocation = session.get_one(Allocation, step.allocation_id)
    chosen = _who_can(session, allocation, step)
    step.delegated_at, step.assigned_to = now, chosen
    session.flush()
    key = f"review-step-{step.id}-delegated"
    if chosen is None:
        note_event(session, allocation, verb="delegate", at=now, by=SYSTEM, why=Sentence("review-nobody-can"))
        tell_bureau.send_to_role(
            session, Role.ADMIN, about=Sentence("told-review-nobody", number=allocation.id),
            link=f"/reviews/{allocation.id}", key=key, now=now,
        )  # fmt: skip
        return None
    note_event(session, allocation, verb="delegate", at=now, by=SYSTEM, why=Sentence("review-delegated"))
    notices.send(
        session, to=chosen, about=Sentence("told-review-delegated", number=allocation.id),
        link=f"/reviews/{allocation.id}", key=key, now=now,
    )  # fmt: skip
    return chosen


def _who_can(session: Session, allocation: Allocation, step: RequestStep) -> int | None:
    """Somebody of the step's role, else an administrator, who has not decided on this request and has no conflict."""
    said = sa.select(Opinion.by_id).where(Opinion.allocation_id == allocation.id)
    people = session.execute(
        sa.select(BureauRole.user_id, BureauRole.role)
        .select_from(Allocation)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
        .join(BureauRole, BureauRole.role.in_({step.role, Role.ADMIN}))
        .join(User, User.id == BureauRole.user_id)
        .where(
            Allocation.id == allocation.id,
            User.disabled_at.is_(None),
            BureauRole.user_id.not_in(said),
            BureauRole.user_id != (allocation.requested_by or 0),
            conflicts.tie(BureauRole.user_id).is_(None),
        )
    ).all()
    load: dict[int, int] = {}
    for user_id, number in session.execute(
        sa.select(RequestStep.assigned_to, sa.func.count())
        .where(RequestStep.done_at.is_(None), RequestStep.assigned_to.is_not(None))
        .group_by(RequestStep.assigned_to)
    ):
        if user_id is not None:
            load[user_id] = number
    free = [(role is not step.role, load.get(user_id, 0), user_id) for user_id, role in people]
    return min(free)[2] if free else None
