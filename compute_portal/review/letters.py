"""The decision as a document in Chinese and English: `gather` reads, `make_pdf` sets it, `keep` stores it as issued.

Setting takes some tenths of a second and no database: it happens between two transactions. The words go to the
typesetter as data, never as its language, so that nothing a person typed is taken for markup.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import typst
from sqlalchemy.orm import Session, undefer

from .. import clock
from ..access import Actor, Permission, must_see, require
from ..allocations import conflicts
from ..allocations.models import Allocation
from ..allocations.review_models import Decision, ReasonCode
from ..enterprises.models import Enterprise
from ..language import LANGUAGES, N_, Language, count, day, gettext, hours
from ..policy import ReviewPolicy
from ..policy_versions import PolicyVersion
from ..pools.models import Pool
from ..programmes.models import Programme, ProgrammeVersion
from ..workdays.queries import load_calendar
from .appeals import file_until, may_be_appealed
from .models import Letter

HERE = Path(__file__).parent
FONTS = HERE / "fonts"


class MissingGlyphs(Exception):
    """The letter's font has no picture of these characters: a letter with holes is not issued."""

    def __init__(self, characters: set[str]) -> None:
        self.characters = sorted(characters)
        shown = " ".join(f"{each} (U+{ord(each):04X})" for each in self.characters)
        super().__init__(f"the letter's font has no {shown}")


@dataclass(frozen=True, slots=True)
class Bureau:
    """Who signs: the names that the installation's settings give."""

    name_zh: str
    name_en: str
    service_zh: str
    service_en: str


def list_without_letter(session: Session, limit: int = 50) -> list[int]:
    """Decisions whose letter is not issued yet, the oldest first."""
    return list(
        session.scalars(
            sa.select(Decision.id)
            .outerjoin(Letter, Letter.decision_id == Decision.id)
            .where(Letter.id.is_(None))
            .order_by(Decision.id)
            .limit(limit)
        )
    )


# -- what it says


def gather(session: Session, decision_id: int, bureau: Bureau, rule: ReviewPolicy) -> dict[str, Any]:
    """Everything the letter says, in both languages, as plain data."""
    decision = session.get_one(Decision, decision_id)
    allocation = session.get_one(Allocation, decision.allocation_id)
    facts = _Facts(
        decision,
        allocation,
        session.get_one(Enterprise, decision.enterprise_id),
        session.get_one(Programme, decision.programme_id),
        session.get_one(Pool, allocation.pool_id),
        session.get(ProgrammeVersion, decision.programme_version_id) if decision.programme_version_id else None,
        session.get(PolicyVersion, decision.policy_version_id) if decision.policy_version_id else None,
        session.get(ReasonCode, decision.reason_code) if decision.reason_code else None,
        file_until(decision, load_calendar(session), rule) if may_be_appealed(allocation, decision) else None,
        rule.appeal_decide_working_days,
    )
    return {
        "title": _say("zh", N_("Decision on a request for compute")),
        "author": bureau.name_zh,
        "number": facts.number,
        "sections": [_section(language, facts, bureau) for language in LANGUAGES],
    }


@dataclass(frozen=True, slots=True)
class _Facts:
    decision: Decision
    allocation: Allocation
    enterprise: Enterprise
    programme: Programme
    pool: Pool
    rules: ProgrammeVersion | None
    policy: PolicyVersion | None
    code: ReasonCode | None
    appeal_until: dt.datetime | None
    appeal_days: int

    @property
    def number(self) -> str:
        """Unique and readable: year, request, first or second decision."""
        year = clock.day_of(self.decision.decided_at).year
        return f"{year}-{self.allocation.id:06}-{2 if self.decision.on_appeal else 1}"


def _say(language: Language, text: str, **values: object) -> str:
    return gettext(language, text) % values if values else gettext(language, text)


def _section(language: Language, facts: _Facts, bureau: Bureau) -> dict[str, Any]:
    decision, allocation = facts.decision, facts.allocation
    english = language == "en"
    bureau_name = bureau.name_en if english else bureau.name_zh
    firm = (english and facts.enterprise.name_en) or facts.enterprise.name
    programme = (english and facts.programme.name_en) or facts.programme.name
    asked, awarded = hours(decision.asked_gpu_seconds, language), hours(decision.awarded_gpu_seconds, language)
    on = day(clock.day_of(decision.decided_at), language)
    values = {
        "number": allocation.id, "day": day(clock.day_of(allocation.requested_at), language), "programme": programme,
        "pool": facts.pool.name, "asked": asked, "awarded": awarded,
    }  # fmt: skip
    rows = [
        (_say(language, N_("Asked")), _say(language, N_("%(hours)s GPU-hours"), hours=asked)),
        (_say(language, N_("Award")), _say(language, N_("%(hours)s GPU-hours"), hours=awarded)),
        (_say(language, N_("Pool")), facts.pool.name),
        (
            _say(language, N_("Period")),
            _say(
                language,
                N_("%(first)s to %(last)s"),
                first=day(allocation.starts_on, language),
                last=day(allocation.ends_on, language),
            ),
        ),
    ]
    if allocation.track:
        rows.append((_say(language, N_("Track")), _say(language, allocation.track)))
    if facts.enterprise.credit_code:
        rows.append((_say(language, N_("Unified social credit code")), facts.enterprise.credit_code))
    return {
        "lang": "en" if english else "zh",
        "bureau": bureau_name,
        "footer": bureau.service_en if english else bureau.service_zh,
        "title": _say(language, N_("Decision on a request for compute")),
        "number": _say(language, N_("No. %(number)s"), number=facts.number),
        "to": _say(language, N_("To %(enterprise)s"), enterprise=firm),
        "paragraphs": [
            _say(
                language,
                N_("On %(day)s you asked for %(asked)s GPU-hours in the pool %(pool)s under %(programme)s (request "
                   "no. %(number)s)."),
                **values,
            ),
            _outcome(language, facts, values),
            *_reason(language, facts),
        ],
        "facts": [list(row) for row in rows],
        "basis_title": _say(language, N_("Rules that were applied")),
        "basis": _basis(language, facts, programme),
        "appeal_title": _say(language, N_("Appeal")),
        "appeal": _appeal(language, facts),
        "date": on,
    }  # fmt: skip


def _outcome(language: Language, facts: _Facts, values: dict[str, object]) -> str:
    if facts.decision.on_appeal:
        text = N_("On your appeal another person has looked at the request again. Awarded in all: %(awarded)s of "
                  "%(asked)s GPU-hours.")  # fmt: skip
    elif not facts.decision.approved:
        text = N_("After review we do not approve the request.")
    elif facts.decision.awarded_gpu_seconds < facts.decision.asked_gpu_seconds:
        text = N_("After review we award %(awarded)s of the %(asked)s GPU-hours.")
    else:
        text = N_("After review we award all %(awarded)s GPU-hours.")
    return _say(language, text, **values)


def _reason(language: Language, facts: _Facts) -> Iterator[str]:
    if facts.code is not None:
        name = facts.code.name_en if language == "en" else facts.code.name
        yield _say(language, N_("Reason: %(reason)s."), reason=name)
    if facts.decision.reason:
        yield facts.decision.reason


def _basis(language: Language, facts: _Facts, programme: str) -> list[str]:
    lines = []
    if facts.rules is not None:
        lines.append(
            _say(
                language,
                N_("Rules of %(programme)s, version %(number)s, in force from %(day)s."),
                programme=programme,
                number=facts.rules.number,
                day=day(facts.rules.from_on, language),
            )
        )
    if facts.policy is not None:
        lines.append(
            _say(
                language,
                N_("General rules of the portal, version %(number)s of %(day)s (SHA-256 %(hash)s…)."),
                number=facts.policy.id,
                day=day(clock.day_of(facts.policy.from_at), language),
                hash=facts.policy.sha256[:16],
            )
        )
    return lines or [_say(language, N_("The rules of %(programme)s in force on that day."), programme=programme)]


def _appeal(language: Language, facts: _Facts) -> str:
    if facts.decision.on_appeal:
        return _say(language, N_("This decision was made on appeal and is final in the portal."))
    if facts.appeal_until is None:
        return _say(language, N_("Everything that was asked for is awarded; there is nothing to appeal against."))
    return _say(
        language,
        N_("You may appeal in the portal until the end of %(day)s. Somebody who had no part in this decision answers "
           "within %(n)s working days."),
        day=day(clock.day_of(facts.appeal_until), language),
        n=count(facts.appeal_days, language),
    )  # fmt: skip


# -- setting it


@cache
def coverage() -> frozenset[int]:
    """The code points that the font can show."""
    points: set[int] = set()
    for line in (FONTS / "coverage.txt").read_text(encoding="ascii").split():
        first, _, last = line.partition("-")
        points.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(points)


def check_glyphs(inputs: dict[str, Any]) -> None:
    """Raises MissingGlyphs: the typesetter would leave holes without a word."""
    known = coverage()
    missing = {letter for text in _texts(inputs) for letter in text if ord(letter) not in known and letter != "\n"}
    if missing:
        raise MissingGlyphs(missing)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def make_pdf(inputs: dict[str, Any], issued_at: dt.datetime) -> bytes:
    """The same inputs give the same bytes. Raises MissingGlyphs."""
    check_glyphs(inputs)
    made = typst.compile(
        str(HERE / "letter.typ"),
        root=str(HERE),
        font_paths=[str(FONTS)],
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(inputs, ensure_ascii=False)},
        pdf_standards=["a-2b"],
        timestamp=int(issued_at.timestamp()),
    )
    assert isinstance(made, bytes)
    return made


def keep(session: Session, decision_id: int, inputs: dict[str, Any], content: bytes, *, now: dt.datetime) -> Letter:
    """The letter is issued: kept as it is, once."""
    known = session.scalars(sa.select(Letter).where(Letter.decision_id == decision_id)).first()
    if known is not None:
        return known
    decision = session.get_one(Decision, decision_id)
    letter = Letter(
        decision_id=decision_id,
        enterprise_id=decision.enterprise_id,
        number=inputs["number"],
        inputs=inputs,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        issued_at=now,
    )
    session.add(letter)
    session.flush()
    return letter


def get_letter(session: Session, letter_id: int, by: Actor) -> Letter:
    """For its enterprise and the bureau. Raises NotFound, or Refusal for somebody with a conflict of interest."""
    require(by, Permission.LETTER_VIEW)
    letter = must_see(session.get(Letter, letter_id, options=[undefer(Letter.content)]), by)
    decision = session.get_one(Decision, letter.decision_id)
    conflicts.must_be_free_to_read(session, session.get_one(Allocation, decision.allocation_id), by)
    return letter


def find_letters(session: Session, allocation_id: int) -> list[Letter]:
    """The letters of a request, the first decision's first. The caller may see the request."""
    return list(
        session.scalars(
            sa.select(Letter)
            .join(Decision, Decision.id == Letter.decision_id)
            .where(Decision.allocation_id == allocation_id)
            .order_by(Letter.id)
        )
    )
