"""Pools, their nodes and prices, and who occupies which GPUs when."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import (
    LIFE,
    MAINTENANCE_LIFE,
    BookingUnit,
    InstructionState,
    InstructionVerb,
    MaintenanceState,
    NodeState,
)


class Pool(Base):
    """GPUs of one model. `version` grows with every change of capacity or placement: older plans are void."""

    __tablename__ = "pools"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    model: Mapped[str] = mapped_column(sa.String(80))
    tflops_fp16_dense: Mapped[int]
    watts: Mapped[int]
    gpus_per_node: Mapped[int]
    booking_unit: Mapped[BookingUnit] = mapped_column(enum_type(BookingUnit, "booking_unit"))
    takes_scripts: Mapped[bool]
    how_to_connect: Mapped[str | None] = mapped_column(sa.Text)
    version: Mapped[int] = mapped_column(server_default="0")
    __table_args__ = (
        sa.CheckConstraint("gpus_per_node BETWEEN 1 AND 62", name="gpus_per_node"),
        sa.CheckConstraint("watts > 0 AND tflops_fp16_dense > 0", name="figures"),
    )


class Node(Base):
    __tablename__ = "nodes"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    position: Mapped[int]  # order of placement inside the pool
    name: Mapped[str] = mapped_column(sa.String(60), unique=True)
    gpus: Mapped[int]
    state: Mapped[NodeState] = mapped_column(enum_type(NodeState, "state"))
    __table_args__ = (
        sa.UniqueConstraint("pool_id", "position"),
        sa.CheckConstraint("gpus BETWEEN 1 AND 62", name="gpus"),
    )


class NodeInterval(Base):
    """A node's state from when to when; the open one is the current state. Utilisation needs the past."""

    __tablename__ = "node_intervals"
    id: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[int] = mapped_column(sa.ForeignKey("nodes.id"), index=True)
    state: Mapped[NodeState] = mapped_column(enum_type(NodeState, "state"))
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.Index(
            "uq_node_intervals_open", "node_id", unique=True,
            sqlite_where=sa.text("ends_at IS NULL"), postgresql_where=sa.text("ends_at IS NULL"),
        ),
    )  # fmt: skip


class Maintenance(Base):
    """A window in which nodes take no work. `node_ids` is a JSON list; all of them are of this pool."""

    __tablename__ = "maintenance_windows"
    LIFE: ClassVar[Lifecycle] = MAINTENANCE_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    node_ids: Mapped[list[int]] = mapped_column(sa.JSON)
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(sa.String(200))
    state: Mapped[MaintenanceState] = mapped_column(enum_type(MaintenanceState, "state"))
    __table_args__ = (sa.CheckConstraint("ends_at > starts_at", name="order"),)


class Tariff(Base):
    """The pool's price per GPU-hour from a day in Shanghai until the next one begins. Never changed, only followed."""

    __tablename__ = "tariffs"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    from_on: Mapped[dt.date]
    price_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("pool_id", "from_on"),
        sa.CheckConstraint("price_micro_yuan >= 0", name="price"),
    )


class Limit(Base):
    """How many GPUs of a pool an enterprise may use at once. No row: no limit."""

    __tablename__ = "limits"
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)
    gpus: Mapped[int]
    __table_args__ = (sa.CheckConstraint("gpus >= 0", name="gpus"),)


class Occupancy(Base):
    """These GPUs of this node belong to this booking in [starts_at, ends_at).

    Written by the confirming transaction of a fixed booking and by the engine when it places an attempt; a trigger on
    both stores refuses two that share a GPU at the same time. `released_at` is when access really ended: until then
    nobody else is let onto those GPUs, whatever `ends_at` says.
    """

    __tablename__ = "occupancies"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    node_id: Mapped[int] = mapped_column(sa.ForeignKey("nodes.id"))
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    gpu_mask: Mapped[int] = mapped_column(sa.BigInteger)
    gpus: Mapped[int]
    fixed: Mapped[bool]
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    released_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    stuck_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # access could not be taken back since then
    __table_args__ = (
        sa.CheckConstraint("gpu_mask > 0 AND gpus > 0", name="some_gpus"),
        sa.CheckConstraint("ends_at >= starts_at", name="order"),
        sa.Index("ix_occupancies_node_id_ends_at", "node_id", "ends_at"),
        sa.Index("ix_occupancies_pool_id_ends_at", "pool_id", "ends_at"),
        sa.Index(
            "ix_occupancies_unreleased", "pool_id",
            sqlite_where=sa.text("released_at IS NULL"), postgresql_where=sa.text("released_at IS NULL"),
        ),
    )  # fmt: skip


class Instruction(Base):
    """What a person asks the scheduler to do at the cluster; answered in the same row."""

    __tablename__ = "instructions"
    id: Mapped[int] = mapped_column(primary_key=True)
    verb: Mapped[InstructionVerb] = mapped_column(enum_type(InstructionVerb, "verb"))
    target_kind: Mapped[str] = mapped_column(sa.String(24))
    target_id: Mapped[int]
    why: Mapped[str | None] = mapped_column(sa.String(200))
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    state: Mapped[InstructionState] = mapped_column(enum_type(InstructionState, "state"))
    answered_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    answer: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    __table_args__ = (
        sa.Index("ix_instructions_state_id", "state", "id"),
        sa.Index("ix_instructions_target", "target_kind", "target_id"),
        sa.Index(
            "ix_instructions_failed", "id",
            sqlite_where=sa.text("state = 'failed'"), postgresql_where=sa.text("state = 'failed'"),
        ),
    )  # fmt: skip
