"""The steps of a request and their clock: made when it is submitted, stopped while the applicant has the ball.

Owns: which steps a request has, which one is open, when it is due. Does not own: who decides what (feature `review`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import policy_versions
from ..access import Actor, Permission, Role, require
from ..programmes.models import Programme, ProgrammeVersion
from ..programmes.rules import Rules
from ..sentences import NotFound, Refusal, Sentence
from ..workdays.calendar import Calendar
from ..workdays.queries import load_calendar
from .models import Allocation
from .review_models import Decision, RequestStep, ReviewFlow

REVIEWERS = (Role.OPERATOR, Role.ADMIN)  # finance never approves allocations
MOST_STEPS = 8
MOST_DECIDERS = 5
MOST_WORKING_DAYS = 250


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a flow. `checklist`: pairs of Chinese and English. `two_above_gpu_seconds`: more asked needs two."""

    name: str | None = None
    name_en: str | None = None
    role: Role = Role.OPERATOR
    deciders: int = 1
    working_days: int = 3
    two_above_gpu_seconds: int | None = None
    checklist: tuple[tuple[str, str], ...] = ()

    def deciders_for(self, gpu_seconds: int) -> int:
        above = self.two_above_gpu_seconds is not None and gpu_seconds > self.two_above_gpu_seconds
        return max(self.deciders, 2 if above else 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "name_en": self.name_en, "role": self.role.value, "deciders": self.deciders,
            "working_days": self.working_days, "two_above_gpu_seconds": self.two_above_gpu_seconds,
            "checklist": [list(point) for point in self.checklist],
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Step:
        values = dict(stored)
        values["role"] = Role(stored["role"])
        values["checklist"] = tuple((zh, en) for zh, en in stored["checklist"])
        return cls(**values)


# -- the flow of a track


def flow_of(session: Session, programme_id: int, track: str | None, rules: Rules | None) -> tuple[Step, ...]:
    """The steps that a request of this track gets today: the newest flow, else one step as the rules say."""
    stored = session.scalars(
        sa.select(ReviewFlow.steps)
        .where(ReviewFlow.programme_id == programme_id, ReviewFlow.track == (track or ""))
        .order_by(ReviewFlow.id.desc())
        .limit(1)
    ).first()
    if stored:
        return tuple(Step.from_json(step) for step in stored)
    if rules is not None:
        by_rule = rules.track(track)
        return (Step(deciders=by_rule.deciders, working_days=max(1, by_rule.decision_days)),)
    programme = session.get_one(Programme, programme_id)
    return (Step(working_days=max(1, programme.decision_days)),)


def set_flow(
    session: Session, programme_id: int, track: str, steps: Sequence[Step], *, by: Actor, now: dt.datetime
) -> ReviewFlow:
    """From now on requests of this track go through these steps; requests that are under way keep theirs.

    Raises Refusal at `name`, `deciders` or `working_days`.
    """
    require(by, Permission.REVIEW_SET_FLOW)
    if session.get(Programme, programme_id) is None:
        raise NotFound
    if not 1 <= len(steps) <= MOST_STEPS:
        raise Refusal(Sentence("review-steps-count", n=MOST_STEPS))
    for step in steps:
        if step.role not in REVIEWERS:
            raise Refusal(Sentence("not-a-choice"), "role")
        if not 1 <= step.deciders <= MOST_DECIDERS:
            raise Refusal(Sentence("review-deciders-range", n=MOST_DECIDERS), "deciders")
        if not 1 <= step.working_days <= MOST_WORKING_DAYS:
            raise Refusal(Sentence("review-days-range", n=MOST_WORKING_DAYS), "working_days")
    flow = ReviewFlow(
        programme_id=programme_id,
        track=track,
        steps=[step.to_json() for step in steps],
        set_at=now,
        set_by=by.user_id,
    )
    session.add(flow)
    session.flush()
    return flow


def add_step(
    session: Session,
    programme_id: int,
    track: str,
    step: Step,
    place: int,
    *,
    rules: Rules | None,
    by: Actor,
    now: dt.datetime,
) -> ReviewFlow:
    """One step more, at `place` from 0, or at the end."""
    steps = list(flow_of(session, programme_id, track, rules))
    steps.insert(min(max(0, place), len(steps)), step)
    return set_flow(session, programme_id, track, steps, by=by, now=now)


def remove_step(
    session: Session, programme_id: int, track: str, place: int, *, rules: Rules | None, by: Actor, now: dt.datetime
) -> ReviewFlow:
    """One step less. Raises NotFound for a place without one, Refusal for the last step."""
    steps = list(flow_of(session, programme_id, track, rules))
    if not 0 <= place < len(steps):
        raise NotFound
    del steps[place]
    return set_flow(session, programme_id, track, steps, by=by, now=now)


# -- the steps of a request


def start(session: Session, allocation: Allocation, *, by: Actor, now: dt.datetime) -> list[RequestStep]:
    """The request is submitted: it gets the steps of today's flow, the first one opens, its decision is promised."""
    session.flush()
    steps = planned(session, allocation, now=now)
    session.add_all(steps)
    allocation.due_at = load_calendar(session).add(now, sum(step.working_days for step in steps))
    session.flush()
    return steps


def planned(session: Session, allocation: Allocation, *, now: dt.datetime) -> list[RequestStep]:
    """The steps that a request without any would get, the first one open. Nothing is written."""
    rules = _rules_of(session, allocation)
    steps = [
        RequestStep(
            allocation_id=allocation.id,
            position=position,
            name=step.name,
            name_en=step.name_en,
            role=step.role,
            checklist=[list(point) for point in step.checklist],
            deciders=step.deciders_for(allocation.requested_gpu_seconds),
            working_days=step.working_days,
            paused_seconds=0,
            round=1,
        )
        for position, step in enumerate(flow_of(session, allocation.programme_id, allocation.track, rules), start=1)
    ]
    _enough_deciders(steps, rules, allocation.track)
    _open(load_calendar(session), steps[0], now)
    return steps


def _rules_of(session: Session, allocation: Allocation) -> Rules | None:
    if allocation.version_id is None:
        return None
    return Rules.from_json(session.get_one(ProgrammeVersion, allocation.version_id).rules)


def _enough_deciders(steps: Sequence[RequestStep], rules: Rules | None, track: str | None) -> None:
    """Nobody decides alone what the programme's rules want several people for, whatever the flow says: each person
    has one say on a request, and if the steps are decided by too few, the last one wants more.
    """
    if rules is not None:
        missing = rules.track(track).deciders - sum(step.deciders for step in steps)
        steps[-1].deciders = min(MOST_DECIDERS, steps[-1].deciders + max(0, missing))


def _open(calendar: Calendar, step: RequestStep, now: dt.datetime) -> None:
    step.opened_at = now
    step.due_at = calendar.add(now, step.working_days)
    step.total_seconds = calendar.working_seconds(now, step.due_at)


def list_steps(session: Session, allocation_id: int) -> list[RequestStep]:
    return list(
        session.scalars(
            sa.select(RequestStep).where(RequestStep.allocation_id == allocation_id).order_by(RequestStep.position)
        )
    )


def open_step(steps: Sequence[RequestStep]) -> RequestStep | None:
    return next((step for step in steps if step.is_open), None)


def pause(session: Session, allocation: Allocation, *, now: dt.datetime) -> None:
    """The applicant has the ball: the clock of the open step stops."""
    step = open_step(list_steps(session, allocation.id))
    if step is not None and step.paused_at is None:
        step.paused_at = now
        session.flush()


def resume(session: Session, allocation: Allocation, *, now: dt.datetime) -> None:
    """The ball is back at the bureau: what is due moves by the office time for which the clock stood still. What was
    changed may have led into a larger track.
    """
    steps = list_steps(session, allocation.id)
    if steps:
        _enough_deciders(steps, _rules_of(session, allocation), allocation.track)
    step = open_step(steps)
    if step is None or step.paused_at is None or step.due_at is None:
        return
    calendar = load_calendar(session)
    stood = calendar.working_seconds(step.paused_at, now)
    step.due_at = calendar.add_seconds(step.due_at, stood)
    step.paused_seconds += stood
    step.paused_at = None
    step.round += 1
    allocation.due_at = calendar.add_seconds(allocation.due_at, stood)
    session.flush()


def open_next(session: Session, steps: Sequence[RequestStep], *, now: dt.datetime) -> RequestStep | None:
    """The open step is done; the next one opens. None when that was the last one."""
    step = open_step(steps)
    if step is not None:
        step.done_at = now
    following = next((each for each in steps if each.opened_at is None), None)
    if following is not None:
        _open(load_calendar(session), following, now)
    session.flush()
    return following


def end(session: Session, allocation_id: int, *, now: dt.datetime) -> list[RequestStep]:
    """The request is decided or withdrawn: no step of it is open any longer."""
    steps = list_steps(session, allocation_id)
    for step in steps:
        if step.is_open:
            step.done_at = now
    session.flush()
    return steps


def decided(
    session: Session,
    allocation: Allocation,
    *,
    approved: bool,
    by: Actor,
    now: dt.datetime,
    reason_code: str | None = None,
    policy_version_id: int | None = None,
) -> Decision:
    """Keep what was decided, under which rules and in what time. The allocation says the award and the reason already.

    A decision that was kept before stays: the first word of the review is not said twice.
    """
    known = session.scalars(
        sa.select(Decision).where(Decision.allocation_id == allocation.id, Decision.on_appeal.is_(False))
    ).first()
    if known is not None:
        return known
    steps = end(session, allocation.id, now=now)
    calendar = load_calendar(session)
    clocks = [found for step in steps if (found := clock_of(step, calendar, now)) is not None]
    used, promised, days = (
        sum(each.used_seconds for each in clocks),
        sum(each.total_seconds for each in clocks),
        sum(each.working_days for each in steps),
    )
    # Steps that were never reached were promised too.
    promised += calendar.day_seconds(now) * sum(each.working_days for each in steps if each.opened_at is None)
    if not clocks:
        asked, due = allocation.requested_at, allocation.due_at
        used, promised = calendar.working_seconds(asked, now), calendar.working_seconds(asked, due)
        days = max(0, calendar.working_days_left(asked, due))
    version_id = allocation.decided_version_id or allocation.version_id
    decision = Decision(
        allocation_id=allocation.id,
        enterprise_id=allocation.enterprise_id,
        programme_id=allocation.programme_id,
        track=allocation.track,
        on_appeal=False,
        approved=approved,
        asked_gpu_seconds=allocation.requested_gpu_seconds,
        awarded_gpu_seconds=(allocation.awarded_gpu_seconds or 0) if approved else 0,
        reason_code=reason_code,
        reason=allocation.decision_reason,
        decided_at=now,
        decided_by=by.user_id,
        used_seconds=used,
        promised_seconds=promised,
        promised_days=days,
        policy_version_id=policy_version_id or _newest_policy_version(session),
        programme_version_id=version_id,
    )
    session.add(decision)
    session.flush()
    return decision


def _newest_policy_version(session: Session) -> int | None:
    version = policy_versions.newest(session)
    return None if version is None else version.id


# -- the clock, for pages


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a step's clock stands: seconds of office time, whole working days, and what to know about the calendar."""

    used_seconds: int
    total_seconds: int
    day: int  # the working day it is in, from 1
    days: int
    due_at: dt.datetime
    stopped_at: dt.datetime | None
    warning: Sentence | None

    @property
    def is_late(self) -> bool:
        return self.used_seconds > self.total_seconds


def clock_of(step: RequestStep, calendar: Calendar, now: dt.datetime) -> Clock | None:
    """None for a step that has not opened."""
    if step.opened_at is None or step.due_at is None or step.total_seconds is None:
        return None
    until = step.done_at or step.paused_at or now
    used = max(0, calendar.working_seconds(step.opened_at, until) - step.paused_seconds)
    per_day = max(1, step.total_seconds // step.working_days)
    return Clock(
        used,
        step.total_seconds,
        min(step.working_days, used // per_day + 1),
        step.working_days,
        step.due_at,
        step.paused_at,
        calendar.warning(step.due_at),
    )


def delegates_at(step: RequestStep, calendar: Calendar, percent: int) -> dt.datetime | None:
    """When so many percent of the promised time are over (100: when it is due)."""
    if step.due_at is None or step.total_seconds is None:
        return None
    return calendar.add_seconds(step.due_at, step.total_seconds * (percent - 100) // 100)
