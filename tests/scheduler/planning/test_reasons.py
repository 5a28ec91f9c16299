"""A reason's change is proved: applied to the snapshot and planned again, the booking starts."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.pools.availability import FOREVER, Availability, Cap, Closed, NodeGpus, Occupied, Unit
from compute_portal.sentences import Sentence
from compute_portal.texts import CATALOGUE
from scheduler.planning import decide
from scheduler.planning.fairshare import Leaf, overuse
from scheduler.planning.planner import Limits, Running, Snapshot, Standing, Waiting, held_back, in_order, plan
from scheduler.planning.reasons import LEAST_RUN, Change, Forward, said
from scheduler.planning.rules import Rules

NOW = 1_000_000
MINUTE = 60
DAY = 86_400


@dataclass
class World:
    """What a snapshot is made of, so that a change can be applied to it."""

    nodes: list[NodeGpus]
    occupied: list[Occupied]
    closed: list[Closed]
    waiting: list[Waiting]
    leaves: list[Leaf]
    limits: dict[int, int]
    running: dict[int, int]
    booked: dict[int, list[tuple[int, int, int]]]
    placed: list[Running]
    rules: Rules
    unit: Unit
    caps: list[Cap] = dataclasses.field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            NOW,
            Availability.build(self.nodes, self.occupied, self.closed, self.unit, self.caps),
            self.waiting,
            self.leaves,
            self.limits,
            self.running,
            self.booked,
            self.rules,
            self.placed,
        )

    def changed(self, waiting: Waiting, change: Change) -> World:
        size = max(node.gpus for node in self.nodes)
        last = max(node.id for node in self.nodes)
        limits = self.limits if change.limit is None else self.limits | {waiting.enterprise_id: change.limit}
        return dataclasses.replace(
            self,
            nodes=self.nodes + [NodeGpus(last + n, size) for n in range(1, change.nodes + 1)],
            waiting=[change.on(one) if one is waiting else one for one in self.waiting],
            limits=limits,
            # more nodes with their power
            caps=[replace(cap, gpus=cap.gpus + change.nodes * size) for cap in self.caps if not change.uncapped],
        )

    def standings(self) -> list[Standing]:
        return plan(self.snapshot()).standings


RULES = [
    Rules(order="fifo"),
    Rules(order="fifo", backfill="none"),
    Rules(order="sjf", backfill="none"),
    Rules(order="saf"),
    Rules(order="fair-tree"),
    Rules(order="small-first"),
    Rules(order="small-first", promise_share=0.1, fair_heads=1, promise_reservations=1),
]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    size = draw(st.sampled_from([1, 2, 4]))
    nodes = [NodeGpus(id, size) for id in range(1, draw(st.integers(1, 4)) + 1)]
    ids, masks = st.sampled_from([node.id for node in nodes]), st.integers(1, 15)
    later = st.integers(1, 30).map(lambda minutes: NOW + minutes * MINUTE)
    runs = st.builds(Occupied, ids, masks, st.just(NOW - 10), later)
    fixed = st.builds(lambda n, m, s, d: Occupied(n, m, s, s + d * MINUTE, True), ids, masks, later, st.integers(1, 9))
    closed = st.builds(Closed, ids, st.sampled_from([NOW, NOW + 720]), st.sampled_from([NOW + 1_200, FOREVER]))
    enterprises = draw(st.integers(1, 3))
    unit: Unit = draw(st.sampled_from(["gpu", "gpu", "node"]))
    waiting = [
        Waiting(
            key=f"booking-{id}-1",
            booking_id=id,
            gpus=draw(st.integers(1, 7)) if unit == "gpu" else size * draw(st.integers(1, 3)),
            seconds=draw(st.integers(1, 20)) * MINUTE,
            submitted_at=NOW - draw(st.sampled_from([0, 60, DAY, 3 * DAY, 4 * DAY])),
            not_before=draw(st.sampled_from([0, 0, 0, NOW, NOW + 300])),
            programme_id=1,
            enterprise_id=(enterprise := draw(st.integers(1, enterprises))),
            allocation_id=enterprise * 10 + draw(st.integers(0, 1)),
            allocation_ends_at=draw(st.sampled_from([FOREVER, FOREVER, NOW - 5, NOW + 10, NOW + 600])),
            gpu_seconds_left=draw(st.sampled_from([None, None, 1_800])),
        )
        for id in draw(st.permutations(range(1, draw(st.integers(1, 9)) + 1)))
    ]
    counts = st.dictionaries(st.integers(1, enterprises), st.integers(0, 8))
    windows = st.tuples(later, st.integers(1, 9), st.integers(1, 4)).map(lambda w: (w[0], w[0] + w[1] * MINUTE, w[2]))
    placed = st.builds(
        lambda gpus, wait: Running("", 0, gpus, 1, 10, NOW - 10 - wait, NOW - 10, NOW + 60, ()),
        st.integers(1, 4),
        st.sampled_from([0, 3 * DAY]),
    )
    # What is in use already is no more than is allowed, and no GPU is counted twice.
    occupied = draw(st.lists(runs, max_size=5)) + draw(st.lists(fixed, max_size=3))
    capped = draw(st.booleans())
    if capped:
        occupied = list({row.node_id: row for row in occupied}.values())
    used = sum((row.gpu_mask & (1 << size) - 1).bit_count() for row in occupied)
    begins = st.one_of(st.just(NOW - 60), later)
    cap = st.builds(Cap, begins, st.sampled_from([NOW + 1_900, NOW + 400 * DAY]), st.integers(used, 16))
    caps = draw(st.lists(cap, min_size=1, max_size=2)) if capped else []
    return World(
        nodes,
        occupied,
        draw(st.lists(closed, max_size=1)),
        waiting,
        [
            Leaf(1, 1, e, draw(st.integers(1, 3)), e * 10 + a, 1, draw(st.integers(0, 3)), draw(st.booleans()))
            for e in range(1, enterprises + 1)
            for a in (0, 1)
        ],
        draw(counts),
        draw(counts),
        draw(st.dictionaries(st.integers(1, enterprises), st.lists(windows, max_size=2))),
        draw(st.lists(placed, max_size=2)),
        draw(st.sampled_from(RULES)),
        unit,
        caps,
    )


@given(worlds())
def test_whoever_makes_the_change_sees_the_booking_start(world: World) -> None:
    for standing in world.standings():
        waiting, change = standing.waiting, standing.change
        if change is None:
            assert waiting.allocation_ends_at <= NOW
            continue
        if isinstance(change, Forward):
            if change.change is not None:
                assert_next_in_line(world.changed(waiting, change.change).snapshot(), waiting.booking_id)
            continue
        assert change != Change()
        starts = plan(world.changed(waiting, change).snapshot(), standings=False).starts
        assert waiting.booking_id in {start.waiting.booking_id for start in starts}, (standing, change)


def assert_next_in_line(snapshot: Snapshot, id: int) -> None:
    """Nobody is asked before it whom only GPUs hold back, but who goes first whatever its size, or starts."""
    rules, late = snapshot.rules, NOW - snapshot.rules.promise_seconds
    line, limits = snapshot.line(), Limits(snapshot)
    over = overuse(snapshot.leaves, rules.overuse_least)
    first: set[int] = set()
    if rules.order == "small-first":
        first = {one.booking_id for one in decide.fair_heads(NOW, line, over, rules, limits)}
        first |= {one.booking_id for one in snapshot.waiting if one.submitted_at <= late}
    starts = {start.waiting.booking_id for start in plan(snapshot, standings=False).starts}
    for one in in_order(snapshot, line, limits):
        held = held_back(one, snapshot, snapshot.running)
        if one.booking_id == id:
            assert held is None
            return
        assert one.booking_id in first | starts or held is not None, one
    raise AssertionError("it does not wait")


@given(worlds())
def test_a_change_never_makes_a_booking_larger_and_its_sentence_exists(world: World) -> None:
    for standing in world.standings():
        waiting, change = standing.waiting, standing.change
        if isinstance(change, Forward):
            assert change.asked and said(change, waiting, 4).id in CATALOGUE
            assert change.stays == (world.rules.order in ("fifo", "fair-tree"))
            change = change.change
        if change is not None:
            assert (change.gpus or 1) <= waiting.gpus and (change.seconds or 1) <= waiting.seconds
            assert change.gpus is None or change.seconds is None, "one of them is enough"
            assert change.limit is None or change.limit > world.limits[waiting.enterprise_id]
            assert said(change, waiting, 4).id in CATALOGUE


def waits(id: int, gpus: int = 1, minutes: int = 60, **changes: int) -> Waiting:
    one = Waiting(f"booking-{id}-1", id, gpus, minutes * MINUTE, NOW - 60 + id, 0, 1, 1, 10, FOREVER)
    return replace(one, **changes)


def the_pool(waiting: list[Waiting], *occupied: Occupied, limits: dict[int, int] | None = None, runs: int = 0) -> World:
    """Two nodes of four, first in first out."""
    leaves = [Leaf(1, 1, e, 1, e * 10, 1, 0.0) for e in (1, 2)]
    nodes = [NodeGpus(1, 4), NodeGpus(2, 4)]
    return World(nodes, [*occupied], [], waiting, leaves, limits or {}, {1: runs}, {}, [], RULES[0], "gpu")


def change_of(world: World, id: int) -> Change | Forward | None:
    return next(standing.change for standing in world.standings() if standing.waiting.booking_id == id)


def busy(node: int, mask: int, minutes: int) -> Occupied:
    return Occupied(node, mask, NOW - 60, NOW + minutes * MINUTE)


def test_what_is_too_large_for_now_may_ask_for_fewer_cards() -> None:
    assert change_of(the_pool([waits(1, gpus=8)], busy(1, 0b0001, 30)), 1) == Change(gpus=7)


def test_what_is_too_long_for_a_fixed_booking_may_ask_for_less_time() -> None:
    fixed = [Occupied(node, 15, NOW + 3_000, NOW + 9_000, True) for node in (1, 2)]
    assert change_of(the_pool([waits(1, gpus=2)], *fixed), 1) == Change(seconds=3_000)


def test_with_the_whole_pool_busy_room_for_everybody_before_is_named() -> None:
    world = the_pool([waits(1, gpus=8), waits(2, gpus=2)], busy(1, 15, 30), busy(2, 15, 30))
    assert change_of(world, 1) == Change(nodes=2)
    few = the_pool([waits(1, gpus=4), waits(2, gpus=2)], busy(1, 15, 30), busy(2, 15, 30))
    assert change_of(few, 2) == Change(nodes=2)


def test_more_room_than_the_pool_has_is_never_asked_for_but_the_size_that_would_be_next_is_named() -> None:
    full = [busy(1, 15, 30), busy(2, 15, 30)]
    line = [waits(1, gpus=8), waits(2, gpus=2, minutes=480)]
    assert change_of(the_pool(line, *full), 2) == Forward(8, 8, stays=True)
    by_run = replace(the_pool(line, *full), rules=Rules(order="sjf"))
    assert change_of(by_run, 2) == Forward(8, 8, Change(seconds=59 * MINUTE))
    by_area = replace(the_pool([waits(1, gpus=8), waits(2, gpus=4, minutes=121)], *full), rules=Rules(order="saf"))
    assert change_of(by_area, 2) == Forward(8, 8, Change(seconds=119 * MINUTE))
    fewer = replace(the_pool([waits(1, gpus=7), waits(2, gpus=8, minutes=60)], *full), rules=Rules(order="saf"))
    assert change_of(fewer, 2) == Forward(7, 8, Change(seconds=52 * MINUTE))
    half = replace(the_pool([waits(1, gpus=4), waits(2, gpus=8, minutes=34)], *full), rules=Rules(order="saf"))
    assert change_of(half, 2) == Forward(4, 8, Change(gpus=7))


def test_nobody_is_told_to_ask_for_less_than_a_few_minutes() -> None:
    line = [waits(1, gpus=2, minutes=5), waits(2, gpus=8, minutes=5)]
    world = replace(the_pool(line, busy(1, 15, 30), busy(2, 15, 30)), rules=Rules(order="sjf"))
    assert LEAST_RUN == 5 * MINUTE
    assert change_of(world, 2) == Forward(2, 8)


def test_with_small_first_a_company_that_used_more_than_its_share_must_ask_for_less_to_be_next() -> None:
    full = [busy(1, 15, 30), busy(2, 15, 30)]
    line = [waits(1, gpus=8, minutes=640, enterprise_id=2, allocation_id=20), waits(2, gpus=8, minutes=900)]
    rules = Rules(order="small-first", fair_heads=0)
    even = replace(the_pool(line, *full), rules=rules)
    assert change_of(even, 2) == Forward(8, 8, Change(seconds=639 * MINUTE))
    used = replace(even, leaves=[Leaf(1, 1, 1, 1, 10, 1, 2.0), Leaf(1, 1, 2, 1, 20, 1, 1.0)])  # 4/3 and 2/3 of it
    assert change_of(used, 2) == Forward(8, 8, Change(seconds=79 * MINUTE))  # an eighth of it, and less


def test_where_power_alone_is_missing_the_cap_is_named_and_what_would_start_it_now() -> None:
    world = replace(the_pool([waits(1, gpus=8), waits(2, gpus=4)]), caps=[Cap(NOW + 1_800, NOW + 9_000, 2)])
    first, second = world.standings()
    told = Sentence("wait-power-cap", gpus=2, start=instant(NOW + 1_800), until=instant(NOW + 9_000))
    assert (first.reason, second.reason) == (told, told)
    assert first.change == Change(seconds=30 * MINUTE)
    now = replace(world, caps=[Cap(NOW - 60, NOW + 9_000, 0)])
    assert [standing.change for standing in now.standings()] == [Change(uncapped=True), Forward(8, 8, stays=True)]
    assert said(Change(uncapped=True), waits(1), 4).id == "change-power-cap"


@given(worlds())
def test_a_cap_is_named_only_where_there_are_gpus_and_it_alone_lets_too_few_be_used(world: World) -> None:
    for standing in world.standings():
        if standing.reason.id != "wait-power-cap":
            continue
        [waiting] = [one for one in world.waiting if one.booking_id == standing.waiting.booking_id]
        starts = {start.waiting.booking_id: start for start in plan(world.snapshot()).starts}
        free = replace(world, caps=[]).snapshot().availability
        alone = [cap for cap in world.caps if instant(cap.starts_at) == standing.reason["start"]]
        capped = replace(world, caps=alone).snapshot().availability
        for start in starts.values():
            for availability in (free, capped):
                availability.occupy(start.placement, NOW, start.ends_at)
        assert free.fits(waiting.gpus, NOW, NOW + waiting.seconds)
        assert not capped.fits(waiting.gpus, NOW, NOW + waiting.seconds)


def instant(at: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)


def test_a_limit_that_leaves_some_cards_offers_those_and_one_that_leaves_none_is_to_be_raised() -> None:
    assert change_of(the_pool([waits(1, gpus=4)], limits={1: 6}, runs=3), 1) == Change(gpus=3)
    assert change_of(the_pool([waits(1, gpus=4)], limits={1: 3}, runs=3), 1) == Change(limit=7)


def test_who_asked_to_start_later_may_drop_that() -> None:
    assert change_of(the_pool([waits(1, not_before=NOW + 600)]), 1) == Change(at_once=True)


def test_an_allocation_that_ends_too_soon_offers_the_time_that_is_left() -> None:
    assert change_of(the_pool([waits(1, allocation_ends_at=NOW + 1_850)]), 1) == Change(seconds=1_800)
    assert change_of(the_pool([waits(1, allocation_ends_at=NOW - 1)]), 1) is None


@pytest.mark.parametrize(
    ("change", "id"),
    [
        (Change(gpus=2), "change-gpus"),
        (Change(seconds=600), "change-seconds"),
        (Change(at_once=True), "change-at-once"),
        (Change(limit=8), "change-limit"),
        (Change(nodes=2), "change-room"),
        (Change(nodes=1), "change-room-alone"),
        (Change(nodes=2, limit=8), "change-room-and-limit"),
        (Change(nodes=1, limit=8), "change-room-and-limit-alone"),
        (Change(allocation_ends_at=NOW), "change-allocation"),
        (Change(gpu_seconds_left=600), "change-hours"),
        (Forward(9, 8, Change(gpus=2)), "change-next-gpus"),
        (Forward(9, 8, Change(seconds=600)), "change-next-seconds"),
        (Forward(9, 8), "change-ahead"),
        (Forward(9, 8, stays=True), "change-stays"),
    ],
)
def test_each_change_has_its_sentence(change: Change | Forward, id: str) -> None:
    assert said(change, waits(1), 4).id == id
