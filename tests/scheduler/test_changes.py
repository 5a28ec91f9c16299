"""Changes of plan over the cast's city: cancel, hand back, extend, no-show, wait-list, what the city lost, warnings.

Each change is quoted, charged and credited here as it is in production; afterwards `verify` recounts everything.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal.access import Actor
from compute_portal.bookings import extending, maintenance, strikes, waiting
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking, Strike, Waiter
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingState, WaiterState
from compute_portal.cancellations import service as cancellations
from compute_portal.cancellations.models import CancellationQuote, ReturnedHours
from compute_portal.notices.models import Notice
from compute_portal.pools import queries as pool_queries
from compute_portal.pools import service as pools
from compute_portal.pools.models import OptionPlace
from compute_portal.pools.states import NodeState
from compute_portal.sentences import Refusal
from compute_portal.usage.models import Charge, ChargeKind
from scheduler import changes
from tests.cast import HOUR
from tests.scheduler.conftest import Town
from tests.together import at_once

MINUTE = dt.timedelta(minutes=1)
CARD_HOUR = 3600


class Desk:
    """What people do, in few words."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.rules = town.policy.bookings

    def do(self, work: Any) -> Any:
        return self.town.cast.database.transaction(work)

    def quote(self, id: int, now: dt.datetime) -> CancellationQuote:
        by = self.town.cast.member
        found: CancellationQuote = self.do(
            lambda s: cancellations.quote_cancel(s, id, by=by, policy=self.rules, now=now)
        )
        return found

    def cancel(self, id: int, now: dt.datetime, quote_id: int | None = None) -> None:
        by = self.town.cast.member
        if quote_id is None and self.town.state(id) is BookingState.CONFIRMED:
            quote_id = self.quote(id, now).id
        self.do(lambda s: cancellations.cancel(s, id, quote_id=quote_id, by=by, policy=self.rules, now=now).id)

    def hand_back(self, id: int, now: dt.datetime, from_at: dt.datetime | None = None) -> CancellationQuote:
        by = self.town.cast.member
        quote = self.do(
            lambda s: cancellations.quote_hand_back(s, id, from_at=from_at, by=by, policy=self.rules, now=now)
        )
        self.do(lambda s: cancellations.hand_back(s, id, quote_id=quote.id, by=by, policy=self.rules, now=now).id)
        found: CancellationQuote = quote
        return found

    def extend(self, id: int, end: dt.datetime, now: dt.datetime) -> None:
        by = self.town.cast.member
        self.do(lambda s: extending.extend(s, id, end, by=by, policy=self.rules, now=now).id)

    def join(self, asked: BookingRequest, now: dt.datetime, by: Actor | None = None) -> int:
        who = by or self.town.cast.member
        id: int = self.do(lambda s: waiting.join(s, asked, by=who, policy=self.rules, now=now).id)
        return id

    def waiter(self, id: int) -> Waiter:
        with self.town.cast.database.read_only() as session:
            return session.get_one(Waiter, id)

    def others(self, gpus: int, start_in: int, hours: int) -> int:
        """The other enterprise books fixed hours."""
        cast = self.town.cast
        asked = cast.fixed(gpus, start_in, hours, allocation_id=cast.other_allocation)
        return cast.submit(asked, self.rules, by=cast.stranger)

    def pass_(self, now: dt.datetime) -> None:
        changes.run(self.town.context, now)

    def charged(self, id: int, kind: ChargeKind) -> int:
        total = sa.select(sa.func.coalesce(sa.func.sum(Charge.gpu_seconds), 0)).where(
            Charge.booking_id == id, Charge.kind == kind
        )
        with self.town.cast.database.read_only() as session:
            return int(session.scalar(total) or 0)

    def told(self, person: str) -> list[str]:
        with self.town.cast.database.read_only() as session:
            rows = session.scalars(
                sa.select(Notice.about).where(Notice.user_id == self.town.cast.users[person]).order_by(Notice.id)
            )
            return [about["id"] for about in rows if about["id"] != "told-awarded"]


@pytest.fixture
def desk(town: Town) -> Desk:
    return Desk(town)


def day(town: Town, id: int, until: dt.datetime, start: dt.datetime | None = None) -> None:
    """Let the scheduler work hour by hour, with somebody who uses what runs."""
    now = start or town.cast.now
    while now <= until:
        town.cycle(now)
        town.meter(now)
        changes.run(town.context, now)
        now += HOUR


def claim(town: Town, id: int, now: dt.datetime) -> None:
    by = town.cast.member
    town.cast.database.transaction(lambda s: bookings.claim(s, id, by=by, now=now).id)


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_free_until_two_days_before_and_then_by_the_schedule(town: Town, desk: Desk) -> None:
    now = town.cast.now
    for before, percent in ((60, 0), (30, 25), (10, 50)):
        id = town.fixed(gpus=8, start_in=before, hours=10)
        desk.cancel(id, now)
        assert desk.charged(id, ChargeKind.CANCELLATION) == 80 * CARD_HOUR * percent // 100
        assert town.state(id) is BookingState.CANCELLED
        assert town.booking(id).held_gpu_seconds == 0
    assert town.balance().held == 0
    assert town.balance().used == 60 * CARD_HOUR
    assert desk.told("lin").count("told-cancelled-for") == 2


def test_a_quote_holds_ten_minutes_across_a_border_and_then_a_new_one_is_needed(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=50, hours=10)
    border = town.booking(id).starts_at - 48 * HOUR  # type: ignore[operator]
    quote = desk.quote(id, border - 5 * MINUTE)
    assert (quote.percent, quote.gpu_seconds) == (0, 0)
    with pytest.raises(Refusal, match="quote-expired"):
        desk.cancel(id, border + 5 * MINUTE, quote.id)  # ten minutes are over to the second
    with pytest.raises(Refusal, match="quote-expired"):
        desk.do(
            lambda s: cancellations.cancel(s, id, by=town.cast.member, policy=desk.rules, now=border)
        )  # without a quote
    desk.cancel(id, border + 5 * MINUTE - MINUTE / 60, quote.id)
    assert desk.charged(id, ChargeKind.CANCELLATION) == 0


def test_a_quote_is_for_one_booking_one_change_and_one_time(town: Town, desk: Desk) -> None:
    now = town.cast.now
    first, second = town.fixed(gpus=1, start_in=10), town.fixed(gpus=1, start_in=20)
    quote = desk.quote(first, now)
    with pytest.raises(Refusal, match="quote-expired"):
        desk.cancel(second, now, quote.id)
    with pytest.raises(Refusal, match="quote-expired"):
        desk.do(
            lambda s: cancellations.hand_back(
                s, first, quote_id=quote.id, by=town.cast.member, policy=desk.rules, now=now
            )
        )
    desk.cancel(first, now, quote.id)
    with pytest.raises(Refusal):
        desk.cancel(first, now, quote.id)


def test_what_others_book_in_a_window_that_was_called_off_comes_back_once(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=10, hours=10)
    desk.cancel(id, now)  # 40 of 80 card-hours
    other = desk.others(8, 12, 3)  # 24 of them
    day(town, other, now + 11 * HOUR)
    town.cycle(now + 12 * HOUR)
    by = town.cast.stranger
    desk.do(lambda s: bookings.claim(s, other, by=by, now=now + 12 * HOUR).id)
    day(town, other, now + 24 * HOUR, now + 13 * HOUR)
    assert desk.charged(id, ChargeKind.RETURNED) == -24 * CARD_HOUR
    assert town.charged(id) == town.booking(id).charged_gpu_seconds == 16 * CARD_HOUR
    day(town, other, now + 30 * HOUR, now + 25 * HOUR)
    assert desk.charged(id, ChargeKind.RETURNED) == -24 * CARD_HOUR
    assert desk.told("lin").count("told-rebooked") == 1


# -- handing back -----------------------------------------------------------------------------------------------------


def test_a_hundred_hours_given_back_and_sixty_used_by_others_credit_sixty(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=10, start_in=1, hours=20)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start)
    claim(town, id, start)
    at = start + 10 * HOUR - MINUTE
    day(town, id, at, start + HOUR)
    quote = desk.hand_back(id, at)  # from the tenth hour on: 100 card-hours
    assert (quote.from_at, quote.gpu_seconds) == (start + 10 * HOUR, 100 * CARD_HOUR)
    desk.do(lambda s: s.refresh(s.get_one(Booking, id)))
    town.cycle(start + 10 * HOUR)
    assert town.state(id) is BookingState.FINISHED
    assert town.attempt(id).ended_at == start + 10 * HOUR
    cast = town.cast
    others = cast.submit(
        cast.flexible(gpus=10, hours=6, allocation_id=cast.other_allocation),
        desk.rules, by=cast.stranger, now=start + 11 * HOUR,
    )  # fmt: skip
    day(town, others, start + 21 * HOUR, start + 11 * HOUR)
    assert town.state(id) is BookingState.SETTLED
    assert desk.charged(id, ChargeKind.USAGE) == 100 * CARD_HOUR
    assert desk.charged(id, ChargeKind.CANCELLATION) == 100 * CARD_HOUR
    assert desk.charged(id, ChargeKind.RETURNED) == -60 * CARD_HOUR
    assert town.balance().used == 140 * CARD_HOUR
    assert {row.credited_gpu_seconds for row in _returned(town)} == {60 * CARD_HOUR}
    assert now < start


def _returned(town: Town) -> list[ReturnedHours]:
    with town.cast.database.read_only() as session:
        return list(session.scalars(sa.select(ReturnedHours)))


def test_the_window_is_free_at_once_and_a_promise_that_waits_costs_less_never_more(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=10)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start)
    claim(town, id, start)
    at = start + 2 * HOUR + 10 * MINUTE
    by = town.cast.member
    quote = desk.do(lambda s: cancellations.quote_hand_back(s, id, by=by, policy=desk.rules, now=at))
    later = at + 9 * MINUTE
    desk.do(lambda s: cancellations.hand_back(s, id, quote_id=quote.id, by=by, policy=desk.rules, now=later).id)
    with town.cast.database.read_only() as session:
        pool = pool_queries.get_pool(session, town.cast.pool)
        room = pool_queries.load_availability(session, pool, later + 2 * MINUTE)
        kept = session.get_one(CancellationQuote, quote.id)
    assert room.largest_fit(int((start + 3 * HOUR).timestamp()), int((start + 9 * HOUR).timestamp())) == 32
    assert kept.from_at == later + MINUTE
    assert kept.gpu_seconds == 8 * int((start + 10 * HOUR - kept.from_at).total_seconds())
    town.cycle(later + 2 * MINUTE)
    town.meter(start + 3 * HOUR)
    assert town.state(id) is BookingState.SETTLED
    assert town.charged(id) == 80 * CARD_HOUR


def test_the_rest_of_a_confirmed_booking_can_be_handed_back_too(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=60, hours=10)
    start = town.booking(id).starts_at
    assert start is not None
    with pytest.raises(Refusal, match="hand-back-after-start"):
        desk.hand_back(id, now)
    desk.hand_back(id, now, start + 4 * HOUR)
    assert town.booking(id).ends_at == start + 4 * HOUR
    assert {row.ends_at for row in town.occupancies(id)} == {start + 4 * HOUR}
    with pytest.raises(Refusal, match="nothing-to-hand-back"):
        desk.hand_back(id, now, start + 4 * HOUR)
    assert desk.others(32 - 16, 64, 6)


# -- extending --------------------------------------------------------------------------------------------------------


def test_an_extension_at_49_hours_is_refused_and_at_47_hours_it_is_made(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=50, hours=10)
    end = town.booking(id).ends_at
    assert end is not None
    with pytest.raises(Refusal, match="extend-later"):
        desk.extend(id, end + 2 * HOUR, end - 49 * HOUR)
    desk.extend(id, end + 2 * HOUR, end - 47 * HOUR)
    assert town.booking(id).ends_at == end + 2 * HOUR
    assert town.booking(id).held_gpu_seconds == 96 * CARD_HOUR
    assert town.balance().held == 96 * CARD_HOUR


def test_what_runs_goes_on_to_its_new_end_also_when_the_scheduler_was_away(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=2)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start)
    claim(town, id, start)
    desk.extend(id, start + 4 * HOUR, start + HOUR)
    context = town.context
    context.observed_at = None
    context.engine._memory = None  # type: ignore[attr-defined]
    town.cycle(start + 3 * HOUR)  # the old end has passed unseen
    assert town.state(id) is BookingState.RUNNING
    desk.extend(id, start + 5 * HOUR, start + 3 * HOUR)
    town.cycle(start + 3 * HOUR + MINUTE)
    town.cycle(start + 6 * HOUR)
    town.meter(start + 6 * HOUR)
    assert town.attempt(id).ended_at == start + 5 * HOUR
    assert town.charged(id) == 40 * CARD_HOUR
    assert town.state(id) is BookingState.SETTLED


def test_an_extension_keeps_to_every_limit(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=2)
    end = town.booking(id).ends_at
    assert end is not None
    other = desk.others(8, 5, 2)  # on the next node; its own GPUs stay free
    assert other
    with pytest.raises(Refusal, match="on-the-hour"):
        desk.extend(id, end + MINUTE, now)
    with pytest.raises(Refusal, match="extend-after-end"):
        desk.extend(id, end, now)
    with pytest.raises(Refusal, match="window-too-long"):
        desk.extend(id, end + 14 * 24 * HOUR, now)
    with pytest.raises(Refusal, match="extend-too-late"):
        desk.extend(id, end + HOUR, end - 4 * MINUTE)
    with pytest.raises(Refusal, match="price-changed"):
        desk.do(
            lambda s: extending.extend(
                s, id, end + HOUR, by=town.cast.member, policy=desk.rules, now=now, agreed_micro_yuan=1
            )
        )
    longer = desk.do(
        lambda s: extending.quote_extension(s, id, end + HOUR, by=town.cast.member, policy=desk.rules, now=now)
    )
    assert longer.amount_micro_yuan == 8 * 16_500_000
    town.cast.limit(town.cast.yusheng, 8)
    desk.extend(id, end + HOUR, now)


def test_what_somebody_else_has_booked_cannot_be_extended_into(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=16, start_in=1, hours=2)
    end = town.booking(id).ends_at
    assert end is not None
    desk.others(16, 4, 1)  # the best fit after it: the same two nodes
    with pytest.raises(Refusal, match="extend-room-until") as refused:
        desk.extend(id, end + 3 * HOUR, now)
    until = refused.value.sentence["at"]
    assert until == end + HOUR


# -- no-show and strikes ----------------------------------------------------------------------------------------------


def test_a_booking_nobody_uses_is_released_charged_in_part_and_a_strike(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=10)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start)
    desk.pass_(start)
    assert desk.told("chen") == ["told-claim"]
    desk.pass_(start + 29 * MINUTE)
    assert town.state(id) is BookingState.RUNNING
    desk.pass_(start + 30 * MINUTE)
    assert town.state(id) is BookingState.NO_SHOW
    town.cycle(start + 30 * MINUTE)
    town.meter(start + HOUR)
    used = 8 * 1800
    fee = 8 * (10 * 3600 - 1800) // 10
    assert desk.charged(id, ChargeKind.USAGE) == used
    assert desk.charged(id, ChargeKind.NO_SHOW) == fee
    assert town.booking(id).held_gpu_seconds == 0
    assert town.balance().used == used + fee
    assert desk.others(16, 3, 4)
    desk.pass_(start + HOUR)
    assert desk.told("chen") == ["told-claim", "told-no-show"]


def test_a_claim_in_time_and_the_hooks_answer_keep_it(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=10)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start)
    claim(town, id, start + 29 * MINUTE)
    desk.pass_(start + 2 * HOUR)
    assert town.state(id) is BookingState.RUNNING


def test_three_strikes_pause_fixed_bookings_until_one_is_waived(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    for start_in in (1, 2, 3):
        id = town.fixed(gpus=1, start_in=start_in, hours=10)
        town.cycle(now + start_in * HOUR)
        desk.pass_(now + start_in * HOUR + 31 * MINUTE)
        assert town.state(id) is BookingState.NO_SHOW
    cast.now = now + 4 * HOUR
    town.cycle(cast.now)
    with pytest.raises(Refusal, match="paused-by-strikes"):
        town.fixed()
    assert town.flexible()
    assert desk.others(1, 10, 2)
    with town.cast.database.read_only() as session:
        strike_id = session.scalars(sa.select(Strike.id)).first()
    with pytest.raises(Refusal, match="not-allowed"):
        desk.do(lambda s: strikes.waive(s, strike_id, reason="x", by=cast.manager, now=cast.now))
    with pytest.raises(Refusal, match="waiver-needs-reason"):
        desk.do(lambda s: strikes.waive(s, strike_id, reason=" ", by=cast.operator, now=cast.now))
    desk.do(lambda s: strikes.waive(s, strike_id, reason="登录节点不通", by=cast.operator, now=cast.now).id)
    assert town.fixed()
    assert "told-waived" in desk.told("lin")


# -- the wait-list ----------------------------------------------------------------------------------------------------


def test_a_freed_window_goes_to_the_first_who_waits_and_then_to_the_next(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    mine = town.fixed(gpus=16, start_in=50, hours=4)
    with pytest.raises(Refusal, match="room-now"):
        desk.join(cast.fixed(8, 60, 4), now)
    theirs = cast.fixed(16, 50, 4, allocation_id=cast.other_allocation)
    with pytest.raises(Refusal, match="fixed-share-full"):
        cast.submit(theirs, desk.rules, by=cast.stranger)
    first = desk.join(theirs, now, cast.stranger)
    with pytest.raises(Refusal, match="waits-already"):
        desk.join(theirs, now, cast.stranger)
    second = desk.join(cast.fixed(8, 51, 2), now)
    desk.cancel(mine, now)
    assert desk.waiter(first).state is WaiterState.OFFERED
    assert desk.waiter(first).kept_until_at == now + 60 * MINUTE
    assert desk.waiter(second).state is WaiterState.WAITING
    assert desk.told("mei") == desk.told("tang") == ["told-option"]
    with pytest.raises(Refusal, match="fixed-share-full"):
        town.fixed(gpus=8, start_in=50, hours=4)  # it is kept
    desk.pass_(now + 59 * MINUTE)
    assert desk.waiter(first).state is WaiterState.OFFERED
    desk.pass_(now + 60 * MINUTE)
    assert desk.waiter(first).state is WaiterState.LAPSED
    assert desk.waiter(second).state is WaiterState.OFFERED
    with pytest.raises(Refusal, match="option-is-over"):
        desk.do(lambda s: waiting.take(s, first, by=cast.stranger, policy=desk.rules, now=now + 60 * MINUTE))
    booked = desk.do(lambda s: waiting.take(s, second, by=cast.member, policy=desk.rules, now=now + 61 * MINUTE).id)
    assert town.state(booked) is BookingState.CONFIRMED
    with cast.database.read_only() as session:
        assert session.scalars(sa.select(OptionPlace)).all() == []
    desk.pass_(now + 62 * MINUTE)


def test_leaving_passes_the_option_on_and_a_window_that_begins_is_over(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    mine = town.fixed(gpus=16, start_in=50, hours=4)
    first = desk.join(cast.fixed(16, 50, 4, allocation_id=cast.other_allocation), now, cast.stranger)
    second = desk.join(cast.fixed(12, 50, 4, allocation_id=cast.other_allocation), now, cast.stranger)
    third = desk.join(cast.fixed(16, 50, 3, allocation_id=cast.other_allocation), now, cast.stranger)
    desk.cancel(mine, now)
    desk.do(lambda s: waiting.leave(s, first, by=cast.stranger, policy=desk.rules, now=now).id)
    assert desk.waiter(first).state is WaiterState.LEFT
    assert desk.waiter(second).state is WaiterState.OFFERED
    desk.do(lambda s: waiting.take(s, second, by=cast.stranger, policy=desk.rules, now=now).id)
    desk.pass_(now + 50 * HOUR)
    assert desk.waiter(third).state is WaiterState.OVER
    assert desk.told("mei")[-1] == "told-wait-over"


# -- what the city lost -----------------------------------------------------------------------------------------------


def fails(town: Town, name: str, now: dt.datetime, state: NodeState = NodeState.DOWN) -> None:
    node_id = town.node(name)
    town.cast.database.transaction(
        lambda s: pools.change_node_state(s, node_id, state, verb="fail", by=town.cast.operator, now=now)
    )


def test_a_run_lost_with_its_node_is_credited_by_itself_with_the_event(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=6)
    town.cycle(now)
    town.meter(now + 2 * HOUR)
    assert town.charged(id) == 8 * CARD_HOUR
    fails(town, town.attempt(id).nodes[0]["node"], now + 2 * HOUR + 30 * MINUTE)  # type: ignore[index]
    town.cycle(now + 2 * HOUR + 31 * MINUTE)
    town.cycle(now + 2 * HOUR + 32 * MINUTE)
    desk.pass_(now + 2 * HOUR + 32 * MINUTE)  # not metered whole yet
    town.meter(now + 3 * HOUR)
    desk.pass_(now + 3 * HOUR)
    desk.pass_(now + 4 * HOUR)
    first = town.attempts(id)[0]
    with town.cast.database.read_only() as session:
        credits = list(session.scalars(sa.select(Charge).where(Charge.kind == ChargeKind.OUTAGE)))
    assert sum(each.gpu_seconds for each in credits) == -10 * CARD_HOUR
    assert all(f"attempt-{first.id}" in each.reference and "event-" in each.reference for each in credits)
    assert desk.told("lin").count("told-lost-run") == 1
    town.cycle(now + 9 * HOUR)
    town.meter(now + 10 * HOUR)
    assert town.charged(id) == 24 * CARD_HOUR  # the second run alone


def test_a_late_start_by_the_city_costs_nothing_and_the_time_is_offered_again(town: Town, desk: Desk) -> None:
    id = town.fixed(gpus=8, start_in=1, hours=4)
    start = town.booking(id).starts_at
    assert start is not None
    town.cycle(start + HOUR)  # the scheduler was away
    claim(town, id, start + HOUR)
    booking = town.booking(id)
    with town.cast.database.read_only() as session:
        assert extending.lost_seconds(session, booking, desk.rules) == 3600
    desk.do(lambda s: extending.make_up(s, id, by=town.cast.member, policy=desk.rules, now=start + 2 * HOUR).id)
    with pytest.raises(Refusal, match="nothing-to-make-up"):
        desk.do(lambda s: extending.make_up(s, id, by=town.cast.member, policy=desk.rules, now=start + 2 * HOUR))
    day(town, id, start + 6 * HOUR, start + 2 * HOUR)
    assert town.attempt(id).ended_at == start + 5 * HOUR
    assert town.state(id) is BookingState.SETTLED
    assert desk.charged(id, ChargeKind.OUTAGE) == -8 * CARD_HOUR
    assert town.charged(id) == 24 * CARD_HOUR  # three hours for four on the cards


# -- failed nodes -----------------------------------------------------------------------------------------------------


def fail(desk: Desk, *names: str, now: dt.datetime) -> None:
    by = desk.town.cast.operator
    for node in map(desk.town.node, names):
        desk.do(lambda s, node=node: pools.change_node_state(s, node, NodeState.DOWN, verb="fail", by=by, now=now))


def where(town: Town, id: int) -> list[str]:
    """The nodes on which the booking has hours to come."""
    names = {town.node(f"h800-n{number:03}"): f"h800-n{number:03}" for number in range(1, 5)}
    return [names[one.node_id] for one in town.occupancies(id) if one.released_at is None]


def test_a_fixed_booking_leaves_a_failed_node_shortly_before_its_hours(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=2)
    fail(desk, "h800-n001", now=now)
    desk.pass_(now + 44 * MINUTE)
    assert where(town, id) == ["h800-n001"]  # it may come back
    desk.pass_(now + 45 * MINUTE)
    desk.pass_(now + 46 * MINUTE)
    assert where(town, id) == ["h800-n002"]
    assert town.verbs(id).count("move") == 1
    assert desk.told("lin").count("told-moved") == 1
    assert town.cycle(now + HOUR) == [id]


def test_where_flexible_bookings_can_give_way_no_fixed_one_has_to(town: Town, desk: Desk) -> None:
    now = town.cast.now
    town.cycle(now)
    id, other = town.fixed(gpus=8, start_in=1, hours=2), desk.others(8, start_in=1, hours=2)
    runs = [town.flexible(gpus=8, hours=10), town.flexible(gpus=8, hours=10)]
    assert town.cycle(now) == runs
    fail(desk, "h800-n001", now=now + MINUTE)
    desk.pass_(now + 50 * MINUTE)
    assert (where(town, id), where(town, other)) == (["h800-n001"], ["h800-n002"])
    town.cycle(now + HOUR)
    town.cycle(now + HOUR + MINUTE)
    assert (town.state(id), town.state(other)) == (BookingState.RUNNING, BookingState.RUNNING)
    assert [town.state(one) for one in runs] == [BookingState.RUNNING, BookingState.QUEUED]  # the newest of both


def test_the_booking_confirmed_last_gives_way_free_of_charge_when_nothing_else_is_left(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id, last = town.fixed(gpus=8, start_in=1, hours=2), desk.others(8, start_in=1, hours=2)
    fail(desk, "h800-n001", "h800-n003", "h800-n004", now=now)
    desk.pass_(now + 50 * MINUTE)
    assert town.state(last) is BookingState.CANCELLED
    assert town.charged(last) == 0
    assert where(town, id) == ["h800-n002"]
    assert desk.told("mei") == ["told-gave-way"]
    assert town.cycle(now + HOUR) == [id]


def test_it_is_moved_rather_than_cancelled_where_its_hours_fit_elsewhere(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    id, last = town.fixed(gpus=8, start_in=1, hours=2), desk.others(8, start_in=2, hours=2)
    desk.do(
        lambda s: pools.plan_maintenance(
            s, cast.pool, node_ids=[town.node("h800-n003")], starts_at=now + HOUR, ends_at=now + 2 * HOUR,
            reason="更换光模块", by=cast.operator, now=now,
        ).id
    )  # fmt: skip
    fail(desk, "h800-n001", "h800-n004", now=now)
    assert (where(town, id), where(town, last)) == (["h800-n001"], ["h800-n002"])
    desk.pass_(now + 50 * MINUTE)
    assert (where(town, id), where(town, last)) == (["h800-n002"], ["h800-n003"])
    assert (town.state(id), town.state(last)) == (BookingState.CONFIRMED, BookingState.CONFIRMED)


def test_who_was_confirmed_first_gives_way_to_nobody(town: Town, desk: Desk) -> None:
    now = town.cast.now
    first, id = town.fixed(gpus=8, start_in=1, hours=2), desk.others(8, start_in=1, hours=2)
    fail(desk, "h800-n002", "h800-n003", "h800-n004", now=now)
    desk.pass_(now + 50 * MINUTE)
    assert (where(town, first), where(town, id)) == (["h800-n001"], ["h800-n002"])
    assert town.cycle(now + HOUR) == [first]
    assert town.state(id) is BookingState.CONFIRMED  # it waits for a node, and pays for nothing that it does not get


def test_a_booking_that_lost_its_cards_while_it_ran_keeps_the_row_of_what_it_had(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=1, hours=4)
    town.cycle(now + HOUR)
    fail(desk, "h800-n001", now=now + 2 * HOUR)
    town.cycle(now + 2 * HOUR)
    assert town.state(id) is BookingState.CONFIRMED
    before = [(one.node_id, one.ends_at, one.released_at) for one in town.occupancies(id)]
    desk.pass_(now + 2 * HOUR + 10 * MINUTE)
    assert [(one.node_id, one.ends_at, one.released_at) for one in town.occupancies(id)] == before
    assert town.cycle(now + 2 * HOUR + 20 * MINUTE) == [id]  # the engine gives it others


# -- maintenance ------------------------------------------------------------------------------------------------------


def test_maintenance_over_bookings_moves_them_or_lets_the_latest_give_way(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    first = town.fixed(gpus=8, start_in=50, hours=4)
    second = desk.others(8, 50, 4)
    with cast.database.read_only() as session:
        nodes = pool_queries.node_ids(session, cast.pool)
    window: dict[str, Any] = {
        "node_ids": nodes[:3], "starts_at": now + 51 * HOUR, "ends_at": now + 52 * HOUR, "reason": "更换光模块",
        "by": cast.operator, "now": now,
    }  # fmt: skip
    with cast.database.read_only() as session:
        clashes = maintenance.list_clashes(session, nodes[:3], window["starts_at"], window["ends_at"])
    assert [(clash.booking.id, clash.moves) for clash in clashes] == [(first, True), (second, True)]
    with pytest.raises(Refusal, match="maintenance-clashes"):
        desk.do(lambda s: maintenance.plan(s, cast.pool, over_bookings=False, **window))
    moved, gone = desk.do(lambda s: maintenance.plan(s, cast.pool, over_bookings=True, **window)[1:])
    assert (moved, gone) == (1, 1)
    assert town.state(first) is BookingState.CONFIRMED
    assert {row.node_id for row in town.occupancies(first) if row.released_at is None} == {nodes[3]}
    assert town.state(second) is BookingState.CANCELLED
    assert town.charged(second) == 0
    assert desk.told("lin") == ["told-moved"]
    assert desk.told("mei") == ["told-gave-way"]


def test_maintenance_is_refused_over_what_runs(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    town.flexible(gpus=32, hours=10)
    town.cycle(now)
    with cast.database.read_only() as session:
        nodes = pool_queries.node_ids(session, cast.pool)
    with pytest.raises(Refusal, match="maintenance-over-running"):
        desk.do(
            lambda s: maintenance.plan(
                s, cast.pool, node_ids=nodes, starts_at=now + HOUR, ends_at=now + 2 * HOUR, reason="x",
                over_bookings=True, by=cast.operator, now=now,
            )
        )  # fmt: skip


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_people_are_told_two_days_and_an_hour_before_the_end_once_each(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.flexible(gpus=4, hours=60)
    short = town.flexible(gpus=1, hours=0.5)
    town.cycle(now)
    for hours in (0, 11, 12, 13, 30, 58):
        desk.pass_(now + hours * HOUR)
    assert desk.told("chen") == ["told-ends"]
    for minutes in (0, 1, 20, 59):
        desk.pass_(now + 59 * HOUR + minutes * MINUTE)
    assert desk.told("chen") == ["told-ends"] * 2
    assert town.state(short) is BookingState.RUNNING
    assert id < short


# -- races ------------------------------------------------------------------------------------------------------------


def test_cancel_and_approve_at_once_make_one_move_or_two_in_order(town: Town, desk: Desk) -> None:
    cast, now = town.cast, town.cast.now
    for _ in range(3):
        id = town.fixed(gpus=16, start_in=60, hours=150)  # above the threshold: an operator decides
        assert town.state(id) is BookingState.SUBMITTED
        outcome = at_once(
            lambda id=id: desk.do(lambda s: bookings.approve(s, id, by=cast.operator, now=now).id),
            lambda id=id: desk.do(lambda s: cancellations.cancel(s, id, by=cast.member, policy=desk.rules, now=now).id),
        )
        refusals = [one.sentence.id for one in outcome if isinstance(one, Refusal)]
        # Approved first, it costs by the schedule and needs a quote; cancelled first, there is nothing to approve.
        assert refusals in (["no-such-move"], ["quote-expired"])
        expected = BookingState.CANCELLED if refusals == ["no-such-move"] else BookingState.CONFIRMED
        assert town.state(id) is expected
        if expected is BookingState.CONFIRMED:
            desk.cancel(id, now)


def test_one_quote_used_twice_at_once_charges_once(town: Town, desk: Desk) -> None:
    now = town.cast.now
    id = town.fixed(gpus=8, start_in=10, hours=10)
    quote = desk.quote(id, now)
    outcome = at_once(*[lambda: desk.cancel(id, now, quote.id)] * 3)
    assert sum(one is None for one in outcome) == 1
    assert desk.charged(id, ChargeKind.CANCELLATION) == 40 * CARD_HOUR
