"""Pools, nodes, prices and maintenance: the verbs, and the placing of GPUs that other features build on.

Every verb that changes capacity or placement locks the pool's row and adds 1 to its version.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import Actor, Permission, require
from ..db import Writer, lock
from ..lifecycle import begin, list_history, move_to, note_event, note_move
from ..sentences import NotFound, Refusal, Sentence
from .availability import MAX_GPUS_PER_NODE, Placement
from .models import (
    Instruction,
    Limit,
    Maintenance,
    Node,
    NodeInterval,
    Occupancy,
    OptionPlace,
    Pool,
    PoolWeight,
    PowerCap,
    Tariff,
)
from .prices import hours_meet
from .states import BookingUnit, InstructionState, InstructionVerb, MaintenanceState, NodeState, PowerCapState

MOST_NODES = 9_999  # of a pool: their names have three digits or four
MOST_TFLOPS, MOST_WATTS = 1_000_000, 100_000  # of a card: what is beyond is a slip of the hand
OCCUPANCIES = cast(sa.Table, Occupancy.__table__)


def lock_pool(session: Session, pool_id: int) -> Pool:
    pool = lock(session, Pool, pool_id)
    if pool is None:
        raise NotFound
    return pool


def changed(session: Session, pool: Pool) -> None:
    """The pool's capacity or placement changed: plans made before are void. The pool is locked."""
    pool.version += 1
    session.flush()


def void_plans(pool_ids: sa.Select[int]) -> sa.Update:
    """The statement that does `lock_pool` and `changed` for several pools; to be run before anything else is locked."""
    table = cast(sa.Table, Pool.__table__)
    return sa.update(table).where(table.c.id.in_(pool_ids)).values(version=table.c.version + 1)


def add_pool(
    session: Session,
    *,
    name: str,
    model: str,
    tflops_fp16_dense: int,
    watts: int,
    gpus_per_node: int,
    nodes: int,
    by: Actor,
    now: dt.datetime,
    how_to_connect: str | None = None,
    tflops_source: str | None = None,
) -> Pool:
    """A pool with `nodes` equal nodes named <name>-n001 …, all up from now. It needs a price before it can be booked.

    Raises Refusal at `name`, `tflops`, `watts`, `gpus_per_node` or `nodes`.
    """
    require(by, Permission.POOL_EDIT)
    _check_figures(tflops_fp16_dense, watts)
    if not 1 <= gpus_per_node <= MAX_GPUS_PER_NODE:
        raise Refusal(Sentence("cards-per-node", most=MAX_GPUS_PER_NODE), "gpus_per_node")
    # The nodes of two pools are told apart by their names, which people write in lower case.
    taken = session.scalars(sa.select(Pool.name)).all()
    if _slug(name) in {_slug(other) for other in taken}:
        raise Refusal(Sentence("pool-name-taken", name=name), "name")
    pool = Pool(
        name=name,
        model=model,
        tflops_fp16_dense=tflops_fp16_dense,
        tflops_source=tflops_source,
        watts=watts,
        gpus_per_node=gpus_per_node,
        booking_unit=BookingUnit.GPU,
        takes_scripts=False,
        how_to_connect=how_to_connect,
        version=0,
    )
    session.add(pool)
    try:
        session.flush()
    except sa.exc.IntegrityError as error:  # two people at one moment: the index lets the second one down
        if "name" in str(error.orig):
            raise Refusal(Sentence("pool-name-taken", name=name), "name") from None
        raise
    begin(session, pool, verb="add", at=now, by=by)
    _add_nodes(session, pool, nodes, by, now)
    return pool


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _check_figures(tflops: int, watts: int) -> None:
    if not 1 <= tflops <= MOST_TFLOPS:
        raise Refusal(Sentence("not-a-figure", most=MOST_TFLOPS), "tflops")
    if not 1 <= watts <= MOST_WATTS:
        raise Refusal(Sentence("not-a-figure", most=MOST_WATTS), "watts")


def _add_nodes(session: Session, pool: Pool, number: int, by: Actor, now: dt.datetime) -> None:
    """So many more nodes like the others, after them in the order of placement."""
    there = session.scalar(sa.select(sa.func.count()).where(Node.pool_id == pool.id)) or 0
    if not 0 <= there + number <= MOST_NODES:
        raise Refusal(Sentence("too-many-nodes", most=MOST_NODES, there=there), "nodes")
    for position in range(there, there + number):
        node = Node(
            pool_id=pool.id,
            position=position,
            name=f"{_slug(pool.name)}-n{position + 1:03}",
            gpus=pool.gpus_per_node,
            state=NodeState.UP,
        )
        session.add(node)
        begin(session, node, verb="add", at=now, by=by)
        session.add(NodeInterval(node_id=node.id, state=NodeState.UP, starts_at=now))
    session.flush()


def edit_pool(
    session: Session,
    pool_id: int,
    *,
    model: str,
    tflops_fp16_dense: int,
    tflops_source: str | None,
    watts: int,
    how_to_connect: str | None,
    more_nodes: int = 0,
    by: Actor,
    now: dt.datetime,
) -> Pool:
    """Other figures from now on, and more nodes of the same size. A pool keeps its name: the policy, statements and
    nodes know it by that. No node is taken away here; one that is no longer wanted is drained.

    What it was before stands in the history. Raises Refusal at `tflops`, `watts` or `nodes`.
    """
    require(by, Permission.POOL_EDIT)
    pool = lock_pool(session, pool_id)
    _check_figures(tflops_fp16_dense, watts)
    values = {
        "model": model,
        "tflops_fp16_dense": tflops_fp16_dense,
        "tflops_source": tflops_source,
        "watts": watts,
        "how_to_connect": how_to_connect,
    }
    before = {name: getattr(pool, name) for name, value in values.items() if getattr(pool, name) != value}
    for name in before:
        setattr(pool, name, values[name])
    known = {"model": pool.model, "tflops": pool.tflops_fp16_dense, "watts": pool.watts}
    if before:
        old = Sentence("pool-was", **{key: before.get(_COLUMN.get(key, key), value) for key, value in known.items()})
        _note_pool(session, pool, "edit", old, by, now)
    if more_nodes:
        _add_nodes(session, pool, more_nodes, by, now)
        _note_pool(session, pool, "extend", Sentence("nodes-added", n=more_nodes), by, now)
    if before or more_nodes:
        changed(session, pool)  # more GPUs, or other watts under a cap
    return pool


_COLUMN = {"tflops": "tflops_fp16_dense"}


def _note_pool(session: Session, pool: Pool, verb: str, why: Sentence, by: Actor, now: dt.datetime) -> None:
    """In its history, which begins here for a pool that was entered before there was one."""
    if list_history(session, Pool.LIFE, pool.id, limit=1):
        note_event(session, pool, verb=verb, at=now, by=by, why=why)
    else:
        begin(session, pool, verb=verb, at=now, by=by, why=why)


def set_tariff(
    session: Session,
    pool_id: int,
    *,
    from_on: dt.date,
    price_micro_yuan: int,
    by: Actor,
    now: dt.datetime,
    until_on: dt.date | None = None,
    hours: tuple[int, int] | None = None,
    gpus_most: int | None = None,
) -> Tariff:
    """The pool's list price from a day on: of the whole day, or of some `hours` of it (first, until; Shanghai).

    The price of the whole day is open and ends when the next one begins. One for some hours may have a last day, and a
    limit of GPUs at once in these hours. Only the future may change; the first price of a pool may begin any day.
    Raises Refusal at `from_on`, `until_on`, `from_hour`, `until_hour` or `gpus_most`.
    """
    require(by, Permission.TARIFF_SET)
    lock_pool(session, pool_id)
    rows = list(session.scalars(sa.select(Tariff).where(Tariff.pool_id == pool_id).order_by(Tariff.from_on)))
    today = clock.day_of(now)
    if rows and from_on <= today:
        raise Refusal(Sentence("tariff-needs-future", first=today + dt.timedelta(days=1)), "from_on")
    if hours is None:
        if until_on is not None:
            raise Refusal(Sentence("tariff-of-the-day-is-open"), "until_on")
        if gpus_most is not None:
            raise Refusal(Sentence("tariff-limit-needs-hours"), "gpus_most")
        _follow([row for row in rows if row.from_hour is None], from_on)
    else:
        _check_hours(rows, hours, from_on, until_on, gpus_most)
    session.flush()  # the one before has its last day when the trigger looks
    first, until = hours or (None, None)
    tariff = Tariff(
        pool_id=pool_id,
        from_on=from_on,
        until_on=until_on,
        from_hour=first,
        until_hour=until,
        gpus_most=gpus_most,
        price_micro_yuan=price_micro_yuan,
        set_by=by.user_id,
        set_at=now,
    )
    session.add(tariff)
    session.flush()
    return tariff


def _follow(rows: Sequence[Tariff], from_on: dt.date) -> None:
    """The open price of the whole day ends the day before."""
    if not rows:
        return
    last = rows[-1]
    if last.from_on == from_on:
        raise Refusal(Sentence("tariff-day-taken", day=from_on), "from_on")
    if last.from_on > from_on:
        raise Refusal(Sentence("tariff-overlaps", price=last.price_micro_yuan, first=last.from_on), "from_on")
    last.until_on = from_on - dt.timedelta(days=1)


def _check_hours(
    rows: Sequence[Tariff], hours: tuple[int, int], from_on: dt.date, until_on: dt.date | None, gpus_most: int | None
) -> None:
    first, until = hours
    if not 0 <= first <= 23:
        raise Refusal(Sentence("not-an-hour", first=0, last=23), "from_hour")
    if not 1 <= until <= 24:
        raise Refusal(Sentence("not-an-hour", first=1, last=24), "until_hour")
    if first == until or until - first == 24:
        raise Refusal(Sentence("hours-are-the-day"), "until_hour")
    if until_on is not None and until_on < from_on:
        raise Refusal(Sentence("end-day-before-start", start=from_on), "until_on")
    if gpus_most is not None and gpus_most < 1:
        raise Refusal(Sentence("at-least-one-card"), "gpus_most")
    for row in rows:
        if row.from_hour is None or row.until_hour is None:
            continue
        days_meet = (row.until_on is None or row.until_on >= from_on) and (until_on is None or row.from_on <= until_on)
        if days_meet and hours_meet(first, until, row.from_hour, row.until_hour):
            raise Refusal(
                Sentence("tariff-hours-overlap", first=row.from_hour, until=row.until_hour, price=row.price_micro_yuan),
                "from_hour",
            )


def end_tariff(session: Session, tariff_id: int, *, until_on: dt.date, by: Actor, now: dt.datetime) -> Tariff:
    """The last day of an open off-peak price, today at the earliest. Set once.

    Raises Refusal("tariff-of-the-day-is-open" | "tariff-has-ended") or Refusal("tariff-ends-in-the-past").
    """
    require(by, Permission.TARIFF_SET)
    tariff = session.get(Tariff, tariff_id)
    if tariff is None:
        raise NotFound
    lock_pool(session, tariff.pool_id)
    session.refresh(tariff)
    if tariff.from_hour is None:
        raise Refusal(Sentence("tariff-of-the-day-is-open"), "until_on")
    if tariff.until_on is not None:
        raise Refusal(Sentence("tariff-has-ended", day=tariff.until_on), "until_on")
    earliest = max(clock.day_of(now), tariff.from_on)
    if until_on < earliest:
        raise Refusal(Sentence("tariff-ends-too-early", first=earliest), "until_on")
    tariff.until_on = until_on
    session.flush()
    return tariff


def set_pool_weight(
    session: Session,
    pool_id: int,
    *,
    from_on: dt.date,
    weight_milli: int,
    by: Actor,
    now: dt.datetime,
    slice: str = "",
) -> PoolWeight:
    """What an hour on the pool's cards counts from a day on, or what part of a card a slice is; in thousandths.

    Only the future may change; the first weight of a slice may begin any day. Raises Refusal at `weight`, `slice`
    or `from_on`.
    """
    require(by, Permission.TARIFF_SET)
    lock_pool(session, pool_id)
    slice = slice.strip()
    if not 0 < weight_milli <= (1_000 if slice else 1_000_000):
        raise Refusal(Sentence("slice-out-of-range" if slice else "weight-out-of-range"), "weight")
    if len(slice) > 20 or not all(letter.isascii() and (letter.isalnum() or letter in ".+-") for letter in slice):
        raise Refusal(Sentence("not-a-slice", example="1g.10gb"), "slice")
    days = set(
        session.scalars(sa.select(PoolWeight.from_on).where(PoolWeight.pool_id == pool_id, PoolWeight.slice == slice))
    )
    today = clock.day_of(now)
    if from_on <= today and (days or not slice):
        raise Refusal(Sentence("weight-needs-future", first=today + dt.timedelta(days=1)), "from_on")
    if from_on in days:
        raise Refusal(Sentence("weight-day-taken", day=from_on), "from_on")
    weight = PoolWeight(
        pool_id=pool_id, slice=slice, from_on=from_on, weight_milli=weight_milli, set_by=by.user_id, set_at=now
    )
    session.add(weight)
    session.flush()
    return weight


def change_node_state(
    session: Session, node_id: int, state: NodeState, *, verb: str, by: Actor, now: dt.datetime, note: str | None = None
) -> None:
    """Move a node and its open interval; void older plans."""
    node = session.get(Node, node_id)
    if node is None:
        raise NotFound
    pool = lock_pool(session, node.pool_id)
    session.refresh(node)
    move_to(session, node, state, verb=verb, at=now, by=by, note=note)
    session.execute(
        sa.update(NodeInterval)
        .where(NodeInterval.node_id == node_id, NodeInterval.ends_at.is_(None))
        .values(ends_at=now)
    )
    session.add(NodeInterval(node_id=node_id, state=state, starts_at=now))
    changed(session, pool)


def drain(session: Session, node_id: int, *, why: str, by: Actor, now: dt.datetime) -> int:
    """Ask the scheduler to drain a node: it finishes what runs and takes nothing new."""
    require(by, Permission.NODE_DRAIN)
    return _ask_about_node(session, InstructionVerb.DRAIN, node_id, NodeState.DRAINING, why=why, by=by, now=now)


def resume(session: Session, node_id: int, *, why: str, by: Actor, now: dt.datetime) -> int:
    require(by, Permission.NODE_RESUME)
    return _ask_about_node(session, InstructionVerb.RESUME, node_id, NodeState.UP, why=why, by=by, now=now)


def drain_all(session: Session, node_ids: Iterable[int], *, why: str, by: Actor, now: dt.datetime) -> list[int]:
    """`drain` for several nodes, or for none of them."""
    return [drain(session, node_id, why=why, by=by, now=now) for node_id in node_ids]


def resume_all(session: Session, node_ids: Iterable[int], *, why: str, by: Actor, now: dt.datetime) -> list[int]:
    """`resume` for several nodes, or for none of them."""
    return [resume(session, node_id, why=why, by=by, now=now) for node_id in node_ids]


def _ask_about_node(
    session: Session, verb: InstructionVerb, node_id: int, goal: NodeState, *, why: str, by: Actor, now: dt.datetime
) -> int:
    node = session.get(Node, node_id)
    if node is None:
        raise NotFound
    if not node.LIFE.allows(node.state, goal):
        raise Refusal(Sentence("no-such-move", kind="node", before=node.state.value, verb=verb.value))
    open_already = session.scalar(
        sa.select(Instruction.id).where(
            Instruction.target_kind == "node",
            Instruction.target_id == node_id,
            Instruction.state.in_((InstructionState.WAITING, InstructionState.CLAIMED)),
        )
    )
    if open_already is not None:
        raise Refusal(Sentence("already-asked"))
    return ask(session, verb, "node", node_id, why=why, by=by, now=now)


def ask(
    session: Session,
    verb: InstructionVerb,
    target_kind: str,
    target_id: int,
    *,
    why: str | None,
    by: Actor,
    now: dt.datetime,
) -> int:
    """Leave an instruction for the scheduler's next cycle; returns its id."""
    id: int = session.execute(
        _ASK,
        {
            "verb": verb,
            "target_kind": target_kind,
            "target_id": target_id,
            "why": why,
            "by_id": by.user_id,
            "at": now,
            "state": InstructionState.WAITING,
        },
    ).scalar_one()
    return id


_ASK = sa.insert(cast(sa.Table, Instruction.__table__)).returning(Instruction.__table__.c.id)
_ANSWER = (
    sa.update(cast(sa.Table, Instruction.__table__))
    .where(Instruction.id == sa.bindparam("this_id"))
    .values(state=sa.bindparam("new_state"), answered_at=sa.bindparam("new_answered_at"), answer=sa.bindparam("said"))
)


def answer(session: Writer, instruction_id: int, sentence: Sentence, *, done: bool, now: dt.datetime) -> None:
    """The scheduler's answer, in the same row."""
    state = InstructionState.DONE if done else InstructionState.FAILED
    session.execute(
        _ANSWER, {"this_id": instruction_id, "new_state": state, "new_answered_at": now, "said": sentence.to_json()}
    )


def plan_maintenance(
    session: Session,
    pool_id: int,
    *,
    node_ids: Sequence[int],
    starts_at: dt.datetime,
    ends_at: dt.datetime,
    reason: str,
    by: Actor,
    now: dt.datetime,
) -> Maintenance:
    """Close nodes for a window. Refused while something confirmed or running occupies them then: nothing is dropped.

    Raises Refusal("maintenance-order" | "maintenance-past" | "maintenance-nodes" | "maintenance-clashes").
    """
    require(by, Permission.MAINTENANCE_PLAN)
    pool = lock_pool(session, pool_id)
    if ends_at <= starts_at:
        raise Refusal(Sentence("ends-before-start"), "ends_at")
    if starts_at < now:
        raise Refusal(Sentence("start-is-past"), "starts_at")
    ours = set(session.scalars(sa.select(Node.id).where(Node.pool_id == pool_id)))
    if not node_ids or not set(node_ids) <= ours:
        raise Refusal(Sentence("maintenance-nodes"), "node_ids")
    clashes = session.scalar(
        sa.select(sa.func.count(sa.distinct(Occupancy.booking_id))).where(
            Occupancy.node_id.in_(node_ids), Occupancy.starts_at < ends_at, Occupancy.ends_at > starts_at
        )
    )
    if clashes:
        raise Refusal(Sentence("maintenance-clashes", n=int(clashes)), "starts_at")
    window = Maintenance(
        pool_id=pool_id,
        node_ids=sorted(set(node_ids)),
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason,
        state=MaintenanceState.PLANNED,
    )
    session.add(window)
    begin(session, window, verb="plan", at=now, by=by)
    changed(session, pool)
    return window


def cancel_maintenance(session: Session, window_id: int, *, by: Actor, now: dt.datetime) -> None:
    require(by, Permission.MAINTENANCE_CANCEL)
    window = session.get(Maintenance, window_id)
    if window is None:
        raise NotFound
    pool = lock_pool(session, window.pool_id)
    session.refresh(window)
    move_to(session, window, MaintenanceState.CANCELLED, verb="cancel", at=now, by=by)
    changed(session, pool)


def cap_power(
    session: Session,
    pool_id: int,
    *,
    watts: int,
    pue_permille: int,
    starts_at: dt.datetime,
    ends_at: dt.datetime,
    by: Actor,
    now: dt.datetime,
    reason: str | None = None,
) -> PowerCap:
    """Let the pool draw at most so many watts in [starts_at, ends_at), whole hours; everybody may read why.

    What runs goes on and what is confirmed starts; nothing new is confirmed or started above it. Raises
    Refusal("power-cap-hours" | "ends-before-start" | "power-cap-over" | "pue-too-small") at its field.
    """
    require(by, Permission.MAINTENANCE_PLAN)
    pool = lock_pool(session, pool_id)
    check_power_cap(pue_permille, starts_at, ends_at, now)
    cap = PowerCap(
        pool_id=pool_id, starts_at=starts_at, ends_at=ends_at, watts=watts, pue_permille=pue_permille,
        set_by=by.user_id, set_at=now,
    )  # fmt: skip
    session.add(cap)
    begin(session, cap, verb="cap", at=now, by=by, note=reason)
    changed(session, pool)
    return cap


def check_power_cap(pue_permille: int, starts_at: dt.datetime, ends_at: dt.datetime, now: dt.datetime) -> None:
    """What is wrong with a cap before it is set. Raises Refusal at its field."""
    if pue_permille < 1_000:
        raise Refusal(Sentence("pue-too-small"), "pue")
    for field, instant in (("starts_at", starts_at), ("ends_at", ends_at)):
        if instant != clock.ceil_hour(instant):
            raise Refusal(Sentence("power-cap-hours"), field)
    if ends_at <= starts_at:
        raise Refusal(Sentence("ends-before-start"), "ends_at")
    if ends_at <= now:
        raise Refusal(Sentence("power-cap-over"), "ends_at")


def lift_power_cap(session: Session, cap_id: int, *, by: Actor, now: dt.datetime) -> None:
    """The cap holds no longer. One that was lifted stays so."""
    require(by, Permission.MAINTENANCE_CANCEL)
    cap = session.get(PowerCap, cap_id)
    if cap is None:
        raise NotFound
    pool = lock_pool(session, cap.pool_id)
    session.refresh(cap)
    if cap.lifted_at is None:
        cap.lifted_at = now
        note_move(session, cap, PowerCapState.SET, verb="lift", at=now, by=by)
        changed(session, pool)


def occupy(
    session: Session,
    pool: Pool,
    booking_id: int,
    placement: Placement,
    *,
    fixed: bool,
    starts_at: dt.datetime,
    ends_at: dt.datetime,
) -> None:
    """Give GPUs to a booking. The pool is locked; the caller bumps the version once per transaction."""
    occupy_all(session, pool.id, [(booking_id, placement, starts_at, ends_at)], fixed=fixed)


def occupy_all(
    session: Writer,
    pool_id: int,
    given: Iterable[tuple[int, Placement, dt.datetime, dt.datetime]],
    *,
    fixed: bool = False,
) -> None:
    """`occupy` for many bookings at once: each (booking, placement, start, end)."""
    rows = [
        {
            "pool_id": pool_id,
            "node_id": node_id,
            "booking_id": booking_id,
            "gpu_mask": mask,
            "gpus": mask.bit_count(),
            "fixed": fixed,
            "starts_at": starts_at,
            "ends_at": ends_at,
        }
        for booking_id, placement, starts_at, ends_at in given
        for node_id, mask in placement
    ]
    if rows:
        session.execute(_OCCUPY, rows)


def free(session: Session, booking_id: int, *, at: dt.datetime) -> None:
    """Nothing of this booking was ever given: its future GPUs are free again at once."""
    session.execute(
        sa.update(Occupancy)
        .where(Occupancy.booking_id == booking_id, Occupancy.released_at.is_(None))
        .values(
            ends_at=sa.case(
                (Occupancy.starts_at > at, Occupancy.starts_at), (Occupancy.ends_at > at, at), else_=Occupancy.ends_at
            ),
            released_at=at,
        )
    )


_O = OCCUPANCIES.c
_END = (
    sa.update(OCCUPANCIES)
    .where(
        _O.booking_id == sa.bindparam("booking"),
        _O.released_at.is_(None),
        _O.ends_at > sa.bindparam("end"),
        _O.starts_at <= sa.bindparam("end"),
    )
    .values(ends_at=sa.bindparam("end"))
)
_RELEASE = (
    sa.update(OCCUPANCIES)
    .where(_O.booking_id == sa.bindparam("booking"), _O.released_at.is_(None), _O.ends_at <= sa.bindparam("end"))
    .values(released_at=sa.bindparam("at"), stuck_at=None)
)
_OCCUPY = sa.insert(OCCUPANCIES)


def end_occupancies(session: Writer, ends: Mapping[int, dt.datetime]) -> None:
    """These bookings ended: their GPUs are planned for others from then, but stay taken until `release_occupancies`."""
    if ends:
        session.execute(_END, [{"booking": booking_id, "end": end} for booking_id, end in ends.items()])


def release_occupancies(session: Writer, ended: Mapping[int, dt.datetime], *, at: dt.datetime) -> None:
    """Access was taken back: others may be let in. What the booking has beyond its end then is of a later attempt."""
    if ended:
        session.execute(_RELEASE, [{"booking": booking_id, "end": end, "at": at} for booking_id, end in ended.items()])


def withhold_occupancies(session: Session, booking_id: int, ended_at: dt.datetime, *, at: dt.datetime) -> None:
    """Access could not be taken back: those GPUs are out of service until it is."""
    session.execute(
        sa.update(Occupancy)
        .where(
            Occupancy.booking_id == booking_id,
            Occupancy.released_at.is_(None),
            Occupancy.stuck_at.is_(None),
            Occupancy.ends_at <= ended_at,
        )
        .values(stuck_at=at)
    )


def vacate(session: Session, booking_id: int, *, given_until: dt.datetime | None, at: dt.datetime) -> None:
    """Take a booking off the GPUs that it has beyond `at`. The pool is locked.

    What it was given keeps its rows until `given_until`; what it never was given (None) is free at once.
    """
    mine = sa.update(Occupancy).where(
        Occupancy.booking_id == booking_id, Occupancy.released_at.is_(None), Occupancy.ends_at > at
    )
    if given_until is None:
        session.execute(mine.values(ends_at=Occupancy.starts_at, released_at=at))
    else:
        cut = sa.case((Occupancy.starts_at > given_until, Occupancy.starts_at), else_=given_until)
        session.execute(mine.values(ends_at=cut))


def keep_option(
    session: Session, pool: Pool, waiter_id: int, placement: Placement, *, starts_at: dt.datetime, ends_at: dt.datetime
) -> None:
    """Keep GPUs for somebody on the wait-list. The pool is locked; the caller bumps the version."""
    session.add_all(
        OptionPlace(
            pool_id=pool.id, node_id=node_id, waiter_id=waiter_id, gpu_mask=mask, starts_at=starts_at, ends_at=ends_at
        )
        for node_id, mask in placement
    )
    session.flush()


def drop_option(session: Session, waiter_id: int) -> None:
    """Taken, lapsed or left: its GPUs are free."""
    session.execute(sa.delete(OptionPlace).where(OptionPlace.waiter_id == waiter_id))


def set_limit(session: Session, enterprise_id: int, pool_id: int, gpus: int) -> None:
    """How many GPUs of the pool the enterprise may use at once. Lowering it never ends what runs."""
    row = session.get(Limit, (enterprise_id, pool_id))
    if row is None:
        session.add(Limit(enterprise_id=enterprise_id, pool_id=pool_id, gpus=gpus))
    else:
        row.gpus = gpus
    session.flush()
