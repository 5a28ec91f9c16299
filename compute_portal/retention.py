"""What goes when its time is over, and what that is: one line per kind of record, with its days in the policy.

History, ledger, usage and statements are never removed: they name people by id only, and erasing a person is another
matter (`people/service.py`). Each removal is written down in `retention_runs`, which is also what the database asks for
before it lets rows of the access log go.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .bookings.models import Estimate
from .desk.models import TimetableRun
from .enterprises.models import Invitation
from .notices.models import Delivery, Notice
from .policy import RetentionPolicy
from .signin.models import AccessLogEntry, FormKey, OneTimeLink, RetentionRun, SignInTry, UserSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """A kind of row that goes. Its days are counted from `since`; `where` leaves out what is not done."""

    name: str
    model: type[Any]
    since: Any
    days: Callable[[RetentionPolicy], int]
    where: Any = None

    def over(self, before_at: dt.datetime) -> sa.ColumnElement[bool]:
        old: sa.ColumnElement[bool] = self.since < before_at
        return old if self.where is None else sa.and_(old, self.where)


RECORDS = (
    Record("form_keys", FormKey, FormKey.at, lambda days: days.form_keys_days),
    Record("sign_in_tries", SignInTry, SignInTry.at, lambda days: days.sign_in_tries_days),
    Record("one_time_links", OneTimeLink, OneTimeLink.made_at, lambda days: days.one_time_links_days),
    Record(
        "invitations",
        Invitation,
        Invitation.expires_at,
        lambda days: days.invitations_days,
        Invitation.accepted_at.is_(None),
    ),
    Record(
        "sessions",
        UserSession,
        sa.func.coalesce(UserSession.ended_at, UserSession.expires_at, type_=UserSession.expires_at.type),
        lambda days: days.sessions_days,
    ),
    Record("timetable_runs", TimetableRun, TimetableRun.due_at, lambda days: days.timetable_runs_days),
    Record("notices", Notice, Notice.at, lambda days: days.notices_days, Notice.delivery != Delivery.WAITING),
    Record("estimates", Estimate, Estimate.made_at, lambda days: days.estimates_days, Estimate.closed_at.is_not(None)),
    Record("access_log", AccessLogEntry, AccessLogEntry.at, lambda days: days.access_log_days),
)


@dataclass(frozen=True, slots=True)
class Due:
    """Rows of one kind whose time is over."""

    record: Record
    before_at: dt.datetime
    rows: int
    oldest_at: dt.datetime | None


def due(session: Session, policy: RetentionPolicy, *, now: dt.datetime) -> Iterator[Due]:
    """What `remove` would remove now. Reads only."""
    for record in RECORDS:
        before_at = now - dt.timedelta(days=record.days(policy))
        rows, oldest_at = session.execute(
            sa.select(sa.func.count(), sa.func.min(record.since))
            .select_from(record.model)
            .where(record.over(before_at))
        ).one()
        yield Due(record, before_at, rows, oldest_at)


def remove(
    transact: Callable[[Callable[[Session], int]], int], policy: RetentionPolicy, *, now: dt.datetime
) -> dict[str, int]:
    """Remove it, each kind in a transaction of its own. Returns how many rows of each kind went."""
    return {record.name: transact(lambda s, record=record: _remove(s, record, policy, now)) for record in RECORDS}  # type: ignore[misc]


def _remove(session: Session, record: Record, policy: RetentionPolicy, now: dt.datetime) -> int:
    before_at = now - dt.timedelta(days=record.days(policy))
    over = record.over(before_at)
    rows = session.scalar(sa.select(sa.func.count()).select_from(record.model).where(over)) or 0
    if rows:
        # First the limit, then the rows: the access log lets nothing go without it.
        session.add(RetentionRun(record=record.name, before_at=before_at, removed=rows, at=now))
        session.flush()
        session.execute(sa.delete(record.model).where(over), execution_options={"synchronize_session": False})
    return rows
