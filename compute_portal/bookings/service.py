"""What people do with bookings: quote, submit, approve, decline, cancel, stop, start using.

Owns: the rules of a booking and its life until the scheduler takes over (see `attempts`).
Does not own: hours (ledger), GPUs and prices (pools), the queue (scheduler).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..access import SYSTEM, Actor, Permission, must_see, require
from ..allocations import conflicts
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..budgets import service as budgets
from ..db import lock
from ..enterprises.models import Enterprise
from ..enterprises.states import EnterpriseState
from ..ledger import service as ledger
from ..ledger.queries import balance
from ..lifecycle import begin, move_to, note_event
from ..policy import BookingPolicy
from ..pools import queries as pool_queries
from ..pools import service as pools
from ..pools.availability import Availability, Placement
from ..pools.models import Limit, Node, Pool, Tariff
from ..pools.prices import Stretch
from ..pools.states import BookingUnit, InstructionVerb
from ..programmes.models import Programme
from ..sentences import NotFound, Refusal, Sentence
from . import prices, strikes
from .models import Attempt, Booking, Strike
from .states import NOT_STARTED, ON_THE_CLUSTER, BookingKind, BookingState

OPEN_FIXED = frozenset({BookingState.SUBMITTED, BookingState.CONFIRMED})


@dataclass(frozen=True, slots=True)
class BookingRequest:
    """What a form asks for. fixed: starts_at and ends_at; flexible: longest_seconds, perhaps not_before_at."""

    allocation_id: int
    kind: BookingKind
    title: str
    gpus: int
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None
    longest_seconds: int | None = None
    not_before_at: dt.datetime | None = None

    @property
    def seconds(self) -> int:
        if self.kind is BookingKind.FIXED:
            assert self.starts_at is not None and self.ends_at is not None
            return clock.seconds_between(self.starts_at, self.ends_at)
        assert self.longest_seconds is not None
        return self.longest_seconds


@dataclass(frozen=True, slots=True)
class Quote:
    """What the person agrees to. GPU-seconds and micro-yuan; a flexible booking has a range of prices."""

    gpu_seconds: int
    left_after: int
    lowest_micro_yuan: int
    highest_micro_yuan: int
    needs_approval: bool
    price_micro_yuan: int  # of the first hour
    off_peak_micro_yuan: int | None = None  # of an off-peak hour that it may meet


@dataclass(frozen=True, slots=True)
class _Ground:
    """Everything the rules look at, loaded once."""

    allocation: Allocation
    pool: Pool
    programme: Programme
    enterprise: Enterprise
    limit: int | None
    capacity: int
    own_hours: bool  # the pool has off-peak hours with a limit of their own
    no_shows: int  # that were not waived, ever
    allowed: budgets.Allowed


def quote(session: Session, asked: BookingRequest, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Quote:
    """Price, hours and what is left, before the click. Reads only; raises the same Refusals as `submit`."""
    require(by, Permission.BOOKING_SUBMIT)
    ground = _load(session, asked, by)
    _check(session, ground, asked, policy, now)
    have = balance(session, ground.allocation.id)
    needed = _needed(asked)
    beyond = max(0, _overdraft_most(session, ground, needed, by) - have.overdraft)
    available = have.available
    if needed > available + beyond:
        raise Refusal(Sentence("needs-more-hours", needed=needed, available=available + beyond), "gpus")
    if asked.kind is BookingKind.FIXED:
        _place(pool_queries.load_availability(session.connection(), ground.pool, now), ground, asked, policy)
    found = _prices(session, ground, asked, now)
    return Quote(
        needed, available - needed, found.lowest, found.highest, _needs_approval(ground, needed), found.first_hour,
        found.off_peak_hour,
    )  # fmt: skip


def submit(
    session: Session,
    asked: BookingRequest,
    *,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
    agreed_micro_yuan: int | None = None,
) -> Booking:
    """Book: check every limit, place a fixed booking on named nodes, hold its hours, approve it if that needs nobody.

    `agreed_micro_yuan` is the highest price that the person saw; if it is another one now, nothing is booked.
    Raises Refusal at the field that is to blame.
    """
    require(by, Permission.BOOKING_SUBMIT)
    ground = _load(session, asked, by)
    fixed = asked.kind is BookingKind.FIXED
    if fixed:
        pools.lock_pool(session, ground.pool.id)
    lock(session, Allocation, ground.allocation.id)
    _check(session, ground, asked, policy, now)
    found = _prices(session, ground, asked, now)
    highest = found.highest
    if agreed_micro_yuan is not None and agreed_micro_yuan != highest:
        raise Refusal(Sentence("price-changed", before=agreed_micro_yuan, after=highest), "allocation_id")
    placement: Placement = ()
    if fixed:
        placement = _place(pool_queries.load_availability(session, ground.pool, now), ground, asked, policy)
    booking = Booking(
        kind=asked.kind,
        state=BookingState.SUBMITTED,
        title=asked.title,
        enterprise_id=ground.enterprise.id,
        allocation_id=ground.allocation.id,
        pool_id=ground.pool.id,
        gpus=asked.gpus,
        starts_at=asked.starts_at,
        ends_at=asked.ends_at,
        longest_seconds=asked.seconds,
        not_before_at=asked.not_before_at,
        submitted_by=by.user_id,
        submitted_at=now,
        held_gpu_seconds=_needed(asked),
    )
    overdraft_most = _overdraft_most(session, ground, booking.held_gpu_seconds, by)
    session.add(booking)
    session.flush()
    left = ledger.hold(
        session,
        ground.allocation.id,
        booking.held_gpu_seconds,
        reference=f"booking:{booking.id}:hold",
        at=now,
        by=by,
        overdraft_most=overdraft_most,
    )
    why = Sentence("held-hours", held=booking.held_gpu_seconds, left=left)
    begin(session, booking, verb="submit", at=now, by=by, why=why)
    if fixed:
        assert asked.starts_at is not None and asked.ends_at is not None
        pools.occupy(
            session, ground.pool, booking.id, placement, fixed=True, starts_at=asked.starts_at, ends_at=asked.ends_at
        )
        pools.changed(session, ground.pool)
    threshold = ground.programme.booking_approval_gpu_seconds
    if not _needs_approval(ground, booking.held_gpu_seconds):
        why = Sentence("approved-by-rule", threshold=threshold)
        _accept(session, booking, now=now, by=SYSTEM, why=why, known=found.stretches)
    return booking


def approve(session: Session, booking_id: int, *, by: Actor, now: dt.datetime) -> Booking:
    """An operator who did not ask for it lets it through."""
    require(by, Permission.BOOKING_APPROVE)
    booking = locked(session, booking_id, by)
    _not_own(session, booking, by)
    if booking.starts_at is not None and booking.starts_at <= now:
        raise Refusal(Sentence("start-is-past"))
    _accept(session, booking, now=now, by=by, why=None)
    return booking


def _accept(
    session: Session,
    booking: Booking,
    *,
    now: dt.datetime,
    by: Actor,
    why: Sentence | None,
    known: Sequence[Stretch] = (),
) -> None:
    """submitted → queued or confirmed; a fixed booking's prices are frozen here, those `known` to the caller."""
    fixed = booking.kind is BookingKind.FIXED
    if fixed:
        assert booking.starts_at is not None
        assert booking.ends_at is not None
        stretches = prices.freeze(session, booking, booking.starts_at, booking.ends_at, known)
        booking.tariff_id = stretches[0].point.tariff_id
        session.flush()
    state = BookingState.CONFIRMED if fixed else BookingState.QUEUED
    move_to(session, booking, state, verb="approve", at=now, by=by, why=why)


def decline(session: Session, booking_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Booking:
    require(by, Permission.BOOKING_DECLINE)
    booking = locked(session, booking_id, by)
    _not_own(session, booking, by)
    if not reason.strip():
        raise Refusal(Sentence("decline-needs-reason"), "reason")
    move_to(session, booking, BookingState.DECLINED, verb="decline", at=now, by=by, note=reason.strip())
    give_back(session, booking, now=now, by=by)
    free_slot(session, booking, now=now)
    return booking


def cancel(session: Session, booking_id: int, *, by: Actor, now: dt.datetime, why: Sentence | None = None) -> Booking:
    """Before it starts: the hold goes back, the GPUs are free again. Raises Refusal("booking-has-started").

    Free of charge: so cancels the system, and what costs nothing. What people cancel goes through `cancellations`.
    """
    require(by, Permission.BOOKING_CANCEL)
    booking = locked(session, booking_id, by)
    if booking.state in ON_THE_CLUSTER:
        raise Refusal(Sentence("booking-has-started"))
    move_to(session, booking, BookingState.CANCELLED, verb="cancel", at=now, by=by, why=why)
    if booking.under_way:  # the engine has it in its queue: the next cycle takes it out
        session.execute(_UNWANTED, {"cancelled": booking.id, "at": now})
    give_back(session, booking, now=now, by=by)
    free_slot(session, booking, now=now)
    return booking


def lapse(session: Session, booking_id: int, *, by: Actor, now: dt.datetime) -> Booking:
    """Nobody decided in time: everything goes back."""
    booking = locked(session, booking_id, by)
    move_to(session, booking, BookingState.LAPSED, verb="lapse", at=now, by=by, why=Sentence("nobody-decided"))
    give_back(session, booking, now=now, by=by)
    free_slot(session, booking, now=now)
    return booking


def stop(session: Session, booking_id: int, *, by: Actor, now: dt.datetime) -> Booking:
    """Ask for the end of what runs; the scheduler does it in its next cycle."""
    require(by, Permission.BOOKING_STOP)
    booking = must_see(lock(session, Booking, booking_id), by)
    if booking.state in NOT_STARTED:
        raise Refusal(Sentence("booking-not-started"))
    move_to(session, booking, BookingState.STOPPING, verb="stop", at=now, by=by)
    pools.ask(session, InstructionVerb.STOP, "booking", booking.id, why=None, by=by, now=now)
    return booking


def claim(session: Session, booking_id: int, *, by: Actor, now: dt.datetime) -> Booking:
    """*Start using*: the enterprise confirms that it is here. Pressing it twice changes nothing."""
    require(by, Permission.BOOKING_CLAIM)
    booking = must_see(lock(session, Booking, booking_id), by)
    if booking.state is not BookingState.RUNNING:
        raise Refusal(Sentence("claim-needs-running"))
    if booking.claimed_at is None:
        booking.claimed_at = now
        session.flush()
        note_event(session, booking, verb="claim", at=now, by=by)
    return booking


def check(session: Session, asked: BookingRequest, *, by: Actor, policy: BookingPolicy, now: dt.datetime) -> Allocation:
    """Every rule of a booking but that there is room and that there are hours. Raises Refusal at the field to blame."""
    ground = _load(session, asked, by)
    _check(session, ground, asked, policy, now)
    return ground.allocation


@dataclass(frozen=True, slots=True)
class MoreTime:
    """What an extension is priced and held by."""

    pool: Pool
    size_class: str
    programme_id: int
    overdraft_most: int  # GPU-seconds that the allocation may be overdrawn by for it


def check_more_time(session: Session, asked: BookingRequest, *, by: Actor, now: dt.datetime) -> MoreTime:
    """Whether an enterprise may have this much more time at the end of a fixed booking. Raises Refusal at `ends_at`."""
    ground = _load(session, asked, by)
    assert asked.starts_at is not None and asked.ends_at is not None
    if ground.enterprise.state is not EnterpriseState.VERIFIED:
        raise Refusal(Sentence("enterprise-not-verified"), "ends_at")
    if ground.allocation.state is not AllocationState.ACTIVE or now >= ground.allocation.ends_at:
        raise Refusal(Sentence("allocation-not-active"), "ends_at")
    if asked.ends_at > ground.allocation.ends_at:
        raise Refusal(Sentence("after-the-allocation", last=ground.allocation.ends_on), "ends_at")
    limits = _limits(session, ground, asked.starts_at, asked.ends_at)
    bound = any(limit is not None for _first, _last, limit in limits)
    mine = own_windows(session, ground.enterprise.id, ground.pool.id, now) if bound else []
    for first, last, limit in limits:
        used = peak(mine, first, last)
        if limit is not None and used + asked.gpus > limit:
            raise Refusal(Sentence("over-the-limit-then", asked=asked.gpus, limit=limit, used=used), "ends_at")
    overdraft_most = _overdraft_most(session, ground, _needed(asked), by)
    return MoreTime(ground.pool, str(ground.enterprise.size_class), ground.programme.id, overdraft_most)


def priced_for(session: Session, allocation_id: int) -> tuple[str, int]:
    """Whose prices hold: the size class of the enterprise and the programme."""
    size_class, programme_id = session.execute(
        sa.select(Enterprise.size_class, Allocation.programme_id)
        .join_from(Allocation, Enterprise, Enterprise.id == Allocation.enterprise_id)
        .where(Allocation.id == allocation_id)
    ).one()
    return str(size_class), programme_id


def allocation_of(session: Session, booking: Booking) -> Allocation:
    return session.get_one(Allocation, booking.allocation_id)


def give_back(session: Session, booking: Booking, *, now: dt.datetime, by: Actor) -> None:
    """Release the hours that the booking still holds. Its allocation is locked."""
    allocation = session.get_one(Allocation, booking.allocation_id)
    ledger.release(
        session,
        booking.allocation_id,
        booking.held_gpu_seconds,
        reference=f"booking:{booking.id}:release",
        ended=allocation.state is AllocationState.CLOSED,
        at=now,
        by=by,
    )
    booking.held_gpu_seconds = 0
    session.flush()


def free_slot(session: Session, booking: Booking, *, now: dt.datetime) -> None:
    """A fixed booking that never started gives its GPUs back. Its pool is locked.

    Where people may have been let in by an attempt that failed, they stay taken until access is taken back.
    """
    if booking.kind is BookingKind.FIXED:
        given_until = session.scalar(
            sa.select(sa.func.max(Attempt.ended_at)).where(
                Attempt.booking_id == booking.id, Attempt.placed_at.is_not(None), Attempt.revoked_at.is_(None)
            )
        )
        if given_until is None:
            pools.free(session, booking.id, at=now)
        else:
            pools.vacate(session, booking.id, given_until=given_until, at=now)
        pools.changed(session, session.get_one(Pool, booking.pool_id))


def locked(session: Session, booking_id: int, by: Actor) -> Booking:
    """Pool, allocation and booking, locked in this order; the pool because an end gives GPUs back."""
    booking = must_see(session.get(Booking, booking_id), by)
    pools.lock_pool(session, booking.pool_id)
    lock(session, Allocation, booking.allocation_id)
    fresh = lock(session, Booking, booking_id)
    if fresh is None:
        raise NotFound
    return fresh


def _not_own(session: Session, booking: Booking, by: Actor) -> None:
    """Neither asked for by this person, nor by a firm that the person is bound to."""
    if by.user_id is None:
        return
    if by.user_id == booking.submitted_by:
        raise Refusal(Sentence("not-your-own"))
    conflicts.must_be_free(session, session.get_one(Allocation, booking.allocation_id), by)


# -- the rules -----------------------------------------------------------------------------------------------------


_UNWANTED = (
    sa.update(cast(sa.Table, Attempt.__table__))
    .where(Attempt.booking_id == sa.bindparam("cancelled"), Attempt.outcome.is_(None))
    .values(unwanted_at=sa.bindparam("at"))
)
_GROUND = budgets.beside(
    sa.select(
        Allocation,
        Pool,
        Programme,
        Enterprise,
        sa.select(Limit.gpus)
        .where(Limit.enterprise_id == Allocation.enterprise_id, Limit.pool_id == Allocation.pool_id)
        .scalar_subquery(),
        sa.select(sa.func.sum(Node.gpus)).where(Node.pool_id == Allocation.pool_id).scalar_subquery(),
        sa.exists().where(Tariff.pool_id == Allocation.pool_id, Tariff.gpus_most.is_not(None)),
        sa.select(sa.func.count(Strike.id))
        .where(Strike.enterprise_id == Allocation.enterprise_id, Strike.waived_at.is_(None))
        .scalar_subquery(),
    )
    .join(Pool, Pool.id == Allocation.pool_id)
    .join(Programme, Programme.id == Allocation.programme_id)
    .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
    .where(Allocation.id == sa.bindparam("id"))
)


def _load(session: Session, asked: BookingRequest, by: Actor) -> _Ground:
    """All of it in one query: every booking asks for it."""
    row = session.execute(_GROUND, {"id": asked.allocation_id, "user_id": by.user_id}).one_or_none()
    must_see(None if row is None else row[0], by)
    assert row is not None
    allocation, pool, programme, enterprise, limit, capacity, own_hours, no_shows, *beside = row
    allowed = budgets.Allowed(*beside)
    return _Ground(allocation, pool, programme, enterprise, limit, capacity or 0, bool(own_hours), no_shows, allowed)


def _needed(asked: BookingRequest) -> int:
    return asked.gpus * asked.seconds


def _overdraft_most(session: Session, ground: _Ground, needed: int, by: Actor) -> int:
    """GPU-seconds that the allocation may be overdrawn by. Raises Refusal where a budget says no."""
    id = ground.allocation.id

    def spent() -> int:
        """What this person's bookings from the allocation hold and were charged."""
        return spent_by(session, id, [by.user_id])[by.user_id]

    return budgets.check(session, ground.allocation, needed, ground.allowed, spent)


def spent_by(session: Session, allocation_id: int, user_ids: Iterable[int | None]) -> dict[int | None, int]:
    """GPU-seconds of an allocation that each person's bookings hold and were charged."""
    found = dict.fromkeys(user_ids, 0)
    rows = session.execute(
        sa.select(Booking.submitted_by, sa.func.sum(Booking.held_gpu_seconds + Booking.charged_gpu_seconds))
        .where(Booking.allocation_id == allocation_id, Booking.submitted_by.in_([id for id in found if id is not None]))
        .group_by(Booking.submitted_by)
    )
    found.update({user_id: int(seconds) for user_id, seconds in rows})
    return found


def _needs_approval(ground: _Ground, gpu_seconds: int) -> bool:
    return gpu_seconds > ground.programme.booking_approval_gpu_seconds


def _check(session: Session, ground: _Ground, asked: BookingRequest, policy: BookingPolicy, now: dt.datetime) -> None:
    """Every rule that needs no placement. Raises Refusal at the field to blame."""
    if ground.enterprise.state is not EnterpriseState.VERIFIED:
        raise Refusal(Sentence("enterprise-not-verified"))
    if ground.allocation.state is not AllocationState.ACTIVE or now >= ground.allocation.ends_at:
        raise Refusal(Sentence("allocation-not-active"), "allocation_id")
    _check_gpus(ground, asked)
    if asked.kind is BookingKind.FIXED:
        _check_window(session, ground, asked, policy, now)
    else:
        _check_flexible(ground, asked, policy, now)


def _check_gpus(ground: _Ground, asked: BookingRequest) -> None:
    if asked.gpus < 1:
        raise Refusal(Sentence("at-least-one-card"), "gpus")
    if asked.gpus > ground.capacity:
        raise Refusal(Sentence("more-than-the-pool", asked=asked.gpus, capacity=ground.capacity), "gpus")
    hour_by_hour = ground.own_hours and asked.kind is BookingKind.FIXED
    if ground.limit is not None and asked.gpus > ground.limit and not hour_by_hour:
        raise Refusal(Sentence("over-the-limit", asked=asked.gpus, limit=ground.limit), "gpus")
    if ground.pool.booking_unit is BookingUnit.NODE and asked.gpus % ground.pool.gpus_per_node:
        raise Refusal(Sentence("whole-nodes-only", per_node=ground.pool.gpus_per_node), "gpus")


def _check_window(
    session: Session, ground: _Ground, asked: BookingRequest, policy: BookingPolicy, now: dt.datetime
) -> None:
    start, end = asked.starts_at, asked.ends_at
    assert start is not None and end is not None
    longest = dt.timedelta(days=policy.fixed_longest_days)
    horizon = now + dt.timedelta(weeks=policy.fixed_horizon_weeks)
    if start != clock.floor_hour(start):
        raise Refusal(Sentence("on-the-hour"), "starts_at")
    if end != clock.floor_hour(end):
        raise Refusal(Sentence("on-the-hour"), "ends_at")
    if start <= now:
        raise Refusal(Sentence("start-is-past"), "starts_at")
    if end <= start:
        raise Refusal(Sentence("ends-before-start"), "ends_at")
    if end - start > longest:
        raise Refusal(Sentence("window-too-long", n=policy.fixed_longest_days), "ends_at")
    if start > horizon:
        raise Refusal(Sentence("beyond-the-horizon", n=policy.fixed_horizon_weeks, last=horizon), "starts_at")
    if start < ground.allocation.starts_at:
        raise Refusal(Sentence("before-the-allocation", first=ground.allocation.starts_on), "starts_at")
    if end > ground.allocation.ends_at:
        raise Refusal(Sentence("after-the-allocation", last=ground.allocation.ends_on), "ends_at")
    hours = policy.undecided_lapses_hours_before
    if _needs_approval(ground, _needed(asked)) and start <= now + hours * clock.HOUR:
        threshold = ground.programme.booking_approval_gpu_seconds
        raise Refusal(Sentence("too-soon-to-decide", n=hours, threshold=threshold), "starts_at")
    paused = None
    if ground.no_shows >= policy.strikes_most:
        paused = strikes.paused_until(session, ground.enterprise.id, policy, now)
    if paused is not None:
        raise Refusal(Sentence("paused-by-strikes", n=policy.strikes_most, until=paused), "kind")
    mine = own_windows(session, ground.enterprise.id, ground.pool.id, now)
    coming = sum(1 for window in mine if window.to_come)
    if coming >= policy.fixed_open_most:
        raise Refusal(Sentence("too-many-fixed", most=policy.fixed_open_most, open=coming), "kind")
    for first, last, limit in _limits(session, ground, start, end):
        used = peak(mine, first, last)
        if limit is not None and used + asked.gpus > limit:
            raise Refusal(Sentence("over-the-limit-then", asked=asked.gpus, limit=limit, used=used), "gpus")


def _limits(
    session: Session, ground: _Ground, start: dt.datetime, end: dt.datetime
) -> list[tuple[dt.datetime, dt.datetime, int | None]]:
    """How many GPUs at once in each part of a window: off-peak hours may have a limit of their own."""
    if not ground.own_hours:
        return [(start, end, ground.limit)]
    book = pool_queries.price_book(session, ground.pool.id)
    own = {tariff.id: tariff.gpus_most for tariff in book.tariffs if tariff.gpus_most is not None}
    return [
        (part.starts_at, part.ends_at, own.get(part.point.tariff_id, ground.limit))
        for part in book.stretches(start, end)
    ]


class Window(NamedTuple):
    """GPUs that the enterprise has from when to when; `to_come`: a fixed booking that has not started."""

    starts_at: dt.datetime
    ends_at: dt.datetime
    gpus: int
    to_come: bool


_OWN_WINDOWS = (
    sa.select(
        Booking.starts_at,
        Booking.ends_at,
        Booking.gpus,
        Attempt.until_at,
        Booking.state.in_(OPEN_FIXED).label("to_come"),
    )
    .outerjoin(Attempt, sa.and_(Attempt.booking_id == Booking.id, Attempt.outcome.is_(None)))
    .where(
        Booking.enterprise_id == sa.bindparam("enterprise_id"),
        Booking.pool_id == sa.bindparam("pool_id"),
        sa.or_(
            sa.and_(Booking.kind == BookingKind.FIXED, Booking.state.in_(OPEN_FIXED)),
            Booking.state.in_(ON_THE_CLUSTER),
        ),
    )
)  # fmt: skip


def own_windows(session: Session, enterprise_id: int, pool_id: int, now: dt.datetime) -> list[Window]:
    """The enterprise's fixed bookings in this pool that are not over, and what runs there by its longest run."""
    rows = session.connection().execute(_OWN_WINDOWS, {"enterprise_id": enterprise_id, "pool_id": pool_id}).all()
    return [
        Window(starts_at or now, ends_at or until_at or now, gpus, to_come)
        for starts_at, ends_at, gpus, until_at, to_come in rows
    ]


def peak(windows: Sequence[Window], start: dt.datetime, end: dt.datetime) -> int:
    """The most GPUs these windows take at one instant of [start, end); it is reached at a start."""
    inside = [window for window in windows if window.starts_at < end and window.ends_at > start]
    instants = {max(start, window.starts_at) for window in inside}
    return max((sum(w.gpus for w in inside if w.starts_at <= instant < w.ends_at) for instant in instants), default=0)


def _check_flexible(ground: _Ground, asked: BookingRequest, policy: BookingPolicy, now: dt.datetime) -> None:
    seconds = asked.seconds
    if seconds < policy.flexible_shortest_minutes * 60:
        raise Refusal(Sentence("run-too-short", n=policy.flexible_shortest_minutes), "longest")
    if seconds > policy.flexible_longest_hours * 3_600:
        raise Refusal(Sentence("run-too-long", n=policy.flexible_longest_hours), "longest")
    of_track = ground.allocation.longest_run_seconds
    if of_track is not None and seconds > of_track:
        raise Refusal(Sentence("run-too-long", n=of_track // 3_600), "longest")
    earliest = max(now, asked.not_before_at or now, ground.allocation.starts_at)
    if asked.not_before_at and asked.not_before_at > now + dt.timedelta(weeks=policy.fixed_horizon_weeks):
        raise Refusal(
            Sentence(
                "beyond-the-horizon",
                n=policy.fixed_horizon_weeks,
                last=now + dt.timedelta(weeks=policy.fixed_horizon_weeks),
            ),
            "not_before_at",
        )
    if earliest + dt.timedelta(seconds=seconds) > ground.allocation.ends_at:
        in_time_now = now + dt.timedelta(seconds=seconds) <= ground.allocation.ends_at
        field = "not_before_at" if asked.not_before_at and in_time_now else "longest"
        raise Refusal(Sentence("run-past-allocation", last=ground.allocation.ends_on), field)


def _place(availability: Availability, ground: _Ground, asked: BookingRequest, policy: BookingPolicy) -> Placement:
    """Named nodes for a fixed window, or the closest window that would do."""
    assert asked.starts_at is not None and asked.ends_at is not None
    start, end = int(asked.starts_at.timestamp()), int(asked.ends_at.timestamp())
    most = ground.capacity * policy.fixed_share_percent // 100
    fixed = availability.peak_fixed(start, end)
    if fixed + asked.gpus > most:
        raise Refusal(
            Sentence("fixed-share-full", percent=policy.fixed_share_percent, most=most, fixed=fixed, asked=asked.gpus),
            "starts_at",
        )
    placement = availability.place(asked.gpus, start, end)
    if placement is None:
        raise Refusal(_no_room(availability, asked, start, end, policy), "starts_at")
    return placement


def _no_room(
    availability: Availability, asked: BookingRequest, start: int, end: int, policy: BookingPolicy
) -> Sentence:
    free = availability.largest_fit(start, end)
    before = start + policy.fixed_horizon_weeks * 7 * 86_400
    later = availability.earliest(asked.gpus, end - start, start, before, step=units.SECONDS_PER_HOUR)
    if asked.gpus <= availability.largest_fit_without_caps(start, end):
        return no_power(availability, asked.gpus, start, end, later)
    if later is None:
        return Sentence("no-room", asked=asked.gpus, free=free, at=asked.starts_at)
    at = dt.datetime.fromtimestamp(later, dt.UTC)
    return Sentence("no-room-but-later", asked=asked.gpus, free=free, at=asked.starts_at, later=at)


def no_power(availability: Availability, gpus: int, start: int, end: int, later: int | None) -> Sentence:
    """There are cards, and a cap of power is in the way. Instants are Unix seconds; `later`: when it would fit."""
    cap = availability.cap_in_the_way(gpus, start, end)
    assert cap is not None
    begins, ends = (dt.datetime.fromtimestamp(at, dt.UTC) for at in (cap.starts_at, cap.ends_at))
    left = availability.room(start, end)
    if later is None:
        return Sentence("no-power", capped=cap.gpus, start=begins, until=ends, asked=gpus, free=left)
    at = dt.datetime.fromtimestamp(later, dt.UTC)
    return Sentence("no-power-but-later", capped=cap.gpus, start=begins, until=ends, asked=gpus, free=left, later=at)


def _prices(session: Session, ground: _Ground, asked: BookingRequest, now: dt.datetime) -> prices.Prices:
    """Fixed: each hour of the window as it will be frozen. Flexible: from the cheapest to the dearest hour it may meet
    until the allocation ends."""
    book = pool_queries.price_book(session, ground.pool.id)
    size_class, programme_id = str(ground.enterprise.size_class), ground.programme.id
    if asked.kind is BookingKind.FIXED:
        assert asked.starts_at is not None and asked.ends_at is not None
        return prices.of_window(
            book, asked.starts_at, asked.ends_at, asked.gpus, size_class=size_class, programme_id=programme_id
        )
    earliest = max(now, asked.not_before_at or now, ground.allocation.starts_at)
    latest = ground.allocation.ends_at
    return prices.of_run(book, earliest, latest, _needed(asked), size_class=size_class, programme_id=programme_id)
