"""Registered firms and the people in them."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..access import Role
from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, EnterpriseState, SizeClass


class Enterprise(Base):
    __tablename__ = "enterprises"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(120), unique=True)
    name_en: Mapped[str | None] = mapped_column(sa.String(120))
    credit_code: Mapped[str] = mapped_column(sa.String(18), unique=True)
    size_class: Mapped[SizeClass] = mapped_column(enum_type(SizeClass, "size_class"))
    state: Mapped[EnterpriseState] = mapped_column(enum_type(EnterpriseState, "state"))
    applied_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class Membership(Base):
    __tablename__ = "memberships"
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), primary_key=True, index=True)
    role: Mapped[Role] = mapped_column(enum_type(Role, "role"))
    since_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("role IN ('member', 'manager')", name="enterprise_role"),)
