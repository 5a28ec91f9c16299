"""A programme's rules as plain data, and eligibility under them. Pure: no database, no clock.

A version of the rules is kept as it was made (`ProgrammeVersion.rules`), the facts of a request as they were found
(`Submission.facts`): `eligibility(rules, facts)` gives the same answer in ten years.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sentences import Sentence
from .states import FIELDS, Asked, Decision

SIZE_CLASSES = ("micro", "small", "medium", "large")


@dataclass(frozen=True, slots=True)
class Track:
    """A size class of requests. Quantities in GPU-seconds, `decision_days` in working days."""

    key: str  # S, M, L
    most_gpu_seconds: int
    most_days: int
    decision: Decision = Decision.STEPS
    decision_days: int = 3
    deciders: int = 1
    released_percent: int = 100  # of an award at once; the rest after an accepted progress report
    guard_percent: int = 10  # automatic only while more than this part of the programme's hours stays left
    needs_earlier_use: bool = False
    longest_run_hours: int | None = None  # of a flexible booking
    fields: Mapping[str, Asked] = field(default_factory=dict)  # what is missing is optional
    attachments: tuple[str, ...] = ()

    def asks(self, name: str) -> Asked:
        return self.fields.get(name, Asked.OPTIONAL)


@dataclass(frozen=True, slots=True)
class Rules:
    """One version. Percentages are whole numbers, days calendar days unless they say working days."""

    number: int
    tracks: tuple[Track, ...]
    is_open: bool = True
    cut_offs: tuple[dt.date, ...] = ()  # none: rolling intake
    most_requests: int | None = None
    size_classes: tuple[str, ...] = SIZE_CLASSES
    subsidy_percent: Mapping[str, int] = field(default_factory=dict)  # by size class; 100 is free of charge
    progress_report_percent: int | None = None  # of the term; None: no progress report unless hours are staged
    final_report_days: int | None = None  # after the end; None: no final report
    slow_percent: int = 0  # less used at half term…
    kept_percent: int = 100  # …keeps this part of the rest
    carry_over_percent: int = 0
    carry_over_days: int = 90

    @property
    def largest(self) -> Track:
        return max(self.tracks, key=lambda track: track.most_gpu_seconds)

    def track(self, key: str | None) -> Track:
        """The track of that name; of a request without one the largest."""
        return next((track for track in self.tracks if track.key == key), self.largest)

    def track_for(self, gpu_seconds: int, days: int) -> Track | None:
        """The smallest track that holds this size and length; None when none does."""
        fits = [t for t in self.tracks if gpu_seconds <= t.most_gpu_seconds and days <= t.most_days]
        return min(fits, key=lambda track: track.most_gpu_seconds, default=None)

    def round_of(self, day: dt.date) -> dt.date | None:
        """The cut-off of the round that a request of this day belongs to; None: rolling, or no round is left."""
        return min((cut_off for cut_off in self.cut_offs if day <= cut_off), default=None)

    def subsidy(self, size_class: str) -> int:
        return self.subsidy_percent.get(size_class, 0)

    def taken_at_half_term(self, used: int, awarded: int, available: int) -> int:
        """GPU-seconds that go back where so little was used by half term; 0 when it is enough."""
        if self.kept_percent >= 100 or used * 100 >= self.slow_percent * awarded:
            return 0
        return available - available * self.kept_percent // 100

    def carried_over(self, left: int) -> int:
        """GPU-seconds of what is left at the end that go on as an allocation of their own."""
        return max(0, left) * self.carry_over_percent // 100

    def to_json(self) -> dict[str, Any]:
        stored = dataclasses.asdict(self)
        stored["cut_offs"] = [day.isoformat() for day in self.cut_offs]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Rules:
        values = dict(stored)
        values["tracks"] = tuple(_track(track) for track in stored["tracks"])
        values["cut_offs"] = tuple(dt.date.fromisoformat(day) for day in stored["cut_offs"])
        values["size_classes"] = tuple(stored["size_classes"])
        return cls(**values)


def _track(stored: Mapping[str, Any]) -> Track:
    values = dict(stored)
    values["decision"] = Decision(stored["decision"])
    values["fields"] = {name: Asked(asked) for name, asked in stored["fields"].items()}
    values["attachments"] = tuple(stored["attachments"])
    return Track(**values)


def usual_tracks() -> tuple[Track, ...]:
    """S at once, M by one decider, L by two in halves: what a new programme starts from."""
    return (
        Track(
            "S", 5_000 * 3600, 92, Decision.AUTOMATIC, 1, longest_run_hours=72,
            fields=dict.fromkeys(FIELDS, Asked.NOT_ASKED) | {"title": Asked.OPTIONAL},
        ),
        Track("M", 20_000 * 3600, 92, fields={"title": Asked.REQUIRED}, longest_run_hours=168),
        Track(
            "L", 150_000 * 3600, 184, Decision.STEPS, 15, deciders=2, released_percent=50, needs_earlier_use=True,
            longest_run_hours=336, fields=dict.fromkeys(("title", "model", "dataset", "result"), Asked.REQUIRED),
            attachments=("plan",),
        ),
    )  # fmt: skip


def usual_rules() -> Rules:
    """What a new programme starts from on its page."""
    return Rules(1, usual_tracks(), final_report_days=30, slow_percent=40, kept_percent=60, carry_over_percent=20)


# -- eligibility ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found about an enterprise and a programme when somebody asked. Everything `eligibility` looks at."""

    day: dt.date
    enterprise_state: str
    size_class: str
    breach_on: dt.date | None  # of a credit breach that still blocks…
    breach_free_on: dt.date | None  # …until this day
    overdue_reports: int
    oldest_overdue_on: dt.date | None
    starts_on: dt.date  # of the programme
    ends_on: dt.date
    requests: int  # that the programme has taken in this version's lifetime
    left_gpu_seconds: int
    earlier_grants: int  # closed ones of the smaller tracks that were used
    has_benchmark: bool = False
    track: str | None = None  # None before a size is known

    def to_json(self) -> dict[str, Any]:
        stored = dataclasses.asdict(self)
        return {k: v.isoformat() if isinstance(v, dt.date) else v for k, v in stored.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Facts:
        values = dict(stored)
        for name in ("day", "breach_on", "breach_free_on", "oldest_overdue_on", "starts_on", "ends_on"):
            values[name] = dt.date.fromisoformat(values[name]) if values[name] is not None else None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule: what it says, what was found, and when it is not met how to meet it. `track`: only there it counts."""

    rule: str
    passed: bool
    text: Sentence
    found: Sentence
    fix: Sentence | None = None
    track: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule, "passed": self.passed, "text": self.text.to_json(), "found": self.found.to_json(),
            "fix": None if self.fix is None else self.fix.to_json(), "track": self.track,
        }  # fmt: skip


def eligibility(rules: Rules, facts: Facts) -> list[RuleResult]:
    """Every rule in a fixed order. With `facts.track` unknown, a rule of one track names the track it is for."""
    results = [
        _verified(facts),
        _size_class(rules, facts),
        _breach(facts),
        _reports(facts),
        _open(rules, facts),
    ]
    if rules.cut_offs:
        results.append(_round(rules, facts))
    if rules.most_requests is not None:
        results.append(_count(rules.most_requests, facts))
    results.append(_left(facts))
    results += [
        _earlier_use(track, facts)
        for track in rules.tracks
        if track.needs_earlier_use and facts.track in (None, track.key)
    ]
    return results


def failed(results: Sequence[RuleResult], track: str | None = None) -> list[RuleResult]:
    """The rules that keep a request of this track from being made; before a track is known, from any request."""
    return [each for each in results if not each.passed and each.track in (None, track)]


def _verified(facts: Facts) -> RuleResult:
    passed = facts.enterprise_state == "verified"
    return RuleResult(
        "verified", passed, Sentence("rule-verified"), Sentence("found-enterprise-state", state=facts.enterprise_state),
        None if passed else Sentence("fix-verified"),
    )  # fmt: skip


def _size_class(rules: Rules, facts: Facts) -> RuleResult:
    if len(rules.size_classes) == len(SIZE_CLASSES):
        text = Sentence("rule-any-size")
    else:
        text = Sentence("rule-size-class", classes=",".join(rules.size_classes))
    passed = facts.size_class in rules.size_classes
    return RuleResult(
        "size-class", passed, text, Sentence("found-size-class", size=facts.size_class),
        None if passed else Sentence("fix-size-class"),
    )  # fmt: skip


def _breach(facts: Facts) -> RuleResult:
    passed = facts.breach_free_on is None or facts.day >= facts.breach_free_on
    return RuleResult(
        "breach", passed, Sentence("rule-breach"),
        Sentence("found-no-breach") if passed else Sentence("found-breach", day=facts.breach_on),
        None if passed else Sentence("fix-breach", day=facts.breach_free_on),
    )  # fmt: skip


def _reports(facts: Facts) -> RuleResult:
    passed = facts.overdue_reports == 0
    found = Sentence("found-reports-overdue", n=facts.overdue_reports, day=facts.oldest_overdue_on)
    return RuleResult(
        "final-report", passed, Sentence("rule-final-report"), Sentence("found-no-report-overdue") if passed else found,
        None if passed else Sentence("fix-final-report"),
    )  # fmt: skip


def _open(rules: Rules, facts: Facts) -> RuleResult:
    text = Sentence("rule-open", first=facts.starts_on, last=facts.ends_on)
    if not rules.is_open:
        return RuleResult("open", False, text, Sentence("found-closed"), Sentence("fix-closed"))
    if facts.day < facts.starts_on:
        return RuleResult("open", False, text, Sentence("found-today", day=facts.day), Sentence("fix-not-open-yet"))
    passed = facts.day <= facts.ends_on
    return RuleResult(
        "open", passed, text, Sentence("found-today", day=facts.day), None if passed else Sentence("fix-closed")
    )


def _round(rules: Rules, facts: Facts) -> RuleResult:
    cut_off = rules.round_of(facts.day)
    text = Sentence("rule-rounds", n=len(rules.cut_offs))
    if cut_off is None:
        last = max(rules.cut_offs)
        return RuleResult("round", False, text, Sentence("found-last-round", day=last), Sentence("fix-closed"))
    return RuleResult("round", True, text, Sentence("found-round", day=cut_off))


def _count(most: int, facts: Facts) -> RuleResult:
    passed = facts.requests < most
    return RuleResult(
        "count", passed, Sentence("rule-count", n=most), Sentence("found-count", left=max(0, most - facts.requests)),
        None if passed else Sentence("fix-closed"),
    )  # fmt: skip


def _left(facts: Facts) -> RuleResult:
    passed = facts.left_gpu_seconds > 0
    return RuleResult(
        "left", passed, Sentence("rule-left"), Sentence("found-left", left=max(0, facts.left_gpu_seconds)),
        None if passed else Sentence("fix-closed"),
    )  # fmt: skip


def _earlier_use(track: Track, facts: Facts) -> RuleResult:
    passed = facts.earlier_grants > 0 or facts.has_benchmark
    found = Sentence("found-earlier-use", n=facts.earlier_grants)
    if facts.earlier_grants == 0 and facts.has_benchmark:
        found = Sentence("found-benchmark")
    return RuleResult(
        "earlier-use", passed, Sentence("rule-earlier-use", track=track.key), found,
        None if passed else Sentence("fix-earlier-use"), track.key,
    )  # fmt: skip
