"""What each reimbursing scheme gives back on a settled statement. Pure: plain values in, claims out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .. import units
from ..subsidies.rules import PERMILLE, Cost, Entitled, Entitlement, above_minimum, choose, in_fen, rounded
from ..subsidies.states import Mode


@dataclass(frozen=True, slots=True)
class Line:
    """A settled line: what was paid for it, micro-yuan in whole fen, negative for a credit."""

    id: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Draft:
    """One claim: the lines that count with their rate in thousandths, what was paid for them, what comes back."""

    scheme: Entitlement
    lines: tuple[tuple[Line, int], ...]
    cost_micro_yuan: int
    amount_micro_yuan: int
    bonus_micro_yuan: int  # part of the amount

    @property
    def allocation_ids(self) -> tuple[int, ...]:
        return tuple(sorted({line.cost.allocation_id for line, _rate in self.lines}))


def drafts(entitled: Entitled, lines: Sequence[Line], bonuses: Mapping[int, int] | None = None) -> list[Draft]:
    """The claims of one statement, at most one per scheme: each contract in one scheme, the best that is open to it.

    A claim's amount is the sum of its exact parts, rounded once, within the cap and the pool. A claim that comes to
    nothing is not made. `bonuses`: scheme → what is due beside the rate, on top of a claim and within its limits.
    """
    schemes = [each for each in entitled.entitlements if each.rules.mode is Mode.REIMBURSE]
    costs = [line.cost for line in lines]
    reached = above_minimum(schemes, costs)
    caps = {each.scheme_id: each.left_of_cap_micro_yuan for each in schemes}
    pools = {each.scheme_id: each.left_of_pool_micro_yuan for each in schemes}
    chosen: dict[int, Entitlement] = {}
    for cost in costs:
        if cost.exact > 0 and cost.allocation_id not in chosen:
            best = choose(reached, entitled.bound.get(cost.allocation_id), cost, caps, pools)
            if best is not None:
                chosen[cost.allocation_id] = best
    by_scheme: dict[int, list[tuple[Line, int]]] = defaultdict(list)
    for line in lines:
        scheme = chosen.get(line.cost.allocation_id)
        if scheme is not None and (rate := scheme.rate(line.cost)):
            by_scheme[scheme.scheme_id].append((line, rate))
    made = [
        _draft(scheme, by_scheme[scheme.scheme_id], (bonuses or {}).get(scheme.scheme_id, 0))
        for scheme in reached
        if by_scheme[scheme.scheme_id]
    ]
    return [draft for draft in made if draft.amount_micro_yuan > 0]


def _draft(scheme: Entitlement, lines: Sequence[tuple[Line, int]], bonus: int) -> Draft:
    cost = sum((line.cost.exact for line, _rate in lines), Fraction(0))
    exact = sum((line.cost.exact * rate for line, rate in lines), Fraction(0)) / PERMILLE * Fraction(*scheme.days)
    limits = [scheme.left_of_cap_micro_yuan, scheme.left_of_pool_micro_yuan]
    left = min((limit for limit in limits if limit is not None), default=None)
    amount = max(0, min(rounded(exact, scheme.rules), in_fen(cost)))
    if left is not None:
        amount, bonus = min(amount, left), min(bonus, max(0, left - amount))
    return Draft(scheme, tuple(lines), in_fen(cost), amount + bonus, bonus)


def fen(micro_yuan: int) -> Fraction:
    """A settled amount as an exact cost. Raises ValueError unless it is whole fen: nothing is rounded twice."""
    if micro_yuan % units.MICRO_PER_FEN:
        raise ValueError(f"{micro_yuan} micro-yuan are not whole fen")
    return Fraction(micro_yuan)
