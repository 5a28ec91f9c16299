"""A booking's way through the cycle, and what happens when people and nodes come in between."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from compute_portal.bookings import service as bookings
from compute_portal.bookings.models import Booking
from compute_portal.bookings.states import BookingState
from compute_portal.db import Database
from compute_portal.policy import Policy
from scheduler import cycle, metering
from scheduler.context import Context
from tests.cast import HOUR, Cast


def state(database: Database, id: int) -> BookingState:
    with database.read_only() as session:
        return session.get_one(Booking, id).state


def test_a_flexible_booking_is_placed_metered_charged_and_settled(
    context: Context, database: Database, cast: Cast, policy: Policy
) -> None:
    assert context.access is None
    id = cast.submit(cast.flexible(gpus=4, hours=2), policy.bookings)
    result = cycle.run(context, cast.now)
    assert result.started == [id]
    assert state(database, id) is BookingState.RUNNING
    metering.run(context, cast.now + HOUR)
    cycle.run(context, cast.now + 2 * HOUR)
    assert state(database, id) is BookingState.FINISHED
    metering.run(context, cast.now + 2 * HOUR)
    assert state(database, id) is BookingState.SETTLED
    with database.read_only() as session:
        assert session.get_one(Booking, id).charged_gpu_seconds == 4 * 2 * 3600
