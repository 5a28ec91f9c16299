"""Up to when everything that ran is metered: the stamp on each page that shows usage."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, visible
from ..bookings.models import Attempt, Booking

LATE_HOURS = 2  # full hours that may be missing before the page says so


@dataclass(frozen=True, slots=True)
class Freshness:
    """All use before `metered_until` is metered and charged. `missing_since`: that instant, when it is too long ago."""

    metered_until: dt.datetime
    missing_since: dt.datetime | None


def freshness(session: Session, by: Actor, now: dt.datetime, enterprise_id: int | None = None) -> Freshness:
    """Of one enterprise, or of all that the actor may see. What runs is metered by the full hour."""
    query = (
        sa.select(sa.func.min(Attempt.metered_until_at))
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(Attempt.metered_whole == sa.false(), Attempt.granted_at.is_not(None))
    )
    if enterprise_id is not None:
        query = query.where(Booking.enterprise_id == enterprise_id)
    oldest = session.scalar(visible(query, Booking.enterprise_id, by))
    hour = clock.floor_hour(now)
    until = hour if oldest is None else min(hour, oldest)
    return Freshness(until, until if hour - until >= LATE_HOURS * clock.HOUR else None)
