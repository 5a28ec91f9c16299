"""Notices go out by mail: claimed in one transaction, sent outside of any, marked in another.

At least once: whoever dies between sending and marking sends again after the claim's lease, with the same Message-ID.
The server is asked first, and only then is anything claimed: while it is away nothing counts as tried, and the entry's
row in the timetable says why. A refusal for good (5xx for this receiver or this letter) ends a notice, anything else
puts it off.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal.language import Language
from compute_portal.notices import queries
from compute_portal.notices import service as notices
from compute_portal.notices.letter import Letter, write
from compute_portal.notices.models import Notice
from compute_portal.notices.topics import Way, next_digest, topic_of
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
        digest_hour = context.policy.notices.digest_hour
        with phase("mail"), post.open() as line:
            letters = context.transact(lambda session: _claim(session, due, now, digest_hour))
            return _hand_over(context, post.settings, line, letters, now)
    except Away as away:
        raise PassFailed(f"no mail can leave: {away}") from away


def _claim(session: Session, due: Sequence[int], now: dt.datetime, digest_hour: int) -> list[Letter]:
    """The letters to send. Who may no longer be written to, or wants none, is dropped; who has not confirmed the
    address waits; what somebody wants once a day waits for it and is one letter then."""
    rows = notices.claim(session, due, now=now)
    if more := {row.user_id for row in rows if row.digest and row.user_id is not None}:
        rest = set(queries.due_with(session, more, now=now)) - {row.id for row in rows}
        rows += notices.claim(session, sorted(rest), now=now)
    ids = {row.user_id for row in rows if row.user_id is not None}
    people = {user.id: user for user in session.scalars(sa.select(User).where(User.id.in_(ids)))}
    ways = queries.ways_of(session, ids)
    letters: list[Letter] = []
    digests: dict[int, list[Letter]] = {}
    gone: list[int] = []
    later: list[int] = []
    for row in rows:
        user = people.get(row.user_id) if row.user_id is not None else None
        way = Way.AT_ONCE if row.user_id is None else ways[row.user_id][topic_of(row.about["id"])]
        if row.user_id is not None and (user is None or user.state is not PersonState.ACTIVE):
            gone.append(row.id)
        elif user is not None and user.confirmed_at is None:
            notices.put_off(session, row.id, "address not confirmed", now=now)
        elif row.digest and user is not None:
            digests.setdefault(user.id, []).append(_letter(row, user))
        elif way is Way.PORTAL:
            gone.append(row.id)
        elif way is Way.DIGEST:
            later.append(row.id)
        else:
            letters.append(_letter(row, user))
    notices.mark_dropped(session, gone, now=now)
    notices.gather(session, later, until=next_digest(now, digest_hour))
    return letters + [_digest(of_one) for of_one in digests.values()]


def _digest(letters: Sequence[Letter]) -> Letter:
    """One letter of several; of a single one itself. Its Message-ID is the newest one's."""
    newest = letters[-1]
    if len(letters) == 1:
        return newest
    items = tuple(
        each for letter in letters for each in ((letter.about, letter.link), *((more, None) for more in letter.body))
    )
    return dataclasses.replace(
        newest,
        about=Sentence("digest-of", n=len(letters)),
        body=(),
        link="/notices",
        others=tuple(letter.notice_id for letter in letters[:-1]),
        items=items,
    )


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
            _mark(context, letter, lambda s, id, error=error: notices.mark_failed(s, id, error, now=now))  # type: ignore[misc]
        except NotNow as reason:
            error = _without(letter.address, f"{reason}")
            _mark(context, letter, lambda s, id, error=error: notices.put_off(s, id, error, now=now))  # type: ignore[misc]
            if isinstance(reason, Broken):
                _give_back(context, letters[index + 1 :], now)
                return sent
        except Away:
            _give_back(context, letters[index:], now)
            raise
        else:
            _mark(context, letter, lambda s, id: notices.mark_sent(s, id, now=now))
            sent += 1
    return sent


def _mark(context: Context, letter: Letter, verb: Callable[[Session, int], None]) -> None:
    """Every notice that a letter told, in one transaction."""

    def work(session: Session) -> None:
        for id in letter.notice_ids:
            verb(session, id)

    context.transact(work)


def _give_back(context: Context, letters: Sequence[Letter], now: dt.datetime) -> None:
    ids = [id for letter in letters for id in letter.notice_ids]
    context.transact(lambda session: notices.give_back(session, ids, now=now))


def _without(address: str, text: str) -> str:
    """Servers repeat the address in what they say; the row names its receiver already, by id."""
    return text.replace(address, "…")
