"""Rules of a booking, with numbers in the refusals."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import attempts, service
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingKind, BookingState
from compute_portal.ledger.queries import balance
from compute_portal.lifecycle import list_history
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Occupancy
from compute_portal.sentences import NotFound, Refusal
from tests.cast import HOUR, NOW, Cast


def test_a_flexible_booking_below_the_threshold_is_queued_and_holds_its_hours(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=4, hours=2), policy.bookings)
    with cast.database.read_only() as session:
        booking = session.get_one(Booking, booking_id)
        assert booking.state is BookingState.QUEUED
        assert booking.held_gpu_seconds == units.gpu_seconds(8)
        assert balance(session, cast.allocation).held == units.gpu_seconds(8)
        assert balance(session, cast.allocation).available == units.gpu_seconds(20_000 - 8)
        assert [entry.verb for entry in list_history(session, Booking.LIFE, booking_id)] == ["approve", "submit"]


def test_a_fixed_booking_is_confirmed_on_named_nodes_at_a_frozen_price(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=12), policy.bookings)
    with cast.database.read_only() as session:
        booking = session.get_one(Booking, booking_id)
        assert booking.state is BookingState.CONFIRMED and booking.tariff_id is not None
        occupied = session.scalars(sa.select(Occupancy).order_by(Occupancy.node_id)).all()
        assert [row.gpus for row in occupied] == [8, 4] and all(row.fixed for row in occupied)


def test_a_booking_above_the_threshold_waits_for_an_operator_who_is_not_the_requester(
    cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.fixed(gpus=16, hours=200, start_in=24), policy.bookings)
    with cast.database.read_only() as session:
        assert session.get_one(Booking, booking_id).state is BookingState.SUBMITTED
    cast.database.transaction(lambda s: service.approve(s, booking_id, by=cast.operator, now=NOW))
    with cast.database.read_only() as session:
        assert session.get_one(Booking, booking_id).state is BookingState.CONFIRMED


@pytest.mark.parametrize(
    ("changes", "sentence", "field"),
    [
        ({"gpus": 0}, "at-least-one-card", "gpus"),
        ({"gpus": 33}, "more-than-the-pool", "gpus"),
        ({"longest_seconds": 59}, "run-too-short", "longest"),
        ({"longest_seconds": 336 * 3600 + 1}, "run-too-long", "longest"),
        ({"gpus": 32, "longest_seconds": 336 * 3600, "allocation_id": 0}, "needs-more-hours", "gpus"),
    ],
)
def test_a_flexible_booking_outside_the_limits_is_refused_at_its_field(
    cast: Cast, policy: Policy, changes: dict[str, int], sentence: str, field: str
) -> None:
    by = cast.member
    if changes.get("allocation_id") == 0:
        changes, by = changes | {"allocation_id": cast.other_allocation}, cast.stranger
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.flexible(**changes), policy.bookings, by=by)
    assert (refused.value.sentence.id, refused.value.field) == (sentence, field)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"starts_at": NOW + dt.timedelta(minutes=90)}, "on-the-hour"),
        ({"ends_at": NOW + 10 * HOUR + dt.timedelta(minutes=30)}, "on-the-hour"),
        ({"starts_at": NOW - HOUR}, "start-is-past"),
        ({"starts_at": NOW}, "start-is-past"),
        ({"ends_at": NOW + 10 * HOUR}, "ends-before-start"),
        ({"ends_at": NOW + 10 * HOUR + dt.timedelta(days=14, hours=1)}, "window-too-long"),
        ({"starts_at": NOW + 1345 * HOUR, "ends_at": NOW + 1346 * HOUR}, "beyond-the-horizon"),
        ({"gpus": 17}, "fixed-share-full"),
    ],
)  # fmt: skip
def test_a_fixed_booking_outside_the_limits_is_refused(
    cast: Cast, policy: Policy, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(**changes), policy.bookings)  # type: ignore[arg-type]
    assert refused.value.sentence.id == sentence
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Booking)) == 0
        assert balance(session, cast.allocation).held == 0


def test_a_fourth_open_fixed_booking_is_refused_with_the_numbers(cast: Cast, policy: Policy) -> None:
    for n in range(3):
        cast.submit(cast.fixed(gpus=1, start_in=10 + 5 * n), policy.bookings)
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(gpus=1, start_in=40), policy.bookings)
    assert refused.value.sentence.id == "too-many-fixed" and refused.value.sentence["open"] == 3


def test_a_limit_counts_the_fixed_bookings_of_the_same_hours(cast: Cast, policy: Policy) -> None:
    cast.limit(cast.yusheng, 12)
    cast.submit(cast.fixed(gpus=8), policy.bookings)
    cast.submit(cast.fixed(gpus=8, start_in=12), policy.bookings)
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(gpus=5, start_in=11), policy.bookings)
    assert refused.value.sentence.id == "over-the-limit-then" and refused.value.sentence["used"] == 8


def test_a_full_window_is_refused_with_the_closest_one_that_would_do(cast: Cast, policy: Policy) -> None:
    cast.submit(cast.fixed(gpus=16), policy.bookings)
    generous = policy.bookings.model_copy(update={"fixed_share_percent": 100})
    cast.submit(cast.fixed(gpus=16, allocation_id=cast.other_allocation), generous, by=cast.stranger)
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(gpus=8), generous)
    assert refused.value.sentence.id == "fixed-share-full"


def test_a_window_that_has_begun_can_no_longer_be_approved(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=16, hours=200, start_in=24), policy.bookings)
    with pytest.raises(Refusal) as refused:
        cast.database.transaction(
            lambda s: service.approve(s, booking_id, by=cast.operator, now=NOW + dt.timedelta(hours=24))
        )
    assert refused.value.sentence.id == "start-is-past"


def test_cancelling_gives_hours_and_cards_back(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=16), policy.bookings)
    cast.database.transaction(lambda s: service.cancel(s, booking_id, by=cast.member, now=NOW + HOUR))
    with cast.database.read_only() as session:
        assert balance(session, cast.allocation).available == units.gpu_seconds(20_000)
        assert session.get_one(Booking, booking_id).held_gpu_seconds == 0
    cast.submit(cast.fixed(gpus=16), policy.bookings)


def test_another_enterprises_allocation_or_booking_does_not_exist(cast: Cast, policy: Policy) -> None:
    with pytest.raises(NotFound):
        cast.submit(cast.flexible(), policy.bookings, by=cast.stranger)
    booking_id = cast.submit(cast.flexible(), policy.bookings)
    for verb in (service.cancel, service.stop, service.claim):
        with pytest.raises(NotFound):
            cast.database.transaction(lambda s, verb=verb: verb(s, booking_id, by=cast.stranger, now=NOW))


def test_the_quote_is_what_is_held_and_charged(cast: Cast, policy: Policy) -> None:
    with cast.database.read_only() as session:
        quote = service.quote(session, cast.fixed(gpus=8, hours=3), by=cast.member, policy=policy.bookings, now=NOW)
    assert quote.gpu_seconds == units.gpu_seconds(24)
    assert quote.left_after == units.gpu_seconds(20_000 - 24)
    assert quote.lowest_micro_yuan == quote.highest_micro_yuan == units.parse_yuan("396.00")


def test_a_price_that_changed_while_deciding_refuses_the_booking(cast: Cast, policy: Policy) -> None:
    asked = cast.fixed(gpus=8, hours=3)
    with pytest.raises(Refusal) as refused:
        cast.database.transaction(
            lambda s: service.submit(
                s, asked, by=cast.member, policy=policy.bookings, now=NOW, agreed_micro_yuan=units.parse_yuan("390")
            )
        )
    assert refused.value.sentence.id == "price-changed"
    assert asked.kind is BookingKind.FIXED


def test_an_automatic_approval_is_the_systems_and_not_the_requesters(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(), policy.bookings)
    with cast.database.read_only() as session:
        approved, submitted = list_history(session, Booking.LIFE, booking_id)
        assert (approved.verb, approved.by_id) == ("approve", None)
        assert (submitted.verb, submitted.by_id) == ("submit", cast.member.user_id)


def test_a_booking_that_needs_an_operator_leaves_the_time_to_decide(cast: Cast, policy: Policy) -> None:
    large = {"gpus": 16, "hours": 200}
    hours = policy.bookings.undecided_lapses_hours_before
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(**large, start_in=hours), policy.bookings)  # type: ignore[arg-type]
    assert (refused.value.sentence.id, refused.value.field) == ("too-soon-to-decide", "starts_at")
    cast.submit(cast.fixed(**large, start_in=hours + 1), policy.bookings)  # type: ignore[arg-type]
    cast.submit(cast.fixed(gpus=1, start_in=hours, hours=1), policy.bookings)


def test_a_late_earliest_start_is_blamed_when_it_and_not_the_length_passes_the_allocations_end(
    cast: Cast, policy: Policy
) -> None:
    late = clock.end_of_day(clock.day_of(NOW) + dt.timedelta(days=50)) - HOUR
    with cast.database.read_only() as session:
        last = session.get_one(Allocation, cast.allocation).ends_at
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.flexible(hours=300, not_before_at=late), policy.bookings)
    assert late < last and (refused.value.sentence.id, refused.value.field) == ("run-past-allocation", "not_before_at")
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.flexible(hours=300), policy.bookings, now=late)
    assert (refused.value.sentence.id, refused.value.field) == ("run-past-allocation", "longest")


def test_the_range_of_a_flexible_price_begins_with_the_allocation(cast: Cast, policy: Policy) -> None:
    first = clock.day_of(NOW) + dt.timedelta(days=10)

    def dearer_from_then(session: Session) -> None:
        session.get_one(Allocation, cast.allocation).starts_on = first
        pools.set_tariff(
            session, cast.pool, from_on=first, price_micro_yuan=units.parse_yuan("20"), by=cast.finance, now=NOW
        )

    cast.database.transaction(dearer_from_then)
    with cast.database.read_only() as session:
        asked = cast.flexible(gpus=1, hours=1)
        quote = service.quote(session, asked, by=cast.member, policy=policy.bookings, now=NOW)
    assert quote.price_micro_yuan == quote.lowest_micro_yuan == quote.highest_micro_yuan == units.parse_yuan("20")


def test_a_limit_counts_what_runs_into_the_window(cast: Cast, policy: Policy) -> None:
    cast.limit(cast.yusheng, 12)
    running = cast.submit(cast.flexible(gpus=8, hours=24), policy.bookings)

    def run(session: Session) -> None:
        attempts.write(session, [running], now=NOW)
        attempts.record_handed_over(session, {f"booking-{running}-1": "x"}, now=NOW)
        attempts.placed(session, [Given(f"booking-{running}-1", [], NOW, NOW + 24 * HOUR, NOW)])

    cast.database.transaction(run)
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(gpus=8, start_in=10), policy.bookings)
    assert refused.value.sentence.id == "over-the-limit-then" and refused.value.sentence["used"] == 8
    cast.submit(cast.fixed(gpus=8, start_in=25), policy.bookings)
