"""One file that holds the whole database, and the way back.

A backup is a zip of two files: `manifest.json` says what was kept (version, revision, rows per table, hash), `database`
is the store's own copy: a SQLite file made by its backup interface, or what `pg_dump` writes in its custom format. Both
are one snapshot: people go on booking meanwhile. A backup goes back into the same kind of store; `moving` changes it.

What is not in it: the settings with their secrets, and the policy file. It holds password hashes and documents, and is
readable by its owner only.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from . import VERSION, clock, schema
from .db import Database
from .signin.models import UserSession

FORMAT = 1
NAME = re.compile(r"commons-\d{8}T\d{6}Z\.zip")
MANIFEST, CONTENT = "manifest.json", "database"
CHUNK = 1024 * 1024
ALIVE_SECONDS = 60  # whoever was heard within this time is at work on the database
LOCKED_SECONDS = 30  # how long we wait for others to let go of a SQLite file
POSTGRESQL_TOOLS = "sudo apt install postgresql-client"


class BackupError(Exception):
    """What stands in the way, as one sentence with the fix."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `counts` are rows per table, `sha256` is of the content."""

    format: int
    version: str
    revision: str
    store: str
    made_at: str
    counts: dict[str, int]
    sha256: str

    @property
    def made(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.made_at)


# -- making one -------------------------------------------------------------------------------------------------------


def make(database: Database, folder: Path, now: dt.datetime) -> tuple[Path, Manifest]:
    """Write a backup into `folder`, which is made if need be. It gets its name when it is whole, and not before.

    Raises BackupError.
    """
    with _one_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as scratch:
            content = Path(scratch) / CONTENT
            copy = _dump_postgresql if database.is_postgresql else _copy_sqlite
            revision, counts = copy(database, content)
            manifest = Manifest(
                FORMAT, VERSION, revision, _store(database), now.isoformat(), counts, _hash_of(content)
            )  # fmt: skip
            part = Path(scratch) / "part"
            _write_zip(part, manifest, content)
            file = folder / f"commons-{now:%Y%m%dT%H%M%SZ}.zip"
            part.replace(file)
        _sync_folder(folder)
        return file, manifest


def remove_old(folder: Path, keep: int) -> list[Path]:
    """Of the backups in `folder` keep the newest ones; returns which were removed. Other files are left alone."""
    ours = sorted(file for file in folder.iterdir() if NAME.fullmatch(file.name))
    old = ours[:-keep]
    for file in old:
        file.unlink()
    return old


def _store(database: Database) -> str:
    return "postgresql" if database.is_postgresql else "sqlite"


def _write_zip(part: Path, manifest: Manifest, content: Path) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # pg_dump has compressed its own.
        how = zipfile.ZIP_STORED if manifest.store == "postgresql" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(file, "w", how, compresslevel=1) as archive:
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True))
            archive.write(content, CONTENT)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """The name is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _copy_sqlite(database: Database, content: Path) -> tuple[str, dict[str, int]]:
    """The backup interface reads one state of the database while others write on."""
    source = sqlite3.connect(f"file:{database.url.database}?mode=rw", uri=True, timeout=LOCKED_SECONDS)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(content)) as target:
        source.backup(target, progress=_patience())
        target.execute("PRAGMA journal_mode=delete")  # one file, without a log beside it
        return _look_at_sqlite(target)


def _look_at_sqlite(connection: sqlite3.Connection) -> tuple[str, dict[str, int]]:
    """Revision and rows per table. Raises BackupError when the file is damaged."""
    told = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if told != ["ok"]:
        raise BackupError(f"SQLite says that the database is damaged: {'; '.join(told)}")
    names = [
        row[0]
        for row in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
        )
    ]
    counts = {name: int(connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0]) for name in names}  # noqa: S608
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return revision, counts


def _patience() -> Any:
    """Called for every step and every wait: sqlite3 itself would wait for ever."""
    until = time.monotonic() + LOCKED_SECONDS

    def look(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > until:
            raise BackupError(
                f"The database was locked for {LOCKED_SECONDS} s: stop what else works with the file, then try again."
            )

    return look


def _dump_postgresql(database: Database, content: Path) -> tuple[str, dict[str, int]]:
    """pg_dump reads the very snapshot in which the rows are counted."""
    with database.read_only() as session:
        snapshot = session.scalar(sa.select(sa.func.pg_export_snapshot()))
        revision = session.scalar(sa.text("SELECT version_num FROM alembic_version"))
        counts = _count(session.connection())
        _tool(
            database, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--no-password",
            f"--snapshot={snapshot}", f"--file={content}",
        )  # fmt: skip
        return str(revision), counts


def _count(connection: sa.Connection) -> dict[str, int]:
    tables = sorted(sa.inspect(connection).get_table_names())
    return {
        name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0 for name in tables
    }  # fmt: skip


# -- the way back -----------------------------------------------------------------------------------------------------


def restore(database: Database, file: Path, *, replace: bool, now: dt.datetime) -> Manifest:
    """Put a backup in place of what the database holds, upgrade it to this code, and sign everybody out.

    Everything that can be known beforehand is asked before anything is touched. SQLite changes in one step. On
    PostgreSQL the old tables go first: should the restore itself fail, the database is empty and the same command may
    be run again. Raises BackupError.
    """
    with _one_sentence(file), tempfile.TemporaryDirectory(prefix="commons-restore-") as scratch:
        content = Path(scratch) / CONTENT
        manifest = _unpack(file, content)
        _must_fit(database, manifest)
        _must_be_free(database, replace, now)
        if database.is_postgresql:
            _load_postgresql(database, content)
        else:
            _load_sqlite(database, content, manifest)
        database.dispose()  # what is pooled has prepared statements of the old tables
        _must_be_whole(database, manifest)
        schema.upgrade(database)
        _sign_everybody_out(database, now)
        return manifest


def _unpack(file: Path, content: Path) -> Manifest:
    """Raises BackupError unless the content is, to the last byte, what the manifest says."""
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = Manifest(**json.loads(archive.read(MANIFEST)))
            if manifest.format != FORMAT:
                raise BackupError(f"{file} has format {manifest.format}; this code reads {FORMAT}: use the newer one.")
            with archive.open(CONTENT) as packed, _private(content) as unpacked:
                shutil.copyfileobj(packed, unpacked, CHUNK)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
        raise BackupError(f"{file} is no backup, or a damaged one ({error}): take another.") from None
    if _hash_of(content) != manifest.sha256:
        raise BackupError(f"{file} is damaged: its content is not what was written. Take another.")
    return manifest


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _must_fit(database: Database, manifest: Manifest) -> None:
    if manifest.store != _store(database):
        raise BackupError(
            f"The backup is of {manifest.store} and this database is {_store(database)}: restore it into its own kind, "
            "then move it with `flask --app wsgi copy-to`."
        )
    if not schema.knows(manifest.revision):
        raise BackupError(
            f"The backup is at revision {manifest.revision}, made by version {manifest.version}, and this code knows "
            f"up to {schema.newest()}: install that version or a newer one first."
        )
    if database.is_postgresql:
        _find_tool("pg_restore")


def _must_be_free(database: Database, replace: bool, now: dt.datetime) -> None:
    """Nobody at work on it, and nothing in it unless that may go."""
    if not database.is_postgresql and not Path(database.url.database or "").exists():
        return
    with database.engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        must_rest(connection, tables, now)
        if not replace and holds_something(connection, tables):
            raise BackupError(
                "This database is not empty: make a backup of it, then give --replace to lose what it holds."
            )


def must_rest(connection: sa.Connection, tables: set[str], now: dt.datetime) -> None:
    """Raises BackupError while a scheduler works on the database: what it writes meanwhile would be lost."""
    heard = connection.scalar(sa.text("SELECT heartbeat_at FROM leader")) if "leader" in tables else None
    age = None if heard is None else clock.seconds_between(_instant(heard), now)
    if age is not None and 0 <= age < ALIVE_SECONDS:
        raise BackupError(
            f"A scheduler worked on this database {age} s ago: stop portal-scheduler and portal-web, and wait a minute."
        )


def _instant(stored: Any) -> dt.datetime:
    found = stored if isinstance(stored, dt.datetime) else dt.datetime.fromisoformat(str(stored))
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def holds_something(connection: sa.Connection, tables: set[str]) -> bool:
    """People, or tables that are not ours. What migrations put into a new database does not count."""
    if not tables:
        return False
    if "alembic_version" not in tables or "users" not in tables:
        return True
    return connection.scalar(sa.text("SELECT 1 FROM users LIMIT 1")) is not None


def _load_sqlite(database: Database, content: Path, manifest: Manifest) -> None:
    """Into the file that is there, as one write: readers see the old state or the new one."""
    path = Path(database.url.database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(content)) as source:
        if _look_at_sqlite(source)[1] != manifest.counts:
            raise BackupError("The backup does not hold the rows that its manifest names: take another.")
        with contextlib.closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as target:
            source.backup(target, progress=_patience())


def _load_postgresql(database: Database, content: Path) -> None:
    _tool(database, "pg_restore", "--list", f"--file={os.devnull}", str(content), connect=False)
    with database.engine.begin() as connection:
        _drop_everything(connection)
    database.dispose()
    try:
        _tool(
            database, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction",
            "--no-password", str(content),
        )  # fmt: skip
    except BackupError as error:
        raise BackupError(
            f"The database is empty now, run the same command again once this is mended: {error}"
        ) from None


def _drop_everything(connection: sa.Connection) -> None:
    """Tables and functions of the schema that we work in; what an extension brought stays."""
    quote = connection.dialect.identifier_preparer.quote
    for name in sa.inspect(connection).get_table_names():
        connection.execute(sa.text(f"DROP TABLE {quote(name)} CASCADE"))
    functions = connection.scalars(
        sa.text(
            "SELECT CAST(CAST(p.oid AS regprocedure) AS text) FROM pg_proc p "
            "WHERE p.pronamespace = CAST(current_schema() AS regnamespace) "
            "AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
        )
    ).all()
    for function in functions:
        connection.execute(sa.text(f"DROP FUNCTION {function}"))


def _must_be_whole(database: Database, manifest: Manifest) -> None:
    with database.read_only() as session:
        found = _count(session.connection())
    wrong = sorted(
        name for name in found.keys() | manifest.counts.keys() if found.get(name) != manifest.counts.get(name)
    )
    if wrong:
        raise BackupError(f"After the restore these tables have other rows than the manifest says: {', '.join(wrong)}.")


def _sign_everybody_out(database: Database, now: dt.datetime) -> None:
    """A session that was ended after the backup would live again."""
    open_ones = sa.update(UserSession).where(UserSession.ended_at.is_(None)).values(ended_at=now)
    database.transaction(lambda session: session.execute(open_ones))


# -- the tools of PostgreSQL ------------------------------------------------------------------------------------------


def _find_tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BackupError(f"{name} is not on this machine: `{POSTGRESQL_TOOLS}`.")
    return found


def _tool(database: Database, name: str, *arguments: str, connect: bool = True) -> None:
    """Run a tool of PostgreSQL's on this database. The password goes by the environment: others can read an argv."""
    url, environ = database.url, dict(os.environ)
    if url.password:
        environ["PGPASSWORD"] = str(url.password)
    without = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    where = [f"--dbname={without.render_as_string(hide_password=False)}"] if connect else []
    done = subprocess.run(
        [_find_tool(name), *where, *arguments], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BackupError(_why(name, done.stderr))


def _why(name: str, said: str) -> str:
    if "server version mismatch" in said:
        versions = " ".join(re.findall(r"(?:server|pg_dump) version:? [\d.]+", said))
        return f"{name} is older than the server ({versions}): install the postgresql-client of the server's version."
    if "unsupported version" in said:
        return f"{name} is older than the one that made the backup: install that version's postgresql-client."
    lines = [line for line in said.strip().splitlines() if "error" in line.lower()] or [
        said.strip() or "no reason given"
    ]
    return f"{name} failed: {lines[0].strip()}"


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """What a disk or a store says becomes a BackupError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise BackupError(f"SQLite failed: {error}.") from error
    except sa.exc.DBAPIError as error:
        lines = str(error.orig).strip().splitlines() or ["no reason given"]
        raise BackupError(f"The database failed: {lines[0]}") from error
    except OSError as error:
        raise BackupError(f"{error.filename or path}: {error.strerror}.") from error
