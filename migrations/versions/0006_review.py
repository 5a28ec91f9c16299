"""steps, decisions, working days, rule versions"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

from compute_portal.db import UtcDateTime
from migrations import triggers

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

PROTECTED = (
    "conflict_waivers", "decisions", "letters", "opinions", "policy_versions", "review_comments", "review_flows",
    "special_days", "work_years",
)  # fmt: skip
TABLES = (
    "policy_versions", "special_days", "work_years", "reason_codes", "review_flows", "request_steps", "decisions",
    "opinions", "review_comments", "interests", "conflict_waivers", "appeals", "letters",
)  # fmt: skip
SEEDED_AT = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)

# Each year with what it is taken from: the notice of the State Council's General Office, or until there is one the
# statutory days alone (Regulation on public holidays, as amended in November 2024), marked provisional.
YEARS = (
    (2025, False, "国务院办公厅关于2025年部分节假日安排的通知（国办发明电〔2024〕12号）"),
    (2026, False, "国务院办公厅关于2026年部分节假日安排的通知（2025年11月4日）"),
    (2027, True, "全国年节及纪念日放假办法（2024年修订）：仅法定假日，调休待通知"),
)
OPENS, CLOSES = 9 * 60, 18 * 60
NAMES = {
    "元旦": "New Year",
    "春节": "Spring Festival",
    "清明节": "Qingming Festival",
    "劳动节": "Labour Day",
    "端午节": "Dragon Boat Festival",
    "中秋节": "Mid-Autumn Festival",
    "国庆节": "National Day",
    "国庆节、中秋节": "National Day and Mid-Autumn Festival",
}
# First and last day off; days worked in exchange.
HOLIDAYS = (
    ("元旦", "2025-01-01", "2025-01-01", ()),
    ("春节", "2025-01-28", "2025-02-04", ("2025-01-26", "2025-02-08")),
    ("清明节", "2025-04-04", "2025-04-06", ()),
    ("劳动节", "2025-05-01", "2025-05-05", ("2025-04-27",)),
    ("端午节", "2025-05-31", "2025-06-02", ()),
    ("国庆节、中秋节", "2025-10-01", "2025-10-08", ("2025-09-28", "2025-10-11")),
    ("元旦", "2026-01-01", "2026-01-03", ("2026-01-04",)),
    ("春节", "2026-02-15", "2026-02-23", ("2026-02-14", "2026-02-28")),
    ("清明节", "2026-04-04", "2026-04-06", ()),
    ("劳动节", "2026-05-01", "2026-05-05", ("2026-05-09",)),
    ("端午节", "2026-06-19", "2026-06-21", ()),
    ("中秋节", "2026-09-25", "2026-09-27", ()),
    ("国庆节", "2026-10-01", "2026-10-07", ("2026-09-20", "2026-10-10")),
    ("元旦", "2027-01-01", "2027-01-01", ()),
    ("春节", "2027-02-05", "2027-02-08", ()),
    ("清明节", "2027-04-05", "2027-04-05", ()),
    ("劳动节", "2027-05-01", "2027-05-02", ()),
    ("端午节", "2027-06-09", "2027-06-09", ()),
    ("中秋节", "2027-09-15", "2027-09-15", ()),
    ("国庆节", "2027-10-01", "2027-10-03", ()),
)
# code, name, English name, declines, cuts
REASONS = (
    ("size", "按模型和数据规模核算", "Estimated from the size of model and data", False, True),
    ("pool", "计划剩余卡时不足", "The programme has too few GPU-hours left", True, True),
    ("earlier-use", "以往额度使用不足", "Earlier allocations were little used", True, True),
    ("capacity", "资源池在申请期内容量不足", "The pool has too little capacity in the period", True, True),
    ("eligibility", "不符合申请资格", "Not eligible under the programme’s rules", True, False),
    ("incomplete", "材料不全或说明不清", "Documents are missing or the request is unclear", True, False),
    ("double-support", "同一内容已获其他财政支持", "The same undertaking has other public support", True, True),
    ("other", "其他", "Other", True, True),
)


def upgrade() -> None:
    op.create_table(
        "policy_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("from_at", UtcDateTime(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy_versions")),
    )
    op.create_table(
        "special_days",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("off", "worked", "ordinary", name="kind", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("name_en", sa.String(length=60), nullable=True),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_special_days_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_special_days")),
    )
    op.create_index(op.f("ix_special_days_day"), "special_days", ["day"], unique=False)
    op.create_table(
        "work_years",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("opens_minute", sa.Integer(), nullable=False),
        sa.Column("closes_minute", sa.Integer(), nullable=False),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "opens_minute >= 0 AND closes_minute <= 1440 AND opens_minute < closes_minute",
            name=op.f("ck_work_years_open"),
        ),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_work_years_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_years")),
    )
    op.create_table(
        "reason_codes",
        sa.Column("code", sa.String(length=24), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("name_en", sa.String(length=120), nullable=False),
        sa.Column("declines", sa.Boolean(), nullable=False),
        sa.Column("cuts", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_reason_codes")),
    )
    op.create_table(
        "review_flows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("programme_id", sa.Integer(), nullable=False),
        sa.Column("track", sa.String(length=8), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["programme_id"], ["programmes.id"], name=op.f("fk_review_flows_programme_id")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_review_flows_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_flows")),
    )
    op.create_index("ix_review_flows_programme_id_track", "review_flows", ["programme_id", "track", "id"], unique=False)
    op.create_table(
        "request_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=True),
        sa.Column("name_en", sa.String(length=80), nullable=True),
        sa.Column(
            "role",
            sa.Enum(
                "member",
                "manager",
                "operator",
                "finance",
                "auditor",
                "admin",
                name="role",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("checklist", sa.JSON(), nullable=False),
        sa.Column("deciders", sa.Integer(), nullable=False),
        sa.Column("working_days", sa.Integer(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("total_seconds", sa.Integer(), nullable=True),
        sa.Column("paused_at", UtcDateTime(), nullable=True),
        sa.Column("paused_seconds", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("escalated_at", UtcDateTime(), nullable=True),
        sa.Column("delegated_at", UtcDateTime(), nullable=True),
        sa.Column("assigned_to", sa.Integer(), nullable=True),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("role IN ('operator', 'admin')", name=op.f("ck_request_steps_reviewer")),
        sa.CheckConstraint("(opened_at IS NULL) = (due_at IS NULL)", name=op.f("ck_request_steps_opened")),
        sa.CheckConstraint("deciders BETWEEN 1 AND 5", name=op.f("ck_request_steps_deciders")),
        sa.CheckConstraint("working_days BETWEEN 1 AND 250", name=op.f("ck_request_steps_working_days")),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_request_steps_allocation_id")),
        sa.ForeignKeyConstraint(["assigned_to"], ["users.id"], name=op.f("fk_request_steps_assigned_to")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_steps")),
        sa.UniqueConstraint("allocation_id", "position", name=op.f("uq_request_steps_allocation_id_position")),
    )
    op.create_index(
        "ix_request_steps_open",
        "request_steps",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("opened_at IS NOT NULL AND done_at IS NULL"),
        postgresql_where=sa.text("opened_at IS NOT NULL AND done_at IS NULL"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("programme_id", sa.Integer(), nullable=False),
        sa.Column("track", sa.String(length=8), nullable=True),
        sa.Column("on_appeal", sa.Boolean(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("asked_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("awarded_gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("reason_code", sa.String(length=24), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=False),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("used_seconds", sa.Integer(), nullable=False),
        sa.Column("promised_seconds", sa.Integer(), nullable=False),
        sa.Column("promised_days", sa.Integer(), nullable=False),
        sa.Column("policy_version_id", sa.Integer(), nullable=True),
        sa.Column("programme_version_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_decisions_allocation_id")),
        sa.ForeignKeyConstraint(["decided_by"], ["users.id"], name=op.f("fk_decisions_decided_by")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_decisions_enterprise_id")),
        sa.ForeignKeyConstraint(
            ["policy_version_id"], ["policy_versions.id"], name=op.f("fk_decisions_policy_version_id")
        ),
        sa.ForeignKeyConstraint(["programme_id"], ["programmes.id"], name=op.f("fk_decisions_programme_id")),
        sa.ForeignKeyConstraint(
            ["programme_version_id"], ["programme_versions.id"], name=op.f("fk_decisions_programme_version_id")
        ),
        sa.ForeignKeyConstraint(["reason_code"], ["reason_codes.code"], name=op.f("fk_decisions_reason_code")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sa.UniqueConstraint("allocation_id", "on_appeal", name=op.f("uq_decisions_allocation_id_on_appeal")),
    )
    op.create_index(op.f("ix_decisions_decided_at"), "decisions", ["decided_at"], unique=False)
    op.create_table(
        "opinions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=False),
        sa.Column("approves", sa.Boolean(), nullable=False),
        sa.Column("awarded_gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("reason_code", sa.String(length=24), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_opinions_allocation_id")),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_opinions_by_id")),
        sa.ForeignKeyConstraint(["reason_code"], ["reason_codes.code"], name=op.f("fk_opinions_reason_code")),
        sa.ForeignKeyConstraint(["step_id"], ["request_steps.id"], name=op.f("fk_opinions_step_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_opinions")),
        sa.UniqueConstraint("step_id", "round", "by_id", name=op.f("uq_opinions_step_id_round_by_id")),
    )
    op.create_index(op.f("ix_opinions_allocation_id"), "opinions", ["allocation_id"], unique=False)
    op.create_table(
        "review_comments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("by_id", sa.Integer(), nullable=True),
        sa.Column("public_text", sa.Text(), nullable=True),
        sa.Column("private_text", sa.Text(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "public_text IS NOT NULL OR private_text IS NOT NULL", name=op.f("ck_review_comments_some_text")
        ),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_review_comments_allocation_id")),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_review_comments_by_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_comments")),
    )
    op.create_index(op.f("ix_review_comments_allocation_id"), "review_comments", ["allocation_id"], unique=False)
    op.create_table(
        "interests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("credit_code", sa.String(length=18), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("declared_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_interests_enterprise_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_interests_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_interests")),
        sa.UniqueConstraint("user_id", "enterprise_id", name=op.f("uq_interests_user_id_enterprise_id")),
    )
    op.create_table(
        "conflict_waivers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("waived_by", sa.Integer(), nullable=True),
        sa.Column("waived_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_conflict_waivers_allocation_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_conflict_waivers_user_id")),
        sa.ForeignKeyConstraint(["waived_by"], ["users.id"], name=op.f("fk_conflict_waivers_waived_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflict_waivers")),
        sa.UniqueConstraint("allocation_id", "user_id", name=op.f("uq_conflict_waivers_allocation_id_user_id")),
    )
    op.create_table(
        "appeals",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("allocation_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("filed", "upheld", "dismissed", name="state", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("filed_by", sa.Integer(), nullable=True),
        sa.Column("filed_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("decided_by", sa.Integer(), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("awarded_gpu_seconds", sa.BigInteger(), nullable=True),
        sa.Column("escalated_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["allocation_id"], ["allocations.id"], name=op.f("fk_appeals_allocation_id")),
        sa.ForeignKeyConstraint(["decided_by"], ["users.id"], name=op.f("fk_appeals_decided_by")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_appeals_enterprise_id")),
        sa.ForeignKeyConstraint(["filed_by"], ["users.id"], name=op.f("fk_appeals_filed_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_appeals")),
        sa.UniqueConstraint("allocation_id", name=op.f("uq_appeals_allocation_id")),
    )
    op.create_index(op.f("ix_appeals_enterprise_id"), "appeals", ["enterprise_id"], unique=False)
    op.create_index(op.f("ix_appeals_state"), "appeals", ["state"], unique=False)
    op.create_table(
        "letters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.Integer(), nullable=False),
        sa.Column("enterprise_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(length=24), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("issued_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_letters_decision_id")),
        sa.ForeignKeyConstraint(["enterprise_id"], ["enterprises.id"], name=op.f("fk_letters_enterprise_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_letters")),
        sa.UniqueConstraint("decision_id", name=op.f("uq_letters_decision_id")),
        sa.UniqueConstraint("number", name=op.f("uq_letters_number")),
    )
    for table in PROTECTED:
        triggers.append_only(table)
    _seed()


def _seed() -> None:
    years = sa.table(
        "work_years",
        sa.column("year"), sa.column("opens_minute"), sa.column("closes_minute"),
        sa.column("provisional", sa.Boolean()), sa.column("source"), sa.column("set_at", UtcDateTime()),
    )  # fmt: skip
    op.bulk_insert(
        years,
        [
            {
                "year": year, "opens_minute": OPENS, "closes_minute": CLOSES, "provisional": provisional,
                "source": source, "set_at": SEEDED_AT,
            }
            for year, provisional, source in YEARS
        ],
    )  # fmt: skip
    days = sa.table(
        "special_days",
        sa.column("day", sa.Date()), sa.column("kind"), sa.column("name"), sa.column("name_en"),
        sa.column("set_at", UtcDateTime()),
    )  # fmt: skip
    rows = []
    for name, first, last, worked in HOLIDAYS:
        day = dt.date.fromisoformat(first)
        while day <= dt.date.fromisoformat(last):
            rows.append((day, "off", name))
            day += dt.timedelta(days=1)
        rows += [(dt.date.fromisoformat(each), "worked", name) for each in worked]
    op.bulk_insert(
        days,
        [
            {"day": day, "kind": kind, "name": name, "name_en": NAMES[name], "set_at": SEEDED_AT}
            for day, kind, name in sorted(rows)
        ],
    )
    reasons = sa.table(
        "reason_codes",
        sa.column("code"), sa.column("position"), sa.column("name"), sa.column("name_en"),
        sa.column("declines", sa.Boolean()), sa.column("cuts", sa.Boolean()), sa.column("is_active", sa.Boolean()),
    )  # fmt: skip
    op.bulk_insert(
        reasons,
        [
            {
                "code": code, "position": position, "name": name, "name_en": name_en, "declines": declines,
                "cuts": cuts, "is_active": True,
            }
            for position, (code, name, name_en, declines, cuts) in enumerate(REASONS, start=1)
        ],
    )  # fmt: skip


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
