"""Giving up a booking in the browser: the price first, a promise that ends, and what stands on the page afterwards."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM
from compute_portal.bookings import service as bookings
from compute_portal.bookings import strikes, waiting
from compute_portal.bookings.models import Booking, Waiter
from compute_portal.bookings.states import BookingState, WaiterState
from compute_portal.cancellations.models import CancellationQuote
from compute_portal.lifecycle import move_to
from compute_portal.policy import Policy
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words

MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy, contact="0592-5550188")
    set_now(app, NOW)
    return app


@pytest.fixture
def chen(app: Flask, cast: Cast) -> FlaskClient:
    return sign_in(app, cast.users["chen"], language="en")


def booking(cast: Cast, id: int) -> Booking:
    with cast.database.read_only() as session:
        return session.get_one(Booking, id)


def quote(client: FlaskClient, id: int, what: str, **data: str) -> tuple[str, dict[str, str]]:
    """Ask for the price; the page that shows it and what its button sends."""
    answer = post(client, f"/bookings/{id}/{what}/quote", data, page=f"/bookings/{id}/{what}")
    assert answer.status_code == 302, words(answer)
    page = client.get(f"/bookings/{id}/{what}")
    found = re.search(r'name="quote_id" value="(\d+)"', page.text)
    assert found is not None, words(page)
    return words(page), {"quote_id": found[1]}


def test_the_price_of_cancelling_is_shown_kept_ten_minutes_and_charged(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    id = cast.submit(cast.fixed(gpus=8, start_in=30, hours=10), policy.bookings)
    page = words(chen.get(f"/bookings/{id}"))
    assert "What cancelling costs until" in page and "25% of the window" in page
    asked = words(chen.get(f"/bookings/{id}/cancel"))
    assert "free of charge" in asked and "50% of the window" in asked and "kept for 10 minutes" in asked
    shown, sent = quote(chen, id, "cancel")
    assert "Charge 20 GPU-hours 25% of the window, ¥330.00 before tax Comes back now 60 GPU-hours" in shown
    assert "Quote kept until today 10:10" in shown
    set_now(app, NOW + 10 * MINUTE)
    late = post(chen, f"/bookings/{id}/cancel", sent)
    assert late.location == f"/bookings/{id}/cancel"
    page = words(chen.get(late.location))
    assert "This quote no longer holds." in page and "See what it costs now" in page
    assert booking(cast, id).state is BookingState.CONFIRMED
    _shown, sent = quote(chen, id, "cancel")
    done = post(chen, f"/bookings/{id}/cancel", sent)
    page = words(chen.get(done.location))
    assert "The booking is cancelled; 60 GPU-hours are back." in page and "Charged 20 GPU-hours" in page
    assert booking(cast, id).charged_gpu_seconds == 20 * 3600


def test_the_rest_is_handed_back_from_a_time_on(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    id = cast.submit(cast.fixed(gpus=8, start_in=30, hours=10), policy.bookings)  # Thursday 16:00
    assert f'href="/bookings/{id}/extend"' in chen.get(f"/bookings/{id}").text
    refused = post(chen, f"/bookings/{id}/hand-back/quote", {"from_at": ""}, page=f"/bookings/{id}/hand-back")
    assert refused.status_code == 422 and "hand back from a later time on" in words(refused)
    shown, sent = quote(chen, id, "hand-back", from_at="2026-11-19 20:00")
    assert "Charge for it 48 GPU-hours at most ¥792.00 before tax" in shown
    done = post(chen, f"/bookings/{id}/hand-back", sent)
    shown_then = chen.get(done.location)
    page = words(shown_then)
    assert f"/bookings/{id}/extend" not in shown_then.text and "Extending" not in page
    assert "The rest is handed back from Thu 19 Nov 20:00 on" in page, page
    assert booking(cast, id).ends_at == NOW + 34 * HOUR


def test_extending_shows_its_price_and_refuses_at_the_field(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    id = cast.submit(cast.fixed(gpus=8, start_in=50, hours=10), policy.bookings)
    early = chen.get(f"/bookings/{id}/extend")
    assert early.status_code == 200 and "last 48 hours before its end" in words(early)
    set_now(app, NOW + 13 * HOUR)
    chen = sign_in(app, cast.users["chen"], language="en")
    shown = chen.get(f"/bookings/{id}/extend")
    assert "More hours 8 GPU-hours Price ¥132.00 before tax, fixed now" in words(shown)
    agreed = re.search(r'name="agreed" type="hidden" value="([^"]+)"', shown.text)
    assert agreed is not None
    end = "2026-11-20 23:00"
    data = {"ends_at": end, "agreed": agreed[1], "step": "extend"}
    asked = post(chen, f"/bookings/{id}/extend", data | {"ends_at": "2026-11-20 23:30"})
    assert asked.status_code == 422 and "hour" in words(asked)
    done = post(chen, f"/bookings/{id}/extend", data)
    assert "The booking now ends at" in words(chen.get(done.location))
    assert booking(cast, id).ends_at == NOW + 61 * HOUR


def test_who_finds_a_window_full_waits_for_it_sees_the_place_and_books_what_is_kept(
    chen: FlaskClient, app: Flask, cast: Cast, policy: Policy
) -> None:
    asked = cast.fixed(16, 50, 4, allocation_id=cast.other_allocation)
    taken = cast.submit(asked, policy.bookings, by=cast.stranger)
    form = {
        "kind": "fixed", "allocation_id": str(cast.allocation), "gpus": "8", "title": "候补",
        "starts_at": "2026-11-20 12:00", "ends_at": "2026-11-20 14:00",
    }  # fmt: skip
    full = post(chen, "/bookings/new", form | {"step": "check"})
    assert full.status_code == 422 and "Wait for this window" in words(full)
    joined = post(chen, "/bookings/wait-list/join", form, page="/bookings/new")
    assert joined.location == "/bookings/wait-list"
    page = words(chen.get("/bookings/wait-list"))
    assert "One window is waited for" in page and "Waits 1" in page
    again = post(chen, "/bookings/wait-list/join", form, page="/bookings/new")
    assert again.status_code == 422 and "already waits for this window" in words(again)

    def free(session: Session) -> None:
        bookings.cancel(session, taken, by=SYSTEM, now=NOW)
        waiting.cascade(session, cast.pool, policy=policy.bookings, now=NOW)

    cast.database.transaction(free)
    page = chen.get("/bookings/wait-list")
    assert "kept until today 11:00" in words(page)
    mei = sign_in(app, cast.users["mei"], language="en")
    assert mei.get("/bookings/wait-list/1/take").status_code == 404
    assert post(mei, "/bookings/wait-list/1/leave", page="/account").status_code == 404
    shown = chen.get("/bookings/wait-list/1/take")
    assert "Price ¥264.00" in words(shown)
    agreed = re.search(r'name="agreed" type="hidden" value="(\d+)"', shown.text)
    assert agreed is not None
    done = post(chen, "/bookings/wait-list/1/take", {"agreed": agreed[1]})
    assert done.status_code == 302
    with cast.database.read_only() as session:
        assert session.get_one(Waiter, 1).state is WaiterState.BOOKED
    assert chen.get("/bookings/wait-list/1/take").location == "/bookings/wait-list"


def strike(cast: Cast, policy: Policy) -> int:
    """A no-show as the timetable leaves it."""
    id = cast.submit(cast.fixed(gpus=1, start_in=1, hours=2), policy.bookings)
    walk.start(cast, id, at=NOW + HOUR)

    def work(session: Session) -> int:
        booking = session.get_one(Booking, id)
        move_to(session, booking, BookingState.NO_SHOW, verb="no_show", at=NOW + 2 * HOUR, by=SYSTEM)
        strikes.strike(session, booking, now=NOW + 2 * HOUR)
        return id

    return cast.database.transaction(work)


def test_operators_waive_a_no_show_with_a_reason_that_the_company_reads(app: Flask, cast: Cast, policy: Policy) -> None:
    strike(cast, policy)
    set_now(app, NOW + 3 * HOUR)
    chen = sign_in(app, cast.users["chen"], language="en")
    zhou, mei = sign_in(app, cast.users["zhou"], language="en"), sign_in(app, cast.users["mei"], language="en")
    assert "One no-show" in words(zhou.get("/strikes"))
    assert "No no-shows" in words(mei.get("/strikes"))
    assert "waive it" not in words(chen.get("/strikes"))
    assert post(chen, "/strikes/1/waive", {"reason": "x"}, page="/account").status_code == 403
    empty = post(zhou, "/strikes/1/waive", {"reason": ""}, page="/strikes")
    assert empty.status_code == 422
    post(zhou, "/strikes/1/waive", {"reason": "登录节点不通"}, page="/strikes")
    page = words(chen.get("/strikes"))
    assert "waived today 13:00" in page and "登录节点不通" in page


def test_strangers_see_nothing_and_pages_ask_at_most_ten_times(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    id = cast.submit(cast.fixed(gpus=8, start_in=30, hours=10), policy.bookings)
    mei = sign_in(app, cast.users["mei"], language="en")
    for what in ("cancel", "hand-back", "extend"):
        assert mei.get(f"/bookings/{id}/{what}").status_code == 404
    for address in (f"/bookings/{id}/cancel/quote", f"/bookings/{id}/hand-back/quote", f"/bookings/{id}/make-up"):
        assert post(mei, address, page="/account").status_code == 404
    assert rows_in(cast.database, CancellationQuote) == 0
    strike_page = "/strikes"
    for address in (
        f"/bookings/{id}", f"/bookings/{id}/cancel", f"/bookings/{id}/hand-back", f"/bookings/{id}/extend",
        "/bookings/wait-list", strike_page,
    ):  # fmt: skip
        with Queries(cast.database) as queries:
            assert chen.get(address).status_code == 200
        assert len(queries) <= 10, (address, queries.statements)
