"""What waits for a person, by role: plain rows for the start pages, and one enterprise as a whole.

Each function below serves one start page; the number of queries does not depend on how much there is.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission
from ..allocations import own
from ..allocations import queries as allocations
from ..allocations.models import IS_WAITING, Allocation, AllocationChange, Report
from ..allocations.own import DueReport, Own
from ..allocations.states import WAITING, AllocationState, ChangeState, ReportState
from ..bookings import queries as bookings
from ..bookings.models import Booking
from ..bookings.prices import price_point
from ..bookings.queries import Listed
from ..bookings.states import ON_THE_CLUSTER, OPEN, BookingState
from ..claims.models import Claim
from ..claims.states import ClaimState
from ..db import UtcDateTime, written
from ..enterprises.models import Enterprise, Membership
from ..enterprises.queries import EnterpriseName
from ..enterprises.states import EnterpriseState
from ..lifecycle import HistoryEntry
from ..pools.models import Discount, Limit, Maintenance, Node, NodeInterval, Occupancy, Pool, Tariff
from ..pools.prices import to_fen
from ..pools.states import MaintenanceState, NodeState
from ..programmes import queries as programmes
from ..programmes.models import Programme
from ..review.models import Appeal
from ..review.states import AppealState
from ..signin.models import AccessLogEntry, BureauRole, SshKey, User
from ..statements.models import Dispute, Statement
from ..statements.pricing import Totals
from ..statements.states import DisputeState, StatementState
from ..usage.models import Charge, UsageRecord
from ..usage.sums import Spend, spend
from .models import Leader, TimetableRun
from .queue import Kind

SHOWN = 10  # things of one kind on a start page; the rest is behind the link to the list
SOON = dt.timedelta(hours=24)
ENDING = dt.timedelta(days=30)
ANSWERED = dt.timedelta(days=14)
COMING = dt.timedelta(days=14)
LOOKING_BACK = dt.timedelta(days=7)
NEARLY_USED_PERCENT = 10  # left of the award, or of a programme's hours
MOST_VIEWED = 200  # members to choose from
SILENT_AFTER_SECONDS = 60  # the scheduler writes its heartbeat every few seconds


# -- an enterprise -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberDesk:
    to_start: list[Listed]  # running, but nobody has started using them
    coming: list[Listed]  # confirmed, within a day
    returned: list[Own]  # the bureau asks for changes
    reports: list[DueReport]  # due soon, or overdue
    unused: list[Own]  # awarded lately, nothing booked yet
    declined: list[Own]
    ending: list[Own]  # last day within 30 days, hours left
    nearly_used: list[Own]
    claims: list[Claim]  # opened, to be confirmed
    without_key: bool  # bookings are open, and this person has no key to get in
    usable: list[Own]
    waiting: list[Own]  # requests that the bureau has
    week: list[Listed]
    month: Spend

    @property
    def _lists(self) -> list[list[Listed] | list[Own] | list[DueReport] | list[Claim]]:
        return [
            self.to_start, self.coming, self.returned, self.reports, self.unused, self.declined, self.ending,
            self.nearly_used, self.claims,
        ]  # fmt: skip

    @property
    def count(self) -> int:
        return sum(len(things) for things in self._lists) + self.without_key

    @property
    def not_shown(self) -> int:
        """Of each kind the page names ten."""
        return sum(max(0, len(things) - SHOWN) for things in self._lists)


_UNCONFIRMED = (Claim.enterprise_id == sa.bindparam("enterprise_id"), Claim.state == ClaimState.OPENED)
_HAS = sa.select(
    sa.exists().where(SshKey.user_id == sa.bindparam("user_id"), SshKey.removed_at.is_(None)),
    sa.exists().where(*_UNCONFIRMED),
    own.a_report_is_due(),
)


def member_desk(session: Session, enterprise_id: int, by: Actor, *, now: dt.datetime) -> MemberDesk:
    """Seven queries at most, with the person; mostly five. `by` is a member or manager of this enterprise."""
    mine = _mine(session, enterprise_id, now)
    usable, answers = own.list_own(session, enterprise_id, now, now - ANSWERED)
    due_until = clock.day_of(now + COMING)
    these = {"user_id": by.user_id, "enterprise_id": enterprise_id, "until": due_until}
    has_key, has_claims, has_reports = session.connection().execute(_HAS, these).one()
    last = clock.day_of(now + ENDING)
    by_state = {state: [row for row in answers if row.state is state] for state in AllocationState}
    unused = [
        row
        for row in usable
        if not row.balance.used + row.balance.held and row.decided_at is not None and row.decided_at >= now - ANSWERED
    ]
    nearly_used = [row for row in usable if _nearly_used(row)]
    return MemberDesk(
        to_start=[booking for booking in mine if booking.state is BookingState.RUNNING and not booking.claimed_at],
        coming=[booking for booking in mine if _comes_soon(booking, now)],
        returned=by_state[AllocationState.CHANGES_REQUESTED],
        reports=own.list_reports_due(session, enterprise_id, due_until) if has_reports else [],
        unused=unused,
        declined=by_state[AllocationState.DECLINED],
        ending=[row for row in usable if row.ends_on <= last and row not in nearly_used and row not in unused],
        nearly_used=nearly_used,
        claims=_claims_to_confirm(session, enterprise_id) if has_claims and by.may(Permission.CLAIM_CONFIRM) else [],
        without_key=not has_key and any(booking.state in OPEN for booking in mine),
        usable=usable,
        waiting=[row for row in answers if row.state in WAITING],
        week=mine[:SHOWN],
        month=spend(session, enterprise_id, clock.month_of(now)),
    )


def _recent() -> sa.Select[*tuple[Any, ...]]:
    """All that is open and what ended last: two walks of an index, however many bookings there are."""
    of_the_firm = sa.select(Booking.id).where(Booking.enterprise_id == sa.bindparam("enterprise_id"))
    since = Booking.ended_at >= sa.bindparam("since", type_=UtcDateTime)
    last = of_the_firm.where(since).order_by(Booking.ended_at.desc()).limit(written(SHOWN)).subquery()
    ids = sa.union(of_the_firm.where(Booking.state.in_(OPEN)), sa.select(last.c.id))
    is_open = Booking.state.in_(OPEN)
    return (
        bookings.LISTED.where(Booking.id.in_(ids))
        .order_by(
            sa.case(
                (Booking.state.in_(ON_THE_CLUSTER), written(0)),
                (Booking.state == BookingState.CONFIRMED, written(1)),
                (is_open, written(2)),
                else_=written(3),
            ),
            sa.case((is_open, sa.func.coalesce(Booking.starts_at, Booking.submitted_at))),
            sa.case((is_open, sa.null()), else_=Booking.ended_at).desc(),
            Booking.id,
        )
        .limit(written(5 * SHOWN))
    )


_RECENT = _recent()


def _mine(session: Session, enterprise_id: int, now: dt.datetime) -> list[Listed]:
    """What runs, what comes, and what ended in the last week, latest first, in this order."""
    asked = {"enterprise_id": enterprise_id, "since": now - LOOKING_BACK}
    return [Listed(*row) for row in session.connection().execute(_RECENT, asked).all()]


_TO_CONFIRM = sa.select(Claim).where(*_UNCONFIRMED).order_by(Claim.id).limit(written(5 * SHOWN))


def _claims_to_confirm(session: Session, enterprise_id: int) -> list[Claim]:
    return list(session.scalars(_TO_CONFIRM, {"enterprise_id": enterprise_id}))


def _comes_soon(booking: Listed, now: dt.datetime) -> bool:
    return booking.state is BookingState.CONFIRMED and booking.starts_at is not None and booking.starts_at <= now + SOON


def _nearly_used(row: Own) -> bool:
    """Something was used or is held, and less than a tenth of the award is left."""
    balance = row.balance
    return balance.available * 100 < balance.awarded * NEARLY_USED_PERCENT and balance.used + balance.held > 0


# -- operators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeDown:
    node: Node
    pool: Pool
    since_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Withheld:
    """GPUs whose access could not be taken back: out of service until it is."""

    booking_id: int
    pool: Pool
    gpus: int
    since_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ToApprove:
    """A booking above its programme's threshold that waits for an operator."""

    id: int
    title: str
    gpus: int
    held_gpu_seconds: int
    starts_at: dt.datetime | None
    submitted_at: dt.datetime
    pool_name: str
    enterprise: EnterpriseName


@dataclass(frozen=True, slots=True)
class OperatorDesk:
    requests: list[allocations.Listed]
    requests_waiting: int
    due_today: int
    bookings: list[ToApprove]
    bookings_waiting: int
    others: dict[Kind, int]  # what else waits for a decision
    nodes_down: list[NodeDown]
    withheld: list[Withheld]
    maintenance: list[tuple[Maintenance, Pool]]
    leader: Leader | None
    silent: bool  # the scheduler has not been heard for too long
    running: int
    queued: int

    @property
    def count(self) -> int:
        things = len(self.nodes_down) + len(self.withheld) + len(self.maintenance)
        return self.requests_waiting + self.bookings_waiting + sum(self.others.values()) + things


_OTHERS: dict[Kind, sa.ColumnElement[bool]] = {
    Kind.ENTERPRISE: Enterprise.state == EnterpriseState.APPLIED,
    Kind.CHANGE: AllocationChange.state == ChangeState.SUBMITTED,
    Kind.APPEAL: Appeal.state == AppealState.FILED,
    Kind.REPORT: Report.state == ReportState.HANDED_IN,
}


def _bookings_in(states: frozenset[BookingState]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(Booking).where(Booking.state.in_(states)).scalar_subquery()


_ASKED = sa.select(sa.func.count()).select_from(Allocation)
_OPERATORS_COUNTS = sa.select(
    _ASKED.where(Allocation.state.in_(WAITING)).scalar_subquery(),
    _ASKED.where(IS_WAITING, Allocation.due_at < sa.bindparam("tonight")).scalar_subquery(),
    _bookings_in(frozenset({BookingState.SUBMITTED})),
    _bookings_in(ON_THE_CLUSTER),
    _bookings_in(frozenset({BookingState.QUEUED, BookingState.CONFIRMED})),
    *(sa.select(sa.func.count()).where(waits).scalar_subquery() for waits in _OTHERS.values()),
)
# The oldest first.
_TO_APPROVE = (
    sa.select(
        Booking.id, Booking.title, Booking.gpus, Booking.held_gpu_seconds, Booking.starts_at, Booking.submitted_at,
        Pool.name, Enterprise.id, Enterprise.name, Enterprise.name_en,
    )
    .join(Pool, Pool.id == Booking.pool_id)
    .join(Enterprise, Enterprise.id == Booking.enterprise_id)
    .where(Booking.state == BookingState.SUBMITTED)
    .order_by(Booking.id)
    .limit(SHOWN)
)  # fmt: skip
_NODES_DOWN = (
    sa.select(Node, Pool, NodeInterval.starts_at)
    .join(Pool, Pool.id == Node.pool_id)
    .outerjoin(NodeInterval, sa.and_(NodeInterval.node_id == Node.id, NodeInterval.ends_at.is_(None)))
    .where(Node.state == NodeState.DOWN)
    .order_by(NodeInterval.starts_at, Node.id)
    .limit(SHOWN)
)
_WITHHELD = (
    sa.select(Occupancy.booking_id, Pool, sa.func.sum(Occupancy.gpus), sa.func.min(Occupancy.stuck_at))
    .join(Pool, Pool.id == Occupancy.pool_id)
    .where(Occupancy.stuck_at.is_not(None), Occupancy.released_at.is_(None))
    .group_by(Occupancy.booking_id, Pool.id)
    .order_by(Occupancy.booking_id)
    .limit(SHOWN)
)
_MAINTENANCE = (
    sa.select(Maintenance, Pool)
    .join(Pool, Pool.id == Maintenance.pool_id)
    .where(
        Maintenance.state == MaintenanceState.PLANNED,
        Maintenance.ends_at > sa.bindparam("now"),
        Maintenance.starts_at <= sa.bindparam("soon"),
    )
    .order_by(Maintenance.starts_at, Maintenance.id)
    .limit(SHOWN)
)


def operator_desk(session: Session, now: dt.datetime) -> OperatorDesk:
    """Seven queries."""
    tonight = clock.end_of_day(clock.day_of(now))
    requests, due, submitted, running, queued, *others = (
        session.connection().execute(_OPERATORS_COUNTS, {"tonight": tonight}).one()
    )
    leader = session.get(Leader, 1)
    withheld = session.execute(_WITHHELD)
    maintenance = session.execute(_MAINTENANCE, {"now": now, "soon": now + COMING})
    return OperatorDesk(
        requests=allocations.list_to_decide(session, SHOWN),
        requests_waiting=requests,
        due_today=due,
        bookings=_to_approve(session),
        bookings_waiting=submitted,
        others={kind: n for kind, n in zip(_OTHERS, others, strict=True) if n},
        nodes_down=[NodeDown(*row) for row in session.execute(_NODES_DOWN)],
        withheld=[Withheld(booking_id, pool, int(gpus), since) for booking_id, pool, gpus, since in withheld],
        maintenance=[(window, pool) for window, pool in maintenance],
        leader=leader,
        silent=_silent(leader, now),
        running=running,
        queued=queued,
    )


def _to_approve(session: Session) -> list[ToApprove]:
    return [
        ToApprove(id, title, gpus, held, starts_at, submitted_at, pool, EnterpriseName(*firm))
        for id, title, gpus, held, starts_at, submitted_at, pool, *firm in session.connection().execute(_TO_APPROVE)
    ]


def _silent(leader: Leader | None, now: dt.datetime) -> bool:
    heartbeat = leader.heartbeat_at if leader is not None else None
    return heartbeat is None or clock.seconds_between(heartbeat, now) > SILENT_AFTER_SECONDS


# -- finance -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolMonth:
    """GPU-seconds of a pool charged in a month, and their price before rounding each line."""

    pool_id: int
    name: str
    gpu_seconds: int
    amount_micro_yuan: int


@dataclass(frozen=True, slots=True)
class ToAnswer:
    """A dispute or a claim that waits for finance, from when, and until when it is to be answered."""

    kind: str  # dispute, claim
    id: int  # of the statement, of the claim
    number: str
    state: str
    since_at: dt.datetime
    due_at: dt.datetime | None
    enterprise: EnterpriseName


@dataclass(frozen=True, slots=True)
class FinanceDesk:
    last_month: str
    by_state: dict[StatementState, int]
    open_count: int
    to_answer_count: int
    closed: Totals  # what is frozen of last month
    open: list[tuple[Statement, EnterpriseName]]  # drafts and in review of last month; approved ones of any month
    to_answer: list[ToAnswer]
    month: str
    by_pool: list[PoolMonth]
    without_price: list[Pool]
    price_changes: list[tuple[Pool, Tariff]]  # from a day to come
    nearly_awarded: list[tuple[Programme, programmes.Hours]]

    @property
    def count(self) -> int:
        things = len(self.without_price) + len(self.price_changes) + len(self.nearly_awarded)
        return self.open_count + self.to_answer_count + things

    @property
    def all(self) -> int:
        return sum(self.by_state.values())


def finance_desk(session: Session, now: dt.datetime) -> FinanceDesk:
    """Eight queries."""
    month = clock.month_of(now)
    last = clock.previous_month(month)
    by_state, closed = _month_totals(session, last)
    open_count, opened_statements = _open_statements(session, last)
    to_answer_count, to_answer = _to_answer(session)
    without_price, changes = _prices(session, now)
    opened = programmes.list_open(session, clock.day_of(now))
    hours = programmes.hours(session, [programme.id for programme in opened])
    return FinanceDesk(
        last_month=last,
        by_state=by_state,
        closed=closed,
        open_count=open_count,
        open=opened_statements,
        to_answer_count=to_answer_count,
        to_answer=to_answer,
        month=month,
        by_pool=_by_pool(session, month),
        without_price=without_price,
        price_changes=changes,
        nearly_awarded=[
            (programme, hours[programme.id])
            for programme in opened
            if hours[programme.id].left * 100 <= hours[programme.id].funded * NEARLY_USED_PERCENT
        ],
    )


_MONTH_TOTALS = (
    sa.select(
        Statement.state,
        sa.func.count(),
        sa.func.sum(Statement.gpu_seconds),
        sa.func.sum(Statement.amount_micro_yuan),
        sa.func.sum(Statement.tax_micro_yuan),
    )
    .where(Statement.month == sa.bindparam("month"))
    .group_by(Statement.state)
)


def _month_totals(session: Session, month: str) -> tuple[dict[StatementState, int], Totals]:
    rows = session.connection().execute(_MONTH_TOTALS, {"month": month}).all()
    sums = (sum(int(row[column]) for row in rows) for column in (2, 3, 4))
    return {row[0]: row[1] for row in rows}, Totals(*sums)


_OPEN_STATEMENTS = (
    sa.select(Statement, Enterprise.id, Enterprise.name, Enterprise.name_en, sa.func.count().over())
    .join(Enterprise, Enterprise.id == Statement.enterprise_id)
    .where(
        sa.or_(
            sa.and_(
                Statement.month == sa.bindparam("month"),
                Statement.state.in_((StatementState.DRAFT, StatementState.IN_REVIEW)),
            ),
            Statement.state == StatementState.APPROVED,
        )
    )
    .order_by(Statement.state, Statement.amount_micro_yuan.desc(), Statement.id)
    .limit(SHOWN)
)


def _open_statements(session: Session, month: str) -> tuple[int, list[tuple[Statement, EnterpriseName]]]:
    """How many there are, and the first of them."""
    rows = session.execute(_OPEN_STATEMENTS, {"month": month}).all()
    found = [(statement, EnterpriseName(id, name, name_en)) for statement, id, name, name_en, _all in rows]
    return (rows[0][4] if rows else 0), found


def _waits_for_finance() -> sa.Select[*tuple[Any, ...]]:
    """Disputes and claims, the ones first that wait longest, with how many there are in all."""
    disputes = (
        sa.select(
            sa.literal("dispute").label("kind"),
            Statement.id.label("id"),
            Statement.number.label("number"),
            sa.cast(Dispute.state, sa.String).label("state"),
            Dispute.opened_at.label("since_at"),
            Dispute.due_at.label("due_at"),
            Dispute.enterprise_id.label("enterprise_id"),
        )
        .join(Statement, Statement.id == Dispute.statement_id)
        .where(Dispute.state == DisputeState.OPENED)
    )
    claims = sa.select(
        sa.literal("claim"),
        Claim.id,
        Claim.number,
        sa.cast(Claim.state, sa.String),
        Claim.opened_at,
        sa.null(),
        Claim.enterprise_id,
    ).where(Claim.state.in_((ClaimState.CONFIRMED, ClaimState.CHECKED, ClaimState.APPROVED)))
    waits = sa.union_all(disputes, claims).subquery()
    things = [column for column in waits.c if column is not waits.c.enterprise_id]
    return (
        sa.select(sa.func.count().over(), *things, Enterprise.id, Enterprise.name, Enterprise.name_en)
        .join_from(waits, Enterprise, Enterprise.id == waits.c.enterprise_id)
        .order_by(waits.c.since_at, waits.c.kind, waits.c.id)
        .limit(SHOWN)
    )


_TO_ANSWER = _waits_for_finance()


def _to_answer(session: Session) -> tuple[int, list[ToAnswer]]:
    """How many there are, and the first of them."""
    rows = session.connection().execute(_TO_ANSWER).all()
    return (rows[0][0] if rows else 0), [
        ToAnswer(kind, id, number, state, since_at, due_at, EnterpriseName(*firm))
        for _all, kind, id, number, state, since_at, due_at, *firm in rows
    ]


# Added up before prices are looked up: a month has 100,000 charges and a handful of prices.
_CHARGED = (
    sa.select(
        Charge.tariff_id, Charge.discount_id, Charge.weight_milli, sa.func.sum(Charge.gpu_seconds).label("gpu_seconds")
    )
    .where(Charge.billed_in == sa.bindparam("month"))
    .group_by(Charge.tariff_id, Charge.discount_id, Charge.weight_milli)
    .subquery()
)
_BY_POOL = (
    sa.select(
        Pool.id, Pool.name, _CHARGED.c.weight_milli, Tariff.id, Tariff.price_micro_yuan, Discount.id, Discount.percent,
        Discount.price_micro_yuan, _CHARGED.c.gpu_seconds,
    )
    .select_from(_CHARGED)
    .join(Tariff, Tariff.id == _CHARGED.c.tariff_id)
    .outerjoin(Discount, Discount.id == _CHARGED.c.discount_id)
    .join(Pool, Pool.id == Tariff.pool_id)
    .order_by(Pool.name)
)  # fmt: skip


def _by_pool(session: Session, month: str) -> list[PoolMonth]:
    rows = session.connection().execute(_BY_POOL, {"month": month})
    found: dict[int, PoolMonth] = {}
    for id, name, weight, tariff_id, price, discount_id, percent, contract, seconds in rows:
        point = price_point(tariff_id, price, discount_id, percent, contract, weight)
        before = found.get(id, PoolMonth(id, name, 0, 0))
        amount = before.amount_micro_yuan + to_fen(point.contract_of(int(seconds)))
        found[id] = PoolMonth(id, name, before.gpu_seconds + int(seconds), amount)
    return list(found.values())


_PRICES = (
    sa.select(Pool, Tariff)
    .outerjoin(Tariff, sa.and_(Tariff.pool_id == Pool.id, Tariff.from_hour.is_(None)))
    .order_by(Pool.name, Tariff.from_on)
)


def _prices(session: Session, now: dt.datetime) -> tuple[list[Pool], list[tuple[Pool, Tariff]]]:
    """Pools that have no price today, and prices that begin on a day to come: one query."""
    today = clock.day_of(now)
    rows = session.execute(_PRICES).all()
    priced = {pool.id for pool, tariff in rows if tariff is not None and tariff.from_on <= today}
    without = {pool.id: pool for pool, _tariff in rows if pool.id not in priced}
    changes = [(pool, tariff) for pool, tariff in rows if tariff is not None and tariff.from_on > today]
    return list(without.values()), changes


# -- auditors and administrators -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditorDesk:
    denials: int  # in the last seven days
    latest_denials: list[AccessLogEntry]
    moves: list[HistoryEntry]


def auditor_desk(session: Session, now: dt.datetime) -> AuditorDesk:
    """Three queries."""
    denied = sa.and_(AccessLogEntry.kind == "denied", AccessLogEntry.at >= now - LOOKING_BACK)
    return AuditorDesk(
        denials=session.scalar(sa.select(sa.func.count()).select_from(AccessLogEntry).where(denied)) or 0,
        latest_denials=list(
            session.scalars(sa.select(AccessLogEntry).where(denied).order_by(AccessLogEntry.id.desc()).limit(5))
        ),
        moves=list(session.scalars(sa.select(HistoryEntry).order_by(HistoryEntry.id.desc()).limit(2 * SHOWN))),
    )


@dataclass(frozen=True, slots=True)
class AdminDesk:
    leader: Leader | None
    silent: bool
    failures: list[TimetableRun]  # in the last seven days, newest first
    latest: list[TimetableRun]  # of each entry
    without_role: list[User]

    @property
    def count(self) -> int:
        return len(self.failures) + len(self.without_role)


def admin_desk(session: Session, now: dt.datetime) -> AdminDesk:
    """Four queries."""
    leader = session.get(Leader, 1)
    newest = (
        sa.select(TimetableRun.entry, sa.func.max(TimetableRun.due_at).label("due_at"))
        .group_by(TimetableRun.entry)
        .subquery()
    )
    return AdminDesk(
        leader=leader,
        silent=_silent(leader, now),
        failures=list(
            session.scalars(
                sa.select(TimetableRun)
                .where(TimetableRun.error.is_not(None), TimetableRun.due_at >= now - LOOKING_BACK)
                .order_by(TimetableRun.due_at.desc(), TimetableRun.entry)
                .limit(SHOWN)
            )
        ),
        latest=list(
            session.scalars(
                sa.select(TimetableRun)
                .join(
                    newest,
                    sa.and_(newest.c.entry == TimetableRun.entry, newest.c.due_at == TimetableRun.due_at),
                )
                .order_by(TimetableRun.entry)
            )
        ),
        without_role=list(
            session.scalars(
                sa.select(User)
                .where(
                    User.disabled_at.is_(None),
                    ~sa.exists().where(BureauRole.user_id == User.id),
                    ~sa.exists().where(Membership.user_id == User.id),
                )
                .order_by(User.id.desc())
                .limit(SHOWN)
            )
        ),
    )


# -- one enterprise as a whole -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    allocations: list[allocations.Listed]
    limits: list[tuple[Limit, Pool]]
    open_bookings: int
    month: str
    month_gpu_seconds: int


_OPENED = (
    sa.select(sa.func.count())
    .select_from(Booking)
    .where(Booking.enterprise_id == sa.bindparam("firm"), Booking.state.in_(OPEN))
    .scalar_subquery()
)
_USED = (
    sa.select(sa.func.coalesce(sa.func.sum(UsageRecord.gpu_seconds), 0))
    .where(
        UsageRecord.enterprise_id == sa.bindparam("firm"),
        UsageRecord.day_on >= sa.bindparam("first"),
        UsageRecord.day_on < sa.bindparam("until"),
    )
    .scalar_subquery()
)
_FIGURES = sa.select(_OPENED, _USED)
_LIMITS = (
    sa.select(Limit, Pool)
    .join(Pool, Pool.id == Limit.pool_id)
    .where(Limit.enterprise_id == sa.bindparam("firm"))
    .order_by(Pool.name)
)


def overview(session: Session, enterprise_id: int, by: Actor, now: dt.datetime) -> Overview:
    """Four queries. The actor may see the enterprise."""
    month = clock.month_of(now)
    start, end = clock.month_bounds(month)
    days = {"first": clock.day_of(start), "until": clock.day_of(end)}
    open_bookings, seconds = session.connection().execute(_FIGURES, {"firm": enterprise_id, **days}).one()
    which = allocations.Which(enterprise_id=enterprise_id)
    return Overview(
        allocations=allocations.list_allocations(
            session, by, states=allocations.CURRENT | allocations.REQUESTS, which=which
        ),
        limits=[(limit, pool) for limit, pool in session.execute(_LIMITS, {"firm": enterprise_id})],
        open_bookings=open_bookings,
        month=month,
        month_gpu_seconds=int(seconds),
    )
