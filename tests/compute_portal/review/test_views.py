"""The pages of a review: the reviewer's with everything, the applicant's without what is for the bureau alone."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from compute_portal import units
from compute_portal.access import Role
from compute_portal.allocations.review import Step
from compute_portal.allocations.states import AllocationState
from compute_portal.policy import Policy
from compute_portal.review import letters
from tests.cast import NOW, Cast
from tests.compute_portal.review.house import allocation, approve, ask, decision, decline, set_flow
from tests.web import make_app, post, set_now, sign_in, words

SECRET = "竞争对手说财务造假"


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def test_a_reviewer_sees_the_effects_and_decides_what_was_shown(app: Flask, cast: Cast) -> None:
    id = ask(cast)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    page = f"/reviews/{id}"
    shown = words(zhou.get(f"{page}?awarded_hours=5000"))
    for said in (
        "If you award 5,000", "Programme hours left", "of 1,200,000 GPU-hours", "Fair share in H800", "1 of 2",
        "One other allocation of Yusheng Voice", "Working day 1 of 3, due Mon 23 Nov 18:00",
    ):  # fmt: skip
        assert said in shown, said
    refused = post(zhou, f"{page}/approve", {"awarded_hours": "5000", "reason": "按规模"}, page=page)
    assert refused.status_code == 422 and "Choose a reason from the list." in refused.text and "按规模" in refused.text
    assert allocation(cast, id).state is AllocationState.SUBMITTED
    done = post(
        zhou, f"{page}/approve", {"awarded_hours": "5000", "reason_code": "size", "reason": "按规模"}, page=page
    )
    assert done.status_code == 302
    assert allocation(cast, id).awarded_gpu_seconds == units.gpu_seconds(5_000)
    assert "5,000 GPU-hours are awarded" in words(zhou.get(page))


def test_a_refusal_without_a_reason_of_the_list_is_422_and_nothing_changes(app: Flask, cast: Cast) -> None:
    id = ask(cast)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    for data in ({"reason": "x"}, {"reason": "x", "reason_code": "nonsense"}, {"reason_code": "incomplete"}):
        answer = post(zhou, f"/reviews/{id}/decline", data, page=f"/reviews/{id}")
        assert answer.status_code == 422 and "field-error" in answer.text
    assert allocation(cast, id).state is AllocationState.SUBMITTED
    assert sign_in(app, cast.users["xu"]).get(f"/reviews/{id}").status_code == 200
    assert post(sign_in(app, cast.users["xu"]), f"/reviews/{id}/decline", page=f"/reviews/{id}").status_code == 403


def test_the_first_of_two_is_told_that_another_decides_and_cannot_decide_again(app: Flask, cast: Cast) -> None:
    set_flow(cast, Step(deciders=2, checklist=(("执照", "Licence"),)))
    id = ask(cast)
    page = f"/reviews/{id}"
    zhou = sign_in(app, cast.users["zhou"], language="en")
    unticked = post(zhou, f"{page}/approve", {"awarded_hours": "9000"}, page=page)
    assert unticked.status_code == 422 and "Tick the point of the checklist" in words(unticked)
    post(zhou, f"{page}/approve", {"awarded_hours": "9000", "checked": "0"}, page=page)
    shown = words(zhou.get(page))
    assert "Another person decides now." in shown and "You have decided on this request already" in shown
    assert f'action="{page}/approve"' not in zhou.get(page).text
    post(sign_in(app, cast.users["wu"]), f"{page}/approve", {"awarded_hours": "9000", "checked": "0"}, page=page)
    assert allocation(cast, id).state is AllocationState.ACTIVE


def test_no_page_of_the_company_holds_what_is_for_the_bureau_alone(app: Flask, cast: Cast, policy: Policy) -> None:
    id = ask(cast)
    zhou = sign_in(app, cast.users["zhou"])
    sent = post(
        zhou,
        f"/reviews/{id}/comment",
        {"public_text": "请补训练计划", "private_text": SECRET},
        page=f"/reviews/{id}",
    )
    assert sent.status_code == 302 and SECRET in zhou.get(f"/reviews/{id}").text
    post(zhou, f"/reviews/{id}/declare", {"conflict_reason": SECRET}, page=f"/reviews/{id}")
    decline(cast, id, policy, by="wu")
    for name in ("lin", "chen"):
        me = sign_in(app, cast.users[name])
        followed = me.get(f"/allocations/{id}/review")
        assert "请补训练计划" in followed.text
        seen = {f"/allocations/{id}/review", f"/allocations/{id}", "/allocations", "/notices", "/"}
        seen |= {link for link in re.findall(r'href="(/[^"#?]*)', followed.text) if not link.startswith("/static")}
        for address in seen:
            assert SECRET not in me.get(address, follow_redirects=True).text, address


def test_a_reviewer_with_a_tie_is_stopped_and_an_administrator_waives_it(app: Flask, cast: Cast) -> None:
    id = ask(cast)
    zhou, admin = sign_in(app, cast.users["zhou"], language="en"), sign_in(app, cast.users["an"], language="en")
    empty = post(zhou, f"/reviews/{id}/declare", {"conflict_reason": " "}, page=f"/reviews/{id}")
    assert empty.status_code == 422
    post(zhou, f"/reviews/{id}/declare", {"conflict_reason": "前同事"}, page=f"/reviews/{id}")
    stopped = zhou.get(f"/reviews/{id}")
    assert stopped.status_code == 409 and "You declared a tie to this company" in words(stopped)
    assert "前同事" in admin.get(f"/reviews/{id}").text
    asked = {"user_id": str(cast.users["zhou"]), "plan": "双人复核"}
    assert post(admin, f"/reviews/{id}/waive", asked | {"plan": ""}, page=f"/reviews/{id}").status_code == 422
    assert post(admin, f"/reviews/{id}/waive", asked, page=f"/reviews/{id}").status_code == 302
    assert zhou.get(f"/reviews/{id}").status_code == 200


def test_the_company_follows_the_clock_reads_its_letter_and_appeals_to_another_person(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    id = ask(cast)
    lin = sign_in(app, cast.users["lin"], language="en")
    page = f"/allocations/{id}/review"
    assert "Working day 1 of 3, due Mon 23 Nov 18:00" in words(lin.get(page))
    decline(cast, id, policy)
    of = decision(cast, id).id
    letter = cast.database.transaction(
        lambda s: letters.keep(s, of, {"number": "2026-1"}, b"%PDF-1.7 letter", now=NOW).id
    )
    got = lin.get(f"/letters/{letter}")
    assert got.data == b"%PDF-1.7 letter" and got.headers["Content-Disposition"].startswith("attachment")
    assert sign_in(app, cast.users["mei"]).get(f"/letters/{letter}").status_code == 404
    assert post(lin, f"/allocations/{id}/appeal", {"text": " "}, page=page).status_code == 422
    assert post(lin, f"/allocations/{id}/appeal", {"text": "漏看附件"}, page=page).status_code == 302
    assert "Appeal filed" in words(lin.get(page)) and "漏看附件" in lin.get(page).text
    zhou, wu = (sign_in(app, cast.users[name], language="en") for name in ("zhou", "wu"))
    appeal = re.search(r"/appeals/(\d+)", zhou.get("/reviews").text)
    assert appeal is not None
    address = appeal[0]
    assert "You had a part in the decision" in words(zhou.get(address))
    assert post(zhou, f"{address}/dismiss", {"reason": "x"}, page=address).status_code == 422
    short = post(wu, f"{address}/uphold", {"awarded_hours": "9001", "reason": "成立"}, page=address)
    assert short.status_code == 422 and "成立" in short.text
    assert post(wu, f"{address}/uphold", {"awarded_hours": "9000", "reason": "成立"}, page=address).status_code == 302
    assert allocation(cast, id).state is AllocationState.ACTIVE
    assert "9,000 of 9,000 GPU-hours awarded" in words(lin.get(page))
    assert "100%" in words(lin.get("/decision-times"))


def test_an_administrator_adds_and_removes_a_step_on_the_page(app: Flask, cast: Cast) -> None:
    address = f"/programmes/{cast.programme}/review-steps"
    admin = sign_in(app, cast.users["an"], language="en")
    track = re.findall(r"track=(\w+)", admin.get(address).text)[-1]
    asked = {
        "track": track, "name": "技术评估", "name_en": "Technical check", "role": Role.ADMIN.value, "deciders": "2",
        "working_days": "4", "place": "1", "checklist": "容量|Capacity\n安全",
    }  # fmt: skip
    wrong = post(admin, address, asked | {"working_days": "0", "deciders": "9"}, page=address)
    assert wrong.status_code == 422 and "技术评估" in wrong.text
    assert post(admin, address, asked, page=address).status_code == 302
    shown = words(admin.get(f"{address}?track={track}"))
    assert "decided in 2 steps" in shown and "1 · Technical check" in shown and "Capacity" in shown
    remove = f"{address}/remove"
    assert post(admin, remove, {"track": track, "place": "7"}, page=address).status_code == 404
    assert post(admin, remove, {"track": track, "place": "1"}, page=address).status_code == 302
    assert "decided in one step" in words(admin.get(f"{address}?track={track}"))
    assert post(sign_in(app, cast.users["zhou"]), address, asked, page=address).status_code == 403


def test_the_table_of_working_days_is_read_by_all_and_set_by_administrators(app: Flask, cast: Cast) -> None:
    chen, admin = sign_in(app, cast.users["chen"], language="en"), sign_in(app, cast.users["an"], language="en")
    assert "2026 has 248 working days" in words(chen.get("/workdays"))
    assert "Provisional" in words(chen.get("/workdays?year=2027")) and "set-day" not in chen.get("/workdays").text
    day = {"day": "2026-12-05", "kind": "worked", "name": "调休"}
    for data, said in (
        (day | {"day": "5 December"}, "Enter a date like"),
        (day | {"kind": "half"}, "Choose one of the list."),
        (day | {"day": "2031-01-01"}, "2031 is not in the table yet"),
    ):
        wrong = post(admin, "/workdays/day", data, page="/workdays")
        assert wrong.status_code == 422 and said in words(wrong) and "调休" in wrong.text
    assert post(admin, "/workdays/day", day, page="/workdays").status_code == 302
    assert "2026 has 249 working days" in words(chen.get("/workdays?year=2026"))
    year = {"year": "2028", "opens": "09:00", "closes": "18:00", "source": "通知"}
    for data, said in (
        (year | {"opens": "9am"}, "Enter a time like"),
        (year | {"closes": "08:00"}, "must close after"),
    ):
        wrong = post(admin, "/workdays/year", data, page="/workdays")
        assert wrong.status_code == 422 and said in words(wrong)
    assert post(admin, "/workdays/year", year, page="/workdays").status_code == 302
    assert "2028 has" in words(chen.get("/workdays?year=2028"))
    assert post(sign_in(app, cast.users["zhou"]), "/workdays/day", day, page="/workdays").status_code == 403


def test_every_awarded_or_declined_request_shows_its_outcome_to_the_bureau(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    id = ask(cast)
    approve(cast, id, policy)
    shown = words(sign_in(app, cast.users["xu"], language="en").get(f"/reviews/{id}"))
    assert "The letter is being made" in shown and "Approves 9,000 GPU-hours" in shown
