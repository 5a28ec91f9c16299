"""Giving up a booking with its price before the click, and the no-shows that count."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from ..access import Permission
from ..bookings import fees, strikes
from ..bookings import queries as booking_queries
from ..bookings.states import NOT_STARTED, BookingState
from ..forms import show
from ..guard import actor, allows, now, one_time, portal, read, tell
from ..paging import page_of
from ..sentences import Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .forms import HandBackForm, WaiveForm
from .models import QuoteKind

blueprint = Blueprint("cancellations", __name__, template_folder="templates")


# -- cancel


@blueprint.get("/bookings/<int:booking_id>/cancel")
@allows(Permission.BOOKING_CANCEL)
def confirm_cancel(booking_id: int) -> ResponseReturnValue:
    whole = booking_queries.get_whole(read(), booking_id, actor())
    booking = whole.booking
    if booking.state not in NOT_STARTED:
        return redirect(url_for("bookings.page", booking_id=booking_id))
    costs = service.costs_something(booking)
    assert not costs or booking.starts_at is not None
    return make_response(
        render_template(
            "cancellations/cancel.html",
            whole=whole,
            booking=booking,
            costs=costs,
            quote=queries.find_quote(read(), booking, QuoteKind.CANCEL, now()) if costs else None,
            terms=fees.cancel_terms(booking.starts_at, portal().policy.bookings) if booking.starts_at else [],
            quote_minutes=portal().policy.bookings.quote_minutes,
        )
    )


@blueprint.post("/bookings/<int:booking_id>/cancel/quote")
@allows(Permission.BOOKING_CANCEL)
def quote_cancel(booking_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.bookings
    return redirect(
        one_time(
            request.form.get("form_key"),
            lambda s: service.quote_cancel(s, booking_id, by=by, policy=policy, now=at).id,
            lambda _id: url_for("cancellations.confirm_cancel", booking_id=booking_id),
        )
    )


@blueprint.post("/bookings/<int:booking_id>/cancel")
@allows(Permission.BOOKING_CANCEL)
def cancel(booking_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.bookings
    quote_id = request.form.get("quote_id", type=int)
    held = booking_queries.get_booking(read(), booking_id, by).held_gpu_seconds

    def work(session: Session) -> int:
        booking = service.cancel(session, booking_id, quote_id=quote_id, by=by, policy=policy, now=at)
        return held - booking.charged_gpu_seconds

    return _acted(booking_id, work, lambda back: Sentence("booking-cancelled", back=back), "confirm_cancel")


def _acted(
    booking_id: int, work: Callable[[Session], int], told: Callable[[int], Sentence], again: str
) -> ResponseReturnValue:
    """One verb, once per button shown. A quote that no longer holds leads back to the page that makes another."""
    done: list[int] = []

    def once(session: Session) -> int:
        done[:] = [work(session)]
        return done[0]

    try:
        address = one_time(
            request.form.get("form_key"), once, lambda _done: url_for("bookings.page", booking_id=booking_id)
        )
    except Refusal as refusal:
        if refusal.sentence.id != "quote-expired":
            raise
        tell(refusal.sentence, "warn")
        return redirect(url_for(f"cancellations.{again}", booking_id=booking_id))
    if done:
        tell(told(done[0]))
    return redirect(address)


# -- hand back


@blueprint.get("/bookings/<int:booking_id>/hand-back")
@allows(Permission.BOOKING_HAND_BACK)
def confirm_hand_back(booking_id: int) -> ResponseReturnValue:
    return _hand_back_page(booking_id, HandBackForm())


def _hand_back_page(booking_id: int, form: HandBackForm) -> ResponseReturnValue:
    whole = booking_queries.get_whole(read(), booking_id, actor())
    if whole.booking.kind != "fixed" or whole.booking.state not in service.HANDS_BACK:
        return redirect(url_for("bookings.page", booking_id=booking_id))
    return show(
        "cancellations/hand_back.html",
        form,
        whole=whole,
        booking=whole.booking,
        quote=None if form.errors else queries.find_quote(read(), whole.booking, QuoteKind.HAND_BACK, now()),
        quote_minutes=portal().policy.bookings.quote_minutes,
        confirmed=whole.booking.state is BookingState.CONFIRMED,
    )


@blueprint.post("/bookings/<int:booking_id>/hand-back/quote")
@allows(Permission.BOOKING_HAND_BACK)
def quote_hand_back(booking_id: int) -> ResponseReturnValue:
    form, by, at, policy = HandBackForm(), actor(), now(), portal().policy.bookings
    if form.validate():
        from_at = form.from_at.data
        try:
            return redirect(
                one_time(
                    form.form_key.data,
                    lambda s: service.quote_hand_back(s, booking_id, from_at=from_at, by=by, policy=policy, now=at).id,
                    lambda _id: url_for("cancellations.confirm_hand_back", booking_id=booking_id),
                )
            )
        except Refusal as refusal:
            form.refuse(refusal)
    return _hand_back_page(booking_id, form)


@blueprint.post("/bookings/<int:booking_id>/hand-back")
@allows(Permission.BOOKING_HAND_BACK)
def hand_back(booking_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.bookings
    quote_id = request.form.get("quote_id", type=int)

    def work(session: Session) -> int:
        booking = service.hand_back(session, booking_id, quote_id=quote_id, by=by, policy=policy, now=at)
        assert booking.ends_at is not None
        return int(booking.ends_at.timestamp())

    def told(end: int) -> Sentence:
        return Sentence("booking-handed-back", at=dt.datetime.fromtimestamp(end, dt.UTC))

    return _acted(booking_id, work, told, "confirm_hand_back")


# -- no-shows


@blueprint.get("/strikes")
@allows(Permission.STRIKE_VIEW)
def index() -> ResponseReturnValue:
    return _strikes_page(WaiveForm())


def _strikes_page(form: WaiveForm, refused_id: int | None = None) -> ResponseReturnValue:
    by, policy = actor(), portal().policy.bookings
    page = page_of(queries.count_strikes(read(), by))
    found = queries.list_strikes(read(), by, page.size, page.offset)
    return show(
        "cancellations/strikes.html",
        form,
        page=page,
        rows=found,
        refused_id=refused_id,
        policy=policy,
        sample=fees.no_show_sample(policy),
        names=names_of(read(), [row.strike.waived_by for row in found]),
        may_waive=by.may(Permission.STRIKE_WAIVE),
        paused_until=(
            None if by.enterprise_id is None else strikes.paused_until(read(), by.enterprise_id, policy, now())
        ),
    )


@blueprint.post("/strikes/<int:strike_id>/waive")
@allows(Permission.STRIKE_WAIVE)
def waive(strike_id: int) -> ResponseReturnValue:
    form, by, at = WaiveForm(), actor(), now()
    queries.get_strike(read(), strike_id, by)
    if form.validate():
        reason = form.reason.data or ""
        address = one_time(
            form.form_key.data,
            lambda s: strikes.waive(s, strike_id, reason=reason, by=by, now=at).id,
            lambda _id: url_for("cancellations.index"),
        )
        tell(Sentence("strike-waived"))
        return redirect(address)
    return _strikes_page(form, strike_id)
