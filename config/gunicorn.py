"""gunicorn's settings: `gunicorn -c config/gunicorn.py wsgi:app`. Each has an environment variable, see env.example."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

from gunicorn.workers.gthread import ThreadWorker

from config.logs import log_settings

BUSY_SECONDS = 1.0


class Worker(ThreadWorker):  # type: ignore[misc]
    """Leaves a new connection to the others while all of its threads are busy, for a second. gunicorn's own takes all
    that come at once: they wait at a busy worker while another one has nothing to do (its issue 3433).
    """

    busy_since: float | None = None

    @property
    def worker_connections(self) -> int:
        """How many it may hold now. Those that only wait for their next request keep no thread busy; and whoever never
        stops asking on connections that stay open must not keep newcomers out for good.
        """
        in_hand = self.nr_conns - len(self.keepalived_conns) - len(self.pending_conns)
        if in_hand < self.cfg.threads:
            self.busy_since = None
            return self._most
        self.busy_since = self.busy_since or time.monotonic()
        return self._most if time.monotonic() - self.busy_since > BUSY_SECONDS else 0

    @worker_connections.setter
    def worker_connections(self, most: int) -> None:
        self._most = most

    def set_accept_enabled(self, enabled: bool) -> None:
        """At its end it takes those who have come already: nobody else would answer them."""
        if not enabled and not self.alive:
            for listener in self.sockets:
                held = -1
                while held < self.nr_conns:
                    held = self.nr_conns
                    self.accept(listener)
        super().set_accept_enabled(enabled)


bind = (os.environ.get("PORTAL_BIND") or f"127.0.0.1:{os.environ.get('PORT') or '8000'}").split(",")
worker_class = Worker
workers = int(os.environ.get("PORTAL_WEB_WORKERS") or 2)
threads = int(os.environ.get("PORTAL_WEB_THREADS") or 4)

# A request that runs longer loses its worker; after SIGTERM requests in flight have this long to end.
timeout = 60
graceful_timeout = 30
keepalive = 5

# On by default since 25: a socket in the home directory through which workers can be added and killed.
control_socket_disable = True

# Only a proxy on this machine may say who the client is; the app counts proxies itself (PORTAL_TRUSTED_PROXIES).
forwarded_allow_ips = "127.0.0.1"

# /metrics, for Prometheus on this machine: a second port that answers nothing else (compute_portal/metrics.py). Workers
# count in files that they share; the client library must know where before it is imported.
if metrics_port := int(os.environ.get("PORTAL_METRICS_PORT") or 0):
    bind.append(f"127.0.0.1:{metrics_port}")
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # it stays the same when this file is read again on a reload
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="portal-metrics-")


def on_exit(_master: object) -> None:
    if metrics_port:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


# The app writes one line per request itself, with the request id.
accesslog = None
loglevel = (os.environ.get("PORTAL_LOG_LEVEL") or "INFO").lower()
logconfig_dict = log_settings("web", loglevel.upper())
