"""What a notice is about, and how it comes by mail unless its receiver chose otherwise. Pure.

What somebody must act on within hours, or waits for, comes at once; what only tells how things stand comes once a day.
"""

from __future__ import annotations

import datetime as dt
import enum

from .. import clock
from ..language import N_


class Topic(enum.StrEnum):
    ACCOUNT = "account"  # links, invitations, roles: always at once
    BOOKING = "booking"
    REQUEST = "request"
    TERM = "term"
    MONEY = "money"
    OFFICE = "office"


class Way(enum.StrEnum):
    AT_ONCE = "at_once"
    DIGEST = "digest"
    PORTAL = "portal"


TOPIC_NAMES: dict[Topic, str] = {
    Topic.BOOKING: N_("Bookings: starts, ends, windows kept for you, charges, faults of ours"),
    Topic.REQUEST: N_("Requests, changes and appeals: decisions and questions"),
    Topic.TERM: N_("Allocations: what is used up, what ends, reports"),
    Topic.MONEY: N_("Statements, disputes and claims"),
    Topic.OFFICE: N_("The bureau’s own work: what is late, what is missing"),
}
WAY_NAMES: dict[Way, str] = {
    Way.AT_ONCE: N_("immediately"),
    Way.DIGEST: N_("once a day, all in one mail"),
    Way.PORTAL: N_("not by mail, only here"),
}
USUAL: dict[Topic, Way] = {
    Topic.ACCOUNT: Way.AT_ONCE,
    Topic.BOOKING: Way.AT_ONCE,
    Topic.REQUEST: Way.AT_ONCE,
    Topic.TERM: Way.DIGEST,
    Topic.MONEY: Way.DIGEST,
    Topic.OFFICE: Way.AT_ONCE,
}
# The beginnings of the ids of what is told; the first that fits.
_OF: tuple[tuple[str, Topic], ...] = (
    ("mail-", Topic.ACCOUNT),
    ("alert-", Topic.TERM),
    ("claim-", Topic.MONEY),
    *(
        (f"told-{name}", Topic.OFFICE)
        for name in (
            "review-late", "review-nobody", "review-delegated", "appeal-late", "metering-gap", "disputed",
            "dispute-late",
        )
    ),
    *((f"told-{name}", Topic.MONEY) for name in ("issued", "overdue", "dispute-")),
    *(
        (f"told-{name}", Topic.TERM)
        for name in ("report-", "final-overdue", "progress-overdue", "depreciated", "slow", "expired")
    ),
    *(
        (f"told-{name}", Topic.REQUEST)
        for name in ("awarded", "declined", "changes", "change-", "appeal-", "review-comment")
    ),
    ("told-", Topic.BOOKING),
)  # fmt: skip


def topic_of(sentence_id: str) -> Topic:
    """What nobody has put under a topic comes at once, like what concerns the account."""
    return next((topic for beginning, topic in _OF if sentence_id.startswith(beginning)), Topic.ACCOUNT)


def next_digest(now: dt.datetime, hour: int) -> dt.datetime:
    """The first moment after `now` at which digests go out: `hour` in Shanghai."""
    at = clock.start_of_day(clock.day_of(now)) + hour * clock.HOUR
    return at if at > now else at + dt.timedelta(days=1)
