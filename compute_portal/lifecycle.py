"""One mechanism for all states: a printable table of moves, and a history row for every one that happened."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Protocol, cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, attributes, mapped_column

from .access import Actor
from .db import Base, UtcDateTime, Writer
from .sentences import Refusal, Sentence


@dataclass(frozen=True)
class Lifecycle:
    """`kind` names the subject in history rows; `moves` says which state may follow which."""

    kind: str
    states: type[enum.StrEnum]
    moves: Mapping[Any, frozenset[Any]]

    def allows(self, before: str, after: str) -> bool:
        return after in self.moves.get(before, frozenset())


class Lives(Protocol):
    """Something with a history; its state may be told by other columns than one of that name."""

    LIFE: ClassVar[Lifecycle]
    id: Any

    @property
    def state(self) -> Any: ...


class HasLife(Protocol):
    """One that `move_to` moves."""

    LIFE: ClassVar[Lifecycle]
    id: Any
    state: Any


class HistoryEntry(Base):
    """Who moved what from which state to which, when and why. Append-only: the database refuses anything else.

    `by_id` is empty for what the system did. `why` is a stored Sentence, `note` the words of a person.
    `before` equals `after` for an event that left the state alone, such as a claim.
    """

    __tablename__ = "history_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(24))
    subject_id: Mapped[int]
    verb: Mapped[str] = mapped_column(sa.String(24))
    before: Mapped[str | None] = mapped_column(sa.String(24))
    after: Mapped[str] = mapped_column(sa.String(24))
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    why: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    note: Mapped[str | None] = mapped_column(sa.Text)
    __table_args__ = (
        sa.Index("ix_history_entries_subject", "kind", "subject_id", "id"),
        sa.Index("ix_history_entries_at", "at", "id"),
        # what the system wrote, which is most of it, is not asked for by person
        sa.Index(
            "ix_history_entries_by_id", "by_id", "at",
            sqlite_where=sa.text("by_id IS NOT NULL"), postgresql_where=sa.text("by_id IS NOT NULL"),
        ),
    )  # fmt: skip


_INSERT_HISTORY = sa.insert(cast(sa.Table, HistoryEntry.__table__))


def begin(
    session: Session,
    thing: Lives,
    *,
    verb: str,
    at: dt.datetime,
    by: Actor,
    why: Sentence | None = None,
    note: str | None = None,
) -> None:
    """Write the first history row of something new; flushes so that it has an id."""
    session.flush()
    _write(session, thing, verb, None, thing.state, at, by, why, note)


def begin_all(session: Session, things: Sequence[HasLife], *, verb: str, at: dt.datetime, by: Actor) -> None:
    """`begin` for many new rows of one kind, in two statements."""
    session.flush()
    if things:
        session.execute(
            _INSERT_HISTORY,
            [_row(thing.LIFE, thing.id, verb, None, thing.state, at, by, None, None) for thing in things],
        )


def move_to(
    session: Session,
    thing: HasLife,
    state: enum.StrEnum,
    *,
    verb: str,
    at: dt.datetime,
    by: Actor,
    why: Sentence | None = None,
    note: str | None = None,
) -> None:
    """Move to `state` if the table allows it and nobody moved it meanwhile; write the history row in the same breath.

    Raises Refusal("no-such-move") or Refusal("moved-meanwhile").
    """
    before = thing.state
    if not thing.LIFE.allows(before, state):
        raise Refusal(Sentence("no-such-move", kind=thing.LIFE.kind, before=str(before), verb=verb))
    session.flush()
    moved = session.execute(
        _move_statement(cast(sa.Table, type(thing).__table__), ()),  # type: ignore[attr-defined]
        {"this_id": thing.id, "this_state": before, "new_state": state},
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise Refusal(Sentence("moved-meanwhile", kind=thing.LIFE.kind))
    attributes.set_committed_value(thing, "state", state)
    _write(session, thing, verb, before, state, at, by, why, note)


@dataclass(frozen=True, slots=True)
class Move:
    """One of many moves of one kind. `whys` go with the steps; `values` are columns that change with the state."""

    id: int
    before: Any
    at: dt.datetime
    whys: tuple[Sentence | None, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def move_all(
    session: Writer, model: type[HasLife], moves: Sequence[Move], *steps: tuple[enum.StrEnum, str], by: Actor
) -> None:
    """`move_to` for many rows of one table in two statements, also through several states at one instant.

    Each step is (state, verb). All of `moves` name the same `values`. The caller has locked the rows and read `before`
    under the lock. Raises Refusal("no-such-move" | "moved-meanwhile").
    """
    if not moves:
        return
    life = model.LIFE
    history = []
    for move in moves:
        before = move.before
        whys = move.whys + (None,) * len(steps)
        for (state, verb), why in zip(steps, whys, strict=False):
            if not life.allows(before, state):
                raise Refusal(Sentence("no-such-move", kind=life.kind, before=str(before), verb=verb))
            history.append(_row(life, move.id, verb, before, state, move.at, by, why, None))
            before = state
    moved = session.execute(
        _move_statement(cast(sa.Table, model.__table__), tuple(moves[0].values)),  # type: ignore[attr-defined]
        [
            {
                "this_id": move.id,
                "this_state": move.before,
                "new_state": steps[-1][0],
                **{f"new_{name}": value for name, value in move.values.items()},
            }
            for move in moves
        ],
    )
    if moved.rowcount != len(moves):  # type: ignore[attr-defined]
        raise Refusal(Sentence("moved-meanwhile", kind=life.kind))
    session.execute(_INSERT_HISTORY, history)


@cache
def _move_statement(table: sa.Table, names: tuple[str, ...]) -> sa.Update:
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("this_id"), table.c.state == sa.bindparam("this_state"))
        .values({name: sa.bindparam(f"new_{name}") for name in ("state", *names)})
    )


def note_event(
    session: Session,
    thing: Lives,
    *,
    verb: str,
    at: dt.datetime,
    by: Actor,
    why: Sentence | None = None,
    note: str | None = None,
) -> None:
    """Something happened that people should find in the history, but the state stayed."""
    _write(session, thing, verb, thing.state, thing.state, at, by, why, note)


def _write(
    session: Session,
    thing: Lives,
    verb: str,
    before: str | None,
    after: str,
    at: dt.datetime,
    by: Actor,
    why: Sentence | None,
    note: str | None,
) -> None:
    session.execute(_INSERT_HISTORY, [_row(thing.LIFE, thing.id, verb, before, after, at, by, why, note)])


def _row(
    life: Lifecycle,
    subject_id: int,
    verb: str,
    before: str | None,
    after: str,
    at: dt.datetime,
    by: Actor,
    why: Sentence | None,
    note: str | None,
) -> dict[str, Any]:
    return {
        "kind": life.kind,
        "subject_id": subject_id,
        "verb": verb,
        "before": None if before is None else str(before),
        "after": str(after),
        "at": at,
        "by_id": by.user_id,
        "why": None if why is None else why.to_json(),
        "note": note,
    }


def note_move(session: Session, thing: Lives, before: enum.StrEnum, *, verb: str, at: dt.datetime, by: Actor) -> None:
    """A move of something whose state is told by other columns, which the caller has changed under a lock.

    Raises Refusal("no-such-move").
    """
    if not thing.LIFE.allows(before, thing.state):
        raise Refusal(Sentence("no-such-move", kind=thing.LIFE.kind, before=str(before), verb=verb))
    _write(session, thing, verb, before, thing.state, at, by, None, None)


_HISTORY = (
    sa.select(HistoryEntry)
    .where(HistoryEntry.kind == sa.bindparam("kind"), HistoryEntry.subject_id == sa.bindparam("subject_id"))
    .order_by(HistoryEntry.id.desc())
    .limit(sa.bindparam("limit"))
)


def list_history(session: Session, life: Lifecycle, subject_id: int, limit: int = 100) -> list[HistoryEntry]:
    """Newest first."""
    return list(session.scalars(_HISTORY, {"kind": life.kind, "subject_id": subject_id, "limit": limit}))
