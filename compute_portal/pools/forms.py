"""Forms about pools: why a node is drained, which nodes are closed when, what a GPU-hour costs from which day."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TypedDict

from wtforms import HiddenField

from ..forms import (
    CountField,
    DayField,
    LineField,
    MomentField,
    PortalForm,
    Required,
    TextField,
    TypedField,
    YuanField,
)
from ..language import N_
from ..sentences import Refusal, Sentence

LONGEST_REASON = 200
_PART = re.compile(r"(\d{1,5})(?:\s*[-–~～]\s*(\d{1,5}))?")
_ALL = {"all", "全部", "所有"}


@dataclass(frozen=True, slots=True)
class NodeNumbers:
    """Nodes by their number in the pool, counted from 1; `ranges` is None for all of them."""

    ranges: tuple[tuple[int, int], ...] | None

    def of(self, node_ids: list[int]) -> list[int] | None:
        """The ids, given all of the pool in order; None when a number is larger than the pool."""
        if self.ranges is None:
            return node_ids
        if any(last > len(node_ids) for _first, last in self.ranges):
            return None
        return sorted({node_ids[number - 1] for first, last in self.ranges for number in range(first, last + 1)})


class NodesField(TypedField):
    """'1-8, 12' or 'all'; `data` is NodeNumbers."""

    complaint = Sentence("not-node-numbers", example="1-8, 12")

    def read(self, text: str) -> NodeNumbers:
        if text.lower() in _ALL:
            return NodeNumbers(None)
        ranges = []
        for part in re.split(r"[,，、;；]", text):
            found = _PART.fullmatch(part.strip())
            if found is None:
                raise ValueError(text)
            first = int(found[1])
            last = int(found[2] or first)
            if not 1 <= first <= last:
                raise ValueError(text)
            ranges.append((first, last))
        return NodeNumbers(tuple(ranges))

    def write(self, value: NodeNumbers) -> str:
        if value.ranges is None:
            return "all"
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in value.ranges)


class WhyForm(PortalForm):
    """The reason for draining a node or taking it back into service."""

    why = LineField(
        N_("Reason"),
        [Required()],
        most=LONGEST_REASON,
        description=N_("It stays in the history of the node; the bureau reads it."),
    )


class MaintenanceForm(PortalForm):
    over_bookings = HiddenField()  # "yes" once the bookings that it meets were shown
    node_ids = NodesField(N_("Nodes"), [Required()])
    starts_at = MomentField(N_("Window begins"), [Required()], description=N_("For example 2026-11-20 20:00"))
    ends_at = MomentField(
        N_("Window ends"), [Required()], description=N_("Nothing new starts that would run into the window.")
    )
    reason = LineField(
        N_("Reason"), [Required()], most=LONGEST_REASON, description=N_("Everybody reads it on the pool’s page.")
    )


class RateField(TypedField):
    """A rate with up to three decimals; `data` is in thousandths."""

    complaint = Sentence("not-a-number", example="2.5")

    def read(self, text: str) -> int:
        try:
            milli = Decimal(text) * 1000
        except InvalidOperation:
            raise ValueError(text) from None
        if not milli.is_finite() or milli != milli.to_integral_value() or not 0 < milli <= 1_000_000:
            raise ValueError(text)
        return int(milli)

    def write(self, value: int) -> str:
        return f"{Decimal(value) / 1000:f}"


class MegawattsField(TypedField):
    """Megawatts with up to six decimals; `data` is whole watts."""

    complaint = Sentence("not-a-power", example="1.2")

    def read(self, text: str) -> int:
        try:
            watts = Decimal(text.replace(",", "").replace("，", "")) * 1_000_000
        except InvalidOperation:
            raise ValueError(text) from None
        if not watts.is_finite() or watts != watts.to_integral_value() or not 0 <= watts <= 10**10:
            raise ValueError(text)
        return int(watts)

    def write(self, value: int) -> str:
        return f"{Decimal(value) / 1_000_000:f}"


class PowerCapForm(PortalForm):
    """The most a pool may draw in some hours."""

    megawatts = MegawattsField(
        N_("Most power"),
        [Required()],
        description=N_("Cooling and conversion included; 0 means that nothing new starts"),
    )
    pue = RateField(
        N_("Power usage (PUE)"), [Required()], description=N_("What the site draws for each watt of the cards")
    )
    starts_at = MomentField(N_("Begins"), [Required()], description=N_("A full hour, for example 2026-12-01 18:00"))
    ends_at = MomentField(N_("Is over"), [Required()], description=N_("A full hour; it can be lifted before"))
    reason = LineField(
        N_("Reason"), [Required()], most=LONGEST_REASON, description=N_("Everybody reads it on the pool’s page.")
    )


class Figures(TypedDict):
    model: str
    tflops_fp16_dense: int
    tflops_source: str | None
    watts: int
    how_to_connect: str | None


class PoolFiguresForm(PortalForm):
    """What can be changed of a pool."""

    model = LineField(
        N_("Model"), [Required()], most=80, description=N_("As the maker calls it, for example NVIDIA H800")
    )
    tflops = CountField(
        N_("TFLOPS of a card"),
        [Required()],
        description=N_("Dense FP16, from the data sheet; the city’s P are reckoned with it"),
        render_kw={"inputmode": "numeric"},
    )
    tflops_source = LineField(
        N_("Source of this figure"), most=200, description=N_("For example “maker’s data sheet”; the public reads it")
    )
    watts = CountField(
        N_("Power of a card"), [Required()], description=N_("At full load"), render_kw={"inputmode": "numeric"}
    )
    how_to_connect = TextField(
        N_("How to connect"), most=2_000, description=N_("Who has a booking here reads it on the booking’s page")
    )

    @property
    def figures(self) -> Figures:
        """As the verbs take them."""
        return {
            "model": self.model.data or "",
            "tflops_fp16_dense": self.tflops.data,
            "tflops_source": self.tflops_source.data or None,
            "watts": self.watts.data,
            "how_to_connect": self.how_to_connect.data or None,
        }


class NewPoolForm(PoolFiguresForm):
    name = LineField(N_("Name"), [Required()], most=40, description=N_("Short, it stays: for example H800"))
    nodes = CountField(N_("Nodes"), [Required()], render_kw={"inputmode": "numeric"})
    gpus_per_node = CountField(N_("Cards of a node"), [Required()], render_kw={"inputmode": "numeric"})


class EditPoolForm(PoolFiguresForm):
    nodes = CountField(N_("More nodes"), description=N_("Empty: none"), render_kw={"inputmode": "numeric"})


class FullHourField(TypedField):
    """'22' or '22:00'; `data` is the hour, 0 to 24."""

    complaint = Sentence("not-an-hour", first=0, last=24)

    def read(self, text: str) -> int:
        hour = int(text.replace("：", ":").removesuffix(":00"))
        if not 0 <= hour <= 24:
            raise ValueError(text)
        return hour

    def write(self, value: int) -> str:
        return f"{value}:00"


class TariffForm(PortalForm):
    """A list price: of the whole day, or with both hours an off-peak one."""

    from_on = DayField(N_("First day"), [Required()])
    price = YuanField(N_("Price"), [Required()], render_kw={"inputmode": "decimal"})
    from_hour = FullHourField(N_("From"), description=N_("A full hour; empty for the whole day"))
    until_hour = FullHourField(N_("Until"), description=N_("It may run over midnight: 22:00 to 8:00"))
    until_on = DayField(N_("Last day"), description=N_("Empty: until further notice"))
    gpus_most = CountField(
        N_("Cards at once"),
        description=N_("For fixed bookings in these hours, in place of the company’s limit"),
        render_kw={"inputmode": "numeric"},
    )

    @property
    def hours(self) -> tuple[int, int] | None:
        """Raises Refusal when one of both is missing."""
        first, until = self.from_hour.data, self.until_hour.data
        if (first is None) != (until is None):
            raise Refusal(Sentence("hours-need-both"), "from_hour" if first is None else "until_hour")
        return None if first is None else (first, until)


class EndingForm(PortalForm):
    until_on = DayField(N_("Last day"), [Required()])


class PoolWeightForm(PortalForm):
    weight = RateField(N_("A GPU-hour counts"), [Required()], description=N_("1 is the yardstick; for example 2.5"))
    slice = LineField(
        N_("Slice"), most=20, description=N_("Empty for whole cards; for a slice its part of a card, 1g.10gb: 0.125")
    )
    from_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
