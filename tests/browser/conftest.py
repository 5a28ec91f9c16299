"""The running house and browsers to visit it with. Without Chromium these tests are skipped, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from compute_portal import verify
from compute_portal.db import Database
from compute_portal.language import Language
from tests.browser.house import House, PostOffice, build_town
from tests.browser.visitor import Visitor, find_chromium, start

NO_CHROMIUM = "no Chromium on PATH: sudo apt install chromium-headless-shell fonts-noto-cjk"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright, start(playwright, path) as browser:
        yield browser


@pytest.fixture
def language(database: Database) -> Language:
    """Each store is visited in one language: Chinese on SQLite, English on PostgreSQL."""
    return "en" if database.is_postgresql else "zh"


@pytest.fixture
def unopened_house(browser: Browser, database: Database, tmp_path: Path) -> Iterator[House]:
    """A town with nobody serving it yet. What happened there must hold when the test is over."""
    yield House(database, build_town(database), tmp_path)
    with database.read_only() as session:
        assert verify.run(session) == []


@pytest.fixture
def house(unopened_house: House) -> Iterator[House]:
    """Served by this process; `test_journey` has its own, of real processes."""
    with unopened_house.served_here() as house:
        yield house


@pytest.fixture
def post(house: House) -> Iterator[PostOffice]:
    with house.with_mail() as post:
        yield post


@pytest.fixture
def visit(browser: Browser, house: House, language: Language) -> Iterator[Callable[..., Visitor]]:
    """`visit("chen@yusheng.test")` is a browser of its own, with a session; `visit()` a guest's, who may sign in."""
    with ExitStack() as everybody:

        def begin(email: str | None = None, *, phone: bool = False, reads: Language = language) -> Visitor:
            visitor = everybody.enter_context(Visitor(browser, house.address, reads, phone=phone))
            if email is not None:
                visitor.context.add_cookies(
                    [{"name": "portal", "value": house.session_of(email), "url": house.address}]
                )
                visitor.arrive()
            return visitor

        yield begin
