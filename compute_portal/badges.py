"""Every state of every lifecycle as a shape, a word and a tone; the macro `state` draws them.

Shapes differ inside each lifecycle, so that grey print and colour-blind readers lose nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from .language import N_


class Badge(NamedTuple):
    """`tone` is the end of the class `state-…` ('' is neutral), `shape` a name in macros.html."""

    tone: str
    shape: str
    word: str


BADGES: dict[str, dict[str, Badge]] = {
    "booking": {
        "submitted": Badge("ask", "ring", N_("Awaiting approval")),
        "queued": Badge("wait", "half", N_("Queued")),
        "confirmed": Badge("sure", "diamond", N_("Confirmed")),
        "starting": Badge("live", "triangle", N_("Starting")),
        "running": Badge("live", "disc", N_("Running")),
        "stopping": Badge("live", "square", N_("Stopping")),
        "finished": Badge("", "check", N_("Finished")),
        "settled": Badge("", "seal", N_("Settled")),
        "declined": Badge("stop", "cross", N_("Declined")),
        "cancelled": Badge("", "dash", N_("Cancelled")),
        "lapsed": Badge("", "dashed", N_("Lapsed")),
        "no_show": Badge("stop", "slashed", N_("No-show")),
        "failed": Badge("stop", "warning", N_("Failed")),
    },
    "allocation": {
        "draft": Badge("", "dashed", N_("Draft")),
        "submitted": Badge("ask", "ring", N_("Submitted")),
        "in_review": Badge("wait", "half", N_("In review")),
        "changes_requested": Badge("ask", "back", N_("Changes requested")),
        "active": Badge("live", "disc", N_("Active")),
        "suspended": Badge("stop", "bars", N_("Suspended")),
        "closed": Badge("", "check", N_("Closed")),
        "declined": Badge("stop", "cross", N_("Declined")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
    },
    "statement": {
        "draft": Badge("", "dashed", N_("Draft")),
        "in_review": Badge("wait", "half", N_("In review")),
        "returned": Badge("ask", "back", N_("Returned")),
        "approved": Badge("sure", "hollow", N_("Approved")),
        "issued": Badge("sure", "seal", N_("Issued")),
        "settled": Badge("", "check", N_("Settled")),
    },
    "enterprise": {
        "applied": Badge("ask", "ring", N_("Applied")),
        "verified": Badge("live", "check", N_("Verified")),
        "suspended": Badge("stop", "bars", N_("Suspended")),
        "declined": Badge("stop", "cross", N_("Declined")),
    },
    "node": {
        "up": Badge("live", "disc", N_("Up")),
        "draining": Badge("wait", "half", N_("Draining")),
        "down": Badge("stop", "warning", N_("Down")),
        "out_of_service": Badge("", "bars", N_("Out of service")),
    },
    "maintenance": {
        "planned": Badge("sure", "hollow", N_("Planned")),
        "cancelled": Badge("", "dash", N_("Cancelled")),
    },
}

# A history row that began something, or whose state stayed the same, tells of what happened.
EVENTS: dict[tuple[str, str], str] = {
    ("booking", "claim"): N_("Started using"),
    ("booking", "submit"): N_("Submitted"),
    ("booking", "stop"): N_("Asked to stop"),
}


def badge(kind: str, state: str) -> Badge:
    return BADGES[kind][str(state)]


def happened(kind: str, verb: str, before: str | None, after: str) -> str:
    """The msgid of what a history row tells: the new state, or the event when the state stayed or began."""
    event = EVENTS.get((kind, verb)) if before in (after, None) else None
    return event or badge(kind, after).word
