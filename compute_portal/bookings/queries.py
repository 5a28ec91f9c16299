"""Bookings for pages: one booking with all that its page shows, and paged lists."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, must_see, sees_all, visible
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..db import one_page, written
from ..enterprises.models import Enterprise
from ..enterprises.states import EnterpriseState, SizeClass
from ..ledger.models import Bucket, LedgerAccount
from ..pools import queries as pool_queries
from ..pools.models import Instruction, Limit, Pool, Tariff
from ..pools.states import BookingUnit, InstructionVerb
from ..programmes.models import Programme
from ..sentences import NotFound
from . import prices
from .models import Attempt, Booking, QueuePicture, Standing, Waiter
from .states import NOT_STARTED, ON_THE_CLUSTER, BookingKind, BookingState, WaiterState

PAGE = 25
MOST_LISTED = 20 * PAGE  # of everybody's, the newest; older ones are found by their number, enterprise or allocation
ENDED = frozenset(BookingState) - NOT_STARTED - ON_THE_CLUSTER
TABS: dict[str, frozenset[BookingState]] = {"current": ON_THE_CLUSTER, "upcoming": NOT_STARTED, "ended": ENDED}


@dataclass(frozen=True, slots=True)
class BookingRow:
    booking: Booking
    pool: Pool
    enterprise: Enterprise
    standing: Standing | None


class EnterpriseName(NamedTuple):
    name: str
    name_en: str | None


class Listed(NamedTuple):
    """A booking in a list: what lists show of it. From `place` on its standing; without one they are all None."""

    id: int
    kind: BookingKind
    state: BookingState
    title: str
    enterprise_id: int
    gpus: int
    longest_seconds: int
    not_before_at: dt.datetime | None
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    claimed_at: dt.datetime | None
    held_gpu_seconds: int
    charged_gpu_seconds: int
    pool_name: str
    enterprise_name: str
    enterprise_name_en: str | None
    place: int | None
    waiting: int | None
    reason: dict[str, Any] | None
    p10_at: dt.datetime | None
    expected_at: dt.datetime | None
    p90_at: dt.datetime | None

    @property
    def enterprise(self) -> EnterpriseName:
        return EnterpriseName(self.enterprise_name, self.enterprise_name_en)

    @property
    def until_at(self) -> dt.datetime | None:
        """When what runs ends at the latest."""
        if self.ends_at is not None or self.started_at is None:
            return self.ends_at
        return self.started_at + dt.timedelta(seconds=self.longest_seconds)


LISTED: sa.Select[*tuple[Any, ...]] = (
    sa.select(
        *(Booking.__table__.c[name] for name in Listed._fields[: Listed._fields.index("pool_name")]),
        Pool.name,
        Enterprise.name,
        Enterprise.name_en,
        *(Standing.__table__.c[name] for name in Listed._fields[Listed._fields.index("place") :]),
    )
    .join(Pool, Pool.id == Booking.pool_id)
    .join(Enterprise, Enterprise.id == Booking.enterprise_id)
    .outerjoin(Standing, Standing.booking_id == Booking.id)
)


def get_booking(session: Session, booking_id: int, by: Actor) -> Booking:
    return must_see(session.get(Booking, booking_id), by)


def _joined() -> sa.Select[Booking, Pool, Enterprise, Standing]:
    return (
        sa.select(Booking, Pool, Enterprise, Standing)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id)
        .outerjoin(Standing, Standing.booking_id == Booking.id)
    )


# A list's statements are made once: to put one together takes longer than to run it.
_CONDITIONS: dict[str, sa.ColumnElement[bool]] = {
    "own": Booking.enterprise_id == sa.bindparam("own"),
    "enterprise_id": Booking.enterprise_id == sa.bindparam("enterprise_id"),
    "allocation_id": Booking.allocation_id == sa.bindparam("allocation_id"),
}


@dataclass(frozen=True, slots=True)
class Which:
    """What a list is narrowed to; None leaves it open."""

    enterprise_id: int | None = None
    allocation_id: int | None = None


def _asked(which: Which, by: Actor) -> dict[str, Any]:
    """The conditions by name with their values: what is asked for, and what the actor may see."""
    values = {
        "own": None if sees_all(by) else by.enterprise_id or 0,
        "enterprise_id": which.enterprise_id,
        "allocation_id": which.allocation_id,
    }
    return {name: value for name, value in values.items() if value is not None}


@cache
def _of_some(states: frozenset[BookingState], names: frozenset[str], *, is_first: bool) -> sa.Select[*tuple[Any, ...]]:
    rows = LISTED.where(*(_CONDITIONS[name] for name in sorted(names)), Booking.state.in_(states))
    return one_page(rows.order_by(Booking.id.desc()), PAGE, is_first=is_first)


@cache
def _counted_of_some(names: frozenset[str]) -> sa.Select[*tuple[Any, ...]]:
    conditions = [_CONDITIONS[name] for name in sorted(names)]
    return sa.select(Booking.state, sa.func.count()).where(*conditions).group_by(Booking.state)


def _counted() -> sa.Select[*tuple[Any, ...]]:
    """Of every tab no more than can be listed: a count of all of them grows with the years."""

    def number(states: frozenset[BookingState]) -> sa.ScalarSelect[int]:
        most = sa.select(Booking.id).where(Booking.state.in_(states)).limit(written(MOST_LISTED + 1)).subquery()
        return sa.select(sa.func.count()).select_from(most).scalar_subquery()

    return sa.select(*(number(states) for states in TABS.values()))


_COUNTED = _counted()


@lru_cache(maxsize=64)
def _of_everybody(states: frozenset[BookingState], page: int) -> sa.Select[*tuple[Any, ...]]:
    """The newest of each state are merged: one sort over all would read them all."""
    newest = [
        sa.select(Booking.id)
        .where(Booking.state == state)
        .order_by(Booking.id.desc())
        .limit(written(page * PAGE))
        .subquery()
        for state in sorted(states)
    ]
    return (
        LISTED.where(Booking.id.in_(sa.union_all(*(sa.select(each.c.id) for each in newest))))
        .order_by(Booking.id.desc())
        .limit(written(PAGE))
        .offset(written((page - 1) * PAGE))
    )


def list_bookings(
    session: Session, by: Actor, *, states: frozenset[BookingState], which: Which = Which(), page: int = 1
) -> list[Listed]:
    """Newest first, as far as the actor may see them: of everybody, or of one enterprise or allocation."""
    if asked := _asked(which, by):
        statement = _of_some(states, frozenset(asked), is_first=page == 1)
        rows = session.connection().execute(statement, asked | {"offset": (page - 1) * PAGE}).all()
    else:
        rows = session.connection().execute(_of_everybody(states, page)).all()
    return [Listed(*row) for row in rows]


def count_by_tab(session: Session, by: Actor, which: Which = Which()) -> dict[str, int]:
    """How many are current, upcoming, ended: one query. Of everybody's, more than MOST_LISTED are not told apart."""
    if asked := _asked(which, by):
        rows = session.connection().execute(_counted_of_some(frozenset(asked)), asked).all()
        return {tab: sum(n for state, n in rows if state in states) for tab, states in TABS.items()}
    return dict(zip(TABS, session.connection().execute(_COUNTED).one(), strict=True))


def list_to_approve(session: Session, limit: int = PAGE) -> list[BookingRow]:
    """Bookings above a programme's threshold that wait for an operator, oldest first."""
    rows = session.execute(_joined().where(Booking.state == BookingState.SUBMITTED).order_by(Booking.id).limit(limit))
    return [BookingRow(*row) for row in rows]


def list_attempts(session: Session, booking_id: int) -> list[Attempt]:
    return list(session.scalars(sa.select(Attempt).where(Attempt.booking_id == booking_id).order_by(Attempt.id)))


@dataclass(frozen=True, slots=True)
class Whole:
    """One booking with everything it belongs to, for its page: one query."""

    booking: Booking
    pool: Pool
    enterprise: Enterprise
    standing: Standing | None
    allocation: Allocation
    programme: Programme
    tariff: Tariff | None
    picture: QueuePicture | None

    @property
    def gpu_seconds(self) -> int:
        """What it may use at most, and a fixed one pays."""
        return self.booking.gpus * self.booking.longest_seconds

    def used_gpu_seconds(self, now: dt.datetime) -> int:
        """Used until now, never more than it may."""
        if self.booking.started_at is None:
            return 0
        seconds = clock.seconds_between(self.booking.started_at, self.booking.ended_at or now)
        return min(self.gpu_seconds, self.booking.gpus * max(0, seconds))


def get_whole(session: Session, booking_id: int, by: Actor) -> Whole:
    row = session.execute(
        sa.select(Booking, Pool, Enterprise, Standing, Allocation, Programme, Tariff, QueuePicture)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id)
        .outerjoin(Standing, Standing.booking_id == Booking.id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .join(Programme, Programme.id == Allocation.programme_id)
        .outerjoin(Tariff, Tariff.id == Booking.tariff_id)
        .outerjoin(QueuePicture, QueuePicture.pool_id == Booking.pool_id)
        .where(Booking.id == booking_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    must_see(row[0], by)
    return Whole(*row)


def highest_price(session: Session, whole: Whole) -> int:
    """Micro-yuan per GPU-hour, discount and weight applied: the highest that the booking pays or may meet."""
    frozen = prices.frozen(session, [whole.booking.id]).get(whole.booking.id)
    if frozen:
        return max(stretch.point.hour_micro_yuan for stretch in frozen)
    book = pool_queries.price_book(session, whole.pool.id)
    start = whole.booking.starts_at or whole.booking.submitted_at
    end = whole.booking.ends_at or whole.allocation.ends_at
    points = book.points(start, end, size_class=str(whole.enterprise.size_class), programme_id=whole.programme.id)
    return max(point.hour_micro_yuan for point in points)


def find_stop(session: Session, booking_id: int) -> Instruction | None:
    """The newest request to stop it, with the scheduler's answer once there is one."""
    return session.scalars(
        sa.select(Instruction)
        .where(
            Instruction.target_kind == "booking",
            Instruction.target_id == booking_id,
            Instruction.verb == InstructionVerb.STOP,
        )
        .order_by(Instruction.id.desc())
        .limit(1)
    ).first()


class ChosenAllocation(NamedTuple):
    id: int
    starts_on: dt.date
    ends_on: dt.date

    @property
    def starts_at(self) -> dt.datetime:
        return clock.start_of_day(self.starts_on)

    @property
    def ends_at(self) -> dt.datetime:
        return clock.end_of_day(self.ends_on)


class ChosenProgramme(NamedTuple):
    id: int
    name: str
    name_en: str | None
    booking_approval_gpu_seconds: int


class ChosenPool(NamedTuple):
    id: int
    name: str
    model: str
    gpus_per_node: int
    booking_unit: BookingUnit
    tflops_fp16_dense: int
    watts: int


class ChosenEnterprise(NamedTuple):
    id: int
    state: EnterpriseState
    size_class: SizeClass


class Choice(NamedTuple):
    """An allocation on which a member may book now, with what the form tells of it."""

    allocation: ChosenAllocation
    programme: ChosenProgramme
    pool: ChosenPool
    enterprise: ChosenEnterprise
    limit: int | None
    available: int  # GPU-seconds

    @property
    def usual_gpus(self) -> int:
        """One node, or the limit when that is less."""
        return max(1, min(self.pool.gpus_per_node, self.limit or self.pool.gpus_per_node))


_CHOICES = (
    sa.select(
        *(getattr(Allocation, name) for name in ChosenAllocation._fields),
        *(getattr(Programme, name) for name in ChosenProgramme._fields),
        *(getattr(Pool, name) for name in ChosenPool._fields),
        *(getattr(Enterprise, name) for name in ChosenEnterprise._fields),
        Limit.gpus,
        sa.func.coalesce(LedgerAccount.balance, 0),
    )
    .join(Programme, Programme.id == Allocation.programme_id)
    .join(Pool, Pool.id == Allocation.pool_id)
    .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
    .outerjoin(Limit, sa.and_(Limit.enterprise_id == Allocation.enterprise_id, Limit.pool_id == Pool.id))
    .outerjoin(
        LedgerAccount,
        sa.and_(
            # As ledger.service.allocation() writes it.
            LedgerAccount.owner == sa.literal("allocation:") + sa.cast(Allocation.id, sa.String),
            LedgerAccount.bucket == Bucket.AVAILABLE,
        ),
    )
    .where(Allocation.state == AllocationState.ACTIVE, Allocation.ends_on >= sa.bindparam("today"))
    .order_by(Allocation.ends_on, Allocation.id)
    .limit(100)
)
_CHOICES_OF_ONE = _CHOICES.where(Allocation.enterprise_id == sa.bindparam("enterprise_id"))


def list_choices(session: Session, by: Actor, now: dt.datetime) -> list[Choice]:
    """The one that ends first comes first. One query: the form's budget goes into the quote."""
    asked: dict[str, Any] = {"today": clock.day_of(now)}
    if not sees_all(by):
        asked["enterprise_id"] = by.enterprise_id
    rows = session.connection().execute(_CHOICES if sees_all(by) else _CHOICES_OF_ONE, asked)
    return [_choice(iter(row)) for row in rows]


def _choice(cells: Iterator[Any]) -> Choice:
    """Each part takes as many as it has."""
    allocation = ChosenAllocation._make(islice(cells, len(ChosenAllocation._fields)))
    programme = ChosenProgramme._make(islice(cells, len(ChosenProgramme._fields)))
    pool = ChosenPool._make(islice(cells, len(ChosenPool._fields)))
    enterprise = ChosenEnterprise._make(islice(cells, len(ChosenEnterprise._fields)))
    return Choice(allocation, programme, pool, enterprise, *cells)


def places(attempt: Attempt) -> list[tuple[str, str]]:
    """Where an attempt runs: (node, GPU indices as 0–3, 6), in the order of placement."""
    return [(str(place["node"]), _ranges(sorted(place["gpus"]))) for place in attempt.nodes or []]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def find_standing(session: Session, booking_id: int) -> Standing | None:
    return session.get(Standing, booking_id)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a booking, for reports over many: instants, nodes of its last attempt, what was charged."""

    booking_id: int
    state: BookingState
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    nodes: list[dict[str, Any]] | None
    charged_gpu_seconds: int


def list_runs(session: Session, after_id: int, limit: int = 5_000) -> list[Run]:
    """Bookings in order of their ids, by pages of ids."""
    rows = session.execute(
        sa.select(
            Booking.id, Booking.state, Booking.started_at, Booking.ended_at, Attempt.nodes, Booking.charged_gpu_seconds
        )
        .outerjoin(Attempt, sa.and_(Attempt.booking_id == Booking.id, Attempt.number == Booking.tries))
        .where(Booking.id > after_id)
        .order_by(Booking.id)
        .limit(limit)
    )
    return [Run(*row) for row in rows]


def list_started(session: Session, booking_ids: Collection[int]) -> dict[int, dt.datetime]:
    """Which of these have started, and when."""
    rows = session.execute(
        sa.select(Booking.id, Booking.started_at).where(Booking.id.in_(booking_ids), Booking.started_at.is_not(None))
    )
    return {id: started_at for id, started_at in rows if started_at is not None}


def count_open(session: Session) -> int:
    """Bookings that wait or run, or are finished but not settled yet."""
    states = NOT_STARTED | ON_THE_CLUSTER | {BookingState.FINISHED}
    return session.scalar(sa.select(sa.func.count()).select_from(Booking).where(Booking.state.in_(states))) or 0


# -- the wait-list


@dataclass(frozen=True, slots=True)
class WaiterRow:
    """A window that somebody waits for; `place`: how many are before it for a time that overlaps, and itself."""

    waiter: Waiter
    pool: Pool
    place: int


def list_waiters(session: Session, by: Actor, now: dt.datetime) -> list[WaiterRow]:
    """What is waited for or kept, and what came of it in the last days; open ones first."""
    other = orm.aliased(Waiter)
    open_ones = (WaiterState.WAITING, WaiterState.OFFERED)
    before = (
        sa.select(sa.func.count(other.id))
        .where(
            other.pool_id == Waiter.pool_id,
            other.state.in_(open_ones),
            other.id < Waiter.id,
            other.starts_at < Waiter.ends_at,
            other.ends_at > Waiter.starts_at,
        )
        .scalar_subquery()
    )
    rows = session.execute(
        visible(sa.select(Waiter, Pool, before + 1).join(Pool, Pool.id == Waiter.pool_id), Waiter.enterprise_id, by)
        .where(sa.or_(Waiter.state.in_(open_ones), Waiter.joined_at > now - dt.timedelta(days=14)))
        .order_by(sa.case((Waiter.state.in_(open_ones), 0), else_=1), Waiter.id)
        .limit(100)
    )
    return [WaiterRow(*row) for row in rows]


def get_waiter(session: Session, waiter_id: int, by: Actor) -> Waiter:
    return must_see(session.get(Waiter, waiter_id), by)


_OWN_IDS = sa.union_all(
    sa.select(sa.literal_column("0", sa.Integer), Booking.id).where(
        Booking.enterprise_id == sa.bindparam("enterprise_id"),
        Booking.pool_id == sa.bindparam("pool_id"),
        Booking.state.in_(NOT_STARTED | ON_THE_CLUSTER),
    ),
    sa.select(sa.literal_column("1", sa.Integer), Waiter.id).where(
        Waiter.enterprise_id == sa.bindparam("enterprise_id"),
        Waiter.pool_id == sa.bindparam("pool_id"),
        Waiter.state == WaiterState.OFFERED,
    ),
)


def own_ids(session: Session, by: Actor, pool_id: int) -> tuple[list[int], list[int]]:
    """Of the actor's enterprise in a pool: bookings that are not over, and who on the wait-list has a window kept.

    One query; the bureau has none of its own.
    """
    if by.enterprise_id is None:
        return [], []
    asked = {"enterprise_id": by.enterprise_id, "pool_id": pool_id}
    rows = session.connection().execute(_OWN_IDS, asked).all()
    return [id for kind, id in rows if kind == 0], [id for kind, id in rows if kind == 1]
