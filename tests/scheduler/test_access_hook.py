"""The grant/revoke command: what it is told, and what happens when it is slow, wrong or gone."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.bookings import attempts
from compute_portal.bookings import service as bookings
from compute_portal.bookings.states import AttemptOutcome, BookingState
from compute_portal.signin.models import SshKey
from compute_portal.usage.models import UsageRecord
from scheduler import cycle
from scheduler.access_hook import AccessHook, Call
from scheduler.engines.embedded import EmbeddedEngine
from scheduler.planning.rules import Rules
from tests.cast import HOUR, NOW
from tests.scheduler.conftest import Town

MINUTE = dt.timedelta(minutes=1)
# Notes what it was told, then does what the file beside it says for this action: nothing, fail, or hang.
HOOK = """
import json, os, sys, time
folder = sys.argv[1]
told = json.load(sys.stdin)
told["environment"] = sorted(name for name in os.environ if name.startswith("PORTAL_"))
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write(json.dumps(told) + "\\n")
behaviour = os.path.join(folder, told["action"])
if os.path.exists(behaviour):
    how = open(behaviour).read()
    if how == "hang":
        time.sleep(60)
    sys.exit(how)
"""


class Hook:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "hook.py"
        script.write_text(HOOK)
        self.argv = [sys.executable, str(script), str(folder)]

    def will(self, action: str, how: str | None) -> None:
        file = self.folder / action
        if how is None:
            file.unlink()
        else:
            file.write_text(how)

    @property
    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def told(self) -> list[tuple[str, str]]:
        return [(call["action"], call["key"]) for call in self.calls]


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    folder = tmp_path / "hook"
    folder.mkdir()
    return Hook(folder)


class MovedClock:
    """What the hook's answers are stamped with: the test's instant, not the wall clock."""

    now = NOW

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def time_now() -> MovedClock:
    return MovedClock()


@pytest.fixture
def hooked(town: Town, hook: Hook, time_now: MovedClock) -> Callable[[dt.datetime], list[int]]:
    """Runs a round at an instant; a hook that answers at all answers within it."""
    town.context.access = AccessHook(hook.argv, seconds=15, clock=time_now, patience=30)

    def run(now: dt.datetime) -> list[int]:
        time_now.now = now
        return cycle.run(town.context, now).started

    return run


def answer_of(argv: list[str], seconds: float = 15, **call: Any) -> str | None:
    hook = AccessHook(argv, seconds=seconds, clock=clock.now, patience=30)
    hook.ask(
        Call(**({"action": "grant", "key": "k", "attempt_id": 1, "nodes": [], "members": [], "until": None} | call))
    )
    (answer,) = hook.answers()
    hook.close()
    return answer.error


def test_the_command_is_told_everything_on_its_standard_input_and_none_of_our_secrets(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_SECRET_KEY", "nobody may know")
    nodes = [{"node": "h800-n001", "gpus": [0, 1]}]
    assert answer_of(hook.argv, key="booking-5-1", nodes=nodes, members=["ssh-ed25519 AAA"], until=NOW) is None
    assert hook.calls == [
        {
            "action": "grant",
            "key": "booking-5-1",
            "nodes": nodes,
            "members": ["ssh-ed25519 AAA"],
            "until": "2026-11-18T02:00:00+00:00",
            "environment": [],
        }
    ]


def test_what_it_complains_about_is_the_error(hook: Hook) -> None:
    hook.will("grant", "node does not answer")
    assert answer_of(hook.argv) == "exit code 1: node does not answer"


def test_a_command_that_cannot_be_started_is_an_error() -> None:
    assert answer_of(["/nowhere/hook"]) == "cannot be started: No such file or directory"


def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    argv = ["/bin/sh", "-c", f"sleep 60 & echo $! > {pid}; wait"]
    begun = time.monotonic()
    assert answer_of(argv, seconds=0.5) == "no answer within 0.5 s"
    assert time.monotonic() - begun < 10
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(int(pid.read_text())):
        time.sleep(0.05)
    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_key_is_asked_for_once_at_a_time(hook: Hook) -> None:
    access = AccessHook(hook.argv, seconds=15, clock=clock.now, patience=30)
    call = Call("grant", "k", 1, [], [], None)
    access.ask(call)
    access.ask(call)
    assert len(access.answers()) == 1
    access.ask(call)
    assert len(access.answers()) == 1
    access.close()
    assert hook.told() == [("grant", "k")] * 2


# -- in the cycle -----------------------------------------------------------------------------------------------------


def test_access_is_granted_with_the_keys_of_the_members_and_revoked_at_the_end(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]
) -> None:
    now, cast = town.cast.now, town.cast

    def keys(session: Any) -> None:
        for name, removed in (("lin", None), ("chen", None), ("chen", now), ("mei", None)):
            session.add(
                SshKey(
                    user_id=cast.users[name],
                    name=name,
                    public_key=f"ssh-ed25519 {name}{'-old' if removed else ''}",
                    fingerprint=f"{name}{removed}",
                    added_at=now,
                    removed_at=removed,
                )
            )

    cast.database.transaction(keys)
    id = town.flexible(gpus=2, hours=1)
    assert hooked(now) == [id]
    assert town.attempt(id).granted_at == now
    hooked(now + HOUR)
    grant, revoke = hook.calls
    assert (grant["action"], grant["members"]) == ("grant", ["ssh-ed25519 lin", "ssh-ed25519 chen"])
    assert grant["nodes"] == [{"node": "h800-n001", "gpus": [0, 1]}]
    assert grant["until"] == (now + HOUR).isoformat()
    assert (revoke["action"], revoke["key"], revoke["nodes"]) == ("revoke", grant["key"], grant["nodes"])
    assert all(row.released_at == now + HOUR for row in town.occupancies(id))
    town.meter(now + HOUR)
    assert town.charged(id) == 2 * 3600


def test_what_is_not_granted_is_not_charged(town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]) -> None:
    now = town.cast.now
    hook.will("grant", "no")
    id = town.flexible(gpus=2, hours=1)
    assert hooked(now) == []
    assert town.state(id) is BookingState.STARTING
    assert town.meter(now + 2 * HOUR) == 0
    hook.will("grant", None)
    assert hooked(now + 30 * MINUTE) == [id]
    hooked(now + HOUR)
    town.meter(now + HOUR)
    assert town.charged(id) == 2 * 30 * 60  # from when people were let in
    with town.cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.min(UsageRecord.starts_at))) == now + 30 * MINUTE


def test_access_that_cannot_be_given_fails_the_attempt_and_in_the_end_the_booking(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]
) -> None:
    now = town.cast.now
    hook.will("grant", "no")
    id = town.flexible(gpus=32, hours=5)
    for minute in range(3):
        hooked(now + minute * MINUTE)
    assert town.attempts(id)[0].outcome is AttemptOutcome.FAILED
    assert town.attempts(id)[0].reason == {"id": "hook-failed", "tries": 3}
    assert town.attempts(id)[0].grant_tries == 3
    for minute in range(3, 12):
        hooked(now + minute * MINUTE)
    assert town.state(id) is BookingState.FAILED
    assert town.balance().held == 0
    # What may have been given half-way was taken back each time.
    assert [told for told in hook.told() if told[0] == "revoke"] == [
        ("revoke", f"booking-{id}-{number}") for number in (1, 2, 3)
    ]
    hook.will("grant", None)
    other = town.flexible(gpus=32, hours=1, now=now + HOUR)
    assert hooked(now + HOUR) == [other]


def test_gpus_whose_access_cannot_be_taken_back_stay_out_of_service(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]
) -> None:
    now = town.cast.now
    id = town.flexible(gpus=8, hours=1)
    hooked(now)
    hook.will("revoke", "node does not answer")
    town.flexible(gpus=32, hours=1)
    assert hooked(now + HOUR) == []
    assert town.state(id) is BookingState.FINISHED
    assert town.attempt(id).revoke_failed_at == now + HOUR
    assert all(row.stuck_at == now + HOUR and row.released_at is None for row in town.occupancies(id))
    three_nodes = town.flexible(gpus=24, hours=1, now=now + HOUR)
    assert three_nodes in hooked(now + 5 * HOUR)  # hours later still only three nodes
    hooked(now + 6 * HOUR)
    hook.will("revoke", None)
    hooked(now + 6 * HOUR + MINUTE)
    hooked(now + 6 * HOUR + 2 * MINUTE)
    assert all(row.stuck_at is None and row.released_at for row in town.occupancies(id))
    town.meter(now + 8 * HOUR)
    assert town.charged(id) == 8 * 3600  # the trouble is not the enterprise's


def test_nobody_is_let_onto_gpus_before_the_last_one_is_out(town: Town, hook: Hook, time_now: MovedClock) -> None:
    now = town.cast.now
    town.context.access = AccessHook(hook.argv, seconds=15, clock=time_now, patience=0)
    first, second = town.flexible(gpus=32, hours=1), town.flexible(gpus=32, hours=1)
    _until(lambda: first in cycle.run(town.context, now).started)
    (hook.folder / "hook.py").write_text("import time; time.sleep(3)\n" + HOOK)
    end = now + HOUR
    cycle.run(town.context, end)  # the command was asked and has not answered
    assert town.state(first) is BookingState.FINISHED
    assert town.state(second) is BookingState.QUEUED
    _until(lambda: cycle.run(town.context, end + MINUTE) and town.state(second) is not BookingState.QUEUED)
    assert ("revoke", f"booking-{first}-1") in hook.told()


def test_a_fixed_booking_is_not_let_onto_gpus_that_somebody_still_has(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]
) -> None:
    now = town.cast.now
    fixed = town.fixed(gpus=16, start_in=1, hours=2)
    flexible = town.flexible(gpus=32, hours=1)
    hooked(now)
    hook.will("revoke", "node does not answer")
    assert hooked(now + HOUR) == []
    assert town.state(fixed) is BookingState.CONFIRMED
    hook.will("revoke", None)
    assert hooked(now + HOUR + MINUTE) == [fixed]
    assert town.state(flexible) is BookingState.FINISHED


def test_stopping_while_access_is_being_given_charges_nothing_and_takes_it_back(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]]
) -> None:
    now = town.cast.now
    hook.will("grant", "no")
    id = town.flexible(gpus=2, hours=1)
    hooked(now)
    town.cast.database.transaction(lambda s: bookings.stop(s, id, by=town.cast.member, now=now).id)
    hooked(now + MINUTE)
    assert town.state(id) is BookingState.FINISHED
    assert hook.told()[-1] == ("revoke", f"booking-{id}-1")
    town.meter(now + HOUR)
    assert (town.state(id), town.charged(id)) == (BookingState.SETTLED, 0)


def test_a_grant_that_was_cut_off_by_a_crash_is_asked_for_again(
    town: Town, hook: Hook, hooked: Callable[[dt.datetime], list[int]], break_after: Callable[..., None]
) -> None:
    now = town.cast.now
    id = town.flexible(gpus=2, hours=1)
    break_after(attempts, "granted")
    with pytest.raises(BaseException, match="granted"):
        hooked(now)
    town.context.engine = EmbeddedEngine(town.cast.database, town.context.leader, Rules())
    assert hooked(now + MINUTE) == [id]
    assert hook.told() == [("grant", f"booking-{id}-1")] * 2


def _until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
