"""One form, two kinds: fixed hours or as soon as possible. And the reason of a decline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from wtforms import HiddenField

from .. import clock
from ..allocations.sizing import Size, size_of
from ..forms import (
    BillionsField,
    ChoiceField,
    CountField,
    HoursField,
    LineField,
    MomentField,
    PortalForm,
    Required,
    TextField,
)
from ..language import N_, Language, gettext, hours
from ..sentences import Sentence
from .queries import Choice
from .service import BookingRequest
from .states import BookingKind

PROPOSED_SECONDS = 8 * 3_600
USUAL_UTILISATION = 40  # percent of what a card could do


class RunField(HoursField):
    """Hours of running time, 36 or 1.5; `data` is seconds."""

    complaint = Sentence("not-a-number", example="36")


def _title() -> LineField:
    return LineField(
        N_("Title"), [Required()], most=80, description=N_("So that you and your colleagues know it again.")
    )


class BookingForm(PortalForm):
    kind = HiddenField()
    quoted = HiddenField()  # the values and the price that the person last saw
    allocation_id = ChoiceField(N_("Allocation"), [Required()], coerce=int)
    gpus = CountField(N_("Cards"), [Required()], render_kw={"inputmode": "numeric"})

    def to_request(self) -> BookingRequest:
        """The values of a form that is valid, or readable."""
        raise NotImplementedError

    def is_readable(self) -> bool:
        """Whether what the address brought stands for values; one never sent has no errors to show yet."""
        return not any(field.process_errors for field in self)

    def keep_quoted(self, asked: BookingRequest, highest_micro_yuan: int) -> None:
        self.quoted.data = f"{_values(asked)}={highest_micro_yuan}"

    def agreed(self, asked: BookingRequest) -> int | None:
        """The price in micro-yuan that was shown for just these values; None when it was not."""
        values, _, price = (self.quoted.data or "").rpartition("=")
        seen = values == _values(asked) and price.isascii() and price.isdigit() and len(price) < 19
        return int(price) if seen else None


class FixedForm(BookingForm):
    starts_at = MomentField(N_("Start time"), [Required()])
    ends_at = MomentField(N_("End time"), [Required()])
    title = _title()

    def to_request(self) -> BookingRequest:
        return BookingRequest(
            allocation_id=self.allocation_id.data,
            kind=BookingKind.FIXED,
            title=self.title.data,
            gpus=self.gpus.data or 0,
            starts_at=self.starts_at.data,
            ends_at=self.ends_at.data,
        )


class FlexibleForm(BookingForm):
    longest = RunField(
        N_("Longest run"),
        [Required()],
        description=N_("It stops then; if it ends sooner, the rest comes back."),
        render_kw={"inputmode": "decimal"},
    )
    not_before_at = MomentField(N_("Not before"))
    title = _title()

    def to_request(self) -> BookingRequest:
        return BookingRequest(
            allocation_id=self.allocation_id.data,
            kind=BookingKind.FLEXIBLE,
            title=self.title.data,
            gpus=self.gpus.data or 0,
            longest_seconds=self.longest.data,
            not_before_at=self.not_before_at.data,
        )


FORMS: dict[str, type[BookingForm]] = {BookingKind.FIXED: FixedForm, BookingKind.FLEXIBLE: FlexibleForm}


class SizeForm(PortalForm):
    """How long a training run takes on the cards of the form. Read from the address: nothing is stored."""

    parameters = BillionsField(N_("Parameters"), render_kw={"inputmode": "decimal"})
    tokens = BillionsField(N_("Training tokens"), render_kw={"inputmode": "decimal"})
    utilisation = CountField(
        N_("Utilisation"), description=N_("40 is usual for a well-tuned run"), render_kw={"inputmode": "numeric"}
    )

    def size(self, *, tflops: int, cards: int) -> Size | None:
        """What the run needs; None until it is asked, or where the numbers cannot be read."""
        if self.utilisation.typed is None:
            self.utilisation.data = USUAL_UTILISATION
            return None
        for field in self:
            field.errors = list(field.process_errors)
        if None in (self.parameters.data, self.tokens.data, self.utilisation.data) or self.utilisation.data > 100:
            return None
        return size_of(
            parameters_million=self.parameters.data,
            tokens_million=self.tokens.data,
            tflops=tflops,
            utilisation_percent=self.utilisation.data,
            cards=cards,
        )


class ExtendForm(PortalForm):
    agreed = HiddenField()  # the new end and the price that the person last saw
    ends_at = MomentField(N_("New end"), [Required()])

    def keep_agreed(self, end: dt.datetime, micro_yuan: int) -> None:
        self.agreed.data = f"{int(end.timestamp())}={micro_yuan}"

    def agreed_to(self) -> int | None:
        """The price in micro-yuan that was shown for just this end; None when it was not."""
        end, _, price = (self.agreed.data or "").partition("=")
        seen = self.ends_at.data is not None and end == str(int(self.ends_at.data.timestamp()))
        return int(price) if seen and price.isascii() and price.isdigit() and len(price) < 19 else None


class TakeForm(PortalForm):
    agreed = HiddenField()  # the price that the person saw

    def agreed_to(self) -> int | None:
        price = self.agreed.data or ""
        return int(price) if price.isascii() and price.isdigit() and len(price) < 19 else None


class DeclineForm(PortalForm):
    reason = TextField(
        N_("Reason"), [Required()], most=1_000, description=N_("The company reads it."), render_kw={"rows": 3}
    )


def propose(choices: list[Choice], now: dt.datetime, *, allocation_id: int | None, gpus: int | None) -> dict[str, Any]:
    """What the empty form begins with: a node for eight hours on the allocation that ends first and has enough.

    The allocation and the cards that the address asks for change how long it fits. The end follows the start.
    """
    chosen = next((choice for choice in choices if choice.allocation.id == allocation_id), None) or next(
        (choice for choice in choices if choice.available >= choice.usual_gpus * PROPOSED_SECONDS), choices[0]
    )
    cards = gpus if gpus and gpus > 0 else chosen.usual_gpus
    seconds = max(3_600, min(PROPOSED_SECONDS, chosen.available // cards // 3_600 * 3_600))
    return {
        "allocation_id": chosen.allocation.id,
        "gpus": cards,
        "starts_at": clock.floor_hour(now) + 2 * clock.HOUR,
        "longest": seconds,
    }


def _values(asked: BookingRequest) -> str:
    """Everything that has a price, as text; the title has none."""
    instants = (asked.starts_at, asked.ends_at, asked.not_before_at)
    parts = [asked.kind, asked.allocation_id, asked.gpus, asked.longest_seconds or ""]
    return "|".join(str(part) for part in [*parts, *("" if at is None else int(at.timestamp()) for at in instants)])


def choices_in(said: Language, choices: Iterable[Choice]) -> list[tuple[int, str]]:
    """Allocations as a form lists them, in the reader's language."""
    words = gettext(said, N_("%(programme)s · %(pool)s · %(hours)s GPU-hours left"))
    return [
        (
            choice.allocation.id,
            words
            % {
                "programme": (said == "en" and choice.programme.name_en) or choice.programme.name,
                "pool": choice.pool.name,
                "hours": hours(choice.available, said),
            },
        )
        for choice in choices
    ]
