"""A browser for tests: an app on the test's database, a client that keeps cookies and sends CSRF tokens."""

from __future__ import annotations

import dataclasses
import datetime as dt
import html
import re
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from jinja2.bccache import Bucket, BytecodeCache
from sqlalchemy import event
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from compute_portal import app as app_module
from compute_portal import clock, guard
from compute_portal.app import create_app
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.signin import passwords, service
from compute_portal.signin.models import User
from config.settings import Settings

PASSWORD = "open the gate 9"
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_KEY = re.compile(r'name="form_key" value="([^"]+)"')


class _Compiled(BytecodeCache):
    """What Jinja made of a template, for every app of this process: compiling was half the time of a page's test.

    Kept by the source too, because each language has its own.
    """

    def __init__(self) -> None:
        self.code: dict[tuple[str, str], bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if code := self.code.get((bucket.key, bucket.checksum)):
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.code[bucket.key, bucket.checksum] = bucket.bytecode_to_string()


Flask.jinja_options = {"bytecode_cache": _Compiled()}
FEATURES = app_module.FEATURES
_idle: dict[str, list[Flask]] = {}
_lent: list[tuple[str, Flask]] = []


def make_app(database: Database, policy: Policy | None = None, *, own: bool = False, **settings: Any) -> Flask:
    """An app on this database. One of the same settings is lent to one test after the other, because making it takes
    longer than most tests; `own` is for a test that changes the app itself."""
    values: dict[str, Any] = {"env": "test", "secret_key": "s" * 40, "public_url": "http://portal.test"} | settings
    if own or policy is None or app_module.FEATURES is not FEATURES:
        return create_app(Settings(**values), database, policy)
    kind = repr(sorted(values.items()))
    idle = _idle.setdefault(kind, [])
    app = idle.pop() if idle else create_app(Settings(**values), database, policy)
    app.extensions["portal"] = dataclasses.replace(app.extensions["portal"], database=database, policy=policy)
    _lent.append((kind, app))
    return app


def give_apps_back() -> None:
    """After each test."""
    for kind, app in _lent:
        app.extensions.pop("test_now", None)
        _idle[kind].append(app)
    _lent.clear()


def with_feature(monkeypatch: pytest.MonkeyPatch, blueprint: Any) -> None:
    """Apps made from now on in this test have one feature more."""
    monkeypatch.setattr(app_module, "FEATURES", [*app_module.FEATURES, blueprint])


class Browser:
    """One browser. `page` is what it shows: the last answer."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client = app.test_client()
        self.portal = app.extensions["portal"]
        self.page: TestResponse | None = None

    def get(self, address: str, **options: Any) -> TestResponse:
        self.page = self.client.get(address, **options)
        return self.page

    def post(self, address: str, data: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        """As a person does it: with the token and, unless given, the form key of the page that is shown."""
        values: dict[str, Any] = {"csrf_token": self.token()}
        shown = self.page.text if self.page is not None and self.page.mimetype == "text/html" else ""
        if key := _KEY.search(shown):
            values["form_key"] = key[1]
        self.page = self.client.post(address, data=values | (data or {}), **options)
        return self.page

    def token(self) -> str:
        shown = self.page.text if self.page is not None and self.page.mimetype == "text/html" else ""
        found = _TOKEN.search(shown)
        if found is None:
            found = _TOKEN.search(self.client.get("/a-page-that-is-not-there").text)
        assert found is not None
        return found[1]

    def be(self, user_id: int, enterprise_id: int | None = None) -> Browser:
        """Be signed in without typing a password: a session row and its cookie."""
        portal = self.portal
        token = portal.database.transaction(
            lambda s: service.start_session(
                s, user_id, enterprise_id=enterprise_id, policy=portal.policy.sign_in, now=clock.now()
            )
        )
        self.set_cookie(token)
        return self

    def sign_in(self, email: str, password: str = PASSWORD, next: str | None = None, **options: Any) -> TestResponse:
        self.get("/sign-in")
        address = "/sign-in"
        query = {"next": next} if next is not None else None
        return self.post(address, {"email": email, "password": password}, query_string=query, **options)

    @property
    def cookie(self) -> str | None:
        found = self.client.get_cookie(self.portal.settings.cookie_name, domain=self.portal.settings.public_host)
        return found.value if found else None

    def set_cookie(self, token: str) -> None:
        settings = self.portal.settings
        self.client.set_cookie(settings.cookie_name, token, domain=settings.public_host)

    @property
    def is_signed_in(self) -> bool:
        return self.client.get("/account").status_code in (200, 403)


def give_password(database: Database, user_id: int, password: str = PASSWORD) -> None:
    hashed = passwords.hash_password(password)
    database.transaction(lambda s: service.set_password(s, user_id, hashed, now=clock.now()))


def email_of(database: Database, user_id: int) -> str:
    with database.read_only() as session:
        return session.get_one(User, user_id).email


def plain(response: TestResponse) -> str:
    """The page's text without tags."""
    return html.unescape(re.sub(r"<[^>]+>", " ", response.text))


class Queries:
    """Counts the statements sent to the database inside a `with` block, without BEGIN, PRAGMA and the like."""

    def __init__(self, database: Database) -> None:
        self.engines = database.engine, database.reading_engine
        self.statements: list[str] = []

    def _note(self, connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.split(None, 1)[0].upper() in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            self.statements.append(statement)

    def __enter__(self) -> Queries:
        for engine in self.engines:
            event.listen(engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *rest: object) -> None:
        for engine in self.engines:
            event.remove(engine, "before_cursor_execute", self._note)

    def __len__(self) -> int:
        return len(self.statements)


def rows_in(database: Database, table: type[Any]) -> int:
    with database.read_only() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def set_now(app: Flask, now: dt.datetime) -> None:
    """From here on it is `now` for this app, and for people who `sign_in`."""
    if "test_clock" not in app.extensions:
        app.extensions["test_clock"] = True
        app.before_request_funcs.setdefault(None, []).insert(0, lambda: _turn_clock(app))
    app.extensions["test_now"] = now


def _turn_clock(app: Flask) -> None:
    if "test_now" in app.extensions:
        guard._state().now = app.extensions["test_now"]


def sign_in(app: Flask, user_id: int, *, enterprise_id: int | None = None, language: str | None = None) -> FlaskClient:
    """A client of somebody who is signed in, with a session row of its own."""
    portal, now = app.extensions["portal"], app.extensions.get("test_now") or clock.now()

    def begin(session: Session) -> str:
        if language is not None:
            session.execute(sa.update(User).where(User.id == user_id).values(language=language))
        return service.start_session(
            session, user_id, enterprise_id=enterprise_id, policy=portal.policy.sign_in, now=now
        )

    client = app.test_client()
    client.set_cookie(
        portal.settings.cookie_name, portal.database.transaction(begin), domain=portal.settings.public_host
    )
    return client


def post(
    client: FlaskClient, address: str, data: Mapping[str, Any] | None = None, *, page: str | None = None
) -> TestResponse:
    """Open `page` (default: the same address), take its token and form key, and send. What `data` names wins."""
    shown = client.get(page or address).text
    if _TOKEN.search(shown) is None or _KEY.search(shown) is None:
        shown = client.get("/account").text
    token, key = _TOKEN.search(shown), _KEY.search(shown)
    assert token is not None and key is not None
    return client.post(address, data={"csrf_token": token[1], "form_key": key[1]} | dict(data or {}))


def words(response: TestResponse) -> str:
    """The page's text without tags, blanks joined: easy to search for a sentence."""
    return " ".join(plain(response).split())
