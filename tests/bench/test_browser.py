"""`make bench`: what a page weighs in a browser, when its largest part is painted, and whether anything moves.

Each page by the line of this machine and by a slow one (1.6 Mbit/s, 150 ms), on a desk and on a phone, in both
languages, nothing cached. What is sent is compressed as nginx does it by itself. Weight and shifts are verdicts, times
are figures. BENCH_PAINTS=5 loads each so often and shows the middle.
"""

from __future__ import annotations

import gzip
import os
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from compute_portal.db import Database
from compute_portal.language import LANGUAGES
from compute_portal.policy import Policy
from scheduler import cycle, figures, forecasting
from scheduler.context import simulation
from tests.browser.house import House
from tests.browser.test_everybody import Way, see, sign_in
from tests.browser.visitor import NARROW, WIDE, find_chromium, start
from tests.cast import HOUR, NOW, Cast

pytestmark = pytest.mark.bench
MOST_BYTES = 150_000
NGINX_LEVEL = 1  # gzip_comp_level, unless it is set
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 93_750}  # bytes a second
WATCH = """() => {
  window.seen = {paint: 0, moved: 0};
  new PerformanceObserver(list => { for (const e of list.getEntries()) window.seen.paint = e.startTime; })
    .observe({type: 'largest-contentful-paint', buffered: true});
  new PerformanceObserver(list => { for (const e of list.getEntries()) window.seen.moved += e.value; })
    .observe({type: 'layout-shift', buffered: true});
}"""
RENEWED = "stamp => document.querySelector('[data-as-of]').textContent !== stamp"


def compressed(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The app behind a proxy that compresses what is text."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        told: list[Any] = []

        def take(status: str, headers: list[tuple[str, str]], *_rest: Any) -> None:
            told[:] = [status, headers]

        body = b"".join(app(environ, take))
        status, headers = told
        if any(name == "Content-Type" and value.startswith(("text/", "image/svg")) for name, value in headers):
            body = gzip.compress(body, NGINX_LEVEL)
            headers = [pair for pair in headers if pair[0] != "Content-Length"]
            headers += [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]

    return answer


def fill(cast: Cast, policy: Policy) -> int:
    """Half of the pool runs, and more waits than fits; ranges and public figures are reckoned. Who waits longest."""
    rules = policy.bookings
    for start_in, gpus in ((20, 8), (44, 16)):
        cast.submit(cast.fixed(gpus, start_in, hours=9), rules)
    cast.submit(cast.flexible(32, 6, allocation_id=cast.other_allocation), rules, by=cast.stranger)
    context = simulation(cast.database, policy)
    cycle.run(context, NOW)
    waits = [cast.submit(cast.flexible(gpus, hours), rules) for gpus, hours in ((8, 3), (16, 5), (32, 8))][-1]
    for later in (0, 1, 2):
        now = NOW + later * HOUR / 4
        cycle.run(context, now)
        cycle.write_standings(context, now)
        forecasting.run(context, now)
    figures.run(context, NOW)
    figures.look(context, NOW)
    context.leader.release()
    return waits


def opened(context: BrowserContext, address: str, *, slow: bool) -> tuple[Page, list[float]]:
    """A page that has come to rest, and the bytes of everything it loaded."""
    page = context.new_page()
    line = context.new_cdp_session(page)
    sizes: list[float] = []
    line.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    line.send("Network.enable")
    line.send("Network.setCacheDisabled", {"cacheDisabled": True})
    if slow:
        line.send("Network.emulateNetworkConditions", SLOW)
    page.goto(address, wait_until="networkidle")
    page.evaluate(WATCH)
    page.wait_for_timeout(200)
    return page, sizes


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_page_weighs_when_it_is_painted_and_that_nothing_moves(
    database: Database, cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    path = find_chromium()
    assert path is not None, "there is no Chromium on PATH"
    times = int(os.environ.get("BENCH_PAINTS") or 3)
    waits = fill(cast, policy)
    pages = {
        "booking, fixed hours": ("lin", f"/bookings/new?allocation_id={cast.allocation}&gpus=8"),
        "booking, as soon as possible": ("lin", f"/bookings/new?kind=flexible&allocation_id={cast.allocation}&gpus=8"),
        "offers": ("lin", "/bookings/offers?gpus=8&longest=48"),
        "calendar": ("lin", f"/pools/{cast.pool}/calendar"),
        "a booking that waits": ("lin", f"/bookings/{waits}"),
        "commons, front page": (None, "/"),
    }
    print(f"\n  {'':30}{'':14}{'requests':>9}{'kB':>7}{'largest paint ms':>18}{'by a slow line':>16}{'shift':>8}")
    wrong: list[str] = []
    with (
        House(database, None, tmp_path).served_here() as house,  # type: ignore[arg-type]
        sync_playwright() as playwright,
        start(playwright, path) as browser,
    ):
        assert house.app is not None
        house.app.wsgi_app = compressed(house.app.wsgi_app)  # type: ignore[method-assign]
        house.move_to(NOW + HOUR)
        for name, (person, address) in pages.items():
            for language in LANGUAGES:
                for phone in (False, True):
                    way = Way(language, "light", phone)
                    database.transaction(lambda session, way=way: see(session, way))  # type: ignore[misc]
                    wrong += _measure(browser, house, cast, name, person, address, way, times)
        _check_that_a_shift_is_seen(browser, house)
    assert not wrong, "\n".join(wrong)


def _measure(
    browser: Browser, house: House, cast: Cast, name: str, person: str | None, address: str, way: Way, times: int
) -> list[str]:
    """A line of the table; what is wrong with the page."""
    paints: dict[bool, list[float]] = {False: [], True: []}
    with browser.new_context(viewport=NARROW if way.phone else WIDE) as context:
        sign_in(context, house, person, way)
        for slow in (False, True):
            for _ in range(times):
                page, sizes = opened(context, house.address + address, slow=slow)
                if page.locator("[data-as-of]").count():
                    _renew(page, house, cast)
                seen = page.evaluate("window.seen")
                paints[slow].append(seen["paint"])
                page.close()
    paint, by_slow_line = (statistics.median(each) for each in paints.values())
    where = f"{way.language}, {'phone' if way.phone else 'desk'}"
    weight = sum(sizes)
    print(
        f"  {name:30}{where:14}{len(sizes):9}{weight / 1_000:7.1f}{paint:18.0f}{by_slow_line:16.0f}{seen['moved']:8.4f}"
    )
    found = []
    if weight > MOST_BYTES:
        found.append(f"{name} ({where}) weighs {weight:,.0f} bytes")
    if seen["moved"]:
        found.append(f"{name} ({where}) moves by {seen['moved']}")
    return found


def _renew(page: Page, house: House, cast: Cast) -> None:
    """Somebody books while the page is open, and the page fetches it."""
    stamp = page.locator("[data-as-of]").inner_text()
    assert house.now is not None and house.app is not None
    house.move_to(house.now + HOUR / 60)
    rules = house.app.extensions["portal"].policy.bookings.model_copy(update={"fixed_open_most": 1_000})
    cast.submit(cast.fixed(1, start_in=house.now.minute % 40 + 8, hours=1), rules)
    page.evaluate("document.dispatchEvent(new Event('calendar:renew'))")
    page.wait_for_function(RENEWED, arg=stamp)
    page.wait_for_timeout(100)


def _check_that_a_shift_is_seen(browser: Browser, house: House) -> None:
    with browser.new_context(viewport=WIDE) as context:
        page, _sizes = opened(context, house.address, slow=False)
        page.evaluate("""() => {
          const late = document.createElement('p');
          late.textContent = 'late';
          document.querySelector('main h1').before(late);
        }""")
        page.wait_for_function("window.seen.moved > 0")
