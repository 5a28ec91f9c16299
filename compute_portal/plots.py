"""Pictures as numbers: what a template draws as SVG. Pure. Across in thousandths of the width, down in pixels.

Lines and areas are drawn into a box that is stretched to the page's width; text stands outside of it and is not.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 180
# From which part of the cards that are taken on a cell is darker.
STEPS = (50, 70, 85, 95)


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour of a heat strip; `step` from 0 to 4, None where nothing is known."""

    at: dt.datetime
    percent: int | None
    step: int | None
    x: float
    width: float


def heat(percents: Mapping[dt.datetime, int | None]) -> list[Cell]:
    """Cells side by side, with a small gap; `x` and `width` in percent."""
    slot = 100 / max(len(percents), 1)
    return [
        Cell(at, percent, None if percent is None else sum(percent >= step for step in STEPS), slot * i, slot * 0.93)
        for i, (at, percent) in enumerate(percents.items())
    ]


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
    step = WIDTH / max(len(values) - 1, 1)
    runs: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{i * step:.1f},{on.y(value):.1f}")
    return [" ".join(run) for run in runs if run]


@dataclass(frozen=True, slots=True)
class Bar:
    """`x` and `width` in percent, `y` and `height` in pixels."""

    value: int
    x: float
    width: float
    y: float
    height: float


def bars(values: Sequence[int], on: Scale, *, part: float = 0.72) -> list[Bar]:
    slot = 100 / max(len(values), 1)
    return [
        Bar(value, slot * i + slot * (1 - part) / 2, slot * part, on.y(value), HEIGHT - on.y(value))
        for i, value in enumerate(values)
    ]
