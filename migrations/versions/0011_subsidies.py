"""schemes as versioned data, uses of them, claims, the programmes' budgets in yuan"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PROTECTED = (
    "claim_lines", "contract_subsidies", "power_readings", "scheme_versions", "subsidy_uses",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "schemes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("name_en", sa.String(length=120), nullable=True),
        sa.Column("programme_id", sa.Integer(), nullable=True),
        sa.Column("is_example", sa.Boolean(), nullable=False),
        sa.Column("opened_by", sa.Integer(), nullable=True),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["opened_by"], ["users.id"], name=op.f("fk_schemes_opened_by")),
        sa.ForeignKeyConstraint(["programme_id"], ["programmes.id"], name=op.f("fk_schemes_programme_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schemes")),
        sa.UniqueConstraint("name", name=op.f("uq_schemes_name")),
        sa.UniqueConstraint("programme_id", name=op.f("uq_schemes_programme_id")),
    )
    op.create_table(
        "scheme_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scheme_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("why", sa.String(length=400), nullable=False),
        sa.Column("made_by", sa.Integer(), nullable=True),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["made_by"], ["users.id"], name=op.f("fk_scheme_versions_made_by")),
        sa.ForeignKeyConstraint(["scheme_id"], ["schemes.id"], name=op.f("fk_scheme_versions_scheme_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheme_versions")),
        sa.UniqueConstraint("scheme_id", "number", name=op.f("uq_scheme_versions_scheme_id_number")),
    )
    op.create_table(
        "subsidy_uses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(length=60), nullable=False),
        sa.Column("scheme_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("amount_micro_yuan <> 0", name=op.f("ck_subsidy_uses_something")),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_subsidy_uses_by_id")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_subsidy_uses_enterprise_id")),
        sa.ForeignKeyConstraint(["scheme_id"], ["schemes.id"], name=op.f("fk_subsidy_uses_scheme_id")),
        sa.ForeignKeyConstraint(["statement_id"], ["statements.id"], name=op.f("fk_subsidy_uses_statement_id")),
        sa.ForeignKeyConstraint(["version_id"], ["scheme_versions.id"], name=op.f("fk_subsidy_uses_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subsidy_uses")),
        sa.UniqueConstraint("reference", name=op.f("uq_subsidy_uses_reference")),
    )
    op.create_index(
        "ix_subsidy_uses_enterprise_id_scheme_id", "subsidy_uses", ["enterprise_id", "scheme_id"], unique=False
    )
    op.create_index("ix_subsidy_uses_scheme_id_year", "subsidy_uses", ["scheme_id", "year"], unique=False)
    op.create_index(op.f("ix_subsidy_uses_statement_id"), "subsidy_uses", ["statement_id"], unique=False)
    op.create_table(
        "contract_subsidies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("scheme_id", sa.Integer(), nullable=True),
        sa.Column("elsewhere", sa.String(length=200), nullable=True),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=True),
        sa.Column("granted_on", sa.Date(), nullable=True),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(scheme_id IS NULL) <> (elsewhere IS NULL)", name=op.f("ck_contract_subsidies_one_scheme")),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_contract_subsidies_allocation_id")
        ),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_contract_subsidies_by_id")),
        sa.ForeignKeyConstraint(
            ["enterprise_id"], ["enterprises.id"], name=op.f("fk_contract_subsidies_enterprise_id")
        ),
        sa.ForeignKeyConstraint(["scheme_id"], ["schemes.id"], name=op.f("fk_contract_subsidies_scheme_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contract_subsidies")),
        sa.UniqueConstraint("allocation_id", name=op.f("uq_contract_subsidies_allocation_id")),
    )
    op.create_index(op.f("ix_contract_subsidies_enterprise_id"), "contract_subsidies", ["enterprise_id"], unique=False)
    op.create_table(
        "enterprise_traits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("trait", sa.String(length=24), nullable=False),
        sa.Column("evidence", sa.String(length=400), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("until_on", sa.Date(), nullable=True),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        sa.Column("ended_by", sa.Integer(), nullable=True),
        sa.CheckConstraint("until_on >= from_on", name=op.f("ck_enterprise_traits_period")),
        sa.ForeignKeyConstraint(["ended_by"], ["users.id"], name=op.f("fk_enterprise_traits_ended_by")),
        sa.ForeignKeyConstraint(["entered_by"], ["users.id"], name=op.f("fk_enterprise_traits_entered_by")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_enterprise_traits_enterprise_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enterprise_traits")),
    )
    op.create_index(op.f("ix_enterprise_traits_enterprise_id"), "enterprise_traits", ["enterprise_id"], unique=False)
    op.create_table(
        "power_readings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("kilowatt_hours", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kilowatt_hours >= 0", name=op.f("ck_power_readings_not_negative")),
        sa.ForeignKeyConstraint(["entered_by"], ["users.id"], name=op.f("fk_power_readings_entered_by")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_power_readings_pool_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_power_readings")),
    )
    op.create_index("ix_power_readings_month", "power_readings", ["month", "pool_id"], unique=False)
    op.create_table(
        "claims",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(length=24), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("scheme_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "opened",
                "confirmed",
                "checked",
                "approved",
                "paid",
                "declined",
                "withdrawn",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("cost_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("bonus_micro_yuan", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("shares", sa.JSON(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("confirmed_by", sa.Integer(), nullable=True),
        sa.Column("confirmed_at", UtcDateTime(), nullable=True),
        sa.Column("pack_file_id", sa.Integer(), nullable=True),
        sa.Column("pack_sha256", sa.String(length=64), nullable=True),
        sa.Column("checked_by", sa.Integer(), nullable=True),
        sa.Column("approved_by", sa.Integer(), nullable=True),
        sa.Column("paid_on", sa.Date(), nullable=True),
        sa.Column("payment_reference", sa.String(length=60), nullable=True),
        sa.CheckConstraint("amount_micro_yuan > 0", name=op.f("ck_claims_something")),
        sa.CheckConstraint("checked_by <> approved_by", name=op.f("ck_claims_two_people")),
        sa.ForeignKeyConstraint(["approved_by"], ["users.id"], name=op.f("fk_claims_approved_by")),
        sa.ForeignKeyConstraint(["checked_by"], ["users.id"], name=op.f("fk_claims_checked_by")),
        sa.ForeignKeyConstraint(["confirmed_by"], ["users.id"], name=op.f("fk_claims_confirmed_by")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_claims_enterprise_id")),
        sa.ForeignKeyConstraint(["pack_file_id"], ["files.id"], name=op.f("fk_claims_pack_file_id")),
        sa.ForeignKeyConstraint(["scheme_id"], ["schemes.id"], name=op.f("fk_claims_scheme_id")),
        sa.ForeignKeyConstraint(["statement_id"], ["statements.id"], name=op.f("fk_claims_statement_id")),
        sa.ForeignKeyConstraint(["version_id"], ["scheme_versions.id"], name=op.f("fk_claims_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
        sa.UniqueConstraint("number", name=op.f("uq_claims_number")),
        sa.UniqueConstraint("statement_id", "scheme_id", name=op.f("uq_claims_statement_id_scheme_id")),
    )
    op.create_index(op.f("ix_claims_enterprise_id"), "claims", ["enterprise_id"], unique=False)
    op.create_index(op.f("ix_claims_scheme_id"), "claims", ["scheme_id"], unique=False)
    op.create_index("ix_claims_state_id", "claims", ["state", "id"], unique=False)
    op.create_table(
        "claim_lines",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("claim_id", sa.Integer(), nullable=False),
        sa.Column("statement_line_id", sa.Integer(), nullable=False),
        sa.Column("cost_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("rate_permille", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["claim_id"], ["claims.id"], name=op.f("fk_claim_lines_claim_id")),
        sa.ForeignKeyConstraint(
            ["statement_line_id"], ["statement_lines.id"], name=op.f("fk_claim_lines_statement_line_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claim_lines")),
    )
    op.create_index(op.f("ix_claim_lines_claim_id"), "claim_lines", ["claim_id"], unique=False)
    op.create_table(
        "claim_visits",
        sa.Column("statement_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("why", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["statement_id"], ["statements.id"], name=op.f("fk_claim_visits_statement_id")),
        sa.PrimaryKeyConstraint("statement_id", name=op.f("pk_claim_visits")),
    )
    for table in PROTECTED:
        triggers.append_only(table)
