"""Money through pages: a month from its close to its payment, and changes of mind about a booking with their price.

What nobody looks at is done by the verbs and the timetable's functions, at instants that the test chooses.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import Role
from compute_portal.bookings import service as bookings
from compute_portal.bookings import waiting
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Database
from compute_portal.language import amount, hours, money
from compute_portal.statements import pdf
from compute_portal.usage import service as usage
from compute_portal.usage.models import Charge
from scheduler import changes, cycle, duties, metering, month_end
from scheduler.town import Town
from tests.browser.house import House, PostOffice, award
from tests.browser.visitor import Visitor

Visit = Callable[..., Visitor]
HOUR = clock.HOUR
PRICE = units.parse_yuan("16.50")
TAXED = 1060  # thousandths
FIXED_MOST = 16  # half of the pool's cards


def flexible(allocation_id: int, gpus: int, title: str) -> BookingRequest:
    return BookingRequest(allocation_id, BookingKind.FLEXIBLE, title, gpus, longest_seconds=2 * units.SECONDS_PER_HOUR)


def fixed(allocation_id: int, gpus: int, start: dt.datetime, title: str = "语音基座第三阶段") -> BookingRequest:
    return BookingRequest(allocation_id, BookingKind.FIXED, title, gpus, starts_at=start, ends_at=start + 4 * HOUR)


def book(town: Town, post: PostOffice, asked: BookingRequest, at: dt.datetime, firm: str = "yusheng") -> int:
    by, policy = town.firms[firm].members[-1], post.context.policy.bookings
    return town.transact(lambda session: bookings.submit(session, asked, by=by, policy=policy, now=at).id)


def use(town: Town, post: PostOffice, asked: BookingRequest, at: dt.datetime) -> int:
    """Two hours from `at` to the last second, charged."""
    booking_id = book(town, post, asked, at)
    for instant in (at, at + 2 * HOUR):
        cycle.run(post.context, instant)
        metering.run(post.context, instant)
    return booking_id


def correct(town: Town, booking_id: int, gpu_hours: int, at: dt.datetime) -> None:
    """An operator gives hours of the booking's first record back."""
    by = town.bureau[Role.OPERATOR]

    def work(session: Session) -> None:
        charge_id = session.scalars(
            sa.select(Charge.id).where(Charge.booking_id == booking_id).order_by(Charge.id)
        ).first()
        assert charge_id is not None
        usage.correct(session, charge_id, units.gpu_seconds(gpu_hours), reason="断网", by=by, now=at)

    town.transact(work)


def another_firm(town: Town, key: str, name: str, name_en: str) -> None:
    town.firm(key, name, name_en, [(f"who@{key}.test", "梅岚", "Mei Lan")])


def lines_of(visitor: Visitor, booking_id: int) -> str:
    link = visitor.page.locator(f"a[href$='/bookings/{booking_id}']")
    return "\n".join(visitor.page.locator(".sheet tbody tr", has=link).all_inner_texts())


def test_a_month_is_closed_returned_corrected_issued_disputed_credited_and_paid(
    house: House, visit: Visit, post: PostOffice, database: Database
) -> None:
    town, opened = house.town, house.town.opened_at
    town.official(Role.FINANCE, "su@bureau.test", "苏木", "Su Mu")
    allocation_id = award(town, 400, at=opened)
    kept = use(town, post, flexible(allocation_id, 8, "声码器对比实验"), opened + HOUR)
    wrong = use(town, post, flexible(allocation_id, 4, "消融实验"), opened + 4 * HOUR)
    month, over = clock.month_of(opened), clock.month_bounds(clock.month_of(opened))[1] + 3 * HOUR
    house.move_to(over)
    assert duties.close_months(post.context, over) == 1

    he, su, lin = visit("he@bureau.test"), visit("su@bureau.test"), visit("lin@yusheng.test")
    he.follow("Statements", within="header .nav-main")
    he.click(he.page.locator("tbody th a").first)
    sheet = he.page.url.removeprefix(house.address)
    assert he.sees_state("In review") and amount(16 * PRICE, he.language) in lines_of(he, kept)
    he.follow("Return")
    he.fill("Reason", "消融实验有一小时断网，先更正用量。")
    he.press("Return")
    assert he.sees_state("Returned") and he.sees("消融实验有一小时断网，先更正用量。")

    correct(town, wrong, 4, over)
    he.open(sheet)
    assert amount(-4 * PRICE, he.language) in lines_of(he, wrong)
    he.press("Close the month")
    he.press("Checked")
    assert he.page.locator(f"form[action='{sheet}/approve']").count() == 0  # not by who had it closed
    su.open(sheet)
    su.press("Approve")
    assert su.sees_state("Approved")
    su.follow("Issue")
    su.press("Issue")
    assert su.sees_state("Issued")
    payable = 20 * PRICE * TAXED // 1000
    assert money(payable, su.language) in su.page.locator(".sheet-total").inner_text()
    number = su.page.locator("dl.facts dd").first.inner_text()
    assert month_end.set_pdfs(post.context, over) == 1
    with database.read_only() as session:
        found = pdf.find(session, int(sheet.rsplit("/", 1)[1]))
    assert found is not None and lin.context.request.get(f"{sheet}/statement.pdf").body() == found

    lin.open(sheet)
    lin.follow("Dispute this line")
    lin.fill("What is wrong with this line", "节点当时重启，没有用上。")
    lin.press("Dispute this line")
    assert lin.sees_state("In dispute")
    he.open("/disputes")
    he.click(he.page.locator("tbody th a").first)
    he.page.get_by_label(he.words("Fully upheld"), exact=True).check()
    he.fill("Answer to the company", "属实，全部退回。")
    he.press("Send the answer")
    assert he.sees_state("Dispute upheld")
    lin.open(sheet)
    assert money(payable, lin.language) in lin.page.locator(".sheet-total").inner_text()  # it never changes

    he.open("/payments")
    for label, text in (
        ("Bank reference", "B-2026-1"), ("Paid on", clock.day_of(over).isoformat()),
        ("Amount", f"{units.yuan(payable):.2f}"), ("Payer", "屿声科技"), ("Remittance text", number),
    ):  # fmt: skip
        he.fill(label, text)
    he.press("Enter")
    lin.open(sheet)
    assert lin.sees_state("Settled")

    next_over = clock.month_bounds(clock.month_of(over))[1] + 3 * HOUR
    house.move_to(next_over)
    assert duties.close_months(post.context, next_over) == 1
    lin.context.add_cookies([{"name": "portal", "value": house.session_of("lin@yusheng.test"), "url": house.address}])
    lin.open("/statements")
    lin.click(lin.page.locator("tbody th a").first)
    assert clock.month_of(over) != month and lin.sees_state("In review")
    assert amount(-16 * PRICE, lin.language) in lines_of(lin, kept)


def test_cancelling_shows_its_price_first_and_what_comes_free_goes_down_the_wait_list(
    house: House, visit: Visit, post: PostOffice
) -> None:
    town, now = house.town, clock.now()
    another_firm(town, "luyu", "鹭屿视觉", "Luyu Vision")
    another_firm(town, "hexin", "禾芯农智", "Hexin AgriAI")
    start = clock.ceil_hour(now) + 30 * HOUR
    booking_id = book(town, post, fixed(award(town, 400), FIXED_MOST, start), now)
    luyu, hexin = award(town, 400, firm="luyu"), award(town, 400, firm="hexin")

    mei = visit("who@luyu.test")
    mei.open(f"/bookings/new?allocation_id={luyu}")
    mei.fill("Cards", str(FIXED_MOST))
    mei.fill("Start time", f"{start.astimezone(clock.SHANGHAI):%Y-%m-%d %H:%M}")
    mei.fill("End time", f"{(start + 4 * HOUR).astimezone(clock.SHANGHAI):%Y-%m-%d %H:%M}")
    mei.fill("Title", "多相机感知训练")
    mei.press("Check price")
    mei.press("Wait for this window")
    assert mei.heading == mei.words_n("One window is waited for", "%(num)s windows are waited for", 1)
    by, policy = town.firms["hexin"].manager, post.context.policy.bookings
    asked = fixed(hexin, FIXED_MOST, start, "病虫害图像微调")
    town.transact(lambda session: waiting.join(session, asked, by=by, policy=policy, now=now).id)

    chen = visit("chen@yusheng.test")
    chen.open(f"/bookings/{booking_id}")
    chen.follow("Cancel booking")
    chen.press("See what it costs now")
    quarter = 4 * FIXED_MOST // 4
    assert money(quarter * PRICE, chen.language) in chen.text
    chen.press("Cancel and pay %(hours)s GPU-hours", hours=hours(units.gpu_seconds(quarter), chen.language))
    assert chen.sees_state("Cancelled")

    mei.open("/bookings/wait-list")
    assert mei.heading == mei.words_n("One window is kept", "%(num)s windows are kept", 1)
    later = clock.now() + 61 * dt.timedelta(minutes=1)
    house.move_to(later)
    assert changes.run(post.context, later) == 1
    tian = visit("who@hexin.test")
    tian.open("/bookings/wait-list")
    tian.follow("Book it")
    tian.press("Book it")
    assert tian.sees_state("Confirmed")


def test_a_no_show_is_charged_in_part_and_waived_with_a_reason(house: House, visit: Visit, post: PostOffice) -> None:
    town, now = house.town, clock.now()
    start = clock.ceil_hour(now) + HOUR
    booking_id = book(town, post, fixed(award(town, 400), 8, start), now)
    cycle.run(post.context, start)
    late = start + dt.timedelta(minutes=31)
    changes.run(post.context, late)
    house.move_to(late)

    chen = visit("chen@yusheng.test")
    chen.open(f"/bookings/{booking_id}")
    assert chen.sees_state("No-show")
    zhou = visit("zhou@bureau.test")
    zhou.open("/strikes")
    zhou.page.locator("details summary", has_text=zhou.words("counts; waive it")).click()
    zhou.fill("Reason", "门禁故障，来人进不了机房。")
    zhou.press("Waive")
    chen.open("/strikes")
    assert "门禁故障，来人进不了机房。" in chen.text
