"""Percentiles, small numbers, fairness and sums over time against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal.commons.reckoning import Load, hidden, jain, percentile, union

VALUES = st.lists(st.integers(0, 500), min_size=1, max_size=40)
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9)), max_size=12)


@settings(max_examples=40)
@given(VALUES, st.sampled_from([5, 50, 90, 95, 100]))
def test_a_percentile_is_numpys_value_that_did_occur(values: list[int], percent: int) -> None:
    counted = [(value, values.count(value)) for value in set(values)]
    assert percentile(counted, percent) == np.percentile(values, percent, method="inverted_cdf")


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 50) is None


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, 20), st.integers(0, 12), max_size=8), st.integers(2, 6))
def test_no_small_number_is_shown_or_can_be_reckoned_from_the_others(people: dict[int, int], least: int) -> None:
    gone = hidden(people, least)
    shown = {key: number for key, number in people.items() if key not in gone}
    assert all(number == 0 or number >= least for number in shown.values())
    assert not any(people[key] == 0 for key in gone)
    if gone and any(shown.values()):
        # the sum of all less what is shown is a sum over at least two, behind which enough stand
        assert len(gone) >= 2 and sum(people[key] for key in gone) >= least
    if all(number == 0 or number >= least for number in people.values()):
        assert not gone


def test_a_hidden_cell_takes_its_smallest_neighbour_along() -> None:
    assert hidden({"micro": 3, "small": 9, "medium": 6, "large": 0}, 5) == {"micro", "medium"}
    assert hidden({"micro": 3, "small": 4, "medium": 9}, 5) == {"micro", "small"}
    assert hidden({"micro": 1, "small": 1, "medium": 9, "large": 7}, 5) == {"micro", "small", "large"}


def test_the_fairness_index_is_one_when_all_are_served_alike_and_one_over_n_when_one_takes_all() -> None:
    assert jain([700, 700, 700]) == 1000
    assert jain([0, 0, 0, 900]) == 250
    assert jain([]) is None and jain([0, 0]) is None


@settings(max_examples=60)
@given(SPANS)
def test_a_load_is_what_counting_second_by_second_gives(spans: list[tuple[int, int, int]]) -> None:
    load = Load(spans)
    by_second = [sum(weight for start, end, weight in spans if start <= second < end) for second in range(70)]
    assert load.at(np.arange(70, dtype=np.int64)).tolist() == by_second
    borders = np.array([0, 7, 8, 30, 70], dtype=np.int64)
    assert load.between(borders).tolist() == [
        sum(by_second[a:b]) for a, b in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    ]


def test_spans_that_touch_are_one() -> None:
    assert union([(5, 9), (1, 3), (3, 4), (8, 12), (20, 20)]) == [(1, 4), (5, 12)]
