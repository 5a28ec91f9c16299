"""The timetable's health, the history of everything, an enterprise as a whole."""

from __future__ import annotations

import csv
import datetime as dt
import io

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import clock
from compute_portal.desk import jobs
from compute_portal.desk.models import Leader, TimetableEntry, TimetableRun
from compute_portal.notices import service as notices
from compute_portal.policy import Policy
from compute_portal.pools.models import Instruction
from compute_portal.pools.states import InstructionState, InstructionVerb
from compute_portal.sentences import Sentence
from compute_portal.signin.models import AccessLogEntry
from tests import walk
from tests.cast import HOUR, NOW, Cast
from tests.web import make_app, post, set_now, sign_in, words

MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def put(cast: Cast, *rows: object) -> None:
    cast.database.transaction(lambda s: s.add_all(rows))


def a_timetable(cast: Cast) -> None:
    cast.database.transaction(lambda s: s.execute(sa.update(Leader).values(heartbeat_at=NOW - MINUTE)))
    put(
        cast,
        TimetableEntry(id=1, name="cycle", says="hand over, place, grant, end", every_seconds=5, recorded=False),
        TimetableEntry(id=2, name="metering", says="x", every_seconds=60, recorded=True),
        TimetableEntry(id=3, name="close-allocations", says="x", hour=0, minute=5, recorded=True),
        TimetableEntry(id=4, name="old", says="x", every_seconds=60, recorded=True, gone=True),
        TimetableRun(entry="metering", due_at=NOW, started_at=NOW, finished_at=NOW),
        TimetableRun(
            entry="metering", due_at=NOW - HOUR, started_at=NOW - HOUR, finished_at=NOW, error="no connection"
        ),
        TimetableRun(
            entry="close-allocations", due_at=dt.datetime(2026, 11, 17, 16, 5, tzinfo=dt.UTC), started_at=NOW - HOUR,
            finished_at=NOW, error="allocations not closed: [7]",
        ),
    )  # fmt: skip


def test_the_page_says_what_failed_what_is_late_and_when_each_is_due_next(app: Flask, cast: Cast) -> None:
    a_timetable(cast)
    page = words(sign_in(app, cast.users["xu"], language="en").get("/jobs"))
    assert "One entry of the timetable failed" in page
    assert "close-allocations x Did not finish allocations not closed: [7]" in page
    assert "2026-11-19 00:05:00" in page  # next due
    assert "metering x In order 2026-11-18 10:00:00 – 1 2026-11-18 10:01:00" in page
    assert "cycle hand over, place, grant, end Late 2026-11-18 09:59:00 55 s" in page
    assert " old " not in page
    assert "Run now" not in page  # an auditor changes nothing


def test_an_entry_is_run_again_by_an_instruction_that_waits_in_its_row(app: Flask, cast: Cast) -> None:
    a_timetable(cast)
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert post(zhou, "/jobs/3/retry", page="/jobs").status_code == 302
    assert post(zhou, "/jobs/3/retry", page="/jobs").status_code == 409
    assert post(zhou, "/jobs/4/retry", page="/jobs").status_code == 404
    with cast.database.read_only() as session:
        asked = session.scalars(sa.select(Instruction)).one()
    assert (asked.verb, asked.target_kind, asked.target_id) == (InstructionVerb.RETRY, jobs.TARGET, 3)
    assert (asked.state, asked.by_id) == (InstructionState.WAITING, cast.users["zhou"])
    assert "Asked to run" in words(zhou.get("/jobs"))
    assert post(sign_in(app, cast.users["he"]), "/jobs/3/retry").status_code == 403


def test_the_slots_of_the_page_are_those_of_the_timetable() -> None:
    entry = TimetableEntry(name="a", says="a", hour=2, minute=0, day=1, recorded=True)
    now = dt.datetime(2026, 11, 30, 18, 0, tzinfo=dt.UTC)  # 2 in the morning of 1 December in Shanghai
    due, following = jobs.slots(entry, now)
    assert due == now
    assert clock.day_of(following) == dt.date(2027, 1, 1)
    assert jobs.slots(entry, now - MINUTE)[1] == now


def history(app: Flask, cast: Cast, name: str, query: str = "") -> str:
    answer = sign_in(app, cast.users[name], language="en").get(f"/history{query}")
    assert answer.status_code == 200
    return words(answer)


def test_the_history_is_searched_by_kind_number_verb_person_and_period(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(4, 2), policy.bookings)
    assert f"booking {booking} submit – → Awaiting approval Chen Yi 8 GPU-hours held" in history(app, cast, "xu")
    found = history(app, cast, "xu", f"?kind=booking&subject={booking}&verb=approve&system=1")
    assert "Awaiting approval → Queued The system" in found
    assert "Chen Yi" not in found
    assert f"booking {booking} submit" in history(app, cast, "an", "?who=Chen")
    assert "approve" not in history(app, cast, "an", "?who=Chen&kind=allocation")
    assert "Nothing fits" in history(app, cast, "an", "?who=Nobody")
    assert "Nothing fits" in history(app, cast, "an", "?from=2026-10-01&to=2026-10-05")
    assert "Nothing fits" not in history(app, cast, "an", "?from=gestern&subject=x&after=y")
    assert sign_in(app, cast.users["lin"]).get("/history").status_code == 403


def test_pages_of_the_history_follow_each_other_and_the_export_holds_all_and_is_logged(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    for _ in range(20):
        cast.submit(cast.flexible(1, 1), policy.bookings)
    xu = sign_in(app, cast.users["xu"], language="en")
    first = xu.get("/history?kind=booking")
    following = first.text.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = xu.get(following)
    assert first.text.count('<tr><th scope="row"') == 25
    assert second.text.count('<tr><th scope="row"') == 15
    answer = xu.get("/history.csv?kind=booking")
    rows = list(csv.DictReader(io.StringIO(answer.text.lstrip("\ufeff"))))
    assert len(rows) == 40
    assert {"before", "after", "by_name", "why", "note"} <= set(rows[0])
    assert {row["verb"] for row in rows} == {"submit", "approve"}
    assert "GPU-hours held" in {row["verb"]: row["why"] for row in rows}["submit"]
    with cast.database.read_only() as session:
        logged = session.scalars(sa.select(AccessLogEntry).where(AccessLogEntry.kind == "export")).one()
    assert (logged.user_id, logged.path, logged.detail) == (cast.users["xu"], "/history.csv", "kind=booking")
    assert sign_in(app, cast.users["zhou"]).get("/history.csv").status_code == 403


def test_an_enterprise_as_a_whole_says_what_it_has_used_books_owes_and_was_told(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    booking = cast.submit(cast.flexible(4, 2), policy.bookings)
    walk.run(cast, booking, at=NOW, until=NOW + 2 * HOUR)
    cast.submit(cast.flexible(4, 3, title="第二轮"), policy.bookings, now=NOW + 2 * HOUR)
    told = Sentence("alert-used", allocation=1, percent=75, used=1, awarded=2)
    cast.database.transaction(
        lambda s: notices.send(s, to=cast.users["lin"], about=told, enterprise_id=cast.yusheng, now=NOW)
    )
    set_now(app, NOW + 2 * HOUR)
    answer = sign_in(app, cast.users["zhou"], language="en").get(f"/enterprises/{cast.yusheng}/overview")
    page = words(answer)
    assert "Yusheng Voice has one booking open" in page
    assert "19,980 GPU-hours can be booked" in page
    assert "Used in November 2026 8" in page
    assert "It owes nothing" in page
    assert "第二轮" in page
    assert "75% of allocation 1 is used" in page
    assert f'href="/enterprises/{cast.yusheng}/view-as"' in answer.text
    assert sign_in(app, cast.users["lin"]).get(f"/enterprises/{cast.yusheng}/overview").status_code == 403
