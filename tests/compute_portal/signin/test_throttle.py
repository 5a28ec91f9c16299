"""Wrong passwords pause sign-in, counted in the database, and nobody learns who is registered."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
import time_machine

from compute_portal import clock
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin import passwords, service
from compute_portal.signin.models import SignInTry, UserSession
from tests.cast import Cast
from tests.web import Browser, give_password, make_app, plain, rows_in

START = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)
PAUSED = "密码错得太多，登录暂停 15 分钟。"


def test_tries_count_across_two_app_processes_and_the_right_password_waits_too(
    database: Database, policy: Policy, cast: Cast
) -> None:
    give_password(database, cast.users["lin"])
    browsers = [Browser(make_app(database, policy)), Browser(make_app(Database(str_url(database)), policy))]
    with time_machine.travel(START, tick=False) as traveller:
        for number in range(policy.sign_in.tries):
            answer = browsers[number % 2].sign_in("lin@example.cn", "wrong wrong wrong")
            assert answer.status_code == 422
        for browser in browsers:
            answer = browser.sign_in("lin@example.cn")
            assert answer.status_code == 429
            assert PAUSED in plain(answer)
        assert rows_in(database, UserSession) == 0
        traveller.shift(dt.timedelta(minutes=policy.sign_in.pause_minutes, seconds=1))
        assert browsers[0].sign_in("lin@example.cn").status_code == 302  # a pause, not a lock
    browsers[1].portal.database.dispose()


def test_unknown_people_are_paused_after_as_many_tries_with_the_same_words(
    database: Database, policy: Policy, cast: Cast
) -> None:
    give_password(database, cast.users["lin"])
    browser = Browser(make_app(database, policy))
    shown = {
        email: [
            page_without_tokens(browser.sign_in(email, "wrong wrong wrong"), email)
            for _ in range(policy.sign_in.tries + 1)
        ]
        for email in ("lin@example.cn", "who@example.cn")
    }
    assert shown["lin@example.cn"] == shown["who@example.cn"]
    assert PAUSED in shown["who@example.cn"][-1]


def test_an_unknown_person_costs_one_password_check_like_a_known_one(
    database: Database, policy: Policy, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_password(database, cast.users["lin"])
    checked: list[str] = []

    class Counting:
        def verify(self, password_hash: str, password: str) -> bool:
            checked.append(password_hash)
            return hasher.verify(password_hash, password)

        def __getattr__(self, name: str) -> object:
            return getattr(hasher, name)

    hasher = passwords.HASHER
    monkeypatch.setattr(passwords, "HASHER", Counting())
    browser = Browser(make_app(database, policy))
    for email in ("lin@example.cn", "nobody@example.cn", "mei@example.cn"):  # mei has no password at all
        browser.sign_in(email, "wrong wrong wrong")
    assert len(checked) == 3
    assert len({entry.split("$")[3] for entry in checked}) == 1  # the same parameters, so the same work


def test_nobody_signs_in_with_the_stand_in_password(database: Database, policy: Policy, cast: Cast) -> None:
    browser = Browser(make_app(database, policy))
    for email in ("nobody@example.cn", "mei@example.cn"):
        assert browser.sign_in(email, "nobody has this password").status_code == 422


def test_a_right_password_starts_the_persons_count_again_but_not_the_addresses(
    database: Database, policy: Policy, cast: Cast
) -> None:
    give_password(database, cast.users["lin"])
    browser = Browser(make_app(database, policy))
    for _ in range(policy.sign_in.tries - 1):
        browser.sign_in("lin@example.cn", "wrong wrong wrong")
    assert browser.sign_in("lin@example.cn").status_code == 302
    assert rows_in(database, SignInTry) == policy.sign_in.tries - 1  # the address keeps its wrong ones


def test_one_address_trying_many_people_is_paused(database: Database, policy: Policy) -> None:
    at = clock.now()
    most = policy.sign_in.tries * service.ADDRESS_FACTOR

    def count(number: int, address: str) -> None:
        who = service.who_tries("secret", email=f"{number}@example.cn", address=address)
        database.transaction(lambda s: service.count_try(s, who, policy=policy.sign_in, now=at))

    for number in range(most):
        count(number, "2001:db8:1:2::1" if number % 2 else "2001:db8:1:2:ffff::9")  # one customer's /64
    with pytest.raises(Refusal, match="sign-in-paused"):
        count(most, "2001:db8:1:2::77")
    count(most, "2001:db8:1:3::1")


def test_a_burst_of_tries_at_once_gets_no_more_than_the_limit(database: Database, policy: Policy) -> None:
    at = clock.now()
    who = service.who_tries("secret", email="lin@example.cn", address="192.0.2.1")
    passed: list[bool] = []
    together = threading.Barrier(20)

    def burst() -> None:
        together.wait()
        try:
            database.transaction(lambda s: service.count_try(s, who, policy=policy.sign_in, now=at))
        except Refusal:
            passed.append(False)
        else:
            passed.append(True)

    threads = [threading.Thread(target=burst) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 20
    assert sum(passed) == policy.sign_in.tries


def test_the_table_of_tries_holds_no_address_and_no_email(database: Database, policy: Policy) -> None:
    Browser(make_app(database, policy)).sign_in("someone@example.cn", "wrong wrong wrong")
    with database.read_only() as session:
        kept = [row.who for row in session.query(SignInTry)]
    assert len(kept) == 2
    assert all(len(who) == 64 and set(who) <= set("0123456789abcdef") for who in kept)


def str_url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def page_without_tokens(answer: object, email: str) -> str:
    import re

    text = answer.text.replace(email, "…")  # type: ignore[attr-defined]
    text = re.sub(r'name="(csrf_token|form_key)" value="[^"]+"', r"\1", text)
    return re.sub(r"\d\d:\d\d:\d\d", "…", text)
