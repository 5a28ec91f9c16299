"""What the public pages and the bureau's lists read: a few small tables, and rows that the timetable made."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..db import among
from ..policy import CommonsPolicy
from ..sentences import NotFound
from .models import Dataset, PoolDay, PoolHour, PowerSite, PublishedFigure, Transition
from .service import months_later
from .states import DatasetState, Figure, SiteState, TransitionState

# Anybody may load these pages, as often as they like: what they ask is put together once.
_FIGURES = sa.select(PublishedFigure).where(among(PublishedFigure.name, "names"))


def figures(session: Session, *names: Figure) -> dict[Figure, PublishedFigure]:
    """One query; what was never reckoned is missing."""
    return {row.name: row for row in session.scalars(_FIGURES, {"names": names})}


# -- datasets


def catalogue() -> sa.Select[Dataset]:
    """Those that are listed, by name."""
    return sa.select(Dataset).where(Dataset.state == DatasetState.LISTED).order_by(Dataset.name, Dataset.id)


def every_dataset() -> sa.Select[Dataset]:
    """Those that are listed first."""
    return sa.select(Dataset).order_by(Dataset.state, Dataset.name, Dataset.id)


def get_dataset(session: Session, dataset_id: int) -> Dataset:
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise NotFound
    return dataset


# -- what the bureau enters


_SITES = sa.select(PowerSite).order_by(PowerSite.since_on.desc(), PowerSite.id)
_TRANSITIONS = sa.select(Transition).order_by(Transition.happened_on.desc(), Transition.id.desc())


def list_sites(session: Session) -> list[PowerSite]:
    return list(session.scalars(_SITES))


def get_site(session: Session, site_id: int) -> PowerSite:
    site = session.get(PowerSite, site_id)
    if site is None:
        raise NotFound
    return site


def list_transitions(session: Session) -> list[Transition]:
    """Newest first, with those that were withdrawn."""
    return list(session.scalars(_TRANSITIONS))


def get_transition(session: Session, transition_id: int) -> Transition:
    transition = session.get(Transition, transition_id)
    if transition is None:
        raise NotFound
    return transition


@dataclass(frozen=True, slots=True)
class Power:
    """Kilowatts by stage, and the newest day of any."""

    by_stage: dict[SiteState, int]
    as_of: dt.date | None

    @property
    def committed(self) -> int:
        return self.by_stage[SiteState.COMMITTED]


def power(sites: Sequence[PowerSite]) -> Power:
    sums = dict.fromkeys(SiteState, 0)
    for site in sites:
        sums[site.state] += site.kilowatts
    return Power(sums, max((site.since_on for site in sites), default=None))


@dataclass(frozen=True, slots=True)
class Transitions:
    """Those that happened after `after_on`, newest first, and the day of the newest."""

    counted: list[Transition]
    after_on: dt.date
    as_of: dt.date | None

    @property
    def count(self) -> int:
        return len(self.counted)


def transitions(entered: Sequence[Transition], policy: CommonsPolicy, now: dt.datetime) -> Transitions:
    after = months_later(clock.day_of(now), -policy.transitions_of_months)
    counted = [row for row in entered if row.state is TransitionState.RECORDED and row.happened_on > after]
    return Transitions(counted, after, max((row.happened_on for row in counted), default=None))


# -- pools over time


@dataclass(frozen=True, slots=True)
class Use:
    """GPU-seconds of a time: all there were, out of service, given to bookings, metered."""

    capacity: int = 0
    down: int = 0
    allocated: int = 0
    used: int = 0

    @property
    def available(self) -> int:
        return self.capacity - self.down

    def __add__(self, other: Use) -> Use:
        return Use(
            self.capacity + other.capacity,
            self.down + other.down,
            self.allocated + other.allocated,
            self.used + other.used,
        )


_SUMS = tuple(
    sa.func.sum(column)
    for column in (
        PoolDay.capacity_gpu_seconds, PoolDay.down_gpu_seconds, PoolDay.allocated_gpu_seconds, PoolDay.used_gpu_seconds,
    )
)  # fmt: skip


_USE_BY_DAY = (
    sa.select(PoolDay.day_on, *_SUMS)
    .where(PoolDay.day_on.between(sa.bindparam("first_on"), sa.bindparam("last_on")))
    .group_by(PoolDay.day_on)
    .order_by(PoolDay.day_on)
)


def use_by_day(session: Session, first_on: dt.date, last_on: dt.date) -> dict[dt.date, Use]:
    """Of all pools together, both days included."""
    rows = session.connection().execute(_USE_BY_DAY, {"first_on": first_on, "last_on": last_on}).all()
    return {day: Use(*(int(each) for each in sums)) for day, *sums in rows}


def days(session: Session) -> Iterator[PoolDay]:
    """Every day of every pool, read while it is sent."""
    yield from session.scalars(
        sa.select(PoolDay).order_by(PoolDay.day_on, PoolDay.pool_id).execution_options(yield_per=500)
    )


_HOURS = (
    sa.select(
        PoolHour.pool_id,
        PoolHour.at,
        PoolHour.available_gpu_seconds,
        PoolHour.allocated_gpu_seconds,
        PoolHour.waiting_bookings,
        PoolHour.waiting_gpus,
    )
    .where(PoolHour.at >= sa.bindparam("since"))
    .order_by(PoolHour.at, PoolHour.pool_id)
)


def hours_since(session: Session, since: dt.datetime) -> list[Any]:
    """(pool, instant, available and allocated GPU-seconds, bookings and GPUs that waited), in order of time."""
    return list(session.connection().execute(_HOURS, {"since": since}).all())
