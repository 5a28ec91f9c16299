"""Telling an enterprise something: each of its managers, or of its people, in their own language."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Role
from ..notices import service as notices
from ..sentences import Sentence
from ..signin.models import User
from .models import Membership


def send_to_managers(
    session: Session,
    enterprise_id: int,
    *,
    about: Sentence,
    now: dt.datetime,
    body: Sequence[Sentence] = (),
    link: str | None = None,
    key: str | None = None,
) -> int:
    """Returns how many were told; nobody twice for the same `key`."""
    people = _people_of(session, enterprise_id, Role.MANAGER)
    return notices.send_to_all(
        session, people, about=about, body=body, link=link, key=key, now=now, enterprise_id=enterprise_id
    )


def send_to_members(
    session: Session,
    enterprise_id: int,
    *,
    about: Sentence,
    now: dt.datetime,
    body: Sequence[Sentence] = (),
    link: str | None = None,
    key: str | None = None,
) -> int:
    """Managers and members. Returns how many were told; nobody twice for the same `key`."""
    people = _people_of(session, enterprise_id, None)
    return notices.send_to_all(
        session, people, about=about, body=body, link=link, key=key, now=now, enterprise_id=enterprise_id
    )


def _people_of(session: Session, enterprise_id: int, role: Role | None) -> list[int]:
    query = (
        sa.select(Membership.user_id)
        .join(User, User.id == Membership.user_id)
        .where(Membership.enterprise_id == enterprise_id, User.disabled_at.is_(None))
    )
    if role is not None:
        query = query.where(Membership.role == role)
    return list(session.scalars(query))
