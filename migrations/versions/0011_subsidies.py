"""schemes as versioned data, uses of them, claims, the programmes' budgets in yuan"""

from __future__ import annotations

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
