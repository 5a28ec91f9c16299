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
    "dataset": {
        "listed": Badge("live", "disc", N_("Listed")),
        "retired": Badge("", "dash", N_("Retired")),
    },
    "site": {
        "announced": Badge("", "dashed", N_("Announced")),
        "committed": Badge("sure", "diamond", N_("Committed power")),
        "building": Badge("wait", "half", N_("Being built")),
        "energised": Badge("live", "disc", N_("Energised")),
        "dropped": Badge("", "dash", N_("Dropped")),
    },
    "transition": {
        "recorded": Badge("live", "check", N_("Recorded")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
    },
    "dispute": {
        "opened": Badge("stop", "half", N_("In dispute")),
        "upheld": Badge("live", "check", N_("Dispute upheld")),
        "partly": Badge("live", "hollow", N_("Partly upheld")),
        "rejected": Badge("", "cross", N_("Rejected")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
    },
    "claim": {
        "opened": Badge("ask", "ring", N_("To be confirmed")),
        "confirmed": Badge("wait", "half", N_("Confirmed by the company")),
        "checked": Badge("sure", "hollow", N_("Checked")),
        "approved": Badge("sure", "seal", N_("Approved")),
        "paid": Badge("", "check", N_("Paid out")),
        "declined": Badge("stop", "cross", N_("Declined")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
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
    "person": {
        "active": Badge("live", "disc", N_("May sign in")),
        "disabled": Badge("stop", "bars", N_("Disabled")),
        "erased": Badge("", "dash", N_("Erased")),
    },
    "appeal": {
        "filed": Badge("ask", "ring", N_("Appeal filed")),
        "upheld": Badge("live", "check", N_("Appeal upheld")),
        "dismissed": Badge("stop", "cross", N_("Appeal dismissed")),
    },
    "announcement": {
        "published": Badge("live", "disc", N_("Published")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
    },
    "change": {
        "submitted": Badge("ask", "ring", N_("Submitted")),
        "done": Badge("live", "check", N_("In force")),
        "declined": Badge("stop", "cross", N_("Declined")),
        "withdrawn": Badge("", "dash", N_("Withdrawn")),
    },
    "report": {
        "due": Badge("wait", "half", N_("Report due")),
        "handed_in": Badge("ask", "ring", N_("Handed in")),
        "returned": Badge("ask", "back", N_("Sent back")),
        "accepted": Badge("live", "check", N_("Accepted")),
    },
    "waiter": {
        "waiting": Badge("wait", "half", N_("Waits")),
        "offered": Badge("ask", "ring", N_("Kept for you")),
        "booked": Badge("live", "check", N_("Booked")),
        "lapsed": Badge("", "dashed", N_("Lapsed")),
        "left": Badge("", "dash", N_("Left the wait-list")),
        "over": Badge("stop", "cross", N_("No room came")),
    },
    "pool": {"open": Badge("live", "disc", N_("In operation"))},
    "power_cap": {
        "set": Badge("sure", "hollow", N_("Cap set")),
        "lifted": Badge("", "dash", N_("Lifted")),
    },
    "maintenance": {
        "planned": Badge("sure", "hollow", N_("Planned")),
        "cancelled": Badge("", "dash", N_("Cancelled")),
    },
}

# A history row that began something, or whose state stayed the same, tells of what happened.
EVENTS: dict[tuple[str, str], str] = {
    ("booking", "credit"): N_("Lost run credited"),
    ("booking", "extend"): N_("Extended"),
    ("booking", "hand_back"): N_("Rest handed back"),
    ("booking", "make_up"): N_("Lost time added"),
    ("booking", "move"): N_("Moved to other cards"),
    ("booking", "waive"): N_("No-show waived"),
    ("waiter", "join"): N_("Joined the wait-list"),
    ("waiter", "keep"): N_("Window kept while deciding"),
    ("allocation", "block"): N_("No new bookings"),
    ("allocation", "budget"): N_("Sub-budgets set"),
    ("allocation", "slow"): N_("Its bookings come last"),
    ("allocation", "unblock"): N_("Takes bookings as before"),
    ("person", "register"): N_("Account created"),
    ("person", "confirm"): N_("Address confirmed"),
    ("person", "reset"): N_("New password by mail"),
    ("person", "rename"): N_("Name changed"),
    ("person", "give"): N_("Role given"),
    ("person", "take"): N_("Role taken away"),
    ("allocation", "appeal"): N_("Appeal filed"),
    ("allocation", "declare"): N_("Stepped back"),
    ("allocation", "delegate"): N_("Delegated"),
    ("allocation", "escalate"): N_("Escalated"),
    ("allocation", "review"): N_("Step of the review"),
    ("allocation", "uphold"): N_("Appeal upheld"),
    ("allocation", "waive"): N_("Conflict of interest waived"),
    ("appeal", "escalate"): N_("Escalated"),
    ("appeal", "first-approval"): N_("First approval"),
    ("statement", "check"): N_("Checked, sent for approval"),
    ("statement", "complete"): N_("Metering is complete again"),
    ("statement", "confirm"): N_("Gap in the metering confirmed"),
    ("statement", "dispute"): N_("Line disputed"),
    ("statement", "fapiao"): N_("Fapiao entered"),
    ("statement", "incomplete"): N_("Metering is missing"),
    ("statement", "pay"): N_("Payment received"),
    ("statement", "unpay"): N_("Payment taken back"),
    ("allocation", "track"): N_("Track changed"),
    ("allocation", "not-at-once"): N_("Goes to an operator"),
    ("allocation", "stage"): N_("Withheld hours released"),
    ("allocation", "depreciate"): N_("Hours taken back at half term"),
    ("dataset", "edit"): N_("Changed"),
    ("pool", "add"): N_("Entered"),
    ("pool", "edit"): N_("Changed"),
    ("pool", "extend"): N_("Nodes added"),
    ("site", "edit"): N_("Changed"),
    ("change", "first-approval"): N_("First approval"),
    ("booking", "claim"): N_("Started using"),
    ("booking", "submit"): N_("Submitted"),
    ("booking", "stop"): N_("Asked to stop"),
    ("enterprise", "admit"): N_("Credit code admitted"),
    ("enterprise", "appoint"): N_("Manager appointed"),
    ("enterprise", "breach"): N_("Credit breach entered"),
    ("enterprise", "change"): N_("Data changed"),
    ("enterprise", "change-role"): N_("Role changed"),
    ("enterprise", "classify"): N_("Size class changed"),
    ("enterprise", "invite"): N_("Somebody invited"),
    ("enterprise", "join"): N_("Somebody joined"),
    ("enterprise", "lift"): N_("Credit breach lifted"),
    ("enterprise", "refuse"): N_("Sponsor refused"),
    ("enterprise", "relate"): N_("Related party entered"),
    ("enterprise", "remove"): N_("Somebody removed"),
    ("enterprise", "revoke"): N_("Invitation revoked"),
    ("enterprise", "sponsor"): N_("Sponsor confirmed"),
    ("enterprise", "unrelate"): N_("Relation ended"),
}


def badge(kind: str, state: str) -> Badge:
    return BADGES[kind][str(state)]


def happened(kind: str, verb: str, before: str | None, after: str) -> str:
    """The msgid of what a history row tells: the new state, or the event when the state stayed or began."""
    event = EVENTS.get((kind, verb)) if before in (after, None) else None
    return event or badge(kind, after).word
