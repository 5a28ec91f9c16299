"""Quotes, returned hours and strikes for pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, must_see, visible
from ..bookings.models import Booking, Strike
from ..enterprises.models import Enterprise
from .models import CancellationQuote, QuoteKind, ReturnedHours


def find_quote(session: Session, booking: Booking, kind: QuoteKind, now: dt.datetime) -> CancellationQuote | None:
    """The newest promise that still holds."""
    return session.scalars(
        sa.select(CancellationQuote)
        .where(
            CancellationQuote.booking_id == booking.id,
            CancellationQuote.kind == kind,
            CancellationQuote.used_at.is_(None),
            CancellationQuote.expires_at > now,
            CancellationQuote.ends_at == booking.ends_at,
        )
        .order_by(CancellationQuote.id.desc())
        .limit(1)
    ).first()


def list_returned(session: Session, booking_id: int) -> Sequence[ReturnedHours]:
    """What went back of a booking, in order."""
    return session.scalars(
        sa.select(ReturnedHours).where(ReturnedHours.booking_id == booking_id).order_by(ReturnedHours.id)
    ).all()


@dataclass(frozen=True, slots=True)
class StrikeRow:
    strike: Strike
    booking: Booking
    enterprise: Enterprise


def count_strikes(session: Session, by: Actor) -> int:
    return session.scalar(visible(sa.select(sa.func.count(Strike.id)), Strike.enterprise_id, by)) or 0


def get_strike(session: Session, strike_id: int, by: Actor) -> Strike:
    """Raises NotFound."""
    return must_see(session.get(Strike, strike_id), by)


def list_strikes(session: Session, by: Actor, limit: int, offset: int) -> list[StrikeRow]:
    """Newest first; a member sees the own enterprise's."""
    query = visible(
        sa.select(Strike, Booking, Enterprise)
        .join(Booking, Booking.id == Strike.booking_id)
        .join(Enterprise, Enterprise.id == Strike.enterprise_id),
        Strike.enterprise_id,
        by,
    )
    rows = session.execute(query.order_by(Strike.at.desc(), Strike.id.desc()).limit(limit).offset(offset))
    return [StrikeRow(*row) for row in rows]
