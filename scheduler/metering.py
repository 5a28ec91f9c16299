"""Observation → usage record → charge → settlement.

What was granted is metered in pieces: cut at clock hours (and so at days and months) and where the price changes. What
runs is metered up to the last full hour, what ended to its end. A fixed booking is metered for its whole window as the
hours pass, used or not; only a failure ends it early. Each enterprise's pieces are recorded and charged in
transactions of their own, and `usage.service.record` leaves out what an interrupted pass has recorded already.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import attempts
from compute_portal.bookings import prices as booking_prices
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.bookings.states import AttemptOutcome, BookingKind
from compute_portal.enterprises.models import Enterprise
from compute_portal.policy import QueuePolicy
from compute_portal.pools.models import Node, Pool
from compute_portal.pools.prices import PriceBook, Stretch
from compute_portal.pools.queries import price_books
from compute_portal.sentences import Refusal
from compute_portal.statements import service as statements
from compute_portal.usage import service as usage
from compute_portal.usage.models import BillingMonth, MonthState
from compute_portal.usage.service import Piece
from compute_portal.usage.shares import MILLI, Size, largest_share
from scheduler.context import OUT_OF_REACH, Context, PassFailed, in_batches
from scheduler.phases import phase

log = logging.getLogger(__name__)
PIECES = 2_000  # usage records per transaction
ATTEMPTS = 5_000  # looked at in one go
SETTLED = 1_000
NO_SIZES: Mapping[str, Size] = {}


@dataclass(frozen=True, slots=True)
class Due:
    """An attempt of which something is not metered yet."""

    attempt_id: int
    key: str
    booking_id: int
    enterprise_id: int
    allocation_id: int
    pool_id: int
    user_id: int | None
    gpus: int
    size_class: str
    programme_id: int
    starts_at: dt.datetime  # of what is not metered
    ends_at: dt.datetime  # up to which it can be metered now
    whole: bool  # nothing more will come after that
    frozen: tuple[Stretch, ...] = ()  # fixed: its prices
    taken: Size | None = None  # what the engine reports of it; None: its GPUs alone
    slice: str | None = None
    nodes: tuple[str, ...] = ()  # where it stands, when that matters


def run(context: Context, now: dt.datetime) -> int:
    """One pass; returns the GPU-seconds charged. Raises PassFailed naming what could not be metered; the rest was."""
    charged = 0
    problems: list[str] = []
    after: int | None = 0
    while after is not None:
        with context.database.read_only() as session:
            found, after = due(session, now, after)
            books = price_books(session, {one.pool_id for one in found})
            sizes = node_sizes(session, {name for one in found for name in one.nodes})
            half_lives = half_lives_by_pool(session, context.policy.queue)
        general = context.policy.queue.usage_half_life_days
        together: dict[tuple[int, float], list[Due]] = defaultdict(list)
        for one in found:
            together[one.enterprise_id, half_lives.get(one.pool_id, general)].append(one)
        for (enterprise_id, half_life), ones in together.items():
            charged += _meter(context, enterprise_id, ones, books, sizes, half_life, now, problems)
    problems += settle(context, now)
    if problems:
        raise PassFailed(f"{len(problems)} left: {'; '.join(problems)}")
    return charged


def half_lives_by_pool(session: Session, queue: QueuePolicy) -> dict[int, float]:
    """Days, of the pools that have an order or a half-life of their own; no query where none has."""
    if not queue.pools:
        return {}
    rows = session.execute(sa.select(Pool.id, Pool.name).where(Pool.name.in_(queue.pools)))
    return {id: queue.of_pool(name).usage_half_life_days for id, name in rows}


def due(session: Session, now: dt.datetime, after: int = 0) -> tuple[list[Due], int | None]:
    """What can be metered now, of the attempts after this id; and the id to go on from, None at the end."""
    rows = session.execute(
        sa.select(
            Attempt.id, Attempt.key, Attempt.granted_at, Attempt.until_at, Attempt.ended_at, Attempt.outcome,
            Attempt.metered_until_at, Attempt.cpus, Attempt.memory_gib, Attempt.slice, Booking.id, Booking.kind,
            Booking.enterprise_id, Booking.allocation_id, Booking.pool_id, Booking.submitted_by, Booking.gpus,
            Booking.ends_at, Enterprise.size_class, Allocation.programme_id,
            sa.case((sa.or_(Attempt.cpus.is_not(None), Attempt.memory_gib.is_not(None)), Attempt.nodes)),
        )
        .join(Booking, Booking.id == Attempt.booking_id)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .where(Attempt.metered_whole == sa.false(), Attempt.granted_at.is_not(None), Attempt.id > after)
        .order_by(Attempt.id)
        .limit(ATTEMPTS)
    ).all()  # fmt: skip
    found = []
    fixed = set()
    for (
        attempt_id, key, granted_at, until_at, ended_at, outcome, metered_until_at, cpus, memory_gib, slice, booking_id,
        kind, enterprise_id, allocation_id, pool_id, user_id, gpus, window_end, size_class, programme_id, nodes,
    ) in rows:  # fmt: skip
        until, whole = _until(outcome, ended_at, until_at, window_end if kind is BookingKind.FIXED else None, now)
        start = metered_until_at or granted_at or until
        if whole or start < until:
            reported = cpus is not None or memory_gib is not None
            one = Due(
                attempt_id, key, booking_id, enterprise_id, allocation_id, pool_id, user_id, gpus, str(size_class),
                programme_id, start, until, whole, slice=slice,
                taken=Size(gpus, cpus, memory_gib) if reported else None,
                nodes=tuple(str(place["node"]) for place in nodes or ()),
            )  # fmt: skip
            found.append(one)
            if kind is BookingKind.FIXED:
                fixed.add(booking_id)
    prices = booking_prices.frozen(session, fixed)
    found = [replace(one, frozen=tuple(prices.get(one.booking_id, ()))) for one in found]
    return found, rows[-1][0] if len(rows) == ATTEMPTS else None


def node_sizes(session: Session, names: set[str]) -> dict[str, Size]:
    """What these nodes have; no query where nobody asks."""
    if not names:
        return {}
    rows = session.execute(sa.select(Node.name, Node.gpus, Node.cpus, Node.memory_gib).where(Node.name.in_(names)))
    return {name: Size(gpus, cpus, memory_gib) for name, gpus, cpus, memory_gib in rows}


def _until(
    outcome: AttemptOutcome | None,
    ended_at: dt.datetime | None,
    until_at: dt.datetime | None,
    window_end: dt.datetime | None,
    now: dt.datetime,
) -> tuple[dt.datetime, bool]:
    """Up to when an attempt can be metered now, and whether that is all of it. `window_end` of a fixed booking."""
    full_hour = clock.floor_hour(now)
    if outcome is None:
        return min(full_hour, until_at or full_hour), False
    if outcome is AttemptOutcome.ENDED and window_end is not None:
        until = min(full_hour, window_end)
        return until, until == window_end
    return ended_at or full_hour, ended_at is not None


def pieces(one: Due, book: PriceBook, sizes: Mapping[str, Size] = NO_SIZES) -> list[Piece]:
    """The attempt's time cut at hours and where the price changes: the frozen ones of a fixed booking, else the book's.

    `sizes` are those of the nodes it stands on. Raises Refusal("no-price") where there is none.
    """
    if one.frozen:
        borders = [stretch.starts_at for stretch in one.frozen]
    else:
        borders = book.borders(one.starts_at, one.ends_at, size_class=one.size_class, programme_id=one.programme_id)
    found = []
    for start, end in clock.cut(one.starts_at, one.ends_at, borders):
        if one.frozen:
            point = booking_prices.point_at(one.frozen, start)
        else:
            point = book.at(start, size_class=one.size_class, programme_id=one.programme_id)
        found.append(
            Piece(
                attempt_id=one.attempt_id,
                key=one.key,
                booking_id=one.booking_id,
                allocation_id=one.allocation_id,
                pool_id=one.pool_id,
                user_id=one.user_id,
                gpus=one.gpus,
                starts_at=start,
                ends_at=end,
                tariff_id=point.tariff_id,
                discount_id=point.discount_id,
                weight_milli=point.weight_milli,
                share_milli=_share(one, book, sizes, start),
                slice=one.slice,
            )
        )
    return found


def _share(one: Due, book: PriceBook, sizes: Mapping[str, Size], at: dt.datetime) -> int | None:
    """The largest share of its nodes, where the engine says more than GPUs; None: whole cards."""
    if one.taken is None and one.slice is None:
        return None
    parts = [sizes[name] for name in one.nodes if name in sizes]
    cpus, memory_gib = [part.cpus for part in parts], [part.memory_gib for part in parts]
    nodes = Size(
        sum(part.gpus for part in parts),
        None if None in cpus else sum(number or 0 for number in cpus),
        None if None in memory_gib else sum(number or 0 for number in memory_gib),
    )
    of_a_card = MILLI if one.slice is None else book.weight_at(at, one.slice)
    return largest_share(one.taken or Size(one.gpus), nodes, slice_milli=of_a_card)


def _meter(
    context: Context,
    enterprise_id: int,
    ones: Sequence[Due],
    books: Mapping[int, PriceBook],
    sizes: Mapping[str, Size],
    half_life_days: float,
    now: dt.datetime,
    problems: list[str],
) -> int:
    """Record and charge what is due of one enterprise; returns GPU-seconds. What fails is added to `problems`."""
    cut: list[tuple[Due, list[Piece]]] = []
    for one in ones:
        try:
            cut.append((one, pieces(one, books[one.pool_id], sizes)))
        except Refusal as refusal:
            log.error("not metered", extra={"key": one.key, "reason": refusal.sentence.id})
            problems.append(f"{one.key}: {refusal.sentence.id}")
    if not cut:
        return 0
    charged: dict[int, int] = {}

    def record(session: Session, some: Sequence[tuple[Due, list[Piece]]]) -> None:
        charged[some[0][0].attempt_id] = usage.record(
            session,
            enterprise_id,
            list(chain.from_iterable(found for _one, found in some)),
            whole=frozenset(one.attempt_id for one, _found in some if one.whole),
            half_life_days=half_life_days,
            now=now,
        )

    def bad(item: tuple[Due, list[Piece]], error: Exception) -> None:
        problems.append(f"{item[0].key}: {type(error).__name__}: {error}")

    longest = max(len(found) for _one, found in cut)
    with phase("charge"):
        in_batches(context, cut, record, bad, size=max(1, PIECES // max(1, longest)))
    months = {clock.month_of(piece.starts_at) for _one, found in cut for piece in found}
    _open_drafts(context, enterprise_id, months, now, problems)
    return sum(charged.values())


def _open_drafts(context: Context, enterprise_id: int, months: set[str], now: dt.datetime, problems: list[str]) -> None:
    """The months that were charged have a statement from the first charge on, for finance to see."""
    for month in sorted(months):
        try:
            _open_draft(context, enterprise_id, month, now)
        except OUT_OF_REACH:
            raise
        except Exception as error:
            log.exception("draft statement not opened", extra={"enterprise_id": enterprise_id, "month": month})
            problems.append(f"statement {month} of enterprise {enterprise_id}: {error}")


def _open_draft(context: Context, enterprise_id: int, used_in: str, now: dt.datetime) -> None:
    with context.database.read_only() as session:
        month = session.scalar(
            sa.select(sa.func.min(BillingMonth.month)).where(
                BillingMonth.enterprise_id == enterprise_id,
                BillingMonth.month >= used_in,
                BillingMonth.state == MonthState.OPEN,
            )
        )
    if month is None or (enterprise_id, month) in context.drafts:
        return

    def work(session: Session) -> None:
        statements.open_draft(session, enterprise_id, month, policy=context.policy.statements, by=SYSTEM, now=now)

    context.transact(work)
    context.drafts.add((enterprise_id, month))


def settle(context: Context, now: dt.datetime) -> list[str]:
    """What is over and whole metered gives back the rest of its hold. Returns what failed."""
    problems: dict[int, str] = {}

    def bad(booking_id: int, error: Exception) -> None:
        problems[booking_id] = f"booking {booking_id} not settled: {type(error).__name__}: {error}"

    while True:
        with context.database.read_only() as session:
            found = attempts.list_to_settle(session, SETTLED)
        ids = [id for id in found if id not in problems]
        if not ids:
            return list(problems.values())
        with phase("release"):
            in_batches(context, ids, lambda session, some: attempts.settle(session, some, now=now), bad)
        if len(found) < SETTLED:
            return list(problems.values())
