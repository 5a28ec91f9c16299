"""After a start, or after anything could not be written: compare all that is open here and at the engine.

Nothing is assumed about where the last process died. What was written and not recorded is handed over again by the
cycle; here is the rest: attempts that ended unseen, attempts that the engine lost, leases that nobody wants.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from compute_portal.bookings import attempts
from compute_portal.sentences import Sentence
from scheduler import news
from scheduler.context import Context, in_batches
from scheduler.engines import LeaseState, Observation
from scheduler.phases import phase

log = logging.getLogger(__name__)


def run(context: Context, now: dt.datetime) -> bool:
    """True if everything is known and written; else the next cycle comes back to it."""
    with phase("recovery"):
        context.engine.advance(now)  # what ended meanwhile is to be seen as ended, not as running
        with context.database.read_only() as session:
            under_way = attempts.list_under_way(session)
        at_engine = {one.key: one for one in context.engine.observe(None)}
        found: list[Observation] = [one for one in at_engine.values() if one.state is LeaseState.PLACED]
        lost: list[str] = []
        for key in under_way:
            if key not in at_engine:
                one = context.engine.find(key)
                if one is None:
                    lost.append(key)
                else:
                    found.append(one)
        _stop_unwanted(context, set(at_engine) - set(under_way), now)
        failures = in_batches(
            context,
            lost,
            lambda session, keys: _fail(session, keys, context.policy.queue.tries_before_set_aside, now),
            lambda key, error: news.give_up(context, key, error, now),
        )
        _started, written = news.write(context, found, now)
        if found or lost:
            log.info("recovered", extra={"found": len(found), "lost": len(lost)})
        return written and failures == 0


def _fail(session: Session, keys: Sequence[str], tries: int, now: dt.datetime) -> None:
    for key in keys:
        attempts.failed(session, key, why=Sentence("engine-lost"), at=now, tries=tries)


def _stop_unwanted(context: Context, keys: set[str], now: dt.datetime) -> None:
    """Leases whose attempt is over for us; what is only not recorded yet stays."""
    with context.database.read_only() as session:
        over = attempts.list_over(session, sorted(keys))
    if over:
        context.engine.stop(over, now)
