"""A person's own notices; in a demo also the mail that was written instead of sent."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from .. import guard, paging
from ..access import Permission
from ..forms import show
from ..guard import _, actor, allows, now, one_time, portal, public, read, signed_in, tell, transact
from ..sentences import Sentence
from . import folder, queries, service
from .forms import WaysForm
from .topics import WAY_NAMES, Topic, Way

blueprint = Blueprint("notices", __name__, template_folder="templates")


@blueprint.get("/notices")
@allows(Permission.NOTICE_VIEW)
def index() -> ResponseReturnValue:
    unread_only = request.args.get("show") == "unread"
    page, rows = paging.rows_of(read(), queries.own_notices(actor(), unread_only=unread_only))
    return render_template("notices/index.html", page=page, rows=rows, unread_only=unread_only)


@blueprint.post("/notices/<int:notice_id>/read")
@allows(Permission.NOTICE_READ)
def mark_read(notice_id: int) -> ResponseReturnValue:
    """Read it, and go where it leads."""
    by, at = actor(), now()
    link = transact(lambda s: service.mark_read(s, notice_id, by=by, now=at).link)
    return redirect(guard.local_address(link) or url_for("notices.index"))


@blueprint.post("/notices/read")
@allows(Permission.NOTICE_READ)
def mark_all_read() -> ResponseReturnValue:
    by, at = actor(), now()
    many = transact(lambda s: service.mark_all_read(s, by=by, now=at))
    tell(Sentence("notices-read", n=many))
    return redirect(url_for("notices.index"))


@blueprint.get("/notices/mail")
@allows(Permission.NOTICE_VIEW)
def ways() -> ResponseReturnValue:
    form = _ways_form()
    chosen = queries.ways_of(read(), [signed_in().user_id])[signed_in().user_id]
    for topic in form.topics():
        form[topic.value].data = chosen[topic].value
    return _ways_page(form)


def _ways_form() -> WaysForm:
    """With the topics that this person may be told about: the bureau's own work, or an enterprise's."""
    form = WaysForm()
    for topic in form.topics():
        if (topic is Topic.OFFICE) is not actor().is_bureau:
            del form[topic.value]
        else:
            form[topic.value].choices = [(way.value, _(WAY_NAMES[way])) for way in Way]
    return form


def _ways_page(form: WaysForm) -> ResponseReturnValue:
    hour = portal().policy.notices.digest_hour
    return show("notices/ways.html", form, topics=[topic.value for topic in form.topics()], hour=f"{hour}:00")


@blueprint.post("/notices/mail")
@allows(Permission.NOTICE_READ)
def choose() -> ResponseReturnValue:
    form, by = _ways_form(), actor()
    if not form.validate():
        return _ways_page(form)
    chosen = form.ways()
    address = one_time(form.form_key.data, lambda s: service.choose(s, chosen, by=by), lambda _none: url_for(".ways"))
    tell(Sentence("notice-ways-kept"))
    return redirect(address)


@blueprint.get("/mail")
@public
def mail_folder() -> ResponseReturnValue:
    """Only where mail is written into a folder, which production never does: it holds everybody's links."""
    where = portal().settings.mail_folder
    if where is None:
        abort(404)
    return render_template("notices/mail_folder.html", letters=folder.newest(where, paging.SIZE))
