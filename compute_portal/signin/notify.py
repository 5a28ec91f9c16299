"""Telling the bureau something: everybody with a role, each in their own language."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Role
from ..notices import service as notices
from ..sentences import Sentence
from .models import BureauRole, User


def send_to_role(
    session: Session,
    role: Role,
    *,
    about: Sentence,
    now: dt.datetime,
    body: Sequence[Sentence] = (),
    link: str | None = None,
    key: str | None = None,
) -> int:
    """Returns how many were told; nobody twice for the same `key`."""
    people = session.scalars(
        sa.select(BureauRole.user_id)
        .join(User, User.id == BureauRole.user_id)
        .where(BureauRole.role == role, User.disabled_at.is_(None))
    )
    return notices.send_to_all(session, people, about=about, body=body, link=link, key=key, now=now)
