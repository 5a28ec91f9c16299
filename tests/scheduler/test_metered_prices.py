"""What is metered stands at the price of its hour: off-peak, discount, weight, share and slice."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.bookings import prices
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Attempt, BookingPrice
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node
from compute_portal.programmes import service as programmes
from compute_portal.sentences import Refusal
from compute_portal.usage.models import Charge, UsageRecord
from tests.cast import HOUR, NOW
from tests.scheduler.conftest import Town

TOMORROW = dt.date(2026, 11, 19)
SPRING = dt.date(2027, 3, 31)
NIGHT_BEGINS = dt.datetime(2026, 11, 19, 14, 0, tzinfo=dt.UTC)  # 22:00 in Shanghai


def night(town: Town, **more: Any) -> int:
    def work(session: Session) -> int:
        return pools.set_tariff(
            session, town.cast.pool, from_on=TOMORROW, price_micro_yuan=8_000_000, hours=(22, 8), by=town.cast.finance,
            now=NOW, **more,
        ).id  # fmt: skip

    return town.cast.database.transaction(work)


def discount(town: Town, **scope: Any) -> int:
    def work(session: Session) -> int:
        return programmes.set_discount(
            session, town.cast.pool, from_on=TOMORROW, until_on=SPRING, by=town.cast.finance, now=NOW, **scope
        ).id

    return town.cast.database.transaction(work)


def weigh(town: Town, milli: int, day: dt.date = TOMORROW, slice: str = "") -> None:
    town.cast.database.transaction(
        lambda s: (
            pools.set_pool_weight(
                s, town.cast.pool, from_on=day, weight_milli=milli, slice=slice, by=town.cast.finance, now=NOW
            ).id
        )
    )


def run(town: Town, id: int, start: dt.datetime, hours: int) -> None:
    town.cycle(start)
    town.cycle(start + hours * HOUR)
    town.meter(start + hours * HOUR)


def rows(town: Town, id: int) -> list[tuple[int, int | None, int, int]]:
    """(tariff, discount, weight, GPU-seconds), added up in order of time."""
    found: dict[tuple[int, int | None, int], int] = {}
    with town.cast.database.read_only() as session:
        for charge in session.scalars(sa.select(Charge).where(Charge.booking_id == id).order_by(Charge.id)):
            key = charge.tariff_id, charge.discount_id, charge.weight_milli
            found[key] = found.get(key, 0) + charge.gpu_seconds
    return [(*key, seconds) for key, seconds in found.items()]


def test_the_same_booking_at_night_is_priced_by_the_night_book(town: Town) -> None:
    price = night(town)
    start = NIGHT_BEGINS - HOUR / 2
    id = town.flexible(gpus=2, hours=2, now=start)
    run(town, id, start, 2)
    assert rows(town, id) == [(1, None, 1_000, 2 * 1_800), (price, None, 1_000, 2 * 5_400)]


def test_a_fixed_booking_is_frozen_at_confirmation_hour_by_hour_and_later_prices_do_not_reach_it(town: Town) -> None:
    price, contract = night(town), discount(town, programme_id=town.cast.programme, percent=20)
    town.cast.now = NIGHT_BEGINS - 4 * HOUR
    id = town.fixed(gpus=8, start_in=2, hours=4)
    with town.cast.database.read_only() as session:
        frozen = session.scalars(sa.select(BookingPrice).where(BookingPrice.booking_id == id)).all()
    assert [(row.tariff_id, row.discount_id, row.ends_at - row.starts_at) for row in frozen] == [
        (1, contract, 2 * HOUR), (price, contract, 2 * HOUR),
    ]  # fmt: skip
    town.cast.database.transaction(
        lambda s: (
            pools.set_tariff(
                s, town.cast.pool, from_on=dt.date(2026, 11, 20), price_micro_yuan=1, by=town.cast.finance,
                now=town.cast.now,
            ).id
        )
    )  # fmt: skip
    run(town, id, NIGHT_BEGINS - 2 * HOUR, 4)
    assert rows(town, id) == [(1, contract, 1_000, 57_600), (price, contract, 1_000, 57_600)]


def test_what_was_quoted_is_what_the_charges_cost(town: Town) -> None:
    night(town)
    discount(town, size_class="small", percent=10)
    weigh(town, 1_250)
    town.cast.now = NIGHT_BEGINS - 4 * HOUR
    asked = town.cast.fixed(gpus=8, start_in=2, hours=4)
    with town.cast.database.read_only() as session:
        quoted = bookings.quote(session, asked, by=town.cast.member, policy=town.policy.bookings, now=town.cast.now)
    id = town.cast.submit(asked, town.policy.bookings)
    run(town, id, NIGHT_BEGINS - 2 * HOUR, 4)
    with town.cast.database.read_only() as session:
        frozen = prices.frozen(session, [id])[id]
    assert sum(seconds for *_, seconds in rows(town, id)) == quoted.gpu_seconds
    assert prices.cost(frozen, 8) == quoted.highest_micro_yuan == quoted.lowest_micro_yuan
    assert quoted.highest_micro_yuan == 8 * 1_250 * 9 * (2 * 16_500_000 + 2 * 8_000_000) // 10_000
    assert quoted.off_peak_micro_yuan == 9_000_000


def test_use_before_and_after_a_new_weight_is_priced_by_date(town: Town) -> None:
    weigh(town, 800)
    midnight = clock.start_of_day(TOMORROW)
    id = town.flexible(gpus=1, hours=2, now=midnight - HOUR)
    run(town, id, midnight - HOUR, 2)
    assert rows(town, id) == [(1, None, 1_000, 3_600), (1, None, 800, 3_600)]


def test_half_of_the_cpus_of_an_eight_card_node_is_four_gpu_hours_per_hour(town: Town) -> None:
    id = town.flexible(gpus=1, hours=2)
    town.cycle(NOW)

    def reported(session: Session) -> None:
        session.execute(sa.update(Node).values(cpus=128, memory_gib=2_048))
        session.execute(sa.update(Attempt).where(Attempt.booking_id == id).values(cpus=64, memory_gib=100))

    town.cast.database.transaction(reported)
    town.cycle(NOW + 2 * HOUR)
    town.meter(NOW + 2 * HOUR)
    with town.cast.database.read_only() as session:
        shares = session.execute(sa.select(UsageRecord.share_milli, UsageRecord.gpu_seconds)).all()
    assert shares == [(4_000, 4 * 3_600)] * 2
    assert town.balance().used == 8 * 3_600


def test_a_quarter_of_a_card_for_four_hours_is_one_gpu_hour(town: Town) -> None:
    weigh(town, 250, dt.date(2026, 1, 1), "2g.20gb")
    id = town.flexible(gpus=1, hours=4)
    town.cycle(NOW)
    town.cast.database.transaction(
        lambda s: s.execute(sa.update(Attempt).where(Attempt.booking_id == id).values(slice="2g.20gb"))
    )
    town.cycle(NOW + 4 * HOUR)
    town.meter(NOW + 4 * HOUR)
    assert town.charged(id) == 3_600
    with town.cast.database.read_only() as session:
        assert set(session.scalars(sa.select(UsageRecord.slice))) == {"2g.20gb"}
    assert town.balance().held == 0


def test_off_peak_hours_have_a_limit_of_their_own(town: Town) -> None:
    night(town, gpus_most=24)
    town.cast.limit(town.cast.yusheng, 8)
    town.cast.now = NIGHT_BEGINS - 4 * HOUR
    with pytest.raises(Refusal, match="over-the-limit-then"):
        town.fixed(gpus=16, start_in=3, hours=3)  # an hour of it lies before the night
    town.fixed(gpus=16, start_in=4, hours=3)
    with pytest.raises(Refusal, match="over-the-limit-then"):
        town.fixed(gpus=16, start_in=5, hours=3)
    with pytest.raises(Refusal, match="over-the-limit"):
        town.flexible(gpus=16)
