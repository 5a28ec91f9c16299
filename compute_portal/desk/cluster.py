"""The cluster as its operators see it: every card, who waits, what ended badly, the power it draws."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock, units
from ..bookings.models import Booking, Standing
from ..bookings.states import BookingState
from ..lifecycle import HistoryEntry
from ..policy import AuditPolicy
from ..pools import queries as pools
from ..pools.models import Instruction, Node, Pool
from ..pools.queries import Picture
from ..pools.states import NodeState
from ..sentences import NotFound, Sentence
from .models import Leader

RACK = 16  # nodes in one block of the picture
SHOWN = 5
BADLY_SHOWN = 10
BADLY = dt.timedelta(hours=24)
# Classes of the picture, worst last: what a card is.
KINDS = ("run", "free", "drain", "maint", "down")
SQUARE, GAP, ROW = 5, 6, 6.6  # pixels: a card, from one to the next, from one node to the next


@dataclass(frozen=True, slots=True)
class Rack:
    """So many nodes one below the other. `paths` are SVG paths by kind of card."""

    number: int  # from 1, in the pool
    first: int  # the number of its first node, from 1
    nodes: list[Node]
    paths: list[tuple[str, str]]
    width: int
    height: float
    free: int

    @property
    def last(self) -> int:
        return self.first + len(self.nodes) - 1


@dataclass(frozen=True, slots=True)
class PoolShown:
    picture: Picture
    racks: list[Rack]
    watts: int  # that its cards in use draw, with what cooling and conversion add

    @property
    def pool(self) -> Pool:
        return self.picture.pool


@dataclass(frozen=True, slots=True)
class Waits:
    """A booking that waits, why, and since when."""

    booking_id: int
    pool_name: str
    gpus: int
    since_at: dt.datetime
    why: Sentence | None


@dataclass(frozen=True, slots=True)
class Queue:
    bookings: int
    gpus: int
    longest: list[Waits]


@dataclass(frozen=True, slots=True)
class Badly:
    booking_id: int
    at: dt.datetime
    why: Sentence | None


@dataclass(frozen=True, slots=True)
class Ended:
    """Of the last day: how many attempts ended badly, the newest of them, and how many bookings ended well."""

    bad: int
    badly: list[Badly]
    well: int


@dataclass(frozen=True, slots=True)
class Cluster:
    pools: list[PoolShown]
    queue: Queue
    ended: Ended
    heartbeat_at: dt.datetime | None

    @property
    def needy(self) -> list[tuple[Node, Pool]]:
        """Nodes that are not simply up, the worst first."""
        order = (NodeState.DOWN, NodeState.DRAINING, NodeState.OUT_OF_SERVICE)
        found = [(n, shown.pool) for shown in self.pools for n in shown.picture.nodes if n.state is not NodeState.UP]
        return sorted(found, key=lambda each: (order.index(each[0].state), each[0].name))

    def sum(self, name: str) -> int:
        return sum(int(getattr(shown.picture, name)) for shown in self.pools)

    @property
    def watts(self) -> int:
        return sum(shown.watts for shown in self.pools)

    @property
    def down(self) -> int:
        return sum(node.state is NodeState.DOWN for node, _ in self.needy)


def load(session: Session, policy: AuditPolicy, now: dt.datetime) -> Cluster:
    """Eight queries."""
    pictures = pools.pictures(session, pools.list_pools(session), now)
    day = {"since": now - BADLY, "now": now}
    heartbeat_at, bookings, gpus, bad, well = session.connection().execute(_FIGURES, day).one()
    return Cluster(
        [PoolShown(picture, racks(picture), _watts(picture, policy)) for picture in pictures],
        Queue(bookings, int(gpus or 0), _longest(session) if bookings else []),
        Ended(bad, _badly(session, day) if bad else [], well),
        heartbeat_at,
    )


def _watts(picture: Picture, policy: AuditPolicy) -> int:
    """Modelled: cards in use × their watts × PUE; what idle cards draw is left out."""
    return units.round_half_up(picture.in_use * picture.pool.watts * policy.pue_permille, 1000)


# The queue, and by the history of bookings what failed and what finished.
_QUEUED = sa.select(sa.func.count().label("bookings"), sa.func.sum(Booking.gpus).label("gpus")).where(
    Booking.state == BookingState.QUEUED
)
_THAT_DAY = sa.and_(
    HistoryEntry.at >= sa.bindparam("since"),
    HistoryEntry.at <= sa.bindparam("now"),
    HistoryEntry.kind == Booking.LIFE.kind,
)
_FAILED = HistoryEntry.verb == "fail"
_ENDS = sa.select(
    sa.func.count().filter(_FAILED).label("bad"),
    sa.func.count().filter(sa.not_(_FAILED), HistoryEntry.after == BookingState.FINISHED).label("well"),
).where(_THAT_DAY)
_HEARTBEAT = sa.select(Leader.heartbeat_at).where(Leader.id == 1).scalar_subquery()


def _figures() -> sa.Select[*tuple[Any, ...]]:
    queued, ends = _QUEUED.subquery(), _ENDS.subquery()
    return sa.select(_HEARTBEAT, queued.c.bookings, queued.c.gpus, ends.c.bad, ends.c.well).join_from(
        queued, ends, sa.true()
    )


_FIGURES = _figures()
_WAIT_LONGEST = (
    sa.select(Booking.id)
    .where(Booking.state == BookingState.QUEUED)
    .order_by(Booking.submitted_at, Booking.id)
    .limit(SHOWN)
)
_LONGEST = (
    sa.select(Booking.id, Pool.name, Booking.gpus, Booking.submitted_at, Standing.reason)
    .join(Pool, Pool.id == Booking.pool_id)
    .outerjoin(Standing, Standing.booking_id == Booking.id)
    .where(Booking.id.in_(_WAIT_LONGEST))
    .order_by(Booking.submitted_at, Booking.id)
)
_BADLY = (
    sa.select(HistoryEntry.subject_id, HistoryEntry.at, HistoryEntry.why)
    .where(_THAT_DAY, _FAILED)
    .order_by(HistoryEntry.at.desc(), HistoryEntry.id.desc())
    .limit(BADLY_SHOWN)
)


def _longest(session: Session) -> list[Waits]:
    rows = session.connection().execute(_LONGEST)
    return [Waits(id, pool, gpus, since_at, Sentence.from_json(why)) for id, pool, gpus, since_at, why in rows]


def _badly(session: Session, day: dict[str, dt.datetime]) -> list[Badly]:
    return [Badly(id, at, Sentence.from_json(why)) for id, at, why in session.connection().execute(_BADLY, day)]


# -- the picture ------------------------------------------------------------------------------------------------------


def racks(picture: Picture) -> list[Rack]:
    """Blocks of nodes in their order of placement; in a row the cards in use stand first."""
    used: dict[int, int] = {}
    for use in picture.uses_now:
        used[use.node_id] = used.get(use.node_id, 0) + use.gpus
    shut = _under_maintenance(picture)
    found = []
    for first in range(0, len(picture.nodes), RACK):
        nodes = picture.nodes[first : first + RACK]
        squares: dict[str, list[str]] = {kind: [] for kind in KINDS}
        free = 0
        for row, node in enumerate(nodes):
            kinds = _cards(node, used.get(node.id, 0), node.id in shut)
            free += kinds.count("free")
            for card, kind in enumerate(kinds):
                squares[kind].append(f"M{card * GAP} {row * ROW:.1f}h{SQUARE}v{SQUARE}h-{SQUARE}z")
        widest = max(node.gpus for node in nodes)
        found.append(
            Rack(
                first // RACK + 1,
                first + 1,
                nodes,
                [(kind, "".join(path)) for kind, path in squares.items() if path],
                widest * GAP - GAP + SQUARE,
                RACK * ROW,
                free,
            )
        )
    return found


def _cards(node: Node, used: int, under_maintenance: bool) -> list[str]:
    """What each card of a node is."""
    used = min(used, node.gpus)
    rest = node.gpus - used
    if node.state is NodeState.DOWN:
        return ["down"] * node.gpus
    if node.state is NodeState.DRAINING:
        return ["drain"] * used + ["maint"] * rest
    shut = under_maintenance or node.state is NodeState.OUT_OF_SERVICE
    return ["run"] * used + ["maint" if shut else "free"] * rest


def _under_maintenance(picture: Picture) -> set[int]:
    return {
        id for window in picture.windows if window.starts_at <= picture.now < window.ends_at for id in window.node_ids
    }


# -- one rack ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RackShown:
    picture: Picture
    rack: Rack
    racks: int
    bookings: dict[int, list[int]]  # by node
    asked: dict[int, Instruction]  # what the scheduler was asked and has not answered, by node
    now: dt.datetime

    @property
    def windows(self) -> set[int]:
        return _under_maintenance(self.picture)


def load_rack(session: Session, pool_id: int, number: int, now: dt.datetime) -> RackShown:
    """Six queries. Raises NotFound for a rack that is not there."""
    [picture] = pools.pictures(session, [pools.get_pool(session, pool_id)], now)
    all_racks = racks(picture)
    if not 1 <= number <= len(all_racks):
        raise NotFound
    rack = all_racks[number - 1]
    ids = [node.id for node in rack.nodes]
    bookings: dict[int, list[int]] = {}
    for use in picture.uses_now:
        if use.booking_id not in bookings.setdefault(use.node_id, []):
            bookings[use.node_id].append(use.booking_id)
    asked = pools.list_instructions(session, ids, unanswered=True)
    return RackShown(picture, rack, len(all_racks), bookings, {each.target_id: each for each in asked}, now)


def chosen(values: Iterable[str], nodes: Sequence[Node]) -> list[int]:
    """Of what was ticked, the nodes that stand in this rack."""
    ids = {str(node.id): node.id for node in nodes}
    return sorted({ids[value] for value in values if value in ids})


def ago(instant: dt.datetime | None, now: dt.datetime) -> int | None:
    return None if instant is None else max(0, clock.seconds_between(instant, now))
