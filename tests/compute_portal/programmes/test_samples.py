"""What stands beside a rule as an example is what the rule itself does."""

from __future__ import annotations

import dataclasses

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.bookings import fees
from compute_portal.policy import Policy
from compute_portal.programmes import samples, service
from compute_portal.programmes.rules import Rules, usual_rules
from tests.cast import NOW, Cast
from tests.web import make_app, set_now, sign_in, words

HOURS = units.gpu_seconds


def test_each_sample_falls_into_its_track_and_one_day_more_would_not() -> None:
    rules = usual_rules()
    found = samples.of_tracks(rules)
    assert [(each.track.key, each.cards, each.days) for each in found] == [("S", 64, 3), ("M", 64, 13), ("L", 64, 97)]
    for each in found:
        assert rules.track_for(each.gpu_seconds, each.days) is each.track
        assert rules.track_for(each.gpu_seconds + each.cards * samples.DAY, each.days + 1) is not each.track


def test_a_small_track_gets_fewer_cards_and_one_that_never_comes_none() -> None:
    small, middle, _large = usual_rules().tracks
    tiny = dataclasses.replace(small, most_gpu_seconds=HOURS(30))
    twin = dataclasses.replace(middle, key="M2")
    found = samples.of_tracks(Rules(1, (tiny, middle, twin)))
    assert [(each.track.key, each.cards, each.days) for each in found] == [("S", 1, 1), ("M", 64, 13)]


@pytest.mark.parametrize(("slow", "kept", "back"), [(40, 60, 320), (40, 100, None), (0, 60, None)])
def test_at_half_term_as_much_goes_back_as_the_rule_takes(slow: int, kept: int, back: int | None) -> None:
    found = samples.of_half_term(Rules(1, usual_rules().tracks, slow_percent=slow, kept_percent=kept))
    assert (None if found is None else found.back) == (None if back is None else HOURS(back))


def test_the_pages_say_it_beside_the_rule(cast: Cast, policy: Policy) -> None:
    app: Flask = make_app(cast.database, policy)
    set_now(app, NOW)

    def revise(session: Session) -> None:
        service.revise(session, cast.programme, usual_rules(), why="三档", by=cast.operator, now=NOW)

    cast.database.transaction(revise)
    lin = sign_in(app, cast.users["lin"], language="en")
    shown = words(lin.get(f"/programmes/{cast.programme}"))
    assert "For example 64 cards for 3 days: 4,608 GPU-hours fall into track S." in shown
    assert "For example: of 1,000 GPU-hours 200 are used; 320 go back and 480 stay." in shown
    assert "For example: of 1,000 GPU-hours left 200 go on." in shown
    missed = fees.no_show_sample(policy.bookings)
    assert missed.gpu_seconds == HOURS(4) + 8 * 34_200 // 10
    assert "are free again after 30 minutes, and 11.6 GPU-hours are charged." in words(lin.get("/strikes"))
