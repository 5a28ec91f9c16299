"""Publish an announcement and withdraw it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..lifecycle import begin, move_to
from ..sentences import NotFound, Refusal, Sentence
from .models import Announcement
from .states import AUDIENCE_NAMES, AnnouncementState


@dataclass(frozen=True, slots=True)
class NewAnnouncement:
    audience: tuple[str, ...]
    text: str
    text_en: str
    from_at: dt.datetime
    until_at: dt.datetime


def publish(session: Session, asked: NewAnnouncement, *, by: Actor, now: dt.datetime) -> Announcement:
    """Raises Refusal at `audience` or `until_at`."""
    require(by, Permission.ANNOUNCEMENT_PUBLISH)
    audience = [who for who in AUDIENCE_NAMES if who in asked.audience]
    if not audience:
        raise Refusal(Sentence("announcement-needs-audience"), "audience")
    if asked.until_at <= max(now, asked.from_at):
        raise Refusal(Sentence("announcement-is-over"), "until_at")
    announcement = Announcement(
        state=AnnouncementState.PUBLISHED,
        audience=[str(who) for who in audience],
        text=asked.text.strip(),
        text_en=asked.text_en.strip(),
        from_at=asked.from_at,
        until_at=asked.until_at,
        published_by=by.user_id,
        published_at=now,
    )
    session.add(announcement)
    begin(session, announcement, verb="publish", at=now, by=by)
    return announcement


def withdraw(session: Session, announcement_id: int, *, by: Actor, now: dt.datetime) -> Announcement:
    require(by, Permission.ANNOUNCEMENT_WITHDRAW)
    announcement = session.get(Announcement, announcement_id, with_for_update=True, populate_existing=True)
    if announcement is None:
        raise NotFound
    move_to(session, announcement, AnnouncementState.WITHDRAWN, verb="withdraw", at=now, by=by)
    return announcement
