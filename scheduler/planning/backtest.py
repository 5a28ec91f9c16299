"""How good start ranges would have been on a workload that is over: each made of what was known by then. Pure.

It looks over the shoulder of a `play.Play`. At some of its rounds it looks ahead as the living pool does, turns that
into ranges by what came of earlier looks, and in the end holds the ranges against the starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compute_portal.pools.availability import Availability
from scheduler.planning.ahead import look_ahead
from scheduler.planning.board import NodeBoard
from scheduler.planning.forecast import Coverage, Looks, Ran, Ranges, RunTimes, coverage
from scheduler.planning.line import Running, Waiting
from scheduler.planning.planner import Snapshot
from scheduler.planning.play import Play, Run

LEARN_SECONDS = 6 * 3_600  # ranges are learnt anew so often
NOTHING_LEARNT = 86_400  # what is measured begins a day after the first look


@dataclass(frozen=True, slots=True)
class _Look:
    """A look ahead for one booking, with the range that it was shown as."""

    booking_id: int
    submitted_at: int
    made_at: int
    expected: int
    range: tuple[int, int, int]


class Backtest:
    """Give `seen` to a Play on a NodeBoard, and ask for `at_submit` and `over_time` when it has run."""

    def __init__(self, nodes: int, gpus_per_node: int, *, every_seconds: int = 600, every_arrivals: int = 10) -> None:
        """A pool of equal nodes. A look every so many seconds, and at the arrival of one in so many bookings."""
        self._nodes = [(node, gpus_per_node) for node in range(nodes)]
        self._every = every_seconds
        self._every_arrivals = every_arrivals
        self._next = 0
        self._arrived = 0
        self._times = RunTimes()
        self._followed = 0  # of those who started
        self._ending: list[tuple[int, Ran]] = []
        self._ranges = Ranges()
        self._learn_at = 0
        self._looks: list[_Look] = []
        self._starts: dict[int, int] = {}

    def seen(self, now: int, play: Play) -> None:
        self._follow(play)
        waiting = list(play.line)
        fresh = sum(one.submitted_at == now for one in waiting)
        arrived, self._arrived = self._arrived, self._arrived + fresh
        if now < self._next and arrived // self._every_arrivals == self._arrived // self._every_arrivals:
            return
        if now >= self._next:
            self._next = now + self._every
        if now >= self._learn_at:
            self._learn_at = now + LEARN_SECONDS
            self._ranges = self._learnt(now)
        self._look(now, waiting, play)

    def finish(self, play: Play) -> None:
        self._follow(play)

    def at_submit(self) -> Coverage:
        """Of the looks at the very second of a submission."""
        return self._coverage([look for look in self._looks if look.made_at == look.submitted_at])

    def over_time(self) -> Coverage:
        """Of all looks."""
        return self._coverage(self._looks)

    def _coverage(self, looks: list[_Look]) -> Coverage:
        """Who started in the round that was looked at was never shown a range."""
        since = (self._looks[0].made_at if self._looks else 0) + NOTHING_LEARNT
        told = [
            (look.range, self._starts[look.booking_id] - look.made_at)
            for look in looks
            if look.made_at >= since and self._starts.get(look.booking_id, look.made_at) > look.made_at
        ]
        if not told:
            return Coverage(0, 0, 0)
        return coverage(np.array([each[0] for each in told]).T, np.array([each[1] for each in told]))

    def _follow(self, play: Play) -> None:
        """Note who has started, and when that run will be over."""
        for one in play.started[self._followed :]:
            self._starts[one.waiting.booking_id] = one.start
            self._ending.append((one.end, Ran(one.waiting.enterprise_id, one.waiting.seconds, one.end - one.start)))
        self._followed = len(play.started)

    def _learn_runs(self, now: int) -> None:
        """Only of what is over by now."""
        self._ending.sort(key=lambda each: each[0])
        over = [ran for end, ran in self._ending if end <= now]
        self._ending = self._ending[len(over) :]
        self._times.learn(over)

    def _learnt(self, now: int) -> Ranges:
        looks = [look for look in self._looks if self._starts.get(look.booking_id, now + 1) > look.made_at]
        if not looks:
            return Ranges()
        starts = np.array([self._starts.get(look.booking_id, -1) for look in looks])
        made = np.array([look.made_at for look in looks])
        waiting = starts < 0
        return Ranges(
            Looks(
                np.array([look.booking_id for look in looks]),
                made,
                np.array([look.expected for look in looks]),
                np.where(waiting, now, starts) - made,
                waiting,
            ),
            now,
        )

    def _look(self, now: int, waiting: list[Waiting], play: Play) -> None:
        self._learn_runs(now)
        snapshot = _snapshot(now, waiting, play, self._nodes)
        starts = look_ahead(snapshot, run_times(snapshot.waiting, self._times), end_times(snapshot, self._times))
        here = [one for one in waiting if one.booking_id in starts]
        expected = np.array([starts[one.booking_id] - now for one in here], np.int64)
        ranges = self._ranges.of(expected).T.tolist()
        self._looks += [
            _Look(one.booking_id, one.submitted_at, now, seconds, (low, middle, high))
            for one, seconds, (low, middle, high) in zip(here, expected.tolist(), ranges, strict=True)
        ]


def run_times(waiting: Sequence[Waiting], times: RunTimes) -> dict[int, int]:
    """How long each will probably run, by booking id."""
    if not waiting:
        return {}
    enterprises = np.array([one.enterprise_id for one in waiting])
    seconds = times.expect(enterprises, np.array([one.seconds for one in waiting]))
    return dict(zip((one.booking_id for one in waiting), seconds.tolist(), strict=True))


def end_times(snapshot: Snapshot, times: RunTimes) -> dict[int, int]:
    """When each flexible booking that runs will probably end, by its id."""
    placed = [one for one in snapshot.placed if not one.fixed]
    if not placed:
        return {}
    began = np.array([one.started_at for one in placed])
    asked = np.array([one.until_at for one in placed]) - began
    runs = times.expect(np.array([one.enterprise_id for one in placed]), asked, np.maximum(0, snapshot.now - began))
    return dict(zip((one.booking_id for one in placed), (began + runs).tolist(), strict=True))


def _snapshot(now: int, waiting: list[Waiting], play: Play, nodes: Sequence[tuple[int, int]]) -> Snapshot:
    """The play's state as the live cycle sees its pool."""
    running = [run for _end, _number, run in play.running]
    rows = [(node, mask, 0, run.until, run.waiting is None) for run in running for node, mask in run.placement]
    if isinstance(play.board, NodeBoard):
        rows += [(node, mask, start, end, True) for start, end, node, mask in play.board.booked]
    return Snapshot(
        now,
        Availability.from_rows(nodes, rows, []),
        waiting,
        play.usage.leaves(now),
        {},
        {},
        rules=play.rules,
        placed=[_placed(run, run.waiting) for run in running if run.waiting is not None],
    )


def _placed(run: Run, one: Waiting) -> Running:
    return Running(
        one.key,
        one.booking_id,
        one.gpus,
        one.enterprise_id,
        one.allocation_id,
        one.submitted_at,
        run.until - one.seconds,
        run.until,
        run.placement,
        promised=run.promised,
    )
