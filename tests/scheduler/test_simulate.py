"""A trace through the real verbs: charged exactly, refused with reasons, and the database holds afterwards."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import gzip
import random
from pathlib import Path

import pytest
import sqlalchemy as sa

from compute_portal import verify
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.pools import queries as pool_queries
from compute_portal.pools.models import Pool
from compute_portal.statements.models import Statement
from compute_portal.usage.models import Charge
from scheduler import demo, simulate
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.trace import TraceError, read, read_shares

HEAD = "job_id,submit_s,gpus,runtime_s,walltime_request_s,enterprise,user\n"
JOBS = (
    "a,0,8,5400,7200,north,u1\n"  # stopped by its member after 90 minutes
    "b,60,16,90000,3600,south,u2\n"  # ended by its longest run
    "c,120,4,60,60,north,u3\n"  # as long as asked
    "d,130,12,30,86400,south,u2\n"  # waits for b, then runs half a minute
)
DUE = {"a": 8 * 5400, "b": 16 * 3600, "c": 4 * 60, "d": 12 * 30}


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def run(arguments: list[str], policy: Policy) -> int:
    return simulate.main(arguments, policy=policy)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(HEAD + JOBS)
    return path


@pytest.fixture
def empty(database: Database) -> Database:
    """A database without a table, as a bureau would make one."""
    with database.engine.begin() as connection:
        if database.is_postgresql:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
    if not database.is_postgresql:
        database.dispose()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database.url.database}{suffix}").unlink(missing_ok=True)
    return database


def test_fixed_bookings_beside_a_trace_start_on_time_and_are_charged_their_window(
    empty: Database, trace: Path, tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    out, booked = tmp_path / "out.csv", tmp_path / "bookings.csv"
    booked.write_text("booking_id,announce_s,start_s,end_s,gpus\nF1,100,7200,14400,8\nF2,100,7200,14400,8\n")
    options = ["--nodes", "2", "--gpus-per-node", "8", "--out", str(out), "--bookings", str(booked)]
    assert run([str(trace), "--database", url_of(empty), *options], policy) == 0
    said = capsys.readouterr().out
    assert "refused   1 bookings: fixed-share-full" in said  # no more than half of the pool in any hour
    assert "bookings  4; charged exactly gpus x min(runtime, walltime): 4" in said
    assert "fixed     1; started on time: 1; charged exactly gpus x window: 1" in said
    with empty.read_only() as session:
        assert list(verify.run(session)) == []
    with out.open(newline="") as file:
        assert [row["job_id"] for row in csv.DictReader(file)] == ["a", "b", "c", "d"]


def test_a_tenant_called_as_who_books_fixed_hours_is_refused_only_beside_fixed_bookings(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, booked = tmp_path / "trace.csv", tmp_path / "bookings.csv"
    trace.write_text(HEAD + "a,0,1,60,60,fixed,u1\n")
    booked.write_text("booking_id,announce_s,start_s,end_s,gpus\nF1,100,7200,14400,8\n")
    assert run([str(trace), "--bookings", str(booked)], policy) == 2
    assert "an enterprise is called 'fixed'" in capsys.readouterr().err
    assert run([str(trace), "--nodes", "1", "--database", f"sqlite:///{tmp_path}/new.sqlite"], policy) == 0


def test_every_job_is_charged_exactly_and_the_database_holds(
    empty: Database, trace: Path, tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    out, shares = tmp_path / "out.csv", tmp_path / "shares.csv"
    shares.write_text("north,3\nsouth,1\n")
    options = ["--nodes", "2", "--gpus-per-node", "8", "--out", str(out), "--shares", str(shares)]
    assert run([str(trace), "--database", url_of(empty), *options], policy) == 0
    said = capsys.readouterr().out
    assert "bookings  4; charged exactly gpus x min(runtime, walltime): 4" in said
    with empty.read_only() as session:
        charged = dict(
            session.execute(
                sa.select(Booking.title, sa.func.sum(Charge.gpu_seconds))
                .join(Charge, Charge.booking_id == Booking.id)
                .group_by(Booking.title)
            ).all()
        )
        assert charged == DUE
        assert set(session.scalars(sa.select(Booking.state))) == {BookingState.SETTLED}
        assert set(session.scalars(sa.select(Statement.gpu_seconds))) == {DUE["a"] + DUE["c"], DUE["b"] + DUE["d"]}
        assert verify.run(session) == []
    with out.open() as file:
        rows = {row["job_id"]: row for row in csv.DictReader(file)}
    assert (rows["a"]["start_s"], rows["a"]["end_s"]) == ("0", "5400")
    assert all(sum(int(n.split(":")[1]) for n in row["nodes"].split(";")) for row in rows.values())


def test_rows_that_are_no_jobs_are_refused_with_line_and_reason(
    empty: Database, tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        HEAD + "a,0,1,60,60,north,u\n" + "a,0,1,60,60,north,u\n" + "b,x,1,60,60,north,u\n" + "c,0,0,60,60,north,u\n"
        "d,0,1,60,0,north,u\n" + "e,0,1,60,60,,u\n" + "f,-1,1,60,60,north,u\n" + "g,0,99,60,60,north,u\n"
    )
    assert run([str(path), "--database", url_of(empty), "--nodes", "2", "--gpus-per-node", "8"], policy) == 0
    said = capsys.readouterr().out
    for line, reason in (
        (3, "job_id appears twice"),
        (4, "submit_s is not a whole number"),
        (5, "gpus is 0"),
        (6, "walltime_request_s is 0"),
        (7, "enterprise is empty or too long"),
        (8, "submit_s is out of range"),
    ):
        assert f"line {line}: {reason}" in said
    assert "1 bookings: more-than-the-pool" in said
    assert "bookings  1;" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "missing column job_id"),
        ("job_id,submit_s\n1,2\n", "missing column gpus"),
        (HEAD, "no job in it"),
    ],
)
def test_a_trace_that_cannot_be_used_is_one_line_and_exit_code_2(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    assert run([str(path), "--database", f"sqlite:///{tmp_path}/new.sqlite"], policy) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_a_missing_file_a_broken_archive_and_bad_shares_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "nowhere.csv")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(TraceError, match=r"broken\.csv\.gz"):
        read(broken)
    shares = tmp_path / "shares.csv"
    shares.write_text("north,3\nsouth,-1\n")
    with pytest.raises(TraceError, match="line 2"):
        read_shares(shares)


def test_a_database_that_holds_something_is_left_alone(
    database: Database, trace: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(trace), "--database", url_of(database)], policy) == 2
    assert "this database is not empty" in capsys.readouterr().err
    with database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Booking)) == 0


def test_the_demo_city_has_life_and_holds(database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = tuple(dataclasses.replace(plan, nodes=128, bookings_a_day=1.5, sizes=(8, 16)) for plan in demo.POOLS)
    monkeypatch.setattr(demo, "POOLS", quiet)
    assert demo.is_empty(database)
    # In the middle of a morning, and at ten to two at night, when all that some firm has left is held.
    hour, minute = (17, 52) if database.is_postgresql else (3, 0)
    demo.build(database, policy, dt.datetime(2026, 11, 5, hour, minute, tzinfo=dt.UTC))
    assert not demo.is_empty(database)
    with database.read_only() as session:
        states = set(session.scalars(sa.select(Booking.state)))
        assert {BookingState.SETTLED, BookingState.SUBMITTED} <= states
        assert {month for month in session.scalars(sa.select(Statement.month))} == {"2026-10", "2026-11"}
        assert verify.run(session) == []


def a_crowded_day(seed: int) -> str:
    """More than sixteen GPUs can do; most end before their longest run, some at the same second."""
    chance = random.Random(seed)
    at, rows = 0, []
    for n in range(90):
        at += chance.choice((0, 1, 40, 300))
        walltime = chance.choice((600, 1_800, 7_200))
        runtime = chance.choice((60, walltime // 2, walltime, 2 * walltime))
        rows.append(f"j{n},{at},{chance.choice((1, 1, 2, 4, 8, 12))},{runtime},{walltime},firm{n % 3},u\n")
    return HEAD + "".join(rows)


def test_what_the_engine_remembers_of_a_pool_is_what_the_database_says(
    empty: Database, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its picture across the ends that it brought about."""
    see = EmbeddedEngine._see
    kept = []

    def see_and_compare(
        engine: EmbeddedEngine, session: object, pool_id: int, queue: object, version: int, now: dt.datetime
    ) -> object:
        before = queue.seen  # type: ignore[attr-defined]
        seen = see(engine, session, pool_id, queue, version, now)  # type: ignore[arg-type]
        kept.append(seen is before)
        with engine._database.read_only() as fresh:
            true = pool_queries.load_availability(fresh, fresh.get_one(Pool, pool_id), now)
        second = int(now.timestamp())
        for end in (second + 1, second + 3_600, second + 172_800):
            assert seen.availability.free_masks(second, end).tolist() == true.free_masks(second, end).tolist(), now
        return seen

    monkeypatch.setattr(EmbeddedEngine, "_see", see_and_compare)
    trace = tmp_path / "crowded.csv"
    trace.write_text(a_crowded_day(seed=2 if empty.is_postgresql else 1))
    assert run([str(trace), "--nodes", "2", "--database", url_of(empty)], policy) == 0
    assert sum(kept) > 40, "it hardly ever kept its picture: nothing was tested"
