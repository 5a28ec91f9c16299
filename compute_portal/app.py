"""The glue: `create_app(settings)`, the one list of features, security headers, error pages, health."""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from flask import Blueprint, Flask, Response, current_app, g, jsonify, make_response, render_template, request
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_login import LoginManager
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter

from config.settings import Settings

from . import clock, guard, metrics, schema, templating
from .allocations.views import allocation_changes, allocation_reports
from .allocations.views import blueprint as allocations
from .announcements.views import blueprint as announcements
from .bookings.views import blueprint as bookings
from .budgets.views import blueprint as budgets
from .calendar.views import blueprint as calendar
from .cancellations.views import blueprint as cancellations
from .claims.views import blueprint as claims
from .cli import register_cli
from .commons.views import blueprint as commons
from .db import Database
from .desk.models import Leader
from .desk.views import blueprint as desk
from .enterprises.views import blueprint as enterprises
from .feeds.views import blueprint as feeds
from .files.views import blueprint as files
from .forms import csrf_token
from .gauges import Gauges
from .guard import Portal, public
from .language import N_
from .notices.views import blueprint as notices
from .people.views import blueprint as people
from .policy import Policy, load_policy
from .pools.views import blueprint as pools
from .pools.views import tariffs
from .programmes.views import blueprint as programmes
from .review.views import blueprint as review
from .sentences import NotFound, Refusal, Sentence
from .signin.views import blueprint as signin
from .statements.views import blueprint as statements
from .subsidies.views import blueprint as subsidies
from .usage.views import blueprint as usage
from .workdays.views import blueprint as workdays

# The one list of features. A new one is added here and nowhere else.
FEATURES: list[Blueprint] = [
    signin,
    bookings,
    allocations,
    allocation_changes,
    allocation_reports,
    budgets,
    calendar,
    cancellations,
    announcements,
    commons,
    desk,
    enterprises,
    feeds,
    files,
    notices,
    people,
    programmes,
    pools,
    review,
    tariffs,
    usage,
    statements,
    subsidies,
    claims,
    workdays,
]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = "max-age=31536000; includeSubDomains"
HEARTBEAT_SECONDS = 60
FORBIDDEN = ("not-allowed", "view-as-reads-only")
MOST_UPLOADED = 1_000_000  # bytes of a form; one that takes files may carry their size more
LARGEST_ID = 2**31 - 1
DATABASE_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
requests_log = logging.getLogger("compute_portal.requests")
incidents_log = logging.getLogger("compute_portal.incidents")


class RowId(IntegerConverter):
    """`<int:id>` in an address: what no row can have is 404, not an overflow in the database."""

    def __init__(self, map: Any) -> None:
        super().__init__(map, min=0, max=LARGEST_ID)


class Cookies(SecureCookieSessionInterface):
    """Flask's, which makes what signs its cookies once and not twice for every request."""

    _signing: Any = None

    def get_signing_serializer(self, app: Flask) -> Any:
        self._signing = self._signing or super().get_signing_serializer(app)
        return self._signing


def create_app(settings: Settings, database: Database | None = None, policy: Policy | None = None) -> Flask:
    """The web app. Refuses to start when a route does not say who may open it."""
    app = Flask("compute_portal", root_path=str(Path(__file__).parent))
    app.extensions["portal"] = Portal(
        settings, database or Database(settings.database_url), policy or load_policy(settings.policy_file)
    )
    app.config.update(
        SECRET_KEY=settings.secret_key,
        DEBUG=settings.debug,
        TESTING=settings.env == "test",
        # SERVER_NAME only builds addresses outside a request; who may ask is TRUSTED_HOSTS.
        SERVER_NAME=settings.public_host,
        PREFERRED_URL_SCHEME="https" if settings.secure else "http",
        TRUSTED_HOSTS=[settings.public_host],
        PROVIDE_AUTOMATIC_OPTIONS=False,
        MAX_CONTENT_LENGTH=MOST_UPLOADED,
        SESSION_COOKIE_NAME=f"{settings.cookie_name}-form",
        SESSION_COOKIE_SECURE=settings.secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        # The token lives as long as the cookie it is bound to, which is renewed at sign-in and sign-out.
        WTF_CSRF_TIME_LIMIT=None,
        WTF_I18N_ENABLED=False,
        REMEMBER_COOKIE_NAME=f"{settings.cookie_name}-unused",
    )
    app.session_interface = Cookies()
    app.url_map.converters["int"] = RowId
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    # An unhandled exception is logged once, by _incident, with the number that the reader sees.
    app.log_exception = lambda exc_info: None  # type: ignore[method-assign]
    templating.equip(app)
    app.before_request(_begin)
    app.before_request(guard.check)
    CSRFProtect(app)
    app.context_processor(lambda: {"csrf_token": csrf_token})
    _know_people(app)
    app.after_request(_end)
    app.teardown_request(guard.end_request)
    for feature in FEATURES:
        app.register_blueprint(feature)
    app.add_url_rule("/healthz", view_func=healthz)
    app.add_url_rule("/readyz", view_func=readyz)
    public(app.view_functions["static"])
    _answer_errors(app)
    guard.check_every_route(app)
    register_cli(app)
    if settings.metrics_port:
        # Outermost: what comes to the other port never meets the site.
        gauges = Gauges(app.extensions["portal"].database)
        app.wsgi_app = metrics.Beside(app.wsgi_app, settings.metrics_port, gauges)  # type: ignore[method-assign]
    return app


def _know_people(app: Flask) -> None:
    """flask-login asks us who a request comes from; its own cookies and session entries are not used."""
    login = LoginManager()
    login.session_protection = None
    login.init_app(app, add_context_processor=False)
    login.request_loader(lambda _request: guard.person())


# -- around every request


def _begin() -> None:
    g.started = time.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=secrets.token_hex(8))
    if request.endpoint and (files := guard.files_taken(current_app, request.endpoint)):
        largest = guard.portal().policy.files.largest_megabytes * 1_000_000
        request.max_content_length = MOST_UPLOADED + files * largest


def _end(response: Response) -> Response:
    """Headers on every answer, errors and files included; one log line."""
    settings = guard.portal().settings
    response.headers.update(HEADERS)
    if settings.secure:
        response.headers["Strict-Transport-Security"] = HSTS
    if request.endpoint == "static" and response.status_code in (200, 206, 304):
        kept = "v" in request.args
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
    else:
        response.headers.setdefault("Cache-Control", "no-store")
    _log_request(response)
    return response


def _log_request(response: Response) -> None:
    """By id only: no names, no addresses, no query strings."""
    seconds = time.monotonic() - g.get("started", time.monotonic())
    metrics.answered(request.endpoint, response.status_code, seconds)
    person = guard.known_person()
    requests_log.info(
        "request",
        extra={
            "method": request.method,
            "path": guard.logged_path(),
            "status": response.status_code,
            "ms": round(seconds * 1000),
            "user_id": None if person is None else person.real_user_id,
        },
    )


# -- error pages


class ErrorPage:
    """What an error page says: heading and text, both msgids."""

    def __init__(self, heading: str, text: str) -> None:
        self.heading = heading
        self.text = text


ERROR_PAGES: dict[int, ErrorPage] = {
    400: ErrorPage(
        N_("This request could not be read"),
        N_("Go back, load the page again and send the form once more. What you typed is still there."),
    ),
    401: ErrorPage(
        N_("You are no longer signed in"),
        N_("Nothing was changed. Sign in, then send the form again."),
    ),
    403: ErrorPage(
        N_("You may not open this page"),
        N_("It needs a role that you do not have. The attempt is noted in the access log."),
    ),
    404: ErrorPage(
        N_("There is no such page"),
        N_("The address may be wrong, or it belongs to another company."),
    ),
    405: ErrorPage(
        N_("This address does not work that way"),
        N_("It is reached by a button on a page, not by typing it."),
    ),
    409: ErrorPage(N_("That is no longer possible"), N_("Load the page again to see how things stand.")),
    413: ErrorPage(N_("That is too much at once"), N_("Choose a smaller file, or send in parts.")),
    422: ErrorPage(N_("This could not be understood"), N_("Go back, check what you typed and send it again.")),
    429: ErrorPage(N_("Too many tries"), N_("Wait a few minutes, then try again.")),
    500: ErrorPage(
        N_("Something broke on our side"),
        N_("What you were doing was not saved. It is logged as %(incident)s: try again, or tell us the number."),
    ),
    503: ErrorPage(
        N_("The portal cannot reach its database"),
        N_("Nothing was changed. It is logged as %(incident)s: try again in a minute, or tell us the number."),
    ),
}
FORM_TOO_OLD = ErrorPage(
    N_("This form is out of date"),
    N_("It was opened before you signed in or out. Go back, load the page again and send it once more."),
)


def _answer_errors(app: Flask) -> None:
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(CSRFError, _old_form)
    app.register_error_handler(NotFound, lambda _error: error_page(404))
    app.register_error_handler(Refusal, _refused)
    app.register_error_handler(500, _broken)
    for failure in DATABASE_AWAY:
        app.register_error_handler(failure, _database_away)


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if isinstance(error, SecurityError):
        # Not our host: there is no address to build a page with.
        return make_response("400 Bad Request: this host is not served here\n", 400, {"Content-Type": "text/plain"})
    response = error_page(error.code or 500)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _refused(refusal: Refusal) -> ResponseReturnValue:
    """A view that has no form to show it in: most often somebody else was quicker."""
    metrics.refused(refusal)
    return error_page(403 if refusal.sentence.id in FORBIDDEN else 409, sentence=refusal.sentence)


def _old_form(_error: CSRFError) -> ResponseReturnValue:
    return error_page(400, FORM_TOO_OLD)


def _broken(error: Exception) -> ResponseReturnValue:
    return _incident(500, getattr(error, "original_exception", None) or error)


def _database_away(error: BaseException) -> Response:
    response = _incident(503, error)
    response.headers["Retry-After"] = "30"
    return response


def _incident(status: int, error: BaseException) -> Response:
    """A short number for the reader, the same in the log beside the whole story. The page asks the database nothing."""
    incident = secrets.token_hex(2).upper()
    incidents_log.error("incident %s", incident, exc_info=error, extra={"incident": incident, "status": status})
    guard.forget_person_if_unknown()
    return error_page(status, incident=incident)


def error_page(
    status: int, page: ErrorPage | None = None, *, sentence: Sentence | None = None, incident: str = ""
) -> Response:
    try:
        guard.person()  # for the header
    except DATABASE_AWAY as error:
        return _database_away(error)
    page = page or ERROR_PAGES.get(status) or ERROR_PAGES[400 if status < 500 else 500]
    return make_response(
        render_template("error.html", status=status, page=page, sentence=sentence, incident=incident), status
    )


# -- health


@public
def healthz() -> ResponseReturnValue:
    """The process answers."""
    return jsonify(ok=True)


@public
def readyz() -> ResponseReturnValue:
    """Fit for work: the database answers, its tables are this code's, the scheduler is alive. 503 when not."""
    checks = _readiness(guard.portal().database)
    ready = all(check["ok"] for check in checks.values())
    return make_response(jsonify(ok=ready, **checks), 200 if ready else 503)


def _readiness(database: Database) -> dict[str, dict[str, Any]]:
    checks: dict[str, dict[str, Any]] = {
        "database": {"ok": False},
        "migrations": {"ok": False, "found": None, "expected": schema.newest()},
        "scheduler": {"ok": False, "heartbeat_seconds": None},
    }
    try:
        with database.read_only() as session:
            session.execute(sa.select(1))
            checks["database"]["ok"] = True
            found = sorted(session.scalars(sa.text("SELECT version_num FROM alembic_version")))
            checks["migrations"] |= {"found": ",".join(found), "ok": found == [schema.newest()]}
            heartbeat = session.scalar(sa.select(Leader.heartbeat_at))
    except sa.exc.DBAPIError:
        # Also when the tables are not there yet: what is still false in the answer says how far it came.
        incidents_log.warning("not ready", exc_info=True)
        return checks
    if heartbeat is not None:
        age = clock.seconds_between(heartbeat, guard.now())
        checks["scheduler"] = {"ok": age < HEARTBEAT_SECONDS, "heartbeat_seconds": age}
    return checks
