"""People and steps that the tests of statements share."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import pytest

from compute_portal import clock
from compute_portal.access import Actor, Role
from compute_portal.policy import Policy
from compute_portal.statements import queries, receipts, service
from compute_portal.statements.content import Bureau
from compute_portal.statements.models import Statement, StatementContent
from tests import walk
from tests.cast import HOUR, NOW, Cast

END = clock.month_bounds("2026-11")[1]
LATER = END + 3 * HOUR  # on the first of December
ISSUER = service.Issuer(
    Bureau("市人工智能局", "City Bureau of AI", "平台", "Compute Commons"), receipts.make_signer("", "s")
)


@dataclass
class Books:
    """A cast with usage, and finance's steps as one call each. `first` checks, `second` approves."""

    cast: Cast
    policy: Policy

    @property
    def first(self) -> Actor:
        return self.cast.finance

    @property
    def second(self) -> Actor:
        return Actor.of(self.cast.users["wu"], frozenset({Role.FINANCE}))

    def use(self, *, gpus: int = 4, seconds: int = 3600, at: dt.datetime = NOW, metered: bool = True) -> int:
        booking_id = self.cast.submit(self.cast.flexible(gpus=gpus, hours=6), self.policy.bookings)
        if metered:
            walk.run(self.cast, booking_id, at=at, until=at + dt.timedelta(seconds=seconds))
        else:
            walk.start(self.cast, booking_id, at=at)
        return booking_id

    def do(self, verb: Any, *what: Any, by: Actor | None = None, now: dt.datetime = LATER, **options: Any) -> Any:
        return self.cast.database.transaction(lambda s: verb(s, *what, by=by or self.first, now=now, **options))

    def close(self, month: str = "2026-11", now: dt.datetime = LATER) -> int:
        return walk.close(self.cast, self.cast.yusheng, month, self.policy, now=now)

    def approved(self, month: str = "2026-11", now: dt.datetime = LATER) -> int:
        id = self.close(month, now)
        self.do(service.check, id, now=now)
        self.do(service.approve, id, by=self.second, now=now)
        return id

    def issue(self, id: int, now: dt.datetime = LATER) -> StatementContent:
        return self.do(service.issue, id, issuer=ISSUER, policy=self.policy.statements, now=now)  # type: ignore[no-any-return]

    def issued(self, month: str = "2026-11", now: dt.datetime = LATER) -> int:
        id = self.approved(month, now)
        self.issue(id, now)
        return id

    def statement(self, id: int) -> Statement:
        with self.cast.database.read_only() as session:
            return session.get_one(Statement, id)

    def lines(self, id: int) -> list[queries.Line]:
        with self.cast.database.read_only() as session:
            return queries.lines_of(session, session.get_one(Statement, id))

    def content(self, id: int) -> StatementContent:
        with self.cast.database.read_only() as session:
            found = queries.content_of(session, id)
            assert found is not None
            return found


@pytest.fixture
def books(cast: Cast, policy: Policy) -> Books:
    return Books(cast, policy)
