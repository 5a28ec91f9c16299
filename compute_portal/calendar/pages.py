"""What the calendar's tables hold, cell by cell: a day, a week, a month of a pool. Pure.

A cell is a link where somebody may go on from it: to choose a start, then the last hour, then the form that books.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import clock
from ..pools.availability import HOUR, Flags, Ints
from ..pools.hours import Grid

DAY_HOURS = 24
WEEK_DAYS = 7


class Cell(NamedTuple):
    """An hour, or a whole day. `free`: cards that nobody has all through it, and power for them."""

    at: str  # as people type it into the form
    free: int
    looks: str  # past, short, fit, maint, pick; and mine
    says: str = ""  # what a screen reader says of it besides the number; of a link the number, too
    href: str | None = None
    booked: int = 0  # by others
    own: int = 0
    kept: int = 0
    closed: int = 0

    @property
    def capacity(self) -> int:
        return self.free + self.booked + self.own + self.kept + self.closed


@dataclass(frozen=True)
class Words:
    """What cells say, in the reader's language: put together here once and not for each of hundreds of cells."""

    free: str  # with %(day)s, %(hour)s and %(free)s
    past: str
    mine: str
    maint: str
    pick: str
    days: Callable[[dt.date], str]

    def also(self, tone: str, mine: bool) -> str:
        more = self.maint if tone == "maint" else self.pick if tone == "pick" else ""
        return (self.mine if mine else "") + more


@dataclass(frozen=True)
class Choosing:
    """Who chooses what: so many cards, in which time, and the start that was chosen already.

    `start_link` leads to the calendar with a start, `book_link` to the form with a whole window.
    """

    gpus: int
    first_at: dt.datetime  # nothing may begin before
    last_at: dt.datetime  # nothing may begin after
    ends_by: dt.datetime  # and everything must be over by then
    longest_hours: int
    start_link: str
    book_link: str
    start: dt.datetime | None = None


@dataclass(frozen=True)
class Hourly:
    """A pool's hours as cells, from any hour of its grid."""

    grid: Grid
    most_fixed: int
    now: dt.datetime
    choosing: Choosing | None  # None: whoever only looks
    words: Words

    def cells(self, first: dt.datetime, hours: int) -> list[Cell]:
        grid, asked = self.grid, self.choosing
        offset = (int(first.timestamp()) - grid.first) // HOUR
        booked, mine, kept = (grid.count(masks).tolist() for masks in (grid.booked, grid.mine, grid.kept))
        free = grid.usable().tolist()
        closed = (grid.count(grid.closed) + grid.count(grid.free) - grid.usable()).tolist()
        room = grid.room(self.most_fixed)
        enough = room >= (asked.gpus if asked else 1)
        ends = self._ends(enough)
        cells = []
        day, hour = clock.day_of(first), first.astimezone(clock.SHANGHAI).hour
        named, words = self.words.days(day), self.words
        for number in range(offset, offset + hours):
            at = first + (number - offset) * clock.HOUR
            name = f"{day} {hour:02}:00"
            tone = "fit" if enough[number] else "short"
            href = None
            if at + clock.HOUR <= self.now:
                tone = "past"
            elif asked is not None and asked.start is not None and ends is not None and at >= asked.start:
                href = self._end_link(asked, at) if ends[number] else None
                tone = "pick" if at == asked.start else "fit" if ends[number] else "short"
            elif asked is not None and enough[number] and asked.first_at <= at <= asked.last_at and at < asked.ends_by:
                href = f"{asked.start_link}&starts_at={day}+{hour:02}%3A00#choose"
            if tone not in ("past", "pick") and grid.maintenance[number]:
                tone = "maint"
            own = tone != "past" and mine[number] > 0
            says = words.past if tone == "past" else words.also(tone, own)
            if href is not None:
                says = words.free % {"day": named, "hour": name[11:], "free": free[number]} + says
            cells.append(
                Cell(
                    name, free[number], f"{tone} mine" if own else tone, says, href,
                    booked=booked[number], own=mine[number], kept=kept[number], closed=closed[number],
                )
            )  # fmt: skip
            hour += 1
            if hour == DAY_HOURS:
                day, hour = day + dt.timedelta(days=1), 0
                named = words.days(day)
        return cells

    def _ends(self, enough: Flags) -> Flags | None:
        """With a start chosen: for each hour whether the window from the start to its end is to be had."""
        asked = self.choosing
        if asked is None or asked.start is None:
            return None
        begins = (int(asked.start.timestamp()) - self.grid.first) // HOUR
        found: Flags = np.zeros(len(enough), np.bool_)
        within = min(len(enough) - begins, asked.longest_hours, int((asked.ends_by - asked.start) / clock.HOUR))
        if begins >= 0 and within > 0:
            found[begins : begins + within] = self.grid.room_from(begins, self.most_fixed)[:within] >= asked.gpus
        return found

    @staticmethod
    def _end_link(asked: Choosing, last_hour: dt.datetime) -> str:
        assert asked.start is not None
        return f"{asked.book_link}&starts_at={in_address(asked.start)}&ends_at={in_address(last_hour + clock.HOUR)}"

    def week(self, first: dt.date) -> list[list[Cell]]:
        """Hours down, days across."""
        cells = self.cells(clock.start_of_day(first), WEEK_DAYS * DAY_HOURS)
        return [cells[hour::DAY_HOURS] for hour in range(DAY_HOURS)]

    def month(self, monday: dt.date, weeks: int, link: Callable[[dt.date], str]) -> list[list[Cell | None]]:
        """Weeks down, days across; a day by what is free in each of its hours to come. None: it is over."""
        grid, days = self.grid, weeks * WEEK_DAYS
        begins = int(clock.start_of_day(monday).timestamp())
        offset = (begins - grid.first) // HOUR

        def by_day(of_hours: Any) -> Any:
            return of_hours[offset : offset + days * DAY_HOURS].reshape(days, DAY_HOURS)

        ends = begins + HOUR * np.arange(1, days * DAY_HOURS + 1).reshape(days, DAY_HOURS)
        to_come = ends > int(self.now.timestamp())
        enough = by_day(grid.room(self.most_fixed)) >= (self.choosing.gpus if self.choosing else 1)
        free = np.min(by_day(grid.usable()), axis=1, where=to_come, initial=grid.capacity).tolist()
        some = (to_come & enough).any(axis=1)
        shut = (to_come & by_day(grid.maintenance)).any(axis=1)
        mine = (to_come & (by_day(grid.count(grid.mine)) > 0)).any(axis=1)
        cells: list[Cell | None] = []
        for number in range(days):
            if not to_come[number].any():
                cells.append(None)
                continue
            day, own = monday + dt.timedelta(days=number), bool(mine[number])
            tone = "maint" if shut[number] else "fit" if some[number] else "short"
            looks = f"{tone} mine" if own else tone
            cells.append(Cell(str(day), free[number], looks, self.words.also(tone, own), link(day)))
        return [cells[week * WEEK_DAYS : (week + 1) * WEEK_DAYS] for week in range(weeks)]


def in_address(at: dt.datetime) -> str:
    """As a form reads it: 2026-11-20+20%3A00."""
    return at.astimezone(clock.SHANGHAI).strftime("%Y-%m-%d+%H%%3A%M")


def free_by_node(grid: Grid, rows: slice, first_hour: int, hours: int) -> list[list[int]]:
    """Cards free all through each hour, of these nodes."""
    shown: Ints = np.bitwise_count(grid.free[rows, first_hour : first_hour + hours])
    return [[int(count) for count in row] for row in shown]


def monday_of(day: dt.date) -> dt.date:
    return day - dt.timedelta(days=day.weekday())
