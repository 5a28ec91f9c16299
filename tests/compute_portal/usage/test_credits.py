"""Fees, credits, corrections and another rate: new rows beside the old ones, and never more back than was charged."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.access import SYSTEM
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import AllocationState
from compute_portal.bookings import prices
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.enterprises.models import Enterprise
from compute_portal.enterprises.states import SizeClass
from compute_portal.ledger.models import LedgerAccount, LedgerEntry
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.programmes import service as programmes
from compute_portal.sentences import Refusal, Sentence
from compute_portal.usage import service
from compute_portal.usage.models import Charge, ChargeKind
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.usage.test_service import assert_verified, months
from tests.together import at_once

AFTER_THE_MONTH = dt.datetime(2026, 12, 3, tzinfo=dt.UTC)
DAY = 24 * HOUR


def ran(cast: Cast, policy: Policy, *, gpus: int = 4, hours: int = 3, at: dt.datetime = NOW) -> int:
    """A settled flexible booking, one charge per hour."""
    cast.now = at
    booking_id = cast.submit(cast.flexible(gpus=gpus, hours=hours), policy.bookings)
    walk.run(cast, booking_id, at=at, until=at + hours * HOUR)
    return booking_id


def charges_of(cast: Cast, booking_id: int) -> list[Charge]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Charge).where(Charge.booking_id == booking_id).order_by(Charge.id)))


def give_back(cast: Cast, charge_id: int, gpu_seconds: int, reference: str = "x", now: dt.datetime = NOW) -> int:
    return cast.database.transaction(
        lambda s: service.credit(
            s, charge_id, gpu_seconds, kind=ChargeKind.OUTAGE, reference=reference, why=Sentence("stopped"),
            by=SYSTEM, now=now,
        )
    )  # fmt: skip


def test_a_credit_is_a_negative_charge_at_the_price_of_the_one_it_corrects(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)
    first = charges_of(cast, booking_id)[0]
    id = give_back(cast, first.id, 3_600)
    [row] = [charge for charge in charges_of(cast, booking_id) if charge.id == id]
    assert (row.gpu_seconds, row.corrects_id, row.usage_record_id) == (-3_600, first.id, first.usage_record_id)
    assert (row.tariff_id, row.discount_id, row.weight_milli) == (first.tariff_id, None, 1_000)
    assert (row.billed_in, row.adjustment, row.kind) == ("2026-11", False, ChargeKind.OUTAGE)
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert session.get_one(Booking, booking_id).charged_gpu_seconds == 11 * 3_600
        entry = session.scalars(sa.select(LedgerEntry).where(LedgerEntry.reference == "x")).one()
        corrected = session.get_one(LedgerEntry, entry.corrects_id)
    assert (found.used, found.available) == (11 * 3_600, units.gpu_seconds(20_000) - 11 * 3_600)
    assert corrected.reference == first.reference
    assert_verified(cast.database)


def test_more_than_was_charged_is_never_given_back(cast: Cast, policy: Policy) -> None:
    first = charges_of(cast, ran(cast, policy))[0]
    with pytest.raises(Refusal, match="credit-too-much") as refused:
        give_back(cast, first.id, first.gpu_seconds + 1)
    assert refused.value.field == "hours"
    give_back(cast, first.id, first.gpu_seconds - 1)
    with pytest.raises(Refusal, match="credit-too-much"):
        give_back(cast, first.id, 2, reference="y")
    with pytest.raises(Refusal, match="credit-too-much"):
        give_back(cast, first.id, 0, reference="y")
    give_back(cast, first.id, 1, reference="y")
    assert_verified(cast.database)


def test_a_credit_cannot_itself_be_given_back(cast: Cast, policy: Policy) -> None:
    first = charges_of(cast, ran(cast, policy))[0]
    id = give_back(cast, first.id, 3_600)
    with pytest.raises(Refusal, match="credit-too-much"):
        give_back(cast, id, 1, reference="y")


def test_two_people_who_give_the_same_hours_back_at_once_do_not_give_them_twice(cast: Cast, policy: Policy) -> None:
    first = charges_of(cast, ran(cast, policy))[0]
    some = first.gpu_seconds * 2 // 3
    results = at_once(*(lambda name=name: give_back(cast, first.id, some, reference=name) for name in "abc"))
    refused = [result for result in results if isinstance(result, Refusal)]
    assert len(refused) == 2 and len(results) == 3, results
    assert_verified(cast.database)


def test_what_a_closed_month_charged_is_given_back_in_the_next_one(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=AFTER_THE_MONTH)
    give_back(cast, charges_of(cast, booking_id)[0].id, 3_600, now=AFTER_THE_MONTH)
    assert months(cast.database) == {("2026-11", False): 12 * 3_600, ("2026-12", True): -3_600}
    assert_verified(cast.database)


def test_hours_of_an_allocation_that_is_closed_come_back_to_nobody(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)

    def close(session: Session) -> None:
        session.get_one(Allocation, cast.allocation).state = AllocationState.CLOSED

    cast.database.transaction(close)
    give_back(cast, charges_of(cast, booking_id)[0].id, 3_600)
    with cast.database.read_only() as session:
        assert balance(session, cast.allocation).available == units.gpu_seconds(20_000) - 12 * 3_600
        expired = sa.select(LedgerAccount.balance).where(
            LedgerAccount.owner == f"allocation:{cast.allocation}", LedgerAccount.bucket == "expired"
        )
        assert session.scalar(expired) == 3_600


def test_a_run_that_was_lost_is_given_back_whole_and_only_once(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)
    first, second, _third = charges_of(cast, booking_id)
    give_back(cast, second.id, 600)

    def outage(session: Session) -> int:
        attempt = session.scalar(sa.text("SELECT id FROM attempts WHERE booking_id = :id"), {"id": booking_id})
        assert attempt is not None
        return service.credit_attempt(
            session, attempt, reference="outage:1", why=Sentence("stopped"), by=SYSTEM, now=NOW + DAY
        )

    assert cast.database.transaction(outage) == 12 * 3_600 - 600
    assert cast.database.transaction(outage) == 0
    with cast.database.read_only() as session:
        assert session.get_one(Booking, booking_id).charged_gpu_seconds == 0
        assert balance(session, cast.allocation).used == 0
        assert set(service.left_of(session, [first.id, second.id]).values()) == {0}
    assert_verified(cast.database)


def test_hours_of_several_charges_are_given_back_from_the_last_one_on(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)
    ids = [charge.id for charge in charges_of(cast, booking_id)]

    def some(amount: int, name: str) -> list[int]:
        return cast.database.transaction(
            lambda s: service.credit_from(
                s, ids, amount, kind=ChargeKind.CORRECTION, reference=name, why=Sentence("stopped"), by=SYSTEM, now=NOW
            )
        )

    some(5 * 3_600, "several:1")
    with cast.database.read_only() as session:
        assert service.left_of(session, ids) == {ids[0]: 14_400, ids[1]: 10_800, ids[2]: 0}
    with pytest.raises(Refusal, match="credit-too-much"):
        some(7 * 3_600 + 1, "several:2")
    assert_verified(cast.database)


# -- fees -------------------------------------------------------------------------------------------------------------


def test_a_fee_comes_from_the_hold_at_the_frozen_price_and_can_be_given_back(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=8, start_in=10, hours=2), policy.bookings)

    def call_off(session: Session) -> int | None:
        booking = session.get_one(Booking, booking_id)
        [stretch] = prices.frozen(session, [booking_id])[booking_id]
        fee = service.charge_fee(
            session, booking, kind=ChargeKind.NO_SHOW, gpu_seconds=4 * 3_600, point=stretch.point,
            reference=f"booking:{booking_id}:fee", why=Sentence("stopped"), by=cast.member, now=NOW,
        )  # fmt: skip
        bookings.cancel(session, booking_id, by=cast.member, now=NOW)
        return fee

    fee = cast.database.transaction(call_off)
    assert fee is not None
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert (found.used, found.held) == (4 * 3_600, 0)
    assert_verified(cast.database)
    give_back(cast, fee, 4 * 3_600)
    with cast.database.read_only() as session:
        assert balance(session, cast.allocation).available == units.gpu_seconds(20_000)
    assert_verified(cast.database)


def test_the_same_fee_twice_is_refused_by_the_database_and_no_hours_are_no_fee(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(), policy.bookings)

    def fee(hours: int) -> int | None:
        def work(session: Session) -> int | None:
            booking = session.get_one(Booking, booking_id)
            point = prices.frozen(session, [booking_id])[booking_id][0].point
            return service.charge_fee(
                session, booking, kind=ChargeKind.NO_SHOW, gpu_seconds=hours * 3_600, point=point, reference="once",
                why=Sentence("stopped"), by=SYSTEM, now=NOW,
            )  # fmt: skip

        return cast.database.transaction(work)

    assert fee(0) is None
    assert fee(1) is not None
    with pytest.raises(sa.exc.IntegrityError):
        fee(1)


# -- corrections and another rate -------------------------------------------------------------------------------------


def test_an_operator_corrects_with_a_reason_and_nobody_else_does(cast: Cast, policy: Policy) -> None:
    booking_id = ran(cast, policy)
    first = charges_of(cast, booking_id)[0]

    def correct(reason: str, by: str, hours: int = 1) -> int:
        return cast.database.transaction(
            lambda s: service.correct(s, first.id, hours * 3_600, reason=reason, by=cast.actor(by), now=NOW)
        )

    with pytest.raises(Refusal, match="correction-needs-reason"):
        correct("  ", "zhou")
    with pytest.raises(Refusal, match="not-allowed"):
        correct("计量偏差", "he")
    correct("计量偏差", "zhou")
    correct("计量偏差", "zhou")
    rows = charges_of(cast, booking_id)[3:]
    assert [(row.reference, row.gpu_seconds) for row in rows] == [
        (f"correction:{first.id}:1", -3_600), (f"correction:{first.id}:2", -3_600),
    ]  # fmt: skip
    assert rows[0].why == {"id": "corrected-by-hand", "reason": "计量偏差"}
    assert rows[0].by_id == cast.users["zhou"]
    assert_verified(cast.database)


def test_another_rate_adds_rows_and_leaves_the_old_ones(cast: Cast, policy: Policy) -> None:
    tomorrow = NOW.date() + dt.timedelta(days=1)
    discount = cast.database.transaction(
        lambda s: (
            programmes.set_discount(
                s, cast.pool, size_class="micro", from_on=tomorrow, until_on=dt.date(2026, 12, 31), percent=40,
                by=cast.finance, now=NOW,
            ).id
        )
    )  # fmt: skip
    before = ran(cast, policy, hours=1)
    after = ran(cast, policy, hours=2, at=NOW + DAY)
    fixed = cast.submit(cast.fixed(gpus=8, start_in=3, hours=1), policy.bookings)
    walk.run(cast, fixed, at=cast.now + 3 * HOUR, until=cast.now + 4 * HOUR)
    old = charges_of(cast, after)
    assert {charge.discount_id for charge in old} == {None}

    def was_micro_all_along(session: Session) -> None:
        session.get_one(Enterprise, cast.yusheng).size_class = SizeClass.MICRO

    cast.database.transaction(was_micro_all_along)

    def rerate() -> service.Rerated:
        return cast.database.transaction(
            lambda s: service.rerate(
                s,
                cast.yusheng,
                NOW - DAY,
                NOW + 3 * DAY,
                reason="企业规模更正为微型",
                by=cast.finance,
                now=NOW + 3 * DAY,
            )
        )

    done = rerate()
    assert (done.charges, done.gpu_seconds) == (3, 16 * 3_600)
    assert (done.before_micro_yuan, done.after_micro_yuan) == (16 * 16_500_000, 16 * 9_900_000)
    assert len(charges_of(cast, before)) == 1
    rows = charges_of(cast, after)
    assert [charge.reference for charge in rows[:2]] == [charge.reference for charge in old]
    assert [(row.gpu_seconds, row.discount_id) for row in rows[2:]] == [
        (-14_400, None), (14_400, discount), (-14_400, None), (14_400, discount),
    ]  # fmt: skip
    assert {row.discount_id for row in charges_of(cast, fixed)} == {None, discount}
    with cast.database.read_only() as session:
        assert balance(session, cast.allocation).used == 20 * 3_600
    assert rerate().charges == 0
    # What is re-rated is given back at its new price; of the old row nothing is left.
    with pytest.raises(Refusal, match="credit-too-much"):
        give_back(cast, rows[0].id, 1)
    give_back(cast, rows[3].id, 3_600)
    assert charges_of(cast, after)[-1].discount_id == discount
    assert_verified(cast.database)


def test_a_new_rate_of_a_closed_month_is_billed_in_the_next_one(cast: Cast, policy: Policy) -> None:
    day = NOW.date() + dt.timedelta(days=1)
    cast.database.transaction(
        lambda s: (
            programmes.set_discount(
                s, cast.pool, size_class="large", from_on=day, until_on=day, percent=10, by=cast.finance, now=NOW
            ).id
        )
    )
    ran(cast, policy, at=NOW + DAY, hours=1)
    walk.close(cast, cast.yusheng, "2026-11", policy, now=AFTER_THE_MONTH)

    def work(session: Session) -> int:
        session.get_one(Enterprise, cast.yusheng).size_class = SizeClass.LARGE
        session.flush()
        return service.rerate(
            session, cast.yusheng, NOW, NOW + 3 * DAY, reason="更正", by=cast.finance, now=AFTER_THE_MONTH
        ).charges

    assert cast.database.transaction(work) == 1
    with cast.database.read_only() as session:
        rows = session.execute(
            sa.select(Charge.billed_in, Charge.adjustment, Charge.gpu_seconds).where(Charge.kind == ChargeKind.RERATE)
        ).all()
    assert sorted(rows) == [("2026-12", True, -14_400), ("2026-12", True, 14_400)]
    assert_verified(cast.database)


# -- what the database itself refuses ---------------------------------------------------------------------------------


def test_micro_yuan_are_never_added_to_gpu_seconds(cast: Cast, session: Session) -> None:
    accounts = session.scalars(
        sa.select(LedgerAccount).where(LedgerAccount.owner == f"allocation:{cast.allocation}")
    ).all()
    ids = {account.bucket: account.id for account in accounts}
    session.add(
        LedgerEntry(
            reference="mixed", leg=1, verb="hold", unit="micro_yuan", from_account_id=ids["available"],
            to_account_id=ids["held"], amount=1, at=NOW,
        )
    )  # fmt: skip
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)foreign key"):
        session.flush()


ODD = (
    ("usage", -1, False), ("usage", 1, True), ("outage", -1, False), ("outage", 1, True), ("rerate", 1, False),
    ("no_show", -1, False), ("cancellation", 1, True),
)  # fmt: skip


def test_a_charge_without_its_shape_is_refused(cast: Cast, policy: Policy, session: Session) -> None:
    [first] = charges_of(cast, ran(cast, policy, hours=1))
    for kind, gpu_seconds, corrects in ODD:
        odd = {
            "reference": "odd", "kind": kind, "usage_record_id": None if kind == "usage" else first.usage_record_id,
            "corrects_id": first.id if corrects else None, "enterprise_id": first.enterprise_id,
            "booking_id": first.booking_id, "tariff_id": first.tariff_id, "weight_milli": 1_000,
            "gpu_seconds": gpu_seconds, "billed_in": first.billed_in, "adjustment": False, "charged_at": NOW,
        }  # fmt: skip
        with pytest.raises(sa.exc.IntegrityError, match="ck_charges_shape"), session.begin_nested():
            session.execute(sa.insert(Charge), odd)
