"""What somebody wishes for: cards, hours, between two days."""

from __future__ import annotations

import datetime as dt

from .. import clock
from ..bookings.offers import Wish
from ..bookings.queries import Choice
from ..bookings.service import BookingRequest
from ..bookings.states import BookingKind
from ..forms import ChoiceField, CountField, DayField, HoursField, LineField, MomentField, PortalForm, Required
from ..language import N_
from ..sentences import Refusal, Sentence

PROPOSED_SECONDS = 8 * 3_600
PROPOSED_DAYS = 7


class LengthField(HoursField):
    """Hours, 48; `data` is seconds."""

    complaint = Sentence("not-a-number", example="48")


class WishForm(PortalForm):
    allocation_id = ChoiceField(N_("Allocation"), [Required()], coerce=int)
    gpus = CountField(N_("Cards"), [Required()], render_kw={"inputmode": "numeric"})
    longest = LengthField(N_("For how long"), [Required()], render_kw={"inputmode": "decimal"})
    from_on = DayField(N_("First possible day"), [Required()])
    until_on = DayField(N_("Last possible day"), [Required()])
    title = LineField(N_("Title"), most=80)
    starts_at = MomentField(N_("Start time"))  # of the offer that is chosen

    def wish(self) -> Wish:
        """The values of a form that is valid. Raises Refusal at the field that is to blame."""
        if self.longest.data % 3_600:
            raise Refusal(Sentence("whole-hours-only"), "longest")
        if self.until_on.data < self.from_on.data:
            raise Refusal(Sentence("until-before-from"), "until_on")
        return Wish(
            self.gpus.data,
            self.longest.data // 3_600,
            clock.start_of_day(self.from_on.data),
            clock.end_of_day(self.until_on.data),
        )

    def request_for(self, title: str) -> BookingRequest:
        """The window that was chosen among the offers."""
        start = self.starts_at.data
        return BookingRequest(
            allocation_id=self.allocation_id.data,
            kind=BookingKind.FIXED,
            title=self.title.data or title,
            gpus=self.gpus.data,
            starts_at=start,
            ends_at=start + dt.timedelta(seconds=self.longest.data),
        )


def propose(choice: Choice, today: dt.date) -> dict[str, object]:
    """What the empty form begins with: a node for eight hours within a week."""
    return {
        "allocation_id": choice.allocation.id,
        "gpus": choice.usual_gpus,
        "longest": PROPOSED_SECONDS,
        "from_on": today,
        "until_on": today + dt.timedelta(days=PROPOSED_DAYS),
    }
