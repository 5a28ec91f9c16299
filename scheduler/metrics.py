"""What the scheduler process counts, for Prometheus, on a port of its own on loopback.

Facts of the database (queues, the pulse, over-due decisions) are the web process's to tell: they must be seen when this
one is gone. Here is how its rounds go.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from scheduler.cycle import Result

ADDRESS = "127.0.0.1"
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

COUNTED = CollectorRegistry()
LEADS = Gauge("scheduler_leads", "1 in the active scheduler, 0 in one that waits to take over.", registry=COUNTED)
ENTRY_SECONDS = Histogram(
    "scheduler_entry_seconds",
    "How long a run of a timetable's entry took.",
    ["entry"],
    buckets=SECONDS,
    registry=COUNTED,
)
ENTRY_FAILURES = Counter(
    "scheduler_entry_failures", "Runs that ended with an error or left something over.", ["entry"], registry=COUNTED
)
ENTRY_LAG = Gauge(
    "scheduler_entry_lag_seconds",
    "From when an entry's last run was due to when it began.",
    ["entry"],
    registry=COUNTED,
)
SKIPPED = Counter(
    "scheduler_skipped_slots", "Slots that APScheduler left out because the run before still went on.", ["entry"],
    registry=COUNTED,
)  # fmt: skip
HANDED_OVER = Counter("scheduler_handed_over", "Bookings handed over to the engine.", registry=COUNTED)
STARTED = Counter("scheduler_started", "Bookings whose access was given.", registry=COUNTED)
CYCLE_AGE = Gauge(
    "scheduler_cycle_age_seconds", "Since the last whole cycle, by a clock that nobody sets; -1 before the first.",
    registry=COUNTED,
)  # fmt: skip
_cycled_at: list[float] = []


def _cycle_age() -> float:
    return time.monotonic() - _cycled_at[0] if _cycled_at else -1.0


CYCLE_AGE.set_function(_cycle_age)


def serve(port: int) -> Callable[[], None]:
    """Answer on loopback from a thread until the returned function is called. Raises OSError when the port is taken."""
    server, thread = start_http_server(port, addr=ADDRESS, registry=COUNTED)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def ran(entry: str, result: object, *, failed: bool, seconds: float, lag: dt.timedelta) -> None:
    """One run of an entry is over; `result` is what it returned."""
    ENTRY_SECONDS.labels(entry).observe(seconds)
    ENTRY_LAG.labels(entry).set(lag.total_seconds())
    ENTRY_FAILURES.labels(entry).inc(int(failed))
    if isinstance(result, Result):
        _cycled_at[:] = [time.monotonic()]
        HANDED_OVER.inc(result.handed_over)
        STARTED.inc(len(result.started))


def skipped(entry: str) -> None:
    SKIPPED.labels(entry).inc()
