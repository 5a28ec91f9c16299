"""One enterprise as a whole, for the bureau: what it has, used, books, owes, and what it was told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

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
    notices: Sequence[tuple[Notice, User]]
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


def load(session: Session, enterprise_id: int, by: Actor, now: dt.datetime) -> Overview:
    """Six queries. The actor may see the enterprise."""
    month = clock.month_of(now)
    start, end = clock.month_bounds(month)
    used = sa.select(sa.func.coalesce(sa.func.sum(UsageRecord.gpu_seconds), 0)).where(
        UsageRecord.enterprise_id == enterprise_id
    )
    this_month = used.where(UsageRecord.day_on >= clock.day_of(start), UsageRecord.day_on < clock.day_of(end))
    opened = sa.select(sa.func.count()).where(Booking.enterprise_id == enterprise_id, Booking.state.in_(OPEN))
    members = (
        sa.select(sa.func.count())
        .select_from(Membership)
        .join(User, User.id == Membership.user_id)
        .where(Membership.enterprise_id == enterprise_id, User.disabled_at.is_(None))
    )
    figures = session.execute(
        sa.select(*(each.scalar_subquery() for each in (opened, members, this_month, used)))
    ).one()
    owed, unsettled, settled = _statements(session, enterprise_id)
    which = allocations.Which(enterprise_id=enterprise_id)
    return Overview(
        allocations=allocations.list_allocations(
            session, by, states=allocations.CURRENT | allocations.REQUESTS, which=which
        ),
        bookings=_bookings(session, enterprise_id),
        notices=_notices(session, enterprise_id),
        open_bookings=figures[0],
        members=figures[1],
        month=month,
        used_this_month=int(figures[2]),
        used_in_all=int(figures[3]),
        owed=owed,
        settled=settled,
        unsettled=unsettled,
    )


def _statements(session: Session, enterprise_id: int) -> tuple[int, int, int]:
    """(owed micro-yuan, how many statements those are, settled micro-yuan)."""
    rows = session.execute(
        sa.select(Statement.state, sa.func.count(), sa.func.sum(Statement.amount_micro_yuan + Statement.tax_micro_yuan))
        .where(Statement.enterprise_id == enterprise_id)
        .group_by(Statement.state)
    ).all()
    owed = [(count, int(amount or 0)) for state, count, amount in rows if state in OWED]
    settled = sum(int(amount or 0) for state, _count, amount in rows if state is StatementState.SETTLED)
    return sum(amount for _, amount in owed), sum(count for count, _ in owed), settled


def _bookings(session: Session, enterprise_id: int) -> list[tuple[Booking, Pool]]:
    """What is open first, then the latest. Two short walks of an index, however many bookings there are."""
    of_the_firm = sa.select(Booking.id).where(Booking.enterprise_id == enterprise_id)
    latest = of_the_firm.order_by(Booking.id.desc()).limit(SHOWN).subquery()
    opened = [
        of_the_firm.where(Booking.state == state).order_by(Booking.id.desc()).limit(SHOWN).subquery()
        for state in sorted(OPEN)
    ]
    ids = sa.union_all(*(sa.select(part.c.id) for part in (latest, *opened)))
    is_open = sa.case((Booking.state.in_(OPEN - {BookingState.SUBMITTED}), 1), (Booking.state.in_(OPEN), 0), else_=2)
    rows = session.execute(
        sa.select(Booking, Pool)
        .join(Pool, Pool.id == Booking.pool_id)
        .where(Booking.id.in_(ids))
        .order_by(is_open, Booking.id.desc())
        .limit(SHOWN)
    )
    return [(booking, pool) for booking, pool in rows]


def _notices(session: Session, enterprise_id: int) -> list[tuple[Notice, User]]:
    """The latest that its people were told as its people, with who got it; what is personal is not among it."""
    rows = session.execute(
        sa.select(Notice, User)
        .join(User, User.id == Notice.user_id)
        .where(Notice.enterprise_id == enterprise_id)
        .order_by(Notice.id.desc())
        .limit(SHOWN)
    )
    return [(notice, user) for notice, user in rows]
