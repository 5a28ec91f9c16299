"""Many requests at once, each on a connection of its own, by one thread that only writes and reads bytes.

A worker keeps a connection that stays open: the one that wakes first would have them all, and the others stand idle.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CLIENTS = 8
WARM = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. Milliseconds; `cpu_ms` is what the server's processes used for each request."""

    a_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    wrong: int


class _Client:
    """Sends the next request as soon as the last one is answered."""

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes], ready: selectors.BaseSelector) -> None:
        self.address = address
        self.requests = requests
        self.ready = ready
        self.send()

    def send(self) -> None:
        self.received = b""
        self.sent_at = time.perf_counter()
        self.socket = socket.create_connection(self.address)
        self.ready.register(self.socket, selectors.EVENT_READ, self)
        self.socket.sendall(next(self.requests))

    def close(self) -> None:
        self.ready.unregister(self.socket)
        self.socket.close()

    def receive(self) -> bool:
        """True when the whole answer is here."""
        self.received += (part := self.socket.recv(1 << 18))
        if not part:
            raise ConnectionError(f"the answer ended after {len(self.received)} bytes")
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
    with selectors.DefaultSelector() as ready:
        clients = [_Client(address, requests, ready) for _ in range(CLIENTS)]
        for _ in range(WARM):  # every worker has compiled the page, and whatever else is done once
            if len(_run(ready, time.perf_counter() + seconds / 5)[0]) > CLIENTS:
                break
        before, began = cpu_seconds(), time.perf_counter()
        taken, wrong = _run(ready, began + seconds, right)
        lasted, used = time.perf_counter() - began, cpu_seconds() - before
        for client in clients:
            client.close()
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
            client: _Client = key.data
            if client.receive():
                taken.append(time.perf_counter() - client.sent_at)
                wrong += int(client.received[9:12]) not in right
                client.close()
                client.send()
    return taken, wrong
