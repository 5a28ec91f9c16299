"""Who a person is: the roles at the bureau, and the enterprises the person belongs to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM, Actor, Role
from ..db import one_page
from ..sentences import NotFound
from ..signin import queries as signin
from ..signin.models import BureauRole, SshKey, User
from ..signin.queries import SignedIn
from .models import CreditBreach, Enterprise, Invitation, Membership, RelatedParty
from .states import EnterpriseState, SizeClass


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


def _standing() -> sa.CompoundSelect[Any]:
    enabled = sa.select(User.id).where(User.id == sa.bindparam("user_id"), User.disabled_at.is_(None))
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
    return sa.union_all(at_the_bureau, in_enterprises)


_STANDING = _standing()  # made once, because to put it together takes longer than to run it


def standing_of(session: Session, user_id: int) -> Standing:
    """One query. A disabled person has no standing."""
    rows: Sequence[Any] = session.connection().execute(_STANDING, {"user_id": user_id}).all()
    return Standing(
        bureau_roles=frozenset(Role(row.role) for row in rows if row.enterprise_id == 0),
        places=tuple(
            Place(row.enterprise_id, row.name, row.name_en, Role(row.role))
            for row in sorted(rows, key=lambda row: row.enterprise_id)
            if row.enterprise_id != 0
        ),
    )


# One row per bureau role or membership, one without either for who has none. Made once, like the other.
_SIGNED_IN = (
    signin.SIGNED_IN.add_columns(
        sa.cast(BureauRole.role, sa.String),
        sa.cast(Membership.role, sa.String),
        Membership.enterprise_id,
        Enterprise.name,
        Enterprise.name_en,
    )
    .outerjoin(BureauRole, BureauRole.user_id == User.id)
    .outerjoin(Membership, Membership.user_id == User.id)
    .outerjoin(Enterprise, Enterprise.id == Membership.enterprise_id)
)
_SESSION_COLUMNS = len(signin.SIGNED_IN.selected_columns)


def find_signed_in(
    session: Session, token: str, *, now: dt.datetime, idle_minutes: int
) -> tuple[SignedIn, Standing] | None:
    """Whose live session this cookie is, and what that person may be: one query."""
    since = now - dt.timedelta(minutes=idle_minutes)
    asked = {"token_hash": signin.hash_token(token), "now": now, "not_idle_since": since}
    rows = session.connection().execute(_SIGNED_IN, asked).all()
    if not rows:
        return None
    roles, places = set(), {}
    for *_session, bureau_role, role, enterprise_id, name, name_en in rows:
        if bureau_role is not None:
            roles.add(Role(bureau_role))
        if enterprise_id is not None:
            places[enterprise_id] = Place(enterprise_id, name, name_en, Role(role))
    standing = Standing(frozenset(roles), tuple(places[id] for id in sorted(places)))
    return SignedIn(*rows[0][:_SESSION_COLUMNS]), standing


def actor_for(session: Session, user_id: int, enterprise_id: int | None = None) -> Actor | None:
    """The Actor a person is, for commands, the simulation and tests.

    None when the person is disabled, has no role, or is no member of the given enterprise.
    """
    standing = standing_of(session, user_id)
    actor = standing.actor(user_id, enterprise_id)
    if not actor.roles or (enterprise_id is not None and actor.enterprise_id != enterprise_id):
        return None
    return actor


class EnterpriseName(NamedTuple):
    """What a list shows of an enterprise."""

    id: int
    name: str
    name_en: str | None


def get_enterprise(session: Session, enterprise_id: int, by: Actor) -> Enterprise:
    """The bureau sees all, a member only the enterprise acted for: another one does not exist."""
    if by is not SYSTEM and not by.is_bureau and by.enterprise_id != enterprise_id:
        raise NotFound
    enterprise = session.get(Enterprise, enterprise_id)
    if enterprise is None:
        raise NotFound
    return enterprise


class Listed(NamedTuple):
    """An enterprise in the bureau's list. `members` leaves out people whose access was taken away."""

    id: int
    name: str
    name_en: str | None
    state: EnterpriseState
    credit_code: str | None
    size_class: SizeClass
    applied_at: dt.datetime
    members: int


_MEMBERS = (
    sa.select(sa.func.count())
    .join_from(Membership, User, User.id == Membership.user_id)
    .where(Membership.enterprise_id == Enterprise.id, User.disabled_at.is_(None))
    .correlate(Enterprise)
    .scalar_subquery()
)
_LISTED = sa.select(
    Enterprise.id, Enterprise.name, Enterprise.name_en, Enterprise.state, Enterprise.credit_code,
    Enterprise.size_class, Enterprise.applied_at, _MEMBERS,
)  # fmt: skip
_WAITS_FIRST = (Enterprise.applied_at, Enterprise.id)


@cache
def _listing(state: EnterpriseState | None, size: int, *, is_first: bool) -> sa.Select[*tuple[Any, ...]]:
    """Newest first, those that wait for verification oldest first."""
    query = _LISTED if state is None else _LISTED.where(Enterprise.state == state)
    order = _WAITS_FIRST if state is EnterpriseState.APPLIED else (Enterprise.id.desc(),)
    return one_page(query.order_by(*order), size, is_first=is_first)


def fits(find: str) -> sa.ColumnElement[bool]:
    """`find` is part of a name or of the credit code."""
    return sa.or_(
        Enterprise.name.icontains(find, autoescape=True),
        Enterprise.name_en.icontains(find, autoescape=True),
        Enterprise.credit_code.icontains(find, autoescape=True),
    )


def list_enterprises(
    session: Session, find: str, state: EnterpriseState | None, *, offset: int, limit: int
) -> list[Listed]:
    """One page; the empty text finds all."""
    query = _listing(state, limit, is_first=not offset)
    rows = session.connection().execute(query.where(fits(find)) if find else query, {"offset": offset}).all()
    return [Listed(*row) for row in rows]


def count_fitting(session: Session, find: str, state: EnterpriseState | None) -> int:
    query = sa.select(sa.func.count()).select_from(Enterprise).where(fits(find))
    return session.scalar(query if state is None else query.where(Enterprise.state == state)) or 0


_BY_STATE = sa.select(Enterprise.state, sa.func.count()).group_by(Enterprise.state)


def count_by_state(session: Session) -> dict[EnterpriseState, int]:
    """One query; a state that no enterprise is in is 0."""
    found = dict.fromkeys(EnterpriseState, 0)
    for state, n in session.connection().execute(_BY_STATE):
        found[state] = n
    return found


def list_to_verify(session: Session, limit: int) -> list[Enterprise]:
    """What waits for an operator, longest first: teams only once their sponsor has confirmed."""
    return list(
        session.scalars(
            sa.select(Enterprise)
            .where(
                Enterprise.state == EnterpriseState.APPLIED,
                sa.or_(Enterprise.credit_code.is_not(None), Enterprise.sponsor_confirmed_at.is_not(None)),
            )
            .order_by(*_WAITS_FIRST)
            .limit(limit)
        )
    )


@dataclass(frozen=True, slots=True)
class Family:
    """An enterprise, who sponsors it, and the teams it sponsors or is asked to."""

    enterprise: Enterprise
    sponsor: Enterprise | None
    teams: list[Enterprise]

    @property
    def bill_to(self) -> Enterprise:
        """Who pays: a team's statements go to its sponsor."""
        return self.sponsor or self.enterprise


def get_family(session: Session, enterprise_id: int, by: Actor) -> Family:
    """One query. Raises NotFound as `get_enterprise` does."""
    if by is not SYSTEM and not by.is_bureau and by.enterprise_id != enterprise_id:
        raise NotFound
    its_sponsor = sa.select(Enterprise.sponsor_id).where(Enterprise.id == enterprise_id)
    rows = session.scalars(
        sa.select(Enterprise)
        .where(
            sa.or_(
                Enterprise.id == enterprise_id,
                sa.and_(Enterprise.sponsor_id == enterprise_id, Enterprise.state != EnterpriseState.DECLINED),
                Enterprise.id.in_(its_sponsor),
            )
        )
        .order_by(Enterprise.id)
    ).all()
    enterprise = next((row for row in rows if row.id == enterprise_id), None)
    if enterprise is None:
        raise NotFound
    return Family(
        enterprise,
        next((row for row in rows if row.id == enterprise.sponsor_id), None),
        [row for row in rows if row.sponsor_id == enterprise_id],
    )


def list_breaches(session: Session, enterprise_id: int) -> list[CreditBreach]:
    """The newest first."""
    return list(
        session.scalars(
            sa.select(CreditBreach)
            .where(CreditBreach.enterprise_id == enterprise_id)
            .order_by(CreditBreach.happened_on.desc(), CreditBreach.id.desc())
        )
    )


def get_breach(session: Session, breach_id: int) -> CreditBreach:
    """For the bureau, which sees all."""
    breach = session.get(CreditBreach, breach_id)
    if breach is None:
        raise NotFound
    return breach


def get_party(session: Session, party_id: int) -> RelatedParty:
    """For the bureau, which sees all."""
    party = session.get(RelatedParty, party_id)
    if party is None:
        raise NotFound
    return party


@dataclass(frozen=True, slots=True)
class RelatedRow:
    """An entry of the register, seen from one side: `other` is the row of the other side, if it is registered here.

    `mirrored`: the entry was made on the other side, and its relation reads the other way round.
    """

    party: RelatedParty
    other: Enterprise | None
    mirrored: bool

    @property
    def code(self) -> str | None:
        return self.other.credit_code if self.other is not None else self.party.other_code


def list_related(session: Session, enterprise: Enterprise) -> list[RelatedRow]:
    """Both sides in one query; those that still hold first."""
    names_us = RelatedParty.other_id == enterprise.id
    if enterprise.credit_code is not None:
        names_us = sa.or_(names_us, RelatedParty.other_code == enterprise.credit_code)
    its_own = RelatedParty.enterprise_id == enterprise.id
    other_side = sa.case((its_own, RelatedParty.other_id), else_=RelatedParty.enterprise_id)
    rows = session.execute(
        sa.select(RelatedParty, Enterprise)
        .outerjoin(Enterprise, Enterprise.id == other_side)
        .where(sa.or_(its_own, names_us))
        .order_by(RelatedParty.until_on.is_not(None), RelatedParty.from_on.desc(), RelatedParty.id.desc())
    )
    return [RelatedRow(party, other, party.enterprise_id != enterprise.id) for party, other in rows]


def list_invitations(session: Session, enterprise_id: int) -> list[Invitation]:
    """Those that nobody has answered, the newest first; also expired ones, which can be sent again."""
    return list(
        session.scalars(
            sa.select(Invitation)
            .where(
                Invitation.enterprise_id == enterprise_id,
                Invitation.accepted_at.is_(None),
                Invitation.revoked_at.is_(None),
            )
            .order_by(Invitation.id.desc())
        )
    )


def list_invitations_for(session: Session, address: str, now: dt.datetime) -> list[tuple[Invitation, Enterprise]]:
    """What a person with this confirmed address may accept."""
    rows = session.execute(
        sa.select(Invitation, Enterprise)
        .join(Enterprise, Enterprise.id == Invitation.enterprise_id)
        .where(
            Invitation.address == address,
            Invitation.accepted_at.is_(None),
            Invitation.revoked_at.is_(None),
            Invitation.expires_at > now,
            Enterprise.state != EnterpriseState.DECLINED,
        )
        .order_by(Invitation.id)
    )
    return [(invitation, enterprise) for invitation, enterprise in rows]


def get_member(session: Session, enterprise_id: int, user_id: int) -> MemberRow:
    """Raises NotFound when the person does not belong to this enterprise."""
    row = session.execute(
        sa.select(User.id, User.name, User.name_en, User.email, Membership.role, Membership.since_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.enterprise_id == enterprise_id, User.id == user_id)
    ).one_or_none()
    if row is None:
        raise NotFound
    return MemberRow(*row)


def count_members(session: Session, enterprise_id: int) -> int:
    """People whose access was taken away are left out."""
    query = sa.select(_MEMBERS).select_from(Enterprise).where(Enterprise.id == enterprise_id)
    return session.scalar(query) or 0


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A person in an enterprise. Shown to the enterprise itself and to the bureau."""

    user_id: int
    name: str
    name_en: str | None
    email: str
    role: Role
    since_at: dt.datetime


_MEMBER_ROWS = (
    sa.select(User.id, User.name, User.name_en, User.email, Membership.role, Membership.since_at)
    .join(Membership, Membership.user_id == User.id)
    .where(Membership.enterprise_id == sa.bindparam("enterprise_id"), User.disabled_at.is_(None))
    .order_by(Membership.role, User.id)
    .limit(sa.bindparam("limit"))
    .offset(sa.bindparam("offset"))
)


def list_members(session: Session, enterprise_id: int, *, offset: int = 0, limit: int = 25) -> list[MemberRow]:
    """Managers first, then those who came first; people whose access was taken away are left out."""
    these = {"enterprise_id": enterprise_id, "limit": limit, "offset": offset}
    return [MemberRow(*row) for row in session.connection().execute(_MEMBER_ROWS, these).all()]


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
