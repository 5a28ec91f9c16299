"""When hours run out: exact where use is even, and silent where nothing can be said."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from compute_portal import clock, units
from compute_portal.allocations.models import Allocation
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.usage.forecast import DAY, Forecast, forecast, of_allocation, outlooks
from compute_portal.usage.freshness import freshness, span
from compute_portal.usage.sums import spend
from tests import walk
from tests.cast import HOUR, NOW, Cast

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def even(gpus: int, hours: int, awarded_hours: int, days: int) -> Forecast:
    """`gpus` cards used without a break for so many hours, of an allocation that runs for `days`."""
    used = gpus * hours * 3_600
    until = START + hours * HOUR
    return forecast(
        1,
        awarded=awarded_hours * 3_600,
        left=awarded_hours * 3_600 - used,
        used=used,
        since=START,
        until=until,
        ends_at=START + dt.timedelta(days=days),
    )


@given(st.integers(1, 64), st.integers(24, 24 * 14), st.integers(1, 400), st.integers(15, 90))
def test_even_use_runs_out_to_the_second_or_leaves_exactly_what_it_leaves(
    gpus: int, hours: int, more: int, days: int
) -> None:
    awarded = gpus * hours + more
    found = even(gpus, hours, awarded, days)
    runs_out = START + dt.timedelta(seconds=-(-awarded * 3_600 // gpus))
    ends = START + dt.timedelta(days=days)
    if runs_out <= ends:
        assert (found.runs_out_at, found.expires) == (runs_out, 0)
    else:
        assert found.runs_out_at is None
        assert found.expires == awarded * 3_600 - gpus * days * DAY
    assert found.pace_per_day == gpus * DAY


def test_less_than_a_day_of_use_says_nothing() -> None:
    assert even(8, 23, 10_000, 30).pace is None
    found = forecast(1, awarded=10, left=10, used=0, since=None, until=START, ends_at=START + 9 * HOUR)
    assert (found.pace, found.runs_out_at, found.nudges) == (None, None, False)


def test_much_that_would_expire_calls_for_a_nudge() -> None:
    assert even(1, 48, 1_000, 30).nudges  # 280 of 1,000 hours would be left
    assert not even(1, 48, 800, 30).nudges


def test_an_allocation_that_is_used_evenly_is_foreseen_from_its_records(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=8, hours=72), policy.bookings)
    key = walk.start(cast, booking_id, at=NOW)
    later = NOW + 48 * HOUR
    walk.meter(cast, key, now=later, until=later)
    left = units.gpu_seconds(20_000 - 8 * 48)
    with cast.database.read_only() as session:
        allocation = session.get_one(Allocation, cast.allocation)
        at = later + 40 * dt.timedelta(minutes=1)
        found = of_allocation(session, allocation, balance(session, cast.allocation), at)
        [row] = outlooks(session, cast.yusheng, cast.member, freshness(session, cast.member, at).metered_until)
        assert outlooks(session, cast.yusheng, cast.stranger, at) == []
    assert found == row.forecast
    assert found.left == left
    assert found.pace_per_day == 8 * DAY
    assert found.runs_out_at is None
    assert found.expires == left - 8 * clock.seconds_between(later, allocation.ends_at)
    assert found.nudges


def test_the_stamp_says_until_when_all_is_metered_and_since_when_something_is_missing(
    cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.flexible(gpus=1, hours=20), policy.bookings)
    key = walk.start(cast, booking_id, at=NOW)
    walk.meter(cast, key, now=NOW + 3 * HOUR, until=NOW + 3 * HOUR)
    with cast.database.read_only() as session:
        for minutes, missing in ((0, False), (119, False), (120, True)):
            at = NOW + 3 * HOUR + minutes * dt.timedelta(minutes=1)
            found = freshness(session, cast.member, at)
            assert found.metered_until == NOW + 3 * HOUR
            assert (found.missing_since is not None) is missing
        others = freshness(session, cast.stranger, NOW + 9 * HOUR)
        assert (others.metered_until, others.missing_since) == (NOW + 9 * HOUR, None)


def test_the_months_with_usage_are_an_enterprises_own_or_for_the_bureau_of_all(cast: Cast, policy: Policy) -> None:
    walk.run(cast, cast.submit(cast.flexible(gpus=1, hours=2), policy.bookings), at=NOW, until=NOW + HOUR)
    later = NOW + dt.timedelta(days=40)
    with cast.database.read_only() as session:
        for by, whose, months in (
            (cast.member, None, "2026-11"),
            (cast.member, cast.yusheng, "2026-11"),
            (cast.operator, cast.yusheng, "2026-11"),
            (cast.operator, None, "2026-11"),
            (cast.operator, cast.stranger.enterprise_id, None),
            (cast.stranger, None, None),
            (cast.stranger, cast.yusheng, None),
        ):
            found = span(session, by, later, whose)
            assert (found.first_month, found.last_month) == (months, months)
            assert found.fresh == freshness(session, by, later, whose)


def test_what_a_month_costs_so_far_counts_credits_and_rounds_once(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=1, hours=2), policy.bookings)
    walk.run(cast, booking_id, at=NOW, until=NOW + HOUR + dt.timedelta(seconds=1))
    with cast.database.read_only() as session:
        found = spend(session, cast.yusheng, "2026-11")
        nothing = spend(session, cast.luyu, "2026-11")
        seconds = session.scalar(sa.text("SELECT SUM(gpu_seconds) FROM charges"))
    assert (found.gpu_seconds, found.net_micro_yuan, found.list_micro_yuan) == (seconds, 16_500_000, 16_500_000)
    assert nothing.net_micro_yuan == 0
