"""What the web process counts, and the door through which Prometheus reads it: a port of its own on loopback.

gunicorn listens on two ports (config/gunicorn.py). The site answers on one; `Beside` answers `/metrics` on the other
and nothing else, so that no proxy rule and no header can lead the public there. Which port a request came to is asked
of its socket.

Every worker counts in a file of its own under PROMETHEUS_MULTIPROC_DIR, and whichever worker is asked adds them up.
What is in the database (`gauges.py`) is read at that moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .sentences import Refusal

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
PATH = "/metrics"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

COUNTED = CollectorRegistry()
REQUEST_SECONDS = Histogram(
    "portal_request_seconds",
    "Time from a request's arrival in a worker to its answer, by page.",
    ["endpoint"],
    buckets=SECONDS,
    registry=COUNTED,
)
RESPONSES = Counter("portal_responses", "Answers by status.", ["status"], registry=COUNTED)
REFUSALS = Counter(
    "portal_refusals", "Requests that a rule refused, by the id of its sentence.", ["sentence"], registry=COUNTED
)


def answered(endpoint: str | None, status: int, seconds: float) -> None:
    """One request is done. An address that is no page counts as 'none', so that nobody can make up labels."""
    REQUEST_SECONDS.labels(endpoint or "none").observe(seconds)
    RESPONSES.labels(str(status)).inc()


def refused(refusal: Refusal) -> None:
    REFUSALS.labels(refusal.sentence.id).inc()


class Beside:
    """The site, and beside it `/metrics` for whoever comes to the other port."""

    def __init__(self, site: Wsgi, port: int, *facts: Collector) -> None:
        self.site = site
        self.port = port
        self.registry = CollectorRegistry()
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        else:
            self.registry.register(COUNTED)
        for some in facts:
            self.registry.register(some)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if _port_of(environ) != self.port:
            return self.site(environ, start_response)
        status, kind, body = self._answer(environ)
        start_response(
            status,
            [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")],
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, str, bytes]:
        if environ["PATH_INFO"] != PATH:
            return "404 Not Found", "text/plain; charset=utf-8", b"only /metrics is here\n"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain; charset=utf-8", b"only GET is understood\n"
        encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", kind, encode(self.registry)


def _port_of(environ: dict[str, Any]) -> int | None:
    """The port that gunicorn took the connection on. What SERVER_PORT says may come from a header."""
    connection = environ.get("gunicorn.socket")
    name = None if connection is None else connection.getsockname()
    return name[1] if isinstance(name, tuple) else None
