"""A look ahead: when would each waiting booking start if nobody else came? For all at once, and fast. Pure.

Everybody is asked once, in the pool's order of this moment, and gets the first instant at which enough GPUs are free
for it beside all who were asked before. Free since when is kept for each GPU, so that a small booking still starts
before a large one that waits for whole nodes. Then everybody is asked once more in the order of those starts, in which
what will be overdue by then has come to the front: the promise is part of the order.

That is not a simulation of every round to come: `play.forward` is, and takes minutes where this takes a second. What it
gets wrong on average, `forecast.Ranges` takes out again, with all that no look ahead can know: who comes tomorrow.

Like a round it never lets a longest run reach into a fixed booking; unlike a round it believes that a booking then
runs only as long as such bookings do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

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
    slots = {id: _slots(limit, id, snapshot, ends) for id, limit in snapshot.limits.items()}
    starts: dict[int, int] = {}
    for one in order:
        mine = slots.get(one.enterprise_id)
        after = max(snapshot.now, one.not_before)
        if mine is not None:
            after = max(after, int(mine[one.gpus - 1]) if one.gpus <= len(mine) else NEVER)
        if after >= NEVER or (one.gpu_seconds_left or NEVER) < one.gpus * one.seconds:
            continue
        start, found = gpus.find(one.gpus, one.seconds, after)
        if start >= NEVER or start + one.seconds > one.allocation_ends_at:
            continue
        starts[one.booking_id] = start
        if one.booking_id in asking:
            continue
        over = start + runs.get(one.booking_id, one.seconds)
        gpus.take(found, start, over)
        if mine is not None:
            mine[: one.gpus] = over
            mine.sort()
    return starts


def _slots(limit: int, enterprise_id: int, snapshot: Snapshot, ends: Mapping[int, int]) -> Ints:
    """Since when each of the GPUs that an enterprise may use at once is not used, ascending."""
    used = [
        ends.get(one.booking_id, one.until_at)
        for one in snapshot.placed
        if one.enterprise_id == enterprise_id
        for _gpu in range(one.gpus)
    ]
    return np.sort(np.array([snapshot.now] * max(0, limit - len(used)) + sorted(used)[:limit], np.int64))


Found = list[tuple[int, int]]  # (node, GPUs of it)


class _Gpus:
    """Since when each GPU is free: a row for each node, a column for each GPU, NEVER where there is none.

    Without windows to come GPUs of a node are alike, and its row ascends.
    """

    def __init__(self, board: Board, snapshot: Snapshot, ends: Mapping[int, int]) -> None:
        self._size = max(board.gpus, default=0)
        self._unit = snapshot.availability.unit
        self._free = np.full((len(board.gpus), self._size), NEVER, np.int64)
        for node, count in enumerate(board.gpus):
            self._free[node, :count] = snapshot.now
        owner = {(one.until_at, node, mask): one.booking_id for one in snapshot.placed for node, mask in one.placement}
        for until, node, mask in board.held:
            id = owner.get((until, board.ids[node], mask))
            end = until if id is None else min(until, ends.get(id, until))
            self._free[node, list(_bits(mask))] = min(NEVER, max(snapshot.now, end))
        self._windows = _windows(board, self._free.shape)
        if not self._windows:
            self._free.sort(axis=1)
        self._looked: tuple[Ints, Ints] = self._free, self._free  # as asked last: by GPU, and ascending

    def find(self, gpus: int, seconds: int, after: int) -> tuple[int, Found]:
        """The first instant at which they can be placed for so long, and on which nodes; NEVER if there is none."""
        free = ascending = self._free
        if self._windows:
            free = np.maximum(free, after)
            for starts, ends in self._windows:
                free = np.where((free < ends) & (free + seconds > starts), ends, free)
            ascending = np.sort(free, axis=1)
        self._looked = free, ascending
        if gpus <= self._size and self._unit == "gpu":
            start = max(after, int(ascending[:, gpus - 1].min()))
            return start, [] if start >= NEVER else [(self._best(ascending, gpus, start), gpus)]
        whole, rest = divmod(gpus, self._size)
        if whole + bool(rest) > len(ascending):
            return NEVER, []
        last = ascending[:, -1]
        chosen = np.argpartition(last, whole - 1)[:whole]
        start = max(after, int(last[chosen].max()))
        found = [(int(node), self._size) for node in chosen]
        if rest:
            others = ascending.copy()
            others[chosen] = NEVER
            start = max(start, int(others[:, rest - 1].min()))
            if start < NEVER:
                found.append((self._best(others, rest, start), rest))
        return start, found

    def _best(self, ascending: Ints, gpus: int, start: int) -> int:
        """The node with the fewest GPUs left over then, the first of them."""
        nodes = np.flatnonzero(ascending[:, gpus - 1] <= start)
        if len(nodes) == 1:
            return int(nodes[0])
        return int(nodes[np.argmin(np.count_nonzero(ascending[nodes] <= start, axis=1))])

    def take(self, found: Found, start: int, over: int) -> None:
        """The GPUs of the last find(); of a node those that became free last, so that the others serve others."""
        free, _ascending = self._looked
        for node, gpus in found:
            row = self._free[node]
            ready = np.flatnonzero(free[node] <= start)
            row[ready[np.argsort(free[node][ready], kind="stable")[-gpus:]]] = over
            if not self._windows:
                row.sort()


def _windows(board: Board, shape: tuple[int, ...]) -> list[tuple[Ints, Ints]]:
    """What takes GPUs later, as layers of (from, until) for each GPU: in each the next window of its own."""
    of_gpu: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end, node, mask in sorted(board.booked):
        for gpu in _bits(mask):
            of_gpu.setdefault((node, gpu), []).append((start, min(NEVER, end)))
    layers = []
    for depth in range(max(map(len, of_gpu.values()), default=0)):
        starts, ends = np.full(shape, NEVER, np.int64), np.full(shape, NEVER, np.int64)
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
