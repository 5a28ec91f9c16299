"""A pool played forward in virtual time, with the very rounds of the live cycle: `replay` and forecasts. Pure.

How long a booking really runs is known to the play alone: rounds see its longest run. Everything that happens at one
second happens before that second's only round: ends, then fixed bookings, then submissions.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from compute_portal.pools.availability import FOREVER, Placement
from scheduler.planning.board import CountBoard, NodeBoard
from scheduler.planning.decide import OPEN, Gate, decide
from scheduler.planning.fairshare import Leaf
from scheduler.planning.line import Line, Waiting
from scheduler.planning.planner import Limits, Snapshot
from scheduler.planning.rules import Rules

NEVER = 2**62


class Arrival(NamedTuple):
    """Somebody submits a booking that will run so many seconds if nobody stops it; it is stopped at its longest run."""

    waiting: Waiting
    runs: int


class FixedArrival(NamedTuple):
    """A fixed booking is confirmed at `announced_at`."""

    announced_at: int
    id: str
    start: int
    end: int
    gpus: int


class Started(NamedTuple):
    waiting: Waiting
    start: int
    end: int
    placement: Placement


@dataclass(slots=True)
class _Use:
    usage: float
    gpus: int
    as_of: int


class Usage:
    """Decayed GPU-seconds per allocation, kept incrementally: a round costs the number of allocations.

    Between two changes an allocation runs a constant number of GPUs, and its usage obeys u' = gpus − λu with
    λ = ln 2 ÷ half-life, so u(t) = u(0)·2^(−t ÷ half-life) + gpus·(1 − 2^(−t ÷ half-life)) ÷ λ, exactly.
    """

    def __init__(self, leaves: Sequence[Leaf], half_life_seconds: int, now: int = 0) -> None:
        self._leaves = leaves
        self._half_life = half_life_seconds
        self._uses = {leaf.allocation_id: _Use(leaf.usage, 0, now) for leaf in leaves}

    def change(self, allocation_id: int, gpus: int, now: int) -> None:
        """It runs so many more GPUs from now on, or fewer."""
        use = self._uses[allocation_id]
        if now != use.as_of:
            use.usage, use.as_of = self._at(use, now), now
        use.gpus += gpus

    def leaves(self, now: int) -> list[Leaf]:
        uses = self._uses
        return [
            Leaf(
                leaf.programme_id, leaf.programme_shares, leaf.enterprise_id, leaf.enterprise_shares,
                leaf.allocation_id, leaf.allocation_shares, self._at(uses[leaf.allocation_id], now), leaf.low_priority,
            )
            for leaf in self._leaves
        ]  # fmt: skip

    def _at(self, use: _Use, now: int) -> float:
        kept = math.exp2((use.as_of - now) / self._half_life)
        return use.usage * kept + use.gpus * (1 - kept) * (self._half_life / math.log(2))


@dataclass(slots=True)
class Run:
    """Something holds GPUs of the board until `until` at the latest; allocation 0 is nobody's use."""

    until: int
    gpus: int
    placement: Placement
    allocation_id: int
    enterprise_id: int
    promised: bool  # it started at the front because it was overdue
    waiting: Waiting | None = None  # what it was, if it started here


Begin = tuple[int, int, int, Placement]  # hours that are booked: start, end, GPUs and which


class Play:
    """One pool from some state on. `started` fills as it runs; the board and the line change with it."""

    def __init__(
        self,
        board: NodeBoard | CountBoard,
        line: Line,
        rules: Rules,
        usage: Usage,
        gate: Gate = OPEN,
        seen: Callable[[int, Play], object] | None = None,
    ) -> None:
        """`seen(now, play)` is called before each round, to look at the state."""
        self.board = board
        self.line = line
        self.rules = rules
        self.usage = usage
        self.started: list[Started] = []
        self.refused: list[FixedArrival] = []  # fixed bookings for which there was no room when they were announced
        self.rounds = 0
        self.running: list[tuple[int, int, Run]] = []  # by real end
        self.promised_gpus = 0
        self.runs: dict[int, int] = {}  # how long what waits will really run, by booking id
        self._begins: list[Begin] = []  # the first one last
        self._gate = gate
        self._seen = seen
        self._number = 0
        self._asks_usage = rules.order in ("fair-tree", "small-first")

    def watch(self, seen: Callable[[int, Play], object]) -> None:
        """From now on this is called before each round."""
        self._seen = seen

    def put(self, run: Run, ends: int, now: int) -> None:
        """It runs already, on GPUs that the board holds; really it ends at `ends`."""
        self._number += 1
        heappush(self.running, (ends, self._number, run))
        if run.allocation_id and self._asks_usage:
            self.usage.change(run.allocation_id, run.gpus, now)
        if run.promised:
            self.promised_gpus += run.gpus

    def book(self, begin: Begin) -> None:
        """The board keeps these GPUs for hours to come."""
        insort(self._begins, begin, key=lambda one: -one[0])

    def run(
        self,
        arrivals: Sequence[Arrival],
        fixed: Sequence[FixedArrival] = (),
        now: int = 0,
        until: int = NEVER,
        wakes: Sequence[int] = (),
        told: Callable[[int], object] | None = None,
    ) -> None:
        """From `now` until nothing is left to happen, or to an instant. Arrivals ascend by submission; at `wakes` there
        is a round though nothing happens."""
        line, running, begins, runs = self.line, self.running, self._begins, self.runs
        to_come, to_wake = sorted(fixed, reverse=True), sorted(wakes, reverse=True)
        at, count = 0, len(arrivals)
        next_arrival = arrivals[0].waiting.submitted_at if arrivals else NEVER
        while now < until:
            while running and running[0][0] <= now:
                self._end(heappop(running)[2], now)
            while to_come and to_come[-1].announced_at <= now:
                self._announce(to_come.pop(), now)
            while begins and begins[-1][0] <= now:
                self._begin(begins.pop(), now)
            while to_wake and to_wake[-1] <= now:
                to_wake.pop()
            arrived = at
            while next_arrival <= now:
                waiting, really = arrivals[at]
                runs[waiting.booking_id] = really
                line.add(waiting)
                at += 1
                next_arrival = arrivals[at].waiting.submitted_at if at < count else NEVER
            if told is not None and at > arrived:
                told(at - arrived)
            if line.length:
                self._round(now)
            now = running[0][0] if running else NEVER
            if next_arrival < now:
                now = next_arrival
            if begins or to_come or to_wake:
                now = min(
                    now,
                    begins[-1][0] if begins else NEVER,
                    to_come[-1].announced_at if to_come else NEVER,
                    to_wake[-1] if to_wake else NEVER,
                )

    def _round(self, now: int) -> None:
        self.rounds += 1
        if self._seen is not None:
            self._seen(now, self)
        starts, _reservations, promised = decide(
            now, self.board, self.line, self.rules, self.usage.leaves, self._count_promised, self._gate
        )
        for one, placement in starts:
            gpus, seconds = one.gpus, one.seconds
            is_promised = one.booking_id in promised
            really = self.runs.pop(one.booking_id, seconds)
            end = now + (really if really < seconds else seconds)
            run = Run(now + seconds, gpus, placement, one.allocation_id, one.enterprise_id, is_promised, one)
            self._number += 1
            heappush(self.running, (end, self._number, run))
            if self._asks_usage:
                self.usage.change(one.allocation_id, gpus, now)
            if is_promised:
                self.promised_gpus += gpus
            self.started.append(Started(one, now, end, placement))

    def _count_promised(self) -> int:
        return self.promised_gpus

    def _end(self, run: Run, now: int) -> None:
        self.board.release(run.gpus, run.placement, run.until)
        if run.allocation_id and self._asks_usage:
            self.usage.change(run.allocation_id, -run.gpus, now)
        if run.promised:
            self.promised_gpus -= run.gpus
        if self._gate is not OPEN and run.allocation_id:
            self._gate.ended(run.enterprise_id, run.gpus)

    def _announce(self, wanted: FixedArrival, now: int) -> None:
        placement = self.board.book(wanted.start, wanted.end, wanted.gpus, now)
        if placement is None:
            self.refused.append(wanted)
        else:
            self.book((wanted.start, wanted.end, wanted.gpus, placement))

    def _begin(self, begin: Begin, now: int) -> None:
        start, end, gpus, placement = begin
        self.board.begin(start, end, gpus, placement)
        self.put(Run(end, gpus, placement, 0, 0, False), end, now)


def forward(
    snapshot: Snapshot, runs: Mapping[int, int], ends: Mapping[int, int], horizon: int = NEVER
) -> dict[int, int]:
    """When each waiting booking would start if nobody else came: one simulation of the pool's own rules.

    `runs` says how long a waiting booking will probably run, by booking id (else: its longest run), `ends` when a
    running one of `snapshot.placed` will probably end (else: when it must). What does not start within `horizon`
    seconds is not in the answer. Rounds still see longest runs only.
    """
    now = snapshot.now
    board = NodeBoard.of(snapshot.availability, now)
    limits = Limits(snapshot)
    play = Play(
        board, snapshot.line(), snapshot.rules, Usage(snapshot.leaves, snapshot.rules.half_life_seconds, now), limits
    )
    play.runs.update(runs)
    owner = {(one.until_at, node, mask): one for one in snapshot.placed for node, mask in one.placement}
    for end, node, mask in board.ends:
        one = owner.get((end, board.ids[node], mask))
        run = Run(end, mask.bit_count(), ((node, mask),), 0, 0, False)
        if one is not None:
            run.allocation_id, run.enterprise_id = one.allocation_id, one.enterprise_id
            run.promised = one.promised
            play.put(run, max(now, min(end, ends.get(one.booking_id, end))), now)
        elif end < FOREVER:
            play.put(run, end, now)
    for start, end, node, mask in board.booked:
        play.book((start, end, mask.bit_count(), ((node, mask),)))
    wakes = {one.not_before for one in snapshot.waiting if one.not_before > now}
    play.run([], now=now, until=min(NEVER, now + horizon), wakes=sorted(wakes))
    return {one.waiting.booking_id: one.start for one in play.started}
