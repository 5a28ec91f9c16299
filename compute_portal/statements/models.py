"""A month of an enterprise, priced; what was issued of it; disputes, payments, fapiao, and work that takes a while.

The lines of a draft are computed from the charges; closing freezes them; issuing makes the content that never changes.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime, enum_type
from ..lifecycle import Lifecycle
from ..usage.models import ChargeKind
from .states import DISPUTE_LIFE, LIFE, DisputeState, JobKind, JobState, StatementState


class Statement(Base):
    """Totals are zero while it is a draft: the page computes them from the charges. `amount` is net, before tax.

    `sponsor_id`: who pays for a team, as known when the month was closed; None: the enterprise itself.
    `closing` counts how often the month was closed: only the lines of the last time are the statement's.
    `incomplete_since`: from when on metering is missing or late; None: nothing is known to be missing.
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
    list_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    discount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    subsidy_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    voucher_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    closing: Mapped[int] = mapped_column(server_default="0")
    # Who had a hand in it: the one who approves is another person.
    closed_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    checked_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    checked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    approved_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    issued_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    pay_until_on: Mapped[dt.date | None]
    dispute_until_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    incomplete_since: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    gap_confirmed_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    gap_confirmed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.UniqueConstraint("enterprise_id", "month"),
        sa.Index("ix_statements_state_pay_until_on", "state", "pay_until_on"),
    )


class StatementLine(Base):
    """One booking at one price under one scheme, frozen when the month was closed the `closing`-th time. Append-only.

    list − discount − subsidy − voucher = amount, each in whole fen. `gpu_seconds` is negative in a credit.
    """

    __tablename__ = "statement_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"))
    closing: Mapped[int] = mapped_column(server_default="1")
    position: Mapped[int]  # from 1
    booking_id: Mapped[int] = mapped_column(sa.ForeignKey("bookings.id"), index=True)
    kind: Mapped[ChargeKind] = mapped_column(enum_type(ChargeKind, "kind"), server_default="usage")
    tariff_id: Mapped[int] = mapped_column(sa.ForeignKey("tariffs.id"))
    discount_id: Mapped[int | None] = mapped_column(sa.ForeignKey("discounts.id"))
    weight_milli: Mapped[int] = mapped_column(server_default="1000")
    scheme_version_id: Mapped[int | None]  # of subsidies, a feature of its own
    adjustment: Mapped[bool]
    gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    price_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)  # of the tariff
    contract_price_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)  # after the discount
    list_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    discount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    subsidy_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    voucher_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    __table_args__ = (
        sa.UniqueConstraint("statement_id", "closing", "position"),
        sa.CheckConstraint(
            "list_micro_yuan - discount_micro_yuan - subsidy_micro_yuan - voucher_micro_yuan = amount_micro_yuan",
            name="net",
        ),
    )


class ReceiptKey(Base):
    """The public half of a key that signed something, so that what it signed can be checked for ever. Append-only."""

    __tablename__ = "receipt_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    public_key: Mapped[str] = mapped_column(sa.String(64), unique=True)  # Ed25519, hexadecimal
    first_used_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class StatementContent(Base):
    """What was issued: canonical JSON, signed, chained to the enterprise's one before. Append-only.

    `sha256` is of the UTF-8 bytes of `content`, which names `previous_sha256` and the hash of the charges and usage
    records behind it.
    """

    __tablename__ = "statement_contents"
    id: Mapped[int] = mapped_column(primary_key=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), unique=True)
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    sequence: Mapped[int]  # from 1 for each enterprise
    previous_sha256: Mapped[str | None] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(sa.String(64), unique=True)
    content: Mapped[str] = mapped_column(sa.Text, deferred=True)
    signature: Mapped[str] = mapped_column(sa.String(128))
    key_id: Mapped[int] = mapped_column(sa.ForeignKey("receipt_keys.id"))
    issued_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("enterprise_id", "sequence"),)


class StatementDocument(Base):
    """A file as it was issued. Append-only."""

    __tablename__ = "statement_documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"))
    kind: Mapped[str] = mapped_column(sa.String(12))  # 'pdf'
    sha256: Mapped[str] = mapped_column(sa.String(64))
    content: Mapped[bytes] = mapped_column(sa.LargeBinary, deferred=True)
    made_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    __table_args__ = (sa.UniqueConstraint("statement_id", "kind"),)


class Dispute(Base):
    """An enterprise says that a line is wrong; until it is answered, that line alone need not be paid."""

    __tablename__ = "disputes"
    LIFE: ClassVar[Lifecycle] = DISPUTE_LIFE
    id: Mapped[int] = mapped_column(primary_key=True)
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), index=True)
    line_id: Mapped[int] = mapped_column(sa.ForeignKey("statement_lines.id"))
    enterprise_id: Mapped[int] = mapped_column(sa.ForeignKey("enterprises.id"))
    state: Mapped[DisputeState] = mapped_column(enum_type(DisputeState, "state"))
    reason: Mapped[str] = mapped_column(sa.Text)
    opened_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    opened_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    answer: Mapped[str | None] = mapped_column(sa.Text)
    answered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    answered_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    credited_gpu_seconds: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    late_told_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.Index(
            "uq_disputes_open_line", "line_id", unique=True,
            sqlite_where=sa.text("state = 'opened'"), postgresql_where=sa.text("state = 'opened'"),
        ),
        sa.Index("ix_disputes_state_due_at", "state", "due_at"),
        sa.CheckConstraint("credited_gpu_seconds >= 0", name="credited"),
    )  # fmt: skip


class Payment(Base):
    """Money that the bank reports. Without a statement it stands on the reconcile list."""

    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(sa.String(60), unique=True)  # the bank's
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    paid_on: Mapped[dt.date]
    payer: Mapped[str] = mapped_column(sa.String(120))
    note: Mapped[str] = mapped_column(sa.String(200), server_default="")
    statement_id: Mapped[int | None] = mapped_column(sa.ForeignKey("statements.id"), index=True)
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    matched_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    matched_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        sa.CheckConstraint("amount_micro_yuan > 0", name="amount"),
        sa.Index(
            "ix_payments_unmatched", "id",
            sqlite_where=sa.text("statement_id IS NULL"), postgresql_where=sa.text("statement_id IS NULL"),
        ),
    )  # fmt: skip


class Fapiao(Base):
    """A tax document that was made out for a statement, with tax."""

    __tablename__ = "fapiaos"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(sa.String(20), unique=True)  # 20 digits
    amount_micro_yuan: Mapped[int] = mapped_column(sa.BigInteger)
    issued_on: Mapped[dt.date]
    statement_id: Mapped[int] = mapped_column(sa.ForeignKey("statements.id"), index=True)
    entered_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    entered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class StatementJob(Base):
    """What somebody asked for that takes longer than a page: issue a month, or pack all its files into a zip."""

    __tablename__ = "statement_jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[JobKind] = mapped_column(enum_type(JobKind, "kind"))
    month: Mapped[str] = mapped_column(sa.String(7))
    state: Mapped[JobState] = mapped_column(enum_type(JobState, "state"))
    asked_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    asked_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    total: Mapped[int] = mapped_column(server_default="0")
    done: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    finished_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    answer: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    size: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    sha256: Mapped[str | None] = mapped_column(sa.String(64))
    __table_args__ = (
        sa.Index("ix_statement_jobs_month_id", "month", "id"),
        sa.Index(
            "ix_statement_jobs_open", "id",
            sqlite_where=sa.text("state IN ('waiting', 'running')"),
            postgresql_where=sa.text("state IN ('waiting', 'running')"),
        ),
    )  # fmt: skip


class StatementJobPart(Base):
    """The bytes of a job's file in parts of a megabyte, so that nobody holds all of it."""

    __tablename__ = "statement_job_parts"
    job_id: Mapped[int] = mapped_column(sa.ForeignKey("statement_jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(sa.LargeBinary)
