from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .calendar import Calendar, YearRule
from .models import DayKind, SpecialDay, WorkYear


def load_calendar(session: Session) -> Calendar:
    """The table as a value: one query, some dozen rows a year."""
    rules, special = orm.aliased(WorkYear), orm.aliased(SpecialDay)
    # Every row of a year beside every one of its days: few enough, and the newest of each wins below.
    rows = session.execute(
        sa.select(
            rules.id, rules.year, rules.opens_minute, rules.closes_minute, rules.provisional,
            special.id, special.day, special.kind,
        ).outerjoin(special, sa.extract("year", special.day) == rules.year)
    ).all()  # fmt: skip
    years = {
        year: YearRule(opens, closes, provisional)
        for _id, year, opens, closes, provisional, *_ in sorted(rows, key=lambda row: row[0])
    }
    days: dict[dt.date, bool] = {}
    for *_, day, kind in sorted((row for row in rows if row[5] is not None), key=lambda row: row[5]):
        if kind is DayKind.ORDINARY:
            days.pop(day, None)
        else:
            days[day] = kind is DayKind.WORKED
    return Calendar(years, days)


def list_days(session: Session, year: int) -> list[SpecialDay]:
    """The special days of a year as they count now, by date; with those that were taken back."""
    newest: dict[dt.date, SpecialDay] = {}
    for row in session.scalars(
        sa.select(SpecialDay)
        .where(SpecialDay.day >= dt.date(year, 1, 1), SpecialDay.day <= dt.date(year, 12, 31))
        .order_by(SpecialDay.id)
    ):
        newest[row.day] = row
    return sorted(newest.values(), key=lambda row: row.day)


def list_years(session: Session) -> dict[int, WorkYear]:
    """The newest row of each year, the earliest year first."""
    rows = session.scalars(sa.select(WorkYear).order_by(WorkYear.year, WorkYear.id))
    return {row.year: row for row in rows}
