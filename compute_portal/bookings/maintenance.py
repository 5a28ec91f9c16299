"""Maintenance planned over bookings: which it meets, where they go instead, and telling their owners.

`pools` refuses a window that anything occupies. Here what is booked there and has not started is moved to other GPUs of
the pool for the same hours; what fits nowhere gives way, the latest first, and costs nothing. What runs is not touched:
a window that would meet it is refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..enterprises.models import Enterprise
from ..pools import service as pools
from ..pools.models import Maintenance, Occupancy
from ..sentences import Refusal, Sentence
from .giving_way import move_or_cancel
from .models import Booking
from .states import NOT_STARTED


@dataclass(frozen=True, slots=True)
class Clash:
    """A booking that has GPUs of these nodes in the window. `moves`: it has not started, so it can go elsewhere."""

    booking: Booking
    enterprise: Enterprise

    @property
    def moves(self) -> bool:
        return self.booking.state in NOT_STARTED and not self.booking.under_way


def list_clashes(
    session: Session, node_ids: Sequence[int], starts_at: dt.datetime, ends_at: dt.datetime
) -> list[Clash]:
    """In the order of asking. One query."""
    met = (
        sa.select(Occupancy.booking_id)
        .where(Occupancy.node_id.in_(node_ids), Occupancy.starts_at < ends_at, Occupancy.ends_at > starts_at)
        .distinct()
    )
    rows = session.execute(
        sa.select(Booking, Enterprise)
        .join(Enterprise, Enterprise.id == Booking.enterprise_id)
        .where(Booking.id.in_(met))
        .order_by(Booking.id)
    )
    return [Clash(*row) for row in rows]


def plan(
    session: Session,
    pool_id: int,
    *,
    node_ids: Sequence[int],
    starts_at: dt.datetime,
    ends_at: dt.datetime,
    reason: str,
    over_bookings: bool,
    by: Actor,
    now: dt.datetime,
) -> tuple[Maintenance, int, int]:
    """Close nodes for a window; the window, and how many bookings moved and how many gave way.

    Without `over_bookings` a clash is refused, as is one with what runs.
    """
    require(by, Permission.MAINTENANCE_PLAN)
    pool = pools.lock_pool(session, pool_id)
    clashes = list_clashes(session, node_ids, starts_at, ends_at) if over_bookings else []
    running = [clash for clash in clashes if not clash.moves]
    if running:
        raise Refusal(Sentence("maintenance-over-running", n=len(running)), "starts_at")
    for clash in clashes:
        pools.free(session, clash.booking.id, at=now)
    window = pools.plan_maintenance(
        session, pool_id, node_ids=node_ids, starts_at=starts_at, ends_at=ends_at, reason=reason, by=by, now=now
    )
    about = {"start": starts_at, "end": ends_at}
    moved = sum(
        move_or_cancel(
            session,
            pool,
            clash.booking,
            moved=Sentence("moved-for-maintenance", **about),
            cancelled=Sentence("gave-way-to-maintenance", **about),
            key=f"maintenance:{clash.booking.id}:{int(starts_at.timestamp())}",
            now=now,
        )
        for clash in clashes
    )
    return window, moved, len(clashes) - moved
