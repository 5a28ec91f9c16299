"""The health of the timetable: what runs when, when it last did, what failed, and running it again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, require
from ..pools import service as pools
from ..pools.models import Instruction
from ..pools.states import InstructionState, InstructionVerb
from ..sentences import NotFound, Refusal, Sentence
from .models import Leader, TimetableEntry, TimetableRun

TARGET = "timetable"
LOOKING_BACK = dt.timedelta(days=7)
DAILY = 86_400
OPEN = (InstructionState.WAITING, InstructionState.CLAIMED)


@dataclass(frozen=True, slots=True)
class Job:
    """One entry. `late_seconds` is how long its due slot has not been run; the cycle is known by its heartbeat."""

    entry: TimetableEntry
    last: TimetableRun | None
    last_at: dt.datetime | None
    failures: int
    next_due_at: dt.datetime
    late_seconds: int
    asked: Instruction | None

    @property
    def is_red(self) -> bool:
        return self.last is not None and self.last.error is not None

    @property
    def is_late(self) -> bool:
        """Later than it can be by itself: half a minute, or half of its own rhythm."""
        rhythm = self.entry.every_seconds or DAILY
        return self.late_seconds > max(30, rhythm // 2)

    @property
    def is_asked(self) -> bool:
        return self.asked is not None and self.asked.state in OPEN


@dataclass(frozen=True, slots=True)
class Health:
    leader: Leader | None
    jobs: Sequence[Job]
    failures: Sequence[TimetableRun]

    @property
    def red(self) -> int:
        return sum(job.is_red for job in self.jobs)

    @property
    def late(self) -> int:
        return sum(job.is_late and not job.is_red for job in self.jobs)


def load(session: Session, now: dt.datetime) -> Health:
    """Five queries."""
    leader = session.get(Leader, 1)
    newest = (
        sa.select(TimetableRun.entry, sa.func.max(TimetableRun.due_at).label("due_at"))
        .group_by(TimetableRun.entry)
        .subquery()
    )
    rows = session.execute(
        sa.select(TimetableEntry, TimetableRun)
        .outerjoin(newest, newest.c.entry == TimetableEntry.name)
        .outerjoin(
            TimetableRun,
            sa.and_(TimetableRun.entry == newest.c.entry, TimetableRun.due_at == newest.c.due_at),
        )
        .where(TimetableEntry.gone.is_(False))
        .order_by(TimetableEntry.id)
    ).all()
    failed = sa.and_(TimetableRun.error.is_not(None), TimetableRun.due_at >= now - LOOKING_BACK)
    counts = {
        entry: count
        for entry, count in session.execute(
            sa.select(TimetableRun.entry, sa.func.count()).where(failed).group_by(TimetableRun.entry)
        )
    }
    asked = {
        instruction.target_id: instruction
        for instruction in session.scalars(
            sa.select(Instruction)
            .where(Instruction.target_kind == TARGET, Instruction.at >= now - LOOKING_BACK)
            .order_by(Instruction.id)
        )
    }
    heartbeat = leader.heartbeat_at if leader is not None else None
    return Health(
        leader=leader,
        jobs=[_job(entry, run, heartbeat, counts, asked, now) for entry, run in rows],
        failures=list(
            session.scalars(sa.select(TimetableRun).where(failed).order_by(TimetableRun.due_at.desc()).limit(20))
        ),
    )


def _job(
    entry: TimetableEntry,
    run: TimetableRun | None,
    heartbeat: dt.datetime | None,
    failures: dict[str, int],
    asked: dict[int, Instruction],
    now: dt.datetime,
) -> Job:
    due, following = slots(entry, now)
    last_at = run.started_at if run is not None else None
    if not entry.recorded:
        last_at = heartbeat
        late = 0 if last_at is None else max(0, clock.seconds_between(last_at, now) - (entry.every_seconds or 0))
    else:
        done = run is not None and run.due_at >= due and run.finished_at is not None
        late = 0 if done else clock.seconds_between(due, now)
    return Job(entry, run, last_at, failures.get(entry.name, 0), following, late, asked.get(entry.id))


def slots(entry: TimetableEntry, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The latest slot at or before now, and the next one."""
    if entry.every_seconds is not None:
        step = dt.timedelta(seconds=entry.every_seconds)
        due = EPOCH + (now - EPOCH) // step * step
        return due, due + step
    on = clock.day_of(now)
    due = _first(entry, on, -1, lambda at: at <= now)
    return due, _first(entry, on, 1, lambda at: at > now)


EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def _first(entry: TimetableEntry, on: dt.date, step: int, fits: object) -> dt.datetime:
    assert callable(fits) and entry.hour is not None
    while True:
        at = dt.datetime.combine(on, dt.time(entry.hour, entry.minute or 0), clock.SHANGHAI).astimezone(dt.UTC)
        if fits(at) and entry.day in (None, on.day):
            return at
        on += dt.timedelta(days=step)


def retry(session: Session, job_id: int, *, by: Actor, now: dt.datetime) -> int:
    """Ask the scheduler to run the entry now; returns the instruction's id. Raises Refusal("job-already-asked")."""
    require(by, Permission.JOB_RETRY)
    entry = session.get(TimetableEntry, job_id, with_for_update=True, populate_existing=True)
    if entry is None or entry.gone:
        raise NotFound
    waiting = session.scalar(
        sa.select(Instruction.id)
        .where(Instruction.target_kind == TARGET, Instruction.target_id == job_id, Instruction.state.in_(OPEN))
        .limit(1)
    )
    if waiting is not None:
        raise Refusal(Sentence("job-already-asked"))
    return pools.ask(session, InstructionVerb.RETRY, TARGET, job_id, why=None, by=by, now=now)
