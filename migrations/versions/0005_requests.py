"""programmes, tracks, requests"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Columns of allocations, which has no triggers that a copy on SQLite would lose.
PLAIN = (
    ("track", sa.String(length=8)),
    ("round_on", sa.Date()),
    ("price_micro_yuan", sa.BigInteger()),
    ("subsidy_percent", sa.Integer()),
    ("draft", sa.JSON(none_as_null=True)),
    ("draft_saved_at", UtcDateTime()),
    ("longest_run_seconds", sa.Integer()),
    ("half_term_on", sa.Date()),
    ("depreciated_at", UtcDateTime()),
)
REFERRING = (
    ("version_id", "programme_versions"),
    ("decided_version_id", "programme_versions"),
    ("copied_from_id", "allocations"),
    ("carried_from_id", "allocations"),
)


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=24)


def upgrade() -> None:
    op.create_table(
        "programme_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("programme_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("why", sa.String(length=400), nullable=False),
        sa.Column("made_by", sa.Integer(), nullable=True),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["made_by"], ["users.id"], name=op.f("fk_programme_versions_made_by")),
        sa.ForeignKeyConstraint(["programme_id"], ["programmes.id"], name=op.f("fk_programme_versions_programme_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_programme_versions")),
        sa.UniqueConstraint("programme_id", "number", name=op.f("uq_programme_versions_programme_id_number")),
    )
    op.create_table(
        "discounts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("size_class", sa.String(length=12), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("until_on", sa.Date(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("until_on >= from_on", name=op.f("ck_discounts_period")),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name=op.f("ck_discounts_percent")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_discounts_pool_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_discounts_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_discounts")),
    )
    op.create_index("ix_discounts_pool_id_size_class", "discounts", ["pool_id", "size_class"])
    op.create_table(
        "card_weights",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("programme_id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("weight_milli", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("weight_milli > 0", name=op.f("ck_card_weights_weight")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_card_weights_pool_id")),
        sa.ForeignKeyConstraint(["programme_id"], ["programmes.id"], name=op.f("fk_card_weights_programme_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_card_weights_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_card_weights")),
        sa.UniqueConstraint(
            "programme_id", "pool_id", "from_on", name=op.f("uq_card_weights_programme_id_pool_id_from_on")
        ),
    )
    with op.batch_alter_table("allocations") as allocations:
        for name, kind in PLAIN:
            allocations.add_column(sa.Column(name, kind, nullable=True))
        for name, table in REFERRING:
            allocations.add_column(sa.Column(name, sa.Integer(), nullable=True))
            allocations.create_foreign_key(op.f(f"fk_allocations_{name}"), table, [name], ["id"])
    op.create_index("uq_allocations_carried_from_id", "allocations", ["carried_from_id"], unique=True)
    op.create_table(
        "request_submissions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("track", sa.String(length=8), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("preview", sa.JSON(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_request_submissions_allocation_id")
        ),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_request_submissions_by_id")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["programme_versions.id"], name=op.f("fk_request_submissions_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_submissions")),
        sa.UniqueConstraint("allocation_id", "number", name=op.f("uq_request_submissions_allocation_id_number")),
    )
    op.create_table(
        "allocation_changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("kind", _enum("kind", "supplement", "extension", "reduction", "transfer"), nullable=False),
        sa.Column("state", _enum("state", "submitted", "done", "declined", "withdrawn"), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("ends_on", sa.Date(), nullable=True),
        sa.Column("to_allocation_id", sa.Integer(), nullable=True),
        sa.Column("receives_gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("requested_by", sa.Integer(), nullable=True),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("first_by", sa.Integer(), nullable=True),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("decision_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("gpu_seconds > 0", name=op.f("ck_allocation_changes_hours")),
        sa.CheckConstraint("receives_gpu_seconds > 0", name=op.f("ck_allocation_changes_receives")),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_allocation_changes_allocation_id")
        ),
        sa.ForeignKeyConstraint(
            ["enterprise_id"], ["enterprises.id"], name=op.f("fk_allocation_changes_enterprise_id")
        ),
        sa.ForeignKeyConstraint(
            ["to_allocation_id"], ["allocations.id"], name=op.f("fk_allocation_changes_to_allocation_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["programme_versions.id"], name=op.f("fk_allocation_changes_version_id")
        ),
        sa.ForeignKeyConstraint(["requested_by"], ["users.id"], name=op.f("fk_allocation_changes_requested_by")),
        sa.ForeignKeyConstraint(["first_by"], ["users.id"], name=op.f("fk_allocation_changes_first_by")),
        sa.ForeignKeyConstraint(["decided_by"], ["users.id"], name=op.f("fk_allocation_changes_decided_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocation_changes")),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("kind", _enum("kind", "progress", "final"), nullable=False),
        sa.Column("state", _enum("state", "due", "handed_in", "returned", "accepted"), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("handed_in_by", sa.Integer(), nullable=True),
        sa.Column("handed_in_at", UtcDateTime(), nullable=True),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("decision_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_reports_allocation_id")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_reports_enterprise_id")),
        sa.ForeignKeyConstraint(["handed_in_by"], ["users.id"], name=op.f("fk_reports_handed_in_by")),
        sa.ForeignKeyConstraint(["decided_by"], ["users.id"], name=op.f("fk_reports_decided_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
        sa.UniqueConstraint("allocation_id", "kind", name=op.f("uq_reports_allocation_id_kind")),
    )
    for table, columns in (
        ("allocation_changes", ("allocation_id", "enterprise_id", "state")),
        ("reports", ("enterprise_id", "state")),
    ):
        for column in columns:
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
    _first_versions()
    for table in ("card_weights", "programme_versions", "request_submissions"):
        triggers.append_only(table)
    triggers.one_discount_at_a_time()


def _first_versions() -> None:
    """Programmes that are there already go on as they were: one track up to their most, decided by one operator."""
    connection = op.get_bind()
    programmes = connection.execute(
        sa.text("SELECT id, starts_on, most_gpu_seconds, decision_days FROM programmes ORDER BY id")
    ).all()
    for id, starts_on, most, days in programmes:
        rules = {
            "number": 1, "is_open": True, "cut_offs": [], "most_requests": None,
            "size_classes": ["micro", "small", "medium", "large"], "subsidy_percent": {},
            "progress_report_percent": None, "final_report_days": None, "slow_percent": 0, "kept_percent": 100,
            "carry_over_percent": 0, "carry_over_days": 90,
            "tracks": [
                {
                    "key": "M", "most_gpu_seconds": most, "most_days": 3660, "decision": "steps",
                    "decision_days": days, "deciders": 1, "released_percent": 100, "guard_percent": 10,
                    "needs_earlier_use": False, "longest_run_hours": None, "fields": {}, "attachments": [],
                }
            ],
        }  # fmt: skip
        day = starts_on if isinstance(starts_on, str) else starts_on.isoformat()
        connection.execute(
            sa.text(
                "INSERT INTO programme_versions (programme_id, number, from_on, rules, why, made_at) "
                "VALUES (:id, 1, :day, :rules, :why, :at)"
            ),
            {"id": id, "day": day, "rules": json.dumps(rules), "why": "as before", "at": f"{day} 00:00:00"},
        )


def downgrade() -> None:
    for table in ("reports", "allocation_changes", "request_submissions"):
        op.drop_table(table)
    op.drop_index("uq_allocations_carried_from_id", "allocations")
    with op.batch_alter_table("allocations") as allocations:
        for name, _table in REFERRING:
            allocations.drop_constraint(op.f(f"fk_allocations_{name}"), type_="foreignkey")
        for name, _kind in PLAIN + REFERRING:
            allocations.drop_column(name)
    for table in ("card_weights", "discounts", "programme_versions"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION IF EXISTS refuse_discount() CASCADE")
