"""The house as it stands in production: gunicorn and `python -m scheduler` as processes, a town to live in it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from compute_portal import clock, units
from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.signin.passwords import hash_password
from scheduler.town import Town

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a lantern by the harbour"
WITHIN_SECONDS = 30
# What the tests' scheduler does more often than production's, so that nobody waits.
HURRY = {"cycle_seconds": 1, "standings_seconds": 1, "pass_seconds": 2}


def build_town(database: Database) -> Town:
    """A pool with a price, a programme with hours, a start-up with nothing yet. It opened with this month."""
    now = clock.now()
    town = Town(database, clock.month_bounds(clock.month_of(now))[0])
    password = hash_password(PASSWORD)
    town.official(Role.OPERATOR, "zhou@bureau.test", "周予安", "Zhou Yu’an", password)
    town.official(Role.FINANCE, "he@bureau.test", "何立群", "He Liqun", password)
    town.official(Role.AUDITOR, "xu@bureau.test", "徐静", "Xu Jing", password)
    town.official(Role.ADMIN, "an@bureau.test", "安然", "An Ran", password)
    people = [("lin@yusheng.test", "林晓禾", "Lin Xiaohe"), ("chen@yusheng.test", "陈屹", "Chen Yi")]
    town.firm("yusheng", "屿声科技", "Yusheng Voice", people, password_hash=password)
    town.pool("H800", model="NVIDIA H800", tflops=989, watts=700, nodes=4, gpus_per_node=8, yuan="16.50")
    town.programme(
        "sme", "中小企业算力扶持计划", "SME compute programme", pools=["H800"],
        gpu_seconds=units.gpu_seconds(1_000_000),
        ends_on=clock.day_of(now).replace(year=clock.day_of(now).year + 1, day=1),
        most_gpu_seconds=units.gpu_seconds(150_000), booking_approval_gpu_seconds=units.gpu_seconds(2_000),
    )  # fmt: skip
    return town


def award(town: Town, hours: int) -> int:
    """The start-up's allocation, for tests that begin after that step."""
    today = clock.day_of(clock.now())
    id = town.ask(
        "yusheng", "sme", "H800", units.gpu_seconds(hours), purpose="训练一个方言语音识别基座模型。", starts_on=today,
        ends_on=today.replace(year=today.year + 1, day=1), now=clock.now(),
    )  # fmt: skip
    town.award("yusheng", "H800", id, units.gpu_seconds(hours), "", clock.now())
    return id


@dataclass
class House:
    """The running processes. `host` is where the web process answers."""

    database: Database
    town: Town
    folder: Path
    host: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def open(self) -> None:
        """Start the web process and wait until it answers."""
        self.host = f"127.0.0.1:{_free_port()}"
        self._start("web", ["-m", "gunicorn", "-c", "config/gunicorn.py", "wsgi:app"], PORTAL_BIND=self.host)
        self._wait("healthz")

    def start_scheduler(self) -> None:
        """Start it and wait until its heartbeat is seen, as an operator would."""
        self._start("scheduler", ["-m", "scheduler"])
        self._wait("readyz")

    def close(self) -> dict[str, int]:
        """SIGTERM to each, in their own time. Returns their exit codes."""
        for process in self.processes.values():
            process.terminate()
        try:
            return {name: process.wait(WITHIN_SECONDS) for name, process in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()

    def log_of(self, name: str) -> str:
        """The end of what the process said."""
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def _start(self, name: str, arguments: list[str], **more: str) -> None:
        environ = {
            **os.environ,
            "PORTAL_ENV": "test",
            "PORTAL_SECRET_KEY": "only for this test, " * 3,
            "PORTAL_DATABASE_URL": self.database.url.render_as_string(hide_password=False),
            "PORTAL_PUBLIC_URL": self.address,
            "PORTAL_POLICY_FILE": str(self._policy_file()),
            "PORTAL_WEB_WORKERS": "1",
            **more,
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    def _policy_file(self) -> Path:
        text = (ROOT / "config" / "policy.toml").read_text()
        for name, seconds in HURRY.items():
            text, changed = re.subn(rf"^{name} = \d+", f"{name} = {seconds}", text, flags=re.MULTILINE)
            assert changed == 1, name
        file = self.folder / "policy.toml"
        file.write_text(text)
        return file

    def _wait(self, page: str) -> None:
        for _ in seconds(WITHIN_SECONDS):
            for name, process in self.processes.items():
                assert process.poll() is None, f"the {name} process ended by itself:\n{self.log_of(name)}"
            if _answers(self.host, f"/{page}"):
                return
        raise AssertionError(
            f"/{page} was not well within {WITHIN_SECONDS} s:\n{self.log_of(next(reversed(self.processes)))}"
        )


def seconds(most: float, step: float = 0.1) -> Iterator[float]:
    """Something to loop over while waiting: gives a turn every `step` seconds until `most` are over."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < most:
        yield passed
        time.sleep(step)


def _answers(host: str, page: str) -> bool:
    connection = http.client.HTTPConnection(host, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", page)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
