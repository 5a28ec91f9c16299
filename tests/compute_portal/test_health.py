"""/readyz tells an operator what is missing."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from compute_portal import clock, schema
from compute_portal.db import Database
from compute_portal.desk.models import Leader
from compute_portal.policy import Policy
from tests.web import make_app


def beat(database: Database, seconds_ago: int) -> None:
    at = clock.now() - dt.timedelta(seconds=seconds_ago)

    def write(session: sa.orm.Session) -> None:
        session.execute(sa.delete(Leader))
        session.add(Leader(id=1, epoch=1, holder="test", since_at=at, heartbeat_at=at))

    database.transaction(write)


def test_ready_means_database_migrations_and_a_living_scheduler(database: Database, policy: Policy) -> None:
    client = make_app(database, policy).test_client()
    beat(database, 5)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    told = answer.get_json()
    assert told["ok"] is True
    assert told["database"] == {"ok": True}
    assert told["migrations"] == {"ok": True, "found": schema.newest(), "expected": schema.newest()}
    assert told["scheduler"]["ok"] is True
    assert told["scheduler"]["heartbeat_seconds"] <= 10


def test_a_scheduler_that_was_not_heard_for_a_minute_is_not_ready(database: Database, policy: Policy) -> None:
    client = make_app(database, policy).test_client()
    assert client.get("/readyz").get_json()["scheduler"] == {"ok": False, "heartbeat_seconds": None}
    beat(database, 61)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["scheduler"]["ok"] is False
    assert answer.get_json()["database"]["ok"] is True


def test_a_database_of_another_version_is_not_ready(database: Database, policy: Policy) -> None:
    beat(database, 1)
    database.transaction(lambda s: s.execute(sa.text("UPDATE alembic_version SET version_num = '0000'")))
    answer = make_app(database, policy).test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["migrations"] == {"ok": False, "found": "0000", "expected": schema.newest()}


def test_an_empty_database_is_reachable_but_not_migrated(policy: Policy, tmp_path: object) -> None:
    empty = Database(f"sqlite:///{tmp_path}/empty.sqlite")
    told = make_app(empty, policy).test_client().get("/readyz").get_json()
    assert told["database"] == {"ok": True}
    assert told["migrations"]["ok"] is False
    assert told["ok"] is False
    empty.dispose()
