"""Looking ahead over the living pool: ranges are shown, kept, closed with what came true, and never in the way."""

from __future__ import annotations

import datetime as dt
import random
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.bookings import queue
from compute_portal.bookings.models import Estimate, QueueDay, QueuePicture, Standing
from compute_portal.policy import Policy
from compute_portal.sentences import Sentence
from scheduler import cycle, forecasting, replay
from scheduler.context import Ahead
from scheduler.trace import COLUMNS
from tests.cast import HOUR
from tests.scheduler.conftest import Town

MINUTE = dt.timedelta(minutes=1)


def look(town: Town, at: dt.datetime) -> int:
    town.cycle(at)
    cycle.write_standings(town.context, at)
    return forecasting.run(town.context, at)


def full(town: Town, hours: int = 2, at: dt.datetime | None = None) -> int:
    """A booking that takes the whole pool at once."""
    id = town.flexible(gpus=32, hours=hours)
    assert id in town.cycle(at or town.cast.now)
    return id


def test_what_waits_gets_a_range_that_is_shown_and_kept(town: Town) -> None:
    now = town.cast.now
    full(town)
    first, second = town.flexible(gpus=8, hours=1), town.flexible(gpus=32, hours=1)
    assert look(town, now) == 2
    with town.cast.database.read_only() as session:
        kept = {row.booking_id: row for row in session.scalars(sa.select(Estimate))}
        standings = {row.booking_id: row for row in session.scalars(sa.select(Standing))}
    assert kept.keys() == standings.keys() == {first, second}
    assert kept[first].expected_seconds == 7_200  # nobody's runs are known: all take what they ask for
    assert kept[second].expected_seconds == 7_200 + 3_600
    for id, row in kept.items():
        assert standings[id].expected_at == now + dt.timedelta(seconds=row.p50_seconds)
        assert standings[id].p10_at < standings[id].expected_at < standings[id].p90_at  # type: ignore[operator]
        assert (row.place, row.waiting) == (standings[id].place, 2)
        assert Sentence.from_json(standings[id].change) is not None
    assert look(town, now + MINUTE) == 0, "what has a range is not looked at again so soon"


def test_a_start_is_written_beside_every_range_that_was_shown(town: Town) -> None:
    now = town.cast.now
    full(town)
    waits = town.flexible(gpus=8, hours=1)
    look(town, now)
    later = now + 2 * HOUR
    look(town, later)
    full(town, at=later + HOUR)
    other = town.flexible(gpus=8, hours=1)
    look(town, later + HOUR)
    with town.cast.database.read_only() as session:
        of = {row.booking_id: row for row in session.scalars(sa.select(Estimate))}
        picture = session.get_one(QueuePicture, town.cast.pool)
    assert of[waits].waited_seconds == 7_200 and of[waits].closed_at is not None
    assert of[other].closed_at is None
    assert picture.ranges == 1


def test_what_no_longer_can_start_loses_the_range_that_was_shown(town: Town) -> None:
    now = town.cast.now
    full(town)
    waits = town.flexible(gpus=8, hours=1)
    look(town, now)
    town.cast.limit(town.cast.yusheng, 4)  # lower than it asks for: it waits until the limit rises again
    look(town, now + 11 * MINUTE)
    with town.cast.database.read_only() as session:
        standing = session.get_one(Standing, waits)
        kept = session.scalars(sa.select(Estimate)).all()
    assert (standing.p10_at, standing.expected_at, standing.p90_at) == (None, None, None)
    assert standing.reason["id"] == "wait-limit" and len(kept) == 1


def test_a_pool_has_a_table_of_starts_also_when_nobody_waits(town: Town) -> None:
    now = town.cast.now
    look(town, now)
    with town.cast.database.read_only() as session:
        _pool, picture = queue.get_queue(session, town.cast.pool)
    soon = queue.expected(picture, 8, 3_600)
    assert soon is not None and soon.p10_at == now
    assert queue.expected(picture, 33, 3_600) is None, "more than the table knows"
    full(town)
    look(town, now + 10 * MINUTE)
    with town.cast.database.read_only() as session:
        _pool, picture = queue.get_queue(session, town.cast.pool)
    later = queue.expected(picture, 7, 5_000)
    assert later is not None and later.p50_at > now + HOUR


def test_while_rounds_take_too_long_nothing_is_looked_at(town: Town) -> None:
    now = town.cast.now
    full(town)
    town.flexible(gpus=8, hours=1)
    town.cycle(now)
    town.context.round_seconds = town.context.policy.queue.cycle_seconds + 1
    cycle.write_standings(town.context, now)
    assert forecasting.run(town.context, now) == 0
    assert town.context.ahead.snapshots == {}


def test_what_the_cycle_saw_too_long_ago_is_not_looked_at(town: Town) -> None:
    now = town.cast.now
    full(town)
    town.flexible(gpus=8, hours=1)
    town.cycle(now)
    cycle.write_standings(town.context, now)
    assert forecasting.run(town.context, now + HOUR) == 0


def test_looking_ahead_is_due_every_so_often_and_when_something_is_new_but_not_while_it_rests() -> None:
    ahead = Ahead()
    assert ahead.is_due(1_000, {1: [5]}, 600)
    ahead.leave({}, 1_000, 600)
    ahead.known[1] = frozenset({5})
    assert not ahead.is_due(1_100, {1: [5]}, 600)
    assert ahead.is_due(1_100, {1: [5, 6]}, 600)
    assert ahead.is_due(1_600, {1: [5]}, 600)
    ahead.rest(1_100, 40.0)
    assert not ahead.is_due(1_130, {1: [5, 6]}, 600)
    assert ahead.is_due(1_140, {1: [5, 6]}, 600)
    assert ahead.is_due(100, {1: [5]}, 600), "a clock that was set back keeps nobody from looking"


def test_each_day_that_is_over_is_kept_once_with_waits_and_shares(town: Town) -> None:
    now = town.cast.now
    full(town, hours=24)
    cast = town.cast
    asked = cast.flexible(gpus=8, hours=1, allocation_id=cast.other_allocation)
    waits = cast.submit(asked, town.policy.bookings, by=cast.stranger)
    town.cycle(now)
    town.cycle(now + 24 * HOUR)
    tomorrow = clock.end_of_day(clock.day_of(now)) + HOUR
    assert forecasting.keep_days(town.context, tomorrow) == queue.DAYS
    assert forecasting.keep_days(town.context, tomorrow) == 0
    with town.cast.database.read_only() as session:
        day = session.get_one(QueueDay, (town.cast.pool, clock.day_of(now)))
        month = queue.month(session, town.cast.pool, clock.day_of(tomorrow))
    seconds = clock.seconds_between(now, clock.end_of_day(clock.day_of(now)))
    assert (day.started, day.waited_seconds, day.longest_seconds) == (1, 0, seconds)
    assert day.shares == {}, "the pool was not contended over the whole day"
    assert (month.started, month.mean, month.longest, month.deviation) == (1, 0, seconds, None)
    assert waits


def test_a_month_of_contended_days_says_who_was_served_worst(town: Town) -> None:
    day = clock.day_of(town.cast.now)
    shares = {str(town.cast.yusheng): [100, 100], str(town.cast.luyu): [50, 100]}
    town.cast.database.transaction(
        lambda s: s.add(
            QueueDay(
                pool_id=town.cast.pool, on=day - dt.timedelta(days=1), started=3, waited_seconds=600,
                longest_seconds=400, deviation_permille=120, shares=shares,
            )
        )
    )  # fmt: skip
    with town.cast.database.read_only() as session:
        month = queue.month(session, town.cast.pool, day)
    assert (month.mean, month.longest, month.deviation) == (200, 400, 120)
    assert (month.worst, month.worst_enterprise_id) == (500, town.cast.luyu)


def test_replay_says_how_often_its_ranges_would_have_held(
    tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, at, lines = random.Random(3), 0, [",".join(COLUMNS)]
    for number in range(330):
        at += chance.randrange(900)
        asked = chance.randrange(600, 6_000)
        lines.append(f"j{number},{at},{chance.choice((2, 4, 8))},{asked * 4 // 5},{asked},t{number % 3},u")
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(lines) + "\n")
    size = [str(trace), "--nodes", "2", "--gpus-per-node", "4", "--out", str(tmp_path / "out.csv"), "--forecasts"]
    assert replay.main([*size, "--packed"], policy=policy) == 0
    said = capsys.readouterr().out
    for when in ("at submit", "over time"):
        found = re.search(rf"ranges    {when}: ([\d,]+), ([\d.]+)% held, half of the p50 off by at most", said)
        assert found is not None and int(found[1].replace(",", "")) > 9
        assert 40 < float(found[2]) <= 100
    assert replay.main(size, policy=policy) == 2
    assert "add --packed" in capsys.readouterr().err
