from __future__ import annotations

from ..forms import LineField, PortalForm, RadioChoiceField, Required, TextField
from ..language import N_


class ViewAsForm(PortalForm):
    user_id = RadioChoiceField(N_("Whose pages"), [Required()], coerce=int)
    why = TextField(
        N_("Reason"), [Required()], most=200, description=N_("It stays in the history, with your name and theirs.")
    )


class NodesForm(PortalForm):
    why = LineField(N_("Reason"), [Required()], most=200)
