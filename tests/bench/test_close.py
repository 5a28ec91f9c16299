"""`make bench`: closing a month of 1,000 enterprises, 50,000 bookings and 1,000,000 usage records, on both stores.

Held against one INSERT … SELECT of the same lines into the same table in the same run. BENCH_CLOSE=50 takes fewer
enterprises.
"""

from __future__ import annotations

import datetime as dt
import os
import resource
import time

import pytest
import sqlalchemy as sa

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.statements import service
from compute_portal.statements.models import Statement, StatementLine
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.rules import SchemeRules
from compute_portal.subsidies.states import Mode, SchemeKind
from scheduler.month_end import AT_ONCE
from tests import walk
from tests.cast import HOUR, NOW, make_cast

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
ENTERPRISES = int(os.environ.get("BENCH_CLOSE", "1000"))
BOOKINGS, RECORDS = 50, 20  # of each enterprise, of each booking
DECEMBER = clock.month_bounds("2026-11")[1] + 3 * HOUR


def _copies(database: Database, table: str, row: int, count: int, **values: str) -> None:
    """Rows like one that is there, numbered k = 0 … count − 1, with these columns computed."""
    columns = [column["name"] for column in sa.inspect(database.engine).get_columns(table)]
    said = ", ".join(values.get(name, f"t.{name}") for name in columns)
    database.transaction(
        lambda session: (
            session.execute(
                sa.text(
                    f"INSERT INTO {table} ({', '.join(columns)}) "
                    f"WITH RECURSIVE n(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < {count - 1}) "
                    f"SELECT {said} FROM n CROSS JOIN {table} t WHERE t.id = {row} ORDER BY n.k"
                )
            )
            and None
        )
    )


def _fill(database: Database, policy: Policy) -> None:
    """One booking is walked down the path; the others are copies of its rows. Enterprises begin with number 1001."""
    cast = make_cast(database)
    booking = cast.submit(cast.flexible(gpus=4, hours=2), policy.bookings)
    walk.run(cast, booking, at=NOW, until=NOW + HOUR)
    hours = (
        "t.starts_at + k % {n} * interval '1 hour'"
        if database.is_postgresql
        else "strftime('%Y-%m-%d %H:%M:%S.000000', t.starts_at, '+' || (k % {n}) || ' hours')"
    ).format(n=RECORDS)
    ends = hours.replace("starts_at", "ends_at")
    all_bookings, per = ENTERPRISES * BOOKINGS, BOOKINGS * RECORDS
    _copies(
        database, "enterprises", cast.yusheng, ENTERPRISES, id="1001 + k", name="'企业' || k", name_en="NULL",
        credit_code="'B' || k",
    )  # fmt: skip
    _copies(database, "allocations", cast.allocation, ENTERPRISES, id="1001 + k", enterprise_id="1001 + k")
    _copies(
        database, "bookings", booking, all_bookings, id="1001 + k", enterprise_id=f"1001 + k / {BOOKINGS}",
        allocation_id=f"1001 + k / {BOOKINGS}",
    )  # fmt: skip
    _copies(
        database, "attempts", 1, all_bookings, id="1001 + k", booking_id="1001 + k", key="'bench-' || k",
    )  # fmt: skip
    ids = {
        "id": "1001 + k", "booking_id": f"1001 + k / {RECORDS}", "enterprise_id": f"1001 + k / {per}",
        "gpu_seconds": "t.gpu_seconds - k % 7",
    }  # fmt: skip
    _copies(
        database, "usage_records", 1, all_bookings * RECORDS, source="'bench-' || k", attempt_id=ids["booking_id"],
        allocation_id=ids["enterprise_id"], starts_at=hours, ends_at=ends, **ids,
    )  # fmt: skip
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO billing_months (enterprise_id, month, state) "
                "SELECT id, '2026-11', 'open' FROM enterprises WHERE id > 1000"
            )
        )
    _copies(
        database, "charges", 1, all_bookings * RECORDS, reference="'bench:' || k", usage_record_id="1001 + k", **ids
    )
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")  # as autovacuum does
    if os.environ.get("BENCH_SUBSIDY"):
        rules = SchemeRules(1, SchemeKind.PROGRAMME, Mode.DEDUCT, rate_permille=300, excluded_costs=())
        scheme = database.transaction(
            lambda s: (
                subsidies.open_scheme(
                    s, rules, name="计划", name_en=None, why="bench", from_on=dt.date(2026, 1, 1),
                    programme_id=cast.programme, by=SYSTEM, now=NOW,
                ).id
            )
        )  # fmt: skip
        database.transaction(lambda s: subsidies.fund(s, scheme, 10**15, reference="1", by=SYSTEM, now=NOW))


YARDSTICK = """
INSERT INTO statement_lines (statement_id, closing, position, booking_id, kind, tariff_id, discount_id, weight_milli,
  adjustment, gpu_seconds, price_micro_yuan, contract_price_micro_yuan, list_micro_yuan, amount_micro_yuan)
SELECT s.id, 99, ROW_NUMBER() OVER (PARTITION BY s.id ORDER BY g.booking_id), g.booking_id, g.kind, g.tariff_id,
  g.discount_id, g.weight_milli, g.adjustment, g.gpu_seconds, t.price_micro_yuan, t.price_micro_yuan,
  (2 * g.gpu_seconds * g.weight_milli * t.price_micro_yuan + 36000000000) / 72000000000 * 10000,
  (2 * g.gpu_seconds * g.weight_milli * t.price_micro_yuan + 36000000000) / 72000000000 * 10000
FROM (
  SELECT enterprise_id, booking_id, kind, tariff_id, discount_id, weight_milli, adjustment,
    CAST(SUM(gpu_seconds) AS bigint) AS gpu_seconds
  FROM charges WHERE billed_in = '2026-11' AND enterprise_id > 1000
  GROUP BY enterprise_id, booking_id, kind, tariff_id, discount_id, weight_milli, adjustment
) g JOIN tariffs t ON t.id = g.tariff_id JOIN statements s ON s.enterprise_id = g.enterprise_id AND s.month = '2026-11'
"""


def test_closing_a_month(database: Database, policy: Policy) -> None:
    _fill(database, policy)
    with database.read_only() as session:
        ids = [id for id in service.list_to_close(session, "2026-11") if id > 1000]
    assert len(ids) == ENTERPRISES

    def close() -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(ids), AT_ONCE):
            some = ids[first : first + AT_ONCE]
            database.transaction(
                lambda s, some=some: (
                    service.close_months(  # type: ignore[misc]
                        s, some, "2026-11", policy=policy.statements, by=SYSTEM, now=DECEMBER
                    )
                    and None
                )
            )
        return time.perf_counter() - began, time.process_time() - cpu

    taken, cpu = close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    again, _ = close()
    began = time.perf_counter()
    database.transaction(lambda s: s.execute(sa.text(YARDSTICK)) and None)
    yardstick = time.perf_counter() - began
    with database.read_only() as session:
        kept, same, net, lines = session.execute(
            sa.select(
                sa.func.sum(sa.case((StatementLine.closing == 1, 1), else_=0)),
                sa.func.sum(sa.case((StatementLine.closing == 99, 1), else_=0)),
                sa.func.sum(sa.case((StatementLine.closing == 1, StatementLine.list_micro_yuan), else_=0)),
                sa.func.sum(sa.case((StatementLine.closing == 99, StatementLine.list_micro_yuan), else_=0)),
            )
        ).one()
        closed = session.scalar(
            sa.select(sa.func.count()).where(Statement.closing == 1, Statement.enterprise_id > 1000)
        )
    store = "PostgreSQL, whose own CPU is not counted" if database.is_postgresql else "SQLite"
    print(f"\nclosing {ENTERPRISES:,} enterprises, {kept:,} lines of {kept * RECORDS:,} records, {store}")
    print(f"  one INSERT … SELECT of the lines {yardstick:8.2f} s")
    print(f"  closing                          {taken:8.2f} s {taken / yardstick:6.1f} ×   cpu {cpu:.2f} s")
    print(f"  closing again                    {again:8.2f} s")
    print(f"  most memory of this process      {memory:8.0f} MB")
    assert (kept, closed) == (ENTERPRISES * BOOKINGS, ENTERPRISES) and (same, lines) == (kept, net)
    assert again < taken and memory < 512
