"""The public pages need no sign-in and cost the same however much there is; the bureau keeps what they show."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import clock
from compute_portal.access import SYSTEM
from compute_portal.commons.models import Dataset, PowerSite, Transition
from compute_portal.commons.states import DatasetState, SiteState, TransitionState
from compute_portal.policy import Policy
from compute_portal.pools.service import add_pool
from tests.cast import NOW, Cast
from tests.compute_portal.commons.test_figures import reckon
from tests.house.town import build
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words

PUBLIC = ("/", "/commons/pools", "/commons/programmes", "/commons/datasets", "/commons/figures")
DATASET = {
    "name": "方言语音语料", "name_en": "Dialect speech", "steward": "语言资源中心", "steward_en": "Language centre",
    "tier": "conditional", "how_to_ask": "提交用途说明。", "how_to_ask_en": "Tell the centre what it is for.",
}  # fmt: skip
SITE = {
    "name": "东港二期", "name_en": "Donggang 2", "state": "committed", "megawatts": "54.5", "since_on": "2026-11-01",
    "evidence": "供电答复单 318 号", "link": "https://example.cn/318",
}  # fmt: skip
PRODUCT = {
    "happened_on": "2026-11-18", "name": "语音客服上线", "name_en": "A speech service", "evidence": "合同 7 号",
    "link": "",
}  # fmt: skip


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def english(app: Flask, address: str) -> str:
    return words(app.test_client().get(address, headers={"Accept-Language": "en"}))


def test_everybody_sees_the_front_page_and_who_is_signed_in_goes_on_to_the_own_start(app: Flask, cast: Cast) -> None:
    answer = app.test_client().get("/")
    assert answer.status_code == 200 and 'href="/sign-in"' in answer.text and "先看清" in answer.text
    assert sign_in(app, cast.users["chen"]).get("/").location == "/start"


def test_public_pages_open_before_anything_was_reckoned_and_after_in_both_languages_with_few_queries(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    for address in PUBLIC:
        assert app.test_client().get(address).status_code == 200, address
    build(cast, policy)
    now = clock.start_of_day(clock.day_of(NOW) + dt.timedelta(days=2))
    reckon(cast, policy, now)
    set_now(app, now)
    for address in PUBLIC:
        for language, says in (("zh", "公开指标"), ("en", "Public figures")):
            with Queries(cast.database) as queries:
                answer = app.test_client().get(address, headers={"Accept-Language": language})
            assert answer.status_code == 200 and says in answer.text, address
            assert len(queries) <= 10, (address, queries.statements)
    front = english(app, "/")
    assert "32 cards · 31.6 P" in front and "¥16.50" in front and "SME compute programme has" in front
    pools = english(app, "/commons/pools")
    assert "989" in pools and "FP16, dense" in pools and "entered by the bureau" in pools
    cast.database.transaction(
        lambda s: add_pool(
            s, name="H20", model="NVIDIA H20", tflops_fp16_dense=148, watts=400, gpus_per_node=8, nodes=1, by=SYSTEM,
            now=now, tflops_source="H20 data sheet",
        ).id
    )  # fmt: skip
    pools = english(app, "/commons/pools")
    assert "1.184" in pools and "H20 data sheet" in pools
    assert "within 3 working days" in english(app, "/commons/programmes")


def test_an_operator_lists_a_dataset_changes_it_and_retires_it_and_its_history_keeps_what_it_said(
    app: Flask, cast: Cast
) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert post(zhou, "/datasets/new", DATASET | {"name_en": "  "}).status_code == 422
    assert rows_in(cast.database, Dataset) == 0
    assert post(zhou, "/datasets/new", DATASET).status_code == 302
    again = post(zhou, "/datasets/new", DATASET)
    assert again.status_code == 422 and "There is an entry of this name already." in again.text
    assert "Tell the centre what it is for." in again.text
    assert "Dialect speech" in english(app, "/commons/datasets")
    assert "方言语音语料" in app.test_client().get("/commons/datasets").text
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Dataset.id)).one()
    page = f"/datasets/{id}"
    same = post(zhou, f"{page}/edit", DATASET | {"why": "x"}, page=page)
    assert same.status_code == 422 and "Nothing was changed." in same.text
    changed = DATASET | {"steward_en": "City archive", "steward": "市档案馆"}
    assert post(zhou, f"{page}/edit", changed, page=page).status_code == 422, "a reason is missing"
    assert post(zhou, f"{page}/edit", changed | {"why": "机构改革"}, page=page).status_code == 302
    assert "City archive" in english(app, "/commons/datasets")
    assert "市档案馆" in app.test_client().get("/commons/datasets.csv").text
    shown = words(zhou.get(page))
    assert (
        "Before, it said: 方言语音语料 (Dialect speech), 语言资源中心, Open on conditions." in shown
        and "机构改革" in shown
    )
    assert post(zhou, f"{page}/retire", {"why": ""}, page=page).status_code == 422
    assert post(zhou, f"{page}/retire", {"why": "停止维护"}, page=page).status_code == 302
    assert "No dataset is listed yet" in english(app, "/commons/datasets")
    assert post(zhou, f"{page}/retire", {"why": "停止维护"}, page=page).status_code == 409
    assert post(zhou, f"{page}/relist", {"why": "恢复"}, page=page).status_code == 302
    with cast.database.read_only() as session:
        assert session.get_one(Dataset, id).state is DatasetState.LISTED


def test_a_site_with_something_wrong_is_refused_at_its_field_with_what_was_typed(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    for wrong, told in (
        ({"megawatts": "viel"}, "Enter megawatts with three digits after the point at most"),
        ({"megawatts": "0.0001"}, "Enter megawatts with three digits after the point at most"),
        ({"since_on": "2026-12-01"}, "This day has not come yet"),
        ({"link": "javascript:alert(1)"}, "Enter a whole address that begins with https://"),
        ({"link": "https://[x"}, "Enter a whole address that begins with https://"),
        ({"state": "dropped"}, 'id="state-error"'),
        ({"evidence": ""}, 'id="evidence-error"'),
    ):
        answer = post(zhou, "/power-sites/new", SITE | wrong)
        assert answer.status_code == 422 and told in answer.text and "东港二期" in answer.text, wrong
    assert rows_in(cast.database, PowerSite) == 0


def test_a_sites_power_counts_in_one_stage_and_its_history_keeps_the_earlier_ones(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    assert post(zhou, "/power-sites/new", SITE).status_code == 302
    assert "54.5 MW are committed" in english(app, "/commons/figures")
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(PowerSite.id)).one()
    page, to = f"/power-sites/{id}", {name: SITE[name] for name in ("megawatts", "since_on", "evidence", "link")}
    assert post(zhou, f"{page}/move", to | {"state": "committed"}, page=page).status_code == 422
    assert post(zhou, f"{page}/move", to | {"state": "energised"}, page=page).status_code == 302
    assert post(zhou, f"{page}/move", to | {"state": "announced"}, page=page).status_code == 422
    figures = english(app, "/commons/figures")
    assert "0 MW are committed" in figures and "54.5 MW energised" in figures
    assert "Before: 54,500 kW since 1 November 2026. 供电答复单 318 号" in words(zhou.get(page))
    with cast.database.read_only() as session:
        assert session.get_one(PowerSite, id).state is SiteState.ENERGISED


def test_a_transition_counts_once_for_an_allocation_and_within_its_time(app: Flask, cast: Cast) -> None:
    zhou = sign_in(app, cast.users["zhou"], language="en")
    mine = PRODUCT | {"allocation_id": str(cast.allocation)}
    for wrong, told in (
        ({"allocation_id": "999999"}, "There is no awarded allocation of this number."),
        ({"happened_on": "2026-11-01"}, "It counts from"),
        ({"happened_on": "2027-01-01"}, "This day has not come yet"),
    ):
        answer = post(zhou, "/transitions/new", mine | wrong)
        assert answer.status_code == 422 and told in answer.text
    assert post(zhou, "/transitions/new", mine).status_code == 302
    again = post(zhou, "/transitions/new", mine)
    assert again.status_code == 422 and "an allocation counts once" in again.text
    figures = english(app, "/commons/figures")
    assert "One result of research became a product in 24 months" in figures
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Transition.id)).one()
    page = f"/transitions/{id}"
    assert post(zhou, f"{page}/withdraw", {"why": ""}, page=page).status_code == 422
    assert post(zhou, f"{page}/withdraw", {"why": "重复"}, page=page).status_code == 302
    assert "0 results of research became products" in english(app, "/commons/figures")
    assert post(zhou, "/transitions/new", mine).status_code == 302, "withdrawn, it may be entered anew"
    with cast.database.read_only() as session:
        assert session.get_one(Transition, id).state is TransitionState.WITHDRAWN


def test_auditors_read_what_the_bureau_entered_and_change_nothing(app: Flask, cast: Cast) -> None:
    xu = sign_in(app, cast.users["xu"], language="en")
    assert xu.get("/datasets").status_code == 200 and xu.get("/public-figures").status_code == 200
    assert xu.get("/datasets/new").status_code == 403
    assert xu.get("/power-sites/new").status_code == 403
