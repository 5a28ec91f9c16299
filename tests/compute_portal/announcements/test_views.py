"""Announcements: shown to whom they are meant for, from when until when, in the reader's language."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal.announcements.models import Announcement
from compute_portal.policy import Policy
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, post, set_now, sign_in, words

TYPED = {
    "text": "周六 8:00–12:00 机房检修。", "text_en": "The hall is closed on Saturday.",
    "from_at": "2026-11-18 10:00", "until_at": "2026-11-21 12:00",
}  # fmt: skip


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def sees(app: Flask, cast: Cast, name: str, address: str = "/start") -> bool:
    return "The hall is closed" in sign_in(app, cast.users[name], language="en").get(address).text


def test_it_stands_on_every_page_of_its_audience_only_in_its_time_and_until_it_is_withdrawn(
    app: Flask, cast: Cast
) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert post(zhou, "/announcements/new", TYPED | {"audience": ["manager", "finance"]}).status_code == 302
    assert [name for name in ("lin", "chen", "he", "xu") if sees(app, cast, name)] == ["lin", "he"]
    assert sees(app, cast, "lin", "/bookings")
    assert "机房检修" in sign_in(app, cast.users["lin"], language="zh").get("/start").text
    assert "The hall is closed" not in app.test_client().get("/sign-in", headers={"Accept-Language": "en"}).text
    set_now(app, NOW - HOUR)
    assert not sees(app, cast, "lin")
    set_now(app, dt.datetime(2026, 11, 21, 4, 0, tzinfo=dt.UTC))
    assert not sees(app, cast, "lin")
    set_now(app, NOW)
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Announcement.id)).one()
    assert post(zhou, f"/announcements/{id}/withdraw", page="/announcements").status_code == 302
    assert not sees(app, cast, "lin")
    shown = words(sign_in(app, cast.users["xu"], language="en").get("/announcements"))
    assert "No announcement is shown now" in shown
    assert "Withdrawn by Zhou Yu’an" in shown
    assert post(zhou, f"/announcements/{id}/withdraw", page="/announcements").status_code == 409


def test_what_is_public_is_read_before_signing_in_and_costs_no_query_for_half_a_minute(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert post(zhou, "/announcements/new", TYPED | {"audience": ["public"]}).status_code == 302
    guest = app.test_client()
    assert "The hall is closed" in guest.get("/sign-in", headers={"Accept-Language": "en"}).text
    with Queries(cast.database) as queries:
        assert "The hall is closed" in guest.get("/sign-in", headers={"Accept-Language": "en"}).text
    assert len(queries) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"audience": []}, "Choose at least one group that reads it."),
        ({"audience": ["everybody"], "until_at": "2026-11-18 09:00"}, "The end must be later than now"),
        ({"audience": ["everybody"], "text_en": ""}, "This is needed."),
        ({"audience": ["everybody"], "from_at": "morgen"}, "Enter date and time like 2026-11-20 20:00."),
    ],
)
def test_an_announcement_that_lacks_something_is_not_published(
    app: Flask, cast: Cast, changes: dict[str, object], said: str
) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    answer = post(zhou, "/announcements/new", TYPED | changes)  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert said in words(answer)
    assert "机房检修" in answer.text
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Announcement)) == 0
