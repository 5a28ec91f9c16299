"""estimates kept beside what came true, the queues' pictures and days, the change that would start a booking"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OPEN = sa.text("closed_at IS NULL")


def upgrade() -> None:
    op.add_column("standings", sa.Column("change", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("standings", sa.Column("p10_at", UtcDateTime(), nullable=True))
    op.add_column("standings", sa.Column("p90_at", UtcDateTime(), nullable=True))
    op.create_table(
        "estimates",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("expected_seconds", sa.BigInteger(), nullable=False),
        sa.Column("p10_seconds", sa.BigInteger(), nullable=False),
        sa.Column("p50_seconds", sa.BigInteger(), nullable=False),
        sa.Column("p90_seconds", sa.BigInteger(), nullable=False),
        sa.Column("waited_seconds", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "0 <= p10_seconds AND p10_seconds <= p50_seconds AND p50_seconds <= p90_seconds",
            name=op.f("ck_estimates_order"),
        ),
        sa.CheckConstraint("waited_seconds IS NULL OR closed_at IS NOT NULL", name=op.f("ck_estimates_closed")),
        sa.ForeignKeyConstraint(["booking_id"], ["bookings.id"], name=op.f("fk_estimates_booking_id")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_estimates_pool_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_estimates")),
    )
    op.create_index("ix_estimates_booking_id_id", "estimates", ["booking_id", "id"])
    op.create_index("ix_estimates_pool_id_id", "estimates", ["pool_id", "id"])
    op.create_index("ix_estimates_made_at", "estimates", ["made_at"])
    op.create_index("ix_estimates_open", "estimates", ["booking_id"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_table(
        "queue_pictures",
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("starts", sa.JSON(), nullable=False),
        sa.Column("ranges", sa.Integer(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("overdue_full_since", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_queue_pictures_pool_id")),
        sa.PrimaryKeyConstraint("pool_id", name=op.f("pk_queue_pictures")),
    )
    op.create_table(
        "queue_days",
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("on", sa.Date(), nullable=False),
        sa.Column("started", sa.Integer(), nullable=False),
        sa.Column("waited_seconds", sa.BigInteger(), nullable=False),
        sa.Column("longest_seconds", sa.BigInteger(), nullable=False),
        sa.Column("deviation_permille", sa.Integer(), nullable=True),
        sa.Column("shares", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_queue_days_pool_id")),
        sa.PrimaryKeyConstraint("pool_id", "on", name=op.f("pk_queue_days")),
    )


def downgrade() -> None:
    op.drop_table("queue_days")
    op.drop_table("queue_pictures")
    op.drop_table("estimates")
    op.drop_column("standings", "p90_at")
    op.drop_column("standings", "p10_at")
    op.drop_column("standings", "change")
