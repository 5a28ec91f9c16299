"""One active scheduler per database, and the only way in which it writes.

* Who holds the lock is active: an advisory lock of PostgreSQL on a connection of its own, or a locked file beside the
  SQLite database. Either is gone the moment its process is, so another takes over within a second.
* A process can lose its lock without knowing (stopped for a minute, connection cut). So each new leader adds 1 to the
  epoch in the database, and every write begins by locking that row: whoever finds another epoch than its own ends.
* The watchdog ends a process whose cycles have stopped, whatever the reason; the service manager starts it again.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.db import Database
from compute_portal.desk.models import Leader as LeaderRow
from config.systemd import tell_systemd

T = TypeVar("T")
log = logging.getLogger(__name__)
ADVISORY_LOCK = 7_351_204_119  # any constant of our own
LOST_LEADERSHIP = 75
STUCK = 70
LEADER = cast(sa.Table, LeaderRow.__table__)
# As text for the driver: this runs before every write.
EPOCH = "SELECT epoch FROM leader WHERE id = 1"
EPOCH_LOCKED = f"{EPOCH} FOR UPDATE"
HEARTBEAT = sa.update(LEADER).where(LEADER.c.id == 1).values(heartbeat_at=sa.bindparam("now"))
# A machine that vanished without a word keeps PostgreSQL's lock until these have passed: about half a minute.
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}


class LostLeadership(SystemExit):
    """Another scheduler is the leader now. Not an error to handle: this process ends, exit code 75."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(LOST_LEADERSHIP)

    def __str__(self) -> str:
        return self.reason


class Leader:
    """`take` makes this process the active one; afterwards `transaction` is how it writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock: _FileLock | _AdvisoryLock
        self._lock = _AdvisoryLock(database.url) if database.is_postgresql else _FileLock(database.url)
        self.epoch = 0
        self._epoch = EPOCH_LOCKED if database.is_postgresql else EPOCH  # SQLite's transaction is the lock
        self._beat_at = -1.0  # by the monotonic clock

    def take(self, now: dt.datetime) -> bool:
        """True if this process is the leader from now on, False while another one is."""
        if not self._lock.take():
            return False

        def begin(session: Session) -> int:
            row = session.get_one(LeaderRow, 1, with_for_update=True)
            row.epoch += 1
            row.holder = f"{socket.gethostname()[:60]}:{os.getpid()}"
            row.since_at = row.heartbeat_at = now
            return row.epoch

        self.epoch = self._database.transaction(begin)
        log.info("leader", extra={"epoch": self.epoch})
        return True

    def transaction(self, work: Callable[[Session], T]) -> T:
        """`Database.transaction`, refused when somebody else has become the leader. Raises LostLeadership."""

        def fenced(session: Session) -> T:
            self._must_lead(session.connection())
            return work(session)

        return self._database.transaction(fenced)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """`Database.write`, refused in the same way."""

        def fenced(connection: sa.Connection) -> T:
            self._must_lead(connection)
            return work(connection)

        return self._database.write(fenced)

    def _must_lead(self, connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection  # straight to it: this runs for every transaction
        assert driver is not None
        (epoch,) = driver.execute(self._epoch).fetchone()
        if epoch != self.epoch:
            raise LostLeadership(f"epoch {self.epoch} was followed by {epoch}")

    def heartbeat(self, now: dt.datetime) -> None:
        """Tell pages and /readyz that the scheduler lives, at most once a second. Raises LostLeadership if the lock is
        gone."""
        if time.monotonic() - self._beat_at < 1:
            return
        self._beat_at = time.monotonic()
        if not self._lock.is_held():
            raise LostLeadership("the lock's connection is gone")
        self.write(lambda connection: connection.execute(HEARTBEAT, {"now": now}))

    def release(self) -> None:
        """Let another process take over at once."""
        self._lock.release()


class _FileLock:
    """SQLite: `<database>.scheduler.lock`. The kernel drops the lock with the process."""

    def __init__(self, url: sa.URL) -> None:
        self._path = Path(f"{url.database}.scheduler.lock")
        self._file: IO[str] | None = None

    def take(self) -> bool:
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def is_held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _AdvisoryLock:
    """PostgreSQL: a session lock, on a connection that nothing else uses and no pool keeps."""

    def __init__(self, url: sa.URL) -> None:
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=KEEPALIVES,
        )
        self._connection: sa.Connection | None = None

    def take(self) -> bool:
        connection = self._engine.connect()
        if connection.scalar(sa.select(sa.func.pg_try_advisory_lock(ADVISORY_LOCK))):
            self._connection = connection
            return True
        connection.close()
        return False

    def is_held(self) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.scalar(sa.select(1))
        except sa.exc.DBAPIError:
            log.exception("the lock's connection is gone")
            return False
        return True

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Watchdog:
    """Ends the process, exit code 70, when `alive` was not called for `seconds` by the monotonic clock.

    It covers what APScheduler does not: a loop that died in its thread, and a wall clock that was set back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._alive_at = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self) -> None:
        self._alive_at = time.monotonic()
        tell_systemd("WATCHDOG=1")

    def _watch(self) -> None:
        while True:
            silent = time.monotonic() - self._alive_at
            if silent > self._seconds:
                log.critical("no cycle was completed, ending the process", extra={"seconds": round(silent)})
                logging.shutdown()
                os._exit(STUCK)
            time.sleep(min(1.0, self._seconds / 4))
