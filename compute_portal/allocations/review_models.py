"""How a track's requests are reviewed, the steps that each request got, and who may not review which."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..access import Role
from ..db import Base, UtcDateTime, enum_type


class ReviewFlow(Base):
    """The steps of a track from now on. Append-only: the newest of a programme's track counts, requests keep theirs.

    `steps` is a list of `review.Step.to_json()`. A track without a flow has one step, from the programme's rules.
    """

    __tablename__ = "review_flows"
    id: Mapped[int] = mapped_column(primary_key=True)
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"))
    track: Mapped[str] = mapped_column(sa.String(8))
    steps: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    set_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (sa.Index("ix_review_flows_programme_id_track", "programme_id", "track", "id"),)


class RequestStep(Base):
    """One step of a request, copied from the flow of its day. One is open at a time; `done_at` ends it.

    `total_seconds` is the office time that was promised for it, `paused_seconds` the office time for which the clock
    stood still because the applicant had the ball; `due_at` has moved by it. `escalated_at` and `delegated_at` are set
    once, when the time is over; `assigned_to` is who got it then.
    """

    __tablename__ = "request_steps"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    position: Mapped[int]  # from 1
    name: Mapped[str | None] = mapped_column(sa.String(60))  # None: "Decision"
    name_en: Mapped[str | None] = mapped_column(sa.String(80))
    role: Mapped[Role] = mapped_column(enum_type(Role, "role"))
    checklist: Mapped[list[Any]] = mapped_column(sa.JSON)
    deciders: Mapped[int]
    working_days: Mapped[int]
    opened_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    due_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    total_seconds: Mapped[int | None]
    paused_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    paused_seconds: Mapped[int]
    round: Mapped[int]  # from 1; each time the applicant has changed the request, its deciders begin again
    escalated_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    delegated_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    assigned_to: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    done_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("allocation_id", "position"),
        sa.CheckConstraint("role IN ('operator', 'admin')", name="reviewer"),
        sa.CheckConstraint("deciders BETWEEN 1 AND 5", name="deciders"),
        sa.CheckConstraint("working_days BETWEEN 1 AND 250", name="working_days"),
        sa.CheckConstraint("(opened_at IS NULL) = (due_at IS NULL)", name="opened"),
        sa.Index(
            "ix_request_steps_open",
            "due_at",
            sqlite_where=sa.text("opened_at IS NOT NULL AND done_at IS NULL"),
            postgresql_where=sa.text("opened_at IS NOT NULL AND done_at IS NULL"),
        ),
    )

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None and self.done_at is None


class Decision(Base):
    """What became of a request, once it is decided; of its appeal a second one. Append-only.

    `policy_version_id` and `programme_version_id` are the rules of that day. `used_seconds` is the office time it took,
    without the applicant's, `promised_seconds` what was promised, `promised_days` the same in working days.
    """

    __tablename__ = "decisions"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    programme_id: Mapped[int] = mapped_column(sa.ForeignKey("programmes.id"))
    track: Mapped[str | None] = mapped_column(sa.String(8))
    on_appeal: Mapped[bool]
    approved: Mapped[bool]
    asked_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    awarded_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    reason_code: Mapped[str | None] = mapped_column(sa.ForeignKey("reason_codes.code"))
    reason: Mapped[str | None] = mapped_column(sa.Text)  # the enterprise reads it
    decided_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    used_seconds: Mapped[int]
    promised_seconds: Mapped[int]
    promised_days: Mapped[int]
    policy_version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("policy_versions.id"))
    programme_version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("programme_versions.id"))
    __table_args__ = (sa.UniqueConstraint("allocation_id", "on_appeal"),)


class ReasonCode(Base):
    """Why a request is refused, cut or returned, as data: a new one is a row."""

    __tablename__ = "reason_codes"
    code: Mapped[str] = mapped_column(sa.String(24), primary_key=True)
    position: Mapped[int]
    name: Mapped[str] = mapped_column(sa.String(80))
    name_en: Mapped[str] = mapped_column(sa.String(120))
    declines: Mapped[bool]
    cuts: Mapped[bool]
    is_active: Mapped[bool]


class Interest(Base):
    """A reviewer's tie to a firm, also under another registration of its credit code: its requests do not open."""

    __tablename__ = "interests"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    credit_code: Mapped[str | None] = mapped_column(sa.String(18))  # a sponsored team has none
    reason: Mapped[str] = mapped_column(sa.Text)
    declared_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("user_id", "enterprise_id"),)


class Waiver(Base):
    """An administrator lets somebody with a conflict review one request all the same, with a plan. Append-only."""

    __tablename__ = "conflict_waivers"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"))
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    plan: Mapped[str] = mapped_column(sa.Text)
    waived_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    waived_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("allocation_id", "user_id"),)
