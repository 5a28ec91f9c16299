"""Balances for pages, straight from the accounts' cached balances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

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

    @classmethod
    def of(cls, buckets: dict[str, int] | None) -> Balance:
        """From what `buckets_of` found. An allocation without accounts (not awarded yet) has zeros."""
        if not buckets:
            return cls()
        owed = buckets.get(Bucket.OVERDRAFT)
        return cls(**(buckets | {Bucket.OVERDRAFT: -owed})) if owed else cls(**buckets)


class _ByName(FunctionElement[Any]):
    """Two columns of some rows as one JSON object."""

    type = sa.JSON()
    inherit_cache = True


@compiles(_ByName, "postgresql")
def _in_postgresql(element: _ByName, compiler: Any, **options: Any) -> str:
    return f"json_object_agg({compiler.process(element.clauses, **options)})"


@compiles(_ByName, "sqlite")
def _in_sqlite(element: _ByName, compiler: Any, **options: Any) -> str:
    return f"json_group_object({compiler.process(element.clauses, **options)})"


def buckets_of(allocation_id: sa.SQLColumnExpression[int]) -> sa.ScalarSelect[Any]:
    """What an allocation has in each bucket, as one column of a statement about allocations; see `Balance.of`."""
    owner = sa.literal_column(f"'{service.ALLOCATION}'", sa.String) + sa.cast(allocation_id, sa.String)
    account = orm.aliased(LedgerAccount)
    return sa.select(_ByName(account.bucket, account.balance)).where(account.owner == owner).scalar_subquery()


_OF_ONE = sa.select(buckets_of(sa.bindparam("allocation_id", type_=sa.Integer)))


def balance(session: Session, allocation_id: int) -> Balance:
    return Balance.of(session.connection().scalar(_OF_ONE, {"allocation_id": allocation_id}))


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
