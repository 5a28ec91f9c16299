"""From charges to the lines of a statement. Pure: plain values in, lines out; every figure is rounded once.

A line is one booking at one price, of one kind of charge, under one scheme. Of its GPU-seconds, weight and prices the
list amount and the contract amount are computed exactly and each rounded to the fen, half up; their difference is the
discount. The subsidy or voucher comes from the exact contract amount, by its scheme's own rule. What is left is net.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .. import units
from ..pools.prices import TO_FEN
from ..subsidies.rules import Cost, Entitled, Relief, Take, relieve, takes_of
from ..usage.models import ChargeKind


@dataclass(frozen=True, slots=True)
class Price:
    """Where a line's money comes from; two lines of one booking differ in it. Prices in micro-yuan per GPU-hour."""

    tariff_id: int
    discount_id: int | None
    weight_milli: int
    list_micro_yuan: int
    contract_micro_yuan: int


@dataclass(frozen=True, slots=True)
class Group:
    """Charges of one booking that are added up before anything is rounded. GPU-seconds are negative in a credit."""

    booking_id: int
    kind: ChargeKind
    price: Price
    adjustment: bool
    gpu_seconds: int
    allocation_id: int
    programme_id: int
    model: str = ""
    award_permille: int = 0

    @property
    def exact(self) -> Fraction:
        """At the contract price, in micro-yuan."""
        price = self.price
        return Fraction(
            self.gpu_seconds * price.weight_milli * price.contract_micro_yuan, 1_000 * units.SECONDS_PER_HOUR
        )


@dataclass(frozen=True, slots=True)
class Priced:
    """A line's amounts in whole fen, in micro-yuan: list − discount − subsidy − voucher = net."""

    group: Group
    scheme_version_id: int | None
    list_micro_yuan: int
    discount_micro_yuan: int
    subsidy_micro_yuan: int
    voucher_micro_yuan: int

    @property
    def contract_micro_yuan(self) -> int:
        return self.list_micro_yuan - self.discount_micro_yuan

    @property
    def net_micro_yuan(self) -> int:
        return self.contract_micro_yuan - self.subsidy_micro_yuan - self.voucher_micro_yuan


# (booking, tariff, discount, weight) → (scheme version, subsidy ÷ exact contract amount) of a line that was closed
GivenBefore = Mapping[tuple[int, int, int | None, int], tuple[int, Fraction]]


def to_fen(gpu_seconds: int, weight_milli: int, price_micro_yuan: int) -> int:
    """The price of GPU-seconds at a weight and a price per GPU-hour: one division, to the fen, half up."""
    return units.round_half_up(gpu_seconds * weight_milli * price_micro_yuan, TO_FEN) * units.MICRO_PER_FEN


def price(
    groups: Sequence[Group],
    entitled: Entitled | None = None,
    pools: dict[int, int | None] | None = None,
    before: GivenBefore | None = None,
) -> tuple[list[Priced], list[Take]]:
    """The lines of one enterprise's month in the order of `groups`, and what they take from schemes.

    `before`: what lines of earlier statements were relieved of, for credits of them. `pools` as for `relieve`.
    """
    if entitled is None or not (entitled.entitlements or before):
        return [_line(group, Relief()) for group in groups], []
    gains = [index for index, group in enumerate(groups) if group.gpu_seconds > 0]
    costs = {index: _cost(groups[index]) for index in gains}
    reliefs = dict(zip(gains, relieve(entitled, list(costs.values()), pools), strict=True))
    given = dict(before or {})
    given.update((_key(groups[i]), found) for i in gains if (found := _ratio(groups[i], reliefs[i])) is not None)
    back = [index for index, group in enumerate(groups) if group.gpu_seconds <= 0]
    credits = {index: _cost(groups[index], given.get(_key(groups[index]))) for index in back}
    reliefs.update(zip(back, relieve(entitled, list(credits.values()), pools), strict=True))
    costs.update(credits)
    order = range(len(groups))
    takes = takes_of([costs[index] for index in order], [reliefs[index] for index in order])
    return [_line(group, reliefs[index]) for index, group in enumerate(groups)], takes


def _line(group: Group, relief: Relief) -> Priced:
    price, seconds = group.price, group.gpu_seconds
    listed = to_fen(seconds, price.weight_milli, price.list_micro_yuan)
    contract = listed
    if price.contract_micro_yuan != price.list_micro_yuan:
        contract = to_fen(seconds, price.weight_milli, price.contract_micro_yuan)
    return Priced(
        group, relief.version_id, listed, listed - contract, relief.subsidy_micro_yuan, relief.voucher_micro_yuan
    )


def _cost(group: Group, given_before: tuple[int, Fraction] | None = None) -> Cost:
    return Cost(
        group.exact, group.kind.value, group.allocation_id, group.programme_id, group.model, group.award_permille,
        given_before,
    )  # fmt: skip


def _key(group: Group) -> tuple[int, int, int | None, int]:
    price = group.price
    return group.booking_id, price.tariff_id, price.discount_id, price.weight_milli


def _ratio(group: Group, relief: Relief) -> tuple[int, Fraction] | None:
    if relief.version_id is None or not group.exact:
        return None
    return relief.version_id, relief.amount / group.exact


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of lines, in micro-yuan before tax, and the tax on the net sum: once, half up to the fen."""

    gpu_seconds: int = 0
    amount_micro_yuan: int = 0
    tax_micro_yuan: int = 0
    list_micro_yuan: int = 0
    discount_micro_yuan: int = 0
    subsidy_micro_yuan: int = 0
    voucher_micro_yuan: int = 0

    @property
    def payable_micro_yuan(self) -> int:
        return self.amount_micro_yuan + self.tax_micro_yuan

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.gpu_seconds + other.gpu_seconds,
            self.amount_micro_yuan + other.amount_micro_yuan,
            self.tax_micro_yuan + other.tax_micro_yuan,
            self.list_micro_yuan + other.list_micro_yuan,
            self.discount_micro_yuan + other.discount_micro_yuan,
            self.subsidy_micro_yuan + other.subsidy_micro_yuan,
            self.voucher_micro_yuan + other.voucher_micro_yuan,
        )


def total(lines: Iterable[Priced], tax_permille: int) -> Totals:
    seconds = listed = discount = subsidy = voucher = 0
    for line in lines:
        seconds += line.group.gpu_seconds
        listed += line.list_micro_yuan
        discount += line.discount_micro_yuan
        subsidy += line.subsidy_micro_yuan
        voucher += line.voucher_micro_yuan
    net = listed - discount - subsidy - voucher
    return Totals(seconds, net, units.tax_micro_yuan(net, tax_permille), listed, discount, subsidy, voucher)
