"""Who may use how much of an allocation: members' sub-budgets, the manager's reserve, and the bureau's overdraft rules.

Owns: limits beside the balance, and what a booking may not go beyond. Does not own: the hours (ledger). A lowered limit
is asked by new bookings only: what runs or waits keeps its hold.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, must_see, require
from ..allocations.models import Allocation
from ..db import lock
from ..ledger.queries import balance
from ..lifecycle import note_event
from ..sentences import Refusal, Sentence
from .models import AllocationBudget, BudgetRules, SubBudget
from .states import Action

_OVERDRAFT = sa.select(BudgetRules.overdraft_percent).order_by(BudgetRules.id.desc()).limit(1).scalar_subquery()


def beside(query: sa.Select[Any]) -> sa.Select[Any]:
    """A query over allocations with what makes up `Allowed` behind its columns; `user_id` is bound to who books.

    Every booking asks for it, so it comes with what a booking's rules look at anyway.
    """
    mine = sa.and_(SubBudget.allocation_id == Allocation.id, SubBudget.user_id == sa.bindparam("user_id"))
    return (
        query.add_columns(
            AllocationBudget.reserve_gpu_seconds, AllocationBudget.blocked_at, SubBudget.gpu_seconds, _OVERDRAFT
        )
        .outerjoin(AllocationBudget, AllocationBudget.allocation_id == Allocation.id)
        .outerjoin(SubBudget, mine)
    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one person may book from one allocation, beside its balance."""

    reserve: int | None
    blocked_at: dt.datetime | None
    own: int | None  # the person's sub-budget
    overdraft_percent: int | None


def check(session: Session, allocation: Allocation, needed: int, allowed: Allowed, spent: Callable[[], int]) -> int:
    """Whether so many GPU-seconds may be booked, and how far the allocation may be overdrawn for it.

    `spent` tells what the person's bookings already hold and were charged; it is asked only when there is a sub-budget.
    Raises Refusal at `allocation_id` or `gpus`.
    """
    if allowed.blocked_at is not None:
        raise Refusal(Sentence("allocation-blocked"), "allocation_id")
    if allowed.own is not None and (used := spent()) + needed > allowed.own:
        raise Refusal(Sentence("over-sub-budget", limit=allowed.own, used=used, needed=needed), "gpus")
    if allowed.reserve:
        available = balance(session, allocation.id).available
        if available - needed < allowed.reserve:
            left = max(0, available - allowed.reserve)
            raise Refusal(Sentence("reserve-is-kept", needed=needed, left=left, reserve=allowed.reserve), "gpus")
        return 0
    return (allocation.awarded_gpu_seconds or 0) * (allowed.overdraft_percent or 0) // 100


def set_budgets(
    session: Session,
    allocation_id: int,
    *,
    of: Mapping[int, int | None],
    reserve: int,
    members: Iterable[int],
    by: Actor,
    now: dt.datetime,
) -> None:
    """A manager sets the limits of members (None: no limit) and what is kept back, all GPU-seconds.

    `members` are the people of the enterprise. Raises Refusal("budgets-exceed-award") at `reserve`.
    """
    require(by, Permission.BUDGET_SET)
    allocation = must_see(lock(session, Allocation, allocation_id), by)
    known = set(members)
    wanted = {user_id: limit for user_id, limit in of.items() if limit is not None and user_id in known}
    awarded = balance(session, allocation_id).awarded
    given = sum(wanted.values())
    if given + reserve > awarded:
        raise Refusal(Sentence("budgets-exceed-award", given=given + reserve, awarded=awarded), "reserve")
    session.execute(sa.delete(SubBudget).where(SubBudget.allocation_id == allocation_id))
    session.add_all(
        SubBudget(allocation_id=allocation_id, user_id=user_id, gpu_seconds=limit)
        for user_id, limit in sorted(wanted.items())
    )
    row = session.get(AllocationBudget, allocation_id)
    if row is None:
        row = AllocationBudget(allocation_id=allocation_id, reserve_gpu_seconds=0)
        session.add(row)
    row.reserve_gpu_seconds = reserve
    session.flush()
    why = Sentence("budgets-set", n=len(wanted), given=given + reserve, reserve=reserve)
    note_event(session, allocation, verb="budget", at=now, by=by, why=why)


@dataclass(frozen=True, slots=True)
class NewRules:
    """What an administrator typed: percentages with their actions, days, and the overdraft in percent of an award."""

    thresholds: tuple[tuple[int, Action], ...]
    days: tuple[int, ...]
    overdraft_percent: int


def set_rules(session: Session, rules: NewRules, *, why: str, by: Actor, now: dt.datetime) -> BudgetRules:
    """A new version, in force at once. Raises Refusal at `thresholds`, `days` or `why`."""
    require(by, Permission.RULES_SET)
    if len({percent for percent, _action in rules.thresholds}) < len(rules.thresholds):
        raise Refusal(Sentence("threshold-twice"), "thresholds")
    blocked = min((percent for percent, does in rules.thresholds if does is Action.BLOCK), default=None)
    if blocked is not None and blocked < 100 + rules.overdraft_percent and rules.overdraft_percent:
        raise Refusal(Sentence("blocked-before-overdraft", percent=blocked), "overdraft_percent")
    if not why.strip():
        raise Refusal(Sentence("rules-need-reason"), "why")
    row = BudgetRules(
        thresholds=[{"percent": percent, "action": action.value} for percent, action in sorted(rules.thresholds)],
        days=sorted(set(rules.days), reverse=True),
        overdraft_percent=rules.overdraft_percent,
        set_at=now,
        set_by=by.user_id,
        why=why.strip(),
    )
    session.add(row)
    session.flush()
    return row
