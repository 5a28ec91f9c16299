"""Schemes and their budgets for finance; what an enterprise is entitled to, for itself and for the bureau."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from flask import Blueprint, Response, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, exports, language, units
from ..access import Permission
from ..allocations.models import Allocation
from ..enterprises import queries as enterprises
from ..enterprises.states import SIZE_NAMES
from ..forms import show
from ..guard import actor, allows, log_access, now, one_time, read, tell, transact
from ..guard import language as reader_language
from ..language import N_
from ..programmes import queries as programmes
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import names_of
from . import budgets, queries, service
from .forms import DeclareForm, MoneyForm, SchemeForm, TraitForm, usual_rules
from .models import Scheme, SchemeVersion
from .rules import SchemeRules, cases
from .states import MODES, ROUNDINGS, TRAITS, SchemeKind

blueprint = Blueprint("subsidies", __name__, template_folder="templates")
MOST_SCHEMES = 200
OWN_BUDGET = N_("Vouchers, with a budget of their own")
CONTRACT = N_("Allocation %(id)s, %(first)s to %(last)s")


def _on() -> dt.date:
    """The day that the address asks for, today at the latest."""
    today = clock.day_of(now())
    asked = http.args.get("on", "")
    if not asked:
        return today
    try:
        day = dt.date.fromisoformat(asked)
    except ValueError:
        raise NotFound from None
    if day.year < 2000:
        raise NotFound
    return min(day, today)


# -- schemes and budgets ----------------------------------------------------------------------------------------------


@blueprint.get("/schemes")
@allows(Permission.SCHEME_VIEW)
def index() -> ResponseReturnValue:
    on = _on()
    schemes = list(read().scalars(queries.every_scheme().limit(MOST_SCHEMES)))
    return render_template(
        "subsidies/index.html",
        on=on,
        today=clock.day_of(now()),
        rows=budgets.report(read(), schemes, on),
        rules=queries.rules_of(read(), [scheme.id for scheme in schemes]),
        modes=MODES,
    )


COLUMNS = (
    "scheme", "kind", "mode", "on", "budgeted_cny", "committed_cny", "spent_cny", "left_cny", "taken_this_year_cny",
    "forecast_taken_cny", "forecast_left_cny", "runs_out_on",
)  # fmt: skip


@blueprint.get("/schemes/export.csv")
@allows(Permission.SCHEME_EXPORT)
def export() -> ResponseReturnValue:
    on = _on()
    schemes = list(read().scalars(queries.every_scheme().limit(MOST_SCHEMES)))
    rules = queries.rules_of(read(), [scheme.id for scheme in schemes])
    rows = [_cells(row, rules[row.scheme.id], on) for row in budgets.report(read(), schemes, on)]
    return _csv(COLUMNS, rows, f"budgets-{on}.csv")


def _cells(row: budgets.Row, rules: SchemeRules, on: dt.date) -> Sequence[exports.Cell]:
    runs_out = row.forecast.runs_out_on
    return (
        row.scheme.name, rules.kind.value, rules.mode.value, on.isoformat(), units.yuan(row.budget.budgeted),
        units.yuan(row.budget.committed), units.yuan(row.budget.spent), units.yuan(row.budget.left),
        units.yuan(row.taken_this_year), units.yuan(row.forecast.taken), units.yuan(row.forecast_left),
        None if runs_out is None else runs_out.isoformat(),
    )  # fmt: skip


def _csv(columns: Sequence[str], rows: Sequence[Sequence[exports.Cell]], name: str) -> Response:
    log_access("export", name)
    response = Response(exports.csv_lines(columns, rows), mimetype=exports.MIMETYPE)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@blueprint.get("/schemes/<int:scheme_id>")
@allows(Permission.SCHEME_VIEW)
def page(scheme_id: int) -> ResponseReturnValue:
    return _page(scheme_id, MoneyForm())


def _page(scheme_id: int, form: MoneyForm) -> ResponseReturnValue:
    scheme, on = queries.get_scheme(read(), scheme_id), _on()
    versions = queries.list_versions(read(), scheme_id)
    shown = _version(versions, http.args.get("version"), on)
    (row,) = budgets.report(read(), [scheme], on)
    points = budgets.through_the_year(read(), scheme, on)
    fundings = budgets.list_fundings(read(), scheme)
    rules = SchemeRules.from_json(shown.rules)
    return show(
        "subsidies/page.html",
        form,
        scheme=scheme,
        programme=None if scheme.programme_id is None else programmes.get_programme(read(), scheme.programme_id),
        on=on,
        today=clock.day_of(now()),
        row=row,
        points=points,
        plot=budgets.draw(points, row.forecast),
        versions=versions,
        version=shown,
        rules=rules,
        cases=cases(rules),
        fundings=fundings,
        names=names_of(read(), [entry.by_id for entry in fundings] + [version.made_by for version in versions]),
        modes=MODES,
        roundings=ROUNDINGS,
        traits=TRAITS,
        sizes=SIZE_NAMES,
    )


def _version(versions: Sequence[SchemeVersion], number: str | None, on: dt.date) -> SchemeVersion:
    """The version that the address asks for, else the one in force, else the first to come."""
    asked = next((version for version in versions if str(version.number) == number), None)
    return asked or next((version for version in versions if version.from_on <= on), versions[-1])


@blueprint.get("/schemes/<int:scheme_id>/budget.csv")
@allows(Permission.SCHEME_EXPORT)
def export_budget(scheme_id: int) -> ResponseReturnValue:
    scheme, on = queries.get_scheme(read(), scheme_id), _on()
    rows = list(_points(budgets.through_the_year(read(), scheme, on)))
    return _csv(("on", "budgeted_cny", "committed_cny", "spent_cny", "left_cny"), rows, f"budget-{scheme_id}-{on}.csv")


def _points(points: Sequence[budgets.Point]) -> Iterator[Sequence[exports.Cell]]:
    for point in points:
        b = point.budget
        yield (point.day.isoformat(), *(units.yuan(amount) for amount in (b.budgeted, b.committed, b.spent, b.left)))


@blueprint.post("/schemes/<int:scheme_id>/fund")
@allows(Permission.SCHEME_FUND)
def fund(scheme_id: int) -> ResponseReturnValue:
    form, by, at = MoneyForm(), actor(), now()
    queries.get_scheme(read(), scheme_id)
    if form.validate():
        amount = form.amount.data
        # The form's key is the ledger's reference too: the same form adds its money once, whatever else fails.
        reference = hashlib.sha256(f"{by.user_id}:{form.form_key.data}".encode()).hexdigest()[:24]
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.fund(s, scheme_id, amount, reference=reference, by=by, now=at),
                lambda _none: url_for("subsidies.page", scheme_id=scheme_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("scheme-funded", amount=amount))
            return redirect(address)
    return _page(scheme_id, form)


@blueprint.get("/schemes/new")
@allows(Permission.SCHEME_OPEN)
def new() -> ResponseReturnValue:
    form, today = SchemeForm(), clock.day_of(now())
    form.fill(usual_rules(today))
    form.from_on.data = today.replace(day=1)
    return _rules_page(form, None)


@blueprint.post("/schemes/new")
@allows(Permission.SCHEME_OPEN)
def open_one() -> ResponseReturnValue:
    form, by, at = SchemeForm(), actor(), now()
    _programme_choices(form)
    if form.validate():
        programme_id = form.programme_id.data or None
        rules = form.to_rules(SchemeKind.VOUCHER if programme_id is None else SchemeKind.PROGRAMME)
        name, name_en, why, from_on = form.name.data, form.name_en.data or None, form.why.data, form.from_on.data
        try:
            if not name:
                raise Refusal(Sentence("required"), "name")
            address = one_time(
                form.form_key.data,
                lambda s: service.open_scheme(
                    s, rules, name=name, name_en=name_en, why=why, from_on=from_on, programme_id=programme_id, by=by,
                    now=at,
                ).id,
                lambda id: url_for("subsidies.page", scheme_id=id),
            )  # fmt: skip
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("scheme-opened"))
            return redirect(address)
    return _rules_page(form, None)


def _programme_choices(form: SchemeForm) -> None:
    free = [
        (programme.id, (reader_language() == "en" and programme.name_en) or programme.name)
        for programme in programmes.list_programmes(read())
    ]
    form.programme_id.choices = [(0, language.gettext(reader_language(), OWN_BUDGET)), *free]


def _rules_page(form: SchemeForm, scheme: Scheme | None) -> ResponseReturnValue:
    _programme_choices(form)
    return show("subsidies/rules.html", form, scheme=scheme, traits=TRAITS, sizes=SIZE_NAMES)


@blueprint.get("/schemes/<int:scheme_id>/revise")
@allows(Permission.SCHEME_REVISE)
def rules(scheme_id: int) -> ResponseReturnValue:
    scheme, form = queries.get_scheme(read(), scheme_id), SchemeForm()
    last = queries.list_versions(read(), scheme_id)[0]
    form.fill(SchemeRules.from_json(last.rules))
    next_month = queries.first_day(clock.next_month(clock.month_of(now())))
    form.from_on.data = max(last.from_on, next_month)
    return _rules_page(form, scheme)


@blueprint.post("/schemes/<int:scheme_id>/revise")
@allows(Permission.SCHEME_REVISE)
def revise(scheme_id: int) -> ResponseReturnValue:
    form, by, at = SchemeForm(), actor(), now()
    scheme = queries.get_scheme(read(), scheme_id)
    before = SchemeRules.from_json(queries.list_versions(read(), scheme_id)[0].rules)
    _programme_choices(form)
    form.programme_id.data = scheme.programme_id or 0
    if form.validate():
        after, why, from_on = form.to_rules(before.kind, before), form.why.data, form.from_on.data
        try:
            number = transact(
                lambda s: service.revise(s, scheme_id, after, from_on=from_on, why=why, by=by, now=at).number
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("scheme-revised", n=number, first=from_on))
            return redirect(url_for("subsidies.page", scheme_id=scheme_id))
    return _rules_page(form, scheme)


# -- what an enterprise is entitled to --------------------------------------------------------------------------------


@blueprint.get("/subsidies")
@allows(Permission.SUBSIDY_VIEW)
def own() -> ResponseReturnValue:
    by = actor()
    if by.enterprise_id is None:
        return redirect(url_for("subsidies.index"))
    return _entitlements_page(by.enterprise_id)


@blueprint.get("/subsidies/<int:enterprise_id>")
@allows(Permission.SCHEME_VIEW)
def enterprise(enterprise_id: int) -> ResponseReturnValue:
    return _entitlements_page(enterprise_id)


def _entitlements_page(enterprise_id: int) -> ResponseReturnValue:
    month = clock.month_of(now())
    firm = enterprises.get_enterprise(read(), enterprise_id, actor())
    entitled = queries.entitlements(read(), enterprise_id, month, mode=None)
    return render_template(
        "subsidies/entitlements.html",
        enterprise=firm,
        month=month,
        entitled=entitled,
        names={each.scheme_id: each for each in entitled.entitlements},
        modes=MODES,
        trait_words=TRAITS,
        own=actor().enterprise_id == enterprise_id,
    )


@blueprint.get("/subsidies/declare")
@allows(Permission.SUBSIDY_DECLARE)
def declarations() -> ResponseReturnValue:
    return _declare_page(DeclareForm())


def _declare_page(form: DeclareForm) -> ResponseReturnValue:
    by = actor()
    if by.enterprise_id is None:
        raise NotFound
    _contract_choices(form, by.enterprise_id)
    contracts = queries.list_contracts(read(), by.enterprise_id)
    names = names_of(read(), [row.by_id for row, _scheme in contracts])
    return show("subsidies/declare.html", form, contracts=contracts, names=names)


def _contract_choices(form: DeclareForm, enterprise_id: int) -> None:
    said = reader_language()
    rows = read().execute(
        sa.select(Allocation.id, Allocation.starts_on, Allocation.ends_on)
        .where(Allocation.enterprise_id == enterprise_id, Allocation.awarded_gpu_seconds.is_not(None))
        .order_by(Allocation.id.desc())
        .limit(100)
    )
    form.allocation_id.choices = [
        (
            id,
            language.gettext(said, CONTRACT)
            % {"id": id, "first": language.day(first, said), "last": language.day(last, said)},
        )
        for id, first, last in rows
    ]


@blueprint.post("/subsidies/declare")
@allows(Permission.SUBSIDY_DECLARE)
def declare() -> ResponseReturnValue:
    form, by, at = DeclareForm(), actor(), now()
    if by.enterprise_id is None:
        raise NotFound
    _contract_choices(form, by.enterprise_id)
    if form.validate():
        allocation_id, elsewhere = form.allocation_id.data, form.elsewhere.data
        amount, granted_on = form.amount.data, form.granted_on.data
        try:
            transact(
                lambda s: service.declare(
                    s, allocation_id, elsewhere=elsewhere, amount_micro_yuan=amount, granted_on=granted_on, by=by,
                    now=at,
                ).id
            )  # fmt: skip
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("subsidy-declared", number=allocation_id))
            return redirect(url_for("subsidies.declarations"))
    return _declare_page(form)


@blueprint.get("/subsidies/<int:enterprise_id>/traits")
@allows(Permission.SCHEME_VIEW)
def traits(enterprise_id: int) -> ResponseReturnValue:
    return _traits_page(enterprise_id, TraitForm())


def _traits_page(enterprise_id: int, form: TraitForm) -> ResponseReturnValue:
    firm = enterprises.get_enterprise(read(), enterprise_id, actor())
    rows = queries.list_traits(read(), enterprise_id)
    names = names_of(read(), [row.entered_by for row in rows])
    return show(
        "subsidies/traits.html", form, enterprise=firm, rows=rows, names=names, words=TRAITS, today=clock.day_of(now())
    )


@blueprint.post("/subsidies/<int:enterprise_id>/traits")
@allows(Permission.TRAIT_SET)
def set_trait(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = TraitForm(), actor(), now()
    enterprises.get_enterprise(read(), enterprise_id, by)
    if form.validate():
        trait, evidence = form.trait.data, form.evidence.data
        from_on, until_on = form.from_on.data, form.until_on.data
        try:
            transact(
                lambda s: (
                    service.set_trait(
                        s, enterprise_id, trait, evidence=evidence, from_on=from_on, until_on=until_on, by=by, now=at
                    ).id
                )
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("trait-set"))
            return redirect(url_for("subsidies.traits", enterprise_id=enterprise_id))
    return _traits_page(enterprise_id, form)


@blueprint.post("/traits/<int:trait_id>/end")
@allows(Permission.TRAIT_SET)
def end_trait(trait_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    enterprise_id = transact(lambda s: service.end_trait(s, trait_id, by=by, now=at))
    tell(Sentence("trait-ended"))
    return redirect(url_for("subsidies.traits", enterprise_id=enterprise_id))
