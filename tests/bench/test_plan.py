"""`make bench`: the planner, on real slices or on a generated workload.

TRACES=folder with the slices of a workload collection (kth_a, metacentrum_a, philly_w41, philly_oct) and their checker
one folder above; without it a generated workload is replayed. Time is held against sorting the line and placing it
first-fit in the same run. SHAKES=5 says how many shaken runs a mean is made of: each adds U(0, 120 s) to every submit.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from compute_portal.policy import Policy
from compute_portal.pools.availability import FOREVER, Availability
from scheduler.context import rules_of
from scheduler.planning.fairshare import Leaf
from scheduler.planning.line import Waiting
from scheduler.planning.planner import Snapshot, plan
from scheduler.planning.rules import Order, Rules
from scheduler.replay import Game, prepare, write
from scheduler.trace import COLUMNS, Job, read, read_bookings, read_shares

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7_200)]
FOLDER = os.environ.get("TRACES")
SHAKES = int(os.environ.get("SHAKES", "5"))
NOW = 1_000_000
needs_traces = pytest.mark.skipif(FOLDER is None, reason="TRACES=folder names no slices")


@dataclasses.dataclass(frozen=True)
class Slice:
    name: str
    nodes: int
    gpus_per_node: int
    packed: bool
    shares: bool = False


KTH = Slice("kth_a", 100, 1, packed=False)
META = Slice("metacentrum_a", 192, 8, packed=False)
W41 = Slice("philly_w41", 48, 8, packed=True, shares=True)
OCT = Slice("philly_oct", 64, 8, packed=True, shares=True)


def queue_rules(policy: Policy, order: Order) -> Rules:
    return rules_of(policy.queue.model_copy(update={"order": order}))


def replayed(
    slice: Slice, rules: Rules, shake: int | None = None, bookings: bool = False
) -> tuple[list[Job], Game, float]:
    folder = Path(FOLDER or "")
    jobs, bad = read(folder / f"{slice.name}.csv.gz")
    assert not bad
    if shake is not None:
        chance = random.Random(shake)
        jobs = [dataclasses.replace(job, submit=job.submit + int(chance.uniform(0, 120))) for job in jobs]
        jobs.sort(key=lambda job: (job.submit, job.line))
    shares = read_shares(folder / "philly_shares.csv") if slice.shares else {}
    booked = read_bookings(folder / f"{slice.name}.bookings.csv") if bookings else []
    game = prepare(jobs, shares, booked, rules, slice.nodes, slice.gpus_per_node, packed=slice.packed)
    began = time.process_time()
    game.run()
    return jobs, game, time.process_time() - began


def checked(slice: Slice, jobs: Sequence[Job], game: Game, tmp_path: Path, bookings: bool = False) -> dict[str, Any]:
    """What the checker of the collection says; it must find the schedule feasible."""
    folder = Path(FOLDER or "")
    trace, out = tmp_path / "trace.csv", tmp_path / "out.csv"
    with trace.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows([j.id, j.submit, j.gpus, j.runtime, j.walltime, j.enterprise, j.user] for j in jobs)
    write(out, game.play, slice.packed)
    command = [
        sys.executable, str(folder.parent / "checker.py"), "--trace", str(trace), "--out", str(out), "--json",
        "--nodes", str(slice.nodes), "--gpn", str(slice.gpus_per_node),
    ]  # fmt: skip
    command += ["--shares", str(folder / "philly_shares.csv")] if slice.shares else []
    command += ["--placement", "required", "--consolidated"] if slice.packed else []
    command += ["--bookings", str(folder / f"{slice.name}.bookings.csv")] if bookings else []
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(outcome.stdout)
    assert found["feasible"], found["errors"]
    return found


def first_fit(jobs: Sequence[Job], capacity: int) -> float:
    """The yardstick: CPU seconds for sorting all jobs by area and counting each into the first place it fits."""
    began = time.process_time()
    free = [capacity] * 8
    for job in sorted(jobs, key=lambda job: (job.gpus * job.walltime, job.submit)):
        for place, left in enumerate(free):
            if job.gpus <= left:
                free[place] = capacity if left == job.gpus else left - job.gpus
                break
    return time.process_time() - began


@needs_traces
@pytest.mark.parametrize(
    ("slice", "bookings", "wait", "slowdown", "within"),
    [(KTH, False, 8_836.4, 121.64, 0.01), (META, False, 3_616.5, 39.19, 0.01), (W41, False, 37_837.5, 48.45, 0.03),
     (KTH, True, 10_000.0, None, None)],
    ids=["kth_a", "metacentrum_a", "philly_w41", "kth_a-bookings"],
)  # fmt: skip
def test_first_come_first_served_with_backfill_is_easy(
    policy: Policy, tmp_path: Path, slice: Slice, bookings: bool, wait: float, slowdown: float | None,
    within: float | None,
) -> None:  # fmt: skip
    jobs, game, took = replayed(slice, queue_rules(policy, "fifo"), bookings=bookings)
    found = checked(slice, jobs, game, tmp_path, bookings)
    yardstick = first_fit(jobs, slice.nodes * slice.gpus_per_node)
    what = f"{slice.name} {'with bookings' if bookings else ''}"
    figures = f"wait {found['mean_wait_s']:10,.1f} s slowdown {found['avebsld']:7.2f}"
    speed = f"{took:6.2f} s {len(jobs) / took:9,.0f} jobs/s {took / yardstick:7.0f} × sort"
    print(f"\n  fifo + easy {what:22} {figures} {speed}")
    if within is None or slowdown is None:
        assert found["bookings_broken"] == 0
        assert found["mean_wait_s"] <= wait
    else:
        assert found["mean_wait_s"] == pytest.approx(wait, rel=within)
        assert found["avebsld"] == pytest.approx(slowdown, rel=within)


@needs_traces
@pytest.mark.parametrize("order", ["fair-tree", "small-first"])
def test_shaken_weeks_of_a_gpu_cluster(policy: Policy, tmp_path: Path, order: Order) -> None:
    rules = queue_rules(policy, order)
    columns: list[tuple[float, ...]] = []
    print(f"\n  philly_oct {order}: wait s · max h · utilisation · deviation · worst")
    for shake in range(1, SHAKES + 1):
        jobs, game, took = replayed(OCT, rules, shake)
        found = checked(OCT, jobs, game, tmp_path)
        day = found["fairness"]["24h"]
        figures = (
            found["mean_wait_s"], found["max_wait_s"] / 3_600, found["util_submit_window"], day["share_dev_mean"],
            day["worst_tenant_ratio"],
        )  # fmt: skip
        columns.append(figures)
        ratio = took / first_fit(jobs, 512)
        print(f"    {_said(figures)}   {took:5.1f} s, {len(jobs) / took:,.0f} jobs/s, {ratio:,.0f} × sort")
    print(f"    {_said([statistics.fmean(column) for column in zip(*columns, strict=True)])}   mean of {SHAKES}")


def _said(figures: Sequence[float]) -> str:
    wait, longest, used, deviation, worst = figures
    return f"{wait:8,.1f} {longest:6.1f} {used:.3f} {deviation:.4f} {worst:.3f}"


@pytest.mark.parametrize("order", ["fifo", "fair-tree", "small-first"])
def test_the_event_loop_on_a_generated_workload(policy: Policy, order: Order) -> None:
    chance = random.Random(5)
    at, jobs = 0.0, []
    for number in range(5_000):
        at += chance.expovariate(1 / 110)
        runs = 60 + int(chance.lognormvariate(8.3, 1.4))
        asks = int(runs * chance.uniform(1, 4)) + 60
        team = chance.choices("abcdefgh", (8, 5, 4, 3, 2, 2, 1, 1))[0]
        jobs.append(
            Job(number, f"j{number}", int(at), chance.choice((1, 1, 1, 2, 4, 8, 8, 16)), runs, asks, team, team)
        )
    game = prepare(jobs, {}, [], queue_rules(policy, order), 32, 8, packed=True)
    began = time.process_time()
    game.run()
    took = time.process_time() - began
    waits = [one.start - one.waiting.submitted_at for one in game.play.started]
    assert len(waits) == len(jobs)
    print(
        f"\n  generated, {order:12} wait {statistics.fmean(waits):9,.1f} s, {len(jobs) / took:8,.0f} jobs/s, "
        f"{took / first_fit(jobs, 256):6,.0f} × sort"
    )


# -- one cycle --------------------------------------------------------------------------------------------------------


def crowd(waiting: int, rules: Rules, nodes: int = 256, enterprises: int = 100) -> Snapshot:
    """So many waiting, 640 bookings running and a tenth of the nodes just become free."""
    chance = random.Random(7)
    rows: list[tuple[int, int, int, int, int]] = []
    for node in range(nodes - nodes // 10):
        cut = chance.randrange(9)
        for low, high in ((0, cut), (cut, 8)):
            if low < high and chance.random() < 0.95:
                mask = (1 << high) - (1 << low)
                rows.append((node, mask, NOW - 50, NOW + chance.randrange(600, 200_000), 0))
    availability = Availability.from_rows([(node, 8) for node in range(nodes)], rows, [])
    queue = [
        Waiting(
            f"b{id}", id, chance.choice((1, 1, 2, 4, 8, 16, 32)), chance.randrange(600, 200_000),
            NOW - chance.randrange(300_000), 0, 1, (team := chance.randrange(1, enterprises + 1)), team, FOREVER,
        )
        for id in range(1, waiting + 1)
    ]  # fmt: skip
    leaves = [Leaf(1, 1, id, chance.randrange(1, 9), id, 1, chance.random() * 1e7) for id in range(1, enterprises + 1)]
    return Snapshot(NOW, availability, queue, leaves, {1: 64}, {}, rules=rules)


@pytest.mark.parametrize("order", ["fifo", "fair-tree", "small-first"])
@pytest.mark.parametrize("waiting", [1_000, 10_000, 100_000])
def test_one_cycle(policy: Policy, waiting: int, order: Order) -> None:
    snapshot = crowd(waiting, queue_rules(policy, order))
    keys = [one.turn for one in snapshot.waiting]
    took, yardstick = best(lambda: plan(snapshot, standings=False)), best(lambda: sorted(keys))
    decision = plan(snapshot, standings=False)
    assert decision.starts
    print(
        f"\n  {waiting:7,} waiting × 256 nodes × 8, 100 enterprises, {order:12} {took * 1_000:7.1f} ms "
        f"{len(decision.starts):4} starts {took / yardstick:6.1f} × sort"
    )


def best(work: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)
