"""Who belongs to an enterprise: invitations, roles, and leaving. A manager acts inside the own enterprise only.

Roles are read with every request, so what is taken away here is gone with the person's next click.
Lock: the enterprise's row, so that two managers cannot each remove the other.
"""

from __future__ import annotations

import datetime as dt
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import ENTERPRISE_ROLES, Actor, Permission, Role, require
from ..db import lock
from ..lifecycle import note_event
from ..notices import service as notices
from ..policy import EnterprisesPolicy
from ..sentences import NotFound, Refusal, Sentence
from ..signin import links
from ..signin.models import User
from ..signin.queries import find_by_email
from .models import Enterprise, Invitation, Membership
from .service import add_member
from .states import EnterpriseState

PURPOSE = "invitation"  # of its one-time links
SECONDS_PER_DAY = 86_400


# -- invitations


def invite(
    session: Session,
    address: str,
    *,
    role: Role,
    language: str,
    policy: EnterprisesPolicy,
    by: Actor,
    now: dt.datetime,
) -> Invitation:
    """Ask somebody, by mail, to join the enterprise acted for; managers may invite managers.

    Raises Refusal at `address`: a member already, invited already, or too many open invitations.
    """
    require(by, Permission.MEMBER_INVITE)
    enterprise = _own(session, by)
    if role not in ENTERPRISE_ROLES:
        raise Refusal(Sentence("not-a-choice"), "role")
    if enterprise.state is EnterpriseState.DECLINED:
        raise Refusal(Sentence("declined-invites-nobody"))
    address = address.strip().lower()
    person = find_by_email(session, address)
    if person is not None and session.get(Membership, (person.id, enterprise.id)) is not None:
        raise Refusal(Sentence("already-member"), "address")
    waiting = session.scalars(_open(enterprise.id)).all()
    if any(invitation.address == address for invitation in waiting):
        raise Refusal(Sentence("already-invited"), "address")
    if len(waiting) >= policy.invitations_open_most:
        raise Refusal(Sentence("too-many-invitations", most=policy.invitations_open_most), "address")
    assert by.user_id is not None
    invitation = Invitation(
        enterprise_id=enterprise.id,
        address=address,
        role=role,
        language=person.language if person is not None else language,
        invited_by=by.user_id,
        invited_at=now,
        sent_at=now,
        expires_at=now,
    )
    session.add(invitation)
    note_event(session, enterprise, verb="invite", at=now, by=by, why=Sentence("member-invited", role=f"role-{role}"))
    session.flush()
    _mail(session, enterprise, invitation, policy, now)
    return invitation


def _open(enterprise_id: int) -> sa.Select[Invitation]:
    return sa.select(Invitation).where(
        Invitation.enterprise_id == enterprise_id, Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None)
    )


def _mail(
    session: Session, enterprise: Enterprise, invitation: Invitation, policy: EnterprisesPolicy, now: dt.datetime
) -> None:
    """A new link; those mailed before end with it."""
    seconds = policy.invitation_days * SECONDS_PER_DAY
    links.cancel(session, PURPOSE, invitation.id, now)
    token = links.make(session, PURPOSE, invitation.id, invitation.address, seconds, now)
    invitation.sent_at, invitation.expires_at = now, now + dt.timedelta(seconds=seconds)
    notices.send(
        session,
        to=None,
        address=invitation.address,
        language=invitation.language,
        about=Sentence("mail-invitation", enterprise=enterprise.name, role=f"role-{invitation.role}"),
        body=[Sentence("mail-invitation-what", until=invitation.expires_at), Sentence("mail-invitation-unknown")],
        link=f"/invitation?token={quote(token)}",
        now=now,
    )
    session.flush()


def resend(
    session: Session, invitation_id: int, *, policy: EnterprisesPolicy, by: Actor, now: dt.datetime
) -> Invitation:
    """The mail goes out again with a new link and a new end."""
    require(by, Permission.MEMBER_INVITE)
    enterprise = _own(session, by)
    invitation = _waiting(session, invitation_id, enterprise)
    _mail(session, enterprise, invitation, policy, now)
    return invitation


def revoke(session: Session, invitation_id: int, *, by: Actor, now: dt.datetime) -> None:
    """The link no longer works; the address is forgotten."""
    require(by, Permission.MEMBER_INVITE)
    enterprise = _own(session, by)
    invitation = _waiting(session, invitation_id, enterprise)
    invitation.revoked_at, invitation.revoked_by, invitation.address = now, by.user_id, ""
    links.cancel(session, PURPOSE, invitation.id, now)
    note_event(session, enterprise, verb="revoke", at=now, by=by)
    session.flush()


def _waiting(session: Session, invitation_id: int, enterprise: Enterprise) -> Invitation:
    invitation = lock(session, Invitation, invitation_id)
    if invitation is None or invitation.enterprise_id != enterprise.id:
        raise NotFound
    if invitation.accepted_at is not None or invitation.revoked_at is not None:
        raise Refusal(Sentence("invitation-over"))
    return invitation


def look(session: Session, token: str, now: dt.datetime) -> tuple[Invitation, Enterprise]:
    """What the page of an invitation's link shows. Raises Refusal("link-over")."""
    link = links.look(session, token, PURPOSE, now)
    invitation = session.get_one(Invitation, link.subject_id)
    return invitation, session.get_one(Enterprise, invitation.enterprise_id)


def accept(session: Session, token: str, *, by: Actor, now: dt.datetime) -> Membership:
    """Join by the mailed link.

    Raises Refusal("link-over" | "invitation-for-another" | "already-member"); "bureau-or-enterprise" for the bureau.
    """
    require(by, Permission.INVITATION_ACCEPT)
    link = links.take(session, token, PURPOSE, now)
    return _join(session, link.subject_id or 0, by, now)


def accept_own(session: Session, invitation_id: int, *, by: Actor, now: dt.datetime) -> Membership:
    """Join without the link: the person's address is confirmed, and it is the one that was invited."""
    require(by, Permission.INVITATION_ACCEPT)
    membership = _join(session, invitation_id, by, now)
    links.cancel(session, PURPOSE, invitation_id, now)
    return membership


def _join(session: Session, invitation_id: int, by: Actor, now: dt.datetime) -> Membership:
    """The invitation is for the person who was written to: whoever got the mail forwarded asks for an own one."""
    invitation = session.get(Invitation, invitation_id)
    enterprise = lock(session, Enterprise, invitation.enterprise_id) if invitation is not None else None
    person = session.get(User, by.user_id) if by.user_id is not None else None
    if invitation is None or enterprise is None or person is None:
        raise Refusal(Sentence("link-over"))
    session.refresh(invitation)
    over = invitation.accepted_at is not None or invitation.revoked_at is not None or invitation.expires_at <= now
    if over or enterprise.state is EnterpriseState.DECLINED:
        raise Refusal(Sentence("link-over"))
    if person.email != invitation.address:
        raise Refusal(Sentence("invitation-for-another"))
    if session.get(Membership, (person.id, enterprise.id)) is not None:
        raise Refusal(Sentence("already-member"))
    membership = add_member(session, enterprise.id, person.id, invitation.role, now=now)
    invitation.accepted_at, invitation.accepted_by, invitation.address = now, person.id, ""
    note_event(
        session,
        enterprise,
        verb="join",
        at=now,
        by=by,
        why=Sentence("member-joined", member=person.id, role=f"role-{invitation.role}"),
    )
    session.flush()
    notices.send(
        session,
        to=invitation.invited_by,
        about=Sentence("mail-invitation-accepted", enterprise=enterprise.name),
        link="/members",
        key=f"joined-{invitation.id}",
        enterprise_id=enterprise.id,
        now=now,
    )
    return membership


# -- members


def change_role(session: Session, user_id: int, *, role: Role, by: Actor, now: dt.datetime) -> Membership:
    """Make a member a manager, or a manager a member. Raises Refusal("last-manager")."""
    require(by, Permission.MEMBER_CHANGE)
    enterprise, membership = _member(session, user_id, by)
    if role not in ENTERPRISE_ROLES:
        raise Refusal(Sentence("not-a-choice"), "role")
    if role is membership.role:
        return membership
    if role is Role.MEMBER:
        _another_manager(session, enterprise.id, user_id)
    membership.role = role
    note_event(
        session,
        enterprise,
        verb="change-role",
        at=now,
        by=by,
        why=Sentence("member-role-changed", member=user_id, role=f"role-{role}"),
    )
    session.flush()
    return membership


def remove_member(session: Session, user_id: int, *, by: Actor, now: dt.datetime) -> None:
    """Take somebody out, also oneself. Access to bookings that run ends with them. Raises Refusal("last-manager")."""
    require(by, Permission.MEMBER_REMOVE)
    enterprise, membership = _member(session, user_id, by)
    if membership.role is Role.MANAGER:
        _another_manager(session, enterprise.id, user_id)
    session.delete(membership)
    note_event(session, enterprise, verb="remove", at=now, by=by, why=Sentence("member-removed", member=user_id))
    session.flush()
    if user_id != by.user_id:
        notices.send(
            session,
            to=user_id,
            about=Sentence("mail-member-removed", enterprise=enterprise.name),
            key=f"removed-{enterprise.id}-{user_id}-{int(now.timestamp())}",
            enterprise_id=enterprise.id,
            now=now,
        )


def appoint(
    session: Session, enterprise_id: int, address: str, *, reason: str, by: Actor, now: dt.datetime
) -> Membership:
    """The bureau makes somebody manager of an enterprise that has none left who can sign in.

    Raises Refusal("has-a-manager"), at `address` for an account that is not there or not ready, at `reason`.
    """
    require(by, Permission.MEMBER_APPOINT)
    enterprise = lock(session, Enterprise, enterprise_id)
    if enterprise is None:
        raise NotFound
    if enterprise.state is EnterpriseState.DECLINED:
        raise Refusal(Sentence("declined-invites-nobody"))
    if _find_manager(session, enterprise_id) is not None:
        raise Refusal(Sentence("has-a-manager"))
    if not reason.strip():
        raise Refusal(Sentence("appoint-needs-reason"), "reason")
    person = find_by_email(session, address.strip().lower())
    if person is None or person.disabled_at is not None or person.confirmed_at is None:
        raise Refusal(Sentence("no-such-account"), "address")
    membership = session.get(Membership, (person.id, enterprise_id), populate_existing=True)
    if membership is None:
        try:
            membership = add_member(session, enterprise_id, person.id, Role.MANAGER, now=now)
        except Refusal as refusal:
            raise Refusal(refusal.sentence, "address") from None
    membership.role = Role.MANAGER
    why = Sentence("member-role-changed", member=person.id, role=f"role-{Role.MANAGER}")
    note_event(session, enterprise, verb="appoint", at=now, by=by, why=why, note=reason.strip())
    session.flush()
    notices.send(
        session, to=person.id, about=Sentence("mail-appointed", enterprise=enterprise.name), link="/members",
        key=f"appointed-{enterprise_id}-{int(now.timestamp())}", enterprise_id=enterprise_id, now=now,
    )  # fmt: skip
    return membership


def _another_manager(session: Session, enterprise_id: int, user_id: int) -> None:
    """Somebody must be able to invite, change and ask; a person who can no longer sign in is nobody."""
    if _find_manager(session, enterprise_id, but=user_id) is None:
        raise Refusal(Sentence("last-manager"))


def _find_manager(session: Session, enterprise_id: int, but: int = 0) -> int | None:
    return session.scalar(
        sa.select(Membership.user_id)
        .join(User, User.id == Membership.user_id)
        .where(
            Membership.enterprise_id == enterprise_id,
            Membership.role == Role.MANAGER,
            Membership.user_id != but,
            User.disabled_at.is_(None),
        )
        .limit(1)
    )


def _member(session: Session, user_id: int, by: Actor) -> tuple[Enterprise, Membership]:
    enterprise = _own(session, by)
    membership = session.get(Membership, (user_id, enterprise.id), populate_existing=True)
    if membership is None:
        raise NotFound
    return enterprise, membership


def _own(session: Session, by: Actor) -> Enterprise:
    """The enterprise acted for, locked."""
    enterprise = lock(session, Enterprise, by.enterprise_id) if by.enterprise_id is not None else None
    if enterprise is None:
        raise NotFound
    return enterprise
