"""Availability against a slow, literal reference: a set of (node, GPU) pairs per second."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.pools.availability import (
    FOREVER,
    Availability,
    Cap,
    Closed,
    NodeGpus,
    Occupied,
    Placement,
    Unit,
    gpus_for,
)

HORIZON = 40  # the small worlds below live in the seconds 0 … 39


class Reference:
    """The rules of placement written down as they are said, without any cleverness."""

    def __init__(
        self, nodes: list[NodeGpus], occupied: list[Occupied], closed: list[Closed], unit: Unit = "gpu"
    ) -> None:
        self.nodes, self.occupied, self.closed, self.unit = nodes, list(occupied), closed, unit
        self.size = max(node.gpus for node in nodes)

    def free(self, node: NodeGpus, start: int, end: int) -> list[int]:
        def touches(row: Occupied | Closed) -> bool:
            return row.node_id == node.id and any(row.starts_at <= t < row.ends_at for t in range(start, end))

        if any(touches(row) for row in self.closed):
            return []
        taken = [row for row in self.occupied if touches(row)]
        return [gpu for gpu in range(node.gpus) if not any(row.gpu_mask >> gpu & 1 for row in taken)]

    def place(self, gpus: int, start: int, end: int) -> Placement | None:
        free = {node.id: self.free(node, start, end) for node in self.nodes}
        chosen: dict[int, list[int]] = {}
        rest = gpus
        if gpus > self.size or self.unit == "node":
            if self.unit == "node" and gpus % self.size:
                return None
            for node in self.nodes:
                if rest >= self.size and len(free[node.id]) == self.size:
                    chosen[node.id] = free[node.id]
                    rest -= self.size
            if rest >= self.size:
                return None
        if rest:
            candidates = [n for n in self.nodes if n.id not in chosen and len(free[n.id]) >= rest]
            if not candidates:
                return None
            best = min(candidates, key=lambda n: (len(free[n.id]), self.nodes.index(n)))
            chosen[best.id] = free[best.id][:rest]
        return tuple((n.id, sum(1 << gpu for gpu in chosen[n.id])) for n in self.nodes if n.id in chosen)

    def starts(self, gpus: int, seconds: int, after: int, before: int, step: int) -> list[int]:
        return [t for t in range(after, before) if t % step == 0 and self.place(gpus, t, t + seconds) is not None]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[NodeGpus], list[Occupied], list[Closed]]:
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 4, 4]), min_size=1, max_size=4))
    ids = draw(st.permutations(range(10, 10 + len(sizes))))  # index order is not id order
    nodes = [NodeGpus(id, gpus) for id, gpus in zip(ids, sizes, strict=True)]
    instants = st.integers(0, HORIZON - 1)
    ends = st.one_of(instants, st.just(FOREVER))
    occupied = st.builds(Occupied, st.sampled_from(ids), st.integers(0, 15), instants, ends, st.booleans())
    closed = st.builds(Closed, st.sampled_from(ids), instants, ends)
    return nodes, draw(st.lists(occupied, max_size=12)), draw(st.lists(closed, max_size=3))


World = tuple[list[NodeGpus], list[Occupied], list[Closed]]
units: st.SearchStrategy[Unit] = st.sampled_from(["gpu", "node"])
starts = st.integers(0, HORIZON - 1)
lengths = st.integers(1, HORIZON)


@given(worlds(), units, st.integers(1, 14), starts, lengths)
def test_a_booking_gets_the_gpus_that_the_rules_of_placement_name(
    world: World, unit: Unit, gpus: int, start: int, length: int
) -> None:
    reference = Reference(*world, unit)
    availability = Availability.build(*world, unit)
    expected = reference.place(gpus, start, start + length)
    assert availability.place(gpus, start, start + length) == expected
    assert availability.fits(gpus, start, start + length) == (expected is not None)
    free = [sum(1 << gpu for gpu in reference.free(node, start, start + length)) for node in world[0]]
    assert availability.free_masks(start, start + length).tolist() == free


caps = st.lists(
    st.builds(lambda at, length, gpus: Cap(at, at + length, gpus), starts, lengths, st.integers(0, 12)), max_size=3
)


@given(worlds(), units, caps, st.integers(1, 10), st.integers(1, 12), starts)
def test_under_a_cap_a_booking_fits_where_at_no_second_too_many_gpus_are_in_use(
    world: World, unit: Unit, caps: list[Cap], gpus: int, seconds: int, after: int
) -> None:
    reference, availability = Reference(*world, unit), Availability.build(*world, unit, caps)
    sizes = {node.id: node.gpus for node in world[0]}

    def powered(start: int) -> bool:
        return all(
            gpus
            + sum(
                (o.gpu_mask & (1 << sizes[o.node_id]) - 1).bit_count() for o in world[1] if o.starts_at <= t < o.ends_at
            )
            <= cap.gpus
            for cap in caps
            for t in range(max(start, cap.starts_at), min(start + seconds, cap.ends_at))
        )

    fitting = [t for t in reference.starts(gpus, seconds, 0, 3 * HORIZON, 1) if powered(t)]
    assert [t for t in range(HORIZON) if availability.fits(gpus, t, t + seconds)] == [t for t in fitting if t < HORIZON]
    assert availability.earliest(gpus, seconds, after, 3 * HORIZON) == next((t for t in fitting if t >= after), None)


def test_a_cap_of_power_is_a_number_of_gpus() -> None:
    # 1 MW at 700 W and PUE 1.3 is 1,098.9 GPUs.
    assert gpus_for(1_000_000, 700, 1_300) == 1_098
    assert gpus_for(909, 700, 1_300) == 0
    assert gpus_for(910, 700, 1_300) == 1


def test_hours_under_a_cap_count_what_it_forbids_as_closed() -> None:
    taken = [Occupied(1, 0x0F, 0, 7_200, True)]
    availability = Availability.build([NodeGpus(1, 8), NodeGpus(2, 8)], taken, [], caps=[Cap(3_600, 10_800, 6)])
    hours = availability.by_hour(0, 4)
    assert hours.free.tolist() == [12, 2, 6, 16]
    assert hours.closed.tolist() == [0, 10, 10, 0]
    assert availability.free_by_hour(0, 4).tolist() == [12, 2, 6, 16]


@given(worlds(), units, starts, lengths)
def test_everything_up_to_the_largest_fit_fits_and_nothing_above_it(
    world: World, unit: Unit, start: int, length: int
) -> None:
    reference = Reference(*world, unit)
    largest = Availability.build(*world, unit).largest_fit(start, start + length)
    sizes = [g for g in range(1, 18) if unit == "gpu" or g % reference.size == 0]
    assert [g for g in sizes if reference.place(g, start, start + length)] == [g for g in sizes if g <= largest]


@given(worlds(), st.lists(st.tuples(st.integers(1, 10), starts, lengths), max_size=8), st.data())
def test_what_is_occupied_is_seen_by_every_later_question(
    world: World, requests: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    reference, availability = Reference(*world), Availability.build(*world)
    before = availability.copy()
    untouched = before.free_masks(0, HORIZON).tolist()
    for gpus, start, length in requests:
        # Ask in between, so that windows are in the cache when something is occupied.
        asked_at = data.draw(starts)
        availability.largest_fit(asked_at, asked_at + data.draw(lengths))
        placement = availability.place(gpus, start, start + length)
        assert placement == reference.place(gpus, start, start + length)
        if placement is not None:
            availability.occupy(placement, start, start + length)
            reference.occupied += [Occupied(node, mask, start, start + length) for node, mask in placement]
    for start in range(0, HORIZON, 7):
        for end in range(start + 1, HORIZON + 5, 6):
            expected = [sum(1 << gpu for gpu in reference.free(node, start, end)) for node in world[0]]
            assert availability.free_masks(start, end).tolist() == expected
    assert before.free_masks(0, HORIZON).tolist() == untouched


@given(worlds(), units, st.integers(1, 10), st.integers(1, 12), starts, st.integers(0, HORIZON), st.integers(1, 7))
def test_the_earliest_windows_are_those_found_by_trying_every_start(
    world: World, unit: Unit, gpus: int, seconds: int, after: int, span: int, step: int
) -> None:
    expected = Reference(*world, unit).starts(gpus, seconds, after, after + span, step)
    availability = Availability.build(*world, unit)
    assert availability.earliest(gpus, seconds, after, after + span, step) == (expected[0] if expected else None)
    assert availability.windows(gpus, seconds, after, after + span, step, 3) == expected[:3]


@given(worlds(), st.integers(1, 10), st.integers(1, 12), starts)
def test_the_earliest_window_sees_what_was_just_occupied(world: World, gpus: int, seconds: int, after: int) -> None:
    reference, availability = Reference(*world), Availability.build(*world)
    for _ in range(3):
        start = availability.earliest(gpus, seconds, after, HORIZON)
        assert start == next(iter(reference.starts(gpus, seconds, after, HORIZON, 1)), None)
        if start is None:
            break
        placement = availability.place(gpus, start, start + seconds)
        assert placement is not None
        availability.occupy(placement, start, start + seconds)
        reference.occupied += [Occupied(node, mask, start, start + seconds) for node, mask in placement]


@given(worlds(), st.integers(-2, 3), st.integers(0, 4))
def test_free_booked_and_closed_add_up_to_the_capacity_in_every_hour(world: World, first: int, hours: int) -> None:
    minute = 600  # the small worlds stretched: 40 × 10 minutes
    nodes, occupied, closed = world

    def stretch(instant: int) -> int:
        return min(instant * minute, FOREVER)

    long_occupied = [
        Occupied(o.node_id, o.gpu_mask, stretch(o.starts_at), stretch(o.ends_at), o.fixed) for o in occupied
    ]
    long_closed = [Closed(c.node_id, stretch(c.starts_at), stretch(c.ends_at)) for c in closed]
    availability = Availability.build(nodes, long_occupied, long_closed)
    reference = Reference(nodes, occupied, closed)
    per_hour = availability.by_hour(first * 3600, hours)
    windows = [(hour * 6, hour * 6 + 6) for hour in range(first, first + hours)]
    free = [sum(len(reference.free(node, *window)) for node in nodes) for window in windows]
    shut = [sum(n.gpus for n in nodes if not Reference([n], [], closed).free(n, *window)) for window in windows]
    assert availability.free_by_hour(first * 3600, hours).tolist() == per_hour.free.tolist() == free
    assert per_hour.closed.tolist() == shut
    assert (per_hour.free + per_hour.booked + per_hour.closed).tolist() == [availability.capacity] * hours
    assert (per_hour.booked >= 0).all()


@given(worlds(), starts, lengths)
def test_the_peak_of_fixed_gpus_is_the_highest_second(world: World, start: int, length: int) -> None:
    nodes, occupied, _ = world

    def fixed_at(second: int) -> int:
        rows = [row for row in occupied if row.fixed and row.starts_at <= second < row.ends_at]
        return len(
            {(n.id, g) for n in nodes for g in range(n.gpus) for r in rows if r.node_id == n.id and r.gpu_mask >> g & 1}
        )

    expected = max(fixed_at(second) for second in range(start, start + length))
    assert Availability.build(*world).peak_fixed(start, start + length) == expected


def test_fixed_gpus_that_were_given_back_before_the_window_do_not_count() -> None:
    fixed = [Occupied(1, 0x0F, 0, 10, True), Occupied(1, 0xF0, 0, 3, True), Occupied(2, 0xFF, 9, 12, True)]
    availability = Availability.build([NodeGpus(1, 8), NodeGpus(2, 8)], fixed, [])
    assert availability.peak_fixed(5, 9) == 4
    assert availability.peak_fixed(5, 20) == 12
    assert availability.peak_fixed(0, 5) == 8


def test_the_best_fit_is_the_node_with_the_fewest_gpus_left_over() -> None:
    nodes = [NodeGpus(id, 8) for id in (1, 2, 3)]
    availability = Availability.build(nodes, [Occupied(2, 0b11, 0, 100), Occupied(3, 0b101, 0, 100)], [])
    assert availability.place(5, 0, 10) == ((2, 0b01111100),)
    assert availability.place(12, 0, 10) == ((1, 0xFF), (2, 0b00111100))
    assert availability.place(22, 0, 10) is None
    assert availability.largest_fit(0, 10) == 14
    assert availability.place(22, 100, 110) == ((1, 0xFF), (2, 0xFF), (3, 0b00111111))


def test_the_rest_of_a_large_booking_may_lie_before_its_whole_nodes() -> None:
    availability = Availability.build([NodeGpus(7, 4), NodeGpus(5, 8), NodeGpus(6, 8)], [], [])
    assert availability.place(12, 0, 1) == ((7, 0xF), (5, 0xFF))


def test_a_pool_of_whole_nodes_gives_empty_nodes_only() -> None:
    nodes = [NodeGpus(1, 8), NodeGpus(2, 8)]
    availability = Availability.build(nodes, [Occupied(1, 1, 0, 10)], [], unit="node")
    assert availability.largest_fit(0, 10) == 8
    assert availability.place(8, 0, 10) == ((2, 0xFF),)
    assert availability.place(3, 0, 10) is None
    assert not availability.gives(12)


def test_a_node_of_62_gpus_fits_in_its_mask() -> None:
    availability = Availability.build([NodeGpus(1, 62)], [Occupied(1, 1 << 61, 0, 10)], [])
    assert availability.largest_fit(0, 10) == 61
    assert availability.place(61, 0, 10) == ((1, 2**61 - 1),)
    assert availability.place(62, 10, 20) == ((1, 2**62 - 1),)


def test_hours_of_the_clock_are_counted_from_the_epoch() -> None:
    nine = int(dt.datetime(2026, 11, 22, 9, tzinfo=dt.UTC).timestamp())
    availability = Availability.build([NodeGpus(1, 8)], [Occupied(1, 0xFF, nine, nine + 2 * 3600 + 60)], [])
    assert availability.earliest(8, 3600, nine - 1800, FOREVER, step=3600) == nine + 3 * 3600
    assert availability.windows(8, 3600, nine - 7200, FOREVER, 3600, 3) == [
        nine - 7200,
        nine - 3600,
        nine + 3 * 3600,
    ]
    assert availability.free_by_hour(nine - 3600, 5).tolist() == [8, 0, 0, 0, 8]


def test_rows_of_a_database_and_arrays_give_the_same_snapshot_as_objects() -> None:
    nodes, occupied, closed = [(3, 8), (1, 8)], [(1, 0b11, 5, 9, True), (3, 0xFF, 0, 4, False)], [(3, 20, FOREVER)]
    from_rows = Availability.from_rows(nodes, occupied, closed)
    from_arrays = Availability.from_rows(
        np.array(nodes, np.int64), np.array(occupied, np.int64), np.array(closed, np.int64)
    )
    from_objects = Availability.build(
        [NodeGpus(*row) for row in nodes], [Occupied(*row) for row in occupied], [Closed(*row) for row in closed]
    )
    for availability in (from_rows, from_arrays, from_objects):
        assert availability.free_masks(3, 6).tolist() == [0, 0b11111100]
        assert availability.free_masks(30, 31).tolist() == [0, 0xFF]
        assert availability.peak_fixed(0, 40) == 2


def test_a_pool_without_nodes_has_nothing_to_give() -> None:
    availability = Availability.build([], [], [])
    assert availability.capacity == 0
    assert availability.place(1, 0, 10) is None
    assert availability.earliest(1, 10, 0, 100) is None
    assert availability.by_hour(0, 2).free.tolist() == [0, 0]
    assert availability.peak_fixed(0, 10) == 0


def test_a_row_on_a_node_of_another_pool_is_named() -> None:
    with pytest.raises(ValueError, match=r"not in this pool: \[9\]"):
        Availability.build([NodeGpus(1, 8)], [Occupied(9, 1, 0, 10)], [])


def test_an_empty_window_and_a_booking_without_gpus_are_mistakes() -> None:
    availability = Availability.build([NodeGpus(1, 8)], [], [])
    with pytest.raises(ValueError, match="is empty"):
        availability.place(1, 10, 10)
    with pytest.raises(ValueError, match="is empty"):
        availability.occupy(((1, 1),), 10, 10)
    with pytest.raises(ValueError, match="0 GPUs"):
        availability.place(0, 0, 10)
    with pytest.raises(ValueError, match="63"):
        Availability.build([NodeGpus(1, 63)], [], [])


def test_reasons_can_be_asked_for_what_would_fit_without_maintenance_or_fixed_bookings() -> None:
    nodes = [NodeGpus(1, 8), NodeGpus(2, 8), NodeGpus(3, 8)]
    occupied = [Occupied(1, 0xFF, 50, 60, fixed=True), Occupied(1, 0x0F, 0, 10, fixed=True)]
    closed = [Closed(2, 30, 40), Closed(3, 0, FOREVER)]
    availability = Availability.build(nodes, occupied, closed)
    assert availability.largest_fit(0, 100) == 0
    assert availability.largest_fit_without_fixed(0, 100) == 4, "what runs already stays"
    assert availability.largest_fit_without_maintenance(0, 100) == 8, "a node that is down stays down"
    assert availability.fixed_starts(0, 100) == [50]
    assert availability.maintenance_ends(0, 100) == 40
    assert availability.maintenance_ends(40, 100) is None
