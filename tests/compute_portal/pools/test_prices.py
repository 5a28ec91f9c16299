"""The price of any hour is one price, and money is rounded once."""

from __future__ import annotations

import datetime as dt
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal import clock
from compute_portal.pools.prices import (
    Contract,
    ListPrice,
    PriceBook,
    Stretch,
    Weight,
    cost,
    exact,
    hours_meet,
    in_hours,
    to_fen,
)
from compute_portal.sentences import Refusal

FIRST = dt.date(2026, 11, 1)
START = clock.start_of_day(FIRST)
HOUR = dt.timedelta(hours=1)
YUAN = 1_000_000


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def at(number: int, hour: int = 12) -> dt.datetime:
    return clock.start_of_day(day(number)) + hour * HOUR


DAY_PRICE = ListPrice(1, day(0), None, None, None, 16 * YUAN)
NIGHT_PRICE = ListPrice(2, day(0), None, 22, 8, 8 * YUAN)


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    """Prices as the verbs would let them stand: days that follow each other, off-peak hours that do not meet."""
    firsts = sorted(draw(st.sets(st.integers(0, 20), max_size=3)) | {0})
    lasts = [first - 1 for first in firsts[1:]]
    tariffs = [
        ListPrice(id, day(first), None if last is None else day(last), None, None, id * YUAN)
        for id, (first, last) in enumerate(zip(firsts, [*lasts, None], strict=True), start=1)
    ]
    if draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(0, 23), min_size=2, max_size=4)))
        for id, (first, until) in enumerate(zip(cuts, [*cuts[1:], cuts[0]], strict=True), start=10):
            if draw(st.booleans()):
                begin, length = draw(st.integers(0, 15)), draw(st.integers(0, 15))
                tariffs.append(ListPrice(id, day(begin), day(begin + length), first, until, id * YUAN))
    scopes = draw(st.sets(st.sampled_from([(None, "small"), (1, None), (1, "small"), (2, None), (None, "large")])))
    discounts = []
    for id, (programme_id, size) in enumerate(sorted(scopes, key=str), start=100):
        begin, length = draw(st.integers(0, 15)), draw(st.integers(0, 15))
        percent = draw(st.one_of(st.none(), st.integers(1, 100)))
        price = None if percent else draw(st.integers(0, 30)) * YUAN
        discounts.append(Contract(id, programme_id, size, day(begin), day(begin + length), percent, price))
    weights = [Weight("", day(n), draw(st.integers(1, 5_000))) for n in draw(st.sets(st.integers(0, 20), max_size=2))]
    return PriceBook(tuple(tariffs), tuple(discounts), tuple(weights))


@given(books(), st.integers(0, 30 * 24 - 1))
def test_any_hour_has_exactly_one_price_whoever_asks(book: PriceBook, hour: int) -> None:
    """Asked in another way: every row that may hold, with what the rules say goes before."""
    instant = START + hour * HOUR
    on, of_day = clock.day_of(instant), hour % 24
    holding = [t for t in book.tariffs if t.from_on <= on <= (t.until_on or dt.date.max)]
    night = [t for t in holding if t.off_peak and in_hours(of_day, t.from_hour or 0, t.until_hour or 0)]
    all_day = [t for t in holding if not t.off_peak]
    assert len(all_day) == 1 and len(night) <= 1
    point = book.at(instant, size_class="small", programme_id=1)
    expected = (night or all_day)[0]
    assert (point.tariff_id, point.list_micro_yuan) == (expected.id, expected.price_micro_yuan)
    mine = {
        (d.programme_id, d.size_class): d
        for d in book.discounts
        if d.from_on <= on <= d.until_on and d.programme_id in (1, None) and d.size_class in ("small", None)
    }
    order = [(1, "small"), (1, None), (None, "small")]
    wins = next((mine[scope] for scope in order if scope in mine), None)
    assert point.discount_id == (None if wins is None else wins.id)
    assert 0 <= point.contract_micro_yuan <= point.list_micro_yuan
    weights = [w.weight_milli for w in sorted(book.weights, key=lambda w: w.from_on) if w.from_on <= on]
    assert point.weight_milli == (weights[-1] if weights else 1000)


@given(books(), st.integers(0, 30 * 24 * 60), st.integers(1, 5 * 24 * 60))
def test_between_two_borders_the_price_stays(book: PriceBook, minute: int, length: int) -> None:
    start = START + dt.timedelta(minutes=minute)
    end = start + dt.timedelta(minutes=length)
    stretches = book.stretches(start, end, size_class="small", programme_id=1)
    assert (stretches[0].starts_at, stretches[-1].ends_at) == (start, end)
    assert all(one.ends_at == two.starts_at for one, two in pairwise(stretches))
    assert all(one.point != two.point for one, two in pairwise(stretches))
    for stretch in stretches:
        for instant in (stretch.starts_at, stretch.ends_at - dt.timedelta(seconds=1)):
            assert book.at(instant, size_class="small", programme_id=1) == stretch.point
    found = set(book.points(start, end, size_class="small", programme_id=1))
    assert found == {stretch.point for stretch in stretches}


@given(books(), st.integers(0, 20), st.integers(0, 30))
def test_prices_of_a_long_time_are_those_of_its_hours(book: PriceBook, first: int, days: int) -> None:
    start, end = at(first, 5), at(first + days, 17)
    hours = {book.at(start + n * HOUR) for n in range(days * 24 + 12)}
    assert set(book.points(start, end)) == hours


def test_the_night_begins_and_ends_to_the_second() -> None:
    book = PriceBook((DAY_PRICE, NIGHT_PRICE))
    second = dt.timedelta(seconds=1)
    for border, before, after in ((at(3, 22), 1, 2), (at(4, 8), 2, 1)):
        assert (book.at(border - second).tariff_id, book.at(border).tariff_id) == (before, after)
    assert book.at(at(4, 0)).tariff_id == 2  # over midnight
    assert book.borders(at(3, 20), at(4, 20)) == [at(3, 22), at(4, 8)]


def test_an_off_peak_price_holds_on_its_days_only() -> None:
    book = PriceBook((DAY_PRICE, ListPrice(2, day(2), day(3), 22, 8, 1)))
    assert [book.at(at(n, 23)).tariff_id for n in range(5)] == [1, 1, 2, 2, 1]
    assert [book.at(at(n, 3)).tariff_id for n in range(5)] == [1, 1, 2, 2, 1]  # each day's own early hours


def test_the_contract_of_programme_and_size_goes_before_the_programmes_and_that_before_the_sizes() -> None:
    both = Contract(3, 7, "small", day(0), day(5), None, 10 * YUAN)
    programme = Contract(4, 7, None, day(0), day(10), 20, None)
    size = Contract(5, None, "small", day(0), day(15), 50, None)
    book = PriceBook((DAY_PRICE,), (size, programme, both))

    def found(number: int, size_class: str, programme_id: int) -> tuple[int | None, int]:
        point = book.at(at(number), size_class=size_class, programme_id=programme_id)
        return point.discount_id, point.contract_micro_yuan

    assert found(5, "small", 7) == (3, 10 * YUAN)
    assert found(6, "small", 7) == (4, 12_800_000)
    assert found(11, "small", 7) == (5, 8 * YUAN)
    assert found(5, "large", 7) == (4, 12_800_000)
    assert found(5, "small", 8) == (5, 8 * YUAN)
    assert found(16, "small", 7) == (None, 16 * YUAN)


def test_a_contract_price_is_never_above_the_list_price() -> None:
    book = PriceBook((DAY_PRICE, NIGHT_PRICE), (Contract(3, 7, None, day(0), day(5), None, 10 * YUAN),))
    assert book.at(at(1, 12), programme_id=7).contract_micro_yuan == 10 * YUAN
    assert book.at(at(1, 23), programme_id=7).contract_micro_yuan == 8 * YUAN


def test_a_weight_counts_from_its_day_on_and_slices_have_their_own() -> None:
    book = PriceBook((DAY_PRICE,), (), (Weight("", day(3), 800), Weight("1g.10gb", day(0), 125)))
    assert [book.at(at(n)).weight_milli for n in (2, 3)] == [1000, 800]
    assert [book.weight_at(at(4), slice) for slice in ("", "1g.10gb", "7g.80gb")] == [800, 125, 1000]
    before, after = (book.at(at(n)).contract_of(3600) for n in (2, 3))
    assert (before, after) == (16 * YUAN, Fraction(12_800_000))


def test_before_the_first_price_there_is_none() -> None:
    with pytest.raises(Refusal, match="no-price"):
        PriceBook((DAY_PRICE,)).at(at(-1))
    assert PriceBook((DAY_PRICE,)).find(at(-1)) is None


@given(st.integers(0, 23), st.integers(1, 24), st.integers(0, 23), st.integers(1, 24))
def test_parts_of_the_day_meet_when_they_share_an_hour(first: int, until: int, other: int, other_until: int) -> None:
    if first == until or other == other_until:
        return
    shared = [h for h in range(24) if in_hours(h, first, until) and in_hours(h, other, other_until)]
    assert hours_meet(first, until, other, other_until) == bool(shared)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.integers(1, 3_000), st.integers(0, 10**8))
def test_what_is_added_before_it_is_rounded_is_rounded_once(parts: list[int], weight: int, price: int) -> None:
    whole = exact(sum(parts), weight, price)
    assert whole == sum(exact(part, weight, price) for part in parts)
    assert abs(to_fen(whole) - whole) <= Fraction(5_000)
    assert to_fen(whole) % 10_000 == 0


def test_half_a_fen_is_rounded_up_and_a_credit_gives_back_what_the_charge_took() -> None:
    assert to_fen(Fraction(5_000)) == 10_000
    assert to_fen(Fraction(4_999)) == 0
    assert to_fen(exact(-7, 1000, 16_500_000)) == -to_fen(exact(7, 1000, 16_500_000))


def test_a_window_costs_each_price_once_rounded() -> None:
    book = PriceBook((DAY_PRICE, NIGHT_PRICE))
    stretches = book.stretches(at(1, 20), at(2, 10))
    assert [(s.point.tariff_id, s.seconds // 3600) for s in stretches] == [(1, 2), (2, 10), (1, 2)]
    assert cost(stretches, 8) == 8 * (4 * 16 + 10 * 8) * YUAN
    assert cost([Stretch(at(1), at(1) + dt.timedelta(seconds=1), stretches[0].point)], 1) == 0
