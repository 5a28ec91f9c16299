"""The look holds together: tokens, states, and what a strict Content-Security-Policy asks of templates."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest

from compute_portal.allocations.states import AllocationState
from compute_portal.announcements.states import AnnouncementState
from compute_portal.badges import BADGES, EVENTS
from compute_portal.bookings.states import BookingState
from compute_portal.enterprises.states import EnterpriseState
from compute_portal.navigation import BUREAU, ENTERPRISE, FINANCE, OPERATOR, Entry
from compute_portal.pools.states import MaintenanceState, NodeState
from compute_portal.review.states import AppealState
from compute_portal.statements.states import StatementState

ROOT = Path(__file__).resolve().parents[2]
CSS = (ROOT / "compute_portal" / "static" / "commons.css").read_text(encoding="utf-8")
TEMPLATES = sorted(ROOT.glob("compute_portal/**/templates/**/*.html"))
STATES: dict[str, type[enum.StrEnum]] = {
    "allocation": AllocationState,
    "announcement": AnnouncementState,
    "appeal": AppealState,
    "booking": BookingState,
    "enterprise": EnterpriseState,
    "maintenance": MaintenanceState,
    "node": NodeState,
    "statement": StatementState,
}


def tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"(--[\w-]+|color-scheme):\s*([^;]+);", block))


def test_both_halves_of_the_dark_theme_are_equal() -> None:
    chosen = re.search(r"\n\[data-bs-theme=dark\] \{(.*?)\n\}", CSS, re.S)
    followed = re.search(r"prefers-color-scheme: dark\) \{ :root:not\(\[data-bs-theme\]\) \{(.*?)\n\} \}", CSS, re.S)
    assert chosen is not None
    assert followed is not None
    assert len(tokens(chosen[1])) > 25
    assert tokens(chosen[1]) == tokens(followed[1])


def test_every_colour_of_the_light_theme_has_a_dark_one() -> None:
    light = re.search(r":root, \[data-bs-theme=light\] \{(.*?)\n\}", CSS, re.S)
    dark = re.search(r"\n\[data-bs-theme=dark\] \{(.*?)\n\}", CSS, re.S)
    assert light is not None
    assert dark is not None
    assert tokens(light[1]).keys() == tokens(dark[1]).keys()


def test_every_token_that_the_style_sheet_uses_is_defined() -> None:
    used = set(re.findall(r"var\((--[\w-]+)", CSS))
    defined = set(re.findall(r"(--[\w-]+)\s*:", CSS))
    assert used - defined == set()


@pytest.mark.parametrize("kind", STATES)
def test_every_state_has_a_badge_and_no_two_of_a_lifecycle_share_a_shape(kind: str) -> None:
    assert set(BADGES[kind]) == {state.value for state in STATES[kind]}
    shapes = [badge.shape for badge in BADGES[kind].values()]
    assert len(shapes) == len(set(shapes)), shapes


def test_every_shape_is_drawn_and_every_tone_has_a_class() -> None:
    macros = (ROOT / "compute_portal" / "templates" / "macros.html").read_text(encoding="utf-8")
    drawn = set(re.findall(r'^  "(\w+)": \'<', macros, re.M))
    for kind, states in BADGES.items():
        for state, badge in states.items():
            assert badge.shape in drawn, (kind, state)
            assert not badge.tone or f".state-{badge.tone} " in CSS, (kind, state)


def test_events_in_histories_belong_to_a_known_kind() -> None:
    assert {kind for kind, _verb in EVENTS} <= set(BADGES)


@pytest.mark.parametrize("entries", [ENTERPRISE, OPERATOR, FINANCE, BUREAU])
def test_the_header_begins_with_the_start_page_and_names_each_page_once(entries: tuple[Entry, ...]) -> None:
    assert entries[0].endpoint == "desk.start"
    assert len({entry.endpoint for entry in entries}) == len({entry.label for entry in entries}) == len(entries)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_templates_hold_no_inline_style_or_script(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert not re.search(r"""<style|\sstyle\s*=|<script(?![^>]*\ssrc=)|\son\w+\s*=\s*["']|javascript:""", text), (
        template
    )


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_form_that_posts_carries_its_tokens(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    for form in re.findall(r"<form[^>]*method=.post.*?</form>|<form[^>]*method=.post.*?\{%- endmacro", text, re.S):
        assert "csrf_token" in form or "tokens(" in form, (template, form[:200])


def test_only_what_is_shown_unescaped_on_purpose_is_marked_safe() -> None:
    for template in TEMPLATES:
        for used in re.findall(r"[^{%]*\|\s*safe", template.read_text(encoding="utf-8")):
            assert re.search(r'SHAPES\[name\]\|safe|"</?li>"\|safe', used), (template, used)
