"""Migrations, run from code: upgrade to the newest, ask where a database stands, compare models with migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from .db import Database
from .tables import Base

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config


@cache
def newest() -> str:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def knows(revision: str) -> bool:
    """Whether this code has the migration, so that a database at it can be upgraded."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def upgrade(database: Database, revision: str = "head") -> None:
    """Upgrade to the newest revision in one transaction: killed half-way it leaves nothing, and may be run again."""
    if database.url.get_backend_name() == "sqlite" and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    with database.engine.connect() as connection, _tables_may_be_copied(connection), connection.begin():
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Back to an older revision, in one transaction. What only the newer one can hold is lost."""
    with database.engine.connect() as connection, _tables_may_be_copied(connection), connection.begin():
        command.downgrade(_config(connection), revision)


@contextmanager
def _tables_may_be_copied(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by copying it: dropping the old one must not count as deleting what others point to.

    That check can only be switched off before the transaction; the store looks again at all references within it.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection

    def check(_connection: sa.Connection) -> None:
        broken = driver.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise RuntimeError(f"the migrations leave references to rows that are not there: {broken[:5]}")

    driver.execute("PRAGMA foreign_keys=off")
    event.listen(connection, "commit", check)
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=on")


def new_revision(database: Database, message: str, revision: str) -> None:
    with database.engine.begin() as connection:
        command.revision(_config(connection), message=message, rev_id=revision, autogenerate=True)


def differences(database: Database) -> list[Any]:
    """What the models say and the migrated database does not, or the other way round. Empty when they are equal."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))
