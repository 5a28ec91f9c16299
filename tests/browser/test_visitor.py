"""The visitor of the other tests notices what is wrong with a page: else nothing here would mean anything."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Route

from compute_portal.app import HEADERS
from tests.browser.visitor import Visitor

HOUSE = "http://127.0.0.1:9"  # nobody answers there: the pages below are given to the browser by the test
PAGE = "<!doctype html><html lang={language}><title>t</title><main><h1>t</h1>{body}</main>"


def visit(browser: Browser, body: str, language: str = "en", status: int = 200) -> list[str]:
    def answer(route: Route) -> None:
        found = route.request.url == f"{HOUSE}/page"
        route.fulfill(
            status=status if found else 404,
            headers=HEADERS | {"Content-Type": "text/html; charset=utf-8"},
            body=PAGE.format(language=language, body=body) if found else "",
        )

    visitor = Visitor(browser, HOUSE, "en")
    visitor.context.route("**/*", answer)
    visitor.open("/page")
    visitor.context.close()
    return visitor.wrong


@pytest.mark.parametrize(
    ("body", "noticed"),
    [
        ("<p style='color:red'>inline</p>", "Content Security Policy"),
        ("<script>document.title = 'x'</script>", "Content Security Policy"),
        ("<img src='https://elsewhere.example/mark.svg' alt=''>", "Content Security Policy"),
        ("<table><tr><td><pre>" + "wide " * 40 + "</pre></table>", "at 360 px"),
        ("<img src='/missing.svg' alt=''>", "404 GET"),
    ],
)
def test_the_visitor_notices(browser: Browser, body: str, noticed: str) -> None:
    wrong = visit(browser, body)
    assert any(noticed in line for line in wrong), wrong


def test_the_visitor_notices_the_wrong_language_and_a_broken_page(browser: Browser) -> None:
    assert visit(browser, "", language="zh-Hans") == ["/page: the page is in zh-Hans"]
    assert visit(browser, "", status=500) == [f"500 GET {HOUSE}/page"]


def test_the_visitor_finds_nothing_wrong_with_a_good_page(browser: Browser) -> None:
    assert visit(browser, "<p>all is well</p>") == []
    assert visit(browser, "<p>refused</p>", status=422) == []
