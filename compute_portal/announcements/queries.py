"""What is announced to whom."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Role
from ..lifecycle import HistoryEntry
from .models import Announcement
from .states import EVERYBODY, LIFE, PUBLIC, AnnouncementState

KEPT = dt.timedelta(seconds=30)


def every_announcement() -> sa.Select[Announcement]:
    """Newest first."""
    return sa.select(Announcement).order_by(Announcement.id.desc())


def list_coming(session: Session, now: dt.datetime) -> list[Announcement]:
    """What is shown now or will be."""
    return list(
        session.scalars(
            sa.select(Announcement)
            .where(Announcement.state == AnnouncementState.PUBLISHED, Announcement.until_at > now)
            .order_by(Announcement.from_at, Announcement.id)
            .limit(50)
        )
    )


def is_for(announcement: Announcement, roles: frozenset[Role] | None) -> bool:
    """`roles` of who reads; None before signing in."""
    meant = set(announcement.audience)
    if PUBLIC in meant:
        return True
    return roles is not None and (EVERYBODY in meant or bool(meant & {str(role) for role in roles}))


@dataclass
class Board:
    """What a process shows on every page, read again after half a minute: no page pays a query for it meanwhile."""

    read_at: dt.datetime | None = None
    rows: Sequence[Announcement] = field(default=())

    def is_old(self, now: dt.datetime) -> bool:
        return self.read_at is None or not self.read_at <= now < self.read_at + KEPT

    def fill(self, rows: Sequence[Announcement], now: dt.datetime) -> None:
        self.rows, self.read_at = rows, now

    def forget(self) -> None:
        self.read_at = None

    def shown(self, roles: frozenset[Role] | None, now: dt.datetime) -> list[Announcement]:
        return [row for row in self.rows if row.from_at <= now < row.until_at and is_for(row, roles)]


def list_withdrawn(session: Session, ids: Sequence[int]) -> dict[int, HistoryEntry]:
    """Who withdrew which of these, and when."""
    rows = session.scalars(
        sa.select(HistoryEntry).where(
            HistoryEntry.kind == LIFE.kind, HistoryEntry.subject_id.in_(ids), HistoryEntry.verb == "withdraw"
        )
    )
    return {row.subject_id: row for row in rows}
