"""cancellation quotes, returned hours, extensions, options and the wait-list, strikes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

VERBS = ("stop", "drain", "resume", "retry")
STATES = ("waiting", "claimed", "done", "failed")
WAITERS = ("waiting", "offered", "booked", "lapsed", "left", "over")
LOST = sa.text("outcome = 'failed' AND granted_at IS NOT NULL AND credited_at IS NULL")
UNSETTLED = sa.text("settled_at IS NULL")
FAILED = sa.text("state = 'failed'")
TABLES = (
    "option_places", "waiters", "strikes", "extensions", "returned_places", "returned_hours", "cancellation_quotes",
)  # fmt: skip


def _words(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=24)


def _key(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    op.add_column("attempts", sa.Column("warned_minutes", sa.Integer(), nullable=True))
    op.add_column("attempts", sa.Column("credited_at", UtcDateTime(), nullable=True))
    # What was lost before was settled with the enterprises by hand, or not at all: it is not credited anew.
    op.execute("UPDATE attempts SET credited_at = ended_at WHERE outcome = 'failed' AND granted_at IS NOT NULL")
    op.create_index("ix_attempts_lost", "attempts", ["id"], sqlite_where=LOST, postgresql_where=LOST)
    _verbs_of_instructions(VERBS, (*VERBS, "move_end"))
    _quotes()
    _returned()
    _extensions()
    _strikes()
    _waiters()


def _quotes() -> None:
    op.create_table(
        "cancellation_quotes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("kind", _words("kind", "cancel", "hand_back"), nullable=False),
        sa.Column("from_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro_yuan", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.Integer(), nullable=True),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "percent BETWEEN 0 AND 100 AND gpu_seconds >= 0", name=op.f("ck_cancellation_quotes_charge")
        ),
        sa.CheckConstraint("expires_at > made_at", name=op.f("ck_cancellation_quotes_order")),
        _key("cancellation_quotes", "booking_id", "bookings"),
        _key("cancellation_quotes", "made_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cancellation_quotes")),
    )
    op.create_index(op.f("ix_cancellation_quotes_booking_id"), "cancellation_quotes", ["booking_id"])


def _returned() -> None:
    op.create_table(
        "returned_hours",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("quote_id", sa.Integer(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("charged_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("charge_ids", sa.JSON(), nullable=False),
        sa.Column("rebooked_gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("credited_gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("ends_at > starts_at AND charged_gpu_seconds > 0", name=op.f("ck_returned_hours_something")),
        sa.CheckConstraint(
            "settled_at IS NULL OR (credited_gpu_seconds BETWEEN 0 AND charged_gpu_seconds "
            "AND credited_gpu_seconds <= rebooked_gpu_seconds)",
            name=op.f("ck_returned_hours_credit"),
        ),
        _key("returned_hours", "booking_id", "bookings"),
        _key("returned_hours", "enterprise_id", "enterprises"),
        _key("returned_hours", "quote_id", "cancellation_quotes"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_returned_hours")),
        sa.UniqueConstraint("quote_id", name=op.f("uq_returned_hours_quote_id")),
    )
    op.create_index(op.f("ix_returned_hours_booking_id"), "returned_hours", ["booking_id"])
    op.create_index(
        "ix_returned_hours_unsettled", "returned_hours", ["ends_at"],
        sqlite_where=UNSETTLED, postgresql_where=UNSETTLED,
    )  # fmt: skip
    op.create_table(
        "returned_places",
        sa.Column("returned_id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("gpu_mask", sa.BigInteger(), nullable=False),
        _key("returned_places", "returned_id", "returned_hours"),
        _key("returned_places", "node_id", "nodes"),
        sa.PrimaryKeyConstraint("returned_id", "node_id", "gpu_mask", name=op.f("pk_returned_places")),
    )


def _extensions() -> None:
    op.create_table(
        "extensions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("free", sa.Boolean(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("credited_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("ends_at > starts_at AND gpu_seconds > 0", name=op.f("ck_extensions_something")),
        _key("extensions", "booking_id", "bookings"),
        _key("extensions", "by_id", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_extensions")),
        sa.UniqueConstraint("booking_id", "number", name=op.f("uq_extensions_booking_id_number")),
    )


def _strikes() -> None:
    op.create_table(
        "strikes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("waived_at", UtcDateTime(), nullable=True),
        sa.Column("waived_by", sa.Integer(), nullable=True),
        sa.Column("waived_because", sa.String(length=400), nullable=True),
        sa.CheckConstraint("(waived_at IS NULL) = (waived_because IS NULL)", name=op.f("ck_strikes_waived")),
        _key("strikes", "booking_id", "bookings"),
        _key("strikes", "enterprise_id", "enterprises"),
        _key("strikes", "waived_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strikes")),
        sa.UniqueConstraint("booking_id", name=op.f("uq_strikes_booking_id")),
    )
    op.create_index("ix_strikes_enterprise_id_at", "strikes", ["enterprise_id", "at"])


def _waiters() -> None:
    op.create_table(
        "waiters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", _words("state", *WAITERS), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(length=80), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("joined_by", sa.Integer(), nullable=True),
        sa.Column("joined_at", UtcDateTime(), nullable=False),
        sa.Column("kept_until_at", UtcDateTime(), nullable=True),
        sa.Column("booking_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("gpus > 0 AND ends_at > starts_at", name=op.f("ck_waiters_window")),
        sa.CheckConstraint("state <> 'offered' OR kept_until_at IS NOT NULL", name=op.f("ck_waiters_kept")),
        _key("waiters", "enterprise_id", "enterprises"),
        _key("waiters", "allocation_id", "allocations"),
        _key("waiters", "pool_id", "pools"),
        _key("waiters", "joined_by", "users"),
        _key("waiters", "booking_id", "bookings"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waiters")),
    )
    op.create_index("ix_waiters_pool_id_state", "waiters", ["pool_id", "state", "id"])
    op.create_index("ix_waiters_enterprise_id_id", "waiters", ["enterprise_id", "id"])
    op.create_table(
        "option_places",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("waiter_id", sa.Integer(), nullable=False),
        sa.Column("gpu_mask", sa.BigInteger(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("gpu_mask > 0", name=op.f("ck_option_places_some_gpus")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_option_places_order")),
        _key("option_places", "pool_id", "pools"),
        _key("option_places", "node_id", "nodes"),
        _key("option_places", "waiter_id", "waiters"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_option_places")),
    )
    for column in ("pool_id", "waiter_id"):
        op.create_index(op.f(f"ix_option_places_{column}"), "option_places", [column])


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
        sa.Index("ix_instructions_failed", "id", sqlite_where=FAILED),
    )
    with op.batch_alter_table("instructions", copy_from=table, recreate="always") as batch:
        batch.alter_column(
            "verb",
            existing_type=_words("ck_instructions_verb", *before),
            type_=_words("verb", *after),  # the naming convention makes the whole name
            existing_nullable=False,
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.execute("DELETE FROM instructions WHERE verb = 'move_end'")
    _verbs_of_instructions((*VERBS, "move_end"), VERBS)
    op.drop_index("ix_attempts_lost", "attempts")
    op.drop_column("attempts", "credited_at")
    op.drop_column("attempts", "warned_minutes")
