import enum

from ..lifecycle import Lifecycle


class PoolState(enum.StrEnum):
    """A pool has one state; its history tells who entered it and who changed what."""

    OPEN = "open"


POOL_LIFE = Lifecycle("pool", PoolState, {})


class NodeState(enum.StrEnum):
    """`draining` finishes what runs and takes nothing new; `down` failed; `out_of_service` was taken out by hand."""

    UP = "up"
    DRAINING = "draining"
    DOWN = "down"
    OUT_OF_SERVICE = "out_of_service"


S = NodeState
LIFE = Lifecycle(
    "node",
    NodeState,
    {
        S.UP: frozenset({S.DRAINING, S.DOWN, S.OUT_OF_SERVICE}),
        S.DRAINING: frozenset({S.UP, S.DOWN, S.OUT_OF_SERVICE}),
        S.DOWN: frozenset({S.UP, S.OUT_OF_SERVICE}),
        S.OUT_OF_SERVICE: frozenset({S.UP}),
    },
)


class MaintenanceState(enum.StrEnum):
    PLANNED = "planned"
    CANCELLED = "cancelled"


MAINTENANCE_LIFE = Lifecycle(
    "maintenance", MaintenanceState, {MaintenanceState.PLANNED: frozenset({MaintenanceState.CANCELLED})}
)


class PowerCapState(enum.StrEnum):
    """`set`: it holds in its hours, whether they have come or not; `lifted`: it was ended before they were over."""

    SET = "set"
    LIFTED = "lifted"


POWER_CAP_LIFE = Lifecycle("power_cap", PowerCapState, {PowerCapState.SET: frozenset({PowerCapState.LIFTED})})


class BookingUnit(enum.StrEnum):
    """What the pool's engine hands out. Written by the scheduler at sync, read by forms."""

    GPU = "gpu"
    NODE = "node"


class InstructionVerb(enum.StrEnum):
    STOP = "stop"
    DRAIN = "drain"
    RESUME = "resume"
    RETRY = "retry"  # of an entry of the timetable, which runs it; the others are the cycle's
    MOVE_END = "move_end"  # of a fixed booking: extended, or its rest handed back


class InstructionState(enum.StrEnum):
    WAITING = "waiting"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
