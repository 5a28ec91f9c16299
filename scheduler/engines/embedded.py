"""The default engine: no cluster software, the pools and nodes of the database are the cluster.

The table `leases` is its queue and its record; nothing else writes it. So this process may keep the open ones in
memory, too: the leader's fence lets only one process write, and after any error everything is read again.

It plans on the pool's version v outside any transaction and applies in a short one that locks the pool's row and
requires v; otherwise it plans again. It ends leases exactly at their end, also when that is noticed late, and it never
executes anything that a user typed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from compute_portal.allocations import fair
from compute_portal.allocations.models import Allocation, FairUsage
from compute_portal.allocations.states import AllocationState
from compute_portal.bookings.attempts import HandOver, Place
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import AttemptOutcome, BookingKind, BookingState
from compute_portal.budgets.models import AllocationBudget
from compute_portal.db import AboutThese, Database, Reader, UtcDateTime, Writer
from compute_portal.desk.models import Lease
from compute_portal.pools import queries as pool_queries
from compute_portal.pools import service as pools
from compute_portal.pools.availability import FOREVER, Availability, Placement
from compute_portal.pools.models import Limit, Node, NodeInterval, Occupancy, Pool
from compute_portal.pools.queries import epoch
from compute_portal.pools.states import BookingUnit, NodeState
from compute_portal.programmes.models import EnterpriseShare, Programme
from compute_portal.sentences import Sentence
from scheduler.engines import Capabilities, EnginePolicy, LeaseState, Observation
from scheduler.planning import planner
from scheduler.planning.fairshare import Leaf
from scheduler.planning.planner import Running, Snapshot, Start, Waiting
from scheduler.planning.reasons import said
from scheduler.planning.rules import Rules

log = logging.getLogger(__name__)
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
LEASES = cast(sa.Table, Lease.__table__)
NOT_THERE = (NodeState.DOWN, NodeState.OUT_OF_SERVICE)
# Somebody changed the pool while we planned: so often we plan again, then the next cycle does.
PLANS = 5
# What no version tells (a limit, shares, a maintenance window that is over) is seen after this time at the latest.
LOOK_AGAIN = dt.timedelta(seconds=60)
BELIEVED = 10 * LOOK_AGAIN  # who has which GPUs, as far as versions tell


# Statements that every cycle runs are made once: making one costs more than running it.
# They name columns of tables, not of mapped classes, which would cost half as much again.
NODES, INTERVALS, OCCUPANCIES, POOLS, BOOKINGS, LIMITED, ALLOCATIONS, BUDGETS, PROGRAMMES, SHARES, USAGE, ATTEMPTS = (
    cast(sa.Table, model.__table__).c
    for model in (
        Node, NodeInterval, Occupancy, Pool, Booking, Limit, Allocation, AllocationBudget, Programme, EnterpriseShare,
        FairUsage, Attempt,
    )
)  # fmt: skip
VERSIONS = sa.select(POOLS.id, POOLS.version)
VERSION = sa.select(POOLS.version).where(POOLS.id == sa.bindparam("pool"))
THIS_POOL = sa.select(POOLS.id, POOLS.name, POOLS.version, POOLS.booking_unit).where(POOLS.id == sa.bindparam("pool"))
NAMES = sa.select(NODES.id, NODES.name).where(NODES.pool_id == sa.bindparam("pool"))
LIMITS = sa.select(LIMITED.enterprise_id, LIMITED.gpus).where(LIMITED.pool_id == sa.bindparam("pool"))
BOOKED = (
    sa.select(BOOKINGS.enterprise_id, BOOKINGS.starts_at, BOOKINGS.ends_at, BOOKINGS.gpus)
    .join(
        Limit.__table__, sa.and_(LIMITED.enterprise_id == BOOKINGS.enterprise_id, LIMITED.pool_id == BOOKINGS.pool_id)
    )
    .where(BOOKINGS.pool_id == sa.bindparam("pool"), BOOKINGS.state == BookingState.CONFIRMED)
)
LOST_NODES = (
    sa.select(NODES.name, INTERVALS.starts_at)
    .join(NodeInterval.__table__, INTERVALS.node_id == NODES.id)
    .where(sa.or_(*(NODES.state == state for state in NOT_THERE)), INTERVALS.ends_at.is_(None))
)
LEAVES = (
    sa.select(
        ALLOCATIONS.programme_id, PROGRAMMES.shares, ALLOCATIONS.enterprise_id, SHARES.shares, ALLOCATIONS.id,
        ALLOCATIONS.shares, USAGE.usage, USAGE.as_of, BUDGETS.slow_at,
    )
    .join(Programme.__table__, PROGRAMMES.id == ALLOCATIONS.programme_id)
    .outerjoin(AllocationBudget.__table__, BUDGETS.allocation_id == ALLOCATIONS.id)
    .outerjoin(
        EnterpriseShare.__table__,
        sa.and_(
            SHARES.programme_id == ALLOCATIONS.programme_id,
            SHARES.enterprise_id == ALLOCATIONS.enterprise_id,
        ),
    )
    .outerjoin(FairUsage.__table__, USAGE.allocation_id == ALLOCATIONS.id)
    .where(
        ALLOCATIONS.pool_id == sa.bindparam("pool"),
        sa.or_(
            ALLOCATIONS.state.in_((AllocationState.ACTIVE, AllocationState.SUSPENDED)),
            ALLOCATIONS.id.in_(sa.bindparam("waiting", expanding=True)),
        ),
    )
)  # fmt: skip
UNMETERED = (
    sa.select(
        ATTEMPTS.key, BOOKINGS.allocation_id, BOOKINGS.gpus,
        epoch(sa.func.coalesce(ATTEMPTS.metered_until_at, ATTEMPTS.granted_at)), epoch(ATTEMPTS.until_at),
        epoch(ATTEMPTS.ended_at),
        sa.case((sa.and_(BOOKINGS.kind == BookingKind.FIXED, ATTEMPTS.outcome == AttemptOutcome.ENDED),
                 epoch(BOOKINGS.ends_at))),
    )
    .join(Booking.__table__, BOOKINGS.id == ATTEMPTS.booking_id)
    .where(
        ATTEMPTS.metered_whole == sa.false(), ATTEMPTS.granted_at.is_not(None), BOOKINGS.pool_id == sa.bindparam("pool")
    )
)  # fmt: skip
OWN = (
    sa.select(OCCUPANCIES.node_id, OCCUPANCIES.gpu_mask, NODES.state)
    .join(Node.__table__, NODES.id == OCCUPANCIES.node_id)
    .where(
        OCCUPANCIES.booking_id == sa.bindparam("booking"),
        OCCUPANCIES.released_at.is_(None),
    )
)
BUMP = (
    sa.update(cast(sa.Table, Pool.__table__))
    .where(POOLS.id == sa.bindparam("pool"), POOLS.version == sa.bindparam("planned"))
    .values(version=POOLS.version + 1)
)
STILL_QUEUED = AboutThese(
    lambda these: sa.select(BOOKINGS.id).where(these(BOOKINGS.id), BOOKINGS.state == BookingState.QUEUED)
)
PLACE = (
    sa.update(LEASES)
    .where(LEASES.c.key == sa.bindparam("this_key"), LEASES.c.state == LeaseState.WAITING)
    .values(
        state=LeaseState.PLACED,
        placed_at=sa.bindparam("at"),
        until_at=sa.bindparam("until"),
        promised=sa.bindparam("first_of_all"),
        nodes=sa.bindparam("on_nodes"),
        reason=None,
        changed_at=sa.bindparam("at"),
    )
)
END = (
    sa.update(LEASES)
    .where(LEASES.c.key == sa.bindparam("this_key"), LEASES.c.state != LeaseState.ENDED)
    .values(
        state=LeaseState.ENDED,
        ended_at=sa.bindparam("at"),
        failed=sa.bindparam("lost"),
        reason=sa.bindparam("why"),
        changed_at=sa.bindparam("now"),
    )
)
_UNTIL = sa.bindparam("until", type_=UtcDateTime())
MOVE_END = (
    sa.update(LEASES)
    .where(LEASES.c.key == sa.bindparam("this_key"), LEASES.c.state != LeaseState.ENDED)
    .values(
        ends_at=_UNTIL,
        until_at=sa.case((LEASES.c.until_at.is_not(None), _UNTIL), else_=None),
        changed_at=sa.bindparam("now"),
    )
)
# The portal may have moved an end while nobody was there to be told.
FIXED_ENDS = (
    sa.select(BOOKINGS.id, BOOKINGS.ends_at)
    .join(Lease.__table__, LEASES.c.booking_id == BOOKINGS.id)
    .where(LEASES.c.fixed, LEASES.c.state != LeaseState.ENDED)
)
OBSERVE = sa.select(
    LEASES.c.changed_at, LEASES.c.key, LEASES.c.state, LEASES.c.nodes, LEASES.c.placed_at, LEASES.c.until_at,
    LEASES.c.ended_at, LEASES.c.failed, LEASES.c.reason,
).order_by(LEASES.c.changed_at, LEASES.c.booking_id)  # fmt: skip
OBSERVE_ONE = OBSERVE.where(LEASES.c.key == sa.bindparam("this_key"))
OBSERVE_OPEN = OBSERVE.where(LEASES.c.state != LeaseState.ENDED)
OBSERVE_SINCE = OBSERVE.where(LEASES.c.changed_at >= sa.bindparam("since"))


class Fence(Protocol):
    """Ways to write that refuse when another scheduler has taken over: the leader's."""

    def transaction(self, work: Callable[[Session], T]) -> T: ...

    def write(self, work: Callable[[sa.Connection], T]) -> T: ...


@dataclass(slots=True)
class _Placed:
    key: str
    booking_id: int
    enterprise_id: int
    allocation_id: int
    gpus: int
    fixed: bool
    submitted_at: dt.datetime
    placed_at: dt.datetime
    until_at: dt.datetime
    nodes: list[dict[str, Any]]  # [{"node": name, "gpus": [0, 1]}]
    promised: bool = False  # it started at the front because it was overdue


@dataclass(slots=True)
class _Fixed:
    """A fixed booking that waits for its GPUs to be free of others and up."""

    key: str
    booking_id: int
    starts_at: dt.datetime
    ends_at: dt.datetime
    enterprise_id: int
    allocation_id: int
    gpus: int
    submitted_at: dt.datetime
    reason: Sentence | None
    given_way: list[Placement] = field(default_factory=list)  # GPUs of those who gave way to it


@dataclass
class _Queue:
    """One pool: what waits and runs in it, and what was seen of it last."""

    waiting: dict[str, Waiting] = field(default_factory=dict)
    fixed: dict[str, _Fixed] = field(default_factory=dict)
    placed: dict[str, _Placed] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)  # enterprise → GPUs
    changed: bool = True  # since the last plan
    planned_version: int | None = None
    look_again_at: dt.datetime | None = None
    seen: _Seen | None = None
    # What ended since `seen`: first ours alone, then written by the portal, which raised the pool's version so often.
    ended: dict[str, _Placed] = field(default_factory=dict)
    freed: list[_Placed] = field(default_factory=list)
    raised: int = 0

    def put(self, placed: _Placed) -> None:
        self.placed[placed.key] = placed
        if self.seen is not None:
            since, until = int(placed.placed_at.timestamp()), int(placed.until_at.timestamp())
            self.seen.uses[placed.key] = _Use(placed.allocation_id, placed.gpus, since, until)
        self.running[placed.enterprise_id] = self.running.get(placed.enterprise_id, 0) + placed.gpus

    def promised_gpus(self) -> int:
        """GPUs of what started at the front because it was overdue."""
        return sum(one.gpus for one in self.placed.values() if one.promised)

    def __contains__(self, key: str) -> bool:
        return key in self.waiting or key in self.fixed or key in self.placed

    def drop(self, key: str) -> None:
        """It waits and runs no longer."""
        if self.waiting.pop(key, None) is not None or self.fixed.pop(key, None) is not None:
            self.changed = True
        placed = self.placed.pop(key, None)
        if placed is not None:
            self.changed = True
            self.running[placed.enterprise_id] -= placed.gpus
            if self.seen is not None:  # else there is no picture to keep true
                self.ended[key] = placed

    def forget(self) -> None:
        """The picture is to be read again."""
        self.seen = None
        self.settle()

    def settle(self) -> None:
        """What ended is in the picture."""
        self.ended.clear()
        self.freed.clear()
        self.raised = 0


@dataclass(slots=True)
class _Seen:
    """A pool at a version: who has which GPUs, true until something reaches its end; shares and limits a while ago."""

    version: int
    rules: Rules
    at: dt.datetime
    until_at: dt.datetime
    availability: Availability
    names: dict[int, str]  # of nodes
    ids: dict[str, int]
    shares_at: dt.datetime
    leaves: list[Leaf]  # what was metered counts, decayed to `shares_at`
    uses: dict[str, _Use]  # by key: what was not metered by then, and what started since
    limits: dict[int, int]
    booked: dict[int, list[tuple[int, int, int]]]  # enterprise → windows it has confirmed


@dataclass(slots=True)
class _Use:
    """GPUs that count for the shares from an instant on. Unix seconds; `until` may be to come."""

    allocation_id: int
    gpus: int
    since: int
    until: int


class EmbeddedEngine:
    """All calls come from one thread."""

    capabilities = Capabilities(frozenset({BookingUnit.GPU, BookingUnit.NODE}), takes_scripts=False)

    def __init__(
        self, database: Database, fence: Fence, rules: Rules, by_pool: Mapping[str, Rules] | None = None
    ) -> None:
        """`by_pool` names the pools that have rules of their own."""
        self._database = database
        self._fence = fence
        self._rules = rules
        self._by_pool = by_pool or {}
        self._memory: dict[int, _Queue] | None = None
        # What changed since an instant, so that a round that asks what it has just caused need not read it.
        self._news: list[tuple[dt.datetime, Observation]] = []
        self._news_since: dt.datetime | None = None
        self._versions: dict[int, int] = {}  # of the pools, as far as known in this round
        insert = postgresql.insert if database.is_postgresql else sqlite.insert
        self._insert = insert(LEASES).on_conflict_do_nothing().returning(LEASES.c.key)

    @contextmanager
    def _remembering(self) -> Iterator[dict[int, _Queue]]:
        """The open leases. After an error nobody knows what was committed: read them again."""
        if self._memory is None:
            self._memory = self._read()
        try:
            yield self._memory
        except BaseException:
            self._memory = self._news_since = None
            raise

    def _note(self, now: dt.datetime, observation: Observation) -> None:
        if self._news_since is not None:
            self._news.append((now, observation))

    # -- the port -----------------------------------------------------------------------------------------------------

    def sync(self, policy: EnginePolicy) -> None:
        """Nothing to push: it reads the portal's own rows."""

    def set_node(self, node_id: int, in_service: bool) -> None:
        """Nothing to push: the node's state in the portal is the one it plans with."""

    def capacity(self, pool_id: int) -> int:
        up = sa.select(sa.func.sum(Node.gpus)).where(Node.pool_id == pool_id, Node.state == NodeState.UP)
        with self._database.read_only() as session:
            return int(session.scalar(up) or 0)

    def hand_over(self, attempts: Sequence[HandOver], now: dt.datetime) -> dict[str, str]:
        with self._remembering() as queues:
            by_key = {attempt.key: attempt for attempt in attempts}
            rows = [_lease_row(attempt, now) for attempt in attempts]
            # A key that is there already, also one that has ended, is not queued again.
            for key in self._fence.write(lambda writer: list(writer.scalars(self._insert, rows))):
                _queue_up(queues.setdefault(by_key[key].pool_id, _Queue()), by_key[key], None)
                self._note(now, Observation(key, LeaseState.WAITING))
            return {key: f"lease {key}" for key in by_key}

    def stop(self, keys: Sequence[str], now: dt.datetime) -> None:
        with self._remembering() as queues:
            placed = [queue.placed[key] for queue in queues.values() for key in keys if key in queue.placed]
            until = {one.key: one.until_at for one in placed}
            self._end([(key, min(now, until.get(key, now)), None) for key in keys], queues, now)

    def move_ends(self, ends: Mapping[str, dt.datetime], now: dt.datetime) -> None:
        """The portal has moved the end of a fixed booking and of its GPUs; so the lease ends then."""
        with self._remembering() as queues:
            rows = [{"this_key": key, "until": until, "now": now} for key, until in ends.items()]
            self._fence.write(lambda writer: writer.execute(MOVE_END, rows))
            for queue in queues.values():
                for key in ends.keys() & queue.fixed.keys():
                    queue.fixed[key].ends_at = ends[key]
                for key in ends.keys() & queue.placed.keys():
                    queue.placed[key].until_at = ends[key]
                if ends.keys() & (queue.fixed.keys() | queue.placed.keys()):
                    queue.changed, queue.seen = True, None

    def freed(self, keys: Sequence[str], versions: Mapping[int, int]) -> None:
        with self._remembering() as queues:
            for pool_id, queue in queues.items():
                if pool_id not in versions:
                    continue
                if pool_id in self._versions:
                    self._versions[pool_id] = versions[pool_id]
                if queue.seen is None or versions[pool_id] != queue.seen.version + queue.raised + 1:
                    queue.forget()
                else:
                    queue.freed += [queue.ended.pop(key) for key in keys if key in queue.ended]
                    queue.raised += 1

    def find(self, key: str) -> Observation | None:
        with self._database.read_only() as session:
            found = _observations(session, OBSERVE_ONE, this_key=key)
        return found[0][1] if found else None

    def observe(self, since: dt.datetime | None) -> list[Observation]:
        if since is None:
            with self._database.read_only() as session:
                return [one for _at, one in _observations(session, OBSERVE_OPEN)]
        if self._news_since is None or since < self._news_since:
            with self._database.read_only() as session:
                self._news = _observations(session, OBSERVE_SINCE, since=since)
        else:
            self._news = [(at, one) for at, one in self._news if at >= since]
        self._news_since = since
        return list({one.key: one for _at, one in self._news}.values())  # of each the last

    def advance(self, now: dt.datetime) -> bool:
        """End what has reached its end, and what runs on nodes that are down."""
        with self._remembering() as queues:
            ends: dict[str, tuple[dt.datetime, Sentence | None]] = {}
            for queue in queues.values():
                ends |= {key: (one.until_at, None) for key, one in queue.placed.items() if one.until_at <= now}
                for key, fixed in queue.fixed.items():
                    if fixed.ends_at <= now:
                        ends[key] = fixed.ends_at, Sentence("window-missed")
            ends = self._on_lost_nodes(queues, now) | ends
            self._end([(key, at, reason) for key, (at, reason) in ends.items()], queues, now)
            return bool(ends)

    def place(self, now: dt.datetime) -> bool:
        with self._remembering() as queues:
            if not any(queue.waiting or queue.fixed for queue in queues.values()):
                return False
            placed = False
            for pool_id, queue in queues.items():
                for fixed in list(queue.fixed.values()):
                    if fixed.starts_at <= now:
                        placed |= self._start_fixed(pool_id, queue, fixed, now)
                    else:
                        placed |= self._prepare_fixed(pool_id, queue, fixed, now)
                placed |= self._start_flexible(pool_id, queue, now)
            return placed

    def standings(self, now: dt.datetime) -> dict[int, list[Place]]:
        with self._remembering() as queues:
            places: dict[int, list[Place]] = {}
            with self._database.look() as session:
                versions = _pairs(session, VERSIONS)
                for pool_id in versions:
                    queue = queues.get(pool_id) or _Queue()
                    waiting = len(queue.waiting)
                    places[pool_id] = [
                        Place(fixed.booking_id, pool_id, None, None, fixed.reason or Sentence("wait-access"))
                        for fixed in queue.fixed.values()
                        if fixed.starts_at <= now
                    ]
                    if waiting:
                        seen = self._see(session, pool_id, queue, versions[pool_id], now)
                        snapshot = self._snapshot(queue, seen, now)
                        snapshot.placed = [_running(placed, seen.ids) for placed in queue.placed.values()]
                        places[pool_id] += [
                            Place(
                                standing.waiting.booking_id,
                                pool_id,
                                standing.place,
                                waiting,
                                standing.reason,
                                None
                                if standing.change is None
                                else said(standing.change, standing.waiting, snapshot.availability.node_size),
                            )
                            for standing in planner.plan(snapshot).standings
                        ]
            return places

    def snapshots(self, now: dt.datetime) -> dict[int, Snapshot]:
        with self._remembering() as queues, self._database.look() as session:
            found = {}
            for pool_id, version in _pairs(session, VERSIONS).items():
                queue = queues.setdefault(pool_id, _Queue())
                seen = self._see(session, pool_id, queue, version, now)
                snapshot = self._snapshot(queue, seen, now)
                found[pool_id] = dataclasses.replace(
                    snapshot,
                    availability=seen.availability.copy(),
                    limits=dict(seen.limits),
                    running=dict(queue.running),
                    booked=dict(seen.booked),
                    placed=[_running(placed, seen.ids) for placed in queue.placed.values()],
                )
            return found

    # -- flexible bookings --------------------------------------------------------------------------------------------

    def _start_flexible(self, pool_id: int, queue: _Queue, now: dt.datetime) -> bool:
        """Plan and apply; again when the pool changed in between, a few times at most. Whether anything changed."""
        dropped = False
        for _ in range(PLANS):
            if not queue.waiting:
                return dropped
            with self._database.look() as session:
                # What somebody else changes since this round looked is found when the plan is applied, or next round.
                version = self._versions.pop(pool_id, None) or session.execute(VERSION, {"pool": pool_id}).scalar_one()
                if not self._worth_planning(queue, version, now):
                    return dropped
                seen = self._see(session, pool_id, queue, version, now)
            decision = planner.plan(self._snapshot(queue, seen, now), standings=False)
            if not decision.starts or self._apply(pool_id, queue, seen, decision.starts, now):
                queue.planned_version, queue.changed = seen.version, False
                second = int(now.timestamp())
                not_before = [waiting.not_before for waiting in queue.waiting.values() if waiting.not_before > second]
                queue.look_again_at = min([now + LOOK_AGAIN, *map(_instant, not_before)])
                return dropped or bool(decision.starts)
            dropped = True
        log.warning("the pool changed during every plan", extra={"pool_id": pool_id})
        return dropped

    def _worth_planning(self, queue: _Queue, version: int, now: dt.datetime) -> bool:
        """Whether anything changed since the last plan that started all it could."""
        looked = queue.look_again_at
        # A wall clock that was set back must not keep us from looking.
        at_rest = looked is not None and looked - LOOK_AGAIN <= now < looked
        return queue.changed or queue.planned_version != version or not at_rest

    def _see(self, session: Reader, pool_id: int, queue: _Queue, version: int, now: dt.datetime) -> _Seen:
        """The pool now, read only when somebody else changed it, something reached its end, or it is long ago.

        What ended earlier by our own doing is no reason: each time raised the version by one, so at any other version
        somebody else was here, too.
        """
        seen = queue.seen
        if (
            seen is None
            or seen.version + queue.raised != version
            or queue.ended
            or not seen.at <= now < min(seen.until_at, seen.at + BELIEVED)
        ):
            pool = session.execute(THIS_POOL, {"pool": pool_id}).one()
            names = _pairs(session, NAMES, {"pool": pool_id})
            availability = pool_queries.load_availability(session, pool, now)
            seen = queue.seen = _Seen(
                version=pool.version,
                rules=self._by_pool.get(pool.name, self._rules),
                at=now,
                until_at=_next_end(availability, now),
                availability=availability,
                names=names,
                ids={name: id for id, name in names.items()},
                shares_at=now,
                leaves=self._leaves(session, pool, queue, now),
                uses=_unmetered(session, pool_id),
                limits=_pairs(session, LIMITS, {"pool": pool_id}),
                booked=_booked(session, pool_id),
            )
        else:
            seen.version = version
            if queue.freed:
                seen.availability.vacate((_placement(one, seen.ids) for one in queue.freed), int(now.timestamp()))
                seen.until_at = _next_end(seen.availability, now)
            asked = {waiting.allocation_id for waiting in queue.waiting.values()}
            if now >= seen.shares_at + LOOK_AGAIN or not asked <= {leaf.allocation_id for leaf in seen.leaves}:
                seen.shares_at = now
                seen.leaves = self._leaves(session, session.execute(THIS_POOL, {"pool": pool_id}).one(), queue, now)
                seen.uses = _unmetered(session, pool_id)
                seen.limits = _pairs(session, LIMITS, {"pool": pool_id})
                seen.booked = _booked(session, pool_id)
        queue.settle()
        return seen

    def _snapshot(self, queue: _Queue, seen: _Seen, now: dt.datetime) -> Snapshot:
        return Snapshot(
            now=int(now.timestamp()),
            availability=seen.availability,
            waiting=list(queue.waiting.values()),
            leaves=_up_to(seen, int(now.timestamp())),
            limits=seen.limits,
            running=queue.running,
            booked=seen.booked,
            rules=seen.rules,
            running_promised=queue.promised_gpus(),
        )

    def _leaves(self, session: Reader, pool: Any, queue: _Queue, now: dt.datetime) -> list[Leaf]:
        """`pool` is a row of its id and name."""
        waiting = sorted({waiting.allocation_id for waiting in queue.waiting.values()})
        rows = session.execute(LEAVES, {"pool": pool.id, "waiting": waiting})
        half_life = self._by_pool.get(pool.name, self._rules).half_life_seconds
        return [
            Leaf(
                programme_id,
                shares,
                enterprise_id,
                enterprise_shares or 1,
                allocation_id,
                allocation_shares,
                0.0 if usage is None else fair.decayed(usage, (now - as_of).total_seconds(), half_life),
                low_priority=slow_at is not None,
            )
            for (
                programme_id, shares, enterprise_id, enterprise_shares, allocation_id, allocation_shares, usage, as_of,
                slow_at,
            ) in rows
        ]  # fmt: skip

    def _apply(self, pool_id: int, queue: _Queue, seen: _Seen, starts: Sequence[Start], now: dt.datetime) -> bool:
        """Give the GPUs, if the pool is still at the version that was planned on and everybody still wants them.

        False if not: those who no longer wait are dropped, and it is to be planned again.
        """

        def work(session: sa.Connection) -> list[Start] | None:
            if session.execute(BUMP, {"pool": pool_id, "planned": seen.version}).rowcount != 1:
                return None
            still = set(session.scalars(*STILL_QUEUED([start.waiting.booking_id for start in starts])))
            gone = [start for start in starts if start.waiting.booking_id not in still]
            if gone:
                _write_ended(session, [(start.waiting.key, now, None) for start in gone], now)
                return gone
            pools.occupy_all(
                session,
                pool_id,
                [(start.waiting.booking_id, start.placement, now, _instant(start.ends_at)) for start in starts],
            )
            _write_placed(
                session,
                [
                    (
                        start.waiting.key,
                        now,
                        _instant(start.ends_at),
                        _nodes(start.placement, seen.names),
                        start.promised,
                    )
                    for start in starts
                ],
            )
            return []

        gone = self._fence.write(work)
        if gone is None or gone:
            queue.forget()
            for start in gone or ():
                self._drop(queue, start.waiting.key, now, None, now)
            return False
        for start in starts:
            queue.waiting.pop(start.waiting.key)
            nodes = _nodes(start.placement, seen.names)
            ends_at = _instant(start.ends_at)
            self._put(queue, _placed(start, now, nodes), now)
            seen.availability.occupy(start.placement, int(now.timestamp()), start.ends_at)
            seen.until_at = min(seen.until_at, ends_at)
        seen.version += 1
        return True

    # -- fixed bookings -----------------------------------------------------------------------------------------------

    def _start_fixed(self, pool_id: int, queue: _Queue, fixed: _Fixed, now: dt.datetime) -> bool:
        """On its own GPUs; if those are not to be had, on others; else it keeps waiting and says why."""

        def work(session: Session) -> tuple[list[dict[str, Any]], bool] | None:
            pool = pools.lock_pool(session, pool_id)
            state = session.scalar(sa.select(Booking.state).where(Booking.id == fixed.booking_id))
            if state is not BookingState.CONFIRMED:
                _write_ended(session, [(fixed.key, now, None)], now)
                return None
            placement = _own_placement(session, fixed, now)
            moved = placement is None
            if placement is None:
                placement = _move(session, pool, fixed, now)
            nodes = _nodes(placement, _pairs(session, NAMES, {"pool": pool_id}))
            _write_placed(session, [(fixed.key, now, fixed.ends_at, nodes, False)])
            return nodes, moved

        try:
            result = self._fence.transaction(work)
        except _NoRoom:
            return self._make_room(pool_id, queue, fixed, now)
        if result is None:
            self._drop(queue, fixed.key, now, None, now)
        else:
            nodes, moved = result
            if moved:
                log.warning("fixed booking moved to other nodes", extra={"key": fixed.key, "nodes": nodes})
                queue.forget()
            queue.drop(fixed.key)
            self._put(
                queue,
                _Placed(
                    fixed.key, fixed.booking_id, fixed.enterprise_id, fixed.allocation_id, fixed.gpus, True,
                    fixed.submitted_at, now, fixed.ends_at, nodes,
                ),
                now,
            )  # fmt: skip
        return True

    def _prepare_fixed(self, pool_id: int, queue: _Queue, fixed: _Fixed, now: dt.datetime) -> bool:
        """Where a node of its own failed: other GPUs for its hours, for which others give way. Whether that changed
        anything."""
        with self._database.look() as session:
            own = session.execute(OWN, {"booking": fixed.booking_id}).all()
        if all(state is NodeState.UP for _node, _mask, state in own):
            return False

        def work(session: Session) -> None:
            pool = pools.lock_pool(session, pool_id)
            if session.scalar(sa.select(Booking.state).where(Booking.id == fixed.booking_id)) is BookingState.CONFIRMED:
                _move(session, pool, fixed, now)

        try:
            self._fence.transaction(work)
        except _NoRoom:
            return self._make_room(pool_id, queue, fixed, now)
        queue.forget()
        return True

    def _put(self, queue: _Queue, placed: _Placed, now: dt.datetime) -> None:
        queue.put(placed)
        self._note(now, Observation(placed.key, LeaseState.PLACED, placed.nodes, placed.placed_at, placed.until_at))

    def _make_room(self, pool_id: int, queue: _Queue, fixed: _Fixed, now: dt.datetime) -> bool:
        """Where a node of its own failed, flexible bookings give way, the newest first and no more than it takes.

        Their GPUs are the fixed booking's as soon as access to them is taken back: until then nobody else gives way.
        Says whether somebody did.
        """
        start, end = max(fixed.starts_at, now), int(fixed.ends_at.timestamp())
        second = int(start.timestamp())
        with self._database.look() as session:
            pool = session.execute(THIS_POOL, {"pool": pool_id}).one()
            availability = pool_queries.load_availability(session, pool, now)
            ids = {name: id for id, name in _pairs(session, NAMES, {"pool": pool_id}).items()}
            own = session.execute(OWN, {"booking": fixed.booking_id}).all()
        if all(state is NodeState.UP for _node, _mask, state in own):
            self._keep_waiting(fixed, now)
            return False
        # Asked about its hours only: what ends before them is not in its way.
        availability.vacate([tuple((node, mask) for node, mask, _state in own), *fixed.given_way], second)
        flexible = [one for one in queue.placed.values() if not one.fixed and one.until_at > start]
        flexible.sort(key=lambda one: (one.placed_at, one.booking_id), reverse=True)
        giving: list[_Placed] = []
        while not availability.fits(fixed.gpus, second, end) and flexible:
            giving.append(flexible.pop(0))
            availability.vacate([_placement(giving[-1], ids)], second)
        if not giving or not availability.fits(fixed.gpus, second, end):
            self._keep_waiting(fixed, now)
            return False
        why = Sentence("gave-way", number=fixed.booking_id)
        fixed.given_way += [_placement(one, ids) for one in giving]
        self._end([(one.key, now, why) for one in giving], {pool_id: queue}, now)
        log.warning("flexible bookings give way", extra={"key": fixed.key, "keys": [one.key for one in giving]})
        return True

    def _keep_waiting(self, fixed: _Fixed, now: dt.datetime) -> None:
        if fixed.starts_at > now:
            return
        reason = Sentence("wait-nodes-down")
        if fixed.reason != reason:
            log.error("fixed booking cannot start", extra={"key": fixed.key})
            update = sa.update(LEASES).where(LEASES.c.key == fixed.key).values(reason=reason.to_json(), changed_at=now)
            self._fence.write(lambda writer: writer.execute(update))
            fixed.reason = reason

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _on_lost_nodes(
        self, queues: dict[int, _Queue], now: dt.datetime
    ) -> dict[str, tuple[dt.datetime, Sentence | None]]:
        """What runs on nodes that are down ended when they went down. Where the pool changed only by our own doing, no
        node did."""
        self._versions = {}
        if not any(queue.placed for queue in queues.values()):
            return {}
        with self._database.look() as session:
            self._versions = _pairs(session, VERSIONS)
            if all(
                queue.seen is not None and self._versions[pool_id] == queue.seen.version + queue.raised
                for pool_id, queue in queues.items()
                if queue.placed
            ):
                return {}
            lost = _pairs(session, LOST_NODES)
        if not lost:
            return {}
        ends: dict[str, tuple[dt.datetime, Sentence | None]] = {}
        for key, placed in ((key, one) for queue in queues.values() for key, one in queue.placed.items()):
            down = sorted((lost[node["node"]], node["node"]) for node in placed.nodes if node["node"] in lost)
            if down:
                ends[key] = min(down[0][0], now), Sentence("node-down", node=down[0][1])
        return ends

    def _end(
        self, ends: Sequence[tuple[str, dt.datetime, Sentence | None]], queues: dict[int, _Queue], now: dt.datetime
    ) -> None:
        if not ends:
            return
        self._fence.write(lambda writer: _write_ended(writer, ends, now))
        for key, at, reason in ends:
            for queue in queues.values():
                if key in queue:  # else it was over before, and nothing has changed
                    self._drop(queue, key, at, reason, now)

    def _drop(self, queue: _Queue, key: str, at: dt.datetime, reason: Sentence | None, now: dt.datetime) -> None:
        """It waits and runs no longer."""
        was = queue.placed.get(key)
        if was is not None and not was.fixed and queue.seen is not None and key in queue.seen.uses:
            queue.seen.uses[key].until = min(queue.seen.uses[key].until, int(at.timestamp()))
        nodes, since, until = (was.nodes, was.placed_at, was.until_at) if was else ([], None, None)
        self._note(now, Observation(key, LeaseState.ENDED, nodes, since, until, at, reason is not None, reason))
        queue.drop(key)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[int, _Queue]:
        queues: dict[int, _Queue] = {}
        with self._database.read_only() as session:
            leases = session.scalars(
                sa.select(Lease).where(Lease.state != LeaseState.ENDED).order_by(Lease.submitted_at, Lease.booking_id)
            )
            fixed_ends = _pairs(session, FIXED_ENDS)
            for lease in leases:
                queue = queues.setdefault(lease.pool_id, _Queue())
                if (moved := fixed_ends.get(lease.booking_id)) is not None:
                    lease.ends_at = moved
                    lease.until_at = None if lease.until_at is None else moved
                if lease.state == LeaseState.WAITING:
                    _queue_up(queue, lease, Sentence.from_json(lease.reason))
                else:
                    if lease.placed_at is None or lease.until_at is None:
                        raise ValueError(f"lease {lease.key} is placed without a beginning or an end")
                    queue.put(
                        _Placed(
                            lease.key,
                            lease.booking_id,
                            lease.enterprise_id,
                            lease.allocation_id,
                            lease.gpus,
                            lease.fixed,
                            lease.submitted_at,
                            lease.placed_at,
                            lease.until_at,
                            lease.nodes or [],
                            lease.promised,
                        )
                    )
        return queues


def _placed(start: Start, at: dt.datetime, nodes: list[dict[str, Any]]) -> _Placed:
    waiting = start.waiting
    return _Placed(
        waiting.key, waiting.booking_id, waiting.enterprise_id, waiting.allocation_id, waiting.gpus, False,
        _instant(waiting.submitted_at), at, _instant(start.ends_at), nodes, start.promised,
    )  # fmt: skip


class _NoRoom(Exception):
    """Rolls the transaction back."""


def _instant(second: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(second, dt.UTC)


def _unmetered(session: Reader, pool_id: int) -> dict[str, _Use]:
    """What was granted and is not metered yet. Read in the snapshot in which the stored usage is: nothing counts twice,
    for a record and the instant up to which it reaches are written together."""
    uses = {}
    for key, allocation_id, gpus, since, until, ended_at, window_end in session.execute(UNMETERED, {"pool": pool_id}):
        # The whole window of a fixed booking counts, used or not, as its hours pass; only a failure ends it early.
        end = until if ended_at is None else window_end or ended_at
        uses[key] = _Use(allocation_id, gpus, since, FOREVER if end is None else end)
    return uses


def _up_to(seen: _Seen, second: int) -> list[Leaf]:
    """The shares as they are at a second: what was metered, and what has run since."""
    half_life, read_at = seen.rules.half_life_seconds, int(seen.shares_at.timestamp())
    more: dict[int, float] = {}
    for use in seen.uses.values():
        counts = fair.of_run(use.gpus, second - use.since, max(0, second - use.until), half_life)
        more[use.allocation_id] = more.get(use.allocation_id, 0.0) + counts
    return [
        dataclasses.replace(
            leaf,
            usage=fair.decayed(leaf.usage, second - read_at, half_life) + more.get(leaf.allocation_id, 0.0),
        )
        for leaf in seen.leaves
    ]


def _running(placed: _Placed, ids: Mapping[str, int]) -> Running:
    return Running(
        key=placed.key,
        booking_id=placed.booking_id,
        gpus=placed.gpus,
        enterprise_id=placed.enterprise_id,
        allocation_id=placed.allocation_id,
        submitted_at=int(placed.submitted_at.timestamp()),
        started_at=int(placed.placed_at.timestamp()),
        until_at=int(placed.until_at.timestamp()),
        placement=_placement(placed, ids),
        fixed=placed.fixed,
        promised=placed.promised,
    )


def _booked(session: Reader, pool_id: int) -> dict[int, list[tuple[int, int, int]]]:
    """Fixed bookings to come, of enterprises that have a limit here."""
    windows: dict[int, list[tuple[int, int, int]]] = {}
    for enterprise_id, starts_at, ends_at, gpus in session.execute(BOOKED, {"pool": pool_id}):
        if starts_at is None or ends_at is None:
            continue  # only a flexible booking has no window
        windows.setdefault(enterprise_id, []).append((int(starts_at.timestamp()), int(ends_at.timestamp()), gpus))
    return windows


def _pairs(session: Reader, query: sa.Select[K, V], values: Mapping[str, Any] | None = None) -> dict[K, V]:
    rows = session.execute(query, values)
    return {key: value for key, value in rows}  # dict() would take the result's keys() for a mapping's


def _queue_up(queue: _Queue, asked: HandOver | Lease, reason: Sentence | None) -> None:
    queue.changed = True
    if asked.fixed:
        assert asked.starts_at is not None and asked.ends_at is not None
        queue.fixed[asked.key] = _Fixed(
            asked.key, asked.booking_id, asked.starts_at, asked.ends_at, asked.enterprise_id, asked.allocation_id,
            asked.gpus, asked.submitted_at, reason,
        )  # fmt: skip
        return
    queue.waiting[asked.key] = Waiting(
        key=asked.key,
        booking_id=asked.booking_id,
        gpus=asked.gpus,
        seconds=asked.seconds,
        submitted_at=int(asked.submitted_at.timestamp()),
        not_before=0 if asked.not_before_at is None else int(asked.not_before_at.timestamp()),
        programme_id=asked.programme_id,
        enterprise_id=asked.enterprise_id,
        allocation_id=asked.allocation_id,
        allocation_ends_at=int(asked.allocation_ends_at.timestamp()),
    )


def _lease_row(asked: HandOver, now: dt.datetime) -> dict[str, Any]:
    return {
        "key": asked.key,
        "booking_id": asked.booking_id,
        "pool_id": asked.pool_id,
        "fixed": asked.fixed,
        "gpus": asked.gpus,
        "seconds": asked.seconds,
        "starts_at": asked.starts_at,
        "ends_at": asked.ends_at,
        "not_before_at": asked.not_before_at,
        "submitted_at": asked.submitted_at,
        "programme_id": asked.programme_id,
        "enterprise_id": asked.enterprise_id,
        "allocation_id": asked.allocation_id,
        "allocation_ends_at": asked.allocation_ends_at,
        "state": LeaseState.WAITING,
        "changed_at": now,
    }


def _write_placed(
    session: Writer, given: Sequence[tuple[str, dt.datetime, dt.datetime, list[dict[str, Any]], bool]]
) -> None:
    """Each (key, from, until, nodes, whether it started at the front as it was overdue)."""
    session.execute(
        PLACE,
        [
            {"this_key": key, "at": at, "until": until, "on_nodes": nodes, "first_of_all": promised}
            for key, at, until, nodes, promised in given
        ],
    )


def _write_ended(session: Writer, ends: Iterable[tuple[str, dt.datetime, Sentence | None]], now: dt.datetime) -> None:
    """Each (key, instant, reason if it failed). What has ended already stays as it is."""
    session.execute(
        END,
        [
            {
                "this_key": key,
                "at": at,
                "why": None if why is None else why.to_json(),
                "lost": why is not None,
                "now": now,
            }
            for key, at, why in ends
        ],
    )


def _observations(session: Session, query: sa.Select[Any], **values: Any) -> list[tuple[dt.datetime, Observation]]:
    """Each with the instant at which it changed last."""
    return [
        (
            changed_at,
            Observation(
                key, LeaseState(state), nodes or [], placed_at, until_at, ended_at, failed, Sentence.from_json(reason)
            ),
        )
        for changed_at, key, state, nodes, placed_at, until_at, ended_at, failed, reason in session.execute(
            query, values
        )
    ]


def _next_end(availability: Availability, now: dt.datetime) -> dt.datetime:
    end = availability.next_end(int(now.timestamp()))
    return now + BELIEVED if end is None else min(now + BELIEVED, _instant(end))


def _placement(placed: _Placed, ids: Mapping[str, int]) -> Placement:
    return tuple((ids[node["node"]], sum(1 << gpu for gpu in node["gpus"])) for node in placed.nodes)


def _nodes(placement: Placement, names: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {"node": names[node_id], "gpus": [gpu for gpu in range(mask.bit_length()) if mask >> gpu & 1]}
        for node_id, mask in placement
    ]


def _own_placement(session: Session, fixed: _Fixed, now: dt.datetime) -> Placement | None:
    """The GPUs kept for it since it was confirmed, if their nodes are up and nobody has access to them any more."""
    mine = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask, Node.state)
        .join(Node, Node.id == Occupancy.node_id)
        .where(
            Occupancy.booking_id == fixed.booking_id,
            Occupancy.released_at.is_(None),
            Occupancy.ends_at == fixed.ends_at,
        )
        .order_by(Node.position)
    ).all()
    if any(state is not NodeState.UP for _node, _mask, state in mine):
        return None
    if sum(mask.bit_count() for _node, mask, _state in mine) != fixed.gpus:
        return None
    masks = {node_id: mask for node_id, mask, _state in mine}
    others = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask).where(
            Occupancy.node_id.in_(masks),
            Occupancy.booking_id != fixed.booking_id,
            Occupancy.released_at.is_(None),
            Occupancy.starts_at <= now,
        )
    )
    if any(masks[node_id] & mask for node_id, mask in others):
        return None
    return tuple(masks.items())


def _move(session: Session, pool: Pool, fixed: _Fixed, now: dt.datetime) -> Placement:
    """Other GPUs for the rest of its window. Raises _NoRoom, which leaves everything as it was."""
    given_until = session.scalar(
        sa.select(sa.func.max(Lease.ended_at)).where(Lease.booking_id == fixed.booking_id, Lease.placed_at.is_not(None))
    )
    pools.vacate(session, fixed.booking_id, given_until=given_until, at=now)
    availability = pool_queries.load_availability(session, pool, now)
    start = max(fixed.starts_at, now)
    placement = availability.place(fixed.gpus, int(start.timestamp()), int(fixed.ends_at.timestamp()))
    if placement is None:
        raise _NoRoom
    pools.occupy(session, pool, fixed.booking_id, placement, fixed=True, starts_at=start, ends_at=fixed.ends_at)
    pools.changed(session, pool)
    return placement
