"""Claims for pages: an enterprise's own, and the queue of finance."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, must_see, visible
from ..enterprises.models import Enterprise
from ..statements.models import Statement, StatementLine
from ..subsidies.models import Scheme, SchemeVersion
from .models import Claim, ClaimLine
from .states import ClaimState

WAITING = (ClaimState.CONFIRMED, ClaimState.CHECKED, ClaimState.APPROVED)  # for somebody of finance


@dataclass(frozen=True, slots=True)
class Row:
    claim: Claim
    scheme: Scheme
    enterprise: Enterprise
    statement: Statement


def _rows() -> sa.Select[Claim, Scheme, Enterprise, Statement]:
    return (
        sa.select(Claim, Scheme, Enterprise, Statement)
        .join(Scheme, Scheme.id == Claim.scheme_id)
        .join(Enterprise, Enterprise.id == Claim.enterprise_id)
        .join(Statement, Statement.id == Claim.statement_id)
    )


def count_claims(session: Session, by: Actor, state: ClaimState | None = None) -> int:
    query = visible(sa.select(sa.func.count()).select_from(Claim), Claim.enterprise_id, by)
    return session.scalar(query if state is None else query.where(Claim.state == state)) or 0


def list_claims(
    session: Session, by: Actor, state: ClaimState | None = None, *, offset: int = 0, limit: int = 25
) -> list[Row]:
    """Newest first; of one state in the order in which they came."""
    query = visible(_rows(), Claim.enterprise_id, by)
    if state is None:
        query = query.order_by(Claim.id.desc())
    else:
        query = query.where(Claim.state == state).order_by(Claim.id)
    return [Row(*row) for row in session.execute(query.offset(offset).limit(limit))]


def counts(session: Session, by: Actor) -> dict[ClaimState, tuple[int, int]]:
    """How many are in each state, and over how much, micro-yuan."""
    query = sa.select(Claim.state, sa.func.count(), sa.func.sum(Claim.amount_micro_yuan)).group_by(Claim.state)
    rows = session.execute(visible(query, Claim.enterprise_id, by))
    return {state: (n, int(amount)) for state, n, amount in rows}


def get_claim(session: Session, claim_id: int, by: Actor) -> Row:
    """Raises NotFound for another enterprise's."""
    row = session.execute(_rows().where(Claim.id == claim_id)).one_or_none()
    must_see(None if row is None else row[0], by)
    assert row is not None
    return Row(*row)


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the statement in the claim."""

    line: StatementLine
    cost_micro_yuan: int
    rate_permille: int


def parts_of(session: Session, claim_id: int) -> list[Part]:
    rows = session.execute(
        sa.select(StatementLine, ClaimLine.cost_micro_yuan, ClaimLine.rate_permille)
        .join(ClaimLine, ClaimLine.statement_line_id == StatementLine.id)
        .where(ClaimLine.claim_id == claim_id)
        .order_by(StatementLine.position)
    )
    return [Part(line, cost, rate) for line, cost, rate in rows]


def version_of(session: Session, claim: Claim) -> SchemeVersion:
    return session.get_one(SchemeVersion, claim.version_id)
