"""an index for bookings that wait for approval, by when they were asked for"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SUBMITTED = sa.text("state = 'submitted'")


def upgrade() -> None:
    op.create_index(
        "ix_bookings_submitted",
        "bookings",
        ["kind", "submitted_at", "id"],
        sqlite_where=SUBMITTED,
        postgresql_where=SUBMITTED,
    )


def downgrade() -> None:
    op.drop_index("ix_bookings_submitted", "bookings")
