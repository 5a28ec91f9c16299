"""How enterprises register, are verified, suspended and changed, and what the bureau keeps about them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import clock, units
from compute_portal.access import ALLOWED, Actor, Permission, Role
from compute_portal.allocations.models import Allocation
from compute_portal.bookings import service as bookings
from compute_portal.enterprises import queries, service, standing
from compute_portal.enterprises.models import CreditBreach, Enterprise, Membership
from compute_portal.enterprises.queries import actor_for
from compute_portal.enterprises.service import Particulars, RelatedFirm
from compute_portal.enterprises.states import LIFE, DeclineReason, EnterpriseState, Relation, SizeClass
from compute_portal.files import queries as files
from compute_portal.lifecycle import list_history
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.sentences import NotFound, Refusal
from compute_portal.signin.models import User
from tests.cast import NOW, Cast

GOOD_CODE = "914403001922038216"
ODD_CODE = "91350100M0001TGQXM"  # was issued, its check digit does not fit
PDF = b"%PDF-1.7\n" + b"x" * 100
TODAY = clock.day_of(NOW)
T = TypeVar("T")


def newcomer(cast: Cast, name: str = "gu") -> Actor:
    """Somebody with a confirmed account who belongs nowhere."""

    def work(session: Session) -> int:
        user = User(
            email=f"{name}@example.cn", name="顾言", name_en="Gu Yan", language="zh", created_at=NOW, confirmed_at=NOW
        )
        session.add(user)
        session.flush()
        return user.id

    return Actor.of(cast.database.transaction(work), frozenset())


def said(name: str = "沐风气象", code: str | None = GOOD_CODE, **more: Any) -> Particulars:
    return Particulars(name, code, SizeClass.SMALL, **more)


def do(cast: Cast, work: Callable[[Session], T]) -> T:
    return cast.database.transaction(work)


def register(cast: Cast, by: Actor, particulars: Particulars | None = None) -> int:
    return do(cast, lambda s: service.register(s, particulars or said(), by=by, now=NOW).id)


def verify(cast: Cast, enterprise_id: int, by: Actor | None = None, required: tuple[str, ...] = ()) -> None:
    do(
        cast,
        lambda s: (
            service.verify(s, enterprise_id, reason="与执照一致", required=required, by=by or cast.operator, now=NOW).id
        ),
    )


def manager_of(cast: Cast, by: Actor, enterprise_id: int) -> Actor:
    assert by.user_id is not None
    return Actor.of(by.user_id, frozenset({Role.MANAGER}), enterprise_id)


def refused(work: Callable[[], object]) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refusal:
        work()
    return refusal.value.sentence.id, refusal.value.field


def state(cast: Cast, enterprise_id: int) -> EnterpriseState:
    with cast.database.read_only() as session:
        return session.get_one(Enterprise, enterprise_id).state


def verbs(cast: Cast, enterprise_id: int) -> list[str]:
    with cast.database.read_only() as session:
        return [entry.verb for entry in list_history(session, LIFE, enterprise_id)]


# -- registration


def test_whoever_registers_an_enterprise_becomes_its_manager(cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by, said(name_en="Mufeng", contact_name="顾言", contact_phone="0592", address="湖滨北路"))
    with cast.database.read_only() as session:
        actor = actor_for(session, by.user_id or 0, id)
        assert actor is not None and actor.roles == {Role.MANAGER}
        enterprise = session.get_one(Enterprise, id)
        assert (enterprise.state, enterprise.credit_code) == (EnterpriseState.APPLIED, GOOD_CODE)
        assert service.size_on(session, enterprise, TODAY) is SizeClass.SMALL
    assert verbs(cast, id) == ["register"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("91440300708461136", "code-length"),
        ("", "code-or-sponsor"),
        ("9144030070846113IT", "code-letters"),
        ("X1440300708461136T", "code-letters"),
        ("91440300708461137T", "code-check-digit"),
        (ODD_CODE, "code-check-digit"),
        ("91440300708461136t ", "code-taken"),
    ],
)
def test_a_wrong_code_is_refused_at_its_field_with_the_reason(cast: Cast, code: str, sentence: str) -> None:
    by = newcomer(cast)
    assert refused(lambda: register(cast, by, said(code=code))) == (sentence, "credit_code")
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Enterprise)) == 2


def test_a_code_is_read_as_it_was_copied(cast: Cast) -> None:
    id = register(cast, newcomer(cast), said(code="９１４４０３００-1922 038216"))
    with cast.database.read_only() as session:
        assert session.get_one(Enterprise, id).credit_code == GOOD_CODE


def test_a_name_that_is_registered_already_is_refused(cast: Cast) -> None:
    assert refused(lambda: register(cast, newcomer(cast), said(" 屿声科技 "))) == ("name-taken", "name")


def test_the_index_lets_the_second_of_two_registrations_down_with_the_same_sentence(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either wrote."""
    first, second = newcomer(cast), newcomer(cast, "qi")
    register(cast, first)
    identity = service._Identity("沐风气象", None, GOOD_CODE, None)
    monkeypatch.setattr(service, "_identity", lambda *_: identity)
    assert refused(lambda: register(cast, second))[0] in ("code-taken", "name-taken")


def test_an_issued_code_that_does_not_fit_is_admitted_by_an_operator_with_a_reason(cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by, said(code=ODD_CODE, as_on_licence=True))
    assert refused(lambda: verify(cast, id)) == ("code-not-admitted", None)

    def admit(reason: str) -> None:
        do(cast, lambda s: service.admit(s, id, reason=reason, by=cast.operator, now=NOW).id)

    assert refused(lambda: admit("  ")) == ("admit-needs-reason", "reason")
    admit("登记机关 2016 年发放，已电话核实")
    assert refused(lambda: admit("再来一次"))[0] == "code-fits"
    with cast.database.read_only() as session:
        entry = list_history(session, LIFE, id)[0]
        assert (entry.verb, entry.by_id) == ("admit", cast.users["zhou"])
        assert (entry.why, entry.note) == (
            {"id": "code-admitted", "code": ODD_CODE},
            "登记机关 2016 年发放，已电话核实",
        )
    verify(cast, id)
    assert state(cast, id) is EnterpriseState.VERIFIED


def test_a_code_that_fits_needs_no_admission(cast: Cast) -> None:
    id = register(cast, newcomer(cast))
    work = lambda: do(cast, lambda s: service.admit(s, id, reason="x", by=cast.operator, now=NOW).id)  # noqa: E731
    assert refused(work)[0] == "code-fits"


def test_one_person_cannot_pile_up_applications(cast: Cast) -> None:
    by = newcomer(cast)
    sponsor = "91440300708461136T"
    for n in range(service.APPLICATIONS_MOST):
        register(cast, by, said(f"团队{n}", None, sponsor_code=sponsor))
    assert refused(lambda: register(cast, by))[0] == "too-many-applications"


# -- verification


def test_the_rules_name_the_documents_without_which_nobody_is_verified(cast: Cast, policy: Policy) -> None:
    by = newcomer(cast)
    id = register(cast, by)
    required = policy.enterprises.documents_required
    assert required == ("business_licence",)
    assert refused(lambda: verify(cast, id, required=required))[0] == "verification-lacks"
    mine = manager_of(cast, by, id)

    def attach(kind: str, content: bytes = PDF) -> int:
        return do(
            cast,
            lambda s: (
                service.attach(
                    s, id, kind=kind, name="执照.pdf", content=content, policy=policy.files, by=mine, now=NOW
                ).id
            ),
        )

    attach("other")
    assert refused(lambda: verify(cast, id, required=required))[0] == "verification-lacks"
    assert refused(lambda: attach("passport")) == ("not-a-choice", "kind")
    assert refused(lambda: attach("business_licence", b"MZ")) == ("file-unknown-type", "document")
    licence = attach("business_licence")
    verify(cast, id, required=required)
    detach = lambda: do(cast, lambda s: service.detach(s, licence, by=mine, now=NOW))  # noqa: E731
    assert refused(detach)[0] == "document-is-evidence"


def test_a_document_can_be_taken_away_while_nobody_has_decided_on_it(cast: Cast, policy: Policy) -> None:
    by = newcomer(cast)
    id = register(cast, by)
    mine = manager_of(cast, by, id)
    file = do(
        cast,
        lambda s: (
            service.attach(
                s, id, kind="business_licence", name="a.pdf", content=PDF, policy=policy.files, by=mine, now=NOW
            ).id
        ),
    )
    with pytest.raises(NotFound):
        do(cast, lambda s: service.detach(s, file, by=cast.manager, now=NOW))
    do(cast, lambda s: service.detach(s, file, by=mine, now=NOW))
    with cast.database.read_only() as session:
        assert files.list_files(session, service.OWNER_KIND, id) == []


def test_the_managers_are_told_what_was_decided(cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by)
    verify(cast, id)
    with cast.database.read_only() as session:
        told = session.scalars(sa.select(Notice).where(Notice.user_id == by.user_id)).all()
        assert [notice.about["id"] for notice in told] == ["mail-enterprise-verified"]


def test_a_declined_application_is_corrected_and_applied_for_again(cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by)

    def decline(reason: str) -> None:
        do(
            cast,
            lambda s: service.decline(s, id, why=DeclineReason.NAME, reason=reason, by=cast.operator, now=NOW).id,
        )

    assert refused(lambda: decline("")) == ("decline-needs-reason", "reason")
    decline("执照上是“沐风气象科技”")
    other = newcomer(cast, "qi")
    assert register(cast, other, said("沐风气象科技")) != id, "a declined application keeps no code"
    do(
        cast,
        lambda s: (
            service.decline(
                s,
                register_id(s, "沐风气象科技"),
                why=DeclineReason.NOT_ENTITLED,
                reason="无权",
                by=cast.operator,
                now=NOW,
            ).id
        ),
    )
    mine = manager_of(cast, by, id)
    do(cast, lambda s: service.change(s, id, said("沐风气象科技"), by=mine, now=NOW).id)
    assert state(cast, id) is EnterpriseState.APPLIED
    assert verbs(cast, id) == ["apply", "decline", "register"]


def register_id(session: Session, name: str) -> int:
    return session.scalars(sa.select(Enterprise.id).where(Enterprise.name == name)).one()


def test_nobody_verifies_an_enterprise_they_belong_to_or_applied_for(cast: Cast) -> None:
    """Roles exclude each other; here the data are wrong, or the person changed sides."""
    by = newcomer(cast)
    id = register(cast, by)
    assert by.user_id is not None
    now_operator = Actor.of(by.user_id, frozenset({Role.OPERATOR}))
    assert refused(lambda: verify(cast, id, now_operator))[0] == "not-your-own-enterprise"
    do(cast, lambda s: s.execute(sa.delete(Membership).where(Membership.user_id == by.user_id)))
    assert refused(lambda: verify(cast, id, now_operator))[0] == "not-your-own-enterprise", "applied for it"
    other = register(cast, newcomer(cast, "qi"), said("别家", "91350200MA2XNJ1E2P", as_on_licence=True))
    do(cast, lambda s: s.add(Membership(user_id=by.user_id, enterprise_id=other, role=Role.MEMBER, since_at=NOW)))
    for work in (
        lambda: verify(cast, other, now_operator),
        lambda: do(cast, lambda s: service.suspend(s, other, reason="x", by=now_operator, now=NOW)),
        lambda: do(cast, lambda s: service.admit(s, other, reason="x", by=now_operator, now=NOW)),
    ):
        assert refused(work)[0] == "not-your-own-enterprise"


def test_duties_are_separated(cast: Cast) -> None:
    """Finance decides about no enterprise, an operator does nothing of finance's, others change nothing."""
    id = register(cast, newcomer(cast))
    for name in ("he", "xu", "an", "lin", "chen"):
        by = cast.actor(name)
        for work in (
            lambda by=by: verify(cast, id, by),
            lambda by=by: do(cast, lambda s: service.suspend(s, cast.yusheng, reason="x", by=by, now=NOW)),
            lambda by=by: do(
                cast,
                lambda s: service.classify(
                    s, id, size_class=SizeClass.LARGE, from_on=TODAY, reason="x", by=by, now=NOW
                ),
            ),
        ):
            assert refused(work)[0] == "not-allowed"
    deciding = {p for p in Permission if p.startswith("enterprise:") and p in ALLOWED[Role.OPERATOR]} - {
        Permission.ENTERPRISE_VIEW
    }
    assert len(deciding) == 8
    for role in (Role.FINANCE, Role.AUDITOR, Role.ADMIN, Role.MANAGER, Role.MEMBER):
        assert not deciding & ALLOWED[role]
    money = {Permission.TARIFF_SET, Permission.PROGRAMME_FUND, Permission.STATEMENT_EXPORT, Permission.STATEMENT_VIEW}
    assert not money & ALLOWED[Role.OPERATOR]


# -- suspension


def test_a_suspended_enterprise_asks_and_books_nothing_new_and_what_runs_goes_on(cast: Cast, policy: Policy) -> None:
    booking = cast.submit(cast.flexible(), policy.bookings)
    suspend = lambda reason: do(  # noqa: E731
        cast, lambda s: service.suspend(s, cast.yusheng, reason=reason, by=cast.operator, now=NOW).id
    )
    assert refused(lambda: suspend(" ")) == ("suspend-needs-reason", "reason")
    suspend("年报未交")
    assert refused(lambda: cast.submit(cast.flexible(), policy.bookings))[0] == "enterprise-not-verified"
    assert refused(lambda: cast.award(cast.yusheng, "lin", 10))[0] == "enterprise-not-verified"
    with cast.database.read_only() as session:
        assert list_history(session, LIFE, cast.yusheng)[0].note == "年报未交"
    do(cast, lambda s: bookings.cancel(s, booking, by=cast.member, now=NOW).id)
    do(cast, lambda s: service.resume(s, cast.yusheng, reason="已补交", by=cast.operator, now=NOW).id)
    cast.submit(cast.flexible(), policy.bookings)
    assert verbs(cast, cast.yusheng)[:2] == ["resume", "suspend"]


def test_verify_is_no_way_out_of_a_suspension_and_resume_no_way_around_the_verification(cast: Cast) -> None:
    do(cast, lambda s: service.suspend(s, cast.yusheng, reason="x", by=cast.operator, now=NOW).id)
    assert refused(lambda: verify(cast, cast.yusheng))[0] == "no-such-move"
    id = register(cast, newcomer(cast))
    resume = lambda: do(cast, lambda s: service.resume(s, id, reason="x", by=cast.operator, now=NOW).id)  # noqa: E731
    assert refused(resume)[0] == "no-such-move"


# -- changes


def test_a_new_name_or_code_is_verified_again_and_new_contacts_are_not(cast: Cast, policy: Policy) -> None:
    same = Particulars(
        "屿声科技", "91440300708461136T", SizeClass.LARGE, name_en="Yusheng Voice", contact_name="林晓禾"
    )
    do(cast, lambda s: service.change(s, cast.yusheng, same, by=cast.manager, now=NOW).id)
    assert state(cast, cast.yusheng) is EnterpriseState.VERIFIED
    with cast.database.read_only() as session:
        enterprise = session.get_one(Enterprise, cast.yusheng)
        assert enterprise.contact_name == "林晓禾"
        assert enterprise.size_class is SizeClass.SMALL, "once verified, the operator says which"
    renamed = Particulars("屿声智能", "91440300708461136T", SizeClass.SMALL, name_en="Yusheng Voice")
    do(cast, lambda s: service.change(s, cast.yusheng, renamed, by=cast.manager, now=NOW).id)
    assert state(cast, cast.yusheng) is EnterpriseState.APPLIED
    assert refused(lambda: cast.submit(cast.flexible(), policy.bookings))[0] == "enterprise-not-verified"
    with cast.database.read_only() as session:
        why = list_history(session, LIFE, cast.yusheng)[0].why
        assert why is not None and why["before"] == "屿声科技 91440300708461136T"


def test_a_suspended_enterprise_keeps_its_name(cast: Cast) -> None:
    """Or a new name would be a way back to the verification, and out of the suspension."""
    do(cast, lambda s: service.suspend(s, cast.yusheng, reason="x", by=cast.operator, now=NOW).id)
    renamed = Particulars("屿声智能", "91440300708461136T", SizeClass.SMALL)
    change = lambda: do(cast, lambda s: service.change(s, cast.yusheng, renamed, by=cast.manager, now=NOW))  # noqa: E731
    assert refused(change)[0] == "suspended-keeps-its-name"


def test_a_new_code_has_to_be_admitted_anew(cast: Cast) -> None:
    by = newcomer(cast)
    id = register(cast, by, said(code=ODD_CODE, as_on_licence=True))
    do(cast, lambda s: service.admit(s, id, reason="x", by=cast.operator, now=NOW).id)
    mine = manager_of(cast, by, id)
    do(cast, lambda s: service.change(s, id, said(code=ODD_CODE, address="新址"), by=mine, now=NOW).id)
    other = said(code="91350100M0001TGQXN", as_on_licence=True)
    do(cast, lambda s: service.change(s, id, other, by=mine, now=NOW).id)
    assert refused(lambda: verify(cast, id))[0] == "code-not-admitted"


def test_only_a_manager_changes_and_only_the_own_enterprise(cast: Cast) -> None:
    for by, error in ((cast.member, Refusal), (cast.operator, Refusal), (cast.stranger, NotFound)):
        with pytest.raises(error):
            do(cast, lambda s, by=by: service.change(s, cast.yusheng, said(), by=by, now=NOW))  # type: ignore[misc]


def test_the_size_class_of_a_day_is_the_one_that_was_in_force(cast: Cast) -> None:
    first = dt.date(2026, 3, 1)

    def classify(size: SizeClass, day: dt.date, reason: str = "年报") -> None:
        do(
            cast,
            lambda s: (
                service.classify(
                    s, cast.yusheng, size_class=size, from_on=day, reason=reason, by=cast.operator, now=NOW
                ).id
            ),
        )

    assert refused(lambda: classify(SizeClass.LARGE, TODAY + dt.timedelta(days=1))) == ("size-not-in-future", "from_on")
    assert refused(lambda: classify(SizeClass.LARGE, TODAY, " ")) == ("classify-needs-reason", "reason")
    classify(SizeClass.MICRO, first)
    with cast.database.read_only() as session:
        assert session.get_one(Enterprise, cast.yusheng).size_class is SizeClass.SMALL, "known later, in force earlier"
    classify(SizeClass.MEDIUM, TODAY)
    with cast.database.read_only() as session:
        enterprise = session.get_one(Enterprise, cast.yusheng)
        assert enterprise.size_class is SizeClass.MEDIUM
        found = [service.size_on(session, enterprise, day) for day in (dt.date(2025, 1, 1), first, TODAY)]
        assert found == [SizeClass.MICRO, SizeClass.MICRO, SizeClass.MEDIUM]


# -- teams


def team(cast: Cast, by: Actor) -> int:
    return register(cast, by, said("方言小队", None, sponsor_code="91440300708461136T"))


def test_a_team_needs_a_verified_sponsor_who_confirms(cast: Cast) -> None:
    by = newcomer(cast)
    assert refused(lambda: register(cast, by, said("方言小队", None))) == ("code-or-sponsor", "credit_code")
    unknown = said("方言小队", None, sponsor_code=GOOD_CODE)
    assert refused(lambda: register(cast, by, unknown)) == ("sponsor-not-verified", "sponsor_code")
    both = said("方言小队", GOOD_CODE, sponsor_code="91440300708461136T")
    assert refused(lambda: register(cast, by, both)) == ("code-and-sponsor", "sponsor_code")
    id = team(cast, by)
    assert refused(lambda: verify(cast, id))[0] == "sponsor-not-confirmed"
    with pytest.raises(NotFound):
        do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.stranger, now=NOW))
    assert refused(lambda: do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.member, now=NOW)))[0] == (
        "not-allowed"
    )
    do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.manager, now=NOW).id)
    again = lambda: do(cast, lambda s: service.refuse_sponsor(s, id, by=cast.manager, now=NOW))  # noqa: E731
    assert refused(again)[0] == "sponsor-answered"
    verify(cast, id)
    with cast.database.read_only() as session:
        family = queries.get_family(session, id, cast.operator)
        assert family.bill_to.id == cast.yusheng
        assert [t.id for t in queries.get_family(session, cast.yusheng, cast.manager).teams] == [id]


def test_a_team_whose_sponsor_refuses_names_another(cast: Cast) -> None:
    by = newcomer(cast)
    id = team(cast, by)
    do(cast, lambda s: service.refuse_sponsor(s, id, by=cast.manager, now=NOW).id)
    assert refused(lambda: verify(cast, id))[0] == "sponsor-not-confirmed"
    with pytest.raises(NotFound):
        do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.manager, now=NOW))
    other = said("方言小队", None, sponsor_code="91110000600037341L")
    do(cast, lambda s: service.change(s, id, other, by=manager_of(cast, by, id), now=NOW).id)
    do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.stranger, now=NOW).id)
    verify(cast, id)
    assert state(cast, id) is EnterpriseState.VERIFIED


def test_a_team_waits_for_an_operator_only_once_its_sponsor_has_confirmed(cast: Cast) -> None:
    id = team(cast, newcomer(cast))
    with cast.database.read_only() as session:
        assert queries.list_to_verify(session, 10) == []
    do(cast, lambda s: service.confirm_sponsor(s, id, by=cast.manager, now=NOW).id)
    with cast.database.read_only() as session:
        assert [enterprise.id for enterprise in queries.list_to_verify(session, 10)] == [id]


# -- breaches and related parties


def months_ago(months: int) -> dt.date:
    return standing.months_after(TODAY, -months)


def breach(cast: Cast, day: dt.date, policy: Policy) -> int:
    return do(
        cast,
        lambda s: (
            service.enter_breach(
                s,
                cast.yusheng,
                happened_on=day,
                evidence="信用中国 2023-12-18",
                months=policy.enterprises.breach_months,
                by=cast.operator,
                now=NOW,
            ).id
        ),
    )


def test_a_breach_of_35_months_ago_blocks_and_one_of_37_months_ago_does_not(cast: Cast, policy: Policy) -> None:
    assert policy.enterprises.breach_months == 36
    breach(cast, months_ago(37), policy)
    with cast.database.read_only() as session:
        assert standing.breach_on(session, cast.yusheng, TODAY) is None
    id = breach(cast, months_ago(35), policy)
    with cast.database.read_only() as session:
        found = standing.breach_on(session, cast.yusheng, TODAY)
        assert found is not None and found.id == id
        assert found.free_on == standing.months_after(TODAY, 1)
        assert standing.breach_on(session, cast.yusheng, found.free_on) is None, "free on the first day after"
        assert standing.breach_on(session, cast.yusheng, found.free_on - dt.timedelta(days=1)) is not None
        assert standing.breach_on(session, cast.luyu, TODAY) is None


def test_a_lifted_breach_blocks_nothing_any_more(cast: Cast, policy: Policy) -> None:
    id = breach(cast, months_ago(2), policy)
    lift = lambda: do(  # noqa: E731
        cast, lambda s: service.lift_breach(s, id, reason="信用已修复", by=cast.operator, now=NOW).id
    )
    lift()
    assert refused(lift)[0] == "already-ended"
    with cast.database.read_only() as session:
        assert standing.breach_on(session, cast.yusheng, TODAY) is None
        assert standing.breach_on(session, cast.yusheng, TODAY - dt.timedelta(days=1)) is not None, "it did block"
    assert verbs(cast, cast.yusheng)[:2] == ["lift", "breach"]


def test_a_breach_to_come_or_without_evidence_is_refused(cast: Cast, policy: Policy) -> None:
    assert refused(lambda: breach(cast, TODAY + dt.timedelta(days=1), policy)) == (
        "breach-not-in-future",
        "happened_on",
    )


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        ("2024-02-29", 12, "2025-02-28"),
        ("2023-11-30", 36, "2026-11-30"),
        ("2026-01-31", 1, "2026-02-28"),
        ("2026-03-31", -1, "2026-02-28"),
        ("2026-12-31", 12, "2027-12-31"),
    ],
)
def test_months_are_counted_by_the_calendar(day: str, months: int, expected: str) -> None:
    assert standing.months_after(dt.date.fromisoformat(day), months) == dt.date.fromisoformat(expected)


def test_of_several_breaches_the_longest_counts() -> None:
    def a_breach(id: int, free: dt.date, lifted: dt.date | None = None) -> CreditBreach:
        return CreditBreach(id=id, happened_on=dt.date(2024, 1, 1), free_on=free, lifted_on=lifted)

    rows = [a_breach(1, dt.date(2027, 1, 1)), a_breach(2, dt.date(2026, 1, 1)), a_breach(3, dt.date(2028, 1, 1), TODAY)]
    longest = standing.blocking(rows, TODAY)
    assert longest is not None and longest.id == 1
    assert standing.blocking(rows, dt.date(2023, 12, 31)) is None, "before it happened"
    assert standing.blocking([], TODAY) is None


def relate(cast: Cast, code: str, from_on: dt.date = dt.date(2026, 1, 1), evidence: str = "公示 2026-01-05") -> int:
    other = RelatedFirm(code, "云屿智造", Relation.PERSONS, evidence, from_on)
    return do(cast, lambda s: service.relate(s, cast.yusheng, other, by=cast.operator, now=NOW).id)


@pytest.mark.parametrize("code", [GOOD_CODE, "91110000600037341L"])
def test_a_related_party_is_found_from_both_sides_within_its_period(cast: Cast, code: str) -> None:
    """Once as a firm that is not registered here, once as one that is."""
    id = relate(cast, code)
    with cast.database.read_only() as session:
        found = standing.relation_on(session, cast.yusheng, code, TODAY)
        assert found is not None and found.id == id and found.evidence == "公示 2026-01-05"
        assert standing.relation_on(session, cast.yusheng, code, dt.date(2025, 12, 31)) is None
        own = "91440300708461136T"
        if code != GOOD_CODE:
            assert standing.relation_on(session, cast.luyu, own, TODAY) is not None
            mirrored = queries.list_related(session, session.get_one(Enterprise, cast.luyu))
            assert [row.mirrored for row in mirrored] == [True] and mirrored[0].code == own
        else:
            assert standing.relation_on(session, cast.luyu, own, TODAY) is None
    assert refused(lambda: relate(cast, code)) == ("already-related", "credit_code")
    end = lambda day: do(  # noqa: E731
        cast,
        lambda s: service.unrelate(s, id, until_on=day, reason="股权已转让", by=cast.operator, now=NOW).id,
    )
    assert refused(lambda: end(dt.date(2025, 1, 1))) == ("end-day-before-start", "until_on")
    end(TODAY)
    assert refused(lambda: end(TODAY))[0] == "already-ended"
    with cast.database.read_only() as session:
        assert standing.relation_on(session, cast.yusheng, code, TODAY) is not None, "the last day counts"
        assert standing.relation_on(session, cast.yusheng, code, TODAY + dt.timedelta(days=1)) is None


def test_a_firm_that_registers_later_is_still_the_related_one(cast: Cast) -> None:
    relate(cast, GOOD_CODE)
    id = register(cast, newcomer(cast))
    with cast.database.read_only() as session:
        assert standing.relation_on(session, id, "91440300708461136T", TODAY) is not None
        assert [row.mirrored for row in queries.list_related(session, session.get_one(Enterprise, id))] == [True]


def test_a_relation_needs_evidence_and_another_firm(cast: Cast) -> None:
    assert refused(lambda: relate(cast, "91440300708461136T")) == ("not-related-to-itself", "credit_code")
    assert refused(lambda: relate(cast, GOOD_CODE, evidence=" ")) == ("needs-evidence", "evidence")
    assert refused(lambda: relate(cast, "123")) == ("code-length", "credit_code")


def test_allocations_of_a_declined_or_changed_enterprise_stay(cast: Cast) -> None:
    renamed = Particulars("屿声智能", "91440300708461136T", SizeClass.SMALL)
    do(cast, lambda s: service.change(s, cast.yusheng, renamed, by=cast.manager, now=NOW).id)
    do(
        cast,
        lambda s: (
            service.decline(s, cast.yusheng, why=DeclineReason.NAME, reason="不一致", by=cast.operator, now=NOW).id
        ),
    )
    with cast.database.read_only() as session:
        assert session.get_one(Allocation, cast.allocation).awarded_gpu_seconds == units.gpu_seconds(20_000)
