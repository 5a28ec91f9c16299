"""What statements ask of the timetable: PDFs, issuing and packing a month, and what happens when that goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal.access import Role
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin.models import BureauRole
from compute_portal.statements import jobs, pdf, queries, service
from compute_portal.statements.models import StatementDocument, StatementJob, StatementJobPart
from compute_portal.statements.states import JobKind, JobState, StatementState
from scheduler import month_end
from scheduler.context import Context, PassFailed, simulation
from tests.cast import NOW, Cast
from tests.compute_portal.statements.conftest import END, LATER, Books


@pytest.fixture
def books(cast: Cast, policy: Policy) -> Books:
    return Books(cast, policy)


@pytest.fixture
def context(books: Books) -> Iterator[Context]:
    context = simulation(books.cast.database, books.policy)
    yield context
    context.leader.release()


def job(books: Books, id: int) -> StatementJob:
    with books.cast.database.read_only() as session:
        return session.get_one(StatementJob, id)


def ask(books: Books, kind: JobKind) -> int:
    return books.cast.database.transaction(lambda s: jobs.ask(s, kind, "2026-11", by=books.first, now=LATER).id)


def test_a_month_is_issued_by_the_scheduler_in_the_name_of_who_asked_and_each_pdf_is_set(
    books: Books, context: Context
) -> None:
    with pytest.raises(Refusal, match="nothing-to-issue"):
        ask(books, JobKind.ISSUE)
    books.use()
    id = books.approved()
    number = ask(books, JobKind.ISSUE)
    with pytest.raises(Refusal, match="job-under-way"):
        ask(books, JobKind.ISSUE)
    assert month_end.run(context, LATER) == 2  # a statement and its PDF
    done = job(books, number)
    assert (done.state, done.total, done.done, done.failed) == (JobState.DONE, 1, 1, 0)
    assert books.statement(id).state is StatementState.ISSUED
    with books.cast.database.read_only() as session:
        kept = session.scalars(sa.select(StatementDocument)).one()
        made = pdf.find(session, id)
    assert made is not None and made.startswith(b"%PDF") and hashlib.sha256(made).hexdigest() == kept.sha256
    assert made == pdf.make(json.loads(books.content(id).content)), "the same content, the same bytes"
    assert month_end.run(context, LATER) == 0
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        books.cast.database.transaction(lambda s: s.execute(sa.text("UPDATE statement_documents SET content = ''")))


def test_what_cannot_be_issued_is_counted_and_said(books: Books, context: Context) -> None:
    books.use()
    books.approved()
    number = ask(books, JobKind.ISSUE)
    with books.cast.database.engine.begin() as connection:  # meanwhile finance lost the role
        connection.execute(sa.delete(BureauRole).where(BureauRole.role == Role.FINANCE))
    month_end.run(context, LATER)
    done = job(books, number)
    assert (done.state, done.done, done.failed) == (JobState.DONE, 0, 1)
    assert done.answer is not None and done.answer["id"] == "not-allowed"


def test_a_month_is_packed_with_every_file_and_can_be_read(books: Books, context: Context) -> None:
    books.use()
    id = books.issued()
    number = ask(books, JobKind.PACK)
    month_end.run(context, LATER)
    with books.cast.database.read_only() as session:
        done = jobs.get_file(session, number, books.first)
        packed = b"".join(jobs.parts(session, number))
    assert len(packed) == done.size and hashlib.sha256(packed).hexdigest() == done.sha256
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        folder = "S-202611-00001"
        assert sorted(archive.namelist()) == [
            f"{folder}/{folder}.csv", f"{folder}/{folder}.pdf", f"{folder}/{folder}.receipt.json",
            f"{folder}/{folder}.xlsx", "focus-1.2.csv",
        ]  # fmt: skip
        receipt = json.loads(archive.read(f"{folder}/{folder}.receipt.json"))
        assert receipt["content"] == books.content(id).content
        assert archive.read("focus-1.2.csv").count(b"\n") == 3  # the names, a line, the tax


class Full:
    """A disk that takes some bytes and no more."""

    def __init__(self) -> None:
        self.written = 0

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *rest: object) -> None:
        pass

    def write(self, data: bytes) -> int:
        self.written += len(data)
        if self.written > 2_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        pass

    def seekable(self) -> bool:
        return False


def test_a_full_disk_fails_the_pack_loudly_and_keeps_nothing(
    books: Books, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.use()
    books.issued()
    number = ask(books, JobKind.PACK)
    monkeypatch.setattr("scheduler.month_end.tempfile.TemporaryFile", Full)
    month_end.run(context, LATER)
    failed = job(books, number)
    assert failed.state is JobState.FAILED and failed.answer is not None and failed.answer["id"] == "job-disk-full"
    with books.cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(StatementJobPart)) == 0
    monkeypatch.undo()
    again = ask(books, JobKind.PACK)
    month_end.run(context, LATER)
    assert job(books, again).state is JobState.DONE


def test_a_missing_font_fails_the_pass_and_the_issue_stands(
    books: Books, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    books.use()
    id = books.issued()
    monkeypatch.setattr(pdf, "FONTS", tmp_path)
    with pytest.raises(PassFailed, match="no statement can be set"):
        month_end.run(context, LATER)
    with books.cast.database.read_only() as session:
        assert pdf.find(session, id) is None
        assert pdf.list_without(session) == [id], "it is tried again"
    monkeypatch.undo()
    assert month_end.run(context, LATER) == 1


def test_closing_goes_on_past_an_enterprise_whose_metering_is_missing(books: Books, context: Context) -> None:
    books.use(metered=False)
    cast, policy = books.cast, books.policy.statements
    other = cast.database.transaction(
        lambda s: service.open_draft(s, cast.luyu, "2026-11", policy=policy, by=books.first, now=NOW).id
    )
    closed, problems = month_end.close(context, "2026-11", [cast.yusheng, cast.luyu], LATER)
    assert closed == 1 and "metering is missing since 2026-11-18 02:00" in problems[0]
    assert books.statement(other).state is StatementState.IN_REVIEW
    with cast.database.read_only() as session:
        found = queries.overview(session, "2026-11", END.date())
    assert found.only["missing"] == 1 and found.counts[StatementState.DRAFT] == 1
    assert month_end.close(context, "2026-11", [cast.luyu], LATER) == (0, [])


def test_watching_marks_and_tells(books: Books, context: Context) -> None:
    books.use()
    books.issued()
    watched: Any = month_end.watch(context, LATER)
    assert watched == 0
