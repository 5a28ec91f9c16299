"""Things that happen at the same instant: threads that begin together, and what each of them came to."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Each work in a thread of its own, begun together; what each returned, or the exception it raised."""
    results: list[Any] = [None] * len(works)
    start = Barrier(len(works))

    def do(index: int) -> None:
        start.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [Thread(target=do, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
