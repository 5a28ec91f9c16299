"""What a feed shows: bookings with a time, and a pool's maintenance."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, visible
from ..bookings.models import Booking
from ..bookings.states import BookingKind, BookingState
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..lifecycle import HistoryEntry
from ..pools.models import Maintenance, Pool
from ..pools.states import MaintenanceState
from ..signin.models import User
from ..signin.queries import hash_token
from .models import Feed, FeedKind

PAST = dt.timedelta(days=60)
MOST = 1_000
OFF = frozenset({BookingState.CANCELLED, BookingState.DECLINED, BookingState.LAPSED, BookingState.NO_SHOW})


@dataclass(frozen=True, slots=True)
class Reading:
    """A link in use, and as whom it reads."""

    feed: Feed
    actor: Actor
    language: str


@dataclass(frozen=True, slots=True)
class Event:
    """A booking, or a maintenance window (without `booking_id`). `changes` counts what was written in its history."""

    uid: str
    title: str
    starts_at: dt.datetime
    ends_at: dt.datetime
    pool: str
    changed_at: dt.datetime
    changes: int
    state: str
    off: bool  # cancelled, declined, lapsed, nobody came
    gpus: int = 0
    gpu_seconds: int = 0
    booking_id: int | None = None
    enterprise: Enterprise | None = None  # for the bureau


def find(session: Session, token: str) -> Reading | None:
    """The feed of this token: two queries. None when it is unknown, revoked, or its owner may no longer see it."""
    row = session.execute(
        sa.select(Feed, User.language)
        .join(User, User.id == Feed.user_id)
        .where(Feed.token_hash == hash_token(token), Feed.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    feed: Feed = row[0]
    actor = enterprises.actor_for(session, feed.user_id, feed.enterprise_id)
    needed = Permission.POOL_VIEW if feed.kind is FeedKind.POOL else Permission.BOOKING_VIEW
    if actor is None or actor.enterprise_id != feed.enterprise_id or not actor.may(needed):
        return None
    return Reading(feed, actor, row[1])


def list_feeds(session: Session, by: Actor) -> list[tuple[Feed, Pool | None]]:
    """The actor's links, for the enterprise acted for, newest first."""
    rows = session.execute(
        sa.select(Feed, Pool)
        .outerjoin(Pool, Pool.id == Feed.pool_id)
        .where(Feed.user_id == by.user_id, Feed.enterprise_id == by.enterprise_id)
        .order_by(Feed.revoked_at.is_not(None), Feed.id.desc())
        .limit(50)
    )
    return [(feed, pool) for feed, pool in rows]


def list_events(session: Session, reading: Reading, now: dt.datetime) -> list[Event]:
    """In order of time: three queries at most, however many there are."""
    events = _bookings(session, reading, now)
    if reading.feed.pool_id is not None:
        events += _maintenance(session, reading.feed.pool_id, now)
    return sorted(events, key=lambda event: (event.starts_at, event.uid))


def _bookings(session: Session, reading: Reading, now: dt.datetime) -> list[Event]:
    feed, by = reading.feed, reading.actor
    starts_at = sa.func.coalesce(Booking.started_at, Booking.starts_at, type_=Booking.started_at.type)
    query = visible(
        sa.select(Booking, Pool.name, Enterprise)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id),
        Booking.enterprise_id,
        by,
    ).where(starts_at > now - PAST)
    if feed.kind is FeedKind.PERSON:
        query = query.where(Booking.submitted_by == feed.user_id)
    elif feed.kind is FeedKind.POOL:
        query = query.where(Booking.pool_id == feed.pool_id)
    rows = session.execute(query.order_by(Booking.id.desc()).limit(MOST)).all()
    changes = {
        id: (number, changed_at)
        for id, number, changed_at in session.execute(
            sa.select(HistoryEntry.subject_id, sa.func.count(), sa.func.max(HistoryEntry.at))
            .where(HistoryEntry.kind == Booking.LIFE.kind, HistoryEntry.subject_id.in_([row[0].id for row in rows]))
            .group_by(HistoryEntry.subject_id)
        )
    }
    return [
        _event(booking, pool, enterprise if by.is_bureau else None, *changes[booking.id])
        for booking, pool, enterprise in rows
    ]


def _event(booking: Booking, pool: str, enterprise: Enterprise | None, changes: int, changed_at: dt.datetime) -> Event:
    """A fixed booking has its window, one as soon as possible the time that it ran, or may run at most."""
    starts_at, ends_at = booking.starts_at, booking.ends_at
    if booking.kind is not BookingKind.FIXED or starts_at is None or ends_at is None:
        starts_at = booking.started_at or booking.submitted_at
        ends_at = booking.ended_at or starts_at + dt.timedelta(seconds=booking.longest_seconds)
    return Event(
        uid=f"booking-{booking.id}",
        title=booking.title,
        starts_at=starts_at,
        ends_at=max(ends_at, starts_at),
        pool=pool,
        changed_at=changed_at,
        changes=changes,
        state=str(booking.state),
        off=booking.state in OFF,
        gpus=booking.gpus,
        gpu_seconds=booking.gpus * booking.longest_seconds,
        booking_id=booking.id,
        enterprise=enterprise,
    )


def _maintenance(session: Session, pool_id: int, now: dt.datetime) -> list[Event]:
    rows = session.execute(
        sa.select(Maintenance, Pool.name, sa.func.count(HistoryEntry.id), sa.func.max(HistoryEntry.at))
        .join(Pool, Pool.id == Maintenance.pool_id)
        .join(
            HistoryEntry,
            sa.and_(HistoryEntry.kind == Maintenance.LIFE.kind, HistoryEntry.subject_id == Maintenance.id),
        )
        .where(Maintenance.pool_id == pool_id, Maintenance.ends_at > now - PAST)
        .group_by(Maintenance.id, Pool.name)
        .order_by(Maintenance.id.desc())
        .limit(MOST)
    )
    return [
        Event(
            uid=f"maintenance-{window.id}",
            title=window.reason,
            starts_at=window.starts_at,
            ends_at=window.ends_at,
            pool=pool,
            changed_at=changed_at,
            changes=changes,
            state=str(window.state),
            off=window.state is not MaintenanceState.PLANNED,
        )
        for window, pool, changes, changed_at in rows
    ]
