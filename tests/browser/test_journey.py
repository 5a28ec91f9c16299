"""The whole path by hand: request, approve, book, run, usage, draft statement. Chinese on SQLite, English on
PostgreSQL.

Real processes, a real browser, the real clock; only the scheduler looks more often than in production.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from compute_portal import clock, units
from compute_portal.bookings.models import Booking
from compute_portal.db import Database
from compute_portal.language import amount, hours, money
from tests.browser.house import House, seconds
from tests.browser.visitor import Visitor

Visit = Callable[..., Visitor]
PRICE = units.parse_yuan("16.50")
UNTIL_DONE = 40


@pytest.fixture
def house(unopened_house: House) -> Iterator[House]:
    with unopened_house.served_by_processes() as house:
        yield house


def wait_for_state(visitor: Visitor, word: str) -> None:
    """Reload the booking's page, as people do, until it says so."""
    for _ in seconds(UNTIL_DONE, 0.5):
        if visitor.sees_state(word):
            return
        visitor.page.reload()
    raise AssertionError(f"never {word!r}, but: {visitor.text}")


def request_hours(lin: Visitor) -> None:
    today = clock.day_of(clock.now())
    lin.follow("Request GPU-hours")
    assert lin.sees("Who may ask, rule by rule")
    lin.fill("GPU-hours", "5000")
    lin.fill("First day", today.isoformat())
    lin.fill("Last day", (today + dt.timedelta(days=60)).isoformat())
    lin.press("Begin the draft")
    lin.fill("What it is for", "训练一个方言语音识别基座模型。")
    lin.press("Submit the request")
    assert lin.sees_state("Submitted")


def approve_a_part(zhou: Visitor) -> None:
    zhou.follow("Decide")
    zhou.fill("Award", "4000")
    zhou.press("Show the effects")
    zhou.field("Reason from the list").select_option(index=1)
    zhou.fill("Reason (the company reads it)", "按模型规模估算，中期可再申请。")
    zhou.press("Approve %(hours)s GPU-hours", hours="4,000")
    assert zhou.sees_state("Active")


def book(chen: Visitor) -> int:
    chen.open("/start")
    chen.follow("Book compute", within=".head")
    chen.click(chen.page.locator("#kind a").last)
    chen.fill("Cards", "16")
    chen.fill("Longest run", "2")
    chen.fill("Title", "声码器对比实验")
    chen.press("Check price")
    promise = chen.page.locator(".promise").inner_text()
    assert money(32 * PRICE, chen.language) in promise
    assert chen.words("%(hours)s GPU-hours", hours="3,968") in promise  # left of the 4,000 that were awarded
    chen.click(chen.page.locator("button[name=step][value=book]"))
    return int(chen.page.url.rsplit("/", 1)[1])


def run_and_stop(chen: Visitor) -> None:
    wait_for_state(chen, "Running")
    chen.press("Start using")
    chen.page.wait_for_timeout(2_000)  # so that there is something to charge
    chen.follow("Stop booking")
    chen.click(chen.page.locator(".confirm .btn-danger"))
    wait_for_state(chen, "Settled")


def open_usage_down_to_the_record(chen: Visitor, booking_id: int, used: int) -> None:
    assert chen.page.locator("#hours .open", has_text=hours(used, chen.language)).count() >= 1
    chen.follow("Usage", within="header .nav-main")
    assert hours(used, chen.language) in chen.heading
    chen.click(chen.page.locator("aside .sum .open"))
    assert chen.page.locator(f"a.open[href$='/bookings/{booking_id}']").count() >= 1
    chen.click(chen.page.locator("tbody th a").first)
    assert chen.page.locator("#metered").is_visible()
    assert f"booking-{booking_id}-1" in chen.text


def open_statement_down_to_the_record(he: Visitor, booking_id: int, used: int) -> None:
    he.follow("Statements", within="header .nav-main")
    he.click(he.page.locator("tbody th a").first)
    assert he.sees_state("Draft")
    line = he.page.locator("tbody tr", has=he.page.locator(f"a[href$='/bookings/{booking_id}']"))
    charge = units.amount_micro_yuan(used, PRICE)
    assert amount(charge, he.language) in line.inner_text()
    he.click(line.locator("b .open"))
    assert f" {booking_id}" in he.heading and f"{used:,}" in he.text
    he.click(he.page.locator("tbody th a").first)
    assert he.page.locator("#priced").is_visible()


def test_from_the_request_to_the_draft_statement(house: House, visit: Visit, database: Database) -> None:
    lin, zhou, chen, he = visit(), visit(), visit(), visit()
    lin.sign_in("lin@yusheng.test")
    request_hours(lin)
    zhou.sign_in("zhou@bureau.test")
    approve_a_part(zhou)
    lin.page.reload()
    assert lin.sees_state("Active")

    chen.sign_in("chen@yusheng.test")
    booking_id = book(chen)
    run_and_stop(chen)
    with database.read_only() as session:
        booking = session.get_one(Booking, booking_id)
        assert booking.started_at is not None and booking.ended_at is not None
        used = 16 * clock.seconds_between(booking.started_at, booking.ended_at)
        assert booking.charged_gpu_seconds == used > 0
        assert booking.held_gpu_seconds == 0
    open_usage_down_to_the_record(chen, booking_id, used)

    he.sign_in("he@bureau.test")
    open_statement_down_to_the_record(he, booking_id, used)
