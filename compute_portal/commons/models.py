"""What the city shows everybody: the catalogue of datasets, what the bureau enters, and figures made in advance."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import (
    DATASET_LIFE,
    SITE_LIFE,
    TRANSITION_LIFE,
    DatasetState,
    Figure,
    SiteState,
    Tier,
    TransitionState,
)


class Dataset(Base):
    """A dataset that people may ask for, in both languages. What it said before a change is in its history."""

    __tablename__ = "datasets"
    LIFE: ClassVar[Lifecycle] = DATASET_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[DatasetState] = mapped_column(enum_type(DatasetState, "state"))
    name: Mapped[str] = mapped_column(sa.String(120), unique=True)
    name_en: Mapped[str] = mapped_column(sa.String(160))
    steward: Mapped[str] = mapped_column(sa.String(120))  # the office that answers for it
    steward_en: Mapped[str] = mapped_column(sa.String(160))
    tier: Mapped[Tier] = mapped_column(enum_type(Tier, "tier"))
    how_to_ask: Mapped[str] = mapped_column(sa.String(400))
    how_to_ask_en: Mapped[str] = mapped_column(sa.String(400))
    changed_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.Index("ix_datasets_state_name", "state", "name"),)


class PowerSite(Base):
    """Electric power for compute at one site: how much, in which stage since which day, and what shows it."""

    __tablename__ = "power_sites"
    LIFE: ClassVar[Lifecycle] = SITE_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[SiteState] = mapped_column(enum_type(SiteState, "state"))
    name: Mapped[str] = mapped_column(sa.String(120), unique=True)
    name_en: Mapped[str] = mapped_column(sa.String(160))
    kilowatts: Mapped[int]
    since_on: Mapped[dt.date]
    evidence: Mapped[str] = mapped_column(sa.String(400))
    link: Mapped[str | None] = mapped_column(sa.String(300))
    changed_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("kilowatts > 0", name="some_power"),)


class Transition(Base):
    """Research on granted hours became a product: a dated event with evidence. An allocation counts once."""

    __tablename__ = "transitions"
    LIFE: ClassVar[Lifecycle] = TRANSITION_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[TransitionState] = mapped_column(enum_type(TransitionState, "state"))
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    happened_on: Mapped[dt.date]
    name: Mapped[str] = mapped_column(sa.String(160))
    name_en: Mapped[str] = mapped_column(sa.String(200))
    evidence: Mapped[str] = mapped_column(sa.String(400))
    link: Mapped[str | None] = mapped_column(sa.String(300))
    changed_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.Index(
            "uq_transitions_allocation", "allocation_id", unique=True,
            sqlite_where=sa.text("state = 'recorded'"), postgresql_where=sa.text("state = 'recorded'"),
        ),
        sa.Index("ix_transitions_happened_on", "happened_on"),
    )  # fmt: skip


class PublishedFigure(Base):
    """A figure as the timetable reckoned it last; small numbers are gone already.

    `open_rows` are what it was reckoned from, for its CSV; pages do not load them.
    """

    __tablename__ = "published_figures"
    name: Mapped[Figure] = mapped_column(enum_type(Figure, "name"), primary_key=True)
    reckoned_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    content: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    open_rows: Mapped[list[Any]] = mapped_column(sa.JSON, deferred=True)


class PoolDay(Base):
    """A pool's GPU-seconds on one day in Shanghai: all there were, out of service, given to bookings, metered."""

    __tablename__ = "pool_days"
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)
    day_on: Mapped[dt.date] = mapped_column(primary_key=True)
    capacity_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    down_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    allocated_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    used_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    __table_args__ = (sa.Index("ix_pool_days_day_on", "day_on"),)


class PoolHour(Base):
    """A pool in one clock hour: GPU-seconds in service and given to bookings, and what waited when it began."""

    __tablename__ = "pool_hours"
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime, primary_key=True)
    available_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    allocated_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    waiting_bookings: Mapped[int]
    waiting_gpus: Mapped[int]
    __table_args__ = (sa.Index("ix_pool_hours_at", "at"),)
