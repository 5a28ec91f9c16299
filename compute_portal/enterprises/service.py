"""Firms and who belongs to them."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import ENTERPRISE_ROLES, Actor, Role
from ..lifecycle import begin, move_to
from ..sentences import Refusal, Sentence
from ..signin.models import BureauRole
from .models import Enterprise, Membership
from .states import EnterpriseState, SizeClass


def register(
    session: Session,
    *,
    name: str,
    name_en: str | None,
    credit_code: str,
    size_class: SizeClass,
    by: Actor,
    now: dt.datetime,
) -> Enterprise:
    """A firm that has applied; an operator verifies it."""
    enterprise = Enterprise(
        name=name,
        name_en=name_en,
        credit_code=credit_code,
        size_class=size_class,
        state=EnterpriseState.APPLIED,
        applied_at=now,
    )
    session.add(enterprise)
    begin(session, enterprise, verb="register", at=now, by=by)
    return enterprise


def verify(session: Session, enterprise: Enterprise, *, by: Actor, now: dt.datetime) -> None:
    move_to(session, enterprise, EnterpriseState.VERIFIED, verb="verify", at=now, by=by)


def add_member(session: Session, enterprise_id: int, user_id: int, role: Role, *, now: dt.datetime) -> Membership:
    """A bureau role and a membership exclude each other."""
    if role not in ENTERPRISE_ROLES:
        raise ValueError(f"{role} is not an enterprise role")
    if session.scalar(sa.select(BureauRole.user_id).where(BureauRole.user_id == user_id).limit(1)) is not None:
        raise Refusal(Sentence("bureau-or-enterprise"))
    membership = Membership(user_id=user_id, enterprise_id=enterprise_id, role=role, since_at=now)
    session.add(membership)
    session.flush()
    return membership
