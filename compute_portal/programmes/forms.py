from __future__ import annotations

from ..forms import HoursField, PortalForm, Required
from ..language import N_


class FundForm(PortalForm):
    hours = HoursField(
        N_("GPU-hours to add"),
        [Required()],
        description=N_("They can be awarded at once. Added hours cannot be taken out again."),
        render_kw={"inputmode": "decimal"},
    )
