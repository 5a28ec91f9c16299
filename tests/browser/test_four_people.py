"""A start-up, an operator, finance and somebody who never signed in, on a desk and on a phone, in both languages.

Four on each store, one after the other in one city: of person, width and language each pair of values occurs. What they
do after each other hangs together; what they do alone is told at length in the other tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from compute_portal import clock
from compute_portal.access import Role
from compute_portal.commons import service as commons
from compute_portal.db import Database
from compute_portal.language import Language, money
from scheduler import duties, figures
from tests.browser.house import House, PostOffice, award
from tests.browser.test_money import PRICE, flexible, use
from tests.browser.test_public import CATALOGUED
from tests.browser.visitor import Visitor


class Way(NamedTuple):
    phone: bool
    reads: Language


# In the order in which they come: startup, operator, finance, public.
ON_SQLITE = (Way(False, "zh"), Way(True, "zh"), Way(False, "en"), Way(True, "en"))
ON_POSTGRESQL = (Way(True, "en"), Way(False, "en"), Way(True, "zh"), Way(False, "zh"))


def test_each_pair_of_person_width_and_language_occurs() -> None:
    told = [(n, *way) for ways in (ON_SQLITE, ON_POSTGRESQL) for n, way in enumerate(ways)]
    everything = list(itertools.product(range(4), (False, True), ("zh", "en")))
    for one, other in itertools.combinations(range(3), 2):
        assert {(way[one], way[other]) for way in told} == {(way[one], way[other]) for way in everything}


def books_a_window_and_asks_for_more(chen: Visitor) -> int:
    chen.go("Bookings")
    chen.follow("Book compute", within=".head")
    chen.follow("Find a window for me")
    chen.fill("Cards", "8")
    chen.fill("For how long", "4")
    chen.press("Look for windows")
    price = chen.page.locator(".offer .r b").first.inner_text()
    assert price == money(32 * PRICE, chen.language)
    chen.click(chen.page.locator(".offer button").first)
    assert price in chen.text
    chen.press("Book it")
    assert chen.sees_state("Confirmed")
    chen.open("/bookings/new?kind=flexible")
    for label, text in (("Cards", "8"), ("Longest run", "300"), ("Title", "语音基座")):
        chen.fill(label, text)
    chen.press("Check price")
    assert money(2_400 * PRICE, chen.language) in chen.page.locator(".promise").inner_text()
    chen.click(chen.page.locator("button[name=step][value=book]"))
    assert chen.sees_state("Awaiting approval")
    return int(chen.page.url.rsplit("/", 1)[1])


def weighs_it_approves_it_and_drains_a_node(zhou: Visitor, booking_id: int) -> None:
    zhou.go("Queue")
    zhou.click(zhou.page.locator(f"tbody th a[href$='/bookings/{booking_id}']"))
    assert zhou.sees("%(pool)s cards in use", pool="H800")
    zhou.press("Approve %(hours)s GPU-hours", hours="2,400")
    assert zhou.sees_state("Queued")
    zhou.go("Cluster")
    zhou.click(zhou.page.locator(".racks a").first)
    zhou.page.locator("input[name=node_ids]").first.check()
    zhou.fill("Reason", "换网卡")
    zhou.press("Drain the chosen nodes")
    assert "换网卡" in zhou.text


def opens_a_charge_and_checks_the_statement(he: Visitor, used: int) -> None:
    he.go("Statements")
    he.click(he.page.locator("tbody th a").first)
    assert he.sees_state("In review")
    sheet = he.page.url
    he.click(he.page.locator(".sheet tbody .open").first)
    assert f" {used}" in he.heading
    he.page.goto(sheet)
    he.press("Checked")
    assert he.sees("Checked; another person approves.")
    he.go("Prices")
    assert "16.50" in he.text


def reads_what_there_is_and_a_figure_with_its_data(guest: Visitor) -> None:
    guest.open("/")
    assert "H800" in guest.text and "31.6 P" in guest.text
    guest.go("Programmes")
    guest.go("Datasets")
    assert ("公交到站" if guest.language == "zh" else "Bus arrivals") in guest.text
    guest.go("Public figures")
    guest.page.locator("summary", has_text=guest.words("Definition and data")).first.click()
    assert guest.page.get_by_role("link", name="time-to-permit.csv").is_visible()


def test_four_people_do_their_part_on_a_desk_and_on_a_phone_in_both_languages(
    house: House, visit: Callable[..., Visitor], post: PostOffice, database: Database
) -> None:
    town, opened = house.town, house.town.opened_at
    used = use(town, post, flexible(award(town, 4_000, at=opened), 8, "声码器对比实验"), opened + clock.HOUR)
    database.transaction(lambda s: commons.list_dataset(s, CATALOGUED, by=town.bureau[Role.OPERATOR], now=opened).id)
    over = clock.month_bounds(clock.month_of(opened))[1] + 3 * clock.HOUR
    house.move_to(over)
    assert duties.close_months(post.context, over) == 1
    figures.run(post.context, over)
    figures.look(post.context, over)

    startup, operator, finance, public = ON_POSTGRESQL if database.is_postgresql else ON_SQLITE
    booking_id = books_a_window_and_asks_for_more(visit("chen@yusheng.test", **startup._asdict()))
    weighs_it_approves_it_and_drains_a_node(visit("zhou@bureau.test", **operator._asdict()), booking_id)
    opens_a_charge_and_checks_the_statement(visit("he@bureau.test", **finance._asdict()), used)
    reads_what_there_is_and_a_figure_with_its_data(visit(**public._asdict()))
