"""The forecast against a slow transcription of its definition, and what its ranges must never say."""

from __future__ import annotations

import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.planning import forecast
from scheduler.planning.forecast import AT_FIRST, NO_LOOKS, Looks, Ran, Ranges, RunTimes, coverage

HOUR, DAY = 3_600, 86_400
NOW = 100 * DAY
LENGTHS = (15 * 60, 2 * HOUR, 12 * HOUR, 48 * HOUR)


# -- run times


def class_of(asked: int) -> int:
    return 0 if asked < HOUR else 1 if asked <= 12 * HOUR else 2


def slow_run_time(runs: list[Ran], enterprise: int, asked: int, elapsed: int | None) -> int:
    ratios = [
        min(1.0, run.ran / run.asked)
        for run in runs
        if run.enterprise_id == enterprise and class_of(run.asked) == class_of(asked)
    ][-200:]
    if elapsed is not None:
        ratios = [ratio for ratio in ratios if ratio > elapsed / asked]
    seconds = min(max(round(asked * statistics.median(ratios)), 1), asked) if ratios else asked
    return seconds if elapsed is None else max(seconds, min(elapsed + 1, asked))


requests = st.sampled_from([60, 3_599, 3_600, 7_200, 12 * HOUR, 12 * HOUR + 1, 40 * HOUR])
runs = st.builds(Ran, st.integers(1, 3), requests, st.integers(1, 20 * HOUR))
asks = st.tuples(st.integers(1, 4), requests, st.integers(0, 20 * HOUR))


@given(st.lists(runs, max_size=40), st.lists(asks, min_size=1, max_size=8), st.booleans())
def test_a_run_time_is_the_request_times_the_median_part_that_its_enterprise_used(
    past: list[Ran], asked: list[tuple[int, int, int]], running: bool
) -> None:
    times = RunTimes(past)
    enterprises, seconds, elapsed = (np.array(column) for column in zip(*asked, strict=True))
    found = times.expect(enterprises, seconds, elapsed if running else None)
    assert found.tolist() == [slow_run_time(past, e, s, r if running else None) for e, s, r in asked]


def test_only_the_newest_two_hundred_runs_count() -> None:
    past = [Ran(1, 1_000, 900)] * 300 + [Ran(1, 1_000, 100)] * 101
    assert RunTimes(past).expect(np.array([1]), np.array([1_000])).tolist() == [100]


def test_what_already_ran_longer_than_most_is_compared_with_those_that_ran_on() -> None:
    times = RunTimes([Ran(1, HOUR, 600)] * 9 + [Ran(1, HOUR, 1_800)])
    one, hour = np.array([1]), np.array([HOUR])
    assert times.expect(one, hour).tolist() == [600]
    assert times.expect(one, hour, np.array([700])).tolist() == [1_800]
    assert times.expect(one, hour, np.array([2_000])).tolist() == [HOUR]


# -- ranges


def length_of(expected: int) -> int:
    return sum(expected >= edge for edge in LENGTHS)


Row = tuple[int, int, int, int, bool]  # booking, made at, expected, waited, still waits


def quantile(pairs: list[tuple[float, float]], level: float) -> float:
    total, reached = sum(weight for _, weight in pairs), 0.0
    for ratio, weight in sorted(pairs):
        reached += weight
        if reached >= level * total - 1e-12:
            return ratio
    return max(pairs)[0]


def weighted(rows: list[Row]) -> list[tuple[float, float]]:
    looks = [booking for booking, *_ in rows]
    return [
        ((waited + 300) / (expected + 300), 0.5 ** ((NOW - made_at) / (7 * DAY)) / looks.count(booking))
        for booking, made_at, expected, waited, _ in rows
    ]


def slow_range(rows: list[Row], expected: int, least: int = 40) -> list[int]:
    for reach in range(5):
        here = [row for row in rows if abs(length_of(row[2]) - length_of(expected)) <= reach]
        if len({row[0] for row in here}) >= least:
            break
    over = [pair for pair, row in zip(weighted(here), here, strict=True) if not row[4]]
    median = quantile(over, 0.5) if over else 0.0
    counting = [row for row in here if not row[4] or (row[3] + 300) / (row[2] + 300) > median]
    pairs = weighted(counting)
    missing = max(0, least - len({row[0] for row in counting}))
    if missing:
        pairs += [(ratio, missing / len(AT_FIRST)) for ratio in AT_FIRST.tolist()]
    return [max(0, round((expected + 300) * quantile(pairs, level) - 300)) for level in (0.07, 0.5, 0.94)]


rows = st.tuples(
    st.integers(1, 60),
    st.integers(NOW - 20 * DAY, NOW),
    st.sampled_from([0, 899, 900, 5_000, 7_200, 30_000, 100_000, 200_000]),
    st.integers(0, 300_000),
    st.booleans(),
)


def looks_of(past: list[Row]) -> Looks:
    if not past:
        return NO_LOOKS
    booking, made, expected, waited, waiting = (np.array(column) for column in zip(*past, strict=True))
    return Looks(booking, made, expected, waited, waiting)


@given(st.lists(rows, max_size=80), st.lists(st.integers(0, 400_000), min_size=1, max_size=6))
def test_a_range_is_the_look_ahead_times_the_quantiles_of_how_far_earlier_ones_were_off(
    past: list[Row], expected: list[int]
) -> None:
    found = Ranges(looks_of(past), NOW).of(np.array(expected)).T.tolist()
    for seconds, wanted in zip(found, (slow_range(past, each) for each in expected), strict=True):
        assert all(abs(one - other) <= 1 for one, other in zip(seconds, wanted, strict=True)), (seconds, wanted)


@given(st.lists(rows, max_size=80), st.lists(st.integers(0, 400_000), min_size=1, max_size=6))
def test_a_range_is_in_order_and_never_in_the_past(past: list[Row], expected: list[int]) -> None:
    low, middle, high = Ranges(looks_of(past), NOW).of(np.array(expected))
    assert ((low >= 0) & (low <= middle) & (middle <= high)).all()


def test_of_many_looks_at_one_booking_each_counts_a_part() -> None:
    often = [(1, NOW, 1_000, 9_000, False)] * 1_000
    once = [(booking, NOW, 1_000, 1_000, False) for booking in range(2, 60)]
    [[_low], [middle], [_high]] = Ranges(looks_of(often + once), NOW).of(np.array([1_000])).tolist()
    assert middle == 1_000


def test_what_still_waits_far_beyond_its_look_ahead_widens_the_range() -> None:
    started = [(booking, NOW, 1_000, 1_000, False) for booking in range(50)]
    waiting = [(booking, NOW - DAY, 1_000, DAY, True) for booking in range(50, 60)]
    assert Ranges(looks_of(started), NOW).of(np.array([1_000])).ravel().tolist() == [1_000] * 3
    assert Ranges(looks_of(started + waiting), NOW).of(np.array([1_000]))[2] > 80_000


def test_ranges_learnt_from_a_steady_error_hold_as_often_as_they_say() -> None:
    """Waits that are the look ahead times a fixed spread, learnt from one half and measured on the other."""
    chance = np.random.default_rng(1)
    expected = chance.integers(600, 100_000, 4_000)
    waited = np.rint(expected * chance.lognormal(0, 0.8, 4_000)).astype(np.int64)
    half = slice(0, 2_000), slice(2_000, 4_000)
    none = np.zeros(2_000, np.bool_)
    ids, made = np.arange(2_000), np.full(2_000, NOW - DAY)
    ranges = Ranges(Looks(ids, made, expected[half[0]], waited[half[0]], none), NOW)
    told = coverage(ranges.of(expected[half[1]]), waited[half[1]])
    assert told.ranges == 2_000
    assert 0.83 <= told.held / told.ranges <= 0.91  # .94 - .07


def test_without_any_past_the_range_is_wide_around_what_is_expected() -> None:
    low, middle, high = Ranges().of(np.array([2 * HOUR])).ravel().tolist()
    assert low < HOUR < middle < 3 * HOUR < 6 * HOUR < high


def test_nothing_that_came_true_has_no_coverage() -> None:
    assert coverage(np.zeros((3, 0), np.int64), np.zeros(0, np.int64)) == (0, 0, 0)
    assert forecast.LEVELS == (0.07, 0.5, 0.94)
