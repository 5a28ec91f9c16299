"""What a decision would mean, reckoned from recorded days, and where the people who decide and who ask read it."""

from __future__ import annotations

import datetime as dt

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.allocations import changes, requests
from compute_portal.allocations.changes import Wish
from compute_portal.allocations.states import ChangeKind
from compute_portal.bookings.models import Booking, QueueDay, QueuePicture, Standing
from compute_portal.commons.models import PoolDay
from compute_portal.desk import impact
from compute_portal.desk.impact import Change, Day
from compute_portal.policy import Policy
from compute_portal.sentences import Sentence
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.review import house as review
from tests.web import Queries, make_app, post, set_now, sign_in, words

FULL = 32 * 86_400  # what the cast's pool gives in a day
ME, ANOTHER, THIRD = 1, 2, 3


def day(percent: int, waited: int = 0, started: int = 1, shares: dict[int, tuple[int, int]] | None = None) -> Day:
    return Day(FULL, FULL * percent // 100, started, waited, shares)


def test_use_grows_by_what_is_spread_over_the_days_and_waits_are_those_of_days_as_full() -> None:
    days = [day(70, waited=600), day(70, waited=1_200, started=2), day(91, waited=9_000, started=3)]
    found = impact.reckon(days, ME, 15 * FULL * 14 // 100, over_days=15)
    assert found is not None and found.days == 3
    assert found.use == Change(770, 910)
    assert found.wait == Change(None, 3_000) and found.days_so_full == Change(0, 1)
    less = impact.reckon(days[:2], ME, 0, over_days=15)
    assert less is not None and less.wait == Change(600, 600) and less.days_so_full == Change(2, 2)


def test_of_a_short_day_others_get_as_much_less_each_in_proportion() -> None:
    days = [day(100, shares={ME: (20, 50), ANOTHER: (60, 30), THIRD: (20, 20)})]
    found = impact.reckon(days, ME, 30, over_days=1)
    assert found is not None
    assert found.share == Change(200, 500) and found.entitled == 500
    # got ÷ entitled: 0.4, 2, 1 before; 1, 1.25, 0.625 after, when the others have 37 and 12 of their 60 and 20
    assert found.fairness.now == round(1_000 * 3.4**2 / (3 * (0.4**2 + 2**2 + 1)))
    ratios = (1, 37 / 30, 12 / 20)
    assert found.fairness.after == round(1_000 * sum(ratios) ** 2 / (3 * sum(x * x for x in ratios)))


def test_who_never_asked_is_entitled_to_as_much_as_the_others_on_average() -> None:
    found = impact.reckon([day(100, shares={ANOTHER: (60, 60), THIRD: (40, 40)})], ME, 10, over_days=1)
    assert found is not None
    assert found.share == Change(0, 100) and found.entitled == 1_000 * 33 // 133
    assert found.fairness.now == 1_000 and found.fairness.after is not None and found.fairness.after < 1_000


def test_without_recorded_days_nothing_is_said() -> None:
    assert impact.reckon([], ME, 100, over_days=1) is None
    found = impact.reckon([day(50)], ME, 0, over_days=1)
    assert found is not None and found.fairness == found.share == Change(None, None) and found.entitled is None


numbers = st.integers(0, 10**9)
shares = st.dictionaries(st.integers(1, 6), st.tuples(numbers, numbers), max_size=6)


@settings(max_examples=60)
@given(st.lists(shares, min_size=1, max_size=4), st.integers(0, 10**10), st.integers(1, 400))
def test_more_for_one_is_never_less_use_nor_a_smaller_part(
    recorded: list[dict[int, tuple[int, int]]], gpu_seconds: int, over_days: int
) -> None:
    days = [Day(FULL, FULL // 2, 1, 60, each or None) for each in recorded]
    found = impact.reckon(days, ME, gpu_seconds, over_days)
    assert found is not None and found.use.now is not None and found.use.after is not None
    assert found.use.now <= found.use.after
    if found.share.now is not None and found.share.after is not None:
        assert 0 <= found.share.now <= found.share.after <= 1_000
        assert 0 < (found.entitled or 0) <= 1_000 or found.entitled == 0
        assert all(index is None or 0 < index <= 1_000 for index in (found.fairness.now, found.fairness.after))


# -- as it is read


STARTS = {"gpus": [8, 32], "hours": [24, 336], "seconds": [[[0, 7_200, 18_000]] * 2] * 2}


def record(cast: Cast) -> None:
    """Two days of the pool, 80% and 90% full, on which cards were short; and the start table."""
    today = clock.day_of(NOW)

    def work(session: Session) -> None:
        for back, percent in ((1, 80), (2, 90)):
            on = today - dt.timedelta(days=back)
            given = FULL * percent // 100
            session.add(
                PoolDay(
                    pool_id=cast.pool, day_on=on, capacity_gpu_seconds=FULL, down_gpu_seconds=0,
                    allocated_gpu_seconds=given, used_gpu_seconds=given,
                )
            )  # fmt: skip
            halves = {str(cast.yusheng): [FULL // 4, FULL // 2], str(cast.luyu): [FULL // 2, FULL // 2]}
            session.add(
                QueueDay(
                    pool_id=cast.pool, on=on, started=2, waited_seconds=percent * 120, longest_seconds=percent * 90,
                    deviation_permille=100, shares=halves,
                )
            )  # fmt: skip
        session.add(QueuePicture(pool_id=cast.pool, at=NOW, starts=STARTS, ranges=0, held=0, overdue_full_since=None))

    cast.database.transaction(work)


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    record(cast)
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_who_reviews_a_request_sees_pool_queue_and_fairness_before_and_after(app: Flask, cast: Cast) -> None:
    asked = review.ask(cast, by=cast.manager)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    shown = words(zhou.get(f"/reviews/{asked}"))
    assert "after, with this spread evenly 85.0% 104.2%" in shown
    assert "no day was so full; so nobody knows 1 h 25 min –" in shown
    shown = words(zhou.get(f"/reviews/{asked}?awarded_hours=1000"))
    assert "H800 cards in use by the last 2 days; after, with this spread evenly 85.0% 87.1%" in shown
    assert "on one day about so full 1 h 25 min 1 h 30 min" in shown
    assert "entitled to 50.0% 33.3% 36.1%" in shown
    assert "Jain; 1 is perfectly even 0.90 0.93" in shown
    assert "8 cards for a day would start by today 15:00." in shown


def test_who_decides_on_more_hours_for_an_allocation_sees_the_same(app: Flask, cast: Cast) -> None:
    wish = Wish(ChangeKind.SUPPLEMENT, "第二阶段", gpu_seconds=units.gpu_seconds(1_000))
    change = cast.database.transaction(lambda s: changes.request(s, cast.allocation, wish, by=cast.manager, now=NOW).id)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    zhou.get("/start")  # which reads the announcements that all pages show
    with Queries(cast.database) as queries:
        shown = words(zhou.get(f"/changes/{change}"))
    assert len(queries) <= 10
    assert "H800 cards in use by the last 2 days; after, with this spread evenly 85.0% 87.1%" in shown
    assert "Fairness index" not in words(sign_in(app, cast.users["lin"], language="en").get(f"/changes/{change}"))


def wait_behind(cast: Cast, policy: Policy, expected: list[dt.datetime]) -> None:
    """Bookings of Luyu that wait, with an hour each from these instants on."""

    def work(session: Session) -> None:
        for place, at in enumerate(expected, 1):
            booking = session.get_one(Booking, ids[place - 1])
            session.add(
                Standing(
                    booking_id=booking.id, pool_id=cast.pool, place=place, waiting=len(expected), at=NOW,
                    reason=Sentence("wait-ahead", n=1).to_json(), p10_at=at, expected_at=at, p90_at=at,
                )
            )  # fmt: skip

    mine = cast.flexible(4, 1, allocation_id=cast.other_allocation)
    ids = [cast.submit(mine, policy.bookings, by=cast.stranger) for _ in expected]
    cast.database.transaction(work)


def test_who_decides_on_a_booking_sees_whom_it_passes_and_the_same_figures(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    wait_behind(cast, policy, [NOW + HOUR, NOW + 3 * HOUR, NOW + 11 * HOUR, NOW + 300 * HOUR])
    flexible = cast.submit(cast.flexible(gpus=32, hours=100), policy.bookings)
    shown = words(zhou.get(f"/bookings/{flexible}"))
    assert "3 bookings that wait are expected to start after it, for 12 cards. One company is concerned." in shown
    assert "H800 cards in use" in shown and "Jain; 1 is perfectly even 0.90" in shown
    fixed = cast.submit(cast.fixed(gpus=16, start_in=10, hours=160), policy.bookings)
    shown = words(zhou.get(f"/bookings/{fixed}"))
    assert "1 booking that waits is expected to start in this window, for 4 cards. One company is concerned." in shown
    # those who asked see nothing of others
    own = words(sign_in(app, cast.users["chen"], language="en").get(f"/bookings/{flexible}"))
    assert "expected to start after it" not in own and "Fairness index" not in own


def test_the_wait_that_was_foretold_is_kept_with_the_request_beside_the_first_real_one(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    lin = sign_in(app, cast.users["lin"], language="en")
    assert "A booking would wait up to 5 h" in words(lin.get("/allocations/request"))
    days = {"starts_on": "2026-12-01", "ends_on": "2027-02-28"}
    asked = days | {"programme_id": f"{cast.programme}:{cast.pool}", "hours": "6400", "purpose": "方言识别"}
    write = post(lin, "/allocations/request", asked).location
    page = post(lin, write.replace("write", "submit"), asked, page=write).location
    id = int(page.rsplit("/", 1)[1])
    with cast.database.read_only() as session:
        (newest,) = requests.list_submissions(session, id)
    assert newest.preview["start"] == {
        "gpus": 8, "hours": 24, "p10_seconds": 0, "p50_seconds": 7_200, "p90_seconds": 18_000,
    }  # fmt: skip
    shown = words(lin.get(f"{page}/asked"))
    assert "A booking would wait up to 5 h 8 cards for 24 hours; half of such bookings wait less than 2 h" in shown
    assert "The first one waited none has started yet" in shown

    def start(session: Session) -> None:
        session.get_one(Booking, booking).allocation_id = id
        session.get_one(Booking, booking).started_at = NOW + 3 * HOUR

    review.approve(cast, id, policy, hours=6_400)
    booking = cast.submit(cast.flexible(8, 1), policy.bookings)
    cast.database.transaction(start)
    assert "The first one waited 3 h" in words(lin.get(f"{page}/asked"))
