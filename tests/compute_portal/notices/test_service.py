"""A notice is one row in the verb's own transaction: sent once, to whom it concerns, or not at all."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from compute_portal.access import Role
from compute_portal.enterprises.notify import send_to_managers, send_to_members
from compute_portal.notices import service as notices
from compute_portal.notices.models import Delivery, Notice
from compute_portal.sentences import Sentence
from compute_portal.signin.notify import send_to_role
from compute_portal.signin.service import disable_person
from tests.cast import NOW, Cast

CHANGED = Sentence("mail-password-changed")


@pytest.fixture(autouse=True)
def nothing_told(cast: Cast) -> None:
    """What made the cast told people things too."""
    cast.database.transaction(lambda s: s.execute(sa.delete(Notice)))


def receivers(cast: Cast) -> list[int | None]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Notice.user_id).order_by(Notice.id)))


def test_what_is_rolled_back_is_never_told(cast: Cast) -> None:
    def work(session: object) -> None:
        notices.send(session, to=cast.users["lin"], about=CHANGED, now=NOW)  # type: ignore[arg-type]
        raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError):
        cast.database.transaction(work)
    assert receivers(cast) == []


def test_the_same_event_is_told_once_to_each_receiver_whatever_restarts(cast: Cast) -> None:
    def event() -> tuple[bool, int]:
        return cast.database.transaction(
            lambda s: (
                notices.send(s, to=cast.users["lin"], about=CHANGED, key="booking-1-ends", now=NOW),
                send_to_members(s, cast.yusheng, about=CHANGED, key="booking-1-ends", now=NOW),
            )
        )

    assert event() == (True, 1)  # Lin was told already, Chen is told
    assert event() == (False, 0)
    assert receivers(cast) == [cast.users["lin"], cast.users["chen"]]


def test_an_address_is_told_once_and_its_key_does_not_hold_it(cast: Cast) -> None:
    for _ in range(2):
        cast.database.transaction(
            lambda s: notices.send(s, to=None, address="New@Example.cn", about=CHANGED, key="invitation-7", now=NOW)
        )
    with cast.database.read_only() as session:
        (row,) = session.scalars(sa.select(Notice)).all()
        assert (row.address, row.user_id) == ("new@example.cn", None)
        assert row.key is not None and row.key.startswith("invitation-7:") and "example" not in row.key


def test_managers_members_and_roles_are_told_but_nobody_who_is_disabled(cast: Cast) -> None:
    run = cast.database.transaction
    run(lambda s: disable_person(s, cast.users["wu"], now=NOW))
    assert run(lambda s: send_to_managers(s, cast.yusheng, about=CHANGED, now=NOW)) == 1
    assert run(lambda s: send_to_members(s, cast.yusheng, about=CHANGED, now=NOW)) == 2
    assert run(lambda s: send_to_role(s, Role.OPERATOR, about=CHANGED, now=NOW)) == 1
    lin, chen, zhou = (cast.users[name] for name in ("lin", "chen", "zhou"))
    assert receivers(cast) == [lin, lin, chen, zhou]


def test_a_notice_has_one_receiver_and_leads_nowhere_outside(cast: Cast) -> None:
    run = cast.database.transaction
    for wrong in (
        {"to": None},
        {"to": cast.users["lin"], "address": "a@example.cn"},
        {"to": cast.users["lin"], "link": "https://elsewhere.example"},
    ):
        with pytest.raises(ValueError, match="notice"):
            run(lambda s, wrong=wrong: notices.send(s, about=CHANGED, now=NOW, **wrong))  # type: ignore[misc]


def test_an_address_and_its_one_time_link_are_forgotten_once_they_were_used(cast: Cast) -> None:
    run = cast.database.transaction
    run(lambda s: notices.send(s, to=None, address="a@example.cn", about=CHANGED, link="/reset?token=x", now=NOW))
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Notice.id)).one()
    run(lambda s: notices.mark_sent(s, id, now=NOW))
    with cast.database.read_only() as session:
        row = session.get_one(Notice, id)
        assert (row.delivery, row.address, row.link) == (Delivery.SENT, None, None)
