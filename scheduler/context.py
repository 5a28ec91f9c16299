"""What the functions of the timetable work with, so that production and the simulation run the same ones."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.db import Database
from compute_portal.policy import Policy
from scheduler.access_hook import AccessHook
from scheduler.engines import Engine, LeaseState
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.leader import Leader

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - one item of a batch
log = logging.getLogger(__name__)
BATCH = 200  # rows per transaction: short enough that a web request never waits long


class PassFailed(Exception):
    """Parts of a pass failed; the others went on. The text goes into the run's row."""


@dataclass
class Context:
    """`transact` is the only way to write; it refuses when another scheduler has taken over."""

    database: Database
    leader: Leader
    engine: Engine
    policy: Policy
    access: AccessHook | None = None
    clock: Callable[[], dt.datetime] = clock.now
    alive: Callable[[], None] = lambda: None  # tells the watchdog
    # What the cycle remembers between two passes. All of it may be lost: it is found again.
    observed_at: dt.datetime | None = None
    applied: set[tuple[str, LeaseState]] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=dict)

    def transact(self, work: Callable[[Session], T]) -> T:
        return self.leader.transaction(work)


def open_context(
    database: Database, leader: Leader, policy: Policy, *, access: AccessHook | None = None
) -> Context:
    """A context with the embedded engine. The leader has been taken."""
    engine = EmbeddedEngine(database, leader.transaction, policy.queue.half_life_days)
    return Context(database=database, leader=leader, engine=engine, policy=policy, access=access)


def in_batches(
    context: Context,
    items: Sequence[I],
    work: Callable[[Session, Sequence[I]], None],
    bad: Callable[[I, Exception], None],
    size: int = BATCH,
) -> int:
    """Do `work` for many items, `size` in a transaction. Where a batch fails, each of its items gets its own.

    An item that fails alone goes to `bad` and the others go on. What is wrong with the database itself is raised.
    Returns how many items failed.
    """
    failed = 0
    for first in range(0, len(items), size):
        batch = items[first : first + size]
        try:
            context.transact(lambda session, batch=batch: work(session, batch))  # type: ignore[misc]
        except _NOT_THE_ITEMS_FAULT:
            raise
        except Exception:
            log.exception("a batch failed, trying one by one")
            for item in batch:
                failed += not _alone(context, item, work, bad)
        context.alive()
    return failed


def _alone(
    context: Context, item: I, work: Callable[[Session, Sequence[I]], None], bad: Callable[[I, Exception], None]
) -> bool:
    try:
        context.transact(lambda session: work(session, [item]))
    except _NOT_THE_ITEMS_FAULT:
        raise
    except Exception as error:
        log.exception("it fails alone too")
        bad(item, error)
        return False
    return True


# The store is down, full or locked: no reason to set a booking aside.
_NOT_THE_ITEMS_FAULT = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
