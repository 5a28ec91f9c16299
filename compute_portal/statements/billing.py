"""What the charges of a month come to, of one enterprise or of a thousand: read in bulk, priced, nothing written."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

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
from ..usage.sums import CHARGES, LINE, sums_of
from .models import Statement, StatementLine
from .pricing import Group, Price, Priced, Totals, price, total
from .states import COMPUTED

_MONTH: sa.BindParameter[str] = sa.bindparam("month")
_ADDED_UP = (
    sa.select(*LINE, sa.cast(sa.func.sum(CHARGES.c.gpu_seconds), sa.BigInteger).label("gpu_seconds"))
    .where(among(CHARGES.c.enterprise_id, "ids"), CHARGES.c.billed_in == _MONTH)
    .group_by(*LINE)
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


_OF_ENTERPRISES = sums_of(
    among(CHARGES.c.billed_in, "months"),
    among(CHARGES.c.enterprise_id, "ids"),
    by=(CHARGES.c.enterprise_id, CHARGES.c.billed_in),
)
_OF_DRAFTS = sums_of(
    CHARGES.c.billed_in == _MONTH,
    sa.exists().where(
        Statement.enterprise_id == CHARGES.c.enterprise_id,
        Statement.month == CHARGES.c.billed_in,
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


def drafts_before_subsidy(session: Session, month: str) -> Totals:
    """All drafts of the month together: one query and one row."""
    return _totals(*session.connection().execute(_OF_DRAFTS, {"month": month}).one())
