"""The table of working days: everybody may read it, an administrator sets it."""

from __future__ import annotations

from flask import Blueprint, redirect, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock
from ..access import Permission
from ..forms import show
from ..guard import actor, allows, language, now, one_time, read, tell
from ..language import gettext
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import KINDS, DayForm, YearForm
from .models import DayKind

blueprint = Blueprint("workdays", __name__, template_folder="templates")


@blueprint.get("/workdays")
@allows(Permission.WORKDAY_VIEW)
def index() -> ResponseReturnValue:
    asked = http.args.get("year", "")
    year = int(asked) if asked.isascii() and asked.isdigit() and len(asked) == 4 else clock.day_of(now()).year
    return _page(year, _day_form(DayForm()), YearForm())


def _day_form(form: DayForm) -> DayForm:
    form.kind.choices = [(value, gettext(language(), word)) for value, word in KINDS]
    return form


def _page(year: int, day_form: DayForm, year_form: YearForm) -> ResponseReturnValue:
    years = queries.list_years(read())
    if year not in years:
        year = min(years, key=lambda known: abs(known - year))
    days = queries.list_days(read(), year)
    row = years[year]
    if not year_form.problems and year_form.year.typed is None:
        year_form.year.data, year_form.source.data = year, row.source
        year_form.opens.data, year_form.closes.data = row.opens_minute, row.closes_minute
        year_form.provisional.data = row.provisional
    return show(
        "workdays/index.html",
        year_form if year_form.problems else day_form,
        year=row,
        years=years,
        days=days,
        kinds=dict(KINDS),
        working_days=queries.load_calendar(read()).working_days_in(year),
        names=names_of(read(), [day.set_by for day in days]),
        day_form=day_form,
        year_form=year_form,
        last=max(years),
    )


@blueprint.post("/workdays/day")
@allows(Permission.WORKDAY_SET)
def set_day() -> ResponseReturnValue:
    form, by, at = _day_form(DayForm()), actor(), now()
    if form.validate():
        day, kind = form.day.data, DayKind(form.kind.data)
        name, name_en = form.name.data or "", form.name_en.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.set_day(s, day, kind, name=name, name_en=name_en, by=by, now=at).day,
                lambda set_day: url_for("workdays.index", year=set_day.year),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("workday-set", day=day))
            return redirect(address)
    return _page(form.day.data.year if form.day.data else clock.day_of(at).year, form, YearForm(formdata=None))


@blueprint.post("/workdays/year")
@allows(Permission.WORKDAY_SET)
def set_year() -> ResponseReturnValue:
    form, by, at = YearForm(), actor(), now()
    if form.validate():
        values = {
            "opens_minute": form.opens.data,
            "closes_minute": form.closes.data,
            "provisional": bool(form.provisional.data),
            "source": form.source.data or "",
        }
        year = form.year.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.set_year(s, year, **values, by=by, now=at).year,
                lambda set_year: url_for("workdays.index", year=set_year),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("work-year-set", year=year))
            return redirect(address)
    return _page(form.year.data or clock.day_of(at).year, _day_form(DayForm(formdata=None)), form)
