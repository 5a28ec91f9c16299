"""What the database says at the moment when Prometheus asks: queues, capacity, the scheduler's pulse, what is over due.

One snapshot, a handful of queries whose cost follows what is open, not what has ever been. A database that does not
answer is one figure, `portal_database_up 0`; the others are then missing rather than wrong.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from . import VERSION, clock, schema
from .allocations.review_models import RequestStep
from .bookings.models import Booking
from .bookings.states import OPEN, BookingState
from .db import Database
from .desk.models import Leader, TimetableEntry, TimetableRun
from .enterprises.models import Enterprise
from .enterprises.states import EnterpriseState
from .notices.models import Delivery, Notice
from .pools.models import Node, Pool
from .review.models import Appeal
from .review.states import AppealState

log = logging.getLogger(__name__)


class Gauges(Collector):
    """Asks the database anew for every scrape."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime] = clock.now) -> None:
        self._database = database
        self._now = now

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("portal_database_up", "Whether the database answered this scrape: 1 or 0.", value=1)
        try:
            with self._database.read_only() as session:
                found = list(_all(session, self._now()))
        except sa.exc.DBAPIError:
            log.warning("metrics without the database", exc_info=True)
            up = GaugeMetricFamily(up.name, up.documentation, value=0)
            found = []
        return [
            InfoMetricFamily("portal", "What runs.", value={"version": VERSION, "revision": schema.newest()}),
            up,
            *found,
        ]


def _all(session: Session, now: dt.datetime) -> Iterator[Metric]:
    yield from _bookings(session, now)
    yield from _nodes(session)
    yield from _scheduler(session, now)
    yield from _decisions(session, now)
    yield from _mail(session, now)


def _bookings(session: Session, now: dt.datetime) -> Iterator[Metric]:
    number = GaugeMetricFamily("portal_bookings", "Open bookings.", labels=["pool", "state"])
    gpus = GaugeMetricFamily(
        "portal_booking_gpus", "GPUs that open bookings ask for or have.", labels=["pool", "state"]
    )
    oldest = GaugeMetricFamily(
        "portal_queue_oldest_seconds", "How long the oldest booking waits in the queue.", labels=["pool"]
    )
    rows = session.execute(
        sa.select(
            Booking.pool_id,
            Booking.state,
            sa.func.count(),
            sa.func.sum(Booking.gpus),
            sa.func.min(Booking.submitted_at),
        )
        .where(Booking.state.in_(OPEN))
        .group_by(Booking.pool_id, Booking.state)
    )
    open_ones = {(pool_id, state): (n, wanted, since) for pool_id, state, n, wanted, since in rows}
    for pool_id, name in session.execute(sa.select(Pool.id, Pool.name).order_by(Pool.id)):
        for state in sorted(OPEN):
            n, wanted, since = open_ones.get((pool_id, state), (0, 0, None))
            number.add_metric([name, state], n)
            gpus.add_metric([name, state], wanted)
            if state is BookingState.QUEUED:
                oldest.add_metric([name], 0 if since is None else clock.seconds_between(since, now))
    yield from (number, gpus, oldest)


def _nodes(session: Session) -> Iterator[Metric]:
    gpus = GaugeMetricFamily("portal_node_gpus", "GPUs by the state of their node.", labels=["pool", "state"])
    rows = session.execute(
        sa.select(Pool.name, Node.state, sa.func.sum(Node.gpus))
        .join(Node, Node.pool_id == Pool.id)
        .group_by(Pool.name, Node.state)
    )
    for name, state, count in rows:
        gpus.add_metric([name, state], count)
    yield gpus


def _scheduler(session: Session, now: dt.datetime) -> Iterator[Metric]:
    beat = session.scalar(sa.select(Leader.heartbeat_at))
    age = GaugeMetricFamily(
        "portal_scheduler_heartbeat_age_seconds",
        "Since the scheduler last said that it lives; missing before the first time.",
    )
    if beat is not None:
        age.add_metric([], clock.seconds_between(beat, now))
    failed = GaugeMetricFamily(
        "portal_timetable_failed", "1 where an entry's last run ended with an error.", labels=["entry"]
    )
    success = GaugeMetricFamily(
        "portal_timetable_success_age_seconds", "Since an entry's last run without error was due.", labels=["entry"]
    )
    for entry, error, good_at in session.execute(_last_runs()):
        failed.add_metric([entry], error is not None)
        if good_at is not None:
            success.add_metric([entry], clock.seconds_between(good_at, now))
    yield from (age, failed, success)


def _last_runs() -> sa.Select[Any]:
    """Entry, error of its last finished run, when its last good one was due: from the end of the key, so that the
    hundred thousand older rows are not looked at."""

    def last(column: str, *that: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        return (
            sa.select(getattr(TimetableRun, column))
            .where(TimetableRun.entry == TimetableEntry.name, TimetableRun.finished_at.is_not(None), *that)
            .order_by(TimetableRun.due_at.desc())
            .limit(1)
            .correlate(TimetableEntry)
            .scalar_subquery()
        )

    return (
        sa.select(TimetableEntry.name, last("error"), last("due_at", TimetableRun.error.is_(None)))
        .where(TimetableEntry.recorded, ~TimetableEntry.gone)
        .order_by(TimetableEntry.name)
    )


def _decisions(session: Session, now: dt.datetime) -> Iterator[Metric]:
    """What the bureau has to decide. A booking has no promised time: undecided it lapses."""
    waiting = GaugeMetricFamily("portal_decisions_waiting", "Decisions that people wait for.", labels=["kind"])
    overdue = GaugeMetricFamily("portal_decisions_overdue", "Decisions later than was promised.", labels=["kind"])
    bookings = sa.select(sa.func.count()).where(Booking.state == BookingState.SUBMITTED)
    enterprises = sa.select(sa.func.count()).where(Enterprise.state == EnterpriseState.APPLIED)
    steps = sa.select(sa.func.count(), sa.func.count().filter(RequestStep.due_at < now)).where(
        RequestStep.opened_at.is_not(None), RequestStep.done_at.is_(None), RequestStep.paused_at.is_(None)
    )
    waiting.add_metric(["booking"], session.scalar(bookings) or 0)
    waiting.add_metric(["enterprise"], session.scalar(enterprises) or 0)
    n, late = session.execute(steps).one()
    waiting.add_metric(["request"], n)
    overdue.add_metric(["request"], late)
    appeals = sa.select(sa.func.count(), sa.func.count().filter(Appeal.due_at < now)).where(
        Appeal.state == AppealState.FILED
    )
    n, late = session.execute(appeals).one()
    waiting.add_metric(["appeal"], n)
    overdue.add_metric(["appeal"], late)
    yield from (waiting, overdue)


def _mail(session: Session, now: dt.datetime) -> Iterator[Metric]:
    depth = GaugeMetricFamily("portal_mail_waiting", "Messages in the outbox that are still to be sent.")
    oldest = GaugeMetricFamily("portal_mail_oldest_seconds", "How long the oldest of them waits.")
    failed = GaugeMetricFamily("portal_mail_failed", "Messages that were given up.")
    n, since = session.execute(
        sa.select(sa.func.count(), sa.func.min(Notice.at)).where(Notice.delivery == Delivery.WAITING)
    ).one()
    depth.add_metric([], n)
    oldest.add_metric([], 0 if since is None else clock.seconds_between(since, now))
    lost = sa.select(sa.func.count()).where(Notice.delivery == Delivery.FAILED)
    failed.add_metric([], session.scalar(lost) or 0)
    yield from (depth, oldest, failed)
