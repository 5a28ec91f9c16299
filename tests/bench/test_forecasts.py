"""`make bench`: what it costs to say why and when, and how often that comes true.

TRACES=folder with the slice philly_oct measures the ranges there; without it a generated workload is looked at.
LOOKS=600 says how many seconds lie between two looks ahead.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from compute_portal.policy import Policy
from compute_portal.pools.availability import Availability
from scheduler.context import rules_of
from scheduler.planning.ahead import look_ahead
from scheduler.planning.backtest import Backtest, end_times, run_times
from scheduler.planning.forecast import Coverage, Ran, RunTimes
from scheduler.planning.line import Running
from scheduler.planning.planner import Snapshot, plan
from scheduler.planning.starts import with_askers
from scheduler.replay import prepare
from scheduler.trace import Job, read, read_shares
from tests.bench.test_plan import NOW, best, crowd, queue_rules

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7_200)]
FOLDER = os.environ.get("TRACES")
LOOKS = int(os.environ.get("LOOKS", "1800"))
MOST_SECONDS = 2.0


def runs(chance: random.Random, enterprises: int = 100) -> RunTimes:
    asked = [chance.randrange(600, 200_000) for _ in range(20_000)]
    return RunTimes(Ran(chance.randrange(1, enterprises + 1), each, each // chance.randint(1, 5)) for each in asked)


def busy(snapshot: Snapshot) -> Snapshot:
    """With who runs, and a fixed booking to come on every eighth node."""
    board = snapshot.availability.board(NOW)
    placed = [
        Running(f"r{n}", -n, mask.bit_count(), 2 + n % 99, 2 + n % 99, NOW - 90, NOW - 50, end, ((node, mask),))
        for n, (end, node, mask) in enumerate(board.held, 1)
    ]
    rows = [(node, mask, NOW - 50, end, 0) for end, node, mask in board.held]
    rows += [(node, 255, NOW + 250_000, NOW + 300_000, 1) for node in range(0, len(board.ids), 8)]
    availability = Availability.from_rows([(node, 8) for node in board.ids], rows, [])
    running: dict[int, int] = {}
    for one in placed:
        running[one.enterprise_id] = running.get(one.enterprise_id, 0) + one.gpus
    return Snapshot(NOW, availability, snapshot.waiting, snapshot.leaves, {1: 64}, running, {}, snapshot.rules, placed)


@pytest.mark.parametrize("waiting", [1_000, 10_000])
def test_why_and_when_for_everybody_who_waits(policy: Policy, waiting: int) -> None:
    snapshot = busy(crowd(waiting, queue_rules(policy, "small-first")))
    times = runs(random.Random(3))

    def ahead() -> dict[int, int]:
        asked, asking = with_askers(snapshot)
        return look_ahead(asked, run_times(snapshot.waiting, times), end_times(snapshot, times), asking)

    decision, starts = plan(snapshot), ahead()
    assert len(decision.standings) + len(decision.starts) == waiting
    assert len([id for id in starts if id > 0]) == waiting
    why, when = best(lambda: plan(snapshot), 3), best(ahead, 3)
    print(
        f"\n  {waiting:7,} waiting × 256 nodes × 8: plan, places and reasons {why:5.2f} s, look ahead with start table "
        f"{when:5.2f} s, together {why + when:5.2f} s (at most {MOST_SECONDS} s for 10,000)"
    )


def test_how_often_start_ranges_hold(policy: Policy) -> None:
    rules = rules_of(policy.queue)
    if FOLDER is None:
        jobs, shares, nodes, name = generated(4_000), {}, 32, "generated"
    else:
        folder = Path(FOLDER)
        read_jobs, bad = read(folder / "philly_oct.csv.gz")
        assert not bad
        nodes, name = 64, "philly_oct"
        jobs = [job for job in read_jobs if job.gpus <= nodes * 8]
        shares = read_shares(folder / "philly_shares.csv")
    game = prepare(jobs, shares, [], rules, nodes, 8, packed=True)
    backtest = Backtest(nodes, 8, every_seconds=LOOKS, every_arrivals=20 if FOLDER else 5)
    game.play.watch(backtest.seen)
    game.run()
    backtest.finish(game.play)
    for when, found in (("at submit", backtest.at_submit()), ("over time", backtest.over_time())):
        assert found.ranges
        say(name, when, found)


def say(name: str, when: str, found: Coverage) -> None:
    print(
        f"\n  {name}, {when}: {found.ranges:,} ranges, {found.held / found.ranges:.1%} held (aim 75 to 85), "
        f"half of the p50 off by at most {found.error / 60:,.1f} min (aim at submit 20)"
    )


def generated(count: int) -> list[Job]:
    """Eight teams on 256 GPUs that are nearly always busy."""
    chance = random.Random(4)
    jobs, at = [], 0.0
    for number in range(count):
        at += chance.expovariate(1 / 225)
        ran = 60 + int(chance.lognormvariate(8.3, 1.4))
        asked = int(ran * chance.uniform(1, 4)) + 60
        team = chance.choices("abcdefgh", (8, 5, 4, 3, 2, 2, 1, 1))[0]
        gpus = chance.choice((1, 1, 1, 2, 4, 8, 8, 16))
        jobs.append(Job(number, f"j{number}", int(at), gpus, ran, asked, team, team))
    return jobs
