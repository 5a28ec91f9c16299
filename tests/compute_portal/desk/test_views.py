"""The start pages: what waits for each role, by name, with its date and its one button."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Role
from compute_portal.allocations import reports
from compute_portal.allocations import service as allocations
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.service import AllocationRequest
from compute_portal.allocations.states import ReportKind
from compute_portal.bookings import attempts
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Booking
from compute_portal.desk import queries
from compute_portal.desk.models import Leader, TimetableRun
from compute_portal.enterprises.models import Enterprise
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node, Occupancy
from compute_portal.pools.states import NodeState
from compute_portal.programmes import service as programmes
from compute_portal.signin.models import BureauRole, SshKey, User
from compute_portal.statements import service as statements
from tests.cast import HOUR, NOW, Cast
from tests.web import make_app, post, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def start(app: Flask, cast: Cast, name: str) -> str:
    answer = sign_in(app, cast.users[name], language="en").get("/start")
    assert answer.status_code == 200
    return words(answer)


def a_request(cast: Cast, hours: int = 6_400, now: dt.datetime = NOW) -> int:
    today = clock.day_of(NOW)
    asked = AllocationRequest(
        cast.programme, cast.pool, units.gpu_seconds(hours), today, today + dt.timedelta(days=60), "训练"
    )
    return cast.database.transaction(lambda s: allocations.request(s, asked, by=cast.manager, now=now).id)


def run(cast: Cast, booking_id: int, at: dt.datetime) -> str:
    """The engine gives the booking its GPUs at this instant; the attempt's key."""

    def work(session: Session) -> str:
        (handed,) = attempts.write(session, [booking_id], now=at)
        attempts.record_handed_over(session, {handed.key: "e-1"}, now=at)
        attempts.placed(session, [Given(handed.key, [{"node": "h800-n001", "gpus": [0]}], at, at + 2 * HOUR, at)])
        return handed.key

    return cast.database.transaction(work)


def put(cast: Cast, *rows: Any) -> None:
    cast.database.transaction(lambda s: s.add_all(rows))


def beat(cast: Cast, at: dt.datetime) -> None:
    def work(session: Session) -> None:
        leader = session.get(Leader, 1) or Leader(id=1, epoch=0)
        leader.epoch, leader.holder, leader.since_at, leader.heartbeat_at = 7, "scheduler-1", at, at
        session.add(leader)

    cast.database.transaction(work)


def test_a_member_is_told_what_runs_and_starts_using_it_with_one_button(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(4, 2), policy.bookings)
    run(cast, booking, NOW - HOUR)
    page = start(app, cast, "chen")
    assert f"Booking {booking} runs: start using it" in page
    assert "Running since today 09:00" in page
    client = sign_in(app, cast.users["chen"], language="en")
    assert post(client, f"/bookings/{booking}/claim", page="/start").status_code == 302
    assert f"Booking {booking} runs: start using it" not in start(app, cast, "chen")


def test_a_member_is_told_what_starts_within_a_day_and_that_a_key_is_missing(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    booking = cast.submit(cast.fixed(8, start_in=10), policy.bookings)
    later = cast.submit(cast.fixed(8, start_in=40), policy.bookings)
    page = start(app, cast, "chen")
    assert "2 things need you" in page
    assert f"Booking {booking} starts today 20:00" in page
    assert "in 10 h" in page
    assert f"Booking {later} starts" not in page
    assert "Add an SSH key" in page
    key = SshKey(user_id=cast.users["chen"], name="a", public_key="x", fingerprint="y", added_at=NOW)
    put(cast, key)
    assert "Add an SSH key" not in start(app, cast, "chen")
    assert "One thing needs you" in start(app, cast, "chen")


def test_an_award_waits_until_something_is_booked_from_it(app: Flask, cast: Cast, policy: Policy) -> None:
    page = start(app, cast, "lin")
    assert "20,000 H800 GPU-hours are awarded Nothing is booked from them yet." in page
    assert "20,000 GPU-h left" in page
    cast.submit(cast.flexible(4, 2), policy.bookings)
    assert "are awarded" not in start(app, cast, "lin")


def test_a_declined_request_is_told_with_its_reason_for_two_weeks(app: Flask, cast: Cast) -> None:
    request = a_request(cast)
    assert "6,400 H800 GPU-hours asked for · decision due" in start(app, cast, "lin")
    cast.database.transaction(lambda s: allocations.decline(s, request, reason="与上次重复", by=cast.operator, now=NOW))
    page = start(app, cast, "lin")
    assert "The request for 6,400 H800 GPU-hours was declined 与上次重复 Decided today 10:00" in page
    set_now(app, NOW + dt.timedelta(days=15))
    assert "was declined" not in start(app, cast, "lin")


def a_report(cast: Cast, due_on: dt.date) -> int:
    return cast.database.transaction(
        lambda s: (
            allocations.ask_for_report(
                s, s.get_one(Allocation, cast.allocation), ReportKind.PROGRESS, due_on, by=SYSTEM, now=NOW
            ).id
        )
    )


def test_a_manager_is_told_what_the_bureau_asks_for_and_which_report_is_due(app: Flask, cast: Cast) -> None:
    request, report = a_request(cast), a_report(cast, clock.day_of(NOW) + dt.timedelta(days=10))
    cast.database.transaction(
        lambda s: allocations.ask_changes(
            s, s.get_one(Allocation, request), reason="缺数据来源", by=cast.operator, now=NOW
        )
    )
    page = start(app, cast, "lin")
    assert f"Request {request} waits for your changes 6,400 H800 GPU-hours asked for" in page
    assert "The report is due on 28 November 2026 Progress report · H800" in page
    set_now(app, NOW + dt.timedelta(days=11))
    assert "The report was due on 28 November 2026" in start(app, cast, "lin")
    links = sign_in(app, cast.users["lin"], language="en").get("/start").text
    assert f'href="/allocations/{request}/write"' in links and f'href="/reports/{report}"' in links
    assert "waits for your changes" not in start(app, cast, "mei")


def test_hours_that_end_within_30_days_or_are_nearly_used_are_told(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.flexible(32, 330), policy.bookings)
    short = cast.award(cast.yusheng, "lin", 1_000, days=20)
    cast.submit(cast.flexible(1, 10, allocation_id=short), policy.bookings)
    page = start(app, cast, "lin")
    assert "990 H800 GPU-hours expire on 8 December 2026" in page
    assert "20 days left" in page
    cast.submit(cast.flexible(30, 31, allocation_id=short), policy.bookings)
    page = start(app, cast, "lin")
    assert "Only 60 H800 GPU-hours are left Of 1,000 awarded" in page
    assert "Request more" in page
    assert "Request more" not in start(app, cast, "chen")


def test_a_member_sees_hours_used_and_a_manager_also_money(app: Flask, cast: Cast) -> None:
    assert "Before subsidy and tax ¥0.00" in start(app, cast, "lin")
    member = start(app, cast, "chen")
    assert "So far in November 2026 GPU-hours used 0" in member
    assert "Payable" not in member


def test_another_companys_things_are_on_nobody_elses_start_page(app: Flask, cast: Cast, policy: Policy) -> None:
    run(cast, cast.submit(cast.flexible(4, 2, title="只给自己看"), policy.bookings), NOW - HOUR)
    assert "只给自己看" in start(app, cast, "chen")
    assert "只给自己看" not in start(app, cast, "mei")


def test_an_operator_finds_every_decision_by_name_with_its_due_time(app: Flask, cast: Cast, policy: Policy) -> None:
    beat(cast, NOW)
    first = a_request(cast, 500, NOW - dt.timedelta(days=4))
    a_request(cast, 6_400, NOW)
    big = cast.submit(cast.flexible(16, 200), policy.bookings)
    answer = sign_in(app, cast.users["zhou"], language="en").get("/start")
    page = words(answer)
    assert "3 things need you" in page
    assert "one request is due by tonight" in page
    assert "Yusheng Voice asks for 500 H800 GPU-hours SME compute programme Overdue since" in page
    assert page.index("asks for 500") < page.index("asks for 6,400")
    assert f'href="/reviews/{first}"' in answer.text
    assert f"Booking {big} of Yusheng Voice needs approval" in page
    assert "3,200 GPU-hours" in page
    assert "The scheduler runs" in page


def test_an_operator_is_told_of_firms_and_reports_that_wait(app: Flask, cast: Cast) -> None:
    beat(cast, NOW)
    assert "Nothing waits for you" in start(app, cast, "zhou")
    report = a_report(cast, clock.day_of(NOW))
    cast.database.transaction(lambda s: reports.hand_in(s, report, text="训练完成。" * 9, by=cast.manager, now=NOW).id)
    put(cast, Enterprise(name="新企业", size_class="small", state="applied", applied_at=NOW))
    page = start(app, cast, "zhou")
    assert "2 things need you" in page
    assert "One enterprise wants to be verified" in page and "One report is handed in" in page


def test_more_requests_than_fit_are_counted_and_linked(app: Flask, cast: Cast) -> None:
    beat(cast, NOW)
    for _ in range(12):
        a_request(cast, 10)
    page = start(app, cast, "zhou")
    assert "12 things need you" in page
    assert "2 more requests" in page


def test_an_operator_is_told_what_is_wrong_at_the_cluster(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.fixed(8, start_in=10), policy.bookings)

    def trouble(session: Session) -> None:
        nodes = list(session.scalars(sa.select(Node).order_by(Node.position)))
        pools.change_node_state(session, nodes[3].id, NodeState.DOWN, verb="fail", by=SYSTEM, now=NOW - 2 * HOUR)
        pools.plan_maintenance(
            session,
            cast.pool,
            node_ids=[nodes[2].id],
            starts_at=NOW + 30 * HOUR,
            ends_at=NOW + 34 * HOUR,
            reason="更换固件",
            by=cast.operator,
            now=NOW,
        )
        session.execute(sa.update(Occupancy).where(Occupancy.booking_id == booking).values(stuck_at=NOW - HOUR))

    cast.database.transaction(trouble)
    beat(cast, NOW - dt.timedelta(minutes=5))
    page = start(app, cast, "zhou")
    assert "4 things need you" in page
    assert "The scheduler is silent" in page
    assert "Last heard today 09:55" in page
    assert "Node h800-n004 is down H800, 8 cards Down since today 08:00" in page
    assert f"8 H800 cards are withheld Access of booking {booking} could not be taken back" in page
    assert "Maintenance of H800: 更换固件 One node tomorrow 16:00 until tomorrow 20:00" in page


def test_finance_finds_open_statements_missing_prices_and_programmes_that_run_out(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    def work(session: Session) -> None:
        statements.open_draft(session, cast.yusheng, "2026-10", policy=policy.statements, by=SYSTEM, now=NOW)
        statements.close_month(session, cast.luyu, "2026-10", policy=policy.statements, by=SYSTEM, now=NOW)
        pools.set_tariff(
            session, cast.pool, from_on=dt.date(2026, 12, 1), price_micro_yuan=15_800_000, by=cast.finance, now=NOW
        )
        bare = pools.add_pool(
            session, name="910B", model="Ascend 910B", tflops_fp16_dense=320, watts=400, gpus_per_node=8, nodes=1,
            by=SYSTEM, now=NOW,
        )  # fmt: skip
        programmes.open_programme(
            session, name="新计划", name_en="New scheme", starts_on=dt.date(2026, 1, 1), ends_on=dt.date(2026, 12, 31),
            pool_ids=[bare.id], most_gpu_seconds=1, booking_approval_gpu_seconds=1,
        )  # fmt: skip

    cast.database.transaction(work)
    page = start(app, cast, "he")
    assert "5 things need you" in page
    assert "October 2026 statement of Yusheng Voice Still a draft" in page
    assert "October 2026 statement of Luyu Vision In review: ¥0.00 without tax" in page
    assert "910B has no price" in page
    assert "The price of H800 changes on 1 December 2026 To ¥15.80 per GPU-hour in 13 days" in page
    assert "New scheme has 0 GPU-hours left" in page
    assert "October 2026 in total 2 statements" in page


def test_an_auditor_reads_what_happened_and_what_was_denied(app: Flask, cast: Cast) -> None:
    assert sign_in(app, cast.users["chen"]).get("/allocations/request").status_code == 403
    page = start(app, cast, "xu")
    assert "One page was denied in the last seven days" in page
    assert "/allocations/request Chen Yi" in page
    assert f"allocation {cast.allocation} Active Zhou Yu’an 2026-11-18 10:00:00" in page


def test_an_administrator_sees_the_scheduler_its_failures_and_people_without_a_role(app: Flask, cast: Cast) -> None:
    beat(cast, NOW)
    put(
        cast,
        TimetableRun(entry="cycle", due_at=NOW, started_at=NOW, finished_at=NOW),
        TimetableRun(entry="cycle", due_at=NOW - HOUR, started_at=NOW - HOUR, error="OperationalError: away"),
        User(
            email="new@example.cn",
            name="赵新",
            name_en="Zhao Xin",
            language="zh",
            created_at=NOW - HOUR,
            confirmed_at=NOW - HOUR,
        ),
    )
    page = start(app, cast, "an")
    assert "2 things need you" in page
    assert "cycle failed OperationalError: away Was due 2026-11-18 09:00:00" in page
    assert "Zhao Xin has no role new@example.cn" in page
    assert "cycle 2026-11-18 10:00:00 2026-11-18 10:00:00 done" in page
    assert "The scheduler runs Last heartbeat 2026-11-18 10:00:00" in page


def test_when_nothing_waits_the_page_says_so(app: Flask, cast: Cast) -> None:
    beat(cast, NOW)
    for name in ("zhou", "he", "an"):
        assert "Nothing waits for you" in start(app, cast, name)


def test_somebody_with_two_bureau_roles_gets_one_page_for_both(app: Flask, cast: Cast) -> None:

    put(cast, BureauRole(user_id=cast.users["zhou"], role=Role.ADMIN, given_at=NOW))
    a_request(cast)
    page = start(app, cast, "zhou")
    assert "2 things need you" in page  # the request, and the silent scheduler once
    assert "The timetable" in page


def test_a_start_page_names_what_is_open_and_then_what_ended_last_however_many_were_cancelled(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    ids = [cast.submit(cast.flexible(gpus=1, hours=1, title=f"run {n}"), policy.bookings) for n in range(16)]

    def end(session: Session) -> None:
        over: dict[int, tuple[str, dt.datetime | None]] = dict.fromkeys(range(3, 15), ("cancelled", None))
        over |= {n: ("finished", NOW - ago) for n, ago in enumerate((HOUR, dt.timedelta(days=5), dt.timedelta(days=9)))}
        for n, (state, ended_at) in over.items():
            session.execute(sa.update(Booking).where(Booking.id == ids[n]).values(state=state, ended_at=ended_at))

    cast.database.transaction(end)
    with cast.database.read_only() as session:
        shown = queries._mine(session, cast.yusheng, NOW)
    assert [booking.title for booking in shown] == ["run 15", "run 0", "run 1"]
