"""What charges come to before subsidies and tax, added up and priced by the database: a month of the city has 100,000
lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import units
from ..pools.models import Discount, Tariff
from ..pools.prices import TO_FEN
from .models import Charge

# What one line of a statement adds up.
CHARGES = cast(sa.Table, Charge.__table__)
LINE = [CHARGES.c[name] for name in (
    "enterprise_id", "booking_id", "kind", "tariff_id", "discount_id", "weight_milli", "adjustment",
)]  # fmt: skip


def fen_of(gpu_seconds: Any, rate: Any) -> Any:
    """`statements.pricing.to_fen` in a database's integers, for what is not negative; `rate` is weight times price.

    GPU-hours and the rest of an hour apart, and the rate's whole fen and the rest of it, so that no product passes
    2 ** 63 below 60 million GPU-hours or a rate of 10 ** 14 (100,000 yuan an hour at a weight of one).
    """
    hours, rest = gpu_seconds // units.SECONDS_PER_HOUR, gpu_seconds % units.SECONDS_PER_HOUR
    whole, part = rate // _RATE_OF_A_FEN, rate % _RATE_OF_A_FEN
    exact = hours * part * units.SECONDS_PER_HOUR + rest * rate
    return hours * whole + (2 * exact + TO_FEN) // (2 * TO_FEN)


_RATE_OF_A_FEN = 1_000 * units.MICRO_PER_FEN


def sums_of(*these: sa.ColumnElement[bool], by: Sequence[sa.ColumnElement[Any]] = ()) -> sa.Select[*tuple[Any, ...]]:
    """GPU-seconds, and fen before and after discounts, of some charges; each line rounded as on its statement."""
    whole = sa.BigInteger()
    lines = (
        sa.select(*LINE, CHARGES.c.billed_in, sa.cast(sa.func.sum(CHARGES.c.gpu_seconds), whole).label("seconds"))
        .where(*these)
        .group_by(*LINE, CHARGES.c.billed_in)
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


@dataclass(frozen=True, slots=True)
class Spend:
    """What a month's charges come to so far, before subsidy and tax: GPU-seconds, and micro-yuan to the fen."""

    gpu_seconds: int
    list_micro_yuan: int
    net_micro_yuan: int


_OF_A_MONTH = sums_of(
    CHARGES.c.billed_in == sa.bindparam("month"), CHARGES.c.enterprise_id == sa.bindparam("enterprise")
)


def spend(session: Session, enterprise_id: int, month: str) -> Spend:
    """Everything billed in the month: usage, fees, credits, each rounded as the line of the statement. One query."""
    asked = {"month": month, "enterprise": enterprise_id}
    seconds, listed_fen, net_fen = session.connection().execute(_OF_A_MONTH, asked).one()
    return Spend(int(seconds or 0), int(listed_fen or 0) * units.MICRO_PER_FEN, int(net_fen or 0) * units.MICRO_PER_FEN)
