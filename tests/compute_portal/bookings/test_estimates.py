"""What was said of a start is kept beside what came true."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.bookings import attempts, estimates
from compute_portal.bookings import service as bookings
from compute_portal.bookings.attempts import Place
from compute_portal.bookings.estimates import Day, Outlook, Run, Stay
from compute_portal.bookings.models import Estimate, QueueDay, QueuePicture, Standing
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node
from compute_portal.pools.states import NodeState
from compute_portal.sentences import Sentence
from tests import walk
from tests.cast import HOUR, NOW, Cast

MINUTE = dt.timedelta(minutes=1)


def waits(cast: Cast, policy: Policy, **asked: int) -> int:
    """A flexible booking that the scheduler has looked at."""
    id = cast.submit(cast.flexible(**asked), policy.bookings)

    def work(session: Session) -> None:
        before = [row.booking_id for row in session.scalars(sa.select(Standing))]
        places = [Place(one, cast.pool, n, 9, Sentence("wait-ahead", n=n)) for n, one in enumerate([*before, id], 1)]
        attempts.write_standings(session, places, pool_id=cast.pool, now=NOW)

    cast.database.transaction(work)
    return id


def outlook(id: int, p10: int, p50: int, p90: int) -> Outlook:
    """In minutes."""
    return Outlook(id, p50 * 60, p10 * 60, p50 * 60, p90 * 60)


def record(cast: Cast, *outlooks: Outlook, at: dt.datetime = NOW) -> int:
    with cast.database.read_only() as session:
        changed = estimates.moved(session, outlooks, pool_id=cast.pool, now=at)
    cast.database.write(lambda w: estimates.record(w, changed, pool_id=cast.pool, now=at))
    return len(changed)


def close(cast: Cast) -> int:
    with cast.database.read_only() as session:
        over = estimates.came_true(session)
    cast.database.write(lambda w: estimates.close(w, over, now=NOW + HOUR))
    return len(over)


def kept(cast: Cast) -> list[Estimate]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Estimate).order_by(Estimate.id)))


def test_an_estimate_is_shown_and_kept_and_what_hardly_moved_is_not_kept_again(cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy)
    assert record(cast, outlook(id, 30, 60, 300)) == 1
    assert record(cast, outlook(id, 33, 63, 300), at=NOW + MINUTE) == 0
    assert record(cast, outlook(id, 30, 90, 300), at=NOW + 2 * MINUTE) == 1
    assert [(row.made_at, row.p50_seconds, row.place, row.waiting) for row in kept(cast)] == [
        (NOW, 3_600, 1, 9),
        (NOW + 2 * MINUTE, 5_400, 1, 9),
    ]
    with cast.database.read_only() as session:
        standing = session.get_one(Standing, id)
        assert standing.expected_at == NOW + 92 * MINUTE
        assert (standing.p10_at, standing.p90_at) == (NOW + 32 * MINUTE, NOW + 302 * MINUTE)


def test_writing_places_anew_leaves_the_estimate_as_it_was_shown(cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy)
    record(cast, outlook(id, 30, 60, 300))
    other = waits(cast, policy)
    with cast.database.read_only() as session:
        assert session.get_one(Standing, id).expected_at == NOW + HOUR
        assert session.get_one(Standing, other).expected_at is None


def test_a_booking_that_started_in_between_gets_no_estimate(cast: Cast, policy: Policy) -> None:
    id = cast.submit(cast.flexible(), policy.bookings)
    assert record(cast, outlook(id, 30, 60, 300)) == 0
    assert kept(cast) == []


def test_a_start_closes_all_estimates_of_the_booking_with_what_came_true(cast: Cast, policy: Policy) -> None:
    id, other = waits(cast, policy), waits(cast, policy)
    record(cast, outlook(id, 30, 60, 300), outlook(other, 30, 60, 300))
    record(cast, outlook(id, 0, 5, 20), at=NOW + 30 * MINUTE)
    walk.start(cast, id, at=NOW + 40 * MINUTE)
    assert close(cast) == 2
    assert close(cast) == 0
    assert [row.waited_seconds for row in kept(cast)] == [2_400, None, 600]
    assert [row.closed_at for row in kept(cast)] == [NOW + HOUR, None, NOW + HOUR]
    with cast.database.read_only() as session:
        assert estimates.coverage(session, cast.pool) == (2, 2)
        told = estimates.list_told(session, cast.pool)
    assert {(one.booking_id, one.waited_seconds) for one in told} == {(id, 2_400), (id, 600), (other, None)}


def test_a_range_that_the_start_missed_does_not_count_as_held(cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy)
    record(cast, outlook(id, 30, 60, 300))
    walk.start(cast, id, at=NOW + 10 * MINUTE)
    close(cast)
    with cast.database.read_only() as session:
        assert estimates.coverage(session, cast.pool) == (1, 0)


def test_a_cancelled_booking_says_nothing_of_how_good_estimates_are(cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy)
    record(cast, outlook(id, 30, 60, 300))
    cast.database.transaction(lambda s: bookings.cancel(s, id, by=cast.member, now=NOW + MINUTE))
    assert close(cast) == 1
    [row] = kept(cast)
    assert (row.waited_seconds, row.closed_at) == (None, NOW + HOUR)
    with cast.database.read_only() as session:
        assert estimates.coverage(session, cast.pool) == (0, 0)
        assert estimates.list_told(session, cast.pool) == []


def test_runs_are_told_in_the_order_in_which_they_ended(cast: Cast, policy: Policy) -> None:
    first, second = cast.submit(cast.flexible(), policy.bookings), cast.submit(cast.flexible(), policy.bookings)
    keys = walk.start(cast, first, at=NOW), walk.start(cast, second, at=NOW)
    walk.end(cast, keys[1], at=NOW + HOUR)
    walk.end(cast, keys[0], at=NOW + 2 * HOUR)
    with cast.database.read_only() as session:
        assert estimates.list_runs(session) == [Run(cast.yusheng, 7_200, 3_600), Run(cast.yusheng, 7_200, 7_200)]


def test_the_stays_of_a_day_are_who_wanted_and_had_cards(cast: Cast, policy: Policy) -> None:
    began = int(NOW.timestamp())
    ran, waiting = cast.submit(cast.flexible(), policy.bookings), cast.submit(cast.flexible(gpus=8), policy.bookings)
    fixed = cast.submit(cast.fixed(start_in=3), policy.bookings)
    walk.end(cast, walk.start(cast, ran, at=NOW + HOUR), at=NOW + 2 * HOUR)
    with cast.database.read_only() as session:
        found = estimates.list_stays(session, cast.pool, NOW, NOW + 24 * HOUR)
        assert sorted(found, key=str) == sorted(
            [
                Stay(cast.yusheng, 4, True, began, began + 3_600, began + 7_200),
                Stay(cast.yusheng, 8, True, began, None, None),
                Stay(cast.yusheng, 8, False, began + 3 * 3_600, None, None),
            ],
            key=str,
        )
        assert len(estimates.list_stays(session, cast.pool, NOW + 2 * HOUR, NOW + 3 * HOUR)) == 1
    assert waiting != fixed


def test_a_node_that_was_down_gave_nothing_meanwhile(cast: Cast, policy: Policy) -> None:
    with cast.database.read_only() as session:
        nodes = list(session.scalars(sa.select(Node).where(Node.pool_id == cast.pool)))
        whole = estimates.capacity_gpu_seconds(session, cast.pool, NOW, NOW + 2 * HOUR)
    assert whole == sum(node.gpus for node in nodes) * 7_200
    cast.database.transaction(
        lambda s: pools.change_node_state(
            s, nodes[0].id, NodeState.DOWN, verb="fail", by=cast.operator, now=NOW + HOUR, note=""
        )
    )
    with cast.database.read_only() as session:
        assert estimates.capacity_gpu_seconds(session, cast.pool, NOW, NOW + 2 * HOUR) == whole - nodes[0].gpus * 3_600


@pytest.mark.parametrize("days", [1, 3])
def test_since_when_overdue_bookings_fill_their_part_is_kept_until_they_do_not(cast: Cast, days: int) -> None:
    table = {"gpus": [1], "hours": [1], "seconds": [[[0, 60, 600]]]}

    def tell(full: bool, at: dt.datetime, starts: dict[str, object] | None = None) -> None:
        cast.database.write(lambda w: estimates.picture(w, cast.pool, starts=starts, overdue_is_full=full, now=at))

    def since() -> dt.datetime | None:
        with cast.database.read_only() as session:
            row = session.get_one(QueuePicture, cast.pool)
            assert row.starts == table, "a look without a new table keeps the old one"
            return row.overdue_full_since

    tell(True, NOW, table)
    tell(True, NOW + days * 24 * HOUR)
    assert since() == NOW
    tell(False, NOW + days * 24 * HOUR + MINUTE)
    assert since() is None


def test_a_day_told_again_replaces_what_was_told(cast: Cast) -> None:
    day = NOW.date()
    first = Day(day, 2, 600, 500, None, {})
    again = Day(day, 3, 900, 500, 120, {cast.yusheng: (100, 200)})
    for told in (first, again):
        cast.database.write(lambda w, told=told: estimates.keep_days(w, cast.pool, [told]))  # type: ignore[misc]
    with cast.database.read_only() as session:
        row = session.get_one(QueueDay, (cast.pool, day))
        assert (row.started, row.deviation_permille, row.shares) == (3, 120, {str(cast.yusheng): [100, 200]})
        assert estimates.days_kept(session, cast.pool, day) == {day}
