"""What was used: usage records (facts), charges (their effect) and the month each charge belongs to."""

from __future__ import annotations

import datetime as dt
import enum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class MonthState(enum.StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class BillingMonth(Base):
    """One enterprise's month: `charge` reads it FOR SHARE, `close_month` takes it FOR UPDATE."""

    __tablename__ = "billing_months"
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True)
    month: Mapped[str] = mapped_column(sa.String(7), primary_key=True)
    state: Mapped[MonthState] = mapped_column(enum_type(MonthState, "state"))
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class UsageRecord(Base):
    """One attempt during at most one clock hour, cut at tariff borders too. Append-only.

    `gpu_seconds` = gpus × seconds; `source` is what the engine said it from, unique, so the same fact twice is one row.
    """

    __tablename__ = "usage_records"
    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(80), unique=True)
    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"))
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    gpus: Mapped[int]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    day_on: Mapped[dt.date]  # in Shanghai, for the page that adds up days
    recorded_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("attempt_id", "starts_at"),
        sa.CheckConstraint("ends_at > starts_at AND gpu_seconds > 0", name="something"),
        sa.Index("ix_usage_records_enterprise_id_day_on", "enterprise_id", "day_on"),
    )


class Charge(Base):
    """The effect of one usage record: exactly one, at one tariff, in one billing month. Append-only.

    `billed_in` is the month of use while that is open, else the oldest open one; then `adjustment` is true.
    """

    __tablename__ = "charges"
    id: Mapped[int] = mapped_column(primary_key=True)
    usage_record_id: Mapped[int] = mapped_column(sa.ForeignKey("usage_records.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    tariff_id: Mapped[int] = mapped_column(sa.ForeignKey("tariffs.id"))
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    billed_in: Mapped[str] = mapped_column(sa.String(7))
    adjustment: Mapped[bool]
    charged_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["enterprise_id", "billed_in"], ["billing_months.enterprise_id", "billing_months.month"]
        ),
        sa.Index("ix_charges_enterprise_id_billed_in", "enterprise_id", "billed_in"),
    )
