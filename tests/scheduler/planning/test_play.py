"""A pool in virtual time: what must hold at every instant, and that the living pool would decide the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal.pools.availability import FOREVER, Availability, NodeGpus, Occupied
from scheduler.planning.board import CountBoard, NodeBoard
from scheduler.planning.decide import OPEN, Gate
from scheduler.planning.fairshare import Leaf
from scheduler.planning.line import Line, Running, Waiting
from scheduler.planning.planner import Snapshot, in_order, plan
from scheduler.planning.play import Arrival, FixedArrival, Play, Started, Usage, forward
from scheduler.planning.rules import Backfill, Order, Rules

HOUR = 3_600
ORDERS: tuple[Order, ...] = ("fifo", "sjf", "saf", "fair-tree", "small-first")


def job(id: int, at: int, gpus: int, asks: int, runs: int | None = None, team: int = 1) -> Arrival:
    waiting = Waiting(f"j{id}", id, gpus, asks, at, 0, 1, team, team, FOREVER)
    return Arrival(waiting, asks if runs is None else runs)


def rules_for(order: Order, backfill: Backfill = "easy") -> Rules:
    """Small numbers, so that a short trace meets every part of an order."""
    return Rules(order=order, backfill=backfill, half_life_seconds=40, promise_seconds=30, promise_reservations=2)


def play(
    arrivals: Sequence[Arrival],
    board: NodeBoard | CountBoard,
    rules: Rules,
    fixed: Sequence[FixedArrival] = (),
    shares: Sequence[int] = (1, 1, 1),
    gate: Gate = OPEN,
) -> Play:
    leaves = [Leaf(1, 1, team, share, team, 1, 0.0) for team, share in enumerate(shares, start=1)]
    game = Play(board, Line(rules), rules, Usage(leaves, rules.half_life_seconds), gate)
    game.run(arrivals, fixed)
    return game


@dataclasses.dataclass
class Trace:
    size: int
    nodes: int
    arrivals: list[Arrival]
    fixed: list[FixedArrival]


@st.composite
def traces(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 4)) -> Trace:
    size, nodes = draw(st.sampled_from(sizes)), draw(st.integers(1, 4))
    at = 0
    arrivals = []
    for id in range(1, draw(st.integers(1, 25)) + 1):
        at += draw(st.sampled_from([0, 0, 1, 3, 8]))
        asks = draw(st.integers(1, 25))
        gpus = draw(st.integers(1, min(nodes * size, 2 * size + 1)))
        arrivals.append(job(id, at, gpus, asks, draw(st.integers(0, asks + 2)), draw(st.integers(1, 3))))
    fixed = [
        FixedArrival(
            announce, f"b{n}", start := announce + draw(st.integers(0, 40)), start + draw(st.integers(1, 12)), g
        )
        for n, (announce, g) in enumerate(
            draw(st.lists(st.tuples(st.integers(0, 50), st.integers(1, nodes * size)), max_size=3))
        )
    ]
    return Trace(size, nodes, arrivals, fixed)


def per_node(started: Sequence[Started], instant: int) -> dict[int, int]:
    """GPU masks in use at an instant by node; raises where one is used twice."""
    used: dict[int, int] = {}
    for one in started:
        if one.start <= instant < one.end:
            for node, mask in one.placement:
                assert not used.get(node, 0) & mask, f"GPU given twice on node {node} at {instant}"
                used[node] = used.get(node, 0) | mask
    return used


@given(traces(), st.sampled_from(ORDERS), st.sampled_from(["none", "easy"]))
def test_no_gpu_is_given_twice_everybody_runs_once_and_fixed_bookings_keep_their_nodes(
    trace: Trace, order: Order, backfill: Backfill
) -> None:
    game = play(trace.arrivals, NodeBoard([trace.size] * trace.nodes), rules_for(order, backfill), trace.fixed)
    assert sorted(one.waiting.booking_id for one in game.started) == [one.waiting.booking_id for one in trace.arrivals]
    runs = {one.waiting.booking_id: min(one.runs, one.waiting.seconds) for one in trace.arrivals}
    refused = {one.id for one in game.refused}
    kept = [one for one in trace.fixed if one.id not in refused]
    for one in game.started:
        assert one.start >= one.waiting.submitted_at and one.end - one.start == runs[one.waiting.booking_id]
        assert sum(mask.bit_count() for _node, mask in one.placement) == one.waiting.gpus
        assert len(one.placement) == -(-one.waiting.gpus // trace.size)
    for instant in {one.start for one in game.started} | {one.start for one in kept}:
        busy = per_node(game.started, instant)
        now = [one for one in kept if one.start <= instant < one.end]
        assert trace.nodes - len(busy) >= sum(-(-one.gpus // trace.size) for one in now)


@given(traces(sizes=(1,)), st.sampled_from(["fifo", "sjf", "saf", "fair-tree"]), st.sampled_from(["none", "easy"]))
def test_counting_gpus_and_naming_nodes_of_one_gpu_decide_the_same(
    trace: Trace, order: Order, backfill: Backfill
) -> None:
    """With one reservation at a time, and nothing fixed: two windows on named nodes may leave less than on counted."""
    named = play(trace.arrivals, NodeBoard([1] * trace.nodes), rules_for(order, backfill))
    counted = play(trace.arrivals, CountBoard(trace.nodes), rules_for(order, backfill))
    assert [(one.waiting, one.start) for one in named.started] == [(one.waiting, one.start) for one in counted.started]


@given(traces(), st.sampled_from(ORDERS), st.sampled_from(["none", "easy"]))
def test_counted_gpus_are_never_more_than_there_are_beside_what_is_fixed(
    trace: Trace, order: Order, backfill: Backfill
) -> None:
    capacity = trace.nodes * trace.size
    game = play(trace.arrivals, CountBoard(capacity), rules_for(order, backfill), trace.fixed)
    refused = {one.id for one in game.refused}
    kept = [(one.start, one.end, one.gpus) for one in trace.fixed if one.id not in refused]
    taken = [(one.start, one.end, one.waiting.gpus) for one in game.started] + kept
    assert len(game.started) == len(trace.arrivals)
    for instant, _end, _gpus in taken:
        assert sum(gpus for start, end, gpus in taken if start <= instant < end) <= capacity


@given(traces(), st.sampled_from(["fifo", "sjf", "saf"]))
def test_the_short_way_through_one_list_decides_as_the_long_one_does(trace: Trace, order: Order) -> None:
    rules = rules_for(order)
    short = play(trace.arrivals, NodeBoard([trace.size] * trace.nodes), rules, trace.fixed)
    long = play(trace.arrivals, NodeBoard([trace.size] * trace.nodes), rules, trace.fixed, gate=Gate())
    assert short.started == long.started


@settings(max_examples=40)
@given(traces(), st.sampled_from(ORDERS))
def test_the_living_pool_decides_the_same_from_the_same_state(trace: Trace, order: Order) -> None:
    rules = rules_for(order)
    told: list[tuple[int, list[tuple[int, object]]]] = []

    def look(now: int, game: Play) -> None:
        """The same state as a cycle would see it: rows of occupancies, bookings in any order, usage as stored."""
        assert isinstance(game.board, NodeBoard)
        rows = [Occupied(node, mask, 0, end) for end, node, mask in game.board.ends]
        rows += [Occupied(node, mask, start, end, True) for start, end, node, mask in game.board.booked]
        nodes = [NodeGpus(node, trace.size) for node in range(trace.nodes)]
        snapshot = Snapshot(
            now, Availability.build(nodes, rows, []), list(game.line)[::-1], game.usage.leaves(now), {}, {},
            rules=rules, placed=[
                Running("", 0, run.gpus, 0, 0, 0, 0, run.until, run.placement, promised=run.promised)
                for _end, _number, run in game.running
            ],
        )  # fmt: skip
        decision = plan(snapshot, standings=False)
        assert plan(snapshot).starts == decision.starts
        told.append((now, [(start.waiting.booking_id, start.placement) for start in decision.starts]))

    leaves = [Leaf(1, 1, team, 1, team, 1, 0.0) for team in (1, 2, 3)]
    game = Play(
        NodeBoard([trace.size] * trace.nodes), Line(rules), rules, Usage(leaves, rules.half_life_seconds), seen=look
    )
    game.run(trace.arrivals, trace.fixed)
    expected = [(now, id, placement) for now, starts in told for id, placement in starts]
    assert [(one.start, one.waiting.booking_id, one.placement) for one in game.started] == expected


@given(traces(), st.sampled_from(ORDERS))
def test_a_forward_simulation_of_the_living_pool_is_the_rest_of_the_play(trace: Trace, order: Order) -> None:
    """With what really happens for its expectations, and nobody else to come, the forecast is what comes true."""
    rules = rules_for(order)
    arrivals = [Arrival(dataclasses.replace(one.waiting, submitted_at=0), max(1, one.runs)) for one in trace.arrivals]
    nodes = [NodeGpus(node, trace.size) for node in range(trace.nodes)]
    leaves = [Leaf(1, 1, team, 1, team, 1, 0.0) for team in (1, 2, 3)]
    snapshot = Snapshot(
        0, Availability.build(nodes, [], []), [one.waiting for one in arrivals], leaves, {}, {}, rules=rules
    )
    told = forward(snapshot, {one.waiting.booking_id: one.runs for one in arrivals}, {})
    game = play(arrivals, NodeBoard([trace.size] * trace.nodes), rules)
    assert told == {one.waiting.booking_id: one.start for one in game.started}


def test_a_fixed_booking_that_begins_as_it_is_announced_has_its_gpus_at_once() -> None:
    fixed = [FixedArrival(5, "now", 5, 20, 1)]
    for board in (CountBoard(2), NodeBoard([1, 1])):
        game = play([job(1, 5, 2, 10), job(2, 5, 1, 10)], board, rules_for("sjf"), fixed)
        assert [(one.waiting.booking_id, one.start) for one in game.started] == [(2, 5), (1, 20)]


def test_a_forward_simulation_knows_what_runs_and_what_is_fixed() -> None:
    nodes = [NodeGpus(7, 4)]
    rows = [Occupied(7, 0b0011, 0, 500), Occupied(7, 0b1111, 900, 1_000, True)]
    snapshot = Snapshot(
        100, Availability.build(nodes, rows, []), [job(1, 50, 4, 600).waiting, job(2, 60, 4, 300).waiting],
        [Leaf(1, 1, 1, 1, 1, 1, 0.0)], {}, {1: 2}, rules=Rules(order="fifo"),
        placed=[Running("r", 9, 2, 1, 1, 0, 0, 500, ((7, 0b0011),))],
    )  # fmt: skip
    # 600 s fit before the fixed hours only from 300 on, which nobody can know: it has until 500 by its longest run.
    assert forward(snapshot, {}, {}) == {1: 1_000, 2: 500}
    assert forward(snapshot, {1: 10}, {9: 250}) == {1: 250, 2: 260}
    assert forward(snapshot, {}, {}, horizon=600) == {2: 500}


# -- usage ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 3)), max_size=8), st.integers(1, 100))
def test_usage_kept_incrementally_is_the_integral_of_what_ran(steps: list[tuple[int, int]], half_life: int) -> None:
    usage = Usage([Leaf(1, 1, 1, 1, 1, 1, 64.0)], half_life)
    now, gpus, slow = 0, 0, 64.0
    fine = 200
    for wait, change in steps:
        kept = 0.5 ** (1 / (half_life * fine))
        for _ in range(wait * fine):
            slow = slow * kept + gpus / fine
        now += wait
        gpus += change
        usage.change(1, change, now)
    assert usage.leaves(now)[0].usage == pytest.approx(slow, rel=0.01, abs=0.5)


# -- nobody starves ---------------------------------------------------------------------------------------------------

PROMISE, DAY = 4 * HOUR, 24 * HOUR


def weeks(flood: Sequence[Arrival], victims: Sequence[Arrival]) -> list[Arrival]:
    return sorted([*flood, *victims], key=lambda one: one.waiting.turn)


def longest_wait(game: Play, first_victim: int) -> int:
    waits = [one.start - one.waiting.submitted_at for one in game.started if one.waiting.booking_id >= first_victim]
    assert waits
    return max(waits)


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param([job(n, 60 * n, 1, 900, 800) for n in range(1, 2_500)], id="one-team-floods"),
        pytest.param([job(n, 400 * n, 2, 9_000, 900, 1 + n % 2) for n in range(1, 400)], id="all-ask-ten-times"),
        pytest.param([job(n, 500 * n, 4, 1_800, 1_500, 1 + n % 2) for n in range(1, 350)], id="whole-nodes-only"),
    ],
)  # fmt: skip
def test_nobody_waits_much_longer_than_promised_while_what_is_overdue_fits_its_third(flood: list[Arrival]) -> None:
    # The victims are large and long: by area alone they would be the last for as long as the flood lasts.
    victims = [job(10_000 + n, 7_200 * n, 4, 3_600, 3_000, 3) for n in range(20)]
    rules = Rules(promise_seconds=PROMISE, half_life_seconds=DAY, fair_heads=0)
    game = play(weeks(flood, victims), NodeBoard([4] * 6), rules)
    # The promise is the front of the line; there it waits for one node, at most the longest asked-for run.
    longest_run = max(one.waiting.seconds for one in flood)
    assert longest_wait(game, 10_000) <= PROMISE + 2 * longest_run


def overdue_pool(*others: Waiting) -> Snapshot:
    """Three nodes of 4: two run what came to the front because it was overdue, a third of the pool and more."""
    rules = Rules(promise_seconds=HOUR, fair_heads=0)
    rows = [Occupied(node, 0b1111, 0, 20 * HOUR) for node in (1, 2)]
    nodes = [NodeGpus(node, 4) for node in (1, 2, 3)]
    placed = [Running(f"r{n}", 90 + n, 4, 1, 1, 0, HOUR, 20 * HOUR, ((n, 0b1111),), promised=True) for n in (1, 2)]
    late = [job(1, HOUR, 4, 9 * HOUR).waiting, job(2, 2 * HOUR, 4, HOUR).waiting]
    leaves = [Leaf(1, 1, 1, 1, 1, 1, 0.0)]
    return Snapshot(
        10 * HOUR, Availability.build(nodes, rows, []), [*late, *others], leaves, {}, {1: 8}, rules=rules, placed=placed
    )


def test_what_is_overdue_comes_by_its_size_once_its_part_of_the_pool_is_full() -> None:
    snapshot = overdue_pool(job(3, 10 * HOUR, 4, 60).waiting)
    assert [start.waiting.booking_id for start in plan(snapshot).starts] == [3]
    assert [one.booking_id for one in in_order(snapshot)] == [3, 2, 1]


def test_where_everything_that_waits_is_overdue_the_oldest_comes_first_however_much_runs() -> None:
    snapshot = overdue_pool()
    assert [(start.waiting.booking_id, start.promised) for start in plan(snapshot).starts] == [(1, True)]
    assert [one.booking_id for one in in_order(snapshot)] == [1, 2]


def test_a_team_far_below_its_share_gets_its_smallest_booking_through_before_smaller_ones_of_others() -> None:
    leaves = [Leaf(1, 1, 1, 1, 1, 1, 90.0), Leaf(1, 1, 2, 1, 2, 1, 10.0)]
    queue = [
        job(1, 0, 1, 60, team=1).waiting,
        job(2, 5, 4, 90_000, team=2).waiting,
        job(3, 5, 4, 80_000, team=2).waiting,
    ]
    snapshot = Snapshot(10, Availability.build([NodeGpus(1, 4)], [], []), queue, leaves, {}, {}, rules=Rules())
    assert [one.booking_id for one in in_order(snapshot)] == [3, 1, 2]
    assert [start.waiting.booking_id for start in plan(snapshot).starts] == [3]
    without = dataclasses.replace(snapshot, rules=Rules(fair_heads=0))
    assert [start.waiting.booking_id for start in plan(without).starts] == [1]
