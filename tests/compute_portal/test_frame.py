"""What every page has around it: language, theme, navigation, the last result, forms that keep what was typed."""

from __future__ import annotations

import json
import logging
import re

import pytest
from flask import Blueprint, redirect, render_template_string
from flask.typing import ResponseReturnValue
from jinja2 import ChoiceLoader, DictLoader
from wtforms import BooleanField

from compute_portal import clock
from compute_portal.access import Permission
from compute_portal.db import Database
from compute_portal.forms import (
    ChoiceField,
    CountField,
    DayField,
    HoursField,
    LineField,
    MomentField,
    PortalForm,
    RadioChoiceField,
    Required,
    TextField,
    YuanField,
    show,
)
from compute_portal.guard import allows, public, read, tell, transact
from compute_portal.lifecycle import HistoryEntry
from compute_portal.paging import Page
from compute_portal.policy import Policy
from compute_portal.sentences import NotFound, Refusal, Sentence
from compute_portal.signin.models import User
from compute_portal.signin.queries import names_of
from tests.cast import Cast
from tests.web import Browser, make_app, plain, with_feature


@pytest.fixture
def browser(database: Database, policy: Policy, cast: Cast) -> Browser:
    return Browser(make_app(database, policy))


def test_a_guest_is_spoken_to_as_the_browser_prefers_and_in_chinese_otherwise(browser: Browser) -> None:
    for wanted, lang in [
        ("", "zh-Hans"),
        ("en-GB,en;q=0.9", "en"),
        ("en-US", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"),
        ("fr", "zh-Hans"),
        ("fr,en;q=0.5", "en"),
    ]:
        page = browser.client.get("/sign-in", headers={"Accept-Language": wanted})
        assert f'<html lang="{lang}"' in page.text, wanted


def test_the_language_switch_keeps_the_page_and_is_remembered(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    page = browser.get("/account?from=here&x=1")
    assert '<html lang="zh-Hans"' in page.text
    back = re.search(r'name="back" value="([^"]+)"', page.text)
    assert back is not None
    answer = browser.post("/language", {"language": "en", "back": back[1].replace("&amp;", "&")})
    assert answer.headers["Location"] == "/account?from=here&x=1"
    assert '<html lang="en"' in browser.get("/account").text
    with cast.database.read_only() as session:
        assert session.get_one(User, cast.users["lin"]).language == "en"
    browser.post("/sign-out")
    assert '<html lang="en"' in browser.get("/sign-in").text  # by the cookie


def test_the_switch_on_the_answer_to_a_refused_form_leads_to_a_page_that_exists(browser: Browser, cast: Cast) -> None:
    browser.be(cast.users["lin"])
    browser.get("/keys")
    refused = browser.post("/keys", {"name": "", "public_key": ""})
    assert refused.status_code == 422
    assert 'name="back" value="/keys"' in refused.text
    assert "<title>有 2 处需要修改 · SSH 公钥 · 算力公共服务平台</title>" in refused.text


def test_the_theme_is_set_on_the_server_and_kept_for_guests_and_people(browser: Browser, cast: Cast) -> None:
    assert "data-bs-theme=" not in browser.get("/sign-in").text
    browser.post("/theme", {"theme": "dark", "back": "/sign-in"})
    assert 'data-bs-theme="dark"' in browser.get("/sign-in").text
    browser.be(cast.users["lin"])
    assert "data-bs-theme=" not in browser.get("/account").text  # the person has not chosen yet
    browser.post("/theme", {"theme": "light", "back": "/account"})
    assert 'data-bs-theme="light"' in browser.get("/account").text
    browser.post("/theme", {"theme": "system", "back": "/account"})
    assert "data-bs-theme=" not in browser.get("/account").text


@pytest.mark.parametrize(("path", "data"), [("/theme", {"theme": "pink"}), ("/language", {"language": "fr"})])
def test_a_choice_that_does_not_exist_is_not_understood(browser: Browser, path: str, data: dict[str, str]) -> None:
    assert browser.post(path, data).status_code == 400


def test_every_role_finds_only_pages_that_exist_in_the_header(browser: Browser, cast: Cast) -> None:
    for name in ("lin", "chen", "zhou", "he", "xu", "an"):
        someone = Browser(browser.app).be(cast.users[name])
        page = someone.get("/account")
        nav = re.search(r'<nav class="nav-main"[^>]*>(.*?)</nav>', page.text, re.S)
        assert nav is not None
        links = re.findall(r'href="([^"]+)"', nav[1])
        assert len(links) == len(set(links)) > 5
        for link in links:
            assert someone.client.get(link).status_code == 200, (name, link)


def test_the_footer_says_the_zone_once_and_the_time_of_the_data(browser: Browser) -> None:
    text = plain(browser.get("/sign-in"))
    assert text.count("北京时间") == 1
    assert re.search(r"数据更新于 \d\d:\d\d:\d\d", text)


def test_names_from_people_are_escaped(browser: Browser, cast: Cast) -> None:
    def rename(session: object) -> None:
        session.get_one(User, cast.users["lin"]).name = "<script>alert(1)</script>"  # type: ignore[attr-defined]

    cast.database.transaction(rename)
    page = browser.be(cast.users["lin"]).get("/account")
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text


def test_the_log_has_one_line_per_request_without_query_or_names(
    browser: Browser, cast: Cast, caplog: pytest.LogCaptureFixture
) -> None:
    browser.be(cast.users["lin"])
    with caplog.at_level(logging.INFO, logger="compute_portal.requests"):
        browser.get("/account?secret=1")
        browser.client.get("/no%0d%0awhere")
    lines = [record for record in caplog.records if record.name == "compute_portal.requests"]
    told = [(line.method, line.path, line.status, line.user_id) for line in lines]  # type: ignore[attr-defined]
    assert told == [("GET", "/account", 200, cast.users["lin"]), ("GET", "/no%0D%0Awhere", 404, cast.users["lin"])]
    assert "secret" not in json.dumps([vars(line) for line in lines], default=str)


# -- forms


class TriedForm(PortalForm):
    title = LineField("Title", [Required()], most=20)
    text = TextField("Text", most=50)
    gpus = CountField("Cards", [Required()])
    hours = HoursField("Hours", [Required()])
    price = YuanField("Price")
    starts = MomentField("Start")
    on = DayField("Day")
    pool = ChoiceField("Pool", coerce=int)
    kind = RadioChoiceField("Kind", choices=[("a", "A"), ("b", "B")], default="a")
    sure = BooleanField("Sure")


PAGE = """{% extends "base.html" %}{% from "macros.html" import field, form_start, error_summary %}
{% block main %}{{ error_summary(form) }}{{ form_start(form) }}
{% for f in form if f.name not in ("csrf_token", "form_key") %}{{ field(f) }}{% endfor %}</form>{% endblock %}"""
GOOD = {
    "title": "声码器",
    "text": "a\r\nb",
    "gpus": "1,024",
    "hours": "2,000.5",
    "price": "16.50",
    "starts": "2026-11-20 20:00",
    "on": "2026-11-20",
    "pool": "1",
    "kind": "b",
    "sure": "y",
}


@pytest.fixture
def form_browser(
    database: Database, policy: Policy, cast: Cast, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> Browser:
    feature = Blueprint("tried", __name__)
    seen: dict[str, object] = {}

    @feature.route("/tried", methods=["GET", "POST"])
    @allows(Permission.START_VIEW)
    def page() -> ResponseReturnValue:
        form = TriedForm()
        form.pool.choices = [(1, "H800")]
        if form.validate_on_submit():
            seen.clear()
            seen.update({field.name: field.data for field in form})
            if form.title.data == "refuse":
                form.refuse(Refusal(Sentence("needs-more-hours", needed=2_304_000, available=360_000), "hours"))
            elif form.title.data == "refuse all":
                form.refuse(Refusal(Sentence("not-allowed"), "no-such-field"))
            else:
                tell(Sentence("key-added", name=form.title.data))
                return redirect("/tried")
        return show("tried.html", form)

    @feature.get("/gone")
    @public
    def gone() -> str:
        raise NotFound

    @feature.post("/quicker")
    @allows(Permission.START_VIEW)
    def quicker() -> str:
        raise Refusal(Sentence("moved-meanwhile", kind="booking"))

    @feature.get("/later")
    @allows(Permission.START_VIEW)
    def later() -> str:
        """Loads, writes, and shows what it loaded and what is new."""
        person = read().get(User, cast.users["lin"])
        assert person is not None

        def rename(session: object) -> None:
            session.get_one(User, cast.users["lin"]).name = "新名"  # type: ignore[attr-defined]

        transact(rename)
        names = names_of(read(), [cast.users["lin"]])
        return render_template_string("{{ a }} → {{ b }}", a=person.name, b=names[cast.users["lin"]].name)

    @feature.get("/tried-history")
    @public
    def history() -> str:
        at = clock.now()
        entries = [
            HistoryEntry(kind="booking", verb="approve", before="submitted", after="queued", at=at, by_id=None,
                         why=Sentence("needs-more-hours", needed=3600, available=0).to_json(), note=None),
            HistoryEntry(kind="booking", verb="claim", before="running", after="running", at=at,
                         by_id=cast.users["lin"], why=None, note=None),
        ]  # fmt: skip
        return render_template_string(
            '{% from "macros.html" import history, meter, pager %}{{ history(entries, names) }}{{ meter(1, 2, 4) }}'
            "{{ meter(0, 0, 0) }}{{ meter(7, 2, 4) }}",
            entries=entries,
            names=names_of(read(), [entry.by_id for entry in entries]),
        )

    with_feature(monkeypatch, feature)
    app = make_app(database, policy)
    assert app.jinja_loader is not None
    app.jinja_loader = ChoiceLoader([DictLoader({"tried.html": PAGE}), app.jinja_loader])
    browser = Browser(app).be(cast.users["chen"])
    browser.seen = seen  # type: ignore[attr-defined]
    return browser


def test_a_good_form_arrives_as_integers_instants_and_text(form_browser: Browser) -> None:
    form_browser.get("/tried")
    assert form_browser.post("/tried", GOOD).status_code == 302
    seen = form_browser.seen  # type: ignore[attr-defined]
    assert seen["gpus"] == 1024
    assert seen["hours"] == 2000 * 3600 + 1800
    assert seen["price"] == 16_500_000
    assert seen["starts"].isoformat() == "2026-11-20T12:00:00+00:00"
    assert seen["on"].isoformat() == "2026-11-20"
    assert seen["text"] == "a\nb"
    assert "公钥 声码器 已添加" in plain(form_browser.get("/tried"))
    assert "公钥 声码器 已添加" not in plain(form_browser.get("/tried"))


BAD = {
    "gpus": ["", "0", "-1", "1.5", "NaN", "1e309", "9223372036854775808", "x", "１２x"],
    "hours": ["", "0", "-2", "nan", "inf", "1e309", "1e-9", "9" * 400, "0.00001"],
    "price": ["-1", "NaN", "Infinity", "0.0000001", "1e400", "十六"],
    "starts": [
        "2026-13-01 10:00",
        "2026-11-20",
        "0001-01-01 00:00",
        "9999-12-31 23:59",
        "x",
        "2026-11-20 20:00 tomorrow",
    ],
    "on": ["2026-02-30", "2026/11/20", "0001-01-01", "9999-12-31", "tomorrow"],
    "pool": ["", "2", "x", "99999999999999999999", "1; DROP TABLE users"],
    "title": ["", "   ", "x" * 21, "a\x00b", "a\nb"],
    "text": ["x" * 51, "a\x00b", "\x1b[31m"],
    "kind": ["c"],
}


def test_bad_input_is_a_sentence_at_its_field_and_everything_typed_is_kept(form_browser: Browser) -> None:
    form_browser.get("/tried")
    for field, typed in [(field, typed) for field, values in BAD.items() for typed in values]:
        where = (field, typed[:30])
        answer = form_browser.post("/tried", GOOD | {field: typed})
        assert answer.status_code == 422, where
        assert "<title>有 1 处需要修改 · " in answer.text, where
        assert f'href="#{field}"' in answer.text, where
        error = re.search(rf'id="{field}-error">(.*?)</p>', answer.text, re.S)
        assert error is not None, where
        assert re.search(r"[\u4e00-\u9fff]", error[1].replace("错误：", "")), (where, error[1])
        for name, value in GOOD.items():
            if name not in (field, "text", "kind", "sure", "pool"):
                assert f'value="{value}"' in answer.text, (where, name)


def test_a_refusal_is_said_at_the_field_it_names_and_above_the_form_otherwise(form_browser: Browser) -> None:
    form_browser.get("/tried")
    answer = form_browser.post("/tried", GOOD | {"title": "refuse"})
    assert answer.status_code == 422
    error = re.search(r'id="hours-error">(.*?)</p>', answer.text, re.S)
    assert error is not None
    assert "640" in error[1]
    assert "100" in error[1]
    answer = form_browser.post("/tried", GOOD | {"title": "refuse all"})
    assert answer.status_code == 422
    assert "-error" not in answer.text.split('class="summary-error"')[1].replace("summary-error", "")
    assert 'id="problems"' in answer.text


def test_a_row_that_does_not_exist_is_a_404_page_and_a_move_that_came_too_late_a_409_page(
    form_browser: Browser,
) -> None:
    assert form_browser.get("/gone").status_code == 404
    assert "没有找到这一页" in plain(form_browser.get("/gone"))
    form_browser.get("/tried")
    late = form_browser.post("/quicker")
    assert late.status_code == 409
    assert "这件事已经办不了" in plain(late)


def test_what_a_page_loaded_stays_readable_after_its_transaction_and_new_reads_see_it(form_browser: Browser) -> None:
    assert form_browser.get("/later").text == "林晓禾 → 新名"


def test_history_and_meters_are_drawn(form_browser: Browser, cast: Cast) -> None:
    page = form_browser.get("/tried-history").text
    assert "系统" in page
    assert "排队中" in page
    assert "林晓禾" in page
    assert "开始使用" in page
    assert 'width="25.00%"' in page
    assert 'width="50.00%"' in page
    assert 'width="77.78%"' in page  # more used than awarded still fits


@pytest.mark.parametrize(
    ("total", "number", "shown"),
    [(0, 1, (0, 0)), (1, 1, (1, 1)), (25, 1, (1, 25)), (26, 2, (26, 26)), (128, 6, (126, 128))],
)
def test_a_page_knows_its_rows(total: int, number: int, shown: tuple[int, int]) -> None:
    page = Page(number, total)
    assert (page.first_row, page.last_row) == shown


def test_the_pager_links_the_ends_and_the_neighbours() -> None:
    assert Page(1, 20).near == [1]
    assert Page(1, 60).near == [1, 2, 3]
    assert Page(10, 25 * 40).near == [1, None, 9, 10, 11, None, 40]
