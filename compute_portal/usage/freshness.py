"""Up to when everything that ran is metered: the stamp on each page that shows usage."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, sees_all
from ..bookings.models import Attempt, Booking
from ..bookings.states import BookingState

LATE_HOURS = 2  # full hours that may be missing before the page says so


@dataclass(frozen=True, slots=True)
class Freshness:
    """All use before `metered_until` is metered and charged. `missing_since`: that instant, when it is too long ago."""

    metered_until: dt.datetime
    missing_since: dt.datetime | None


_OLDEST = (
    sa.select(sa.func.min(Attempt.metered_until_at))
    .join(Booking, Booking.id == Attempt.booking_id)
    .where(Attempt.metered_whole == sa.false(), Attempt.granted_at.is_not(None))
)
# What is settled was metered whole before: without it an index leads to the few that are not.
_OLDEST_OF_ONE = _OLDEST.where(
    Booking.enterprise_id == sa.bindparam("enterprise_id"),
    Booking.state.in_(set(BookingState) - {BookingState.SETTLED}),
)


def freshness(session: Session, by: Actor, now: dt.datetime, enterprise_id: int | None = None) -> Freshness:
    """Of one enterprise, or of all that the actor may see. What runs is metered by the full hour."""
    hour = clock.floor_hour(now)
    only = by.enterprise_id if enterprise_id is None and not sees_all(by) else enterprise_id
    if only is None:
        oldest = session.connection().scalar(_OLDEST)
    elif sees_all(by) or by.enterprise_id == only:
        oldest = session.connection().scalar(_OLDEST_OF_ONE, {"enterprise_id": only})
    else:
        oldest = None
    until = hour if oldest is None else min(hour, oldest)
    return Freshness(until, until if hour - until >= LATE_HOURS * clock.HOUR else None)
