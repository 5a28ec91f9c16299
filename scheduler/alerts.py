"""Tell managers that hours or days run out, once each, and let the bureau's thresholds do what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM
from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import NOT_STARTED
from compute_portal.budgets import alerts
from compute_portal.budgets.queries import Rules, rules_in_force
from compute_portal.budgets.states import Action
from compute_portal.enterprises import notify
from compute_portal.sentences import Sentence
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase


def run(context: Context, now: dt.datetime) -> int:
    """Returns how many alerts were told. What was written and what was told is one transaction: once, and not less."""
    with context.database.read_only() as session:
        rules = rules_in_force(session)

    def look(session: Session) -> tuple[int, Sequence[int]]:
        news = alerts.look(session, rules, now=now)
        for one in news:
            notify.send_to_managers(
                session,
                one.enterprise_id,
                about=one.sentence,
                link=f"/allocations/{one.allocation_id}",
                key=one.key,
                now=now,
            )
        return len(news), alerts.follow(session, rules, now=now).to_end

    with phase("alerts"):
        told, to_end = context.transact(look)
    _end(context, rules, to_end, now)
    return told


def _end(context: Context, rules: Rules, allocation_ids: Sequence[int], now: dt.datetime) -> None:
    """Where a threshold says so: what waits is cancelled, what is left expires, what runs goes to its end."""
    percent = rules.lowest(Action.END)
    if percent is None or not allocation_ids:
        return
    failed: list[str] = []
    with context.database.read_only() as session:
        waiting = list(
            session.scalars(
                sa.select(Booking.id)
                .where(Booking.allocation_id.in_(allocation_ids), Booking.state.in_(NOT_STARTED))
                .order_by(Booking.id)
            )
        )
    why = Sentence("ended-by-threshold", percent=percent)

    def cancel(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            bookings.cancel(session, id, by=SYSTEM, now=now, why=why)

    def end(session: Session, ids: Sequence[int]) -> None:
        for id in ids:
            alerts.end(session, id, percent=percent, now=now)
            left = session.scalar(
                sa.select(Booking.id).where(Booking.allocation_id == id, Booking.state.in_(NOT_STARTED)).limit(1)
            )
            if left is not None:  # booked a moment ago, or not cancelled above: the next pass does both
                raise RuntimeError(f"booking {left} still waits")

    in_batches(context, waiting, cancel, lambda id, error: failed.append(f"booking {id}: {error}"), size=1)
    in_batches(context, allocation_ids, end, lambda id, error: failed.append(f"allocation {id}: {error}"), size=1)
    if failed:
        raise PassFailed("; ".join(failed))
