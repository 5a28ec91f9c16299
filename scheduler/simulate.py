"""`python -m scheduler simulate TRACE`: a real workload through the real verbs, in virtual time, on an empty database.

Each tenant of the trace is an enterprise with one allocation, each job a flexible booking; fixed bookings of the
`--bookings` file are those of one enterprise more. The database stays for looking at: set PORTAL_DATABASE_URL to it and
start the portal, or run `flask --app wsgi verify`.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from heapq import merge
from pathlib import Path
from typing import Any

import click

from compute_portal import clock, schema
from compute_portal.access import Role
from compute_portal.bookings import queries as booking_queries
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.statements import queries as statement_queries
from compute_portal.usage import queries as usage_queries

from .context import Context, simulation
from .town import Town
from .trace import BadRow, Booked, Job, TraceError, read, read_bookings, read_shares
from .virtual import Outcome, VirtualTime, Wish

START = clock.start_of_day(dt.date(2026, 1, 1))
POOL = "Simulated"
PROGRAMME = "simulation"
FIXED = "fixed"  # who books the fixed hours


class SimulationError(Exception):
    """It cannot run; the message is one line."""


def main(argv: list[str], *, policy: Policy) -> int:
    """The command. Returns the exit code: 0, or 2 with one line on standard error when the input is unusable."""
    options = _options(argv)
    try:
        return _simulate(options, policy)
    except (SimulationError, TraceError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m scheduler simulate", description=__doc__)
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a .csv or .csv.gz file")
    parser.add_argument("--shares", type=Path, help="enterprise,share per line; 1 for those not named")
    parser.add_argument("--bookings", type=Path, help="fixed bookings: booking_id,announce_s,start_s,end_s,gpus")
    parser.add_argument("--nodes", type=_positive, default=48, help="how many nodes (48)")
    parser.add_argument("--gpus-per-node", type=_positive, default=8, help="GPUs of each (8)")
    parser.add_argument("--database", help="an empty database; a new SQLite file under var/ unless given")
    parser.add_argument("--out", type=Path, help="write job_id,start_s,end_s,nodes here")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if not 0 < number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 10,000")
    return number


def _simulate(options: argparse.Namespace, policy: Policy) -> int:
    if options.gpus_per_node > 62:
        raise SimulationError("--gpus-per-node: a node has at most 62 GPUs")
    jobs, bad = read(options.trace)
    shares = read_shares(options.shares) if options.shares else {}
    booked = read_bookings(options.bookings) if options.bookings else []
    if not jobs:
        raise SimulationError(f"{options.trace}: no job in it")
    if booked and any(job.enterprise == FIXED for job in jobs):
        raise SimulationError(
            f"{options.trace}: an enterprise is called {FIXED!r}, as the one that books fixed hours is"
        )
    database = _empty_database(options.database, options.trace)
    town = _build(database, jobs, booked, shares, options.nodes, options.gpus_per_node)
    # The trace's own walltimes are the limit here: a rule of the queue is measured, not a rule of the bureau.
    longest = max(1, -(-max(job.walltime for job in jobs) // 3600))
    most = max(1, len(booked))
    bookings = policy.bookings.model_copy(update={"flexible_longest_hours": longest, "fixed_open_most": most})
    policy = policy.model_copy(update={"bookings": bookings})
    context = simulation(database, policy)
    try:
        _live(context, policy, town, jobs, booked, bad, options)
    finally:
        context.leader.release()
        database.dispose()
    return 0


def _live(
    context: Context,
    policy: Policy,
    town: Town,
    jobs: list[Job],
    booked: list[Booked],
    bad: list[BadRow],
    options: argparse.Namespace,
) -> None:
    began = time.monotonic()
    with _progress(len(jobs) + len(booked)) as bar:
        virtual = VirtualTime(context, policy)
        wishes = merge(_wishes(town, jobs), _fixed_wishes(town, booked), key=lambda wish: wish.at)
        outcome = virtual.run(wishes, START, None, bar.update if bar else lambda _n: None)
        virtual.close_last_months(max(outcome.started.values(), default=START))
    took = time.monotonic() - began
    _report(context.database, outcome, bad, took, options)


def _progress(length: int) -> AbstractContextManager[Any]:
    """A bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    return click.progressbar(length=length, label="bookings", file=sys.stderr)


def _empty_database(url: str | None, trace: Path) -> Database:
    if url is None:
        folder = Path("var") / "simulations"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{trace.name.split('.')[0]}-{clock.now():%Y%m%dT%H%M%S}.sqlite"
        path.unlink(missing_ok=True)
        url = f"sqlite:///{path.resolve()}"
    # A simulation that a power cut ends is run again: no need to wait for the disk.
    database = Database(url, durable=False)
    with database.engine.connect() as connection:
        used = schema.current(connection) is not None
    if used:
        database.dispose()
        raise SimulationError(f"{database.url.database}: this database is not empty")
    schema.upgrade(database)
    return database


def _build(
    database: Database,
    jobs: Sequence[Job],
    booked: Sequence[Booked],
    shares: dict[str, int],
    nodes: int,
    gpus_per_node: int,
) -> Town:
    town = Town(database, START)
    town.official(Role.OPERATOR, "operator@simulation.example", "运营", "Operator")
    town.official(Role.FINANCE, "finance@simulation.example", "财务", "Finance")
    town.pool(POOL, model="Simulated", tflops=989, watts=700, nodes=nodes, gpus_per_node=gpus_per_node, yuan="16.50")
    ends_on = START.date() + dt.timedelta(days=3_650)
    asked: Counter[str] = Counter()
    users: dict[str, set[str]] = {}
    for job in jobs:
        # The whole of what a tenant may ever hold at once, so that hours never bind: the queue is what is simulated.
        asked[job.enterprise] += job.gpus * job.walltime
        users.setdefault(job.enterprise, set()).add(job.user)
    for one in booked:
        asked[FIXED] += one.gpus * (one.end - one.start)
        users[FIXED] = {FIXED}
    town.programme(
        PROGRAMME, "模拟计划", "Simulation", pools=[POOL], gpu_seconds=asked.total(), ends_on=ends_on,
        most_gpu_seconds=asked.total(), booking_approval_gpu_seconds=asked.total(),
    )  # fmt: skip
    for number, enterprise in enumerate(sorted(asked)):
        people = [(f"manager@e{number}.example", f"{enterprise} 管理员", f"Manager of {enterprise}")]
        people += [(f"u{index}@e{number}.example", user, user) for index, user in enumerate(sorted(users[enterprise]))]
        town.firm(enterprise, enterprise, enterprise, people)
        town.share(PROGRAMME, enterprise, shares.get(enterprise, 1))
        id = town.ask(
            enterprise, PROGRAMME, POOL, asked[enterprise], purpose="trace", now=START,
            starts_on=clock.day_of(START), ends_on=ends_on,
        )  # fmt: skip
        town.award(enterprise, POOL, id, asked[enterprise], "", START)
    return town


def _wishes(town: Town, jobs: list[Job]) -> Iterator[Wish]:
    users: dict[str, dict[str, int]] = {}
    for job in jobs:
        users.setdefault(job.enterprise, {})[job.user] = 0
    who = {
        (enterprise, user): town.firms[enterprise].members[1 + index]
        for enterprise, names in users.items()
        for index, user in enumerate(sorted(names))
    }
    for job in jobs:
        asked = BookingRequest(
            allocation_id=town.allocations[job.enterprise, POOL],
            kind=BookingKind.FLEXIBLE,
            title=job.id,
            gpus=job.gpus,
            longest_seconds=job.walltime,
        )
        at = START + dt.timedelta(seconds=job.submit)
        yield Wish(at, who[job.enterprise, job.user], asked, job.runtime, job.id)


def _fixed_wishes(town: Town, booked: Sequence[Booked]) -> Iterator[Wish]:
    for one in booked:
        asked = BookingRequest(
            allocation_id=town.allocations[FIXED, POOL],
            kind=BookingKind.FIXED,
            title=one.id,
            gpus=one.gpus,
            starts_at=START + dt.timedelta(seconds=one.start),
            ends_at=START + dt.timedelta(seconds=one.end),
        )
        yield Wish(START + dt.timedelta(seconds=one.announce), town.firms[FIXED].members[1], asked, None, one.id)


def _report(database: Database, outcome: Outcome, bad: list[BadRow], took: float, options: argparse.Namespace) -> None:
    all_runs = list(_runs(database))
    runs = [run for run in all_runs if outcome.booked[run.booking_id].asked.kind is BookingKind.FLEXIBLE]
    fixed = [run for run in all_runs if outcome.booked[run.booking_id].asked.kind is BookingKind.FIXED]
    waits = [
        clock.seconds_between(outcome.booked[run.booking_id].at, run.started_at)
        for run in runs
        if run.started_at is not None
    ]
    exact = sum(run.charged_gpu_seconds == _due(outcome.booked[run.booking_id]) for run in runs)
    with database.read_only() as session:
        charged = usage_queries.charged_in_all(session)
        statements = statement_queries.count_in_all(session)
    if options.out:
        _write_out(options.out, outcome, runs)
    for row in bad[:20]:
        _say(f"refused   {options.trace}: line {row.line}: {row.reason}")
    if len(bad) > 20:
        _say(f"refused   {len(bad) - 20:,} more rows of the file")
    for reason, count in sorted(outcome.refused.items()):
        _say(f"refused   {count:,} bookings: {reason}")
    _say(f"bookings  {len(runs):,}; charged exactly gpus x min(runtime, walltime): {exact:,}")
    if fixed:
        on_time = sum(run.started_at == outcome.booked[run.booking_id].asked.starts_at for run in fixed)
        exact = sum(run.charged_gpu_seconds == _due(outcome.booked[run.booking_id]) for run in fixed)
        _say(f"fixed     {len(fixed):,}; started on time: {on_time:,}; charged exactly gpus x window: {exact:,}")
    _say(f"charged   {charged:,} GPU-seconds")
    if waits:
        _say(f"waits     mean {sum(waits) / len(waits):,.1f} s, longest {max(waits):,} s")
    _say(f"closed    {statements:,} statements")
    _say(f"took      {took:,.1f} s, {len(all_runs) / took:,.1f} bookings/s, {outcome.cycles:,} cycles")
    _say(f"database  {database.url.render_as_string(hide_password=True)}")


def _due(wish: Wish) -> int:
    """What the booking must have been charged: gpus × min(runtime, walltime); of a fixed one its window."""
    run = wish.asked.seconds if wish.run_seconds is None else min(wish.run_seconds, wish.asked.seconds)
    return wish.asked.gpus * run


def _runs(database: Database) -> Iterator[booking_queries.Run]:
    after = 0
    while True:
        with database.read_only() as session:
            page = booking_queries.list_runs(session, after)
        yield from page
        if not page:
            return
        after = page[-1].booking_id


def _write_out(path: Path, outcome: Outcome, runs: list[booking_queries.Run]) -> None:
    """job_id,start_s,end_s,nodes with `nodes` as index:gpus;index:gpus, indices from 0."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["job_id", "start_s", "end_s", "nodes"])
        for run in runs:
            if run.started_at is None or run.ended_at is None:
                continue
            nodes = ";".join(
                f"{int(each['node'].rsplit('-n', 1)[1]) - 1}:{len(each['gpus'])}" for each in run.nodes or []
            )
            rows.writerow(
                [
                    outcome.booked[run.booking_id].name,
                    clock.seconds_between(START, run.started_at),
                    clock.seconds_between(START, run.ended_at),
                    nodes,
                ]
            )


def _say(line: str) -> None:
    print(line)
