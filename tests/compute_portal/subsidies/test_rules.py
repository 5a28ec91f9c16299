"""What schemes give, by hand: six cities' policies, rounding, minimum, caps, one scheme per contract."""

from __future__ import annotations

import dataclasses
import datetime as dt
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.sentences import Refusal
from compute_portal.subsidies import examples
from compute_portal.subsidies.rules import (
    ELSEWHERE,
    Cost,
    Entitled,
    Entitlement,
    Payer,
    Relief,
    SchemeRules,
    Take,
    cases,
    check,
    in_fen,
    relief,
    relieve,
    rounded,
    split,
    takes_of,
)
from compute_portal.subsidies.states import Mode, Rounding, SchemeKind

YUAN = 1_000_000
CITIES = {city: rules for city, (rules, _entry) in examples.read().items()}


def yuan(amount: int | str) -> Fraction:
    return Fraction(amount) * YUAN


# -- the examples -----------------------------------------------------------------------------------------------------


def test_nanning_counts_by_days_and_cuts_off_what_is_below_a_yuan() -> None:
    """305 of 729 days of a contract over 200,000 yuan at 30%: 2.5102 万, which rounding would make 2.5103."""
    rules = CITIES["Nanning"]
    assert relief(yuan(200_000), rules, "small", days=(305, 729)) == 25_102 * YUAN
    rounding = dataclasses.replace(rules, rounding=Rounding.HALF_UP)
    assert relief(yuan(200_000), rounding, "small", days=(305, 729)) == 25_103 * YUAN


@pytest.mark.parametrize(
    ("city", "spent", "traits", "model", "given_yuan"),
    [
        ("Zhuhai", 1_000_000, (), "H800", 500_000),
        ("Zhuhai", 5_000_000, (), "H800", 2_000_000),  # the cap
        ("Zhuhai", 5_000_000, ("champion",), "H800", 2_500_000),
        ("Zhuhai", 30_000_000, ("champion",), "H800", 10_000_000),
        ("Shenzhen", 1_000_000, (), "H800", 500_000),
        ("Shenzhen", 1_000_000, ("startup",), "H800", 600_000),
        ("Shenzhen", 40_000_000, ("startup",), "H800", 10_000_000),
        ("Hangzhou", 1_000_000, (), "NVIDIA H800", 200_000),
        ("Hangzhou", 1_000_000, (), "Ascend 910B", 300_000),
        ("Hangzhou", 1_000_000, ("filed_model",), "NVIDIA H800", 300_000),
        ("Hangzhou", 90_000_000, (), "Ascend 910B", 8_000_000),
        ("Nanning", 1_000_000, (), "H800", 300_000),
        ("Nanning", 9_000_000, (), "H800", 2_000_000),
        ("Qingyang", 1_000_000, (), "H800", 300_000),
        ("Qingyang", 9_000_000, (), "H800", 2_000_000),
        ("Haizhu", 1_000_000, (), "H800", 0),
        ("Haizhu", 1_000_000, ("demo_project",), "H800", 300_000),
        ("Haizhu", 90_000_000, ("model_firm",), "H800", 10_000_000),
    ],
)
def test_each_city_gives_what_its_policy_says(
    city: str, spent: int, traits: tuple[str, ...], model: str, given_yuan: int
) -> None:
    rules = CITIES[city]
    amount = relief(yuan(spent), rules, "small", rules.resource_of(model), rules.cap(traits), traits=traits)
    assert amount == given_yuan * YUAN


def test_a_filed_model_earns_a_bonus_up_to_the_most_of_a_year() -> None:
    rules = CITIES["Zhuhai"]
    assert [rules.bonus(n) for n in range(4)] == [0, 250_000 * YUAN, 500_000 * YUAN, 500_000 * YUAN]
    assert CITIES["Nanning"].bonus(3) == 0


def test_city_and_district_pay_half_each_and_the_odd_fen_is_not_lost() -> None:
    payers = CITIES["Haizhu"].payers
    assert list(split(300_000 * YUAN, payers).values()) == [150_000 * YUAN, 150_000 * YUAN]
    assert list(split(30_000, payers).values()) == [20_000, 10_000]  # three fen
    assert split(5 * YUAN, ()) == {}


def test_a_page_gives_examples_that_the_rule_itself_reckons() -> None:
    def told(city: str) -> list[tuple[str, int, int, str]]:
        rows = cases(CITIES[city]).rows
        return [(e.size_class, e.cost_micro_yuan // YUAN, e.given_micro_yuan // YUAN, e.limit) for e in rows]

    assert told("Zhuhai") == [("", 10_000, 5_000, ""), ("", 100_000, 50_000, ""), ("", 8_000_000, 2_000_000, "cap")]
    assert told("Qingyang")[:2] == [("", 2_500, 0, "minimum"), ("", 10_000, 3_000, "")]
    assert told("Haizhu")[0] == ("", 10_000, 3_000, "") and cases(CITIES["Haizhu"]).trait == "demo_project"
    by_size = dataclasses.replace(CITIES["Zhuhai"], rate_permille=0, rate_by_size={"micro": 700, "small": 500})
    of_10_000 = [e for e in cases(by_size).rows if e.cost_micro_yuan == 10_000 * YUAN]
    sizes = {e.size_class: e.given_micro_yuan // YUAN for e in of_10_000}
    assert sizes == {"micro": 7_000, "small": 5_000, "medium": 0, "large": 0}
    by_card = dataclasses.replace(CITIES["Hangzhou"], rate_permille=0)
    assert cases(by_card).models[0] == "Ascend" and cases(by_card).rows[0].given_micro_yuan == 3_000 * YUAN
    by_trait = dataclasses.replace(
        CITIES["Shenzhen"],
        rate_permille=0,
        rate_by_trait={"startup": 600, "champion": 700},
        cap_micro_yuan=7_000 * YUAN,
    )
    assert cases(by_trait).trait == "champion"
    assert [(e.given_micro_yuan // YUAN, e.limit) for e in cases(by_trait).rows] == [
        (7_000, ""), (7_000, "cap"), (7_000, "cap"),
    ]  # fmt: skip
    promised = dataclasses.replace(
        CITIES["Zhuhai"], rate_of_award=True, rate_by_size={"micro": 700}, cap_micro_yuan=None
    )
    assert cases(promised).award_permille == 300
    assert [e.given_micro_yuan // YUAN for e in cases(promised).rows] == [3_000, 30_000]


@given(st.sampled_from(sorted(CITIES)), st.integers(0, 10**9))
def test_no_example_gives_more_than_the_cost_or_the_cap(city: str, minimum: int) -> None:
    rules = dataclasses.replace(CITIES[city], minimum_micro_yuan=minimum * 10_000)
    found = cases(rules)
    cap = rules.cap((found.trait,) if found.trait else ())
    assert found.rows and all(
        e.given_micro_yuan <= min(e.cost_micro_yuan, cap or e.cost_micro_yuan) for e in found.rows
    )
    assert minimum < 2 or any(e.limit == "minimum" and e.given_micro_yuan == 0 for e in found.rows)


def test_every_example_is_whole_reads_back_and_reimburses() -> None:
    assert list(CITIES) == ["Zhuhai", "Shenzhen", "Hangzhou", "Nanning", "Qingyang", "Haizhu"]
    for rules in CITIES.values():
        check(rules)
        assert SchemeRules.from_json(rules.to_json()) == rules
        assert rules.mode is Mode.REIMBURSE and rules.no_double


# -- rounding ---------------------------------------------------------------------------------------------------------


def plain(**changes: object) -> SchemeRules:
    values: dict[str, object] = {"number": 1, "kind": SchemeKind.VOUCHER, "mode": Mode.DEDUCT, "rate_permille": 300}
    return SchemeRules(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rounding", "unit", "digits", "exact", "expected"),
    [
        (Rounding.HALF_UP, 1, 2, "0.005", 10_000),
        (Rounding.HALF_UP, 1, 2, "0.00499999", 0),
        (Rounding.CUT, 1, 2, "0.00999999", 0),
        (Rounding.CUT, 1, 2, "25102.88", 25_102_880_000),
        (Rounding.CUT, 1, 0, "25102.88", 25_102_000_000),
        (Rounding.HALF_UP, 1, 0, "25102.88", 25_103_000_000),
        (Rounding.CUT, 10_000, 4, "25102.88", 25_102_000_000),
        (Rounding.HALF_UP, 10_000, 2, "25150", 25_200_000_000),
    ],
)
def test_an_amount_is_rounded_by_its_scheme(
    rounding: Rounding, unit: int, digits: int, exact: str, expected: int
) -> None:
    rules = plain(rounding=rounding, unit_yuan=unit, digits=digits)
    assert rounded(yuan(exact), rules) == expected
    assert rounded(-yuan(exact), rules) == -expected


AMOUNTS = st.fractions(min_value=0, max_value=10**15, max_denominator=10**7)


@given(
    exact=AMOUNTS,
    more=AMOUNTS,
    rate=st.integers(0, 1000),
    left=st.none() | st.integers(0, 10**11).map(lambda fen: fen * 10_000),
    rounding=st.sampled_from(Rounding),
    step=st.sampled_from([(1, 2), (1, 0), (10_000, 4), (10_000, 2)]),
    days=st.tuples(st.integers(0, 31), st.just(31)),
)
def test_relief_stays_below_cost_and_cap_grows_with_the_cost_and_is_rounded_once(
    exact: Fraction, more: Fraction, rate: int, left: int | None, rounding: Rounding, step: tuple[int, int],
    days: tuple[int, int],
) -> None:  # fmt: skip
    rules = plain(rate_permille=rate, rounding=rounding, unit_yuan=step[0], digits=step[1])
    amount = relief(exact, rules, "small", None, left, days=days)
    assert 0 <= amount <= in_fen(exact)
    assert left is None or amount <= left
    assert amount <= relief(exact + more, rules, "small", None, left, days=days)
    if left is None and amount < in_fen(exact):
        # Once: the error against the exact figure is that of one rounding.
        error = amount - exact * rate * days[0] / (1000 * days[1])
        step_size = rules.step_micro_yuan
        assert -step_size < error <= 0 if rounding is Rounding.CUT else abs(error) <= Fraction(step_size, 2)
    assert relief(-exact, rules, "small", days=days) == -relief(exact, rules, "small", days=days)


# -- a month ----------------------------------------------------------------------------------------------------------


def entitlement(scheme_id: int = 1, programme_id: int | None = None, **changes: object) -> Entitlement:
    own = {name: changes.pop(name) for name in ("left_of_cap_micro_yuan", "left_of_pool_micro_yuan") if name in changes}
    if programme_id is not None:
        changes["kind"] = SchemeKind.PROGRAMME
    values: dict[str, object] = {"left_of_cap_micro_yuan": None, "left_of_pool_micro_yuan": None}
    return Entitlement(scheme_id * 10, scheme_id, plain(**changes), programme_id, size_class="small", **(values | own))  # type: ignore[arg-type]


def cost(amount: int | str, allocation_id: int = 1, programme_id: int = 1, kind: str = "usage", **more: object) -> Cost:
    return Cost(yuan(amount), kind, allocation_id, programme_id, **more)  # type: ignore[arg-type]


def month(*entitlements: Entitlement, bound: dict[int, int] | None = None) -> Entitled:
    vouchers = frozenset(each.version_id for each in entitlements if each.programme_id is None)
    return Entitled(1, "2026-11", entitlements, bound or {}, vouchers)


def test_a_programmes_subsidy_goes_first_and_its_contract_gets_no_voucher() -> None:
    entitled = month(entitlement(1, rate_permille=900), entitlement(2, programme_id=7, rate_permille=100))
    costs = [cost(100, 1, programme_id=7), cost(100, 2, programme_id=8)]
    assert relieve(entitled, costs) == [Relief(20, 10 * YUAN, 0), Relief(10, 0, 90 * YUAN)]
    assert takes_of(costs, relieve(entitled, costs)) == [Take(10, 90 * YUAN, (2,)), Take(20, 10 * YUAN, (1,))]


def test_the_promise_of_the_award_is_the_rate_where_the_scheme_says_so() -> None:
    entitled = month(entitlement(1, programme_id=7, rate_of_award=True, rate_permille=0))
    reliefs = relieve(entitled, [cost(100, 1, 7, award_permille=600), cost(100, 2, 7)])
    assert [each.amount for each in reliefs] == [60 * YUAN, 0]


def test_of_two_vouchers_a_contract_gets_the_better_one_and_never_both() -> None:
    entitled = month(
        entitlement(1, rate_permille=200),
        entitlement(2, rate_permille=500, left_of_cap_micro_yuan=60 * YUAN),
    )
    costs = [cost(100, 1), cost(100, 1), cost(100, 2)]
    assert relieve(entitled, costs) == [
        Relief(20, 0, 50 * YUAN),
        Relief(20, 0, 10 * YUAN),  # the rest of its cap; the other scheme does not step in
        Relief(10, 0, 20 * YUAN),  # another contract, and nothing is left of the better one
    ]


def test_a_contract_that_stands_in_another_scheme_gets_nothing() -> None:
    schemes = (entitlement(1, rate_permille=200), entitlement(2, rate_permille=500))
    assert relieve(month(*schemes, bound={1: 1}), [cost(100)]) == [Relief(10, 0, 20 * YUAN)]
    assert relieve(month(*schemes, bound={1: ELSEWHERE}), [cost(100)]) == [Relief()]
    tolerant = entitlement(3, rate_permille=100, no_double=False)
    assert relieve(month(*schemes, tolerant, bound={1: ELSEWHERE}), [cost(100)]) == [Relief(30, 0, 10 * YUAN)]


def test_below_the_minimum_of_the_month_there_is_nothing() -> None:
    entitled = month(entitlement(1, minimum_micro_yuan=5_000 * YUAN))
    assert relieve(entitled, [cost(4_999)]) == [Relief()]
    assert [each.amount for each in relieve(entitled, [cost(2_500, 1), cost(2_500, 2)])] == [750 * YUAN, 750 * YUAN]
    # Fees are no cost of computing: they do not lift the month above the minimum either.
    assert [each.amount for each in relieve(entitled, [cost(4_000), cost(4_000, kind="no_show")])] == [0, 0]


def test_fees_for_hours_nobody_used_are_not_borne() -> None:
    assert relieve(month(entitlement(1)), [cost(100, kind="cancellation"), cost(100)]) == [
        Relief(),
        Relief(10, 0, 30 * YUAN),
    ]


def test_cap_and_pool_are_used_up_in_the_order_of_the_lines() -> None:
    entitled = month(entitlement(1, left_of_cap_micro_yuan=50 * YUAN, left_of_pool_micro_yuan=40 * YUAN))
    assert [each.amount // YUAN for each in relieve(entitled, [cost(100, 1), cost(100, 2), cost(100, 3)])] == [
        30,
        10,
        0,
    ]


def test_a_pool_is_shared_by_the_enterprises_that_are_closed_together() -> None:
    pools: dict[int, int | None] = {}
    entitled = month(entitlement(1, left_of_pool_micro_yuan=40 * YUAN))
    amounts = [relieve(entitled, [cost(100)], pools)[0].amount // YUAN for _ in range(3)]
    assert amounts == [30, 10, 0]


def test_a_credit_takes_back_the_part_that_was_given_and_no_more() -> None:
    """The line's subsidy had been cut by a cap: 10 of 100 yuan. A credit of half of it takes 5 back, not 15."""
    entitled = month(entitlement(1, left_of_cap_micro_yuan=0))
    credit = cost(-50, given_before=(10, Fraction(10, 100)))
    assert relieve(entitled, [credit]) == [Relief(10, 0, -5 * YUAN)]
    former = month(entitlement(2))
    assert relieve(former, [credit]) == [Relief(10, -5 * YUAN, 0)]  # a version that is no voucher: a programme's
    assert relieve(entitled, [cost(-50)]) == [Relief()]


def test_what_a_credit_gives_back_may_be_taken_again() -> None:
    entitled = month(entitlement(1, left_of_cap_micro_yuan=0))
    costs = [cost(-50, given_before=(10, Fraction(1, 2))), cost(100, 2)]
    assert [each.amount // YUAN for each in relieve(entitled, costs)] == [-25, 25]


@given(
    costs=st.lists(
        st.builds(
            Cost,
            exact=st.fractions(min_value=-(10**10), max_value=10**12, max_denominator=3600),
            kind=st.sampled_from(["usage", "no_show", "outage"]),
            allocation_id=st.integers(1, 3),
            programme_id=st.integers(7, 8),
            award_permille=st.sampled_from([0, 500, 1000]),
        ),
        max_size=8,
    ),
    cap=st.none() | st.integers(0, 10**7).map(lambda fen: fen * 10_000),
    pool=st.none() | st.integers(0, 10**7).map(lambda fen: fen * 10_000),
)
def test_whatever_the_lines_a_contract_has_one_scheme_and_nothing_exceeds_its_limits(
    costs: list[Cost], cap: int | None, pool: int | None
) -> None:
    limits = {"left_of_cap_micro_yuan": cap, "left_of_pool_micro_yuan": pool}
    entitled = month(
        entitlement(1, **limits),
        entitlement(2, rate_permille=500, **limits),
        entitlement(3, programme_id=7, rate_of_award=True, **limits),
    )
    reliefs = relieve(entitled, costs)
    assert [each.amount for each in reliefs if each.version_id is None] == [0] * reliefs.count(Relief())
    schemes: dict[int, set[int]] = {}
    for one, each in zip(costs, reliefs, strict=True):
        assert 0 <= each.amount <= max(0, in_fen(one.exact))
        assert not (each.subsidy_micro_yuan and each.voucher_micro_yuan)
        if each.version_id is not None:
            schemes.setdefault(one.allocation_id, set()).add(each.version_id)
    assert all(len(found) == 1 for found in schemes.values())
    for take in takes_of(costs, reliefs):
        assert all(limit is None or take.amount_micro_yuan <= limit for limit in (cap, pool))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rate_permille": 1001}, "rate"),
        ({"rate_by_size": {"small": -1}}, "rate"),
        ({"digits": 3}, "digits"),
        ({"unit_yuan": 10_000, "digits": 7}, "digits"),
        ({"cap_micro_yuan": 1}, "cap"),
        ({"pool_micro_yuan": -10_000}, "cap"),
        ({"valid_from": dt.date(2026, 2, 1), "valid_until": dt.date(2026, 1, 31)}, "valid_until"),
        ({"payers": (Payer("city", 0),)}, "payers"),
        ({"months": 0}, "months"),
        ({"size_classes": ()}, "size_classes"),
    ],
)
def test_rules_that_cannot_hold_are_refused_at_their_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        check(plain(**changes))
    assert refused.value.field == field


def test_the_days_of_a_month_in_which_a_scheme_is_in_force_are_counted() -> None:
    rules = plain(valid_from=dt.date(2026, 11, 16), valid_until=dt.date(2027, 2, 27))
    assert [rules.days_in(month) for month in ("2026-10", "2026-11", "2026-12", "2027-02", "2027-03")] == [
        (0, 31),
        (15, 30),
        (31, 31),
        (27, 28),
        (0, 31),
    ]
