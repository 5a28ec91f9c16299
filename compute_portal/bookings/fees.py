"""What a change of mind costs, in hours: pure, plain values in, numbers out. The percentages are the policy's.

* Called off before its start, a confirmed fixed booking costs a part of its window: the step that holds at that instant
  (free at 48 hours and more, 25 % from 48 down to 24 hours, 50 % below).
* Not used within the time for it, it costs that time and a part of the rest, of at most so many hours.
* What was given back and used by others comes back, as far as it was charged.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import clock
from ..policy import BookingPolicy
from ..pools.prices import PricePoint, Stretch, to_fen


@dataclass(frozen=True, slots=True)
class Part:
    """Hours that are charged at one price."""

    point: PricePoint
    gpu_seconds: int


@dataclass(frozen=True, slots=True)
class Term:
    """From `from_at` (None: since ever) to `until_at` cancelling costs this part of the window."""

    from_at: dt.datetime | None
    until_at: dt.datetime
    percent: int


def cancel_percent(starts_at: dt.datetime, at: dt.datetime, policy: BookingPolicy) -> int:
    """What part of the window calling it off at `at` costs. Nothing once the start has passed: the city is late."""
    if at >= starts_at:
        return 0
    return next(s.percent for s in policy.cancel_steps if starts_at - at >= s.hours_before * clock.HOUR)


def cancel_terms(starts_at: dt.datetime, policy: BookingPolicy) -> list[Term]:
    """The schedule of one booking, in order of time. At a border the cheaper one still holds."""
    found: list[Term] = []
    border: dt.datetime | None = None
    for step in policy.cancel_steps:
        until = starts_at - step.hours_before * clock.HOUR
        found.append(Term(border, until, step.percent))
        border = until
    return found


def parts_of(stretches: Iterable[Stretch], gpus: int, start: dt.datetime, end: dt.datetime) -> list[Part]:
    """The hours of a time, each at its frozen price."""
    found: dict[PricePoint, int] = {}
    for each in stretches:
        first, last = max(start, each.starts_at), min(end, each.ends_at)
        if first < last:
            seconds = gpus * clock.seconds_between(first, last)
            found[each.point] = found.get(each.point, 0) + seconds
    return [Part(point, seconds) for point, seconds in found.items()]


def share_of(parts: Sequence[Part], gpu_seconds: int) -> list[Part]:
    """So many of these hours, from each price in proportion; what does not divide falls on the first."""
    whole = sum(part.gpu_seconds for part in parts)
    if not whole or not gpu_seconds:
        return []
    shares = [part.gpu_seconds * gpu_seconds // whole for part in parts]
    shares[0] += gpu_seconds - sum(shares)
    return [Part(part.point, share) for part, share in zip(parts, shares, strict=True) if share]


def percent_of(parts: Sequence[Part], percent: int) -> list[Part]:
    """A part of these hours in whole GPU-seconds, cut."""
    return share_of(parts, sum(part.gpu_seconds for part in parts) * percent // 100)


def cost(parts: Iterable[Part]) -> int:
    """Micro-yuan before tax, each price rounded once."""
    return sum(to_fen(part.point.contract_of(part.gpu_seconds)) for part in parts)


def no_show_gpu_seconds(gpus: int, rest_seconds: int, policy: BookingPolicy) -> int:
    """What is charged of the rest of a window that nobody used."""
    return gpus * min(rest_seconds * policy.no_show_percent // 100, policy.no_show_most_hours * 3_600)


@dataclass(frozen=True, slots=True)
class Missed:
    """A window that nobody used, and what is charged of it, in GPU-seconds."""

    gpus: int
    hours: int
    gpu_seconds: int


def no_show_sample(policy: BookingPolicy, gpus: int = 8, hours: int = 10) -> Missed:
    """The rule with numbers: until it is released the cards were kept, and a part of the rest is charged."""
    kept = min(policy.claim_minutes * 60, hours * 3_600)
    return Missed(gpus, hours, gpus * kept + no_show_gpu_seconds(gpus, hours * 3_600 - kept, policy))


@dataclass(frozen=True, slots=True)
class Taken:
    """GPUs of one node, from when to when."""

    node_id: int
    gpu_mask: int
    starts_at: dt.datetime
    ends_at: dt.datetime


def rebooked(given_back: Iterable[Taken], others: Iterable[Taken]) -> int:
    """GPU-seconds that others had of what was given back. No GPU is given twice, so nothing counts twice."""
    by_node: dict[int, list[Taken]] = {}
    for each in others:
        by_node.setdefault(each.node_id, []).append(each)
    total = 0
    for mine in given_back:
        for each in by_node.get(mine.node_id, ()):
            gpus = (mine.gpu_mask & each.gpu_mask).bit_count()
            start, end = max(mine.starts_at, each.starts_at), min(mine.ends_at, each.ends_at)
            if gpus and start < end:
                total += gpus * clock.seconds_between(start, end)
    return total
