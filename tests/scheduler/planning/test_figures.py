"""A queue's figures against plain counting second by second, and max-min shares filled drop by drop."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from scheduler.planning.figures import Figures, Stay, entitlements, figures

START, END = 100, 120
CAPACITY = 4 * (END - START)


@st.composite
def stays(draw: st.DrawFn) -> Stay:
    asked = draw(st.integers(80, 125))
    started = draw(st.none() | st.integers(asked, 130))
    ended = None if started is None else draw(st.none() | st.integers(started + 1, 140))
    return Stay(draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.booleans()), asked, started, ended)


def drop_by_drop(wanted: dict[int, int], weights: dict[int, int], capacity: int) -> dict[int, Fraction]:
    """Everybody who still wants gets drops by weight, until somebody has enough or nothing is left."""
    given = dict.fromkeys(wanted, Fraction(0))
    left = Fraction(capacity)
    while left and (thirsty := [id for id in wanted if given[id] < wanted[id]]):
        pace = min(
            left / sum(weights[id] for id in thirsty), *((wanted[id] - given[id]) / weights[id] for id in thirsty)
        )
        for id in thirsty:
            given[id] += pace * weights[id]
        left -= pace * sum(weights[id] for id in thirsty)
    return given


@given(st.dictionaries(st.integers(1, 5), st.integers(0, 60)), st.integers(1, 100), st.integers(1, 4))
def test_entitlements_are_max_min_shares_by_weight(wanted: dict[int, int], capacity: int, step: int) -> None:
    weights = {id: 1 + id * step % 5 for id in wanted}
    found = entitlements(wanted, {id: float(weight) for id, weight in weights.items()}, capacity)
    slow = drop_by_drop(wanted, weights, capacity)
    assert found.keys() == slow.keys()
    assert all(abs(found[id] - float(slow[id])) < 1e-6 for id in slow)


@given(st.lists(stays(), max_size=8))
def test_the_figures_count_what_was_wanted_and_got_in_each_second(asked: list[Stay]) -> None:
    found = figures(asked, {1: 1.0, 2: 2.0, 3: 1.0}, CAPACITY, START, END)
    wanted = dict.fromkeys((1, 2, 3), 0)
    got = dict.fromkeys((1, 2, 3), 0)
    for stay in asked:
        for second in range(START, END):
            ended = stay.ended_at is not None and stay.ended_at <= second
            wanted[stay.enterprise_id] += stay.gpus * (stay.asked_at <= second and not ended)
            has = stay.started_at is not None and stay.started_at <= second
            got[stay.enterprise_id] += stay.gpus * (has and not ended)
    waits = [s.started_at - s.asked_at for s in asked if s.queued and s.started_at and START <= s.started_at < END]
    assert (found.started, found.waited) == (len(waits), sum(waits))
    if sum(wanted.values()) <= CAPACITY:
        assert (found.deviation_permille, found.shares) == (None, {})
        return
    slow = drop_by_drop(wanted, {1: 1, 2: 2, 3: 1}, CAPACITY)
    there = {stay.enterprise_id for stay in asked}
    assert {id: pair[0] for id, pair in found.shares.items()} == {id: got[id] for id in sorted(there)}
    assert all(abs(pair[1] - slow[id]) <= 0.51 for id, pair in found.shares.items())
    off = sum(abs(got[id] - slow[id]) for id in there) / (2 * CAPACITY)
    assert found.deviation_permille is not None
    assert abs(found.deviation_permille - 1_000 * float(off)) <= 0.51


def test_the_longest_wait_is_also_that_of_somebody_who_still_waits() -> None:
    found = figures([Stay(1, 1, True, 90, 105, 110), Stay(1, 1, True, 60, None, None)], {}, CAPACITY, START, END)
    assert found == Figures(1, 15, 60, None, {})


def test_a_fixed_booking_takes_its_part_and_waits_for_nobody() -> None:
    found = figures([Stay(1, 4, False, 100, 101, 120), Stay(2, 4, True, 100, None, None)], {}, CAPACITY, START, END)
    assert (found.started, found.longest, found.deviation_permille) == (0, 20, 475)
    assert found.shares == {1: (76, 40), 2: (0, 40)}
