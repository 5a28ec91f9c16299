"""The planner: from what a cycle saw to who starts now, on which GPUs, and why the others wait. Pure.

The round itself is `decide.decide`, which `replay` and forecasts run, too. Here stands what only the living pool has:
limits, ends of allocations, hours left and wishes, which hold a booking back whatever GPUs are free. Such a booking is
passed over without a reservation: GPUs kept for it would not help it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from compute_portal.pools.availability import Availability, Placement
from compute_portal.sentences import Sentence
from scheduler.planning import decide, quotas
from scheduler.planning.board import NodeBoard
from scheduler.planning.decide import Gate, Reserved
from scheduler.planning.fairshare import Leaf, overuse
from scheduler.planning.line import Line, Running, Waiting
from scheduler.planning.reasons import NO_LIMIT, BySize, Change, Forward, Held, Reasons
from scheduler.planning.rules import Rules

SIZE_COUNTS = ("sjf", "saf", "small-first")  # orders in which a smaller booking may go first

__all__ = [
    "Decision",
    "Reserved",
    "Running",
    "Snapshot",
    "Standing",
    "Start",
    "Waiting",
    "held_back",
    "in_front",
    "in_order",
    "plan",
]


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
    rules: Rules = field(default_factory=Rules)
    placed: Sequence[Running] = ()  # what runs: the promise counts it, forecasts play it to its end
    running_promised: int | None = None  # what promised_gpus() says, for who knows it without `placed`

    def line(self) -> Line:
        last = (leaf.allocation_id for leaf in self.leaves if leaf.low_priority)
        return Line(self.rules, self.waiting, last)

    def promised_gpus(self) -> int:
        """GPUs of what started at the front because it was overdue."""
        if self.running_promised is not None:
            return self.running_promised
        return sum(one.gpus for one in self.placed if one.promised)


@dataclass(frozen=True, slots=True)
class Start:
    """Start this booking now on these GPUs; it must be over at `ends_at`."""

    waiting: Waiting
    placement: Placement
    ends_at: int
    promised: bool = False  # at the front because it is overdue


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a booking stands after the cycle: `place` counts from 1 among those that still wait.

    `change` is what would start it now, or bring it forward: see `reasons`. `expected_at` is when its reservation
    begins, if it has one.
    """

    waiting: Waiting
    place: int
    reason: Sentence
    change: Change | Forward | None
    expected_at: int | None


@dataclass
class Decision:
    """`reservations` are what this round keeps for those whom nobody behind them may delay."""

    starts: list[Start] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    reservations: list[Reserved] = field(default_factory=list)


class Limits(Gate):
    """Everything besides GPUs that may hold a booking back, with what this round has started counted."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.running = dict(snapshot.running)

    def holds(self, waiting: Waiting, now: int) -> bool:
        return held_back(waiting, self._snapshot, self.running, now) is not None

    def started(self, waiting: Waiting) -> None:
        self.running[waiting.enterprise_id] = self.running.get(waiting.enterprise_id, 0) + waiting.gpus

    def ended(self, enterprise_id: int, gpus: int) -> None:
        self.running[enterprise_id] -= gpus


def plan(snapshot: Snapshot, standings: bool = True) -> Decision:
    """Who starts now. With `standings` also place, reason and, for who has a reservation, expected start of the others.

    The same snapshot gives the same decision, and is not changed by it.
    """
    now = snapshot.now
    if not snapshot.waiting:
        return Decision()
    if not standings and snapshot.availability.largest_fit(now, now + 1) < min(one.gpus for one in snapshot.waiting):
        return Decision()  # a full pool is not worth looking at
    board = NodeBoard.of(snapshot.availability, now)
    line = snapshot.line()
    limits = Limits(snapshot)
    front = in_front(snapshot, line, limits) if standings else frozenset()
    decided = decide.decide(
        now,
        board,
        line,
        snapshot.rules,
        lambda _now: snapshot.leaves,
        snapshot.promised_gpus,
        limits,
        reservations=standings,
    )
    ids = board.ids
    decision = Decision(
        starts=[
            Start(one, _named(placed, ids), now + one.seconds, one.booking_id in decided.promised)
            for one, placed in decided.starts
        ],
        reservations=[Reserved(one.waiting, one.starts_at, _named(one.placement, ids)) for one in decided.reservations],
    )
    if standings:
        decision.standings = _standings(snapshot, decision, line, limits, front)
    return decision


def in_order(snapshot: Snapshot, line: Line | None = None, limits: Gate = decide.OPEN) -> list[Waiting]:
    """Everybody who waits, or everybody in `line`, in the order in which a round asks them."""
    return decide.in_order(
        snapshot.now,
        snapshot.line() if line is None else line,
        snapshot.rules,
        snapshot.leaves,
        snapshot.availability.capacity,
        snapshot.promised_gpus(),
        limits,
    )


def _named(placement: Placement, ids: Sequence[int]) -> Placement:
    return tuple((ids[node], mask) for node, mask in sorted(placement))


def held_back(
    waiting: Waiting, snapshot: Snapshot, running: Mapping[int, int], now: int | None = None
) -> Sentence | None:
    """Why this booking may not start now (or at `now`) whatever GPUs are free; None if only GPUs can hold it back.

    `running` as in the snapshot, with what started since.
    """
    now = snapshot.now if now is None else now
    availability = snapshot.availability
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


def _standings(
    snapshot: Snapshot, decision: Decision, line: Line, limits: Limits, front: Collection[int]
) -> list[Standing]:
    """Everybody who still waits, in order, with numbers as they are after the starts of this round."""
    now = snapshot.now
    actual = snapshot.availability.copy()  # without reservations: those are "ahead", not missing GPUs
    for start in decision.starts:
        actual.occupy(start.placement, now, start.ends_at)
    strict = snapshot.rules.backfill == "none"
    limited = [one for one in line if one.enterprise_id in snapshot.limits] if _has_fair_heads(snapshot.rules) else []
    order = in_order(snapshot, line, limits)
    reasons = Reasons(
        now,
        actual,
        decision.reservations,
        _may_jump(snapshot, line),
        limited,
        strict=strict,
        by_size=_by_size(snapshot, order, front),
        size_counts=snapshot.rules.order in SIZE_COUNTS,
    )
    expected = {one.waiting.booking_id: one.starts_at for one in decision.reservations}
    standings = []
    for place, waiting in enumerate(order, start=1):
        held_by = held_back(waiting, snapshot, limits.running)
        reason = held_by or reasons.why(waiting, ahead=place - 1)
        change = reasons.change(waiting, _held(waiting, snapshot, limits), waits_for_room=held_by is None)
        standings.append(Standing(waiting, place, reason, change, expected.get(waiting.booking_id)))
    return standings


def in_front(snapshot: Snapshot, line: Line, limits: Gate) -> frozenset[int]:
    """Ids of those who are asked before everybody whose size counts, before a round."""
    first = decide.in_front(
        snapshot.now,
        line,
        snapshot.rules,
        snapshot.leaves,
        snapshot.availability.capacity,
        snapshot.promised_gpus(),
        limits,
    )
    return frozenset(one.booking_id for one in first)


def _by_size(snapshot: Snapshot, order: Sequence[Waiting], front: Collection[int]) -> BySize | None:
    """Where sizes make the order. Who is held back when a round begins is held back throughout: running only grows."""
    rules = snapshot.rules
    if rules.order not in SIZE_COUNTS:
        return None
    still = (one for one in order if one.booking_id not in front)
    first = next((one for one in still if held_back(one, snapshot, snapshot.running) is None), None)
    if first is None:
        return None
    last = {leaf.allocation_id for leaf in snapshot.leaves if leaf.low_priority}
    if rules.order == "sjf":
        return BySize(first, front, last)
    weights = {leaf.allocation_id: 1.0 for leaf in snapshot.leaves}
    if rules.order == "small-first":
        over = overuse(snapshot.leaves, rules.overuse_least)
        weights = {id: factor for id, (factor, _) in decide.overuse_weights(snapshot.leaves, over, rules).items()}
    return BySize(first, front, last, weights)


def _may_jump(snapshot: Snapshot, line: Line) -> list[Waiting]:
    """Who might be asked earlier if the pool were larger: a part of it is kept for what is overdue."""
    largest, rules = snapshot.availability.empty_fit, snapshot.rules
    late = snapshot.now - rules.promise_seconds
    others = any(one.submitted_at > late for one in snapshot.waiting)
    full = others and snapshot.promised_gpus() >= rules.promise_share * snapshot.availability.capacity
    return [one for one in line if one.gpus > largest or (full and one.submitted_at <= late)]


def _has_fair_heads(rules: Rules) -> bool:
    return rules.order == "small-first" and rules.fair_heads > 0


def _held(waiting: Waiting, snapshot: Snapshot, limits: Limits) -> Held:
    limit = snapshot.limits.get(waiting.enterprise_id)
    if limit is None:
        return NO_LIMIT
    booked = snapshot.booked.get(waiting.enterprise_id, ())
    peak = quotas.peak(booked, snapshot.now, snapshot.now + waiting.seconds) if booked else 0
    return Held(limit, limits.running.get(waiting.enterprise_id, 0), peak)


def _instant(unix_seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_seconds, dt.UTC)
