"""An allocation's use by day: the sums so far end at what was metered, and the shapes stay in their box."""

from __future__ import annotations

import csv
import datetime as dt
import io

from compute_portal import plots
from compute_portal.policy import Policy
from compute_portal.usage.burn import burn
from compute_portal.usage.forecast import forecast
from tests.cast import NOW, Cast
from tests.house.town import build
from tests.web import make_app, set_now, sign_in, words

FIRST, LAST = dt.date(2026, 11, 1), dt.date(2026, 11, 30)


def test_the_picture_adds_up_and_its_pace_meets_the_award_on_the_day_it_runs_out() -> None:
    by_day = {FIRST + dt.timedelta(days=i): 3600 * 10 for i in range(10)}
    ends_at = dt.datetime(2026, 11, 30, 16, tzinfo=dt.UTC)
    until = dt.datetime(2026, 11, 10, 16, tzinfo=dt.UTC)
    ahead = forecast(
        1, awarded=3600 * 200, left=3600 * 100, used=3600 * 100, since=until - dt.timedelta(days=10), until=until,
        ends_at=ends_at,
    )  # fmt: skip
    assert ahead.runs_out_at == until + dt.timedelta(days=10)
    found = burn(by_day, awarded=3600 * 200, starts_on=FIRST, ends_on=LAST, today=dt.date(2026, 11, 10), forecast=ahead)
    assert found.days[-1].so_far == sum(by_day.values()) == 3600 * 100
    assert found.scale.top >= 200 and found.limit == found.scale.y(200)
    corners = [tuple(map(float, point.split(","))) for points in (found.area, found.even, found.ahead)
               for point in points.split()]  # fmt: skip
    assert all(0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT for x, y in corners)
    end_x, end_y = map(float, found.ahead.split()[-1].split(","))
    assert abs(end_y - found.limit) < 0.1 and abs(end_x - 1000 * 21 / 30) < 0.1


def test_nothing_used_draws_nothing() -> None:
    found = burn({}, awarded=3600, starts_on=FIRST, ends_on=LAST, today=FIRST, forecast=None)
    assert found.days == [] and found.ahead == ""


def test_the_page_and_its_csv_say_the_same(cast: Cast, policy: Policy) -> None:
    town = build(cast, policy)
    app = make_app(cast.database, policy)
    set_now(app, NOW)
    chen = sign_in(app, cast.users["chen"], language="en")
    address = f"/usage/allocations/{town.own['allocation_id']}"
    assert "2 of 20,000 H800 GPU-hours are metered" in words(chen.get(address))
    (row,) = csv.DictReader(io.StringIO(chen.get(f"{address}.csv").text.removeprefix("\ufeff")))
    assert (row["used_gpu_seconds"], row["used_so_far_gpu_seconds"]) == ("7200", "7200")
    assert chen.get(f"/usage/allocations/{town.foreign['allocation_id']}.csv").status_code == 404
