"""Publish announcements, see which are shown to whom, withdraw one."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from .. import clock, paging
from ..access import Permission
from ..forms import show
from ..guard import actor, allows, now, one_time, portal, read, tell, transact
from ..lifecycle import HistoryEntry
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import AnnouncementForm
from .models import Announcement
from .service import NewAnnouncement
from .states import AUDIENCE_NAMES

blueprint = Blueprint("announcements", __name__, template_folder="templates")


@blueprint.get("/announcements")
@allows(Permission.ANNOUNCEMENT_VIEW)
def index() -> ResponseReturnValue:
    """Every announcement, newest first: with who published it, this is also their history."""
    page, rows = paging.rows_of(read(), queries.every_announcement())
    withdrawn = _withdrawn(rows)
    people = [row.published_by for row in rows] + [entry.by_id for entry in withdrawn.values()]
    return render_template(
        "announcements/index.html",
        page=page,
        rows=rows,
        withdrawn=withdrawn,
        names=names_of(read(), people),
        audiences=AUDIENCE_NAMES,
    )


def _withdrawn(rows: list[Announcement]) -> dict[int, HistoryEntry]:
    return queries.list_withdrawn(read(), [row.id for row in rows])


@blueprint.get("/announcements/new")
@allows(Permission.ANNOUNCEMENT_PUBLISH)
def new() -> ResponseReturnValue:
    form = AnnouncementForm()
    form.from_at.data = clock.floor_hour(now())
    return _form(form)


def _form(form: AnnouncementForm) -> ResponseReturnValue:
    return show("announcements/new.html", form, audiences=AUDIENCE_NAMES)


@blueprint.post("/announcements/new")
@allows(Permission.ANNOUNCEMENT_PUBLISH)
def publish() -> ResponseReturnValue:
    form, by, at = AnnouncementForm(), actor(), now()
    if form.validate():
        asked = NewAnnouncement(
            tuple(form.audience.data or ()), form.text.data, form.text_en.data, form.from_at.data, form.until_at.data
        )
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.publish(s, asked, by=by, now=at).id,
                lambda _id: url_for("announcements.index"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            portal().board.forget()
            tell(Sentence("announcement-published"))
            return redirect(address)
    return _form(form)


@blueprint.post("/announcements/<int:announcement_id>/withdraw")
@allows(Permission.ANNOUNCEMENT_WITHDRAW)
def withdraw(announcement_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.withdraw(s, announcement_id, by=by, now=at).id)
    portal().board.forget()
    tell(Sentence("announcement-withdrawn"))
    return redirect(url_for("announcements.index"))
