"""People, their sessions and keys, and what was tried at the door. Names live only in `users` and `ssh_keys`."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..access import Role
from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import PERSON_LIFE, PersonState


class User(Base):
    """A person. Erased, the row keeps its id and nothing that says who it was."""

    __tablename__ = "users"
    LIFE: ClassVar[Lifecycle] = PERSON_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(254), unique=True)  # lower case
    name: Mapped[str] = mapped_column(sa.String(80))
    name_en: Mapped[str | None] = mapped_column(sa.String(80))
    password_hash: Mapped[str | None] = mapped_column(sa.String(200))
    language: Mapped[str] = mapped_column(sa.String(2))
    theme: Mapped[str | None] = mapped_column(sa.String(5))
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    # Until the address is confirmed, the person sees only what is missing. Whoever the bureau or a command line makes
    # is known already.
    confirmed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    state: Mapped[PersonState] = mapped_column(enum_type(PersonState, "state"), default=PersonState.ACTIVE)
    disabled_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # set while the state is not active
    __table_args__ = (sa.CheckConstraint("language IN ('zh', 'en')", name="language"),)


class BureauRole(Base):
    """A bureau role; a person with one has no membership (checked where either is given)."""

    __tablename__ = "bureau_roles"
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    role: Mapped[Role] = mapped_column(enum_type(Role, "role"), primary_key=True)
    given_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class UserSession(Base):
    """A signed-in browser. The cookie holds a random token; here is only its SHA-256."""

    __tablename__ = "user_sessions"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    enterprise_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"))
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    # Whose pages somebody of the bureau sees instead of the own, acting for which enterprise, until when. Read only.
    viewing_user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    viewing_enterprise_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"))
    viewing_until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class SignInTry(Base):
    """A wrong password, counted per person and per address. `who` is a keyed hash, so that no address is stored."""

    __tablename__ = "sign_in_tries"
    id: Mapped[int] = mapped_column(primary_key=True)
    who: Mapped[str] = mapped_column(sa.String(64))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.Index("ix_sign_in_tries_who_at", "who", "at"),)


class OneTimeLink(Base):
    """A link that was mailed: see links.py. Here is only the SHA-256 of its token."""

    __tablename__ = "one_time_links"
    id: Mapped[int] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(sa.String(24))
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    subject_id: Mapped[int | None]
    address: Mapped[str] = mapped_column(sa.String(254))
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    taken_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (sa.Index("ix_one_time_links_subject", "purpose", "subject_id"),)


class RetentionRun(Base):
    """What was removed because its time was over. Append-only, and what the access log's protection asks: a row of
    that log may go only when it is older than a limit that is written down here."""

    __tablename__ = "retention_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    record: Mapped[str] = mapped_column(sa.String(24))
    before_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    removed: Mapped[int]
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.Index("ix_retention_runs_record_before_at", "record", "before_at"),)


class FormKey(Base):
    """A form that was sent. The same key again leads to the first result instead of a second booking."""

    __tablename__ = "form_keys"
    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    result: Mapped[str] = mapped_column(sa.String(200))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)


class AccessLogEntry(Base):
    """Sign-ins, denials and exports. Append-only, until its time is over; people by id, machines as they came."""

    __tablename__ = "access_log"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    kind: Mapped[str] = mapped_column(sa.String(24))
    user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    address: Mapped[str] = mapped_column(sa.String(45))
    path: Mapped[str] = mapped_column(sa.String(200))
    detail: Mapped[str | None] = mapped_column(sa.String(200))


class SshKey(Base):
    """A member's public key: what the access hook puts on the nodes of a running booking."""

    __tablename__ = "ssh_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(80))
    public_key: Mapped[str] = mapped_column(sa.Text)
    fingerprint: Mapped[str] = mapped_column(sa.String(80))
    added_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    removed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("user_id", "fingerprint"),)
