"""What a scheme gives, as plain data, and how much of a cost that is. Pure: no database, no clock.

A version of the rules is kept as it was made (`SchemeVersion.rules`). Every figure comes from the exact cost, a
fraction of micro-yuan, and is rounded once, by the scheme's own rule; a cap cuts it after that, in whole fen.
"""

from __future__ import annotations

import calendar
import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .. import units
from ..sentences import Refusal, Sentence
from .states import Mode, Rounding, SchemeKind

PERMILLE = 1_000
SIZE_CLASSES = ("micro", "small", "medium", "large")
# Fees for hours that nobody used are no cost of computing.
NOT_COMPUTING = ("cancellation", "no_show")


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays `parts` of each subsidy: city and district one part each is half and half."""

    name: str
    parts: int


@dataclass(frozen=True, slots=True)
class SchemeRules:
    """One version. Rates in thousandths of the cost, money in micro-yuan (whole fen), days in Shanghai.

    The rate is the highest that fits: the general one, by size class, by class of resource, by trait of the enterprise.
    `rate_of_award`: what the award promised instead, which binds the city also beyond cap and budget.
    """

    number: int
    kind: SchemeKind
    mode: Mode
    rate_permille: int = 0
    rate_of_award: bool = False
    rate_by_size: Mapping[str, int] = field(default_factory=dict)
    rate_by_resource: Mapping[str, int] = field(default_factory=dict)
    rate_by_trait: Mapping[str, int] = field(default_factory=dict)
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # class → models of GPU
    cap_micro_yuan: int | None = None  # per enterprise and calendar year
    cap_by_trait: Mapping[str, int] = field(default_factory=dict)
    pool_micro_yuan: int | None = None  # for all enterprises together, per calendar year; besides the budget
    minimum_micro_yuan: int = 0  # of a month's eligible cost; below it nothing
    size_classes: tuple[str, ...] = SIZE_CLASSES
    any_trait: tuple[str, ...] = ()  # only enterprises with one of these; empty: all
    excluded_costs: tuple[str, ...] = NOT_COMPUTING
    suppliers: tuple[str, ...] = ()  # credit codes: an enterprise related to one of them gets nothing
    no_double: bool = True  # a contract that stands in another scheme gets nothing from this one
    pro_rata: bool = False  # a month that is only partly in force counts by its days; else not at all
    rounding: Rounding = Rounding.HALF_UP
    unit_yuan: int = 1  # the rounding counts in this many yuan: 10,000 is 万
    digits: int = 2
    valid_from: dt.date = dt.date(2000, 1, 1)
    valid_until: dt.date | None = None  # the last day
    months: int | None = None  # an enterprise gets it this many months, from its first
    payers: tuple[Payer, ...] = ()
    bonus_trait: str = ""  # for each entry of this trait, such as a filed model, once…
    bonus_micro_yuan: int = 0  # …so much, beside the rate…
    bonus_most_micro_yuan: int = 0  # …at most so much in a year
    notes: Mapping[str, str] = field(default_factory=dict)  # language → what else the policy says

    @property
    def step_micro_yuan(self) -> int:
        """The smallest amount the rounding knows."""
        return self.unit_yuan * units.MICRO_PER_YUAN // int(10**self.digits)

    def resource_of(self, model: str) -> str | None:
        """The class that a GPU model belongs to: the first whose list names a part of the model's name."""
        if not self.resources:
            return None
        said = model.casefold()
        return next((key for key, names in self.resources.items() if any(n.casefold() in said for n in names)), None)

    def rate(self, size_class: str, resource: str | None, traits: Iterable[str] = (), award_permille: int = 0) -> int:
        if self.rate_of_award:
            return award_permille
        fitting = [self.rate_by_trait[trait] for trait in traits if trait in self.rate_by_trait]
        by_resource = self.rate_by_resource.get(resource, 0) if resource is not None else 0
        return max([self.rate_permille, self.rate_by_size.get(size_class, 0), by_resource, *fitting])

    @property
    def highest_permille(self) -> int:
        """The most that any enterprise gets of any cost."""
        by_kind = (self.rate_by_size, self.rate_by_resource, self.rate_by_trait)
        return max([self.rate_permille, *(rate for rates in by_kind for rate in rates.values())])

    @property
    def asks_traits(self) -> bool:
        return bool(self.rate_by_trait or self.cap_by_trait or self.any_trait or self.bonus_trait)

    def cap(self, traits: Iterable[str]) -> int | None:
        """None: no cap."""
        if self.cap_micro_yuan is None:
            return None
        return max([self.cap_micro_yuan, *(self.cap_by_trait[t] for t in traits if t in self.cap_by_trait)])

    def bonus(self, entries: int) -> int:
        """For so many entries of `bonus_trait` in a year, micro-yuan."""
        return min(entries * self.bonus_micro_yuan, self.bonus_most_micro_yuan)

    def days_in(self, month: str) -> tuple[int, int]:
        """(days of the month in which the scheme is in force, days of the month)."""
        year, number = int(month[:4]), int(month[5:])
        length = calendar.monthrange(year, number)[1]
        first, last = dt.date(year, number, 1), dt.date(year, number, length)
        start, end = max(first, self.valid_from), min(last, self.valid_until or last)
        return max(0, (end - start).days + 1), length

    def to_json(self) -> dict[str, Any]:
        """As it is stored: what is read back from the database equals it."""
        stored = {name: _plain(value) for name, value in dataclasses.asdict(self).items()}
        stored["valid_from"] = self.valid_from.isoformat()
        stored["valid_until"] = None if self.valid_until is None else self.valid_until.isoformat()
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SchemeRules:
        values = dict(stored)
        values["kind"], values["mode"] = SchemeKind(stored["kind"]), Mode(stored["mode"])
        if "rounding" in stored:
            values["rounding"] = Rounding(stored["rounding"])
        for name in ("size_classes", "any_trait", "excluded_costs", "suppliers"):
            if name in stored:
                values[name] = tuple(stored[name])
        if "resources" in stored:
            values["resources"] = {key: tuple(names) for key, names in stored["resources"].items()}
        if "payers" in stored:
            values["payers"] = tuple(Payer(**payer) for payer in stored["payers"])
        for name in ("valid_from", "valid_until"):
            if stored.get(name) is not None:
                values[name] = dt.date.fromisoformat(stored[name])
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def check(rules: SchemeRules) -> None:
    """Raises Refusal at the field of the form that does not hold."""
    rates = [rules.rate_permille, *rules.rate_by_size.values(), *rules.rate_by_resource.values()]
    if any(not 0 <= rate <= PERMILLE for rate in [*rates, *rules.rate_by_trait.values()]):
        raise Refusal(Sentence("not-a-percentage"), "rate")
    if rules.digits < 0 or (rules.unit_yuan * units.MICRO_PER_YUAN) % (10**rules.digits * units.MICRO_PER_FEN):
        raise Refusal(Sentence("rounding-below-a-fen"), "digits")
    caps = (rules.cap_micro_yuan, *rules.cap_by_trait.values(), rules.pool_micro_yuan, rules.minimum_micro_yuan)
    if any(amount is not None and (amount < 0 or amount % units.MICRO_PER_FEN) for amount in caps):
        raise Refusal(Sentence("amount-not-whole-fen"), "cap")
    if rules.valid_until is not None and rules.valid_until < rules.valid_from:
        raise Refusal(Sentence("end-day-before-start", start=rules.valid_from), "valid_until")
    if any(payer.parts <= 0 or not payer.name.strip() for payer in rules.payers):
        raise Refusal(Sentence("payers-need-parts"), "payers")
    if rules.months is not None and rules.months <= 0:
        raise Refusal(Sentence("months-at-least-one"), "months")
    if not rules.size_classes:
        raise Refusal(Sentence("rules-need-a-size-class"), "size_classes")


def rounded(exact: Fraction, rules: SchemeRules) -> int:
    """To the scheme's unit and digits, by its rule. Micro-yuan; a negative amount mirrors the positive one."""
    sign, size = (-1, -exact) if exact < 0 else (1, exact)
    steps = size / rules.step_micro_yuan
    whole = steps.numerator // steps.denominator
    if rules.rounding is Rounding.HALF_UP and steps - whole >= Fraction(1, 2):
        whole += 1
    return sign * whole * rules.step_micro_yuan


def in_fen(exact: Fraction) -> int:
    """What the same cost comes to on the statement: half up to the fen."""
    return units.round_half_up(exact.numerator, exact.denominator * units.MICRO_PER_FEN) * units.MICRO_PER_FEN


def relief(
    exact: Fraction,
    rules: SchemeRules,
    size_class: str,
    resource: str | None = None,
    left_of_cap: int | None = None,
    *,
    traits: Iterable[str] = (),
    award_permille: int = 0,
    days: tuple[int, int] = (1, 1),
) -> int:
    """What the scheme bears of one cost, in micro-yuan: exact cost × rate × days, rounded once.

    `days`: (those in force, all that the cost stands for). Never more than the cost in whole fen, nor than
    `left_of_cap` (None: no limit). A negative cost, which gives something back, mirrors a positive one without a limit.
    """
    if exact < 0:
        return -relief(-exact, rules, size_class, resource, traits=traits, award_permille=award_permille, days=days)
    rate = Fraction(rules.rate(size_class, resource, traits, award_permille), PERMILLE)
    amount = min(rounded(exact * rate * Fraction(*days), rules), in_fen(exact))
    return amount if left_of_cap is None else min(amount, max(0, left_of_cap))


@dataclass(frozen=True, slots=True)
class Case:
    """What the scheme bears of a cost in an enterprise's first month, in micro-yuan. `size_class` is empty where every
    size gets the same; `limit` says what made it less than the rate: "cap", "minimum" or nothing."""

    size_class: str
    cost_micro_yuan: int
    given_micro_yuan: int
    limit: str


@dataclass(frozen=True, slots=True)
class Cases:
    """Of whom: with this trait, on cards of this class, as the award promised so much; where the scheme asks for it."""

    rows: tuple[Case, ...]
    trait: str
    models: tuple[str, ...]
    award_permille: int


CASE_COSTS = (10_000 * units.MICRO_PER_YUAN, 100_000 * units.MICRO_PER_YUAN)
CASE_AWARD = 300  # thousandths


def cases(rules: SchemeRules) -> Cases:
    """Two round costs, one that the cap cuts and one below the minimum, where there are such; by the rule itself."""
    award = CASE_AWARD if rules.rate_of_award else 0
    for_all = bool(award or rules.rate_permille or any(rules.rate_by_size.values()))
    resource = None
    if not for_all and rules.rate_by_resource:
        resource = max(rules.rate_by_resource, key=lambda key: rules.rate_by_resource[key])
    admitted = rules.any_trait or (() if for_all or resource else tuple(rules.rate_by_trait))
    trait = max(admitted, key=lambda each: rules.rate_by_trait.get(each, 0), default="")
    traits = (trait,) if trait else ()
    by_size = bool(rules.rate_by_size) and not rules.rate_of_award
    sizes = [size for size in SIZE_CLASSES if size in rules.size_classes]
    cap, rows = rules.cap(traits), list[Case]()
    for size in sizes if by_size else sizes[:1]:
        costs = {max(cost, rules.minimum_micro_yuan) for cost in CASE_COSTS}
        if rules.minimum_micro_yuan:
            costs.add(rules.minimum_micro_yuan // 2)
        if cap is not None and (rate := rules.rate(size, resource, traits, award)):
            step = CASE_COSTS[0]
            costs.add(-(-2 * cap * PERMILLE // rate // step) * step)
        for cost in sorted(costs):
            full = relief(Fraction(cost), rules, size, resource, traits=traits, award_permille=award)
            given, limit = (full, "") if cap is None or full <= cap else (cap, "cap")
            if cost < rules.minimum_micro_yuan:
                given, limit = 0, "minimum"
            rows.append(Case(size if by_size else "", cost, given, limit))
    models = rules.resources.get(resource, ()) if resource is not None else ()
    return Cases(tuple(rows), trait, tuple(models), award)


# -- a month of one enterprise ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entitlement:
    """One scheme that an enterprise comes under in a month, and what is left for it. None: no limit.

    `programme_id`: only costs of that programme's allocations; None: a voucher, for all. `days` as for `relief`.
    """

    version_id: int
    scheme_id: int
    rules: SchemeRules
    programme_id: int | None
    left_of_cap_micro_yuan: int | None
    left_of_pool_micro_yuan: int | None
    size_class: str
    traits: frozenset[str] = frozenset()
    days: tuple[int, int] = (1, 1)
    name: str = ""
    name_en: str | None = None

    def rate(self, cost: Cost) -> int:
        """Thousandths of this cost; 0 where the scheme does not fit it."""
        if cost.kind in self.rules.excluded_costs or self.programme_id not in (None, cost.programme_id):
            return 0
        resource = self.rules.resource_of(cost.model)
        return self.rules.rate(self.size_class, resource, self.traits, cost.award_permille)

    def relief(self, cost: Cost, left: int | None) -> int:
        resource = self.rules.resource_of(cost.model)
        return relief(
            cost.exact, self.rules, self.size_class, resource, left,
            traits=self.traits, award_permille=cost.award_permille, days=self.days,
        )  # fmt: skip


ELSEWHERE = 0  # in `Entitled.bound`: a scheme outside this portal


@dataclass(frozen=True, slots=True)
class Entitled:
    """Everything `relieve` asks about a month of an enterprise. `bound`: allocation → scheme its contract stands in."""

    enterprise_id: int
    month: str
    entitlements: tuple[Entitlement, ...] = ()
    bound: Mapping[int, int] = field(default_factory=dict)
    vouchers: frozenset[int] = frozenset()  # the versions, also former ones, that are vouchers


@dataclass(frozen=True, slots=True)
class Cost:
    """One line before subsidies: its exact cost at the contract price, in micro-yuan, negative for a credit.

    `kind` is the kind of charge, `model` the pool's model of GPU, `award_permille` what the award promised.
    `given_before`: of a credit, (version_id, subsidy ÷ cost) of the line that it takes back, where there was one.
    """

    exact: Fraction
    kind: str
    allocation_id: int
    programme_id: int
    model: str = ""
    award_permille: int = 0
    given_before: tuple[int, Fraction] | None = None


@dataclass(frozen=True, slots=True)
class Relief:
    """What is taken off one line, in micro-yuan: one of the two, or neither."""

    version_id: int | None = None
    subsidy_micro_yuan: int = 0
    voucher_micro_yuan: int = 0

    @property
    def amount(self) -> int:
        return self.subsidy_micro_yuan + self.voucher_micro_yuan


@dataclass(frozen=True, slots=True)
class Take:
    """What a statement takes from one version in all, and the contracts that stand in its scheme from then on."""

    version_id: int
    amount_micro_yuan: int
    allocation_ids: tuple[int, ...] = ()


NOTHING = Relief()


def relieve(entitled: Entitled, costs: Sequence[Cost], pools: dict[int, int | None] | None = None) -> list[Relief]:
    """What each cost is relieved of, in their order: at most one scheme per contract, caps and pools used up in order.

    A programme's subsidy comes before vouchers; among vouchers the highest rate. A credit takes back what the line that
    it corrects was given, in proportion, so that nobody gets back more or less than they paid. `pools` (scheme → what
    is left for all) is counted down: whoever closes several enterprises in one transaction hands in the same one.
    """
    pools = {} if pools is None else pools
    caps: dict[int, int | None] = {}
    by_version = {}
    for each in entitled.entitlements:
        by_version[each.version_id] = each
        caps[each.scheme_id] = each.left_of_cap_micro_yuan
        pools.setdefault(each.scheme_id, each.left_of_pool_micro_yuan)
    reached = above_minimum([each for each in entitled.entitlements if each.rules.mode is Mode.DEDUCT], costs)
    chosen: dict[int, Entitlement] = {}
    reliefs = []
    for cost in costs:
        if cost.exact < 0 and cost.given_before is not None:
            version_id, ratio = cost.given_before
            found = by_version.get(version_id)
            reliefs.append(_relief(version_id, in_fen(cost.exact * ratio), version_id in entitled.vouchers))
            if found is not None:
                _count(caps, pools, found.scheme_id, reliefs[-1].amount)
            continue
        scheme = chosen.get(cost.allocation_id)
        if scheme is None and cost.exact > 0:
            scheme = choose(reached, entitled.bound.get(cost.allocation_id), cost, caps, pools)
        if scheme is None or cost.exact <= 0 or not scheme.rate(cost):
            reliefs.append(NOTHING)
            continue
        chosen[cost.allocation_id] = scheme
        limits = [left for left in (caps[scheme.scheme_id], pools[scheme.scheme_id]) if left is not None]
        amount = scheme.relief(cost, min(limits, default=None))
        _count(caps, pools, scheme.scheme_id, amount)
        reliefs.append(_relief(scheme.version_id, amount, scheme.programme_id is None))
    return reliefs


def above_minimum(schemes: Iterable[Entitlement], costs: Sequence[Cost]) -> list[Entitlement]:
    """The schemes whose minimum this month's eligible cost reaches."""
    return [
        each
        for each in schemes
        if not each.rules.minimum_micro_yuan
        or sum((cost.exact for cost in costs if each.rate(cost)), Fraction(0)) >= each.rules.minimum_micro_yuan
    ]


def choose(
    schemes: Sequence[Entitlement],
    bound_to: int | None,
    cost: Cost,
    caps: Mapping[int, int | None],
    pools: Mapping[int, int | None],
) -> Entitlement | None:
    """The one scheme for this contract: the one it stands in already, else the best that has something left."""
    fitting = [
        each
        for each in schemes
        if each.rate(cost)
        and (bound_to is None or each.scheme_id == bound_to or not each.rules.no_double)
        and caps[each.scheme_id] != 0
        and pools[each.scheme_id] != 0
    ]
    return min(fitting, key=lambda s: (s.programme_id is None, -s.rate(cost), s.scheme_id), default=None)


def _relief(version_id: int, amount: int, is_voucher: bool) -> Relief:
    if amount == 0:
        return NOTHING
    if is_voucher:
        return Relief(version_id, voucher_micro_yuan=amount)
    return Relief(version_id, subsidy_micro_yuan=amount)


def _count(caps: dict[int, int | None], pools: dict[int, int | None], scheme_id: int, amount: int) -> None:
    for left in (caps, pools):
        rest = left[scheme_id]
        if rest is not None:
            left[scheme_id] = rest - amount


def takes_of(costs: Sequence[Cost], reliefs: Sequence[Relief]) -> list[Take]:
    """What `service.take` is told: per version the sum of its lines, and whose contracts they are."""
    amounts: dict[int, int] = defaultdict(int)
    contracts: dict[int, set[int]] = defaultdict(set)
    for cost, each in zip(costs, reliefs, strict=True):
        if each.version_id is not None:
            amounts[each.version_id] += each.amount
            contracts[each.version_id].add(cost.allocation_id)
    return [Take(id, amounts[id], tuple(sorted(contracts[id]))) for id in sorted(amounts)]


def split(amount: int, payers: Sequence[Payer]) -> dict[str, int]:
    """Who pays how much of a subsidy, in whole fen; what does not divide goes to the first ones, a fen each."""
    parts = sum(payer.parts for payer in payers)
    if not parts:
        return {}
    fen = amount // units.MICRO_PER_FEN
    shares = {payer.name: fen * payer.parts // parts for payer in payers}
    rest = fen - sum(shares.values())
    for payer in payers[:rest]:
        shares[payer.name] += 1
    return {name: share * units.MICRO_PER_FEN for name, share in shares.items()}
