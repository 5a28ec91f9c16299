"""Thresholds and last days are told once each, whatever restarts, and do what the bureau's rules say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.access import Actor
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import AllocationState
from compute_portal.bookings.states import BookingState
from compute_portal.budgets import service as budgets
from compute_portal.budgets.models import Alert
from compute_portal.budgets.queries import budgets_of
from compute_portal.budgets.service import NewRules
from compute_portal.budgets.states import Action
from compute_portal.ledger import service as ledger
from compute_portal.lifecycle import HistoryEntry
from compute_portal.notices.models import Notice
from compute_portal.pools.models import Limit
from compute_portal.sentences import Refusal
from scheduler import alerts
from tests.cast import HOUR, NOW, Cast
from tests.scheduler.conftest import Died, Town

DAY = dt.timedelta(days=1)
USUAL = ((50, Action.NOTIFY), (75, Action.NOTIFY), (100, Action.NOTIFY), (110, Action.SLOW), (125, Action.BLOCK))


def rules(cast: Cast, *thresholds: tuple[int, Action], days: tuple[int, ...] = (30, 7), overdraft: int = 0) -> None:
    by: Actor = cast.actor("an")
    asked = NewRules(tuple(thresholds), days, overdraft)
    cast.database.transaction(lambda s: budgets.set_rules(s, asked, why="测试", by=by, now=NOW).id)


def small(town: Town, hours: int = 100) -> int:
    """An allocation of Yusheng that is quickly used up; 300 days, so that no last day is near."""
    return town.cast.award(town.cast.yusheng, "lin", hours, days=300)


def use(town: Town, allocation_id: int, hours: int, at: dt.datetime) -> dt.datetime:
    """Book, run and settle so many GPU-hours on ten cards; when it is over."""
    id = town.flexible(10, hours / 10, now=at, allocation_id=allocation_id)
    town.cycle(at)
    over = at + dt.timedelta(hours=hours / 10)
    town.cycle(over)
    town.meter(over)
    assert town.state(id) is BookingState.SETTLED
    return over


def told(cast: Cast) -> list[tuple[str, int]]:
    """Of every notice about a threshold: its sentence and the number in it, in order of writing."""
    with cast.database.read_only() as session:
        notices = session.scalars(
            sa.select(Notice).where(Notice.user_id == cast.users["lin"], Notice.key.like("allocation:%:used:%"))
        )
        used = [("used", notice.about["percent"]) for notice in notices]
        days = session.scalars(
            sa.select(Notice).where(Notice.user_id == cast.users["lin"], Notice.key.like("allocation:%:days:%"))
        )
        return used + [("days", notice.about["n"]) for notice in days]


def marks(town: Town, allocation_id: int) -> tuple[bool, bool]:
    with town.cast.database.read_only() as session:
        found = budgets_of(session, allocation_id)
        return found.slow, found.blocked


def test_each_threshold_is_told_once_and_of_several_at_once_only_the_highest(town: Town) -> None:
    rules(town.cast, *USUAL)
    id = small(town)
    at = use(town, id, 40, NOW)
    assert alerts.run(town.context, at) == 0
    at = use(town, id, 40, at)  # 50 and 75 at once
    assert alerts.run(town.context, at) == 1
    assert told(town.cast) == [("used", 75)]
    for later in range(3):
        assert alerts.run(town.context, at + later * HOUR) == 0
    at = use(town, id, 20, at)
    assert alerts.run(town.context, at) == 1
    assert told(town.cast) == [("used", 75), ("used", 100)]
    with town.cast.database.read_only() as session:
        numbers = session.scalars(sa.select(Alert.number).where(Alert.allocation_id == id).order_by(Alert.number))
        assert list(numbers) == [50, 75, 100]


def test_an_alert_that_dies_before_it_is_committed_is_told_after_the_restart_and_once(
    town: Town, break_after: Callable[..., None]
) -> None:
    rules(town.cast, *USUAL)
    at = use(town, small(town), 60, NOW)
    break_after(alerts.notify, "send_to_managers")
    with pytest.raises(Died):
        alerts.run(town.context, at)
    assert told(town.cast) == []
    assert alerts.run(town.context, at) == 1
    assert alerts.run(town.context, at) == 0
    assert told(town.cast) == [("used", 50)]


def test_the_days_before_the_end_are_told_once_each_and_not_when_the_award_itself_was_that_short(town: Town) -> None:
    rules(town.cast, days=(30, 7, 1))
    short = town.cast.award(town.cast.yusheng, "lin", 10, days=5)  # awarded with five days: its letter said so
    id = town.cast.award(town.cast.yusheng, "lin", 10, days=40)
    for day in range(42):
        alerts.run(town.context, NOW + day * DAY)
        if day == 20:  # a scheduler that was away for a week tells what holds now, not what it missed
            alerts.run(town.context, NOW + day * DAY)
    about = sa.select(Notice.about).where(Notice.user_id == town.cast.users["lin"]).order_by(Notice.id)
    with town.cast.database.read_only() as session:
        days = [told["n"] for told in session.scalars(about.where(Notice.key.like(f"allocation:{id}:days:%")))]
        of_short = session.scalars(about.where(Notice.key.like(f"allocation:{short}:days:%"))).all()
    assert days == [30, 7, 1]
    assert [told["n"] for told in of_short] == [1]


def test_a_stretch_that_was_missed_is_not_told_late(town: Town) -> None:
    rules(town.cast, days=(30, 7, 1))
    town.cast.award(town.cast.yusheng, "lin", 10, days=40)
    alerts.run(town.context, NOW + 35 * DAY)  # five days left: 30 is over; the other one has 25
    assert sorted(told(town.cast)) == [("days", 5), ("days", 25)]


def test_beyond_the_award_its_bookings_come_last_then_it_takes_none_and_a_supplement_frees_it(town: Town) -> None:
    rules(town.cast, *USUAL, overdraft=25)
    id = small(town)
    at = use(town, id, 112, NOW)
    alerts.run(town.context, at)
    assert marks(town, id) == (True, False)
    # one card of the pool is enough for one of the two: the other firm's goes first though it asked later
    town.cast.limit(town.cast.luyu, 32)
    blocker = town.fixed(gpus=16, start_in=1, hours=1)
    first = town.flexible(32, 0.25, now=at, allocation_id=id)
    second = town.flexible(32, 0.25, now=at + dt.timedelta(minutes=1), allocation_id=town.cast.allocation)
    town.cycle(at + dt.timedelta(minutes=2))
    assert (town.state(first), town.state(second)) == (BookingState.QUEUED, BookingState.RUNNING)
    assert blocker
    over = at + HOUR
    town.cycle(over)
    assert town.state(first) is BookingState.RUNNING  # it gives way, it is not stopped
    town.cycle(over + HOUR)
    town.meter(over + HOUR)
    at = use(town, id, 5, over + HOUR)
    alerts.run(town.context, at)
    assert marks(town, id) == (True, True)
    with pytest.raises(Refusal) as refused:
        town.flexible(1, 0.1, now=at, allocation_id=id)
    assert refused.value.sentence.id == "allocation-blocked"
    with town.cast.database.read_only() as session:
        programme_id = session.get_one(Allocation, id).programme_id
    before = town.balance(id)
    assert (before.used, before.overdraft) == (units.gpu_seconds(125), units.gpu_seconds(25))

    def supplement(session: Session) -> None:
        allocation = session.get_one(Allocation, id)
        more, by = units.gpu_seconds(100), town.cast.operator
        allocation.awarded_gpu_seconds = (allocation.awarded_gpu_seconds or 0) + more
        session.flush()
        ledger.award(session, programme_id, id, more, at=at, by=by, reference=f"change:{id}:test")

    town.cast.database.transaction(supplement)
    after = town.balance(id)
    assert (after.overdraft, after.available) == (0, units.gpu_seconds(75))  # the next award repays first
    alerts.run(town.context, at)
    assert marks(town, id) == (False, False)
    assert town.flexible(1, 0.1, now=at, allocation_id=id)


def test_a_threshold_that_ends_cancels_what_waits_and_lets_run_what_runs(town: Town) -> None:
    rules(town.cast, (50, Action.END))
    id = small(town)
    at = use(town, id, 50, NOW)
    running = town.flexible(8, 2, now=at, allocation_id=id)
    town.cycle(at)
    waiting = town.flexible(8, 2, now=at, allocation_id=id, not_before_at=at + 5 * HOUR)
    alerts.run(town.context, at)
    assert town.state(running) is BookingState.RUNNING
    assert town.state(waiting) is BookingState.CANCELLED
    with town.cast.database.read_only() as session:
        assert session.get_one(Allocation, id).state is AllocationState.CLOSED
        why = session.scalars(
            sa.select(HistoryEntry.why).where(HistoryEntry.kind == "allocation", HistoryEntry.verb == "end")
        ).one()
    assert why == {"id": "ended-by-threshold", "percent": 50}
    town.cycle(at + 2 * HOUR)
    town.meter(at + 2 * HOUR)
    assert town.charged(running) == units.gpu_seconds(16)
    assert alerts.run(town.context, at + 3 * HOUR) == 0


def test_lowered_limits_never_stop_what_runs_and_the_next_booking_waits_or_is_refused(town: Town) -> None:
    town.cast.limit(town.cast.yusheng, 16)
    running = town.flexible(16, 4)
    town.cycle(NOW)

    def lower(session: Session) -> None:
        session.execute(sa.update(Limit).values(gpus=8))
        budgets.set_budgets(
            session, town.cast.allocation, of={town.cast.users["chen"]: 1}, reserve=0,
            members=[town.cast.users["chen"]], by=town.cast.manager, now=NOW,
        )  # fmt: skip

    waits = town.flexible(8, 1)
    town.cast.database.transaction(lower)
    for hour in range(1, 4):
        town.cycle(NOW + hour * HOUR)
        assert town.state(running) is BookingState.RUNNING
        assert town.state(waits) is BookingState.QUEUED
    with pytest.raises(Refusal) as refused:
        town.flexible(1, 1)
    assert refused.value.sentence.id == "over-sub-budget"
    town.cycle(NOW + 4 * HOUR)
    assert town.state(running) is BookingState.FINISHED
    assert town.state(waits) is BookingState.RUNNING  # booked before the limit was lowered


def test_a_pass_over_many_allocations_in_which_nothing_happens_asks_a_constant_number_of_times(town: Town) -> None:
    rules(town.cast, *USUAL)
    use(town, small(town), 60, NOW)
    alerts.run(town.context, NOW + 9 * HOUR)
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    sa.event.listen(town.cast.database.engine, "after_cursor_execute", note)
    alerts.run(town.context, NOW + 9 * HOUR)
    few = len(statements)
    sa.event.remove(town.cast.database.engine, "after_cursor_execute", note)
    for _ in range(5):
        small(town)
    statements.clear()
    sa.event.listen(town.cast.database.engine, "after_cursor_execute", note)
    alerts.run(town.context, NOW + 9 * HOUR)
    sa.event.remove(town.cast.database.engine, "after_cursor_execute", note)
    assert len(statements) == few
