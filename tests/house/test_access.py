"""Every route × every role × another company's rows, GET and POST: one walk over the app's own list of routes.

A new route is walked by itself. One that carries an id needs a row: add its argument to ROWS (it belongs to an
enterprise or a person) or to SHARED (all may know of it), and where it is missing in `town.build`, the row there.
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from compute_portal.access import ALLOWED, ENTERPRISE_ROLES, Permission, Role
from compute_portal.bookings import queries as bookings
from compute_portal.db import Database
from compute_portal.guard import PUBLIC, access_of, actor, allows, read
from compute_portal.policy import Policy
from compute_portal.tables import Base
from tests.cast import NOW, Cast
from tests.house.town import FOREIGN_MARKS, PERSON_OF, Town, build
from tests.web import make_app, set_now, sign_in, with_feature

Row = Callable[[Town, str], int]  # the id of this person's row

YUSHENGS = ("chen", "lin")


def _of_the_company(argument: str) -> Row:
    return lambda town, person: (town.own if person not in ("mei", "tang") else town.foreign)[argument]


# argument of an address → the row of a person (or of the person's enterprise)
ROWS: dict[str, Row] = {
    "enterprise_id": _of_the_company("enterprise_id"),
    "allocation_id": _of_the_company("allocation_id"),
    "booking_id": _of_the_company("booking_id"),
    "change_id": _of_the_company("change_id"),
    "report_id": _of_the_company("report_id"),
    "record_id": _of_the_company("record_id"),
    "statement_id": _of_the_company("statement_id"),
    "line_id": _of_the_company("line_id"),
    "dispute_id": _of_the_company("dispute_id"),
    "notice_id": lambda town, person: town.notices[person],
    "team_id": _of_the_company("team_id"),
    "invitation_id": _of_the_company("invitation_id"),
    "user_id": _of_the_company("user_id"),
    "file_id": _of_the_company("file_id"),
    "appeal_id": _of_the_company("appeal_id"),
    "letter_id": _of_the_company("letter_id"),
    "party_id": _of_the_company("party_id"),
    "claim_id": _of_the_company("claim_id"),
    "trait_id": _of_the_company("trait_id"),
    "strike_id": _of_the_company("strike_id"),
    "waiter_id": _of_the_company("waiter_id"),
    "breach_id": _of_the_company("breach_id"),
    "feed_id": lambda town, person: town.feeds[person],
    "key_id": lambda town, person: town.keys.get(person, town.keys["chen"]),
}
# argument → a row that belongs to the city
SHARED: dict[str, Row] = {
    name: (lambda town, _person, name=name: town.shared[name])  # type: ignore[misc]
    for name in (
        "pool_id",
        "tariff_id",
        "node_id",
        "window_id",
        "cap_id",
        "programme_id",
        "person_id",
        "mail_id",
        "job_id",
        "announcement_id",
        "scheme_id",
        "payment_id",
        "pack_id",
        "dataset_id",
        "site_id",
        "transition_id",
    )
}
FOREIGNER = {Role.MEMBER: "tang", Role.MANAGER: "mei"}
NOBODYS = 2**31 - 1
# Good enough to get past most forms; a route that refuses it answers 422, which is right for an own row and wrong
# for another's.
FILLED = {
    "reason": "因为", "awarded_hours": "1", "hours": "1", "gpus": "1", "title": "训练", "why": "因为",
    "starts_at": "2026-11-20 20:00", "ends_at": "2026-11-20 22:00", "price": "15.5", "from_on": "2027-01-01",
}  # fmt: skip
# The first changes the password and with it the session that walks; the second names its row in the form (see below).
NOT_WALKED_SIGNED_IN = {"signin.account_post", "signin.act_for"}


@dataclass
class Walker:
    """Somebody who opens addresses; without a token nobody is signed in."""

    client: FlaskClient
    token: str = ""

    def go(self, method: str, address: str, values: dict[str, str] | None = None) -> Any:
        if method == "GET":
            return self.client.get(address)
        sent = {"csrf_token": self.token, "form_key": secrets.token_urlsafe(24)} | (values or {})
        return self.client.post(address, data=sent)


def walker(app: Flask, town: Town, name: str | None) -> Walker:
    if name is None:
        return Walker(app.test_client())
    client = sign_in(app, town.cast.users[name], language="en")
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/account").text)
    assert token is not None
    return Walker(client, token[1])


def routes(app: Flask) -> Iterator[tuple[Rule, str]]:
    """Every (rule, method) but static files."""
    for rule in sorted(app.url_map.iter_rules(), key=str):
        if rule.endpoint != "static":
            for method in sorted((rule.methods or set()) & {"GET", "POST"}):
                yield rule, method


def address(app: Flask, rule: Rule, values: dict[str, int]) -> str:
    with app.test_request_context():
        return app.url_map.bind(app.config["SERVER_NAME"]).build(rule.endpoint, values, method=None)


def walk(app: Flask, town: Town, only: str | None = None) -> list[str]:
    """What is wrong, one line each; of one endpoint only, if it is named."""
    wrong: list[str] = []
    walkers = {role: walker(app, town, name) for role, name in PERSON_OF.items()}
    nobody = walker(app, town, None)
    for rule, method in routes(app):
        if only is not None and rule.endpoint != only:
            continue
        unknown = sorted(rule.arguments - ROWS.keys() - SHARED.keys())
        if unknown:
            wrong.append(
                f"{rule.endpoint} ({rule}): no builder for a foreign row: add {', '.join(unknown)} to ROWS "
                "(belongs to an enterprise or a person) or SHARED in tests/house/test_access.py"
            )
            continue
        wrong += _walk_route(app, town, rule, method, walkers, nobody)
    return wrong


def _walk_route(
    app: Flask, town: Town, rule: Rule, method: str, walkers: dict[Role, Walker], nobody: Walker
) -> Iterator[str]:
    access = access_of(app, rule.endpoint)

    def rows(person: str) -> dict[str, int]:
        return {name: (ROWS.get(name) or SHARED[name])(town, person) for name in rule.arguments}

    def wrong(who: str, what: str, status: int) -> str:
        return f"{method} {rule} ({rule.endpoint}), {who}: {what}, answered {status}"

    own = address(app, rule, rows("chen"))
    status = nobody.go(method, own).status_code
    if access == PUBLIC:
        if status == 500:
            yield wrong("nobody signed in", "broke", status)
        return
    if status != (302 if method == "GET" else 401):
        yield wrong("nobody signed in", "must be sent to the sign-in page or get 401", status)
    for role, person in PERSON_OF.items():
        if rule.endpoint in NOT_WALKED_SIGNED_IN:
            continue
        me = walkers[role]
        mine = address(app, rule, rows(person))
        if Permission(access) not in ALLOWED[role]:
            status = me.go(method, mine, FILLED).status_code
            if status != 403:
                yield wrong(role, "the role may not: must get 403", status)
            continue
        if role in ENTERPRISE_ROLES and rule.arguments & ROWS.keys():
            theirs = address(app, rule, rows(FOREIGNER[role]))
            for values in ({}, FILLED) if method == "POST" else ({},):
                status = me.go(method, theirs, values).status_code
                if status != 404:
                    yield wrong(role, "another company's row must get 404", status)
        if rule.arguments:
            status = me.go(method, address(app, rule, dict.fromkeys(rule.arguments, NOBODYS))).status_code
            if status != 404:
                yield wrong(role, "a row that is not there must get 404", status)
        status = me.go(method, mine).status_code
        if status in (401, 403, 404, 405) or status >= 500:
            yield wrong(role, "may open it", status)


@pytest.fixture
def town(cast: Cast, policy: Policy) -> Town:
    return build(cast, policy)


def the_app(town: Town, policy: Policy) -> Flask:
    app = make_app(town.cast.database, policy)
    set_now(app, NOW)
    return app


def test_every_route_lets_in_whom_it_should_and_nobody_else(town: Town, policy: Policy) -> None:
    wrong = walk(the_app(town, policy), town)
    assert not wrong, f"{len(wrong)} problems:\n" + "\n".join(wrong)


def test_what_a_stranger_sends_changes_nothing_of_another_company(town: Town, policy: Policy) -> None:
    """Every POST with an id, at Yusheng's rows, by both people of Luyu."""
    app = the_app(town, policy)
    strangers = [walker(app, town, name) for name in ("mei", "tang")]
    before = contents(town.cast.database)
    for stranger in strangers:
        for rule, method in routes(app):
            if method == "POST" and rule.arguments & ROWS.keys():
                rows = {a: (ROWS.get(a) or SHARED[a])(town, "chen") for a in rule.arguments}
                assert stranger.go(method, address(app, rule, rows), FILLED).status_code in (403, 404)
    assert contents(town.cast.database) == before


def test_a_form_that_names_another_companys_row_is_refused(town: Town, policy: Policy) -> None:
    app = the_app(town, policy)
    stranger = walker(app, town, "mei")
    before = contents(town.cast.database)
    theirs = {name: str(value) for name, value in town.own.items()}
    fixed = theirs | FILLED | {"kind": "fixed", "quoted": "1"}
    assert stranger.go("POST", "/bookings/new", fixed).status_code in (404, 422)
    assert stranger.go("POST", "/bookings/new", fixed | {"kind": "flexible", "longest": "1"}).status_code in (404, 422)
    assert stranger.go("POST", "/act-for", theirs).status_code == 404
    assert contents(town.cast.database) == before
    own = {"enterprise_id": str(town.foreign["enterprise_id"])}
    assert stranger.go("POST", "/act-for", own).status_code == 302


def test_no_page_of_a_member_names_another_company(town: Town, policy: Policy) -> None:
    """Also when the address asks for the other company's rows."""
    app = the_app(town, policy)
    wrong = []
    for name in YUSHENGS:
        me = walker(app, town, name)
        for rule, method in routes(app):
            if method != "GET" or access_of(app, rule.endpoint) == PUBLIC:
                continue
            page = address(app, rule, {a: (ROWS.get(a) or SHARED[a])(town, name) for a in rule.arguments})
            asked = "&".join(f"{key}={value}" for key, value in town.foreign.items() if key not in rule.arguments)
            for where in (page, f"{page}?{asked}"):
                answer = me.client.get(where)
                seen = [mark for mark in FOREIGN_MARKS if mark in shown(answer.data)]
                if seen or answer.status_code >= 500:
                    wrong.append(f"{name} at {where}: {answer.status_code}, sees {seen}")
    assert not wrong, "\n".join(wrong)


def shown(data: bytes) -> str:
    """What is in an answer: the files of an archive (or workbook) one by one, as packed they show nothing."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data.decode(errors="replace")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return "\n".join(shown(archive.read(name)) for name in archive.namelist())


def contents(database: Database) -> dict[str, str]:
    """A hash of each table. What a visit may leave is left out: the session, the denial, the form's key."""
    left_out = {"user_sessions", "access_log", "form_keys"}
    found = {}
    with database.read_only() as session:
        for table in Base.metadata.sorted_tables:
            if table.name not in left_out:
                rows = sorted(repr(tuple(row)) for row in session.execute(sa.select(table)))
                found[table.name] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return found


# -- the walk finds what it is for


def _probe(rule: str, view: Callable[..., Any]) -> Blueprint:
    blueprint = Blueprint("probe", __name__)
    blueprint.get(rule, endpoint="thing")(allows(Permission.BOOKING_VIEW)(view))
    return blueprint


def test_a_route_with_an_id_that_nobody_builds_a_row_for_fails_by_name(
    town: Town, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_feature(monkeypatch, _probe("/probe/<int:gadget_id>", lambda gadget_id: "x"))
    wrong = walk(the_app(town, policy), town, "probe.thing")
    assert wrong == [
        "probe.thing (/probe/<int:gadget_id>): no builder for a foreign row: add gadget_id to ROWS (belongs to an "
        "enterprise or a person) or SHARED in tests/house/test_access.py"
    ]


def test_a_route_that_shows_another_companys_row_is_found(
    town: Town, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_feature(monkeypatch, _probe("/probe/<int:booking_id>", lambda booking_id: "x"))
    wrong = walk(the_app(town, policy), town, "probe.thing")
    for role in (Role.MEMBER, Role.MANAGER):
        line = "GET /probe/<int:booking_id> (probe.thing), {}: another company's row must get 404, answered 200"
        assert line.format(role) in wrong


def test_a_route_that_asks_the_rules_passes(town: Town, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def view(booking_id: int) -> str:
        return bookings.get_booking(read(), booking_id, actor()).title

    with_feature(monkeypatch, _probe("/probe/<int:booking_id>", view))
    assert walk(the_app(town, policy), town, "probe.thing") == []
