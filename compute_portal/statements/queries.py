"""Statements for pages: months, lists, lines, disputes, and what is paid."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import units
from ..access import SYSTEM, Actor, Columns, must_see, visible
from ..bookings.models import Booking
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..enterprises.queries import EnterpriseName
from ..pools.models import Pool
from ..sentences import NotFound
from ..subsidies.models import Scheme, SchemeVersion
from ..usage.models import Charge, ChargeKind, UsageRecord
from . import billing
from .billing import About
from .models import Dispute, Fapiao, Payment, Statement, StatementContent, StatementJob, StatementLine
from .pricing import Priced, Totals
from .states import COMPUTED, FINAL, DisputeState, StatementState

PAGE = 25
JOBS_SHOWN = 5
NOTHING = Totals()


@dataclass(frozen=True, slots=True)
class Line:
    """One booking at one price; adjustments of earlier months apart. `id` is None while it is computed."""

    id: int | None = field(compare=False)
    position: int
    booking_id: int
    title: str
    pool_name: str
    model: str
    gpus: int
    allocation_id: int
    kind: ChargeKind
    tariff_id: int
    discount_id: int | None
    weight_milli: int
    scheme_version_id: int | None
    adjustment: bool
    gpu_seconds: int
    price_micro_yuan: int
    contract_price_micro_yuan: int
    list_micro_yuan: int
    discount_micro_yuan: int
    subsidy_micro_yuan: int
    voucher_micro_yuan: int
    amount_micro_yuan: int

    @property
    def relief_micro_yuan(self) -> int:
        """Subsidy or voucher: a line has one of them at most."""
        return self.subsidy_micro_yuan + self.voucher_micro_yuan


def draft_lines(session: Session, enterprise_id: int, month: str) -> list[Line]:
    """Charges billed in the month, added up by booking, kind and price; rounded once per line."""
    months = billing.price_months(session, month, [enterprise_id])
    return [
        _computed(position, line, months.about[line.group.booking_id])
        for position, line in enumerate(months.lines.get(enterprise_id, ()), 1)
    ]


def _computed(position: int, line: Priced, about: About) -> Line:
    group, price = line.group, line.group.price
    return Line(
        None, position, group.booking_id, about.title, about.pool_name, group.model, about.gpus, group.allocation_id,
        group.kind, price.tariff_id, price.discount_id, price.weight_milli, line.scheme_version_id, group.adjustment,
        group.gpu_seconds, price.list_micro_yuan, price.contract_micro_yuan, line.list_micro_yuan,
        line.discount_micro_yuan, line.subsidy_micro_yuan, line.voucher_micro_yuan, line.net_micro_yuan,
    )  # fmt: skip


def _frozen() -> sa.Select[StatementLine, str, str, str, int, int]:
    return (
        sa.select(StatementLine, Booking.title, Pool.name, Pool.model, Booking.gpus, Booking.allocation_id)
        .join(
            Statement, sa.and_(Statement.id == StatementLine.statement_id, Statement.closing == StatementLine.closing)
        )
        .join(Booking, Booking.id == StatementLine.booking_id)
        .join(Pool, Pool.id == Booking.pool_id)
    )


def _as_line(line: StatementLine, title: str, pool: str, model: str, gpus: int, allocation_id: int) -> Line:
    return Line(
        line.id, line.position, line.booking_id, title, pool, model, gpus, allocation_id, line.kind, line.tariff_id,
        line.discount_id, line.weight_milli, line.scheme_version_id, line.adjustment, line.gpu_seconds,
        line.price_micro_yuan, line.contract_price_micro_yuan, line.list_micro_yuan, line.discount_micro_yuan,
        line.subsidy_micro_yuan, line.voucher_micro_yuan, line.amount_micro_yuan,
    )  # fmt: skip


def frozen_lines(session: Session, statement_id: int) -> list[Line]:
    """As the month was closed the last time."""
    rows = session.execute(_frozen().where(StatementLine.statement_id == statement_id).order_by(StatementLine.position))
    return [_as_line(*row) for row in rows]


def find_line(session: Session, line_id: int) -> tuple[int, Line] | None:
    """A frozen line and the id of its statement; None for one of an earlier closing. Whoever asks may not see it."""
    row = session.execute(_frozen().where(StatementLine.id == line_id)).one_or_none()
    return None if row is None else (row[0].statement_id, _as_line(*row))


def lines_of(session: Session, statement: Statement) -> list[Line]:
    if statement.state in COMPUTED:
        return draft_lines(session, statement.enterprise_id, statement.month)
    return frozen_lines(session, statement.id)


def totals_of(statement: Statement, lines: list[Line]) -> Totals:
    """Frozen when closed; of a draft computed from its lines, with tax once on the total."""
    if statement.state not in COMPUTED:
        return Totals(
            statement.gpu_seconds, statement.amount_micro_yuan, statement.tax_micro_yuan, statement.list_micro_yuan,
            statement.discount_micro_yuan, statement.subsidy_micro_yuan, statement.voucher_micro_yuan,
        )  # fmt: skip
    net = sum(line.amount_micro_yuan for line in lines)
    return Totals(
        sum(line.gpu_seconds for line in lines),
        net,
        units.tax_micro_yuan(net, statement.tax_permille),
        sum(line.list_micro_yuan for line in lines),
        sum(line.discount_micro_yuan for line in lines),
        sum(line.subsidy_micro_yuan for line in lines),
        sum(line.voucher_micro_yuan for line in lines),
    )


def names_of_schemes(session: Session, version_ids: Iterable[int | None]) -> dict[int, tuple[str, str | None]]:
    """Names of the schemes by the ids of their versions."""
    ids = {id for id in version_ids if id is not None}
    if not ids:
        return {}
    rows = session.execute(
        sa.select(SchemeVersion.id, Scheme.name, Scheme.name_en)
        .join(Scheme, Scheme.id == SchemeVersion.scheme_id)
        .where(SchemeVersion.id.in_(ids))
    )
    return {id: (name, name_en) for id, name, name_en in rows}


_MONTHS = sa.select(Statement.month).distinct().order_by(Statement.month.desc()).limit(sa.bindparam("limit"))
_OWN_MONTHS = _MONTHS.where(Statement.enterprise_id == sa.bindparam("own_id"))


def list_months(session: Session, by: Actor, limit: int = 24) -> list[str]:
    """Months that have statements, newest first."""
    query = _OWN_MONTHS if by is not SYSTEM and not by.is_bureau else _MONTHS
    return list(session.connection().scalars(query, {"own_id": by.enterprise_id, "limit": limit}))


_SUMS = tuple(
    sa.func.sum(column)
    for column in (
        Statement.gpu_seconds, Statement.amount_micro_yuan, Statement.tax_micro_yuan, Statement.list_micro_yuan,
        Statement.discount_micro_yuan, Statement.subsidy_micro_yuan, Statement.voucher_micro_yuan,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Which:
    """What a list of statements is narrowed to; None leaves it open. `find` is part of a name, code or number.

    `only`: 'missing' metering, 'disputed', 'overdue', 'ready' to be issued.
    """

    month: str | None = None
    state: StatementState | None = None
    find: str = ""
    only: str | None = None
    today: dt.date | None = None


ONLY = ("ready", "missing", "disputed", "overdue")


def _of_kind(only: str) -> sa.ColumnElement[bool]:
    if only == "ready":
        return sa.and_(Statement.state == StatementState.APPROVED, _without_gap())
    if only == "missing":
        return sa.and_(Statement.incomplete_since.is_not(None), Statement.state.not_in(FINAL))
    if only == "disputed":
        return Statement.id.in_(sa.select(Dispute.statement_id).where(Dispute.state == DisputeState.OPENED))
    late = Statement.pay_until_on < sa.bindparam("today", type_=sa.Date)
    return sa.and_(Statement.state == StatementState.ISSUED, late, _owed() > 0)


def _without_gap() -> sa.ColumnElement[bool]:
    return sa.or_(Statement.incomplete_since.is_(None), Statement.gap_confirmed_at.is_not(None))


def _paid() -> sa.ScalarSelect[int]:
    return (
        sa.select(sa.func.coalesce(sa.func.sum(Payment.amount_micro_yuan), 0))
        .where(Payment.statement_id == Statement.id)
        .scalar_subquery()
    )


def _owed() -> sa.ColumnElement[int]:
    """What is not paid yet. A line in dispute need not be paid: its net amount with its part of the tax, cut."""
    disputed = (
        sa.select(sa.func.coalesce(sa.func.sum(StatementLine.amount_micro_yuan), 0))
        .join(Dispute, Dispute.line_id == StatementLine.id)
        .where(Dispute.statement_id == Statement.id, Dispute.state == DisputeState.OPENED)
        .scalar_subquery()
    )
    with_tax = disputed + disputed * Statement.tax_permille / 1000
    return Statement.amount_micro_yuan + Statement.tax_micro_yuan - with_tax - _paid()


@dataclass(frozen=True, slots=True)
class Overview:
    """A month: how many statements in each state, what is frozen in them, and how many ask for something."""

    counts: dict[StatementState, int]
    closed: Totals
    only: dict[str, int]


_OVERVIEW = (
    sa.select(
        Statement.state,
        sa.func.count(),
        *_SUMS,
        *(sa.func.coalesce(sa.func.sum(sa.case((_of_kind(only), 1), else_=0)), 0) for only in ONLY),
    )
    .where(Statement.month == sa.bindparam("month"))
    .group_by(Statement.state)
)


def overview(session: Session, month: str, today: dt.date) -> Overview:
    """One query. Drafts count, but nothing is frozen in them."""
    rows = session.connection().execute(_OVERVIEW, {"month": month, "today": today}).all()
    closed = (Totals(*(int(each) for each in row[2 : 2 + len(_SUMS)])) for row in rows if row[0] not in COMPUTED)
    return Overview(
        {row[0]: row[1] for row in rows},
        sum(closed, NOTHING),
        {only: sum(int(row[2 + len(_SUMS) + index]) for row in rows) for index, only in enumerate(ONLY)},
    )


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """All that the text of a list's statement depends on, but for what somebody searches: each is made once."""

    to_own: bool  # to the actor's enterprise and what it pays for its teams
    to_month: bool
    to_state: bool
    only: str | None

    def narrow(self, query: sa.Select[*Columns]) -> sa.Select[*Columns]:
        query = query.join(Enterprise, Enterprise.id == Statement.enterprise_id)
        if self.to_own:
            own_id: sa.BindParameter[int] = sa.bindparam("own_id")
            query = query.where(sa.or_(Statement.enterprise_id == own_id, Statement.sponsor_id == own_id))
        if self.to_month:
            query = query.where(Statement.month == sa.bindparam("month"))
        if self.to_state:
            query = query.where(Statement.state == sa.bindparam("state", type_=Statement.state.type))
        return query if self.only is None else query.where(_of_kind(self.only))


def _narrowed(which: Which, by: Actor) -> tuple[_Narrowed, dict[str, Any]]:
    to_own = by is not SYSTEM and not by.is_bureau
    return _Narrowed(to_own, which.month is not None, which.state is not None, which.only), {
        "own_id": by.enterprise_id,
        "month": which.month,
        "state": which.state,
        "today": which.today,
    }


def _found(query: sa.Select[*Columns], find: str) -> sa.Select[*Columns]:
    if not find:
        return query
    return query.where(sa.or_(Statement.number.icontains(find, autoescape=True), enterprises.fits(find)))


@cache
def _counting(narrowed: _Narrowed) -> sa.Select[int]:
    return narrowed.narrow(sa.select(sa.func.count()).select_from(Statement))


def count_statements(session: Session, which: Which, by: Actor) -> int:
    narrowed, values = _narrowed(which, by)
    return session.connection().scalar(_found(_counting(narrowed), which.find), values) or 0


@cache
def _listing(narrowed: _Narrowed, own_first: bool) -> sa.Select[Statement, int, str, str | None]:
    """Newest month first; in a month one's own, then in the order of the enterprises."""
    firm = (Enterprise.id, Enterprise.name, Enterprise.name_en)
    query = narrowed.narrow(sa.select(Statement, *firm).select_from(Statement)).order_by(Statement.month.desc())
    if own_first:
        query = query.order_by(Statement.enterprise_id != sa.bindparam("own_id"))
    return query.order_by(Statement.enterprise_id).limit(PAGE).offset(sa.bindparam("offset"))


def list_statements(
    session: Session, which: Which, by: Actor, *, offset: int = 0
) -> list[tuple[Statement, EnterpriseName]]:
    """One page."""
    narrowed, values = _narrowed(which, by)
    query = _found(_listing(narrowed, by.enterprise_id is not None), which.find)
    rows = session.execute(query, values | {"offset": offset})
    return [(statement, EnterpriseName(id, name, name_en)) for statement, id, name, name_en in rows]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A statement, whose month it is, and who pays for a team: None is the enterprise itself."""

    statement: Statement
    enterprise: Enterprise
    sponsor: Enterprise | None


def get_sheet(session: Session, statement_id: int, by: Actor) -> Sheet:
    """For the bureau, the enterprise, and the sponsor who pays. Raises NotFound."""
    sponsor = orm.aliased(Enterprise)
    row = session.execute(
        sa.select(Statement, Enterprise, sponsor)
        .join(Enterprise, Enterprise.id == Statement.enterprise_id)
        .outerjoin(sponsor, sponsor.id == Statement.sponsor_id)
        .where(Statement.id == statement_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    sheet = Sheet(*row)
    if sheet.sponsor is None or sheet.sponsor.id != by.enterprise_id:
        must_see(sheet.statement, by)
    return sheet


# -- drafts


def so_far(session: Session, rows: Iterable[Statement]) -> dict[int, Totals]:
    """Of those that are computed, by statement id: after discounts, before subsidies and tax. One query."""
    computed = [statement for statement in rows if statement.state in COMPUTED]
    if not computed:
        return {}
    months, firms = {each.month for each in computed}, {each.enterprise_id for each in computed}
    sums = billing.sums_before_subsidy(session, months, firms)
    return {each.id: sums.get((each.enterprise_id, each.month), NOTHING) for each in computed}


def drafts_so_far(session: Session, month: str) -> Totals:
    """All drafts of the month together, after discounts, before subsidies and tax: one query."""
    return billing.drafts_before_subsidy(session, month)


def count_in_all(session: Session) -> int:
    """Statements that a month's close has frozen."""
    return (
        session.scalar(sa.select(sa.func.count()).select_from(Statement).where(Statement.state.not_in(COMPUTED))) or 0
    )


# -- one line


@dataclass(frozen=True, slots=True)
class ChargeRow:
    charge: Charge
    record: UsageRecord | None


def charges_of(statement: Statement, line: Line | StatementLine) -> list[sa.ColumnElement[bool]]:
    return [
        Charge.enterprise_id == statement.enterprise_id,
        Charge.billed_in == statement.month,
        Charge.booking_id == line.booking_id,
        Charge.kind == line.kind,
        Charge.tariff_id == line.tariff_id,
        Charge.discount_id.is_not_distinct_from(line.discount_id),
        Charge.weight_milli == line.weight_milli,
        Charge.adjustment == line.adjustment,
    ]


def count_charges(session: Session, statement: Statement, line: Line) -> int:
    return session.scalar(sa.select(sa.func.count(Charge.id)).where(*charges_of(statement, line))) or 0


def list_charges(session: Session, statement: Statement, line: Line, *, offset: int = 0) -> list[ChargeRow]:
    """What the line adds up, oldest first, one page."""
    rows = session.execute(
        sa.select(Charge, UsageRecord)
        .outerjoin(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(*charges_of(statement, line))
        .order_by(Charge.id)
        .limit(PAGE)
        .offset(offset)
    )
    return [ChargeRow(charge, record) for charge, record in rows]


# -- disputes


def disputes_of(session: Session, statement_id: int) -> list[Dispute]:
    """Of a statement, the oldest first. The caller may see the statement."""
    return list(session.scalars(sa.select(Dispute).where(Dispute.statement_id == statement_id).order_by(Dispute.id)))


@dataclass(frozen=True, slots=True)
class DisputeRow:
    dispute: Dispute
    statement: Statement
    enterprise: Enterprise
    line: StatementLine


def _disputes(by: Actor) -> sa.Select[Dispute, Statement, Enterprise, StatementLine]:
    query = (
        sa.select(Dispute, Statement, Enterprise, StatementLine)
        .join(Statement, Statement.id == Dispute.statement_id)
        .join(Enterprise, Enterprise.id == Dispute.enterprise_id)
        .join(StatementLine, StatementLine.id == Dispute.line_id)
    )
    return visible(query, Dispute.enterprise_id, by)


@cache
def _counting_disputes(to_own: bool, only_open: bool) -> sa.Select[int]:
    query = sa.select(sa.func.count()).select_from(Dispute)
    if to_own:
        query = query.where(Dispute.enterprise_id == sa.bindparam("own_id"))
    return query.where(Dispute.state == DisputeState.OPENED) if only_open else query


def count_disputes(session: Session, by: Actor, *, only_open: bool) -> int:
    to_own = by is not SYSTEM and not by.is_bureau
    return session.connection().scalar(_counting_disputes(to_own, only_open), {"own_id": by.enterprise_id}) or 0


def list_disputes(session: Session, by: Actor, *, only_open: bool, offset: int = 0) -> list[DisputeRow]:
    """Open ones by their deadline, the others newest first."""
    query = _disputes(by)
    if only_open:
        query = query.where(Dispute.state == DisputeState.OPENED).order_by(Dispute.due_at, Dispute.id)
    else:
        query = query.order_by(Dispute.id.desc())
    return [DisputeRow(*row) for row in session.execute(query.limit(PAGE).offset(offset))]


def get_dispute(session: Session, dispute_id: int, by: Actor) -> DisputeRow:
    """Raises NotFound."""
    row = session.execute(_disputes(by).where(Dispute.id == dispute_id)).one_or_none()
    if row is None:
        raise NotFound
    return DisputeRow(*row)


# -- what is paid


def get_payment(session: Session, payment_id: int) -> Payment:
    """Raises NotFound."""
    payment = session.get(Payment, payment_id)
    if payment is None:
        raise NotFound
    return payment


def payments_of(session: Session, statement_id: int) -> list[Payment]:
    return list(session.scalars(sa.select(Payment).where(Payment.statement_id == statement_id).order_by(Payment.id)))


def fapiaos_of(session: Session, statement_id: int) -> list[Fapiao]:
    return list(session.scalars(sa.select(Fapiao).where(Fapiao.statement_id == statement_id).order_by(Fapiao.id)))


def disputed_micro_yuan(session: Session, statement: Statement) -> int:
    """What need not be paid yet: the net of the lines in dispute with their part of the tax."""
    net = session.scalar(
        sa.select(sa.func.sum(StatementLine.amount_micro_yuan))
        .join(Dispute, Dispute.line_id == StatementLine.id)
        .where(Dispute.statement_id == statement.id, Dispute.state == DisputeState.OPENED)
    )
    amount = int(net or 0)
    return amount + units.tax_micro_yuan(amount, statement.tax_permille)


def paid_micro_yuan(session: Session, statement_id: int) -> int:
    return int(
        session.scalar(sa.select(sa.func.sum(Payment.amount_micro_yuan)).where(Payment.statement_id == statement_id))
        or 0
    )


def owed_micro_yuan(session: Session, statement: Statement) -> int:
    """What is to be paid now: payable without the lines in dispute, less what came in."""
    payable = statement.amount_micro_yuan + statement.tax_micro_yuan
    return payable - disputed_micro_yuan(session, statement) - paid_micro_yuan(session, statement.id)


@dataclass(frozen=True, slots=True)
class Difference:
    """A statement of which payments or fapiao are not what is payable; both in micro-yuan."""

    statement: Statement
    enterprise: Enterprise
    paid_micro_yuan: int
    fapiao_micro_yuan: int | None

    @property
    def payable_micro_yuan(self) -> int:
        return self.statement.amount_micro_yuan + self.statement.tax_micro_yuan


def unmatched_payments(session: Session, limit: int = 200) -> list[Payment]:
    """Money that belongs to no statement yet, the oldest first."""
    return list(
        session.scalars(sa.select(Payment).where(Payment.statement_id.is_(None)).order_by(Payment.id).limit(limit))
    )


def list_differences(session: Session, today: dt.date, *, offset: int = 0) -> list[Difference]:
    """Paid in part or too much, overdue, or with a fapiao of another amount; the oldest first, one page."""
    query, paid, written = _differences()
    rows = session.execute(
        query.with_only_columns(Statement, Enterprise, paid, written)
        .order_by(Statement.month, Statement.id)
        .limit(PAGE)
        .offset(offset),
        {"today": today},
    )
    return [
        Difference(statement, firm, int(amount), None if fapiao is None else int(fapiao))
        for statement, firm, amount, fapiao in rows
    ]


def count_differences(session: Session, today: dt.date) -> int:
    query, _paid, _written = _differences()
    return session.scalar(query.with_only_columns(sa.func.count(Statement.id)), {"today": today}) or 0


def _differences() -> tuple[sa.Select[Statement], sa.ScalarSelect[int], sa.ScalarSelect[int]]:
    paid = _paid()
    written = (
        sa.select(sa.func.sum(Fapiao.amount_micro_yuan)).where(Fapiao.statement_id == Statement.id).scalar_subquery()
    )
    payable = Statement.amount_micro_yuan + Statement.tax_micro_yuan
    late = _of_kind("overdue")
    part = sa.and_(paid > 0, paid != payable)
    query = (
        sa.select(Statement)
        .join(Enterprise, Enterprise.id == Statement.enterprise_id)
        .where(Statement.state.in_(FINAL), sa.or_(late, part, sa.and_(written.is_not(None), written != payable)))
    )
    return query, paid, written


@dataclass(frozen=True, slots=True)
class MonthRow:
    """A month of a year, of one enterprise or of all: what was closed."""

    month: str
    statements: int
    totals: Totals
    paid_micro_yuan: int


def list_years(session: Session, by: Actor, enterprise_id: int | None) -> list[int]:
    """Years with statements, newest first."""
    query = sa.select(sa.func.substr(Statement.month, 1, 4)).distinct()
    if enterprise_id is not None:
        query = query.where(Statement.enterprise_id == enterprise_id)
    return sorted((int(year) for year in session.scalars(visible(query, Statement.enterprise_id, by))), reverse=True)


def months_of_year(session: Session, year: int, by: Actor, enterprise_id: int | None) -> list[MonthRow]:
    """The closed statements of a year by month."""
    query = (
        sa.select(Statement.month, sa.func.count(), sa.func.sum(_paid()), *_SUMS)
        .where(Statement.month >= f"{year}-01", Statement.month <= f"{year}-12", Statement.state.not_in(COMPUTED))
        .group_by(Statement.month)
        .order_by(Statement.month)
    )
    if enterprise_id is not None:
        query = query.where(Statement.enterprise_id == enterprise_id)
    rows = session.execute(visible(query, Statement.enterprise_id, by))
    return [MonthRow(month, n, Totals(*(int(each) for each in sums)), int(paid)) for month, n, paid, *sums in rows]


# -- what was issued, and jobs


def content_of(session: Session, statement_id: int) -> StatementContent | None:
    """With its text. The caller may see the statement."""
    return session.scalars(
        sa.select(StatementContent)
        .where(StatementContent.statement_id == statement_id)
        .options(orm.undefer(StatementContent.content))
    ).one_or_none()


_JOBS = (
    sa.select(StatementJob)
    .where(StatementJob.month == sa.bindparam("month"))
    .order_by(StatementJob.id.desc())
    .limit(JOBS_SHOWN)
)


def list_jobs(session: Session, month: str) -> list[StatementJob]:
    """The newest ones of a month."""
    return list(session.scalars(_JOBS, {"month": month}))
