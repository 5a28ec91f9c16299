"""What the bureau tells people on top of every page, from when until when."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, AnnouncementState


class Announcement(Base):
    """In both languages. `audience` is a list of roles, 'everybody' or 'public'. Never changed, only withdrawn."""

    __tablename__ = "announcements"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[AnnouncementState] = mapped_column(enum_type(AnnouncementState, "state"))
    audience: Mapped[list[str]] = mapped_column(sa.JSON)
    text: Mapped[str] = mapped_column(sa.String(600))
    text_en: Mapped[str] = mapped_column(sa.String(600))
    from_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    until_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    published_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    published_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("until_at > from_at", name="order"),
        sa.Index("ix_announcements_state_until_at", "state", "until_at"),
    )
