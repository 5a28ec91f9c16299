"""`flask copy-to`: from one store to the other, every row with its id, and life goes on there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from compute_portal import clock, moving, verify
from compute_portal.backup import BackupError
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.desk.models import Leader as LeaderRow
from compute_portal.policy import Policy
from compute_portal.tables import Base
from scheduler import cycle, metering
from scheduler.context import simulation
from tests.cast import HOUR, Cast
from tests.compute_portal.test_cli import an_app, assert_one_line, runner

Another = Callable[..., Database]


def other_store(database: Database) -> str:
    return "sqlite" if database.is_postgresql else "postgresql"


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """By the models' types, so that both stores say the same."""
    with database.read_only() as session:
        return {
            table.name: [tuple(row) for row in session.execute(sa.select(table).order_by(*table.primary_key.columns))]
            for table in Base.metadata.sorted_tables
        }


def test_a_portal_moves_to_the_other_store_and_goes_on_there(cast: Cast, another: Another, policy: Policy) -> None:
    context = simulation(cast.database, policy)
    runs = cast.submit(cast.flexible(4, 3), policy.bookings)
    cycle.run(context, cast.now)
    metering.run(context, cast.now + HOUR)
    cast.submit(cast.fixed(), policy.bookings)
    context.leader.release()
    cast.database.transaction(lambda s: s.execute(sa.update(LeaderRow).values(heartbeat_at=cast.now - HOUR)))
    target = another(other_store(cast.database))
    url = target.url.render_as_string(hide_password=False)
    done = runner(an_app(cast.database, policy))("copy-to", url)
    assert done.exit_code == 0, done.output
    assert done.output.count(" ok ") == 7
    assert contents(target) == contents(cast.database)

    there = Cast(**{**vars(cast), "database": target})
    later = there.submit(there.flexible(2, 1), policy.bookings)
    assert later == 3, "ids go on where they were"
    context = simulation(target, policy)
    cycle.run(context, cast.now + 4 * HOUR)
    metering.run(context, cast.now + 4 * HOUR)
    context.leader.release()
    with target.read_only() as session:
        assert session.get_one(Booking, runs).state is BookingState.SETTLED
        assert [str(problem) for problem in verify.run(session)] == []


def test_it_refuses_a_target_that_holds_something_and_a_source_at_work(
    cast: Cast, another: Another, policy: Policy
) -> None:
    run = runner(an_app(cast.database, policy))
    assert_one_line(
        run("copy-to", cast.database.url.render_as_string(hide_password=False)), "not empty", "nothing was copied"
    )
    assert_one_line(run("copy-to", "mysql://somewhere"), "sqlite:///")
    assert_one_line(run("copy-to", "postgresql://nobody:hidden-word@127.0.0.1:1/none"), "cannot be reached")
    target = another()
    cast.database.transaction(lambda s: s.execute(sa.update(LeaderRow).values(heartbeat_at=clock.now())))
    with pytest.raises(BackupError, match="stop portal-scheduler"):
        moving.copy(cast.database, target, clock.now() + dt.timedelta(seconds=5))


def test_no_column_that_may_be_empty_turns_empty_into_a_json_null() -> None:
    assert [
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, sa.JSON) and column.nullable and not column.type.none_as_null
    ] == []


def test_a_row_may_point_to_a_later_one_of_its_own_table(database: Database, another: Another) -> None:
    metadata = sa.MetaData()
    led_by = sa.Column("led_by", sa.ForeignKey("people.id"))
    people = sa.Table("people", metadata, sa.Column("id", sa.Integer, primary_key=True), led_by)
    target = another(other_store(database))
    rows = [(1, 3), (2, None), (3, 2)]
    for one in (database, target):
        metadata.create_all(one.engine)
    with database.engine.begin() as connection:
        connection.execute(sa.insert(people), [{"id": id, "led_by": None} for id, _ in rows])
        for id, leader in rows:
            connection.execute(sa.update(people).where(people.c.id == id).values(led_by=leader))
    with database.engine.connect() as reading, target.engine.begin() as writing:
        assert moving._copy(reading, writing, people) == 3
    with target.engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(sa.select(people).order_by(people.c.id))] == rows
