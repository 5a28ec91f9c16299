"""Sign in and out, switch language, theme and enterprise, one's password and keys."""

from __future__ import annotations

import datetime as dt

from flask import Blueprint, Response, abort, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import guard
from ..access import Permission
from ..enterprises.queries import standing_of
from ..forms import show
from ..guard import actor, allows, now, one_time, person, portal, public, read, tell, transact
from ..language import LANGUAGES
from ..sentences import Refusal, Sentence
from . import passwords, queries, service
from .forms import KeyForm, PasswordForm, SignInForm
from .models import User

blueprint = Blueprint("signin", __name__, template_folder="templates")
REMEMBERED = dt.timedelta(days=365)


@blueprint.get("/sign-in")
@public
def sign_in() -> ResponseReturnValue:
    if person() is not None:
        return redirect(guard.local_address(request.args.get("next")) or guard.home())
    return show("signin/sign_in.html", SignInForm(), policy=portal().policy.sign_in)


@blueprint.post("/sign-in")
@public
def sign_in_post() -> ResponseReturnValue:
    form = SignInForm()
    status = 422
    if form.validate():
        try:
            return _with_session(_try(form), guard.local_address(request.args.get("next")) or url_for("signin.home"))
        except Refusal as refusal:
            form.refuse(refusal)
            status = 429 if refusal.sentence.id == "sign-in-paused" else 422
    answer = make_response(show("signin/sign_in.html", form, policy=portal().policy.sign_in))
    answer.status_code = status
    return answer


def _try(form: SignInForm) -> str:
    """One try to sign in: counted, checked, and taken back when it was right. Returns the token of the new session.

    The slow hash is computed between transactions, and for unknown people too. Raises Refusal with the same sentence
    whether the person, the password or the permission to be here is missing.
    """
    email, password = form.email.data.lower(), form.password.data
    policy = portal().policy.sign_in
    who = service.who_tries(portal().settings.secret_key, email=email, address=guard.client_address())
    tries = transact(lambda s: service.count_try(s, who, policy=policy, now=now()))
    user = queries.find_by_email(read(), email)
    guard.done_reading()
    right = passwords.verify(user.password_hash if user else None, password)
    if user is None or not right or user.disabled_at is not None:
        guard.log_access("sign-in-failed", user_id=user.id if user else None)
        raise Refusal(Sentence("sign-in-wrong"))
    place = standing_of(read(), user.id).place_for(None)
    old = person()
    renewed = _renewed_hash(user, password)

    def begin(s: Session) -> str:
        service.check_unchanged(s, user.id, password_hash=user.password_hash)
        service.forgive_tries(s, who, tries)
        if renewed:
            service.renew_hash(s, user.id, before=user.password_hash or "", after=renewed)
        _log(s, "sign-in", user.id)
        return service.start_session(
            s,
            user.id,
            enterprise_id=place.enterprise_id if place else None,
            policy=policy,
            now=now(),
            instead_of=old.session_id if old else None,
        )

    return transact(begin)


def _renewed_hash(user: User, password: str) -> str | None:
    guard.done_reading()
    old = user.password_hash or ""
    return passwords.hash_password(password) if passwords.needs_rehash(old) else None


def _log(s: Session, kind: str, user_id: int) -> None:
    service.log_access(s, kind, user_id=user_id, address=guard.client_address(), path=guard.logged_path(), now=now())


def _with_session(token: str, address: str) -> Response:
    """The answer that carries a new session; form tokens of the old one end with it."""
    session.clear()
    answer = make_response(redirect(address))
    lifetime = dt.timedelta(hours=portal().policy.sign_in.absolute_hours)
    guard.remember(answer, portal().settings.cookie_name, token, lifetime)
    return answer


@blueprint.post("/sign-out")
@public
def sign_out() -> ResponseReturnValue:
    who = person()
    if who is not None:

        def leave(s: Session) -> None:
            service.end_session(s, who.session_id, now=now())
            _log(s, "sign-out", who.user_id)

        transact(leave)
    session.clear()
    guard.forget_person()
    tell(Sentence("signed-out"))
    answer = make_response(redirect(url_for("signin.sign_in")))
    guard.forget(answer, portal().settings.cookie_name)
    return answer


@blueprint.get("/home")
@public
def home() -> ResponseReturnValue:
    """To this person's first page."""
    return redirect(guard.home())


@blueprint.post("/language")
@public
def choose_language() -> ResponseReturnValue:
    chosen = request.form.get("language", "")
    if chosen not in LANGUAGES:
        abort(400)
    who = person()
    if who is not None:
        transact(lambda s: service.choose_language(s, who.user_id, chosen))
    answer = make_response(redirect(guard.local_address(request.form.get("back")) or guard.home()))
    guard.remember(answer, guard.cookie_called("language"), chosen, REMEMBERED)
    return answer


@blueprint.post("/theme")
@public
def choose_theme() -> ResponseReturnValue:
    chosen = request.form.get("theme", "")
    if chosen not in (*guard.THEMES, "system"):
        abort(400)
    theme = None if chosen == "system" else chosen
    who = person()
    if who is not None:
        transact(lambda s: service.choose_theme(s, who.user_id, theme))
    answer = make_response(redirect(guard.local_address(request.form.get("back")) or guard.home()))
    if theme is None:
        guard.forget(answer, guard.cookie_called("theme"))
    else:
        guard.remember(answer, guard.cookie_called("theme"), theme, REMEMBERED)
    return answer


@blueprint.post("/act-for")
@allows(Permission.START_VIEW)
def act_for() -> ResponseReturnValue:
    """Members of several enterprises act for one at a time."""
    who = person()
    asked = request.form.get("enterprise_id", "")
    place = next((p for p in (who.places if who else ()) if str(p.enterprise_id) == asked), None)
    if who is None or place is None:
        abort(404)
    transact(lambda s: service.act_for(s, who.session_id, place.enterprise_id))
    return redirect(guard.home())


@blueprint.get("/account")
@allows(Permission.START_VIEW)
def account() -> ResponseReturnValue:
    return show("signin/account.html", PasswordForm())


@blueprint.post("/account")
@allows(Permission.START_VIEW)
def account_post() -> ResponseReturnValue:
    form = PasswordForm()
    if form.validate():
        try:
            answer = _with_session(_change_password(form), url_for("signin.account"))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("password-changed"))
            return answer
    return show("signin/account.html", form)


def _change_password(form: PasswordForm) -> str:
    """Every session of the person ends, this browser gets a new one. Raises Refusal at the field that is wrong."""
    who = guard.signed_in()
    policy = portal().policy.sign_in
    keys = service.who_tries(portal().settings.secret_key, email=who.email, address=guard.client_address())
    tries = transact(lambda s: service.count_try(s, keys, policy=policy, now=now()))
    before = queries.get_user(read(), who.user_id).password_hash
    guard.done_reading()
    if not passwords.verify(before, form.current.data):
        raise Refusal(Sentence("password-current-wrong"), "current")
    passwords.check_password_rules(form.password.data, email=who.email, name=who.name)
    after = passwords.hash_password(form.password.data)

    def change(s: Session) -> str:
        service.check_unchanged(s, who.user_id, password_hash=before)
        service.forgive_tries(s, keys, tries)
        service.set_password(s, who.user_id, after, now=now())
        enterprise_id = who.place.enterprise_id if who.place else None
        return service.start_session(s, who.user_id, enterprise_id=enterprise_id, policy=policy, now=now())

    return transact(change)


@blueprint.get("/keys")
@allows(Permission.KEY_VIEW)
def list_keys() -> ResponseReturnValue:
    return _keys_page(KeyForm())


@blueprint.post("/keys")
@allows(Permission.KEY_ADD)
def add_key() -> ResponseReturnValue:
    form = KeyForm()
    if form.validate():
        by, at, name, text = actor(), now(), form.name.data, form.public_key.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.add_key(s, name=name, public_key=text, by=by, now=at),
                lambda _key: url_for("signin.list_keys"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("key-added", name=name))
            return redirect(address)
    return _keys_page(form)


@blueprint.post("/keys/<int:key_id>/remove")
@allows(Permission.KEY_REMOVE)
def remove_key(key_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    name = transact(lambda s: service.remove_key(s, key_id, by=by, now=at).name)
    tell(Sentence("key-removed", name=name))
    return redirect(url_for("signin.list_keys"))


def _keys_page(form: KeyForm) -> ResponseReturnValue:
    keys = queries.list_keys(read(), guard.signed_in().user_id)
    return show("signin/keys.html", form, keys=keys)
