"""A feed as iCalendar (RFC 5545). Pure: events in, bytes out.

An event keeps its UID for life; SEQUENCE grows with every line of its history, so that a calendar takes what is newer.
What was called off stays in the feed as CANCELLED: what is merely missing would stay in people's calendars for ever.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import icalendar

from ..badges import badge
from ..language import N_, Language, count, gettext, hours, ngettext
from .queries import Event

PRODUCT = "-//Compute Commons//Calendar//EN"
REFRESH = dt.timedelta(minutes=15)
MAINTENANCE = N_("Maintenance: %(reason)s")
CANCELLED = N_("Cancelled: %(title)s")
TENTATIVE = frozenset({"submitted"})  # kept, but somebody has yet to decide


def write(name: str, events: Iterable[Event], language: Language, address: str) -> bytes:
    """`name` is what the calendar is called; `address` the portal's, for links and UIDs."""
    calendar = icalendar.Calendar()
    calendar.add("prodid", PRODUCT)
    calendar.add("version", "2.0")
    calendar.add("calscale", "GREGORIAN")
    calendar.add("method", "PUBLISH")
    calendar.add("name", name)
    calendar.add("x-wr-calname", name)  # as older programs read it
    calendar.add("refresh-interval", REFRESH, parameters={"VALUE": "DURATION"})
    for event in events:
        calendar.add_component(_component(event, language, address))
    found: bytes = calendar.to_ical()
    return found


def _component(event: Event, language: Language, address: str) -> icalendar.Event:
    host = address.split("://", 1)[-1].split("/", 1)[0]
    shown = icalendar.Event()
    shown.add("uid", f"{event.uid}@{host}")
    shown.add("dtstamp", event.changed_at)
    shown.add("last-modified", event.changed_at)
    shown.add("sequence", event.changes)
    shown.add("dtstart", event.starts_at.astimezone(dt.UTC))
    shown.add("dtend", event.ends_at.astimezone(dt.UTC))
    shown.add("summary", _summary(event, language))
    shown.add("location", event.pool)
    shown.add("status", "CANCELLED" if event.off else "TENTATIVE" if event.state in TENTATIVE else "CONFIRMED")
    shown.add("transp", "TRANSPARENT" if event.off else "OPAQUE")
    if event.booking_id is not None:
        shown.add("url", f"{address}/bookings/{event.booking_id}")
        shown.add("description", _description(event, language))
    return shown


def _summary(event: Event, language: Language) -> str:
    if event.booking_id is None:
        title = gettext(language, MAINTENANCE) % {"reason": event.title}
    elif event.enterprise is not None:
        firm = (language == "en" and event.enterprise.name_en) or event.enterprise.name
        title = f"{firm} · {event.title}"
    else:
        title = event.title
    return gettext(language, CANCELLED) % {"title": title} if event.off else title


def _description(event: Event, language: Language) -> str:
    cards = ngettext(language, "%(shown)s card", "%(shown)s cards", event.gpus) % {"shown": count(event.gpus, language)}
    needs = gettext(language, "%(hours)s GPU-hours") % {"hours": hours(event.gpu_seconds, language)}
    return f"{gettext(language, badge('booking', event.state).word)} · {cards} · {needs}"
