"""The calendar with its script: a window by keyboard, by two clicks, by drawing, and hours that renew themselves."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.bookings import service
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.enterprises.queries import actor_for
from compute_portal.policy import load_policy
from compute_portal.signin.queries import find_by_email
from tests.browser.house import POLICY, House, award
from tests.browser.visitor import Visitor

Visit = Callable[..., Visitor]
# What moved without anybody having typed or clicked, since the page began.
SHIFTS = """() => new Promise(told => {
  let sum = 0;
  new PerformanceObserver(list => list.getEntries().forEach(e => { sum += e.value; }))
    .observe({type: 'layout-shift', buffered: true});
  setTimeout(() => told(sum), 100);
})"""


def book(house: House, allocation: int, start: dt.datetime, gpus: int) -> None:
    def work(session: Session) -> None:
        user = find_by_email(session, "lin@yusheng.test")
        assert user is not None
        by = actor_for(session, user.id)
        assert by is not None
        asked = BookingRequest(allocation, BookingKind.FIXED, "夜间训练", gpus, start, start + clock.HOUR)
        service.submit(session, asked, by=by, policy=load_policy(POLICY).bookings, now=clock.now())

    house.database.transaction(work)


def cell(chen: Visitor, day: dt.date, hour: int) -> str:
    return f'table.cal td > [data-at="{day} {hour:02}:00"]'


def window_of(chen: Visitor) -> tuple[str, str]:
    chen.page.wait_for_url(re.compile("/bookings/new"))
    return chen.page.locator("#starts_at").input_value(), chen.page.locator("#ends_at").input_value()


def test_a_window_is_chosen_by_two_clicks_by_drawing_and_by_keyboard(house: House, visit: Visit) -> None:
    award(house.town, 4_000)
    chen = visit("chen@yusheng.test")
    day = clock.day_of(clock.now()) + dt.timedelta(days=2)
    chen.open("/pools/1/calendar?gpus=8")
    chen.page.click(cell(chen, day, 9))
    assert chen.page.locator("table.cal a.pick").count() == 1
    chen.page.click(cell(chen, day, 11))
    assert window_of(chen) == (f"{day} 09:00", f"{day} 12:00")

    chen.open("/pools/1/calendar?gpus=8")
    chen.page.drag_and_drop(cell(chen, day, 20), cell(chen, day + dt.timedelta(days=1), 2))
    assert window_of(chen) == (f"{day} 20:00", f"{day + dt.timedelta(days=1)} 03:00")

    chen.open("/pools/1/calendar?gpus=8&view=week")
    chen.page.focus(cell(chen, day, 22))
    for key in ("Enter", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown", "Enter"):
        chen.page.keyboard.press(key)  # 23:00, midnight at the top of the next day, back, and down again
    assert window_of(chen) == (f"{day} 22:00", f"{day + dt.timedelta(days=1)} 01:00")
    # Tab enters the table at one hour and leaves it again.
    chen.page.go_back()
    assert chen.page.locator("table.cal a[tabindex='0']").count() == 1


def test_what_somebody_else_books_appears_without_a_reload_and_nothing_moves(house: House, visit: Visit) -> None:
    allocation = award(house.town, 4_000)
    chen = visit("chen@yusheng.test")
    day = clock.day_of(clock.now()) + dt.timedelta(days=2)
    at = clock.start_of_day(day) + 9 * clock.HOUR
    for view in ("week", "day"):  # by `goto`: to look at a page changes the size of its window
        chen.page.goto(f"/pools/1/calendar?gpus=8&view={view}&first={day}")
        hour = chen.page.locator(cell(chen, day, 9))
        before = int(hour.inner_text())
        chen.page.evaluate("window.sameAsBefore = true")
        book(house, allocation, at, 8)
        chen.page.evaluate("document.dispatchEvent(new Event('calendar:renew'))")
        chen.page.wait_for_function(
            "([cell, before]) => parseInt(document.querySelector(cell).innerText) === before - 8",
            arg=[cell(chen, day, 9), before],
        )
        assert "mine" in (hour.get_attribute("class") or "")
        assert chen.page.evaluate("window.sameAsBefore") is True
        assert chen.page.evaluate(SHIFTS) == 0
