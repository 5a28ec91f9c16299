"""What lies on the desks of the demo city: enterprises that wait, requests in every state, an appeal, an announcement.

`before` happens when the city opens, `after` when its two months have been lived; all of it by the portal's own verbs.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import typst

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import changes, requests
from compute_portal.allocations import service as allocations
from compute_portal.allocations.changes import Wish as Change
from compute_portal.allocations.models import Allocation
from compute_portal.allocations.requests import Answers, Beginning
from compute_portal.allocations.states import ChangeKind
from compute_portal.announcements import service as announcements
from compute_portal.announcements.service import NewAnnouncement
from compute_portal.announcements.states import EVERYBODY
from compute_portal.budgets import service as budgets
from compute_portal.db import Session
from compute_portal.enterprises import membership
from compute_portal.enterprises import service as enterprises
from compute_portal.enterprises.states import SizeClass
from compute_portal.ledger.queries import Balance, balance
from compute_portal.policy import Policy
from compute_portal.programmes.rules import usual_rules
from compute_portal.review import appeals, letters
from compute_portal.review import service as review
from compute_portal.subsidies import examples

from .town import Town

PROGRAMME = "tracks"
TEAM = "weilan"
SUSPENDED = "qingtan"
POOL = "H20"
DAY = dt.timedelta(days=1)
FIELDS = {
    "model": "7B 解码器，继续预训练",
    "dataset": "自有业务数据 1,200 小时，已脱敏",
    "result": "四个月后用于现有产品，评测报告公开",
}
USED_PERCENT = (92, 77)  # of two allocations whose firms gave back what they do not need: alerts at 90 and 75


@dataclass
class Office:
    """The city's town and policy, and the two operators who decide."""

    town: Town
    policy: Policy
    password_hash: str

    @property
    def reviewers(self) -> tuple[Actor, Actor]:
        first, second, *_ = [actor for actor in self.town.officials.values() if Role.OPERATOR in actor.roles]
        return first, second

    # -- requests

    def draft(self, firm: str, title: str, hours: int, days: int, at: dt.datetime) -> int:
        beginning = Beginning(
            self.town.programmes[PROGRAMME], self.town.pools[POOL], units.gpu_seconds(hours), clock.day_of(at),
            clock.day_of(at) + (days - 1) * DAY,
        )  # fmt: skip
        by = self.town.firms[firm].manager

        def work(session: Session) -> int:
            id = requests.start(session, beginning, by=by, now=at).id
            return requests.save(session, id, {"title": title}, by=by, now=at).id

        return self.town.transact(work)

    def submit(self, firm: str, id: int, title: str, hours: int, at: dt.datetime, **more: str) -> None:
        """Hand it in, for the first time or again. A small one is awarded at once."""
        by = self.town.firms[firm].manager

        def work(session: Session) -> None:
            asked = session.get_one(Allocation, id)
            said = {"title": title} | FIELDS | more
            purpose = "训练自有模型，结果用于现有产品。"
            answers = Answers(units.gpu_seconds(hours), asked.starts_on, asked.ends_on, purpose, said)
            requests.submit(session, id, answers, by=by, now=at)

        self.town.transact(work)

    def ask(self, firm: str, title: str, hours: int, days: int, at: dt.datetime) -> int:
        """A request that is handed in; a large one with its work plan."""
        id = self.draft(firm, title, hours, days, at)
        if hours > 20_000:
            self.do(
                lambda session: requests.attach(
                    session, id, name="工作计划.pdf", content=_paper("工作计划", title), kind="plan",
                    policy=self.policy.files, by=self.town.firms[firm].manager, now=at,
                )
            )  # fmt: skip
        self.submit(firm, id, title, hours, at)
        return id

    def approve(self, id: int, hours: int, by: Actor, at: dt.datetime, reason: str = "") -> None:
        self.do(
            lambda session: review.approve(
                session, id, awarded_gpu_seconds=units.gpu_seconds(hours), reason_code="size" if reason else None,
                reason=reason, checked=(), ends_soon_confirmed=True, policy=self.policy, by=by, now=at,
            )
        )  # fmt: skip

    def decline(self, id: int, reason: str, at: dt.datetime) -> None:
        by = self.reviewers[0]
        self.do(
            lambda session: review.decline(
                session, id, reason_code="incomplete", reason=reason, policy=self.policy, by=by, now=at
            )
        )

    def ask_changes(self, id: int, reason: str, at: dt.datetime) -> None:
        by = self.reviewers[0]
        self.do(lambda session: review.ask_changes(session, id, reason=reason, by=by, now=at))

    def do(self, work: Callable[[Session], object]) -> None:
        def once(session: Session) -> None:
            work(session)

        self.town.transact(once)


# -- when the city opens


def before(office: Office, start: dt.datetime, now: dt.datetime) -> None:
    """A programme with tracks, a sponsored team with hours, a large award whose report falls due in some days.

    And the voucher schemes of other cities, as examples.
    """
    town = office.town
    first = clock.day_of(start).replace(day=1)
    office.do(lambda session: examples.load(session, from_on=first, by=SYSTEM, now=start))
    rules = usual_rules()
    *small, large = rules.tracks
    rules = dataclasses.replace(
        rules,
        tracks=(*small, dataclasses.replace(large, needs_earlier_use=False)),
        subsidy_percent={"micro": 70, "small": 50, "medium": 30},
    )
    town.programme(
        PROGRAMME, "智算起步计划", "First steps in compute", pools=(POOL,), gpu_seconds=units.gpu_seconds(3_000_000),
        ends_on=clock.day_of(start) + 300 * DAY, most_gpu_seconds=rules.largest.most_gpu_seconds,
        booking_approval_gpu_seconds=units.gpu_seconds(30_000), rules=rules,
    )  # fmt: skip
    town.team(
        TEAM, "蔚蓝声学团队", "Weilan Acoustics", ("manager@weilan.demo", "纪蔚", "Ji Wei"), "beiyu",
        password_hash=office.password_hash, checked="与依托企业的协议有效。",
    )  # fmt: skip
    town.firm(
        SUSPENDED, "青檀数据", "Qingtan Data", [("manager@qingtan.demo", "严檀", "Yan Tan")],
        password_hash=office.password_hash, checked="执照与信用代码一致。",
    )  # fmt: skip
    town.allocations[TEAM, POOL] = office.ask(TEAM, "海底声纹识别", 3_000, 92, start)
    lived = (clock.day_of(now) - clock.day_of(start)).days
    staged = office.ask("xingcha", "遥感基座第三阶段", 60_000, min(180, 2 * (lived + 6)), start)
    one, other = office.reviewers
    office.approve(staged, 60_000, one, start + DAY)
    office.approve(staged, 50_000, other, start + 2 * DAY, "先按数据量核定，进展报告后可追加。")
    # A small one that has ended by now; the calendar closes it.
    office.ask("mufeng", "降水临近预报评测", 1_200, 20, start)


# -- after two months


def after(office: Office, now: dt.datetime) -> None:
    _enterprises(office, now)
    _requests(office, now)
    _budgets(office, now)
    announcements_at = now - DAY
    asked = NewAnnouncement(
        (EVERYBODY,), "H800 部分节点将检修液冷管路，时段见资源池页面；已确认的预约不受影响。",
        "The cooling of some H800 nodes is serviced; the pool’s page says when. Confirmed bookings are not affected.",
        announcements_at, now + 6 * DAY,
    )  # fmt: skip
    by = office.town.bureau[Role.OPERATOR]
    office.do(lambda session: announcements.publish(session, asked, by=by, now=announcements_at))


def _enterprises(office: Office, now: dt.datetime) -> None:
    """One waits for verification with its licence, a team waits for its sponsor, one is suspended, one invites."""
    town = office.town
    waiting, manager = town.applicant(
        "澄海具身智能", "Chenghai Embodied", ("manager@chenghai.demo", "程海", "Cheng Hai"), SizeClass.SMALL,
        password_hash=office.password_hash, now=now - 30 * clock.HOUR,
    )  # fmt: skip
    office.do(
        lambda session: enterprises.attach(
            session, waiting, kind="business_licence", name="营业执照.pdf", content=_paper("营业执照", "澄海具身智能"),
            policy=office.policy.files, by=manager, now=now - 29 * clock.HOUR,
        )
    )  # fmt: skip
    town.applicant(
        "拾光影像团队", "Shiguang Imaging", ("manager@shiguang.demo", "时光", "Shi Guang"), SizeClass.MICRO,
        sponsor="beiyu", password_hash=office.password_hash, now=now - 5 * clock.HOUR,
    )  # fmt: skip
    by = town.bureau[Role.OPERATOR]
    office.do(
        lambda session: enterprises.suspend(
            session, town.firms[SUSPENDED].id, reason="法定代表人变更，待更新执照后恢复。", by=by, now=now - 3 * DAY
        )
    )
    office.do(
        lambda session: membership.invite(
            session, "ling@yusheng.demo", role=Role.MEMBER, language="zh", policy=office.policy.enterprises,
            by=town.firms["yusheng"].manager, now=now - 4 * clock.HOUR,
        )
    )  # fmt: skip


def _requests(office: Office, now: dt.datetime) -> None:
    """One in each state; the dates are such that one is late, and one was appealed yesterday."""
    first, second = office.reviewers
    town = office.town
    office.draft("qingwu", "问诊对话模型", 8_000, 60, now - 2 * clock.HOUR)
    office.ask("luyu", "多相机感知训练", 12_000, 80, now - 20 * clock.HOUR)
    office.ask("zhuzhao", "习题批改模型", 15_000, 60, now - 11 * DAY)  # three working days are long over
    waits = office.ask("fanying", "海图目标检测", 16_000, 80, now - 3 * DAY)
    office.ask_changes(waits, "请写明数据来源和授权。", now - 2 * DAY)
    again = office.ask("hexin", "病虫害图像微调", 18_000, 80, now - 5 * DAY)
    office.ask_changes(again, "请按模型规模说明为什么要这么多卡时。", now - 4 * DAY)
    office.submit(
        "hexin", again, "病虫害图像微调", 14_000, now - 3 * DAY, model="1.3B 视觉模型，利用率按 40% 估算",
    )  # fmt: skip
    large = office.ask("beiyu", "蛋白结构预测第二阶段", 90_000, 120, now - 4 * DAY)
    office.approve(large, 80_000, first, now - 2 * DAY, "按模型规模估算。")  # one of two; the second has not decided
    part = office.ask("tinglan", "影像分割训练", 10_000, 80, now - 6 * DAY)
    office.approve(part, 7_000, second, now - 5 * DAY, "中期可再申请。")
    declined = office.ask("shiliu", "合同审阅微调", 12_000, 80, now - 9 * DAY)
    office.decline(declined, "数据授权文件缺失。", now - 7 * DAY)
    office.do(
        lambda session: appeals.file(
            session, declined, text="授权文件已补签，随附于申请材料。", policy=office.policy.review,
            by=town.firms["shiliu"].manager, now=now - DAY,
        )
    )  # fmt: skip
    gone = office.ask("wangshu", "抓取策略对比", 6_000, 60, now - 8 * DAY)
    by = town.firms["wangshu"].manager
    office.do(lambda session: allocations.withdraw(session, gone, by=by, now=now - 7 * DAY))


def _budgets(office: Office, now: dt.datetime) -> None:
    """Two firms gave back what they do not need, so that little is left; a third one limits its members."""
    town = office.town
    with town.database.read_only() as session:
        found = {id: balance(session, id) for id in town.allocations.values()}
    firm_of = {id: firm for (firm, _pool), id in town.allocations.items() if firm not in ("yusheng", "beiyu")}
    # At some hours of the day all that a firm has left is held: it has nothing to give back then.
    can_give = [id for id in firm_of if found[id].used and found[id].available]
    nearly = sorted(can_give, key=lambda id: _spent(found[id]), reverse=True)
    for id, percent in zip(nearly, USED_PERCENT, strict=False):
        too_much = min(found[id].awarded - found[id].used * 100 // percent, found[id].available)
        if too_much > 0:
            change = Change(ChangeKind.REDUCTION, "项目提前完成，余下的卡时退回。", too_much)
            _ask_change(office, firm_of[id], id, change, now - DAY)
    allocation = town.allocations["beiyu", "910B"]
    firm = town.firms["beiyu"]
    people = [actor.user_id for actor in firm.members if actor.user_id is not None]
    tenth = found[allocation].awarded // 10
    office.do(
        lambda session: budgets.set_budgets(
            session, allocation, of={people[1]: 4 * tenth, people[2]: 3 * tenth}, reserve=tenth // 2, members=people,
            by=firm.manager, now=now - 2 * DAY,
        )
    )  # fmt: skip


def _ask_change(office: Office, firm: str, allocation_id: int, change: Change, at: dt.datetime) -> None:
    by = office.town.firms[firm].manager
    office.do(lambda session: changes.request(session, allocation_id, change, by=by, now=at))


def _spent(balance: Balance) -> float:
    return balance.used / (balance.used + balance.held)


def _paper(title: str, text: str) -> bytes:
    """A one-page PDF, as somebody would scan it. The words come from this file."""
    source = (
        f'#set page(width: 120mm, height: 80mm)\n#set text(font: "Noto Sans CJK SC")\n= {title}\n{text}\n\n（演示文件）'
    )
    fonts = typst.Fonts(include_system_fonts=False, font_paths=[str(letters.FONTS)])
    return typst.compile(source.encode(), font_paths=fonts)
