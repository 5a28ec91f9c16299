"""Budgets in yuan: any past day recounted with plain SQL, the forecast by hand, the picture inside its box."""

from __future__ import annotations

import datetime as dt
import random

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal import clock, units, verify
from compute_portal.access import SYSTEM
from compute_portal.ledger.queries import Budget
from compute_portal.sentences import Refusal
from compute_portal.statements.models import Statement
from compute_portal.statements.states import StatementState
from compute_portal.subsidies import budgets, queries, service
from compute_portal.subsidies.budgets import Forecast, Point
from compute_portal.subsidies.rules import SchemeRules, Take
from compute_portal.subsidies.states import Mode, SchemeKind
from tests.cast import NOW, Cast

YUAN = units.MICRO_PER_YUAN
RULES = SchemeRules(1, SchemeKind.VOUCHER, Mode.DEDUCT, rate_permille=500)


def test_a_budget_at_any_past_day_is_what_its_entries_say(cast: Cast) -> None:
    """A year of random takes, returns and settlements; each month's end against a recount that knows no account."""
    rng = random.Random(11)
    days = [dt.date(2025, 11, 3) + dt.timedelta(days=9 * n) for n in range(40)]

    def year(session: Session) -> list[int]:
        ids = []
        for name in ("甲券", "乙券"):
            scheme = service.open_scheme(
                session, RULES, name=name, name_en=None, why="", from_on=dt.date(2025, 11, 1), by=SYSTEM, now=NOW
            )
            ids.append(scheme.id)
        versions = {id: queries.list_versions(session, id)[0].id for id in ids}
        open_ones: list[int] = []
        for n, day in enumerate(days):
            now = clock.start_of_day(day) + dt.timedelta(hours=rng.randrange(24))
            if n % 8 == 0:
                for id in ids:
                    service.fund(session, id, rng.randrange(1, 900_000) * YUAN, reference=f"{n}", by=SYSTEM, now=now)
            statement = Statement(
                number=f"S-{n}", enterprise_id=cast.yusheng, month=f"{2000 + n}-01", state=StatementState.DRAFT,
                opened_at=now, rule_version="1", tax_permille=60,
            )  # fmt: skip
            session.add(statement)
            session.flush()
            scheme_id = rng.choice(ids)
            try:
                with session.begin_nested():
                    service.take(
                        session, statement.id, cast.yusheng, f"{day:%Y-%m}",
                        [Take(versions[scheme_id], rng.choice([1, 1, 1, -1]) * rng.randrange(1, 60_000) * YUAN)],
                        by=SYSTEM, now=now,
                    )  # fmt: skip
                open_ones.append(statement.id)
            except (Refusal, sa.exc.IntegrityError):
                pass  # more than there is, or a credit of more than was ever given
            if open_ones and n % 3 == 0:
                one = open_ones.pop(rng.randrange(len(open_ones)))
                verb = service.spend if n % 2 else service.give_back
                verb(session, one, by=SYSTEM, now=now)
        return ids

    ids = cast.database.transaction(year)
    with cast.database.read_only() as session:
        schemes = [queries.get_scheme(session, id) for id in ids]
        for number in range(1, 13):
            on = queries.last_day(f"2026-{number:02}")
            for scheme, row in zip(schemes, budgets.report(session, schemes, on), strict=True):
                counted = {
                    bucket: sum(
                        sign * int(amount)
                        for sign, side in ((1, "to"), (-1, "from"))
                        for (amount,) in session.execute(
                            sa.text(
                                "SELECT e.amount FROM ledger_entries e JOIN ledger_accounts a "
                                f"ON a.id = e.{side}_account_id "
                                "WHERE a.owner = :owner AND a.bucket = :bucket AND a.unit = 'micro_yuan' "
                                "AND e.at < :until"
                            ).bindparams(sa.bindparam("until", clock.end_of_day(on), Statement.opened_at.type)),
                            {"owner": f"scheme:{scheme.id}", "bucket": bucket},
                        )
                    )
                    for bucket in ("pool", "held", "used", "overdraft")
                }
                assert row.budget.left == counted["pool"] + counted["overdraft"]
                assert (row.budget.committed, row.budget.spent) == (counted["held"], counted["used"])
                last = budgets.through_the_year(session, scheme, on)[-1]
                assert (last.day, last.budget) == (on, row.budget)
        found = {check.name: list(verify._rows(session, check.sql)) for check in verify.CHECKS if check.invariant == 2}
    assert {name: rows for name, rows in found.items() if rows} == {}


@pytest.mark.parametrize(
    ("lately", "on", "first_on", "taken", "runs_out_on"),
    [
        # 90 yuan in 90 days is one a day, for 31 days more
        (90, dt.date(2026, 11, 30), None, 500 + 31, dt.date(2026, 11, 30) + dt.timedelta(days=500)),
        (90, dt.date(2026, 12, 31), None, 500, dt.date(2026, 12, 31) + dt.timedelta(days=500)),
        (900, dt.date(2026, 11, 30), None, 500 + 310, dt.date(2027, 1, 19)),
        (90, dt.date(2026, 11, 30), dt.date(2026, 11, 21), 500 + 9 * 31, dt.date(2027, 1, 25)),  # ten days so far
        (0, dt.date(2026, 6, 30), None, 500, None),
        (-40, dt.date(2026, 6, 30), None, 500, None),
    ],
)
def test_the_forecast_goes_on_as_the_last_days_went(
    lately: int, on: dt.date, first_on: dt.date | None, taken: int, runs_out_on: dt.date | None
) -> None:
    budget = Budget(1_000 * YUAN, 200 * YUAN, 300 * YUAN)
    assert budgets.forecast(budget, lately * YUAN, on, first_on) == Forecast(taken * YUAN, runs_out_on)


def test_a_budget_that_is_owed_more_than_it_has_runs_out_on_no_day() -> None:
    owed = Budget(100 * YUAN, 120 * YUAN, 0)
    assert budgets.forecast(owed, 90 * YUAN, dt.date(2026, 12, 1)) == Forecast(150 * YUAN, None)


@given(
    amounts=st.lists(st.tuples(*(st.integers(0, 10**15) for _ in range(3))), min_size=1, max_size=6),
    ahead=st.integers(0, 10**15),
)
def test_the_plot_stays_in_its_box(amounts: list[tuple[int, int, int]], ahead: int) -> None:
    days = [dt.date(2025, 12, 31), *(dt.date(2026, n + 1, 3) for n in range(len(amounts)))]
    points = [Point(days[0], Budget())] + [Point(d, Budget(*a)) for d, a in zip(days[1:], amounts, strict=True)]
    plot = budgets.draw(points, Forecast(ahead, None))
    for text in (plot.spent, plot.taken, plot.limit, plot.ahead):
        for corner in text.split():
            x, y = (float(each) for each in corner.split(","))
            assert 0 <= x <= budgets.WIDTH
            assert 0 <= y <= budgets.HEIGHT
    assert [y for _amount, y in plot.lines] == [200, 100, 0]
    assert plot.months[0] == (1, 0)
