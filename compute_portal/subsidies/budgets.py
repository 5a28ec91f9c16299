"""Budgets in yuan, from the ledger's entries alone: at any past day, through a year, and where the year will end.

All amounts are micro-yuan. What was *taken* is what stands of all promises: committed and spent together.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from .. import clock, units
from ..ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from ..ledger.queries import Budget
from .models import Scheme
from .queries import owner_of

PACE_DAYS = 90  # the forecast goes on as these days went
TAKEN = (Bucket.HELD, Bucket.USED)
LEFT = (Bucket.POOL, Bucket.OVERDRAFT)


@dataclass(frozen=True, slots=True)
class Forecast:
    """At the pace of the last days: what will be taken by the year's end, and the day on which nothing is left."""

    taken: int
    runs_out_on: dt.date | None


@dataclass(frozen=True, slots=True)
class Row:
    """One budget at the end of a day."""

    scheme: Scheme
    budget: Budget
    taken_this_year: int
    forecast: Forecast

    @property
    def forecast_left(self) -> int:
        return self.budget.budgeted - self.forecast.taken


def forecast(budget: Budget, taken_lately: int, on: dt.date, first_on: dt.date | None = None) -> Forecast:
    """`taken_lately`: in the last `PACE_DAYS`, or since `first_on` when that is less; below zero counts as zero."""
    days = PACE_DAYS if first_on is None else min(PACE_DAYS, max(1, (on - first_on).days + 1))
    pace = Fraction(max(0, taken_lately), days)
    to_come = pace * (dt.date(on.year, 12, 31) - on).days
    taken = budget.committed + budget.spent
    by_year_end = taken + units.round_half_up(to_come.numerator, to_come.denominator * units.MICRO_PER_FEN) * (
        units.MICRO_PER_FEN
    )
    if not pace or budget.left < 0:
        return Forecast(by_year_end, None)
    days_left = -(-budget.left // pace)
    runs_out = on + dt.timedelta(days=int(days_left)) if days_left < 36_500 else None
    return Forecast(by_year_end, runs_out)


def report(session: Session, schemes: Sequence[Scheme], on: dt.date) -> list[Row]:
    """Each scheme's budget at the end of `on`, in two statements for any number. Nothing later is looked at."""
    owners = {owner_of(scheme): scheme for scheme in schemes}
    end = clock.end_of_day(on)
    year = clock.start_of_day(dt.date(on.year, 1, 1))
    lately = end - dt.timedelta(days=PACE_DAYS)
    source, target = orm.aliased(LedgerAccount), orm.aliased(LedgerAccount)
    amount = LedgerEntry.amount
    rows = session.execute(
        sa.select(
            source.owner,
            source.bucket,
            target.owner,
            target.bucket,
            sa.func.sum(amount),
            sa.func.sum(sa.case((LedgerEntry.at >= year, amount), else_=0)),
            sa.func.sum(sa.case((LedgerEntry.at >= lately, amount), else_=0)),
            sa.func.min(LedgerEntry.at),
        )
        .join(source, source.id == LedgerEntry.from_account_id)
        .join(target, target.id == LedgerEntry.to_account_id)
        .where(
            LedgerEntry.unit == Unit.MICRO_YUAN,
            LedgerEntry.at < end,
            sa.or_(source.owner.in_(owners), target.owner.in_(owners)),
        )
        .group_by(source.owner, source.bucket, target.owner, target.bucket)
    )
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for from_owner, from_bucket, to_owner, to_bucket, in_all, this_year, recent, first_at in rows:
        owner = to_owner if to_owner in owners else from_owner
        sums[owner].add(from_bucket, to_bucket, int(in_all), int(this_year), int(recent), first_at)
    return [_row(scheme, sums[owner], on) for owner, scheme in owners.items()]


@dataclass(slots=True)
class _Sums:
    budgeted: int = 0
    committed: int = 0
    spent: int = 0
    this_year: int = 0
    lately: int = 0
    first_at: dt.datetime | None = None

    def add(
        self, source: Bucket, target: Bucket, in_all: int, this_year: int, lately: int, first_at: dt.datetime
    ) -> None:
        if source is Bucket.SOURCE:
            self.budgeted += in_all
            return
        for bucket, sign in ((source, -1), (target, 1)):
            if bucket is Bucket.HELD:
                self.committed += sign * in_all
            elif bucket is Bucket.USED:
                self.spent += sign * in_all
        direction = (target in TAKEN) - (source in TAKEN)
        self.this_year += direction * this_year
        self.lately += direction * lately
        if direction > 0 and (self.first_at is None or first_at < self.first_at):
            self.first_at = first_at


def _row(scheme: Scheme, sums: _Sums, on: dt.date) -> Row:
    budget = Budget(sums.budgeted, sums.committed, sums.spent)
    first_on = None if sums.first_at is None else clock.day_of(sums.first_at)
    return Row(scheme, budget, sums.this_year, forecast(budget, sums.lately, on, first_on))


@dataclass(frozen=True, slots=True)
class Point:
    """A budget at the end of a day."""

    day: dt.date
    budget: Budget


def through_the_year(session: Session, scheme: Scheme, on: dt.date) -> list[Point]:
    """The last day of the year before, each day of the year on which something moved, and `on`."""
    before = report(session, [scheme], dt.date(on.year - 1, 12, 31))[0].budget
    owner = owner_of(scheme)
    source, target = orm.aliased(LedgerAccount), orm.aliased(LedgerAccount)
    rows = session.execute(
        sa.select(LedgerEntry.at, source.bucket, target.bucket, LedgerEntry.amount)
        .join(source, source.id == LedgerEntry.from_account_id)
        .join(target, target.id == LedgerEntry.to_account_id)
        .where(
            LedgerEntry.unit == Unit.MICRO_YUAN,
            LedgerEntry.at >= clock.start_of_day(dt.date(on.year, 1, 1)),
            LedgerEntry.at < clock.end_of_day(on),
            sa.or_(source.owner == owner, target.owner == owner),
        )
        .order_by(LedgerEntry.id)
    )
    moved: dict[dt.date, _Sums] = defaultdict(_Sums)
    for at, from_bucket, to_bucket, amount in rows:
        moved[clock.day_of(at)].add(from_bucket, to_bucket, amount, 0, 0, at)
    points = [Point(dt.date(on.year - 1, 12, 31), before)]
    for day in sorted({*moved, on}):
        last, change = points[-1].budget, moved[day]
        points.append(
            Point(
                day,
                Budget(last.budgeted + change.budgeted, last.committed + change.committed, last.spent + change.spent),
            )
        )
    return points


def list_fundings(session: Session, scheme: Scheme, limit: int = 50) -> list[LedgerEntry]:
    """What the bureau added, newest first."""
    accounts = sa.select(LedgerAccount.id).where(
        LedgerAccount.owner == owner_of(scheme),
        LedgerAccount.unit == Unit.MICRO_YUAN,
        LedgerAccount.bucket.in_(LEFT),
    )
    return list(
        session.scalars(
            sa.select(LedgerEntry)
            .where(LedgerEntry.to_account_id.in_(accounts), LedgerEntry.verb == "fund")
            .order_by(LedgerEntry.id.desc())
            .limit(limit)
        )
    )


# -- the picture ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plot:
    """Coordinates in a box of 1,000 × 200 that is stretched to the page; `lines` are (amount, y) of the grid."""

    lines: tuple[tuple[int, float], ...]
    months: tuple[tuple[int, float], ...]  # (number, x)
    spent: str  # areas and lines as the points of an SVG polygon or polyline
    taken: str
    limit: str
    ahead: str
    now_x: float


WIDTH, HEIGHT = 1_000, 200


def draw(points: Sequence[Point], ahead: Forecast) -> Plot:
    """Spent and committed as steps through the year, the budget as a limit, the forecast to the year's end."""
    on = points[-1].day
    first = dt.date(on.year, 1, 1)
    length = (dt.date(on.year, 12, 31) - first).days + 1
    highest = max([ahead.taken, 1, *(max(p.budget.budgeted, p.budget.committed + p.budget.spent) for p in points)])
    top = _round_up(highest)

    def x(day: dt.date) -> float:
        return max(0, (day - first).days + 1) / length * WIDTH

    def y(amount: int) -> float:
        return HEIGHT - max(0, amount) / top * HEIGHT

    def steps(amounts: Sequence[int]) -> list[tuple[float, float]]:
        corners = [(x(points[0].day), y(amounts[0]))]
        for point, amount in zip(points[1:], amounts[1:], strict=True):
            corners += [(x(point.day), corners[-1][1]), (x(point.day), y(amount))]
        return corners

    taken = [p.budget.committed + p.budget.spent for p in points]
    return Plot(
        lines=tuple((amount, y(amount)) for amount in (0, top // 2, top)),
        months=tuple((n, (dt.date(on.year, n, 1) - first).days / length * WIDTH) for n in range(1, 13)),
        spent=_area(steps([p.budget.spent for p in points])),
        taken=_area(steps(taken)),
        limit=_points(steps([p.budget.budgeted for p in points])),
        ahead=_points([(x(on), y(taken[-1])), (WIDTH, y(ahead.taken))]),
        now_x=x(on),
    )


def _round_up(amount: int) -> int:
    """The next 1, 2 or 5 with zeros, so that the grid has readable numbers; even, so that its half is whole."""
    power = 2
    while True:
        for digit in (1, 2, 5):
            if amount <= digit * power:
                return digit * power
        power *= 10


def _area(corners: list[tuple[float, float]]) -> str:
    return _points([(corners[0][0], HEIGHT), *corners, (corners[-1][0], HEIGHT)])


def _points(corners: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
