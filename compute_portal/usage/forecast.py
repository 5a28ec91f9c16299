"""When an allocation runs out at the pace of the last days, and what will be left when it ends.

The pace is what was metered in the last 14 days, or since the first use when that is later; with less than a day of use
nothing is foreseen. Where use is even, the answer is exact to the second.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, sees_all
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..bookings.models import Attempt, Booking
from ..ledger.queries import Balance, buckets_of
from ..pools.models import Pool
from ..programmes.models import Programme
from .models import UsageRecord

WINDOW = dt.timedelta(days=14)
LEAST = dt.timedelta(days=1)
NUDGE_PERCENT = 20  # of the award: if more than this would expire, the page says what to do
DAY = 86_400
MOST = 25


@dataclass(frozen=True, slots=True)
class Forecast:
    """GPU-seconds. `left` is what can still be used, held hours too; `pace` is GPU-seconds a day.

    `runs_out_at` is before the allocation ends, else None; then `expires` is what nobody will have used at its end.
    Without a pace (`pace` is None) nothing is foreseen.
    """

    allocation_id: int
    awarded: int
    left: int
    pace: Fraction | None
    runs_out_at: dt.datetime | None
    expires: int
    ends_at: dt.datetime

    @property
    def last_day(self) -> dt.date:
        return clock.day_of(self.ends_at - dt.timedelta(seconds=1))

    @property
    def pace_per_day(self) -> int | None:
        return None if self.pace is None else round(self.pace)

    @property
    def nudges(self) -> bool:
        """More would expire than is right."""
        return self.pace is not None and self.expires * 100 > NUDGE_PERCENT * self.awarded


def forecast(
    allocation_id: int,
    *,
    awarded: int,
    left: int,
    used: int,
    since: dt.datetime | None,
    until: dt.datetime,
    ends_at: dt.datetime,
) -> Forecast:
    """Pure: `used` GPU-seconds from `since` to `until` go on like that from `until` on."""
    if since is None or until - since < LEAST or until >= ends_at:
        return Forecast(allocation_id, awarded, left, None, None, 0, ends_at)
    per_second = Fraction(used, clock.seconds_between(since, until))
    to_come = per_second * clock.seconds_between(until, ends_at)
    if to_come >= left and per_second:
        seconds = -(-left // per_second)  # the second in which the last of it is used
        return Forecast(
            allocation_id, awarded, left, per_second * DAY, until + dt.timedelta(seconds=seconds), 0, ends_at
        )
    return Forecast(allocation_id, awarded, left, per_second * DAY, None, int(left - to_come), ends_at)


@dataclass(frozen=True, slots=True)
class Outlook:
    """An allocation that can be used now, and how long it lasts."""

    allocation_id: int
    pool_name: str
    programme: ProgrammeNames
    forecast: Forecast


class ProgrammeNames(NamedTuple):
    name: str
    name_en: str | None


def _usable() -> sa.Select[*tuple[Any, ...]]:
    """Of an enterprise's allocations: GPU-seconds in the last days, and when the first of them was used."""
    recent = (
        sa.select(
            UsageRecord.allocation_id,
            sa.func.sum(UsageRecord.gpu_seconds).label("used"),
            sa.func.min(UsageRecord.starts_at).label("first_at"),
        )
        .where(
            UsageRecord.enterprise_id == sa.bindparam("enterprise_id"),
            UsageRecord.day_on >= sa.bindparam("first_on"),
            UsageRecord.starts_at >= sa.bindparam("begin"),
            UsageRecord.starts_at < sa.bindparam("until"),
        )
        .group_by(UsageRecord.allocation_id)
        .cte("recent")
        .prefix_with("MATERIALIZED")  # or PostgreSQL adds up anew for every allocation
    )
    return (
        sa.select(
            Allocation.id, Allocation.ends_on, Pool.name, Programme.name, Programme.name_en,
            sa.func.coalesce(recent.c.used, 0), recent.c.first_at, buckets_of(Allocation.id),
        )
        .join(Programme, Programme.id == Allocation.programme_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .outerjoin(recent, recent.c.allocation_id == Allocation.id)
        .where(Allocation.enterprise_id == sa.bindparam("enterprise_id"), Allocation.state == AllocationState.ACTIVE)
        .order_by(Allocation.ends_on, Allocation.id)
        .limit(MOST)
    )  # fmt: skip


_USABLE = _usable()


def outlooks(session: Session, enterprise_id: int, by: Actor, until: dt.datetime) -> list[Outlook]:
    """The allocations that an enterprise can use now, by their end, metered up to `until`: one query."""
    if not sees_all(by) and by.enterprise_id != enterprise_id:
        return []
    begin = until - WINDOW
    asked = {"enterprise_id": enterprise_id, "first_on": clock.day_of(begin), "begin": begin, "until": until}
    rows = session.connection().execute(_USABLE, asked).all()
    return [
        Outlook(
            id, pool, ProgrammeNames(name, name_en),
            _of(id, clock.end_of_day(ends_on), Balance.of(buckets), int(used), first, begin, until),
        )
        for id, ends_on, pool, name, name_en, used, first, buckets in rows
    ]  # fmt: skip


def of_allocation(session: Session, allocation: Allocation, balance: Balance, now: dt.datetime) -> Forecast:
    """Of one allocation whose balance is known, up to where its runs are metered. One query."""
    hour = clock.floor_hour(now)
    begin = hour - WINDOW
    oldest = (
        sa.select(sa.func.min(Attempt.metered_until_at))
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(
            Booking.allocation_id == allocation.id, Attempt.metered_whole == sa.false(), Attempt.granted_at.is_not(None)
        )
        .scalar_subquery()
    )
    used, first, open_until = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(UsageRecord.gpu_seconds), 0), sa.func.min(UsageRecord.starts_at), oldest
        ).where(
            UsageRecord.enterprise_id == allocation.enterprise_id,
            UsageRecord.allocation_id == allocation.id,
            UsageRecord.day_on >= clock.day_of(begin),
            UsageRecord.starts_at >= begin,
            UsageRecord.starts_at < sa.func.coalesce(oldest, hour),
        )
    ).one()
    until = hour if open_until is None else min(hour, open_until)
    return _of(allocation.id, allocation.ends_at, balance, int(used), first, begin, until)


def _of(
    allocation_id: int,
    ends_at: dt.datetime,
    balance: Balance,
    used: int,
    first: dt.datetime | None,
    begin: dt.datetime,
    until: dt.datetime,
) -> Forecast:
    return forecast(
        allocation_id,
        awarded=balance.awarded,
        left=max(0, balance.available + balance.held + balance.withheld),
        used=used,
        # Who used something before these days has been at it all the time.
        since=begin if balance.used > used else first,
        until=until,
        ends_at=ends_at,
    )
