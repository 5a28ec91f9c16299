"""Two people review, what is issued never changes, disputes stop one line, and money is matched."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal import units, verify
from compute_portal.lifecycle import list_history
from compute_portal.notices.models import Notice
from compute_portal.sentences import NotFound, Refusal, Sentence
from compute_portal.statements import content, disputes, payments, queries, service
from compute_portal.statements.models import Dispute, Statement, StatementContent
from compute_portal.statements.states import DisputeState, StatementState
from compute_portal.usage import service as usage
from compute_portal.usage.models import BillingMonth, Charge, ChargeKind, MonthState
from tests import walk
from tests.cast import HOUR, NOW
from tests.compute_portal.statements.conftest import END, ISSUER, LATER, Books
from tests.together import at_once

FEN = units.MICRO_PER_FEN


def refused(books: Books, verb: Any, *what: Any, **options: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        books.do(verb, *what, **options)
    return refusal.value.sentence.id


# -- review


def test_one_person_checks_and_another_approves(books: Books) -> None:
    books.use()
    id = books.close()  # the timetable does it; here a person of finance, who therefore may not approve
    assert refused(books, service.approve, id, by=books.second) == "not-checked-yet"
    books.do(service.check, id, by=books.second)
    assert refused(books, service.check, id) == "already-checked"
    assert refused(books, service.approve, id, by=books.second) == "second-person-approves"
    assert refused(books, service.approve, id, by=books.first) == "second-person-approves", "who had it computed"
    third = books.cast.actor("zhou")
    assert refused(books, service.approve, id, by=third) == "not-allowed"
    with books.cast.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE statements SET closed_by = NULL"))
    books.do(service.approve, id, by=books.first)
    assert books.statement(id).state is StatementState.APPROVED


def test_a_returned_statement_is_corrected_closed_again_and_keeps_its_number(books: Books) -> None:
    first = books.use(gpus=4)
    id = books.close()
    number, before = books.statement(id).number, books.lines(id)
    assert refused(books, service.return_, id, reason=" ") == "statement-needs-reason"
    books.do(service.return_, id, reason="10月14日的停机没有减免")
    statement = books.statement(id)
    assert statement.state is StatementState.RETURNED and statement.amount_micro_yuan == 0
    with books.cast.database.read_only() as session:
        assert session.get_one(BillingMonth, (books.cast.yusheng, "2026-11")).state is MonthState.OPEN
        assert service.list_to_close(session, "2026-11") == [], "the timetable leaves it to people"
        [charge] = session.scalars(sa.select(Charge).where(Charge.booking_id == first))
    books.do(
        usage.credit, charge.id, 3600, kind=ChargeKind.OUTAGE, reference="outage:1", why=_why()
    )  # fmt: skip
    assert books.close(now=LATER + HOUR) == id
    lines, again = books.lines(id), books.statement(id)
    assert [(line.kind.value, line.gpu_seconds, line.adjustment) for line in lines] == [
        ("outage", -3600, False),
        ("usage", 4 * 3600, False),
    ]
    assert again.number == number and again.closing == 2 and again.checked_by is None
    assert again.amount_micro_yuan == before[0].amount_micro_yuan * 3 // 4
    with books.cast.database.read_only() as session:
        verbs = [row.verb for row in list_history(session, Statement.LIFE, id)]
        assert verbs == ["close", "reopen", "return", "close", "open"]
        assert verify.run(session) == []


def _why() -> Any:
    return Sentence("credit-by-dispute", number="S-1", position=1)


# -- issuing


def test_issued_content_is_signed_chained_and_told(books: Books) -> None:
    books.use()
    first = books.issued()
    books.use(at=END + 5 * HOUR)
    january = dt.datetime(2027, 1, 1, 2, tzinfo=dt.UTC)
    second = books.issued("2026-12", january)
    one, two = books.content(first), books.content(second)
    assert (one.sequence, one.previous_sha256, two.sequence, two.previous_sha256) == (1, None, 2, one.sha256)
    assert content.sha256(two.content) == two.sha256 and ISSUER.signer.sign(two.content) == two.signature
    said = json.loads(two.content)
    assert content.canonical(said) == two.content
    assert said["chain"] == {"sequence": 2, "previous_sha256": one.sha256}
    assert said["totals"]["payable"] == units.parse_yuan("69.96")  # 4 × 16.50 and 6 %
    assert said["records"]["count"] == 1
    assert said["allocations"][0]["asked_gpu_seconds"] == units.gpu_seconds(20_000)
    statement = books.statement(first)
    assert statement.pay_until_on == dt.date(2026, 12, 31)  # thirty days after the first
    assert statement.dispute_until_at is not None and statement.dispute_until_at.date() == dt.date(2026, 12, 15)
    with books.cast.database.read_only() as session:
        told = session.scalars(sa.select(Notice).where(Notice.link == f"/statements/{first}")).all()
        assert [(notice.user_id, notice.about["id"]) for notice in told] == [(books.cast.users["lin"], "told-issued")]
        assert verify.run(session) == []


def test_what_is_issued_refuses_every_change_on_this_store(books: Books) -> None:
    books.use()
    id = books.issued()
    before = books.content(id)
    for sql in (
        "UPDATE statements SET amount_micro_yuan = amount_micro_yuan + 10000",
        "UPDATE statements SET number = 'S-1'",
        "UPDATE statements SET sponsor_id = 2",
        "UPDATE statements SET state = 'draft'",
        "DELETE FROM statements",
    ):
        with pytest.raises(sa.exc.DBAPIError, match=r"never changes|append-only|(?i:foreign)"):
            books.cast.database.transaction(lambda s, sql=sql: s.execute(sa.text(sql)))
    for table in ("statement_contents", "statement_lines", "receipt_keys"):
        for sql in (f"UPDATE {table} SET id = id", f"DELETE FROM {table}"):
            with pytest.raises(sa.exc.DBAPIError, match="append-only"):
                books.cast.database.transaction(lambda s, sql=sql: s.execute(sa.text(sql)))
    books.use(gpus=2, at=NOW + 2 * HOUR)  # late, and for the next month
    assert books.content(id).content == before.content
    assert refused(books, service.return_, id, reason="x") == "no-such-move"


def test_issued_at_once_by_two_people_it_is_issued_once(books: Books) -> None:
    books.use()
    id = books.approved()
    results = at_once(lambda: books.issue(id).sha256, lambda: books.issue(id).sha256)
    assert sorted(type(result).__name__ for result in results) == ["Refusal", "str"]
    with books.cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(StatementContent)) == 1


def test_a_name_that_the_font_cannot_write_stops_the_issue_loudly(books: Books) -> None:
    books.use()
    id = books.approved()
    with books.cast.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE enterprises SET name = '𬭎科技' WHERE id = 1"))
    assert refused(books, service.issue, id, issuer=ISSUER, policy=books.policy.statements) == "font-lacks"
    assert books.statement(id).state is StatementState.APPROVED


# -- missing metering


def test_missing_metering_keeps_a_draft_marked_and_nothing_is_issued_blind(books: Books) -> None:
    books.use()
    running = books.use(metered=False, at=NOW + HOUR)
    policy = books.policy.statements
    with pytest.raises(Refusal, match="metering-incomplete"):
        books.close()
    closed = books.do(service.close_months, [books.cast.yusheng], "2026-11", policy=policy)
    assert closed.statement_ids == [] and closed.incomplete[books.cast.yusheng].since == NOW + HOUR
    [id] = [row.id for row in _statements(books)]
    assert books.statement(id).incomplete_since == NOW + HOUR
    assert refused(books, service.confirm_gap, id, reason="") == "statement-needs-reason"
    books.do(service.confirm_gap, id, reason="节点已报废，记录无法补齐")
    books.close()
    assert books.statement(id).state is StatementState.IN_REVIEW
    assert books.statement(id).incomplete_since == NOW + HOUR, "the mark stays for whoever reads it"
    with books.cast.database.engine.begin() as connection:  # as if nobody had confirmed it
        connection.execute(sa.text("UPDATE statements SET gap_confirmed_at = NULL, closed_by = NULL"))
    books.do(service.check, id)
    books.do(service.approve, id, by=books.second)
    assert refused(books, service.issue, id, issuer=ISSUER, policy=policy) == "metering-incomplete"
    assert running


def test_a_gap_of_two_hours_raises_an_alarm_once_and_goes_when_the_records_come(books: Books) -> None:
    booking = books.use(metered=False)
    policy = books.policy.statements
    id = books.cast.database.transaction(
        lambda s: service.open_draft(s, books.cast.yusheng, "2026-11", policy=policy, by=books.first, now=NOW).id
    )

    def watch(now: dt.datetime) -> int:
        return books.cast.database.transaction(lambda s: service.watch_metering(s, policy=policy, now=now))

    assert watch(NOW + 2 * HOUR) == 0, "two hours are the limit"
    assert watch(NOW + 3 * HOUR) == 1 and watch(NOW + 4 * HOUR) == 1
    assert books.statement(id).incomplete_since == NOW
    with books.cast.database.read_only() as session:
        told = session.scalars(sa.select(Notice).where(Notice.link == f"/statements/{id}")).all()
        assert {notice.about["id"] for notice in told} == {"told-metering-gap"} and len(told) == 3  # two operators
    walk.meter(books.cast, f"booking-{booking}-1", now=NOW + 5 * HOUR, until=NOW + 4 * HOUR)
    assert watch(NOW + 5 * HOUR) == 0
    assert books.statement(id).incomplete_since is None


def _statements(books: Books) -> list[Statement]:
    with books.cast.database.read_only() as session:
        return list(session.scalars(sa.select(Statement).order_by(Statement.id)))


def test_usage_that_arrives_while_the_month_is_closed_lies_in_exactly_one_month(books: Books) -> None:
    """The record is charged while the close has locked the month, and waits: then it is an adjustment."""
    books.use()
    late = books.cast.submit(books.cast.flexible(gpus=2, hours=1), books.policy.bookings)
    key = walk.start(books.cast, late, at=NOW + 2 * HOUR)
    walk.end(books.cast, key, at=NOW + 3 * HOUR)
    with books.cast.database.engine.begin() as connection:  # metering believes it is done, then the record turns up
        connection.execute(sa.text("UPDATE attempts SET metered_whole = :yes"), {"yes": True})
    start = threading.Barrier(2)

    def meter() -> int:
        start.wait()
        return walk.meter(books.cast, key, now=LATER)

    def close() -> int:
        start.wait()
        return books.close()

    results = at_once(meter, close)
    assert results[0] == 7200 and isinstance(results[1], int), results
    with books.cast.database.read_only() as session:
        [charge] = session.scalars(sa.select(Charge).where(Charge.booking_id == late))
        billed = sum(line.gpu_seconds for line in queries.frozen_lines(session, results[1]))
        assert billed == (4 * 3600 + 7200 if charge.billed_in == "2026-11" else 4 * 3600)
        assert charge.adjustment == (charge.billed_in == "2026-12")
        assert verify.run(session) == []


# -- disputes


def test_a_dispute_that_is_upheld_stops_one_line_and_becomes_a_credit_next_month(books: Books) -> None:
    books.use(gpus=4)
    books.use(gpus=2, at=NOW + 2 * HOUR)
    id = books.issued()
    first, second = books.lines(id)
    lin, mei = books.cast.actor("lin"), books.cast.actor("mei")
    policy = books.policy.statements
    with pytest.raises(NotFound):
        books.do(disputes.open_dispute, second.id, reason="x", policy=policy, by=mei)
    dispute = books.do(disputes.open_dispute, second.id, reason="节点停机", policy=policy, by=lin).id
    assert refused(books, disputes.open_dispute, second.id, reason="x", policy=policy, by=lin) == "dispute-already-open"
    with books.cast.database.read_only() as session:
        statement = session.get_one(Statement, id)
        assert queries.owed_micro_yuan(session, statement) == units.parse_yuan("69.96"), "only the other line"
        assert session.get_one(Dispute, dispute).due_at.date() == dt.date(2026, 12, 8)  # five working days
    books.do(
        payments.enter_payment, reference="B-1", amount_micro_yuan=units.parse_yuan("104.94"),
        paid_on=dt.date(2026, 12, 2), payer="屿声科技",
    )  # fmt: skip
    assert books.statement(id).state is StatementState.ISSUED, "paid in full, but a line is in dispute"
    assert refused(books, service.settle, id) == "dispute-open"
    before = books.content(id).content
    books.do(disputes.answer, dispute, DisputeState.UPHELD, text="核实停机")
    books.do(service.settle, id)
    with books.cast.database.read_only() as session:
        [line] = queries.draft_lines(session, books.cast.yusheng, "2026-12")
        assert (line.booking_id, line.gpu_seconds, line.kind.value, line.adjustment) == (
            second.booking_id, -7200, "correction", True,
        )  # fmt: skip
        assert line.amount_micro_yuan == -second.amount_micro_yuan
        assert session.get_one(Dispute, dispute).credited_gpu_seconds == 7200
        told = session.scalars(sa.select(Notice.about).where(Notice.link == f"/disputes/{dispute}")).all()
        assert {each["id"] for each in told} == {"told-disputed", "told-dispute-uphold"}
        assert verify.run(session) == []
    assert books.content(id).content == before
    assert first.amount_micro_yuan == units.parse_yuan("66.00")


def test_a_dispute_has_a_deadline_on_both_sides_and_may_be_upheld_in_part(books: Books) -> None:
    books.use(gpus=4)
    id = books.issued()
    [line] = books.lines(id)
    lin, policy = books.cast.actor("lin"), books.policy.statements
    statement = books.statement(id)
    assert statement.dispute_until_at is not None
    too_late = statement.dispute_until_at + dt.timedelta(seconds=1)
    said = {"reason": "x", "policy": policy, "by": lin}
    assert refused(books, disputes.open_dispute, line.id, now=too_late, **said) == "dispute-too-late"
    dispute = books.do(disputes.open_dispute, line.id, **said).id
    answer = {"text": "部分属实"}
    assert refused(books, disputes.answer, dispute, DisputeState.PARTLY, **answer) == "partly-needs-hours"
    assert refused(books, disputes.answer, dispute, DisputeState.REJECTED, text="") == "statement-needs-reason"
    later = LATER + dt.timedelta(days=20)
    assert books.cast.database.transaction(lambda s: disputes.tell_late(s, now=later)) == 1
    assert books.cast.database.transaction(lambda s: disputes.tell_late(s, now=later)) == 0
    books.do(disputes.answer, dispute, DisputeState.PARTLY, gpu_seconds=1800, **answer)
    with books.cast.database.read_only() as session:
        assert sum(x.gpu_seconds for x in queries.draft_lines(session, books.cast.yusheng, "2026-12")) == -1800
    assert refused(books, disputes.answer, dispute, DisputeState.REJECTED, text="x") == "no-such-move"


# -- payments


def test_a_payment_is_matched_by_number_or_by_payer_and_amount_else_it_waits(books: Books) -> None:
    books.use(gpus=4)
    id = books.issued()
    number = books.statement(id).number

    def pay(reference: str, yuan: str, payer: str = "某公司", note: str = "") -> int | None:
        return books.do(  # type: ignore[no-any-return]
            payments.enter_payment, reference=reference, amount_micro_yuan=units.parse_yuan(yuan),
            paid_on=dt.date(2026, 12, 5), payer=payer, note=note,
        ).statement_id  # fmt: skip

    assert pay("B-1", "69.96") is None
    assert pay("B-2", "50.00", note=f"账单{number}") == id
    assert refused(
        books, payments.enter_payment, reference="B-1", amount_micro_yuan=FEN, paid_on=dt.date(2026, 12, 5), payer="x"
    ) == "payment-known"  # fmt: skip
    today = dt.date(2026, 12, 6)
    with books.cast.database.read_only() as session:
        assert [payment.reference for payment in queries.unmatched_payments(session)] == ["B-1"]
        [row] = queries.list_differences(session, today)
        assert (row.paid_micro_yuan, row.payable_micro_yuan) == (units.parse_yuan("50"), units.parse_yuan("69.96"))
    assert refused(books, service.settle, id) == "not-paid-in-full"
    assert pay("B-3", "19.96", note=number) == id
    assert books.statement(id).state is StatementState.SETTLED, "paid to the fen, so it is settled at once"
    assert refused(books, payments.match, 1, "S-209901-00001") == "no-issued-statement"
    assert refused(books, payments.unmatch, 2) == "settled-stays"
    with books.cast.database.read_only() as session:
        assert queries.list_differences(session, today) == []


def test_a_fapiao_of_another_amount_stands_on_the_reconcile_list(books: Books) -> None:
    books.use(gpus=4)
    id = books.issued()
    said = {"issued_on": dt.date(2026, 12, 5), "amount_micro_yuan": units.parse_yuan("69.95")}
    assert refused(books, payments.enter_fapiao, id, number="123", **said) == "fapiao-20-digits"
    books.do(payments.enter_fapiao, id, number="24442000000012345678", **said)
    assert refused(books, payments.enter_fapiao, id, number="24442000000012345678", **said) == "fapiao-known"
    with books.cast.database.read_only() as session:
        [row] = queries.list_differences(session, dt.date(2026, 12, 6))
        assert row.fapiao_micro_yuan == units.parse_yuan("69.95")
        assert queries.count_differences(session, dt.date(2026, 12, 6)) == 1


def test_who_pays_late_is_told_once(books: Books) -> None:
    books.use()
    books.issued()
    january = dt.datetime(2027, 1, 2, tzinfo=dt.UTC)
    assert [books.cast.database.transaction(lambda s: service.tell_overdue(s, now=january)) for _ in range(2)] == [1, 0]


# -- any order

STEPS = st.lists(
    st.sampled_from(("use", "credit", "close", "return", "issue", "dispute", "pay")), min_size=4, max_size=9
)


@settings(max_examples=6)
@given(STEPS, st.integers(1, 9), st.integers(1, 9_999))
def test_whatever_happens_the_books_recount_and_issued_bytes_stay(
    books: Books, steps: list[str], gpus: int, seconds: int
) -> None:
    """The examples go on in one database, one after the other: each finds what the last one left."""
    month, now = "2026-11", LATER
    issued = {id: books.content(id).content for id in (row.id for row in _statements(books)) if _is_final(books, id)}
    for number, step in enumerate(steps):
        with contextlib.suppress(Refusal):  # a rule said no: nothing may have changed
            _take(books, step, number, gpus, seconds + number, month, now)
    with books.cast.database.read_only() as session:
        assert verify.run(session) == []
        for statement in session.scalars(sa.select(Statement)):
            frozen = queries.lines_of(session, statement)
            assert queries.totals_of(statement, frozen).amount_micro_yuan == sum(x.amount_micro_yuan for x in frozen)
        charged = session.scalar(sa.select(sa.func.sum(Charge.gpu_seconds))) or 0
        found = session.scalars(sa.select(Statement)).all()
        billed = sum(x.gpu_seconds for row in found for x in queries.lines_of(session, row))
        waiting = sum(
            x.gpu_seconds
            for m in ("2026-11", "2026-12")
            if not session.scalar(sa.select(Statement.id).where(Statement.month == m))
            for x in queries.draft_lines(session, books.cast.yusheng, m)
        )
        assert billed + waiting == charged
    for id, text in issued.items():
        assert books.content(id).content == text


def _is_final(books: Books, id: int) -> bool:
    return books.statement(id).state in (StatementState.ISSUED, StatementState.SETTLED)


def _take(books: Books, step: str, number: int, gpus: int, seconds: int, month: str, now: dt.datetime) -> None:
    found = next((row for row in _statements(books) if row.month == month), None)
    if step == "use":
        with books.cast.database.read_only() as session:
            n = session.scalar(sa.select(sa.func.count()).select_from(Charge)) or 0
        books.use(gpus=gpus, seconds=seconds, at=NOW + n * 3 * HOUR)
    elif step == "credit":
        with books.cast.database.read_only() as session:
            last = session.scalar(sa.select(sa.func.max(Charge.id)).where(Charge.kind == ChargeKind.USAGE))
            n = session.scalar(sa.select(sa.func.count()).select_from(Charge)) or 0
        if last is not None:
            books.do(usage.credit, last, 1, kind=ChargeKind.OUTAGE, reference=f"x:{n}", why=_why())
    elif step == "close":
        books.close(month, now)
    elif found is not None and step == "return":
        books.do(service.return_, found.id, reason="再看")
    elif found is not None and step == "issue":
        if found.state is StatementState.IN_REVIEW:
            books.do(service.check, found.id)
            books.do(service.approve, found.id, by=books.second)
        books.issue(found.id)
    elif found is not None and step == "dispute" and _is_final(books, found.id):
        line = books.lines(found.id)[0]
        lin = books.cast.actor("lin")
        dispute = books.do(disputes.open_dispute, line.id, reason="x", policy=books.policy.statements, by=lin).id
        books.do(disputes.answer, dispute, DisputeState.UPHELD if number % 2 else DisputeState.REJECTED, text="已核实")
    elif found is not None and step == "pay" and _is_final(books, found.id):
        payable = found.amount_micro_yuan + found.tax_micro_yuan
        if payable > 0:
            books.do(
                payments.enter_payment, reference=f"P-{found.id}", amount_micro_yuan=payable,
                paid_on=dt.date(2026, 12, 5), payer="x", note=found.number,
            )  # fmt: skip
