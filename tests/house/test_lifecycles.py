"""The tables of states: every state can be reached, every table printed, and what is not in one is refused."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from sqlalchemy.orm import Session

from compute_portal import verify
from compute_portal.access import SYSTEM
from compute_portal.allocations.states import AllocationState, ChangeState, ReportState
from compute_portal.announcements.states import AnnouncementState
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState, WaiterState
from compute_portal.claims.states import ClaimState
from compute_portal.commons.states import DatasetState, SiteState, TransitionState
from compute_portal.enterprises.states import EnterpriseState
from compute_portal.language import WORDS, say
from compute_portal.lifecycle import Lifecycle, Move, list_history, move_all, move_to
from compute_portal.policy import Policy
from compute_portal.pools.states import MaintenanceState, NodeState, PoolState, PowerCapState
from compute_portal.review.states import AppealState
from compute_portal.sentences import Refusal
from compute_portal.signin.states import PersonState
from compute_portal.statements.states import DisputeState, StatementState
from compute_portal.tables import Base
from tests.cast import NOW, Cast

LIVES: dict[str, Lifecycle] = {
    mapper.class_.LIFE.kind: mapper.class_.LIFE for mapper in Base.registry.mappers if hasattr(mapper.class_, "LIFE")
}
# Where a thing may begin.
FIRST: dict[str, set[enum.StrEnum]] = {
    "announcement": {AnnouncementState.PUBLISHED},
    "allocation": {AllocationState.DRAFT, AllocationState.SUBMITTED},
    "appeal": {AppealState.FILED},
    "booking": {BookingState.SUBMITTED},
    "change": {ChangeState.SUBMITTED},
    "enterprise": {EnterpriseState.APPLIED},
    "maintenance": {MaintenanceState.PLANNED},
    "node": {NodeState.UP},
    "pool": {PoolState.OPEN},
    "power_cap": {PowerCapState.SET},
    "report": {ReportState.DUE},
    "person": {PersonState.ACTIVE},
    "statement": {StatementState.DRAFT},
    "dispute": {DisputeState.OPENED},
    "claim": {ClaimState.OPENED},
    "waiter": {WaiterState.WAITING},
    "dataset": {DatasetState.LISTED},
    "site": {SiteState.ANNOUNCED, SiteState.COMMITTED, SiteState.BUILDING, SiteState.ENERGISED},
    "transition": {TransitionState.RECORDED},
}
NOT_ALLOWED = [
    (kind, before, after)
    for kind, life in LIVES.items()
    for before in life.states
    for after in life.states
    if not life.allows(before, after)
]


def test_every_model_with_a_state_has_a_lifecycle_that_verify_knows() -> None:
    assert set(LIVES) == set(FIRST) == {life.kind for life in verify.LIFECYCLES}
    with_state = {mapper.class_.__name__ for mapper in Base.registry.mappers if "state" in mapper.columns}
    # A billing month, an instruction, a lease and a job have a few states of their own and no history.
    plain = {"BillingMonth", "Instruction", "Lease", "NodeInterval", "StatementJob"}
    with_life = {mapper.class_.__name__ for mapper in Base.registry.mappers if hasattr(mapper.class_, "LIFE")}
    # Whether a cap of power holds is told by when it was lifted, and a pool is always open.
    assert with_state - plain == with_life - {"PowerCap", "Pool"}


@pytest.mark.parametrize("kind", sorted(FIRST))
def test_every_state_can_be_reached_from_a_first_one(kind: str) -> None:
    life, reached = LIVES[kind], set(FIRST[kind])
    todo = list(reached)
    while todo:
        for after in life.moves.get(todo.pop(), frozenset()) - reached:
            reached.add(after)
            todo.append(after)
    assert reached == set(life.states), f"never reached: {sorted(set(life.states) - reached)}"


@pytest.mark.parametrize("kind", sorted(FIRST))
def test_every_table_holds_states_of_its_own_only_and_can_be_printed(kind: str) -> None:
    life = LIVES[kind]
    assert set(life.moves) <= set(life.states)
    assert all(after in set(life.states) for afters in life.moves.values() for after in afters)
    assert all(state not in afters for state, afters in life.moves.items()), "a move leads back to where it began"
    lines = [f"{state} → {' | '.join(sorted(life.moves.get(state, ()))) or '(end)'}" for state in life.states]
    # A declined application may be corrected and made again.
    endless = kind in ("node", "enterprise", "dataset")
    assert endless or any("(end)" in line for line in lines), "only nodes, enterprises and datasets live for ever"
    assert life.kind in WORDS, "a refusal names the kind"


@pytest.mark.parametrize("kind", sorted(FIRST))
def test_a_move_that_is_not_in_the_table_is_refused_before_anything_is_written(kind: str) -> None:
    class Thing:
        LIFE = LIVES[kind]
        id = 1
        state: object = None

    class NoSession:
        """Whoever writes is found out."""

    nothing: Any = NoSession()
    for _, before, after in (move for move in NOT_ALLOWED if move[0] == kind):
        thing: Any = Thing()
        thing.state = before
        with pytest.raises(Refusal) as refused:
            move_to(nothing, thing, after, verb="move", at=NOW, by=SYSTEM)
        assert refused.value.sentence.id == "no-such-move" and say(refused.value.sentence, "zh")
        with pytest.raises(Refusal) as refused:
            move_all(nothing, type(thing), [Move(1, before, NOW)], (after, "move"), by=SYSTEM)
        assert refused.value.sentence.id == "no-such-move"


def test_whoever_moves_second_is_told_that_somebody_was_faster(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(), policy.bookings)
    with Session(cast.database.engine) as slow:
        stale = slow.get_one(Booking, booking_id)
        slow.expunge(stale)
    cast.database.transaction(lambda s: bookings.cancel(s, booking_id, by=cast.member, now=NOW).id)
    with pytest.raises(Refusal) as refused:
        cast.database.transaction(lambda s: move_to(s, stale, BookingState.STARTING, verb="place", at=NOW, by=SYSTEM))
    assert refused.value.sentence.id == "moved-meanwhile"
    with pytest.raises(Refusal):
        cast.database.transaction(
            lambda s: move_all(
                s, Booking, [Move(booking_id, BookingState.QUEUED, NOW)], (BookingState.STARTING, "place"), by=SYSTEM
            )
        )
    with cast.database.read_only() as session:
        assert [row.verb for row in list_history(session, Booking.LIFE, booking_id)] == ["cancel", "approve", "submit"]
