"""The wait-list: who waits for a full window gets it as an option for a while when it frees, and then the next.

An option keeps named GPUs without hours: availability counts them like a fixed booking. Everything here runs under the
pool's lock, so that what one cancels and another is offered is never given to a third in between.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM, Actor, Permission, must_see, require
from ..allocations.models import Allocation
from ..db import Reader
from ..enterprises import notify
from ..lifecycle import begin, move_to
from ..policy import BookingPolicy
from ..pools import queries as pool_queries
from ..pools import service as pools
from ..pools.availability import Availability, Placement
from ..pools.models import Pool
from ..sentences import Refusal, Sentence
from . import prices, service
from .models import Booking, Waiter
from .service import BookingRequest
from .states import BookingKind, WaiterState

OPEN = (WaiterState.WAITING, WaiterState.OFFERED)
# Refusals of a booking that waiting for may help.
FULL = frozenset({"no-room", "no-room-but-later", "no-power", "no-power-but-later", "fixed-share-full"})


def join(session: Session, asked: BookingRequest, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Waiter:
    """Wait for a fixed window that is full. Every other rule of a booking holds already now."""
    require(by, Permission.BOOKING_WAIT)
    if asked.kind is not BookingKind.FIXED or asked.starts_at is None or asked.ends_at is None:
        raise Refusal(Sentence("only-windows-wait"), "kind")
    allocation = service.check(session, asked, by=by, policy=policy, now=now)
    pool = pools.lock_pool(session, allocation.pool_id)
    mine = session.scalars(
        sa.select(Waiter).where(Waiter.enterprise_id == allocation.enterprise_id, Waiter.state.in_(OPEN))
    ).all()
    if len(mine) >= policy.waiting_most:
        raise Refusal(Sentence("waits-for-enough", most=policy.waiting_most), "starts_at")
    same = (asked.allocation_id, asked.gpus, asked.starts_at, asked.ends_at)
    if any((each.allocation_id, each.gpus, each.starts_at, each.ends_at) == same for each in mine):
        raise Refusal(Sentence("waits-already"), "starts_at")
    availability = pool_queries.load_availability(session, pool, now)
    if _room(availability, asked.gpus, asked.starts_at, asked.ends_at, policy) is not None:
        raise Refusal(Sentence("room-now"), "starts_at")
    waiter = _waiter(asked, allocation, WaiterState.WAITING, by, now)
    session.add(waiter)
    begin(session, waiter, verb="join", at=now, by=by)
    return waiter


def _waiter(asked: BookingRequest, allocation: Allocation, state: WaiterState, by: Actor, now: dt.datetime) -> Waiter:
    return Waiter(
        state=state,
        enterprise_id=allocation.enterprise_id,
        allocation_id=allocation.id,
        pool_id=allocation.pool_id,
        title=asked.title,
        gpus=asked.gpus,
        starts_at=asked.starts_at,
        ends_at=asked.ends_at,
        joined_by=by.user_id,
        joined_at=now,
    )


def keep(session: Session, asked: BookingRequest, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Waiter:
    """Keep a window that is free for some minutes, while somebody decides: an option, taken and left like any other.

    Every rule of a booking holds already now, and what is kept counts with what is booked: nobody keeps more windows
    than they may book. Raises Refusal("window-gone") where somebody was faster.
    """
    require(by, Permission.BOOKING_WAIT)
    require(by, Permission.BOOKING_SUBMIT)
    if asked.kind is not BookingKind.FIXED or asked.starts_at is None or asked.ends_at is None:
        raise Refusal(Sentence("only-windows-wait"), "kind")
    allocation = service.check(session, asked, by=by, policy=policy, now=now)
    pool = pools.lock_pool(session, allocation.pool_id)
    kept = session.scalar(
        sa.select(sa.func.count(Waiter.id)).where(
            Waiter.enterprise_id == allocation.enterprise_id,
            Waiter.pool_id == pool.id,
            Waiter.state == WaiterState.OFFERED,
        )
    )
    mine = service.own_windows(session, allocation.enterprise_id, pool.id, now)
    if (kept or 0) + sum(1 for window in mine if window.to_come) >= policy.fixed_open_most:
        raise Refusal(Sentence("keeps-enough", most=policy.fixed_open_most))
    availability = pool_queries.load_availability(session, pool, now)
    placement = _room(availability, asked.gpus, asked.starts_at, asked.ends_at, policy)
    if placement is None:
        raise Refusal(Sentence("window-gone", n=asked.gpus, at=asked.starts_at))
    waiter = _waiter(asked, allocation, WaiterState.OFFERED, by, now)
    waiter.kept_until_at = min(now + dt.timedelta(minutes=policy.offer_minutes), asked.starts_at)
    session.add(waiter)
    begin(session, waiter, verb="keep", at=now, by=by)
    pools.keep_option(session, pool, waiter.id, placement, starts_at=asked.starts_at, ends_at=asked.ends_at)
    pools.changed(session, pool)
    return waiter


def leave(session: Session, waiter_id: int, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Waiter:
    """No longer wanted; what was kept for it goes to the next."""
    require(by, Permission.BOOKING_WAIT)
    pool, waiter = _locked(session, waiter_id, by)
    offered = waiter.state is WaiterState.OFFERED
    move_to(session, waiter, WaiterState.LEFT, verb="leave", at=now, by=by)
    if offered:
        pools.drop_option(session, waiter.id)
        pools.changed(session, pool)
        offer(session, pool, policy=policy, now=now)
    return waiter


def take(
    session: Session,
    waiter_id: int,
    *,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
    agreed_micro_yuan: int | None = None,
) -> Booking:
    """Book the window that is kept: an ordinary booking, with every rule. Refusal("option-is-over") when it lapsed."""
    require(by, Permission.BOOKING_SUBMIT)
    pool, waiter = _locked(session, waiter_id, by)
    if waiter.state is not WaiterState.OFFERED or waiter.kept_until_at is None or waiter.kept_until_at <= now:
        raise Refusal(Sentence("option-is-over"))
    pools.drop_option(session, waiter.id)
    pools.changed(session, pool)
    booking = service.submit(
        session, request_of(waiter), by=by, policy=policy, now=now, agreed_micro_yuan=agreed_micro_yuan
    )
    waiter.booking_id = booking.id
    session.flush()
    move_to(session, waiter, WaiterState.BOOKED, verb="take", at=now, by=by)
    return booking


def request_of(waiter: Waiter) -> BookingRequest:
    return BookingRequest(
        allocation_id=waiter.allocation_id,
        kind=BookingKind.FIXED,
        title=waiter.title,
        gpus=waiter.gpus,
        starts_at=waiter.starts_at,
        ends_at=waiter.ends_at,
    )


def price_of(session: Session, waiter: Waiter) -> int:
    """Micro-yuan before tax, as it will be booked."""
    size_class, programme_id = service.priced_for(session, waiter.allocation_id)
    book = pool_queries.price_book(session, waiter.pool_id)
    return prices.of_window(
        book, waiter.starts_at, waiter.ends_at, waiter.gpus, size_class=size_class, programme_id=programme_id
    ).highest


def _locked(session: Session, waiter_id: int, by: Actor) -> tuple[Pool, Waiter]:
    waiter = must_see(session.get(Waiter, waiter_id), by)
    pool = pools.lock_pool(session, waiter.pool_id)
    session.refresh(waiter, with_for_update=True)
    return pool, waiter


# -- the cascade ------------------------------------------------------------------------------------------------------


def list_pools(session: Reader) -> list[int]:
    """Pools in which somebody waits or has an option. Nearly always none, found in an index."""
    return list(session.scalars(sa.select(Waiter.pool_id).where(Waiter.state.in_(OPEN)).distinct()))


def cascade(session: Session, pool_id: int, *, policy: BookingPolicy, now: dt.datetime) -> int:
    """Options that were not taken lapse, windows that began are over, and what is free is offered to the next.

    Returns how many were offered.
    """
    pool = pools.lock_pool(session, pool_id)
    for waiter in _open_ones(session, pool_id):
        if waiter.state is WaiterState.OFFERED and waiter.kept_until_at is not None and waiter.kept_until_at <= now:
            pools.drop_option(session, waiter.id)
            pools.changed(session, pool)
            move_to(session, waiter, WaiterState.LAPSED, verb="lapse", at=now, by=SYSTEM)
            _tell(session, waiter, "told-option-lapsed", now)
        elif waiter.state is WaiterState.WAITING and waiter.starts_at <= now:
            move_to(session, waiter, WaiterState.OVER, verb="close", at=now, by=SYSTEM)
            _tell(session, waiter, "told-wait-over", now)
    return offer(session, pool, policy=policy, now=now)


def offer(session: Session, pool: Pool, *, policy: BookingPolicy, now: dt.datetime) -> int:
    """Each who waits, in the order of joining, gets the window as an option if there is room. The pool is locked."""
    waiting = [
        waiter
        for waiter in _open_ones(session, pool.id)
        if waiter.state is WaiterState.WAITING and waiter.starts_at > now
    ]
    if not waiting:
        return 0
    availability = pool_queries.load_availability(session, pool, now)
    offered = 0
    for waiter in waiting:
        placement = _room(availability, waiter.gpus, waiter.starts_at, waiter.ends_at, policy)
        if placement is None:
            continue
        start, end = int(waiter.starts_at.timestamp()), int(waiter.ends_at.timestamp())
        availability.occupy(placement, start, end, fixed=True)
        pools.keep_option(session, pool, waiter.id, placement, starts_at=waiter.starts_at, ends_at=waiter.ends_at)
        waiter.kept_until_at = min(now + dt.timedelta(minutes=policy.option_minutes), waiter.starts_at)
        session.flush()
        move_to(session, waiter, WaiterState.OFFERED, verb="offer", at=now, by=SYSTEM)
        _tell(session, waiter, "told-option", now)
        offered += 1
    if offered:
        pools.changed(session, pool)
    return offered


def _open_ones(session: Session, pool_id: int) -> list[Waiter]:
    return list(
        session.scalars(sa.select(Waiter).where(Waiter.pool_id == pool_id, Waiter.state.in_(OPEN)).order_by(Waiter.id))
    )


def _room(
    availability: Availability, gpus: int, starts_at: dt.datetime, ends_at: dt.datetime, policy: BookingPolicy
) -> Placement | None:
    start, end = int(starts_at.timestamp()), int(ends_at.timestamp())
    most = availability.capacity * policy.fixed_share_percent // 100
    if availability.peak_fixed(start, end) + gpus > most:
        return None
    return availability.place(gpus, start, end)


def _tell(session: Session, waiter: Waiter, sentence: str, now: dt.datetime) -> None:
    values: dict[str, int | dt.datetime | None] = {"at": waiter.starts_at, "n": waiter.gpus}
    if sentence == "told-option":
        values["until"] = waiter.kept_until_at
    notify.send_to_members(
        session,
        waiter.enterprise_id,
        about=Sentence(sentence, **values),
        link="/bookings/wait-list",
        key=f"waiter:{waiter.id}:{sentence}",
        now=now,
    )
