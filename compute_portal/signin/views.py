"""Sign up, in and out, new passwords, switch language, theme and enterprise, one's account and keys."""

from __future__ import annotations

import datetime as dt

from flask import Blueprint, Response, abort, current_app, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import guard
from ..access import Permission
from ..enterprises.queries import list_invitations_for, standing_of
from ..forms import show
from ..guard import actor, allows, now, one_time, person, portal, public, read, tell, transact
from ..language import LANGUAGES
from ..sentences import Refusal, Sentence
from . import accounts, links, passwords, queries, service
from .forms import ForgotForm, KeyForm, NewPasswordForm, PasswordForm, ProfileForm, SignInForm, SignUpForm
from .models import OneTimeLink, User

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
            _log(s, "sign-out", who.real_user_id)

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


# -- coming by oneself: sign up, confirm the address, a new password


@blueprint.get("/sign-up")
@public
def sign_up() -> ResponseReturnValue:
    if person() is not None:
        return redirect(guard.home())
    return show("signin/sign_up.html", SignUpForm())


@blueprint.post("/sign-up")
@public
def sign_up_post() -> ResponseReturnValue:
    """The answer is the same whether the address is registered or not: what it is, the mail says."""
    form = SignUpForm()
    if form.validate():
        email, name, name_en = form.email.data, form.name.data, form.name_en.data or None
        policy, at, language = portal().policy.sign_in, now(), guard.language()
        try:
            passwords.check_password_rules(form.password.data, email=email, name=name)
            _count_mail(email)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            password_hash = passwords.hash_password(form.password.data)
            transact(
                lambda s: accounts.sign_up(
                    s,
                    email=email,
                    name=name,
                    name_en=name_en,
                    password_hash=password_hash,
                    language=language,
                    policy=policy,
                    now=at,
                )
            )
            tell(Sentence("sign-up-mail", email=email, hours=policy.confirm_hours))
            return redirect(url_for("signin.sign_in"))
    return show("signin/sign_up.html", form)


def _count_mail(email: str) -> None:
    """A mail is asked for: so many per address and machine. Raises Refusal("mail-paused")."""
    who = service.who_tries(portal().settings.secret_key, email=email, address=guard.client_address(), what="mail-")
    policy, at = portal().policy.sign_in, now()
    transact(lambda s: service.count_try(s, who, policy=policy, now=at, refusal="mail-paused"))


@blueprint.get("/unconfirmed")
@allows(Permission.ACCOUNT_VIEW)
def unconfirmed() -> ResponseReturnValue:
    """The only page of a person whose address is not confirmed."""
    who = guard.signed_in()
    if who.is_confirmed:
        return redirect(guard.home())
    return show("signin/unconfirmed.html", hours=portal().policy.sign_in.confirm_hours)


@blueprint.post("/unconfirmed")
@allows(Permission.ACCOUNT_VIEW)
def confirm_again() -> ResponseReturnValue:
    who, policy, at = guard.signed_in(), portal().policy.sign_in, now()
    if not who.is_confirmed:
        _count_mail(who.email)
        transact(lambda s: accounts.confirm_again(s, who.user_id, policy=policy, now=at))
        tell(Sentence("confirm-mail-again", email=who.email))
    return redirect(guard.home())


@blueprint.get("/confirm")
@allows(Permission.ACCOUNT_VIEW)
def confirm() -> ResponseReturnValue:
    """From the mail. Whoever is not signed in does that first: the link alone confirms nothing."""
    if guard.signed_in().is_confirmed:
        return redirect(guard.home())
    token = request.args.get("token", "")
    link = _find_link(token, accounts.CONFIRM)
    good = link is not None and link.subject_id == guard.signed_in().user_id
    return show("signin/confirm.html", token=token if good else None)


@blueprint.post("/confirm")
@allows(Permission.ACCOUNT_VIEW)
def confirm_post() -> ResponseReturnValue:
    who, token, at = guard.signed_in(), request.form.get("token", ""), now()
    if not who.is_confirmed:
        transact(lambda s: accounts.confirm(s, token, user_id=who.user_id, now=at).id)
        tell(Sentence("address-confirmed"))
    return redirect(url_for("signin.home"))


def _find_link(token: str, purpose: str) -> OneTimeLink | None:
    try:
        return links.look(read(), token, purpose, now())
    except Refusal:
        return None


@blueprint.get("/no-role")
@allows(Permission.ACCOUNT_VIEW)
def no_role() -> ResponseReturnValue:
    """The first page of a person who belongs to no enterprise and has no role at the bureau."""
    who = guard.signed_in()
    if not who.is_confirmed or who.actor.roles:
        return redirect(guard.home())
    registration = "enterprises.register" in current_app.view_functions
    return show(
        "signin/no_role.html",
        registration=url_for("enterprises.register") if registration else None,
        invitations=list_invitations_for(read(), who.email, now()),
    )


@blueprint.get("/forgot")
@public
def forgot() -> ResponseReturnValue:
    return show("signin/forgot.html", ForgotForm(), policy=portal().policy.sign_in)


@blueprint.post("/forgot")
@public
def forgot_post() -> ResponseReturnValue:
    """Always the same answer: nobody learns here who is registered."""
    form, policy, at = ForgotForm(), portal().policy.sign_in, now()
    if form.validate():
        email = form.email.data
        try:
            _count_mail(email)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            transact(lambda s: accounts.ask_reset(s, email, policy=policy, now=at))
            tell(Sentence("reset-mail", email=email, minutes=policy.reset_minutes))
            return redirect(url_for("signin.sign_in"))
    return show("signin/forgot.html", form, policy=policy)


@blueprint.get("/reset")
@public
def reset() -> ResponseReturnValue:
    link = _find_link(request.args.get("token", ""), accounts.RESET)
    return show("signin/reset.html", NewPasswordForm(), link=link, token=request.args.get("token", ""))


@blueprint.post("/reset")
@public
def reset_post() -> ResponseReturnValue:
    form, token, at = NewPasswordForm(), request.form.get("token", ""), now()
    link = _find_link(token, accounts.RESET)
    if form.validate() and link is not None:
        user = queries.get_user(read(), link.subject_id or 0)
        try:
            passwords.check_password_rules(form.password.data, email=user.email, name=user.name)
            guard.done_reading()
            password_hash = passwords.hash_password(form.password.data)
            user_id = transact(lambda s: accounts.reset(s, token, password_hash, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            transact(lambda s: _log(s, "password-reset", user_id))
            tell(Sentence("password-reset"))
            return redirect(url_for("signin.sign_in"))
    return show("signin/reset.html", form, link=link, token=token)


# -- one's own account


@blueprint.get("/account")
@allows(Permission.ACCOUNT_VIEW)
def account() -> ResponseReturnValue:
    return _account_page()


@blueprint.post("/account")
@allows(Permission.ACCOUNT_CHANGE)
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
    return _account_page(password=form)


@blueprint.post("/account/profile")
@allows(Permission.ACCOUNT_CHANGE)
def profile() -> ResponseReturnValue:
    form, by, at = ProfileForm(), actor(), now()
    if not form.validate():
        return _account_page(profile=form)
    name, name_en, chosen = form.name.data, form.name_en.data or None, form.language.data
    transact(lambda s: accounts.rename(s, name=name, name_en=name_en, language=chosen, by=by, now=at))
    tell(Sentence("profile-changed"))
    answer = make_response(redirect(url_for("signin.account")))
    guard.remember(answer, guard.cookie_called("language"), chosen, REMEMBERED)
    return answer


def _account_page(*, password: PasswordForm | None = None, profile: ProfileForm | None = None) -> ResponseReturnValue:
    """Two forms; the one with problems is what the page's title counts."""
    who = guard.signed_in()
    if profile is None:
        profile = ProfileForm(formdata=None, name=who.name, name_en=who.name_en, language=who.language)
        return show("signin/account.html", password or PasswordForm(formdata=None), profile=profile)
    return show("signin/account.html", profile, profile=profile, password=PasswordForm(formdata=None))


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
        accounts.tell_of_password(s, who.user_id, now=now())
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
