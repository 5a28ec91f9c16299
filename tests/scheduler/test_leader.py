"""One active scheduler: who leads, what happens to the one that lost it, and the watchdog."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from compute_portal.db import Database
from compute_portal.desk.models import Leader as LeaderRow
from scheduler.leader import STUCK, Leader, LostLeadership
from tests.cast import NOW

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from compute_portal import clock
from compute_portal.db import Database
from scheduler.leader import Leader
leader = Leader(Database(sys.argv[1]))
while not leader.take(clock.now()):
    time.sleep(0.02)
print("leads", leader.epoch, flush=True)
time.sleep(60)
"""


@pytest.fixture
def make_leader(database: Database) -> Iterator[Callable[[], Leader]]:
    made: list[Leader] = []

    def make() -> Leader:
        made.append(Leader(database))
        return made[-1]

    yield make
    for leader in made:
        leader.release()


def row(database: Database) -> LeaderRow:
    with database.read_only() as session:
        return session.get_one(LeaderRow, 1)


def test_the_first_leads_and_the_second_waits_until_it_is_gone(
    database: Database, make_leader: Callable[[], Leader]
) -> None:
    first, second = make_leader(), make_leader()
    assert first.take(NOW)
    assert not second.take(NOW)
    assert not second.take(NOW)
    first.release()
    assert second.take(NOW)
    assert (first.epoch, second.epoch, row(database).epoch) == (1, 2, 2)
    assert (row(database).since_at, row(database).heartbeat_at) == (NOW, NOW)


def test_a_leader_that_was_followed_can_write_nothing(database: Database, make_leader: Callable[[], Leader]) -> None:
    """As after SIGSTOP: its lock went while it slept, somebody else took over, and then it wakes up."""
    old, new = make_leader(), make_leader()
    old.take(NOW)
    old.release()
    new.take(NOW)
    written: list[int] = []
    with pytest.raises(LostLeadership, match="epoch 1 was followed by 2"):
        old.transaction(lambda _session: written.append(1))
    assert written == []
    assert new.transaction(lambda _session: 7) == 7


def test_the_heartbeat_is_written_and_refused_without_the_lock(
    database: Database, make_leader: Callable[[], Leader]
) -> None:
    leader = make_leader()
    leader.take(NOW)
    later = NOW + dt.timedelta(seconds=5)
    leader.heartbeat(later)
    assert row(database).heartbeat_at == later
    leader.release()
    leader._beat_at = -10.0
    with pytest.raises(LostLeadership):
        leader.heartbeat(later)


def test_a_cut_connection_is_noticed_before_the_next_round_writes(
    database: Database, make_leader: Callable[[], Leader]
) -> None:
    leader = make_leader()
    leader.take(NOW)
    if database.is_postgresql:
        with database.engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
    else:
        leader.release()  # a file has no connection: nothing but the process's end takes the lock
    with pytest.raises(LostLeadership):
        leader.heartbeat(NOW)


def test_after_kill_nine_another_process_leads_within_a_second(
    database: Database, make_leader: Callable[[], Leader]
) -> None:
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", HOLD, url], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leads 1\n"
        ours = make_leader()
        assert not ours.take(NOW)
        process.kill()
        killed_at = time.monotonic()
        while not ours.take(NOW):
            assert time.monotonic() - killed_at < 5
            time.sleep(0.01)
    assert ours.epoch == 2
    assert time.monotonic() - killed_at < 5


def test_of_several_processes_that_want_to_lead_one_does(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 30
        while row(database).epoch == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        assert row(database).epoch == 1
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_the_watchdog_ends_a_process_in_which_no_round_is_completed() -> None:
    silent = "from scheduler.leader import Watchdog; import time; Watchdog(0.3).start(); time.sleep(30)"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", silent], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == STUCK
    assert time.monotonic() - begun < 20


def test_the_watchdog_leaves_a_process_alone_that_goes_on() -> None:
    busy = (
        "from scheduler.leader import Watchdog; import time; dog = Watchdog(1.5); dog.start()\n"
        "for _ in range(15): time.sleep(0.2); dog.alive()"
    )
    assert subprocess.run([sys.executable, "-c", busy], cwd=ROOT, check=False).returncode == 0
