"""What waits and what runs, and the line kept sorted, so that a round need not sort it again.

Within one allocation the order never changes while something waits: by submission in the fair tree, by area in
small-first. Between allocations it changes with every second of use. So each group keeps its own sorted list, and a
round merges them: it costs the number of groups, and of those only who is asked.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter

from compute_portal.pools.availability import Placement
from scheduler.planning.rules import Order, Rules

NOTHING = 2**62  # smaller than this is every booking


@dataclass(frozen=True, slots=True)
class Waiting:
    """A flexible booking that waits. Instants are Unix seconds; `seconds` is the longest run it asked for."""

    key: str
    booking_id: int
    gpus: int
    seconds: int
    submitted_at: int
    not_before: int  # 0 = as soon as possible
    programme_id: int
    enterprise_id: int
    allocation_id: int
    allocation_ends_at: int
    gpu_seconds_left: int | None = None  # what its hold and allocation can still pay; None = enough for the whole run
    turn: tuple[int, int] = field(init=False, repr=False, compare=False)  # first submitted, then lowest id

    def __post_init__(self) -> None:
        object.__setattr__(self, "turn", (self.submitted_at, self.booking_id))


@dataclass(frozen=True, slots=True)
class Running:
    """A booking that has GPUs. `until_at` is when it must be over."""

    key: str
    booking_id: int
    gpus: int
    enterprise_id: int
    allocation_id: int
    submitted_at: int
    started_at: int
    until_at: int
    placement: Placement
    fixed: bool = False
    promised: bool = False  # it started at the front because it was overdue


Entry = tuple[float, int, int, Waiting]  # static key, submitted at, booking id: no two are equal before the last
ENTRY = itemgetter(3)


@dataclass(slots=True)
class Group:
    """What waits under one allocation (in the orders that ask nobody's share: everything), in its own order."""

    last: bool  # it used more than it was awarded: after all others
    enterprise_id: int
    allocation_id: int
    entries: list[Entry]


class Line:
    """All that waits in one pool. `last` names the allocations whose bookings come after all others."""

    def __init__(self, rules: Rules, waiting: Iterable[Waiting] = (), last: Iterable[int] = ()) -> None:
        self._key = _KEYS[rules.order]
        self.by_allocation = rules.order in ("fair-tree", "small-first")
        self._last = frozenset(last)
        self.groups: dict[tuple[int, bool], Group] = {}
        self._by_turn: list[tuple[int, int, Waiting]] | None = None
        self._sizes: dict[int, int] = {}
        self.smallest = NOTHING
        self.length = 0
        self._fill(waiting)

    def _fill(self, waiting: Iterable[Waiting]) -> None:
        for one in waiting:
            self._group_of(one).entries.append((self._key(one), one.submitted_at, one.booking_id, one))
            self._sizes[one.gpus] = self._sizes.get(one.gpus, 0) + 1
            self.length += 1
        for group in self.groups.values():
            group.entries.sort()
        self.smallest = min(self._sizes, default=NOTHING)

    def __len__(self) -> int:
        return self.length

    def add(self, one: Waiting) -> None:
        insort(self._group_of(one).entries, (self._key(one), one.submitted_at, one.booking_id, one))
        if self._by_turn is not None:
            insort(self._by_turn, (one.submitted_at, one.booking_id, one))
        gpus = one.gpus
        self._sizes[gpus] = self._sizes.get(gpus, 0) + 1
        self.length += 1
        if gpus < self.smallest:
            self.smallest = gpus

    def remove(self, one: Waiting) -> None:
        """Raises KeyError when it is not in the line."""
        entries = self._group_of(one).entries
        if entries and entries[0][3] is one:  # most often
            del entries[0]
        else:
            place = bisect_left(entries, (self._key(one), one.submitted_at, one.booking_id))
            if place == len(entries) or entries[place][2] != one.booking_id:
                raise KeyError(one.booking_id)
            del entries[place]
        if self._by_turn is not None:
            del self._by_turn[bisect_left(self._by_turn, (one.submitted_at, one.booking_id))]
        self.length -= 1
        gpus = one.gpus
        self._sizes[gpus] -= 1
        if not self._sizes[gpus]:
            del self._sizes[gpus]
            if gpus == self.smallest:
                self.smallest = min(self._sizes, default=NOTHING)

    def __iter__(self) -> Iterator[Waiting]:
        for group in self.groups.values():
            for entry in group.entries:
                yield entry[3]

    def submitted_by(self, instant: int) -> Iterator[Waiting]:
        """What was submitted at or before an instant, oldest first."""
        if self._by_turn is None:
            self._by_turn = sorted((one.submitted_at, one.booking_id, one) for one in self)
        for submitted_at, _id, one in self._by_turn:
            if submitted_at > instant:
                return
            yield one

    def newest(self) -> int:
        """When the last of all was submitted."""
        if self._by_turn is None:
            self._by_turn = sorted((one.submitted_at, one.booking_id, one) for one in self)
        return self._by_turn[-1][0] if self._by_turn else 0

    def walk(self, weights: Mapping[int, tuple[float, float]]) -> Iterator[Waiting]:
        """Everybody by key; `weights` says per allocation (factor, summand): key = static key × factor + summand.

        Without weights the static keys alone count.
        """
        groups = [group for group in self.groups.values() if group.entries]
        if len(groups) == 1:
            _weight(groups[0], weights)  # an allocation that nobody knows is a mistake also when it is alone
            return map(ENTRY, groups[0].entries)
        return map(itemgetter(4), merge(*(_weighed(group, *_weight(group, weights)) for group in groups)))

    def fitting(self, most: int, weights: Mapping[int, tuple[float, float]]) -> list[Waiting]:
        """Who asks for at most so many GPUs, by key as in walk()."""
        groups = [group for group in self.groups.values() if group.entries]
        if len(groups) == 1:
            return [entry[3] for entry in groups[0].entries if entry[3].gpus <= most]
        found = []
        for group in groups:
            last, (factor, summand) = group.last, _weight(group, weights)
            found += [
                (last, key * factor + summand, submitted_at, id, one)
                for key, submitted_at, id, one in group.entries
                if one.gpus <= most
            ]
        found.sort()
        return [each[4] for each in found]

    def _group_of(self, one: Waiting) -> Group:
        last = bool(self._last) and one.allocation_id in self._last
        at = (one.allocation_id if self.by_allocation else 0, last)
        group = self.groups.get(at)
        if group is None:
            group = self.groups[at] = Group(last, one.enterprise_id, one.allocation_id, [])
        return group


def area(one: Waiting) -> int:
    """GPU-seconds of the longest run."""
    return one.gpus * one.seconds


_KEYS: dict[Order, Callable[[Waiting], float]] = {
    "fifo": lambda one: 0,
    "sjf": lambda one: one.seconds,
    "saf": area,
    "fair-tree": lambda one: 0,
    "small-first": area,
}


def _weight(group: Group, weights: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
    return weights[group.allocation_id] if weights else (1.0, 0.0)


def _weighed(group: Group, factor: float, summand: float) -> Iterator[tuple[bool, float, int, int, Waiting]]:
    last = group.last
    for key, submitted_at, id, one in group.entries:
        yield last, key * factor + summand, submitted_at, id, one
