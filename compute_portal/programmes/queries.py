"""Programmes for forms and pages."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..pools.models import Pool
from ..sentences import NotFound
from .models import Programme, ProgrammePool


def get_programme(session: Session, programme_id: int) -> Programme:
    programme = session.get(Programme, programme_id)
    if programme is None:
        raise NotFound
    return programme


def list_programmes(session: Session) -> list[Programme]:
    return list(session.scalars(sa.select(Programme).order_by(Programme.ends_on.desc(), Programme.id)))


def list_open_pairs(session: Session, on: dt.date) -> list[tuple[Programme, Pool]]:
    """Every programme that accepts requests on this day with each of its pools."""
    rows = session.execute(
        sa.select(Programme, Pool)
        .join(ProgrammePool, ProgrammePool.programme_id == Programme.id)
        .join(Pool, Pool.id == ProgrammePool.pool_id)
        .where(Programme.ends_on >= on)
        .order_by(Programme.id, Pool.name)
    )
    return [(programme, pool) for programme, pool in rows]
