"""Rows for tests that walk the whole house: one of everything for both startups, or very many enterprises at once."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import changes
from compute_portal.allocations import service as allocation_service
from compute_portal.allocations.changes import Wish
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import ChangeKind, ReportKind
from compute_portal.announcements import service as announcements
from compute_portal.announcements.service import NewAnnouncement
from compute_portal.bookings import attempts
from compute_portal.bookings import service as bookings
from compute_portal.bookings.attempts import Given
from compute_portal.bookings.models import Attempt, Booking, Strike, Waiter
from compute_portal.bookings.states import WaiterState
from compute_portal.claims.models import Claim
from compute_portal.claims.states import ClaimState
from compute_portal.commons import service as commons
from compute_portal.commons.service import DatasetText, NewTransition, SiteStage
from compute_portal.commons.states import SiteState, Tier
from compute_portal.desk.models import TimetableEntry
from compute_portal.enterprises import membership
from compute_portal.enterprises import service as enterprises
from compute_portal.enterprises.models import Enterprise, Membership
from compute_portal.enterprises.service import Particulars, RelatedFirm
from compute_portal.enterprises.states import Relation, SizeClass
from compute_portal.feeds import service as feeds
from compute_portal.feeds.models import FeedKind
from compute_portal.ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from compute_portal.ledger.service import ALLOCATION_BUCKETS
from compute_portal.lifecycle import HistoryEntry, begin
from compute_portal.notices.models import Delivery, Notice
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node, Tariff
from compute_portal.review import appeals, letters
from compute_portal.sentences import Sentence
from compute_portal.signin.models import SshKey, User
from compute_portal.statements import service as statements
from compute_portal.statements.models import Dispute, Payment, Statement, StatementJob, StatementLine
from compute_portal.statements.states import DisputeState, JobKind, JobState, StatementState
from compute_portal.subsidies import examples
from compute_portal.subsidies import queries as subsidy_queries
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.rules import Take
from compute_portal.subsidies.states import Mode
from compute_portal.usage import service as usage
from compute_portal.usage.models import BillingMonth, Charge, ChargeKind, UsageRecord
from compute_portal.usage.service import Piece
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.review import house as review

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
    notices: dict[str, int] = field(default_factory=dict)
    feeds: dict[str, int] = field(default_factory=dict)


def build(cast: Cast, policy: Policy) -> Town:
    """Through the verbs: each startup has an allocation, a running booking, a metered hour, a statement, and keys."""
    town = Town(cast)
    town.own = _rows_of(cast, policy, cast.yusheng, cast.allocation, "chen", "自己的预约")
    town.foreign = _rows_of(cast, policy, cast.luyu, cast.other_allocation, "tang", "别家的预约")
    town.own |= _change_and_report(cast, cast.allocation, "lin")
    town.foreign |= _change_and_report(cast, cast.other_allocation, "mei")
    town.own |= _around(cast, policy, cast.yusheng, "lin", "自家", "91440300708461136T")
    town.foreign |= _around(cast, policy, cast.luyu, "mei", "别家的预约", "91110000600037341L")

    town.own |= _declined(cast, policy, "lin", "自家")
    town.foreign |= _declined(cast, policy, "mei", "别家的预约")

    town.own |= _disputed(cast, town.own, "自家")
    town.foreign |= _disputed(cast, town.foreign, "别家的预约")
    town.own |= _waits_and_missed(cast, cast.yusheng, cast.allocation, town.own["booking_id"], "自家")
    town.foreign |= _waits_and_missed(cast, cast.luyu, cast.other_allocation, town.foreign["booking_id"], "别家的预约")
    scheme, version = _scheme(cast)
    town.own |= _claim_and_trait(cast, town.own, scheme, version, "自家")
    town.foreign |= _claim_and_trait(cast, town.foreign, scheme, version, "别家的预约")

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
        cap = pools.cap_power(
            session,
            cast.pool,
            watts=1_000_000,
            pue_permille=1_300,
            starts_at=NOW + 210 * HOUR,
            ends_at=NOW + 212 * HOUR,
            reason="电网检修",
            by=cast.operator,
            now=NOW,
        )
        town.shared = {
            "pool_id": cast.pool,
            "node_id": nodes[0],
            "window_id": window.id,
            "cap_id": cap.id,
            "tariff_id": session.scalars(sa.select(sa.func.min(Tariff.id))).one(),
            "programme_id": cast.programme,
            "scheme_id": scheme,
            "job_id": _job(session),
            "payment_id": _payment(session, cast),
            "pack_id": _pack(session, cast),
            "announcement_id": _announcement(session, cast),
        }
        for name in ("chen", "lin", "mei", "tang"):
            key = SshKey(
                user_id=cast.users[name], name="laptop", public_key="ssh-ed25519 AAAA", fingerprint=name, added_at=NOW
            )
            session.add(key)
            session.flush()
            town.keys[name] = key.id
        for name in cast.users:
            told = Notice(
                user_id=cast.users[name], about=Sentence("mail-password-changed").to_json(), body=[], link="/account",
                at=NOW, delivery=Delivery.FAILED, next_try_at=NOW, done_at=NOW, error="550 no such user",
            )  # fmt: skip
            session.add(told)
            session.flush()
            town.notices[name] = told.id
            feed = feeds.make(session, name, kind=FeedKind.POOL, pool_id=cast.pool, by=cast.actor(name), now=NOW)
            town.feeds[name] = feed.id
        town.shared |= _commons(session, cast, policy)
        town.shared |= {"person_id": cast.users["wu"], "mail_id": town.notices["wu"]}

    cast.database.transaction(shared)
    return town


def _disputed(cast: Cast, rows: dict[str, int], mark: str) -> dict[str, int]:
    """An issued statement of an earlier month with a line in dispute; it has no content, as nothing reads it here."""

    def work(session: Session) -> dict[str, int]:
        booking = session.get_one(Booking, rows["booking_id"])
        statement = Statement(
            number=f"S-202606-{booking.enterprise_id:05}", enterprise_id=booking.enterprise_id, month="2026-06",
            state=StatementState.ISSUED, opened_at=NOW, closed_at=NOW, issued_at=NOW, rule_version="2026-1",
            tax_permille=60, closing=1, dispute_until_at=NOW + 100 * HOUR,
        )  # fmt: skip
        session.add(statement)
        session.flush()
        line = StatementLine(
            statement_id=statement.id, closing=1, position=1, booking_id=booking.id, kind=ChargeKind.USAGE,
            tariff_id=session.scalars(sa.select(sa.func.min(Tariff.id)).where(Tariff.pool_id == booking.pool_id)).one(),
            weight_milli=1000, adjustment=False, gpu_seconds=1, price_micro_yuan=0, contract_price_micro_yuan=0,
            list_micro_yuan=0, amount_micro_yuan=0,
        )  # fmt: skip
        session.add(line)
        session.flush()
        dispute = Dispute(
            statement_id=statement.id, line_id=line.id, enterprise_id=booking.enterprise_id,
            state=DisputeState.OPENED, reason=mark, opened_at=NOW, due_at=NOW + 50 * HOUR,
        )  # fmt: skip
        session.add(dispute)
        begin(session, dispute, verb="open", at=NOW, by=SYSTEM)
        return {"line_id": line.id, "dispute_id": dispute.id}

    return cast.database.transaction(work)


def _commons(session: Session, cast: Cast, policy: Policy) -> dict[str, int]:
    """A dataset, a site with power, a transition."""
    text = DatasetText(
        "公交到站", "Bus arrivals", "交通局", "Transport bureau", Tier.OPEN, "直接下载。", "Download it."
    )
    stage = SiteStage(SiteState.COMMITTED, 54_000, clock.day_of(NOW), "供电答复单", "https://example.cn/318")
    asked = NewTransition(cast.allocation, clock.day_of(NOW), "语音客服", "A speech service", "合同", None)
    by = cast.operator
    return {
        "dataset_id": commons.list_dataset(session, text, by=by, now=NOW).id,
        "site_id": commons.enter_site(session, "东港", "Donggang", stage, by=by, now=NOW).id,
        "transition_id": commons.record_transition(session, asked, policy=policy.commons, by=by, now=NOW).id,
    }


def _payment(session: Session, cast: Cast) -> int:
    payment = Payment(
        reference="B-1", amount_micro_yuan=10_000, paid_on=clock.day_of(NOW), payer="某公司", entered_at=NOW
    )
    session.add(payment)
    session.flush()
    return payment.id


def _pack(session: Session, cast: Cast) -> int:
    job = StatementJob(
        kind=JobKind.PACK,
        month="2026-06",
        state=JobState.DONE,
        asked_by=cast.users["he"],
        asked_at=NOW,
        finished_at=NOW,
        size=0,
    )
    session.add(job)
    session.flush()
    return job.id


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
        statement = statements.open_draft(session, enterprise_id, month, policy=policy.statements, by=SYSTEM, now=NOW)
        record = session.scalars(sa.select(UsageRecord.id).where(UsageRecord.booking_id == booking.id)).one()
        return {
            "enterprise_id": enterprise_id,
            "allocation_id": allocation_id,
            "booking_id": booking.id,
            "record_id": record,
            "statement_id": statement.id,
        }

    def credit(session: Session) -> int:
        """So that the draft has a line below zero, too."""
        charge = session.scalars(sa.select(Charge.id).where(Charge.booking_id == rows["booking_id"])).one()
        why = Sentence("mail-password-changed")
        return usage.credit(
            session, charge, 60, kind=ChargeKind.CORRECTION, reference=f"credit:{charge}", why=why, by=cast.finance,
            now=NOW,
        )  # fmt: skip

    rows = cast.database.transaction(work)
    cast.database.transaction(credit)
    return rows


def _change_and_report(cast: Cast, allocation_id: int, manager: str) -> dict[str, int]:
    """Of an enterprise: a change of its allocation that waits, a report that is due."""

    def work(session: Session) -> dict[str, int]:
        allocation = session.get_one(Allocation, allocation_id)
        more_time = Wish(ChangeKind.EXTENSION, "多一个月", ends_on=allocation.ends_on + dt.timedelta(days=30))
        change = changes.request(session, allocation_id, more_time, by=cast.actor(manager), now=NOW)
        report = allocation_service.ask_for_report(
            session, allocation, ReportKind.FINAL, allocation.ends_on, by=SYSTEM, now=NOW
        )
        return {"change_id": change.id, "report_id": report.id}

    return cast.database.transaction(work)


def _waits_and_missed(
    cast: Cast, enterprise_id: int, allocation_id: int, booking_id: int, title: str
) -> dict[str, int]:
    """A window that somebody waits for, and a no-show."""

    def work(session: Session) -> dict[str, int]:
        waiter = Waiter(
            state=WaiterState.WAITING,
            enterprise_id=enterprise_id,
            allocation_id=allocation_id,
            pool_id=cast.pool,
            title=title,
            gpus=16,
            starts_at=NOW + 90 * HOUR,
            ends_at=NOW + 94 * HOUR,
            joined_by=None,
            joined_at=NOW,
        )
        session.add(waiter)
        begin(session, waiter, verb="join", at=NOW, by=SYSTEM)
        strike = Strike(booking_id=booking_id, enterprise_id=enterprise_id, at=NOW)
        session.add(strike)
        session.flush()
        return {"waiter_id": waiter.id, "strike_id": strike.id}

    return cast.database.transaction(work)


def _around(cast: Cast, policy: Policy, enterprise_id: int, manager: str, mark: str, code: str) -> dict[str, int]:
    """Of an enterprise: its last manager, an invitation, a document, a team that asks, a breach, a related party."""
    by = cast.actor(manager)

    def work(session: Session) -> dict[str, int]:
        founder = User(
            email=f"founder-{enterprise_id}@example.cn", name=f"{mark}创始人", language="zh", created_at=NOW,
            confirmed_at=NOW,
        )  # fmt: skip
        session.add(founder)
        session.flush()
        team = enterprises.register(
            session, Particulars(f"{mark}团队", None, SizeClass.MICRO, sponsor_code=code),
            by=Actor.of(founder.id, frozenset()), now=NOW,
        )  # fmt: skip
        invited = membership.invite(
            session, f"{mark}@example.cn", role=Role.MEMBER, language="zh", policy=policy.enterprises, by=by, now=NOW
        )
        document = enterprises.attach(
            session, enterprise_id, kind="other", name=f"{mark}.pdf", content=b"%PDF-1.7", policy=policy.files, by=by,
            now=NOW,
        )  # fmt: skip
        breach = enterprises.enter_breach(
            session, enterprise_id, happened_on=dt.date(2026, 1, 5), evidence=mark, months=36, by=cast.operator, now=NOW
        )
        firm = RelatedFirm("914403001922038216", f"{mark}关联", Relation.HOLDS, mark, dt.date(2026, 1, 5))
        party = enterprises.relate(session, enterprise_id, firm, by=cast.operator, now=NOW)
        return {
            "user_id": cast.users[manager], "team_id": team.id, "invitation_id": invited.id, "file_id": document.id,
            "breach_id": breach.id, "party_id": party.id,
        }  # fmt: skip

    return cast.database.transaction(work)


def _declined(cast: Cast, policy: Policy, manager: str, mark: str) -> dict[str, int]:
    """Of an enterprise: a request that was reviewed and declined, the letter, an appeal."""
    by = cast.actor(manager)
    declined = review.ask(cast, by=by)
    review.decline(cast, declined, policy, reason=mark)
    decision = review.decision(cast, declined).id

    def work(session: Session) -> dict[str, int]:
        letter = letters.keep(session, decision, {"number": f"T-{declined}"}, b"%PDF-1.7", now=NOW)
        appeal = appeals.file(session, declined, text=mark, policy=policy.review, by=by, now=NOW)
        return {"letter_id": letter.id, "appeal_id": appeal.id}

    return cast.database.transaction(work)


def _scheme(cast: Cast) -> tuple[int, int]:
    """A voucher scheme with money, and its version; beside it one that deducts and looks at all that schemes can."""
    first = dt.date(2026, 11, 1)

    def work(session: Session) -> tuple[int, int]:
        scheme = examples.load(session, from_on=first, by=SYSTEM, now=NOW, only=("Nanning",))["Nanning"]
        asks = dataclasses.replace(
            examples.read()["Zhuhai"][0], mode=Mode.DEDUCT, months=12, suppliers=("91440300708461136T",)
        )
        deducts = subsidies.open_scheme(
            session,
            asks,
            name="即减",
            name_en="At once",
            why="测试",
            from_on=first,
            is_example=False,
            by=SYSTEM,
            now=NOW,
        )
        subsidies.fund(session, deducts.id, 10**12, reference="city", by=SYSTEM, now=NOW)
        return scheme.id, subsidy_queries.list_versions(session, scheme.id)[0].id

    return cast.database.transaction(work)


def _claim_and_trait(cast: Cast, rows: dict[str, int], scheme: int, version: int, mark: str) -> dict[str, int]:
    """Of an enterprise: a claim that waits for its confirmation, what it is to schemes."""
    firm, amount = rows["enterprise_id"], 3 * units.MICRO_PER_YUAN

    def work(session: Session) -> dict[str, int]:
        claim = Claim(
            number=f"C-202611-{firm}-{scheme}", enterprise_id=firm, statement_id=rows["statement_id"],
            scheme_id=scheme, version_id=version, state=ClaimState.OPENED, cost_micro_yuan=10 * units.MICRO_PER_YUAN,
            amount_micro_yuan=amount, shares={}, opened_at=NOW,
        )  # fmt: skip
        session.add(claim)
        begin(session, claim, verb="open", at=NOW, by=SYSTEM)
        subsidies.take(
            session, rows["statement_id"], firm, "2026-11", [Take(version, amount)], by=SYSTEM, now=NOW,
            cause=f"claim:{claim.id}",
        )  # fmt: skip
        trait = subsidies.set_trait(
            session, firm, "startup", evidence=mark, from_on=dt.date(2026, 1, 5), until_on=None, by=cast.finance,
            now=NOW,
        )  # fmt: skip
        return {"claim_id": claim.id, "trait_id": trait.id}

    return cast.database.transaction(work)


def _job(session: Session) -> int:
    entry = TimetableEntry(name="metering", says="meter", every_seconds=60, recorded=True)
    session.add(entry)
    session.flush()
    return entry.id


def _announcement(session: Session, cast: Cast) -> int:
    asked = NewAnnouncement(("finance",), "月底结账", "The month is closed.", NOW, NOW + 24 * HOUR)
    return announcements.publish(session, asked, by=cast.operator, now=NOW).id


HOUR_OF_A_CARD = units.gpu_seconds(1)
STATES = ("finished", "running", "queued", "submitted", "settled")


# -- very many ------------------------------------------------------------------------------------------------------


def ask(cast: Cast, many: int) -> None:
    """So many requests that wait, of Luyu, promised at different times."""
    day = clock.day_of(NOW)
    rows = [
        {
            "programme_id": cast.programme, "pool_id": cast.pool, "enterprise_id": cast.luyu, "state": "submitted",
            "purpose": "训练", "requested_by": cast.users["mei"], "requested_at": NOW,
            "requested_gpu_seconds": HOUR_OF_A_CARD, "starts_on": day, "ends_on": day + dt.timedelta(days=20),
            "due_at": NOW + number % 500 * HOUR, "shares": 1,
        }
        for number in range(many)
    ]  # fmt: skip
    cast.database.transaction(lambda session: _insert(session, Allocation, rows))


def grow(cast: Cast, many: int, each: int = 3, states: Sequence[str] | None = None) -> dict[str, int]:
    """`many` enterprises with all that pages list, `each` with so many bookings, and as much again for Yusheng alone.

    `states`: of the bookings in turn. Returns ids of rows to open.

    Plain inserts, one per table, for counting queries only: the ledger of this town does not add up.
    """
    ids: dict[str, int] = {}

    def work(session: Session) -> None:
        firms = _many_enterprises(session, many)
        holders = [cast.yusheng] * 30 + firms
        allocations = _many_allocations(session, cast, holders)
        booked_from = [(allocations[0], cast.yusheng)] * many + [
            (allocation, firm) for allocation, firm in zip(allocations[30:], firms, strict=True) for _ in range(each)
        ]
        _many_bookings(session, cast, booked_from, allocations[0], states or STATES)
        ids.update(_rows_to_open(session, cast.yusheng), allocation_id=allocations[0])

    cast.database.transaction(work)
    return ids


def _insert(session: Session, model: type[Any], rows: list[dict[str, Any]]) -> list[int]:
    """Core, without the unit of work: the ids in the order of the rows."""
    table = model.__table__
    before = session.scalar(sa.select(sa.func.max(table.c.id))) or 0
    session.connection().execute(sa.insert(table), rows)
    return list(session.scalars(sa.select(table.c.id).where(table.c.id > before).order_by(table.c.id)))


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
        [{"email": f"firm{n}@example.cn", "name": f"人{n}", "language": "zh", "created_at": NOW} for n in range(many)],
    )
    session.execute(
        sa.insert(Membership),
        [
            {"user_id": person, "enterprise_id": firm, "role": Role.MANAGER, "since_at": NOW}
            for person, firm in zip(people, firms, strict=True)
        ],
    )
    return firms


def _many_allocations(session: Session, cast: Cast, holders: list[int]) -> list[int]:
    """An active one with accounts, and a request that waits, for each holder; the ids of the active ones."""
    day = clock.day_of(NOW)

    def rows(state: str) -> list[dict[str, Any]]:
        awarded = state == "active"
        return [
            {
                "programme_id": cast.programme, "pool_id": cast.pool, "enterprise_id": holder, "state": state,
                "purpose": "训练", "requested_by": cast.users["lin"], "requested_at": NOW,
                "requested_gpu_seconds": 900 * HOUR_OF_A_CARD, "starts_on": day,
                "ends_on": day + dt.timedelta(days=20), "due_at": NOW + HOUR,
                "awarded_gpu_seconds": 900 * HOUR_OF_A_CARD if awarded else None,
                "decided_by": cast.users["zhou"] if awarded else None, "decided_at": NOW if awarded else None,
                "shares": 1,
            }
            for holder in holders
        ]  # fmt: skip

    active = _insert(session, Allocation, rows("active"))
    _insert(session, Allocation, rows("submitted"))
    _insert(
        session,
        LedgerAccount,
        [
            {"owner": f"allocation:{id}", "bucket": bucket, "unit": Unit.GPU_SECONDS, "balance": 9 * HOUR_OF_A_CARD}
            for id in active
            for bucket in ALLOCATION_BUCKETS
        ],
    )
    return active


def _many_bookings(
    session: Session, cast: Cast, booked_from: list[tuple[int, int]], rich: int, in_turn: Sequence[str]
) -> None:
    """For each (allocation, enterprise) a booking with attempt, usage, charge, ledger entry, line and history."""
    tariff = session.scalars(sa.select(Tariff.id)).one()
    day, month, last = clock.day_of(NOW), clock.month_of(NOW), clock.previous_month(clock.month_of(NOW))
    states = [in_turn[n % len(in_turn)] for n in range(len(booked_from))]
    booked = _insert(
        session,
        Booking,
        [
            {
                "kind": "flexible", "state": state, "title": "训练", "enterprise_id": enterprise,
                "allocation_id": allocation, "pool_id": cast.pool, "gpus": 2, "longest_seconds": 3600,
                "submitted_by": cast.users["chen"], "submitted_at": NOW - 9 * HOUR,
                "held_gpu_seconds": HOUR_OF_A_CARD, "charged_gpu_seconds": HOUR_OF_A_CARD,
                "started_at": NOW - 8 * HOUR if state != "queued" else None,
                "ended_at": NOW - HOUR if state in ("finished", "settled") else None,
            }
            for state, (allocation, enterprise) in zip(states, booked_from, strict=True)
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
                "metered_whole": state in ("finished", "settled"),
            }
            for id, state in zip(booked, states, strict=True)
        ],
    )  # fmt: skip
    rows = list(zip(booked, tried, booked_from, strict=True))
    recorded = _insert(
        session,
        UsageRecord,
        [
            {
                "source": f"grown-{attempt}", "attempt_id": attempt, "booking_id": booking,
                "enterprise_id": enterprise, "allocation_id": allocation, "pool_id": cast.pool,
                "user_id": cast.users["chen"], "starts_at": NOW - 8 * HOUR, "ends_at": NOW - 7 * HOUR, "gpus": 2,
                "share_milli": 2_000,
                "gpu_seconds": HOUR_OF_A_CARD, "day_on": day, "recorded_at": NOW,
            }
            for booking, attempt, (allocation, enterprise) in rows
        ],
    )  # fmt: skip
    drafts = sorted({enterprise for _, enterprise in booked_from} - {cast.yusheng})  # Yusheng has its own
    closed = sorted({enterprise for _, enterprise in booked_from})
    session.execute(
        sa.insert(BillingMonth),
        [{"enterprise_id": id, "month": month, "state": "open"} for id in drafts]
        + [{"enterprise_id": id, "month": last, "state": "closed"} for id in closed],
    )
    _insert(
        session,
        Charge,
        [
            {
                "reference": f"usage:{record}", "kind": "usage", "weight_milli": 1000,
                "usage_record_id": record, "enterprise_id": enterprise, "booking_id": booking, "tariff_id": tariff,
                "gpu_seconds": HOUR_OF_A_CARD, "billed_in": month, "adjustment": False, "charged_at": NOW,
            }
            for record, (booking, _attempt, (_allocation, enterprise)) in zip(recorded, rows, strict=True)
        ],
    )  # fmt: skip
    accounts = {
        bucket: session.scalars(
            sa.select(LedgerAccount.id).where(
                LedgerAccount.owner == f"allocation:{rich}", LedgerAccount.bucket == bucket
            )
        ).one()
        for bucket in (Bucket.AVAILABLE, Bucket.USED)
    }
    _insert(
        session,
        LedgerEntry,
        [
            {
                "reference": f"usage:{record}", "leg": 1, "verb": "charge", "unit": Unit.GPU_SECONDS,
                "from_account_id": accounts[Bucket.AVAILABLE], "to_account_id": accounts[Bucket.USED],
                "amount": HOUR_OF_A_CARD, "at": NOW,
            }
            for record in recorded
        ],
    )  # fmt: skip

    def statement(enterprise: int, name: str, state: str) -> dict[str, Any]:
        return {
            "number": f"G-{name}-{enterprise}", "enterprise_id": enterprise, "month": name, "state": state,
            "closing": int(state != "draft"), "opened_at": NOW, "rule_version": "2026-1", "tax_permille": 60,
        }  # fmt: skip

    _insert(session, Statement, [statement(id, month, "draft") for id in drafts])
    reviewed = dict(
        zip(closed, _insert(session, Statement, [statement(id, last, "in_review") for id in closed]), strict=True)
    )
    _insert(
        session,
        StatementLine,
        [
            {
                "statement_id": reviewed[enterprise], "closing": 1, "position": booking, "booking_id": booking,
                "kind": "usage", "weight_milli": 1000, "tariff_id": tariff, "adjustment": False,
                "gpu_seconds": HOUR_OF_A_CARD, "price_micro_yuan": 16_500_000,
                "contract_price_micro_yuan": 16_500_000, "list_micro_yuan": 16_500_000, "amount_micro_yuan": 16_500_000,
            }
            for booking, _attempt, (_allocation, enterprise) in rows
        ],
    )  # fmt: skip
    _insert(
        session,
        HistoryEntry,
        [
            {
                "kind": kind, "subject_id": id, "verb": "submit", "before": None, "after": "submitted", "at": NOW,
                "by_id": person,
            }
            for kind, ids in (("booking", booked), ("allocation", [rich]))
            for id in ids
            for person in (cast.users["chen"], cast.users["lin"])
        ],
    )  # fmt: skip


def _rows_to_open(session: Session, enterprise_id: int) -> dict[str, int]:
    """The newest own row of each kind."""
    found = {}
    for name, model in (
        ("booking_id", Booking), ("record_id", UsageRecord), ("statement_id", Statement),
    ):  # fmt: skip
        found[name] = session.scalar(sa.select(sa.func.max(model.id)).where(model.enterprise_id == enterprise_id)) or 0
    return found
