"""The look ahead: a schedule that could be, in the pool's order, and a table for those who only ask."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given, settings

from compute_portal.pools.availability import Cap, Occupied
from scheduler.planning.ahead import NEVER, look_ahead
from scheduler.planning.backtest import Backtest
from scheduler.planning.board import NodeBoard
from scheduler.planning.fairshare import Leaf
from scheduler.planning.line import Line, Running
from scheduler.planning.planner import Snapshot
from scheduler.planning.play import Arrival, Play, Usage, forward
from scheduler.planning.rules import Rules
from scheduler.planning.starts import GPUS, HOURS, table, with_askers
from tests.scheduler.planning.test_reasons import DAY, MINUTE, NOW, World, busy, the_pool, waits, worlds

FIFO = Rules(order="fifo")


def free_gpus(world: World, instant: int) -> int:
    """GPUs that nothing held before anybody who waits started."""
    free = 0
    for node in world.nodes:
        mask = (1 << node.gpus) - 1
        for row in world.occupied:
            if row.node_id == node.id and row.starts_at <= instant < row.ends_at:
                mask &= ~row.gpu_mask
        for shut in world.closed:
            if shut.node_id == node.id and shut.starts_at <= instant < shut.ends_at:
                mask = 0
        free += mask.bit_count()
    return free


@settings(max_examples=12)
@given(worlds())
def test_if_everything_ran_as_long_as_it_may_the_look_ahead_would_be_a_schedule(world: World) -> None:
    starts = look_ahead(world.snapshot(), {}, {})
    by_id = {one.booking_id: one for one in world.waiting}
    for instant in set(starts.values()):
        here = [by_id[id] for id, start in starts.items() if start <= instant < start + by_id[id].seconds]
        assert sum(one.gpus for one in here) <= free_gpus(world, instant)
        for enterprise, limit in world.limits.items():
            assert sum(one.gpus for one in here if one.enterprise_id == enterprise) <= limit
    for id, start in starts.items():
        one = by_id[id]
        assert max(NOW, one.not_before) <= start < NEVER
        assert start + one.seconds <= one.allocation_ends_at
        assert one.gpu_seconds_left is None or one.gpus * one.seconds <= one.gpu_seconds_left
        for row in world.occupied:
            if row.fixed and row.gpu_mask & 15 and len(world.nodes) == 1 and one.gpus == world.nodes[0].gpus:
                assert start + one.seconds <= row.starts_at or row.ends_at <= start or row.gpu_mask >= 1 << one.gpus


@settings(max_examples=12)
@given(worlds())
def test_who_only_asks_changes_nothing_for_those_who_wait(world: World) -> None:
    snapshot = world.snapshot()
    asked, ids = with_askers(snapshot)
    with_them = look_ahead(asked, {}, {}, ids)
    assert {id: start for id, start in with_them.items() if id not in ids} == look_ahead(snapshot, {}, {})


def test_where_nothing_could_be_filled_in_it_says_what_the_play_says() -> None:
    chance = random.Random(5)
    waiting = [waits(id, gpus=4, minutes=chance.randint(10, 200)) for id in range(1, 30)]
    snapshot = the_pool(waiting, busy(1, 15, 30), busy(2, 15, 50)).snapshot()
    runs = {one.booking_id: one.seconds for one in waiting}
    assert look_ahead(snapshot, runs, {}) == forward(snapshot, runs, {})


def test_what_runs_is_expected_to_end_when_such_bookings_do() -> None:
    world = the_pool([waits(1, gpus=8)], busy(1, 15, 30), busy(2, 15, 300))
    runs = Running("", 9, 4, 1, 10, NOW - 120, NOW - 60, NOW + 300 * MINUTE, ((2, 15),))
    snapshot = dataclasses.replace(world.snapshot(), placed=[runs])
    assert look_ahead(snapshot, {}, {}) == {1: NOW + 300 * MINUTE}
    assert look_ahead(snapshot, {}, {9: NOW + 40 * MINUTE}) == {1: NOW + 40 * MINUTE}


def test_a_cap_on_power_is_looked_at_while_it_holds() -> None:
    world = the_pool([waits(1, gpus=4, minutes=60), waits(2, gpus=4, minutes=60)])
    assert set(look_ahead(world.snapshot(), {}, {}).values()) == {NOW}
    for until, second in ((NOW + 1_800, NOW + 1_800), (NOW + DAY, NOW + 3_600)):
        capped = dataclasses.replace(world, caps=[Cap(NOW - 60, until, 4)])
        assert look_ahead(capped.snapshot(), {}, {}) == {1: NOW, 2: second}


def test_a_cap_to_come_is_looked_at_by_whoever_would_run_into_it() -> None:
    noon = NOW + 7_200
    world = the_pool([waits(1, gpus=4, minutes=120), waits(2, gpus=4, minutes=300), waits(3, gpus=4, minutes=120)])
    assert look_ahead(world.snapshot(), {}, {}) == {1: NOW, 2: NOW, 3: noon}
    # the first is over before it begins, the second runs into it; beside that one the third has no power until it ends
    capped = dataclasses.replace(world, caps=[Cap(noon, noon + 7_200, 4)])
    assert look_ahead(capped.snapshot(), {}, {}) == {1: NOW, 2: NOW, 3: noon + 7_200}
    dark = dataclasses.replace(world, caps=[Cap(noon, noon + 7_200, 0)])
    assert look_ahead(dark.snapshot(), {}, {}) == {1: NOW, 2: noon + 7_200, 3: NOW}


def test_a_fixed_booking_uses_power_of_a_cap_to_come() -> None:
    noon = NOW + 7_200
    fixed = Occupied(1, 15, noon, noon + 3_600, True)
    world = dataclasses.replace(the_pool([waits(1, gpus=4, minutes=300)], fixed), caps=[Cap(noon, noon + 7_200, 4)])
    assert look_ahead(world.snapshot(), {}, {}) == {1: noon + 3_600}


def test_a_long_run_is_not_expected_to_begin_before_a_fixed_booking_that_it_would_reach() -> None:
    fixed = [Occupied(node, 15, NOW + 1_800, NOW + 9_000, True) for node in (1, 2)]
    world = the_pool([waits(1, minutes=60), waits(2, minutes=20)], *fixed)
    assert look_ahead(world.snapshot(), {1: 60}, {}) == {1: NOW + 9_000, 2: NOW}


def test_what_will_be_overdue_is_expected_at_the_front_by_then() -> None:
    small = [waits(id, gpus=4, minutes=1_440) for id in range(2, 20)]
    large = waits(1, gpus=8, minutes=2_000)
    world = dataclasses.replace(the_pool([large, *small], busy(1, 15, 9), busy(2, 15, 9)), rules=Rules())
    patient = dataclasses.replace(world, rules=Rules(promise_seconds=90 * DAY))
    assert look_ahead(world.snapshot(), {}, {})[1] < NOW + 4 * DAY < look_ahead(patient.snapshot(), {}, {})[1]


def test_the_table_has_a_cell_for_each_size_and_is_longer_for_more() -> None:
    world = the_pool([waits(id, gpus=4, minutes=600) for id in range(1, 9)], busy(1, 15, 30), busy(2, 15, 50))
    asked, ids = with_askers(world.snapshot())
    found = look_ahead(asked, {}, {}, ids)
    made = table({id: (0, start - NOW, 2 * (start - NOW)) for id, start in found.items()})
    assert len(made["seconds"]) == len(GPUS) and all(len(row) == len(HOURS) for row in made["seconds"])  # type: ignore[arg-type]
    assert [row[0] is None for row in made["seconds"]] == [gpus > 8 for gpus in GPUS]  # type: ignore[index]
    assert made["seconds"][3][0][1] >= made["seconds"][0][0][1] > 0  # type: ignore[index]


def test_a_backtest_holds_its_ranges_against_the_starts() -> None:
    chance = random.Random(2)
    arrivals, at = [], 0
    for id in range(1, 400):
        at += chance.randint(60, 6_000)
        asked = 60 * chance.randint(10, 200)
        one = dataclasses.replace(waits(id, gpus=chance.choice((1, 1, 2, 4, 8))), seconds=asked, submitted_at=at)
        arrivals.append(Arrival(one, asked // chance.randint(1, 3)))
    play = Play(NodeBoard([4, 4]), Line(FIFO), FIFO, Usage([Leaf(1, 1, 1, 1, 10, 1, 0.0)], DAY))
    backtest = Backtest(2, 4, every_seconds=1_800, every_arrivals=3)
    play.watch(backtest.seen)
    play.run(arrivals)
    backtest.finish(play)
    submit, over_time = backtest.at_submit(), backtest.over_time()
    assert 50 < submit.ranges < over_time.ranges
    assert 0.6 < submit.held / submit.ranges <= 1
    assert submit.error < 12 * 3_600


def test_a_pool_in_which_nothing_ran_yet_can_be_asked() -> None:
    empty = Snapshot(NOW, the_pool([]).snapshot().availability, [], [], {}, {})
    asked, ids = with_askers(empty)
    found = look_ahead(asked, {}, {}, ids)
    assert set(found.values()) == {NOW} and len(found) == 4 * len(HOURS)
