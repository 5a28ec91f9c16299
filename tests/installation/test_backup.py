"""`flask backup` and `flask restore`: one file, and back; an older state catches up with the clock."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import backup, clock, schema, verify
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.desk.models import Leader as LeaderRow
from compute_portal.ledger.models import LedgerAccount
from compute_portal.policy import Policy
from compute_portal.signin import service as signin
from compute_portal.signin.models import UserSession
from compute_portal.usage.models import Charge, UsageRecord
from scheduler import cycle, metering
from scheduler.context import Context, simulation
from tests.cast import HOUR, Cast
from tests.compute_portal.test_cli import Run, an_app, assert_one_line, runner
from tests.compute_portal.test_verify import unprotect

MINUTE = dt.timedelta(minutes=1)
Another = Callable[..., Database]


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is in it, table by table."""
    with database.read_only() as session:
        tables = sorted(sa.inspect(session.connection()).get_table_names())
        return {
            name: sorted(tuple(map(str, row)) for row in session.execute(sa.text(f'SELECT * FROM "{name}"')))
            for name in tables
        }


def run_on(database: Database, policy: Policy) -> Run:
    return runner(an_app(database, policy))


def problems(database: Database) -> list[str]:
    with database.read_only() as session:
        return [str(problem) for problem in verify.run(session)]


def changed(file: Path, **manifest: object) -> Path:
    """A copy of a backup whose manifest says something else."""
    other = file.with_name("changed.zip")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(other, "w") as new:
        told = json.loads(old.read("manifest.json")) | manifest
        new.writestr("manifest.json", json.dumps(told))
        new.writestr("database", old.read("database"))
    return other


# -- there and back ---------------------------------------------------------------------------------------------------


def test_a_backup_holds_every_row_and_a_restore_brings_it_into_an_empty_database(
    cast: Cast, another: Another, policy: Policy, tmp_path: Path
) -> None:
    cast.submit(cast.fixed(), policy.bookings)
    cast.database.transaction(
        lambda s: signin.start_session(
            s, cast.users["zhou"], enterprise_id=None, policy=policy.sign_in, now=clock.now()
        )
    )
    done = run_on(cast.database, policy)("backup", str(tmp_path / "kept"))
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "kept").iterdir()
    assert str(file) in done.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    manifest = json.loads(zipfile.ZipFile(file).read("manifest.json"))
    assert manifest["revision"] == schema.newest()
    assert manifest["counts"]["users"] == len(cast.users)
    target = another()
    done = run_on(target, policy)("restore", str(file))
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.output.splitlines()[1:]] == ["ok"] * 7
    before, after = rows(cast.database), rows(target)
    assert before.pop("user_sessions") != after.pop("user_sessions")
    assert after == before
    with target.read_only() as session:
        assert session.scalars(sa.select(UserSession.ended_at)).one() is not None, "everybody signs in again"
    assert schema.differences(target) == []


def test_a_backup_is_one_snapshot_while_others_write(
    cast: Cast, another: Another, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody books between the counting of the rows and their copying: the copy is as it was counted."""
    real = backup._tool if cast.database.is_postgresql else backup._look_at_sqlite

    def meanwhile(*args: Any, **options: Any) -> Any:
        cast.submit(cast.flexible(), policy.bookings)
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(backup, real.__name__, meanwhile)
        file, manifest = backup.make(cast.database, tmp_path, clock.now())
    assert manifest.counts["bookings"] == 0
    target = another()
    backup.restore(target, file, replace=False, now=clock.now())
    with target.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Booking)) == 0
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Booking)) == 1


def test_only_the_newest_backups_are_kept_and_other_files_stay(
    database: Database, policy: Policy, tmp_path: Path
) -> None:
    for day in (1, 2, 3):
        (tmp_path / f"commons-2026010{day}T000000Z.zip").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    done = run_on(database, policy)("backup", str(tmp_path), "--keep", "2")
    assert done.exit_code == 0, done.output
    left = sorted(file.name for file in tmp_path.glob("*.zip"))
    assert left[0] == "commons-20260103T000000Z.zip" and len(left) == 2
    assert (tmp_path / "notes.txt").exists()


# -- what it refuses, and that nothing is changed then ----------------------------------------------------------------


def test_a_restore_refuses_a_database_that_holds_something_unless_it_may_replace_it(
    cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    file, _ = backup.make(cast.database, tmp_path, clock.now())
    before = rows(cast.database)
    cast.submit(cast.flexible(), policy.bookings)
    after = rows(cast.database)
    run = run_on(cast.database, policy)
    assert_one_line(run("restore", str(file)), "not empty", "--replace")
    assert rows(cast.database) == after
    done = run("restore", str(file), "--replace")
    assert done.exit_code == 0, done.output
    assert rows(cast.database) == before


def test_a_restore_refuses_while_a_scheduler_works(cast: Cast, policy: Policy, tmp_path: Path) -> None:
    file, _ = backup.make(cast.database, tmp_path, clock.now())
    heard = sa.update(LeaderRow).values(heartbeat_at=clock.now() - MINUTE / 3)
    cast.database.transaction(lambda s: s.execute(heard))
    assert_one_line(run_on(cast.database, policy)("restore", str(file), "--replace"), "s ago", "stop portal-scheduler")


def test_a_restore_refuses_what_a_newer_version_made_and_another_store(
    database: Database, policy: Policy, tmp_path: Path
) -> None:
    file, _ = backup.make(database, tmp_path, clock.now())
    run = run_on(database, policy)
    assert_one_line(run("restore", str(changed(file, revision="9999"))), "9999", schema.newest(), "newer")
    other = "sqlite" if database.is_postgresql else "postgresql"
    assert_one_line(run("restore", str(changed(file, store=other))), f"is of {other}", "copy-to")
    assert_one_line(run("restore", str(changed(file, format=2))), "format 2")


def test_a_restore_refuses_a_damaged_file_and_what_is_none(cast: Cast, policy: Policy, tmp_path: Path) -> None:
    file, _ = backup.make(cast.database, tmp_path, clock.now())
    before = rows(cast.database)
    run = run_on(cast.database, policy)
    assert_one_line(run("restore", str(changed(file, sha256="0" * 64)), "--replace"), "damaged")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    # Many bytes: a single one of a packed file may be flipped without changing what it unpacks to.
    content[middle : middle + 512] = bytes(byte ^ 255 for byte in content[middle : middle + 512])
    (tmp_path / "flipped.zip").write_bytes(content)
    assert_one_line(run("restore", str(tmp_path / "flipped.zip"), "--replace"), "damaged")
    (tmp_path / "cut.zip").write_bytes(file.read_bytes()[:-400])
    assert_one_line(run("restore", str(tmp_path / "cut.zip"), "--replace"), "no backup")
    assert_one_line(run("restore", str(tmp_path / "none.zip"), "--replace"), "No such file")
    assert rows(cast.database) == before


def test_a_database_that_was_never_migrated_has_nothing_to_back_up(
    another: Another, policy: Policy, tmp_path: Path
) -> None:
    assert_one_line(run_on(another(), policy)("backup", str(tmp_path / "kept")), "empty")
    assert not (tmp_path / "kept").exists()


def test_a_backup_that_cannot_be_finished_leaves_no_file(
    database: Database, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "_write_zip", full)
    assert_one_line(run_on(database, policy)("backup", str(tmp_path / "kept")), "No space left on device")
    assert list((tmp_path / "kept").iterdir()) == []


def test_without_its_tools_postgresql_says_which_package_brings_them(
    database: Database, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_on(database, policy)("backup", str(tmp_path / "kept"))
    if database.is_postgresql:
        assert_one_line(done, "pg_dump", "apt install postgresql-client")
        assert list((tmp_path / "kept").iterdir()) == []
    else:
        assert done.exit_code == 0


def test_an_older_pg_dump_is_told_apart_from_other_failures() -> None:
    said = "pg_dump: error: aborting because of server version mismatch\n"
    said += "pg_dump: detail: server version: 16.1; pg_dump version: 15.2"
    assert "postgresql-client of the server's version" in backup._why("pg_dump", said)
    assert backup._why("pg_restore", "pg_restore: error: could not connect\nmore") == (
        "pg_restore failed: pg_restore: error: could not connect"
    )


def test_damage_that_was_backed_up_is_named_after_the_restore(
    cast: Cast, another: Another, policy: Policy, tmp_path: Path
) -> None:
    with Session(cast.database.engine) as session:
        unprotect(session)
        session.execute(sa.text("UPDATE ledger_accounts SET balance = balance + 1 WHERE bucket = 'available'"))
        session.commit()
    file, _ = backup.make(cast.database, tmp_path, clock.now())
    done = run_on(another(), policy)("restore", str(file))
    assert done.exit_code == 1
    assert "BROKEN" in done.output and "Restored the state" in done.output


def test_a_password_in_the_address_reaches_no_command_line(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def remember(argv: list[str], *, env: dict[str, str], **_options: object) -> Any:
        seen.append((argv, env))
        return dataclasses.make_dataclass("Done", [("returncode", int), ("stderr", str)])(0, "")

    monkeypatch.setattr(backup.subprocess, "run", remember)
    backup._tool(Database("postgresql://portal:hidden-word@127.0.0.1:1/portal"), "pg_dump", "--format=custom")
    ((argv, env),) = seen
    assert "hidden-word" not in " ".join(argv) and env["PGPASSWORD"] == "hidden-word"
    assert any("portal@127.0.0.1:1/portal" in argument for argument in argv)


# -- an older state catches up ----------------------------------------------------------------------------------------


def books(database: Database) -> dict[str, Any]:
    """Who was charged what for when, where the hours are, how each booking ended."""
    with database.read_only() as session:
        charged = session.execute(
            sa.select(Attempt.key, UsageRecord.starts_at, UsageRecord.ends_at, Charge.gpu_seconds, Charge.billed_in)
            .join(UsageRecord, UsageRecord.attempt_id == Attempt.id)
            .join(Charge, Charge.usage_record_id == UsageRecord.id)
            .order_by(Attempt.key, UsageRecord.starts_at)
        )
        accounts = session.execute(
            sa.select(LedgerAccount.owner, LedgerAccount.bucket, LedgerAccount.balance).order_by(
                LedgerAccount.owner, LedgerAccount.bucket
            )
        )
        bookings = session.execute(
            sa.select(Booking.id, Booking.state, Booking.charged_gpu_seconds).order_by(Booking.id)
        )
        return {"charged": charged.all(), "accounts": accounts.all(), "bookings": bookings.all()}


def test_an_older_backup_catches_up_to_the_same_totals_as_if_nothing_had_happened(
    cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    """Backed up in the middle of running bookings; the portal went on for a day and a half; then that backup came
    back, as if to a machine that had slept."""
    start = cast.now
    context = simulation(cast.database, policy)
    cast.submit(cast.flexible(8, 30), policy.bookings)
    cast.submit(cast.flexible(8, 2.5), policy.bookings)
    cast.submit(cast.fixed(8, 1, 20), policy.bookings)
    cast.submit(cast.fixed(8, 60, 4), policy.bookings)
    done = cast.submit(cast.flexible(3, 1), policy.bookings)

    def go_on(context: Context, first: int, last: int) -> None:
        for half in range(first, last):
            now = start + half * 30 * MINUTE
            cycle.run(context, now)
            if half % 4 == 0:
                metering.run(context, now)

    go_on(context, 0, 7)
    with cast.database.read_only() as session:
        assert session.get_one(Booking, done).state is BookingState.SETTLED
        states = set(session.scalars(sa.select(Booking.state)))
        assert {BookingState.RUNNING, BookingState.CONFIRMED} <= states
    middle = books(cast.database)
    file, _ = backup.make(cast.database, tmp_path, start + 7 * 30 * MINUTE)
    end = 36 * 2
    go_on(context, 7, end + 1)
    whole = books(cast.database)
    assert whole != middle
    context.leader.release()

    backup.restore(cast.database, file, replace=True, now=start + end * 30 * MINUTE)
    assert books(cast.database) == middle
    assert problems(cast.database) == []
    restarted = simulation(cast.database, policy)
    now = start + end * 30 * MINUTE
    cycle.run(restarted, now)
    metering.run(restarted, now)
    restarted.leader.release()
    assert problems(cast.database) == []
    assert books(cast.database) == whole


def test_what_should_have_started_since_an_older_backup_counts_as_never_started(
    cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    """Nobody can tell any more whether it was used: a fixed booking whose time is over is closed and costs nothing."""
    context = simulation(cast.database, policy)
    id = cast.submit(cast.fixed(8, 1, 2), policy.bookings)
    file, _ = backup.make(cast.database, tmp_path, cast.now)
    cycle.run(context, cast.now + HOUR)
    cycle.run(context, cast.now + 3 * HOUR)
    metering.run(context, cast.now + 3 * HOUR)
    context.leader.release()
    backup.restore(cast.database, file, replace=True, now=cast.now + 4 * HOUR)
    restarted = simulation(cast.database, policy)
    cycle.run(restarted, cast.now + 4 * HOUR)
    metering.run(restarted, cast.now + 4 * HOUR)
    restarted.leader.release()
    with cast.database.read_only() as session:
        booking = session.get_one(Booking, id)
        assert (booking.state, booking.held_gpu_seconds, booking.charged_gpu_seconds) == (BookingState.FAILED, 0, 0)
    assert problems(cast.database) == []
