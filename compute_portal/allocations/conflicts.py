"""Who may not review whose request: declared ties, and people who belong or belonged to the enterprise.

Every verb that decides on a request, a change, a report or an appeal asks here, and so does every page that opens one.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from ..access import Actor, Permission, must_see, require
from ..enterprises.belonging import belonged, is_bound, same_firm
from ..enterprises.models import Enterprise
from ..lifecycle import note_event
from ..sentences import NotFound, Refusal, Sentence
from ..signin.models import BureauRole
from .models import Allocation
from .review_models import Interest, Waiver


class Tie(enum.StrEnum):
    DECLARED = "declared"
    MEMBER = "member"


def tie(user_id: Any) -> sa.ColumnElement[str | None]:
    """What binds a person (an id, or a column of ids) to the enterprise of the request in the same query.

    For a query over Allocation joined with Enterprise. NULL when nothing does, or an administrator has waived it.
    """
    other = orm.aliased(Enterprise)
    asked = orm.aliased(Allocation)
    waived = sa.exists().where(Waiver.allocation_id == Allocation.id, Waiver.user_id == user_id)
    declared = sa.exists().where(Interest.user_id == user_id, _names_the_firm())
    bound = sa.or_(
        belonged(user_id, other), sa.exists().where(asked.requested_by == user_id, asked.enterprise_id == other.id)
    )
    member = sa.select(other.id).where(same_firm(other), bound).correlate(Enterprise, Allocation).exists()
    if isinstance(user_id, orm.InstrumentedAttribute):
        inside = (Enterprise, Allocation, user_id.class_)
        member = sa.select(other.id).where(same_firm(other), bound).correlate(*inside).exists()
    return sa.case((waived, sa.null()), (declared, Tie.DECLARED.value), (member, Tie.MEMBER.value))


def tie_of(session: Session, allocation: Allocation, user_id: int | None) -> Tie | None:
    if user_id is None:
        return None
    found = session.scalar(
        sa.select(tie(user_id))
        .select_from(Allocation)
        .join(Enterprise, Enterprise.id == Allocation.enterprise_id)
        .where(Allocation.id == allocation.id)
    )
    return None if found is None else Tie(found)


def must_be_free(session: Session, allocation: Allocation, by: Actor) -> None:
    """Raises Refusal("conflict-declared" | "conflict-member") for somebody who is bound to the enterprise."""
    refuse(tie_of(session, allocation, by.user_id))


def must_be_free_to_read(session: Session, allocation: Allocation, by: Actor) -> None:
    """The same for what is only read: of the bureau. The enterprise's own people read what is theirs."""
    if by.is_bureau:
        must_be_free(session, allocation, by)


def must_be_free_of(session: Session, enterprise_id: int, by: Actor) -> None:
    """The same for an enterprise as a whole, where no request is named that a waiver could be for."""
    declared = sa.select(Interest.id).where(
        Interest.user_id == by.user_id,
        Enterprise.id == enterprise_id,
        _names_the_firm(),
    )
    if session.scalar(declared.limit(1)) is not None:
        refuse(Tie.DECLARED)
    if by.user_id is not None and is_bound(session, enterprise_id, by.user_id):
        refuse(Tie.MEMBER)


def _names_the_firm() -> sa.ColumnElement[bool]:
    """An interest is in the Enterprise of the same query."""
    return sa.or_(
        Interest.enterprise_id == Enterprise.id,
        Interest.enterprise_id == Enterprise.sponsor_id,  # a team stands and falls with its sponsor
        Interest.credit_code == Enterprise.credit_code,
    )


def refuse(tie: str | None) -> None:
    """Raises Refusal for a tie that a query found."""
    if tie is not None:
        raise Refusal(Sentence(f"conflict-{tie}"))


def declare(session: Session, allocation_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Interest:
    """Recuse oneself from a request, and from all others of the same firm.

    Raises Refusal at `conflict_reason`.
    """
    require(by, Permission.REVIEW_DECLARE)
    allocation = must_see(session.get(Allocation, allocation_id), by)
    if not reason.strip():
        raise Refusal(Sentence("conflict-needs-reason"), "conflict_reason")
    assert by.user_id is not None
    known = session.scalars(
        sa.select(Interest).where(Interest.user_id == by.user_id, Interest.enterprise_id == allocation.enterprise_id)
    ).first()
    if known is not None:
        return known
    firm = session.get_one(Enterprise, allocation.enterprise_id)
    interest = Interest(
        user_id=by.user_id,
        enterprise_id=firm.id,
        credit_code=firm.credit_code,
        reason=reason.strip(),
        declared_at=now,
    )
    session.add(interest)
    # The history is read by the applicant too: that somebody stepped back, not why.
    note_event(session, allocation, verb="declare", at=now, by=by, why=Sentence("conflict-stepped-back"))
    session.flush()
    return interest


def waive(session: Session, allocation_id: int, user_id: int, *, plan: str, by: Actor, now: dt.datetime) -> Waiver:
    """An administrator, not the person concerned, lets somebody with a conflict review this one request.

    Raises Refusal at `user_id` or `plan`.
    """
    require(by, Permission.REVIEW_WAIVE)
    allocation = must_see(session.get(Allocation, allocation_id), by)
    if session.scalar(sa.select(BureauRole.user_id).where(BureauRole.user_id == user_id).limit(1)) is None:
        raise NotFound
    if user_id == by.user_id:
        raise Refusal(Sentence("conflict-waive-own"), "user_id")
    must_be_free(session, allocation, by)
    if tie_of(session, allocation, user_id) is None:
        raise Refusal(Sentence("conflict-nothing-to-waive"), "user_id")
    if not plan.strip():
        raise Refusal(Sentence("conflict-needs-plan"), "plan")
    waiver = Waiver(
        allocation_id=allocation_id, user_id=user_id, plan=plan.strip(), waived_by=by.user_id, waived_at=now
    )
    session.add(waiver)
    note_event(session, allocation, verb="waive", at=now, by=by, why=Sentence("conflict-waived"))
    session.flush()
    return waiver
