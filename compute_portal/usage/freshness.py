"""Up to when everything that ran is metered, the stamp on each page that shows usage; and since when there is any."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, sees_all
from ..bookings.models import Attempt, Booking
from ..bookings.states import BookingState
from .models import UsageRecord

NOBODY = 0
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
    whose = _whose(by, enterprise_id)
    if whose == NOBODY:
        return _fresh(None, now)
    return _fresh(session.connection().scalar(_OLDEST if whose is None else _OLDEST_OF_ONE, _asked(whose)), now)


_DAYS = sa.select(sa.func.min(UsageRecord.day_on), sa.func.max(UsageRecord.day_on))
_SPAN = _DAYS.add_columns(_OLDEST.scalar_subquery())
_SPAN_OF_ONE = _DAYS.add_columns(_OLDEST_OF_ONE.scalar_subquery()).where(
    UsageRecord.enterprise_id == sa.bindparam("enterprise_id")
)


@dataclass(frozen=True, slots=True)
class Span:
    """The first and the last month with usage, None where nothing was used, and up to when it is metered."""

    first_month: str | None
    last_month: str | None
    fresh: Freshness


def span(session: Session, by: Actor, now: dt.datetime, enterprise_id: int | None = None) -> Span:
    """Of one enterprise, or of all that the actor may see: one query."""
    whose = _whose(by, enterprise_id)
    if whose == NOBODY:
        return Span(None, None, _fresh(None, now))
    statement = _SPAN if whose is None else _SPAN_OF_ONE
    first, last, oldest = session.connection().execute(statement, _asked(whose)).one()
    return Span(first and f"{first:%Y-%m}", last and f"{last:%Y-%m}", _fresh(oldest, now))


def _whose(by: Actor, enterprise_id: int | None) -> int | None:
    """Whose usage this is about: an enterprise's, everybody's (None), or NOBODY's where it is not the actor's own."""
    if sees_all(by):
        return enterprise_id
    own = by.enterprise_id or NOBODY
    return own if enterprise_id in (None, own) else NOBODY


def _asked(whose: int | None) -> dict[str, int]:
    return {} if whose is None else {"enterprise_id": whose}


def _fresh(oldest: dt.datetime | None, now: dt.datetime) -> Freshness:
    hour = clock.floor_hour(now)
    until = hour if oldest is None else min(hour, oldest)
    return Freshness(until, until if hour - until >= LATE_HOURS * clock.HOUR else None)
