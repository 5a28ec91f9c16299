"""Tell somebody something: one row in the verb's own transaction. Whatever is rolled back is never sent."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..sentences import NotFound, Sentence
from .models import Delivery, Notice, NoticeChoice
from .topics import Topic, Way


def send(
    session: Session,
    *,
    to: int | None,
    about: Sentence,
    now: dt.datetime,
    address: str | None = None,
    language: str | None = None,
    body: Sequence[Sentence] = (),
    link: str | None = None,
    key: str | None = None,
    enterprise_id: int | None = None,
) -> bool:
    """Tell the person `to`, or a bare `address` in `language`, about something; it goes out by mail soon.

    `about` is the subject and first line, `body` further sentences, `link` a path of the portal. The same `key` for the
    same receiver is told once, whatever restarts: True if this call was the first. What goes to a bare address is not
    listed in the portal, and its link is forgotten once it is sent, so one-time links go that way. `enterprise_id` says
    that the person is told as one of its people: the bureau then finds it in the enterprise's overview.
    Raises ValueError unless there is exactly one receiver.
    """
    if (to is None) == (address is None):
        raise ValueError("a notice goes to a person or to an address")
    if link is not None and not link.startswith("/"):
        raise ValueError("a notice links to a path of the portal")
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    address = None if address is None else address.strip().lower()
    written = session.scalar(
        insert(Notice)
        .values(
            key=None if key is None else f"{key}:{to if to is not None else _short_hash(address or '')}",
            user_id=to,
            enterprise_id=enterprise_id,
            address=address,
            language=language if to is None else None,
            about=about.to_json(),
            body=[sentence.to_json() for sentence in body],
            link=link,
            at=now,
            delivery=Delivery.WAITING,
            tries=0,
            next_try_at=now,
        )
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(Notice.id)
    )
    return written is not None


def send_to_all(
    session: Session,
    people: Iterable[int],
    *,
    about: Sentence,
    now: dt.datetime,
    body: Sequence[Sentence] = (),
    link: str | None = None,
    key: str | None = None,
    enterprise_id: int | None = None,
) -> int:
    """The same to several people, each in their own language. Returns how many were told now."""
    told = [
        send(session, to=user_id, about=about, body=body, link=link, key=key, now=now, enterprise_id=enterprise_id)
        for user_id in sorted(set(people))
    ]
    return sum(told)


def _short_hash(address: str) -> str:
    """Keys outlive addresses, so that they hold none."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


# -- reading them in the portal


def mark_read(session: Session, notice_id: int, *, by: Actor, now: dt.datetime) -> Notice:
    """Raises NotFound for another person's notice."""
    require(by, Permission.NOTICE_READ)
    notice = session.get(Notice, notice_id)
    if notice is None or notice.user_id is None or notice.user_id != by.user_id:
        raise NotFound
    if notice.read_at is None:
        notice.read_at = now
    return notice


def mark_all_read(session: Session, *, by: Actor, now: dt.datetime) -> int:
    """Returns how many were unread."""
    require(by, Permission.NOTICE_READ)
    return session.execute(  # type: ignore[attr-defined, no-any-return]
        sa.update(Notice).where(Notice.user_id == by.user_id, Notice.read_at.is_(None)).values(read_at=now)
    ).rowcount


def choose(session: Session, ways: Mapping[Topic, Way], *, by: Actor) -> None:
    """How the actor wants topics by mail from now on. What waits for a digest already comes with it."""
    require(by, Permission.NOTICE_READ)
    assert by.user_id is not None
    for topic, way in ways.items():
        choice = session.get(NoticeChoice, (by.user_id, topic))
        if choice is None:
            session.add(NoticeChoice(user_id=by.user_id, topic=topic, way=way))
        else:
            choice.way = way
    session.flush()


# -- their way by mail: `scheduler/mail.py` claims, sends outside of any transaction, then marks

LEASE = dt.timedelta(minutes=10)  # longer than a batch takes; afterwards a claim that was not marked is due again
FIRST_WAIT = dt.timedelta(minutes=1)
LONGEST_WAIT = dt.timedelta(hours=1)
TRIES_MOST = 126  # five days at one an hour, and the first hour's


def claim(session: Session, ids: Sequence[int], *, now: dt.datetime) -> list[Notice]:
    """Those of `ids` that still wait and are due. Each counts a try and rests for LEASE unless it is marked."""
    rows = list(
        session.scalars(
            sa.select(Notice)
            .where(Notice.id.in_(ids), Notice.delivery == Delivery.WAITING, Notice.next_try_at <= now)
            .order_by(Notice.id)
            .with_for_update(skip_locked=True)
        )
    )
    for notice in rows:
        notice.tries += 1
        notice.next_try_at = now + LEASE
    return rows


def mark_sent(session: Session, notice_id: int, *, now: dt.datetime) -> None:
    _done(session, notice_id, Delivery.SENT, None, now)


def mark_failed(session: Session, notice_id: int, error: str, *, now: dt.datetime) -> None:
    """Refused for good: the address does not exist, or takes nothing from us. Operators see it and may try again."""
    _done(session, notice_id, Delivery.FAILED, error, now)


def mark_dropped(session: Session, notice_ids: Sequence[int], *, now: dt.datetime) -> None:
    """Their receivers were disabled or erased meanwhile, or do not want them by mail."""
    for notice_id in notice_ids:
        _done(session, notice_id, Delivery.DROPPED, None, now)


def give_back(session: Session, notice_ids: Sequence[int], *, now: dt.datetime) -> None:
    """Claimed, but the way out broke before their turn: not tried, and due again at once."""
    session.execute(
        sa.update(Notice)
        .where(Notice.id.in_(notice_ids), Notice.delivery == Delivery.WAITING)
        .values(next_try_at=now, tries=Notice.tries - 1)
    )


def gather(session: Session, notice_ids: Sequence[int], *, until: dt.datetime) -> None:
    """Claimed, but their receivers want them once a day: not tried, and due with the next digest."""
    if notice_ids:
        session.execute(
            sa.update(Notice)
            .where(Notice.id.in_(notice_ids), Notice.delivery == Delivery.WAITING)
            .values(next_try_at=until, tries=Notice.tries - 1, digest=True)
        )


def put_off(session: Session, notice_id: int, error: str, *, now: dt.datetime) -> None:
    """Not now: tried again after a minute, then two, four … up to an hour; given up after about five days."""
    notice = session.get(Notice, notice_id, with_for_update=True, populate_existing=True)
    if notice is None or notice.delivery is not Delivery.WAITING:
        return
    if notice.tries >= TRIES_MOST:
        _done(session, notice_id, Delivery.FAILED, error, now)
        return
    notice.error = error[:300]
    notice.next_try_at = now + min(FIRST_WAIT * 2 ** min(notice.tries - 1, 10), LONGEST_WAIT)


def _done(session: Session, notice_id: int, delivery: Delivery, error: str | None, now: dt.datetime) -> None:
    notice = session.get(Notice, notice_id, with_for_update=True, populate_existing=True)
    if notice is None or notice.delivery is not Delivery.WAITING:
        return
    notice.delivery, notice.done_at = delivery, now
    notice.error = None if error is None else error[:300]
    if notice.user_id is None and delivery is not Delivery.FAILED:
        # A bare address is needed no longer, and a one-time link must not lie about.
        notice.address = notice.link = None


def try_again(session: Session, notice: Notice, *, now: dt.datetime) -> None:
    """A failed notice is due again, as if it had not been tried. The caller has locked it."""
    notice.delivery, notice.done_at, notice.error = Delivery.WAITING, None, None
    notice.tries, notice.next_try_at = 0, now
    session.flush()


def forget_address(session: Session, address: str) -> None:
    """A person is erased: what was on its way to the address goes no further and no longer names it."""
    session.execute(
        sa.update(Notice)
        .where(Notice.address == address, Notice.delivery != Delivery.WAITING)
        .values(address=None, link=None)
    )
    session.execute(
        sa.update(Notice)
        .where(Notice.address == address)
        .values(address=None, link=None, delivery=Delivery.DROPPED, done_at=Notice.at)
    )
