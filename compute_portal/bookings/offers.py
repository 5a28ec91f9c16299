"""Windows that fit a wish: "8 cards for 2 days some time next week". The earliest and the cheapest, with their prices.

`choose` is pure. What it offers can be booked at that moment: it counts bookings, options, maintenance, the share that
may be booked in advance, and the enterprise's own limit in every hour.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from .. import clock
from ..enterprises.states import EnterpriseState
from ..policy import BookingPolicy
from ..pools import queries as pool_queries
from ..pools.availability import HOUR, Flags, Ints, gpus_for
from ..pools.hours import Grid
from ..pools.prices import PriceBook, PricePoint, Stretch, to_fen
from ..pools.states import BookingUnit
from ..sentences import Refusal, Sentence
from . import service
from .queries import Choice
from .service import Window


@dataclass(frozen=True, slots=True)
class Wish:
    """So many cards for so many hours, all of it between two instants."""

    gpus: int
    hours: int
    after: dt.datetime
    before: dt.datetime

    @property
    def gpu_seconds(self) -> int:
        return self.gpus * self.hours * HOUR


@dataclass(frozen=True, slots=True)
class Offer:
    """A window that is to be had, and what all of it costs before tax."""

    starts_at: dt.datetime
    ends_at: dt.datetime
    micro_yuan: int


@dataclass(frozen=True, slots=True)
class Offers:
    """Each ascending, by start and by price (of equal price the earlier one first); empty when nothing fits."""

    earliest: tuple[Offer, ...]
    cheapest: tuple[Offer, ...]

    @property
    def all(self) -> list[Offer]:
        """Every one once, in order of time."""
        return sorted({*self.earliest, *self.cheapest}, key=lambda offer: offer.starts_at)


def find(session: Session, choice: Choice, wish: Wish, *, policy: BookingPolicy, now: dt.datetime) -> Offers:
    """What fits now, for one allocation: five queries, and a sixth where only power is missing.

    Raises Refusal at the field that is to blame.
    """
    _check(choice, wish, policy)
    after, before = _period(choice, wish, policy, now)
    hours = max(0, (before - after) // clock.HOUR)
    if hours < wish.hours:
        raise Refusal(Sentence("no-time-for-it", n=wish.hours), "until_on")
    mine = service.own_windows(session, choice.enterprise.id, choice.pool.id, now)
    coming = sum(1 for window in mine if window.to_come)
    if coming >= policy.fixed_open_most:
        raise Refusal(Sentence("too-many-fixed", most=policy.fixed_open_most, open=coming))
    grid = pool_queries.load_grid(session.connection(), choice.pool, now, first=after, hours=hours)
    if wish.gpus > grid.capacity:
        raise Refusal(Sentence("more-than-the-pool", asked=wish.gpus, capacity=grid.capacity), "gpus")
    book = pool_queries.price_book(session, choice.pool.id)
    if choice.limit is not None and wish.gpus > choice.limit and not any(each.gpus_most for each in book.tariffs):
        raise Refusal(Sentence("over-the-limit", asked=wish.gpus, limit=choice.limit), "gpus")
    stretches = book.stretches(
        after, before, size_class=str(choice.enterprise.size_class), programme_id=choice.programme.id
    )
    allowed = within_limits(book, stretches, mine, choice.limit, wish.gpus, after, hours)

    def chosen(grid: Grid) -> Offers:
        return choose(
            grid,
            stretches,
            wish,
            most_fixed=grid.capacity * policy.fixed_share_percent // 100,
            allowed=allowed,
            last_start=now + dt.timedelta(weeks=policy.fixed_horizon_weeks),
            most=policy.offers_most,
            apart_hours=policy.offers_apart_hours,
        )

    found = chosen(grid)
    uncapped = grid.uncapped()
    if not found.earliest and uncapped is not grid and (without := chosen(uncapped)).earliest:
        raise Refusal(_no_power(session, choice, without.earliest[0], now), "gpus")
    return found


def _no_power(session: Session, choice: Choice, window: Offer, now: dt.datetime) -> Sentence:
    """Only a cap of power keeps this window from being one: the least of those that hold in it."""
    caps = [
        (gpus_for(cap.watts, choice.pool.watts, cap.pue_permille), cap.starts_at, cap.ends_at)
        for cap in pool_queries.list_power_caps(session, choice.pool.id, now)
        if cap.starts_at < window.ends_at and cap.ends_at > window.starts_at
    ]
    gpus, start, until = min(caps)
    return Sentence("offers-no-power", capped=gpus, start=start, until=until)


def choose(
    grid: Grid,
    stretches: Sequence[Stretch],
    wish: Wish,
    *,
    most_fixed: int,
    allowed: Flags,
    last_start: dt.datetime,
    most: int,
    apart_hours: int,
) -> Offers:
    """The earliest and the cheapest windows in the grid's hours, the starts of each list some hours apart.

    Greedy: the best one, then the best of those that begin at least `apart_hours` from every one that is listed; two
    windows an hour apart are no choice. `stretches` are the prices of all the grid's hours.
    """
    starts = grid.starts(wish.gpus, wish.hours, most_fixed, allowed)
    starts = starts[grid.first + starts * HOUR <= int(last_start.timestamp())]
    costs = window_costs(grid, stretches, starts, wish)
    by_price = np.lexsort((starts, costs))

    def offer(index: int) -> Offer:
        at = dt.datetime.fromtimestamp(grid.first + int(starts[index]) * HOUR, dt.UTC)
        return Offer(at, at + wish.hours * clock.HOUR, int(costs[index]))

    return Offers(
        tuple(offer(index) for index in _apart(starts, range(len(starts)), most, apart_hours)),
        tuple(offer(index) for index in _apart(starts, by_price.tolist(), most, apart_hours)),
    )


def _apart(starts: Ints, order: Iterable[int], most: int, hours: int) -> list[int]:
    found: list[int] = []
    for index in order:
        if len(found) == most:
            break
        if all(abs(int(starts[index]) - int(starts[other])) >= hours for other in found):
            found.append(index)
    return found


def window_costs(grid: Grid, stretches: Sequence[Stretch], starts: Ints, wish: Wish) -> Ints:
    """Micro-yuan of each window before tax, each price rounded once: as `pools.prices.cost` has it.

    How many hours of each price a window has is the difference of two running sums; windows with the same hours of
    each price cost the same, so only the few different ones are priced exactly.
    """
    points: dict[PricePoint, int] = {}
    of_hour = np.zeros(grid.hours, np.int64)
    for each in stretches:
        first, last = ((int(at.timestamp()) - grid.first) // HOUR for at in (each.starts_at, each.ends_at))
        of_hour[max(0, first) : last] = points.setdefault(each.point, len(points))
    sums = np.zeros((len(points), grid.hours + 1), np.int64)
    np.cumsum(of_hour == np.arange(len(points))[:, None], axis=1, out=sums[:, 1:])
    hours = (sums[:, starts + wish.hours] - sums[:, starts]).T
    kinds, which = np.unique(hours, axis=0, return_inverse=True)
    prices = [
        sum(
            to_fen(point.contract_of(wish.gpus * count * HOUR))
            for point, count in zip(points, kind.tolist(), strict=True)
            if count
        )
        for kind in kinds
    ]
    return np.array(prices, np.int64)[which.reshape(-1)] if prices else np.zeros(0, np.int64)


def within_limits(
    book: PriceBook,
    stretches: Sequence[Stretch],
    mine: Sequence[Window],
    limit: int | None,
    gpus: int,
    first: dt.datetime,
    hours: int,
) -> Flags:
    """For each hour whether the enterprise may have so many cards more; off-peak hours may have their own limit."""
    own = {tariff.id: tariff.gpus_most for tariff in book.tariffs if tariff.gpus_most is not None}
    if limit is None and not own:
        return np.ones(hours, np.bool_)
    most = np.full(hours, np.iinfo(np.int64).max if limit is None else limit, np.int64)
    for each in stretches:
        if each.point.tariff_id in own:
            begin, end = ((at - first) // clock.HOUR for at in (each.starts_at, each.ends_at))
            most[max(0, begin) : end] = own[each.point.tariff_id] or 0
    used = np.array(
        [service.peak(mine, first + n * clock.HOUR, first + (n + 1) * clock.HOUR) for n in range(hours)], np.int64
    )
    allowed: Flags = used + gpus <= most
    return allowed


def _check(choice: Choice, wish: Wish, policy: BookingPolicy) -> None:
    """What no window could mend; the rest of the rules are asked when one is kept or booked."""
    if choice.enterprise.state is not EnterpriseState.VERIFIED:
        raise Refusal(Sentence("enterprise-not-verified"))
    if choice.pool.booking_unit is BookingUnit.NODE and wish.gpus % choice.pool.gpus_per_node:
        raise Refusal(Sentence("whole-nodes-only", per_node=choice.pool.gpus_per_node), "gpus")
    if wish.hours > policy.fixed_longest_days * 24:
        raise Refusal(Sentence("window-too-long", n=policy.fixed_longest_days), "longest")


def _period(choice: Choice, wish: Wish, policy: BookingPolicy, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Where a window may lie: the wish, cut to full hours to come and to the allocation."""
    soonest = now
    if wish.gpu_seconds > choice.programme.booking_approval_gpu_seconds:  # an operator decides, which takes time
        soonest += policy.undecided_lapses_hours_before * clock.HOUR
    soonest = clock.floor_hour(soonest) + clock.HOUR
    latest = now + dt.timedelta(weeks=policy.fixed_horizon_weeks) + wish.hours * clock.HOUR
    after = clock.ceil_hour(max(wish.after, soonest, choice.allocation.starts_at))
    return after, clock.floor_hour(min(wish.before, choice.allocation.ends_at, latest))
