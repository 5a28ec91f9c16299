"""Reading notices: a person's own list, what is due for mail, what could not be delivered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor
from .models import Delivery, Notice, NoticeChoice
from .topics import USUAL, Topic, Way


def own_notices(by: Actor, *, unread_only: bool = False) -> sa.Select[Notice]:
    """Newest first. What went to a bare address is nobody's."""
    query = sa.select(Notice).where(Notice.user_id == by.user_id).order_by(Notice.id.desc())
    return query.where(Notice.read_at.is_(None)) if unread_only else query


def due_ids(session: Session, *, now: dt.datetime, limit: int) -> list[int]:
    """What is to be sent by mail now, longest due first."""
    return list(
        session.scalars(
            sa.select(Notice.id)
            .where(Notice.delivery == Delivery.WAITING, Notice.next_try_at <= now)
            .order_by(Notice.next_try_at, Notice.id)
            .limit(limit)
        )
    )


def due_with(session: Session, user_ids: Iterable[int], *, now: dt.datetime) -> list[int]:
    """All that is due of these people's digests, so that each comes whole."""
    return list(
        session.scalars(
            sa.select(Notice.id).where(
                Notice.user_id.in_(list(user_ids)),
                Notice.digest.is_(True),
                Notice.delivery == Delivery.WAITING,
                Notice.next_try_at <= now,
            )
        )
    )


def ways_of(session: Session, user_ids: Iterable[int]) -> dict[int, dict[Topic, Way]]:
    """How each of these people wants each topic by mail."""
    ids = set(user_ids)
    found = {id: dict(USUAL) for id in ids}
    for choice in session.scalars(sa.select(NoticeChoice).where(NoticeChoice.user_id.in_(ids))):
        found[choice.user_id][choice.topic] = choice.way
    return found


def failed_notices() -> sa.Select[Notice]:
    """Newest first."""
    return sa.select(Notice).where(Notice.delivery == Delivery.FAILED).order_by(Notice.id.desc())


def count_waiting(session: Session, *, now: dt.datetime) -> tuple[int, dt.datetime | None]:
    """How many wait for mail, and since when the oldest does."""
    row = session.execute(
        sa.select(sa.func.count(), sa.func.min(Notice.at)).where(Notice.delivery == Delivery.WAITING)
    ).one()
    oldest: dt.datetime | None = row[1]
    return row[0], oldest
