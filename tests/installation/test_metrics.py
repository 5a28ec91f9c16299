"""Prometheus: what the figures say, and that only the second port says it."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from compute_portal import metrics
from compute_portal.db import Database
from compute_portal.desk.models import Leader, TimetableRun
from compute_portal.forms import PortalForm
from compute_portal.gauges import Gauges
from compute_portal.notices import service as notices
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal, Sentence
from scheduler import metrics as scheduler_metrics
from scheduler import timetable
from scheduler.__main__ import CannotStart, _serve_metrics
from scheduler.context import PassFailed, simulation
from scheduler.timetable import Entry, Every
from tests.cast import HOUR, NOW, Cast
from tests.installation.test_operate import table
from tests.web import make_app, sign_in

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures(text: str) -> Figures:
    """What Prometheus's own parser reads."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask(registry: Any) -> Figures:
    return figures(generate_latest(registry).decode())


def gauges(database: Database, now: dt.datetime = NOW) -> Figures:
    registry = CollectorRegistry()
    registry.register(Gauges(database, lambda: now))
    return ask(registry)


def of(found: Figures, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


# -- what is in the database ------------------------------------------------------------------------------------------


def test_queues_capacity_and_decisions_are_counted(cast: Cast, policy: Policy) -> None:
    cast.submit(cast.flexible(4), policy.bookings)
    cast.submit(cast.flexible(6), policy.bookings, now=cast.now + HOUR)
    cast.submit(cast.flexible(24, 100), policy.bookings)  # above the threshold: an operator decides
    found = gauges(cast.database, cast.now + 2 * HOUR)
    assert of(found, "portal_database_up") == 1
    assert of(found, "portal_bookings", pool="H800", state="queued") == 2
    assert of(found, "portal_booking_gpus", pool="H800", state="queued") == 10
    assert of(found, "portal_booking_gpus", pool="H800", state="running") == 0
    assert of(found, "portal_queue_oldest_seconds", pool="H800") == 2 * 3600
    assert of(found, "portal_node_gpus", pool="H800", state="up") == 32
    assert of(found, "portal_decisions_waiting", kind="booking") == 1
    assert of(found, "portal_decisions_overdue", kind="request") == 0


def test_the_pulse_the_timetable_and_the_outbox_are_told(cast: Cast, policy: Policy) -> None:
    context = simulation(cast.database, policy)
    timetable.publish(context, timetable.entries(policy))
    context.leader.release()

    def work(session: sa.orm.Session) -> None:
        session.execute(sa.update(Leader).values(heartbeat_at=NOW))
        for minutes, error in ((3, None), (2, "ValueError: damaged"), (1, "ValueError: damaged")):
            at = NOW - dt.timedelta(minutes=minutes)
            session.add(TimetableRun(entry="sync", due_at=at, started_at=at, finished_at=at, error=error))
        at = NOW - dt.timedelta(minutes=5)
        session.add(TimetableRun(entry="metering", due_at=at, started_at=at, finished_at=at, error=None))
        session.add(TimetableRun(entry="metering", due_at=NOW, started_at=NOW))  # under way
        notices.send(
            session, to=cast.users["lin"], about=Sentence("told-awarded", subject=1, hours=1, asked=1), key="1", now=NOW
        )

    before = gauges(cast.database)
    cast.database.transaction(work)
    found = gauges(cast.database, NOW + dt.timedelta(seconds=90))
    assert of(found, "portal_scheduler_heartbeat_age_seconds") == 90
    assert of(found, "portal_timetable_failed", entry="sync") == 1
    assert of(found, "portal_timetable_success_age_seconds", entry="sync") == 180 + 90
    assert of(found, "portal_timetable_failed", entry="metering") == 0
    assert of(found, "portal_timetable_success_age_seconds", entry="metering") == 300 + 90
    assert of(found, "portal_mail_waiting") == of(before, "portal_mail_waiting") + 1
    assert of(found, "portal_mail_oldest_seconds") == of(before, "portal_mail_oldest_seconds") + 90
    assert of(found, "portal_mail_failed") == 0


def test_a_database_that_is_away_is_told_and_the_rest_still_answers() -> None:
    away = Database("postgresql://portal:hidden-word@127.0.0.1:1/portal")
    found = gauges(away)
    assert of(found, "portal_database_up") == 0
    assert {name for name, _ in found} == {"portal_database_up", "portal_info"}
    away.dispose()


def test_every_figure_is_explained_in_operate_md_and_no_other(database: Database) -> None:
    names: set[str] = set()
    families: list[Metric] = [
        *Gauges(database).collect(), *metrics.COUNTED.collect(), *scheduler_metrics.COUNTED.collect(),
    ]  # fmt: skip
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names.add(f"{family.name}{suffix}")
    assert set(table("Figure")) == names


# -- the door ---------------------------------------------------------------------------------------------------------


class Refused(PortalForm):
    """A form without a request: only what was refused matters."""

    def __init__(self) -> None:
        self._fields = {}
        self.form_errors = []


class Socket:
    """What gunicorn gives an app of the connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


def test_only_the_second_port_answers_and_it_answers_nothing_else(cast: Cast, policy: Policy) -> None:
    app = make_app(cast.database, policy, own=True, metrics_port=9464)
    client = sign_in(app, cast.users["an"])
    inside: dict[str, Any] = {"environ_overrides": {"gunicorn.socket": Socket(9464)}}
    outside: dict[str, Any] = {"environ_overrides": {"gunicorn.socket": Socket(8000), "SERVER_PORT": "9464"}}
    told = client.get("/metrics", **inside)
    assert told.status_code == 200 and told.mimetype == "text/plain"
    assert of(figures(told.text), "portal_database_up") == 1
    assert client.head("/metrics", **inside).data == b""
    assert client.post("/metrics", **inside).status_code == 405
    for address in ("/", "/sign-in", "/healthz", "/static/commons.css"):
        assert client.get(address, **inside).status_code == 404, address
    assert client.get("/metrics", **outside).status_code == 404
    spoofed = {"Host": "portal.test:9464", "X-Forwarded-Host": "127.0.0.1:9464", "X-Forwarded-Port": "9464"}
    assert client.get("/metrics", headers=spoofed, **outside).status_code in (400, 404)
    assert client.get("/healthz", **outside).status_code == 200


def test_requests_are_counted_by_page_and_refusals_by_rule(policy: Policy, tmp_path: Path) -> None:
    client = make_app(Database(f"sqlite:///{tmp_path}/none.sqlite"), policy).test_client()
    before = ask(metrics.COUNTED)
    client.get("/healthz")
    PortalForm.refuse(Refused(), Refusal(Sentence("not-allowed")))
    client.get("/no/such/page")
    after = ask(metrics.COUNTED)

    def more(name: str, **labels: str) -> float:
        return of(after, name, **labels) - before.get((name, tuple(sorted(labels.items()))), 0)

    assert more("portal_request_seconds_count", endpoint="healthz") == 1
    assert more("portal_refusals_total", sentence="not-allowed") == 1
    assert more("portal_request_seconds_count", endpoint="none") == 1
    assert more("portal_responses_total", status="404") == 1
    assert not any("no/such" in str(key) for key in after)


def test_promtool_finds_nothing_to_say_about_the_figures(database: Database) -> None:
    """`promtool` comes with Debian's `prometheus`, which is large: what it looks for is looked for here too."""
    registry = CollectorRegistry()
    for one in (Gauges(database), metrics.COUNTED, scheduler_metrics.COUNTED):
        registry.register(one)
    text = generate_latest(registry).decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert re.fullmatch(r"(portal|scheduler)_[a-z_]+", family.name)
        assert not family.name.endswith(("_milliseconds", "_minutes", "_hours")), "seconds are the unit"
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# -- the scheduler ----------------------------------------------------------------------------------------------------


def test_runs_of_the_timetable_are_counted(cast: Cast, policy: Policy) -> None:
    context = simulation(cast.database, policy)

    def fails(_context: object, _now: dt.datetime) -> None:
        raise PassFailed("two left")

    before = ask(scheduler_metrics.COUNTED)
    timetable.perform(context, Entry("counted-badly", Every(60), fails, "fails"), NOW + dt.timedelta(seconds=7))
    cast.submit(cast.flexible(), policy.bookings)
    timetable.perform(context, timetable.entries(policy)[0], NOW)
    context.leader.release()
    after = ask(scheduler_metrics.COUNTED)
    name = "scheduler_entry_failures_total"
    assert of(after, name, entry="counted-badly") == before.get((name, (("entry", "counted-badly"),)), 0) + 1
    assert of(after, "scheduler_entry_lag_seconds", entry="counted-badly") == 7
    assert of(after, "scheduler_entry_seconds_count", entry="counted-badly") >= 1
    assert of(after, "scheduler_handed_over_total") - of(before, "scheduler_handed_over_total") == 1
    assert of(after, "scheduler_started_total") - of(before, "scheduler_started_total") == 1
    assert 0 <= of(after, "scheduler_cycle_age_seconds") < 60


def test_the_scheduler_answers_on_loopback_and_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = int(other.getsockname()[1])
        with pytest.raises(CannotStart, match=f"PORTAL_SCHEDULER_METRICS_PORT: port {taken} cannot be used"):
            _serve_metrics(taken)
    stop = _serve_metrics(taken)  # free now
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{taken}/metrics", timeout=10) as answer:
            assert ("scheduler_leads", ()) in figures(answer.read().decode())
    finally:
        stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{taken}/metrics", timeout=10)
