"""Balances for pages, straight from the accounts' cached balances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..db import among
from . import service
from .models import Bucket, LedgerAccount, LedgerEntry, Unit


@dataclass(frozen=True, slots=True)
class Balance:
    """GPU-seconds of one allocation by bucket. `awarded` is what came in, so the buckets add up to it."""

    available: int = 0
    held: int = 0
    used: int = 0
    withheld: int = 0
    expired: int = 0
    overdraft: int = 0

    @property
    def awarded(self) -> int:
        return self.available + self.held + self.used + self.withheld + self.expired - self.overdraft


_ACCOUNTS = sa.select(LedgerAccount.owner, LedgerAccount.bucket, LedgerAccount.balance).where(
    among(LedgerAccount.owner, "owners")
)


def balances(session: Session, allocation_ids: Iterable[int]) -> dict[int, Balance]:
    """One query for any number of allocations; allocations without accounts (not awarded yet) have zeros."""
    owners = {service.allocation(id): id for id in allocation_ids}
    if not owners:
        return {}
    rows = session.connection().execute(_ACCOUNTS, {"owners": list(owners)}).all()
    found: dict[int, dict[str, int]] = {id: {} for id in owners.values()}
    for owner, bucket, balance in rows:
        found[owners[owner]][bucket.value] = -balance if bucket is Bucket.OVERDRAFT else balance
    return {id: Balance(**buckets) for id, buckets in found.items()}


def balance(session: Session, allocation_id: int) -> Balance:
    return balances(session, [allocation_id])[allocation_id]


def programme_left(session: Session, programme_ids: Iterable[int]) -> dict[int, int]:
    """GPU-seconds left in each programme's pool."""
    owners = {service.programme(id): id for id in programme_ids}
    left = dict.fromkeys(owners.values(), 0)
    for owner, amount in session.execute(
        sa.select(LedgerAccount.owner, LedgerAccount.balance).where(
            LedgerAccount.owner.in_(owners),
            LedgerAccount.bucket == Bucket.POOL,
            LedgerAccount.unit == Unit.GPU_SECONDS,
        )
    ):
        left[owners[owner]] = amount
    return left


@dataclass(frozen=True, slots=True)
class Budget:
    """Micro-yuan of one programme or scheme. `left` is below zero when more is owed than there is."""

    budgeted: int = 0
    committed: int = 0
    spent: int = 0

    @property
    def left(self) -> int:
        return self.budgeted - self.committed - self.spent


def money_left(session: Session, owners: Iterable[str]) -> dict[str, int]:
    """Micro-yuan left in each budget; those without accounts have nothing."""
    left = dict.fromkeys(owners, 0)
    for owner, amount in session.execute(money_left_query(left)):
        left[owner] = int(amount)
    return left


def money_left_query(owners: Iterable[str]) -> sa.Select[str, int]:
    """(owner, amount) of those budgets that have accounts."""
    return (
        sa.select(LedgerAccount.owner, sa.func.sum(LedgerAccount.balance).label("amount"))
        .where(
            LedgerAccount.owner.in_(list(owners)),
            LedgerAccount.bucket.in_((Bucket.POOL, Bucket.OVERDRAFT)),
            LedgerAccount.unit == Unit.MICRO_YUAN,
        )
        .group_by(LedgerAccount.owner)
    )


def list_entries(session: Session, references: Iterable[str]) -> list[LedgerEntry]:
    """The entries behind some references, oldest first: what a number opens to."""
    return list(
        session.scalars(
            sa.select(LedgerEntry).where(LedgerEntry.reference.in_(list(references))).order_by(LedgerEntry.id)
        )
    )
