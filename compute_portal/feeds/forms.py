"""Which calendar somebody subscribes to."""

from __future__ import annotations

from ..forms import ChoiceField, PortalForm, Required
from ..language import N_


class FeedForm(PortalForm):
    """`what` is 'person', 'enterprise', or 'pool:<id>'."""

    what = ChoiceField(N_("What it shows"), [Required()])
