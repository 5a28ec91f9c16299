"""Pages of schemes and budgets for finance, of subsidies for enterprises, and what their forms refuse."""

from __future__ import annotations

import csv
import datetime as dt
import io

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.access import SYSTEM
from compute_portal.policy import Policy
from compute_portal.subsidies import examples, queries, service
from compute_portal.subsidies.models import ContractSubsidy, Scheme, SchemeVersion, Trait
from compute_portal.subsidies.rules import Take
from tests.cast import NOW, Cast
from tests.compute_portal.subsidies.test_service import statement
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words

YUAN = units.MICRO_PER_YUAN


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


FILLED = {
    "name": "市级算力券", "name_en": "City vouchers", "programme_id": "0", "mode": "deduct", "rate": "33.5",
    "rate_by_trait": "startup 60\nchampion 55", "rate_by_resource": "domestic 40",
    "resources": "domestic: Ascend, 910B", "cap": "2,000,000", "cap_by_trait": "champion 10000000",
    "pool": "50,000,000", "minimum": "5,000", "for_micro": "y", "for_small": "y", "any_trait": "",
    "excluded_costs": "no_show, cancellation", "suppliers": "", "no_double": "y", "pro_rata": "y",
    "rounding": "cut", "unit_yuan": "10000", "digits": "4", "valid_from": "2026-11-01", "valid_until": "2027-10-31",
    "months": "12", "payers": "市 1\n区 1", "bonus_trait": "", "note_zh": "免申即享。", "note_en": "",
    "from_on": "2026-11-01", "why": "首版",
}  # fmt: skip


def test_finance_opens_a_scheme_from_the_form_funds_it_and_revises_it(app: Flask, cast: Cast) -> None:
    he = sign_in(app, cast.users["he"], language="en")
    for field, value, sentence in (
        ("rate", "120", "Enter a percentage from 0 to 100"),
        ("rate_by_trait", "startup", "Write a name and a percentage on each line"),
        ("cap_by_trait", "champion viel", "Write a name and yuan on each line"),
        ("resources", "domestic", "Write a class, a colon and names of GPU models"),
        ("payers", "市", "Write a name and a number of parts"),
        ("digits", "7", "Choose one of"),
        ("from_on", "2026-11-15", "A version begins on the first day of a month."),
        ("valid_until", "2026-10-01", "The end is before the start"),
        ("name", "", "Fill this in"),
    ):
        answer = post(he, "/schemes/new", FILLED | {field: value})
        assert answer.status_code == 422, field
        assert sentence in words(answer) or field in ("digits", "name"), (field, words(answer)[:2000])
    assert rows_in(cast.database, Scheme) == 0
    assert post(he, "/schemes/new", FILLED).status_code == 302
    with cast.database.read_only() as session:
        rules = queries.rules_of(session, [1])[1]
    assert (rules.rate_permille, rules.rate_by_trait, rules.size_classes) == (
        335, {"startup": 600, "champion": 550}, ("micro", "small"),
    )  # fmt: skip
    assert (rules.cap_micro_yuan, rules.cap_by_trait) == (2_000_000 * YUAN, {"champion": 10_000_000 * YUAN})
    assert rules.resources == {"domestic": ("Ascend", "910B")}
    assert [(payer.name, payer.parts) for payer in rules.payers] == [("市", 1), ("区", 1)]
    assert post(he, "/schemes/1/fund", {"amount": "viel"}, page="/schemes/1").status_code == 422
    assert post(he, "/schemes/1/fund", {"amount": "1,000,000"}, page="/schemes/1").status_code == 302
    assert "¥1,000,000.00 of ¥1,000,000.00 are left" in words(he.get("/schemes/1"))
    assert "For example What it bears of a company’s cost in its first month" in words(he.get("/schemes/1"))
    shown = he.get("/schemes/1/revise").text
    assert "startup 60\nchampion 55" in shown and 'value="2026-12-01"' in shown
    later = FILLED | {"rate": "30", "from_on": "2026-12-01"}
    answer = post(he, "/schemes/1/revise", later | {"why": " "})
    assert answer.status_code == 422 and "startup 60" in answer.text
    assert post(he, "/schemes/1/revise", later | {"why": "比例下调"}).status_code == 302
    assert rows_in(cast.database, SchemeVersion) == 2
    assert "33.5%" in words(he.get("/schemes/1")) and "30%" in words(he.get("/schemes/1?version=2"))


def test_budgets_show_the_past_and_the_file_says_the_same(app: Flask, cast: Cast) -> None:
    def year(session: Session) -> None:
        january = NOW - dt.timedelta(days=300)
        scheme = examples.load(session, from_on=dt.date(2026, 1, 1), by=SYSTEM, now=january, only=("Nanning",))[
            "Nanning"
        ]
        version = queries.list_versions(session, scheme.id)[0].id
        take = [Take(version, 3_000 * YUAN)]
        service.take(session, statement_id, cast.yusheng, "2026-10", take, by=SYSTEM, now=NOW - dt.timedelta(days=10))

    statement_id = statement(cast, cast.yusheng)
    cast.database.transaction(year)
    he = sign_in(app, cast.users["he"], language="en")
    with Queries(cast.database) as asked:
        shown = words(he.get("/schemes"))
    assert len(asked) <= 10
    assert "¥49,997,000.00 of ¥50,000,000.00 are left in one scheme" in shown
    assert "¥50,000,000.00 of ¥50,000,000.00 are left" in words(he.get("/schemes/1?on=2026-10-31"))
    assert "No money yet" in words(he.get("/schemes/1")) or "Entry" in words(he.get("/schemes/1"))
    (row,) = csv.DictReader(io.StringIO(he.get("/schemes/export.csv").text.lstrip("\ufeff")))
    assert (row["committed_cny"], row["left_cny"]) == ("3000.00", "49997000.00")
    # 3,000 in eleven days: 43 days more
    assert row["forecast_taken_cny"] == "14727.27"
    days = list(csv.DictReader(io.StringIO(he.get("/schemes/1/budget.csv").text.lstrip("\ufeff"))))
    assert [(day["on"], day["left_cny"]) for day in days] == [
        ("2025-12-31", "0.00"), ("2026-01-22", "50000000.00"), ("2026-11-08", "49997000.00"),
        ("2026-11-18", "49997000.00"),
    ]  # fmt: skip
    with Queries(cast.database) as asked:
        assert "<polygon" in he.get("/schemes/1").text
    assert len(asked) <= 10
    for address in ("/schemes?on=gestern", "/schemes/1?on=0001-01-01", "/schemes/99"):
        assert he.get(address).status_code == 404


def test_an_enterprise_sees_what_it_is_entitled_to_and_declares_what_comes_from_elsewhere(
    app: Flask, cast: Cast
) -> None:
    cast.database.transaction(
        lambda s: examples.load(s, from_on=dt.date(2026, 11, 1), by=SYSTEM, now=NOW, only=("Nanning", "Haizhu"))
    )
    lin = sign_in(app, cast.users["lin"], language="en")
    with Queries(cast.database) as asked:
        shown = words(lin.get("/subsidies"))
    assert len(asked) <= 10
    assert "One scheme bears part of the cost in November 2026" in shown and "Nanning vouchers (example)" in shown
    page = "/subsidies/declare"
    sent = {"allocation_id": str(cast.allocation), "elsewhere": "广东省专项", "amount": "120,000"}
    for field, value in (("elsewhere", ""), ("amount", "viel"), ("allocation_id", str(cast.other_allocation))):
        answer = post(lin, page, sent | {field: value})
        assert answer.status_code == 422, field
    assert rows_in(cast.database, ContractSubsidy) == 0
    assert post(lin, page, sent).status_code == 302
    answer = post(lin, page, sent | {"elsewhere": "另一项"})
    assert answer.status_code == 422
    assert "The same contract is subsidised once." in words(answer) and "另一项" in answer.text
    assert "elsewhere, as declared" in words(lin.get("/subsidies"))
    assert sign_in(app, cast.users["chen"]).get("/subsidies").status_code == 403
    assert sign_in(app, cast.users["mei"]).get("/subsidies/1").status_code == 403


def test_finance_enters_what_a_company_is_and_ends_it(app: Flask, cast: Cast) -> None:
    he = sign_in(app, cast.users["he"], language="en")
    page = f"/subsidies/{cast.yusheng}/traits"
    sent = {"trait": "startup", "evidence": "名单第 12 号", "from_on": "2026-11-01", "until_on": ""}
    for field, value in (("evidence", ""), ("until_on", "2026-10-01"), ("trait", "giant"), ("from_on", "x")):
        assert post(he, page, sent | {field: value}).status_code == 422, field
    assert rows_in(cast.database, Trait) == 0
    assert post(he, page, sent).status_code == 302
    assert "Start-up 名单第 12 号 1 November 2026" in words(he.get(page))
    assert post(he, "/traits/1/end", page=page).status_code == 302
    assert post(he, "/traits/1/end", page=page).status_code == 409
    assert sign_in(app, cast.users["xu"]).post("/traits/1/end").status_code in (400, 403)
