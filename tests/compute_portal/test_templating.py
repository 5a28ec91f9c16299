"""Templates in each language, and the addresses that they show."""

from __future__ import annotations

import datetime as dt

import jinja2
import pytest
from flask import Flask, url_for
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from compute_portal import language, units
from compute_portal.addresses import address
from compute_portal.db import Database
from compute_portal.desk.queue import Kind
from compute_portal.policy import Policy
from compute_portal.templating import Environment, in_language
from tests.web import make_app


def test_a_fixed_text_stands_translated_in_the_source_and_one_with_values_is_left() -> None:
    source = '<h1 title="{{ _("Bookings") }}">{{ _("%(n)s of 50%%", n=1) }}</h1>{{ x.y_("Bookings") }}'
    assert in_language(source, "zh") == (
        '<h1 title="{{ ("预约"|safe) }}">{{ _("%(n)s of 50%%", n=1) }}</h1>{{ x.y_("Bookings") }}'
    )
    assert in_language('{{ _("say \\"100%%\\"") }}', "en") == '{{ ("say \\"100%\\""|safe) }}'


@pytest.fixture
def app(database: Database, policy: Policy) -> Flask:
    return make_app(database, policy)


@pytest.mark.parametrize("mounted_at", ["", "/deep%20down"])
def test_an_address_is_what_flask_makes_of_it(app: Flask, mounted_at: str) -> None:
    with app.test_request_context("/", environ_overrides={"SCRIPT_NAME": mounted_at}):
        for endpoint, values in [
            ("desk.start", {}),
            ("bookings.page", {"booking_id": 7}),
            ("bookings.page", {"booking_id": 0}),
            ("bookings.index", {"page": 2, "tab": "ended"}),
            ("bookings.new", {"allocation_id": 12, "gpus": 8}),
            ("bookings.new", {"gpus": 8, "allocation_id": 12, "title": None}),
            ("bookings.new", {"gpus": 8, "allocation_id": 12, "title": "1"}),
            ("bookings.new", {"gpus": 8, "allocation_id": 12, "title": 1}),
            ("bookings.new", {"gpus": 8, "allocation_id": 12, "title": True}),
            ("bookings.index", {"tab": "a&b <c>", "_anchor": "x y"}),
            ("desk.queue", {"kind": Kind.BOOKING, "mine": None}),
            ("usage.index", {"month": dt.date(2026, 11, 1)}),
        ]:
            for _ in range(2):
                assert address(endpoint, **values) == url_for(endpoint, **values)
        with pytest.raises(Exception, match="booking_id"):
            address("bookings.page")


PAGES = {
    "frame": "<{% block title %}-{% endblock %}>{% set a = 1 %}{{ a }}{{ b }}{% if a %}x{{ self.title() }}{% endif %}"
    "{% block main %}{{ b }}{% block inner %}{{ b }} of {{ rows|length }}{% endblock %}!{% endblock %}",
    "page": '{% extends "frame" %}{% macro cell(text, class="") %}<td class="{{ class }}">{{ text }}'
    "{% if caller is defined %}{{ caller(text) }}{% endif %}</td>{% endmacro %}"
    "{% block title %}{{ super() }}{{ b }}{% endblock %}"
    "{% block inner %}{{ super() }}{% set told %}<b>{{ b }}</b>{{ rows[0] }}{% endset %}{{ told }}"
    "{% for row in rows recursive %}{{ loop.index }}{{ cell(row, class=b) }}"
    "{% call(text) cell(b) %}{{ text }}{{ row }}{{ b }}{% endcall %}"
    "{% if row is iterable and row is not string %}{{ loop(row) }}{% endif %}{% else %}none{{ b }}{% endfor %}"
    '{% filter upper %}{{ b }}{{ rows }}{% endfilter %}{{ dict(x=b)["x"] }}{% endblock %}',
}


@pytest.mark.parametrize("rows", [[], ["<a>", Markup("<i>"), 7, None, ["<c>", ["d"]]]])
def test_a_page_reads_as_jinja_writes_it(app: Flask, rows: list[object]) -> None:
    plainly = jinja2.Environment(loader=jinja2.DictLoader(PAGES), autoescape=True)
    with app.test_request_context("/"):
        ours = Environment(app, loader=jinja2.DictLoader(PAGES), autoescape=True)
        for name in PAGES:
            values = {"b": "<&>", "rows": rows}
            assert ours.get_template(name).render(values) == plainly.get_template(name).render(values)


def test_hours_and_yuan_are_rounded_half_up_as_their_decimals_are() -> None:
    for number in [0, 1, 17, 18, 19, 36, 3_599, 3_600, 4_999, 5_000, 999_995_000, 12_345_678_901, 7 * 10**15 + 18]:
        for sign in (1, -1):
            minus = "−" if sign * number < 0 else ""
            assert language.hours_exact(sign * number, "en") == f"{minus}{units.gpu_hours(number):,.2f}"
            assert language.amount(sign * number, "zh") == f"{minus}{units.yuan(number):,.2f}"
    assert [language.hours(each, "en") for each in (0, 3_600, 5_400, 360_000, -36)] == ["0", "1", "1.5", "100", "−0.01"]


class _Marked:
    def __html__(self) -> str:
        return "<b>&</b>"


@given(st.one_of(st.text(), st.text("&<>'\""), st.integers(), st.none(), st.text().map(Markup), st.just(_Marked())))
def test_what_a_page_shows_is_escaped_as_markupsafe_does_it(value: object) -> None:
    assert Environment.written(value) == str(escape(value))


def test_what_a_template_shows_is_written_that_way(app: Flask) -> None:
    source = "{% set x %}{{ a }}{% endset %}{{ a }}|{{ x }}|{{ '<' ~ a }}|{{ a|safe }}"
    with app.test_request_context("/"):
        template = app.jinja_env.from_string(source)
        assert template.render(a="<&>") == "&lt;&amp;&gt;|&lt;&amp;&gt;|&lt;&lt;&amp;&gt;|<&>"
