"""A verb that dies after any of its writes leaves the database as it was: nothing is half done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from compute_portal import units
from compute_portal.allocations import service as allocations
from compute_portal.bookings import service as bookings
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.tables import Base
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.allocations.test_service import ask

DECEMBER = dt.datetime(2026, 11, 30, 18, 0, tzinfo=dt.UTC)


class Died(Exception):
    pass


def everything(database: Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    with database.read_only() as session:
        return {
            name: sorted(map(repr, session.execute(sa.select(table)).all()))
            for name, table in Base.metadata.tables.items()
        }


def dies_after_each_write(database: Database, verb: Callable[[], object]) -> int:
    """Run the verb again and again, dying after its first, second … write, until it gets through. How many writes."""
    writes, die_at = [0], [0]

    @event.listens_for(database.engine, "after_cursor_execute")
    def _count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            writes[0] += 1
            if writes[0] == die_at[0]:
                raise Died(statement)

    before = everything(database)
    died = True
    while died:
        writes[0], die_at[0] = 0, die_at[0] + 1
        try:
            verb()
            died = False
        except Died:
            died = True
        if died:
            assert everything(database) == before, f"something was left behind by write {die_at[0]}"
    event.remove(database.engine, "after_cursor_execute", _count)
    assert everything(database) != before
    return writes[0]


@pytest.fixture
def verbs(cast: Cast, policy: Policy) -> dict[str, tuple[Callable[[], object], int]]:
    """Each verb with the fewest writes that it can do with."""
    request = ask(cast)
    to_cancel = cast.submit(cast.fixed(gpus=4, start_in=20), policy.bookings)
    ended = cast.submit(cast.flexible(gpus=2, hours=3), policy.bookings)
    key = walk.start(cast, ended, at=NOW)
    walk.end(cast, key, at=NOW + 3 * HOUR)
    run = cast.database.transaction
    return {
        "submit, fixed": (lambda: cast.submit(cast.fixed(gpus=8), policy.bookings), 8),
        "submit, flexible": (lambda: cast.submit(cast.flexible(), policy.bookings), 6),
        "cancel": (lambda: run(lambda s: bookings.cancel(s, to_cancel, by=cast.member, now=NOW).id), 6),
        "approve": (
            lambda: run(
                lambda s: (
                    allocations.approve(
                        s, request, awarded_gpu_seconds=units.gpu_seconds(8_000), reason="", by=cast.operator, now=NOW
                    ).id
                )
            ),
            5,
        ),
        "record": (lambda: walk.meter(cast, key, now=NOW + 3 * HOUR), 7),
        "settle": (lambda: walk.settle(cast, ended, now=NOW + 3 * HOUR), 3),
        "close": (lambda: walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER), 5),
    }


def test_a_verb_that_dies_after_any_write_changes_nothing(
    cast: Cast, verbs: dict[str, tuple[Callable[[], object], int]]
) -> None:
    for name, (verb, fewest) in verbs.items():
        assert dies_after_each_write(cast.database, verb) >= fewest, name
