"""What happens every day at a desk: typing mistakes, double clicks, another language, leaving, a phone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

import sqlalchemy as sa
from playwright.sync_api import Request

from compute_portal import clock, units
from compute_portal.bookings.models import Booking
from compute_portal.db import Database
from compute_portal.language import HTML_LANG, LANGUAGES, hours, money
from tests.browser.house import PASSWORD, House, award
from tests.browser.visitor import Visitor

A_BOOKING = re.compile(r"/bookings/\d+(#\w+)?$")
Visit = Callable[..., Visitor]
PRICE = units.parse_yuan("16.50")
EVERYBODY = ("lin@yusheng.test", "zhou@bureau.test", "he@bureau.test", "xu@bureau.test", "an@bureau.test")


def bookings_in(database: Database) -> int:
    with database.read_only() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Booking)) or 0


def fill_flexible_form(chen: Visitor, cards: str) -> None:
    chen.open("/bookings/new?kind=flexible")
    chen.fill("Cards", cards)
    chen.fill("Longest run", "1.5")
    chen.fill("Title", "消融实验 <第 2 组>")
    chen.press("Check price")


def test_a_refused_form_says_why_at_the_field_and_keeps_what_was_typed(
    house: House, visit: Visit, database: Database
) -> None:
    award(house.town, 400)
    chen = visit("chen@yusheng.test")
    fill_flexible_form(chen, "300")  # the pool has 32
    cards = chen.field("Cards")
    assert cards.get_attribute("aria-invalid") == "true"
    assert chen.page.locator("#gpus-error").is_visible()
    assert [chen.field(label).input_value() for label in ("Cards", "Longest run", "Title")] == [
        "300", "1.5", "消融实验 <第 2 组>",
    ]  # fmt: skip
    assert chen.page.title().startswith(chen.words_n("One thing needs a change", "%(num)s things need a change", 1))
    # the summary leads to the field, without a script
    chen.page.locator(".summary-error a").first.click()
    assert chen.page.evaluate("document.querySelector(':target').id") == "gpus"
    assert bookings_in(database) == 0


def test_fixed_hours_are_booked_on_named_cards_and_cancelled_free_of_charge(
    house: House, visit: Visit, database: Database
) -> None:
    award(house.town, 4_000)
    chen = visit("chen@yusheng.test")
    day = clock.day_of(clock.now()) + dt.timedelta(days=3)
    chen.open("/bookings/new")
    chen.fill("Cards", "8")
    chen.fill("Start time", f"{day} 10:00")
    chen.fill("End time", f"{day} 14:00")
    chen.fill("Title", "语音基座第三阶段")
    chen.press("Check price")
    assert money(32 * PRICE, chen.language) in chen.page.locator(".promise").inner_text()
    chen.click(chen.page.locator("button[name=step][value=book]"))
    assert chen.sees_state("Confirmed")

    chen.follow("Cancel booking")
    chen.press("See what it costs now")
    chen.press("Cancel free of charge")
    assert chen.sees_state("Cancelled")
    chen.follow("Allocations", within="header .nav-main")
    assert hours(units.gpu_seconds(4_000), chen.language) in chen.text
    with database.read_only() as session:
        assert session.scalars(sa.select(Booking.held_gpu_seconds)).all() == [0]


def test_a_double_click_books_once(house: House, visit: Visit, database: Database) -> None:
    award(house.town, 400)
    chen = visit("chen@yusheng.test")
    fill_flexible_form(chen, "8")
    sent: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            sent.append(request.post_data or "")

    chen.page.on("request", note)
    # A slow line: the answer to the first click is still under way at the second.
    line = chen.context.new_cdp_session(chen.page)
    line.send("Network.enable")
    line.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 500, "downloadThroughput": -1, "uploadThroughput": -1},
    )
    button = chen.page.locator("button[name=step][value=book]")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    for _ in range(2):  # by the mouse itself: it does not wait for a page as a polite robot would
        chen.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        chen.page.wait_for_timeout(100)
    chen.page.wait_for_url(A_BOOKING)
    assert len(sent) == 2 and sent[0] == sent[1]
    assert bookings_in(database) == 1


def test_the_language_switch_keeps_the_page_and_is_remembered(house: House, visit: Visit) -> None:
    award(house.town, 400)
    lin = visit("lin@yusheng.test")
    lin.open("/allocations?tab=ended")
    before = lin.page.url
    lin.language = next(other for other in LANGUAGES if other != lin.language)
    lin.click(lin.page.locator("header button[name=language]").first)
    assert lin.page.url == before
    assert lin.page.locator(".tabs [aria-current]").inner_text().startswith(lin.words("Ended"))
    again = visit()
    again.language = lin.language  # the account remembers it, whatever the browser prefers
    again.wrong.clear()
    again.page.goto("/sign-in")
    again.page.locator("#email").fill("lin@yusheng.test")
    again.page.locator("#password").fill("wrong on purpose")
    again.page.locator("main button[type=submit]").click()
    assert again.page.locator(".summary-error").is_visible()
    again.page.locator("#password").fill(PASSWORD)
    again.click(again.page.locator("main button[type=submit]"))
    assert again.page.locator("html").get_attribute("lang") == HTML_LANG[lin.language]


def test_after_signing_out_a_copied_cookie_opens_nothing(house: House, visit: Visit) -> None:
    chen, thief = visit("chen@yusheng.test"), visit()
    copied = chen.context.cookies()
    thief.context.add_cookies(copied)  # type: ignore[arg-type]
    thief.open("/start")
    assert thief.page.url.endswith("/start")
    chen.press("Sign out", within="header .nav-side")
    thief.open("/bookings")
    assert "/sign-in" in thief.page.url
    chen.page.go_back()
    chen.page.reload()
    assert "/sign-in" in chen.page.url


def test_every_page_of_every_header_opens_and_fits_a_phone(house: House, visit: Visit, database: Database) -> None:
    """Each address once: on one store as its first reader sees it, on the other as its last one."""
    award(house.town, 400)
    seen: set[str] = set()
    for email in EVERYBODY if database.is_postgresql else reversed(EVERYBODY):
        person = visit(email, phone=True)
        links = person.page.locator("header .nav-main a")
        for address in links.evaluate_all("links => links.map(link => link.getAttribute('href'))"):
            if address not in seen:
                person.open(address)
                assert person.page.locator("h1").count() == 1, address
                seen.add(address)
    assert len(seen) > 15


def test_a_phone_has_the_whole_menu_and_books(house: House, visit: Visit, database: Database) -> None:
    award(house.town, 400)
    chen = visit("chen@yusheng.test", phone=True)
    chen.page.locator("header .menu summary").click()
    assert chen.page.locator("header .menu").get_by_role("link", name=chen.words("Bookings"), exact=True).is_visible()
    chen.page.goto("/bookings/new?kind=flexible")
    for label, text in (("Cards", "8"), ("Longest run", "1"), ("Title", "手机预约")):
        chen.fill(label, text)
    chen.page.locator("button[name=step][value=check]").click()
    chen.page.locator(".dockbar .btn").click()  # leads to the price, which is below on a phone
    chen.page.locator("button[name=step][value=book]").click()
    chen.page.wait_for_url(A_BOOKING)
    assert bookings_in(database) == 1
