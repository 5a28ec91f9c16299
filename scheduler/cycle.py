"""One round of scheduling. `run` reads like this:

 1. heartbeat, so that pages and /readyz know that the scheduler lives;
 2. instructions: what people asked for (stop, drain, resume) is claimed, done and answered in the same row;
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
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.access import Actor
from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import HandOver, ToDo
from compute_portal.enterprises import queries as enterprise_queries
from compute_portal.pools import service as pools
from compute_portal.pools.models import Instruction, Node
from compute_portal.pools.states import InstructionState, InstructionVerb, NodeState
from compute_portal.sentences import NotFound, Refusal, Sentence
from scheduler import news, recovery
from scheduler.access_hook import AccessHook, Answer, Call
from scheduler.context import BATCH, OUT_OF_REACH, Context, in_batches
from scheduler.engines import LeaseState
from scheduler.phases import phase

log = logging.getLogger(__name__)
OPEN = (InstructionState.WAITING, InstructionState.CLAIMED)


@dataclass
class Result:
    """What the round did; `started` are the bookings that people may use from now on."""

    handed_over: int = 0
    started: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Work:
    """What waits for this round, read at once."""

    instructions: list[int]
    unrecorded: list[HandOver]
    to_hand_over: list[int]
    missed: list[int]
    to_do: list[ToDo]


def run(context: Context, now: dt.datetime) -> Result:
    """Raises when the database or the engine is out of reach; the next round then finds what was left."""
    result = Result()
    context.leader.heartbeat(now)
    if context.observed_at is None and not recovery.run(context, now):
        log.error("not everything could be recovered, the next round tries again")
    round = _Round(context, result, now, since=context.observed_at or now)
    work = round.look()
    round.follow_instructions(work.instructions)
    round.close_missed(work.missed)
    round.hand_over(work.unrecorded, work.to_hand_over)
    round.withdraw([todo.key for todo in work.to_do if todo.outcome is None and not todo.placed])
    with phase("advance"):
        context.engine.advance(now)
    round.record()
    round.take_access_back(any(todo.outcome is not None for todo in work.to_do))
    with phase("place"):
        context.engine.place(now)
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

    def look(self) -> _Work:
        with self.context.database.read_only() as session:
            return _Work(
                list(session.scalars(sa.select(Instruction.id).where(Instruction.state.in_(OPEN)))),
                attempts.list_unrecorded(session),
                attempts.list_to_hand_over(session, self.now),
                attempts.list_missed(session, self.now),
                attempts.list_to_do(session),
            )

    # -- instructions -------------------------------------------------------------------------------------------------

    def follow_instructions(self, ids: Sequence[int]) -> None:
        for id in sorted(ids):
            with phase("instruction"):
                try:
                    self._follow(id)
                except OUT_OF_REACH:
                    raise
                except Exception:
                    log.exception("instruction failed, the next round tries again", extra={"instruction": id})

    def _follow(self, id: int) -> None:
        claimed = self.context.transact(lambda session: _claim(session, id))
        if claimed is None:
            return
        verb, target_id, by, why = claimed
        try:
            if verb is InstructionVerb.STOP:
                answer = self._stop(target_id)
            else:
                answer = self._change_node(verb, target_id, by, why)
            done = True
        except (Refusal, NotFound) as refusal:
            answer = refusal.sentence if isinstance(refusal, Refusal) else Sentence("nothing-to-stop")
            done = False
        self.context.transact(lambda session: pools.answer(session, id, answer, done=done, now=self.now))

    def _stop(self, booking_id: int) -> Sentence:
        with self.context.database.read_only() as session:
            key = attempts.find_under_way(session, booking_id)
        if key is None:
            return Sentence("nothing-to-stop")
        self.context.engine.stop([key], self.now)
        return Sentence("stopped")

    def _change_node(self, verb: InstructionVerb, node_id: int, by: Actor, why: str | None) -> Sentence:
        in_service = verb is InstructionVerb.RESUME
        state = NodeState.UP if in_service else NodeState.DRAINING
        self.context.engine.set_node(node_id, in_service)

        def work(session: Session) -> None:
            node = session.get(Node, node_id)
            if node is None or node.state is not state:  # else it was done before a crash
                pools.change_node_state(session, node_id, state, verb=verb.value, by=by, now=self.now, note=why)

        self.context.transact(work)
        return Sentence("resumed" if in_service else "drained")

    # -- hand over ----------------------------------------------------------------------------------------------------

    def close_missed(self, ids: Sequence[int]) -> None:
        def work(session: Session, some: Sequence[int]) -> None:
            for id in some:
                attempts.missed(session, id, now=self.now)

        in_batches(self.context, ids, work, _only_logged)

    def hand_over(self, unrecorded: Sequence[HandOver], waiting: Sequence[int]) -> None:
        written = {one.key: one for one in unrecorded}

        def write(session: Session, ids: Sequence[int]) -> None:
            written.update({one.key: one for one in attempts.write(session, ids, now=self.now)})

        if waiting:
            with phase("write"):
                in_batches(self.context, waiting, write, _only_logged)
        to_hand_over = list(written.values())
        for first in range(0, len(to_hand_over), BATCH):
            self._hand_over(to_hand_over[first : first + BATCH])

    def _hand_over(self, batch: Sequence[HandOver]) -> None:
        with phase("hand-over"):
            references = self._to_engine(batch)
        with phase("record"):
            self.context.transact(lambda session: attempts.record_handed_over(session, references, now=self.now))
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
                in_batches(
                    self.context,
                    keys,
                    lambda session, some: attempts.withdrawn(session, some, at=self.now),
                    lambda key, error: news.give_up(self.context, key, error, self.now),
                )

    # -- what the engine did ------------------------------------------------------------------------------------------

    def record(self) -> None:
        known = self.context.applied | self.applied
        fresh = [
            one
            for one in self.context.engine.observe(self.since)
            if one.state is not LeaseState.WAITING and (one.key, one.state) not in known
        ]
        if fresh:
            started, written = news.write(self.context, fresh, self.now)
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
            over = [todo for todo in self._to_do() if todo.outcome is not None]
            never_given = [todo.id for todo in over if hook is None or not todo.placed]
            self._write_revoked(never_given)
            if hook is not None:
                self._ask(hook, "revoke", [todo for todo in over if todo.placed])
                self._take_answers(hook)

    def give_access(self) -> None:
        hook = self.context.access
        if hook is not None:
            with phase("grant"):
                waiting = [todo for todo in self._to_do() if todo.outcome is None and todo.placed]
                self._ask(hook, "grant", waiting)
                self._take_answers(hook)

    def _to_do(self) -> list[ToDo]:
        with self.context.database.read_only() as session:
            return attempts.list_to_do(session)

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


def _claim(session: Session, id: int) -> tuple[InstructionVerb, int, Actor, str | None] | None:
    """Claimed ones are claimed again: whoever claimed them is gone, and each may be done twice."""
    claimed = session.execute(
        sa.update(Instruction)
        .where(Instruction.id == id, Instruction.state.in_(OPEN))
        .values(state=InstructionState.CLAIMED)
        .returning(Instruction.verb, Instruction.target_id, Instruction.by_id, Instruction.why)
    ).one_or_none()
    if claimed is None:
        return None
    verb, target_id, by_id, why = claimed
    return verb, target_id, Actor(user_id=by_id), why


def _only_logged(item: int, error: Exception) -> None:
    """It was logged with its trace; the next round finds it again."""
    log.error("left for the next round", extra={"id": item, "error": str(error)})


def write_standings(context: Context, now: dt.datetime) -> int:
    """Places, reasons and expected starts of everything that waits; only what changed. Returns how many rows."""
    changed = 0
    for pool_id, places in context.engine.standings(now).items():
        changed += _write_standings(context, pool_id, places, now)
    return changed


def _write_standings(context: Context, pool_id: int, places: Sequence[attempts.Place], now: dt.datetime) -> int:
    with phase("standings"):
        return context.transact(lambda session: attempts.write_standings(session, places, pool_id=pool_id, now=now))
