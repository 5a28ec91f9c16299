"""When will it start: from a look ahead to a range that comes true as often as it says. Pure.

Two things are learnt from what happened:

* `RunTimes`: how long a booking really runs. Its request × the median of what its enterprise's last 200 runs in the
  same class of requests (under 1 h, 1 to 12 h, longer) took of theirs. What runs already is compared only with those
  that ran on beyond the same part of their request.
* `Ranges`: how far earlier looks ahead were off. A look ahead that expects E seconds becomes the range

      (E + 300 s) × quantile of past (wait + 300 s) ÷ (E + 300 s)  −  300 s

  with the quantiles .07, .50 and .94, shown as p10, p50 and p90: plain .10 and .90 held only three times in four on
  real weeks, because what waits longest is known last. Compared are looks ahead of the same length (under 15 min, 2 h,
  12 h, 48 h, longer), with their neighbours where fewer than 40 bookings are known. A look ahead counts half after
  each 7 days, and a booking that was looked at often counts once. What still waits counts with the time it has waited
  since, once that is above the median: to leave it out would say that nobody waits long.

Without any past the range comes from `AT_FIRST`, and gives way to what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RATIOS = 200  # of an enterprise and a class of requests, the newest
CLASS_EDGES = np.array([3_600, 12 * 3_600 + 1])  # seconds asked: under 1 h, 1 to 12 h, longer

PAD = 300.0  # seconds: what is expected at once and starts after a minute was no miss
LENGTH_EDGES = np.array([15 * 60, 2 * 3_600, 12 * 3_600, 48 * 3_600])  # seconds expected
LEVELS = (0.07, 0.50, 0.94)
LEAST_BOOKINGS = 40
HALF_LIFE = 7 * 86_400
# Ratios as they were on real weeks of other clusters, each standing for one booking, so many as are missing to the
# least: the first ranges of a new pool are wide, and soon its own.
AT_FIRST = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.4, 2.0, 3.5])


# -- how long it runs -------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A run that is over by itself: who, seconds asked, seconds run."""

    enterprise_id: int
    asked: int
    ran: int


class RunTimes:
    """What enterprises use of the time they ask for. `learn` takes runs in the order in which they ended."""

    def __init__(self, runs: Iterable[Ran] = ()) -> None:
        self._ratios: dict[tuple[int, int], list[float]] = {}
        self._sorted: dict[tuple[int, int], Floats] = {}
        self.learn(runs)

    def learn(self, runs: Iterable[Ran]) -> None:
        for run in runs:
            key = run.enterprise_id, int(_class_of(np.int64(run.asked)))
            ratios = self._ratios.setdefault(key, [])
            ratios.append(min(1.0, run.ran / run.asked))
            if len(ratios) > RATIOS:
                del ratios[0]
            self._sorted.pop(key, None)

    def expect(self, enterprise_id: Ints, asked: Ints, elapsed: Ints | None = None) -> Ints:
        """Seconds each is expected to run in all, at least 1 and at most what it asked for.

        With `elapsed` (seconds it runs already) more than that. An enterprise without such runs takes all it asks for.
        """
        part = np.ones(len(asked))
        classes = _class_of(asked)
        groups, which = np.unique(np.stack([enterprise_id, classes]), axis=1, return_inverse=True)
        for group, (enterprise, length) in enumerate(groups.T.tolist()):
            known = self._known((enterprise, length))
            if len(known):
                here = np.flatnonzero(which == group)
                beyond = 0 if elapsed is None else np.searchsorted(known, elapsed[here] / asked[here], side="right")
                part[here] = _median_from(known, np.broadcast_to(beyond, here.shape))
        seconds = np.minimum(np.maximum(np.rint(asked * part).astype(np.int64), 1), asked)
        return seconds if elapsed is None else np.maximum(seconds, np.minimum(elapsed + 1, asked))

    def _known(self, key: tuple[int, int]) -> Floats:
        known = self._sorted.get(key)
        if known is None:
            known = self._sorted[key] = np.sort(np.array(self._ratios.get(key, ()), np.float64))
        return known


def _class_of(asked: Ints | np.int64) -> Ints:
    return np.searchsorted(CLASS_EDGES, asked, side="right")


def _median_from(known: Floats, first: Ints) -> Floats:
    """The median of known[first:] for each of `first`; 1 where nothing is left."""
    count = len(known)
    low = np.minimum((first + count - 1) // 2, count - 1)
    high = np.minimum((first + count) // 2, count - 1)
    return np.where(first < count, (known[low] + known[high]) / 2, 1.0)


# -- how far it is off ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Looks:
    """Earlier looks ahead, one column per fact, in any order. Instants are Unix seconds.

    `waited`: seconds from the look to the start; where `waiting`, to now, for the booking has not started yet.
    """

    booking_id: Ints
    made_at: Ints
    expected: Ints
    waited: Ints
    waiting: Flags


_NONE = np.zeros(0, np.int64)
NO_LOOKS = Looks(_NONE, _NONE, _NONE, _NONE, np.zeros(0, np.bool_))


class Ranges:
    """Turns looks ahead into ranges, by what came of the earlier ones."""

    def __init__(self, looks: Looks = NO_LOOKS, now: int = 0) -> None:
        """The ratios of each length of look ahead, sorted, with the running sum of their weights."""
        length = np.searchsorted(LENGTH_EDGES, looks.expected, side="right")
        ratio = (looks.waited + PAD) / (looks.expected + PAD)
        fresh = np.exp2(-np.maximum(0, now - looks.made_at) / HALF_LIFE)
        self._known = [_known_of(looks, ratio, fresh, length, at) for at in range(len(LENGTH_EDGES) + 1)]

    def of(self, expected: Ints) -> Ints:
        """Rows p10, p50, p90 in seconds from now, one column for each look ahead; never below 0."""
        length = np.searchsorted(LENGTH_EDGES, expected, side="right")
        factors = np.array([[_quantile(known, level) for known in self._known] for level in LEVELS])
        seconds = (expected + PAD) * factors[:, length] - PAD
        whole: Ints = np.maximum(0, np.rint(seconds)).astype(np.int64)
        return whole


_Known = tuple[Floats, Floats]  # ratios, ascending, and the sum of the weights up to each


def _known_of(looks: Looks, ratio: Floats, fresh: Floats, length: Ints, at: int) -> _Known:
    """The ratios that speak for one length, with neighbours as far away as it takes to know enough bookings."""
    for reach in range(len(LENGTH_EDGES) + 1):
        here = np.flatnonzero(np.abs(length - at) <= reach)
        bookings = len(np.unique(looks.booking_id[here]))
        if bookings >= LEAST_BOOKINGS:
            break
    ratios, weights = _of_bookings(looks.booking_id[here], ratio[here], fresh[here])
    started = _sorted_with_sums(ratios[~looks.waiting[here]], weights[~looks.waiting[here]])
    median = _quantile(started, 0.5) if len(started[0]) else 0.0
    counts = ~looks.waiting[here] | (ratios > median)
    # Those that do not count must not take a part of their booking's weight.
    ratios, weights = _of_bookings(looks.booking_id[here][counts], ratio[here][counts], fresh[here][counts])
    missing = max(0, LEAST_BOOKINGS - len(np.unique(looks.booking_id[here][counts])))
    if missing:
        ratios = np.append(ratios, AT_FIRST)
        weights = np.append(weights, np.full(len(AT_FIRST), missing / len(AT_FIRST)))
    return _sorted_with_sums(ratios, weights)


def _of_bookings(booking_id: Ints, ratio: Floats, fresh: Floats) -> tuple[Floats, Floats]:
    """Ratios and their weights: how fresh each is, split among the looks at the same booking."""
    _ids, which, count = np.unique(booking_id, return_inverse=True, return_counts=True)
    return ratio, fresh / count[which] if len(ratio) else fresh


def _sorted_with_sums(ratios: Floats, weights: Floats) -> _Known:
    order = np.argsort(ratios, kind="stable")
    return ratios[order], np.cumsum(weights[order])


def _quantile(known: _Known, level: float) -> float:
    """The smallest ratio at which `level` of all weight is reached."""
    ratios, sums = known
    return float(ratios[min(int(np.searchsorted(sums, level * sums[-1] - 1e-12)), len(ratios) - 1)])


# -- did it come true -------------------------------------------------------------------------------------------------


class Coverage(NamedTuple):
    """Of so many ranges so many held: the start lay between p10 and p90. `error`: median of |start − p50|, seconds."""

    ranges: int
    held: int
    error: int


def coverage(ranges: Ints, waited: Ints) -> Coverage:
    """`ranges` as from Ranges.of, `waited` the seconds that it really took."""
    if not len(waited):
        return Coverage(0, 0, 0)
    held = (ranges[0] <= waited) & (waited <= ranges[2])
    return Coverage(len(waited), int(held.sum()), int(np.median(np.abs(ranges[1] - waited))))
