"""GPU-hours asked for and awarded to an enterprise, under a programme, in a pool: a right to use, not money."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from .. import clock
from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import (
    CHANGE_LIFE,
    LIFE,
    REPORT_LIFE,
    AllocationState,
    ChangeKind,
    ChangeState,
    ReportKind,
    ReportState,
)

# Conditions of two small indexes. A query must say them in these words: a store does not look into bound values. And in
# the negative: otherwise SQLite would rather collect all rows of some states and sort them.
_REQUESTED = sa.text("state NOT IN ('active', 'suspended', 'closed', 'declined', 'withdrawn')")
_CURRENT = sa.text(
    "state NOT IN ('draft', 'submitted', 'in_review', 'changes_requested', 'closed', 'declined', 'withdrawn')"
)
IS_REQUEST = sa.text(f"allocations.{_REQUESTED}")
IS_CURRENT = sa.text(f"allocations.{_CURRENT}")
IS_WAITING = sa.text(f"allocations.{_REQUESTED} AND allocations.state NOT IN ('draft', 'changes_requested')")


class Allocation(Base):
    """Request and allocation are one row: what was asked, what was awarded and (in the ledger) what was used.

    A draft has a number and a size already; `draft` is what was typed since. `awarded_gpu_seconds` is what was awarded
    in all, supplements included.
    """

    __tablename__ = "allocations"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"), index=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    state: Mapped[AllocationState] = mapped_column(enum_type(AllocationState, "state"), index=True)
    purpose: Mapped[str] = mapped_column(sa.Text)
    requested_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    requested_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    requested_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    starts_on: Mapped[dt.date]
    ends_on: Mapped[dt.date]  # the last day
    due_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)  # when the decision is promised
    awarded_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    decided_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    decision_reason: Mapped[str | None] = mapped_column(sa.Text)  # the enterprise reads it
    shares: Mapped[int]
    track: Mapped[str | None] = mapped_column(sa.String(8))
    version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programme_versions.id"))  # asked under
    decided_version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programme_versions.id"))
    round_on: Mapped[dt.date | None]  # the cut-off of its round
    price_micro_yuan: Mapped[int | None] = mapped_column(sa.BigInteger)  # list price when it was submitted
    subsidy_percent: Mapped[int | None]  # of that price, by size class; 100 is free of charge
    draft: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    draft_saved_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    copied_from_id: Mapped[int | None] = mapped_column(sa.ForeignKey("allocations.id"))
    carried_from_id: Mapped[int | None] = mapped_column(sa.ForeignKey("allocations.id"))
    longest_run_seconds: Mapped[int | None]  # of a flexible booking
    half_term_on: Mapped[dt.date | None]  # when unused hours are looked at
    depreciated_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # they were
    __table_args__ = (
        sa.CheckConstraint("requested_gpu_seconds > 0", name="requested"),
        sa.CheckConstraint("awarded_gpu_seconds > 0", name="awarded"),
        sa.CheckConstraint("ends_on >= starts_on", name="period"),
        sa.CheckConstraint("shares > 0", name="shares"),
        sa.Index("uq_allocations_carried_from_id", "carried_from_id", unique=True),
        # what the queue and the list of requests ask for, by the time at which it is promised
        sa.Index("ix_allocations_waiting", "due_at", "id", sqlite_where=_REQUESTED, postgresql_where=_REQUESTED),
        sa.Index("ix_allocations_current", "id", sqlite_where=_CURRENT, postgresql_where=_CURRENT),
    )  # fmt: skip

    @property
    def starts_at(self) -> dt.datetime:
        return clock.start_of_day(self.starts_on)

    @property
    def ends_at(self) -> dt.datetime:
        """The instant from which it can no longer be used."""
        return clock.end_of_day(self.ends_on)


class FairUsage(Base):
    """Decayed usage of an allocation as of an instant: what the fair tree reads. Not money, so a float."""

    __tablename__ = "fair_usage"
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), primary_key=True)
    usage: Mapped[float] = mapped_column(sa.Double)
    as_of: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class Submission(Base):
    """A request as it was submitted, once for each time: answers, the facts and results of the rules, the preview.

    Append-only. The reviewer sees what changed between two of them; the rules can be asked again with `facts`.
    """

    __tablename__ = "request_submissions"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    number: Mapped[int]
    version_id: Mapped[int] = mapped_column(sa.ForeignKey("programme_versions.id"))
    track: Mapped[str] = mapped_column(sa.String(8))
    answers: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    facts: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    results: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    preview: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("allocation_id", "number"),)


class AllocationChange(Base):
    """Asked of an allocation that runs: more hours, more time, fewer hours, hours moved to another own allocation.

    `gpu_seconds` is what is added, given back or moved; `receives_gpu_seconds` what a transfer arrives as.
    """

    __tablename__ = "allocation_changes"
    LIFE: ClassVar[Lifecycle] = CHANGE_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), index=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    kind: Mapped[ChangeKind] = mapped_column(enum_type(ChangeKind, "kind"))
    state: Mapped[ChangeState] = mapped_column(enum_type(ChangeState, "state"), index=True)
    gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    ends_on: Mapped[dt.date | None]
    to_allocation_id: Mapped[int | None] = mapped_column(sa.ForeignKey("allocations.id"))
    receives_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    reason: Mapped[str] = mapped_column(sa.Text)
    version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programme_versions.id"))
    requested_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    requested_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    first_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))  # where two decide: who was first
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    decided_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    decision_reason: Mapped[str | None] = mapped_column(sa.Text)
    __table_args__ = (
        sa.CheckConstraint("gpu_seconds > 0", name="hours"),
        sa.CheckConstraint("receives_gpu_seconds > 0", name="receives"),
    )


class Report(Base):
    """What an enterprise tells of an allocation: half way, and after its end. `due_on` is the last day."""

    __tablename__ = "reports"
    LIFE: ClassVar[Lifecycle] = REPORT_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    kind: Mapped[ReportKind] = mapped_column(enum_type(ReportKind, "kind"))
    state: Mapped[ReportState] = mapped_column(enum_type(ReportState, "state"), index=True)
    due_on: Mapped[dt.date]
    text: Mapped[str | None] = mapped_column(sa.Text)
    handed_in_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    handed_in_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    decided_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    decision_reason: Mapped[str | None] = mapped_column(sa.Text)
    __table_args__ = (sa.UniqueConstraint("allocation_id", "kind"),)
