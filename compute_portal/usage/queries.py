"""Usage for pages: a month by day, pool and member, and the records that any number opens down to."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Columns, visible
from ..bookings.models import Booking
from ..enterprises.models import Enterprise
from ..ledger.models import LedgerEntry
from ..pools.models import Pool, Tariff
from ..signin.models import User
from .models import Charge, UsageRecord

PAGE = 25


@dataclass(frozen=True, slots=True)
class Which:
    """The part of the usage that a page shows. `month` is 'YYYY-MM'; the rest narrows it."""

    month: str
    enterprise_id: int | None = None
    day: dt.date | None = None
    pool_id: int | None = None
    user_id: int | None = None
    booking_id: int | None = None

    @property
    def days(self) -> tuple[dt.date, dt.date]:
        """First day of the month and of the next one, in Shanghai."""
        start, end = clock.month_bounds(self.month)
        return clock.day_of(start), clock.day_of(end)


def _narrow(query: sa.Select[*Columns], which: Which, by: Actor) -> sa.Select[*Columns]:
    first, after = which.days
    query = visible(query, UsageRecord.enterprise_id, by)
    query = query.where(UsageRecord.day_on >= first, UsageRecord.day_on < after)
    for column, value in (
        (UsageRecord.enterprise_id, which.enterprise_id),
        (UsageRecord.day_on, which.day),
        (UsageRecord.pool_id, which.pool_id),
        (UsageRecord.user_id, which.user_id),
        (UsageRecord.booking_id, which.booking_id),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


@dataclass(frozen=True, slots=True)
class Sums:
    """GPU-seconds of a month: by day, by pool (id, name), by member (id, name, name_en), and in all."""

    by_day: list[tuple[dt.date, int]]
    by_pool: list[tuple[int, str, int]]
    by_member: list[tuple[int | None, str | None, str | None, int]]
    total: int


def sums(session: Session, which: Which, by: Actor) -> Sums:
    """Three queries, whatever the month holds."""
    total = sa.func.sum(UsageRecord.gpu_seconds)
    days = session.execute(
        _narrow(sa.select(UsageRecord.day_on, total), which, by)
        .group_by(UsageRecord.day_on)
        .order_by(UsageRecord.day_on)
    )
    pools = session.execute(
        _narrow(sa.select(Pool.id, Pool.name, total).join(Pool, Pool.id == UsageRecord.pool_id), which, by)
        .group_by(Pool.id, Pool.name)
        .order_by(total.desc())
    )
    members = session.execute(
        _narrow(
            sa.select(User.id, User.name, User.name_en, total)
            .select_from(UsageRecord)
            .outerjoin(User, User.id == UsageRecord.user_id),
            which,
            by,
        )
        .group_by(User.id, User.name, User.name_en)
        .order_by(total.desc())
    )
    by_day = [(day, int(seconds)) for day, seconds in days]
    return Sums(
        by_day,
        [(id, name, int(seconds)) for id, name, seconds in pools],
        [(id, name, name_en, int(seconds)) for id, name, name_en, seconds in members],
        sum(seconds for _, seconds in by_day),
    )


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A usage record with what it became: its charge, its price, its booking."""

    record: UsageRecord
    charge: Charge
    tariff: Tariff
    booking: Booking
    pool: Pool
    enterprise: Enterprise


def list_records(session: Session, which: Which, by: Actor, *, page: int = 1) -> tuple[list[RecordRow], int, int]:
    """One page oldest first, how many records there are in all, and their GPU-seconds."""
    joined = (
        sa.select(UsageRecord, Charge, Tariff, Booking, Pool, Enterprise)
        .join(Charge, Charge.usage_record_id == UsageRecord.id)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .join(Booking, Booking.id == UsageRecord.booking_id)
        .join(Pool, Pool.id == UsageRecord.pool_id)
        .join(Enterprise, Enterprise.id == UsageRecord.enterprise_id)
    )
    query = _narrow(joined, which, by).order_by(UsageRecord.starts_at, UsageRecord.id)
    rows = session.execute(query.limit(PAGE).offset((page - 1) * PAGE))
    count, seconds = session.execute(
        _narrow(sa.select(sa.func.count(), sa.func.sum(UsageRecord.gpu_seconds)), which, by)
    ).one()
    return [RecordRow(*row) for row in rows], int(count), int(seconds or 0)


def find_record(session: Session, record_id: int, by: Actor) -> RecordRow | None:
    row = session.execute(
        visible(
            sa.select(UsageRecord, Charge, Tariff, Booking, Pool, Enterprise)
            .join(Charge, Charge.usage_record_id == UsageRecord.id)
            .join(Tariff, Tariff.id == Charge.tariff_id)
            .join(Booking, Booking.id == UsageRecord.booking_id)
            .join(Pool, Pool.id == UsageRecord.pool_id)
            .join(Enterprise, Enterprise.id == UsageRecord.enterprise_id)
            .where(UsageRecord.id == record_id),
            UsageRecord.enterprise_id,
            by,
        )
    ).one_or_none()
    return None if row is None else RecordRow(*row)


def ledger_entries_of(session: Session, record_id: int) -> list[LedgerEntry]:
    """Where the record's hours came from: the hold, the rest of the allocation, or overdraft."""
    return list(
        session.scalars(
            sa.select(LedgerEntry).where(LedgerEntry.reference == f"usage:{record_id}").order_by(LedgerEntry.leg)
        )
    )


def list_months(session: Session, by: Actor) -> list[str]:
    """Months with usage, newest first: all from that of the first record to that of the last."""
    day = visible(sa.select(UsageRecord.day_on), UsageRecord.enterprise_id, by).limit(1)
    first = session.scalar(day.order_by(UsageRecord.day_on))
    last = session.scalar(day.order_by(UsageRecord.day_on.desc()))
    if first is None or last is None:
        return []
    months, month = [], f"{last:%Y-%m}"
    while month >= f"{first:%Y-%m}":
        months.append(month)
        month = clock.previous_month(month)
    return months


def last_month(session: Session) -> str | None:
    """The newest month in which something was charged."""
    return session.scalar(sa.select(sa.func.max(Charge.billed_in)))


def charged_in_all(session: Session) -> int:
    """GPU-seconds of every charge ever made."""
    return int(session.scalar(sa.select(sa.func.sum(Charge.gpu_seconds))) or 0)
