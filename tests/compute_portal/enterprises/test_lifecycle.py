"""Any verbs by anybody in any order: an enterprise is only ever where the table of states lets it be."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy.orm import Session

from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.enterprises import membership, service
from compute_portal.enterprises.models import Enterprise, Membership
from compute_portal.enterprises.service import Particulars
from compute_portal.enterprises.states import LIFE, DeclineReason, EnterpriseState, SizeClass
from compute_portal.lifecycle import HistoryEntry
from compute_portal.sentences import NotFound, Refusal
from compute_portal.signin.models import User
from tests.cast import NOW, Cast

CODES = ["914403001922038216", "91350100M0001TGQXM", "91440300708461136T", None]
NAMES = ["沐风气象", "听潮数据", "屿声科技"]
DECIDES = {"verify": Role.OPERATOR, "decline": Role.OPERATOR, "suspend": Role.OPERATOR, "resume": Role.OPERATOR}


class Lives(RuleBasedStateMachine):
    """Everybody of the cast and two newcomers try everything with every enterprise, whether they may or not."""

    cast: Cast

    def __init__(self) -> None:
        super().__init__()
        self.minute = 0
        self.people = [SYSTEM, *(self.cast.actor(name) for name in ("lin", "chen", "mei", "zhou", "wu", "he", "xu"))]
        self.new = [Actor.of(id, frozenset()) for id in self.cast.database.transaction(_newcomers)]
        self.seen = self._states()

    def _states(self) -> dict[int, EnterpriseState]:
        with self.cast.database.read_only() as session:
            return {row.id: row.state for row in session.execute(sa.select(Enterprise.id, Enterprise.state))}

    def _actor(self, who: int, enterprise_id: int) -> Actor:
        """A newcomer acts for the enterprise as whatever the rows say."""
        everybody = [*self.people, *self.new]
        by = everybody[who % len(everybody)]
        if by in self.new:
            with self.cast.database.read_only() as session:
                found = session.get(Membership, (by.user_id, enterprise_id))
                if found is not None and by.user_id is not None:
                    return Actor.of(by.user_id, frozenset({found.role}), enterprise_id)
        return by

    def _try(self, work: Callable[[Session, dt.datetime], Any]) -> bool:
        self.minute += 1
        now = NOW + dt.timedelta(minutes=self.minute)
        try:
            self.cast.database.transaction(lambda s: work(s, now) and None)
        except (Refusal, NotFound):
            return False
        return True

    def _one(self, which: int) -> int:
        ids = sorted(self.seen)
        return ids[which % len(ids)]

    @rule(who=st.integers(0, 9), name=st.sampled_from(NAMES), code=st.sampled_from(CODES))
    def register(self, who: int, name: str, code: str | None) -> None:
        by = [*self.people, *self.new][who % 10]
        sponsor = None if code else "91440300708461136T"
        said = Particulars(name, code, SizeClass.SMALL, sponsor_code=sponsor, as_on_licence=True)
        self._try(lambda s, now: service.register(s, said, by=by, now=now))

    @rule(
        who=st.sampled_from([0, 1, 4, 4, 4, 5, 6, 8, 9]),
        which=st.integers(0, 5),
        verb=st.sampled_from([*DECIDES, "admit", "sponsor"]),
    )
    def decide(self, who: int, which: int, verb: str) -> None:
        id = self._one(which)
        by = self._actor(who, id)
        verbs: dict[str, Callable[[Session, dt.datetime], Any]] = {
            "verify": lambda s, now: service.verify(s, id, reason="x", required=(), by=by, now=now),
            "decline": lambda s, now: service.decline(s, id, why=DeclineReason.OTHER, reason="x", by=by, now=now),
            "suspend": lambda s, now: service.suspend(s, id, reason="x", by=by, now=now),
            "resume": lambda s, now: service.resume(s, id, reason="x", by=by, now=now),
            "admit": lambda s, now: service.admit(s, id, reason="x", by=by, now=now),
            "sponsor": lambda s, now: service.confirm_sponsor(s, id, by=by, now=now),
        }
        done = self._try(verbs[verb])
        if done and verb in DECIDES and by is not SYSTEM:
            assert by.roles == {DECIDES[verb]}, "only operators decide"
            with self.cast.database.read_only() as session:
                assert session.get(Membership, (by.user_id, id)) is None, "nobody decides about the own enterprise"
                assert session.get_one(Enterprise, id).applied_by != by.user_id

    @rule(who=st.integers(0, 9), which=st.integers(0, 5), name=st.sampled_from(NAMES), code=st.sampled_from(CODES))
    def change(self, who: int, which: int, name: str, code: str | None) -> None:
        id = self._one(which)
        by = self._actor(who, id)
        sponsor = None if code else "91440300708461136T"
        said = Particulars(name, code, SizeClass.LARGE, sponsor_code=sponsor, as_on_licence=True)
        self._try(lambda s, now: service.change(s, id, said, by=by, now=now))

    @rule(who=st.integers(0, 9), which=st.integers(0, 5), whom=st.integers(0, 9), remove=st.booleans())
    def unseat(self, who: int, which: int, whom: int, remove: bool) -> None:
        id = self._one(which)
        by, other = self._actor(who, id), [*self.people, *self.new][whom % 10]
        if remove:
            self._try(lambda s, now: membership.remove_member(s, other.user_id or 0, by=by, now=now) or True)
        else:
            self._try(lambda s, now: membership.change_role(s, other.user_id or 0, role=Role.MEMBER, by=by, now=now))

    @invariant()
    def every_move_is_in_the_table_and_in_the_history(self) -> None:
        now = self._states()
        for id, state in now.items():
            before = self.seen.get(id)
            if before is None:
                assert state is EnterpriseState.APPLIED
            elif before is not state:
                assert LIFE.allows(before, state), f"{before} → {state}"
        self.seen = now
        with self.cast.database.read_only() as session:
            last: dict[int, str] = {}
            for entry in session.scalars(
                sa.select(HistoryEntry).where(HistoryEntry.kind == LIFE.kind).order_by(HistoryEntry.id)
            ):
                assert last.get(entry.subject_id) == entry.before
                last[entry.subject_id] = entry.after
            assert last == {id: state.value for id, state in now.items()}
            rows = session.scalars(sa.select(Enterprise)).all()
            for row in rows:
                if row.state is EnterpriseState.VERIFIED:
                    admitted = row.credit_code != "91350100M0001TGQXM" or row.code_admitted_at is not None
                    assert admitted, "an odd code was verified without being admitted"
                    assert row.credit_code or (row.sponsor_id and row.sponsor_confirmed_at)
            in_use = [row for row in rows if row.state is not EnterpriseState.DECLINED]
            codes = [row.credit_code for row in in_use if row.credit_code]
            assert len(codes) == len(set(codes)) and len(in_use) == len({row.name for row in in_use})
            managed = set(session.scalars(sa.select(Membership.enterprise_id).where(Membership.role == Role.MANAGER)))
            founded = {row.id for row in rows if row.applied_by is not None}
            assert founded <= managed, "an enterprise lost its last manager"


def _newcomers(session: Session) -> list[int]:
    """Each run of the machine has two of its own; the enterprises of earlier runs just stay."""
    many = session.scalar(sa.select(sa.func.max(User.id))) or 0
    people = [
        User(email=f"new{many}{n}@example.cn", name="新人", language="zh", created_at=NOW, confirmed_at=NOW)
        for n in (1, 2)
    ]
    session.add_all(people)
    session.flush()
    return [user.id for user in people]


def test_no_sequence_of_verbs_by_anybody_leads_where_the_table_does_not(cast: Cast) -> None:
    machine = type("LivesHere", (Lives,), {"cast": cast})
    few = 6 if cast.database.is_postgresql else 14
    run_state_machine_as_test(machine, settings=settings(max_examples=few, stateful_step_count=25, deadline=None))
