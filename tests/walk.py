"""Walks bookings down the path by the verbs alone, without a scheduler: hand over, place, let in, end, meter, settle.

It stands in for the cycle and the metering where a test needs what they leave behind, at the instants that the test
wants. How the real ones decide is tested in `tests/scheduler`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import attempts, prices
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import BookingKind
from compute_portal.enterprises.models import Enterprise
from compute_portal.policy import Policy
from compute_portal.pools import queries as pool_queries
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node, Occupancy
from compute_portal.statements import service as statements
from compute_portal.statements.models import Statement
from compute_portal.usage import service as usage
from compute_portal.usage.service import Piece
from tests.cast import Cast

HALF_LIFE_DAYS = 7.0


def start(cast: Cast, booking_id: int, *, at: dt.datetime) -> str:
    """Hand over, place and let in at one instant. Returns the attempt's key."""

    def work(session: Session) -> str:
        booking = session.get_one(Booking, booking_id)
        pool = pools.lock_pool(session, booking.pool_id)
        [hand_over] = attempts.write(session, [booking_id], now=at)
        attempts.record_handed_over(session, {hand_over.key: hand_over.key}, now=at)
        until = booking.ends_at or at + dt.timedelta(seconds=booking.longest_seconds)
        if booking.kind is BookingKind.FLEXIBLE:
            free = pool_queries.load_availability(session, pool, at)
            placement = free.place(booking.gpus, int(at.timestamp()), int(until.timestamp()))
            assert placement is not None, "the test asks for more than the pool has free"
            pools.occupy(session, pool, booking_id, placement, fixed=False, starts_at=at, ends_at=until)
        given = Given(hand_over.key, _nodes(session, booking_id, at), at, until, granted_at=at)
        assert hand_over.key in attempts.placed(session, [given])
        pools.changed(session, pool)
        return hand_over.key

    return cast.database.transaction(work)


def _nodes(session: Session, booking_id: int, at: dt.datetime) -> list[dict[str, Any]]:
    rows = session.execute(
        sa.select(Node.name, Occupancy.gpu_mask)
        .join(Node, Node.id == Occupancy.node_id)
        .where(Occupancy.booking_id == booking_id, Occupancy.released_at.is_(None), Occupancy.ends_at > at)
        .order_by(Node.position)
    )
    return [{"node": name, "gpus": [bit for bit in range(62) if mask >> bit & 1]} for name, mask in rows]


def end(cast: Cast, key: str, *, at: dt.datetime) -> None:
    """Ended, and access taken back at once."""
    cast.database.transaction(lambda s: attempts.ended(s, {key: at}, revoked_at=at))


def _attempt(session: Session, key: str) -> Attempt:
    return session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()


def pieces(session: Session, key: str, *, until: dt.datetime | None = None) -> list[Piece]:
    """What metering would read for an attempt: from where it stands to its end, or `until`."""
    attempt = _attempt(session, key)
    booking = session.get_one(Booking, attempt.booking_id)
    book = pool_queries.price_book(session, booking.pool_id)
    size_class = str(session.get_one(Enterprise, booking.enterprise_id).size_class)
    programme_id = session.get_one(Allocation, booking.allocation_id).programme_id
    frozen = prices.frozen(session, [booking.id]).get(booking.id, [])
    since, stop = attempt.metered_until_at, until or attempt.ended_at
    assert since is not None and stop is not None
    borders = [each.starts_at for each in frozen]
    if not frozen:
        borders = book.borders(since, stop, size_class=size_class, programme_id=programme_id)
    found = []
    for start, end in clock.cut(since, stop, borders):
        point = book.find(start, size_class=size_class, programme_id=programme_id)
        point = prices.point_at(frozen, start) if frozen else point
        assert point is not None
        found.append(
            Piece(
                attempt_id=attempt.id,
                key=key,
                booking_id=booking.id,
                allocation_id=booking.allocation_id,
                pool_id=booking.pool_id,
                user_id=booking.submitted_by,
                gpus=booking.gpus,
                starts_at=start,
                ends_at=end,
                tariff_id=point.tariff_id,
                discount_id=point.discount_id,
                weight_milli=point.weight_milli,
            )
        )
    return found


def meter(cast: Cast, key: str, *, now: dt.datetime, until: dt.datetime | None = None) -> int:
    """Record and charge what is not recorded yet; without `until` to the attempt's end. Returns GPU-seconds charged."""

    def work(session: Session) -> int:
        attempt = _attempt(session, key)
        enterprise_id = session.get_one(Booking, attempt.booking_id).enterprise_id
        whole = frozenset({attempt.id}) if until is None else frozenset[int]()
        found = pieces(session, key, until=until)
        return usage.record(session, enterprise_id, found, whole=whole, half_life_days=HALF_LIFE_DAYS, now=now)

    return cast.database.transaction(work)


def settle(cast: Cast, booking_id: int, *, now: dt.datetime) -> None:
    cast.database.transaction(lambda s: attempts.settle(s, [booking_id], now=now))


def run(cast: Cast, booking_id: int, *, at: dt.datetime, until: dt.datetime) -> str:
    """The whole way from waiting to settled."""
    key = start(cast, booking_id, at=at)
    end(cast, key, at=until)
    meter(cast, key, now=until)
    settle(cast, booking_id, now=until)
    return key


def close(cast: Cast, enterprise_id: int, month: str, policy: Policy, *, now: dt.datetime) -> int:
    def work(session: Session) -> int:
        return statements.close_month(
            session, enterprise_id, month, policy=policy.statements, by=cast.finance, now=now
        ).id

    return cast.database.transaction(work)


def statement(session: Session, statement_id: int) -> Statement:
    return session.get_one(Statement, statement_id)
