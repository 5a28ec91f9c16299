"""Which part of the work is under way: measured for the log, and noted for tests that end the process in the middle."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
SLOW_SECONDS = 5.0
# Tests alone may ask for it: a file that gets a line as a phase begins and as it ends, also when the process is killed.
FAULT_LOG = os.environ.get("PORTAL_FAULT_LOG") if os.environ.get("PORTAL_ENV") == "test" else None


@contextmanager
def phase(name: str) -> Iterator[None]:
    """One phase of a cycle or a pass. A slow one is logged."""
    begun = time.monotonic()
    _note(f"begin {name}")
    try:
        yield
    finally:
        _note(f"end {name}")
        took = time.monotonic() - begun
        if took > SLOW_SECONDS:
            log.warning("slow phase", extra={"phase": name, "seconds": round(took, 1)})


def _note(line: str) -> None:
    if FAULT_LOG is not None:
        file = os.open(FAULT_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)
