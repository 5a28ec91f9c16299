"""What everybody may see of the city's compute, without signing in; and what the bureau keeps for it."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, exports, guard, paging, plots
from ..access import Permission
from ..badges import badge
from ..enterprises.states import SIZE_NAMES
from ..forms import PortalForm, show
from ..guard import _, actor, allows, now, one_time, portal, public, read, tell
from ..language import typed
from ..lifecycle import list_history
from ..pools import queries as pools
from ..pools.models import Pool
from ..programmes import queries as programmes
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import formulas, queries, service
from .forms import DatasetEditForm, DatasetForm, SiteForm, StageForm, TransitionForm, WhyForm, megawatts
from .models import PowerSite, PublishedFigure
from .states import TIER_NAMES, DatasetState, Figure, SiteState, Tier, TransitionState

blueprint = Blueprint("commons", __name__, template_folder="templates")
SHOWN_DAYS = 30
SHOWN_QUEUE_DAYS = 14


# -- for everybody


@blueprint.get("/")
@public
def front() -> ResponseReturnValue:
    """The front page; who is signed in goes on to the own start page."""
    if guard.person() is not None:
        return redirect(guard.home())
    session, at = read(), now()
    listed = pools.list_pools(session)
    found = queries.figures(session, Figure.NOW, Figure.TIME_TO_PERMIT, Figure.WAITS)
    return render_template(
        "commons/front.html",
        pools=listed,
        present=_present(found),
        total_p=_total_p(found, listed),
        news=_news(found, listed),
        strips=_strips(found),
        waits=_waits_by_pool(found),
        permit=found.get(Figure.TIME_TO_PERMIT),
        prices=_prices([pool.id for pool in listed]),
        kpis=_kpis(_recent_days()),
        megawatts=megawatts,
        today=clock.day_of(at),
    )


@dataclass(frozen=True, slots=True)
class Kpis:
    """What the bureau entered, and the GPU-hours of the last whole month, or of this one where it is the first."""

    sites: list[PowerSite]
    power: queries.Power
    transitions: queries.Transitions
    month: str
    use: queries.Use


def _kpis(days: dict[dt.date, queries.Use]) -> Kpis:
    """Two queries. `days` go back to the beginning of last month."""
    sites, entered = queries.list_sites(read()), queries.list_transitions(read())
    counted = queries.transitions(entered, portal().policy.commons, now())
    this = clock.month_of(now())
    for month in (clock.previous_month(this), this):
        use = sum((use for day, use in days.items() if day.isoformat()[:7] == month), queries.Use())
        if use.capacity:
            break
    return Kpis(sites, queries.power(sites), counted, month, use)


def _recent_days() -> dict[dt.date, queries.Use]:
    """Since the beginning of last month or for thirty days, whichever is longer, until yesterday."""
    today = clock.day_of(now())
    last_month = (today.replace(day=1) - dt.timedelta(days=1)).replace(day=1)
    first = min(last_month, today - dt.timedelta(days=SHOWN_DAYS))
    return queries.use_by_day(read(), first, today - dt.timedelta(days=1))


def _present(found: dict[Figure, PublishedFigure]) -> PublishedFigure | None:
    return found.get(Figure.NOW)


def _total_p(found: dict[Figure, PublishedFigure], listed: Sequence[Pool]) -> float:
    if (row := found.get(Figure.NOW)) is None:
        return 0.0
    cards = {int(id): pool["capacity"] for id, pool in row.content["pools"].items()}
    return sum(cards.get(pool.id, 0) * pool.tflops_fp16_dense for pool in listed) / 1000


@dataclass(frozen=True, slots=True)
class News:
    """What is planned: (pool, nodes, start, end) of windows; (name, English name, GPU-seconds left, last day)."""

    windows: list[tuple[str, int, dt.datetime, dt.datetime]]
    programmes: list[tuple[str, str | None, int, dt.date]]


def _news(found: dict[Figure, PublishedFigure], listed: Sequence[Pool]) -> News:
    if (row := found.get(Figure.NOW)) is None:
        return News([], [])
    named = {pool.id: pool.name for pool in listed}
    return News(
        [
            (named[id], nodes, dt.datetime.fromtimestamp(start, dt.UTC), dt.datetime.fromtimestamp(end, dt.UTC))
            for id, nodes, start, end in row.content["windows"]
            if id in named
        ],
        [
            (name, name_en, left, dt.date.fromisoformat(ends_on))
            for name, name_en, left, ends_on in row.content["programmes"]
            if left > 0
        ],
    )


def _strips(found: dict[Figure, PublishedFigure]) -> dict[int, plots.Heat]:
    """By pool, how much of it cannot be booked in each of the coming hours."""
    if (row := found.get(Figure.NOW)) is None:
        return {}
    first = dt.datetime.fromtimestamp(row.content["first_hour"], dt.UTC)
    return {
        int(id): plots.heat({first + i * clock.HOUR: percent for i, percent in enumerate(pool["taken_percent"])})
        for id, pool in row.content["pools"].items()
    }


def _waits_by_pool(found: dict[Figure, PublishedFigure]) -> dict[str, dict[str, Any]]:
    if (row := found.get(Figure.WAITS)) is None:
        return {}
    return {group["group"]: group for group in row.content["groups"] if group["kind"] == "pool" and group["bookings"]}


def _prices(pool_ids: list[int]) -> dict[int, int | None]:
    """Micro-yuan per GPU-hour today."""
    books = pools.price_books(read(), pool_ids)
    today = {id: book.list_price(now()) for id, book in books.items()}
    return {id: None if price is None else price.price_micro_yuan for id, price in today.items()}


@blueprint.get("/commons/pools")
@public
def list_pools() -> ResponseReturnValue:
    listed = pools.list_pools(read())
    found = queries.figures(read(), Figure.NOW, Figure.WAITS)
    return render_template(
        "commons/pools.html",
        pools=listed,
        cards=pools.capacity(read(), [pool.id for pool in listed]),
        present=_present(found),
        waits=_waits_by_pool(found),
        prices=_prices([pool.id for pool in listed]),
    )


@blueprint.get("/commons/programmes")
@public
def list_programmes() -> ResponseReturnValue:
    """Those that take requests, with the rules of today."""
    today = clock.day_of(now())
    opened = programmes.list_open(read(), today)
    ids = [programme.id for programme in opened]
    return render_template(
        "commons/programmes.html",
        programmes=opened,
        hours=programmes.hours(read(), ids),
        pools=programmes.pools_of(read(), ids),
        rules=programmes.rules_on(read(), ids, today),
        permit=queries.figures(read(), Figure.TIME_TO_PERMIT).get(Figure.TIME_TO_PERMIT),
        sizes=SIZE_NAMES,
        today=today,
    )


@blueprint.get("/commons/datasets")
@public
def list_datasets() -> ResponseReturnValue:
    page, rows = paging.rows_of(read(), queries.catalogue())
    return render_template("commons/datasets.html", page=page, rows=rows, tiers=TIER_NAMES)


@blueprint.get("/commons/figures")
@public
def figures() -> ResponseReturnValue:
    """Every public figure with its definition, its date and the rows behind it."""
    session, at = read(), now()
    listed = pools.list_pools(session)
    found = queries.figures(session, Figure.TIME_TO_PERMIT, Figure.WAITS, Figure.ALLOCATION_RATE, Figure.FAIRNESS)
    today = clock.day_of(at)
    first = today - dt.timedelta(days=SHOWN_DAYS)
    hours = queries.hours_since(session, clock.start_of_day(today - dt.timedelta(days=SHOWN_QUEUE_DAYS)))
    days = _recent_days()
    kpis = _kpis(days)
    return render_template(
        "commons/figures.html",
        kpis=kpis,
        permit=found.get(Figure.TIME_TO_PERMIT),
        waits=found.get(Figure.WAITS),
        rate=found.get(Figure.ALLOCATION_RATE),
        fairness=found.get(Figure.FAIRNESS),
        pools={pool.id: pool for pool in listed},
        sites=[site for site in kpis.sites if site.state is not SiteState.DROPPED],
        became=kpis.transitions.counted,
        days=_days({day: use for day, use in days.items() if day >= first}),
        queue=_queue([pool.id for pool in listed], hours),
        strips=_past_strips([pool.id for pool in listed], hours),
        megawatts=megawatts,
        sizes=SIZE_NAMES,
        stages=[stage for stage in SiteState if stage is not SiteState.DROPPED],
        policy=portal().policy.commons,
        sql={
            "permit": formulas.time_to_permit(),
            "hours": formulas.gpu_hours(kpis.month),
            "power": formulas.power(),
            "transitions": formulas.transitions(kpis.transitions.after_on),
            "waits": formulas.wait(95),
            "rate": formulas.allocation_rate(),
            "fairness": formulas.fairness(),
        },
    )


@dataclass(frozen=True, slots=True)
class DaysPlot:
    """GPU-hours a day: what was given to bookings as bars, what was in service as a line above them."""

    days: list[tuple[dt.date, queries.Use]]
    scale: plots.Scale
    allocated: str  # a path of bars
    used: str
    available: list[str]

    @property
    def total(self) -> queries.Use:
        return sum((use for _, use in self.days), queries.Use())


def _days(by_day: dict[dt.date, queries.Use]) -> DaysPlot | None:
    if not by_day:
        return None
    on = plots.scale(max(max(use.available, use.allocated, use.used) for use in by_day.values()) / 3600)
    uses = list(by_day.values())
    return DaysPlot(
        list(by_day.items()),
        on,
        plots.bars([use.allocated // 3600 for use in uses], on),
        plots.bars([use.used // 3600 for use in uses], on, part=0.3),
        plots.line([use.available / 3600 for use in uses], on),
    )


@dataclass(frozen=True, slots=True)
class QueuePlot:
    """Bookings that waited at the beginning of each hour, a line per pool."""

    hours: list[dt.datetime]
    scale: plots.Scale
    lines: dict[int, list[str]]
    most: dict[int, int]
    by_day: list[tuple[dt.date, dict[int, int]]]  # the most at once on each day


def _queue(pool_ids: list[int], hours: list[Any]) -> QueuePlot | None:
    if not hours:
        return None
    waiting: dict[int, dict[dt.datetime, int]] = {id: {} for id in pool_ids}
    for pool_id, at, _a, _b, bookings, _g in hours:
        waiting[pool_id][at] = bookings
    instants = sorted({at for of_pool in waiting.values() for at in of_pool})
    most = {id: max(waiting[id].values(), default=0) for id in pool_ids}
    on = plots.scale(max(most.values()))
    by_day: dict[dt.date, dict[int, int]] = {}
    for day, of_day in itertools.groupby(instants, clock.day_of):
        those = list(of_day)
        by_day[day] = {id: max(waiting[id].get(at, 0) for at in those) for id in pool_ids}
    return QueuePlot(
        instants,
        on,
        {id: plots.line([waiting[id].get(at) for at in instants], on) for id in pool_ids},
        most,
        sorted(by_day.items()),
    )


def _past_strips(pool_ids: list[int], hours: list[Any]) -> dict[int, list[plots.Heat]]:
    """By pool, the last seven days as strips of 24 hours: how much of what was in service was given to bookings."""
    last = clock.day_of(max((at for _id, at, *_rest in hours), default=now()))
    begins = [clock.start_of_day(last - dt.timedelta(days=back)) for back in range(6, -1, -1)]
    percents = {
        (pool_id, at): None if not available else min(100, 100 * allocated // available)
        for pool_id, at, available, allocated, *_rest in hours
        if at >= begins[0]
    }
    days = [[begin + n * clock.HOUR for n in range(24)] for begin in begins]
    return {id: [plots.heat({at: percents.get((id, at)) for at in day}) for day in days] for id in pool_ids}


# -- the rows behind the figures

Table = tuple[tuple[str, ...], Callable[[Session], Iterator[Sequence[exports.Cell]]]]


def _permit_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for milli, in_time in _rows_of(session, Figure.TIME_TO_PERMIT):
        yield Decimal(milli).scaleb(-3), "yes" if in_time else "no"


def _rows_of(session: Session, name: Figure, part: str = "") -> list[Any]:
    """The rows that a figure was reckoned from, or a table of its content."""
    row = queries.figures(session, name).get(name)
    return [] if row is None else list(row.content[part] if part else row.open_rows)


def _day_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    named = {pool.id: pool for pool in pools.list_pools(session)}
    for row in queries.days(session):
        pool = named[row.pool_id]
        yield (
            row.day_on.isoformat(), pool.name, pool.model, row.capacity_gpu_seconds, row.down_gpu_seconds,
            row.capacity_gpu_seconds - row.down_gpu_seconds, row.allocated_gpu_seconds, row.used_gpu_seconds,
        )  # fmt: skip


def _hour_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    named = {pool.id: pool.name for pool in pools.list_pools(session)}
    since = clock.start_of_day(clock.day_of(now()) - dt.timedelta(days=SHOWN_QUEUE_DAYS))
    for pool_id, at, available, allocated, bookings, _gpus in queries.hours_since(session, since):
        # where one booking waits, its cards are its own affair
        yield typed(at), named[pool_id], available, allocated, bookings


def _power_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for site in queries.list_sites(session):
        if site.state is not SiteState.DROPPED:
            yield (
                site.name, site.name_en, str(site.state), Decimal(site.kilowatts).scaleb(-3), site.since_on.isoformat(),
                site.evidence, site.link,
            )  # fmt: skip


def _transition_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for row in queries.list_transitions(session):
        if row.state is TransitionState.RECORDED:
            yield row.happened_on.isoformat(), row.name, row.name_en, row.evidence, row.link


def _wait_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    yield from _rows_of(session, Figure.WAITS)


def _rate_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for row in _rows_of(session, Figure.ALLOCATION_RATE, "programmes"):
        yield (
            row["name"], row["name_en"], row["requests"], row["asked_gpu_seconds"], row["awarded_gpu_seconds"],
            row["used_gpu_seconds"],
        )  # fmt: skip


def _fairness_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for row in _rows_of(session, Figure.FAIRNESS, "sizes"):
        yield row["size"], row["enterprises"], row["entitled_gpu_seconds"], row["used_gpu_seconds"]


def _ratio_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for ratio in _rows_of(session, Figure.FAIRNESS):
        yield (Decimal(ratio).scaleb(-3),)


def _dataset_rows(session: Session) -> Iterator[Sequence[exports.Cell]]:
    for row in session.scalars(queries.catalogue()):
        yield row.name, row.name_en, row.steward, row.steward_en, str(row.tier), row.how_to_ask, row.how_to_ask_en


# Name in the address → columns, and what they hold. Empty cells of figures are small numbers that are not shown.
TABLES: dict[str, Table] = {
    "time-to-permit": (("working_days", "in_time"), _permit_rows),
    "pool-days": (
        (
            "day", "pool", "model", "capacity_gpu_seconds", "down_gpu_seconds", "available_gpu_seconds",
            "allocated_gpu_seconds", "used_gpu_seconds",
        ),
        _day_rows,
    ),
    "pool-hours": (
        (
            "hour_beijing", "pool", "available_gpu_seconds", "allocated_gpu_seconds", "waiting_bookings",
        ),
        _hour_rows,
    ),
    "power": (("site", "site_en", "stage", "megawatts", "since", "evidence", "link"), _power_rows),
    "transitions": (("day", "transition", "transition_en", "evidence", "link"), _transition_rows),
    "waits": (("dimension", "class", "wait_minutes", "bookings"), _wait_rows),
    "allocation-rate": (
        (
            "programme", "programme_en", "requests", "asked_gpu_seconds", "awarded_gpu_seconds", "used_gpu_seconds",
        ),
        _rate_rows,
    ),
    "fairness": (("size", "enterprises", "entitled_gpu_seconds", "used_gpu_seconds"), _fairness_rows),
    "fairness-ratios": (("used_to_entitled",), _ratio_rows),
    "datasets": (
        ("name", "name_en", "steward", "steward_en", "tier", "how_to_ask", "how_to_ask_en"),
        _dataset_rows,
    ),
}  # fmt: skip


def _sends(name: str) -> Callable[[], ResponseReturnValue]:
    header, rows = TABLES[name]

    def export() -> ResponseReturnValue:
        with portal().database.read_only() as session:
            lines = list(exports.csv_lines(header, rows(session)))
        response = Response("".join(lines), mimetype=exports.MIMETYPE)
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return response

    return public(export)


for _name in TABLES:
    blueprint.add_url_rule(f"/commons/{_name}.csv", f"{_name}_csv", _sends(_name), methods=["GET"])


# -- the catalogue, as the bureau keeps it


@blueprint.get("/datasets")
@allows(Permission.DATASET_VIEW)
def datasets() -> ResponseReturnValue:
    page, rows = paging.rows_of(read(), queries.every_dataset())
    return render_template("commons/datasets_kept.html", page=page, rows=rows, tiers=TIER_NAMES)


def _dataset_form(form: DatasetForm) -> DatasetForm:
    form.tier.choices = [(tier.value, _(TIER_NAMES[tier])) for tier in Tier]
    return form


@blueprint.get("/datasets/new")
@allows(Permission.DATASET_LIST)
def new_dataset() -> ResponseReturnValue:
    return show("commons/dataset_new.html", _dataset_form(DatasetForm()))


@blueprint.post("/datasets/new")
@allows(Permission.DATASET_LIST)
def list_dataset() -> ResponseReturnValue:
    form, by, at = _dataset_form(DatasetForm()), actor(), now()
    if form.validate():
        text = form.to_text()
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.list_dataset(s, text, by=by, now=at).id,
                lambda id: url_for("commons.dataset", dataset_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("dataset-listed"))
            return redirect(address)
    return show("commons/dataset_new.html", form)


@blueprint.get("/datasets/<int:dataset_id>")
@allows(Permission.DATASET_VIEW)
def dataset(dataset_id: int) -> ResponseReturnValue:
    row = queries.get_dataset(read(), dataset_id)
    form = _dataset_form(DatasetEditForm(obj=row))
    return _dataset_page(dataset_id, form, WhyForm(formdata=None))


def _dataset_page(dataset_id: int, form: PortalForm, why_form: PortalForm) -> ResponseReturnValue:
    row = queries.get_dataset(read(), dataset_id)
    history = list_history(read(), row.LIFE, dataset_id)
    return show(
        "commons/dataset.html",
        why_form if why_form.problems else form,
        edit_form=form,
        why_form=why_form,
        row=row,
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
        tiers=TIER_NAMES,
        is_listed=row.state is DatasetState.LISTED,
    )


@blueprint.post("/datasets/<int:dataset_id>/edit")
@allows(Permission.DATASET_EDIT)
def edit_dataset(dataset_id: int) -> ResponseReturnValue:
    queries.get_dataset(read(), dataset_id)
    form, by, at = _dataset_form(DatasetEditForm()), actor(), now()
    if form.validate():
        text, why = form.to_text(), form.why.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.edit_dataset(s, dataset_id, text, why=why, by=by, now=at).id,
                lambda id: url_for("commons.dataset", dataset_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("dataset-edited"))
            return redirect(address)
    return _dataset_page(dataset_id, form, WhyForm(formdata=None))


@blueprint.post("/datasets/<int:dataset_id>/retire")
@allows(Permission.DATASET_RETIRE)
def retire_dataset(dataset_id: int) -> ResponseReturnValue:
    return _move_dataset(dataset_id, service.retire_dataset, "dataset-retired")


@blueprint.post("/datasets/<int:dataset_id>/relist")
@allows(Permission.DATASET_LIST)
def relist_dataset(dataset_id: int) -> ResponseReturnValue:
    return _move_dataset(dataset_id, service.relist_dataset, "dataset-listed")


def _move_dataset(dataset_id: int, verb: Callable[..., Any], told: str) -> ResponseReturnValue:
    row = queries.get_dataset(read(), dataset_id)
    form, by, at = WhyForm(), actor(), now()
    if form.validate():
        why = form.why.data or ""
        address = one_time(
            form.form_key.data,
            lambda s: verb(s, dataset_id, why=why, by=by, now=at).id,
            lambda id: url_for("commons.dataset", dataset_id=id),
        )
        tell(Sentence(told))
        return redirect(address)
    return _dataset_page(dataset_id, _dataset_form(DatasetEditForm(formdata=None, obj=row)), form)


# -- the figures that the bureau enters


@blueprint.get("/public-figures")
@allows(Permission.FIGURE_VIEW)
def entered() -> ResponseReturnValue:
    return render_template(
        "commons/entered.html",
        sites=(sites := queries.list_sites(read())),
        power=queries.power(sites),
        transitions=(rows := queries.list_transitions(read())),
        counted=queries.transitions(rows, portal().policy.commons, now()),
        megawatts=megawatts,
        stages=[stage for stage in SiteState if stage is not SiteState.DROPPED],
    )


def _stages(form: StageForm, *stages: SiteState) -> None:
    form.state.choices = [(stage.value, _stage_name(stage)) for stage in stages]


def _stage_name(stage: SiteState) -> str:
    return _(badge("site", stage).word)


@blueprint.get("/power-sites/new")
@allows(Permission.FIGURE_ENTER)
def new_site() -> ResponseReturnValue:
    form = SiteForm()
    _stages(form, *list(SiteState)[:4])
    return show("commons/site_new.html", form)


@blueprint.post("/power-sites/new")
@allows(Permission.FIGURE_ENTER)
def enter_site() -> ResponseReturnValue:
    form, by, at = SiteForm(), actor(), now()
    _stages(form, *list(SiteState)[:4])
    if form.validate():
        name, name_en, stage = form.name.data or "", form.name_en.data or "", form.to_stage()
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.enter_site(s, name, name_en, stage, by=by, now=at).id,
                lambda id: url_for("commons.site", site_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("site-kept"))
            return redirect(address)
    return show("commons/site_new.html", form)


@blueprint.get("/power-sites/<int:site_id>")
@allows(Permission.FIGURE_VIEW)
def site(site_id: int) -> ResponseReturnValue:
    row = queries.get_site(read(), site_id)
    form = StageForm(obj=row)
    form.megawatts.data = row.kilowatts
    return _site_page(site_id, form)


def _site_page(site_id: int, form: StageForm) -> ResponseReturnValue:
    row = queries.get_site(read(), site_id)
    _stages(form, row.state, *(stage for stage in SiteState if row.LIFE.allows(row.state, stage)))
    history = list_history(read(), row.LIFE, site_id)
    return show(
        "commons/site.html",
        form,
        row=row,
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
        megawatts=megawatts,
    )


@blueprint.post("/power-sites/<int:site_id>/move")
@allows(Permission.FIGURE_ENTER)
def move_site(site_id: int) -> ResponseReturnValue:
    row = queries.get_site(read(), site_id)
    form, by, at = StageForm(), actor(), now()
    _stages(form, *SiteState)
    if form.validate():
        stage = form.to_stage()
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.move_site(s, site_id, stage, by=by, now=at).id,
                lambda id: url_for("commons.site", site_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("site-kept"))
            return redirect(address)
    return _site_page(row.id, form)


@blueprint.get("/transitions/new")
@allows(Permission.FIGURE_ENTER)
def new_transition() -> ResponseReturnValue:
    return show("commons/transition_new.html", TransitionForm(), policy=portal().policy.commons)


@blueprint.post("/transitions/new")
@allows(Permission.FIGURE_ENTER)
def record_transition() -> ResponseReturnValue:
    form, by, at, policy = TransitionForm(), actor(), now(), portal().policy.commons
    if form.validate():
        asked = form.to_transition()
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.record_transition(s, asked, policy=policy, by=by, now=at).id,
                lambda id: url_for("commons.transition", transition_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("transition-recorded"))
            return redirect(address)
    return show("commons/transition_new.html", form, policy=policy)


@blueprint.get("/transitions/<int:transition_id>")
@allows(Permission.FIGURE_VIEW)
def transition(transition_id: int) -> ResponseReturnValue:
    return _transition_page(transition_id, WhyForm())


def _transition_page(transition_id: int, form: WhyForm) -> ResponseReturnValue:
    row = queries.get_transition(read(), transition_id)
    history = list_history(read(), row.LIFE, transition_id)
    return show(
        "commons/transition.html",
        form,
        row=row,
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
        is_recorded=row.state is TransitionState.RECORDED,
    )


@blueprint.post("/transitions/<int:transition_id>/withdraw")
@allows(Permission.FIGURE_ENTER)
def withdraw_transition(transition_id: int) -> ResponseReturnValue:
    queries.get_transition(read(), transition_id)
    form, by, at = WhyForm(), actor(), now()
    if form.validate():
        why = form.why.data or ""
        address = one_time(
            form.form_key.data,
            lambda s: service.withdraw_transition(s, transition_id, why=why, by=by, now=at).id,
            lambda id: url_for("commons.transition", transition_id=id),
        )
        tell(Sentence("transition-withdrawn"))
        return redirect(address)
    return _transition_page(transition_id, form)
