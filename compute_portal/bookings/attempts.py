"""What happens to a booking at the engine, as told by the scheduler: the verbs of attempts.

Each verb may be called again with the same news: what is already so stays so. That is what makes a crash harmless.
Locks: pool, allocation, booking, in this order.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..db import AboutThese, Reader, Writer, lock
from ..ledger import service as ledger
from ..lifecycle import Move, move_all, move_to
from ..pools import service as pools
from ..pools.models import Pool
from ..sentences import Sentence
from .models import TO_DO, Attempt, Booking, Standing
from .service import free_slot, give_back
from .states import ON_THE_CLUSTER, OPEN, AttemptOutcome, BookingKind, BookingState

ATTEMPTS = cast(sa.Table, Attempt.__table__)
BOOKINGS = cast(sa.Table, Booking.__table__)
ALLOCATIONS = cast(sa.Table, Allocation.__table__)


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


# So long before its hours the engine hears of a fixed booking: time to find other cards, should a node have failed.
AHEAD = dt.timedelta(minutes=2)
# Statements that every cycle runs are made once: making one costs more than running it.
A, B = ATTEMPTS.c, BOOKINGS.c
_WAITING = (
    sa.select(B.id, B.ends_at)
    .where(
        B.under_way.is_(False),
        B.state.in_((BookingState.QUEUED, BookingState.CONFIRMED)),
        sa.or_(B.starts_at.is_(None), B.starts_at <= sa.bindparam("soon")),
    )
    .order_by(B.id)
    .limit(1000)
)
_HAND_OVER = (
    sa.select(
        B.id, B.tries, B.pool_id, B.kind, B.gpus, B.longest_seconds, B.starts_at, B.ends_at, B.not_before_at,
        B.submitted_at, ALLOCATIONS.c.programme_id, ALLOCATIONS.c.enterprise_id, ALLOCATIONS.c.id,
        ALLOCATIONS.c.ends_on,
    )
    .join_from(BOOKINGS, ALLOCATIONS, ALLOCATIONS.c.id == B.allocation_id)
)  # fmt: skip
_TO_WRITE = AboutThese(
    lambda these: (
        _HAND_OVER.where(
            these(B.id),
            B.state.in_((BookingState.QUEUED, BookingState.CONFIRMED)),
            B.under_way.is_(False),
        )
        .order_by(B.id)
        .with_for_update(of=BOOKINGS)
    )
)
_COUNT_TRY = AboutThese(
    lambda these: sa.update(BOOKINGS).where(these(B.id)).values(tries=BOOKINGS.c.tries + 1, under_way=True)
)
_WRITE = sa.insert(ATTEMPTS)
_UNRECORDED = (
    _HAND_OVER.add_columns(A.key)
    .join(ATTEMPTS, A.booking_id == B.id)
    .where(A.outcome.is_(None), A.revoked_at.is_(None), A.handed_over_at.is_(None))
    .order_by(A.id)
)
_RECORD = (
    sa.update(ATTEMPTS)
    .where(A.key == sa.bindparam("this_key"), A.handed_over_at.is_(None))
    .values(handed_over_at=sa.bindparam("at"), engine_reference=sa.bindparam("reference"))
)


def list_waiting(session: Reader, now: dt.datetime) -> tuple[list[int], list[int]]:
    """Bookings without an attempt under way: flexible ones and fixed ones whose hours begin soon, to be handed over;
    and fixed ones whose window passed meanwhile."""
    to_hand_over: list[int] = []
    missed: list[int] = []
    for id, ends_at in session.execute(_WAITING, {"soon": now + AHEAD}):
        (to_hand_over if ends_at is None or ends_at > now else missed).append(id)
    return to_hand_over, missed


def write(session: Writer, booking_ids: Sequence[int], *, now: dt.datetime) -> list[HandOver]:
    """Write the attempts before anything is handed over, so that a crash leaves a key to ask the engine for."""
    waiting = session.execute(*_TO_WRITE(booking_ids)).all()
    if not waiting:
        return []
    session.execute(*_COUNT_TRY([row.id for row in waiting]))
    numbered = [(row, row.tries + 1, f"booking-{row.id}-{row.tries + 1}") for row in waiting]
    session.execute(
        _WRITE,
        [{"booking_id": row.id, "number": number, "key": key, "written_at": now} for row, number, key in numbered],
    )
    return [_hand_over(key, row) for row, _number, key in numbered]


def list_unrecorded(session: Session) -> list[HandOver]:
    """Attempts that were written, but of which nobody knows whether the engine got them."""
    return [_hand_over(row.key, row) for row in session.execute(_UNRECORDED)]


def _hand_over(key: str, row: Any) -> HandOver:
    (
        booking_id, _tries, pool_id, kind, gpus, seconds, starts_at, ends_at, not_before_at, submitted_at,
        programme_id, enterprise_id, allocation_id, ends_on, *_,
    ) = row  # fmt: skip
    return HandOver(
        key, booking_id, pool_id, kind is BookingKind.FIXED, gpus, seconds, starts_at, ends_at, not_before_at,
        submitted_at, programme_id, enterprise_id, allocation_id, clock.end_of_day(ends_on),
    )  # fmt: skip


def record_handed_over(session: Writer, references: Mapping[str, str], *, now: dt.datetime) -> None:
    """The engine has these attempts: its reference by our key."""
    if references:
        session.execute(_RECORD, [{"this_key": key, "reference": ref, "at": now} for key, ref in references.items()])


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
    window_end: dt.datetime | None

    @property
    def waits(self) -> bool:
        return self.state in (BookingState.QUEUED, BookingState.CONFIRMED)


_LOCK = AboutThese(
    lambda these: sa.select(
        A.id, A.key, A.booking_id, A.outcome, A.placed_at, A.until_at, A.granted_at, A.metered_until_at, B.gpus,
        B.kind, B.state, B.ends_at,
    )
    .join_from(ATTEMPTS, BOOKINGS, B.id == A.booking_id)
    .where(these(A.key))
    .order_by(A.booking_id, A.id)
    .with_for_update()
)  # fmt: skip
_PLACE = (
    sa.update(ATTEMPTS)
    .where(A.id == sa.bindparam("attempt"))
    .values(
        placed_at=sa.bindparam("at"),
        until_at=sa.bindparam("until"),
        nodes=sa.bindparam("on_nodes"),
        granted_at=sa.bindparam("granted"),
        metered_until_at=sa.bindparam("granted"),
    )
)
_GRANT = (
    sa.update(ATTEMPTS)
    .where(A.id == sa.bindparam("attempt"))
    .values(granted_at=sa.bindparam("at"), metered_until_at=sa.bindparam("at"))
)
_NO_STANDING = AboutThese(
    lambda these: sa.delete(cast(sa.Table, Standing.__table__)).where(these(Standing.__table__.c.booking_id))
)
_END = (
    sa.update(ATTEMPTS)
    .where(A.id == sa.bindparam("attempt"))
    .values(
        outcome=AttemptOutcome.ENDED,
        ended_at=sa.bindparam("at"),
        metered_whole=sa.bindparam("whole"),
        revoked_at=sa.bindparam("revoked"),
    )
)
_POOLS_OF = (
    sa.select(B.pool_id)
    .join_from(BOOKINGS, ATTEMPTS, A.booking_id == B.id)
    .where(A.id.in_(sa.bindparam("ids", expanding=True)))
)
_VOID_OPEN = AboutThese(
    lambda these: pools.void_plans(
        sa.select(B.pool_id)
        .join_from(BOOKINGS, ATTEMPTS, A.booking_id == B.id)
        .where(these(A.key), A.outcome.is_(None))
    ).returning(Pool.__table__.c.id, Pool.__table__.c.version)
)
_VOID = pools.void_plans(_POOLS_OF)


def _lock(session: Writer, keys: Collection[str]) -> list[_Row]:
    """These attempts and their bookings, locked, in the order of the bookings."""
    rows: Iterable[Any] = session.execute(*_LOCK(keys))
    return [_Row(*row) for row in rows]


def placed(session: Writer, given: Sequence[Given]) -> dict[str, int]:
    """The engine gave them GPUs: queued or confirmed → starting, and → running where access needs no hook.

    Either all of them or none are granted at once. Returns the keys (with their bookings) that are wanted; the engine
    must stop the others (cancelled meanwhile).
    """
    news = {one.key: one for one in given}
    rows = _lock(session, news)
    wanted = {
        row.key: row.booking_id
        for row in rows
        if row.placed_at is not None and row.outcome is None and row.state in ON_THE_CLUSTER
    }
    fresh = [(row, news[row.key]) for row in rows if row.placed_at is None and row.outcome is None and row.waits]
    if not fresh:
        return wanted
    session.execute(
        _PLACE,
        [
            {"attempt": row.id, "at": one.at, "until": one.until, "on_nodes": one.nodes, "granted": one.granted_at}
            for row, one in fresh
        ],
    )
    session.execute(*_NO_STANDING([row.booking_id for row, _one in fresh]))
    moves = [
        Move(
            row.booking_id,
            row.state,
            one.at,
            (Sentence("placed-on", n=len(one.nodes), cards=row.gpus),),
            {} if one.granted_at is None else {"started_at": one.granted_at},
        )
        for row, one in fresh
    ]
    start = [] if fresh[0][1].granted_at is None else [(BookingState.RUNNING, "start")]
    move_all(session, Booking, moves, (BookingState.STARTING, "place"), *start, by=SYSTEM)
    return wanted | {row.key: row.booking_id for row, _one in fresh}


def granted(session: Writer, at: Mapping[str, dt.datetime]) -> list[int]:
    """Access was given: starting → running. Metering begins here. Returns the bookings that run from now on."""
    rows = [
        row
        for row in _lock(session, at)
        if row.granted_at is None and row.outcome is None and row.state is BookingState.STARTING
    ]
    if rows:
        session.execute(_GRANT, [{"attempt": row.id, "at": at[row.key]} for row in rows])
        # The hook's answer says that somebody is there to use it.
        moves = [
            Move(row.booking_id, row.state, at[row.key], values={"started_at": at[row.key], "claimed_at": at[row.key]})
            for row in rows
        ]
        move_all(session, Booking, moves, (BookingState.RUNNING, "start"), by=SYSTEM)
    return [row.booking_id for row in rows]


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


def ended(
    session: Writer, ends: Mapping[str, dt.datetime], *, revoked_at: dt.datetime | None = None
) -> tuple[list[str], dict[int, int]]:
    """They reached their end or were stopped: → finished. Their GPUs are planned for others from then on.

    `revoked_at` when no hook has to take access back: the GPUs are free at once. Returns the keys of those that nobody
    was let in to and nobody stopped: they did not end as they should, and are left as they are; and the versions of
    the pools, which are raised by one.
    """
    versions = {id: version for id, version in session.execute(*_VOID_OPEN(ends))}
    rows = [row for row in _lock(session, ends) if row.outcome is None]
    odd = [row.key for row in rows if row.granted_at is None and row.state is not BookingState.STOPPING]
    # What is metered already stays: an end that the engine reports late does not reach back into it.
    # A fixed booking whose rest was given back ended there, also when the engine needed some seconds more.
    at = {row: _ended_at(row, ends[row.key]) for row in rows if row.key not in odd}
    if not at:
        return odd, versions
    session.execute(
        _END,
        [
            {"attempt": row.id, "at": end, "whole": row.granted_at is None, "revoked": revoked_at}
            for row, end in at.items()
        ],
    )
    moves = [
        Move(row.booking_id, row.state, end, values={"ended_at": end, "under_way": False})
        for row, end in at.items()
        if row.state in ON_THE_CLUSTER
    ]
    _no_longer_under_way(session, [row.booking_id for row in at if row.state not in ON_THE_CLUSTER])
    move_all(session, Booking, moves, (BookingState.FINISHED, "finish"), by=SYSTEM)
    pools.end_occupancies(
        session, {row.booking_id: end for row, end in at.items() if row.until_at is None or end < row.until_at}
    )
    if revoked_at is not None:
        pools.release_occupancies(session, {row.booking_id: end for row, end in at.items()}, at=revoked_at)
    return odd, versions


def _ended_at(row: _Row, end: dt.datetime) -> dt.datetime:
    if row.window_end is not None:
        end = min(end, row.window_end)
    return max(end, row.metered_until_at or row.placed_at or end)


def withdrawn(session: Session, keys: Sequence[str], *, at: dt.datetime) -> None:
    """Their bookings were cancelled before the portal knew of a place; what the engine gave meanwhile is free again."""
    session.execute(*_VOID_OPEN(keys))
    rows = [row for row in _lock(session, keys) if row.outcome is None and row.placed_at is None]
    if not rows:
        return
    session.execute(
        sa.update(ATTEMPTS)
        .where(ATTEMPTS.c.id.in_([row.id for row in rows]))
        .values(outcome=AttemptOutcome.WITHDRAWN, ended_at=at, revoked_at=at, metered_whole=True)
    )
    _no_longer_under_way(session, [row.booking_id for row in rows])
    for row in rows:
        pools.vacate(session, row.booking_id, given_until=None, at=at)


def _no_longer_under_way(session: Writer, booking_ids: Sequence[int]) -> None:
    if booking_ids:
        session.execute(sa.update(BOOKINGS).where(B.id.in_(booking_ids)).values(under_way=False))


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
    booking.under_way = False
    session.flush()
    reasons = session.scalars(
        sa.select(Attempt.reason).where(Attempt.booking_id == booking.id, Attempt.outcome == AttemptOutcome.FAILED)
    )
    failures = sum(1 for reason in reasons if reason is None or reason["id"] != "gave-way")  # that one was no failure
    fixed = booking.kind is BookingKind.FIXED
    over = fixed and booking.ends_at is not None and booking.ends_at <= at
    if booking.state not in OPEN:
        pass  # cancelled meanwhile: only the attempt was left to close
    elif booking.state is BookingState.STOPPING or failures >= tries or over:
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


class Step(enum.StrEnum):
    """What an open attempt waits for from the scheduler."""

    HAND_OVER = "hand_over"  # written, but nobody knows whether the engine got it
    WITHDRAW = "withdraw"  # cancelled before it was placed
    GRANT = "grant"  # placed, nobody was let in yet
    REVOKE = "revoke"  # over, access not taken back


@dataclass(frozen=True, slots=True)
class ToDo:
    id: int
    key: str
    booking_id: int
    enterprise_id: int
    step: Step
    placed: bool
    until_at: dt.datetime | None
    nodes: list[dict[str, Any]] | None


_TO_DO = (
    sa.select(A.id, A.key, A.booking_id, B.enterprise_id, A.outcome, A.placed_at, A.until_at, A.nodes, A.handed_over_at)
    .join_from(ATTEMPTS, BOOKINGS, B.id == A.booking_id)
    .where(TO_DO)
    .order_by(A.id)
)


def list_to_do(session: Reader) -> list[ToDo]:
    """Open attempts with something left to do, in one walk over the open ones."""
    found = []
    for id, key, booking_id, enterprise_id, outcome, placed_at, until_at, nodes, handed_over_at in session.execute(
        _TO_DO
    ):
        if outcome is not None:
            step = Step.REVOKE
        elif handed_over_at is None:
            step = Step.HAND_OVER
        elif placed_at is None:
            step = Step.WITHDRAW
        else:
            step = Step.GRANT
        found.append(ToDo(id, key, booking_id, enterprise_id, step, placed_at is not None, until_at, nodes))
    return found


def list_under_way(session: Session) -> list[str]:
    """Keys of the attempts that the engine has and that are not over."""
    return list(
        session.scalars(
            sa.select(Attempt.key)
            .where(Attempt.revoked_at.is_(None), Attempt.outcome.is_(None), Attempt.handed_over_at.is_not(None))
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
    return list(session.scalars(sa.select(Attempt.key).where(Attempt.key.in_(keys), Attempt.outcome.is_not(None))))


_KEYS_UNDER_WAY = AboutThese(
    lambda these: sa.select(A.booking_id, A.key).where(these(A.booking_id), A.outcome.is_(None))
)


def keys_under_way(session: Reader, booking_ids: Sequence[int]) -> dict[int, str]:
    """The key of each booking's attempt that is not over, where there is one."""
    return {booking_id: key for booking_id, key in session.execute(*_KEYS_UNDER_WAY(booking_ids))}


def ends_under_way(session: Reader, booking_ids: Sequence[int]) -> dict[str, dt.datetime]:
    """By key, when what is under way of these fixed bookings ends now."""
    rows = session.execute(
        sa.select(A.key, B.ends_at)
        .join_from(ATTEMPTS, BOOKINGS, B.id == A.booking_id)
        .where(A.booking_id.in_(booking_ids), A.outcome.is_(None), B.ends_at.is_not(None))
    )
    return {key: ends_at for key, ends_at in rows if ends_at is not None}


def revoked(session: Session, attempt_ids: Sequence[int], *, at: dt.datetime) -> None:
    """Access is gone: the GPUs may be given to others."""
    session.execute(_VOID, {"ids": list(attempt_ids)})
    rows = session.execute(
        sa.select(Attempt.booking_id, Attempt.ended_at)
        .where(Attempt.id.in_(attempt_ids), Attempt.revoked_at.is_(None))
        .order_by(Attempt.id)
        .with_for_update()
    ).all()
    session.execute(
        sa.update(ATTEMPTS).where(ATTEMPTS.c.id.in_(attempt_ids), ATTEMPTS.c.revoked_at.is_(None)).values(revoked_at=at)
    )
    pools.release_occupancies(session, {booking_id: ended_at or at for booking_id, ended_at in rows}, at=at)


def revoke_failed(session: Session, attempt_id: int, *, now: dt.datetime) -> None:
    """Access could not be taken back: those GPUs stay out of service, and an operator is told."""
    session.execute(_VOID, {"ids": [attempt_id]})
    attempt = session.get_one(Attempt, attempt_id, with_for_update=True)
    if attempt.revoke_failed_at is None and attempt.revoked_at is None:
        attempt.revoke_failed_at = now
        session.flush()
        pools.withhold_occupancies(session, attempt.booking_id, ended_at=attempt.ended_at or now, at=now)


# Over, and settled without another move: what they used is metered first.
OVER_WITH_A_HOLD = (BookingState.FAILED, BookingState.NO_SHOW)


def list_to_settle(session: Session, limit: int = 1000) -> list[int]:
    """Finished (or failed after running) bookings of which everything is metered."""
    unmetered = sa.exists().where(Attempt.booking_id == Booking.id, Attempt.metered_whole.is_(False))
    return list(
        session.scalars(
            sa.select(Booking.id)
            .where(
                sa.or_(
                    Booking.state == BookingState.FINISHED,
                    sa.and_(Booking.state.in_(OVER_WITH_A_HOLD), Booking.held_gpu_seconds > 0),
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
                sa.and_(Booking.state.in_(OVER_WITH_A_HOLD), Booking.held_gpu_seconds > 0),
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
        Move(id, state, now, (Sentence("settled-hours", used=charged, back=held),))
        for id, _allocation_id, state, held, charged in rows
        if state is BookingState.FINISHED
    ]
    move_all(session, Booking, moves, (BookingState.SETTLED, "settle"), by=SYSTEM)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting booking stands, as the cycle saw it, and the one change that would start it."""

    booking_id: int
    pool_id: int
    place: int | None
    waiting: int | None
    reason: Sentence
    change: Sentence | None = None


def write_standings(session: Session, places: Sequence[Place], *, pool_id: int, now: dt.datetime) -> int:
    """Keep what is unchanged, write what is new or other, drop who no longer waits. Returns how many rows changed.

    When it will start is another's to tell: see `estimates`.
    """
    before = {row.booking_id: row for row in session.scalars(sa.select(Standing).where(Standing.pool_id == pool_id))}
    new, changed = [], 0
    for place in places:
        row = before.pop(place.booking_id, None)
        values = {
            "place": place.place,
            "waiting": place.waiting,
            "reason": place.reason.to_json(),
            "change": None if place.change is None else place.change.to_json(),
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
