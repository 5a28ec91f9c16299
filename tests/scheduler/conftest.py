"""The scheduler over the cast's city, on both stores; time is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compute_portal.db import Database
from compute_portal.policy import Policy
from scheduler.context import Context, simulation
from tests.cast import Cast


@pytest.fixture
def context(database: Database, cast: Cast, policy: Policy) -> Iterator[Context]:
    """A scheduler that is the leader, with the embedded engine and no access hook."""
    context = simulation(database, policy)
    yield context
    context.leader.release()
