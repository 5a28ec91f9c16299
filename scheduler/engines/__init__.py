"""The port to a cluster. The engine owns the queue and the placement; the portal owns policy, money and people.

Every call may be repeated with the same arguments: that is what makes a crash between a call and its record harmless.
No call happens inside a database transaction of ours.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from compute_portal.bookings.attempts import HandOver, Place
from compute_portal.pools.states import BookingUnit
from compute_portal.sentences import Sentence
from scheduler.planning.planner import Snapshot


class LeaseState(enum.StrEnum):
    WAITING = "waiting"
    PLACED = "placed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine says of one attempt. `nodes` is [{"node": name, "gpus": [indices]}].

    `until_at` is when the engine will end it, `ended_at` when it ended, also if that is noticed late. `failed` with its
    `reason` when neither time nor a person ended it.
    """

    key: str
    state: LeaseState
    nodes: list[dict[str, Any]] = field(default_factory=list)
    placed_at: dt.datetime | None = None
    until_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    failed: bool = False
    reason: Sentence | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the cluster can do; the scheduler writes it to the pool, forms read it there."""

    booking_units: frozenset[BookingUnit]  # the first choice of a pool is kept if it is among them
    takes_scripts: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A leaf of the fair tree: shares of the programme, of the enterprise in it, of the allocation in that."""

    pool_id: int
    programme_id: int
    programme_shares: int
    enterprise_id: int
    enterprise_shares: int
    allocation_id: int
    allocation_shares: int


@dataclass(frozen=True, slots=True)
class FixedBooking:
    """A confirmed window on named nodes that the engine must keep free."""

    booking_id: int
    pool_id: int
    starts_at: dt.datetime
    ends_at: dt.datetime
    nodes: tuple[tuple[int, int], ...]  # (node id, GPU mask)


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """Everything a cluster with a scheduler of its own must know: whole, so that what is gone here goes there."""

    shares: Sequence[Share]
    limits: dict[tuple[int, int], int]  # (enterprise, pool) → GPUs at once
    fixed: Sequence[FixedBooking]


class Engine(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...

    def sync(self, policy: EnginePolicy) -> None:
        """Make the cluster's policy equal to ours."""

    def hand_over(self, attempts: Sequence[HandOver], now: dt.datetime) -> dict[str, str]:
        """Queue these attempts. Returns the engine's reference by key; a key it already knows is not queued again."""

    def stop(self, keys: Sequence[str], now: dt.datetime) -> None:
        """End what waits or runs under these keys; unknown and ended ones are left alone."""

    def move_ends(self, ends: Mapping[str, dt.datetime], now: dt.datetime) -> None:
        """End what waits or runs under these keys at another instant, sooner or later; unknown ones are left alone."""

    def freed(self, keys: Sequence[str], versions: Mapping[int, int]) -> None:
        """The portal has written these ends and given back their GPUs; `versions` are the pools' since then."""

    def find(self, key: str) -> Observation | None:
        """What became of one attempt; None when it never arrived."""

    def observe(self, since: dt.datetime | None) -> list[Observation]:
        """Everything that changed at or after `since`; without it, everything that waits or runs."""

    def advance(self, now: dt.datetime) -> bool:
        """End what is over or lost its node. Whether there may be something to observe: an engine that lives elsewhere
        has nothing to do here and says yes."""

    def place(self, now: dt.datetime) -> bool:
        """Start what fits. Whether there may be something to observe."""

    def standings(self, now: dt.datetime) -> dict[int, list[Place]]:
        """Per pool, where everything that waits stands and why."""

    def snapshots(self, now: dt.datetime) -> dict[int, Snapshot]:
        """Copies of what it plans with, by pool, for looking ahead; none where it does not plan by itself."""

    def set_node(self, node_id: int, in_service: bool) -> None:
        """Take a node out of service, so that it finishes what runs and gets nothing new; or put it back."""

    def capacity(self, pool_id: int) -> int:
        """GPUs up in the pool, as the engine sees it."""
