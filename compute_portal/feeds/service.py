"""Make and revoke the secret link of a calendar.

The link shows what its owner may see, asked anew each time: with the membership, the role or the account it is over.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor, Permission, require
from ..pools import queries as pools
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import hash_token
from .models import Feed, FeedKind

MOST = 10  # links in use that a person may have


def make(
    session: Session, token: str, *, kind: FeedKind, pool_id: int | None = None, by: Actor, now: dt.datetime
) -> Feed:
    """A new link. `token` is random and only its hash is kept. Raises Refusal("feeds-enough")."""
    require(by, Permission.FEED_MAKE)
    if (kind is FeedKind.POOL) != (pool_id is not None) or (kind is not FeedKind.POOL and by.enterprise_id is None):
        raise NotFound
    if pool_id is not None:
        pools.get_pool(session, pool_id)
    in_use = sa.select(sa.func.count(Feed.id)).where(Feed.user_id == by.user_id, Feed.revoked_at.is_(None))
    if (session.scalar(in_use) or 0) >= MOST:
        raise Refusal(Sentence("feeds-enough", most=MOST))
    assert by.user_id is not None
    feed = Feed(
        token_hash=hash_token(token),
        kind=kind,
        user_id=by.user_id,
        enterprise_id=by.enterprise_id,
        pool_id=pool_id,
        made_at=now,
    )
    session.add(feed)
    session.flush()
    return feed


def revoke(session: Session, feed_id: int, *, by: Actor, now: dt.datetime) -> Feed:
    """From now on the link shows nothing. Twice changes nothing; another's does not exist."""
    require(by, Permission.FEED_REVOKE)
    feed = session.get(Feed, feed_id, with_for_update=True)
    if feed is None or feed.user_id != by.user_id:
        raise NotFound
    feed.revoked_at = feed.revoked_at or now
    session.flush()
    return feed
