"""A settled statement opens its claims by itself; an enterprise confirms, two people decide, the budget follows."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.access import SYSTEM, Actor, Role
from compute_portal.claims import pack, queries, service
from compute_portal.claims.amounts import Line, drafts
from compute_portal.claims.models import Claim, ClaimLine
from compute_portal.claims.states import ClaimState
from compute_portal.db import Database
from compute_portal.ledger.models import LedgerAccount
from compute_portal.lifecycle import begin, list_history
from compute_portal.notices.models import Notice
from compute_portal.policy import Policy
from compute_portal.pools.models import Tariff
from compute_portal.sentences import NotFound, Refusal
from compute_portal.statements.models import (
    Fapiao,
    ReceiptKey,
    Statement,
    StatementContent,
    StatementDocument,
    StatementLine,
)
from compute_portal.statements.states import StatementState
from compute_portal.subsidies import examples
from compute_portal.subsidies import service as subsidies
from compute_portal.subsidies.models import SubsidyUse
from compute_portal.subsidies.rules import Entitled, SchemeRules
from compute_portal.usage.models import BillingMonth, Charge, ChargeKind, MonthState
from tests.cast import NOW, Cast
from tests.compute_portal.subsidies.test_rules import cost, entitlement
from tests.together import at_once

YUAN = units.MICRO_PER_YUAN
NOVEMBER = dt.date(2026, 11, 1)


# -- amounts ----------------------------------------------------------------------------------------------------------


def lines(*costs: object) -> list[Line]:
    return [Line(n, each) for n, each in enumerate(costs, 1)]  # type: ignore[arg-type]


def test_a_claim_is_rounded_once_over_all_its_lines() -> None:
    """Three lines of 0.05 yuan at 30%: 0.045 together. Rounded line by line it would be 0.06, cut off each 0.03."""
    from compute_portal.subsidies.states import Mode, Rounding

    for rounding, fen in ((Rounding.HALF_UP, 5), (Rounding.CUT, 4)):
        scheme = entitlement(1, mode=Mode.REIMBURSE, rounding=rounding)
        (draft,) = drafts(Entitled(1, "2026-11", (scheme,)), lines(*[cost("0.05")] * 3))
        assert (draft.amount_micro_yuan, draft.cost_micro_yuan) == (fen * 10_000, 150_000)


def test_credits_lower_the_cost_and_a_bonus_stays_within_the_cap() -> None:
    from compute_portal.subsidies.states import Mode

    scheme = entitlement(1, mode=Mode.REIMBURSE, left_of_cap_micro_yuan=100 * YUAN)
    (draft,) = drafts(
        Entitled(1, "2026-11", (scheme,)),
        lines(cost(300), cost(-100, kind="outage"), cost(50, kind="no_show")),
        {1: 70 * YUAN},
    )
    assert (draft.cost_micro_yuan, draft.amount_micro_yuan, draft.bonus_micro_yuan) == (
        200 * YUAN,
        100 * YUAN,
        40 * YUAN,
    )
    assert drafts(Entitled(1, "2026-11", (scheme,)), lines(cost(-100, kind="outage"))) == []


def test_each_contract_is_claimed_in_the_one_scheme_that_gives_most() -> None:
    from compute_portal.subsidies.states import Mode

    schemes = tuple(entitlement(n, mode=Mode.REIMBURSE, rate_permille=rate) for n, rate in ((1, 200), (2, 500)))
    found = drafts(Entitled(1, "2026-11", schemes, {2: 1}), lines(cost(100, 1), cost(100, 2), cost(100, 3)))
    assert [(draft.scheme.scheme_id, draft.allocation_ids) for draft in found] == [(1, (2,)), (2, (1, 3))]


# -- the way of one ---------------------------------------------------------------------------------------------------


def settled(
    cast: Cast,
    policy: Policy,
    amounts: Sequence[int],
    *,
    month: str = "2026-11",
    subsidy: int = 0,
    state: StatementState = StatementState.SETTLED,
) -> int:
    """A settled statement of Yusheng with one line for each amount in yuan, on one booking."""
    booking = cast.submit(cast.flexible(), policy.bookings)

    def work(session: Session) -> int:
        firm = cast.yusheng
        tariff = session.scalars(sa.select(Tariff.id)).first()
        statement = Statement(
            number=f"S-{month}-{firm}", enterprise_id=firm, month=month, state=state, closing=1,
            opened_at=NOW, rule_version="2026-1", tax_permille=60,
        )  # fmt: skip
        session.add_all(
            [statement, BillingMonth(enterprise_id=firm, month=month, state=MonthState.CLOSED, closed_at=NOW)]
        )
        begin(session, statement, verb="open", at=NOW, by=SYSTEM)
        for position, amount in enumerate(amounts, 1):
            session.add(
                StatementLine(
                    statement_id=statement.id, closing=1, position=position, booking_id=booking,
                    kind=ChargeKind.USAGE if amount > 0 else ChargeKind.OUTAGE, tariff_id=tariff, weight_milli=1000,
                    adjustment=False, gpu_seconds=3600 if amount > 0 else -3600, price_micro_yuan=YUAN,
                    contract_price_micro_yuan=YUAN, list_micro_yuan=(amount + subsidy) * YUAN,
                    subsidy_micro_yuan=subsidy * YUAN, amount_micro_yuan=amount * YUAN,
                )
            )  # fmt: skip
        return statement.id

    return cast.database.transaction(work)


def load(cast: Cast, *cities: str) -> dict[str, int]:
    return cast.database.transaction(
        lambda s: {
            city: scheme.id
            for city, scheme in examples.load(s, from_on=NOVEMBER, by=SYSTEM, now=NOW, only=cities).items()
        }
    )


def open_one(cast: Cast, statement_id: int) -> list[int]:
    return cast.database.transaction(lambda s: [claim.id for claim in service.open_for(s, statement_id, now=NOW)])


def budget(database: Database, scheme_id: int) -> dict[str, int]:
    with database.read_only() as session:
        rows = session.execute(
            sa.select(LedgerAccount.bucket, LedgerAccount.balance).where(LedgerAccount.owner == f"scheme:{scheme_id}")
        )
        return {bucket.value: balance // YUAN for bucket, balance in rows if balance}


def another(cast: Cast) -> Actor:
    """A second person of finance."""
    return Actor.of(cast.users["wu"], frozenset({Role.FINANCE}))


def prove(cast: Cast, claim_id: int) -> None:
    """What was charged, the statement's PDF and signed content, a fapiao: what others bring to the evidence."""

    def work(session: Session) -> None:
        claim = session.get_one(Claim, claim_id)
        key = ReceiptKey(public_key="ab" * 32, first_used_at=NOW)
        session.add(key)
        session.flush()
        text = json.dumps({"number": "S"})
        session.add_all(
            [
                StatementContent(
                    statement_id=claim.statement_id, enterprise_id=claim.enterprise_id, sequence=1,
                    sha256=hashlib.sha256(text.encode()).hexdigest(), content=text, signature="cd" * 64, key_id=key.id,
                    issued_at=NOW,
                ),
                StatementDocument(
                    statement_id=claim.statement_id, kind="pdf", sha256="0" * 64, content=b"%PDF-1.7 x", made_at=NOW
                ),
                Fapiao(
                    number="2" * 20, amount_micro_yuan=1_060 * YUAN, issued_on=NOVEMBER,
                    statement_id=claim.statement_id, entered_at=NOW,
                ),
                Charge(
                    reference="fee", kind=ChargeKind.NO_SHOW, enterprise_id=claim.enterprise_id,
                    booking_id=session.scalars(sa.select(StatementLine.booking_id)).first(), tariff_id=1,
                    weight_milli=1000, gpu_seconds=3600, billed_in="2026-11", adjustment=False, charged_at=NOW,
                ),
            ]
        )  # fmt: skip

    cast.database.transaction(work)


def built(cast: Cast, claim_id: int) -> pack.Pack:
    with cast.database.read_only() as session:
        return pack.build(session, session.get_one(Claim, claim_id))


def confirm(cast: Cast, policy: Policy, claim_id: int) -> pack.Pack:
    found = built(cast, claim_id)
    cast.database.transaction(
        lambda s: service.confirm(
            s, claim_id, pack=found.content, missing=found.missing, policy=policy.files, by=cast.manager, now=NOW
        )
    )
    return found


def test_a_settled_statement_opens_one_claim_and_only_once(cast: Cast, policy: Policy) -> None:
    scheme = load(cast, "Nanning")["Nanning"]
    statement = settled(cast, policy, [700, 301, -1])
    results = at_once(lambda: open_one(cast, statement), lambda: open_one(cast, statement))
    (claim_id,) = sorted(results, key=len)[-1]
    assert sorted(results, key=len)[0] == []
    with cast.database.read_only() as session:
        row = queries.get_claim(session, claim_id, cast.manager)
        assert row.claim.number == f"C-202611-{cast.yusheng:05}-{scheme}"
        assert (row.claim.cost_micro_yuan, row.claim.amount_micro_yuan) == (1_000 * YUAN, 300 * YUAN)
        assert [part.cost_micro_yuan // YUAN for part in queries.parts_of(session, claim_id)] == [700, 301, -1]
        assert service.list_to_open(session) == []
        told = session.scalars(sa.select(Notice.user_id).where(Notice.link == f"/claims/{claim_id}")).all()
        assert list(told) == [cast.users["lin"]]
    assert budget(cast.database, scheme) == {"pool": 50_000_000 - 300, "held": 300}


def test_what_a_scheme_bore_already_and_small_months_open_no_claim(cast: Cast, policy: Policy) -> None:
    load(cast, "Qingyang")
    small = settled(cast, policy, [4_999])
    borne = settled(cast, policy, [9_000], month="2026-12", subsidy=1_000)
    whole = settled(cast, policy, [5_000], month="2027-01")
    assert [len(open_one(cast, id)) for id in (small, borne, whole)] == [0, 0, 1]


def test_only_settled_statements_are_claimed(cast: Cast, policy: Policy) -> None:
    statement = settled(cast, policy, [100], state=StatementState.ISSUED)
    with pytest.raises(Refusal, match="claim-needs-settled"):
        open_one(cast, statement)


def test_filed_models_earn_their_bonus_once_a_year(cast: Cast, policy: Policy) -> None:
    load(cast, "Zhuhai")

    def file_model(number: int) -> None:
        cast.database.transaction(
            lambda s: subsidies.set_trait(
                s, cast.yusheng, "filed_model", evidence=f"备案号 {number}", from_on=NOVEMBER, until_on=None,
                by=cast.finance, now=NOW,
            )
        )  # fmt: skip

    def claimed(month: str) -> tuple[int, int]:
        (claim_id,) = open_one(cast, settled(cast, policy, [1_000], month=month))
        with cast.database.read_only() as session:
            claim = session.get_one(Claim, claim_id)
            return claim.amount_micro_yuan // YUAN, claim.bonus_micro_yuan // YUAN

    file_model(1)
    assert claimed("2026-11") == (250_500, 250_000)
    assert claimed("2026-12") == (500, 0)


def test_a_claim_goes_from_confirmation_over_two_people_to_payment(cast: Cast, policy: Policy) -> None:
    scheme = load(cast, "Nanning")["Nanning"]
    (claim_id,) = open_one(cast, settled(cast, policy, [1_000]))
    with pytest.raises(Refusal, match="pack-lacks"):
        confirm(cast, policy, claim_id)
    prove(cast, claim_id)
    cast.database.transaction(
        lambda s: service.attach(
            s, claim_id, name="回单.pdf", content=b"%PDF-1.4 proof", policy=policy.files, by=cast.manager, now=NOW
        )
    )
    confirm(cast, policy, claim_id)
    run = cast.database.transaction
    with pytest.raises(Refusal, match="no-such-move"):  # nobody has checked it
        run(lambda s: service.approve(s, claim_id, by=cast.finance, now=NOW))
    run(lambda s: service.check(s, claim_id, by=cast.finance, now=NOW))
    with pytest.raises(Refusal, match="two-decide"):
        run(lambda s: service.approve(s, claim_id, by=cast.finance, now=NOW))
    run(lambda s: service.approve(s, claim_id, by=another(cast), now=NOW))
    assert budget(cast.database, scheme)["held"] == 300
    for changes, refused in (
        ({"payment_reference": " "}, "payment-needs-reference"),
        ({"paid_on": dt.date(2026, 11, 17)}, "paid-between"),
    ):
        values = {"paid_on": dt.date(2026, 11, 18), "payment_reference": "GK-2026-118"} | changes
        with pytest.raises(Refusal, match=refused):
            run(lambda s, values=values: service.pay(s, claim_id, by=cast.finance, now=NOW, **values))
    run(
        lambda s: service.pay(
            s, claim_id, paid_on=dt.date(2026, 11, 18), payment_reference="GK-2026-118", by=cast.finance, now=NOW
        )
    )
    assert budget(cast.database, scheme) == {"pool": 50_000_000 - 300, "used": 300}
    with cast.database.read_only() as session:
        assert [entry.verb for entry in list_history(session, Claim.LIFE, claim_id)] == [
            "pay", "approve", "check", "confirm", "open"
        ]  # fmt: skip


@pytest.mark.parametrize("end", ["decline", "withdraw"])
def test_a_claim_that_ends_gives_its_money_back_to_the_budget(cast: Cast, policy: Policy, end: str) -> None:
    scheme = load(cast, "Nanning")["Nanning"]
    (claim_id,) = open_one(cast, settled(cast, policy, [1_000]))
    if end == "withdraw":
        cast.database.transaction(lambda s: service.withdraw(s, claim_id, by=cast.manager, now=NOW))
    else:
        prove(cast, claim_id)
        cast.database.transaction(
            lambda s: service.attach(
                s, claim_id, name="a.pdf", content=b"%PDF-1.4 p", policy=policy.files, by=cast.manager, now=NOW
            )
        )
        confirm(cast, policy, claim_id)
        with pytest.raises(Refusal, match="decline-needs-reason"):
            cast.database.transaction(lambda s: service.decline(s, claim_id, reason=" ", by=cast.finance, now=NOW))
        cast.database.transaction(
            lambda s: service.decline(s, claim_id, reason="发票抬头不符", by=cast.finance, now=NOW)
        )
    assert budget(cast.database, scheme) == {"pool": 50_000_000}
    with cast.database.read_only() as session:
        assert session.scalar(sa.select(sa.func.sum(SubsidyUse.amount_micro_yuan))) == 0
        assert session.get_one(Claim, claim_id).state in (ClaimState.DECLINED, ClaimState.WITHDRAWN)


def test_the_evidence_pack_holds_every_part_with_its_hash_and_is_kept_as_confirmed(cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    (claim_id,) = open_one(cast, settled(cast, policy, [1_000]))
    assert set(built(cast, claim_id).missing) == {"pack-usage", "pack-statement", "pack-fapiao", "pack-payment"}
    prove(cast, claim_id)
    cast.database.transaction(
        lambda s: service.attach(
            s, claim_id, name="回单.pdf", content=b"%PDF-1.4 proof", policy=policy.files, by=cast.manager, now=NOW
        )
    )
    found = built(cast, claim_id)
    assert found.content == built(cast, claim_id).content  # the same bytes whenever it is packed
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        for part in manifest["parts"]:
            assert hashlib.sha256(archive.read(part["name"])).hexdigest() == part["sha256"]
        assert {part["name"] for part in manifest["parts"]} == set(names) - {"manifest.json"}
        assert json.loads(archive.read("claim.json"))["amount_cny"] == "300.00"
    assert {name.split("/")[0] for name in names} == {
        "claim.json", "contract", "fapiao", "manifest.json", "payment", "statement", "usage"
    }  # fmt: skip
    kept = cast.database.transaction(
        lambda s: (
            service.confirm(
                s, claim_id, pack=found.content, missing=(), policy=policy.files, by=cast.manager, now=NOW
            ).pack_sha256
        )
    )
    assert kept == found.sha256
    with pytest.raises(Refusal, match="claim-is-confirmed"):
        cast.database.transaction(
            lambda s: service.attach(
                s, claim_id, name="x.pdf", content=b"%PDF-1.4 x", policy=policy.files, by=cast.manager, now=NOW
            )
        )


def test_another_enterprise_never_meets_a_claim(cast: Cast, policy: Policy) -> None:
    load(cast, "Nanning")
    (claim_id,) = open_one(cast, settled(cast, policy, [1_000]))
    with cast.database.read_only() as session:
        with pytest.raises(NotFound):
            queries.get_claim(session, claim_id, cast.stranger)
        assert queries.list_claims(session, cast.stranger) == []
        assert queries.count_claims(session, cast.auditor) == 1
    with pytest.raises(NotFound):
        cast.database.transaction(lambda s: service.withdraw(s, claim_id, by=cast.stranger, now=NOW))
    for verb in (service.check, service.approve):
        with pytest.raises(Refusal, match="not-allowed"):
            cast.database.transaction(lambda s, verb=verb: verb(s, claim_id, by=cast.operator, now=NOW))


def test_two_claims_at_the_last_yuan_of_a_pool_get_it_once(cast: Cast, policy: Policy) -> None:
    def tiny(session: Session) -> int:
        from compute_portal.subsidies.states import Mode, SchemeKind

        rules = SchemeRules(1, SchemeKind.VOUCHER, Mode.REIMBURSE, rate_permille=1000, no_double=False)
        scheme = subsidies.open_scheme(
            session, rules, name="小池子", name_en=None, why="", from_on=NOVEMBER, by=SYSTEM, now=NOW
        )
        subsidies.fund(session, scheme.id, 100 * YUAN, reference="2026", by=SYSTEM, now=NOW)
        return scheme.id

    scheme = cast.database.transaction(tiny)
    one, other = settled(cast, policy, [80]), settled(cast, policy, [80], month="2026-12")
    at_once(lambda: open_one(cast, one), lambda: open_one(cast, other))
    assert budget(cast.database, scheme) == {"held": 100}
    with cast.database.read_only() as session:
        assert sorted(session.scalars(sa.select(Claim.amount_micro_yuan // YUAN))) == [20, 80]
        assert session.scalar(sa.select(sa.func.count()).select_from(ClaimLine)) == 2
