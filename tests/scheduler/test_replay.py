"""`python -m scheduler replay`: the command, its files and what it refuses."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from compute_portal.policy import Policy
from scheduler import replay
from scheduler.trace import COLUMNS

HEAD = ",".join(COLUMNS) + "\n"


def run(arguments: list[str], policy: Policy, out: Path, nodes: int = 2, gpus: int = 4) -> int:
    size = ["--nodes", str(nodes), "--gpus-per-node", str(gpus)]
    return replay.main([*arguments, *size, "--out", str(out)], policy=policy)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, *lines: str) -> str:
    path.write_text(HEAD + "".join(line + "\n" for line in lines))
    return str(path)


def generated(path: Path, jobs: int = 150) -> str:
    chance = random.Random(3)
    at, lines = 0, []
    for number in range(jobs):
        at += chance.randrange(60)
        asks = chance.randrange(60, 2_000)
        lines.append(
            f"j{number},{at},{chance.choice((1, 1, 2, 4, 8))},{chance.randrange(asks + 60)},{asks},t{number % 3},u"
        )
    return write(path, *lines)


def test_jobs_start_as_easy_says_and_run_as_long_as_they_really_do(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(
        tmp_path / "trace.csv",
        "a,0,6,100,200,north,u",
        "head,10,8,50,100,north,u",
        "long,20,2,500,500,south,u",  # would be in the head's way at 200
        "short,30,2,60,150,south,u",
        "stopped,400,1,900,30,south,u",
    )
    assert run([trace, "--policy", "fifo", "--backfill", "easy"], policy, tmp_path / "out.csv") == 0
    told = {row["job_id"]: (int(row["start_s"]), int(row["end_s"])) for row in rows(tmp_path / "out.csv")}
    assert told == {"a": (0, 100), "short": (30, 90), "head": (100, 150), "long": (150, 650), "stopped": (400, 430)}
    said = capsys.readouterr().out
    assert "5 started; 0 larger than the pool left out" in said
    assert "jobs/s" in said
    assert run([trace, "--policy", "fifo", "--backfill", "none"], policy, tmp_path / "out.csv") == 0
    assert {row["job_id"]: row["start_s"] for row in rows(tmp_path / "out.csv")}["short"] == "150"


@pytest.mark.parametrize("order", ["fifo", "sjf", "saf", "fair-tree", "small-first"])
def test_a_replay_repeats_itself_and_names_the_nodes_of_a_packed_pool(
    tmp_path: Path, policy: Policy, order: str
) -> None:
    trace = generated(tmp_path / "trace.csv")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    for out in (first, second):
        assert run([trace, "--packed", "--policy", order], policy, out) == 0
    assert first.read_bytes() == second.read_bytes()
    found = rows(first)
    assert len(found) == 150
    assert {len(row["nodes"].split(";")) for row in found} == {1, 2}


def test_a_job_larger_than_the_pool_is_left_out_and_counted(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(tmp_path / "trace.csv", "a,0,9,10,10,north,u", "b,0,8,10,10,north,u")
    assert run([trace], policy, tmp_path / "out.csv") == 0
    assert [row["job_id"] for row in rows(tmp_path / "out.csv")] == ["b"]
    assert "1 larger than the pool left out" in capsys.readouterr().out


def test_a_fixed_booking_starts_on_time_whatever_waits_or_is_refused_by_name(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(
        tmp_path / "trace.csv", "runs,0,8,100,100,north,u", "waits,5,8,300,300,north,u", "c,5,1,90,90,north,u"
    )
    booked = tmp_path / "bookings.csv"
    booked.write_text("booking_id,announce_s,start_s,end_s,gpus\nB1,2,200,250,4\nB2,3,50,60,1\n")
    for packed in ([], ["--packed"]):
        arguments = [trace, "--policy", "fifo", "--backfill", "easy", "--bookings", str(booked), *packed]
        assert run(arguments, policy, tmp_path / "out.csv") == 0
        assert {row["job_id"]: row["start_s"] for row in rows(tmp_path / "out.csv")} == {
            "runs": "0", "c": "100", "waits": "250",
        }  # fmt: skip
        said = capsys.readouterr().out
        assert "booking B2: no room for 1 GPUs when it was announced" in said
        assert "1 refused for want of room" in said


def test_rows_that_are_no_jobs_end_it_with_file_line_and_reason(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write(tmp_path / "trace.csv", "a,0,1,60,60,north,u", "b,0,none,60,60,north,u", "a,1.5,1,60,60,north,u")
    assert run([trace], policy, tmp_path / "out.csv") == 2
    said = capsys.readouterr().err
    assert f"replay: {trace}: line 3: gpus is not a whole number\n" in said
    assert f"replay: {trace}: line 4: job_id appears twice\n" in said
    assert not (tmp_path / "out.csv").exists()


def test_a_submission_between_two_seconds_counts_as_the_later_one(tmp_path: Path, policy: Policy) -> None:
    trace = write(tmp_path / "trace.csv", "a,1.25,1,60,60,north,u")
    assert run([trace], policy, tmp_path / "out.csv") == 0
    assert rows(tmp_path / "out.csv") == [{"job_id": "a", "start_s": "2", "end_s": "62"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("booking_id,announce_s,start_s,end_s\n", "line 1: missing column gpus"),
        ("booking_id,announce_s,start_s,end_s,gpus\nB,0,9,9,1\n", "line 2: expected announce_s <= start_s < end_s"),
        ("booking_id,announce_s,start_s,end_s,gpus\nB,0,1,9,x\n", "line 2: gpus is not a whole number"),
        ("booking_id,announce_s,start_s,end_s,gpus\nB,0,1,9,1\nB,0,1,9,1\n", "line 3: booking_id is there twice"),
    ],
)
def test_bookings_that_are_none_end_it_with_file_line_and_reason(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    trace = write(tmp_path / "trace.csv", "a,0,1,60,60,north,u")
    booked = tmp_path / "bookings.csv"
    booked.write_text(text)
    assert run([trace, "--bookings", str(booked)], policy, tmp_path / "out.csv") == 2
    assert f"replay: {booked}: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("cycle_seconds=1", "expected KNOB=VALUE with one of"),
        ("fair_heads", "expected KNOB=VALUE with one of"),
        ("fair_heads=many", "--set fair_heads: "),
        ("promise_share=2", "--set promise_share: "),
    ],
)
def test_a_knob_that_is_none_or_a_value_it_cannot_have_is_named(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str], setting: str, sentence: str
) -> None:
    trace = write(tmp_path / "trace.csv", "a,0,1,60,60,north,u")
    assert run([trace, "--set", setting], policy, tmp_path / "out.csv") == 2
    assert sentence in capsys.readouterr().err


def test_a_knob_that_is_set_changes_the_order(tmp_path: Path, policy: Policy) -> None:
    # `large` is overdue after 48 h: with a shorter promise it comes before the small ones that keep coming.
    lines = ["large,0,8,600,600,north,u", *(f"s{n},{n * 50},1,900,900,south,u" for n in range(400))]
    trace = write(tmp_path / "trace.csv", "first,0,1,900,900,south,u", *lines)
    told = []
    for arguments in ([], ["--set", "promise_hours=0.5", "--set", "promise_share=1"]):
        fixed = ["--policy", "small-first", "--set", "fair_heads=0", "--set", "overuse_power=0"]
        assert run([trace, *fixed, *arguments], policy, tmp_path / "out.csv") == 0
        told.append(next(int(row["start_s"]) for row in rows(tmp_path / "out.csv") if row["job_id"] == "large"))
    assert told[1] <= 3_600 < told[0]
