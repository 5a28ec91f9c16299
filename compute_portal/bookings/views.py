"""Bookings: the list, the form with the price before the click, one booking's page and its buttons."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from .. import clock, units
from ..access import Permission
from ..desk import impact
from ..enterprises.states import SizeClass
from ..forms import a_form_key, show
from ..guard import actor, allows, language, now, one_time, portal, read, signed_in, tell
from ..language import N_, gettext, typed
from ..lifecycle import list_history
from ..paging import page_of
from ..pools import queries as pool_queries
from ..pools.availability import gpus_for
from ..sentences import Refusal, Sentence
from ..signin import queries as people
from . import extending, fees, offers, queries, service, waiting
from . import queue as queues
from .forms import (
    FORMS,
    PROPOSED_SECONDS,
    BookingForm,
    DeclineForm,
    ExtendForm,
    FixedForm,
    SizeForm,
    TakeForm,
    choices_in,
    propose,
)
from .models import Booking
from .queries import Choice, Which
from .service import BookingRequest, Quote
from .states import NOT_STARTED, ON_THE_CLUSTER, BookingKind, BookingState, WaiterState

blueprint = Blueprint("bookings", __name__, template_folder="templates")
PROPOSED_MORE = clock.HOUR
CAPS_WITHIN = dt.timedelta(days=1)  # caps of power that begin so soon matter to who waits
OTHERS_WITHIN = dt.timedelta(days=14)  # of a window that is full, others are offered that begin so soon after it
# What a link to the form may bring along.
IN_ADDRESS = ("allocation_id", "gpus", "starts_at", "ends_at", "longest", "not_before_at", "title")


# -- the list


@blueprint.get("/bookings")
@allows(Permission.BOOKING_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    which = Which(_number("enterprise_id"), _number("allocation_id"))
    counts = queries.count_by_tab(read(), by, which)
    asked = request.args.get("tab")
    tab = asked if asked in counts else next((tab for tab, number in counts.items() if number), "current")
    most = queries.MOST_LISTED if by.is_bureau and which == Which() else None
    page = page_of(counts[tab] if most is None else min(counts[tab], most))
    rows = (
        queries.list_bookings(read(), by, states=queries.TABS[tab], which=which, page=page.number)
        if counts[tab]
        else []
    )
    return render_template(
        "bookings/index.html",
        counts=counts,
        most=most,
        which=which,
        kept={name: value for name, value in asdict(which).items() if value is not None},
        tab=tab,
        page=page,
        rows=rows,
        told=lambda reason, enterprise_id: queues.told(reason, enterprise_id, by),
        next_step=_next_step() if not rows and which == Which() and by.may(Permission.BOOKING_SUBMIT) else None,
    )


def _number(name: str) -> int | None:
    """A filter in the address; nonsense finds nothing rather than everything."""
    asked = request.args.get(name)
    if asked is None:
        return None
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0


def _next_step() -> dict[str, Any] | None:
    """For an empty list: the hours there are and the next window with a usual number of free cards."""
    choices = queries.list_choices(read(), actor(), now())
    if not choices:
        return None
    choice = choices[0]
    first = int(clock.floor_hour(now() + clock.HOUR).timestamp())
    weeks = portal().policy.bookings.fixed_horizon_weeks
    start = pool_queries.load_availability(read(), choice.pool, now()).earliest(
        choice.usual_gpus, PROPOSED_SECONDS, first, first + weeks * 7 * 86_400, step=units.SECONDS_PER_HOUR
    )
    return {"choice": choice, "start": start and dt.datetime.fromtimestamp(start, dt.UTC)}


# -- booking


@blueprint.get("/bookings/new")
@allows(Permission.BOOKING_SUBMIT)
def new() -> ResponseReturnValue:
    choices = queries.list_choices(read(), actor(), now())
    if not choices:
        return render_template(
            "bookings/no_allocation.html",
            request_address=_address("allocations.new"),
            list_address=_address("allocations.index"),
        )
    form = _form(request.args.get("kind"), choices, _proposed(choices))
    if not form.is_readable():
        return _form_page(form, choices)
    asked = form.to_request()
    try:
        return _form_page(form, choices, asked, _quote(asked))
    except Refusal as refusal:
        return _form_page(form, choices, asked, instead=refusal.sentence)


@blueprint.post("/bookings/new")
@allows(Permission.BOOKING_SUBMIT)
def submit() -> ResponseReturnValue:
    choices = queries.list_choices(read(), actor(), now())
    if not choices:
        raise Refusal(Sentence("allocation-not-active"))
    form = _form(request.form.get("kind"), choices)
    if not form.validate():
        return _form_page(form, choices)
    asked = form.to_request()
    agreed = form.agreed(asked)
    try:
        if request.form.get("step") != "check" and agreed is not None:
            return redirect(_book(form, asked, agreed))
        quote = _quote(asked)
    except Refusal as refusal:
        form.refuse(refusal)
        # Somebody who agreed to another price wants to see the new one beside the sentence.
        return _form_page(form, choices, asked, _quote(asked) if refusal.sentence.id == "price-changed" else None)
    form.form_key.data = a_form_key()
    return _form_page(form, choices, asked, quote, not_booked_yet=request.form.get("step") != "check")


def _proposed(choices: list[Choice]) -> dict[str, Any]:
    return propose(
        choices,
        now(),
        allocation_id=request.args.get("allocation_id", type=int),
        gpus=request.args.get("gpus", type=int),
    )


def _form(kind: str | None, choices: list[Choice], proposed: dict[str, Any] | None = None) -> BookingForm:
    """The form of this kind. An empty one begins with what is proposed, and what the address says wins."""
    known = BookingKind.FLEXIBLE if kind == BookingKind.FLEXIBLE else BookingKind.FIXED
    asked = MultiDict({name: request.args[name] for name in IN_ADDRESS if name in request.args})
    form = FORMS[known](formdata=asked, data=proposed) if proposed else FORMS[known]()
    form.kind.data = known.value
    form.allocation_id.choices = choices_in(language(), choices)
    if proposed and form.allocation_id.data not in [choice.allocation.id for choice in choices]:
        form.allocation_id.data = proposed["allocation_id"]
    if proposed and isinstance(form, FixedForm) and "ends_at" not in asked and form.starts_at.data:
        form.ends_at.data = form.starts_at.data + dt.timedelta(seconds=proposed["longest"])
    return form


def _quote(asked: BookingRequest) -> Quote:
    return service.quote(read(), asked, by=actor(), policy=portal().policy.bookings, now=now())


def _book(form: BookingForm, asked: BookingRequest, agreed: int) -> str:
    by, at, policy = actor(), now(), portal().policy.bookings
    return one_time(
        form.form_key.data,
        lambda s: service.submit(s, asked, by=by, policy=policy, now=at, agreed_micro_yuan=agreed).id,
        lambda booking_id: url_for("bookings.page", booking_id=booking_id),
    )


def _form_page(
    form: BookingForm,
    choices: list[Choice],
    asked: BookingRequest | None = None,
    quote: Quote | None = None,
    *,
    instead: Sentence | None = None,
    not_booked_yet: bool = False,
) -> ResponseReturnValue:
    """The form with the promise beside it: the quote, or why there is none."""
    if asked is not None and quote is not None:
        form.keep_quoted(asked, quote.highest_micro_yuan)
    chosen = next((choice for choice in choices if choice.allocation.id == form.allocation_id.data), choices[0])
    full = asked is not None and _is_full(form, instead)
    return show(
        "bookings/new.html",
        form,
        chosen=chosen,
        terms=_terms(asked),
        wait=full,
        expected=_expected(chosen, asked) if quote is not None else None,
        # Whoever was too late is told what is left at once; a page that is only opened leads there by a link.
        others=_others(asked, chosen) if full and asked is not None and request.method == "POST" else [],
        calendar_address=_address("calendar.page", pool_id=chosen.pool.id, allocation_id=chosen.allocation.id),
        **_helper(form, chosen),
        offers_address=_address("calendar.offers", **_wish_of(asked, chosen)),
        asked=asked,
        quote=quote,
        instead=instead,
        not_booked_yet=not_booked_yet,
        policy=portal().policy.bookings,
    )


def _expected(chosen: Choice, asked: BookingRequest | None) -> queues.Range | None:
    """When a flexible booking would probably start; one that shall start later is not asked about."""
    if asked is None or asked.kind is not BookingKind.FLEXIBLE or (asked.not_before_at or now()) > now():
        return None
    _pool, picture = queues.get_queue(read(), chosen.pool.id)
    return queues.expected(picture, asked.gpus, asked.seconds)


def _helper(form: BookingForm, choice: Choice) -> dict[str, Any]:
    """The size helper beside the form: how long a run takes on so many cards, and the form filled in with that time."""
    sizes = SizeForm(formdata=request.args if "parameters" in request.args else None, meta={"csrf": False})
    gpus = form.gpus.data or choice.usual_gpus
    size = sizes.size(tflops=choice.pool.tflops_fp16_dense, cards=gpus)
    keep = {"kind": form.kind.data, "allocation_id": choice.allocation.id, "gpus": gpus, "title": form.title.data or ""}
    start = form.starts_at.data if isinstance(form, FixedForm) else None
    if start is not None:
        keep["starts_at"] = typed(start)
    taken = dict(keep)
    seconds = 0
    if size is not None:
        seconds = -(-size.gpu_seconds // gpus)
        hours = -(-seconds // units.SECONDS_PER_HOUR)
        taken |= {"longest": hours} if start is None else {"ends_at": typed(start + hours * clock.HOUR)}
    return {"sizes": sizes, "size": size, "size_seconds": seconds, "size_keeps": keep, "size_taken": taken}


def _others(asked: BookingRequest, choice: Choice) -> list[offers.Offer]:
    """The same cards for as long, at other times; none for a wish that a rule refuses whatever the window."""
    if asked.starts_at is None or asked.seconds % units.SECONDS_PER_HOUR:
        return []
    hours = asked.seconds // units.SECONDS_PER_HOUR
    last = asked.starts_at + OTHERS_WITHIN + hours * clock.HOUR
    wish = offers.Wish(asked.gpus, hours, asked.starts_at, last)
    try:
        return offers.find(read(), choice, wish, policy=portal().policy.bookings, now=now()).all
    except Refusal:
        return []


def _wish_of(asked: BookingRequest | None, choice: Choice) -> dict[str, Any]:
    """What the page that looks for windows begins with: as on this form."""
    wish: dict[str, Any] = {"allocation_id": choice.allocation.id}
    if asked is not None and asked.starts_at is not None:
        first = max(clock.day_of(asked.starts_at), clock.day_of(now()))
        wish |= {"gpus": asked.gpus, "longest": -(-asked.seconds // units.SECONDS_PER_HOUR), "title": asked.title}
        wish |= {"from_on": first.isoformat(), "until_on": (first + OTHERS_WITHIN).isoformat()}
    return wish


def _is_full(form: BookingForm, instead: Sentence | None) -> bool:
    """Whether the window has no room, so that waiting for it may help."""
    told = [instead, *(error for _field, error in form.problems)]
    return any(isinstance(each, Sentence) and each.id in waiting.FULL for each in told)


def _terms(asked: BookingRequest | None) -> list[fees.Term]:
    """What cancelling would cost from now on, in the order of time; nothing for a booking without a window."""
    if asked is None or asked.starts_at is None:
        return []
    return [term for term in fees.cancel_terms(asked.starts_at, portal().policy.bookings) if term.until_at > now()]


# -- the queue of a pool

COMPANIES: dict[SizeClass, str] = {
    SizeClass.MICRO: N_("A micro company"),
    SizeClass.SMALL: N_("A small company"),
    SizeClass.MEDIUM: N_("A medium company"),
    SizeClass.LARGE: N_("A large company"),
}


@blueprint.get("/pools/<int:pool_id>/queue")
@allows(Permission.POOL_VIEW)
def queue(pool_id: int) -> ResponseReturnValue:
    by = actor()
    pool, picture = queues.get_queue(read(), pool_id)
    length = queues.length(read(), pool_id, by)
    page = page_of(length.waiting)
    month = queues.month(read(), pool_id, clock.day_of(now()))
    return render_template(
        "bookings/queue.html",
        pool=pool,
        picture=picture,
        order=queues.order(portal().policy.queue),
        length=length,
        caps=[
            cap for cap in pool_queries.list_power_caps(read(), pool_id, now()) if cap.starts_at <= now() + CAPS_WITHIN
        ],
        fed=lambda cap: gpus_for(cap.watts, pool.watts, cap.pue_permille),
        page=page,
        rows=queues.list_waiting(read(), pool_id, by, offset=page.offset, limit=page.size) if length.waiting else [],
        companies=COMPANIES,
        month=month,
        worst=queues.find_enterprise(read(), month.worst_enterprise_id),
        overloaded=by.may(Permission.QUEUE_VIEW) and queues.is_overloaded(picture, now()),
    )


# -- one booking


@blueprint.get("/bookings/<int:booking_id>")
@allows(Permission.BOOKING_VIEW)
def page(booking_id: int) -> ResponseReturnValue:
    return _page(booking_id, DeclineForm())


def _page(booking_id: int, form: DeclineForm) -> ResponseReturnValue:
    by = actor()
    whole = queries.get_whole(read(), booking_id, by)
    booking = whole.booking
    history = list_history(read(), Booking.LIFE, booking_id)
    policy = portal().policy.bookings
    mine = by.may(Permission.KEY_VIEW) and booking.state in NOT_STARTED | ON_THE_CLUSTER
    flexible, asked = booking.kind is BookingKind.FLEXIBLE, booking.state is BookingState.SUBMITTED
    expected = queues.expected(whole.picture, booking.gpus, booking.longest_seconds) if flexible and asked else None
    decides = asked and by.may(Permission.BOOKING_APPROVE)
    return show(
        "bookings/page.html",
        form,
        impact=impact.of_booking(read(), booking, now()) if decides else None,
        behind=impact.behind(read(), booking, expected) if decides else None,
        whole=whole,
        booking=booking,
        price=queries.highest_price(read(), whole),
        attempts=queries.list_attempts(read(), booking_id) if booking.tries else [],
        places=queries.places,
        history=history,
        picture=whole.picture,
        expected=expected,
        why=None if whole.standing is None else queues.told(whole.standing.reason, booking.enterprise_id, by),
        change=queues.find_change(whole.standing, booking, by),
        moves=queues.moves(read(), booking_id) if whole.standing is not None else [],
        names=people.names_of(read(), [booking.submitted_by, *(entry.by_id for entry in history)]),
        stop=queries.find_stop(read(), booking_id) if booking.state in ON_THE_CLUSTER else None,
        keys=people.list_keys(read(), signed_in().user_id) if mine else [],
        allocation_address=_address("allocations.page", allocation_id=booking.allocation_id),
        records_address=_address("usage.records", booking_id=booking_id),
        not_started=booking.state in NOT_STARTED,
        on_the_cluster=booking.state in ON_THE_CLUSTER,
        decide_before=_decide_before(booking),
        terms=[term for term in fees.cancel_terms(booking.starts_at, policy) if term.until_at > now()]
        if booking.starts_at
        else [],
        claim_until=_claim_until(booking),
        # What was handed back is charged already and belongs to others: it does not go on from there.
        extends_from=None
        if any(entry.verb == "hand_back" for entry in history)
        else extending.opens_at(booking, policy),
        lost=extending.lost_seconds(read(), booking, policy) if booking.state is BookingState.RUNNING else 0,
        cancel_address=_address("cancellations.confirm_cancel", booking_id=booking_id),
        hand_back_address=_address("cancellations.confirm_hand_back", booking_id=booking_id),
        decide_days=portal().policy.bookings.undecided_lapses_working_days,
        price_of=units.amount_micro_yuan,
        may=lambda verb: by.may(Permission(f"booking:{verb}")),
    )


def _claim_until(booking: Booking) -> dt.datetime | None:
    """By when somebody must start to use a fixed booking that runs."""
    if booking.kind is not BookingKind.FIXED or booking.started_at is None or booking.claimed_at is not None:
        return None
    return booking.started_at + dt.timedelta(minutes=portal().policy.bookings.claim_minutes)


def _decide_before(booking: Booking) -> dt.datetime | None:
    """A fixed booking that nobody approved by then lapses."""
    if booking.starts_at is None:
        return None
    return booking.starts_at - portal().policy.bookings.undecided_lapses_hours_before * clock.HOUR


@blueprint.post("/bookings/<int:booking_id>/approve")
@allows(Permission.BOOKING_APPROVE)
def approve(booking_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    return _acted(
        booking_id,
        lambda s: service.approve(s, booking_id, by=by, now=at),
        N_("The booking is approved; the company sees it at once."),
    )


@blueprint.post("/bookings/<int:booking_id>/decline")
@allows(Permission.BOOKING_DECLINE)
def decline(booking_id: int) -> ResponseReturnValue:
    form, by, at = DeclineForm(), actor(), now()
    if not form.validate():
        return _page(booking_id, form)
    reason = form.reason.data or ""
    return _acted(
        booking_id,
        lambda s: service.decline(s, booking_id, reason=reason, by=by, now=at),
        N_("The booking is declined; its hours and cards are free again."),
    )


@blueprint.get("/bookings/<int:booking_id>/stop")
@allows(Permission.BOOKING_STOP)
def confirm_stop(booking_id: int) -> ResponseReturnValue:
    if instead := _hands_back_instead(booking_id):
        return redirect(instead)
    return _confirm(booking_id, "bookings/stop.html", ON_THE_CLUSTER - {BookingState.STOPPING})


@blueprint.post("/bookings/<int:booking_id>/stop")
@allows(Permission.BOOKING_STOP)
def stop(booking_id: int) -> ResponseReturnValue:
    if instead := _hands_back_instead(booking_id):
        return redirect(instead)
    by, at = actor(), now()
    return _acted(
        booking_id,
        lambda s: service.stop(s, booking_id, by=by, now=at),
        N_("The scheduler is asked to stop it and does so within seconds."),
    )


def _hands_back_instead(booking_id: int) -> str | None:
    """A fixed booking that runs is charged for its whole window: who ends it early hands the rest back."""
    booking = queries.get_booking(read(), booking_id, actor())
    if booking.kind is not BookingKind.FIXED or booking.state is not BookingState.RUNNING:
        return None
    return _address("cancellations.confirm_hand_back", booking_id=booking_id)


@blueprint.post("/bookings/<int:booking_id>/claim")
@allows(Permission.BOOKING_CLAIM)
def claim(booking_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    return _acted(
        booking_id, lambda s: service.claim(s, booking_id, by=by, now=at), N_("Noted: you have started using it.")
    )


# -- more time


@blueprint.get("/bookings/<int:booking_id>/extend")
@allows(Permission.BOOKING_EXTEND)
def confirm_extend(booking_id: int) -> ResponseReturnValue:
    return _extend_page(booking_id, ExtendForm())


@blueprint.post("/bookings/<int:booking_id>/extend")
@allows(Permission.BOOKING_EXTEND)
def extend(booking_id: int) -> ResponseReturnValue:
    form, by, at, policy = ExtendForm(), actor(), now(), portal().policy.bookings
    if not form.validate():
        return _extend_page(booking_id, form, shown=False)
    end, agreed = form.ends_at.data, form.agreed_to()
    if request.form.get("step") == "check" or agreed is None:
        return _extend_page(booking_id, form)
    try:
        address = one_time(
            form.form_key.data,
            lambda s: (
                extending.extend(s, booking_id, end, by=by, policy=policy, now=at, agreed_micro_yuan=agreed).booking_id
            ),
            lambda id: url_for("bookings.page", booking_id=id),
        )
    except Refusal as refusal:
        form.refuse(refusal)
        return _extend_page(booking_id, form, shown=refusal.sentence.id == "price-changed")
    tell(Sentence("booking-extended", at=end))
    return redirect(address)


def _extend_page(booking_id: int, form: ExtendForm, *, shown: bool = True) -> ResponseReturnValue:
    """The new end with its price beside it, or why there is none."""
    whole = queries.get_whole(read(), booking_id, actor())
    policy = portal().policy.bookings
    if extending.opens_at(whole.booking, policy) is None:
        return redirect(url_for("bookings.page", booking_id=booking_id))
    ends_at = whole.booking.ends_at
    if request.method == "GET" and ends_at is not None:
        form.ends_at.data = clock.ceil_hour(ends_at) + PROPOSED_MORE
    longer = None
    if shown and form.ends_at.data is not None and not form.ends_at.errors:
        try:
            longer = extending.quote_extension(
                read(), booking_id, form.ends_at.data, by=actor(), policy=policy, now=now()
            )
            form.keep_agreed(longer.ends_at, longer.amount_micro_yuan)
        except Refusal as refusal:
            form.refuse(refusal)
    form.form_key.data = a_form_key()
    return show("bookings/extend.html", form, whole=whole, booking=whole.booking, longer=longer, policy=policy)


@blueprint.post("/bookings/<int:booking_id>/make-up")
@allows(Permission.BOOKING_EXTEND)
def make_up(booking_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.bookings
    return _acted(
        booking_id,
        lambda s: extending.make_up(s, booking_id, by=by, policy=policy, now=at).id,
        N_("The lost time is added at the end, free of charge."),
    )


# -- the wait-list


@blueprint.get("/bookings/wait-list")
@allows(Permission.BOOKING_VIEW)
def wait_list() -> ResponseReturnValue:
    return show("bookings/wait_list.html", rows=queries.list_waiters(read(), actor(), now()))


@blueprint.post("/bookings/wait-list/join")
@allows(Permission.BOOKING_WAIT)
def join_wait_list() -> ResponseReturnValue:
    choices = queries.list_choices(read(), actor(), now())
    if not choices:
        raise Refusal(Sentence("allocation-not-active"))
    form = _form(BookingKind.FIXED, choices)
    if not form.validate():
        return _form_page(form, choices)
    asked, by, at, policy = form.to_request(), actor(), now(), portal().policy.bookings
    try:
        address = one_time(
            form.form_key.data,
            lambda s: waiting.join(s, asked, by=by, policy=policy, now=at).id,
            lambda _id: url_for("bookings.wait_list"),
        )
    except Refusal as refusal:
        form.refuse(refusal)
        form.form_key.data = a_form_key()
        return _form_page(form, choices, asked, None)
    tell(Sentence("waiter-joined"))
    return redirect(address)


@blueprint.post("/bookings/wait-list/<int:waiter_id>/leave")
@allows(Permission.BOOKING_WAIT)
def leave_wait_list(waiter_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.bookings
    address = one_time(
        request.form.get("form_key"),
        lambda s: waiting.leave(s, waiter_id, by=by, policy=policy, now=at).id,
        lambda _id: url_for("bookings.wait_list"),
    )
    tell(Sentence("waiter-left"))
    return redirect(address)


@blueprint.get("/bookings/wait-list/<int:waiter_id>/take")
@allows(Permission.BOOKING_SUBMIT)
def confirm_take(waiter_id: int) -> ResponseReturnValue:
    return _take_page(waiter_id, TakeForm())


@blueprint.post("/bookings/wait-list/<int:waiter_id>/take")
@allows(Permission.BOOKING_SUBMIT)
def take(waiter_id: int) -> ResponseReturnValue:
    form, by, at, policy = TakeForm(), actor(), now(), portal().policy.bookings
    form.validate()
    agreed = form.agreed_to()
    if agreed is None:
        return _take_page(waiter_id, form)
    try:
        address = one_time(
            form.form_key.data,
            lambda s: waiting.take(s, waiter_id, by=by, policy=policy, now=at, agreed_micro_yuan=agreed).id,
            lambda id: url_for("bookings.page", booking_id=id),
        )
    except Refusal as refusal:
        form.refuse(Refusal(refusal.sentence))
        return _take_page(waiter_id, form)
    return redirect(address)


def _take_page(waiter_id: int, form: TakeForm) -> ResponseReturnValue:
    """The window that is kept, with its price."""
    waiter = queries.get_waiter(read(), waiter_id, actor())
    if waiter.state is not WaiterState.OFFERED:
        return redirect(url_for("bookings.wait_list"))
    price = waiting.price_of(read(), waiter)
    form.agreed.data = str(price)
    form.form_key.data = a_form_key()
    return show("bookings/take.html", form, waiter=waiter, price=price)


def _confirm(booking_id: int, template: str, states: frozenset[BookingState]) -> ResponseReturnValue:
    """What it costs and what comes back; a booking that is past this step shows its own page instead."""
    whole = queries.get_whole(read(), booking_id, actor())
    if whole.booking.state not in states:
        return redirect(url_for("bookings.page", booking_id=booking_id))
    price = queries.highest_price(read(), whole)
    return make_response(
        render_template(template, whole=whole, booking=whole.booking, price=price, price_of=units.amount_micro_yuan)
    )


def _acted(booking_id: int, work: Callable[[Session], object], told: str) -> ResponseReturnValue:
    """One verb, once per button shown, and back to the booking with a word on what happened."""
    address = one_time(
        request.form.get("form_key"), work, lambda _done: url_for("bookings.page", booking_id=booking_id)
    )
    tell(gettext(language(), told))
    return redirect(address)


def _address(endpoint: str, **values: Any) -> str | None:
    """A page of another feature, if it is there."""
    return url_for(endpoint, **values) if endpoint in current_app.view_functions else None
