"""Work on a month's statements that takes longer than a page: asked for here, done by the scheduler, and watched."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..db import lock
from ..sentences import NotFound, Refusal, Sentence
from .models import Statement, StatementContent, StatementJob, StatementJobPart
from .states import FINAL, JobKind, JobState, StatementState

OPEN = (JobState.WAITING, JobState.RUNNING)
PERMISSION = {JobKind.ISSUE: Permission.STATEMENT_ISSUE, JobKind.PACK: Permission.STATEMENT_PACK}


def ask(session: Session, kind: JobKind, month: str, *, by: Actor, now: dt.datetime) -> StatementJob:
    """One of a kind and month at a time. Raises Refusal("job-under-way" | "nothing-to-issue" | "nothing-to-pack")."""
    require(by, PERMISSION[kind])
    known = session.scalar(
        sa.select(StatementJob.id).where(
            StatementJob.month == month, StatementJob.kind == kind, StatementJob.state.in_(OPEN)
        )
    )
    if known is not None:
        raise Refusal(Sentence("job-under-way"))
    found = list_for(session, kind, month)
    if not found:
        raise Refusal(Sentence("nothing-to-issue" if kind is JobKind.ISSUE else "nothing-to-pack"))
    job = StatementJob(
        kind=kind, month=month, state=JobState.WAITING, asked_by=by.user_id, asked_at=now, total=len(found)
    )
    session.add(job)
    session.flush()
    return job


def list_for(session: Session, kind: JobKind, month: str) -> list[int]:
    """The statements that the job is about, by enterprise."""
    states = (StatementState.APPROVED,) if kind is JobKind.ISSUE else tuple(FINAL)
    return list(
        session.scalars(
            sa.select(Statement.id)
            .where(Statement.month == month, Statement.state.in_(states))
            .order_by(Statement.enterprise_id)
        )
    )


def list_open(session: Session) -> list[int]:
    """Jobs that wait, and those of a scheduler that was stopped in the middle; the oldest first."""
    return list(
        session.scalars(sa.select(StatementJob.id).where(StatementJob.state.in_(OPEN)).order_by(StatementJob.id))
    )


def start(session: Session, job_id: int, total: int) -> None:
    """From the beginning, also what was begun before: parts that were written then go."""
    job = lock(session, StatementJob, job_id)
    assert job is not None
    session.execute(sa.delete(StatementJobPart).where(StatementJobPart.job_id == job_id))
    job.state, job.total, job.done, job.failed, job.answer = JobState.RUNNING, total, 0, 0, None


def progress(session: Session, job_id: int, *, done: int, failed: int) -> None:
    session.execute(sa.update(StatementJob).where(StatementJob.id == job_id).values(done=done, failed=failed))


def add_part(session: Session, job_id: int, number: int, content: bytes) -> None:
    session.add(StatementJobPart(job_id=job_id, number=number, content=content))


def finish(
    session: Session,
    job_id: int,
    *,
    done: int,
    failed: int,
    answer: Sentence | None = None,
    size: int = 0,
    sha256: str | None = None,
    now: dt.datetime,
) -> None:
    job = lock(session, StatementJob, job_id)
    assert job is not None
    job.state, job.done, job.failed, job.finished_at = JobState.DONE, done, failed, now
    job.answer = None if answer is None else answer.to_json()
    job.size, job.sha256 = size, sha256


def fail(session: Session, job_id: int, answer: Sentence, *, now: dt.datetime) -> None:
    """Nothing of its file is kept."""
    job = lock(session, StatementJob, job_id)
    assert job is not None
    session.execute(sa.delete(StatementJobPart).where(StatementJobPart.job_id == job_id))
    job.state, job.finished_at, job.answer = JobState.FAILED, now, answer.to_json()


def get_file(session: Session, job_id: int, by: Actor) -> StatementJob:
    """A finished job with a file. Raises NotFound."""
    require(by, Permission.STATEMENT_PACK)
    job = session.get(StatementJob, job_id)
    if job is None or job.kind is not JobKind.PACK or job.state is not JobState.DONE:
        raise NotFound
    return job


def parts(session: Session, job_id: int) -> Iterator[bytes]:
    """The file, a megabyte at a time."""
    numbers = session.scalars(
        sa.select(StatementJobPart.number).where(StatementJobPart.job_id == job_id).order_by(StatementJobPart.number)
    ).all()
    for number in numbers:
        yield session.scalars(
            sa.select(StatementJobPart.content).where(
                StatementJobPart.job_id == job_id, StatementJobPart.number == number
            )
        ).one()


def contents(session: Session, month: str) -> list[tuple[int, str]]:
    """Statement ids and numbers of the month that were issued."""
    rows = session.execute(
        sa.select(Statement.id, Statement.number)
        .join(StatementContent, StatementContent.statement_id == Statement.id)
        .where(Statement.month == month)
        .order_by(Statement.enterprise_id)
    )
    return [(id, number) for id, number in rows]
