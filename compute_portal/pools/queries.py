"""Reading pools: prices at any instant, and the snapshot of who occupies what."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..db import Reader, UtcDateTime
from ..lifecycle import HistoryEntry
from ..sentences import NotFound, Refusal, Sentence
from ..signin.models import User
from .availability import FOREVER, HOUR, Availability, Hours
from .models import Instruction, Limit, Maintenance, Node, NodeInterval, Occupancy, Pool, Tariff
from .states import BookingUnit, InstructionState, MaintenanceState, NodeState

# Access is taken back within moments of an end; until it is, nobody new is let onto those GPUs.
RELEASE_GRACE_SECONDS = 60


def get_pool(session: Session, pool_id: int) -> Pool:
    pool = session.get(Pool, pool_id)
    if pool is None:
        raise NotFound
    return pool


def list_pools(session: Session) -> list[Pool]:
    return list(session.scalars(sa.select(Pool).order_by(Pool.name)))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """A pool's tariffs in order of their first day: one price for any instant from the first on."""

    tariffs: tuple[Tariff, ...]
    starts: tuple[dt.datetime, ...]

    def at(self, instant: dt.datetime) -> Tariff:
        """Raises Refusal("no-price") before the first tariff."""
        index = bisect_right(self.starts, instant) - 1
        if index < 0:
            raise Refusal(Sentence("no-price"), field="allocation_id")
        return self.tariffs[index]

    def borders(self, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
        """Instants strictly inside the interval at which the price changes."""
        return [instant for instant in self.starts if start < instant < end]

    def between(self, start: dt.datetime, end: dt.datetime) -> list[Tariff]:
        return [self.at(start), *(self.at(border) for border in self.borders(start, end))]


_TARIFFS = (
    sa.select(Tariff)
    .where(Tariff.pool_id.in_(sa.bindparam("pools", expanding=True)))
    .order_by(Tariff.pool_id, Tariff.from_on)
)


def price_books(session: Session, pool_ids: Iterable[int]) -> dict[int, PriceBook]:
    found: dict[int, list[Tariff]] = {id: [] for id in pool_ids}
    for tariff in session.scalars(_TARIFFS, {"pools": list(found)}):
        found[tariff.pool_id].append(tariff)
    return {
        id: PriceBook(tuple(tariffs), tuple(clock.start_of_day(tariff.from_on) for tariff in tariffs))
        for id, tariffs in found.items()
    }


def price_book(session: Session, pool_id: int) -> PriceBook:
    return price_books(session, [pool_id])[pool_id]


def find_limit(session: Session, enterprise_id: int, pool_id: int) -> int | None:
    """GPUs of this pool the enterprise may use at once; None means no limit."""
    row = session.get(Limit, (enterprise_id, pool_id))
    return None if row is None else row.gpus


def limit_and_capacity(session: Session, enterprise_id: int, pool_id: int) -> tuple[int | None, int]:
    """The enterprise's limit in this pool (None: no limit) and all GPUs of the pool, in one query."""
    limit = sa.select(Limit.gpus).where(Limit.enterprise_id == enterprise_id, Limit.pool_id == pool_id)
    gpus = sa.select(sa.func.coalesce(sa.func.sum(Node.gpus), 0)).where(Node.pool_id == pool_id)
    row = session.execute(sa.select(limit.scalar_subquery(), gpus.scalar_subquery())).one()
    return row[0], int(row[1])


def capacity(session: Session, pool_ids: Iterable[int]) -> dict[int, int]:
    """All GPUs of each pool, whatever the state of their nodes."""
    rows = session.execute(
        sa.select(Node.pool_id, sa.func.sum(Node.gpus)).where(Node.pool_id.in_(list(pool_ids))).group_by(Node.pool_id)
    )
    return {pool_id: int(gpus) for pool_id, gpus in rows}


# Every plan reads these: columns of tables, not of mapped classes, which would cost half as much again.
_O, _N, _M = (cast(sa.Table, model.__table__).c for model in (Occupancy, Node, Maintenance))


def _epoch(instant: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """As a Unix second, reckoned by the store: a plan reads hundreds of these."""
    return sa.cast(sa.extract("epoch", instant), sa.BigInteger)


def _occupied(released: bool, *which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    stuck = sa.case((_O.stuck_at.is_(None), 0), else_=1)
    return sa.select(
        _O.node_id,
        _O.gpu_mask,
        _epoch(_O.starts_at),
        _epoch(_O.ends_at),
        _O.fixed,
        sa.literal_column(f"{released:d}"),
        stuck,
    ).where(_O.pool_id == sa.bindparam("pool"), *which)


# Two short walks over indexes instead of an OR that reads the pool's whole past. The second finds something only when
# a clock was set back: released, but not over yet.
_OCCUPIED = sa.union_all(
    _occupied(False, _O.released_at.is_(None)),
    _occupied(True, _O.released_at.is_not(None), _O.ends_at > sa.bindparam("now", type_=UtcDateTime())),
)
_NODES = sa.select(_N.id, _N.gpus, _N.state).where(_N.pool_id == sa.bindparam("pool")).order_by(_N.position)
_WINDOWS = sa.select(_M.node_ids, _M.starts_at, _M.ends_at).where(
    _M.pool_id == sa.bindparam("pool"), _M.state == MaintenanceState.PLANNED, _M.ends_at > sa.bindparam("now")
)


class _OfPool(Protocol):
    """A pool's row, or as much of it as availability needs."""

    @property
    def id(self) -> int: ...
    @property
    def booking_unit(self) -> BookingUnit: ...


def load_availability(session: Reader, pool: _OfPool, now: dt.datetime) -> Availability:
    """Who occupies which GPUs of the pool from `now` on: bookings, nodes not up, maintenance."""
    second = int(now.timestamp())
    nodes = session.execute(_NODES, {"pool": pool.id}).all()
    occupied = session.execute(_OCCUPIED, {"pool": pool.id, "now": now})
    rows = [
        (node_id, mask, start, _taken_until(end, released, stuck, second), fixed)
        for node_id, mask, start, end, fixed, released, stuck in occupied
    ]
    closed = [(id, second, FOREVER) for id, _gpus, state in nodes if state is not NodeState.UP]
    for node_ids, starts_at, ends_at in session.execute(_WINDOWS, {"pool": pool.id, "now": now}):
        span = int(starts_at.timestamp()), int(ends_at.timestamp())
        closed += [(node_id, *span) for node_id in node_ids]
    return Availability.from_rows(
        [(id, gpus) for id, gpus, _state in nodes], rows, closed, unit=pool.booking_unit.value
    )


def _taken_until(end: int, released: object, stuck: object, second: int) -> int:
    """Until when the GPUs of an occupancy are not for others. `end` and the answer are Unix seconds; `released` and
    `stuck` are true, or an instant, when access was taken back or could not be."""
    if released:
        return end
    if stuck:
        return FOREVER
    return second + RELEASE_GRACE_SECONDS if end <= second else end


def node_ids(session: Session, pool_id: int) -> list[int]:
    """In order of placement."""
    return list(session.scalars(sa.select(Node.id).where(Node.pool_id == pool_id).order_by(Node.position)))


# -- pages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """GPUs of one node that belong to a booking now, or later."""

    node_id: int
    booking_id: int
    gpu_mask: int
    starts_at: dt.datetime
    ends_at: dt.datetime
    until: int  # the Unix second from which others may have them

    @property
    def gpus(self) -> int:
        return self.gpu_mask.bit_count()


@dataclass(frozen=True)
class Picture:
    """One pool as its pages show it: nodes in order of placement, who uses them, planned windows that are not over."""

    pool: Pool
    now: dt.datetime
    nodes: list[Node]
    uses: list[Use]
    windows: list[Maintenance]

    @cached_property
    def availability(self) -> Availability:
        second = int(self.now.timestamp())
        closed = [(node.id, second, FOREVER) for node in self.nodes if node.state is not NodeState.UP]
        for window in self.windows:
            span = int(window.starts_at.timestamp()), int(window.ends_at.timestamp())
            closed += [(node_id, *span) for node_id in window.node_ids]
        return Availability.from_rows(
            [(node.id, node.gpus) for node in self.nodes],
            [(use.node_id, use.gpu_mask, int(use.starts_at.timestamp()), use.until, 0) for use in self.uses],
            closed,
            unit=self.pool.booking_unit.value,
        )

    @property
    def capacity(self) -> int:
        """All GPUs, whatever the state of their nodes."""
        return sum(node.gpus for node in self.nodes)

    @cached_property
    def free(self) -> int:
        """GPUs that a booking could have this second."""
        second = int(self.now.timestamp())
        return sum(int(mask).bit_count() for mask in self.availability.free_masks(second, second + 1))

    @cached_property
    def in_use(self) -> int:
        """GPUs that bookings have now, also those on nodes that drain."""
        return sum(use.gpus for use in self.uses_now)

    @property
    def out_of_service(self) -> int:
        """Neither free nor in use: on nodes that are down, drain, are taken out or under maintenance."""
        return self.capacity - self.free - self.in_use

    @property
    def uses_now(self) -> list[Use]:
        return [use for use in self.uses if use.starts_at <= self.now]

    @property
    def pflops(self) -> float:
        """Dense FP16, of all GPUs."""
        return self.capacity * self.pool.tflops_fp16_dense / 1000

    def states(self) -> dict[NodeState, int]:
        """How many nodes are in each state."""
        found = dict.fromkeys(NodeState, 0)
        for node in self.nodes:
            found[node.state] += 1
        return found

    def by_hour(self, first: dt.datetime, hours: int) -> Hours:
        return self.availability.by_hour(int(first.timestamp()), hours)

    def free_gpu_seconds(self, hours: int) -> int:
        """GPU-seconds that nobody has booked in the coming full hours."""
        return int(self.by_hour(clock.ceil_hour(self.now), hours).free.sum()) * HOUR

    def under_maintenance(self, first: dt.datetime, hours: int) -> list[bool]:
        """For each hour from `first` whether a planned window touches it."""
        spans = [(window.starts_at, window.ends_at) for window in self.windows]
        return [
            any(start < first + (i + 1) * clock.HOUR and end > first + i * clock.HOUR for start, end in spans)
            for i in range(hours)
        ]


def pictures(session: Session, pools: Sequence[Pool], now: dt.datetime) -> list[Picture]:
    """Three queries, however many pools there are."""
    ids, second = [pool.id for pool in pools], int(now.timestamp())
    nodes: dict[int, list[Node]] = {id: [] for id in ids}
    uses: dict[int, list[Use]] = {id: [] for id in ids}
    windows: dict[int, list[Maintenance]] = {id: [] for id in ids}
    for node in session.scalars(sa.select(Node).where(Node.pool_id.in_(ids)).order_by(Node.position)):
        nodes[node.pool_id].append(node)
    for pool_id, node_id, booking_id, mask, starts_at, ends_at, released_at, stuck_at in session.execute(
        sa.select(
            Occupancy.pool_id,
            Occupancy.node_id,
            Occupancy.booking_id,
            Occupancy.gpu_mask,
            Occupancy.starts_at,
            Occupancy.ends_at,
            Occupancy.released_at,
            Occupancy.stuck_at,
        )
        .where(Occupancy.pool_id.in_(ids), sa.or_(Occupancy.ends_at > now, Occupancy.released_at.is_(None)))
        .order_by(Occupancy.starts_at, Occupancy.booking_id)
    ):
        until = _taken_until(int(ends_at.timestamp()), released_at, stuck_at, second)
        uses[pool_id].append(Use(node_id, booking_id, mask, starts_at, ends_at, until))
    for window in session.scalars(
        sa.select(Maintenance)
        .where(Maintenance.pool_id.in_(ids), Maintenance.state == MaintenanceState.PLANNED, Maintenance.ends_at > now)
        .order_by(Maintenance.starts_at, Maintenance.id)
    ):
        windows[window.pool_id].append(window)
    return [Picture(pool, now, nodes[pool.id], uses[pool.id], windows[pool.id]) for pool in pools]


def get_node(session: Session, node_id: int) -> tuple[Node, Pool]:
    row = session.execute(
        sa.select(Node, Pool).join(Pool, Pool.id == Node.pool_id).where(Node.id == node_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    return row[0], row[1]


def list_uses(session: Session, node_id: int, now: dt.datetime) -> list[Use]:
    """Bookings that have GPUs of the node now or later, in the order of their start."""
    rows = session.scalars(
        sa.select(Occupancy)
        .where(Occupancy.node_id == node_id, sa.or_(Occupancy.ends_at > now, Occupancy.released_at.is_(None)))
        .order_by(Occupancy.starts_at, Occupancy.booking_id)
    )
    second = int(now.timestamp())
    return [
        Use(
            row.node_id,
            row.booking_id,
            row.gpu_mask,
            row.starts_at,
            row.ends_at,
            _taken_until(int(row.ends_at.timestamp()), row.released_at, row.stuck_at, second),
        )
        for row in rows
    ]


def intervals_of(node_id: int) -> sa.Select[NodeInterval]:
    """A node's states from when to when, newest first."""
    return (
        sa.select(NodeInterval)
        .where(NodeInterval.node_id == node_id)
        .order_by(NodeInterval.starts_at.desc(), NodeInterval.id.desc())
    )


def list_instructions(session: Session, node_ids: Sequence[int], *, unanswered: bool) -> list[Instruction]:
    """What the scheduler was asked to do with these nodes, newest first: what it has not answered, or the last ten."""
    query = sa.select(Instruction).where(Instruction.target_kind == "node", Instruction.target_id.in_(node_ids))
    if unanswered:
        query = query.where(Instruction.state.in_((InstructionState.WAITING, InstructionState.CLAIMED)))
    return list(session.scalars(query.order_by(Instruction.id.desc()).limit(len(node_ids) if unanswered else 10)))


def planned_by(session: Session, windows: Sequence[Maintenance]) -> dict[int, User]:
    """Who planned each window. An erased person has an empty name; what the system planned is left out."""
    rows = session.execute(
        sa.select(HistoryEntry.subject_id, User)
        .join(User, User.id == HistoryEntry.by_id)
        .where(
            HistoryEntry.kind == Maintenance.LIFE.kind,
            HistoryEntry.verb == "plan",
            HistoryEntry.subject_id.in_([window.id for window in windows]),
        )
    )
    return {row[0]: row[1] for row in rows}


def get_window(session: Session, window_id: int) -> Maintenance:
    window = session.get(Maintenance, window_id)
    if window is None:
        raise NotFound
    return window
