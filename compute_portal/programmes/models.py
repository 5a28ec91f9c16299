"""City schemes: a period, a pool of GPU-hours in the ledger, the compute pools they open, and shares."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base


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
