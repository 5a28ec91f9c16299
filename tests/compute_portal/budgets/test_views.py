"""The manager's page of sub-budgets and the administrator's rules."""

from __future__ import annotations

import pytest
from flask import Flask

from compute_portal import units
from compute_portal.budgets.queries import budgets_of, rules_in_force
from compute_portal.budgets.states import Action
from compute_portal.policy import Policy
from tests.cast import NOW, Cast
from tests.web import make_app, post, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_a_manager_sets_limits_sees_what_was_booked_and_keeps_what_was_typed_when_it_is_too_much(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    cast.submit(cast.flexible(4, 2), policy.bookings)
    page = f"/allocations/{cast.allocation}/budgets"
    lin = sign_in(app, cast.users["lin"], language="en")
    chen = f"limit_{cast.users['chen']}"
    answer = post(lin, page, {chen: "30,000", "reserve": "500"})
    assert answer.status_code == 422
    assert "Sub-budgets and reserve are 30,500 GPU-hours together; the allocation has 20,000." in words(answer)
    assert 'value="30,000"' in answer.text
    answer = post(lin, page, {chen: "viel", "reserve": ""})
    assert answer.status_code == 422
    assert "Enter a number" in words(answer)
    assert post(lin, page, {chen: "30", "reserve": "500"}).status_code == 302
    with cast.database.read_only() as session:
        found = budgets_of(session, cast.allocation)
    assert (found.of, found.reserve) == ({cast.users["chen"]: units.gpu_seconds(30)}, units.gpu_seconds(500))
    shown = words(lin.get(page))
    assert "530 of 20,000 GPU-hours are given to members or kept back" in shown
    assert "Chen Yi member 8.00" in shown


def test_a_member_reads_the_sub_budgets_and_cannot_set_them_and_another_company_finds_no_page(
    app: Flask, cast: Cast
) -> None:
    page = f"/allocations/{cast.allocation}/budgets"
    chen = sign_in(app, cast.users["chen"], language="en")
    shown = chen.get(page)
    assert "no limit" in words(shown)
    assert 'name="reserve"' not in shown.text
    assert post(chen, page, {"reserve": "1"}).status_code == 403
    mei = sign_in(app, cast.users["mei"])
    assert mei.get(page).status_code == 404
    assert post(mei, page, {"reserve": "1"}).status_code == 404


RULES = {
    "notify": "60, 90", "slow": "110", "block": "120", "end": "", "days": "30，7", "overdraft_percent": "20",
    "why": "试行透支",
}  # fmt: skip


def test_an_administrator_puts_rules_in_force_and_the_page_keeps_every_version(app: Flask, cast: Cast) -> None:
    an = sign_in(app, cast.users["an"], language="en")
    assert "Nothing can be booked beyond an award" in words(an.get("/budget-rules"))
    assert post(an, "/budget-rules", RULES).status_code == 302
    with cast.database.read_only() as session:
        rules = rules_in_force(session)
    assert rules.thresholds == (
        (60, Action.NOTIFY), (90, Action.NOTIFY), (110, Action.SLOW), (120, Action.BLOCK),
    )  # fmt: skip
    assert (rules.days, rules.overdraft_percent) == ((30, 7), 20)
    shown = words(an.get("/budget-rules"))
    assert "An award may be overdrawn by 20%" in shown
    assert "2 versions" in shown
    assert "An Ran 试行透支" in shown
    assert "The system The rules this portal begins with" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"notify": "fünfzig"}, "Enter whole numbers up to 1,000, separated by commas"),
        ({"days": "-1"}, "Enter whole numbers up to 365"),
        ({"overdraft_percent": "101"}, "Enter whole numbers up to 100"),
        ({"slow": "60"}, "The same percentage stands in two fields."),
        ({"why": ""}, "This is needed."),
    ],
)
def test_rules_that_cannot_be_read_are_refused_at_their_field(
    app: Flask, cast: Cast, changes: dict[str, str], said: str
) -> None:
    an = sign_in(app, cast.users["an"], language="en")
    answer = post(an, "/budget-rules", RULES | changes)
    assert answer.status_code == 422
    assert said in words(answer)
    with cast.database.read_only() as session:
        assert rules_in_force(session).overdraft_percent == 0


def test_an_operator_reads_the_rules_and_may_not_set_them(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"])
    answer = zhou.get("/budget-rules")
    assert answer.status_code == 200
    assert 'name="notify"' not in answer.text
    assert post(zhou, "/budget-rules", RULES).status_code == 403
