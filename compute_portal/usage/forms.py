"""Forms about usage: hours that are given back, a month that is priced again."""

from __future__ import annotations

import re

from ..forms import HoursField, LineField, PortalForm, Required, TypedField
from ..language import N_
from ..sentences import Sentence

LONGEST_REASON = 200
_MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")


class MonthField(TypedField):
    """'2026-11'; `data` is that text."""

    complaint = Sentence("not-a-month", example="2026-11")

    def read(self, text: str) -> str:
        if not _MONTH.fullmatch(text):
            raise ValueError(text)
        return text

    def write(self, value: str) -> str:
        return value


class CorrectionForm(PortalForm):
    """An operator gives hours of a usage record back."""

    hours = HoursField(N_("GPU-hours to give back"), [Required()])
    reason = LineField(
        N_("Reason"), [Required()], most=LONGEST_REASON, description=N_("The company reads it beside the record.")
    )


class RerateForm(PortalForm):
    month = MonthField(N_("Month of use"), [Required()], description=N_("For example 2026-11"))
    reason = LineField(
        N_("Reason"), [Required()], most=LONGEST_REASON, description=N_("The company reads it beside each record.")
    )
