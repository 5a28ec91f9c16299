"""Programmes for forms and pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from ..ledger.service import programme as ledger_owner
from ..pools.models import Discount, Pool
from ..sentences import NotFound
from .models import CardWeight, Programme, ProgrammePool, ProgrammeVersion
from .rules import Rules


@dataclass(frozen=True, slots=True)
class ProgrammeName:
    """What a list shows of a programme."""

    id: int
    name: str
    name_en: str | None


def get_programme(session: Session, programme_id: int) -> Programme:
    programme = session.get(Programme, programme_id)
    if programme is None:
        raise NotFound
    return programme


def every_programme() -> sa.Select[Programme]:
    """Those that end last come first."""
    return sa.select(Programme).order_by(Programme.ends_on.desc(), Programme.id)


def list_programmes(session: Session) -> list[Programme]:
    return list(session.scalars(every_programme()))


def list_open(session: Session, on: dt.date) -> list[Programme]:
    return list(session.scalars(every_programme().where(Programme.ends_on >= on).limit(100)))


@dataclass(frozen=True, slots=True)
class Hours:
    """GPU-seconds of a programme: what was added in all, and what is left to award."""

    funded: int = 0
    left: int = 0

    @property
    def awarded(self) -> int:
        return self.funded - self.left


def hours(session: Session, programme_ids: Iterable[int]) -> dict[int, Hours]:
    """One query for any number of programmes; those without hours have zeros."""
    owners = {ledger_owner(id): id for id in programme_ids}
    found = dict.fromkeys(owners.values(), Hours())
    if not owners:
        return found
    added = (
        sa.select(sa.func.coalesce(sa.func.sum(LedgerEntry.amount), 0))
        .where(LedgerEntry.to_account_id == LedgerAccount.id, LedgerEntry.verb == "fund")
        .scalar_subquery()
    )
    rows = session.execute(
        sa.select(LedgerAccount.owner, added, LedgerAccount.balance).where(
            LedgerAccount.owner.in_(owners),
            LedgerAccount.bucket == Bucket.POOL,
            LedgerAccount.unit == Unit.GPU_SECONDS,
        )
    )
    for owner, funded, left in rows:
        found[owners[owner]] = Hours(int(funded), left)
    return found


def pools_of(session: Session, programme_ids: Iterable[int]) -> dict[int, list[Pool]]:
    """The pools that each programme opens, in one query."""
    found: dict[int, list[Pool]] = {id: [] for id in programme_ids}
    rows = session.execute(
        sa.select(ProgrammePool.programme_id, Pool)
        .join(Pool, Pool.id == ProgrammePool.pool_id)
        .where(ProgrammePool.programme_id.in_(found))
        .order_by(Pool.name)
    )
    for programme_id, pool in rows:
        found[programme_id].append(pool)
    return found


def list_fundings(session: Session, programme_id: int, limit: int = 100) -> list[LedgerEntry]:
    """What the bureau added, newest first."""
    account = sa.select(LedgerAccount.id).where(
        LedgerAccount.owner == ledger_owner(programme_id),
        LedgerAccount.bucket == Bucket.POOL,
        LedgerAccount.unit == Unit.GPU_SECONDS,
    )
    return list(
        session.scalars(
            sa.select(LedgerEntry)
            .where(LedgerEntry.to_account_id.in_(account), LedgerEntry.verb == "fund")
            .order_by(LedgerEntry.id.desc())
            .limit(limit)
        )
    )


def list_open_pairs(session: Session, on: dt.date) -> list[tuple[Programme, Pool]]:
    """Every programme that accepts requests on this day with each of its pools."""
    rows = session.execute(
        sa.select(Programme, Pool)
        .join(ProgrammePool, ProgrammePool.programme_id == Programme.id)
        .join(Pool, Pool.id == ProgrammePool.pool_id)
        .where(Programme.ends_on >= on)
        .order_by(Programme.id, Pool.name)
    )
    return [(programme, pool) for programme, pool in rows]


def list_versions(session: Session, programme_id: int) -> list[ProgrammeVersion]:
    """Every version of the rules, newest first."""
    return list(
        session.scalars(
            sa.select(ProgrammeVersion)
            .where(ProgrammeVersion.programme_id == programme_id)
            .order_by(ProgrammeVersion.number.desc())
            .limit(100)
        )
    )


def rules_on(session: Session, programme_ids: Iterable[int], on: dt.date) -> dict[int, Rules]:
    """The rules of each programme in force on a day, in one query."""
    rows = session.scalars(
        sa.select(ProgrammeVersion)
        .where(ProgrammeVersion.programme_id.in_(list(programme_ids)), ProgrammeVersion.from_on <= on)
        .order_by(ProgrammeVersion.number)
    )
    return {row.programme_id: Rules.from_json(row.rules) for row in rows}


def list_weights(session: Session, programme_id: int, on: dt.date) -> list[CardWeight]:
    """The rates of exchange in force on a day and those that are to come, by pool and day."""
    rows = session.scalars(
        sa.select(CardWeight)
        .where(CardWeight.programme_id == programme_id)
        .order_by(CardWeight.pool_id, CardWeight.from_on)
    )
    kept: dict[tuple[int, bool], list[CardWeight]] = {}
    for row in rows:
        kept.setdefault((row.pool_id, row.from_on > on), []).append(row)
    return [row for (_, later), rows in kept.items() for row in (rows if later else rows[-1:])]


def every_discount() -> sa.Select[Discount]:
    """Those that end last come first."""
    return sa.select(Discount).order_by(Discount.until_on.desc(), Discount.id.desc())
