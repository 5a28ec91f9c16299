"""Every page for everybody: axe finds nothing wrong with it, and a phone need not scroll sideways.

The pages are the app's own list of routes, so that a new one is looked at by itself: each once, in turn in one of four
ways in which each pair of language, theme and width occurs; half of them on each store. `make axe-all` looks at every
page in all eight ways.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Error

from compute_portal.access import ALLOWED, Permission
from compute_portal.guard import PUBLIC, access_of
from compute_portal.language import HTML_LANG, Language
from compute_portal.policy import Policy
from compute_portal.signin.models import User
from tests.browser.house import House
from tests.browser.visitor import NARROW, SIDEWAYS, WIDE
from tests.cast import NOW, Cast
from tests.compute_portal.desk.test_impact import record
from tests.compute_portal.review import house as review
from tests.house.test_access import ROWS, SHARED, address, routes
from tests.house.town import PERSON_OF, Town, build

VENDOR = Path(__file__).parent / "vendor"
AXE = (VENDOR / "axe.min.js").read_text(encoding="utf-8")
RUN = """async () => {
  const found = await axe.run(document, {resultTypes: ['violations'], xpath: false});
  const where = rule => rule.nodes.slice(0, 3).map(node => node.target.join(' ') + ' ' + node.html.slice(0, 160));
  return found.violations.map(rule => [rule.id, rule.impact, rule.help, rule.nodes.length, where(rule)]);
}"""
# No page: a file to download, or what machines ask for.
NO_PAGES = (".csv", ".zip", ".pdf", ".xlsx", ".ics", ".json")
MACHINES = frozenset({"healthz", "readyz"})
# The same page with other things on it.
VARIANTS = {
    "calendar.page": ("?view=day", "?view=day&by=nodes", "?view=month", "?starts_at=2026-11-19+10:00"),
    "bookings.new": ("?kind=flexible", "?gpus=99"),
    "calendar.offers": ("?longest=400", "?gpus=many"),
}


@dataclass(frozen=True)
class Way:
    """How somebody looks at the portal."""

    language: Language
    theme: str
    phone: bool

    def __str__(self) -> str:
        return f"{self.language}, {self.theme}, {'phone' if self.phone else 'desk'}"


# Each pair of values of two of the three occurs in one of these.
FOUR = (Way("zh", "light", False), Way("zh", "dark", True), Way("en", "light", True), Way("en", "dark", False))
ALL = tuple(
    Way(language, theme, phone)  # type: ignore[arg-type]
    for language, theme, phone in itertools.product(("zh", "en"), ("light", "dark"), (False, True))
)


def pages(app: Flask, town: Town) -> Iterator[tuple[str | None, str]]:
    """Every address with GET, and who opens it: the first person who may, nobody where nobody need be signed in."""
    for rule, method in routes(app):
        if method != "GET" or rule.rule.endswith(NO_PAGES) or rule.endpoint in MACHINES:
            continue
        access = access_of(app, rule.endpoint)
        person = None
        if access != PUBLIC:
            person = next(name for role, name in PERSON_OF.items() if Permission(access) in ALLOWED[role])
        where = address(app, rule, {a: (ROWS.get(a) or SHARED[a])(town, person or "chen") for a in rule.arguments})
        for variant in ("", *VARIANTS.get(rule.endpoint, ())):
            yield person, where + variant


def decisions(cast: Cast, policy: Policy) -> list[tuple[str | None, str]]:
    """What waits for an operator, with its effects, and what a company reads before it asks: the town has decided all
    of its own."""
    record(cast)
    request = review.ask(cast, by=cast.manager)
    flexible = cast.submit(cast.flexible(gpus=32, hours=100), policy.bookings)
    fixed = cast.submit(cast.fixed(gpus=16, start_in=30, hours=160), policy.bookings)
    addresses = (f"/reviews/{request}", f"/bookings/{flexible}", f"/bookings/{fixed}")
    return [*(("zhou", address) for address in addresses), ("lin", "/allocations/request")]


def look(context: BrowserContext, house: House, where: str, way: Way) -> Iterator[str]:
    """What is wrong with one page, one line each."""
    page = context.pages[0]
    try:
        answer = page.goto(house.address + where)
    except Error as error:
        if "Download is starting" in error.message:
            return
        raise
    if answer is None or not (answer.headers.get("content-type") or "").startswith("text/html"):
        return
    here = f"{where} ({way}, {answer.status})"
    if answer.status >= 500:
        yield f"{here}: broken"
    if page.locator("html").get_attribute("lang") != HTML_LANG[way.language]:
        yield f"{here}: in the wrong language"
    page.evaluate(AXE)  # the policy of the page lets no script in by a tag
    found: list[list[Any]] = page.evaluate(RUN)
    for id, impact, says, number, examples in found:
        yield f"{here}: {id} ({impact}) {says}, {number} times: " + " | ".join(examples)
    if not way.phone:
        page.set_viewport_size(NARROW)
    if too_wide := page.evaluate(SIDEWAYS):
        yield f"{here}: at 360 px the page is {too_wide}"
    if not way.phone:
        page.set_viewport_size(WIDE)


def test_axe_finds_nothing_on_any_page_and_none_scrolls_sideways_on_a_phone(
    browser: Browser, cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    everything = os.environ.get("AXE") == "all"
    town = build(cast, policy)
    wrong: list[str] = []
    with House(cast.database, None, tmp_path).served_here() as house:  # type: ignore[arg-type]
        house.move_to(NOW)
        assert house.app is not None
        every = [*pages(house.app, town), *decisions(cast, policy)]
        assert len(every) > 90, "the walk finds hardly any page"
        half = every[cast.database.is_postgresql :: 2]
        for number, way in enumerate(ALL if everything else FOUR):
            cast.database.transaction(lambda s, way=way: see(s, way))  # type: ignore[misc]
            shown = half if everything else half[number :: len(FOUR)]
            seen: str | None = "nobody yet"
            with browser.new_context(viewport=NARROW if way.phone else WIDE, color_scheme=way.theme) as context:  # type: ignore[arg-type]
                context.new_page()
                for person, where in sorted(shown, key=lambda one: one[0] or ""):
                    if person != seen:
                        sign_in(context, house, person, way)
                        seen = person
                    wrong += look(context, house, where, way)
    assert not wrong, f"{len(wrong)} problems:\n" + "\n".join(wrong)


def sign_in(context: BrowserContext, house: House, person: str | None, way: Way) -> None:
    """As this person, or as a guest who chose this language and theme."""
    told = {"portal-language": way.language, "portal-theme": way.theme}
    if person is not None:
        told = {"portal": house.session_of(f"{person}@example.cn")}
    context.clear_cookies()
    context.add_cookies([{"name": name, "value": value, "url": house.address} for name, value in told.items()])


def see(session: Any, way: Way) -> None:
    session.execute(sa.update(User).values(language=way.language, theme=way.theme))


def test_each_pair_of_language_theme_and_width_is_among_the_four_ways() -> None:
    for one, other in itertools.combinations(("language", "theme", "phone"), 2):
        pairs = {(getattr(way, one), getattr(way, other)) for way in FOUR}
        assert pairs == {(getattr(way, one), getattr(way, other)) for way in ALL}


def test_axe_finds_what_is_wrong(browser: Browser) -> None:
    """A picture without words and grey letters on grey: a walk that finds nothing must be able to find something."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_content(
            '<html lang="en"><title>x</title><main><img src="a.png"><p style="color:#aaa">Hardly there</p>'
        )
        page.evaluate(AXE)
        assert {"image-alt", "color-contrast"} <= {rule[0] for rule in page.evaluate(RUN)}
