"""`url_for`, kept: what nearly all addresses of a page are made with."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from flask import request, url_for

MARK = 1_987_654_320  # numbers that stand in no address of ours


def address(endpoint: str, **values: Any) -> str:
    """`url_for`, which takes ten times as long: a page shows a hundred addresses, most of them with a row's number.

    Where all that varies is numbers, the address is built once for where the portal is mounted, then only filled in;
    with words in it, it is kept for the next time.
    """
    for value in values.values():
        if type(value) is not int:
            break
    else:
        return _pattern(request.script_root, endpoint, tuple(values)) % values
    for value in values.values():
        if not (isinstance(value, str) or type(value) is int or value is None):
            return url_for(endpoint, **values)
    return _kept(request.script_root, endpoint, tuple(values.items()))


@lru_cache(4_096)
def _kept(mounted_at: str, endpoint: str, values: tuple[tuple[str, str | int | None], ...]) -> str:
    named: dict[str, Any] = dict(values)
    return url_for(endpoint, **named)


@cache
def _pattern(mounted_at: str, endpoint: str, names: tuple[str, ...]) -> str:
    """The address with `%(name)d` where a number goes."""
    marks: dict[str, Any] = {name: MARK + position for position, name in enumerate(names)}
    pattern = url_for(endpoint, **marks).replace("%", "%%")
    for name, mark in marks.items():
        pattern = pattern.replace(str(mark), f"%({name})d")
    return pattern
