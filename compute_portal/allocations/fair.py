"""Decayed usage: what the fair tree reads. Kept incrementally: a cycle costs the number of allocations, not records."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .models import FairUsage


def decayed(usage: float, seconds: float, half_life_seconds: float) -> float:
    """Usage after `seconds`: u × 2^(−t / half-life) (Slurm's PriorityDecayHalfLife)."""
    return usage * math.exp2(-max(0.0, seconds) / half_life_seconds)


def add_usage(session: Session, gpu_seconds: Mapping[int, int], *, half_life_days: float, now: dt.datetime) -> None:
    """Decay what is stored to `now` and add the new GPU-seconds, per allocation. The allocations are locked."""
    rows = {
        row.allocation_id: row
        for row in session.scalars(sa.select(FairUsage).where(FairUsage.allocation_id.in_(gpu_seconds)))
    }
    for allocation_id, amount in gpu_seconds.items():
        row = rows.get(allocation_id)
        if row is None:
            session.add(FairUsage(allocation_id=allocation_id, usage=float(amount), as_of=now))
            continue
        row.usage = decayed(row.usage, (now - row.as_of).total_seconds(), half_life_days * 86_400) + amount
        row.as_of = max(now, row.as_of)
    session.flush()
