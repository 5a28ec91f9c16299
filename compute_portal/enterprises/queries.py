"""Who a person is: the roles at the bureau, and the enterprises the person belongs to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM, Actor, Role
from ..sentences import NotFound
from ..signin.models import BureauRole, SshKey, User
from .models import Enterprise, Membership


@dataclass(frozen=True, slots=True)
class Place:
    """An enterprise somebody may act for, and as what."""

    enterprise_id: int
    name: str
    name_en: str | None
    role: Role


@dataclass(frozen=True, slots=True)
class Standing:
    """Bureau roles or places; a person has one of the two kinds, or nothing. Bureau roles win where data is wrong."""

    bureau_roles: frozenset[Role]
    places: tuple[Place, ...]

    def place_for(self, enterprise_id: int | None) -> Place | None:
        """The place of that enterprise, else the first; None for the bureau and for people without any."""
        if self.bureau_roles or not self.places:
            return None
        return next((place for place in self.places if place.enterprise_id == enterprise_id), self.places[0])

    def actor(self, user_id: int, enterprise_id: int | None) -> Actor:
        """Without any role an Actor who may do nothing."""
        place = self.place_for(enterprise_id)
        if place is not None:
            return Actor.of(user_id, frozenset({place.role}), place.enterprise_id)
        return Actor.of(user_id, self.bureau_roles)


def standing_of(session: Session, user_id: int) -> Standing:
    """One query. A disabled person has no standing."""
    enabled = sa.select(User.id).where(User.id == user_id, User.disabled_at.is_(None))
    at_the_bureau = sa.select(
        sa.literal(0).label("enterprise_id"),
        sa.literal("").label("name"),
        sa.literal(None, sa.String).label("name_en"),
        sa.cast(BureauRole.role, sa.String).label("role"),
    ).where(BureauRole.user_id.in_(enabled))
    in_enterprises = (
        sa.select(Enterprise.id, Enterprise.name, Enterprise.name_en, sa.cast(Membership.role, sa.String))
        .join(Membership, Membership.enterprise_id == Enterprise.id)
        .where(Membership.user_id.in_(enabled))
    )
    rows: Sequence[Any] = session.execute(sa.union_all(at_the_bureau, in_enterprises)).all()
    return Standing(
        bureau_roles=frozenset(Role(row.role) for row in rows if row.enterprise_id == 0),
        places=tuple(
            Place(row.enterprise_id, row.name, row.name_en, Role(row.role))
            for row in sorted(rows, key=lambda row: row.enterprise_id)
            if row.enterprise_id != 0
        ),
    )


def actor_for(session: Session, user_id: int, enterprise_id: int | None = None) -> Actor | None:
    """The Actor a person is, for commands, the simulation and tests.

    None when the person is disabled, has no role, or is no member of the given enterprise.
    """
    standing = standing_of(session, user_id)
    actor = standing.actor(user_id, enterprise_id)
    if not actor.roles or (enterprise_id is not None and actor.enterprise_id != enterprise_id):
        return None
    return actor


def get_enterprise(session: Session, enterprise_id: int, by: Actor) -> Enterprise:
    """The bureau sees all, a member only the enterprise acted for: another one does not exist."""
    if by is not SYSTEM and not by.is_bureau and by.enterprise_id != enterprise_id:
        raise NotFound
    enterprise = session.get(Enterprise, enterprise_id)
    if enterprise is None:
        raise NotFound
    return enterprise


def every_enterprise(find: str = "") -> sa.Select[Enterprise]:
    """In the order of registration, newest first; `find` is part of a name or of the credit code."""
    query = sa.select(Enterprise).order_by(Enterprise.id.desc())
    if find:
        query = query.where(
            sa.or_(
                Enterprise.name.icontains(find, autoescape=True),
                Enterprise.name_en.icontains(find, autoescape=True),
                Enterprise.credit_code.icontains(find, autoescape=True),
            )
        )
    return query


def count_members(session: Session, enterprise_ids: Iterable[int]) -> dict[int, int]:
    found = dict.fromkeys(enterprise_ids, 0)
    rows = session.execute(
        sa.select(Membership.enterprise_id, sa.func.count())
        .join(User, User.id == Membership.user_id)
        .where(Membership.enterprise_id.in_(found), User.disabled_at.is_(None))
        .group_by(Membership.enterprise_id)
    )
    for enterprise_id, members in rows:
        found[enterprise_id] = members
    return found


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A person in an enterprise. Shown to the enterprise itself and to the bureau."""

    user_id: int
    name: str
    name_en: str | None
    email: str
    role: Role
    since_at: dt.datetime


def list_members(session: Session, enterprise_id: int, *, offset: int = 0, limit: int = 25) -> list[MemberRow]:
    """Managers first, then those who came first; people whose access was taken away are left out."""
    rows = session.execute(
        sa.select(User.id, User.name, User.name_en, User.email, Membership.role, Membership.since_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.enterprise_id == enterprise_id, User.disabled_at.is_(None))
        .order_by(Membership.role, User.id)
        .limit(limit)
        .offset(offset)
    )
    return [MemberRow(*row) for row in rows]


def list_public_keys(session: Session, enterprise_ids: Iterable[int]) -> dict[int, list[str]]:
    """The SSH public keys of each enterprise's people, for the access hook. Nobody who is disabled."""
    keys: dict[int, list[str]] = {id: [] for id in enterprise_ids}
    for enterprise_id, public_key in session.execute(
        sa.select(Membership.enterprise_id, SshKey.public_key)
        .join(SshKey, SshKey.user_id == Membership.user_id)
        .join(User, User.id == Membership.user_id)
        .where(Membership.enterprise_id.in_(keys), SshKey.removed_at.is_(None), User.disabled_at.is_(None))
        .order_by(SshKey.id)
    ):
        keys[enterprise_id].append(public_key)
    return keys
