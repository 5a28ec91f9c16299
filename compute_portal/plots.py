"""Pictures as numbers: what a template draws as SVG. Pure. Across in thousandths of the width, down in pixels.

Lines and areas are drawn into a box that is stretched to the page's width; text stands outside of it and is not.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 180
# From which part of the cards that are taken on a cell is darker.
STEPS = (50, 70, 85, 95)


@dataclass(frozen=True, slots=True)
class Heat:
    """Hours side by side. `paths` are (step from 0 to 4, SVG path in a box of WIDTH × 10), without unknown hours."""

    cells: list[tuple[dt.datetime, int | None]]
    paths: list[tuple[int, str]]

    @property
    def emptiest(self) -> tuple[dt.datetime, int] | None:
        known = [(percent, at) for at, percent in self.cells if percent is not None]
        return (min(known)[1], min(known)[0]) if known else None

    def mean(self, first: int, last: int) -> int | None:
        """Of the cells from `first` to the one before `last`, in per cent."""
        known = [percent for _, percent in self.cells[first:last] if percent is not None]
        return round(sum(known) / len(known)) if known else None


def heat(percents: Mapping[dt.datetime, int | None]) -> Heat:
    """A path for each step draws all its cells: a page has hundreds of them."""
    slot = WIDTH / max(len(percents), 1)
    width = slot * 0.93
    by_step: dict[int, list[str]] = {}
    for i, percent in enumerate(percents.values()):
        if percent is not None:
            step = bisect_right(STEPS, percent)
            by_step.setdefault(step, []).append(f"M{slot * i:.1f} 0h{width:.1f}v10h-{width:.1f}z")
    return Heat(list(percents.items()), [(step, "".join(parts)) for step, parts in sorted(by_step.items())])


@dataclass(frozen=True, slots=True)
class Scale:
    """Round values from zero up, with the height of each line."""

    lines: list[tuple[int, float]]

    @property
    def top(self) -> int:
        return self.lines[-1][0]

    def y(self, value: float) -> float:
        return HEIGHT - value * HEIGHT / self.top


def scale(most: float) -> Scale:
    """Zero and two to five round numbers, the last at least `most`."""
    step = 1
    while True:
        for times in (1, 2, 5):
            count = -int(-max(most, 1) // (step * times))
            if count <= 5:
                size = step * times
                count = max(count, 2)
                return Scale([(size * i, HEIGHT - HEIGHT * i / count) for i in range(count + 1)])
        step *= 10


def line(values: Sequence[float | None], on: Scale) -> list[str]:
    """Points of polylines through the values, one per run without a gap."""
    step, up = WIDTH / max(len(values) - 1, 1), HEIGHT / on.top
    runs: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{i * step:.1f},{HEIGHT - value * up:.1f}")
    return [" ".join(run) for run in runs if run]


def bars(values: Sequence[int], on: Scale, *, part: float = 0.72) -> str:
    """Bars side by side as one SVG path, in a box of 100 × HEIGHT."""
    slot, up = 100 / max(len(values), 1), HEIGHT / on.top
    wide, aside = slot * part, slot * (1 - part) / 2
    return "".join(
        f"M{slot * i + aside:.3f} {HEIGHT:.1f}v-{value * up:.1f}h{wide:.3f}v{value * up:.1f}z"
        for i, value in enumerate(values)
    )
