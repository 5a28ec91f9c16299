"""One-time links that go out by mail: to confirm an address, to set a new password, to join an enterprise.

The database keeps only the token's SHA-256. A token belongs into the query of an address (`?token=…`), which no log
holds, and opening the page must not use it up: mail programs look at links before people do.
"""

from __future__ import annotations

import datetime as dt
import secrets

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..sentences import Refusal, Sentence
from .models import OneTimeLink
from .queries import hash_token


def make(session: Session, purpose: str, subject_id: int | None, address: str, seconds: int, now: dt.datetime) -> str:
    """A new link that may be taken once within `seconds`. Returns its token, kept nowhere.

    `subject_id` is whatever the purpose is about: a person, an invitation.
    """
    token = secrets.token_urlsafe(32)
    session.add(
        OneTimeLink(
            purpose=purpose,
            token_hash=hash_token(token),
            subject_id=subject_id,
            address=address.strip().lower(),
            made_at=now,
            expires_at=now + dt.timedelta(seconds=seconds),
        )
    )
    session.flush()
    return token


def look(session: Session, token: str, purpose: str, now: dt.datetime) -> OneTimeLink:
    """What the page of a link shows, without using it up. Raises Refusal("link-over")."""
    link = session.scalar(_usable(token, purpose, now))
    if link is None:
        raise Refusal(Sentence("link-over"))
    return link


def take(session: Session, token: str, purpose: str, now: dt.datetime) -> OneTimeLink:
    """Use the link up, for whoever comes first. Raises Refusal("link-over"): unknown, over, or used already."""
    link = session.scalar(_usable(token, purpose, now).with_for_update())
    if link is None:
        raise Refusal(Sentence("link-over"))
    link.taken_at = now
    session.flush()
    return link


def cancel(session: Session, purpose: str, subject_id: int, now: dt.datetime) -> None:
    """The other links for the same thing can no longer be used."""
    session.execute(
        sa.update(OneTimeLink)
        .where(OneTimeLink.purpose == purpose, OneTimeLink.subject_id == subject_id, OneTimeLink.taken_at.is_(None))
        .values(taken_at=now)
    )


def _usable(token: str, purpose: str, now: dt.datetime) -> sa.Select[OneTimeLink]:
    return sa.select(OneTimeLink).where(
        OneTimeLink.token_hash == hash_token(token),
        OneTimeLink.purpose == purpose,
        OneTimeLink.taken_at.is_(None),
        OneTimeLink.expires_at > now,
    )
