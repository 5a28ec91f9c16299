"""Lines from charges: each figure rounded once from exact numbers, and nothing lost between lines and totals."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal import units
from compute_portal.statements.capitals import capitals
from compute_portal.statements.pricing import Group, Price, price, to_fen, total
from compute_portal.subsidies.rules import Entitled, Entitlement, SchemeRules
from compute_portal.subsidies.states import Mode, Rounding, SchemeKind
from compute_portal.usage.models import ChargeKind

FEN = units.MICRO_PER_FEN
YUAN = units.MICRO_PER_YUAN
prices = st.builds(
    lambda listed, percent, weight: Price(1, percent or None, weight, listed, listed * (100 - percent) // 100),
    st.integers(0, 40 * YUAN),
    st.integers(0, 100),
    st.sampled_from((1, 143, 500, 1000, 1337, 4000)),
)
schemes = st.builds(
    lambda kind, rate, cap, rounding, digits: SchemeRules(
        1, kind, Mode.DEDUCT, rate_permille=rate, cap_micro_yuan=cap, rounding=rounding, digits=digits,
        unit_yuan=10_000 if digits == 4 else 1, excluded_costs=(), valid_from=dt.date(2026, 1, 1),
    ),
    st.sampled_from(SchemeKind),
    st.integers(0, 1000),
    st.none() | st.integers(0, 500_000).map(lambda fen: fen * FEN),
    st.sampled_from(Rounding),
    st.sampled_from((0, 2, 4)),
)  # fmt: skip
groups = st.lists(
    st.builds(
        lambda booking, price, seconds, late: Group(booking, ChargeKind.USAGE, price, late, seconds, booking % 3, 7),
        st.integers(1, 9),
        prices,
        st.integers(1, 700_000_000),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda group: (group.booking_id, group.price, group.adjustment),
)  # fmt: skip


def entitled(*rules: SchemeRules) -> Entitled:
    return Entitled(
        1,
        "2026-11",
        tuple(
            Entitlement(
                number, number, each, 7 if each.kind is SchemeKind.PROGRAMME else None, each.cap_micro_yuan, None,
                "small",
            )
            for number, each in enumerate(rules, 1)
        ),
        vouchers=frozenset(n for n, each in enumerate(rules, 1) if each.kind is SchemeKind.VOUCHER),
    )  # fmt: skip


def half_up(exact: Fraction) -> int:
    """The fen nearest to it, halves away from zero: another way to say it than the code's."""
    fen = Decimal(exact.numerator) / Decimal(exact.denominator) / FEN
    return int(fen.quantize(Decimal(1), "ROUND_HALF_UP")) * FEN


@given(groups, st.lists(schemes, max_size=2), st.integers(0, 200))
def test_every_line_adds_up_is_rounded_once_and_the_total_is_the_sum_of_the_lines(
    found: list[Group], rules: list[SchemeRules], permille: int
) -> None:
    lines, takes = price(found, entitled(*rules))
    for group, line in zip(found, lines, strict=True):
        exact = Fraction(group.gpu_seconds * group.price.weight_milli, 3_600_000)
        assert line.list_micro_yuan == half_up(exact * group.price.list_micro_yuan)
        assert line.contract_micro_yuan == half_up(exact * group.price.contract_micro_yuan)
        assert (
            line.list_micro_yuan - line.discount_micro_yuan - line.subsidy_micro_yuan - line.voucher_micro_yuan
            == line.net_micro_yuan
        )
        assert line.net_micro_yuan >= 0 and line.net_micro_yuan % FEN == 0
        assert not (line.subsidy_micro_yuan and line.voucher_micro_yuan), "a voucher only without a subsidy"
    sums = total(lines, permille)
    assert sums.amount_micro_yuan == sum(line.net_micro_yuan for line in lines)
    assert sums.tax_micro_yuan == half_up(Fraction(sums.amount_micro_yuan * permille, 1000))
    assert sum(take.amount_micro_yuan for take in takes) == sums.subsidy_micro_yuan + sums.voucher_micro_yuan
    for number, each in enumerate(rules, 1):
        taken = sum(take.amount_micro_yuan for take in takes if take.version_id == number)
        assert each.cap_micro_yuan is None or taken <= each.cap_micro_yuan


@given(groups, schemes)
def test_what_is_given_back_whole_in_the_same_month_or_a_later_one_costs_nothing(
    found: list[Group], rules: SchemeRules
) -> None:
    lines, _ = price(found, entitled(rules))
    back = [
        Group(g.booking_id, ChargeKind.CORRECTION, g.price, g.adjustment, -g.gpu_seconds, g.allocation_id, 7)
        for g in found
    ]
    at_once, takes = price([*found, *back], entitled(rules))
    keys = [(g.booking_id, g.price.tariff_id, g.price.discount_id, g.price.weight_milli) for g in found]
    if len(set(keys)) == len(keys):  # one line per price: its credit is that line again, negative
        assert total(at_once, 60).payable_micro_yuan == 0
        assert sum(take.amount_micro_yuan for take in takes) == 0
        before = {
            key: (line.scheme_version_id, (line.subsidy_micro_yuan + line.voucher_micro_yuan) / line.group.exact)
            for key, line in zip(keys, lines, strict=True)
            if line.scheme_version_id is not None
        }
        later, _ = price(back, entitled(rules), before=before)  # type: ignore[arg-type]
        assert [line.net_micro_yuan for line in later] == [-line.net_micro_yuan for line in lines]


def test_half_a_fen_goes_up_and_a_negative_half_down() -> None:
    # 1 s × 1.0 × 18.00 ÷ 3,600 = 0.005 yuan
    assert to_fen(1, 1000, 18 * YUAN) == FEN
    assert to_fen(-1, 1000, 18 * YUAN) == -FEN
    assert to_fen(1, 999, 18 * YUAN) == 0


@pytest.mark.parametrize(
    ("yuan", "words"),
    [
        ("45715.28", "肆万伍仟柒佰壹拾伍元贰角捌分"),
        ("12345.67", "壹万贰仟叁佰肆拾伍元陆角柒分"),
        ("0.01", "壹分"),
        ("0.10", "壹角整"),
        ("0", "零元整"),
        ("1.05", "壹元零伍分"),
        ("10.50", "壹拾元伍角整"),
        ("1005.05", "壹仟零伍元零伍分"),
        ("10000", "壹万元整"),
        ("10001", "壹万零壹元整"),
        ("100000", "壹拾万元整"),
        ("100200", "壹拾万零贰佰元整"),
        ("20000300", "贰仟万零叁佰元整"),
        ("100010000", "壹亿零壹万元整"),
        ("1000000001", "壹拾亿零壹元整"),
        ("10000000000.00", "壹佰亿元整"),
        ("-3801.60", "负叁仟捌佰零壹元陆角整"),
    ],
)
def test_amounts_are_written_in_chinese_capitals(yuan: str, words: str) -> None:
    assert capitals(int(Decimal(yuan) * YUAN)) == words


def test_capitals_refuse_what_is_not_whole_fen() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        capitals(5)
