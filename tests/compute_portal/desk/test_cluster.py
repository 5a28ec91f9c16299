"""The cluster's picture shows every card once; nodes are drained by instructions with a reason, all or none."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM
from compute_portal.bookings import attempts
from compute_portal.desk import cluster
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Instruction, Node
from compute_portal.pools.states import NodeState
from compute_portal.sentences import Sentence
from tests.cast import HOUR, NOW, Cast
from tests.walk import start
from tests.web import Queries, make_app, post, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def nodes_of(cast: Cast) -> list[int]:
    with cast.database.read_only() as session:
        return list(session.scalars(sa.select(Node.id).order_by(Node.position)))


def test_the_picture_has_every_card_once_and_says_who_waits_and_what_ended_badly(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    """Four nodes of eight: one down, one draining, three cards in use on the first, one booking that waits."""
    start(cast, cast.submit(cast.flexible(3, 2), policy.bookings), at=NOW - HOUR)
    lost = cast.submit(cast.flexible(2, 2), policy.bookings)
    lost_key = start(cast, lost, at=NOW - HOUR)
    waits = cast.submit(cast.flexible(32, 2), policy.bookings, now=NOW - 2 * HOUR)
    nodes = nodes_of(cast)

    def happen(session: Session) -> None:
        attempts.failed(session, lost_key, why=Sentence("not-allowed"), at=NOW, tries=1)
        pools.change_node_state(session, nodes[3], NodeState.DOWN, verb="fail", by=SYSTEM, now=NOW)
        pools.change_node_state(session, nodes[2], NodeState.DRAINING, verb="drain", by=SYSTEM, now=NOW)

    cast.database.transaction(happen)
    with cast.database.read_only() as session:
        found = cluster.load(session, policy.audit, NOW)
    (shown,) = found.pools
    (rack,) = shown.racks
    squares = {kind: path.count("M") for kind, path in rack.paths}
    assert sum(squares.values()) == 32 and squares["down"] == 8
    assert squares["run"] == shown.picture.in_use and squares["free"] == rack.free == shown.picture.free
    assert found.watts == round(shown.picture.in_use * 700 * 1.3)
    assert [node.state for node, _ in found.needy] == [NodeState.DOWN, NodeState.DRAINING]
    assert [each.booking_id for each in found.ended.badly] == [lost]
    assert found.queue.bookings == 1 and found.queue.longest[0].booking_id == waits

    zhou = sign_in(app, cast.users["zhou"], language="en")
    zhou.get("/cluster")
    with Queries(cast.database) as queries:
        page = words(zhou.get("/cluster"))
    assert len(queries) <= 10
    assert "One node is down" in page and "longest wait 2 h" in page and "One run ended badly in 24 hours" in page


def test_chosen_nodes_are_drained_by_instructions_with_a_reason_or_none_is(app: Flask, cast: Cast) -> None:
    zhou, xu = (sign_in(app, cast.users[name], language="en") for name in ("zhou", "xu"))
    page, nodes = f"/cluster/{cast.pool}", nodes_of(cast)

    def asked() -> list[tuple[int, str | None]]:
        with cast.database.read_only() as session:
            rows = session.execute(sa.select(Instruction.target_id, Instruction.why).order_by(Instruction.target_id))
            return [(target, why) for target, why in rows]

    nothing = post(zhou, f"{page}/drain", {"why": "换网卡"}, page=page)
    assert nothing.status_code == 422 and "Choose at least one node" in nothing.text and "换网卡" in nothing.text
    two = {"node_ids": [str(nodes[0]), str(nodes[1]), "999999", "x"]}
    assert post(zhou, f"{page}/drain", two | {"why": " "}, page=page).status_code == 422
    assert post(zhou, f"{page}/drain", two | {"why": "换网卡"}, page=page).status_code == 302
    assert asked() == [(nodes[0], "换网卡"), (nodes[1], "换网卡")]
    assert "waits for the scheduler: drain · 换网卡" in words(zhou.get(page))
    again = {"node_ids": [str(nodes[1]), str(nodes[2])], "why": "再来"}
    assert post(zhou, f"{page}/drain", again, page=page).status_code == 422
    assert len(asked()) == 2, "one of the two waits already, so neither is asked"
    assert zhou.get(f"{page}?rack=2").status_code == 404
    assert xu.get(page).status_code == 200
    assert post(xu, f"{page}/resume", two | {"why": "x"}, page=page).status_code == 403
