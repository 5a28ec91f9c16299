"""Every page of every role: at most ten queries however much there is, no dead link, and looking changes nothing.

The pages are the app's own list of routes, and the links that these pages show; a new page is checked by itself.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from compute_portal.access import ALLOWED, Permission, Role
from compute_portal.db import Database
from compute_portal.guard import PUBLIC, access_of
from compute_portal.policy import Policy
from tests.cast import NOW, Cast, make_cast
from tests.house.test_access import ROWS, SHARED, address, contents, routes
from tests.house.town import PERSON_OF, Town, build, grow
from tests.web import Queries, make_app, set_now, sign_in

MOST = 10  # session and person included
FEW, MANY = 100, 1_000
LINK = re.compile(r'(?:href|formaction)="(/[^"#]*)')
# A file of all rows is read in parts while it is sent: it is no page.
FILES = (".csv",)


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
        for link in map(html.unescape, LINK.findall(answer.text)):
            kind = kind_of(app, link)
            if kind is not None and kind not in seen:
                seen.add(kind)
                waiting.append((link, page))


def count_pages(database: Database, policy: Policy, town: Town) -> dict[tuple[str, str], int]:
    """How many queries each page takes, by role and address."""
    app = the_app(database, policy)
    counted = {}
    for role, person in PERSON_OF.items():
        client = sign_in(app, town.cast.users[person], language="en")
        for page in pages(app, town, role):
            with Queries(database) as queries:
                status = client.get(page).status_code
            assert status in (200, 302, 409), f"{role} at {page}: {status}"
            counted[role.value, page] = len(queries)
    return counted


def grown(database: Database, policy: Policy, many: int) -> Town:
    """A town in which every list is longer than a page."""
    town = build(make_cast(database), policy)
    town.own |= grow(town.cast, many)
    return town


@pytest.mark.parametrize("many", [FEW, MANY])
def test_every_page_of_every_role_takes_at_most_ten_queries(database: Database, policy: Policy, many: int) -> None:
    counted = count_pages(database, policy, grown(database, policy, many))
    assert len(counted) > 60, "the walk finds hardly any page"
    too_many = [f"{role} at {page}: {n} queries" for (role, page), n in counted.items() if n > MOST]
    assert not too_many, f"with {many:,} enterprises, at most {MOST} each:\n" + "\n".join(too_many)


def test_ten_times_as_much_takes_no_more_queries(database: Database, policy: Policy) -> None:
    """The same pages in a small town and in one of a hundred enterprises: lists longer than a page add nothing."""
    town = build(make_cast(database), policy)
    small = {key[0] + re.sub(r"\d+", "…", key[1]): n for key, n in count_pages(database, policy, town).items()}
    town.own |= grow(town.cast, FEW)
    large = {key[0] + re.sub(r"\d+", "…", key[1]): n for key, n in count_pages(database, policy, town).items()}
    # A page may skip a query when there is nothing to look up, so an empty list is allowed to be cheaper by a little.
    growing = [f"{page}: {small[page]} → {n}" for page, n in large.items() if n > small[page] + 3]
    assert not growing, "\n".join(growing)


def test_every_link_leads_to_a_page_that_its_reader_may_open(cast: Cast, policy: Policy) -> None:
    town = build(cast, policy)
    app = the_app(cast.database, policy)
    dead = []
    for role, person in PERSON_OF.items():
        client = sign_in(app, cast.users[person], language="en")
        for page, status, shown_by in visit(app, client, list(pages(app, town, role))):
            if status not in (200, 302) and shown_by:
                dead.append(f"{role}: {shown_by} links to {page}, which answers {status}")
    assert not dead, "\n".join(dead)


def test_looking_at_pages_changes_nothing(cast: Cast, policy: Policy) -> None:
    """Except when the session was last seen, and the log of exports and denials."""
    town = build(cast, policy)
    app = the_app(cast.database, policy)
    clients = {role: sign_in(app, cast.users[person], language="zh") for role, person in PERSON_OF.items()}
    before = contents(cast.database)
    for role, client in clients.items():
        for _ in visit(app, client, list(pages(app, town, role))):
            pass
    assert contents(cast.database) == before
