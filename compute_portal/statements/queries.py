"""Statements for pages: months, lists, and the lines of a draft computed from its charges."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import units
from ..access import SYSTEM, Actor, Columns, must_see, visible
from ..bookings.models import Booking
from ..enterprises.models import Enterprise
from ..pools.models import Pool, Tariff
from ..sentences import NotFound
from ..usage.models import Charge
from .models import Statement, StatementLine
from .states import StatementState

PAGE = 25


@dataclass(frozen=True, slots=True)
class Line:
    """One booking at one price; adjustments of earlier months apart."""

    booking_id: int
    title: str
    pool_name: str
    gpus: int
    tariff_id: int
    adjustment: bool
    gpu_seconds: int
    price_micro_yuan: int
    amount_micro_yuan: int


@dataclass(frozen=True, slots=True)
class Totals:
    gpu_seconds: int
    amount_micro_yuan: int
    tax_micro_yuan: int

    @property
    def payable_micro_yuan(self) -> int:
        return self.amount_micro_yuan + self.tax_micro_yuan

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.gpu_seconds + other.gpu_seconds,
            self.amount_micro_yuan + other.amount_micro_yuan,
            self.tax_micro_yuan + other.tax_micro_yuan,
        )


def draft_lines(session: Session, enterprise_id: int, month: str) -> list[Line]:
    """Charges billed in the month, added up by booking, tariff and adjustment; rounded once per line."""
    rows = session.execute(
        sa.select(
            Charge.booking_id,
            Booking.title,
            Pool.name,
            Booking.gpus,
            Charge.tariff_id,
            Charge.adjustment,
            sa.func.sum(Charge.gpu_seconds),
            Tariff.price_micro_yuan,
        )
        .join(Booking, Booking.id == Charge.booking_id)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .where(Charge.enterprise_id == enterprise_id, Charge.billed_in == month)
        .group_by(
            Charge.booking_id, Booking.title, Pool.name, Booking.gpus, Charge.tariff_id, Charge.adjustment,
            Tariff.price_micro_yuan,
        )
        .order_by(Charge.adjustment, Charge.booking_id, Charge.tariff_id)
    )  # fmt: skip
    return [
        Line(
            booking_id, title, pool, gpus, tariff_id, adjustment, int(seconds), price,
            units.amount_micro_yuan(int(seconds), price),
        )
        for booking_id, title, pool, gpus, tariff_id, adjustment, seconds, price in rows
    ]  # fmt: skip


def frozen_lines(session: Session, statement_id: int) -> list[Line]:
    rows = session.execute(
        sa.select(StatementLine, Booking.title, Pool.name, Booking.gpus)
        .join(Booking, Booking.id == StatementLine.booking_id)
        .join(Pool, Pool.id == Booking.pool_id)
        .where(StatementLine.statement_id == statement_id)
        .order_by(StatementLine.adjustment, StatementLine.booking_id, StatementLine.tariff_id)
    )
    return [
        Line(
            line.booking_id, title, pool, gpus, line.tariff_id, line.adjustment, line.gpu_seconds,
            line.price_micro_yuan, line.amount_micro_yuan,
        )
        for line, title, pool, gpus in rows
    ]  # fmt: skip


def lines_of(session: Session, statement: Statement) -> list[Line]:
    if statement.state is StatementState.DRAFT:
        return draft_lines(session, statement.enterprise_id, statement.month)
    return frozen_lines(session, statement.id)


def totals_of(statement: Statement, lines: list[Line]) -> Totals:
    """Frozen when closed; of a draft computed from its lines, with tax once on the total."""
    if statement.state is not StatementState.DRAFT:
        return Totals(statement.gpu_seconds, statement.amount_micro_yuan, statement.tax_micro_yuan)
    amount = sum(line.amount_micro_yuan for line in lines)
    tax = units.tax_micro_yuan(amount, statement.tax_permille)
    return Totals(sum(line.gpu_seconds for line in lines), amount, tax)


def list_months(session: Session, by: Actor, limit: int = 24) -> list[str]:
    """Months that have statements, newest first."""
    query = sa.select(Statement.month).distinct().order_by(Statement.month.desc()).limit(limit)
    return list(session.scalars(visible(query, Statement.enterprise_id, by)))


def sums_by_state(session: Session, month: str) -> dict[StatementState, tuple[int, Totals]]:
    """How many statements of the month are in each state, and what is frozen in them (of drafts: nothing)."""
    rows = session.execute(
        sa.select(
            Statement.state,
            sa.func.count(),
            sa.func.sum(Statement.gpu_seconds),
            sa.func.sum(Statement.amount_micro_yuan),
            sa.func.sum(Statement.tax_micro_yuan),
        )
        .where(Statement.month == month)
        .group_by(Statement.state)
    )
    return {state: (n, Totals(int(seconds), int(amount), int(tax))) for state, n, seconds, amount, tax in rows}


@dataclass(frozen=True, slots=True)
class Which:
    """What a list of statements is narrowed to; None leaves it open. `find` is part of a name, code or number."""

    month: str | None = None
    state: StatementState | None = None
    find: str = ""


def _narrow(query: sa.Select[*Columns], which: Which, by: Actor) -> sa.Select[*Columns]:
    query = query.join(Enterprise, Enterprise.id == Statement.enterprise_id)
    if by is not SYSTEM and not by.is_bureau:
        query = query.where(
            sa.or_(Statement.enterprise_id == by.enterprise_id, Statement.sponsor_id == by.enterprise_id)
        )
    if which.month is not None:
        query = query.where(Statement.month == which.month)
    if which.state is not None:
        query = query.where(Statement.state == which.state)
    if which.find:
        query = query.where(
            sa.or_(
                Statement.number.icontains(which.find, autoescape=True),
                Enterprise.name.icontains(which.find, autoescape=True),
                Enterprise.name_en.icontains(which.find, autoescape=True),
                Enterprise.credit_code.icontains(which.find, autoescape=True),
            )
        )
    return query


def count_statements(session: Session, which: Which, by: Actor) -> int:
    return session.scalar(_narrow(sa.select(sa.func.count()).select_from(Statement), which, by)) or 0


def list_statements(
    session: Session, which: Which, by: Actor, *, offset: int = 0
) -> list[tuple[Statement, Enterprise]]:
    """One page: newest month first; in a month one's own, then in the order of the enterprises."""
    query = _narrow(sa.select(Statement, Enterprise).select_from(Statement), which, by)
    own_first = [] if by.enterprise_id is None else [Statement.enterprise_id != by.enterprise_id]
    query = query.order_by(Statement.month.desc(), *own_first, Statement.enterprise_id)
    rows = session.execute(query.limit(PAGE).offset(offset))
    return [(statement, enterprise) for statement, enterprise in rows]


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


def draft_totals_of(
    session: Session, *, month: str | None = None, statement_ids: list[int] | None = None
) -> dict[int, Totals]:
    """Totals so far by statement id, of the drafts of a month or among some statements: one query.

    Each line is rounded as on its statement, and taxed with the statement's own rate. Drafts without charges are
    left out.
    """
    query = (
        sa.select(Statement.id, Statement.tax_permille, sa.func.sum(Charge.gpu_seconds), Tariff.price_micro_yuan)
        .join(Charge, sa.and_(Charge.enterprise_id == Statement.enterprise_id, Charge.billed_in == Statement.month))
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .where(Statement.state == StatementState.DRAFT)
        .group_by(
            Statement.id, Statement.tax_permille, Charge.booking_id, Charge.tariff_id, Charge.adjustment,
            Tariff.price_micro_yuan,
        )
    )  # fmt: skip
    if month is not None:
        query = query.where(Statement.month == month)
    if statement_ids is not None:
        query = query.where(Statement.id.in_(statement_ids))
    seconds: dict[int, int] = {}
    amounts: dict[int, int] = {}
    rates: dict[int, int] = {}
    for id, permille, line_seconds, price in session.execute(query):
        rates[id] = permille
        seconds[id] = seconds.get(id, 0) + int(line_seconds)
        amounts[id] = amounts.get(id, 0) + units.amount_micro_yuan(int(line_seconds), price)
    return {id: Totals(seconds[id], amounts[id], units.tax_micro_yuan(amounts[id], rates[id])) for id in seconds}


def draft_totals(session: Session, month: str, enterprise_ids: list[int], tax_permille: int) -> dict[int, Totals]:
    """Totals of many drafts in one query; each line rounded as on its statement."""
    rows = session.execute(
        sa.select(Charge.enterprise_id, sa.func.sum(Charge.gpu_seconds), Tariff.price_micro_yuan)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .where(Charge.enterprise_id.in_(enterprise_ids), Charge.billed_in == month)
        .group_by(Charge.enterprise_id, Charge.booking_id, Charge.tariff_id, Charge.adjustment, Tariff.price_micro_yuan)
    )
    seconds: dict[int, int] = {}
    amounts: dict[int, int] = {}
    for enterprise_id, line_seconds, price in rows:
        seconds[enterprise_id] = seconds.get(enterprise_id, 0) + int(line_seconds)
        amounts[enterprise_id] = amounts.get(enterprise_id, 0) + units.amount_micro_yuan(int(line_seconds), price)
    return {id: Totals(seconds[id], amounts[id], units.tax_micro_yuan(amounts[id], tax_permille)) for id in seconds}


def count_in_all(session: Session) -> int:
    """Statements that a month's close has frozen."""
    return (
        session.scalar(sa.select(sa.func.count()).select_from(Statement).where(Statement.state != StatementState.DRAFT))
        or 0
    )
