"""The pages of allocations: asking, deciding, and opening every number."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from flask import Flask

from compute_portal import clock, units
from compute_portal.allocations import service
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.service import AllocationRequest
from compute_portal.allocations.states import AllocationState
from compute_portal.policy import Policy
from compute_portal.programmes import service as programmes
from tests.cast import NOW, Cast
from tests.web import make_app, post, rows_in, set_now, sign_in, words

HOURS = units.gpu_seconds


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def asked(cast: Cast, **changes: str) -> dict[str, str]:
    values = {
        "programme_id": f"{cast.programme}:{cast.pool}",
        "hours": "6,400",
        "starts_on": "2026-12-01",
        "ends_on": "2027-02-28",
        "purpose": "训练一个 7B 方言语音识别基座。",
    }
    return values | changes


def a_request(app: Flask, cast: Cast, **changes: str) -> int:
    """Lin Xiaohe of Yusheng asks without the form, so that one operator decides; the id of the request."""
    values = asked(cast, **changes)
    whole = AllocationRequest(
        cast.programme, cast.pool, units.parse_gpu_hours(values["hours"]), dt.date.fromisoformat(values["starts_on"]),
        dt.date.fromisoformat(values["ends_on"]), values["purpose"],
    )  # fmt: skip
    return cast.database.transaction(lambda s: service.request(s, whole, by=cast.manager, now=NOW).id)


def stored(cast: Cast, allocation_id: int) -> Allocation:
    with cast.database.read_only() as session:
        return session.get_one(Allocation, allocation_id)


def test_a_manager_writes_a_draft_and_submits_it(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    answer = post(client, "/allocations/request", asked(cast))
    write = answer.location
    assert "Draft 3: 6,400 H800 GPU-hours" in words(client.get(write))
    typed = asked(cast, title="方言基座", hours="sixty")
    saved = post(client, write.replace("write", "save"), typed, page=write)
    assert saved.location == write
    assert "sixty" in client.get(write).text, "a draft keeps what was typed, right or wrong"
    refused = post(client, write.replace("write", "submit"), typed | {"purpose": " "}, page=write)
    assert refused.status_code == 422
    assert 'id="hours-error"' in refused.text and 'id="purpose-error"' in refused.text
    assert "方言基座" in refused.text
    answer = post(client, write.replace("write", "submit"), asked(cast), page=write)
    page = words(client.get(answer.location))
    assert "The request is submitted." in page
    assert "6,400 H800 GPU-hours asked for, not decided yet" in page
    allocation = stored(cast, 3)
    assert allocation.requested_gpu_seconds == HOURS(6_400)
    assert allocation.enterprise_id == cast.yusheng
    assert client.get(write).status_code == 302, "what is submitted is not written any more"


def test_a_script_saves_the_draft_and_reads_the_time(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["lin"])
    write = post(client, "/allocations/request", asked(cast)).location
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get(write).text)
    assert token is not None
    answer = client.post(
        write.replace("write", "save"),
        data={"csrf_token": token[1], "purpose": "写到一半"},
        headers={"X-Requested-With": "fetch"},
    )
    assert answer.json == {"saved": "10:00"}
    assert "写到一半" in client.get(write).text


def test_the_size_helper_gives_the_documented_number(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    page = words(client.get("/allocations/request?parameters=7&tokens=100&utilisation=40&cards=64"))
    assert "2,949.11 GPU-hours" in page
    assert "2 days on 64 cards" in page
    assert "Enter a number" in words(client.get("/allocations/request?parameters=x&tokens=1&utilisation=40&cards=8"))


def test_rules_are_explained_before_anything_is_written(app: Flask, cast: Cast) -> None:
    cast.database.transaction(
        lambda s: programmes.close(s, cast.programme, why="本期已满", by=cast.operator, now=NOW).number
    )
    page = words(sign_in(app, cast.users["lin"], language="en").get("/allocations/request"))
    assert "One rule of this programme is not met" in page
    assert "Choose another programme, or wait until the bureau opens it again." in page


def test_the_same_form_sent_twice_asks_once(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["lin"])
    before = rows_in(cast.database, Allocation)
    key = {"form_key": "k" * 32}
    first = post(client, "/allocations/request", asked(cast) | key)
    second = post(client, "/allocations/request", asked(cast) | key)
    assert first.location == second.location
    assert rows_in(cast.database, Allocation) == before + 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hours": "many"}, "Enter a number, for example 2,000."),
        ({"hours": "-5"}, "Enter a number, for example 2,000."),
        ({"hours": "150,001"}, "This programme gives at most 150,000 GPU-hours; you asked for 150,001."),
        ({"hours": ""}, "This is needed."),
        ({"starts_on": "1 December"}, "Enter a date like 2026-11-20."),
        ({"starts_on": "2026-11-17"}, "The first possible day is 18 November 2026."),
        ({"ends_on": "2026-11-30"}, "The end is before the start, 1 December 2026."),
        ({"ends_on": "2028-01-01"}, "The programme ends on 31 December 2027"),
    ],
)
def test_a_bad_request_is_answered_at_the_field_and_keeps_what_was_typed(
    app: Flask, cast: Cast, changes: dict[str, str], sentence: str
) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    before = rows_in(cast.database, Allocation)
    answer = post(client, "/allocations/request", asked(cast, **changes))
    assert answer.status_code == 422
    assert sentence in words(answer)
    (field,) = changes
    assert f'id="{field}-error"' in answer.text
    if changes[field].strip():
        assert changes[field][:50] in answer.text
    assert rows_in(cast.database, Allocation) == before


def test_the_form_says_so_when_no_programme_is_open(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["lin"], language="en")
    set_now(app, dt.datetime(2028, 1, 2, tzinfo=dt.UTC))
    client = sign_in(app, cast.users["lin"], language="en")
    assert "No programme takes requests now" in words(client.get("/allocations/request"))


def test_a_member_sees_allocations_but_cannot_request(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["chen"])
    assert client.get("/allocations").status_code == 200
    assert client.get("/allocations/request").status_code == 403


def test_the_list_keeps_asked_awarded_used_held_and_left_apart(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.flexible(4, 10), policy.bookings)
    client = sign_in(app, cast.users["chen"], language="en")
    page = words(client.get("/allocations"))
    assert "One allocation is active" in page
    assert "20,000.00 20,000.00 0.00 40.00 19,960.00" in page
    assert "鹭屿视觉" not in page
    bureau = words(sign_in(app, cast.users["zhou"], language="en").get("/allocations"))
    assert "Yusheng Voice" in bureau
    assert "Luyu Vision" in bureau


def test_the_list_has_tabs_and_filters_that_nonsense_does_not_break(app: Flask, cast: Cast) -> None:
    a_request(app, cast)
    client = sign_in(app, cast.users["zhou"], language="en")
    assert "6,400.00" in words(client.get("/allocations?tab=requests"))
    assert "Nothing has ended" in words(client.get("/allocations?tab=ended"))
    assert "One allocation is active" in words(client.get(f"/allocations?enterprise_id={cast.luyu}"))
    assert "No allocation is active" in words(client.get("/allocations?programme_id=999"))
    for nonsense in ("tab=x", "page=-1", "page=99999", "enterprise_id=%00", "enterprise_id=9" + 40 * "9"):
        assert client.get(f"/allocations?{nonsense}").status_code == 200


def test_every_number_of_an_allocation_opens_to_its_ledger_entries(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(4, 10), policy.bookings)
    client = sign_in(app, cast.users["chen"], language="en")
    whole = client.get(f"/allocations/{cast.allocation}")
    assert "19,960 of 20,000 H800 GPU-hours are left" in words(whole)
    assert "?bucket=held#entries" in whole.text
    held = words(client.get(f"/allocations/{cast.allocation}?bucket=held"))
    assert f"Left Held 40.00 booking {booking}" in held
    left = words(client.get(f"/allocations/{cast.allocation}?bucket=available"))
    assert "−40.00" in left
    assert "20,000.00 decision" in left
    assert client.get(f"/allocations/{cast.allocation}?bucket=nonsense").status_code == 200


def test_another_companys_allocation_does_not_exist(app: Flask, cast: Cast) -> None:
    mei = sign_in(app, cast.users["mei"])
    request_id = a_request(app, cast)
    assert mei.get(f"/allocations/{cast.allocation}").status_code == 404
    assert post(mei, f"/allocations/{request_id}/withdraw", page="/allocations").status_code == 404
    assert stored(cast, request_id).state is AllocationState.SUBMITTED


def test_a_manager_withdraws_a_request_once(app: Flask, cast: Cast) -> None:
    request_id = a_request(app, cast)
    client = sign_in(app, cast.users["lin"], language="en")
    page = f"/allocations/{request_id}"
    assert "Withdraw the request" in words(client.get(page))
    assert post(client, f"{page}/withdraw", page=page).status_code == 302
    shown = words(client.get(page))
    assert "was withdrawn" in shown
    assert "Withdraw the request" not in shown
    assert post(client, f"{page}/withdraw", page=page).status_code == 409


def test_a_late_request_says_that_it_stays_open(app: Flask, cast: Cast) -> None:
    request_id = a_request(app, cast)
    later = NOW + dt.timedelta(days=4)
    set_now(app, later)
    client = sign_in(app, cast.users["zhou"], language="en")
    assert "overdue; it stays open" in words(client.get(f"/allocations/{request_id}"))
    assert clock.day_of(later) == dt.date(2026, 11, 22)
