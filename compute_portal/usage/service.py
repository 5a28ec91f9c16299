"""Keep what was used and charge it: exactly once, in exactly one billing month.

Locks: the enterprise's billing months FOR SHARE, then allocations, then bookings and attempts, then ledger accounts.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM
from ..allocations import fair
from ..allocations.models import Allocation
from ..bookings.models import Attempt, Booking
from ..ledger import service as ledger
from .models import BillingMonth, Charge, MonthState, UsageRecord

_ATTEMPTS, _BOOKINGS = (cast(sa.Table, model.__table__) for model in (Attempt, Booking))
_THESE: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_LOCK_ATTEMPTS = (
    sa.select(_ATTEMPTS.c.id, _ATTEMPTS.c.metered_until_at)
    .where(_ATTEMPTS.c.id.in_(_THESE))
    .order_by(_ATTEMPTS.c.id)
    .with_for_update()
)
_METERED = (
    sa.update(_ATTEMPTS).where(_ATTEMPTS.c.id == sa.bindparam("attempt")).values(metered_until_at=sa.bindparam("until"))
)
_WHOLE = sa.update(_ATTEMPTS).where(_ATTEMPTS.c.id.in_(_THESE)).values(metered_whole=True)
_LOCK_BOOKINGS = (
    sa.select(_BOOKINGS.c.id, _BOOKINGS.c.held_gpu_seconds)
    .where(_BOOKINGS.c.id.in_(_THESE))
    .order_by(_BOOKINGS.c.id)
    .with_for_update()
)
_USED = (
    sa.update(_BOOKINGS)
    .where(_BOOKINGS.c.id == sa.bindparam("booking"))
    .values(
        held_gpu_seconds=_BOOKINGS.c.held_gpu_seconds - sa.bindparam("from_hold"),
        charged_gpu_seconds=_BOOKINGS.c.charged_gpu_seconds + sa.bindparam("amount"),
    )
)
_RECORDS = cast(sa.Table, UsageRecord.__table__)
_RECORD = sa.insert(_RECORDS).returning(_RECORDS.c.id, _RECORDS.c.source)
_CHARGE = sa.insert(cast(sa.Table, Charge.__table__))


@dataclass(frozen=True, slots=True)
class Piece:
    """One attempt during at most one clock hour, at one tariff."""

    attempt_id: int
    key: str
    booking_id: int
    allocation_id: int
    pool_id: int
    user_id: int | None
    gpus: int
    starts_at: dt.datetime
    ends_at: dt.datetime
    tariff_id: int

    @property
    def gpu_seconds(self) -> int:
        return self.gpus * clock.seconds_between(self.starts_at, self.ends_at)

    @property
    def source(self) -> str:
        return f"{self.key}@{self.starts_at:%Y%m%dT%H%M%S}"


def record(
    session: Session,
    enterprise_id: int,
    pieces: Sequence[Piece],
    *,
    whole: frozenset[int],
    half_life_days: float,
    now: dt.datetime,
) -> int:
    """Write usage records and their charges for one enterprise; returns GPU-seconds charged.

    Pieces that an earlier pass already recorded are left out: an attempt is metered up to `metered_until_at`, read
    under its lock. `whole` are attempts of which nothing more will come. A gap raises ValueError: what was skipped
    could never be charged.
    """
    months = _share_months(session, enterprise_id, {clock.month_of(piece.starts_at) for piece in pieces})
    allocation_ids = sorted({piece.allocation_id for piece in pieces})
    session.execute(
        sa.select(Allocation.id).where(Allocation.id.in_(allocation_ids)).order_by(Allocation.id).with_for_update()
    ).all()
    ids = sorted({piece.attempt_id for piece in pieces} | whole)
    metered = {id: until for id, until in session.execute(_LOCK_ATTEMPTS, {"ids": ids})}
    fresh = []
    for piece in sorted(pieces, key=lambda piece: (piece.starts_at, piece.attempt_id)):
        until = metered[piece.attempt_id]
        if until is None or piece.starts_at > until:
            raise ValueError(f"{piece.key}: metered until {until}, the next piece starts at {piece.starts_at}")
        if piece.starts_at < until:
            continue
        metered[piece.attempt_id] = piece.ends_at
        fresh.append(piece)
    if fresh:
        _write(session, enterprise_id, fresh, months, half_life_days, now)
    session.execute(_METERED, [{"attempt": id, "until": metered[id]} for id in ids])
    if whole:
        session.execute(_WHOLE, {"ids": sorted(whole)})
    return sum(piece.gpu_seconds for piece in fresh)


def _write(
    session: Session,
    enterprise_id: int,
    pieces: Sequence[Piece],
    months: dict[str, str],
    half_life_days: float,
    now: dt.datetime,
) -> None:
    # Asked for in the order of the rows, SQLite would insert them one by one: the source tells which is which.
    found = session.execute(
        _RECORD,
        [
            {
                "source": piece.source,
                "attempt_id": piece.attempt_id,
                "booking_id": piece.booking_id,
                "enterprise_id": enterprise_id,
                "allocation_id": piece.allocation_id,
                "pool_id": piece.pool_id,
                "user_id": piece.user_id,
                "starts_at": piece.starts_at,
                "ends_at": piece.ends_at,
                "gpus": piece.gpus,
                "gpu_seconds": piece.gpu_seconds,
                "day_on": clock.day_of(piece.starts_at),
                "recorded_at": now,
            }
            for piece in pieces
        ],
    )
    by_source = {source: id for id, source in found}
    ids = [by_source[piece.source] for piece in pieces]
    charges = []
    for id, piece in zip(ids, pieces, strict=True):
        used_in = clock.month_of(piece.starts_at)
        charges.append(
            {
                "usage_record_id": id,
                "enterprise_id": enterprise_id,
                "booking_id": piece.booking_id,
                "tariff_id": piece.tariff_id,
                "gpu_seconds": piece.gpu_seconds,
                "billed_in": months[used_in],
                "adjustment": months[used_in] != used_in,
                "charged_at": now,
            }
        )
    session.execute(_CHARGE, charges)
    _post(session, list(zip(ids, pieces, strict=True)), half_life_days, now)


def _post(session: Session, records: Sequence[tuple[int, Piece]], half_life_days: float, now: dt.datetime) -> None:
    """The ledger's side: from each booking's own hold first."""
    ids = sorted({piece.booking_id for _, piece in records})
    held = {id: held for id, held in session.execute(_LOCK_BOOKINGS, {"ids": ids})}
    from_holds: dict[int, int] = defaultdict(int)
    charged: dict[int, int] = defaultdict(int)
    uses: dict[int, list[ledger.Use]] = defaultdict(list)
    used: dict[int, int] = defaultdict(int)
    for id, piece in records:
        amount = piece.gpu_seconds
        from_hold = min(amount, held[piece.booking_id] - from_holds[piece.booking_id])
        from_holds[piece.booking_id] += from_hold
        charged[piece.booking_id] += amount
        uses[piece.allocation_id].append(ledger.Use(f"usage:{id}", amount, from_hold))
        used[piece.allocation_id] += amount
    session.execute(_USED, [{"booking": id, "from_hold": from_holds[id], "amount": charged[id]} for id in ids])
    for allocation_id in sorted(uses):
        ledger.charge(session, allocation_id, uses[allocation_id], at=now, by=SYSTEM)
    fair.add_usage(session, used, half_life_days=half_life_days, now=now)


def _share_months(session: Session, enterprise_id: int, months: set[str]) -> dict[str, str]:
    """For each month of use the month it is billed in: itself while open, else the next open one.

    The rows are read FOR SHARE: closing a month waits for charges under way, and they for it.
    """
    return {month: _open_month(session, enterprise_id, month) for month in sorted(months)}


def _open_month(session: Session, enterprise_id: int, month: str) -> str:
    while True:
        ensure_month(session, enterprise_id, month)
        state = session.scalar(
            sa.select(BillingMonth.state)
            .where(BillingMonth.enterprise_id == enterprise_id, BillingMonth.month == month)
            .with_for_update(read=True)
        )
        if state is MonthState.OPEN:
            return month
        month = clock.next_month(month)


def ensure_month(session: Session, enterprise_id: int, month: str) -> None:
    """The row exists afterwards, also when two transactions create it at once."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(
        insert(BillingMonth)
        .values(enterprise_id=enterprise_id, month=month, state=MonthState.OPEN)
        .on_conflict_do_nothing()
    )
