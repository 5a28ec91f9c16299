"""The cast everybody knows: two startups, the bureau's people, one pool of four nodes, a programme with hours.

`NOW` is a Wednesday morning in Shanghai. Verbs take `now`, so tests move it by hand.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import service as allocations
from compute_portal.allocations.service import AllocationRequest
from compute_portal.bookings import service as bookings
from compute_portal.bookings.service import BookingRequest
from compute_portal.bookings.states import BookingKind
from compute_portal.db import Database
from compute_portal.enterprises import service as enterprises
from compute_portal.enterprises.models import Enterprise
from compute_portal.enterprises.service import Particulars
from compute_portal.enterprises.states import SizeClass
from compute_portal.lifecycle import begin
from compute_portal.policy import BookingPolicy
from compute_portal.pools import service as pools
from compute_portal.pools.models import Limit
from compute_portal.programmes import service as programmes
from compute_portal.signin.models import BureauRole, User

NOW = dt.datetime(2026, 11, 18, 2, 0, tzinfo=dt.UTC)  # Wednesday 10:00 in Shanghai
HOUR = dt.timedelta(hours=1)


@dataclass
class Cast:
    """Ids and actors; rows are loaded by whoever needs them."""

    database: Database
    now: dt.datetime = NOW
    yusheng: int = 0  # 屿声科技, a startup
    luyu: int = 0  # 鹭屿视觉, another startup
    pool: int = 0
    programme: int = 0
    allocation: int = 0  # of Yusheng, 20,000 GPU-hours
    other_allocation: int = 0  # of Luyu
    users: dict[str, int] = field(default_factory=dict)

    def actor(self, name: str) -> Actor:
        enterprise = {"lin": self.yusheng, "chen": self.yusheng, "mei": self.luyu, "tang": self.luyu}.get(name)
        return Actor.of(self.users[name], frozenset({ROLES[name]}), enterprise)

    @property
    def manager(self) -> Actor:
        """Lin Xiaohe, manager of Yusheng."""
        return self.actor("lin")

    @property
    def member(self) -> Actor:
        """Chen Yi, member of Yusheng."""
        return self.actor("chen")

    @property
    def stranger(self) -> Actor:
        """Mei Lan, manager of Luyu: may never see Yusheng's rows."""
        return self.actor("mei")

    @property
    def operator(self) -> Actor:
        return self.actor("zhou")

    @property
    def finance(self) -> Actor:
        return self.actor("he")

    @property
    def auditor(self) -> Actor:
        return self.actor("xu")

    def flexible(self, gpus: int = 4, hours: float = 2, **changes: object) -> BookingRequest:
        values: dict[str, object] = {
            "allocation_id": self.allocation,
            "kind": BookingKind.FLEXIBLE,
            "title": "声码器对比实验",
            "gpus": gpus,
            "longest_seconds": int(hours * 3600),
        }
        return BookingRequest(**(values | changes))  # type: ignore[arg-type]

    def fixed(self, gpus: int = 8, start_in: int = 10, hours: int = 2, **changes: object) -> BookingRequest:
        """Starts on the hour, `start_in` hours from now."""
        start = clock.ceil_hour(self.now) + start_in * HOUR
        values: dict[str, object] = {
            "allocation_id": self.allocation,
            "kind": BookingKind.FIXED,
            "title": "语音基座第三阶段",
            "gpus": gpus,
            "starts_at": start,
            "ends_at": start + hours * HOUR,
        }
        return BookingRequest(**(values | changes))  # type: ignore[arg-type]

    def submit(
        self, asked: BookingRequest, policy: BookingPolicy, *, by: Actor | None = None, now: dt.datetime | None = None
    ) -> int:
        return self.database.transaction(
            lambda s: bookings.submit(s, asked, by=by or self.member, policy=policy, now=now or self.now).id
        )

    def limit(self, enterprise_id: int, gpus: int) -> None:
        self.database.transaction(lambda s: s.add(Limit(enterprise_id=enterprise_id, pool_id=self.pool, gpus=gpus)))

    def award(self, enterprise_id: int, manager: str, hours: int, days: int = 60) -> int:
        """A whole allocation: asked by the enterprise's manager, approved by the operator."""

        def work(session: Session) -> int:
            today = clock.day_of(self.now)
            asked = AllocationRequest(
                programme_id=self.programme,
                pool_id=self.pool,
                gpu_seconds=units.gpu_seconds(hours),
                starts_on=today,
                ends_on=today + dt.timedelta(days=days),
                purpose="训练一个方言语音识别基座模型。",
            )
            allocation = allocations.request(session, asked, by=self.actor(manager), now=self.now)
            allocations.approve(
                session,
                allocation.id,
                awarded_gpu_seconds=asked.gpu_seconds,
                reason="",
                by=self.operator,
                now=self.now,
            )
            return allocation.id

        return self.database.transaction(work)


ROLES: dict[str, Role] = {
    "lin": Role.MANAGER,
    "chen": Role.MEMBER,
    "mei": Role.MANAGER,
    "tang": Role.MEMBER,
    "zhou": Role.OPERATOR,
    "wu": Role.OPERATOR,
    "he": Role.FINANCE,
    "xu": Role.AUDITOR,
    "an": Role.ADMIN,
}
NAMES = {
    "lin": ("林晓禾", "Lin Xiaohe"),
    "chen": ("陈屹", "Chen Yi"),
    "mei": ("梅岚", "Mei Lan"),
    "tang": ("唐一", "Tang Yi"),
    "zhou": ("周予安", "Zhou Yu’an"),
    "wu": ("吴深", "Wu Shen"),
    "he": ("何立群", "He Liqun"),
    "xu": ("徐静", "Xu Jing"),
    "an": ("安然", "An Ran"),
}


def make_cast(database: Database) -> Cast:
    cast = Cast(database)

    def people(session: Session) -> None:
        for key, (name, name_en) in NAMES.items():
            since = NOW - 30 * 24 * HOUR
            user = User(
                email=f"{key}@example.cn", name=name, name_en=name_en, language="zh", created_at=since,
                confirmed_at=since,
            )  # fmt: skip
            session.add(user)
            begin(session, user, verb="register", at=since, by=SYSTEM)
            cast.users[key] = user.id
            if ROLES[key] not in (Role.MANAGER, Role.MEMBER):
                session.add(BureauRole(user_id=user.id, role=ROLES[key], given_at=NOW))
        cast.yusheng = _firm(session, "屿声科技", "Yusheng Voice", "91440300708461136T").id
        cast.luyu = _firm(session, "鹭屿视觉", "Luyu Vision", "91110000600037341L").id
        for key, enterprise in (("lin", cast.yusheng), ("chen", cast.yusheng), ("mei", cast.luyu), ("tang", cast.luyu)):
            enterprises.add_member(session, enterprise, cast.users[key], ROLES[key], now=NOW)

    def city(session: Session) -> None:
        pool = pools.add_pool(
            session,
            name="H800",
            model="NVIDIA H800",
            tflops_fp16_dense=989,
            watts=700,
            gpus_per_node=8,
            nodes=4,
            by=SYSTEM,
            now=NOW - 30 * 24 * HOUR,
        )
        cast.pool = pool.id
        pools.set_tariff(
            session,
            pool.id,
            from_on=dt.date(2026, 1, 1),
            price_micro_yuan=units.parse_yuan("16.50"),
            by=cast.finance,
            now=NOW,
        )
        programme = programmes.open_programme(
            session,
            name="中小企业算力扶持计划",
            name_en="SME compute programme",
            starts_on=dt.date(2026, 1, 1),
            ends_on=dt.date(2027, 12, 31),
            pool_ids=[pool.id],
            most_gpu_seconds=units.gpu_seconds(150_000),
            booking_approval_gpu_seconds=units.gpu_seconds(2_000),
        )
        cast.programme = programme.id
        programmes.fund(session, programme.id, units.gpu_seconds(1_200_000), reference="2026", by=cast.finance, now=NOW)

    database.transaction(people)
    database.transaction(city)
    cast.allocation = cast.award(cast.yusheng, "lin", 20_000)
    cast.other_allocation = cast.award(cast.luyu, "mei", 5_000)
    return cast


def _firm(session: Session, name: str, name_en: str, code: str) -> Enterprise:
    said = Particulars(name, code, SizeClass.SMALL, name_en=name_en)
    firm = enterprises.register(session, said, by=SYSTEM, now=NOW)
    return enterprises.verify(session, firm.id, reason="执照与信用代码一致", required=(), by=SYSTEM, now=NOW)
