"""The people around the path: a firm that comes by itself, small requests that nobody has to decide, large ones that
are released in halves. Chinese on SQLite; the firm's journey also in English on PostgreSQL, on phones.

Links are taken from letters that a real mail server received.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable

import pypdf
import pytest
from stdnum.cn import uscc

from compute_portal import clock, units
from compute_portal.access import Role
from compute_portal.allocations import requests
from compute_portal.allocations import review as steps_of
from compute_portal.allocations.requests import Answers, Beginning
from compute_portal.allocations.review import Step
from compute_portal.db import Database, Session
from compute_portal.language import Language, day, gettext, hours, say
from compute_portal.ledger.queries import balance
from compute_portal.policy import load_policy
from compute_portal.programmes import service as programmes
from compute_portal.programmes.rules import usual_rules
from compute_portal.programmes.states import FIELDS
from compute_portal.sentences import Sentence
from scheduler.town import Town
from tests.browser.house import PASSWORD, POLICY, House, PostOffice
from tests.browser.visitor import Visitor

Visit = Callable[..., Visitor]
A_PDF = b"%PDF-1.4\n% a scan of the licence\n"
_CODE = "91990000MA7000042"
CREDIT_CODE = _CODE + str(uscc.calc_check_digit(_CODE))
TWO_ABOVE = units.gpu_seconds(10_000)


# -- a town with the usual rules


def three_tracks(town: Town) -> None:
    """S at once, M by one operator and above 10,000 GPU-hours by two, L by two in halves: version 2 of the rules."""

    def work(session: Session) -> None:
        id, now = town.programmes["sme"], clock.now()
        programmes.revise(session, id, usual_rules(), why="三档", by=town.bureau[Role.OPERATOR], now=now)
        look = Step(two_above_gpu_seconds=TWO_ABOVE, checklist=(("数据来源合法", "The data may be used"),))
        steps_of.set_flow(session, id, "M", [look], by=town.bureau[Role.ADMIN], now=now)

    town.transact(work)
    town.official(Role.OPERATOR, "fang@bureau.test", "方明远", "Fang Mingyuan")


def small_fund(town: Town, hours: int) -> None:
    """The same rules for a programme with so many GPU-hours; the firms' only one."""
    today = clock.day_of(clock.now())
    town.programme(
        "small", "创业券计划", "Voucher programme", pools=["H800"], gpu_seconds=units.gpu_seconds(hours),
        ends_on=today + dt.timedelta(days=200), most_gpu_seconds=units.gpu_seconds(20_000),
        booking_approval_gpu_seconds=units.gpu_seconds(2_000),
    )  # fmt: skip
    town.transact(
        lambda s: programmes.revise(
            s, town.programmes["small"], usual_rules(), why="三档", by=town.bureau[Role.OPERATOR], now=clock.now()
        )
    )
    town.firm("luyu", "鹭屿视觉", "Luyu Vision", [("mei@luyu.test", "梅岚", "Mei Lan")])


def give(town: Town, firm: str, programme: str, hours: int) -> None:
    today = clock.day_of(clock.now())
    id = town.ask(
        firm, programme, "H800", units.gpu_seconds(hours), purpose="检索模型训练。", starts_on=today,
        ends_on=today + dt.timedelta(days=60), now=clock.now(),
    )  # fmt: skip
    town.award(firm, "H800", id, units.gpu_seconds(hours), "", clock.now())


# -- what people do


def sign_up(person: Visitor, name: str, name_en: str, email: str) -> None:
    person.fill("Name", name)
    person.fill("Name in English", name_en)
    person.fill("E-mail", email)
    person.fill("Password", PASSWORD)
    person.press("Create the account")
    assert person.page.url.endswith("/sign-in")


def confirm(person: Visitor, email: str, post: PostOffice) -> None:
    """The link alone confirms nothing: whoever follows it signs in on the way."""
    person.open(post.link(email, person.words("Confirm your e-mail address")))
    person.fill("E-mail", email)
    person.fill("Password", PASSWORD)
    person.click(person.page.locator("main button[type=submit]"))
    person.press("Confirm the address")


def register(founder: Visitor) -> None:
    founder.follow("Register a company")
    founder.fill("Name as on the licence", "潮汐智能科技有限公司")
    founder.fill("English name", "Tidal Intelligence")
    founder.fill("Unified social credit code", CREDIT_CODE)
    founder.field("Size").select_option("small")
    founder.fill("Contact person", "沈知远")
    founder.fill("Telephone", "0592 123 4567")
    founder.fill("Address", "软件园三期 A06 栋")
    founder.press("Register this enterprise")
    assert founder.sees_state("Applied")
    assert founder.sees("Verification needs more")
    founder.field("File").set_input_files({"name": "营业执照.pdf", "mimeType": "application/pdf", "buffer": A_PDF})
    founder.press("Attach")
    assert founder.sees("Everything for the verification is here")


def verify(zhou: Visitor) -> None:
    zhou.open("/queue")
    zhou.click(zhou.page.locator("tbody th a").first)
    zhou.follow("Verify")
    zhou.fill("Reason", "名称、统一社会信用代码与营业执照一致。")
    zhou.press("Verify this enterprise")
    assert zhou.sees_state("Verified")


def invite(founder: Visitor, email: str) -> None:
    founder.open("/members")
    founder.follow("Invite somebody")
    founder.fill("E-mail", email)
    founder.press("Send the invitation")
    assert founder.reads("invitation-sent", address=email, n=7)


def begin(manager: Visitor, *, programme: str = "", hours: str = "", days: int = 90) -> str:
    """Rules and size first; then there is a draft, with its number."""
    today = clock.day_of(clock.now())
    manager.open(f"/allocations/request?programme_id={programme}" if programme else "/allocations/request")
    if hours:
        manager.fill("GPU-hours", hours)
    else:
        use_the_size_helper(manager)
    manager.fill("First day", today.isoformat())
    manager.fill("Last day", (today + dt.timedelta(days=days)).isoformat())
    manager.press("Begin the draft")
    return manager.page.url.split("/")[-2]


def use_the_size_helper(manager: Visitor) -> None:
    manager.fill("Parameters", "7")
    manager.fill("Training tokens", "400")
    manager.press("Work it out")
    manager.follow("Take this number")
    assert manager.field("GPU-hours").input_value() == "11,796.43"


def open_review(operator: Visitor, number: str) -> None:
    operator.open("/queue?kind=request")
    operator.click(operator.page.locator(f"tbody th a[href$='/reviews/{number}']"))


def agree(operator: Visitor, number: str, awarded: str) -> None:
    open_review(operator, number)
    for box in operator.page.locator("#checked input[type=checkbox]").all():
        box.check()
    operator.press("Approve %(hours)s GPU-hours", hours=awarded)


def letter_of(manager: Visitor) -> str:
    """The words of the letter as it is downloaded, without blanks: lines break where they like."""
    with manager.page.expect_download() as coming:
        manager.page.get_by_role("link", name=manager.words("Download the letter (PDF)")).click()
    pages = pypdf.PdfReader(io.BytesIO(coming.value.path().read_bytes())).pages
    return without_blanks("".join(page.extract_text() for page in pages))


def without_blanks(text: str) -> str:
    return "".join(text.split())


def rules_quoted(language: Language, programme: str, number: int) -> str:
    said = gettext(language, "Rules of %(programme)s, version %(number)s, in force from %(day)s.")
    today = day(clock.day_of(clock.now()), language)
    return without_blanks(said % {"programme": programme, "number": number, "day": today})


def test_a_firm_registers_is_verified_asks_twice_and_two_people_award_it(
    house: House, visit: Visit, post: PostOffice, database: Database
) -> None:
    three_tracks(house.town)
    phone = database.is_postgresql
    founder, email = visit(phone=phone), "shen@tidal.test"
    founder.open("/sign-in")
    founder.follow("Create an account")
    sign_up(founder, "沈知远", "Shen Zhiyuan", email)
    confirm(founder, email, post)
    register(founder)

    zhou = visit("zhou@bureau.test", phone=phone)
    verify(zhou)
    founder.open(
        post.link(email, say(Sentence("mail-enterprise-verified", enterprise="潮汐智能科技有限公司"), founder.language))
    )
    assert founder.sees_state("Verified")

    invite(founder, "gu@tidal.test")
    colleague = visit(phone=phone)
    colleague.open(post.link("gu@tidal.test", post.newest("gu@tidal.test")["Subject"]))
    colleague.follow("Sign up")
    sign_up(colleague, "顾南", "Gu Nan", "gu@tidal.test")
    confirm(colleague, "gu@tidal.test", post)
    colleague.press("Accept")
    assert colleague.reads("invitation-accepted")

    number = begin(founder)
    founder.fill("Name of the undertaking", "方言语音基座")
    founder.fill("What it is for", "训练一个方言语音识别基座模型。")
    founder.press("Submit the request")
    assert founder.sees_state("Submitted")

    open_review(zhou, number)
    zhou.fill("Reason (the company reads it)", "请写明数据来源。")
    zhou.press("Ask for changes")
    assert zhou.sees_state("Changes requested")
    founder.open(post.link(email, say(Sentence("told-changes", number=number), founder.language)))
    founder.follow("Go on writing")
    assert founder.page.url.endswith(f"/{number}/write") and "请写明数据来源。" in founder.text
    founder.fill("GPU-hours", "11000")
    founder.fill(FIELDS["dataset"], "自采方言语音 3,000 小时，均有授权。")
    founder.press("Submit again")
    assert founder.page.url.endswith(f"/{number}") and founder.sees_state("Submitted")

    open_review(zhou, number)
    zhou.follow("What changed since")
    assert zhou.page.locator("ins").all_inner_texts() == [
        zhou.words("%(hours)s GPU-hours", hours="11,000"), "自采方言语音 3,000 小时，均有授权。",
    ]  # fmt: skip
    agree(zhou, number, "11,000")
    assert zhou.sees_state("In review")
    zhou.page.reload()
    assert zhou.reads("review-said-already")
    agree(visit("fang@bureau.test", phone=phone), number, "11,000")

    awarded = Sentence("told-awarded", number=number, hours=units.gpu_seconds(11_000), asked=units.gpu_seconds(11_000))
    founder.open(post.link(email, say(awarded, founder.language)))
    assert founder.sees_state("Active")
    founder.follow("Review and letter")
    letter = letter_of(founder)
    assert f"{clock.day_of(clock.now()).year}-{int(number):06}-1" in letter
    assert rules_quoted("en", "SME compute programme", 2) in letter
    assert rules_quoted("zh", "中小企业算力扶持计划", 2) in letter
    colleague.open("/bookings/new")
    assert hours(units.gpu_seconds(11_000), colleague.language) in colleague.text


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_small_request_is_awarded_by_itself_until_the_last_tenth_of_the_pool(
    house: House, visit: Visit, database: Database
) -> None:
    town = house.town
    small_fund(town, 30_000)
    pair = f"{town.programmes['small']}:{town.pools['H800']}"
    lin = visit("lin@yusheng.test")
    begin(lin, programme=pair, hours="4999")
    lin.fill("What it is for", "声码器对比实验。")
    lin.press("Submit the request")
    assert lin.reads("request-awarded-at-once", hours=units.gpu_seconds(4_999))
    assert lin.sees_state("Active")

    give(town, "yusheng", "small", 20_000)
    give(town, "yusheng", "small", 2_001)  # a tenth is left: 3,000 of 30,000
    mei = visit("mei@luyu.test")
    number = begin(mei, programme=pair, hours="4999")
    mei.fill("What it is for", "图像检索实验。")
    mei.press("Submit the request")
    left = units.gpu_seconds(3_000)
    assert mei.reads("pool-guard", left=left, guard=left, percent=10)
    assert mei.sees_state("Submitted")
    zhou = visit("zhou@bureau.test")
    open_review(zhou, number)  # a person decides it now


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_of_a_large_request_the_other_half_comes_with_an_accepted_report(
    house: House, visit: Visit, database: Database
) -> None:
    town = house.town
    three_tracks(town)
    number = large_request(town, units.gpu_seconds(60_000))
    for email in ("zhou@bureau.test", "fang@bureau.test"):
        operator = visit(email)
        agree(operator, str(number), "60,000")
    assert operator.sees_state("Active")

    lin = visit("lin@yusheng.test")
    lin.open(f"/allocations/{number}")
    half = units.gpu_seconds(30_000)
    assert lin.heading == lin.words(
        "%(left)s of %(hours)s %(pool)s GPU-hours are left", left="30,000", hours="60,000", pool="H800"
    )
    assert lin.sees("Withheld until the report")
    lin.follow("Progress report")
    lin.fill("Report", "前 60 天用 32 卡完成预训练第一阶段，损失 2.31，下一阶段扩充方言数据。")
    lin.press("Hand in")
    assert lin.sees_state("Handed in")

    operator.open("/queue?kind=report")
    operator.click(operator.page.locator("tbody th a").first)
    assert operator.sees("Accepting releases the %(hours)s GPU-hours that are withheld.", hours="30,000")
    operator.press("Accept the report")
    assert operator.sees_state("Accepted")
    lin.open(f"/allocations/{number}")
    assert not lin.sees("Withheld until the report")
    with database.read_only() as session:
        assert balance(session, number).available == 2 * half


def large_request(town: Town, gpu_seconds: int) -> int:
    """Written and submitted by the verbs: what its track asks for is attached, and a benchmark for want of a past."""
    by, now = town.firms["yusheng"].manager, clock.now()
    first = clock.day_of(now)
    last = first + dt.timedelta(days=180)
    policy = load_policy(POLICY)
    fields = dict.fromkeys(("title", "model", "dataset", "result"), "方言语音基座，70 亿参数。")

    def work(session: Session) -> int:
        asked = Beginning(town.programmes["sme"], town.pools["H800"], gpu_seconds, first, last)
        draft = requests.start(session, asked, by=by, now=now)
        for kind in ("plan", "benchmark"):
            requests.attach(
                session, draft.id, name=f"{kind}.pdf", content=A_PDF, kind=kind, policy=policy.files, by=by, now=now
            )
        answers = Answers(gpu_seconds, first, last, "训练一个方言语音识别基座模型。", fields)
        return requests.submit(session, draft.id, answers, by=by, now=now).id

    return town.transact(work)
