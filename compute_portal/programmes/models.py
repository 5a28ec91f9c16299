"""City schemes: a period, a pool of GPU-hours in the ledger, the compute pools they open, and shares."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime


class Programme(Base):
    __tablename__ = "programmes"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(120), unique=True)
    name_en: Mapped[str | None] = mapped_column(sa.String(120))
    starts_on: Mapped[dt.date]
    ends_on: Mapped[dt.date]  # the last day
    shares: Mapped[int]
    most_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)  # one allocation gets at most this
    booking_approval_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)  # above it an operator decides
    decision_days: Mapped[int]  # published time to decide a request, in days
    __table_args__ = (
        sa.CheckConstraint("ends_on >= starts_on", name="period"),
        sa.CheckConstraint("shares > 0", name="shares"),
    )


class ProgrammePool(Base):
    """A pool whose GPU-hours the programme awards."""

    __tablename__ = "programme_pools"
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"), primary_key=True)
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"), primary_key=True)


class EnterpriseShare(Base):
    """An enterprise's shares under a programme in the fair tree; 1 where there is no row."""

    __tablename__ = "enterprise_shares"
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"), primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True)
    shares: Mapped[int]
    __table_args__ = (sa.CheckConstraint("shares > 0", name="shares"),)


class ProgrammeVersion(Base):
    """The rules of a programme from a day on, as they were made: tracks, rounds, open or closed. Append-only.

    The one in force on a day is the newest of those that begin on or before it. `rules` is `rules.Rules.to_json()`.
    """

    __tablename__ = "programme_versions"
    id: Mapped[int] = mapped_column(primary_key=True)
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"))
    number: Mapped[int]
    from_on: Mapped[dt.date]
    rules: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    why: Mapped[str] = mapped_column(sa.String(400))
    made_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("programme_id", "number"),)


class CardWeight(Base):
    """What a GPU-hour of a pool counts when hours are exchanged under a programme, from a day on. Append-only.

    In thousandths: 1,000 is one. 100 hours at 2,000 become 400 hours at 500.
    """

    __tablename__ = "card_weights"
    id: Mapped[int] = mapped_column(primary_key=True)
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"))
    pool_id: Mapped[int] = mapped_column(sa.ForeignKey("pools.id"))
    from_on: Mapped[dt.date]
    weight_milli: Mapped[int]
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("programme_id", "pool_id", "from_on"),
        sa.CheckConstraint("weight_milli > 0", name="weight"),
    )
