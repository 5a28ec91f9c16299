"""Offers against trying every start, and what they promise: to be had, at this price."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal import clock, units, verify
from compute_portal.bookings import offers, queries, service, waiting
from compute_portal.bookings.offers import Offer, Wish
from compute_portal.bookings.states import WaiterState
from compute_portal.db import Database
from compute_portal.policy import BookingPolicy, Policy
from compute_portal.pools import service as pools
from compute_portal.pools.availability import HOUR as SECONDS
from compute_portal.pools.prices import ListPrice, PriceBook, cost
from compute_portal.sentences import Refusal
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.pools.test_hours import FIRST, HOURS, Rows, availability_of, grid_of
from tests.compute_portal.pools.test_hours import pools as small_pools

BEGIN = dt.datetime.fromtimestamp(FIRST, dt.UTC)


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    """A price of the whole day that changes once, and perhaps another one for some hours."""
    price = st.integers(1, 40).map(lambda n: n * 1_234_567)
    first, day = dt.date(1960, 1, 1), clock.day_of(BEGIN)
    rows = [ListPrice(1, first, day, None, None, draw(price)), ListPrice(2, day + dt.timedelta(1), None, None, None, 7)]
    if draw(st.booleans()):
        begins = draw(st.integers(0, 23))
        rows.append(ListPrice(3, first, None, begins, (begins + draw(st.integers(1, 22))) % 24 + 1, draw(price)))
    return PriceBook(tuple(row for row in rows if row.from_hour != row.until_hour or row.from_hour is None))


@settings(max_examples=40)
@given(
    small_pools(), books(), st.integers(1, 8), st.integers(1, 6), st.integers(0, 14), st.integers(1, 5),
    st.lists(st.booleans(), min_size=HOURS, max_size=HOURS), st.integers(0, HOURS),
)  # fmt: skip
def test_the_offers_are_those_found_by_trying_every_start(
    rows: Rows, book: PriceBook, gpus: int, hours: int, most_fixed: int, apart: int, allowed: list[bool], last: int
) -> None:
    availability = availability_of(rows, "gpu")
    to_be_had: list[Offer] = []
    for n in range(HOURS - hours + 1):
        start, end = FIRST + n * SECONDS, FIRST + (n + hours) * SECONDS
        fits = availability.fits(gpus, start, end) and availability.peak_fixed(start, end) + gpus <= most_fixed
        if fits and all(allowed[n : n + hours]) and n <= last:
            begins, ends = BEGIN + n * HOUR, BEGIN + (n + hours) * HOUR
            to_be_had.append(Offer(begins, ends, cost(book.stretches(begins, ends), gpus)))

    def greedy(order: list[Offer]) -> tuple[Offer, ...]:
        found: list[Offer] = []
        for offer in order:
            if len(found) < 3 and all(abs(offer.starts_at - other.starts_at) >= apart * HOUR for other in found):
                found.append(offer)
        return tuple(found)

    found = offers.choose(
        grid_of(rows),
        book.stretches(BEGIN, BEGIN + HOURS * HOUR),
        Wish(gpus, hours, BEGIN, BEGIN + HOURS * HOUR),
        most_fixed=most_fixed,
        allowed=np.array(allowed),
        last_start=BEGIN + last * HOUR,
        most=3,
        apart_hours=apart,
    )
    assert found.earliest == greedy(to_be_had)
    assert found.cheapest == greedy(sorted(to_be_had, key=lambda offer: (offer.micro_yuan, offer.starts_at)))


@pytest.fixture
def rules(policy: Policy) -> BookingPolicy:
    return policy.bookings.model_copy(update={"fixed_share_percent": 100})


def find(cast: Cast, wish: Wish, rules: BookingPolicy, *, member: str = "chen") -> offers.Offers:
    with cast.database.read_only() as session:
        choice = queries.list_choices(session, cast.actor(member), NOW)[0]
        return offers.find(session, choice, wish, policy=rules, now=NOW)


def wish(gpus: int, hours: int, days: int = 3) -> Wish:
    return Wish(gpus, hours, NOW, NOW + days * 24 * HOUR)


def test_what_is_offered_can_be_booked_at_the_price_that_was_said(cast: Cast, rules: BookingPolicy) -> None:
    """Around bookings of others and of the own company, its limit, and a cheaper night."""
    cast.limit(cast.yusheng, 16)
    cast.submit(cast.fixed(gpus=24, start_in=4, hours=6, allocation_id=cast.other_allocation), rules, by=cast.stranger)
    cast.submit(cast.fixed(gpus=8, start_in=30, hours=4), rules)
    cast.database.transaction(
        lambda s: pools.set_tariff(
            s, cast.pool, from_on=dt.date(2026, 11, 19), price_micro_yuan=units.parse_yuan("9"), hours=(23, 7),
            by=cast.finance, now=NOW,
        )
    )  # fmt: skip
    found = find(cast, wish(16, 5), rules)
    assert found.earliest[0].starts_at > NOW
    assert found.cheapest[0].micro_yuan < found.earliest[0].micro_yuan
    with cast.database.read_only() as session:
        for offer in found.all:
            asked = dataclasses.replace(cast.fixed(16), starts_at=offer.starts_at, ends_at=offer.ends_at)
            quoted = service.quote(session, asked, by=cast.member, policy=rules, now=NOW)
            assert quoted.highest_micro_yuan == offer.micro_yuan


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (Wish(33, 1, NOW, NOW + 9 * HOUR), "more-than-the-pool"),
        (Wish(1, 24 * 14 + 1, NOW, NOW + 999 * HOUR), "window-too-long"),
        (Wish(1, 10, NOW, NOW + 9 * HOUR), "no-time-for-it"),
        (Wish(9, 1, NOW, NOW + 9 * HOUR), "over-the-limit"),
    ],
)
def test_what_no_window_could_mend_is_a_sentence(cast: Cast, rules: BookingPolicy, asked: Wish, sentence: str) -> None:
    if sentence == "over-the-limit":
        cast.limit(cast.yusheng, 8)
    with pytest.raises(Refusal) as refused:
        find(cast, asked, rules)
    assert refused.value.sentence.id == sentence


def keep(cast: Cast, rules: BookingPolicy, offer: Offer, gpus: int, now: dt.datetime = NOW) -> int:
    asked = dataclasses.replace(cast.fixed(gpus), starts_at=offer.starts_at, ends_at=offer.ends_at)
    return cast.database.transaction(lambda s: waiting.keep(s, asked, by=cast.member, policy=rules, now=now).id)


def test_what_is_kept_is_nobody_elses_for_ten_minutes_and_then_free_again(cast: Cast, rules: BookingPolicy) -> None:
    first = find(cast, wish(32, 4), rules).earliest[0]
    waiter = keep(cast, rules, first, 32)
    assert find(cast, wish(32, 4), rules, member="tang").earliest[0].starts_at == first.ends_at
    later = NOW + dt.timedelta(minutes=rules.offer_minutes)
    cast.database.transaction(lambda s: waiting.cascade(s, cast.pool, policy=rules, now=later))
    with cast.database.read_only() as session:
        assert queries.get_waiter(session, waiter, cast.member).state is WaiterState.LAPSED
        assert verify.run(session) == []
    assert find(cast, wish(32, 4), rules, member="tang").earliest[0] == first


def test_what_is_kept_is_booked_with_one_click_and_nobody_keeps_more_than_they_may_book(
    cast: Cast, rules: BookingPolicy
) -> None:
    waiters = []
    for _ in range(rules.fixed_open_most):
        waiters.append(keep(cast, rules, find(cast, wish(32, 4), rules).earliest[0], 32))
    with pytest.raises(Refusal) as refused:
        keep(cast, rules, find(cast, wish(32, 4), rules).earliest[0], 32)
    assert refused.value.sentence.id == "keeps-enough"
    booked = cast.database.transaction(lambda s: waiting.take(s, waiters[0], by=cast.member, policy=rules, now=NOW).id)
    with cast.database.read_only() as session:
        assert queries.get_booking(session, booked, cast.member).gpus == 32
        assert verify.run(session) == []


def test_the_grid_of_a_database_is_read_whole(cast: Cast, database: Database, rules: BookingPolicy) -> None:
    """Nobody's cards are forgotten: what a question finds free is what the next booking gets."""
    cast.submit(cast.fixed(gpus=20, start_in=2, hours=3), rules)
    free = find(cast, wish(12, 3), rules).earliest[0]
    none = find(cast, wish(13, 3), rules).earliest[0]
    assert free.starts_at == NOW + HOUR and none.starts_at == NOW + 5 * HOUR
