"""Keep what was used and charge it: exactly once, in exactly one billing month.

Locks: the enterprise's billing months FOR SHARE, then allocations, then bookings and attempts, then ledger accounts.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, require
from ..allocations import fair
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..bookings.models import Attempt, Booking
from ..bookings.states import BookingKind
from ..db import lock
from ..enterprises.models import Enterprise
from ..ledger import service as ledger
from ..pools.prices import PriceBook, PricePoint, to_fen
from ..pools.queries import price_books
from ..sentences import NotFound, Refusal, Sentence
from . import shares
from .models import CREDITS, FEES, BillingMonth, Charge, ChargeKind, MonthState, UsageRecord

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
    """One attempt during at most one clock hour, at one price.

    `share_milli`: see `shares`; None is whole cards, as many as `gpus`.
    """

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
    discount_id: int | None = None
    weight_milli: int = shares.MILLI
    share_milli: int | None = None
    slice: str | None = None

    @property
    def share(self) -> int:
        return self.gpus * shares.MILLI if self.share_milli is None else self.share_milli

    @property
    def gpu_seconds(self) -> int:
        seconds = clock.seconds_between(self.starts_at, self.ends_at)
        return self.gpus * seconds if self.share_milli is None else shares.gpu_seconds(self.share_milli, seconds)

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
    under its lock. `whole` are attempts of which nothing more will come. All pieces are of pools with this half-life.
    A gap raises ValueError: what was skipped could never be charged.
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
                "slice": piece.slice,
                "share_milli": piece.share,
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
                "reference": f"usage:{id}",
                "kind": ChargeKind.USAGE,
                "usage_record_id": id,
                "enterprise_id": enterprise_id,
                "booking_id": piece.booking_id,
                "tariff_id": piece.tariff_id,
                "discount_id": piece.discount_id,
                "weight_milli": piece.weight_milli,
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
    used: dict[int, float] = defaultdict(float)
    for id, piece in records:
        amount = piece.gpu_seconds
        from_hold = min(amount, held[piece.booking_id] - from_holds[piece.booking_id])
        from_holds[piece.booking_id] += from_hold
        charged[piece.booking_id] += amount
        uses[piece.allocation_id].append(ledger.Use(f"usage:{id}", amount, from_hold))
        used[piece.allocation_id] += _decayed(piece, half_life_days, now)
    session.execute(_USED, [{"booking": id, "from_hold": from_holds[id], "amount": charged[id]} for id in ids])
    for allocation_id in sorted(uses):
        ledger.charge(session, allocation_id, uses[allocation_id], at=now, by=SYSTEM)
    fair.add_usage(session, used, half_life_days=half_life_days, now=now)


def _decayed(piece: Piece, half_life_days: float, now: dt.datetime) -> float:
    """What it counts for the shares at `now`: as if it had been counted second by second while it was used."""
    seconds = clock.seconds_between(piece.starts_at, piece.ends_at)
    if not seconds:
        return 0.0
    since, until = ((now - at).total_seconds() for at in (piece.starts_at, piece.ends_at))
    return fair.of_run(piece.gpu_seconds / seconds, since, until, half_life_days * 86_400)


# -- fees and credits -------------------------------------------------------------------------------------------------


class Priced(Protocol):
    """What decides a price: a `PricePoint`, a charge, a frozen price."""

    @property
    def tariff_id(self) -> int: ...
    @property
    def discount_id(self) -> int | None: ...
    @property
    def weight_milli(self) -> int: ...


def charge_fee(
    session: Session,
    booking: Booking,
    *,
    kind: ChargeKind,
    gpu_seconds: int,
    point: Priced,
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
) -> int | None:
    """Charge hours of a booking that nobody metered (called off late, not used): held → used, beyond it as usage is.

    Returns the charge's id; None for no hours. The booking's pool is locked, where it gives GPUs back in the same
    transaction. `reference` names the cause: the same one twice is refused by the database.
    """
    if kind not in FEES or gpu_seconds < 0:
        raise ValueError(f"{reference}: {gpu_seconds} GPU-seconds of kind {kind} are no fee")
    if gpu_seconds == 0:
        return None
    session.flush()
    month = clock.month_of(now)
    billed_in = _open_month(session, booking.enterprise_id, month)
    lock(session, Allocation, booking.allocation_id)
    lock(session, Booking, booking.id)
    charge = Charge(
        reference=reference,
        kind=kind,
        enterprise_id=booking.enterprise_id,
        booking_id=booking.id,
        tariff_id=point.tariff_id,
        discount_id=point.discount_id,
        weight_milli=point.weight_milli,
        gpu_seconds=gpu_seconds,
        billed_in=billed_in,
        adjustment=billed_in != month,
        charged_at=now,
        why=why.to_json(),
        by_id=by.user_id,
    )
    session.add(charge)
    from_hold = min(gpu_seconds, booking.held_gpu_seconds)
    booking.held_gpu_seconds -= from_hold
    booking.charged_gpu_seconds += gpu_seconds
    session.flush()
    ledger.charge(session, booking.allocation_id, [ledger.Use(reference, gpu_seconds, from_hold)], at=now, by=by)
    return charge.id


def credit(
    session: Session,
    charge_id: int,
    gpu_seconds: int,
    *,
    kind: ChargeKind,
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
) -> int:
    """Give back some hours of a charge, at its price: used → available (of a closed allocation → expired).

    Billed in the charge's own month while that is open, else as an adjustment in the next open one. Returns the
    credit's id. Refusal("credit-too-much") at `hours` beyond what is left of the charge; NotFound.
    """
    [id] = _credit(session, [_Part(charge_id, gpu_seconds, reference)], kind=kind, why=why, by=by, now=now)
    return id


def credit_from(
    session: Session,
    charge_ids: Sequence[int],
    gpu_seconds: int,
    *,
    kind: ChargeKind,
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
) -> list[int]:
    """`credit` of so many hours of several charges of one booking together, the last charge first.

    References are `reference:<charge>`. Refusal("credit-too-much") beyond what is left of all of them.
    """
    left = left_of(session, charge_ids)
    whole = sum(left.values())
    if not 0 < gpu_seconds <= whole:
        raise Refusal(Sentence("credit-too-much", asked=gpu_seconds, left=whole), "hours")
    parts, rest = [], gpu_seconds
    for id in sorted(left, reverse=True):
        part = min(rest, left[id])
        if part:
            parts.append(_Part(id, part, f"{reference}:{id}"))
            rest -= part
    return _credit(session, parts, kind=kind, why=why, by=by, now=now)


def credit_attempt(
    session: Session,
    attempt_id: int,
    *,
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
    kind: ChargeKind = ChargeKind.OUTAGE,
) -> int:
    """Give back all that is left of what an attempt was charged; returns the GPU-seconds. Twice changes nothing.

    References are `reference:<charge>`. What was metered only after this is charged: call it when the attempt is
    metered whole.
    """
    ids = session.scalars(
        sa.select(Charge.id)
        .join(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(UsageRecord.attempt_id == attempt_id, Charge.gpu_seconds > 0)
    )
    left = left_of(session, list(ids))
    parts = [_Part(id, amount, f"{reference}:{id}") for id, amount in sorted(left.items()) if amount]
    if parts:
        _credit(session, parts, kind=kind, why=why, by=by, now=now)
    return sum(part.gpu_seconds for part in parts)


def correct(session: Session, charge_id: int, gpu_seconds: int, *, reason: str, by: Actor, now: dt.datetime) -> int:
    """An operator gives hours back with a reason that the enterprise reads. Refusal at `hours` or `reason`."""
    require(by, Permission.USAGE_CORRECT)
    reason = reason.strip()
    if not reason:
        raise Refusal(Sentence("correction-needs-reason"), "reason")
    number = session.scalar(sa.select(sa.func.count()).where(Charge.corrects_id == charge_id)) or 0
    return credit(
        session,
        charge_id,
        gpu_seconds,
        kind=ChargeKind.CORRECTION,
        reference=f"correction:{charge_id}:{number + 1}",
        why=Sentence("corrected-by-hand", reason=reason),
        by=by,
        now=now,
    )


def left_of(session: Session, charge_ids: Sequence[int]) -> dict[int, int]:
    """GPU-seconds of each of these charges that no credit and no new rate has taken back yet."""
    back = orm.aliased(Charge)
    given = (
        sa.select(sa.func.sum(back.gpu_seconds))
        .where(back.corrects_id == Charge.id, back.gpu_seconds < 0)
        .scalar_subquery()
    )
    rows = session.execute(
        sa.select(Charge.id, Charge.gpu_seconds + sa.func.coalesce(given, 0)).where(Charge.id.in_(charge_ids))
    )
    return {id: max(0, int(left)) for id, left in rows}


@dataclass(frozen=True, slots=True)
class _Part:
    charge_id: int
    gpu_seconds: int
    reference: str


def _credit(
    session: Session, parts: Sequence[_Part], *, kind: ChargeKind, why: Sentence, by: Actor, now: dt.datetime
) -> list[int]:
    """Several credits of one booking at once; returns their ids."""
    if kind not in CREDITS:
        raise ValueError(f"a charge of kind {kind} gives nothing back")
    session.flush()
    originals = _originals(session, [part.charge_id for part in parts])
    booking, months = _lock_for_credit(session, originals)
    left = left_of(session, [part.charge_id for part in parts])  # under the locks
    rows, given = [], []
    for part in parts:
        original = originals[part.charge_id]
        if not 0 < part.gpu_seconds <= left[part.charge_id]:
            raise Refusal(Sentence("credit-too-much", asked=part.gpu_seconds, left=left[part.charge_id]), "hours")
        left[part.charge_id] -= part.gpu_seconds
        rows.append(_against(original, months, kind, -part.gpu_seconds, part.reference, why, by, now))
        given.append(ledger.Credit(original.root, part.gpu_seconds, part.reference))
    session.add_all(rows)
    booking.charged_gpu_seconds -= sum(part.gpu_seconds for part in parts)
    session.flush()
    allocation = session.get_one(Allocation, booking.allocation_id)
    ended = allocation.state is AllocationState.CLOSED
    ledger.credit(session, allocation.id, given, ended=ended, why=why, at=now, by=by)
    return [row.id for row in rows]


@dataclass(frozen=True, slots=True)
class _Original:
    """A charge that is given back or re-rated, the month of its use, and under which reference the ledger has it."""

    charge: Charge
    record: UsageRecord | None
    root: str

    @property
    def used_in(self) -> str:
        return clock.month_of(self.charge.charged_at if self.record is None else self.record.starts_at)


def _originals(session: Session, ids: Sequence[int]) -> dict[int, _Original]:
    rows = session.execute(
        sa.select(Charge, UsageRecord)
        .outerjoin(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(Charge.id.in_(ids))
        .order_by(Charge.id)
    ).all()
    if not rows or len(rows) < len(set(ids)):
        raise NotFound
    return {charge.id: _Original(charge, record, _root(charge)) for charge, record in rows}


def _root(charge: Charge) -> str:
    """What is re-rated keeps its place in the ledger: only records are re-rated, never fees."""
    return charge.reference if charge.usage_record_id is None else f"usage:{charge.usage_record_id}"


def _lock_for_credit(session: Session, originals: Mapping[int, _Original]) -> tuple[Booking, dict[str, str]]:
    """The months, the allocation and the booking, in this order; all originals are of one booking.

    Returns the booking, and for each month that was billed the one that a credit is billed in now.
    """
    first = next(iter(originals.values())).charge
    months = _share_months(session, first.enterprise_id, {each.charge.billed_in for each in originals.values()})
    booking = session.get_one(Booking, first.booking_id)
    if any(each.charge.booking_id != booking.id for each in originals.values()):
        raise ValueError("credits of several bookings at once")
    lock(session, Allocation, booking.allocation_id)
    fresh = lock(session, Booking, booking.id)
    assert fresh is not None
    return fresh, months


def _against(
    original: _Original,
    months: Mapping[str, str],
    kind: ChargeKind,
    gpu_seconds: int,
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
    point: Priced | None = None,
) -> Charge:
    """A charge that changes another one, at its price or at another."""
    charge = original.charge
    price: Priced = charge if point is None else point
    billed_in = months[charge.billed_in]
    return Charge(
        reference=reference,
        kind=kind,
        usage_record_id=charge.usage_record_id,
        corrects_id=charge.id,
        enterprise_id=charge.enterprise_id,
        booking_id=charge.booking_id,
        tariff_id=price.tariff_id,
        discount_id=price.discount_id,
        weight_milli=price.weight_milli,
        gpu_seconds=gpu_seconds,
        billed_in=billed_in,
        adjustment=billed_in != original.used_in,
        charged_at=now,
        why=why.to_json(),
        by_id=by.user_id,
    )


# -- another rate -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rerated:
    """How many charges stand at another price now, and what changed. Micro-yuan are exact sums, to the fen."""

    charges: int
    gpu_seconds: int
    before_micro_yuan: int
    after_micro_yuan: int


def rerate(
    session: Session,
    enterprise_id: int,
    start: dt.datetime,
    end: dt.datetime,
    *,
    reason: str,
    by: Actor,
    now: dt.datetime,
) -> Rerated:
    """Price the use in [start, end) again, as the books and the enterprise's size class say today.

    What stands at another price is taken back at the old one and charged at the new one: two new rows, the old one
    stays, hours do not move. A fixed booking keeps its frozen tariff and weight; only its discount is asked for again.
    Twice changes nothing. Raises Refusal at `reason`.
    """
    require(by, Permission.USAGE_RERATE)
    reason = reason.strip()
    if not reason:
        raise Refusal(Sentence("correction-needs-reason"), "reason")
    rows, months = _to_rerate(session, enterprise_id, start, end)
    books = price_books(session, {record.pool_id for _charge, record, _fixed, _size, _programme in rows})
    left = left_of(session, [row[0].id for row in rows])
    why = Sentence("rerated", reason=reason)
    added: list[Charge] = []
    before: list[tuple[PricePoint, int]] = []
    after: list[tuple[PricePoint, int]] = []
    for charge, record, fixed, size, programme_id in rows:
        amount, book = left[charge.id], books[record.pool_id]
        if not amount:
            continue
        old = _point_of(book, charge)
        new = book.at(record.starts_at, size_class=size, programme_id=programme_id)
        if fixed:
            new = book.discounted(old, new.discount_id)
        if new == old:
            continue
        original = _Original(charge, record, _root(charge))
        for point, sign, name in ((old, -1, "old"), (new, 1, "new")):
            reference = f"rerate:{charge.id}:{name}"
            added.append(_against(original, months, ChargeKind.RERATE, sign * amount, reference, why, by, now, point))
        before.append((old, amount))
        after.append((new, amount))
    session.add_all(added)
    session.flush()
    return Rerated(len(before), sum(amount for _point, amount in before), _sum(before), _sum(after))


def _to_rerate(
    session: Session, enterprise_id: int, start: dt.datetime, end: dt.datetime
) -> tuple[list[tuple[Charge, UsageRecord, bool, str, int]], dict[str, str]]:
    """What was charged for records of the time, with what decides its price; and for each month that was billed the
    one that a change is billed in now. Months and allocations are locked.
    """
    within = sa.and_(
        UsageRecord.enterprise_id == enterprise_id,
        UsageRecord.day_on >= clock.day_of(start),
        UsageRecord.day_on <= clock.day_of(end),
        UsageRecord.starts_at >= start,
        UsageRecord.starts_at < end,
    )
    of_record = Charge.usage_record_id == UsageRecord.id
    billed = session.scalars(sa.select(Charge.billed_in).join(UsageRecord, of_record).where(within).distinct())
    months = _share_months(session, enterprise_id, set(billed))
    ids = sa.select(UsageRecord.allocation_id).where(within)
    session.execute(
        sa.select(Allocation.id).where(Allocation.id.in_(ids)).order_by(Allocation.id).with_for_update()
    ).all()
    rows = session.execute(
        sa.select(Charge, UsageRecord, Booking.kind, Enterprise.size_class, Allocation.programme_id)
        .join(UsageRecord, of_record)
        .join(Booking, Booking.id == Charge.booking_id)
        .join(Enterprise, Enterprise.id == Charge.enterprise_id)
        .join(Allocation, Allocation.id == Booking.allocation_id)
        .where(within, Charge.gpu_seconds > 0)
        .order_by(Charge.id)
    )
    found = [
        (charge, record, kind is BookingKind.FIXED, str(size), programme)
        for charge, record, kind, size, programme in rows
    ]
    return found, months


def _point_of(book: PriceBook, charge: Charge) -> PricePoint:
    return book.point_of(charge.tariff_id, charge.discount_id, charge.weight_milli)


def _sum(priced: Sequence[tuple[PricePoint, int]]) -> int:
    return to_fen(sum((point.contract_of(amount) for point, amount in priced), Fraction(0)))


# -- months -----------------------------------------------------------------------------------------------------------


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
