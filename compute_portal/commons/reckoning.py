"""Percentiles, fairness, small numbers and sums over time. Pure: integers in, integers out.

Quantities are GPU-seconds, instants Unix seconds, and parts of a whole thousandths.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import units

Key = TypeVar("Key", bound=Hashable)
Integers = NDArray[np.int64]


def percentile(counted: Iterable[tuple[int, int]], percent: int) -> int | None:
    """The smallest value that at least `percent` of all do not exceed; None without values.

    `counted` are pairs of a value and how often it occurs. This is the nearest rank, NumPy's `inverted_cdf`: always a
    value that did occur.
    """
    pairs = sorted(counted)
    rank = -(-percent * sum(times for _, times in pairs) // 100)
    seen = 0
    for value, times in pairs:
        seen += times
        if times and seen >= rank:
            return value
    return None


def hidden(people: Mapping[Key, int], least: int) -> frozenset[Key]:
    """The cells of one table that must not be shown: behind them stand fewer than `least`, but somebody.

    Where a sum over all is known, one hidden cell is that sum less the others. So cells are hidden, the smallest first,
    until at least two are and `least` stand behind them together; a cell with nobody hides nothing.
    """
    some = sorted((number, position, key) for position, (key, number) in enumerate(people.items()) if number)
    gone = [each for each in some if each[0] < least]
    rest = some[len(gone) :]
    while gone and rest and (len(gone) < 2 or sum(number for number, _, _ in gone) < least):
        gone.append(rest.pop(0))
    return frozenset(key for _, _, key in gone)


def jain(ratios: Sequence[int]) -> int | None:
    """Jain's index of fairness, (Σx)² ÷ (n Σx²), in thousandths: 1,000 when all are equal; None for none or all zero.

    R. Jain, D.-M. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination, DEC-TR-301, 1984.
    """
    squares = sum(x * x for x in ratios)
    return units.round_half_up(1000 * sum(ratios) ** 2, len(ratios) * squares) if squares else None


class Load:
    """Many intervals [start, end), each with a weight such as its GPUs; asked at many instants at once."""

    def __init__(self, intervals: Sequence[tuple[int, int, int]]) -> None:
        """(start, end, weight); what ends before it starts is nothing. A weight may be negative."""
        some = [each for each in intervals if each[0] < each[1]]
        self._starts = _Edges([(start, weight) for start, _, weight in some])
        self._ends = _Edges([(end, weight) for _, end, weight in some])

    def at(self, instants: Integers) -> Integers:
        """The weight of all intervals that hold each instant."""
        return self._starts.weight(instants) - self._ends.weight(instants)

    def between(self, borders: Integers) -> Integers:
        """Weight × seconds in each [borders[i], borders[i + 1])."""
        return np.diff(self._starts.area(borders) - self._ends.area(borders))


class _Edges:
    """Instants at which a weight begins: its sum so far, and its area since then."""

    def __init__(self, edges: Sequence[tuple[int, int]]) -> None:
        table = np.array(sorted(edges), dtype=np.int64).reshape(-1, 2)
        self._at = table[:, 0]
        self._weights = np.concatenate(([0], np.cumsum(table[:, 1])))
        self._moments = np.concatenate(([0], np.cumsum(table[:, 0] * table[:, 1])))

    def weight(self, instants: Integers) -> Integers:
        found: Integers = self._weights[np.searchsorted(self._at, instants, side="right")]
        return found

    def area(self, instants: Integers) -> Integers:
        place = np.searchsorted(self._at, instants, side="right")
        found: Integers = instants * self._weights[place] - self._moments[place]
        return found


def union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping and touching spans joined, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        elif start < end:
            joined.append((start, end))
    return joined
