"""Giving up hours that were booked, and what that costs: cancel, hand back, no-show; and what comes back.

Owns: quotes, the charge of a change of mind, the settling of hours that others used, credits for what the city lost.
Does not own: the booking's life and its GPUs (bookings), the rows of the money (usage).
It stands above `usage`, because it charges, and `bookings` may not know that charges exist.

What people give up is quoted first, and the quote is a promise: it holds for some minutes, whatever border passes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, must_see, require
from ..bookings import ends, extending, fees, prices, service, strikes, waiting
from ..bookings.fees import Part, Taken
from ..bookings.models import Attempt, Booking, Extension
from ..bookings.states import ON_THE_CLUSTER, AttemptOutcome, BookingKind, BookingState
from ..db import lock
from ..enterprises import notify
from ..lifecycle import move_to, note_event
from ..policy import BookingPolicy
from ..pools.models import Node, NodeInterval, Occupancy, Pool
from ..pools.states import NodeState
from ..sentences import Refusal, Sentence
from ..usage import service as usage
from ..usage.models import Charge, ChargeKind, UsageRecord
from .models import CancellationQuote, QuoteKind, ReturnedHours, ReturnedPlace

MINUTE = dt.timedelta(minutes=1)
HANDS_BACK = frozenset({BookingState.CONFIRMED, BookingState.RUNNING})


def costs_something(booking: Booking) -> bool:
    """Whether cancelling it goes by the schedule: a fixed booking that is confirmed. All others are free."""
    return booking.kind is BookingKind.FIXED and booking.state is BookingState.CONFIRMED


# -- the promise ------------------------------------------------------------------------------------------------------


def quote_cancel(
    session: Session, booking_id: int, *, by: Actor, policy: BookingPolicy, now: dt.datetime
) -> CancellationQuote:
    """What calling off a confirmed fixed booking costs, promised for some minutes."""
    require(by, Permission.BOOKING_CANCEL)
    booking = must_see(session.get(Booking, booking_id), by)
    if booking.state in ON_THE_CLUSTER:
        raise Refusal(Sentence("booking-has-started"))
    if not costs_something(booking) or booking.starts_at is None or booking.ends_at is None:
        raise Refusal(Sentence("no-quote-needed"))
    percent = fees.cancel_percent(booking.starts_at, now, policy)
    parts = fees.percent_of(_parts(session, booking, booking.starts_at, booking.ends_at), percent)
    return _keep(session, booking, QuoteKind.CANCEL, booking.starts_at, percent, parts, policy, by, now)


def quote_hand_back(
    session: Session,
    booking_id: int,
    *,
    from_at: dt.datetime | None = None,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
) -> CancellationQuote:
    """What giving back the rest of a fixed booking from an instant on costs: all of it, and others' use comes back.

    Without `from_at` from the next full minute. Raises Refusal at `from_at`.
    """
    require(by, Permission.BOOKING_HAND_BACK)
    booking = must_see(session.get(Booking, booking_id), by)
    start = _hand_back_from(booking, from_at, now)
    assert booking.ends_at is not None
    parts = _parts(session, booking, start, booking.ends_at)
    return _keep(session, booking, QuoteKind.HAND_BACK, start, 100, parts, policy, by, now)


def _hand_back_from(booking: Booking, from_at: dt.datetime | None, now: dt.datetime) -> dt.datetime:
    """From when the rest is given back: never the past, never before the start."""
    if booking.kind is not BookingKind.FIXED or booking.state not in HANDS_BACK:
        raise Refusal(Sentence("cannot-hand-back"))
    assert booking.starts_at is not None and booking.ends_at is not None
    # A full minute: the metering, which cuts at full hours, has never passed it when this is written.
    soonest = now.replace(second=0) + MINUTE
    start = soonest if from_at is None else max(from_at, soonest)
    if booking.state is BookingState.CONFIRMED and start <= booking.starts_at:
        raise Refusal(Sentence("hand-back-after-start", start=booking.starts_at), "from_at")
    if start >= booking.ends_at:
        raise Refusal(Sentence("nothing-to-hand-back", end=booking.ends_at), "from_at")
    return start


def _parts(session: Session, booking: Booking, start: dt.datetime, end: dt.datetime) -> list[Part]:
    """The hours of a part of its window at the prices that were frozen when it was confirmed."""
    return fees.parts_of(prices.frozen(session, [booking.id]).get(booking.id, []), booking.gpus, start, end)


def _keep(
    session: Session,
    booking: Booking,
    kind: QuoteKind,
    from_at: dt.datetime,
    percent: int,
    parts: Sequence[Part],
    policy: BookingPolicy,
    by: Actor,
    now: dt.datetime,
) -> CancellationQuote:
    assert booking.ends_at is not None
    quote = CancellationQuote(
        booking_id=booking.id,
        kind=kind,
        from_at=from_at,
        ends_at=booking.ends_at,
        percent=percent,
        gpu_seconds=sum(part.gpu_seconds for part in parts),
        amount_micro_yuan=fees.cost(parts),
        made_by=by.user_id,
        made_at=now,
        expires_at=now + dt.timedelta(minutes=policy.quote_minutes),
    )
    session.add(quote)
    session.flush()
    return quote


def _valid(
    session: Session, quote_id: int | None, booking: Booking, kind: QuoteKind, now: dt.datetime
) -> CancellationQuote:
    """The quote, if it is this booking's, unused, and still promised. Refusal("quote-expired")."""
    quote = None if quote_id is None else lock(session, CancellationQuote, quote_id)
    if (
        quote is None
        or quote.booking_id != booking.id
        or quote.kind is not kind
        or quote.used_at is not None
        or quote.expires_at <= now
        or quote.ends_at != booking.ends_at  # extended or cut meanwhile
    ):
        raise Refusal(Sentence("quote-expired"))
    quote.used_at = now
    return quote


# -- giving up --------------------------------------------------------------------------------------------------------


def cancel(
    session: Session,
    booking_id: int,
    *,
    quote_id: int | None = None,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
) -> Booking:
    """Before it starts. A confirmed fixed booking needs a quote that holds and is charged what that says; what others
    then book in its window comes back. Raises Refusal("booking-has-started" | "quote-expired")."""
    require(by, Permission.BOOKING_CANCEL)
    booking = service.locked(session, booking_id, by)
    if booking.state in ON_THE_CLUSTER:
        raise Refusal(Sentence("booking-has-started"))
    pool = session.get_one(Pool, booking.pool_id)
    if not costs_something(booking):
        service.cancel(session, booking_id, by=by, now=now)
        if booking.kind is BookingKind.FIXED:
            waiting.offer(session, pool, policy=policy, now=now)
        return booking
    quote = _valid(session, quote_id, booking, QuoteKind.CANCEL, now)
    assert booking.starts_at is not None and booking.ends_at is not None
    whole = _parts(session, booking, booking.starts_at, booking.ends_at)
    places = ends.places_of(session, booking)
    why = Sentence("cancelled-for", hours=quote.gpu_seconds, amount=quote.amount_micro_yuan)
    charge_ids = _charge(
        session, booking, ChargeKind.CANCELLATION, fees.share_of(whole, quote.gpu_seconds), f"cancel:{quote.id}", why,
        by, now,
    )  # fmt: skip
    service.cancel(session, booking_id, by=by, now=now, why=why if quote.gpu_seconds else None)
    _give_to_others(session, booking, quote, max(now, booking.starts_at), places, charge_ids, now)
    waiting.offer(session, pool, policy=policy, now=now)
    if quote.gpu_seconds:
        _tell(session, booking, Sentence("told-cancelled-for", number=booking.id, hours=quote.gpu_seconds,
              amount=quote.amount_micro_yuan), f"cancel:{quote.id}", now)  # fmt: skip
    return booking


def hand_back(
    session: Session,
    booking_id: int,
    *,
    quote_id: int | None,
    by: Actor,
    policy: BookingPolicy,
    now: dt.datetime,
) -> Booking:
    """The rest of a fixed booking goes back to the commons. It is charged at once; what others use of it is credited
    when the window is over. The earlier part stays as it was. Raises Refusal("quote-expired")."""
    require(by, Permission.BOOKING_HAND_BACK)
    booking = service.locked(session, booking_id, by)
    quote = _valid(session, quote_id, booking, QuoteKind.HAND_BACK, now)
    start = _hand_back_from(booking, quote.from_at, now)
    end, pool = booking.ends_at, session.get_one(Pool, booking.pool_id)
    assert end is not None
    if start > quote.from_at:  # some minutes of the promise were used: they are metered, and the rest is less
        parts = _parts(session, booking, start, end)
        quote.from_at, quote.gpu_seconds = start, sum(part.gpu_seconds for part in parts)
        quote.amount_micro_yuan = fees.cost(parts)
    places = ends.places_of(session, booking)
    why = Sentence("handed-back", at=start, hours=quote.gpu_seconds)
    charge_ids = _charge(
        session, booking, ChargeKind.CANCELLATION, _parts(session, booking, start, end), f"handed-back:{quote.id}", why,
        by, now,
    )  # fmt: skip
    note_event(session, booking, verb="hand_back", at=now, by=by, why=why)
    ends.move_end(session, pool, booking, start, by=by, now=now)
    _give_to_others(session, booking, quote, start, places, charge_ids, now)
    waiting.offer(session, pool, policy=policy, now=now)
    told = Sentence("told-handed-back", number=booking.id, at=start, hours=quote.gpu_seconds)
    _tell(session, booking, told, f"handed-back:{quote.id}", now)
    return booking


def _charge(
    session: Session,
    booking: Booking,
    kind: ChargeKind,
    parts: Sequence[Part],
    reference: str,
    why: Sentence,
    by: Actor,
    now: dt.datetime,
) -> list[int]:
    """One charge for each price; their ids."""
    ids = [
        usage.charge_fee(
            session,
            booking,
            kind=kind,
            gpu_seconds=part.gpu_seconds,
            point=part.point,
            reference=f"{reference}:{number}",
            why=why,
            by=by,
            now=now,
        )
        for number, part in enumerate(parts, 1)
    ]
    return [id for id in ids if id is not None]


def _give_to_others(
    session: Session,
    booking: Booking,
    quote: CancellationQuote,
    start: dt.datetime,
    places: Sequence[Taken],
    charge_ids: Sequence[int],
    now: dt.datetime,
) -> None:
    """Write down what went back under a charge, to be settled when its window is over."""
    if not charge_ids:
        return
    returned = ReturnedHours(
        booking_id=booking.id,
        enterprise_id=booking.enterprise_id,
        quote_id=quote.id,
        starts_at=start,
        ends_at=quote.ends_at,
        gpus=booking.gpus,
        charged_gpu_seconds=quote.gpu_seconds,
        charge_ids=list(charge_ids),
    )
    session.add(returned)
    session.flush()
    session.add_all(
        ReturnedPlace(returned_id=returned.id, node_id=place.node_id, gpu_mask=place.gpu_mask) for place in places
    )
    session.flush()


def _tell(session: Session, booking: Booking, about: Sentence, key: str, now: dt.datetime) -> None:
    notify.send_to_members(
        session, booking.enterprise_id, about=about, link=f"/bookings/{booking.id}", key=key, now=now
    )


# -- what comes back --------------------------------------------------------------------------------------------------


def list_returned(session: Session, now: dt.datetime) -> list[int]:
    """Windows that were given back and are over. Found in an index of what is not settled."""
    return list(
        session.scalars(
            sa.select(ReturnedHours.id)
            .where(ReturnedHours.settled_at.is_(None), ReturnedHours.ends_at <= now)
            .order_by(ReturnedHours.id)
        )
    )


def settle_returned(session: Session, returned_id: int, *, now: dt.datetime) -> int:
    """Credit what others used of a window that was given back; returns the GPU-seconds. Twice changes nothing."""
    first = session.get_one(ReturnedHours, returned_id)
    service.locked(session, first.booking_id, SYSTEM)
    returned = lock(session, ReturnedHours, returned_id)
    assert returned is not None
    if returned.settled_at is not None or returned.ends_at > now:
        return 0
    rebooked = _rebooked(session, returned)
    left = sum(usage.left_of(session, returned.charge_ids).values())
    credit = min(rebooked, left)
    if credit:
        usage.credit_from(
            session,
            returned.charge_ids,
            credit,
            kind=ChargeKind.RETURNED,
            reference=f"returned:{returned.id}",
            why=Sentence("rebooked-by-others", hours=rebooked),
            by=SYSTEM,
            now=now,
        )
    returned.rebooked_gpu_seconds, returned.credited_gpu_seconds, returned.settled_at = rebooked, credit, now
    session.flush()
    booking = session.get_one(Booking, returned.booking_id)
    given_up = returned.gpus * clock.seconds_between(returned.starts_at, returned.ends_at)
    told = Sentence("told-rebooked", number=booking.id, hours=credit, rebooked=rebooked, given=given_up)
    _tell(session, booking, told, f"returned:{returned.id}", now)
    return credit


def _rebooked(session: Session, returned: ReturnedHours) -> int:
    """GPU-seconds of the window that other enterprises had."""
    places = session.execute(
        sa.select(ReturnedPlace.node_id, ReturnedPlace.gpu_mask).where(ReturnedPlace.returned_id == returned.id)
    ).all()
    others = session.execute(
        sa.select(Occupancy.node_id, Occupancy.gpu_mask, Occupancy.starts_at, Occupancy.ends_at)
        .join(Booking, Booking.id == Occupancy.booking_id)
        .where(
            Occupancy.node_id.in_({node_id for node_id, _mask in places}),
            Occupancy.ends_at > returned.starts_at,
            Occupancy.starts_at < returned.ends_at,
            Booking.enterprise_id != returned.enterprise_id,
        )
    )
    mine = [Taken(node_id, mask, returned.starts_at, returned.ends_at) for node_id, mask in places]
    return fees.rebooked(mine, [Taken(*row) for row in others])


# -- no-show ----------------------------------------------------------------------------------------------------------


def list_unclaimed(session: Session) -> list[tuple[int, dt.datetime]]:
    """Fixed bookings that run and that nobody uses yet, with their start: a walk over what runs."""
    rows = session.execute(
        sa.select(Booking.id, Booking.started_at)
        .where(Booking.state == BookingState.RUNNING, Booking.kind == BookingKind.FIXED, Booking.claimed_at.is_(None))
        .order_by(Booking.id)
    )
    return [(id, started_at) for id, started_at in rows if started_at is not None]


def remind(session: Session, booking_id: int, *, policy: BookingPolicy, now: dt.datetime) -> None:
    """Its people are told once that it has started and until when somebody must use it."""
    booking = session.get_one(Booking, booking_id)
    if booking.state is BookingState.RUNNING and booking.claimed_at is None and booking.started_at is not None:
        until = booking.started_at + policy.claim_minutes * MINUTE
        about = Sentence("told-claim", number=booking.id, until=until)
        _tell(session, booking, about, f"claim:{booking.id}:{int(booking.started_at.timestamp())}", now)


def no_show(session: Session, booking_id: int, *, policy: BookingPolicy, now: dt.datetime) -> bool:
    """Nobody used it in time: it is released, that time and a part of the rest are charged, and it is a strike.

    False when it was claimed, or ended, meanwhile.
    """
    booking = service.locked(session, booking_id, SYSTEM)
    if booking.state is not BookingState.RUNNING or booking.claimed_at is not None or booking.started_at is None:
        return False
    attempt = session.scalars(
        sa.select(Attempt).where(Attempt.booking_id == booking.id, Attempt.outcome.is_(None)).with_for_update()
    ).one()
    assert booking.ends_at is not None
    deadline = booking.started_at + policy.claim_minutes * MINUTE
    until = max(deadline, attempt.metered_until_at or deadline)
    if now < deadline or until >= booking.ends_at:
        return False
    pool = session.get_one(Pool, booking.pool_id)
    rest = _parts(session, booking, until, booking.ends_at)
    rest_seconds = clock.seconds_between(until, booking.ends_at)
    charged = fees.no_show_gpu_seconds(booking.gpus, rest_seconds, policy)
    why = Sentence("not-used-in-time", n=policy.claim_minutes, hours=charged)
    parts = fees.share_of(rest, charged)
    _charge(session, booking, ChargeKind.NO_SHOW, parts, f"no-show:{booking.id}", why, SYSTEM, now)
    ends.move_end(session, pool, booking, until, by=SYSTEM, now=now)
    move_to(session, booking, BookingState.NO_SHOW, verb="no_show", at=now, by=SYSTEM, why=why)
    booking.ended_at = until
    session.flush()
    strikes.strike(session, booking, now=now)
    waiting.offer(session, pool, policy=policy, now=now)
    paused = strikes.paused_until(session, booking.enterprise_id, policy, now)
    about = Sentence("told-no-show", number=booking.id, hours=charged)
    body = () if paused is None else (Sentence("paused-by-strikes", n=policy.strikes_most, until=paused),)
    notify.send_to_members(
        session, booking.enterprise_id, about=about, body=body, link=f"/bookings/{booking.id}",
        key=f"no-show:{booking.id}", now=now,
    )  # fmt: skip
    return True


# -- the city's fault -------------------------------------------------------------------------------------------------


def list_lost_runs(session: Session) -> list[int]:
    """Attempts that failed after people were let in, metered whole and not credited yet."""
    return list(
        session.scalars(
            sa.select(Attempt.id)
            .where(
                Attempt.outcome == AttemptOutcome.FAILED,
                Attempt.granted_at.is_not(None),
                Attempt.credited_at.is_(None),
                Attempt.metered_whole,
            )
            .order_by(Attempt.id)
        )
    )


def credit_lost_run(session: Session, attempt_id: int, *, now: dt.datetime) -> int:
    """What a run that the city lost was charged comes back by itself, with the event in the credit's reference.

    Returns the GPU-seconds; twice changes nothing.
    """
    attempt = session.get_one(Attempt, attempt_id)
    booking = service.locked(session, attempt.booking_id, SYSTEM)
    session.refresh(attempt, with_for_update=True)
    if attempt.credited_at is not None or attempt.outcome is not AttemptOutcome.FAILED or not attempt.metered_whole:
        return 0
    event_id, node = _event(session, attempt)
    if event_id is None:
        reference, why = f"outage:attempt-{attempt.id}", Sentence("lost-run", key=attempt.key)
    else:
        reference = f"outage:event-{event_id}:attempt-{attempt.id}"
        why = Sentence("lost-node", key=attempt.key, node=node, event=event_id)
    credited = usage.credit_attempt(session, attempt.id, reference=reference, why=why, by=SYSTEM, now=now)
    attempt.credited_at = now
    session.flush()
    if credited:
        note_event(session, booking, verb="credit", at=now, by=SYSTEM, why=why)
        about = Sentence("told-lost-run", number=booking.id, hours=credited)
        notify.send_to_members(
            session, booking.enterprise_id, about=about, body=[why], link=f"/bookings/{booking.id}",
            key=f"outage:{attempt.id}", now=now,
        )  # fmt: skip
    return credited


def _event(session: Session, attempt: Attempt) -> tuple[int | None, str]:
    """The outage of a node that ended this attempt: its row in the node's intervals."""
    name = str((attempt.reason or {}).get("node", ""))
    event_id = session.scalar(
        sa.select(NodeInterval.id)
        .join(Node, Node.id == NodeInterval.node_id)
        .where(
            Node.name == name,
            NodeInterval.state.in_((NodeState.DOWN, NodeState.OUT_OF_SERVICE)),
            NodeInterval.starts_at <= attempt.ended_at,
        )
        .order_by(NodeInterval.starts_at.desc(), NodeInterval.id.desc())
        .limit(1)
    )
    return event_id, name


def settle_made_up(session: Session, extension_id: int, *, now: dt.datetime) -> int:
    """Time in place of what the city lost is free: what it was metered is credited when it is over."""
    first = session.get_one(Extension, extension_id)
    booking = service.locked(session, first.booking_id, SYSTEM)
    extension = extending.settle_free(session, extension_id, now=now)
    if extension is None:
        return 0
    ids = session.scalars(
        sa.select(Charge.id)
        .join(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(
            UsageRecord.booking_id == booking.id,
            UsageRecord.starts_at >= extension.starts_at,
            UsageRecord.ends_at <= extension.ends_at,
            Charge.gpu_seconds > 0,
        )
    ).all()
    left = sum(usage.left_of(session, ids).values())
    if left:
        usage.credit_from(
            session, ids, left, kind=ChargeKind.OUTAGE, reference=f"made-up:{extension.id}",
            why=Sentence("made-up", at=extension.starts_at), by=SYSTEM, now=now,
        )  # fmt: skip
    return left
