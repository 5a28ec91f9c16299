"""Every GPU-second that was granted is charged exactly once, however it is cut and whatever comes in between."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.bookings import attempts
from compute_portal.bookings.states import AttemptOutcome, BookingState
from compute_portal.ledger import service as ledger
from compute_portal.lifecycle import HistoryEntry
from compute_portal.pools import service as pools
from compute_portal.pools.prices import ListPrice, PriceBook, PricePoint, Stretch
from compute_portal.statements import service as statements
from compute_portal.statements.models import Statement
from compute_portal.usage import service as usage
from compute_portal.usage.models import Charge
from scheduler import metering
from scheduler.context import PassFailed
from scheduler.metering import Due
from tests.cast import HOUR
from tests.scheduler.conftest import Town

MINUTE = dt.timedelta(minutes=1)
BASE = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)  # three days before a month's end in Shanghai

instants = st.integers(0, 6 * 86_400).map(lambda second: BASE + dt.timedelta(seconds=second))
lengths = st.integers(0, 3 * 86_400).map(lambda second: dt.timedelta(seconds=second))
days = st.lists(st.integers(0, 9), max_size=4, unique=True)


def book(first_days: list[int]) -> PriceBook:
    first = [clock.day_of(BASE) + dt.timedelta(days=day) for day in (-1, *sorted(first_days))]
    last = [day - dt.timedelta(days=1) for day in first[1:]]
    return PriceBook(
        tuple(
            ListPrice(number, from_on, until_on, None, None, price_micro_yuan=number)
            for number, (from_on, until_on) in enumerate(zip(first, [*last, None], strict=True), start=1)
        )
    )


def due(start: dt.datetime, end: dt.datetime, frozen: tuple[Stretch, ...] = ()) -> Due:
    return Due(1, "booking-1-1", 1, 1, 1, 1, None, 3, "small", 1, start, end, whole=True, frozen=frozen)


@given(instants, lengths, days)
def test_pieces_are_the_whole_and_each_lies_in_one_hour_month_and_tariff(
    start: dt.datetime, length: dt.timedelta, first_days: list[int]
) -> None:
    end, prices = start + length, book(first_days)
    pieces = metering.pieces(due(start, end), prices)
    assert sum(piece.gpu_seconds for piece in pieces) == 3 * int(length.total_seconds())
    instants = [start, *(piece.ends_at for piece in pieces)]
    assert [piece.starts_at for piece in pieces] == instants[:-1]
    assert instants[-1] == end
    for piece in pieces:
        last = piece.ends_at - dt.timedelta(seconds=1)
        assert clock.floor_hour(piece.starts_at) == clock.floor_hour(last)
        assert clock.month_of(piece.starts_at) == clock.month_of(last)
        assert clock.day_of(piece.starts_at) == clock.day_of(last)
        assert prices.at(piece.starts_at).tariff_id == prices.at(last).tariff_id == piece.tariff_id


@given(instants, lengths)
def test_a_frozen_price_holds_for_the_whole_window(start: dt.datetime, length: dt.timedelta) -> None:
    frozen = Stretch(start, start + length, PricePoint(42, 1, None, 1))
    pieces = metering.pieces(due(start, start + length, (frozen,)), book([0, 1, 2, 3]))
    assert {piece.tariff_id for piece in pieces} <= {42}


@given(instants, lengths, st.lists(instants, max_size=5))
def test_however_often_it_is_metered_meanwhile_the_parts_make_the_whole(
    start: dt.datetime, length: dt.timedelta, passes: list[dt.datetime]
) -> None:
    """Passes at any instants while it runs, then one after its end: the same pieces as one pass alone."""
    end = start + length
    metered, found = start, []
    for now in [*sorted(passes), end + HOUR]:
        over = now >= end
        until, whole = metering._until(AttemptOutcome.ENDED if over else None, end if over else None, end, None, now)
        assert whole is over
        if metered < until:
            found += metering.pieces(due(metered, until), book([1, 4]))
            metered = until
    once = metering.pieces(due(start, end), book([1, 4]))
    assert [(p.starts_at, p.ends_at, p.tariff_id) for p in found] == [
        (p.starts_at, p.ends_at, p.tariff_id) for p in once
    ]


# -- in the database --------------------------------------------------------------------------------------------------


def run_until(town: Town, id: int, hours: float) -> dt.datetime:
    """A running booking whose end was reached; nothing is metered yet."""
    town.cycle(town.cast.now)
    end = town.cast.now + hours * HOUR
    town.cycle(end)
    assert town.state(id) is BookingState.FINISHED
    return end


def test_what_runs_is_metered_up_to_the_last_full_hour(town: Town) -> None:
    now = town.cast.now + 10 * MINUTE
    id = town.flexible(gpus=2, hours=5)
    town.cycle(now)
    assert town.meter(now + 40 * MINUTE) == 0
    assert town.meter(now + 50 * MINUTE) == 2 * 50 * 60
    assert town.meter(now + 50 * MINUTE) == 0
    assert town.meter(now + 3 * HOUR) == 2 * 2 * 3600
    assert town.charged(id) == 2 * (50 + 120) * 60


def test_pieces_told_twice_and_in_any_order_charge_the_same(town: Town) -> None:
    id = town.flexible(gpus=2, hours=4)
    end = run_until(town, id, 4)
    with town.cast.database.read_only() as session:
        (one,), _ = metering.due(session, end)
        prices = metering.price_books(session, [one.pool_id])[one.pool_id]
    pieces = metering.pieces(one, prices)

    def record(some: list[usage.Piece], whole: bool) -> int:
        return town.cast.database.transaction(
            lambda s: usage.record(
                s,
                one.enterprise_id,
                some,
                whole=frozenset({one.attempt_id} if whole else ()),
                half_life_days=7.0,
                now=end,
            )
        )

    assert record(pieces[:2], whole=False) == 2 * 2 * 3600
    assert record([*reversed(pieces)], whole=True) == 2 * 2 * 3600  # the first two are known
    assert record(pieces, whole=True) == 0
    town.meter(end)
    assert town.charged(id) == 2 * 4 * 3600


@pytest.mark.parametrize(
    "step",
    [
        (usage, "record"), (usage, "_write"), (usage, "_post"), (usage, "ensure_month"), (ledger, "charge"),
        (ledger, "post"), (statements, "open_draft"), (attempts, "settle"), (attempts, "move_all"),
        (ledger, "release_all"),
    ],
    ids=lambda step: f"{step[0].__name__.split('.')[1]}.{step[1]}",
)  # fmt: skip
def test_a_pass_that_dies_after_any_write_charges_exactly_once_in_the_end(
    town: Town, break_after: Any, step: tuple[object, str]
) -> None:
    first, second = town.flexible(gpus=2, hours=3), town.flexible(gpus=3, hours=3)
    end = run_until(town, first, 3)
    break_after(*step)
    with pytest.raises(BaseException, match=step[1]):
        town.meter(end)
    town.meter(end + MINUTE)
    assert (town.charged(first), town.charged(second)) == (2 * 3 * 3600, 3 * 3 * 3600)
    assert town.state(first) is town.state(second) is BookingState.SETTLED
    assert (town.balance().used, town.balance().held) == (5 * 3 * 3600, 0)


def test_a_new_price_counts_from_its_first_day_on(town: Town) -> None:
    price = units.parse_yuan("20")
    tomorrow = clock.day_of(town.cast.now) + dt.timedelta(days=1)
    new = town.cast.database.transaction(
        lambda s: (
            pools.set_tariff(
                s, town.cast.pool, from_on=tomorrow, price_micro_yuan=price, by=town.cast.finance, now=town.cast.now
            ).id
        )
    )
    id = town.flexible(gpus=1, hours=24)  # from 10:00 in Shanghai: 14 hours before midnight
    town.meter(run_until(town, id, 24))
    with town.cast.database.read_only() as session:
        after = session.scalar(
            sa.select(sa.func.sum(Charge.gpu_seconds)).where(Charge.booking_id == id, Charge.tariff_id == new)
        )
    assert (after, town.charged(id)) == (10 * 3600, 24 * 3600)


def test_a_fixed_booking_keeps_the_price_of_its_confirmation(town: Town) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=24)
    tomorrow = clock.day_of(town.cast.now) + dt.timedelta(days=1)
    town.cast.database.transaction(
        lambda s: (
            pools.set_tariff(
                s, town.cast.pool, from_on=tomorrow, price_micro_yuan=1, by=town.cast.finance, now=town.cast.now
            ).id
        )
    )
    town.cycle(town.cast.now + HOUR)
    town.cycle(town.cast.now + 25 * HOUR)
    town.meter(town.cast.now + 25 * HOUR)
    with town.cast.database.read_only() as session:
        tariffs = set(session.scalars(sa.select(Charge.tariff_id).where(Charge.booking_id == id)))
    assert tariffs == {town.booking(id).tariff_id}
    assert town.charged(id) == 8 * 24 * 3600


def test_a_run_over_the_end_of_a_month_lies_in_both(town: Town) -> None:
    start = dt.datetime(2026, 11, 30, 13, 30, tzinfo=dt.UTC)  # 21:30 in Shanghai
    id = town.flexible(gpus=1, hours=5, now=start)
    town.cycle(start)
    town.cycle(start + 5 * HOUR)
    town.meter(start + 5 * HOUR)
    with town.cast.database.read_only() as session:
        billed = {
            month: int(seconds)
            for month, seconds in session.execute(
                sa.select(Charge.billed_in, sa.func.sum(Charge.gpu_seconds)).group_by(Charge.billed_in)
            )
        }
        drafts = set(session.scalars(sa.select(Statement.month)))
    assert billed == {"2026-11": 150 * 60, "2026-12": 150 * 60}
    assert drafts == {"2026-11", "2026-12"}
    assert town.charged(id) == 5 * 3600


def test_what_has_no_price_is_named_and_the_others_are_charged(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    id, other = town.flexible(gpus=1, hours=1), town.flexible(gpus=2, hours=1)
    end = run_until(town, id, 1)
    real = metering.pieces

    def without_price(one: Due, prices: PriceBook, sizes: Any) -> list[usage.Piece]:
        return real(one, PriceBook() if one.booking_id == id else prices, sizes)

    monkeypatch.setattr(metering, "pieces", without_price)
    with pytest.raises(PassFailed, match=f"booking-{id}-1: no-price"):
        town.meter(end)
    assert town.charged(other) == 2 * 3600
    assert (town.charged(id), town.state(id)) == (0, BookingState.FINISHED)
    monkeypatch.undo()
    town.meter(end)
    assert town.charged(id) == 3600


def test_one_bad_attempt_is_named_and_the_rest_of_its_enterprise_is_charged(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = town.flexible(gpus=1, hours=1), town.flexible(gpus=2, hours=1)
    end = run_until(town, bad, 1)
    real = usage._post

    def refuses(session: Session, records: Any, *args: Any) -> None:
        if any(piece.booking_id == bad for _, piece in records):
            raise ArithmeticError("damaged")
        real(session, records, *args)

    monkeypatch.setattr(usage, "_post", refuses)
    with pytest.raises(PassFailed, match=f"booking-{bad}-1: ArithmeticError: damaged"):
        town.meter(end)
    assert (town.charged(bad), town.charged(good)) == (0, 2 * 3600)
    monkeypatch.undo()
    town.meter(end)
    assert town.charged(bad) == 3600


def test_settlement_names_what_was_charged_and_what_came_back(town: Town) -> None:
    id = town.flexible(gpus=4, hours=1)
    town.meter(run_until(town, id, 1))
    with town.cast.database.read_only() as session:
        why = session.scalar(
            sa.select(HistoryEntry.why).where(HistoryEntry.subject_id == id, HistoryEntry.verb == "settle")
        )
    assert why == {"id": "settled-hours", "used": 4 * 3600, "back": 0}


def test_a_pass_over_more_attempts_than_one_look_takes_them_all(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [town.flexible(gpus=1, hours=1) for _ in range(7)]
    end = run_until(town, ids[0], 1)
    monkeypatch.setattr(metering, "ATTEMPTS", 3)
    assert town.meter(end) == 7 * 3600
