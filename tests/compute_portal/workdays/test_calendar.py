"""Working days of 2026 as the State Council's General Office gave them out, on the table that the migrations seed."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.db import Database
from compute_portal.sentences import Refusal, Sentence
from compute_portal.workdays import service
from compute_portal.workdays.calendar import Calendar, YearRule
from compute_portal.workdays.models import DayKind
from compute_portal.workdays.queries import load_calendar
from tests.cast import NOW, Cast

NINE_TO_SIX = {year: YearRule(9 * 60, 18 * 60) for year in (2025, 2026)}
PLAIN = Calendar(NINE_TO_SIX, {})


def at(*when: int) -> dt.datetime:
    """An instant given in Beijing time."""
    return dt.datetime(*when, tzinfo=clock.SHANGHAI).astimezone(dt.UTC)  # type: ignore[arg-type,misc]


@pytest.fixture
def calendar(session: Session) -> Calendar:
    return load_calendar(session)


def test_the_seeded_years_have_as_many_working_days_as_the_notices_say(calendar: Calendar) -> None:
    # Days of the year − Saturdays and Sundays − weekdays off + weekend days worked in exchange.
    assert calendar.working_days_in(2025) == 365 - 104 - 18 + 5
    assert calendar.working_days_in(2026) == 365 - 104 - 19 + 6
    assert sum(1 for worked in calendar.days.values() if worked) == 5 + 6


@pytest.mark.parametrize(
    ("asked", "days", "due"),
    [
        ((2026, 11, 18, 10, 0), 3, (2026, 11, 23, 18, 0)),  # a plain weekend between
        ((2026, 2, 12, 10, 0), 2, (2026, 2, 14, 18, 0)),  # Saturday 14 February is worked
        ((2026, 2, 14, 17, 59), 1, (2026, 2, 24, 18, 0)),  # over the whole Spring Festival
        ((2026, 2, 15, 10, 0), 5, (2026, 2, 28, 18, 0)),  # filed on a holiday, ends on a worked Saturday
        ((2026, 1, 1, 9, 0), 1, (2026, 1, 4, 18, 0)),  # Sunday 4 January is worked
        ((2026, 9, 19, 12, 0), 1, (2026, 9, 20, 18, 0)),  # so is Sunday 20 September
        ((2026, 9, 30, 12, 0), 2, (2026, 10, 9, 18, 0)),  # National Day, seven days off
        ((2026, 10, 9, 12, 0), 1, (2026, 10, 10, 18, 0)),  # and Saturday 10 October worked
        ((2025, 12, 31, 16, 0), 1, (2026, 1, 4, 18, 0)),  # over the year's end
        ((2026, 12, 31, 16, 0), 2, (2027, 1, 5, 18, 0)),  # and into a provisional year
    ],
)
def test_a_period_ends_at_closing_time_of_its_last_working_day(
    calendar: Calendar, asked: tuple[int, ...], days: int, due: tuple[int, ...]
) -> None:
    assert calendar.add(at(*asked), days) == at(*due)
    assert service.add(calendar, at(*asked), days) == at(*due)


def test_a_deadline_in_the_last_working_minute_is_met_until_the_last_second(calendar: Calendar) -> None:
    due = calendar.add(at(2026, 11, 18, 10, 0), 3)
    last_minute = at(2026, 11, 23, 17, 59)
    assert calendar.is_open(last_minute) and not calendar.is_open(due)
    assert calendar.working_seconds(last_minute, due) == 60
    assert calendar.working_seconds(due, at(2026, 11, 24, 9, 0)) == 0
    assert calendar.add_seconds(last_minute, 60) == due
    assert calendar.add_seconds(last_minute, 61) == at(2026, 11, 24, 9, 0) + dt.timedelta(seconds=1)


def test_office_time_skips_nights_weekends_and_holidays(calendar: Calendar) -> None:
    assert calendar.working_seconds(at(2026, 2, 13, 16, 0), at(2026, 2, 24, 11, 0)) == (2 + 9 + 2) * 3600
    assert calendar.working_seconds(at(2026, 12, 31, 17, 0), at(2027, 1, 4, 10, 0)) == 2 * 3600
    assert calendar.working_seconds(at(2026, 11, 18, 12, 0), at(2026, 11, 18, 11, 0)) == 0


@pytest.mark.parametrize(
    ("asked", "days", "after"),
    [
        ((2026, 11, 19, 10, 30), 2, (2026, 11, 23, 10, 30)),  # Thursday → Monday
        ((2026, 11, 21, 15, 0), 2, (2026, 11, 25, 0, 0)),  # Saturday counts from Monday
        ((2026, 2, 13, 10, 30), 2, (2026, 2, 24, 10, 30)),  # Friday → worked Saturday → after the holiday
    ],
)
def test_the_same_time_of_day_some_working_days_later(
    calendar: Calendar, asked: tuple[int, ...], days: int, after: tuple[int, ...]
) -> None:
    assert calendar.same_time(at(*asked), days) == at(*after)


def test_dates_that_are_not_certain_say_so(calendar: Calendar) -> None:
    assert calendar.warning(at(2026, 12, 31, 18, 0)) is None
    assert calendar.warning(at(2027, 3, 1, 18, 0)) == Sentence("workdays-provisional", year=2027)
    assert calendar.warning(at(2028, 1, 3, 18, 0)) == Sentence("workdays-beyond-table", last=2027)
    assert calendar.is_working(dt.date(2028, 1, 3)) and not calendar.is_working(dt.date(2028, 1, 1))


INSTANTS = st.integers(0, 2 * 366 * 86_400).map(lambda s: at(2025, 1, 1) + dt.timedelta(seconds=s))


@given(INSTANTS, st.integers(0, 40 * 9 * 3600))
def test_adding_office_time_and_measuring_it_agree(start: dt.datetime, seconds: int) -> None:
    end = PLAIN.add_seconds(start, seconds)
    assert PLAIN.working_seconds(start, end) == seconds and end >= start


@given(INSTANTS, INSTANTS, INSTANTS)
def test_office_time_adds_up(a: dt.datetime, b: dt.datetime, c: dt.datetime) -> None:
    a, b, c = sorted((a, b, c))
    assert PLAIN.working_seconds(a, b) + PLAIN.working_seconds(b, c) == PLAIN.working_seconds(a, c)


def test_an_administrator_moves_a_day_and_the_newest_word_counts(cast: Cast, database: Database) -> None:
    admin = cast.actor("an")
    saturday = dt.date(2026, 12, 5)

    def set_to(kind: DayKind) -> Calendar:
        return database.transaction(
            lambda s: (
                service.set_day(s, saturday, kind, name="调休", name_en=None, by=admin, now=NOW),
                load_calendar(s),
            )[1]
        )

    assert set_to(DayKind.WORKED).add(at(2026, 12, 4, 10, 0), 1) == at(2026, 12, 5, 18, 0)
    assert set_to(DayKind.ORDINARY).add(at(2026, 12, 4, 10, 0), 1) == at(2026, 12, 7, 18, 0)
    with pytest.raises(Refusal) as refused:
        database.transaction(
            lambda s: (
                service.set_day(s, dt.date(2031, 1, 1), DayKind.OFF, name="元旦", name_en=None, by=admin, now=NOW).id
            )
        )
    assert refused.value.field == "day"
    with pytest.raises(Refusal) as refused:
        database.transaction(
            lambda s: service.set_day(s, saturday, DayKind.OFF, name="调休", name_en=None, by=cast.operator, now=NOW).id
        )
    assert refused.value.sentence.id == "not-allowed"


def test_a_year_gets_other_office_hours_and_one_is_added(cast: Cast, database: Database) -> None:
    def work(session: Session) -> Calendar:
        for year, opens in ((2026, 8 * 60 + 30), (2028, 9 * 60)):
            service.set_year(
                session, year, opens_minute=opens, closes_minute=17 * 60 + 30, provisional=False, source="通知",
                by=cast.actor("an"), now=NOW,
            )  # fmt: skip
        return load_calendar(session)

    calendar = database.transaction(work)
    assert calendar.add(at(2026, 11, 18, 10, 0), 1) == at(2026, 11, 19, 17, 30)
    assert calendar.warning(at(2028, 2, 1, 10, 0)) is None
    with pytest.raises(Refusal) as refused:
        database.transaction(
            lambda s: service.set_year(
                s, 2026, opens_minute=600, closes_minute=600, provisional=False, source="x", by=cast.actor("an"),
                now=NOW,
            ).id
        )  # fmt: skip
    assert refused.value.field == "closes"
