"""Who a person is: the roles at the bureau, and the enterprises the person belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Role
from ..signin.models import BureauRole, User
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
