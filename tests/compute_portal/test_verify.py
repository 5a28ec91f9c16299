"""`verify` says nothing about honest work, and names every kind of damage that is planted."""

from __future__ import annotations

import datetime as dt
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units, verify
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.bookings import attempts
from compute_portal.bookings import service as bookings
from compute_portal.claims.models import Claim
from compute_portal.claims.states import ClaimState
from compute_portal.db import Database
from compute_portal.lifecycle import begin
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.states import NodeState
from compute_portal.programmes import service as programmes
from compute_portal.sentences import Sentence
from compute_portal.statements import receipts
from compute_portal.statements import service as statements
from compute_portal.subsidies import examples
from compute_portal.subsidies import queries as subsidy_queries
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.rules import Take
from compute_portal.tables import Base
from compute_portal.usage import service as usage
from migrations.triggers import APPEND_ONLY
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.compute_portal.statements.conftest import ISSUER

AFTER_THE_MONTH = dt.datetime(2026, 12, 3, tzinfo=dt.UTC)


@dataclass
class City:
    """A little of everything: settled, running, confirmed, cancelled and waiting bookings, and a closed month."""

    cast: Cast
    settled: int
    settled_fixed: int
    running: int
    confirmed: int
    waiting: int
    running_key: str


@pytest.fixture
def city(cast: Cast, policy: Policy) -> City:
    settled = cast.submit(cast.flexible(gpus=4, hours=5), policy.bookings)
    other = cast.submit(
        cast.flexible(gpus=12, hours=2, allocation_id=cast.other_allocation), policy.bookings, by=cast.stranger
    )
    fixed = cast.submit(cast.fixed(gpus=8, start_in=10, hours=2), policy.bookings)
    walk.run(cast, settled, at=NOW + HOUR / 2, until=NOW + 3 * HOUR + HOUR / 3)
    walk.run(cast, other, at=NOW + HOUR / 3, until=NOW + 2 * HOUR)
    walk.run(cast, fixed, at=NOW + 10 * HOUR, until=NOW + 12 * HOUR)
    cancelled = cast.submit(cast.fixed(gpus=16, start_in=20), policy.bookings)
    cast.database.transaction(lambda s: bookings.cancel(s, cancelled, by=cast.member, now=NOW + HOUR))
    walk.close(cast, cast.yusheng, "2026-11", policy, now=AFTER_THE_MONTH)
    _issue(cast, policy, walk.close(cast, cast.luyu, "2026-11", policy, now=AFTER_THE_MONTH))
    cast.now = AFTER_THE_MONTH
    running = cast.submit(cast.flexible(gpus=4, hours=3), policy.bookings)
    key = walk.start(cast, running, at=AFTER_THE_MONTH)
    walk.meter(cast, key, now=AFTER_THE_MONTH + HOUR, until=AFTER_THE_MONTH + HOUR)
    confirmed = cast.submit(cast.fixed(gpus=12, start_in=30), policy.bookings)
    waiting = cast.submit(cast.flexible(), policy.bookings)
    return City(cast, settled, fixed, running, confirmed, waiting, key)


def _issue(cast: Cast, policy: Policy, statement_id: int) -> None:
    second = Actor.of(cast.users["wu"], frozenset({Role.FINANCE}))

    def work(session: Session) -> None:
        statements.check(session, statement_id, by=cast.finance, now=AFTER_THE_MONTH)
        statements.approve(session, statement_id, by=second, now=AFTER_THE_MONTH)
        statements.issue(
            session, statement_id, issuer=ISSUER, policy=policy.statements, by=cast.finance, now=AFTER_THE_MONTH
        )

    cast.database.transaction(work)


def recount(database: Database) -> list[verify.Problem]:
    with database.read_only() as session:
        return verify.run(session)


def test_honest_work_shows_no_problem(city: City) -> None:
    assert recount(city.cast.database) == []


def test_an_empty_database_shows_no_problem(database: Database) -> None:
    assert recount(database) == []


# -- damage -----------------------------------------------------------------------------------------------------------


def unprotect(session: Session) -> None:
    """What an intruder with the database's password would do first."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text("SET session_replication_role = replica"))  # no trigger fires, no foreign key counts
        return
    session.execute(sa.text("PRAGMA defer_foreign_keys = on"))
    for name in session.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        session.execute(sa.text(f"DROP TRIGGER {name}"))


Damage = Callable[[Session, City], None]
DAMAGE: dict[str, Damage] = {}


def damage(check: str) -> Callable[[Damage], Damage]:
    def keep(plant: Damage) -> Damage:
        DAMAGE[f"{check}/{plant.__name__}"] = plant
        return plant

    return keep


def run_sql(session: Session, sql: str, **values: object) -> None:
    done = session.execute(sa.text(sql), values)
    assert done.rowcount != 0, f"nothing was damaged: {sql}"


@damage("booked-twice")
def two_occupancies_share_a_gpu(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO occupancies (pool_id, node_id, booking_id, gpu_mask, gpus, fixed, starts_at, ends_at) "
        "SELECT pool_id, node_id, :other, gpu_mask, gpus, fixed, starts_at, ends_at FROM occupancies "
        "WHERE booking_id = :id AND released_at IS NULL",
        id=city.confirmed,
        other=city.waiting,
    )


@damage("given-twice")
def access_was_taken_back_too_late(session: Session, city: City) -> None:
    # The settled booking and the running one both got the first GPUs of the first node.
    run_sql(session, "UPDATE attempts SET revoked_at = NULL WHERE booking_id = :id", id=city.settled)


@damage("not-there")
def an_occupancy_claims_a_gpu_that_the_node_lacks(session: Session, city: City) -> None:
    run_sql(session, "UPDATE occupancies SET gpu_mask = 3840 WHERE booking_id = :id", id=city.running)


@damage("not-there")
def an_occupancy_counts_its_gpus_wrongly(session: Session, city: City) -> None:
    run_sql(session, "UPDATE occupancies SET gpus = gpus + 1 WHERE booking_id = :id", id=city.running)


@damage("without-a-place")
def a_running_booking_has_lost_its_occupancy(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM occupancies WHERE booking_id = :id", id=city.running)


@damage("without-a-place")
def a_running_bookings_gpus_were_released(session: Session, city: City) -> None:
    run_sql(session, "UPDATE occupancies SET released_at = starts_at WHERE booking_id = :id", id=city.running)


@damage("not-whole")
def an_attempt_got_fewer_gpus_than_booked(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET gpus = gpus + 1 WHERE id = :id", id=city.running)


@damage("lease-without-a-place")
def a_lease_is_placed_nowhere(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO leases (key, booking_id, pool_id, fixed, gpus, seconds, submitted_at, programme_id, "
        "enterprise_id, allocation_id, allocation_ends_at, state, changed_at) "
        "SELECT 'booking-x-1', b.id, b.pool_id, false, b.gpus, b.longest_seconds, b.submitted_at, 1, b.enterprise_id, "
        "b.allocation_id, b.submitted_at, 'placed', b.submitted_at FROM bookings b WHERE b.id = :id",
        id=city.waiting,
    )


@damage("on-a-dead-node")
def a_booking_was_placed_on_a_node_that_was_down(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE node_intervals SET state = 'down' WHERE node_id IN "
        "(SELECT node_id FROM occupancies WHERE booking_id = :id)",
        id=city.running,
    )


@damage("fixed-not-whole")
def a_confirmed_booking_lost_a_node(session: Session, city: City) -> None:
    run_sql(
        session,
        "DELETE FROM occupancies WHERE id = (SELECT MAX(id) FROM occupancies WHERE booking_id = :id)",
        id=city.confirmed,
    )


@damage("fixed-not-whole")
def a_confirmed_booking_gets_its_gpus_an_hour_late(session: Session, city: City) -> None:
    later = AFTER_THE_MONTH + 31 * HOUR
    run_sql(
        session,
        "UPDATE occupancies SET starts_at = :at WHERE booking_id = :id",
        at=later if session.get_bind().dialect.name == "postgresql" else f"{later:%Y-%m-%d %H:%M:%S.%f}",
        id=city.confirmed,
    )


@damage("attempts-under-way")
def a_booking_was_handed_over_twice(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO attempts (booking_id, number, key, written_at) "
        "SELECT booking_id, number + 1, key || 'b', written_at FROM attempts WHERE booking_id = :id",
        id=city.running,
    )


@damage("attempts-under-way")
def a_booking_runs_without_an_attempt(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET state = 'running' WHERE id = :id", id=city.waiting)


@damage("entry-not-allowed")
def an_entry_moves_hours_from_used_to_held(session: Session, city: City) -> None:
    run_sql(session, "UPDATE ledger_entries SET verb = 'release' WHERE reference LIKE 'usage:%'")


@damage("entry-not-allowed")
def an_entry_takes_the_hours_of_another_allocation(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE ledger_entries SET from_account_id = (SELECT id FROM ledger_accounts "
        "WHERE owner = :owner AND bucket = 'available') WHERE reference = :reference",
        owner=f"allocation:{city.cast.other_allocation}",
        reference=f"booking:{city.settled}:hold",
    )


@damage("entry-not-allowed")
def an_entry_mixes_units(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE ledger_entries SET unit = 'micro_yuan' WHERE reference = :reference",
        reference=f"booking:{city.settled}:hold",
    )


@damage("balance")
def a_balance_was_raised(session: Session, city: City) -> None:
    run_sql(session, "UPDATE ledger_accounts SET balance = balance + 3600 WHERE bucket = 'available'")


@damage("balance")
def an_entry_was_deleted(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM ledger_entries WHERE verb = 'award'")


@damage("below-zero")
def an_account_stands_below_zero(session: Session, city: City) -> None:
    postgresql = session.get_bind().dialect.name == "postgresql"
    if postgresql:
        session.execute(sa.text("ALTER TABLE ledger_accounts DROP CONSTRAINT ck_ledger_accounts_not_below_zero"))
    else:
        session.execute(sa.text("PRAGMA ignore_check_constraints = on"))
    run_sql(session, "UPDATE ledger_accounts SET balance = -1 WHERE bucket = 'withheld'")
    if not postgresql:
        session.execute(sa.text("PRAGMA ignore_check_constraints = off"))


def subsidised(session: Session, city: City) -> tuple[int, int, int]:
    """(scheme, version, statement): a voucher scheme with money, of which the closed statement took 30 yuan."""
    scheme = examples.load(session, from_on=dt.date(2026, 11, 1), by=SYSTEM, now=NOW, only=("Nanning",))["Nanning"]
    version = subsidy_queries.list_versions(session, scheme.id)[0].id
    statement = session.scalars(sa.text("SELECT MIN(id) FROM statements")).one()
    take = [Take(version, 30 * units.MICRO_PER_YUAN)]
    subsidies.take(session, statement, city.cast.yusheng, "2026-11", take, by=SYSTEM, now=NOW)
    return scheme.id, version, statement


@damage("budget")
def a_use_was_raised_behind_the_budget(session: Session, city: City) -> None:
    subsidised(session, city)
    run_sql(session, "UPDATE subsidy_uses SET amount_micro_yuan = amount_micro_yuan + 10000")


@damage("claim")
def a_claim_took_nothing_from_its_scheme(session: Session, city: City) -> None:
    scheme, version, statement = subsidised(session, city)
    claim = Claim(
        number="C-1", enterprise_id=city.cast.yusheng, statement_id=statement, scheme_id=scheme, version_id=version,
        state=ClaimState.OPENED, cost_micro_yuan=10_000, amount_micro_yuan=10_000, shares={}, opened_at=NOW,
    )  # fmt: skip
    session.add(claim)
    begin(session, claim, verb="open", at=NOW, by=SYSTEM)


@damage("buckets")
def an_award_was_raised_behind_the_ledger(session: Session, city: City) -> None:
    run_sql(session, "UPDATE allocations SET awarded_gpu_seconds = awarded_gpu_seconds + 1")


@damage("held-by-bookings")
@damage("held-cache")
def a_bookings_hold_was_forgotten(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET held_gpu_seconds = 0 WHERE id = :id", id=city.waiting)


@damage("charged-once")
def a_charge_was_deleted(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM charges WHERE booking_id = :id", id=city.settled)


@damage("charged-once")
def a_record_was_charged_twice(session: Session, city: City) -> None:
    session.execute(sa.text("DROP INDEX uq_charges_usage_record_id"))
    run_sql(
        session,
        "INSERT INTO charges (reference, kind, usage_record_id, enterprise_id, booking_id, tariff_id, weight_milli, "
        "gpu_seconds, billed_in, adjustment, charged_at) SELECT reference || 'b', kind, usage_record_id, "
        "enterprise_id, booking_id, tariff_id, weight_milli, gpu_seconds, billed_in, adjustment, charged_at "
        "FROM charges",
    )


def _against(session: Session, what: str, booking_id: int) -> None:
    """A row that changes the first charge of a booking; `what` are the columns from the kind on."""
    run_sql(
        session,
        "INSERT INTO charges (reference, enterprise_id, booking_id, usage_record_id, corrects_id, tariff_id, "
        "billed_in, adjustment, charged_at, weight_milli, kind, gpu_seconds) SELECT 'x' || id, enterprise_id, "
        f"booking_id, usage_record_id, id, tariff_id, billed_in, adjustment, charged_at, {what} FROM charges "
        "WHERE id = (SELECT MIN(id) FROM charges WHERE booking_id = :id)",
        id=booking_id,
    )


@damage("given-back")
def more_was_given_back_than_was_charged(session: Session, city: City) -> None:
    _against(session, "weight_milli, 'correction', -gpu_seconds - 1", city.settled)


@damage("corrects")
def a_credit_has_another_price_than_its_charge(session: Session, city: City) -> None:
    _against(session, "weight_milli + 1, 'outage', -gpu_seconds", city.settled)


@damage("corrects")
def a_new_rate_charges_more_hours_than_it_took_back(session: Session, city: City) -> None:
    _against(session, "weight_milli, 'rerate', gpu_seconds", city.settled)


@damage("posted-once")
def hours_were_given_back_behind_the_ledger(session: Session, city: City) -> None:
    _against(session, "weight_milli, 'outage', -gpu_seconds", city.settled)


@damage("discount")
def a_charge_has_a_weight_that_nobody_set(session: Session, city: City) -> None:
    run_sql(session, "UPDATE charges SET weight_milli = 500 WHERE booking_id = :id", id=city.settled)


@damage("discount")
def a_programmes_price_was_forgotten(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO discounts (pool_id, programme_id, from_on, until_on, percent, set_at) "
        "SELECT pool_id, :programme, from_on, '2027-12-31', 10, set_at FROM tariffs",
        programme=city.cast.programme,
    )


@damage("frozen-price")
def a_fixed_booking_was_charged_at_another_weight(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE charges SET weight_milli = 900 WHERE booking_id IN (SELECT id FROM bookings WHERE kind = 'fixed')",
    )


@damage("frozen-whole")
def a_confirmed_booking_lost_its_frozen_prices(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM booking_prices WHERE booking_id = :id", id=city.confirmed)


@damage("frozen-whole")
def the_frozen_prices_begin_after_the_window(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE booking_prices SET starts_at = ends_at, ends_at = :far WHERE booking_id = :id",
        far=_instant(session, AFTER_THE_MONTH + 300 * HOUR),
        id=city.confirmed,
    )


def _instant(session: Session, at: dt.datetime) -> object:
    return at if session.get_bind().dialect.name == "postgresql" else f"{at:%Y-%m-%d %H:%M:%S.%f}"


@damage("two-prices")
def two_prices_hold_at_night(session: Session, city: City) -> None:
    for id, first, until in ((98, 22, 8), (99, 7, 9)):
        run_sql(
            session,
            "INSERT INTO tariffs (id, pool_id, from_on, from_hour, until_hour, price_micro_yuan, set_at) "
            "SELECT :id, pool_id, '2026-12-01', :first, :until, 1, set_at FROM tariffs WHERE from_hour IS NULL",
            id=id, first=first, until=until,
        )  # fmt: skip


@damage("posted-once")
def the_ledger_never_heard_of_a_charge(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM ledger_entries WHERE verb = 'charge'")


@damage("posted-once")
def the_ledger_charged_for_no_record(session: Session, city: City) -> None:
    run_sql(session, "UPDATE ledger_entries SET reference = 'usage:99' || id WHERE verb = 'charge'")


@damage("record")
def a_record_counts_more_gpu_seconds_than_its_time(session: Session, city: City) -> None:
    run_sql(session, "UPDATE usage_records SET gpu_seconds = gpu_seconds + 1 WHERE booking_id = :id", id=city.settled)


@damage("record")
def a_record_lies_on_the_wrong_day(session: Session, city: City) -> None:
    run_sql(session, "UPDATE usage_records SET day_on = '2026-11-17' WHERE booking_id = :id", id=city.settled)


@damage("records-in-a-row")
def a_record_in_the_middle_is_missing(session: Session, city: City) -> None:
    run_sql(
        session,
        "DELETE FROM usage_records WHERE id = (SELECT MIN(id) + 1 FROM usage_records WHERE booking_id = :id)",
        id=city.settled,
    )


@damage("metered")
def the_last_record_is_missing(session: Session, city: City) -> None:
    run_sql(
        session,
        "DELETE FROM usage_records WHERE id = (SELECT MAX(id) FROM usage_records WHERE booking_id = :id)",
        id=city.settled,
    )


@damage("metered")
def an_attempt_ended_before_it_was_metered_to(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE attempts SET ended_at = granted_at WHERE booking_id = :id",
        id=city.settled,
    )


@damage("tariff")
def a_charge_stands_at_a_tariff_of_later(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO tariffs (id, pool_id, from_on, price_micro_yuan, set_at) "
        "SELECT 99, pool_id, '2026-12-01', 1, set_at FROM tariffs",
    )
    run_sql(session, "UPDATE charges SET tariff_id = 99 WHERE booking_id = :id", id=city.settled)


@damage("month")
def a_charge_is_billed_in_another_month(session: Session, city: City) -> None:
    run_sql(session, "UPDATE charges SET billed_in = '2026-12' WHERE booking_id = :id", id=city.settled)


@damage("charged-cache")
def a_booking_forgot_what_was_charged(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET charged_gpu_seconds = 0 WHERE id = :id", id=city.settled)


@damage("over-and-done")
def a_settled_booking_still_holds_hours(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET held_gpu_seconds = 3600 WHERE id = :id", id=city.settled)


@damage("over-and-done")
def a_settled_booking_is_not_metered_whole(session: Session, city: City) -> None:
    run_sql(session, "UPDATE attempts SET metered_whole = false WHERE booking_id = :id", id=city.settled)


@damage("statement-totals")
def a_statement_total_was_changed(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statements SET amount_micro_yuan = amount_micro_yuan + 10000 WHERE state = 'in_review'")


@damage("statement-totals")
def a_statements_tax_is_a_fen_off(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statements SET tax_micro_yuan = tax_micro_yuan - 10000 WHERE state = 'in_review'")


@damage("lines")
def a_line_bills_other_hours_than_were_charged(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statement_lines SET gpu_seconds = gpu_seconds + 1 WHERE booking_id = :id", id=city.settled)


@damage("lines")
def a_line_is_missing(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM statement_lines WHERE booking_id = :id", id=city.settled)


@damage("line-amount")
def a_line_has_another_price_than_its_tariff(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statement_lines SET price_micro_yuan = price_micro_yuan - 1")


@damage("line-amount")
def a_lines_amount_is_a_fen_off(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE statement_lines SET amount_micro_yuan = amount_micro_yuan + 10000, "
        "list_micro_yuan = list_micro_yuan + 10000",
    )


@damage("line-amount")
def a_discount_stands_on_a_line_without_one(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE statement_lines SET amount_micro_yuan = amount_micro_yuan - 10000, discount_micro_yuan = 10000",
    )


@damage("content")
def a_digit_of_what_was_issued_was_changed(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statement_contents SET content = REPLACE(content, '2026-11', '2026-12')")


@damage("content")
def what_was_issued_was_signed_by_somebody_else(session: Session, city: City) -> None:
    key = receipts.make_signer("", "intruder").public_key
    run_sql(session, "UPDATE receipt_keys SET public_key = :key", key=key)


@damage("issued")
def the_content_of_an_issued_statement_is_gone(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM statement_contents")


@damage("chain-of-contents")
def a_link_of_the_chain_is_missing(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statement_contents SET sequence = 2")


@damage("settled")
def a_statement_is_settled_that_nobody_paid(session: Session, city: City) -> None:
    run_sql(session, "UPDATE statements SET state = 'settled' WHERE state = 'issued'")


@damage("month-and-statement")
def a_closed_month_was_opened_again(session: Session, city: City) -> None:
    run_sql(session, "UPDATE billing_months SET state = 'open' WHERE state = 'closed'")


@damage("month-and-statement")
def a_closed_month_lost_its_statement(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM statements WHERE state = 'in_review'")


@damage("last-state")
def a_state_was_changed_without_history(session: Session, city: City) -> None:
    run_sql(session, "UPDATE bookings SET state = 'failed' WHERE id = :id", id=city.waiting)


@damage("last-state")
def an_allocation_has_no_history_at_all(session: Session, city: City) -> None:
    run_sql(session, "DELETE FROM history_entries WHERE kind = 'allocation'")


@damage("chain")
def a_history_row_in_the_middle_was_deleted(session: Session, city: City) -> None:
    run_sql(
        session,
        "DELETE FROM history_entries WHERE kind = 'booking' AND subject_id = :id AND after = 'running'",
        id=city.settled,
    )


@damage("chain")
def a_move_was_written_twice(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at) "
        "SELECT kind, subject_id, verb, before, after, at FROM history_entries "
        "WHERE kind = 'enterprise' AND after = 'verified'",
    )


@damage("node-intervals")
def a_node_has_no_open_interval(session: Session, city: City) -> None:
    run_sql(session, "UPDATE node_intervals SET ends_at = starts_at")


@damage("node-intervals")
def a_nodes_state_is_not_that_of_its_interval(session: Session, city: City) -> None:
    run_sql(session, "UPDATE nodes SET state = 'down'")


@damage("tenants")
def a_booking_uses_the_allocation_of_another_enterprise(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE bookings SET allocation_id = :other WHERE id = :id",
        id=city.settled,
        other=city.cast.other_allocation,
    )


@damage("tenants")
def a_usage_record_belongs_to_another_enterprise(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE usage_records SET enterprise_id = :other WHERE booking_id = :id",
        id=city.settled,
        other=city.cast.luyu,
    )


@damage("tenants")
def a_line_is_billed_to_another_enterprise(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE statements SET enterprise_id = :other, month = '2026-09' WHERE state = 'in_review'",
        other=city.cast.luyu,
    )


@damage("others-hours")
def a_charge_took_the_hours_of_another_allocation(session: Session, city: City) -> None:
    run_sql(
        session,
        "UPDATE ledger_entries SET to_account_id = (SELECT id FROM ledger_accounts "
        "WHERE owner = :owner AND bucket = 'used') WHERE verb = 'charge'",
        owner=f"allocation:{city.cast.other_allocation}",
    )


@damage("both-sides")
def a_member_got_a_bureau_role(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO bureau_roles (user_id, role, given_at) SELECT user_id, 'finance', since_at FROM memberships",
    )


@damage("kept-twice")
def an_option_keeps_what_a_booking_has(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO option_places (pool_id, node_id, waiter_id, gpu_mask, starts_at, ends_at) "
        "SELECT pool_id, node_id, 1, gpu_mask, starts_at, ends_at FROM occupancies "
        "WHERE booking_id = :id AND released_at IS NULL",
        id=city.confirmed,
    )


@damage("option")
def somebody_is_offered_a_window_that_nothing_keeps(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO waiters (state, enterprise_id, allocation_id, pool_id, title, gpus, starts_at, ends_at, "
        "joined_at, kept_until_at) SELECT 'offered', enterprise_id, allocation_id, pool_id, 'x', gpus, starts_at, "
        "ends_at, submitted_at, starts_at FROM bookings WHERE id = :id",
        id=city.confirmed,
    )


QUOTE = (
    "INSERT INTO cancellation_quotes (booking_id, kind, from_at, ends_at, percent, gpu_seconds, amount_micro_yuan, "
    "made_at, expires_at, used_at) SELECT id, 'cancel', starts_at, ends_at, 25, {seconds}, 0, submitted_at, ends_at, "
    "{used} FROM bookings WHERE id = :id"
)


@damage("quoted")
def a_quote_was_used_and_nothing_charged(session: Session, city: City) -> None:
    run_sql(session, QUOTE.format(seconds=3600, used="starts_at"), id=city.confirmed)


@damage("quoted")
def a_quote_was_used_after_its_time(session: Session, city: City) -> None:
    run_sql(session, QUOTE.format(seconds=0, used="ends_at"), id=city.confirmed)


def give_back(session: Session, city: City, *, rebooked: int, credited: int) -> None:
    run_sql(session, QUOTE.format(seconds=0, used="NULL"), id=city.settled_fixed)
    run_sql(
        session,
        "INSERT INTO returned_hours (booking_id, enterprise_id, quote_id, starts_at, ends_at, gpus, "
        "charged_gpu_seconds, charge_ids, rebooked_gpu_seconds, credited_gpu_seconds, settled_at) "
        "SELECT id, enterprise_id, (SELECT MAX(id) FROM cancellation_quotes), starts_at, ends_at, gpus, 3600, '[]', "
        ":rebooked, :credited, ends_at FROM bookings WHERE id = :id",
        id=city.settled_fixed,
        rebooked=rebooked,
        credited=credited,
    )


@damage("returned")
def a_credit_for_returned_hours_was_never_given(session: Session, city: City) -> None:
    give_back(session, city, rebooked=100, credited=100)


@damage("rebooked")
def hours_are_said_to_be_used_by_others_that_nobody_used(session: Session, city: City) -> None:
    give_back(session, city, rebooked=100, credited=0)


@damage("no-show")
def a_booking_that_was_used_has_a_strike(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO strikes (booking_id, enterprise_id, at) SELECT id, enterprise_id, submitted_at FROM bookings "
        "WHERE id = :id",
        id=city.settled,
    )


@damage("lost-run")
def a_lost_run_was_credited_in_part(session: Session, city: City) -> None:
    run_sql(session, "UPDATE attempts SET credited_at = ended_at WHERE booking_id = :id", id=city.settled)
    run_sql(
        session,
        "INSERT INTO charges (reference, kind, usage_record_id, corrects_id, enterprise_id, booking_id, tariff_id, "
        "weight_milli, gpu_seconds, billed_in, adjustment, charged_at) SELECT 'outage:1', 'outage', usage_record_id, "
        "id, enterprise_id, booking_id, tariff_id, weight_milli, -1, billed_in, adjustment, charged_at FROM charges "
        "WHERE id = (SELECT MIN(id) FROM charges WHERE booking_id = :id)",
        id=city.settled,
    )


@damage("erased")
def a_person_is_shut_out_without_a_move(session: Session, city: City) -> None:
    run_sql(session, "UPDATE users SET disabled_at = created_at WHERE email = 'chen@example.cn'")


@damage("addresses")
def history_holds_an_address(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at, note) "
        "SELECT kind, subject_id, verb, after, after, at, 'ask Lin@Example.cn' FROM history_entries "
        "WHERE kind = 'enterprise' AND after = 'verified'",
    )


@damage("moves")
def history_tells_of_a_move_that_is_in_no_table(session: Session, city: City) -> None:
    run_sql(
        session,
        "INSERT INTO history_entries (kind, subject_id, verb, before, after, at) "
        "SELECT 'booking', id, 'fail', state, 'settled', submitted_at FROM bookings WHERE id = :id",
        id=city.waiting,
    )
    run_sql(session, "UPDATE bookings SET state = 'settled' WHERE id = :id", id=city.waiting)


@damage("protection")
def protecting_triggers_are_gone(session: Session, city: City) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text("DROP TRIGGER ledger_entries_no_update ON ledger_entries"))
        session.execute(sa.text("ALTER TABLE occupancies DISABLE TRIGGER occupancies_no_overlap"))


@damage("protection")
def a_trigger_no_longer_refuses(session: Session, city: City) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            sa.text(
                "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RETURN COALESCE(NEW, OLD); END $$"
            )
        )
    else:
        session.execute(sa.text("CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges BEGIN SELECT 1; END"))


def test_planted_damage_is_named(city: City, subtests: pytest.Subtests) -> None:
    """Each kind is planted in a transaction of its own, recounted there, and taken back."""
    engine = city.cast.database.engine
    for name, plant in DAMAGE.items():
        with subtests.test(name), Session(engine) as session:
            unprotect(session)
            plant(session, city)
            problems = verify.run(session)
            assert name.partition("/")[0] in {p.check for p in problems}, "\n".join(map(str, problems)) or "not seen"
    assert recount(city.cast.database) == []


def test_every_check_has_a_damage_that_shows_it() -> None:
    checks = {check.name for check in verify.CHECKS} | set(verify.CHECKED_IN_PYTHON)
    assert checks == {name.partition("/")[0] for name in DAMAGE}
    assert {check.invariant for check in verify.CHECKS} == set(verify.INVARIANTS)


def test_much_damage_of_one_kind_is_counted_and_not_listed(city: City) -> None:
    with Session(city.cast.database.engine) as session:
        for n in range(verify.NAMED + 5):
            run_sql(
                session,
                "INSERT INTO history_entries (kind, subject_id, verb, before, after, at) "
                "SELECT 'enterprise', :n, 'verify', 'applied', 'verified', submitted_at FROM bookings WHERE id = 1",
                n=1_000 + n,
            )
        lines = [problem.line for problem in verify.run(session) if problem.check == "chain"]
    assert len(lines) == verify.NAMED + 1
    assert lines[-1] == "… and 5 more of this kind."


# -- the tables that refuse changes -----------------------------------------------------------------------------------


def test_every_protected_table_refuses_change_and_deletion(city: City) -> None:
    with Session(city.cast.database.engine) as session:
        assert verify.try_to_change(session) == []
        rows = {table: session.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) for table in APPEND_ONLY}
    assert all(n for table, n in rows.items() if table != "access_log"), rows


def test_a_table_that_lets_its_rows_be_changed_is_named_and_left_as_it_was(city: City) -> None:
    with Session(city.cast.database.engine) as session:
        before = session.execute(sa.text("SELECT * FROM charges ORDER BY id")).all()
        on = " ON charges" if city.cast.database.is_postgresql else ""
        for verb in ("update", "delete"):
            session.execute(sa.text(f"DROP TRIGGER charges_no_{verb}{on}"))
        session.commit()
        problems = verify.try_to_change(session)
        session.rollback()
        assert [(p.check, "charges" in p.line) for p in problems] == [("protection", True)] * 2
        assert session.execute(sa.text("SELECT * FROM charges ORDER BY id")).all() == before


# -- things that look odd and are right -------------------------------------------------------------------------------


def test_a_failed_attempt_that_went_on_elsewhere_is_no_damage(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=8, hours=4), policy.bookings)
    key = walk.start(cast, booking_id, at=NOW)
    failed_at = NOW + HOUR + HOUR / 4

    def fail(session: Session) -> None:
        attempts.failed(session, key, why=Sentence("node-down", node="h800-n001"), at=failed_at, tries=3)
        node_id = session.scalars(sa.text("SELECT MIN(id) FROM nodes")).one()
        pools.change_node_state(session, node_id, NodeState.DOWN, verb="fail", by=SYSTEM, now=failed_at)

    cast.database.transaction(fail)
    walk.meter(cast, key, now=failed_at)
    assert recount(cast.database) == []
    walk.run(cast, booking_id, at=failed_at + HOUR, until=failed_at + 3 * HOUR)
    assert recount(cast.database) == []


def test_a_month_closed_without_use_and_a_lapsed_booking_are_no_damage(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.fixed(gpus=16, hours=200, start_in=24), policy.bookings)
    cast.database.transaction(lambda s: bookings.lapse(s, booking_id, by=SYSTEM, now=NOW + HOUR))
    walk.close(cast, cast.luyu, "2026-11", policy, now=AFTER_THE_MONTH)
    assert recount(cast.database) == []


# -- speed ------------------------------------------------------------------------------------------------------------

BOOKINGS = 20_000


def _many(cast: Cast, policy: Policy, n: int) -> None:
    """`n` settled bookings, each a copy of one that went the whole way, one after the other on the same four GPUs."""
    booking_id = cast.submit(cast.flexible(gpus=4, hours=3), policy.bookings)
    walk.run(cast, booking_id, at=NOW, until=NOW + 3 * HOUR)
    shift = 4 * 3600

    def copies(session: Session) -> None:
        if cast.database.is_postgresql:  # no statistics yet: each of the many rows would be checked against all others
            session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for table, pick in (
            ("bookings", "id"), ("attempts", "booking_id"), ("occupancies", "booking_id"),
            ("usage_records", "booking_id"), ("charges", "booking_id"),
        ):  # fmt: skip
            _copy(session, Base.metadata.tables[table], pick, booking_id, n, shift)
        history = Base.metadata.tables["history_entries"]
        rows = session.execute(
            sa.select(history).where(history.c.kind == "booking", history.c.subject_id == booking_id)
        ).mappings()
        _insert(session, history, [dict(row) | {"id": None, "subject_id": k} for row in rows for k in range(2, n + 1)])
        entries = Base.metadata.tables["ledger_entries"]
        first = (
            session.execute(
                sa.select(entries).where(entries.c.verb.in_(("hold", "charge", "release"))).order_by(entries.c.id)
            )
            .mappings()
            .all()
        )
        records = [row for row in first if row["verb"] == "charge"]
        new = []
        for k in range(2, n + 1):
            for row in first:
                if row["verb"] == "charge":
                    reference = f"usage:{(k - 1) * len(records) + records.index(row) + 1}"
                else:
                    reference = row["reference"].replace(f":{booking_id}:", f":{k}:")
                new.append(dict(row) | {"id": None, "reference": reference})
        _insert(session, entries, new)
        used = sum(row["amount"] for row in records)
        # The books must be right: what the copies used was awarded.
        session.execute(
            sa.text(
                "UPDATE ledger_accounts SET balance = balance + :all WHERE owner = 'allocation:1' AND bucket = 'used'"
            ),
            {"all": used * (n - 1)},
        )
        award = next(iter(session.execute(sa.select(entries).where(entries.c.verb == "award")).mappings()))
        _insert(session, entries, [dict(award) | {"id": None, "leg": 9, "amount": used * (n - 1)}])
        session.execute(
            sa.text("UPDATE allocations SET awarded_gpu_seconds = awarded_gpu_seconds + :all WHERE id = 1"),
            {"all": used * (n - 1)},
        )
        session.execute(
            sa.text("UPDATE ledger_accounts SET balance = balance - :all WHERE bucket = 'pool'"),
            {"all": used * (n - 1)},
        )

    cast.database.transaction(
        lambda s: programmes.fund(
            s, cast.programme, units.gpu_seconds(1_000_000), reference="more", by=cast.finance, now=NOW
        )
    )
    cast.database.transaction(copies)


def _copy(session: Session, table: sa.Table, pick: str, booking_id: int, n: int, shift: int) -> None:
    rows = session.execute(sa.select(table).where(table.c[pick] == booking_id).order_by(table.c.id)).mappings().all()
    new = []
    for k in range(2, n + 1):
        for place, row in enumerate(rows):
            copy = dict(row)
            for name, value in copy.items():
                if isinstance(value, dt.datetime) and name not in ("recorded_at", "charged_at"):
                    copy[name] = value + dt.timedelta(seconds=(k - 1) * shift)
            copy["id"] = (k - 1) * len(rows) + place + 1
            if "booking_id" in copy:
                copy["booking_id"] = k
            if table.name == "attempts":
                copy["key"] = f"booking-{k}-1"
            if table.name == "usage_records":
                copy |= {"attempt_id": k, "source": f"booking-{k}-1@{place}", "day_on": clock.day_of(copy["starts_at"])}
            if table.name == "charges":
                copy |= {"usage_record_id": copy["id"], "reference": f"usage:{copy['id']}"}
            new.append(copy)
    if table.name == "charges":  # each in the month of its use
        used = Base.metadata.tables["usage_records"]
        months = {id: clock.month_of(at) for id, at in session.execute(sa.select(used.c.id, used.c.starts_at))}
        for copy in new:
            copy["billed_in"] = months[copy["usage_record_id"]]
        enterprise_id = rows[0]["enterprise_id"]
        for month in {copy["billed_in"] for copy in new}:
            usage.ensure_month(session, enterprise_id, month)
    _insert(session, table, new)


def _insert(session: Session, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if all(row["id"] is None for row in rows):
        rows = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    session.execute(sa.insert(table), rows)


@pytest.mark.bench
def test_twenty_thousand_bookings_are_recounted_in_seconds_with_constant_memory(cast: Cast, policy: Policy) -> None:
    _many(cast, policy, BOOKINGS)
    with cast.database.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")  # autovacuum has done that in any database that grew by itself
    begin = time.perf_counter()
    problems = recount(cast.database)
    seconds = time.perf_counter() - begin
    store = "postgresql" if cast.database.is_postgresql else "sqlite"
    print(f"\nverify, {store}: {BOOKINGS:,} bookings in {seconds:.1f} s")
    assert problems == []
    assert seconds < 30
    tracemalloc.start()
    recount(cast.database)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000, f"{peak:,} bytes"
