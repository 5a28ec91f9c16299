"""The month through its pages: closed, returned, corrected, approved by another, issued, disputed, credited, paid."""

from __future__ import annotations

import json
import re

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import units
from compute_portal.access import Role
from compute_portal.signin.models import BureauRole
from compute_portal.statements import queries
from compute_portal.statements.models import Dispute, Payment
from compute_portal.statements.states import StatementState
from tests.cast import HOUR, NOW
from tests.compute_portal.statements.conftest import LATER, Books
from tests.web import Queries, make_app, post, set_now, sign_in, words


@pytest.fixture
def app(books: Books) -> Flask:
    app = make_app(books.cast.database, books.policy)
    set_now(app, LATER)
    books.cast.database.transaction(
        lambda s: s.add(BureauRole(user_id=books.cast.users["wu"], role=Role.FINANCE, given_at=NOW))
    )
    return app


def test_a_month_from_close_to_settled(app: Flask, books: Books) -> None:
    books.use(gpus=4)
    books.use(gpus=2, at=NOW + 2 * HOUR)
    id = books.close()
    sheet = f"/statements/{id}"
    he, wu, lin = (sign_in(app, books.cast.users[who], language="en") for who in ("he", "wu", "lin"))

    refused = post(he, f"{sheet}/return", {"reason": " "})
    assert refused.status_code == 422 and "Say why." in words(refused)
    post(he, f"{sheet}/return", {"reason": "the outage is missing"})
    page = words(he.get(sheet))
    assert "Returned" in page and "the outage is missing" in page
    post(he, f"{sheet}/close", page=sheet)
    post(wu, f"{sheet}/check", page=sheet)
    assert "Approve" not in words(wu.get(sheet)).split("Downloads")[0], "not the one who checked it"
    post(he, f"{sheet}/approve", page=sheet)  # he had it computed
    assert books.statement(id).state is StatementState.IN_REVIEW
    with books.cast.database.engine.begin() as connection:  # as if the timetable had closed it
        connection.execute(sa.text("UPDATE statements SET closed_by = NULL"))
    post(he, f"{sheet}/approve", page=sheet)
    assert "never change" in words(he.get(f"{sheet}/issue"))
    post(he, f"{sheet}/issue", page=f"{sheet}/issue")
    statement = books.statement(id)
    assert statement.state is StatementState.ISSUED

    shown = lin.get(sheet)
    assert "Issued today 03:00; it never changes. Payable until 31 December 2026." in words(shown)
    assert "人民币壹佰零肆元玖角肆分" in shown.text
    _first, second = books.lines(id)
    assert "Dispute this line" in words(shown)
    ask = f"/statements/lines/{second.id}/dispute"
    assert post(lin, ask, {"reason": ""}).status_code == 422
    assert sign_in(app, books.cast.users["mei"]).get(ask).status_code == 404
    where = post(lin, ask, {"reason": "the node was down"}).headers["Location"]
    assert "In dispute" in words(lin.get(sheet)) and "to be answered by" in words(lin.get(where))
    assert "One dispute waits for an answer" in words(he.get("/disputes"))
    assert "One statement is in dispute" in words(he.get("/statements?month=2026-11"))
    for wrong, said in (
        ({"outcome": "partly", "text": "yes"}, "Say how many hours"),
        ({"outcome": "upheld", "text": ""}, "Answer to the company"),
        ({"outcome": "x", "text": "y"}, "Choose one"),
    ):
        answer = post(he, f"{where}/answer", wrong, page=where)
        assert answer.status_code == 422, words(answer)
        assert said in words(answer) or answer.text.count("field-error")
    post(he, f"{where}/answer", {"outcome": "upheld", "text": "it was"}, page=where)
    assert "2 GPU-hours are given back" in words(lin.get(where))
    with books.cast.database.read_only() as session:
        [credit] = queries.draft_lines(session, books.cast.yusheng, "2026-12")
        assert credit.amount_micro_yuan == -second.amount_micro_yuan

    paid = {
        "reference": "B-1", "paid_on": "2026-12-05", "amount": "104.94", "payer": "屿声科技",
        "note": statement.number,
    }  # fmt: skip
    assert post(he, "/payments", paid | {"amount": "x"}, page="/payments").status_code == 422
    post(he, "/payments", paid, page="/payments")
    assert books.statement(id).state is StatementState.SETTLED
    fapiao = {"number": "1", "issued_on": "2026-12-05", "amount": "104.94"}
    assert post(he, f"{sheet}/fapiao", fapiao).status_code == 422
    post(he, f"{sheet}/fapiao", fapiao | {"number": "2" * 20})
    assert "Everything is reconciled" in words(he.get("/payments"))
    assert "2026: ¥104.94 payable in closed statements" in words(lin.get("/statements/year"))


def test_every_file_of_an_issued_statement_comes_from_what_was_issued(app: Flask, books: Books) -> None:
    books.use(gpus=4)
    id = books.issued()
    lin = sign_in(app, books.cast.users["lin"], language="en")
    for name, kind in (
        ("export.csv", "text/csv"), ("focus.csv", "text/csv"), ("statement.pdf", "application/pdf"),
        ("statement.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("receipt.json", "application/json"),
    ):  # fmt: skip
        answer = lin.get(f"/statements/{id}/{name}")
        assert answer.status_code == 200 and answer.mimetype == kind, name
        assert "S-202611-00001" in answer.headers["Content-Disposition"]
        assert sign_in(app, books.cast.users["mei"]).get(f"/statements/{id}/{name}").status_code == 404
        assert answer.data == lin.get(f"/statements/{id}/{name}").data, "the same for ever"
    receipt = json.loads(lin.get(f"/statements/{id}/receipt.json").data)
    assert receipt["content"] == books.content(id).content and len(receipt["records"]) == 1
    guest = app.test_client()
    assert "Ed25519" in guest.get("/receipts").text
    assert guest.get("/receipts/verify_receipt.py").text.startswith('"""Checks a receipt offline')


def test_a_payment_that_matches_nothing_is_matched_by_hand(app: Flask, books: Books) -> None:
    books.use(gpus=4)
    id = books.issued()
    he = sign_in(app, books.cast.users["he"], language="en")
    paid = {"reference": "B-9", "paid_on": "2026-12-05", "amount": "69.96", "payer": "某公司", "note": ""}
    page = words(he.get(post(he, "/payments", paid, page="/payments").headers["Location"]))
    assert "One payment matches no statement" in page
    with books.cast.database.read_only() as session:
        [payment] = session.scalars(sa.select(Payment.id))
    wrong = post(he, f"/payments/{payment}/match", {"number": "S-1"}, page="/payments")
    assert wrong.status_code == 422 and "There is no issued statement S-1." in words(wrong)
    post(he, f"/payments/{payment}/match", {"number": books.statement(id).number.lower()}, page="/payments")
    assert books.statement(id).state is StatementState.SETTLED
    post(he, f"/payments/{payment}/unmatch", page="/payments")
    assert books.statement(id).state is StatementState.SETTLED, "what is settled stays"


def test_a_month_of_finance_in_bulk_and_its_pages_ask_ten_questions(app: Flask, books: Books) -> None:
    books.use(gpus=4)
    id = books.close()
    with books.cast.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE statements SET closed_by = NULL"))
    he, wu = (sign_in(app, books.cast.users[who], language="en") for who in ("he", "wu"))
    month = "/statements?month=2026-11"
    post(he, "/statements/check", {"month": "2026-11"}, page=month)
    post(he, "/statements/approve", {"month": "2026-11"}, page=month)
    assert books.statement(id).state is StatementState.IN_REVIEW, "nobody approves what they checked"
    post(wu, "/statements/approve", {"month": "2026-11"}, page=month)
    assert books.statement(id).state is StatementState.APPROVED
    post(he, "/statements/issue", {"month": "2026-11"}, page=month)
    assert "Issuing: 0 of 1 Waits for the scheduler." in words(he.get(month))
    books.issue(id)
    line = books.lines(id)[0]
    books.cast.now = LATER
    post(sign_in(app, books.cast.users["lin"]), f"/statements/lines/{line.id}/dispute", {"reason": "x"})
    with books.cast.database.read_only() as session:
        dispute = session.scalars(sa.select(Dispute.id)).one()
    assert "disputes a line of statement" in words(he.get("/start"))
    opened = re.search(rf'href="(/statements/{id}/line\?[^"]+)"', he.get(f"/statements/{id}").text)
    assert opened is not None
    for page in (
        "/start", month, "/statements/year", f"/statements/{id}", opened[1].replace("&amp;", "&"),
        f"/disputes/{dispute}", "/disputes", "/disputes?all=1", "/payments",
        f"/statements/{id}/issue", f"/statements/{id}/fapiao", f"{month}&only=overdue", f"{month}&only=disputed",
    ):  # fmt: skip
        with Queries(books.cast.database) as asked:
            assert he.get(page).status_code == 200, page
        assert len(asked) <= 10, (page, len(asked), asked.statements)
    assert he.get(f"{month}&only=x").status_code == 404
    assert he.get("/statements/packs/1.zip").status_code == 404, "it is not a pack"


def test_the_steps_of_finance_are_closed_to_everybody_else(app: Flask, books: Books) -> None:
    books.use()
    id = books.close()
    for who in ("xu", "zhou", "an", "lin", "chen"):
        client = sign_in(app, books.cast.users[who])
        for step in ("check", "approve", "settle", "close", "return", "confirm", "issue", "fapiao"):
            assert post(client, f"/statements/{id}/{step}", {"reason": "x"}, page="/account").status_code == 403, step
        assert post(client, "/payments", {}, page="/account").status_code == 403
    assert books.statement(id).state is StatementState.IN_REVIEW
    assert units.yuan(books.statement(id).amount_micro_yuan) == 66
