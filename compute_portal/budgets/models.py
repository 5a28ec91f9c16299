"""What an enterprise keeps from its own hours, what was said about them, and the bureau's rules for that."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from .states import AlertKind


class BudgetRules(Base):
    """One version of the bureau's rules. The newest is in force; older ones are the page's history.

    `thresholds` are [{"percent": 75, "action": "notify"}, …] of the award used, `days` the days before an allocation's
    end on which its managers are told. `overdraft_percent` of an award may be booked beyond it; the next award repays.
    """

    __tablename__ = "budget_rules"
    id: Mapped[int] = mapped_column(primary_key=True)
    thresholds: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    days: Mapped[list[int]] = mapped_column(sa.JSON)
    overdraft_percent: Mapped[int]
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    why: Mapped[str] = mapped_column(sa.String(200))
    __table_args__ = (sa.CheckConstraint("overdraft_percent BETWEEN 0 AND 100", name="overdraft"),)


class AllocationBudget(Base):
    """What holds for bookings from an allocation, beside its balance. No row: no reserve, nothing slowed or blocked."""

    __tablename__ = "allocation_budgets"
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), primary_key=True)
    reserve_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    slow_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # its bookings come last since then
    blocked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # it takes no new bookings since then
    __table_args__ = (sa.CheckConstraint("reserve_gpu_seconds >= 0", name="reserve"),)


class SubBudget(Base):
    """The most that one member may use of an allocation, in all. No row: whatever is left."""

    __tablename__ = "sub_budgets"
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    __table_args__ = (sa.CheckConstraint("gpu_seconds >= 0", name="hours"),)


class Alert(Base):
    """A threshold that an allocation reached: one row, so that it is told once whatever restarts.

    `number` is the percentage used, or the days before the end.
    """

    __tablename__ = "alerts"
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), primary_key=True)
    kind: Mapped[AlertKind] = mapped_column(enum_type(AlertKind, "kind"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
