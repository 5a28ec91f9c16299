"""Subsidies on the way of a statement: taken off by itself at the month's end, given back with it, taken again."""

from __future__ import annotations

import dataclasses
import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units, verify
from compute_portal.access import SYSTEM
from compute_portal.ledger import queries as ledger_queries
from compute_portal.policy import Policy
from compute_portal.programmes import service as programmes
from compute_portal.programmes.rules import Rules
from compute_portal.statements import service as statements
from compute_portal.statements.models import Statement, StatementLine
from compute_portal.subsidies import service
from compute_portal.subsidies.models import Scheme, SubsidyUse
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.subsidies.test_service import open_scheme

YUAN = units.MICRO_PER_YUAN
AFTER = dt.datetime(2026, 12, 3, tzinfo=dt.UTC)


def test_a_month_is_closed_with_the_promised_subsidy_and_a_voucher_each_on_its_own_contract(
    cast: Cast, policy: Policy
) -> None:
    """10 GPU-hours at 16.50 each: under an award that promised 60%, and under one without a promise (voucher 50%)."""

    def promise(session: Session) -> None:
        current = Rules.from_json(programmes.newest_version(session, cast.programme).rules)
        changed = dataclasses.replace(current, subsidy_percent={"small": 60})
        programmes.revise(session, cast.programme, changed, why="补贴 60%", by=SYSTEM, now=NOW)
        service.cover_programmes(session, now=NOW)

    voucher, version = open_scheme(cast, budget_yuan=1_000, cap_micro_yuan=70 * YUAN)
    cast.database.transaction(promise)
    promised = cast.award(cast.yusheng, "lin", 1_000)
    for allocation in (promised, cast.allocation):
        booking = cast.submit(cast.flexible(gpus=2, hours=5, allocation_id=allocation), policy.bookings)
        walk.run(cast, booking, at=NOW + HOUR, until=NOW + 6 * HOUR)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=AFTER)

    def lines() -> list[tuple[int, int, int]]:
        with cast.database.read_only() as session:
            statement = session.scalars(sa.select(Statement)).one()
            query = sa.select(StatementLine).where(StatementLine.closing == statement.closing)
            return [
                (line.subsidy_micro_yuan, line.voucher_micro_yuan, line.amount_micro_yuan)
                for line in session.scalars(query.order_by(StatementLine.booking_id))
            ]

    expected = [(99 * YUAN, 0, 66 * YUAN), (0, 70 * YUAN, 95 * YUAN)]  # the voucher's half is cut by its cap
    assert lines() == expected

    def left() -> tuple[int, int]:
        with cast.database.read_only() as session:
            found = ledger_queries.money_left(session, [f"scheme:{voucher}", f"programme:{cast.programme}"])
        return found[f"scheme:{voucher}"] // YUAN, found[f"programme:{cast.programme}"] // YUAN

    assert left() == (930, -99)  # the promise is owed, also without a budget
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Statement.id)).one()
    run = cast.database.transaction
    run(lambda s: statements.return_(s, id, reason="单价待核对", by=cast.finance, now=AFTER))
    assert left() == (1_000, 0)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=AFTER + HOUR)
    assert (lines(), left()) == (expected, (930, -99))
    with cast.database.read_only() as session:
        per_scheme = dict(
            session.execute(
                sa.select(Scheme.id, sa.func.sum(SubsidyUse.amount_micro_yuan))
                .join(SubsidyUse, SubsidyUse.scheme_id == Scheme.id)
                .group_by(Scheme.id)
            ).all()
        )
        assert sorted(int(amount) // YUAN for amount in per_scheme.values()) == [70, 99]
        assert verify.run(session) == []
    assert version
