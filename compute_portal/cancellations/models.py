"""What a change of mind costs: the quote before it, and the hours that went back to the commons."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class QuoteKind(enum.StrEnum):
    CANCEL = "cancel"  # before it starts: a part of the window is charged
    HAND_BACK = "hand_back"  # from an instant on: the rest is charged, and credited as far as others use it


class CancellationQuote(Base):
    """The price of cancelling or handing back, promised until `expires_at`. `gpu_seconds` are charged, at the frozen
    prices; `amount_micro_yuan` is what that costs before tax."""

    __tablename__ = "cancellation_quotes"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    kind: Mapped[QuoteKind] = mapped_column(enum_type(QuoteKind, "kind"))
    from_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)  # what is given up begins here
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)  # the window's end when it was quoted
    percent: Mapped[int]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    made_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("percent BETWEEN 0 AND 100 AND gpu_seconds >= 0", name="charge"),
        sa.CheckConstraint("expires_at > made_at", name="order"),
    )


UNSETTLED = sa.text("settled_at IS NULL")


class ReturnedHours(Base):
    """A window that was given back under a charge. When it is over, what others used of it is credited, once."""

    __tablename__ = "returned_hours"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    quote_id: Mapped[int] = mapped_column(sa.ForeignKey("cancellation_quotes.id"), unique=True)
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    gpus: Mapped[int]
    charged_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    charge_ids: Mapped[list[Any]] = mapped_column(sa.JSON)
    rebooked_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    credited_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    settled_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("ends_at > starts_at AND charged_gpu_seconds > 0", name="something"),
        sa.CheckConstraint(
            "settled_at IS NULL OR (credited_gpu_seconds BETWEEN 0 AND charged_gpu_seconds "
            "AND credited_gpu_seconds <= rebooked_gpu_seconds)",
            name="credit",
        ),
        sa.Index("ix_returned_hours_unsettled", "ends_at", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
    )


class ReturnedPlace(Base):
    """Which GPUs of which node were given back."""

    __tablename__ = "returned_places"
    returned_id: Mapped[int] = mapped_column(sa.ForeignKey("returned_hours.id"), primary_key=True)
    node_id: Mapped[int] = mapped_column(sa.ForeignKey("nodes.id"), primary_key=True)
    gpu_mask: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
