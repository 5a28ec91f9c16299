"""Sub-budgets, the reserve and the overdraft: what a booking may not go beyond."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from compute_portal import units, verify
from compute_portal.access import Actor
from compute_portal.bookings import service as bookings
from compute_portal.budgets import service as budgets
from compute_portal.budgets.models import BudgetRules
from compute_portal.budgets.queries import budgets_of, rules_in_force
from compute_portal.budgets.service import NewRules
from compute_portal.budgets.states import Action
from compute_portal.ledger.queries import balance
from compute_portal.lifecycle import HistoryEntry
from compute_portal.policy import Policy
from compute_portal.sentences import NotFound, Refusal, Sentence
from tests.cast import NOW, Cast

HOUR = units.gpu_seconds(1)


def set_budgets(
    cast: Cast, of: dict[str, int | None], reserve: int = 0, by: Actor | None = None, allocation: int | None = None
) -> None:
    """Hours by name; the enterprise has two people."""
    limits = {cast.users[name]: None if hours is None else hours * HOUR for name, hours in of.items()}
    cast.database.transaction(
        lambda s: budgets.set_budgets(
            s,
            allocation or cast.allocation,
            of=limits,
            reserve=reserve * HOUR,
            members=[cast.users["lin"], cast.users["chen"]],
            by=by or cast.manager,
            now=NOW,
        )
    )


def set_rules(cast: Cast, *thresholds: tuple[int, Action], overdraft: int = 0, why: str = "试行") -> None:
    asked = NewRules(thresholds, (30,), overdraft)
    cast.database.transaction(lambda s: budgets.set_rules(s, asked, why=why, by=cast.actor("an"), now=NOW).id)


def refusal(cast: Cast, policy: Policy, gpus: int, hours: float, name: str = "chen") -> tuple[Sentence, str | None]:
    with pytest.raises(Refusal) as refused:
        cast.submit(cast.flexible(gpus, hours), policy.bookings, by=cast.actor(name))
    return refused.value.sentence, refused.value.field


def test_a_members_sub_budget_counts_what_is_booked_and_used_and_leaves_others_alone(
    cast: Cast, policy: Policy
) -> None:
    set_budgets(cast, {"chen": 100})
    first = cast.submit(cast.flexible(10, 8), policy.bookings)
    assert refusal(cast, policy, 10, 3) == (
        Sentence("over-sub-budget", limit=100 * HOUR, used=80 * HOUR, needed=30 * HOUR),
        "gpus",
    )
    cast.submit(cast.flexible(10, 2), policy.bookings)
    cast.submit(cast.flexible(10, 3), policy.bookings, by=cast.manager)
    cast.database.transaction(lambda s: bookings.cancel(s, first, by=cast.member, now=NOW).id)
    cast.submit(cast.flexible(10, 8), policy.bookings)  # what was given back may be booked again


def test_the_quote_says_the_same_as_the_booking(cast: Cast, policy: Policy) -> None:
    set_budgets(cast, {"chen": 10})
    with cast.database.read_only() as session, pytest.raises(Refusal) as refused:
        bookings.quote(session, cast.flexible(4, 3), by=cast.member, policy=policy.bookings, now=NOW)
    assert refused.value.sentence.id == "over-sub-budget"


def test_the_reserve_cannot_be_spent_by_bookings_until_the_manager_lowers_it(cast: Cast, policy: Policy) -> None:
    set_budgets(cast, {}, reserve=19_900)
    sentence, field = refusal(cast, policy, 10, 11, "lin")
    assert (sentence, field) == (
        Sentence("reserve-is-kept", needed=110 * HOUR, left=100 * HOUR, reserve=19_900 * HOUR),
        "gpus",
    )
    cast.submit(cast.flexible(10, 10), policy.bookings)
    set_budgets(cast, {}, reserve=19_000)
    cast.submit(cast.flexible(10, 11), policy.bookings)


def test_sub_budgets_and_reserve_are_at_most_the_allocation(cast: Cast) -> None:
    with pytest.raises(Refusal) as refused:
        set_budgets(cast, {"chen": 15_000, "lin": 4_000}, reserve=1_001)
    assert refused.value.sentence == Sentence("budgets-exceed-award", given=20_001 * HOUR, awarded=20_000 * HOUR)
    assert refused.value.field == "reserve"
    with cast.database.read_only() as session:
        assert budgets_of(session, cast.allocation).of == {}
    set_budgets(cast, {"chen": 15_000, "lin": 4_000}, reserve=1_000)
    set_budgets(cast, {"chen": 500, "lin": None})
    with cast.database.read_only() as session:
        found = budgets_of(session, cast.allocation)
        why = session.scalars(
            sa.select(HistoryEntry.why).where(HistoryEntry.kind == "allocation", HistoryEntry.verb == "budget")
        ).all()
    assert (found.of, found.reserve) == ({cast.users["chen"]: 500 * HOUR}, 0)
    assert [(said["n"], said["reserve"]) for said in why if said] == [(2, 1_000 * HOUR), (1, 0)]


def test_only_a_manager_of_the_own_enterprise_sets_budgets_and_only_of_its_own_people(cast: Cast) -> None:
    with pytest.raises(Refusal):
        set_budgets(cast, {"chen": 1}, by=cast.member)
    with pytest.raises(NotFound):
        set_budgets(cast, {"chen": 1}, by=cast.stranger)
    set_budgets(cast, {"chen": 1, "tang": 1})
    with cast.database.read_only() as session:
        assert set(budgets_of(session, cast.allocation).of) == {cast.users["chen"]}


def test_nothing_is_booked_beyond_the_award_unless_the_rules_allow_an_overdraft(cast: Cast, policy: Policy) -> None:
    cast.allocation = cast.award(cast.yusheng, "lin", 100)
    cast.submit(cast.flexible(10, 9), policy.bookings)
    assert refusal(cast, policy, 10, 2)[0] == Sentence("needs-more-hours", needed=20 * HOUR, available=10 * HOUR)
    set_rules(cast, (120, Action.BLOCK), overdraft=20)
    beyond = cast.submit(cast.flexible(10, 3), policy.bookings)
    assert refusal(cast, policy, 1, 1)[0] == Sentence("needs-more-hours", needed=HOUR, available=0)
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert (found.available, found.held, found.overdraft) == (0, 120 * HOUR, 20 * HOUR)
        assert verify.run(session) == []
    cast.database.transaction(lambda s: bookings.cancel(s, beyond, by=cast.member, now=NOW).id)
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert (found.available, found.held, found.overdraft) == (10 * HOUR, 90 * HOUR, 0)
        assert verify.run(session) == []


def test_where_a_reserve_is_kept_nothing_is_overdrawn(cast: Cast, policy: Policy) -> None:
    cast.allocation = cast.award(cast.yusheng, "lin", 100)
    set_rules(cast, overdraft=20)
    set_budgets(cast, {}, reserve=10)
    assert refusal(cast, policy, 10, 10)[0].id == "reserve-is-kept"


def test_the_rules_are_data_with_a_history_and_what_makes_no_sense_is_refused(cast: Cast) -> None:
    with cast.database.read_only() as session:
        first = rules_in_force(session)
    assert first.days == (30, 14, 7, 1)
    assert first.thresholds[-2:] == ((110, Action.SLOW), (125, Action.BLOCK))
    set_rules(cast, (80, Action.NOTIFY), overdraft=10)
    with cast.database.read_only() as session:
        assert rules_in_force(session).thresholds == ((80, Action.NOTIFY),)
        assert session.scalar(sa.select(sa.func.count()).select_from(BudgetRules)) == 2
    for thresholds, overdraft, why, said in (
        (((80, Action.NOTIFY), (80, Action.BLOCK)), 0, "试行", "threshold-twice"),
        (((105, Action.BLOCK),), 20, "试行", "blocked-before-overdraft"),
        ((), 0, " ", "rules-need-reason"),
    ):
        with pytest.raises(Refusal) as refused:
            set_rules(cast, *thresholds, overdraft=overdraft, why=why)
        assert refused.value.sentence.id == said
    with pytest.raises(Refusal):
        cast.database.transaction(
            lambda s: budgets.set_rules(s, NewRules((), (), 0), why="试行", by=cast.operator, now=NOW).id
        )
