"""What runs when, and the only file that knows APScheduler.

APScheduler triggers, and nothing else: its jobs live in memory, come from this file, and are late rather than dropped.
What it does not do by itself is done here: a due slot of an entry has one row in `timetable_runs`, so that it runs once
whatever restarts; what was missed while no scheduler ran, or failed, is caught up; an error in an entry is written into
its row and stops nothing else.

Weekdays, should an entry need one, are written 'mon' to 'sun': numbers do not mean what cron means by them.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import sqlalchemy as sa
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.base import STATE_RUNNING
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.desk.models import TimetableEntry, TimetableRun
from compute_portal.language import N_
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Instruction
from compute_portal.pools.states import InstructionState, InstructionVerb
from compute_portal.sentences import Sentence
from scheduler import (
    alerts,
    changes,
    claiming,
    cycle,
    figures,
    forecasting,
    mail,
    metering,
    metrics,
    month_end,
    reviews,
)
from scheduler.context import Context, PassFailed
from scheduler.duties import close_allocations, close_months, keep_retention, keep_terms, lapse_undecided
from scheduler.leader import LostLeadership

__all__ = ["Timetable", "close_allocations", "close_months", "entries", "lapse_undecided", "perform"]

log = logging.getLogger(__name__)
EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
ALERTS_SECONDS = 300
MAIL_SECONDS = 15
STATEMENTS_SECONDS = 15
RETRY_SECONDS = 10
NOW_SECONDS = 300
FIGURES_SECONDS = 3600
ASKED = (InstructionState.WAITING, InstructionState.CLAIMED)
# Five threads: neither a long pass over the books, a slow mail server, a thousand PDFs nor a look ahead over a long
# queue keep a booking from starting.
CYCLE, BOOKS, MAIL, FILES, AHEAD = "cycle", "books", "mail", "files", "ahead"


class When(Protocol):
    """When an entry is due."""

    def last_due(self, now: dt.datetime) -> dt.datetime:
        """The latest slot at or before `now`."""

    def trigger(self) -> IntervalTrigger | CronTrigger: ...


@dataclass(frozen=True, slots=True)
class Every:
    """Slots at whole multiples of `seconds`, so that what starts on the hour starts on the hour."""

    seconds: int

    def last_due(self, now: dt.datetime) -> dt.datetime:
        return EPOCH + (now - EPOCH) // dt.timedelta(seconds=self.seconds) * dt.timedelta(seconds=self.seconds)

    def trigger(self) -> IntervalTrigger:
        return IntervalTrigger(seconds=self.seconds, start_date=EPOCH, timezone=dt.UTC)


@dataclass(frozen=True, slots=True)
class Daily:
    """At this time in Shanghai; with `day` only on that day of the month."""

    hour: int
    minute: int = 0
    day: int | None = None

    def last_due(self, now: dt.datetime) -> dt.datetime:
        on = clock.day_of(now)
        while True:
            due = dt.datetime.combine(on, dt.time(self.hour, self.minute), clock.SHANGHAI).astimezone(dt.UTC)
            if due <= now and self.day in (None, on.day):
                return due
            on -= dt.timedelta(days=1)

    def trigger(self) -> CronTrigger:
        return CronTrigger(day=self.day or "*", hour=self.hour, minute=self.minute, timezone=clock.SHANGHAI)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timetable. `recorded`: at most one run per due slot, kept with its error."""

    name: str
    when: When
    run: Callable[[Context, dt.datetime], object]
    says: str
    thread: str = BOOKS
    recorded: bool = True

    @property
    def is_caught_up(self) -> bool:
        """A slot that was missed is done later; of what comes every minute the next one does it."""
        return isinstance(self.when, Daily)


def entries(policy: Policy) -> tuple[Entry, ...]:
    queue, books = policy.queue, policy.metering
    return (
        Entry(
            "cycle", Every(queue.cycle_seconds), cycle.run, N_("hand over, place, grant, end"), CYCLE, recorded=False
        ),
        Entry("standings", Every(queue.standings_seconds), cycle.write_standings, N_("places and reasons"), CYCLE),
        Entry("forecasts", Every(queue.standings_seconds), forecasting.run, N_("when what waits will start"), AHEAD),
        Entry("queue-days", Daily(0, 20), forecasting.keep_days, N_("how yesterday's queues served whom")),
        Entry("sync", Every(60), cycle.sync, N_("make the cluster's policy equal to ours"), CYCLE),
        Entry(
            "changes",
            Every(60),
            changes.run,
            N_("no-shows, wait-list, hours given back, lost runs, failed nodes, warnings"),
        ),
        Entry("metering", Every(books.pass_seconds), metering.run, N_("meter, charge, settle, open draft statements")),
        Entry("lapse-undecided", Every(60), lapse_undecided, N_("bookings nobody decided on give everything back")),
        Entry("close-allocations", Daily(0, 5), close_allocations, N_("allocations whose last day is over expire")),
        Entry("keep-terms", Daily(8, 30), keep_terms, N_("half terms, reports due: warn, take back, remind")),
        Entry("close-months", Daily(books.close_month_after_hours, day=1), close_months, N_("cut the month before")),
        Entry(
            "statements", Every(STATEMENTS_SECONDS), month_end.run, N_("issue and pack statements, make PDFs"), FILES
        ),
        Entry("watch-statements", Every(600), month_end.watch, N_("missing metering, late answers, late payments")),
        Entry("reviews", Every(60), reviews.run, N_("escalate and delegate late steps of reviews, issue letters")),
        Entry("open-claims", Every(300), claiming.run, N_("open claims on statements that are settled")),
        Entry("mail", Every(MAIL_SECONDS), mail.deliver, N_("hand over notices that are due"), MAIL),
        Entry("retention", Daily(4, 30), keep_retention, N_("remove rows whose time is over")),
        Entry("public-now", Every(NOW_SECONDS), figures.look, N_("cards free now, for the public pages"), FILES),
        Entry("public-figures", Every(FIGURES_SECONDS), figures.run, N_("reckon the public figures"), FILES),
        Entry("alerts", Every(ALERTS_SECONDS), alerts.run, N_("tell who nears the end of hours or days")),
    )


def publish(context: Context, timetable: Sequence[Entry]) -> None:
    """Write the timetable down for the page that shows its health."""

    def work(session: Session) -> None:
        known = {row.name: row for row in session.scalars(sa.select(TimetableEntry))}
        for entry in timetable:
            row = known.pop(entry.name, None)
            if row is None:
                row = TimetableEntry(name=entry.name)
                session.add(row)
            row.says, row.recorded, row.gone = entry.says, entry.recorded, False
            row.every_seconds = entry.when.seconds if isinstance(entry.when, Every) else None
            daily = entry.when if isinstance(entry.when, Daily) else None
            row.hour = daily.hour if daily is not None else None
            row.minute = daily.minute if daily is not None else None
            row.day = daily.day if daily is not None else None
        for row in known.values():
            row.gone = True

    context.transact(work)


def retry_asked(context: Context, timetable: Sequence[Entry], now: dt.datetime) -> list[str]:
    """Run the entries that somebody asked for on the page of their health, and answer. Returns their names.

    An instruction that was claimed by a process that died is claimed again: an entry may be run twice.
    """
    with context.database.read_only() as session:
        asked = session.execute(
            sa.select(Instruction.id, TimetableEntry.name)
            .outerjoin(TimetableEntry, TimetableEntry.id == Instruction.target_id)
            .where(Instruction.state.in_(ASKED), Instruction.verb == InstructionVerb.RETRY)
            .order_by(Instruction.id)
        ).all()
    by_name = {entry.name: entry for entry in timetable}
    for id, name in asked:
        _run_again(context, id, by_name.get(name or ""), now)
    return [name or "" for _id, name in asked]


def _run_again(context: Context, instruction_id: int, entry: Entry | None, now: dt.datetime) -> None:
    context.transact(lambda session: _claim(session, instruction_id))
    done = entry is not None and perform(context, entry, now, again=True)
    told = Sentence("job-ran-again" if done else "job-failed-again" if entry is not None else "job-is-gone")
    context.transact(lambda session: pools.answer(session, instruction_id, told, done=done, now=now))


def _claim(session: Session, instruction_id: int) -> None:
    session.execute(
        sa.update(Instruction)
        .where(Instruction.id == instruction_id, Instruction.state.in_(ASKED))
        .values(state=InstructionState.CLAIMED)
    )


def perform(context: Context, entry: Entry, now: dt.datetime, *, again: bool = False) -> bool:
    """Run the entry's slot that is due at `now`, unless it was run. An error is kept in its row and logged.

    `again`: a person asked, so also if it was run. True if it ran to its end. Raises only LostLeadership.
    """
    due_at = entry.when.last_due(now)
    error: str | None = None
    result: object = None
    began = time.monotonic()
    try:
        if entry.recorded and not context.transact(lambda session: _begin(session, entry, due_at, now, again)):
            return False
        result = entry.run(context, now)
    except PassFailed as failure:
        error = str(failure)
        log.error("entry failed in part", extra={"entry": entry.name, "error": error})
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        log.exception("entry failed", extra={"entry": entry.name})
    took = time.monotonic() - began
    metrics.ran(entry.name, result, failed=error is not None, seconds=took, lag=now - due_at)
    if entry.recorded:
        try:
            context.transact(lambda session: _finish(session, entry, due_at, error))
        except Exception:
            log.exception("the run could not be recorded", extra={"entry": entry.name})
            return False
    return error is None


def _begin(session: Session, entry: Entry, due_at: dt.datetime, now: dt.datetime, again: bool) -> bool:
    """Whether this slot is still to be run: no row yet, or one that was cut off or failed and is caught up."""
    run = session.get(TimetableRun, (entry.name, due_at), with_for_update=True)
    if run is None:
        session.add(TimetableRun(entry=entry.name, due_at=due_at, started_at=now))
        return True
    done = run.finished_at is not None and run.error is None
    if not again and (done or not entry.is_caught_up):
        return False
    run.started_at, run.finished_at, run.error = now, None, None
    return True


def _finish(session: Session, entry: Entry, due_at: dt.datetime, error: str | None) -> None:
    run = session.get_one(TimetableRun, (entry.name, due_at))
    run.finished_at = max(clock.now(), run.started_at)
    run.error = None if error is None else error[:400]


def catch_up(context: Context, timetable: Sequence[Entry], now: dt.datetime) -> list[str]:
    """Run what was missed while no scheduler ran, or failed. Returns the names of what ran."""
    missed = [entry for entry in timetable if entry.is_caught_up and not _is_done(context, entry, now)]
    return [entry.name for entry in missed if perform(context, entry, now)]


def _is_done(context: Context, entry: Entry, now: dt.datetime) -> bool:
    with context.database.read_only() as session:
        run = session.get(TimetableRun, (entry.name, entry.when.last_due(now)))
        return run is not None and run.finished_at is not None and run.error is None


def run_once(context: Context, now: dt.datetime) -> bool:
    """Everything that is due, one after the other, for `python -m scheduler --once`. True if nothing failed."""
    due = [entry for entry in entries(context.policy) if not (entry.recorded and _has_run(context, entry, now))]
    done = [perform(context, entry, now) for entry in due]
    return all(done)


def _has_run(context: Context, entry: Entry, now: dt.datetime) -> bool:
    if entry.is_caught_up:
        return _is_done(context, entry, now)
    with context.database.read_only() as session:
        return session.get(TimetableRun, (entry.name, entry.when.last_due(now))) is not None


class Timetable:
    """APScheduler around the entries, until `stopping` is set, leadership is lost, or its own loop fails."""

    def __init__(self, context: Context, timetable: Sequence[Entry], stopping: threading.Event | None = None) -> None:
        # Only the cycle may tell the watchdog that it lives: a busy pass over the books would hide that it does not.
        self._contexts = {CYCLE: context} | {
            name: replace(context, alive=_nothing) for name in (BOOKS, MAIL, FILES, AHEAD)
        }
        self._entries = timetable
        self._lost: LostLeadership | None = None
        self._stopping = stopping or threading.Event()
        self._over = threading.Event()
        self._scheduler = BlockingScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={name: ThreadPoolExecutor(1) for name in (CYCLE, BOOKS, MAIL, FILES, AHEAD)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=clock.SHANGHAI,
        )
        for entry in timetable:
            self._scheduler.add_job(
                self._perform, entry.when.trigger(), args=[entry], id=entry.name, name=entry.says, executor=entry.thread
            )
        self._scheduler.add_job(
            self._catch_up, "interval", minutes=10, next_run_time=dt.datetime.now(dt.UTC), id="catch-up", executor=BOOKS
        )
        self._scheduler.add_job(self._retry, "interval", seconds=RETRY_SECONDS, id="retry", executor=BOOKS)
        self._scheduler.add_listener(_tell, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def run(self) -> None:
        """Returns when it was stopped and what was under way is finished. Raises LostLeadership, and whatever goes
        wrong in APScheduler's own loop: the process must end then, not linger."""
        threading.Thread(target=self._shut_down, name="stop", daemon=True).start()
        publish(self._contexts[BOOKS], self._entries)
        try:
            self._scheduler.start()
        finally:
            self._over.set()
        if self._lost is not None:
            raise self._lost

    def _shut_down(self) -> None:
        """In a thread of its own: neither a job, nor a signal that interrupts the loop, can wait for what is under
        way. A stop that comes before the loop has begun waits for it to begin."""
        self._stopping.wait()
        log.info("stopping")
        while self._scheduler.state != STATE_RUNNING and not self._over.is_set():
            time.sleep(0.02)
        if not self._over.is_set():
            self._scheduler.shutdown(wait=True)

    def _perform(self, entry: Entry) -> None:
        self._guard(lambda: perform(self._contexts[entry.thread], entry, clock.now()))

    def _catch_up(self) -> None:
        self._guard(lambda: catch_up(self._contexts[BOOKS], self._entries, clock.now()))

    def _retry(self) -> None:
        self._guard(lambda: retry_asked(self._contexts[BOOKS], self._entries, clock.now()))

    def _guard(self, work: Callable[[], object]) -> None:
        if self._stopping.is_set():
            return
        try:
            work()
        except LostLeadership as lost:
            log.critical("lost leadership", extra={"reason": str(lost)})
            self._lost = lost
            self._stopping.set()


def _nothing() -> None:
    """What the books tell the watchdog."""


def _tell(event: JobExecutionEvent) -> None:
    """An entry keeps its own errors: what arrives here went wrong around it."""
    if event.code == EVENT_JOB_MAX_INSTANCES:
        metrics.skipped(event.job_id)
    kind = {EVENT_JOB_ERROR: "failed", EVENT_JOB_MISSED: "was missed"}.get(event.code, "still runs, a slot was skipped")
    log.error("timetable", extra={"entry": event.job_id, "what": kind, "error": str(getattr(event, "exception", ""))})
