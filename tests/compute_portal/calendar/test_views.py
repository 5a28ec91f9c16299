"""The calendar and the offers as people use them without scripts."""

from __future__ import annotations

import datetime as dt
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.bookings import queries as bookings
from compute_portal.bookings import service, waiting
from compute_portal.bookings.models import Booking, Waiter
from compute_portal.policy import BookingPolicy, Policy
from compute_portal.pools import queries as pools
from compute_portal.pools import service as pool_service
from compute_portal.pools.models import Maintenance, Node, Occupancy, OptionPlace, Pool
from compute_portal.sentences import Refusal
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, post, set_now, sign_in, words

STATIC = Path(__file__).parents[3] / "compute_portal" / "static"
CELL = re.compile(r'<(a|span) class="([a-z ]+)"(?: href="([^"]*)")? data-at="([^"]*)"')
WISH = {"gpus": "8", "longest": "4", "from_on": "2026-11-18", "until_on": "2026-11-21", "title": "语音基座"}


@pytest.fixture
def rules(policy: Policy) -> BookingPolicy:
    return policy.bookings


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


@pytest.fixture
def chen(app: Flask, cast: Cast) -> FlaskClient:
    return sign_in(app, cast.users["chen"], language="en")


def cells(text: str) -> dict[str, tuple[str, str | None]]:
    """By hour: how it looks and where it leads."""
    found = CELL.findall(text)
    return {at: (looks, href.replace("&amp;", "&") or None) for _tag, looks, href, at in found}


# -- the numbers


def as_it_is(session: Session, cast: Cast, first: dt.datetime, hours: int) -> list[dict[str, int]]:
    """Per hour how many cards are what, asked card by card of the rows themselves, as Yusheng sees it."""
    mine = set(session.scalars(sa.select(Booking.id).where(Booking.enterprise_id == cast.yusheng)))
    my_waits = set(session.scalars(sa.select(Waiter.id).where(Waiter.enterprise_id == cast.yusheng)))
    taken = session.scalars(sa.select(Occupancy).where(Occupancy.released_at.is_(None))).all()
    kept = session.scalars(sa.select(OptionPlace)).all()
    windows = session.scalars(sa.select(Maintenance)).all()
    nodes = session.scalars(sa.select(Node)).all()
    found = []
    for n in range(hours):
        start, end = first + n * HOUR, first + (n + 1) * HOUR
        counts = dict.fromkeys(("free", "booked", "mine", "kept", "closed"), 0)
        for node in nodes:
            for gpu in range(node.gpus):
                here = [row for row in taken if row.node_id == node.id and row.gpu_mask >> gpu & 1]
                here = [row for row in here if row.starts_at < end and row.ends_at > start]
                also = [row for row in kept if row.node_id == node.id and row.gpu_mask >> gpu & 1]
                also = [row for row in also if row.starts_at < end and row.ends_at > start]
                if any(node.id in w.node_ids and w.starts_at < end and w.ends_at > start for w in windows):
                    counts["closed"] += 1
                elif any(r.booking_id in mine for r in here) or any(r.waiter_id in my_waits for r in also):
                    counts["mine"] += 1
                else:
                    counts["booked" if here else "kept" if also else "free"] += 1
        found.append(counts)
    return found


wishes = st.lists(
    st.tuples(
        st.sampled_from(["book", "book", "keep", "close"]), st.booleans(), st.integers(1, 32), st.integers(1, 20),
        st.integers(1, 9),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(wishes)
def test_in_every_hour_free_booked_mine_kept_and_maintenance_are_the_capacity(
    cast: Cast, policy: Policy, things: list[tuple[str, bool, int, int, int]]
) -> None:
    """What people booked, what is kept for them, and what maintenance closes, counted card by card."""
    rules = policy.bookings.model_copy(update={"fixed_open_most": 99, "fixed_share_percent": 100})
    with Session(cast.database.engine, expire_on_commit=False) as session:
        for kind, own, gpus, start_in, hours in things:
            allocation = cast.allocation if own else cast.other_allocation
            asked = cast.fixed(gpus, start_in=start_in, hours=hours, allocation_id=allocation)
            by = cast.member if own else cast.stranger
            assert asked.starts_at is not None and asked.ends_at is not None
            try:
                if kind == "close":
                    node = session.scalars(sa.select(Node.id).order_by(Node.id).offset(gpus % 4).limit(1)).one()
                    pool_service.plan_maintenance(
                        session, cast.pool, node_ids=[node], starts_at=asked.starts_at, ends_at=asked.ends_at,
                        reason="换风扇", by=cast.operator, now=NOW,
                    )  # fmt: skip
                elif kind == "book":
                    service.submit(session, asked, by=by, policy=rules, now=NOW)
                else:
                    waiting.keep(session, asked, by=by, policy=rules, now=NOW)
            except Refusal:
                continue  # no room for this one: the others stand
        session.flush()
        first = clock.floor_hour(NOW) + HOUR
        own_bookings, own_waits = bookings.own_ids(session, cast.member, cast.pool)
        grid = pools.load_grid(
            session, session.get_one(Pool, cast.pool), NOW, first=first, hours=30, bookings=own_bookings,
            waiters=own_waits,
        )  # fmt: skip
        for kind in ("free", "booked", "mine", "kept", "closed"):
            expected = [counts[kind] for counts in as_it_is(session, cast, first, 30)]
            assert grid.count(getattr(grid, kind)).tolist() == expected, kind
        whole = grid.free | grid.booked | grid.mine | grid.kept | grid.closed
        assert np.all(grid.count(whole) == grid.capacity) and grid.capacity == 32
        session.rollback()


# -- the page


def test_the_week_shows_what_is_free_and_who_looks_only_has_no_links(
    app: Flask, chen: FlaskClient, cast: Cast, rules: BookingPolicy
) -> None:
    cast.submit(cast.fixed(gpus=8, start_in=10, hours=5), rules)
    shown = chen.get(f"/pools/{cast.pool}/calendar?gpus=16").text
    week = cells(shown)
    assert week["2026-11-18 09:00"] == ("past", None)
    assert week["2026-11-18 19:00"][0] == "fit"
    # 24 cards are free, but half of the pool is all that may be booked in advance.
    assert week["2026-11-18 20:00"] == ("short mine", None)
    assert ">24<" in shown and len(week) == 7 * 24
    for name in ("zhou", "xu"):
        looked = sign_in(app, cast.users[name], language="en").get(f"/pools/{cast.pool}/calendar").text
        assert not any(href for _looks, href in cells(looked).values())
        assert "yours already" not in looked


def test_two_clicks_lead_to_the_form_with_the_window(chen: FlaskClient, cast: Cast, rules: BookingPolicy) -> None:
    cast.submit(cast.fixed(gpus=16, start_in=10, hours=5, allocation_id=cast.other_allocation), rules, by=cast.stranger)
    first = cells(chen.get(f"/pools/{cast.pool}/calendar?gpus=8").text)["2026-11-18 17:00"][1]
    assert first is not None
    chosen = chen.get(first)
    week = cells(chosen.text)
    assert "From today 17:00: now choose the last hour" in words(chosen)
    assert week["2026-11-18 17:00"][0] == "pick"
    assert week["2026-11-18 20:00"] == ("short", None), "no window from 17:00 passes the booked hours"
    last = week["2026-11-18 19:00"][1]
    assert last is not None
    form = chen.get(last)
    assert 'value="2026-11-18 17:00"' in form.text and 'value="2026-11-18 20:00"' in form.text
    assert "8 cards × 3 h" in words(form)


def test_a_day_adds_up_hour_by_hour_and_node_by_node(chen: FlaskClient, cast: Cast, rules: BookingPolicy) -> None:
    cast.submit(cast.fixed(gpus=9, start_in=4, hours=2), rules)
    text = chen.get(f"/pools/{cast.pool}/calendar?view=day").text
    row = next(row for row in text.split("<tr>") if ">14:00</th>" in row)
    numbers = [int(n) for n in re.findall(r">(\d+)<", row)]
    assert numbers == [23, 9, 0, 0, 0]
    nodes = words(chen.get(f"/pools/{cast.pool}/calendar?view=day&by=nodes"))
    assert "h800-n001 " + "8 " * 14 + "0 0" in nodes
    assert "h800-n002 " + "8 " * 14 + "7 7" in nodes


def test_a_month_shows_what_is_free_all_day_and_leads_to_the_day(
    chen: FlaskClient, cast: Cast, rules: BookingPolicy
) -> None:
    cast.submit(cast.fixed(gpus=8, start_in=30, hours=2), rules)
    shown = chen.get(f"/pools/{cast.pool}/calendar?view=month")
    month = cells(shown.text)
    looks, href = month["2026-11-19"]
    assert looks == "fit mine" and href is not None and "view=day" in href
    assert "19 Nov : 24 free in every hour, you have a booking" in words(shown)
    assert len(month) == 33  # five weeks, of which two days are over
    assert chen.get(href).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["first=x&gpus=-1", "first=2099-01-01&view=month", "first=2000-01-01", "starts_at=yesterday", "gpus=9999999",
     "starts_at=2026-11-18+09:30", "allocation_id=999", "view=year", "view=day&by=nodes&page=7"],
)  # fmt: skip
def test_nonsense_in_the_address_still_shows_a_calendar(chen: FlaskClient, cast: Cast, query: str) -> None:
    shown = chen.get(f"/pools/{cast.pool}/calendar?{query}")
    assert shown.status_code == 200 and "data-calendar" in shown.text


def test_a_later_page_keeps_the_start_that_was_chosen(chen: FlaskClient, cast: Cast) -> None:
    shown = chen.get(f"/pools/{cast.pool}/calendar?first=2026-11-25&starts_at=2026-11-24+20:00")
    href = cells(shown.text)["2026-11-25 08:00"][1]
    assert href is not None
    assert href.endswith("starts_at=2026-11-24+20%3A00&ends_at=2026-11-25+09%3A00")


# -- offers


def test_offers_are_shown_with_price_hours_and_what_is_left_and_one_click_keeps_one(
    chen: FlaskClient, cast: Cast
) -> None:
    shown = chen.get("/bookings/offers", query_string=WISH)
    page = words(shown)
    assert "Free from today 11:00, at the cheapest for ¥528.00" in page
    assert "8 cards for 4 h" in page and "Left after that 19,968 GPU-hours" in page
    kept = post(
        chen, "/bookings/offers/keep", WISH | {"allocation_id": str(cast.allocation), "starts_at": "2026-11-18 11:00"}
    , page="/account")  # fmt: skip
    assert kept.status_code == 302
    take = words(chen.get(kept.location))
    assert "语音基座" in take and "until today 10:10" in take and "¥528.00" in take
    booked = post(chen, kept.location, {"agreed": "528000000"})
    assert re.fullmatch(r"/bookings/\d+", booked.location)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("gpus", "many", "Enter a whole number, for example 64."),
        ("longest", "1.5", "Give whole hours, for example 48."),
        ("longest", "9999", "A fixed booking lasts at most 14 days."),
        ("until_on", "2026-11-17", "The last day must not be before the first."),
        ("until_on", "soon", "Enter a date like"),
        ("gpus", "64", "The pool has 32 cards; you asked for 64."),
    ],
)
def test_a_wish_that_cannot_be_is_a_sentence_at_its_field_and_stays_as_typed(
    chen: FlaskClient, field: str, value: str, sentence: str
) -> None:
    shown = chen.get("/bookings/offers", query_string=WISH | {field: value})
    assert shown.status_code == 422
    error = re.search(rf'id="{field}-error">(.*?)</p>', shown.text)
    assert error is not None and sentence in re.sub(r"<[^>]*>", "", error[1])
    assert f'value="{value}"' in shown.text
    answer = post(chen, "/bookings/offers/keep", WISH | {field: value}, page="/account")
    assert answer.status_code == 422


def test_pages_take_the_same_few_queries_however_much_is_booked(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    rules = policy.bookings.model_copy(update={"fixed_open_most": 99, "fixed_share_percent": 100})
    addresses = [f"/pools/{cast.pool}/calendar?view={view}" for view in ("day", "week", "month")] + ["/bookings/offers"]

    def count() -> list[int]:
        found = []
        for address in addresses:
            with Queries(cast.database) as queries:
                assert chen.get(address).status_code == 200
            found.append(len(queries))
        return found

    chen.get("/start")
    before = count()
    for n in range(12):
        asked = cast.fixed(gpus=5, start_in=3 + 2 * n, hours=2, allocation_id=cast.other_allocation)
        cast.submit(asked, rules, by=cast.stranger)
    assert count() == before
    assert max(before) <= 9


@pytest.mark.parametrize("page", ["/bookings/new", "/pools/{pool}/calendar", "/bookings/offers"])
def test_a_page_weighs_at_most_150_kb_as_it_is_sent(chen: FlaskClient, cast: Cast, page: str) -> None:
    """Compressed, with all that it loads: nothing is loaded by a style sheet but two small pictures."""
    shown = chen.get(page.format(pool=cast.pool))
    loaded = re.findall(r'(?:src|href)="/static/([^"?]+)', shown.text)
    assert "vendor/bootstrap.min.css" in loaded
    files = [(STATIC / name).read_bytes() for name in loaded]
    assert sum(len(gzip.compress(content)) for content in [shown.data, *files]) <= 150_000
