"""notices, one-time links, the state of a person"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations.triggers import append_only, drop_append_only, removable_when_its_time_is_over

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=160), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("enterprise_id", sa.Integer(), nullable=True),
        sa.Column("address", sa.String(length=254), nullable=True),
        sa.Column("language", sa.String(length=2), nullable=True),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("link", sa.String(length=200), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("read_at", UtcDateTime(), nullable=True),
        sa.Column(
            "delivery",
            sa.Enum(
                "waiting", "sent", "failed", "dropped", name="delivery", native_enum=False, create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", UtcDateTime(), nullable=False),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.Column("error", sa.String(length=300), nullable=True),
        sa.CheckConstraint("user_id IS NULL OR address IS NULL", name=op.f("ck_notices_one_receiver")),
        sa.CheckConstraint("language IN ('zh', 'en')", name=op.f("ck_notices_language")),
        sa.CheckConstraint("(delivery = 'waiting') = (done_at IS NULL)", name=op.f("ck_notices_done")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_notices_user_id")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_notices_enterprise_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("key", name=op.f("uq_notices_key")),
    )  # fmt: skip
    op.create_index("ix_notices_user_id_id", "notices", ["user_id", "id"])
    op.create_index("ix_notices_enterprise_id_id", "notices", ["enterprise_id", "id"])
    for name, columns, where in (
        ("ix_notices_unread", ["user_id"], "read_at IS NULL"),
        ("ix_notices_due", ["next_try_at"], "delivery = 'waiting'"),
        ("ix_notices_failed", ["id"], "delivery = 'failed'"),
    ):
        op.create_index(name, "notices", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_table(
        "one_time_links",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(length=24), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=True),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("taken_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_one_time_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_one_time_links_token_hash")),
    )
    op.create_index("ix_one_time_links_subject", "one_time_links", ["purpose", "subject_id"])
    op.create_table(
        "retention_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("record", sa.String(length=24), nullable=False),
        sa.Column("before_at", UtcDateTime(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_runs")),
    )
    op.create_index("ix_retention_runs_record_before_at", "retention_runs", ["record", "before_at"])
    append_only("retention_runs")
    removable_when_its_time_is_over("access_log")
    _people()


def _people() -> None:
    """Whoever is here already was made by the bureau: known, and with a history that begins now."""
    with op.batch_alter_table("users") as batch:
        batch.add_column(sa.Column("confirmed_at", UtcDateTime(), nullable=True))
        batch.add_column(sa.Column("state", sa.String(length=24), nullable=True))
    op.execute("UPDATE users SET confirmed_at = created_at")
    op.execute("UPDATE users SET state = CASE WHEN disabled_at IS NULL THEN 'active' ELSE 'disabled' END")
    with op.batch_alter_table("users") as batch:
        batch.alter_column(
            "state",
            existing_type=sa.String(length=24),
            type_=sa.Enum(
                "active", "disabled", "erased", name="state", native_enum=False, create_constraint=True, length=24
            ),
            nullable=False,
        )
    op.execute(
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at) "
        "SELECT 'person', id, 'register', NULL, state, created_at FROM users ORDER BY id"
    )


def downgrade() -> None:
    with op.batch_alter_table("users") as batch:
        batch.drop_constraint(op.f("ck_users_state"), type_="check")
        batch.drop_column("state")
        batch.drop_column("confirmed_at")
    drop_append_only("history_entries")
    op.execute("DELETE FROM history_entries WHERE kind = 'person'")
    append_only("history_entries")
    drop_append_only("access_log")
    append_only("access_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_early_removal()")
    op.drop_table("retention_runs")
    op.drop_table("one_time_links")
    op.drop_table("notices")
