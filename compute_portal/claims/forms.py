"""What people of both sides say to a claim, and to an audit."""

from __future__ import annotations

from ..files.forms import Chosen, UploadField
from ..forms import ChoiceField, CountField, DayField, LineField, PortalForm, Required, TextField
from ..language import N_


class ProofForm(PortalForm):
    document = UploadField(N_("Proof of payment"), [Chosen()], description=N_("PDF, picture, Word, Excel or zip"))


class DeclineForm(PortalForm):
    reason = TextField(N_("Reason"), [Required()], most=1000, description=N_("The company reads it."))


class PayForm(PortalForm):
    paid_on = DayField(N_("Paid on"), [Required()])
    payment_reference = LineField(N_("Number of the payment"), [Required()], most=60)


class ReadingForm(PortalForm):
    pool_id = ChoiceField(N_("Pool"), coerce=int)
    month = LineField(N_("Month"), [Required()], most=7, description=N_("As 2026-10"))
    kilowatt_hours = CountField(N_("Electricity"), [Required()], render_kw={"inputmode": "numeric"})
    source = LineField(N_("From which meter"), [Required()], most=200)
