"""Upgrade while bookings run: a database as the first version left it in the middle of a day becomes today's.

`portal_at_0001.json` holds every row of a small portal at 14:20: bookings that run, one that waits for them, one that
is confirmed for later, one that nobody has decided on, one that is settled.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from compute_portal import schema, verify
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.usage.models import Charge
from scheduler import cycle, metering
from scheduler.context import simulation
from tests.cast import HOUR
from tests.conftest import STORES, _at

KEPT: dict[str, Any] = json.loads((Path(__file__).parent / "portal_at_0001.json").read_text(encoding="utf-8"))
AT = dt.datetime.fromisoformat(KEPT["at"])
RUNNING, WAITS, CONFIRMED, UNDECIDED = (2, 6, 7), 8, 3, 4


@pytest.fixture(params=STORES)
def first_version(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database at revision 0001 with those rows, on each store."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/portal.sqlite", durable=False)
        schema.upgrade(database, "0001")
        _fill(database)
        yield database
        database.dispose()
        return
    server, name = request.getfixturevalue("postgresql_server"), f"first_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    database = Database(_at(server, name))
    schema.upgrade(database, "0001")
    _fill(database)
    yield database
    database.dispose()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _fill(database: Database) -> None:
    then = sa.MetaData()
    then.reflect(database.engine)
    with database.engine.begin() as connection:
        for table in then.sorted_tables:
            if table.name not in KEPT["tables"]:
                continue
            kept = KEPT["tables"][table.name]
            connection.execute(sa.delete(table))  # the row that the migration made
            for row in kept["rows"]:
                values = {name: _typed(table.c[name], value) for name, value in zip(kept["columns"], row, strict=True)}
                connection.execute(sa.insert(table).values(values))
            if database.is_postgresql and isinstance(getattr(table.c.get("id"), "type", None), sa.Integer):
                sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, "id")))
                if sequence is not None:
                    connection.execute(sa.select(sa.func.setval(sequence, len(kept["rows"]) + 1000)))


def _typed(column: sa.Column[Any], value: Any) -> Any:
    """SQLite's text and numbers as what the column holds."""
    if value is None:
        return sa.null()
    kind = column.type
    if isinstance(kind, sa.DateTime):
        instant = dt.datetime.fromisoformat(value)
        return instant.replace(tzinfo=dt.UTC) if getattr(kind, "timezone", False) else instant
    if isinstance(kind, sa.Date):
        return dt.date.fromisoformat(value)
    if isinstance(kind, sa.Boolean):
        return bool(value)
    if isinstance(kind, sa.JSON):
        return json.loads(value)
    return value


def _problems(database: Database) -> list[str]:
    with database.read_only() as session:
        return [str(problem) for problem in verify.run(session)]


def test_an_upgrade_keeps_every_row_and_every_value(first_version: Database) -> None:
    schema.upgrade(first_version)
    assert schema.differences(first_version) == []
    now = sa.MetaData()
    now.reflect(first_version.engine)
    lost = []
    with first_version.engine.connect() as connection:
        for name, kept in KEPT["tables"].items():
            table, columns = now.tables[name], kept["columns"]
            assert set(columns) <= set(table.c.keys()), f"{name} lost a column"
            found = [tuple(row) for row in connection.execute(sa.select(*(table.c[column] for column in columns)))]
            for row in kept["rows"]:
                values = zip(columns, row, strict=True)
                if tuple(None if value is None else _typed(table.c[c], value) for c, value in values) not in found:
                    lost.append((name, row))
    assert lost == []


def test_bookings_that_ran_during_the_upgrade_go_on_and_are_charged_to_the_second(
    first_version: Database, policy: Policy
) -> None:
    schema.upgrade(first_version)
    assert _problems(first_version) == []
    context = simulation(first_version, policy)

    def states(*ids: int) -> set[BookingState]:
        with first_version.read_only() as session:
            return {session.get_one(Booking, id).state for id in ids}

    cycle.run(context, AT + dt.timedelta(minutes=2))
    assert states(*RUNNING) == {BookingState.RUNNING}
    assert states(WAITS) == {BookingState.QUEUED}
    assert states(CONFIRMED) == {BookingState.CONFIRMED}
    assert states(UNDECIDED) == {BookingState.SUBMITTED}
    for hour in range(1, 21):
        cycle.run(context, AT + hour * HOUR)
    metering.run(context, AT + 20 * HOUR)
    context.leader.release()
    assert states(*RUNNING, WAITS) == {BookingState.SETTLED}
    with first_version.read_only() as session:
        each = sa.select(Charge.booking_id, sa.func.sum(Charge.gpu_seconds)).group_by(Charge.booking_id)
        charged = {id: int(seconds) for id, seconds in session.execute(each)}
        for id in (*RUNNING, WAITS):
            booking = session.get_one(Booking, id)
            assert charged[id] == booking.gpus * booking.longest_seconds
    assert _problems(first_version) == []
