"""What a change of mind costs, at every border minute; and what of it comes back."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_portal.bookings import fees, strikes
from compute_portal.bookings.fees import Part, Taken
from compute_portal.policy import CancelStep, Policy
from compute_portal.pools.prices import PricePoint, Stretch
from tests.cast import HOUR, NOW

MINUTE = dt.timedelta(minutes=1)
SECOND = dt.timedelta(seconds=1)
START = NOW + 100 * HOUR
DAY, NIGHT = PricePoint(1, 16_500_000, None, 16_500_000), PricePoint(2, 8_000_000, None, 8_000_000)


@pytest.mark.parametrize(
    ("before", "percent"),
    [
        (100 * HOUR, 0),
        (48 * HOUR + MINUTE, 0),
        (48 * HOUR, 0),
        (48 * HOUR - SECOND, 25),
        (48 * HOUR - MINUTE, 25),
        (24 * HOUR + MINUTE, 25),
        (24 * HOUR, 25),
        (24 * HOUR - SECOND, 50),
        (24 * HOUR - MINUTE, 50),
        (MINUTE, 50),
        (SECOND, 50),
        (0 * HOUR, 0),  # its time has come and the city is late
        (-MINUTE, 0),
    ],
)
def test_the_charge_at_each_border_minute(policy: Policy, before: dt.timedelta, percent: int) -> None:
    assert fees.cancel_percent(START, START - before, policy.bookings) == percent


def test_the_terms_shown_are_the_terms_that_hold(policy: Policy) -> None:
    terms = fees.cancel_terms(START, policy.bookings)
    assert [(term.until_at, term.percent) for term in terms] == [
        (START - 48 * HOUR, 0),
        (START - 24 * HOUR, 25),
        (START, 50),
    ]
    for term in terms[:-1]:
        assert fees.cancel_percent(START, term.until_at, policy.bookings) == term.percent


def test_steps_out_of_order_are_no_policy(policy: Policy) -> None:
    raw = policy.bookings.model_dump()
    for steps in ([], [CancelStep(hours_before=24, percent=25)], [{"hours_before": 0, "percent": 5}] * 2):
        with pytest.raises(ValueError, match="cancel_steps"):
            type(policy.bookings).model_validate(raw | {"cancel_steps": steps})


def test_a_part_of_a_window_with_two_prices_is_charged_at_both() -> None:
    stretches = [Stretch(START, START + 6 * HOUR, DAY), Stretch(START + 6 * HOUR, START + 10 * HOUR, NIGHT)]
    whole = fees.parts_of(stretches, 8, START, START + 10 * HOUR)
    assert whole == [Part(DAY, 48 * 3600), Part(NIGHT, 32 * 3600)]
    assert fees.percent_of(whole, 25) == [Part(DAY, 12 * 3600), Part(NIGHT, 8 * 3600)]
    assert fees.cost(fees.percent_of(whole, 25)) == 12 * 16_500_000 + 8 * 8_000_000
    assert fees.parts_of(stretches, 8, START + 7 * HOUR, START + 8 * HOUR) == [Part(NIGHT, 8 * 3600)]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.integers(0, 100))
def test_shares_add_up_and_never_exceed_what_there_is(seconds: list[int], percent: int) -> None:
    parts = [Part(PricePoint(id, 1, None, 1), amount) for id, amount in enumerate(seconds, 1)]
    charged = fees.percent_of(parts, percent)
    assert sum(part.gpu_seconds for part in charged) == sum(seconds) * percent // 100
    of = {part.point: part.gpu_seconds for part in parts}
    assert all(part.gpu_seconds <= of[part.point] + len(parts) for part in charged)


def test_a_no_show_pays_a_tenth_of_the_rest_and_at_most_a_day(policy: Policy) -> None:
    assert fees.no_show_gpu_seconds(8, 10 * 3600, policy.bookings) == 8 * 3600
    assert fees.no_show_gpu_seconds(8, 240 * 3600, policy.bookings) == 8 * 24 * 3600
    assert fees.no_show_gpu_seconds(8, 330 * 3600, policy.bookings) == 8 * 24 * 3600


def test_only_the_same_gpus_in_the_same_time_count_as_used_by_others() -> None:
    mine = [Taken(1, 0b1111, START, START + 10 * HOUR), Taken(2, 0b1, START, START + 10 * HOUR)]
    others = [
        Taken(1, 0b0011, START - 5 * HOUR, START + 2 * HOUR),  # two cards, two hours of it inside
        Taken(1, 0b1100_1000, START + 4 * HOUR, START + 5 * HOUR),  # one of them is ours
        Taken(2, 0b1, START + 9 * HOUR, START + 90 * HOUR),
        Taken(2, 0b1, START + 3 * HOUR, START + 3 * HOUR),  # gave its place back
        Taken(3, 0b1111, START, START + HOUR),
    ]
    assert fees.rebooked(mine, others) == (2 * 2 + 1 + 1) * 3600


@pytest.mark.parametrize(
    ("days", "until"),
    [
        ([], None),
        ([0, 1], None),
        ([0, 1, 2], 16),
        ([0, 1, 90], 104),  # within 90 days
        ([0, 1, 91], None),
        ([0, 50, 91, 92], 106),
    ],
)
def test_three_strikes_in_ninety_days_pause_for_fourteen(policy: Policy, days: list[int], until: int | None) -> None:
    at = [NOW + day * 24 * HOUR for day in days]
    assert strikes.pause_of(at, policy.bookings) == (None if until is None else NOW + until * 24 * HOUR)
