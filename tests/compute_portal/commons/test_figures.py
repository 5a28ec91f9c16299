"""What the timetable publishes: equal to the ledger and to brute force, and every KPI can be reckoned from its CSV."""

from __future__ import annotations

import csv
import datetime as dt
import io
import sqlite3
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.commons import figures, formulas, queries, service
from compute_portal.commons.models import PoolDay, PoolHour
from compute_portal.commons.service import NewTransition, SiteStage
from compute_portal.commons.states import Figure, SiteState
from compute_portal.ledger import queries as ledger
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node, Occupancy
from compute_portal.pools.states import NodeState
from compute_portal.usage.models import UsageRecord
from scheduler import figures as reckoned
from scheduler.context import simulation
from tests.cast import HOUR, NOW, Cast
from tests.house.town import build
from tests.web import make_app, set_now

TODAY = clock.day_of(NOW)


@pytest.fixture
def open_policy(policy: Policy) -> Policy:
    """So that the two companies of the cast are enough for a number."""
    return policy.model_copy(update={"commons": policy.commons.model_copy(update={"least": 2})})


@pytest.fixture
def later(cast: Cast, open_policy: Policy) -> dt.datetime:
    """The town has lived; it is the next day but one, and the figures were reckoned."""
    build(cast, open_policy)
    now = clock.start_of_day(TODAY + dt.timedelta(days=2)) + 3 * HOUR
    reckon(cast, open_policy, now)
    return now


def reckon(cast: Cast, policy: Policy, now: dt.datetime) -> None:
    context = simulation(cast.database, policy)
    try:
        reckoned.run(context, now)
        reckoned.look(context, now)
    finally:
        context.leader.release()


def table(app: Flask, name: str) -> list[dict[str, str]]:
    answer = app.test_client().get(f"/commons/{name}.csv")
    assert answer.status_code == 200 and answer.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))


@pytest.fixture
def app(cast: Cast, open_policy: Policy, later: dt.datetime) -> Flask:
    app = make_app(cast.database, open_policy)
    set_now(app, later)
    return app


def test_each_kpi_can_be_reckoned_exactly_from_its_csv(
    app: Flask, cast: Cast, open_policy: Policy, later: dt.datetime
) -> None:
    by = cast.operator
    stages = [(SiteState.COMMITTED, 54_500), (SiteState.COMMITTED, 1_250), (SiteState.BUILDING, 9_000)]

    def enter(session: Session) -> None:
        for number, (state, kilowatts) in enumerate(stages):
            stage = SiteStage(state, kilowatts, TODAY, "批文", None)
            service.enter_site(session, f"地点 {number}", f"Site {number}", stage, by=by, now=later)
        gone = service.enter_site(
            session, "撤下", "Gone", SiteStage(SiteState.COMMITTED, 7, TODAY, "批文", None), by=by, now=later
        )
        dropped = SiteStage(SiteState.DROPPED, 7, TODAY, "终止函", None)
        service.move_site(session, gone.id, dropped, by=by, now=later)
        asked = NewTransition(cast.other_allocation, TODAY, "产品", "A product", "合同", None)
        service.record_transition(session, asked, policy=open_policy.commons, by=by, now=later)

    cast.database.transaction(enter)
    with cast.database.read_only() as session:
        found = queries.figures(session, *Figure)
        power = queries.power(queries.list_sites(session))
        transitions = queries.transitions(queries.list_transitions(session), open_policy.commons, later)
        month = queries.use_by_day(session, TODAY.replace(day=1), clock.day_of(later))

    permit = found[Figure.TIME_TO_PERMIT].content
    rows = table(app, "time-to-permit")
    days = [Decimal(row["working_days"]) for row in rows]
    assert len(rows) == permit["decided"] >= 2
    for percent, name in ((50, "median_milli"), (90, "p90_milli")):
        assert np.percentile([int(day * 1000) for day in days], percent, method="inverted_cdf") == permit[name]
    assert sum(row["in_time"] == "yes" for row in rows) == permit["in_time"]

    of_month = [row for row in table(app, "pool-days") if row["day"][:7] == TODAY.isoformat()[:7]]
    assert sum(int(row["available_gpu_seconds"]) for row in of_month) == sum(use.available for use in month.values())

    committed = [Decimal(row["megawatts"]) for row in table(app, "power") if row["stage"] == "committed"]
    assert sum(committed) * 1000 == power.committed == 55_750 + 54_000  # the town's own site

    counted = [row for row in table(app, "transitions") if dt.date.fromisoformat(row["day"]) > transitions.after_on]
    assert len(counted) == transitions.count == 2

    for group in found[Figure.WAITS].content["groups"]:
        waited = [
            minutes
            for row in table(app, "waits")
            if (row["dimension"], row["class"]) == (group["kind"], group["group"])
            for minutes in [int(row["wait_minutes"])] * int(row["bookings"])
        ]
        assert len(waited) == group["bookings"] > 0
        for percent, name in ((50, "p50_minutes"), (95, "p95_minutes")):
            assert np.percentile(waited, percent, method="inverted_cdf") == group[name]

    ratios = [Decimal(row["used_to_entitled"]) for row in table(app, "fairness-ratios")]
    index = sum(ratios) ** 2 / (len(ratios) * sum(ratio**2 for ratio in ratios))
    assert round(index * 1000) == found[Figure.FAIRNESS].content["jain_milli"]


def test_the_queries_on_the_page_give_its_figures_over_the_public_files(
    app: Flask, cast: Cast, open_policy: Policy, later: dt.datetime
) -> None:
    """In a database of their own, made of nothing but the CSVs."""
    files = sqlite3.connect(":memory:")
    for name in ("time-to-permit", "pool-days", "power", "transitions", "waits", "fairness-ratios"):
        rows = table(app, name)
        table_name, columns = name.replace("-", "_"), ", ".join(f"{column} NUMERIC" for column in rows[0])
        files.execute(f"CREATE TABLE {table_name} ({columns})")
        marks = ", ".join("?" * len(rows[0]))
        files.executemany(f"INSERT INTO {table_name} VALUES ({marks})", [tuple(row.values()) for row in rows])

    def asked(sql: str) -> Any:
        return files.execute(sql).fetchone()[0]

    with cast.database.read_only() as session:
        found = {name: row.content for name, row in queries.figures(session, *Figure).items()}
        days = queries.use_by_day(session, TODAY.replace(day=1), clock.day_of(later))
        power = queries.power(queries.list_sites(session))
        counted = queries.transitions(queries.list_transitions(session), open_policy.commons, later)
    permit = found[Figure.TIME_TO_PERMIT]
    use = sum((use for day, use in days.items() if day >= TODAY), queries.Use())
    (waited,) = (group for group in found[Figure.WAITS]["groups"] if group["kind"] == "all")
    assert round(1000 * asked(formulas.time_to_permit())) == permit["median_milli"]
    assert round(1000 * asked(formulas.time_to_permit(90))) == permit["p90_milli"]
    assert asked(formulas.in_time()) == permit["in_time"] / permit["decided"]
    assert asked(formulas.gpu_hours("2026-11")) == sum(use.available for use in days.values()) // 3600
    assert asked(formulas.utilisation(TODAY, clock.day_of(later))) == use.allocated / use.available
    assert asked(formulas.power()) * 1000 == power.committed
    assert asked(formulas.transitions(counted.after_on)) == counted.count
    assert [asked(formulas.wait(percent)) for percent in (50, 95)] == [waited["p50_minutes"], waited["p95_minutes"]]
    assert round(1000 * asked(formulas.fairness())) == found[Figure.FAIRNESS]["jain_milli"]
    assert "SELECT SUM(megawatts) FROM power" in app.test_client().get("/commons/figures").text


def test_the_pools_days_and_hours_are_what_their_nodes_bookings_and_records_say(
    cast: Cast, open_policy: Policy
) -> None:
    """32 cards for a day; a node of 8 is down for three hours, one under maintenance for two, 2 cards of it in use."""
    build(cast, open_policy)
    midnight = clock.start_of_day(TODAY + dt.timedelta(days=1))

    def fall(session: Session) -> None:
        nodes = list(session.scalars(sa.select(Node.id).order_by(Node.position)))
        pools.change_node_state(session, nodes[1], NodeState.DOWN, verb="report", by=SYSTEM, now=midnight + 1 * HOUR)
        pools.change_node_state(session, nodes[1], NodeState.UP, verb="report", by=SYSTEM, now=midnight + 4 * HOUR)
        pools.plan_maintenance(
            session, cast.pool, node_ids=[nodes[2]], starts_at=midnight + 3 * HOUR, ends_at=midnight + 5 * HOUR,
            reason="更换风扇", by=cast.operator, now=NOW,
        )  # fmt: skip

        booking = session.scalars(sa.select(Booking).order_by(Booking.id)).first()
        assert booking is not None
        for node, mask, until in ((nodes[0], 0b1111, 6), (nodes[2], 0b11, 5)):
            session.add(
                Occupancy(
                    pool_id=cast.pool, node_id=node, booking_id=booking.id, gpu_mask=mask, gpus=mask.bit_count(),
                    fixed=False, starts_at=midnight + 2 * HOUR, ends_at=midnight + until * HOUR,
                    released_at=midnight + until * HOUR,
                )
            )  # fmt: skip

    cast.database.transaction(fall)
    waited = cast.submit(cast.flexible(5, 2), open_policy.bookings, now=midnight + 9 * HOUR + HOUR / 2)
    cast.database.transaction(
        lambda s: bookings.cancel(s, waited, by=cast.member, now=midnight + 11 * HOUR + HOUR / 2).id
    )
    now = midnight + 24 * HOUR
    reckon(cast, open_policy, now)
    with cast.database.read_only() as session:
        day = session.get_one(PoolDay, (cast.pool, TODAY + dt.timedelta(days=1)))
        hours = {row.at: row for row in session.scalars(sa.select(PoolHour).where(PoolHour.at >= midnight))}
        used = {
            on: int(seconds)
            for on, seconds in session.execute(
                sa.select(UsageRecord.day_on, sa.func.sum(UsageRecord.gpu_seconds)).group_by(UsageRecord.day_on)
            )
        }
        kept = {row.day_on: row.used_gpu_seconds for row in session.scalars(sa.select(PoolDay))}
    assert day.capacity_gpu_seconds == 32 * 24 * 3600
    assert day.down_gpu_seconds == (8 * 3 + 6 * 2) * 3600
    assert day.allocated_gpu_seconds == (4 * 4 + 2 * 3) * 3600
    assert len(hours) == 24
    assert hours[midnight + 3 * HOUR].available_gpu_seconds == (32 - 16 + 2) * 3600
    assert hours[midnight + 6 * HOUR].available_gpu_seconds == 32 * 3600
    assert [hours[midnight + n * HOUR].allocated_gpu_seconds // 3600 for n in (1, 2, 5, 6)] == [0, 6, 4, 0]
    queue = [hours[midnight + n * HOUR] for n in (9, 10, 11, 12)]
    before = queue[0].waiting_bookings, queue[0].waiting_gpus
    more = [(row.waiting_bookings - before[0], row.waiting_gpus - before[1]) for row in queue]
    assert more == [(0, 0), (1, 5), (1, 5), (0, 0)]
    assert sum(row.allocated_gpu_seconds for row in hours.values()) == day.allocated_gpu_seconds
    assert {on: seconds for on, seconds in kept.items() if seconds} == used


def test_reckoning_again_changes_nothing_but_what_came_late(
    cast: Cast, open_policy: Policy, later: dt.datetime
) -> None:
    def kept() -> list[tuple[object, ...]]:
        with cast.database.read_only() as session:
            rows = session.execute(sa.select(sa.inspect(PoolDay).local_table)).all()
            return sorted((tuple(row) for row in rows), key=repr)

    before = kept()
    reckon(cast, open_policy, later)
    assert kept() == before


def test_the_allocation_rate_equals_the_ledger(cast: Cast, open_policy: Policy, later: dt.datetime) -> None:
    with cast.database.read_only() as session:
        total = queries.figures(session, Figure.ALLOCATION_RATE)[Figure.ALLOCATION_RATE].content["total"]
        rows = list(session.scalars(sa.select(Allocation).where(Allocation.state.in_(figures.DECIDED))))
        balances = [ledger.balance(session, row.id) for row in rows]
    assert total["asked_gpu_seconds"] == sum(row.requested_gpu_seconds for row in rows)
    assert total["awarded_gpu_seconds"] == sum(balance.awarded for balance in balances)
    assert total["used_gpu_seconds"] == sum(balance.used for balance in balances) > 0


def test_with_two_companies_nothing_is_said_of_them(cast: Cast, policy: Policy) -> None:
    """As the policy is shipped: fewer than five."""
    build(cast, policy)
    now = clock.start_of_day(TODAY + dt.timedelta(days=2))
    reckon(cast, policy, now)
    app = make_app(cast.database, policy)
    set_now(app, now)
    assert table(app, "waits") == [] and table(app, "time-to-permit") == [] and table(app, "fairness-ratios") == []
    assert all(not row["used_gpu_seconds"] for row in table(app, "allocation-rate"))
    assert all(row["used_gpu_seconds"] in ("", "0") for row in table(app, "fairness"))
    shown = app.test_client().get("/commons/figures", headers={"Accept-Language": "en"}).text
    assert "Waits: too few bookings to be shown" in shown and "Yusheng" not in shown


def test_a_month_later_counts_the_calendar() -> None:
    assert service.months_later(dt.date(2026, 1, 31), 1) == dt.date(2026, 2, 28)
    assert service.months_later(dt.date(2026, 11, 18), -24) == dt.date(2024, 11, 18)
