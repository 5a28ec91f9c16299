"""Write a request: start it, save it while typing, submit it, hand it in again, copy an earlier one.

Owns: drafts and what was submitted. Does not own: who decides (review, service), what it gives (service.award).
Locks: programme, then allocation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, must_see, require
from ..db import lock
from ..enterprises.models import Enterprise
from ..files import queries as files
from ..files import service as file_service
from ..files.models import File
from ..lifecycle import begin, move_to, note_event
from ..policy import FilesPolicy
from ..pools import queries as pools
from ..programmes import queries as programme_queries
from ..programmes import service as programmes
from ..programmes.models import Programme, ProgrammeVersion
from ..programmes.rules import Facts, RuleResult, Rules, Track, eligibility, failed
from ..programmes.states import ATTACHMENTS, FIELDS, Asked, Decision
from ..sentences import NotFound, Refusal, Sentence
from . import conflicts, review, service
from . import facts as found
from .models import Allocation, Submission
from .states import WRITABLE, AllocationState

MOST_DRAFTS = 20


@dataclass(frozen=True, slots=True)
class Beginning:
    """What must be known before the form: it picks the track, and with it the fields."""

    programme_id: int
    pool_id: int
    gpu_seconds: int
    starts_on: dt.date
    ends_on: dt.date

    @property
    def days(self) -> int:
        return (self.ends_on - self.starts_on).days + 1


@dataclass(frozen=True, slots=True)
class Answers:
    """A whole request as the form read it. `fields` by the names in programmes.states.FIELDS."""

    gpu_seconds: int
    starts_on: dt.date
    ends_on: dt.date
    purpose: str
    fields: Mapping[str, str]

    @property
    def days(self) -> int:
        return (self.ends_on - self.starts_on).days + 1

    def to_json(self) -> dict[str, Any]:
        return {
            "gpu_seconds": self.gpu_seconds, "starts_on": self.starts_on.isoformat(),
            "ends_on": self.ends_on.isoformat(), "purpose": self.purpose, **self.fields,
        }  # fmt: skip


def start(session: Session, asked: Beginning, *, by: Actor, now: dt.datetime) -> Allocation:
    """A draft with a number. Raises Refusal at `programme_id`, `hours`, `starts_on` or `ends_on`."""
    require(by, Permission.ALLOCATION_REQUEST)
    enterprise = _own_enterprise(session, by)
    programme = session.get(Programme, asked.programme_id)
    if programme is None or not programmes.offers(session, asked.programme_id, asked.pool_id):
        raise Refusal(Sentence("programme-has-no-such-pool"), "programme_id")
    drafts = sa.select(sa.func.count()).where(
        Allocation.enterprise_id == enterprise.id, Allocation.state == AllocationState.DRAFT
    )
    if (session.scalar(drafts) or 0) >= MOST_DRAFTS:
        raise Refusal(Sentence("too-many-drafts", most=MOST_DRAFTS))
    version = programmes.newest_version(session, programme.id)
    rules = Rules.from_json(version.rules)
    _check_period(programme, asked.starts_on, asked.ends_on, clock.day_of(now))
    track = _track_for(rules, asked.gpu_seconds, asked.days)
    allocation = Allocation(
        programme_id=programme.id,
        pool_id=asked.pool_id,
        enterprise_id=enterprise.id,
        state=AllocationState.DRAFT,
        purpose="",
        requested_by=by.user_id,
        requested_at=now,
        requested_gpu_seconds=asked.gpu_seconds,
        starts_on=asked.starts_on,
        ends_on=asked.ends_on,
        due_at=now,
        shares=1,
        track=track.key,
        version_id=version.id,
        subsidy_percent=rules.subsidy(enterprise.size_class.value),
        draft={},
        draft_saved_at=now,
    )
    session.add(allocation)
    begin(session, allocation, verb="start", at=now, by=by, why=Sentence("asked-hours", hours=asked.gpu_seconds))
    return allocation


def _own_enterprise(session: Session, by: Actor) -> Enterprise:
    enterprise = session.get(Enterprise, by.enterprise_id) if by.enterprise_id else None
    if enterprise is None:
        raise NotFound
    return enterprise


def _check_period(programme: Programme, starts_on: dt.date, ends_on: dt.date, today: dt.date) -> None:
    first = max(today, programme.starts_on)
    if starts_on < first:
        raise Refusal(Sentence("starts-too-early", first=first), "starts_on")
    if ends_on < starts_on:
        raise Refusal(Sentence("end-day-before-start", start=starts_on), "ends_on")
    if ends_on > programme.ends_on:
        raise Refusal(Sentence("programme-ends", last=programme.ends_on), "ends_on")


def _track_for(rules: Rules, gpu_seconds: int, days: int) -> Track:
    track = rules.track_for(gpu_seconds, days)
    if track is not None:
        return track
    largest = rules.largest
    if gpu_seconds > largest.most_gpu_seconds:
        raise Refusal(Sentence("programme-gives-at-most", most=largest.most_gpu_seconds, asked=gpu_seconds), "hours")
    raise Refusal(Sentence("no-track-so-long", n=max(track.most_days for track in rules.tracks), days=days), "ends_on")


def _to_write(session: Session, allocation_id: int, by: Actor) -> tuple[Programme, Allocation]:
    """The request of the own enterprise that may be written now, locked after its programme."""
    require(by, Permission.ALLOCATION_REQUEST)
    seen = must_see(session.get(Allocation, allocation_id), by)
    programme = lock(session, Programme, seen.programme_id)
    allocation = lock(session, Allocation, allocation_id)
    if programme is None or allocation is None:
        raise NotFound
    if allocation.state not in WRITABLE:
        raise Refusal(Sentence("request-not-writable"))
    return programme, allocation


def save(session: Session, allocation_id: int, typed: Mapping[str, str], *, by: Actor, now: dt.datetime) -> Allocation:
    """Keep what was typed, right or wrong, for later. Nothing is checked but that it may be written."""
    _, allocation = _to_write(session, allocation_id, by)
    allocation.draft = {**(allocation.draft or {}), **typed}
    allocation.draft_saved_at = now
    session.flush()
    return allocation


def submit(
    session: Session,
    allocation_id: int,
    answers: Answers,
    *,
    by: Actor,
    now: dt.datetime,
    start: found.UsualStart | None = None,
) -> Allocation:
    """Hand the request in, for the first time or after changes: same number, same version of the rules.

    `start` is what was last known of the pool's queue; it is kept with the request as it was shown.
    A small one that meets every rule is awarded at once while enough of the programme is left; others go through the
    steps of their track. Raises Refusal at the field that a rule speaks of.
    """
    programme, allocation = _to_write(session, allocation_id, by)
    enterprise = session.get_one(Enterprise, allocation.enterprise_id)
    again = allocation.state is AllocationState.CHANGES_REQUESTED
    version = _version_for(session, allocation, again)
    rules = Rules.from_json(version.rules)
    if not answers.purpose.strip():
        raise Refusal(Sentence("required"), "purpose")
    today = clock.day_of(now)
    _check_period(programme, answers.starts_on, answers.ends_on, min(today, allocation.starts_on) if again else today)
    if again and answers.gpu_seconds > allocation.requested_gpu_seconds:
        raise Refusal(Sentence("no-more-when-resubmitted", before=allocation.requested_gpu_seconds), "hours")
    track = _track_for(rules, answers.gpu_seconds, answers.days)
    answers = _only_asked(track, answers)
    _check_documents(session, allocation, track)
    facts = found.find_facts(session, enterprise, programme, now, track=track.key, allocation_id=allocation.id)
    results = eligibility(rules, facts)
    refused = failed(results, track.key)
    if refused:
        raise Refusal(_said(refused[0]))
    shown = found.preview(session, programme, rules, track.key, answers.gpu_seconds, facts, start)
    number = 1 + len(list_submissions(session, allocation.id))
    session.add(
        Submission(
            allocation_id=allocation.id,
            number=number,
            version_id=version.id,
            track=track.key,
            answers=answers.to_json(),
            facts=facts.to_json(),
            results=[result.to_json() for result in results],
            preview=shown.to_json(),
            by_id=by.user_id,
            at=now,
        )
    )
    before = allocation.track
    _take_over(session, allocation, answers, track, version, rules, enterprise, by, now, again)
    move_to(
        session, allocation, AllocationState.SUBMITTED, verb="resubmit" if again else "submit", at=now, by=by,
        why=Sentence("asked-hours", hours=answers.gpu_seconds),
    )  # fmt: skip
    if before != track.key:
        note_event(
            session, allocation, verb="track", at=now, by=by,
            why=Sentence("track-changed", before=before, after=track.key),
        )  # fmt: skip
    if again:
        review.resume(session, allocation, now=now)
    else:
        _decide_or_review(session, allocation, track, by=by, now=now)
    session.flush()
    return allocation


def _said(result: RuleResult) -> Sentence:
    return result.fix or result.text


def _version_for(session: Session, allocation: Allocation, again: bool) -> ProgrammeVersion:
    if again and allocation.version_id is not None:
        return session.get_one(ProgrammeVersion, allocation.version_id)
    return programmes.newest_version(session, allocation.programme_id)


def _only_asked(track: Track, answers: Answers) -> Answers:
    """The fields that the track asks for; what is required must be there."""
    kept = {}
    for name in FIELDS:
        asked, text = track.asks(name), answers.fields.get(name, "").strip()
        if asked is Asked.REQUIRED and not text:
            raise Refusal(Sentence("required"), name)
        if asked is not Asked.NOT_ASKED and text:
            kept[name] = text
    return Answers(answers.gpu_seconds, answers.starts_on, answers.ends_on, answers.purpose.strip(), kept)


def _check_documents(session: Session, allocation: Allocation, track: Track) -> None:
    there = files.kinds_of(session, found.FILES, allocation.id) if track.attachments else set()
    for kind in track.attachments:
        if kind not in there:
            raise Refusal(Sentence("document-missing", kind=kind), "document")


def _take_over(
    session: Session,
    allocation: Allocation,
    answers: Answers,
    track: Track,
    version: ProgrammeVersion,
    rules: Rules,
    enterprise: Enterprise,
    by: Actor,
    now: dt.datetime,
    again: bool,
) -> None:
    """What was submitted becomes the request."""
    allocation.requested_gpu_seconds = answers.gpu_seconds
    allocation.starts_on, allocation.ends_on = answers.starts_on, answers.ends_on
    allocation.purpose = answers.purpose
    allocation.track, allocation.version_id = track.key, version.id
    allocation.draft = None
    if not again:
        allocation.requested_by, allocation.requested_at = by.user_id, now
        allocation.round_on = rules.round_of(clock.day_of(now))
        allocation.subsidy_percent = rules.subsidy(enterprise.size_class.value)
        price = pools.price_book(session, allocation.pool_id).list_price(now)
        allocation.price_micro_yuan = None if price is None else price.price_micro_yuan
    session.flush()


def _decide_or_review(session: Session, allocation: Allocation, track: Track, *, by: Actor, now: dt.datetime) -> None:
    if track.decision is Decision.AUTOMATIC:
        why_not = _why_not_at_once(session, allocation, track)
        if why_not is None:
            allocation.due_at = now
            service.award(
                session, allocation, allocation.requested_gpu_seconds, reason="", by=SYSTEM, now=now, verb="award"
            )
            return
        note_event(session, allocation, verb="not-at-once", at=now, by=SYSTEM, why=why_not)
    # The clock of a round begins with its cut-off.
    begins = now if allocation.round_on is None else max(now, clock.end_of_day(allocation.round_on))
    review.start(session, allocation, by=by, now=begins)


def _why_not_at_once(session: Session, allocation: Allocation, track: Track) -> Sentence | None:
    """Why a small request goes to an operator after all; None when the rules award it."""
    hours = programme_queries.hours(session, [allocation.programme_id])[allocation.programme_id]
    guard = hours.funded * track.guard_percent // 100
    if hours.left - allocation.requested_gpu_seconds <= guard:
        return Sentence("pool-guard", percent=track.guard_percent, left=hours.left, guard=guard)
    already = found.automatic_elsewhere(session, allocation)
    if already + allocation.requested_gpu_seconds > track.most_gpu_seconds:
        return Sentence("small-ones-add-up", already=already, most=track.most_gpu_seconds)
    return None


def copy(session: Session, allocation_id: int, *, by: Actor, now: dt.datetime) -> Allocation:
    """A draft with the answers of an earlier request, to begin today or on its day if that is still to come.

    Raises Refusal where the programme or its tracks no longer allow the size.
    """
    require(by, Permission.ALLOCATION_REQUEST)
    old = must_see(session.get(Allocation, allocation_id), by)
    answers = last_answers(session, old)
    programme = session.get_one(Programme, old.programme_id)
    first = max(clock.day_of(now), programme.starts_on, old.starts_on)
    last = min(first + (old.ends_on - old.starts_on), programme.ends_on)
    asked = Beginning(old.programme_id, old.pool_id, old.requested_gpu_seconds, first, max(first, last))
    draft = start(session, asked, by=by, now=now)
    draft.copied_from_id = old.id
    draft.draft = {name: str(answers[name]) for name in ("purpose", *FIELDS) if answers.get(name)}
    session.flush()
    return draft


def last_answers(session: Session, allocation: Allocation) -> dict[str, Any]:
    """What was submitted last; of a request that was made without the form what its row says."""
    submissions = list_submissions(session, allocation.id)
    if submissions:
        return submissions[-1].answers
    return Answers(
        allocation.requested_gpu_seconds, allocation.starts_on, allocation.ends_on, allocation.purpose, {}
    ).to_json()


def list_submissions(session: Session, allocation_id: int) -> list[Submission]:
    """Oldest first."""
    return list(
        session.scalars(
            sa.select(Submission).where(Submission.allocation_id == allocation_id).order_by(Submission.number)
        )
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer that changed between two submissions; None where it was not there."""

    name: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """In the order of the form. Pure."""
    order = ("gpu_seconds", "starts_on", "ends_on", "purpose", *FIELDS)
    return [
        Difference(name, before.get(name), after.get(name)) for name in order if before.get(name) != after.get(name)
    ]


def replay(session: Session, submission: Submission) -> list[RuleResult]:
    """The rules of the day asked again with the facts of the day: the old result, whatever the rules say now."""
    version = session.get_one(ProgrammeVersion, submission.version_id)
    return eligibility(Rules.from_json(version.rules), Facts.from_json(submission.facts))


# -- documents --------------------------------------------------------------------------------------------------------


def attach(
    session: Session,
    allocation_id: int,
    *,
    name: str,
    content: bytes,
    kind: str,
    policy: FilesPolicy,
    by: Actor,
    now: dt.datetime,
) -> File:
    """Add a document while the request may be written. Raises Refusal at `document` or `kind`."""
    _, allocation = _to_write(session, allocation_id, by)
    if kind not in ATTACHMENTS:
        raise Refusal(Sentence("not-a-choice"), "kind")
    try:
        return file_service.keep(
            session, name=name, content=content, kind=kind, owner_kind=found.FILES, owner_id=allocation.id,
            enterprise_id=allocation.enterprise_id, policy=policy, by=by, now=now,
        )  # fmt: skip
    except Refusal as refusal:
        raise Refusal(refusal.sentence, "document") from None


def _must_open(session: Session, allocation_id: int, by: Actor) -> None:
    """Documents open with their request: a draft's not for the bureau, nobody's for whoever is bound to the firm."""
    allocation = session.get_one(Allocation, allocation_id)
    if by.is_bureau and allocation.state is AllocationState.DRAFT:
        raise NotFound
    conflicts.must_be_free_to_read(session, allocation, by)


files.ask_besides(found.FILES, _must_open)


def detach(session: Session, allocation_id: int, file_id: int, *, by: Actor, now: dt.datetime) -> None:
    """Take a document away again while the request may be written."""
    _, allocation = _to_write(session, allocation_id, by)
    file = files.get_file(session, file_id, by)
    if (file.owner_kind, file.owner_id) != (found.FILES, allocation.id):
        raise NotFound
    file_service.remove(session, file, by=by, now=now)
