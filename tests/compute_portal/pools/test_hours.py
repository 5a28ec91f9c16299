"""The calendar's grid against a slow, literal reference: one card, one hour, one second at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal.pools.availability import FOREVER, HOUR, Availability, Cap, Closed, NodeGpus, Occupied, Unit
from compute_portal.pools.hours import Grid, Whose, grid

HOURS = 12
FIRST = 5 * HOUR
QUARTER = HOUR // 4
Rows = tuple[list[NodeGpus], list[tuple[Occupied, Whose]], list[Closed]]


@st.composite
def pools(draw: st.DrawFn) -> Rows:
    """Small pools in which bookings begin and end at any quarter of an hour, also before and after what is asked."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 4]), min_size=1, max_size=4))
    ids = draw(st.permutations(range(10, 10 + len(sizes))))
    instants = st.integers(0, (HOURS + 8) * 4).map(lambda n: n * QUARTER)
    ends = st.one_of(instants, st.just(FOREVER))
    taken = st.builds(Occupied, st.sampled_from(ids), st.integers(1, 15), instants, ends, st.booleans())
    closed = st.builds(Closed, st.sampled_from(ids), instants, ends)
    rows = draw(st.lists(st.tuples(taken, st.sampled_from(Whose)), max_size=10))
    return [NodeGpus(id, n) for id, n in zip(ids, sizes, strict=True)], rows, draw(st.lists(closed, max_size=2))


def grid_of(rows: Rows, unit: Unit = "gpu") -> Grid:
    nodes, taken, closed = rows
    return grid(
        [(node.id, node.gpus) for node in nodes],
        [(row.node_id, row.gpu_mask, row.starts_at, row.ends_at, row.fixed, whose) for row, whose in taken],
        [(row.node_id, row.starts_at, row.ends_at) for row in closed],
        first=FIRST,
        hours=HOURS,
        unit=unit,
    )


def availability_of(rows: Rows, unit: Unit) -> Availability:
    nodes, taken, closed = rows
    return Availability.build(nodes, [row for row, _whose in taken], closed, unit)


def what_it_is(rows: Rows, node: NodeGpus, gpu: int, hour: int) -> str:
    """As the calendar says it, looked up a quarter of an hour at a time."""
    _nodes, taken, closed = rows
    quarters = [FIRST + hour * HOUR + n * QUARTER for n in range(4)]

    def touches(row: Occupied | Closed) -> bool:
        return row.node_id == node.id and any(row.starts_at <= quarter < row.ends_at for quarter in quarters)

    if any(touches(row) for row in closed):
        return "closed"
    found = {whose for row, whose in taken if row.gpu_mask >> gpu & 1 and touches(row)}
    return max(found).name.lower() if found else "free"


@settings(max_examples=25)
@given(pools())
def test_each_card_of_each_hour_is_one_of_free_booked_mine_kept_closed(rows: Rows) -> None:
    shown = grid_of(rows)
    for kind in ("free", "booked", "mine", "kept", "closed"):
        masks = getattr(shown, kind)
        for index, node in enumerate(rows[0]):
            for hour in range(HOURS):
                expected = sum(1 << g for g in range(node.gpus) if what_it_is(rows, node, g, hour) == kind)
                assert masks[index, hour] == expected, (kind, node, hour)
    together = sum(shown.count(masks) for masks in (shown.free, shown.booked, shown.mine, shown.kept, shown.closed))
    assert np.all(together == shown.capacity)


@settings(max_examples=25)
@given(pools(), st.sampled_from(["gpu", "node"]), st.integers(1, 12), st.integers(1, HOURS), st.integers(0, 14))
def test_the_windows_that_are_to_be_had_are_those_that_availability_places(
    rows: Rows, unit: Unit, gpus: int, hours: int, most_fixed: int
) -> None:
    availability = availability_of(rows, unit)
    expected = [
        n
        for n in range(HOURS - hours + 1)
        if availability.fits(gpus, FIRST + n * HOUR, FIRST + (n + hours) * HOUR)
        and availability.peak_fixed(FIRST + n * HOUR, FIRST + (n + hours) * HOUR) + gpus <= most_fixed
    ]
    assert grid_of(rows, unit).starts(gpus, hours, most_fixed).tolist() == expected


@st.composite
def capped_pools(draw: st.DrawFn) -> tuple[Rows, list[Cap]]:
    """As the database has them: a card is in use once at a time, and caps begin and end on the hour."""
    nodes = [NodeGpus(id, 4) for id in (1, 2)]
    cards = draw(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 3)), unique=True, max_size=6))
    instants = st.integers(0, (HOURS + 8) * 4).map(lambda n: n * QUARTER)
    taken = [
        (Occupied(node, 1 << card, draw(instants), draw(instants), draw(st.booleans())), Whose.BOOKED)
        for node, card in cards
    ]
    hours = st.integers(0, HOURS + 8).map(lambda n: n * HOUR)
    caps = draw(st.lists(st.builds(Cap, hours, hours, st.integers(0, 8)), min_size=1, max_size=3))
    return (nodes, taken, []), caps


@settings(max_examples=25)
@given(capped_pools(), st.integers(1, 8), st.integers(1, HOURS))
def test_windows_keep_to_caps_of_power_as_bookings_do(pool: tuple[Rows, list[Cap]], gpus: int, hours: int) -> None:
    (nodes, taken, closed), caps = pool
    availability = Availability.build(nodes, [row for row, _whose in taken], closed, "gpu", caps)
    expected = [
        n for n in range(HOURS - hours + 1) if availability.fits(gpus, FIRST + n * HOUR, FIRST + (n + hours) * HOUR)
    ]
    shown = grid(
        [(node.id, node.gpus) for node in nodes],
        [(row.node_id, row.gpu_mask, row.starts_at, row.ends_at, row.fixed, whose) for row, whose in taken],
        [],
        first=FIRST,
        hours=HOURS,
        caps=[(cap.starts_at, cap.ends_at, cap.gpus) for cap in caps],
    )
    assert shown.starts(gpus, hours, 99).tolist() == expected
    each = [shown.room(99, n)[0] for n in range(1, HOURS + 1)]
    assert shown.room_from(0, 99).tolist() == each


@settings(max_examples=25)
@given(pools(), st.integers(1, 6), st.integers(1, 5), st.lists(st.booleans(), min_size=HOURS, max_size=HOURS))
def test_a_window_uses_only_hours_that_are_allowed(rows: Rows, gpus: int, hours: int, allowed: list[bool]) -> None:
    shown = grid_of(rows)
    fits = shown.starts(gpus, hours, 99).tolist()
    expected = [n for n in fits if all(allowed[n : n + hours])]
    assert shown.starts(gpus, hours, 99, np.array(allowed)).tolist() == expected


@settings(max_examples=25)
@given(pools(), st.integers(0, HOURS - 1), st.integers(0, 14))
def test_the_room_from_an_hour_on_is_that_of_each_window_which_begins_there(
    rows: Rows, hour: int, most_fixed: int
) -> None:
    shown = grid_of(rows)
    each = [shown.room(most_fixed, n)[hour] for n in range(1, HOURS - hour + 1)]
    assert shown.room_from(hour, most_fixed).tolist() == each


def test_a_window_longer_than_the_grid_or_of_no_cards_is_nowhere() -> None:
    shown = grid_of(([NodeGpus(1, 4)], [], []))
    assert shown.starts(1, HOURS + 1, 9).tolist() == []
    assert shown.starts(0, 1, 9).tolist() == []
    assert shown.starts(1, HOURS, 9).tolist() == [0]
