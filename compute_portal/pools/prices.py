"""What a GPU-hour costs at any instant: list price, contract price and weight. Pure: plain values in, answers out.

* The list price is a row of the pool's book: one for the whole day, or one for some hours of the day (off-peak), which
  goes before it in those hours. Days and hours are Shanghai's; hours may run over midnight (22 to 8).
* The contract price is the list price less at most one discount: the programme's for the size class goes before the
  programme's for everybody, that before the size class's. It is never above the list price. A percentage gives a price
  in whole micro-yuan, cut.
* The weight says what an hour on this model counts, in thousandths; a slice of a card has a weight of its own, which
  says what part of a card it is.

One instant has one price, and the rows behind it never change: any past hour can be priced again.
An amount is exact until it stands on a line: `exact` gives a fraction, `to_fen` rounds it once.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from .. import clock, units
from ..sentences import Refusal, Sentence

WHOLE = 1_000  # a weight of one, in thousandths
HOURS = 24


@dataclass(frozen=True, slots=True)
class ListPrice:
    """Micro-yuan per GPU-hour from a day to the last one (None: open), all day or in some hours of each."""

    id: int
    from_on: dt.date
    until_on: dt.date | None
    from_hour: int | None
    until_hour: int | None
    price_micro_yuan: int
    gpus_most: int | None = None  # GPUs at once in these hours, instead of the enterprise's limit

    @property
    def off_peak(self) -> bool:
        return self.from_hour is not None

    def holds_on(self, day: dt.date) -> bool:
        return self.from_on <= day and (self.until_on is None or day <= self.until_on)

    def holds_in(self, hour: int) -> bool:
        return self.from_hour is None or self.until_hour is None or in_hours(hour, self.from_hour, self.until_hour)


@dataclass(frozen=True, slots=True)
class Contract:
    """A discount: so many percent off, or a price. For a programme, a size class, or a size class in a programme."""

    id: int
    programme_id: int | None
    size_class: str | None
    from_on: dt.date
    until_on: dt.date
    percent: int | None
    price_micro_yuan: int | None

    @property
    def rank(self) -> int:
        """The higher one goes before."""
        return 2 * (self.programme_id is not None) + (self.size_class is not None)

    def is_for(self, size_class: str | None, programme_id: int | None) -> bool:
        return self.programme_id in (None, programme_id) and self.size_class in (None, size_class)

    def price(self, list_micro_yuan: int) -> int:
        if self.price_micro_yuan is not None:
            return min(list_micro_yuan, self.price_micro_yuan)
        return list_micro_yuan * (100 - (self.percent or 0)) // 100


@dataclass(frozen=True, slots=True)
class Weight:
    """Thousandths from a day on: of the pool's cards (slice ''), or what part of a card a slice is."""

    slice: str
    from_on: dt.date
    weight_milli: int


@dataclass(frozen=True, slots=True)
class PricePoint:
    """What decides the price of an hour. Prices are micro-yuan per GPU-hour at a weight of one."""

    tariff_id: int
    list_micro_yuan: int
    discount_id: int | None
    contract_micro_yuan: int
    weight_milli: int = WHOLE

    def list_of(self, gpu_seconds: int) -> Fraction:
        return exact(gpu_seconds, self.weight_milli, self.list_micro_yuan)

    def contract_of(self, gpu_seconds: int) -> Fraction:
        return exact(gpu_seconds, self.weight_milli, self.contract_micro_yuan)

    @property
    def hour_micro_yuan(self) -> int:
        """What a GPU-hour costs after discount and weight, to the fen: for showing."""
        return to_fen(self.contract_of(units.SECONDS_PER_HOUR))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time with one price."""

    starts_at: dt.datetime
    ends_at: dt.datetime
    point: PricePoint

    @property
    def seconds(self) -> int:
        return clock.seconds_between(self.starts_at, self.ends_at)


# Thousandths of a card × seconds → hours, then micro-yuan → fen.
TO_FEN = WHOLE * units.SECONDS_PER_HOUR * units.MICRO_PER_FEN


def exact(gpu_seconds: int, weight_milli: int, price_micro_yuan: int) -> Fraction:
    """Micro-yuan, not rounded."""
    return Fraction(gpu_seconds * weight_milli * price_micro_yuan, WHOLE * units.SECONDS_PER_HOUR)


def to_fen(amount: Fraction) -> int:
    """Micro-yuan to the fen, half up (away from zero): once for each figure that is shown or charged."""
    return units.round_half_up(amount.numerator, amount.denominator * units.MICRO_PER_FEN) * units.MICRO_PER_FEN


def in_hours(hour: int, first: int, until: int) -> bool:
    """Whether an hour of the day, 0 to 23, lies in [first, until); over midnight when `until` is the smaller."""
    return first <= hour < until if first < until else hour >= first or hour < until


def hours_meet(first: int, until: int, other_first: int, other_until: int) -> bool:
    """Whether two parts of the day share an hour."""
    return in_hours(other_first, first, until) or in_hours(first, other_first, other_until)


@dataclass(frozen=True)
class PriceBook:
    """All prices of a pool, past and to come."""

    tariffs: tuple[ListPrice, ...] = ()
    discounts: tuple[Contract, ...] = ()
    weights: tuple[Weight, ...] = ()
    _all_day: tuple[ListPrice, ...] = field(init=False, repr=False, compare=False)
    _first_days: tuple[dt.date, ...] = field(init=False, repr=False, compare=False)
    _off_peak: tuple[ListPrice, ...] = field(init=False, repr=False, compare=False)
    _ranked: dict[tuple[str | None, int | None], tuple[Contract, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        all_day = sorted((each for each in self.tariffs if not each.off_peak), key=lambda each: each.from_on)
        object.__setattr__(self, "_all_day", tuple(all_day))
        object.__setattr__(self, "_first_days", tuple(each.from_on for each in all_day))
        object.__setattr__(self, "_off_peak", tuple(each for each in self.tariffs if each.off_peak))

    # -- one instant --------------------------------------------------------------------------------------------------

    def at(self, instant: dt.datetime, *, size_class: str | None = None, programme_id: int | None = None) -> PricePoint:
        """Raises Refusal("no-price") where there is none: before the first, or after the last has ended."""
        local = instant.astimezone(clock.SHANGHAI)
        return self._point(local.date(), local.hour, size_class, programme_id)

    def list_price(self, instant: dt.datetime) -> ListPrice | None:
        """The price of the whole day that holds then, whatever the hour; None before the first: for pages."""
        day = clock.day_of(instant)
        index = bisect_right(self._first_days, day) - 1
        return self._all_day[index] if index >= 0 and self._all_day[index].holds_on(day) else None

    def next_list_price(self, instant: dt.datetime) -> ListPrice | None:
        """The price of the whole day that follows the one that holds then."""
        index = bisect_right(self._first_days, clock.day_of(instant))
        return self._all_day[index] if index < len(self._all_day) else None

    def off_peak_prices(self, day: dt.date) -> list[ListPrice]:
        """Those that hold in some hours of a day, by hour."""
        found = [each for each in self._off_peak if each.holds_on(day)]
        return sorted(found, key=lambda each: each.from_hour or 0)

    def find(
        self, instant: dt.datetime, *, size_class: str | None = None, programme_id: int | None = None
    ) -> PricePoint | None:
        """As `at`, or None where there is no price: for pages."""
        try:
            return self.at(instant, size_class=size_class, programme_id=programme_id)
        except Refusal:
            return None

    def point_of(self, tariff_id: int, discount_id: int | None, weight_milli: int) -> PricePoint:
        """The price that something was charged at, from its rows. Raises KeyError for rows of another pool."""
        price = self._tariffs[tariff_id].price_micro_yuan
        contract = price if discount_id is None else self._discounts[discount_id].price(price)
        return PricePoint(tariff_id, price, discount_id, contract, weight_milli)

    def discounted(self, point: PricePoint, discount_id: int | None) -> PricePoint:
        """The same tariff and weight with another discount, or none."""
        return self.point_of(point.tariff_id, discount_id, point.weight_milli)

    @cached_property
    def _tariffs(self) -> dict[int, ListPrice]:
        return {each.id: each for each in self.tariffs}

    @cached_property
    def _discounts(self) -> dict[int, Contract]:
        return {each.id: each for each in self.discounts}

    def discount_at(
        self, instant: dt.datetime, *, size_class: str | None = None, programme_id: int | None = None
    ) -> Contract | None:
        return self._discount(clock.day_of(instant), size_class, programme_id)

    def weight_at(self, instant: dt.datetime, slice: str = "") -> int:
        """In thousandths; 1,000 where nothing is said."""
        return self._weight(clock.day_of(instant), slice)

    def _point(self, day: dt.date, hour: int, size_class: str | None, programme_id: int | None) -> PricePoint:
        tariff = self._list_price(day, hour)
        discount = self._discount(day, size_class, programme_id) if self.discounts else None
        price = tariff.price_micro_yuan
        return PricePoint(
            tariff.id,
            price,
            None if discount is None else discount.id,
            price if discount is None else discount.price(price),
            self._weight(day, "") if self.weights else WHOLE,
        )

    def _list_price(self, day: dt.date, hour: int) -> ListPrice:
        for tariff in self._off_peak:
            if tariff.holds_on(day) and tariff.holds_in(hour):
                return tariff
        index = bisect_right(self._first_days, day) - 1
        if index < 0 or not self._all_day[index].holds_on(day):
            raise Refusal(Sentence("no-price"), field="allocation_id")
        return self._all_day[index]

    def _discount(self, day: dt.date, size_class: str | None, programme_id: int | None) -> Contract | None:
        ranked = self._ranked.get((size_class, programme_id))
        if ranked is None:
            found = [each for each in self.discounts if each.is_for(size_class, programme_id)]
            ranked = tuple(sorted(found, key=lambda each: -each.rank))
            self._ranked[size_class, programme_id] = ranked
        for each in ranked:
            if each.from_on <= day <= each.until_on:
                return each
        return None

    def _weight(self, day: dt.date, slice: str) -> int:
        newest = max(
            (each for each in self.weights if each.slice == slice and each.from_on <= day),
            key=lambda each: each.from_on,
            default=None,
        )
        return WHOLE if newest is None else newest.weight_milli

    # -- a time -------------------------------------------------------------------------------------------------------

    def borders(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        size_class: str | None = None,
        programme_id: int | None = None,
    ) -> list[dt.datetime]:
        """Instants strictly inside at which the price or the weight may change, ascending."""
        found = set(self._day_borders(start, end, size_class, programme_id))
        for tariff in self._off_peak:
            found.update(_hours_of(tariff, start, end))
        return sorted(found)

    def stretches(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        size_class: str | None = None,
        programme_id: int | None = None,
    ) -> list[Stretch]:
        """The time cut where the price changes. Raises Refusal("no-price") where any of it has none."""
        instants = [start, *self.borders(start, end, size_class=size_class, programme_id=programme_id), end]
        found: list[Stretch] = []
        for first, last in pairwise(instants):
            point = self.at(first, size_class=size_class, programme_id=programme_id)
            if found and found[-1].point == point:
                found[-1] = Stretch(found[-1].starts_at, last, point)
            else:
                found.append(Stretch(first, last, point))
        return found

    def points(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        size_class: str | None = None,
        programme_id: int | None = None,
    ) -> list[PricePoint]:
        """Every price that occurs in a time that may be a year long, the one of its start first.

        Between two borders of days all days are alike, so the hours of the first one are enough.
        Raises Refusal("no-price") where the first instant has none; what has none later is left out.
        """
        found = {self.at(start, size_class=size_class, programme_id=programme_id): None}
        instants = [start, *self._day_borders(start, end, size_class, programme_id), end]
        for first, last in pairwise(instants):
            a_day = min(last, first + HOURS * clock.HOUR)
            hours = {first, *(hour for tariff in self._off_peak for hour in _hours_of(tariff, first, a_day))}
            for instant in sorted(hours):
                point = self.find(instant, size_class=size_class, programme_id=programme_id)
                if point is not None:
                    found[point] = None
        return list(found)

    def _day_borders(
        self, start: dt.datetime, end: dt.datetime, size_class: str | None, programme_id: int | None
    ) -> list[dt.datetime]:
        dated: list[ListPrice | Contract] = [*self.tariffs]
        dated += [each for each in self.discounts if each.is_for(size_class, programme_id)]
        days = {clock.start_of_day(each.from_on) for each in dated}
        days |= {clock.end_of_day(each.until_on) for each in dated if each.until_on is not None}
        days |= {clock.start_of_day(each.from_on) for each in self.weights if each.slice == ""}
        return sorted(instant for instant in days if start < instant < end)


def _hours_of(tariff: ListPrice, start: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    """Where an off-peak price begins or ends on a day between two instants."""
    assert tariff.from_hour is not None and tariff.until_hour is not None
    day, last = clock.day_of(start), clock.day_of(end)
    while day <= last:
        if tariff.holds_on(day):
            midnight = clock.start_of_day(day)
            for hour in (tariff.from_hour, tariff.until_hour):
                instant = midnight + hour * clock.HOUR
                if start < instant < end:
                    yield instant
        day += dt.timedelta(days=1)


def cost(stretches: Iterable[Stretch], gpus: int) -> int:
    """Micro-yuan of GPUs throughout: as on the lines, each price rounded once."""
    seconds: dict[PricePoint, int] = {}
    for each in stretches:
        seconds[each.point] = seconds.get(each.point, 0) + gpus * each.seconds
    return sum(to_fen(point.contract_of(amount)) for point, amount in seconds.items())


def lowest_and_highest(points: Sequence[PricePoint], gpu_seconds: int) -> tuple[int, int]:
    """Micro-yuan of these GPU-seconds at the cheapest and at the dearest of the prices."""
    amounts = [to_fen(point.contract_of(gpu_seconds)) for point in points]
    return min(amounts), max(amounts)
