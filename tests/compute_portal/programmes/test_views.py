"""The pages of programmes, and finance adding hours."""

from __future__ import annotations

import pytest
from flask import Flask

from compute_portal import units
from compute_portal.ledger.models import LedgerEntry
from compute_portal.ledger.queries import programme_left
from compute_portal.policy import Policy
from tests.cast import NOW, Cast
from tests.web import make_app, post, rows_in, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def left(cast: Cast) -> int:
    with cast.database.read_only() as session:
        return programme_left(session, [cast.programme])[cast.programme]


def test_everybody_reads_what_a_programme_has_left_and_how_long_a_decision_takes(app: Flask, cast: Cast) -> None:
    for name in ("chen", "lin", "zhou", "he", "xu", "an"):
        client = sign_in(app, cast.users[name], language="en")
        listed = words(client.get("/programmes"))
        assert "One programme awards GPU-hours" in listed
        assert "SME compute programme 1 January 2026 – 31 December 2027 H800 1,175,000.00 1,200,000.00" in listed
        page = words(client.get(f"/programmes/{cast.programme}"))
        assert "1,175,000 of 1,200,000 GPU-hours are left" in page
        assert "within 3 working days" in page
        assert "16.50" in page


def test_a_programme_that_is_not_there_is_404(app: Flask, cast: Cast) -> None:
    assert sign_in(app, cast.users["chen"]).get("/programmes/999").status_code == 404
    he = sign_in(app, cast.users["he"])
    assert post(he, "/programmes/999/fund", {"hours": "5"}, page="/programmes").status_code == 404


def test_finance_adds_hours_once_however_often_the_form_is_sent(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    page = f"/programmes/{cast.programme}"
    before = left(cast)
    form = {"hours": "50,000", "form_key": "f" * 64}
    for _ in range(2):
        answer = post(client, f"{page}/fund", form, page=page)
        assert answer.location == page
    assert left(cast) == before + units.gpu_seconds(50_000)
    shown = words(client.get(page))
    assert "1,225,000 of 1,250,000 GPU-hours are left" in shown
    assert "50,000.00 2026-11-18 10:00:00 He Liqun" in shown


@pytest.mark.parametrize("hours", ["", "0", "-5", "fifty", "NaN", "1e30", "0.0001", "2000000000"])
def test_hours_that_cannot_be_added_are_refused_at_the_field(app: Flask, cast: Cast, hours: str) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    page = f"/programmes/{cast.programme}"
    before = rows_in(cast.database, LedgerEntry)
    answer = post(client, f"{page}/fund", {"hours": hours}, page=page)
    assert answer.status_code == 422
    assert 'id="hours-error"' in answer.text
    assert f'value="{hours}"' in answer.text
    assert rows_in(cast.database, LedgerEntry) == before


def test_only_finance_adds_hours(app: Flask, cast: Cast) -> None:
    before = left(cast)
    for name in ("chen", "lin", "zhou", "xu", "an"):
        client = sign_in(app, cast.users[name], language="en")
        assert "Add GPU-hours" not in words(client.get(f"/programmes/{cast.programme}"))
        assert post(client, f"/programmes/{cast.programme}/fund", {"hours": "5"}).status_code == 403
    assert left(cast) == before
