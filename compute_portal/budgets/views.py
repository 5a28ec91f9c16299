"""An allocation's sub-budgets, and the bureau's rules for thresholds and overdrafts."""

from __future__ import annotations

from flask import Blueprint, redirect, url_for
from flask.typing import ResponseReturnValue

from ..access import Permission
from ..allocations import queries as allocations
from ..bookings import service as bookings
from ..enterprises import queries as enterprises
from ..forms import show
from ..guard import actor, allows, language, now, one_time, read, tell
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import BudgetForm, RulesForm, budget_form
from .service import NewRules
from .states import ACTION_NAMES, Action

blueprint = Blueprint("budgets", __name__, template_folder="templates")
MOST_MEMBERS = 200
LARGEST_PERCENT = 1_000
LONGEST_DAYS = 365


@blueprint.get("/allocations/<int:allocation_id>/budgets")
@allows(Permission.BUDGET_VIEW)
def page(allocation_id: int) -> ResponseReturnValue:
    return _page(allocation_id, sent=False)


@blueprint.post("/allocations/<int:allocation_id>/budgets")
@allows(Permission.BUDGET_SET)
def set_budgets(allocation_id: int) -> ResponseReturnValue:
    return _page(allocation_id, sent=True)


def _page(allocation_id: int, *, sent: bool) -> ResponseReturnValue:
    by, at, session = actor(), now(), read()
    row = allocations.get_row(session, allocation_id, by)
    members = enterprises.list_members(session, row.allocation.enterprise_id, limit=MOST_MEMBERS)
    english = language() == "en"
    form = budget_form([(m.user_id, (english and m.name_en) or m.name) for m in members])()
    budgets = queries.budgets_of(session, allocation_id)
    spent = bookings.spent_by(session, allocation_id, [member.user_id for member in members])
    if sent and form.validate():
        limits = {member.user_id: getattr(form, f"limit_{member.user_id}").data for member in members}
        reserve = form.reserve.data or 0
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.set_budgets(
                    s, allocation_id, of=limits, reserve=reserve, members=limits, by=by, now=at
                ),
                lambda _none: url_for("budgets.page", allocation_id=allocation_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("budgets-saved"))
            return redirect(address)
    if not sent:
        _fill(form, budgets)
    return show("budgets/page.html", form, row=row, members=members, budgets=budgets, spent=spent)


def _fill(form: BudgetForm, budgets: queries.Budgets) -> None:
    form.reserve.data = budgets.reserve or None
    for user_id, limit in budgets.of.items():
        field = getattr(form, f"limit_{user_id}", None)
        if field is not None:
            field.data = limit


@blueprint.get("/budget-rules")
@allows(Permission.RULES_VIEW)
def rules() -> ResponseReturnValue:
    form, now_in_force = RulesForm(), queries.rules_in_force(read())
    for action in Action:
        typed = [str(percent) for percent, does in now_in_force.thresholds if does is action]
        getattr(form, action.value).data = ", ".join(typed)
    form.days.data = ", ".join(map(str, now_in_force.days))
    form.overdraft_percent.data = str(now_in_force.overdraft_percent)
    return _rules(form)


def _rules(form: RulesForm) -> ResponseReturnValue:
    versions = queries.list_versions(read())
    return show(
        "budgets/rules.html",
        form,
        versions=[(row, queries.read_rules(row)) for row in versions],
        names=names_of(read(), [row.set_by for row in versions]),
        actions=ACTION_NAMES,
    )


@blueprint.post("/budget-rules")
@allows(Permission.RULES_SET)
def set_rules() -> ResponseReturnValue:
    form, by, at = RulesForm(), actor(), now()
    asked = _asked(form) if form.validate() else None
    if asked is not None:
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.set_rules(s, asked, why=form.why.data, by=by, now=at).id,
                lambda _id: url_for("budgets.rules"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("rules-saved"))
            return redirect(address)
    return _rules(form)


def _asked(form: RulesForm) -> NewRules | None:
    """None when a field holds no numbers; it says so."""
    typed = {action: form.numbers(action.value, LARGEST_PERCENT) for action in Action}
    days, overdraft = form.numbers("days", LONGEST_DAYS), form.numbers("overdraft_percent", 100)
    if any(numbers is None for numbers in [*typed.values(), days, overdraft]) or not overdraft or days is None:
        return None
    thresholds = [(percent, action) for action, percents in typed.items() for percent in percents or ()]
    return NewRules(tuple(sorted(thresholds)), tuple(days), overdraft[0])
