"""the catalogue of datasets, public figures and the rows behind them, digests of notices"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def _state(*states: str, name: str = "state") -> sa.Enum:
    return sa.Enum(*states, name=name, native_enum=False, create_constraint=True, length=24)


def upgrade() -> None:
    op.add_column("pools", sa.Column("tflops_source", sa.String(length=200), nullable=True))
    op.add_column("notices", sa.Column("digest", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "notice_choices",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "topic", _state("account", "booking", "request", "term", "money", "office", name="topic"), nullable=False
        ),
        sa.Column("way", _state("at_once", "digest", "portal", name="way"), nullable=False),
        sa.CheckConstraint("topic <> 'account'", name=op.f("ck_notice_choices_choosable")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_notice_choices_user_id")),
        sa.PrimaryKeyConstraint("user_id", "topic", name=op.f("pk_notice_choices")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", _state("listed", "retired"), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("name_en", sa.String(length=160), nullable=False),
        sa.Column("steward", sa.String(length=120), nullable=False),
        sa.Column("steward_en", sa.String(length=160), nullable=False),
        sa.Column("tier", _state("open", "conditional", "not_open", name="tier"), nullable=False),
        sa.Column("how_to_ask", sa.String(length=400), nullable=False),
        sa.Column("how_to_ask_en", sa.String(length=400), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_index("ix_datasets_state_name", "datasets", ["state", "name"], unique=False)
    op.create_table(
        "power_sites",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", _state("announced", "committed", "building", "energised", "dropped"), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("name_en", sa.String(length=160), nullable=False),
        sa.Column("kilowatts", sa.Integer(), nullable=False),
        sa.Column("since_on", sa.Date(), nullable=False),
        sa.Column("evidence", sa.String(length=400), nullable=False),
        sa.Column("link", sa.String(length=300), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kilowatts > 0", name=op.f("ck_power_sites_some_power")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_power_sites")),
        sa.UniqueConstraint("name", name=op.f("uq_power_sites_name")),
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", _state("recorded", "withdrawn"), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("happened_on", sa.Date(), nullable=False),
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("name_en", sa.String(length=200), nullable=False),
        sa.Column("evidence", sa.String(length=400), nullable=False),
        sa.Column("link", sa.String(length=300), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_transitions_allocation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index("ix_transitions_happened_on", "transitions", ["happened_on"], unique=False)
    op.create_index(
        "uq_transitions_allocation",
        "transitions",
        ["allocation_id"],
        unique=True,
        sqlite_where=sa.text("state = 'recorded'"),
        postgresql_where=sa.text("state = 'recorded'"),
    )
    op.create_table(
        "published_figures",
        sa.Column(
            "name",
            _state("now", "time-to-permit", "waits", "allocation-rate", "fairness", name="name"),
            nullable=False,
        ),
        sa.Column("reckoned_at", UtcDateTime(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("open_rows", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_published_figures")),
    )
    op.create_table(
        "pool_days",
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("day_on", sa.Date(), nullable=False),
        sa.Column("capacity_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("down_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("allocated_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("used_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_pool_days_pool_id")),
        sa.PrimaryKeyConstraint("pool_id", "day_on", name=op.f("pk_pool_days")),
    )
    op.create_index("ix_pool_days_day_on", "pool_days", ["day_on"], unique=False)
    op.create_table(
        "pool_hours",
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("available_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("allocated_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("waiting_bookings", sa.Integer(), nullable=False),
        sa.Column("waiting_gpus", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_pool_hours_pool_id")),
        sa.PrimaryKeyConstraint("pool_id", "at", name=op.f("pk_pool_hours")),
    )
    op.create_index("ix_pool_hours_at", "pool_hours", ["at"], unique=False)
