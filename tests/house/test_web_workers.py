"""gunicorn with `config/gunicorn.py`: which worker takes a request."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.house.test_logs import ROOT, wait_until_something_listens

APP = """
import os, time

def app(environ, start):
    time.sleep(0.25 if environ["PATH_INFO"] == "/slow" else 0)
    answer = str(os.getpid()).encode()
    start("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
ROUNDS = int(os.environ.get("ROUNDS") or 8)


@contextmanager
def served(folder: Path, *, workers: int, threads: int) -> Iterator[int]:
    (folder / "answering.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = {**os.environ, "PORTAL_BIND": f"127.0.0.1:{port}", "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    environ |= {"PORTAL_WEB_WORKERS": str(workers), "PORTAL_WEB_THREADS": str(threads)}
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "answering:app"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        wait_until_something_listens(port)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def ask(connection: http.client.HTTPConnection, path: str = "/") -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def test_a_request_does_not_wait_for_a_busy_worker_while_another_has_nothing_to_do(tmp_path: Path) -> None:
    def slow(port: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            return ask(connection, "/slow")
        finally:
            connection.close()

    with served(tmp_path, workers=2, threads=1) as port, ThreadPoolExecutor(2) as people:
        while len({*people.map(slow, [port, port])}) == 1:  # both workers are there
            pass
        for _ in range(ROUNDS):
            assert len({*people.map(slow, [port, port])}) == 2


@pytest.mark.parametrize("kept", [1, 5])
def test_a_browser_that_keeps_its_connection_open_is_in_nobodys_way(tmp_path: Path, kept: int) -> None:
    with served(tmp_path, workers=1, threads=1) as port:
        idle = [http.client.HTTPConnection("127.0.0.1", port, timeout=2) for _ in range(kept)]
        first = [ask(connection) for connection in idle]
        sockets = [connection.sock for connection in idle]
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        assert {ask(other), *first, *map(ask, idle)} == {first[0]}
        assert [connection.sock for connection in idle] == sockets  # nobody had to connect anew
        for connection in (*idle, other):
            connection.close()
