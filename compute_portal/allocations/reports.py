"""Progress and final reports: handed in by the enterprise, accepted or returned by an operator.

An accepted progress report releases what an award withheld. A final report that is overdue keeps the enterprise from
new requests (rule "final-report").
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from ..access import Actor, Permission, must_see, require
from ..db import lock
from ..ledger import service as ledger
from ..ledger.queries import balance
from ..lifecycle import move_to, note_event
from ..sentences import NotFound, Refusal, Sentence
from . import conflicts, service
from .models import Allocation, Report
from .states import AllocationState, ReportKind, ReportState

LEAST_CHARACTERS = 20


def _locked(session: Session, report_id: int, by: Actor) -> tuple[Allocation, Report]:
    seen = must_see(session.get(Report, report_id), by)
    allocation = lock(session, Allocation, seen.allocation_id)
    report = lock(session, Report, report_id)
    if allocation is None or report is None:
        raise NotFound
    return allocation, report


def hand_in(session: Session, report_id: int, *, text: str, by: Actor, now: dt.datetime) -> Report:
    """What was done with the hours and what came of it. Raises Refusal at `text`."""
    require(by, Permission.REPORT_HAND_IN)
    _, report = _locked(session, report_id, by)
    if len(text.strip()) < LEAST_CHARACTERS:
        raise Refusal(Sentence("report-too-short", n=LEAST_CHARACTERS), "text")
    move_to(session, report, ReportState.HANDED_IN, verb="hand-in", at=now, by=by)
    report.text = text.strip()
    report.handed_in_by, report.handed_in_at = by.user_id, now
    session.flush()
    return report


def _to_decide(session: Session, report_id: int, permission: Permission, by: Actor) -> tuple[Allocation, Report]:
    require(by, permission)
    allocation, report = _locked(session, report_id, by)
    if by.user_id is not None and by.user_id in (report.handed_in_by, allocation.requested_by):
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, allocation, by)
    return allocation, report


def accept(session: Session, report_id: int, *, by: Actor, now: dt.datetime) -> Report:
    """Of an allocation that runs, an accepted progress report releases what was withheld."""
    allocation, report = _to_decide(session, report_id, Permission.REPORT_ACCEPT, by)
    move_to(session, report, ReportState.ACCEPTED, verb="accept", at=now, by=by)
    _decided(session, report, None, by, now)
    waits = balance(session, allocation.id).withheld
    if report.kind is ReportKind.PROGRESS and waits and allocation.state is AllocationState.ACTIVE:
        released = ledger.stage(session, allocation.id, at=now, by=by)
        note_event(session, allocation, verb="stage", at=now, by=by, why=Sentence("released-hours", hours=released))
    service.tell_managers(
        session, allocation, Sentence("told-report-accepted", number=allocation.id), key=f"report-{report.id}-accepted",
        now=now,
    )  # fmt: skip
    return report


def send_back(session: Session, report_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Report:
    """Something is missing. Raises Refusal at `reason`, which the enterprise reads."""
    allocation, report = _to_decide(session, report_id, Permission.REPORT_RETURN, by)
    if not reason.strip():
        raise Refusal(Sentence("changes-need-reason"), "reason")
    move_to(session, report, ReportState.RETURNED, verb="return", at=now, by=by, note=reason.strip())
    _decided(session, report, reason.strip(), by, now)
    service.tell_managers(
        session, allocation, Sentence("told-report-returned", number=allocation.id),
        key=f"report-{report.id}-returned-{now.isoformat()}", now=now,
    )  # fmt: skip
    return report


def _decided(session: Session, report: Report, reason: str | None, by: Actor, now: dt.datetime) -> None:
    report.decided_by, report.decided_at, report.decision_reason = by.user_id, now, reason
    session.flush()
