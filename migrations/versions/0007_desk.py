"""announcements, alerts, sub-budgets, the timetable's entries, view-as, what the desk looks for, who pays for a team"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

VERBS = ("stop", "drain", "resume")
STATES = ("waiting", "claimed", "done", "failed")
BY_PERSON = sa.text("by_id IS NOT NULL")
WAITING = sa.text("state NOT IN ('active', 'suspended', 'closed', 'declined', 'withdrawn')")
CURRENT = sa.text(
    "state NOT IN ('draft', 'submitted', 'in_review', 'changes_requested', 'closed', 'declined', 'withdrawn')"
)
FAILED = sa.text("state = 'failed'")
RULES = {
    "thresholds": [
        {"percent": 50, "action": "notify"},
        {"percent": 75, "action": "notify"},
        {"percent": 90, "action": "notify"},
        {"percent": 100, "action": "notify"},
        {"percent": 110, "action": "slow"},
        {"percent": 125, "action": "block"},
    ],
    "days": [30, 14, 7, 1],
    "overdraft_percent": 0,
    "set_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "set_by": None,
    "why": "The rules this portal begins with",
}


def upgrade() -> None:
    _budgets()
    _announcements()
    _timetable()
    with op.batch_alter_table("user_sessions") as batch:
        batch.add_column(sa.Column("viewing_user_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("viewing_enterprise_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("viewing_until_at", UtcDateTime(), nullable=True))
        batch.create_foreign_key(op.f("fk_user_sessions_viewing_user_id"), "users", ["viewing_user_id"], ["id"])
        batch.create_foreign_key(
            op.f("fk_user_sessions_viewing_enterprise_id"), "enterprises", ["viewing_enterprise_id"], ["id"]
        )
    _looked_for()
    with op.batch_alter_table("statements") as batch:
        batch.add_column(sa.Column("sponsor_id", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_statements_sponsor_id"), "enterprises", ["sponsor_id"], ["id"])
        batch.create_index(op.f("ix_statements_sponsor_id"), ["sponsor_id"])


def _budgets() -> None:
    rules = op.create_table(
        "budget_rules",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.Column("days", sa.JSON(), nullable=False),
        sa.Column("overdraft_percent", sa.Integer(), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("why", sa.String(length=200), nullable=False),
        sa.CheckConstraint("overdraft_percent BETWEEN 0 AND 100", name=op.f("ck_budget_rules_overdraft")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_budget_rules_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget_rules")),
    )
    op.bulk_insert(rules, [RULES])
    triggers.append_only("budget_rules")
    op.create_table(
        "allocation_budgets",
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("reserve_gpu_seconds", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("slow_at", UtcDateTime(), nullable=True),
        sa.Column("blocked_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("reserve_gpu_seconds >= 0", name=op.f("ck_allocation_budgets_reserve")),
        sa.ForeignKeyConstraint(
            ["allocation_id"], ["allocations.id"], name=op.f("fk_allocation_budgets_allocation_id")
        ),
        sa.PrimaryKeyConstraint("allocation_id", name=op.f("pk_allocation_budgets")),
    )
    op.create_table(
        "sub_budgets",
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("gpu_seconds >= 0", name=op.f("ck_sub_budgets_hours")),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_sub_budgets_allocation_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sub_budgets_user_id")),
        sa.PrimaryKeyConstraint("allocation_id", "user_id", name=op.f("pk_sub_budgets")),
    )
    op.create_table(
        "alerts",
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("kind", _words("kind", "used", "days"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_alerts_allocation_id")),
        sa.PrimaryKeyConstraint("allocation_id", "kind", "number", name=op.f("pk_alerts")),
    )


def _words(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=24)


def _announcements() -> None:
    op.create_table(
        "announcements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", _words("state", "published", "withdrawn"), nullable=False),
        sa.Column("audience", sa.JSON(), nullable=False),
        sa.Column("text", sa.String(length=600), nullable=False),
        sa.Column("text_en", sa.String(length=600), nullable=False),
        sa.Column("from_at", UtcDateTime(), nullable=False),
        sa.Column("until_at", UtcDateTime(), nullable=False),
        sa.Column("published_by", sa.Integer(), nullable=True),
        sa.Column("published_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("until_at > from_at", name=op.f("ck_announcements_order")),
        sa.ForeignKeyConstraint(["published_by"], ["users.id"], name=op.f("fk_announcements_published_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_announcements")),
    )
    op.create_index("ix_announcements_state_until_at", "announcements", ["state", "until_at"])


def _timetable() -> None:
    op.create_table(
        "timetable_entries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("says", sa.String(length=120), nullable=False),
        sa.Column("every_seconds", sa.Integer(), nullable=True),
        sa.Column("hour", sa.Integer(), nullable=True),
        sa.Column("minute", sa.Integer(), nullable=True),
        sa.Column("day", sa.Integer(), nullable=True),
        sa.Column("recorded", sa.Boolean(), nullable=False),
        sa.Column("gone", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("(every_seconds IS NULL) <> (hour IS NULL)", name=op.f("ck_timetable_entries_when")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_timetable_entries")),
        sa.UniqueConstraint("name", name=op.f("uq_timetable_entries_name")),
    )
    op.create_index(
        "ix_timetable_runs_failed", "timetable_runs", ["due_at"],
        sqlite_where=sa.text("error IS NOT NULL"), postgresql_where=sa.text("error IS NOT NULL"),
    )  # fmt: skip
    _verbs_of_instructions(VERBS, (*VERBS, "retry"))


def _verbs_of_instructions(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """SQLite writes the table anew, with both of its checks."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_instructions_verb"), "instructions", type_="check")
        words = ", ".join(f"'{verb}'" for verb in after)
        op.create_check_constraint(op.f("ck_instructions_verb"), "instructions", f"verb IN ({words})")
        return
    meta = sa.MetaData()
    sa.Table("users", meta, sa.Column("id", sa.Integer(), primary_key=True))
    table = sa.Table(
        "instructions",
        meta,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verb", _words("ck_instructions_verb", *before), nullable=False),
        sa.Column("target_kind", sa.String(length=24), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("why", sa.String(length=200), nullable=True),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("state", _words("ck_instructions_state", *STATES), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name="fk_instructions_by_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instructions"),
        sa.Index("ix_instructions_state_id", "state", "id"),
        sa.Index("ix_instructions_target", "target_kind", "target_id"),
    )
    with op.batch_alter_table("instructions", copy_from=table, recreate="always") as batch:
        batch.alter_column(
            "verb",
            existing_type=_words("ck_instructions_verb", *before),
            type_=_words("verb", *after),  # the naming convention makes the whole name
            existing_nullable=False,
        )


def _looked_for() -> None:
    """What the desk's queue and the history search ask for stands in indexes."""
    op.create_index("ix_history_entries_at", "history_entries", ["at", "id"])
    op.create_index(
        "ix_history_entries_by_id", "history_entries", ["by_id", "at"],
        sqlite_where=BY_PERSON, postgresql_where=BY_PERSON,
    )  # fmt: skip
    op.create_index(
        "ix_allocations_waiting", "allocations", ["due_at", "id"], sqlite_where=WAITING, postgresql_where=WAITING
    )
    op.create_index("ix_allocations_current", "allocations", ["id"], sqlite_where=CURRENT, postgresql_where=CURRENT)
    op.create_index("ix_instructions_failed", "instructions", ["id"], sqlite_where=FAILED, postgresql_where=FAILED)


def downgrade() -> None:
    with op.batch_alter_table("statements") as batch:
        batch.drop_index(op.f("ix_statements_sponsor_id"))
        batch.drop_constraint(op.f("fk_statements_sponsor_id"), type_="foreignkey")
        batch.drop_column("sponsor_id")
    op.drop_index("ix_instructions_failed", "instructions")
    op.drop_index("ix_allocations_current", "allocations")
    op.drop_index("ix_allocations_waiting", "allocations")
    op.drop_index("ix_history_entries_by_id", "history_entries")
    op.drop_index("ix_history_entries_at", "history_entries")
    with op.batch_alter_table("user_sessions") as batch:
        batch.drop_constraint(op.f("fk_user_sessions_viewing_enterprise_id"), type_="foreignkey")
        batch.drop_constraint(op.f("fk_user_sessions_viewing_user_id"), type_="foreignkey")
        batch.drop_column("viewing_until_at")
        batch.drop_column("viewing_enterprise_id")
        batch.drop_column("viewing_user_id")
    op.execute("DELETE FROM instructions WHERE verb = 'retry'")
    _verbs_of_instructions((*VERBS, "retry"), VERBS)
    op.drop_index("ix_timetable_runs_failed", "timetable_runs")
    for table in ("timetable_entries", "announcements", "alerts", "sub_budgets", "allocation_budgets", "budget_rules"):
        op.drop_table(table)
