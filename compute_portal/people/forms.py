from __future__ import annotations

from ..forms import ChoiceField, PortalForm, Required, TextField
from ..language import N_


class GiveForm(PortalForm):
    role = ChoiceField(N_("Role at the bureau"), [Required()])


class WhyForm(PortalForm):
    reason = TextField(
        N_("Reason"),
        [Required()],
        most=400,
        description=N_("It is kept in the history; write no names into it."),
        render_kw={"rows": 3},
    )
