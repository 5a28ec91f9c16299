"""City schemes, what is left in them, and finance adding hours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, guard, paging
from ..access import Permission
from ..enterprises.states import SIZE_NAMES, SizeClass
from ..forms import PortalForm, show
from ..guard import actor, allows, now, one_time, read, tell, transact
from ..language import N_, gettext
from ..pools import queries as pools
from ..pools.models import Pool
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import names_of
from . import queries, samples, service
from .forms import DiscountForm, FundForm, OpenForm, ProgrammeForm, RulesForm, WeightForm
from .models import Programme, ProgrammeVersion
from .rules import SIZE_CLASSES, Rules, usual_rules
from .states import ATTACHMENTS, FIELDS

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


def _page(programme_id: int, form: PortalForm) -> ResponseReturnValue:
    programme = queries.get_programme(read(), programme_id)
    opened = queries.pools_of(read(), [programme_id])[programme_id]
    books = pools.price_books(read(), [pool.id for pool in opened])
    prices = {id: price for id, book in books.items() if (price := book.list_price(now())) is not None}
    fundings = queries.list_fundings(read(), programme_id) if actor().is_bureau else []
    versions = queries.list_versions(read(), programme_id)
    shown = _version(versions, http.args.get("version"))
    rules = Rules.from_json(shown.rules)
    return show(
        "programmes/page.html",
        form,
        programme=programme,
        hours=queries.hours(read(), [programme_id])[programme_id],
        pools=opened,
        prices=prices,
        fundings=fundings,
        names=names_of(read(), [e.by_id for e in fundings] + [v.made_by for v in versions]),
        today=clock.day_of(now()),
        versions=versions,
        version=shown,
        rules=rules,
        samples=samples.of_tracks(rules),
        half_term=samples.of_half_term(rules),
        sample_awarded=samples.AWARDED,
        weights=queries.list_weights(read(), programme_id, clock.day_of(now())),
        fund_form=form if isinstance(form, FundForm) else FundForm(formdata=None),
        open_form=form if isinstance(form, OpenForm) else OpenForm(formdata=None),
        weight_form=_with_pools(form if isinstance(form, WeightForm) else WeightForm(formdata=None), opened),
        sizes=SIZE_NAMES,
        field_names=FIELDS,
        attachment_names=ATTACHMENTS,
    )


def _with_pools(form: WeightForm, opened: list[Pool]) -> WeightForm:
    form.pool_id.choices = [(pool.id, pool.name) for pool in opened]
    return form


def _version(versions: list[ProgrammeVersion], number: str | None) -> ProgrammeVersion:
    """The version that the address asks for, else the newest."""
    if not versions:
        raise NotFound
    return next((version for version in versions if str(version.number) == number), versions[0])


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


# -- rules as data ----------------------------------------------------------------------------------------------------


@blueprint.get("/programmes/new")
@allows(Permission.PROGRAMME_OPEN)
def new() -> ResponseReturnValue:
    form = ProgrammeForm()
    form.fill(usual_rules())
    form.starts_on.data = clock.day_of(now())
    return _new_page(form)


@blueprint.post("/programmes/new")
@allows(Permission.PROGRAMME_OPEN)
def open_one() -> ResponseReturnValue:
    form, by, at = ProgrammeForm(), actor(), now()
    form.pools.choices = _pool_choices()
    if form.validate():
        rules = form.to_rules()
        name, name_en = form.name.data, form.name_en.data or None
        starts_on, ends_on, limit = form.starts_on.data, form.ends_on.data, form.booking_hours.data
        pool_ids = list(form.pools.data)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.open_programme(
                    s, name=name, name_en=name_en, starts_on=starts_on, ends_on=ends_on, pool_ids=pool_ids,
                    most_gpu_seconds=0, booking_approval_gpu_seconds=limit, rules=rules, by=by, now=at,
                ).id,
                lambda id: url_for("programmes.page", programme_id=id),
            )  # fmt: skip
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("programme-opened"))
            return redirect(address)
    return _new_page(form)


def _pool_choices() -> list[tuple[int, str]]:
    return [(pool.id, pool.name) for pool in pools.list_pools(read())]


def _new_page(form: ProgrammeForm) -> ResponseReturnValue:
    form.pools.choices = _pool_choices()
    return show("programmes/rules.html", form, programme=None, sizes=SIZE_NAMES, fields=FIELDS, kinds=ATTACHMENTS)


@blueprint.get("/programmes/<int:programme_id>/rules")
@allows(Permission.PROGRAMME_REVISE)
def rules(programme_id: int) -> ResponseReturnValue:
    form = RulesForm()
    queries.get_programme(read(), programme_id)
    form.fill(Rules.from_json(service.newest_version(read(), programme_id).rules))
    return _rules_page(programme_id, form)


def _rules_page(programme_id: int, form: RulesForm) -> ResponseReturnValue:
    programme = queries.get_programme(read(), programme_id)
    return show("programmes/rules.html", form, programme=programme, sizes=SIZE_NAMES, fields=FIELDS, kinds=ATTACHMENTS)


@blueprint.post("/programmes/<int:programme_id>/rules")
@allows(Permission.PROGRAMME_REVISE)
def revise(programme_id: int) -> ResponseReturnValue:
    form, by, at = RulesForm(), actor(), now()
    queries.get_programme(read(), programme_id)
    before = Rules.from_json(service.newest_version(read(), programme_id).rules)
    if form.validate():
        after, why = form.to_rules(before), form.why.data
        try:
            number = transact(lambda s: service.revise(s, programme_id, after, why=why, by=by, now=at).number)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("programme-revised", n=number))
            return redirect(url_for("programmes.page", programme_id=programme_id))
    return _rules_page(programme_id, form)


@blueprint.post("/programmes/<int:programme_id>/close")
@allows(Permission.PROGRAMME_REVISE)
def close(programme_id: int) -> ResponseReturnValue:
    return _open_or_close(programme_id, service.close, "programme-closed")


@blueprint.post("/programmes/<int:programme_id>/open")
@allows(Permission.PROGRAMME_REVISE)
def open_again(programme_id: int) -> ResponseReturnValue:
    return _open_or_close(programme_id, service.open_again, "programme-taken-up")


def _open_or_close(programme_id: int, verb: Callable[..., ProgrammeVersion], told: str) -> ResponseReturnValue:
    form, by, at = OpenForm(), actor(), now()
    if form.validate():
        why = form.why.data
        try:
            transact(lambda s: verb(s, programme_id, why=why, by=by, now=at))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence(told))
            return redirect(url_for("programmes.page", programme_id=programme_id))
    return _page(programme_id, form)


@blueprint.post("/programmes/<int:programme_id>/weights")
@allows(Permission.WEIGHT_SET)
def set_weight(programme_id: int) -> ResponseReturnValue:
    form, by, at = WeightForm(), actor(), now()
    queries.get_programme(read(), programme_id)
    _with_pools(form, queries.pools_of(read(), [programme_id])[programme_id])
    if form.validate():
        pool_id, from_on, weight = form.pool_id.data, form.from_on.data, form.weight.data
        try:
            transact(
                lambda s: service.set_weight(
                    s, programme_id, pool_id, from_on=from_on, weight_milli=weight, by=by, now=at
                )
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("weight-set"))
            return redirect(url_for("programmes.page", programme_id=programme_id))
    return _page(programme_id, form)


# -- discounts --------------------------------------------------------------------------------------------------------


@blueprint.get("/discounts")
@allows(Permission.TARIFF_VIEW)
def discounts() -> ResponseReturnValue:
    return _discounts_page(DiscountForm())


def _discounts_page(form: DiscountForm) -> ResponseReturnValue:
    opened, programmes = pools.list_pools(read()), queries.list_programmes(read())
    _discount_choices(form, opened, programmes)
    page, rows = paging.rows_of(read(), queries.every_discount())
    return show(
        "programmes/discounts.html",
        form,
        page=page,
        rows=rows,
        pools={pool.id: pool for pool in opened},
        programmes={programme.id: programme for programme in programmes},
        sizes=SIZE_NAMES,
        today=clock.day_of(now()),
    )


def _discount_choices(form: DiscountForm, opened: list[Pool], programmes: list[Programme]) -> None:
    here = guard.language()
    sizes = [(size, gettext(here, SIZE_NAMES[SizeClass(size)])) for size in SIZE_CLASSES]
    names = [(each.id, (here == "en" and each.name_en) or each.name) for each in programmes]
    form.pool_id.choices = [(pool.id, pool.name) for pool in opened]
    form.size_class.choices = [("", gettext(here, N_("all sizes"))), *sizes]
    form.programme_id.choices = [("", gettext(here, N_("all programmes"))), *names]


@blueprint.post("/discounts")
@allows(Permission.DISCOUNT_SET)
def set_discount() -> ResponseReturnValue:
    form, by, at = DiscountForm(), actor(), now()
    _discount_choices(form, pools.list_pools(read()), queries.list_programmes(read()))
    if form.validate():
        pool_id, size, programme_id = form.pool_id.data, form.size_class.data or None, form.programme_id.data
        percent, price = form.percent.data, form.price.data
        from_on, until_on = form.from_on.data, form.until_on.data
        try:
            transact(
                lambda s: service.set_discount(
                    s,
                    pool_id,
                    size_class=size,
                    programme_id=programme_id,
                    from_on=from_on,
                    until_on=until_on,
                    percent=percent,
                    price_micro_yuan=price,
                    by=by,
                    now=at,
                )
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("discount-set"))
            return redirect(url_for("programmes.discounts"))
    return _discounts_page(form)
