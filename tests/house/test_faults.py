"""What machines do: a COMMIT whose answer is lost, a full disk. People read a page; nothing is lost or double."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from compute_portal.bookings.models import Booking
from compute_portal.db import Database
from compute_portal.policy import Policy
from tests.cast import NOW, Cast
from tests.compute_portal.bookings.test_views import fixed, quoted
from tests.compute_portal.usage.test_service import assert_verified
from tests.web import make_app, post, rows_in, set_now, sign_in


@pytest.fixture
def chen(cast: Cast, policy: Policy) -> FlaskClient:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return sign_in(app, cast.users["chen"])


def _checked(client: FlaskClient, cast: Cast) -> dict[str, str]:
    """The form as it is sent by whoever saw the price: with its one-time key."""
    shown = post(client, "/bookings/new", fixed(cast, step="check"))
    key = re.search(r'name="form_key" value="([^"]+)"', shown.text)
    assert key is not None
    return fixed(cast, step="book", quoted=quoted(shown.text), form_key=key[1])


def _lost(database: Database) -> Exception:
    if database.is_postgresql:
        return psycopg.OperationalError("server closed the connection unexpectedly")
    return sqlite3.OperationalError("disk I/O error")


def test_a_booking_whose_commit_was_never_answered_is_sent_again_and_booked_once(
    chen: FlaskClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = _checked(chen, cast)
    dialect = cast.database.engine.dialect
    commit = dialect.do_commit

    def done_but_not_answered(connection: Any) -> None:
        commit(connection)
        if rows_in(cast.database, Booking):
            raise _lost(cast.database)

    with monkeypatch.context() as network:
        network.setattr(dialect, "do_commit", done_but_not_answered)
        answer = post(chen, "/bookings/new", form)
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "30"
    assert rows_in(cast.database, Booking) == 1, "it was booked, only nobody was told"
    again = post(chen, "/bookings/new", form)
    assert again.status_code == 302 and rows_in(cast.database, Booking) == 1
    assert chen.get(again.location).status_code == 200
    assert_verified(cast.database)


def test_on_a_full_disk_a_booking_is_not_half_made_and_goes_through_once_there_is_room(
    chen: FlaskClient, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = _checked(chen, cast)
    dialect = cast.database.engine.dialect
    execute = dialect.do_execute

    def no_room(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if statement.startswith("INSERT INTO bookings"):
            if cast.database.is_postgresql:
                raise psycopg.errors.DiskFull("could not extend file: No space left on device")
            raise sqlite3.OperationalError("database or disk is full")
        execute(cursor, statement, parameters, context)

    with monkeypatch.context() as disk:
        disk.setattr(dialect, "do_execute", no_room)
        answer = post(chen, "/bookings/new", form)
    assert answer.status_code == 503 and "Traceback" not in answer.text
    assert rows_in(cast.database, Booking) == 0
    assert_verified(cast.database)
    assert post(chen, "/bookings/new", form).status_code == 302
    assert rows_in(cast.database, Booking) == 1
    assert_verified(cast.database)
