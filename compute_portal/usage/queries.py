"""Usage for pages: a month by day, pool and member, and the records that any number opens down to."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Columns, sees_all, visible
from ..allocations.models import Allocation
from ..bookings import prices
from ..bookings.models import Attempt, Booking
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..ledger.models import Bucket, LedgerAccount, LedgerEntry
from ..pools.models import Discount, Pool, Tariff
from ..pools.prices import PricePoint, to_fen
from ..sentences import NotFound
from ..signin.models import User
from ..signin.queries import PersonName
from .models import Charge, ChargeKind, UsageRecord

PAGE = 25


@dataclass(frozen=True, slots=True)
class Which:
    """The part of the usage that a page shows; None leaves it open.

    `month` is the month of use, 'YYYY-MM'. The last three say what the charge became: with a booking they are exactly
    one line of a statement.
    """

    month: str | None = None
    enterprise_id: int | None = None
    day: dt.date | None = None
    pool_id: int | None = None
    user_id: int | None = None
    booking_id: int | None = None
    billed_in: str | None = None
    tariff_id: int | None = None
    adjustment: bool | None = None


def used_by_day(session: Session, allocation: Allocation) -> dict[dt.date, int]:
    """GPU-seconds of an allocation on each day with use: one query."""
    rows = session.execute(
        sa.select(UsageRecord.day_on, sa.func.sum(UsageRecord.gpu_seconds))
        .where(
            UsageRecord.enterprise_id == allocation.enterprise_id,
            UsageRecord.allocation_id == allocation.id,
            UsageRecord.day_on >= allocation.starts_on - dt.timedelta(days=1),
        )
        .group_by(UsageRecord.day_on)
        .order_by(UsageRecord.day_on)
    )
    return {day: int(seconds) for day, seconds in rows}


def _narrow(query: sa.Select[*Columns], which: Which, by: Actor) -> sa.Select[*Columns]:
    """The query has UsageRecord joined with its Charge."""
    query = visible(query, UsageRecord.enterprise_id, by)
    if which.month is not None:
        start, end = clock.month_bounds(which.month)
        query = query.where(UsageRecord.day_on >= clock.day_of(start), UsageRecord.day_on < clock.day_of(end))
    for column, value in (
        (UsageRecord.enterprise_id, which.enterprise_id),
        (UsageRecord.day_on, which.day),
        (UsageRecord.pool_id, which.pool_id),
        (UsageRecord.user_id, which.user_id),
        (UsageRecord.booking_id, which.booking_id),
        (Charge.billed_in, which.billed_in),
        (Charge.tariff_id, which.tariff_id),
        (Charge.adjustment, which.adjustment),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


def _charged(*columns: Any, changes_too: bool = False) -> sa.Select[Any]:
    """Each record with the one charge that it caused; or with that and all that changed it."""
    of_it = Charge.usage_record_id == UsageRecord.id
    joined = of_it if changes_too else sa.and_(of_it, Charge.kind == ChargeKind.USAGE)
    return sa.select(*columns).select_from(UsageRecord).join(Charge, joined)


# What narrows the sums of a month, by name. The statements are made once for each choice of names: to put one together
# takes longer than to run it.
_CONDITIONS: dict[str, sa.ColumnElement[bool]] = {
    "own": UsageRecord.enterprise_id == sa.bindparam("own"),
    "first_on": UsageRecord.day_on >= sa.bindparam("first_on"),
    "before_on": UsageRecord.day_on < sa.bindparam("before_on"),
    "enterprise_id": UsageRecord.enterprise_id == sa.bindparam("enterprise_id"),
}
_SECONDS = sa.func.sum(UsageRecord.gpu_seconds)


def _of_month(which: Which, by: Actor) -> dict[str, Any]:
    """The conditions of a month's page with their values: the month, the enterprise, and what the actor may see."""
    first, last = clock.month_bounds(which.month) if which.month is not None else (None, None)
    values = {
        "own": None if sees_all(by) else by.enterprise_id or 0,
        "first_on": first and clock.day_of(first),
        "before_on": last and clock.day_of(last),
        "enterprise_id": which.enterprise_id,
    }
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Sums:
    """GPU-seconds by day, by pool (id, name) and by person (None: what nobody submitted), most first, and in all."""

    by_day: dict[dt.date, int]
    by_pool: list[tuple[int, str, int]]
    by_member: list[tuple[PersonName | None, int]]
    total: int


@cache
def _sums(names: frozenset[str], by_member: bool) -> sa.Select[*tuple[Any, ...]]:
    """Every record has one charge of its use (`verify` holds it to that), so charges are not asked."""
    person = UsageRecord.user_id if by_member else sa.cast(sa.null(), sa.Integer).label("user_id")
    added_up = (
        sa.select(UsageRecord.day_on, UsageRecord.pool_id, person, _SECONDS.label("seconds"))
        .where(*(_CONDITIONS[name] for name in names))
        .group_by(UsageRecord.day_on, UsageRecord.pool_id, *([UsageRecord.user_id] if by_member else []))
        .subquery()
    )
    return (
        sa.select(added_up.c.day_on, Pool.id, Pool.name, added_up.c.seconds, User.id, User.name, User.name_en)
        .join(Pool, Pool.id == added_up.c.pool_id)
        .outerjoin(User, User.id == added_up.c.user_id)
        .order_by(added_up.c.day_on, Pool.id, User.id)
    )


def sums(session: Session, which: Which, by: Actor, *, by_member: bool = False) -> Sums:
    """The month's sums: one query, whatever it holds. By person only where it is of one enterprise."""
    asked = _of_month(which, by)
    days: Counter[dt.date] = Counter()
    pools: Counter[tuple[int, str]] = Counter()
    people: Counter[PersonName | None] = Counter()
    rows = session.connection().execute(_sums(frozenset(asked), by_member), asked).all()
    for day, pool_id, pool_name, seconds, user_id, name, name_en in rows:
        days[day] += int(seconds)
        pools[pool_id, pool_name] += int(seconds)
        people[None if user_id is None else PersonName(user_id, name, name_en)] += int(seconds)
    return Sums(
        days,
        [(id, name, seconds) for (id, name), seconds in pools.most_common()],
        sorted(people.items(), key=lambda row: (-row[1], row[0].id if row[0] else 0)) if by_member else [],
        days.total(),
    )


def count_enterprises(session: Session, which: Which, by: Actor, find: str = "") -> int:
    """How many enterprises used something."""
    query = _found(_narrow(_charged(sa.func.count(sa.distinct(UsageRecord.enterprise_id))), which, by), find)
    return int(session.scalar(query) or 0)


def sums_by_enterprise(
    session: Session, which: Which, by: Actor, find: str = "", *, offset: int = 0
) -> list[tuple[Enterprise, int]]:
    """GPU-seconds of each enterprise, most first, one page."""
    total = sa.func.sum(UsageRecord.gpu_seconds)
    query = _charged(Enterprise, total).join(Enterprise, Enterprise.id == UsageRecord.enterprise_id)
    rows = session.execute(
        _found(_narrow(query, which, by), find)
        .group_by(Enterprise.id)
        .order_by(total.desc(), Enterprise.id)
        .limit(PAGE)
        .offset(offset)
    )
    return [(enterprise, int(seconds)) for enterprise, seconds in rows]


def _found(query: sa.Select[*Columns], find: str) -> sa.Select[*Columns]:
    if not find:
        return query
    ids = sa.select(Enterprise.id).where(enterprises.fits(find))
    return query.where(UsageRecord.enterprise_id.in_(ids))


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A usage record with what it became: a charge, its price, its booking, and the attempt it was metered from."""

    record: UsageRecord
    charge: Charge
    tariff: Tariff
    discount: Discount | None
    booking: Booking
    pool: Pool
    enterprise: Enterprise
    attempt: Attempt

    @property
    def price(self) -> PricePoint:
        return price_of(self.charge, self.tariff, self.discount)

    @property
    def amount_micro_yuan(self) -> int:
        """At the contract price, to the fen: for reading."""
        return to_fen(self.price.contract_of(self.charge.gpu_seconds))


def price_of(charge: Charge, tariff: Tariff, discount: Discount | None) -> PricePoint:
    return prices.price_point(
        tariff.id,
        tariff.price_micro_yuan,
        None if discount is None else discount.id,
        None if discount is None else discount.percent,
        None if discount is None else discount.price_micro_yuan,
        charge.weight_milli,
    )


def _rows(which: Which, by: Actor, *, changes_too: bool = False) -> sa.Select[Any]:
    query = (
        _charged(*_ROW, changes_too=changes_too)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .outerjoin(Discount, Discount.id == Charge.discount_id)
        .join(Booking, Booking.id == UsageRecord.booking_id)
        .join(Pool, Pool.id == UsageRecord.pool_id)
        .join(Enterprise, Enterprise.id == UsageRecord.enterprise_id)
        .join(Attempt, Attempt.id == UsageRecord.attempt_id)
    )
    return _narrow(query, which, by)


_ROW = (UsageRecord, Charge, Tariff, Discount, Booking, Pool, Enterprise, Attempt)


def count_records(session: Session, which: Which, by: Actor) -> tuple[int, int]:
    """How many records there are, and their GPU-seconds."""
    count, seconds = session.execute(
        _narrow(_charged(sa.func.count(), sa.func.sum(UsageRecord.gpu_seconds)), which, by)
    ).one()
    return int(count), int(seconds or 0)


def list_records(session: Session, which: Which, by: Actor, *, offset: int = 0) -> list[RecordRow]:
    """One page, oldest first."""
    query = _rows(which, by).order_by(UsageRecord.starts_at, UsageRecord.id)
    return [RecordRow(*row) for row in session.execute(query.limit(PAGE).offset(offset))]


def every_charge(session: Session, which: Which, by: Actor) -> Iterator[RecordRow]:
    """Every charge of these records, what was given back and re-rated too, oldest use first, a thousand in memory at a
    time: for files."""
    query = _rows(which, by, changes_too=True).order_by(UsageRecord.starts_at, UsageRecord.id, Charge.id)
    for row in session.execute(query, execution_options={"yield_per": 1000}):
        yield RecordRow(*row)


def get_record(session: Session, record_id: int, by: Actor) -> RecordRow:
    row = session.execute(_rows(Which(), by).where(UsageRecord.id == record_id)).one_or_none()
    if row is None:
        raise NotFound
    return RecordRow(*row)


@dataclass(frozen=True, slots=True)
class Change:
    """A charge that came after: hours given back, or the same at another price. `amount` is micro-yuan, signed."""

    charge: Charge
    price: PricePoint
    amount_micro_yuan: int


def list_changes(session: Session, record_ids: Sequence[int]) -> dict[int, list[Change]]:
    """What changed the charges of these records, oldest first; a record of which nothing changed is left out."""
    rows = session.execute(
        sa.select(Charge, Tariff, Discount)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .outerjoin(Discount, Discount.id == Charge.discount_id)
        # In these words: a small index holds them.
        .where(Charge.usage_record_id.in_(record_ids), sa.text("charges.kind <> 'usage'"))
        .order_by(Charge.id)
    )
    found: dict[int, list[Change]] = {}
    for charge, tariff, discount in rows:
        point = price_of(charge, tariff, discount)
        change = Change(charge, point, to_fen(point.contract_of(charge.gpu_seconds)))
        found.setdefault(charge.usage_record_id or 0, []).append(change)
    return found


def ledger_entries_of(session: Session, record_id: int) -> list[tuple[LedgerEntry, Bucket, Bucket]]:
    """Where the record's hours came from (the hold, the rest of the allocation, or overdraft) and where they went, and
    what was given back since."""
    source, target = orm.aliased(LedgerAccount), orm.aliased(LedgerAccount)
    rows = session.execute(
        sa.select(LedgerEntry, source.bucket, target.bucket)
        .join(source, source.id == LedgerEntry.from_account_id)
        .join(target, target.id == LedgerEntry.to_account_id)
        .where(
            LedgerEntry.reference.in_(
                sa.union_all(
                    sa.select(sa.literal(f"usage:{record_id}")),
                    sa.select(Charge.reference).where(
                        Charge.usage_record_id == record_id, sa.text("charges.kind <> 'usage'")
                    ),
                )
            )
        )
        .order_by(LedgerEntry.id)
    )
    return [(entry, before, after) for entry, before, after in rows]


def last_month(session: Session) -> str | None:
    """The newest month in which something was charged."""
    return session.scalar(sa.select(sa.func.max(Charge.billed_in)))


def charged_in_all(session: Session) -> int:
    """GPU-seconds of every charge ever made."""
    return int(session.scalar(sa.select(sa.func.sum(Charge.gpu_seconds))) or 0)
