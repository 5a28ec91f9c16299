"""Set what a day is, and a year's office hours. The calendar itself is `calendar.Calendar`."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..sentences import Refusal, Sentence
from .calendar import Calendar
from .models import DayKind, SpecialDay, WorkYear
from .queries import load_calendar

FIRST_YEAR, LAST_YEAR = 2025, 2100


def add(calendar: Session | Calendar, instant: dt.datetime, days: int) -> dt.datetime:
    """When a period of so many working days that begins at `instant` ends."""
    known = calendar if isinstance(calendar, Calendar) else load_calendar(calendar)
    return known.add(instant, days)


def set_day(
    session: Session, day: dt.date, kind: DayKind, *, name: str, name_en: str | None, by: Actor, now: dt.datetime
) -> SpecialDay:
    """From now on the day is off, worked, or again what its weekday says. Clocks that are set already stay.

    Raises Refusal at `day` when its year is not in the table.
    """
    require(by, Permission.WORKDAY_SET)
    if session.scalar(sa.select(WorkYear.id).where(WorkYear.year == day.year).limit(1)) is None:
        raise Refusal(Sentence("workdays-no-such-year", year=day.year), "day")
    row = SpecialDay(day=day, kind=kind, name=name, name_en=name_en or None, set_at=now, set_by=by.user_id)
    session.add(row)
    session.flush()
    return row


def set_year(
    session: Session,
    year: int,
    *,
    opens_minute: int,
    closes_minute: int,
    provisional: bool,
    source: str,
    by: Actor,
    now: dt.datetime,
) -> WorkYear:
    """Add a year to the table, or set its office hours and whether its days are certain.

    Raises Refusal at `year` or `closes`.
    """
    require(by, Permission.WORKDAY_SET)
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise Refusal(Sentence("workdays-year-range", first=FIRST_YEAR, last=LAST_YEAR), "year")
    if not 0 <= opens_minute < closes_minute <= 24 * 60:
        raise Refusal(Sentence("workdays-closes-first"), "closes")
    row = WorkYear(
        year=year,
        opens_minute=opens_minute,
        closes_minute=closes_minute,
        provisional=provisional,
        source=source,
        set_at=now,
        set_by=by.user_id,
    )
    session.add(row)
    session.flush()
    return row
