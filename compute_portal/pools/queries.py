"""Reading pools: prices at any instant, and the snapshot of who occupies what."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..sentences import NotFound, Refusal, Sentence
from .availability import FOREVER, Availability
from .models import Limit, Maintenance, Node, Occupancy, Pool, Tariff
from .states import MaintenanceState, NodeState

# Access is taken back within moments of an end; until it is, nobody new is let onto those GPUs.
RELEASE_GRACE_SECONDS = 60


def get_pool(session: Session, pool_id: int) -> Pool:
    pool = session.get(Pool, pool_id)
    if pool is None:
        raise NotFound
    return pool


def list_pools(session: Session) -> list[Pool]:
    return list(session.scalars(sa.select(Pool).order_by(Pool.name)))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """A pool's tariffs in order of their first day: one price for any instant from the first on."""

    tariffs: tuple[Tariff, ...]
    starts: tuple[dt.datetime, ...]

    def at(self, instant: dt.datetime) -> Tariff:
        """Raises Refusal("no-price") before the first tariff."""
        index = bisect_right(self.starts, instant) - 1
        if index < 0:
            raise Refusal(Sentence("no-price"), field="allocation_id")
        return self.tariffs[index]

    def borders(self, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
        """Instants strictly inside the interval at which the price changes."""
        return [instant for instant in self.starts if start < instant < end]

    def between(self, start: dt.datetime, end: dt.datetime) -> list[Tariff]:
        return [self.at(start), *(self.at(border) for border in self.borders(start, end))]


def price_books(session: Session, pool_ids: Iterable[int]) -> dict[int, PriceBook]:
    found: dict[int, list[Tariff]] = {id: [] for id in pool_ids}
    for tariff in session.scalars(
        sa.select(Tariff).where(Tariff.pool_id.in_(found)).order_by(Tariff.pool_id, Tariff.from_on)
    ):
        found[tariff.pool_id].append(tariff)
    return {
        id: PriceBook(tuple(tariffs), tuple(clock.start_of_day(tariff.from_on) for tariff in tariffs))
        for id, tariffs in found.items()
    }


def price_book(session: Session, pool_id: int) -> PriceBook:
    return price_books(session, [pool_id])[pool_id]


def find_limit(session: Session, enterprise_id: int, pool_id: int) -> int | None:
    """GPUs of this pool the enterprise may use at once; None means no limit."""
    row = session.get(Limit, (enterprise_id, pool_id))
    return None if row is None else row.gpus


def limit_and_capacity(session: Session, enterprise_id: int, pool_id: int) -> tuple[int | None, int]:
    """The enterprise's limit in this pool (None: no limit) and all GPUs of the pool, in one query."""
    limit = sa.select(Limit.gpus).where(Limit.enterprise_id == enterprise_id, Limit.pool_id == pool_id)
    gpus = sa.select(sa.func.coalesce(sa.func.sum(Node.gpus), 0)).where(Node.pool_id == pool_id)
    row = session.execute(sa.select(limit.scalar_subquery(), gpus.scalar_subquery())).one()
    return row[0], int(row[1])


def capacity(session: Session, pool_ids: Iterable[int]) -> dict[int, int]:
    """All GPUs of each pool, whatever the state of their nodes."""
    rows = session.execute(
        sa.select(Node.pool_id, sa.func.sum(Node.gpus)).where(Node.pool_id.in_(list(pool_ids))).group_by(Node.pool_id)
    )
    return {pool_id: int(gpus) for pool_id, gpus in rows}


def load_availability(session: Session, pool: Pool, now: dt.datetime) -> Availability:
    """Who occupies which GPUs of the pool from `now` on: bookings, nodes not up, maintenance."""
    second = int(now.timestamp())
    nodes = session.execute(
        sa.select(Node.id, Node.gpus, Node.state).where(Node.pool_id == pool.id).order_by(Node.position)
    ).all()
    occupied = session.execute(
        sa.select(
            Occupancy.node_id,
            Occupancy.gpu_mask,
            Occupancy.starts_at,
            Occupancy.ends_at,
            Occupancy.fixed,
            Occupancy.released_at,
            Occupancy.stuck_at,
        ).where(Occupancy.pool_id == pool.id, sa.or_(Occupancy.ends_at > now, Occupancy.released_at.is_(None)))
    )
    rows = []
    for node_id, mask, starts_at, ends_at, fixed, released_at, stuck_at in occupied:
        end = int(ends_at.timestamp())
        if released_at is None:
            end = FOREVER if stuck_at is not None else max(end, second + RELEASE_GRACE_SECONDS if end <= second else 0)
        rows.append((node_id, mask, int(starts_at.timestamp()), end, fixed))
    closed = [(id, second, FOREVER) for id, _gpus, state in nodes if state is not NodeState.UP]
    windows = session.execute(
        sa.select(Maintenance.node_ids, Maintenance.starts_at, Maintenance.ends_at).where(
            Maintenance.pool_id == pool.id, Maintenance.state == MaintenanceState.PLANNED, Maintenance.ends_at > now
        )
    )
    for node_ids, starts_at, ends_at in windows:
        span = int(starts_at.timestamp()), int(ends_at.timestamp())
        closed += [(node_id, *span) for node_id in node_ids]
    return Availability.from_rows(
        [(id, gpus) for id, gpus, _state in nodes], rows, closed, unit=pool.booking_unit.value
    )


def node_ids(session: Session, pool_id: int) -> list[int]:
    """In order of placement."""
    return list(session.scalars(sa.select(Node.id).where(Node.pool_id == pool_id).order_by(Node.position)))
