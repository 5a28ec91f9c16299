"""The ledger: whatever happens, buckets add up, balances equal entries, and what is refused changes nothing."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM
from compute_portal.db import Database
from compute_portal.ledger import service as ledger
from compute_portal.ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from compute_portal.ledger.queries import balance
from compute_portal.ledger.service import Use
from compute_portal.sentences import Refusal, Sentence
from tests.cast import NOW
from tests.together import at_once

# `make faults` asks for many events, the ordinary run for a few hundred.
EVENTS = 10_000 if int(os.environ.get("ROUNDS", "1")) >= 100 else 300
ALLOCATIONS = (1, 2, 3)
PROGRAMME = 1


@dataclass
class Books:
    """What the accounts should say, kept by plain arithmetic, and the events that lead there."""

    session: Session
    pool: int = 0
    buckets: dict[int, Counter[str]] = field(default_factory=dict)
    holds: dict[int, dict[str, int]] = field(default_factory=lambda: {id: {} for id in ALLOCATIONS})
    charges: list[tuple[int, str]] = field(default_factory=list)
    n: int = 0

    def reference(self) -> str:
        self.n += 1
        return f"test:{self.n}"

    def fund(self, amount: int) -> None:
        ledger.fund(self.session, PROGRAMME, amount, reference=self.reference(), at=NOW, by=SYSTEM)
        self.pool += amount

    def award(self, id: int, amount: int) -> None:
        if id in self.buckets:
            return  # an allocation is awarded once
        ledger.award(self.session, PROGRAMME, id, amount, at=NOW, by=SYSTEM)
        self.pool -= amount
        self.buckets[id] = Counter(available=amount)

    def hold(self, id: int, amount: int) -> None:
        reference = self.reference()
        ledger.hold(self.session, id, amount, reference=reference, at=NOW, by=SYSTEM)
        self.buckets[id].update(available=-amount, held=amount)
        self.holds[id][reference] = amount

    def charge(self, id: int, amount: int) -> None:
        """From the newest hold first, then from what is available, then on overdraft."""
        from_hold = 0
        if self.holds[id]:
            newest = max(self.holds[id])
            from_hold = min(amount, self.holds[id][newest])
            self.holds[id][newest] -= from_hold
        available = min(amount - from_hold, self.buckets[id]["available"])
        reference = self.reference()
        ledger.charge(self.session, id, [Use(reference, amount, from_hold)], at=NOW, by=SYSTEM)
        overdraft = amount - from_hold - available
        self.buckets[id].update(held=-from_hold, available=-available, overdraft=overdraft, used=amount)
        self.charges.append((id, reference))

    def release(self, id: int, ended: bool) -> None:
        if self.holds[id]:
            reference, amount = self.holds[id].popitem()
            ledger.release(self.session, id, amount, reference=f"{reference}:release", ended=ended, at=NOW, by=SYSTEM)
            repaid = min(amount, self.buckets[id]["overdraft"])
            self.buckets[id].update({"held": -amount, "expired" if ended else "available": amount - repaid})
            self.buckets[id].update(overdraft=-repaid)

    def correct(self, pick: int, amount: int) -> None:
        if self.charges:
            id, charge = self.charges[pick % len(self.charges)]
            entry = self.session.scalars(
                sa.select(LedgerEntry).where(LedgerEntry.reference == charge).order_by(LedgerEntry.leg)
            ).first()
            assert entry is not None
            ledger.correct(
                self.session, entry.id, amount, reference=self.reference(), why=Sentence("stopped"), at=NOW, by=SYSTEM
            )
            self.buckets[id].update(used=-amount, available=amount)

    def expire(self, id: int) -> None:
        if self.session.scalar(sa.select(LedgerEntry.id).where(LedgerEntry.reference == f"allocation:{id}:expire")):
            return  # it ends once
        amount = ledger.expire(self.session, id, at=NOW, by=SYSTEM)
        assert amount == self.buckets[id]["available"]
        self.buckets[id].update(available=-amount, expired=amount)

    def check(self) -> None:
        for id, expected in self.buckets.items():
            found = balance(self.session, id)
            assert {name: getattr(found, name) for name in expected} == dict(expected)
            spent = found.used + found.held + found.available + found.withheld + found.expired
            assert spent == found.awarded + found.overdraft
            assert min(found.used, found.held, found.available, found.withheld, found.expired, found.overdraft) >= 0
        assert_sound(self.session)


def assert_sound(session: Session) -> None:
    """The sum over all accounts is nothing, and each balance is what its entries say."""
    assert session.scalar(sa.select(sa.func.sum(LedgerAccount.balance))) in (0, None)
    moved = sa.union_all(
        sa.select(LedgerEntry.to_account_id.label("id"), LedgerEntry.amount.label("amount")),
        sa.select(LedgerEntry.from_account_id, -LedgerEntry.amount),
    ).subquery()
    sums = dict(session.execute(sa.select(moved.c.id, sa.func.sum(moved.c.amount)).group_by(moved.c.id)).all())
    for id, stored in session.execute(sa.select(LedgerAccount.id, LedgerAccount.balance)):
        assert stored == sums.get(id, 0)


def one_event(books: Books, verb: str, id: int, amount: int) -> None:
    """One event in a savepoint. What is refused must leave every account as it was."""
    if verb not in ("fund", "award") and id not in books.buckets:
        return
    before = books.session.execute(sa.select(LedgerAccount.id, LedgerAccount.balance)).all()
    savepoint = books.session.begin_nested()
    try:
        match verb:
            case "fund":
                books.fund(amount)
            case "award":
                books.award(id, amount)
            case "hold":
                books.hold(id, amount)
            case "charge":
                books.charge(id, amount)
            case "release" | "release-ended":
                books.release(id, ended=verb == "release-ended")
            case "correct":
                books.correct(amount, amount)
            case "expire":
                books.expire(id)
        savepoint.commit()
    except Refusal:
        savepoint.rollback()
        books.session.expire_all()
        assert set(before) <= set(books.session.execute(sa.select(LedgerAccount.id, LedgerAccount.balance)).all())


VERBS = ("fund", "award", "hold", "hold", "charge", "charge", "release", "release-ended", "correct", "expire")
events = st.tuples(st.sampled_from(VERBS), st.sampled_from(ALLOCATIONS), st.integers(1, 5_000))


@settings(max_examples=25)
@given(st.lists(events, max_size=40))
def test_after_any_sequence_of_events_the_books_are_right(
    database: Database, sequence: list[tuple[str, int, int]]
) -> None:
    with Session(database.engine) as session:
        books = Books(session)
        books.fund(10_000)
        books.award(ALLOCATIONS[0], 6_000)
        for verb, id, amount in sequence:
            one_event(books, verb, id, amount)
        books.check()


def test_the_sum_over_all_accounts_is_nothing_after_many_random_events(database: Database) -> None:
    chance = random.Random(20_261_118)
    with Session(database.engine) as session:
        books = Books(session)
        books.fund(2_000_000)
        for id in ALLOCATIONS:
            books.award(id, 200_000)
        for n in range(EVENTS):
            verb = chance.choices(VERBS, [2, 1, 9, 9, 9, 9, 6, 2, 3, 0.05 if n > EVENTS // 2 else 0])[0]
            amount = chance.randint(100_000, 900_000) if verb in ("fund", "award") else chance.randint(1, 900)
            one_event(books, verb, chance.choice(ALLOCATIONS), amount)
            if n % max(1, EVENTS // 10) == 0:
                books.check()
        books.check()
        assert (session.scalar(sa.select(sa.func.count()).select_from(LedgerEntry)) or 0) > EVENTS // 3


# -- the verbs one by one ---------------------------------------------------------------------------------------------


@pytest.fixture
def books(session: Session) -> Books:
    books = Books(session)
    books.fund(100_000)
    books.award(1, 10_000)
    return books


def test_a_charge_takes_from_the_hold_then_from_what_is_available_then_overdraft(books: Books) -> None:
    books.hold(1, 4_000)
    books.charge(1, 12_500)
    found = balance(books.session, 1)
    assert (found.held, found.available, found.used, found.overdraft) == (0, 0, 12_500, 2_500)
    assert found.awarded == 10_000


def test_a_hold_takes_what_is_missing_from_the_overdraft_as_far_as_it_may_and_its_release_repays_it(
    books: Books,
) -> None:
    books.award(2, 1_000)

    def hold(name: str, amount: int, most: int) -> int:
        return ledger.hold(books.session, 2, amount, reference=name, at=NOW, by=SYSTEM, overdraft_most=most)

    assert hold("a", 900, 200) == 100
    assert hold("b", 250, 200) == 0
    found = balance(books.session, 2)
    assert (found.available, found.held, found.overdraft, found.awarded) == (0, 1_150, 150, 1_000)
    with pytest.raises(Refusal) as refused:
        hold("c", 51, 200)
    assert refused.value.sentence == Sentence("needs-more-hours", needed=51, available=50)
    ledger.release(books.session, 2, 900, reference="a:release", ended=False, at=NOW, by=SYSTEM)
    found = balance(books.session, 2)
    assert (found.available, found.held, found.overdraft) == (750, 250, 0)


def test_an_award_repays_the_overdraft_first(books: Books) -> None:
    session = books.session
    ledger.open_accounts(session, ledger.allocation(2), ledger.ALLOCATION_BUCKETS)
    ledger.charge(session, 2, [Use("test:early", 300, 0)], at=NOW, by=SYSTEM)
    ledger.award(session, PROGRAMME, 2, 1_000, at=NOW, by=SYSTEM)
    found = balance(session, 2)
    assert (found.used, found.available, found.overdraft, found.awarded) == (300, 700, 0, 1_000)


def test_more_than_the_programme_has_cannot_be_awarded(books: Books) -> None:
    with pytest.raises(Refusal) as refused:
        ledger.award(books.session, PROGRAMME, 2, 90_001, at=NOW, by=SYSTEM)
    assert (refused.value.sentence.id, refused.value.field) == ("pool-too-small", "awarded_hours")
    assert refused.value.sentence["left"] == 90_000


def test_a_programme_that_nobody_has_funded_yet_awards_nothing(books: Books) -> None:
    with pytest.raises(Refusal) as refused:
        ledger.award(books.session, 7, 2, 1, at=NOW, by=SYSTEM)
    assert refused.value.sentence == Sentence("pool-too-small", asked=1, left=0)


def test_more_than_is_available_cannot_be_held(books: Books) -> None:
    with pytest.raises(Refusal) as refused:
        books.hold(1, 10_001)
    assert refused.value.sentence == Sentence("needs-more-hours", needed=10_001, available=10_000)


def test_what_is_released_after_the_end_expires(books: Books) -> None:
    books.hold(1, 4_000)
    assert ledger.expire(books.session, 1, at=NOW, by=SYSTEM) == 6_000
    books.release(1, ended=True)
    found = balance(books.session, 1)
    assert (found.available, found.held, found.expired) == (0, 0, 10_000)


def test_a_correction_gives_back_at_most_what_its_charge_took(books: Books) -> None:
    session = books.session
    books.charge(1, 600)
    entry = session.scalars(sa.select(LedgerEntry).where(LedgerEntry.verb == "charge")).one()

    def correct(amount: int, reference: str) -> None:
        ledger.correct(session, entry.id, amount, reference=reference, why=Sentence("stopped"), at=NOW, by=SYSTEM)

    correct(400, "correct:1")
    for amount in (201, 0, -1):
        with pytest.raises(Refusal) as refused:
            correct(amount, "correct:2")
        assert refused.value.sentence.id == "correct-too-much" and refused.value.sentence["left"] == 200
    correct(200, "correct:2")
    assert balance(session, 1).used == 0
    hold = session.scalars(sa.select(LedgerEntry).where(LedgerEntry.verb == "award")).one()
    with pytest.raises(Refusal):
        ledger.correct(session, hold.id, 1, reference="correct:3", why=Sentence("stopped"), at=NOW, by=SYSTEM)


def test_the_same_cause_twice_is_refused_by_the_database(books: Books) -> None:
    session = books.session
    ledger.hold(session, 1, 10, reference="booking:1:hold", at=NOW, by=SYSTEM)
    session.commit()
    with pytest.raises(sa.exc.IntegrityError):
        ledger.hold(session, 1, 10, reference="booking:1:hold", at=NOW, by=SYSTEM)
    session.rollback()
    assert balance(session, 1).held == 10


# -- what the database itself refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["UPDATE ledger_entries SET amount = amount + 1", "DELETE FROM ledger_entries"])
def test_entries_can_neither_be_changed_nor_deleted(books: Books, sql: str) -> None:
    books.session.commit()
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        books.session.execute(sa.text(sql))
    books.session.rollback()
    books.check()


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"unit": Unit.MICRO_YUAN}, "fk_ledger_entries|FOREIGN KEY"),
        ({"amount": 0}, "positive"),
        ({"amount": -5}, "positive"),
        ({"to_account_id": None}, "moves"),
    ],
)
def test_an_entry_that_mixes_units_moves_nothing_or_goes_in_a_circle_is_refused(
    books: Books, changes: dict[str, object], constraint: str
) -> None:
    accounts = ledger.lock_accounts(books.session, ledger.allocation(1))
    source, target = accounts["allocation:1", Bucket.AVAILABLE].id, accounts["allocation:1", Bucket.HELD].id
    values: dict[str, object] = {
        "reference": "test", "leg": 1, "verb": "hold", "unit": Unit.GPU_SECONDS, "amount": 5, "at": NOW,
        "from_account_id": source, "to_account_id": target,
    }  # fmt: skip
    values |= changes
    if values["to_account_id"] is None:
        values["to_account_id"] = source
    with pytest.raises(sa.exc.IntegrityError, match=constraint):
        books.session.execute(sa.insert(LedgerEntry).values(**values))


def test_no_balance_but_a_sources_or_an_overdraft_goes_below_zero(books: Books) -> None:
    books.session.commit()
    for bucket in Bucket:
        allowed = bucket in (Bucket.SOURCE, Bucket.OVERDRAFT)
        ledger.open_accounts(books.session, "allocation:99", [bucket])
        below = sa.update(LedgerAccount).where(LedgerAccount.owner == "allocation:99", LedgerAccount.bucket == bucket)
        if allowed:
            books.session.execute(below.values(balance=-1))
        else:
            with pytest.raises(sa.exc.IntegrityError, match="not_below_zero"):
                books.session.execute(below.values(balance=-1))
        books.session.rollback()


# -- at the same time -------------------------------------------------------------------------------------------------


def test_programmes_that_are_funded_first_at_the_same_time_are_all_funded(database: Database) -> None:
    """The bureau's own account is new then, too."""

    def fund(programme_id: int) -> None:
        database.transaction(
            lambda s: ledger.fund(s, programme_id, 100, reference=f"fund:{programme_id}", at=NOW, by=SYSTEM)
        )

    assert at_once(*(lambda id=id: fund(id) for id in range(1, 9))) == [None] * 8
    with database.read_only() as session:
        assert_sound(session)


def test_two_corrections_of_one_charge_at_the_same_time_give_back_no_more_than_it_took(database: Database) -> None:
    def begin(session: Session) -> int:
        ledger.fund(session, PROGRAMME, 100_000, reference="fund", at=NOW, by=SYSTEM)
        ledger.award(session, PROGRAMME, 1, 10_000, at=NOW, by=SYSTEM)
        ledger.charge(session, 1, [Use("usage:1", 2_000, 0), Use("usage:2", 5_000, 0)], at=NOW, by=SYSTEM)
        return session.scalars(sa.select(LedgerEntry.id).where(LedgerEntry.reference == "usage:1")).one()

    entry_id = database.transaction(begin)

    def correct(n: int) -> None:
        database.transaction(
            lambda s: ledger.correct(
                s, entry_id, 2_000, reference=f"correct:{n}", why=Sentence("stopped"), at=NOW, by=SYSTEM
            )
        )

    results = at_once(*(lambda n=n: correct(n) for n in range(6)))
    assert [result for result in results if result is None] == [None], results
    assert all(isinstance(result, Refusal) for result in results if result is not None)
    with database.read_only() as session:
        assert balance(session, 1).used == 5_000
