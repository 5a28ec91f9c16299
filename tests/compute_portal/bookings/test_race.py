"""Fifty people want the last node, or the last hours, in the same second: one gets them, the others get a sentence.

Each race is first run without its lock, to show that the lock decides it: a test that cannot fail shows nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units, verify
from compute_portal.bookings import attempts, service
from compute_portal.bookings.models import Booking
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.desk.models import Lease
from compute_portal.ledger import service as ledger
from compute_portal.ledger.models import LedgerAccount
from compute_portal.policy import BookingPolicy, Policy
from compute_portal.pools import service as pools
from compute_portal.sentences import Refusal
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.planning.rules import Rules
from tests.cast import NOW, Cast
from tests.together import at_once

PEOPLE = 50
# The scheduler's planner and a person's request meet in the same second only sometimes, so the window is held open.
THINKING_SECONDS = 0.02


@pytest.fixture
def rules(policy: Policy) -> BookingPolicy:
    """Only the node is scarce: any number of fixed bookings, in the whole pool."""
    return policy.bookings.model_copy(update={"fixed_open_most": 1_000, "fixed_share_percent": 100})


@pytest.fixture(autouse=True)
def slow_placing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for room and taking it passes a moment, so that whoever may interfere does."""
    place, balances = service._place, ledger.lock_accounts

    def place_slowly(*args: Any) -> Any:
        placement = place(*args)
        time.sleep(THINKING_SECONDS)
        return placement

    def lock_slowly(*args: Any) -> Any:
        accounts = balances(*args)
        time.sleep(THINKING_SECONDS)
        return accounts

    monkeypatch.setattr(service, "_place", place_slowly)
    monkeypatch.setattr(ledger, "lock_accounts", lock_slowly)


class Meeting:
    """Where the first two of those who race wait for each other. Whoever gets everything ready races nobody."""

    def __init__(self) -> None:
        self.comers = itertools.count(1)
        self.two = threading.Event()

    def wait_for_another(self) -> None:
        if threading.current_thread() is threading.main_thread():
            return
        comer = next(self.comers)
        if comer == 2:
            self.two.set()
        if comer == 1:
            self.two.wait(timeout=30)


def without_locks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """SELECT without FOR UPDATE; on SQLite, where the transaction is the lock, none; and no overlap trigger.

    The first two people have both looked before either of them takes.
    """
    place = service._place
    placed, looked = Meeting(), Meeting()

    def place_together(*args: Any) -> Any:
        placement = place(*args)
        placed.wait_for_another()
        return placement

    def load(session: Session, model: Any, id: int) -> Any:
        return session.get(model, id, populate_existing=True)

    def look_up(session: Session, *owners: str) -> Any:
        rows = session.execute(
            sa.select(LedgerAccount.owner, LedgerAccount.bucket, LedgerAccount.id, LedgerAccount.balance).where(
                LedgerAccount.owner.in_(owners)
            )
        )
        found = {(owner, bucket): ledger.Account(id, balance) for owner, bucket, id, balance in rows}
        looked.wait_for_another()
        return found

    monkeypatch.setattr(service, "lock", load)
    monkeypatch.setattr(pools, "lock", load)
    monkeypatch.setattr(ledger, "lock_accounts", look_up)
    monkeypatch.setattr(service, "_place", place_together)
    with database.engine.begin() as connection:
        if database.is_postgresql:
            connection.execute(sa.text("DROP TRIGGER occupancies_no_overlap ON occupancies"))
            return
        for verb in ("insert", "update"):
            connection.execute(sa.text(f"DROP TRIGGER occupancies_no_overlap_{verb}"))
    naive = sa.create_engine(
        database.url, connect_args={"timeout": 15}, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    monkeypatch.setattr(database, "engine", naive)


def submit(cast: Cast, asked: BookingRequest, rules: BookingPolicy, *, stranger: bool = False) -> Callable[[], int]:
    by = cast.stranger if stranger else cast.member
    return lambda: cast.submit(asked, rules, by=by)


def assert_one_wins(results: list[Any], *sentences: str) -> None:
    winners = [result for result in results if isinstance(result, int)]
    errors = [result for result in results if not isinstance(result, int | Refusal)]
    assert not errors, f"{len(errors)} got an error instead of a sentence, the first: {errors[0]!r}"
    assert len(winners) == 1, f"{len(winners)} won"
    assert {result.sentence.id for result in results if isinstance(result, Refusal)} <= set(sentences)


def race_for_the_last_node(cast: Cast, rules: BookingPolicy) -> list[Any]:
    """Three of four nodes are booked in the window; two enterprises want the fourth, 25 people each."""
    cast.submit(cast.fixed(gpus=24), rules)
    works = [
        submit(
            cast,
            cast.fixed(gpus=8, allocation_id=cast.other_allocation if n % 2 else cast.allocation),
            rules,
            stranger=bool(n % 2),
        )
        for n in range(PEOPLE)
    ]
    return at_once(*works)


NO_ROOM = ("no-room", "no-room-but-later", "fixed-share-full")


def test_without_the_lock_the_last_node_is_booked_more_than_once(
    cast: Cast, rules: BookingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(cast.database, monkeypatch)
    results = race_for_the_last_node(cast, rules)
    with pytest.raises(AssertionError):
        assert_one_wins(results, *NO_ROOM)
    with cast.database.read_only() as session:
        assert "booked-twice" in {problem.check for problem in verify.run(session)}


def test_of_fifty_people_one_gets_the_last_node_and_the_others_a_sentence(cast: Cast, rules: BookingPolicy) -> None:
    assert_one_wins(race_for_the_last_node(cast, rules), *NO_ROOM)
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.sum(Booking.gpus))) == 32
        assert verify.run(session) == []


def left_hours(cast: Cast) -> int:
    with cast.database.read_only() as session:
        return (
            session.scalar(
                sa.select(LedgerAccount.balance).where(
                    LedgerAccount.owner == f"allocation:{cast.allocation}", LedgerAccount.bucket == "available"
                )
            )
            or 0
        )


def race_for_few_hours(cast: Cast, rules: BookingPolicy) -> list[Any]:
    """A flexible booking waits for nodes, so what is scarce is hours: an allocation of 15, and all want 8 of them."""
    cast.allocation = cast.award(cast.yusheng, "lin", 15)
    return at_once(*[submit(cast, cast.flexible(gpus=4, hours=2), rules)] * PEOPLE)


def test_without_the_lock_the_last_hours_are_fought_over_with_errors(
    cast: Cast, rules: BookingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CHECK below zero is the last line: it refuses, but with an error instead of a sentence."""
    without_locks(cast.database, monkeypatch)
    with pytest.raises(AssertionError):
        assert_one_wins(race_for_few_hours(cast, rules), "needs-more-hours")


def test_of_fifty_people_one_gets_the_last_hours_and_the_others_a_sentence(cast: Cast, rules: BookingPolicy) -> None:
    assert_one_wins(race_for_few_hours(cast, rules), "needs-more-hours")
    assert left_hours(cast) == units.gpu_seconds(7)
    with cast.database.read_only() as session:
        assert verify.run(session) == []


def race_with_the_scheduler(cast: Cast, rules: BookingPolicy) -> tuple[bool, list[Any]]:
    """A flexible booking of four hours and fixed ones an hour from now want the same last node.

    Returns whether the scheduler placed the flexible one, and what the 49 people got.
    """
    cast.submit(cast.fixed(gpus=24, start_in=1, hours=4), rules)
    flexible = cast.submit(cast.flexible(gpus=8, hours=4), rules)
    engine = EmbeddedEngine(cast.database, cast.database, Rules())
    engine.hand_over(cast.database.transaction(lambda s: attempts.write(s, [flexible], now=NOW)), NOW)

    def place() -> None:
        time.sleep(THINKING_SECONDS / 2)
        engine.place(NOW)

    fixed = submit(cast, cast.fixed(gpus=8, start_in=1, hours=4), rules)
    *results, placed = at_once(*[fixed] * (PEOPLE - 1), place)
    assert placed is None, placed
    with cast.database.read_only() as session:
        return session.scalars(sa.select(Lease.state)).one() == "placed", results


def test_the_scheduler_and_people_never_give_the_last_node_twice(cast: Cast, rules: BookingPolicy) -> None:
    placed, results = race_with_the_scheduler(cast, rules)
    booked = [result for result in results if isinstance(result, int)]
    assert all(isinstance(result, int | Refusal) for result in results), results
    assert len(booked) + placed == 1
    with cast.database.read_only() as session:
        assert not [problem for problem in verify.run(session) if problem.check == "booked-twice"]
        confirmed = session.scalars(sa.select(Booking.gpus).where(Booking.state == BookingState.CONFIRMED)).all()
        assert sum(confirmed) == 24 + 8 * len(booked)
