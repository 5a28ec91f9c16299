"""prices with a scope and hours, weights, charges of every kind"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

HOURS = (
    "(from_hour IS NULL AND until_hour IS NULL) OR (from_hour BETWEEN 0 AND 23 AND until_hour BETWEEN 1 AND 24 "
    "AND from_hour <> until_hour AND until_hour - from_hour < 24)"
)
KINDS = ("usage", "cancellation", "no_show", "returned", "outage", "correction", "rerate")
SHAPE = (
    "CASE kind WHEN 'usage' THEN gpu_seconds > 0 AND usage_record_id IS NOT NULL AND corrects_id IS NULL "
    "WHEN 'cancellation' THEN gpu_seconds > 0 AND corrects_id IS NULL "
    "WHEN 'no_show' THEN gpu_seconds > 0 AND corrects_id IS NULL "
    "WHEN 'rerate' THEN gpu_seconds <> 0 AND corrects_id IS NOT NULL "
    "ELSE gpu_seconds < 0 AND corrects_id IS NOT NULL END"
)
USAGE, OTHER, CORRECTS = (sa.text(words) for words in ("kind = 'usage'", "kind <> 'usage'", "corrects_id IS NOT NULL"))


def upgrade() -> None:
    _tariffs()
    _discounts()
    _weights()
    _usage()
    _charges()
    _frozen_prices()
    op.create_index(
        "ix_ledger_entries_corrects_id", "ledger_entries", ["corrects_id"],
        sqlite_where=CORRECTS, postgresql_where=CORRECTS,
    )  # fmt: skip
    for table, column, kind in (
        ("nodes", "cpus", sa.Integer()), ("nodes", "memory_gib", sa.Integer()), ("attempts", "cpus", sa.Integer()),
        ("attempts", "memory_gib", sa.Integer()), ("attempts", "slice", sa.String(length=20)),
    ):  # fmt: skip
        op.add_column(table, sa.Column(column, kind, nullable=True))


def _tariffs() -> None:
    """A price ended the day before the next one began; now it says so itself."""
    triggers.drop_append_only("tariffs")
    with op.batch_alter_table("tariffs") as batch:
        batch.add_column(sa.Column("until_on", sa.Date(), nullable=True))
        for name in ("from_hour", "until_hour", "gpus_most"):
            batch.add_column(sa.Column(name, sa.Integer(), nullable=True))
        batch.drop_constraint(op.f("uq_tariffs_pool_id_from_on"), type_="unique")
        batch.create_check_constraint(op.f("ck_tariffs_period"), "until_on >= from_on")
        batch.create_check_constraint(op.f("ck_tariffs_hours"), HOURS)
        batch.create_check_constraint(
            op.f("ck_tariffs_gpus_most"), "gpus_most IS NULL OR (gpus_most > 0 AND from_hour IS NOT NULL)"
        )
        batch.create_index("ix_tariffs_pool_id_from_on", ["pool_id", "from_on"])
    following = (
        "(SELECT MIN(n.from_on) FROM tariffs n WHERE n.pool_id = tariffs.pool_id AND n.from_on > tariffs.from_on)"
    )
    before = f"date({following}, '-1 day')" if op.get_bind().dialect.name == "sqlite" else f"{following} - 1"
    op.execute(f"UPDATE tariffs SET until_on = {before}")  # noqa: S608 - our own words
    triggers.append_only("tariffs")
    triggers.only_the_last_day_may_be_set()
    triggers.one_price_at_a_time()


def _discounts() -> None:
    """For a programme, a size class, or both; a percentage or a price."""
    triggers.drop_one_discount_at_a_time()
    with op.batch_alter_table("discounts") as batch:
        batch.add_column(sa.Column("programme_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("price_micro_yuan", sa.BigInteger(), nullable=True))
        batch.alter_column("size_class", existing_type=sa.String(length=12), nullable=True)
        batch.alter_column("percent", existing_type=sa.Integer(), nullable=True)
        batch.create_foreign_key(op.f("fk_discounts_programme_id"), "programmes", ["programme_id"], ["id"])
        batch.create_check_constraint(op.f("ck_discounts_price"), "price_micro_yuan >= 0")
        batch.create_check_constraint(
            op.f("ck_discounts_one_of_both"), "(percent IS NULL) <> (price_micro_yuan IS NULL)"
        )
        batch.create_check_constraint(op.f("ck_discounts_scope"), "programme_id IS NOT NULL OR size_class IS NOT NULL")
    triggers.one_discount_of_a_scope_at_a_time()


def _weights() -> None:
    op.create_table(
        "pool_weights",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pool_id", sa.Integer(), nullable=False),
        sa.Column("slice", sa.String(length=20), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("weight_milli", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("weight_milli > 0", name=op.f("ck_pool_weights_weight")),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_pool_weights_pool_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_pool_weights_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pool_weights")),
        sa.UniqueConstraint("pool_id", "slice", "from_on", name=op.f("uq_pool_weights_pool_id_slice_from_on")),
    )
    triggers.append_only("pool_weights")


def _usage() -> None:
    """What was metered before took whole cards."""
    triggers.drop_append_only("usage_records")
    op.add_column("usage_records", sa.Column("slice", sa.String(length=20), nullable=True))
    op.add_column("usage_records", sa.Column("share_milli", sa.Integer(), nullable=True))
    op.execute("UPDATE usage_records SET share_milli = gpus * 1000")
    with op.batch_alter_table("usage_records") as batch:
        batch.alter_column("share_milli", existing_type=sa.Integer(), nullable=False)
        batch.create_check_constraint(op.f("ck_usage_records_share"), "share_milli > 0")
    triggers.append_only("usage_records")


def _charges() -> None:
    """Each charge so far was of one usage record, at the list price."""
    triggers.drop_append_only("charges")
    new = (
        ("reference", sa.String(length=60)), ("kind", sa.String(length=24)), ("corrects_id", sa.Integer()),
        ("discount_id", sa.Integer()), ("weight_milli", sa.Integer()), ("why", sa.JSON(none_as_null=True)),
        ("by_id", sa.Integer()),
    )  # fmt: skip
    for name, type_ in new:
        op.add_column("charges", sa.Column(name, type_, nullable=True))
    op.execute("UPDATE charges SET reference = 'usage:' || usage_record_id, kind = 'usage', weight_milli = 1000")
    with op.batch_alter_table("charges") as batch:
        batch.drop_constraint(op.f("uq_charges_usage_record_id"), type_="unique")
        batch.alter_column("usage_record_id", existing_type=sa.Integer(), nullable=True)
        for name, type_ in new:
            if name in ("reference", "kind", "weight_milli"):
                batch.alter_column(name, existing_type=type_, nullable=False)
        for name, table in (("corrects_id", "charges"), ("discount_id", "discounts"), ("by_id", "users")):
            batch.create_foreign_key(op.f(f"fk_charges_{name}"), table, [name], ["id"])
        batch.create_unique_constraint(op.f("uq_charges_reference"), ["reference"])
        words = ", ".join(f"'{kind}'" for kind in KINDS)
        batch.create_check_constraint(op.f("ck_charges_kind"), f"kind IN ({words})")
        batch.create_check_constraint(op.f("ck_charges_weight"), "weight_milli > 0")
        batch.create_check_constraint(op.f("ck_charges_shape"), SHAPE)
    op.create_index(
        "uq_charges_usage_record_id", "charges", ["usage_record_id"], unique=True,
        sqlite_where=USAGE, postgresql_where=USAGE,
    )  # fmt: skip
    op.create_index(
        "ix_charges_usage_record_id_other", "charges", ["usage_record_id"], sqlite_where=OTHER, postgresql_where=OTHER
    )
    op.create_index(
        "ix_charges_corrects_id", "charges", ["corrects_id"], sqlite_where=CORRECTS, postgresql_where=CORRECTS
    )
    triggers.append_only("charges")


def _frozen_prices() -> None:
    """A fixed booking that is confirmed has the price of its first hour for its whole window."""
    op.create_table(
        "booking_prices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("booking_id", sa.Integer(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("tariff_id", sa.Integer(), nullable=False),
        sa.Column("discount_id", sa.Integer(), nullable=True),
        sa.Column("weight_milli", sa.Integer(), nullable=False),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_booking_prices_order")),
        sa.CheckConstraint("weight_milli > 0", name=op.f("ck_booking_prices_weight")),
        sa.ForeignKeyConstraint(["booking_id"], ["bookings.id"], name=op.f("fk_booking_prices_booking_id")),
        sa.ForeignKeyConstraint(["tariff_id"], ["tariffs.id"], name=op.f("fk_booking_prices_tariff_id")),
        sa.ForeignKeyConstraint(["discount_id"], ["discounts.id"], name=op.f("fk_booking_prices_discount_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_booking_prices")),
        sa.UniqueConstraint("booking_id", "starts_at", name=op.f("uq_booking_prices_booking_id_starts_at")),
    )
    op.execute(
        "INSERT INTO booking_prices (booking_id, starts_at, ends_at, tariff_id, weight_milli) "
        "SELECT id, starts_at, ends_at, tariff_id, 1000 FROM bookings WHERE kind = 'fixed' AND tariff_id IS NOT NULL"
    )
    triggers.append_only("booking_prices")


def downgrade() -> None:
    """What only this version can hold is lost: off-peak prices, contract prices, credits and fees."""
    op.drop_index("ix_ledger_entries_corrects_id", "ledger_entries")
    for table, columns in (("attempts", ("slice", "memory_gib", "cpus")), ("nodes", ("memory_gib", "cpus"))):
        for column in columns:
            op.drop_column(table, column)
    for table in ("booking_prices", "pool_weights"):
        op.drop_table(table)
    triggers.drop_append_only("charges")
    op.execute("DELETE FROM charges WHERE kind <> 'usage'")
    for index in ("uq_charges_usage_record_id", "ix_charges_usage_record_id_other", "ix_charges_corrects_id"):
        op.drop_index(index, "charges")
    with op.batch_alter_table("charges") as batch:
        for check in ("kind", "weight", "shape"):
            batch.drop_constraint(op.f(f"ck_charges_{check}"), type_="check")
        for name in ("corrects_id", "discount_id", "by_id"):
            batch.drop_constraint(op.f(f"fk_charges_{name}"), type_="foreignkey")
        batch.drop_constraint(op.f("uq_charges_reference"), type_="unique")
        for name in ("reference", "kind", "corrects_id", "discount_id", "weight_milli", "why", "by_id"):
            batch.drop_column(name)
        batch.alter_column("usage_record_id", existing_type=sa.Integer(), nullable=False)
        batch.create_unique_constraint(op.f("uq_charges_usage_record_id"), ["usage_record_id"])
    triggers.append_only("charges")
    triggers.drop_append_only("usage_records")
    with op.batch_alter_table("usage_records") as batch:
        batch.drop_constraint(op.f("ck_usage_records_share"), type_="check")
        batch.drop_column("share_milli")
        batch.drop_column("slice")
    triggers.append_only("usage_records")
    triggers.drop_one_discount_at_a_time()
    op.execute("DELETE FROM discounts WHERE programme_id IS NOT NULL OR percent IS NULL")
    with op.batch_alter_table("discounts") as batch:
        for check in ("price", "one_of_both", "scope"):
            batch.drop_constraint(op.f(f"ck_discounts_{check}"), type_="check")
        batch.drop_constraint(op.f("fk_discounts_programme_id"), type_="foreignkey")
        batch.drop_column("programme_id")
        batch.drop_column("price_micro_yuan")
        batch.alter_column("size_class", existing_type=sa.String(length=12), nullable=False)
        batch.alter_column("percent", existing_type=sa.Integer(), nullable=False)
    triggers.one_discount_at_a_time()
    triggers.drop_append_only("tariffs")
    triggers.drop_one_price_at_a_time()
    op.execute(
        "DELETE FROM tariffs WHERE from_hour IS NOT NULL AND id NOT IN (SELECT tariff_id FROM charges) "
        "AND id NOT IN (SELECT tariff_id FROM bookings WHERE tariff_id IS NOT NULL)"
    )
    with op.batch_alter_table("tariffs") as batch:
        batch.drop_index("ix_tariffs_pool_id_from_on")
        for check in ("period", "hours", "gpus_most"):
            batch.drop_constraint(op.f(f"ck_tariffs_{check}"), type_="check")
        for name in ("until_on", "from_hour", "until_hour", "gpus_most"):
            batch.drop_column(name)
        batch.create_unique_constraint(op.f("uq_tariffs_pool_id_from_on"), ["pool_id", "from_on"])
    triggers.append_only("tariffs")
