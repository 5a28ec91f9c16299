"""Roles are given and taken, people disabled and erased: never by themselves, and somebody who may do it is left."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal import verify
from compute_portal.access import Actor, Role
from compute_portal.bookings import service as bookings
from compute_portal.enterprises.models import Enterprise, Membership
from compute_portal.enterprises.service import add_member
from compute_portal.lifecycle import list_history
from compute_portal.notices import service as notices
from compute_portal.notices.models import Delivery, Notice
from compute_portal.people import queries, service
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal, Sentence
from compute_portal.signin import links
from compute_portal.signin.models import BureauRole, OneTimeLink, SshKey, User, UserSession
from compute_portal.signin.service import create_person
from compute_portal.signin.states import PersonState
from tests.cast import NOW, Cast
from tests.web import make_app, post, sign_in, words


@pytest.fixture
def newcomer(cast: Cast) -> int:
    """Somebody with an account and nothing else."""

    def work(session: Any) -> int:
        return create_person(session, email="zhao@example.cn", name="赵新", password_hash=None, now=NOW).id

    return cast.database.transaction(work)


def give(cast: Cast, user_id: int, role: Role, by: str = "an") -> None:
    cast.database.transaction(lambda s: service.give(s, user_id, role, by=cast.actor(by), now=NOW).id)


def roles(cast: Cast, user_id: int) -> list[Role]:
    with cast.database.read_only() as session:
        return queries.list_roles(session, [user_id])[user_id]


def refused(work: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        work()
    return refusal.value.sentence.id


# -- roles


def test_a_role_given_works_on_the_next_request_and_one_taken_is_gone_on_the_next(
    cast: Cast, policy: Policy, newcomer: int
) -> None:
    app = make_app(cast.database, policy)
    admin, other = sign_in(app, cast.users["an"], language="en"), sign_in(app, newcomer, language="en")
    assert other.get("/enterprises").status_code == 403
    page = f"/people/{newcomer}"
    answer = post(admin, f"{page}/give", {"role": "auditor"}, page=page)
    assert answer.headers["Location"] == page
    assert other.get("/enterprises").status_code == 200
    shown = words(admin.get(page))
    assert "One role at the bureau" in shown and "Role given: auditor" in shown and "Role given An Ran" in shown
    assert "You have a role at the bureau: auditor" in words(other.get("/notices"))
    post(admin, f"{page}/take", {"role": "auditor"}, page=page)
    assert other.get("/enterprises").status_code == 403
    with cast.database.read_only() as session:
        assert [e.verb for e in list_history(session, User.LIFE, newcomer)] == ["take", "give", "register"]


def test_nobody_gives_a_role_to_themselves_or_to_a_member_and_no_role_twice(
    cast: Cast, policy: Policy, newcomer: int
) -> None:
    assert refused(lambda: give(cast, cast.users["an"], Role.FINANCE)) == "not-to-yourself"
    assert refused(lambda: give(cast, cast.users["chen"], Role.FINANCE)) == "bureau-or-enterprise"
    assert refused(lambda: give(cast, newcomer, Role.MANAGER)) == "role-not-bureau"
    give(cast, newcomer, Role.FINANCE)
    assert refused(lambda: give(cast, newcomer, Role.FINANCE)) == "role-there-already"
    assert refused(lambda: give(cast, newcomer, Role.ADMIN, by="zhou")) == "not-allowed"
    with pytest.raises(Refusal, match="bureau-or-enterprise"):
        cast.database.transaction(lambda s: add_member(s, cast.luyu, newcomer, Role.MEMBER, now=NOW))
    app = make_app(cast.database, policy)
    page = f"/people/{cast.users['chen']}"
    answer = post(sign_in(app, cast.users["an"]), f"{page}/give", {"role": "finance"}, page=page)
    assert answer.status_code == 422 and roles(cast, cast.users["chen"]) == []


def test_the_last_administrator_cannot_be_removed_in_any_way(cast: Cast, newcomer: int) -> None:
    an = cast.users["an"]
    give(cast, newcomer, Role.ADMIN)
    other = Actor.of(newcomer, frozenset({Role.ADMIN}))
    run = cast.database.transaction
    run(lambda s: service.take(s, an, Role.ADMIN, by=other, now=NOW).id)
    assert roles(cast, newcomer) == [Role.ADMIN]
    still = cast.actor("an")  # a request that began before
    assert refused(lambda: run(lambda s: service.take(s, newcomer, Role.ADMIN, by=still, now=NOW))) == "last-admin"
    assert refused(lambda: run(lambda s: service.disable(s, newcomer, "x", by=still, now=NOW))) == "last-admin"
    assert refused(lambda: run(lambda s: service.erase(s, newcomer, "x", by=still, now=NOW))) == "last-admin"
    assert refused(lambda: run(lambda s: service.disable(s, newcomer, "x", by=other, now=NOW))) == "not-yourself"


def test_two_administrators_who_remove_each_other_at_once_leave_one(cast: Cast, newcomer: int) -> None:
    give(cast, newcomer, Role.ADMIN)
    pairs = [(cast.actor("an"), newcomer), (Actor.of(newcomer, frozenset({Role.ADMIN})), cast.users["an"])]
    together, outcomes = threading.Barrier(2), []

    def remove(by: Actor, whom: int) -> None:
        together.wait()
        try:
            cast.database.transaction(lambda s: service.take(s, whom, Role.ADMIN, by=by, now=NOW).id)
            outcomes.append("taken")
        except Refusal as refusal:
            outcomes.append(refusal.sentence.id)

    threads = [threading.Thread(target=remove, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["last-admin", "taken"]


# -- disabling


def test_a_disabled_person_is_out_at_the_next_request_and_comes_back_as_before(cast: Cast, policy: Policy) -> None:
    app = make_app(cast.database, policy)
    admin, wu = sign_in(app, cast.users["an"], language="en"), sign_in(app, cast.users["wu"])
    page = f"/people/{cast.users['wu']}"
    assert wu.get("/start").status_code == 200
    answer = post(admin, f"{page}/disable", {"reason": ""})
    assert answer.status_code == 422 and "This is needed." in words(answer)
    assert wu.get("/start").status_code == 200
    answer = post(admin, f"{page}/disable", {"reason": "离职"})
    assert answer.status_code == 302
    assert wu.get("/start").headers["Location"].startswith("/sign-in")
    shown = words(admin.get(page))
    assert "Disabled" in shown and "离职" in shown
    post(admin, f"{page}/enable", page=page)
    assert wu.get("/start").headers["Location"].startswith("/sign-in"), "the old sessions stay ended"
    assert sign_in(app, cast.users["wu"]).get("/start").status_code == 200
    with cast.database.read_only() as session:
        assert [e.verb for e in list_history(session, User.LIFE, cast.users["wu"])] == ["enable", "disable", "register"]
        assert verify.run(session) == []


# -- erasing


def test_erasing_leaves_the_number_and_nothing_that_says_who_it_was(cast: Cast, policy: Policy) -> None:
    tang, run = cast.users["tang"], cast.database.transaction

    def traces(session: Any) -> None:
        session.add(SshKey(user_id=tang, name="laptop", public_key="ssh-ed25519 A", fingerprint="f", added_at=NOW))
        links.make(session, "reset", tang, "tang@example.cn", 60, NOW)
        notices.send(session, to=tang, about=Sentence("mail-password-changed"), now=NOW)
        notices.send(
            session, to=None, address="tang@example.cn", about=Sentence("mail-reset"), link="/reset?token=x", now=NOW
        )
        session.execute(sa.update(User).where(User.id == tang).values(password_hash="x"))
        session.get_one(Enterprise, cast.luyu).contact_name = session.get_one(User, tang).name
        session.get_one(Enterprise, cast.yusheng).contact_name = "林晓禾"

    run(traces)
    booking = cast.submit(
        cast.flexible(2, 1, allocation_id=cast.other_allocation), policy.bookings, by=cast.actor("tang")
    )
    app = make_app(cast.database, policy)
    admin, himself = sign_in(app, cast.users["an"], language="en"), sign_in(app, tang)
    page = f"/people/{tang}/erase"
    assert "cannot be undone" in words(admin.get(page))
    answer = post(admin, page, {"reason": "本人要求"})
    assert answer.status_code == 422 and "1 booking of this person is open." in words(answer)
    run(lambda s: bookings.cancel(s, booking, by=cast.actor("tang"), now=NOW).id)
    assert post(admin, page, {"reason": "本人要求"}).headers["Location"] == "/people"
    assert himself.get("/start").headers["Location"].startswith("/sign-in")
    assert admin.get(f"/people/{tang}").status_code == 404
    with cast.database.read_only() as session:
        assert session.get_one(Enterprise, cast.luyu).contact_name is None
        assert session.get_one(Enterprise, cast.yusheng).contact_name is not None
        row = session.get_one(User, tang)
        assert (row.state, row.name, row.name_en, row.password_hash) == (PersonState.ERASED, "", None, None)
        assert "@" not in row.email
        for model in (SshKey, Membership, BureauRole, UserSession):
            assert session.scalar(sa.select(sa.func.count()).where(model.user_id == tang)) == 0
        assert session.scalar(sa.select(sa.func.count()).select_from(OneTimeLink)) == 0
        waiting = session.scalars(sa.select(Notice).where(Notice.delivery == Delivery.WAITING)).all()
        assert all(notice.user_id not in (tang,) and notice.address is None for notice in waiting)
        assert list_history(session, User.LIFE, tang)[0].verb == "erase"
        assert verify.run(session) == []
        everything = " ".join(repr(session.execute(sa.select(table)).all()) for table in User.metadata.sorted_tables)
        assert "tang@example.cn" not in everything and "唐一" not in everything and "Tang Yi" not in everything
    assert "Somebody who has left" in words(admin.get(f"/bookings/{booking}"))


def test_the_last_manager_of_an_enterprise_is_not_erased_until_there_is_another(cast: Cast) -> None:
    run, lin = cast.database.transaction, cast.users["lin"]

    def erase() -> None:
        run(lambda s: service.erase(s, lin, "x", by=cast.actor("an"), now=NOW).id)

    assert refused(erase) == "last-manager-of"
    run(
        lambda s: s.execute(
            sa.update(Membership).where(Membership.user_id == cast.users["chen"]).values(role="manager")
        )
    )
    erase()
    with cast.database.read_only() as session:
        assert session.get_one(User, lin).state is PersonState.ERASED


def test_verify_names_an_erased_person_of_whom_something_is_left(cast: Cast) -> None:
    run, tang = cast.database.transaction, cast.users["tang"]
    run(lambda s: service.erase(s, tang, "x", by=cast.actor("an"), now=NOW).id)
    run(lambda s: s.execute(sa.update(User).where(User.id == tang).values(name_en="Tang Yi")))
    run(lambda s: s.add(SshKey(user_id=tang, name="l", public_key="k", fingerprint="f", added_at=NOW)))
    with cast.database.read_only() as session:
        found = [problem.line for problem in verify.run(session) if problem.check == "erased"]
    assert len(found) == 2 and all(f"Person {tang} is erased" in line for line in found)


# -- lists


def test_people_are_found_by_name_address_role_and_state(cast: Cast, policy: Policy) -> None:
    app = make_app(cast.database, policy)
    admin = sign_in(app, cast.users["an"], language="en")
    assert "9 people have an account" in words(admin.get("/people"))
    for query, found, left_out in (
        ("find=Zhou", "Zhou Yu’an", "Wu Shen"),
        ("find=CHEN%40example", "Chen Yi", "Lin Xiaohe"),
        ("role=auditor", "Xu Jing", "Zhou Yu’an"),
        ("find=%25", "Nobody fits", "Zhou Yu’an"),
    ):
        shown = words(admin.get(f"/people?{query}"))
        assert found in shown and left_out not in shown, query
    assert "One person fits" in words(admin.get("/people?role=admin"))
    assert sign_in(app, cast.users["zhou"]).get("/people").status_code == 403
    auditor = sign_in(app, cast.users["xu"], language="en")
    assert auditor.get("/people").status_code == 200
    assert post(auditor, f"/people/{cast.users['wu']}/erase", {"reason": "x"}, page="/account").status_code == 403


# -- mail and notices


def test_operators_see_what_no_server_took_and_send_it_again(cast: Cast, policy: Policy) -> None:
    run = cast.database.transaction
    run(lambda s: s.execute(sa.delete(Notice)))
    run(lambda s: notices.send(s, to=cast.users["lin"], about=Sentence("mail-password-changed"), now=NOW))
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Notice.id)).one()
    run(lambda s: notices.mark_failed(s, id, "550 no such user", now=NOW))
    operator = sign_in(make_app(cast.database, policy), cast.users["zhou"], language="en")
    shown = words(operator.get("/people/mail"))
    assert "One mail did not arrive" in shown and "Lin Xiaohe" in shown and "550 no such user" in shown
    assert post(operator, f"/people/mail/{id}/retry", page="/people/mail").status_code == 302
    with cast.database.read_only() as session:
        assert session.get_one(Notice, id).delivery is Delivery.WAITING
    assert post(operator, f"/people/mail/{id}/retry", page="/account").status_code == 409


def test_a_person_reads_the_own_notices_only_and_the_header_counts_the_unread(cast: Cast, policy: Policy) -> None:
    run = cast.database.transaction
    run(lambda s: s.execute(sa.delete(Notice)))
    for _ in range(2):
        run(
            lambda s: notices.send(
                s, to=cast.users["lin"], about=Sentence("mail-password-changed"), link="/account", now=NOW
            )
        )
    with cast.database.read_only() as session:
        first = session.scalars(sa.select(Notice.id).order_by(Notice.id)).first()
    app = make_app(cast.database, policy)
    lin, chen = sign_in(app, cast.users["lin"]), sign_in(app, cast.users["chen"])
    page = words(lin.get("/notices"))
    assert "2 条通知未读" in page and "你的密码已修改" in page
    assert "2 条通知未读" in words(lin.get("/notices")), "looking at the list reads nothing"
    assert "你的密码已修改" not in words(chen.get("/notices"))
    assert post(chen, f"/notices/{first}/read", page="/notices").status_code == 404
    assert post(lin, f"/notices/{first}/read", page="/notices").headers["Location"] == "/account"
    assert "1 条通知未读" in words(lin.get("/notices"))
    assert post(lin, "/notices/read", page="/notices").status_code == 302
    page = words(lin.get("/notices"))
    assert "1 条通知已标为已读。" in page and "通知都已读" in page


def test_mail_in_a_folder_is_shown_in_a_demo_and_nowhere_else(cast: Cast, policy: Policy, tmp_path: Any) -> None:
    demo = make_app(cast.database, policy, env="demo", mail_dir=tmp_path)
    assert "还没有邮件" in words(demo.test_client().get("/mail"))
    assert make_app(cast.database, policy).test_client().get("/mail").status_code == 404
