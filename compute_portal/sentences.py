"""What the rules say to people: an id and its numbers, never text.

Services and the planner make a `Sentence`; whoever shows or sends it (a template, problem+json, the command line,
the mailer) asks `language.say()` for the words. `texts.CATALOGUE` holds the English text of every id; the Chinese lives
in `translations/zh_Hans/`, like all other text.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import Any

Value = int | str | dt.datetime | dt.date | None


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: its id in CATALOGUE and the values of its placeholders."""

    id: str
    values: tuple[tuple[str, Value], ...] = field(default=())

    def __init__(self, id: str, **values: Value) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "values", tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> Value:
        return dict(self.values)[name]

    def to_json(self) -> dict[str, Any]:
        """As stored in a history row, a waiting reason or a notice."""
        return {"id": self.id, **{k: _plain(v) for k, v in self.values}}

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> Sentence | None:
        if stored is None:
            return None
        values = {k: _rich(v) for k, v in stored.items() if k != "id"}
        return cls(stored["id"], **values)

    def __str__(self) -> str:
        """For logs and failing tests, never for people."""
        return json.dumps(self.to_json(), ensure_ascii=False, sort_keys=True)


def _plain(value: Value) -> Any:
    if isinstance(value, dt.datetime):
        return {"at": value.isoformat()}
    if isinstance(value, dt.date):
        return {"on": value.isoformat()}
    return value


def _rich(value: Any) -> Value:
    if isinstance(value, dict):
        return dt.datetime.fromisoformat(value["at"]) if "at" in value else dt.date.fromisoformat(value["on"])
    return value  # type: ignore[no-any-return]


class Refusal(Exception):
    """A rule said no. `field` names the form field the sentence belongs to, if there is one."""

    def __init__(self, sentence: Sentence, field: str | None = None) -> None:
        super().__init__(str(sentence))
        self.sentence = sentence
        self.field = field


class NotFound(Exception):
    """There is no such row for this person: the answer is 404, also when it belongs to somebody else."""
