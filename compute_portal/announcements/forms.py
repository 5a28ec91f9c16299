from __future__ import annotations

from wtforms import SelectMultipleField
from wtforms.widgets import CheckboxInput, ListWidget

from ..forms import MomentField, PortalForm, Required, TextField
from ..language import N_


class AnnouncementForm(PortalForm):
    audience = SelectMultipleField(
        N_("Who reads it"), widget=ListWidget(prefix_label=False), option_widget=CheckboxInput(), validate_choice=False
    )
    text = TextField(N_("Chinese text"), [Required()], most=600)
    text_en = TextField(N_("English text"), [Required()], most=600)
    from_at = MomentField(N_("Shown from"), [Required()], description=N_("Beijing time, for example 2026-11-20 20:00"))
    until_at = MomentField(N_("Shown until"), [Required()])
