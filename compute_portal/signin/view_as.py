"""See the portal as a member sees it: for half an hour, read only, with both people in the access log.

Whose pages are seen stands on the session of who looks. Whether it still holds is asked with every request: see guard.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..lifecycle import note_event
from ..sentences import NotFound, Refusal, Sentence
from .models import BureauRole, User, UserSession

LASTS = dt.timedelta(minutes=30)


def start(
    session: Session, session_id: int, *, user_id: int, enterprise_id: int, why: str, by: Actor, now: dt.datetime
) -> None:
    """The caller has checked that the person is a member of the enterprise.

    Raises Refusal at `why` or `user_id`: nobody with a bureau role is looked at this way.
    """
    require(by, Permission.VIEW_AS_START)
    person = session.get(User, user_id)
    if person is None or person.disabled_at is not None:
        raise NotFound
    if session.scalar(sa.select(BureauRole.user_id).where(BureauRole.user_id == user_id).limit(1)) is not None:
        raise Refusal(Sentence("view-as-not-bureau"), "user_id")
    if not why.strip():
        raise Refusal(Sentence("view-as-needs-reason"), "why")
    note_event(session, person, verb="view-as", at=now, by=by, note=why.strip())
    session.execute(
        sa.update(UserSession)
        .where(UserSession.id == session_id, UserSession.user_id == by.user_id, UserSession.ended_at.is_(None))
        .values(viewing_user_id=user_id, viewing_enterprise_id=enterprise_id, viewing_until_at=now + LASTS)
    )


def end(session: Session, session_id: int) -> None:
    """Back to the own pages. Ending it twice changes nothing."""
    session.execute(
        sa.update(UserSession)
        .where(UserSession.id == session_id)
        .values(viewing_user_id=None, viewing_enterprise_id=None, viewing_until_at=None)
    )
