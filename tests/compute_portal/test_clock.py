"""Months and days are Shanghai's; a run is cut so that each second lies in exactly one of them."""

from __future__ import annotations

import datetime as dt
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from compute_portal import clock

SHANGHAI = dt.timezone(dt.timedelta(hours=8))
# around the ends of months, leap days of 2028 and 2096 and the 2100 that has none among them
ENDS = [
    dt.datetime(2026, 11, 30, 16, tzinfo=dt.UTC), dt.datetime(2026, 12, 31, 16, tzinfo=dt.UTC),
    dt.datetime(2028, 2, 28, 16, tzinfo=dt.UTC), dt.datetime(2028, 2, 29, 16, tzinfo=dt.UTC),
    dt.datetime(2096, 2, 29, 16, tzinfo=dt.UTC), dt.datetime(2100, 2, 28, 16, tzinfo=dt.UTC),
]  # fmt: skip


@given(
    st.sampled_from(ENDS),
    st.integers(0, 3 * 86_400),
    st.integers(0, 3 * 86_400),
    st.lists(st.integers(-2 * 86_400, 2 * 86_400), max_size=3),
)
def test_each_second_of_a_run_lies_in_exactly_one_month_also_over_a_leap_day(
    end: dt.datetime, before: int, after: int, borders: list[int]
) -> None:
    start, until = end - dt.timedelta(seconds=before), end + dt.timedelta(seconds=after)
    found = list(clock.cut(start, until, [end + dt.timedelta(seconds=border) for border in borders]))
    assert sum(clock.seconds_between(*piece) for piece in found) == before + after
    seconds: Counter[str] = Counter()
    at = start
    for first, last in found:
        assert first == at < last, "no gap and no overlap"
        month = clock.month_of(first)
        bounds = clock.month_bounds(month)
        assert bounds[0] <= first and last <= bounds[1], "in one month"
        seconds[month] += clock.seconds_between(first, last)
        at = last
    local = end.astimezone(SHANGHAI)
    if local.day == 1:
        assert seconds[f"{local:%Y-%m}"] == after


def test_february_of_a_leap_year_has_its_29_days() -> None:
    start, end = clock.month_bounds("2028-02")
    assert (end - start).days == 29
    assert clock.month_of(dt.datetime(2028, 2, 29, 15, 59, 59, tzinfo=dt.UTC)) == "2028-02"
    assert clock.month_of(dt.datetime(2028, 2, 29, 16, tzinfo=dt.UTC)) == "2028-03"
    assert (clock.month_bounds("2100-02")[1] - clock.month_bounds("2100-02")[0]).days == 28
