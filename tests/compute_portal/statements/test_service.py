"""A month as a statement: lines from charges, rounded once, taxed once, frozen once."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units, verify
from compute_portal.lifecycle import list_history
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.statements import queries, service
from compute_portal.statements.models import Statement, StatementLine
from compute_portal.statements.states import StatementState
from compute_portal.usage.models import BillingMonth, MonthState
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.together import at_once

DECEMBER = dt.datetime(2026, 11, 30, 18, 0, tzinfo=dt.UTC)  # two hours into it, in Shanghai


def a_run(cast: Cast, policy: Policy, *, gpus: int, at: dt.datetime, seconds: int) -> int:
    booking_id = cast.submit(cast.flexible(gpus=gpus, hours=6), policy.bookings)
    walk.run(cast, booking_id, at=at, until=at + dt.timedelta(seconds=seconds))
    return booking_id


def draft(cast: Cast, policy: Policy) -> int:
    return cast.database.transaction(
        lambda s: service.open_draft(s, cast.yusheng, "2026-11", policy=policy.statements, by=cast.finance, now=NOW).id
    )


def lines_and_amount(session: Session, id: int, cast: Cast) -> tuple[list[queries.Line], int]:
    return queries.frozen_lines(session, id), queries.get_sheet(session, id, cast.finance).statement.amount_micro_yuan


def test_a_draft_adds_up_charges_by_booking_and_rounds_each_line_once(cast: Cast, policy: Policy) -> None:
    first = a_run(cast, policy, gpus=3, at=NOW, seconds=4 * 3600 + 1)
    second = a_run(cast, policy, gpus=1, at=NOW, seconds=7)
    id = draft(cast, policy)
    with cast.database.read_only() as session:
        statement = queries.get_sheet(session, id, cast.finance).statement
        lines = queries.lines_of(session, statement)
        totals = queries.totals_of(statement, lines)
    assert [line.booking_id for line in lines] == [first, second]
    assert [line.gpu_seconds for line in lines] == [3 * 14_401, 7]
    # 43,203 s × 16.50 ÷ 3,600 = 198.01375 → 198.01; 7 s × 16.50 ÷ 3,600 = 0.032083 → 0.03
    assert [line.amount_micro_yuan for line in lines] == [units.parse_yuan("198.01"), units.parse_yuan("0.03")]
    assert totals.gpu_seconds == 43_210
    assert totals.amount_micro_yuan == units.parse_yuan("198.04")
    assert totals.tax_micro_yuan == units.parse_yuan("11.88")  # 6 % of 198.04 = 11.8824
    assert totals.payable_micro_yuan == units.parse_yuan("209.92")


@pytest.mark.parametrize(
    ("amount", "tax"), [("0.08", "0.00"), ("0.09", "0.01"), ("0.25", "0.02"), ("8.25", "0.50"), ("8.75", "0.53")]
)
def test_tax_is_rounded_half_up_once_on_the_total(amount: str, tax: str) -> None:
    # 0.25 × 6 % = 0.015 → 0.02; 8.25 × 6 % = 0.495 → 0.50; 8.75 × 6 % = 0.525 → 0.53
    assert units.tax_micro_yuan(units.parse_yuan(amount), 60) == units.parse_yuan(tax)


def test_closing_freezes_what_the_draft_said(cast: Cast, policy: Policy) -> None:
    a_run(cast, policy, gpus=3, at=NOW, seconds=4 * 3600 + 1)
    a_run(cast, policy, gpus=1, at=NOW, seconds=7)
    id = draft(cast, policy)
    with cast.database.read_only() as session:
        before = queries.lines_of(session, queries.get_sheet(session, id, cast.finance).statement)
    assert walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER) == id
    with cast.database.read_only() as session:
        statement = queries.get_sheet(session, id, cast.finance).statement
        assert statement.state is StatementState.IN_REVIEW and statement.closed_at == DECEMBER
        assert queries.lines_of(session, statement) == before
        assert statement.amount_micro_yuan == units.parse_yuan("198.04")
        assert statement.tax_micro_yuan == units.parse_yuan("11.88")
        assert statement.rule_version == policy.statements.rule_version
        assert session.get_one(BillingMonth, (cast.yusheng, "2026-11")).state is MonthState.CLOSED
        assert [row.verb for row in list_history(session, Statement.LIFE, id)] == ["close", "open"]
        assert verify.run(session) == []


def test_a_month_that_is_not_over_is_not_closed(cast: Cast, policy: Policy) -> None:
    last_second = dt.datetime(2026, 11, 30, 15, 59, 59, tzinfo=dt.UTC)
    with pytest.raises(Refusal) as refused:
        walk.close(cast, cast.yusheng, "2026-11", policy, now=last_second)
    assert refused.value.sentence.id == "month-not-over"
    walk.close(cast, cast.yusheng, "2026-11", policy, now=last_second + dt.timedelta(seconds=1))


def test_a_month_with_incomplete_metering_is_not_closed_and_nothing_is_left_behind(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=2, hours=5), policy.bookings)
    key = walk.start(cast, booking_id, at=NOW)
    walk.meter(cast, key, now=NOW + HOUR, until=NOW + HOUR)
    with pytest.raises(Refusal) as refused:
        walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)
    assert refused.value.sentence.id == "metering-incomplete" and refused.value.sentence["n"] == 1
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(StatementLine)) == 0
        assert session.get_one(BillingMonth, (cast.yusheng, "2026-11")).state is MonthState.OPEN
    walk.end(cast, key, at=NOW + 5 * HOUR)
    walk.meter(cast, key, now=DECEMBER)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)


def test_a_run_that_goes_on_into_the_next_month_is_closed_once_it_is_metered_to_the_border(
    cast: Cast, policy: Policy
) -> None:
    border = dt.datetime(2026, 11, 30, 16, 0, tzinfo=dt.UTC)
    cast.now = border - HOUR
    booking_id = cast.submit(cast.flexible(gpus=2, hours=5), policy.bookings)
    key = walk.start(cast, booking_id, at=border - HOUR)
    walk.meter(cast, key, now=border + HOUR, until=border + HOUR)
    id = walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)
    with cast.database.read_only() as session:
        assert walk.statement(session, id).gpu_seconds == units.gpu_seconds(2)


def test_closing_twice_or_by_two_people_at_once_makes_one_statement(cast: Cast, policy: Policy) -> None:
    a_run(cast, policy, gpus=3, at=NOW, seconds=3600)
    results = at_once(*([lambda: walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)] * 6))
    assert len(set(results)) == 1 and isinstance(results[0], int), results
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Statement)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(StatementLine)) == 1
        assert [row.verb for row in list_history(session, Statement.LIFE, results[0])] == ["close", "open"]
    later = walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER + 24 * HOUR)
    with cast.database.read_only() as session:
        assert later == results[0] and walk.statement(session, later).closed_at == DECEMBER


def test_a_closed_statement_stays_as_it_is_when_late_use_arrives(cast: Cast, policy: Policy) -> None:
    a_run(cast, policy, gpus=3, at=NOW, seconds=3600)
    id = walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)
    with cast.database.read_only() as session:
        before = lines_and_amount(session, id, cast)
    late = a_run(cast, policy, gpus=2, at=NOW + HOUR, seconds=3600)
    with cast.database.read_only() as session:
        assert before == lines_and_amount(session, id, cast)
        [line] = queries.draft_lines(session, cast.yusheng, "2026-12")
        assert line.booking_id == late and line.adjustment


def test_statement_lines_can_neither_be_changed_nor_deleted(cast: Cast, policy: Policy) -> None:
    a_run(cast, policy, gpus=3, at=NOW, seconds=3600)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)
    for sql in ("UPDATE statement_lines SET amount_micro_yuan = 0", "DELETE FROM statement_lines"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            cast.database.transaction(lambda s, sql=sql: s.execute(sa.text(sql)))


def test_a_months_close_finds_every_enterprise_with_charges_or_a_draft(cast: Cast, policy: Policy) -> None:
    a_run(cast, policy, gpus=3, at=NOW, seconds=3600)
    cast.database.transaction(
        lambda s: service.open_draft(s, cast.luyu, "2026-11", policy=policy.statements, by=cast.finance, now=NOW).id
    )
    with cast.database.read_only() as session:
        assert service.list_to_close(session, "2026-11") == [cast.yusheng, cast.luyu]
    walk.close(cast, cast.yusheng, "2026-11", policy, now=DECEMBER)
    with cast.database.read_only() as session:
        assert service.list_to_close(session, "2026-11") == [cast.luyu]
