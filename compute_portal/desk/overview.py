"""One enterprise as a whole, for the bureau: what it has, used, books, owes, and what it was told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor
from ..allocations import queries as allocations
from ..allocations.queries import Listed
from ..bookings.models import Booking
from ..bookings.states import OPEN, BookingState
from ..enterprises.models import Membership
from ..notices.models import Notice
from ..pools.models import Pool
from ..signin.models import User
from ..signin.queries import PersonName
from ..statements.models import Statement
from ..statements.states import StatementState
from ..usage.models import UsageRecord

SHOWN = 10
OWED = (StatementState.APPROVED, StatementState.ISSUED)


@dataclass(frozen=True, slots=True)
class Overview:
    """GPU-seconds and micro-yuan. `owed` is approved or issued and not settled, tax included."""

    allocations: Sequence[Listed]
    bookings: Sequence[tuple[Booking, Pool]]
    notices: Sequence[tuple[Notice, PersonName]]
    open_bookings: int
    members: int
    month: str
    used_this_month: int
    used_in_all: int
    owed: int
    settled: int
    unsettled: int  # statements

    @property
    def active(self) -> list[Listed]:
        return [row for row in self.allocations if row.state in allocations.CURRENT]

    @property
    def requests(self) -> list[Listed]:
        return [row for row in self.allocations if row.state in allocations.REQUESTS]

    @property
    def available(self) -> int:
        return sum(row.balance.available for row in self.active)

    @property
    def held(self) -> int:
        return sum(row.balance.held for row in self.active)


_FIRM: sa.BindParameter[int] = sa.bindparam("firm")


def _figures() -> sa.Select[*tuple[Any, ...]]:
    used = sa.select(sa.func.coalesce(sa.func.sum(UsageRecord.gpu_seconds), 0)).where(
        UsageRecord.enterprise_id == _FIRM
    )
    this_month = used.where(UsageRecord.day_on >= sa.bindparam("first"), UsageRecord.day_on < sa.bindparam("until"))
    opened = sa.select(sa.func.count()).where(Booking.enterprise_id == _FIRM, Booking.state.in_(OPEN))
    members = (
        sa.select(sa.func.count())
        .select_from(Membership)
        .join(User, User.id == Membership.user_id)
        .where(Membership.enterprise_id == _FIRM, User.disabled_at.is_(None))
    )
    return sa.select(*(each.scalar_subquery() for each in (opened, members, this_month, used)))


_FIGURES = _figures()


def load(session: Session, enterprise_id: int, by: Actor, now: dt.datetime) -> Overview:
    """Six queries. The actor may see the enterprise."""
    month = clock.month_of(now)
    start, end = clock.month_bounds(month)
    days = {"first": clock.day_of(start), "until": clock.day_of(end)}
    figures = session.connection().execute(_FIGURES, {"firm": enterprise_id, **days}).one()
    owed, unsettled, settled = _statements(session, enterprise_id)
    which = allocations.Which(enterprise_id=enterprise_id)
    return Overview(
        allocations=allocations.list_allocations(
            session, by, states=allocations.CURRENT | allocations.REQUESTS, which=which
        ),
        bookings=[(booking, pool) for booking, pool in session.execute(_BOOKINGS, {"firm": enterprise_id})],
        notices=[
            (notice, PersonName(id, name, name_en))
            for notice, id, name, name_en in session.execute(_NOTICES, {"firm": enterprise_id})
        ],
        open_bookings=figures[0],
        members=figures[1],
        month=month,
        used_this_month=int(figures[2]),
        used_in_all=int(figures[3]),
        owed=owed,
        settled=settled,
        unsettled=unsettled,
    )


_STATEMENTS = (
    sa.select(Statement.state, sa.func.count(), sa.func.sum(Statement.amount_micro_yuan + Statement.tax_micro_yuan))
    .where(Statement.enterprise_id == _FIRM)
    .group_by(Statement.state)
)


def _statements(session: Session, enterprise_id: int) -> tuple[int, int, int]:
    """(owed micro-yuan, how many statements those are, settled micro-yuan)."""
    rows = session.connection().execute(_STATEMENTS, {"firm": enterprise_id}).all()
    owed = [(count, int(amount or 0)) for state, count, amount in rows if state in OWED]
    settled = sum(int(amount or 0) for state, _count, amount in rows if state is StatementState.SETTLED)
    return sum(amount for _, amount in owed), sum(count for count, _ in owed), settled


def _bookings() -> sa.Select[Booking, Pool]:
    """What is open first, then the latest. Short walks of an index, however many bookings there are."""
    of_the_firm = sa.select(Booking.id).where(Booking.enterprise_id == _FIRM)
    latest = of_the_firm.order_by(Booking.id.desc()).limit(SHOWN).subquery()
    opened = [
        of_the_firm.where(Booking.state == state).order_by(Booking.id.desc()).limit(SHOWN).subquery()
        for state in sorted(OPEN)
    ]
    ids = sa.union_all(*(sa.select(part.c.id) for part in (latest, *opened)))
    is_open = sa.case((Booking.state.in_(OPEN - {BookingState.SUBMITTED}), 1), (Booking.state.in_(OPEN), 0), else_=2)
    return (
        sa.select(Booking, Pool)
        .join(Pool, Pool.id == Booking.pool_id)
        .where(Booking.id.in_(ids))
        .order_by(is_open, Booking.id.desc())
        .limit(SHOWN)
    )


_BOOKINGS = _bookings()
# The latest that its people were told as its people, with who got it; what is personal is not among it.
_NOTICES = (
    sa.select(Notice, User.id, User.name, User.name_en)
    .join(User, User.id == Notice.user_id)
    .where(Notice.enterprise_id == _FIRM)
    .order_by(Notice.id.desc())
    .limit(SHOWN)
)
