"""What an enterprise's start page shows of its allocations: columns only, by statements that are made once.

To put a statement together takes longer than to run it, and everybody opens this page first.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..db import written
from ..ledger.queries import Balance, buckets_of
from ..pools.models import Pool
from ..programmes.models import Programme
from .models import Allocation, Report
from .states import WAITING, AllocationState, ReportKind, ReportState

MOST, MOST_ANSWERS, MOST_REPORTS = 100, 10, 25


class Own(NamedTuple):
    """An allocation on the start page of its enterprise. The balance of what was not awarded is zeros."""

    id: int
    state: AllocationState
    requested_gpu_seconds: int
    awarded_gpu_seconds: int | None
    decided_at: dt.datetime | None
    decision_reason: str | None
    due_at: dt.datetime
    ends_on: dt.date
    pool_name: str
    programme_name: str
    programme_name_en: str | None
    balance: Balance

    @property
    def programme(self) -> NamesOfProgramme:
        return NamesOfProgramme(self.programme_name, self.programme_name_en)


class NamesOfProgramme(NamedTuple):
    name: str
    name_en: str | None


_NAMES = (Pool.name, Programme.name, Programme.name_en)
_OWN = (
    sa.select(
        Allocation.id, Allocation.state, Allocation.requested_gpu_seconds, Allocation.awarded_gpu_seconds,
        Allocation.decided_at, Allocation.decision_reason, Allocation.due_at, Allocation.ends_on, *_NAMES,
    )
    .join(Programme, Programme.id == Allocation.programme_id)
    .join(Pool, Pool.id == Allocation.pool_id)
    .where(Allocation.enterprise_id == sa.bindparam("enterprise_id"))
)  # fmt: skip
_USABLE = (
    _OWN.add_columns(buckets_of(Allocation.id).label("buckets"))
    .where(Allocation.state == AllocationState.ACTIVE, Allocation.ends_on >= sa.bindparam("today"))
    .order_by(Allocation.ends_on, Allocation.id)
    .limit(written(MOST))
    .subquery()
)
_ANSWERS = (
    _OWN.add_columns(sa.cast(sa.null(), sa.JSON))
    .where(
        sa.or_(
            Allocation.state.in_(WAITING | {AllocationState.CHANGES_REQUESTED}),
            sa.and_(Allocation.state == AllocationState.DECLINED, Allocation.decided_at >= sa.bindparam("since")),
        )
    )
    .order_by(Allocation.id.desc())
    .limit(written(MOST_ANSWERS))
    .subquery()
)
_BOTH = sa.union_all(sa.select(_USABLE), sa.select(_ANSWERS))


def list_own(session: Session, enterprise_id: int, now: dt.datetime, since: dt.datetime) -> tuple[list[Own], list[Own]]:
    """What its members may book on now (active, not ended; the one that ends first comes first), and requests that are
    not decided, or were declined since then, the newest ten. One query."""
    asked = {"enterprise_id": enterprise_id, "today": clock.day_of(now), "since": since}
    rows = session.connection().execute(_BOTH, asked).all()
    found = [Own._make((*row[:-1], Balance.of(row.buckets))) for row in rows]
    usable = [own for own in found if own.state is AllocationState.ACTIVE]
    answers = [own for own in found if own.state is not AllocationState.ACTIVE]
    return sorted(usable, key=lambda own: (own.ends_on, own.id)), sorted(answers, key=lambda own: -own.id)


class DueReport(NamedTuple):
    id: int
    kind: ReportKind
    due_on: dt.date
    pool_name: str
    programme_name: str
    programme_name_en: str | None

    @property
    def programme(self) -> NamesOfProgramme:
        return NamesOfProgramme(self.programme_name, self.programme_name_en)


_IS_DUE = (
    Report.enterprise_id == sa.bindparam("enterprise_id"),
    Report.state.in_((ReportState.DUE, ReportState.RETURNED)),
    Report.due_on <= sa.bindparam("until"),
)
_DUE_REPORTS = (
    sa.select(Report.id, Report.kind, Report.due_on, *_NAMES)
    .join(Allocation, Allocation.id == Report.allocation_id)
    .join(Programme, Programme.id == Allocation.programme_id)
    .join(Pool, Pool.id == Allocation.pool_id)
    .where(*_IS_DUE)
    .order_by(Report.due_on, Report.id)
    .limit(written(MOST_REPORTS))
)


def a_report_is_due() -> sa.Exists:
    """Whether `list_reports_due` would find one, for a statement that asks for more."""
    return sa.exists().where(*_IS_DUE)


def list_reports_due(session: Session, enterprise_id: int, until: dt.date) -> list[DueReport]:
    """Reports that the enterprise has to hand in by that day or should have, what is due first on top."""
    rows = session.connection().execute(_DUE_REPORTS, {"enterprise_id": enterprise_id, "until": until}).all()
    return [DueReport(*row) for row in rows]
