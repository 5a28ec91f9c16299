"""Decayed usage: what the fair tree reads. Kept incrementally: a cycle costs the number of allocations, not records.

What is stored is what was metered. What runs since then is added by whoever asks (`of_run`), up to the second.
"""

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


def of_run(gpus: float, since: float, until: float, half_life_seconds: float) -> float:
    """Decayed GPU-seconds of so many GPUs in use from `since` to `until` seconds ago.

    The solution of u' = gpus − λu with λ = ln 2 ÷ half-life, as `play.Usage` has it in virtual time:
    u = gpus · (2^(−until ÷ half-life) − 2^(−since ÷ half-life)) ÷ λ.
    """
    if since <= until:
        return 0.0
    kept = math.exp2(-until / half_life_seconds) - math.exp2(-since / half_life_seconds)
    return gpus * kept * half_life_seconds / math.log(2)


def add_usage(session: Session, usage: Mapping[int, float], *, half_life_days: float, now: dt.datetime) -> None:
    """Decay what is stored to `now` and add new usage, decayed to `now`, per allocation. The allocations are locked."""
    rows = {
        row.allocation_id: row
        for row in session.scalars(sa.select(FairUsage).where(FairUsage.allocation_id.in_(usage)))
    }
    for allocation_id, amount in usage.items():
        row = rows.get(allocation_id)
        if row is None:
            session.add(FairUsage(allocation_id=allocation_id, usage=float(amount), as_of=now))
            continue
        row.usage = decayed(row.usage, (now - row.as_of).total_seconds(), half_life_days * 86_400) + amount
        row.as_of = max(now, row.as_of)
    session.flush()
