"""indexes for a company's open bookings and for its sums of usage"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_bookings_enterprise_id_state", "bookings", ["enterprise_id", "state", "id"])
    op.drop_index("ix_usage_records_enterprise_id_day_on", "usage_records")
    op.create_index(
        "ix_usage_records_enterprise_id_day_on", "usage_records", ["enterprise_id", "day_on", "gpu_seconds"]
    )


def downgrade() -> None:
    op.drop_index("ix_usage_records_enterprise_id_day_on", "usage_records")
    op.create_index("ix_usage_records_enterprise_id_day_on", "usage_records", ["enterprise_id", "day_on"])
    op.drop_index("ix_bookings_enterprise_id_state", "bookings")
