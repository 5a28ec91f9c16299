"""What the database itself refuses, on both stores. A migration that rebuilds a table on SQLite calls these again."""

from __future__ import annotations

from alembic import op

APPEND_ONLY = (
    "access_log", "charges", "history_entries", "ledger_entries", "statement_lines", "tariffs", "usage_records",
)  # fmt: skip
# Those of later migrations, each of which protects its own.
ADDED_APPEND_ONLY = (
    "budget_rules", "card_weights", "conflict_waivers", "decisions", "letters", "opinions", "policy_versions",
    "programme_versions", "request_submissions", "retention_runs", "review_comments", "review_flows",
    "special_days", "work_years",
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


def drop_functions() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION IF EXISTS refuse_change() CASCADE")
        op.execute("DROP FUNCTION IF EXISTS refuse_overlap() CASCADE")
