"""One round: who starts now. The live cycle, `replay` and every forecast come through here. Pure.

A round walks the line in the order of the rules. Who fits, starts. The first who does not fit is the head and gets a
reservation: the first instant, by longest runs, at which it can be placed, and GPUs for it. Whoever comes later starts
only if it needs none of those by then (EASY backfill). Fixed bookings stand on the board and are never overlapped.

In small-first there are three walks: the fair heads, then what is overdue, then everybody else by key; each keeps
reservations of its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from compute_portal.pools.availability import FOREVER, Placement
from scheduler.planning.board import Board
from scheduler.planning.fairshare import Leaf, overuse, rank
from scheduler.planning.line import Line, Waiting, area
from scheduler.planning.rules import Rules

Weights = Mapping[int, tuple[float, float]]


class Gate:
    """What else may hold a booking back, whatever GPUs are free. This one lets everybody pass."""

    def holds(self, waiting: Waiting, now: int) -> bool:
        return False

    def started(self, waiting: Waiting) -> None:
        """It counts from now on."""

    def ended(self, enterprise_id: int, gpus: int) -> None:
        """It counts no longer."""


OPEN = Gate()


class Reserved(NamedTuple):
    """GPUs that are kept for a booking from an instant on."""

    waiting: Waiting
    starts_at: int
    placement: Placement


class Decided(NamedTuple):
    """`promised` are the ids of those that started at the front because they were overdue."""

    starts: Sequence[tuple[Waiting, Placement]]
    reservations: Sequence[Reserved]
    promised: Set[int]


NOTHING = Decided((), (), frozenset())


def decide(
    now: int,
    board: Board,
    line: Line,
    rules: Rules,
    leaves: Callable[[int], Sequence[Leaf]],
    promised_gpus: Callable[[], int],
    gate: Gate = OPEN,
    *,
    reservations: bool = False,
) -> Decided:
    """Start what may start: it is on the board and no longer in the line afterwards.

    When nobody can start nothing need be kept for anybody, and the round ends at once; `reservations` are made all the
    same for who wants to know them.

    `leaves` at an instant are asked for only where the order needs them. `promised_gpus` are those of running bookings
    that started at the front because they were overdue.
    """
    if line.smallest > board.most() and not reservations:
        return NOTHING
    board.open(now)
    if not line.by_allocation and gate is OPEN and rules.backfill == "easy" and len(line.groups) == 1:
        decided = _one_list(now, board, line)
        board.close()
        return decided
    turn = _Round(now, board, rules, gate)
    if rules.order == "small-first":
        known = leaves(now)
        over = overuse(known, rules.overuse_least)
        turn.fair_heads(line, over)
        turn.overdue(line, promised_gpus)
        turn.by_key(line, overuse_weights(known, over, rules))
    else:
        turn.by_key(line, tree_weights(leaves(now)) if rules.order == "fair-tree" else {})
    board.close()
    for waiting, _placement in turn.starts:
        line.remove(waiting)
    return Decided(turn.starts, turn.reservations, turn.promised)


def _one_list(now: int, board: Board, line: Line) -> Decided:
    """`_Round.by_key` where nobody's share and nothing but GPUs is asked, as in most replays: the same, in half the
    time. Tests hold one against the other."""
    (group,) = line.groups.values()
    entries, multiple = group.entries, board.multiple
    starts: list[tuple[Waiting, Placement]] = []
    reserved: tuple[Reserved, ...] = ()
    head = 0
    for entry in entries:
        one = entry[3]
        gpus, end = one.gpus, now + one.seconds
        if gpus <= board.fits[bisect_left(board.tight, end)] and not gpus % multiple:
            starts.append((one, board.start(gpus, end)))
        elif not gpus % multiple:
            kept = board.reserve(gpus, one.seconds, min(FOREVER, one.allocation_ends_at - one.seconds + 1))
            if kept is not None:
                reserved = (Reserved(one, *kept),)
                break
        head += 1
    if reserved and line.smallest <= board.fits[0]:
        tight, fits = board.tight, board.fits
        most = fits[0]
        for entry in entries[head + 1 :]:
            one = entry[3]
            gpus = one.gpus
            if gpus <= most and gpus <= fits[bisect_left(tight, now + one.seconds)] and not gpus % multiple:
                starts.append((one, board.start(gpus, now + one.seconds)))
                fits = board.fits
                most = fits[0]
                if not most:
                    break
    for one, _placement in starts:
        line.remove(one)
    return Decided(starts, reserved, NOTHING.promised)


def in_order(
    now: int,
    line: Line,
    rules: Rules,
    leaves: Sequence[Leaf],
    capacity: int,
    promised_gpus: int,
    gate: Gate = OPEN,
) -> list[Waiting]:
    """Everybody in the order in which a round asks them: what is overdue at the front, unless its part is full."""
    weights: Weights = tree_weights(leaves) if rules.order == "fair-tree" else {}
    if rules.order == "small-first":
        weights = overuse_weights(leaves, overuse(leaves, rules.overuse_least), rules)
    first = in_front(now, line, rules, leaves, capacity, promised_gpus, gate)
    asked = {one.booking_id for one in first}
    return first + [one for one in line.fitting(FOREVER, weights) if one.booking_id not in asked]


def in_front(
    now: int,
    line: Line,
    rules: Rules,
    leaves: Sequence[Leaf],
    capacity: int,
    promised_gpus: int,
    gate: Gate = OPEN,
) -> list[Waiting]:
    """Who is asked before everybody whose size counts: fair heads, then what is overdue."""
    if rules.order != "small-first":
        return []
    first = fair_heads(now, line, overuse(leaves, rules.overuse_least), rules, gate)
    if promised_gpus < promised_most(now, line, rules, capacity):
        asked = {one.booking_id for one in first}
        late = line.submitted_by(now - rules.promise_seconds)
        first += [one for one in late if one.booking_id not in asked]
    return first


def overuse_weights(leaves: Sequence[Leaf], over: Mapping[int, float], rules: Rules) -> Weights:
    """Per allocation what its bookings' area is multiplied with."""
    return {leaf.allocation_id: (over[leaf.enterprise_id] ** rules.overuse_power, 0.0) for leaf in leaves}


def tree_weights(leaves: Sequence[Leaf]) -> Weights:
    """Per allocation its rank in the fair tree, the highest factor first."""
    return {allocation_id: (0.0, -factor) for allocation_id, factor in rank(leaves).items()}


def promised_most(now: int, line: Line, rules: Rules, capacity: int) -> float:
    """Once bookings that came to the front because they were overdue hold so many GPUs, no more of them come there.

    The cap protects those who are not overdue: where nobody else waits there is none.
    """
    return math.inf if line.newest() <= now - rules.promise_seconds else rules.promise_share * capacity


def fair_heads(now: int, line: Line, over: Mapping[int, float], rules: Rules, gate: Gate) -> list[Waiting]:
    """The smallest booking of each of the few teams that are furthest below their share."""
    heads: dict[int, Waiting] = {}
    for group in line.groups.values():
        if over[group.enterprise_id] >= rules.fair_below:
            continue
        for _key, _submitted, _id, one in group.entries:
            if not gate.holds(one, now):
                best = heads.get(group.enterprise_id)
                if best is None or (area(one), one.turn) < (area(best), best.turn):
                    heads[group.enterprise_id] = one
                break
    teams = sorted(heads, key=lambda team: (over[team], team))
    return [heads[team] for team in teams[: rules.fair_heads]]


class _Round:
    """The walks of one round over one board."""

    __slots__ = (
        "_asked", "_board", "_gate", "_hopeless", "_now", "_over", "_rules", "promised", "reservations", "starts",
    )  # fmt: skip

    def __init__(self, now: int, board: Board, rules: Rules, gate: Gate) -> None:
        self.starts: list[tuple[Waiting, Placement]] = []
        self.reservations: list[Reserved] = []
        self.promised: set[int] = set()
        self._now = now
        self._board = board
        self._rules = rules
        self._gate = gate
        self._over = False  # strict order, and somebody is blocked: nobody behind may start
        self._asked: set[int] = set()  # by an earlier walk
        # What found no start at all; who asks for as much or more need not try: within a round the board only fills.
        self._hopeless: list[tuple[int, int, int]] = []

    def fair_heads(self, line: Line, over: Mapping[int, float]) -> None:
        heads = fair_heads(self._now, line, over, self._rules, self._gate) if self._rules.fair_heads else []
        for one in heads:
            if self._over:
                return
            self._ask(one)
            self._asked.add(one.booking_id)

    def overdue(self, line: Line, running: Callable[[], int]) -> None:
        """The oldest first, while such bookings hold less than their part of the pool."""
        rules, used = self._rules, -1
        most, before = promised_most(self._now, line, rules, self._board.capacity), len(self.reservations)
        for one in line.submitted_by(self._now - rules.promise_seconds):
            if used < 0:
                used = running()
            if used >= most or self._over:
                return
            if one.booking_id in self._asked or self._gate.holds(one, self._now):
                continue
            if self._ask(one, keep=len(self.reservations) - before < rules.promise_reservations):
                used += one.gpus
                self.promised.add(one.booking_id)
            self._asked.add(one.booking_id)

    def by_key(self, line: Line, weights: Weights) -> None:
        """Start the first ones; keep GPUs for the first that does not fit; then fill in whatever does it no harm."""
        now, asked, gate, passed = self._now, self._asked, self._gate, len(self.reservations)
        for one in line.walk(weights):
            if self._over:
                return
            if (asked and one.booking_id in asked) or (gate is not OPEN and gate.holds(one, now)):
                continue
            if not self._ask(one) and len(self.reservations) > passed:
                break
        else:
            return
        if self._board.fits[0]:
            self._backfill(line.fitting(self._board.fits[0], weights))

    def _backfill(self, candidates: Iterable[Waiting]) -> None:
        """`candidates` by key. Those before the head started, or would not fit now either."""
        now, board, gate = self._now, self._board, self._gate
        tight, fits, multiple = board.tight, board.fits, board.multiple
        done = self._asked
        if self.starts:
            done = done | {waiting.booking_id for waiting, _placement in self.starts}
        for one in candidates:
            gpus, end = one.gpus, now + one.seconds
            if gpus > fits[bisect_left(tight, end)] or gpus % multiple:
                continue
            if (done and one.booking_id in done) or (gate is not OPEN and gate.holds(one, now)):
                continue
            self.starts.append((one, board.start(gpus, end)))
            gate.started(one)
            fits = board.fits
            if not fits[0]:
                return

    def _ask(self, one: Waiting, keep: bool = True) -> bool:
        """Start it, or keep GPUs for it; says whether it has started."""
        board, gpus, end = self._board, one.gpus, self._now + one.seconds
        if gpus <= board.fits[bisect_left(board.tight, end)] and not gpus % board.multiple:
            self.starts.append((one, board.start(gpus, end)))
            self._gate.started(one)
            return True
        if self._rules.backfill == "none":
            self._over = True
        elif keep:
            self._reserve(one)
        return False

    def _reserve(self, one: Waiting) -> None:
        """None when there is no such start, or none that ends within its allocation: GPUs kept for it would lie idle
        for nothing. Should others end early, it is still asked first."""
        gpus, seconds = one.gpus, one.seconds
        before = min(FOREVER, one.allocation_ends_at - seconds + 1)
        if gpus % self._board.multiple:
            return
        if self._hopeless and any(g <= gpus and s <= seconds and b >= before for g, s, b in self._hopeless):
            return
        kept = self._board.reserve(gpus, seconds, before)
        if kept is None:
            self._hopeless.append((gpus, seconds, before))
        else:
            self.reservations.append(Reserved(one, *kept))
