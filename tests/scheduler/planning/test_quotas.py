"""Running use against limits: up to the limit is allowed, beyond it a sentence with its numbers."""

from __future__ import annotations

import datetime as dt

from compute_portal.sentences import Sentence
from scheduler.planning import quotas


def test_an_enterprise_may_run_up_to_its_limit() -> None:
    assert quotas.concurrent(limit=128, used=64, asked=64) is None
    assert quotas.concurrent(limit=None, used=10_000, asked=64) is None


def test_beyond_the_limit_the_sentence_names_limit_use_and_request() -> None:
    assert quotas.concurrent(limit=128, used=96, asked=64) == Sentence("wait-limit", limit=128, used=96, asked=64)


def test_a_limit_lowered_below_what_runs_only_stops_starts() -> None:
    assert quotas.concurrent(limit=8, used=96, asked=1) == Sentence("wait-limit", limit=8, used=96, asked=1)


def test_hours_must_cover_the_longest_run() -> None:
    assert quotas.hours_left(needed=3_600, available=3_600) is None
    assert quotas.hours_left(needed=3_600, available=None) is None
    assert quotas.hours_left(needed=3_601, available=3_600) == Sentence("wait-hours", needed=3_601, available=3_600)


def test_the_longest_run_must_be_over_when_the_allocation_ends() -> None:
    ends_at = int(dt.datetime(2026, 11, 30, 16, tzinfo=dt.UTC).timestamp())
    assert quotas.allocation_end(ends_at - 7_200, 7_200, ends_at) is None
    assert quotas.allocation_end(ends_at - 7_199, 7_200, ends_at) == Sentence(
        "wait-allocation-ends", ends_at=dt.datetime(2026, 11, 30, 16, tzinfo=dt.UTC), longest=7_200
    )


def test_what_is_booked_for_fixed_hours_during_the_run_counts_towards_the_limit() -> None:
    assert quotas.concurrent(128, 64, 32, booked=32) is None
    assert quotas.concurrent(128, 64, 33, booked=32) == Sentence(
        "wait-limit-booked", limit=128, used=64, booked=32, asked=33
    )
    assert quotas.concurrent(128, 100, 40, booked=32) == Sentence("wait-limit", limit=128, used=100, asked=40)


def test_the_peak_of_windows_is_reached_at_a_start_and_ends_are_free_again() -> None:
    windows = [(0, 10, 8), (10, 20, 16), (12, 14, 4), (30, 40, 64)]
    assert quotas.peak(windows, 0, 10) == 8
    assert quotas.peak(windows, 5, 15) == 20
    assert quotas.peak(windows, 20, 30) == 0
    assert quotas.peak([], 0, 100) == 0
