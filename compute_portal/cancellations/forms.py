"""From when the rest is handed back; why a no-show is waived."""

from __future__ import annotations

from ..forms import LineField, MomentField, PortalForm, Required
from ..language import N_


class HandBackForm(PortalForm):
    from_at = MomentField(N_("From when"), description=N_("Leave it empty for now. Hours before that stay yours."))


class WaiveForm(PortalForm):
    reason = LineField(N_("Reason"), [Required()], most=400, description=N_("The company reads it."))
