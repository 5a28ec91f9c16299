"""Usage records and charges: each GPU-second once, in one month, whatever comes twice, late or at the same time."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units, verify
from compute_portal.bookings.models import Booking
from compute_portal.db import Database
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.usage import service
from compute_portal.usage.models import Charge, UsageRecord
from compute_portal.usage.service import Piece
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.together import at_once

MONTH_END = dt.datetime(2026, 11, 30, 16, 0, tzinfo=dt.UTC)  # midnight in Shanghai


def record(cast: Cast, pieces: list[Piece], *, whole: frozenset[int] = frozenset(), now: dt.datetime = NOW) -> int:
    return cast.database.transaction(
        lambda s: service.record(s, cast.yusheng, pieces, whole=whole, half_life_days=walk.HALF_LIFE_DAYS, now=now)
    )


def running(cast: Cast, policy: Policy, *, at: dt.datetime = NOW, gpus: int = 4, hours: float = 5) -> tuple[int, str]:
    cast.now = at
    booking_id = cast.submit(cast.flexible(gpus=gpus, hours=hours), policy.bookings)
    return booking_id, walk.start(cast, booking_id, at=at)


def pieces_of(cast: Cast, key: str, until: dt.datetime) -> list[Piece]:
    with cast.database.read_only() as session:
        return walk.pieces(session, key, until=until)


def months(database: Database) -> dict[tuple[str, bool], int]:
    """GPU-seconds by (billed in, adjustment)."""
    with database.read_only() as session:
        rows = session.execute(
            sa.select(Charge.billed_in, Charge.adjustment, sa.func.sum(Charge.gpu_seconds)).group_by(
                Charge.billed_in, Charge.adjustment
            )
        )
        return {(month, adjustment): int(seconds) for month, adjustment, seconds in rows}


def assert_verified(database: Database) -> None:
    with database.read_only() as session:
        assert verify.run(session) == []


def test_a_run_becomes_one_record_and_one_charge_per_clock_hour(cast: Cast, policy: Policy) -> None:
    booking_id, key = running(cast, policy, at=NOW + HOUR / 2)
    walk.end(cast, key, at=NOW + 2 * HOUR + HOUR / 3)
    assert walk.meter(cast, key, now=NOW + 3 * HOUR) == 4 * int(HOUR.total_seconds() * 11 / 6)
    with cast.database.read_only() as session:
        records = session.scalars(sa.select(UsageRecord).order_by(UsageRecord.starts_at)).all()
        assert [row.gpu_seconds for row in records] == [4 * 1800, 4 * 3600, 4 * 1200]
        booking = session.get_one(Booking, booking_id)
        assert booking.charged_gpu_seconds == 26_400
        assert booking.held_gpu_seconds == units.gpu_seconds(20) - 26_400
        assert balance(session, cast.allocation).used == 26_400
    walk.settle(cast, booking_id, now=NOW + 3 * HOUR)
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert (found.used, found.held) == (26_400, 0)
        assert found.available == units.gpu_seconds(20_000) - 26_400
    assert_verified(cast.database)


def test_the_same_pieces_again_are_charged_once(cast: Cast, policy: Policy) -> None:
    _, key = running(cast, policy)
    pieces = pieces_of(cast, key, NOW + 3 * HOUR)
    assert record(cast, pieces) == units.gpu_seconds(12)
    assert record(cast, pieces) == 0
    assert record(cast, [*pieces, *pieces]) == 0
    assert months(cast.database) == {("2026-11", False): units.gpu_seconds(12)}
    assert_verified(cast.database)


def test_any_order_of_the_pieces_of_a_pass_charges_the_same(cast: Cast, policy: Policy) -> None:
    keys = [running(cast, policy, gpus=1)[1] for _ in range(6)]
    for key, order in zip(keys, itertools.permutations(range(3)), strict=True):
        pieces = pieces_of(cast, key, NOW + 3 * HOUR)
        assert record(cast, [pieces[i] for i in order]) == units.gpu_seconds(3)
    assert_verified(cast.database)


def test_a_piece_that_would_leave_a_gap_is_an_error_and_changes_nothing(cast: Cast, policy: Policy) -> None:
    """What was skipped could never be charged, so the pass must fail loudly and be repeated from the start."""
    _, key = running(cast, policy)
    pieces = pieces_of(cast, key, NOW + 3 * HOUR)
    with pytest.raises(ValueError, match="metered until"):
        record(cast, [pieces[0], pieces[2]])
    assert months(cast.database) == {}
    assert record(cast, pieces) == units.gpu_seconds(12)


def test_a_pass_that_saw_less_does_not_undo_one_that_saw_more(cast: Cast, policy: Policy) -> None:
    _, key = running(cast, policy)
    early, late = pieces_of(cast, key, NOW + HOUR), pieces_of(cast, key, NOW + 3 * HOUR)
    record(cast, late)
    assert record(cast, early) == 0
    assert record(cast, pieces_of(cast, key, NOW + 4 * HOUR)) == units.gpu_seconds(4)
    assert_verified(cast.database)


def test_passes_at_the_same_time_charge_each_hour_once(cast: Cast, policy: Policy) -> None:
    _, key = running(cast, policy)
    pieces = pieces_of(cast, key, NOW + 4 * HOUR)
    results = at_once(*([lambda: record(cast, pieces)] * 6))
    assert sorted(results) == [0] * 5 + [units.gpu_seconds(16)]
    assert_verified(cast.database)


def test_a_run_over_midnight_of_the_month_lies_in_both_months(cast: Cast, policy: Policy) -> None:
    _, key = running(cast, policy, at=MONTH_END - HOUR / 2)
    walk.end(cast, key, at=MONTH_END + HOUR)
    walk.meter(cast, key, now=MONTH_END + HOUR)
    assert months(cast.database) == {("2026-11", False): 4 * 1800, ("2026-12", False): 4 * 3600}
    assert_verified(cast.database)


def test_a_new_tariff_is_charged_from_its_first_second(cast: Cast, policy: Policy) -> None:
    day = dt.date(2026, 11, 20)
    cast.database.transaction(
        lambda s: pools.set_tariff(s, cast.pool, from_on=day, price_micro_yuan=9_000_000, by=cast.finance, now=NOW).id
    )
    border = dt.datetime(2026, 11, 19, 16, 0, tzinfo=dt.UTC)
    _, key = running(cast, policy, at=border - HOUR)
    walk.end(cast, key, at=border + HOUR)
    walk.meter(cast, key, now=border + HOUR)
    with cast.database.read_only() as session:
        prices = session.scalars(
            sa.text(
                "SELECT t.price_micro_yuan FROM charges c JOIN tariffs t ON t.id = c.tariff_id "
                "JOIN usage_records u ON u.id = c.usage_record_id ORDER BY u.starts_at"
            )
        ).all()
    assert prices == [16_500_000, 9_000_000]
    assert_verified(cast.database)


def test_use_of_a_closed_month_is_billed_in_the_next_one_as_an_adjustment(cast: Cast, policy: Policy) -> None:
    _, key = running(cast, policy, at=MONTH_END - 3 * HOUR)
    known = pieces_of(cast, key, MONTH_END)
    record(cast, known, now=MONTH_END)
    with cast.database.read_only() as session:
        attempt_id = known[0].attempt_id
        assert session.scalar(sa.text("SELECT COUNT(*) FROM charges")) == 3
    walk.close(cast, cast.yusheng, "2026-11", policy, now=MONTH_END + 2 * HOUR)
    # Another attempt, of which the engine tells only now, ran before the month was over.
    _, late = running(cast, policy, at=MONTH_END - 2 * HOUR)
    walk.end(cast, late, at=MONTH_END - HOUR)
    walk.meter(cast, late, now=MONTH_END + 3 * HOUR)
    assert attempt_id
    assert months(cast.database) == {("2026-11", False): units.gpu_seconds(12), ("2026-12", True): units.gpu_seconds(4)}
    assert_verified(cast.database)


def test_use_of_a_month_whose_next_is_closed_too_goes_to_the_oldest_open_one(cast: Cast, policy: Policy) -> None:
    january = dt.datetime(2027, 1, 2, tzinfo=dt.UTC)
    for month in ("2026-11", "2026-12"):
        walk.close(cast, cast.yusheng, month, policy, now=january)
    _, key = running(cast, policy)
    walk.end(cast, key, at=NOW + HOUR)
    walk.meter(cast, key, now=january)
    assert months(cast.database) == {("2027-01", True): units.gpu_seconds(4)}


def test_closing_a_month_and_charging_it_at_the_same_time_puts_each_hour_into_exactly_one_month(
    cast: Cast, policy: Policy
) -> None:
    keys = []
    for n in range(4):
        _, key = running(cast, policy, at=MONTH_END - 2 * HOUR - n * HOUR, gpus=1)
        walk.end(cast, key, at=MONTH_END - HOUR - n * HOUR)
        keys.append(key)
    # The close must not wait for the metering here, so the attempts count as metered: that is what a late engine does.
    pieces = {key: pieces_of(cast, key, MONTH_END - HOUR - n * HOUR) for n, key in enumerate(keys)}
    everything = frozenset(piece.attempt_id for some in pieces.values() for piece in some)
    cast.database.transaction(
        lambda s: s.execute(
            sa.text("UPDATE attempts SET metered_whole = true WHERE id IN (:a, :b, :c, :d)"),
            dict(zip("abcd", sorted(everything), strict=True)),
        )
    )
    later = MONTH_END + 3 * HOUR
    results = at_once(
        *(lambda some=some: record(cast, some, now=later) for some in pieces.values()),
        lambda: walk.close(cast, cast.yusheng, "2026-11", policy, now=later),
        lambda: walk.close(cast, cast.yusheng, "2026-11", policy, now=later),
    )
    assert not [result for result in results if isinstance(result, Exception)], results
    assert results[4] == results[5], "two statements were made"
    assert sum(months(cast.database).values()) == units.gpu_seconds(4)
    assert set(months(cast.database)) <= {("2026-11", False), ("2026-12", True)}
    with cast.database.read_only() as session:
        statement = walk.statement(session, results[4])
        assert statement.gpu_seconds == months(cast.database).get(("2026-11", False), 0)
    assert_verified(cast.database)


def test_hours_beyond_the_hold_come_from_what_is_available_and_then_from_overdraft(
    cast: Cast, policy: Policy, session: Session
) -> None:
    booking_id, key = running(cast, policy, hours=1)
    walk.end(cast, key, at=NOW + 2 * HOUR)  # it ran twice as long as it might
    walk.meter(cast, key, now=NOW + 2 * HOUR)
    booking = session.get_one(Booking, booking_id)
    assert (booking.held_gpu_seconds, booking.charged_gpu_seconds) == (0, units.gpu_seconds(8))
    found = balance(session, cast.allocation)
    assert found.available == units.gpu_seconds(20_000 - 8) and found.overdraft == 0
