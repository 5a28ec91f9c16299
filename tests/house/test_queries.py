"""Every page of every role: at most ten queries however much there is, no dead link, and looking changes nothing.

The pages are the app's own list of routes, and the links that these pages show; a new page is checked by itself.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
import sqlalchemy as sa
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from compute_portal.access import ALLOWED, Permission, Role
from compute_portal.db import Database
from compute_portal.guard import PUBLIC, access_of, allows, read
from compute_portal.policy import Policy
from tests.cast import NOW, Cast, make_cast
from tests.house.test_access import ROWS, SHARED, address, contents, routes
from tests.house.town import PERSON_OF, Town, build, grow
from tests.web import Queries, make_app, set_now, sign_in, with_feature

MOST = 10  # session and person included
MANY = 1_000
LINK = re.compile(r'(href|formaction)="(/[^"#]*)')
# A file of all rows is read in parts while it is sent: it is no page. Nor is a zip of all that belongs to a thing.
FILES = (".csv", ".zip")


def the_app(database: Database, policy: Policy) -> Flask:
    app = make_app(database, policy)
    set_now(app, NOW)
    return app


def pages(app: Flask, town: Town, role: Role) -> Iterator[str]:
    """Every address with GET that this role may open, once."""
    for rule, method in routes(app):
        access = access_of(app, rule.endpoint)
        if method != "GET" or rule.rule.endswith(FILES) or access == PUBLIC:
            continue
        if Permission(access) in ALLOWED[role] and rule.arguments <= ROWS.keys() | SHARED.keys():
            person = PERSON_OF[role]
            yield address(app, rule, {name: (ROWS.get(name) or SHARED[name])(town, person) for name in rule.arguments})


def kind_of(app: Flask, link: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """What tells links apart that are worth a visit each: the route and its choices, not its ids and dates."""
    parts = urlsplit(link)
    try:
        endpoint, _ = app.url_map.bind(app.config["SERVER_NAME"]).match(parts.path, "GET")
    except (HTTPException, RequestRedirect):
        return "nowhere", ((parts.path, ""),)
    if endpoint == "static":
        return None
    choices = tuple((key, value if value.isalpha() else "") for key, value in sorted(parse_qsl(parts.query)))
    return endpoint, choices


def is_button(app: Flask, link: str) -> bool:
    """A form is sent there; it is nothing to open."""
    try:
        app.url_map.bind(app.config["SERVER_NAME"]).match(urlsplit(link).path, "GET")
    except MethodNotAllowed:
        return True
    except (HTTPException, RequestRedirect):
        return False
    return False


def visit(app: Flask, client: FlaskClient, first: list[str]) -> Iterator[tuple[str, int, str]]:
    """Open the pages, then every kind of link that they show; (address, status, the page that linked to it)."""
    waiting = [(page, "") for page in first]
    seen = {kind_of(app, page) for page in first}
    while waiting:
        page, shown_by = waiting.pop(0)
        answer = client.get(page)
        yield page, answer.status_code, shown_by
        if answer.mimetype != "text/html" or answer.status_code != 200:
            continue
        for attribute, escaped in LINK.findall(answer.text):
            link = html.unescape(escaped)
            if attribute == "formaction" and is_button(app, link):
                continue
            kind = kind_of(app, link)
            if kind is not None and kind not in seen:
                seen.add(kind)
                waiting.append((link, page))


def count_pages(database: Database, policy: Policy, town: Town, only: str | None = None) -> dict[tuple[str, str], int]:
    """How many queries each page takes, by role and address."""
    app = the_app(database, policy)
    counted = {}
    for role, person in PERSON_OF.items():
        client = sign_in(app, town.cast.users[person], language="en")
        for page in pages(app, town, role) if only is None else [only]:
            with Queries(database) as queries:
                status = client.get(page).status_code
            assert status in (200, 302, 409), f"{role} at {page}: {status}"
            counted[role.value, page] = len(queries)
    return counted


def test_a_page_that_asks_too_often_is_found(
    database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy() -> str:
        return " ".join(str(read().scalar(sa.select(n))) for n in range(MOST))

    probe = Blueprint("probe", __name__)
    probe.get("/probe", endpoint="page")(allows(Permission.TARIFF_VIEW)(greedy))
    with_feature(monkeypatch, probe)
    counted = count_pages(database, policy, build(make_cast(database), policy), only="/probe")
    assert counted == {(role.value, "/probe"): MOST + 1 for role in Role}


def assert_at_most_ten(counted: dict[tuple[str, str], int], many: int) -> None:
    assert len(counted) > 60, "the walk finds hardly any page"
    too_many = [f"{role} at {page}: {n} queries" for (role, page), n in counted.items() if n > MOST]
    assert not too_many, f"with {many:,} enterprises, at most {MOST} each:\n" + "\n".join(too_many)


def test_every_page_takes_at_most_ten_queries_with_a_thousand_enterprises_and_hardly_fewer_with_two(
    database: Database, policy: Policy
) -> None:
    """Lists longer than a page add nothing; only an empty list may be cheaper by a little."""
    town = build(make_cast(database), policy)
    small = count_pages(database, policy, town)
    town.own |= grow(town.cast, MANY)
    large = count_pages(database, policy, town)
    assert_at_most_ten(large, MANY)
    few = {(role, re.sub(r"\d+", "…", page)): n for (role, page), n in small.items()}
    growing = []
    for (role, page), n in large.items():
        before = few[role, re.sub(r"\d+", "…", page)]
        if n > before + 3:
            growing.append(f"{role} at {page}: {before} → {n}")
    assert not growing, "\n".join(growing)


def test_every_link_may_be_opened_by_its_reader_and_looking_changes_nothing(cast: Cast, policy: Policy) -> None:
    """Nothing but when the session was last seen, and the log of exports and denials."""
    town = build(cast, policy)
    app = the_app(cast.database, policy)
    clients = {role: sign_in(app, cast.users[person], language="en") for role, person in PERSON_OF.items()}
    before = contents(cast.database)
    dead = []
    for role, client in clients.items():
        for page, status, shown_by in visit(app, client, list(pages(app, town, role))):
            if status not in (200, 302) and shown_by:
                dead.append(f"{role}: {shown_by} links to {page}, which answers {status}")
    assert not dead, "\n".join(dead)
    assert contents(cast.database) == before
