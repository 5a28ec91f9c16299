"""power caps of pools by the hour; leases that started because of the promise"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "power_caps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("watts", sa.BigInteger(), nullable=False),
        sa.Column("pue_permille", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_power_caps_order")),
        sa.CheckConstraint("watts >= 0 AND pue_permille >= 1000", name=op.f("ck_power_caps_figures")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_power_caps_pool_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_power_caps_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_power_caps")),
    )
    op.create_index(op.f("ix_power_caps_pool_id"), "power_caps", ["pool_id"])
    op.add_column("leases", sa.Column("promised", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column("leases", "promised")
    op.drop_table("power_caps")
