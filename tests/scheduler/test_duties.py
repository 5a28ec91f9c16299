"""What the calendar does: lapse, close allocations, close months, remove what is old."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import AllocationState
from compute_portal.bookings.states import BookingState
from compute_portal.desk.models import TimetableRun
from compute_portal.lifecycle import HistoryEntry
from compute_portal.notices.models import Notice
from compute_portal.signin.models import FormKey, SignInTry, UserSession
from compute_portal.statements import billing
from compute_portal.statements.models import Statement
from compute_portal.statements.states import StatementState
from compute_portal.usage.models import Charge
from scheduler import duties
from scheduler.context import PassFailed
from tests.cast import HOUR
from tests.scheduler.conftest import Town

DAY = dt.timedelta(days=1)


def shanghai(*when: int) -> dt.datetime:
    return dt.datetime(*when, tzinfo=clock.SHANGHAI).astimezone(dt.UTC)  # type: ignore[arg-type,misc]


def test_a_fixed_booking_nobody_decided_on_lapses_before_its_start_and_gives_everything_back(town: Town) -> None:
    id = town.fixed(gpus=16, start_in=20, hours=150)  # above the threshold of approval
    assert town.state(id) is BookingState.SUBMITTED
    start = town.cast.now + 20 * HOUR
    assert duties.lapse_undecided(town.context, start - 2 * HOUR - dt.timedelta(seconds=1)) == 0
    assert duties.lapse_undecided(town.context, start - 2 * HOUR) == 1
    assert duties.lapse_undecided(town.context, start) == 0
    assert town.state(id) is BookingState.LAPSED
    assert town.balance().held == 0
    assert all(row.released_at for row in town.occupancies(id))


def test_a_flexible_booking_nobody_decided_on_lapses_after_two_working_days(town: Town) -> None:
    id = town.flexible(gpus=32, hours=100)
    assert town.state(id) is BookingState.SUBMITTED
    assert duties.lapse_undecided(town.context, town.cast.now + 2 * DAY - HOUR) == 0
    assert duties.lapse_undecided(town.context, town.cast.now + 2 * DAY) == 1
    assert town.state(id) is BookingState.LAPSED


def allocation(town: Town) -> Allocation:
    with town.cast.database.read_only() as session:
        return session.get_one(Allocation, town.cast.allocation)


def test_on_the_end_date_what_waits_is_cancelled_with_the_reason_and_what_is_left_expires(town: Town) -> None:
    end = allocation(town).ends_at
    began = end - 3 * HOUR
    running = town.flexible(gpus=32, hours=3, now=began)
    town.cycle(began)
    waiting = town.flexible(gpus=4, hours=2, now=began)
    town.cycle(began)
    assert duties.close_allocations(town.context, end - HOUR) == 0
    # Five minutes later, and the last run was not even metered.
    assert duties.close_allocations(town.context, end + 5 * HOUR / 60) == 2  # both enterprises' end that day
    assert allocation(town).state is AllocationState.CLOSED
    assert town.state(waiting) is BookingState.CANCELLED
    with town.cast.database.read_only() as session:
        why = session.scalar(
            sa.select(HistoryEntry.why).where(HistoryEntry.subject_id == waiting, HistoryEntry.verb == "cancel")
        )
    assert why == {"id": "allocation-ended", "last": {"on": allocation(town).ends_on.isoformat()}}
    town.cycle(end + HOUR)
    town.meter(end + HOUR)
    assert (town.state(running), town.charged(running)) == (BookingState.SETTLED, 32 * 3 * 3600)
    balance = town.balance()
    assert (balance.available, balance.held) == (0, 0)
    assert balance.expired + balance.used == 20_000 * 3600
    assert duties.close_allocations(town.context, end + HOUR) == 0


def test_the_day_of_the_end_is_told_once_also_where_nothing_expires(town: Town) -> None:
    id, end = town.cast.award(town.cast.yusheng, "lin", 8), allocation(town).ends_at
    town.flexible(gpus=8, hours=1, now=end - 2 * HOUR, allocation_id=id)  # all of it
    town.cycle(end - HOUR)
    for at in (end, end + HOUR):
        duties.close_allocations(town.context, at)
    with town.cast.database.read_only() as session:
        told = session.scalars(sa.select(Notice.about).where(Notice.user_id == town.cast.users["lin"])).all()
    ended = [about for about in told if about["id"] in ("told-ended", "told-expired")]
    assert sorted(about["id"] for about in ended) == ["told-ended", "told-expired"]
    assert {"id": "told-ended", "number": id} in ended


def test_an_allocation_that_cannot_be_closed_is_named_and_the_others_are(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = duties.allocations.close

    def refuses_one(session: Any, id: int, **given: Any) -> None:
        if id == town.cast.allocation:
            raise RuntimeError("damaged")
        real(session, id, **given)

    monkeypatch.setattr(duties.allocations, "close", refuses_one)
    end = allocation(town).ends_at
    with pytest.raises(PassFailed, match=rf"\[{town.cast.allocation}\]"):
        duties.close_allocations(town.context, end)
    with town.cast.database.read_only() as session:
        assert session.get_one(Allocation, town.cast.other_allocation).state is AllocationState.CLOSED


def used_in_november(town: Town) -> int:
    id = town.flexible(gpus=4, hours=2)
    town.cycle(town.cast.now)
    town.cycle(town.cast.now + 2 * HOUR)
    return id


def statements_of(town: Town) -> dict[str, StatementState]:
    with town.cast.database.read_only() as session:
        return {statement.month: statement.state for statement in session.scalars(sa.select(Statement))}


def test_the_month_before_is_metered_and_closed_and_closing_twice_changes_nothing(town: Town) -> None:
    used_in_november(town)
    then = shanghai(2026, 12, 1, 2)
    assert duties.close_months(town.context, then) == 1
    assert statements_of(town) == {"2026-11": StatementState.IN_REVIEW}
    assert duties.close_months(town.context, then + HOUR) == 0


def test_a_run_over_midnight_is_cut_so_that_the_month_can_be_closed(town: Town) -> None:
    start = shanghai(2026, 11, 30, 22)
    town.flexible(gpus=4, hours=8, now=start)
    town.cycle(start)
    assert duties.close_months(town.context, shanghai(2026, 12, 1, 2)) == 1
    assert statements_of(town) == {"2026-11": StatementState.IN_REVIEW, "2026-12": StatementState.DRAFT}


def test_months_that_were_missed_for_long_are_all_closed(town: Town) -> None:
    used_in_november(town)
    december = shanghai(2026, 12, 5, 10)
    town.flexible(gpus=4, hours=1, now=december)
    town.cycle(december)
    town.cycle(december + HOUR)
    assert duties.close_months(town.context, shanghai(2027, 2, 3, 9)) == 2
    assert set(statements_of(town).values()) == {StatementState.IN_REVIEW}


def test_usage_that_comes_after_the_close_is_billed_as_an_adjustment_in_the_next_month(town: Town) -> None:
    used_in_november(town)
    late = shanghai(2026, 11, 30, 23)
    id = town.flexible(gpus=1, hours=1, now=late)
    town.cycle(late)
    town.cycle(late + HOUR)
    town.cast.database.transaction(
        lambda s: s.execute(sa.text("UPDATE attempts SET granted_at = NULL WHERE booking_id = :id"), {"id": id})
    )
    duties.close_months(town.context, shanghai(2026, 12, 1, 2))
    town.cast.database.transaction(
        lambda s: s.execute(sa.text("UPDATE attempts SET granted_at = placed_at WHERE booking_id = :id"), {"id": id})
    )
    town.meter(shanghai(2026, 12, 1, 3))
    with town.cast.database.read_only() as session:
        billed = session.execute(sa.select(Charge.billed_in, Charge.adjustment).where(Charge.booking_id == id)).all()
    assert [tuple(row) for row in billed] == [("2026-12", True)]
    assert statements_of(town)["2026-12"] is StatementState.DRAFT


def test_a_month_that_cannot_be_closed_is_named_and_stays_open(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    used_in_november(town)

    def refuses(*_args: Any, **_given: Any) -> None:
        raise RuntimeError("damaged")

    monkeypatch.setattr(billing, "price_months", refuses)
    with pytest.raises(PassFailed, match="2026-11 of enterprise"):
        duties.close_months(town.context, shanghai(2026, 12, 1, 2))
    assert statements_of(town) == {"2026-11": StatementState.DRAFT}
    monkeypatch.undo()
    assert duties.close_months(town.context, shanghai(2026, 12, 1, 3)) == 1


def test_only_what_is_old_is_tidied_up(town: Town) -> None:
    now, user = town.cast.now, town.cast.users["lin"]

    def rows(session: Any) -> None:
        for age in (HOUR, 400 * DAY):
            at = now - age
            session.add(FormKey(key=str(age), user_id=user, result="/", at=at))
            session.add(SignInTry(who="x", at=at))
            session.add(
                UserSession(token_hash=str(age), user_id=user, created_at=at, seen_at=at, expires_at=at + 12 * HOUR)
            )
            session.add(TimetableRun(entry="metering", due_at=at, started_at=at))

    town.cast.database.transaction(rows)
    duties.keep_retention(town.context, now)
    with town.cast.database.read_only() as session:
        for model in (FormKey, SignInTry, UserSession, TimetableRun):
            assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 1
