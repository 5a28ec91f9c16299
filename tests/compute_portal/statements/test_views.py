"""The pages of statements: a company's own, finance's month, the sheet with numbers that open, the file."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.enterprises.models import Enterprise
from compute_portal.policy import Policy
from compute_portal.signin.models import AccessLogEntry
from compute_portal.statements import service
from compute_portal.statements.models import Statement
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, set_now, sign_in, words

MINUTES = dt.timedelta(minutes=1)
END = clock.month_bounds("2026-11")[1]


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW + 6 * HOUR)
    return app


@pytest.fixture
def booking(cast: Cast, policy: Policy) -> int:
    """Yusheng: 8 cards for 2 h 30 min, 20 GPU-hours at 16.50: 330.00, tax 19.80, payable 349.80."""
    id = cast.submit(cast.flexible(gpus=8, hours=4, title="=声码器"), policy.bookings)
    walk.run(cast, id, at=NOW, until=NOW + 150 * MINUTES)
    return id


@pytest.fixture
def draft(cast: Cast, policy: Policy, booking: int) -> int:
    return open_draft(cast, cast.yusheng, policy)


@pytest.fixture
def other_draft(cast: Cast, policy: Policy) -> int:
    """Luyu: 4 cards for an hour, 66.00 before tax."""
    asked = cast.flexible(gpus=4, hours=2, allocation_id=cast.other_allocation)
    id = cast.submit(asked, policy.bookings, by=cast.actor("tang"))
    walk.run(cast, id, at=NOW, until=NOW + HOUR)
    return open_draft(cast, cast.luyu, policy)


def open_draft(cast: Cast, enterprise_id: int, policy: Policy) -> int:
    return cast.database.transaction(
        lambda s: service.open_draft(s, enterprise_id, "2026-11", policy=policy.statements, by=cast.finance, now=NOW).id
    )


def test_a_manager_finds_the_own_statements_with_totals_so_far(
    app: Flask, cast: Cast, draft: int, other_draft: int
) -> None:
    page = words(sign_in(app, cast.users["lin"], language="en").get("/statements"))
    assert "November 2026 so far: ¥330.00 before subsidy and tax" in page
    assert "S-202611-00001 Draft 20.00 330.00 – –" in page
    assert "1–1 of 1" in page
    assert "66.00" not in page


def test_finance_and_auditors_see_the_month_with_tally_and_totals(
    app: Flask, cast: Cast, policy: Policy, draft: int, other_draft: int
) -> None:
    for who in ("he", "xu"):
        page = words(sign_in(app, cast.users[who], language="en").get("/statements"))
        assert "November 2026: 2 drafts, ¥396.00 before tax so far" in page
        assert "2 All 2 Draft 0 In review" in page
        assert "Luyu Vision S-202611-00002 Draft 4.00 – 66.00 –" in page
        assert "Drafts so far, before subsidy and tax ¥396.00" in page
    walk.close(cast, cast.yusheng, "2026-11", policy, now=END + 3 * HOUR)
    set_now(app, END + 4 * HOUR)
    client = sign_in(app, cast.users["he"], language="en")
    page = words(client.get("/statements"))
    assert "November 2026: 1 of 2 statements are not closed yet" in page
    assert "Closed, before tax ¥330.00" in page
    assert "Drafts so far, before subsidy and tax ¥66.00" in page
    only = words(client.get("/statements?month=2026-11&state=in_review"))
    assert "Yusheng Voice" in only
    assert "Luyu Vision" not in only
    found = words(client.get("/statements?month=2026-11&find=00002"))
    assert "Luyu Vision" in found
    assert "Yusheng Voice" not in found
    assert "No statement of this month fits." in words(client.get("/statements?month=2026-11&find=%25"))


def test_a_draft_is_computed_from_the_charges_so_far_and_says_so(app: Flask, cast: Cast, draft: int) -> None:
    page = words(sign_in(app, cast.users["lin"], language="en").get(f"/statements/{draft}"))
    assert "Yusheng Voice, statement for November 2026" in page
    assert "Computed from the charges so far, data as of 16:00:00. It is closed Tue 1 Dec 02:00." in page
    assert "1 November 2026 – 30 November 2026" in page
    assert "屿声科技 Yusheng Voice" in page
    assert "91440300708461136T" in page
    assert "H800 · 8 cards 20.00 16.50 330.00" in page
    assert "Tax at 6% 19.80" in page
    assert "Payable so far 349.80" in page
    assert "version 2026-1" in page


def test_a_closed_statement_shows_its_frozen_lines_and_who_closed_it(
    app: Flask, cast: Cast, policy: Policy, draft: int
) -> None:
    walk.close(cast, cast.yusheng, "2026-11", policy, now=END + 3 * HOUR)
    set_now(app, END + 4 * HOUR)
    page = words(sign_in(app, cast.users["he"], language="en").get(f"/statements/{draft}"))
    assert "In review" in page
    assert "the lines no longer change" in page
    assert "Total payable 349.80" in page
    assert "He Liqun : 1 line, ¥330.00 before tax" in page.replace("Liqun:", "Liqun :")


def test_every_number_of_a_line_opens_to_the_records_that_make_it(
    app: Flask, cast: Cast, policy: Policy, draft: int, booking: int
) -> None:
    other = cast.submit(cast.flexible(gpus=1, hours=2), policy.bookings)
    walk.run(cast, other, at=NOW + 3 * HOUR, until=NOW + 4 * HOUR)
    client = sign_in(app, cast.users["lin"], language="en")
    page = client.get(f"/statements/{draft}").text
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', page)]
    lines = [link for link in links if link.startswith(f"/statements/{draft}/line?booking={booking}&")]
    assert len(lines) == 3, "hours, list and net; there is no discount and no subsidy"
    for link in lines:
        line = client.get(link)
        shown = words(line)
        assert "Usage, booking 1: ¥330.00 net" in shown
        assert "3 charges: 72,000 GPU-seconds 20 GPU-hours" in shown
        assert "weight 1.0 Version 2026-1 of the rules" in shown
        assert "¥16.50 per GPU-hour, divided by 3,600 once: ¥330.00" in shown
        records = re.findall(r'href="(/usage/records/\d+)"', line.text)
        assert len(set(records)) == 3
        assert client.get(records[0]).status_code == 200
    sums = [link for link in links if link.startswith("/usage/records?")]
    assert len(sums) == 2
    for link in sums:
        assert "4 records: 21 GPU-hours" in words(client.get(link))


def test_an_hour_of_a_closed_month_is_marked_as_an_adjustment(
    app: Flask, cast: Cast, policy: Policy, booking: int
) -> None:
    late = cast.submit(cast.flexible(gpus=2, hours=1), policy.bookings)
    key = walk.start(cast, late, at=NOW + 3 * HOUR)
    walk.end(cast, key, at=NOW + 4 * HOUR)
    with cast.database.engine.begin() as connection:  # metering believes it is done, then the record turns up
        connection.execute(sa.text("UPDATE attempts SET metered_whole = :yes"), {"yes": True})
    walk.close(cast, cast.yusheng, "2026-11", policy, now=END + 3 * HOUR)
    walk.meter(cast, key, now=END + 4 * HOUR)
    december = cast.database.transaction(
        lambda s: (
            service.open_draft(
                s, cast.yusheng, "2026-12", policy=policy.statements, by=cast.finance, now=END + 4 * HOUR
            ).id
        )
    )
    set_now(app, END + 5 * HOUR)
    page = words(sign_in(app, cast.users["lin"], language="en").get(f"/statements/{december}"))
    assert "adjustment" in page
    assert "used in a month that was closed" in page
    assert "2.00 16.50 33.00" in page


def test_a_month_that_cannot_close_yet_says_what_is_missing(
    app: Flask, cast: Cast, policy: Policy, booking: int
) -> None:
    walk.start(cast, cast.submit(cast.flexible(gpus=2, hours=1), policy.bookings), at=NOW + 3 * HOUR)
    draft = open_draft(cast, cast.yusheng, policy)
    set_now(app, END + HOUR)
    page = words(sign_in(app, cast.users["he"], language="en").get(f"/statements/{draft}"))
    assert "The month is over, but metering of one run is not complete" in page


def test_another_company_s_statement_is_not_found(app: Flask, cast: Cast, draft: int, other_draft: int) -> None:
    client = sign_in(app, cast.users["lin"])
    for address in (f"/statements/{other_draft}", f"/statements/{other_draft}/export.csv", "/statements/999"):
        assert client.get(address).status_code == 404
    assert client.get(f"/statements/{draft}").status_code == 200


def test_members_operators_and_administrators_do_not_see_statements(app: Flask, cast: Cast, draft: int) -> None:
    for who in ("chen", "zhou", "an"):
        client = sign_in(app, cast.users[who])
        for address in ("/statements", f"/statements/{draft}", f"/statements/{draft}/export.csv"):
            assert client.get(address).status_code == 403


def test_addresses_that_make_no_sense_are_not_found(app: Flask, cast: Cast, draft: int) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    for query in ("month=xx", "month=2026-13", "state=closed", "state=", "month=9999-01"):
        answer = client.get(f"/statements?{query}")
        assert answer.status_code == 404, query
        assert "The address may be wrong" in words(answer)
    assert client.get("/statements/99999999999").status_code == 404
    for page in ("-1", "x", "9" * 30):
        assert client.get(f"/statements?page={page}").status_code == 200
        assert client.get(f"/statements/{draft}?page={page}").status_code == 200
    assert "No statements for March 2026" in words(client.get("/statements?month=2026-03"))


def test_statement_pages_ask_at_most_ten_questions(app: Flask, cast: Cast, draft: int, other_draft: int) -> None:
    for who, addresses in (
        ("lin", ("/statements", f"/statements/{draft}")),
        ("he", ("/statements", f"/statements/{draft}")),
    ):
        client = sign_in(app, cast.users[who])
        for address in addresses:
            with Queries(cast.database) as asked:
                assert client.get(address).status_code == 200
            assert len(asked) <= 10, (address, asked.statements)


def test_the_file_has_the_lines_the_tax_and_the_total_and_is_logged(
    app: Flask, cast: Cast, draft: int, booking: int
) -> None:
    answer = sign_in(app, cast.users["lin"]).get(f"/statements/{draft}/export.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="S-202611-00001.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert [(row["kind"], row["gpu_hours"], row["amount_cny"]) for row in rows] == [
        ("line", "20.00", "330.00"),
        ("subtotal", "20.00", "330.00"),
        ("tax", "", "19.80"),
        ("payable", "", "349.80"),
    ]
    assert [rows[0][name] for name in ("list_cny", "discount_cny", "subsidy_cny", "charge")] == [
        "330.00", "0.00", "0.00", "usage",
    ]  # fmt: skip
    assert rows[0]["booking_title"] == "'=声码器"
    assert {row["statement"] for row in rows} == {"S-202611-00001"}
    with cast.database.read_only() as session:
        logged = session.scalars(sa.select(AccessLogEntry).where(AccessLogEntry.kind == "export")).one()
        assert (logged.user_id, logged.detail) == (cast.users["lin"], "S-202611-00001.csv")
        assert session.get_one(Statement, draft).state == "draft"


def test_a_teams_statement_goes_to_its_sponsor_and_stays_there(
    app: Flask, cast: Cast, policy: Policy, draft: int, other_draft: int
) -> None:
    """Luyu is made a team of Yusheng's; when it leaves, what was closed stays Yusheng's to pay."""

    def sponsored(session: Session, sponsor_id: int | None) -> None:
        luyu = session.get_one(Enterprise, cast.luyu)
        luyu.sponsor_id, luyu.sponsor_confirmed_at, luyu.credit_code = sponsor_id, NOW, None

    sheet = f"/statements/{other_draft}"
    lin = sign_in(app, cast.users["lin"], language="en")
    assert lin.get(sheet).status_code == 404
    cast.database.transaction(lambda session: sponsored(session, cast.yusheng))
    walk.close(cast, cast.luyu, "2026-11", policy, now=END + 3 * HOUR)
    cast.database.transaction(lambda session: sponsored(session, None))
    set_now(app, END + 4 * HOUR)
    lin = sign_in(app, cast.users["lin"], language="en")
    listed = words(lin.get("/statements"))
    assert "November 2026 so far: ¥330.00 before subsidy and tax" in listed
    assert "Team Luyu Vision; you pay as its sponsor S-202611-00002 In review 4.00 66.00" in listed
    page = lin.get(sheet)
    assert "Billed to 屿声科技 Yusheng Voice sponsor of the team Credit code 91440300708461136T" in words(page)
    assert "/bookings/" not in page.text and "/usage/records" not in page.text  # those stay the team's
    (row, *_) = csv.DictReader(io.StringIO(lin.get(f"{sheet}/export.csv").text.removeprefix("\ufeff")))
    assert (row["enterprise"], row["payer"], row["payer_credit_code"]) == ("鹭屿视觉", "屿声科技", "91440300708461136T")
    assert "Billed to 屿声科技" in words(sign_in(app, cast.users["mei"], language="en").get(sheet))
