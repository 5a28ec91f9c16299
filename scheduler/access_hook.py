"""The operator's grant/revoke command: one argv without a shell, JSON on its standard input, the exit code its answer.

{"action": "grant" | "revoke", "key": …, "nodes": [{"node": …, "gpus": [0, 1]}], "members": [SSH public keys],
 "until": ISO 8601 or null}

It may be called again with the same key and must then do the same again. Calls run in a few threads outside any
transaction, so that a slow node does not keep other bookings waiting; for one key they run one after the other.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)
THREADS = 8


@dataclass(frozen=True, slots=True)
class Call:
    action: str  # "grant" or "revoke"
    key: str
    attempt_id: int
    nodes: Sequence[dict[str, Any]]
    members: Sequence[str]
    until: dt.datetime | None

    def to_json(self) -> str:
        return json.dumps(
            {
                "action": self.action,
                "key": self.key,
                "nodes": list(self.nodes),
                "members": list(self.members),
                "until": None if self.until is None else self.until.isoformat(),
            }
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` is None when the command did it. `at` is when it answered."""

    call: Call
    at: dt.datetime
    error: str | None


class AccessHook:
    """`ask` starts a call unless one for its key is under way; `answers` gives those that came back."""

    def __init__(
        self, argv: Sequence[str], *, seconds: float, clock: Callable[[], dt.datetime], patience: float = 1.0
    ) -> None:
        self._argv = list(argv)
        self._seconds = seconds
        self._clock = clock
        self._patience = patience
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="access")
        self._under_way: dict[str, Future[Answer]] = {}

    def ask(self, call: Call) -> None:
        if call.key not in self._under_way:
            self._under_way[call.key] = self._threads.submit(self._run, call)

    def answers(self) -> list[Answer]:
        """What came back; waits a moment, so that a quick command is answered in the cycle that asked."""
        if not self._under_way:
            return []
        wait(self._under_way.values(), timeout=self._patience)
        done = {key: future for key, future in self._under_way.items() if future.done()}
        for key in done:
            del self._under_way[key]
        return [future.result() for future in done.values()]

    def close(self) -> None:
        """Wait for what runs, at most its time limit; start nothing more."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, call: Call) -> Answer:
        error = self._execute(call)
        if error is not None:
            log.error("access hook failed", extra={"action": call.action, "key": call.key, "error": error})
        return Answer(call, self._clock(), error)

    def _execute(self, call: Call) -> str | None:
        """None, or what went wrong. The command sees nothing of our settings: they hold secrets."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        try:
            with subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process:
                try:
                    _, complaint = process.communicate(call.to_json(), timeout=self._seconds)
                except subprocess.TimeoutExpired:
                    # With all it started: a child that holds the pipe would keep us waiting.
                    os.killpg(process.pid, signal.SIGKILL)
                    return f"no answer within {self._seconds:g} s"
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        if process.returncode != 0:
            return f"exit code {process.returncode}: {complaint.strip()[-200:]}"
        return None
