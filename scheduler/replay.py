"""`python -m scheduler replay TRACE`: a workload through the planner alone, in virtual time, without a database.

The rounds are those of the living pool (`planning/decide.py`). Each tenant of the trace is an enterprise with one
allocation under one programme. Unless `--packed` is given GPUs are only counted, as on a machine without nodes. A fixed
booking of the `--bookings` file is confirmed when it is announced, if what runs and what is booked leave room for it
all through; on a packed pool it gets whole nodes.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
from pydantic import ValidationError

from compute_portal.policy import Backfill, Order, Policy, QueuePolicy
from compute_portal.pools.availability import FOREVER, MAX_GPUS_PER_NODE, Placement

from .context import rules_of
from .planning.backtest import Backtest
from .planning.board import CountBoard, NodeBoard
from .planning.fairshare import Leaf
from .planning.forecast import Coverage
from .planning.line import Line, Waiting
from .planning.play import Arrival, FixedArrival, Play, Usage
from .planning.rules import Rules
from .trace import Booked, Job, TraceError, read, read_bookings, read_shares

KNOBS = tuple(name for name in QueuePolicy.model_fields if name.startswith(("half", "overuse", "fair", "promise")))


class ReplayError(Exception):
    """It cannot run; the message says why, a line for each reason."""


def main(argv: Sequence[str], *, policy: Policy) -> int:
    """The command. Returns the exit code: 0, or 2 with lines on standard error when the input is unusable."""
    options = _options(argv)
    try:
        return _replay(options, policy)
    except (ReplayError, TraceError) as error:
        print("\n".join(f"replay: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m scheduler replay", description=__doc__)
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a .csv or .csv.gz file")
    parser.add_argument("--nodes", type=_positive, required=True, help="how many nodes")
    parser.add_argument("--gpus-per-node", type=_positive, required=True, help="GPUs of each")
    parser.add_argument("--packed", action="store_true", help="place on named nodes, as the living pool does")
    parser.add_argument("--shares", type=Path, help="enterprise,share per line; 1 for those not named")
    parser.add_argument("--bookings", type=Path, help="fixed bookings: booking_id,announce_s,start_s,end_s,gpus")
    parser.add_argument("--policy", choices=get_args(Order), help="the order (the policy file's)")
    parser.add_argument("--backfill", choices=get_args(Backfill), help="(the policy file's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KNOB=VALUE", help=f"another value for one of {', '.join(KNOBS)}"
    )
    parser.add_argument(
        "--forecasts", action="store_true", help="also look ahead as the living pool does, and say how often it held"
    )
    parser.add_argument("--out", type=Path, required=True, help="write job_id,start_s,end_s here; packed: nodes, too")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100,000")
    return number


def _replay(options: argparse.Namespace, policy: Policy) -> int:
    if options.packed and options.gpus_per_node > MAX_GPUS_PER_NODE:
        raise ReplayError(f"--gpus-per-node: a node has at most {MAX_GPUS_PER_NODE} GPUs")
    if options.forecasts and not options.packed:
        raise ReplayError("--forecasts: looks ahead on named nodes only, add --packed")
    rules = rules_of(_queue_policy(options, policy.queue))
    capacity = options.nodes * options.gpus_per_node
    jobs, shares, booked = _read(options)
    fitting = [job for job in jobs if job.gpus <= capacity]
    game = prepare(fitting, shares, booked, rules, options.nodes, options.gpus_per_node, packed=options.packed)
    backtest = Backtest(options.nodes, options.gpus_per_node) if options.forecasts else None
    if backtest is not None:
        game.play.watch(backtest.seen)
    began = time.process_time()
    with _progress(len(fitting)) as bar:
        game.run(bar.update if bar else None)
    took = time.process_time() - began
    write(options.out, game.play, options.packed)
    _report(game.play, rules, len(jobs) - len(fitting), took, options)
    if backtest is not None:
        backtest.finish(game.play)
        _say_coverage("at submit", backtest.at_submit())
        _say_coverage("over time", backtest.over_time())
    return 0


def _say_coverage(when: str, found: Coverage) -> None:
    held = f"{found.held / found.ranges:.1%} held, half of the p50 off by at most {found.error / 60:,.1f} min"
    _say(f"ranges    {when}: {found.ranges:,}{', ' + held if found.ranges else ''}")


def _queue_policy(options: argparse.Namespace, queue: QueuePolicy) -> QueuePolicy:
    """The policy file's numbers, with what the command says instead. Raises ReplayError naming what is wrong."""
    values = queue.model_dump()
    values |= {name: value for name in ("policy", "backfill") if (value := getattr(options, name)) is not None}
    values["order"] = values.pop("policy", queue.order)
    for setting in options.set:
        name, is_set, text = setting.partition("=")
        if not is_set or name not in KNOBS:
            raise ReplayError(f"--set {setting}: expected KNOB=VALUE with one of {', '.join(KNOBS)}")
        if name == "half_life_days" and values["order"] == "small-first":
            name = "overuse_half_life_days"  # the half-life of the order that is replayed
        values[name] = text
    try:
        return QueuePolicy.model_validate(values)
    except ValidationError as error:
        raise ReplayError("\n".join(f"--set {p['loc'][0]}: {p['msg']}" for p in error.errors())) from None


def _read(options: argparse.Namespace) -> tuple[list[Job], dict[str, int], list[Booked]]:
    jobs, bad = read(options.trace)
    if bad:
        lines = [f"{options.trace}: line {row.line}: {row.reason}" for row in bad[:20]]
        if len(bad) > 20:
            lines.append(f"{options.trace}: and {len(bad) - 20:,} more rows")
        raise ReplayError("\n".join(lines))
    if not jobs:
        raise ReplayError(f"{options.trace}: no job in it")
    shares = read_shares(options.shares) if options.shares else {}
    return jobs, shares, read_bookings(options.bookings) if options.bookings else []


class Game(NamedTuple):
    """An empty pool, and everybody who will come."""

    play: Play
    arrivals: list[Arrival]
    fixed: list[FixedArrival]

    def run(self, told: Callable[[int], object] | None = None) -> None:
        self.play.run(self.arrivals, self.fixed, told=told)


def prepare(
    jobs: Sequence[Job],
    shares: Mapping[str, int],
    booked: Sequence[Booked],
    rules: Rules,
    nodes: int,
    gpus_per_node: int,
    *,
    packed: bool,
) -> Game:
    """Jobs are in order of submission and fit the pool."""
    ids = {name: id for id, name in enumerate(sorted({job.enterprise for job in jobs}), start=1)}
    leaves = [Leaf(1, 1, id, shares.get(name, 1), id, 1, 0.0) for name, id in ids.items()]
    board = NodeBoard([gpus_per_node] * nodes) if packed else CountBoard(nodes * gpus_per_node)
    arrivals = [
        Arrival(
            Waiting(
                key=job.id,
                booking_id=number,
                gpus=job.gpus,
                seconds=job.walltime,
                submitted_at=job.submit,
                not_before=0,
                programme_id=1,
                enterprise_id=ids[job.enterprise],
                allocation_id=ids[job.enterprise],
                allocation_ends_at=FOREVER,
            ),
            job.runtime,
        )
        for number, job in enumerate(jobs, start=1)
    ]
    fixed = [FixedArrival(one.announce, one.id, one.start, one.end, one.gpus) for one in booked]
    return Game(Play(board, Line(rules), rules, Usage(leaves, rules.half_life_seconds)), arrivals, fixed)


def _progress(length: int) -> AbstractContextManager[Any]:
    """A bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    return click.progressbar(length=length, label="jobs", file=sys.stderr)


def write(path: Path, play: Play, packed: bool) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["job_id", "start_s", "end_s", *(["nodes"] if packed else [])])
            for one in play.started:
                row = [one.waiting.key, one.start, one.end]
                rows.writerow([*row, _nodes(one.placement)] if packed else row)
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}") from None


def _nodes(placement: Placement) -> str:
    return ";".join(f"{node}:{mask.bit_count()}" for node, mask in placement)


def _report(play: Play, rules: Rules, too_large: int, took: float, options: argparse.Namespace) -> None:
    waits = [one.start - one.waiting.submitted_at for one in play.started]
    used = sum((one.end - one.start) * one.waiting.gpus for one in play.started)
    first = min((one.waiting.submitted_at for one in play.started), default=0)
    last = max((one.end for one in play.started), default=0)
    _say(f"order     {rules.order}, backfill {rules.backfill}, {'packed' if options.packed else 'GPUs counted'}")
    _say(f"jobs      {len(waits):,} started; {too_large:,} larger than the pool left out")
    if waits:
        _say(f"waits     mean {sum(waits) / len(waits):,.1f} s, longest {max(waits):,} s")
        _say(f"used      {used / (play.board.capacity * max(1, last - first)):.1%} of the pool until the last end")
    if options.bookings:
        for fixed in play.refused[:20]:
            _say(f"refused   booking {fixed.id}: no room for {fixed.gpus} GPUs when it was announced")
        _say(f"bookings  {len(play.refused):,} refused for want of room, all others started on time")
    _say(f"loop      {took:,.2f} s of one core, {len(waits) / max(took, 1e-9):,.0f} jobs/s, {play.rounds:,} rounds")
    _say(f"written   {options.out}")


def _say(line: str) -> None:
    print(line)
