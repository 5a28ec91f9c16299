"""The pages of usage: the month, the records behind every number, one record's derivation, the file."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import clock, exports
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.signin.models import AccessLogEntry
from compute_portal.usage.models import Charge, UsageRecord
from compute_portal.usage.queries import Which, list_records
from compute_portal.usage.views import _round_lines
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words

LATER = NOW + 6 * HOUR
MINUTES = dt.timedelta(minutes=1)


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, LATER)
    return app


@pytest.fixture
def booking(cast: Cast, policy: Policy) -> int:
    """Chen Yi used 8 cards for 2 h 30 min from 10:00: 20 GPU-hours in three records."""
    id = cast.submit(cast.flexible(gpus=8, hours=4), policy.bookings)
    walk.run(cast, id, at=NOW, until=NOW + 150 * MINUTES)
    return id


@pytest.fixture
def other_booking(cast: Cast, policy: Policy) -> int:
    """Luyu's Tang Yi used 4 cards for an hour."""
    asked = cast.flexible(gpus=4, hours=2, allocation_id=cast.other_allocation, title="=cmd|'/c calc'!A1")
    id = cast.submit(asked, policy.bookings, by=cast.actor("tang"))
    walk.run(cast, id, at=NOW, until=NOW + HOUR)
    return id


def record_ids(cast: Cast, booking_id: int) -> list[int]:
    with cast.database.read_only() as session:
        return [row.record.id for row in list_records(session, Which(booking_id=booking_id), cast.auditor)]


def rows_of(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


# -- the month


def test_a_member_sees_the_month_by_day_pool_and_member_of_the_own_enterprise(
    app: Flask, cast: Cast, booking: int, other_booking: int
) -> None:
    page = words(sign_in(app, cast.users["chen"], language="en").get("/usage"))
    assert "November 2026: 20 GPU-hours used" in page
    assert "Most on Wed 18 Nov: 20 GPU-hours" in page
    assert "Used by one person" in page
    assert "Chen Yi 20.00 100%" in page
    assert "Luyu" not in page
    assert "Tang Yi" not in page


def test_every_number_opens_to_records_that_add_up_to_it(app: Flask, cast: Cast, booking: int) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    page = client.get("/usage").text
    links = {link.replace("&amp;", "&") for link in re.findall(r'href="(/usage/records\?[^"]+)"', page)}
    assert len(links) == 4  # the day, the pool, the member, all
    for link in links:
        assert "3 records: 20 GPU-hours" in words(client.get(link))


def test_the_bureau_sees_all_enterprises_and_chooses_one(
    app: Flask, cast: Cast, booking: int, other_booking: int
) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    page = words(client.get("/usage?month=2026-11"))
    assert "November 2026: 24 GPU-hours used" in page
    assert "2 enterprises used something" in page
    assert "Yusheng Voice 20.00 83%" in page
    chosen = words(client.get(f"/usage?enterprise_id={cast.luyu}"))
    assert "November 2026: 4 GPU-hours used" in chosen
    assert "Tang Yi 4.00 100%" in chosen
    found = words(client.get("/usage?find=luyu"))
    assert "One enterprise fits your search" in found
    assert "Luyu Vision 4.00" in found
    assert "Yusheng Voice 20.00" not in found
    assert "No enterprise with usage in this month fits." in words(client.get("/usage?find=%25"))


def test_a_member_cannot_choose_another_enterprise(app: Flask, cast: Cast, booking: int, other_booking: int) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    for page in ("/usage", "/usage/records", "/usage/export.csv"):
        assert client.get(f"{page}?enterprise_id={cast.luyu}").status_code == 404
        assert client.get(f"{page}?enterprise_id={cast.yusheng}").status_code == 200
    for page in ("/usage/records", "/usage/export.csv"):
        assert client.get(f"{page}?booking_id={other_booking}").status_code == 404
        hidden = client.get(f"{page}?user_id={cast.users['tang']}")
        assert hidden.status_code == 200
        assert "Tang Yi" not in hidden.text
        assert "cmd" not in hidden.text
    assert client.get(f"/usage/records/{record_ids(cast, other_booking)[0]}").status_code == 404


NOWHERE = [
    "month=xx",
    "month=2026-13",
    "month=2026-1",
    "month=9999-12",
    "month=",
    "enterprise_id=99999999999999999999",
    "enterprise_id=-1",
    "enterprise_id=1%00",
    "enterprise_id=",
    "enterprise_id=777",
]


def test_an_address_that_no_month_or_row_can_have_is_not_found(app: Flask, cast: Cast) -> None:
    for query in NOWHERE:
        client = sign_in(app, cast.users["he"], language="en")
        for page in ("/usage", "/usage/records", "/usage/export.csv"):
            answer = client.get(f"{page}?{query}")
            assert answer.status_code == 404, (page, query)
            assert "The address may be wrong" in words(answer)


UNREADABLE = [
    "day=2026-02-30",
    "day=today",
    "pool_id=x",
    "user_id=9" * 1 + "9" * 20,
    "booking_id=4",
    "billed_in=2026-00",
    "tariff_id=-3",
    "adjustment=yes",
    "day=20261118",
]


def test_a_filter_that_cannot_be_read_is_not_found(app: Flask, cast: Cast) -> None:
    for query in UNREADABLE:
        client = sign_in(app, cast.users["he"], language="en")
        for page in ("/usage/records", "/usage/export.csv"):
            assert client.get(f"{page}?{query}").status_code == 404, (page, query)


NO_PAGES = ["-1", "0", "x", "99999999999999999999", "2.5", ""]


def test_a_page_number_that_is_nonsense_shows_the_nearest_page(app: Flask, cast: Cast, booking: int) -> None:
    for page in NO_PAGES:
        client = sign_in(app, cast.users["chen"], language="en")
        for address in ("/usage", "/usage/records"):
            answer = client.get(f"{address}?page={page}")
            assert answer.status_code == 200
            assert "1–" in words(answer)


def test_a_month_without_usage_says_so_and_leads_back(app: Flask, cast: Cast, booking: int) -> None:
    client = sign_in(app, cast.users["chen"], language="en")
    assert "Nothing was used in October 2026" in words(client.get("/usage?month=2026-10"))
    assert 'href="/usage?month=2026-11"' in client.get("/usage?month=2026-10").text
    set_now(app, NOW + dt.timedelta(days=20))
    december = sign_in(app, cast.users["chen"], language="en").get("/usage")
    assert "Nothing was used in December 2026" in words(december)
    assert 'href="/usage?month=2026-11"' in december.text


@pytest.mark.parametrize("hours", [1, 2, 3, 4, 5, 7, 9, 10, 11, 19, 20, 21, 45, 99, 100, 999, 7_274, 69_433, 10**9])
def test_the_lines_of_the_picture_are_round_and_reach_the_highest_bar(hours: int) -> None:
    lines = [line // 3600 for line in _round_lines(hours * 3600)]
    assert lines[0] == 0
    assert lines[-2] < hours <= lines[-1]
    assert 2 <= len(lines) <= 6
    assert str(lines[1]).rstrip("0") in ("1", "2", "5")


# -- records


def test_a_record_shows_attempt_times_cards_price_charge_and_billed_month(app: Flask, cast: Cast, booking: int) -> None:
    page = words(sign_in(app, cast.users["lin"], language="en").get(f"/usage/records?booking_id={booking}"))
    assert f"booking-{booking}-1" in page
    assert "2026-11-18 12:00:00 – 12:30:00" in page
    assert "8 14,400 4.00 16.50 66.00 November 2026" in page
    assert "Chen Yi" in page


def test_a_record_is_derived_in_four_steps_down_to_its_ledger_entries(app: Flask, cast: Cast, booking: int) -> None:
    last = record_ids(cast, booking)[-1]
    page = words(sign_in(app, cast.users["lin"], language="en").get(f"/usage/records/{last}"))
    assert f"Record {last}: 4 GPU-hours, ¥66.00 before tax" in page
    assert "8 cards × 1,800 seconds = 14,400 GPU-seconds" in page
    assert "14,400 × 1.0 ÷ 3,600 = 4.00 GPU-hours" in page
    assert "14,400 × 16.50 ÷ 3,600 = ¥66.00" in page
    assert "Held → Used: 4.00 GPU-hours" in page.replace(" :", ":")


def test_a_late_record_is_marked_as_an_adjustment_in_the_open_month(app: Flask, cast: Cast, policy: Policy) -> None:
    """November is closed before an hour of it is recorded: the hour is billed in December."""
    end = clock.month_bounds("2026-11")[1]
    id = cast.submit(cast.flexible(gpus=2, hours=1), policy.bookings)
    key = walk.start(cast, id, at=NOW)
    walk.end(cast, key, at=NOW + HOUR)
    with cast.database.engine.begin() as connection:  # metering believes it is done, then the record turns up
        connection.execute(sa.text("UPDATE attempts SET metered_whole = :yes"), {"yes": True})
    walk.close(cast, cast.yusheng, "2026-11", policy, now=end + 3 * HOUR)
    walk.meter(cast, key, now=end + 4 * HOUR)
    set_now(app, end + 5 * HOUR)
    client = sign_in(app, cast.users["lin"], language="en")
    listed = words(client.get("/usage/records?month=2026-11"))
    assert "December 2026 adjustment" in listed
    assert "billed as an adjustment in December 2026" in words(client.get(f"/usage/records/{record_ids(cast, id)[0]}"))
    assert "1 record: 2 GPU-hours" in words(client.get("/usage/records?billed_in=2026-12&adjustment=1"))
    assert "No usage records" in words(client.get("/usage/records?billed_in=2026-12&adjustment=0"))


def test_records_are_paged_by_twenty_five(app: Flask, cast: Cast, policy: Policy) -> None:
    id = cast.submit(cast.flexible(gpus=1, hours=40), policy.bookings)
    walk.run(cast, id, at=NOW, until=NOW + 30 * HOUR)
    set_now(app, NOW + 31 * HOUR)
    client = sign_in(app, cast.users["lin"], language="en")
    first, second = client.get("/usage/records?month=2026-11"), client.get("/usage/records?month=2026-11&page=2")
    assert "1–25 of 30" in words(first)
    assert "26–30 of 30" in words(second)
    assert second.text.count('href="/usage/records/') == 5 * 4
    assert "month=2026-11&amp;page=2" in first.text


def test_usage_pages_ask_at_most_ten_questions(app: Flask, cast: Cast, booking: int, other_booking: int) -> None:
    record = record_ids(cast, booking)[0]
    for who, addresses in (
        ("lin", ("/usage", f"/usage/records?booking_id={booking}", f"/usage/records/{record}")),
        ("he", ("/usage", f"/usage?enterprise_id={cast.luyu}", f"/usage/records?booking_id={booking}")),
    ):
        client = sign_in(app, cast.users[who])
        for address in addresses:
            with Queries(cast.database) as asked:
                assert client.get(address).status_code == 200
            assert len(asked) <= 10, (address, asked.statements)


# -- the file


def test_the_file_has_every_record_of_the_filters_and_is_logged(
    app: Flask, cast: Cast, booking: int, other_booking: int
) -> None:
    client = sign_in(app, cast.users["chen"])
    answer = client.get("/usage/export.csv?month=2026-11")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage-2026-11.csv"'
    rows = rows_of(answer.text)
    assert [row["gpu_seconds"] for row in rows] == ["28800", "28800", "14400"]
    assert rows[2]["starts_at_beijing"] == "2026-11-18 12:00:00"
    assert (rows[2]["gpu_hours"], rows[2]["price_cny_per_gpu_hour"], rows[2]["amount_cny"]) == (
        "4.00",
        "16.50",
        "66.00",
    )
    assert {row["enterprise"] for row in rows} == {"屿声科技"}
    with cast.database.read_only() as session:
        logged = session.scalars(sa.select(AccessLogEntry).where(AccessLogEntry.kind == "export")).all()
    assert [(entry.user_id, entry.path, entry.detail) for entry in logged] == [
        (cast.users["chen"], "/usage/export.csv", "month=2026-11")
    ]


def test_what_people_typed_cannot_run_as_a_formula(app: Flask, cast: Cast, other_booking: int) -> None:
    rows = rows_of(sign_in(app, cast.users["xu"]).get(f"/usage/export.csv?booking_id={other_booking}").text)
    assert rows[0]["booking_title"] == "'=cmd|'/c calc'!A1"


@pytest.mark.parametrize("typed", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_each_start_of_a_formula_is_defused(typed: str) -> None:
    assert exports.safe(typed) == "'" + typed


def test_numbers_and_plain_text_stay_as_they_are() -> None:
    assert [exports.safe(cell) for cell in (-5, 0, None, "a=b", "")] == [-5, 0, None, "a=b", ""]


def test_who_may_not_export_finds_no_link_and_no_file(app: Flask, cast: Cast, booking: int) -> None:
    client = sign_in(app, cast.users["an"])
    assert "export.csv" not in client.get("/usage").text
    assert client.get("/usage/export.csv").status_code == 403
    assert rows_in(cast.database, UsageRecord) == rows_in(cast.database, Charge) == 3


def test_a_pool_of_another_price_is_added_up_apart(app: Flask, cast: Cast, policy: Policy) -> None:
    """A tariff border cuts a record: each part has its own price."""
    border = dt.date(2026, 11, 19)
    cast.database.transaction(
        lambda s: pools.set_tariff(s, cast.pool, from_on=border, price_micro_yuan=10_000_000, by=cast.finance, now=NOW)
    )
    start = clock.start_of_day(border) - HOUR
    id = cast.submit(cast.flexible(gpus=1, hours=4), policy.bookings)
    walk.run(cast, id, at=start, until=start + 2 * HOUR)
    set_now(app, start + 3 * HOUR)
    client = sign_in(app, cast.users["lin"], language="en")
    page = words(client.get("/usage/records?month=2026-11"))
    assert "3,600 1.00 16.50 16.50" in page
    assert "3,600 1.00 10.00 10.00" in page
    month = words(client.get("/usage"))
    assert "Wed 18 Nov 1.00" in month
    assert "Thu 19 Nov 1.00" in month


# -- corrections and another rate -------------------------------------------------------------------------------------


def test_an_operator_gives_hours_back_and_the_record_shows_it(app: Flask, cast: Cast, booking: int) -> None:
    record = record_ids(cast, booking)[0]
    address = f"/usage/records/{record}"
    operator = sign_in(app, cast.users["zhou"], language="en")
    for typed, sentence in (
        ({"hours": "", "reason": "计量偏差"}, "This is needed."),
        ({"hours": "8.5", "reason": "计量偏差"}, "Of this charge 8 GPU-hours can still be given back"),
        ({"hours": "-1", "reason": "计量偏差"}, "2,000"),
        ({"hours": "2", "reason": " "}, "This is needed."),
    ):
        answer = post(operator, f"{address}/correct", typed, page=address)
        assert answer.status_code == 422
        assert sentence in words(answer), typed
        assert typed["hours"] in answer.text
    assert rows_in(cast.database, Charge) == 3
    answer = post(operator, f"{address}/correct", {"hours": "2", "reason": "计量偏差"}, page=address)
    assert answer.status_code == 302
    page = words(sign_in(app, cast.users["chen"], language="en").get(address))
    assert "Changed since: 6 GPU-hours stand" in page
    assert "Correction Corrected: 计量偏差" in page
    assert "-2.00 16.50 -33.00" in page.replace("−", "-")
    assert "Give hours back" not in page
    listed = words(sign_in(app, cast.users["chen"], language="en").get(f"/usage/records?booking_id={booking}"))
    assert "changed since" in listed
    assert "3 records: 20 GPU-hours" in listed  # what was metered stays
    rows = rows_of(sign_in(app, cast.users["chen"]).get(f"/usage/export.csv?booking_id={booking}").text)
    assert [row["kind"] for row in rows] == ["usage", "correction", "usage", "usage"]
    assert (rows[1]["gpu_seconds"], rows[1]["amount_cny"]) == ("-7200", "-33.00")


def test_only_operators_correct_and_only_finance_prices_again(app: Flask, cast: Cast, booking: int) -> None:
    record = record_ids(cast, booking)[0]
    for who in ("lin", "chen", "he", "xu", "an"):
        client = sign_in(app, cast.users[who], language="en")
        answer = client.post(f"/usage/records/{record}/correct", data={"hours": "1", "reason": "x"})
        assert answer.status_code in (400, 403), who
    for who, status in (("he", 200), ("zhou", 403), ("lin", 403)):
        client = sign_in(app, cast.users[who], language="en")
        assert client.get(f"/enterprises/{cast.yusheng}/usage/rerate").status_code == status
    assert sign_in(app, cast.users["he"]).get("/enterprises/777/usage/rerate").status_code == 404
    assert rows_in(cast.database, Charge) == 3


def test_finance_prices_a_month_again_and_is_told_when_nothing_changes(app: Flask, cast: Cast, booking: int) -> None:
    finance = sign_in(app, cast.users["he"], language="en")
    address = f"/enterprises/{cast.yusheng}/usage/rerate"
    wrong = post(finance, address, {"month": "2026-13", "reason": "规模更正"})
    assert wrong.status_code == 422
    assert "Write the month like 2026-11." in words(wrong)
    answer = post(finance, address, {"month": "2026-11", "reason": "规模更正"})
    assert answer.status_code == 302
    assert "already stands at the price that the books say" in words(finance.get(answer.headers["Location"]))
    assert rows_in(cast.database, Charge) == 3


def test_the_month_of_an_enterprise_shows_its_cost_how_long_it_lasts_and_how_fresh_it_is(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    id = cast.submit(cast.flexible(gpus=8, hours=72), policy.bookings)
    key = walk.start(cast, id, at=NOW)
    walk.meter(cast, key, now=NOW + 48 * HOUR, until=NOW + 48 * HOUR)
    set_now(app, NOW + 48 * HOUR + 10 * MINUTES)
    page = words(sign_in(app, cast.users["lin"], language="en").get("/usage"))
    assert "¥6,336.00" in page
    assert "How long the allocation lasts" in page
    assert "At 192 GPU-hours a day" in page
    assert "Much of it would expire unused" in page
    assert "Metered until today 10:00" in page
    detail = words(sign_in(app, cast.users["chen"], language="en").get(f"/allocations/{cast.allocation}"))
    assert "How long it lasts At 192 GPU-hours a day" in detail
    set_now(app, NOW + 52 * HOUR)
    assert "Metering is missing since" in words(sign_in(app, cast.users["lin"], language="en").get("/usage"))
