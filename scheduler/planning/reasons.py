"""Why a booking waits, in one sentence with its numbers, and the one change that would start it now. Pure.

A change is not guessed: whoever applies it to the snapshot and plans again sees the booking start. What makes that sure
without planning once for each booking:

* What a round leaves, with the reservations that it had made by a booking's turn, is the least that the booking would
  have had to fit into: a round only fills up, and a smaller or shorter booking has its turn no later.
* As many empty nodes as everybody before it and the booking itself could take at most are enough for all of them.

Where one thing alone is not enough (its company is at its limit, and no cards are free either) the change names both.
Where more room than the whole pool would be needed, to say so helps nobody: then the answer is how much is asked for
before it, and the smaller size with which it would be the next in line, where sizes count (`Forward`).
"""

from __future__ import annotations

import datetime as dt
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from compute_portal.pools.availability import FOREVER, HOUR, Availability
from compute_portal.sentences import Sentence
from scheduler.planning.decide import Reserved
from scheduler.planning.line import Waiting, area

MINUTE = 60
LEAST_RUN = 5 * MINUTE  # nobody is told to ask for less


@dataclass(frozen=True, slots=True)
class Change:
    """What would have to be different for the booking to start now; what is None stays as it is.

    `gpus`, `seconds`, `at_once` (not waiting for the time it asked for), `allocation_ends_at` and `gpu_seconds_left`
    are the booking's own, `limit` its enterprise's; `nodes` are empty nodes of the pool's size, more than there are,
    with power of their own; `uncapped`: no cap of power held.
    """

    gpus: int | None = None
    seconds: int | None = None
    at_once: bool = False
    allocation_ends_at: int | None = None
    gpu_seconds_left: int | None = None
    limit: int | None = None
    nodes: int = 0
    uncapped: bool = False

    def on(self, waiting: Waiting) -> Waiting:
        """The booking as it would be."""
        return replace(
            waiting,
            gpus=self.gpus or waiting.gpus,
            seconds=self.seconds or waiting.seconds,
            not_before=0 if self.at_once else waiting.not_before,
            allocation_ends_at=self.allocation_ends_at or waiting.allocation_ends_at,
            gpu_seconds_left=waiting.gpu_seconds_left if self.gpu_seconds_left is None else self.gpu_seconds_left,
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """No change starts it: those before it ask for so many GPUs, more than a pool of `capacity` could ever make room
    for. `change`: with fewer GPUs, or a shorter run, it would be the next in line. `stays`: nothing it could change
    about itself brings it forward.
    """

    asked: int
    capacity: int
    change: Change | None = None
    stays: bool = False


@dataclass(frozen=True, slots=True)
class BySize:
    """The part of a line in which the smaller goes first: by run, or by area times a weight per allocation.

    `first` is the first of it that nothing but GPUs holds back. `front` are the ids of those who are asked before all
    of it, whatever their size. `last` are the allocations whose bookings come after all others.
    """

    first: Waiting
    front: Collection[int] = ()
    last: Collection[int] = ()
    weights: Mapping[int, float] | None = None  # None: the run alone counts

    def most(self, waiting: Waiting) -> int:
        """The largest area, or the longest run, with which it would be asked before the first; 0 if with none."""
        if waiting.booking_id == self.first.booking_id or waiting.booking_id in self.front:
            return 0
        if waiting.allocation_id in self.last and self.first.allocation_id not in self.last:
            return 0
        if self.weights is None:
            return self.first.seconds - 1
        own, key = self.weights[waiting.allocation_id], area(self.first) * self.weights[self.first.allocation_id]
        if own == math.inf:
            return 0
        most = int(min(key / own, area(waiting))) if own else area(waiting)
        return most - 1 if most * own >= key else most


class Held(NamedTuple):
    """The numbers of an enterprise that hold a booking back or do not, as they are after the round."""

    limit: int | None  # GPUs at once; None = no limit
    running: int
    booked: int  # the most that is confirmed for fixed hours at one instant of the run


NO_LIMIT = Held(None, 0, 0)


class Reasons:
    """Answers for everybody who waits after a round. Asked in the order of their places, first to last."""

    def __init__(
        self,
        now: int,
        actual: Availability,
        reservations: Sequence[Reserved],
        jumping: Iterable[Waiting],
        leading: Iterable[Waiting] = (),
        *,
        strict: bool,
        by_size: BySize | None = None,
        size_counts: bool = False,
    ) -> None:
        """`actual`: what runs and what started. `reservations` in the order in which the round made them. `jumping`:
        who might be asked earlier in a larger pool; `leading`: who might be the first of an enterprise whose limit
        rises. `strict`: nobody starts behind one that waits for room. `by_size`: where sizes make the order; None
        where they do not (`size_counts` is false), or where nobody is left whom GPUs alone hold back."""
        self._now = now
        self._actual = actual
        self._size = actual.node_size
        self._cards = _CardReasons(now, actual)
        # What is kept for a booking, and for those after it, is not in its own way.
        self._left_for: dict[int, _Left] = {}
        kept = actual.copy()
        for held in reservations:
            self._left_for[held.waiting.booking_id] = _Left(now, kept.copy())
            kept.occupy(held.placement, held.starts_at, held.starts_at + held.waiting.seconds)
        self._left = _Left(now, kept)
        self._strict = strict
        self._blocked = False  # somebody before waits for room
        self._nodes = 0  # that everybody before could take
        self._asked: dict[int, int] = {}  # enterprise → GPUs of everybody of it before
        self._before = 0  # GPUs of everybody before
        self._by_size = by_size
        self._size_counts = size_counts
        for one in jumping:
            self._count(one)
        self._leading = _Leading(leading)

    def why(self, waiting: Waiting, ahead: int) -> Sentence:
        """Why it finds no room."""
        return self._cards.why(waiting, ahead)

    def change(self, waiting: Waiting, held: Held, *, waits_for_room: bool) -> Change | Forward | None:
        """What would start it; None where nothing would: its allocation has ended, or the pool has no node to add."""
        if not self._size:
            return None
        own = None if self._strict and self._blocked else self._own_change(waiting, held)
        room = self._more_room(waiting, held) if own is None else None
        found: Change | Forward | None = own or room
        if room is not None and self._before and room.nodes * self._size > self._actual.capacity:
            found = self._forward(waiting, held)
        self._blocked |= waits_for_room
        self._before += waiting.gpus
        self._count(waiting)
        return found

    def _forward(self, waiting: Waiting, held: Held) -> Forward:
        """What would bring it to the front of those whom GPUs alone hold back, if it could be one of them."""
        capacity = self._actual.capacity
        if self._by_size is None or waiting.not_before > self._now:
            return Forward(self._before, capacity, stays=not self._size_counts)
        most = self._by_size.most(waiting)
        by_area = self._by_size.weights is not None
        payable = waiting.gpus * waiting.seconds if waiting.gpu_seconds_left is None else waiting.gpu_seconds_left
        room = self._actual.empty_fit
        if held.limit is not None:
            room = min(room, held.limit - held.running - held.booked)
        until = waiting.allocation_ends_at - self._now
        longest = min(most // waiting.gpus if by_area else most, payable // waiting.gpus, until, waiting.seconds)
        longest -= longest % MINUTE
        shorter = Change(seconds=longest) if LEAST_RUN <= longest < waiting.seconds and waiting.gpus <= room else None
        fewer = None
        if by_area and waiting.seconds <= until:
            gpus = min(most // waiting.seconds, payable // waiting.seconds, room, waiting.gpus)
            if self._actual.unit == "node":
                gpus -= gpus % self._size
            fewer = Change(gpus=gpus) if 1 <= gpus < waiting.gpus else None
        if fewer and shorter:
            keeps_more = (fewer.gpus or 0) * waiting.seconds >= waiting.gpus * longest
            return Forward(self._before, capacity, fewer if keeps_more else shorter)
        return Forward(self._before, capacity, shorter or fewer)

    def _count(self, waiting: Waiting) -> None:
        self._nodes += self._nodes_of(waiting)
        self._asked[waiting.enterprise_id] = self._asked.get(waiting.enterprise_id, 0) + waiting.gpus

    def _left_of(self, waiting: Waiting) -> _Left:
        return self._left_for.get(waiting.booking_id, self._left)

    def _nodes_of(self, waiting: Waiting) -> int:
        return -(-waiting.gpus // self._size)

    def _own_change(self, waiting: Waiting, held: Held) -> Change | None:
        """Something that is its own to change, or its enterprise's, and enough by itself."""
        wish = waiting.not_before > self._now
        most = self._most_gpus(waiting, held)
        longest = self._longest(waiting, held)
        if most >= waiting.gpus and longest >= waiting.seconds:
            return Change(at_once=True) if wish else None
        if wish:
            return None
        fewer = Change(gpus=most) if most >= 1 else None
        shorter = Change(seconds=longest) if longest >= MINUTE else None
        if fewer and shorter:
            return fewer if most * waiting.seconds >= waiting.gpus * longest else shorter
        return shorter or fewer

    def _most_gpus(self, waiting: Waiting, held: Held) -> int:
        """The most GPUs, up to what it asks for, that it could have now for its whole run; 0 if none."""
        most = min(waiting.gpus, self._left_of(waiting).most(waiting.seconds))
        if held.limit is not None:
            most = min(most, held.limit - held.running - held.booked)
        if waiting.gpu_seconds_left is not None:
            most = min(most, waiting.gpu_seconds_left // waiting.seconds)
        if self._now + waiting.seconds > waiting.allocation_ends_at:
            return 0
        if self._actual.unit == "node":
            most -= most % self._size
        return max(0, most)

    def _longest(self, waiting: Waiting, held: Held) -> int:
        """The longest run for which it could have its GPUs now, up to what it asks for; if shorter in whole minutes."""
        if held.limit is not None and held.running + held.booked + waiting.gpus > held.limit:
            return 0
        longest = min(
            waiting.seconds, waiting.allocation_ends_at - self._now, self._left_of(waiting).longest(waiting.gpus)
        )
        if waiting.gpu_seconds_left is not None:
            longest = min(longest, waiting.gpu_seconds_left // waiting.gpus)
        return longest if longest == waiting.seconds else max(0, longest - longest % MINUTE)

    def _more_room(self, waiting: Waiting, held: Held) -> Change | None:
        """Everything else that is in its way, and room for it and everybody before it unless it fits as it is."""
        if waiting.allocation_ends_at <= self._now or not self._actual.gives(waiting.gpus):
            return None
        needed, left = waiting.gpus * waiting.seconds, waiting.gpu_seconds_left
        ends_at = self._now + waiting.seconds
        before = self._asked.get(waiting.enterprise_id, 0) + self._leading.gpus(waiting)
        limit = None
        if held.limit is not None and held.running + held.booked + before + waiting.gpus > held.limit:
            limit = held.running + held.booked + before + waiting.gpus
        change = Change(
            at_once=waiting.not_before > self._now,
            allocation_ends_at=ends_at if ends_at > waiting.allocation_ends_at else None,
            gpu_seconds_left=needed if left is not None and needed > left else None,
            limit=limit,
        )
        # A limit that rises lets others of the enterprise go first.
        alone = change != Change() and not (limit is not None and before) and not (self._strict and self._blocked)
        if alone and waiting.gpus <= self._left_of(waiting).most(waiting.seconds):
            return change
        # Whoever is asked before waits for something else than room, and would without caps, too.
        if not self._blocked and change == Change() and self._cards.fits_uncapped(waiting):
            return Change(uncapped=True)
        leader = self._leading.gpus(waiting) if limit is not None else 0
        return replace(change, nodes=self._nodes + self._nodes_of(waiting) + -(-leader // self._size))


def said(change: Change | Forward, waiting: Waiting, size: int) -> Sentence:
    """The change in words; `size` = GPUs of a node."""
    if isinstance(change, Forward):
        return _said_forward(change)
    gpus = change.nodes * size
    alone = "-alone" if change.nodes == -(-waiting.gpus // size) else ""  # nobody before it needs room, too
    if change.nodes and change.limit is not None:
        return Sentence(f"change-room-and-limit{alone}", gpus=gpus, limit=change.limit)
    if change.nodes:
        return Sentence(f"change-room{alone}", gpus=gpus)
    if change.limit is not None:
        return Sentence("change-limit", limit=change.limit)
    if change.gpus is not None:
        return Sentence("change-gpus", n=change.gpus)
    if change.seconds is not None:
        return Sentence("change-seconds", seconds=change.seconds)
    if change.uncapped:
        return Sentence("change-power-cap")
    if change.allocation_ends_at is not None:
        return Sentence("change-allocation", at=_instant(change.allocation_ends_at))
    if change.gpu_seconds_left is not None:
        return Sentence("change-hours", needed=change.gpu_seconds_left)
    return Sentence("change-at-once")


def _said_forward(forward: Forward) -> Sentence:
    asked, capacity, change = forward.asked, forward.capacity, forward.change
    if change is not None and change.gpus is not None:
        return Sentence("change-next-gpus", asked=asked, capacity=capacity, n=change.gpus)
    if change is not None and change.seconds is not None:
        return Sentence("change-next-seconds", asked=asked, capacity=capacity, seconds=change.seconds)
    return Sentence("change-stays" if forward.stays else "change-ahead", asked=asked, capacity=capacity)


class _Leading:
    """Who may be an enterprise's fair head once its limit rises: something with a smaller area than the others."""

    def __init__(self, waiting: Iterable[Waiting]) -> None:
        self._areas: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        self._most: dict[int, list[int]] = {}  # GPUs of any up to there
        for one in sorted(waiting, key=lambda one: (area(one), one.turn)):
            self._areas.setdefault(one.enterprise_id, []).append((area(one), one.turn))
            most = self._most.setdefault(one.enterprise_id, [])
            most.append(max(one.gpus, most[-1] if most else 0))

    def gpus(self, waiting: Waiting) -> int:
        """The most that somebody smaller of its enterprise takes."""
        areas = self._areas.get(waiting.enterprise_id, [])
        smaller = bisect_left(areas, (area(waiting), waiting.turn))
        return self._most[waiting.enterprise_id][smaller - 1] if smaller else 0


class _Left:
    """What a round leaves free from now on, reservations kept: the most GPUs for a run, the longest run for GPUs."""

    def __init__(self, now: int, reserved: Availability) -> None:
        self._now = now
        self._reserved = reserved
        self._ends = [*reserved.starts_after(now), FOREVER]  # a run that ends by ends[i] fits if fits[i] says so
        self._fits = [reserved.largest_fit(now, end) for end in self._ends]  # never rising
        self._longest: dict[int, int] = {}

    def most(self, seconds: int) -> int:
        return self._fits[bisect_left(self._ends, self._now + seconds)]

    def longest(self, gpus: int) -> int:
        """0 where not even the shortest run fits."""
        known = self._longest.get(gpus)
        if known is None:
            fitting = sum(fit >= gpus for fit in self._fits) if self._reserved.gives(gpus) else 0
            known = self._longest[gpus] = self._ends[fitting - 1] - self._now if fitting else 0
        return known


class _Fits(NamedTuple):
    """The most GPUs one booking could get for a certain run from now on: as it is, and if something were not there."""

    now: int
    without_caps: int
    without_maintenance: int
    without_fixed: int
    maintenance_ends_at: int | None


class _CardReasons:
    """Which GPUs are missing, for a booking that only GPUs hold back.

    Answers are kept per number of starts that a run from now on would pass: no others change what is free.
    """

    def __init__(self, now: int, actual: Availability) -> None:
        self._now = now
        self._actual = actual
        self._starts = actual.starts_after(now)
        self._known: dict[int, _Fits] = {}

    def why(self, waiting: Waiting, ahead: int) -> Sentence:
        gpus = waiting.gpus
        fit, without_caps, without_maintenance, without_fixed, until = self._fits(waiting.seconds)
        if self._actual.gives(gpus):
            if gpus <= fit:  # only the head's reservation is in the way
                return Sentence("wait-ahead", n=ahead)
            if gpus <= without_caps:
                return self._capped(waiting)
            if until is not None and gpus <= without_maintenance:
                return Sentence("wait-maintenance", until=_instant(until))
            if gpus <= without_fixed:
                at = _instant(self._fixed_in_the_way(gpus, self._now + waiting.seconds))
                return Sentence("wait-fixed", at=at, hours=-(-waiting.seconds // HOUR))
        size = self._actual.node_size
        if self._actual.unit == "node" or gpus > size:
            return Sentence("wait-nodes", asked=-(-gpus // size), free=fit // size)
        return Sentence("wait-cards", asked=gpus, free=fit)

    def fits_uncapped(self, waiting: Waiting) -> bool:
        """Whether there are GPUs for it and only power is missing."""
        return waiting.gpus <= self._fits(waiting.seconds).without_caps

    def _capped(self, waiting: Waiting) -> Sentence:
        cap = self._actual.cap_in_the_way(waiting.gpus, self._now, self._now + waiting.seconds)
        assert cap is not None  # without caps it fits, and of several the least counts at each instant
        return Sentence("wait-power-cap", gpus=cap.gpus, start=_instant(cap.starts_at), until=_instant(cap.ends_at))

    def _fits(self, seconds: int) -> _Fits:
        now, end = self._now, self._now + seconds
        passed = bisect_left(self._starts, end)
        known = self._known.get(passed)
        if known is None:
            known = self._known[passed] = _Fits(
                self._actual.largest_fit(now, end),
                self._actual.largest_fit_without_caps(now, end),
                self._actual.largest_fit_without_maintenance(now, end),
                self._actual.largest_fit_without_fixed(now, end),
                self._actual.maintenance_ends(now, end),
            )
        return known

    def _fixed_in_the_way(self, gpus: int, end: int) -> int:
        """The first fixed booking with whose start the window no longer holds these GPUs."""
        starts = self._actual.fixed_starts(self._now, end)
        return next((at for at in starts if self._actual.largest_fit(self._now, at + 1) < gpus), starts[-1])


def _instant(unix_seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_seconds, dt.UTC)
