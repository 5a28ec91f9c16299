"""Every line that a process logs is one JSON object, whoever wrote it and whatever is in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# A process of its own: logging is set up once per process, and this test must not change the runner's.
SAYS_MUCH = """
import logging, structlog, warnings
from config.logs import configure_logs
configure_logs("scheduler", "INFO")
structlog.contextvars.bind_contextvars(request_id="r-1")
structlog.get_logger("bookings").info("booked", name="a\\nb\\u2028c\\x85d", who=7, what={"开始": None})
logging.getLogger("alembic.runtime").info("Running %s", "upgrade", extra={"revision": "0001"})
logging.getLogger("apscheduler.executors").info("of no use")
structlog.get_logger("bookings").debug("below the level")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("sqlalchemy.pool").exception("broke")
warnings.warn("old", stacklevel=1)
raise LookupError("the end")
"""


def lines_of(text: str) -> list[dict[str, Any]]:
    # splitlines() breaks at every character that any log reader takes for the end of a line
    return [json.loads(line) for line in text.splitlines()]


def test_each_line_is_one_object_with_time_level_process_and_request():
    outcome = subprocess.run([sys.executable, "-c", SAYS_MUCH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr == ""
    booked, migrated, broke, warned, ended = lines_of(outcome.stdout)
    assert booked.pop("time").endswith("Z")
    assert booked == {
        "level": "info",
        "event": "booked",
        "logger": "bookings",
        "process": "scheduler",
        "request_id": "r-1",
        "name": "a\nb\u2028c\x85d",
        "who": 7,
        "what": {"开始": None},
    }
    assert (migrated["event"], migrated["revision"]) == ("Running upgrade", "0001")
    assert "ZeroDivisionError" in broke["exception"]
    assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")
    assert (ended["level"], ended["event"]) == ("critical", "ended by an exception")
    assert "LookupError: the end" in ended["exception"]
    assert {line["process"] for line in (migrated, broke, warned, ended)} == {"scheduler"}


def test_gunicorn_speaks_json_opens_no_control_socket_and_ends_on_sigterm(tmp_path: Path):
    (tmp_path / "answering.py").write_text("def app(environ, start):\n    start('204 No Content', [])\n    return []\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "PORTAL_BIND": f"127.0.0.1:{port}", "PORTAL_WEB_WORKERS": "1", "HOME": str(tmp_path)}
    environ |= {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "answering:app"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until_something_listens(port)
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = lines_of(said)
    assert any(str(port) in line["event"] for line in lines)
    assert {(line["process"], line["logger"]) for line in lines} == {("web", "gunicorn.error")}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def wait_until_something_listens(port: int) -> None:
    give_up_at = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < give_up_at, "gunicorn did not start"
            time.sleep(0.05)
