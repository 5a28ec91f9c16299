"""What reviewers say and decide, appeals, and the letters that were issued."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from .states import APPEAL_LIFE, AppealState


class Opinion(Base):
    """One decider's word on one step. Append-only. As many as the step wants decide it; one person says one."""

    __tablename__ = "opinions"
    id: Mapped[int] = mapped_column(primary_key=True)
    step_id: Mapped[int] = mapped_column(sa.ForeignKey("request_steps.id"))
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), index=True)
    round: Mapped[int]
    by_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    approves: Mapped[bool]
    awarded_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)
    reason_code: Mapped[str | None] = mapped_column(sa.ForeignKey("reason_codes.code"))
    reason: Mapped[str | None] = mapped_column(sa.Text)  # the enterprise reads it once the request is decided
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("step_id", "round", "by_id"),)


class ReviewComment(Base):
    """A remark. `public_text` is for the applicant too, `private_text` never leaves the bureau. Append-only."""

    __tablename__ = "review_comments"
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), index=True)
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    public_text: Mapped[str | None] = mapped_column(sa.Text)
    private_text: Mapped[str | None] = mapped_column(sa.Text)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.CheckConstraint("public_text IS NOT NULL OR private_text IS NOT NULL", name="some_text"),)


class Appeal(Base):
    """The enterprise asks for another look at a decision; somebody who did not decide answers by `due_at`."""

    __tablename__ = "appeals"
    LIFE: ClassVar[Lifecycle] = APPEAL_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    allocation_id: Mapped[int] = mapped_column(sa.ForeignKey("allocations.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    state: Mapped[AppealState] = mapped_column(enum_type(AppealState, "state"), index=True)
    text: Mapped[str] = mapped_column(sa.Text)
    filed_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    filed_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    decided_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    reason: Mapped[str | None] = mapped_column(sa.Text)  # the enterprise reads it
    awarded_gpu_seconds: Mapped[int | None] = mapped_column(sa.BigInteger)  # in all, when the appeal is upheld
    escalated_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class Letter(Base):
    """The decision as a document, as it was issued: what went in, the bytes, their hash. Append-only."""

    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    decision_id: Mapped[int] = mapped_column(sa.ForeignKey("decisions.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    number: Mapped[str] = mapped_column(sa.String(24), unique=True)
    inputs: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    content: Mapped[bytes] = mapped_column(sa.LargeBinary, deferred=True)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    issued_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
