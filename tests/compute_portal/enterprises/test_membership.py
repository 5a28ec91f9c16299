"""Invitations and members: what the pages do not show."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.access import Actor, Role
from compute_portal.enterprises import membership, queries
from compute_portal.enterprises.models import Membership
from compute_portal.enterprises.queries import actor_for
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.sentences import NotFound
from compute_portal.signin.models import User
from tests.cast import NOW, Cast
from tests.compute_portal.enterprises.test_service import do, newcomer, refused, verbs

DAY = dt.timedelta(days=1)


def invite(cast: Cast, policy: Policy, address: str, role: Role = Role.MEMBER) -> int:
    return do(
        cast,
        lambda s: (
            membership.invite(
                s, address, role=role, language="zh", policy=policy.enterprises, by=cast.manager, now=NOW
            ).id
        ),
    )


def token(cast: Cast, address: str) -> str:
    with cast.database.read_only() as session:
        links = session.scalars(sa.select(Notice.link).where(Notice.address == address).order_by(Notice.id)).all()
        return (links[-1] or "").partition("token=")[2]


def test_an_invitation_expires_after_the_days_of_the_rule_and_can_be_sent_again(cast: Cast, policy: Policy) -> None:
    by = newcomer(cast)
    id = invite(cast, policy, "gu@example.cn")
    late = NOW + policy.enterprises.invitation_days * DAY
    old = token(cast, "gu@example.cn")
    accept = lambda link, now: do(cast, lambda s: membership.accept(s, link, by=by, now=now).role)  # noqa: E731
    assert refused(lambda: accept(old, late))[0] == "link-over"
    assert refused(lambda: do(cast, lambda s: membership.accept_own(s, id, by=by, now=late)))[0] == "link-over"
    do(cast, lambda s: membership.resend(s, id, policy=policy.enterprises, by=cast.manager, now=late).id)
    new = token(cast, "gu@example.cn")
    assert new != old
    assert refused(lambda: accept(old, late))[0] == "link-over"
    assert accept(new, late + DAY) is Role.MEMBER


def test_a_manager_invites_managers_but_only_into_the_own_enterprise(cast: Cast, policy: Policy) -> None:
    by = newcomer(cast)
    id = invite(cast, policy, "gu@example.cn", Role.MANAGER)
    with pytest.raises(NotFound):
        do(cast, lambda s: membership.revoke(s, id, by=cast.stranger, now=NOW))
    assert refused(lambda: do(cast, lambda s: membership.revoke(s, id, by=cast.member, now=NOW)))[0] == "not-allowed"
    do(cast, lambda s: membership.accept(s, token(cast, "gu@example.cn"), by=by, now=NOW).role)
    with cast.database.read_only() as session:
        delegated = actor_for(session, by.user_id or 0, cast.yusheng)
        assert delegated is not None and delegated.roles == {Role.MANAGER}
        assert actor_for(session, by.user_id or 0, cast.luyu) is None
    do(
        cast,
        lambda s: (
            membership.invite(
                s,
                "qi@example.cn",
                role=Role.MANAGER,
                language="en",
                policy=policy.enterprises,
                by=delegated,
                now=NOW,
            ).id
        ),
    )
    assert verbs(cast, cast.yusheng)[:3] == ["invite", "join", "invite"]


def test_somebody_who_took_a_bureau_role_meanwhile_cannot_join(cast: Cast, policy: Policy) -> None:
    """The actor was a newcomer when the page was opened; the row decides."""
    id = invite(cast, policy, "wu@example.cn")
    link = token(cast, "wu@example.cn")
    stale = newcomer(cast)
    pretended = type(stale).of(cast.users["wu"], frozenset())
    assert refused(lambda: do(cast, lambda s: membership.accept(s, link, by=pretended, now=NOW)))[0] == (
        "bureau-or-enterprise"
    )
    assert refused(lambda: do(cast, lambda s: membership.accept_own(s, id, by=cast.operator, now=NOW)))[0] == (
        "not-allowed"
    )


def test_an_address_is_invited_once_and_not_too_many_wait(cast: Cast, policy: Policy) -> None:
    invite(cast, policy, "gu@example.cn")
    assert refused(lambda: invite(cast, policy, " GU@example.cn ")) == ("already-invited", "address")
    few = policy.model_copy(update={"enterprises": policy.enterprises.model_copy(update={"invitations_open_most": 1})})
    assert refused(lambda: invite(cast, few, "qi@example.cn")) == ("too-many-invitations", "address")


def test_somebody_may_belong_to_several_enterprises(cast: Cast, policy: Policy) -> None:
    invite(cast, policy, "mei@example.cn")
    do(cast, lambda s: membership.accept(s, token(cast, "mei@example.cn"), by=cast.stranger, now=NOW).role)
    with cast.database.read_only() as session:
        places = queries.standing_of(session, cast.users["mei"]).places
        assert {place.enterprise_id: place.role for place in places} == {
            cast.luyu: Role.MANAGER,
            cast.yusheng: Role.MEMBER,
        }


def test_of_two_managers_who_remove_each_other_one_stays(cast: Cast) -> None:
    do(cast, lambda s: membership.change_role(s, cast.users["chen"], role=Role.MANAGER, by=cast.manager, now=NOW).role)
    chen = type(cast.member).of(cast.users["chen"], frozenset({Role.MANAGER}), cast.yusheng)
    do(cast, lambda s: membership.remove_member(s, cast.users["lin"], by=chen, now=NOW))
    assert (
        refused(lambda: do(cast, lambda s: membership.remove_member(s, cast.users["chen"], by=chen, now=NOW)))[0]
        == "last-manager"
    )
    with pytest.raises(NotFound):
        do(cast, lambda s: membership.remove_member(s, cast.users["mei"], by=chen, now=NOW))


def test_a_manager_who_can_no_longer_sign_in_does_not_count(cast: Cast) -> None:
    do(cast, lambda s: membership.change_role(s, cast.users["chen"], role=Role.MANAGER, by=cast.manager, now=NOW).role)

    def disable(session: Session) -> None:
        session.execute(sa.update(User).where(User.id == cast.users["chen"]).values(state="disabled", disabled_at=NOW))

    do(cast, disable)
    assert (
        refused(lambda: do(cast, lambda s: membership.remove_member(s, cast.users["lin"], by=cast.manager, now=NOW)))[0]
        == "last-manager"
    )


def test_the_bureau_appoints_a_manager_only_where_none_is_left(cast: Cast) -> None:
    def appoint(address: str, reason: str = "公函 12 号", by: Actor | None = None) -> int:
        who = by or cast.actor("an")
        return do(cast, lambda s: membership.appoint(s, cast.yusheng, address, reason=reason, by=who, now=NOW).user_id)

    assert refused(lambda: appoint("chen@example.cn"))[0] == "has-a-manager"
    with_nobody = sa.update(User).where(User.id == cast.users["lin"]).values(state="disabled", disabled_at=NOW)
    do(cast, lambda s: s.execute(with_nobody) and None)
    assert refused(lambda: appoint("chen@example.cn", by=cast.operator)) == ("not-allowed", None)
    assert refused(lambda: appoint("chen@example.cn", reason=" ")) == ("appoint-needs-reason", "reason")
    assert refused(lambda: appoint("nobody@example.cn")) == ("no-such-account", "address")
    assert refused(lambda: appoint("lin@example.cn")) == ("no-such-account", "address")
    assert refused(lambda: appoint("zhou@example.cn")) == ("bureau-or-enterprise", "address")
    assert appoint("CHEN@example.cn") == cast.users["chen"]
    with cast.database.read_only() as session:
        assert session.get_one(Membership, (cast.users["chen"], cast.yusheng)).role is Role.MANAGER
        told = session.scalars(sa.select(Notice).where(Notice.user_id == cast.users["chen"])).one()
        assert (told.about["id"], told.enterprise_id) == ("mail-appointed", cast.yusheng)
    assert verbs(cast, cast.yusheng)[0] == "appoint"
