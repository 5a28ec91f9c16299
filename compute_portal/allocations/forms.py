from __future__ import annotations

from decimal import Decimal

from .. import units
from ..forms import ChoiceField, DayField, HoursField, PortalForm, Required, TextField
from ..language import N_
from .service import AllocationRequest


class RequestForm(PortalForm):
    """`programme_id` chooses a programme and one of its pools, as '<programme>:<pool>'."""

    programme_id = ChoiceField(
        N_("Programme and pool"), [Required()], description=N_("One pool per request. Prices are per GPU-hour.")
    )
    hours = HoursField(
        N_("GPU-hours"),
        [Required()],
        description=N_("Cards × hours: 64 cards for 100 hours are 6,400."),
        render_kw={"inputmode": "decimal"},
    )
    starts_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
    ends_on = DayField(N_("Last day"), [Required()], description=N_("What is not used by then expires"))
    purpose = TextField(
        N_("What it is for"),
        [Required()],
        most=2000,
        description=N_("Two or three sentences: model, data, result. A person reads it."),
        render_kw={"rows": 4},
    )

    def to_request(self) -> AllocationRequest:
        programme, pool = self.programme_id.data.split(":")
        return AllocationRequest(
            programme_id=int(programme),
            pool_id=int(pool),
            gpu_seconds=self.hours.data,
            starts_on=self.starts_on.data,
            ends_on=self.ends_on.data,
            purpose=self.purpose.data,
        )


class DecisionForm(PortalForm):
    """The award is chosen first, so that its effects can be shown; approving sends it along unseen."""

    awarded_hours = HoursField(
        N_("Award"),
        description=N_("At most what was asked for. Show the effects again after a change."),
        render_kw={"inputmode": "decimal"},
    )
    reason = TextField(
        N_("Reason (the company reads it)"),
        most=1000,
        description=N_("Needed when you award less than asked, or decline"),
        render_kw={"rows": 3},
    )

    @property
    def exact_award(self) -> str:
        """The award in GPU-hours as the field reads it back, to the second."""
        return f"{Decimal(self.awarded_hours.data) / units.SECONDS_PER_HOUR:f}"
