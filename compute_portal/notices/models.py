"""Messages waiting to be sent, and read. A notice keeps ids and numbers; words are made when it is shown or sent."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from .topics import Topic, Way


class Delivery(enum.StrEnum):
    """Where a notice is on its way by mail."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"  # refused for good, or given up: `error` says why
    DROPPED = "dropped"  # its receiver may no longer be written to


class Notice(Base):
    """One event told to one receiver: a person, who also finds it in the portal, or a bare address, which gets mail.

    `key` makes the same event one row whatever restarts. A claim pushes `next_try_at` ahead before anything is sent, so
    that a process that dies between sending and marking sends again, under the same Message-ID.
    """

    __tablename__ = "notices"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str | None] = mapped_column(sa.String(160), unique=True)
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    enterprise_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"))  # told as one of its people
    address: Mapped[str | None] = mapped_column(sa.String(254))  # emptied once it is sent
    language: Mapped[str | None] = mapped_column(sa.String(2))  # of a bare address; a person has one already
    about: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    body: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    link: Mapped[str | None] = mapped_column(sa.String(200))  # a path; of a bare address emptied once it is sent
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    read_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    delivery: Mapped[Delivery] = mapped_column(enum_type(Delivery, "delivery"))
    digest: Mapped[bool] = mapped_column(server_default=sa.false())  # it waits for the receiver’s next digest
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    done_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # sent, failed or dropped
    error: Mapped[str | None] = mapped_column(sa.String(300))
    __table_args__ = (
        sa.CheckConstraint("user_id IS NULL OR address IS NULL", name="one_receiver"),
        sa.CheckConstraint("language IN ('zh', 'en')", name="language"),
        sa.CheckConstraint("(delivery = 'waiting') = (done_at IS NULL)", name="done"),
        sa.Index("ix_notices_user_id_id", "user_id", "id"),
        sa.Index("ix_notices_enterprise_id_id", "enterprise_id", "id"),
        sa.Index(
            "ix_notices_unread",
            "user_id",
            sqlite_where=sa.text("read_at IS NULL"),
            postgresql_where=sa.text("read_at IS NULL"),
        ),
        sa.Index(
            "ix_notices_due",
            "next_try_at",
            sqlite_where=sa.text("delivery = 'waiting'"),
            postgresql_where=sa.text("delivery = 'waiting'"),
        ),
        sa.Index(
            "ix_notices_failed",
            "id",
            sqlite_where=sa.text("delivery = 'failed'"),
            postgresql_where=sa.text("delivery = 'failed'"),
        ),
    )


class NoticeChoice(Base):
    """How somebody wants notices of a topic by mail. No row: as `topics.USUAL` says."""

    __tablename__ = "notice_choices"
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    topic: Mapped[Topic] = mapped_column(enum_type(Topic, "topic"), primary_key=True)
    way: Mapped[Way] = mapped_column(enum_type(Way, "way"))
    __table_args__ = (sa.CheckConstraint("topic <> 'account'", name="choosable"),)
