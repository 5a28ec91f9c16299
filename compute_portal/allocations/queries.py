"""Allocations for pages and forms, each list one query, with balances."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Columns, must_see, visible
from ..db import one_page
from ..enterprises.models import Enterprise
from ..enterprises.queries import EnterpriseName
from ..ledger.models import Bucket, LedgerAccount, LedgerEntry
from ..ledger.queries import Balance, buckets_of
from ..ledger.service import allocation as ledger_owner
from ..lifecycle import Lifecycle
from ..pools.models import Pool
from ..programmes.models import Programme
from ..programmes.queries import ProgrammeName
from ..sentences import NotFound
from ..signin.models import User
from ..signin.queries import PersonName
from .conflicts import refuse, tie
from .models import IS_CURRENT, IS_REQUEST, IS_WAITING, Allocation, AllocationChange, Report
from .review_models import RequestStep
from .states import LIFE, WAITING, WRITABLE, AllocationState, ChangeState, ReportState

PAGE = 25
CURRENT = frozenset({AllocationState.ACTIVE, AllocationState.SUSPENDED})
REQUESTS = WAITING | {AllocationState.DRAFT, AllocationState.CHANGES_REQUESTED}
ENDED = frozenset(AllocationState) - CURRENT - REQUESTS
OPEN_REPORTS = frozenset({ReportState.DUE, ReportState.RETURNED, ReportState.HANDED_IN})
TABS: dict[str, frozenset[AllocationState]] = {"active": CURRENT, "requests": REQUESTS, "ended": ENDED}


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
    rows = session.execute(query.add_columns(buckets_of(Allocation.id)))
    return [AllocationRow(a, programme, pool, firm, Balance.of(buckets)) for a, programme, pool, firm, buckets in rows]


def _joined() -> sa.Select[Allocation, Programme, Pool, Enterprise]:
    return (
        sa.select(Allocation, Programme, Pool, Enterprise)
        .join(Programme, Programme.id == Allocation.programme_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
    )


def get_row(session: Session, allocation_id: int, by: Actor) -> AllocationRow:
    """Raises NotFound, or for the bureau's people Refusal where a conflict of interest closes it."""
    bound = tie(by.user_id) if by.is_bureau else sa.null()
    row = _joined().add_columns(bound, buckets_of(Allocation.id)).where(Allocation.id == allocation_id)
    found = session.execute(row).first()
    seen = must_see(found[0] if found is not None else None, by)
    if by.is_bureau and seen.state is AllocationState.DRAFT:
        raise NotFound
    assert found is not None
    allocation, programme, pool, firm, bound_by, buckets = found
    refuse(bound_by)
    return AllocationRow(allocation, programme, pool, firm, Balance.of(buckets))


@dataclass(frozen=True, slots=True)
class Listed:
    """An allocation in a list: what the list shows of it. The balance of what was not awarded is zeros."""

    LIFE: ClassVar[Lifecycle] = LIFE
    id: int
    state: AllocationState
    requested_gpu_seconds: int
    awarded_gpu_seconds: int | None
    due_at: dt.datetime
    ends_on: dt.date
    pool_name: str
    programme: ProgrammeName
    enterprise: EnterpriseName
    balance: Balance


_LISTED = (
    sa.select(
        Allocation.id,
        Allocation.state,
        Allocation.requested_gpu_seconds,
        Allocation.awarded_gpu_seconds,
        Allocation.due_at,
        Allocation.ends_on,
        Pool.name,
        Programme.id,
        Programme.name,
        Programme.name_en,
        Enterprise.id,
        Enterprise.name,
        Enterprise.name_en,
    )
    .join(Programme, Programme.id == Allocation.programme_id)
    .join(Pool, Pool.id == Allocation.pool_id)
    .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
)
_BY_STATE = sa.select(Allocation.state, sa.func.count()).group_by(Allocation.state)


def _listed(rows: Iterable[Sequence[Any]]) -> list[Listed]:
    return [
        Listed(
            id, state, requested, awarded, due_at, ends_on, pool, ProgrammeName(*names[:3]),
            EnterpriseName(*names[3:]), Balance.of(buckets),
        )
        for id, state, requested, awarded, due_at, ends_on, pool, *names, buckets in rows
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Which:
    """What a list is narrowed to; None leaves it open."""

    programme_id: int | None = None
    enterprise_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """All that the text of a list's statement depends on: each is made once."""

    to_own: bool  # to the actor's enterprise
    to_submitted: bool  # what an enterprise has not submitted is nobody else's business
    to_programme: bool
    to_enterprise: bool

    def narrow(self, query: sa.Select[*Columns]) -> sa.Select[*Columns]:
        if self.to_own:
            query = query.where(Allocation.enterprise_id == sa.bindparam("own_id"))
        if self.to_submitted:
            query = query.where(Allocation.state != AllocationState.DRAFT)
        if self.to_programme:
            query = query.where(Allocation.programme_id == sa.bindparam("programme_id"))
        if self.to_enterprise:
            query = query.where(Allocation.enterprise_id == sa.bindparam("enterprise_id"))
        return query


def _narrowed(which: Which, by: Actor) -> tuple[_Narrowed, dict[str, Any]]:
    narrowed = _Narrowed(
        by is not SYSTEM and not by.is_bureau, by.is_bureau, which.programme_id is not None,
        which.enterprise_id is not None,
    )  # fmt: skip
    return narrowed, {
        "own_id": by.enterprise_id,
        "programme_id": which.programme_id,
        "enterprise_id": which.enterprise_id,
    }


@cache
def _counting(narrowed: _Narrowed) -> sa.Select[*tuple[Any, ...]]:
    return narrowed.narrow(_BY_STATE)


def count_by_tab(session: Session, by: Actor, which: Which = Which()) -> dict[str, int]:
    """How many are active, requests, ended: one query."""
    narrowed, values = _narrowed(which, by)
    rows = session.connection().execute(_counting(narrowed), values).all()
    return {tab: sum(n for state, n in rows if state in states) for tab, states in TABS.items()}


@cache
def _listing(
    narrowed: _Narrowed, states: frozenset[AllocationState], size: int, *, is_first: bool
) -> sa.Select[*tuple[Any, ...]]:
    in_them = {REQUESTS: IS_REQUEST, CURRENT: IS_CURRENT}.get(states)
    query = narrowed.narrow(_LISTED.add_columns(buckets_of(Allocation.id)))
    query = query.where(Allocation.state.in_(states) if in_them is None else in_them)
    order = (Allocation.due_at, Allocation.id) if states == REQUESTS else (Allocation.id.desc(),)
    return one_page(query.order_by(*order), size, is_first=is_first)


def list_allocations(
    session: Session,
    by: Actor,
    *,
    states: frozenset[AllocationState],
    which: Which = Which(),
    offset: int = 0,
    limit: int = PAGE,
) -> list[Listed]:
    """Newest first; requests by the time at which their decision is promised."""
    narrowed, values = _narrowed(which, by)
    statement = _listing(narrowed, states, limit, is_first=not offset)
    rows = session.connection().execute(statement, values | {"offset": offset}).all()
    return _listed(rows)


def list_others(session: Session, allocation: Allocation, limit: int = 100) -> list[AllocationRow]:
    """What else the same enterprise was awarded, newest first: what an operator weighs."""
    return _rows(
        session,
        _joined()
        .where(
            Allocation.enterprise_id == allocation.enterprise_id,
            Allocation.id != allocation.id,
            Allocation.awarded_gpu_seconds.is_not(None),
        )
        .order_by(Allocation.id.desc())
        .limit(limit),
    )


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A movement of an allocation's hours. `sign` is +1 into the bucket asked for, -1 out of it, 0 if none was."""

    entry: LedgerEntry
    source: Bucket
    target: Bucket
    sign: int
    by: PersonName | None


def count_entries(session: Session, allocation_id: int, bucket: Bucket | None = None) -> int:
    query = sa.select(sa.func.count()).select_from(LedgerEntry).where(_moves(allocation_id, bucket))
    return session.scalar(query) or 0


def list_entries(
    session: Session, allocation_id: int, bucket: Bucket | None = None, *, offset: int = 0
) -> tuple[list[EntryRow], int]:
    """The ledger entries that an allocation's numbers are made of, newest first; of one bucket if asked for.

    One page, and how many there are in all: 0 where the page lies beyond the last.
    """
    source, target = orm.aliased(LedgerAccount), orm.aliased(LedgerAccount)
    owner = ledger_owner(allocation_id)
    rows = session.execute(
        sa.select(
            LedgerEntry, source.bucket, target.owner, target.bucket, User.name, User.name_en, sa.func.count().over()
        )
        .outerjoin(User, User.id == LedgerEntry.by_id)
        .join(source, source.id == LedgerEntry.from_account_id)
        .join(target, target.id == LedgerEntry.to_account_id)
        .where(_moves(allocation_id, bucket))
        .order_by(LedgerEntry.id.desc())
        .limit(PAGE)
        .offset(offset)
    )
    found, total = [], 0
    for entry, from_bucket, to_owner, to_bucket, name, name_en, total in rows:  # noqa: B007, each row says the total
        sign = 0
        if bucket is not None:
            sign = 1 if (to_owner, to_bucket) == (owner, bucket) else -1
        person = PersonName(entry.by_id, name, name_en) if entry.by_id is not None and name else None
        found.append(EntryRow(entry, from_bucket, to_bucket, sign, person))
    return found, total


def _moves(allocation_id: int, bucket: Bucket | None) -> sa.ColumnElement[bool]:
    """Entries from or to the allocation's accounts. An entry inside the allocation is found once."""
    ours = sa.select(LedgerAccount.id).where(LedgerAccount.owner == ledger_owner(allocation_id))
    if bucket is not None:
        ours = ours.where(LedgerAccount.bucket == bucket)
    return sa.or_(LedgerEntry.from_account_id.in_(ours), LedgerEntry.to_account_id.in_(ours))


# -- changes, reports, and everything that is open --------------------------------------------------------------------


def get_change(session: Session, change_id: int, by: Actor) -> AllocationChange:
    return must_see(session.get(AllocationChange, change_id), by)


def get_report(session: Session, report_id: int, by: Actor) -> Report:
    return must_see(session.get(Report, report_id), by)


def list_changes(session: Session, allocation_id: int) -> list[AllocationChange]:
    """Newest first."""
    return list(
        session.scalars(
            sa.select(AllocationChange)
            .where(AllocationChange.allocation_id == allocation_id)
            .order_by(AllocationChange.id.desc())
            .limit(PAGE)
        )
    )


def list_reports(session: Session, allocation_id: int) -> list[Report]:
    return list(session.scalars(sa.select(Report).where(Report.allocation_id == allocation_id).order_by(Report.due_on)))


def list_receivers(session: Session, allocation: Allocation, now: dt.datetime) -> list[AllocationRow]:
    """Own active allocations of the same programme that hours may go to."""
    return _rows(
        session,
        _joined()
        .where(
            Allocation.enterprise_id == allocation.enterprise_id,
            Allocation.programme_id == allocation.programme_id,
            Allocation.id != allocation.id,
            Allocation.state == AllocationState.ACTIVE,
            Allocation.ends_on >= clock.day_of(now),
        )
        .order_by(Allocation.ends_on, Allocation.id)
        .limit(PAGE),
    )


@dataclass(frozen=True, slots=True)
class OpenItem:
    """Something of an enterprise that is not finished: what it is, who has the ball, until when.

    `thing` is an Allocation, AllocationChange or Report; `ours` when the enterprise has the ball. `until` is a day of a
    report or the instant of a promised decision; a draft has none.
    """

    thing: Allocation | AllocationChange | Report
    allocation: Allocation
    programme: Programme
    pool: Pool
    enterprise: Enterprise
    ours: bool
    until: dt.datetime | None
    step: RequestStep | None = None


MOST_OPEN = 200


def list_open_items(session: Session, by: Actor) -> list[OpenItem]:
    """Requests, changes and reports that are open, what is due first on top. Three queries, at most 200 of each."""
    open_steps = sa.and_(
        RequestStep.allocation_id == Allocation.id, RequestStep.opened_at.is_not(None), RequestStep.done_at.is_(None)
    )
    items = [
        OpenItem(
            a, a, programme, pool, firm, a.state in WRITABLE,
            None if a.state in WRITABLE else a.due_at, step,
        )
        for a, programme, pool, firm, step in session.execute(
            visible(_joined(), Allocation.enterprise_id, by)
            .add_columns(RequestStep)
            .outerjoin(RequestStep, open_steps)
            .where(Allocation.state.in_(REQUESTS - {AllocationState.DRAFT} if by.is_bureau else REQUESTS))
            .order_by(Allocation.due_at, Allocation.id)
            .limit(MOST_OPEN)
        )
    ]  # fmt: skip
    items += [
        OpenItem(change, a, programme, pool, firm, False, change.due_at)
        for a, programme, pool, firm, change in session.execute(
            visible(_joined(), Allocation.enterprise_id, by)
            .add_columns(AllocationChange)
            .join(AllocationChange, AllocationChange.allocation_id == Allocation.id)
            .where(AllocationChange.state == ChangeState.SUBMITTED)
            .order_by(AllocationChange.due_at, AllocationChange.id)
            .limit(MOST_OPEN)
        )
    ]
    items += [
        OpenItem(
            report, a, programme, pool, firm, report.state is not ReportState.HANDED_IN,
            None if report.state is ReportState.HANDED_IN else clock.end_of_day(report.due_on),
        )
        for a, programme, pool, firm, report in session.execute(
            visible(_joined(), Allocation.enterprise_id, by)
            .add_columns(Report)
            .join(Report, Report.allocation_id == Allocation.id)
            .where(Report.state.in_(OPEN_REPORTS))
            .order_by(Report.due_on, Report.id)
            .limit(MOST_OPEN)
        )
    ]  # fmt: skip
    never = dt.datetime.max.replace(tzinfo=dt.UTC)
    return sorted(items, key=lambda item: (item.until or never, item.thing.LIFE.kind, item.thing.id))


_TO_DECIDE = (
    _LISTED.add_columns(sa.null())
    .where(IS_WAITING)
    .order_by(Allocation.due_at, Allocation.id)
    .limit(sa.bindparam("limit"))
)  # fmt: skip


def list_to_decide(session: Session, limit: int = PAGE) -> list[Listed]:
    """Requests that wait for an operator, by due time. One query: nothing is in the ledger yet."""
    return _listed(session.connection().execute(_TO_DECIDE, {"limit": limit}).all())


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
