"""One round of scheduling. `run` reads like this:

 1. heartbeat, so that pages and /readyz know that the scheduler lives;
 2. instructions: what people asked for (stop, another end, drain, resume) is claimed, done and answered in its row;
 3. hand over: what waits gets an attempt, written before the engine hears of it. An attempt that was written and never
    recorded (a crash in between) is handed over again: the same key twice starts once;
 4. withdraw what was cancelled meanwhile;
 5. ends: the engine ends what is over; finished, failed and stopped attempts are recorded;
 6. revoke: access of what has ended is taken back, and only then are its GPUs free;
 7. place: the engine starts what fits, and that is recorded;
 8. grant: access is given; only what was granted is ever charged.

Ends come before starts, so that GPUs are used again in the same round. Settling is metering's, see `metering`.

Every step may be cut off by a crash: the next round finds what was left, because each verb may be told the same twice.
Many bookings share a transaction; one that fails is tried alone, and set aside when it keeps failing.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.access import Actor
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import AllocationState
from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import HandOver, Step, ToDo
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingKind, BookingState
from compute_portal.db import Writer
from compute_portal.enterprises import queries as enterprise_queries
from compute_portal.pools import service as pools
from compute_portal.pools.models import Instruction, Limit, Node, Occupancy, Pool
from compute_portal.pools.states import BookingUnit, InstructionState, InstructionVerb, NodeState
from compute_portal.programmes.models import EnterpriseShare, Programme
from compute_portal.sentences import Refusal, Sentence
from scheduler import news, recovery
from scheduler.access_hook import AccessHook, Answer, Call
from scheduler.context import BATCH, OUT_OF_REACH, Context, in_batches, written_in_batches
from scheduler.engines import EnginePolicy, FixedBooking, LeaseState, Share
from scheduler.phases import phase

log = logging.getLogger(__name__)
INSTRUCTIONS = cast(sa.Table, Instruction.__table__)
OPEN = (InstructionState.WAITING, InstructionState.CLAIMED)
ASKED = INSTRUCTIONS.c
OPEN_INSTRUCTIONS = (
    sa.select(ASKED.id, ASKED.verb, ASKED.target_id, ASKED.by_id, ASKED.why)
    .where(sa.or_(*(ASKED.state == state for state in OPEN)), ASKED.target_kind != "timetable")  # those are its own
    .order_by(ASKED.id)
)
CLAIM = (
    sa.update(INSTRUCTIONS)
    .where(ASKED.id.in_(sa.bindparam("ids", expanding=True)))
    .values(state=InstructionState.CLAIMED)
)


@dataclass
class Result:
    """What the round did; `started` are the bookings that people may use from now on."""

    handed_over: int = 0
    started: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Work:
    """What waits for this round, read at once."""

    stops: list[Asked]
    moves: list[Asked]
    ends: dict[str, dt.datetime]  # of the attempts whose end moved
    node_changes: list[Asked]
    keys: dict[int, str]  # of the attempts to stop, by booking
    to_hand_over: list[int]
    missed: list[int]
    steps: dict[Step, list[ToDo]]


def run(context: Context, now: dt.datetime) -> Result:
    """Raises when the database or the engine is out of reach; the next round then finds what was left."""
    began = time.monotonic()
    try:
        return _run(context, now)
    except BaseException:
        context.observed_at = None  # what the engine did may not be written: look at everything again
        raise
    finally:
        context.round_seconds = time.monotonic() - began


def _run(context: Context, now: dt.datetime) -> Result:
    result = Result()
    context.leader.heartbeat(now)
    recovered = context.observed_at is not None or recovery.run(context, now)
    if not recovered:
        log.error("not everything could be recovered, the next round tries again")
    round = _Round(context, result, now, since=context.observed_at or now)
    round.all_written = recovered
    work = round.look()
    round.stop(work.stops, work.keys)
    round.move_ends(work.moves, work.ends)
    round.change_nodes(work.node_changes)
    round.close_missed(work.missed)
    round.hand_over(bool(work.steps[Step.HAND_OVER]), work.to_hand_over)
    round.withdraw([todo.key for todo in work.steps[Step.WITHDRAW]])
    with phase("advance"):
        round.news |= context.engine.advance(now)
    round.record()
    round.take_access_back(bool(work.steps[Step.REVOKE]))
    with phase("place"):
        round.news |= context.engine.place(now)
    round.record()
    round.give_access()
    round.remember()
    return result


class _Round:
    """The steps of one round over the same instant."""

    def __init__(self, context: Context, result: Result, now: dt.datetime, since: dt.datetime) -> None:
        self.context = context
        self.result = result
        self.now = now
        self.since = min(since, now)  # a wall clock that was set back
        self.applied: set[tuple[str, LeaseState]] = set()
        self.all_written = True
        self.news = False  # the engine may have something to tell
        self.answers: list[tuple[int, Sentence]] = []  # to instructions, written with what they brought about

    def look(self) -> _Work:
        with self.context.database.look() as session:
            steps: dict[Step, list[ToDo]] = {step: [] for step in Step}
            for todo in attempts.list_to_do(session):
                steps[todo.step].append(todo)
            to_hand_over, missed = attempts.list_waiting(session, self.now)
            asked = [
                Asked(id, verb, target_id, Actor(user_id=by_id), why)
                for id, verb, target_id, by_id, why in session.execute(OPEN_INSTRUCTIONS)
            ]
            stops = [one for one in asked if one.verb is InstructionVerb.STOP]
            keys = attempts.keys_under_way(session, [one.target_id for one in stops]) if stops else {}
            moves = [one for one in asked if one.verb is InstructionVerb.MOVE_END]
            ends = attempts.ends_under_way(session, [one.target_id for one in moves]) if moves else {}
            node_changes = [one for one in asked if one.verb in (InstructionVerb.DRAIN, InstructionVerb.RESUME)]
            return _Work(stops, moves, ends, node_changes, keys, to_hand_over, missed, steps)

    # -- instructions -------------------------------------------------------------------------------------------------

    def stop(self, stops: Sequence[Asked], keys: dict[int, str]) -> None:
        """All at once. What fails is tried again next round; what was done already is done twice without harm."""
        if not stops:
            return
        with phase("instruction"):
            try:
                self._stop(stops, keys)
            except OUT_OF_REACH:
                raise
            except Exception:
                log.exception("stop failed", extra={"bookings": [one.target_id for one in stops]})

    def _stop(self, stops: Sequence[Asked], keys: dict[int, str]) -> None:
        if keys:
            self.context.engine.stop(list(keys.values()), self.now)
            self.news = True
        self.answers += [(one.id, Sentence("stopped" if one.target_id in keys else "nothing-to-stop")) for one in stops]

    def move_ends(self, moves: Sequence[Asked], ends: dict[str, dt.datetime]) -> None:
        """Fixed bookings that were extended or cut. Done twice, they end at the same instant."""
        if not moves:
            return
        with phase("instruction"):
            if ends:
                self.context.engine.move_ends(ends, self.now)
            self.answers += [(one.id, Sentence("end-moved")) for one in moves]

    def _write_answers(self, session: Writer) -> None:
        for id, told in self.answers:
            pools.answer(session, id, told, done=True, now=self.now)

    def change_nodes(self, asked: Sequence[Asked]) -> None:
        """One by one, and claimed first: what the cluster is told of a node may take its time, and the page says so."""
        if not asked:
            return
        with phase("instruction"):
            ids = [one.id for one in asked]
            self.context.transact(lambda session: session.execute(CLAIM, {"ids": ids}))
            for one in asked:
                self._change_node(one)

    def _change_node(self, one: Asked) -> None:
        in_service = one.verb is InstructionVerb.RESUME
        state = NodeState.UP if in_service else NodeState.DRAINING

        def work(session: Session) -> None:
            node = session.get(Node, one.target_id)
            if node is None or node.state is not state:  # else it was done before a crash
                pools.change_node_state(
                    session, one.target_id, state, verb=one.verb.value, by=one.by, now=self.now, note=one.why
                )
            self._answer(session, one, Sentence("resumed" if in_service else "drained"), done=True)

        try:
            self.context.engine.set_node(one.target_id, in_service)
            self.context.transact(work)
        except OUT_OF_REACH:
            raise
        except Refusal as refusal:
            told = refusal.sentence
            self.context.transact(lambda session: self._answer(session, one, told, done=False))
        except Exception as error:
            log.exception("instruction failed", extra={"instruction": one.id})
            told = Sentence("instruction-failed", error=f"{type(error).__name__}: {error}"[:200])
            self.context.transact(lambda session: self._answer(session, one, told, done=False))

    def _answer(self, session: Session, one: Asked, told: Sentence, *, done: bool) -> None:
        pools.answer(session, one.id, told, done=done, now=self.now)

    # -- hand over ----------------------------------------------------------------------------------------------------

    def close_missed(self, ids: Sequence[int]) -> None:
        def work(session: Session, some: Sequence[int]) -> None:
            for id in some:
                attempts.missed(session, id, now=self.now)

        in_batches(self.context, ids, work, _only_logged)

    def hand_over(self, some_unrecorded: bool, waiting: Sequence[int]) -> None:
        written: dict[str, HandOver] = {}
        if some_unrecorded:
            with self.context.database.read_only() as session:
                written = {one.key: one for one in attempts.list_unrecorded(session)}

        def write(session: sa.Connection, ids: Sequence[int]) -> None:
            written.update({one.key: one for one in attempts.write(session, ids, now=self.now)})

        if waiting:
            with phase("write"):
                written_in_batches(self.context, waiting, write, _only_logged)
        to_hand_over = list(written.values())
        for first in range(0, len(to_hand_over), BATCH):
            self._hand_over(to_hand_over[first : first + BATCH])

    def _hand_over(self, batch: Sequence[HandOver]) -> None:
        with phase("hand-over"):
            references = self._to_engine(batch)
        with phase("record"):
            self.context.write(lambda writer: attempts.record_handed_over(writer, references, now=self.now))
        self.result.handed_over += len(references)
        self.context.alive()

    def _to_engine(self, batch: Sequence[HandOver]) -> dict[str, str]:
        """All at once; if the engine refuses, one by one, so that one bad attempt does not keep the others."""
        try:
            return self.context.engine.hand_over(batch, self.now)
        except OUT_OF_REACH:
            raise
        except Exception as error:
            log.exception("hand-over failed", extra={"attempts": len(batch)})
            if len(batch) == 1:
                news.give_up(self.context, batch[0].key, error, self.now)
                return {}
        references: dict[str, str] = {}
        for one in batch:
            references |= self._to_engine([one])
        return references

    def withdraw(self, keys: Sequence[str]) -> None:
        """Cancelled before they were placed, as far as the portal knew."""
        if keys:
            with phase("withdraw"):
                self.context.engine.stop(keys, self.now)
                self.news = True
                in_batches(
                    self.context,
                    keys,
                    lambda session, some: attempts.withdrawn(session, some, at=self.now),
                    lambda key, error: news.give_up(self.context, key, error, self.now),
                )

    # -- what the engine did ------------------------------------------------------------------------------------------

    def record(self) -> None:
        if self.news:
            self.news = False
            self._record()
        if self.answers:
            self.context.write(self._write_answers)
            self.answers = []

    def _record(self) -> None:
        known = self.context.applied | self.applied
        fresh = [
            one
            for one in self.context.engine.observe(self.since)
            if one.state is not LeaseState.WAITING and (one.key, one.state) not in known
        ]
        if fresh:
            started, written = news.write(self.context, fresh, self.now, self._write_answers)
            if written and any(one.state is LeaseState.ENDED for one in fresh):
                self.answers = []
            self.result.started += started
            self.all_written = self.all_written and written
            self.applied.update((one.key, one.state) for one in fresh)

    def remember(self) -> None:
        """What was seen up to here need not be asked for again; unless something could not be written."""
        context = self.context
        if not self.all_written:
            context.observed_at = None
        else:
            if context.observed_at == self.now:
                self.applied |= context.applied
            context.observed_at, context.applied = self.now, self.applied
        context.alive()

    # -- access -------------------------------------------------------------------------------------------------------

    def take_access_back(self, some_left: bool) -> None:
        """Only then are the GPUs free. Without a hook the ends themselves freed them, but for what a crash left."""
        hook = self.context.access
        if hook is None and not some_left:
            return
        with phase("revoke"):
            over = self._to_do(Step.REVOKE)
            never_given = [todo.id for todo in over if hook is None or not todo.placed]
            self._write_revoked(never_given)
            if hook is not None:
                self._ask(hook, "revoke", [todo for todo in over if todo.placed])
                self._take_answers(hook)

    def give_access(self) -> None:
        hook = self.context.access
        if hook is not None:
            with phase("grant"):
                self._ask(hook, "grant", self._to_do(Step.GRANT))
                self._take_answers(hook)

    def _to_do(self, step: Step) -> list[ToDo]:
        with self.context.database.look() as session:
            return [todo for todo in attempts.list_to_do(session) if todo.step is step]

    def _ask(self, hook: AccessHook, action: str, todos: Sequence[ToDo]) -> None:
        if not todos:
            return
        with self.context.database.read_only() as session:
            members = enterprise_queries.list_public_keys(session, {todo.enterprise_id for todo in todos})
        for todo in todos:
            keys = members.get(todo.enterprise_id, [])
            hook.ask(Call(action, todo.key, todo.id, todo.nodes or [], keys, todo.until_at))

    def _take_answers(self, hook: AccessHook) -> None:
        """Each answer in its own transaction: they come one by one, and none may keep another."""
        for answer in hook.answers():
            self._take_answer(answer)

    def _take_answer(self, answer: Answer) -> None:
        call = answer.call
        tries = self.context.policy.queue.tries_before_set_aside
        if call.action == "revoke":
            if answer.error is None:
                self._write_revoked([call.attempt_id])
            else:
                self.context.transact(lambda session: attempts.revoke_failed(session, call.attempt_id, now=self.now))
        elif answer.error is None:
            at = max(answer.at, self.now)
            granted = self.context.transact(lambda session: attempts.granted(session, {call.key: at}))
            self.result.started += granted
        else:
            why = Sentence("hook-failed", tries=tries)
            over = self.context.transact(
                lambda session: attempts.grant_failed(session, call.key, why=why, tries=tries, now=self.now)
            )
            if over:
                self.context.engine.stop([call.key], self.now)

    def _write_revoked(self, attempt_ids: Sequence[int]) -> None:
        in_batches(
            self.context,
            attempt_ids,
            lambda session, some: attempts.revoked(session, some, at=self.now),
            _only_logged,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """An instruction that this round carries out. Also one that a round before claimed: whoever did is gone."""

    id: int
    verb: InstructionVerb
    target_id: int
    by: Actor
    why: str | None


def _only_logged(item: int, error: Exception) -> None:
    """It was logged with its trace; the next round finds it again."""
    log.error("left for the next round", extra={"id": item, "error": str(error)})


def write_standings(context: Context, now: dt.datetime) -> int:
    """Places and reasons of everything that waits; only what changed. Returns how many rows.

    And a copy for looking ahead (see `forecasting`), unless rounds take longer than they should.
    """
    changed = 0
    standings = context.engine.standings(now)
    for pool_id, places in standings.items():
        changed += _write_standings(context, pool_id, places, now)
    queue, second = context.policy.queue, int(now.timestamp())
    waiting = {id: [place.booking_id for place in places if place.place] for id, places in standings.items()}
    if context.round_seconds <= queue.cycle_seconds and context.ahead.is_due(second, waiting, queue.forecast_seconds):
        context.ahead.leave(context.engine.snapshots(now), second, queue.forecast_seconds)
    return changed


def _write_standings(context: Context, pool_id: int, places: Sequence[attempts.Place], now: dt.datetime) -> int:
    with phase("standings"):
        return context.transact(lambda session: attempts.write_standings(session, places, pool_id=pool_id, now=now))


def sync(context: Context, now: dt.datetime) -> None:
    """Tell the engine our policy, and write down what it can do: forms read that on the pool."""
    with phase("sync"):
        with context.database.read_only() as session:
            policy = read_policy(session, now)
            pools_now = session.execute(sa.select(Pool.id, Pool.booking_unit, Pool.takes_scripts)).all()
        context.engine.sync(policy)
        can = context.engine.capabilities
        for id, unit, takes_scripts in pools_now:
            if unit not in can.booking_units or takes_scripts != can.takes_scripts:
                _write_capabilities(context, id, unit if unit in can.booking_units else min(can.booking_units))


def _write_capabilities(context: Context, pool_id: int, unit: BookingUnit) -> None:
    def work(session: Session) -> None:
        pool = pools.lock_pool(session, pool_id)
        pool.booking_unit, pool.takes_scripts = unit, context.engine.capabilities.takes_scripts
        pools.changed(session, pool)

    context.transact(work)


def read_policy(session: Session, now: dt.datetime) -> EnginePolicy:
    shares = session.execute(
        sa.select(
            Allocation.pool_id, Allocation.programme_id, Programme.shares, Allocation.enterprise_id,
            sa.func.coalesce(EnterpriseShare.shares, 1), Allocation.id, Allocation.shares,
        )
        .join(Programme, Programme.id == Allocation.programme_id)
        .outerjoin(
            EnterpriseShare,
            sa.and_(
                EnterpriseShare.programme_id == Allocation.programme_id,
                EnterpriseShare.enterprise_id == Allocation.enterprise_id,
            ),
        )
        .where(Allocation.state == AllocationState.ACTIVE)
        .order_by(Allocation.id)
    )  # fmt: skip
    limits = session.execute(sa.select(Limit.enterprise_id, Limit.pool_id, Limit.gpus))
    fixed = session.execute(
        sa.select(
            Booking.id, Booking.pool_id, Booking.starts_at, Booking.ends_at, Occupancy.node_id, Occupancy.gpu_mask
        )
        .join(Occupancy, Occupancy.booking_id == Booking.id)
        .where(
            Booking.kind == BookingKind.FIXED,
            Booking.state == BookingState.CONFIRMED,
            Booking.ends_at > now,
            Occupancy.released_at.is_(None),
        )
        .order_by(Booking.id, Occupancy.id)
    )
    windows: dict[int, FixedBooking] = {}
    for id, pool_id, starts_at, ends_at, node_id, mask in fixed:
        if starts_at is None or ends_at is None:
            continue  # only a flexible booking has no window
        before = windows.get(id)
        nodes = (*(before.nodes if before else ()), (node_id, mask))
        windows[id] = FixedBooking(id, pool_id, starts_at, ends_at, nodes)
    return EnginePolicy(
        [Share(*row) for row in shares],
        {(enterprise_id, pool_id): gpus for enterprise_id, pool_id, gpus in limits},
        list(windows.values()),
    )
