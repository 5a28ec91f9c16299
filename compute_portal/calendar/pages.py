"""What the calendar's tables hold, cell by cell: a day, a week, a month of a pool. Pure.

A cell is a link where somebody may go on from it: to choose a start, then the last hour, then the form that books.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote_plus

import numpy as np

from .. import clock
from ..pools.availability import Flags, Ints
from ..pools.hours import Grid

DAY_HOURS = 24
WEEK_DAYS = 7


@dataclass(frozen=True, slots=True)
class Cell:
    """An hour, or a whole day. `free`: cards that nobody has all through it."""

    at: str  # as people type it into the form
    free: int
    tone: str  # past, short, fit, maint, pick: how it looks
    mine: bool = False
    href: str | None = None
    booked: int = 0  # by others
    own: int = 0
    kept: int = 0
    closed: int = 0

    @property
    def capacity(self) -> int:
        return self.free + self.booked + self.own + self.kept + self.closed


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

    def cells(self, first: dt.datetime, hours: int) -> list[Cell]:
        grid, asked = self.grid, self.choosing
        offset = (int(first.timestamp()) - grid.first) // 3_600
        free, booked, mine, kept, closed = (
            grid.count(masks).tolist() for masks in (grid.free, grid.booked, grid.mine, grid.kept, grid.closed)
        )
        room = grid.room(self.most_fixed)
        enough = room >= (asked.gpus if asked else 1)
        ends = self._ends(enough)
        cells = []
        day, hour = clock.day_of(first), first.astimezone(clock.SHANGHAI).hour
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
            elif asked is not None and enough[number] and asked.first_at <= at <= asked.last_at:
                href = f"{asked.start_link}&starts_at={quote_plus(name)}#choose" if at < asked.ends_by else None
            if tone not in ("past", "pick") and grid.maintenance[number]:
                tone = "maint"
            cells.append(
                Cell(
                    name, free[number], tone, mine=mine[number] > 0 and tone != "past", href=href,
                    booked=booked[number], own=mine[number], kept=kept[number], closed=closed[number],
                )
            )  # fmt: skip
            hour += 1
            if hour == DAY_HOURS:
                day, hour = day + dt.timedelta(days=1), 0
        return cells

    def _ends(self, enough: Flags) -> Flags | None:
        """With a start chosen: for each hour whether the window from the start to its end is to be had."""
        asked = self.choosing
        if asked is None or asked.start is None:
            return None
        begins = (int(asked.start.timestamp()) - self.grid.first) // 3_600
        found: Flags = np.zeros(len(enough), np.bool_)
        within = min(len(enough) - begins, asked.longest_hours, int((asked.ends_by - asked.start) / clock.HOUR))
        if begins >= 0 and within > 0:
            found[begins : begins + within] = self.grid.room_from(begins, self.most_fixed)[:within] >= asked.gpus
        return found

    @staticmethod
    def _end_link(asked: Choosing, last_hour: dt.datetime) -> str:
        assert asked.start is not None
        return f"{asked.book_link}&starts_at={_name(asked.start)}&ends_at={_name(last_hour + clock.HOUR)}"

    def week(self, first: dt.date) -> list[list[Cell]]:
        """Hours down, days across."""
        cells = self.cells(clock.start_of_day(first), WEEK_DAYS * DAY_HOURS)
        return [cells[hour::DAY_HOURS] for hour in range(DAY_HOURS)]

    def month(self, monday: dt.date, weeks: int, link: Callable[[dt.date], str]) -> list[list[Cell | None]]:
        """Weeks down, days across; a day by what is free in each of its hours to come. None: it is over."""
        cells = self.cells(clock.start_of_day(monday), weeks * WEEK_DAYS * DAY_HOURS)
        days = [
            self._day(monday + dt.timedelta(days=n), cells[n * DAY_HOURS : (n + 1) * DAY_HOURS], link)
            for n in range(weeks * WEEK_DAYS)
        ]
        return [days[week * WEEK_DAYS : (week + 1) * WEEK_DAYS] for week in range(weeks)]

    @staticmethod
    def _day(day: dt.date, cells: list[Cell], link: Callable[[dt.date], str]) -> Cell | None:
        cells = [cell for cell in cells if cell.tone != "past"]
        if not cells:
            return None
        tones = {cell.tone for cell in cells}
        tone = "maint" if "maint" in tones else "short" if tones == {"short"} else "fit"
        return Cell(
            str(day), min(cell.free for cell in cells), tone, mine=any(cell.mine for cell in cells), href=link(day)
        )


def _name(at: dt.datetime) -> str:
    return quote_plus(at.astimezone(clock.SHANGHAI).strftime("%Y-%m-%d %H:%M"))


def free_by_node(grid: Grid, rows: slice, first_hour: int, hours: int) -> list[list[int]]:
    """Cards free all through each hour, of these nodes."""
    shown: Ints = np.bitwise_count(grid.free[rows, first_hour : first_hour + hours])
    return [[int(count) for count in row] for row in shown]


def monday_of(day: dt.date) -> dt.date:
    return day - dt.timedelta(days=day.weekday())
