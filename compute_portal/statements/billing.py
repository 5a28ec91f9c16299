"""What the charges of a month come to, of one enterprise or of a thousand: read in bulk, priced, nothing written."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import units
from ..allocations.models import Allocation
from ..bookings.models import Booking
from ..db import among
from ..pools.models import Discount, Pool, Tariff
from ..pools.prices import Contract
from ..subsidies.queries import entitlements_of
from ..subsidies.rules import Take
from ..usage.models import Charge
from .models import Statement, StatementLine
from .pricing import TO_FEN, Group, Price, Priced, Totals, price, total
from .states import COMPUTED

_CHARGES = cast(sa.Table, Charge.__table__)
_KEY = [_CHARGES.c[name] for name in (
    "enterprise_id", "booking_id", "kind", "tariff_id", "discount_id", "weight_milli", "adjustment",
)]  # fmt: skip
_MONTH: sa.BindParameter[str] = sa.bindparam("month")
_ADDED_UP = (
    sa.select(*_KEY, sa.cast(sa.func.sum(_CHARGES.c.gpu_seconds), sa.BigInteger).label("gpu_seconds"))
    .where(among(_CHARGES.c.enterprise_id, "ids"), _CHARGES.c.billed_in == _MONTH)
    .group_by(*_KEY)
    .subquery()
)
# Adjustments last; in them and before them by booking, so that a statement reads the same however it came about.
_GROUPS = (
    sa.select(
        *_ADDED_UP.c, Tariff.price_micro_yuan, Discount.percent, Discount.price_micro_yuan, Booking.allocation_id,
        Allocation.programme_id, Allocation.subsidy_percent, Pool.model, Pool.name, Booking.title, Booking.gpus,
    )
    .join(Booking, Booking.id == _ADDED_UP.c.booking_id)
    .join(Pool, Pool.id == Booking.pool_id)
    .join(Allocation, Allocation.id == Booking.allocation_id)
    .join(Tariff, Tariff.id == _ADDED_UP.c.tariff_id)
    .outerjoin(Discount, Discount.id == _ADDED_UP.c.discount_id)
    .order_by(
        _ADDED_UP.c.enterprise_id, _ADDED_UP.c.adjustment, _ADDED_UP.c.booking_id, _ADDED_UP.c.kind,
        _ADDED_UP.c.tariff_id, sa.func.coalesce(_ADDED_UP.c.discount_id, 0), _ADDED_UP.c.weight_milli,
    )
)  # fmt: skip


class About(NamedTuple):
    """What a page says of a booking beside its numbers."""

    title: str
    gpus: int
    pool_name: str


class Months:
    """The charges of one month as priced lines, by enterprise."""

    def __init__(self) -> None:
        self.lines: dict[int, list[Priced]] = {}
        self.takes: dict[int, list[Take]] = {}
        self.about: dict[int, About] = {}

    def totals(self, enterprise_id: int, tax_permille: int) -> Totals:
        return total(self.lines.get(enterprise_id, ()), tax_permille)


def _groups_of(session: Session, month: str, enterprise_ids: Sequence[int], months: Months) -> dict[int, list[Group]]:
    """The charges billed in the month, added up: one query for any number of enterprises."""
    prices: dict[tuple[int, int | None, int], Price] = {}
    found: dict[int, list[Group]] = defaultdict(list)
    for (
        enterprise, booking, kind, tariff, discount, weight, adjustment, seconds, listed, percent, price_of_contract,
        allocation, programme, award, model, pool, title, gpus,
    ) in session.execute(_GROUPS, {"ids": enterprise_ids, "month": month}):  # fmt: skip
        if seconds == 0:
            continue  # charged and given back at one price: nothing is left to pay for
        known = prices.get((tariff, discount, weight))
        if known is None:
            contract = _contract_price(listed, percent, price_of_contract)
            known = prices[tariff, discount, weight] = Price(tariff, discount, weight, listed, contract)
        if booking not in months.about:
            months.about[booking] = About(title, gpus, pool)
        found[enterprise].append(
            Group(booking, kind, known, adjustment, seconds, allocation, programme, model, (award or 0) * 10)
        )
    return found


def _contract_price(listed: int, percent: int | None, price_of_contract: int | None) -> int:
    """As `Contract.price`; without a discount both are None."""
    if percent is None and price_of_contract is None:
        return listed
    forever = dt.date.max
    return Contract(0, None, None, forever, forever, percent, price_of_contract).price(listed)


def price_months(session: Session, month: str, enterprise_ids: Sequence[int], *, lock: bool = False) -> Months:
    """What each of these enterprises owes for the month by its charges so far.

    With `lock` what is left in the schemes stays true until the transaction ends.
    """
    months = Months()
    groups = _groups_of(session, month, enterprise_ids, months)
    entitled = entitlements_of(session, list(groups), month, lock=lock) if groups else {}
    credited = [g.booking_id for found in groups.values() for g in found if g.gpu_seconds < 0]
    before = _given_before(session, credited) if credited else {}
    pools: dict[int, int | None] = {}
    for enterprise_id, found in groups.items():
        bookings = {group.booking_id for group in found} if before else set()
        own = {key: given for key, given in before.items() if key[0] in bookings}
        months.lines[enterprise_id], months.takes[enterprise_id] = price(found, entitled.get(enterprise_id), pools, own)
    return months


def _given_before(
    session: Session, booking_ids: Iterable[int]
) -> Mapping[tuple[int, int, int | None, int], tuple[int, Fraction]]:
    """What closed lines of these bookings were relieved of, as a part of their exact contract amount."""
    rows = session.execute(
        sa.select(
            StatementLine.booking_id, StatementLine.tariff_id, StatementLine.discount_id, StatementLine.weight_milli,
            StatementLine.scheme_version_id, StatementLine.gpu_seconds, StatementLine.contract_price_micro_yuan,
            StatementLine.subsidy_micro_yuan + StatementLine.voucher_micro_yuan,
        )
        .join(
            Statement, sa.and_(Statement.id == StatementLine.statement_id, Statement.closing == StatementLine.closing)
        )
        .where(
            StatementLine.booking_id.in_(sorted(set(booking_ids))),
            StatementLine.gpu_seconds > 0,
            Statement.state.not_in(COMPUTED),
        )
        .order_by(StatementLine.id)
    )  # fmt: skip
    relieved: dict[tuple[int, int, int | None, int], tuple[int, int, Fraction]] = {}
    for booking, tariff, discount, weight, version, seconds, contract_price, amount in rows:
        if version is None:
            continue
        exact = Fraction(seconds * weight * contract_price, 1_000 * units.SECONDS_PER_HOUR)
        _, amounts, costs = relieved.get((booking, tariff, discount, weight), (version, 0, Fraction(0)))
        relieved[booking, tariff, discount, weight] = version, amounts + amount, costs + exact
    return {key: (version, amount / cost) for key, (version, amount, cost) in relieved.items() if cost}


# -- sums alone: what a page says of drafts. Priced by the database, because a month of the city has 100,000 lines


def fen_of(gpu_seconds: Any, rate: Any) -> Any:
    """`pricing.to_fen` in the integers of a database, for what is not negative; `rate` is weight times price.

    GPU-hours and the rest of an hour apart, and the rate's whole fen and the rest of it, so that no product passes
    2 ** 63 below 60 million GPU-hours or a rate of 10 ** 14 (100,000 yuan an hour at a weight of one).
    """
    hours, rest = gpu_seconds // units.SECONDS_PER_HOUR, gpu_seconds % units.SECONDS_PER_HOUR
    whole, part = rate // _RATE_OF_A_FEN, rate % _RATE_OF_A_FEN
    exact = hours * part * units.SECONDS_PER_HOUR + rest * rate
    return hours * whole + (2 * exact + TO_FEN) // (2 * TO_FEN)


_RATE_OF_A_FEN = 1_000 * units.MICRO_PER_FEN


def _sums(*these: sa.ColumnElement[bool], by: Sequence[sa.ColumnElement[Any]] = ()) -> sa.Select[*tuple[Any, ...]]:
    """GPU-seconds, and fen before and after discounts, of some charges; each line rounded as on its statement."""
    whole = sa.BigInteger()
    lines = (
        sa.select(*_KEY, _CHARGES.c.billed_in, sa.cast(sa.func.sum(_CHARGES.c.gpu_seconds), whole).label("seconds"))
        .where(*these)
        .group_by(*_KEY, _CHARGES.c.billed_in)
        .subquery()
    )
    listed, agreed = Tariff.price_micro_yuan, Discount.price_micro_yuan
    contract = sa.case(
        (agreed < listed, agreed),
        (agreed.is_not(None), listed),
        else_=listed * (100 - sa.func.coalesce(Discount.percent, 0)) // 100,
    )
    rates = (
        sa.select(
            *(lines.c[column.name] for column in by),
            lines.c.seconds,
            sa.func.abs(lines.c.seconds, type_=whole).label("size"),
            sa.case((lines.c.seconds < 0, -1), else_=1).label("sign"),
            (lines.c.weight_milli * sa.cast(listed, whole)).label("listed"),
            (lines.c.weight_milli * sa.cast(contract, whole)).label("contract"),
        )
        .join(Tariff, Tariff.id == lines.c.tariff_id)
        .outerjoin(Discount, Discount.id == lines.c.discount_id)
        .subquery()
    )
    kept = [rates.c[column.name] for column in by]
    return sa.select(
        *kept,
        sa.func.sum(rates.c.seconds),
        sa.func.sum(rates.c.sign * fen_of(rates.c.size, rates.c.listed)),
        sa.func.sum(rates.c.sign * fen_of(rates.c.size, rates.c.contract)),
    ).group_by(*kept)


_OF_ENTERPRISES = _sums(
    among(_CHARGES.c.billed_in, "months"),
    among(_CHARGES.c.enterprise_id, "ids"),
    by=(_CHARGES.c.enterprise_id, _CHARGES.c.billed_in),
)
_OF_ONE = _sums(_CHARGES.c.billed_in == _MONTH, _CHARGES.c.enterprise_id == sa.bindparam("enterprise"))
_OF_DRAFTS = _sums(
    _CHARGES.c.billed_in == _MONTH,
    sa.exists().where(
        Statement.enterprise_id == _CHARGES.c.enterprise_id,
        Statement.month == _CHARGES.c.billed_in,
        Statement.state.in_(COMPUTED),
    ),
)


def _totals(seconds: Any, listed_fen: Any, amount_fen: Any) -> Totals:
    listed, amount = int(listed_fen or 0) * units.MICRO_PER_FEN, int(amount_fen or 0) * units.MICRO_PER_FEN
    return Totals(int(seconds or 0), amount, 0, listed, listed - amount)


def sums_before_subsidy(
    session: Session, months: Collection[str], enterprise_ids: Collection[int]
) -> dict[tuple[int, str], Totals]:
    """What enterprises owe so far after discounts, by enterprise and month; subsidies and tax are left out.

    Each line is rounded as on its statement. One query, however many there are.
    """
    these = {"ids": list(enterprise_ids), "months": list(months)}
    rows = session.connection().execute(_OF_ENTERPRISES, these).all()
    return {(enterprise, month): _totals(*sums) for enterprise, month, *sums in rows}


def month_before_subsidy(session: Session, month: str, enterprise_id: int) -> Totals:
    """`sums_before_subsidy` of one enterprise's month."""
    asked = {"month": month, "enterprise": enterprise_id}
    return _totals(*session.connection().execute(_OF_ONE, asked).one())


def drafts_before_subsidy(session: Session, month: str) -> Totals:
    """All drafts of the month together: one query and one row."""
    return _totals(*session.connection().execute(_OF_DRAFTS, {"month": month}).one())
