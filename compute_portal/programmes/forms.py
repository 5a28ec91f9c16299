from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from wtforms import BooleanField, SelectMultipleField

from ..enterprises.states import SIZE_NAMES
from ..forms import (
    ChoiceField,
    CountField,
    DayField,
    HoursField,
    LineField,
    PortalForm,
    Required,
    TextField,
    TypedField,
    YuanField,
)
from ..guard import language
from ..language import N_, gettext
from ..pools.forms import RateField
from ..sentences import Sentence
from .rules import SIZE_CLASSES, Rules, Track
from .states import ATTACHMENTS, FIELDS, Asked, Decision

TRACKS = ("S", "M", "L")
ASKED_WORDS = {
    Asked.REQUIRED: N_("required"),
    Asked.OPTIONAL: N_("optional"),
    Asked.NOT_ASKED: N_("not asked"),
}
DECISION_WORDS = {Decision.AUTOMATIC: N_("at once, by rule"), Decision.STEPS: N_("by the steps of a review")}


def _said(text: str) -> str:
    return gettext(language(), text)


class FundForm(PortalForm):
    hours = HoursField(
        N_("GPU-hours to add"),
        [Required()],
        description=N_("They can be awarded at once. Added hours cannot be taken out again."),
        render_kw={"inputmode": "decimal"},
    )


class PercentField(TypedField):
    """A whole number from 0 to 100."""

    complaint = Sentence("not-a-whole-number", example="40")

    def read(self, text: str) -> int:
        number = int(text.rstrip("%"))
        if not 0 <= number <= 100:
            raise ValueError(text)
        return number

    def write(self, value: int) -> str:
        return str(value)


class DaysField(TypedField):
    """One day on each line; `data` is a tuple of dates in order."""

    complaint = Sentence("not-cut-offs", example="2027-03-31")

    def read(self, text: str) -> tuple[dt.date, ...]:
        return tuple(sorted({dt.date.fromisoformat(line.strip()) for line in text.split() if line.strip()}))

    def write(self, value: tuple[dt.date, ...]) -> str:
        return " ".join(day.isoformat() for day in value)


class _RulesFields(PortalForm):
    """What the rules of a programme are made of. Fields of a track are called '<track>_<what>'."""

    cut_offs = DaysField(
        N_("Cut-offs of rounds"), description=N_("Days, separated by blanks; none for rolling intake: 2027-03-31")
    )
    most_requests = CountField(N_("Closes after so many requests"), render_kw={"inputmode": "numeric"})
    final_report_days = CountField(
        N_("Final report, days after the end"), description=N_("Empty: none is asked for"),
        render_kw={"inputmode": "numeric"},
    )  # fmt: skip
    progress_report_percent = PercentField(
        N_("Progress report, percent of the term"), description=N_("Empty: only where hours are withheld")
    )
    slow_percent = PercentField(N_("Who used less than … at half term"), description=N_("0: nothing is taken back"))
    kept_percent = PercentField(N_("… keeps of the rest"))
    carry_over_percent = PercentField(N_("Carried over at the end, once"), description=N_("0: everything expires"))
    carry_over_days = CountField(N_("For so many days"), render_kw={"inputmode": "numeric"})

    @property
    def tracks(self) -> tuple[str, ...]:
        return TRACKS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for key in TRACKS:  # what a list offers is shown as it stands
            self.of(key, "decision").choices = [(d.value, _said(word)) for d, word in DECISION_WORDS.items()]
            for name in FIELDS:
                self.of(key, f"asks_{name}").choices = [(a.value, _said(word)) for a, word in ASKED_WORDS.items()]

    def of(self, track: str, what: str) -> Any:
        return self[f"{track.lower()}_{what}"]

    def fill(self, rules: Rules) -> None:
        for name in (
            "most_requests", "final_report_days", "progress_report_percent", "slow_percent", "kept_percent",
            "carry_over_percent", "carry_over_days",
        ):  # fmt: skip
            self[name].data = getattr(rules, name)
        self.cut_offs.data = rules.cut_offs
        for size in SIZE_CLASSES:
            self[f"for_{size}"].data = size in rules.size_classes
            self[f"subsidy_{size}"].data = rules.subsidy(size)
        for track in rules.tracks:
            self._fill_track(track)

    def _fill_track(self, track: Track) -> None:
        values = {
            "hours": track.most_gpu_seconds, "days": track.most_days, "decision": track.decision.value,
            "decision_days": track.decision_days, "deciders": track.deciders, "released": track.released_percent,
            "guard": track.guard_percent, "earlier": track.needs_earlier_use, "run": track.longest_run_hours,
        }  # fmt: skip
        for what, value in values.items():
            self.of(track.key, what).data = value
        for name in FIELDS:
            self.of(track.key, f"asks_{name}").data = track.asks(name).value
        for kind in ATTACHMENTS:
            self.of(track.key, f"file_{kind}").data = kind in track.attachments

    def to_rules(self, before: Rules | None = None) -> Rules:
        """A track without a size is none. Numbers that were left out are the usual ones."""
        usual = before or Rules(1, ())
        return dataclasses.replace(
            usual,
            tracks=tuple(self._track(key) for key in TRACKS if self.of(key, "hours").data),
            cut_offs=self.cut_offs.data or (),
            most_requests=self.most_requests.data,
            size_classes=tuple(size for size in SIZE_CLASSES if self[f"for_{size}"].data),
            subsidy_percent={
                size: self[f"subsidy_{size}"].data for size in SIZE_CLASSES if self[f"subsidy_{size}"].data
            },
            progress_report_percent=self.progress_report_percent.data,
            final_report_days=self.final_report_days.data,
            slow_percent=self.slow_percent.data or 0,
            kept_percent=100 if self.kept_percent.data is None else self.kept_percent.data,
            carry_over_percent=self.carry_over_percent.data or 0,
            carry_over_days=self.carry_over_days.data or 90,
        )

    def _track(self, key: str) -> Track:
        def given(what: str, usual: int) -> int:
            value = self.of(key, what).data
            return usual if value is None else value

        return Track(
            key=key,
            most_gpu_seconds=self.of(key, "hours").data,
            most_days=given("days", 92),
            decision=Decision(self.of(key, "decision").data or Decision.STEPS),
            decision_days=given("decision_days", 3),
            deciders=given("deciders", 1),
            released_percent=given("released", 100),
            guard_percent=given("guard", 10),
            needs_earlier_use=bool(self.of(key, "earlier").data),
            longest_run_hours=self.of(key, "run").data,
            fields={name: Asked(self.of(key, f"asks_{name}").data or Asked.OPTIONAL) for name in FIELDS},
            attachments=tuple(kind for kind in ATTACHMENTS if self.of(key, f"file_{kind}").data),
        )


_NUMERIC = {"inputmode": "numeric"}
for _size in SIZE_CLASSES:
    setattr(_RulesFields, f"for_{_size}", BooleanField(dict(SIZE_NAMES)[_size]))  # type: ignore[index]
    setattr(_RulesFields, f"subsidy_{_size}", PercentField(dict(SIZE_NAMES)[_size], render_kw=_NUMERIC))  # type: ignore[index]
for _key in TRACKS:
    for _what, _field in {
        "hours": HoursField(N_("Most GPU-hours"), description=N_("Empty: no such track"), render_kw=_NUMERIC),
        "days": CountField(N_("Longest, days"), render_kw=_NUMERIC),
        "decision": ChoiceField(N_("How it is decided"), choices=[(d.value, w) for d, w in DECISION_WORDS.items()]),
        "decision_days": CountField(N_("Decided within, working days"), render_kw=_NUMERIC),
        "deciders": CountField(N_("How many decide"), render_kw=_NUMERIC),
        "released": PercentField(
            N_("Released at once, percent"), description=N_("The rest after an accepted progress report")
        ),
        "guard": PercentField(
            N_("At once only while more than … percent is left"), description=N_("Of all hours of the programme")
        ),
        "run": CountField(N_("Longest flexible run, hours"), render_kw=_NUMERIC),
        "earlier": BooleanField(N_("Needs proof of earlier use")),
        **{
            f"asks_{name}": ChoiceField(
                word, choices=[(a.value, w) for a, w in ASKED_WORDS.items()], default=Asked.OPTIONAL.value
            )
            for name, word in FIELDS.items()
        },
        **{f"file_{kind}": BooleanField(word) for kind, word in ATTACHMENTS.items()},
    }.items():
        setattr(_RulesFields, f"{_key.lower()}_{_what}", _field)


class RulesForm(_RulesFields):
    """A new version of a programme's rules."""

    why = TextField(
        N_("Why the rules change"),
        [Required()],
        most=400,
        description=N_("Everybody can read it"),
        render_kw={"rows": 2},
    )


class ProgrammeForm(_RulesFields):
    """A new programme with its first rules."""

    name = LineField(N_("Name in Chinese"), [Required()], most=120)
    name_en = LineField(N_("Name in English"), most=120)
    starts_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
    ends_on = DayField(N_("Last day"), [Required()])
    pools = SelectMultipleField(N_("Pools"), [Required()], coerce=int)  # boxes; choices are set by the view
    booking_hours = HoursField(
        N_("Bookings approved automatically up to"), [Required()], render_kw={"inputmode": "decimal"}
    )


class OpenForm(PortalForm):
    """Close a programme for requests, or open it again."""

    why = TextField(N_("Why"), [Required()], most=400, description=N_("Everybody can read it"), render_kw={"rows": 2})


class WeightForm(PortalForm):
    pool_id = ChoiceField(N_("Pool"), [Required()], coerce=int)
    weight = RateField(N_("A GPU-hour counts"), [Required()], description=N_("1 is the yardstick; for example 2.5"))
    from_on = DayField(N_("From"), [Required()], description=N_("For example 2026-12-01"))


def _or_all(value: Any) -> int | None:
    return int(value) if value not in (None, "") else None


class DiscountForm(PortalForm):
    pool_id = ChoiceField(N_("Pool"), [Required()], coerce=int)
    size_class = ChoiceField(N_("Size of company"))
    programme_id = ChoiceField(N_("Programme"), coerce=_or_all)
    percent = PercentField(N_("Discount"), description=N_("Percent off the list price"))
    price = YuanField(
        N_("Contract price"), description=N_("In place of a percentage, before tax"), render_kw={"inputmode": "decimal"}
    )
    from_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
    until_on = DayField(N_("Last day"), [Required()])
