from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from flask_wtf import FlaskForm
from wtforms import Field
from wtforms.validators import ValidationError

from ..forms import (
    ChoiceField,
    CountField,
    DayField,
    LineField,
    PortalForm,
    RadioChoiceField,
    Required,
    TextField,
    TypedField,
)
from ..language import N_
from ..sentences import Sentence
from .service import DatasetText, NewTransition, SiteStage
from .states import SiteState, Tier

MOST_MEGAWATTS = 1_000_000


class MegawattField(TypedField):
    """Megawatts as people write them; `data` is kilowatts."""

    complaint = Sentence("not-megawatts", example="6.4")

    def read(self, text: str) -> int:
        try:
            kilowatts = Decimal(text.replace(",", "").replace("，", "")) * 1000
        except InvalidOperation:
            raise ValueError(text) from None
        if not kilowatts.is_finite() or kilowatts != kilowatts.to_integral_value():
            raise ValueError(text)
        if not 0 < kilowatts <= MOST_MEGAWATTS * 1000:
            raise ValueError(text)
        return int(kilowatts)

    def write(self, value: int) -> str:
        return megawatts(value)


def megawatts(kilowatts: int) -> str:
    """6400 → '6.4'."""
    text = f"{Decimal(kilowatts) / 1000:,.3f}".rstrip("0")
    return text.removesuffix(".")


def _is_link(form: FlaskForm, field: Field) -> None:
    """Only https: what the public clicks must not run anything."""
    if not field.data:
        return
    try:
        parts = urlsplit(field.data)
    except ValueError:
        raise ValidationError(Sentence("not-a-link")) from None
    if parts.scheme != "https" or not parts.hostname or any(letter.isspace() for letter in field.data):
        raise ValidationError(Sentence("not-a-link"))


class DatasetForm(PortalForm):
    name = LineField(N_("Chinese name"), [Required()], most=120)
    name_en = LineField(N_("English name"), [Required()], most=160)
    steward = LineField(
        N_("Steward, in Chinese"), [Required()], most=120, description=N_("The office that answers for it")
    )
    steward_en = LineField(N_("Steward, in English"), [Required()], most=160)
    tier = RadioChoiceField(N_("How it is open"), [Required()])
    how_to_ask = TextField(N_("How to ask for it, in Chinese"), [Required()], most=400)
    how_to_ask_en = TextField(N_("How to ask for it, in English"), [Required()], most=400)

    def to_text(self) -> DatasetText:
        return DatasetText(
            self.name.data or "", self.name_en.data or "", self.steward.data or "", self.steward_en.data or "",
            Tier(self.tier.data), self.how_to_ask.data or "", self.how_to_ask_en.data or "",
        )  # fmt: skip


class DatasetEditForm(DatasetForm):
    why = LineField(N_("Reason"), [Required()], most=200)


class WhyForm(PortalForm):
    why = LineField(N_("Reason"), [Required()], most=200)


class _Evidence(PortalForm):
    evidence = TextField(
        N_("Evidence"), [Required()], most=400, description=N_("The document that shows it, with its number and date.")
    )
    link = LineField(N_("Link to the evidence"), [_is_link], most=300, description=N_("Only if it is public."))


class StageForm(_Evidence):
    state = ChoiceField(N_("Stage"), [Required()])
    megawatts = MegawattField(N_("Power"), [Required()])
    since_on = DayField(N_("Since"), [Required()], description=N_("For example 2026-11-20"))

    def to_stage(self) -> SiteStage:
        return SiteStage(
            SiteState(self.state.data), self.megawatts.data, self.since_on.data, self.evidence.data or "",
            self.link.data or None,
        )  # fmt: skip


class SiteForm(StageForm):
    name = LineField(N_("Chinese name"), [Required()], most=120)
    name_en = LineField(N_("English name"), [Required()], most=160)


class TransitionForm(_Evidence):
    allocation_id = CountField(N_("Number of the allocation"), [Required()])
    happened_on = DayField(N_("Day"), [Required()], description=N_("For example 2026-11-20"))
    name = LineField(
        N_("What came of it, in Chinese"), [Required()], most=160,
        description=N_("Everybody reads it. Name the company only if it agrees."),
    )  # fmt: skip
    name_en = LineField(N_("What came of it, in English"), [Required()], most=200)

    def to_transition(self) -> NewTransition:
        values: dict[str, Any] = {
            name: self[name].data for name in ("allocation_id", "happened_on", "name", "name_en", "evidence")
        }
        return NewTransition(link=self.link.data or None, **values)
