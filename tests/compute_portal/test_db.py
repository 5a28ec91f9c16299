"""Connections and what statements are made of, on both stores."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from sqlalchemy.util import LRUCache

from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Compiled, Database, Reader, among
from compute_portal.signin.models import User
from tests.cast import Cast

ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def whose(reader: Reader) -> int:
    """The server's process that this connection speaks to."""
    return int(reader.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())


@ON_POSTGRESQL
def test_what_a_reader_asked_often_stays_planned_for_the_next_one(database: Database) -> None:
    for _ in range(8):
        with database.read_only() as session:
            session.execute(sa.select(User.id).where(User.id == sa.bindparam("asked")), {"asked": 1}).all()
    with database.look() as connection:
        planned = connection.execute(sa.text("SELECT statement FROM pg_prepared_statements")).scalars().all()
    assert any("users.id = $1" in statement for statement in planned)


@ON_POSTGRESQL
def test_a_connection_that_the_server_ended_is_not_used_again(database: Database) -> None:
    with database.look() as connection:
        reading = whose(connection)
    writing = database.write(whose)
    end = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN (:reading, :writing)")
    left = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid IN (:reading, :writing)")
    other = sa.create_engine(database.engine.url, poolclass=sa.NullPool)
    both = {"reading": reading, "writing": writing}
    with other.connect() as connection:
        connection.execute(end, both)
        for _ in range(500):
            if not connection.execute(left, both).scalar_one():
                break
            time.sleep(0.01)
    with database.look() as connection:
        assert whose(connection) != reading
    assert database.write(whose) != writing


def test_a_statement_that_was_made_once_is_known_again_without_a_comparison(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_once = sa.select(User.name).where(User.id == sa.bindparam("asked"))
    with database.reading_engine.execution_options(compiled_cache=Compiled()).connect() as connection:
        for _ in range(2):
            connection.execute(made_once, {"asked": 1}).all()
        compared: list[object] = []
        monkeypatch.setattr(LRUCache, "get", lambda _cache, key, _default: compared.append(key))
        connection.execute(made_once, {"asked": 1}).all()
        assert not compared
        connection.execute(made_once.where(User.disabled_at.is_(None)), {"asked": 1}).all()
        assert len(compared) == 1


def test_statements_made_for_one_request_are_never_taken_for_each_other(
    database: Database,
) -> None:
    with database.reading_engine.execution_options(compiled_cache=Compiled(20)).connect() as connection:
        for _round in range(2):
            for n in range(50):
                assert connection.execute(sa.select(sa.literal_column(str(n)))).scalar_one() == n
                narrowed = sa.select(sa.literal(n)).where(sa.literal(n) == sa.bindparam("asked"))
                assert connection.execute(narrowed, {"asked": n}).scalar_one() == n


def test_a_list_given_as_one_finds_what_in_finds(database: Database, cast: Cast) -> None:
    by_id = sa.select(User.id).where(among(User.id, "ids")).order_by(User.id)
    by_email = sa.select(User.email).where(among(User.email, "emails")).order_by(User.email)
    with database.read_only() as session:
        people = session.execute(sa.select(User.id, User.email).order_by(User.id)).all()
        assert len(people) > 3
        for chosen in ([], people[:1], people[1:3], people):
            ids, emails = [id for id, _ in chosen], sorted(email for _, email in chosen)
            assert session.scalars(by_id, {"ids": [*ids, 10**6]}).all() == ids
            assert session.scalars(by_email, {"emails": [*emails, "x' OR 1=1 --"]}).all() == emails


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_index_serves_a_list_given_as_one_on_sqlite(database: Database) -> None:
    plan = "EXPLAIN QUERY PLAN " + str(sa.select(User.name).where(among(User.id, "ids")).compile(database.engine))
    with database.engine.connect() as connection:
        told = " ".join(str(row) for row in connection.exec_driver_sql(plan, ("[1, 2]",)))
    assert "SEARCH users USING" in told


def test_words_of_an_enumeration_stand_in_the_statement(database: Database) -> None:
    some = frozenset({BookingState.RUNNING, BookingState.QUEUED})
    for condition, text in (
        (Booking.state == BookingState.QUEUED, "bookings.state = 'queued'"),
        (Booking.state != BookingState.QUEUED, "bookings.state != 'queued'"),
        (Booking.state.in_(some), "bookings.state IN ('queued', 'running')"),
        (Booking.state.not_in(some), "(bookings.state NOT IN ('queued', 'running'))"),
    ):
        compiled = condition.compile(database.engine)
        assert str(compiled) == text and not compiled.params
    with database.read_only() as session:
        for state in BookingState:  # statements that differ in a word are told apart
            found = session.execute(sa.select(sa.literal(1)).where(sa.literal(state, Booking.state.type) == state))
            assert found.scalar_one() == 1
        assert session.scalars(sa.select(Booking.id).where(Booking.state.in_([]))).all() == []
