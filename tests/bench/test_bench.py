"""`make bench`: figures, not verdicts. Nothing here fails because a machine is slow.

BENCH_TRACE=path/to/trace.csv.gz simulates that trace on 48 nodes of 8 GPUs instead of the generated one.
"""

from __future__ import annotations

import csv
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from compute_portal import verify
from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.signin import service as signin
from scheduler.trace import COLUMNS
from tests.bench.yardstick import make_yardstick
from tests.cast import NOW, Cast, make_cast
from tests.house.town import PERSON_OF, ask, build, grow
from tests.web import Queries, make_app, set_now

pytestmark = pytest.mark.bench
ROOT = Path(__file__).resolve().parents[2]
JOBS = 2_000
RATE = re.compile(r"took\s+([\d,.]+) s, ([\d,.]+) bookings/s")
TIMES = 15
# The lists that people open all day, by who opens them.
LISTS = {
    Role.MANAGER: ("/start", "/allocations", "/bookings", "/usage", "/usage/records", "/statements"),
    Role.OPERATOR: ("/start", "/enterprises", "/allocations", "/bookings", "/pools", "/programmes"),
    Role.FINANCE: ("/start", "/statements", "/usage", "/usage/records", "/tariffs"),
}


# -- how many bookings a second


def test_the_rate_at_which_a_trace_is_simulated(tmp_path: Path) -> None:
    trace = Path(os.environ.get("BENCH_TRACE") or _generated(tmp_path / "generated.csv"))
    url = f"sqlite:///{tmp_path / 'simulated.sqlite'}"
    command = [sys.executable, "-m", "scheduler", "simulate", str(trace), "--database", url]
    environ = {**os.environ, "PORTAL_ENV": "test", "PORTAL_DATABASE_URL": url}
    before = _cpu_of_children()
    outcome = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    print(f"\npython -m scheduler simulate {trace.name}\n{outcome.stdout}", end="")
    print(f"cpu       {_cpu_of_children() - before:,.1f} s, the start included")
    assert outcome.returncode == 0, outcome.stderr
    found = RATE.search(outcome.stdout)
    assert found is not None and float(found[2].replace(",", "")) > 0
    database = Database(url)
    with database.read_only() as session:
        assert verify.run(session) == []
    database.dispose()


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _generated(path: Path) -> Path:
    """A week of eight tenants on 384 GPUs that are mostly busy; the same every time."""
    chance = random.Random(1)
    at = 0.0
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for number in range(JOBS):
            at += chance.expovariate(JOBS / (7 * 86_400))
            runtime = 60 + int(chance.lognormvariate(8.3, 1.4))
            walltime = int(runtime * chance.uniform(0.8, 3)) // 60 * 60 + 60
            gpus = chance.choice((1, 1, 1, 2, 4, 8, 8, 16, 32))
            tenant = chance.choices(range(8), (8, 5, 4, 3, 2, 2, 1, 1))[0]
            user = f"u{tenant}-{chance.randrange(4)}"
            rows.writerow([f"j{number}", int(at), gpus, runtime, walltime, f"tenant-{tenant}", user])
    return path


# -- what a page costs


@pytest.mark.parametrize("enterprises", [100, 1_000])
def test_what_the_lists_cost(database: Database, policy: Policy, enterprises: int) -> None:
    town = build(make_cast(database), policy)
    grow(town.cast, enterprises)
    app = make_app(database, policy)
    set_now(app, NOW)
    yardstick = make_yardstick()
    bare = _p50(lambda: _get(yardstick, "/", ""))
    store = "PostgreSQL, whose own CPU is not counted" if database.is_postgresql else "SQLite"
    print(f"\n{enterprises:,} enterprises on {store}: CPU of a list page, p50 of {TIMES}")
    print(f"  {'a bare Flask page of 25 rows':36}{bare:8.2f} ms")
    for role, addresses in LISTS.items():
        cookie = _cookie(app, town.cast.users[PERSON_OF[role]])
        for address in addresses:
            taken = _p50(lambda address=address, cookie=cookie: _get(app, address, cookie))  # type: ignore[misc]
            print(f"  {role.value:9} {address:26}{taken:8.2f} ms {taken / bare:6.1f} ×")
            assert taken > 0


# The bureau's pages over everything: however many there are, they cost about the same.
DESK = {
    Role.OPERATOR: (
        "/start", "/queue", "/queue?kind=request&mine=1", "/enterprises", "/allocations", "/allocations?tab=requests",
        "/bookings", "/enterprises/{enterprise_id}", "/enterprises/{enterprise_id}/overview", "/jobs",
    ),
    Role.AUDITOR: ("/history", "/history?kind=booking", "/announcements"),
}  # fmt: skip
MOST_TIMES, MOST_QUERIES = 2.0, 10
COSTS: dict[tuple[str, int], dict[str, tuple[float, int]]] = {}  # store and enterprises → what the pages cost


@pytest.mark.parametrize(("enterprises", "requests"), [(100, 200), (8_000, 40_000)])
def test_what_the_desk_costs(database: Database, policy: Policy, enterprises: int, requests: int) -> None:
    """Held against the same pages with a hundred enterprises: `<--` marks more than twice the CPU."""
    town = build(make_cast(database), policy)
    grow(town.cast, enterprises)
    ask(town.cast, requests - enterprises)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")  # as autovacuum does
    app = make_app(database, policy)
    set_now(app, NOW)
    store = "PostgreSQL, whose own CPU is not counted" if database.is_postgresql else "SQLite"
    costs = COSTS[store, enterprises] = _desk_costs(app, town.cast, database)
    print(f"\n{enterprises:,} enterprises, {requests:,} requests on {store}: CPU p50 of {TIMES}, queries")
    for page, (taken, queries) in costs.items():
        print(f"  {page:44}{taken:8.2f} ms {queries:4}")
        assert queries <= MOST_QUERIES, page
    few, many = (COSTS.get((store, number)) for number in (100, 8_000))
    if few is not None and many is not None:
        print(f"\n8,000 enterprises against 100 on {store}")
        for page, (taken, _queries) in many.items():
            times = taken / few[page][0]
            print(f"  {page:44}{times:8.1f} ×{' <--' if times > MOST_TIMES else ''}")


def _desk_costs(app: Flask, cast: Cast, database: Database) -> dict[str, tuple[float, int]]:
    """Milliseconds of CPU and queries of each page."""
    costs = {}
    for role, addresses in DESK.items():
        cookie = _cookie(app, cast.users[PERSON_OF[role]])
        for address in addresses:
            page = address.format(enterprise_id=cast.yusheng)
            taken = _p50(lambda page=page, cookie=cookie: _get(app, page, cookie))  # type: ignore[misc]
            with Queries(database) as queries:
                _get(app, page, cookie)
            costs[address] = taken, len(queries)
    return costs


def _cookie(app: Flask, user_id: int) -> str:
    portal = app.extensions["portal"]
    token = portal.database.transaction(
        lambda s: signin.start_session(s, user_id, enterprise_id=None, policy=portal.policy.sign_in, now=NOW)
    )
    return f"{portal.settings.cookie_name}={token}"


def _get(app: Flask, address: str, cookie: str) -> None:
    """One request straight into the WSGI app, without the costs of a test client."""
    path, _, query = address.partition("?")
    host = app.config.get("SERVER_NAME") or "localhost"
    environ = EnvironBuilder(path, query_string=query, base_url=f"http://{host}", headers=[("Cookie", cookie)])
    body, status, _headers = run_wsgi_app(app, environ.get_environ(), buffered=True)
    assert status.startswith("200"), f"{address}: {status}"
    b"".join(body)


def _p50(work: Callable[[], None]) -> float:
    """The middle of some runs, in milliseconds of this process's CPU, after one to warm up."""
    work()
    taken = []
    for _ in range(TIMES):
        began = time.process_time()
        work()
        taken.append((time.process_time() - began) * 1_000)
    return statistics.median(taken)
