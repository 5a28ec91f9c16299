"""What happens to a booking at the engine, as told by the scheduler: the verbs of attempts.

Each verb may be called again with the same news: what is already so stays so. That is what makes a crash harmless.
Locks: pool, allocation, booking, in this order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..db import lock
from ..ledger import service as ledger
from ..lifecycle import Move, move_all, move_to
from ..pools import service as pools
from ..sentences import Sentence
from .models import Attempt, Booking, Standing
from .service import free_slot, give_back
from .states import ON_THE_CLUSTER, OPEN, AttemptOutcome, BookingKind, BookingState

ATTEMPTS = cast(sa.Table, Attempt.__table__)


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
    return list(
        session.scalars(
            sa.select(Booking.id)
            .where(
                sa.or_(
                    Booking.state == BookingState.QUEUED,
                    sa.and_(
                        Booking.state == BookingState.CONFIRMED, Booking.starts_at <= now, Booking.ends_at > now
                    ),
                ),
                ~_under_way(),
            )
            .order_by(Booking.id)
            .limit(limit)
        )
    )


def list_missed(session: Session, now: dt.datetime, limit: int = 1000) -> list[int]:
    """Confirmed bookings whose window passed before anything was handed over."""
    return list(
        session.scalars(
            sa.select(Booking.id)
            .where(Booking.state == BookingState.CONFIRMED, Booking.ends_at <= now, ~_under_way())
            .order_by(Booking.id)
            .limit(limit)
        )
    )


def _under_way() -> sa.Exists:
    return sa.exists().where(Attempt.booking_id == Booking.id, Attempt.outcome.is_(None))


def write(session: Session, booking_ids: Sequence[int], *, now: dt.datetime) -> list[HandOver]:
    """Write the attempts before anything is handed over, so that a crash leaves a key to ask the engine for."""
    waiting = session.execute(
        sa.select(Booking.id, Booking.tries)
        .where(
            Booking.id.in_(booking_ids),
            Booking.state.in_((BookingState.QUEUED, BookingState.CONFIRMED)),
            ~_under_way(),
        )
        .order_by(Booking.id)
        .with_for_update()
    ).all()
    if not waiting:
        return []
    ids = [id for id, _tries in waiting]
    session.execute(
        sa.update(Booking).where(Booking.id.in_(ids)).values(tries=Booking.tries + 1),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        sa.insert(ATTEMPTS),
        [
            {"booking_id": id, "number": tries + 1, "key": f"booking-{id}-{tries + 1}", "written_at": now}
            for id, tries in waiting
        ],
    )
    return _hand_overs(session, Attempt.booking_id.in_(ids), Attempt.handed_over_at.is_(None))


def list_unrecorded(session: Session) -> list[HandOver]:
    """Attempts that were written, but of which nobody knows whether the engine got them."""
    return _hand_overs(session, Attempt.handed_over_at.is_(None))


def _hand_overs(session: Session, *which: sa.ColumnElement[bool]) -> list[HandOver]:
    rows = session.execute(
        sa.select(
            Attempt.key, Booking.id, Booking.pool_id, Booking.kind, Booking.gpus, Booking.longest_seconds,
            Booking.starts_at, Booking.ends_at, Booking.not_before_at, Booking.submitted_at,
            Allocation.programme_id, Allocation.enterprise_id, Allocation.id, Allocation.ends_on,
        )
        .join(Booking, Booking.id == Attempt.booking_id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .where(Attempt.outcome.is_(None), Attempt.revoked_at.is_(None), *which)
        .order_by(Attempt.id)
    )  # fmt: skip
    return [
        HandOver(
            key, booking_id, pool_id, kind is BookingKind.FIXED, gpus, seconds, starts_at, ends_at, not_before_at,
            submitted_at, programme_id, enterprise_id, allocation_id, clock.end_of_day(ends_on),
        )
        for key, booking_id, pool_id, kind, gpus, seconds, starts_at, ends_at, not_before_at, submitted_at,
        programme_id, enterprise_id, allocation_id, ends_on in rows
    ]  # fmt: skip


def record_handed_over(session: Session, references: Mapping[str, str], *, now: dt.datetime) -> None:
    """The engine has these attempts: its reference by our key."""
    if references:
        session.execute(
            sa.update(ATTEMPTS)
            .where(ATTEMPTS.c.key == sa.bindparam("this_key"), ATTEMPTS.c.handed_over_at.is_(None))
            .values(handed_over_at=now, engine_reference=sa.bindparam("reference")),
            [{"this_key": key, "reference": reference} for key, reference in references.items()],
        )


@dataclass(frozen=True, slots=True)
class Given:
    """The engine gave an attempt GPUs. `granted_at` when no hook stands between them and the people."""

    key: str
    nodes: list[dict[str, Any]]
    at: dt.datetime
    until: dt.datetime
    granted_at: dt.datetime | None = None


class _Row(NamedTuple):
    """What the verbs decide on, read under the locks."""

    id: int
    key: str
    booking_id: int
    outcome: AttemptOutcome | None
    placed_at: dt.datetime | None
    until_at: dt.datetime | None
    granted_at: dt.datetime | None
    metered_until_at: dt.datetime | None
    gpus: int
    kind: BookingKind
    state: BookingState


def _lock(session: Session, keys: Iterable[str]) -> list[_Row]:
    """These attempts and their bookings, locked, in the order of the bookings."""
    rows = session.execute(
        sa.select(
            Attempt.id, Attempt.key, Attempt.booking_id, Attempt.outcome, Attempt.placed_at, Attempt.until_at,
            Attempt.granted_at, Attempt.metered_until_at, Booking.gpus, Booking.kind, Booking.state,
        )
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(Attempt.key.in_(list(keys)))
        .order_by(Attempt.booking_id, Attempt.id)
        .with_for_update()
    )  # fmt: skip
    return [_Row(*row) for row in rows]


def placed(session: Session, given: Sequence[Given]) -> dict[str, int]:
    """The engine gave them GPUs: queued or confirmed → starting, and → running where access needs no hook.

    Returns the keys (with their bookings) that are wanted; the engine must stop the others (cancelled meanwhile).
    """
    news = {one.key: one for one in given}
    rows = _lock(session, news)
    wanted = {
        row.key: row.booking_id
        for row in rows
        if row.placed_at is not None and row.outcome is None and row.state in ON_THE_CLUSTER
    }
    fresh = [
        row
        for row in rows
        if row.placed_at is None
        and row.outcome is None
        and row.state in (BookingState.QUEUED, BookingState.CONFIRMED)
    ]
    if not fresh:
        return wanted
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id == sa.bindparam("attempt"))
        .values(placed_at=sa.bindparam("at"), until_at=sa.bindparam("until"), nodes=sa.bindparam("on_nodes")),
        [
            {
                "attempt": row.id,
                "at": news[row.key].at,
                "until": news[row.key].until,
                "on_nodes": news[row.key].nodes,
            }
            for row in fresh
        ],
    )
    session.execute(sa.delete(Standing).where(Standing.booking_id.in_([row.booking_id for row in fresh])))
    for before in (BookingState.QUEUED, BookingState.CONFIRMED):
        moves = [
            Move(
                row.booking_id,
                before,
                news[row.key].at,
                Sentence("placed-on", n=len(news[row.key].nodes), cards=row.gpus),
            )
            for row in fresh
            if row.state is before
        ]
        move_all(session, Booking, moves, BookingState.STARTING, verb="place", by=SYSTEM)
    _grant(session, {row: at for row in fresh if (at := news[row.key].granted_at) is not None})
    return wanted | {row.key: row.booking_id for row in fresh}


def granted(session: Session, at: Mapping[str, dt.datetime]) -> list[int]:
    """Access was given: starting → running. Metering begins here. Returns the bookings that run from now on."""
    rows = [row for row in _lock(session, at) if row.granted_at is None and row.state is BookingState.STARTING]
    _grant(session, {row: at[row.key] for row in rows if row.outcome is None})
    return [row.booking_id for row in rows if row.outcome is None]


def _grant(session: Session, at: Mapping[_Row, dt.datetime]) -> None:
    """All of them are `starting` now."""
    if not at:
        return
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id == sa.bindparam("attempt"))
        .values(granted_at=sa.bindparam("at"), metered_until_at=sa.bindparam("at")),
        [{"attempt": row.id, "at": instant} for row, instant in at.items()],
    )
    moves = [
        Move(row.booking_id, BookingState.STARTING, instant, values={"started_at": instant})
        for row, instant in at.items()
    ]
    move_all(session, Booking, moves, BookingState.RUNNING, verb="start", by=SYSTEM)


def grant_failed(session: Session, key: str, *, why: Sentence, tries: int, now: dt.datetime) -> bool:
    """The access hook said no. After `tries` times the attempt has failed: True, and the engine must stop it."""
    first = session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()
    if first.grant_tries + 1 >= tries:
        failed(session, key, why=why, at=now, tries=tries)
    attempt, booking = _attempt(session, key)
    if attempt.granted_at is None and (attempt.outcome is not None or booking.state is BookingState.STARTING):
        attempt.grant_tries += 1
        session.flush()
    return attempt.outcome is not None


def _attempt(session: Session, key: str) -> tuple[Attempt, Booking]:
    """The attempt and its booking, both locked."""
    attempt = session.scalars(sa.select(Attempt).where(Attempt.key == key)).one()
    booking = session.get_one(Booking, attempt.booking_id, with_for_update=True, populate_existing=True)
    session.refresh(attempt, with_for_update=True)
    return attempt, booking


def ended(session: Session, ends: Mapping[str, dt.datetime], *, revoked_at: dt.datetime | None = None) -> None:
    """They reached their end or were stopped: → finished. Their GPUs are planned for others from then on.

    `revoked_at` when no hook has to take access back: the GPUs are free at once.
    """
    pools.void_plans(session, _pools_of(Attempt.key.in_(list(ends)), Attempt.outcome.is_(None)))
    rows = [row for row in _lock(session, ends) if row.outcome is None]
    if not rows:
        return
    # What is metered already stays: an end that the engine reports late does not reach back into it.
    at = {row: max(ends[row.key], row.metered_until_at or ends[row.key]) for row in rows}
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id == sa.bindparam("attempt"))
        .values(
            outcome=AttemptOutcome.ENDED,
            ended_at=sa.bindparam("at"),
            metered_whole=sa.bindparam("whole"),
            revoked_at=revoked_at,
        ),
        [{"attempt": row.id, "at": end, "whole": row.granted_at is None} for row, end in at.items()],
    )
    for before in sorted(ON_THE_CLUSTER):
        moves = [
            Move(row.booking_id, before, end, values={"ended_at": end})
            for row, end in at.items()
            if row.state is before
        ]
        move_all(session, Booking, moves, BookingState.FINISHED, verb="finish", by=SYSTEM)
    pools.end_occupancies(
        session, {row.booking_id: end for row, end in at.items() if row.until_at is None or end < row.until_at}
    )
    if revoked_at is not None:
        pools.release_occupancies(session, {row.booking_id: end for row, end in at.items()}, at=revoked_at)


def _pools_of(*which: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(Booking.pool_id).join(Attempt, Attempt.booking_id == Booking.id).where(*which)


def withdrawn(session: Session, keys: Sequence[str], *, at: dt.datetime) -> None:
    """Their bookings were cancelled before the portal knew of a place; what the engine gave meanwhile is free again."""
    pools.void_plans(session, _pools_of(Attempt.key.in_(keys), Attempt.outcome.is_(None)))
    rows = [row for row in _lock(session, keys) if row.outcome is None and row.placed_at is None]
    if not rows:
        return
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id.in_([row.id for row in rows]))
        .values(outcome=AttemptOutcome.WITHDRAWN, ended_at=at, revoked_at=at, metered_whole=True)
    )
    for row in rows:
        pools.vacate(session, row.booking_id, given_until=None, at=at)


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
    at = max(at, attempt.metered_until_at or at)
    attempt.outcome = AttemptOutcome.FAILED
    attempt.ended_at = at
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
    if booking.state not in OPEN:
        pass  # cancelled meanwhile: only the attempt was left to close
    elif booking.state is BookingState.STOPPING or int(failures or 0) >= tries or over:
        _set_aside(session, booking, why, at)
    elif booking.state in (BookingState.STARTING, BookingState.RUNNING):
        back = BookingState.CONFIRMED if fixed else BookingState.QUEUED
        move_to(session, booking, back, verb="fail", at=at, by=SYSTEM, why=why)
    if not fixed:
        pools.end_occupancies(session, {booking.id: at})
    pools.changed(session, pool)


def _set_aside(session: Session, booking: Booking, why: Sentence, at: dt.datetime) -> None:
    move_to(session, booking, BookingState.FAILED, verb="fail", at=at, by=SYSTEM, why=why)
    booking.ended_at = at
    session.execute(sa.delete(Standing).where(Standing.booking_id == booking.id))
    session.flush()
    pools.end_occupancies(session, {booking.id: at})
    if booking.started_at is not None:
        return  # what ran is metered first, then it is settled
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


@dataclass(frozen=True, slots=True)
class ToDo:
    """An attempt that waits for the scheduler: to be withdrawn, granted or revoked."""

    id: int
    key: str
    booking_id: int
    enterprise_id: int
    outcome: AttemptOutcome | None
    placed: bool
    until_at: dt.datetime | None
    nodes: list[dict[str, Any]] | None


def list_to_do(session: Session) -> list[ToDo]:
    """Open attempts with something left to do, in one walk over the open ones:

    cancelled before they were placed (withdraw), placed and not granted (grant), over and not revoked (revoke).
    """
    rows = session.execute(
        sa.select(
            Attempt.id, Attempt.key, Attempt.booking_id, Booking.enterprise_id, Attempt.outcome, Attempt.placed_at,
            Attempt.until_at, Attempt.nodes,
        )
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(
            Attempt.revoked_at.is_(None),
            sa.or_(
                Attempt.outcome.is_not(None),
                sa.and_(
                    Attempt.placed_at.is_(None),
                    Attempt.handed_over_at.is_not(None),
                    Booking.state.not_in((BookingState.QUEUED, BookingState.CONFIRMED)),
                ),
                sa.and_(Attempt.placed_at.is_not(None), Attempt.granted_at.is_(None)),
            ),
        )
        .order_by(Attempt.id)
    )  # fmt: skip
    return [
        ToDo(id, key, booking_id, enterprise_id, outcome, placed_at is not None, until_at, nodes)
        for id, key, booking_id, enterprise_id, outcome, placed_at, until_at, nodes in rows
    ]


def list_under_way(session: Session) -> list[str]:
    """Keys of the attempts that the engine has and that are not over."""
    return list(
        session.scalars(
            sa.select(Attempt.key)
            .where(
                Attempt.revoked_at.is_(None), Attempt.outcome.is_(None), Attempt.handed_over_at.is_not(None)
            )
            .order_by(Attempt.id)
        )
    )


@dataclass(frozen=True, slots=True)
class View:
    """How far an attempt is, as the portal knows it. `waiting`: its booking still wants a place."""

    attempt_id: int
    over: bool
    placed: bool
    granted: bool
    state: BookingState

    @property
    def waiting(self) -> bool:
        return self.state in (BookingState.QUEUED, BookingState.CONFIRMED)


def look(session: Session, keys: Sequence[str]) -> dict[str, View]:
    """Read, not locked: the verbs look again under their locks."""
    rows = session.execute(
        sa.select(Attempt.key, Attempt.id, Attempt.outcome, Attempt.placed_at, Attempt.granted_at, Booking.state)
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(Attempt.key.in_(keys))
    )
    return {
        key: View(id, outcome is not None, placed_at is not None, granted_at is not None, state)
        for key, id, outcome, placed_at, granted_at, state in rows
    }


def list_over(session: Session, keys: Sequence[str]) -> list[str]:
    """Which of these attempts are over for us."""
    return list(
        session.scalars(sa.select(Attempt.key).where(Attempt.key.in_(keys), Attempt.outcome.is_not(None)))
    )


def find_under_way(session: Session, booking_id: int) -> str | None:
    """The key of the booking's attempt that is not over."""
    return session.scalar(
        sa.select(Attempt.key).where(Attempt.booking_id == booking_id, Attempt.outcome.is_(None))
    )


def revoked(session: Session, attempt_ids: Sequence[int], *, at: dt.datetime) -> None:
    """Access is gone: the GPUs may be given to others."""
    pools.void_plans(session, _pools_of(Attempt.id.in_(attempt_ids)))
    rows = session.execute(
        sa.select(Attempt.booking_id, Attempt.ended_at)
        .where(Attempt.id.in_(attempt_ids), Attempt.revoked_at.is_(None))
        .order_by(Attempt.id)
        .with_for_update()
    ).all()
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id.in_(attempt_ids), ATTEMPTS.c.revoked_at.is_(None))
        .values(revoked_at=at)
    )
    pools.release_occupancies(session, {booking_id: ended_at or at for booking_id, ended_at in rows}, at=at)


def revoke_failed(session: Session, attempt_id: int, *, now: dt.datetime) -> None:
    """Access could not be taken back: those GPUs stay out of service, and an operator is told."""
    pools.void_plans(session, _pools_of(Attempt.id == attempt_id))
    attempt = session.get_one(Attempt, attempt_id, with_for_update=True)
    if attempt.revoke_failed_at is None and attempt.revoked_at is None:
        attempt.revoke_failed_at = now
        session.flush()
        pools.withhold_occupancies(session, attempt.booking_id, ended_at=attempt.ended_at or now, at=now)


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


def settle(session: Session, booking_ids: Sequence[int], *, now: dt.datetime) -> None:
    """Everything used is charged: the rest of the holds goes back."""
    allocation_ids = sa.select(Booking.allocation_id).where(Booking.id.in_(booking_ids))
    ended = {
        id: state is AllocationState.CLOSED
        for id, state in session.execute(
            sa.select(Allocation.id, Allocation.state)
            .where(Allocation.id.in_(allocation_ids))
            .order_by(Allocation.id)
            .with_for_update()
        )
    }
    rows = session.execute(
        sa.select(
            Booking.id, Booking.allocation_id, Booking.state, Booking.held_gpu_seconds, Booking.charged_gpu_seconds
        )
        .where(
            Booking.id.in_(booking_ids),
            sa.or_(
                Booking.state == BookingState.FINISHED,
                sa.and_(Booking.state == BookingState.FAILED, Booking.held_gpu_seconds > 0),
            ),
        )
        .order_by(Booking.id)
        .with_for_update()
    ).all()
    releases = [
        ledger.Release(allocation_id, held, f"booking:{id}:release", ended[allocation_id])
        for id, allocation_id, _state, held, _charged in rows
    ]
    ledger.release_all(session, releases, at=now, by=SYSTEM)
    session.execute(
        sa.update(Booking).where(Booking.id.in_([row.id for row in rows])).values(held_gpu_seconds=0),
        execution_options={"synchronize_session": False},
    )
    moves = [
        Move(id, state, now, Sentence("settled-hours", used=charged, back=held))
        for id, _allocation_id, state, held, charged in rows
        if state is BookingState.FINISHED
    ]
    move_all(session, Booking, moves, BookingState.SETTLED, verb="settle", by=SYSTEM)


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
