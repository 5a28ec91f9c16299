"""Lists of people, for administrators and auditors."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Role
from ..enterprises.models import Enterprise, Membership
from ..sentences import NotFound
from ..signin.models import BureauRole, User, UserSession
from ..signin.states import PersonState


@dataclass(frozen=True, slots=True)
class Belonging:
    """An enterprise of a person, and as what."""

    enterprise_id: int
    name: str
    name_en: str | None
    role: Role


def every_person(find: str = "", role: Role | None = None, state: PersonState | None = None) -> sa.Select[User]:
    """Newest first, without the erased. `find` is part of a name or address; `role` a bureau role."""
    query = sa.select(User).where(User.state != PersonState.ERASED).order_by(User.id.desc())
    if find:
        query = query.where(
            sa.or_(*(column.icontains(find, autoescape=True) for column in (User.name, User.name_en, User.email)))
        )
    if role is not None:
        query = query.where(User.id.in_(sa.select(BureauRole.user_id).where(BureauRole.role == role)))
    if state is not None:
        query = query.where(User.state == state)
    return query


def get_person(session: Session, user_id: int) -> User:
    """Raises NotFound, also for the erased: there is nothing to show."""
    user = session.get(User, user_id)
    if user is None or user.state is PersonState.ERASED:
        raise NotFound
    return user


def list_roles(session: Session, user_ids: Iterable[int]) -> dict[int, list[Role]]:
    """Bureau roles by person, in the order of `Role`."""
    found: dict[int, list[Role]] = {id: [] for id in user_ids}
    held = session.execute(sa.select(BureauRole.user_id, BureauRole.role).where(BureauRole.user_id.in_(found)))
    for user_id, role in held:
        found[user_id].append(role)
    return {id: sorted(roles, key=list(Role).index) for id, roles in found.items()}


def list_belongings(session: Session, user_ids: Iterable[int]) -> dict[int, list[Belonging]]:
    """Enterprises by person."""
    found: dict[int, list[Belonging]] = defaultdict(list)
    rows = session.execute(
        sa.select(Membership.user_id, Enterprise.id, Enterprise.name, Enterprise.name_en, Membership.role)
        .join(Enterprise, Enterprise.id == Membership.enterprise_id)
        .where(Membership.user_id.in_(list(user_ids)))
        .order_by(Enterprise.id)
    )
    for row in rows:
        found[row.user_id].append(Belonging(row.id, row.name, row.name_en, row.role))
    return found


def find_last_seen(session: Session, user_id: int) -> dt.datetime | None:
    """When one of the sessions that are still kept was used last."""
    seen: dt.datetime | None = session.scalar(
        sa.select(sa.func.max(UserSession.seen_at)).where(UserSession.user_id == user_id)
    )
    return seen
