"""Registered firms, the people in them, and what the bureau keeps about them."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..access import Role
from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, EnterpriseState, Relation, SizeClass

_IN_USE = sa.text("state <> 'declined'")


class Enterprise(Base):
    """A registered firm with a credit code, or a team without one that an enterprise sponsors.

    A declined application gives its name and code free: somebody else may be the right one.
    """

    __tablename__ = "enterprises"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(120))
    name_en: Mapped[str | None] = mapped_column(sa.String(120))
    credit_code: Mapped[str | None] = mapped_column(sa.String(18))
    size_class: Mapped[SizeClass] = mapped_column(enum_type(SizeClass, "size_class"))  # today's; see SizeChange
    state: Mapped[EnterpriseState] = mapped_column(enum_type(EnterpriseState, "state"))
    applied_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    applied_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    code_admitted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # though its check digit does not fit
    sponsor_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    sponsor_confirmed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    contact_name: Mapped[str | None] = mapped_column(sa.String(80))
    contact_phone: Mapped[str | None] = mapped_column(sa.String(40))
    address: Mapped[str | None] = mapped_column(sa.String(200))
    __table_args__ = (
        sa.CheckConstraint("credit_code IS NULL OR sponsor_id IS NULL", name="code_or_sponsor"),
        sa.Index("ix_enterprises_name_in_use", "name", unique=True, sqlite_where=_IN_USE, postgresql_where=_IN_USE),
        sa.Index(
            "ix_enterprises_credit_code_in_use",
            "credit_code",
            unique=True,
            sqlite_where=_IN_USE,
            postgresql_where=_IN_USE,
        ),
        sa.Index("ix_enterprises_state_applied_at", "state", "applied_at"),
    )


class Membership(Base):
    __tablename__ = "memberships"
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True, index=True)
    role: Mapped[Role] = mapped_column(enum_type(Role, "role"))
    since_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("role IN ('member', 'manager')", name="enterprise_role"),)


class Invitation(Base):
    """Somebody is asked to join. The link's token is in `one_time_links`; `address` is emptied once it is over."""

    __tablename__ = "invitations"
    id: Mapped[int] = mapped_column(primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    address: Mapped[str] = mapped_column(sa.String(254), index=True)  # lower case
    role: Mapped[Role] = mapped_column(enum_type(Role, "role"))
    language: Mapped[str] = mapped_column(sa.String(2))
    invited_by: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    invited_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    sent_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)  # the last time
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    accepted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    accepted_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    revoked_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (
        sa.CheckConstraint("role IN ('member', 'manager')", name="enterprise_role"),
        sa.CheckConstraint("language IN ('zh', 'en')", name="language"),
        sa.CheckConstraint("accepted_at IS NULL OR revoked_at IS NULL", name="one_end"),
    )


class SizeChange(Base):
    """Which size class an enterprise had from a day on. The newest row that begins on or before a day counts."""

    __tablename__ = "enterprise_sizes"
    id: Mapped[int] = mapped_column(primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    size_class: Mapped[SizeClass] = mapped_column(enum_type(SizeClass, "size_class"))
    from_on: Mapped[dt.date]
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class RelatedParty(Base):
    """Two firms that are not independent of each other, with the evidence; the other one need not be registered here.

    It holds from `from_on` to `until_on` (the last day; empty: still).
    """

    __tablename__ = "related_parties"
    id: Mapped[int] = mapped_column(primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    other_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    other_code: Mapped[str | None] = mapped_column(sa.String(18), index=True)
    other_name: Mapped[str | None] = mapped_column(sa.String(120))
    relation: Mapped[Relation] = mapped_column(enum_type(Relation, "relation"))
    evidence: Mapped[str] = mapped_column(sa.String(1000))
    from_on: Mapped[dt.date]
    until_on: Mapped[dt.date | None]
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    ended_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (
        sa.CheckConstraint("(other_id IS NULL) <> (other_code IS NULL)", name="one_other"),
        sa.CheckConstraint("other_id <> enterprise_id", name="not_itself"),
        sa.CheckConstraint("until_on >= from_on", name="period"),
    )


class CreditBreach(Base):
    """A credit breach of a firm. It blocks requests before `free_on`, counted by the rule when it was entered."""

    __tablename__ = "credit_breaches"
    id: Mapped[int] = mapped_column(primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    happened_on: Mapped[dt.date]
    free_on: Mapped[dt.date]
    evidence: Mapped[str] = mapped_column(sa.String(1000))
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    lifted_on: Mapped[dt.date | None]  # credit repaired: from this day on it blocks nothing
    lifted_why: Mapped[str | None] = mapped_column(sa.String(1000))
    lifted_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
