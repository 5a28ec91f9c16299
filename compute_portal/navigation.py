"""The entries of the header, by role: some side by side, the others in groups under "More"."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from flask import request

from .access import BUREAU_ROLES, Permission, Role
from .addresses import address
from .guard import Person
from .language import N_


class Entry(NamedTuple):
    endpoint: str
    label: str
    permission: Permission


class Link(NamedTuple):
    """An entry as a page shows it; `label` is a msgid."""

    address: str
    label: str


class Group(NamedTuple):
    """Entries under "More" that belong together; `label` is a msgid."""

    label: str
    links: tuple[Link, ...]


class Menu(NamedTuple):
    """What one person finds: side by side, and under "More"; `here` is the address of the closest page of these."""

    first: tuple[Link, ...]
    more: tuple[Group, ...]
    here: str | None

    @property
    def is_below(self) -> bool:
        return any(link.address == self.here for group in self.more for link in group.links)


P = Permission
_PROGRAMMES = Entry("programmes.index", N_("Programmes"), P.PROGRAMME_VIEW)
_ENTERPRISES = Entry("enterprises.index", N_("Enterprises"), P.ENTERPRISE_VIEW)
_ALLOCATIONS = Entry("allocations.index", N_("Allocations"), P.ALLOCATION_VIEW)
_STATEMENTS = Entry("statements.index", N_("Statements"), P.STATEMENT_VIEW)
_USAGE = Entry("usage.index", N_("Usage"), P.USAGE_VIEW)
_BOOKINGS = Entry("bookings.index", N_("Bookings"), P.BOOKING_VIEW)
_CLUSTER = Entry("desk.cluster", N_("Cluster"), P.CLUSTER_VIEW)
_POOLS = Entry("pools.index", N_("Pools and prices"), P.POOL_VIEW)
_TARIFFS = Entry("tariffs.index", N_("Prices"), P.TARIFF_VIEW)
_SCHEMES = Entry("subsidies.index", N_("Budgets"), P.SCHEME_VIEW)
_CLAIMS = Entry("claims.index", N_("Claims"), P.CLAIM_VIEW)
_QUEUE = Entry("desk.queue", N_("Queue"), P.QUEUE_VIEW)
_REVIEWS = Entry("review.index", N_("Reviews"), P.REVIEW_VIEW)
_TIMES = Entry("review.times", N_("Decision times"), P.REVIEW_VIEW_TIMES)
_PEOPLE = Entry("people.index", N_("People"), P.PERSON_VIEW)
_STRIKES = Entry("cancellations.index", N_("No-shows"), P.STRIKE_VIEW)
_MAIL = Entry("people.mail", N_("Mail that did not arrive"), P.MAIL_VIEW)

# What everybody finds, signed in or not.
_FIGURES = Entry("commons.figures", N_("Public figures"), P.START_VIEW)
_CATALOGUE = Entry("commons.list_datasets", N_("Datasets"), P.START_VIEW)
PUBLIC: tuple[Entry, ...] = (
    Entry("commons.front", N_("Home"), P.START_VIEW),
    Entry("commons.list_pools", N_("Pools and prices"), P.START_VIEW),
    Entry("commons.list_programmes", N_("Programmes"), P.START_VIEW),
    _CATALOGUE,
    _FIGURES,
)

# Side by side: as many as one line of 1200 px holds in English.
ENTERPRISE: tuple[Entry, ...] = (
    Entry("desk.start", N_("To do"), P.START_VIEW),
    _ALLOCATIONS,
    _BOOKINGS,
    _USAGE,
    _STATEMENTS,
)
OPERATOR: tuple[Entry, ...] = (
    Entry("desk.start", N_("To decide"), P.START_VIEW),
    _QUEUE,
    _ENTERPRISES,
    _ALLOCATIONS,
    _BOOKINGS,
    _CLUSTER,
)
FINANCE: tuple[Entry, ...] = (
    Entry("desk.start", N_("This month"), P.START_VIEW),
    _STATEMENTS,
    _USAGE,
    _TARIFFS,
    _SCHEMES,
    _ENTERPRISES,
)
# Auditors, administrators and people with several bureau roles see both sides.
BUREAU: tuple[Entry, ...] = (
    Entry("desk.start", N_("Start"), P.START_VIEW),
    _QUEUE,
    _ENTERPRISES,
    _ALLOCATIONS,
    _STATEMENTS,
    _PEOPLE,
)
# What stands in the header already is left out here.
MORE_ENTERPRISE: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        N_("Good to know"),
        (
            Entry("enterprises.members", N_("Members"), P.ENTERPRISE_VIEW),
            _POOLS,
            _PROGRAMMES,
            Entry("subsidies.own", N_("Subsidies"), P.SUBSIDY_VIEW),
            _CLAIMS,
            _TIMES,
            _CATALOGUE,
            _FIGURES,
        ),
    ),
)
MORE_BUREAU: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (N_("Decisions"), (_QUEUE, _REVIEWS, _ALLOCATIONS, _TIMES)),
    (N_("Compute"), (_BOOKINGS, _CLUSTER, _POOLS, _USAGE, _STRIKES)),
    (
        N_("Rules and prices"),
        (
            _PROGRAMMES,
            _TARIFFS,
            _SCHEMES,
            _CLAIMS,
            Entry("claims.sample", N_("Audit of subsidies"), P.SAMPLE_VIEW),
            Entry("claims.readings", N_("Electricity"), P.READING_VIEW),
            Entry("budgets.rules", N_("Thresholds and overdraft"), P.RULES_VIEW),
            Entry("workdays.index", N_("Working days"), P.WORKDAY_VIEW),
        ),
    ),
    (
        N_("The portal"),
        (
            _PEOPLE,
            Entry("announcements.index", N_("Announcements"), P.ANNOUNCEMENT_VIEW),
            Entry("commons.datasets", N_("Datasets"), P.DATASET_VIEW),
            Entry("commons.entered", N_("Public figures"), P.FIGURE_VIEW),
            _MAIL,
            Entry("desk.jobs", N_("Timetable"), P.JOB_VIEW),
            Entry("desk.history", N_("All history"), P.HISTORY_VIEW),
        ),
    ),
)  # fmt: skip


def menu_for(person: Person | None) -> Menu:
    """What this person finds in the header, only what may be opened."""
    roles, permissions = (None, None) if person is None else (person.actor.roles, person.actor.permissions)
    first, more, homes = _open_to(request.script_root, roles, permissions)
    return Menu(first, more, _closest(homes))


@cache
def _open_to(
    mounted_at: str, roles: frozenset[Role] | None, permissions: frozenset[Permission] | None
) -> tuple[tuple[Link, ...], tuple[Group, ...], frozenset[str]]:
    """Side by side, under "More", and all their addresses; without roles what everybody finds."""
    if roles is None or permissions is None:
        first, below = PUBLIC, []
    else:
        first = tuple(entry for entry in _first_of(roles) if entry.permission in permissions)
        below = [
            (label, [entry for entry in entries if entry.permission in permissions and entry not in first])
            for label, entries in (MORE_BUREAU if roles & BUREAU_ROLES else MORE_ENTERPRISE)
        ]
    more = tuple(Group(label, tuple(map(_link, entries))) for label, entries in below if entries)
    links = [*map(_link, first), *(link for group in more for link in group.links)]
    return tuple(map(_link, first)), more, frozenset(link.address for link in links)


def _link(entry: Entry) -> Link:
    return Link(address(entry.endpoint), entry.label)


def _first_of(roles: frozenset[Role]) -> tuple[Entry, ...]:
    if not roles & BUREAU_ROLES:
        return ENTERPRISE
    return {frozenset({Role.OPERATOR}): OPERATOR, frozenset({Role.FINANCE}): FINANCE}.get(roles, BUREAU)


def _closest(homes: frozenset[str]) -> str | None:
    """An entry stands for its own page and all below it, whichever feature shows them; the closest one is marked."""
    path = request.script_root + request.path
    while path and path not in homes:
        path = path.rpartition("/")[0]
    return path or None
