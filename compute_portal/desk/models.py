"""What the processes leave for each other and the operator: the scheduler's pulse, the runs of its timetable.

The tables are read by pages and by /readyz and written by the scheduler; they stand here because the portal may not
import the scheduler, and Alembic starts in the portal.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime


class Leader(Base):
    """One row: which scheduler is the active one. Every transaction of the scheduler locks it and checks the epoch."""

    __tablename__ = "leader"
    id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    holder: Mapped[str | None] = mapped_column(sa.String(80))
    since_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("id = 1", name="one_row"),)


class TimetableRun(Base):
    """One due slot of one timetable entry: at most one row, whatever restarts."""

    __tablename__ = "timetable_runs"
    entry: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    due_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, primary_key=True)
    started_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(sa.String(400))
    __table_args__ = (
        sa.Index(
            "ix_timetable_runs_failed", "due_at",
            sqlite_where=sa.text("error IS NOT NULL"), postgresql_where=sa.text("error IS NOT NULL"),
        ),
    )  # fmt: skip


class TimetableEntry(Base):
    """A line of the timetable as the scheduler that started last has it, for the page that shows their health.

    Either every so many seconds, or daily at `hour`:`minute` in Shanghai (with `day` only on that day of the month).
    `says` is a msgid. `gone`: this version of the scheduler no longer has it.
    """

    __tablename__ = "timetable_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    says: Mapped[str] = mapped_column(sa.String(120))
    every_seconds: Mapped[int | None]
    hour: Mapped[int | None]
    minute: Mapped[int | None]
    day: Mapped[int | None]
    recorded: Mapped[bool]
    gone: Mapped[bool] = mapped_column(server_default=sa.false())
    __table_args__ = (sa.CheckConstraint("(every_seconds IS NULL) <> (hour IS NULL)", name="when"),)


class Lease(Base):
    """The embedded engine's own record of an attempt it was handed: its queue and what it gave.

    `changed_at` lets the scheduler ask only for what is new.
    """

    __tablename__ = "leases"
    key: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    fixed: Mapped[bool]
    gpus: Mapped[int]
    seconds: Mapped[int]
    starts_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    not_before_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    submitted_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    programme_id: Mapped[int]
    enterprise_id: Mapped[int]
    allocation_id: Mapped[int]
    allocation_ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(sa.String(10))
    nodes: Mapped[list[dict[str, Any]] | None] = mapped_column(sa.JSON(none_as_null=True))
    placed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    failed: Mapped[bool] = mapped_column(server_default=sa.false())
    promised: Mapped[bool] = mapped_column(server_default=sa.false())  # it started at the front as it was overdue
    reason: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    changed_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    __table_args__ = (
        sa.CheckConstraint("state IN ('waiting', 'placed', 'ended')", name="state"),
        sa.Index(
            "ix_leases_open", "pool_id", "state",
            sqlite_where=sa.text("state <> 'ended'"), postgresql_where=sa.text("state <> 'ended'"),
        ),
    )  # fmt: skip
