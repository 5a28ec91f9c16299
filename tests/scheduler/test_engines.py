"""What every engine must do, whatever it runs on. A new adapter adds itself to ADAPTERS and passes all of this."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest

from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import HandOver
from compute_portal.pools import service as pools
from compute_portal.pools.states import NodeState
from compute_portal.sentences import Sentence
from scheduler.engines import Engine, EnginePolicy, LeaseState
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.planning.rules import Rules
from tests.cast import HOUR
from tests.scheduler.conftest import Town

MINUTE = dt.timedelta(minutes=1)
# Each makes an engine over the cast's pool: 4 nodes of 8 GPUs. It is called again for "the process was restarted".
ADAPTERS: dict[str, Callable[[Town], Engine]] = {
    "embedded": lambda town: EmbeddedEngine(town.cast.database, town.context.leader, Rules())
}


@pytest.fixture(params=ADAPTERS)
def make_engine(request: pytest.FixtureRequest, town: Town) -> Callable[[], Engine]:
    return lambda: ADAPTERS[request.param](town)


@pytest.fixture
def engine(make_engine: Callable[[], Engine]) -> Engine:
    return make_engine()


def handed(town: Town, *ids: int, now: dt.datetime | None = None) -> list[HandOver]:
    return town.cast.database.transaction(lambda s: attempts.write(s, ids, now=now or town.cast.now))


def test_what_is_handed_over_waits_until_it_is_placed(town: Town, engine: Engine) -> None:
    now = town.cast.now
    (one,) = handed(town, town.flexible(gpus=12, hours=2))
    references = engine.hand_over([one], now)
    assert list(references) == [one.key]
    assert references[one.key]
    found = engine.find(one.key)
    assert found is not None
    assert found.state is LeaseState.WAITING
    engine.place(now)
    found = engine.find(one.key)
    assert found is not None
    assert (found.state, found.placed_at, found.until_at) == (LeaseState.PLACED, now, now + 2 * HOUR)
    assert sorted(len(node["gpus"]) for node in found.nodes) == [4, 8]


def test_the_same_key_handed_over_twice_starts_once(town: Town, make_engine: Callable[[], Engine]) -> None:
    now = town.cast.now
    (one,) = handed(town, town.flexible(gpus=32, hours=1))
    first = make_engine()
    reference = first.hand_over([one], now)
    first.place(now)
    again = make_engine()
    assert again.hand_over([one], now + MINUTE) == reference
    again.place(now + MINUTE)
    found = again.find(one.key)
    assert found is not None
    assert found.placed_at == now
    again.stop([one.key], now + MINUTE)
    assert again.hand_over([one], now + 2 * MINUTE) == reference  # also after it ended
    again.place(now + 2 * MINUTE)
    found = again.find(one.key)
    assert found is not None
    assert found.state is LeaseState.ENDED


def test_a_key_that_never_arrived_is_not_found(engine: Engine) -> None:
    assert engine.find("booking-77-1") is None


def test_stopping_ends_what_waits_and_what_runs_and_may_be_repeated(town: Town, engine: Engine) -> None:
    now = town.cast.now
    running, waiting = handed(town, town.flexible(gpus=32, hours=3), town.flexible(gpus=32, hours=3))
    engine.hand_over([running, waiting], now)
    engine.place(now)
    for at in (now + HOUR, now + 2 * HOUR):
        engine.stop([running.key, waiting.key, "booking-77-1"], at)
    for key, placed in ((running.key, True), (waiting.key, False)):
        found = engine.find(key)
        assert found is not None
        assert (found.state, found.ended_at, found.failed) == (LeaseState.ENDED, now + HOUR, False)
        assert (found.placed_at is not None) is placed


def test_the_end_is_exact_also_when_it_is_noticed_late(town: Town, engine: Engine) -> None:
    now = town.cast.now
    (one,) = handed(town, town.flexible(gpus=4, hours=1))
    engine.hand_over([one], now)
    engine.place(now)
    assert engine.advance(now + HOUR - MINUTE) is False
    assert engine.advance(now + 3 * HOUR) is True
    found = engine.find(one.key)
    assert found is not None
    assert (found.state, found.ended_at, found.failed) == (LeaseState.ENDED, now + HOUR, False)


@pytest.mark.parametrize("hours", [1, 3], ids=["sooner", "later"])
def test_the_end_of_what_runs_is_moved_also_after_a_restart(
    town: Town, make_engine: Callable[[], Engine], hours: int
) -> None:
    now = town.cast.now
    (one,) = handed(town, town.flexible(gpus=4, hours=2))
    engine = make_engine()
    engine.hand_over([one], now)
    engine.place(now)
    for _twice in range(2):
        engine.move_ends({one.key: now + hours * HOUR, "never-arrived": now + HOUR}, now + MINUTE)
    assert engine.find("never-arrived") is None
    for each in (engine, make_engine()):
        found = each.find(one.key)
        assert found is not None
        assert (found.state, found.until_at) == (LeaseState.PLACED, now + hours * HOUR)
        assert each.advance(now + hours * HOUR - MINUTE) is False
    engine = make_engine()
    assert engine.advance(now + hours * HOUR + MINUTE) is True
    engine.move_ends({one.key: now + 9 * HOUR}, now + hours * HOUR + MINUTE)
    found = engine.find(one.key)
    assert found is not None
    assert (found.state, found.ended_at, found.failed) == (LeaseState.ENDED, now + hours * HOUR, False)


def test_what_changed_since_an_instant_is_observed_and_may_be_asked_again(
    town: Town, make_engine: Callable[[], Engine]
) -> None:
    now = town.cast.now
    first, second = handed(town, town.flexible(gpus=32, hours=1), town.flexible(gpus=32, hours=1))
    engine = make_engine()
    engine.hand_over([first, second], now)
    engine.place(now)
    for asked in (engine, engine, make_engine()):
        assert {one.key: one.state for one in asked.observe(now)} == {
            first.key: LeaseState.PLACED, second.key: LeaseState.WAITING,
        }  # fmt: skip
    engine.advance(now + HOUR)
    assert {one.key: one.state for one in engine.observe(now + MINUTE)} == {first.key: LeaseState.ENDED}
    assert {one.key for one in engine.observe(None)} == {second.key}  # all that waits or runs
    assert engine.observe(now + 2 * HOUR) == []


def test_nothing_is_placed_before_its_time_and_never_more_than_there_is(town: Town, engine: Engine) -> None:
    now = town.cast.now
    later = handed(town, town.flexible(gpus=4, hours=1, not_before_at=now + HOUR))
    many = handed(town, *(town.flexible(gpus=7, hours=2) for _ in range(6)))
    engine.hand_over([*later, *many], now)
    engine.place(now)
    placed = [one for one in engine.observe(now) if one.state is LeaseState.PLACED]
    assert len(placed) == 4
    assert len({node["node"] for one in placed for node in one.nodes}) == 4
    engine.stop([many[0].key], now + MINUTE)
    assert engine.find(later[0].key).state is LeaseState.WAITING  # type: ignore[union-attr]


def test_a_fixed_booking_gets_the_gpus_that_were_kept_for_it_at_its_start(town: Town, engine: Engine) -> None:
    now = town.cast.now
    start = now + HOUR
    id = town.fixed(gpus=8, start_in=1, hours=2)
    flexible = handed(town, *(town.flexible(gpus=8, hours=1) for _ in range(4)))
    engine.hand_over(flexible, now)
    engine.place(now)
    (fixed,) = handed(town, id, now=start)
    engine.advance(start)
    # The portal writes the ends and takes access back before anything new is placed.
    town.cast.database.transaction(lambda s: attempts.record_handed_over(s, {one.key: "" for one in flexible}, now=now))
    given = [attempts.Given(one.key, one.nodes, now, start, now) for one in engine.observe(start)]
    town.cast.database.transaction(lambda s: attempts.placed(s, given))
    town.cast.database.transaction(lambda s: attempts.ended(s, {one.key: start for one in given}, revoked_at=start))
    engine.hand_over([fixed], start)
    engine.place(start)
    found = engine.find(fixed.key)
    assert found is not None
    assert (found.state, found.placed_at, found.until_at) == (LeaseState.PLACED, start, start + 2 * HOUR)
    assert found.nodes == [{"node": "h800-n001", "gpus": list(range(8))}]


def test_a_node_that_fails_ends_what_runs_on_it_with_a_reason(town: Town, engine: Engine) -> None:
    now = town.cast.now
    one, other = handed(town, town.flexible(gpus=8, hours=5), town.flexible(gpus=8, hours=5))
    engine.hand_over([one, other], now)
    engine.place(now)
    found = engine.find(one.key)
    assert found is not None
    name = found.nodes[0]["node"]
    node_id = town.node(name)
    town.cast.database.transaction(
        lambda s: pools.change_node_state(
            s, node_id, NodeState.DOWN, verb="fail", by=town.cast.operator, now=now + HOUR
        )
    )
    assert engine.capacity(town.cast.pool) == 24
    engine.advance(now + HOUR + MINUTE)
    found = engine.find(one.key)
    assert found is not None
    assert (found.state, found.failed, found.ended_at) == (LeaseState.ENDED, True, now + HOUR)
    assert found.reason == Sentence("node-down", node=name)
    assert engine.find(other.key).state is LeaseState.PLACED  # type: ignore[union-attr]


def test_policy_may_be_pushed_again_and_capabilities_are_data(town: Town, engine: Engine) -> None:
    for _ in range(2):
        engine.sync(EnginePolicy([], {}, []))
    assert engine.capabilities.booking_units
    assert engine.capacity(town.cast.pool) == 32
    engine.set_node(town.node("h800-n001"), in_service=True)


def test_everything_that_waits_has_a_standing(town: Town, engine: Engine) -> None:
    now = town.cast.now
    ones = handed(town, *(town.flexible(gpus=32, hours=1) for _ in range(3)))
    engine.hand_over(ones, now)
    engine.place(now)
    places = engine.standings(now)[town.cast.pool]
    assert [(place.booking_id, place.place, place.waiting) for place in places] == [
        (ones[1].booking_id, 1, 2), (ones[2].booking_id, 2, 2),
    ]  # fmt: skip
