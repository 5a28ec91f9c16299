"""Quotas: running use against limits, when a flexible booking would start. Each says None, or the sentence why not.

The limit is the number; the quota is the check. A limit that was lowered never stops what runs: these are asked only
before a start.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from compute_portal.sentences import Sentence


def concurrent(limit: int | None, used: int, asked: int, booked: int = 0) -> Sentence | None:
    """GPUs an enterprise may run at once in the pool (`limit`, None = no limit), runs (`used`) and wants now.

    `booked` is the most it has confirmed for fixed hours at one instant of the run: those start whatever runs then.
    """
    if limit is None or used + booked + asked <= limit:
        return None
    if used + asked > limit:
        return Sentence("wait-limit", limit=limit, used=used, asked=asked)
    return Sentence("wait-limit-booked", limit=limit, used=used, booked=booked, asked=asked)


def peak(windows: Iterable[tuple[int, int, int]], start: int, end: int) -> int:
    """The most GPUs that windows (start, end, gpus) take together at one instant of [start, end)."""
    inside = [window for window in windows if window[0] < end and window[1] > start]
    instants = {max(start, begins) for begins, _ends, _gpus in inside}
    return max(
        (sum(gpus for begins, ends, gpus in inside if begins <= instant < ends) for instant in instants), default=0
    )


def hours_left(needed: int, available: int | None) -> Sentence | None:
    """GPU-seconds the longest run needs and what there is to pay for it (None = not asked)."""
    if available is None or needed <= available:
        return None
    return Sentence("wait-hours", needed=needed, available=available)


def allocation_end(start: int, longest: int, ends_at: int) -> Sentence | None:
    """A flexible booking may not start unless its longest run (seconds) is over when its allocation ends (instant)."""
    if start + longest <= ends_at:
        return None
    return Sentence("wait-allocation-ends", ends_at=dt.datetime.fromtimestamp(ends_at, dt.UTC), longest=longest)
