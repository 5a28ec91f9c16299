"""How one pool's queue is ordered and filled: policy data, no code of any pool.

The orders, each with ties broken by submission, then by id:

  fifo         first submitted first
  sjf          the shortest asked-for run first
  saf          the smallest area first: asked-for run × GPUs
  fair-tree    Slurm's Fair Tree (`fairshare.rank`): the most under-served allocation first
  small-first  the smallest area × overuse^power first (the core); before them the next booking of the teams far below
               their share (fair heads); between them what has waited longest (the promise), as long as such bookings
               hold less than their part of the pool
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Order = Literal["fifo", "sjf", "saf", "fair-tree", "small-first"]
Backfill = Literal["none", "easy"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The knobs; what each does stands in `config/policy.toml`, under the same names."""

    order: Order = "small-first"
    backfill: Backfill = "easy"
    half_life_seconds: int = 24 * 3_600  # of usage; this module's readers get usage that is decayed already
    overuse_power: float = 3.0
    overuse_least: float = 0.05
    fair_heads: int = 2
    fair_below: float = 0.7
    promise_seconds: int = 48 * 3_600
    promise_share: float = 1 / 3
    promise_reservations: int = 8
