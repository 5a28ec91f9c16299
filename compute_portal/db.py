"""The database: one engine, reading sessions, and writing transactions that either happen whole or not at all.

* `read_only()` is for pages: one snapshot, and the database itself refuses a write.
* `transaction(work)` is for one verb: `work(session)` runs inside one writing transaction and may run again when the
  store asks for it, so it loads by id, does no network, file or rendering work, and returns plain values.

SQLite: every writing transaction starts with BEGIN IMMEDIATE. A deferred one that upgrades to writing fails at once
when somebody else wrote in between, and two readers that both then write would overbook.
PostgreSQL: READ COMMITTED with FOR UPDATE on the rows a verb decides on; a deadlock or a failed serialisation is tried
again. The order of locks is the same everywhere: billing month, programme, pool, allocation, ledger accounts by id.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import random
import select
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, TypeVarTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session as Session
from sqlalchemy.sql import operators
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.util import LRUCache

T = TypeVar("T")
R = TypeVarTuple("R")
S = TypeVar("S", bound=sa.Executable)
RETRYABLE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
ATTEMPTS = 8
BELIEVED_SECONDS = 30
PREPARED_MOST = 1_000  # statements that a connection keeps planned: more than the portal has
COMPILED_MOST = 1_000
Reader = Session | sa.Connection  # what a query over columns may be given
Writer = Session | sa.Connection  # what a verb that works on columns alone may be given


class Base(orm.DeclarativeBase):
    """Every constraint has a name, so that a migration can change it and an error can be read."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """An aware UTC instant. A naive one is refused: SQLite would drop its zone without a word."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: instants are aware")
        value = value.astimezone(dt.UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """PostgreSQL's connections speak UTC (`_make_postgresql_engine`): what comes from them is right as it is."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


class _Word(sa.ColumnElement[str]):
    """One word of an enumeration as it stands in a statement's text."""

    type = sa.String()
    _traverse_internals: Any = (("word", InternalTraversal.dp_string),)  # by which statements are told apart

    def __init__(self, word: enum.Enum) -> None:
        self.word = str(word.value)


@compiles(_Word)
def _quoted(element: _Word, _compiler: Any, **_options: Any) -> str:
    return f"'{element.word}'"


def _as_text(words: Any) -> Any:
    if isinstance(words, list | tuple | set | frozenset) and all(isinstance(word, enum.Enum) for word in words):
        return [_Word(word) for word in sorted(words, key=lambda word: str(word.value))]
    return words


class _Words(sa.Enum):
    """A comparison with one or some of its words writes them into the statement: they never change. As parameters they
    would be put together again for every execution, and PostgreSQL would plan without knowing them, or each time anew.
    """

    class Comparator(sa.Enum.Comparator):
        def operate(self, op: Any, *other: Any, **options: Any) -> Any:
            if op in (operators.eq, operators.ne) and isinstance(other[0], enum.Enum):
                other = (_Word(other[0]),)
            return super().operate(op, *other, **options)

        def in_(self, other: Any) -> Any:
            return super().in_(_as_text(other))

        def not_in(self, other: Any) -> Any:
            return super().not_in(_as_text(other))

    comparator_factory = Comparator


def enum_type(values: type[enum.StrEnum], name: str) -> sa.Enum:
    """A state or kind as short text with a named check, the same on both stores."""
    return _Words(
        values,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=24,
        values_callable=lambda kind: [member.value for member in kind],
    )


class Database:
    """The two ways to use it, each with connections of its own. One per process; `dispose()` after a fork."""

    def __init__(self, url: str, *, durable: bool = True, pool_size: int = 10) -> None:
        self.url = sa.make_url(url)
        # A connection that only reads is told so once, when it is made: telling it each time costs as much as a query.
        self.engine = _make_engine(self.url, durable, pool_size, reading=False)
        self.reading_engine = _make_engine(self.url, durable, pool_size, reading=True)

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def read_only(self) -> Iterator[Session]:
        # Closing ends the snapshot. A rollback first would expire what was loaded, and a page that shows a refused form
        # again needs it.
        with Session(self.reading_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def look(self) -> Iterator[sa.Connection]:
        """`read_only()` for statements over columns alone: a snapshot without objects, at half the cost."""
        with self.reading_engine.connect() as connection:
            yield connection

    def transaction(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one writing transaction; commit, or roll everything back."""

        def once() -> T:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                return work(session)

        return self._again(once)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """`transaction()` for verbs that work on columns alone: without objects, at half the cost."""

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self._again(once)

    def _again(self, once: Callable[[], T]) -> T:
        """Until no other transaction is in the way, a few times."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return once()
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in RETRYABLE or attempt == ATTEMPTS:
                    raise
            # Two transactions that met once must not meet again in step.
            time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    def dispose(self) -> None:
        self.engine.dispose()
        self.reading_engine.dispose()


class Compiled(LRUCache[Any, Any]):
    """Statements as they are compiled, found by identity first: most of ours are made once. SQLAlchemy compares them by
    a tuple that names all their parts, which Python hashes anew each time: up to a tenth of what a page costs.
    """

    def __init__(self, most: int = COMPILED_MOST) -> None:
        super().__init__(most)
        self._by_identity: dict[Any, tuple[Any, Any]] = {}

    def get(self, key: Any, default: Any = None) -> Any:
        dialect, statement, *rest = key
        short = (dialect, id(statement), *rest)
        known = self._by_identity.get(short)
        if known is not None and known[0] is statement:
            return known[1]
        found = super().get(key, default)
        if found is not None:
            if len(self._by_identity) >= self.capacity:
                self._by_identity.clear()  # statements made for one request only; ours are back at their next use
            self._by_identity[short] = statement, found  # kept along, so that nothing else gets its id
        return found


def _make_engine(url: sa.URL, durable: bool, pool_size: int, *, reading: bool) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return _make_postgresql_engine(url, pool_size, reading)
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=60,
        connect_args={"timeout": 15},
        execution_options={"compiled_cache": Compiled()},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=wal",
            "foreign_keys=on",
            "busy_timeout=15000",
            f"synchronous={'full' if durable else 'off'}",
            f"query_only={'on' if reading else 'off'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    begin = "BEGIN" if reading else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection  # straight to it: this runs for every transaction
        assert driver is not None
        try:
            driver.execute(begin)
        except sqlite3.OperationalError as error:  # locked for longer than we wait
            raise sa.exc.OperationalError(begin, None, error) from error

    return engine


class _Cursor(psycopg.Cursor[Any]):
    """Tells of its columns what SQLAlchemy asks for: psycopg's full description was a third of a statement's cost."""

    @property
    def description(self) -> Any:
        result = self.pgresult
        if result is None or result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            return None
        return [
            ((result.fname(n) or b"").decode(), result.ftype(n), None, None, None, None, None)
            for n in range(result.nfields)
        ]


class _ReadingConnection(psycopg.Connection[Any]):
    """Ends what it read with COMMIT. psycopg forgets every prepared statement at a ROLLBACK, and PostgreSQL then reads
    and plans each of them anew: that took ten times as long as running them. Nothing was written, so both are the same.
    """

    def rollback(self) -> None:
        self.commit()


def _is_alive(connection: psycopg.Connection[Any], idle_seconds: float) -> bool:
    """Whether the server still answers. Asking it each time is one round trip more for every page: a connection that
    was used just now, and on which the server has said nothing since (it does when it ends), is believed.
    """
    if connection.closed:
        return False
    if idle_seconds < BELIEVED_SECONDS:
        ear = select.poll()
        ear.register(connection.pgconn.socket, select.POLLIN)
        if not ear.poll(0):
            return True
    try:
        connection.execute("SELECT 1")
        connection.commit()
    except psycopg.Error:
        return False
    return True


def _make_postgresql_engine(url: sa.URL, pool_size: int, reading: bool) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=20,
        pool_use_lifo=True,  # the one used last: what it keeps is still at hand, and idle ones stay idle
        connect_args={"cursor_factory": _Cursor},
        execution_options={"compiled_cache": Compiled()},
    )

    if reading:

        @event.listens_for(engine, "do_connect")
        def _open(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
            return _ReadingConnection.connect(*arguments, **options)

    @event.listens_for(engine, "checkin")
    def _put_back(_connection: object, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _take(connection: Any, record: Any, _proxy: object) -> None:
        if not _is_alive(connection, time.monotonic() - record.info.get("used", 0.0)):
            raise sa.exc.InvalidatePoolError  # the pool makes a new one, and checks no other

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()
        connection.prepared_max = PREPARED_MOST
        connection.execute("SET TIME ZONE 'UTC'")  # so that no instant has to be converted: a page reads hundreds
        connection.commit()
        if reading:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    return engine


class _List(sa.types.TypeDecorator[list[Any]]):
    """A list as one parameter: an array for PostgreSQL, JSON for SQLite."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: sa.types.TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.ARRAY(self.item) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Collection[Any] | None, dialect: sa.Dialect) -> Any:
        assert value is not None
        return list(value) if dialect.name == "postgresql" else json.dumps(list(value))


class _Among(FunctionElement[bool]):
    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self  # a condition as it stands: for SQLite "= 1" would be added, and no index serves that


@compiles(_Among, "postgresql")
def _any_of_an_array(element: _Among, compiler: Any, **options: Any) -> str:
    column, these = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY ({these})"


@compiles(_Among, "sqlite")
def _in_json(element: _Among, compiler: Any, **options: Any) -> str:
    column, these = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({these}))"  # noqa: S608 - both are compiled


def written(number: int) -> sa.ColumnClause[int]:
    """A number that never changes, for a LIMIT: as a parameter PostgreSQL would not know how few rows are wanted."""
    return sa.literal_column(str(int(number)))


def one_page(query: sa.Select[*R], size: int, *, is_first: bool) -> sa.Select[*R]:
    """So many rows from `offset` on. The first page goes without: of an OFFSET that it does not know PostgreSQL
    believes that a tenth of all is left out, and plans anew each time because that looks dear.
    """
    rows = query.limit(written(size))
    return rows if is_first else rows.offset(sa.bindparam("offset", type_=sa.Integer))


def among(column: Any, name: str) -> sa.ColumnElement[bool]:
    """`column` is one of the list that is given as `name`: ids or texts.

    IN has as many parameters as the list is long: a text of its own for each length, which SQLAlchemy puts together for
    every execution and the database plans anew.
    """
    return _Among(column, sa.bindparam(name, type_=_List(column.type)))


class AboutThese(Generic[S]):
    """A statement about the rows that a list names, made once: `session.execute(*statement(ids))`.

    `these(column)` is the condition. Of one row it asks for equality, which SQLite answers sooner.
    """

    def __init__(self, make: Callable[[Callable[[Any], sa.ColumnElement[bool]]], S]) -> None:
        self._one = make(lambda column: column == sa.bindparam("these", type_=column.type))
        self._many = make(lambda column: among(column, "these"))

    def __call__(self, these: Collection[int] | Collection[str]) -> tuple[S, dict[str, Any]]:
        if len(these) == 1:
            return self._one, {"these": next(iter(these))}
        return self._many, {"these": list(these)}


@contextmanager
def with_objects(writer: Writer) -> Iterator[Session]:
    """A session inside the transaction that `writer` is in; what it changed is sent when the block ends."""
    if isinstance(writer, Session):
        yield writer
        return
    with Session(writer, expire_on_commit=False) as session:
        yield session
        session.flush()


def lock(session: Session, model: type[T], id: int) -> T | None:
    """Load one row FOR UPDATE, fresh. On SQLite the transaction is the lock: what it has read stays true."""
    if session.get_bind().dialect.name == "sqlite":
        return session.get(model, id)
    return session.get(model, id, with_for_update=True, populate_existing=True)
