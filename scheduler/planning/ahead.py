"""A look ahead: when would each waiting booking start if nobody else came? For all at once, and fast. Pure.

Everybody is asked once, in the pool's order of this moment, and gets the first instant at which enough GPUs are free
for it beside all who were asked before. Free since when is kept for each GPU, so that a small booking still starts
before a large one that waits for whole nodes; GPUs that wait for others to come free beside them are given to nobody
meanwhile. Then everybody is asked once more in the order of those starts, in which
what will be overdue by then has come to the front: the promise is part of the order.

That is not a simulation of every round to come: `play.forward` is, and takes minutes where this takes a second. What it
gets wrong on average, `forecast.Ranges` takes out again, with all that no look ahead can know: who comes tomorrow.

Like a round it never lets a longest run reach into a fixed booking; unlike a round it believes that a booking then
runs only as long as such bookings do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compute_portal.pools.availability import Board
from scheduler.planning.line import Waiting
from scheduler.planning.planner import Snapshot, in_order

Ints = NDArray[np.int64]
NEVER = 2**61  # room to add a run without leaving int64


def look_ahead(
    snapshot: Snapshot, runs: Mapping[int, int], ends: Mapping[int, int], asking: Collection[int] = ()
) -> dict[int, int]:
    """Expected start of each waiting booking, by its id; absent is who never starts as things are.

    `runs` says how many seconds a waiting one will probably run (else: its longest run), `ends` when a running one of
    `snapshot.placed` will probably end (else: when it must). Those whose ids are in `asking` only ask: they take no
    GPUs from anybody.
    """
    order = in_order(snapshot)
    first = _starts(snapshot, order, runs, ends, asking)
    promise = snapshot.rules.promise_seconds if snapshot.rules.order == "small-first" else NEVER
    order.sort(key=lambda one: min(first.get(one.booking_id, NEVER), one.submitted_at + promise))
    return _starts(snapshot, order, runs, ends, asking)


def _starts(
    snapshot: Snapshot,
    order: Sequence[Waiting],
    runs: Mapping[int, int],
    ends: Mapping[int, int],
    asking: Collection[int],
) -> dict[int, int]:
    board = snapshot.availability.board(snapshot.now)
    gpus = _Gpus(board, snapshot, ends)
    slots = {id: _slots(limit, _used(snapshot, ends, id), snapshot.now) for id, limit in snapshot.limits.items()}
    caps = _caps(board, snapshot, ends)
    starts: dict[int, int] = {}
    for one in order:
        mine = slots.get(one.enterprise_id)
        after = max(snapshot.now, one.not_before)
        if mine is not None:
            after = max(after, int(mine[one.gpus - 1]) if one.gpus <= len(mine) else NEVER)
        if after >= NEVER or (one.gpu_seconds_left or NEVER) < one.gpus * one.seconds:
            continue
        start, found = gpus.find(one.gpus, one.seconds, after)
        while start < (allowed := max((cap.allows(one, start) for cap in caps), default=start)) < NEVER:
            start, found = gpus.find(one.gpus, one.seconds, allowed)
        if max(start, allowed) >= NEVER or start + one.seconds > one.allocation_ends_at:
            continue
        starts[one.booking_id] = start
        if one.booking_id in asking:
            continue
        over = start + runs.get(one.booking_id, one.seconds)
        gpus.take(found, start, over)
        for each in (mine, *(cap.slots for cap in caps if start < cap.end and over > cap.start)):
            if each is not None:
                each[: one.gpus] = over
                each.sort()
    return starts


def _slots(limit: int, used: Sequence[int], now: int) -> Ints:
    """Since when each of so many GPUs is not used, ascending; `used`: when those that are in use will be over."""
    over = max(0, len(used) - limit)  # a limit that was lowered: so many must be over before the first slot is free
    return np.array([now] * max(0, limit - len(used)) + sorted(used)[over:], np.int64)


def _used(snapshot: Snapshot, ends: Mapping[int, int], enterprise_id: int | None = None) -> list[int]:
    """When each GPU that is in use will probably be over, of one enterprise or of all."""
    return [
        ends.get(one.booking_id, one.until_at)
        for one in snapshot.placed
        if enterprise_id in (None, one.enterprise_id)
        for _gpu in range(one.gpus)
    ]


class _Cap(NamedTuple):
    """In [start, end) power allows so many GPUs at once as there are slots: since when each is not used."""

    start: int
    end: int
    slots: Ints

    def allows(self, one: Waiting, start: int) -> int:
        """The first instant from `start` on at which this cap lets it run as long as it may."""
        if start >= self.end or start + one.seconds <= self.start:
            return start
        ready = int(self.slots[one.gpus - 1]) if one.gpus <= len(self.slots) else self.end
        return start if ready <= max(start, self.start) else min(ready, self.end)


def _caps(board: Board, snapshot: Snapshot, ends: Mapping[int, int]) -> list[_Cap]:
    """Caps in force and to come, each with what runs into it and the fixed bookings in its hours."""
    running = _used(snapshot, ends)
    return [
        _Cap(
            start,
            end,
            _slots(
                limit,
                [until for until in running if until > start]
                + [
                    until for begins, until, gpus in board.to_use if begins < end and until > start for _ in range(gpus)
                ],
                snapshot.now,
            ),
        )
        for start, end, limit in board.caps
    ]


Found = list[tuple[int, int]]  # (node, GPUs of it)


class _Gpus:
    """Since when each GPU is free: a row for each node, ascending, NEVER where there is none.

    On most nodes nothing begins later by itself, and their GPUs are alike. Of the others (`odd`) it is also kept which
    GPU is which: each has windows of its own.
    """

    def __init__(self, board: Board, snapshot: Snapshot, ends: Mapping[int, int]) -> None:
        self._size = max(board.gpus, default=0)
        self._unit = snapshot.availability.unit
        free = np.full((len(board.gpus), self._size), NEVER, np.int64)
        for node, count in enumerate(board.gpus):
            free[node, :count] = snapshot.now
        owner = {(one.until_at, node, mask): one.booking_id for one in snapshot.placed for node, mask in one.placement}
        for until, node, mask in board.held:
            id = owner.get((until, board.ids[node], mask))
            end = until if id is None else min(until, ends.get(id, until))
            free[node, list(_bits(mask))] = min(NEVER, max(snapshot.now, end))
        self._odd = sorted({node for _start, _end, node, _mask in board.booked})
        self._row_of = {node: row for row, node in enumerate(self._odd)}
        self._by_gpu = free[self._odd]  # of the odd ones: when what was given it is over
        self._ready = self._by_gpu  # and since when it is free for as long as was asked last
        self._windows = _windows(board, self._row_of, self._size)
        self._free = np.sort(free, axis=1)

    def find(self, gpus: int, seconds: int, after: int) -> tuple[int, Found]:
        """The first instant at which they can be placed for so long, and on which nodes; NEVER if there is none."""
        if not self._size or (self._unit == "node" and gpus % self._size):
            return NEVER, []
        if not self._odd:
            return self._at(gpus, after)
        while True:
            self._look(seconds, after)
            start, found = self._at(gpus, after)
            if start in (after, NEVER) or not any(node in self._row_of for node, _gpus in found):
                return start, found
            # A GPU that is free earlier than the others beside it may be taken again by then: look again from there.
            after = start

    def _look(self, seconds: int, after: int) -> None:
        ready = np.maximum(self._by_gpu, after)
        for starts, ends in self._windows:
            ready = np.where((ready < ends) & (ready + seconds > starts), ends, ready)
        self._ready = ready
        self._free[self._odd] = np.sort(ready, axis=1)

    def _at(self, gpus: int, after: int) -> tuple[int, Found]:
        free = self._free
        if gpus <= self._size and self._unit == "gpu":
            start = max(after, int(free[:, gpus - 1].min()))
            return start, [] if start >= NEVER else [(_best(free, gpus, start), gpus)]
        whole, rest = divmod(gpus, self._size)
        if whole + bool(rest) > len(free):
            return NEVER, []
        last = free[:, -1]
        chosen = last.argpartition(whole - 1)[:whole]
        start = max(after, int(last[chosen].max()))
        found = [(int(node), self._size) for node in chosen]
        if rest:
            others = free.copy()
            others[chosen] = NEVER
            start = max(start, int(others[:, rest - 1].min()))
            if start < NEVER:
                found.append((_best(others, rest, start), rest))
        return start, found

    def take(self, found: Found, start: int, over: int) -> None:
        """What the last find() found; of a node the GPUs that became free last, so that the others serve others."""
        for node, gpus in found:
            odd = self._row_of.get(node)
            if odd is None:
                row = self._free[node]
                ready = int(row.searchsorted(start, "right"))
                row[ready - gpus : ready] = over
                row.sort()
            else:
                since = self._ready[odd]
                usable = (since <= start).nonzero()[0]
                self._by_gpu[odd, usable[since[usable].argsort(kind="stable")[-gpus:]]] = over


def _best(free: Ints, gpus: int, start: int) -> int:
    """The node with the fewest GPUs left over then, the first of them."""
    nodes = (free[:, gpus - 1] <= start).nonzero()[0]
    if len(nodes) == 1:
        return int(nodes[0])
    return int(nodes[(free[nodes] <= start).sum(axis=1).argmin()])


def _windows(board: Board, row_of: Mapping[int, int], size: int) -> list[tuple[Ints, Ints]]:
    """What takes GPUs later, as layers of (from, until) for each GPU of these nodes: in each the next of its own."""
    of_gpu: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end, node, mask in sorted(board.booked):
        for gpu in _bits(mask):
            of_gpu.setdefault((row_of[node], gpu), []).append((start, min(NEVER, end)))
    layers = []
    for depth in range(max(map(len, of_gpu.values()), default=0)):
        starts, ends = np.full((2, len(row_of), size), NEVER, np.int64)
        for at, windows in of_gpu.items():
            if depth < len(windows):
                starts[at], ends[at] = windows[depth]
        layers.append((starts, ends))
    return layers


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
