"""The entries of the header, by role: at most six, in this order; a page that does not exist yet is left out."""

from __future__ import annotations

from typing import NamedTuple

from flask import current_app, request, url_for

from .access import Permission, Role
from .guard import Person
from .language import N_


class Entry(NamedTuple):
    endpoint: str
    label: str
    permission: Permission


MOST = 6  # a row of more is not read
P = Permission
_PROGRAMMES = Entry("programmes.index", N_("Programmes"), P.PROGRAMME_VIEW)
_ENTERPRISES = Entry("enterprises.index", N_("Enterprises"), P.ENTERPRISE_VIEW)
_ALLOCATIONS = Entry("allocations.index", N_("Allocations"), P.ALLOCATION_VIEW)
_STATEMENTS = Entry("statements.index", N_("Statements"), P.STATEMENT_VIEW)
_USAGE = Entry("usage.index", N_("Usage"), P.USAGE_VIEW)
_QUEUE = Entry("bookings.index", N_("Bookings and queue"), P.BOOKING_VIEW)
_CLUSTER = Entry("pools.index", N_("Cluster"), P.POOL_VIEW)
# Beside the header's six these stand in the footer.
_DESK = (
    Entry("desk.queue", N_("Queue"), P.QUEUE_VIEW),
    Entry("announcements.index", N_("Announcements"), P.ANNOUNCEMENT_VIEW),
    Entry("budgets.rules", N_("Thresholds and overdraft"), P.RULES_VIEW),
    Entry("desk.jobs", N_("Timetable"), P.JOB_VIEW),
    Entry("desk.history", N_("All history"), P.HISTORY_VIEW),
)

ENTERPRISE: tuple[Entry, ...] = (
    Entry("desk.start", N_("To do"), P.START_VIEW),
    _ALLOCATIONS,
    Entry("bookings.index", N_("Bookings"), P.BOOKING_VIEW),
    _USAGE,
    _STATEMENTS,
    Entry("enterprises.members", N_("Members"), P.ENTERPRISE_VIEW),
    Entry("pools.index", N_("Pools and prices"), P.POOL_VIEW),
)
OPERATOR: tuple[Entry, ...] = (
    Entry("desk.start", N_("To decide"), P.START_VIEW),
    _ENTERPRISES,
    _ALLOCATIONS,
    _QUEUE,
    _CLUSTER,
    _PROGRAMMES,
    Entry("people.mail", N_("Mail that did not arrive"), P.MAIL_VIEW),
    *_DESK,
)
FINANCE: tuple[Entry, ...] = (
    Entry("desk.start", N_("This month"), P.START_VIEW),
    _STATEMENTS,
    _USAGE,
    Entry("tariffs.index", N_("Prices"), P.TARIFF_VIEW),
    Entry("programmes.index", N_("Budget and subsidy"), P.PROGRAMME_VIEW),
    _ENTERPRISES,
    *_DESK,
)
# Auditors, administrators and people with several bureau roles see both sides.
BUREAU: tuple[Entry, ...] = (
    Entry("desk.start", N_("Start"), P.START_VIEW),
    _ENTERPRISES,
    _ALLOCATIONS,
    _QUEUE,
    _CLUSTER,
    _STATEMENTS,
    Entry("people.index", N_("People"), P.PERSON_VIEW),
    *_DESK,
)


def entries_for(person: Person | None) -> list[Entry]:
    """What this person finds in the header, only pages that exist and may be opened."""
    return _pages_of(person)[:MOST]


def left_over(person: Person | None) -> list[Entry]:
    """What did not fit into the header stands in the footer."""
    return _pages_of(person)[MOST:]


def _pages_of(person: Person | None) -> list[Entry]:
    if person is None:
        return []
    if not person.actor.is_bureau:
        entries = ENTERPRISE
    elif person.actor.roles == {Role.OPERATOR}:
        entries = OPERATOR
    elif person.actor.roles == {Role.FINANCE}:
        entries = FINANCE
    else:
        entries = BUREAU
    return [e for e in entries if e.endpoint in current_app.view_functions and person.actor.may(e.permission)]


def is_current(entry: Entry) -> bool:
    """An entry is marked on its own page and on all below it, whichever feature shows them."""
    home = url_for(entry.endpoint)
    return request.path == home or request.path.startswith(f"{home}/")
