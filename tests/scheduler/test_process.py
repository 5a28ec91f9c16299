"""`python -m scheduler` as somebody starts and stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.desk.models import Leader as LeaderRow
from compute_portal.desk.models import TimetableRun
from compute_portal.policy import Policy
from scheduler.leader import Leader
from tests.cast import Cast
from tests.scheduler import process

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments],
        cwd=process.ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_for(done: Callable[[], object], process_: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        assert process_ is None or process_.poll() is None
        time.sleep(0.05)


def state(database: Database, id: int) -> BookingState:
    with database.read_only() as session:
        return session.get_one(Booking, id).state


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_it_starts_bookings_and_a_signal_ends_it_in_order(
    database: Database, cast: Cast, policy: Policy, tmp_path: Path, number: signal.Signals
) -> None:
    process.award_from_today(cast)
    id = cast.submit(cast.flexible(), policy.bookings)
    started = process.start(process.environment(database, tmp_path), tmp_path)
    try:
        wait_for(lambda: state(database, id) is BookingState.RUNNING, started)
        started.send_signal(number)
        assert started.wait(30) == 0
    finally:
        started.kill()
        started.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    # Looking every second, a busy machine skips a slot now and then; anything else would be wrong.
    skipped = "maximum number of running instances", "a slot was skipped"
    wrong = [line for line in lines if line["level"] not in ("info", "debug")]
    assert [line for line in wrong if not any(words in f"{line}" for words in skipped)] == []
    with database.read_only() as session:
        unfinished = session.scalars(sa.select(TimetableRun).where(TimetableRun.finished_at.is_(None))).all()
        assert unfinished == []
        assert session.get_one(LeaderRow, 1).heartbeat_at is not None


def test_a_second_process_waits_takes_over_after_kill_nine_and_can_be_stopped_while_it_waits(
    database: Database, cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    process.award_from_today(cast)
    env = process.environment(database, tmp_path)

    def epoch() -> int:
        with database.read_only() as session:
            return session.get_one(LeaderRow, 1).epoch

    running = [process.start(env, tmp_path)]
    try:
        wait_for(lambda: epoch() == 1, running[0])
        running += [process.start(env, tmp_path), process.start(env, tmp_path)]
        wait_for(lambda: (tmp_path / "log").read_text().count("another scheduler is active") == 2)
        running[2].terminate()
        assert running[2].wait(30) == 0
        assert epoch() == 1
        running[0].kill()
        id = cast.submit(cast.flexible(), policy.bookings, now=clock.now())
        wait_for(lambda: state(database, id) is BookingState.RUNNING, running[1])
        assert epoch() == 2
        running[1].terminate()
        assert running[1].wait(30) == 0
    finally:
        for one in running:
            one.kill()
            one.wait()


def test_once_does_what_is_due_and_ends(database: Database, cast: Cast, policy: Policy, tmp_path: Path) -> None:
    process.award_from_today(cast)
    id = cast.submit(cast.flexible(), policy.bookings)
    assert run(process.environment(database, tmp_path), "--once").returncode == 0
    assert state(database, id) is BookingState.RUNNING


def test_once_beside_an_active_scheduler_is_one_sentence(database: Database, tmp_path: Path) -> None:
    leader = Leader(database)
    assert leader.take(clock.now())
    done = run(process.environment(database, tmp_path), "--once")
    leader.release()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Another scheduler is active" in done.stderr


def test_a_database_that_is_not_migrated_is_one_sentence_with_the_fix(database: Database, tmp_path: Path) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    done = run(process.environment(database, tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "at revision 0000" in done.stderr
    assert "flask --app wsgi migrate" in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("PORTAL_DATABASE_URL", "sqlite:////nowhere/portal.sqlite", "There is no database at /nowhere/portal.sqlite"),
        ("PORTAL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none", "The database cannot be reached"),
        ("PORTAL_DATABASE_URL", "mysql://x", "PORTAL_DATABASE_URL: "),
        ("PORTAL_POLICY_FILE", "/nowhere/policy.toml", "there is no such policy file"),
        ("PORTAL_ENV", "moon", "PORTAL_ENV: "),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, setting: str, value: str, said: str) -> None:
    env = process.environment(Database(f"sqlite:///{tmp_path}/none.sqlite"), tmp_path)
    done = run(env | {setting: value})
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_runs_without_flask() -> None:
    code = "import sys, scheduler.__main__; print([m for m in sys.modules if m.split('.')[0] in ('flask', 'wtforms')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=process.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
