"""No sequence of verbs by any mix of roles gets a request to where it may not be.

Drafts, reviews of one and of two, changes requested, appeals, staged reports, supplements, transfers, half term and the
end, in any order and by anybody. What is refused changes nothing; afterwards the hours add up and every decision had as
many voices as its track wants, none of them of somebody who asked or is bound to the firm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock, units, verify
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import changes, conflicts, reports, requests, service, terms
from compute_portal.allocations.changes import Wish
from compute_portal.allocations.models import Allocation, AllocationChange, Report
from compute_portal.allocations.requests import Answers, Beginning
from compute_portal.allocations.review_models import Decision, Interest
from compute_portal.allocations.states import LIFE, AllocationState, ChangeKind, ChangeState, ReportState
from compute_portal.budgets import alerts
from compute_portal.ledger.queries import balance, programme_left
from compute_portal.lifecycle import HistoryEntry
from compute_portal.policy import Policy
from compute_portal.programmes.models import Programme
from compute_portal.programmes.rules import Rules, usual_rules, usual_tracks
from compute_portal.review import appeals
from compute_portal.review import service as review
from compute_portal.review.models import Appeal, Opinion
from compute_portal.review.states import AppealState
from compute_portal.sentences import NotFound, Refusal
from tests.cast import NOW, Cast
from tests.compute_portal.allocations.test_requests import DAY, LATER, opened

ROUNDS = int(os.environ.get("ROUNDS", "0")) or 10
HOURS = units.gpu_seconds
POOL = 40_000  # less than two of the large ones
TEXT = "用 64 卡训练了两周，词错率下降百分之十二，下一步扩大语料。"
RIGHT = "somebody of the right role"
PEOPLE = (*(RIGHT,) * 12, "lin", "mei", "chen", "zhou", "wu", "an", "he", "xu", "lin-as-operator")
# What the enterprise does; the rest is the bureau's, or the calendar's.
OWN = {"submit", "withdraw", "appeal", "hand in", "withdraw a change", *(kind.value for kind in ChangeKind)}
Verb = Callable[[Session, "Turn"], object]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One thing that somebody tries: on which allocation of the programme, with how many hours, when."""

    by: Actor
    id: int
    other: int
    hours: int
    now: dt.datetime
    policy: Policy


def tracks() -> Rules:
    small, medium, large = (dataclasses.replace(track, fields={}, attachments=()) for track in usual_tracks())
    large = dataclasses.replace(large, needs_earlier_use=False)
    medium = dataclasses.replace(medium, released_percent=50)
    return dataclasses.replace(usual_rules(), tracks=(small, medium, large))


def _first(session: Session, model: Any, *where: Any) -> int:
    return session.scalar(sa.select(model.id).where(*where).order_by(model.id.desc()).limit(1)) or 0


def _submit(session: Session, turn: Turn) -> object:
    last = LATER + dt.timedelta(days=40 if turn.hours == 4_999 else 0)  # longer than the smaller tracks allow
    asked = Answers(HOURS(turn.hours), DAY, last, "训练方言语音识别基座", {"title": "方言基座"})
    return requests.submit(session, turn.id, asked, by=turn.by, now=turn.now)


def _approve(session: Session, turn: Turn) -> object:
    asked = session.get_one(Allocation, turn.id).requested_gpu_seconds
    hours = min(HOURS(turn.hours), asked)
    return review.approve(
        session, turn.id, awarded_gpu_seconds=hours, reason_code="size", reason="按规模", checked=(),
        policy=turn.policy, by=turn.by, now=turn.now,
    )  # fmt: skip


def _decline(session: Session, turn: Turn) -> object:
    return review.decline(
        session, turn.id, reason_code="incomplete", reason="不全", policy=turn.policy, by=turn.by, now=turn.now
    )


def _uphold(session: Session, turn: Turn) -> object:
    appeal = _first(session, Appeal, Appeal.allocation_id == turn.id)
    asked = session.get_one(Allocation, turn.id).requested_gpu_seconds
    hours = min(HOURS(turn.hours), asked)
    return appeals.uphold(
        session, appeal, awarded_gpu_seconds=hours, reason="成立", policy=turn.policy, by=turn.by, now=turn.now
    )


def _ask_more(kind: ChangeKind) -> Verb:
    def verb(session: Session, turn: Turn) -> object:
        wish = Wish(
            kind, "需要", HOURS(turn.hours), LATER + dt.timedelta(days=turn.hours % 50),
            turn.other if kind is ChangeKind.TRANSFER else None,
        )  # fmt: skip
        return changes.request(session, turn.id, wish, by=turn.by, now=turn.now)

    return verb


def _on_change(verb: Callable[..., object], **values: Any) -> Verb:
    return lambda session, turn: verb(
        session, _first(session, AllocationChange, AllocationChange.allocation_id == turn.id), by=turn.by,
        now=turn.now, **values,
    )  # fmt: skip


def _on_report(verb: Callable[..., object], **values: Any) -> Verb:
    return lambda session, turn: verb(
        session, _first(session, Report, Report.allocation_id == turn.id), by=turn.by, now=turn.now, **values
    )


VERBS: dict[str, Verb] = {
    "submit": _submit,
    "approve": _approve,
    "decline": _decline,
    "ask for changes": lambda s, t: review.ask_changes(s, t.id, reason="缺计划", by=t.by, now=t.now),
    "withdraw": lambda s, t: service.withdraw(s, t.id, by=t.by, now=t.now),
    "declare": lambda s, t: conflicts.declare(s, t.id, reason="前同事", by=t.by, now=t.now),
    "appeal": lambda s, t: appeals.file(s, t.id, text="漏看", policy=t.policy.review, by=t.by, now=t.now),
    "uphold": _uphold,
    "dismiss": lambda s, t: appeals.dismiss(
        s, _first(s, Appeal, Appeal.allocation_id == t.id), reason="维持", policy=t.policy, by=t.by, now=t.now
    ),
    "hand in": _on_report(reports.hand_in, text=TEXT),
    "accept": _on_report(reports.accept),
    "return": _on_report(reports.send_back, reason="缺数据"),
    **{kind.value: _ask_more(kind) for kind in ChangeKind},
    "approve a change": _on_change(changes.approve, reason=""),
    "decline a change": _on_change(changes.decline, reason="不"),
    "withdraw a change": _on_change(changes.withdraw),
    "half term": lambda s, t: terms.depreciate(s, t.id, now=t.now),
    "threshold": lambda s, t: alerts.end(s, t.id, percent=100, now=t.now),
    "close": lambda s, t: service.close(s, t.id, by=t.by, now=clock.end_of_day(LATER + dt.timedelta(days=60))),
}
# What most requests go through comes more often, so that what follows it is reached.
OFTEN = (
    "submit",
    "approve",
    "approve",
    "ask for changes",
    "appeal",
    "uphold",
    "accept",
    "approve a change",
    "transfer",
)
NAMES = [*VERBS, *OFTEN, *OFTEN]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from(PEOPLE), st.integers(0, 2),
        st.sampled_from((1, 901, 4_999, 9_001, 30_001)),
    ),
    min_size=6,
    max_size=30,
)  # fmt: skip


def _each(verb: str, hours: int = 4_999, people: tuple[str, ...] = (RIGHT,)) -> list[tuple[str, str, int, int]]:
    return [(verb, name, index, hours) for index in range(3) for name in people]


# How far the three requests are when the sequence begins.
SUBMITTED = [("submit", RIGHT, 0, 9_001), ("submit", RIGHT, 1, 30_001), ("submit", RIGHT, 2, 30_001)]
AWARDED = [*SUBMITTED, *_each("approve", people=("zhou", "wu"))]
BEGINNINGS = {
    "drafts": [],
    "submitted": SUBMITTED,
    "one has said yes": [*SUBMITTED, *_each("approve", people=("zhou",))],
    "cut, appealed": [*AWARDED, *_each("appeal")],
    "declined, appealed": [*SUBMITTED, *_each("decline", people=("zhou", "wu")), *_each("appeal")],
    "awarded, reported": [*AWARDED, *_each("hand in"), *_each("supplement", 901)],
}


@settings(max_examples=ROUNDS)
@given(beginning=st.sampled_from(list(BEGINNINGS)), steps=STEPS)
def test_no_sequence_of_verbs_by_any_mix_of_roles_breaks_what_must_hold(
    cast: Cast, policy: Policy, beginning: str, steps: list[tuple[str, str, int, int]]
) -> None:
    database = cast.database
    number = database.transaction(lambda s: s.scalar(sa.select(sa.func.max(Programme.id))) or 0)
    programme_id = opened(cast, hours=POOL, rules=tracks(), name=f"任意次序 {number}")

    def draft(by: Actor, hours: int) -> int:
        asked = Beginning(programme_id, cast.pool, HOURS(hours), DAY, LATER)
        return database.transaction(lambda s: requests.start(s, asked, by=by, now=NOW).id)

    ids = [draft(cast.manager, 9_001), draft(cast.manager, 30_001), draft(cast.stranger, 30_001)]
    for minute, (verb, name, index, hours) in enumerate([*BEGINNINGS[beginning], *steps]):
        at = NOW + dt.timedelta(minutes=minute)
        by = _person(cast, name if name != RIGHT else _right(verb, index, minute))
        turn = Turn(by, ids[index], ids[index - 1], hours, at, policy)
        with contextlib.suppress(Refusal, NotFound):
            database.transaction(lambda s, verb=verb, turn=turn: VERBS[verb](s, turn) and None)  # type: ignore[misc]
    with database.read_only() as session:
        assert verify.run(session) == []
        left = programme_left(session, [programme_id])[programme_id]
        every = list(session.scalars(sa.select(Allocation).where(Allocation.programme_id == programme_id)))
        out = [balance(session, allocation.id) for allocation in every]
        assert left >= 0 and left + sum(one.awarded for one in out) == HOURS(POOL)
        for allocation in every:
            _check(session, allocation)
    database.transaction(lambda s: _tidy(s, ids))


def _tidy(session: Session, ids: list[int]) -> None:
    """The next sequence begins anew: no ties, and no drafts of which a firm may have so many."""
    session.execute(sa.delete(Interest))
    for id in ids:
        if session.get_one(Allocation, id).state is AllocationState.DRAFT:
            service.withdraw(session, id, by=SYSTEM, now=NOW)


def _right(verb: str, index: int, minute: int) -> str:
    """Whose role allows the verb: the manager of the firm, or one of the bureau's in turn."""
    if verb in OWN:
        return ("lin", "lin", "mei")[index]
    return ("zhou", "wu", "an-as-operator")[minute % 3]


def _person(cast: Cast, name: str) -> Actor:
    if name == "lin-as-operator":
        return Actor.of(cast.users["lin"], frozenset({Role.OPERATOR, Role.ADMIN}))
    if name == "an-as-operator":
        return Actor.of(cast.users["an"], frozenset({Role.OPERATOR, Role.ADMIN}))
    return cast.actor(name)


def _check(session: Session, allocation: Allocation) -> None:
    """States, and whose word counted."""
    moves = session.execute(
        sa.select(HistoryEntry.before, HistoryEntry.after).where(
            HistoryEntry.kind == LIFE.kind, HistoryEntry.subject_id == allocation.id, HistoryEntry.before.is_not(None)
        )
    )
    assert all(before == after or LIFE.allows(before, after) for before, after in moves)
    said = list(session.scalars(sa.select(Opinion).where(Opinion.allocation_id == allocation.id)))
    bound = {
        interest.user_id: interest.declared_at
        for interest in session.scalars(sa.select(Interest).where(Interest.enterprise_id == allocation.enterprise_id))
    }

    def free(user_id: int | None, at: dt.datetime | None) -> bool:
        """Neither the applicant nor, by then, bound to the firm."""
        assert user_id is not None and at is not None
        return user_id != allocation.requested_by and not (user_id in bound and bound[user_id] < at)

    assert all(free(opinion.by_id, opinion.at) for opinion in said)
    wanted = service.track_of(session, allocation).deciders
    first = session.scalars(
        sa.select(Decision).where(Decision.allocation_id == allocation.id, Decision.on_appeal.is_(False))
    ).one_or_none()
    if first is not None and first.decided_by is not None:  # by people
        voices = {opinion.by_id for opinion in said if opinion.approves is first.approved}
        assert len(voices) >= wanted and first.decided_by in voices
        assert first.reason_code is not None or first.awarded_gpu_seconds == first.asked_gpu_seconds
    for appeal in session.scalars(sa.select(Appeal).where(Appeal.allocation_id == allocation.id)):
        _check_appeal(session, appeal, {opinion.by_id for opinion in said}, wanted, free)
    for change in session.scalars(sa.select(AllocationChange).where(AllocationChange.allocation_id == allocation.id)):
        decided = change.kind in (ChangeKind.SUPPLEMENT, ChangeKind.EXTENSION) and change.state is ChangeState.DONE
        if decided:
            assert free(change.decided_by, change.decided_at) and change.decided_by != change.requested_by
            assert wanted < 2 or (change.first_by is not None and change.first_by != change.decided_by)
    for report in session.scalars(sa.select(Report).where(Report.allocation_id == allocation.id)):
        if report.state is ReportState.ACCEPTED:
            assert free(report.decided_by, report.decided_at) and report.decided_by != report.handed_in_by
    if allocation.state in (AllocationState.DRAFT, AllocationState.DECLINED, AllocationState.WITHDRAWN):
        assert balance(session, allocation.id).awarded == 0


def _check_appeal(session: Session, appeal: Appeal, deciders: set[int], wanted: int, free: Callable[..., bool]) -> None:
    if appeal.state is AppealState.FILED:
        return
    voices = {appeal.decided_by} | set(
        session.scalars(
            sa.select(HistoryEntry.by_id).where(
                HistoryEntry.kind == Appeal.LIFE.kind,
                HistoryEntry.subject_id == appeal.id,
                HistoryEntry.verb == appeals.FIRST_APPROVAL,
            )
        )
    )
    assert free(appeal.decided_by, appeal.decided_at)
    assert not voices & deciders, "somebody else looks"
    assert appeal.state is AppealState.DISMISSED or len(voices) >= min(wanted, 2)
