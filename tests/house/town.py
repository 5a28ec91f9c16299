"""Rows for tests that walk the whole house: one of everything for both startups, or very many enterprises at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Role
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import attempts
from compute_portal.bookings import service as bookings
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.enterprises.models import Enterprise, Membership
from compute_portal.ledger.models import LedgerAccount, LedgerEntry, Unit
from compute_portal.ledger.service import ALLOCATION_BUCKETS
from compute_portal.lifecycle import HistoryEntry
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node, Tariff
from compute_portal.signin.models import SshKey, User
from compute_portal.statements import service as statements
from compute_portal.statements.models import Statement, StatementLine
from compute_portal.usage import service as usage
from compute_portal.usage.models import BillingMonth, Charge, UsageRecord
from compute_portal.usage.service import Piece
from tests.cast import HOUR, NOW, Cast

PERSON_OF = {
    Role.MEMBER: "chen",
    Role.MANAGER: "lin",
    Role.OPERATOR: "zhou",
    Role.FINANCE: "he",
    Role.AUDITOR: "xu",
    Role.ADMIN: "an",
}
# What of Luyu's no page of Yusheng's may ever say.
FOREIGN_MARKS = ("鹭屿视觉", "Luyu Vision", "别家的预约", "Mei Lan", "梅岚")


@dataclass
class Town:
    """One row of every kind for Yusheng (`own`) and for Luyu (`foreign`), and what all share."""

    cast: Cast
    own: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)


def build(cast: Cast, policy: Policy) -> Town:
    """Through the verbs: each startup has an allocation, a running booking, a metered hour, a statement, and keys."""
    town = Town(cast)
    town.own = _rows_of(cast, policy, cast.yusheng, cast.allocation, "chen", "自己的预约")
    town.foreign = _rows_of(cast, policy, cast.luyu, cast.other_allocation, "tang", "别家的预约")

    def shared(session: Session) -> None:
        nodes = list(session.scalars(sa.select(Node.id).order_by(Node.position)))
        window = pools.plan_maintenance(
            session,
            cast.pool,
            node_ids=[nodes[-1]],
            starts_at=NOW + 200 * HOUR,
            ends_at=NOW + 202 * HOUR,
            reason="更换固件",
            by=cast.operator,
            now=NOW,
        )
        town.shared = {
            "pool_id": cast.pool,
            "node_id": nodes[0],
            "window_id": window.id,
            "programme_id": cast.programme,
        }
        for name in ("chen", "lin", "mei", "tang"):
            key = SshKey(
                user_id=cast.users[name], name="laptop", public_key="ssh-ed25519 AAAA", fingerprint=name, added_at=NOW
            )
            session.add(key)
            session.flush()
            town.keys[name] = key.id

    cast.database.transaction(shared)
    return town


def _rows_of(
    cast: Cast, policy: Policy, enterprise_id: int, allocation_id: int, name: str, title: str
) -> dict[str, int]:
    began = NOW - 2 * HOUR

    def work(session: Session) -> dict[str, int]:
        asked = cast.flexible(2, 4, allocation_id=allocation_id, title=title)
        booking = bookings.submit(session, asked, by=cast.actor(name), policy=policy.bookings, now=began)
        (handed,) = attempts.write(session, [booking.id], now=began)
        attempts.record_handed_over(session, {handed.key: f"e-{booking.id}"}, now=began)
        places = [{"node": "h800-n001", "gpus": [0, 1]}]
        attempts.placed(session, [Given(handed.key, places, began, began + 4 * HOUR, began)])
        attempt = session.scalars(sa.select(Attempt).where(Attempt.key == handed.key)).one()
        tariff = session.scalars(sa.select(Tariff)).one()
        piece = Piece(
            attempt.id, handed.key, booking.id, allocation_id, cast.pool, cast.users[name], 2, began, began + HOUR,
            tariff.id,
        )  # fmt: skip
        usage.record(session, enterprise_id, [piece], whole=frozenset(), half_life_days=7, now=NOW)
        month = clock.month_of(NOW)
        statement = statements.open_draft(
            session, enterprise_id, month, policy=policy.statements, by=SYSTEM, now=NOW
        )
        record = session.scalars(sa.select(UsageRecord.id).where(UsageRecord.booking_id == booking.id)).one()
        return {
            "enterprise_id": enterprise_id,
            "allocation_id": allocation_id,
            "booking_id": booking.id,
            "record_id": record,
            "statement_id": statement.id,
        }

    return cast.database.transaction(work)


# -- very many ------------------------------------------------------------------------------------------------------


def grow(cast: Cast, many: int) -> dict[str, int]:
    """`many` enterprises with all that pages list, and as much again for Yusheng alone; ids of rows to open.

    Plain inserts, for counting queries only: the ledger of this town does not add up.
    """
    ids: dict[str, int] = {}

    def work(session: Session) -> None:
        tariff = session.scalars(sa.select(Tariff.id)).one()
        firms = [cast.yusheng, *_many_enterprises(session, many)]
        for number, enterprise_id in enumerate(firms):
            _fill(session, cast, tariff, enterprise_id, bookings=many if number == 0 else 3)
        ids.update(_rows_to_open(session, cast.yusheng))

    cast.database.transaction(work)
    return ids


def _insert(session: Session, model: type[Any], rows: list[dict[str, Any]]) -> list[int]:
    return list(session.scalars(sa.insert(model).returning(model.id, sort_by_parameter_order=True), rows))


def _many_enterprises(session: Session, many: int) -> list[int]:
    firms = _insert(
        session,
        Enterprise,
        [
            {
                "name": f"企业{n:05}", "name_en": f"Firm {n:05}", "credit_code": f"9144{n:014}", "size_class": "small",
                "state": "verified", "applied_at": NOW,
            }
            for n in range(many)
        ],
    )  # fmt: skip
    people = _insert(
        session,
        User,
        [
            {"email": f"firm{n}@example.cn", "name": f"人{n}", "language": "zh", "created_at": NOW}
            for n in range(many)
        ],
    )
    session.execute(
        sa.insert(Membership),
        [
            {"user_id": person, "enterprise_id": firm, "role": Role.MANAGER, "since_at": NOW}
            for person, firm in zip(people, firms, strict=True)
        ],
    )
    return firms


STATES = ("finished", "running", "queued", "submitted", "settled")


def _fill(session: Session, cast: Cast, tariff: int, enterprise_id: int, *, bookings: int) -> None:
    """Allocations with accounts and entries, bookings with attempts, usage, charges, statements, history."""
    day, month, last = clock.day_of(NOW), clock.month_of(NOW), clock.previous_month(clock.month_of(NOW))
    programme, pool, hour = cast.programme, cast.pool, units.gpu_seconds(1)
    own = enterprise_id == cast.yusheng
    held = 30 if own else 1
    months = [last] if own else [month, last]  # what `build` opened for Yusheng stays
    given = _insert(
        session,
        Allocation,
        [
            {
                "programme_id": programme, "pool_id": pool, "enterprise_id": enterprise_id,
                "state": "active" if n < held else "submitted", "purpose": "训练", "requested_by": cast.users["lin"],
                "requested_at": NOW, "requested_gpu_seconds": 900 * hour, "starts_on": day,
                "ends_on": day + dt.timedelta(days=20), "due_at": NOW + HOUR,
                "awarded_gpu_seconds": 900 * hour if n < held else None,
                "decided_by": cast.users["zhou"] if n < held else None, "decided_at": NOW if n < held else None,
                "shares": 1,
            }
            for n in range(held + (30 if own else 1))
        ],
    )  # fmt: skip
    allocation = given[0]
    accounts = _insert(
        session,
        LedgerAccount,
        [
            {"owner": f"allocation:{id}", "bucket": bucket, "unit": Unit.GPU_SECONDS, "balance": 9 * hour}
            for id in given[:held]
            for bucket in ALLOCATION_BUCKETS
        ],
    )
    available, used = accounts[1], accounts[3]
    booked = _insert(
        session,
        Booking,
        [
            {
                "kind": "flexible", "state": STATES[n % 5], "title": f"训练 {n}", "enterprise_id": enterprise_id,
                "allocation_id": allocation, "pool_id": pool, "gpus": 2, "longest_seconds": 3600,
                "submitted_by": cast.users["chen"], "submitted_at": NOW - 9 * HOUR, "held_gpu_seconds": hour,
                "charged_gpu_seconds": hour, "started_at": NOW - 8 * HOUR if STATES[n % 5] != "queued" else None,
                "ended_at": NOW - HOUR if STATES[n % 5] in ("finished", "settled") else None,
            }
            for n in range(bookings)
        ],
    )  # fmt: skip
    tried = _insert(
        session,
        Attempt,
        [
            {
                "booking_id": id, "number": 1, "key": f"booking-{id}-1", "written_at": NOW - 9 * HOUR,
                "handed_over_at": NOW - 9 * HOUR, "granted_at": NOW - 8 * HOUR, "metered_until_at": NOW,
                "nodes": [{"node": "h800-n001", "gpus": [0, 1]}], "placed_at": NOW - 8 * HOUR,
            }
            for id in booked
        ],
    )  # fmt: skip
    recorded = _insert(
        session,
        UsageRecord,
        [
            {
                "source": f"grown-{attempt}", "attempt_id": attempt, "booking_id": booking,
                "enterprise_id": enterprise_id, "allocation_id": allocation, "pool_id": pool,
                "user_id": cast.users["chen"], "starts_at": NOW - 8 * HOUR, "ends_at": NOW - 7 * HOUR, "gpus": 2,
                "gpu_seconds": hour, "day_on": day, "recorded_at": NOW,
            }
            for booking, attempt in zip(booked, tried, strict=True)
        ],
    )  # fmt: skip
    session.execute(
        sa.insert(BillingMonth),
        [
            {"enterprise_id": enterprise_id, "month": name, "state": "open" if name == month else "closed"}
            for name in months
        ],
    )
    session.execute(
        sa.insert(Charge),
        [
            {
                "usage_record_id": record, "enterprise_id": enterprise_id, "booking_id": booking, "tariff_id": tariff,
                "gpu_seconds": hour, "billed_in": month, "adjustment": False, "charged_at": NOW,
            }
            for record, booking in zip(recorded, booked, strict=True)
        ],
    )  # fmt: skip
    _insert(
        session,
        LedgerEntry,
        [
            {
                "reference": f"usage:{record}", "leg": 1, "verb": "charge", "unit": Unit.GPU_SECONDS,
                "from_account_id": available, "to_account_id": used, "amount": hour, "at": NOW,
            }
            for record in recorded
        ],
    )  # fmt: skip
    drawn = _insert(
        session,
        Statement,
        [
            {
                "number": f"G-{name}-{enterprise_id}", "enterprise_id": enterprise_id, "month": name, "state": state,
                "opened_at": NOW, "rule_version": "2026-1", "tax_permille": 60,
            }
            for name, state in ((last, "in_review"), (month, "draft"))
            if name in months
        ],
    )  # fmt: skip
    _insert(
        session,
        StatementLine,
        [
            {
                "statement_id": drawn[0], "booking_id": booking, "tariff_id": tariff, "adjustment": False,
                "gpu_seconds": hour, "price_micro_yuan": 16_500_000, "amount_micro_yuan": 16_500_000,
            }
            for booking in booked
        ],
    )  # fmt: skip
    _insert(
        session,
        HistoryEntry,
        [
            {"kind": kind, "subject_id": id, "verb": "submit", "after": "submitted", "at": NOW, "by_id": person}
            for kind, id in (("booking", booked[0]), ("allocation", allocation))
            for person in (cast.users["chen"], cast.users["lin"])
        ],
    )


def _rows_to_open(session: Session, enterprise_id: int) -> dict[str, int]:
    """The newest own row of each kind, and for operators a request that waits."""
    found = {}
    for name, model in (
        ("booking_id", Booking), ("record_id", UsageRecord), ("statement_id", Statement),
    ):  # fmt: skip
        found[name] = session.scalar(sa.select(sa.func.max(model.id)).where(model.enterprise_id == enterprise_id)) or 0
    found["allocation_id"] = (
        session.scalar(
            sa.select(sa.func.min(UsageRecord.allocation_id)).where(UsageRecord.enterprise_id == enterprise_id)
        )
        or 0
    )
    return found
