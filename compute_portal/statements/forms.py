from __future__ import annotations

from ..forms import DayField, HoursField, LineField, PortalForm, RadioChoiceField, Required, TextField, YuanField
from ..language import N_
from .states import DisputeState


class ActForm(PortalForm):
    """A step that may need a reason; whether it does is for the verb to say."""

    reason = TextField(N_("Reason"), most=1000)


class DisputeForm(PortalForm):
    reason = TextField(
        N_("What is wrong with this line"),
        [Required()],
        most=2000,
        description=N_("Say which hours or which price, and what would be right."),
    )


OUTCOMES = {
    DisputeState.UPHELD: N_("Fully upheld"),
    DisputeState.PARTLY: N_("Partly upheld"),
    DisputeState.REJECTED: N_("Rejected"),
}


class AnswerForm(PortalForm):
    outcome = RadioChoiceField(N_("Outcome"), [Required()])
    hours = HoursField(N_("GPU-hours to give back"), description=N_("Only when it is partly upheld"))
    text = TextField(N_("Answer to the company"), [Required()], most=2000, description=N_("The company reads it."))


class PaymentForm(PortalForm):
    reference = LineField(N_("Bank reference"), [Required()], most=60)
    paid_on = DayField(N_("Paid on"), [Required()])
    amount = YuanField(N_("Amount"), [Required()])
    payer = LineField(N_("Payer"), [Required()], most=120)
    note = LineField(
        N_("Remittance text"), most=200, description=N_("With a statement’s number in it, it is matched at once.")
    )


class MatchForm(PortalForm):
    number = LineField(N_("Statement number"), [Required()], most=24)


class FapiaoForm(PortalForm):
    number = LineField(N_("Fapiao number"), [Required()], most=20, description=N_("20 digits"))
    issued_on = DayField(N_("Made out on"), [Required()])
    amount = YuanField(N_("Amount with tax"), [Required()])
