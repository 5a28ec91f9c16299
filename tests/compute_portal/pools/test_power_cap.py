"""A pool that may draw only so much power in some hours: bookings of both kinds keep under it."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.bookings import extending, offers
from compute_portal.bookings import queries as bookings
from compute_portal.bookings.models import Booking
from compute_portal.policy import Policy
from compute_portal.pools import queries, service
from compute_portal.pools.models import Pool
from compute_portal.sentences import NotFound, Refusal, Sentence
from tests.cast import HOUR, Cast


def cap(cast: Cast, gpus: int, start_in: int, hours: int) -> int:
    """Power for just so many of the pool's 32 GPUs."""
    begin = clock.ceil_hour(cast.now) + start_in * HOUR

    def work(session: service.Session) -> int:
        watts = -(-gpus * session.get_one(Pool, cast.pool).watts * 1_300 // 1_000)
        return service.cap_power(
            session, cast.pool, watts=watts, pue_permille=1_300, starts_at=begin, ends_at=begin + hours * HOUR,
            by=SYSTEM, now=cast.now,
        ).id  # fmt: skip

    return cast.database.transaction(work)


def earliest(cast: Cast, gpus: int, seconds: int) -> int | None:
    with cast.database.read_only() as session:
        availability = queries.load_availability(session, queries.get_pool(session, cast.pool), cast.now)
    start = int(clock.ceil_hour(cast.now).timestamp())
    found = availability.earliest(gpus, seconds, start, start + 7 * 86_400, step=3_600)
    return None if found is None else (found - start) // 3_600


def test_a_fixed_booking_is_confirmed_only_under_the_cap_and_what_is_confirmed_stays(
    cast: Cast, policy: Policy
) -> None:
    cast.submit(cast.fixed(gpus=8, start_in=10, hours=2), policy.bookings)
    number = cap(cast, gpus=12, start_in=9, hours=4)
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.fixed(gpus=8, start_in=11, hours=2), policy.bookings)
    hour = clock.ceil_hour(cast.now)
    assert refused.value.sentence == Sentence(
        "no-power-but-later", capped=12, start=hour + 9 * HOUR, until=hour + 13 * HOUR, asked=8, free=4,
        later=hour + 12 * HOUR,
    )  # fmt: skip
    assert cast.submit(cast.fixed(gpus=4, start_in=10, hours=2), policy.bookings)
    assert cast.submit(cast.fixed(gpus=8, start_in=13, hours=2), policy.bookings)
    cast.database.transaction(lambda s: service.lift_power_cap(s, number, by=SYSTEM, now=cast.now))
    cast.database.transaction(lambda s: service.lift_power_cap(s, number, by=SYSTEM, now=cast.now))
    assert earliest(cast, 20, 4 * 3_600) == 0


def test_what_is_capped_is_not_called_booked_by_others_in_offers_and_extensions(cast: Cast, policy: Policy) -> None:
    rules, hour = policy.bookings, clock.ceil_hour(cast.now)
    booking = cast.submit(cast.fixed(gpus=8, start_in=1, hours=2), rules)
    cap(cast, gpus=4, start_in=4, hours=20)
    wish = offers.Wish(8, 6, hour, hour + 24 * HOUR)
    with cast.database.read_only() as session:
        end = session.get_one(Booking, booking).ends_at
        assert end is not None
        extending.quote_extension(session, booking, end + HOUR, by=cast.member, policy=rules, now=cast.now)
        with pytest.raises(Refusal) as refused:
            extending.quote_extension(session, booking, end + 2 * HOUR, by=cast.member, policy=rules, now=cast.now)
        assert refused.value.sentence == Sentence("extend-no-power", asked=8, free=4, at=end + HOUR)
        choice = bookings.list_choices(session, cast.member, cast.now)[0]
        with pytest.raises(Refusal) as none:
            offers.find(session, choice, wish, policy=rules, now=cast.now)
        capped = Sentence("offers-no-power", capped=4, start=hour + 4 * HOUR, until=hour + 24 * HOUR)
        assert none.value.sentence == capped and none.value.field == "gpus"
        few = offers.find(session, choice, dataclasses.replace(wish, gpus=4), policy=rules, now=cast.now)
        assert few.earliest


def test_the_earliest_window_knows_the_cap_and_the_pools_version_tells_of_it(cast: Cast) -> None:
    def version() -> int:
        with cast.database.read_only() as session:
            return session.get_one(Pool, cast.pool).version

    before = version()
    assert earliest(cast, 32, 3 * 3_600) == 0
    cap(cast, gpus=16, start_in=2, hours=2)
    assert version() == before + 1
    assert earliest(cast, 16, 3 * 3_600) == 0
    assert earliest(cast, 17, 2 * 3_600) == 0
    assert earliest(cast, 17, 3 * 3_600) == 4
    cap(cast, gpus=0, start_in=0, hours=48)  # of several the least counts
    assert earliest(cast, 1, 3_600) == 48


@pytest.mark.parametrize(
    ("begins", "ends", "sentence"),
    [
        (dt.timedelta(minutes=30), 2 * HOUR, "power-cap-hours"),
        (2 * HOUR, 2 * HOUR, "ends-before-start"),
        (-3 * HOUR, -2 * HOUR, "power-cap-over"),
    ],
)
def test_a_cap_is_in_whole_hours_that_are_not_over(
    cast: Cast, begins: dt.timedelta, ends: dt.timedelta, sentence: str
) -> None:
    hour = clock.ceil_hour(cast.now)
    with pytest.raises(Refusal) as refused:
        cast.database.transaction(
            lambda s: service.cap_power(
                s, cast.pool, watts=1, pue_permille=1_300, starts_at=hour + begins, ends_at=hour + ends, by=SYSTEM,
                now=cast.now,
            ).id
        )  # fmt: skip
    assert refused.value.sentence.id == sentence


def test_only_operators_set_and_lift_caps(cast: Cast) -> None:
    hour = clock.ceil_hour(cast.now)
    for who in (cast.member, cast.finance, cast.auditor):
        with pytest.raises(Refusal):
            cast.database.transaction(
                lambda s, who=who: (
                    service.cap_power(  # type: ignore[misc]
                        s,
                        cast.pool,
                        watts=1,
                        pue_permille=1_300,
                        starts_at=hour,
                        ends_at=hour + HOUR,
                        by=who,
                        now=cast.now,
                    ).id
                )
            )
    with pytest.raises(NotFound):
        cast.database.transaction(lambda s: service.lift_power_cap(s, 99, by=cast.operator, now=cast.now))
