"""Reading pools: prices at any instant, and the snapshot of who occupies what."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..db import Reader, UtcDateTime, among
from ..lifecycle import HistoryEntry
from ..sentences import NotFound
from ..signin.models import User
from .availability import FOREVER, HOUR, Availability, Hours, gpus_for
from .hours import Grid, Whose, grid
from .models import (
    Discount,
    Instruction,
    Limit,
    Maintenance,
    Node,
    NodeInterval,
    Occupancy,
    OptionPlace,
    Pool,
    PoolWeight,
    PowerCap,
    Tariff,
)
from .prices import Contract, ListPrice, PriceBook, Weight
from .states import BookingUnit, InstructionState, MaintenanceState, NodeState

# Access is taken back within moments of an end; until it is, nobody new is let onto those GPUs.
RELEASE_GRACE_SECONDS = 60


_POOL = sa.select(Pool).where(Pool.id == sa.bindparam("pool"))


def get_pool(session: Session, pool_id: int) -> Pool:
    pool = session.scalar(_POOL, {"pool": pool_id})
    if pool is None:
        raise NotFound
    return pool


_POOLS = sa.select(Pool).order_by(Pool.name)


def list_pools(session: Session) -> list[Pool]:
    return list(session.scalars(_POOLS))


# Every pass of the metering and every booking reads these: columns, not objects, and all of them at once.
_T, _D, _W = (cast(sa.Table, model.__table__).c for model in (Tariff, Discount, PoolWeight))


def _no(kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.null(), kind)


def _of_these(pool_id: sa.ColumnElement[int], number: int, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return sa.select(pool_id, sa.literal_column(str(number)), *columns).where(among(pool_id, "pools"))


_INT, _TEXT = sa.Integer(), sa.String()
_BOOKS = sa.union_all(
    _of_these(
        _T.pool_id, 0, _T.id, _T.from_on, _T.until_on, _T.price_micro_yuan, _T.from_hour, _T.until_hour, _T.gpus_most,
        _no(_TEXT),
    ),
    _of_these(
        _D.pool_id, 1, _D.id, _D.from_on, _D.until_on, _D.price_micro_yuan, _D.programme_id, _D.percent, _no(_INT),
        _D.size_class,
    ),
    _of_these(
        _W.pool_id, 2, _W.id, _W.from_on, _no(sa.Date()), _no(sa.BigInteger()), _W.weight_milli, _no(_INT), _no(_INT),
        _W.slice,
    ),
)  # fmt: skip


def price_books(session: Reader, pool_ids: Iterable[int]) -> dict[int, PriceBook]:
    """Every price of these pools, past and to come: one query."""
    ids = sorted(set(pool_ids))
    tariffs: dict[int, list[ListPrice]] = {id: [] for id in ids}
    discounts: dict[int, list[Contract]] = {id: [] for id in ids}
    weights: dict[int, list[Weight]] = {id: [] for id in ids}
    for pool_id, kind, id, from_on, until_on, price, first, second, third, text in session.execute(
        _BOOKS, {"pools": ids}
    ).all():
        if kind == 0:
            tariffs[pool_id].append(ListPrice(id, from_on, until_on, first, second, price, third))
        elif kind == 1:
            discounts[pool_id].append(Contract(id, first, text, from_on, until_on, second, price))
        else:
            weights[pool_id].append(Weight(text, from_on, first))
    return {id: PriceBook(tuple(tariffs[id]), tuple(discounts[id]), tuple(weights[id])) for id in ids}


def price_book(session: Session, pool_id: int) -> PriceBook:
    return price_books(session.connection(), [pool_id])[pool_id]


def list_tariffs(session: Session) -> list[Tariff]:
    """Every list price, by pool; of each the newest first, those of the whole day before the off-peak ones."""
    return list(
        session.scalars(
            sa.select(Tariff).order_by(Tariff.pool_id, Tariff.from_hour.is_not(None), Tariff.from_on.desc(), Tariff.id)
        )
    )


def get_tariff(session: Session, tariff_id: int) -> Tariff:
    tariff = session.get(Tariff, tariff_id)
    if tariff is None:
        raise NotFound
    return tariff


def list_weights(session: Session) -> list[PoolWeight]:
    """Every weight, by pool and slice; of each the newest first."""
    return list(
        session.scalars(sa.select(PoolWeight).order_by(PoolWeight.pool_id, PoolWeight.slice, PoolWeight.from_on.desc()))
    )


def count_discounts(session: Session, on: dt.date) -> dict[int, int]:
    """How many contract prices of each pool hold on a day or later."""
    rows = session.execute(
        sa.select(Discount.pool_id, sa.func.count()).where(Discount.until_on >= on).group_by(Discount.pool_id)
    )
    return {pool_id: n for pool_id, n in rows}


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


_CAPACITY = sa.select(Node.pool_id, sa.func.sum(Node.gpus)).where(among(Node.pool_id, "pools")).group_by(Node.pool_id)


def capacity(session: Session, pool_ids: Iterable[int]) -> dict[int, int]:
    """All GPUs of each pool, whatever the state of their nodes."""
    rows = session.connection().execute(_CAPACITY, {"pools": list(pool_ids)})
    return {pool_id: int(gpus) for pool_id, gpus in rows}


# Every plan reads these: columns of tables, not of mapped classes, which would cost half as much again.
_O, _N, _M = (cast(sa.Table, model.__table__).c for model in (Occupancy, Node, Maintenance))


def epoch(instant: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """As a Unix second, reckoned by the store: a plan reads hundreds of these."""
    return sa.cast(sa.extract("epoch", instant), sa.BigInteger)


def _occupied(
    released: bool, *which: sa.ColumnElement[bool], also: sa.ColumnElement[Any] | None = None
) -> sa.Select[Any]:
    stuck = sa.case((_O.stuck_at.is_(None), 0), else_=1)
    return sa.select(
        _O.node_id,
        _O.gpu_mask,
        epoch(_O.starts_at),
        epoch(_O.ends_at),
        _O.fixed,
        sa.literal_column(f"{released:d}"),
        stuck,
        *([] if also is None else [also]),
    ).where(_O.pool_id == sa.bindparam("pool"), *which)


_K = cast(sa.Table, OptionPlace.__table__).c
# What is kept for the wait-list is taken like a fixed booking, until its row goes.
_KEPT = sa.select(
    _K.node_id, _K.gpu_mask, epoch(_K.starts_at), epoch(_K.ends_at), sa.true(), sa.literal_column("1"),
    sa.literal_column("0"),
).where(_K.pool_id == sa.bindparam("pool"))  # fmt: skip
# Two short walks over indexes instead of an OR that reads the pool's whole past. The second finds something only when
# a clock was set back: released, but not over yet.
_OCCUPIED = sa.union_all(
    _occupied(False, _O.released_at.is_(None)),
    _occupied(True, _O.released_at.is_not(None), _O.ends_at > sa.bindparam("now", type_=UtcDateTime())),
    _KEPT,
)
_NODES = sa.select(_N.id, _N.gpus, _N.state).where(_N.pool_id == sa.bindparam("pool")).order_by(_N.position)
_P, _C = (cast(sa.Table, model.__table__).c for model in (Pool, PowerCap))
_NOW = sa.bindparam("now", type_=UtcDateTime())
# What closes nodes for a time, and what lets only a part of the pool be in use: one question.
_WINDOWS = sa.union_all(
    sa.select(
        sa.cast(_M.node_ids, sa.Text).label("node_ids"), _M.starts_at.label("starts_at"), _M.ends_at.label("ends_at"),
        sa.literal_column("0").label("watts"), sa.literal_column("0").label("pue"),
        sa.literal_column("0").label("of_a_gpu"),
    ).where(_M.pool_id == sa.bindparam("pool"), _M.state == MaintenanceState.PLANNED, _M.ends_at > _NOW),
    sa.select(
        sa.cast(sa.null(), sa.Text), _C.starts_at, _C.ends_at, _C.watts, _C.pue_permille, _P.watts
    ).join_from(PowerCap.__table__, Pool.__table__, _P.id == _C.pool_id)
    .where(_C.pool_id == sa.bindparam("pool"), _C.lifted_at.is_(None), _C.ends_at > _NOW),
)  # fmt: skip


# The same once more, with whose it is: a booking's id, or minus the id of somebody on the wait-list.
_WHOSE = sa.union_all(
    _occupied(False, _O.released_at.is_(None), also=_O.booking_id),
    _occupied(
        True,
        _O.released_at.is_not(None),
        _O.ends_at > sa.bindparam("now", type_=UtcDateTime()),
        also=_O.booking_id,
    ),
    _KEPT.add_columns(-_K.waiter_id),
)


class _OfPool(Protocol):
    """A pool's row, or as much of it as availability needs."""

    @property
    def id(self) -> int: ...
    @property
    def booking_unit(self) -> BookingUnit: ...


def load_availability(session: Reader, pool: _OfPool, now: dt.datetime) -> Availability:
    """Who occupies which GPUs of the pool from `now` on: bookings, nodes not up, maintenance; and caps of power."""
    second = int(now.timestamp())
    nodes = session.execute(_NODES, {"pool": pool.id}).all()
    occupied = session.execute(_OCCUPIED, {"pool": pool.id, "now": now}).all()
    rows = [
        (node_id, mask, start, _taken_until(end, released, stuck, second), fixed)
        for node_id, mask, start, end, fixed, released, stuck in occupied
    ]
    closed, caps = _windows(session, pool, now)
    closed += [(id, second, FOREVER) for id, _gpus, state in nodes if state is not NodeState.UP]
    return Availability.from_rows(
        [(id, gpus) for id, gpus, _state in nodes], rows, closed, unit=pool.booking_unit.value, caps=caps
    )


def load_grid(
    session: Reader,
    pool: _OfPool,
    now: dt.datetime,
    *,
    first: dt.datetime,
    hours: int,
    bookings: Collection[int] = (),
    waiters: Collection[int] = (),
) -> Grid:
    """Who has which cards in each of these hours, as of `now`: three queries. `bookings` and `waiters` are mine."""
    second, mine = int(now.timestamp()), {*bookings, *(-id for id in waiters)}
    nodes = session.execute(_NODES, {"pool": pool.id}).all()
    taken = [
        (node_id, mask, start, _taken_until(end, released, stuck, second), fixed, _whose(whose, mine))
        for node_id, mask, start, end, fixed, released, stuck, whose in session.execute(
            _WHOSE, {"pool": pool.id, "now": now}
        ).all()
    ]
    closed, caps = _windows(session, pool, now)
    closed += [(id, second, FOREVER) for id, _gpus, state in nodes if state is not NodeState.UP]
    return grid(
        [(id, gpus) for id, gpus, _state in nodes],
        taken,
        closed,
        first=int(first.timestamp()),
        hours=hours,
        unit=pool.booking_unit.value,
        caps=caps,
    )


_Span = tuple[int, int, int]


def _windows(session: Reader, pool: _OfPool, now: dt.datetime) -> tuple[list[_Span], list[_Span]]:
    """Nodes closed for a time as (node id, from, until), and caps of power as (from, until, GPUs)."""
    closed: list[_Span] = []
    caps: list[_Span] = []
    for node_ids, starts_at, ends_at, watts, pue, of_a_gpu in session.execute(
        _WINDOWS, {"pool": pool.id, "now": now}
    ).all():
        span = int(starts_at.timestamp()), int(ends_at.timestamp())
        if node_ids is None:
            caps.append((*span, gpus_for(watts, of_a_gpu, pue)))
        else:
            closed += [(node_id, *span) for node_id in json.loads(node_ids)]
    return closed, caps


def _whose(id: int, mine: Collection[int]) -> Whose:
    if id in mine:
        return Whose.MINE
    return Whose.BOOKED if id > 0 else Whose.KEPT


def _taken_until(end: int, released: object, stuck: object, second: int) -> int:
    """Until when the GPUs of an occupancy are not for others. `end` and the answer are Unix seconds; `released` and
    `stuck` are true, or an instant, when access was taken back or could not be."""
    if released:
        return end
    if stuck:
        return FOREVER
    return second + RELEASE_GRACE_SECONDS if end <= second else end


_POWER_CAPS = (
    sa.select(PowerCap)
    .where(PowerCap.pool_id == sa.bindparam("pool"), PowerCap.lifted_at.is_(None), PowerCap.ends_at > _NOW)
    .order_by(PowerCap.starts_at, PowerCap.id)
)


def list_power_caps(session: Session, pool_id: int, now: dt.datetime) -> list[PowerCap]:
    """Those that hold or will, by start."""
    return list(session.scalars(_POWER_CAPS, {"pool": pool_id, "now": now}))


def reasons_of(session: Session, caps: Sequence[PowerCap]) -> dict[int, str]:
    """Why caps were set, where somebody said so."""
    rows = session.execute(
        sa.select(HistoryEntry.subject_id, HistoryEntry.note).where(
            HistoryEntry.kind == PowerCap.LIFE.kind,
            HistoryEntry.verb == "cap",
            HistoryEntry.subject_id.in_([cap.id for cap in caps]),
        )
    )
    return {id: note for id, note in rows if note}


def past_power_caps(session: Session, pool_id: int, now: dt.datetime, limit: int = 10) -> list[PowerCap]:
    """Those that are over or were lifted, the last ones first."""
    return list(
        session.scalars(
            sa.select(PowerCap)
            .where(PowerCap.pool_id == pool_id, sa.or_(PowerCap.lifted_at.is_not(None), PowerCap.ends_at <= now))
            .order_by(PowerCap.id.desc())
            .limit(limit)
        )
    )


def get_power_cap(session: Session, cap_id: int) -> PowerCap:
    cap = session.get(PowerCap, cap_id)
    if cap is None:
        raise NotFound
    return cap


def node_ids(session: Session, pool_id: int) -> list[int]:
    """In order of placement."""
    return list(session.scalars(sa.select(Node.id).where(Node.pool_id == pool_id).order_by(Node.position)))


def node_names(session: Session, node_ids: Sequence[int]) -> dict[int, str]:
    return {id: name for id, name in session.execute(sa.select(Node.id, Node.name).where(Node.id.in_(node_ids)))}


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
    kept: list[OptionPlace]  # for those on the wait-list
    caps: list[PowerCap]  # of power, that hold or will
    reasons: dict[int, str]  # of caps, where somebody said so
    planned_by: dict[int, User]  # of windows; an erased person has an empty name, the system is left out

    @cached_property
    def availability(self) -> Availability:
        second = int(self.now.timestamp())
        closed = [(node.id, second, FOREVER) for node in self.nodes if node.state is not NodeState.UP]
        for window in self.windows:
            span = int(window.starts_at.timestamp()), int(window.ends_at.timestamp())
            closed += [(node_id, *span) for node_id in window.node_ids]
        return Availability.from_rows(
            [(node.id, node.gpus) for node in self.nodes],
            [(use.node_id, use.gpu_mask, int(use.starts_at.timestamp()), use.until, 0) for use in self.uses]
            + [(k.node_id, k.gpu_mask, int(k.starts_at.timestamp()), int(k.ends_at.timestamp()), 1) for k in self.kept],
            closed,
            unit=self.pool.booking_unit.value,
            caps=[(int(cap.starts_at.timestamp()), int(cap.ends_at.timestamp()), self.fed(cap)) for cap in self.caps],
        )

    def fed(self, cap: PowerCap) -> int:
        """How many GPUs run on what a cap leaves."""
        return gpus_for(cap.watts, self.pool.watts, cap.pue_permille)

    @property
    def node_count(self) -> int:
        return len(self.nodes)

    @property
    def capacity(self) -> int:
        """All GPUs, whatever the state of their nodes."""
        return sum(node.gpus for node in self.nodes)

    @cached_property
    def free(self) -> int:
        """GPUs that bookings could have this second, and power for them."""
        second = int(self.now.timestamp())
        cards = sum(int(mask).bit_count() for mask in self.availability.free_masks(second, second + 1))
        return min(cards, self.availability.room(second, second + 1))

    @cached_property
    def in_use(self) -> int:
        """GPUs that bookings have now, also those on nodes that drain."""
        return sum(use.gpus for use in self.uses_now)

    @property
    def out_of_service(self) -> int:
        """Neither free nor in use: without power, or on nodes that are down, drain, are out or under maintenance."""
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


_PICTURED_KEPT = sa.select(OptionPlace).where(among(OptionPlace.pool_id, "pools"))
_PICTURED_NODES = sa.select(Node).where(among(Node.pool_id, "pools")).order_by(Node.position)
_PICTURED_USES = (
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
    .where(
        among(Occupancy.pool_id, "pools"),
        sa.or_(Occupancy.ends_at > sa.bindparam("now"), Occupancy.released_at.is_(None)),
    )
    .order_by(Occupancy.starts_at, Occupancy.booking_id)
)


def _first_row_of(model: type[Maintenance | PowerCap], id: Any, verb: str) -> sa.ColumnElement[bool]:
    """The history row that a verb wrote of a thing."""
    return sa.and_(HistoryEntry.kind == model.LIFE.kind, HistoryEntry.subject_id == id, HistoryEntry.verb == verb)


_PICTURED_WINDOWS = (
    sa.select(Maintenance, User)
    .outerjoin(HistoryEntry, _first_row_of(Maintenance, Maintenance.id, "plan"))
    .outerjoin(User, User.id == HistoryEntry.by_id)
    .where(
        among(Maintenance.pool_id, "pools"),
        Maintenance.state == MaintenanceState.PLANNED,
        Maintenance.ends_at > sa.bindparam("now"),
    )
    .order_by(Maintenance.starts_at, Maintenance.id)
)
_PICTURED_CAPS = (
    sa.select(PowerCap, HistoryEntry.note)
    .outerjoin(HistoryEntry, _first_row_of(PowerCap, PowerCap.id, "cap"))
    .where(among(PowerCap.pool_id, "pools"), PowerCap.lifted_at.is_(None), PowerCap.ends_at > sa.bindparam("now"))
    .order_by(PowerCap.starts_at, PowerCap.id)
)


def pictures(session: Session, pools: Sequence[Pool], now: dt.datetime) -> list[Picture]:
    """Five queries, however many pools there are."""
    ids, second = [pool.id for pool in pools], int(now.timestamp())
    these = {"pools": ids, "now": now}
    nodes: dict[int, list[Node]] = {id: [] for id in ids}
    uses: dict[int, list[Use]] = {id: [] for id in ids}
    windows: dict[int, list[Maintenance]] = {id: [] for id in ids}
    kept: dict[int, list[OptionPlace]] = {id: [] for id in ids}
    for place in session.scalars(_PICTURED_KEPT, these):
        kept[place.pool_id].append(place)
    for node in session.scalars(_PICTURED_NODES, these):
        nodes[node.pool_id].append(node)
    found = session.connection().execute(_PICTURED_USES, these).all()
    for pool_id, node_id, booking_id, mask, starts_at, ends_at, released_at, stuck_at in found:
        until = _taken_until(int(ends_at.timestamp()), released_at, stuck_at, second)
        uses[pool_id].append(Use(node_id, booking_id, mask, starts_at, ends_at, until))
    planned_by: dict[int, User] = {}
    for window, user in session.execute(_PICTURED_WINDOWS, these):
        windows[window.pool_id].append(window)
        if user is not None:
            planned_by[window.id] = user
    caps: dict[int, list[PowerCap]] = {id: [] for id in ids}
    reasons: dict[int, str] = {}
    for cap, reason in session.execute(_PICTURED_CAPS, these):
        caps[cap.pool_id].append(cap)
        if reason:
            reasons[cap.id] = reason
    return [
        Picture(
            pool, now, nodes[pool.id], uses[pool.id], windows[pool.id], kept[pool.id], caps[pool.id], reasons,
            planned_by,
        )
        for pool in pools
    ]  # fmt: skip


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


def get_window(session: Session, window_id: int) -> Maintenance:
    window = session.get(Maintenance, window_id)
    if window is None:
        raise NotFound
    return window
