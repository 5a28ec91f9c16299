"""City schemes, what is left in them, and finance adding hours."""

from __future__ import annotations

import hashlib

from flask import Blueprint, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from .. import clock, paging
from ..access import Permission
from ..forms import show
from ..guard import actor, allows, now, one_time, read, tell
from ..pools import queries as pools
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import FundForm

blueprint = Blueprint("programmes", __name__, template_folder="templates")


@blueprint.get("/programmes")
@allows(Permission.PROGRAMME_VIEW)
def index() -> ResponseReturnValue:
    page, rows = paging.rows_of(read(), queries.every_programme())
    ids = [programme.id for programme in rows]
    return render_template(
        "programmes/index.html",
        page=page,
        rows=rows,
        hours=queries.hours(read(), ids),
        pools=queries.pools_of(read(), ids),
        today=clock.day_of(now()),
    )


@blueprint.get("/programmes/<int:programme_id>")
@allows(Permission.PROGRAMME_VIEW)
def page(programme_id: int) -> ResponseReturnValue:
    return _page(programme_id, FundForm())


def _page(programme_id: int, form: FundForm) -> ResponseReturnValue:
    programme = queries.get_programme(read(), programme_id)
    opened = queries.pools_of(read(), [programme_id])[programme_id]
    books = pools.price_books(read(), [pool.id for pool in opened])
    prices = {id: book.at(now()) for id, book in books.items() if book.starts and book.starts[0] <= now()}
    fundings = queries.list_fundings(read(), programme_id)
    return show(
        "programmes/page.html",
        form,
        programme=programme,
        hours=queries.hours(read(), [programme_id])[programme_id],
        pools=opened,
        prices=prices,
        fundings=fundings,
        names=names_of(read(), [entry.by_id for entry in fundings]),
        today=clock.day_of(now()),
    )


@blueprint.post("/programmes/<int:programme_id>/fund")
@allows(Permission.PROGRAMME_FUND)
def fund(programme_id: int) -> ResponseReturnValue:
    form, by, at = FundForm(), actor(), now()
    if form.validate():
        hours = form.hours.data
        # The form's key is the ledger's reference too: the same form adds its hours once, whatever else fails.
        reference = hashlib.sha256(f"{by.user_id}:{form.form_key.data}".encode()).hexdigest()[:32]
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.fund(s, programme_id, hours, reference=reference, by=by, now=at),
                lambda _none: url_for("programmes.page", programme_id=programme_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("programme-funded", hours=hours))
            return redirect(address)
    return _page(programme_id, form)
