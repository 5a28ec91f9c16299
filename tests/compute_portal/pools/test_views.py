"""The pages of pools: what is free, nodes and their instructions, maintenance, prices."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from flask import Flask

from compute_portal import clock, units, verify
from compute_portal.access import SYSTEM
from compute_portal.lifecycle import list_history
from compute_portal.policy import Policy
from compute_portal.pools import queries, service
from compute_portal.pools.models import Instruction, Maintenance, Node, Occupancy, Pool, PowerCap, Tariff
from compute_portal.pools.states import InstructionState, MaintenanceState, NodeState
from compute_portal.sentences import Sentence
from tests import walk
from tests.cast import NOW, Cast
from tests.web import Queries, make_app, post, rows_in, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def node_ids(cast: Cast) -> list[int]:
    with cast.database.read_only() as session:
        return queries.node_ids(session, cast.pool)


def change_state(cast: Cast, node_id: int, state: NodeState, why: str | None = None) -> None:
    cast.database.transaction(
        lambda s: service.change_node_state(s, node_id, state, verb="sync", by=SYSTEM, now=NOW, note=why)
    )


def plan(**changes: str) -> dict[str, str]:
    values = {
        "node_ids": "1-2, 4",
        "starts_at": "2026-11-19 20:00",
        "ends_at": "2026-11-19 23:00",
        "reason": "液冷管路检修",
    }
    return values | changes


# -- pools


def test_everybody_sees_cards_compute_price_and_what_is_free(app: Flask, cast: Cast, policy: Policy) -> None:
    walk.start(cast, cast.submit(cast.flexible(gpus=12), policy.bookings), at=NOW)
    change_state(cast, node_ids(cast)[3], NodeState.DOWN)
    cast.database.transaction(
        lambda s: service.set_tariff(
            s, cast.pool, from_on=dt.date(2026, 12, 1), price_micro_yuan=15_800_000, by=cast.finance, now=NOW
        )
    )
    for who in ("chen", "zhou", "he", "xu", "an"):
        page = words(sign_in(app, cast.users[who], language="en").get("/pools"))
        assert "12 of 32 cards are free now" in page
        assert "In use 12" in page
        assert "Out of service 8" in page
        assert "about 32 P" in page
        assert "dense FP16" in page
        assert "16.50" in page
        assert "15.80 from 1 December 2026" in page


def test_cards_of_a_draining_node_count_as_in_use_while_they_run(app: Flask, cast: Cast, policy: Policy) -> None:
    walk.start(cast, cast.submit(cast.flexible(gpus=8), policy.bookings), at=NOW)
    change_state(cast, node_ids(cast)[0], NodeState.DRAINING)
    page = words(sign_in(app, cast.users["chen"], language="en").get("/pools"))
    assert "24 of 32 cards are free now" in page
    assert "In use 8 Out of service 0" in page


def test_the_calendar_adds_up_to_the_capacity_in_every_hour(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.fixed(gpus=16), policy.bookings)
    post(sign_in(app, cast.users["zhou"]), f"/pools/{cast.pool}/maintenance/plan", plan(node_ids="4"))
    with cast.database.read_only() as session:
        [picture] = queries.pictures(session, [queries.get_pool(session, cast.pool)], NOW)
        hours = picture.by_hour(clock.start_of_day(clock.day_of(NOW)), 168)
    assert set((hours.free + hours.booked + hours.closed).tolist()) == {32}
    page = sign_in(app, cast.users["chen"], language="en").get(f"/pools/{cast.pool}")
    assert page.text.count('<span class="maint">24</span>') == 3
    assert page.text.count('<span class="fit">16</span>') == 2
    assert page.text.count('<span class="past">') == 10  # Wednesday, 10:00


def test_the_bureau_sees_which_bookings_run_on_a_node_and_members_how_many(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    booking = cast.submit(cast.flexible(gpus=4), policy.bookings)
    walk.start(cast, booking, at=NOW)
    used, link = node_ids(cast)[0], f'href="/bookings/{booking}"'
    for address in (f"/pools/{cast.pool}", f"/nodes/{used}"):
        assert link in sign_in(app, cast.users["zhou"]).get(address).text
        for who in ("chen", "mei"):
            assert link not in sign_in(app, cast.users[who]).get(address).text
    assert "4 of 8 cards in use" in words(sign_in(app, cast.users["mei"], language="en").get(f"/nodes/{used}"))


def test_a_pool_or_node_that_is_not_there_is_not_found(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"])
    for address in ("/pools/999", "/nodes/999", "/pools/999/maintenance/plan", "/pools/99999999999", "/nodes/-1"):
        assert client.get(address).status_code == 404
    for address in ("/nodes/999/drain", "/nodes/999/resume", "/pools/999/maintenance/plan", "/maintenance/999/cancel"):
        assert post(client, address, page="/account").status_code == 404
    he = sign_in(app, cast.users["he"])
    assert he.get("/pools/999/tariff/set").status_code == 404
    assert post(he, "/pools/999/tariff/set", page="/account").status_code == 404


def test_pool_pages_ask_at_most_ten_questions(app: Flask, cast: Cast, policy: Policy) -> None:
    walk.start(cast, cast.submit(cast.flexible(gpus=12), policy.bookings), at=NOW)
    client = sign_in(app, cast.users["zhou"])
    post(client, f"/pools/{cast.pool}/maintenance/plan", plan(node_ids="4"))
    post(client, f"/nodes/{node_ids(cast)[0]}/drain", {"why": "风扇告警"}, page=f"/nodes/{node_ids(cast)[0]}")
    for address in ("/pools", f"/pools/{cast.pool}", f"/nodes/{node_ids(cast)[0]}", "/tariffs"):
        with Queries(cast.database) as asked:
            assert client.get(address).status_code == 200
        assert len(asked) <= 10, (address, asked.statements)


# -- drain and resume


def test_an_operator_drains_a_node_and_sees_the_instruction_wait_and_answered(app: Flask, cast: Cast) -> None:
    node = node_ids(cast)[1]
    client = sign_in(app, cast.users["zhou"], language="en")
    answer = post(client, f"/nodes/{node}/drain", {"why": "风扇告警"}, page=f"/nodes/{node}")
    assert answer.location == f"/nodes/{node}"
    page = words(client.get(answer.location))
    assert "The scheduler is asked and answers in its next round" in page
    assert "Zhou Yu’an asked to drain this node" in page
    assert "waits for the scheduler: drain" in words(client.get(f"/pools/{cast.pool}"))
    with cast.database.read_only() as session:
        asked = session.scalars(sa.select(Instruction)).one()
        assert (asked.target_id, asked.state, asked.why, asked.by_id) == (
            node, InstructionState.WAITING, "风扇告警", cast.users["zhou"],
        )  # fmt: skip
        assert session.get_one(Node, node).state is NodeState.UP  # the scheduler does it, not the page
    cast.database.transaction(lambda s: service.answer(s, asked.id, Sentence("drained"), done=True, now=NOW))
    change_state(cast, node, NodeState.DRAINING)
    page = words(client.get(f"/nodes/{node}"))
    assert "Draining: finishes what runs, takes nothing new" in page
    assert "Take it back into service" in page


def test_a_node_is_resumed_with_a_reason(app: Flask, cast: Cast) -> None:
    node = node_ids(cast)[1]
    change_state(cast, node, NodeState.DOWN)
    client = sign_in(app, cast.users["zhou"], language="en")
    assert post(client, f"/nodes/{node}/resume", {"why": "风扇已更换"}, page=f"/nodes/{node}").status_code == 302
    assert "asked to take this node back into service" in words(client.get(f"/nodes/{node}"))


BAD_REASONS = [
    ("", "This is needed."),
    ("   ", "This is needed."),
    ("长" * 201, "At most 200 characters."),
    ("a\0b", "a character"),
]


def test_draining_needs_a_readable_reason(app: Flask, cast: Cast) -> None:
    for why, sentence in BAD_REASONS:
        node = node_ids(cast)[1]
        answer = post(
            sign_in(app, cast.users["zhou"], language="en"), f"/nodes/{node}/drain", {"why": why}, page=f"/nodes/{node}"
        )
        assert answer.status_code == 422
        assert sentence in words(answer)
        assert 'id="why-error"' in answer.text
        if why.strip().isalpha():
            assert why in answer.text
        assert rows_in(cast.database, Instruction) == 0


def test_a_second_wish_for_the_same_node_is_refused_in_words(app: Flask, cast: Cast) -> None:
    node = node_ids(cast)[1]
    post(sign_in(app, cast.users["zhou"]), f"/nodes/{node}/drain", {"why": "风扇告警"}, page=f"/nodes/{node}")
    other = sign_in(app, cast.users["wu"], language="en")
    answer = post(other, f"/nodes/{node}/drain", {"why": "换网卡"}, page="/account")
    assert answer.status_code == 422
    assert "An instruction for this node already waits for the scheduler." in words(answer)
    assert rows_in(cast.database, Instruction) == 1


def test_the_same_button_twice_asks_once(app: Flask, cast: Cast) -> None:
    node = node_ids(cast)[1]
    client = sign_in(app, cast.users["zhou"])
    data = {"why": "风扇告警", "form_key": "k" * 32}
    first = post(client, f"/nodes/{node}/drain", data, page=f"/nodes/{node}")
    second = post(client, f"/nodes/{node}/drain", data, page="/account")
    assert (first.status_code, second.status_code) == (302, 302)
    assert rows_in(cast.database, Instruction) == 1


def test_only_operators_drain_resume_and_plan(app: Flask, cast: Cast) -> None:
    node = node_ids(cast)[1]
    for who in ("chen", "lin", "he", "xu", "an"):
        client = sign_in(app, cast.users[who])
        assert "<form" not in client.get(f"/nodes/{node}").text.partition('<main id="main"')[2].partition("</main>")[0]
        for address in (f"/nodes/{node}/drain", f"/nodes/{node}/resume", f"/pools/{cast.pool}/maintenance/plan"):
            assert post(client, address, {"why": "x"}, page="/account").status_code == 403
        assert client.get(f"/pools/{cast.pool}/maintenance/plan").status_code == 403
    assert rows_in(cast.database, Instruction) == 0


# -- maintenance


def test_an_operator_plans_maintenance_by_ranges_and_cancels_it(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"], language="en")
    answer = post(client, f"/pools/{cast.pool}/maintenance/plan", plan())
    assert answer.location == f"/pools/{cast.pool}#maintenance"
    page = words(client.get(f"/pools/{cast.pool}"))
    assert "3 nodes are closed from Thu 19 Nov 20:00 until Thu 19 Nov 23:00." in page
    assert "液冷管路检修" in page
    assert "3 nodes : 1–2, 4 · planned by Zhou Yu’an" in page.replace("nodes: ", "nodes : ")
    ids = node_ids(cast)
    with cast.database.read_only() as session:
        window = session.scalars(sa.select(Maintenance)).one()
    assert window.node_ids == [ids[0], ids[1], ids[3]]
    assert window.starts_at == dt.datetime(2026, 11, 19, 12, tzinfo=dt.UTC)
    assert post(client, f"/maintenance/{window.id}/cancel", page=f"/pools/{cast.pool}").status_code == 302
    page = words(client.get(f"/pools/{cast.pool}"))
    assert "The maintenance window is cancelled" in page
    assert "No maintenance is planned" in page
    again = post(client, f"/maintenance/{window.id}/cancel", page="/account")
    assert again.status_code == 409
    assert "already further on" in words(again)


def test_all_nodes_are_meant_in_either_language(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"])
    post(client, f"/pools/{cast.pool}/maintenance/plan", plan(node_ids="全部"))
    post(
        client,
        f"/pools/{cast.pool}/maintenance/plan",
        plan(node_ids="ALL", starts_at="2026-11-20 20:00", ends_at="2026-11-20 21:00"),
    )
    with cast.database.read_only() as session:
        assert [window.node_ids for window in session.scalars(sa.select(Maintenance))] == [node_ids(cast)] * 2


BAD_PLANS = [
    ("node_ids", "", "This is needed."),
    ("node_ids", "eins", "Write numbers and ranges like 1-8, 12, or “all”."),
    ("node_ids", "4-2", "Write numbers and ranges like 1-8, 12, or “all”."),
    ("node_ids", "0", "Write numbers and ranges like 1-8, 12, or “all”."),
    ("node_ids", "1-5", "The nodes of this pool are numbered 1 to 4."),
    ("node_ids", "1-99999", "The nodes of this pool are numbered 1 to 4."),
    ("starts_at", "tomorrow", "Enter date and time like 2026-11-20 20:00."),
    ("starts_at", "2026-11-17 20:00", "The start must be in the future."),
    ("ends_at", "2026-11-19 20:00", "The end must be after the start."),
    ("ends_at", "9999-99-99 20:00", "Enter date and time like 2026-11-20 20:00."),
    ("reason", "", "This is needed."),
    ("reason", "x" * 201, "At most 200 characters."),
]


def test_a_wrong_maintenance_plan_is_refused_at_its_field(app: Flask, cast: Cast) -> None:
    for field, typed, sentence in BAD_PLANS:
        client = sign_in(app, cast.users["zhou"], language="en")
        answer = post(client, f"/pools/{cast.pool}/maintenance/plan", plan(**{field: typed}))
        assert answer.status_code == 422
        error = words_at(answer.text, field)
        assert sentence in error
        assert f'value="{typed}"' in answer.text
        assert 'value="2026-11-19 2' in answer.text
        assert rows_in(cast.database, Maintenance) == 0


def words_at(page: str, field: str) -> str:
    """What stands in the error of a field."""
    return page.partition(f'id="{field}-error"')[2].partition("</p>")[0]


def test_maintenance_lists_the_bookings_it_meets_before_the_click_and_moves_them(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    booking_id = cast.submit(cast.fixed(gpus=8), policy.bookings)  # from 20:00 today, on the first node
    client = sign_in(app, cast.users["zhou"], language="en")
    data = plan(node_ids="1", starts_at="2026-11-18 21:00", ends_at="2026-11-19 21:00")
    asked = post(client, f"/pools/{cast.pool}/maintenance/plan", data)
    assert "One booking is in this window" in words(asked) and f'href="/bookings/{booking_id}"' in asked.text
    assert "Close the nodes and move these bookings" in words(asked)
    assert rows_in(cast.database, Maintenance) == 0
    assert post(client, f"/pools/{cast.pool}/maintenance/plan", data | {"over_bookings": "yes"}).status_code == 302
    assert rows_in(cast.database, Maintenance) == 1
    with cast.database.read_only() as session:
        rows = session.scalars(sa.select(Occupancy).where(Occupancy.booking_id == booking_id)).all()
    assert len({row.node_id for row in rows if row.released_at is None}) == 1
    assert len({row.node_id for row in rows}) == 2


def test_a_cancelled_window_stays_cancelled(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"])
    post(client, f"/pools/{cast.pool}/maintenance/plan", plan())
    with cast.database.read_only() as session:
        window = session.scalars(sa.select(Maintenance)).one()
    for who in ("chen", "he", "xu"):
        answer = post(sign_in(app, cast.users[who]), f"/maintenance/{window.id}/cancel", page="/account")
        assert answer.status_code == 403
    post(client, f"/maintenance/{window.id}/cancel", page=f"/pools/{cast.pool}")
    with cast.database.read_only() as session:
        assert session.get_one(Maintenance, window.id).state is MaintenanceState.CANCELLED


# -- what a pool is


def figures(**changes: str) -> dict[str, str]:
    values = {
        "name": "H20",
        "model": "NVIDIA H20",
        "nodes": "2",
        "gpus_per_node": "8",
        "tflops": "148",
        "watts": "400",
        "tflops_source": "厂家产品资料",
        "how_to_connect": "ssh h20",
    }
    return values | changes


def test_an_operator_enters_a_pool_changes_its_figures_and_adds_nodes(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"], language="en")
    assert "Enter a pool" in words(client.get("/pools"))
    answer = post(client, "/pools/new", figures())
    assert answer.status_code == 302
    page = words(client.get(answer.location))
    assert "H20 is entered with 16 cards. It can be booked once it has a price." in page
    assert "H20: 16 of 16 cards are free now" in page and "Source: 厂家产品资料" in page and "no price yet" in page
    id = int(answer.location.rsplit("/", 1)[1])
    form = client.get(f"/pools/{id}/edit")
    assert all(f'value="{typed}"' in form.text for typed in ("NVIDIA H20", "148", "400", "厂家产品资料"))
    changed = post(client, f"/pools/{id}/edit", figures(watts="350", tflops_source="", nodes="1"))
    assert changed.location == f"/pools/{id}"
    page = words(client.get(f"/pools/{id}"))
    assert "24 of 24 cards" in page and "350 W per card" in page and "Source" not in page
    history = words(client.get(f"/pools/{id}/edit"))
    assert "Zhou Yu’an: before: NVIDIA H20, 148 TFLOPS, 400 W" in history and "1 more node" in history
    with cast.database.read_only() as session:
        assert verify.run(session) == []
        names = session.scalars(sa.select(Node.name).where(Node.pool_id == id).order_by(Node.position)).all()
        pool = session.get_one(Pool, id)
        assert (pool.tflops_source, pool.how_to_connect, pool.version) == (None, "ssh h20", 1)
        assert session.get_one(Pool, cast.pool).version == 0
    assert names == ["h20-n001", "h20-n002", "h20-n003"]
    assert post(client, f"/pools/{id}/edit", figures(watts="350", tflops_source="", nodes="")).status_code == 302
    with cast.database.read_only() as session:
        assert len(list_history(session, Pool.LIFE, id)) == 3, "nothing was changed"


BAD_POOLS = [
    ("name", "", "This is needed."),
    ("name", "h800", "There is a pool of this name, h800."),
    ("name", "x" * 41, "At most 40 characters."),
    ("model", "", "This is needed."),
    ("nodes", "0", "Enter a whole number"),
    ("nodes", "10000", "A pool has at most 9,999 nodes; 0 are there."),
    ("gpus_per_node", "63", "A node has 1 to 62 cards."),
    ("tflops", "1000001", "Enter a whole number from 1 to 1,000,000."),
    ("tflops", "3.5", "Enter a whole number"),
    ("watts", "viel", "Enter a whole number"),
]


def test_a_wrong_pool_is_refused_at_its_field(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"], language="en")
    for field, typed, sentence in BAD_POOLS:
        answer = post(client, "/pools/new", figures(**{field: typed}))
        assert answer.status_code == 422, (field, typed)
        assert sentence in words_at(answer.text, field), (field, typed)
        assert f'value="{typed}"' in answer.text and rows_in(cast.database, Pool) == 1
    there = post(client, f"/pools/{cast.pool}/edit", figures(nodes="9996"))
    assert "A pool has at most 9,999 nodes; 4 are there." in words_at(there.text, "nodes")
    assert len(node_ids(cast)) == 4


def test_a_pool_from_before_there_was_a_history_begins_one(app: Flask, cast: Cast) -> None:
    with cast.database.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO pools (name, model, tflops_fp16_dense, watts, gpus_per_node, "
            "booking_unit, takes_scripts) VALUES ('V100', 'Tesla V100', 125, 300, 8, 'gpu', false)"))  # fmt: skip
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Pool.id).where(Pool.name == "V100")).one()
    client = sign_in(app, cast.users["zhou"], language="en")
    assert "Nothing was changed yet." in words(client.get(f"/pools/{id}/edit"))
    for watts in ("250", "260"):
        assert post(client, f"/pools/{id}/edit", figures(watts=watts, nodes="1")).status_code == 302
    with cast.database.read_only() as session:
        assert [row.verb for row in list_history(session, Pool.LIFE, id)] == ["extend", "edit", "extend", "edit"]
        assert verify.run(session) == []


def test_only_operators_enter_and_change_pools(app: Flask, cast: Cast) -> None:
    for who in ("chen", "lin", "he", "xu", "an"):
        client = sign_in(app, cast.users[who])
        for address in ("/pools/new", f"/pools/{cast.pool}/edit"):
            assert client.get(address).status_code == 403
            assert post(client, address, figures(), page="/account").status_code == 403
            assert address not in client.get(f"/pools/{cast.pool}").text + client.get("/pools").text
    assert rows_in(cast.database, Pool) == 1


# -- power


def cap(**changes: str) -> dict[str, str]:
    values = {
        "megawatts": "0.0146",  # 14,600 W ÷ (700 W × 1.3): 16.04 cards
        "pue": "1.3",
        "starts_at": "2026-11-18 18:00",
        "ends_at": "2026-11-18 22:00",
        "reason": "电网检修",
    }
    return values | changes


def test_an_operator_sees_what_a_cap_leaves_sets_it_and_lifts_it(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.fixed(gpus=8, start_in=9), policy.bookings)
    client, address = sign_in(app, cast.users["zhou"], language="en"), f"/pools/{cast.pool}/power"
    assert "The power of H800 is not capped" in words(client.get(address))
    checked = post(client, address, cap(step="check"))
    assert checked.status_code == 200 and rows_in(cast.database, PowerCap) == 0
    told = words(checked)
    assert "16 cards could run at once, of 32." in told and "14,600 W ÷ (700 W per card × PUE 1.3)" in told
    assert "up to 8 cards are confirmed for one of these hours and stay so" in told
    assert post(client, address, cap(step="cap")).location == address
    page = words(client.get(address))
    assert "From Wed 18 Nov 18:00 to Wed 18 Nov 22:00 at most 16 cards of H800 run at once." in page
    assert "电网检修" in page and "0.0146" in page and "Zhou Yu’an" in page
    for who in ("chen", "zhou"):
        seen = words(sign_in(app, cast.users[who], language="en").get(f"/pools/{cast.pool}"))
        assert "at most 16 cards at once" in seen and "电网检修" in seen
        for other in (f"/pools/{cast.pool}/queue", f"/pools/{cast.pool}/calendar"):
            here = words(sign_in(app, cast.users[who], language="en").get(other))
            assert "The power of the pool is capped: today 18:00 – today 22:00: at most 16 cards run at once." in here
    with cast.database.read_only() as session:
        [number] = session.scalars(sa.select(PowerCap.id))
        [picture] = queries.pictures(session, [queries.get_pool(session, cast.pool)], NOW)
        evening = picture.by_hour(NOW + dt.timedelta(hours=8), 1)
        # From 18:00 power for 16 of 32; the fixed booking begins at 19:00.
        assert (int(evening.free[0]), int(evening.booked[0]), int(evening.closed[0])) == (16, 0, 16)
    assert post(client, f"/power-caps/{number}/lift", page=address).status_code == 302
    page = words(client.get(address))
    assert "The power cap is lifted" in page and "The power of H800 is not capped" in page and "Lifted" in page
    assert "at most 16 cards" not in words(client.get(f"/pools/{cast.pool}"))
    with cast.database.read_only() as session:
        told_of = [(row.verb, row.after, row.note) for row in list_history(session, PowerCap.LIFE, number)]
        assert verify.run(session) == []
    assert told_of == [("lift", "lifted", None), ("cap", "set", "电网检修")]


def test_cards_without_power_are_not_called_free(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"], language="en")
    post(client, f"/pools/{cast.pool}/power", cap(step="cap", starts_at="2026-11-18 10:00", megawatts="0.0046"))
    page = words(client.get(f"/pools/{cast.pool}"))
    assert "5 of 32 cards are free now" in page and "Out of service 27" in page
    day = words(client.get(f"/pools/{cast.pool}/calendar?view=day"))
    assert "5 0 0 27" in day and "32 0 0 0" in day


BAD_CAPS = [
    ("megawatts", "", "This is needed."),
    ("megawatts", "viel", "Enter megawatts, 0 or more, for example 1.2."),
    ("megawatts", "-1", "Enter megawatts, 0 or more, for example 1.2."),
    ("megawatts", "1e99", "Enter megawatts, 0 or more, for example 1.2."),
    ("pue", "0.9", "The PUE is at least 1"),
    ("pue", "0", "Enter a number, for example 2.5."),
    ("starts_at", "2026-11-18 18:30", "A power cap begins and ends on the hour."),
    ("ends_at", "2026-11-18 22:10", "A power cap begins and ends on the hour."),
    ("ends_at", "2026-11-18 18:00", "The end must be after the start."),
    ("reason", "", "This is needed."),
]


def test_a_wrong_cap_is_refused_at_its_field(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["zhou"], language="en")
    for number, (field, typed, sentence) in enumerate(BAD_CAPS):
        step = ("check", "cap")[number % 2]
        answer = post(client, f"/pools/{cast.pool}/power", cap(**{field: typed, "step": step}))
        assert answer.status_code == 422, (field, typed)
        assert sentence in words_at(answer.text, field), (field, typed)
        assert f'value="{typed}"' in answer.text and rows_in(cast.database, PowerCap) == 0
    past = post(client, f"/pools/{cast.pool}/power", cap(starts_at="2026-11-17 18:00", ends_at="2026-11-17 20:00"))
    assert "These hours are over" in words_at(past.text, "ends_at")


def test_only_operators_cap_power(app: Flask, cast: Cast) -> None:
    for who in ("chen", "lin", "he", "xu", "an"):
        client = sign_in(app, cast.users[who])
        assert client.get(f"/pools/{cast.pool}/power").status_code == 403
        assert post(client, f"/pools/{cast.pool}/power", cap(step="cap"), page="/account").status_code == 403
    assert rows_in(cast.database, PowerCap) == 0


# -- prices


def test_finance_sets_a_price_from_a_day_to_come(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    data = {"from_on": "2026-12-01", "price": "15.80"}
    answer = post(client, f"/pools/{cast.pool}/tariff/set", data)
    assert answer.location == f"/tariffs#pool-{cast.pool}"
    page = words(client.get("/tariffs"))
    assert "H800 costs ¥15.80 per GPU-hour from 1 December 2026 on." in page
    assert "One price will change" in page
    assert "1 January 2026 30 November 2026 16.50 in force He Liqun" in page
    assert "1 December 2026 open 15.80 to come He Liqun" in page
    with cast.database.read_only() as session:
        tariff = session.scalars(sa.select(Tariff).order_by(Tariff.from_on.desc())).first()
    assert tariff is not None
    assert (tariff.price_micro_yuan, tariff.from_on) == (units.parse_yuan("15.80"), dt.date(2026, 12, 1))


BAD_PRICES = [
    ("from_on", "", "This is needed."),
    ("from_on", "1 December", "Enter a date like 2026-11-20."),
    ("from_on", "2026-02-30", "Enter a date like 2026-11-20."),
    ("from_on", "2026-11-18", "A price can only change from 19 November 2026 on"),
    ("from_on", "2025-01-01", "A price can only change from 19 November 2026 on"),
    ("price", "", "This is needed."),
    ("price", "-1", "Enter a number, for example 16.50."),
    ("price", "sixteen", "Enter a number, for example 16.50."),
    ("price", "16.5000001", "Enter a number, for example 16.50."),
    ("price", "1e400", "Enter a number, for example 16.50."),
    ("price", "NaN", "Enter a number, for example 16.50."),
]


def test_a_wrong_price_is_refused_at_its_field(app: Flask, cast: Cast) -> None:
    for field, typed, sentence in BAD_PRICES:
        client = sign_in(app, cast.users["he"], language="en")
        data = {"from_on": "2026-12-01", "price": "15.80"} | {field: typed}
        answer = post(client, f"/pools/{cast.pool}/tariff/set", data)
        assert answer.status_code == 422
        assert sentence in words_at(answer.text, field)
        assert f'value="{typed}"' in answer.text
        assert rows_in(cast.database, Tariff) == 1


def test_a_day_that_has_a_price_already_is_refused(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    data = {"from_on": "2026-12-01", "price": "15.80"}
    post(client, f"/pools/{cast.pool}/tariff/set", data)
    answer = post(client, f"/pools/{cast.pool}/tariff/set", data | {"price": "12"})
    assert answer.status_code == 422
    assert "There is already a price from 1 December 2026 on." in words_at(answer.text, "from_on")
    assert rows_in(cast.database, Tariff) == 2


def test_only_finance_sets_prices_and_everybody_reads_them(app: Flask, cast: Cast) -> None:
    for who in ("chen", "zhou", "xu", "an"):
        client = sign_in(app, cast.users[who], language="en")
        assert "H800: ¥16.50 per GPU-hour today" in words(client.get("/tariffs"))
        assert client.get(f"/pools/{cast.pool}/tariff/set").status_code == 403
        assert post(client, f"/pools/{cast.pool}/tariff/set", page="/account").status_code == 403
    member = words(sign_in(app, cast.users["chen"], language="en").get("/tariffs"))
    assert "He Liqun" not in member  # who at the bureau set it is the bureau's own affair
    assert rows_in(cast.database, Tariff) == 1


def test_the_price_of_a_pool_changes_at_midnight_in_shanghai(app: Flask, cast: Cast) -> None:
    cast.database.transaction(
        lambda s: service.set_tariff(
            s, cast.pool, from_on=dt.date(2026, 11, 19), price_micro_yuan=9_000_000, by=cast.finance, now=NOW
        )
    )
    midnight = dt.datetime(2026, 11, 18, 16, tzinfo=dt.UTC)
    for at, price in ((midnight - dt.timedelta(seconds=1), "16.50"), (midnight, "9.00")):
        set_now(app, at)
        page = words(sign_in(app, cast.users["chen"], language="en").get("/tariffs"))
        assert f"H800: ¥{price} per GPU-hour today" in page


def test_finance_sets_an_off_peak_price_and_ends_it(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    address = f"/pools/{cast.pool}/tariff/set"
    night = {"from_on": "2026-11-19", "price": "8", "from_hour": "22", "until_hour": "8:00", "gpus_most": "16"}
    for field, typed, sentence in (
        ("from_hour", "25", "Enter a full hour from 0 to 24."),
        ("from_hour", "", "Enter the first hour and the hour at which it ends."),
        ("until_hour", "", "Enter the first hour and the hour at which it ends."),
        ("until_hour", "0", "Enter a full hour from 1 to 24."),
        ("until_on", "2026-11-18", "The end is before the start"),
        ("gpus_most", "0", "Enter a whole number"),
    ):
        answer = post(client, address, night | {field: typed})
        assert answer.status_code == 422
        assert sentence in words_at(answer.text, field), field
        assert rows_in(cast.database, Tariff) == 1
    assert post(client, address, night).status_code == 302
    page = words(client.get("/tariffs"))
    assert "From 19 November 2026 on, H800 costs ¥8.00 per GPU-hour, 22:00 to 8:00." in page
    assert "22:00–8:00 · up to 16 cards" in page
    clash = post(client, address, night | {"from_hour": "7", "until_hour": "9", "from_on": "2026-12-01"})
    assert "These hours share some with the off-peak price of ¥8.00" in words_at(clash.text, "from_hour")
    with cast.database.read_only() as session:
        id = session.scalars(sa.select(Tariff.id).order_by(Tariff.id.desc())).first()
    early = post(client, f"/tariffs/{id}/end", {"until_on": "2026-11-18"})
    assert "The last day can be 19 November 2026 at the earliest." in words_at(early.text, "until_on")
    assert post(client, f"/tariffs/{id}/end", {"until_on": "2026-12-31"}).status_code == 302
    assert "The off-peak price ends with 31 December 2026." in words(client.get("/tariffs"))
    again = post(client, f"/tariffs/{id}/end", {"until_on": "2026-12-30"})
    assert "This price already ends on 31 December 2026." in words_at(again.text, "until_on")
    assert client.get("/tariffs/999/end").status_code == 404


def test_finance_sets_a_weight_and_everybody_reads_it(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    address = f"/pools/{cast.pool}/weight/set"
    good = {"weight": "1.25", "slice": "", "from_on": "2026-12-01"}
    for field, typed, sentence in (
        ("weight", "0", "Enter a number, for example 2.5."),
        ("weight", "x", "Enter a number, for example 2.5."),
        ("from_on", "2026-11-18", "A rate can begin on 19 November 2026 at the earliest."),
        ("slice", "1g 10gb", "Write the slice as the maker does"),
    ):
        answer = post(client, address, good | {"weight": "0.5"} | {field: typed})
        assert answer.status_code == 422
        assert sentence in words_at(answer.text, field), field
    assert post(client, address, good).status_code == 302
    page = words(sign_in(app, cast.users["chen"], language="en").get("/tariffs"))
    assert "1 December 2026 whole card 1.250" in page
    for who in ("chen", "zhou", "xu"):
        assert sign_in(app, cast.users[who]).get(address).status_code == 403


def test_finance_sets_a_contract_price_for_a_programme(app: Flask, cast: Cast) -> None:
    client = sign_in(app, cast.users["he"], language="en")
    data = {
        "pool_id": str(cast.pool), "size_class": "", "programme_id": str(cast.programme), "percent": "",
        "price": "12", "from_on": "2026-12-01", "until_on": "2026-12-31",
    }  # fmt: skip
    for field, typed, at, sentence in (
        ("programme_id", "", "size_class", "Choose a size of company, a programme, or both."),
        ("percent", "10", "percent", "Enter either a percentage or a price."),
        ("price", "", "percent", "Enter either a percentage or a price."),
    ):
        answer = post(client, "/discounts", data | {field: typed})
        assert answer.status_code == 422
        assert sentence in words_at(answer.text, at)
    assert post(client, "/discounts", data).status_code == 302
    page = words(client.get("/discounts"))
    assert "all sizes SME compute programme ¥12.00 1 December 2026 – 31 December 2026" in page
    clash = post(client, "/discounts", data)
    assert "There is a contract price of ¥12.00" in words_at(clash.text, "from_on")
    assert "One discount or contract price" in words(client.get("/tariffs"))
