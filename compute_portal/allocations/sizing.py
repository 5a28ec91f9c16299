"""How many GPU-hours a training run needs, and on how many cards for how long. Pure, with its formula.

A dense transformer needs about 6 floating-point operations per parameter and token (forward 2, backward 4):
FLOPs = 6 · N · D. Divided by what a card really does, TFLOPS × utilisation, that is GPU-seconds.
7 billion parameters and 100 billion tokens: 4.2e21 FLOPs; on H800 (989 TFLOPS) at 40% 10,616,785 GPU-seconds, which
are 2,949.11 GPU-hours.
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Size:
    """What a run needs. `flops` in whole operations, `days` rounded up."""

    flops: int
    gpu_seconds: int
    cards: int
    days: int


def size_of(*, parameters_million: int, tokens_million: int, tflops: int, utilisation_percent: int, cards: int) -> Size:
    """Integers only, each division rounded up: asking for a second too few would stop the run."""
    flops = 6 * parameters_million * tokens_million * 10**12
    per_card = tflops * 10**10 * utilisation_percent  # operations per second
    gpu_seconds = -(-flops // per_card)
    return Size(flops, gpu_seconds, cards, -(-gpu_seconds // (cards * SECONDS_PER_DAY)))
