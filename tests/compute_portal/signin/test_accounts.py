"""People sign up, confirm their address and set new passwords; nobody learns from it who is registered."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
import time_machine

from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.enterprises.models import Membership
from compute_portal.enterprises.service import add_member
from compute_portal.lifecycle import list_history
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin import links, passwords
from compute_portal.signin.models import OneTimeLink, User, UserSession
from tests.cast import NOW, Cast, _firm
from tests.web import PASSWORD, Browser, give_password, make_app, rows_in, words

START = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)
NEW = {"name": "赵新", "name_en": "Zhao Xin", "email": "Zhao@Example.cn", "password": PASSWORD}
SIGN_UP = "/sign-up"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hasher with less work: what it costs is tested elsewhere."""
    quick = passwords.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "HASHER", quick)
    passwords._stand_in.cache_clear()


@pytest.fixture
def browser(cast: Cast, policy: Policy) -> Browser:
    cast.database.transaction(lambda s: s.execute(sa.delete(Notice)))
    return Browser(make_app(cast.database, policy))


def mails(database: Database) -> list[Notice]:
    with database.read_only() as session:
        return list(session.scalars(sa.select(Notice).order_by(Notice.id)))


def link_in(database: Database) -> str:
    """The path in the newest mail."""
    newest = mails(database)[-1].link
    assert newest is not None
    return newest


def token_in(path: str) -> str:
    return path.partition("token=")[2]


def person(database: Database, email: str) -> User:
    with database.read_only() as session:
        return session.scalars(sa.select(User).where(User.email == email)).one()


def sign_up(browser: Browser, **changes: str) -> str:
    browser.get(SIGN_UP)
    answer = browser.post(SIGN_UP, NEW | changes)
    assert answer.status_code == 302, words(answer)
    return words(browser.get(answer.headers["Location"]))


# -- signing up


def test_somebody_signs_up_confirms_the_address_and_is_let_in(browser: Browser, cast: Cast) -> None:
    assert "邮件已发往 zhao@example.cn" in sign_up(browser)
    new = person(cast.database, "zhao@example.cn")
    assert (new.name, new.name_en, new.language, new.confirmed_at) == ("赵新", "Zhao Xin", "zh", None)
    browser.sign_in("zhao@example.cn")
    assert "还差一步：邮箱没有确认" in words(browser.get("/home", follow_redirects=True))
    page = browser.get(link_in(cast.database))
    assert "zhao@example.cn 是你的邮箱吗？" in words(page)
    assert person(cast.database, "zhao@example.cn").confirmed_at is None, "looking confirms nothing"
    answer = browser.post("/confirm", {"token": token_in(link_in(cast.database))}, follow_redirects=True)
    assert "邮箱已确认。" in words(answer) and "你还不属于任何企业" in words(answer)
    new = person(cast.database, "zhao@example.cn")
    assert new.confirmed_at is not None
    with cast.database.read_only() as session:
        moves = [(entry.verb, entry.by_id) for entry in list_history(session, User.LIFE, new.id)]
    assert moves == [("confirm", new.id), ("register", new.id)]


def test_an_unconfirmed_person_sees_only_what_is_missing(browser: Browser, cast: Cast) -> None:
    sign_up(browser)
    new = person(cast.database, "zhao@example.cn")
    cast.database.transaction(lambda s: add_member(s, cast.yusheng, new.id, Role.MEMBER, now=NOW))
    browser.be(new.id)
    for page in ("/start", "/bookings", "/pools", "/notices", "/keys", "/members"):
        assert browser.get(page).headers["Location"] == "/unconfirmed", page
    browser.get("/unconfirmed")
    assert browser.post("/account/profile", {"name": "别名", "language": "zh"}).headers["Location"] == "/unconfirmed"
    assert person(cast.database, "zhao@example.cn").name == "赵新"
    assert browser.get("/account").status_code == 200
    assert browser.post("/sign-out").status_code == 302


def test_the_link_alone_confirms_nothing_without_the_password(browser: Browser, cast: Cast) -> None:
    sign_up(browser)
    link = link_in(cast.database)
    assert browser.get(link).headers["Location"].startswith("/sign-in?next=/confirm")
    browser.be(cast.users["lin"])
    cast.database.transaction(
        lambda s: s.execute(sa.update(User).where(User.id == cast.users["lin"]).values(confirmed_at=None))
    )
    assert "这个链接不能再用" in words(browser.get(link))
    assert browser.post("/confirm", {"token": token_in(link)}).status_code == 409
    assert person(cast.database, "zhao@example.cn").confirmed_at is None
    assert person(cast.database, "lin@example.cn").confirmed_at is None


def test_signing_up_with_a_registered_address_answers_the_same_and_changes_nothing(
    browser: Browser, cast: Cast
) -> None:
    give_password(cast.database, cast.users["lin"])
    before = person(cast.database, "lin@example.cn")
    known = sign_up(browser, email="lin@example.cn").replace("lin@example.cn", "…")
    unknown = sign_up(Browser(browser.app)).replace("zhao@example.cn", "…")
    clock = re.compile(r"\d\d:\d\d:\d\d")
    assert clock.sub("", known) == clock.sub("", unknown)
    after = person(cast.database, "lin@example.cn")
    assert (after.name, after.password_hash) == (before.name, before.password_hash)
    mail = mails(cast.database)[0]
    assert (mail.address, mail.user_id, mail.about["id"]) == ("lin@example.cn", None, "mail-signed-up-already")


def test_an_address_that_was_never_confirmed_may_be_signed_up_again(browser: Browser, cast: Cast) -> None:
    sign_up(browser)
    first = person(cast.database, "zhao@example.cn")
    sign_up(Browser(browser.app), name="赵欣", password="another one of these 5")
    again = person(cast.database, "zhao@example.cn")
    assert (again.id, again.name) == (first.id, "赵欣") and again.password_hash != first.password_hash


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": " "}, "要填写"),
        ({"email": "zhao"}, "请填写邮箱"),
        ({"email": "zhao@localhost"}, "请填写邮箱"),
        ({"email": "赵@example.cn"}, "请填写邮箱"),
        ({"email": "a@b.cn\r\nBcc: x@y.cn"}, "请填写邮箱"),
        ({"password": "short"}, "至少用 10 个字符。"),
        ({"password": "password1234"}, "攻击者最先尝试"),
        ({"password": "zhao@example.cn"}, "不要用自己的姓名或邮箱作密码。"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_sent(
    browser: Browser, cast: Cast, changes: dict[str, str], said: str
) -> None:
    browser.get(SIGN_UP)
    answer = browser.post(SIGN_UP, NEW | changes)
    assert answer.status_code == 422 and 'aria-invalid="true"' in answer.text
    if changes.keys() != {"name"}:
        assert said in words(answer) and 'value="赵新"' in answer.text
    assert mails(cast.database) == []


def test_a_mailbox_is_not_flooded(browser: Browser, cast: Cast, policy: Policy) -> None:
    with time_machine.travel(START, tick=False) as traveller:
        for _ in range(policy.sign_in.tries):
            sign_up(Browser(browser.app))
        many = len(mails(cast.database))
        browser.get("/forgot")
        answer = browser.post("/forgot", {"email": "zhao@example.cn"})
        assert answer.status_code == 422 and "15 分钟后再申请" in words(answer)
        browser.get(SIGN_UP)
        assert browser.post(SIGN_UP, NEW).status_code == 422
        assert len(mails(cast.database)) == many == policy.sign_in.tries
        traveller.shift(dt.timedelta(minutes=policy.sign_in.pause_minutes, seconds=1))
        sign_up(Browser(browser.app))


def test_the_link_is_sent_once_more_on_request_and_ends_after_its_time(
    browser: Browser, cast: Cast, policy: Policy
) -> None:
    with time_machine.travel(START, tick=False) as traveller:
        sign_up(browser)
        new = person(cast.database, "zhao@example.cn")
        traveller.shift(dt.timedelta(hours=policy.sign_in.confirm_hours))
        browser.be(new.id)
        browser.get("/unconfirmed")
        assert browser.post("/confirm", {"token": token_in(link_in(cast.database))}).status_code == 409
        browser.get("/unconfirmed")
        assert "已再次发往 zhao@example.cn" in words(browser.post("/unconfirmed", follow_redirects=True))
        browser.post("/confirm", {"token": token_in(link_in(cast.database))})
        assert person(cast.database, "zhao@example.cn").confirmed_at is not None


# -- a new password


def ask(browser: Browser, email: str) -> str:
    browser.get("/forgot")
    answer = browser.post("/forgot", {"email": email}, follow_redirects=True)
    return re.sub(r"\d\d:\d\d:\d\d", "", words(answer).replace(email, "…"))


def test_the_answer_never_tells_whether_an_address_is_registered(browser: Browser, cast: Cast) -> None:
    said = {ask(Browser(browser.app), email) for email in ("lin@example.cn", "nobody@example.cn")}
    assert len(said) == 1 and "设新密码的链接已发出" in said.pop()
    assert [mail.address for mail in mails(cast.database)] == ["lin@example.cn"]


def test_a_new_password_by_mail_works_once_and_ends_every_session(browser: Browser, cast: Cast) -> None:
    give_password(cast.database, cast.users["lin"])
    elsewhere = Browser(browser.app).be(cast.users["lin"])
    ask(browser, "lin@example.cn")
    path = link_in(cast.database)
    assert "账户：lin@example.cn" in words(browser.get(path))
    answer = browser.post("/reset", {"token": token_in(path), "password": "a quite new one 7"})
    assert answer.headers["Location"] == "/sign-in"
    assert not elsewhere.is_signed_in
    assert Browser(browser.app).sign_in("lin@example.cn").status_code == 422
    assert Browser(browser.app).sign_in("lin@example.cn", "a quite new one 7").status_code == 302
    assert "这个链接不能再用" in words(browser.get(path))
    browser.post("/reset", {"token": token_in(path), "password": "another new one 8"})
    assert Browser(browser.app).sign_in("lin@example.cn", "another new one 8").status_code == 422
    told = mails(cast.database)[-1]
    assert (told.user_id, told.about["id"]) == (cast.users["lin"], "mail-password-changed")


def test_a_link_for_a_new_password_is_good_for_thirty_minutes(browser: Browser, cast: Cast) -> None:
    with time_machine.travel(START, tick=False) as traveller:
        ask(browser, "lin@example.cn")
        path = link_in(cast.database)
        traveller.shift(dt.timedelta(minutes=29, seconds=59))
        assert "账户：lin@example.cn" in words(browser.get(path))
        traveller.shift(dt.timedelta(seconds=1))
        assert "这个链接不能再用" in words(browser.get(path))
        answer = browser.post("/reset", {"token": token_in(path), "password": "a quite new one 7"})
        assert "这个链接不能再用" in words(answer)
    assert person(cast.database, "lin@example.cn").password_hash is None


def test_a_new_password_keeps_to_the_rules_and_the_link_stays_good_meanwhile(browser: Browser, cast: Cast) -> None:
    ask(browser, "lin@example.cn")
    path = link_in(cast.database)
    browser.get(path)
    answer = browser.post("/reset", {"token": token_in(path), "password": "short"})
    assert answer.status_code == 422 and "至少用 10 个字符。" in words(answer)
    assert browser.post("/reset", {"token": token_in(path), "password": "a quite new one 7"}).status_code == 302


def test_a_link_for_one_purpose_opens_no_other_and_is_kept_as_a_hash(cast: Cast) -> None:
    run = cast.database.transaction
    token = run(lambda s: links.make(s, "confirm", cast.users["lin"], "lin@example.cn", 60, NOW))
    with cast.database.read_only() as session:
        assert token not in repr(session.execute(sa.select(OneTimeLink.__table__)).all())
    for wrong in (("reset", token), ("confirm", token[:-1]), ("confirm", "")):
        with pytest.raises(Refusal, match="link-over"):
            run(lambda s, wrong=wrong: links.take(s, wrong[1], wrong[0], NOW))  # type: ignore[misc]
    assert run(lambda s: links.take(s, token, "confirm", NOW).subject_id) == cast.users["lin"]
    with pytest.raises(Refusal, match="link-over"):
        run(lambda s: links.take(s, token, "confirm", NOW))


# -- one's own account


def test_a_person_changes_the_own_name_and_language(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    browser.get("/account")
    answer = browser.post("/account/profile", {"name": " ", "language": "zh"})
    assert answer.status_code == 422
    answer = browser.post(
        "/account/profile", {"name": "林小禾", "name_en": "", "language": "en"}, follow_redirects=True
    )
    assert "Your name and language are saved." in words(answer)
    lin = person(cast.database, "lin@example.cn")
    assert (lin.name, lin.name_en, lin.language) == ("林小禾", None, "en")
    with cast.database.read_only() as session:
        newest = list_history(session, User.LIFE, lin.id)[0]
    assert (newest.verb, newest.by_id, newest.note) == ("rename", lin.id, None)


def test_whoever_belongs_to_three_enterprises_acts_for_each_of_them(
    browser: Browser, cast: Cast, policy: Policy
) -> None:
    third = cast.database.transaction(lambda s: _firm(s, "北屿生物", "Beiyu Bio", "914403001922038216").id)
    for enterprise in (cast.luyu, third):
        cast.database.transaction(lambda s, e=enterprise: add_member(s, e, cast.users["lin"], Role.MEMBER, now=NOW))  # type: ignore[misc]
    browser.be(cast.users["lin"])
    shown = words(browser.get("/account"))
    assert "屿声科技 · 企业管理员" in shown and "鹭屿视觉" in shown and "北屿生物" in shown
    places = {third: "北屿生物 · 成员", cast.luyu: "鹭屿视觉 · 成员", cast.yusheng: "屿声科技 · 企业管理员"}
    for enterprise, name in places.items():
        browser.get("/account")
        browser.post("/act-for", {"enterprise_id": str(enterprise)})
        assert name in words(browser.get("/account"))
    browser.get("/account")
    browser.post("/act-for", {"enterprise_id": str(third)})
    cast.database.transaction(
        lambda s: s.execute(
            sa.delete(Membership).where(Membership.enterprise_id == third, Membership.user_id == cast.users["lin"])
        )
    )
    assert "屿声科技 · 企业管理员" in words(browser.get("/account")), "a membership taken away is gone at once"
    assert rows_in(cast.database, UserSession) == 1
