"""Who belongs or belonged to an enterprise: such a person decides nothing about it, also after leaving."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from ..lifecycle import HistoryEntry
from .models import Enterprise, Invitation, Membership

# Verbs by which somebody speaks for the enterprise; the bureau's stand in the same history.
_OWN_VERBS = ("register", "apply", "change", "join")


def belonged(user_id: Any, other: Any) -> sa.ColumnElement[bool]:
    """Whether a person (an id, or a column of ids) belongs or belonged to the enterprise `other` of the same query."""
    own = sa.and_(HistoryEntry.verb.in_(_OWN_VERBS), HistoryEntry.by_id == user_id)
    return sa.or_(
        other.applied_by == user_id,
        sa.exists().where(Membership.user_id == user_id, Membership.enterprise_id == other.id),
        # kept after the person has left
        sa.exists().where(Invitation.accepted_by == user_id, Invitation.enterprise_id == other.id),
        sa.exists().where(
            HistoryEntry.kind == Enterprise.LIFE.kind,
            HistoryEntry.subject_id == other.id,
            sa.or_(own, HistoryEntry.why["member"].as_integer() == user_id),
        ),
    )


def same_firm(other: Any) -> sa.ColumnElement[bool]:
    """`other` is the Enterprise of the same query, its sponsor, or another registration of its credit code."""
    return sa.or_(
        other.id == Enterprise.id, other.id == Enterprise.sponsor_id, other.credit_code == Enterprise.credit_code
    )


def is_bound(session: Session, enterprise_id: int, user_id: int) -> bool:
    """Whether the person belongs or belonged to this firm. One query."""
    other = orm.aliased(Enterprise)
    found = session.scalar(
        sa.select(Enterprise.id).where(
            Enterprise.id == enterprise_id,
            sa.exists().where(same_firm(other), belonged(user_id, other)).correlate(Enterprise),
        )
    )
    return found is not None
