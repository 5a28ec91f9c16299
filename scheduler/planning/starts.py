"""When somebody who asks now would start, for forms: a table of numbers of GPUs and hours. Pure.

Each cell is a booking that only asks: it stands in the queue of a look ahead where it would stand, and takes nothing
from anybody. It comes from nobody, or rather from an enterprise that has used just its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compute_portal.pools.availability import FOREVER
from scheduler.planning.fairshare import Leaf
from scheduler.planning.line import Waiting
from scheduler.planning.planner import Snapshot

GPUS = (1, 2, 4, 8, 16, 24, 32)
HOURS = (1, 2, 4, 8, 12, 24, 48, 72)
NOBODY = -1
SMALL = 1e-6  # of all shares and of all usage: too little to change anybody's place
Cell = tuple[int, int, int]  # p10, p50, p90 in seconds from now


def with_askers(snapshot: Snapshot) -> tuple[Snapshot, set[int]]:
    """The snapshot with a booking for each cell, and their ids."""
    asking = [_asker(snapshot, gpus, hours) for gpus in GPUS for hours in HOURS]
    programmes = {leaf.programme_id: leaf.programme_shares for leaf in snapshot.leaves}
    usage = sum(leaf.usage for leaf in snapshot.leaves)
    nobody = Leaf(NOBODY, SMALL * (sum(programmes.values()) or 1), NOBODY, 1, NOBODY, 1, SMALL * usage)
    waiting = [*snapshot.waiting, *asking]
    return replace(snapshot, waiting=waiting, leaves=[*snapshot.leaves, nobody]), {one.booking_id for one in asking}


def table(ranges: Mapping[int, Cell]) -> dict[str, Sequence[object]]:
    """As a pool's picture keeps it: for each number of GPUs a row of (p10, p50, p90) or None where nothing starts."""
    cells = [[ranges.get(_id(gpus, hours)) for hours in HOURS] for gpus in GPUS]
    return {"gpus": GPUS, "hours": HOURS, "seconds": [[cell and list(cell) for cell in row] for row in cells]}


def _asker(snapshot: Snapshot, gpus: int, hours: int) -> Waiting:
    id = _id(gpus, hours)
    return Waiting(f"{id}", id, gpus, hours * 3_600, snapshot.now, 0, NOBODY, NOBODY, NOBODY, FOREVER)


def _id(gpus: int, hours: int) -> int:
    """Below every booking's."""
    return -(1_000 * gpus + hours)
