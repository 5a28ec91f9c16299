"""The scheduler over the cast's city, on both stores; time is moved by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from compute_portal import verify
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.ledger.queries import Balance, balance
from compute_portal.lifecycle import HistoryEntry
from compute_portal.policy import Policy
from compute_portal.pools.models import Node, Occupancy
from compute_portal.usage.models import Charge
from scheduler import cycle, metering
from scheduler.context import Context, simulation
from tests.cast import Cast


@pytest.fixture
def context(database: Database, cast: Cast, policy: Policy) -> Iterator[Context]:
    """A scheduler that is the leader, with the embedded engine and no access hook."""
    context = simulation(database, policy)
    yield context
    if context.access is not None:
        context.access.close()
    context.leader.release()


@dataclass
class Town:
    """The cast's city with a scheduler: what a test looks at, in few words."""

    cast: Cast
    context: Context
    policy: Policy

    def flexible(self, gpus: int = 4, hours: float = 2, now: dt.datetime | None = None, **changes: object) -> int:
        return self.cast.submit(self.cast.flexible(gpus, hours, **changes), self.policy.bookings, now=now)

    def fixed(self, gpus: int = 8, start_in: int = 10, hours: int = 2, **changes: object) -> int:
        return self.cast.submit(self.cast.fixed(gpus, start_in, hours, **changes), self.policy.bookings)

    def cycle(self, now: dt.datetime) -> list[int]:
        return cycle.run(self.context, now).started

    def meter(self, now: dt.datetime) -> int:
        return metering.run(self.context, now)

    def booking(self, id: int) -> Booking:
        with self.cast.database.read_only() as session:
            return session.get_one(Booking, id)

    def state(self, id: int) -> BookingState:
        return self.booking(id).state

    def attempts(self, id: int) -> list[Attempt]:
        with self.cast.database.read_only() as session:
            return list(session.scalars(sa.select(Attempt).where(Attempt.booking_id == id).order_by(Attempt.number)))

    def attempt(self, id: int) -> Attempt:
        return self.attempts(id)[-1]

    def occupancies(self, id: int) -> list[Occupancy]:
        with self.cast.database.read_only() as session:
            return list(session.scalars(sa.select(Occupancy).where(Occupancy.booking_id == id).order_by(Occupancy.id)))

    def charged(self, id: int) -> int:
        """GPU-seconds, from the charges themselves."""
        total = sa.select(sa.func.coalesce(sa.func.sum(Charge.gpu_seconds), 0)).where(Charge.booking_id == id)
        with self.cast.database.read_only() as session:
            return int(session.scalar(total) or 0)

    def balance(self, allocation_id: int | None = None) -> Balance:
        with self.cast.database.read_only() as session:
            return balance(session, allocation_id or self.cast.allocation)

    def node(self, name: str) -> int:
        with self.cast.database.read_only() as session:
            return session.scalars(sa.select(Node.id).where(Node.name == name)).one()

    def verbs(self, id: int) -> list[str]:
        """The booking's history, oldest first."""
        with self.cast.database.read_only() as session:
            return list(
                session.scalars(
                    sa.select(HistoryEntry.verb)
                    .where(HistoryEntry.kind == "booking", HistoryEntry.subject_id == id)
                    .order_by(HistoryEntry.id)
                )
            )

    def problems(self) -> list[str]:
        """What `verify` finds."""
        with self.cast.database.read_only() as session:
            return [str(problem) for problem in verify.run(session)]


@pytest.fixture
def town(cast: Cast, context: Context, policy: Policy) -> Iterator[Town]:
    """Whatever a test did, the invariants hold afterwards."""
    town = Town(cast, context, policy)
    yield town
    assert town.problems() == []


@pytest.fixture
def break_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """break_after(module, name): the function does its work, and then the process "dies" with an exception, once."""

    def arrange(owner: object, name: str) -> None:
        real = getattr(owner, name)
        broken = [False]

        def breaking(*args: object, **kwargs: object) -> object:
            result = real(*args, **kwargs)
            if not broken[0]:
                broken[0] = True
                raise Died(name)
            return result

        monkeypatch.setattr(owner, name, breaking)

    return arrange


class Died(BaseException):
    """Stands for the end of the process: no handler may swallow it."""
