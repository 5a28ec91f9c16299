"""Open a programme and fund its pool of GPU-hours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..db import lock
from ..ledger import service as ledger
from ..sentences import NotFound
from .models import EnterpriseShare, Programme, ProgrammePool


def open_programme(
    session: Session,
    *,
    name: str,
    name_en: str | None,
    starts_on: dt.date,
    ends_on: dt.date,
    pool_ids: Iterable[int],
    most_gpu_seconds: int,
    booking_approval_gpu_seconds: int,
    decision_days: int = 3,
    shares: int = 1,
) -> Programme:
    """A programme over some pools, without hours yet."""
    programme = Programme(
        name=name,
        name_en=name_en,
        starts_on=starts_on,
        ends_on=ends_on,
        shares=shares,
        most_gpu_seconds=most_gpu_seconds,
        booking_approval_gpu_seconds=booking_approval_gpu_seconds,
        decision_days=decision_days,
    )
    session.add(programme)
    session.flush()
    session.add_all(ProgrammePool(programme_id=programme.id, pool_id=id) for id in pool_ids)
    session.flush()
    return programme


def fund(session: Session, programme_id: int, gpu_seconds: int, *, reference: str, by: Actor, now: dt.datetime) -> None:
    """The bureau adds hours. `reference` makes it happen once: the same reference again is refused by the ledger."""
    require(by, Permission.PROGRAMME_FUND)
    if lock(session, Programme, programme_id) is None:
        raise NotFound
    ledger.fund(session, programme_id, gpu_seconds, reference=f"programme:{programme_id}:{reference}", at=now, by=by)


def set_share(session: Session, programme_id: int, enterprise_id: int, shares: int) -> None:
    """The enterprise's shares under this programme in the fair tree."""
    row = session.get(EnterpriseShare, (programme_id, enterprise_id))
    if row is None:
        session.add(EnterpriseShare(programme_id=programme_id, enterprise_id=enterprise_id, shares=shares))
    else:
        row.shares = shares
    session.flush()


def offers(session: Session, programme_id: int, pool_id: int) -> bool:
    return (
        session.scalar(
            sa.select(ProgrammePool.pool_id).where(
                ProgrammePool.programme_id == programme_id, ProgrammePool.pool_id == pool_id
            )
        )
        is not None
    )
