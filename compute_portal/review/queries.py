"""What the pages of a review show. The reviewer's and the applicant's never share a query that loads private text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from ..access import Actor, must_see
from ..allocations.conflicts import refuse, tie
from ..allocations.fair import decayed
from ..allocations.models import Allocation, FairUsage
from ..allocations.review_models import Decision, Interest, ReasonCode, RequestStep
from ..allocations.states import WAITING, AllocationState
from ..enterprises.models import Enterprise
from ..ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from ..pools.models import Node, Pool
from ..pools.states import NodeState
from ..programmes.models import EnterpriseShare, Programme
from ..sentences import NotFound
from ..signin.models import User
from .models import Appeal, Letter, Opinion, ReviewComment
from .states import AppealState

PAGE = 25
OF_AN_ALLOCATION = LedgerAccount.owner == sa.literal("allocation:") + sa.cast(Allocation.id, sa.String)
# Its hours: the same owner has a budget in micro-yuan too.
OF_THE_PROGRAMME = sa.and_(
    LedgerAccount.owner == sa.literal("programme:") + sa.cast(Allocation.programme_id, sa.String),
    LedgerAccount.unit == Unit.GPU_SECONDS,
)
OPEN_BUCKETS = (Bucket.AVAILABLE, Bucket.HELD, Bucket.WITHHELD)


@dataclass(frozen=True, slots=True)
class Request:
    """A request with what it belongs to, and the programme's hours in GPU-seconds."""

    allocation: Allocation
    programme: Programme
    pool: Pool
    enterprise: Enterprise
    left_gpu_seconds: int
    funded_gpu_seconds: int
    pool_gpus: int  # up


def get_request(session: Session, allocation_id: int, by: Actor) -> Request:
    """For a reviewer: one query. Raises NotFound, or Refusal for somebody with a conflict of interest."""
    left = (
        sa.select(LedgerAccount.balance)
        .where(OF_THE_PROGRAMME, LedgerAccount.bucket == Bucket.POOL)
        .correlate(Allocation)
        .scalar_subquery()
    )
    funded = (
        sa.select(sa.func.sum(LedgerEntry.amount))
        .join(LedgerAccount, LedgerAccount.id == LedgerEntry.to_account_id)
        .where(OF_THE_PROGRAMME, LedgerAccount.bucket == Bucket.POOL, LedgerEntry.verb == "fund")
        .correlate(Allocation)
        .scalar_subquery()
    )
    gpus = (
        sa.select(sa.func.sum(Node.gpus))
        .where(Node.pool_id == Allocation.pool_id, Node.state == NodeState.UP)
        .correlate(Allocation)
        .scalar_subquery()
    )
    row = session.execute(
        sa.select(Allocation, Programme, Pool, Enterprise, left, funded, gpus, tie(by.user_id))
        .join(Programme, Programme.id == Allocation.programme_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
        .where(Allocation.id == allocation_id)
    ).first()
    if row is None or row[0].state is AllocationState.DRAFT:
        raise NotFound
    must_see(row[0], by)
    refuse(row[7])
    return Request(row[0], row[1], row[2], row[3], row[4] or 0, int(row[5] or 0), int(row[6] or 0))


def get_own_request(session: Session, allocation_id: int, by: Actor) -> tuple[Allocation, Pool, Enterprise]:
    """For the applicant. Raises NotFound."""
    row = session.execute(
        sa.select(Allocation, Pool, Enterprise)
        .join(Pool, Pool.id == Allocation.pool_id)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
        .where(Allocation.id == allocation_id)
    ).first()
    if row is None or row[0].state is AllocationState.DRAFT:
        raise NotFound
    must_see(row[0], by)
    return row[0], row[1], row[2]


# -- what was said


@dataclass(frozen=True, slots=True)
class Said:
    """A remark or an opinion with the name of who said it. `private_text` is None for applicants, always."""

    at: dt.datetime
    by_id: int | None
    name: str
    name_en: str | None
    public_text: str | None = None
    private_text: str | None = None
    step_id: int | None = None
    round: int | None = None
    approves: bool | None = None
    awarded_gpu_seconds: int | None = None
    reason_code: str | None = None


def list_said(session: Session, allocation_id: int) -> tuple[list[Said], list[Said]]:
    """For reviewers: opinions, oldest first, and remarks, newest first. One query."""
    no_text, no_number = sa.literal(None, sa.Text), sa.literal(None, sa.BigInteger)
    opinions = sa.select(
        sa.literal(0).label("kind"), Opinion.id, Opinion.at, Opinion.by_id, Opinion.reason, no_text.label("private"),
        Opinion.step_id, Opinion.round, sa.cast(Opinion.approves, sa.Integer).label("approves"),
        Opinion.awarded_gpu_seconds, Opinion.reason_code,
    ).where(Opinion.allocation_id == allocation_id)  # fmt: skip
    remarks = sa.select(
        sa.literal(1), ReviewComment.id, ReviewComment.at, ReviewComment.by_id, ReviewComment.public_text,
        ReviewComment.private_text, no_number, no_number, no_number, no_number, no_text,
    ).where(ReviewComment.allocation_id == allocation_id)  # fmt: skip
    both = sa.union_all(opinions, remarks).subquery()
    rows = session.execute(
        sa.select(both, User.name, User.name_en).outerjoin(User, User.id == both.c.by_id).order_by(both.c.id)
    ).all()
    found: tuple[list[Said], list[Said]] = ([], [])
    for row in rows:
        found[row.kind].append(
            Said(
                row.at, row.by_id, row.name or "", row.name_en, row.reason, row.private, row.step_id, row.round,
                None if row.approves is None else bool(row.approves), row.awarded_gpu_seconds, row.reason_code,
            )
        )  # fmt: skip
    found[1].reverse()
    return found


def list_public_remarks(session: Session, allocation_id: int) -> list[Said]:
    """For the applicant, newest first: the private column is not even read."""
    rows = session.execute(
        sa.select(ReviewComment.at, ReviewComment.by_id, User.name, User.name_en, ReviewComment.public_text)
        .outerjoin(User, User.id == ReviewComment.by_id)
        .where(ReviewComment.allocation_id == allocation_id, ReviewComment.public_text.is_not(None))
        .order_by(ReviewComment.id.desc())
    )
    return [Said(at, by_id, name or "", name_en, text) for at, by_id, name, name_en, text in rows]


def list_reasons(session: Session) -> list[ReasonCode]:
    return list(session.scalars(sa.select(ReasonCode).where(ReasonCode.is_active).order_by(ReasonCode.position)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision with its letter, once that is issued."""

    decision: Decision
    reason: ReasonCode | None
    letter: Letter | None


def list_outcomes(session: Session, allocation_id: int) -> list[Outcome]:
    """The decision, and that on appeal. One query; a letter's content stays where it is."""
    rows = session.execute(
        sa.select(Decision, ReasonCode, Letter)
        .outerjoin(ReasonCode, ReasonCode.code == Decision.reason_code)
        .outerjoin(Letter, Letter.decision_id == Decision.id)
        .where(Decision.allocation_id == allocation_id)
        .order_by(Decision.id)
    )
    return [Outcome(*row) for row in rows]


def find_appeal(session: Session, allocation_id: int) -> Appeal | None:
    return session.scalars(sa.select(Appeal).where(Appeal.allocation_id == allocation_id)).first()


# -- before the click


@dataclass(frozen=True, slots=True)
class Other:
    """Another allocation of the enterprise, in GPU-seconds."""

    id: int
    state: AllocationState
    pool_id: int
    pool: str
    programme_id: int
    ends_on: dt.date
    awarded: int
    used: int
    available: int


def list_others(session: Session, allocation: Allocation, limit: int = 50) -> list[Other]:
    """What else the enterprise was awarded, newest first. One query."""

    def balance(bucket: Bucket) -> sa.ScalarSelect[int]:
        return (
            sa.select(LedgerAccount.balance)
            .where(OF_AN_ALLOCATION, LedgerAccount.bucket == bucket)
            .correlate(Allocation)
            .scalar_subquery()
        )

    rows = session.execute(
        sa.select(
            Allocation.id, Allocation.state, Allocation.pool_id, Pool.name, Allocation.programme_id,
            Allocation.ends_on, Allocation.awarded_gpu_seconds, balance(Bucket.USED), balance(Bucket.AVAILABLE),
        )
        .join(Pool, Pool.id == Allocation.pool_id)
        .where(
            Allocation.enterprise_id == allocation.enterprise_id,
            Allocation.id != allocation.id,
            Allocation.awarded_gpu_seconds.is_not(None),
        )
        .order_by(Allocation.id.desc())
        .limit(limit)
    )  # fmt: skip
    return [
        Other(id, state, pool_id, pool, programme_id, ends_on, awarded or 0, used or 0, available or 0)
        for id, state, pool_id, pool, programme_id, ends_on, awarded, used, available in rows
    ]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an enterprise stands among those of its programme in a pool: 1 is the most under-served of `of`.

    Shares in percent: of the decayed usage, and of what it is entitled to. `open_gpu_seconds` is what all of them
    together may still use in the pool.
    """

    place: int
    of: int
    used_percent: float
    entitled_percent: float
    open_gpu_seconds: int


def place_of(session: Session, allocation: Allocation, *, half_life_days: float, now: dt.datetime) -> Place:
    """As the scheduler has recorded usage, decayed to `now`. The enterprise counts also when it has nothing yet.

    One query: a row for each enterprise that used something, and one for all together.
    """
    shares = sa.func.coalesce(EnterpriseShare.shares, 1)
    active = sa.and_(
        Allocation.programme_id == allocation.programme_id,
        Allocation.pool_id == allocation.pool_id,
        Allocation.state == AllocationState.ACTIVE,
    )
    share_of = sa.and_(
        EnterpriseShare.programme_id == allocation.programme_id,
        EnterpriseShare.enterprise_id == Allocation.enterprise_id,
    )
    firms = sa.select(Allocation.enterprise_id, shares.label("shares")).outerjoin(EnterpriseShare, share_of)
    firms_of_all = firms.where(sa.or_(active, Allocation.id == allocation.id)).distinct().subquery()
    still_open = (
        sa.select(sa.func.sum(LedgerAccount.balance))
        .select_from(Allocation)
        .join(LedgerAccount, OF_AN_ALLOCATION)
        .where(
            Allocation.pool_id == allocation.pool_id,
            Allocation.state == AllocationState.ACTIVE,
            LedgerAccount.bucket.in_(OPEN_BUCKETS),
        )
        .scalar_subquery()
    )
    together = sa.select(
        sa.literal(None, sa.Integer).label("enterprise_id"),
        sa.func.sum(firms_of_all.c.shares).label("shares"),
        sa.func.count().label("number"),
        sa.cast(still_open, sa.Float).label("usage"),
        sa.literal(None, FairUsage.as_of.type).label("as_of"),
    )
    each = (
        sa.select(Allocation.enterprise_id, shares, sa.literal(0), FairUsage.usage, FairUsage.as_of)
        .join(FairUsage, FairUsage.allocation_id == Allocation.id)
        .outerjoin(EnterpriseShare, share_of)
        .where(active, FairUsage.usage > 0)
    )
    own = sa.select(Allocation.enterprise_id, shares, sa.literal(0), sa.literal(0.0), Allocation.requested_at)
    mine = own.outerjoin(EnterpriseShare, share_of).where(Allocation.id == allocation.id)
    usage: dict[int, float] = {}
    weight: dict[int, int] = {}
    all_shares, number, open_seconds = 1, 1, 0
    for enterprise_id, share, count, used, as_of in session.execute(sa.union_all(together, each, mine)):
        if enterprise_id is None:
            all_shares, number, open_seconds = int(share or 1), int(count or 1), int(used or 0)
            continue
        weight[enterprise_id] = int(share)
        counts = decayed(used, (now - as_of).total_seconds(), half_life_days * 86_400) if used else 0.0
        usage[enterprise_id] = usage.get(enterprise_id, 0.0) + counts
    me = allocation.enterprise_id
    total = sum(usage.values())
    level = {id: usage[id] / weight[id] for id in usage}
    ahead = (number - len(usage)) if level[me] > 0 else 0  # those that used nothing stand first
    ahead += sum(1 for id, each_level in level.items() if id != me and each_level < level[me])
    return Place(
        min(ahead + 1, number),
        number,
        100 * usage[me] / total if total else 0.0,
        100 * weight[me] / max(1, all_shares),
        open_seconds,
    )


# -- lists


@dataclass(frozen=True, slots=True)
class Waiting:
    allocation: Allocation
    enterprise: Enterprise
    pool: Pool
    step: RequestStep
    steps: int
    assigned: str | None
    assigned_en: str | None


def waiting() -> sa.Select[Allocation, Enterprise, Pool, RequestStep, int, str | None, str | None]:
    """Open steps by due time; what was given back to the applicant stands still and comes last."""
    other = orm.aliased(RequestStep)
    number = sa.select(sa.func.count()).where(other.allocation_id == Allocation.id).correlate(Allocation)
    return (
        sa.select(
            Allocation, Enterprise, Pool, RequestStep, number.scalar_subquery(), User.name, User.name_en,
        )
        .join(RequestStep, RequestStep.allocation_id == Allocation.id)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .outerjoin(User, User.id == RequestStep.assigned_to)
        .where(
            RequestStep.opened_at.is_not(None),
            RequestStep.done_at.is_(None),
            Allocation.state.in_((*WAITING, AllocationState.CHANGES_REQUESTED)),
        )
        .order_by(RequestStep.paused_at.is_not(None), RequestStep.due_at, RequestStep.id)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tally:
    """How many open steps wait for the bureau, are late, or wait for the applicant; and open appeals."""

    waiting: int
    late: int
    stopped: int
    appeals: int


def tally(session: Session, now: dt.datetime) -> Tally:
    """One query."""
    is_open = sa.and_(
        RequestStep.opened_at.is_not(None),
        RequestStep.done_at.is_(None),
        RequestStep.allocation_id == Allocation.id,
    )

    def number(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
        return (
            sa.select(sa.func.count(RequestStep.id))
            .select_from(RequestStep)
            .join(Allocation, is_open)
            .where(*where)
            .scalar_subquery()
        )

    running = Allocation.state.in_(WAITING)
    row = session.execute(
        sa.select(
            number(running),
            number(running, RequestStep.due_at <= now, RequestStep.paused_at.is_(None)),
            number(Allocation.state == AllocationState.CHANGES_REQUESTED),
            sa.select(sa.func.count(Appeal.id)).where(Appeal.state == AppealState.FILED).scalar_subquery(),
        )
    ).one()
    return Tally(*row)


def list_waiting(session: Session, offset: int = 0, limit: int = PAGE) -> list[Waiting]:
    return [Waiting(*row) for row in session.execute(waiting().offset(offset).limit(limit))]


@dataclass(frozen=True, slots=True)
class AppealRow:
    appeal: Appeal
    allocation: Allocation
    enterprise: Enterprise
    pool: Pool


def _appeals() -> sa.Select[Appeal, Allocation, Enterprise, Pool]:
    return (
        sa.select(Appeal, Allocation, Enterprise, Pool)
        .join(Allocation, Allocation.id == Appeal.allocation_id)
        .join(Enterprise, Enterprise.id == Appeal.enterprise_id)
        .join(Pool, Pool.id == Allocation.pool_id)
    )


def list_open_appeals(session: Session, limit: int = PAGE) -> list[AppealRow]:
    rows = session.execute(
        _appeals().where(Appeal.state == AppealState.FILED).order_by(Appeal.due_at, Appeal.id).limit(limit)
    )
    return [AppealRow(*row) for row in rows]


def get_appeal(session: Session, appeal_id: int, by: Actor) -> AppealRow:
    """For the bureau. Raises NotFound, or Refusal for somebody with a conflict of interest."""
    row = session.execute(_appeals().add_columns(tie(by.user_id)).where(Appeal.id == appeal_id)).first()
    if row is None:
        raise NotFound
    must_see(row[0], by)
    refuse(row[4])
    return AppealRow(*row[:4])


@dataclass(frozen=True, slots=True)
class Recused:
    user_id: int
    name: str
    name_en: str | None
    reason: str
    declared_at: dt.datetime


def list_recused(session: Session, enterprise_id: int) -> list[Recused]:
    """Who declared a tie to the enterprise, for the administrator who may waive it."""
    rows = session.execute(
        sa.select(Interest.user_id, User.name, User.name_en, Interest.reason, Interest.declared_at)
        .join(User, User.id == Interest.user_id)
        .where(Interest.enterprise_id == enterprise_id)
        .order_by(Interest.id)
    )
    return [Recused(*row) for row in rows]


# -- published


@dataclass(frozen=True, slots=True)
class DecisionTime:
    """How long decisions of a track take: working days, and the part that came in the promised time."""

    programme_id: int
    track: str
    decided: int
    promised_days: int
    median_days: float
    in_time_percent: int


def decision_times(
    session: Session, *, since: dt.datetime, programme_ids: Sequence[int] | None = None
) -> list[DecisionTime]:
    """Target, median and hit rate by programme and track, appeals and the applicant's time left out. One query.

    The median of an even number is the lower of the two in the middle; the target is that of the newest decision.
    """
    track = sa.func.coalesce(Decision.track, "")
    by_track = (Decision.programme_id, track)
    ranked = sa.select(
        Decision.programme_id,
        track.label("track"),
        Decision.used_seconds,
        Decision.promised_seconds,
        Decision.promised_days,
        sa.func.row_number().over(partition_by=by_track, order_by=(Decision.used_seconds, Decision.id)).label("place"),
        sa.func.count().over(partition_by=by_track).label("number"),
        sa.func.sum(sa.case((Decision.used_seconds <= Decision.promised_seconds, 1), else_=0))
        .over(partition_by=by_track)
        .label("hits"),
        sa.func.first_value(Decision.promised_days)
        .over(partition_by=by_track, order_by=Decision.id.desc())
        .label("target"),
    ).where(Decision.on_appeal.is_(False), Decision.decided_at >= since)
    if programme_ids is not None:
        ranked = ranked.where(Decision.programme_id.in_(programme_ids))
    rows = ranked.subquery()
    found = session.execute(
        sa.select(rows).where(rows.c.place == (rows.c.number + 1) // 2).order_by(rows.c.programme_id, rows.c.track)
    )
    return [
        DecisionTime(
            row.programme_id, row.track, row.number, row.target,
            row.used_seconds * row.promised_days / row.promised_seconds if row.promised_seconds else 0.0,
            100 * int(row.hits) // row.number,
        )
        for row in found
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AppealNumbers:
    """What became of appeals that were filed since a day."""

    filed: int
    open: int
    upheld: int
    dismissed: int
    in_time: int

    @property
    def decided(self) -> int:
        return self.upheld + self.dismissed


def appeal_numbers(session: Session, *, since: dt.datetime) -> AppealNumbers:
    """One query."""
    rows = session.execute(
        sa.select(
            Appeal.state,
            sa.func.count(),
            sa.func.sum(sa.case((Appeal.decided_at <= Appeal.due_at, 1), else_=0)),
        )
        .where(Appeal.filed_at >= since)
        .group_by(Appeal.state)
    ).all()
    numbers = {state: (count, int(hits or 0)) for state, count, hits in rows}
    counts = {state: numbers.get(state, (0, 0))[0] for state in AppealState}
    return AppealNumbers(
        sum(counts.values()),
        counts[AppealState.FILED],
        counts[AppealState.UPHELD],
        counts[AppealState.DISMISSED],
        sum(hits for state, (_, hits) in numbers.items() if state is not AppealState.FILED),
    )


def programmes_named(session: Session) -> dict[int, Programme]:
    return {programme.id: programme for programme in session.scalars(sa.select(Programme))}
