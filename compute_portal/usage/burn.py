"""An allocation's use day by day against what was awarded: the sums so far, and where the pace leads. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from .. import clock, plots
from .forecast import Forecast

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class BurnDay:
    """GPU-seconds of one day, and of all days until its end."""

    day: dt.date
    used: int
    so_far: int


@dataclass(frozen=True, slots=True)
class Burn:
    """`days` are those with use. The shapes are points for a box of plots.WIDTH × plots.HEIGHT."""

    days: list[BurnDay]
    scale: plots.Scale
    area: str  # used so far, down to the axis
    even: str  # if it were used evenly
    limit: float  # pixels down: what was awarded
    ahead: str  # where the pace of the last days leads; empty without one
    months: list[tuple[dt.date, float]]  # the first day of each month, and how far across in per cent


def burn(
    by_day: Mapping[dt.date, int],
    *,
    awarded: int,
    starts_on: dt.date,
    ends_on: dt.date,
    today: dt.date,
    forecast: Forecast | None,
) -> Burn:
    """`by_day` and `awarded` in GPU-seconds; the scale is in GPU-hours."""
    days, so_far = [], 0
    for day in sorted(by_day):
        so_far += by_day[day]
        days.append(BurnDay(day, by_day[day], so_far))
    first, last = min([starts_on, *by_day]), max([ends_on, *by_day])
    length = (last - first).days + 1
    scale = plots.scale(max(awarded, so_far) / 3600)

    def x(day: dt.date) -> float:
        return plots.WIDTH * (day - first).days / length

    def y(gpu_seconds: float) -> float:
        return scale.y(gpu_seconds / 3600)

    until = min(max([today, *by_day]), last)
    corners = [(x(first), y(0))]
    for each in days:
        corners += [(x(each.day), y(each.so_far - each.used)), (x(each.day + DAY), y(each.so_far))]
    corners += [(x(until + DAY), y(so_far)), (x(until + DAY), y(0))]
    ahead = ""
    if forecast is not None and forecast.pace is not None:
        end = ends_on if forecast.runs_out_at is None else min(ends_on, clock.day_of(forecast.runs_out_at))
        more = so_far + float(forecast.pace) * max(0, (end - until).days)
        ahead = _points([(x(until + DAY), y(so_far)), (x(end + DAY), y(min(more, max(awarded, so_far))))])
    months = [day for day in (first + i * DAY for i in range(length)) if day.day == 1]
    return Burn(
        days,
        scale,
        _points(corners),
        _points([(x(starts_on), y(0)), (x(ends_on + DAY), y(awarded))]),
        y(awarded),
        ahead,
        [(day, x(day) * 100 / plots.WIDTH) for day in months],
    )


def _points(corners: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
