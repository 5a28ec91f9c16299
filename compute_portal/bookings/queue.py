"""A pool's queue for people: who waits and why, how the last month went, when somebody who asks now would start.

Everybody may know how long the queue is and how fair it was. Whose booking it is and the numbers of its enterprise are
its own and the bureau's: others see a size class, and the kind of reason without its numbers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor
from ..enterprises.models import Enterprise
from ..policy import QueuePolicy
from ..pools.models import Pool
from ..sentences import NotFound, Sentence
from .models import Booking, Estimate, QueueDay, QueuePicture, Standing
from .states import BookingKind

DAYS = 30
MOVES = 8  # estimates of one booking that its page shows
LEAST_ENTITLED = 1_000  # an enterprise entitled to less than one part in so many was hardly there
OVERLOAD = dt.timedelta(days=3)

# What the enterprise is told of itself, and the bureau of it.
TO_BUREAU = {
    "wait-limit": "wait-limit-theirs",
    "wait-limit-booked": "wait-limit-booked-theirs",
    "change-limit": "change-limit-theirs",
}
# What others may know of it.
TO_OTHERS = {
    "wait-limit": "others-limit",
    "wait-limit-booked": "others-limit",
    "wait-cards": "others-cards",
    "wait-nodes": "others-cards",
    "wait-ahead": "others-ahead",
    "wait-fixed": "others-fixed",
    "wait-maintenance": "others-maintenance",
    "wait-power-cap": "wait-power-cap",
    "wait-not-before": "others-later",
    "wait-allocation-ends": "others-allocation",
    "wait-hours": "others-allocation",
    "wait-too-large": "others-too-large",
    "wait-nodes-down": "others-cards",
    "wait-access": "wait-access",
}


def told(stored: dict[str, Any] | None, enterprise_id: int, by: Actor) -> Sentence | None:
    """A reason or change as this reader may know it: 'your company' is said to that company only."""
    sentence = Sentence.from_json(stored)
    if sentence is None or by.enterprise_id == enterprise_id:
        return sentence
    if by.is_bureau:
        return Sentence(TO_BUREAU.get(sentence.id, sentence.id), **dict(sentence.values))
    return Sentence(TO_OTHERS.get(sentence.id, "others-ahead"))


@dataclass(frozen=True, slots=True)
class Change:
    """What would start it now. `again`: what to book instead, for the form's address, where that is its own to do."""

    told: Sentence
    again: dict[str, Any]

    @property
    def starts(self) -> bool:
        """Whether it would really start it; else it says what is before it, and what would bring it forward."""
        return self.told.id not in ("change-ahead", "change-stays") and not self.brings_forward

    @property
    def brings_forward(self) -> bool:
        return self.told.id in ("change-next-gpus", "change-next-seconds")


def find_change(standing: Standing | None, booking: Booking, by: Actor) -> Change | None:
    if standing is None or standing.change is None:
        return None
    sentence = told(standing.change, booking.enterprise_id, by)
    assert sentence is not None
    again: dict[str, Any] = {}
    if sentence.id in ("change-gpus", "change-next-gpus"):
        again = {"gpus": sentence["n"], "longest": _hours(booking.longest_seconds)}
    elif sentence.id in ("change-seconds", "change-next-seconds"):
        seconds = sentence["seconds"]
        again = {"gpus": booking.gpus, "longest": _hours(seconds if isinstance(seconds, int) else 0)}
    return Change(sentence, again)


def _hours(seconds: int) -> str:
    """As the form takes them, never more."""
    return f"{seconds * 100 // 3_600 / 100:g}"


def order(policy: QueuePolicy) -> Sentence:
    """The order in force, in one sentence."""
    if policy.order != "small-first":
        return Sentence(f"order-{policy.order}")
    return Sentence("order-small-first", hours=round(policy.promise_hours), percent=round(100 * policy.promise_share))


# -- who waits


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A booking in the queue as the reader may know it; `own`: its name and page are his, too."""

    booking: Booking
    enterprise: Enterprise
    standing: Standing
    own: bool
    why: Sentence


_QUEUE = (
    sa.select(Pool, QueuePicture)
    .outerjoin(QueuePicture, QueuePicture.pool_id == Pool.id)
    .where(Pool.id == sa.bindparam("pool_id"))
)


def get_queue(session: Session, pool_id: int) -> tuple[Pool, QueuePicture | None]:
    row = session.execute(_QUEUE, {"pool_id": pool_id}).one_or_none()
    if row is None:
        raise NotFound
    return row[0], row[1]


@dataclass(frozen=True, slots=True)
class Length:
    """How many wait in a pool, for how many cards, and how many of them are the reader's."""

    waiting: int
    gpus: int
    own: int


_LENGTH = (
    sa.select(
        sa.func.count(),
        sa.func.sum(Booking.gpus),
        sa.func.sum(sa.case((Booking.enterprise_id == sa.bindparam("own_id", type_=sa.Integer), 1), else_=0)),
    )
    .join(Standing, Standing.booking_id == Booking.id)
    .where(Standing.pool_id == sa.bindparam("pool_id"), Standing.place.is_not(None))
)


def length(session: Session, pool_id: int, by: Actor) -> Length:
    row = session.connection().execute(_LENGTH, {"pool_id": pool_id, "own_id": by.enterprise_id}).one()
    return Length(row[0], int(row[1] or 0), int(row[2] or 0))


_WAITING = (
    sa.select(Booking, Enterprise, Standing)
    .join(Standing, Standing.booking_id == Booking.id)
    .join(Enterprise, Enterprise.id == Booking.enterprise_id)
    .where(Standing.pool_id == sa.bindparam("pool_id"), Standing.place.is_not(None))
    .order_by(Standing.place, Booking.id)
    .offset(sa.bindparam("offset"))
    .limit(sa.bindparam("limit"))
)


def list_waiting(session: Session, pool_id: int, by: Actor, *, offset: int, limit: int) -> list[QueueRow]:
    """In the order in which they stand."""
    rows = session.execute(_WAITING, {"pool_id": pool_id, "offset": offset, "limit": limit}).all()
    return [_row(booking, enterprise, standing, by) for booking, enterprise, standing in rows]


def _row(booking: Booking, enterprise: Enterprise, standing: Standing, by: Actor) -> QueueRow:
    why = told(standing.reason, enterprise.id, by)
    assert why is not None  # a standing has a reason
    return QueueRow(booking, enterprise, standing, by.is_bureau or by.enterprise_id == enterprise.id, why)


# -- how it was


@dataclass(frozen=True, slots=True)
class Month:
    """The last days of a queue. Seconds; `deviation` and `worst` in permille, None when nobody ever had to share."""

    days: Sequence[QueueDay]
    started: int
    mean: int | None
    longest: int | None
    deviation: int | None
    worst: int | None
    worst_enterprise_id: int | None


_DAYS = (
    sa.select(QueueDay)
    .where(
        QueueDay.pool_id == sa.bindparam("pool_id"),
        QueueDay.on > sa.bindparam("before_first"),
        QueueDay.on < sa.bindparam("today"),
    )
    .order_by(QueueDay.on.desc())
)


def month(session: Session, pool_id: int, today: dt.date) -> Month:
    """Newest day first."""
    first = {"before_first": today - dt.timedelta(days=DAYS + 1), "today": today}
    days = list(session.scalars(_DAYS, {"pool_id": pool_id, **first}))
    started = sum(day.started for day in days)
    off = [day.deviation_permille for day in days if day.deviation_permille is not None]
    worst = _worst([day.shares for day in days])
    return Month(
        days,
        started,
        sum(day.waited_seconds for day in days) // started if started else None,
        max((day.longest_seconds for day in days), default=None),
        round(sum(off) / len(off)) if off else None,
        None if worst is None else worst[0],
        None if worst is None else worst[1],
    )


def _worst(shares: Sequence[Mapping[str, Sequence[int]]]) -> tuple[int, int] | None:
    """(permille of what it was entitled to, enterprise) of whoever got least of it over all days."""
    got: dict[int, int] = {}
    entitled: dict[int, int] = {}
    for day in shares:
        for key, (had, due) in day.items():
            got[int(key)] = got.get(int(key), 0) + had
            entitled[int(key)] = entitled.get(int(key), 0) + due
    everything = sum(entitled.values())
    there = [id for id, due in entitled.items() if due * LEAST_ENTITLED > everything]
    return min(((1_000 * got[id] // entitled[id], id) for id in there), default=None)


def find_enterprise(session: Session, enterprise_id: int | None) -> Enterprise | None:
    return None if enterprise_id is None else session.get(Enterprise, enterprise_id)


def is_overloaded(picture: QueuePicture | None, now: dt.datetime) -> bool:
    """Overdue bookings have filled their part of the pool for so long that there is simply more demand than GPUs."""
    since = None if picture is None else picture.overdue_full_since
    return since is not None and now - since >= OVERLOAD


# -- when it starts


@dataclass(frozen=True, slots=True)
class Range:
    """When a booking probably starts: between the first and the last, half of the time before the middle."""

    p10_at: dt.datetime
    p50_at: dt.datetime
    p90_at: dt.datetime


def expected(picture: QueuePicture | None, gpus: int, seconds: int) -> Range | None:
    """By the start table, for somebody who asks now: the next larger number of GPUs and of hours in it."""
    if picture is None:
        return None
    starts = picture.starts
    row = next((i for i, most in enumerate(starts["gpus"]) if gpus <= most), None)
    column = next((i for i, most in enumerate(starts["hours"]) if seconds <= most * 3_600), None)
    found = None if row is None or column is None else starts["seconds"][row][column]
    if found is None:
        return None
    return Range(*(picture.at + dt.timedelta(seconds=each) for each in found))


USUAL_SECONDS = 24 * 3_600


def usual_start(picture: QueuePicture | None, pool: Pool) -> Range | None:
    """When a node for a day would start: what somebody is told who has not said yet what to book."""
    return expected(picture, pool.gpus_per_node, USUAL_SECONDS)


@dataclass(frozen=True, slots=True)
class First:
    """The first booking of an allocation that started, and how long it had waited by then."""

    booking_id: int
    waited_seconds: int


def find_first(session: Session, allocation_id: int) -> First | None:
    """One query; of the bookings that wait for cards, not of those with hours of their own."""
    booking = session.scalars(
        sa.select(Booking)
        .where(
            Booking.allocation_id == allocation_id,
            Booking.kind == BookingKind.FLEXIBLE,
            Booking.started_at.is_not(None),
        )
        .order_by(Booking.started_at, Booking.id)
        .limit(1)
    ).first()
    if booking is None or booking.started_at is None:
        return None
    since = max(booking.submitted_at, booking.not_before_at or booking.submitted_at)
    return First(booking.id, max(0, clock.seconds_between(since, booking.started_at)))


@dataclass(frozen=True, slots=True)
class Move:
    """An estimate as it was shown, with its bar: left edge and width in percent of the span of all that are shown."""

    estimate: Estimate
    left: float
    width: float

    @property
    def range(self) -> Range:
        made, e = self.estimate.made_at, self.estimate
        return Range(*(made + dt.timedelta(seconds=each) for each in (e.p10_seconds, e.p50_seconds, e.p90_seconds)))


def moves(session: Session, booking_id: int) -> list[Move]:
    """How the estimate of a booking changed, newest first."""
    rows = list(
        session.scalars(
            sa.select(Estimate).where(Estimate.booking_id == booking_id).order_by(Estimate.id.desc()).limit(MOVES)
        )
    )
    edges = [row.made_at + dt.timedelta(seconds=each) for row in rows for each in (row.p10_seconds, row.p90_seconds)]
    if not edges:
        return []
    first = min(edges)
    span = max(1, clock.seconds_between(first, max(edges)))
    return [
        Move(
            row,
            100 * clock.seconds_between(first, row.made_at + dt.timedelta(seconds=row.p10_seconds)) / span,
            max(1.0, 100 * (row.p90_seconds - row.p10_seconds) / span),
        )
        for row in rows
    ]
