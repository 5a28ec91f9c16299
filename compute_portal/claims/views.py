"""Claims: an enterprise's own to confirm, the queue of finance, and what auditors draw from them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from flask import Blueprint, Response, redirect, render_template, send_file, url_for
from flask import request as http
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, paging
from ..access import Permission
from ..files import queries as files
from ..forms import PortalForm, show
from ..guard import actor, allows, log_access, now, one_time, portal, read, takes_files, tell, transact
from ..language import WORDS
from ..lifecycle import list_history
from ..pools.queries import list_pools
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import names_of
from ..subsidies import service as subsidies
from . import audit, pack, queries, service
from .forms import DeclineForm, PayForm, ProofForm, ReadingForm
from .models import Claim
from .states import LIFE, ClaimState

blueprint = Blueprint("claims", __name__, template_folder="templates")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
SEED = re.compile(r"[0-9A-Za-z_.-]{1,40}")
USUAL_SAMPLE = 10


def _state() -> ClaimState | None:
    asked = http.args.get("state")
    if asked is not None and asked not in set(ClaimState):
        raise NotFound
    return None if asked is None else ClaimState(asked)


def _month() -> str:
    """The month that the address asks for, else the last one that is over."""
    asked = http.args.get("month") or audit.month_before(clock.day_of(now()))
    if not MONTH.fullmatch(asked):
        raise NotFound
    return asked


@blueprint.get("/claims")
@allows(Permission.CLAIM_VIEW)
def index() -> ResponseReturnValue:
    by, state = actor(), _state()
    page = paging.page_of(queries.count_claims(read(), by, state))
    return render_template(
        "claims/index.html",
        state=state,
        page=page,
        rows=queries.list_claims(read(), by, state, offset=page.offset),
        counts=queries.counts(read(), by),
        states=ClaimState,
        waiting=queries.WAITING,
    )


@blueprint.get("/claims/<int:claim_id>")
@allows(Permission.CLAIM_VIEW)
def page(claim_id: int) -> ResponseReturnValue:
    return _page(claim_id, None)


def _page(claim_id: int, form: PortalForm | None) -> ResponseReturnValue:
    row = queries.get_claim(read(), claim_id, actor())
    version = queries.version_of(read(), row.claim)
    history = list_history(read(), LIFE, claim_id)
    opened = row.claim.state is ClaimState.OPENED
    return show(
        "claims/page.html",
        form,
        row=row,
        claim=row.claim,
        version=version,
        parts=queries.parts_of(read(), claim_id),
        missing=pack.missing(read(), row.claim) if opened else (),
        proofs=files.list_files(read(), service.FILES, claim_id),
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
        words=WORDS,
        own=actor().enterprise_id == row.claim.enterprise_id,
        proof_form=form if isinstance(form, ProofForm) else ProofForm(formdata=None),
        decline_form=form if isinstance(form, DeclineForm) else DeclineForm(formdata=None),
        pay_form=form if isinstance(form, PayForm) else PayForm(formdata=None),
    )


@blueprint.get("/claims/<int:claim_id>/pack.zip")
@allows(Permission.CLAIM_EXPORT)
def export(claim_id: int) -> Response:
    """As it was confirmed; before that as it would be now."""
    claim = queries.get_claim(read(), claim_id, actor()).claim
    if claim.pack_file_id is not None:
        content = files.content_of(read(), files.get_file(read(), claim.pack_file_id, actor()))
    else:
        content = pack.build(read(), claim).content
    log_access("export", claim.number)
    return send_file(
        io.BytesIO(content),
        mimetype="application/zip",
        as_attachment=True,
        download_name=f"{claim.number}.zip",
        etag=False,
        conditional=False,
    )


@blueprint.post("/claims/<int:claim_id>/attach")
@allows(Permission.CLAIM_CONFIRM)
@takes_files()
def attach(claim_id: int) -> ResponseReturnValue:
    form, by, at = ProofForm(), actor(), now()
    queries.get_claim(read(), claim_id, by)
    if form.validate():
        sent, policy = form.document.data, portal().policy.files
        assert sent is not None  # Chosen() has looked
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.attach(
                    s, claim_id, name=sent.name, content=sent.content, policy=policy, by=by, now=at
                ),
                lambda _none: url_for("claims.page", claim_id=claim_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("proof-attached"))
            return redirect(address)
    return _page(claim_id, form)


@blueprint.post("/claims/<int:claim_id>/confirm")
@allows(Permission.CLAIM_CONFIRM)
def confirm(claim_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.files
    made = pack.build(read(), queries.get_claim(read(), claim_id, by).claim)
    transact(
        lambda s: service.confirm(
            s, claim_id, pack=made.content, missing=made.missing, policy=policy, by=by, now=at
        ).id
    )  # fmt: skip
    tell(Sentence("claim-confirmed"))
    return redirect(url_for("claims.page", claim_id=claim_id))


@blueprint.post("/claims/<int:claim_id>/withdraw")
@allows(Permission.CLAIM_WITHDRAW)
def withdraw(claim_id: int) -> ResponseReturnValue:
    return _move(claim_id, service.withdraw, Sentence("claim-withdrawn"))


@blueprint.post("/claims/<int:claim_id>/check")
@allows(Permission.CLAIM_CHECK)
def check(claim_id: int) -> ResponseReturnValue:
    return _move(claim_id, service.check, Sentence("claim-checked"))


@blueprint.post("/claims/<int:claim_id>/approve")
@allows(Permission.CLAIM_APPROVE)
def approve(claim_id: int) -> ResponseReturnValue:
    return _move(claim_id, service.approve, None)


def _move(claim_id: int, verb: Callable[..., Claim], told: Sentence | None) -> ResponseReturnValue:
    by, at = actor(), now()
    queries.get_claim(read(), claim_id, by)

    def work(session: Session) -> Sentence:
        claim = verb(session, claim_id, by=by, now=at)
        return told or Sentence(f"claim-{claim.state.value}", number=claim.number, amount=claim.amount_micro_yuan)

    tell(transact(work))
    return redirect(url_for("claims.page", claim_id=claim_id))


@blueprint.post("/claims/<int:claim_id>/decline")
@allows(Permission.CLAIM_DECLINE)
def decline(claim_id: int) -> ResponseReturnValue:
    form, by, at = DeclineForm(), actor(), now()
    claim = queries.get_claim(read(), claim_id, by).claim
    if form.validate():
        reason = form.reason.data
        try:
            transact(lambda s: service.decline(s, claim_id, reason=reason, by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("claim-declined", number=claim.number, amount=claim.amount_micro_yuan))
            return redirect(url_for("claims.page", claim_id=claim_id))
    return _page(claim_id, form)


@blueprint.post("/claims/<int:claim_id>/pay")
@allows(Permission.CLAIM_PAY)
def pay(claim_id: int) -> ResponseReturnValue:
    form, by, at = PayForm(), actor(), now()
    claim = queries.get_claim(read(), claim_id, by).claim
    if form.validate():
        paid_on, reference = form.paid_on.data, form.payment_reference.data
        try:
            transact(lambda s: service.pay(s, claim_id, paid_on=paid_on, payment_reference=reference, by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("claim-paid", number=claim.number, amount=claim.amount_micro_yuan))
            return redirect(url_for("claims.page", claim_id=claim_id))
    return _page(claim_id, form)


# -- audit ------------------------------------------------------------------------------------------------------------


@blueprint.get("/audit")
@allows(Permission.SAMPLE_VIEW)
def sample() -> ResponseReturnValue:
    """The seed stands in the address: whoever opens it again sees the same sample."""
    month, rule = _month(), portal().policy.audit
    seed = http.args.get("seed", month)
    size = http.args.get("size", str(USUAL_SAMPLE))
    if not SEED.fullmatch(seed) or not (size.isascii() and size.isdigit() and len(size) < 5):
        raise NotFound
    drawn = audit.sample(read(), month, seed=seed, size=min(int(size), rule.sample_most))
    return render_template(
        "claims/sample.html",
        month=month,
        seed=seed,
        size=min(int(size), rule.sample_most),
        most=rule.sample_most,
        sample=drawn,
        checks=audit.power_checks(read(), month, rule),
        rounded=audit.rounded,
        findings=audit.FINDINGS,
    )


@blueprint.get("/readings")
@allows(Permission.READING_VIEW)
def readings() -> ResponseReturnValue:
    return _readings_page(ReadingForm())


def _readings_page(form: ReadingForm) -> ResponseReturnValue:
    month, rule = _month(), portal().policy.audit
    _pool_choices(form)
    form.month.data = form.month.data or month
    return show(
        "claims/readings.html",
        form,
        month=month,
        checks=audit.power_checks(read(), month, rule),
        rounded=audit.rounded,
        findings=audit.FINDINGS,
    )


def _pool_choices(form: ReadingForm) -> None:
    form.pool_id.choices = [(pool.id, pool.name) for pool in list_pools(read())]


@blueprint.post("/readings")
@allows(Permission.READING_ENTER)
def enter_reading() -> ResponseReturnValue:
    form, by, at = ReadingForm(), actor(), now()
    _pool_choices(form)
    if form.validate():
        pool_id, month = form.pool_id.data, form.month.data
        amount, source = form.kilowatt_hours.data, form.source.data
        try:
            if not MONTH.fullmatch(month):
                raise Refusal(Sentence("not-a-month", example="2026-10"), "month")
            transact(lambda s: subsidies.enter_reading(s, pool_id, month, amount, source=source, by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("reading-entered"))
            return redirect(url_for("claims.readings", month=month))
    return _readings_page(form)
