"""What the database itself refuses, on both stores. A migration that rebuilds a table on SQLite calls these again."""

from __future__ import annotations

from alembic import op

APPEND_ONLY = (
    "access_log", "charges", "history_entries", "ledger_entries", "statement_lines", "tariffs", "usage_records",
)  # fmt: skip
# Those of later migrations, each of which protects its own.
ADDED_APPEND_ONLY = (
    "booking_prices", "budget_rules", "card_weights", "claim_lines", "conflict_waivers", "contract_subsidies",
    "decisions", "letters", "opinions", "policy_versions", "pool_weights", "power_readings", "programme_versions",
    "receipt_keys", "request_submissions", "retention_runs", "review_comments", "review_flows", "scheme_versions",
    "special_days", "statement_contents", "statement_documents", "subsidy_uses", "work_years",
)  # fmt: skip


def drop_append_only(table: str) -> None:
    """For a migration that has to: it protects the table again."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER {table}_no_{verb}")
        return
    for verb in ("update", "delete", "truncate"):
        op.execute(f"DROP TRIGGER {table}_no_{verb} ON {table}")


def removable_when_its_time_is_over(table: str) -> None:
    """DELETE of a row fails unless `retention_runs` says that rows of its age are removed. UPDATE fails as before."""
    limit = f"(SELECT MAX(r.before_at) FROM retention_runs r WHERE r.record = '{table}')"  # noqa: S608 - our own name
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER {table}_no_delete")
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
            f"WHEN OLD.at >= COALESCE({limit}, '') BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
        return
    op.execute(f"DROP TRIGGER {table}_no_delete ON {table}")
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_early_removal() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF OLD.at >= COALESCE({limit}, '-infinity') THEN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN OLD; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_early_removal()"
    )


def append_only(table: str) -> None:
    """UPDATE and DELETE of any row of `table` fail."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; "
        "END $$"
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


_CLASH = (
    "SELECT 1 FROM occupancies o WHERE o.node_id = NEW.node_id AND o.id <> COALESCE(NEW.id, -1) "
    "AND o.ends_at > NEW.starts_at AND o.starts_at < NEW.ends_at AND o.starts_at < o.ends_at "
    "AND NEW.starts_at < NEW.ends_at AND (o.gpu_mask & NEW.gpu_mask) <> 0"
)


def one_booking_per_gpu() -> None:
    """Two occupancies of a node never share a GPU at an instant.

    The verbs lock the pool's row before they place, so this never fires in honest work: it is the last line.
    """
    moved = "UPDATE OF node_id, gpu_mask, starts_at, ends_at"
    if op.get_bind().dialect.name == "sqlite":
        for name, when in (("insert", "INSERT"), ("update", moved)):
            op.execute(
                f"CREATE TRIGGER occupancies_no_overlap_{name} BEFORE {when} ON occupancies "
                f"WHEN EXISTS ({_CLASH}) BEGIN SELECT RAISE(ABORT, 'overbooked'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_overlap() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF EXISTS ({_CLASH}) THEN RAISE EXCEPTION 'overbooked' "
        "USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE TRIGGER occupancies_no_overlap BEFORE INSERT OR {moved} ON occupancies "
        "FOR EACH ROW EXECUTE FUNCTION refuse_overlap()"
    )


_DISCOUNT_CLASH = (
    "SELECT 1 FROM discounts d WHERE d.pool_id = NEW.pool_id AND d.size_class = NEW.size_class "
    "AND d.id <> COALESCE(NEW.id, -1) AND d.until_on >= NEW.from_on AND d.from_on <= NEW.until_on"
)


def one_discount_at_a_time() -> None:
    """Two discounts of a pool for one size class never share a day. The verb locks the pool's row and says why."""
    if op.get_bind().dialect.name == "sqlite":
        for name, when in (("insert", "INSERT"), ("update", "UPDATE")):
            op.execute(
                f"CREATE TRIGGER discounts_no_overlap_{name} BEFORE {when} ON discounts "
                f"WHEN EXISTS ({_DISCOUNT_CLASH}) BEGIN SELECT RAISE(ABORT, 'discounts overlap'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_discount() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF EXISTS ({_DISCOUNT_CLASH}) THEN RAISE EXCEPTION 'discounts overlap' "
        "USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER discounts_no_overlap BEFORE INSERT OR UPDATE ON discounts "
        "FOR EACH ROW EXECUTE FUNCTION refuse_discount()"
    )


# Parts of the day meet when one begins within the other; one whose end is not after its begin runs over midnight.
_PRICE_CLASH = (
    "SELECT 1 FROM tariffs t WHERE t.pool_id = NEW.pool_id AND t.id <> COALESCE(NEW.id, -1) "
    "AND COALESCE(t.until_on, '9999-12-31') >= NEW.from_on AND t.from_on <= COALESCE(NEW.until_on, '9999-12-31') "
    "AND ((t.from_hour IS NULL AND NEW.from_hour IS NULL) OR (t.from_hour IS NOT NULL AND NEW.from_hour IS NOT NULL "
    "AND (CASE WHEN NEW.from_hour < NEW.until_hour THEN t.from_hour >= NEW.from_hour AND t.from_hour < NEW.until_hour "
    "ELSE t.from_hour >= NEW.from_hour OR t.from_hour < NEW.until_hour END "
    "OR CASE WHEN t.from_hour < t.until_hour THEN NEW.from_hour >= t.from_hour AND NEW.from_hour < t.until_hour "
    "ELSE NEW.from_hour >= t.from_hour OR NEW.from_hour < t.until_hour END)))"
)


def one_price_at_a_time() -> None:
    """Two list prices of a pool never hold in one hour, but for off-peak hours, which go before the whole day's."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER tariffs_no_overlap BEFORE INSERT ON tariffs "
            f"WHEN EXISTS ({_PRICE_CLASH}) BEGIN SELECT RAISE(ABORT, 'prices overlap'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_price() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF EXISTS ({_PRICE_CLASH}) THEN RAISE EXCEPTION 'prices overlap' "
        "USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER tariffs_no_overlap BEFORE INSERT ON tariffs FOR EACH ROW EXECUTE FUNCTION refuse_price()"
    )


def drop_one_price_at_a_time() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER tariffs_no_overlap")
    else:
        op.execute("DROP FUNCTION IF EXISTS refuse_price() CASCADE")
        op.execute("DROP FUNCTION IF EXISTS refuse_price_change() CASCADE")


def only_the_last_day_may_be_set() -> None:
    """In place of the protection of tariffs against UPDATE: an open price may get its last day, once, nothing else."""
    same = " AND ".join(
        f"NEW.{name} {{is}} OLD.{name}"
        for name in ("id", "pool_id", "from_on", "from_hour", "until_hour", "gpus_most", "price_micro_yuan", "set_by",
                     "set_at")
    )  # fmt: skip
    ends = f"OLD.until_on IS NULL AND NEW.until_on IS NOT NULL AND {same}"
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER tariffs_no_update")
        op.execute(
            f"CREATE TRIGGER tariffs_no_update BEFORE UPDATE ON tariffs WHEN NOT ({ends.format(**{'is': 'IS'})}) "
            "BEGIN SELECT RAISE(ABORT, 'tariffs is append-only'); END"
        )
        return
    op.execute("DROP TRIGGER tariffs_no_update ON tariffs")
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_price_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NOT ({ends.format(**{'is': 'IS NOT DISTINCT FROM'})}) THEN RAISE EXCEPTION "
        "'% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER tariffs_no_update BEFORE UPDATE ON tariffs FOR EACH ROW EXECUTE FUNCTION refuse_price_change()"
    )


_SCOPE_CLASH = (
    "SELECT 1 FROM discounts d WHERE d.pool_id = NEW.pool_id AND d.id <> COALESCE(NEW.id, -1) "
    "AND COALESCE(d.programme_id, 0) = COALESCE(NEW.programme_id, 0) "
    "AND COALESCE(d.size_class, '') = COALESCE(NEW.size_class, '') "
    "AND d.until_on >= NEW.from_on AND d.from_on <= NEW.until_on"
)


def drop_one_discount_at_a_time() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("insert", "update"):
            op.execute(f"DROP TRIGGER discounts_no_overlap_{name}")
    else:
        op.execute("DROP FUNCTION IF EXISTS refuse_discount() CASCADE")


def one_discount_of_a_scope_at_a_time() -> None:
    """Two discounts of a pool for the same programme and size class never share a day."""
    if op.get_bind().dialect.name == "sqlite":
        for name, when in (("insert", "INSERT"), ("update", "UPDATE")):
            op.execute(
                f"CREATE TRIGGER discounts_no_overlap_{name} BEFORE {when} ON discounts "
                f"WHEN EXISTS ({_SCOPE_CLASH}) BEGIN SELECT RAISE(ABORT, 'discounts overlap'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_discount() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF EXISTS ({_SCOPE_CLASH}) THEN RAISE EXCEPTION 'discounts overlap' "
        "USING ERRCODE = 'exclusion_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER discounts_no_overlap BEFORE INSERT OR UPDATE ON discounts "
        "FOR EACH ROW EXECUTE FUNCTION refuse_discount()"
    )


_OF_WHAT_IS_ISSUED = (
    "id", "number", "enterprise_id", "sponsor_id", "month", "opened_at", "closed_at", "rule_version", "tax_permille",
    "gpu_seconds", "amount_micro_yuan", "tax_micro_yuan", "list_micro_yuan", "discount_micro_yuan",
    "subsidy_micro_yuan", "voucher_micro_yuan", "closing", "closed_by", "checked_by", "checked_at", "approved_by",
    "issued_at", "pay_until_on", "dispute_until_at",
)  # fmt: skip


def issued_stays() -> None:
    """Of an issued statement only what is paid and settled goes on; what it says, and that it is there, stays."""
    final = "OLD.state IN ('issued', 'settled')"
    onward = "NEW.state IN ('issued', 'settled') AND NOT (OLD.state = 'settled' AND NEW.state = 'issued')"
    if op.get_bind().dialect.name == "sqlite":
        same = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in _OF_WHAT_IS_ISSUED)
        op.execute(
            f"CREATE TRIGGER statements_issued_no_update BEFORE UPDATE ON statements WHEN {final} "
            f"AND NOT ({same} AND {onward}) BEGIN SELECT RAISE(ABORT, 'an issued statement never changes'); END"
        )
        op.execute(
            f"CREATE TRIGGER statements_issued_no_delete BEFORE DELETE ON statements WHEN {final} "
            "BEGIN SELECT RAISE(ABORT, 'an issued statement never changes'); END"
        )
        return
    same = " AND ".join(f"NEW.{name} IS NOT DISTINCT FROM OLD.{name}" for name in _OF_WHAT_IS_ISSUED)
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_issued() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'UPDATE' THEN IF {same} AND {onward} THEN RETURN NEW; END IF; END IF; "
        "RAISE EXCEPTION 'an issued statement never changes' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER statements_issued_no_{verb.lower()} BEFORE {verb} ON statements FOR EACH ROW "
            f"WHEN ({final}) EXECUTE FUNCTION refuse_issued()"
        )


def drop_issued_stays() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER statements_issued_no_{verb}")
    else:
        op.execute("DROP FUNCTION IF EXISTS refuse_issued() CASCADE")


def drop_functions() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION IF EXISTS refuse_change() CASCADE")
        op.execute("DROP FUNCTION IF EXISTS refuse_overlap() CASCADE")
