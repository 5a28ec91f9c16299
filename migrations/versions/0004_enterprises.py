"""enterprises: documents, invitations, sizes by day, related parties, breaches; teams without a credit code"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SIZES = ("micro", "small", "medium", "large")
RELATIONS = ("holds", "held", "same_hand", "persons", "other")
ROLES = ("member", "manager", "operator", "finance", "auditor", "admin")
IN_USE = sa.text("state <> 'declined'")


def _kind(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=24)


def upgrade() -> None:
    _enterprises()
    op.create_table(
        "enterprise_sizes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("size_class", _kind("size_class", SIZES), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_enterprise_sizes_enterprise_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_enterprise_sizes_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enterprise_sizes")),
    )
    op.create_index(op.f("ix_enterprise_sizes_enterprise_id"), "enterprise_sizes", ["enterprise_id"])
    # What is known of those that are here already: their class since they applied, by Shanghai's day.
    shifted = (
        "DATE(applied_at, '+8 hours')"
        if op.get_bind().dialect.name == "sqlite"
        else "(applied_at AT TIME ZONE 'Asia/Shanghai')::date"
    )
    op.execute(
        "INSERT INTO enterprise_sizes (enterprise_id, size_class, from_on, set_at) "  # noqa: S608 - our own text
        f"SELECT id, size_class, {shifted}, applied_at FROM enterprises ORDER BY id"
    )
    op.create_table(
        "related_parties",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("other_id", sa.Integer(), nullable=True),
        sa.Column("other_code", sa.String(length=18), nullable=True),
        sa.Column("other_name", sa.String(length=120), nullable=True),
        sa.Column("relation", _kind("relation", RELATIONS), nullable=False),
        sa.Column("evidence", sa.String(length=1000), nullable=False),
        sa.Column("from_on", sa.Date(), nullable=False),
        sa.Column("until_on", sa.Date(), nullable=True),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        sa.Column("ended_by", sa.Integer(), nullable=True),
        sa.CheckConstraint("(other_id IS NULL) <> (other_code IS NULL)", name=op.f("ck_related_parties_one_other")),
        sa.CheckConstraint("other_id <> enterprise_id", name=op.f("ck_related_parties_not_itself")),
        sa.CheckConstraint("until_on >= from_on", name=op.f("ck_related_parties_period")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_related_parties_enterprise_id")),
        sa.ForeignKeyConstraint(["other_id"], ["enterprises.id"], name=op.f("fk_related_parties_other_id")),
        sa.ForeignKeyConstraint(["entered_by"], ["users.id"], name=op.f("fk_related_parties_entered_by")),
        sa.ForeignKeyConstraint(["ended_by"], ["users.id"], name=op.f("fk_related_parties_ended_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_related_parties")),
    )
    for column in ("enterprise_id", "other_id", "other_code"):
        op.create_index(op.f(f"ix_related_parties_{column}"), "related_parties", [column])
    op.create_table(
        "credit_breaches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("happened_on", sa.Date(), nullable=False),
        sa.Column("free_on", sa.Date(), nullable=False),
        sa.Column("evidence", sa.String(length=1000), nullable=False),
        sa.Column("entered_by", sa.Integer(), nullable=True),
        sa.Column("entered_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_on", sa.Date(), nullable=True),
        sa.Column("lifted_why", sa.String(length=1000), nullable=True),
        sa.Column("lifted_by", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_credit_breaches_enterprise_id")),
        sa.ForeignKeyConstraint(["entered_by"], ["users.id"], name=op.f("fk_credit_breaches_entered_by")),
        sa.ForeignKeyConstraint(["lifted_by"], ["users.id"], name=op.f("fk_credit_breaches_lifted_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_breaches")),
    )
    op.create_index(op.f("ix_credit_breaches_enterprise_id"), "credit_breaches", ["enterprise_id"])
    op.create_table(
        "invitations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("role", _kind("role", ROLES), nullable=False),
        sa.Column("language", sa.String(length=2), nullable=False),
        sa.Column("invited_by", sa.Integer(), nullable=False),
        sa.Column("invited_at", UtcDateTime(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("accepted_at", UtcDateTime(), nullable=True),
        sa.Column("accepted_by", sa.Integer(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_by", sa.Integer(), nullable=True),
        sa.CheckConstraint("role IN ('member', 'manager')", name=op.f("ck_invitations_enterprise_role")),
        sa.CheckConstraint("language IN ('zh', 'en')", name=op.f("ck_invitations_language")),
        sa.CheckConstraint("accepted_at IS NULL OR revoked_at IS NULL", name=op.f("ck_invitations_one_end")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_invitations_enterprise_id")),
        sa.ForeignKeyConstraint(["invited_by"], ["users.id"], name=op.f("fk_invitations_invited_by")),
        sa.ForeignKeyConstraint(["accepted_by"], ["users.id"], name=op.f("fk_invitations_accepted_by")),
        sa.ForeignKeyConstraint(["revoked_by"], ["users.id"], name=op.f("fk_invitations_revoked_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
    )
    op.create_index(op.f("ix_invitations_enterprise_id"), "invitations", ["enterprise_id"])
    op.create_index(op.f("ix_invitations_address"), "invitations", ["address"])
    _files()


def _enterprises() -> None:
    with op.batch_alter_table("enterprises") as batch:
        for column in (
            sa.Column("applied_by", sa.Integer(), nullable=True),
            sa.Column("code_admitted_at", UtcDateTime(), nullable=True),
            sa.Column("sponsor_id", sa.Integer(), nullable=True),
            sa.Column("sponsor_confirmed_at", UtcDateTime(), nullable=True),
            sa.Column("contact_name", sa.String(length=80), nullable=True),
            sa.Column("contact_phone", sa.String(length=40), nullable=True),
            sa.Column("address", sa.String(length=200), nullable=True),
        ):
            batch.add_column(column)
        batch.alter_column("credit_code", existing_type=sa.String(length=18), nullable=True)
        batch.drop_constraint(op.f("uq_enterprises_credit_code"), type_="unique")
        batch.drop_constraint(op.f("uq_enterprises_name"), type_="unique")
        batch.create_foreign_key(op.f("fk_enterprises_applied_by"), "users", ["applied_by"], ["id"])
        batch.create_foreign_key(op.f("fk_enterprises_sponsor_id"), "enterprises", ["sponsor_id"], ["id"])
        batch.create_check_constraint(
            op.f("ck_enterprises_code_or_sponsor"), "credit_code IS NULL OR sponsor_id IS NULL"
        )
    for column in ("name", "credit_code"):
        op.create_index(
            f"ix_enterprises_{column}_in_use",
            "enterprises",
            [column],
            unique=True,
            sqlite_where=IN_USE,
            postgresql_where=IN_USE,
        )
    op.create_index("ix_enterprises_state_applied_at", "enterprises", ["state", "applied_at"])
    op.create_index(op.f("ix_enterprises_sponsor_id"), "enterprises", ["sponsor_id"])


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_kind", sa.String(length=24), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kept_by", sa.Integer(), nullable=True),
        sa.Column("kept_at", UtcDateTime(), nullable=False),
        sa.Column("removed_at", UtcDateTime(), nullable=True),
        sa.Column("removed_by", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_files_enterprise_id")),
        sa.ForeignKeyConstraint(["kept_by"], ["users.id"], name=op.f("fk_files_kept_by")),
        sa.ForeignKeyConstraint(["removed_by"], ["users.id"], name=op.f("fk_files_removed_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_owner", "files", ["owner_kind", "owner_id"])
    op.create_index(op.f("ix_files_enterprise_id"), "files", ["enterprise_id"])
    op.create_table(
        "file_contents",
        sa.Column("file_id", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_file_contents_file_id")),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_file_contents")),
    )


def downgrade() -> None:
    """Teams without a code, and declined firms whose name or code is in use again, cannot be kept in the old table."""
    for table in ("file_contents", "files", "invitations", "credit_breaches", "related_parties", "enterprise_sizes"):
        op.drop_table(table)
    for index in (
        op.f("ix_enterprises_sponsor_id"),
        "ix_enterprises_state_applied_at",
        "ix_enterprises_credit_code_in_use",
        "ix_enterprises_name_in_use",
    ):
        op.drop_index(index, "enterprises")
    op.execute("UPDATE enterprises SET credit_code = 'TEAM-' || id WHERE credit_code IS NULL")
    for column, most in (("credit_code", 18), ("name", 120)):
        op.execute(
            f"UPDATE enterprises SET {column} = SUBSTR({column}, 1, {most - 8}) || '#' || id "  # noqa: S608
            f"WHERE state = 'declined' AND EXISTS (SELECT 1 FROM enterprises o "
            f"WHERE o.{column} = enterprises.{column} AND o.id <> enterprises.id)"
        )
    with op.batch_alter_table("enterprises") as batch:
        batch.drop_constraint(op.f("ck_enterprises_code_or_sponsor"), type_="check")
        batch.drop_constraint(op.f("fk_enterprises_sponsor_id"), type_="foreignkey")
        batch.drop_constraint(op.f("fk_enterprises_applied_by"), type_="foreignkey")
        for column in (
            "address", "contact_phone", "contact_name", "sponsor_confirmed_at", "sponsor_id", "code_admitted_at",
            "applied_by",
        ):  # fmt: skip
            batch.drop_column(column)
        batch.alter_column("credit_code", existing_type=sa.String(length=18), nullable=False)
        batch.create_unique_constraint(op.f("uq_enterprises_credit_code"), ["credit_code"])
        batch.create_unique_constraint(op.f("uq_enterprises_name"), ["name"])
