"""Migrations: on both stores the same, whole or not at all, one at a time, and equal to the models."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import event

from compute_portal import cli, schema, verify
from compute_portal.db import Database
from compute_portal.tables import Base
from tests.conftest import ROOT, STORES, _at

UPGRADE = (
    "import sys; from compute_portal import schema; from compute_portal.db import Database; "
    "schema.upgrade(Database(sys.argv[1]))"
)


@pytest.fixture(params=STORES)
def nothing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table, on each store."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/portal.sqlite", durable=False)
        yield database
        database.dispose()
        return
    server, name = request.getfixturevalue("postgresql_server"), f"empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    database = Database(_at(server, name))
    yield database
    database.dispose()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


def test_an_upgrade_makes_every_table_and_may_be_run_again(nothing: Database) -> None:
    for _ in range(2):
        schema.upgrade(nothing)
        assert tables(nothing) == set(Base.metadata.tables) | {"alembic_version"}
        with nothing.engine.connect() as connection:
            assert schema.current(connection) == schema.newest()
    assert schema.differences(nothing) == []
    with nothing.read_only() as session:
        assert verify.run(session) == [], "a protecting trigger is missing"


class Killed(Exception):
    pass


def test_an_upgrade_that_is_killed_half_way_leaves_nothing_and_can_be_run_again(
    nothing: Database, tmp_path: Path
) -> None:
    statements: list[str] = []
    kill_at = [0]

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("CREATE", "INSERT")):
            statements.append(statement)
            if len(statements) == kill_at[0]:
                raise Killed(statement)

    dry = Database(f"sqlite:///{tmp_path}/dry.sqlite", durable=False)
    event.listen(dry.engine, "after_cursor_execute", count)
    schema.upgrade(dry)
    dry.dispose()
    whole = len(statements)
    assert whole > 60
    event.listen(nothing.engine, "after_cursor_execute", count)
    for kill_at[0] in (1, 2, 3, 10, whole // 4, whole // 2, whole - 20, whole - 5, whole):
        statements.clear()
        with pytest.raises(Killed):
            schema.upgrade(nothing)
        assert tables(nothing) == set(), f"killed after: {statements[-1][:60]}"
    kill_at[0] = 0
    schema.upgrade(nothing)
    assert tables(nothing) == set(Base.metadata.tables) | {"alembic_version"}


def test_several_upgrades_at_once_wait_for_each_other(nothing: Database) -> None:
    url = nothing.url.render_as_string(hide_password=False)
    running = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert tables(nothing) == set(Base.metadata.tables) | {"alembic_version"}


def test_an_upgrade_that_is_killed_by_the_machine_leaves_nothing(nothing: Database) -> None:
    """SIGKILL: no handler runs, no rollback is said. What is left is what the store itself makes of it."""
    kill = (
        "import os, signal, sys; from sqlalchemy import event; from compute_portal import schema; "
        "from compute_portal.db import Database; d = Database(sys.argv[1]); n = [0]\n"
        "@event.listens_for(d.engine, 'after_cursor_execute')\n"
        "def stop(c, cursor, statement, *_):\n"
        "    n[0] += statement.lstrip().startswith('CREATE')\n"
        "    if n[0] == 30: os.kill(os.getpid(), signal.SIGKILL)\n"
        "schema.upgrade(d)"
    )
    url = nothing.url.render_as_string(hide_password=False)
    killed = subprocess.run([sys.executable, "-c", kill, url], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -9
    schema.upgrade(nothing)
    assert tables(nothing) == set(Base.metadata.tables) | {"alembic_version"}


def test_caps_of_power_that_were_set_before_they_had_a_history_get_one(nothing: Database) -> None:
    schema.upgrade(nothing, "0017")
    with nothing.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO pools (name, model, gpus_per_node, booking_unit, tflops_fp16_dense, watts, takes_scripts) "
            "VALUES ('H800', 'H800', 8, 'gpu', 989, 700, FALSE)"
        )
        for lifted in ("NULL", "'2026-11-02 00:00:00'"):
            connection.exec_driver_sql(
                "INSERT INTO power_caps (pool_id, starts_at, ends_at, watts, pue_permille, set_at, lifted_at) "
                "SELECT id, '2026-11-03 00:00:00', '2026-11-04 00:00:00', 1000, 1300, '2026-11-01 00:00:00', "
                f"{lifted} FROM pools"
            )
    schema.upgrade(nothing)
    with nothing.read_only() as session:
        rows = session.execute(sa.text("SELECT subject_id, verb, before, after FROM history_entries ORDER BY id")).all()
        assert rows == [(1, "cap", None, "set"), (2, "cap", None, "set"), (2, "lift", "set", "lifted")]
        assert verify.run(session) == []


def test_there_is_one_newest_migration_and_the_head_file_names_it() -> None:
    scripts = ScriptDirectory.from_config(schema._config())
    assert len(scripts.get_heads()) == 1
    assert (schema.SCRIPTS / "HEAD").read_text() == f"{scripts.get_heads()[0]}\n"


def test_models_equal_migrations_down_to_their_checks() -> None:
    assert cli.model_differences() == []
