"""The rules in force, and an allocation's budgets for its page."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .models import AllocationBudget, BudgetRules, SubBudget
from .states import Action


@dataclass(frozen=True, slots=True)
class Rules:
    """The bureau's rules, read. `thresholds` are (percent, action), lowest first; `days` the most first."""

    thresholds: tuple[tuple[int, Action], ...]
    days: tuple[int, ...]
    overdraft_percent: int

    def lowest(self, action: Action) -> int | None:
        """The percentage from which the action holds; None if no threshold has it."""
        return min((percent for percent, does in self.thresholds if does is action), default=None)


def read_rules(row: BudgetRules) -> Rules:
    return Rules(
        tuple(sorted((int(one["percent"]), Action(one["action"])) for one in row.thresholds)),
        tuple(sorted({int(day) for day in row.days}, reverse=True)),
        row.overdraft_percent,
    )


def rules_in_force(session: Session) -> Rules:
    return read_rules(session.scalars(sa.select(BudgetRules).order_by(BudgetRules.id.desc()).limit(1)).one())


def list_versions(session: Session, limit: int = 50) -> list[BudgetRules]:
    """Newest first: the first is in force."""
    return list(session.scalars(sa.select(BudgetRules).order_by(BudgetRules.id.desc()).limit(limit)))


@dataclass(frozen=True, slots=True)
class Budgets:
    """GPU-seconds: what the manager keeps back, and each member's limit."""

    reserve: int
    of: dict[int, int]
    slow: bool
    blocked: bool


def budgets_of(session: Session, allocation_id: int) -> Budgets:
    """Two queries."""
    row = session.get(AllocationBudget, allocation_id)
    limits = session.execute(
        sa.select(SubBudget.user_id, SubBudget.gpu_seconds).where(SubBudget.allocation_id == allocation_id)
    )
    of = {user_id: gpu_seconds for user_id, gpu_seconds in limits}
    if row is None:
        return Budgets(0, of, slow=False, blocked=False)
    return Budgets(row.reserve_gpu_seconds, of, slow=row.slow_at is not None, blocked=row.blocked_at is not None)
