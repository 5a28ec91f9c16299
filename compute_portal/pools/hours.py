"""A pool hour by hour: who has which cards in each hour, and which windows are still to be had. Pure.

A `Grid` is nodes × hours. In every hour every card is exactly one of: free, booked by others, mine, kept for somebody
(an option), closed (its node is out of use for some of the hour). What is closed and booked counts as closed, what is
mine and somebody else's in one hour counts as mine, what is booked and kept as booked. An hour that is taken for some
of it is taken: fixed bookings begin and end on the hour, so a window of whole hours fits exactly when its hours do.

Instants are Unix seconds (UTC), the cards of a node are a bit mask; see `availability`, whose rules of placement these
are. All of it is reckoned on whole arrays: eight weeks of a pool of 512 nodes are one matrix.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .availability import FOREVER, HOUR, Flags, Ints, Unit, columns, positions


class Whose(enum.IntEnum):
    """In the order in which they win where two meet in one hour."""

    KEPT = 0
    BOOKED = 1
    MINE = 2


class Taken(NamedTuple):
    """Cards of one node from when to when; `fixed` when they count into the share that may be booked in advance."""

    node_id: int
    gpu_mask: int
    starts_at: int
    ends_at: int
    fixed: bool
    whose: Whose


class Shut(NamedTuple):
    """A node out of use from when to when."""

    node_id: int
    starts_at: int
    ends_at: int


@dataclass(frozen=True)
class Grid:
    """Bit masks of cards, one row per node in order of placement, one column per hour from `first`; `grid` makes it."""

    first: int
    node_ids: Ints
    full: Ints  # per node
    free: Ints
    booked: Ints
    mine: Ints
    kept: Ints
    closed: Ints
    fixed: Ints  # per hour: the most cards that fixed bookings and options have at one instant of it
    maintenance: Flags  # per hour: whether a closure that has an end touches it
    under_caps: Ints  # per hour: how many cards more caps of power let be in use; FOREVER where there is none
    unit: Unit

    @property
    def hours(self) -> int:
        return int(self.free.shape[1])

    @property
    def capacity(self) -> int:
        """All cards, whatever the state of their nodes."""
        return int(np.bitwise_count(self.full).sum(dtype=np.int64))

    def count(self, masks: Ints) -> Ints:
        """Cards per hour, over all nodes."""
        cards: Ints = np.bitwise_count(masks).sum(axis=0, dtype=np.int64)
        return cards

    def usable(self) -> Ints:
        """Cards per hour that are free and that caps of power let be in use."""
        cards: Ints = np.minimum(self.count(self.free), np.maximum(0, self.under_caps))
        return cards

    def room(self, most_fixed: int, hours: int = 1) -> Ints:
        """The most cards that one fixed booking could get in each window of so many hours, by the hour it begins in.

        `most_fixed` is how many cards of the pool may be booked in advance in any hour. One number for each start in
        [0, self.hours - hours]; every smaller number of cards fits too (in a pool of whole nodes: of whole nodes).
        """
        free = self._throughout(self.free, hours, np.bitwise_and)
        left = np.minimum(
            most_fixed - self._throughout(self.fixed[None, :], hours, np.maximum)[0],
            self._throughout(self.under_caps[None, :], hours, np.minimum)[0],
        )
        return self._largest(free, left)

    def room_from(self, hour: int, most_fixed: int) -> Ints:
        """The most cards that a fixed booking could get from this hour on, if it lasts 1, 2, 3 … hours."""
        free = np.bitwise_and.accumulate(self.free[:, hour:], axis=1)
        left = np.minimum(
            most_fixed - np.maximum.accumulate(self.fixed[hour:]), np.minimum.accumulate(self.under_caps[hour:])
        )
        return self._largest(free, left)

    def _largest(self, free: Ints, left: Ints) -> Ints:
        """Per column what one booking can get of these cards, and never more than `left`."""
        counts = np.bitwise_count(free).astype(np.int64)
        size = int(np.bitwise_count(self.full).max(initial=0))
        whole = counts == size
        fit = whole.sum(axis=0, dtype=np.int64) * size
        if self.unit == "gpu":
            fit = fit + np.where(whole, 0, counts).max(axis=0, initial=0)
        room: Ints = np.maximum(0, np.minimum(fit, left))
        return room

    def uncapped(self) -> Grid:
        """The same if no cap of power held; itself where none does."""
        if not (self.under_caps < FOREVER).any():
            return self
        return dataclasses.replace(self, under_caps=np.full(self.hours, FOREVER, np.int64))

    def gives(self, gpus: int) -> bool:
        """Whether this pool ever gives such a number: any, or in a pool of whole nodes whole ones."""
        size = int(np.bitwise_count(self.full).max(initial=0))
        return gpus > 0 and (self.unit == "gpu" or (size > 0 and gpus % size == 0))

    def starts(self, gpus: int, hours: int, most_fixed: int, allowed: Flags | None = None) -> Ints:
        """In which hours a fixed booking of so many cards may begin that lasts so many hours, ascending.

        `allowed` says of each hour whether it may be used at all: limits of the asker, nights, what is past.
        """
        if not 1 <= hours <= self.hours or not self.gives(gpus):
            return np.zeros(0, np.int64)
        found = self.room(most_fixed, hours) >= gpus
        if allowed is not None:
            found &= self._throughout(allowed[None, :], hours, np.logical_and)[0]
        return np.flatnonzero(found)

    @staticmethod
    def _throughout(cells: Any, hours: int, together: np.ufunc) -> Any:
        """`together` over each run of so many columns, by doubling: as many steps as the length has binary digits."""
        reach, columns = 1, cells
        while 2 * reach <= hours:
            columns = together(columns[:, :-reach], columns[:, reach:])
            reach *= 2
        rest = hours - reach
        return together(columns[:, : columns.shape[1] - rest], columns[:, rest:]) if rest else columns


def grid(
    nodes: Sequence[Sequence[Any]],
    taken: Sequence[Sequence[Any]],
    closed: Sequence[Sequence[Any]],
    *,
    first: int,
    hours: int,
    unit: Unit = "gpu",
    caps: Sequence[tuple[int, int, int]] = (),
) -> Grid:
    """From database tuples: nodes (id, gpus) in order of placement, `Taken` and `Shut` rows. `first` is on the hour.

    `caps` say how many cards may be in use at once: (starts_at, ends_at, cards).

    Raises ValueError for a row on a node that is not among `nodes`.
    """
    node, rows, shut = columns(nodes, 2), columns(taken, 6), columns(closed, 3)
    ids, full = node[:, 0], (np.int64(1) << node[:, 1]) - 1
    shape = (len(ids), hours)
    rows, shut = rows[rows[:, 2] < rows[:, 3]], shut[shut[:, 1] < shut[:, 2]]
    at = positions(ids, rows[:, 0])
    begin, end = _hours(rows[:, 2], rows[:, 3], first, hours)
    mask = rows[:, 1] & full[at]
    of = [_spread(shape, at[one], mask[one], begin[one], end[one]) for one in (rows[:, 5] == w for w in Whose)]
    shut_at = positions(ids, shut[:, 0])
    gone = _spread(shape, shut_at, full[shut_at], *_hours(shut[:, 1], shut[:, 2], first, hours))
    mine = of[Whose.MINE] & ~gone
    booked = of[Whose.BOOKED] & ~gone & ~mine
    kept = of[Whose.KEPT] & ~gone & ~mine & ~booked
    free = full[:, None] & ~(gone | mine | booked | kept)
    fixed = rows[:, 4] != 0
    peak = _peak(at[fixed], mask[fixed], rows[fixed, 2], rows[fixed, 3], len(ids), first, hours)
    planned = np.zeros(hours, np.bool_)
    with_end = shut[shut[:, 2] < FOREVER]
    for begin_hour, end_hour in zip(*_hours(with_end[:, 1], with_end[:, 2], first, hours), strict=True):
        planned[begin_hour:end_hour] = True
    under_caps = np.full(hours, FOREVER, np.int64)
    if caps:
        used = _peak(at, mask, rows[:, 2], rows[:, 3], len(ids), first, hours)
        for starts_at, ends_at, cards in caps:
            (begin_hour,), (end_hour,) = _hours(np.array([starts_at]), np.array([ends_at]), first, hours)
            within = slice(begin_hour, end_hour)
            under_caps[within] = np.minimum(under_caps[within], cards - used[within])
    return Grid(first, ids, full, free, booked, mine, kept, gone, peak, planned, under_caps, unit)


def _hours(starts: Ints, ends: Ints, first: int, hours: int) -> tuple[Ints, Ints]:
    """The columns that a row touches, half-open."""
    return np.clip((starts - first) // HOUR, 0, hours), np.clip(-(-(ends - first) // HOUR), 0, hours)


def _spread(shape: tuple[int, int], node: Ints, mask: Ints, begin: Ints, end: Ints) -> Ints:
    """Every row's cards in every hour of [begin, end), over one another."""
    lengths = end - begin
    row = np.repeat(np.arange(len(node)), lengths)
    hour = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + begin[row]
    cells = np.zeros(shape, np.int64)
    np.bitwise_or.at(cells, (node[row], hour), mask[row])
    return cells


def _peak(node: Ints, mask: Ints, starts: Ints, ends: Ints, nodes: int, first: int, hours: int) -> Ints:
    """Per hour the most of these cards at one instant of it. Their number changes only where a row starts or ends."""
    last = first + hours * HOUR
    here = (starts < last) & (ends > first)
    node, mask, starts, ends = node[here], mask[here], starts[here], ends[here]
    hourly = first + HOUR * np.arange(hours)
    instants = np.unique(np.concatenate([[first], starts, ends]))
    instants = instants[(instants >= first) & (instants < last)]
    counts = np.zeros(len(instants), np.int64)
    for index, instant in enumerate(instants.tolist()):
        now = (starts <= instant) & (ends > instant)
        cards = np.zeros(nodes, np.int64)
        np.bitwise_or.at(cards, node[now], mask[now])
        counts[index] = np.bitwise_count(cards).sum(dtype=np.int64)
    # What holds when an hour begins, and the highest of what begins inside it.
    peak = counts[np.searchsorted(instants, hourly, side="right") - 1] if hours else np.zeros(0, np.int64)
    np.maximum.at(peak, (instants - first) // HOUR, counts)
    return peak
