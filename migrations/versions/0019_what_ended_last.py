"""an index for what ended last of an enterprise"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_bookings_enterprise_id_ended_at", "bookings", ["enterprise_id", "ended_at"])


def downgrade() -> None:
    op.drop_index("ix_bookings_enterprise_id_ended_at", "bookings")
