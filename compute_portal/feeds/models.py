"""Calendars that people subscribe to: a secret link each, which can be revoked."""

from __future__ import annotations

import datetime as dt
import enum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type


class FeedKind(enum.StrEnum):
    """Whose bookings it shows: the person's own, the enterprise's, or those in a pool."""

    PERSON = "person"
    ENTERPRISE = "enterprise"
    POOL = "pool"


class Feed(Base):
    """Only the SHA-256 of the link's token is here. It shows what its owner may see at the moment of reading."""

    __tablename__ = "feeds"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    kind: Mapped[FeedKind] = mapped_column(enum_type(FeedKind, "kind"))
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    enterprise_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"))  # acted for; None: the bureau
    pool_id: Mapped[int | None] = mapped_column(sa.ForeignKey("pools.id"))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("(kind = 'pool') = (pool_id IS NOT NULL)", name="pool"),
        sa.CheckConstraint("kind = 'pool' OR enterprise_id IS NOT NULL", name="enterprise"),
    )
