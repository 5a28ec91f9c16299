"""priced lines, review, disputes, payments, receipts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KINDS = ("usage", "cancellation", "no_show", "returned", "outage", "correction", "rerate")
SUMS = ("list", "discount", "subsidy", "voucher")
PEOPLE = ("closed_by", "checked_by", "approved_by", "gap_confirmed_by")
OPEN_JOB = sa.text("state IN ('waiting', 'running')")
OPEN_DISPUTE = sa.text("state = 'opened'")
UNMATCHED = sa.text("statement_id IS NULL")
PROTECTED = ("receipt_keys", "statement_contents", "statement_documents")
NET = "list_micro_yuan - discount_micro_yuan - subsidy_micro_yuan - voucher_micro_yuan = amount_micro_yuan"


def _words(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=24)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), nullable=False)


def _foreign(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    _lines()
    _statements()
    _issued()
    _disputes()
    _money()
    _jobs()
    for table in PROTECTED:
        triggers.append_only(table)
    triggers.issued_stays()


def _lines() -> None:
    """Lines that are there were priced without discount or subsidy, and closed once; they are numbered as they stand."""
    triggers.drop_append_only("statement_lines")
    with op.batch_alter_table("statement_lines") as batch:
        batch.drop_constraint(op.f("uq_statement_lines_statement_id_booking_id_tariff_id_adjustment"), type_="unique")
        batch.drop_index(op.f("ix_statement_lines_statement_id"))
        batch.add_column(sa.Column("closing", sa.Integer(), server_default="1", nullable=False))
        batch.add_column(sa.Column("position", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("kind", _words("kind", *KINDS), server_default="usage", nullable=False))
        batch.add_column(sa.Column("discount_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("weight_milli", sa.Integer(), server_default="1000", nullable=False))
        batch.add_column(sa.Column("scheme_version_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("contract_price_micro_yuan", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("list_micro_yuan", sa.BigInteger(), nullable=True))
        for name in SUMS[1:]:
            batch.add_column(sa.Column(f"{name}_micro_yuan", sa.BigInteger(), server_default="0", nullable=False))
    op.execute(
        "UPDATE statement_lines SET contract_price_micro_yuan = price_micro_yuan, list_micro_yuan = amount_micro_yuan, "
        "position = (SELECT COUNT(*) FROM statement_lines b "
        "WHERE b.statement_id = statement_lines.statement_id AND b.id <= statement_lines.id)"
    )
    with op.batch_alter_table("statement_lines") as batch:
        for name, kind in (
            ("position", sa.Integer()), ("contract_price_micro_yuan", sa.BigInteger()),
            ("list_micro_yuan", sa.BigInteger()),
        ):  # fmt: skip
            batch.alter_column(name, existing_type=kind, nullable=False)
        batch.create_foreign_key(op.f("fk_statement_lines_discount_id"), "discounts", ["discount_id"], ["id"])
        batch.create_unique_constraint(
            op.f("uq_statement_lines_statement_id_closing_position"), ["statement_id", "closing", "position"]
        )
        batch.create_check_constraint(op.f("ck_statement_lines_net"), NET)
        batch.create_index(op.f("ix_statement_lines_booking_id"), ["booking_id"])
    triggers.append_only("statement_lines")


def _statements() -> None:
    with op.batch_alter_table("statements") as batch:
        for name in SUMS:
            batch.add_column(sa.Column(f"{name}_micro_yuan", sa.BigInteger(), server_default="0", nullable=False))
        batch.add_column(sa.Column("closing", sa.Integer(), server_default="0", nullable=False))
        for name in PEOPLE:
            batch.add_column(sa.Column(name, sa.Integer(), nullable=True))
            batch.create_foreign_key(op.f(f"fk_statements_{name}"), "users", [name], ["id"])
        for name in ("checked_at", "issued_at", "dispute_until_at", "incomplete_since", "gap_confirmed_at"):
            batch.add_column(sa.Column(name, UtcDateTime(), nullable=True))
        batch.add_column(sa.Column("pay_until_on", sa.Date(), nullable=True))
    op.create_index("ix_statements_state_pay_until_on", "statements", ["state", "pay_until_on"])
    op.execute("UPDATE statements SET closing = 1, list_micro_yuan = amount_micro_yuan WHERE state <> 'draft'")


def _issued() -> None:
    op.create_table(
        "receipt_keys",
        _id(),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("first_used_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt_keys")),
        sa.UniqueConstraint("public_key", name=op.f("uq_receipt_keys_public_key")),
    )
    op.create_table(
        "statement_contents",
        _id(),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("previous_sha256", sa.String(length=64), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("issued_at", UtcDateTime(), nullable=False),
        _foreign("statement_contents", "statement_id", "statements"),
        _foreign("statement_contents", "enterprise_id", "enterprises"),
        _foreign("statement_contents", "key_id", "receipt_keys"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statement_contents")),
        sa.UniqueConstraint("statement_id", name=op.f("uq_statement_contents_statement_id")),
        sa.UniqueConstraint("sha256", name=op.f("uq_statement_contents_sha256")),
        sa.UniqueConstraint("enterprise_id", "sequence", name=op.f("uq_statement_contents_enterprise_id_sequence")),
    )
    op.create_table(
        "statement_documents",
        _id(),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        _foreign("statement_documents", "statement_id", "statements"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statement_documents")),
        sa.UniqueConstraint("statement_id", "kind", name=op.f("uq_statement_documents_statement_id_kind")),
    )


def _disputes() -> None:
    op.create_table(
        "disputes",
        _id(),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("line_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("state", _words("state", "opened", "upheld", "partly", "rejected", "withdrawn"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("opened_by", sa.Integer(), nullable=True),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("answered_by", sa.Integer(), nullable=True),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
        sa.Column("credited_gpu_seconds", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("late_told_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("credited_gpu_seconds >= 0", name=op.f("ck_disputes_credited")),
        _foreign("disputes", "statement_id", "statements"),
        _foreign("disputes", "line_id", "statement_lines"),
        _foreign("disputes", "enterprise_id", "enterprises"),
        _foreign("disputes", "opened_by", "users"),
        _foreign("disputes", "answered_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disputes")),
    )
    op.create_index(op.f("ix_disputes_statement_id"), "disputes", ["statement_id"])
    op.create_index("ix_disputes_state_due_at", "disputes", ["state", "due_at"])
    op.create_index(
        "uq_disputes_open_line", "disputes", ["line_id"], unique=True,
        sqlite_where=OPEN_DISPUTE, postgresql_where=OPEN_DISPUTE,
    )  # fmt: skip


def _money() -> None:
    op.create_table(
        "payments",
        _id(),
        sa.Column("reference", sa.String(length=60), nullable=False),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("paid_on", sa.Date(), nullable=False),
        sa.Column("payer", sa.String(length=120), nullable=False),
        sa.Column("note", sa.String(length=200), server_default="", nullable=False),
        sa.Column("statement_id", sa.Integer(), nullable=True),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        sa.Column("matched_by", sa.Integer(), nullable=True),
        sa.Column("matched_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("amount_micro_yuan > 0", name=op.f("ck_payments_amount")),
        _foreign("payments", "statement_id", "statements"),
        _foreign("payments", "entered_by", "users"),
        _foreign("payments", "matched_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("reference", name=op.f("uq_payments_reference")),
    )
    op.create_index(op.f("ix_payments_statement_id"), "payments", ["statement_id"])
    op.create_index("ix_payments_unmatched", "payments", ["id"], sqlite_where=UNMATCHED, postgresql_where=UNMATCHED)
    op.create_table(
        "fapiaos",
        _id(),
        sa.Column("number", sa.String(length=20), nullable=False),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        _foreign("fapiaos", "statement_id", "statements"),
        _foreign("fapiaos", "entered_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fapiaos")),
        sa.UniqueConstraint("number", name=op.f("uq_fapiaos_number")),
    )
    op.create_index(op.f("ix_fapiaos_statement_id"), "fapiaos", ["statement_id"])


def _jobs() -> None:
    op.create_table(
        "statement_jobs",
        _id(),
        sa.Column("kind", _words("kind", "issue", "pack"), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("state", _words("state", "waiting", "running", "done", "failed"), nullable=False),
        sa.Column("asked_by", sa.Integer(), nullable=True),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        _foreign("statement_jobs", "asked_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statement_jobs")),
    )
    op.create_index("ix_statement_jobs_month_id", "statement_jobs", ["month", "id"])
    op.create_index(
        "ix_statement_jobs_open", "statement_jobs", ["id"], sqlite_where=OPEN_JOB, postgresql_where=OPEN_JOB
    )
    op.create_table(
        "statement_job_parts",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        _foreign("statement_job_parts", "job_id", "statement_jobs"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_statement_job_parts")),
    )


def downgrade() -> None:
    triggers.drop_issued_stays()
    for table in (
        "statement_job_parts", "statement_jobs", "fapiaos", "payments", "disputes", "statement_documents",
        "statement_contents", "receipt_keys",
    ):  # fmt: skip
        op.drop_table(table)
    op.drop_index("ix_statements_state_pay_until_on", "statements")
    with op.batch_alter_table("statements") as batch:
        for name in PEOPLE:
            batch.drop_constraint(op.f(f"fk_statements_{name}"), type_="foreignkey")
            batch.drop_column(name)
        for name in (
            "checked_at", "issued_at", "dispute_until_at", "incomplete_since", "gap_confirmed_at", "pay_until_on",
            "closing", *(f"{name}_micro_yuan" for name in SUMS),
        ):  # fmt: skip
            batch.drop_column(name)
    triggers.drop_append_only("statement_lines")
    with op.batch_alter_table("statement_lines") as batch:
        batch.drop_constraint(op.f("ck_statement_lines_net"), type_="check")
        batch.drop_constraint(op.f("ck_statement_lines_kind"), type_="check")
        batch.drop_constraint(op.f("uq_statement_lines_statement_id_closing_position"), type_="unique")
        batch.drop_constraint(op.f("fk_statement_lines_discount_id"), type_="foreignkey")
        batch.drop_index(op.f("ix_statement_lines_booking_id"))
        for name in (
            "closing", "position", "kind", "discount_id", "weight_milli", "scheme_version_id",
            "contract_price_micro_yuan", *(f"{name}_micro_yuan" for name in SUMS),
        ):  # fmt: skip
            batch.drop_column(name)
        batch.create_unique_constraint(
            op.f("uq_statement_lines_statement_id_booking_id_tariff_id_adjustment"),
            ["statement_id", "booking_id", "tariff_id", "adjustment"],
        )
        batch.create_index(op.f("ix_statement_lines_statement_id"), ["statement_id"])
    triggers.append_only("statement_lines")
