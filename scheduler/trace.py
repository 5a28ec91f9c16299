"""Reading a workload trace: one row per job, refused with file, line and reason when it cannot be what it says.

Columns: job_id, submit_s, gpus, runtime_s, walltime_request_s, enterprise, user. `runtime_s` is how long the job really
runs: only the simulated member who stops it may look at it.
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("job_id", "submit_s", "gpus", "runtime_s", "walltime_request_s", "enterprise", "user")
LARGEST = 2**31


class TraceError(Exception):
    """The file cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """Seconds since the first submit; `line` is where it stands in the file."""

    line: int
    id: str
    submit: int
    gpus: int
    runtime: int
    walltime: int
    enterprise: str
    user: str


@dataclass(frozen=True, slots=True)
class BadRow:
    line: int
    reason: str


def read(path: Path) -> tuple[list[Job], list[BadRow]]:
    """Jobs in order of submission (then of the file), and the rows that are none. Raises TraceError."""
    jobs: list[Job] = []
    bad: list[BadRow] = []
    seen: set[str] = set()
    try:
        with _open(path) as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or [])]
            if missing:
                raise TraceError(f"{path}: line 1: missing column {', '.join(missing)}")
            for row in rows:
                job = _job(rows.line_num, row)
                if isinstance(job, BadRow):
                    bad.append(job)
                elif job.id in seen:
                    bad.append(BadRow(rows.line_num, "job_id appears twice"))
                else:
                    seen.add(job.id)
                    jobs.append(job)
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: {reason}") from None
    jobs.sort(key=lambda job: (job.submit, job.line))
    return jobs, bad


def read_shares(path: Path) -> dict[str, int]:
    """enterprise,share per line. Raises TraceError with the line."""
    shares: dict[str, int] = {}
    try:
        with _open(path) as file:
            for line, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                if len(row) != 2 or not row[1].strip().isdigit() or not 0 < int(row[1]) < LARGEST:
                    raise TraceError(f"{path}: line {line}: expected enterprise,share with a whole share above 0")
                shares[row[0].strip()] = int(row[1])
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: {reason}") from None
    return shares


def _open(path: Path) -> io.TextIOWrapper:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8")
    return path.open(newline="", encoding="utf-8")


def _job(line: int, row: dict[str, str | None]) -> Job | BadRow:
    numbers: dict[str, int] = {}
    for name in ("submit_s", "gpus", "runtime_s", "walltime_request_s"):
        text = (row[name] or "").strip()
        try:
            numbers[name] = int(text)
        except ValueError:
            return BadRow(line, f"{name} is not a whole number")
        if not 0 <= numbers[name] < LARGEST:
            return BadRow(line, f"{name} is out of range")
    if not numbers["gpus"]:
        return BadRow(line, "gpus is 0")
    if not numbers["walltime_request_s"]:
        return BadRow(line, "walltime_request_s is 0")
    words = {name: (row[name] or "").strip() for name in ("job_id", "enterprise", "user")}
    for name, word in words.items():
        if not word or len(word) > 60:
            return BadRow(line, f"{name} is empty or too long")
    return Job(
        line, words["job_id"], numbers["submit_s"], numbers["gpus"], numbers["runtime_s"],
        numbers["walltime_request_s"], words["enterprise"], words["user"],
    )  # fmt: skip
