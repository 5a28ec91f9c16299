"""Voucher schemes of six cities as data, read from published policies: examples to start from, marked as such.

The texts were read in reprints; who runs a scheme of their own checks every number. `load` is used by the demo city and
by tests, never by an installation.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from .. import units
from ..access import Actor
from ..language import N_
from . import service
from .models import Scheme
from .rules import SchemeRules

FILE = Path(__file__).with_name("examples.json")
WHY = N_("An example, from the published text of another city.")


def read() -> dict[str, tuple[SchemeRules, dict[str, Any]]]:
    """English city name → its rules and the whole entry."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return {entry["name_en"].split()[0]: (_rules(entry["rules"]), entry) for entry in entries}


def _rules(stored: dict[str, Any]) -> SchemeRules:
    """Amounts stand in the file in yuan, as people write them."""
    values: dict[str, Any] = {"number": 1}
    for key, value in stored.items():
        if not key.endswith("_yuan") or key == "unit_yuan":
            values[key] = value
        elif isinstance(value, dict):
            values[key.removesuffix("_yuan")] = {k: v * units.MICRO_PER_YUAN for k, v in value.items()}
        else:
            values[key.removesuffix("_yuan") + "_micro_yuan"] = value * units.MICRO_PER_YUAN
    return SchemeRules.from_json(values)


def load(
    session: Session, *, from_on: dt.date, by: Actor, now: dt.datetime, only: Collection[str] = ()
) -> dict[str, Scheme]:
    """Open the examples (`only`: some of them, by city) from the first day of a month on and give each its budget."""
    loaded = {}
    for city, (rules, entry) in read().items():
        if only and city not in only:
            continue
        scheme = service.open_scheme(
            session,
            rules,
            name=entry["name"],
            name_en=entry["name_en"],
            why=WHY,
            from_on=from_on,
            is_example=True,
            by=by,
            now=now,
        )
        budget = entry["budget_yuan"] * units.MICRO_PER_YUAN
        service.fund(session, scheme.id, budget, reference=f"example-{from_on.year}", by=by, now=now)
        loaded[city] = scheme
    return loaded
