"""What happens to a booking at the engine, as told by the scheduler: the verbs of attempts.

Each verb may be called again with the same news: what is already so stays so. That is what makes a crash harmless.
Locks: pool, allocation, booking, in this order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM
from ..allocations.models import Allocation
from ..db import lock
from ..lifecycle import move_to
from ..pools import service as pools
from ..sentences import Sentence
from .models import Attempt, Booking, Standing
from .service import free_slot, give_back
from .states import AttemptOutcome, BookingKind, BookingState


@dataclass(frozen=True, slots=True)
class HandOver:
    """Everything an engine needs to know of one attempt."""

    key: str
    booking_id: int
    pool_id: int
    fixed: bool
    gpus: int
    seconds: int
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    not_before_at: dt.datetime | None
    submitted_at: dt.datetime
    programme_id: int
    enterprise_id: int
    allocation_id: int
    allocation_ends_at: dt.datetime


def list_to_hand_over(session: Session, now: dt.datetime, limit: int = 1000) -> list[int]:
    """Bookings that wait and have no attempt under way: flexible ones at once, fixed ones when their time has come."""
    under_way = sa.exists().where(Attempt.booking_id == Booking.id, Attempt.outcome.is_(None))
    return list(
        session.scalars(
            sa.select(Booking.id)
            .where(
                sa.or_(
                    Booking.state == BookingState.QUEUED,
                    sa.and_(Booking.state == BookingState.CONFIRMED, Booking.starts_at <= now),
                ),
                ~under_way,
            )
            .order_by(Booking.id)
            .limit(limit)
        )
    )


def write(session: Session, booking_ids: Sequence[int], *, now: dt.datetime) -> list[HandOver]:
    """Write the attempts before anything is handed over, so that a crash leaves a key to ask the engine for."""
    written = []
    for booking_id in booking_ids:
        booking = lock(session, Booking, booking_id)
        if booking is None or booking.state not in (BookingState.QUEUED, BookingState.CONFIRMED):
            continue
        booking.tries += 1
        session.add(
            Attempt(
                booking_id=booking.id,
                number=booking.tries,
                key=f"booking-{booking.id}-{booking.tries}",
                written_at=now,
            )
        )
        written.append(booking.id)
    session.flush()
    return _hand_overs(session, Attempt.booking_id.in_(written), Attempt.handed_over_at.is_(None))


def list_unrecorded(session: Session) -> list[HandOver]:
    """Attempts that were written, but of which nobody knows whether the engine got them."""
    return _hand_overs(session, Attempt.handed_over_at.is_(None))


def _hand_overs(session: Session, *which: sa.ColumnElement[bool]) -> list[HandOver]:
    rows = session.execute(
        sa.select(
            Attempt.key, Booking.id, Booking.pool_id, Booking.kind, Booking.gpus, Booking.longest_seconds,
            Booking.starts_at, Booking.ends_at, Booking.not_before_at, Booking.submitted_at, Allocation,
        )
        .join(Booking, Booking.id == Attempt.booking_id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .where(Attempt.outcome.is_(None), *which)
        .order_by(Attempt.id)
    )  # fmt: skip
    return [
        HandOver(
            key, booking_id, pool_id, kind is BookingKind.FIXED, gpus, seconds, starts_at, ends_at, not_before_at,
            submitted_at, allocation.programme_id, allocation.enterprise_id, allocation.id, allocation.ends_at,
        )
        for key, booking_id, pool_id, kind, gpus, seconds, starts_at, ends_at, not_before_at, submitted_at, allocation
        in rows
    ]  # fmt: skip


def record_handed_over(session: Session, references: Mapping[str, str], *, now: dt.datetime) -> None:
    """The engine has these attempts: its reference by our key."""
    for key, reference in references.items():
        session.execute(
            sa.update(Attempt)
            .where(Attempt.key == key, Attempt.handed_over_at.is_(None))
            .values(handed_over_at=now, engine_reference=reference)
        )


def _attempt(session: Session, key: str) -> tuple[Attempt, Booking]:
    """The attempt and its booking, both locked."""
    attempt = session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()
    booking = lock(session, Booking, attempt.booking_id)
    assert booking is not None
    session.refresh(attempt, with_for_update=True)
    return attempt, booking


def placed(session: Session, key: str, *, nodes: list[dict[str, Any]], at: dt.datetime, until: dt.datetime) -> bool:
    """The engine gave it GPUs: queued or confirmed → starting. False if it no longer wants them (cancelled)."""
    attempt, booking = _attempt(session, key)
    if attempt.placed_at is not None:
        return booking.state is BookingState.STARTING
    if booking.state not in (BookingState.QUEUED, BookingState.CONFIRMED):
        return False
    attempt.placed_at, attempt.until_at, attempt.nodes = at, until, nodes
    session.execute(sa.delete(Standing).where(Standing.booking_id == booking.id))
    session.flush()
    gpus = booking.gpus
    move_to(
        session,
        booking,
        BookingState.STARTING,
        verb="place",
        at=at,
        by=SYSTEM,
        why=Sentence("placed-on", n=len(nodes), cards=gpus),
    )
    return True


def granted(session: Session, key: str, *, at: dt.datetime) -> None:
    """Access was given: starting → running. Metering begins here."""
    attempt, booking = _attempt(session, key)
    if attempt.granted_at is not None or booking.state is not BookingState.STARTING:
        return
    attempt.granted_at = attempt.metered_until_at = at
    booking.started_at = at
    session.flush()
    move_to(session, booking, BookingState.RUNNING, verb="start", at=at, by=SYSTEM)


def grant_failed(session: Session, key: str, *, why: Sentence, tries: int, now: dt.datetime) -> None:
    """The access hook said no. After `tries` times the attempt has failed."""
    attempt, booking = _attempt(session, key)
    if booking.state is not BookingState.STARTING:
        return
    attempt.grant_tries += 1
    session.flush()
    if attempt.grant_tries >= tries:
        failed(session, key, why=why, at=now, tries=tries)


def ended(session: Session, key: str, *, at: dt.datetime) -> None:
    """It reached its end or was stopped: → finished. Its GPUs are planned for others from `at`."""
    attempt = session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()
    if attempt.outcome is not None:
        return
    pool = pools.lock_pool(session, session.get_one(Booking, attempt.booking_id).pool_id)
    attempt, booking = _attempt(session, key)
    if attempt.outcome is not None:
        return
    _close(attempt, AttemptOutcome.ENDED, at)
    attempt.metered_whole = attempt.granted_at is None
    if booking.state in (BookingState.STARTING, BookingState.RUNNING, BookingState.STOPPING):
        booking.ended_at = at
        session.flush()
        move_to(session, booking, BookingState.FINISHED, verb="finish", at=at, by=SYSTEM)
    session.flush()
    pools.end_occupancies(session, [booking.id], at=at)
    pools.changed(session, pool)


def withdrawn(session: Session, key: str, *, at: dt.datetime) -> None:
    """Its booking was cancelled before the engine placed it."""
    attempt, _booking = _attempt(session, key)
    if attempt.outcome is None:
        _close(attempt, AttemptOutcome.WITHDRAWN, at)
        attempt.revoked_at = at
        attempt.metered_whole = True
        session.flush()


def failed(session: Session, key: str, *, why: Sentence, at: dt.datetime, tries: int) -> None:
    """The engine or the hook could not give it, or lost it: back to waiting with the reason; the hold stays.

    After `tries` failures the booking is set aside as failed and its hold released.
    """
    attempt = session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()
    first = session.get_one(Booking, attempt.booking_id)
    pool = pools.lock_pool(session, first.pool_id)
    lock(session, Allocation, first.allocation_id)
    attempt, booking = _attempt(session, key)
    if attempt.outcome is not None:
        return
    _close(attempt, AttemptOutcome.FAILED, at)
    attempt.reason = why.to_json()
    attempt.metered_whole = attempt.granted_at is None
    session.flush()
    failures = session.scalar(
        sa.select(sa.func.count())
        .select_from(Attempt)
        .where(Attempt.booking_id == booking.id, Attempt.outcome == AttemptOutcome.FAILED)
    )
    fixed = booking.kind is BookingKind.FIXED
    over = fixed and booking.ends_at is not None and booking.ends_at <= at
    if booking.state is BookingState.STOPPING or int(failures or 0) >= tries or over:
        _set_aside(session, booking, why, at)
    elif booking.state in (BookingState.STARTING, BookingState.RUNNING):
        back = BookingState.CONFIRMED if fixed else BookingState.QUEUED
        move_to(session, booking, back, verb="fail", at=at, by=SYSTEM, why=why)
        if not fixed:
            pools.end_occupancies(session, [booking.id], at=at)
    pools.changed(session, pool)


def _set_aside(session: Session, booking: Booking, why: Sentence, at: dt.datetime) -> None:
    move_to(session, booking, BookingState.FAILED, verb="fail", at=at, by=SYSTEM, why=why)
    booking.ended_at = at
    session.execute(sa.delete(Standing).where(Standing.booking_id == booking.id))
    session.flush()
    pools.end_occupancies(session, [booking.id], at=at)
    if booking.started_at is None:
        give_back(session, booking, now=at, by=SYSTEM)
        free_slot(session, booking, now=at)


def missed(session: Session, booking_id: int, *, now: dt.datetime) -> None:
    """A confirmed window passed without the scheduler: nothing was given, everything goes back."""
    first = session.get_one(Booking, booking_id)
    pools.lock_pool(session, first.pool_id)
    lock(session, Allocation, first.allocation_id)
    booking = lock(session, Booking, booking_id)
    if booking is None or booking.state is not BookingState.CONFIRMED or booking.ends_at is None:
        return
    if booking.ends_at <= now:
        _set_aside(session, booking, Sentence("window-missed"), now)


def _close(attempt: Attempt, outcome: AttemptOutcome, at: dt.datetime) -> None:
    attempt.outcome = outcome
    attempt.ended_at = at


def list_to_revoke(session: Session, limit: int = 1000) -> list[tuple[int, str, int, bool]]:
    """Ended attempts whose access was not taken back yet: (attempt id, key, booking id, was it ever granted)."""
    rows = session.execute(
        sa.select(Attempt.id, Attempt.key, Attempt.booking_id, Attempt.placed_at)
        .where(Attempt.revoked_at.is_(None), Attempt.outcome.is_not(None))
        .order_by(Attempt.id)
        .limit(limit)
    )
    return [(id, key, booking_id, placed_at is not None) for id, key, booking_id, placed_at in rows]


def revoked(session: Session, attempt_ids: Sequence[int], *, at: dt.datetime) -> None:
    """Access is gone: the GPUs may be given to others."""
    for attempt_id in attempt_ids:
        attempt = session.get_one(Attempt, attempt_id)
        attempt.revoked_at = at
        session.flush()
        pools.release_occupancies(session, attempt.booking_id, ended_at=attempt.ended_at or at, at=at)


def revoke_failed(session: Session, attempt_id: int, *, now: dt.datetime) -> None:
    """Access could not be taken back: those GPUs stay out of service, and an operator is told."""
    attempt = session.get_one(Attempt, attempt_id)
    if attempt.revoke_failed_at is None:
        attempt.revoke_failed_at = now
        session.flush()
        booking = session.get_one(Booking, attempt.booking_id)
        pool = pools.lock_pool(session, booking.pool_id)
        pools.withhold_occupancies(session, booking.id, ended_at=attempt.ended_at or now, at=now)
        pools.changed(session, pool)


def list_to_settle(session: Session, limit: int = 1000) -> list[int]:
    """Finished (or failed after running) bookings of which everything is metered."""
    unmetered = sa.exists().where(Attempt.booking_id == Booking.id, Attempt.metered_whole.is_(False))
    return list(
        session.scalars(
            sa.select(Booking.id)
            .where(
                sa.or_(
                    Booking.state == BookingState.FINISHED,
                    sa.and_(Booking.state == BookingState.FAILED, Booking.held_gpu_seconds > 0),
                ),
                ~unmetered,
            )
            .order_by(Booking.id)
            .limit(limit)
        )
    )


def settle(session: Session, booking_id: int, *, now: dt.datetime) -> None:
    """Everything used is charged: the rest of the hold goes back."""
    first = session.get_one(Booking, booking_id)
    lock(session, Allocation, first.allocation_id)
    booking = lock(session, Booking, booking_id)
    if booking is None or booking.state not in (BookingState.FINISHED, BookingState.FAILED):
        return
    rest = booking.held_gpu_seconds
    give_back(session, booking, now=now, by=SYSTEM)
    if booking.state is BookingState.FINISHED:
        why = Sentence("settled-hours", used=booking.charged_gpu_seconds, back=rest)
        move_to(session, booking, BookingState.SETTLED, verb="settle", at=now, by=SYSTEM, why=why)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting booking stands, as the cycle saw it."""

    booking_id: int
    pool_id: int
    place: int | None
    waiting: int | None
    reason: Sentence
    expected_at: dt.datetime | None


def write_standings(session: Session, places: Sequence[Place], *, pool_id: int, now: dt.datetime) -> int:
    """Keep what is unchanged, write what is new or other, drop who no longer waits. Returns how many rows changed."""
    before = {row.booking_id: row for row in session.scalars(sa.select(Standing).where(Standing.pool_id == pool_id))}
    new, changed = [], 0
    for place in places:
        row = before.pop(place.booking_id, None)
        values = {
            "place": place.place,
            "waiting": place.waiting,
            "reason": place.reason.to_json(),
            "expected_at": place.expected_at,
        }
        if row is None:
            new.append({"booking_id": place.booking_id, "pool_id": pool_id, "at": now, **values})
        elif any(getattr(row, name) != value for name, value in values.items()):
            for name, value in values.items():
                setattr(row, name, value)
            row.at = now
            changed += 1
    if new:
        session.execute(sa.insert(Standing), new)
    if before:
        session.execute(sa.delete(Standing).where(Standing.booking_id.in_(before)))
    session.flush()
    return len(new) + changed + len(before)
