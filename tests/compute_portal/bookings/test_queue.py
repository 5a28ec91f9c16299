"""The queue's page, and what the other pages say of when and why: who may know what of whom."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import clock
from compute_portal.access import Role
from compute_portal.bookings import queue
from compute_portal.bookings.models import Estimate, QueueDay, QueuePicture, Standing
from compute_portal.enterprises.models import Enterprise
from compute_portal.policy import Policy
from compute_portal.programmes.models import Programme
from compute_portal.sentences import Sentence
from tests.cast import HOUR, NOW, Cast
from tests.web import Queries, make_app, set_now, sign_in, words

LIMIT = Sentence("wait-limit", limit=24, used=20, asked=16)
FEWER = Sentence("change-gpus", n=4)


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def waits(cast: Cast, policy: Policy, place: int, *, stranger: bool = False, title: str = "语音基座") -> int:
    """A booking in the queue as the scheduler would have written it, expected this afternoon."""
    allocation = cast.other_allocation if stranger else cast.allocation
    asked = cast.flexible(gpus=16, hours=10, title=title, allocation_id=allocation)
    id = cast.submit(asked, policy.bookings, by=cast.stranger if stranger else cast.member)
    standing = Standing(
        booking_id=id, pool_id=cast.pool, place=place, waiting=2, reason=LIMIT.to_json(), change=FEWER.to_json(),
        p10_at=NOW + 3 * HOUR, expected_at=NOW + 5 * HOUR, p90_at=NOW + 9 * HOUR, at=NOW,
    )  # fmt: skip
    cast.database.transaction(lambda s: s.add(standing))
    return id


def picture(cast: Cast, *, full_days: int | None = None) -> None:
    """A start table of one row and two hours, 500 ranges of which 405 held, and two days of figures."""
    since = None if full_days is None else NOW - dt.timedelta(days=full_days)
    today = clock.day_of(NOW)
    shares = {str(cast.yusheng): [90, 100], str(cast.luyu): [72, 100]}

    def rows(session: sa.orm.Session) -> None:
        session.add(
            QueuePicture(
                pool_id=cast.pool, at=NOW, ranges=500, held=405, overdue_full_since=since,
                starts={"gpus": [8], "hours": [1, 2], "seconds": [[[0, 3_600, 7_200], [0, 7_200, 14_400]]]},
            )
        )  # fmt: skip
        for back, waited in ((1, 7_200), (2, 0)):
            session.add(
                QueueDay(
                    pool_id=cast.pool, on=today - dt.timedelta(days=back), started=2, waited_seconds=waited,
                    longest_seconds=waited, deviation_permille=140 if waited else None,
                    shares=shares if waited else {},
                )
            )  # fmt: skip

    cast.database.transaction(rows)


def page(app: Flask, cast: Cast, person: str, address: str | None = None, language: str = "en") -> str:
    answer = sign_in(app, cast.users[person], language=language).get(address or f"/pools/{cast.pool}/queue")
    assert answer.status_code == 200
    return words(answer)


def test_everybody_sees_the_order_the_length_and_how_the_month_was(app: Flask, cast: Cast, policy: Policy) -> None:
    waits(cast, policy, 1)
    picture(cast)
    for person in ("chen", "mei", "he", "xu", "zhou"):
        text = page(app, cast, person)
        assert "1 booking waits for H800" in text
        assert (
            "Small bookings go first" in text and "has waited 48 hours" in text and "at most 33% of the cards" in text
        )
        assert "Mean wait 30 min" in text and "Longest wait 2 h" in text
        assert "Away from the shares 14%" in text and "Worst served 72%" in text
        assert "Of the last 500 estimates in this pool 81% held." in text


def test_own_bookings_are_named_with_their_numbers_and_others_only_by_size(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    own, other = waits(cast, policy, 1), waits(cast, policy, 2, stranger=True, title="鹭屿的训练")
    cast.database.transaction(lambda s: s.execute(sa.update(Enterprise).values(size_class="small")))
    client = sign_in(app, cast.users["chen"], language="en")
    answer = client.get(f"/pools/{cast.pool}/queue")
    text = words(answer)
    assert "语音基座" in text and "Your company may use 24 cards of this pool at once and is using 20" in text
    assert "A small company" in text and "Its company is at its limit." in text
    assert "鹭屿" not in text and "Luyu" not in text
    assert f"/bookings/{own}" in answer.text and f"/bookings/{other}" not in answer.text
    assert "1 of them is yours" in text


def test_the_bureau_sees_whose_it_is_and_is_not_told_of_its_own_company(app: Flask, cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy, 1)
    picture(cast)
    text = page(app, cast, "zhou")
    assert "Yusheng Voice" in text and "The company may use 24 cards of this pool at once" in text
    assert "of its entitled share: Luyu Vision" in text
    for address in (f"/bookings/{id}", "/bookings?tab=upcoming"):
        told = page(app, cast, "zhou", address)
        assert "The company may use 24 cards" in told and "Your company" not in told
    assert "Your company may use 24 cards" in page(app, cast, "chen", f"/bookings/{id}")


def test_whoever_is_served_worst_is_told_and_nobody_else_knows_the_name(app: Flask, cast: Cast) -> None:
    picture(cast)
    assert "of its entitled share: your company" in page(app, cast, "mei")
    assert "Luyu" not in page(app, cast, "chen")


@pytest.mark.parametrize(("days", "warned"), [(2, False), (3, True)])
def test_operators_are_warned_when_no_order_helps(app: Flask, cast: Cast, days: int, warned: bool) -> None:
    picture(cast, full_days=days)
    assert ("No order helps" in page(app, cast, "zhou")) is warned
    assert "No order helps" not in page(app, cast, "chen")


def test_a_queue_of_a_pool_that_is_new_says_so_in_both_languages(app: Flask, cast: Cast) -> None:
    assert "Nothing waits for H800" in page(app, cast, "chen")
    assert "没有预约在排队" in page(app, cast, "chen", language="zh")
    assert sign_in(app, cast.users["chen"]).get("/pools/999/queue").status_code == 404


def test_the_page_of_a_booking_says_when_why_and_what_would_start_it(app: Flask, cast: Cast, policy: Policy) -> None:
    id = waits(cast, policy, 1)
    picture(cast)
    shown = Estimate(
        booking_id=id, pool_id=cast.pool, made_at=NOW - HOUR, place=3, waiting=9, expected_seconds=7_200,
        p10_seconds=3_600, p50_seconds=7_200, p90_seconds=36_000,
    )  # fmt: skip
    cast.database.transaction(lambda s: s.add(shown))
    client = sign_in(app, cast.users["chen"], language="en")
    with Queries(cast.database) as queries:
        answer = client.get(f"/bookings/{id}")
    assert len(queries) <= 10, queries.statements
    text = words(answer)
    assert "today 13:00–19:00" in text and "half of such bookings start before today 15:00" in text
    assert "With 4 cards it would start now." in text
    [again] = re.findall(r'href="(/bookings/new[^"]*gpus=4[^"]*)"', answer.text)
    assert "longest=10" in again and "kind=flexible" in again
    assert "Of the last 500 estimates in this pool 81% held." in text
    assert "How the estimate changed" in text and "today 10:00–19:00" in text


@pytest.mark.parametrize(
    ("change", "heading", "told", "again"),
    [
        (Sentence("change-next-seconds", asked=600, capacity=512, seconds=5_400), "bring it forward", "1 h 30", "1.5"),
        (Sentence("change-next-gpus", asked=600, capacity=512, n=4), "bring it forward", "With 4 cards it", "10"),
        (
            Sentence("change-stays", asked=600, capacity=512),
            "is before it",
            "ask for 600 cards, and the pool has",
            None,
        ),
    ],
)
def test_where_no_room_would_do_the_page_says_what_is_before_and_what_brings_it_forward(
    app: Flask, cast: Cast, policy: Policy, change: Sentence, heading: str, told: str, again: str | None
) -> None:
    id = waits(cast, policy, 1)
    cast.database.transaction(lambda s: s.execute(sa.update(Standing).values(change=change.to_json())))
    answer = sign_in(app, cast.users["chen"], language="en").get(f"/bookings/{id}")
    assert f"What {heading}" in words(answer) or f"What would {heading}" in words(answer)
    assert told in words(answer) and "would start it now" not in words(answer)
    offered = re.findall(r'href="/bookings/new[^"]*longest=([0-9.]+)', answer.text)
    assert offered == ([] if again is None else [again])


def test_the_form_says_when_a_flexible_booking_would_probably_start(app: Flask, cast: Cast) -> None:
    picture(cast)
    client = sign_in(app, cast.users["chen"], language="en")
    with Queries(cast.database) as queries:
        text = words(client.get(f"/bookings/new?kind=flexible&allocation_id={cast.allocation}&gpus=8&longest=1.5"))
    assert len(queries) <= 10, queries.statements
    assert "probably by today 14:00" in text and "half of such bookings start before today 12:00" in text
    unknown = words(client.get(f"/bookings/new?kind=flexible&allocation_id={cast.allocation}&gpus=8&longest=3"))
    assert "As soon as the queue allows" in unknown


def test_who_approves_sees_when_it_would_start(app: Flask, cast: Cast, policy: Policy) -> None:
    def threshold(session: sa.orm.Session) -> None:
        session.execute(sa.update(Programme).values(booking_approval_gpu_seconds=3_600))

    cast.database.transaction(threshold)
    picture(cast)
    id = cast.submit(cast.flexible(gpus=8, hours=2), policy.bookings)
    assert "Approved now, it would start by today 14:00." in page(app, cast, "zhou", f"/bookings/{id}")


def test_every_reason_has_words_for_those_who_may_not_know_its_numbers(cast: Cast) -> None:
    from compute_portal.texts import CATALOGUE

    reasons = {id for id in CATALOGUE if id.startswith("wait-") and not id.endswith("-theirs")}
    assert reasons == set(queue.TO_OTHERS)
    assert set(queue.TO_OTHERS.values()) | set(queue.TO_BUREAU.values()) <= set(CATALOGUE)
    told = queue.told(LIMIT.to_json(), cast.luyu, cast.member)
    assert told == Sentence("others-limit")
    assert Role.MEMBER in cast.member.roles
