"""No-shows that count: when they pause an enterprise's fixed bookings, and waiving one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..db import lock
from ..enterprises import notify
from ..lifecycle import note_event
from ..policy import BookingPolicy
from ..sentences import NotFound, Refusal, Sentence
from .models import Booking, Strike


def paused_until(session: Session, enterprise_id: int, policy: BookingPolicy, now: dt.datetime) -> dt.datetime | None:
    """Until when the enterprise may book no fixed hours; None when it may."""
    days = policy.strikes_days + policy.strikes_pause_days
    at = session.scalars(
        sa.select(Strike.at)
        .where(
            Strike.enterprise_id == enterprise_id,
            Strike.waived_at.is_(None),
            Strike.at > now - dt.timedelta(days=days),
        )
        .order_by(Strike.at)
    ).all()
    until = pause_of(at, policy)
    return until if until is not None and until > now else None


def pause_of(strikes: Sequence[dt.datetime], policy: BookingPolicy) -> dt.datetime | None:
    """The end of the last pause that these strikes, in order of time, have brought about."""
    within = dt.timedelta(days=policy.strikes_days)
    pause = dt.timedelta(days=policy.strikes_pause_days)
    until = None
    for first, last in zip(strikes, strikes[policy.strikes_most - 1 :], strict=False):
        if last - first <= within:
            until = last + pause
    return until


def strike(session: Session, booking: Booking, *, now: dt.datetime) -> None:
    """This booking was a no-show."""
    session.add(Strike(booking_id=booking.id, enterprise_id=booking.enterprise_id, at=now))
    session.flush()


def waive(session: Session, strike_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Strike:
    """It counts no longer. The charge stays: finance corrects that where it was wrong. Twice changes nothing."""
    require(by, Permission.STRIKE_WAIVE)
    row = lock(session, Strike, strike_id)
    if row is None:
        raise NotFound
    if not reason.strip():
        raise Refusal(Sentence("waiver-needs-reason"), "reason")
    if row.waived_at is None:
        row.waived_at, row.waived_by, row.waived_because = now, by.user_id, reason.strip()
        session.flush()
        booking = session.get_one(Booking, row.booking_id)
        note_event(session, booking, verb="waive", at=now, by=by, note=reason.strip())
        notify.send_to_members(
            session,
            row.enterprise_id,
            about=Sentence("told-waived", number=row.booking_id),
            link=f"/bookings/{row.booking_id}",
            key=f"waived:{row.id}",
            now=now,
        )
    return row
