"""A session begins at sign-in and ends when it should; the cookie alone is worth nothing afterwards."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
import time_machine

from compute_portal import clock
from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.enterprises.models import Membership
from compute_portal.enterprises.queries import actor_for
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin import passwords, queries, service
from compute_portal.signin.models import AccessLogEntry, BureauRole, User, UserSession
from tests.cast import Cast
from tests.web import PASSWORD, Browser, Queries, email_of, give_password, make_app, plain


@pytest.fixture
def browser(database: Database, policy: Policy, cast: Cast) -> Browser:
    return Browser(make_app(database, policy))


def test_a_person_signs_in_and_sees_name_and_enterprise_in_the_header(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    answer = browser.sign_in(" LIN@Example.cn ")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/home")
    page = browser.get("/account")
    assert page.status_code == 200
    assert "林晓禾" in plain(page)
    assert "屿声科技 · 企业管理员" in plain(page)


def test_the_database_keeps_only_a_hash_of_the_cookie(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    assert browser.cookie is not None
    assert len(browser.cookie) >= 43  # 256 bits
    with cast.database.read_only() as session:
        kept = session.scalars(sa.select(UserSession.token_hash)).all()
    assert kept == [queries.hash_token(browser.cookie)]
    assert browser.cookie not in kept


def test_a_copied_cookie_is_worth_nothing_after_sign_out(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    copied = browser.cookie
    assert copied is not None
    assert browser.is_signed_in
    browser.get("/account")
    answer = browser.post("/sign-out")
    assert answer.headers["Location"] == "/sign-in"
    assert browser.cookie is None
    thief = Browser(browser.app)
    thief.set_cookie(copied)
    assert thief.get("/account").headers["Location"] == "/sign-in?next=/account"


def test_every_sign_in_has_a_new_token_and_ends_the_old_session_of_the_browser(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    browser.be(cast.users["lin"])
    first = browser.cookie
    assert first is not None
    browser.client.get("/account")
    browser.page = browser.client.get("/account")
    browser.post("/sign-in", {"email": "lin@example.cn", "password": PASSWORD})
    assert browser.cookie not in (None, first)
    thief = Browser(browser.app)
    thief.set_cookie(first)
    assert not thief.is_signed_in
    assert browser.is_signed_in


def test_a_token_that_was_never_given_is_nobody(browser: Browser, cast: Cast) -> None:
    browser.set_cookie("A" * 43)
    assert not browser.is_signed_in


def test_disabling_a_person_ends_every_open_session_at_once(browser: Browser, cast: Cast) -> None:
    other = Browser(browser.app).be(cast.users["lin"])
    browser.be(cast.users["lin"])
    assert browser.is_signed_in
    assert other.is_signed_in
    cast.database.transaction(lambda s: service.disable_person(s, cast.users["lin"], now=clock.now()))
    assert not browser.is_signed_in
    assert not other.is_signed_in
    with cast.database.read_only() as session:
        assert session.scalars(sa.select(UserSession).where(UserSession.ended_at.is_(None))).all() == []
        assert actor_for(session, cast.users["lin"]) is None


def test_a_disabled_person_cannot_sign_in_and_is_told_the_same_as_everybody(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    cast.database.transaction(lambda s: service.disable_person(s, cast.users["lin"], now=clock.now()))
    answer = browser.sign_in("lin@example.cn")
    assert answer.status_code == 422
    assert "邮箱和密码对不上。" in plain(answer)


def test_a_removed_role_is_refused_at_the_next_request(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["zhou"])
    assert browser.get("/enterprises").status_code == 200
    cast.database.transaction(
        lambda s: s.execute(sa.delete(BureauRole).where(BureauRole.user_id == cast.users["zhou"]))
    )
    assert browser.get("/enterprises").status_code == 403


def test_a_session_ends_after_an_idle_hour(browser: Browser, cast: Cast, policy: Policy) -> None:
    start = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)
    idle = dt.timedelta(minutes=policy.sign_in.idle_minutes)
    with time_machine.travel(start, tick=False) as traveller:
        browser.be(cast.users["lin"])
        traveller.move_to(start + idle - dt.timedelta(minutes=1))
        assert browser.is_signed_in  # and the idle time starts again
        traveller.move_to(start + 2 * idle - dt.timedelta(minutes=2))
        assert browser.is_signed_in
        traveller.move_to(start + 4 * idle)
        assert not browser.is_signed_in


def test_a_session_ends_at_its_absolute_end_however_busy_it_is(browser: Browser, cast: Cast, policy: Policy) -> None:
    start = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)
    end = start + dt.timedelta(hours=policy.sign_in.absolute_hours)
    with time_machine.travel(start, tick=False) as traveller:
        browser.be(cast.users["lin"])
        at = start
        while at + dt.timedelta(minutes=50) < end:
            at += dt.timedelta(minutes=50)
            traveller.move_to(at)
            assert browser.is_signed_in
        traveller.move_to(end)
        assert not browser.is_signed_in


def test_reading_pages_touches_the_session_at_most_every_five_minutes(browser: Browser, cast: Cast) -> None:
    start = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)

    def seen() -> dt.datetime:
        with cast.database.read_only() as session:
            return session.scalars(sa.select(UserSession.seen_at)).one()

    with time_machine.travel(start, tick=False) as traveller:
        browser.be(cast.users["lin"])
        traveller.move_to(start + dt.timedelta(minutes=4, seconds=59))
        browser.get("/account")
        assert seen() == start
        traveller.move_to(start + dt.timedelta(minutes=5))
        browser.get("/account")
        assert seen() == start + dt.timedelta(minutes=5)


def test_changing_the_password_ends_all_other_sessions_and_keeps_this_browser(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    other = Browser(browser.app).be(cast.users["lin"])
    browser.be(cast.users["lin"])
    before = browser.cookie
    browser.get("/account")
    answer = browser.post("/account", {"current": PASSWORD, "password": "a new and longer sentence"})
    assert answer.status_code == 302
    assert browser.cookie != before
    assert "密码已修改" in plain(browser.get("/account"))
    assert not other.is_signed_in
    assert Browser(browser.app).sign_in("lin@example.cn").status_code == 422
    assert Browser(browser.app).sign_in("lin@example.cn", "a new and longer sentence").status_code == 302


@pytest.mark.parametrize(
    ("current", "password", "field", "sentence"),
    [
        ("not the right one", "a new and longer sentence", "current", "这不是你当前的密码。"),
        (PASSWORD, "short", "password", "至少用 10 个字符。"),
        (PASSWORD, "x" * 129, "password", "最多用 128 个字符。"),
        (PASSWORD, "Password123456", "password", "攻击者最先尝试"),
        (PASSWORD, "", "password", ""),
    ],
)
def test_a_refused_password_says_why_at_its_field_and_changes_nothing(
    browser: Browser, cast: Cast, current: str, password: str, field: str, sentence: str
) -> None:
    give_password(cast.database, cast.users["lin"])
    browser.be(cast.users["lin"])
    browser.get("/account")
    answer = browser.post("/account", {"current": current, "password": password})
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert sentence in plain(answer)
    assert "<title>有 1 处需要修改 · " in answer.text
    with cast.database.read_only() as session:
        assert passwords.verify(session.get_one(User, cast.users["lin"]).password_hash, PASSWORD)


def test_a_password_set_while_somebody_signs_in_with_the_old_one_wins(cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    with cast.database.read_only() as session:
        seen = session.get_one(User, cast.users["lin"]).password_hash
    give_password(cast.database, cast.users["lin"], "another sentence")
    with pytest.raises(Refusal, match="sign-in-wrong"):
        cast.database.transaction(lambda s: service.check_unchanged(s, cast.users["lin"], password_hash=seen))


def test_old_hashes_are_renewed_at_sign_in(browser: Browser, cast: Cast) -> None:
    from argon2 import PasswordHasher

    old = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    cast.database.transaction(lambda s: service.set_password(s, cast.users["lin"], old, now=clock.now()))
    assert browser.sign_in("lin@example.cn").status_code == 302
    with cast.database.read_only() as session:
        renewed = session.get_one(User, cast.users["lin"]).password_hash
    assert renewed is not None
    assert renewed != old
    assert not passwords.needs_rehash(renewed)
    assert renewed.startswith("$argon2id$")


def test_somebody_in_two_enterprises_acts_for_one_and_switches(browser: Browser, cast: Cast) -> None:
    cast.database.transaction(
        lambda s: s.add(
            Membership(user_id=cast.users["lin"], enterprise_id=cast.luyu, role=Role.MEMBER, since_at=clock.now())
        )
    )
    first, second = sorted([cast.yusheng, cast.luyu])
    names = {cast.yusheng: "屿声科技 · 企业管理员", cast.luyu: "鹭屿视觉 · 成员"}
    browser.be(cast.users["lin"])
    assert names[first] in plain(browser.get("/account"))
    browser.post("/act-for", {"enterprise_id": str(second)})
    assert names[second] in plain(browser.get("/account"))
    assert names[first] not in plain(browser.get("/account"))


def test_nobody_acts_for_an_enterprise_without_a_membership(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"], cast.yusheng)
    browser.get("/account")
    for asked in (str(cast.luyu), "", "0", "x", "99999999999999999999"):
        assert browser.post("/act-for", {"enterprise_id": asked}).status_code == 404
    assert "屿声科技" in plain(browser.get("/account"))


def test_the_access_log_holds_sign_in_failure_sign_out_and_denial_by_id_only(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["zhou"])
    browser.sign_in("nobody@example.cn", "wrong wrong wrong")
    browser.sign_in("zhou@example.cn", "wrong wrong wrong")
    browser.sign_in("zhou@example.cn")
    assert browser.get("/keys").status_code == 403
    browser.post("/sign-out")
    with cast.database.read_only() as session:
        rows = session.execute(
            sa.select(AccessLogEntry.kind, AccessLogEntry.user_id, AccessLogEntry.path).order_by(AccessLogEntry.id)
        ).all()
    zhou = cast.users["zhou"]
    assert [tuple(row) for row in rows] == [
        ("sign-in-failed", None, "/sign-in"),
        ("sign-in-failed", zhou, "/sign-in"),
        ("sign-in", zhou, "/sign-in"),
        ("denied", zhou, "/keys"),
        ("sign-out", zhou, "/sign-out"),
    ]


def test_a_forged_forwarded_header_does_not_change_the_logged_address(
    database: Database, policy: Policy, cast: Cast
) -> None:
    give_password(database, cast.users["zhou"])
    headers = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}
    Browser(make_app(database, policy)).sign_in("zhou@example.cn", headers=headers)
    Browser(make_app(database, policy, trusted_proxies=1)).sign_in("zhou@example.cn", headers=headers)
    with database.read_only() as session:
        assert session.scalars(sa.select(AccessLogEntry.address).order_by(AccessLogEntry.id)).all() == [
            "127.0.0.1",
            "198.51.100.7",
        ]


def test_knowing_the_person_costs_one_query_a_page(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    browser.get("/account")
    with Queries(cast.database) as queries_sent:
        assert browser.get("/account").status_code == 200
    assert len(queries_sent) == 1, queries_sent.statements


def test_the_email_is_the_same_person_in_capitals(cast: Cast) -> None:
    assert email_of(cast.database, cast.users["lin"]) == "lin@example.cn"
    with pytest.raises(Refusal, match="email-taken"):
        cast.database.transaction(
            lambda s: service.create_person(s, email="LIN@example.cn", name="x", password_hash=None, now=clock.now())
        )


def test_a_bureau_person_is_made_with_roles_but_never_with_a_members_role(cast: Cast) -> None:
    made = cast.database.transaction(
        lambda s: (
            service.create_person(
                s,
                email="new@bureau.cn",
                name="新人",
                password_hash=None,
                roles=frozenset({Role.OPERATOR, Role.AUDITOR}),
                now=clock.now(),
            ).id
        )
    )
    with cast.database.read_only() as session:
        actor = actor_for(session, made)
        assert actor is not None
        assert actor.roles == {Role.OPERATOR, Role.AUDITOR}
        assert actor.enterprise_id is None
    with pytest.raises(Refusal, match="role-not-bureau"):
        cast.database.transaction(
            lambda s: service.create_person(
                s, email="b@b.cn", name="x", password_hash=None, roles=frozenset({Role.MANAGER}), now=clock.now()
            )
        )


def test_an_actor_exists_only_for_an_enterprise_the_person_belongs_to(cast: Cast) -> None:
    with cast.database.read_only() as session:
        lin = actor_for(session, cast.users["lin"], cast.yusheng)
        assert lin is not None
        assert (lin.enterprise_id, lin.roles) == (cast.yusheng, {Role.MANAGER})
        assert actor_for(session, cast.users["lin"], cast.luyu) is None
        assert actor_for(session, 999_999) is None
