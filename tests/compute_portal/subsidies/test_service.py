"""Taking from schemes: caps, pools and budgets hold at the same instant too, a contract stands in one scheme."""

from __future__ import annotations

import dataclasses
import datetime as dt
from fractions import Fraction

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.access import SYSTEM
from compute_portal.db import Database
from compute_portal.enterprises.models import RelatedParty
from compute_portal.enterprises.states import Relation
from compute_portal.ledger import queries as ledger_queries
from compute_portal.ledger import service as ledger
from compute_portal.ledger.models import Bucket, LedgerAccount, LedgerEntry, Unit
from compute_portal.programmes import service as programmes
from compute_portal.programmes.rules import Rules
from compute_portal.sentences import NotFound, Refusal
from compute_portal.statements.models import Statement
from compute_portal.statements.states import StatementState
from compute_portal.subsidies import examples, queries, service
from compute_portal.subsidies.models import ContractSubsidy, SubsidyUse
from compute_portal.subsidies.rules import Cost, SchemeRules, Take, relieve, takes_of
from compute_portal.subsidies.states import Mode, SchemeKind
from tests.cast import NOW, Cast
from tests.together import at_once

YUAN = units.MICRO_PER_YUAN
MONTH = "2026-11"
NOVEMBER = dt.date(2026, 11, 1)


def rules(**changes: object) -> SchemeRules:
    values: dict[str, object] = {"number": 1, "kind": SchemeKind.VOUCHER, "mode": Mode.DEDUCT, "rate_permille": 500}
    return SchemeRules(**(values | changes))  # type: ignore[arg-type]


def open_scheme(cast: Cast, budget_yuan: int = 1_000, name: str = "算力券", **changes: object) -> tuple[int, int]:
    """(scheme, version) of a voucher scheme with a budget."""

    def work(session: Session) -> tuple[int, int]:
        scheme = service.open_scheme(
            session, rules(**changes), name=name, name_en=None, why="", from_on=NOVEMBER, by=cast.finance, now=NOW
        )
        service.fund(session, scheme.id, budget_yuan * YUAN, reference="2026", by=cast.finance, now=NOW)
        return scheme.id, queries.list_versions(session, scheme.id)[0].id

    return cast.database.transaction(work)


def statement(cast: Cast, enterprise_id: int, month: str = MONTH) -> int:
    def work(session: Session) -> int:
        row = Statement(
            number=f"S-{month}-{enterprise_id}",
            enterprise_id=enterprise_id,
            month=month,
            state=StatementState.DRAFT,
            opened_at=NOW,
            rule_version="2026-1",
            tax_permille=60,
        )
        session.add(row)
        session.flush()
        return row.id

    return cast.database.transaction(work)


def take(cast: Cast, statement_id: int, enterprise_id: int, version: int, yuan: int, *contracts: int) -> None:
    cast.database.transaction(
        lambda s: service.take(
            s, statement_id, enterprise_id, MONTH, [Take(version, yuan * YUAN, contracts)], by=SYSTEM, now=NOW
        )
    )


def budget(database: Database, scheme_id: int) -> dict[str, int]:
    """Yuan by bucket, from the accounts."""
    with database.read_only() as session:
        rows = session.execute(
            sa.select(LedgerAccount.bucket, LedgerAccount.balance).where(LedgerAccount.owner == f"scheme:{scheme_id}")
        )
        return {bucket.value: balance // YUAN for bucket, balance in rows if balance}


def entitled(cast: Cast, enterprise_id: int, month: str = MONTH, mode: Mode = Mode.DEDUCT):  # type: ignore[no-untyped-def]
    with cast.database.read_only() as session:
        return queries.entitlements(session, enterprise_id, month, mode=mode)


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_what_a_statement_takes_is_held_then_spent_and_a_returned_one_gives_it_back(cast: Cast) -> None:
    scheme, version = open_scheme(cast)
    first = statement(cast, cast.yusheng)
    take(cast, first, cast.yusheng, version, 300)
    assert budget(cast.database, scheme) == {"pool": 700, "held": 300}
    assert cast.database.transaction(lambda s: service.give_back(s, first, by=SYSTEM, now=NOW)) == 300 * YUAN
    assert budget(cast.database, scheme) == {"pool": 1_000}
    take(cast, first, cast.yusheng, version, 250)
    assert cast.database.transaction(lambda s: service.spend(s, first, by=SYSTEM, now=NOW)) == 250 * YUAN
    assert budget(cast.database, scheme) == {"pool": 750, "used": 250}
    take(cast, statement(cast, cast.luyu), cast.luyu, version, 250)
    with pytest.raises(sa.exc.IntegrityError):  # the ledger takes the same cause once
        cast.database.transaction(lambda s: service.spend(s, first, by=SYSTEM, now=NOW))
    with cast.database.read_only() as session:
        mine = sa.select(SubsidyUse).where(SubsidyUse.statement_id == first).order_by(SubsidyUse.id)
        uses = list(session.scalars(mine))
    assert [(use.amount_micro_yuan // YUAN, use.reference.split(":")[-2:]) for use in uses] == [
        (300, ["take", "1"]),
        (-300, ["back", "2"]),
        (250, ["take", "3"]),
    ]


def test_a_credit_returns_money_to_the_pool_whether_or_not_the_first_statement_is_settled(cast: Cast) -> None:
    scheme, version = open_scheme(cast, budget_yuan=100)
    first, second = statement(cast, cast.yusheng), statement(cast, cast.yusheng, "2026-12")
    other = statement(cast, cast.luyu)

    def settle(statement_id: int) -> None:
        cast.database.transaction(lambda s: service.spend(s, statement_id, by=SYSTEM, now=NOW))

    take(cast, first, cast.yusheng, version, 100)
    take(cast, second, cast.yusheng, version, -40)
    assert budget(cast.database, scheme) == {"pool": 40, "held": 60}
    take(cast, other, cast.luyu, version, 30)
    for statement_id in (first, second, other):
        settle(statement_id)
    assert budget(cast.database, scheme) == {"pool": 10, "used": 90}
    third = statement(cast, cast.luyu, "2026-12")
    take(cast, third, cast.luyu, version, -30)  # of what is settled
    settle(third)
    assert budget(cast.database, scheme) == {"pool": 40, "used": 60}
    assert cast.database.transaction(lambda s: service.give_back(s, third, by=SYSTEM, now=NOW)) == -30 * YUAN
    assert budget(cast.database, scheme) == {"pool": 10, "held": 30, "used": 60}


def test_money_and_hours_never_mix_and_the_database_says_so(cast: Cast) -> None:
    scheme, _version = open_scheme(cast)
    with cast.database.read_only() as session:
        money = session.scalars(
            sa.select(LedgerAccount).where(
                LedgerAccount.owner == f"scheme:{scheme}", LedgerAccount.bucket == Bucket.POOL
            )
        ).one()
        hours = session.scalars(
            sa.select(LedgerAccount).where(
                LedgerAccount.owner == f"programme:{cast.programme}", LedgerAccount.bucket == Bucket.POOL
            )
        ).one()
    assert (money.unit, hours.unit) == (Unit.MICRO_YUAN, Unit.GPU_SECONDS)

    def mix(session: Session, unit: Unit) -> None:
        session.add(
            LedgerEntry(
                reference="mixed", leg=1, verb="commit", unit=unit, from_account_id=money.id, to_account_id=hours.id,
                amount=1, at=NOW,
            )
        )  # fmt: skip

    for unit in Unit:
        with pytest.raises(sa.exc.IntegrityError):
            cast.database.transaction(lambda s, unit=unit: mix(s, unit))


def test_a_programmes_money_stands_beside_its_hours(cast: Cast) -> None:
    """Its hours read as before: pages and the award ask for one unit."""
    from compute_portal.programmes.queries import hours

    def work(session: Session, name: str) -> None:
        scheme = service.open_scheme(
            session, rules(kind=SchemeKind.PROGRAMME), name=name, name_en=None, why="", from_on=NOVEMBER,
            programme_id=cast.programme, by=cast.finance, now=NOW,
        )  # fmt: skip
        service.fund(session, scheme.id, 5_000 * YUAN, reference="2026", by=cast.finance, now=NOW)

    with cast.database.read_only() as session:
        before = hours(session, [cast.programme]), ledger_queries.programme_left(session, [cast.programme])
    cast.database.transaction(lambda s: work(s, "计划补贴"))
    with cast.database.read_only() as session:
        after = hours(session, [cast.programme]), ledger_queries.programme_left(session, [cast.programme])
        assert ledger_queries.money_left(session, [ledger.programme(cast.programme)]) == {
            f"programme:{cast.programme}": 5_000 * YUAN
        }
    assert before == after
    with pytest.raises(Refusal, match="programme-has-scheme"):
        cast.database.transaction(lambda s: work(s, "再来一个"))


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "yuan", "refused"),
    [
        ({"cap_micro_yuan": 100 * YUAN}, 101, "subsidy-cap-used-up"),
        ({"pool_micro_yuan": 100 * YUAN}, 101, "subsidy-pool-used-up"),
        ({}, 1_001, "budget-too-small"),
    ],
)
def test_nothing_is_taken_beyond_a_cap_a_pool_or_a_budget(
    cast: Cast, changes: dict[str, object], yuan: int, refused: str
) -> None:
    scheme, version = open_scheme(cast, **changes)
    first = statement(cast, cast.yusheng)
    with pytest.raises(Refusal, match=refused):
        take(cast, first, cast.yusheng, version, yuan)
    assert budget(cast.database, scheme) == {"pool": 1_000}
    take(cast, first, cast.yusheng, version, yuan - 1)


@pytest.mark.parametrize("limit", ["pool_micro_yuan", None])
def test_two_statements_at_the_last_yuan_get_it_once(cast: Cast, limit: str | None) -> None:
    changes = {limit: 100 * YUAN} if limit else {}
    scheme, version = open_scheme(cast, budget_yuan=1_000 if limit else 100, **changes)
    one, other = statement(cast, cast.yusheng), statement(cast, cast.luyu)
    results = at_once(
        lambda: take(cast, one, cast.yusheng, version, 100), lambda: take(cast, other, cast.luyu, version, 100)
    )
    assert sorted(type(each).__name__ for each in results) == ["NoneType", "Refusal"]
    assert budget(cast.database, scheme)["held"] == 100


def test_closing_with_the_schemes_locked_never_meets_a_refusal(cast: Cast) -> None:
    """Both enterprises want all of the pool at the same instant; each takes what was left when it looked."""
    _scheme, version = open_scheme(cast, pool_micro_yuan=100 * YUAN)
    statements = {firm: statement(cast, firm) for firm in (cast.yusheng, cast.luyu)}

    def close(firm: int) -> int:
        def work(session: Session) -> int:
            found = queries.entitlements(session, firm, MONTH, lock=True)
            costs = [Cost(Fraction(160 * YUAN), "usage", 1 if firm == cast.yusheng else 2, cast.programme)]
            takes = takes_of(costs, relieve(found, costs))
            service.take(session, statements[firm], firm, MONTH, takes, by=SYSTEM, now=NOW)
            return sum(each.amount_micro_yuan for each in takes) // YUAN

        return cast.database.transaction(work)

    assert sorted(at_once(lambda: close(cast.yusheng), lambda: close(cast.luyu))) == [20, 80]
    assert version


def test_a_cap_is_of_the_year_and_grows_with_what_the_enterprise_is(cast: Cast) -> None:
    _scheme, version = open_scheme(
        cast, cap_micro_yuan=100 * YUAN, cap_by_trait={"champion": 500 * YUAN}, pool_micro_yuan=900 * YUAN
    )
    take(cast, statement(cast, cast.yusheng), cast.yusheng, version, 80)

    def left(month: str = MONTH) -> tuple[int | None, int | None]:
        (only,) = entitled(cast, cast.yusheng, month).entitlements
        pool = only.left_of_pool_micro_yuan
        return only.left_of_cap_micro_yuan // YUAN, pool // YUAN

    assert left() == (20, 820)
    assert left("2027-01") == (100, 900)
    cast.database.transaction(
        lambda s: service.set_trait(
            s, cast.yusheng, "champion", evidence="名单第 12 号", from_on=NOVEMBER, until_on=None, by=cast.finance,
            now=NOW,
        )
    )  # fmt: skip
    assert left() == (420, 820)
    assert entitled(cast, cast.luyu).entitlements[0].left_of_cap_micro_yuan == 100 * YUAN


def test_entitlements_of_many_enterprises_take_as_many_statements_as_of_one(cast: Cast) -> None:
    from tests.web import Queries

    open_scheme(cast, cap_micro_yuan=YUAN, suppliers=("x",))
    open_scheme(cast, name="第二种券", any_trait=("startup",))
    cast.database.transaction(
        lambda s: service.set_trait(
            s, cast.yusheng, "startup", evidence="x", from_on=NOVEMBER, until_on=None, by=cast.finance, now=NOW
        )
    )
    with Queries(cast.database) as few, cast.database.read_only() as session:
        queries.entitlements_of(session, [cast.yusheng], MONTH)
    with Queries(cast.database) as many, cast.database.read_only() as session:
        found = queries.entitlements_of(session, [cast.yusheng, cast.luyu, *range(1_000, 2_000)], MONTH)
    assert len(many) == len(few) <= 7
    assert [len(found[id].entitlements) for id in (cast.yusheng, cast.luyu, 1_500)] == [2, 1, 0]


# -- who gets what ----------------------------------------------------------------------------------------------------


def test_an_enterprise_related_to_the_supplier_gets_nothing(cast: Cast) -> None:
    open_scheme(cast, suppliers=("91350100M0001TGQXM",))
    assert entitled(cast, cast.yusheng).entitlements

    def relate(session: Session) -> None:
        session.add(
            RelatedParty(
                enterprise_id=cast.yusheng, other_code="91350100M0001TGQXM", other_name="某智算公司",
                relation=next(iter(Relation)), evidence="年报", from_on=dt.date(2026, 11, 30), until_on=None,
                entered_at=NOW,
            )
        )  # fmt: skip

    cast.database.transaction(relate)
    assert not entitled(cast, cast.yusheng).entitlements
    assert entitled(cast, cast.yusheng, "2026-11").month == "2026-11"
    assert entitled(cast, cast.luyu).entitlements


def test_a_relation_counts_from_either_side(cast: Cast) -> None:
    open_scheme(cast, suppliers=("91440300708461136T",))  # Yusheng itself sells the compute
    assert not entitled(cast, cast.yusheng).entitlements
    cast.database.transaction(
        lambda s: s.add(
            RelatedParty(
                enterprise_id=cast.yusheng, other_id=cast.luyu, relation=next(iter(Relation)), evidence="年报",
                from_on=NOVEMBER, until_on=None, entered_at=NOW,
            )
        )
    )  # fmt: skip
    assert not entitled(cast, cast.luyu).entitlements


def test_size_class_trait_days_and_months_decide_who_comes_under_a_scheme(cast: Cast) -> None:
    open_scheme(cast, name="大型企业", size_classes=("large",))
    open_scheme(cast, name="示范", any_trait=("demo_project",))
    open_scheme(cast, name="月中开始", valid_from=dt.date(2026, 11, 16))
    open_scheme(cast, name="按日折算", valid_from=dt.date(2026, 11, 16), pro_rata=True)
    _scheme, version = open_scheme(cast, name="一年", months=12)
    found = entitled(cast, cast.yusheng)
    assert [each.days for each in found.entitlements] == [(15, 30), (1, 1)]
    assert len(entitled(cast, cast.yusheng, "2026-12").entitlements) == 3
    take(cast, statement(cast, cast.yusheng), cast.yusheng, version, 1)
    ids = [each.version_id for each in entitled(cast, cast.yusheng, "2027-10").entitlements]
    assert version in ids
    assert version not in [each.version_id for each in entitled(cast, cast.yusheng, "2027-11").entitlements]


def test_the_same_contract_in_two_schemes_is_refused(cast: Cast) -> None:
    _one, first = open_scheme(cast)
    _two, second = open_scheme(cast, name="另一种券")
    here = statement(cast, cast.yusheng)
    take(cast, here, cast.yusheng, first, 10, cast.allocation)
    take(cast, here, cast.yusheng, first, 10, cast.allocation)
    with pytest.raises(Refusal, match="contract-in-another-scheme"):
        take(cast, here, cast.yusheng, second, 10, cast.allocation)
    with pytest.raises(Refusal, match="contract-in-another-scheme"):
        declare(cast, cast.allocation)
    with pytest.raises(sa.exc.IntegrityError):  # the database refuses it too
        cast.database.transaction(
            lambda s: s.add(
                ContractSubsidy(allocation_id=cast.allocation, enterprise_id=cast.yusheng, elsewhere="省补贴", at=NOW)
            )
        )


def declare(cast: Cast, allocation_id: int) -> None:
    cast.database.transaction(
        lambda s: service.declare(
            s, allocation_id, elsewhere="省级专项", amount_micro_yuan=None, granted_on=None, by=cast.manager, now=NOW
        )
    )


def test_a_contract_that_is_subsidised_elsewhere_gets_nothing_here(cast: Cast) -> None:
    open_scheme(cast)
    declare(cast, cast.allocation)
    found = entitled(cast, cast.yusheng)
    costs = [Cost(Fraction(100 * YUAN), "usage", cast.allocation, cast.programme)]
    assert takes_of(costs, relieve(found, costs)) == []
    with pytest.raises(NotFound):
        declare(cast, cast.other_allocation)


# -- schemes and versions ---------------------------------------------------------------------------------------------


def test_a_new_version_holds_from_the_next_month_and_the_past_keeps_its_rules(cast: Cast) -> None:
    scheme, first = open_scheme(cast)

    def revise(from_on: dt.date, why: str = "比例调整", **changes: object) -> int:
        return cast.database.transaction(
            lambda s: service.revise(s, scheme, rules(**changes), from_on=from_on, why=why, by=cast.finance, now=NOW).id
        )

    for from_on, why, changes, refused in (
        (dt.date(2026, 12, 1), " ", {"rate_permille": 400}, "revision-needs-reason"),
        (dt.date(2026, 12, 1), "x", {}, "revision-changes-nothing"),
        (dt.date(2026, 11, 1), "x", {"rate_permille": 400}, "version-needs-future"),
        (dt.date(2026, 12, 2), "x", {"rate_permille": 400}, "version-begins-with-a-month"),
        (dt.date(2026, 12, 1), "x", {"rate_permille": 1400}, "not-a-percentage"),
    ):
        with pytest.raises(Refusal, match=refused):
            revise(from_on, why, **changes)
    second = revise(dt.date(2026, 12, 1), rate_permille=400)
    assert [each.version_id for each in entitled(cast, cast.yusheng).entitlements] == [first]
    assert [each.version_id for each in entitled(cast, cast.yusheng, "2026-12").entitlements] == [second]
    with cast.database.read_only() as session:
        assert queries.schemes_by_version(session, [second])[second][1].number == 2


def test_zhuhai_and_nanning_both_run_from_data(cast: Cast) -> None:
    def work(session: Session) -> dict[str, int]:
        opened = examples.load(session, from_on=NOVEMBER, by=SYSTEM, now=NOW)
        return {city: scheme.id for city, scheme in opened.items()}

    schemes = cast.database.transaction(work)
    found = entitled(cast, cast.yusheng, mode=Mode.REIMBURSE).entitlements
    assert {each.scheme_id for each in found} == {id for city, id in schemes.items() if city != "Haizhu"}
    assert not entitled(cast, cast.yusheng).entitlements  # none of them lowers a line
    by_scheme = {each.scheme_id: each for each in found}
    cost = Cost(Fraction(200_000 * YUAN), "usage", 1, 1, "H800")
    assert by_scheme[schemes["Zhuhai"]].relief(cost, None) == 100_000 * YUAN
    nanning = dataclasses.replace(by_scheme[schemes["Nanning"]], days=(305, 729))
    assert nanning.relief(cost, None) == 25_102 * YUAN
    with cast.database.read_only() as session:
        left = ledger_queries.money_left(session, [f"scheme:{schemes['Nanning']}"])
    assert list(left.values()) == [50_000_000 * YUAN]


def test_a_programme_that_bears_part_of_the_price_gets_its_scheme_by_itself(cast: Cast) -> None:
    def promise(session: Session) -> None:
        current = Rules.from_json(programmes.newest_version(session, cast.programme).rules)
        changed = dataclasses.replace(current, subsidy_percent={"small": 60})
        programmes.revise(session, cast.programme, changed, why="补贴 60%", by=SYSTEM, now=NOW)

    assert cast.database.transaction(lambda s: service.cover_programmes(s, now=NOW)) == 0
    cast.database.transaction(promise)
    assert cast.database.transaction(lambda s: service.cover_programmes(s, now=NOW)) == 1
    assert cast.database.transaction(lambda s: service.cover_programmes(s, now=NOW)) == 0
    (scheme,) = entitled(cast, cast.yusheng).entitlements
    assert (scheme.programme_id, scheme.left_of_pool_micro_yuan) == (cast.programme, None)
    cost = Cost(Fraction(100 * YUAN), "no_show", cast.allocation, cast.programme, award_permille=600)
    assert relieve(entitled(cast, cast.yusheng), [cost])[0].subsidy_micro_yuan == 60 * YUAN
    # The award binds the city before anybody has put money there: it is owed beyond the budget.
    take(cast, statement(cast, cast.yusheng), cast.yusheng, scheme.version_id, 60, cast.allocation)
    owner = f"programme:{cast.programme}"
    with cast.database.read_only() as session:
        assert ledger_queries.money_left(session, [owner]) == {owner: -60 * YUAN}
    cast.database.transaction(
        lambda s: service.fund(s, scheme.scheme_id, 100 * YUAN, reference="2026", by=cast.finance, now=NOW)
    )
    with cast.database.read_only() as session:
        assert ledger_queries.money_left(session, [owner]) == {owner: 40 * YUAN}


def test_only_finance_opens_schemes_and_gives_them_money(cast: Cast) -> None:
    for who in (cast.operator, cast.auditor, cast.manager):
        with pytest.raises(Refusal, match="not-allowed"):
            cast.database.transaction(
                lambda s, who=who: service.open_scheme(
                    s, rules(), name="x", name_en=None, why="", from_on=NOVEMBER, by=who, now=NOW
                )
            )
        with pytest.raises(Refusal, match="not-allowed"):
            cast.database.transaction(lambda s, who=who: service.fund(s, 1, YUAN, reference="r", by=who, now=NOW))
