"""Reimbursements: what a scheme gives back on a settled statement, from the opening by itself to the payment."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import LIFE, ClaimState


class Claim(Base):
    """One scheme on one settled statement. `cost` is what was paid for the lines that count, `amount` the subsidy.

    `shares` says who pays how much of it, `pack_sha256` is the hash of the evidence pack as it was confirmed.
    """

    __tablename__ = "claims"
    LIFE: ClassVar[Lifecycle] = LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(sa.String(24), unique=True)  # C-202611-00047-2: month, enterprise, scheme
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"))
    scheme_id: Mapped[int] = mapped_column(sa.ForeignKey("schemes.id"), index=True)
    version_id: Mapped[int] = mapped_column(sa.ForeignKey("scheme_versions.id"))
    state: Mapped[ClaimState] = mapped_column(enum_type(ClaimState, "state"))
    cost_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    bonus_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")  # part of the amount
    shares: Mapped[dict[str, int]] = mapped_column(sa.JSON)
    opened_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    confirmed_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    confirmed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    pack_file_id: Mapped[int | None] = mapped_column(sa.ForeignKey("files.id"))
    pack_sha256: Mapped[str | None] = mapped_column(sa.String(64))
    checked_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    approved_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    paid_on: Mapped[dt.date | None]
    payment_reference: Mapped[str | None] = mapped_column(sa.String(60))
    __table_args__ = (
        sa.UniqueConstraint("statement_id", "scheme_id"),
        sa.CheckConstraint("amount_micro_yuan > 0", name="something"),
        sa.CheckConstraint("checked_by <> approved_by", name="two_people"),
        sa.Index("ix_claims_state_id", "state", "id"),
    )


class ClaimLine(Base):
    """A line of the statement that the claim counts, with the rate it was counted at. Append-only."""

    __tablename__ = "claim_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    claim_id: Mapped[int] = mapped_column(sa.ForeignKey("claims.id"), index=True)
    statement_line_id: Mapped[int] = mapped_column(sa.ForeignKey("statement_lines.id"))
    cost_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    rate_permille: Mapped[int]


class ClaimVisit(Base):
    """A settled statement that was looked at and gave no claim, so that the timetable does not look again."""

    __tablename__ = "claim_visits"
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    opened: Mapped[int]  # how many claims
    why: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
