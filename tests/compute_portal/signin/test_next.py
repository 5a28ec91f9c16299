"""After sign-in a person lands where they wanted to go, on this host and nowhere else."""

from __future__ import annotations

import pytest

from compute_portal.db import Database
from compute_portal.guard import local_address
from compute_portal.policy import Policy
from tests.cast import Cast
from tests.web import Browser, give_password, make_app

EVIL = [
    "https://evil.example/",
    "//evil.example/",
    "///evil.example/",
    "/\\evil.example/",
    "\\\\evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "/\t/evil.example",
    "/%0d%0aLocation:%20x\r\nSet-Cookie: a=b",
    "http://portal.test@evil.example/",
    " //evil.example",
    "/\u2028//evil.example\n",
    "//[evil",
    "",
]


@pytest.mark.parametrize("address", EVIL)
def test_an_address_that_could_leave_this_host_is_not_local(address: str) -> None:
    assert local_address(address) is None


@pytest.mark.parametrize(
    "address", ["/", "/bookings?state=queued&page=2", "/usage/2026-11#day", "/a//b", "/%2F%2Fevil"]
)
def test_an_address_on_this_host_is_local(address: str) -> None:
    assert local_address(address) == address


def test_sign_in_never_redirects_to_another_host(database: Database, policy: Policy, cast: Cast) -> None:
    give_password(database, cast.users["lin"])
    app = make_app(database, policy)
    for address in EVIL[:3]:  # the slow hash of the password is the same for all
        answer = Browser(app).sign_in("lin@example.cn", next=address)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/home"), address
    signed_in = Browser(app).be(cast.users["lin"])
    for address in EVIL:
        answer = signed_in.client.get("/sign-in", query_string={"next": address})
        assert answer.headers["Location"].startswith("/"), address
        assert local_address(answer.headers["Location"]) is not None, address


def test_a_guest_is_led_back_to_the_page_they_asked_for(database: Database, policy: Policy, cast: Cast) -> None:
    give_password(database, cast.users["lin"])
    browser = Browser(make_app(database, policy))
    answer = browser.get("/keys?a=1&b=%E5%8D%A1")
    assert answer.status_code == 302
    to = answer.headers["Location"]
    browser.get(to)
    answer = browser.post(to, {"email": "lin@example.cn", "password": "open the gate 9"})
    assert answer.headers["Location"] == "/keys?a=1&b=%E5%8D%A1"


def test_a_post_without_a_session_is_401_and_is_not_repeated_after_sign_in(
    database: Database, policy: Policy, cast: Cast
) -> None:
    answer = Browser(make_app(database, policy)).post("/keys", {"name": "laptop"})
    assert answer.status_code == 401
    assert "Location" not in answer.headers


def test_switches_in_the_frame_do_not_leave_this_host(database: Database, policy: Policy) -> None:
    browser = Browser(make_app(database, policy))
    for address in EVIL:
        for path, data in (("/language", {"language": "en"}), ("/theme", {"theme": "dark"})):
            answer = browser.post(path, data | {"back": address})
            assert answer.headers["Location"] == "/sign-in", (path, address)
