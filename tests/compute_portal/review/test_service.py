"""Deciding step by step: who may, how many must, in what time, and what keeps somebody from it."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import policy_versions, units
from compute_portal.access import Actor, Role
from compute_portal.allocations import conflicts
from compute_portal.allocations import review as steps_of
from compute_portal.allocations import service as allocations
from compute_portal.allocations.models import Allocation, FairUsage
from compute_portal.allocations.review import Step
from compute_portal.allocations.review_models import Decision, RequestStep
from compute_portal.allocations.states import AllocationState
from compute_portal.enterprises.models import Membership
from compute_portal.ledger.queries import balance
from compute_portal.lifecycle import HistoryEntry, list_history, move_to
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.policy_versions import PolicyVersion
from compute_portal.review import queries, service
from compute_portal.review.models import Opinion
from compute_portal.sentences import Refusal
from compute_portal.signin.models import BureauRole
from compute_portal.workdays.queries import load_calendar
from tests.cast import NOW, Cast
from tests.compute_portal.review.house import allocation, approve, ask, at, decision, decline, set_flow


def steps(cast: Cast, id: int) -> list[RequestStep]:
    with cast.database.read_only() as session:
        return steps_of.list_steps(session, id)


def also_operator(cast: Cast, name: str) -> Actor:
    cast.database.transaction(lambda s: s.add(BureauRole(user_id=cast.users[name], role=Role.OPERATOR, given_at=NOW)))
    return Actor.of(cast.users[name], frozenset({Role.OPERATOR, Role.ADMIN}))


# -- steps as data


def test_a_step_is_added_without_code_and_requests_under_way_keep_their_flow(cast: Cast, policy: Policy) -> None:
    before = ask(cast)
    set_flow(
        cast,
        Step("材料核对", "Documents", working_days=2, checklist=(("执照有效", "Licence valid"),)),
        Step("决定", "Decision", role=Role.ADMIN, working_days=3),
    )
    after = ask(cast)
    assert [step.name for step in steps(cast, before)] == [None]
    assert [(step.name, step.role, step.working_days) for step in steps(cast, after)] == [
        ("材料核对", Role.OPERATOR, 2),
        ("决定", Role.ADMIN, 3),
    ]
    # Wednesday 18 November + 5 working days; the second step's time begins when the first one is done.
    assert allocation(cast, after).due_at == at(2026, 11, 25, 18, 0)
    assert steps(cast, after)[1].due_at is None
    approve(cast, before, policy)
    assert allocation(cast, before).state is AllocationState.ACTIVE
    approve(cast, after, policy, checked=[0])
    assert allocation(cast, after).state is AllocationState.IN_REVIEW
    first, second = steps(cast, after)
    assert first.done_at == NOW and second.opened_at == NOW and second.due_at == at(2026, 11, 23, 18, 0)
    with pytest.raises(Refusal) as refused:
        approve(cast, after, policy, by="wu")
    assert refused.value.sentence.id == "review-other-role"
    approve(cast, after, policy, by="an")
    assert allocation(cast, after).state is AllocationState.ACTIVE


def test_only_an_administrator_sets_steps_and_their_numbers_are_checked(cast: Cast) -> None:
    for by, changes, field in (
        ("zhou", {}, None),
        ("an", {"deciders": 0}, "deciders"),
        ("an", {"working_days": 251}, "working_days"),
        ("an", {"role": Role.FINANCE}, "role"),
    ):
        with pytest.raises(Refusal) as refused:
            cast.database.transaction(
                lambda s, by=by, changes=changes: (
                    steps_of.set_flow(  # type: ignore[misc]
                        s, cast.programme, "", [Step(**changes)], by=cast.actor(by), now=NOW
                    ).id
                )
            )
        assert refused.value.field == field


# -- one decides


def test_an_approval_awards_the_hours_and_keeps_the_rules_it_was_made_under(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    later = at(2026, 11, 20, 12, 0)
    approve(cast, id, policy, now=later)
    kept = decision(cast, id)
    assert allocation(cast, id).state is AllocationState.ACTIVE
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == units.gpu_seconds(9_000)
        version = session.get_one(PolicyVersion, kept.policy_version_id)
        assert version.sha256 == policy_versions.fingerprint(policy) and version.to_policy() == policy
    assert kept.programme_version_id == allocation(cast, id).decided_version_id is not None
    # Wednesday 10:00 to Friday 12:00: 8 + 9 + 3 hours of the 8 + 3 × 9 that were promised
    assert (kept.used_seconds, kept.promised_seconds, kept.promised_days) == (20 * 3600, 35 * 3600, 3)
    with pytest.raises(Refusal) as refused:
        approve(cast, id, policy, by="wu")
    assert refused.value.sentence.id == "review-not-waiting"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hours": 9_001}, "awarded_hours"),
        ({"hours": 5_000}, "reason_code"),
        ({"hours": 5_000, "reason_code": "size"}, "reason"),
        ({"hours": 5_000, "reason_code": "incomplete", "reason": "x"}, "reason_code"),  # that one only declines
        ({"hours": 5_000, "reason_code": "no-such", "reason": "x"}, "reason_code"),
    ],
)
def test_an_award_needs_its_reason_from_the_list_and_in_words(
    cast: Cast, policy: Policy, changes: dict[str, object], field: str
) -> None:
    id = ask(cast)
    with pytest.raises(Refusal) as refused:
        approve(cast, id, policy, **changes)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert allocation(cast, id).state is AllocationState.SUBMITTED
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Opinion)) == 0


def test_a_refusal_needs_its_reason_from_the_list_and_in_words(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    for changes, field in (
        ({"reason_code": None}, "reason_code"),
        ({"reason_code": "size"}, "reason_code"),  # that one only cuts
        ({"reason": " "}, "reason"),
    ):
        with pytest.raises(Refusal) as refused:
            decline(cast, id, policy, **changes)
        assert refused.value.field == field
    decline(cast, id, policy)
    assert allocation(cast, id).state is AllocationState.DECLINED
    kept = decision(cast, id)
    assert (kept.approved, kept.awarded_gpu_seconds, kept.reason_code, kept.reason) == (
        False, 0, "incomplete", "缺训练计划",
    )  # fmt: skip


def test_an_award_that_would_end_within_days_needs_a_second_yes(cast: Cast, policy: Policy) -> None:
    soon, later = ask(cast, days=6), ask(cast, days=7)
    approve(cast, later, policy)
    with pytest.raises(Refusal) as refused:
        approve(cast, soon, policy)
    assert refused.value.field == "ends_soon" and refused.value.sentence["n"] == 7
    approve(cast, soon, policy, ends_soon_confirmed=True)
    assert allocation(cast, soon).state is AllocationState.ACTIVE


def test_every_point_of_the_checklist_is_ticked_before_an_approval(cast: Cast, policy: Policy) -> None:
    set_flow(cast, Step(checklist=(("甲", "A"), ("乙", "B"))))
    id = ask(cast)
    with pytest.raises(Refusal) as refused:
        approve(cast, id, policy, checked=[1])
    assert refused.value.field == "checked" and refused.value.sentence["n"] == 1
    approve(cast, id, policy, checked=[0, 1])


# -- two decide


def test_two_people_decide_above_the_amount_never_the_same_twice_and_the_smaller_award_counts(
    cast: Cast, policy: Policy
) -> None:
    set_flow(cast, Step(two_above_gpu_seconds=units.gpu_seconds(9_000)))
    small, large = ask(cast, 9_000), ask(cast, 9_001)
    approve(cast, small, policy)
    assert allocation(cast, small).state is AllocationState.ACTIVE
    approve(cast, large, policy, hours=9_001)
    assert allocation(cast, large).state is AllocationState.IN_REVIEW
    with pytest.raises(Refusal) as refused:
        approve(cast, large, policy, hours=9_001)
    assert refused.value.sentence.id == "review-said-already"
    with pytest.raises(Refusal):
        decline(cast, large, policy)
    approve(cast, large, policy, by="wu", hours=8_000, reason_code="size", reason="按规模")
    decided = allocation(cast, large)
    assert decided.state is AllocationState.ACTIVE and decided.awarded_gpu_seconds == units.gpu_seconds(8_000)
    assert decision(cast, large).reason_code == "size"


def test_where_two_decide_one_refusal_refuses_nothing_and_a_third_person_settles_it(cast: Cast, policy: Policy) -> None:
    set_flow(cast, Step(deciders=2))
    id = ask(cast)
    third = also_operator(cast, "an")
    decline(cast, id, policy)
    approve(cast, id, policy, by="wu")
    assert allocation(cast, id).state is AllocationState.IN_REVIEW
    approve(cast, id, policy, by=third)
    assert allocation(cast, id).state is AllocationState.ACTIVE


def test_nobody_decides_two_steps_of_one_request(cast: Cast, policy: Policy) -> None:
    set_flow(cast, Step("一", "One"), Step("二", "Two"))
    id = ask(cast)
    approve(cast, id, policy)
    with pytest.raises(Refusal) as refused:
        approve(cast, id, policy)
    assert refused.value.sentence.id == "review-said-already"
    approve(cast, id, policy, by="wu")
    assert allocation(cast, id).state is AllocationState.ACTIVE


def test_who_asked_never_decides_whatever_the_role(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    cast.database.transaction(
        lambda s: s.execute(sa.update(Allocation).where(Allocation.id == id).values(requested_by=cast.users["zhou"]))
    )
    for verb in (approve, decline):
        with pytest.raises(Refusal) as refused:
            verb(cast, id, policy)
        assert refused.value.sentence.id == "not-your-own"


# -- the clock


def test_the_clock_stands_still_while_the_company_has_the_request(cast: Cast, policy: Policy) -> None:
    set_flow(cast, Step(deciders=2))
    id = ask(cast)  # Wednesday 18 November, 10:00; due Monday 18:00
    approve(cast, id, policy)
    returned, back = at(2026, 11, 19, 15, 0), at(2026, 11, 24, 10, 0)
    cast.database.transaction(
        lambda s: service.ask_changes(s, id, reason="请补计划", by=cast.actor("wu"), now=returned).id
    )
    assert allocation(cast, id).state is AllocationState.CHANGES_REQUESTED
    [step] = steps(cast, id)
    with cast.database.read_only() as session:
        calendar = load_calendar(session)
        clock = steps_of.clock_of(step, calendar, back)
        assert clock is not None and clock.used_seconds == (8 + 6) * 3600 and clock.stopped_at == returned
        assert service.list_late(session, back) == []

    def resubmit(session: Session) -> None:
        found = session.get_one(Allocation, id)
        move_to(session, found, AllocationState.SUBMITTED, verb="resubmit", at=back, by=cast.manager)
        steps_of.resume(session, found, now=back)

    cast.database.transaction(resubmit)
    [step] = steps(cast, id)
    # It stood still for 3 h on Thursday, two whole days and 1 h on Tuesday: 22 office hours later than Monday 18:00.
    assert step.due_at == at(2026, 11, 26, 13, 0) == allocation(cast, id).due_at
    # The request changed, so the first opinion counts no longer and the same person may give a new one.
    approve(cast, id, policy, by="wu", now=back)
    assert allocation(cast, id).state is AllocationState.IN_REVIEW
    approve(cast, id, policy, now=back)
    assert allocation(cast, id).state is AllocationState.ACTIVE
    kept = decision(cast, id)
    assert kept.used_seconds == (8 + 6) * 3600 and kept.promised_seconds == 35 * 3600


def test_a_late_step_is_escalated_once_then_delegated_once_and_never_refused(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    [step] = steps(cast, id)
    due = step.due_at
    assert due is not None
    # 35 office hours were promised; half of them again is 17.5 hours after Monday 18:00.
    far = at(2026, 11, 25, 17, 30)

    def late(now: dt.datetime) -> tuple[list[int], list[int]]:
        with cast.database.read_only() as session:
            return service.list_late(session, now), service.list_very_late(session, now, 150)

    assert late(due - dt.timedelta(seconds=1)) == ([], [])
    assert late(due) == ([step.id], [])
    for _ in range(2):  # a second scheduler, or the same after a restart
        cast.database.transaction(lambda s: service.escalate(s, step.id, now=due))
    assert late(far - dt.timedelta(seconds=1)) == ([], [])
    assert late(far) == ([], [step.id])
    chosen = [cast.database.transaction(lambda s: service.delegate(s, step.id, now=far)) for _ in range(2)]
    assert chosen[0] in (cast.users["zhou"], cast.users["wu"]) and chosen[1] is None
    assert late(far + dt.timedelta(days=30)) == ([], [])
    assert allocation(cast, id).state is AllocationState.SUBMITTED
    with cast.database.read_only() as session:
        told = session.execute(sa.select(Notice.user_id, Notice.key).where(Notice.link == f"/reviews/{id}")).all()
        assert sorted(user for user, key in told if "late" in key) == sorted(
            cast.users[n] for n in ("zhou", "wu", "an")
        )
        assert [user for user, key in told if "delegated" in key] == [chosen[0]]
        verbs = [row.verb for row in list_history(session, Allocation.LIFE, id)]
        assert verbs.count("escalate") == verbs.count("delegate") == 1
    approve(cast, id, policy, now=far)
    assert not decision(cast, id).used_seconds <= decision(cast, id).promised_seconds


def test_where_no_reviewer_is_free_the_administrator_gets_the_late_step(cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    for name in ("zhou", "wu"):
        cast.database.transaction(
            lambda s, name=name: conflicts.declare(s, id, reason="前同事", by=cast.actor(name), now=NOW).id  # type: ignore[misc]
        )
    [step] = steps(cast, id)
    late = at(2026, 12, 1, 9, 0)
    cast.database.transaction(lambda s: service.escalate(s, step.id, now=late))
    assert cast.database.transaction(lambda s: service.delegate(s, step.id, now=late)) == cast.users["an"]
    approve(cast, id, policy, by="an", now=late)
    assert allocation(cast, id).state is AllocationState.ACTIVE


def test_what_is_withdrawn_is_never_late(cast: Cast) -> None:
    id = ask(cast)
    cast.database.transaction(lambda s: allocations.withdraw(s, id, by=cast.manager, now=NOW).id)
    with cast.database.read_only() as session:
        assert service.list_late(session, NOW + dt.timedelta(days=90)) == []


# -- conflicts of interest


def test_a_declared_tie_closes_all_requests_of_the_company_until_it_is_waived_with_a_plan(
    cast: Cast, policy: Policy
) -> None:
    id, another = ask(cast), ask(cast)
    zhou, admin = cast.actor("zhou"), cast.actor("an")
    cast.database.transaction(lambda s: conflicts.declare(s, id, reason="配偶持股", by=zhou, now=NOW).id)
    for request in (id, another):
        with pytest.raises(Refusal) as refused, cast.database.read_only() as session:
            queries.get_request(session, request, zhou)
        assert refused.value.sentence.id == "conflict-declared"
        with pytest.raises(Refusal):
            approve(cast, request, policy)
    for by, user, plan, field in (
        (admin, "zhou", " ", "plan"),
        (admin, "wu", "双人复核", "user_id"),
        (cast.actor("wu"), "zhou", "双人复核", None),
    ):
        with pytest.raises(Refusal) as refused:
            cast.database.transaction(
                lambda s, by=by, user=user, plan=plan: (
                    conflicts.waive(  # type: ignore[misc]
                        s, id, cast.users[user], plan=plan, by=by, now=NOW
                    ).id
                )
            )
        assert refused.value.field == field
    cast.database.transaction(
        lambda s: conflicts.waive(s, id, cast.users["zhou"], plan="双人复核", by=admin, now=NOW).id
    )
    approve(cast, id, policy)
    assert allocation(cast, id).state is AllocationState.ACTIVE
    with pytest.raises(Refusal):
        approve(cast, another, policy)
    with cast.database.read_only() as session:
        notes = session.scalars(sa.select(HistoryEntry).where(HistoryEntry.subject_id == id)).all()
        assert not any("配偶" in str(row.why) + str(row.note) for row in notes), "the company reads the history"


def test_nobody_waives_the_own_tie(cast: Cast) -> None:
    id, admin = ask(cast), cast.actor("an")
    cast.database.transaction(lambda s: conflicts.declare(s, id, reason="顾问", by=admin, now=NOW).id)
    with pytest.raises(Refusal) as refused:
        cast.database.transaction(lambda s: conflicts.waive(s, id, admin.user_id or 0, plan="x", by=admin, now=NOW).id)
    assert refused.value.sentence.id == "conflict-waive-own"


def test_who_belongs_or_belonged_to_the_company_cannot_open_its_request(cast: Cast, policy: Policy) -> None:
    own, others = ask(cast), ask(cast, by=cast.stranger)
    cast.database.transaction(
        lambda s: s.add(
            Membership(user_id=cast.users["zhou"], enterprise_id=cast.yusheng, role=Role.MEMBER, since_at=NOW)
        )
    )
    with pytest.raises(Refusal) as refused, cast.database.read_only() as session:
        queries.get_request(session, own, cast.operator)
    assert refused.value.sentence.id == "conflict-member"
    with pytest.raises(Refusal):
        approve(cast, own, policy)

    def leave(session: Session) -> None:
        session.execute(sa.delete(Membership).where(Membership.user_id == cast.users["zhou"]))
        entry = {"id": "member-left", "member": cast.users["zhou"]}
        session.add(
            HistoryEntry(
                kind="enterprise", subject_id=cast.yusheng, verb="remove", before="verified", after="verified",
                at=NOW, by_id=cast.users["lin"], why=entry,
            )
        )  # fmt: skip

    cast.database.transaction(leave)
    with pytest.raises(Refusal), cast.database.read_only() as session:
        queries.get_request(session, own, cast.operator)
    with cast.database.read_only() as session:
        assert queries.get_request(session, others, cast.operator).allocation.id == others
        assert queries.get_request(session, own, cast.actor("wu")).enterprise.id == cast.yusheng


# -- rules have versions


def test_a_policy_gets_a_row_when_it_changes_and_decisions_keep_theirs(cast: Cast, policy: Policy) -> None:
    changed = policy.model_copy(update={"review": policy.review.model_copy(update={"delegate_percent": 200})})
    first, second, third = ask(cast), ask(cast), ask(cast)
    approve(cast, first, policy)
    approve(cast, second, changed)
    approve(cast, third, policy)
    ids = [decision(cast, id).policy_version_id for id in (first, second, third)]
    assert len(set(ids)) == 3, "an older content that comes back is a new version"
    with cast.database.read_only() as session:
        versions = [session.get_one(PolicyVersion, id) for id in ids]
    assert [version.to_policy().review.delegate_percent for version in versions] == [150, 200, 150]
    assert versions[0].sha256 == versions[2].sha256 != versions[1].sha256
    with pytest.raises(sa.exc.DBAPIError):
        cast.database.transaction(lambda s: s.execute(sa.update(PolicyVersion).values(sha256="0" * 64)))


# -- before the click, and published


def test_the_place_in_the_fair_tree_is_by_usage_of_late_against_the_share(cast: Cast) -> None:
    id = ask(cast, by=cast.stranger)

    def use(session: Session) -> None:
        for allocation_id, used in ((cast.allocation, 3_000.0), (cast.other_allocation, 2_000.0)):
            session.add(FairUsage(allocation_id=allocation_id, usage=used, as_of=NOW - dt.timedelta(days=7)))

    cast.database.transaction(use)
    with cast.database.read_only() as session:
        luyu = queries.place_of(session, session.get_one(Allocation, id), half_life_days=7, now=NOW)
        yusheng = queries.place_of(session, session.get_one(Allocation, cast.allocation), half_life_days=7, now=NOW)
    assert (luyu.place, luyu.of, round(luyu.used_percent), luyu.entitled_percent) == (1, 2, 40, 50.0)
    assert (yusheng.place, round(yusheng.used_percent)) == (2, 60)
    assert luyu.open_gpu_seconds == units.gpu_seconds(25_000)


def test_published_times_are_the_median_and_hits_of_what_was_decided(cast: Cast, policy: Policy) -> None:
    for hours_later in (0, 9, 18, 27, 36):
        days, hour = divmod(hours_later, 9)
        id = ask(cast, 100)
        approve(cast, id, policy, hours=100, now=at(2026, 11, (18, 19, 20, 23, 24)[days], 10 + hour, 0))
    with cast.database.read_only() as session:
        [times] = queries.decision_times(session, since=NOW)
        rows = session.scalars(sa.select(Decision).where(Decision.decided_at >= NOW)).all()
    used = sorted(row.used_seconds for row in rows if row.asked_gpu_seconds == units.gpu_seconds(100))
    assert used == [0, 9 * 3600, 18 * 3600, 27 * 3600, 36 * 3600]
    # The two allocations of the cast were decided at once.
    assert (times.decided, times.promised_days, times.in_time_percent) == (7, 3, 100 * 6 // 7)
    assert times.median_days == pytest.approx(9 * 3600 * 3 / (35 * 3600))
