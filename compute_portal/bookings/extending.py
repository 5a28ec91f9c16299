"""More time at the end of a fixed booking: paid for, or in place of time that the city lost."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, must_see, require
from ..db import lock
from ..enterprises import notify
from ..ledger import service as ledger
from ..ledger.queries import balance
from ..lifecycle import note_event
from ..policy import BookingPolicy
from ..pools import queries as pool_queries
from ..pools.availability import Availability, Placement
from ..pools.models import Occupancy
from ..pools.prices import cost
from ..sentences import Refusal, Sentence
from . import ends, prices, service
from .models import Attempt, Booking, BookingPrice, Extension
from .service import BookingRequest
from .states import BookingKind, BookingState

MAY_GO_ON = frozenset({BookingState.CONFIRMED, BookingState.STARTING, BookingState.RUNNING})


@dataclass(frozen=True, slots=True)
class Longer:
    """What an extension is and costs. GPU-seconds, micro-yuan before tax."""

    ends_at: dt.datetime
    gpu_seconds: int
    amount_micro_yuan: int
    left_after: int


def opens_at(booking: Booking, policy: BookingPolicy) -> dt.datetime | None:
    """From when it may be extended; None for a booking without a window or one that cannot go on."""
    if booking.kind is not BookingKind.FIXED or booking.state not in MAY_GO_ON or booking.ends_at is None:
        return None
    return booking.ends_at - policy.extend_within_hours * clock.HOUR


def quote_extension(
    session: Session, booking_id: int, end: dt.datetime, *, by: Actor, policy: BookingPolicy, now: dt.datetime
) -> Longer:
    """What it would cost to go on until `end`. Reads only; raises the same Refusals as `extend`."""
    require(by, Permission.BOOKING_EXTEND)
    booking = must_see(session.get(Booking, booking_id), by)
    return _check(session, booking, end, policy, by, now)[0]


def extend(
    session: Session,
    booking_id: int,
    end: dt.datetime,
    *,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
    agreed_micro_yuan: int | None = None,
) -> Extension:
    """In its last hours a fixed booking goes on until `end`, on its own GPUs, if nobody else has them.

    Raises Refusal at `ends_at`; "price-changed" when it is not what the person saw.
    """
    require(by, Permission.BOOKING_EXTEND)
    booking = service.locked(session, booking_id, by)
    longer, overdraft_most = _check(session, booking, end, policy, by, now)
    if agreed_micro_yuan is not None and agreed_micro_yuan != longer.amount_micro_yuan:
        raise Refusal(Sentence("price-changed", before=agreed_micro_yuan, after=longer.amount_micro_yuan), "ends_at")
    return _go_on(session, booking, end, longer.gpu_seconds, overdraft_most, free=False, by=by, now=now)


def _check(
    session: Session, booking: Booking, end: dt.datetime, policy: BookingPolicy, by: Actor, now: dt.datetime
) -> tuple[Longer, int]:
    """Every rule of an extension; what it is and costs, and how far the allocation may be overdrawn for it."""
    opens = opens_at(booking, policy)
    if opens is None or booking.starts_at is None or booking.ends_at is None:
        raise Refusal(Sentence("cannot-be-extended"), "ends_at")
    start = booking.ends_at
    if now < opens:
        raise Refusal(Sentence("extend-later", n=policy.extend_within_hours, at=opens), "ends_at")
    if now > start - dt.timedelta(minutes=policy.extend_until_minutes):
        raise Refusal(Sentence("extend-too-late", n=policy.extend_until_minutes), "ends_at")
    if end != clock.floor_hour(end):
        raise Refusal(Sentence("on-the-hour"), "ends_at")
    if end <= start:
        raise Refusal(Sentence("extend-after-end", end=start), "ends_at")
    if end - booking.starts_at > dt.timedelta(days=policy.fixed_longest_days):
        raise Refusal(Sentence("window-too-long", n=policy.fixed_longest_days), "ends_at")
    asked = BookingRequest(
        allocation_id=booking.allocation_id,
        kind=BookingKind.FIXED,
        title=booking.title,
        gpus=booking.gpus,
        starts_at=start,
        ends_at=end,
    )
    more = service.check_more_time(session, asked, by=by, now=now)
    availability = pool_queries.load_availability(session, more.pool, now)
    until = _free_until(availability, _places(session, booking), start, end)
    if until < end:
        left = availability.room(int(start.timestamp()), int((clock.floor_hour(until) + clock.HOUR).timestamp()))
        if left < booking.gpus:
            raise Refusal(Sentence("extend-no-power", asked=booking.gpus, free=left, at=until), "ends_at")
        told = "extend-no-room" if until == start else "extend-room-until"
        raise Refusal(Sentence(told, at=until), "ends_at")
    most = availability.capacity * policy.fixed_share_percent // 100
    fixed = availability.peak_fixed(int(start.timestamp()), int(end.timestamp()))
    if fixed + booking.gpus > most:
        raise Refusal(
            Sentence(
                "fixed-share-full", percent=policy.fixed_share_percent, most=most, fixed=fixed, asked=booking.gpus
            ),
            "ends_at",
        )
    book = pool_queries.price_book(session, booking.pool_id)
    stretches = book.stretches(start, end, size_class=more.size_class, programme_id=more.programme_id)
    needed = booking.gpus * asked.seconds
    have = balance(session, booking.allocation_id)
    available = have.available + max(0, more.overdraft_most - have.overdraft)
    if needed > available:
        raise Refusal(Sentence("needs-more-hours", needed=needed, available=available), "ends_at")
    return Longer(end, needed, cost(stretches, booking.gpus), have.available - needed), more.overdraft_most


def _places(session: Session, booking: Booking) -> Placement:
    """Its GPUs at its end. Refusal("extend-after-hand-back") where the prices that were frozen go on after that."""
    priced_until = sa.select(sa.func.max(BookingPrice.ends_at)).where(BookingPrice.booking_id == booking.id)
    rows = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask, priced_until.scalar_subquery()).where(
            Occupancy.booking_id == booking.id,
            Occupancy.released_at.is_(None),
            Occupancy.ends_at == booking.ends_at,
        )
    ).all()
    assert booking.ends_at is not None
    if rows and rows[0][2] is not None and rows[0][2] > booking.ends_at:
        raise Refusal(Sentence("extend-after-hand-back"), "ends_at")
    return tuple((node_id, mask) for node_id, mask, _until in rows)


def _free_until(availability: Availability, places: Placement, start: dt.datetime, end: dt.datetime) -> dt.datetime:
    """Until which full hour nobody else has these GPUs, and there is power for them."""
    until = start
    while places and until < end:
        step = min(end, clock.floor_hour(until) + clock.HOUR)
        if not availability.are_free(places, int(start.timestamp()), int(step.timestamp())):
            break
        until = step
    return until


def _go_on(
    session: Session,
    booking: Booking,
    end: dt.datetime,
    to_hold: int,
    overdraft_most: int,
    *,
    free: bool,
    by: Actor,
    now: dt.datetime,
) -> Extension:
    assert booking.ends_at is not None
    start = booking.ends_at
    number = session.scalar(sa.select(sa.func.count()).where(Extension.booking_id == booking.id)) or 0
    extension = Extension(
        booking_id=booking.id,
        number=number + 1,
        starts_at=start,
        ends_at=end,
        gpu_seconds=booking.gpus * clock.seconds_between(start, end),
        free=free,
        by_id=by.user_id,
        at=now,
    )
    session.add(extension)
    session.flush()
    ledger.hold(
        session,
        booking.allocation_id,
        to_hold,
        reference=f"booking:{booking.id}:hold:{extension.number}",
        at=now,
        by=by,
        overdraft_most=overdraft_most,
    )
    booking.held_gpu_seconds += to_hold
    if booking.tariff_id is not None:
        prices.freeze(session, booking, start, end)
    ends.move_end(session, pool_queries.get_pool(session, booking.pool_id), booking, end, by=by, now=now)
    why = Sentence("made-up-until" if free else "extended-until", at=end, hours=extension.gpu_seconds)
    note_event(session, booking, verb="make_up" if free else "extend", at=now, by=by, why=why)
    notify.send_to_members(
        session,
        booking.enterprise_id,
        about=Sentence("told-made-up" if free else "told-extended", number=booking.id, at=end),
        link=f"/bookings/{booking.id}",
        key=f"extended:{extension.id}",
        now=now,
    )
    return extension


# -- time that the city lost ------------------------------------------------------------------------------------------


def lost_seconds(session: Session, booking: Booking, policy: BookingPolicy) -> int:
    """How much of its window a fixed booking lost by a late or a second start, and was not offered again yet."""
    if booking.kind is not BookingKind.FIXED or booking.starts_at is None or booking.started_at is None:
        return 0
    late = clock.seconds_between(booking.starts_at, booking.started_at)
    if late < policy.late_start_minutes * 60:
        return 0
    given = session.scalar(sa.select(sa.func.count()).where(Extension.booking_id == booking.id, Extension.free))
    return 0 if given else late


def make_up(session: Session, booking_id: int, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Extension:
    """The owner takes the lost time at the end of the window, free of charge, if nobody else has the GPUs.

    Lost time was never charged; the time in its place is metered like all other and credited when it is over.
    """
    require(by, Permission.BOOKING_EXTEND)
    booking = service.locked(session, booking_id, by)
    lost = lost_seconds(session, booking, policy)
    if not lost or booking.state is not BookingState.RUNNING or booking.ends_at is None:
        raise Refusal(Sentence("nothing-to-make-up"))
    # Records are cut at full hours: a window that ends between two would share one with what is paid for.
    if booking.ends_at != clock.floor_hour(booking.ends_at) or now >= booking.ends_at:
        raise Refusal(Sentence("nothing-to-make-up"))
    end = booking.ends_at + dt.timedelta(seconds=lost)
    allocation = service.allocation_of(session, booking)
    availability = pool_queries.load_availability(session, pool_queries.get_pool(session, booking.pool_id), now)
    places = _places(session, booking)
    if end > allocation.ends_at or _free_until(availability, places, booking.ends_at, end) < end:
        raise Refusal(Sentence("no-room-to-make-up", at=end))
    metered_until = session.scalar(
        sa.select(Attempt.metered_until_at).where(Attempt.booking_id == booking.id, Attempt.outcome.is_(None))
    )
    to_come = booking.gpus * clock.seconds_between(metered_until or booking.starts_at or now, booking.ends_at)
    spare = max(0, booking.held_gpu_seconds - to_come)
    needed = max(0, booking.gpus * lost - spare)
    return _go_on(session, booking, end, needed, 0, free=True, by=by, now=now)


def settle_free(session: Session, extension_id: int, *, now: dt.datetime) -> Extension | None:
    """Mark a free extension as settled; None when it was, or when not all of it is metered yet."""
    extension = lock(session, Extension, extension_id)
    if extension is None or not extension.free or extension.credited_at is not None:
        return None
    open_ones = session.scalar(
        sa.select(sa.func.count()).where(Attempt.booking_id == extension.booking_id, Attempt.metered_whole.is_(False))
    )
    if open_ones:
        return None
    extension.credited_at = now
    session.flush()
    return extension


def list_free_to_settle(session: Session, now: dt.datetime) -> list[int]:
    return list(
        session.scalars(
            sa.select(Extension.id)
            .where(Extension.free, Extension.credited_at.is_(None), Extension.ends_at <= now)
            .order_by(Extension.id)
        )
    )
