"""The web app as tests use it: at an instant they choose, with people who are signed in.

app = make_app(cast.database, policy)                  # it is NOW; `set_now(app, later)` moves its clock
chen = sign_in(app, cast.users["chen"], language="en")
answer = post(chen, "/bookings/new", {"gpus": "4"})    # csrf token and form key come from the page
assert "…" in words(answer)
"""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from compute_portal import guard
from compute_portal.app import create_app
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.signin import service as signin
from compute_portal.signin.models import User
from config.settings import Settings
from tests.cast import NOW

TOKEN_PAGE = "/account"  # everybody may open it, and its forms carry a token
HIDDEN = re.compile(r'<input type="hidden" name="(csrf_token|form_key)" value="([^"]*)"')


def make_app(database: Database, policy: Policy, *, now: dt.datetime = NOW, **settings: Any) -> Flask:
    """The whole app on this database, as if it were `now`."""
    app = create_app(Settings(env="test", secret_key="s" * 40, **settings), database, policy)
    app.before_request_funcs.setdefault(None, []).insert(0, lambda: _stop_clock(app))
    set_now(app, now)
    return app


def set_now(app: Flask, now: dt.datetime) -> None:
    app.extensions["test_now"] = now


def _stop_clock(app: Flask) -> None:
    guard._state().now = app.extensions["test_now"]


def sign_in(app: Flask, user_id: int, *, enterprise_id: int | None = None, language: str | None = None) -> FlaskClient:
    """A client with a session row of its own, acting for its first or the given enterprise."""
    portal, now = app.extensions["portal"], app.extensions["test_now"]

    def begin(session: Any) -> str:
        if language is not None:
            session.execute(sa.update(User).where(User.id == user_id).values(language=language))
        return signin.start_session(
            session, user_id, enterprise_id=enterprise_id, policy=portal.policy.sign_in, now=now
        )

    client = app.test_client()
    client.set_cookie(
        portal.settings.cookie_name,
        portal.database.transaction(begin),
        domain=portal.settings.public_host.partition(":")[0],
    )
    return client


def tokens(client: FlaskClient, page: str) -> dict[str, str]:
    """The csrf token and the one-time key of the page's first form that has both, else of the account page."""
    answer = client.get(page)
    found = dict(reversed(HIDDEN.findall(answer.get_data(as_text=True)))) if answer.status_code == 200 else {}
    if {"csrf_token", "form_key"} <= set(found):
        return found
    return dict(reversed(HIDDEN.findall(client.get(TOKEN_PAGE).get_data(as_text=True)))) | found


def post(
    client: FlaskClient, url: str, data: Mapping[str, Any] | None = None, *, page: str | None = None
) -> TestResponse:
    """Send a form as the browser would: open `page` (default: the same address), take its hidden values, post.

    Values in `data` win, so {"form_key": …} sends the same form twice.
    """
    return client.post(url, data=tokens(client, page or url) | dict(data or {}))


def words(answer: TestResponse) -> str:
    """The text that a reader sees: tags out, entities resolved, blanks joined."""
    text = re.sub(r"<(script|style|template)\b.*?</\1>", " ", answer.get_data(as_text=True), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
