"""Pages of a long list: 25 rows each, the number in the address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import request
from sqlalchemy.orm import Session

SIZE = 25
FURTHEST = 100_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows of how many a page shows. `number` counts from 1 and lies inside the list."""

    number: int
    total: int
    size: int = SIZE

    @property
    def last(self) -> int:
        return max(1, -(-self.total // self.size))

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size

    @property
    def first_row(self) -> int:
        return self.offset + 1 if self.total else 0

    @property
    def last_row(self) -> int:
        return min(self.offset + self.size, self.total)

    @property
    def near(self) -> list[int | None]:
        """The page numbers to link, None where some are left out."""
        wanted = sorted({1, self.last, *range(max(1, self.number - 1), min(self.last, self.number + 1) + 1)})
        shown: list[int | None] = []
        for number in wanted:
            if shown and shown[-1] is not None and number - shown[-1] > 1:
                shown.append(None)
            shown.append(number)
        return shown


def page_of(total: int, size: int = SIZE) -> Page:
    """The page that the address asks for (`?page=2`), the nearest one when it asks for nonsense."""
    return Page(min(_asked(), Page(1, total, size).last), total, size)


def asked_offset(size: int = SIZE) -> int:
    """Where the page begins that the address asks for, whether or not the list is that long."""
    return (_asked() - 1) * size


def _asked() -> int:
    asked = request.args.get("page", "1")
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 1


def rows_of(session: Session, query: sa.Select[Any]) -> tuple[Page, list[Any]]:
    """One page of a query over one entity: two queries, count and rows."""
    total = session.scalar(sa.select(sa.func.count()).select_from(query.order_by(None).subquery())) or 0
    page = page_of(total)
    return page, list(session.scalars(query.limit(page.size).offset(page.offset)))
