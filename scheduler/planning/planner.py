"""The planner: from what a cycle saw to who starts now, on which GPUs, and why the others wait. Pure.

The simplest right one: fair-tree order, quotas, EASY backfill. The first booking that finds no GPUs is the head: it
gets a reservation at the earliest instant at which it can be placed if everything runs as long as it may. A later one
starts only if it can be placed for its longest run beside that reservation, so the head is never delayed. Confirmed
fixed bookings and maintenance are rows in the snapshot's availability and are never overlapped.

A booking that its enterprise's limit, its allocation or its own wish holds back is passed over without a reservation:
GPUs kept for it would not help it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from compute_portal.pools.availability import FOREVER, HOUR, Availability, Placement
from compute_portal.sentences import Sentence
from scheduler.planning import quotas
from scheduler.planning.fairshare import Leaf, rank


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


@dataclass
class Snapshot:
    """What one cycle saw of one pool. `leaves` must hold the allocation of every waiting booking."""

    now: int
    availability: Availability
    waiting: Sequence[Waiting]
    leaves: Sequence[Leaf]
    limits: Mapping[int, int]  # enterprise → GPUs it may run at once in this pool; absent = no limit
    running: Mapping[int, int]  # enterprise → GPUs it runs now
    # enterprise → windows (start, end, gpus) of its fixed bookings that are still to come
    booked: Mapping[int, Sequence[tuple[int, int, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Start this booking now on these GPUs; it must be over at `ends_at`."""

    waiting: Waiting
    placement: Placement
    ends_at: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a booking stands after the cycle: `place` counts from 1 among those that still wait."""

    waiting: Waiting
    place: int
    reason: Sentence
    expected_at: int | None


@dataclass
class Decision:
    starts: list[Start] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reservation:
    booking_id: int
    starts_at: int


def plan(snapshot: Snapshot, standings: bool = True) -> Decision:
    """Who starts now. With `standings` also place, reason and, for the head, expected start of everybody else.

    The same snapshot gives the same decision, and is not changed by it. Without `standings` the round stops as soon as
    nothing that waits can fit any more.
    """
    now = snapshot.now
    if not snapshot.waiting:
        return Decision()
    smallest = min(waiting.gpus for waiting in snapshot.waiting)
    if not standings and snapshot.availability.largest_fit(now, now + 1) < smallest:
        return Decision()

    decision = Decision()
    queue = in_order(snapshot)
    taken = snapshot.availability.copy()  # what runs, what starts now, and the head's reservation
    running = dict(snapshot.running)
    head: _Reservation | None = None
    hopeless = _Hopeless()
    fit_for: dict[int, int] = {}  # longest run → largest fit in `taken`, until that changes

    for waiting in queue:
        if head is not None:
            # Most of a long queue ends here. largest_fit is exact for every size, so nothing is tried in vain.
            largest = fit_for.get(waiting.seconds)
            if largest is None:
                largest = fit_for[waiting.seconds] = taken.largest_fit(now, now + waiting.seconds)
            if waiting.gpus > largest:
                continue
        if _held_back(waiting, snapshot, running) is not None:
            continue
        placement = taken.place(waiting.gpus, now, now + waiting.seconds)
        if placement is not None:
            ends_at = now + waiting.seconds
            decision.starts.append(Start(waiting, placement, ends_at))
            running[waiting.enterprise_id] = running.get(waiting.enterprise_id, 0) + waiting.gpus
            taken.occupy(placement, now, ends_at)
            if not standings and taken.largest_fit(now, now + 1) < smallest:
                break
            fit_for.clear()
        elif head is None:
            head = _reserve(waiting, taken, now, hopeless)

    if standings:
        decision.standings = _standings(snapshot, decision.starts, queue, running, head)
    return decision


def in_order(snapshot: Snapshot) -> list[Waiting]:
    """Everybody who waits: most under-served allocation first, then first submitted, then lowest id.

    What waits on an overdrawn allocation comes last, in the same order: it is not stopped, it gives way.

    Sorted within each factor only: next to nothing when the snapshot lists them by submission, as a query can.
    """
    factors = rank(snapshot.leaves)
    last = {leaf.allocation_id for leaf in snapshot.leaves if leaf.low_priority}
    groups: dict[int, list[Waiting]] = {}
    for waiting in snapshot.waiting:
        if (group := groups.get(waiting.allocation_id)) is None:
            groups[waiting.allocation_id] = [waiting]
        else:
            group.append(waiting)
    by_factor: dict[tuple[bool, float], list[Waiting]] = {}
    for id, group in groups.items():
        by_factor.setdefault((id not in last, factors[id]), []).extend(group)
    queue: list[Waiting] = []
    for factor in sorted(by_factor, reverse=True):
        queue += sorted(by_factor[factor], key=attrgetter("turn"))
    return queue


def _held_back(waiting: Waiting, snapshot: Snapshot, running: Mapping[int, int]) -> Sentence | None:
    """Why this booking may not start now whatever GPUs are free; None if only GPUs can hold it back."""
    now, availability = snapshot.now, snapshot.availability
    if waiting.not_before > now:
        return Sentence("wait-not-before", at=_instant(waiting.not_before))
    if waiting.gpus > availability.empty_fit:
        return Sentence("wait-too-large", asked=waiting.gpus, capacity=availability.empty_fit)
    return (
        quotas.allocation_end(now, waiting.seconds, waiting.allocation_ends_at)
        or quotas.hours_left(waiting.gpus * waiting.seconds, waiting.gpu_seconds_left)
        or quotas.concurrent(
            snapshot.limits.get(waiting.enterprise_id),
            running.get(waiting.enterprise_id, 0),
            waiting.gpus,
            quotas.peak(snapshot.booked.get(waiting.enterprise_id, ()), now, now + waiting.seconds),
        )
    )


class _Hopeless:
    """Bookings for which no start was found; what asks for as much or more need not be tried again.

    Sound within one round, where the snapshot only fills up: a window that takes more GPUs takes fewer, and a
    longer window contains a shorter one. (A number that a pool of whole nodes never gives is kept out.)
    """

    def __init__(self) -> None:
        self._known: list[tuple[int, int, int]] = []

    def covers(self, gpus: int, seconds: int, before: int) -> bool:
        return any(g <= gpus and s <= seconds and b >= before for g, s, b in self._known)

    def add(self, gpus: int, seconds: int, before: int) -> None:
        self._known.append((gpus, seconds, before))


def _reserve(waiting: Waiting, taken: Availability, now: int, hopeless: _Hopeless) -> _Reservation | None:
    """Keep GPUs for the head at its earliest start by longest runs.

    None when there is no such start, or none that still ends within its allocation: GPUs kept for it would lie idle
    for nothing. Should others end early, it is still the first to be asked.
    """
    before = min(FOREVER, waiting.allocation_ends_at - waiting.seconds + 1)
    if hopeless.covers(waiting.gpus, waiting.seconds, before):
        return None
    start = taken.earliest(waiting.gpus, waiting.seconds, after=now, before=before)
    placement = None if start is None else taken.place(waiting.gpus, start, start + waiting.seconds)
    if start is None or placement is None:
        if taken.gives(waiting.gpus):
            hopeless.add(waiting.gpus, waiting.seconds, before)
        return None
    taken.occupy(placement, start, start + waiting.seconds)
    return _Reservation(waiting.booking_id, start)


def _standings(
    snapshot: Snapshot,
    starts: Sequence[Start],
    queue: Sequence[Waiting],
    running: Mapping[int, int],
    head: _Reservation | None,
) -> list[Standing]:
    """Everybody who still waits, in order, with numbers as they are after the starts of this round."""
    started = {start.waiting.booking_id for start in starts}
    actual = snapshot.availability.copy()  # without the head's reservation: that one is "ahead", not missing GPUs
    for start in starts:
        actual.occupy(start.placement, snapshot.now, start.ends_at)
    reasons = _CardReasons(snapshot.now, actual)
    standings = []
    for place, waiting in enumerate((w for w in queue if w.booking_id not in started), start=1):
        reason = _held_back(waiting, snapshot, running) or reasons.why(waiting, ahead=place - 1)
        is_head = head is not None and head.booking_id == waiting.booking_id
        standings.append(Standing(waiting, place, reason, head.starts_at if is_head and head else None))
    return standings


class _Fits(NamedTuple):
    """The most GPUs one booking could get for a certain run from now on: as it is, and if something were not there."""

    now: int
    without_maintenance: int
    without_fixed: int
    maintenance_ends_at: int | None


class _CardReasons:
    """Which GPUs are missing, for a booking that only GPUs hold back. Answers are kept per longest run."""

    def __init__(self, now: int, actual: Availability) -> None:
        self._now = now
        self._actual = actual
        self._known: dict[int, _Fits] = {}

    def why(self, waiting: Waiting, ahead: int) -> Sentence:
        gpus = waiting.gpus
        fit, without_maintenance, without_fixed, until = self._fits(waiting.seconds)
        if self._actual.gives(gpus):
            if gpus <= fit:  # only the head's reservation is in the way
                return Sentence("wait-ahead", n=ahead)
            if until is not None and gpus <= without_maintenance:
                return Sentence("wait-maintenance", until=_instant(until))
            if gpus <= without_fixed:
                at = _instant(self._fixed_in_the_way(gpus, self._now + waiting.seconds))
                return Sentence("wait-fixed", at=at, hours=-(-waiting.seconds // HOUR))
        size = self._actual.node_size
        if self._actual.unit == "node" or gpus > size:
            return Sentence("wait-nodes", asked=-(-gpus // size), free=fit // size)
        return Sentence("wait-cards", asked=gpus, free=fit)

    def _fits(self, seconds: int) -> _Fits:
        known = self._known.get(seconds)
        if known is None:
            now, end = self._now, self._now + seconds
            known = self._known[seconds] = _Fits(
                self._actual.largest_fit(now, end),
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
