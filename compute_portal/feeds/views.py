"""Calendars to subscribe to: the page that makes and revokes links, and what a link answers."""

from __future__ import annotations

import secrets

from flask import Blueprint, Response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from ..access import Permission
from ..forms import a_form_key, show
from ..guard import _, actor, allows, now, one_time, portal, public, read, signed_in, tell
from ..language import LANGUAGES, N_, gettext
from ..pools import queries as pools
from ..sentences import NotFound, Refusal, Sentence
from . import ical, queries, service
from .forms import FeedForm
from .models import FeedKind

blueprint = Blueprint("feeds", __name__, template_folder="templates")


@blueprint.get("/feeds")
@allows(Permission.FEED_VIEW)
def index() -> ResponseReturnValue:
    return _page(FeedForm())


@blueprint.post("/feeds")
@allows(Permission.FEED_MAKE)
def make() -> ResponseReturnValue:
    """The link is shown in this answer and never again: only its hash is kept."""
    form, by, at = FeedForm(), actor(), now()
    form.what.choices = _choices()
    if not form.validate():
        return _page(form)
    kind, _colon, pool_id = form.what.data.partition(":")
    token = secrets.token_urlsafe(32)
    made: list[int] = []

    def work(session: Session) -> int:
        feed = service.make(
            session, token, kind=FeedKind(kind), pool_id=int(pool_id) if pool_id else None, by=by, now=at
        )
        made[:] = [feed.id]
        return feed.id

    try:
        address = one_time(form.form_key.data, work, lambda _id: url_for("feeds.index"))
    except Refusal as refusal:
        form.refuse(refusal)
        return _page(form)
    if not made:  # the same form a second time: its link was shown in the first answer
        return redirect(address)
    return _page(FeedForm(formdata=None), link=url_for("feeds.calendar", token=token, _external=True))


@blueprint.post("/feeds/<int:feed_id>/revoke")
@allows(Permission.FEED_REVOKE)
def revoke(feed_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    address = one_time(
        request.form.get("form_key"),
        lambda s: service.revoke(s, feed_id, by=by, now=at).id,
        lambda _id: url_for("feeds.index"),
    )
    tell(Sentence("feed-revoked"))
    return redirect(address)


def _choices() -> list[tuple[str, str]]:
    """The bureau has no bookings of its own, so it subscribes to pools."""
    place = signed_in().place
    mine = [] if place is None else [("person", _("My own bookings")), ("enterprise", _("All bookings of my company"))]
    return [*mine, *((f"pool:{pool.id}", _("Pool %(pool)s", pool=pool.name)) for pool in pools.list_pools(read()))]


def _page(form: FeedForm, link: str | None = None) -> ResponseReturnValue:
    form.what.choices = _choices()
    form.form_key.data = a_form_key()
    return show("feeds/index.html", form, rows=queries.list_feeds(read(), actor()), link=link)


@blueprint.get("/calendar.ics")
@public
def calendar() -> ResponseReturnValue:
    """What calendar programs fetch. The token stands in the query, which no log holds; a link that is over is 404."""
    reading = queries.find(read(), request.args.get("token", "")[:100])
    if reading is None:
        raise NotFound
    language = next(known for known in LANGUAGES if known == reading.language)
    names = {
        FeedKind.PERSON: N_("My compute bookings"),
        FeedKind.ENTERPRISE: N_("Compute bookings of the company"),
        FeedKind.POOL: N_("Compute pool"),
    }
    events = queries.list_events(read(), reading, now())
    content = ical.write(gettext(language, names[reading.feed.kind]), events, language, portal().settings.public_url)
    answer = Response(content, content_type="text/calendar; charset=utf-8")
    answer.headers["Content-Disposition"] = "inline; filename=calendar.ics"
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.add_etag()
    return answer.make_conditional(request)
