"""What the functions of the timetable work with, so that production and the simulation run the same ones."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.db import Database
from compute_portal.policy import Policy, QueuePolicy
from scheduler.access_hook import AccessHook
from scheduler.engines import Engine, LeaseState
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.leader import Leader
from scheduler.planning.forecast import Ranges, RunTimes
from scheduler.planning.planner import Snapshot
from scheduler.planning.rules import Rules
from scheduler.post import Post

T = TypeVar("T")
Item = TypeVar("Item")
log = logging.getLogger(__name__)
BATCH = 200  # items per transaction: short enough that a web request never waits long
# The store is down, full or locked: no reason to blame a booking.
OUT_OF_REACH = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


class PassFailed(Exception):
    """Parts of a pass failed and the others went on. The text goes into the run's row."""


@dataclass
class Ahead:
    """What looking ahead remembers, and what the cycle leaves for it. All of it may be lost."""

    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # by pool
    known: dict[int, frozenset[int]] = field(default_factory=dict)  # bookings that have a range, by pool
    next_at: int = 0  # Unix seconds
    rest_until: int = 0
    times: RunTimes = field(default_factory=RunTimes)
    ranges: dict[int, Ranges] = field(default_factory=dict)  # by pool
    learnt_at: int | None = None

    def is_due(self, now: int, waiting: Mapping[int, Iterable[int]], every_seconds: int) -> bool:
        """Every so often, and when something waits (ids by pool) that has no range yet; never while it rests."""
        if now < self.rest_until <= now + every_seconds:
            return False  # a clock that was set back must not keep it resting
        news = any(not self.known.get(pool_id, frozenset()).issuperset(ids) for pool_id, ids in waiting.items())
        return news or not now < self.next_at <= now + every_seconds

    def leave(self, snapshots: Mapping[int, Snapshot], now: int, every_seconds: int) -> None:
        self.snapshots, self.next_at = dict(snapshots), now + every_seconds

    def take(self) -> dict[int, Snapshot]:
        taken, self.snapshots = self.snapshots, {}
        return taken

    def rest(self, now: int, seconds: float) -> None:
        self.rest_until = now + round(seconds)


@dataclass
class Context:
    """`transact` and `write` are the only ways to write; they refuse when another scheduler has taken over."""

    database: Database
    leader: Leader
    engine: Engine
    policy: Policy
    access: AccessHook | None = None  # None: the bureau hands access over by hand
    post: Post | None = None  # None: mail waits
    alive: Callable[[], None] = lambda: None  # tells the watchdog
    # What the cycle remembers between two rounds. All of it may be lost: it is found again.
    observed_at: dt.datetime | None = None
    applied: set[tuple[str, LeaseState]] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=dict)
    drafts: set[tuple[int, str]] = field(default_factory=set)  # enterprise and month that have a statement
    round_seconds: float = 0.0  # what the last round took
    ahead: Ahead = field(default_factory=Ahead)

    def transact(self, work: Callable[[Session], T]) -> T:
        return self.leader.transaction(work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """`transact` for verbs that work on columns alone, at half the cost."""
        return self.leader.write(work)


def open_context(
    database: Database,
    leader: Leader,
    policy: Policy,
    *,
    access: AccessHook | None = None,
    post: Post | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Context:
    """A context with the embedded engine; the leader has been taken."""
    engine = EmbeddedEngine(database, leader, rules_of(policy.queue), rules_by_pool(policy.queue))
    return Context(database, leader, engine, policy, access, post, alive)


def simulation(database: Database, policy: Policy) -> Context:
    """A context without an access hook, for whoever drives time himself. Refuses beside an active scheduler."""
    leader = Leader(database)
    if not leader.take(clock.now()):
        raise RuntimeError("a scheduler is active on this database")
    return open_context(database, leader, policy)


def rules_of(queue: QueuePolicy) -> Rules:
    """The policy's numbers as planning knows them."""
    return Rules(
        order=queue.order,
        backfill=queue.backfill,
        half_life_seconds=round(queue.usage_half_life_days * 86_400),
        overuse_power=queue.overuse_power,
        overuse_least=queue.overuse_least,
        fair_heads=queue.fair_heads,
        fair_below=queue.fair_below,
        promise_seconds=round(queue.promise_hours * 3_600),
        promise_share=queue.promise_share,
        promise_reservations=queue.promise_reservations,
    )


def rules_by_pool(queue: QueuePolicy) -> dict[str, Rules]:
    """Of the pools that do otherwise, by name."""
    return {name: rules_of(queue.of_pool(name)) for name in queue.pools}


def in_batches(
    context: Context,
    items: Sequence[Item],
    work: Callable[[Session, Sequence[Item]], object],
    bad: Callable[[Item, Exception], None],
    size: int = BATCH,
) -> int:
    """Do `work` for many items, `size` in a transaction. Where a batch fails, each of its items gets its own.

    An item that fails alone goes to `bad` and the others go on. What is wrong with the database itself is raised.
    Returns how many items failed.
    """
    return _in_batches(context, items, lambda some: context.transact(lambda session: work(session, some)), bad, size)


def written_in_batches(
    context: Context,
    items: Sequence[Item],
    work: Callable[[sa.Connection, Sequence[Item]], object],
    bad: Callable[[Item, Exception], None],
) -> int:
    """`in_batches` for verbs that work on columns alone."""
    return _in_batches(context, items, lambda some: context.write(lambda writer: work(writer, some)), bad, BATCH)


def _in_batches(
    context: Context,
    items: Sequence[Item],
    do: Callable[[Sequence[Item]], object],
    bad: Callable[[Item, Exception], None],
    size: int,
) -> int:
    failed = 0
    for first in range(0, len(items), size):
        batch = items[first : first + size]
        if (error := _attempt(batch, do)) is not None:
            if len(batch) == 1:
                bad(batch[0], error)
                failed += 1
                continue
            for item in batch:
                if (error := _attempt([item], do)) is not None:
                    bad(item, error)
                    failed += 1
        context.alive()
    return failed


def _attempt(batch: Sequence[Item], do: Callable[[Sequence[Item]], object]) -> Exception | None:
    try:
        do(batch)
    except OUT_OF_REACH:
        raise
    except Exception as error:
        log.exception("a transaction failed", extra={"items": len(batch)})
        return error
    return None
