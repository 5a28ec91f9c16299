"""`make demo`: the web process and the scheduler side by side, until one signal ends both.

Standard library only: this is what a service manager does in production, made small enough to read. Everything it
writes is under `var/`: the database, the secret key, one log per process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
VAR = ROOT / "var"
LOGS = VAR / "log"

LOOK_EVERY_SECONDS = 0.1
READY_WITHIN_SECONDS = 60
# gunicorn waits 30 s for requests in flight, see config/gunicorn.py
STOP_WITHIN_SECONDS = 35


class DemoError(Exception):
    """The demo cannot start or go on; the message is one sentence with the fix."""


@dataclass
class Child:
    """One process of the demo, and the log that holds all it says, unless what it answers goes to a file."""

    name: str
    argv: list[str]
    log: Path
    answer: Path | None = None
    process: subprocess.Popen[bytes] | None = None


class Supervisor:
    """Runs children until a signal comes or one of them ends; then all are stopped, each by its own handler."""

    def __init__(self, environ: Mapping[str, str], cwd: Path = ROOT, stop_within: float = STOP_WITHIN_SECONDS) -> None:
        self.environ = dict(environ)
        self.cwd = cwd
        self.stop_within = stop_within
        self.stop_wanted = False
        # Set explicitly: a shell that starts a command with & hands down "ignore SIGINT".
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._want_stop)

    def _want_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_wanted = True

    def step(self, child: Child) -> None:
        """Run a command to its end. Raises DemoError when it fails; a signal ends it early."""
        self._start(child)
        self._wait([child])
        self.stop([child])
        if not self.stop_wanted and _exit_code(child):
            raise DemoError(f"{child.name} failed: the reason is at the end of {_shown(child.log)}.")

    def start(self, children: list[Child]) -> None:
        if not self.stop_wanted:
            for child in children:
                self._start(child)

    def wait_until_answered(self, port: int, children: list[Child]) -> None:
        """Return when the portal answers, a child ends or a signal comes. Raises DemoError when nothing does."""
        give_up_at = time.monotonic() + READY_WITHIN_SECONDS
        while not self.stop_wanted and not _ended(children) and not _answers(port):
            if time.monotonic() > give_up_at:
                self.stop(children)
                raise DemoError(f"The portal did not answer within {READY_WITHIN_SECONDS} s: see {_shown(LOGS)}.")
            time.sleep(LOOK_EVERY_SECONDS)

    def run_until_stopped(self, children: list[Child]) -> None:
        """Raises DemoError, after stopping the others, when a child ends by itself."""
        self._wait(children)
        ended = [] if self.stop_wanted else _ended(children)
        self.stop(children)
        for child in ended:
            raise DemoError(
                f"The {child.name} stopped by itself (exit code {_exit_code(child)}), so all was stopped:"
                f" the reason is at the end of {_shown(child.log)}."
            )

    def stop(self, children: list[Child]) -> None:
        """SIGTERM to each, wait, and SIGKILL to the process group of what is left after the time is up."""
        running = [child.process for child in children if child.process and child.process.poll() is None]
        for process in running:
            process.terminate()
        give_up_at = time.monotonic() + self.stop_within
        for process in running:
            try:
                process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, child: Child) -> None:
        child.log.parent.mkdir(parents=True, exist_ok=True)
        with child.log.open("ab") as log, (child.answer or child.log).open("ab") as answer:
            # A group of its own: Ctrl-C in a terminal reaches only this process, which then stops each child once.
            child.process = subprocess.Popen(
                child.argv, cwd=self.cwd, env=self.environ, stdout=answer, stderr=log, process_group=0
            )

    def _wait(self, children: list[Child]) -> None:
        while not self.stop_wanted and not _ended(children):
            time.sleep(LOOK_EVERY_SECONDS)


def _ended(children: list[Child]) -> list[Child]:
    return [child for child in children if child.process is not None and child.process.poll() is not None]


def _exit_code(child: Child) -> int:
    return child.process.returncode if child.process is not None else 0


def _answers(port: int) -> bool:
    """Whether something on this port answers HTTP: the master process listens before its workers can."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def claim_port(environ: Mapping[str, str]) -> int:
    """The port to serve on, from PORT or 8000. Raises DemoError when it is no port or somebody else listens on it."""
    asked = environ.get("PORT") or "8000"
    if not asked.isdecimal() or not 1 <= int(asked) <= 65535:
        raise DemoError(f"PORT is {asked!r}: give a number from 1 to 65535, for example `make demo PORT=8001`.")
    port = int(asked)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise DemoError(f"Port {port} is only for root: choose one above 1023, `make demo PORT=8001`.") from None
        except OSError:
            other = port + 1 if port < 65535 else 8000
            raise DemoError(
                f"Port {port} is already in use: stop what listens there, or choose another, `make demo PORT={other}`."
            ) from None
    return port


def secret_key(file: Path) -> str:
    """This installation's own secret, made once and readable by its owner only."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        half_made = file.with_name(f"{file.name}.{os.getpid()}")
        with open(os.open(half_made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_urlsafe(48))
        half_made.replace(file)
    return file.read_text().strip()


def demo_environment(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """DEMO_DATABASE_URL moves the demo to another database. The ordinary PORTAL_DATABASE_URL of the shell does not:
    that may be the real one, and the demo city does not belong there."""
    return {
        **environ,
        "PORTAL_ENV": "demo",
        "PORTAL_DATABASE_URL": environ.get("DEMO_DATABASE_URL") or f"sqlite:///{VAR / 'portal.sqlite'}",
        "PORTAL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PORTAL_SECRET_KEY": secret_key(VAR / "secret-key"),
        "PORTAL_BIND": f"127.0.0.1:{port}",
        "PORTAL_WEB_WORKERS": environ.get("PORTAL_WEB_WORKERS") or "1",  # for one person; it is there sooner
        "PYTHONUNBUFFERED": "1",
    }


def keep_one_old_log(log: Path) -> None:
    if log.exists():
        log.replace(log.with_suffix(".log.old"))


def flask(name: str, command: str, log: Path, answer: Path | None = None) -> Child:
    return Child(name, [sys.executable, "-m", "flask", "--app", "wsgi", command], log, answer)


def list_sign_ins(supervisor: Supervisor, listing: Child, children: list[Child]) -> None:
    if supervisor.stop_wanted:
        return
    try:
        supervisor.step(listing)
    except DemoError:
        supervisor.stop(children)
        raise


def run(environ: Mapping[str, str]) -> None:
    """Migrate, fill, serve. Returns after an orderly stop; raises DemoError otherwise."""
    port = claim_port(environ)
    supervisor = Supervisor(demo_environment(environ, port))
    setup, sign_ins = LOGS / "setup.log", LOGS / "sign-ins.txt"
    web = Child(
        "web process", [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "wsgi:app"], LOGS / "web.log"
    )
    scheduler = Child("scheduler", [sys.executable, "-m", "scheduler"], LOGS / "scheduler.log")
    for log in (setup, sign_ins, web.log, scheduler.log):
        keep_one_old_log(log)

    print("Preparing the database and, the first time, the demo city …", flush=True)
    for child in (
        flask("Preparing the database", "migrate", setup),
        Child("Filling the demo city", [sys.executable, "-m", "scheduler", "demo-city"], setup),
    ):
        if not supervisor.stop_wanted:
            supervisor.step(child)

    children = [web, scheduler]
    supervisor.start(children)
    # Beside their start, which takes as long.
    list_sign_ins(supervisor, flask("Listing the sign-ins", "demo-sign-ins", setup, answer=sign_ins), children)
    supervisor.wait_until_answered(port, children)
    if not supervisor.stop_wanted and not _ended(children):
        print(f"\nCompute Commons is running at http://127.0.0.1:{port}\n")
        print(sign_ins.read_text().rstrip())
        print(f"\nLogs: {_shown(web.log)}, {_shown(scheduler.log)}. Ctrl-C stops both processes.", flush=True)
    supervisor.run_until_stopped(children)
    print("\nStopped. The data stays in var/ for the next start.")


def main() -> int:
    try:
        run(os.environ)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
