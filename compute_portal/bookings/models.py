"""Bookings, their attempts at the engine, and where each stands in the queue."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, WAITER_LIFE, AttemptOutcome, BookingKind, BookingState, WaiterState

# The condition of a small index: a cycle asks for nothing else, so that it costs the same however many wait.
TO_DO = sa.text(
    "revoked_at IS NULL AND (outcome IS NOT NULL OR handed_over_at IS NULL OR unwanted_at IS NOT NULL "
    "OR (placed_at IS NOT NULL AND granted_at IS NULL))"
)

# So that the bureau's queue finds what is due first without sorting all that waits for approval. A query must say the
# state in these words: a store does not look into bound values.
_SUBMITTED = sa.text("state = 'submitted'")
IS_SUBMITTED = sa.text(f"bookings.{_SUBMITTED}")

LOST = sa.text("outcome = 'failed' AND granted_at IS NOT NULL AND credited_at IS NULL")


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
    tariff_id: Mapped[int | None] = mapped_column(sa.ForeignKey("tariffs.id"))  # fixed: its first hour's
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
        sa.Index("ix_bookings_enterprise_id_state", "enterprise_id", "state", "id"),
        sa.Index("ix_bookings_enterprise_id_ended_at", "enterprise_id", "ended_at"),
        sa.Index("ix_bookings_pool_id_state", "pool_id", "state"),
        sa.Index("ix_bookings_state_id", "state", "id"),
        sa.Index("ix_bookings_under_way_state", "under_way", "state", "id"),
        sa.Index(
            "ix_bookings_submitted", "kind", "submitted_at", "id",
            sqlite_where=_SUBMITTED, postgresql_where=_SUBMITTED,
        ),
    )  # fmt: skip


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
    # What the engine reports of it, where it does: all over its nodes, and which slice of a card each "GPU" is.
    cpus: Mapped[int | None]
    memory_gib: Mapped[int | None]
    slice: Mapped[str | None] = mapped_column(sa.String(20))
    metered_until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    metered_whole: Mapped[bool] = mapped_column(server_default=sa.false())  # nothing more will be metered
    warned_minutes: Mapped[int | None]  # people were told that it ends in so many minutes
    credited_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # it failed: what it cost was given back
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
        sa.Index("ix_attempts_lost", "id", sqlite_where=LOST, postgresql_where=LOST),
    )  # fmt: skip


class BookingPrice(Base):
    """The price of a part of a fixed booking's window, frozen when it was confirmed. Append-only, without gaps.

    A window that passes a border of the price (off-peak hours, a new price that was known) has a row for each side.
    """

    __tablename__ = "booking_prices"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    tariff_id: Mapped[int] = mapped_column(sa.ForeignKey("tariffs.id"))
    discount_id: Mapped[int | None] = mapped_column(sa.ForeignKey("discounts.id"))
    weight_milli: Mapped[int]
    __table_args__ = (
        sa.UniqueConstraint("booking_id", "starts_at"),
        sa.CheckConstraint("ends_at > starts_at", name="order"),
        sa.CheckConstraint("weight_milli > 0", name="weight"),
    )


class Standing(Base):
    """A waiting booking's place and reason after the last cycle that looked: one truth, written by the scheduler.

    `change` is the one thing that would start it. Its start is expected between `p10_at` and `p90_at`, half of the time
    before `expected_at`: the newest of its estimates.
    """

    __tablename__ = "standings"
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    place: Mapped[int | None]
    waiting: Mapped[int | None]  # how many wait in this pool
    reason: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    change: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    p10_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    expected_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    p90_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class Estimate(Base):
    """A start range as it was shown, and what came of it. All seconds count from `made_at`.

    `expected_seconds` is the look ahead that the range was made of. When the booking has started `waited_seconds` says
    how long it took; `closed_at` alone says that it never started.
    """

    __tablename__ = "estimates"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    place: Mapped[int]
    waiting: Mapped[int]
    expected_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    p10_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    p50_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    p90_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    waited_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint(
            "0 <= p10_seconds AND p10_seconds <= p50_seconds AND p50_seconds <= p90_seconds", name="order"
        ),
        sa.CheckConstraint("waited_seconds IS NULL OR closed_at IS NOT NULL", name="closed"),
        sa.Index("ix_estimates_booking_id_id", "booking_id", "id"),
        sa.Index("ix_estimates_pool_id_id", "pool_id", "id"),
        sa.Index("ix_estimates_made_at", "made_at"),
        sa.Index(
            "ix_estimates_open", "booking_id",
            sqlite_where=sa.text("closed_at IS NULL"), postgresql_where=sa.text("closed_at IS NULL"),
        ),
    )  # fmt: skip


class QueuePicture(Base):
    """A pool's queue as the last look ahead saw it: when somebody who asks now would start, and how good looks were.

    `starts` is {"gpus": [...], "hours": [...], "seconds": [[[p10, p50, p90], …], …]}, a row for each number of GPUs.
    Of the last `ranges` ranges that came true or not `held` held. `overdue_full_since`: since when bookings that waited
    too long have filled the part of the pool that is kept for them, without a break.
    """

    __tablename__ = "queue_pictures"
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    starts: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    ranges: Mapped[int]
    held: Mapped[int]
    overdue_full_since: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class QueueDay(Base):
    """What a day (Shanghai) was like in a pool's queue. `shares`: {enterprise id: [GPU-seconds got, entitled to]}.

    Without `deviation_permille` nobody had to share: all who asked could have had everything.
    """

    __tablename__ = "queue_days"
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)
    on: Mapped[dt.date] = mapped_column(primary_key=True)
    started: Mapped[int]
    waited_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    longest_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    deviation_permille: Mapped[int | None]
    shares: Mapped[dict[str, Any]] = mapped_column(sa.JSON)


class Extension(Base):
    """More time at the end of a fixed booking. `free`: in place of time that the city lost; settled when it is over."""

    __tablename__ = "extensions"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    number: Mapped[int]
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    free: Mapped[bool]
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    credited_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("booking_id", "number"),
        sa.CheckConstraint("ends_at > starts_at AND gpu_seconds > 0", name="something"),
    )


class Strike(Base):
    """A fixed booking that nobody used. Some of them within a time pause an enterprise's fixed bookings."""

    __tablename__ = "strikes"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    waived_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    waived_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    waived_because: Mapped[str | None] = mapped_column(sa.String(400))
    __table_args__ = (
        sa.CheckConstraint("(waived_at IS NULL) = (waived_because IS NULL)", name="waived"),
        sa.Index("ix_strikes_enterprise_id_at", "enterprise_id", "at"),
    )


class Waiter(Base):
    """A window that was full and that somebody would take. The first who fits gets it as an option for a while."""

    __tablename__ = "waiters"
    LIFE: ClassVar[Lifecycle] = WAITER_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[WaiterState] = mapped_column(enum_type(WaiterState, "state"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    title: Mapped[str] = mapped_column(sa.String(80))
    gpus: Mapped[int]
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    joined_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    joined_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    kept_until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # offered: its option lapses then
    booking_id: Mapped[int | None] = mapped_column(sa.ForeignKey("bookings.id"))
    __table_args__ = (
        sa.CheckConstraint("gpus > 0 AND ends_at > starts_at", name="window"),
        sa.CheckConstraint("state <> 'offered' OR kept_until_at IS NOT NULL", name="kept"),
        sa.Index("ix_waiters_pool_id_state", "pool_id", "state", "id"),
        sa.Index("ix_waiters_enterprise_id_id", "enterprise_id", "id"),
    )
