"""Schemes that bear part of a cost: their versions, what was taken from them, and which contract stands in which."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime


class Scheme(Base):
    """A programme's subsidy (`programme_id`: whose lines, and whose budget) or a voucher scheme with its own budget.

    The row is the lock of cap, pool and budget. `is_example`: made from what other cities publish.
    """

    __tablename__ = "schemes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(120), unique=True)
    name_en: Mapped[str | None] = mapped_column(sa.String(120))
    programme_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programmes.id"), unique=True)
    is_example: Mapped[bool]
    opened_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    opened_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class SchemeVersion(Base):
    """The rules from the first day of a month on, as they were made. Append-only.

    In force in a month is the newest that begins on or before its first day. `rules` is `rules.SchemeRules.to_json()`.
    """

    __tablename__ = "scheme_versions"
    id: Mapped[int] = mapped_column(primary_key=True)
    scheme_id: Mapped[int] = mapped_column(sa.ForeignKey("schemes.id"))
    number: Mapped[int]
    from_on: Mapped[dt.date]
    rules: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    why: Mapped[str] = mapped_column(sa.String(400))
    made_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("scheme_id", "number"),)


class SubsidyUse(Base):
    """What a statement, or a claim on it, took from a scheme; counts against cap and pool of `year`. Append-only.

    `amount_micro_yuan` is negative where something came back: a returned statement, a declined claim, a credit.
    `reference` says what caused it, once: 'statement:7:scheme:2:take:1'. The budget moved under the same reference.
    """

    __tablename__ = "subsidy_uses"
    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(sa.String(60), unique=True)
    scheme_id: Mapped[int] = mapped_column(sa.ForeignKey("schemes.id"))
    version_id: Mapped[int] = mapped_column(sa.ForeignKey("scheme_versions.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), index=True)
    month: Mapped[str] = mapped_column(sa.String(7))
    year: Mapped[int]
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("amount_micro_yuan <> 0", name="something"),
        sa.Index("ix_subsidy_uses_enterprise_id_scheme_id", "enterprise_id", "scheme_id"),
        sa.Index("ix_subsidy_uses_scheme_id_year", "scheme_id", "year"),
    )


class ContractSubsidy(Base):
    """The one scheme that a contract, which is an allocation, stands in: here or elsewhere. Append-only.

    Unique by allocation: the same contract in a second scheme is refused by the database too. `elsewhere` names a
    scheme outside this portal, as the enterprise declared it.
    """

    __tablename__ = "contract_subsidies"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    scheme_id: Mapped[int | None] = mapped_column(sa.ForeignKey("schemes.id"))
    elsewhere: Mapped[str | None] = mapped_column(sa.String(200))
    amount_micro_yuan: Mapped[int | None] = mapped_column(sa.BigInteger)
    granted_on: Mapped[dt.date | None]
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("(scheme_id IS NULL) <> (elsewhere IS NULL)", name="one_scheme"),)


class Trait(Base):
    """What schemes ask about an enterprise besides its size: champion, start-up, a filed model; with the evidence.

    It holds from `from_on` to `until_on` (the last day; empty: still). Each filed model is an entry of its own.
    """

    __tablename__ = "enterprise_traits"
    id: Mapped[int] = mapped_column(primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    trait: Mapped[str] = mapped_column(sa.String(24))
    evidence: Mapped[str] = mapped_column(sa.String(400))
    from_on: Mapped[dt.date]
    until_on: Mapped[dt.date | None]
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ended_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (sa.CheckConstraint("until_on >= from_on", name="period"),)


class PowerReading(Base):
    """The electricity that a pool took in a month, from its meter: what an audit holds GPU-hours against. Append-only.

    A later reading of the same pool and month corrects the earlier one.
    """

    __tablename__ = "power_readings"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    month: Mapped[str] = mapped_column(sa.String(7))
    kilowatt_hours: Mapped[int] = mapped_column(sa.BigInteger)
    source: Mapped[str] = mapped_column(sa.String(200))
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("kilowatt_hours >= 0", name="not_negative"),
        sa.Index("ix_power_readings_month", "month", "pool_id"),
    )
