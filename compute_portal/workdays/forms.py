from __future__ import annotations

from wtforms import BooleanField

from ..forms import ChoiceField, CountField, DayField, LineField, PortalForm, Required, TypedField
from ..language import N_
from ..sentences import Sentence
from .models import DayKind

KINDS = (
    (DayKind.OFF.value, N_("Day off")),
    (DayKind.WORKED.value, N_("Worked in exchange")),
    (DayKind.ORDINARY.value, N_("As its weekday says")),
)


class TimeField(TypedField):
    """09:00; `data` is minutes since midnight, 24:00 is the end of the day."""

    complaint = Sentence("not-a-time", example="09:00")

    def read(self, text: str) -> int:
        hour, minute = text.replace("：", ":").split(":")
        if not (hour.isascii() and hour.isdigit() and minute.isascii() and minute.isdigit() and len(minute) == 2):
            raise ValueError(text)
        minutes = int(hour) * 60 + int(minute)
        if int(minute) > 59 or minutes > 24 * 60:
            raise ValueError(text)
        return minutes

    def write(self, value: int) -> str:
        return f"{value // 60:02}:{value % 60:02}"


class YearField(CountField):
    """2027, without a thousands separator."""

    def write(self, value: int) -> str:
        return str(value)


class DayForm(PortalForm):
    day = DayField(N_("Day"), [Required()], description=N_("For example 2026-12-01"))
    kind = ChoiceField(N_("Kind of day"), [Required()])
    name = LineField(N_("Chinese name"), [Required()], most=40)
    name_en = LineField(N_("English name"), most=60)


class YearForm(PortalForm):
    year = YearField(N_("Year"), [Required()], render_kw={"inputmode": "numeric"})
    opens = TimeField(N_("Office opens"), [Required()])
    closes = TimeField(N_("Office closes"), [Required()])
    source = LineField(N_("Source"), [Required()], most=200, description=N_("The notice that says which days are off"))
    provisional = BooleanField(N_("Provisional: the shifted weekends are not announced yet"))
