"""Calendars to subscribe to, read back by a parser as a calendar program does."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import icalendar
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from compute_portal.bookings import service as bookings
from compute_portal.feeds.models import Feed
from compute_portal.policy import Policy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Node
from compute_portal.signin import service as signin
from tests.cast import HOUR, NOW, Cast
from tests.walk import start
from tests.web import make_app, post, set_now, sign_in, words


@pytest.fixture
def app(cast: Cast, policy: Policy) -> Flask:
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    return app


def link(client: FlaskClient, what: str) -> str:
    """Make a link and read it where it is shown, once."""
    answer = post(client, "/feeds", {"what": what})
    assert answer.status_code == 200, words(answer)
    found = re.search(r'<code class="secret">http://[^/]+(/calendar\.ics\?token=[\w-]{43})</code>', answer.text)
    assert found is not None
    assert found[1] not in client.get("/feeds").text
    return found[1]


def read(app: Flask, address: str) -> icalendar.Calendar:
    """As a program that nobody is signed in with."""
    answer = app.test_client().get(address)
    assert answer.status_code == 200 and answer.mimetype == "text/calendar"
    return icalendar.Calendar.from_ical(answer.data)


def events(calendar: icalendar.Calendar) -> dict[str, Any]:
    return {str(event["uid"]).partition("@")[0]: event for event in calendar.walk("VEVENT")}


def test_a_feed_validates_and_says_what_when_where(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.fixed(gpus=8, start_in=10, hours=3, title="语音, 基座; 第\\三阶段"), policy.bookings)
    chen = sign_in(app, cast.users["chen"], language="en")
    calendar = read(app, link(chen, "person"))
    assert str(calendar["version"]) == "2.0" and str(calendar["x-wr-calname"]) == "My compute bookings"
    event = events(calendar)[f"booking-{booking}"]
    assert event.decoded("dtstart") == NOW + 10 * HOUR and event.decoded("dtend") == NOW + 13 * HOUR
    assert str(event["summary"]) == "语音, 基座; 第\\三阶段" and str(event["location"]) == "H800"
    assert str(event["status"]) == "CONFIRMED" and str(event["url"]).endswith(f"/bookings/{booking}")
    assert "8 cards · 24 GPU-hours" in str(event["description"])
    assert {"uid", "dtstamp", "dtstart", "summary"} <= {name.lower() for name in event}


def test_a_cancelled_booking_stays_in_the_feed_and_says_cancelled_in_a_newer_version(
    app: Flask, cast: Cast, policy: Policy
) -> None:
    booking = cast.submit(cast.fixed(gpus=8, start_in=10, hours=3), policy.bookings)
    address = link(sign_in(app, cast.users["chen"], language="zh"), "enterprise")
    before = events(read(app, address))[f"booking-{booking}"]
    cast.database.transaction(lambda s: bookings.cancel(s, booking, by=cast.member, now=NOW + HOUR))
    after = events(read(app, address))[f"booking-{booking}"]
    assert str(after["status"]) == "CANCELLED" and str(after["summary"]).startswith("已取消：")
    assert int(after["sequence"]) > int(before["sequence"])
    assert after.decoded("last-modified") == NOW + HOUR
    assert after["uid"] == before["uid"] and after.decoded("dtstart") == before.decoded("dtstart")


def test_each_kind_shows_its_own_bookings_and_never_another_companys(app: Flask, cast: Cast, policy: Policy) -> None:
    own = cast.submit(cast.fixed(gpus=2, start_in=10), policy.bookings)
    colleagues = cast.submit(cast.fixed(gpus=2, start_in=12), policy.bookings, by=cast.manager)
    queued = cast.submit(cast.flexible(), policy.bookings)
    theirs = cast.submit(
        cast.fixed(gpus=2, start_in=10, allocation_id=cast.other_allocation, title="别家的预约"),
        policy.bookings,
        by=cast.stranger,
    )
    window = cast.database.transaction(
        lambda s: pools.plan_maintenance(
            s, cast.pool, node_ids=[s.scalars(sa.select(sa.func.max(Node.id))).one()], starts_at=NOW + 99 * HOUR,
            ends_at=NOW + 100 * HOUR, reason="更换固件", by=cast.operator, now=NOW,
        ).id
    )  # fmt: skip
    chen = sign_in(app, cast.users["chen"], language="en")
    zhou = sign_in(app, cast.users["zhou"], language="en")
    pool = f"pool:{cast.pool}"

    def shown(client: FlaskClient, what: str) -> set[str]:
        return set(events(read(app, link(client, what))))

    assert f"booking-{queued}" not in shown(chen, "person"), "it has no time yet"
    assert shown(chen, "person") == {f"booking-{own}"}
    assert shown(chen, "enterprise") == {f"booking-{own}", f"booking-{colleagues}"}
    assert shown(chen, pool) == {f"booking-{own}", f"booking-{colleagues}", f"maintenance-{window}"}
    assert shown(zhou, pool) == {
        f"booking-{own}", f"booking-{colleagues}", f"booking-{theirs}", f"maintenance-{window}",
    }  # fmt: skip


def test_a_link_ends_when_it_is_revoked_and_nobody_revokes_anothers(app: Flask, cast: Cast) -> None:
    chen, lin = (sign_in(app, cast.users[name], language="en") for name in ("chen", "lin"))
    address = link(chen, "enterprise")
    feed = re.search(r'action="(/feeds/\d+/revoke)"', chen.get("/feeds").text)
    assert feed is not None
    assert post(lin, feed[1], page="/account").status_code == 404
    assert post(chen, feed[1], page="/feeds").status_code == 302
    assert "No calendar link is in use" in words(chen.get("/feeds"))
    assert app.test_client().get(address).status_code == 404


@pytest.mark.parametrize("what", ["person", "enterprise", "pool"])
def test_a_link_ends_with_the_account_or_the_membership(app: Flask, cast: Cast, what: str) -> None:
    address = link(sign_in(app, cast.users["chen"]), what if what != "pool" else f"pool:{cast.pool}")
    assert app.test_client().get(address).status_code == 200
    cast.database.transaction(lambda s: signin.disable_person(s, cast.users["chen"], now=NOW))
    assert app.test_client().get(address).status_code == 404


def test_only_the_hash_of_a_link_is_kept(app: Flask, cast: Cast) -> None:
    token = link(sign_in(app, cast.users["chen"]), "person").partition("token=")[2]
    with cast.database.read_only() as session:
        feed = session.scalars(sa.select(Feed)).one()
    assert token not in repr(vars(feed)) and len(feed.token_hash) == 64


@pytest.mark.parametrize("token", ["", "x", "a" * 5_000, "%00", "'--"])
def test_a_token_that_is_none_is_not_found(app: Flask, token: str) -> None:
    assert app.test_client().get(f"/calendar.ics?token={token}").status_code == 404


def test_an_unchanged_calendar_is_not_sent_again(app: Flask, cast: Cast, policy: Policy) -> None:
    cast.submit(cast.fixed(gpus=2), policy.bookings)
    address = link(sign_in(app, cast.users["chen"]), "person")
    first = app.test_client().get(address)
    again = app.test_client().get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and again.data == b""


def test_nobody_uses_more_than_ten_links(app: Flask, cast: Cast) -> None:
    chen = sign_in(app, cast.users["chen"], language="en")
    for _ in range(10):
        link(chen, "person")
    refused = post(chen, "/feeds", {"what": "person"})
    assert refused.status_code == 422 and "You already use 10 calendar links." in words(refused)
    assert post(chen, "/feeds", {"what": "pool:999"}).status_code == 422


def test_the_same_form_sent_twice_makes_one_link(app: Flask, cast: Cast) -> None:
    chen = sign_in(app, cast.users["chen"], language="en")
    shown = chen.get("/feeds").text
    values = {name: re.search(rf'name="{name}" (?:type="hidden" )?value="([^"]+)"', shown)[1]  # type: ignore[index]
              for name in ("csrf_token", "form_key")}  # fmt: skip
    assert chen.post("/feeds", data=values | {"what": "person"}).status_code == 200
    assert chen.post("/feeds", data=values | {"what": "person"}).status_code == 302
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count(Feed.id))) == 1


def test_a_flexible_booking_stands_at_the_time_that_it_ran(app: Flask, cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(gpus=4, hours=2), policy.bookings)
    start(cast, booking, at=NOW + HOUR)
    event = events(read(app, link(sign_in(app, cast.users["chen"]), "person")))[f"booking-{booking}"]
    assert event.decoded("dtstart") == NOW + HOUR
    assert event.decoded("dtend") - event.decoded("dtstart") == dt.timedelta(hours=2)
