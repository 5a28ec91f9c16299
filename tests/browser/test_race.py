"""Fifty people see the same last window and press the button in the same instant: three at browsers, forty-seven by
clients that speak HTTP to a served portal. One has it; everybody else reads so and is shown the next one.

On PostgreSQL by gunicorn's two workers with the scheduler beside them, on SQLite by the threads of this process.
"""

from __future__ import annotations

import datetime as dt
import html
import http.client
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking, Waiter
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Database
from compute_portal.language import Language, say, typed
from compute_portal.policy import load_policy
from compute_portal.sentences import Sentence
from tests.browser.house import POLICY, House, award
from tests.browser.visitor import Visitor
from tests.together import at_once

BROWSERS, CLIENTS = 3, 47
CARDS, HOURS = 8, 24
SHARED_MOST = 16  # half of the pool's cards may be booked in advance
HIDDEN = re.compile(r'name="(csrf_token|form_key|quoted)"[^>]* value="([^"]*)"')
# At a browser it is the page's own clock that presses the button; all of them at one instant.
PRESS = """at => setTimeout(() => document.querySelector('form[action$="/bookings/offers/keep"] button').click(),
  at - Date.now())"""


@pytest.fixture
def house(unopened_house: House, database: Database) -> Iterator[House]:
    served = unopened_house.served_by_processes(workers=2) if database.is_postgresql else unopened_house.served_here()
    with served as house:
        yield house


@dataclass
class Client:
    """Somebody without a browser: a cookie jar, and a connection for each request."""

    host: str
    cookies: dict[str, str]
    language: Language
    text: str = ""

    def send(self, method: str, address: str, values: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if values is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, address, None if values is None else urlencode(values), headers)
        answer = connection.getresponse()
        self.text = html.unescape(answer.read().decode())
        for line in answer.headers.get_all("Set-Cookie") or []:
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}
        connection.close()
        return answer.status

    def hidden(self) -> dict[str, str]:
        return dict(HIDDEN.findall(self.text))


Press = Callable[[], str | None]  # None for who has it, else the start of the first window that is shown instead


@dataclass(frozen=True)
class Window:
    """So many cards from `at` on, and who wants them from which allocation."""

    at: dt.datetime
    allocations: dict[str, int]

    def wish(self, email: str) -> dict[str, str]:
        day = clock.day_of(self.at)
        days = {"from_on": day.isoformat(), "until_on": (day + dt.timedelta(days=3)).isoformat()}
        return {"gpus": str(CARDS), "longest": str(HOURS), "allocation_id": str(self.allocations[email])} | days

    def form(self, email: str) -> dict[str, str]:
        ends_at = self.at + HOURS * clock.HOUR
        times = {"starts_at": typed(self.at), "ends_at": typed(ends_at), "title": "夜间训练"}
        return {"kind": "fixed", "gpus": str(CARDS), "allocation_id": str(self.allocations[email])} | times


def last_window(house: House) -> Window:
    """A day, two days from now, of which others have all that may be booked in advance but eight cards."""
    town, now = house.town, clock.now()
    town.firm("luyu", "鹭屿视觉", "Luyu Vision", [("mei@luyu.test", "梅岚", "Mei Lan")])
    window = Window(
        clock.start_of_day(clock.day_of(now) + dt.timedelta(days=2)),
        {"chen@yusheng.test": award(town, 4_000), "mei@luyu.test": award(town, 4_000, firm="luyu")},
    )
    asked = BookingRequest(
        window.allocations["chen@yusheng.test"], BookingKind.FIXED, "语音基座", SHARED_MOST - CARDS,
        window.at, window.at + HOURS * clock.HOUR,
    )  # fmt: skip
    by, policy = town.firms["yusheng"].manager, load_policy(POLICY).bookings
    town.transact(lambda session: bookings.submit(session, asked, by=by, policy=policy, now=now).id)
    return window


def ready_to_keep(client: Client, email: str, window: Window) -> Press:
    """By the page of offers."""
    wish = window.wish(email)
    assert client.send("GET", f"/bookings/offers?{urlencode(wish)}") == 200
    sent = wish | client.hidden() | {"starts_at": typed(window.at)}

    def press() -> str | None:
        if client.send("POST", "/bookings/offers/keep", sent) == 302:
            return None
        assert say(Sentence("window-gone", n=CARDS, at=window.at), client.language) in client.text
        return re.findall(r'name="starts_at" value="([^"]+)"', client.text)[0]

    return press


def ready_to_book(client: Client, email: str, window: Window) -> Press:
    """By the booking form, its price already agreed to."""
    form = window.form(email)
    assert client.send("GET", f"/bookings/new?{urlencode(form)}") == 200
    sent = form | client.hidden() | {"step": "book"}
    full = Sentence("fixed-share-full", percent=50, most=SHARED_MOST, fixed=SHARED_MOST, asked=CARDS)

    def press() -> str | None:
        if client.send("POST", "/bookings/new", sent) == 302:
            return None
        assert say(full, client.language) in client.text
        (link, *_others) = re.findall(r'class="offer".*?href="([^"]+)"', client.text)
        return parse_qs(urlsplit(link).query)["starts_at"][0]

    return press


def test_of_three_browsers_and_47_clients_one_has_the_last_window_and_the_others_see_the_next(
    house: House, visit: Callable[..., Visitor], language: Language, database: Database
) -> None:
    window = last_window(house)
    emails = list(window.allocations)

    def client(n: int) -> Press:
        email, way = emails[n % 2], ready_to_keep if n % 4 < 2 else ready_to_book
        return way(Client(house.host, {"portal": house.session_of(email)}, language), email, window)

    people = [visit(emails[n % 2]) for n in range(BROWSERS)]
    for n, person in enumerate(people):
        person.page.goto(f"/bookings/offers?{urlencode(window.wish(emails[n % 2]))}")
    presses = at_once(*[lambda n=n: client(n) for n in range(CLIENTS)])
    assert all(callable(press) for press in presses), presses

    at = time.time() + 0.5
    for person in people:
        person.page.evaluate(PRESS, at * 1_000)
    results = at_once(*[lambda press=press: press_at(at, press) for press in presses])
    results += [shown(person, window) for person in people]

    following = typed(window.at + HOURS * clock.HOUR)
    assert sorted(map(str, results)) == [following] * (BROWSERS + CLIENTS - 1) + ["None"]
    with database.read_only() as session:
        booked = session.scalar(sa.select(sa.func.count()).select_from(Booking)) or 0
        kept = session.scalar(sa.select(sa.func.count()).select_from(Waiter)) or 0
    assert booked - 1 + kept == 1  # one of them was there before


def press_at(at: float, press: Press) -> str | None:
    time.sleep(max(0.0, at - time.time()))
    return press()


def shown(person: Visitor, window: Window) -> str | None:
    """What a browser whose button was pressed has come to."""
    person.page.wait_for_url(re.compile(r"/offers/keep$|/wait-list/\d+/take$"), wait_until="load")
    person.look()
    if person.page.url.endswith("/take"):
        return None
    assert person.reads("window-gone", n=CARDS, at=window.at)
    return person.page.locator("input[name=starts_at]").first.input_value()
