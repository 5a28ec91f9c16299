"""What the engine did, written down: the only place where observations become attempts, states and GPUs."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import Given
from compute_portal.db import Writer, with_objects
from compute_portal.sentences import Sentence
from scheduler.context import BATCH, Context, in_batches, written_in_batches
from scheduler.engines import LeaseState, Observation
from scheduler.phases import phase

log = logging.getLogger(__name__)


def write(
    context: Context,
    news: Sequence[Observation],
    now: dt.datetime,
    with_ends: Callable[[Writer], None] = lambda writer: None,
) -> tuple[list[int], bool]:
    """Returns the bookings that run from now on, and whether everything could be written. `with_ends` writes what
    belongs to the ends, in their transaction; it may be called again."""
    placed = [one for one in news if one.state is LeaseState.PLACED]
    ended = [one for one in news if one.state is LeaseState.ENDED]
    started: dict[str, int] = {}
    unwanted: set[str] = set()

    def write_placed(session: sa.Connection, some: Sequence[Observation]) -> None:
        wanted = _write_placed(context, session, some, now)
        started.update(wanted)
        unwanted.update(one.key for one in some if one.key not in wanted)

    versions: dict[int, int] = {}

    def write_ended(session: sa.Connection, some: Sequence[Observation]) -> None:
        versions.clear()
        versions.update(_write_ended(context, session, some, now))
        with_ends(session)

    failures = 0
    if ended:
        with phase("end"):
            failures += written_in_batches(
                context,
                ended,
                write_ended,
                lambda one, error: give_up(context, one.key, error, now),
            )
        if versions and not failures and len(ended) <= BATCH:
            context.engine.freed([one.key for one in ended], versions)
    if placed:
        with phase("record-place"):
            failures += written_in_batches(
                context,
                placed,
                write_placed,
                lambda one, error: give_up(context, one.key, error, now),
            )
        if unwanted:
            # Cancelled between the engine's placing and our hearing of it.
            context.engine.stop(sorted(unwanted), now)
            failures += in_batches(
                context,
                sorted(unwanted),
                lambda session, keys: attempts.withdrawn(session, keys, at=now),
                lambda key, error: give_up(context, key, error, now),
            )
    return ([] if context.access is not None else list(started.values())), failures == 0


def _write_placed(context: Context, session: Writer, some: Sequence[Observation], now: dt.datetime) -> dict[str, int]:
    """Without a hook access counts as given from now on: later than placed only when a crash kept us from seeing it."""
    given = []
    for one in some:
        if one.placed_at is None or one.until_at is None:
            raise ValueError(f"{one.key} is placed, but the engine does not say from when until when")
        granted_at = max(now, one.placed_at) if context.access is None else None
        given.append(Given(one.key, one.nodes, one.placed_at, one.until_at, granted_at))
    return attempts.placed(session, given)


def _write_ended(context: Context, session: Writer, some: Sequence[Observation], now: dt.datetime) -> dict[int, int]:
    """The pools' versions since then, if all of it has given back its GPUs as it should."""
    by_key = {one.key: one for one in some}
    as_it_should = {one.key: one.ended_at or now for one in some if not one.failed}
    rest = [one.key for one in some if one.failed]
    versions: dict[int, int] = {}
    if as_it_should:
        revoked_at = now if context.access is None else None
        odd, versions = attempts.ended(session, as_it_should, revoked_at=revoked_at)
        rest += odd
    if rest:
        with with_objects(session) as objects:
            _write_odd_ends(context, objects, [by_key[key] for key in rest], now)
    return {} if rest or context.access is not None else versions


def _write_odd_ends(context: Context, session: Session, some: Sequence[Observation], now: dt.datetime) -> None:
    """What failed, what was cancelled, and what was over before anybody was let in."""
    for key, view in attempts.look(session, [one.key for one in some]).items():
        one = next(one for one in some if one.key == key)
        if view.over:
            continue
        if not view.placed and not view.waiting:
            attempts.withdrawn(session, [key], at=now)
            continue
        why = (one.reason or Sentence("engine-lost")) if one.failed else Sentence("over-before-access")
        tries = context.policy.queue.tries_before_set_aside
        attempts.failed(session, key, why=why, at=one.ended_at or now, tries=tries)
        if context.access is None:
            attempts.revoked(session, [view.attempt_id], at=now)


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
