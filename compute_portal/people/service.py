"""What the bureau does with people: roles given and taken, people disabled, enabled and erased.

Nobody gives a role to themselves, and somebody who may do all this must always be left. Roles are read with every
request, so that what is taken here is gone with the person's next click.
Locks: every administrator's role, in order of ids, then the person's row.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import BUREAU_ROLES, Actor, Permission, Role, require
from ..bookings.models import Booking
from ..bookings.states import OPEN
from ..enterprises.belonging import belonged
from ..enterprises.models import Enterprise, Invitation, Membership
from ..enterprises.states import EnterpriseState
from ..feeds.models import Feed
from ..lifecycle import move_to, note_event
from ..notices import service as notices
from ..notices.models import Delivery, Notice
from ..sentences import NotFound, Refusal, Sentence
from ..signin.models import BureauRole, FormKey, OneTimeLink, SshKey, User, UserSession
from ..signin.service import disable_person, locked_user
from ..signin.states import PersonState


def give(session: Session, user_id: int, role: Role, *, by: Actor, now: dt.datetime) -> User:
    """A bureau role. Raises Refusal: not to oneself, not to members of enterprises, not twice, not to the disabled."""
    require(by, Permission.PERSON_GIVE)
    user = _person(session, user_id)
    if user_id == by.user_id:
        raise Refusal(Sentence("not-to-yourself"), "role")
    if role not in BUREAU_ROLES:
        raise Refusal(Sentence("role-not-bureau"), "role")
    if user.state is not PersonState.ACTIVE or user.confirmed_at is None:
        raise Refusal(Sentence("person-not-ready"), "role")
    if session.scalar(sa.select(Membership.user_id).where(Membership.user_id == user_id).limit(1)) is not None:
        raise Refusal(Sentence("bureau-or-enterprise"), "role")
    if session.get(BureauRole, (user_id, role)) is not None:
        raise Refusal(Sentence("role-there-already", role=f"role-{role}"), "role")
    session.add(BureauRole(user_id=user_id, role=role, given_at=now))
    told = Sentence("role-given", role=f"role-{role}")
    note_event(session, user, verb="give", at=now, by=by, why=told)
    notices.send(session, to=user_id, about=Sentence("mail-role-given", role=f"role-{role}"), link="/home", now=now)
    session.flush()
    return user


def take(session: Session, user_id: int, role: Role, *, by: Actor, now: dt.datetime) -> User:
    """Take a bureau role away. Raises Refusal("last-admin"), NotFound for a role that the person does not have."""
    require(by, Permission.PERSON_TAKE)
    if role is Role.ADMIN:
        _must_leave_an_admin(session, user_id)
    user = _person(session, user_id)
    held = session.get(BureauRole, (user_id, role))
    if held is None:
        raise NotFound
    session.delete(held)
    note_event(session, user, verb="take", at=now, by=by, why=Sentence("role-taken", role=f"role-{role}"))
    notices.send(session, to=user_id, about=Sentence("mail-role-taken", role=f"role-{role}"), now=now)
    session.flush()
    return user


def disable(session: Session, user_id: int, note: str, *, by: Actor, now: dt.datetime) -> User:
    """The person can no longer sign in, every session ends, keys go to no new booking. Undone by `enable`."""
    require(by, Permission.PERSON_DISABLE)
    _must_be_another(user_id, by)
    _must_leave_an_admin(session, user_id)
    user = _person(session, user_id)
    if user.state is not PersonState.ACTIVE:
        raise Refusal(Sentence("no-such-move", kind="person", before=str(user.state), verb="disable"))
    disable_person(session, user_id, now=now, by=by, note=note)
    return user


def enable(session: Session, user_id: int, *, by: Actor, now: dt.datetime) -> User:
    """With the roles and memberships the person had; the old sessions stay ended."""
    require(by, Permission.PERSON_ENABLE)
    _must_be_another(user_id, by)
    user = _person(session, user_id)
    move_to(session, user, PersonState.ACTIVE, verb="enable", at=now, by=by)
    user.disabled_at = None
    session.flush()
    return user


def erase(session: Session, user_id: int, note: str, *, by: Actor, now: dt.datetime) -> User:
    """Everything that says who it was goes; the id stays, so that histories, bookings and statements stay whole.

    Raises Refusal for oneself, the last administrator, the last manager of an enterprise, and while bookings of theirs
    are open: somebody else must be able to answer for those first.
    """
    require(by, Permission.PERSON_ERASE)
    _must_be_another(user_id, by)
    _must_leave_an_admin(session, user_id)
    user = _person(session, user_id)
    _must_not_be_needed(session, user_id)
    email = user.email
    _forget_contact(session, user)
    move_to(session, user, PersonState.ERASED, verb="erase", at=now, by=by, note=note)
    user.email, user.name, user.name_en = f"erased:{user.id}", "", None
    user.password_hash = user.theme = user.confirmed_at = None
    user.disabled_at = user.disabled_at or now
    session.flush()
    for model in (SshKey, Membership, BureauRole, UserSession, Feed, FormKey, Notice):
        session.execute(sa.delete(model).where(model.user_id == user_id))
    session.execute(sa.delete(OneTimeLink).where(OneTimeLink.address == email))
    session.execute(
        sa.update(Invitation)
        .where(Invitation.address == email, Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None))
        .values(revoked_at=now, revoked_by=by.user_id)
    )
    session.execute(sa.update(Invitation).where(Invitation.address == email).values(address=""))
    notices.forget_address(session, email)
    session.expire_all()
    return user


def _forget_contact(session: Session, user: User) -> None:
    """An enterprise that names this person of its own as its contact names nobody until a manager enters another."""
    session.execute(
        sa.update(Enterprise)
        .where(
            Enterprise.contact_name.in_([name for name in (user.name, user.name_en) if name]),
            belonged(user.id, Enterprise),
        )
        .values(contact_name=None, contact_phone=None),
        execution_options={"synchronize_session": False},
    )


def _person(session: Session, user_id: int) -> User:
    """Raises NotFound; an erased person is nobody any more."""
    user = locked_user(session, user_id)
    if user.state is PersonState.ERASED:
        raise NotFound
    return user


def _must_be_another(user_id: int, by: Actor) -> None:
    if user_id == by.user_id:
        raise Refusal(Sentence("not-yourself"))


def _must_leave_an_admin(session: Session, user_id: int) -> None:
    """Two administrators who remove each other at one moment wait for one another here."""
    admins = set(
        session.scalars(
            sa.select(BureauRole.user_id)
            .join(User, User.id == BureauRole.user_id)
            .where(BureauRole.role == Role.ADMIN, User.disabled_at.is_(None))
            .order_by(BureauRole.user_id)
            .with_for_update()
        )
    )
    if admins == {user_id}:
        raise Refusal(Sentence("last-admin"))


def _must_not_be_needed(session: Session, user_id: int) -> None:
    other = sa.orm.aliased(Membership)
    needed_by = session.scalar(
        sa.select(Enterprise.name)
        .join(Membership, Membership.enterprise_id == Enterprise.id)
        .where(
            Membership.user_id == user_id,
            Membership.role == Role.MANAGER,
            Enterprise.state != EnterpriseState.DECLINED,
            ~sa.exists().where(
                other.enterprise_id == Enterprise.id,
                other.role == Role.MANAGER,
                other.user_id != user_id,
                other.user_id.in_(sa.select(User.id).where(User.disabled_at.is_(None))),
            ),
        )
        .limit(1)
    )
    if needed_by is not None:
        raise Refusal(Sentence("last-manager-of", enterprise=needed_by))
    open_bookings = session.scalar(
        sa.select(sa.func.count()).where(Booking.submitted_by == user_id, Booking.state.in_(OPEN))
    )
    if open_bookings:
        raise Refusal(Sentence("person-has-bookings", n=open_bookings))


def retry_mail(session: Session, notice_id: int, *, by: Actor, now: dt.datetime) -> Notice:
    """Send a failed notice again, at once. Raises Refusal("mail-not-failed")."""
    require(by, Permission.MAIL_RETRY)
    notice = session.get(Notice, notice_id, with_for_update=True, populate_existing=True)
    if notice is None:
        raise NotFound
    if notice.delivery is not Delivery.FAILED:
        raise Refusal(Sentence("mail-not-failed"))
    notices.try_again(session, notice, now=now)
    return notice
