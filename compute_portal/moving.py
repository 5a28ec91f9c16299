"""From one database to another, such as from SQLite to PostgreSQL: every row, with its id, and nothing else.

Tables are copied in the order of their foreign keys, rows by their key, all in one transaction of the target, which
the migrations have made before. What refuses changes there lets rows in: append-only tables take an INSERT, and two
bookings on one GPU would be refused on the way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from migrations.triggers import ADDED_APPEND_ONLY, APPEND_ONLY

from . import schema
from .backup import BackupError, holds_something, must_rest
from .db import Database
from .tables import Base

ROWS = 1_000  # at once; of a table that holds files one by one


def copy(source: Database, target: Database, now: dt.datetime) -> dict[str, int]:
    """Returns how many rows each table got. Raises BackupError when the target holds anything, or somebody works on
    the source, and changes nothing."""
    with source.engine.connect() as connection:
        must_rest(connection, set(sa.inspect(connection).get_table_names()), now)
    with target.engine.connect() as connection:
        if holds_something(connection, set(sa.inspect(connection).get_table_names())):
            raise BackupError("The target is not empty: give an empty database, nothing was copied.")
    schema.upgrade(target)
    counts = {}
    with source.read_only() as reading, target.engine.begin() as writing:
        tables = Base.metadata.sorted_tables
        for table in reversed(tables):
            # What a migration put there the source has too, perhaps changed. Where nothing can be changed it is equal.
            if table.name not in APPEND_ONLY + ADDED_APPEND_ONLY and _has_rows(writing, table):
                writing.execute(sa.delete(table))
        for table in tables:
            counts[table.name] = _copy(reading.connection(), writing, table)
            _go_on_counting(writing, table)
    return counts


def _has_rows(connection: sa.Connection, table: sa.Table) -> bool:
    return connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)) is not None


def _copy(reading: sa.Connection, writing: sa.Connection, table: sa.Table) -> int:
    own = [column for column in table.columns if any(key.column.table is table for key in column.foreign_keys)]
    (key, *_more) = table.primary_key.columns
    points_ahead: list[tuple[sa.Column[Any], Any, Any]] = []
    known = {row[key.name]: dict(row) for row in writing.execute(sa.select(table)).mappings()}
    copied = len(known)
    for all_rows in _batches(reading, table):
        rows = _without(known, all_rows, table, key.name)
        if not rows:
            continue
        for row in rows:
            for column in own:
                if row[column.name] is not None and row[column.name] > row[key.name]:
                    points_ahead.append((column, row[key.name], row[column.name]))
                    row[column.name] = None  # until that row is there
        writing.execute(sa.insert(table), rows)
        copied += len(rows)
    for column, id, other in points_ahead:
        writing.execute(sa.update(table).where(key == id).values({column: other}))
    return copied


def _without(
    known: dict[Any, dict[str, Any]], rows: list[dict[str, Any]], table: sa.Table, key: str
) -> list[dict[str, Any]]:
    """Raises BackupError when a row that the migrations wrote into both is not the same in both."""
    if any(row != known.get(row[key], row) for row in rows):
        raise BackupError(f"The target's {table.name} begin with other rows than the source's: nothing was copied.")
    return [row for row in rows if row[key] not in known]


def _batches(connection: sa.Connection, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    """By key: most rows that point into their own table point to an earlier one."""
    holds_files = any(isinstance(column.type, sa.LargeBinary) for column in table.columns)
    size = 1 if holds_files else ROWS
    rows = connection.execution_options(yield_per=size).execute(sa.select(table).order_by(*table.primary_key.columns))
    for some in rows.mappings().partitions(size):
        yield [dict(row) for row in some]


def _go_on_counting(connection: sa.Connection, table: sa.Table) -> None:
    """PostgreSQL gives ids from a sequence that has seen none of the copied ones; SQLite looks at the rows."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name)))
    if sequence is not None:
        last = sa.select(sa.func.max(column)).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, sa.func.coalesce(last, 1), last.is_not(None))))
