"""Who occupies which node when; does it fit; earliest windows. Pure: plain values in, answers out.

An `Availability` is a snapshot of one pool. Both sides ask it: the portal places a fixed booking inside the confirming
transaction, the embedded engine's planner places everything else. It owns the rules of placement (which GPUs a
booking gets) and of time (what is free throughout a window); it does not know enterprises, limits or order.

Instants are int Unix seconds (UTC), intervals are half-open, the GPUs of a node are a bit mask (8 GPUs = 0xFF, at most
62). Whatever still holds GPUs must be given with an end after the instant that is asked about: an attempt that is
being stopped past its end is not free.

Placement, for `node_size` = the GPUs of the pool's largest node:
  * up to node_size GPUs: one node, the one with the fewest GPUs left over, lowest index on ties; its lowest free bits;
  * more: as many whole empty nodes of node_size as go into the number, lowest index first, and one more node for the
    rest, by the rule above;
  * a pool whose unit is "node" gives whole empty nodes only.

A cap says how many GPUs of the pool may be in use at once in some hours (`Cap`). It closes no node: whoever fits on the
nodes must also fit under the cap, at every instant of the window.

From this follows what makes the rest fast: with w whole empty nodes and r the most free GPUs on any other node, a
booking fits exactly when it asks for at most w * node_size + r GPUs (`largest_fit`), so one number answers for every
size; it can only fall when the window grows or something is occupied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FOREVER = 2**62  # "no end", with room to add a length without leaving int64
HOUR = 3_600
MAX_GPUS_PER_NODE = 62

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Placement = tuple[tuple[int, int], ...]  # ((node_id, gpu_mask), …) in node index order
Unit = Literal["gpu", "node"]


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """A node and how many GPUs it has."""

    id: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Occupied:
    """GPUs of one node taken by a booking, a lease or an option; `fixed` when a fixed booking takes them."""

    node_id: int
    gpu_mask: int
    starts_at: int
    ends_at: int
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """A whole node out of use: draining, down or out of service (until FOREVER), or a maintenance window."""

    node_id: int
    starts_at: int
    ends_at: int


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so many GPUs of the pool in use at once; of several the least counts."""

    starts_at: int
    ends_at: int
    gpus: int


def gpus_for(watts: int, watts_per_gpu: int, pue_permille: int) -> int:
    """How many GPUs so much power feeds: ⌊W ÷ (W per GPU × PUE)⌋. Cooling and conversion are in the PUE."""
    return watts * 1_000 // (watts_per_gpu * pue_permille)


class Hours(NamedTuple):
    """GPUs per hour; free + booked + closed = capacity in each. What is closed and booked counts as closed, and so does
    what is free but above a cap."""

    free: Ints
    booked: Ints
    closed: Ints


class Board(NamedTuple):
    """A pool at an instant, nodes by index: each GPU that is held with when it is given back, and what comes later."""

    ids: list[int]
    gpus: list[int]  # of each node
    held: list[tuple[int, int, int]]  # (end, node, mask), ascending; no GPU twice
    booked: list[tuple[int, int, int, int]]  # (start, end, node, mask)
    caps: list[tuple[int, int, int]]  # (start, end, GPUs)
    used: list[tuple[int, int]]  # under caps only: (end, GPUs) of what is in use
    to_use: list[tuple[int, int, int]]  # and (start, end, GPUs) of what will be


class _Rows(NamedTuple):
    """Everything that takes GPUs, one column per fact, sorted by node so that one reduceat answers for all nodes.

    Each node has one row without GPUs, because reduceat has no word for "no rows here".
    """

    node: Ints  # index, not id
    mask: Ints
    starts: Ints
    ends: Ints
    fixed: Flags
    closed: Flags

    @classmethod
    def join(cls, *parts: _Rows) -> _Rows:
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return cls(*(column[order] for column in columns))


class Availability:
    """A snapshot of one pool. `occupy` and `vacate` change the snapshot, and nothing else does."""

    def __init__(
        self, node_ids: Ints, node_gpus: Ints, rows: _Rows, unit: Unit, caps: Sequence[tuple[int, int, int]] = ()
    ) -> None:
        """Use `build` or `from_rows`. The rows must include the empty row of each node and be sorted by node."""
        self._caps = sorted(cap for cap in caps if cap[0] < cap[1])
        self.unit = unit
        self.capacity = int(node_gpus.sum())
        self.node_size = int(node_gpus.max(initial=0))
        self._ids: list[int] = node_ids.tolist()
        self._full = (np.int64(1) << node_gpus) - 1
        self._index: dict[int, int] = {}
        self._rows = rows
        self._pending: list[tuple[int, int, int, int, bool]] = []
        self._first = np.searchsorted(rows.node, np.arange(len(self._ids)))
        # Distinct starts, ascending. Two windows that begin together and lie between the same starts see the same
        # rows, so their free GPUs are computed once: see _free.
        self._starts: list[int] = self._all_starts()
        self._free_cache: dict[tuple[int, int], Ints] = {}
        self._fit_cache: dict[tuple[int, int], int] = {}
        self.empty_fit = self._largest(self._full)  # the most GPUs one booking can get when the pool is empty and up

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        nodes: Sequence[NodeGpus],
        occupied: Sequence[Occupied],
        closed: Sequence[Closed],
        unit: Unit = "gpu",
        caps: Sequence[Cap] = (),
    ) -> Availability:
        """From objects, nodes in index order. Raises ValueError for a row on a node that is not among `nodes`."""
        return cls.from_rows(
            [(node.id, node.gpus) for node in nodes],
            [(row.node_id, row.gpu_mask, row.starts_at, row.ends_at, row.fixed) for row in occupied],
            [(row.node_id, row.starts_at, row.ends_at) for row in closed],
            unit,
            [(cap.starts_at, cap.ends_at, cap.gpus) for cap in caps],
        )

    @classmethod
    def from_rows(
        cls,
        nodes: Sequence[Sequence[Any]] | Ints,
        occupied: Sequence[Sequence[Any]] | Ints,
        closed: Sequence[Sequence[Any]] | Ints,
        unit: Unit = "gpu",
        caps: Sequence[tuple[int, int, int]] = (),
    ) -> Availability:
        """From database tuples or int64 arrays of that shape, without objects in between.

        nodes (id, gpus) in index order; occupied (node_id, gpu_mask, starts_at, ends_at, fixed);
        closed (node_id, starts_at, ends_at); caps (starts_at, ends_at, gpus). Raises ValueError for a row on an unknown
        node.
        """
        node = columns(nodes, 2)
        taken = columns(occupied, 5)
        shut = columns(closed, 3)
        ids, gpus = node[:, 0], node[:, 1]
        if len(gpus) and not 1 <= int(gpus.min()) <= int(gpus.max()) <= MAX_GPUS_PER_NODE:
            raise ValueError(f"a node has 1 to {MAX_GPUS_PER_NODE} GPUs, not {sorted(set(gpus.tolist()))}")
        # An empty interval takes nothing, but would pass the overlap test below.
        taken = taken[taken[:, 2] < taken[:, 3]]
        shut = shut[shut[:, 1] < shut[:, 2]]
        full = (np.int64(1) << gpus) - 1
        count, taken_at, shut_at = len(ids), positions(ids, taken[:, 0]), positions(ids, shut[:, 0])
        nothing, never = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        rows = _Rows.join(
            _Rows(np.arange(count), nothing, nothing, nothing, never, never),
            _Rows(
                taken_at,
                taken[:, 1] & full[taken_at],
                taken[:, 2],
                taken[:, 3],
                taken[:, 4] != 0,
                np.zeros(len(taken), np.bool_),
            ),
            _Rows(
                shut_at, full[shut_at], shut[:, 1], shut[:, 2], np.zeros(len(shut), np.bool_), np.ones(len(shut), bool)
            ),
        )
        return cls(ids, gpus, rows, unit, caps)

    def copy(self) -> Availability:
        """The same snapshot again; what is occupied in one is not occupied in the other."""
        twin = object.__new__(Availability)
        twin.__dict__.update(self.__dict__)
        twin._pending = self._pending.copy()
        twin._starts = self._starts.copy()
        twin._free_cache = {key: free.copy() for key, free in self._free_cache.items()}
        twin._fit_cache = self._fit_cache.copy()
        return twin

    # -- does it fit --------------------------------------------------------------------------------------------------

    def free_masks(self, start: int, end: int) -> Ints:
        """Per node, in index order, the GPUs free throughout [start, end)."""
        return self._free(self._window(start, end)).copy()

    def largest_fit(self, start: int, end: int) -> int:
        """The most GPUs that one booking could get in [start, end); every smaller number fits too.

        In a pool of whole nodes "smaller number" means a smaller multiple of node_size.
        """
        window = self._window(start, end)
        fit = self._fit_cache.get(window)
        if fit is None:
            fit = self._fit_cache[window] = self._largest(self._free(window), self._room(*window))
        return fit

    def gives(self, gpus: int) -> bool:
        """Whether this pool ever gives such a number: any, or in a pool of whole nodes a multiple of node_size."""
        if gpus < 1:
            raise ValueError(f"{gpus} GPUs asked")
        return self.unit == "gpu" or (self.node_size > 0 and gpus % self.node_size == 0)

    def fits(self, gpus: int, start: int, end: int) -> bool:
        """Whether place() would succeed."""
        return self.gives(gpus) and gpus <= self.largest_fit(start, end)

    def place(self, gpus: int, start: int, end: int) -> Placement | None:
        """The GPUs a booking of this size gets in [start, end), by the rules above; None if it does not fit."""
        if not self.fits(gpus, start, end):
            return None
        free = self._free(self._window(start, end))
        counts = np.bitwise_count(free)
        if gpus <= self.node_size and self.unit == "gpu":
            return (self._on_one_node(free, counts, gpus),)
        whole, rest = divmod(gpus, self.node_size)
        chosen = np.flatnonzero(counts == self.node_size)[:whole]
        placed = [(int(index), int(free[index])) for index in chosen]
        if rest:
            counts[chosen] = 0
            node_id, mask = self._on_one_node(free, counts, rest)
            placed.append((self._index_of(node_id), mask))
        return tuple((self._ids[index], mask) for index, mask in sorted(placed))

    def are_free(self, placement: Placement, start: int, end: int) -> bool:
        """Whether just these GPUs are free throughout [start, end), and caps let them be used."""
        free = self._free(self._window(start, end))
        if sum(mask.bit_count() for _node_id, mask in placement) > self._room(start, end - 1):
            return False
        return all(mask & ~int(free[self._index_of(node_id)]) == 0 for node_id, mask in placement)

    def room(self, start: int, end: int) -> int:
        """How many more GPUs caps let be in use throughout [start, end), whatever is free; FOREVER without one."""
        return self._room(start, end - 1)

    def occupy(self, placement: Placement, start: int, end: int, fixed: bool = False) -> None:
        """Take these GPUs for [start, end) in this snapshot, so that the next question sees it."""
        if start >= end:
            raise ValueError(f"[{start}, {end}) is empty")
        taken = [(self._index_of(node_id), mask) for node_id, mask in placement]
        self._pending += [(index, mask, start, end, fixed) for index, mask in taken]
        place = bisect_left(self._starts, start)
        if place == len(self._starts) or self._starts[place] != start:
            insort(self._starts, start)
        # A cached window (at, latest) stands for the rows that start by `latest` and end after `at`.
        for (at, latest), free in self._free_cache.items():
            if start <= latest and end > at:
                for index, mask in taken:
                    free[index] &= ~mask
                self._fit_cache.pop((at, latest), None)

    def vacate(self, placements: Iterable[Placement], now: int) -> None:
        """What has these GPUs at `now` gives them back, and what is over by then is forgotten: ask about later only."""
        rows = self._merged()
        keep = rows.ends > now
        for node_id, mask in chain.from_iterable(placements):
            theirs = (rows.node == self._index_of(node_id)) & (rows.mask == mask) & (rows.starts <= now) & ~rows.closed
            keep &= ~theirs
        keep |= rows.mask == 0  # the empty row of each node
        self._rows = _Rows(
            rows.node[keep], rows.mask[keep], rows.starts[keep], rows.ends[keep], rows.fixed[keep], rows.closed[keep]
        )
        self._first = np.searchsorted(self._rows.node, np.arange(len(self._ids)))
        self._starts = self._all_starts()
        self._free_cache.clear()
        self._fit_cache.clear()

    # -- when does it fit ---------------------------------------------------------------------------------------------

    def earliest(self, gpus: int, seconds: int, after: int, before: int, step: int = 1) -> int | None:
        """The first start t, after <= t < before, a multiple of `step`, at which place(gpus, t, t + seconds) succeeds.

        It is enough to try `after` and every end of an occupation or closure, each rounded up to the grid. For let t be
        the first start that fits, and t - step not before `after`. Were there no end in (t - step, t], every row that
        touches [t - step, t - step + seconds) would end after t and so touch [t, t + seconds) too: t - step, which has
        no more rows against it than t, would fit as well. So there is such an end, and rounded up it is t.

        Between two candidates that see the same rows begin (t + seconds passes no start), the later one only loses
        rows: fitting is monotone there. So one question settles a whole run of candidates that cannot fit, and a
        bisection finds the first in a run that can.
        """
        first = -(-after // step) * step
        if first >= before or not self.gives(gpus) or gpus > self.empty_fit:
            return None
        rows = self._merged()
        ends = -(-np.append(rows.ends, np.array([end for _start, end, _gpus in self._caps], np.int64)) // step) * step
        candidates = np.unique(np.append(ends[(ends > first) & (ends < before)], first))
        level = np.searchsorted(np.array(self._starts, np.int64), candidates + seconds)
        run_ends = np.flatnonzero(np.append(level[1:] != level[:-1], True)).tolist()

        def fits(at: int) -> bool:
            start = int(candidates[at])
            free = self._full & ~self._busy(rows, start, start + seconds)
            return gpus <= self._largest(free, self._room(start, start + seconds - 1))

        low = 0
        for last in run_ends:
            if fits(last):
                return int(candidates[bisect_left(range(low, last), True, key=fits) + low])
            low = last + 1
        return None

    def windows(self, gpus: int, seconds: int, after: int, before: int, step: int, count: int) -> list[int]:
        """The earliest `count` starts as in earliest(), ascending; fewer if there are no more."""
        found: list[int] = []
        while len(found) < count:
            start = self.earliest(gpus, seconds, found[-1] + step if found else after, before, step)
            if start is None:
                break
            found.append(start)
        return found

    def board(self, now: int) -> Board:
        """What a round of planning plays on; see Board."""
        rows = self._merged()
        used: list[tuple[int, int]] = []
        to_use: list[tuple[int, int, int]] = []
        caps = [cap for cap in self._caps if cap[1] > now]
        if caps:
            taken = (rows.mask != 0) & (rows.ends > now) & ~rows.closed
            counts = np.bitwise_count(rows.mask)
            for start, end, gpus in zip(
                rows.starts[taken].tolist(), rows.ends[taken].tolist(), counts[taken].tolist(), strict=True
            ):
                if start > now:
                    to_use.append((start, end, gpus))
                else:
                    used.append((end, gpus))
        live = (rows.mask != 0) & (rows.ends > now)
        here, later = live & (rows.starts <= now), live & (rows.starts > now)
        held: list[tuple[int, int, int]] = []
        seen = [0] * len(self._ids)
        # A GPU that two rows hold, such as one on a node that is closed while something runs, is held until the last.
        order = np.argsort(-rows.ends[here], kind="stable")
        for end, node, mask in zip(
            rows.ends[here][order].tolist(), rows.node[here][order].tolist(), rows.mask[here][order].tolist(),
            strict=True,
        ):  # fmt: skip
            if mask & ~seen[node]:
                held.append((end, node, mask & ~seen[node]))
                seen[node] |= mask
        held.reverse()
        columns = (column[later].tolist() for column in (rows.starts, rows.ends, rows.node, rows.mask))
        gpus = np.bitwise_count(self._full).tolist()
        return Board(self._ids, gpus, held, list(zip(*columns, strict=True)), caps, used, to_use)

    # -- counting -----------------------------------------------------------------------------------------------------

    def free_by_hour(self, first_hour: int, hours: int) -> Ints:
        """GPUs free throughout each of the hours [first_hour + 3600 i, + 3600), over all nodes."""
        return self.by_hour(first_hour, hours).free

    def by_hour(self, first_hour: int, hours: int) -> Hours:
        """Per hour the GPUs free throughout, closed for some of it, and else booked for some of it."""
        rows = self._merged()
        begin = np.clip((rows.starts - first_hour) // HOUR, 0, hours)
        end = np.clip(-(-(rows.ends - first_hour) // HOUR), 0, hours)
        # Hours between two changes have the same rows: each stretch is counted once.
        capped = [
            (max(0, (start - first_hour) // HOUR), min(hours, -(-(stop - first_hour) // HOUR)), gpus)
            for start, stop, gpus in self._caps
        ]
        borders = [hour for start, stop, _gpus in capped if start < stop for hour in (start, stop)]
        changes = np.unique(np.concatenate([[0], begin, end, borders]).astype(np.int64))
        changes = changes[changes < hours]
        free, closed = np.zeros(len(changes), np.int64), np.zeros(len(changes), np.int64)
        for i, hour in enumerate(changes.tolist()):
            here = (begin <= hour) & (hour < end)
            free[i] = np.bitwise_count(self._full & ~self._masks(rows, here)).sum(dtype=np.int64)
            closed[i] = np.bitwise_count(self._masks(rows, here & rows.closed)).sum(dtype=np.int64)
            cap = min((gpus for start, stop, gpus in capped if start <= hour < stop), default=None)
            if cap is not None:
                above = min(int(free[i]), max(0, int(self.capacity - closed[i]) - cap))
                free[i] -= above
                closed[i] += above
        lengths = np.diff(np.append(changes, hours))
        free, closed = np.repeat(free, lengths), np.repeat(closed, lengths)
        return Hours(free, self.capacity - free - closed, closed)

    def peak_fixed(self, start: int, end: int) -> int:
        """The highest number of GPUs taken by fixed bookings at any instant of [start, end)."""
        rows = self._merged()
        here = rows.fixed & (rows.starts < end) & (rows.ends > start)
        # The number rises only where one starts.
        instants = np.unique(np.maximum(rows.starts[here], start)).tolist()
        return max((self._fixed_at(rows, instant) for instant in instants), default=0)

    # -- why does it not fit ------------------------------------------------------------------------------------------

    def largest_fit_without_fixed(self, start: int, end: int) -> int:
        """largest_fit if the fixed bookings that begin inside the window were not there."""
        rows = self._merged()
        kept = ~(rows.fixed & (rows.starts > start))
        return self._largest(self._full & ~self._busy(rows, start, end, kept), self._room(start, end - 1, kept))

    def largest_fit_without_maintenance(self, start: int, end: int) -> int:
        """largest_fit if the closures that have an end were not there."""
        rows = self._merged()
        return self._largest(
            self._full & ~self._busy(rows, start, end, ~_maintenance(rows)), self._room(start, end - 1)
        )

    def largest_fit_without_caps(self, start: int, end: int) -> int:
        """largest_fit if no cap held."""
        return self._largest(self._free(self._window(start, end)))

    def cap_in_the_way(self, gpus: int, start: int, end: int) -> Cap | None:
        """The first cap that alone lets fewer GPUs than these be used throughout [start, end); None: no cap does."""
        for cap in self._caps:
            if cap[0] < end and cap[1] > start and self._room(start, end - 1, caps=[cap]) < gpus:
                return Cap(*cap)
        return None

    def fixed_starts(self, start: int, end: int) -> list[int]:
        """When fixed bookings begin inside the window, ascending."""
        rows = self._merged()
        starts: list[int] = np.unique(rows.starts[rows.fixed & (rows.starts > start) & (rows.starts < end)]).tolist()
        return starts

    def starts_after(self, instant: int) -> list[int]:
        """When something begins to take GPUs later than this, ascending."""
        return self._starts[bisect_right(self._starts, instant) :]

    def next_end(self, after: int) -> int | None:
        """When the first of what takes GPUs comes to its end; None when nothing does."""
        ends = self._merged().ends
        ends = ends[(ends > after) & (ends < FOREVER)]
        return int(ends.min()) if len(ends) else None

    def maintenance_ends(self, start: int, end: int) -> int | None:
        """When the last closure that touches the window and has an end is over; None without one."""
        rows = self._merged()
        ends = rows.ends[_maintenance(rows) & (rows.starts < end) & (rows.ends > start)]
        return int(ends.max()) if len(ends) else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _window(self, start: int, end: int) -> tuple[int, int]:
        """What identifies the rows that touch [start, end): they start by the second and end after the first."""
        if start >= end:
            raise ValueError(f"[{start}, {end}) is empty")
        place = bisect_left(self._starts, end)
        return start, max(self._starts[place - 1], start) if place else start

    def _free(self, window: tuple[int, int]) -> Ints:
        free = self._free_cache.get(window)
        if free is None:
            at, latest = window
            free = self._free_cache[window] = self._full & ~self._busy(self._merged(), at, latest + 1)
        return free

    def _busy(self, rows: _Rows, start: int, end: int, among: Flags | None = None) -> Ints:
        touching = (rows.starts < end) & (rows.ends > start)
        return self._masks(rows, touching if among is None else touching & among)

    def _masks(self, rows: _Rows, which: Flags) -> Ints:
        """Per node all GPUs of these rows together."""
        if not self._ids:
            return np.zeros(0, np.int64)
        return np.bitwise_or.reduceat(rows.mask * which, self._first)

    def _largest(self, free: Ints, room: int = FOREVER) -> int:
        counts = np.bitwise_count(free)
        whole = counts == self.node_size
        most = int(np.count_nonzero(whole)) * self.node_size
        if self.unit == "node":
            return min(most, room // max(1, self.node_size) * self.node_size)
        return min(most + int(np.max(counts, where=~whole, initial=0)), room)

    def _room(
        self, start: int, last: int, among: Flags | None = None, caps: Sequence[tuple[int, int, int]] | None = None
    ) -> int:
        """How many more GPUs caps allow to be in use at every instant of [start, last].

        It only falls where something begins: a cap, or an occupation under one.
        """
        caps = [cap for cap in (self._caps if caps is None else caps) if cap[0] <= last and cap[1] > start]
        if not caps:
            return FOREVER
        rows = self._merged()
        taken = (rows.starts <= last) & (rows.ends > start) & ~rows.closed
        if among is not None:
            taken &= among
        starts, ends, counts = rows.starts[taken], rows.ends[taken], np.bitwise_count(rows.mask[taken]).astype(np.int64)
        instants = {start, *(cap[0] for cap in caps), *starts.tolist()}
        room = FOREVER
        for instant in instants:
            cap = min((gpus for begins, until, gpus in caps if begins <= instant < until), default=None)
            if cap is not None and start <= instant <= last:
                room = min(room, cap - int(counts[(starts <= instant) & (ends > instant)].sum()))
        return max(0, room)

    def _all_starts(self) -> list[int]:
        caps = np.array([start for start, _end, _gpus in self._caps], np.int64)
        starts: list[int] = np.unique(np.append(self._rows.starts, caps)).tolist()
        return starts

    def _on_one_node(self, free: Ints, counts: NDArray[np.uint8], gpus: int) -> tuple[int, int]:
        """Best fit; argmin takes the lowest index on ties."""
        index = int(np.argmin(np.where(counts >= gpus, counts, MAX_GPUS_PER_NODE + 1)))
        return self._ids[index], lowest_bits(int(free[index]), gpus)

    def _fixed_at(self, rows: _Rows, instant: int) -> int:
        masks = self._masks(rows, rows.fixed & (rows.starts <= instant) & (rows.ends > instant))
        return int(np.bitwise_count(masks).sum(dtype=np.int64))

    def _index_of(self, node_id: int) -> int:
        if not self._index:
            self._index = {id: index for index, id in enumerate(self._ids)}
        return self._index[node_id]

    def _merged(self) -> _Rows:
        """All rows. Those that `occupy` added are sorted in when the next question needs them, not one by one."""
        if self._pending:
            added = np.array(self._pending, np.int64)
            fixed = added[:, 4] != 0
            new = _Rows(added[:, 0], added[:, 1], added[:, 2], added[:, 3], fixed, np.zeros(len(added), np.bool_))
            self._rows = _Rows.join(self._rows, new)
            self._first = np.searchsorted(self._rows.node, np.arange(len(self._ids)))
            self._pending = []
        return self._rows


def columns(rows: Iterable[Sequence[Any]] | Ints, width: int) -> Ints:
    """Rows as an int64 array; fromiter takes half the time of array() on tuples."""
    if isinstance(rows, np.ndarray):
        return rows.reshape(-1, width).astype(np.int64, copy=False)
    return np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, width)


def positions(ids: Ints, wanted: Ints) -> Ints:
    """Node index of each id. Raises ValueError naming an id that no node has."""
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids, wanted, sorter=order)
    if len(wanted) and (int(place.max()) == len(ids) or bool((ids[order[place]] != wanted).any())):
        raise ValueError(f"rows on nodes that are not in this pool: {sorted(set(wanted.tolist()) - set(ids.tolist()))}")
    return order[place]


def _maintenance(rows: _Rows) -> Flags:
    return rows.closed & (rows.ends < FOREVER)


def lowest_bits(mask: int, count: int) -> int:
    """So many of the mask's bits, the lowest."""
    chosen = 0
    for _ in range(count):
        lowest = mask & -mask
        chosen |= lowest
        mask ^= lowest
    return chosen
