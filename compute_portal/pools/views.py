"""Pools, their nodes, maintenance and prices: what there is, what is free when, and the bureau's buttons."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, paging
from ..access import Permission
from ..bookings import maintenance as booked
from ..forms import a_form_key, show
from ..guard import actor, allows, now, one_time, portal, read, tell
from ..lifecycle import list_history
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .availability import gpus_for
from .forms import (
    EditPoolForm,
    EndingForm,
    MaintenanceForm,
    NewPoolForm,
    PoolWeightForm,
    PowerCapForm,
    TariffForm,
    WhyForm,
)
from .models import Node, Pool
from .prices import ListPrice, PriceBook
from .queries import Picture
from .states import NodeState

blueprint = Blueprint("pools", __name__, template_folder="templates")
# Prices have an entry of their own in finance's header, so they are a blueprint of their own.
tariffs = Blueprint("tariffs", __name__, template_folder="templates")
DAYS_AHEAD = 7
HOURS_AHEAD = DAYS_AHEAD * 24


# -- pools


@dataclass(frozen=True, slots=True)
class Prices:
    """What a GPU-hour costs today and what will follow; None when there is no such price. Off-peak hours by hour."""

    today: ListPrice | None
    next: ListPrice | None
    off_peak: list[ListPrice]


def _prices(book: PriceBook, at: dt.datetime) -> Prices:
    return Prices(book.list_price(at), book.next_list_price(at), book.off_peak_prices(clock.day_of(at)))


@blueprint.get("/pools")
@allows(Permission.POOL_VIEW)
def index() -> ResponseReturnValue:
    pools = queries.list_pools(read())
    books = queries.price_books(read(), [pool.id for pool in pools])
    return render_template(
        "pools/index.html",
        pictures=queries.pictures(read(), pools, now()),
        prices={id: _prices(book, now()) for id, book in books.items()},
        hours_ahead=HOURS_AHEAD,
    )


@blueprint.get("/pools/<int:pool_id>")
@allows(Permission.POOL_VIEW)
def page(pool_id: int) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    [picture] = queries.pictures(read(), [pool], now())
    nodes_page = paging.page_of(len(picture.nodes))
    nodes = picture.nodes[nodes_page.offset : nodes_page.offset + nodes_page.size]
    asked = queries.list_instructions(read(), [node.id for node in nodes], unanswered=True)
    return render_template(
        "pools/page.html",
        picture=picture,
        pool=pool,
        prices=_prices(queries.price_book(read(), pool_id), now()),
        calendar=_calendar(picture),
        page=nodes_page,
        nodes=nodes,
        uses=_by_node(picture),
        asked={instruction.target_id: instruction for instruction in asked},
        numbers=_numbers,
        hours_ahead=HOURS_AHEAD,
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour of a pool: GPUs free throughout, taken for some of it, out of use for some of it."""

    at: dt.datetime
    free: int
    booked: int
    closed: int
    past: bool
    maintenance: bool


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days across, hours down: `rows[hour][day]`."""

    days: list[dt.date]
    rows: list[list[Cell]]

    def day(self, index: int) -> tuple[int, int, int]:
        """GPU-seconds free, booked and closed in the hours of a day that are not past."""
        cells = [row[index] for row in self.rows if not row[index].past]
        sums = (sum(getattr(cell, kind) for cell in cells) for kind in ("free", "booked", "closed"))
        free, booked, closed = (gpus * 3600 for gpus in sums)
        return free, booked, closed


def _calendar(picture: Picture) -> Calendar:
    """The coming seven days, from midnight today."""
    today = clock.day_of(picture.now)
    first = clock.start_of_day(today)
    hours = picture.by_hour(first, HOURS_AHEAD)
    windows = picture.under_maintenance(first, HOURS_AHEAD)
    cells = [
        Cell(
            first + i * clock.HOUR,
            int(hours.free[i]),
            int(hours.booked[i]),
            int(hours.closed[i]),
            past=first + (i + 1) * clock.HOUR <= picture.now,
            maintenance=windows[i],
        )
        for i in range(HOURS_AHEAD)
    ]
    return Calendar(
        [today + dt.timedelta(days=day) for day in range(DAYS_AHEAD)], [cells[hour::24] for hour in range(24)]
    )


def _by_node(picture: Picture) -> dict[int, list[queries.Use]]:
    found: dict[int, list[queries.Use]] = {}
    for use in picture.uses_now:
        found.setdefault(use.node_id, []).append(use)
    return found


def _numbers(picture: Picture, node_ids: list[int]) -> str:
    """Nodes by their number in the pool, as ranges: '1-8, 12'."""
    wanted = set(node_ids)
    numbers = [number for number, node in enumerate(picture.nodes, 1) if node.id in wanted]
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in ranges)


# -- what a pool is


@blueprint.get("/pools/new")
@allows(Permission.POOL_EDIT)
def new() -> ResponseReturnValue:
    return show("pools/new.html", NewPoolForm())


@blueprint.post("/pools/new")
@allows(Permission.POOL_EDIT)
def add() -> ResponseReturnValue:
    form, by, at = NewPoolForm(), actor(), now()
    if form.validate():
        name, nodes, each = form.name.data or "", form.nodes.data, form.gpus_per_node.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: (
                    service.add_pool(s, name=name, nodes=nodes, gpus_per_node=each, **form.figures, by=by, now=at).id
                ),
                lambda id: url_for("pools.page", pool_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("pool-added", name=name, cards=nodes * each))
            return redirect(address)
    return show("pools/new.html", form)


@blueprint.get("/pools/<int:pool_id>/edit")
@allows(Permission.POOL_EDIT)
def editing(pool_id: int) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    return _editing_page(pool, EditPoolForm(obj=pool, data={"tflops": pool.tflops_fp16_dense}))


def _editing_page(pool: Pool, form: EditPoolForm) -> ResponseReturnValue:
    history = list_history(read(), Pool.LIFE, pool.id)
    return show(
        "pools/edit.html",
        form,
        pool=pool,
        nodes=len(queries.node_ids(read(), pool.id)),
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
    )


@blueprint.post("/pools/<int:pool_id>/edit")
@allows(Permission.POOL_EDIT)
def edit(pool_id: int) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    form, by, at = EditPoolForm(), actor(), now()
    if form.validate():
        more = form.nodes.data or 0
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.edit_pool(s, pool_id, more_nodes=more, **form.figures, by=by, now=at).id,
                lambda id: url_for("pools.page", pool_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("pool-changed", name=pool.name))
            return redirect(address)
    return _editing_page(pool, form)


# -- nodes


@blueprint.get("/nodes/<int:node_id>")
@allows(Permission.POOL_VIEW)
def node(node_id: int) -> ResponseReturnValue:
    return _node_page(node_id, WhyForm())


def _node_page(node_id: int, form: WhyForm) -> ResponseReturnValue:
    node, pool = queries.get_node(read(), node_id)
    intervals_page, intervals = paging.rows_of(read(), queries.intervals_of(node_id))
    instructions = queries.list_instructions(read(), [node_id], unanswered=False)
    history = list_history(read(), Node.LIFE, node_id)
    return show(
        "pools/node.html",
        form,
        node=node,
        pool=pool,
        uses=queries.list_uses(read(), node_id, now()),
        page=intervals_page,
        intervals=intervals,
        instructions=instructions,
        waits=next((asked for asked in instructions if asked.answered_at is None), None),
        history=history,
        names=names_of(read(), [*(asked.by_id for asked in instructions), *(entry.by_id for entry in history)]),
        may_drain=actor().may(Permission.NODE_DRAIN) and Node.LIFE.allows(node.state, NodeState.DRAINING),
        may_resume=actor().may(Permission.NODE_RESUME) and Node.LIFE.allows(node.state, NodeState.UP),
    )


@blueprint.post("/nodes/<int:node_id>/drain")
@allows(Permission.NODE_DRAIN)
def drain(node_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    return _ask(node_id, lambda session, why: service.drain(session, node_id, why=why, by=by, now=at))


@blueprint.post("/nodes/<int:node_id>/resume")
@allows(Permission.NODE_RESUME)
def resume(node_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    return _ask(node_id, lambda session, why: service.resume(session, node_id, why=why, by=by, now=at))


def _ask(node_id: int, verb: Callable[[Session, str], int]) -> ResponseReturnValue:
    """Leave an instruction for the scheduler; the node's page shows it waiting and, later, answered."""
    queries.get_node(read(), node_id)
    form = WhyForm()
    if form.validate():
        why = form.why.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda session: verb(session, why),
                lambda _id: url_for("pools.node", node_id=node_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("asked-the-scheduler"))
            return redirect(address)
    return _node_page(node_id, form)


# -- maintenance


@blueprint.get("/pools/<int:pool_id>/maintenance/plan")
@allows(Permission.MAINTENANCE_PLAN)
def maintenance(pool_id: int) -> ResponseReturnValue:
    return _maintenance_page(pool_id, MaintenanceForm())


def _maintenance_page(pool_id: int, form: MaintenanceForm, clashes: Sequence[booked.Clash] = ()) -> ResponseReturnValue:
    """`clashes` are bookings that the window meets: with them the page asks again, and names them."""
    pool = queries.get_pool(read(), pool_id)
    form.form_key.data = a_form_key()
    return show(
        "pools/maintenance.html", form, pool=pool, nodes=len(queries.node_ids(read(), pool_id)), clashes=clashes
    )


@blueprint.post("/pools/<int:pool_id>/maintenance/plan")
@allows(Permission.MAINTENANCE_PLAN)
def plan_maintenance(pool_id: int) -> ResponseReturnValue:
    queries.get_pool(read(), pool_id)
    form, by, at = MaintenanceForm(), actor(), now()
    if form.validate():
        try:
            node_ids = _nodes_of(pool_id, form)
            starts_at, ends_at, reason = form.starts_at.data, form.ends_at.data, form.reason.data or ""
            over = form.over_bookings.data == "yes"
            clashes = booked.list_clashes(read(), node_ids, starts_at, ends_at) if starts_at < ends_at else []
            if clashes and not over:
                return _maintenance_page(pool_id, form, clashes)
            address = one_time(
                form.form_key.data,
                lambda s: (
                    booked.plan(
                        s,
                        pool_id,
                        node_ids=node_ids,
                        starts_at=starts_at,
                        ends_at=ends_at,
                        reason=reason,
                        over_bookings=over,
                        by=by,
                        now=at,
                    )[0].id
                ),
                lambda _id: url_for("pools.page", pool_id=pool_id, _anchor="maintenance"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("maintenance-planned", n=len(node_ids), start=starts_at, end=ends_at))
            return redirect(address)
    return _maintenance_page(pool_id, form)


def _nodes_of(pool_id: int, form: MaintenanceForm) -> list[int]:
    all_ids = queries.node_ids(read(), pool_id)
    chosen = form.node_ids.data.of(all_ids)
    if chosen is None:
        raise Refusal(Sentence("node-number-too-large", last=len(all_ids)), "node_ids")
    found: list[int] = chosen
    return found


@blueprint.post("/maintenance/<int:window_id>/cancel")
@allows(Permission.MAINTENANCE_CANCEL)
def cancel_maintenance(window_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    pool_id = queries.get_window(read(), window_id).pool_id
    address = one_time(
        http.form.get("form_key"),
        lambda session: service.cancel_maintenance(session, window_id, by=by, now=at),
        lambda _none: url_for("pools.page", pool_id=pool_id, _anchor="maintenance"),
    )
    tell(Sentence("maintenance-cancelled"))
    return redirect(address)


# -- power


@blueprint.get("/pools/<int:pool_id>/power")
@allows(Permission.MAINTENANCE_PLAN)
def power(pool_id: int) -> ResponseReturnValue:
    return _power_page(pool_id, PowerCapForm(data={"pue": portal().policy.audit.pue_permille}))


@dataclass(frozen=True, slots=True)
class Fed:
    """What a cap that is not set yet would leave: cards that it feeds, and the most that are confirmed in its hours."""

    watts: int
    pue_permille: int
    gpus: int
    confirmed: int


def _power_page(pool_id: int, form: PowerCapForm, *, preview: bool = False) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    caps, past = queries.list_power_caps(read(), pool_id, now()), queries.past_power_caps(read(), pool_id, now())
    form.form_key.data = a_form_key()
    return show(
        "pools/power.html",
        form,
        pool=pool,
        capacity=queries.capacity(read(), [pool_id]).get(pool_id, 0),
        caps=caps,
        past=past,
        reasons=queries.reasons_of(read(), caps + past),
        names=names_of(read(), [cap.set_by for cap in caps + past]),
        fed=_fed(pool, form) if preview else None,
        gpus_for=gpus_for,
    )


def _fed(pool: Pool, form: PowerCapForm) -> Fed:
    watts, pue = form.megawatts.data, form.pue.data
    availability = queries.load_availability(read(), pool, now())
    start, end = int(form.starts_at.data.timestamp()), int(form.ends_at.data.timestamp())
    return Fed(watts, pue, gpus_for(watts, pool.watts, pue), availability.peak_fixed(start, end))


@blueprint.post("/pools/<int:pool_id>/power")
@allows(Permission.MAINTENANCE_PLAN)
def cap_power(pool_id: int) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    form, by, at = PowerCapForm(), actor(), now()
    if form.validate():
        watts, pue, starts_at, ends_at = (form[name].data for name in ("megawatts", "pue", "starts_at", "ends_at"))
        try:
            service.check_power_cap(pue, starts_at, ends_at, at)
            if http.form.get("step") == "check":
                return _power_page(pool_id, form, preview=True)
            address = one_time(
                form.form_key.data,
                lambda s: (
                    service.cap_power(
                        s,
                        pool_id,
                        watts=watts,
                        pue_permille=pue,
                        starts_at=starts_at,
                        ends_at=ends_at,
                        reason=form.reason.data,
                        by=by,
                        now=at,
                    ).id
                ),
                lambda _id: url_for("pools.power", pool_id=pool_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            gpus = gpus_for(watts, pool.watts, pue)
            tell(Sentence("power-capped", pool=pool.name, n=gpus, start=starts_at, end=ends_at))
            return redirect(address)
    return _power_page(pool_id, form)


@blueprint.post("/power-caps/<int:cap_id>/lift")
@allows(Permission.MAINTENANCE_CANCEL)
def lift_power_cap(cap_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    pool_id = queries.get_power_cap(read(), cap_id).pool_id
    address = one_time(
        http.form.get("form_key"),
        lambda session: service.lift_power_cap(session, cap_id, by=by, now=at),
        lambda _none: url_for("pools.power", pool_id=pool_id),
    )
    tell(Sentence("power-cap-lifted"))
    return redirect(address)


# -- prices


@tariffs.get("/tariffs", endpoint="index")
@allows(Permission.TARIFF_VIEW)
def list_tariffs() -> ResponseReturnValue:
    pools = queries.list_pools(read())
    books = queries.price_books(read(), [pool.id for pool in pools])
    rows, weights = queries.list_tariffs(read()), queries.list_weights(read())
    contracts = queries.count_discounts(read(), clock.day_of(now()))
    return render_template(
        "pools/tariffs.html",
        pools=pools,
        rows={pool.id: [row for row in rows if row.pool_id == pool.id] for pool in pools},
        weights={pool.id: [row for row in weights if row.pool_id == pool.id] for pool in pools},
        contracts={pool.id: contracts.get(pool.id, 0) for pool in pools},
        prices={id: _prices(book, now()) for id, book in books.items()},
        names=names_of(read(), [row.set_by for row in rows] + [row.set_by for row in weights]),
        today=clock.day_of(now()),
    )


@tariffs.get("/pools/<int:pool_id>/tariff/set", endpoint="new")
@allows(Permission.TARIFF_SET)
def new_tariff(pool_id: int) -> ResponseReturnValue:
    return _tariff_page(pool_id, TariffForm())


def _tariff_page(pool_id: int, form: TariffForm) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    prices = _prices(queries.price_book(read(), pool_id), now())
    return show("pools/tariff.html", form, pool=pool, prices=prices, tomorrow=_tomorrow())


def _tomorrow() -> dt.date:
    return clock.day_of(now()) + dt.timedelta(days=1)


@tariffs.post("/pools/<int:pool_id>/tariff/set", endpoint="set")
@allows(Permission.TARIFF_SET)
def set_tariff(pool_id: int) -> ResponseReturnValue:
    pool = queries.get_pool(read(), pool_id)
    form, by, at = TariffForm(), actor(), now()
    if form.validate():
        from_on, price, until_on, most = form.from_on.data, form.price.data, form.until_on.data, form.gpus_most.data
        try:
            hours = form.hours
            address = one_time(
                form.form_key.data,
                lambda s: (
                    service.set_tariff(
                        s,
                        pool_id,
                        from_on=from_on,
                        price_micro_yuan=price,
                        until_on=until_on,
                        hours=hours,
                        gpus_most=most,
                        by=by,
                        now=at,
                    ).id
                ),
                lambda _id: url_for("tariffs.index", _anchor=f"pool-{pool_id}"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            if hours is None:
                tell(Sentence("tariff-set", pool=pool.name, price=price, day=from_on))
            else:
                first, until = hours
                tell(
                    Sentence(
                        "tariff-off-peak-set",
                        pool=pool.name,
                        price=price,
                        day=from_on,
                        from_hour=first,
                        until_hour=until,
                    )
                )
            return redirect(address)
    return _tariff_page(pool_id, form)


@tariffs.get("/tariffs/<int:tariff_id>/end", endpoint="ending")
@allows(Permission.TARIFF_SET)
def ending(tariff_id: int) -> ResponseReturnValue:
    return _ending_page(tariff_id, EndingForm())


def _ending_page(tariff_id: int, form: EndingForm) -> ResponseReturnValue:
    tariff = queries.get_tariff(read(), tariff_id)
    return show("pools/ending.html", form, tariff=tariff, pool=queries.get_pool(read(), tariff.pool_id))


@tariffs.post("/tariffs/<int:tariff_id>/end", endpoint="end")
@allows(Permission.TARIFF_SET)
def end_tariff(tariff_id: int) -> ResponseReturnValue:
    pool_id = queries.get_tariff(read(), tariff_id).pool_id
    form, by, at = EndingForm(), actor(), now()
    if form.validate():
        until_on = form.until_on.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.end_tariff(s, tariff_id, until_on=until_on, by=by, now=at).id,
                lambda _id: url_for("tariffs.index", _anchor=f"pool-{pool_id}"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("tariff-ended", day=until_on))
            return redirect(address)
    return _ending_page(tariff_id, form)


@tariffs.get("/pools/<int:pool_id>/weight/set", endpoint="new_weight")
@allows(Permission.TARIFF_SET)
def new_weight(pool_id: int) -> ResponseReturnValue:
    return _weight_page(pool_id, PoolWeightForm())


def _weight_page(pool_id: int, form: PoolWeightForm) -> ResponseReturnValue:
    return show("pools/weight.html", form, pool=queries.get_pool(read(), pool_id), tomorrow=_tomorrow())


@tariffs.post("/pools/<int:pool_id>/weight/set", endpoint="set_weight")
@allows(Permission.TARIFF_SET)
def set_weight(pool_id: int) -> ResponseReturnValue:
    queries.get_pool(read(), pool_id)
    form, by, at = PoolWeightForm(), actor(), now()
    if form.validate():
        weight, slice, from_on = form.weight.data, form.slice.data or "", form.from_on.data
        try:
            address = one_time(
                form.form_key.data,
                lambda s: (
                    service.set_pool_weight(
                        s, pool_id, weight_milli=weight, slice=slice, from_on=from_on, by=by, now=at
                    ).id
                ),
                lambda _id: url_for("tariffs.index", _anchor=f"pool-{pool_id}"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("pool-weight-set", day=from_on))
            return redirect(address)
    return _weight_page(pool_id, form)
