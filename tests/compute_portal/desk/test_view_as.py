"""Seeing a member's pages: read only, logged with both people, over after half an hour, never for the bureau's own."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from compute_portal.access import Role
from compute_portal.enterprises.models import Membership
from compute_portal.lifecycle import HistoryEntry
from compute_portal.policy import Policy
from compute_portal.signin.models import AccessLogEntry, BureauRole
from tests.cast import HOUR, NOW, Cast
from tests.house.test_access import contents
from tests.web import make_app, post, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def looking(app: Flask, cast: Cast, name: str = "zhou", person: str = "lin") -> FlaskClient:
    client = sign_in(app, cast.users[name], language="en")
    typed = {"user_id": str(cast.users[person]), "why": "电话求助"}
    answer = post(client, f"/enterprises/{cast.yusheng}/view-as", typed)
    assert (answer.status_code, answer.location) == (302, "/start")
    return client


def test_an_operator_sees_what_the_member_sees_under_both_names(app: Flask, cast: Cast) -> None:
    client = looking(app, cast)
    page = words(client.get("/start"))
    assert "Zhou Yu’an sees the portal as Lin Xiaohe of Yusheng Voice" in page
    assert "it ends at 10:30" in page
    assert "20,000 GPU-h left" in page
    assert client.get("/queue").status_code == 403
    assert client.get(f"/allocations/{cast.other_allocation}").status_code == 404
    with cast.database.read_only() as session:
        noted = session.scalars(sa.select(HistoryEntry).where(HistoryEntry.verb == "view-as")).one()
    assert (noted.kind, noted.subject_id, noted.by_id) == ("person", cast.users["lin"], cast.users["zhou"])
    assert noted.note == "电话求助"


def test_nothing_can_be_sent_and_every_request_is_logged_with_both_ids(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(4, 2), policy.bookings)
    client = looking(app, cast)
    before = contents(cast.database)
    for address in (
        f"/bookings/{booking}/cancel", "/bookings/new", "/allocations/request", "/language", "/theme", "/act-for",
        "/keys", "/account", f"/allocations/{cast.allocation}/budgets",
    ):  # fmt: skip
        answer = post(client, address, {"language": "zh", "theme": "dark"}, page="/start")
        assert answer.status_code in (403, 404, 405), address
        if answer.status_code == 403:
            assert "You are looking at another person’s pages: nothing can be changed." in words(answer), address
    assert contents(cast.database) == before
    client.get(f"/bookings/{booking}")
    with cast.database.read_only() as session:
        logged = session.scalars(
            sa.select(AccessLogEntry).where(AccessLogEntry.kind == "view-as").order_by(AccessLogEntry.id.desc())
        ).all()
    assert {row.user_id for row in logged} == {cast.users["zhou"]}
    assert logged[0].path == f"/bookings/{booking}"
    assert logged[0].detail == f"GET as {cast.users['lin']}"
    assert any(row.detail == f"POST as {cast.users['lin']}" for row in logged)


def test_it_ends_by_a_button_after_half_an_hour_and_with_a_sign_out(app: Flask, cast: Cast) -> None:
    client = looking(app, cast)
    assert post(client, "/view-as/end", page="/start").location == f"/enterprises/{cast.yusheng}/overview"
    assert client.get("/queue").status_code == 200
    client = looking(app, cast)
    set_now(app, NOW + dt.timedelta(minutes=29, seconds=59))
    assert client.get("/queue").status_code == 403
    set_now(app, NOW + dt.timedelta(minutes=30))
    assert client.get("/queue").status_code == 200
    client = looking(app, cast)
    assert post(client, "/sign-out", page="/start").status_code == 302
    with cast.database.read_only() as session:
        left = session.scalars(sa.select(AccessLogEntry).where(AccessLogEntry.kind == "sign-out")).one()
    assert left.user_id == cast.users["zhou"]


def test_a_role_that_is_taken_away_or_a_membership_that_ends_ends_it_with_the_next_request(
    app: Flask, cast: Cast
) -> None:
    client = looking(app, cast)
    roles = sa.delete(BureauRole).where(BureauRole.user_id == cast.users["zhou"])
    cast.database.transaction(lambda s: s.execute(roles))
    assert "20,000 GPU-h left" not in words(client.get("/start"))
    client = looking(app, cast, "an", "chen")
    places = sa.delete(Membership).where(Membership.user_id == cast.users["chen"])
    cast.database.transaction(lambda s: s.execute(places))
    assert client.get("/queue").status_code == 200


def test_nobody_of_the_bureau_is_looked_at_and_only_operators_and_administrators_look(app: Flask, cast: Cast) -> None:
    address = f"/enterprises/{cast.yusheng}/view-as"
    zhou = sign_in(app, cast.users["zhou"], language="en")
    for person in ("wu", "mei"):  # of the bureau; of another company
        answer = post(zhou, address, {"user_id": str(cast.users[person]), "why": "看看"})
        assert answer.status_code == 422
        assert "Choose one of the list." in words(answer)
    answer = post(zhou, address, {"user_id": str(cast.users["lin"]), "why": ""})
    assert answer.status_code == 422
    # wrong data: a member who is with the bureau too
    given = BureauRole(user_id=cast.users["chen"], role=Role.AUDITOR, given_at=NOW)
    cast.database.transaction(lambda s: s.add(given))
    answer = post(zhou, address, {"user_id": str(cast.users["chen"]), "why": "看看"})
    assert answer.status_code == 422
    assert "People of the bureau are not looked at this way." in words(answer)
    for name in ("xu", "he", "lin"):
        assert sign_in(app, cast.users[name]).get(address).status_code == 403
    set_now(app, NOW + HOUR)
    assert zhou.get("/queue").status_code in (200, 302)
