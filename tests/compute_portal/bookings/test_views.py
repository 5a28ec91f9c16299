"""The pages of bookings, as people use them in a browser without scripts."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.bookings import attempts, queries, service
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Booking, Standing
from compute_portal.bookings.states import BookingKind, BookingState
from compute_portal.lifecycle import list_history
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Pool
from compute_portal.sentences import Sentence
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words

START = "2026-11-20 20:00"
FIXED = {"kind": "fixed", "gpus": "8", "starts_at": START, "ends_at": "2026-11-21 08:00", "title": "语音基座"}
FLEXIBLE = {"kind": "flexible", "gpus": "4", "longest": "1.5", "not_before_at": "", "title": "声码器"}


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy, contact="0592-5550188")
    set_now(app, NOW)
    return app


@pytest.fixture
def chen(app: Flask, cast: Cast) -> FlaskClient:
    """Chen Yi, member of Yusheng, reads English here."""
    return sign_in(app, cast.users["chen"], language="en")


def fixed(cast: Cast, **changes: str) -> dict[str, str]:
    return FIXED | {"allocation_id": str(cast.allocation)} | changes


def flexible(cast: Cast, **changes: str) -> dict[str, str]:
    return FLEXIBLE | {"allocation_id": str(cast.allocation)} | changes


def quoted(text: str) -> str:
    """What the form remembers of the price it showed."""
    found = re.search(r'name="quoted" type="hidden" value="([^"]*)"', text)
    assert found is not None
    return found[1]


def book(client: FlaskClient, values: dict[str, str]) -> int:
    """As a person does: check the price, then book it."""
    shown = post(client, "/bookings/new", values | {"step": "check"})
    assert shown.status_code == 200, words(shown)
    answer = post(client, "/bookings/new", values | {"step": "book", "quoted": quoted(shown.text)})
    assert answer.status_code == 302, words(answer)
    return int(answer.location.rpartition("/")[2])


def state_of(cast: Cast, booking_id: int) -> BookingState:
    with cast.database.read_only() as session:
        return session.get_one(Booking, booking_id).state


def run(cast: Cast, booking_id: int, *, granted: bool = True) -> str:
    """Give it node 1 at NOW, as the scheduler would."""
    nodes = [{"node": "h800-n001", "gpus": [0, 1, 2, 5]}]

    def give(session: Session) -> str:
        key = attempts.write(session, [booking_id], now=NOW)[0].key
        attempts.record_handed_over(session, {key: "e-1"}, now=NOW)
        attempts.placed(session, [Given(key, nodes, NOW, NOW + 8 * HOUR, NOW if granted else None)])
        return key

    return cast.database.transaction(give)


# -- the form


def test_the_empty_form_proposes_a_node_and_shows_its_price_before_the_click(chen: FlaskClient) -> None:
    page = words(chen.get("/bookings/new"))
    assert "8 cards × 8 h 64 GPU-hours" in page and "¥1,056.00" in page
    assert "Left after that 19,936 GPU-hours" in page
    assert "Approved at once: it is not above 2,000 GPU-hours." in page
    assert "Book 8 cards" in page


def test_the_flexible_form_says_that_the_price_is_the_most_and_use_counts(chen: FlaskClient) -> None:
    page = words(chen.get("/bookings/new?kind=flexible&gpus=2"))
    assert "Before tax, at most; you pay for what you use" in page and "2 cards × 8 h 16 GPU-hours" in page
    assert "Longest run" in page and "End time" not in page


def test_a_flexible_price_that_changes_within_the_allocation_is_a_range(
    app: Flask, chen: FlaskClient, cast: Cast
) -> None:
    cast.database.transaction(
        lambda s: pools.set_tariff(
            s,
            cast.pool,
            from_on=dt.date(2026, 12, 1),
            price_micro_yuan=units.parse_yuan("20"),
            by=cast.finance,
            now=NOW,
        )
    )
    page = words(chen.get("/bookings/new?kind=flexible&gpus=1&longest=10"))
    assert "¥165.00–¥200.00" in page and "each hour counts at its own price" in page
    assert book(chen, flexible(cast)) > 0


def test_the_form_takes_what_a_link_brings_along(chen: FlaskClient, cast: Cast) -> None:
    shown = chen.get(f"/bookings/new?kind=fixed&allocation_id={cast.allocation}&gpus=3&starts_at={START}&title=again")
    assert f'value="{START}"' in shown.text and 'value="2026-11-21 04:00"' in shown.text
    assert 'value="again"' in shown.text and "3 cards × 8 h" in words(shown)


@pytest.mark.parametrize(
    "query",
    ["gpus=abc", "gpus=-1", "allocation_id=x", "starts_at=nonsense", "kind=direct", "longest=1e9&kind=flexible"],
)
def test_nonsense_in_the_address_still_shows_the_form(chen: FlaskClient, query: str) -> None:
    answer = chen.get(f"/bookings/new?{query}")
    assert answer.status_code == 200 and "Book compute" in words(answer)


def test_an_allocation_of_another_enterprise_in_the_address_is_not_taken(chen: FlaskClient, cast: Cast) -> None:
    shown = chen.get(f"/bookings/new?allocation_id={cast.other_allocation}")
    assert shown.status_code == 200 and f'value="{cast.other_allocation}"' not in shown.text


def test_checking_the_price_changes_nothing(chen: FlaskClient, cast: Cast) -> None:
    answer = post(chen, "/bookings/new", fixed(cast, gpus="16", step="check"))
    assert answer.status_code == 200
    assert "16 cards × 12 h 192 GPU-hours" in words(answer) and "¥3,168.00" in words(answer)
    assert rows_in(cast.database, Booking) == 0


def test_a_member_books_fixed_hours_at_the_price_that_was_shown(chen: FlaskClient, cast: Cast) -> None:
    booking_id = book(chen, fixed(cast))
    with cast.database.read_only() as session:
        booking = session.get_one(Booking, booking_id)
        assert (booking.kind, booking.state, booking.gpus) == (BookingKind.FIXED, BookingState.CONFIRMED, 8)
        assert booking.starts_at == dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
        assert booking.submitted_by == cast.users["chen"]
    page = words(chen.get(f"/bookings/{booking_id}"))
    assert "8 cards are kept for it" in page and "Fri 20 Nov 20:00 – Sat 21 Nov 08:00" in page


def test_a_member_books_a_flexible_run_of_an_hour_and_a_half(chen: FlaskClient, cast: Cast) -> None:
    booking_id = book(chen, flexible(cast, not_before_at="2026-11-19T08:00"))
    with cast.database.read_only() as session:
        booking = session.get_one(Booking, booking_id)
        assert (booking.state, booking.longest_seconds) == (BookingState.QUEUED, 5_400)
        assert booking.not_before_at == dt.datetime(2026, 11, 19, tzinfo=dt.UTC)


def test_the_same_form_sent_twice_books_once(chen: FlaskClient, cast: Cast) -> None:
    shown = post(chen, "/bookings/new", fixed(cast, step="check"))
    key = re.search(r'name="form_key" value="([^"]+)"', shown.text)
    assert key is not None
    values = fixed(cast, step="book", quoted=quoted(shown.text), form_key=key[1])
    first, second = post(chen, "/bookings/new", values), post(chen, "/bookings/new", values)
    assert first.location == second.location and rows_in(cast.database, Booking) == 1


def test_whoever_books_other_values_than_those_shown_sees_their_price_first(chen: FlaskClient, cast: Cast) -> None:
    shown = post(chen, "/bookings/new", fixed(cast, step="check"))
    values = fixed(cast, gpus="16", step="book", quoted=quoted(shown.text))
    answer = post(chen, "/bookings/new", values)
    assert answer.status_code == 200 and rows_in(cast.database, Booking) == 0
    assert "Nothing is booked yet" in words(answer) and "Book 16 cards" in words(answer)
    assert post(chen, "/bookings/new", values | {"quoted": quoted(answer.text)}).status_code == 302


@pytest.mark.parametrize("quoted", ["", "=", "x=1", "fixed|1|8=¹²", "fixed|1|8||1|2|=99999999999999999999999"])
def test_a_price_that_was_never_shown_books_nothing(chen: FlaskClient, cast: Cast, quoted: str) -> None:
    answer = post(chen, "/bookings/new", fixed(cast, step="book", quoted=quoted))
    assert answer.status_code == 200 and rows_in(cast.database, Booking) == 0


def test_a_price_that_changed_meanwhile_books_nothing_and_shows_the_new_one(chen: FlaskClient, cast: Cast) -> None:
    shown = post(chen, "/bookings/new", fixed(cast, step="check"))
    cast.database.transaction(
        lambda s: pools.set_tariff(
            s,
            cast.pool,
            from_on=dt.date(2026, 11, 19),
            price_micro_yuan=units.parse_yuan("20"),
            by=cast.finance,
            now=NOW,
        )
    )
    values = fixed(cast, step="book", quoted=quoted(shown.text))
    answer = post(chen, "/bookings/new", values)
    assert answer.status_code == 422 and rows_in(cast.database, Booking) == 0
    assert "The price changed from ¥1,584.00 to ¥1,920.00" in words(answer)
    assert post(chen, "/bookings/new", values | {"quoted": quoted(answer.text)}).status_code == 302


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"gpus": ""}, "gpus", "This is needed."),
        ({"gpus": "lots"}, "gpus", "Enter a whole number, for example 64."),
        ({"gpus": "0"}, "gpus", "Enter a whole number, for example 64."),
        ({"gpus": "33"}, "gpus", "The pool has 32 cards; you asked for 33."),
        ({"gpus": "17"}, "starts_at", "At most 50% of the pool, 16 cards"),
        ({"title": ""}, "title", "This is needed."),
        ({"title": "x" * 81}, "title", "At most 80 characters."),
        ({"title": "a\x00b"}, "title", "This text holds a character that cannot be stored"),
        ({"starts_at": ""}, "starts_at", "This is needed."),
        ({"starts_at": "on Friday"}, "starts_at", "Enter date and time like 2026-11-20 20:00."),
        ({"starts_at": "2026-11-20 20:30"}, "starts_at", "start and end on the full hour"),
        ({"starts_at": "2026-11-18 09:00"}, "starts_at", "The start must be in the future."),
        ({"starts_at": "2027-03-01 09:00", "ends_at": "2027-03-01 10:00"}, "starts_at", "You can book 8 weeks ahead"),
        ({"ends_at": "2026-11-20 20:00"}, "ends_at", "The end must be after the start."),
        ({"ends_at": "2026-12-05 21:00"}, "ends_at", "A fixed booking lasts at most 14 days."),
        ({"allocation_id": "999"}, "allocation_id", "Choose one of the list."),
        ({"allocation_id": "x"}, "allocation_id", "Choose one of the list."),
        ({"allocation_id": ""}, "allocation_id", "This is needed."),
    ],
)
def test_a_fixed_booking_is_refused_at_its_field_and_keeps_what_was_typed(
    chen: FlaskClient, cast: Cast, changes: dict[str, str], field: str, sentence: str
) -> None:
    values = fixed(cast, **changes)
    for step in ("check", "book"):
        answer = post(chen, "/bookings/new", values | {"step": step})
        assert answer.status_code == 422 and rows_in(cast.database, Booking) == 0
        error = answer.text.partition(f'id="{field}-error"')[2][:600]
        assert sentence in error, words(answer)
        assert f'href="#{field}"' in answer.text
        for name in ("starts_at", "ends_at", "gpus"):
            assert not values[name] or f'value="{values[name]}"' in answer.text


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"longest": ""}, "longest", "This is needed."),
        ({"longest": "all day"}, "longest", "Enter a number, for example 36."),
        ({"longest": "-2"}, "longest", "Enter a number, for example 36."),
        ({"longest": "0.01"}, "longest", "The longest run is at least 1 minute."),
        ({"longest": "337"}, "longest", "The longest run is at most 336 hours."),
        ({"longest": "336", "gpus": "32"}, None, ""),
        ({"not_before_at": "soon"}, "not_before_at", "Enter date and time like 2026-11-20 20:00."),
        ({"not_before_at": "2027-02-01 00:00"}, "not_before_at", "You can book 8 weeks ahead"),
    ],
)
def test_a_flexible_booking_is_refused_at_its_field(
    chen: FlaskClient, cast: Cast, changes: dict[str, str], field: str | None, sentence: str
) -> None:
    answer = post(chen, "/bookings/new", flexible(cast, **changes, step="check"))
    assert rows_in(cast.database, Booking) == 0
    if field is None:
        assert answer.status_code == 200 and "An operator decides first" in words(answer)
    else:
        assert answer.status_code == 422
        assert sentence in answer.text.partition(f'id="{field}-error"')[2][:600], words(answer)


def test_too_many_fixed_bookings_are_refused_at_the_kind(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    for n in range(policy.bookings.fixed_open_most):
        cast.submit(cast.fixed(gpus=1, start_in=10 + 5 * n), policy.bookings)
    answer = post(chen, "/bookings/new", fixed(cast, step="check"))
    assert answer.status_code == 422 and 'href="#kind"' in answer.text
    assert "You may have 3 fixed bookings open" in answer.text.partition('id="kind-error"')[2][:600]
    assert "You may have 3 fixed bookings open" in words(chen.get("/bookings/new"))


def test_hours_that_are_not_there_are_refused_with_the_numbers(app: Flask, cast: Cast) -> None:
    mei = sign_in(app, cast.users["mei"], language="en")
    values = flexible(cast, gpus="32", longest="300", allocation_id=str(cast.other_allocation), step="check")
    answer = post(mei, "/bookings/new", values)
    assert answer.status_code == 422
    assert "This booking needs 9,600 GPU-hours; 5,000 are left." in words(answer)


def test_without_an_allocation_the_form_says_how_to_get_one(app: Flask, cast: Cast) -> None:
    cast.database.transaction(lambda s: s.execute(sa.text("UPDATE allocations SET state = 'closed'")))
    member = sign_in(app, cast.users["chen"], language="en")
    assert "Your enterprise manager requests them" in words(member.get("/bookings/new"))
    manager = sign_in(app, cast.users["lin"], language="en")
    assert "Request them under a programme" in words(manager.get("/bookings/new"))
    assert post(member, "/bookings/new", fixed(cast, step="book")).status_code == 409
    assert "You need an allocation before you can book" in words(member.get("/bookings"))


# -- the list


def test_the_list_tells_states_times_and_why_things_wait(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    waits = cast.submit(cast.flexible(gpus=16, hours=10), policy.bookings)
    runs = cast.submit(cast.flexible(title="语音基座"), policy.bookings)
    run(cast, runs)
    reason = Sentence("wait-limit", limit=24, used=20, asked=16).to_json()
    cast.database.transaction(
        lambda s: s.add(
            Standing(
                booking_id=waits, pool_id=cast.pool, place=4, waiting=14, reason=reason,
                expected_at=NOW + 5 * HOUR, at=NOW,
            )
        )
    )  # fmt: skip
    upcoming = words(chen.get("/bookings?tab=upcoming"))
    assert "1 running, 1 to come" in upcoming and "expected today 15:00" in upcoming
    assert "Place 4 of 14: Your company may use 24 cards of this pool at once and is using 20" in upcoming
    current = words(chen.get("/bookings"))
    assert "语音基座" in current and "Running" in current and "until today 12:00" in current


def test_the_bureau_sees_whose_booking_it_is_and_members_only_their_own(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.flexible(title="屿声的"), policy.bookings)
    cast.submit(cast.flexible(title="鹭屿的", allocation_id=cast.other_allocation), policy.bookings, by=cast.stranger)
    operator = words(sign_in(app, cast.users["zhou"], language="en").get("/bookings"))
    assert "Yusheng Voice" in operator and "Luyu Vision" in operator and "Book compute" not in operator
    mei = words(sign_in(app, cast.users["mei"], language="en").get("/bookings"))
    assert "鹭屿的" in mei and "屿声的" not in mei


def test_an_empty_list_tells_the_hours_left_and_the_next_free_window(chen: FlaskClient) -> None:
    page = chen.get("/bookings?tab=upcoming")
    assert "You have 20,000 H800 GPU-hours until 17 January 2027." in words(page)
    assert "The next window with 8 free cards is today 11:00." in words(page)
    assert chen.get(f"/bookings/new?starts_at={START}").status_code == 200


def test_a_long_list_has_pages(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    for n in range(27):
        cast.submit(cast.flexible(gpus=1, hours=1, title=f"run {n}"), policy.bookings)
    first, second = chen.get("/bookings?tab=upcoming"), chen.get("/bookings?tab=upcoming&page=2")
    odd = chen.get("/bookings?tab=upcoming&endpoint=x&_method=x&_external=1")
    assert odd.status_code == 200 and 'href="/bookings?tab=upcoming&amp;page=2"' in odd.text
    assert "1–25 of 27 bookings" in words(first) and "26–27 of 27 bookings" in words(second)
    assert "run 0" in words(second) and "run 0 " not in words(first)
    assert chen.get("/bookings?tab=nonsense&page=x").status_code == 200


# -- one booking


def test_a_list_is_narrowed_to_an_allocation_or_an_enterprise_and_stays_so(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    cast.submit(cast.flexible(title="屿声的"), policy.bookings)
    cast.submit(cast.flexible(title="鹭屿的", allocation_id=cast.other_allocation), policy.bookings, by=cast.stranger)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    for narrowed, shown, left_out in (
        (f"allocation_id={cast.allocation}", "屿声的", "鹭屿的"),
        (f"allocation_id={cast.other_allocation}", "鹭屿的", "屿声的"),
        (f"enterprise_id={cast.luyu}", "鹭屿的", "屿声的"),
    ):
        page = zhou.get(f"/bookings?{narrowed}")
        assert shown in words(page) and left_out not in words(page) and "1–1 of 1 booking" in words(page)
        assert f"/bookings?tab=ended&amp;{narrowed}" in page.text
        assert "Bookings in other states are under the tabs above." in words(
            zhou.get(f"/bookings?tab=ended&{narrowed}")
        )
    assert f"/bookings?allocation_id={cast.allocation}" in chen.get(f"/allocations/{cast.allocation}").text
    assert f"/bookings?enterprise_id={cast.luyu}" in zhou.get(f"/enterprises/{cast.luyu}/overview").text
    assert "屿声的" in words(chen.get(f"/bookings?allocation_id={cast.allocation}"))
    nonsense = ("allocation_id=x", "allocation_id=" + "9" * 5_000)
    for others in (f"allocation_id={cast.other_allocation}", f"enterprise_id={cast.luyu}", *nonsense):
        seen = words(chen.get(f"/bookings?{others}"))
        assert "鹭屿的" not in seen and "屿声的" not in seen


def test_of_everybodys_bookings_the_newest_are_listed_and_more_are_not_counted(
    app: Flask, cast: Cast, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(27):
        cast.submit(cast.flexible(gpus=1, hours=1, title=f"run {n}"), policy.bookings)
    monkeypatch.setattr(queries, "MOST_LISTED", 25)
    monkeypatch.setattr(queries, "_COUNTED", queries._counted())
    operator = sign_in(app, cast.users["zhou"], language="en")
    page = operator.get("/bookings?tab=upcoming")
    assert "Upcoming more than 25" in words(page) and "1–25 of the newest 25 bookings" in words(page)
    assert "run 26" in words(page) and "run 0 " not in words(operator.get("/bookings?tab=upcoming&page=2"))
    chen = sign_in(app, cast.users["chen"], language="en")
    assert "1–25 of 27 bookings" in words(chen.get("/bookings?tab=upcoming"))  # of one's own all are counted


def test_the_page_of_a_waiting_booking_shows_place_reason_and_cost(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(gpus=4, hours=2), policy.bookings)
    page = words(chen.get(f"/bookings/{booking_id}"))
    assert "The scheduler has not looked at it yet" in page
    assert "Held 8 GPU-hours 4 cards × 2 h" in page and "At most payable ¥132.00" in page
    assert "The bureau hands access over by hand" in page and "0592-5550188" in page
    assert page.index("Up to 2,000 GPU-hours: approved automatically") < page.index("8 GPU-hours held, 19,992 left")


def test_cancelling_asks_first_names_what_comes_back_and_gives_it_back(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(gpus=8, hours=2), policy.bookings)
    asked = words(chen.get(f"/bookings/{booking_id}/cancel"))
    assert "Charge none before the start Comes back 16 GPU-hours" in asked
    assert state_of(cast, booking_id) is BookingState.QUEUED
    answer = post(chen, f"/bookings/{booking_id}/cancel")
    assert answer.location == f"/bookings/{booking_id}"
    page = words(chen.get(answer.location))
    assert "The booking is cancelled; 16 GPU-hours are back." in page and "Cancel booking" not in page
    assert state_of(cast, booking_id) is BookingState.CANCELLED
    assert chen.get(f"/bookings/{booking_id}/cancel").location == f"/bookings/{booking_id}"


def test_a_second_cancel_from_an_old_page_says_so_and_changes_nothing(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(), policy.bookings)
    post(chen, f"/bookings/{booking_id}/cancel")
    again = post(chen, f"/bookings/{booking_id}/cancel")
    assert again.status_code == 409 and "already further on" in words(again)


def test_a_running_booking_is_used_stopped_and_says_that_the_scheduler_was_asked(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(gpus=4, hours=8), policy.bookings)
    cast.database.transaction(lambda s: setattr(s.get_one(Pool, cast.pool), "how_to_connect", "ssh <you>@gate"))
    run(cast, booking_id)
    set_now(app, NOW + HOUR / 2)
    page = chen.get(f"/bookings/{booking_id}")
    assert "h800-n001 cards 0–2, 5" in words(page) and "ssh &lt;you&gt;@gate" in page.text
    assert "Start using" in words(page) and "about 2 used until now" in words(page)
    post(chen, f"/bookings/{booking_id}/claim", page=f"/bookings/{booking_id}")
    page = chen.get(f"/bookings/{booking_id}")
    assert "In use since today 10:30" in words(page) and 'action="/bookings/1/claim"' not in page.text
    asked = words(chen.get(f"/bookings/{booking_id}/stop"))
    assert "Charge up to now 2 GPU-hours ¥33.00 at most" in asked and "Comes back 30 GPU-hours" in asked
    post(chen, f"/bookings/{booking_id}/stop")
    assert state_of(cast, booking_id) is BookingState.STOPPING
    stopping = words(chen.get(f"/bookings/{booking_id}"))
    assert "The scheduler was asked to stop it (today 10:30)" in stopping and "Stop booking" not in stopping
    with cast.database.read_only() as session:
        assert [e.verb for e in list_history(session, Booking.LIFE, booking_id)][:2] == ["stop", "claim"]


def test_who_stops_a_fixed_booking_hands_its_rest_back(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=4, start_in=1, hours=8), policy.bookings)
    run(cast, booking_id)
    assert chen.get(f"/bookings/{booking_id}/stop").location == f"/bookings/{booking_id}/hand-back"
    assert post(chen, f"/bookings/{booking_id}/stop").location == f"/bookings/{booking_id}/hand-back"
    assert state_of(cast, booking_id) is BookingState.RUNNING


def test_a_booking_without_access_stops_free_of_charge(chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=4, hours=8), policy.bookings)
    run(cast, booking_id, granted=False)
    assert "access is being given" in words(chen.get(f"/bookings/{booking_id}"))
    asked = words(chen.get(f"/bookings/{booking_id}/stop"))
    assert "nothing is charged" in asked and "Stop free of charge" in asked
    assert post(chen, f"/bookings/{booking_id}/claim", page="/account").status_code == 409


def test_an_ended_booking_tells_how_long_it_ran_and_offers_the_same_again(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(gpus=4, hours=8), policy.bookings)
    key = run(cast, booking_id)
    cast.database.transaction(lambda s: attempts.ended(s, {key: NOW + 90 * HOUR / 60}))
    page = chen.get(f"/bookings/{booking_id}")
    assert "It ran 1 h 30 min on 4 cards." in words(page) and "One attempt at the cluster" in words(page)
    assert f"kind=flexible&amp;allocation_id={cast.allocation}&amp;gpus=4" in page.text


def test_a_failed_attempt_tells_its_reason_and_the_booking_waits_again(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(), policy.bookings)
    key = run(cast, booking_id)
    why = Sentence("node-down", node="h800-n001")
    cast.database.transaction(lambda s: attempts.failed(s, key, why=why, at=NOW + HOUR, tries=3))
    page = words(chen.get(f"/bookings/{booking_id}"))
    assert "Queued" in page and "failed Node h800-n001 failed" in page


def large(cast: Cast, policy: Policy) -> int:
    return cast.submit(cast.fixed(gpus=16, hours=200, start_in=24), policy.bookings)


def test_an_operator_approves_a_large_booking(app: Flask, chen: FlaskClient, cast: Cast, policy: Policy) -> None:
    booking_id = large(cast, policy)
    mine = words(chen.get(f"/bookings/{booking_id}"))
    assert "Above 2,000 an operator decides" in mine and "Your decision" not in mine
    zhou = sign_in(app, cast.users["zhou"], language="en")
    page = words(zhou.get(f"/bookings/{booking_id}"))
    assert "Approve 3,200 GPU-hours" in page and "Cancel booking" not in page
    assert "fixes the price at ¥52,800.00" in page and "If nobody decides before tomorrow 08:00" in page
    assert post(zhou, f"/bookings/{booking_id}/approve", page=f"/bookings/{booking_id}").status_code == 302
    assert state_of(cast, booking_id) is BookingState.CONFIRMED


def test_an_operator_declines_with_a_reason_that_the_company_reads(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = large(cast, policy)
    zhou, here = sign_in(app, cast.users["zhou"], language="en"), f"/bookings/{booking_id}"
    for reason in ("", "   ", "x" * 1_001):
        answer = post(zhou, f"{here}/decline", {"reason": reason}, page=here)
        assert answer.status_code == 422 and 'href="#reason"' in answer.text
        assert reason.strip() in answer.text
    assert state_of(cast, booking_id) is BookingState.SUBMITTED
    assert post(zhou, f"{here}/decline", {"reason": "先跑一次小的。"}, page=here).status_code == 302
    assert state_of(cast, booking_id) is BookingState.DECLINED
    assert "先跑一次小的。" in words(chen.get(here))


def test_others_bookings_do_not_exist_and_roles_are_kept(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    booking_id = large(cast, policy)
    here = f"/bookings/{booking_id}"
    mei, finance = sign_in(app, cast.users["mei"]), sign_in(app, cast.users["he"])
    for address in (here, f"{here}/cancel", f"{here}/stop"):
        assert mei.get(address).status_code == 404
    for verb in ("cancel", "stop", "claim"):
        assert post(mei, f"{here}/{verb}", page="/account").status_code == 404
        assert post(finance, f"{here}/{verb}", page="/account").status_code == 403
    for verb in ("approve", "decline"):
        assert post(chen, f"{here}/{verb}", {"reason": "x"}, page="/account").status_code == 403
    assert finance.get(here).status_code == 200 and finance.get("/bookings/new").status_code == 403
    assert chen.get("/bookings/99999").status_code == 404
    assert state_of(cast, booking_id) is BookingState.SUBMITTED


def test_every_page_asks_the_database_at_most_ten_times(
    app: Flask, chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    cast.limit(cast.yusheng, 24)
    waits, runs = cast.submit(cast.fixed(gpus=4), policy.bookings), cast.submit(cast.flexible(), policy.bookings)
    run(cast, runs)
    cast.database.transaction(lambda s: service.stop(s, runs, by=cast.member, now=NOW))
    zhou = sign_in(app, cast.users["zhou"])
    for client in (chen, zhou):
        for address in ("/bookings", "/bookings?tab=ended", f"/bookings/{waits}", f"/bookings/{runs}"):
            with Queries(cast.database) as queries:
                assert client.get(address).status_code == 200
            assert len(queries) <= 10, (address, queries.statements)
    for address in ("/bookings/new", "/bookings/new?kind=flexible", f"/bookings/{waits}/cancel"):
        with Queries(cast.database) as queries:
            assert chen.get(address).status_code == 200
        assert len(queries) <= 10, (address, queries.statements)


# -- other windows, and how long a run takes


def test_whoever_comes_too_late_reads_the_next_windows_with_their_prices_in_the_answer(
    chen: FlaskClient, cast: Cast, policy: Policy
) -> None:
    asked = fixed(cast, gpus="8", starts_at="2026-11-18 20:00", ends_at="2026-11-18 22:00")
    shown = post(chen, "/bookings/new", asked | {"step": "check"})
    taken = cast.fixed(gpus=16, start_in=10, hours=4, allocation_id=cast.other_allocation)
    cast.submit(taken, policy.bookings, by=cast.stranger)
    answer = post(chen, "/bookings/new", asked | {"step": "book", "quoted": quoted(shown.text)})
    assert answer.status_code == 422
    page = words(answer)
    assert "The same 8 cards for 2 h, at other times" in page
    assert "tomorrow 00:00 – tomorrow 02:00 ¥264.00" in page
    following = chen.get(re.findall(r'<a class="ms-2" href="([^"]+)"', answer.text)[0].replace("&amp;", "&"))
    assert 'value="2026-11-19 00:00"' in following.text and "8 cards × 2 h" in words(following)


def test_the_size_helper_says_how_long_a_run_takes_and_fills_in_the_form(chen: FlaskClient, cast: Cast) -> None:
    """7 billion parameters × 100 billion tokens on H800 at 40%: 2,949.11 GPU-hours, the figure of `sizing`."""
    run = "parameters=7&tokens=100&utilisation=40"
    shown = chen.get(f"/bookings/new?kind=fixed&gpus=16&starts_at=2026-11-20+20:00&{run}")
    assert "2,949.11 GPU-hours : 7 d 16 h on 16 cards" in words(shown)
    taken = re.search(r'<a class="btn btn-plain btn-sm" href="([^"]+)">Take this time', shown.text)
    assert taken is not None
    filled = chen.get(taken[1].replace("&amp;", "&"))
    assert 'value="2026-11-28 13:00"' in filled.text  # 184 h 19 min, to the full hour
    assert "64 cards" not in words(filled) and 'value="16"' in filled.text
    flexible_one = chen.get(f"/bookings/new?kind=flexible&gpus=16&{run}")
    assert "longest=185" in flexible_one.text
    wrong = chen.get("/bookings/new?kind=fixed&gpus=16&parameters=many&tokens=100&utilisation=40")
    assert wrong.status_code == 200 and "Enter a number, for example 7." in words(wrong)
