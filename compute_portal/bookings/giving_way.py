"""Fixed bookings whose cards are no longer to be had: they go elsewhere for the same hours, or others give way.

A node fails. Shortly before the hours of a fixed booking on it begin, the booking is moved to free cards. Where there
are none, flexible bookings give way, which is the engine's (it knows what runs). Where that is not enough either, fixed
bookings that were confirmed later and have not started are moved, the latest first, and cancelled free of charge where
nothing else fits. What runs or ran on fixed hours is never touched: then the booking itself is the one that waits, and
pays nothing for hours that it does not get. One whose node fails while it runs is the engine's, which knows until when
it had its cards.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM
from ..db import UtcDateTime, lock
from ..enterprises import notify
from ..lifecycle import HistoryEntry, note_event
from ..pools import queries as pool_queries
from ..pools import service as pools
from ..pools.availability import Availability, Placement
from ..pools.models import Node, Occupancy, Pool
from ..pools.states import NodeState
from ..sentences import Sentence
from . import service
from .models import Attempt, Booking
from .states import BookingKind, BookingState

LEAD = dt.timedelta(minutes=15)  # a node may come back; so long before the hours begin nobody waits for that any more
CONFIRMED_AT = (
    sa.select(sa.func.max(HistoryEntry.at))
    .where(
        HistoryEntry.kind == Booking.LIFE.kind,
        HistoryEntry.subject_id == Booking.id,
        HistoryEntry.after == BookingState.CONFIRMED,
        sa.or_(HistoryEntry.before.is_(None), HistoryEntry.before != BookingState.CONFIRMED),
    )
    .correlate(Booking)
    .scalar_subquery()
)
# It had cards before: those keep their rows until access to them is taken back.
HAD_CARDS = sa.exists().where(Attempt.booking_id == Booking.id, Attempt.placed_at.is_not(None))


def list_stranded(session: Session, now: dt.datetime) -> list[int]:
    """Confirmed bookings whose hours begin soon, or have begun without them, on a node that is not up. One query."""
    return list(
        session.scalars(
            sa.select(Booking.id)
            .join(Occupancy, Occupancy.booking_id == Booking.id)
            .join(Node, Node.id == Occupancy.node_id)
            .where(
                Node.state != NodeState.UP,
                Occupancy.released_at.is_(None),
                Occupancy.ends_at > now,
                Booking.kind == BookingKind.FIXED,
                Booking.state == BookingState.CONFIRMED,
                Booking.starts_at <= now + LEAD,
                Booking.ends_at > now,
                ~HAD_CARDS,
            )
            .distinct()
            .order_by(Booking.id)
        )
    )


class _Room(NamedTuple):
    """Where a stranded booking goes once `giving` have made room; `at_once`: nothing flexible runs there."""

    placement: Placement
    giving: list[Booking]
    at_once: bool


def make_room(session: Session, booking_id: int, *, now: dt.datetime) -> bool:
    """Other cards for a stranded booking; says whether anything changed. Asked again it changes nothing more."""
    pool = pools.lock_pool(session, session.get_one(Booking, booking_id).pool_id)
    booking = lock(session, Booking, booking_id)
    assert booking is not None and booking.ends_at is not None
    if booking.state is not BookingState.CONFIRMED or booking.ends_at <= now:
        return False
    trial = session.begin_nested()  # what would be free is read from the rows themselves, then they are put back
    room = _find_room(session, pool, booking, now)
    trial.rollback()
    if room is None or not (room.giving or room.at_once):
        return False
    for other in room.giving:
        pools.free(session, other.id, at=now)
    first, last = _hours(booking, now)
    if room.at_once:
        pools.free(session, booking.id, at=now)
        _take(session, pool, booking, room.placement, now, Sentence("moved-for-failure"))
        _tell(
            session,
            booking,
            "told-moved",
            Sentence("moved-for-failure"),
            f"failure:{booking.id}:{int(first.timestamp())}",
            now,
        )
    for other in room.giving:
        move_or_cancel(
            session,
            pool,
            other,
            moved=Sentence("moved-for-failure"),
            cancelled=Sentence("gave-way-to-booking", number=booking.id),
            key=f"gave-way:{other.id}:{booking.id}",
            now=now,
            kept=None if room.at_once else (room.placement, first, last),
        )
    return True


def _find_room(session: Session, pool: Pool, booking: Booking, now: dt.datetime) -> _Room | None:
    """None where nobody can make room for it. Frees what it looks behind: to be rolled back."""
    first, last = (int(instant.timestamp()) for instant in _hours(booking, now))
    pools.free(session, booking.id, at=now)
    later = _list_later(session, booking, now)
    giving: list[Booking] = []
    while True:
        availability = pool_queries.load_availability(session, pool, now)
        placement = availability.place(booking.gpus, first, last)
        if placement is not None:
            return _Room(placement, giving, at_once=True)
        _without_flexible(session, pool, availability, now)
        placement = availability.place(booking.gpus, first, last)
        if placement is not None:
            return _Room(placement, giving, at_once=False)
        if not later:
            return None
        giving.append(later.pop(0))
        pools.free(session, giving[-1].id, at=now)


def _list_later(session: Session, booking: Booking, now: dt.datetime) -> list[Booking]:
    """Fixed bookings in its hours that were confirmed after it and have not started, the latest first."""
    first, last = _hours(booking, now)
    confirmed_at = session.scalar(sa.select(CONFIRMED_AT).where(Booking.id == booking.id).select_from(Booking))
    return list(
        session.scalars(
            sa.select(Booking)
            .where(
                Booking.pool_id == booking.pool_id,
                Booking.kind == BookingKind.FIXED,
                Booking.state == BookingState.CONFIRMED,
                Booking.starts_at < last,
                Booking.ends_at > first,
                ~HAD_CARDS,
                sa.tuple_(CONFIRMED_AT, Booking.id) > sa.tuple_(sa.literal(confirmed_at, UtcDateTime), booking.id),
            )
            .order_by(CONFIRMED_AT.desc(), Booking.id.desc())
            .with_for_update()
        )
    )


def _without_flexible(session: Session, pool: Pool, availability: Availability, now: dt.datetime) -> None:
    """As if nothing flexible ran."""
    rows = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask).where(
            Occupancy.pool_id == pool.id,
            Occupancy.fixed.is_(False),
            Occupancy.starts_at <= now,
            sa.or_(Occupancy.released_at.is_(None), Occupancy.ends_at > now),
        )
    )
    availability.vacate([((node_id, mask),) for node_id, mask in rows], int(now.timestamp()))


def move_or_cancel(
    session: Session,
    pool: Pool,
    booking: Booking,
    *,
    moved: Sentence,
    cancelled: Sentence,
    key: str,
    now: dt.datetime,
    kept: tuple[Placement, dt.datetime, dt.datetime] | None = None,
) -> bool:
    """Other cards for the same hours, not those that are `kept`; else it is cancelled, free of charge. Whether it
    moved. Its own cards are free already; `key` makes sure that its people are told once."""
    first, last = _hours(booking, now)
    availability = pool_queries.load_availability(session, pool, now)
    if kept is not None:
        placement, since, until = kept
        availability.occupy(placement, int(since.timestamp()), int(until.timestamp()))
    found = availability.place(booking.gpus, int(first.timestamp()), int(last.timestamp()))
    if found is not None:
        _take(session, pool, booking, found, now, moved)
    else:
        service.cancel(session, booking.id, by=SYSTEM, now=now, why=cancelled)
    _tell(session, booking, "told-moved" if found else "told-gave-way", moved if found else cancelled, key, now)
    return found is not None


def _take(
    session: Session, pool: Pool, booking: Booking, placement: Placement, now: dt.datetime, why: Sentence
) -> None:
    first, last = _hours(booking, now)
    pools.occupy(session, pool, booking.id, placement, fixed=True, starts_at=first, ends_at=last)
    note_event(session, booking, verb="move", at=now, by=SYSTEM, why=why)
    pools.changed(session, pool)


def _tell(session: Session, booking: Booking, about: str, why: Sentence, key: str, now: dt.datetime) -> None:
    notify.send_to_members(
        session,
        booking.enterprise_id,
        about=Sentence(about, number=booking.id, at=booking.starts_at),
        body=[why],
        link=f"/bookings/{booking.id}",
        key=key,
        now=now,
    )


def _hours(booking: Booking, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """What is left of its window."""
    assert booking.starts_at is not None and booking.ends_at is not None
    return max(booking.starts_at, now), booking.ends_at
