"""What was used: usage records (facts), charges (their effect) and the month each charge belongs to."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class MonthState(enum.StrEnum):
    OPEN = "open"
    CLOSED = "closed"


# Usage and fees cost; what is given back names what it corrects; a new rate is both.
CHARGE_SHAPE = (
    "CASE kind WHEN 'usage' THEN gpu_seconds > 0 AND usage_record_id IS NOT NULL AND corrects_id IS NULL "
    "WHEN 'cancellation' THEN gpu_seconds > 0 AND corrects_id IS NULL "
    "WHEN 'no_show' THEN gpu_seconds > 0 AND corrects_id IS NULL "
    "WHEN 'rerate' THEN gpu_seconds <> 0 AND corrects_id IS NOT NULL "
    "ELSE gpu_seconds < 0 AND corrects_id IS NOT NULL END"
)


class ChargeKind(enum.StrEnum):
    """Why hours were charged, or given back."""

    USAGE = "usage"  # one usage record
    CANCELLATION = "cancellation"  # called off late
    NO_SHOW = "no_show"  # booked and not used
    RETURNED = "returned"  # handed back, and somebody else had them
    OUTAGE = "outage"  # lost by the city's fault
    CORRECTION = "correction"  # given back by a person, with a reason
    RERATE = "rerate"  # the same hours at another price


CREDITS = frozenset({ChargeKind.RETURNED, ChargeKind.OUTAGE, ChargeKind.CORRECTION})
FEES = frozenset({ChargeKind.CANCELLATION, ChargeKind.NO_SHOW})


class BillingMonth(Base):
    """One enterprise's month: `charge` reads it FOR SHARE, `close_month` takes it FOR UPDATE."""

    __tablename__ = "billing_months"
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True)
    month: Mapped[str] = mapped_column(sa.String(7), primary_key=True)
    state: Mapped[MonthState] = mapped_column(enum_type(MonthState, "state"))
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class UsageRecord(Base):
    """One attempt during at most one clock hour, cut where the price changes too. Append-only.

    `share_milli` is the largest share of GPUs, CPUs and memory that it took of its nodes, in thousandths of a GPU (see
    `shares`); `gpu_seconds` = share × seconds, a second that was begun counts. `source` is what the engine said it
    from, unique, so the same fact twice is one row.
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
    slice: Mapped[str | None] = mapped_column(sa.String(20))  # of a card, when each of `gpus` is one
    share_milli: Mapped[int]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    day_on: Mapped[dt.date]  # in Shanghai, for the page that adds up days
    recorded_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("attempt_id", "starts_at"),
        sa.CheckConstraint("ends_at > starts_at AND gpu_seconds > 0", name="something"),
        sa.CheckConstraint("share_milli > 0", name="share"),
        sa.Index("ix_usage_records_enterprise_id_day_on", "enterprise_id", "day_on", "gpu_seconds"),  # sums need no row
    )


_USAGE, _OTHER, _CORRECTS = (
    sa.text(words) for words in ("kind = 'usage'", "kind <> 'usage'", "corrects_id IS NOT NULL")
)


class Charge(Base):
    """Hours that cost something, at one price in one billing month; given back when `gpu_seconds` is negative.

    A usage record has exactly one charge of kind usage. What gives back or re-rates names in `corrects_id` the charge
    that it changes, never more of it than is left, and the record where there is one. Append-only. `billed_in` is the
    month of use while that is open, else the next open one; then `adjustment` is true.
    """

    __tablename__ = "charges"
    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(sa.String(60))  # what caused it: the same cause twice is refused
    kind: Mapped[ChargeKind] = mapped_column(enum_type(ChargeKind, "kind"))
    usage_record_id: Mapped[int | None] = mapped_column(sa.ForeignKey("usage_records.id"))
    corrects_id: Mapped[int | None] = mapped_column(sa.ForeignKey("charges.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    tariff_id: Mapped[int] = mapped_column(sa.ForeignKey("tariffs.id"))
    discount_id: Mapped[int | None] = mapped_column(sa.ForeignKey("discounts.id"))
    weight_milli: Mapped[int]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    billed_in: Mapped[str] = mapped_column(sa.String(7))
    adjustment: Mapped[bool]
    charged_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    why: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["enterprise_id", "billed_in"], ["billing_months.enterprise_id", "billing_months.month"]
        ),
        sa.UniqueConstraint("reference"),
        sa.CheckConstraint("weight_milli > 0", name="weight"),
        sa.CheckConstraint(CHARGE_SHAPE, name="shape"),
        sa.Index("ix_charges_enterprise_id_billed_in", "enterprise_id", "billed_in"),
        sa.Index(
            "uq_charges_usage_record_id", "usage_record_id", unique=True, sqlite_where=_USAGE, postgresql_where=_USAGE
        ),
        sa.Index("ix_charges_usage_record_id_other", "usage_record_id", sqlite_where=_OTHER, postgresql_where=_OTHER),
        sa.Index("ix_charges_corrects_id", "corrects_id", sqlite_where=_CORRECTS, postgresql_where=_CORRECTS),
    )  # fmt: skip
