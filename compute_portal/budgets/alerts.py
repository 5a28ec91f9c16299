"""What the timetable looks at every few minutes: thresholds that allocations have reached, and what follows from them.

Set-based: each kind is an INSERT … SELECT over the allocations that reached something and were not told, so that a pass
in which nothing happened stays in the database. The rows are what makes "once": they and the notices are written in one
transaction.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM
from ..allocations.models import Allocation
from ..allocations.states import AllocationState
from ..ledger import service as ledger
from ..ledger.models import Bucket, LedgerAccount, Unit
from ..lifecycle import move_to, note_event
from ..sentences import Sentence
from .models import Alert, AllocationBudget
from .queries import Rules
from .states import Action, AlertKind

# Only an allocation that runs is looked at; what was awarded is the sum of its buckets, the overdraft being negative.
_OWNER = sa.literal("allocation:") + sa.cast(Allocation.id, sa.String)


@dataclass(frozen=True, slots=True)
class News:
    """An allocation that reached something. `number` is the highest percentage, or the days that are left."""

    allocation_id: int
    enterprise_id: int
    kind: AlertKind
    number: int
    used: int = 0
    awarded: int = 0
    last: dt.date | None = None

    @property
    def sentence(self) -> Sentence:
        if self.kind is AlertKind.USED:
            return Sentence(
                "alert-used",
                allocation=self.allocation_id,
                percent=self.number,
                used=self.used,
                awarded=self.awarded,
            )
        assert self.last is not None
        return Sentence("alert-days", allocation=self.allocation_id, n=self.number, last=self.last)

    @property
    def key(self) -> str:
        return f"allocation:{self.allocation_id}:{self.kind}:{self.number}"


def look(session: Session, rules: Rules, *, now: dt.datetime) -> list[News]:
    """Write down every threshold that is reached and was not, and give what is worth telling, one per allocation."""
    return [*_used(session, rules, now), *_ending(session, rules, now)]


def _sums() -> sa.Subquery:
    """Per active allocation that used something: GPU-seconds used and awarded, in all."""
    used = orm.aliased(LedgerAccount)
    every = orm.aliased(LedgerAccount)
    return (
        sa.select(
            Allocation.id.label("id"),
            Allocation.enterprise_id.label("enterprise_id"),
            used.balance.label("used"),
            sa.func.sum(every.balance).label("awarded"),
        )
        .join(used, sa.and_(used.owner == _OWNER, used.bucket == Bucket.USED, used.balance > 0))
        .join(every, sa.and_(every.owner == used.owner, every.unit == Unit.GPU_SECONDS))
        .where(Allocation.state == AllocationState.ACTIVE)
        .group_by(Allocation.id, Allocation.enterprise_id, used.balance)
        .subquery()
    )


def _used(session: Session, rules: Rules, now: dt.datetime) -> list[News]:
    if not rules.thresholds:
        return []
    sums = _sums()
    percents = sa.union_all(*(sa.select(sa.literal(percent).label("number")) for percent, _ in rules.thresholds))
    each = percents.subquery()
    reached = sa.select(
        sums.c.id,
        sa.literal(AlertKind.USED, Alert.kind.type),
        each.c.number,
        sa.bindparam("now", now, type_=Alert.at.type),
    ).where(
        sums.c.used * 100 >= sums.c.awarded * each.c.number,
        sums.c.awarded > 0,
        ~sa.exists().where(
            Alert.allocation_id == sums.c.id, Alert.kind == AlertKind.USED, Alert.number == each.c.number
        ),
    )
    highest: dict[int, int] = {}
    for allocation_id, number in _insert(session, reached):
        highest[allocation_id] = max(number, highest.get(allocation_id, 0))
    if not highest:
        return []
    rows = session.execute(
        sa.select(sums.c.id, sums.c.enterprise_id, sums.c.used, sums.c.awarded)
        .where(sums.c.id.in_(highest))
        .order_by(sums.c.id)
    )
    return [
        News(id, enterprise_id, AlertKind.USED, highest[id], int(used), int(awarded))
        for id, enterprise_id, used, awarded in rows
    ]


def _ending(session: Session, rules: Rules, now: dt.datetime) -> list[News]:
    """The days before the end. Each number has its own stretch of last days, so that what was missed is not told late.

    An allocation that was awarded within the stretch is not told: its letter said so.
    """
    today = clock.day_of(now)
    found: list[News] = []
    for days, next_days in zip(rules.days, (*rules.days[1:], -1), strict=True):
        reached = sa.select(
            Allocation.id,
            sa.literal(AlertKind.DAYS, Alert.kind.type),
            sa.literal(days),
            sa.bindparam("now", now, type_=Alert.at.type),
        ).where(
            Allocation.state == AllocationState.ACTIVE,
            Allocation.ends_on <= today + dt.timedelta(days=days),
            Allocation.ends_on > today + dt.timedelta(days=next_days),
            ~sa.exists().where(
                Alert.allocation_id == Allocation.id, Alert.kind == AlertKind.DAYS, Alert.number == days
            ),
        )
        told = [allocation_id for allocation_id, _number in _insert(session, reached)]
        if not told:
            continue
        rows = session.execute(
            sa.select(Allocation.id, Allocation.enterprise_id, Allocation.ends_on, Allocation.decided_at)
            .where(Allocation.id.in_(told))
            .order_by(Allocation.id)
        )
        for id, enterprise_id, ends_on, decided_at in rows:
            awarded_on = clock.day_of(decided_at) if decided_at is not None else None
            if awarded_on is None or (ends_on - awarded_on).days > days:
                left = (ends_on - today).days
                found.append(News(id, enterprise_id, AlertKind.DAYS, left, last=ends_on))
    return found


def _insert(session: Session, reached: sa.Select[Any]) -> list[tuple[int, int]]:
    """(allocation, number) of what was written now; what another process wrote a moment ago is not ours to tell."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    columns = ["allocation_id", "kind", "number", "at"]
    statement = insert(Alert).from_select(columns, reached).on_conflict_do_nothing()
    rows = session.execute(statement.returning(Alert.allocation_id, Alert.number))
    return [(row.allocation_id, row.number) for row in rows]


@dataclass(frozen=True, slots=True)
class Changed:
    """Allocations by what holds for them since now."""

    slowed: Sequence[int]
    blocked: Sequence[int]
    freed: Sequence[int]
    to_end: Sequence[int]

    def __bool__(self) -> bool:
        return bool(self.slowed or self.blocked or self.freed or self.to_end)


def follow(session: Session, rules: Rules, *, now: dt.datetime) -> Changed:
    """Make what is slowed or blocked equal to what is used, in both directions; say which allocations are to end.

    Nothing that runs is touched. `to_end` are ended one by one, see `end`.
    """
    slow, block, end = (rules.lowest(action) for action in (Action.SLOW, Action.BLOCK, Action.END))
    acting = [percent for percent in (slow, block, end) if percent is not None]
    used = _percent_used(session, min(acting)) if acting else {}

    def over(percent: int | None) -> set[int]:
        return {id for id, is_used in used.items() if percent is not None and is_used >= percent}

    slowed, blocked = over(slow), over(block)
    marked = {
        row.allocation_id: row
        for row in session.scalars(
            sa.select(AllocationBudget).where(
                sa.or_(
                    AllocationBudget.slow_at.is_not(None),
                    AllocationBudget.blocked_at.is_not(None),
                    AllocationBudget.allocation_id.in_(slowed | blocked),
                )
            )
        )
    }
    changed = Changed(
        slowed=sorted(id for id in slowed if id not in marked or marked[id].slow_at is None),
        blocked=sorted(id for id in blocked if id not in marked or marked[id].blocked_at is None),
        freed=sorted(
            id
            for id, row in marked.items()
            if (row.slow_at and id not in slowed) or (row.blocked_at and id not in blocked)
        ),
        to_end=sorted(over(end)),
    )
    for id in sorted({*changed.slowed, *changed.blocked, *changed.freed}):
        row = marked.get(id)
        if row is None:
            row = AllocationBudget(allocation_id=id, reserve_gpu_seconds=0)
            session.add(row)
        row.slow_at = (row.slow_at or now) if id in slowed else None
        row.blocked_at = (row.blocked_at or now) if id in blocked else None
    session.flush()
    for verb, ids in (("slow", changed.slowed), ("block", changed.blocked), ("unblock", changed.freed)):
        _note(session, ids, verb, now)
    return changed


def _percent_used(session: Session, least: int) -> dict[int, int]:
    """How much of their awards allocations used that used at least so much, in whole percent."""
    sums = _sums()
    rows = session.execute(
        sa.select(sums.c.id, sums.c.used, sums.c.awarded).where(
            sums.c.used * 100 >= sums.c.awarded * least, sums.c.awarded > 0
        )
    )
    return {id: int(used) * 100 // int(awarded) for id, used, awarded in rows}


def _note(session: Session, ids: Iterable[int], verb: str, now: dt.datetime) -> None:
    for id in ids:
        note_event(session, session.get_one(Allocation, id), verb=verb, at=now, by=SYSTEM)


def end(session: Session, allocation_id: int, *, percent: int, now: dt.datetime) -> bool:
    """Its threshold says that it ends: what is left expires, what runs goes to its end. False if it is over already."""
    allocation = session.get_one(Allocation, allocation_id, with_for_update=True, populate_existing=True)
    if allocation.state is not AllocationState.ACTIVE:
        return False
    why = Sentence("ended-by-threshold", percent=percent)
    move_to(session, allocation, AllocationState.CLOSED, verb="end", at=now, by=SYSTEM, why=why)
    ledger.expire(session, allocation_id, at=now, by=SYSTEM)
    return True
