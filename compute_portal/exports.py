"""Files people take away: CSV that a spreadsheet opens safely and in the right characters."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

# A spreadsheet runs a cell that begins with one of these as a formula, some also in full width or behind blanks; an
# apostrophe makes it text again.
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
MIMETYPE = "text/csv"
Cell = str | int | Decimal | None


def safe(cell: Cell) -> Cell:
    """Text that somebody typed can begin with anything; numbers are ours and keep their sign."""
    if isinstance(cell, str) and (cell.startswith(FORMULA_STARTS) or cell.lstrip().startswith(FORMULA_STARTS)):
        return "'" + cell
    return cell


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, mark: bool = True) -> Iterator[str]:
    """The file in pieces, one per row. Unless told not to, it begins with the mark by which Excel knows UTF-8."""
    line = io.StringIO()
    writer = csv.writer(line)
    for row in _with_header(header, rows, mark):
        writer.writerow([safe(cell) for cell in row])
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _with_header(header: Sequence[str], rows: Iterable[Sequence[Cell]], mark: bool) -> Iterator[Sequence[Cell]]:
    yield [("\ufeff" if mark else "") + header[0], *header[1:]]
    yield from rows
