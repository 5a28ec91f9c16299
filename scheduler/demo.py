"""`python -m scheduler demo-city`: a city with two months of life, made by the portal's own verbs in virtual time.

Pools of about 2,100 P, a dozen start-ups, the bureau's people. It ends at the present moment: what runs then goes on
running, what waits goes on waiting, last month is closed and this one is a draft. The same seed gives the same city.
"""

from __future__ import annotations

import datetime as dt
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass

from compute_portal import clock, schema, units
from compute_portal.access import Actor, Role
from compute_portal.bookings import queries as booking_queries
from compute_portal.bookings import service as bookings
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Database, Session
from compute_portal.enterprises.states import SizeClass
from compute_portal.notices import queries as notice_queries
from compute_portal.notices import service as notices
from compute_portal.policy import Policy
from compute_portal.pools import queries as pool_queries
from compute_portal.pools import service as pools
from compute_portal.sentences import Refusal
from compute_portal.signin.passwords import hash_password
from config.settings import DEMO_PASSWORD

from . import alerts, cycle, demo_commons, demo_money, demo_office, duties, figures, reviews
from .context import simulation
from .demo_office import Office
from .town import Town
from .virtual import VirtualTime, Wish

SEED = 20_260

BUREAU: tuple[tuple[Role, str, str, str], ...] = (
    (Role.OPERATOR, "zhou@bureau.demo", "周予安", "Zhou Yu’an"),
    (Role.OPERATOR, "wu@bureau.demo", "吴深", "Wu Shen"),
    (Role.FINANCE, "he@bureau.demo", "何立群", "He Liqun"),
    (Role.FINANCE, "jing@bureau.demo", "徐静", "Xu Jing"),
    (Role.AUDITOR, "ouyang@bureau.demo", "欧阳捷", "Ouyang Jie"),
    (Role.ADMIN, "an@bureau.demo", "安然", "An Ran"),
)
FIRMS: tuple[tuple[str, str, str, SizeClass, tuple[tuple[str, str], ...]], ...] = (
    ("yusheng", "屿声科技", "Yusheng Voice", SizeClass.SMALL, (
        ("林晓禾", "Lin Xiaohe"), ("陈屹", "Chen Yi"), ("苏木", "Su Mu"),
    )),
    ("wangshu", "望舒机器人", "Wangshu Robotics", SizeClass.MEDIUM, (("顾望", "Gu Wang"), ("许诺", "Xu Nuo"))),
    ("fanying", "帆影海事", "Fanying Maritime", SizeClass.SMALL, (("沈舟", "Shen Zhou"), ("丁一帆", "Ding Yifan"))),
    ("hexin", "禾芯农智", "Hexin AgriAI", SizeClass.SMALL, (("田禾", "Tian He"), ("郭麦", "Guo Mai"))),
    ("tinglan", "听澜影像", "Tinglan Imaging", SizeClass.MICRO, (("江澜", "Jiang Lan"),)),
    ("zhuzhao", "烛照教育", "Zhuzhao Learning", SizeClass.SMALL, (("孟昭", "Meng Zhao"), ("罗晨", "Luo Chen"))),
    ("mufeng", "牧风气象", "Mufeng Weather", SizeClass.MICRO, (("高原", "Gao Yuan"),)),
    ("beiyu", "北屿生物", "Beiyu Bio", SizeClass.MEDIUM, (
        ("白露", "Bai Lu"), ("秦川", "Qin Chuan"), ("方舟", "Fang Zhou"),
    )),
    ("shiliu", "石榴法务", "Shiliu Legal Tech", SizeClass.MICRO, (("石榴", "Shi Liu"),)),
    ("luyu", "鹭屿视觉", "Luyu Vision", SizeClass.SMALL, (("梅岚", "Mei Lan"), ("唐一", "Tang Yi"))),
    ("xingcha", "星槎遥感", "Xingcha Sensing", SizeClass.MEDIUM, (("宋星", "Song Xing"), ("贺兰", "He Lan"))),
    ("qingwu", "青梧医疗", "Qingwu Health", SizeClass.SMALL, (("梁青", "Liang Qing"), ("叶梧", "Ye Wu"))),
)  # fmt: skip
TITLES = (
    "方言语音预训练", "声码器对比实验", "抓取策略训练", "海图目标检测", "病虫害图像微调",
    "影像分割训练", "习题批改模型", "短临降水预报", "蛋白结构预测", "合同审阅微调",
    "多相机感知训练", "遥感基座第二阶段", "问诊对话评测", "数据清洗与去重",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pool is and how the demo uses it: sizes of bookings in cards, median run in hours, how many in all."""

    name: str
    model: str
    tflops: int
    watts: int
    nodes: int
    yuan: str
    sizes: tuple[int, ...]
    median_hours: float
    bookings_a_day: float


POOLS = (
    PoolPlan("910B", "Ascend 910B", 320, 400, 512, "6.00", (64, 128, 256, 256, 512, 1024), 15, 10),
    PoolPlan("H800", "NVIDIA H800", 989, 700, 64, "16.50", (16, 32, 64, 64, 128, 128, 256), 9, 13),
    PoolPlan("H20", "NVIDIA H20", 148, 400, 240, "7.80", (32, 64, 128, 128, 256, 384), 12, 10),
)
PROGRAMMES = {
    "sme": ("中小企业算力扶持计划", "SME compute programme", ("910B", "H800", "H20"), 12_000_000),
    "chips": ("国产算力适配计划", "Domestic chips programme", ("910B",), 12_000_000),
}
OVER_WHICH_AN_OPERATOR_DECIDES = units.gpu_seconds(30_000)


def is_empty(database: Database) -> bool:
    """Nothing was ever put into this database (migrated or not)."""
    with database.engine.connect() as connection:
        if schema.current(connection) is None:
            return True
    with database.read_only() as session:
        return not pool_queries.list_pools(session)


def build(database: Database, policy: Policy, now: dt.datetime) -> None:
    """Fill an empty, migrated database with the city as it stands at `now`."""
    start = clock.month_bounds(clock.previous_month(clock.month_of(now)))[0]
    town = _people_and_pools(database, start)
    office = Office(town, policy, hash_password(DEMO_PASSWORD))
    demo_office.before(office, start, now)
    demo_money.before(office, start)
    chance = random.Random(SEED)  # noqa: S311 - a demo that is the same every time
    _allocations(town, start, now)
    context = simulation(database, policy)
    virtual = VirtualTime(context, policy, metering_hours=6)
    _operators(town, virtual, start, now)
    demo_money.during(office, virtual, now)
    virtual.run(_wishes(town, chance, start, now), start, now, lambda _n: None)
    _unfinished_business(town, policy, now)
    demo_office.after(office, now)
    demo_money.after(office, context, now)
    duties.close_allocations(context, now)
    reviews.run(context, now)
    alerts.run(context, now)
    cycle.write_standings(context, now)
    demo_commons.fill(town, policy, now)
    figures.run(context, now)
    figures.look(context, now)
    _old_mail(town, now)
    context.leader.release()


def _email(firm: str, index: int) -> str:
    return f"{('manager', 'member')[min(index, 1)]}{index if index > 1 else ''}@{firm}.demo"


def _people_and_pools(database: Database, start: dt.datetime) -> Town:
    town = Town(database, start)
    password = hash_password(DEMO_PASSWORD)
    for role, email, name, name_en in BUREAU:
        town.official(role, email, name, name_en, password)
    for plan in POOLS:
        town.pool(
            plan.name, model=plan.model, tflops=plan.tflops, watts=plan.watts, nodes=plan.nodes, gpus_per_node=8,
            yuan=plan.yuan, source=demo_commons.SOURCE,
        )  # fmt: skip
    for key, (name, name_en, names, hours) in PROGRAMMES.items():
        town.programme(
            key, name, name_en, pools=names, gpu_seconds=units.gpu_seconds(hours),
            ends_on=clock.day_of(start) + dt.timedelta(days=300),
            most_gpu_seconds=units.gpu_seconds(1_200_000), booking_approval_gpu_seconds=OVER_WHICH_AN_OPERATOR_DECIDES,
        )  # fmt: skip
    for key, name, name_en, size_class, people in FIRMS:
        emails = [(_email(key, index), *each) for index, each in enumerate(people)]
        town.firm(
            key, name, name_en, emails, size_class=size_class, password_hash=password, checked="执照与信用代码一致。"
        )
    h800 = town.pools["H800"]
    for key in ("yusheng", "wangshu", "beiyu"):
        town.transact(lambda session, key=key: pools.set_limit(session, town.firms[key].id, h800, 256))  # type: ignore[misc]
    return town


def _allocations(town: Town, start: dt.datetime, now: dt.datetime) -> None:
    """Every firm has hours in two pools, a few more in the third; some were awarded less than they asked for."""
    first = clock.day_of(start)
    for index, (key, _name, _name_en, size_class, _people) in enumerate(FIRMS):
        scale = {"micro": 1, "small": 2, "medium": 4, "large": 8}[size_class.value]
        for place, plan in enumerate(POOLS):
            if (index + place) % 3 == 2 and key != "yusheng":
                continue
            programme = "chips" if plan.name == "910B" and index % 2 else "sme"
            hours = scale * {"910B": 250_000, "H800": 60_000, "H20": 100_000}[plan.name]
            ends_on = first + dt.timedelta(days=(91, 182)[(index + place) % 2])
            id = town.ask(
                key, programme, plan.name, units.gpu_seconds(hours), starts_on=first, ends_on=ends_on, now=start,
                purpose="训练和评测自有模型，数据来自本公司业务，成果用于现有产品。",
            )  # fmt: skip
            part = hours * 4 // 5 if index % 4 == 3 else hours
            town.award(
                key, plan.name, id, units.gpu_seconds(part), "" if part == hours else "按模型规模估算，中期可再申请。",
                start + dt.timedelta(hours=2),
            )  # fmt: skip


def _operators(town: Town, virtual: VirtualTime, start: dt.datetime, now: dt.datetime) -> None:
    """An operator decides twice on every working day, but not today; nodes fail and come back."""
    by = town.bureau[Role.OPERATOR]

    def decide(at: dt.datetime) -> None:
        with town.database.read_only() as session:
            waiting = [row.booking.id for row in booking_queries.list_to_approve(session)]
        for booking_id in waiting:
            town.transact(lambda session, id=booking_id: bookings.approve(session, id, by=by, now=at).id)  # type: ignore[misc]

    day = clock.day_of(start)
    while day < clock.day_of(now):
        if day.weekday() < 5:
            virtual.at(clock.start_of_day(day) + dt.timedelta(hours=9, minutes=40), decide)
            virtual.at(clock.start_of_day(day) + dt.timedelta(hours=15, minutes=20), decide)
        day += dt.timedelta(days=1)
    virtual.at(now - dt.timedelta(days=2, hours=3), lambda at: _drain(town, "H20", (203, 204), by, at))
    virtual.at(now - dt.timedelta(days=1, hours=7), lambda at: _drain(town, "910B", (97,), by, at))


def _drain(town: Town, pool: str, positions: tuple[int, ...], by: Actor, at: dt.datetime) -> None:
    with town.database.read_only() as session:
        nodes = pool_queries.node_ids(session, town.pools[pool])
    for position in positions:
        id = nodes[position % len(nodes)]
        town.transact(lambda session, id=id: pools.drain(session, id, why="更换网卡", by=by, now=at))  # type: ignore[misc]


def _wishes(town: Town, chance: random.Random, start: dt.datetime, now: dt.datetime) -> Iterator[Wish]:
    """Bookings of all pools in order of time: more by day than by night, more on working days."""
    streams = [_pool_wishes(town, chance, plan, start, now) for plan in POOLS]
    streams.append(_team_wishes(town, start, now))
    yield from heapq.merge(*(list(stream) for stream in streams), key=lambda wish: wish.at)


def _team_wishes(town: Town, start: dt.datetime, now: dt.datetime) -> Iterator[Wish]:
    """The sponsored team trains a little twice a week."""
    team, at = town.firms[demo_office.TEAM], start + dt.timedelta(days=1, hours=10)
    allocation_id = town.allocations[demo_office.TEAM, demo_office.POOL]
    while at < now:
        asked = BookingRequest(allocation_id, BookingKind.FLEXIBLE, "声纹编码器训练", 8, longest_seconds=10 * 3600)
        yield Wish(at, team.manager, asked, 7 * 3600, asked.title)
        at += dt.timedelta(days=3, hours=12)


def _pool_wishes(
    town: Town, chance: random.Random, plan: PoolPlan, start: dt.datetime, now: dt.datetime
) -> Iterator[Wish]:
    firms = [key for key, *_ in FIRMS if (key, plan.name) in town.allocations]
    weights = [{"micro": 1, "small": 2, "medium": 4, "large": 6}[each[3].value] for each in FIRMS if each[0] in firms]
    at = start + dt.timedelta(hours=9)
    while True:
        at += dt.timedelta(seconds=int(chance.expovariate(plan.bookings_a_day / 86_400)))
        local = at.astimezone(clock.SHANGHAI)
        if at >= now:
            return
        if chance.random() > (1.0 if 9 <= local.hour < 22 else 0.35) * (1.0 if local.weekday() < 5 else 0.6):
            continue
        key = chance.choices(firms, weights)[0]
        yield _wish(town, chance, plan, key, at.replace(microsecond=0))


def _wish(town: Town, chance: random.Random, plan: PoolPlan, key: str, at: dt.datetime) -> Wish:
    firm = town.firms[key]
    by = chance.choice(firm.members)
    gpus, title = chance.choice(plan.sizes), chance.choice(TITLES)
    hours = min(96.0, max(0.2, chance.lognormvariate(0, 0.9) * plan.median_hours))
    allocation_id = town.allocations[key, plan.name]
    if chance.random() < 0.06:
        begins = clock.ceil_hour(at) + dt.timedelta(hours=chance.randrange(6, 120))
        ends = begins + dt.timedelta(hours=max(2, int(hours)))
        asked = BookingRequest(allocation_id, BookingKind.FIXED, title, min(gpus, 128), begins, ends)
        return Wish(at, by, asked, None, title)
    longest = int(hours * chance.uniform(1.1, 2.4) * 3600) // 1800 * 1800 + 1800
    asked = BookingRequest(allocation_id, BookingKind.FLEXIBLE, title, gpus, longest_seconds=longest)
    return Wish(at, by, asked, int(hours * 3600), title)


def _old_mail(town: Town, now: dt.datetime) -> None:
    """What was told before today has gone by mail long ago."""
    with town.database.read_only() as session:
        old = notice_queries.due_ids(session, now=clock.start_of_day(clock.day_of(now)), limit=100_000)

    def sent(session: Session) -> None:
        for id in old:
            notices.mark_sent(session, id, now=now)

    town.transact(sent)


def _unfinished_business(town: Town, policy: Policy, now: dt.datetime) -> None:
    """What waits for somebody today: requests, large bookings, a maintenance window."""
    today = clock.day_of(now)
    for key, programme, pool, hours, ago in (
        ("wangshu", "sme", "H800", 48_000, 50),
        ("fanying", "chips", "910B", 18_000, 28),
        ("zhuzhao", "sme", "H20", 9_000, 5),
    ):
        town.ask(
            key, programme, pool, units.gpu_seconds(hours), starts_on=today, ends_on=today + dt.timedelta(days=90),
            now=max(town.opened_at, now - dt.timedelta(hours=ago)),
            purpose="训练操作策略模型：两千小时遥操作数据，结果用于装配线试点。", reviewed=True,
        )  # fmt: skip
    _large_booking(town, "hexin", policy, now)
    by = town.bureau[Role.OPERATOR]
    begins = clock.ceil_hour(now) + dt.timedelta(days=5)
    with town.database.read_only() as session:
        nodes = pool_queries.node_ids(session, town.pools["H800"])[-8:]

    def maintain(session: Session) -> None:
        pools.plan_maintenance(
            session, town.pools["H800"], node_ids=nodes, starts_at=begins, ends_at=begins + dt.timedelta(hours=8),
            reason="液冷管路检修", by=by, now=now,
        )  # fmt: skip

    try:
        town.transact(maintain)
    except Refusal as refusal:
        # A fixed booking may stand there; the city is the better for keeping it.
        if refusal.sentence.id != "maintenance-clashes":
            raise


def _large_booking(town: Town, key: str, policy: Policy, now: dt.datetime) -> None:
    """One above the threshold: it waits for an operator."""
    asked = BookingRequest(
        town.allocations[key, "910B"], BookingKind.FLEXIBLE, "病虫害大模型预训练", 1024, longest_seconds=48 * 3600
    )
    by = town.firms[key].members[0]
    town.transact(lambda session: bookings.submit(session, asked, by=by, policy=policy.bookings, now=now).id)
