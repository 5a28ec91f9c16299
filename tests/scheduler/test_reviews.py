"""What the timetable does for reviews, through the scheduler's own writing: once each, and never a refusal."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from compute_portal.allocations.states import AllocationState
from compute_portal.enterprises.models import Enterprise
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.policy_versions import PolicyVersion
from compute_portal.review.models import Letter
from scheduler import reviews
from scheduler.context import Context, PassFailed
from tests.cast import NOW, Cast
from tests.compute_portal.review.house import allocation, approve, ask


def letters_of(cast: Cast) -> list[int]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Letter.decision_id)))


def test_letters_are_issued_once_and_the_policy_is_written_down(context: Context, cast: Cast, policy: Policy) -> None:
    approve(cast, ask(cast), policy)
    reviews.run(context, NOW)
    first = letters_of(cast)
    assert len(first) == 3  # the cast's two allocations too
    reviews.run(context, NOW + dt.timedelta(minutes=1))
    assert letters_of(cast) == first
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(PolicyVersion)) == 1


def test_one_letter_that_cannot_be_set_is_named_and_stops_no_other(
    context: Context, cast: Cast, policy: Policy
) -> None:
    cast.database.transaction(
        lambda s: s.execute(sa.update(Enterprise).where(Enterprise.id == cast.luyu).values(name="𬭎屿视觉"))
    )
    with pytest.raises(PassFailed, match=r"U\+2CB4E"):
        reviews.run(context, NOW)
    assert len(letters_of(cast)) == 1


def test_a_late_request_is_told_of_once_given_to_another_and_stays_open(
    context: Context, cast: Cast, policy: Policy
) -> None:
    id = ask(cast)
    months_later = NOW + dt.timedelta(days=20)
    told = []
    for minute in range(3):
        reviews.run(context, months_later + dt.timedelta(minutes=minute))
        with cast.database.read_only() as session:
            told.append(session.scalar(sa.select(sa.func.count()).where(Notice.link == f"/reviews/{id}")))
    assert told == [4, 4, 4]  # two operators and the administrator that it is late, one that it is theirs
    assert allocation(cast, id).state is AllocationState.SUBMITTED
