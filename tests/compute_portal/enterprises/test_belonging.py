"""Whoever belongs or belonged to a firm decides nothing about it; and nobody is with the bureau and with a firm."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from compute_portal.access import Actor, Role
from compute_portal.enterprises import belonging, membership, service
from compute_portal.enterprises.models import Membership
from compute_portal.people import service as people
from compute_portal.policy import Policy
from compute_portal.sentences import Refusal
from compute_portal.signin.models import BureauRole
from tests.cast import NOW, Cast
from tests.compute_portal.enterprises.test_membership import invite, token
from tests.compute_portal.enterprises.test_service import do, newcomer, refused, register, verify
from tests.together import at_once


def as_operator(by: Actor) -> Actor:
    assert by.user_id is not None
    return Actor.of(by.user_id, frozenset({Role.OPERATOR}))


def joins(cast: Cast, policy: Policy, role: Role = Role.MEMBER) -> Actor:
    """Somebody new who was invited into Yusheng."""
    by = newcomer(cast)
    invite(cast, policy, "gu@example.cn", role)
    do(cast, lambda s: membership.accept(s, token(cast, "gu@example.cn"), by=by, now=NOW).role)
    return by


def test_a_member_who_left_and_changed_sides_decides_nothing_about_the_firm(cast: Cast, policy: Policy) -> None:
    by = joins(cast, policy)
    do(cast, lambda s: membership.remove_member(s, by.user_id or 0, by=cast.manager, now=NOW))
    work = lambda: do(cast, lambda s: service.suspend(s, cast.yusheng, reason="x", by=as_operator(by), now=NOW).id)  # noqa: E731
    assert refused(work)[0] == "not-your-own-enterprise"
    do(cast, lambda s: service.suspend(s, cast.luyu, reason="x", by=as_operator(by), now=NOW).id)


def test_a_founder_is_bound_also_after_another_manager_applied_anew(cast: Cast) -> None:
    founder = newcomer(cast)
    id = register(cast, founder)

    def hand_over(session: Any) -> None:
        session.execute(sa.delete(Membership).where(Membership.user_id == founder.user_id))
        session.execute(
            sa.text("UPDATE enterprises SET applied_by = :other WHERE id = :id"), {"other": cast.users["mei"], "id": id}
        )

    do(cast, hand_over)
    assert refused(lambda: verify(cast, id, as_operator(founder)))[0] == "not-your-own-enterprise"
    verify(cast, id)


def test_the_verbs_of_the_bureau_bind_nobody(cast: Cast) -> None:
    id = register(cast, newcomer(cast))
    verify(cast, id)
    with cast.database.read_only() as session:
        assert not belonging.is_bound(session, id, cast.users["zhou"])


@pytest.mark.parametrize("first", ["join", "give"])
def test_nobody_gets_a_bureau_role_and_a_place_in_a_firm_in_the_same_second(
    cast: Cast, policy: Policy, first: str
) -> None:
    by = newcomer(cast)
    invite(cast, policy, "gu@example.cn")
    link = token(cast, "gu@example.cn")

    def slowly(verb: str, work: Any) -> Any:
        """Whoever is first looks, then waits before the commit; the other comes meanwhile."""
        if verb != first:
            time.sleep(0.1)

        def verb_and_wait(session: Any) -> None:
            work(session)
            if verb == first:
                time.sleep(0.4)

        return lambda: cast.database.transaction(verb_and_wait)

    def run(verb: str, work: Any) -> Any:
        return slowly(verb, work)()

    results = at_once(
        lambda: run("join", lambda s: membership.accept(s, link, by=by, now=NOW)),
        lambda: run("give", lambda s: people.give(s, by.user_id or 0, Role.OPERATOR, by=cast.actor("an"), now=NOW)),
    )
    assert [result.sentence.id for result in results if isinstance(result, Refusal)] == ["bureau-or-enterprise"]
    with cast.database.read_only() as session:
        both = [
            session.scalar(sa.select(sa.func.count()).where(model.user_id == by.user_id))
            for model in (Membership, BureauRole)
        ]
    assert sorted(both) == [0, 1]
