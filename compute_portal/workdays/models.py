"""The table of working days. Rows are never changed: what is set later is a new row, and the newest one counts."""

from __future__ import annotations

import datetime as dt
import enum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class DayKind(enum.StrEnum):
    OFF = "off"
    WORKED = "worked"
    ORDINARY = "ordinary"  # as its weekday says: takes back what was set before


class SpecialDay(Base):
    """A day on which the week's rule does not hold. Append-only; of several rows of a day the newest counts."""

    __tablename__ = "special_days"
    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[dt.date] = mapped_column(index=True)
    kind: Mapped[DayKind] = mapped_column(enum_type(DayKind, "kind"))
    name: Mapped[str] = mapped_column(sa.String(40))
    name_en: Mapped[str | None] = mapped_column(sa.String(60))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))


class WorkYear(Base):
    """A year of the table with its office hours. Append-only; of several rows of a year the newest counts."""

    __tablename__ = "work_years"
    id: Mapped[int] = mapped_column(primary_key=True)
    year: Mapped[int]
    opens_minute: Mapped[int]  # since midnight in Shanghai
    closes_minute: Mapped[int]
    provisional: Mapped[bool]  # the State Council has not said yet which weekends are shifted
    source: Mapped[str] = mapped_column(sa.String(200))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (
        sa.CheckConstraint("opens_minute >= 0 AND closes_minute <= 1440 AND opens_minute < closes_minute", name="open"),
    )
