"""The calendar of a pool, and windows that fit a wish: from both one goes on to the form that books."""

from __future__ import annotations

import datetime as dt
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from .. import clock, paging
from ..access import Permission
from ..bookings import offers as finding
from ..bookings import queries as bookings
from ..bookings import waiting
from ..bookings.forms import choices_in
from ..bookings.offers import Offers
from ..bookings.queries import Choice
from ..forms import a_form_key, show
from ..guard import _, actor, allows, language, now, one_time, portal, read
from ..language import N_, gettext
from ..language import day as day_text
from ..pools import queries as pools
from ..pools.availability import gpus_for
from ..pools.models import Pool, PowerCap
from ..sentences import Refusal, Sentence
from .forms import WishForm, propose
from .pages import DAY_HOURS, WEEK_DAYS, Choosing, Hourly, Words, free_by_node, monday_of

blueprint = Blueprint("calendar", __name__, template_folder="templates")
VIEWS = ("day", "week", "month")
MONTH_WEEKS = 5


@blueprint.get("/pools/<int:pool_id>/calendar")
@allows(Permission.POOL_VIEW)
def page(pool_id: int) -> ResponseReturnValue:
    pool = pools.get_pool(read(), pool_id)
    choices = _choices(pool)
    choice = _chosen(choices)
    view = asked if (asked := request.args.get("view")) in VIEWS else "week"
    first = _first_day(view)
    start = _start()
    gpus = _gpus(pool, choice)
    days = {"day": 1, "week": WEEK_DAYS, "month": MONTH_WEEKS * WEEK_DAYS}[view]
    begins = clock.start_of_day(first)
    # A start that was chosen on an earlier page is part of the window.
    from_at = min(begins, start) if start else begins
    mine, waiters = bookings.own_ids(read(), actor(), pool_id)
    grid = pools.load_grid(
        read(), pool, now(), first=from_at, bookings=mine, waiters=waiters,
        hours=(begins - from_at) // clock.HOUR + days * DAY_HOURS,
    )  # fmt: skip
    here = {"pool_id": pool_id, "view": view, "first": first.isoformat(), "gpus": gpus}
    if choice is not None:
        here["allocation_id"] = choice.allocation.id
    choosing = None if choice is None else _choosing(choice, gpus, here, start)
    most_fixed = grid.capacity * portal().policy.bookings.fixed_share_percent // 100
    hourly = Hourly(grid, most_fixed, now(), choosing, _words())
    by_node = view == "day" and request.args.get("by") == "nodes"
    return render_template(
        "calendar/page.html",
        pool=pool,
        view=view,
        first=first,
        days=[first + dt.timedelta(days=n) for n in range(days)],
        rows=_rows(hourly, view, first, here),
        capacity=grid.capacity,
        choice=choice,
        choices=choices,
        choosing=choosing,
        gpus=gpus,
        asked=here,
        earlier=_neighbour(first, -days),
        later=_neighbour(first, days),
        today=clock.day_of(now()),
        by_node=by_node,
        nodes=_nodes(hourly, begins) if by_node else None,
        caps=[cap for cap in pools.list_power_caps(read(), pool_id, now()) if _meets(cap, begins, days)],
        fed=lambda cap: gpus_for(cap.watts, pool.watts, cap.pue_permille),
        may_book=actor().may(Permission.BOOKING_SUBMIT),
    )


def _meets(cap: PowerCap, begins: dt.datetime, days: int) -> bool:
    return cap.starts_at < begins + dt.timedelta(days=days) and cap.ends_at > begins


def _words() -> Words:
    comma = _(", ")
    return Words(
        free=gettext(language(), N_("%(day)s %(hour)s, %(free)s free")),
        past=_("past"),
        mine=comma + _("you have a booking"),
        maint=comma + _("maintenance"),
        pick=comma + _("chosen as the start"),
        days=lambda day: day_text(day, language(), year=False, weekday=True),
    )


def _choices(pool: Pool) -> list[Choice]:
    """The allocations with which this person may book in the pool."""
    if not actor().may(Permission.BOOKING_SUBMIT):
        return []
    return [choice for choice in bookings.list_choices(read(), actor(), now()) if choice.pool.id == pool.id]


def _chosen(choices: list[Choice]) -> Choice | None:
    asked = request.args.get("allocation_id", type=int)
    return next((choice for choice in choices if choice.allocation.id == asked), choices[0] if choices else None)


def _gpus(pool: Pool, choice: Choice | None) -> int:
    asked = request.args.get("gpus", type=int)
    if asked is not None and 0 < asked < 1_000_000:
        return asked
    return choice.usual_gpus if choice else pool.gpus_per_node


def _horizon() -> dt.datetime:
    return now() + dt.timedelta(weeks=portal().policy.bookings.fixed_horizon_weeks)


def _first_day(view: str) -> dt.date:
    """The day that the address asks for, within what may be booked; a month begins with a Monday."""
    today, last = clock.day_of(now()), clock.day_of(_horizon())
    try:
        day = dt.date.fromisoformat(request.args.get("first", ""))
    except ValueError:
        day = today
    day = min(max(day, today), last)
    return monday_of(day) if view == "month" else day


def _neighbour(first: dt.date, days: int) -> str | None:
    """The day with which the page before or after begins; None where there is nothing to see."""
    day, today = first + dt.timedelta(days=days), clock.day_of(now())
    if days < 0:
        return max(day, today).isoformat() if first > today else None
    return day.isoformat() if day <= clock.day_of(_horizon()) else None


def _start() -> dt.datetime | None:
    """The start that was chosen, if it is one: on the hour, to come, and not too far."""
    try:
        local = dt.datetime.fromisoformat(request.args.get("starts_at", "")[:16])
        start = local.replace(tzinfo=clock.SHANGHAI).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return start if start == clock.floor_hour(start) and now() < start <= _horizon() else None


def _choosing(choice: Choice, gpus: int, here: dict[str, Any], start: dt.datetime | None) -> Choosing:
    policy, allocation = portal().policy.bookings, choice.allocation
    return Choosing(
        gpus=gpus,
        first_at=max(clock.floor_hour(now()) + clock.HOUR, allocation.starts_at),
        last_at=_horizon(),
        ends_by=allocation.ends_at,
        longest_hours=policy.fixed_longest_days * DAY_HOURS,
        start_link=url_for("calendar.page", **here),
        book_link=url_for("bookings.new", kind="fixed", allocation_id=allocation.id, gpus=gpus),
        start=start,
    )


def _rows(hourly: Hourly, view: str, first: dt.date, here: dict[str, Any]) -> list[Any]:
    if view == "month":
        of_first = url_for("calendar.page", **here | {"view": "day"})
        return hourly.month(
            first, MONTH_WEEKS, lambda day: of_first.replace(f"first={first.isoformat()}", f"first={day.isoformat()}")
        )
    if view == "week":
        return hourly.week(first)
    return hourly.cells(clock.start_of_day(first), DAY_HOURS)


def _nodes(hourly: Hourly, begins: dt.datetime) -> dict[str, Any]:
    """25 nodes and their free cards in each hour of a day."""
    grid = hourly.grid
    page = paging.page_of(len(grid.node_ids))
    rows = slice(page.offset, page.offset + page.size)
    ids = grid.node_ids[rows].tolist()
    names = pools.node_names(read(), ids)
    free = free_by_node(grid, rows, (int(begins.timestamp()) - grid.first) // 3_600, DAY_HOURS)
    return {"page": page, "rows": [(id, names[id], cards) for id, cards in zip(ids, free, strict=True)]}


# -- offers


WISHES = ("allocation_id", "gpus", "longest", "from_on", "until_on", "title")


@blueprint.get("/bookings/offers")
@allows(Permission.BOOKING_SUBMIT)
def offers() -> ResponseReturnValue:
    """Windows that fit what the address says, and where it says nothing, a node for eight hours this week."""
    choices = bookings.list_choices(read(), actor(), now())
    if not choices:
        return redirect(url_for("bookings.new"))  # which says how to get hours
    asked = MultiDict({name: request.args[name] for name in WISHES if request.args.get(name)})
    wanted = asked.get("allocation_id", type=int)
    choice = next((choice for choice in choices if choice.allocation.id == wanted), choices[0])
    form = WishForm(formdata=asked, data=propose(choice, clock.day_of(now())))
    form.allocation_id.data = choice.allocation.id
    return _offers_page(form, choices)


@blueprint.post("/bookings/offers/keep")
@allows(Permission.BOOKING_WAIT)
def keep() -> ResponseReturnValue:
    """Keep one of the offers; whoever comes too late gets the next ones in the answer."""
    choices = bookings.list_choices(read(), actor(), now())
    if not choices:
        raise Refusal(Sentence("allocation-not-active"))
    form = WishForm()
    form.allocation_id.choices = choices_in(language(), choices)
    if not form.validate() or form.starts_at.data is None:
        return _offers_page(form, choices)
    asked = form.request_for(_("%(gpus)s cards for %(hours)s hours", gpus=form.gpus.data, hours=form.longest.typed))
    by, at, policy = actor(), now(), portal().policy.bookings
    try:
        address = one_time(
            form.form_key.data,
            lambda s: waiting.keep(s, asked, by=by, policy=policy, now=at).id,
            lambda waiter_id: url_for("bookings.confirm_take", waiter_id=waiter_id),
        )
    except Refusal as refusal:
        # The fields of a window are not on this page: what is wrong with it stands above the offers.
        form.refuse(Refusal(refusal.sentence, refusal.field if refusal.field in ("gpus", "allocation_id") else None))
        return _offers_page(form, choices)
    return redirect(address)


def _offers_page(form: WishForm, choices: list[Choice]) -> ResponseReturnValue:
    """The wish and what fits it now. A wish that cannot be read, or that a rule refuses, has no offers."""
    form.allocation_id.choices = choices_in(language(), choices)
    choice = next((choice for choice in choices if choice.allocation.id == form.allocation_id.data), choices[0])
    found: Offers | None = None
    policy = portal().policy.bookings
    wish = None
    for field in form:
        field.errors = [*field.errors, *(error for error in field.process_errors if error not in field.errors)]
    readable = not any(field.errors for field in form) and None not in (
        form.gpus.data, form.longest.data, form.from_on.data, form.until_on.data,
    )  # fmt: skip
    if readable:
        try:
            wish = form.wish()
            found = finding.find(read(), choice, wish, policy=policy, now=now())
        except Refusal as refusal:
            form.refuse(refusal)
    form.form_key.data = a_form_key()
    return show("calendar/offers.html", form, choice=choice, wish=wish, offers=found, minutes=policy.offer_minutes)
