"""Bookings, their attempts at the engine, and where each stands in the queue."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, AttemptOutcome, BookingKind, BookingState

# The condition of a small index: a cycle asks for nothing else, so that it costs the same however many wait.
TO_DO = sa.text(
    "revoked_at IS NULL AND (outcome IS NOT NULL OR handed_over_at IS NULL OR unwanted_at IS NOT NULL "
    "OR (placed_at IS NOT NULL AND granted_at IS NULL))"
)


class Booking(Base):
    """One request to use GPUs, and its whole life.

    fixed: `starts_at`, `ends_at` and a price frozen at confirmation. flexible: `longest_seconds`, perhaps
    `not_before_at`. `held_gpu_seconds` is what the ledger still holds for it, `charged_gpu_seconds` what was charged;
    both are caches that `verify` recounts.
    """

    __tablename__ = "bookings"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[BookingKind] = mapped_column(enum_type(BookingKind, "kind"))
    state: Mapped[BookingState] = mapped_column(enum_type(BookingState, "state"))
    title: Mapped[str] = mapped_column(sa.String(80))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), index=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    gpus: Mapped[int]
    starts_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    longest_seconds: Mapped[int]  # of a fixed booking: its window
    not_before_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    submitted_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    submitted_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    tariff_id: Mapped[int | None] = mapped_column(sa.ForeignKey("tariffs.id"))  # fixed: the frozen price
    held_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    charged_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    tries: Mapped[int] = mapped_column(server_default="0")
    under_way: Mapped[bool] = mapped_column(server_default=sa.false())  # it has an attempt that is not over
    started_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    claimed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("gpus > 0 AND longest_seconds > 0", name="size"),
        sa.CheckConstraint("held_gpu_seconds >= 0 AND charged_gpu_seconds >= 0", name="hours"),
        sa.CheckConstraint(
            "kind <> 'fixed' OR (starts_at IS NOT NULL AND ends_at IS NOT NULL AND ends_at > starts_at)", name="window"
        ),
        sa.Index("ix_bookings_enterprise_id_id", "enterprise_id", "id"),
        sa.Index("ix_bookings_pool_id_state", "pool_id", "state"),
        sa.Index("ix_bookings_state_id", "state", "id"),
        sa.Index("ix_bookings_under_way_state", "under_way", "state", "id"),
    )


class Attempt(Base):
    """One hand-over of a booking to the engine. The key makes it safe to hand over again after a crash."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    number: Mapped[int]
    key: Mapped[str] = mapped_column(sa.String(40), unique=True)
    written_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    handed_over_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    engine_reference: Mapped[str | None] = mapped_column(sa.String(80))
    nodes: Mapped[list[dict[str, Any]] | None] = mapped_column(
        sa.JSON(none_as_null=True)
    )  # [{"node": name, "gpus": [0, 1]}]
    unwanted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # its booking was cancelled before a place
    placed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # when the engine ends it
    granted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    grant_tries: Mapped[int] = mapped_column(server_default="0")
    ended_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    revoke_failed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[AttemptOutcome | None] = mapped_column(enum_type(AttemptOutcome, "outcome"))
    reason: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    metered_until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    metered_whole: Mapped[bool] = mapped_column(server_default=sa.false())  # nothing more will be metered
    __table_args__ = (
        sa.UniqueConstraint("booking_id", "number"),
        sa.Index(
            "ix_attempts_open", "id",
            sqlite_where=sa.text("revoked_at IS NULL"), postgresql_where=sa.text("revoked_at IS NULL"),
        ),
        sa.Index("ix_attempts_to_do", "id", sqlite_where=TO_DO, postgresql_where=TO_DO),
        sa.Index(
            "ix_attempts_unmetered", "id",
            sqlite_where=sa.text("metered_whole = 0"), postgresql_where=sa.text("NOT metered_whole"),
        ),
    )  # fmt: skip


class Standing(Base):
    """A waiting booking's place and reason after the last cycle that looked: one truth, written by the scheduler."""

    __tablename__ = "standings"
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    place: Mapped[int | None]
    waiting: Mapped[int | None]  # how many wait in this pool
    reason: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    expected_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
