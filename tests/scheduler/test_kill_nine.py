"""kill -9 at any moment: the next process finishes what the last one began, and nothing happens twice.

The scheduler is a real process that notes each phase it enters and leaves; members book and stop meanwhile. A round
waits for a phase to begin, lets a random few milliseconds pass, kills, and reads from the note which phase was hit.
The test fails unless hand-over, record, charge and release were each hit.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from compute_portal import clock, verify
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.desk.models import Lease
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.usage.models import Charge, UsageRecord
from tests.cast import Cast
from tests.scheduler import process

ROUNDS = int(os.environ.get("ROUNDS", "3"))
NEEDED = ("hand-over", "record", "charge", "release")
OTHERS = ("write", "advance", "end", "place", "record-place", "instruction", "recovery", "standings")
MOST = ROUNDS + 40  # a phase lasts milliseconds: some kills come too late for it and count for another


class Members:
    """Book and stop without pause, as web processes do beside the scheduler."""

    def __init__(self, cast: Cast, policy: Policy) -> None:
        self.cast = cast
        self.policy = policy
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._live)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.done.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _live(self) -> None:
        try:
            while not self.done.wait(0.2):
                for _ in range(random.randint(1, 6)):
                    self.cast.submit(
                        self.cast.flexible(random.choice([1, 2, 3, 8])), self.policy.bookings, now=clock.now()
                    )
                self._end_some(older_than=1)
        except BaseException as error:
            self.error = error

    def _end_some(self, older_than: int) -> int:
        now = clock.now()
        with self.cast.database.read_only() as session:
            open_ones = session.execute(
                sa.select(Booking.id, Booking.state, Booking.started_at).where(
                    Booking.state.in_((BookingState.QUEUED, BookingState.STARTING, BookingState.RUNNING))
                )
            ).all()
        for id, state, started_at in open_ones:
            if state is BookingState.QUEUED:
                if older_than == 0 or random.random() < 0.02:
                    self._try(bookings.cancel, id)
            elif older_than == 0 or (started_at is not None and clock.seconds_between(started_at, now) > older_than):
                self._try(bookings.stop, id)
        return len(open_ones)

    def _try(self, verb: object, id: int) -> None:
        try:
            self.cast.database.transaction(
                lambda s: verb(s, id, by=self.cast.member, now=clock.now()).id  # type: ignore[operator]
            )
        except Refusal as refusal:
            if refusal.sentence.id not in ("booking-has-started", "booking-not-started", "no-such-move"):
                raise

    def end_all(self) -> None:
        """Everybody goes home: what waits is cancelled, what runs is stopped."""
        while self._end_some(older_than=0):
            time.sleep(0.2)


class Phases:
    """The note that the process leaves, read while it writes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._file.touch()
        self._from = 0

    def begin_round(self) -> None:
        self._from = self._file.stat().st_size

    def lines(self) -> list[str]:
        with self._file.open() as file:
            file.seek(self._from)
            return file.read().splitlines()

    def under_way(self) -> list[str]:
        """What was entered and not left, in all threads of the process."""
        open_ones: Counter[str] = Counter()
        for line in self.lines():
            what, name = line.split(" ", 1)
            open_ones[name] += 1 if what == "begin" else -1
        return [name for name, count in open_ones.items() if count > 0]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_in_every_phase_nothing_is_lost_and_nothing_is_double(
    database: Database, cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    process.award_from_today(cast)
    env = process.environment(database, tmp_path)
    phases = Phases(tmp_path / "phases")
    members = Members(cast, policy)
    hit: list[tuple[str, ...]] = []
    members.start()
    try:
        while len(hit) < MOST:
            missing = [name for name in NEEDED if not any(name in names for names in hit)]
            if len(hit) >= ROUNDS and not missing:
                break
            hit.append(_one_round(env, tmp_path, phases, missing[0] if missing else random.choice(NEEDED + OTHERS)))
    finally:
        members.stop()
    print(f"{database.engine.dialect.name}: {len(hit)} kills hit", Counter(name for names in hit for name in names))
    assert {name for names in hit for name in names} >= set(NEEDED)
    _finish(database, env, tmp_path, phases, members)
    with database.read_only() as session:
        assert [str(problem) for problem in verify.run(session)] == []
    _nothing_is_double(database, cast)


def _one_round(env: dict[str, str], folder: Path, phases: Phases, target: str) -> tuple[str, ...]:
    """Start it, kill it in the phase or soon after, and say which phases were under way."""
    phases.begin_round()
    running = process.start(env, folder)
    try:
        deadline = time.monotonic() + 30
        while f"begin {target}" not in phases.lines():
            assert running.poll() is None, (folder / "log").read_text()[-3000:]
            if time.monotonic() > deadline:
                break
            time.sleep(0.0005)
        time.sleep(random.choice([0, 0, random.uniform(0, 0.02)]))
    finally:
        running.kill()
        running.wait()
    return tuple(phases.under_way())


def _finish(database: Database, env: dict[str, str], folder: Path, phases: Phases, members: Members) -> None:
    """One last process works until nothing is open, and is stopped in order."""
    phases.begin_round()
    running: subprocess.Popen[bytes] = process.start(env, folder)
    try:
        members.end_all()
        deadline = time.monotonic() + 120
        while _open(database) or "end advance" not in phases.lines():
            assert running.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        running.terminate()
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()


def _open(database: Database) -> int:
    ends = (BookingState.SETTLED, BookingState.CANCELLED)
    with database.read_only() as session:
        count = sa.select(sa.func.count()).select_from(Booking).where(Booking.state.not_in(ends))
        return int(session.scalar(count) or 0)


def _nothing_is_double(database: Database, cast: Cast) -> None:
    """Every booking was handed over once, and charged for exactly the time it was granted."""
    with database.read_only() as session:
        rows = session.execute(
            sa.select(Attempt, Booking).join(Booking, Booking.id == Attempt.booking_id).order_by(Attempt.id)
        ).all()
        charged = {
            id: int(seconds)
            for id, seconds in session.execute(
                sa.select(UsageRecord.attempt_id, sa.func.sum(Charge.gpu_seconds))
                .join(Charge, Charge.usage_record_id == UsageRecord.id)
                .group_by(UsageRecord.attempt_id)
            )
        }
        leases = set(session.scalars(sa.select(Lease.key)))
        total = balance(session, cast.allocation)
    assert len({booking.id for _attempt, booking in rows}) == len(rows), "a booking was handed over twice"
    assert leases == {attempt.key for attempt, _booking in rows if attempt.handed_over_at is not None}
    due = {
        attempt.id: booking.gpus * clock.seconds_between(attempt.granted_at, attempt.ended_at)
        for attempt, booking in rows
        if attempt.granted_at is not None
    }
    assert charged == {id: seconds for id, seconds in due.items() if seconds}
    assert (total.used, total.held, total.overdraft) == (sum(due.values()), 0, 0)
    assert sum(due.values()) > 0
