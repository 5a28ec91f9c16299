"""The running house, a town to live in it, and the mail it sends."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

from flask import Flask
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from compute_portal import clock, units
from compute_portal.access import Role
from compute_portal.app import create_app
from compute_portal.db import Database
from compute_portal.policy import load_policy
from compute_portal.signin import service as signin
from compute_portal.signin.passwords import hash_password
from compute_portal.signin.queries import find_by_email
from config.settings import Settings
from scheduler import mail, reviews
from scheduler.context import Context, simulation
from scheduler.post import post_of
from scheduler.town import Town
from tests.mailbox import Mailbox, text_of
from tests.web import set_now

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config" / "policy.toml"
PASSWORD = "a lantern by the harbour"
SECRET = "only for these tests, " * 2
WITHIN_SECONDS = 90  # on a machine that has much else to do
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


def award(town: Town, hours: int, *, firm: str = "yusheng", at: dt.datetime | None = None) -> int:
    """The start-up's allocation, for tests that begin after that step."""
    now = at or clock.now()
    today = clock.day_of(now)
    id = town.ask(
        firm, "sme", "H800", units.gpu_seconds(hours), purpose="训练一个方言语音识别基座模型。", starts_on=today,
        ends_on=today.replace(year=today.year + 1, day=1), now=now,
    )  # fmt: skip
    town.award(firm, "H800", id, units.gpu_seconds(hours), "", now)
    return id


class House:
    """A town, and a web process on its database. `address` is where it answers."""

    def __init__(self, database: Database, town: Town, folder: Path) -> None:
        self.database = database
        self.town = town
        self.folder = folder
        self.host = f"127.0.0.1:{_free_port()}"
        self.address = f"http://{self.host}"
        self.app: Flask | None = None
        self.now: dt.datetime | None = None  # None: the clock
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def session_of(self, email: str) -> str:
        """The cookie's value of a session that began without typing a password."""

        def begin(session: Session) -> str:
            user = find_by_email(session, email)
            assert user is not None
            policy = load_policy(POLICY).sign_in
            now = self.now or clock.now()
            return signin.start_session(session, user.id, enterprise_id=None, policy=policy, now=now)

        return self.database.transaction(begin)

    def move_to(self, now: dt.datetime) -> None:
        """For pages and those who come from here on it is `now`; only where it is served here."""
        assert self.app is not None
        self.now = now
        set_now(self.app, now)

    @contextlib.contextmanager
    def served_here(self) -> Iterator[House]:
        """By threads of this process: quick to start, for tests of pages."""
        settings = Settings(env="test", secret_key=SECRET, public_url=self.address)
        self.app = create_app(settings, self.database, load_policy(POLICY))
        host, port = self.host.split(":")
        server = make_server(host, int(port), self.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @contextlib.contextmanager
    def with_mail(self) -> Iterator[PostOffice]:
        """What the scheduler does for people, when a test asks for it; letters go to a real mail server."""
        with Mailbox().open() as mailbox:
            context = simulation(self.database, load_policy(POLICY))
            try:
                post = post_of(mailbox.settings(public_url=self.address))
                yield PostOffice(dataclasses.replace(context, post=post), mailbox)
            finally:
                context.leader.release()

    @contextlib.contextmanager
    def served_by_processes(self, *, workers: int = 1) -> Iterator[House]:
        """As in production: gunicorn and the scheduler, started, ready, and ended by SIGTERM."""
        try:
            self._start("web", ["-m", "gunicorn", "-c", "config/gunicorn.py", "-w", str(workers), "wsgi:app"])
            self._start("scheduler", ["-m", "scheduler"])
            self._wait_until_ready()
            yield self
        finally:
            ended = self._end()
        assert ended == dict.fromkeys(ended, 0), {name: self._log_of(name) for name in ended}

    def _start(self, name: str, arguments: list[str]) -> None:
        environ = {
            **os.environ,
            "PORTAL_ENV": "test",
            "PORTAL_SECRET_KEY": SECRET,
            "PORTAL_DATABASE_URL": self.database.url.render_as_string(hide_password=False),
            "PORTAL_PUBLIC_URL": self.address,
            "PORTAL_BIND": self.host,
            "PORTAL_POLICY_FILE": str(self._policy_file()),
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    def _policy_file(self) -> Path:
        text = POLICY.read_text()
        for name, seconds in HURRY.items():
            text, changed = re.subn(rf"^{name} = \d+", f"{name} = {seconds}", text, flags=re.MULTILINE)
            assert changed == 1, name
        file = self.folder / "policy.toml"
        file.write_text(text)
        return file

    def _wait_until_ready(self) -> None:
        """Until /readyz says that the database, its tables and the scheduler's heartbeat are there."""
        for _ in seconds(WITHIN_SECONDS):
            for name, process in self.processes.items():
                assert process.poll() is None, f"the {name} process ended by itself:\n{self._log_of(name)}"
            if _answers(self.host, "/readyz"):
                return
        said = "\n".join(self._log_of(name) for name in self.processes)
        raise AssertionError(f"not ready within {WITHIN_SECONDS} s:\n{said}")

    def _end(self) -> dict[str, int]:
        """SIGTERM to each, and their exit codes; SIGKILL for what is left after the time is up."""
        for process in self.processes.values():
            process.terminate()
        try:
            return {name: process.wait(WITHIN_SECONDS) for name, process in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()

    def _log_of(self, name: str) -> str:
        """The end of what the process said."""
        return (self.folder / f"{name}.log").read_text()[-4000:]


class PostOffice:
    """Issues what was decided and delivers what waits; then a person may look into the own mailbox."""

    def __init__(self, context: Context, mailbox: Mailbox) -> None:
        self.context = context
        self.mailbox = mailbox

    def newest(self, address: str) -> EmailMessage:
        """The last letter that came to this address."""
        now = clock.now()
        reviews.run(self.context, now)
        mail.deliver(self.context, now)
        came = [letter for letter in self.mailbox.received if letter["To"].addresses[0].addr_spec == address]
        assert came, f"no mail for {address}"
        return came[-1]

    def link(self, address: str, about: str) -> str:
        """Where the newest letter leads, which must be this one: `about` is its subject in the receiver's language."""
        letter = self.newest(address)
        assert letter["Subject"] == about
        (link,) = re.findall(r"^https?://\S+", text_of(letter), re.MULTILINE)
        return str(link)


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
