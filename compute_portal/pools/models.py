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
    POOL_LIFE,
    POWER_CAP_LIFE,
    BookingUnit,
    InstructionState,
    InstructionVerb,
    MaintenanceState,
    NodeState,
    PoolState,
    PowerCapState,
)

TARIFF_HOURS = (
    "(from_hour IS NULL AND until_hour IS NULL) OR (from_hour BETWEEN 0 AND 23 AND until_hour BETWEEN 1 AND 24 "
    "AND from_hour <> until_hour AND until_hour - from_hour < 24)"
)


class Pool(Base):
    """GPUs of one model. `version` grows with every change of capacity or placement: older plans are void."""

    __tablename__ = "pools"
    LIFE: ClassVar[Lifecycle] = POOL_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    model: Mapped[str] = mapped_column(sa.String(80))
    tflops_fp16_dense: Mapped[int]
    tflops_source: Mapped[str | None] = mapped_column(sa.String(200))  # where that figure is from
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

    @property
    def state(self) -> PoolState:
        return PoolState.OPEN


class Node(Base):
    __tablename__ = "nodes"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    position: Mapped[int]  # order of placement inside the pool
    name: Mapped[str] = mapped_column(sa.String(60), unique=True)
    gpus: Mapped[int]
    cpus: Mapped[int | None]  # where the engine reports what jobs take of them
    memory_gib: Mapped[int | None]
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


class PowerCap(Base):
    """The pool may draw at most so many watts, cooling and conversion included, in some whole hours. It ends, or is
    lifted before; of several that hold the least counts. Why it was set stands in its history."""

    __tablename__ = "power_caps"
    LIFE: ClassVar[Lifecycle] = POWER_CAP_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    watts: Mapped[int] = mapped_column(sa.BigInteger)
    pue_permille: Mapped[int]  # as it was when the cap was set
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    lifted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("ends_at > starts_at", name="order"),
        sa.CheckConstraint("watts >= 0 AND pue_permille >= 1000", name="figures"),
    )

    @property
    def state(self) -> PowerCapState:
        return PowerCapState.SET if self.lifted_at is None else PowerCapState.LIFTED


class Tariff(Base):
    """The pool's list price per GPU-hour, from a day in Shanghai to the last one (none: open). Never changed.

    With hours it is an off-peak price: in those hours of each of its days it goes before the price of the whole day.
    `until_on` may be set once, when the next one follows or the off-peak hours end; a trigger refuses all other change,
    and two that hold at the same time.
    """

    __tablename__ = "tariffs"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    from_on: Mapped[dt.date]
    until_on: Mapped[dt.date | None]  # the last day
    from_hour: Mapped[int | None]  # 0 to 23, Shanghai
    until_hour: Mapped[int | None]  # 1 to 24; not after `from_hour` when the hours run over midnight
    gpus_most: Mapped[int | None]  # GPUs at once in these hours, instead of the enterprise's limit
    price_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("price_micro_yuan >= 0", name="price"),
        sa.CheckConstraint("until_on >= from_on", name="period"),
        sa.CheckConstraint(TARIFF_HOURS, name="hours"),
        sa.CheckConstraint("gpus_most IS NULL OR (gpus_most > 0 AND from_hour IS NOT NULL)", name="gpus_most"),
        sa.Index("ix_tariffs_pool_id_from_on", "pool_id", "from_on"),
    )


class Discount(Base):
    """A contract price of a pool in a period: for a programme, for a size class, or for both together.

    A percentage off the list price, or a price in its place. Two of one scope never overlap: a trigger refuses it.
    """

    __tablename__ = "discounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    programme_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programmes.id"))
    size_class: Mapped[str | None] = mapped_column(sa.String(12))
    from_on: Mapped[dt.date]
    until_on: Mapped[dt.date]  # the last day
    percent: Mapped[int | None]
    price_micro_yuan: Mapped[int | None] = mapped_column(sa.BigInteger)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("until_on >= from_on", name="period"),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name="percent"),
        sa.CheckConstraint("price_micro_yuan >= 0", name="price"),
        sa.CheckConstraint("(percent IS NULL) <> (price_micro_yuan IS NULL)", name="one_of_both"),
        sa.CheckConstraint("programme_id IS NOT NULL OR size_class IS NOT NULL", name="scope"),
        sa.Index("ix_discounts_pool_id_size_class", "pool_id", "size_class"),
    )


class PoolWeight(Base):
    """What an hour on the pool's cards counts from a day on, in thousandths; no row: 1,000. Append-only.

    A row with a `slice` says what part of a card such a slice is: '1g.10gb' at 125 is an eighth.
    """

    __tablename__ = "pool_weights"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    slice: Mapped[str] = mapped_column(sa.String(20))
    from_on: Mapped[dt.date]
    weight_milli: Mapped[int]
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("pool_id", "slice", "from_on"),
        sa.CheckConstraint("weight_milli > 0", name="weight"),
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


class OptionPlace(Base):
    """GPUs of a node kept for somebody on the wait-list. The row goes when the option is taken or lapses."""

    __tablename__ = "option_places"
    id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), index=True)
    node_id: Mapped[int] = mapped_column(sa.ForeignKey("nodes.id"))
    waiter_id: Mapped[int] = mapped_column(sa.ForeignKey("waiters.id"), index=True)
    gpu_mask: Mapped[int] = mapped_column(sa.BigInteger)
    starts_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ends_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("gpu_mask > 0", name="some_gpus"),
        sa.CheckConstraint("ends_at > starts_at", name="order"),
    )


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
