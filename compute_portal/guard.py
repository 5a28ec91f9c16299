"""Who may open which page, and what every page is given: the person, a reading session, now, transactions.

Every route says who may open it, once: `@allows(Permission.X)` or `@public`. `check` reads that before the view runs;
a route that says nothing stops the app from starting.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from flask import Flask, Response, abort, current_app, flash, g, redirect, request, url_for
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue
from flask_login import UserMixin
from sqlalchemy.orm import Session

from config.settings import Settings

from . import clock
from .access import UNCONFIRMED, Actor, Permission, Role
from .addresses import address
from .announcements import queries as announcements
from .announcements.models import Announcement
from .announcements.queries import Board
from .db import Database
from .enterprises import queries as enterprises
from .enterprises.queries import Place, Standing
from .language import LANGUAGES, Language, count
from .language import gettext as translate
from .language import ngettext as translate_number
from .policy import Policy
from .sentences import Refusal, Sentence
from .signin import queries as signin
from .signin import service as signin_service
from .signin.queries import SignedIn

T = TypeVar("T")
View = TypeVar("View", bound=Callable[..., Any])
PUBLIC = "public"
TOUCH_EVERY = dt.timedelta(minutes=5)
# What somebody who looks at another's pages may still send.
MAY_SEND_WHILE_VIEWING = frozenset({"desk.end_view_as", "signin.sign_out"})
NOT_VIEWED = frozenset({"static", "healthz", "readyz"})
FORM_KEY = re.compile(r"[A-Za-z0-9_-]{20,64}")
THEMES = ("light", "dark")


@dataclass(frozen=True)
class Portal:
    """What the whole app shares. `portal()` hands it to views."""

    settings: Settings
    database: Database
    policy: Policy
    board: Board = field(default_factory=Board)


@dataclass(frozen=True)
class Viewer:
    """Somebody of the bureau who sees another person's pages, until when."""

    user_id: int
    name: str
    name_en: str | None
    until_at: dt.datetime


@dataclass(frozen=True)
class Person(UserMixin):
    """Who is signed in, for the header and the rules. `place` is the enterprise acted for, None for the bureau."""

    user_id: int
    session_id: int
    name: str
    name_en: str | None
    email: str
    language: Language
    theme: str | None
    seen_at: dt.datetime
    actor: Actor
    place: Place | None
    places: tuple[Place, ...]
    is_confirmed: bool
    unread: int  # notices
    viewer: Viewer | None = None  # who really sits there: this person is only looked at

    @property
    def real_user_id(self) -> int:
        """Who really acts, for logs."""
        return self.user_id if self.viewer is None else self.viewer.user_id

    def get_id(self) -> str:
        return str(self.user_id)

    @property
    def roles(self) -> list[Role]:
        return [role for role in Role if role in self.actor.roles]


@dataclass
class _RequestState:
    now: dt.datetime = field(default_factory=lambda: clock.now())  # read when it is asked: tests move it
    reading: Session | None = None
    closing: ExitStack = field(default_factory=ExitStack)
    person: Person | None = None
    person_known: bool = False
    language: Language | None = None


def allows(permission: Permission) -> Callable[[View], View]:
    """This route is for people who have the permission."""

    def declare(view: View) -> View:
        return _declare(view, permission)

    return declare


def public(view: View) -> View:
    """This route is for everybody, signed in or not."""
    return _declare(view, PUBLIC)


def _declare(view: View, access: str) -> View:
    if hasattr(view, "access"):
        raise TypeError(f"{view.__module__}.{view.__qualname__} declares its access twice")
    view.access = access  # type: ignore[attr-defined]
    return view


def check_every_route(app: Flask) -> None:
    """Raises RuntimeError, naming them, when routes do not say who may open them."""
    silent = sorted(
        f"{rule} ({rule.endpoint})"
        for rule in app.url_map.iter_rules()
        if not hasattr(app.view_functions[rule.endpoint], "access")
    )
    if silent:
        raise RuntimeError("these routes need @allows(Permission.X) or @public: " + ", ".join(silent))


def takes_files(most: int = 1) -> Callable[[View], View]:
    """This POST route takes so many documents, each as large as the policy says; others may send 1 MB in all."""

    def declare(view: View) -> View:
        view.files_taken = most  # type: ignore[attr-defined]
        return view

    return declare


def files_taken(app: Flask, endpoint: str) -> int:
    return getattr(app.view_functions[endpoint], "files_taken", 0)


def access_of(app: Flask, endpoint: str) -> str:
    """PUBLIC or the Permission a route declares."""
    view: Any = app.view_functions[endpoint]
    return str(view.access)


def check() -> ResponseReturnValue | None:
    """Before every view: is somebody signed in, and may this person open the route?"""
    if request.method in ("TRACE", "TRACK"):
        abort(405)
    if request.routing_exception is not None or request.endpoint is None:
        return None  # 404, 405 or a redirect: Flask answers after us
    access = access_of(current_app, request.endpoint)
    if request.endpoint not in NOT_VIEWED:
        _only_looking()
    if access == PUBLIC:
        return None
    who = person()
    if who is None:
        if request.method not in ("GET", "HEAD"):
            abort(401)
        return redirect(url_for("signin.sign_in", next=request.full_path.rstrip("?")))
    if not who.is_confirmed and not who.actor.may(Permission(access)):
        return redirect(url_for("signin.unconfirmed"))
    if not who.actor.may(Permission(access)):
        log_access("denied", access)
        abort(403)
    if now() - who.seen_at >= TOUCH_EVERY:
        portal().database.transaction(lambda session: signin_service.touch(session, who.session_id, now=now()))
    return None


def _only_looking() -> None:
    """Whoever sees another's pages: every request is logged with both ids, and nothing but the way back is sent.

    Raises Refusal("view-as-reads-only").
    """
    who = person()
    if who is None or who.viewer is None:
        return
    log_access("view-as", f"{request.method} as {who.user_id}")
    if request.method not in ("GET", "HEAD"):
        _refuse_while_viewing()


def _refuse_while_viewing() -> None:
    who = known_person()
    if who is not None and who.viewer is not None and request.endpoint not in MAY_SEND_WHILE_VIEWING:
        raise Refusal(Sentence("view-as-reads-only"))


def portal() -> Portal:
    shared: Portal = current_app.extensions["portal"]
    return shared


def _state() -> _RequestState:
    kept = g._get_current_object()  # asked a hundred times for a page: through the proxy only once each time
    state: _RequestState
    try:
        state = kept.portal_request
    except AttributeError:
        state = kept.portal_request = _RequestState()
    return state


def now() -> dt.datetime:
    """The request's one instant."""
    return _state().now


def read() -> Session:
    """The request's reading session: opened when first asked for, one snapshot, closed with the request."""
    state = _state()
    if state.reading is None:
        state.reading = state.closing.enter_context(portal().database.read_only())
    return state.reading


def done_reading() -> None:
    """Close the reading session early. What was loaded stays readable; `read()` opens a newer snapshot."""
    state = _state()
    state.reading = None
    state.closing.close()


def transact(work: Callable[[Session], T]) -> T:
    """Run one verb in one writing transaction; nothing is held open for reading meanwhile."""
    _refuse_while_viewing()
    done_reading()
    return portal().database.transaction(work)


def one_time(form_key: str | None, work: Callable[[Session], T], result: Callable[[T], str]) -> str:
    """Run `work` once per form that was shown and give the address of its result.

    A second POST of the same form, also at the same moment, waits, does nothing and gets the first address. A Refusal
    rolls the key back too, so the corrected form can be sent again. The key counts for the signed-in person only.
    """
    if form_key is None or not FORM_KEY.fullmatch(form_key):
        abort(400)
    user_id, at = actor().user_id, now()
    key = hashlib.sha256(f"{user_id}:{form_key}".encode()).hexdigest()

    def once(session: Session) -> str:
        first = signin_service.take_form_key(session, key, user_id=user_id, now=at)
        if first is not None:
            return first
        address = result(work(session))
        signin_service.keep_form_result(session, key, address)
        return address

    return transact(once)


def person() -> Person | None:
    """Who is signed in, loaded once per request: one query."""
    state = _state()
    if not state.person_known:
        state.person = _find_person()
        state.person_known = True
    return state.person


def known_person() -> Person | None:
    """The person if this request asked already; never asks the database."""
    return _state().person


def forget_person() -> None:
    """The person has just left: the rest of this answer is for a guest."""
    state = _state()
    state.person, state.person_known, state.language = None, True, None


def forget_person_if_unknown() -> None:
    """The database may be away: whoever is not known yet stays a guest, and the page asks nothing more."""
    _state().person_known = True


def _find_person() -> Person | None:
    token = request.cookies.get(portal().settings.cookie_name)
    if not token:
        return None
    known = enterprises.find_signed_in(read(), token, now=now(), idle_minutes=portal().policy.sign_in.idle_minutes)
    if known is None:
        return None
    found, standing = known
    if found.viewing_user_id is not None and (viewed := _viewed(found, standing)) is not None:
        return viewed
    place = standing.place_for(found.enterprise_id)
    is_confirmed = found.confirmed_at is not None
    acting = standing.actor(found.user_id, found.enterprise_id)
    return Person(
        user_id=found.user_id,
        session_id=found.session_id,
        name=found.name,
        name_en=found.name_en,
        email=found.email,
        language="en" if found.language == "en" else "zh",
        theme=found.theme,
        seen_at=found.seen_at,
        actor=acting if is_confirmed else Actor(found.user_id, permissions=UNCONFIRMED),
        place=place,
        places=standing.places if place else (),
        is_confirmed=is_confirmed,
        unread=found.unread,
    )


def _viewed(found: SignedIn, standing: Standing) -> Person | None:
    """The person whose pages this session sees; None as soon as anything that allows it is over: two more queries."""
    viewing, until_at = found.viewing_user_id, found.viewing_until_at
    own = standing.actor(found.user_id, found.enterprise_id)
    if viewing is None or until_at is None or now() >= until_at or not own.may(Permission.VIEW_AS_START):
        return None
    seen = signin.find_viewed(read(), viewing)
    theirs = enterprises.standing_of(read(), viewing)
    place = theirs.place_for(found.viewing_enterprise_id)
    if seen is None or place is None or place.enterprise_id != found.viewing_enterprise_id:
        return None
    return Person(
        user_id=seen.user_id,
        session_id=found.session_id,
        name=seen.name,
        name_en=seen.name_en,
        email=seen.email,
        language="en" if found.language == "en" else "zh",
        theme=found.theme,
        seen_at=found.seen_at,
        actor=theirs.actor(seen.user_id, place.enterprise_id),
        place=place,
        places=(place,),
        is_confirmed=True,
        unread=seen.unread,
        viewer=Viewer(found.user_id, found.name, found.name_en, until_at),
    )


def signed_in() -> Person:
    """The person, in views behind @allows: others get 401."""
    who = person()
    if who is None:
        abort(401)
    return who


def actor() -> Actor:
    """Who acts, as every verb wants to know. For views behind @allows."""
    return signed_in().actor


def language() -> Language:
    """The language of this answer, found out once: a page asks for it with every number it shows."""
    state = _state()
    if state.language is None:
        state.language = _preferred_language()
    return state.language


def _preferred_language() -> Language:
    """The person's language, else the remembered one, else what the browser prefers, else Chinese."""
    who = person()
    if who is not None:
        return who.language
    remembered = request.cookies.get(cookie_called("language"))
    for known in LANGUAGES:
        if remembered == known:
            return known
    best = request.accept_languages.best_match(["zh", "zh-CN", "zh-Hans", "en", "en-GB", "en-US"], "zh")
    return "en" if best and best.startswith("en") else "zh"


def _(text: str, **values: object) -> str:
    """A msgid in the reader's language, for what a view puts together: `_("%(n)s cards", n=64)`."""
    translated = translate(language(), text)
    return translated % values if values else translated


def n_(one: str, many: str, n: int, **values: object) -> str:
    """The same for a number of things; `%(num)s` is the number as people write it."""
    return translate_number(language(), one, many, n) % {"num": count(n, language()), **values}


def theme() -> str | None:
    """'light', 'dark', or None to follow the system."""
    who = person()
    chosen = who.theme if who is not None else request.cookies.get(cookie_called("theme"))
    return chosen if chosen in THEMES else None


def cookie_called(what: str) -> str:
    """Our other cookies are named after the session's, so that they share its __Host- prefix under https."""
    return f"{portal().settings.cookie_name}-{what}"


def remember(response: Response, name: str, value: str, max_age: dt.timedelta | None = None) -> None:
    """Set a cookie the only way we do: HttpOnly, SameSite=Lax, whole site, Secure under https."""
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        path="/",
        httponly=True,
        samesite="Lax",
        secure=portal().settings.secure,
    )


def forget(response: Response, name: str) -> None:
    response.delete_cookie(name, path="/", httponly=True, samesite="Lax", secure=portal().settings.secure)


def announced() -> list[Announcement]:
    """What stands on top of this page. The board is read at most every half minute; error pages do not ask."""
    board = portal().board
    if board.is_old(now()):
        board.fill(announcements.list_coming(read(), now()), now())
    who = person()
    return board.shown(None if who is None else who.actor.roles, now())


def tell(what: Sentence | str, tone: str = "done") -> None:
    """Show the result of this action above the next page's heading. tone: 'done', 'warn' or 'stop'.

    A Sentence is put into words where it is shown; a text must be translated already.
    """
    told: Any = what.to_json() if isinstance(what, Sentence) else what
    flash(told, tone)


def local_address(address: str | None) -> str | None:
    """The address if it stays on this host, else None: no '//host', no '/\\\\host', no 'https:host' and so on."""
    if not address or not address.startswith("/") or address.startswith("//"):
        return None
    if "\\" in address or any(ord(letter) <= 32 or ord(letter) == 127 for letter in address):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return address if not parts.scheme and not parts.netloc else None


def this_page() -> str:
    """The address that shows this page again, for the switches in the frame that keep the page."""
    if request.method in ("GET", "HEAD"):
        return request.full_path.rstrip("?")
    matched = request_ctx.url_adapter is not None and request_ctx.url_adapter.test(request.path, "GET")
    return request.path if matched else home()


def home() -> str:
    """Where a person who has no other place to go is sent."""
    who = person()
    if who is None:
        return address("signin.sign_in")
    if not who.is_confirmed:
        return address("signin.unconfirmed")
    if not who.actor.may(Permission.START_VIEW):
        return address("signin.no_role")
    return address("desk.start") if "desk.start" in current_app.view_functions else address("signin.account")


def log_access(kind: str, detail: str | None = None, user_id: int | None = None) -> None:
    """One row in the access log, in its own transaction: 'denied' and 'export' come from here."""
    if user_id is None and (who := person()) is not None:
        user_id = who.real_user_id
    at, address, path = now(), client_address(), logged_path()
    portal().database.transaction(
        lambda session: signin_service.log_access(
            session, kind, user_id=user_id, address=address, path=path, detail=detail, now=at
        )
    )


def client_address() -> str:
    """The client's IP address; behind proxies as many steps back as PORTAL_TRUSTED_PROXIES says."""
    return (request.remote_addr or "")[:45]


def logged_path() -> str:
    """The path with everything unusual percent-encoded: one line, no control characters, no query."""
    return quote(request.path)[:200]


def end_request(error: BaseException | None = None) -> None:
    state: _RequestState | None = g.pop("portal_request", None)
    if state is not None:
        state.closing.close()
