"""The planner against a literal EASY in sets and seconds, and one example per reason to wait."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.pools.availability import FOREVER, Availability, Cap, Closed, NodeGpus, Occupied, Placement, Unit
from compute_portal.sentences import Sentence
from scheduler.planning.fairshare import Leaf, rank
from scheduler.planning.planner import Decision, Snapshot, Standing, Waiting, plan
from scheduler.planning.rules import Rules

NOW = 1_000
FAIR_TREE = Rules(order="fair-tree")
Gpu = tuple[int, int]


def at(unix_seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_seconds, dt.UTC)


# -- properties -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class World:
    """What a snapshot is made of, kept so that the reference need not ask the availability under test."""

    nodes: list[NodeGpus]
    occupied: list[Occupied]
    closed: list[Closed]
    waiting: list[Waiting]
    leaves: list[Leaf]
    limits: dict[int, int]
    running: dict[int, int]
    unit: Unit
    caps: list[Cap] = dataclasses.field(default_factory=list)

    def powered(self, gpus: int, start: int, end: int) -> bool:
        """Whether caps allow so many more at every second of [start, end)."""
        full = (1 << self.nodes[0].gpus) - 1
        rows = [(o.starts_at, o.ends_at, (o.gpu_mask & full).bit_count()) for o in self.occupied]
        return all(
            gpus + sum(used for begins, ends, used in rows if begins <= second < ends) <= cap.gpus
            for cap in self.caps
            for second in range(max(start, cap.starts_at), min(end, cap.ends_at))
        )

    def snapshot(self) -> Snapshot:
        availability = Availability.build(self.nodes, self.occupied, self.closed, self.unit, self.caps)
        return Snapshot(NOW, availability, self.waiting, self.leaves, self.limits, self.running, rules=FAIR_TREE)

    def taken(self, start: int, end: int) -> set[Gpu]:
        """All (node, GPU) that something takes at some second of [start, end)."""
        rows = [(o.node_id, o.gpu_mask, o.starts_at, o.ends_at) for o in self.occupied]
        rows += [(c.node_id, 2**62 - 1, c.starts_at, c.ends_at) for c in self.closed]
        return {
            (node.id, gpu)
            for node_id, mask, starts_at, ends_at in rows
            for node in self.nodes
            if node.id == node_id and max(starts_at, start) < min(ends_at, end)
            for gpu in range(node.gpus)
            if mask >> gpu & 1
        }


def gpus_of(placement: Placement) -> set[Gpu]:
    return {(node_id, gpu) for node_id, mask in placement for gpu in range(62) if mask >> gpu & 1}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    size = draw(st.sampled_from([1, 2, 4]))
    nodes = [NodeGpus(id, size) for id in range(1, draw(st.integers(1, 4)) + 1)]
    ids = st.sampled_from([node.id for node in nodes])
    masks = st.integers(1, 15)
    runs = st.builds(Occupied, ids, masks, st.just(NOW - 10), st.integers(NOW + 1, NOW + 25))
    future = st.integers(NOW + 1, NOW + 30)
    fixed = st.builds(lambda n, m, s, d: Occupied(n, m, s, s + d, True), ids, masks, future, st.integers(1, 10))
    closed = st.builds(Closed, ids, st.sampled_from([NOW, NOW + 12]), st.sampled_from([NOW + 20, FOREVER]))
    caps = st.builds(
        lambda at, d, gpus: Cap(at, at + d, gpus), st.integers(NOW - 5, NOW + 25), st.integers(1, 20), st.integers(0, 8)
    )
    enterprises = draw(st.integers(1, 3))
    unit: Unit = draw(st.sampled_from(["gpu", "gpu", "node"]))
    waiting = [
        Waiting(
            key=f"booking-{id}-1",
            booking_id=id,
            gpus=draw(st.integers(1, 7)) if unit == "gpu" else size * draw(st.integers(1, 3)),
            seconds=draw(st.integers(1, 20)),
            submitted_at=draw(st.integers(NOW - 5, NOW)),
            not_before=draw(st.sampled_from([0, 0, 0, NOW, NOW + 5])),
            programme_id=1,
            enterprise_id=(enterprise := draw(st.integers(1, enterprises))),
            allocation_id=enterprise * 10,
            allocation_ends_at=draw(st.sampled_from([FOREVER, FOREVER, NOW + 10, NOW + 30])),
            gpu_seconds_left=draw(st.sampled_from([None, None, 30])),
        )
        for id in draw(st.permutations(range(1, draw(st.integers(0, 9)) + 1)))
    ]
    counts = st.dictionaries(st.integers(1, enterprises), st.integers(0, 8))
    power = draw(st.one_of(st.just([]), st.lists(caps, max_size=2)))
    occupied = draw(st.lists(runs, max_size=5)) + draw(st.lists(fixed, max_size=3))
    return World(
        nodes,
        _once_each(occupied) if power else occupied,
        draw(st.lists(closed, max_size=1)),
        waiting,
        [Leaf(1, 1, e, 1, e * 10, 1, draw(st.integers(0, 3))) for e in range(1, enterprises + 1)],
        draw(counts),
        draw(counts),
        unit,
        power,
    )


def _once_each(rows: list[Occupied]) -> list[Occupied]:
    """Without those that hold a GPU which another row has at the same time: the database lets none in, and what is in
    use is counted row by row."""
    kept: list[Occupied] = []
    for row in rows:
        if not any(
            row.node_id == other.node_id
            and row.gpu_mask & other.gpu_mask
            and row.starts_at < other.ends_at
            and other.starts_at < row.ends_at
            for other in kept
        ):
            kept.append(row)
    return kept


def place(world: World, taken: set[Gpu], gpus: int) -> Placement | None:
    """One node by best fit, or whole empty nodes and the rest: equal nodes, so a plain walk."""
    size = world.nodes[0].gpus
    free = {n.id: [g for g in range(size) if (n.id, g) not in taken] for n in world.nodes}
    chosen: dict[int, list[int]] = {}
    whole, rest = divmod(gpus, size) if gpus > size or world.unit == "node" else (0, gpus)
    empty = [id for id in free if len(free[id]) == size]
    if len(empty) < whole:
        return None
    for id in empty[:whole]:
        chosen[id] = free.pop(id)
    if rest:
        fitting = [id for id in free if len(free[id]) >= rest]
        if not fitting:
            return None
        best = min(fitting, key=lambda id: (len(free[id]), id))
        chosen[best] = free[best][:rest]
    return tuple((id, sum(1 << gpu for gpu in chosen[id])) for id in sorted(chosen))


def place_beside(world: World, taken: set[Gpu], taken_now: set[Gpu], gpus: int) -> Placement | None:
    """A reservation's GPUs: best fit again, but of equals the node and the GPUs that are busy now."""
    size = world.nodes[0].gpus
    free = {n.id: [g for g in range(size) if (n.id, g) not in taken] for n in world.nodes}
    free_now = {n.id: [g for g in range(size) if (n.id, g) not in taken_now] for n in world.nodes}
    chosen: dict[int, list[int]] = {}
    whole, rest = divmod(gpus, size) if gpus > size or world.unit == "node" else (0, gpus)
    empty = sorted((id for id in free if len(free[id]) == size), key=lambda id: (len(free_now[id]), id))
    if len(empty) < whole:
        return None
    for id in empty[:whole]:
        chosen[id] = free.pop(id)
    if rest:
        fitting = [id for id in free if len(free[id]) >= rest]
        if not fitting:
            return None
        best = min(fitting, key=lambda id: (len(free[id]), len(free_now[id]), id))
        chosen[best] = sorted(free[best], key=lambda gpu: (gpu in free_now[best], gpu))[:rest]
    return tuple((id, sum(1 << gpu for gpu in chosen[id])) for id in sorted(chosen))


def literal_easy(world: World) -> tuple[dict[int, Placement], tuple[int, int] | None]:
    """Starts by booking id, and (booking id, start) of the head's reservation."""
    world = dataclasses.replace(world, occupied=list(world.occupied))
    factors = rank(world.leaves)
    running = dict(world.running)
    starts: dict[int, Placement] = {}
    head: tuple[int, int] | None = None
    for w in sorted(world.waiting, key=lambda w: (-factors[w.allocation_id], w.submitted_at, w.booking_id)):
        if (
            w.not_before > NOW
            or NOW + w.seconds > w.allocation_ends_at
            or (w.gpu_seconds_left is not None and w.gpus * w.seconds > w.gpu_seconds_left)
            or running.get(w.enterprise_id, 0) + w.gpus > world.limits.get(w.enterprise_id, 10**9)
        ):
            continue
        last = min(w.allocation_ends_at - w.seconds, NOW + 200) if head is None else NOW
        for start in range(NOW, last + 1):
            taken = world.taken(start, start + w.seconds)
            placement = place(world, taken, w.gpus)
            if start > NOW:
                placement = place_beside(world, taken, world.taken(NOW, NOW + 1), w.gpus)
            if placement is None or not world.powered(w.gpus, start, start + w.seconds):
                continue
            world.occupied += [Occupied(n, m, start, start + w.seconds) for n, m in placement]
            if start == NOW:
                starts[w.booking_id] = placement
                running[w.enterprise_id] = running.get(w.enterprise_id, 0) + w.gpus
            else:
                head = (w.booking_id, start)
            break
    return starts, head


def summary(decision: Decision) -> tuple[dict[int, Placement], tuple[int, int] | None]:
    starts = {start.waiting.booking_id: start.placement for start in decision.starts}
    heads = [(s.waiting.booking_id, s.expected_at) for s in decision.standings if s.expected_at is not None]
    assert len(heads) <= 1
    return starts, heads[0] if heads else None


@given(worlds())
def test_the_decision_is_that_of_easy_written_down_literally(world: World) -> None:
    assert summary(plan(world.snapshot())) == literal_easy(world)


@given(worlds())
def test_nothing_is_overbooked_and_no_fixed_booking_or_maintenance_is_overlapped(world: World) -> None:
    given_out: set[Gpu] = set()
    for start in plan(world.snapshot()).starts:
        assert start.ends_at == NOW + start.waiting.seconds
        gpus = gpus_of(start.placement)
        assert len(gpus) == start.waiting.gpus
        assert not gpus & world.taken(NOW, start.ends_at)
        assert not gpus & given_out, "all starts begin together, so they must not share a GPU"
        given_out |= gpus


@given(worlds())
def test_backfill_never_delays_the_head(world: World) -> None:
    decision = plan(world.snapshot())
    _, head = summary(decision)
    if head is None:
        return
    standing = next(s for s in decision.standings if s.expected_at is not None)
    after = dataclasses.replace(
        world,
        occupied=world.occupied
        + [Occupied(n, m, NOW, start.ends_at) for start in decision.starts for n, m in start.placement],
    )
    # Everything runs as long as it may, and nothing else starts: the head can start when it was told, or before.
    length, gpus = standing.waiting.seconds, standing.waiting.gpus
    first = next(
        t
        for t in range(NOW, NOW + 300)
        if place(after, after.taken(t, t + length), gpus) and after.powered(gpus, t, t + length)
    )
    assert first <= head[1]


@given(worlds())
def test_no_quota_is_exceeded_and_nobody_starts_before_the_time_they_named(world: World) -> None:
    starts = plan(world.snapshot()).starts
    for enterprise, limit in world.limits.items():
        started = sum(s.waiting.gpus for s in starts if s.waiting.enterprise_id == enterprise)
        assert started == 0 or world.running.get(enterprise, 0) + started <= limit
    for start in starts:
        assert start.waiting.not_before <= NOW
        assert start.ends_at <= start.waiting.allocation_ends_at


@given(worlds(), st.randoms(use_true_random=False))
def test_the_same_facts_give_the_same_decision_in_whatever_order_they_come(world: World, chance: random.Random) -> None:
    snapshot = world.snapshot()
    decision = plan(snapshot)
    assert plan(snapshot) == decision, "planning does not change the snapshot"
    assert plan(world.snapshot(), standings=False).starts == decision.starts
    for rows in (world.waiting, world.occupied, world.leaves):
        chance.shuffle(rows)
    assert plan(world.snapshot()) == decision


@given(worlds())
def test_everybody_who_does_not_start_has_a_place_and_a_reason(world: World) -> None:
    decision = plan(world.snapshot())
    started = {start.waiting.booking_id for start in decision.starts}
    assert {s.waiting.booking_id for s in decision.standings} == {w.booking_id for w in world.waiting} - started
    assert [s.place for s in decision.standings] == list(range(1, len(decision.standings) + 1))
    for standing in decision.standings:
        numbers = dict(standing.reason.values)
        assert standing.reason.id.startswith("wait-")
        if standing.reason.id in ("wait-cards", "wait-nodes"):
            assert numbers["free"] < numbers["asked"]  # type: ignore[operator]
        if standing.reason.id == "wait-ahead":
            assert numbers["n"] == standing.place - 1 >= 1
        if standing.reason.id in ("wait-fixed", "wait-maintenance"):
            assert (numbers.get("at") or numbers.get("until")) > at(NOW)  # type: ignore[operator]


# -- order ------------------------------------------------------------------------------------------------------------


def waits(id: int, gpus: int = 1, seconds: int = 100, enterprise: int = 1, **changes: Any) -> Waiting:
    facts: dict[str, Any] = {
        "key": f"booking-{id}-1",
        "booking_id": id,
        "gpus": gpus,
        "seconds": seconds,
        "submitted_at": NOW - 50,
        "not_before": 0,
        "programme_id": 1,
        "enterprise_id": enterprise,
        "allocation_id": enterprise * 10,
        "allocation_ends_at": FOREVER,
    }
    return Waiting(**(facts | changes))


def seen(
    waiting: Sequence[Waiting],
    occupied: Sequence[Occupied] = (),
    closed: Sequence[Closed] = (),
    nodes: int = 2,
    usage: tuple[float, ...] = (0.0, 0.0, 0.0),
    limits: dict[int, int] | None = None,
    running: dict[int, int] | None = None,
    unit: Unit = "gpu",
) -> Snapshot:
    """Nodes 1 … of 8 GPUs; enterprises 1 … with equal shares and this usage."""
    availability = Availability.build([NodeGpus(n, 8) for n in range(1, nodes + 1)], occupied, closed, unit)
    leaves = [Leaf(1, 1, e, 1, e * 10, 1, used) for e, used in enumerate(usage, start=1)]
    return Snapshot(NOW, availability, waiting, leaves, limits or {}, running or {}, rules=FAIR_TREE)


def started(snapshot: Snapshot) -> list[int]:
    return [start.waiting.booking_id for start in plan(snapshot).starts]


def standing_of(id: int, snapshot: Snapshot) -> Standing:
    return next(standing for standing in plan(snapshot).standings if standing.waiting.booking_id == id)


def test_what_waits_on_an_overdrawn_allocation_comes_last_and_still_starts_where_there_is_room() -> None:
    queue = [waits(1, enterprise=1), waits(2, enterprise=2), waits(3, enterprise=3)]
    snapshot = seen(queue, usage=(0.0, 900.0, 100.0))
    first = dataclasses.replace(snapshot.leaves[0], low_priority=True)
    assert started(snapshot) == [1, 3, 2]
    assert started(dataclasses.replace(snapshot, leaves=[first, *snapshot.leaves[1:]])) == [3, 2, 1]


def test_who_used_less_comes_first_then_who_came_first_then_the_lower_number() -> None:
    queue = [
        waits(1, enterprise=1, submitted_at=NOW - 900),
        waits(5, enterprise=3, submitted_at=NOW - 10),
        waits(4, enterprise=3, submitted_at=NOW - 10),
        waits(3, enterprise=3, submitted_at=NOW - 20),
        waits(2, enterprise=2, submitted_at=NOW - 5),
    ]
    assert started(seen(queue, usage=(900.0, 100.0, 300.0))) == [2, 3, 4, 5, 1]


def test_a_later_booking_fills_a_gap_only_if_the_head_starts_as_soon_all_the_same() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100), Occupied(2, 0x0F, 0, NOW + 500)]
    head = waits(1, gpus=8, seconds=1_000)
    short, long, small_and_long = waits(2, 4, 500), waits(3, 4, 501), waits(4, 1, 100)
    # The head gets node 1 at NOW + 100, so node 2's free half is nobody's: long runs fill it too.
    assert started(seen([head, short], runs)) == [2]
    assert started(seen([head, long], runs)) == [3]
    # A head of 16 needs both nodes at NOW + 500.
    large = waits(1, gpus=16, seconds=1_000)
    assert started(seen([large, short, small_and_long], runs)) == [2]
    assert started(seen([large, long, small_and_long], runs)) == [4]
    assert standing_of(1, seen([large, short], runs)).expected_at == NOW + 500


def test_a_booking_held_back_by_its_own_limit_keeps_no_gpus_from_others() -> None:
    queue = [waits(1, gpus=16, enterprise=1), waits(2, gpus=16, enterprise=2)]
    snapshot = seen(queue, limits={1: 16}, running={1: 8})
    assert started(snapshot) == [2]
    assert standing_of(1, snapshot).expected_at is None


def test_a_limit_counts_what_this_round_started() -> None:
    snapshot = seen([waits(1, gpus=4), waits(2, gpus=4), waits(3, gpus=1)], limits={1: 10}, running={1: 2})
    assert started(snapshot) == [1, 2]
    assert standing_of(3, snapshot).reason == Sentence("wait-limit", limit=10, used=10, asked=1)


def test_a_booking_that_nothing_can_place_keeps_no_gpus_from_others() -> None:
    down = [Closed(1, 0, FOREVER)]
    snapshot = seen([waits(1, gpus=16), waits(2, gpus=8), waits(3, gpus=16, seconds=200)], closed=down)
    assert started(snapshot) == [2]
    assert standing_of(1, snapshot).reason == Sentence("wait-nodes", asked=2, free=0)
    assert standing_of(1, snapshot).expected_at is None


def test_no_gpus_are_kept_for_a_head_whose_allocation_ends_before_it_could_run() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100)]
    late = waits(1, gpus=16, seconds=100, allocation_ends_at=NOW + 199)
    assert started(seen([late, waits(2, gpus=8, seconds=500)], runs)) == [2]
    in_time = waits(1, gpus=16, seconds=100, allocation_ends_at=NOW + 200)
    assert started(seen([in_time, waits(2, gpus=8, seconds=500)], runs)) == []


def test_a_hopeless_booking_says_nothing_about_a_shorter_one_or_one_whose_allocation_ends_later() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100)]
    late = waits(1, gpus=16, seconds=100, allocation_ends_at=NOW + 150)
    for next_in_line in (waits(2, gpus=16, seconds=100), waits(2, gpus=16, seconds=50, allocation_ends_at=NOW + 150)):
        snapshot = seen([late, next_in_line, waits(3, gpus=8, seconds=500)], runs)
        assert started(snapshot) == []
        assert standing_of(1, snapshot).expected_at is None
        assert standing_of(2, snapshot).expected_at == NOW + 100


def test_a_hopeless_booking_says_nothing_about_a_shorter_one_that_ends_before_the_fixed_booking() -> None:
    rows = [Occupied(1, 0xFF, 0, NOW + 10), Occupied(1, 0xFF, NOW + 40, NOW + 900, True)]
    long, short = waits(1, 8, 100, allocation_ends_at=NOW + 500), waits(2, 8, 20, allocation_ends_at=NOW + 100)
    snapshot = seen([long, short], rows, nodes=1)
    assert standing_of(1, snapshot).expected_at is None
    assert standing_of(2, snapshot).expected_at == NOW + 10


def test_a_number_that_a_pool_of_whole_nodes_never_gives_holds_up_nobody() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100)]
    snapshot = seen([waits(1, gpus=3), waits(2, gpus=16), waits(3, gpus=8, seconds=500)], runs, unit="node")
    assert started(snapshot) == []
    assert standing_of(2, snapshot).expected_at == NOW + 100
    assert standing_of(1, snapshot).reason.id == "wait-nodes"
    assert standing_of(1, seen([waits(1, gpus=3)], unit="node")).reason.id == "wait-nodes"


def test_an_allocation_that_the_snapshot_forgot_is_a_mistake_not_a_place_at_the_end() -> None:
    with pytest.raises(KeyError):
        plan(seen([waits(1, enterprise=9)]))


def test_with_an_empty_queue_there_is_nothing_to_decide() -> None:
    assert plan(seen([])) == Decision([], [])


# -- reasons ----------------------------------------------------------------------------------------------------------


def reason(id: int, snapshot: Snapshot) -> Sentence:
    return standing_of(id, snapshot).reason


def test_the_limit_is_named_with_what_runs_and_what_is_asked() -> None:
    snapshot = seen([waits(1, gpus=8)], limits={1: 12}, running={1: 6})
    assert reason(1, snapshot) == Sentence("wait-limit", limit=12, used=6, asked=8)


def test_missing_gpus_are_named_with_how_many_fit() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100), Occupied(2, 0x1F, 0, NOW + 100)]
    assert reason(1, seen([waits(1, gpus=4)], runs)) == Sentence("wait-cards", asked=4, free=3)
    assert standing_of(1, seen([waits(1, gpus=4)], runs)).expected_at == NOW + 100


def test_missing_gpus_are_counted_after_the_starts_of_the_round() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100), Occupied(2, 0x1F, 0, NOW + 100)]
    snapshot = seen([waits(1, gpus=4), waits(2, gpus=2)], runs)
    assert started(snapshot) == [2]
    assert reason(1, snapshot) == Sentence("wait-cards", asked=4, free=1)


def test_missing_whole_nodes_are_named() -> None:
    runs = [Occupied(2, 0x01, 0, NOW + 100)]
    assert reason(1, seen([waits(1, gpus=16)], runs)) == Sentence("wait-nodes", asked=2, free=1)
    assert reason(1, seen([waits(1, gpus=16)], runs, unit="node")) == Sentence("wait-nodes", asked=2, free=1)


def test_who_would_fit_is_told_how_many_stand_ahead() -> None:
    runs = [Occupied(1, 0xFF, 0, NOW + 100)]
    queue = [waits(1, gpus=16, enterprise=2), waits(2, gpus=4, seconds=200, enterprise=1)]
    assert reason(2, seen(queue, runs, usage=(50.0, 10.0))) == Sentence("wait-ahead", n=1)


def test_a_confirmed_booking_that_takes_the_gpus_is_named_with_its_start() -> None:
    fixed = [Occupied(1, 0xFF, NOW + 60, NOW + 90, True), Occupied(2, 0xFF, NOW + 80, NOW + 90, True)]
    snapshot = seen([waits(1, gpus=8, seconds=5_000)], fixed)
    assert reason(1, snapshot) == Sentence("wait-fixed", at=at(NOW + 80), hours=2)
    assert standing_of(1, snapshot).expected_at == NOW + 90


def test_a_confirmed_booking_is_named_also_when_a_kept_slot_takes_the_other_gpus() -> None:
    rows = [Occupied(1, 0xFF, NOW + 20, NOW + 90, True), Occupied(2, 0xFF, NOW + 50, NOW + 90)]
    assert reason(1, seen([waits(1, gpus=8)], rows)) == Sentence("wait-fixed", at=at(NOW + 20), hours=1)


def test_maintenance_is_named_with_its_end() -> None:
    window = [Closed(1, NOW - 10, NOW + 500), Closed(2, NOW + 50, NOW + 400)]
    snapshot = seen([waits(1, gpus=8, seconds=100)], closed=window)
    assert reason(1, snapshot) == Sentence("wait-maintenance", until=at(NOW + 500))
    assert standing_of(1, snapshot).expected_at == NOW + 400


def test_a_wish_to_start_later_is_named() -> None:
    assert reason(1, seen([waits(1, not_before=NOW + 30)])) == Sentence("wait-not-before", at=at(NOW + 30))


def test_an_allocation_that_ends_too_soon_is_named() -> None:
    snapshot = seen([waits(1, seconds=100, allocation_ends_at=NOW + 99)])
    assert reason(1, snapshot) == Sentence("wait-allocation-ends", ends_at=at(NOW + 99), longest=100)


def test_too_few_hours_are_named() -> None:
    snapshot = seen([waits(1, gpus=4, seconds=100, gpu_seconds_left=399)])
    assert reason(1, snapshot) == Sentence("wait-hours", needed=400, available=399)


def test_a_booking_larger_than_the_pool_is_told_so() -> None:
    assert reason(1, seen([waits(1, gpus=17)])) == Sentence("wait-too-large", asked=17, capacity=16)
