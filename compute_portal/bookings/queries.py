"""Bookings for pages: one booking with all that its page shows, and paged lists."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, must_see, visible
from ..enterprises.models import Enterprise
from ..pools.models import Pool
from .models import Attempt, Booking, Standing
from .states import NOT_STARTED, ON_THE_CLUSTER, BookingState

PAGE = 25
ENDED = frozenset(BookingState) - NOT_STARTED - ON_THE_CLUSTER
TABS: dict[str, frozenset[BookingState]] = {"current": ON_THE_CLUSTER, "upcoming": NOT_STARTED, "ended": ENDED}


@dataclass(frozen=True, slots=True)
class BookingRow:
    booking: Booking
    pool: Pool
    enterprise: Enterprise
    standing: Standing | None


def get_booking(session: Session, booking_id: int, by: Actor) -> Booking:
    return must_see(session.get(Booking, booking_id), by)


def _joined() -> sa.Select[Booking, Pool, Enterprise, Standing]:
    return (
        sa.select(Booking, Pool, Enterprise, Standing)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id)
        .outerjoin(Standing, Standing.booking_id == Booking.id)
    )


def list_bookings(session: Session, by: Actor, *, states: frozenset[BookingState], page: int = 1) -> list[BookingRow]:
    query = visible(_joined().where(Booking.state.in_(states)), Booking.enterprise_id, by)
    rows = session.execute(query.order_by(Booking.id.desc()).limit(PAGE).offset((page - 1) * PAGE))
    return [BookingRow(*row) for row in rows]


def count_by_tab(session: Session, by: Actor) -> dict[str, int]:
    """How many are current, upcoming, ended: one query."""
    rows = session.execute(
        visible(sa.select(Booking.state, sa.func.count()).group_by(Booking.state), Booking.enterprise_id, by)
    ).all()
    return {tab: sum(n for state, n in rows if state in states) for tab, states in TABS.items()}


def list_to_approve(session: Session, limit: int = PAGE) -> list[BookingRow]:
    """Bookings above a programme's threshold that wait for an operator, oldest first."""
    rows = session.execute(_joined().where(Booking.state == BookingState.SUBMITTED).order_by(Booking.id).limit(limit))
    return [BookingRow(*row) for row in rows]


def list_attempts(session: Session, booking_id: int) -> list[Attempt]:
    return list(session.scalars(sa.select(Attempt).where(Attempt.booking_id == booking_id).order_by(Attempt.id)))


def find_standing(session: Session, booking_id: int) -> Standing | None:
    return session.get(Standing, booking_id)
