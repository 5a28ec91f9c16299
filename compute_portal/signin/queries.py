"""Reading people, their sessions and keys."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..db import among
from ..lifecycle import HistoryEntry, Lifecycle
from ..notices.models import Notice
from .models import SshKey, User, UserSession


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A live session and its person."""

    session_id: int
    user_id: int
    enterprise_id: int | None
    seen_at: dt.datetime
    name: str
    name_en: str | None
    email: str
    language: str
    theme: str | None
    confirmed_at: dt.datetime | None
    unread: int
    viewing_user_id: int | None
    viewing_enterprise_id: int | None
    viewing_until_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class PersonName:
    """What pages call somebody. An erased person has an empty name."""

    id: int
    name: str
    name_en: str | None


def hash_token(token: str) -> str:
    """What the database keeps of a session's cookie."""
    return hashlib.sha256(token.encode()).hexdigest()


# The live session of a cookie: not ended, not idle, not over its absolute end, its person not disabled; the columns
# are SignedIn's. Every request asks it, together with who the person is: `enterprises.queries.find_signed_in`.
SIGNED_IN = (
    sa.select(
        UserSession.id,
        UserSession.user_id,
        UserSession.enterprise_id,
        UserSession.seen_at,
        User.name,
        User.name_en,
        User.email,
        User.language,
        User.theme,
        User.confirmed_at,
        # how many notices the person has not read: every page shows it
        sa.select(sa.func.count())
        .where(Notice.user_id == UserSession.user_id, Notice.read_at.is_(None))
        .correlate(UserSession)
        .scalar_subquery(),
        UserSession.viewing_user_id,
        UserSession.viewing_enterprise_id,
        UserSession.viewing_until_at,
    )
    .join(User, User.id == UserSession.user_id)
    .where(
        UserSession.token_hash == sa.bindparam("token_hash"),
        UserSession.ended_at.is_(None),
        UserSession.expires_at > sa.bindparam("now"),
        UserSession.seen_at > sa.bindparam("not_idle_since"),
        User.disabled_at.is_(None),
    )
)


@dataclass(frozen=True, slots=True)
class Viewed:
    """A person whose pages somebody of the bureau looks at."""

    user_id: int
    name: str
    name_en: str | None
    email: str
    unread: int


def find_viewed(session: Session, user_id: int) -> Viewed | None:
    """None when the person was disabled meanwhile."""
    unread = sa.select(sa.func.count()).where(Notice.user_id == User.id, Notice.read_at.is_(None)).correlate(User)
    row = session.execute(
        sa.select(User.id, User.name, User.name_en, User.email, unread.scalar_subquery()).where(
            User.id == user_id, User.disabled_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else Viewed(*row)


def find_by_email(session: Session, email: str) -> User | None:
    return session.scalar(sa.select(User).where(User.email == email.strip().lower()))


def get_user(session: Session, user_id: int) -> User:
    return session.get_one(User, user_id)


_NAMES = sa.select(User.id, User.name, User.name_en).where(among(User.id, "wanted"), User.name != "")


def names_of(session: Session, user_ids: Iterable[int | None]) -> dict[int, PersonName]:
    """Names for histories and lists, in one query; ids that are None, unknown or of erased people are left out."""
    wanted = {user_id for user_id in user_ids if user_id is not None}
    if not wanted:
        return {}
    rows = session.connection().execute(_NAMES, {"wanted": list(wanted)}).all()
    return {id: PersonName(id, name, name_en) for id, name, name_en in rows}


def history_with_names(
    session: Session, life: Lifecycle, subject_id: int, others: Iterable[int | None] = (), limit: int = 100
) -> tuple[list[HistoryEntry], dict[int, PersonName]]:
    """A history, newest first, with the names of its people: one query. A second one only for `others` not in it."""
    rows = session.execute(
        sa.select(HistoryEntry, User.id, User.name, User.name_en)
        .outerjoin(User, User.id == HistoryEntry.by_id)
        .where(HistoryEntry.kind == life.kind, HistoryEntry.subject_id == subject_id)
        .order_by(HistoryEntry.id.desc())
        .limit(limit)
    ).all()
    names = {id: PersonName(id, name, name_en) for _entry, id, name, name_en in rows if id is not None}
    missing = names_of(session, set(others) - names.keys())
    return [row[0] for row in rows], {id: name for id, name in names.items() if name.name} | missing


def list_keys(session: Session, user_id: int) -> list[SshKey]:
    """A person's keys in use, newest first."""
    return list(
        session.scalars(
            sa.select(SshKey).where(SshKey.user_id == user_id, SshKey.removed_at.is_(None)).order_by(SshKey.id.desc())
        )
    )
