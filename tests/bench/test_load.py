"""`make bench`: pages under load, from two gunicorn workers, as ratios to a bare Flask page served in the same way.

1,000 enterprises and 100,000 bookings; BENCH_REQUESTS changes how often each page is asked for. The load comes from
this machine too: ratios and CPU per page say something, requests a second only about this machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import http.client
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from compute_portal.access import Role
from compute_portal.db import Database
from compute_portal.policy import Policy
from compute_portal.signin import service as signin
from config.settings import Settings
from tests.cast import NOW, Cast, make_cast
from tests.house.town import PERSON_OF, build, grow

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "200"))
ENTERPRISES, BOOKINGS = 1_000, 100_000
AT_ONCE = 8
WITHIN_SECONDS = 60
READS = (
    (Role.MANAGER, "/start"),
    (Role.MANAGER, "/bookings"),
    (Role.MANAGER, "/allocations"),
    (Role.OPERATOR, "/start"),
    (Role.OPERATOR, "/queue"),
    (Role.OPERATOR, "/bookings"),
    (Role.OPERATOR, "/enterprises"),
    (Role.FINANCE, "/statements"),
)


@dataclasses.dataclass(frozen=True)
class Served:
    """A gunicorn with two workers. `host` is where it answers."""

    host: str
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """Of the workers, so far."""
        workers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ticks = 0
        for worker in workers:
            stat = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serve(app: str, folder: Path, **environ: str) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "--bind", host, "--workers", "2", "--threads", "4", app]
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "BENCH_ADDRESS": f"http://{host}", **environ}, stdout=log, stderr=log
        )
    try:
        _wait_for(host, process, folder / "web.log")
        yield Served(host, process)
    finally:
        process.terminate()
        process.wait(WITHIN_SECONDS)


def _wait_for(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(tuple_of(host), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def tuple_of(host: str) -> tuple[str, int]:
    name, port = host.split(":")
    return name, int(port)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Requests a second, milliseconds of the workers' CPU each, and how long people waited."""

    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.rate:8.1f}/s {self.cpu_ms:7.2f} ms CPU   p50 {self.p50_ms:7.1f} ms   p99 {self.p99_ms:7.1f} ms"


Ask = Callable[[http.client.HTTPConnection], int]  # one request; the status that came


def load(served: Served, asks: Sequence[Ask], *, expect: int = 200) -> Cost:
    """All of them, from eight people at once who keep their connections."""
    left = list(asks)
    waited: list[float] = []
    wrong: list[int] = []

    def person() -> None:
        connection = http.client.HTTPConnection(served.host, timeout=WITHIN_SECONDS)
        with contextlib.closing(connection):
            while True:
                try:
                    ask = left.pop()
                except IndexError:
                    return
                began = time.perf_counter()
                status = ask(connection)
                waited.append(time.perf_counter() - began)
                if status != expect:
                    wrong.append(status)

    before, began = served.cpu_seconds(), time.perf_counter()
    people = [threading.Thread(target=person) for _ in range(AT_ONCE)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    took = time.perf_counter() - began
    assert not wrong, wrong[:5]
    waited.sort()
    return Cost(
        len(waited) / took,
        (served.cpu_seconds() - before) / len(waited) * 1_000,
        statistics.median(waited) * 1_000,
        waited[int(len(waited) * 0.99) - 1] * 1_000,
    )


def get(address: str, cookie: str = "") -> Ask:
    def ask(connection: http.client.HTTPConnection) -> int:
        connection.request("GET", address, headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return ask


def post(address: str, cookie: str, form: dict[str, str]) -> Ask:
    body = urlencode(form)

    def ask(connection: http.client.HTTPConnection) -> int:
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", address, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return ask


def _cookie(cast: Cast, policy: Policy, role: Role) -> str:
    token = cast.database.transaction(
        lambda s: signin.start_session(
            s, cast.users[PERSON_OF[role]], enterprise_id=None, policy=policy.sign_in, now=NOW
        )
    )
    name = Settings(env="test", secret_key="s" * 40, public_url="http://127.0.0.1").cookie_name
    return f"{name}={token}"


def _fill(database: Database, policy: Policy) -> Cast:
    town = build(make_cast(database), policy)
    grow(town.cast, ENTERPRISES)
    with database.engine.begin() as connection:
        columns = [c["name"] for c in sa.inspect(connection).get_columns("bookings") if c["name"] != "id"]
        there = connection.execute(sa.text("SELECT count(*) FROM bookings WHERE state = 'settled'")).scalar_one()
        named = ", ".join(columns)
        for _ in range((BOOKINGS - there) // there):
            connection.execute(
                sa.text(
                    f"INSERT INTO bookings ({named}) SELECT {named} FROM bookings "
                    f"WHERE state = 'settled' ORDER BY id LIMIT {there}"
                )
            )
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    return town.cast


def _booking_forms(served: Served, cookie: str, cast: Cast, many: int) -> list[Ask]:
    """Forms as they are sent by people who saw the price: each with a token and a one-time key of its own."""
    asks = []
    connection = http.client.HTTPConnection(served.host, timeout=WITHIN_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/bookings/new?kind=flexible", headers={"Cookie": cookie})
        answer = connection.getresponse()
        shown, keeps = answer.read().decode(), answer.headers.get_all("Set-Cookie") or []
        both = "; ".join([cookie, *(kept.split(";")[0] for kept in keeps)])
        for number in range(many):
            form = {
                "kind": "flexible", "allocation_id": str(cast.allocation), "gpus": "1", "longest": "1",
                "title": f"Run {number}", "csrf_token": _value(shown, "csrf_token"), "step": "check",
            }  # fmt: skip
            headers = {"Cookie": both, "Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/bookings/new", urlencode(form), headers)
            answer = connection.getresponse()
            checked = answer.read().decode()
            assert answer.status == 200, checked
            sent = form | {
                "step": "book", "quoted": _value(checked, "quoted"), "form_key": _value(checked, "form_key"),
            }  # fmt: skip
            asks.append(post("/bookings/new", both, sent))
    return asks


def _value(page: str, name: str) -> str:
    field = re.search(rf'<input[^>]*name="{name}"[^>]*>', page)
    assert field is not None, name
    value = re.search(r'value="([^"]*)"', field[0])
    assert value is not None, name
    return html.unescape(value[1])


def test_what_pages_cost_under_load(database: Database, policy: Policy, tmp_path: Path) -> None:
    cast = _fill(database, policy)
    with serve("tests.bench.yardstick:make_yardstick()", tmp_path) as bare:
        load(bare, [get("/")] * 100)
        yardstick = load(bare, [get("/")] * REQUESTS * 5)
    store = "PostgreSQL" if database.is_postgresql else "SQLite"
    print(f"\n{ENTERPRISES:,} enterprises, {BOOKINGS:,} bookings on {store}, two workers, {AT_ONCE} people at once")
    print(f"  {'a bare Flask page of 25 rows':34}{yardstick}")
    url = database.url.render_as_string(hide_password=False)
    with serve("tests.bench.served:make_portal()", tmp_path, BENCH_DATABASE=url) as portal:
        for role, address in READS:
            cookie = _cookie(cast, policy, role)
            load(portal, [get(address, cookie)] * 20)
            cost = load(portal, [get(address, cookie)] * REQUESTS)
            print(f"  {role.value:9} {address:24}{cost}   {cost.rate / yardstick.rate:.3f} of the bare page")
        cookie = _cookie(cast, policy, Role.MANAGER)
        cost = load(portal, _booking_forms(portal, cookie, cast, REQUESTS // 2), expect=302)
        print(f"  {'manager':9} {'POST /bookings/new':24}{cost}   {cost.rate / yardstick.rate:.3f} of the bare page")
