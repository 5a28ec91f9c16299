"""Requests for hours: asked, awarded and used are kept apart; one decision each, by somebody else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import service
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.service import AllocationRequest
from compute_portal.allocations.states import AllocationState
from compute_portal.enterprises.models import Enterprise
from compute_portal.enterprises.states import EnterpriseState
from compute_portal.ledger.queries import balance, programme_left
from compute_portal.lifecycle import list_history, move_to
from compute_portal.policy import Policy
from compute_portal.programmes import service as programmes
from compute_portal.sentences import NotFound, Refusal
from tests.cast import NOW, Cast
from tests.together import at_once

HOURS = 8_000


def asked(cast: Cast, **changes: object) -> AllocationRequest:
    values: dict[str, object] = {
        "programme_id": cast.programme,
        "pool_id": cast.pool,
        "gpu_seconds": units.gpu_seconds(HOURS),
        "starts_on": clock.day_of(NOW),
        "ends_on": clock.day_of(NOW) + dt.timedelta(days=30),
        "purpose": "训练一个方言语音识别基座模型。",
    }
    return AllocationRequest(**(values | changes))  # type: ignore[arg-type]


def ask(cast: Cast, *, by: Actor | None = None, **changes: object) -> int:
    return cast.database.transaction(
        lambda s: service.request(s, asked(cast, **changes), by=by or cast.manager, now=NOW).id
    )


def approve(cast: Cast, id: int, hours: int = HOURS, reason: str = "", by: Actor | None = None) -> None:
    cast.database.transaction(
        lambda s: (
            service.approve(
                s, id, awarded_gpu_seconds=units.gpu_seconds(hours), reason=reason, by=by or cast.operator, now=NOW
            ).id
        )
    )


def state(cast: Cast, id: int) -> AllocationState:
    with cast.database.read_only() as session:
        return session.get_one(Allocation, id).state


def refusal(work: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        work()
    return refused.value


def test_a_manager_asks_and_an_operator_awards_the_whole(cast: Cast) -> None:
    id = ask(cast)
    assert state(cast, id) is AllocationState.SUBMITTED
    approve(cast, id)
    with cast.database.read_only() as session:
        allocation = session.get_one(Allocation, id)
        assert allocation.state is AllocationState.ACTIVE
        assert allocation.requested_gpu_seconds == allocation.awarded_gpu_seconds == units.gpu_seconds(HOURS)
        assert (allocation.requested_by, allocation.decided_by) == (cast.users["lin"], cast.users["zhou"])
        assert balance(session, id).available == units.gpu_seconds(HOURS)
        assert programme_left(session, [cast.programme])[cast.programme] == units.gpu_seconds(1_175_000 - HOURS)
        assert [row.verb for row in list_history(session, Allocation.LIFE, id)] == ["approve", "request"]


def test_a_part_is_awarded_with_a_reason_that_the_enterprise_reads(cast: Cast) -> None:
    id = ask(cast)
    refused = refusal(lambda: approve(cast, id, hours=5_000, reason="  "))
    assert (refused.sentence.id, refused.field) == ("award-less-needs-reason", "reason")
    approve(cast, id, hours=5_000, reason="按模型规模估算。")
    with cast.database.read_only() as session:
        allocation = session.get_one(Allocation, id)
        assert allocation.awarded_gpu_seconds == units.gpu_seconds(5_000)
        assert allocation.requested_gpu_seconds == units.gpu_seconds(HOURS)
        assert allocation.decision_reason == "按模型规模估算。"
        assert balance(session, id).awarded == units.gpu_seconds(5_000)


@pytest.mark.parametrize("hours", [0, -1, HOURS + 1])
def test_nothing_or_more_than_asked_cannot_be_awarded(cast: Cast, hours: int) -> None:
    id = ask(cast)
    refused = refusal(lambda: approve(cast, id, hours=hours, reason="so"))
    assert (refused.sentence.id, refused.field) == ("award-more-than-asked", "awarded_hours")
    assert state(cast, id) is AllocationState.SUBMITTED


def test_declining_needs_a_reason(cast: Cast) -> None:
    id = ask(cast)

    def decline(reason: str) -> None:
        cast.database.transaction(lambda s: service.decline(s, id, reason=reason, by=cast.operator, now=NOW).id)

    assert refusal(lambda: decline(" ")).field == "reason"
    decline("材料不全。")
    assert state(cast, id) is AllocationState.DECLINED
    assert refusal(lambda: approve(cast, id)).sentence.id == "no-such-move"
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == 0


def test_a_request_is_withdrawn_by_its_enterprise_only_and_only_until_it_is_decided(cast: Cast) -> None:
    id = ask(cast)

    def withdraw(by: Actor) -> None:
        cast.database.transaction(lambda s: service.withdraw(s, id, by=by, now=NOW).id)

    with pytest.raises(NotFound):
        withdraw(cast.stranger)
    assert refusal(lambda: withdraw(cast.member)).sentence.id == "not-allowed"
    withdraw(cast.manager)
    assert state(cast, id) is AllocationState.WITHDRAWN
    assert refusal(lambda: approve(cast, id)).sentence.id == "no-such-move"
    assert refusal(lambda: withdraw(cast.manager)).sentence.id == "no-such-move"


def test_nobody_decides_on_the_own_request(cast: Cast) -> None:
    id = ask(cast)
    same_person = Actor.of(cast.users["lin"], frozenset({Role.OPERATOR}))
    assert refusal(lambda: approve(cast, id, by=same_person)).sentence.id == "not-your-own"
    assert (
        refusal(
            lambda: cast.database.transaction(lambda s: service.decline(s, id, reason="x", by=same_person, now=NOW))
        ).sentence.id
        == "not-your-own"
    )


@pytest.mark.parametrize("who", ["finance", "auditor", "manager", "member"])
def test_only_an_operator_decides(cast: Cast, who: str) -> None:
    id = ask(cast)
    assert refusal(lambda: approve(cast, id, by=getattr(cast, who))).sentence.id == "not-allowed"


def test_more_than_the_programme_has_left_is_refused_with_the_number_and_changes_nothing(cast: Cast) -> None:
    def small(session: Session) -> int:
        programme = programmes.open_programme(
            session,
            name="试点计划",
            name_en="Pilot",
            starts_on=dt.date(2026, 1, 1),
            ends_on=dt.date(2027, 12, 31),
            pool_ids=[cast.pool],
            most_gpu_seconds=units.gpu_seconds(150_000),
            booking_approval_gpu_seconds=units.gpu_seconds(2_000),
        )
        programmes.fund(session, programme.id, units.gpu_seconds(9_000), reference="first", by=cast.finance, now=NOW)
        return programme.id

    programme_id = cast.database.transaction(small)
    first, second = ask(cast, programme_id=programme_id), ask(cast, programme_id=programme_id)
    approve(cast, first)
    refused = refusal(lambda: approve(cast, second))
    assert (refused.sentence.id, refused.field) == ("pool-too-small", "awarded_hours")
    assert refused.sentence["left"] == units.gpu_seconds(1_000)
    assert state(cast, second) is AllocationState.SUBMITTED
    with cast.database.read_only() as session:
        assert session.get_one(Allocation, second).awarded_gpu_seconds is None


def test_under_a_programme_without_any_hours_nothing_can_be_awarded(cast: Cast) -> None:
    programme_id = cast.database.transaction(
        lambda s: (
            programmes.open_programme(
                s, name="新计划", name_en=None, starts_on=dt.date(2026, 1, 1), ends_on=dt.date(2027, 12, 31),
                pool_ids=[cast.pool], most_gpu_seconds=units.gpu_seconds(150_000), booking_approval_gpu_seconds=0,
            ).id
        )
    )  # fmt: skip
    id = ask(cast, programme_id=programme_id)
    assert refusal(lambda: approve(cast, id)).sentence.id == "pool-too-small"


@pytest.mark.parametrize(
    ("changes", "sentence", "field"),
    [
        ({"programme_id": 999}, "programme-has-no-such-pool", "programme_id"),
        ({"pool_id": 999}, "programme-has-no-such-pool", "programme_id"),
        ({"gpu_seconds": units.gpu_seconds(150_000) + 1}, "programme-gives-at-most", "hours"),
        ({"starts_on": dt.date(2026, 11, 17)}, "starts-too-early", "starts_on"),
        ({"ends_on": dt.date(2026, 11, 17)}, "end-day-before-start", "ends_on"),
        ({"ends_on": dt.date(2028, 1, 1)}, "programme-ends", "ends_on"),
    ],
)
def test_a_request_outside_the_programme_is_refused_at_its_field(
    cast: Cast, changes: dict[str, object], sentence: str, field: str
) -> None:
    refused = refusal(lambda: ask(cast, **changes))
    assert (refused.sentence.id, refused.field) == (sentence, field)
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Allocation)) == 2


def test_an_enterprise_that_is_suspended_asks_for_nothing(cast: Cast) -> None:
    cast.database.transaction(
        lambda s: move_to(
            s, s.get_one(Enterprise, cast.yusheng), EnterpriseState.SUSPENDED, verb="suspend", at=NOW, by=cast.operator
        )
    )
    assert refusal(lambda: ask(cast)).sentence.id == "enterprise-not-verified"


def test_a_period_that_is_over_cannot_be_awarded_any_more(cast: Cast) -> None:
    id = ask(cast)
    late = NOW + dt.timedelta(days=40)
    refused = refusal(
        lambda: cast.database.transaction(
            lambda s: service.approve(
                s, id, awarded_gpu_seconds=units.gpu_seconds(HOURS), reason="", by=cast.operator, now=late
            )
        )
    )
    assert refused.sentence.id == "period-is-over"


def test_what_is_left_expires_at_the_end_and_what_is_held_stays_until_it_is_settled(cast: Cast, policy: Policy) -> None:
    booking_id = cast.submit(cast.flexible(gpus=1, hours=1), policy.bookings)

    def close(now: dt.datetime) -> None:
        cast.database.transaction(lambda s: service.close(s, cast.allocation, by=SYSTEM, now=now))

    assert refusal(lambda: close(NOW)).sentence.id == "not-ended-yet"
    close(NOW + dt.timedelta(days=62))
    from compute_portal.bookings import service as bookings

    with cast.database.read_only() as session:
        assert balance(session, cast.allocation).expired == units.gpu_seconds(19_999)
        assert balance(session, cast.allocation).held == units.gpu_seconds(1)
    cast.database.transaction(lambda s: bookings.cancel(s, booking_id, by=cast.member, now=NOW).id)
    with cast.database.read_only() as session:
        found = balance(session, cast.allocation)
        assert (found.available, found.held, found.expired) == (0, 0, units.gpu_seconds(20_000))


# -- at the same time -------------------------------------------------------------------------------------------------


def test_of_many_approvals_at_once_exactly_one_happens_and_the_others_are_told(cast: Cast) -> None:
    id = ask(cast)
    results = at_once(*([lambda: approve(cast, id)] * 8))
    assert results.count(None) == 1, results
    told = {result.sentence.id for result in results if isinstance(result, Refusal)}
    assert sum(isinstance(result, Refusal) for result in results) == 7 and told <= {"no-such-move", "moved-meanwhile"}
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == units.gpu_seconds(HOURS)
        assert [row.verb for row in list_history(session, Allocation.LIFE, id)] == ["approve", "request"]


def test_approval_and_withdrawal_at_once_leave_one_of_both(cast: Cast) -> None:
    for _ in range(6):
        id = ask(cast)
        approved, withdrawn = at_once(
            lambda id=id: approve(cast, id),
            lambda id=id: cast.database.transaction(
                lambda s: service.withdraw(s, id, by=cast.manager, now=NOW).state.value
            ),
        )
        if approved is None:
            assert isinstance(withdrawn, Refusal) and state(cast, id) is AllocationState.ACTIVE
        else:
            assert isinstance(approved, Refusal) and state(cast, id) is AllocationState.WITHDRAWN
        with cast.database.read_only() as session:
            assert balance(session, id).awarded == (units.gpu_seconds(HOURS) if approved is None else 0)
            assert len(list_history(session, Allocation.LIFE, id)) == 2


def test_two_requests_for_the_last_hours_at_once_do_not_both_get_them(cast: Cast) -> None:
    most = {"gpu_seconds": units.gpu_seconds(150_000)}
    ids = [ask(cast, **most) for _ in range(10)]  # 1,175,000 are left: seven of them
    results = at_once(*(lambda id=id: approve(cast, id, hours=150_000) for id in ids))
    assert results.count(None) == 7, results
    assert {r.sentence.id for r in results if r is not None} == {"pool-too-small"}
    with cast.database.read_only() as session:
        assert programme_left(session, [cast.programme])[cast.programme] == units.gpu_seconds(125_000)
