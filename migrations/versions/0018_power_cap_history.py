"""history rows of power caps that were set before caps had a history"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Who lifted one was not kept."""
    op.execute(
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at, by_id) "
        "SELECT 'power_cap', id, 'cap', NULL, 'set', set_at, set_by FROM power_caps "
        "WHERE id NOT IN (SELECT subject_id FROM history_entries WHERE kind = 'power_cap' AND verb = 'cap') ORDER BY id"
    )
    op.execute(
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at, by_id) "
        "SELECT 'power_cap', id, 'lift', 'set', 'lifted', lifted_at, NULL FROM power_caps WHERE lifted_at IS NOT NULL "
        "AND id NOT IN (SELECT subject_id FROM history_entries WHERE kind = 'power_cap' AND verb = 'lift') ORDER BY id"
    )


def downgrade() -> None:
    """History rows are never taken away."""
