"""Take the README's pictures from a running demo: `.venv/bin/python -m tests.browser.pictures http://127.0.0.1:8000`.

The demo city ends at the present moment, so take them soon after `make demo` has filled it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import sync_playwright

from compute_portal.language import Language
from config.settings import DEMO_PASSWORD
from tests.browser.house import seconds
from tests.browser.visitor import Visitor, find_chromium, start

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MOST_BYTES = 200_000
LOOK_AHEAD_SECONDS = 900  # [queue] forecast_seconds, and time to do it


def operators_start(zhou: Visitor) -> None:
    zhou.page.goto("/start")


def booking_form(lin: Visitor) -> None:
    lin.page.goto("/bookings/new?kind=flexible")
    lin.fill("Cards", "64")
    lin.fill("Longest run", "24")
    lin.fill("Title", "Dialect speech pre-training")
    lin.press("Check price")


def waiting_booking(lin: Visitor) -> None:
    """One that has a place in the queue; its page says why it waits, and when it starts: after the next look ahead."""
    lin.page.goto("/bookings?tab=upcoming")
    queued = lin.page.locator("tbody tr", has=lin.page.locator(".state-wait"))
    (queued if queued.count() else lin.page.locator("tbody tr")).first.locator("th a").click()
    for _ in seconds(LOOK_AHEAD_SECONDS, 5):
        if not lin.sees("not known yet"):
            return
        lin.page.reload()
    raise AssertionError("nobody has looked ahead yet: is the scheduler of the demo running?")


def calendar(lin: Visitor) -> None:
    lin.page.goto("/pools")
    lin.page.locator("tbody th a", has_text="H800").first.click()
    lin.follow("Calendar")


def front_page(guest: Visitor) -> None:
    guest.page.goto("/")


def statement(he: Visitor) -> None:
    he.page.goto("/statements")
    he.page.locator("tbody th a").first.click()


# Nobody's e-mail: a guest.
PICTURES: tuple[tuple[str, Language, str | None, Callable[[Visitor], None]], ...] = (
    ("start.zh", "zh", "zhou@bureau.demo", operators_start),
    ("book.en", "en", "manager@yusheng.demo", booking_form),
    ("waiting.zh", "zh", "manager@yusheng.demo", waiting_booking),
    ("statement.en", "en", "he@bureau.demo", statement),
    ("calendar.zh", "zh", "manager@yusheng.demo", calendar),
    ("commons.zh", "zh", None, front_page),
)


def main(address: str) -> int:
    path = find_chromium()
    if path is None:
        print("There is no Chromium on PATH: sudo apt install chromium-headless-shell fonts-noto-cjk", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, start(playwright, path) as browser:
        for name, language, email, show in PICTURES:
            with Visitor(browser, address, language) as visitor:
                if email is not None:
                    visitor.sign_in(email, DEMO_PASSWORD)
                show(visitor)
                taken = visitor.page.screenshot(path=FOLDER / f"{name}.png")
                print(f"docs/pictures/{name}.png {len(taken):,} bytes")
                if len(taken) > MOST_BYTES:
                    print(f"{name}.png is larger than {MOST_BYTES:,} bytes", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ["http://127.0.0.1:8000"]))
