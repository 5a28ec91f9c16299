"""A form that is sent twice does its work once."""

from __future__ import annotations

import threading
import time

import pytest
from flask import Blueprint, Flask, abort, redirect, request
from flask.typing import ResponseReturnValue

from compute_portal.access import Permission
from compute_portal.db import Database
from compute_portal.guard import allows, now, one_time, signed_in
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal, Sentence
from compute_portal.signin.models import FormKey, SshKey
from tests.cast import Cast
from tests.web import Browser, make_app, rows_in, with_feature

KEY = "k" * 32


def a_feature() -> Blueprint:
    """One verb: it writes a row, slowly, and its result's address carries the row's id."""
    blueprint = Blueprint("tried", __name__)

    @blueprint.post("/tried")
    @allows(Permission.START_VIEW)
    def submit() -> ResponseReturnValue:
        who, at = signed_in().user_id, now()

        def work(session: object) -> int:
            count = session.query(SshKey).count()  # type: ignore[attr-defined]
            key = SshKey(user_id=who, name="x", public_key="x", fingerprint=f"{count}", added_at=at)
            session.add(key)  # type: ignore[attr-defined]
            session.flush()  # type: ignore[attr-defined]
            time.sleep(0.1)
            if "refuse" in request.form:
                raise Refusal(Sentence("key-damaged"))
            if "break" in request.form:
                abort(500)
            return key.id

        return redirect(one_time(request.form.get("form_key"), work, lambda id: f"/tried/{id}"))

    return blueprint


@pytest.fixture
def app(database: Database, policy: Policy, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> Flask:
    with_feature(monkeypatch, a_feature())
    return make_app(database, policy)


def test_the_second_post_of_a_form_leads_to_the_first_result(app: Flask, cast: Cast) -> None:
    browser = Browser(app).be(cast.users["lin"])
    answers = [browser.post("/tried", {"form_key": KEY}) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {302}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert rows_in(cast.database, SshKey) == 1


def test_ten_posts_at_the_same_moment_do_the_work_once(app: Flask, cast: Cast) -> None:
    browsers = [Browser(app).be(cast.users["lin"]) for _ in range(10)]
    tokens = [browser.token() for browser in browsers]
    together, addresses = threading.Barrier(len(browsers)), []

    def send(browser: Browser, token: str) -> None:
        together.wait()
        answer = browser.client.post("/tried", data={"form_key": KEY, "csrf_token": token})
        addresses.append((answer.status_code, answer.headers.get("Location")))

    threads = [threading.Thread(target=send, args=pair) for pair in zip(browsers, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(addresses) == 10
    assert len(set(addresses)) == 1
    assert addresses[0][0] == 302
    assert rows_in(cast.database, SshKey) == 1


@pytest.mark.parametrize("how", ["refuse", "break"])
def test_a_form_that_failed_may_be_sent_again_with_its_key(app: Flask, cast: Cast, how: str) -> None:
    browser = Browser(app).be(cast.users["lin"])
    assert browser.post("/tried", {"form_key": KEY, how: "1"}).status_code in (409, 500)
    assert (rows_in(cast.database, SshKey), rows_in(cast.database, FormKey)) == (0, 0)
    assert browser.post("/tried", {"form_key": KEY}).status_code == 302
    assert rows_in(cast.database, SshKey) == 1


def test_a_key_counts_for_its_person_only(app: Flask, cast: Cast) -> None:
    first = Browser(app).be(cast.users["lin"]).post("/tried", {"form_key": KEY})
    second = Browser(app).be(cast.users["mei"]).post("/tried", {"form_key": KEY})
    assert first.headers["Location"] != second.headers["Location"]
    assert rows_in(cast.database, SshKey) == 2


@pytest.mark.parametrize("key", [None, "", "short", "x" * 65, "k" * 31 + "\x00", "中" * 32])
def test_a_form_without_a_proper_key_is_not_understood(app: Flask, cast: Cast, key: str | None) -> None:
    browser = Browser(app).be(cast.users["lin"])
    data = {} if key is None else {"form_key": key}
    assert browser.post("/tried", data).status_code == 400
    assert rows_in(cast.database, SshKey) == 0
