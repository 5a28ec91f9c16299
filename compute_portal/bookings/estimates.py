"""When waiting bookings are expected to start: what was shown, what came of it, and what a pool's queue was like.

The scheduler tells, these verbs keep. What a page shows is the newest row, so that every estimate that was shown can be
held against what came true. Locks: none; these rows are written by the scheduler alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from .. import clock
from ..db import Reader, UtcDateTime, Writer
from ..pools.models import Node, NodeInterval
from ..pools.states import NodeState
from .models import Booking, Estimate, QueueDay, QueuePicture, Standing
from .states import ON_THE_CLUSTER, BookingKind, BookingState

E, B, S = (cast(sa.Table, model.__table__).c for model in (Estimate, Booking, Standing))
# An estimate that moved less than this says the same: five minutes, and a tenth of the time until then.
LEAST_MOVE_SECONDS = 300
LEAST_MOVE_PART = 10
LOOKS_MOST = 50_000  # the newest estimates of a pool that ranges are learnt from
RANGES_MOST = 500  # the newest ranges whose coverage is shown
RUNS_MOST = 20_000
WAITING = (BookingState.SUBMITTED, BookingState.QUEUED, BookingState.CONFIRMED)


# -- estimates


@dataclass(frozen=True, slots=True)
class Outlook:
    """A look ahead for one booking that waits. Seconds from the look."""

    booking_id: int
    expected_seconds: int
    p10_seconds: int
    p50_seconds: int
    p90_seconds: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A range that is to be shown, with the place that the booking has meanwhile."""

    outlook: Outlook
    place: int
    waiting: int
    range: tuple[dt.datetime, dt.datetime, dt.datetime]


_SHOWN = sa.select(S.booking_id, S.place, S.waiting, S.p10_at, S.expected_at, S.p90_at).where(
    S.pool_id == sa.bindparam("pool")
)
_SHOW = (
    sa.update(cast(sa.Table, Standing.__table__))
    .where(S.booking_id == sa.bindparam("booking"))
    .values(p10_at=sa.bindparam("p10"), expected_at=sa.bindparam("p50"), p90_at=sa.bindparam("p90"))
)
_KEEP = sa.insert(cast(sa.Table, Estimate.__table__))


def moved(session: Reader, outlooks: Sequence[Outlook], *, pool_id: int, now: dt.datetime) -> list[Moved]:
    """What is new or differs from what is shown, of bookings that still stand in the queue."""
    shown = {id: (place, waiting, ranged) for id, place, waiting, *ranged in session.execute(_SHOWN, {"pool": pool_id})}
    changed = []
    for one in outlooks:
        place, waiting, before = shown.get(one.booking_id, (None, None, []))
        after = (_at(now, one.p10_seconds), _at(now, one.p50_seconds), _at(now, one.p90_seconds))
        if place is not None and _moved(before, after, now):
            changed.append(Moved(one, place, waiting or place, after))
    return changed


def record(writer: Writer, changed: Sequence[Moved], *, pool_id: int, now: dt.datetime) -> None:
    """Show these ranges and keep them: one update and one insert for all."""
    if not changed:
        return
    writer.execute(
        _SHOW,
        [
            {"booking": one.outlook.booking_id, "p10": p10, "p50": p50, "p90": p90}
            for one in changed
            for p10, p50, p90 in [one.range]
        ],
    )
    writer.execute(
        _KEEP,
        [
            {
                "booking_id": one.outlook.booking_id,
                "pool_id": pool_id,
                "made_at": now,
                "place": one.place,
                "waiting": one.waiting,
                "expected_seconds": one.outlook.expected_seconds,
                "p10_seconds": one.outlook.p10_seconds,
                "p50_seconds": one.outlook.p50_seconds,
                "p90_seconds": one.outlook.p90_seconds,
            }
            for one in changed
        ],
    )


def _at(now: dt.datetime, seconds: int) -> dt.datetime:
    return now + dt.timedelta(seconds=seconds)


def _moved(shown: Sequence[dt.datetime | None], ranged: Sequence[dt.datetime], now: dt.datetime) -> bool:
    for before, after in zip(shown, ranged, strict=True):
        if before is None:
            return True
        moved = abs(clock.seconds_between(before, after))
        if moved > max(LEAST_MOVE_SECONDS, clock.seconds_between(now, after) // LEAST_MOVE_PART):
            return True
    return False


_FORGET = (
    sa.update(cast(sa.Table, Standing.__table__))
    .where(S.booking_id.in_(sa.bindparam("bookings", expanding=True)), S.p10_at.is_not(None))
    .values(p10_at=None, expected_at=None, p90_at=None)
)


def forget(writer: Writer, booking_ids: Sequence[int]) -> None:
    """As things are these never start: what was shown of their start no longer is."""
    if booking_ids:
        writer.execute(_FORGET, {"bookings": list(booking_ids)})


_OPEN = (
    sa.select(E.id, E.made_at, B.started_at)
    .join_from(cast(sa.Table, Estimate.__table__), cast(sa.Table, Booking.__table__), B.id == E.booking_id)
    .where(E.closed_at.is_(None), sa.or_(B.started_at.is_not(None), B.state.not_in(WAITING)))
)
_CLOSE = (
    sa.update(cast(sa.Table, Estimate.__table__))
    .where(E.id == sa.bindparam("estimate"))
    .values(waited_seconds=sa.bindparam("waited"), closed_at=sa.bindparam("now"))
)


class CameTrue(NamedTuple):
    """An estimate whose booking has started after so many seconds; None: it never will."""

    estimate_id: int
    waited_seconds: int | None


def came_true(session: Reader) -> list[CameTrue]:
    """Open estimates of bookings that no longer wait."""
    return [
        CameTrue(id, None if started_at is None else max(0, clock.seconds_between(made_at, started_at)))
        for id, made_at, started_at in session.execute(_OPEN)
    ]


def close(writer: Writer, over: Sequence[CameTrue], *, now: dt.datetime) -> None:
    """Write what came of them beside what was said."""
    if over:
        writer.execute(
            _CLOSE, [{"estimate": one.estimate_id, "waited": one.waited_seconds, "now": now} for one in over]
        )


class Told(NamedTuple):
    """An estimate and what came of it; `waited_seconds` None while its booking waits."""

    booking_id: int
    made_at: dt.datetime
    expected_seconds: int
    waited_seconds: int | None


def list_told(session: Reader, pool_id: int) -> list[Told]:
    """The newest estimates of a pool, but for those of bookings that never started."""
    rows = session.execute(
        sa.select(E.booking_id, E.made_at, E.expected_seconds, E.waited_seconds)
        .where(E.pool_id == pool_id, sa.or_(E.closed_at.is_(None), E.waited_seconds.is_not(None)))
        .order_by(E.id.desc())
        .limit(LOOKS_MOST)
    )
    return [Told(*row) for row in rows]


def coverage(session: Reader, pool_id: int) -> tuple[int, int]:
    """Of the newest ranges whose bookings have started: how many, and how many held."""
    newest = (
        sa.select(E.p10_seconds, E.p90_seconds, E.waited_seconds)
        .where(E.pool_id == pool_id, E.waited_seconds.is_not(None))
        .order_by(E.id.desc())
        .limit(RANGES_MOST)
        .subquery()
    )
    held = sa.case((newest.c.waited_seconds.between(newest.c.p10_seconds, newest.c.p90_seconds), 1), else_=0)
    ranges, sum_held = session.execute(sa.select(sa.func.count(), sa.func.sum(held)).select_from(newest)).one()
    return int(ranges), int(sum_held or 0)


class Run(NamedTuple):
    """A flexible booking that ran to its end: seconds asked for and seconds run."""

    enterprise_id: int
    asked: int
    ran: int


def list_runs(session: Reader) -> list[Run]:
    """The newest runs of everybody, in the order in which they ended."""
    rows = session.execute(
        sa.select(B.enterprise_id, B.longest_seconds, B.started_at, B.ended_at)
        .where(
            B.state.in_((BookingState.FINISHED, BookingState.SETTLED)),
            B.kind == BookingKind.FLEXIBLE,
            B.started_at.is_not(None),
        )
        .order_by(B.id.desc())
        .limit(RUNS_MOST)
    ).all()
    rows = sorted((row for row in rows if row.ended_at is not None), key=lambda row: row.ended_at)
    return [Run(id, asked, max(1, clock.seconds_between(start, end))) for id, asked, start, end in rows]


# -- the queue as a whole


def picture(
    writer: Writer,
    pool_id: int,
    *,
    starts: Mapping[str, Any] | None,
    overdue_is_full: bool,
    now: dt.datetime,
) -> None:
    """Keep a pool's picture. Without `starts` the table of before stays; since when overdue bookings fill their part
    stays until they no longer do."""
    row = cast(sa.Table, QueuePicture.__table__)
    before = writer.execute(sa.select(row.c.starts, row.c.overdue_full_since).where(row.c.pool_id == pool_id)).first()
    ranges, held = coverage(writer, pool_id)
    values: dict[str, Any] = {"ranges": ranges, "held": held, "overdue_full_since": None}
    if overdue_is_full:
        values["overdue_full_since"] = (before.overdue_full_since if before else None) or now
    if starts is not None:
        values |= {"starts": dict(starts), "at": now}
    if before is not None:
        writer.execute(sa.update(row).where(row.c.pool_id == pool_id).values(**values))
    elif starts is not None:
        writer.execute(sa.insert(row).values(pool_id=pool_id, **values))


class Stay(NamedTuple):
    """A booking's time in a pool; instants as Unix seconds, `started_at` and `ended_at` None while still to come."""

    enterprise_id: int
    gpus: int
    queued: bool  # flexible: a fixed one has its window and waits for nobody
    asked_at: int
    started_at: int | None
    ended_at: int | None


def list_stays(session: Reader, pool_id: int, start: dt.datetime, end: dt.datetime) -> list[Stay]:
    """Every booking that wanted or had GPUs of the pool in [start, end).

    A flexible one wants them from when it asked, or from its "not before"; a fixed one for its window. Two walks over
    small indexes: what is open, and what has ended since.
    """
    asked_at = sa.func.coalesce(B.starts_at, B.not_before_at, B.submitted_at, type_=UtcDateTime())
    columns = (B.enterprise_id, B.gpus, B.kind, asked_at, B.submitted_at, B.started_at, B.ended_at)
    query = sa.select(*columns).where(B.pool_id == pool_id, B.kind != BookingKind.DIRECT, asked_at < end)
    open_ones = query.where(B.state.in_((BookingState.QUEUED, BookingState.CONFIRMED, *sorted(ON_THE_CLUSTER))))
    over = query.where(B.started_at.is_not(None), B.ended_at > start, B.state.not_in(ON_THE_CLUSTER))
    rows = session.execute(sa.union_all(open_ones, over))
    return [
        Stay(
            enterprise_id,
            gpus,
            kind == BookingKind.FLEXIBLE,
            int(max(asked, submitted_at).timestamp()),
            None if started_at is None else int(started_at.timestamp()),
            None if ended_at is None else int(ended_at.timestamp()),
        )
        for enterprise_id, gpus, kind, asked, submitted_at, started_at, ended_at in rows
    ]


def capacity_gpu_seconds(session: Reader, pool_id: int, start: dt.datetime, end: dt.datetime) -> int:
    """GPU-seconds that the pool's nodes were up, or emptying, in [start, end)."""
    there = (NodeState.UP, NodeState.DRAINING)
    rows = session.execute(
        sa.select(Node.gpus, NodeInterval.starts_at, NodeInterval.ends_at)
        .join(NodeInterval, NodeInterval.node_id == Node.id)
        .where(
            Node.pool_id == pool_id,
            NodeInterval.state.in_(there),
            NodeInterval.starts_at < end,
            sa.or_(NodeInterval.ends_at.is_(None), NodeInterval.ends_at > start),
        )
    )
    return sum(
        gpus * clock.seconds_between(max(start, since), end if until is None else min(end, until))
        for gpus, since, until in rows
    )


@dataclass(frozen=True, slots=True)
class Day:
    """The figures of one day: see QueueDay. Waits in seconds of the bookings that started in it."""

    on: dt.date
    started: int
    waited_seconds: int
    longest_seconds: int
    deviation_permille: int | None
    shares: Mapping[int, tuple[int, int]]


def keep_days(writer: Writer, pool_id: int, days: Iterable[Day]) -> None:
    """Write these days anew: told twice they are the same."""
    row = cast(sa.Table, QueueDay.__table__)
    rows = [
        {
            "pool_id": pool_id,
            "on": day.on,
            "started": day.started,
            "waited_seconds": day.waited_seconds,
            "longest_seconds": day.longest_seconds,
            "deviation_permille": day.deviation_permille,
            "shares": {str(id): list(pair) for id, pair in day.shares.items()},
        }
        for day in days
    ]
    if rows:
        writer.execute(sa.delete(row).where(row.c.pool_id == pool_id, row.c.on.in_([each["on"] for each in rows])))
        writer.execute(sa.insert(row), rows)


def days_kept(session: Reader, pool_id: int, since: dt.date) -> set[dt.date]:
    row = cast(sa.Table, QueueDay.__table__)
    return set(session.scalars(sa.select(row.c.on).where(row.c.pool_id == pool_id, row.c.on >= since)))
