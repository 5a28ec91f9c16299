"""What the timetable does about changes of plan: no-shows, the wait-list, hours given back, lost runs and nodes,
warnings.

Each looks for its few rows in an index of its own, so that nothing to do costs nothing, and each thing found is done in
a transaction of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.bookings import extending, giving_way, waiting
from compute_portal.bookings.models import Attempt, Booking
from compute_portal.cancellations import service as cancellations
from compute_portal.enterprises import notify
from compute_portal.policy import BookingPolicy
from compute_portal.sentences import Sentence
from scheduler.context import Context, PassFailed, in_batches
from scheduler.phases import phase

MINUTE = dt.timedelta(minutes=1)


def run(context: Context, now: dt.datetime) -> int:
    """Returns how many things were done. Raises PassFailed naming what failed; the rest was done."""
    rules = context.policy.bookings
    with context.database.read_only() as session:
        unclaimed = cancellations.list_unclaimed(session)
        lost, returned = cancellations.list_lost_runs(session), cancellations.list_returned(session, now)
        made_up, pools = extending.list_free_to_settle(session, now), waiting.list_pools(session)
        stranded, to_warn = giving_way.list_stranded(session, now), list_to_warn(session, rules, now)
    late = [id for id, started_at in unclaimed if started_at + rules.claim_minutes * MINUTE <= now]
    waits = [id for id, _started_at in unclaimed if id not in late]
    duties: tuple[tuple[str, Sequence[int], Callable[[Session, int], object]], ...] = (
        ("stranded booking", stranded, lambda session, id: giving_way.make_room(session, id, now=now)),
        ("no-show", late, lambda session, id: cancellations.no_show(session, id, policy=rules, now=now)),
        ("remind", waits, lambda session, id: cancellations.remind(session, id, policy=rules, now=now)),
        ("lost run", lost, lambda session, id: cancellations.credit_lost_run(session, id, now=now)),
        ("returned hours", returned, lambda session, id: cancellations.settle_returned(session, id, now=now)),
        ("made up", made_up, lambda session, id: cancellations.settle_made_up(session, id, now=now)),
        ("wait-list of pool", pools, lambda session, id: waiting.cascade(session, id, policy=rules, now=now)),
        ("warning", to_warn, lambda session, id: warn(session, id, rules, now=now)),
    )
    done, problems = 0, []
    for name, ids, duty in duties:

        def work(session: Session, some: Sequence[int], duty: Callable[[Session, int], object] = duty) -> None:
            for id in some:
                duty(session, id)

        def bad(id: int, error: Exception, name: str = name) -> None:
            problems.append(f"{name} {id}: {type(error).__name__}: {error}")

        if ids:
            with phase("changes"):
                done += len(ids) - in_batches(context, ids, work, bad, size=1)
    if problems:
        raise PassFailed("; ".join(problems))
    return done


# -- warnings before the end ------------------------------------------------------------------------------------------


def list_to_warn(session: Session, rules: BookingPolicy, now: dt.datetime) -> list[int]:
    """Attempts under way that end within a warning's time and whose people were not told so yet."""
    return list(
        session.scalars(
            sa.select(Attempt.id)
            .where(
                Attempt.revoked_at.is_(None),
                Attempt.outcome.is_(None),
                Attempt.granted_at.is_not(None),
                Attempt.until_at > now,
                sa.or_(
                    *(
                        sa.and_(
                            Attempt.until_at <= now + minutes * MINUTE,
                            sa.func.coalesce(Attempt.warned_minutes, 1_000_000) > minutes,
                        )
                        for minutes in rules.warn_before_end_minutes
                    ),
                    sa.false(),
                ),
            )
            .order_by(Attempt.id)
        )
    )


def warn(session: Session, attempt_id: int, rules: BookingPolicy, *, now: dt.datetime) -> None:
    """The latest warning that is due, once; what is as short as the warning's time is not warned of."""
    attempt = session.get_one(Attempt, attempt_id, with_for_update=True)
    due = [m for m in rules.warn_before_end_minutes if attempt.until_at and attempt.until_at <= now + m * MINUTE]
    if attempt.outcome is not None or attempt.until_at is None or attempt.granted_at is None or not due:
        return
    attempt.warned_minutes = min(due)
    session.flush()
    if attempt.until_at - attempt.granted_at <= min(due) * MINUTE:
        return
    booking = session.get_one(Booking, attempt.booking_id)
    notify.send_to_members(
        session,
        booking.enterprise_id,
        about=Sentence("told-ends", number=booking.id, at=attempt.until_at),
        link=f"/bookings/{booking.id}",
        key=f"ends:{attempt.id}:{int(attempt.until_at.timestamp())}:{min(due)}",
        now=now,
    )
