"""What a decision would mean for a pool, its queue and its fairness, by what was recorded of the last days.

Nothing is simulated in a request: the days of the pool and of its queue are rows that the timetable wrote. Quantities
are GPU-seconds, times seconds, parts of a whole thousandths.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..bookings.models import Booking, QueueDay, QueuePicture, Standing
from ..bookings.queue import DAYS, Range
from ..commons.models import PoolDay
from ..commons.reckoning import jain
from ..pools.models import Pool

NEAR_PERMILLE = 50  # a day counts as "so full" up to so far from a level


@dataclass(frozen=True, slots=True)
class Day:
    """A pool's day: what its cards could give and gave, whose bookings waited how long before they started.

    `shares`: enterprise → (got, entitled to), of a day on which more was wanted than there was.
    """

    available: int
    allocated: int
    started: int = 0
    waited: int = 0
    shares: Mapping[int, tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A number now and after the decision; None where the days say nothing of it."""

    now: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Impact:
    """`use`: part of the pool's cards that bookings have. `wait`: mean seconds on days about so full, and how many
    such days there were. `share`: the enterprise's part of what was given on days when cards were short, of which
    `entitled` was its own. `fairness`: Jain's index of got ÷ entitled on those days."""

    days: int
    use: Change
    wait: Change
    days_so_full: Change
    share: Change
    entitled: int | None
    fairness: Change


def load(session: Session, pool_id: int, today: dt.date) -> tuple[list[Day], QueuePicture | None]:
    """The last 30 days of a pool that are over, and what was last known of its queue. One query."""
    within = sa.and_(
        PoolDay.pool_id == Pool.id, PoolDay.day_on > today - dt.timedelta(days=DAYS + 1), PoolDay.day_on < today
    )
    rows = session.execute(
        sa.select(PoolDay, QueueDay, QueuePicture)
        .select_from(Pool)
        .outerjoin(PoolDay, within)
        .outerjoin(QueueDay, sa.and_(QueueDay.pool_id == Pool.id, QueueDay.on == PoolDay.day_on))
        .outerjoin(QueuePicture, QueuePicture.pool_id == Pool.id)
        .where(Pool.id == pool_id)
        .order_by(PoolDay.day_on)
    ).all()
    days = [_day(day, queue) for day, queue, _picture in rows if day is not None]
    return [day for day in days if day.available > 0], rows[0][2] if rows else None


def _day(day: PoolDay, queue: QueueDay | None) -> Day:
    available = day.capacity_gpu_seconds - day.down_gpu_seconds
    if queue is None:
        return Day(available, day.allocated_gpu_seconds)
    shares = {int(firm): (got, due) for firm, (got, due) in queue.shares.items()}
    return Day(available, day.allocated_gpu_seconds, queue.started, queue.waited_seconds, shares or None)


def reckon(days: Sequence[Day], enterprise_id: int, gpu_seconds: int, over_days: int) -> Impact | None:
    """If the enterprise used so much more, evenly over so many days. None where no day was recorded.

    On days when cards were short others would have had as much less, each in proportion to what it got. An enterprise
    that asked for nothing then counts as entitled to as much as the others on average.
    """
    if not days:
        return None
    more = gpu_seconds // max(1, over_days)
    available = sum(day.available for day in days)
    use_now = 1_000 * sum(day.allocated for day in days) // available
    use_after = 1_000 * sum(day.allocated + more for day in days) // available
    (wait_now, many_now), (wait_after, many_after) = (_wait(days, min(use, 1_000)) for use in (use_now, use_after))
    got: dict[int, int] = {}
    entitled: dict[int, int] = {}
    short = [day.shares for day in days if day.shares]
    for shares in short:
        for firm, (had, due) in shares.items():
            got[firm] = got.get(firm, 0) + had
            entitled[firm] = entitled.get(firm, 0) + due
    share, own, fairness = _fairness(got, entitled, enterprise_id, more * len(short))
    return Impact(
        len(days),
        Change(use_now, use_after),
        Change(wait_now, wait_after),
        Change(many_now, many_after),
        share,
        own,
        fairness,
    )


def _wait(days: Sequence[Day], use: int) -> tuple[int | None, int]:
    """(mean wait on days about so full, how many such days)."""
    like = [day for day in days if abs(1_000 * day.allocated // day.available - use) <= NEAR_PERMILLE and day.started]
    started = sum(day.started for day in like)
    return (sum(day.waited for day in like) // started if started else None), len(like)


def _fairness(
    got: Mapping[int, int], entitled: Mapping[int, int], me: int, more: int
) -> tuple[Change, int | None, Change]:
    """(the enterprise's part, what it is entitled to, Jain's index)."""
    total, due = sum(got.values()), sum(entitled.values())
    if not total or not due:
        return Change(None, None), None, Change(None, None)
    mine = got.get(me, 0)
    own = entitled.get(me) or due // (len(entitled) + (me not in entitled))
    after = min(mine + more, total)
    left = total - mine
    others = {firm: had * (total - after) // left if left else 0 for firm, had in got.items() if firm != me}
    return (
        Change(1_000 * mine // total, 1_000 * after // total),
        1_000 * own // (due + (0 if entitled.get(me) else own)),
        Change(jain(_ratios(got, entitled)), jain(_ratios({**others, me: after}, {**entitled, me: own}))),
    )


def _ratios(got: Mapping[int, int], entitled: Mapping[int, int]) -> list[int]:
    """Thousandths, of everybody who was entitled to something."""
    return [units.round_half_up(1_000 * got.get(firm, 0), due) for firm, due in entitled.items() if due > 0]


@dataclass(frozen=True, slots=True)
class Touched:
    """Of the bookings that wait in a pool: how many, of how many enterprises, for how many cards together."""

    bookings: int
    enterprises: int
    gpus: int


def behind(session: Session, booking: Booking, expected: Range | None) -> Touched:
    """Who waits and is expected to start after this one; of a window: to start in it. As last worked out; one query."""
    touched: sa.ColumnElement[bool] = sa.false()
    if booking.starts_at is not None:
        touched = Standing.expected_at.between(booking.starts_at, booking.ends_at)
    elif expected is not None:
        touched = Standing.expected_at > expected.p50_at
    row = session.execute(
        sa.select(sa.func.count(), sa.func.count(Booking.enterprise_id.distinct()), sa.func.sum(Booking.gpus))
        .select_from(Standing)
        .join(Booking, Booking.id == Standing.booking_id)
        .where(Standing.pool_id == booking.pool_id, Standing.place.is_not(None), Booking.id != booking.id, touched)
    ).one()
    return Touched(row[0], row[1], int(row[2] or 0))


def of_booking(session: Session, booking: Booking, now: dt.datetime) -> Impact | None:
    """The booking's own GPU-seconds, once in the coming month. One query."""
    days, _picture = load(session, booking.pool_id, clock.day_of(now))
    return reckon(days, booking.enterprise_id, booking.gpus * booking.longest_seconds, DAYS)
