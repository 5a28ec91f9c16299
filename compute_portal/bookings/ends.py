"""Moving the end of a fixed booking that is confirmed or runs: its row, its GPUs, and what the engine is told.

The pool, the allocation and the booking are locked by the caller.
"""

from __future__ import annotations

import datetime as dt
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor
from ..db import UtcDateTime
from ..pools import service as pools
from ..pools.models import Occupancy, Pool
from ..pools.states import InstructionVerb
from .fees import Taken
from .models import Attempt, Booking

_TOLD = (
    sa.update(cast(sa.Table, Attempt.__table__))
    .where(Attempt.booking_id == sa.bindparam("this_booking"), Attempt.outcome.is_(None))
    .values(
        until_at=sa.case((Attempt.until_at.is_not(None), sa.bindparam("until", type_=UtcDateTime())), else_=None),
        warned_minutes=None,
    )
)


def places_of(session: Session, booking: Booking) -> list[Taken]:
    """The GPUs that it has at the end of its window."""
    rows = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask, Occupancy.starts_at, Occupancy.ends_at)
        .where(
            Occupancy.booking_id == booking.id,
            Occupancy.released_at.is_(None),
            Occupancy.starts_at < booking.ends_at,
            Occupancy.ends_at == booking.ends_at,
        )
        .order_by(Occupancy.node_id, Occupancy.gpu_mask)
    )
    return [Taken(*row) for row in rows]


def move_end(session: Session, pool: Pool, booking: Booking, end: dt.datetime, *, by: Actor, now: dt.datetime) -> None:
    """Sooner: its GPUs are planned for others from there. Later: it keeps those it has; they must be free."""
    assert booking.starts_at is not None and booking.ends_at is not None
    before = booking.ends_at
    booking.ends_at = end
    booking.longest_seconds = clock.seconds_between(booking.starts_at, end)
    session.flush()
    if end < before:
        pools.end_occupancies(session, {booking.id: end})
    else:
        session.execute(
            sa.update(Occupancy)
            .where(Occupancy.booking_id == booking.id, Occupancy.released_at.is_(None), Occupancy.ends_at == before)
            .values(ends_at=end)
        )
    if booking.under_way:
        session.execute(_TOLD, {"this_booking": booking.id, "until": end})
        pools.ask(session, InstructionVerb.MOVE_END, "booking", booking.id, why=None, by=by, now=now)
    pools.changed(session, pool)
