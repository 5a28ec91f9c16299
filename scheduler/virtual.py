"""Virtual time: members who act, and the scheduler's own timetable driven from event to event instead of by a clock.

The same engine, cycle, metering and month closing run here as in production; only the clock is another one. How long a
job really runs is known to nobody but the simulated member, who presses *stop* when it is done.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from compute_portal import clock
from compute_portal.access import Actor
from compute_portal.bookings import queries as booking_queries
from compute_portal.bookings import service as bookings
from compute_portal.bookings.service import BookingRequest
from compute_portal.db import Session
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.usage import queries as usage_queries

from . import cycle, duties, metering
from .context import Context


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody will book at an instant; `run_seconds` is when they stop, counted from the start (None: never)."""

    at: dt.datetime
    by: Actor
    asked: BookingRequest
    run_seconds: int | None
    name: str


@dataclass
class Outcome:
    """What happened, counted as it happened."""

    booked: dict[int, Wish] = field(default_factory=dict)
    started: dict[int, dt.datetime] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    cycles: int = 0


class VirtualTime:
    """Runs wishes and the timetable up to an instant, or until everything is settled."""

    def __init__(self, context: Context, policy: Policy, metering_hours: int = 1) -> None:
        """A metering pass every so many hours; usage records are cut at every hour all the same."""
        self.context = context
        self.policy = policy
        self.metering_every = dt.timedelta(hours=metering_hours)
        self.outcome = Outcome()
        self._stops: list[tuple[dt.datetime, int]] = []  # (instant, booking id): its member presses stop
        self._wakes: list[dt.datetime] = []  # instants at which the engine ends something by itself
        self._errands: list[tuple[dt.datetime, int, Callable[[dt.datetime], object]]] = []
        self._closings: list[tuple[dt.datetime, str]] = []

    def at(self, instant: dt.datetime, errand: Callable[[dt.datetime], object]) -> None:
        """Somebody does something else at an instant, such as an operator who approves."""
        heapq.heappush(self._errands, (instant, len(self._errands), errand))

    def run(
        self, wishes: Iterable[Wish], start: dt.datetime, until: dt.datetime | None, told: Callable[[int], object]
    ) -> Outcome:
        """From `start` through all wishes; to `until`, or until nothing is open. `told(n)` hears of every booking."""
        coming = _Peekable(iter(wishes))
        hour = clock.ceil_hour(start)
        self._plan_closing(clock.month_of(start))
        while True:
            busy = coming.head is not None or bool(self._stops or self._wakes or self._errands)
            if until is None and not busy and not self._count_open():
                break
            now = min(
                [
                    hour,
                    *([coming.head.at] if coming.head else []),
                    *(stop[0] for stop in self._stops[:1]),
                    *self._wakes[:1],
                    *(errand[0] for errand in self._errands[:1]),
                ]
            )
            if until is not None and now > until:
                break
            acted = self._act(coming, now, told)
            if now == hour:
                metering.run(self.context, now)
                self._close_months(now)
                hour += self.metering_every
            if acted:
                self._cycle(now)
        return self.outcome

    def _act(self, coming: _Peekable, now: dt.datetime, told: Callable[[int], object]) -> bool:
        """Everything that people do at this instant; says whether a cycle has something to do."""
        acted = False
        while coming.head is not None and coming.head.at <= now:
            self._book(coming.take(), now)
            told(1)
            acted = True
        while self._stops and self._stops[0][0] <= now:
            self._stop(heapq.heappop(self._stops)[1], now)
            acted = True
        while self._errands and self._errands[0][0] <= now:
            heapq.heappop(self._errands)[2](now)
            acted = True
        while self._wakes and self._wakes[0] <= now:
            heapq.heappop(self._wakes)
            acted = True
        return acted

    def _book(self, wish: Wish, now: dt.datetime) -> None:
        def work(session: Session) -> int:
            return bookings.submit(session, wish.asked, by=wish.by, policy=self.policy.bookings, now=now).id

        try:
            booking_id = self.context.database.transaction(work)
        except Refusal as refusal:
            self.outcome.refused[refusal.sentence.id] += 1
            return
        self.outcome.booked[booking_id] = wish
        if wish.asked.starts_at is not None:
            heapq.heappush(self._wakes, wish.asked.starts_at)

    def _stop(self, booking_id: int, now: dt.datetime) -> None:
        by = self.outcome.booked[booking_id].by
        self.context.database.transaction(lambda session: bookings.stop(session, booking_id, by=by, now=now).id)

    def _cycle(self, now: dt.datetime) -> None:
        """A cycle; whose booking starts notes when to stop it. Stops at this very instant come at once."""
        while True:
            result = cycle.run(self.context, now)
            self.outcome.cycles += 1
            for booking_id in result.started:
                self._started(booking_id, now)
            due = [stop for stop in self._stops if stop[0] <= now]
            if not due:
                return
            while self._stops and self._stops[0][0] <= now:
                self._stop(heapq.heappop(self._stops)[1], now)

    def _started(self, booking_id: int, now: dt.datetime) -> None:
        wish = self.outcome.booked.get(booking_id)
        if wish is None:
            return
        self.outcome.started[booking_id] = now
        fixed = wish.asked.ends_at
        if fixed is not None:  # who does not come is a no-show
            self.context.database.transaction(
                lambda session: bookings.claim(session, booking_id, by=wish.by, now=now).id
            )
        end = fixed if fixed is not None else now + dt.timedelta(seconds=wish.asked.seconds)
        if wish.run_seconds is not None and now + dt.timedelta(seconds=wish.run_seconds) < end:
            heapq.heappush(self._stops, (now + dt.timedelta(seconds=wish.run_seconds), booking_id))
        else:
            heapq.heappush(self._wakes, end)

    def _plan_closing(self, month: str) -> None:
        _, end = clock.month_bounds(month)
        self._closings.append((end + dt.timedelta(hours=self.policy.metering.close_month_after_hours), month))

    def _close_months(self, now: dt.datetime) -> None:
        while self._closings and self._closings[0][0] <= now:
            _, month = self._closings.pop(0)
            duties.close_months(self.context, now)
            self._plan_closing(clock.next_month(month))

    def _count_open(self) -> int:
        with self.context.database.read_only() as session:
            return booking_queries.count_open(session)

    def close_last_months(self, now: dt.datetime) -> dt.datetime:
        """After the last booking: let time pass until the month in which it ended is closed; says when that is."""
        with self.context.database.read_only() as session:
            last = usage_queries.last_month(session)
        if last is None:
            return now
        while self._closings and self._closings[0][1] <= last:
            now = self._closings[0][0]
            metering.run(self.context, now)
            self._close_months(now)
        return now


class _Peekable:
    """An iterator whose next item can be looked at."""

    def __init__(self, items: Iterator[Wish]) -> None:
        self._items = items
        self.head: Wish | None = next(items, None)

    def take(self) -> Wish:
        taken = self.head
        assert taken is not None
        self.head = next(self._items, None)
        return taken
