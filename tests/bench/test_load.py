"""`make bench`: pages under load, each in seven turns with a bare Flask page; the middle one of their ratios is told.

1,000 enterprises and 100,000 bookings on PostgreSQL (BENCH_ENTERPRISES, BENCH_BOOKINGS), two gunicorn workers each.
BENCH_YARDSTICK=path/to/app.py takes another `app` as the yardstick; BENCH_SECONDS is how long each page is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.enterprises.models import Membership
from compute_portal.policy import Policy
from compute_portal.signin.models import User
from tests.bench.load import Load, load
from tests.cast import NOW, Cast, make_cast
from tests.house.town import PERSON_OF, build, grow
from tests.web import make_app, set_now, sign_in

pytestmark = pytest.mark.bench
ROOT = Path(__file__).resolve().parents[2]
WORKERS, TURNS = 2, 7
# Of a hundred bookings: most are long over, as in a pool that has been open for a year.
A_HUNDRED = ("running", "queued", "queued", "finished", *["settled"] * 45, "submitted", "finished", *["settled"] * 49)
READS, CALENDAR = 0.15, 0.08  # what the ratios should reach
# Somebody of a company with its share of the bookings, somebody of one with ten times as many and 31 allocations.
MEMBER, OF_A_LARGE_ONE, OPERATOR = "member", "large", "operator"
PAGES = (
    *(
        (who, page, READS)
        for page in ("/start", "/bookings", "/allocations", "/usage")
        for who in (MEMBER, OF_A_LARGE_ONE)
    ),
    (OPERATOR, "/bookings", READS),
    (OPERATOR, "/enterprises", READS),
    (OPERATOR, "/queue", READS),
    *(
        (who, page, CALENDAR)
        for page in ("/pools/{pool}/calendar", "/pools/{pool}/calendar?view=month", "/bookings/offers")
        for who in (MEMBER, OF_A_LARGE_ONE)
    ),
    (MEMBER, "/bookings/new", READS),
    (OF_A_LARGE_ONE, "/bookings/new", READS),
)


@contextlib.contextmanager
def served(module: str, folder: Path, **environ: str) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    """gunicorn as it is installed, with two workers, from the first answer to SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "-w", str(WORKERS), module]
    environ = {**os.environ, "PORTAL_BIND": f"127.0.0.1:{port}", "PORTAL_LOG_LEVEL": "WARNING"} | environ
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / f"{port}.log").read_text()[-2_000:]
            time.sleep(0.1)
        time.sleep(2)  # both workers have imported all there is
        yield ("127.0.0.1", port), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def cpu_of(process: psutil.Process) -> float:
    """Seconds that the workers used so far."""
    return sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


def get(page: str, cookies: str) -> Iterator[bytes]:
    return cycle(
        [f"GET {page} HTTP/1.1\r\nHost: portal.test\r\nConnection: close\r\nCookie: {cookies}\r\n\r\n".encode()]
    )


def bookings(cookies: str, values: dict[str, str]) -> Iterator[bytes]:
    """A form with a key of its own each time, so that each one books."""
    while True:
        body = urlencode(values | {"form_key": secrets.token_urlsafe(24)})
        yield (
            "POST /bookings/new HTTP/1.1\r\nHost: portal.test\r\nConnection: close\r\n"
            f"Cookie: {cookies}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def form_of(client: FlaskClient, cast: Cast) -> dict[str, str]:
    """The booking form as it is sent after its price was seen."""
    page = client.get(f"/bookings/new?kind=flexible&allocation_id={cast.allocation}&gpus=1&longest=0.1&title=x")
    hidden = dict(re.findall(r'name="(csrf_token|quoted)" (?:type="hidden" )?value="([^"]+)"', page.text))
    asked = {"kind": "flexible", "allocation_id": str(cast.allocation), "gpus": "1", "longest": "0.1", "title": "x"}
    return asked | {"csrf_token": hidden["csrf_token"], "step": "check"} | {"quoted": hidden.get("quoted", "")}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_pages_under_load_beside_a_bare_flask_page(database: Database, policy: Policy, tmp_path: Path) -> None:
    enterprises = int(os.environ.get("BENCH_ENTERPRISES") or 1_000)
    many = int(os.environ.get("BENCH_BOOKINGS") or 100_000)
    seconds = float(os.environ.get("BENCH_SECONDS") or 5)
    town = build(make_cast(database), policy)
    cast = town.cast
    grow(cast, enterprises, each=max(3, (many - enterprises) // enterprises), states=A_HUNDRED)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            "VACUUM ANALYZE"
        )  # as autovacuum does
    app = make_app(database, policy)
    set_now(app, NOW)
    people = {
        MEMBER: of_the_newest_firm(database),
        OF_A_LARGE_ONE: cast.users[PERSON_OF[Role.MEMBER]],
        OPERATOR: cast.users[PERSON_OF[Role.OPERATOR]],
    }
    clients = {who: sign_in(app, person, language="en") for who, person in people.items()}

    def cookies(who: str) -> str:
        """All that a browser would send: without the one of its forms each page would begin a new one."""
        clients[who].get("/start")
        found = [clients[who].get_cookie(name, domain="portal.test") for name in ("portal", "portal-form")]
        return "; ".join(f"{each.key}={each.value}" for each in found if each is not None)

    given = os.environ.get("BENCH_YARDSTICK")
    module = f"{Path(given).stem}:app" if given else "tests.bench.yardstick:make_yardstick()"
    path = os.pathsep.join([*([str(Path(given).parent)] if given else []), *sys.path])
    print(f"\n{enterprises:,} enterprises, {many:,} bookings, PostgreSQL, {WORKERS} workers, {seconds:g} s each")
    print(f"  {'':42}{'a second':>9}{'ratio':>8}{'goal':>6}{'CPU ms':>8}{'p50 ms':>8}{'p99 ms':>8}")
    environ = {
        "PORTAL_ENV": "test", "PORTAL_SECRET_KEY": "s" * 40, "PORTAL_PUBLIC_URL": "http://portal.test",
        "PORTAL_DATABASE_URL": database.url.render_as_string(hide_password=False),
        "PORTAL_POLICY_FILE": str(ROOT / "config" / "policy.toml"),
    }  # fmt: skip
    with (
        served(module, tmp_path, PYTHONPATH=path) as (at_bare, bare_process),
        served("tests.bench.served:app", tmp_path, **environ) as (at_portal, portal_process),
    ):

        def bare(lasting: float) -> Load:
            return load(at_bare, get("/", "x=y"), seconds=lasting, cpu_seconds=lambda: cpu_of(bare_process))

        def ours(requests: Iterator[bytes], right: tuple[int, ...], lasting: float) -> Load:
            cpu = lambda: cpu_of(portal_process)  # noqa: E731
            return load(at_portal, requests, seconds=lasting, cpu_seconds=cpu, right=right)

        bare(seconds)
        first = bare(seconds)
        _print("a bare Flask page", first, 1, 0)

        def held_against_it(told: str, requests: Iterator[bytes], goal: float, right: tuple[int, ...] = (200,)) -> None:
            """In turns with the bare page: a host that others use too is slow for a second here and there."""
            ours(requests, right, seconds / 3)  # statements planned, texts made
            turns = [(ours(requests, right, seconds / TURNS), bare(seconds / TURNS / 2)) for _ in range(TURNS)]
            found = [turn for turn, _bare in turns]
            middle = Load(*(statistics.median(values) for values in zip(*map(astuple, found), strict=True)))
            _print(told, middle, statistics.median(turn.a_second / held.a_second for turn, held in turns), goal)
            wrong = sum(turn.wrong for turn in found)
            assert wrong == 0, f"{wrong} answers of {told} were not what they should be"

        for who, address, goal in PAGES:
            page = address.format(pool=cast.pool)
            held_against_it(f"{who} {page}", get(page, cookies(who)), goal)
        values = form_of(clients[OF_A_LARGE_ONE], cast)
        posts = bookings(cookies(OF_A_LARGE_ONE), values)
        held_against_it("large POST /bookings/new, price checked", posts, READS)
        booked = bookings(cookies(OF_A_LARGE_ONE), values | {"step": "book"})
        held_against_it("large POST /bookings/new, booked", booked, 0, right=(302,))


def of_the_newest_firm(database: Database) -> int:
    """Its one member, whose address is confirmed from now on."""
    with database.engine.begin() as connection:
        id = connection.execute(
            sa.select(Membership.user_id).order_by(Membership.enterprise_id.desc()).limit(1)
        ).scalar_one()
        connection.execute(sa.update(User).where(User.id == id).values(confirmed_at=NOW))
    return int(id)


def _print(page: str, found: Load, ratio: float, goal: float) -> None:
    told = f"{goal:6.2f}" if goal else f"{'':6}"
    print(
        f"  {page:42}{found.a_second:9.0f}{ratio:8.3f}{told}{found.cpu_ms:8.2f}{found.p50_ms:8.1f}{found.p99_ms:8.1f}"
    )
