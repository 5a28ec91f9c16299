"""What statements ask of the timetable: close months, issue and pack in bulk, set PDFs, watch metering and deadlines.

A month is closed some enterprises at a time, each time in one transaction; one that cannot be closed stops no other.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from typing import IO

from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.access import SYSTEM, Actor
from compute_portal.enterprises import queries as enterprises
from compute_portal.review.letters import MissingGlyphs
from compute_portal.sentences import Refusal, Sentence
from compute_portal.statements import content, disputes, files, jobs, pdf, queries, receipts, service
from compute_portal.statements.models import ReceiptKey, Statement, StatementJob
from compute_portal.statements.states import JobKind
from config.settings import load_settings
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase

log = logging.getLogger(__name__)
AT_ONCE = 100  # enterprises closed in one transaction
PDFS_AT_ONCE = 50
TELL_EVERY = 10
PART = 1_000_000  # bytes


@cache
def issuer() -> service.Issuer:
    settings = load_settings()
    return service.Issuer(
        content.Bureau(
            settings.bureau_name_zh, settings.bureau_name_en, settings.service_name_zh, settings.service_name_en
        ),
        receipts.make_signer(settings.receipt_key, settings.secret_key),
    )


def close(context: Context, month: str, enterprise_ids: Sequence[int], now: dt.datetime) -> tuple[int, list[str]]:
    """Close the month of these enterprises; how many went to review, and what could not be done."""
    # By the first of each batch: a transaction may be run again, and a batch that failed is done one by one.
    done: dict[int, service.Closed] = {}
    problems: list[str] = []

    def work(session: Session, ids: Sequence[int]) -> None:
        done[ids[0]] = service.close_months(session, ids, month, policy=context.policy.statements, by=SYSTEM, now=now)

    def bad(id: int, error: Exception) -> None:
        done.pop(id, None)
        problems.append(f"{month} of enterprise {id}: {error}")

    with phase("close-month"):
        in_batches(context, enterprise_ids, work, bad, size=AT_ONCE)
    problems += [
        f"{month} of enterprise {id}: metering is missing since {gap.since:%Y-%m-%d %H:%M} ({gap.runs} runs)"
        for found in done.values()
        for id, gap in found.incomplete.items()
    ]
    return sum(len(found.statement_ids) for found in done.values()), problems


def run(context: Context, now: dt.datetime) -> int:
    """Jobs that people asked for, then PDFs that are missing. Returns how many statements were worked on."""
    worked = 0
    problems: list[str] = []
    with context.database.read_only() as session:
        waiting = jobs.list_open(session)
    for job_id in waiting:
        worked += _run_job(context, job_id, now)
    try:
        worked += set_pdfs(context, now)
    except PassFailed as failure:
        problems.append(str(failure))
    if problems:
        raise PassFailed("; ".join(problems))
    return worked


def watch(context: Context, now: dt.datetime) -> int:
    """Runs that are not metered for too long, disputes that are answered late, statements that are paid late."""
    policy = context.policy.statements
    with phase("watch-statements"):
        marked = context.transact(lambda session: service.watch_metering(session, policy=policy, now=now))
        late = context.transact(lambda session: disputes.tell_late(session, now=now))
        overdue = context.transact(lambda session: service.tell_overdue(session, now=now))
    return marked + late + overdue


# -- jobs


def _run_job(context: Context, job_id: int, now: dt.datetime) -> int:
    with context.database.read_only() as session:
        job = session.get_one(StatementJob, job_id)
        ids = jobs.list_for(session, job.kind, job.month)
        kind, month, asked_by = job.kind, job.month, job.asked_by
        by = SYSTEM if asked_by is None else enterprises.standing_of(session, asked_by).actor(asked_by, None)
    context.transact(lambda session: jobs.start(session, job_id, len(ids)))
    if kind is JobKind.ISSUE:
        _issue(context, job_id, ids, by, now)
    else:
        _pack(context, job_id, month, ids, now)
    return len(ids)


def _issue(context: Context, job_id: int, ids: Sequence[int], by: Actor, now: dt.datetime) -> None:
    failed = 0
    first: Sentence | None = None
    for number, id in enumerate(ids, 1):
        try:
            context.transact(
                lambda session, id=id: (  # type: ignore[misc]
                    service.issue(
                        session, id, issuer=issuer(), policy=context.policy.statements, by=by, now=now
                    ).statement_id
                )
            )
        except Refusal as refusal:
            failed += 1
            first = first or refusal.sentence
        if number % TELL_EVERY == 0:
            _tell(context, job_id, number - failed, failed)
    context.transact(
        lambda session: jobs.finish(
            session, job_id, done=len(ids) - failed, failed=failed, answer=first, now=max(now, clock.now())
        )
    )


def _tell(context: Context, job_id: int, done: int, failed: int = 0) -> None:
    context.transact(lambda session: jobs.progress(session, job_id, done=done, failed=failed))
    context.alive()


def _pack(context: Context, job_id: int, month: str, ids: Sequence[int], now: dt.datetime) -> None:
    """Into a file on the disk first: a disk that is full, or a font that is missing, leaves nothing behind."""
    try:
        with tempfile.TemporaryFile() as target:
            _write_zip(context, job_id, ids, target)
            size, sha256 = _keep_parts(context, job_id, target)
    except OSError as error:
        log.exception("a pack could not be written", extra={"job": job_id})
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = Sentence("job-disk-full") if full else Sentence("job-failed", error=type(error).__name__)
        context.transact(lambda session: jobs.fail(session, job_id, why, now=max(now, clock.now())))
        return
    except (MissingGlyphs, pdf.FontMissing) as error:
        log.exception("a statement could not be set", extra={"job": job_id})
        why = Sentence("job-failed", error=str(error)[:200])
        context.transact(lambda session: jobs.fail(session, job_id, why, now=max(now, clock.now())))
        return
    context.transact(
        lambda session: jobs.finish(
            session, job_id, done=len(ids), failed=0, size=size, sha256=sha256, now=max(now, clock.now())
        )
    )


def _write_zip(context: Context, job_id: int, ids: Sequence[int], target: IO[bytes]) -> None:
    """For each statement a folder with the PDF, the XLSX and the signed receipt; the lines of all in one FOCUS file."""
    focus: list[str] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, id in enumerate(ids, 1):
            with context.database.read_only() as session:
                found = queries.content_of(session, id)
                assert found is not None, f"statement {id} is issued without content"
                said = json.loads(found.content)
                made = pdf.find(session, id) or pdf.make(said)
                receipt = "".join(_receipt(session, id))
            folder = said["number"]
            at = dt.datetime.fromisoformat(said["issued_at"]).timetuple()[:6]
            for name, data in (
                (f"{folder}.pdf", made),
                (f"{folder}.xlsx", files.xlsx(said, "zh")),
                (f"{folder}.csv", "".join(files.csv(said)).encode()),
                (f"{folder}.receipt.json", receipt.encode()),
            ):
                entry = zipfile.ZipInfo(f"{folder}/{name}", at)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)
            focus.extend(list(files.focus_csv(said))[bool(focus) :])
            if number % TELL_EVERY == 0:
                _tell(context, job_id, number)
        archive.writestr("focus-1.2.csv", "".join(focus))


def _receipt(session: Session, statement_id: int) -> Iterator[str]:
    found = queries.content_of(session, statement_id)
    assert found is not None
    key = session.get_one(ReceiptKey, found.key_id).public_key
    records = content.records(session, session.get_one(Statement, statement_id))
    return receipts.write(found.content, found.signature, key, records)


def _keep_parts(context: Context, job_id: int, source: IO[bytes]) -> tuple[int, str]:
    source.flush()
    source.seek(0)
    size, digest, number = 0, hashlib.sha256(), 0
    while part := source.read(PART):
        context.transact(lambda session, n=number, p=part: jobs.add_part(session, job_id, n, p))  # type: ignore[misc]
        size, number = size + len(part), number + 1
        digest.update(part)
        context.alive()
    return size, digest.hexdigest()


# -- PDFs


def set_pdfs(context: Context, now: dt.datetime) -> int:
    """Read, set outside any transaction, keep. One that cannot be set stops no other. Raises PassFailed."""
    with context.database.read_only() as session:
        waiting = pdf.list_without(session, PDFS_AT_ONCE)
    failed: list[str] = []
    for id in waiting:
        context.alive()
        with context.database.read_only() as session:
            found = queries.content_of(session, id)
            assert found is not None
            said = json.loads(found.content)
        try:
            made = pdf.make(said)
        except (MissingGlyphs, pdf.FontMissing) as error:
            failed.append(f"statement {id}: {error}")
            continue
        context.transact(lambda session, id=id, made=made: pdf.keep(session, id, made, now=now))  # type: ignore[misc]
    if failed:
        raise PassFailed("; ".join(failed))
    return len(waiting)
