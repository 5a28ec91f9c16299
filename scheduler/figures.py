"""What everybody may see of the city is reckoned here, so that a public page costs the same however much there is."""

from __future__ import annotations

import datetime as dt

from compute_portal.commons import figures
from compute_portal.commons.states import Figure

from .context import Context


def look(context: Context, now: dt.datetime) -> None:
    """Cards and queue of this minute, and the coming hours."""
    with context.database.read_only() as session:
        content = figures.present(session, now)
    context.transact(lambda session: figures.publish(session, {Figure.NOW: content}, now=now))


def run(context: Context, now: dt.datetime) -> int:
    """Hours and days of the pools that are new or may have changed, then every figure. Returns how many days."""
    policy = context.policy.commons
    with context.database.read_only() as session:
        first_on = figures.first_open_day(session, policy, now)
        past = None if first_on is None else figures.pool_past(session, first_on, now)
        contents = figures.reckon(session, policy, now)
    if past is not None:
        context.transact(lambda session: figures.keep_past(session, past))
    context.transact(lambda session: figures.publish(session, contents, now=now))
    return 0 if past is None else len(past.days)
