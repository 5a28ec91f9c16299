"""Mail leaves through a real server: at least once, always under the same Message-ID, and nothing is lost meanwhile."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from compute_portal.notices import folder
from compute_portal.notices import service as notices
from compute_portal.notices.models import Delivery, Notice
from compute_portal.notices.topics import Topic, Way
from compute_portal.sentences import Sentence
from compute_portal.signin.models import User
from compute_portal.signin.service import disable_person
from config.settings import Settings, SettingsError, load_settings, mail_server
from scheduler import mail
from scheduler.context import Context, PassFailed
from scheduler.post import post_of
from tests.cast import HOUR, NOW, Cast
from tests.conftest import ROOT
from tests.mailbox import Mailbox, text_of

ABOUT = Sentence("mail-reset")
BODY = [Sentence("mail-reset-how", until=NOW + HOUR, minutes=30)]
SECOND = dt.timedelta(seconds=1)


@pytest.fixture(autouse=True)
def nothing_told(request: pytest.FixtureRequest) -> None:
    """What made the cast told people things too."""
    if "cast" in request.fixturenames:
        cast: Cast = request.getfixturevalue("cast")
        cast.database.transaction(lambda s: s.execute(sa.delete(Notice)))


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox().open() as mailbox:
        yield mailbox


@pytest.fixture
def post(context: Context, mailbox: Mailbox) -> Context:
    """The scheduler's context with a way out to the mail server."""
    return dataclasses.replace(context, post=post_of(mailbox.settings()))


def tell(cast: Cast, *names: str, now: dt.datetime = NOW) -> None:
    def work(session: object) -> None:
        for name in names:
            notices.send(session, to=cast.users[name], about=ABOUT, body=BODY, link="/account", now=now)  # type: ignore[arg-type]

    cast.database.transaction(work)


def rows(cast: Cast) -> list[Notice]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Notice).order_by(Notice.id)))


def states(cast: Cast) -> list[str]:
    return [row.delivery.value for row in rows(cast)]


def to(mailbox: Mailbox) -> list[str]:
    return [str(message["To"].addresses[0].addr_spec) for message in mailbox.received]


def test_one_event_is_told_to_each_receiver_in_the_receivers_language(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    cast.database.transaction(
        lambda s: s.execute(sa.update(User).where(User.id == cast.users["chen"]).values(language="en"))
    )
    tell(cast, "lin", "chen")
    assert mail.deliver(post, NOW) == 2
    chinese, english = mailbox.received
    assert (str(chinese["Subject"]), str(english["Subject"])) == ("设新密码", "Set a new password")
    assert str(chinese["To"]) == "林晓禾 <lin@example.cn>" and str(english["To"]) == "Chen Yi <chen@example.cn>"
    assert "林晓禾，你好：" in text_of(chinese) and "Hello Chen Yi," in text_of(english)
    assert "30 分钟内有效" in text_of(chinese) and "for 30 minutes" in text_of(english)
    for message, language in ((chinese, "zh-Hans"), (english, "en")):
        assert "http://portal.test/account" in text_of(message)
        assert 'href="http://portal.test/account"' in text_of(message, "html")
        assert f'<html lang="{language}">' in text_of(message, "html") and message["Content-Language"] == language
        assert message["Auto-Submitted"] == "auto-generated"
    assert states(cast) == ["sent", "sent"]
    assert mail.deliver(post, NOW + HOUR) == 0 and len(mailbox.received) == 2


def test_a_server_that_is_down_for_an_hour_loses_nothing_and_uses_up_no_try(cast: Cast, context: Context) -> None:
    mailbox = Mailbox()
    post = dataclasses.replace(context, post=post_of(mailbox.settings()))
    tell(cast, "lin", "chen", "mei")
    at = NOW
    while at < NOW + HOUR:
        with pytest.raises(PassFailed, match="no mail can leave"):
            mail.deliver(post, at)
        at += dt.timedelta(minutes=10)
    assert {(row.delivery, row.tries) for row in rows(cast)} == {(Delivery.WAITING, 0)}
    with mailbox.open():
        assert mail.deliver(post, at) == 3
    assert to(mailbox) == ["lin@example.cn", "chen@example.cn", "mei@example.cn"]


KILLED_BEFORE_MARKING = """
import dataclasses, datetime as dt, os, signal, sys
from compute_portal import tables
from compute_portal.db import Database
from compute_portal.notices import service as notices
from compute_portal.policy import load_policy
from pathlib import Path
from config.settings import Settings
from scheduler import mail
from scheduler.context import simulation
from scheduler.post import post_of
url, smtp, now, policy = sys.argv[1:5]
settings = Settings(env="test", public_url="http://portal.test", smtp_url=smtp, mail_from="portal@portal.test")
context = dataclasses.replace(simulation(Database(url), load_policy(Path(policy))), post=post_of(settings))
mark, marked = notices.mark_sent, []
def second_dies(session, notice_id, *, now):
    if marked:
        os.kill(os.getpid(), signal.SIGKILL)
    marked.append(notice_id)
    mark(session, notice_id, now=now)
notices.mark_sent = second_dies
mail.deliver(context, dt.datetime.fromisoformat(now))
"""


def test_a_worker_killed_between_sending_and_marking_sends_that_one_again_under_the_same_id(
    cast: Cast, context: Context, mailbox: Mailbox
) -> None:
    """Three letters: the first is sent and marked, the second sent and not marked, the third not sent."""
    tell(cast, "lin", "chen", "mei")
    context.leader.release()
    url = cast.database.url.render_as_string(hide_password=False)
    smtp, policy = f"smtp://127.0.0.1:{mailbox.port}", str(ROOT / "config" / "policy.toml")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_MARKING, url, smtp, NOW.isoformat(), policy],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert to(mailbox) == ["lin@example.cn", "chen@example.cn"]
    assert states(cast) == ["sent", "waiting", "waiting"]
    assert context.leader.take(NOW)
    post = dataclasses.replace(context, post=post_of(mailbox.settings()))
    assert mail.deliver(post, NOW + 15 * SECOND) == 0, "the dead worker's claim has its time"
    assert mail.deliver(post, NOW + notices.LEASE) == 2
    assert to(mailbox) == ["lin@example.cn", "chen@example.cn", "chen@example.cn", "mei@example.cn"]
    ids = [str(message["Message-ID"]) for message in mailbox.received]
    assert ids[1] == ids[2] and len(set(ids)) == 3
    assert [m.as_bytes() for m in mailbox.received[1:2]] == [m.as_bytes() for m in mailbox.received[2:3]]
    assert states(cast) == ["sent"] * 3
    assert mail.deliver(post, NOW + 24 * HOUR) == 0


def test_a_refusal_for_good_is_kept_with_its_reason_and_stops_nobody_else(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    mailbox.refused["lin@example.cn"] = "550 5.1.1 <lin@example.cn> no such user"
    tell(cast, "lin", "chen")
    assert mail.deliver(post, NOW) == 1
    failed, sent = rows(cast)
    assert (failed.delivery, failed.error) == (Delivery.FAILED, "550 5.1.1 <…> no such user")
    assert sent.delivery is Delivery.SENT
    assert mail.deliver(post, NOW + 24 * HOUR) == 0


def test_a_refusal_for_now_is_tried_again_later_and_later_and_at_last_given_up(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    mailbox.refused["lin@example.cn"] = "451 4.7.1 greylisted, come back"
    tell(cast, "lin", "chen")
    at, waits = NOW, []
    assert mail.deliver(post, at) == 1
    for _ in range(8):
        (row, _sent) = rows(cast)
        waits.append(int((row.next_try_at - at).total_seconds()) // 60)
        assert mail.deliver(post, row.next_try_at - SECOND) == 0
        at = row.next_try_at
        mail.deliver(post, at)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    cast.database.transaction(
        lambda s: s.execute(sa.update(Notice).where(Notice.id == row.id).values(tries=notices.TRIES_MOST - 1))
    )
    mail.deliver(post, at + HOUR)
    given_up = rows(cast)[0]
    assert (given_up.delivery, given_up.error) == (Delivery.FAILED, "451 4.7.1 greylisted, come back")


def test_a_letter_that_breaks_the_line_waits_and_the_rest_goes_with_the_next_pass(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    mailbox.hang_up_on.add("chen@example.cn")
    tell(cast, "lin", "chen", "mei")
    assert mail.deliver(post, NOW) == 1
    assert mail.deliver(post, NOW + 15 * SECOND) == 1
    assert to(mailbox) == ["lin@example.cn", "mei@example.cn"]
    assert states(cast) == ["sent", "waiting", "sent"]
    assert [row.tries for row in rows(cast)] == [1, 1, 1]


def test_whoever_was_disabled_gets_no_mail_and_whoever_has_not_confirmed_waits(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    tell(cast, "lin", "chen")

    def change(session: object) -> None:
        disable_person(session, cast.users["lin"], now=NOW)  # type: ignore[arg-type]
        session.execute(sa.update(User).where(User.id == cast.users["chen"]).values(confirmed_at=None))  # type: ignore[attr-defined]

    cast.database.transaction(change)
    assert mail.deliver(post, NOW) == 0
    assert states(cast) == ["dropped", "waiting"] and mailbox.received == []


def test_our_own_sign_in_that_the_server_refuses_blames_no_letter(cast: Cast, context: Context) -> None:
    def nobody(*_args: object) -> object:
        from aiosmtpd.smtp import AuthResult

        return AuthResult(success=False, handled=False)

    mailbox = Mailbox()
    settings = mailbox.settings(smtp_url=f"smtp://portal:wrong%40word@127.0.0.1:{mailbox.port}")
    tell(cast, "lin")
    with mailbox.open(authenticator=nobody, auth_require_tls=False), pytest.raises(PassFailed, match="535"):
        mail.deliver(dataclasses.replace(context, post=post_of(settings)), NOW)
    (row,) = rows(cast)
    assert (row.delivery, row.tries) == (Delivery.WAITING, 0)


def test_a_demo_writes_one_file_per_letter_and_reads_it_again(cast: Cast, context: Context, tmp_path: object) -> None:
    settings = Settings(env="demo", public_url="http://127.0.0.1:8000", mail_dir=tmp_path / "mail")  # type: ignore[operator]
    assert settings.mail_folder is not None and folder.newest(settings.mail_folder, 5) == []
    post = dataclasses.replace(context, post=post_of(settings))
    tell(cast, "lin")
    assert mail.deliver(post, NOW) == 1
    cast.database.transaction(lambda s: s.execute(sa.update(Notice).values(delivery="waiting", done_at=None, tries=0)))
    assert mail.deliver(post, NOW + HOUR) == 1
    (shown,) = folder.newest(settings.mail_folder, 5)
    assert (shown.to, shown.subject, shown.link) == ("林晓禾 <lin@example.cn>", "设新密码", "/account")
    assert shown.at == NOW and "30 分钟内有效" in shown.text


def test_without_a_way_out_notices_wait(cast: Cast, context: Context) -> None:
    tell(cast, "lin")
    assert context.post is None and mail.deliver(context, NOW) == 0
    assert states(cast) == ["waiting"]


# -- settings


@pytest.mark.parametrize(
    ("url", "tls", "port", "user", "password"),
    [
        ("smtp://mail.example.cn", "none", 25, None, None),
        ("smtp://portal:p%40ss%3Aword@mail.example.cn?starttls", "starttls", 587, "portal", "p@ss:word"),
        ("smtps://portal:secret@mail.example.cn", "implicit", 465, "portal", "secret"),
        ("smtp://127.0.0.1:2525", "none", 2525, None, None),
    ],
)
def test_a_mail_server_is_one_url(url: str, tls: str, port: int, user: str | None, password: str | None) -> None:
    server = mail_server(url)
    assert (server.tls, server.port, server.user, server.password) == (tls, port, user, password)


@pytest.mark.parametrize(
    "url",
    ["http://mail.example.cn", "smtp://", "smtp://host/path", "smtp://host?tls", "smtps://host?starttls",
     "smtp://only-user@host", "smtp://host:99999"],
)  # fmt: skip
def test_a_wrong_mail_server_stops_the_start_without_showing_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="PORTAL_SMTP_URL"):
        load_settings(smtp_url=url, mail_from="a@example.cn")
    with pytest.raises(SettingsError) as error:
        load_settings(smtp_url="smtp://portal:very-secret@host/x", mail_from="a@example.cn")
    assert "very-secret" not in str(error.value)


def test_production_needs_a_mail_server_and_writes_mail_into_no_folder() -> None:
    given = {"env": "production", "secret_key": "s" * 40, "public_url": "https://compute.example.cn"}
    with pytest.raises(SettingsError, match="mail server"):
        load_settings(**given)
    with pytest.raises(SettingsError, match="mail_from"):
        load_settings(**given, smtp_url="smtp://127.0.0.1")
    with pytest.raises(SettingsError, match="mail_dir"):
        load_settings(**given, smtp_url="smtp://127.0.0.1", mail_from="a@example.cn", mail_dir="/tmp/mail")
    settings = load_settings(**given, smtp_url="smtp://127.0.0.1", mail_from="a@example.cn")
    assert settings.mail_folder is None


# -- once a day


DIGEST_AT = dt.datetime(2026, 11, 19, 0, 0, tzinfo=dt.UTC)  # eight in the morning in Shanghai


def remind(cast: Cast, number: int, now: dt.datetime, *names: str, about: str = "alert-days") -> None:
    """What is told once a day, unless somebody chose otherwise."""
    sentence = Sentence(about, allocation=f"H800 {number}", n=number, last=dt.date(2026, 12, 1), number=number)

    def work(session: object) -> None:
        for name in names:
            notices.send(session, to=cast.users[name], about=sentence, link=f"/allocations/{number}", now=now)  # type: ignore[arg-type]

    cast.database.transaction(work)


def choose(cast: Cast, name: str, way: Way) -> None:
    cast.database.transaction(lambda s: notices.choose(s, {Topic.TERM: way}, by=cast.actor(name)))


def test_what_is_not_urgent_comes_once_a_day_in_one_mail_and_survives_a_killed_worker_under_the_same_id(
    cast: Cast, post: Context, mailbox: Mailbox
) -> None:
    choose(cast, "mei", Way.AT_ONCE)
    choose(cast, "tang", Way.PORTAL)
    for number in range(2, 5):
        remind(cast, number, NOW + number * SECOND, "lin", "mei", "tang")
    remind(cast, 9, NOW, "chen")
    assert mail.deliver(post, NOW + 10 * SECOND) == 3
    assert to(mailbox) == ["mei@example.cn"] * 3
    assert mail.deliver(post, DIGEST_AT - SECOND) == 0

    with post.database.read_only() as session:
        due = mail.queries.due_ids(session, now=DIGEST_AT, limit=1)
    claimed = post.transact(lambda s: mail._claim(s, due, DIGEST_AT, 8))  # killed before it was sent
    assert [len(letter.notice_ids) for letter in claimed] in ([3], [1])
    after = DIGEST_AT + notices.LEASE
    assert mail.deliver(post, after) == 2
    digest = next(message for message in mailbox.received if "lin@example.cn" in str(message["To"]))
    assert str(digest["Subject"]) == "3 条通知"
    assert all(f"http://portal.test/allocations/{number}" in text_of(digest) for number in (2, 3, 4))
    assert text_of(digest, "html").count("<li>") == 3
    alone = next(message for message in mailbox.received if "chen@example.cn" in str(message["To"]))
    assert "H800 9" in str(alone["Subject"])
    with post.database.read_only() as session:
        newest = session.scalars(
            sa.select(Notice.id).where(Notice.user_id == cast.users["lin"]).order_by(Notice.id.desc())
        ).first()
    assert str(digest["Message-ID"]).startswith(f"<notice-{newest}.")
    assert {row.delivery for row in rows(cast) if row.user_id != cast.users["tang"]} == {Delivery.SENT}
    assert {row.delivery for row in rows(cast) if row.user_id == cast.users["tang"]} == {Delivery.DROPPED}
    assert mail.deliver(post, after + 48 * HOUR) == 0
