"""Any sequence of changes of mind, with the scheduler dying in between: never more GPUs than there are, books balanced.

Each example gets a city of its own. What it does is refused where a rule says so; nothing else may go wrong. At the end
time passes until all is over, and `verify` recounts GPUs, ledger, charges, quotes and credits with SQL of its own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import verify
from compute_portal.bookings import extending, waiting
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking, Waiter
from compute_portal.bookings.states import BookingKind, BookingState, WaiterState
from compute_portal.cancellations import service as cancellations
from compute_portal.db import Database
from compute_portal.ledger.queries import balance
from compute_portal.policy import BookingPolicy, Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node
from compute_portal.pools.states import NodeState
from compute_portal.sentences import Refusal
from scheduler import changes, cycle, metering
from scheduler.context import Context, PassFailed, simulation
from tests.cast import HOUR, Cast
from tests.conftest import STORES, Templates, _at, _run
from tests.scheduler.conftest import Died

MINUTE = dt.timedelta(minutes=1)
EXAMPLES = max(5, int(os.environ.get("EXAMPLES", "60")) // 10)
ACTS = (
    "book", "book", "others", "flexible", "approve", "extend", "hand_back", "cancel", "cancel", "claim", "wait", "take",
    "leave", "node", "crash", "pass", "pass", "pass",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 1_000), st.integers(1, 240)), min_size=6, max_size=22)


@contextmanager
def a_city(templates: Templates, store: str, folder: Path) -> Iterator[Cast]:
    name, made = templates.get(store, True)
    assert made is not None
    if store == "sqlite":
        path = folder / f"{uuid.uuid4().hex}.sqlite"
        shutil.copy(name, path)
        database = Database(f"sqlite:///{path}", durable=False)
    else:
        own = f"test_{uuid.uuid4().hex[:12]}"
        _run(templates.server, f'CREATE DATABASE "{own}" TEMPLATE "{name}" STRATEGY FILE_COPY')
        database = Database(_at(templates.server, own))
    try:
        yield dataclasses.replace(made, database=database, users=dict(made.users))
    finally:
        database.dispose()
        if store == "postgresql":
            _run(templates.server, f'DROP DATABASE "{own}" WITH (FORCE)')


class People:
    """Acts by name; each takes a number to choose by. What a rule refuses is no event."""

    def __init__(self, cast: Cast, rules: BookingPolicy, context: Context) -> None:
        self.cast, self.rules, self.context = cast, rules, context
        self.now = cast.now

    def do(self, work: Callable[[Session], object]) -> None:
        try:
            self.cast.database.transaction(work)
        except Refusal:
            return

    def ids(self, *states: BookingState, kind: BookingKind | None = None) -> list[int]:
        query = sa.select(Booking.id).where(Booking.state.in_(states), Booking.enterprise_id == self.cast.yusheng)
        if kind is not None:
            query = query.where(Booking.kind == kind)
        with self.cast.database.read_only() as session:
            return list(session.scalars(query.order_by(Booking.id)))

    def asked(self, n: int, **changes: object) -> Any:
        self.cast.now = self.now
        return self.cast.fixed((2, 5, 8, 12, 16)[n % 5], 1 + n % 60, 1 + n % 9, **changes)

    def book(self, n: int) -> None:
        hours = {"ends_at": self.asked(n).starts_at + 150 * HOUR} if n % 10 == 0 else {}  # so long, it needs approval
        asked = self.asked(n, **hours)
        self.do(lambda s: bookings.submit(s, asked, by=self.cast.member, policy=self.rules, now=self.now).id)

    def others(self, n: int) -> None:
        asked = self.asked(n, allocation_id=self.cast.other_allocation)
        self.do(lambda s: bookings.submit(s, asked, by=self.cast.stranger, policy=self.rules, now=self.now).id)

    def flexible(self, n: int) -> None:
        asked = self.cast.flexible(1 + n % 20, 1 + n % 7)
        self.do(lambda s: bookings.submit(s, asked, by=self.cast.member, policy=self.rules, now=self.now).id)

    def pick(self, n: int, *states: BookingState, kind: BookingKind | None = None) -> int | None:
        found = self.ids(*states, kind=kind)
        return found[n % len(found)] if found else None

    def approve(self, n: int) -> None:
        if (id := self.pick(n, BookingState.SUBMITTED)) is not None:
            self.do(lambda s: bookings.approve(s, id, by=self.cast.operator, now=self.now).id)

    def extend(self, n: int) -> None:
        id = self.pick(n, BookingState.CONFIRMED, BookingState.RUNNING, kind=BookingKind.FIXED)
        if id is None:
            return
        with self.cast.database.read_only() as session:
            end = session.get_one(Booking, id).ends_at
        assert end is not None
        more = end.replace(minute=0) + (1 + n % 5) * HOUR
        self.do(lambda s: extending.extend(s, id, more, by=self.cast.member, policy=self.rules, now=self.now).id)
        self.do(lambda s: extending.make_up(s, id, by=self.cast.member, policy=self.rules, now=self.now).id)

    def hand_back(self, n: int) -> None:
        id = self.pick(n, BookingState.CONFIRMED, BookingState.RUNNING, kind=BookingKind.FIXED)
        if id is None:
            return
        with self.cast.database.read_only() as session:
            start = session.get_one(Booking, id).starts_at
        assert start is not None
        from_at = None if n % 3 == 0 else start + (n % 7) * HOUR + (n % 4) * 15 * MINUTE

        def work(session: Session) -> None:
            quote = cancellations.quote_hand_back(
                session, id, from_at=from_at, by=self.cast.member, policy=self.rules, now=self.now
            )
            later = self.now + (n % 12) * MINUTE
            cancellations.hand_back(session, id, quote_id=quote.id, by=self.cast.member, policy=self.rules, now=later)

        self.do(work)

    def cancel(self, n: int) -> None:
        id = self.pick(n, BookingState.SUBMITTED, BookingState.CONFIRMED, BookingState.QUEUED)
        if id is None:
            return

        def work(session: Session) -> None:
            by, rules, now = self.cast.member, self.rules, self.now
            quote_id = None
            if cancellations.costs_something(session.get_one(Booking, id)):
                quote_id = cancellations.quote_cancel(session, id, by=by, policy=rules, now=now).id
            cancellations.cancel(session, id, quote_id=quote_id, by=by, policy=rules, now=now + (n % 11) * MINUTE)

        self.do(work)

    def claim(self, n: int) -> None:
        if (id := self.pick(n, BookingState.RUNNING)) is not None:
            self.do(lambda s: bookings.claim(s, id, by=self.cast.member, now=self.now).id)

    def wait(self, n: int) -> None:
        asked = self.asked(n)
        self.do(lambda s: waiting.join(s, asked, by=self.cast.member, policy=self.rules, now=self.now).id)

    def waiter(self, *states: WaiterState) -> int | None:
        with self.cast.database.read_only() as session:
            return session.scalars(sa.select(Waiter.id).where(Waiter.state.in_(states)).order_by(Waiter.id)).first()

    def take(self, n: int) -> None:
        if (id := self.waiter(WaiterState.OFFERED)) is not None:
            self.do(lambda s: waiting.take(s, id, by=self.cast.member, policy=self.rules, now=self.now).id)

    def leave(self, n: int) -> None:
        if (id := self.waiter(WaiterState.OFFERED, WaiterState.WAITING)) is not None:
            self.do(lambda s: waiting.leave(s, id, by=self.cast.member, policy=self.rules, now=self.now).id)

    def node(self, n: int) -> None:
        with self.cast.database.read_only() as session:
            nodes = session.execute(sa.select(Node.id, Node.state).order_by(Node.id)).all()
        id, state = nodes[n % len(nodes)]
        goal = NodeState.DOWN if state is NodeState.UP else NodeState.UP
        if goal is NodeState.DOWN and any(other is not NodeState.UP for _id, other in nodes):
            return  # one at a time
        self.do(lambda s: pools.change_node_state(s, id, goal, verb="fail", by=self.cast.operator, now=self.now))

    # -- the scheduler

    def pass_(self, n: int) -> None:
        cycle.run(self.context, self.now)
        for run in (changes.run, metering.run):
            run(self.context, self.now)

    def crash(self, n: int) -> None:
        """The process dies after the n-th transaction of its work, and another one begins without its memory."""
        real, left = self.context.leader.transaction, [1 + n % 9]

        def dying(work: Callable[[Session], Any]) -> Any:
            result = real(work)
            left[0] -= 1
            if not left[0]:
                raise Died
            return result

        self.context.leader.transaction = dying  # type: ignore[method-assign]
        self.context.engine._transact = dying  # type: ignore[attr-defined]
        try:
            self.pass_(n)
        except Died:
            pass
        finally:
            self.context.leader.transaction = real  # type: ignore[method-assign]
            self.context.engine._transact = real  # type: ignore[attr-defined]
        self.context.observed_at = None
        self.context.engine._memory = self.context.engine._news_since = None  # type: ignore[attr-defined]


@pytest.mark.parametrize("store", STORES)
@settings(max_examples=EXAMPLES)
@given(steps=STEPS)
def test_gpus_and_books_stay_right_whatever_people_change(
    store: str, templates: Templates, tmp_path: Path, policy: Policy, steps: list[tuple[str, int, int]]
) -> None:
    rules = policy.bookings.model_copy(update={"fixed_open_most": 50, "waiting_most": 50})
    whole = policy.model_copy(update={"bookings": rules})
    with a_city(templates, store, tmp_path) as cast:
        context = simulation(cast.database, whole)
        people = People(cast, rules, context)
        try:
            for act, n, minutes in steps:
                getattr(people, "pass_" if act == "pass" else act)(n)
                people.now += minutes * MINUTE
            with cast.database.read_only() as session:
                assert [str(problem) for problem in verify.run(session)] == []
            _let_it_end(people)
            with cast.database.read_only() as session:
                assert [str(problem) for problem in verify.run(session)] == []
                for allocation_id in (cast.allocation, cast.other_allocation):
                    assert balance(session, allocation_id).held == 0
        finally:
            context.leader.release()


def _let_it_end(people: People) -> None:
    """All nodes come back, nobody does anything more, and time passes until nothing is open."""
    with people.cast.database.read_only() as session:
        down = list(session.scalars(sa.select(Node.id).where(Node.state != NodeState.UP)))
    for id in down:
        people.do(
            lambda s, id=id: pools.change_node_state(  # type: ignore[misc]
                s, id, NodeState.UP, verb="resume", by=people.cast.operator, now=people.now
            )
        )
    for state in (BookingState.SUBMITTED,):
        for id in people.ids(state):
            people.do(lambda s, id=id: bookings.cancel(s, id, by=people.cast.member, now=people.now).id)  # type: ignore[misc]
    for _ in range(120):
        try:
            people.pass_(0)
        except PassFailed as failure:
            raise AssertionError(str(failure)) from failure
        with people.cast.database.read_only() as session:
            if not session.scalar(
                sa.select(sa.func.count(Booking.id)).where(
                    sa.or_(Booking.state.not_in(_OVER), Booking.held_gpu_seconds > 0)
                )
            ):
                return
        people.now = people.now.replace(minute=0) + 5 * HOUR
    raise AssertionError("something never ends")


_OVER = (
    BookingState.SETTLED, BookingState.CANCELLED, BookingState.DECLINED, BookingState.LAPSED, BookingState.NO_SHOW,
    BookingState.FAILED,
)  # fmt: skip
