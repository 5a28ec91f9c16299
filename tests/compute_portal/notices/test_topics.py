"""By mail at once, once a day or not at all: each topic as its receiver chose."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal.notices.models import NoticeChoice
from compute_portal.notices.topics import USUAL, Topic, Way, next_digest, topic_of
from compute_portal.policy import Policy
from compute_portal.texts import CATALOGUE
from tests.cast import NOW, Cast
from tests.web import make_app, post, rows_in, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_everything_that_is_told_has_a_topic_of_its_own() -> None:
    told = [id for id in CATALOGUE if id.startswith(("told-", "alert-"))]
    assert len(told) > 40
    assert Topic.ACCOUNT not in {topic_of(id) for id in told}
    assert topic_of("told-dispute-late") is Topic.OFFICE and topic_of("told-dispute-uphold") is Topic.MONEY
    assert topic_of("told-option") is Topic.BOOKING and topic_of("told-report-due") is Topic.TERM
    assert topic_of("alert-used") is Topic.TERM and USUAL[Topic.TERM] is Way.DIGEST
    assert topic_of("mail-reset") is Topic.ACCOUNT and USUAL[Topic.ACCOUNT] is Way.AT_ONCE


def test_the_next_digest_is_at_the_next_eight_in_the_morning() -> None:
    at_eight = dt.datetime(2026, 11, 18, 0, 0, tzinfo=dt.UTC)
    assert next_digest(at_eight - dt.timedelta(seconds=1), 8) == at_eight
    assert next_digest(at_eight, 8) == at_eight + dt.timedelta(days=1)


def test_a_person_chooses_for_the_topics_that_concern_the_own_side(app: Flask, cast: Cast) -> None:
    chen = sign_in(app, cast.users["chen"], language="en")
    page = words(chen.get("/notices/mail"))
    assert "once a day, all in one mail" in page and "8:00" in page and "The bureau’s own work" not in page
    chosen = {"booking": "digest", "request": "at_once", "term": "portal", "money": "digest"}
    assert post(chen, "/notices/mail", chosen | {"booking": "never"}).status_code == 422
    assert rows_in(cast.database, NoticeChoice) == 0
    for term in ("digest", "portal"):
        assert post(chen, "/notices/mail", chosen | {"term": term}).status_code == 302
    with cast.database.read_only() as session:
        rows = session.execute(sa.select(NoticeChoice.topic, NoticeChoice.way))
        assert {topic.value: way.value for topic, way in rows} == chosen
    shown = re.findall(r"<input[^>]*checked[^>]*>", chen.get("/notices/mail").text)
    assert sorted(re.findall(r'value="(\w+)"', " ".join(shown))) == sorted(chosen.values())
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert "Statements, disputes" not in words(zhou.get("/notices/mail"))
    assert post(zhou, "/notices/mail", {"office": "portal"}).status_code == 302
