"""A booking's way through the cycle, and what happens when people, nodes and errors come in between."""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.bookings import attempts
from compute_portal.bookings import service as bookings
from compute_portal.bookings.attempts import HandOver
from compute_portal.bookings.models import Booking, Standing
from compute_portal.bookings.states import AttemptOutcome, BookingState
from compute_portal.desk.models import Lease
from compute_portal.policy import Order, PoolQueuePolicy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Instruction, Node, Pool
from compute_portal.pools.states import InstructionState, NodeState
from scheduler import changes, cycle, news
from scheduler.context import rules_by_pool, rules_of
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.planning.play import Usage
from scheduler.planning.rules import Rules
from tests.cast import HOUR
from tests.scheduler.conftest import Town

MINUTE = dt.timedelta(minutes=1)


def test_a_flexible_booking_is_placed_metered_charged_and_settled(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=2)
    assert town.cycle(now) == [id]
    assert town.state(id) is BookingState.RUNNING
    town.meter(now + HOUR)
    town.cycle(now + 2 * HOUR)
    assert town.state(id) is BookingState.FINISHED
    town.meter(now + 2 * HOUR)
    assert town.state(id) is BookingState.SETTLED
    assert town.charged(id) == town.booking(id).charged_gpu_seconds == 4 * 2 * 3600
    assert town.verbs(id) == ["submit", "approve", "place", "start", "finish", "settle"]


def test_a_lease_ends_exactly_at_its_end_even_if_that_is_noticed_late(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=2)
    town.cycle(now)
    town.cycle(now + 5 * HOUR)
    assert town.attempt(id).ended_at == town.booking(id).ended_at == now + 2 * HOUR
    town.meter(now + 5 * HOUR)
    assert town.charged(id) == 4 * 2 * 3600


def test_gpus_that_become_free_are_used_again_in_the_same_round(town: Town) -> None:
    now = town.cast.now
    first, second = town.flexible(gpus=32, hours=1), town.flexible(gpus=32, hours=1)
    assert town.cycle(now) == [first]
    assert town.cycle(now + HOUR) == [second]
    assert town.attempt(second).placed_at == now + HOUR


def test_a_round_in_which_nothing_happened_writes_nothing(town: Town) -> None:
    now = town.cast.now
    town.flexible(gpus=32)
    town.flexible(gpus=32)
    town.cycle(now)
    before = _everything(town)
    town.cycle(now + MINUTE)
    assert _everything(town) == before


def _everything(town: Town) -> dict[str, list[Any]]:
    """All rows but the scheduler's pulse."""
    with town.cast.database.read_only() as session:
        names = [name for name in sa.inspect(session.get_bind()).get_table_names() if name != "leader"]
        return {name: sorted(map(repr, session.execute(sa.text(f'SELECT * FROM "{name}"')))) for name in names}


# -- people come in between -------------------------------------------------------------------------------------------


def test_a_stop_ends_a_running_booking_at_once_and_only_what_ran_is_charged(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=8)
    town.cycle(now)
    stop = now + 90 * MINUTE
    town.cast.database.transaction(lambda s: bookings.stop(s, id, by=town.cast.member, now=stop).id)
    assert town.state(id) is BookingState.STOPPING
    town.cycle(stop)
    town.meter(stop)
    assert town.state(id) is BookingState.SETTLED
    assert town.charged(id) == 4 * 90 * 60
    assert town.balance().held == 0
    with town.cast.database.read_only() as session:
        instruction = session.scalars(sa.select(Instruction)).one()
    assert (instruction.state, instruction.answer) == (InstructionState.DONE, {"id": "stopped"})


def test_a_stop_that_comes_after_the_end_is_answered_and_changes_nothing(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=1)
    town.cycle(now)
    late = now + 2 * HOUR  # the scheduler was away when it ended
    town.cast.database.transaction(lambda s: bookings.stop(s, id, by=town.cast.member, now=late).id)
    town.cycle(late)
    assert town.attempt(id).ended_at == now + HOUR
    town.meter(late)
    assert town.charged(id) == 4 * 3600


def test_a_stop_claimed_by_a_scheduler_that_died_is_done_by_the_next(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=8)
    town.cycle(now)

    def stop_and_claim(session: Session) -> None:
        bookings.stop(session, id, by=town.cast.member, now=now)
        session.execute(sa.update(Instruction).values(state=InstructionState.CLAIMED))

    town.cast.database.transaction(stop_and_claim)
    town.cycle(now + MINUTE)
    assert town.state(id) is BookingState.FINISHED


def test_cancelling_before_the_hand_over_leaves_nothing_behind(town: Town) -> None:
    id = town.flexible()
    town.cast.database.transaction(lambda s: bookings.cancel(s, id, by=town.cast.member, now=town.cast.now).id)
    assert town.cycle(town.cast.now) == []
    assert town.attempts(id) == []
    assert town.balance().held == 0


def test_cancelling_while_it_waits_at_the_engine_withdraws_it(town: Town) -> None:
    now = town.cast.now
    town.flexible(gpus=32, hours=1)
    id = town.flexible(gpus=32, hours=1)
    town.cycle(now)
    town.cast.database.transaction(lambda s: bookings.cancel(s, id, by=town.cast.member, now=now).id)
    town.cycle(now + MINUTE)
    assert town.attempt(id).outcome is AttemptOutcome.WITHDRAWN
    assert town.cycle(now + HOUR) == []
    assert town.state(id) is BookingState.CANCELLED


def test_cancelling_between_plan_and_placing_gives_the_gpus_to_the_next(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = town.cast.now
    gone, next_one = town.flexible(gpus=32), town.flexible(gpus=32)
    real = EmbeddedEngine._apply
    cancelled = []

    def cancel_first(self: EmbeddedEngine, *args: Any) -> bool:
        if not cancelled:
            cancelled.append(gone)
            town.cast.database.transaction(lambda s: bookings.cancel(s, gone, by=town.cast.member, now=now).id)
        return real(self, *args)

    monkeypatch.setattr(EmbeddedEngine, "_apply", cancel_first)
    assert town.cycle(now) == [next_one]
    assert town.state(gone) is BookingState.CANCELLED
    assert town.occupancies(gone) == []
    town.cycle(now + MINUTE)
    assert town.attempt(gone).outcome is AttemptOutcome.WITHDRAWN


def test_cancelling_between_placing_and_record_frees_the_gpus_and_charges_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = town.cast.now
    id = town.flexible(gpus=32)
    real = news.write

    def cancel_first(*args: Any) -> tuple[list[int], bool]:
        if args[1] and town.state(id) is BookingState.QUEUED:
            town.cast.database.transaction(lambda s: bookings.cancel(s, id, by=town.cast.member, now=now).id)
        return real(*args)

    monkeypatch.setattr(news, "write", cancel_first)
    assert town.cycle(now) == []
    assert town.attempt(id).outcome is AttemptOutcome.WITHDRAWN
    monkeypatch.undo()
    after = town.flexible(gpus=32, now=now + MINUTE)
    assert town.cycle(now + MINUTE) == [after]
    town.meter(now + 3 * HOUR)
    assert town.charged(id) == 0


# -- nodes ------------------------------------------------------------------------------------------------------------


def down(town: Town, name: str, now: dt.datetime, state: NodeState = NodeState.DOWN) -> None:
    node_id = town.node(name)
    town.cast.database.transaction(
        lambda s: pools.change_node_state(s, node_id, state, verb="fail", by=town.cast.operator, now=now)
    )


def test_a_node_that_goes_down_puts_its_booking_back_into_the_queue_with_the_reason(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=32, hours=4)
    town.cycle(now)
    down(town, "h800-n002", now + 90 * MINUTE)
    town.cycle(now + 91 * MINUTE)
    assert town.state(id) is BookingState.QUEUED
    first = town.attempts(id)[0]
    assert first.outcome is AttemptOutcome.FAILED
    assert first.reason == {"id": "node-down", "node": "h800-n002"}
    assert first.ended_at == now + 90 * MINUTE
    town.meter(now + 91 * MINUTE)
    assert town.charged(id) == 32 * 90 * 60
    assert town.balance().held == 32 * (4 * 60 - 90) * 60


def test_a_booking_whose_node_failed_starts_again_on_others(town: Town) -> None:
    now = town.cast.now
    id = town.flexible(gpus=8, hours=4)
    town.cycle(now)
    down(town, "h800-n001", now + MINUTE)
    # The failure is seen and recorded, then what waits is handed over in the next round.
    town.cycle(now + MINUTE)
    assert town.cycle(now + 2 * MINUTE) == [id]
    assert [attempt.nodes[0]["node"] for attempt in town.attempts(id)] == ["h800-n001", "h800-n002"]  # type: ignore[index]
    assert town.verbs(id)[2:] == ["place", "start", "fail", "place", "start"]


def test_a_node_is_drained_and_resumed_by_instruction(town: Town) -> None:
    now = town.cast.now
    running = town.flexible(gpus=8, hours=2)
    town.cycle(now)
    node_id = town.node("h800-n001")
    town.cast.database.transaction(lambda s: pools.drain(s, node_id, why="fan", by=town.cast.operator, now=now))
    waiting = town.flexible(gpus=32, hours=1, now=now)
    town.cycle(now + MINUTE)
    assert town.state(running) is BookingState.RUNNING
    with town.cast.database.read_only() as session:
        assert session.get_one(Node, node_id).state is NodeState.DRAINING
        answered = session.scalars(sa.select(Instruction)).one()
    assert (answered.state, answered.answer) == (InstructionState.DONE, {"id": "drained"})
    assert town.cycle(now + 2 * HOUR) == []  # 24 of 32 GPUs are up
    town.cast.database.transaction(
        lambda s: pools.resume(s, node_id, why="new fan", by=town.cast.operator, now=now + 3 * HOUR)
    )
    assert town.cycle(now + 3 * HOUR) == [waiting]


# -- fixed bookings ---------------------------------------------------------------------------------------------------


def first_come_first_served(town: Town) -> None:
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, Rules(order="fifo"))


def test_a_fixed_booking_starts_on_time_when_all_else_is_busy(town: Town) -> None:
    first_come_first_served(town)
    now = town.cast.now
    fixed = town.fixed(gpus=16, start_in=2, hours=2)
    # Long ones may only take what the window leaves; short ones take everything until then.
    long = [town.flexible(gpus=8, hours=10) for _ in range(4)]
    short = [town.flexible(gpus=8, hours=2) for _ in range(4)]
    town.cycle(now)
    assert [town.state(id) for id in long] == [BookingState.RUNNING] * 2 + [BookingState.QUEUED] * 2
    assert [town.state(id) for id in short] == [BookingState.RUNNING] * 2 + [BookingState.QUEUED] * 2
    assert fixed in town.cycle(now + 2 * HOUR)
    attempt = town.attempt(fixed)
    assert (attempt.placed_at, attempt.until_at) == (now + 2 * HOUR, now + 4 * HOUR)


def test_when_its_node_fails_the_newest_flexible_booking_gives_way_to_a_fixed_one_and_pays_nothing(town: Town) -> None:
    now = town.cast.now
    fixed = town.fixed(gpus=8, start_in=1, hours=2)
    older = [town.flexible(gpus=8, hours=10) for _ in range(2)]
    town.cycle(now)
    newest = town.flexible(gpus=8, hours=10)
    town.cycle(now + MINUTE)
    (kept,) = town.occupancies(fixed)
    with town.cast.database.read_only() as session:
        name = session.get_one(Node, kept.node_id).name
    down(town, name, now + 30 * MINUTE)
    town.cycle(now + 30 * MINUTE)
    started = town.cycle(now + HOUR) + town.cycle(now + HOUR)
    assert fixed in started
    assert [town.state(id) for id in older] == [BookingState.RUNNING] * 2
    assert town.state(newest) is BookingState.QUEUED
    lost = town.attempts(newest)[0]
    assert lost.outcome is AttemptOutcome.FAILED
    assert lost.reason == {"id": "gave-way", "number": fixed}
    # It comes back as often as it must: to give way is no failure of its own.
    town.cycle(now + 3 * HOUR + MINUTE)
    assert town.state(newest) is BookingState.RUNNING


def test_flexible_bookings_give_way_in_time_for_the_fixed_one_to_start_to_the_second(town: Town) -> None:
    now = town.cast.now
    fixed, failed = town.fixed(gpus=16, start_in=1, hours=2), now + 30 * MINUTE
    runs = [town.flexible(gpus=8, hours=10), town.flexible(gpus=8, hours=10)]
    assert town.cycle(now) == runs
    down(town, "h800-n001", failed)
    town.cycle(failed)
    town.flexible(gpus=8, hours=10)  # would like the cards that the fixed booking is about to get
    for at in (HOUR - 3 * MINUTE, HOUR - 2 * MINUTE, HOUR - MINUTE, HOUR):
        started = town.cycle(now + at)
    assert fixed in started
    assert town.attempt(fixed).placed_at == now + HOUR
    assert [town.state(id) for id in runs] == [BookingState.RUNNING, BookingState.QUEUED]
    town.cycle(now + 3 * HOUR)
    town.meter(now + 3 * HOUR)
    assert town.charged(fixed) == 16 * 2 * 3600


@pytest.mark.parametrize("seed", range(int(os.environ.get("ROUNDS", "2"))))
def test_whatever_waits_and_fails_fixed_bookings_start_to_the_second_while_enough_nodes_are_up(
    town: Town, seed: int
) -> None:
    chance, rules = random.Random(seed), town.policy.bookings
    names = [f"h800-n{number:03}" for number in range(1, 5)]
    start = town.cast.now + HOUR
    ours = town.fixed(gpus=8, start_in=1, hours=2)
    theirs = town.cast.submit(
        town.cast.fixed(8, 1, 2, allocation_id=town.cast.other_allocation), rules, by=town.cast.stranger
    )
    now = town.cast.now
    while now < start - 5 * MINUTE:
        for _ in range(chance.randrange(4)):
            town.flexible(gpus=chance.choice((1, 4, 8, 16)), hours=chance.choice((0.2, 1, 10)), now=now)
        town.cycle(now)
        now += chance.randrange(1, 20) * MINUTE
    broken = chance.sample(names, chance.randrange(3))
    for name in broken:
        down(town, name, start - 4 * MINUTE)
    for before in (4, 3, 2, 1, 0):
        town.cycle(start - before * MINUTE)
        changes.run(town.context, start - before * MINUTE)
    assert [town.attempt(id).placed_at for id in (ours, theirs)] == [start, start], broken


def test_nothing_starts_above_a_power_cap_but_what_was_confirmed_before_it(town: Town) -> None:
    now = town.cast.now
    fixed = town.fixed(gpus=16, start_in=1, hours=2)
    hour = clock.ceil_hour(now)

    def cap(session: Session) -> int:
        watts = session.get_one(Pool, town.cast.pool).watts * 8 * 13 // 10  # for 8 of 32 GPUs
        return pools.cap_power(
            session, town.cast.pool, watts=watts, pue_permille=1_300, starts_at=hour, ends_at=hour + 6 * HOUR,
            by=SYSTEM, now=now,
        ).id  # fmt: skip

    town.cast.database.transaction(cap)
    long, short = town.flexible(gpus=8, hours=3), town.flexible(gpus=8, hours=1)
    town.cycle(now)
    # `long` would still run when 16 GPUs of the 8 are in use; `short` is over by then.
    assert (town.state(long), town.state(short)) == (BookingState.QUEUED, BookingState.RUNNING)
    assert fixed in town.cycle(now + HOUR)
    town.cycle(now + 3 * HOUR)
    assert town.state(long) is BookingState.RUNNING


def test_a_lease_remembers_that_it_started_because_of_the_promise(town: Town) -> None:
    now = town.cast.now
    rules = Rules(promise_seconds=3_600)
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, rules)
    town.flexible(gpus=32, hours=2)
    town.cycle(now)
    late = town.flexible(gpus=16, hours=4)
    town.cycle(now + 2 * HOUR)
    with town.cast.database.read_only() as session:
        assert session.scalars(sa.select(Lease.promised).order_by(Lease.booking_id)).all() == [False, True]
    assert town.state(late) is BookingState.RUNNING


def test_a_fixed_booking_whose_node_is_down_moves_to_free_gpus(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=2)
    (kept,) = town.occupancies(id)
    down(town, "h800-n001", now)
    assert town.cycle(now + HOUR) == [id]
    (before, after) = town.occupancies(id)
    assert before.id == kept.id
    assert before.ends_at == before.starts_at  # never given
    assert after.node_id == town.node("h800-n002")
    assert after.fixed
    assert town.attempt(id).nodes == [{"node": "h800-n002", "gpus": list(range(8))}]


def test_a_fixed_booking_without_room_waits_with_a_reason_and_starts_when_its_node_is_back(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=16, start_in=1, hours=4)
    runs = town.flexible(gpus=8, hours=10)
    town.cycle(now)
    for name in ("h800-n001", "h800-n002", "h800-n004"):
        down(town, name, now + MINUTE)
    # The flexible one runs on the node that is left; it does not give way, for that would not be enough.
    assert town.cycle(now + HOUR) == []
    assert town.state(runs) is BookingState.RUNNING
    cycle.write_standings(town.context, now + HOUR)
    assert town.state(id) is BookingState.CONFIRMED
    with town.cast.database.read_only() as session:
        assert session.get_one(Standing, id).reason == {"id": "wait-nodes-down"}
    for name in ("h800-n001", "h800-n002"):
        down(town, name, now + 2 * HOUR, NodeState.UP)
    assert town.cycle(now + 2 * HOUR) == [id]
    town.cycle(now + 5 * HOUR)
    town.meter(now + 5 * HOUR)
    assert town.charged(id) == 16 * 3 * 3600  # from when people were let in


def test_a_fixed_booking_whose_window_passes_without_room_costs_nothing(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=16, start_in=1, hours=1)
    for number in range(1, 5):
        down(town, f"h800-n{number:03}", now)
    town.cycle(now + HOUR)
    town.cycle(now + 2 * HOUR)
    assert town.state(id) is BookingState.FAILED
    assert town.balance().held == 0
    assert town.balance().used == 0


def test_a_window_that_passed_while_no_scheduler_ran_costs_nothing(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=16, start_in=1, hours=1)
    town.cycle(now + 3 * HOUR)
    assert town.state(id) is BookingState.FAILED
    assert town.balance().held == 0
    assert all(row.released_at for row in town.occupancies(id))


def test_a_fixed_booking_is_charged_for_its_whole_window_when_it_is_ended_early(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=4)
    town.cycle(now + HOUR)
    stop = now + 2 * HOUR
    town.cast.database.transaction(lambda s: bookings.stop(s, id, by=town.cast.member, now=stop).id)
    others = town.flexible(gpus=32, hours=1, now=stop)
    assert town.cycle(stop) == [others]  # the GPUs are for others at once
    town.meter(now + 3 * HOUR)
    assert town.charged(id) == 8 * 2 * 3600  # as the hours pass
    assert town.state(id) is BookingState.FINISHED
    town.meter(now + 5 * HOUR)
    assert town.charged(id) == 8 * 4 * 3600
    assert town.state(id) is BookingState.SETTLED


def test_a_fixed_booking_whose_node_fails_goes_on_elsewhere_and_pays_for_what_it_had(town: Town) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=4)
    town.cycle(now + HOUR)
    down(town, "h800-n001", now + 2 * HOUR)
    town.cycle(now + 2 * HOUR)
    assert town.cycle(now + 2 * HOUR + 30 * MINUTE) == [id]
    town.cycle(now + 5 * HOUR)
    town.meter(now + 5 * HOUR)
    assert town.state(id) is BookingState.SETTLED
    assert town.charged(id) == 8 * (3600 + 2 * 3600 + 30 * 60)


# -- errors and crashes -----------------------------------------------------------------------------------------------


def test_one_bad_booking_is_set_aside_after_some_tries_and_the_others_go_on(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = town.cast.now
    good, bad, other = town.flexible(), town.flexible(), town.flexible()
    real = EmbeddedEngine.hand_over

    def refuses_one(self: EmbeddedEngine, some: Sequence[HandOver], at: dt.datetime) -> dict[str, str]:
        if any(one.booking_id == bad for one in some):
            raise RuntimeError("no such partition")
        return real(self, some, at)

    monkeypatch.setattr(EmbeddedEngine, "hand_over", refuses_one)
    assert town.cycle(now) == [good, other]
    assert town.state(bad) is BookingState.QUEUED
    town.cycle(now + MINUTE)
    town.cycle(now + 2 * MINUTE)
    assert town.state(bad) is BookingState.FAILED
    assert len(town.attempts(bad)) == 1  # the same key was tried again
    assert town.attempt(bad).reason == {"id": "set-aside", "tries": 3, "error": "RuntimeError: no such partition"}
    assert town.verbs(bad) == ["submit", "approve", "fail"]
    assert town.balance().held == town.booking(good).held_gpu_seconds + town.booking(other).held_gpu_seconds


def test_a_booking_whose_news_cannot_be_written_is_set_aside_and_the_others_go_on(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = town.cast.now
    good, bad = town.flexible(), town.flexible()
    real = attempts.placed

    def fails_for_one(session: Session, given: Sequence[attempts.Given]) -> dict[str, int]:
        if any(one.key == f"booking-{bad}-1" for one in given):
            raise ValueError("damaged row")
        return real(session, given)

    monkeypatch.setattr(attempts, "placed", fails_for_one)
    assert town.cycle(now) == [good]
    town.cycle(now + MINUTE)
    town.cycle(now + 2 * MINUTE)
    assert (town.state(good), town.state(bad)) == (BookingState.RUNNING, BookingState.FAILED)
    monkeypatch.undo()
    next_one = town.flexible(gpus=28, now=now + 3 * MINUTE)
    assert town.cycle(now + 3 * MINUTE) == [next_one]  # its GPUs are free again


@pytest.mark.parametrize(
    "step",
    [
        (attempts, "write"), (EmbeddedEngine, "hand_over"), (attempts, "record_handed_over"),
        (EmbeddedEngine, "advance"), (attempts, "ended"), (EmbeddedEngine, "place"), (attempts, "placed"),
        (EmbeddedEngine, "stop"), (pools, "answer"), (news, "write"),
    ],
    ids=lambda step: step[1],
)  # fmt: skip
def test_a_round_that_dies_after_any_step_is_finished_by_the_next_scheduler(
    town: Town, break_after: Any, step: tuple[object, str]
) -> None:
    now = town.cast.now
    ends, stopped = town.flexible(gpus=8, hours=1), town.flexible(gpus=8, hours=10)
    town.cycle(now)
    new = town.flexible(gpus=32, hours=1, now=now)
    then = now + HOUR
    town.cast.database.transaction(lambda s: bookings.stop(s, stopped, by=town.cast.member, now=then).id)
    break_after(*step)
    with pytest.raises(BaseException, match=step[1]):
        town.cycle(then)
    # Another process: it remembers nothing.
    memory = EmbeddedEngine(town.cast.database, town.context.leader, Rules())
    town.context.engine, town.context.observed_at, town.context.applied = memory, None, set()
    town.cycle(then)
    town.cycle(then)
    assert [town.state(id) for id in (ends, stopped, new)] == [
        BookingState.FINISHED, BookingState.FINISHED, BookingState.RUNNING,
    ]  # fmt: skip
    assert [len(town.attempts(id)) for id in (ends, stopped, new)] == [1, 1, 1]
    town.cycle(then + HOUR)
    town.meter(then + HOUR)
    assert [town.charged(id) for id in (ends, stopped, new)] == [8 * 3600, 8 * 3600, 32 * 3600]


def test_an_attempt_that_the_engine_lost_goes_back_to_the_queue(town: Town) -> None:
    now = town.cast.now
    id = town.flexible()
    town.cycle(now)
    town.cast.database.transaction(lambda s: s.execute(sa.text("DELETE FROM leases")))
    town.context.observed_at = None
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, Rules())
    assert town.cycle(now + MINUTE) == [id]
    assert town.attempts(id)[0].reason == {"id": "engine-lost"}


def test_what_was_over_before_anybody_saw_it_is_not_charged_and_waits_again(town: Town, break_after: Any) -> None:
    now = town.cast.now
    id = town.flexible(gpus=8, hours=1)
    break_after(EmbeddedEngine, "place")
    with pytest.raises(BaseException, match="place"):
        town.cycle(now)
    back = now + 3 * HOUR  # the scheduler was away for as long as it would have run
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, Rules())
    assert town.cycle(back) == [id]
    assert town.attempts(id)[0].reason == {"id": "over-before-access"}
    town.cycle(back + 2 * HOUR)
    town.meter(back + 2 * HOUR)
    assert town.charged(id) == 8 * 3600


def test_a_wall_clock_that_was_set_back_neither_stops_the_queue_nor_charges_twice(town: Town) -> None:
    now = town.cast.now
    first = town.flexible(gpus=8, hours=3, now=now)
    town.cycle(now)
    town.meter(now + 2 * HOUR)
    back = now + MINUTE
    second = town.flexible(gpus=8, hours=1, now=back)
    assert town.cycle(back) == [second]
    town.meter(back)
    town.cycle(now + 3 * HOUR)
    town.meter(now + 3 * HOUR)
    assert (town.charged(first), town.charged(second)) == (8 * 3 * 3600, 8 * 3600)


# -- standings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "order", "first"), [(True, "fifo", 0), (True, None, 1), (False, "fifo", 1)], ids=["own", "same", "other"]
)
def test_a_pool_may_have_an_order_of_its_own(town: Town, named: bool, order: Order | None, first: int) -> None:
    with town.cast.database.read_only() as session:
        name = session.get_one(Pool, town.cast.pool).name if named else "another pool"
    queue = town.context.policy.queue.model_copy(update={"pools": {name: PoolQueuePolicy(order=order)}})
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, rules_of(queue), rules_by_pool(queue))
    asked = [town.flexible(gpus=32, hours=3), town.flexible(gpus=32, hours=1)]
    assert town.cycle(town.cast.now) == [asked[first]]


def test_what_waits_has_a_place_and_a_reason(town: Town) -> None:
    first_come_first_served(town)
    now = town.cast.now
    town.flexible(gpus=32, hours=2)
    first, second = town.flexible(gpus=32, hours=1), town.flexible(gpus=16, hours=4)
    town.cycle(now)
    assert cycle.write_standings(town.context, now) == 2
    with town.cast.database.read_only() as session:
        one, two = session.get_one(Standing, first), session.get_one(Standing, second)
    assert (one.place, one.waiting, one.expected_at) == (1, 2, None)
    assert (two.place, two.reason["id"]) == (2, "wait-nodes")
    assert cycle.write_standings(town.context, now + MINUTE) == 0  # nothing changed, nothing is written
    town.cycle(now + 2 * HOUR)
    with town.cast.database.read_only() as session:
        assert session.get(Standing, first) is None


def test_an_enterprise_at_its_limit_waits_with_that_reason(town: Town) -> None:
    first_come_first_served(town)
    town.cast.limit(town.cast.yusheng, 8)
    town.flexible(gpus=8)
    id = town.flexible(gpus=4)
    town.cycle(town.cast.now)
    cycle.write_standings(town.context, town.cast.now)
    with town.cast.database.read_only() as session:
        assert session.get_one(Standing, id).reason == {"id": "wait-limit", "limit": 8, "used": 8, "asked": 4}


def test_capabilities_are_written_to_the_pool(town: Town) -> None:
    town.cast.database.transaction(lambda s: s.execute(sa.text("UPDATE pools SET takes_scripts = true")))
    cycle.sync(town.context, town.cast.now)
    with town.cast.database.read_only() as session:
        assert session.scalars(sa.select(Booking.id)).all() == []
        assert session.get_one(pools.Pool, town.cast.pool).takes_scripts is False


def shares_used(town: Town, now: dt.datetime) -> dict[int, float]:
    """Usage per allocation as the next round would plan with it."""
    found = town.context.engine.snapshots(now)[town.cast.pool]
    return {leaf.allocation_id: leaf.usage for leaf in found.leaves}


def test_what_runs_counts_for_the_shares_up_to_the_second_and_never_twice(town: Town) -> None:
    """Against the usage of a replay, which knows each start and end, before and after every pass of the metering."""
    start, cast = clock.ceil_hour(town.cast.now), town.cast
    own, other = cast.allocation, cast.other_allocation
    ids = [town.flexible(gpus=4, hours=3), town.flexible(gpus=2, hours=1)]
    ids.append(
        cast.submit(cast.flexible(8, 2, allocation_id=other), town.policy.bookings, by=cast.stranger, now=cast.now)
    )
    [leaves] = [snapshot.leaves for snapshot in town.context.engine.snapshots(start).values()]
    day = 86_400
    replayed = Usage(list(leaves), day, int(start.timestamp()))
    assert town.policy.queue.usage_half_life_days == 1 and {leaf.usage for leaf in leaves} == {0.0}
    town.cycle(start)
    assert {town.state(id) for id in ids} == {BookingState.RUNNING}
    for allocation, gpus in ((own, 4), (own, 2), (other, 8)):
        replayed.change(allocation, gpus, int(start.timestamp()))
    ends = {start + HOUR: (own, -2), start + 2 * HOUR: (other, -8), start + 3 * HOUR: (own, -4)}

    def holds(now: dt.datetime) -> None:
        expected = {leaf.allocation_id: leaf.usage for leaf in replayed.leaves(int(now.timestamp()))}
        assert shares_used(town, now) == pytest.approx(expected, rel=1e-9)

    for minutes in (1, 25, 59, 60, 61, 95, 120, 150, 180, 200, 1_500):
        now = start + dt.timedelta(minutes=minutes)
        for at, (allocation, gpus) in list(ends.items()):
            if at <= now:
                replayed.change(allocation, gpus, int(at.timestamp()))
                del ends[at]
        holds(now)
        town.cycle(now)
        holds(now)
        town.meter(now)
        holds(now)  # from what it knows
        town.context.engine = EmbeddedEngine(cast.database, town.context.leader, rules_of(town.policy.queue))
        holds(now)  # from the records
    assert not ends and shares_used(town, start + dt.timedelta(days=9))[own] > 0


def test_the_window_of_a_fixed_booking_counts_as_its_hours_pass_used_or_not(town: Town) -> None:
    id, start = town.fixed(gpus=8, start_in=1, hours=4), clock.ceil_hour(town.cast.now + dt.timedelta(seconds=1))
    begins = town.booking(id).starts_at
    assert begins is not None and begins >= start
    town.cycle(begins)
    half = begins + dt.timedelta(minutes=30)
    assert shares_used(town, half)[town.cast.allocation] == pytest.approx(8 * 1_800, rel=0.02)
    assert shares_used(town, begins + 9 * HOUR)[town.cast.allocation] < 8 * 4 * 3_600


def test_a_pool_may_have_a_half_life_of_its_own(town: Town) -> None:
    """An allocation is of one pool, so its usage is halved at that pool's pace, running and stored."""
    queue = town.policy.queue.model_copy(
        update={"pools": {"H800": PoolQueuePolicy(order="fair-tree", half_life_days=0.25)}}
    )
    town.context.policy = town.policy.model_copy(update={"queue": queue})
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, rules_of(queue), rules_by_pool(queue))
    start, allocation = clock.ceil_hour(town.cast.now), town.cast.allocation
    town.flexible(gpus=4, hours=1)
    town.cycle(start)
    town.cycle(start + HOUR)
    at_the_end = shares_used(town, start + HOUR)[allocation]
    town.meter(start + HOUR)
    for later, part in ((6, 0.5), (12, 0.25)):
        assert shares_used(town, start + (1 + later) * HOUR)[allocation] == pytest.approx(part * at_the_end)
