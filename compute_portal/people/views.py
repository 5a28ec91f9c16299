"""Everybody who has an account: roles at the bureau, disabling, enabling, erasing; and mail that did not arrive."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import paging
from ..access import BUREAU_ROLES, Permission, Role
from ..forms import show
from ..guard import _, actor, allows, now, one_time, read, tell, transact
from ..language import WORDS
from ..lifecycle import list_history
from ..notices import queries as notices
from ..sentences import Refusal, Sentence
from ..signin.models import User
from ..signin.queries import names_of
from ..signin.states import PersonState
from . import queries, service
from .forms import GiveForm, WhyForm

blueprint = Blueprint("people", __name__, template_folder="templates")
LONGEST_SEARCH = 60
BUREAU = [role for role in Role if role in BUREAU_ROLES]
SHOWN = (PersonState.ACTIVE, PersonState.DISABLED)


@blueprint.get("/people")
@allows(Permission.PERSON_VIEW)
def index() -> ResponseReturnValue:
    find = http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]
    role = next((role for role in BUREAU if role == http.args.get("role")), None)
    state = next((state for state in SHOWN if state == http.args.get("state")), None)
    page, rows = paging.rows_of(read(), queries.every_person(find, role, state))
    ids = [user.id for user in rows]
    return render_template(
        "people/index.html",
        page=page,
        rows=rows,
        roles=queries.list_roles(read(), ids),
        belongings=queries.list_belongings(read(), ids),
        find=find,
        role=role,
        chosen=state,
        bureau=BUREAU,
        states=SHOWN,
    )


@blueprint.get("/people/<int:person_id>")
@allows(Permission.PERSON_VIEW)
def page(person_id: int) -> ResponseReturnValue:
    return _page(person_id, GiveForm(formdata=None))


@blueprint.post("/people/<int:person_id>/give")
@allows(Permission.PERSON_GIVE)
def give(person_id: int) -> ResponseReturnValue:
    form, by, at = GiveForm(), actor(), now()
    _only_what_is_missing(person_id, form)
    if form.validate():
        role = Role(form.role.data)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.give(s, person_id, role, by=by, now=at).id,
                lambda id: url_for("people.page", person_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("role-given", role=f"role-{role}"))
            return redirect(address)
    return _page(person_id, form)


def _only_what_is_missing(person_id: int, form: GiveForm) -> list[Role]:
    """The roles to choose from; returns those the person has."""
    held = queries.list_roles(read(), [queries.get_person(read(), person_id).id])[person_id]
    form.role.choices = [(role.value, _(WORDS[f"role-{role}"])) for role in BUREAU if role not in held]
    return held


def _page(person_id: int, form: GiveForm) -> ResponseReturnValue:
    user = queries.get_person(read(), person_id)
    held = _only_what_is_missing(person_id, form)
    history = list_history(read(), User.LIFE, person_id)
    return show(
        "people/page.html",
        form,
        user=user,
        held=held,
        belongings=queries.list_belongings(read(), [person_id])[person_id],
        seen_at=queries.find_last_seen(read(), person_id),
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
    )


@blueprint.post("/people/<int:person_id>/take")
@allows(Permission.PERSON_TAKE)
def take(person_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    queries.get_person(read(), person_id)
    role = next((role for role in BUREAU if role == http.form.get("role")), None)
    if role is None:
        raise Refusal(Sentence("not-a-choice"))
    transact(lambda s: service.take(s, person_id, role, by=by, now=at).id)
    tell(Sentence("role-taken", role=f"role-{role}"))
    return redirect(url_for("people.page", person_id=person_id))


@blueprint.get("/people/<int:person_id>/disable")
@allows(Permission.PERSON_DISABLE)
def ask_disable(person_id: int) -> ResponseReturnValue:
    return _ask(person_id, "disable", WhyForm(formdata=None))


@blueprint.post("/people/<int:person_id>/disable")
@allows(Permission.PERSON_DISABLE)
def disable(person_id: int) -> ResponseReturnValue:
    form, by, at = WhyForm(), actor(), now()
    queries.get_person(read(), person_id)
    if form.validate():
        try:
            transact(lambda s: service.disable(s, person_id, form.reason.data, by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("person-disabled"))
            return redirect(url_for("people.page", person_id=person_id))
    return _ask(person_id, "disable", form)


@blueprint.post("/people/<int:person_id>/enable")
@allows(Permission.PERSON_ENABLE)
def enable(person_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    queries.get_person(read(), person_id)
    transact(lambda s: service.enable(s, person_id, by=by, now=at).id)
    tell(Sentence("person-enabled"))
    return redirect(url_for("people.page", person_id=person_id))


@blueprint.get("/people/<int:person_id>/erase")
@allows(Permission.PERSON_ERASE)
def ask_erase(person_id: int) -> ResponseReturnValue:
    return _ask(person_id, "erase", WhyForm(formdata=None))


@blueprint.post("/people/<int:person_id>/erase")
@allows(Permission.PERSON_ERASE)
def erase(person_id: int) -> ResponseReturnValue:
    form, by, at = WhyForm(), actor(), now()
    queries.get_person(read(), person_id)
    if form.validate():
        try:
            transact(lambda s: service.erase(s, person_id, form.reason.data, by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("person-erased"))
            return redirect(url_for("people.index"))
    return _ask(person_id, "erase", form)


def _ask(person_id: int, what: str, form: WhyForm) -> ResponseReturnValue:
    """What it does, before it is done."""
    return show("people/ask.html", form, user=queries.get_person(read(), person_id), what=what)


@blueprint.get("/people/mail")
@allows(Permission.MAIL_VIEW)
def mail() -> ResponseReturnValue:
    """What no mail server took, and how much waits."""
    waiting, oldest_at = notices.count_waiting(read(), now=now())
    page, rows = paging.rows_of(read(), notices.failed_notices())
    names = names_of(read(), [row.user_id for row in rows])
    return render_template("people/mail.html", page=page, rows=rows, names=names, waiting=waiting, oldest_at=oldest_at)


@blueprint.post("/people/mail/<int:mail_id>/retry")
@allows(Permission.MAIL_RETRY)
def retry_mail(mail_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.retry_mail(s, mail_id, by=by, now=at).id)
    tell(Sentence("mail-tried-again"))
    return redirect(url_for("people.mail"))
