"""Forms about pools: why a node is drained, which nodes are closed when, what a GPU-hour costs from which day."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..forms import DayField, LineField, MomentField, PortalForm, Required, TypedField, YuanField
from ..language import N_
from ..sentences import Sentence

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
    node_ids = NodesField(N_("Nodes"), [Required()])
    starts_at = MomentField(N_("Window begins"), [Required()], description=N_("For example 2026-11-20 20:00"))
    ends_at = MomentField(
        N_("Window ends"), [Required()], description=N_("Nothing new starts that would run into the window.")
    )
    reason = LineField(
        N_("Reason"), [Required()], most=LONGEST_REASON, description=N_("Everybody reads it on the pool’s page.")
    )


class TariffForm(PortalForm):
    from_on = DayField(N_("First day"), [Required()])
    price = YuanField(N_("Price"), [Required()], render_kw={"inputmode": "decimal"})
