"""The whole history, searched: who changed what from which state to which, when and why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..lifecycle import HistoryEntry
from ..signin.models import User

PAGE = 25
LOOKING_BACK = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Place:
    """The last row that was seen: the next page begins behind it."""

    at: dt.datetime
    id: int

    def __str__(self) -> str:
        return f"{int(self.at.timestamp())}-{self.id}"

    @classmethod
    def read(cls, text: str) -> Place | None:
        """None when the text names no place."""
        try:
            seconds, id = text.split("-")
            return cls(dt.datetime.fromtimestamp(int(seconds), dt.UTC), int(id))
        except (ValueError, OverflowError, OSError):
            return None


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for. `from_on` and `to_on` are days in Shanghai, both included.

    `by_ids` empty is the system alone, None is everybody.
    """

    from_on: dt.date
    to_on: dt.date
    kind: str = ""
    subject_id: int | None = None
    verb: str = ""
    by_ids: tuple[int, ...] | None = None
    after: Place | None = None


def query(search: Search) -> sa.Select[HistoryEntry]:
    """Newest first. The period bounds what is read when nothing else does."""
    found = sa.select(HistoryEntry).where(
        HistoryEntry.at >= clock.start_of_day(search.from_on), HistoryEntry.at < clock.end_of_day(search.to_on)
    )
    if search.kind:
        # Of one thing the index of its history is right. Of a whole kind it is not: the newest are wanted, by time, and
        # what is put together here is in no index.
        alone = search.subject_id is None
        kind = HistoryEntry.kind.concat("") if alone else HistoryEntry.kind
        found = found.where(kind == search.kind)
    if search.subject_id is not None:
        found = found.where(HistoryEntry.subject_id == search.subject_id)
    if search.verb:
        found = found.where(HistoryEntry.verb == search.verb)
    if search.by_ids is not None:
        by = HistoryEntry.by_id
        found = found.where(by.in_(search.by_ids) if search.by_ids else by.is_(None))
    return found.order_by(HistoryEntry.at.desc(), HistoryEntry.id.desc())


def page(session: Session, search: Search) -> tuple[list[HistoryEntry], Place | None]:
    """One page, and where the next begins. One query."""
    found = query(search)
    if search.after is not None:
        at, id = search.after.at, search.after.id
        found = found.where(
            HistoryEntry.at <= at, sa.or_(HistoryEntry.at < at, HistoryEntry.id < id)
        )  # fmt: skip
    rows = list(session.scalars(found.limit(PAGE + 1)))
    shown = rows[:PAGE]
    return shown, Place(shown[-1].at, shown[-1].id) if len(rows) > PAGE else None


def every_row(session: Session, search: Search) -> Iterator[tuple[HistoryEntry, str]]:
    """All of it with the names of who acted, read while it is sent."""
    found = query(search).outerjoin(User, User.id == HistoryEntry.by_id).add_columns(User.name)
    for entry, name in session.execute(found.execution_options(yield_per=500)):
        yield entry, name or ""


def find_people(session: Session, text: str, limit: int = 20) -> list[int]:
    """People whose name or address holds the text."""
    return list(
        session.scalars(
            sa.select(User.id)
            .where(
                sa.or_(
                    User.name.icontains(text, autoescape=True),
                    User.name_en.icontains(text, autoescape=True),
                    User.email.icontains(text, autoescape=True),
                )
            )
            .order_by(User.id)
            .limit(limit)
        )
    )
