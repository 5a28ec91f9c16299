"""Working days and working time as a plain value: days in, instants out. Pure; `queries.load_calendar` makes one.

A day is worked when it is Monday to Friday, unless the table of special days says otherwise: holidays are off, and
some Saturdays and Sundays are worked in exchange. Beyond the table Monday to Friday counts, and `warning` says so.
Office hours are Shanghai's; `closes` belongs to the day: a deadline at the end of a day is that day's closing time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from .. import clock
from ..sentences import Sentence

FRIDAY = 4
DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class YearRule:
    """Office hours of a year in minutes since midnight; provisional until the city knows its holidays for certain."""

    opens_minute: int
    closes_minute: int
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class Calendar:
    """`days`: True for a day that is worked, False for one that is off; only where the week's rule does not hold."""

    years: Mapping[int, YearRule]
    days: Mapping[dt.date, bool]

    def is_working(self, day: dt.date) -> bool:
        return self.days.get(day, day.weekday() <= FRIDAY)

    def is_open(self, instant: dt.datetime) -> bool:
        day = clock.day_of(instant)
        return self.is_working(day) and self.opening(day) <= instant < self.closing(day)

    def opening(self, day: dt.date) -> dt.datetime:
        return clock.start_of_day(day) + dt.timedelta(minutes=self._rule(day).opens_minute)

    def closing(self, day: dt.date) -> dt.datetime:
        return clock.start_of_day(day) + dt.timedelta(minutes=self._rule(day).closes_minute)

    def day_seconds(self, instant: dt.datetime) -> int:
        """Office time of a working day."""
        rule = self._rule(clock.day_of(instant))
        return (rule.closes_minute - rule.opens_minute) * 60

    def _rule(self, day: dt.date) -> YearRule:
        """The year's office hours; outside the table those of the nearest year in it."""
        rule = self.years.get(day.year)
        if rule is not None:
            return rule
        return self.years[min(self.years, key=lambda year: abs(year - day.year))]

    def next_working_day(self, day: dt.date) -> dt.date:
        """The first working day after `day`."""
        day += DAY
        while not self.is_working(day):
            day += DAY
        return day

    def add(self, instant: dt.datetime, days: int) -> dt.datetime:
        """When a period of so many working days ends: at closing time of the last one.

        The day it begins on does not count. Raises ValueError for fewer than one day.
        """
        if days < 1:
            raise ValueError(f"a period of {days} working days")
        day = clock.day_of(instant)
        for _ in range(days):
            day = self.next_working_day(day)
        return self.closing(day)

    def same_time(self, instant: dt.datetime, days: int) -> dt.datetime:
        """The same time of day so many working days later; what comes on a day off counts from the next morning."""
        local = instant.astimezone(clock.SHANGHAI)
        day, time = local.date(), local.time()
        if not self.is_working(day):
            day, time = self.next_working_day(day), dt.time()
        for _ in range(days):
            day = self.next_working_day(day)
        return dt.datetime.combine(day, time, clock.SHANGHAI).astimezone(dt.UTC)

    def working_seconds(self, start: dt.datetime, end: dt.datetime) -> int:
        """Office time in [start, end); 0 when it is empty."""
        total, day = 0, clock.day_of(start)
        while start < end and day <= clock.day_of(end):
            if self.is_working(day):
                total += max(0, clock.seconds_between(max(start, self.opening(day)), min(end, self.closing(day))))
            day += DAY
        return total

    def add_seconds(self, instant: dt.datetime, seconds: int) -> dt.datetime:
        """The instant at which so much office time has passed; the end of a day rather than the next morning."""
        if seconds <= 0:
            return instant
        day = clock.day_of(instant)
        while True:
            if self.is_working(day):
                start = max(instant, self.opening(day))
                room = clock.seconds_between(start, self.closing(day))
                if seconds <= room:
                    return start + dt.timedelta(seconds=seconds)
                seconds -= max(0, room)
            day += DAY

    def working_days_left(self, now: dt.datetime, due_at: dt.datetime) -> int:
        """Working days between today and the day of `due_at`, that day included; negative when it is over."""
        today, last = clock.day_of(now), clock.day_of(due_at)
        sign, first, last = (1, today, last) if today <= last else (-1, last, today)
        day, count = first, 0
        while day < last:
            day += DAY
            count += self.is_working(day)
        return sign * count

    def working_days_in(self, year: int) -> int:
        first = dt.date(year, 1, 1)
        return sum(self.is_working(first + n * DAY) for n in range((dt.date(year + 1, 1, 1) - first).days))

    def knows(self, day: dt.date) -> bool:
        return day.year in self.years

    def warning(self, until: dt.datetime) -> Sentence | None:
        """What a reader should know about a date that was reckoned with this table; None when it is certain."""
        year = clock.day_of(until).year
        if year not in self.years:
            return Sentence("workdays-beyond-table", last=max(self.years))
        return Sentence("workdays-provisional", year=year) if self.years[year].provisional else None
