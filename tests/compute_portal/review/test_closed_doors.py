"""Whoever is bound to a firm finds every door to its requests closed, not only that of the review; and where two must
decide there is no way around the second one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import units, verify
from compute_portal.access import Actor
from compute_portal.allocations import changes, conflicts, reports, requests
from compute_portal.allocations import review as steps_of
from compute_portal.allocations import service as allocations
from compute_portal.allocations.changes import Wish
from compute_portal.allocations.models import Report
from compute_portal.allocations.review import Step
from compute_portal.allocations.states import AllocationState, ChangeKind, ReportKind
from compute_portal.bookings import service as bookings
from compute_portal.ledger.queries import balance
from compute_portal.policy import Policy
from compute_portal.programmes.rules import Rules, usual_rules, usual_tracks
from compute_portal.review import appeals, letters, service
from compute_portal.sentences import Refusal
from tests.cast import NOW, Cast
from tests.compute_portal.allocations.test_requests import LATER, PDF, answers, draft, hand_in, opened, refusal, stored
from tests.compute_portal.review.house import approve, ask, decision, decline
from tests.web import make_app, post, set_now, sign_in

HOURS = units.gpu_seconds
TEXT = "用 64 卡训练了两周，词错率下降百分之十二，下一步扩大语料。"


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def for_two(released_percent: int = 50) -> Rules:
    """M for one, L for two and staged, neither with fields or documents of its own."""
    medium, large = (dataclasses.replace(track, fields={}, attachments=()) for track in usual_tracks()[1:])
    large = dataclasses.replace(large, released_percent=released_percent, needs_earlier_use=False)
    return dataclasses.replace(usual_rules(), tracks=(medium, large))


def ask_large(cast: Cast, hours: int = 30_000) -> int:
    id = draft(cast, opened(cast, rules=for_two()), hours)
    hand_in(cast, id, answers(hours))
    return id


def bind(cast: Cast, allocation_id: int, name: str = "zhou") -> Actor:
    by = cast.actor(name)
    cast.database.transaction(lambda s: conflicts.declare(s, allocation_id, reason="配偶持股", by=by, now=NOW).id)
    return by


def change(cast: Cast, allocation_id: int, hours: int) -> int:
    wish = Wish(ChangeKind.SUPPLEMENT, "更多语料", HOURS(hours))
    return cast.database.transaction(lambda s: changes.request(s, allocation_id, wish, by=cast.manager, now=NOW).id)


def progress_of(cast: Cast, allocation_id: int) -> int:
    with cast.database.read_only() as session:
        return session.scalars(
            sa.select(Report.id).where(Report.allocation_id == allocation_id, Report.kind == ReportKind.PROGRESS)
        ).one()


# -- bound to the firm


def test_a_tie_closes_changes_reports_and_bookings_too(cast: Cast, policy: Policy) -> None:
    id = ask_large(cast)
    second = Actor.of(cast.users["an"], cast.operator.roles)
    for by in (cast.actor("wu"), second):
        approve(cast, id, policy, by=by, hours=30_000)
    assert stored(cast, id).state is AllocationState.ACTIVE
    wanted, report = change(cast, id, 1_000), progress_of(cast, id)
    cast.database.transaction(lambda s: reports.hand_in(s, report, text=TEXT, by=cast.manager, now=NOW).id)
    booking = cast.submit(
        cast.flexible(gpus=8, hours=300, allocation_id=id), policy.bookings, now=NOW
    )  # 2,400 GPU-hours need an operator
    zhou = bind(cast, id)
    doors: dict[str, Callable[[], object]] = {
        "approve a change": lambda: cast.database.transaction(
            lambda s: changes.approve(s, wanted, reason="", by=zhou, now=NOW)
        ),
        "decline a change": lambda: cast.database.transaction(
            lambda s: changes.decline(s, wanted, reason="x", by=zhou, now=NOW)
        ),
        "accept a report": lambda: cast.database.transaction(lambda s: reports.accept(s, report, by=zhou, now=NOW)),
        "return a report": lambda: cast.database.transaction(
            lambda s: reports.send_back(s, report, reason="x", by=zhou, now=NOW)
        ),
        "approve a booking": lambda: cast.database.transaction(
            lambda s: bookings.approve(s, booking, by=zhou, now=NOW)
        ),
        "decline a booking": lambda: cast.database.transaction(
            lambda s: bookings.decline(s, booking, reason="x", by=zhou, now=NOW)
        ),
    }
    for door, work in doors.items():
        assert refusal(work).sentence.id == "conflict-declared", door
    with cast.database.read_only() as session:
        assert balance(session, id).withheld == HOURS(15_000)
        assert verify.run(session) == []


def test_a_request_without_steps_is_closed_to_whoever_is_bound(cast: Cast) -> None:
    id = cast.database.transaction(lambda s: allocations.request(s, _plain(cast), by=cast.manager, now=NOW).id)
    zhou = bind(cast, id)
    for work in (
        lambda: cast.database.transaction(
            lambda s: allocations.approve(s, id, awarded_gpu_seconds=HOURS(100), reason="", by=zhou, now=NOW)
        ),
        lambda: cast.database.transaction(lambda s: allocations.decline(s, id, reason="x", by=zhou, now=NOW)),
    ):
        assert refusal(work).sentence.id == "conflict-declared"


def _plain(cast: Cast) -> allocations.AllocationRequest:
    today = dt.date(2026, 11, 18)
    return allocations.AllocationRequest(
        cast.programme, cast.pool, HOURS(100), today, today + dt.timedelta(days=30), "方言语音识别"
    )


def test_a_tie_closes_every_page_letter_and_document_of_the_request(app: Flask, cast: Cast, policy: Policy) -> None:
    id = ask_large(cast)
    programme = stored(cast, id).programme_id
    with_file = draft(cast, programme, 9_000)
    file = cast.database.transaction(
        lambda s: (
            requests.attach(
                s, with_file, name="plan.pdf", content=PDF, kind="plan", policy=policy.files, by=cast.manager, now=NOW
            ).id
        )
    )
    hand_in(cast, with_file, answers(9_000))
    decline(cast, with_file, policy, by="wu")
    kept = decision(cast, with_file).id
    letter = cast.database.transaction(lambda s: letters.keep(s, kept, {"number": "T-1"}, b"%PDF-1.7", now=NOW).id)
    second = Actor.of(cast.users["an"], cast.operator.roles)
    for by in (cast.actor("wu"), second):
        approve(cast, id, policy, by=by, hours=30_000)
    wanted, report = change(cast, id, 1_000), progress_of(cast, id)
    pages = [
        f"/allocations/{id}", f"/allocations/{id}/asked", f"/allocations/{id}/budgets", f"/changes/{wanted}",
        f"/reports/{report}", f"/reviews/{id}", f"/letters/{letter}", f"/files/{file}",
    ]  # fmt: skip
    zhou, wu = sign_in(app, cast.users["zhou"]), sign_in(app, cast.users["wu"])
    assert [zhou.get(page).status_code for page in pages] == [200] * len(pages)
    bind(cast, id)
    assert [zhou.get(page).status_code for page in pages] == [409] * len(pages)
    assert [wu.get(page).status_code for page in pages] == [200] * len(pages), "others still open them"
    lin = sign_in(app, cast.users["lin"])
    assert [lin.get(page).status_code for page in pages if "/reviews/" not in page] == [200] * (len(pages) - 1)


def test_a_tie_also_closes_seeing_the_portal_as_a_member(app: Flask, cast: Cast) -> None:
    bind(cast, cast.allocation)
    zhou = sign_in(app, cast.users["zhou"])
    page = f"/enterprises/{cast.yusheng}/view-as"
    answer = post(zhou, page, {"user_id": str(cast.users["lin"]), "why": "电话求助"})
    assert answer.status_code == 422
    assert zhou.get("/queue").status_code == 200, "still at the own desk"


def test_a_draft_is_nobody_elses_business(app: Flask, cast: Cast, policy: Policy) -> None:
    id = draft(cast, opened(cast), 9_000)
    file = cast.database.transaction(
        lambda s: (
            requests.attach(
                s, id, name="plan.pdf", content=PDF, kind="plan", policy=policy.files, by=cast.manager, now=NOW
            ).id
        )
    )
    zhou = sign_in(app, cast.users["zhou"])
    assert f"/allocations/{id}" not in zhou.get("/allocations/mine").text
    assert zhou.get(f"/files/{file}").status_code == 404
    lin = sign_in(app, cast.users["lin"])
    assert f"/allocations/{id}" in lin.get("/allocations/mine").text
    assert lin.get(f"/files/{file}").status_code == 200


def test_who_is_bound_waives_nobody_elses_tie(cast: Cast) -> None:
    id = ask(cast)
    bind(cast, id, "zhou")
    admin = bind(cast, id, "an")
    refused = refusal(
        lambda: cast.database.transaction(
            lambda s: conflicts.waive(s, id, cast.users["zhou"], plan="双人复核", by=admin, now=NOW)
        )
    )
    assert refused.sentence.id == "conflict-declared"


# -- there is one door


def test_a_request_is_decided_in_its_review_alone(app: Flask, cast: Cast) -> None:
    """Also one that was asked before there were steps: there a refusal needs its code."""
    id = cast.database.transaction(lambda s: allocations.request(s, _plain(cast), by=cast.manager, now=NOW).id)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    for verb in ("approve", "decline"):
        assert post(zhou, f"/allocations/{id}/{verb}", {"awarded_hours": "100", "reason": "x"}).status_code == 404
    shown = zhou.get(f"/allocations/{id}")
    assert f'href="/reviews/{id}"' in shown.text
    page = f"/reviews/{id}"
    assert f'action="{page}/approve"' in zhou.get(page).text
    assert post(zhou, f"{page}/decline", {"reason": "与上次重复"}, page=page).status_code == 422
    assert stored(cast, id).state is AllocationState.SUBMITTED
    post(zhou, f"{page}/approve", {"awarded_hours": "100"}, page=page)
    assert stored(cast, id).state is AllocationState.ACTIVE


# -- two decide


def test_a_flow_does_not_take_the_second_decider_away_that_the_rules_want(cast: Cast, policy: Policy) -> None:
    programme_id = opened(cast, rules=for_two())
    cast.database.transaction(
        lambda s: steps_of.set_flow(s, programme_id, "L", [Step()], by=cast.actor("an"), now=NOW).id
    )
    id = draft(cast, programme_id, 30_000)
    hand_in(cast, id, answers(30_000))
    approve(cast, id, policy, hours=30_000)
    assert stored(cast, id).state is AllocationState.IN_REVIEW
    approve(cast, id, policy, by="wu", hours=30_000)
    assert stored(cast, id).state is AllocationState.ACTIVE


def test_a_request_that_grows_into_the_larger_track_when_changed_needs_its_two(cast: Cast, policy: Policy) -> None:
    id = draft(cast, opened(cast, rules=for_two()), 9_000)
    hand_in(cast, id, answers(9_000))
    assert stored(cast, id).track == "M"
    cast.database.transaction(lambda s: service.ask_changes(s, id, reason="缺计划", by=cast.operator, now=NOW).id)
    hand_in(cast, id, answers(9_000, last=LATER + dt.timedelta(days=30)))
    assert stored(cast, id).track == "L"
    approve(cast, id, policy)
    assert stored(cast, id).state is AllocationState.IN_REVIEW, "one has said yes, two must"
    approve(cast, id, policy, by="wu")
    assert stored(cast, id).state is AllocationState.ACTIVE


def test_a_supplement_does_not_get_past_the_amount_above_which_two_decide(cast: Cast, policy: Policy) -> None:
    programme_id = opened(cast, rules=for_two())
    step = Step(two_above_gpu_seconds=HOURS(10_000))
    cast.database.transaction(
        lambda s: steps_of.set_flow(s, programme_id, "M", [step], by=cast.actor("an"), now=NOW).id
    )
    id = draft(cast, programme_id, 9_000)
    hand_in(cast, id, answers(9_000))
    approve(cast, id, policy)
    wanted = change(cast, id, 9_000)
    for by in ("zhou", "wu"):
        with cast.database.read_only() as session:
            assert balance(session, id).awarded == HOURS(9_000)
        cast.database.transaction(
            lambda s, by=by: changes.approve(s, wanted, reason="", by=cast.actor(by), now=NOW).id  # type: ignore[misc]
        )
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == HOURS(18_000)


def appealed(cast: Cast, policy: Policy, awarded: int) -> tuple[int, int]:
    """A request of the large track with fewer hours than asked for, or none; and the appeal."""
    id = ask_large(cast)
    for by in ("zhou", "wu"):
        if awarded:
            approve(cast, id, policy, by=by, hours=awarded, reason_code="size", reason="按规模")
        else:
            decline(cast, id, policy, by=by)
    filed = cast.database.transaction(
        lambda s: appeals.file(s, id, text="漏看了附件", policy=policy.review, by=cast.manager, now=NOW).id
    )
    return id, filed


def uphold(cast: Cast, appeal: int, policy: Policy, user: str, hours: int) -> None:
    by = Actor.of(cast.users[user], cast.actor("an").roles)
    cast.database.transaction(
        lambda s: (
            appeals.uphold(
                s, appeal, awarded_gpu_seconds=HOURS(hours), reason="补充成立", policy=policy, by=by, now=NOW
            ).id
        )
    )


@pytest.mark.parametrize("awarded", [0, 10_000])
def test_an_appeal_of_the_large_track_is_upheld_by_two_and_the_smaller_award_counts(
    cast: Cast, policy: Policy, awarded: int
) -> None:
    id, appeal = appealed(cast, policy, awarded)
    uphold(cast, appeal, policy, "an", 30_000)
    assert refusal(lambda: uphold(cast, appeal, policy, "an", 30_000)).sentence.id == "two-decide"
    with cast.database.read_only() as session:
        assert balance(session, id).awarded == HOURS(awarded)
    uphold(cast, appeal, policy, "he", 20_000)
    with cast.database.read_only() as session:
        found = balance(session, id)
        assert (found.awarded, found.withheld) == (HOURS(20_000), HOURS(10_000)), "half waits for the report"
        assert verify.run(session) == []
    with pytest.raises(Refusal) as again:
        uphold(cast, appeal, policy, "xu", 30_000)
    assert again.value.sentence.id == "moved-meanwhile"


def test_hours_added_on_appeal_after_the_report_are_not_withheld_any_more(cast: Cast, policy: Policy) -> None:
    id, appeal = appealed(cast, policy, 10_000)
    report = progress_of(cast, id)
    cast.database.transaction(lambda s: reports.hand_in(s, report, text=TEXT, by=cast.manager, now=NOW).id)
    cast.database.transaction(lambda s: reports.accept(s, report, by=cast.operator, now=NOW).id)
    for user in ("an", "he"):
        uphold(cast, appeal, policy, user, 20_000)
    with cast.database.read_only() as session:
        found = balance(session, id)
        assert (found.available, found.withheld) == (HOURS(20_000), 0)
        assert verify.run(session) == []
