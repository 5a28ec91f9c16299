"""What the engine did, written down: the only place where observations become attempts, states and GPUs."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import Given, View
from compute_portal.bookings.states import BookingState
from compute_portal.sentences import Sentence
from scheduler.context import Context, in_batches
from scheduler.engines import LeaseState, Observation
from scheduler.phases import phase

log = logging.getLogger(__name__)


def write(context: Context, news: Sequence[Observation], now: dt.datetime) -> tuple[list[int], bool]:
    """Returns the bookings that run from now on, and whether everything could be written."""
    placed = [one for one in news if one.state is LeaseState.PLACED]
    ended = [one for one in news if one.state is LeaseState.ENDED]
    started: dict[str, int] = {}
    failures = 0
    if ended:
        with phase("end"):
            failures += in_batches(
                context,
                ended,
                lambda session, some: _write_ended(context, session, some, now),
                lambda one, error: give_up(context, one.key, error, now),
            )
    if placed:
        with phase("record-place"):
            failures += in_batches(
                context,
                placed,
                lambda session, some: started.update(_write_placed(context, session, some, now)),
                lambda one, error: give_up(context, one.key, error, now),
            )
        unwanted = [one.key for one in placed if one.key not in started]
        if unwanted:
            # Cancelled between the engine's placing and our hearing of it.
            context.engine.stop(unwanted, now)
            failures += in_batches(
                context,
                unwanted,
                lambda session, keys: attempts.withdrawn(session, keys, at=now),
                lambda key, error: give_up(context, key, error, now),
            )
    return ([] if context.access is not None else list(started.values())), failures == 0


def _write_placed(context: Context, session: Session, some: Sequence[Observation], now: dt.datetime) -> dict[str, int]:
    """Without a hook access counts as given from now on: later than placed only when a crash kept us from seeing it."""
    given = []
    for one in some:
        if one.placed_at is None or one.until_at is None:
            raise ValueError(f"{one.key} is placed, but the engine does not say from when until when")
        granted_at = max(now, one.placed_at) if context.access is None else None
        given.append(Given(one.key, one.nodes, one.placed_at, one.until_at, granted_at))
    return attempts.placed(session, given)


def _write_ended(context: Context, session: Session, some: Sequence[Observation], now: dt.datetime) -> None:
    views = attempts.look(session, [one.key for one in some])
    finished: dict[str, dt.datetime] = {}
    withdrawn: list[str] = []
    for one in some:
        view = views[one.key]
        if view.over:
            continue
        if not view.placed and not view.waiting:
            withdrawn.append(one.key)
            continue
        why = _why_failed(one, view)
        if why is None:
            finished[one.key] = one.ended_at or now
        else:
            attempts.failed(
                session, one.key, why=why, at=one.ended_at or now, tries=context.policy.queue.tries_before_set_aside
            )
            if context.access is None:
                attempts.revoked(session, [view.attempt_id], at=now)
    if finished:
        attempts.ended(session, finished, revoked_at=now if context.access is None else None)
    if withdrawn:
        attempts.withdrawn(session, withdrawn, at=now)


def _why_failed(one: Observation, view: View) -> Sentence | None:
    """None when it ended as it should: somebody was let in, or asked for its end."""
    if one.failed:
        return one.reason or Sentence("engine-lost")
    if view.granted or view.state is BookingState.STOPPING:
        return None
    return Sentence("over-before-access")


def give_up(context: Context, key: str, error: Exception, now: dt.datetime) -> None:
    """Count one more failure. After some the booking is set aside with the reason, and the engine told to drop it."""
    tries = context.tries[key] = context.tries.get(key, 0) + 1
    if tries < context.policy.queue.tries_before_set_aside:
        return
    why = Sentence("set-aside", tries=tries, error=f"{type(error).__name__}: {error}"[:200])
    try:
        context.transact(lambda session: attempts.failed(session, key, why=why, at=now, tries=1))
        context.engine.stop([key], now)
    except Exception:
        # It stays as it is and comes back in the next round; the others must go on.
        log.exception("could not be set aside", extra={"key": key})
        return
    log.error("set aside", extra={"key": key, "tries": tries})
    del context.tries[key]
