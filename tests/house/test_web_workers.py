"""gunicorn with `config/gunicorn.py`: which worker takes a request."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.house.test_logs import ROOT, wait_until_something_listens

APP = """
import os, time

def app(environ, start):
    time.sleep(0.8 if environ["PATH_INFO"] == "/slow" else 0)
    answer = str(os.getpid()).encode()
    start("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
ROUNDS = int(os.environ.get("ROUNDS") or 4)


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


def ask_once(port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        return ask(connection, path)
    finally:
        connection.close()


def test_a_request_does_not_wait_for_a_busy_worker_while_another_has_nothing_to_do(tmp_path: Path) -> None:
    with served(tmp_path, workers=2, threads=1) as port, ThreadPoolExecutor(2) as people:
        both = [{*people.map(ask_once, [port, port], ["/slow", "/slow"])} for _ in range(3)]
        assert len(both[-1]) == 2  # by now both workers are there
        for _ in range(ROUNDS):
            assert len({*people.map(ask_once, [port, port], ["/slow", "/slow"])}) == 2


@pytest.mark.parametrize("kept", [1, 5])
def test_a_browser_that_keeps_its_connection_open_is_in_nobodys_way(tmp_path: Path, kept: int) -> None:
    with served(tmp_path, workers=1, threads=1) as port:
        idle = [http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(kept)]
        first = [ask(connection) for connection in idle]
        sockets = [connection.sock for connection in idle]
        assert {ask_once(port), *first, *map(ask, idle)} == {first[0]}
        assert [connection.sock for connection in idle] == sockets  # nobody had to connect anew
        for connection in idle:
            connection.close()


def test_who_never_stops_asking_on_open_connections_does_not_keep_a_newcomer_out(tmp_path: Path) -> None:
    enough = threading.Event()

    def go_on(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not enough.is_set():
            ask(connection, "/slow")
        connection.close()

    with served(tmp_path, workers=1, threads=1) as port, ThreadPoolExecutor(3) as people:
        asking = [people.submit(go_on, port) for _ in range(3)]
        try:
            time.sleep(1.5)
            assert ask_once(port)
        finally:
            enough.set()
        for each in asking:
            each.result()


def test_who_has_come_before_the_end_is_answered(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as people:
        with served(tmp_path, workers=1, threads=1) as port:
            asking = [people.submit(ask_once, port, "/slow") for _ in range(4)]
            time.sleep(0.6)
        assert all(each.result() for each in asking)
