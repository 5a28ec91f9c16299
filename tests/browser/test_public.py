"""Somebody who never signed in: what the city has, what is planned, which figures it answers for; and the way in."""

from __future__ import annotations

from collections.abc import Callable

from compute_portal import clock
from compute_portal.commons import service
from compute_portal.commons.service import DatasetText
from compute_portal.commons.states import Tier
from compute_portal.policy import load_policy
from scheduler import figures
from scheduler.context import simulation
from tests.browser.house import POLICY, House, award
from tests.browser.visitor import Visitor

CATALOGUED = DatasetText(
    "公交到站", "Bus arrivals", "交通运输局", "Transport bureau", Tier.OPEN, "直接下载。", "Download it."
)


def test_the_public_reads_the_citys_compute_and_finds_the_way_in(house: House, visit: Callable[..., Visitor]) -> None:
    award(house.town, 4_000)
    by, now = house.town.bureau["operator"], clock.now()
    house.database.transaction(lambda s: service.list_dataset(s, CATALOGUED, by=by, now=now).id)
    context = simulation(house.database, load_policy(POLICY))
    figures.run(context, now)
    figures.look(context, now)
    context.leader.release()

    guest = visit()
    guest.open("/")
    assert "H800" in guest.text and "¥16.50" in guest.text and "31.6 P" in guest.text
    guest.follow("Programmes", within="header .nav-main")
    assert guest.words_n("within one working day", "within %(num)s working days", 3) in guest.text
    guest.follow("Datasets", within="header .nav-main")
    assert ("公交到站" in guest.text) and ("Bus arrivals" in guest.text)
    guest.follow("Pools and prices", within="header .nav-main")
    assert "989" in guest.text and guest.sees("FP16, dense")
    guest.follow("Public figures", within="header .nav-main")
    guest.page.locator("summary", has_text=guest.words("Definition and data")).first.click()
    with guest.page.expect_download() as download:
        guest.page.get_by_role("link", name="time-to-permit.csv").click()
    assert download.value.suggested_filename == "time-to-permit.csv"
    guest.follow("Home", within="header .nav-main")
    guest.follow("Sign in", within="header .nav-side")
    assert guest.page.url.endswith("/sign-in")
