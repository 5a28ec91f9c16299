"""Every answer carries the security headers, and every route that changes something wants a CSRF token."""

from __future__ import annotations

import re

import pytest
from flask import Blueprint, Flask, session
from flask_wtf.csrf import generate_csrf, validate_csrf
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from compute_portal.access import ALLOWED, Permission, Role
from compute_portal.app import HSTS, create_app
from compute_portal.db import Database
from compute_portal.forms import csrf_token
from compute_portal.guard import PUBLIC, access_of, allows, check_every_route, public
from compute_portal.policy import Policy
from tests.cast import ROLES, Cast
from tests.web import Browser, make_app, plain, rows_in, with_feature

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
CSP = {
    "default-src": "'self'",
    "img-src": "'self' data:",
    "style-src": "'self'",
    "script-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}


def address(rule: object) -> str:
    """The rule with something in place of every argument."""
    filled = re.sub(r"<(?:int:)\w+>", "1", str(rule))
    return re.sub(r"<(?:\w+:)?\w+>", "x", filled)


def assert_headers(answer: TestResponse, where: str) -> None:
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy == CSP, where
    assert answer.headers["X-Content-Type-Options"] == "nosniff", where
    assert answer.headers["Referrer-Policy"] == "same-origin", where
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin", where
    assert "Permissions-Policy" in answer.headers, where
    if not where.startswith("/static"):
        assert answer.headers["Cache-Control"] == "no-store", where


def somebody_with(cast: Cast, access: str) -> int | None:
    if access == PUBLIC:
        return None
    name = next(name for name, role in ROLES.items() if Permission(access) in ALLOWED[role])
    return cast.users[name]


@pytest.fixture
def app(database: Database, policy: Policy, cast: Cast) -> Flask:
    app = make_app(database, policy, own=True)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


def test_every_route_answers_with_all_headers_to_a_guest_and_to_everybody_signed_in(app: Flask, cast: Cast) -> None:
    browsers = [Browser(app), *(Browser(app).be(cast.users[name]) for name in ("lin", "zhou", "he", "xu", "an"))]
    asked = 0
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()):
            for browser in browsers:
                answer = browser.client.get(address(rule))
                assert answer.status_code < 500 or str(rule) == "/readyz", rule
                assert_headers(answer, str(rule))
                asked += 1
    assert asked > 30


def test_errors_carry_all_headers_too(database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Blueprint("broken", __name__)

    @broken.get("/broken/<how>")
    @public
    def page(how: str) -> str:
        if how == "database":
            raise OperationalError("SELECT 1", {}, Exception("database is locked"))
        raise ZeroDivisionError("secret detail")

    with_feature(monkeypatch, broken)
    app = make_app(database, policy)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    client = app.test_client()
    answers = {
        400: client.post("/sign-in", data={}),
        404: client.get("/nowhere"),
        405: client.open("/sign-in", method="DELETE"),
        413: client.post("/sign-in", data={"x": "y" * 2_000_000}),
        500: client.get("/broken/anyhow"),
        503: client.get("/broken/database"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert_headers(answer, str(status))
        assert "Traceback" not in answer.text
        assert "secret detail" not in answer.text
    assert answers[503].headers["Retry-After"] == "30"
    assert "GET" in answers[405].headers["Allow"]
    bad_host = client.get("/sign-in", headers={"Host": "evil.example"})
    assert bad_host.status_code == 400
    assert_headers(bad_host, "bad host")


def test_an_incident_number_on_the_page_is_the_one_in_the_log(
    database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Blueprint("broken", __name__)

    @broken.get("/broken")
    @public
    def page() -> str:
        raise ZeroDivisionError

    with_feature(monkeypatch, broken)
    app = make_app(database, policy)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    answer = app.test_client().get("/broken")
    incident = re.search(r"编号 ([0-9A-F]{4}) 已记录", plain(answer))
    assert incident is not None
    logged = [record for record in caplog.records if getattr(record, "incident", None) == incident[1]]
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert logged[0].exc_info[0] is ZeroDivisionError


def test_trace_is_405_everywhere(app: Flask) -> None:
    for path in ("/", "/sign-in", "/account", "/static/commons.css", "/nowhere"):
        assert app.test_client().open(path, method="TRACE").status_code == 405


def test_under_https_the_cookies_are_host_bound_and_hsts_is_sent(
    database: Database, policy: Policy, cast: Cast
) -> None:
    app = make_app(database, policy, public_url="https://portal.test")
    client = app.test_client()
    answer = client.get("/sign-in", base_url="https://portal.test")
    assert answer.headers["Strict-Transport-Security"] == HSTS
    seconds = re.search(r"max-age=(\d+)", HSTS)
    assert seconds is not None
    assert int(seconds[1]) >= 31_536_000
    token = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
    assert token is not None
    answer = client.post(
        "/theme",
        data={"csrf_token": token[1], "theme": "dark", "back": "/sign-in"},
        base_url="https://portal.test",
        headers={"Referer": "https://portal.test/sign-in"},
    )
    assert answer.status_code == 302
    cookies = client.get("/sign-in", base_url="https://portal.test").headers.getlist("Set-Cookie")
    cookies += answer.headers.getlist("Set-Cookie")
    browser = Browser(app)
    from tests.web import give_password

    give_password(database, cast.users["lin"])
    page = browser.client.get("/sign-in", base_url="https://portal.test")
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token is not None
    signed_in = browser.client.post(
        "/sign-in",
        data={"csrf_token": token[1], "email": "lin@example.cn", "password": "open the gate 9"},
        base_url="https://portal.test",
        headers={"Referer": "https://portal.test/sign-in"},
    )
    assert signed_in.status_code == 302
    cookies += signed_in.headers.getlist("Set-Cookie")
    assert len(cookies) >= 3
    for cookie in cookies:
        assert cookie.startswith("__Host-portal"), cookie
        for wanted in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
            assert wanted in cookie, cookie
        assert "Domain=" not in cookie


def test_under_http_nothing_promises_https(app: Flask) -> None:
    assert "Strict-Transport-Security" not in app.test_client().get("/sign-in").headers


def test_static_files_with_their_hash_may_be_kept_and_others_are_asked_for_again(app: Flask) -> None:
    client = app.test_client()
    page = client.get("/sign-in").text
    css = re.search(r'href="(/static/commons.css\?v=\w+)"', page)
    assert css is not None
    assert "immutable" in client.get(css[1], buffered=True).headers["Cache-Control"]
    assert client.get("/static/commons.css", buffered=True).headers["Cache-Control"] == "no-cache"
    assert client.get("/static/../app.py").status_code == 404


def test_every_route_that_changes_something_refuses_a_post_without_a_token(app: Flask, cast: Cast) -> None:
    tried = 0
    for rule in app.url_map.iter_rules():
        for method in sorted(UNSAFE & (rule.methods or set())):
            browser = Browser(app)
            user_id = somebody_with(cast, access_of(app, rule.endpoint))
            if user_id is not None:
                browser.be(user_id)
            for data in ({}, {"csrf_token": "forged"}, {"csrf_token": Browser(app).token()}):
                answer = browser.client.open(address(rule), method=method, data=data)
                assert answer.status_code == 400, (rule, method, data)
                assert "这张表单已过时" in plain(answer), (rule, method)
                tried += 1
    assert tried >= 3 * 8


def test_a_browsers_forms_carry_one_token_and_anothers_another(app: Flask, cast: Cast) -> None:
    mine, others = Browser(app).be(cast.users["lin"]), Browser(app).be(cast.users["zhou"])
    tokens = []
    for browser in (mine, mine, others):
        browser.get("/account")
        tokens.append(browser.token())
    assert tokens[0] == tokens[1] != tokens[2]
    answers = [mine.client.post("/theme", data={"csrf_token": token, "theme": "dark"}) for token in tokens[1:]]
    assert [answer.status_code for answer in answers] == [302, 400]


def test_a_session_that_gets_another_secret_within_a_request_gets_tokens_of_that_one(app: Flask) -> None:
    with app.test_request_context():
        session["csrf_token"] = "before"
        generate_csrf()  # as a form does that is sent
        session["csrf_token"] = "afterwards"
        csrf_token()
    with app.test_request_context():
        session["csrf_token"] = "afterwards"
        validate_csrf(csrf_token())


def test_a_token_of_before_sign_in_is_not_good_afterwards(app: Flask, cast: Cast) -> None:
    browser = Browser(app)
    browser.get("/sign-in")
    guest_token = browser.token()
    from tests.web import give_password

    give_password(cast.database, cast.users["lin"])
    assert browser.sign_in("lin@example.cn").status_code == 302
    answer = browser.client.post("/language", data={"csrf_token": guest_token, "language": "en"})
    assert answer.status_code == 400


def test_a_route_that_says_nothing_about_access_stops_the_start(
    database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Blueprint("silent", __name__)
    silent.add_url_rule("/silent", "page", lambda: "hello")
    with_feature(monkeypatch, silent)
    with pytest.raises(RuntimeError, match=r"/silent \(silent\.page\)"):
        make_app(database, policy)


def test_a_route_added_after_the_start_is_closed(app: Flask) -> None:
    app._got_first_request = False
    app.add_url_rule("/late", "late", lambda: "hello")
    assert app.test_client().get("/late").status_code == 500
    with pytest.raises(RuntimeError, match="/late"):
        check_every_route(app)


def test_a_route_declares_its_access_once() -> None:
    with pytest.raises(TypeError, match="declares its access twice"):
        public(allows(Permission.START_VIEW)(lambda: "hello"))


def test_a_denial_is_a_page_and_a_row_in_the_access_log(app: Flask, cast: Cast) -> None:
    from compute_portal.signin.models import AccessLogEntry

    answer = Browser(app).be(cast.users["zhou"]).get("/keys")
    assert answer.status_code == 403
    assert "你不能打开这一页" in plain(answer)
    assert rows_in(cast.database, AccessLogEntry) == 1


def test_without_a_database_pages_say_so_and_the_process_is_still_healthy(tmp_path: object, policy: Policy) -> None:
    gone = Database(f"sqlite:///{tmp_path}/not/there/portal.sqlite")
    app = make_app(gone, policy)
    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.get_json()["database"]["ok"] is False
    client.set_cookie("portal", "x" * 43, domain="portal.test")
    for path in ("/account", "/nowhere", "/sign-in"):
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert "平台连不上数据库" in plain(answer)
        assert_headers(answer, path)


def test_roles_without_a_permission_do_not_exist(app: Flask) -> None:
    """Every declared permission is given to at least one role, else its page is unreachable."""
    for rule in app.url_map.iter_rules():
        access = access_of(app, rule.endpoint)
        if access != PUBLIC:
            assert any(Permission(access) in ALLOWED[role] for role in Role), rule


def test_the_app_starts_from_settings_alone(tmp_path: object) -> None:
    from config.settings import Settings

    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/x.sqlite", public_url="http://127.0.0.1:8000"))
    assert app.test_client().get("/healthz").get_json() == {"ok": True}
    app.extensions["portal"].database.dispose()
