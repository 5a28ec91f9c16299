"""What the rules of a programme look at, gathered for one enterprise; and what a request would mean today."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..enterprises.models import Enterprise
from ..enterprises.standing import breach_on
from ..files.models import File
from ..ledger.models import Bucket, LedgerAccount
from ..programmes import queries as programmes
from ..programmes.models import Programme
from ..programmes.rules import Facts, Rules
from .models import Allocation, Report
from .states import AllocationState, ReportKind, ReportState

FILES = "allocation"  # owner_kind of a request's documents
# These hold a place in a programme that takes so many requests; a draft does not, nor what was given up or declined.
NO_PLACE = (AllocationState.DRAFT, AllocationState.WITHDRAWN, AllocationState.DECLINED)


def find_facts(
    session: Session,
    enterprise: Enterprise,
    programme: Programme,
    now: dt.datetime,
    *,
    track: str | None = None,
    allocation_id: int | None = None,
) -> Facts:
    """Three queries. `allocation_id` is the request itself: it does not count as another one, its documents count."""
    day = clock.day_of(now)
    breach = breach_on(session, enterprise.id, day)
    overdue = sa.and_(
        Report.enterprise_id == enterprise.id,
        Report.kind == ReportKind.FINAL,
        Report.state.in_((ReportState.DUE, ReportState.RETURNED)),
        Report.due_on < day,
    )
    used = sa.select(LedgerAccount.id).where(
        LedgerAccount.owner == sa.literal("allocation:") + sa.cast(Allocation.id, sa.String),
        LedgerAccount.bucket == Bucket.USED,
        LedgerAccount.balance > 0,
    )
    others = sa.select(sa.func.count()).select_from(Allocation)
    if allocation_id is not None:
        others = others.where(Allocation.id != allocation_id)
    earlier = others.where(
        Allocation.enterprise_id == enterprise.id, Allocation.state == AllocationState.CLOSED, used.exists()
    )
    places = others.where(
        Allocation.programme_id == programme.id,
        Allocation.state.not_in(NO_PLACE),
        Allocation.carried_from_id.is_(None),
    )
    benchmarks = (
        sa.select(sa.func.count())
        .select_from(File)
        .where(
            File.owner_kind == FILES,
            File.owner_id == (allocation_id or 0),
            File.kind == "benchmark",
            File.removed_at.is_(None),
        )
    )
    row = session.execute(
        sa.select(
            sa.select(sa.func.count()).select_from(Report).where(overdue).scalar_subquery(),
            sa.select(sa.func.min(Report.due_on)).where(overdue).scalar_subquery(),
            earlier.scalar_subquery(),
            places.scalar_subquery(),
            benchmarks.scalar_subquery(),
        )
    ).one()
    return Facts(
        day=day,
        enterprise_state=enterprise.state.value,
        size_class=enterprise.size_class.value,
        breach_on=None if breach is None else breach.happened_on,
        breach_free_on=None if breach is None else breach.free_on,
        overdue_reports=row[0],
        oldest_overdue_on=row[1],
        starts_on=programme.starts_on,
        ends_on=programme.ends_on,
        requests=row[3],
        left_gpu_seconds=programmes.hours(session, [programme.id])[programme.id].left,
        earlier_grants=row[2],
        has_benchmark=row[4] > 0,
        track=track,
    )


@dataclass(frozen=True, slots=True)
class UsualStart:
    """How long a booking of so many cards for so many hours would wait in the pool, asked for at that moment: between
    the first and the last of these seconds, half of the time less than the middle."""

    gpus: int
    hours: int
    p10_seconds: int
    p50_seconds: int
    p90_seconds: int


@dataclass(frozen=True, slots=True)
class Preview:
    """If this were approved today: hours left in the programme, when the decision may be expected, and the queue.

    `usual_seconds` is the median of what decisions of this track took, `ahead` how many requests wait already.
    """

    left_gpu_seconds: int
    left_after_gpu_seconds: int
    decision_days: int
    usual_seconds: int | None
    ahead: int
    start: UsualStart | None  # None where nobody has looked ahead yet

    def to_json(self) -> dict[str, Any]:
        return {
            "left_gpu_seconds": self.left_gpu_seconds, "left_after_gpu_seconds": self.left_after_gpu_seconds,
            "decision_days": self.decision_days, "usual_seconds": self.usual_seconds, "ahead": self.ahead,
            "start": None if self.start is None else dataclasses.asdict(self.start),
        }  # fmt: skip


def preview(
    session: Session,
    programme: Programme,
    rules: Rules,
    track: str,
    gpu_seconds: int,
    facts: Facts,
    start: UsualStart | None,
) -> Preview:
    """Two queries. It is kept with the request, beside what came true."""
    times = decision_times(session, programme.id).get(track)
    ahead = session.scalar(
        sa.select(sa.func.count()).where(
            Allocation.programme_id == programme.id,
            Allocation.track == track,
            Allocation.state.in_((AllocationState.SUBMITTED, AllocationState.IN_REVIEW)),
        )
    )
    return Preview(
        facts.left_gpu_seconds,
        facts.left_gpu_seconds - gpu_seconds,
        rules.track(track).decision_days,
        None if times is None else times.median_seconds,
        ahead or 0,
        start,
    )


@dataclass(frozen=True, slots=True)
class DecisionTimes:
    """How long decisions of a track took: how many, the median, and what part (percent) was in the promised time."""

    decided: int
    median_seconds: int
    in_time_percent: int


LATEST = 500


def decision_times(session: Session, programme_id: int) -> dict[str, DecisionTimes]:
    """By track, over the newest decisions. One query; the middle of an even number is the lower one."""
    rows = session.execute(
        sa.select(Allocation.track, Allocation.requested_at, Allocation.decided_at, Allocation.due_at)
        .where(
            Allocation.programme_id == programme_id,
            Allocation.decided_at.is_not(None),
            Allocation.track.is_not(None),
            Allocation.carried_from_id.is_(None),
        )
        .order_by(Allocation.id.desc())
        .limit(LATEST)
    ).all()
    by_track: dict[str, list[tuple[int, bool]]] = {}
    for track, asked, decided, due in rows:
        assert track is not None and decided is not None
        by_track.setdefault(track, []).append((clock.seconds_between(asked, decided), decided <= due))
    found = {}
    for track, decisions in by_track.items():
        seconds = sorted(each for each, _ in decisions)
        hits = sum(in_time for _, in_time in decisions)
        found[track] = DecisionTimes(len(decisions), seconds[(len(seconds) - 1) // 2], 100 * hits // len(decisions))
    return found


def automatic_elsewhere(session: Session, allocation: Allocation) -> int:
    """GPU-seconds the enterprise already has from this track of this programme in the same time.

    Many small requests are one large one: together they stay within what the track gives by itself.
    """
    total = session.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(Allocation.awarded_gpu_seconds), 0)).where(
            Allocation.enterprise_id == allocation.enterprise_id,
            Allocation.programme_id == allocation.programme_id,
            Allocation.track == allocation.track,
            Allocation.id != allocation.id,
            # a closed one whose time still goes on was ended early, because it was used up
            Allocation.state.in_((AllocationState.ACTIVE, AllocationState.SUSPENDED, AllocationState.CLOSED)),
            Allocation.ends_on >= allocation.starts_on,
            Allocation.starts_on <= allocation.ends_on,
        )
    )
    return int(total or 0)
