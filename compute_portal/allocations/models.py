"""GPU-hours asked for and awarded to an enterprise, under a programme, in a pool: a right to use, not money."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from .. import clock
from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, AllocationState


class Allocation(Base):
    """Request and allocation are one row: what was asked, what was awarded and (in the ledger) what was used."""

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
    __table_args__ = (
        sa.CheckConstraint("requested_gpu_seconds > 0", name="requested"),
        sa.CheckConstraint("awarded_gpu_seconds > 0", name="awarded"),
        sa.CheckConstraint("ends_on >= starts_on", name="period"),
        sa.CheckConstraint("shares > 0", name="shares"),
    )

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
