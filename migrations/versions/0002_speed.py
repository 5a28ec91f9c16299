"""what the cycle asks for stands in small indexes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TO_DO = sa.text(
    "revoked_at IS NULL AND (outcome IS NOT NULL OR handed_over_at IS NULL OR unwanted_at IS NOT NULL "
    "OR (placed_at IS NOT NULL AND granted_at IS NULL))"
)


def upgrade() -> None:
    op.add_column("bookings", sa.Column("under_way", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("attempts", sa.Column("unwanted_at", UtcDateTime(), nullable=True))
    op.execute(
        "UPDATE bookings SET under_way = true WHERE id IN (SELECT booking_id FROM attempts WHERE outcome IS NULL)"
    )
    op.execute(
        "UPDATE attempts SET unwanted_at = written_at WHERE outcome IS NULL AND placed_at IS NULL AND booking_id IN "
        "(SELECT id FROM bookings WHERE state NOT IN ('queued', 'confirmed'))"
    )
    op.create_index("ix_bookings_under_way_state", "bookings", ["under_way", "state", "id"])
    op.create_index("ix_attempts_to_do", "attempts", ["id"], sqlite_where=TO_DO, postgresql_where=TO_DO)


def downgrade() -> None:
    op.drop_index("ix_attempts_to_do", "attempts")
    op.drop_index("ix_bookings_under_way_state", "bookings")
    op.drop_column("attempts", "unwanted_at")
    op.drop_column("bookings", "under_way")
