"""Notices go out by mail: claimed in one transaction, sent outside of any, marked in another.

At least once: whoever dies between sending and marking sends again after the claim's lease, with the same Message-ID.
The server is asked first, and only then is anything claimed: while it is away nothing counts as tried, and the entry's
row in the timetable says why. A refusal for good (5xx for this receiver or this letter) ends a notice, anything else
puts it off.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.language import Language
from compute_portal.notices import queries
from compute_portal.notices import service as notices
from compute_portal.notices.letter import Letter, write
from compute_portal.notices.models import Notice
from compute_portal.sentences import Sentence
from compute_portal.signin.models import User
from compute_portal.signin.states import PersonState
from config.settings import Settings
from scheduler.context import Context, PassFailed
from scheduler.phases import phase
from scheduler.post import Away, Broken, Line, NotNow, Refused

log = logging.getLogger(__name__)
MOST = 100  # letters of one pass, so that a stop need not wait long


def deliver(context: Context, now: dt.datetime) -> int:
    """Hand over what is due. Returns how many letters were. Raises PassFailed when no letter can leave at all."""
    post = context.post
    if post is None:
        return 0
    with context.database.read_only() as session:
        due = queries.due_ids(session, now=now, limit=MOST)
    if not due:
        return 0
    try:
        with phase("mail"), post.open() as line:
            letters = context.transact(lambda session: _claim(session, due, now))
            return _hand_over(context, post.settings, line, letters, now)
    except Away as away:
        raise PassFailed(f"no mail can leave: {away}") from away


def _claim(session: Session, due: Sequence[int], now: dt.datetime) -> list[Letter]:
    """The letters to send. Who may no longer be written to is dropped, who has not confirmed the address waits."""
    rows = notices.claim(session, due, now=now)
    people = {
        user.id: user
        for user in session.scalars(sa.select(User).where(User.id.in_({row.user_id for row in rows if row.user_id})))
    }
    letters, gone = [], []
    for row in rows:
        user = people.get(row.user_id) if row.user_id is not None else None
        if row.user_id is not None and (user is None or user.state is not PersonState.ACTIVE):
            gone.append(row.id)
        elif user is not None and user.confirmed_at is None:
            notices.put_off(session, row.id, "address not confirmed", now=now)
        else:
            letters.append(_letter(row, user))
    notices.mark_dropped(session, gone, now=now)
    return letters


def _letter(notice: Notice, user: User | None) -> Letter:
    about = Sentence.from_json(notice.about)
    assert about is not None
    language: Language = "en" if (user.language if user is not None else notice.language) == "en" else "zh"
    name = None if user is None else (user.name_en or user.name) if language == "en" else user.name
    return Letter(
        notice_id=notice.id,
        at=notice.at,
        address=user.email if user is not None else notice.address or "",
        name=name,
        language=language,
        about=about,
        body=tuple(sentence for stored in notice.body if (sentence := Sentence.from_json(stored)) is not None),
        link=notice.link,
    )


def _hand_over(context: Context, settings: Settings, line: Line, letters: Sequence[Letter], now: dt.datetime) -> int:
    """One after the other, each marked before the next is sent. What is left when the line breaks is due at once."""
    sent = 0
    for index, letter in enumerate(letters):
        try:
            line.send(write(letter, settings))
        except (Refused, ValueError, KeyError) as refusal:
            # ValueError, KeyError: it cannot even be written, now or later.
            error = _without(letter.address, f"{refusal}")
            log.warning("mail refused", extra={"notice": letter.notice_id, "error": error})
            context.transact(lambda s, id=letter.notice_id, error=error: notices.mark_failed(s, id, error, now=now))  # type: ignore[misc]
        except NotNow as reason:
            error = _without(letter.address, f"{reason}")
            context.transact(lambda s, id=letter.notice_id, error=error: notices.put_off(s, id, error, now=now))  # type: ignore[misc]
            if isinstance(reason, Broken):
                _give_back(context, letters[index + 1 :], now)
                return sent
        except Away:
            _give_back(context, letters[index:], now)
            raise
        else:
            context.transact(lambda s, id=letter.notice_id: notices.mark_sent(s, id, now=now))  # type: ignore[misc]
            sent += 1
    return sent


def _give_back(context: Context, letters: Sequence[Letter], now: dt.datetime) -> None:
    context.transact(lambda session: notices.give_back(session, [letter.notice_id for letter in letters], now=now))


def _without(address: str, text: str) -> str:
    """Servers repeat the address in what they say; the row names its receiver already, by id."""
    return text.replace(address, "…")
