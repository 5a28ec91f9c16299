"""Reading a workload trace: one row per job, refused with file, line and reason when it cannot be what it says.

Columns: job_id, submit_s, gpus, runtime_s, walltime_request_s, enterprise, user. `runtime_s` is how long the job really
runs: only the simulated member who stops it may look at it.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("job_id", "submit_s", "gpus", "runtime_s", "walltime_request_s", "enterprise", "user")
LARGEST = 2**31
INSTANTS = ("submit_s", "announce_s")
DECIMAL = re.compile(r"\d+\.\d*")


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


@dataclass(frozen=True, slots=True)
class Booked:
    """A fixed booking: confirmed at `announce`, its hours [start, end)."""

    line: int
    id: str
    announce: int
    start: int
    end: int
    gpus: int


BOOKING_COLUMNS = ("booking_id", "announce_s", "start_s", "end_s", "gpus")


def read_bookings(path: Path) -> list[Booked]:
    """booking_id,announce_s,start_s,end_s,gpus per line, by announcement. Raises TraceError with the line."""
    found: list[Booked] = []
    seen: set[str] = set()
    try:
        with _open(path) as file:
            rows = csv.DictReader(file)
            missing = [name for name in BOOKING_COLUMNS if name not in (rows.fieldnames or [])]
            if missing:
                raise TraceError(f"{path}: line 1: missing column {', '.join(missing)}")
            for row in rows:
                line, id = rows.line_num, (row["booking_id"] or "").strip()
                numbers = {name: _whole(name, row[name]) for name in BOOKING_COLUMNS[1:]}
                wrong = next((number for number in numbers.values() if isinstance(number, str)), None)
                if wrong is not None:
                    raise TraceError(f"{path}: line {line}: {wrong}")
                announce, start, end, gpus = (int(number) for number in numbers.values())
                if not id or id in seen:
                    raise TraceError(f"{path}: line {line}: booking_id is {'empty' if not id else 'there twice'}")
                if not announce <= start < end or not gpus:
                    raise TraceError(f"{path}: line {line}: expected announce_s <= start_s < end_s and gpus above 0")
                seen.add(id)
                found.append(Booked(line, id, announce, start, end, gpus))
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: {reason}") from None
    return sorted(found, key=lambda one: (one.announce, one.line))


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


def _whole(name: str, text: str | None) -> int | str:
    """The number, or why it is none. An instant between two seconds counts as the later one."""
    text = (text or "").strip()
    try:
        number = int(text)
    except ValueError:
        if name not in INSTANTS or not DECIMAL.fullmatch(text):
            return f"{name} is not a whole number"
        number = math.ceil(float(text))
    if not 0 <= number < LARGEST:
        return f"{name} is out of range"
    return number


def _job(line: int, row: dict[str, str | None]) -> Job | BadRow:
    numbers: dict[str, int] = {}
    for name in ("submit_s", "gpus", "runtime_s", "walltime_request_s"):
        number = _whole(name, row[name])
        if isinstance(number, str):
            return BadRow(line, number)
        numbers[name] = number
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
