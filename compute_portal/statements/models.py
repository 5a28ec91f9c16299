"""A month of an enterprise, priced. The lines of a draft are computed from the charges; closing freezes them."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, StatementState


class Statement(Base):
    """Totals are zero while it is a draft: the page computes them from the charges.

    `sponsor_id`: who pays for a team, as known when the month was closed; None: the enterprise itself.
    """

    __tablename__ = "statements"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(sa.String(24), unique=True)  # S-202611-00047: month and enterprise
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    sponsor_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    month: Mapped[str] = mapped_column(sa.String(7), index=True)
    state: Mapped[StatementState] = mapped_column(enum_type(StatementState, "state"))
    opened_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    rule_version: Mapped[str] = mapped_column(sa.String(20))
    tax_permille: Mapped[int]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    tax_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    __table_args__ = (sa.UniqueConstraint("enterprise_id", "month"),)


class StatementLine(Base):
    """One booking at one price, frozen by `close_month`. Append-only."""

    __tablename__ = "statement_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), index=True)
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"))
    tariff_id: Mapped[int] = mapped_column(sa.ForeignKey("tariffs.id"))
    adjustment: Mapped[bool]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    price_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    __table_args__ = (sa.UniqueConstraint("statement_id", "booking_id", "tariff_id", "adjustment"),)
