"""One queue of everything that needs a decision: whatever ends first stands first.

One query for a page of it and for how many there are: a UNION ALL of selects that each read their own index and stop
after a page's rows. It goes on from the last row that was seen, so the thousandth page costs what the first one does.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from ..access import Actor, Permission, Role
from ..allocations.models import IS_WAITING, Allocation, AllocationChange, Report
from ..allocations.review_models import RequestStep
from ..allocations.states import ChangeState, ReportState
from ..bookings.models import IS_SUBMITTED, Booking
from ..bookings.states import BookingKind
from ..db import UtcDateTime, among, written
from ..enterprises.models import Enterprise
from ..enterprises.queries import EnterpriseName
from ..enterprises.states import EnterpriseState
from ..language import N_
from ..notices.models import Delivery, Notice
from ..policy import BookingPolicy, DeskPolicy
from ..pools.models import Instruction, Pool
from ..pools.states import InstructionState
from ..review.models import Appeal
from ..review.states import AppealState
from .models import TimetableEntry, TimetableRun

PAGE = 25
MOST_COUNTED = 200  # of a kind: more than nobody counts
DAY = 86_400


class Kind(enum.StrEnum):
    """What can wait, in the order in which things of the same instant stand."""

    APPEAL = "appeal"
    BOOKING = "booking"
    CHANGE = "change"
    ENTERPRISE = "enterprise"
    INSTRUCTION = "instruction"
    JOB = "job"
    MAIL = "mail"
    REPORT = "report"
    REQUEST = "request"


KIND_NAMES: dict[Kind, str] = {
    Kind.ENTERPRISE: N_("Enterprises to verify"),
    Kind.REQUEST: N_("Requests"),
    Kind.CHANGE: N_("Changes"),
    Kind.APPEAL: N_("Appeals"),
    Kind.REPORT: N_("Reports"),
    Kind.BOOKING: N_("Bookings"),
    Kind.INSTRUCTION: N_("Instructions that failed"),
    Kind.MAIL: N_("Mail that failed"),
    Kind.JOB: N_("Timetable"),
}
# Whoever may deal with a kind; others of the bureau only see that it waits.
DEALS_WITH: dict[Kind, Permission] = {
    Kind.ENTERPRISE: Permission.ENTERPRISE_VERIFY,
    Kind.REQUEST: Permission.REVIEW_APPROVE,
    Kind.CHANGE: Permission.CHANGE_APPROVE,
    Kind.APPEAL: Permission.REVIEW_APPROVE,
    Kind.REPORT: Permission.REPORT_ACCEPT,
    Kind.BOOKING: Permission.BOOKING_APPROVE,
    Kind.INSTRUCTION: Permission.NODE_DRAIN,
    Kind.MAIL: Permission.MAIL_RETRY,
    Kind.JOB: Permission.JOB_RETRY,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the next one begins behind it."""

    due_at: dt.datetime
    kind: Kind
    id: int

    def __str__(self) -> str:
        return f"{int(self.due_at.timestamp())}-{self.kind}-{self.id}"

    @classmethod
    def read(cls, text: str) -> Place | None:
        """None when the text names no place: the queue then begins at its beginning."""
        try:
            seconds, kind, id = text.split("-")
            return cls(dt.datetime.fromtimestamp(int(seconds), dt.UTC), Kind(kind), int(id))
        except (ValueError, OverflowError, OSError):
            return None


@dataclass(frozen=True, slots=True)
class Which:
    """What the queue is narrowed to."""

    kind: Kind | None = None
    mine: bool = False
    late: bool = False
    after: Place | None = None


class Item(NamedTuple):
    """One thing that waits. `number` is GPU-seconds, cards or how many, by kind; `text` what a person wrote."""

    kind: Kind
    id: int
    due_at: dt.datetime
    since_at: dt.datetime
    text: str | None
    number: int | None
    assigned_to: int | None
    escalated: bool
    target_id: int | None  # what it is about, where that is another row; of a request its open step
    enterprise: EnterpriseName | None
    pool_name: str | None

    @property
    def place(self) -> Place:
        return Place(self.due_at, self.kind, self.id)


@dataclass(frozen=True, slots=True)
class Queue:
    items: Sequence[Item]
    next: Place | None
    counts: Mapping[Kind, int]  # at most MOST_COUNTED each

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def has_more(self) -> bool:
        """Of some kind there may be more than were counted."""
        return MOST_COUNTED in self.counts.values()


@dataclass(frozen=True, slots=True)
class Rules:
    """Numbers of the policy that say by when things are due."""

    desk: DeskPolicy
    bookings: BookingPolicy


def load(session: Session, which: Which, rules: Rules, by: Actor, now: dt.datetime) -> Queue:
    """One query, whatever waits."""
    seen = frozenset(kind for kind in Kind if kind is not Kind.MAIL or by.may(Permission.MAIL_VIEW))
    kinds = frozenset(kind for kind in seen if by.may(DEALS_WITH[kind])) if which.mine else seen
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    values = {
        "now": now,
        "failed_since": now - dt.timedelta(days=rules.desk.failed_days),
        "by": by.user_id,
        "roles": list(by.roles),
        "is_operator": Role.OPERATOR in by.roles,
    }
    if not kinds:
        return Queue([], None, {})
    narrowed = _Narrowed(kinds, which.mine, which.late, rules, on_postgresql)
    counted, query = _asking(narrowed, which.kind, which.after and which.after.kind)
    place = {} if which.after is None else {"place_due_at": which.after.due_at, "place_id": which.after.id}
    rows = session.connection().execute(query, values | place).all()
    counts: dict[Kind, int] = {}
    for kind, number in zip(counted, rows[0], strict=False):
        counts[kind] = min(MOST_COUNTED, counts.get(kind, 0) + number)
    found = [_item(*row[len(counted) :]) for row in rows if row.kind is not None]
    items = found[:PAGE]
    return Queue(items, items[-1].place if len(found) > PAGE else None, counts)


def _item(
    kind: str, id: int, due_at: dt.datetime, since_at: dt.datetime, text: str | None, number: int | None,
    assigned_to: int | None, escalated: int, target_id: int | None,
    firm: int | None, name: str, name_en: str | None, pool: str | None,
) -> Item:  # fmt: skip
    enterprise = None if firm is None else EnterpriseName(firm, name, name_en)
    return Item(
        Kind(kind), id, due_at, since_at, text, number, assigned_to, bool(escalated), target_id, enterprise, pool
    )


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """All that the text of a statement depends on. Each text is made once: making it costs ten times its run."""

    kinds: frozenset[Kind]
    mine: bool
    late: bool
    rules: Rules
    on_postgresql: bool


@dataclass(frozen=True, slots=True)
class _Branch:
    """One kind: its rows, by what they are ordered, and what makes a row mine (None: the permission alone)."""

    query: sa.Select[Any]
    due: sa.SQLColumnExpression[Any]
    id: sa.SQLColumnExpression[int]
    mine: sa.ColumnElement[bool] | None = None
    whole: bool = False  # already one row: nothing to count or to go on from


def _branches(narrowed: _Narrowed) -> list[tuple[Kind, _Branch]]:
    """What is asked for, in the order of the kinds; bookings are two, each with an order of its own."""
    rules, later = narrowed.rules, _later_on_postgresql if narrowed.on_postgresql else _later_on_sqlite
    lapses_before = -rules.bookings.undecided_lapses_hours_before * 3_600
    lapses_after = rules.bookings.undecided_lapses_working_days * DAY
    branches = [
        (Kind.ENTERPRISE, _enterprises(later(Enterprise.applied_at, rules.desk.enterprise_days * DAY))),
        (Kind.REQUEST, _requests()),
        (Kind.CHANGE, _changes()),
        (Kind.APPEAL, _appeals()),
        (Kind.REPORT, _reports(later(Report.handed_in_at, rules.desk.report_days * DAY))),
        (Kind.BOOKING, _bookings(BookingKind.FIXED, later(Booking.starts_at, lapses_before), Booking.starts_at)),
        (
            Kind.BOOKING,
            _bookings(BookingKind.FLEXIBLE, later(Booking.submitted_at, lapses_after), Booking.submitted_at),
        ),
        (Kind.INSTRUCTION, _instructions()),
        (Kind.MAIL, _mail()),
        (Kind.JOB, _jobs()),
    ]
    return [(kind, _narrow(branch, narrowed)) for kind, branch in branches if kind in narrowed.kinds]


def _later_on_postgresql(column: Any, seconds: int) -> Any:
    """An instant's column moved by seconds, in the store's own words."""
    return column + sa.literal_column(f"interval '{seconds:d} seconds'", sa.Interval())


def _later_on_sqlite(column: Any, seconds: int) -> Any:
    moved = sa.func.strftime("%Y-%m-%d %H:%M:%f000", column, f"{seconds:+d} seconds")
    return sa.type_coerce(moved, UtcDateTime())


def _row(
    kind: Kind,
    id: Any,
    due: Any,
    since: Any,
    *,
    text: Any = None,
    number: Any = None,
    assigned_to: Any = None,
    escalated: Any = None,
    target_id: Any = None,
    enterprise_id: Any = None,
    pool_id: Any = None,
) -> sa.Select[Any]:
    def whole(value: Any, type_: Any) -> Any:
        return sa.cast(sa.null(), type_) if value is None else value

    return sa.select(
        sa.cast(sa.literal_column(f"'{kind}'"), sa.String).label("kind"),
        sa.cast(id, sa.Integer).label("id"),
        sa.type_coerce(due, UtcDateTime()).label("due_at"),
        sa.type_coerce(since, UtcDateTime()).label("since_at"),
        sa.cast(whole(text, sa.String), sa.String).label("text"),
        sa.cast(whole(number, sa.BigInteger), sa.BigInteger).label("number"),
        sa.cast(whole(assigned_to, sa.Integer), sa.Integer).label("assigned_to"),
        written(0).label("escalated")
        if escalated is None
        else sa.case((escalated, written(1)), else_=written(0)).label("escalated"),
        sa.cast(whole(target_id, sa.Integer), sa.Integer).label("target_id"),
        sa.cast(whole(enterprise_id, sa.Integer), sa.Integer).label("enterprise_id"),
        sa.cast(whole(pool_id, sa.Integer), sa.Integer).label("pool_id"),
    )


def _enterprises(due: Any) -> _Branch:
    query = _row(
        Kind.ENTERPRISE, Enterprise.id, due, Enterprise.applied_at, enterprise_id=Enterprise.id
    ).where(Enterprise.state == EnterpriseState.APPLIED)  # fmt: skip
    return _Branch(query, Enterprise.applied_at, Enterprise.id)


def _requests() -> _Branch:
    """By the time that was promised; with the step that is open now, if the track has steps."""
    query = (
        _row(
            Kind.REQUEST,
            Allocation.id,
            Allocation.due_at,
            Allocation.requested_at,
            number=Allocation.requested_gpu_seconds,
            assigned_to=RequestStep.assigned_to,
            escalated=RequestStep.escalated_at.is_not(None),
            target_id=RequestStep.id,
            enterprise_id=Allocation.enterprise_id,
            pool_id=Allocation.pool_id,
        )
        .select_from(Allocation)
        .outerjoin(
            RequestStep,
            sa.and_(
                RequestStep.allocation_id == Allocation.id,
                RequestStep.opened_at.is_not(None),
                RequestStep.done_at.is_(None),
            ),
        )
        .where(IS_WAITING)
    )
    mine = sa.or_(
        RequestStep.assigned_to == sa.bindparam("by", type_=sa.Integer),
        sa.and_(RequestStep.assigned_to.is_(None), among(RequestStep.role, "roles")),
        sa.and_(RequestStep.id.is_(None), sa.bindparam("is_operator", type_=sa.Boolean)),
    )
    return _Branch(query, Allocation.due_at, Allocation.id, mine)


def _changes() -> _Branch:
    query = (
        _row(
            Kind.CHANGE,
            AllocationChange.id,
            AllocationChange.due_at,
            AllocationChange.requested_at,
            text=AllocationChange.kind,
            number=AllocationChange.gpu_seconds,
            target_id=AllocationChange.allocation_id,
            enterprise_id=AllocationChange.enterprise_id,
            pool_id=Allocation.pool_id,
        )
        .join(Allocation, Allocation.id == AllocationChange.allocation_id)
        .where(AllocationChange.state == ChangeState.SUBMITTED)
    )
    return _Branch(query, AllocationChange.due_at, AllocationChange.id)


def _appeals() -> _Branch:
    query = _row(
        Kind.APPEAL,
        Appeal.id,
        Appeal.due_at,
        Appeal.filed_at,
        escalated=Appeal.escalated_at.is_not(None),
        target_id=Appeal.allocation_id,
        enterprise_id=Appeal.enterprise_id,
    ).where(Appeal.state == AppealState.FILED)
    return _Branch(query, Appeal.due_at, Appeal.id)


def _reports(due: Any) -> _Branch:
    query = _row(
        Kind.REPORT,
        Report.id,
        due,
        Report.handed_in_at,
        text=Report.kind,
        target_id=Report.allocation_id,
        enterprise_id=Report.enterprise_id,
    ).where(Report.state == ReportState.HANDED_IN)
    return _Branch(query, due, Report.id)


def _bookings(kind: BookingKind, due: Any, by: Any) -> _Branch:
    """Of one kind: in the order of the instant from which `due` counts, for which there is an index."""
    query = _row(
        Kind.BOOKING,
        Booking.id,
        due,
        Booking.submitted_at,
        text=Booking.title,
        number=Booking.held_gpu_seconds,
        enterprise_id=Booking.enterprise_id,
        pool_id=Booking.pool_id,
    ).where(IS_SUBMITTED, Booking.kind == kind)
    return _Branch(query, by, Booking.id)


def _instructions() -> _Branch:
    """Failed, and nobody has asked for anything else of the same thing since."""
    newer = orm.aliased(Instruction)
    query = _row(
        Kind.INSTRUCTION,
        Instruction.id,
        Instruction.answered_at,
        Instruction.at,
        text=Instruction.verb + " " + Instruction.target_kind,
        target_id=Instruction.target_id,
    ).where(
        Instruction.state == InstructionState.FAILED,
        Instruction.target_kind != "timetable",
        Instruction.answered_at >= sa.bindparam("failed_since"),
        ~sa.exists().where(
            newer.target_kind == Instruction.target_kind,
            newer.target_id == Instruction.target_id,
            newer.id > Instruction.id,
        ),
    )
    return _Branch(query, Instruction.answered_at, Instruction.id)


def _mail() -> _Branch:
    """One row for all of it: when a mail server is away, a hundred letters are one thing to look at."""
    failed = (
        sa.select(sa.func.count().label("n"), sa.func.min(Notice.done_at).label("since"))
        .where(Notice.delivery == Delivery.FAILED)
        .subquery()
    )
    query = _row(Kind.MAIL, sa.literal(0), failed.c.since, failed.c.since, number=failed.c.n).where(failed.c.n > 0)
    return _Branch(query, failed.c.since, sa.literal(0), whole=True)


def _jobs() -> _Branch:
    """Entries of the timetable whose last run failed."""
    later = orm.aliased(TimetableRun)
    failed = (
        sa.select(TimetableRun.entry, sa.func.max(TimetableRun.due_at).label("due_at"))
        .where(
            TimetableRun.error.is_not(None),
            TimetableRun.due_at >= sa.bindparam("failed_since"),
            ~sa.exists().where(
                later.entry == TimetableRun.entry,
                later.due_at > TimetableRun.due_at,
                later.finished_at.is_not(None),
                later.error.is_(None),
            ),
        )
        .group_by(TimetableRun.entry)
        .subquery()
    )
    query = (
        _row(Kind.JOB, TimetableEntry.id, failed.c.due_at, failed.c.due_at, text=TimetableEntry.name)
        .join(failed, failed.c.entry == TimetableEntry.name)
        .where(TimetableEntry.gone.is_(False))
    )
    return _Branch(query, failed.c.due_at, TimetableEntry.id)


def _narrow(branch: _Branch, narrowed: _Narrowed) -> _Branch:
    query = branch.query
    if narrowed.mine and branch.mine is not None:
        query = query.where(branch.mine)
    if narrowed.late:
        query = query.where(query.selected_columns.due_at < sa.bindparam("now", type_=UtcDateTime()))
    return replace(branch, query=query)


def _after(kind: Kind, branch: _Branch, place: Kind | None) -> sa.Select[Any]:
    """The branch's first rows behind a place of that kind."""
    query = branch.query
    if place is not None:
        due, due_at = query.selected_columns.due_at, sa.bindparam("place_due_at", type_=UtcDateTime())
        if kind > place:
            query = query.where(due >= due_at)
        elif kind < place:
            query = query.where(due > due_at)
        else:
            query = query.where(
                due >= due_at, sa.or_(due > due_at, branch.id > sa.bindparam("place_id", type_=sa.Integer))
            )  # fmt: skip
    if branch.whole:
        return query
    return query.order_by(branch.due, branch.id).limit(written(PAGE + 1))


@lru_cache(maxsize=64)
def _asking(
    narrowed: _Narrowed, wanted: Kind | None, after: Kind | None
) -> tuple[list[Kind], sa.Select[*tuple[Any, ...]]]:
    """Of which kind each of the first numbers in a row is, and the query: they are the same in every row. Behind them a
    page's rows and one more, if there is one; if there is none, one row of nothing.
    """
    branches = _branches(narrowed)
    counted = sa.select(*(_count(branch).label(f"n{n}") for n, (_kind, branch) in enumerate(branches))).subquery()
    shown = [_after(kind, branch, after) for kind, branch in branches if wanted in (None, kind)]
    shown = shown or [branches[0][1].query.where(sa.false())]
    # Enterprises and pools are looked up for the rows that are shown, not for a page of every kind.
    every = sa.union_all(*(sa.select(query.subquery()) for query in shown)).subquery()
    rows = sa.select(every).order_by(every.c.due_at, every.c.kind, every.c.id).limit(written(PAGE + 1)).subquery()
    query = (
        sa.select(
            counted,
            rows.c.kind,
            rows.c.id,
            sa.type_coerce(rows.c.due_at, UtcDateTime()),
            sa.type_coerce(rows.c.since_at, UtcDateTime()),
            rows.c.text,
            rows.c.number,
            rows.c.assigned_to,
            rows.c.escalated,
            rows.c.target_id,
            Enterprise.id,
            Enterprise.name,
            Enterprise.name_en,
            Pool.name,
        )
        .select_from(counted)
        .outerjoin(rows, sa.true())
        .outerjoin(Enterprise, Enterprise.id == rows.c.enterprise_id)
        .outerjoin(Pool, Pool.id == rows.c.pool_id)
        .order_by(rows.c.due_at, rows.c.kind, rows.c.id)
    )
    return [kind for kind, _branch in branches], query


def _count(branch: _Branch) -> sa.ScalarSelect[int]:
    """At most MOST_COUNTED, in the order of the index: without an order PostgreSQL may read the whole table."""
    rows = branch.query
    if not branch.whole:
        rows = rows.with_only_columns(branch.id).order_by(branch.due).limit(written(MOST_COUNTED))
    return sa.select(sa.func.count()).select_from(rows.subquery()).scalar_subquery()
