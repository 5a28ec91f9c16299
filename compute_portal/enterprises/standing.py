"""What speaks against an enterprise on a day: credit breaches, and parties it is not independent of.

The rules of programmes and vouchers ask here. Counting is pure; the two functions that read take a session.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .models import CreditBreach, Enterprise, RelatedParty


def months_after(day: dt.date, months: int) -> dt.date:
    """The same day of a later month, or the month's last day where it has no such day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return dt.date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def blocking(breaches: Iterable[CreditBreach], day: dt.date) -> CreditBreach | None:
    """The breach that blocks longest on `day`, None when nothing blocks."""
    in_force = [
        breach
        for breach in breaches
        if breach.happened_on <= day < breach.free_on and (breach.lifted_on is None or day < breach.lifted_on)
    ]
    return max(in_force, key=lambda breach: (breach.free_on, breach.id), default=None)


def breach_on(session: Session, enterprise_id: int, day: dt.date) -> CreditBreach | None:
    """The credit breach that blocks this enterprise on `day`. One query."""
    return blocking(session.scalars(sa.select(CreditBreach).where(CreditBreach.enterprise_id == enterprise_id)), day)


def relation_on(session: Session, enterprise_id: int, credit_code: str, day: dt.date) -> RelatedParty | None:
    """The entry by which this enterprise and the holder of `credit_code` are not independent on `day`. One query.

    An entry counts from both sides, whether it names the other by its row or by its code.
    """
    holder = sa.select(Enterprise.id).where(Enterprise.credit_code == credit_code)
    own_code = sa.select(Enterprise.credit_code).where(Enterprise.id == enterprise_id, Enterprise.credit_code != "")
    return session.scalar(
        sa.select(RelatedParty)
        .where(
            RelatedParty.from_on <= day,
            sa.or_(RelatedParty.until_on.is_(None), RelatedParty.until_on >= day),
            sa.or_(
                sa.and_(
                    RelatedParty.enterprise_id == enterprise_id,
                    sa.or_(RelatedParty.other_code == credit_code, RelatedParty.other_id.in_(holder)),
                ),
                sa.and_(
                    RelatedParty.enterprise_id.in_(holder),
                    sa.or_(RelatedParty.other_id == enterprise_id, RelatedParty.other_code.in_(own_code)),
                ),
            ),
        )
        .order_by(RelatedParty.id)
        .limit(1)
    )
