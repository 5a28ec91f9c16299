"""Append-only double entry: an entry moves a positive amount of one unit from one account to another."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class Bucket(enum.StrEnum):
    """Where an amount sits. SOURCE and OVERDRAFT may go below zero: they say where hours came from."""

    SOURCE = "source"
    POOL = "pool"
    WITHHELD = "withheld"
    AVAILABLE = "available"
    HELD = "held"
    USED = "used"
    EXPIRED = "expired"
    OVERDRAFT = "overdraft"


class Unit(enum.StrEnum):
    GPU_SECONDS = "gpu_seconds"
    MICRO_YUAN = "micro_yuan"


class LedgerAccount(Base):
    """`owner` is 'bureau', 'programme:3' or 'allocation:7'. `balance` is a cache that `verify` recounts."""

    __tablename__ = "ledger_accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(sa.String(40))
    bucket: Mapped[Bucket] = mapped_column(enum_type(Bucket, "bucket"))
    unit: Mapped[Unit] = mapped_column(enum_type(Unit, "unit"))
    balance: Mapped[int] = mapped_column(sa.BigInteger)
    __table_args__ = (
        sa.UniqueConstraint("owner", "bucket", "unit"),
        sa.UniqueConstraint("id", "unit"),
        sa.CheckConstraint("balance >= 0 OR bucket IN ('source', 'overdraft')", name="not_below_zero"),
    )


class LedgerEntry(Base):
    """Immutable. (reference, leg) is unique, so the same cause twice is refused by the database."""

    __tablename__ = "ledger_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(sa.String(60))  # 'booking:12:hold', 'usage:881', …
    leg: Mapped[int]
    verb: Mapped[str] = mapped_column(sa.String(12))
    unit: Mapped[Unit] = mapped_column(enum_type(Unit, "unit"))
    from_account_id: Mapped[int]
    to_account_id: Mapped[int]
    amount: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    why: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    corrects_id: Mapped[int | None] = mapped_column(sa.ForeignKey("ledger_entries.id"))
    __table_args__ = (
        sa.UniqueConstraint("reference", "leg"),
        sa.CheckConstraint("amount > 0", name="positive"),
        sa.CheckConstraint("from_account_id <> to_account_id", name="moves"),
        sa.ForeignKeyConstraint(
            ["from_account_id", "unit"], ["ledger_accounts.id", "ledger_accounts.unit"], name="fk_ledger_entries_from"
        ),
        sa.ForeignKeyConstraint(
            ["to_account_id", "unit"], ["ledger_accounts.id", "ledger_accounts.unit"], name="fk_ledger_entries_to"
        ),
        sa.Index("ix_ledger_entries_from_account_id", "from_account_id"),
        sa.Index("ix_ledger_entries_to_account_id", "to_account_id"),
        sa.Index(
            "ix_ledger_entries_corrects_id", "corrects_id",
            sqlite_where=sa.text("corrects_id IS NOT NULL"), postgresql_where=sa.text("corrects_id IS NOT NULL"),
        ),
    )  # fmt: skip
