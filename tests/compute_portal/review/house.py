"""A request under review, and what reviewers say about it, in one line each."""

from __future__ import annotations

import datetime as dt
from typing import Any

from compute_portal import clock, units
from compute_portal.access import Actor
from compute_portal.allocations import review as steps_of
from compute_portal.allocations import service as allocations
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.review import Step
from compute_portal.allocations.review_models import Decision
from compute_portal.allocations.service import AllocationRequest
from compute_portal.policy import Policy
from compute_portal.programmes.rules import Rules
from compute_portal.programmes.service import newest_version
from compute_portal.review import service
from tests.cast import NOW, Cast

SHANGHAI = clock.SHANGHAI


def at(*when: int) -> dt.datetime:
    """An instant given in Beijing time."""
    return dt.datetime(*when, tzinfo=SHANGHAI).astimezone(dt.UTC)  # type: ignore[arg-type,misc]


def set_flow(cast: Cast, *steps: Step, now: dt.datetime = NOW) -> None:
    """For every track of the programme."""

    def work(session: Any) -> None:
        rules = Rules.from_json(newest_version(session, cast.programme).rules)
        for track in rules.tracks:
            steps_of.set_flow(session, cast.programme, track.key, steps, by=cast.actor("an"), now=now)

    cast.database.transaction(work)


def ask(cast: Cast, hours: int = 9_000, *, days: int = 60, now: dt.datetime = NOW, by: Actor | None = None) -> int:
    def work(session: Any) -> int:
        today = clock.day_of(now)
        asked = AllocationRequest(
            cast.programme,
            cast.pool,
            units.gpu_seconds(hours),
            today,
            today + dt.timedelta(days=days),
            "方言语音识别。",
        )
        allocation = allocations.request(session, asked, by=by or cast.manager, now=now)
        steps_of.start(session, allocation, by=by or cast.manager, now=now)
        return allocation.id

    return cast.database.transaction(work)


def approve(
    cast: Cast, id: int, policy: Policy, *, by: str | Actor = "zhou", hours: int = 9_000, **changes: Any
) -> None:
    values: dict[str, Any] = {
        "awarded_gpu_seconds": units.gpu_seconds(hours), "reason_code": None, "reason": "", "checked": (),
        "policy": policy, "by": cast.actor(by) if isinstance(by, str) else by, "now": NOW,
    }  # fmt: skip
    cast.database.transaction(lambda s: service.approve(s, id, **values | changes).id)


def decline(cast: Cast, id: int, policy: Policy, *, by: str = "zhou", **changes: Any) -> None:
    values: dict[str, Any] = {
        "reason_code": "incomplete", "reason": "缺训练计划", "policy": policy, "by": cast.actor(by), "now": NOW,
    }  # fmt: skip
    cast.database.transaction(lambda s: service.decline(s, id, **values | changes).id)


def allocation(cast: Cast, id: int) -> Allocation:
    with cast.database.read_only() as session:
        return session.get_one(Allocation, id)


def decision(cast: Cast, id: int, *, on_appeal: bool = False) -> Decision:
    with cast.database.read_only() as session:
        return session.query(Decision).filter_by(allocation_id=id, on_appeal=on_appeal).one()
