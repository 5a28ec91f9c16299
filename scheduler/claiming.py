"""What subsidies need nobody for: claims on settled statements, schemes of programmes that bear part of a price.

Each is made once, also after a restart.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy.orm import Session

from compute_portal.claims import service as claims
from compute_portal.subsidies import service as subsidies
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase


def run(context: Context, now: dt.datetime) -> int:
    """Returns how many statements were looked at. Raises PassFailed naming those that could not be."""
    context.transact(lambda session: subsidies.cover_programmes(session, now=now))
    with context.database.read_only() as session:
        ids = claims.list_to_open(session)
    problems: list[str] = []

    def work(session: Session, some: Sequence[int]) -> None:
        for id in some:
            claims.open_for(session, id, now=now)

    with phase("open-claims"):
        in_batches(context, ids, work, lambda id, error: problems.append(f"statement {id}: {error}"), size=1)
    if problems:
        raise PassFailed("; ".join(problems))
    return len(ids)
