"""Which GPUs are free now, and beside what is to come: the board a round plays on. Pure.

What runs only gives GPUs back, so of all the time ahead just few instants are tight: where a fixed booking, a closure
or a reservation of this round begins. A booking that starts now and ends at `e` needs GPUs that are free now and that
nothing takes at a tight instant before `e`. So the board keeps one layer of free GPUs per tight instant, each a part of
the one before, and of each layer a single number: the most GPUs that one booking could get there. Asking costs a look
into a short list.

`NodeBoard` names nodes and GPUs and places by the rules of `pools/availability.py`; `CountBoard` only counts, for a
pool whose GPUs are all alike.

A reservation takes GPUs that are busy now before those that are free: the same number is kept, and more of the free
ones stay free for who comes after. On nodes of one GPU, that makes it EASY's rule of "extra nodes" exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from compute_portal.pools.availability import FOREVER, Availability, Placement, Unit, lowest_bits

Kept = tuple[int, Placement]  # a reservation: from when, on which GPUs


class Board(Protocol):
    """`open` a round, ask and start, `close` it. Between rounds only `release`, `hold` and `book`."""

    capacity: int
    multiple: int  # only multiples of this number are ever given: in a pool of whole nodes, their GPUs
    tight: list[int]  # instants after now at which something takes GPUs, ascending
    fits: list[int]  # the most GPUs one booking could get if it ends by tight[0], by tight[1], …, ever

    def most(self) -> int:
        """The most GPUs that are free for one booking now, whatever is to come."""

    def open(self, now: int) -> None:
        """Begin a round."""

    def start(self, gpus: int, end: int) -> Placement:
        """Take GPUs from now until `end` at the latest. It must fit: fits[tight instants before `end`] says so."""

    def reserve(self, gpus: int, seconds: int, before: int) -> Kept | None:
        """Keep GPUs at the first instant before `before` at which they are free for so long; None if there is none."""

    def close(self) -> None:
        """End the round: its reservations go, its starts stay."""

    def release(self, gpus: int, placement: Placement, until: int) -> None:
        """What started with this end gives its GPUs back."""


# -- counting ---------------------------------------------------------------------------------------------------------


class CountBoard:
    """GPUs that are all alike: how many are free."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.multiple = 1
        self.free = capacity
        self.ends: list[tuple[int, int]] = []  # (end, GPUs) of what runs, ascending
        self.booked: list[tuple[int, int, int]] = []  # (start, end, GPUs) to come, ascending
        self.tight: list[int] = []
        self.fits: list[int] = [capacity]
        self._kept: list[tuple[int, int, int]] = []
        self._at: list[int] = [capacity]  # free at now and at each tight instant
        self._now = 0

    def most(self) -> int:
        return self.free

    def open(self, now: int) -> None:
        self._now = now
        if not self.booked:
            self._at, self.fits = [self.free], [self.free]
            return
        self.tight = sorted({start for start, _end, _gpus in self.booked if start > now})
        self._at = [self.free, *(self._free_at(instant) for instant in self.tight)]
        self._count()

    def start(self, gpus: int, end: int) -> Placement:
        self.free -= gpus
        insort(self.ends, (end, gpus))
        at, tight = self._at, self.tight
        at[0] -= gpus
        for level, instant in enumerate(tight, 1):
            if instant >= end:
                break
            at[level] -= gpus
        if len(tight) == 1:
            self.fits = [at[0], at[1] if at[1] < at[0] else at[0]]
        else:
            self._count()
        return ()

    def reserve(self, gpus: int, seconds: int, before: int) -> Kept | None:
        if self.booked or self._kept:
            start = self.earliest(gpus, seconds, before)
            if start is not None:
                self.keep(start, start + seconds, gpus)
            return None if start is None else (start, ())
        # With nothing to come, as in most rounds, it is the end at which enough has been given back.
        free, found = self.free, FOREVER
        for end, given in self.ends:
            if end > found:
                break
            free += given
            if free >= gpus:
                found = end
        if found >= before:
            return None
        self._kept.append((found, found + seconds, gpus))
        self.tight, self._at = [found], [self.free, free - gpus]
        self.fits = [self.free, min(self.free, free - gpus)]
        return found, ()

    def keep(self, start: int, end: int, gpus: int) -> None:
        """Reserve so many GPUs in this round."""
        level = bisect_left(self.tight, start)
        if level == len(self.tight) or self.tight[level] != start:
            free = self._free_at(start)
            self.tight.insert(level, start)
            self._at.insert(level + 1, free)
        self._kept.append((start, end, gpus))
        while level < len(self.tight) and self.tight[level] < end:
            self._at[level + 1] -= gpus
            level += 1
        self._count()

    def earliest(self, gpus: int, seconds: int, before: int, after: int = 0) -> int | None:
        """The first instant, not before `after`, at which so many are free for so long by the longest runs."""
        takes = sorted([*self.booked, *self._kept])
        after = max(after, self._now)
        instants = {after, *(end for end, _gpus in self.ends), *(end for _start, end, _gpus in takes)}
        starts = [start for start, _end, _gpus in takes]
        for instant in sorted(instants):
            if instant < after:
                continue
            if instant >= before:
                return None
            if self._free_at(instant) < gpus:
                continue
            inside = starts[bisect_right(starts, instant) : bisect_left(starts, instant + seconds)]
            if all(self._free_at(start) >= gpus for start in inside):
                return instant
        return None

    def close(self) -> None:
        if self.tight:
            self._kept.clear()
            self.tight = []

    def release(self, gpus: int, placement: Placement, until: int) -> None:
        self.free += gpus
        del self.ends[bisect_left(self.ends, (until, gpus))]

    def book(self, start: int, end: int, gpus: int, now: int) -> Placement | None:
        """Keep GPUs for a fixed booking, whatever waits; None when running ones and others leave too few."""
        self._now = now
        if self.earliest(gpus, end - start, start + 1, after=start) != start:
            return None
        insort(self.booked, (start, end, gpus))
        return ()

    def begin(self, start: int, end: int, gpus: int, placement: Placement) -> None:
        """A fixed booking's hours begin."""
        self.booked.remove((start, end, gpus))
        self.free -= gpus
        insort(self.ends, (end, gpus))

    def _free_at(self, instant: int) -> int:
        free = self.free
        for end, gpus in self.ends:
            if end > instant:
                break
            free += gpus
        for start, end, gpus in self.booked:
            if start <= instant < end:
                free -= gpus
        for start, end, gpus in self._kept:
            if start <= instant < end:
                free -= gpus
        return free

    def _count(self) -> None:
        least = self._at[0]
        fits = [least]
        for free in self._at[1:]:
            if free < least:
                least = free
            fits.append(least)
        self.fits = fits


# -- named nodes ------------------------------------------------------------------------------------------------------


class Layer:
    """GPUs of each node that are free throughout something: masks, how many, and how many nodes have so many."""

    __slots__ = ("counts", "masks", "nodes_with", "size")

    def __init__(self, masks: list[int], counts: list[int], nodes_with: list[int], size: int) -> None:
        self.masks = masks
        self.counts = counts
        self.nodes_with = nodes_with
        self.size = size

    @classmethod
    def of(cls, masks: Iterable[int], size: int) -> Layer:
        masks = list(masks)
        counts = [mask.bit_count() for mask in masks]
        nodes_with = [0] * (size + 1)
        for count in counts:
            nodes_with[count] += 1
        return cls(masks, counts, nodes_with, size)

    def copy(self) -> Layer:
        return Layer(self.masks.copy(), self.counts.copy(), self.nodes_with.copy(), self.size)

    def set(self, node: int, mask: int) -> None:
        before, after = self.counts[node], mask.bit_count()
        self.masks[node] = mask
        if before != after:
            self.counts[node] = after
            self.nodes_with[before] -= 1
            self.nodes_with[after] += 1

    def most(self, unit: Unit) -> int:
        """The most GPUs that one booking could get: every whole node, and the best of the others."""
        nodes_with, size = self.nodes_with, self.size
        most = nodes_with[size] * size
        if unit == "gpu":
            for count in range(size - 1, 0, -1):
                if nodes_with[count]:
                    return most + count
        return most

    def place(self, gpus: int, unit: Unit) -> list[tuple[int, int]]:
        """By the rules of `pools/availability.py`, as (node index, mask); it must fit."""
        size = self.size
        if gpus <= size and unit == "gpu":
            return [self._on_one_node(gpus, ())]
        whole, rest = divmod(gpus, size)
        placed: list[tuple[int, int]] = []
        node = -1
        for _ in range(whole):
            node = self.counts.index(size, node + 1)
            placed.append((node, self.masks[node]))
        if rest:
            placed.append(self._on_one_node(rest, [node for node, _mask in placed]))
            placed.sort()
        return placed

    def _on_one_node(self, gpus: int, taken: Sequence[int]) -> tuple[int, int]:
        """Best fit, the lowest index on ties, its lowest free bits."""
        for count in range(gpus, self.size + 1):
            if self.nodes_with[count] <= (len(taken) if count == self.size else 0):
                continue
            node = self.counts.index(count)
            while node in taken:
                node = self.counts.index(count, node + 1)
            return node, lowest_bits(self.masks[node], gpus)
        raise ValueError(f"no node has {gpus} GPUs free")

    def place_beside(self, gpus: int, unit: Unit, free_now: Layer) -> list[tuple[int, int]]:
        """Where a reservation does the least harm: best fit; of equals the node, and on it the GPUs, busy now."""
        size = self.size
        placed: list[tuple[int, int]] = []
        whole, rest = divmod(gpus, size) if gpus > size or unit == "node" else (0, gpus)
        if whole:
            empty = [node for node, count in enumerate(self.counts) if count == size]
            empty.sort(key=lambda node: free_now.counts[node])  # stable: the lowest index on ties
            placed = [(node, self.masks[node]) for node in empty[:whole]]
        if rest:
            others = {node for node, _mask in placed}
            _left, _free, node = min(
                (count, free_now.counts[node], node)
                for node, count in enumerate(self.counts)
                if count >= rest and node not in others
            )
            mask = self.masks[node]
            busy = mask & ~free_now.masks[node]
            chosen = lowest_bits(busy, min(rest, busy.bit_count()))
            chosen |= lowest_bits(mask & ~busy, rest - chosen.bit_count())
            placed.append((node, chosen))
        return placed


class NodeBoard:
    """Nodes with GPUs, by index. What holds GPUs now and what takes them later are rows of (…, node, mask)."""

    def __init__(self, gpus: Sequence[int], unit: Unit = "gpu") -> None:
        self.unit = unit
        self.size = max(gpus, default=0)
        self.capacity = sum(gpus)
        self.multiple = max(1, self.size) if unit == "node" else 1
        self.ids: Sequence[int] = range(len(gpus))
        self.free = Layer.of([(1 << count) - 1 for count in gpus], self.size)
        self.ends: list[tuple[int, int, int]] = []  # (end, node, mask) of what is held now, ascending
        self.booked: list[tuple[int, int, int, int]] = []  # (start, end, node, mask) to come
        self.tight: list[int] = []
        self.fits: list[int] = [self.free.most(unit)]
        self._layers = [self.free]
        self._kept: list[tuple[int, int, int, int]] = []
        # Caps without overlap (start, end, GPUs), and while there are some the GPUs in use, now (end, GPUs) and later
        # (start, end, GPUs). In a round `_power` counts as taken what is in use and what caps forbid.
        self._caps: list[tuple[int, int, int]] = []
        self._used: list[tuple[int, int]] = []
        self._to_use: list[tuple[int, int, int]] = []
        self._power: CountBoard | None = None
        self._node_tight: list[int] = []  # of `tight`, those that are so for the nodes
        self._now = 0

    @classmethod
    def of(cls, availability: Availability, now: int) -> NodeBoard:
        """The board as it stands now."""
        ids, gpus, held, booked, caps, used, to_use = availability.board(now)
        board = cls(gpus, availability.unit)
        board.ids = ids
        if caps:
            board._caps, board._used, board._to_use = _least(caps), sorted(used), sorted(to_use)
        for end, node, mask in held:
            board.free.set(node, board.free.masks[node] & ~mask)
            board.ends.append((end, node, mask))
        board.ends.sort()
        board.booked = booked
        return board

    def most(self) -> int:
        return self.free.most(self.unit)

    def open(self, now: int) -> None:
        self._now = now
        self._node_tight, self._layers = [], [self.free]
        if self._caps:
            self._power = _under_caps(self.capacity, self._caps, self._used, self._to_use, now)
            self._power.open(now)
        if self.booked:
            for start, _end, node, mask in sorted(self.booked):
                if not self._node_tight or self._node_tight[-1] != start:
                    self._node_tight.append(start)
                    self._layers.append(self._layers[-1].copy())
                layer = self._layers[-1]
                layer.set(node, layer.masks[node] & ~mask)
        self._count()

    def start(self, gpus: int, end: int) -> Placement:
        level = bisect_left(self._node_tight, end)
        placed = self._layers[level].place(gpus, self.unit)
        if self._power is not None:
            self._power.start(gpus, end)
            insort(self._used, (end, gpus))
        for node, mask in placed:
            for layer in self._layers:
                layer.set(node, layer.masks[node] & ~mask)
            insort(self.ends, (end, node, mask))
        self._count()
        return tuple(placed)

    def reserve(self, gpus: int, seconds: int, before: int) -> Kept | None:
        found = self._earliest_for_both(gpus, seconds, before)
        if found is None:
            return None
        start, layer = found
        placed = layer.place_beside(gpus, self.unit, self.free)
        self._kept += [(start, start + seconds, node, mask) for node, mask in placed]
        if self._power is not None:
            self._power.keep(start, start + seconds, gpus)
        level = bisect_left(self._node_tight, start)
        if level == len(self._node_tight) or self._node_tight[level] != start:
            self._node_tight.insert(level, start)
            self._layers.insert(level + 1, self._layers[level].copy())
        for layer in self._layers[level + 1 :]:
            for node, mask in placed:
                layer.set(node, layer.masks[node] & ~mask)
        self._count()
        return start, tuple(placed)

    def close(self) -> None:
        self._kept.clear()
        self.tight, self._node_tight, self._layers = [], [], [self.free]
        self._power = None

    def release(self, gpus: int, placement: Placement, until: int) -> None:
        if (until, gpus) in self._used:  # what is only closed is not in use
            self._used.remove((until, gpus))
        for node, mask in placement:
            self.free.set(node, self.free.masks[node] | mask)
            del self.ends[bisect_left(self.ends, (until, node, mask))]

    def book(self, start: int, end: int, gpus: int, now: int) -> Placement | None:
        """Keep whole nodes for a fixed booking, whatever waits; None when running ones and others leave too few."""
        self._now = now
        asked = -(-gpus // self.size) * self.size
        found = self._earliest(asked, end - start, start + 1, start)
        if found is None:
            return None
        placed = found[1].place_beside(asked, "node", self.free)
        self.booked += [(start, end, node, mask) for node, mask in placed]
        return tuple(placed)

    def begin(self, start: int, end: int, gpus: int, placement: Placement) -> None:
        """A fixed booking's hours begin."""
        for node, mask in placement:
            self.booked.remove((start, end, node, mask))
            self.free.set(node, self.free.masks[node] & ~mask)
            insort(self.ends, (end, node, mask))
            if (row := (start, end, mask.bit_count())) in self._to_use:
                self._to_use.remove(row)
                insort(self._used, (end, row[2]))

    def _earliest_for_both(self, gpus: int, seconds: int, before: int) -> tuple[int, Layer] | None:
        """The first instant at which the nodes have room and the caps allow it: each says how long to look on."""
        after = self._now
        while True:
            found = self._earliest(gpus, seconds, before, after)
            if found is None or self._power is None:
                return found
            start = self._power.earliest(gpus, seconds, before, found[0])
            if start is None or start == found[0]:
                return None if start is None else found
            after = start

    def _earliest(self, gpus: int, seconds: int, before: int, after: int) -> tuple[int, Layer] | None:
        """The first instant from `after` on at which so many are free for so long, and what is free then.

        There can be more than before only where something ends, on the nodes where it ends: all nodes together are
        counted only when one of those could be part of the answer.
        """
        size, ends, masks, at = self.size, self.ends, self.free.masks.copy(), 0
        least = gpus if gpus <= size and self.unit == "gpu" else gpus % size or size
        takes: dict[int, list[tuple[int, int, int]]] = {}
        later: list[tuple[int, int]] = []
        for start, end, node, mask in (*self.booked, *self._kept):
            if end > after:
                takes.setdefault(node, []).append((start, end, mask))
                later.append((end, node))
        later.sort(reverse=True)
        instant, worth = after, True
        while instant < before:
            until = instant + seconds
            while at < len(ends) and ends[at][0] <= instant:
                _end, node, mask = ends[at]
                masks[node] |= mask
                at += 1
                worth = worth or _beside(masks[node], takes.get(node), instant, until).bit_count() >= least
            while later and later[-1][0] <= instant:
                _end, node = later.pop()
                worth = worth or _beside(masks[node], takes[node], instant, until).bit_count() >= least
            if worth:
                free = masks
                if takes:
                    free = masks.copy()
                    for node, on_node in takes.items():
                        free[node] = _beside(masks[node], on_node, instant, until)
                layer = Layer.of(free, size)
                if gpus <= layer.most(self.unit):
                    return instant, layer
            worth = False
            instant = min(ends[at][0] if at < len(ends) else FOREVER, later[-1][0] if later else FOREVER)
        return None

    def _count(self) -> None:
        self.tight, self.fits = self._node_tight, [layer.most(self.unit) for layer in self._layers]
        if self._power is not None:
            nodes, power, fits = self.tight, self._power, self.fits
            self.tight = sorted({*nodes, *power.tight})
            self.fits = [min(fits[0], power.fits[0])] + [
                min(fits[bisect_right(nodes, instant)], power.fits[bisect_right(power.tight, instant)])
                for instant in self.tight
            ]


def _under_caps(
    capacity: int,
    caps: Iterable[tuple[int, int, int]],
    used: Iterable[tuple[int, int]],
    to_use: Iterable[tuple[int, int, int]],
    now: int,
) -> CountBoard:
    """Counting what is in use, and of the capacity what caps forbid as taken."""
    board = CountBoard(capacity)
    board.ends = list(used)
    board.booked = list(to_use)
    for start, end, gpus in caps:
        forbidden = max(0, capacity - gpus)
        if start <= now < end:
            board.ends.append((end, forbidden))
        elif now < start:
            board.booked.append((start, end, forbidden))
    board.free -= sum(gpus for _end, gpus in board.ends)
    board.ends.sort()
    board.booked.sort()
    return board


def _least(caps: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same caps cut at each other's borders, of several the least: (start, end, GPUs) that do not overlap."""
    caps = list(caps)
    borders = sorted({border for start, end, _gpus in caps for border in (start, end)})
    cut = []
    for start, end in pairwise(borders):
        least = min((gpus for begins, ends, gpus in caps if begins <= start < ends), default=None)
        if least is not None:
            cut.append((start, end, least))
    return cut


def _beside(mask: int, takes: Sequence[tuple[int, int, int]] | None, start: int, end: int) -> int:
    """What nothing takes in [start, end)."""
    for begins, ends, taken in takes or ():
        if begins < end and ends > start:
            mask &= ~taken
    return mask
