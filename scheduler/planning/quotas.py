"""Quotas: running use against limits, when a flexible booking would start. Each says None, or the sentence why not.

The limit is the number; the quota is the check. A limit that was lowered never stops what runs: these are asked only
before a start.
"""

from __future__ import annotations

import datetime as dt

from compute_portal.sentences import Sentence


def concurrent(limit: int | None, used: int, asked: int) -> Sentence | None:
    """GPUs an enterprise may run at once in the pool (`limit`, None = no limit), runs (`used`) and wants now."""
    if limit is None or used + asked <= limit:
        return None
    return Sentence("wait-limit", limit=limit, used=used, asked=asked)


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
