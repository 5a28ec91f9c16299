"""People come by themselves: sign up, confirm the address, set a new password, change their own name.

What these verbs answer never depends on whether an address is registered: the mail that goes out says it, to whoever
reads that mailbox.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..lifecycle import note_event
from ..notices import service as notices
from ..policy import SignInPolicy
from ..sentences import Refusal, Sentence
from . import links, service
from .models import User
from .queries import find_by_email
from .states import PersonState

CONFIRM, RESET = "confirm", "reset"


def sign_up(
    session: Session,
    *,
    email: str,
    name: str,
    name_en: str | None,
    password_hash: str,
    language: str,
    policy: SignInPolicy,
    now: dt.datetime,
) -> None:
    """A new person who has to confirm the address; a mail with the link goes there.

    An address that is registered gets a mail that says so. One that was never confirmed may be signed up again: nothing
    hangs on it yet, and to confirm it takes both the mailbox and the password.
    """
    user = find_by_email(session, email)
    if user is None:
        user = service.create_person(
            session,
            email=email,
            name=name,
            name_en=name_en,
            password_hash=password_hash,
            language=language,
            confirmed=False,
            by=None,
            now=now,
        )
    elif user.confirmed_at is None and user.state is PersonState.ACTIVE:
        service.set_password(session, user.id, password_hash, now=now)
        user.name, user.name_en, user.language = name, name_en, language
        note_event(session, user, verb="register", at=now, by=Actor(user.id))
    else:
        notices.send(
            session,
            to=None,
            address=user.email,
            language=user.language,
            about=Sentence("mail-signed-up-already"),
            body=[Sentence("mail-signed-up-already-how")],
            link="/sign-in",
            now=now,
        )
        return
    send_confirmation(session, user, policy=policy, now=now)


def send_confirmation(session: Session, user: User, *, policy: SignInPolicy, now: dt.datetime) -> None:
    """The link that confirms the address; an older one stays good."""
    until = now + dt.timedelta(hours=policy.confirm_hours)
    token = links.make(session, CONFIRM, user.id, user.email, policy.confirm_hours * 3600, now)
    notices.send(
        session,
        to=None,
        address=user.email,
        language=user.language,
        about=Sentence("mail-confirm"),
        body=[Sentence("mail-confirm-how", until=until), Sentence("mail-not-you")],
        link=f"/confirm?token={token}",
        now=now,
    )


def confirm_again(session: Session, user_id: int, *, policy: SignInPolicy, now: dt.datetime) -> None:
    """Another mail with the link, for whoever is signed in and has not confirmed yet."""
    user = service.locked_user(session, user_id)
    if user.confirmed_at is None:
        send_confirmation(session, user, policy=policy, now=now)


def confirm(session: Session, token: str, *, user_id: int, now: dt.datetime) -> User:
    """The address is this person's. Takes the mailbox (the link) and the password (who is signed in).

    Raises Refusal("link-over"), also for a link that went to somebody else.
    """
    link = links.take(session, token, CONFIRM, now)
    user = service.locked_user(session, user_id)
    if link.subject_id != user.id or link.address != user.email:
        raise Refusal(Sentence("link-over"))
    if user.confirmed_at is None:
        user.confirmed_at = now
        note_event(session, user, verb="confirm", at=now, by=Actor(user.id))
    links.cancel(session, CONFIRM, user.id, now)
    return user


def ask_reset(session: Session, email: str, *, policy: SignInPolicy, now: dt.datetime) -> None:
    """Mail a link for a new password, if somebody with this address may sign in.

    For others a link is written that nobody gets: a transaction that writes nothing is over measurably sooner.
    """
    user = find_by_email(session, email)
    if user is None or user.state is not PersonState.ACTIVE:
        links.make(session, RESET, None, "", policy.reset_minutes * 60, now)
        return
    until = now + dt.timedelta(minutes=policy.reset_minutes)
    token = links.make(session, RESET, user.id, user.email, policy.reset_minutes * 60, now)
    notices.send(
        session,
        to=None,
        address=user.email,
        language=user.language,
        about=Sentence("mail-reset"),
        body=[Sentence("mail-reset-how", until=until, minutes=policy.reset_minutes), Sentence("mail-not-you")],
        link=f"/reset?token={token}",
        now=now,
    )


def reset(session: Session, token: str, password_hash: str, *, now: dt.datetime) -> User:
    """A new password by the mailed link: every session ends, other links for it too; the address is confirmed by it.

    Raises Refusal("link-over").
    """
    link = links.take(session, token, RESET, now)
    if link.subject_id is None:
        raise Refusal(Sentence("link-over"))
    user = service.locked_user(session, link.subject_id)
    if user.state is not PersonState.ACTIVE or user.email != link.address:
        raise Refusal(Sentence("link-over"))
    service.set_password(session, user.id, password_hash, now=now)
    links.cancel(session, RESET, user.id, now)
    if user.confirmed_at is None:
        user.confirmed_at = now
        note_event(session, user, verb="confirm", at=now, by=Actor(user.id))
    note_event(session, user, verb="reset", at=now, by=Actor(user.id))
    tell_of_password(session, user.id, now=now)
    return user


def tell_of_password(session: Session, user_id: int, *, now: dt.datetime) -> None:
    """Whoever did not do it has to hear of it."""
    notices.send(
        session,
        to=user_id,
        about=Sentence("mail-password-changed"),
        body=[Sentence("mail-password-changed-how")],
        link="/account",
        now=now,
    )


def rename(session: Session, *, name: str, name_en: str | None, language: str, by: Actor, now: dt.datetime) -> None:
    """One's own name and language. The history tells that, not what the name was."""
    require(by, Permission.ACCOUNT_CHANGE)
    assert by.user_id is not None
    user = service.locked_user(session, by.user_id)
    if (user.name, user.name_en) != (name, name_en):
        user.name, user.name_en = name, name_en
        note_event(session, user, verb="rename", at=now, by=by)
    user.language = language
