"""A person's own notices; in a demo also the mail that was written instead of sent."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from .. import guard, paging
from ..access import Permission
from ..guard import actor, allows, now, portal, public, read, tell, transact
from ..sentences import Sentence
from . import folder, queries, service

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


@blueprint.get("/mail")
@public
def mail_folder() -> ResponseReturnValue:
    """Only where mail is written into a folder, which production never does: it holds everybody's links."""
    where = portal().settings.mail_folder
    if where is None:
        abort(404)
    return render_template("notices/mail_folder.html", letters=folder.newest(where, paging.SIZE))
