"""A third party looks at the schemes: a sample that anybody can draw again, and hours held against electricity."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..enterprises.models import Enterprise
from ..language import N_
from ..policy import AuditPolicy
from ..pools.models import Node, Pool
from ..statements.models import Statement
from ..subsidies import queries as subsidies
from ..subsidies.models import PowerReading, Scheme, SubsidyUse
from ..usage.models import UsageRecord
from .models import Claim

WATT_SECONDS_PER_KILOWATT_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """One subsidy of the sample: what took it, for whom, and where it is to be looked at."""

    use: SubsidyUse
    scheme: Scheme
    enterprise: Enterprise
    statement: Statement
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Sample:
    population: int
    amount_micro_yuan: int  # of the whole population
    drawn: tuple[Drawn, ...]


def sample(session: Session, month: str, *, seed: str, size: int) -> Sample:
    """The same seed draws the same subsidies of a month, wherever and whenever it is drawn.

    Drawn are the uses with the smallest SHA-256 of 'seed:reference'. What was given back is in nobody's favour and is
    left out.
    """
    population = session.execute(
        sa.select(SubsidyUse.id, SubsidyUse.reference, SubsidyUse.amount_micro_yuan).where(
            SubsidyUse.month == month, SubsidyUse.amount_micro_yuan > 0
        )
    ).all()
    in_order = sorted(population, key=lambda use: hashlib.sha256(f"{seed}:{use.reference}".encode()).digest())
    ids = [use.id for use in in_order[:size]]
    rows = session.execute(
        sa.select(SubsidyUse, Scheme, Enterprise, Statement, Claim)
        .join(Scheme, Scheme.id == SubsidyUse.scheme_id)
        .join(Enterprise, Enterprise.id == SubsidyUse.enterprise_id)
        .join(Statement, Statement.id == SubsidyUse.statement_id)
        .outerjoin(
            Claim,
            sa.and_(
                Claim.statement_id == SubsidyUse.statement_id,
                Claim.scheme_id == SubsidyUse.scheme_id,
                SubsidyUse.reference.startswith("claim:"),
            ),
        )
        .where(SubsidyUse.id.in_(ids))
    )
    found = {use.id: Drawn(use, scheme, firm, statement, claim) for use, scheme, firm, statement, claim in rows}
    return Sample(len(population), sum(use.amount_micro_yuan for use in population), tuple(found[id] for id in ids))


class Finding(enum.StrEnum):
    NO_READING = "no_reading"
    PLAUSIBLE = "plausible"
    TOO_LITTLE = "too_little"  # more hours were metered than the electricity allows
    TOO_MUCH = "too_much"  # more electricity than the pool can take


FINDINGS: dict[Finding, str] = {
    Finding.NO_READING: N_("no reading yet"),
    Finding.PLAUSIBLE: N_("plausible"),
    Finding.TOO_LITTLE: N_("more hours than the electricity carries"),
    Finding.TOO_MUCH: N_("more electricity than the pool can take"),
}


@dataclass(frozen=True, slots=True)
class PowerCheck:
    """One pool in one month. Kilowatt-hours: what its metered hours need at full load, at most, and what was read."""

    pool: Pool
    gpu_seconds: int
    expected: Fraction
    most: Fraction
    reading: PowerReading | None
    finding: Finding


def judge(measured: int | None, expected: Fraction, most: Fraction, policy: AuditPolicy) -> Finding:
    """Cards draw less than their rating, so part of what full load would take is enough; idle cards draw too."""
    if measured is None:
        return Finding.NO_READING
    if measured * 100 < expected * policy.power_least_percent:
        return Finding.TOO_LITTLE
    return Finding.TOO_MUCH if measured > most else Finding.PLAUSIBLE


def power_checks(session: Session, month: str, policy: AuditPolicy) -> list[PowerCheck]:
    """Every pool in a month: GPU-seconds × watts × PUE against its meter. Modelled against measured."""
    start, end = clock.month_bounds(month)
    used = _gpu_seconds(session, month)
    readings = _readings(session, month)
    cards = {
        pool_id: int(gpus)
        for pool_id, gpus in session.execute(sa.select(Node.pool_id, sa.func.sum(Node.gpus)).group_by(Node.pool_id))
    }
    checks = []
    for pool in session.scalars(sa.select(Pool).order_by(Pool.name)):
        seconds = used.get(pool.id, 0)
        capacity = cards.get(pool.id, 0) * clock.seconds_between(start, end)
        reading = readings.get(pool.id)
        expected, most = (kilowatt_hours(amount, pool.watts, policy) for amount in (seconds, capacity))
        finding = judge(None if reading is None else reading.kilowatt_hours, expected, most, policy)
        checks.append(PowerCheck(pool, seconds, expected, most, reading, finding))
    return checks


def kilowatt_hours(gpu_seconds: int, watts: int, policy: AuditPolicy) -> Fraction:
    """At full load, with what cooling and conversion add."""
    return Fraction(gpu_seconds * watts * policy.pue_permille, 1_000 * WATT_SECONDS_PER_KILOWATT_HOUR)


def _gpu_seconds(session: Session, month: str) -> Mapping[int, int]:
    rows = session.execute(
        sa.select(UsageRecord.pool_id, sa.func.sum(UsageRecord.gpu_seconds))
        .where(UsageRecord.day_on >= subsidies.first_day(month), UsageRecord.day_on <= subsidies.last_day(month))
        .group_by(UsageRecord.pool_id)
    )
    return {pool_id: int(seconds) for pool_id, seconds in rows}


def _readings(session: Session, month: str) -> Mapping[int, PowerReading]:
    """The newest of each pool."""
    rows = session.scalars(sa.select(PowerReading).where(PowerReading.month == month).order_by(PowerReading.id))
    return {reading.pool_id: reading for reading in rows}


def rounded(amount: Fraction) -> int:
    return units.round_half_up(amount.numerator, amount.denominator)


def month_before(day: dt.date) -> str:
    return clock.previous_month(f"{day:%Y-%m}")
