"""How well a queue served its enterprises over a day: waits, and shares got against shares entitled to. Pure.

Entitled is the weighted max-min share of what was really wanted: nobody is entitled to more than it asked for, and what
one leaves is shared by the others by their weights. A day counts only when more was wanted than there was; the share
deviation is then half of Σ |got − entitled| ÷ capacity: the part of the pool that went elsewhere than it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

LEAST_WEIGHT = 1e-9  # whoever has no share at all gets what all others leave


class Stay(NamedTuple):
    """A booking's time in a pool, instants as Unix seconds; `started_at`, `ended_at` None while still to come.

    One that is not `queued` has its window and waits for nobody.
    """

    enterprise_id: int
    gpus: int
    queued: bool
    asked_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Waits in seconds of what started in the period; the longest also of what still waits at its end. Without
    `deviation_permille` nobody had to share.

    `shares`: enterprise → GPU-seconds (got, entitled to), of a period in which somebody had to.
    """

    started: int
    waited: int
    longest: int
    deviation_permille: int | None
    shares: Mapping[int, tuple[int, int]]


def figures(stays: Iterable[Stay], weights: Mapping[int, float], capacity: int, start: int, end: int) -> Figures:
    """Of [start, end), in which the pool had `capacity` GPU-seconds. An enterprise without a weight counts as 1."""
    wanted: dict[int, int] = {}
    got: dict[int, int] = {}
    waits = []  # of those that started
    longest = 0
    for stay in stays:
        until = end if stay.ended_at is None else stay.ended_at
        since = until if stay.started_at is None else stay.started_at
        id = stay.enterprise_id
        wanted[id] = wanted.get(id, 0) + stay.gpus * _overlap(stay.asked_at, until, start, end)
        got[id] = got.get(id, 0) + stay.gpus * _overlap(since, until, start, end)
        if stay.queued and since >= start and stay.asked_at < end:
            longest = max(longest, min(since, end) - stay.asked_at)
            if stay.started_at is not None and since < end:
                waits.append(max(0, since - stay.asked_at))
    contended = sum(wanted.values()) > capacity > 0
    entitled = entitlements(wanted, weights, capacity) if contended else {}
    off = sum(abs(got[id] - entitled[id]) for id in entitled)
    return Figures(
        len(waits),
        sum(waits),
        longest,
        round(1_000 * off / (2 * capacity)) if contended else None,
        {id: (got[id], round(entitled[id])) for id in sorted(entitled)},
    )


def entitlements(wanted: Mapping[int, int], weights: Mapping[int, float], capacity: float) -> dict[int, float]:
    """Weighted max-min: fill everybody at a pace of their weights; who has all it wants leaves the rest to others."""
    given = dict.fromkeys(wanted, 0.0)
    weight = {id: max(weights.get(id, 1.0), LEAST_WEIGHT) for id in wanted if wanted[id] > 0}
    left, open_weight = float(capacity), sum(weight.values())
    for id in sorted(weight, key=lambda id: wanted[id] / weight[id]):  # who has enough first, comes first
        given[id] = min(float(wanted[id]), left * weight[id] / open_weight)
        left -= given[id]
        open_weight -= weight[id]
    return given


def _overlap(since: int, until: int, start: int, end: int) -> int:
    return max(0, min(until, end) - max(since, start))
