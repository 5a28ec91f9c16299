"""Allocations for pages and forms, each list one query plus one for the balances."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, must_see, visible
from ..enterprises.models import Enterprise
from ..ledger.queries import Balance, balances
from ..pools.models import Pool
from ..programmes.models import Programme
from .models import Allocation
from .states import WAITING, AllocationState

PAGE = 25


@dataclass(frozen=True, slots=True)
class AllocationRow:
    allocation: Allocation
    programme: Programme
    pool: Pool
    enterprise: Enterprise
    balance: Balance


def get_allocation(session: Session, allocation_id: int, by: Actor) -> Allocation:
    return must_see(session.get(Allocation, allocation_id), by)


def _rows(session: Session, query: sa.Select[Allocation, Programme, Pool, Enterprise]) -> list[AllocationRow]:
    found = session.execute(query).all()
    balance = balances(session, [allocation.id for allocation, *_ in found]) if found else {}
    return [AllocationRow(a, programme, pool, firm, balance[a.id]) for a, programme, pool, firm in found]


def _joined() -> sa.Select[Allocation, Programme, Pool, Enterprise]:
    return (
        sa.select(Allocation, Programme, Pool, Enterprise)
        .join(Programme, Programme.id == Allocation.programme_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
    )


def get_row(session: Session, allocation_id: int, by: Actor) -> AllocationRow:
    rows = _rows(session, _joined().where(Allocation.id == allocation_id))
    must_see(rows[0].allocation if rows else None, by)
    return rows[0]


def list_allocations(
    session: Session, by: Actor, *, states: frozenset[AllocationState] | None = None, page: int = 1
) -> tuple[list[AllocationRow], int]:
    """One page, newest first, and how many there are in all."""
    query = visible(_joined(), Allocation.enterprise_id, by)
    count = visible(sa.select(sa.func.count()).select_from(Allocation), Allocation.enterprise_id, by)
    if states is not None:
        query, count = query.where(Allocation.state.in_(states)), count.where(Allocation.state.in_(states))
    query = query.order_by(Allocation.id.desc()).limit(PAGE).offset((page - 1) * PAGE)
    return _rows(session, query), session.scalar(count) or 0


def list_usable(session: Session, by: Actor, now: dt.datetime) -> list[AllocationRow]:
    """What a member may book on now: active, not ended; the one that ends first comes first (the form's default)."""
    today = clock.day_of(now)
    return _rows(
        session,
        visible(_joined(), Allocation.enterprise_id, by)
        .where(Allocation.state == AllocationState.ACTIVE, Allocation.ends_on >= today)
        .order_by(Allocation.ends_on, Allocation.id)
        .limit(100),
    )


def list_to_decide(session: Session, limit: int = PAGE) -> list[AllocationRow]:
    """Requests that wait for an operator, by due time."""
    return _rows(
        session, _joined().where(Allocation.state.in_(WAITING)).order_by(Allocation.due_at, Allocation.id).limit(limit)
    )


def list_ended(session: Session, now: dt.datetime, limit: int = 100) -> list[int]:
    """Active allocations whose last day is over."""
    return list(
        session.scalars(
            sa.select(Allocation.id)
            .where(
                Allocation.state.in_((AllocationState.ACTIVE, AllocationState.SUSPENDED)),
                Allocation.ends_on < clock.day_of(now),
            )
            .limit(limit)
        )
    )
