"""Each due slot once, what was missed is caught up, and nothing that fails stops the rest."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from apscheduler.schedulers.blocking import BlockingScheduler

from compute_portal import clock
from compute_portal.desk import jobs
from compute_portal.desk.models import TimetableEntry, TimetableRun
from compute_portal.policy import Policy
from compute_portal.pools.models import Instruction
from compute_portal.pools.states import InstructionState
from compute_portal.statements.models import Statement
from compute_portal.statements.states import StatementState
from scheduler import timetable
from scheduler.context import Context, PassFailed
from scheduler.leader import Leader, LostLeadership
from scheduler.timetable import Daily, Entry, Every, Timetable, catch_up, entries, perform, run_once
from tests.cast import HOUR
from tests.scheduler.conftest import Town

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)


def shanghai(*when: int) -> dt.datetime:
    return dt.datetime(*when, tzinfo=clock.SHANGHAI).astimezone(dt.UTC)  # type: ignore[arg-type,misc]


def runs(context: Context) -> list[tuple[str, dt.datetime, bool, str | None]]:
    with context.database.read_only() as session:
        rows = session.scalars(sa.select(TimetableRun).order_by(TimetableRun.due_at, TimetableRun.entry))
        return [(row.entry, row.due_at, row.finished_at is not None, row.error) for row in rows]


def entry(run: Callable[[Context, dt.datetime], object], when: Any = None) -> Entry:
    return Entry("test", when or Every(60), run, "says what it does")


def test_slots_are_aligned_so_that_the_hour_is_one() -> None:
    assert Every(5).last_due(shanghai(2026, 11, 18, 10, 0, 3)) == shanghai(2026, 11, 18, 10, 0, 0)
    assert Every(60).last_due(shanghai(2026, 11, 18, 10, 0, 59)) == shanghai(2026, 11, 18, 10, 0)
    trigger = Every(5).trigger()
    assert trigger.get_next_fire_time(None, shanghai(2026, 11, 18, 9, 59, 58)) == shanghai(2026, 11, 18, 10)


@pytest.mark.parametrize(
    ("when", "now", "due"),
    [
        (Daily(0, 5), (2026, 11, 18, 0, 5), (2026, 11, 18, 0, 5)),
        (Daily(0, 5), (2026, 11, 18, 0, 4), (2026, 11, 17, 0, 5)),
        (Daily(2, day=1), (2026, 12, 1, 1, 59), (2026, 11, 1, 2, 0)),
        (Daily(2, day=1), (2026, 12, 1, 2, 0), (2026, 12, 1, 2, 0)),
        (Daily(2, day=1), (2027, 1, 31, 23, 0), (2027, 1, 1, 2, 0)),
    ],
)
def test_the_last_due_slot_is_the_one_apscheduler_would_have_fired(
    when: Daily, now: tuple[int, ...], due: tuple[int, ...]
) -> None:
    instant = shanghai(*now)
    assert when.last_due(instant) == shanghai(*due)
    assert when.trigger().get_next_fire_time(None, shanghai(*due)) == shanghai(*due)
    following = when.trigger().get_next_fire_time(shanghai(*due), instant + SECOND)
    assert following > instant


def test_every_entry_says_what_it_does_and_has_a_name_of_its_own(policy: Policy) -> None:
    table = entries(policy)
    assert len({one.name for one in table}) == len(table)
    assert all(one.says for one in table)
    assert [one.name for one in table if not one.recorded] == ["cycle"]


def test_a_due_slot_runs_once_whatever_restarts(town: Town) -> None:
    ran: list[dt.datetime] = []
    one = entry(lambda _context, now: ran.append(now))
    now = town.cast.now
    assert perform(town.context, one, now + SECOND)
    assert not perform(town.context, one, now + 59 * SECOND)
    assert perform(town.context, one, now + 60 * SECOND)
    assert ran == [now + SECOND, now + 60 * SECOND]
    assert runs(town.context) == [("test", now, True, None), ("test", now + MINUTE, True, None)]


def test_an_error_is_kept_in_the_row_and_the_next_slot_runs(town: Town) -> None:
    def fails(_context: Context, now: dt.datetime) -> None:
        if now == town.cast.now:
            raise ValueError("damaged row")

    one = entry(fails)
    assert not perform(town.context, one, town.cast.now)
    assert perform(town.context, one, town.cast.now + MINUTE)
    assert [row[2:] for row in runs(town.context)] == [(True, "ValueError: damaged row"), (True, None)]


def test_what_failed_in_part_is_named_in_the_row(town: Town) -> None:
    def fails(_context: Context, _now: dt.datetime) -> None:
        raise PassFailed("booking-7-1: no-price")

    perform(town.context, entry(fails), town.cast.now)
    assert runs(town.context)[0][3] == "booking-7-1: no-price"


def test_a_monthly_slot_that_was_cut_off_or_failed_is_caught_up_and_a_done_one_is_not(town: Town) -> None:
    ran: list[str] = []

    def run(_context: Context, _now: dt.datetime) -> None:
        ran.append("run")
        if len(ran) == 1:
            raise KeyboardInterrupt  # the process ended in the middle
        if len(ran) == 2:
            raise ValueError("the store was full")

    table = [entry(run, Daily(2, day=1)), replace(entry(run), name="often")]
    with pytest.raises(KeyboardInterrupt):
        catch_up(town.context, table, town.cast.now)
    assert runs(town.context) == [("test", shanghai(2026, 11, 1, 2), False, None)]
    assert catch_up(town.context, table, town.cast.now) == []
    assert runs(town.context)[0][2:] == (True, "ValueError: the store was full")
    assert catch_up(town.context, table, town.cast.now) == ["test"]
    assert catch_up(town.context, table, town.cast.now) == []
    assert runs(town.context) == [("test", shanghai(2026, 11, 1, 2), True, None)]


def test_a_close_of_the_month_that_was_missed_is_caught_up_at_the_next_start(town: Town) -> None:
    town.flexible(gpus=4, hours=2)
    town.cycle(town.cast.now)
    town.cycle(town.cast.now + 2 * HOUR)
    back = shanghai(2026, 12, 3, 9)  # nobody was there on the first
    assert "close-months" in catch_up(town.context, entries(town.policy), back)
    with town.cast.database.read_only() as session:
        statement = session.scalars(sa.select(Statement)).one()
    assert (statement.month, statement.state) == ("2026-11", StatementState.IN_REVIEW)
    assert catch_up(town.context, entries(town.policy), back + MINUTE) == []


def test_once_does_everything_that_is_due_and_says_whether_it_could(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = town.flexible(gpus=4, hours=2)
    assert run_once(town.context, town.cast.now)
    assert town.attempt(id).granted_at == town.cast.now
    assert {row[0] for row in runs(town.context)} == {one.name for one in entries(town.policy)} - {"cycle"}
    broken = replace(entries(town.policy)[0], run=lambda _context, _now: 1 / 0)
    monkeypatch.setattr(timetable, "entries", lambda _policy: [broken, *entries(town.policy)[1:]])
    assert not run_once(town.context, town.cast.now + MINUTE)


# -- with APScheduler -------------------------------------------------------------------------------------------------


def start(context: Context, table: list[Entry], until: Callable[[], bool]) -> None:
    """Run the timetable here, in the main thread, and stop it when the condition holds."""
    stopping = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + 30
        while not until() and time.monotonic() < deadline:
            time.sleep(0.05)
        stopping.set()

    threading.Thread(target=watch).start()
    Timetable(context, table, stopping).run()


def test_an_entry_that_fails_does_not_stop_the_others_and_each_slot_runs_once(town: Town) -> None:
    good: list[dt.datetime] = []

    def fails(_context: Context, _now: dt.datetime) -> None:
        raise ValueError("always")

    table = [
        Entry("bad", Every(1), fails, "fails"),
        Entry("good", Every(1), lambda _context, now: good.append(now), "counts", timetable.CYCLE),
    ]
    start(town.context, table, lambda: len(good) >= 3)
    assert len(good) >= 3
    assert len(set(good)) == len(good)
    errors = {row[0]: row[3] for row in runs(town.context)}
    assert errors == {"bad": "ValueError: always", "good": None}


def test_a_long_pass_over_the_books_keeps_no_cycle_waiting_and_stopping_waits_for_it(town: Town) -> None:
    cycles: list[dt.datetime] = []
    finished: list[str] = []

    def long(_context: Context, _now: dt.datetime) -> None:
        time.sleep(3)
        finished.append("long")

    table = [
        Entry("long", Every(1), long, "takes long"),
        Entry("cycle", Every(1), lambda _context, now: cycles.append(now), "is short", timetable.CYCLE, recorded=False),
    ]
    start(town.context, table, lambda: len(cycles) >= 2)
    assert finished
    assert all(row[2] for row in runs(town.context))


def test_a_scheduler_that_lost_leadership_stops_itself(town: Town) -> None:
    table = [Entry("often", Every(1), lambda _context, _now: None, "nothing")]
    town.context.leader.release()
    other = Leader(town.cast.database)
    assert other.take(clock.now())
    try:
        with pytest.raises(LostLeadership):
            Timetable(town.context, table).run()
    finally:
        other.release()


def test_an_error_in_the_loop_itself_ends_the_process(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """APScheduler's background variant would lose its thread and go on looking alive."""

    def breaks(_self: BlockingScheduler) -> None:
        raise RuntimeError("job store broke")

    table = Timetable(town.context, [Entry("often", Every(1), lambda _context, _now: None, "nothing")])
    monkeypatch.setattr(BlockingScheduler, "_process_jobs", breaks)
    with pytest.raises(RuntimeError, match="job store broke"):
        table.run()


def test_a_stop_that_comes_before_the_loop_has_begun_is_not_lost(town: Town) -> None:
    stopping = threading.Event()
    stopping.set()
    Timetable(town.context, entries(town.policy), stopping).run()
    assert runs(town.context) == []


def test_what_a_person_asks_for_is_run_again_and_answered_in_its_row_also_after_a_crash(town: Town) -> None:
    ran: list[dt.datetime] = []
    broken = [True]

    def work(_context: Context, now: dt.datetime) -> None:
        ran.append(now)
        if broken[0]:
            raise ValueError("no connection")

    shown = [entry(work)]
    timetable.publish(town.context, shown)
    now = town.cast.now
    assert perform(town.context, shown[0], now) is False
    with town.cast.database.read_only() as session:
        job = session.scalars(sa.select(TimetableEntry).where(TimetableEntry.name == "test")).one()

    def asks() -> int:
        return town.cast.database.transaction(lambda s: jobs.retry(s, job.id, by=town.cast.operator, now=now))

    def answered(id: int) -> tuple[InstructionState, object]:
        with town.cast.database.read_only() as session:
            row = session.get_one(Instruction, id)
            return row.state, None if row.answer is None else row.answer["id"]

    first = asks()
    town.cycle(now)  # the cycle leaves it alone
    assert answered(first) == (InstructionState.WAITING, None)
    assert timetable.retry_asked(town.context, shown, now) == ["test"]
    assert answered(first) == (InstructionState.FAILED, "job-failed-again")
    assert runs(town.context)[-1][3] == "ValueError: no connection"
    broken[0] = False
    second = asks()
    town.context.transact(lambda s: timetable._claim(s, second))  # claimed, and the process died
    assert timetable.retry_asked(town.context, shown, now + SECOND) == ["test"]
    assert answered(second) == (InstructionState.DONE, "job-ran-again")
    assert runs(town.context)[-1][2:] == (True, None)
    assert timetable.retry_asked(town.context, shown, now) == []
    assert len(ran) == 3
    third = asks()
    timetable.publish(town.context, [])
    assert timetable.retry_asked(town.context, [], now) == ["test"]
    assert answered(third) == (InstructionState.FAILED, "job-is-gone")
    with town.cast.database.read_only() as session:
        assert session.get_one(TimetableEntry, job.id).gone


def test_the_published_timetable_is_the_one_that_runs(town: Town, policy: Policy) -> None:
    for _ in range(2):
        timetable.publish(town.context, entries(policy))
    with town.cast.database.read_only() as session:
        rows = {row.name: row for row in session.scalars(sa.select(TimetableEntry))}
    assert set(rows) == {one.name for one in entries(policy)}
    for one in entries(policy):
        assert jobs.slots(rows[one.name], town.cast.now)[0] == one.when.last_due(town.cast.now), one.name
