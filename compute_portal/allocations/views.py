"""Ask for GPU-hours, see what became of them, decide on requests."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, guard, language, paging
from ..access import Permission
from ..forms import show
from ..guard import actor, allows, now, one_time, read, tell, transact
from ..language import N_
from ..ledger.models import Bucket
from ..lifecycle import list_history
from ..pools import queries as pools
from ..programmes import queries as programmes
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import DecisionForm, RequestForm
from .queries import AllocationRow, Which
from .states import LIFE, WAITING, AllocationState

blueprint = Blueprint("allocations", __name__, template_folder="templates")

BUCKETS = {
    Bucket.SOURCE: N_("Bureau"),
    Bucket.POOL: N_("Programme"),
    Bucket.WITHHELD: N_("Withheld"),
    Bucket.AVAILABLE: N_("Left"),
    Bucket.HELD: N_("Held"),
    Bucket.USED: N_("Used"),
    Bucket.EXPIRED: N_("Expired"),
    Bucket.OVERDRAFT: N_("Overdraft"),
}
VERBS = {
    "award": N_("award"),
    "stage": N_("stage"),
    "hold": N_("hold"),
    "charge": N_("charge"),
    "release": N_("release"),
    "expire": N_("expire"),
    "correct": N_("correction"),
}


@blueprint.get("/allocations")
@allows(Permission.ALLOCATION_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    tab = http.args.get("tab", "")
    tab = tab if tab in queries.TABS else "active"
    which = Which(_number("programme_id"), _number("enterprise_id"))
    counts = queries.count_by_tab(read(), by, which)
    page = paging.page_of(counts[tab])
    rows = queries.list_allocations(read(), by, states=queries.TABS[tab], which=which, offset=page.offset)
    kept = {"programme_id": which.programme_id, "enterprise_id": which.enterprise_id}
    return render_template("allocations/index.html", tab=tab, counts=counts, page=page, rows=rows, kept=kept)


def _number(name: str) -> int | None:
    """A filter in the address; nonsense finds nothing rather than everything."""
    asked = http.args.get(name)
    if asked is None:
        return None
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0


@blueprint.get("/allocations/request")
@allows(Permission.ALLOCATION_REQUEST)
def new() -> ResponseReturnValue:
    form = RequestForm()
    form.programme_id.choices = _choices()
    form.programme_id.data = http.args.get("programme_id")
    return _request_page(form)


@blueprint.post("/allocations/request")
@allows(Permission.ALLOCATION_REQUEST)
def request() -> ResponseReturnValue:
    form, by, at = RequestForm(), actor(), now()
    form.programme_id.choices = _choices()
    if form.validate():
        asked = form.to_request()
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.request(s, asked, by=by, now=at).id,
                lambda id: url_for("allocations.page", allocation_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("allocation-requested", hours=asked.gpu_seconds))
            return redirect(address)
    return _request_page(form)


def _choices() -> list[tuple[str, str]]:
    """Every open programme with each of its pools; the pool's price stands behind it."""
    pairs = programmes.list_open_pairs(read(), clock.day_of(now()))
    books = pools.price_books(read(), {pool.id for _, pool in pairs})
    choices = []
    for programme, pool in pairs:
        words = [(guard.language() == "en" and programme.name_en) or programme.name, pool.name]
        book = books[pool.id]
        if book.starts and book.starts[0] <= now():
            words.append(language.money(book.at(now()).price_micro_yuan, guard.language()))
        choices.append((f"{programme.id}:{pool.id}", " · ".join(words)))
    return choices


def _request_page(form: RequestForm) -> ResponseReturnValue:
    opened = programmes.list_open(read(), clock.day_of(now()))
    hours = programmes.hours(read(), [programme.id for programme in opened])
    return show("allocations/request.html", form, programmes=opened, hours=hours)


@blueprint.get("/allocations/<int:allocation_id>")
@allows(Permission.ALLOCATION_VIEW)
def page(allocation_id: int) -> ResponseReturnValue:
    form = DecisionForm()
    if "awarded_hours" in http.args:  # the effects of another award; nothing is changed
        form.awarded_hours.process(http.args)
        form.awarded_hours.errors = list(form.awarded_hours.process_errors)
    return _page(allocation_id, form)


def _page(allocation_id: int, form: DecisionForm) -> ResponseReturnValue:
    by = actor()
    row = queries.get_row(read(), allocation_id, by)
    allocation = row.allocation
    history = list_history(read(), LIFE, allocation_id)
    bucket = http.args.get("bucket")
    chosen = Bucket(bucket) if bucket in {known.value for known in BUCKETS} else None
    awarded = allocation.awarded_gpu_seconds is not None
    entries_page = paging.page_of(queries.count_entries(read(), allocation_id, chosen) if awarded else 0)
    lines = queries.list_entries(read(), allocation_id, chosen, offset=entries_page.offset) if awarded else []
    people = [allocation.requested_by, allocation.decided_by, *(e.by_id for e in history)]
    deciding = allocation.state in WAITING and by.may(Permission.ALLOCATION_APPROVE)
    if form.awarded_hours.typed is None:
        form.awarded_hours.data = allocation.requested_gpu_seconds
    return show(
        "allocations/page.html",
        form,
        row=row,
        history=history,
        names=names_of(read(), people + [line.entry.by_id for line in lines]),
        lines=lines,
        page=entries_page,
        bucket=chosen,
        buckets=BUCKETS,
        verbs=VERBS,
        decision=_decision(row, form) if deciding else None,
    )


@dataclass(frozen=True, slots=True)
class Effect:
    """A number now and after the award, in GPU-seconds, and the largest either can be."""

    now: int
    after: int
    whole: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator weighs. The effects are missing while the award cannot be read."""

    others: list[AllocationRow]
    programme_left: Effect | None
    enterprise_left: Effect | None


def _decision(row: AllocationRow, form: DecisionForm) -> Decision:
    others = queries.list_others(read(), row.allocation)
    hours = programmes.hours(read(), [row.programme.id])[row.programme.id]
    award = form.awarded_hours.data
    if award is None:
        return Decision(others, None, None)
    left = sum(
        other.balance.available
        for other in others
        if other.pool.id == row.pool.id and other.allocation.state is AllocationState.ACTIVE
    )
    return Decision(
        others,
        Effect(hours.left, hours.left - award, max(hours.funded, 1)),
        Effect(left, left + award, max(left + row.allocation.requested_gpu_seconds, 1)),
    )


@blueprint.post("/allocations/<int:allocation_id>/approve")
@allows(Permission.ALLOCATION_APPROVE)
def approve(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DecisionForm(), actor(), now()
    if form.validate():
        award, reason = form.awarded_hours.data or 0, form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.approve(s, allocation_id, awarded_gpu_seconds=award, reason=reason, by=by, now=at).id,
                lambda id: url_for("allocations.page", allocation_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("allocation-approved", hours=award))
            return redirect(address)
    return _page(allocation_id, form)


@blueprint.post("/allocations/<int:allocation_id>/decline")
@allows(Permission.ALLOCATION_DECLINE)
def decline(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DecisionForm(), actor(), now()
    if form.validate():
        reason = form.reason.data or ""
        try:
            transact(lambda s: service.decline(s, allocation_id, reason=reason, by=by, now=at))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("allocation-declined"))
            return redirect(url_for("allocations.page", allocation_id=allocation_id))
    return _page(allocation_id, form)


@blueprint.post("/allocations/<int:allocation_id>/withdraw")
@allows(Permission.ALLOCATION_WITHDRAW)
def withdraw(allocation_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.withdraw(s, allocation_id, by=by, now=at))
    tell(Sentence("allocation-withdrawn"))
    return redirect(url_for("allocations.page", allocation_id=allocation_id))
