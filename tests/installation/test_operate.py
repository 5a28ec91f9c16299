"""docs/operate.md says something about everything that can be red, and nothing about what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compute_portal import verify
from compute_portal.policy import Policy
from scheduler.timetable import Daily, Entry, entries

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
ALERTS = (ROOT / "config" / "deploy" / "alerts.yml").read_text(encoding="utf-8")


def table(first_cell: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with this cell: first cell → the others."""
    body = PAGE.split(f"| {first_cell} |", 1)[1].split("\n\n", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines()[2:]]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert all(cell for row in cells for cell in row), "an empty cell helps nobody"
    return {row[0].strip("`"): row[1:] for row in cells}


def when(entry: Entry) -> str:
    if isinstance(entry.when, Daily):
        day = "daily" if entry.when.day is None else f"{entry.when.day}st"
        return f"{day} {entry.when.hour:02}:{entry.when.minute:02}"
    return f"every {entry.when.seconds} s"  # type: ignore[attr-defined]


def test_the_timetable_of_the_page_is_the_one_that_runs(policy: Policy) -> None:
    told = {name: cells[0] for name, cells in table("Entry").items()}
    assert told == {entry.name: when(entry) for entry in entries(policy)}


def test_every_check_of_verify_is_explained() -> None:
    checks = {check.name for check in verify.CHECKS} | set(verify.CHECKED_IN_PYTHON)
    assert set(table("Check")) == checks


def test_every_part_of_readyz_is_explained() -> None:
    source = (ROOT / "compute_portal" / "app.py").read_text()
    parts = set(re.findall(r'^        "(\w+)": \{"ok": False', source, re.MULTILINE))
    assert set(table("`/readyz` says")) == parts


def test_every_alert_is_explained() -> None:
    assert set(table("Alert")) == set(re.findall(r"alert: (\w+)", ALERTS))


def test_alerts_ask_for_figures_that_exist() -> None:
    asked = set(re.findall(r"\b((?:portal|scheduler)_\w+)", " ".join(re.findall(r"expr: (.*)", ALERTS))))
    figures = set(table("Figure"))
    assert asked
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= figures


@pytest.mark.parametrize("page", ["install.md", "operate.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:config|tests|docs)/[\w./-]+\w)", text)) | {
        f"docs/{name}" for name in re.findall(r"\]\((\w+\.md)\)", text)
    }
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()
