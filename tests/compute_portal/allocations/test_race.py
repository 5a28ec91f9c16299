"""Two people do the same, or opposite, things to a request or its hours in the same second: one of them wins, whole."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units, verify
from compute_portal.allocations import changes, reports, requests, service, terms
from compute_portal.allocations.changes import Wish
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.states import AllocationState, ChangeKind
from compute_portal.bookings import service as bookings
from compute_portal.budgets import service as budgets
from compute_portal.ledger import service as ledger
from compute_portal.ledger.queries import balance, programme_left
from compute_portal.policy import Policy
from compute_portal.review import service as review
from compute_portal.sentences import Refusal
from tests.cast import NOW, Cast
from tests.compute_portal.allocations.test_requests import LATER, answers, ask, draft, opened, staged, stored
from tests.together import at_once

HOURS = units.gpu_seconds
THINKING_SECONDS = 0.05


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and taking passes a moment, so that whoever may interfere does."""
    lock_accounts, look = ledger.lock_accounts, requests._why_not_at_once

    def lock_slowly(*args: Any) -> Any:
        accounts = lock_accounts(*args)
        time.sleep(THINKING_SECONDS)
        return accounts

    def look_slowly(*args: Any) -> Any:
        why_not = look(*args)
        time.sleep(THINKING_SECONDS)
        return why_not

    monkeypatch.setattr(ledger, "lock_accounts", lock_slowly)
    monkeypatch.setattr(requests, "_why_not_at_once", look_slowly)


def refused(results: list[Any]) -> list[str]:
    """The sentences of those who were refused; anything else that went wrong is raised."""
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, Refusal):
            raise result
    return [result.sentence.id for result in results if isinstance(result, Refusal)]


def whole(cast: Cast) -> Session:
    session = Session(cast.database.reading_engine)
    assert verify.run(session) == []
    return session


def test_of_two_small_requests_at_once_only_one_is_awarded_where_the_pool_has_room_for_one(cast: Cast) -> None:
    programme_id = opened(cast, hours=6_000)
    mine, theirs = draft(cast, programme_id, 4_000), draft(cast, programme_id, 4_000, by=cast.stranger)

    def submit(id: int, by: Any) -> Any:
        return cast.database.transaction(lambda s: requests.submit(s, id, answers(4_000), by=by, now=NOW).id)

    assert refused(at_once(lambda: submit(mine, cast.manager), lambda: submit(theirs, cast.stranger))) == []
    states = sorted(stored(cast, id).state for id in (mine, theirs))
    assert states == [AllocationState.ACTIVE, AllocationState.SUBMITTED]
    with whole(cast) as session:
        assert programme_left(session, [programme_id])[programme_id] == HOURS(2_000)


def test_two_small_requests_of_one_firm_at_once_do_not_add_up_past_the_track(cast: Cast) -> None:
    programme_id = opened(cast)
    ids = [draft(cast, programme_id, 3_000) for _ in range(2)]

    def submit(id: int) -> Any:
        return cast.database.transaction(lambda s: requests.submit(s, id, answers(3_000), by=cast.manager, now=NOW).id)

    assert refused(at_once(*(lambda id=id: submit(id) for id in ids))) == []  # type: ignore[misc]
    assert sorted(stored(cast, id).state for id in ids) == [AllocationState.ACTIVE, AllocationState.SUBMITTED]


def test_one_request_submitted_twice_at_once_is_awarded_once(cast: Cast) -> None:
    programme_id = opened(cast)
    id = draft(cast, programme_id, 3_000)

    def submit() -> Any:
        return cast.database.transaction(lambda s: requests.submit(s, id, answers(3_000), by=cast.manager, now=NOW).id)

    assert refused(at_once(submit, submit)) == ["request-not-writable"]
    with whole(cast) as session:
        assert balance(session, id).awarded == HOURS(3_000)


def test_of_two_deciders_at_once_one_decides(cast: Cast, policy: Policy) -> None:
    id = ask(cast, opened(cast), 9_000)

    def approve() -> Any:
        return cast.database.transaction(
            lambda s: review.approve(
                s, id, awarded_gpu_seconds=HOURS(9_000), reason_code=None, reason="", checked=(), policy=policy,
                by=cast.operator, now=NOW,
            ).id
        )  # fmt: skip

    def decline() -> Any:
        return cast.database.transaction(
            lambda s: (
                review.decline(
                    s, id, reason_code="incomplete", reason="缺训练计划", policy=policy, by=cast.actor("wu"), now=NOW
                ).id
            )
        )

    assert refused(at_once(approve, decline)) == ["review-not-waiting"]
    with whole(cast) as session:
        active = stored(cast, id).state is AllocationState.ACTIVE
        assert balance(session, id).awarded == (HOURS(9_000) if active else 0)


def test_requests_decided_at_once_get_no_more_than_the_programme_has(cast: Cast, policy: Policy) -> None:
    programme_id = opened(cast, hours=15_000)
    ids = [ask(cast, programme_id, 9_000), ask(cast, programme_id, 9_000, by=cast.stranger)]

    def approve(id: int) -> Any:
        return cast.database.transaction(
            lambda s: review.approve(
                s, id, awarded_gpu_seconds=HOURS(9_000), reason_code=None, reason="", checked=(), policy=policy,
                by=cast.operator, now=NOW,
            ).id
        )  # fmt: skip

    assert refused(at_once(*(lambda id=id: approve(id) for id in ids))) == ["pool-too-small"]  # type: ignore[misc]
    with whole(cast) as session:
        assert programme_left(session, [programme_id])[programme_id] == HOURS(6_000)


def test_a_report_accepted_twice_at_once_releases_the_rest_once(cast: Cast) -> None:
    id, report = staged(cast)
    text = "用 64 卡训练了两周，词错率下降百分之十二，下一步扩大语料。"
    cast.database.transaction(lambda s: reports.hand_in(s, report, text=text, by=cast.manager, now=NOW).id)

    def accept(by: Any) -> Any:
        return cast.database.transaction(lambda s: reports.accept(s, report, by=by, now=NOW).id)

    assert refused(at_once(lambda: accept(cast.operator), lambda: accept(cast.actor("wu")))) == ["no-such-move"]
    with whole(cast) as session:
        assert (balance(session, id).available, balance(session, id).withheld) == (HOURS(1_000), 0)


def test_half_term_at_once_takes_back_once(cast: Cast) -> None:
    id = ask(cast, opened(cast), 1_000)
    half = clock.start_of_day(stored(cast, id).half_term_on or LATER)

    def depreciate() -> Any:
        return cast.database.transaction(lambda s: terms.depreciate(s, id, now=half))

    assert sorted(at_once(depreciate, depreciate)) == [0, HOURS(400)]
    with whole(cast) as session:
        assert balance(session, id).available == HOURS(600)


def test_an_allocation_closed_twice_at_once_is_carried_over_once(cast: Cast) -> None:
    id = ask(cast, opened(cast), 1_000)
    after = clock.end_of_day(LATER)

    def close() -> Any:
        return cast.database.transaction(lambda s: service.close(s, id, by=cast.operator, now=after))

    assert refused(at_once(close, close)) == ["no-such-move"]
    with whole(cast) as session:
        carried = session.scalars(sa.select(Allocation).where(Allocation.carried_from_id == id)).all()
        assert [balance(session, one.id).available for one in carried] == [HOURS(200)]


@pytest.mark.parametrize("kind", [ChangeKind.REDUCTION, ChangeKind.TRANSFER])
def test_hours_are_given_away_or_booked_but_not_both(cast: Cast, policy: Policy, kind: ChangeKind) -> None:
    programme_id = opened(cast)
    id, other = ask(cast, programme_id, 1_000), ask(cast, programme_id, 500)
    to = other if kind is ChangeKind.TRANSFER else None

    def give() -> Any:
        wish = Wish(kind, "用不完", HOURS(800), to_allocation_id=to)
        return cast.database.transaction(lambda s: changes.request(s, id, wish, by=cast.manager, now=NOW).id)

    def book() -> Any:
        return cast.submit(cast.flexible(gpus=16, hours=50, allocation_id=id), policy.bookings)

    (why,) = refused(at_once(give, book))
    assert why in ("gives-back-too-much", "needs-more-hours")
    with whole(cast) as session:
        left = balance(session, id)
        assert left.available == HOURS(200) and left.held in (0, HOURS(800))


def test_two_bookings_at_once_stay_within_the_members_limit(cast: Cast, policy: Policy) -> None:
    chen = cast.users["chen"]
    cast.database.transaction(
        lambda s: budgets.set_budgets(
            s, cast.allocation, of={chen: HOURS(100)}, reserve=0, members=[chen], by=cast.manager, now=NOW
        )
    )

    def book() -> Any:
        return cast.submit(cast.flexible(gpus=6, hours=10), policy.bookings)

    assert refused(at_once(book, book)) == ["over-sub-budget"]
    with whole(cast) as session:
        assert bookings.spent_by(session, cast.allocation, [chen])[chen] == HOURS(60)
