"""When waiting bookings will start: look ahead, turn that into ranges by what came true, show what moved, keep it all.

The cycle leaves a copy of what it plans with (`Ahead.snapshots`); the work is done beside it, on a thread of its own.
A pool is looked at every few minutes, and at once when something waits that has no range yet, but never for more than a
twentieth of the time. While rounds take longer than they should, nothing is looked at.

And once a day: how well yesterday's queue served whom.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence

import numpy as np

from compute_portal import clock
from compute_portal.bookings import estimates
from compute_portal.bookings.estimates import Day, Outlook
from compute_portal.bookings.queue import DAYS
from compute_portal.db import Reader
from compute_portal.pools import queries as pool_queries
from scheduler import cycle
from scheduler.context import Ahead, Context
from scheduler.engines import Share
from scheduler.phases import phase
from scheduler.planning import starts
from scheduler.planning.ahead import look_ahead
from scheduler.planning.backtest import end_times, run_times
from scheduler.planning.fairshare import Leaf, shares_of
from scheduler.planning.figures import Stay, figures
from scheduler.planning.forecast import Looks, Ran, Ranges, RunTimes
from scheduler.planning.planner import Snapshot

BATCH = 500  # rows in a transaction: short enough that nobody waits for it
STALE_SECONDS = 120  # the cycle is behind: what it saw is no longer so
LEARN_SECONDS = 600
PART = 20  # one part of so many of the time at most


def run(context: Context, now: dt.datetime) -> int:
    """Look ahead in the pools of which the cycle has left a copy. Returns how many ranges moved."""
    ahead = context.ahead
    snapshots = ahead.take()
    second = int(now.timestamp())
    fresh = {pool_id: one for pool_id, one in snapshots.items() if second - one.now <= STALE_SECONDS}
    if not fresh:
        return 0
    began = time.monotonic()
    with phase("look-ahead"):
        if ahead.learnt_at is None or second - ahead.learnt_at >= LEARN_SECONDS:
            _learn(context, ahead, list(fresh), now)
            ahead.learnt_at = second
        changed = sum(_look(context, ahead, pool_id, snapshot, now) for pool_id, snapshot in fresh.items())
    ahead.rest(second, PART * (time.monotonic() - began))
    return changed


def _learn(context: Context, ahead: Ahead, pool_ids: Sequence[int], now: dt.datetime) -> None:
    """Close what came true, and read what it teaches."""
    with context.database.look() as session:
        over = estimates.came_true(session)
    for first in range(0, len(over), BATCH):
        some = over[first : first + BATCH]
        context.write(lambda writer, some=some: estimates.close(writer, some, now=now))  # type: ignore[misc]
    with context.database.look() as session:
        ahead.times = RunTimes(Ran(*run) for run in estimates.list_runs(session))
        for pool_id in pool_ids:
            ahead.ranges[pool_id] = Ranges(_looks(estimates.list_told(session, pool_id), now), int(now.timestamp()))


def _looks(told: Sequence[estimates.Told], now: dt.datetime) -> Looks:
    second = int(now.timestamp())
    made = np.array([int(one.made_at.timestamp()) for one in told], np.int64)
    waited = np.array([-1 if one.waited_seconds is None else one.waited_seconds for one in told], np.int64)
    return Looks(
        np.array([one.booking_id for one in told], np.int64),
        made,
        np.array([one.expected_seconds for one in told], np.int64),
        np.where(waited < 0, second - made, waited),
        waited < 0,
    )


def _look(context: Context, ahead: Ahead, pool_id: int, snapshot: Snapshot, now: dt.datetime) -> int:
    asked, asking = starts.with_askers(snapshot)
    found = look_ahead(asked, run_times(snapshot.waiting, ahead.times), end_times(snapshot, ahead.times), asking)
    ids = list(found)
    expected = np.array([found[id] - snapshot.now for id in ids], np.int64)
    ranges = ahead.ranges.get(pool_id, Ranges()).of(expected).T.tolist()
    outlooks = [
        Outlook(id, seconds, *ranged)
        for id, seconds, ranged in zip(ids, expected.tolist(), ranges, strict=True)
        if id not in asking
    ]
    with context.database.look() as session:
        changed = estimates.moved(session, outlooks, pool_id=pool_id, now=now)
    for first in range(0, len(changed), BATCH):
        some = changed[first : first + BATCH]
        context.write(lambda writer, some=some: estimates.record(writer, some, pool_id=pool_id, now=now))  # type: ignore[misc]
        context.alive()
    never = [one.booking_id for one in snapshot.waiting if one.booking_id not in found]
    for first in range(0, len(never), BATCH):
        lost = never[first : first + BATCH]
        context.write(lambda writer, lost=lost: estimates.forget(writer, lost))  # type: ignore[misc]
    table = starts.table({id: (low, middle, high) for id, (low, middle, high) in zip(ids, ranges, strict=True)})
    full = _overdue_is_full(snapshot)
    context.write(lambda writer: estimates.picture(writer, pool_id, starts=table, overdue_is_full=full, now=now))
    ahead.known[pool_id] = frozenset(one.booking_id for one in snapshot.waiting)
    return len(changed)


def _overdue_is_full(snapshot: Snapshot) -> bool:
    """Whether bookings that waited too long fill the part of the pool that is theirs, and more of them wait."""
    rules = snapshot.rules
    late = snapshot.now - rules.promise_seconds
    return (
        rules.order == "small-first"
        and snapshot.promised_gpus() >= rules.promise_share * snapshot.availability.capacity > 0
        and any(one.submitted_at <= late for one in snapshot.waiting)
    )


def keep_days(context: Context, now: dt.datetime) -> int:
    """The figures of each day of the last thirty that is over and not kept yet. Returns how many days."""
    today = clock.day_of(now)
    wanted = [today - dt.timedelta(days=back) for back in range(DAYS, 0, -1)]
    with context.database.read_only() as session:
        weights = _weights(cycle.read_policy(session, now).shares)
        pool_ids = [pool.id for pool in pool_queries.list_pools(session)]
    kept = 0
    for pool_id in pool_ids:
        with context.database.look() as session:
            missing = sorted(set(wanted) - estimates.days_kept(session, pool_id, wanted[0]))
            days = _days(session, pool_id, missing, weights.get(pool_id, {})) if missing else []
        context.write(lambda writer, id=pool_id, days=days: estimates.keep_days(writer, id, days))  # type: ignore[misc]
        context.alive()
        kept += len(days)
    return kept


def _days(session: Reader, pool_id: int, missing: Sequence[dt.date], weights: Mapping[int, float]) -> list[Day]:
    first, last = clock.start_of_day(missing[0]), clock.end_of_day(missing[-1])
    stays = [Stay(*stay) for stay in estimates.list_stays(session, pool_id, first, last)]
    days = []
    for on in missing:
        start, end = clock.start_of_day(on), clock.end_of_day(on)
        capacity = estimates.capacity_gpu_seconds(session, pool_id, start, end)
        found = figures(stays, weights, capacity, int(start.timestamp()), int(end.timestamp()))
        days.append(Day(on, found.started, found.waited, found.longest, found.deviation_permille, found.shares))
    return days


def _weights(shares: Sequence[Share]) -> dict[int, dict[int, float]]:
    """Of each pool its enterprises' parts."""
    leaves: dict[int, list[Leaf]] = {}
    for share in shares:
        leaves.setdefault(share.pool_id, []).append(
            Leaf(
                share.programme_id, share.programme_shares, share.enterprise_id, share.enterprise_shares,
                share.allocation_id, share.allocation_shares, 0.0,
            )
        )  # fmt: skip
    return {pool_id: shares_of(some) for pool_id, some in leaves.items()}
