"""The bureau's list of enterprises, an enterprise's members, and one enterprise as a whole."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal.policy import Policy
from compute_portal.signin.models import User
from tests.cast import NOW, Cast
from tests.web import make_app, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_the_bureau_finds_enterprises_by_name_and_credit_code(app: Flask, cast: Cast) -> None:
    for name in ("zhou", "he", "xu", "an"):
        client = sign_in(app, cast.users[name], language="en")
        assert "2 enterprises are registered" in words(client.get("/enterprises"))
        for part, found in [("屿声", "Yusheng Voice"), ("LUYU", "Luyu Vision"), ("8461136t", "Yusheng Voice")]:
            page = words(client.get("/enterprises", query_string={"find": part}))
            assert "One enterprise fits" in page
            assert found in page


@pytest.mark.parametrize("part", ["%", "_", "\\", "' OR 1=1 --", "\0", "x" * 5000, "<b>"])
def test_a_strange_search_finds_nothing_and_breaks_nothing(app: Flask, cast: Cast, part: str) -> None:
    answer = sign_in(app, cast.users["zhou"], language="en").get("/enterprises", query_string={"find": part})
    assert answer.status_code == 200
    assert ("No enterprise fits" in words(answer)) == (part != "\0")


def test_a_member_is_led_to_the_own_enterprise(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["chen"], language="en")
    assert client.get("/enterprises").location == f"/enterprises/{cast.yusheng}"
    page = words(client.get(f"/enterprises/{cast.yusheng}"))
    assert "Yusheng Voice" in page
    assert "20,000.00" in page
    assert client.get(f"/enterprises/{cast.luyu}").status_code == 404
    assert client.get("/enterprises/999").status_code == 404


def test_the_page_of_an_enterprise_shows_allocations_members_limits_and_use(app: Flask, cast: Cast) -> None:
    cast.limit(cast.yusheng, 24)
    page = words(sign_in(app, cast.users["zhou"], language="en").get(f"/enterprises/{cast.yusheng}"))
    assert "Credit code 91440300708461136T · Small" in page
    assert "Lin Xiaohe enterprise manager" in page
    assert "Cards at once H800 24 cards" in page
    assert "Used in November 2026 0" in page
    assert "lin@example.cn" not in page


def test_members_lists_the_people_of_the_own_enterprise_only(app: Flask, cast: Cast) -> None:
    page = words(sign_in(app, cast.users["chen"], language="en").get("/members"))
    assert "2 people act for Yusheng Voice" in page
    assert "Chen Yi (you) member chen@example.cn" in page
    assert "Mei Lan" not in page


def test_somebody_whose_access_was_taken_away_is_no_longer_listed(app: Flask, cast: Cast) -> None:
    cast.database.transaction(
        lambda s: s.execute(sa.update(User).where(User.id == cast.users["lin"]).values(disabled_at=NOW))
    )
    page = words(sign_in(app, cast.users["chen"], language="en").get("/members"))
    assert "One person acts for Yusheng Voice" in page
    assert "Lin Xiaohe" not in page


def test_the_bureau_has_no_members_page_of_its_own(app: Flask, cast: Cast) -> None:
    assert sign_in(app, cast.users["zhou"]).get("/members").location == "/enterprises"
