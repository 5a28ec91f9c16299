"""The pages of claims: an enterprise's, the queue of finance, the audit; and the pass that opens claims."""

from __future__ import annotations

import io
import zipfile
from fractions import Fraction

import pytest
from flask import Flask

from compute_portal import units
from compute_portal.access import SYSTEM, Role
from compute_portal.claims import audit
from compute_portal.claims.audit import Finding
from compute_portal.claims.models import Claim
from compute_portal.claims.states import ClaimState
from compute_portal.policy import AuditPolicy, Policy
from compute_portal.signin.models import BureauRole
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.models import PowerReading
from scheduler import claiming
from scheduler.context import simulation
from tests.cast import NOW, Cast
from tests.compute_portal.claims.test_claims import load, open_one, prove, settled
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def state_of(cast: Cast, claim_id: int) -> ClaimState:
    with cast.database.read_only() as session:
        return session.get_one(Claim, claim_id).state


def test_a_claim_is_confirmed_checked_approved_and_paid_on_its_page(app: Flask, cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    (claim,) = open_one(cast, settled(cast, policy, [1_000]))
    prove(cast, claim)
    page = f"/claims/{claim}"
    lin = sign_in(app, cast.users["lin"], language="en")
    assert "One claim is ready for you to confirm" in words(lin.get("/claims"))
    assert "¥300.00 of subsidy, once you confirm it with its papers" in words(lin.get("/start"))
    with Queries(cast.database) as asked:
        shown = words(lin.get(page))
    assert len(asked) <= 10
    assert "¥300.00 of ¥1,000.00 come back" in shown and "The evidence still lacks one part" in shown
    assert post(lin, f"{page}/confirm", page=page).status_code == 409
    answer = post(lin, f"{page}/attach", {"document": (io.BytesIO(b"text"), "a.txt")}, page=page)
    assert answer.status_code == 422
    assert post(lin, f"{page}/attach", {"document": (io.BytesIO(b"%PDF-1.4"), "a.pdf")}, page=page).status_code == 302
    assert "Confirm ¥300.00" in words(lin.get(page))
    assert post(lin, f"{page}/confirm", page=page).status_code == 302
    he = sign_in(app, cast.users["he"], language="en")
    assert "One claim waits for finance" in words(he.get("/claims"))
    assert "of Yusheng Voice To be checked" in words(he.get("/start"))
    pack = he.get(f"{page}/pack.zip")
    assert "manifest.json" in zipfile.ZipFile(io.BytesIO(pack.data)).namelist()
    assert post(he, f"{page}/check", page=page).status_code == 302
    assert "You checked it; another person approves it." in words(he.get(page))
    assert "Checked: a second person approves" in words(he.get("/start"))
    assert post(he, f"{page}/approve", page=page).status_code == 409
    answer = post(he, f"{page}/decline", {"reason": " "}, page=page)
    assert answer.status_code == 422
    cast.database.transaction(lambda s: s.add(BureauRole(user_id=cast.users["wu"], role=Role.FINANCE, given_at=NOW)))
    wu = sign_in(app, cast.users["wu"], language="en")
    assert post(wu, f"{page}/approve", page=page).status_code == 302
    assert "Approved: to be paid" in words(he.get("/start"))
    sent = {"paid_on": "2026-11-18", "payment_reference": "GK-1"}
    for field, value in (("paid_on", "2026-11-30"), ("paid_on", "x"), ("payment_reference", "")):
        answer = post(he, f"{page}/pay", sent | {field: value}, page=page)
        assert answer.status_code == 422 and ("GK-1" in answer.text or field == "payment_reference")
    assert post(he, f"{page}/pay", sent, page=page).status_code == 302
    assert state_of(cast, claim) is ClaimState.PAID
    assert "Nothing waits for you" in words(he.get("/start"))
    mei = sign_in(app, cast.users["mei"])
    assert mei.get(page).status_code == 404 and mei.get(f"{page}/pack.zip").status_code == 404
    assert he.get("/claims?state=lost").status_code == 404


def test_finance_declines_with_a_reason_and_an_enterprise_withdraws(app: Flask, cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    (first,) = open_one(cast, settled(cast, policy, [1_000]))
    (second,) = open_one(cast, settled(cast, policy, [1_000], month="2026-12"))
    lin = sign_in(app, cast.users["lin"], language="en")
    assert post(lin, f"/claims/{first}/withdraw", page=f"/claims/{first}").status_code == 302
    assert state_of(cast, first) is ClaimState.WITHDRAWN
    cast.database.transaction(lambda s: s.get_one(Claim, second).__setattr__("state", ClaimState.CONFIRMED))
    he = sign_in(app, cast.users["he"], language="en")
    answer = post(he, f"/claims/{second}/decline", {"reason": "发票抬头不符"}, page=f"/claims/{second}")
    assert answer.status_code == 302
    assert state_of(cast, second) is ClaimState.DECLINED


def test_the_timetable_opens_claims_on_settled_statements_once(cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    settled(cast, policy, [1_000])
    settled(cast, policy, [20], month="2026-12")
    context = simulation(cast.database, policy)
    assert [claiming.run(context, NOW), claiming.run(context, NOW)] == [2, 0]
    context.leader.release()
    assert rows_in(cast.database, Claim) == 2


# -- audit ------------------------------------------------------------------------------------------------------------

RULE = AuditPolicy(pue_permille=1300, power_least_percent=40, sample_most=100)


def test_a_sample_is_the_same_for_everybody_with_the_same_seed(app: Flask, cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    for year in range(2026, 2032):
        open_one(cast, settled(cast, policy, [1_000], month=f"{year}-11"))
    with cast.database.read_only() as session:
        drawn = {seed: audit.sample(session, "2026-11", seed=seed, size=5).drawn for seed in ("a", "b")}
        assert [each.use.id for each in drawn["a"]] == [
            each.use.id for each in audit.sample(session, "2026-11", seed="a", size=9).drawn[:5]
        ]
    assert len(drawn["a"]) == 1 and drawn["a"][0].claim is not None
    xu = sign_in(app, cast.users["xu"], language="en")
    with Queries(cast.database) as asked:
        shown = words(xu.get("/audit?month=2026-11&seed=hearing-7&size=3"))
    assert len(asked) <= 10
    assert "1 of 1 subsidies of November 2026 drawn" in shown and "no reading yet" in shown
    for address in ("/audit?month=2026-13", "/audit?seed=a b", "/audit?size=-1"):
        assert xu.get(address).status_code == 404
    assert sign_in(app, cast.users["zhou"]).get("/audit").status_code == 403


def test_a_seed_orders_the_population_by_hash(cast: Cast, policy: Policy) -> None:
    """Twenty subsidies: two seeds draw different ones, a larger sample holds the smaller one."""
    from compute_portal.subsidies import queries
    from compute_portal.subsidies.rules import Take
    from tests.compute_portal.subsidies.test_service import open_scheme, statement

    scheme, version = open_scheme(cast, budget_yuan=100_000)
    for n in range(20):
        made = statement(cast, cast.yusheng, f"{2000 + n}-01")
        cast.database.transaction(
            lambda s, made=made: subsidies.take(
                s, made, cast.yusheng, "2026-11", [Take(version, units.MICRO_PER_YUAN)], by=SYSTEM, now=NOW
            )
        )
    with cast.database.read_only() as session:
        assert queries.used_in_year(session, 2026) == {scheme: 20 * units.MICRO_PER_YUAN}
        few, more, other = (
            [each.use.id for each in audit.sample(session, "2026-11", seed=seed, size=size).drawn]
            for seed, size in (("a", 5), ("a", 10), ("b", 5))
        )
    assert few == more[:5] and set(few) != set(other) and len(set(more)) == 10


@pytest.mark.parametrize(
    ("measured", "finding"),
    [
        (None, Finding.NO_READING),
        (399, Finding.TOO_LITTLE),
        (400, Finding.PLAUSIBLE),
        (5_000, Finding.PLAUSIBLE),
        (5_001, Finding.TOO_MUCH),
    ],
)
def test_hours_that_the_electricity_does_not_carry_are_named(measured: int | None, finding: Finding) -> None:
    assert audit.judge(measured, Fraction(1_000), Fraction(5_000), RULE) is finding


def test_kilowatt_hours_are_seconds_times_watts_times_pue() -> None:
    # 1,000 GPU-hours at 700 W and a PUE of 1.3
    assert audit.kilowatt_hours(3_600_000, 700, RULE) == 910


def test_an_operator_enters_a_reading_and_a_later_one_corrects_it(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    sent = {"pool_id": str(cast.pool), "month": "2026-10", "kilowatt_hours": "30", "source": "3 号电表"}
    for field, value in (("month", "2026-13"), ("month", "2026-11"), ("kilowatt_hours", "viel"), ("source", "")):
        answer = post(zhou, "/readings", sent | {field: value})
        assert answer.status_code == 422, field
    assert rows_in(cast.database, PowerReading) == 0
    for amount in ("30", "40"):
        assert post(zhou, "/readings", sent | {"kilowatt_hours": amount}).status_code == 302
    shown = words(zhou.get("/readings?month=2026-10"))
    assert "40 3 号电表 plausible" in shown
    xu = sign_in(app, cast.users["xu"])
    assert xu.get("/readings").status_code == 200
    assert post(xu, "/readings", sent).status_code == 403
