import enum

from ..lifecycle import Lifecycle


class BookingKind(enum.StrEnum):
    """`direct` bookings are found by metering: somebody used the cluster without booking."""

    FIXED = "fixed"
    FLEXIBLE = "flexible"
    DIRECT = "direct"


class BookingState(enum.StrEnum):
    SUBMITTED = "submitted"
    QUEUED = "queued"
    CONFIRMED = "confirmed"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    SETTLED = "settled"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    LAPSED = "lapsed"
    NO_SHOW = "no_show"
    FAILED = "failed"


S = BookingState
LIFE = Lifecycle(
    "booking",
    BookingState,
    {
        S.SUBMITTED: frozenset({S.QUEUED, S.CONFIRMED, S.DECLINED, S.CANCELLED, S.LAPSED}),
        S.QUEUED: frozenset({S.STARTING, S.CANCELLED, S.FAILED}),
        S.CONFIRMED: frozenset({S.STARTING, S.CANCELLED, S.NO_SHOW, S.FAILED}),
        S.STARTING: frozenset({S.RUNNING, S.STOPPING, S.QUEUED, S.CONFIRMED, S.FINISHED, S.FAILED}),
        S.RUNNING: frozenset({S.STOPPING, S.FINISHED, S.QUEUED, S.CONFIRMED, S.NO_SHOW, S.FAILED}),
        S.STOPPING: frozenset({S.FINISHED, S.FAILED}),
        S.FINISHED: frozenset({S.SETTLED}),
    },
)
# Before the engine has given it GPUs: may be cancelled.
NOT_STARTED = frozenset({S.SUBMITTED, S.QUEUED, S.CONFIRMED})
ON_THE_CLUSTER = frozenset({S.STARTING, S.RUNNING, S.STOPPING})
OPEN = NOT_STARTED | ON_THE_CLUSTER
UPCOMING = NOT_STARTED


class WaiterState(enum.StrEnum):
    """Somebody waits for a window that was full; `offered`: its GPUs are kept for them until an instant."""

    WAITING = "waiting"
    OFFERED = "offered"
    BOOKED = "booked"
    LAPSED = "lapsed"  # did not take it in time: the next one's turn
    LEFT = "left"
    OVER = "over"  # the window began without room


W = WaiterState
WAITER_LIFE = Lifecycle(
    "waiter",
    WaiterState,
    {
        W.WAITING: frozenset({W.OFFERED, W.LEFT, W.OVER}),
        W.OFFERED: frozenset({W.BOOKED, W.LAPSED, W.LEFT}),
    },
)


class AttemptOutcome(enum.StrEnum):
    ENDED = "ended"  # reached its end or was stopped by a person
    FAILED = "failed"  # the engine or the access hook could not give it
    WITHDRAWN = "withdrawn"  # cancelled before it was placed
