"""A simulated town: people, firms and pools made with the portal's own verbs, and the members who act in virtual time.

Both `python -m scheduler simulate` (a real trace) and the demo city (a generated month) live in one. It knows services
and queries only; nothing here reaches around a rule.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from stdnum.cn import uscc

from compute_portal import clock, units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.allocations import review
from compute_portal.allocations import service as allocations
from compute_portal.allocations.service import AllocationRequest
from compute_portal.db import Database, Session
from compute_portal.enterprises import service as enterprises
from compute_portal.enterprises.models import Enterprise
from compute_portal.enterprises.service import Particulars
from compute_portal.enterprises.states import SizeClass
from compute_portal.pools import service as pools
from compute_portal.programmes import service as programmes
from compute_portal.programmes.rules import Rules
from compute_portal.signin import service as signin

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Firm:
    """An enterprise of the town with its manager and members."""

    id: int
    manager: Actor
    members: tuple[Actor, ...]


@dataclass
class Town:
    """The ids of what was built. `transact` runs one verb in one transaction, as the web process would."""

    database: Database
    opened_at: dt.datetime
    bureau: dict[Role, Actor] = field(default_factory=dict)
    officials: dict[str, Actor] = field(default_factory=dict)  # by e-mail, when a second one is wanted
    firms: dict[str, Firm] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    programmes: dict[str, int] = field(default_factory=dict)
    allocations: dict[tuple[str, str], int] = field(default_factory=dict)  # (firm, pool)
    codes: int = 0

    def transact(self, work: Callable[[Session], T]) -> T:
        return self.database.transaction(work)

    def person(
        self,
        email: str,
        name: str,
        name_en: str,
        roles: frozenset[Role] = frozenset(),
        password_hash: str | None = None,
    ) -> int:
        return self.transact(
            lambda session: signin.create_person(
                session, email=email, name=name, name_en=name_en, password_hash=password_hash, roles=roles,
                now=self.opened_at,
            ).id
        )  # fmt: skip

    def official(self, role: Role, email: str, name: str, name_en: str, password_hash: str | None = None) -> Actor:
        """One of the bureau's people; the first with a role acts for the bureau in the simulation."""
        actor = Actor.of(self.person(email, name, name_en, frozenset({role}), password_hash), frozenset({role}))
        self.bureau.setdefault(role, actor)
        self.officials[email] = actor
        return actor

    def firm(
        self,
        key: str,
        name: str,
        name_en: str,
        people: Sequence[tuple[str, str, str]],
        *,
        size_class: SizeClass = SizeClass.SMALL,
        password_hash: str | None = None,
        checked: str = "licence and credit code agree",
    ) -> Firm:
        """A verified enterprise; `people` are (e-mail, name, English name), the first one is its manager.

        `checked` is what the operator noted.
        """
        ids = [self.person(*each, password_hash=password_hash) for each in people]
        code = self._credit_code()

        def work(session: Session) -> int:
            said = Particulars(name, code, size_class, name_en=name_en)
            firm = enterprises.register(session, said, by=SYSTEM, now=self.opened_at)
            enterprises.verify(
                session, firm.id, reason=checked, required=(), by=self.bureau[Role.OPERATOR],
                now=self.opened_at,
            )  # fmt: skip
            for index, user_id in enumerate(ids):
                role = Role.MANAGER if index == 0 else Role.MEMBER
                enterprises.add_member(session, firm.id, user_id, role, now=self.opened_at)
            return firm.id

        id = self.transact(work)
        manager = Actor.of(ids[0], frozenset({Role.MANAGER}), id)
        members = [Actor.of(user_id, frozenset({Role.MEMBER}), id) for user_id in ids[1:]]
        self.firms[key] = Firm(id, manager, (manager, *members))
        return self.firms[key]

    def applicant(
        self,
        name: str,
        name_en: str,
        person: tuple[str, str, str],
        size_class: SizeClass,
        *,
        sponsor: str | None = None,
        password_hash: str | None = None,
        now: dt.datetime,
    ) -> tuple[int, Actor]:
        """An enterprise that has registered and waits; a team names the firm that sponsors it. Its id and manager."""
        founder = self.person(*person, password_hash=password_hash)

        def work(session: Session) -> int:
            code, sponsor_code = (
                (self._credit_code(), None) if sponsor is None else (None, self._code_of(session, sponsor))
            )
            said = Particulars(
                name, code, size_class, name_en=name_en, sponsor_code=sponsor_code, contact_name=person[1],
            )  # fmt: skip
            return enterprises.register(session, said, by=Actor.of(founder, frozenset()), now=now).id

        id = self.transact(work)
        return id, Actor.of(founder, frozenset({Role.MANAGER}), id)

    def _code_of(self, session: Session, firm: str) -> str | None:
        return session.get_one(Enterprise, self.firms[firm].id).credit_code

    def team(
        self,
        key: str,
        name: str,
        name_en: str,
        person: tuple[str, str, str],
        sponsor: str,
        *,
        password_hash: str | None = None,
        checked: str = "the agreement with the sponsor is valid",
    ) -> Firm:
        """A verified team without a credit code; its sponsor has taken it on."""
        id, manager = self.applicant(
            name, name_en, person, SizeClass.MICRO, sponsor=sponsor, password_hash=password_hash, now=self.opened_at
        )

        def work(session: Session) -> None:
            enterprises.confirm_sponsor(session, id, by=self.firms[sponsor].manager, now=self.opened_at)
            enterprises.verify(
                session, id, reason=checked, required=(), by=self.bureau[Role.OPERATOR], now=self.opened_at
            )

        self.transact(work)
        self.firms[key] = Firm(id, manager, (manager,))
        return self.firms[key]

    def _credit_code(self) -> str:
        """A made-up code with a right check digit: a region that is not in use, so that it is nobody's."""
        self.codes += 1
        body = f"91990000MA{self.codes:07}"
        return body + str(uscc.calc_check_digit(body))

    def pool(
        self,
        name: str,
        *,
        model: str,
        tflops: int,
        watts: int,
        nodes: int,
        gpus_per_node: int,
        yuan: str,
        source: str | None = None,
    ) -> int:
        """A pool, all nodes up, with a price since the day the town opened."""

        def work(session: Session) -> int:
            pool = pools.add_pool(
                session, name=name, model=model, tflops_fp16_dense=tflops, watts=watts, gpus_per_node=gpus_per_node,
                nodes=nodes, by=self.bureau[Role.OPERATOR], now=self.opened_at, tflops_source=source,
            )  # fmt: skip
            pools.set_tariff(
                session, pool.id, from_on=clock.day_of(self.opened_at), price_micro_yuan=units.parse_yuan(yuan),
                by=self.bureau[Role.FINANCE], now=self.opened_at,
            )  # fmt: skip
            return pool.id

        self.pools[name] = self.transact(work)
        return self.pools[name]

    def programme(
        self,
        key: str,
        name: str,
        name_en: str,
        *,
        pools: Sequence[str],
        gpu_seconds: int,
        ends_on: dt.date,
        most_gpu_seconds: int,
        booking_approval_gpu_seconds: int,
        rules: Rules | None = None,
    ) -> int:
        """A funded programme from the day the town opened."""

        def work(session: Session) -> int:
            programme = programmes.open_programme(
                session, name=name, name_en=name_en, starts_on=clock.day_of(self.opened_at), ends_on=ends_on,
                pool_ids=[self.pools[pool] for pool in pools], most_gpu_seconds=most_gpu_seconds,
                booking_approval_gpu_seconds=booking_approval_gpu_seconds, rules=rules,
            )  # fmt: skip
            programmes.fund(
                session, programme.id, gpu_seconds, reference="opening", by=self.bureau[Role.FINANCE],
                now=self.opened_at,
            )  # fmt: skip
            return programme.id

        self.programmes[key] = self.transact(work)
        return self.programmes[key]

    def ask(
        self,
        firm: str,
        programme: str,
        pool: str,
        gpu_seconds: int,
        *,
        purpose: str,
        starts_on: dt.date,
        ends_on: dt.date,
        now: dt.datetime,
        reviewed: bool = False,
    ) -> int:
        """The firm's manager asks for an allocation; it waits for the operator, or `reviewed` step by step."""
        asked = AllocationRequest(
            self.programmes[programme], self.pools[pool], gpu_seconds, starts_on, ends_on, purpose
        )
        by = self.firms[firm].manager

        def work(session: Session) -> int:
            allocation = allocations.request(session, asked, by=by, now=now)
            if reviewed:
                review.start(session, allocation, by=by, now=now)
            return allocation.id

        return self.transact(work)

    def award(self, firm: str, pool: str, allocation_id: int, gpu_seconds: int, reason: str, now: dt.datetime) -> None:
        """The operator approves it, whole or in part."""
        by = self.bureau[Role.OPERATOR]
        self.transact(
            lambda session: (
                allocations.approve(
                    session, allocation_id, awarded_gpu_seconds=gpu_seconds, reason=reason, by=by, now=now
                ).id
            )
        )
        self.allocations[firm, pool] = allocation_id

    def share(self, programme: str, firm: str, shares: int) -> None:
        self.transact(
            lambda session: programmes.set_share(session, self.programmes[programme], self.firms[firm].id, shares)
        )
