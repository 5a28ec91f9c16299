"""What a booking costs: quoted before the click, frozen for a fixed booking when it is confirmed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..allocations.models import Allocation
from ..db import among
from ..enterprises.models import Enterprise
from ..pools import queries as pools
from ..pools.models import Discount, Tariff
from ..pools.prices import Contract, PriceBook, PricePoint, Stretch, cost, lowest_and_highest
from .models import Booking, BookingPrice

_PRICES = cast(sa.Table, BookingPrice.__table__)
_FREEZE = sa.insert(_PRICES)


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-yuan for all of a booking, and per GPU-hour (contract price and weight applied).

    `off_peak_hour` is what an hour costs in the off-peak hours that it may meet; None where there are none.
    """

    lowest: int
    highest: int
    first_hour: int
    off_peak_hour: int | None = None
    stretches: tuple[Stretch, ...] = ()  # of a window


def of_window(
    book: PriceBook, start: dt.datetime, end: dt.datetime, gpus: int, *, size_class: str, programme_id: int
) -> Prices:
    """A fixed booking: each hour at its own price, as it will be frozen. Raises Refusal("no-price")."""
    stretches = book.stretches(start, end, size_class=size_class, programme_id=programme_id)
    amount = cost(stretches, gpus)
    off_peak = _off_peak(book, [stretch.point for stretch in stretches])
    return Prices(amount, amount, stretches[0].point.hour_micro_yuan, off_peak, tuple(stretches))


def of_run(
    book: PriceBook,
    earliest: dt.datetime,
    latest: dt.datetime,
    gpu_seconds: int,
    *,
    size_class: str,
    programme_id: int,
) -> Prices:
    """A flexible booking pays each hour's price when it runs: from the cheapest it may meet to the dearest."""
    points = book.points(earliest, latest, size_class=size_class, programme_id=programme_id)
    lowest, highest = lowest_and_highest(points, gpu_seconds)
    return Prices(lowest, highest, points[0].hour_micro_yuan, _off_peak(book, points))


def _off_peak(book: PriceBook, points: Iterable[PricePoint]) -> int | None:
    cheap = {tariff.id for tariff in book.tariffs if tariff.off_peak}
    return min((point.hour_micro_yuan for point in points if point.tariff_id in cheap), default=None)


def freeze(
    session: Session, booking: Booking, start: dt.datetime, end: dt.datetime, known: Sequence[Stretch] = ()
) -> list[Stretch]:
    """Write down the prices of a part of a fixed booking's window (all of it, or an extension), as they stand now.

    `known` are these prices where the caller has them. Raises Refusal("no-price").
    """
    stretches = list(known)
    if not stretches:
        size_class, programme_id = session.execute(
            sa.select(Enterprise.size_class, Allocation.programme_id)
            .join_from(Allocation, Enterprise, Enterprise.id == Allocation.enterprise_id)
            .where(Allocation.id == booking.allocation_id)
        ).one()
        book = pools.price_book(session, booking.pool_id)
        stretches = book.stretches(start, end, size_class=str(size_class), programme_id=programme_id)
    session.execute(
        _FREEZE,
        [
            {
                "booking_id": booking.id,
                "starts_at": each.starts_at,
                "ends_at": each.ends_at,
                "tariff_id": each.point.tariff_id,
                "discount_id": each.point.discount_id,
                "weight_milli": each.point.weight_milli,
            }
            for each in stretches
        ],
    )
    return stretches


_FROZEN = (
    sa.select(
        _PRICES.c.booking_id, _PRICES.c.starts_at, _PRICES.c.ends_at, _PRICES.c.weight_milli, Tariff.id,
        Tariff.price_micro_yuan, Discount.id, Discount.percent, Discount.price_micro_yuan,
    )
    .join(Tariff, Tariff.id == _PRICES.c.tariff_id)
    .outerjoin(Discount, Discount.id == _PRICES.c.discount_id)
    .where(among(_PRICES.c.booking_id, "ids"))
    .order_by(_PRICES.c.booking_id, _PRICES.c.starts_at)
)  # fmt: skip


def frozen(session: Session, booking_ids: Iterable[int]) -> dict[int, list[Stretch]]:
    """The frozen prices of fixed bookings in order of time; a booking without any is left out. One query."""
    ids = sorted(set(booking_ids))
    found: dict[int, list[Stretch]] = {}
    if not ids:
        return found
    for row in session.execute(_FROZEN, {"ids": ids}):
        booking_id, starts_at, ends_at, weight, tariff_id, price, discount_id, percent, contract = row
        point = price_point(tariff_id, price, discount_id, percent, contract, weight)
        found.setdefault(booking_id, []).append(Stretch(starts_at, ends_at, point))
    return found


def price_point(
    tariff_id: int,
    list_micro_yuan: int,
    discount_id: int | None,
    percent: int | None,
    contract_micro_yuan: int | None,
    weight_milli: int,
) -> PricePoint:
    """From the columns of a tariff and, perhaps, of the discount that goes with it."""
    contract = list_micro_yuan
    if discount_id is not None:
        no_day = dt.date.min
        row = Contract(discount_id, None, None, no_day, no_day, percent, contract_micro_yuan)
        contract = row.price(list_micro_yuan)
    return PricePoint(tariff_id, list_micro_yuan, discount_id, contract, weight_milli)


def point_at(stretches: Sequence[Stretch], instant: dt.datetime) -> PricePoint:
    """The frozen price of an instant; before the first row that one's, after the last that one's."""
    point: Any = stretches[0].point
    for each in stretches:
        if each.starts_at <= instant:
            point = each.point
    return cast(PricePoint, point)
