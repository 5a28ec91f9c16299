"""How every public figure is reckoned: read here, written by `publish`. The timetable does both, pages only read.

Each function reads in a snapshot and gives plain values. Small numbers are taken out here, before anything is stored.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..allocations.models import Allocation
from ..allocations.review_models import Decision, RequestStep
from ..allocations.states import AllocationState
from ..bookings.models import Attempt, Booking
from ..bookings.states import BookingKind, BookingState
from ..enterprises.models import Enterprise
from ..enterprises.states import SizeClass
from ..ledger.models import Bucket, LedgerAccount, Unit
from ..ledger.service import allocation as ledger_owner
from ..lifecycle import HistoryEntry
from ..policy import CommonsPolicy
from ..pools import queries as pools
from ..pools.models import Maintenance, Node, NodeInterval, Occupancy, Pool
from ..pools.states import MaintenanceState, NodeState
from ..programmes import queries as programmes
from ..usage.models import UsageRecord
from .models import PoolDay, PoolHour, PublishedFigure
from .reckoning import Load, hidden, jain, percentile, union
from .states import Figure

Content = dict[str, Any]
HOUR, WEEK_HOURS, COMING_HOURS = 3600, 7 * 24, 48
FOREVER = 2**40
MOST_NEWS = 4
# Released a while after its end where access could not be taken back: rows that ended so long before still count.
LATE_RELEASE = dt.timedelta(days=7)
LONGEST_WAIT = dt.timedelta(days=90)
SIZES = ((1, 8, "1-8"), (9, 64, "9-64"), (65, None, "65+"))
ORDER = {name: place for place, (_, _, name) in enumerate(SIZES)}
DECIDED = (AllocationState.ACTIVE, AllocationState.SUSPENDED, AllocationState.CLOSED, AllocationState.DECLINED)


def publish(session: Session, contents: Mapping[Figure, Content], *, now: dt.datetime) -> None:
    """Keep what was reckoned in place of what was there; `rows` of each are for its CSV."""
    session.execute(sa.delete(PublishedFigure).where(PublishedFigure.name.in_(contents)))
    for name, content in contents.items():
        told = {key: value for key, value in content.items() if key != "rows"}
        session.add(PublishedFigure(name=name, reckoned_at=now, content=told, open_rows=content.get("rows", [])))
    session.flush()


def reckon(session: Session, policy: CommonsPolicy, now: dt.datetime) -> dict[Figure, Content]:
    """Everything that is reckoned once an hour, but for the hours and days of the pools."""
    return {
        Figure.TIME_TO_PERMIT: time_to_permit(session, policy, now),
        Figure.WAITS: waits(session, policy, now),
        Figure.ALLOCATION_RATE: allocation_rate(session, policy),
        Figure.FAIRNESS: fairness(session, policy, now),
    }


# -- this minute ------------------------------------------------------------------------------------------------------


def present(session: Session, now: dt.datetime) -> Content:
    """Cards free and in use, what nobody has booked in the next seven days, and who waits."""
    listed = pools.list_pools(session)
    waiting = {
        pool_id: (bookings, int(gpus))
        for pool_id, bookings, gpus in session.execute(
            sa.select(Booking.pool_id, sa.func.count(), sa.func.sum(Booking.gpus))
            .where(Booking.state == BookingState.QUEUED)
            .group_by(Booking.pool_id)
        )
    }
    first = clock.ceil_hour(now)
    rows, windows = {}, []
    for picture in pools.pictures(session, listed, now):
        windows += [
            [picture.pool.id, len(window.node_ids), _second(window.starts_at), _second(window.ends_at)]
            for window in picture.windows
        ]
        hours = picture.by_hour(first, WEEK_HOURS)
        whole = max(picture.capacity, 1)
        bookings, gpus = waiting.get(picture.pool.id, (0, 0))
        rows[str(picture.pool.id)] = {
            "capacity": picture.capacity,
            "in_use": picture.in_use,
            "free": picture.free,
            "out": picture.out_of_service,
            "free_gpu_seconds": int(hours.free.sum()) * HOUR,
            "waiting": bookings,
            "waiting_gpus": gpus,
            # what cannot be booked, whatever the reason
            "taken_percent": [100 - int(free) * 100 // whole for free in hours.free[:COMING_HOURS]],
        }
    opened = programmes.list_open(session, clock.day_of(now))
    left = programmes.hours(session, [programme.id for programme in opened])
    return {
        "first_hour": _second(first),
        "pools": rows,
        "windows": sorted(windows, key=lambda window: window[2])[:MOST_NEWS],
        "programmes": [
            [each.name, each.name_en, left[each.id].left, each.ends_on.isoformat()] for each in opened[:MOST_NEWS]
        ],
    }


# -- hours and days of the pools --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolPast:
    """Rows of `pool_hours` and `pool_days`, from `first_on` to the hour before `until`."""

    first_on: dt.date
    hours: list[dict[str, Any]]
    days: list[dict[str, Any]]


def first_open_day(session: Session, policy: CommonsPolicy, now: dt.datetime) -> dt.date | None:
    """From which day hours and days are to be reckoned: some days again, because metering may be late; at the start
    from the first node on. None before there is any."""
    opened = session.scalar(sa.select(sa.func.min(NodeInterval.starts_at)))
    if opened is None:
        return None
    known: dt.date | None = session.scalar(sa.select(sa.func.max(PoolDay.day_on)))
    farthest = clock.day_of(now) - dt.timedelta(days=policy.farthest_days)
    if known is None:
        return max(clock.day_of(opened), farthest)
    return max(known - dt.timedelta(days=policy.again_days), farthest)


def pool_past(session: Session, first_on: dt.date, now: dt.datetime) -> PoolPast:
    """Every whole hour of every pool since the beginning of a day. Six queries, whatever the length."""
    since, until = clock.start_of_day(first_on), clock.floor_hour(now)
    seconds = np.arange(int(since.timestamp()), int(until.timestamp()) + 1, HOUR, dtype=np.int64)
    there, closed, taken = _capacity(session, since, until)
    waiting = _waited(session, since, until)
    used = {
        (pool_id, day): int(gpu_seconds)
        for pool_id, day, gpu_seconds in session.execute(
            sa.select(UsageRecord.pool_id, UsageRecord.day_on, sa.func.sum(UsageRecord.gpu_seconds))
            .where(UsageRecord.day_on >= first_on)
            .group_by(UsageRecord.pool_id, UsageRecord.day_on)
        )
    }
    hours: list[dict[str, Any]] = []
    days: list[dict[str, Any]] = []
    for pool_id in there:
        capacity, down, allocated = (Load(loads[pool_id]).between(seconds) for loads in (there, closed, taken))
        bookings = Load([(start, end, 1) for start, end, _ in waiting[pool_id]]).at(seconds[:-1])
        gpus = Load(waiting[pool_id]).at(seconds[:-1])
        by_day: dict[dt.date, list[int]] = defaultdict(lambda: [0, 0, 0])
        for index, second in enumerate(seconds[:-1]):
            at = dt.datetime.fromtimestamp(int(second), dt.UTC)
            sums = by_day[clock.day_of(at)]
            for place, part in enumerate((capacity, down, allocated)):
                sums[place] += int(part[index])
            hours.append(
                {
                    "pool_id": pool_id,
                    "at": at,
                    "available_gpu_seconds": int(capacity[index] - down[index]),
                    "allocated_gpu_seconds": int(allocated[index]),
                    "waiting_bookings": int(bookings[index]),
                    "waiting_gpus": int(gpus[index]),
                }
            )
        days += [
            {
                "pool_id": pool_id,
                "day_on": day,
                "capacity_gpu_seconds": sums[0],
                "down_gpu_seconds": sums[1],
                "allocated_gpu_seconds": sums[2],
                "used_gpu_seconds": used.get((pool_id, day), 0),
            }
            for day, sums in by_day.items()
        ]
    return PoolPast(first_on, hours, days)


def keep_past(session: Session, past: PoolPast) -> None:
    """In place of what was kept for these days."""
    session.execute(sa.delete(PoolHour).where(PoolHour.at >= clock.start_of_day(past.first_on)))
    session.execute(sa.delete(PoolDay).where(PoolDay.day_on >= past.first_on))
    if past.hours:
        session.execute(sa.insert(PoolHour), past.hours)
        session.execute(sa.insert(PoolDay), past.days)


Loads = dict[int, list[tuple[int, int, int]]]


def _capacity(session: Session, since: dt.datetime, until: dt.datetime) -> tuple[Loads, Loads, Loads]:
    """By pool as (start, end, GPUs): all there were, those out of service, those given to bookings.

    Out of service is a node that is down, drains, is taken out or under a planned window, less what bookings have of it
    all the same; so what is in service is never less than what was given.
    """
    nodes = {id: (pool_id, gpus) for id, pool_id, gpus in session.execute(sa.select(Node.id, Node.pool_id, Node.gpus))}
    there: Loads = defaultdict(list)
    shut: dict[int, list[tuple[int, int]]] = defaultdict(list)
    born: dict[int, int] = {}
    for node_id, state, starts_at, ends_at in session.execute(
        sa.select(NodeInterval.node_id, NodeInterval.state, NodeInterval.starts_at, NodeInterval.ends_at)
    ):
        start, end = _second(starts_at), FOREVER if ends_at is None else _second(ends_at)
        born[node_id] = min(start, born.get(node_id, start))
        if state is not NodeState.UP:
            shut[node_id].append((start, end))
    for node_ids, starts_at, ends_at in session.execute(
        sa.select(Maintenance.node_ids, Maintenance.starts_at, Maintenance.ends_at).where(
            Maintenance.state == MaintenanceState.PLANNED, Maintenance.ends_at > since, Maintenance.starts_at < until
        )
    ):
        for node_id in node_ids:
            shut[node_id].append((_second(starts_at), _second(ends_at)))
    closed: Loads = defaultdict(list)
    taken: Loads = defaultdict(list)
    for node_id, (pool_id, gpus) in nodes.items():
        if node_id in born:
            there[pool_id].append((born[node_id], FOREVER, gpus))
            closed[pool_id] += [(max(start, born[node_id]), end, gpus) for start, end in union(shut[node_id])]
    spans = {node_id: union(each) for node_id, each in shut.items()}
    for node_id, gpus, starts_at, released_at in session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpus, Occupancy.starts_at, Occupancy.released_at).where(
            Occupancy.ends_at > since - LATE_RELEASE,
            Occupancy.starts_at < until,
            Occupancy.ends_at > Occupancy.starts_at,  # else it was planned and never given
            sa.or_(Occupancy.released_at.is_(None), Occupancy.released_at > since),
        )
    ):
        pool_id = nodes[node_id][0]
        start, end = _second(starts_at), FOREVER if released_at is None else _second(released_at)
        taken[pool_id].append((start, end, gpus))
        closed[pool_id] += [(max(start, a), min(end, b), -gpus) for a, b in spans.get(node_id, ())]
    return there, closed, taken


def _waited(session: Session, since: dt.datetime, until: dt.datetime) -> Loads:
    """By pool as (from, until, GPUs): flexible bookings that waited, from submission or the start they asked for."""
    over = (
        sa.select(sa.func.max(HistoryEntry.at))
        .where(HistoryEntry.kind == Booking.LIFE.kind, HistoryEntry.subject_id == Booking.id)
        .correlate(Booking)
        .scalar_subquery()
    )
    gone = [state for state in BookingState if state not in (BookingState.SUBMITTED, BookingState.QUEUED)]
    never = sa.and_(Booking.started_at.is_(None), Booking.state.in_(gone))
    found: Loads = defaultdict(list)
    for pool_id, gpus, submitted_at, not_before_at, started_at, over_at in session.execute(
        sa.select(
            Booking.pool_id,
            Booking.gpus,
            Booking.submitted_at,
            Booking.not_before_at,
            Booking.started_at,
            sa.case((never, over)).label("over_at"),
        ).where(
            Booking.kind == BookingKind.FLEXIBLE,
            Booking.submitted_at < until,
            # what was given up long ago waited before these days
            sa.or_(
                Booking.submitted_at >= since - LONGEST_WAIT, Booking.state.not_in(gone), Booking.started_at > since
            ),
            sa.or_(Booking.started_at.is_(None), Booking.started_at > since),
        )
    ):
        end = started_at or _aware(over_at)
        start = max(submitted_at, not_before_at or submitted_at)
        found[pool_id].append((_second(start), FOREVER if end is None else _second(end), gpus))
    return found


def _second(instant: dt.datetime) -> int:
    return int(instant.timestamp())


def _aware(instant: dt.datetime | str | None) -> dt.datetime | None:
    """A reckoned column has lost its type: SQLite gives its text, without a zone."""
    if instant is None:
        return None
    found = dt.datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


# -- how long things take ---------------------------------------------------------------------------------------------


def time_to_permit(session: Session, policy: CommonsPolicy, now: dt.datetime) -> Content:
    """Working days from a complete request to its decision: median, 90 %, and the part that came in the promised time.

    `rows` are (thousandths of a working day, whether in time) of every decision that counts, smallest first. With fewer
    decisions than the least number nothing is said.
    """
    since = now - dt.timedelta(days=policy.times_of_days)
    found: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for track, used, promised, days in session.execute(
        sa.select(Decision.track, Decision.used_seconds, Decision.promised_seconds, Decision.promised_days).where(
            Decision.on_appeal.is_(False), Decision.decided_at >= since, Decision.decided_at < now
        )
    ):
        milli = units.round_half_up(1000 * used * days, promised) if promised else 0
        found[track or ""].append((milli, used <= promised))
    rows = sorted(each for decisions in found.values() for each in decisions)
    enough = len(rows) >= policy.least
    gone = hidden({track: len(decisions) for track, decisions in found.items()}, policy.least)
    return {
        "since": _second(since),
        "rows": [[milli, int(in_time)] for milli, in_time in rows] if enough else [],
        **_times(rows if enough else []),
        "tracks": [
            {"track": track, **_times([] if track in gone else decisions)} for track, decisions in sorted(found.items())
        ],
        "steps": _steps(session, policy, since, now),
    }


def _times(rows: Sequence[tuple[int, bool]]) -> Content:
    counted = [(milli, 1) for milli, _ in rows]
    return {
        "decided": len(rows),
        "median_milli": percentile(counted, 50),
        "p90_milli": percentile(counted, 90),
        "in_time": sum(in_time for _, in_time in rows),
    }


def _steps(session: Session, policy: CommonsPolicy, since: dt.datetime, now: dt.datetime) -> list[Content]:
    """Steps that were done, and those of them that were in time, by the name they have in their flow."""
    rows = session.execute(
        sa.select(
            RequestStep.name,
            RequestStep.name_en,
            sa.func.count(),
            sa.func.sum(sa.case((RequestStep.done_at <= RequestStep.due_at, 1), else_=0)),
        )
        .where(RequestStep.done_at >= since, RequestStep.done_at < now, RequestStep.due_at.is_not(None))
        .group_by(RequestStep.name, RequestStep.name_en)
        .order_by(RequestStep.name, RequestStep.name_en)
    ).all()
    gone = hidden({index: row[2] for index, row in enumerate(rows)}, policy.least)
    return [
        {"name": name, "name_en": name_en, "done": done, "in_time": int(in_time)}
        for index, (name, name_en, done, in_time) in enumerate(rows)
        if index not in gone
    ]


def waits(session: Session, policy: CommonsPolicy, now: dt.datetime) -> Content:
    """Minutes that flexible bookings waited which started in the last days: p50 and p95 by pool, cards and track.

    From submission, or from the start that was asked for, to the first time access was given; a minute that was begun
    counts. `rows` are (kind of group, group, minutes, bookings). A group with fewer enterprises than the least is left
    out, and so is what would give it away.
    """
    since = now - dt.timedelta(days=policy.waits_of_days)
    first = (
        sa.select(Attempt.booking_id, sa.func.min(Attempt.granted_at).label("at"))
        .join(Booking, Booking.id == Attempt.booking_id)
        .where(Booking.started_at >= since)
        .group_by(Attempt.booking_id)
        .subquery()
    )
    names: dict[int, str] = {id: name for id, name in session.execute(sa.select(Pool.id, Pool.name))}
    groups: dict[str, dict[str, dict[int, int]]] = {kind: {} for kind in ("all", "pool", "cards", "track")}
    firms: dict[tuple[str, str], set[int]] = defaultdict(set)
    for pool_id, gpus, firm, track, submitted_at, not_before_at, at in session.execute(
        sa.select(
            Booking.pool_id,
            Booking.gpus,
            Booking.enterprise_id,
            Allocation.track,
            Booking.submitted_at,
            Booking.not_before_at,
            first.c.at,
        )
        .join(first, first.c.booking_id == Booking.id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .where(Booking.kind == BookingKind.FLEXIBLE, first.c.at < now)
    ):
        started = _aware(at)
        if started is None or started < since:
            continue
        asked = max(submitted_at, not_before_at or submitted_at)
        minutes = -(-max(0, clock.seconds_between(asked, started)) // 60)
        for kind, group in (("all", ""), ("pool", names[pool_id]), ("cards", size_of(gpus)), ("track", track or "")):
            counted = groups[kind].setdefault(group, {})
            counted[minutes] = counted.get(minutes, 0) + 1
            firms[kind, group].add(firm)
    rows: list[list[Any]] = []
    told: list[Content] = []
    for kind, by_group in groups.items():
        gone = hidden({group: len(firms[kind, group]) for group in by_group}, policy.least)
        for group in sorted(by_group, key=lambda name: (ORDER.get(name, 0), name)):
            counted = {} if group in gone else by_group[group]
            rows += [[kind, group, minutes, times] for minutes, times in sorted(counted.items())]
            told.append(
                {
                    "kind": kind,
                    "group": group,
                    "bookings": sum(counted.values()),
                    "p50_minutes": percentile(counted.items(), 50),
                    "p95_minutes": percentile(counted.items(), 95),
                }
            )
    return {"since": _second(since), "groups": told, "rows": rows}


def size_of(gpus: int) -> str:
    """The class of a booking by its cards: '1-8', '9-64' or '65+'."""
    return next(name for least, most, name in SIZES if least <= gpus and (most is None or gpus <= most))


# -- who gets how much ------------------------------------------------------------------------------------------------


def allocation_rate(session: Session, policy: CommonsPolicy) -> Content:
    """GPU-seconds asked for, awarded and used, by programme, of every request that was decided. Equals the ledger."""
    owner = sa.literal(ledger_owner(0)[:-1]) + sa.cast(Allocation.id, sa.String())
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    firms: dict[int, set[int]] = defaultdict(set)
    for programme_id, firm, asked, awarded, used in session.execute(
        sa.select(
            Allocation.programme_id,
            Allocation.enterprise_id,
            Allocation.requested_gpu_seconds,
            # an overdraft stands there below zero: it was used and never awarded
            sa.func.coalesce(sa.func.sum(LedgerAccount.balance), 0),
            sa.func.coalesce(
                sa.func.sum(sa.case((LedgerAccount.bucket == Bucket.USED, LedgerAccount.balance), else_=0)), 0
            ),
        )
        .outerjoin(LedgerAccount, sa.and_(LedgerAccount.owner == owner, LedgerAccount.unit == Unit.GPU_SECONDS))
        .where(Allocation.state.in_(DECIDED), Allocation.carried_from_id.is_(None))
        .group_by(Allocation.id)
    ):
        sums[programme_id] = [
            sum(pair) for pair in zip(sums[programme_id], (1, asked, int(awarded), int(used)), strict=True)
        ]
        firms[programme_id].add(firm)
    gone = hidden({id: len(each) for id, each in firms.items()}, policy.least)
    named = {programme.id: programme for programme in programmes.list_programmes(session)}
    everybody = set().union(*firms.values())
    names = ("requests", "asked_gpu_seconds", "awarded_gpu_seconds", "used_gpu_seconds")
    return {
        "programmes": [
            {
                "name": named[id].name,
                "name_en": named[id].name_en,
                **(dict.fromkeys(names) if id in gone else dict(zip(names, row, strict=True))),
            }
            for id, row in sorted(sums.items())
        ],
        "total": dict(zip(names, [sum(column) for column in zip(*sums.values(), strict=True)], strict=True))
        if len(everybody) >= policy.least
        else None,
    }


def fairness(session: Session, policy: CommonsPolicy, now: dt.datetime) -> Content:
    """Used against entitled in the last days, by size of enterprise, and Jain's index over enterprises with demand.

    In each pool, what was used is entitled to the enterprises that had demand there, by the shares of their
    allocations. Demand is a booking that was submitted, waited or ran in these days. `rows` are used ÷ entitled of
    each enterprise in thousandths, without names, smallest first.
    """
    since = now - dt.timedelta(days=policy.waits_of_days)
    shares: dict[int, dict[int, int]] = defaultdict(dict)
    for pool_id, firm, share in session.execute(
        sa.select(Allocation.pool_id, Allocation.enterprise_id, sa.func.sum(Allocation.shares))
        .where(
            Allocation.state.in_(DECIDED[:3]),
            Allocation.starts_on <= clock.day_of(now),
            Allocation.ends_on >= clock.day_of(since),
            sa.exists().where(
                Booking.allocation_id == Allocation.id,
                sa.or_(
                    Booking.submitted_at >= since,
                    Booking.ended_at >= since,
                    Booking.state.in_((BookingState.QUEUED, BookingState.RUNNING)),
                ),
            ),
        )
        .group_by(Allocation.pool_id, Allocation.enterprise_id)
    ):
        shares[pool_id][firm] = int(share)
    used: dict[int, dict[int, int]] = defaultdict(dict)
    for pool_id, firm, gpu_seconds in session.execute(
        sa.select(UsageRecord.pool_id, UsageRecord.enterprise_id, sa.func.sum(UsageRecord.gpu_seconds))
        .where(UsageRecord.day_on >= clock.day_of(since))
        .group_by(UsageRecord.pool_id, UsageRecord.enterprise_id)
    ):
        used[pool_id][firm] = int(gpu_seconds)
    entitled, taken = _entitled(shares, used)
    ratios = sorted(units.round_half_up(1000 * taken[firm], part) for firm, part in entitled.items() if part)
    enough = len(ratios) >= policy.least
    return {
        "since": _second(since),
        "sizes": _by_size(session, policy, entitled, taken),
        "rows": ratios if enough else [],
        "jain_milli": jain(ratios) if enough else None,
    }


def _entitled(
    shares: Mapping[int, Mapping[int, int]], used: Mapping[int, Mapping[int, int]]
) -> tuple[dict[int, int], dict[int, int]]:
    """GPU-seconds that each enterprise with demand was entitled to, and what it used in the same pools."""
    entitled: dict[int, int] = defaultdict(int)
    taken: dict[int, int] = defaultdict(int)
    for pool_id, of in shares.items():
        whole = sum(used[pool_id].get(firm, 0) for firm in of)
        for firm, share in of.items():
            entitled[firm] += units.round_half_up(whole * share, sum(of.values()))
            taken[firm] += used[pool_id].get(firm, 0)
    return entitled, taken


def _by_size(
    session: Session, policy: CommonsPolicy, entitled: Mapping[int, int], taken: Mapping[int, int]
) -> list[Content]:
    size_of_firm = _sizes(session, entitled)
    firms: dict[str, list[int]] = {
        str(size): [firm for firm in entitled if size_of_firm[firm] is size] for size in SizeClass
    }
    gone = hidden({size: len(each) for size, each in firms.items()}, policy.least)
    return [
        {
            "size": size,
            "enterprises": None if size in gone else len(each),
            "entitled_gpu_seconds": None if size in gone else sum(entitled[firm] for firm in each),
            "used_gpu_seconds": None if size in gone else sum(taken[firm] for firm in each),
        }
        for size, each in firms.items()
    ]


def _sizes(session: Session, firms: Iterable[int]) -> dict[int, SizeClass]:
    rows = session.execute(sa.select(Enterprise.id, Enterprise.size_class).where(Enterprise.id.in_(list(firms))))
    return {id: size for id, size in rows}
