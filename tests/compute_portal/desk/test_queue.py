"""One queue of all that waits: in the order of what is due, page by page, the same number of queries for any size."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations.models import Allocation
from compute_portal.desk import queue as queues
from compute_portal.desk.models import TimetableEntry, TimetableRun
from compute_portal.desk.queue import Kind, Place, Which
from compute_portal.enterprises.models import Enterprise
from compute_portal.notices.models import Delivery, Notice
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node
from compute_portal.pools.states import InstructionVerb
from compute_portal.sentences import Sentence
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, set_now, sign_in, words

DAY = dt.timedelta(days=1)
ALL = Which()


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def ask(cast: Cast, due_at: dt.datetime, enterprise: int = 0) -> Allocation:
    day = dt.date(2026, 11, 18)
    return Allocation(
        programme_id=cast.programme, pool_id=cast.pool, enterprise_id=enterprise or cast.yusheng, state="submitted",
        purpose="训练", requested_by=cast.users["lin"], requested_at=NOW - DAY, requested_gpu_seconds=3_600 * 500,
        starts_on=day, ends_on=day + DAY, due_at=due_at, shares=1,
    )  # fmt: skip


def apply(cast: Cast, name: str, at: dt.datetime) -> Enterprise:
    return Enterprise(
        name=name, name_en=f"Firm {name}", credit_code=f"9144{abs(hash(name)) % 10**14:014}", size_class="small",
        state="applied", applied_at=at,
    )  # fmt: skip


def put(cast: Cast, *rows: object) -> None:
    cast.database.transaction(lambda s: s.add_all(rows))


def load(cast: Cast, policy: Policy, which: Which = ALL, by: Actor | None = None) -> queues.Queue:
    rules = queues.Rules(policy.desk, policy.bookings)
    with cast.database.read_only() as session:
        return queues.load(session, which, rules, by or cast.operator, NOW)


def everything(cast: Cast, policy: Policy) -> None:
    """One thing of every kind that can wait at this stage."""
    put(
        cast,
        ask(cast, NOW + 2 * DAY),
        ask(cast, NOW - DAY),
        apply(cast, "新企业", NOW - DAY),
        Notice(
            address="a@example.cn", language="zh", about={"id": "stopped"}, body=[], at=NOW - DAY, tries=9,
            delivery=Delivery.FAILED, next_try_at=NOW, done_at=NOW - 2 * HOUR, error="550 no such user",
        ),
        TimetableEntry(name="metering", says="x", every_seconds=60, recorded=True),
        TimetableRun(entry="metering", due_at=NOW - HOUR, started_at=NOW - HOUR, finished_at=NOW, error="away"),
    )  # fmt: skip
    cast.submit(cast.fixed(16, start_in=100, hours=150), policy.bookings)
    cast.submit(cast.flexible(16, 200), policy.bookings, now=NOW - 3 * HOUR)

    def failed(session: Session) -> None:
        node = session.scalars(sa.select(Node.id).order_by(Node.position).limit(1)).one()
        asked = pools.ask(session, InstructionVerb.DRAIN, "node", node, why=None, by=SYSTEM, now=NOW - 4 * HOUR)
        pools.answer(session, asked, Sentence("instruction-failed", error="x"), done=False, now=NOW - 3 * HOUR)

    cast.database.transaction(failed)


def test_what_is_due_first_stands_first_whatever_it_is(cast: Cast, policy: Policy) -> None:
    everything(cast, policy)
    found = load(cast, policy)
    assert [item.kind for item in found.items] == [
        Kind.REQUEST,  # since yesterday
        Kind.INSTRUCTION,  # three hours ago
        Kind.MAIL,  # two hours ago
        Kind.JOB,  # an hour ago
        Kind.BOOKING,  # flexible: two days after it was asked, three hours less than two days from now
        Kind.ENTERPRISE,  # three days after it applied
        Kind.REQUEST,
        Kind.BOOKING,  # fixed: two hours before its start in four days
    ]
    assert [item.due_at for item in found.items] == sorted(item.due_at for item in found.items)
    due = {item.kind: item.due_at for item in found.items}
    assert due[Kind.BOOKING] == NOW + 98 * HOUR
    assert due[Kind.ENTERPRISE] == NOW + 2 * DAY
    assert found.total == 8
    assert found.counts[Kind.REQUEST] == 2
    assert found.next is None


def test_it_is_narrowed_to_a_kind_to_what_is_late_and_to_what_one_may_decide(cast: Cast, policy: Policy) -> None:
    everything(cast, policy)
    assert {item.kind for item in load(cast, policy, Which(kind=Kind.BOOKING)).items} == {Kind.BOOKING}
    late = load(cast, policy, Which(late=True))
    assert [item.kind for item in late.items] == [Kind.REQUEST, Kind.INSTRUCTION, Kind.MAIL, Kind.JOB]
    assert load(cast, policy, Which(mine=True)).total >= 6
    assert load(cast, policy, Which(mine=True), by=cast.auditor).total == 0
    admin = Actor.of(cast.users["an"], frozenset({Role.ADMIN}))
    assert {item.kind for item in load(cast, policy, Which(mine=True), by=admin).items} <= {
        Kind.MAIL, Kind.JOB, Kind.REQUEST, Kind.APPEAL,
    }  # fmt: skip
    of_others = load(cast, policy, Which(kind=Kind.BOOKING, mine=True), by=admin)
    assert not of_others.items and of_others.counts == load(cast, policy, Which(mine=True), by=admin).counts
    assert of_others.total


def test_an_instruction_that_was_given_again_and_a_job_that_ran_since_do_not_wait(cast: Cast, policy: Policy) -> None:
    everything(cast, policy)

    def again(session: Session) -> None:
        node = session.scalars(sa.select(Node.id).order_by(Node.position).limit(1)).one()
        pools.ask(session, InstructionVerb.DRAIN, "node", node, why=None, by=SYSTEM, now=NOW)
        session.add(TimetableRun(entry="metering", due_at=NOW, started_at=NOW, finished_at=NOW))

    cast.database.transaction(again)
    kinds = {item.kind for item in load(cast, policy).items}
    assert Kind.INSTRUCTION not in kinds
    assert Kind.JOB not in kinds


def test_pages_follow_each_other_without_a_gap_or_a_repetition_also_where_many_are_due_together(
    cast: Cast, policy: Policy
) -> None:
    put(cast, *(ask(cast, NOW + (number // 20) * HOUR) for number in range(70)))
    put(cast, *(apply(cast, f"企业{number}", NOW - 3 * DAY + (number // 9) * HOUR) for number in range(30)))
    seen: list[tuple[Kind, int]] = []
    place: Place | None = None
    for _page in range(10):
        found = load(cast, policy, Which(after=place))
        seen += [(item.kind, item.id) for item in found.items]
        assert found.total == 100
        if found.next is None:
            break
        place = Place.read(str(found.next))
    assert len(seen) == len(set(seen)) == 100


def test_a_place_that_is_none_begins_at_the_beginning() -> None:
    for nonsense in ("", "x", "1-2-3", "9" * 40 + "-job-1", "1-job"):
        assert Place.read(nonsense) is None


def test_the_page_names_each_thing_and_links_to_where_it_is_decided(app: Flask, cast: Cast, policy: Policy) -> None:
    everything(cast, policy)
    answer = sign_in(app, cast.users["zhou"], language="en").get("/queue")
    page = words(answer)
    assert "8 things wait for a decision" in page
    assert "Yusheng Voice asks for 500 H800 GPU-hours" in page
    assert "Overdue yesterday 10:00" in page
    assert "Firm 新企业 wants to be verified" in page
    assert "One message could not be delivered" in page
    assert "metering failed" in page
    assert re.search(r'href="/nodes/\d+"', answer.text)
    assert 'href="/jobs"' in answer.text
    assert "keys.js" in answer.text
    narrowed = words(sign_in(app, cast.users["zhou"], language="en").get("/queue?kind=booking&late=1"))
    assert "Nothing of this kind waits" in narrowed
    assert sign_in(app, cast.users["lin"]).get("/queue").status_code == 403


def test_the_queue_takes_as_many_queries_for_a_hundred_things_as_for_one(app: Flask, cast: Cast) -> None:
    counted = []
    for many in (1, 100):
        put(cast, *(ask(cast, NOW + HOUR) for _ in range(many)))
        client = sign_in(app, cast.users["zhou"], language="en")
        client.get("/queue")
        with Queries(cast.database) as queries:
            assert client.get("/queue").status_code == 200
        counted.append(len(queries))
    assert counted[0] == counted[1] <= 10


def test_what_is_not_counted_whole_is_said_to_be_at_least_so_many(
    app: Flask, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cast, *(ask(cast, NOW + HOUR) for _ in range(4)))
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert "4 things wait for a decision" in words(zhou.get("/queue"))
    monkeypatch.setattr(queues, "MOST_COUNTED", 3)
    queues._asking.cache_clear()
    page = words(zhou.get("/queue"))
    queues._asking.cache_clear()
    assert "At least 3 things wait for a decision" in page and "3+ All" in page
