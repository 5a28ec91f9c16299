"""Many requests at once over a few connections that stay open, by one thread that only writes and reads bytes."""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CONNECTIONS = 8
WARM = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. Milliseconds; `cpu_ms` is what the server's processes used for each request."""

    a_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    wrong: int


class _Connection:
    """Sends the next request as soon as the last one is answered."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection(address)
        self.requests = requests
        self.received = b""
        self.sent_at = 0.0

    def send(self) -> None:
        self.received = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(next(self.requests))

    def receive(self) -> bool:
        """True when the whole answer is here."""
        self.received += self.socket.recv(1 << 18)
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return len(body) >= length


def load(
    address: tuple[str, int], requests: Iterator[bytes], *, seconds: float, cpu_seconds: Callable[[], float],
    right: tuple[int, ...] = (200,),
) -> Load:  # fmt: skip
    """Closed loop: as many as the server answers in this time, after a fifth of it to warm up."""
    connections = [_Connection(address, requests) for _ in range(CONNECTIONS)]
    with selectors.DefaultSelector() as ready:
        for connection in connections:
            ready.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        for _ in range(WARM):  # every worker has compiled the page, and whatever else is done once
            if len(_run(ready, time.perf_counter() + seconds / 5)[0]) > CONNECTIONS:
                break
        before, began = cpu_seconds(), time.perf_counter()
        taken, wrong = _run(ready, began + seconds, right)
        lasted, used = time.perf_counter() - began, cpu_seconds() - before
    for connection in connections:
        connection.socket.close()
    taken.sort()
    return Load(
        len(taken) / lasted, statistics.median(taken) * 1_000, taken[int(len(taken) * 0.99)] * 1_000,
        used / len(taken) * 1_000, wrong,
    )  # fmt: skip


def _run(ready: selectors.BaseSelector, until: float, right: tuple[int, ...] = ()) -> tuple[list[float], int]:
    taken: list[float] = []
    wrong = 0
    while time.perf_counter() < until:
        for key, _events in ready.select(timeout=1):
            connection: _Connection = key.data
            if connection.receive():
                taken.append(time.perf_counter() - connection.sent_at)
                wrong += int(connection.received[9:12]) not in right
                connection.send()
    return taken, wrong
