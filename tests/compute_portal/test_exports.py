"""What people typed stays text in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from compute_portal import exports


@pytest.mark.parametrize(
    "typed", ["=1+1", "+1", "-1", "@SUM(A1)", "＝1+1", "＋1", "－1", "＠SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1+1"]
)
def test_what_a_spreadsheet_takes_for_a_formula_is_made_text(typed: str) -> None:
    text = "".join(exports.csv_lines(("note", "amount"), [(typed, -5)]))
    header, row = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    assert header == ["note", "amount"]
    assert row == ["'" + typed, "-5"], "numbers keep their sign"


def test_other_text_stays_as_it_is() -> None:
    assert [exports.safe(cell) for cell in ("屿声科技", "a = b", "", None, 7)] == ["屿声科技", "a = b", "", None, 7]
