"""Time: the one place that reads the clock, and the arithmetic of months and hours.

Instants are aware UTC datetimes in whole seconds (usage is metered in GPU-seconds, which are integers).
People, days and billing months live in Asia/Shanghai. Everything below the edges takes `now` as an argument.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOUR = dt.timedelta(hours=1)


def now() -> dt.datetime:
    """The current instant, UTC, cut to the second."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def day_of(instant: dt.datetime) -> dt.date:
    """The calendar day in Shanghai."""
    return instant.astimezone(SHANGHAI).date()


def start_of_day(day: dt.date) -> dt.datetime:
    """Midnight in Shanghai at which `day` begins, as UTC."""
    return dt.datetime.combine(day, dt.time(), SHANGHAI).astimezone(dt.UTC)


def end_of_day(day: dt.date) -> dt.datetime:
    """Midnight in Shanghai at which `day` is over (half-open), as UTC."""
    return start_of_day(day + dt.timedelta(days=1))


def month_of(instant: dt.datetime) -> str:
    """The billing month, for example '2026-11'."""
    return instant.astimezone(SHANGHAI).strftime("%Y-%m")


def month_bounds(month: str) -> tuple[dt.datetime, dt.datetime]:
    """[start, end) of a billing month as UTC instants. Raises ValueError for anything but 'YYYY-MM'."""
    first = dt.datetime.strptime(month, "%Y-%m").date()  # noqa: DTZ007 - a month has no zone until the next line
    return start_of_day(first), start_of_day(_first_of_next(first))


def previous_month(month: str) -> str:
    start, _ = month_bounds(month)
    return month_of(start - dt.timedelta(days=1))


def next_month(month: str) -> str:
    _, end = month_bounds(month)
    return month_of(end)


def _first_of_next(first: dt.date) -> dt.date:
    return (first + dt.timedelta(days=32)).replace(day=1)


def floor_hour(instant: dt.datetime) -> dt.datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def ceil_hour(instant: dt.datetime) -> dt.datetime:
    floor = floor_hour(instant)
    return floor if floor == instant else floor + HOUR


def cut(
    start: dt.datetime, end: dt.datetime, borders: Iterable[dt.datetime] = ()
) -> Iterator[tuple[dt.datetime, dt.datetime]]:
    """Cut [start, end) at every clock hour and at the given borders.

    Shanghai's offset is a whole number of hours, so its days and months begin on UTC hours and need no border of
    their own. Yields nothing when the interval is empty.
    """
    inside = sorted({b for b in borders if start < b < end})
    while start < end:
        hour_end = floor_hour(start) + HOUR
        stop = min([end, hour_end, *[b for b in inside if b > start]])
        yield start, stop
        start = stop


def seconds_between(start: dt.datetime, end: dt.datetime) -> int:
    return int((end - start).total_seconds())
