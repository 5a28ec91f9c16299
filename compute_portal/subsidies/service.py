"""Open schemes, give them rules and money, and take from them: never beyond a cap, a pool or a budget.

Owns: schemes, versions, what was taken, which contract stands in which scheme, traits of enterprises. Does not own:
what a line costs (statements), claims. Locks: the rows of the schemes by id, after billing months, before the ledger's.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, require
from ..allocations.models import Allocation
from ..db import lock
from ..enterprises.models import Enterprise
from ..language import N_
from ..ledger import service as ledger
from ..pools.models import Pool
from ..programmes.models import Programme, ProgrammeVersion
from ..sentences import NotFound, Refusal, Sentence
from . import queries
from .models import ContractSubsidy, PowerReading, Scheme, SchemeVersion, SubsidyUse, Trait
from .rules import SchemeRules, Take, check
from .states import Mode, SchemeKind

# -- schemes ----------------------------------------------------------------------------------------------------------


def open_scheme(
    session: Session,
    rules: SchemeRules,
    *,
    name: str,
    name_en: str | None,
    why: str,
    from_on: dt.date,
    programme_id: int | None = None,
    is_example: bool = False,
    by: Actor,
    now: dt.datetime,
) -> Scheme:
    """A scheme without money yet, in force from the first day of a month. Raises Refusal at the field that is wrong.

    A scheme of a programme spends that programme's budget; a programme has one at most.
    """
    require(by, Permission.SCHEME_OPEN)
    if session.scalar(sa.select(Scheme.id).where(Scheme.name == name).limit(1)) is not None:
        raise Refusal(Sentence("scheme-name-taken"), "name")
    if (rules.kind is SchemeKind.PROGRAMME) != (programme_id is not None):
        raise Refusal(Sentence("scheme-kind-and-programme"), "programme_id")
    if programme_id is not None:
        if lock(session, Programme, programme_id) is None:
            raise NotFound
        taken = sa.select(Scheme.id).where(Scheme.programme_id == programme_id)
        if session.scalar(taken) is not None:
            raise Refusal(Sentence("programme-has-scheme"), "programme_id")
    _check(rules, from_on)
    scheme = Scheme(
        name=name,
        name_en=name_en,
        programme_id=programme_id,
        is_example=is_example,
        opened_by=by.user_id,
        opened_at=now,
    )
    session.add(scheme)
    session.flush()
    ledger.open_budget(session, queries.owner_of(scheme))
    _add_version(session, scheme.id, dataclasses.replace(rules, number=1), from_on, why, by, now)
    return scheme


def _check(rules: SchemeRules, from_on: dt.date) -> None:
    check(rules)
    if from_on.day != 1:
        raise Refusal(Sentence("version-begins-with-a-month"), "from_on")
    if rules.rate_of_award and (rules.kind is not SchemeKind.PROGRAMME or rules.mode is not Mode.DEDUCT):
        raise Refusal(Sentence("award-rate-only-in-programmes"), "kind")


def _add_version(
    session: Session, scheme_id: int, rules: SchemeRules, from_on: dt.date, why: str, by: Actor, now: dt.datetime
) -> SchemeVersion:
    version = SchemeVersion(
        scheme_id=scheme_id,
        number=rules.number,
        from_on=from_on,
        rules=rules.to_json(),
        why=why,
        made_by=by.user_id,
        made_at=now,
    )
    session.add(version)
    session.flush()
    return version


def revise(
    session: Session, scheme_id: int, rules: SchemeRules, *, from_on: dt.date, why: str, by: Actor, now: dt.datetime
) -> SchemeVersion:
    """New rules from the first day of a month that has not begun, as the next version. What was taken stays.

    Raises Refusal at the field of the rules that does not hold, at `from_on` or at `why`.
    """
    require(by, Permission.SCHEME_REVISE)
    if lock(session, Scheme, scheme_id) is None:
        raise NotFound
    if not why.strip():
        raise Refusal(Sentence("revision-needs-reason"), "why")
    last = queries.list_versions(session, scheme_id)[0]
    if rules.to_json() | {"number": 0} == last.rules | {"number": 0}:
        raise Refusal(Sentence("revision-changes-nothing"))
    _check(rules, from_on)
    first = queries.first_day(clock.next_month(clock.month_of(now)))
    if from_on < max(first, last.from_on):
        raise Refusal(Sentence("version-needs-future", first=max(first, last.from_on)), "from_on")
    if rules.kind.value != last.rules["kind"]:
        raise Refusal(Sentence("scheme-kind-stays"), "kind")
    rules = dataclasses.replace(rules, number=last.number + 1)
    return _add_version(session, scheme_id, rules, from_on, why.strip(), by, now)


def fund(session: Session, scheme_id: int, micro_yuan: int, *, reference: str, by: Actor, now: dt.datetime) -> None:
    """The bureau adds money. `reference` makes it happen once: the same reference again is refused by the ledger."""
    require(by, Permission.SCHEME_FUND)
    scheme = lock(session, Scheme, scheme_id)
    if scheme is None:
        raise NotFound
    owner = queries.owner_of(scheme)
    ledger.fund_budget(session, owner, micro_yuan, reference=f"{owner}:money:{reference}", at=now, by=by)


def cover_programmes(session: Session, *, by: Actor = SYSTEM, now: dt.datetime) -> int:
    """Give a scheme to each programme whose rules bear part of the price and which has none; returns how many.

    It deducts what each award promised. Cheap when there is nothing to do: whoever opens statements calls it first.
    """
    newest = (
        sa.select(ProgrammeVersion.programme_id, sa.func.max(ProgrammeVersion.number).label("number"))
        .group_by(ProgrammeVersion.programme_id)
        .subquery()
    )
    rows = session.execute(
        sa.select(Programme, ProgrammeVersion.rules)
        .join(newest, newest.c.programme_id == Programme.id)
        .join(
            ProgrammeVersion,
            sa.and_(ProgrammeVersion.programme_id == Programme.id, ProgrammeVersion.number == newest.c.number),
        )
        .outerjoin(Scheme, Scheme.programme_id == Programme.id)
        .where(Scheme.id.is_(None))
        .order_by(Programme.id)
    )
    found = [programme for programme, rules in rows if any(rules.get("subsidy_percent", {}).values())]
    for programme in found:
        if lock(session, Programme, programme.id) is None or session.scalar(
            sa.select(Scheme.id).where(Scheme.programme_id == programme.id)
        ):
            continue  # somebody else did it a moment ago
        open_scheme(
            session,
            SchemeRules(1, SchemeKind.PROGRAMME, Mode.DEDUCT, rate_of_award=True, excluded_costs=()),
            name=_free_name(session, programme),
            name_en=programme.name_en,
            why=N_("The programme bears the part of the price that its awards promise."),
            from_on=programme.starts_on.replace(day=1),
            programme_id=programme.id,
            by=by,
            now=now,
        )
    return len(found)


def _free_name(session: Session, programme: Programme) -> str:
    taken = session.scalar(sa.select(Scheme.id).where(Scheme.name == programme.name))
    return programme.name if taken is None else f"{programme.name[:100]} ({programme.id})"


# -- taking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatementTakes:
    statement_id: int
    enterprise_id: int
    takes: Sequence[Take]


def take(
    session: Session,
    statement_id: int,
    enterprise_id: int,
    month: str,
    takes: Sequence[Take],
    *,
    by: Actor,
    now: dt.datetime,
    cause: str | None = None,
) -> None:
    """A statement's subsidies count from now on against caps, pools and budgets: see `take_all`."""
    take_all(session, month, [StatementTakes(statement_id, enterprise_id, takes)], by=by, now=now, cause=cause)


def take_all(
    session: Session,
    month: str,
    statements: Sequence[StatementTakes],
    *,
    by: Actor,
    now: dt.datetime,
    cause: str | None = None,
) -> None:
    """Many statements of one month at once. Budget: pool → held; a negative amount goes back to the pool.

    Under the locks of the schemes' rows. `cause` names what takes where it is not the statement: 'claim:7'.
    Raises Refusal("subsidy-cap-used-up" | "subsidy-pool-used-up" | "budget-too-small" | "contract-in-another-scheme").
    """
    by_version = _versions(session, {take.version_id for each in statements for take in each.takes})
    if not by_version:
        return
    schemes = _lock_schemes(session, {scheme_id for scheme_id, _rules in by_version.values()})
    _must_be_left(session, month, statements, by_version)
    _bind(session, statements, by_version, by, now)
    counts = _counts(session, [each.statement_id for each in statements])
    uses: list[SubsidyUse] = []
    commits: list[ledger.Payment] = []
    refunds: list[ledger.Payment] = []
    for each in statements:
        for one in each.takes:
            if one.amount_micro_yuan == 0:
                continue
            scheme_id, rules = by_version[one.version_id]
            counts[each.statement_id, scheme_id] += 1
            reference = f"{cause or f'statement:{each.statement_id}'}:scheme:{scheme_id}:take"
            reference = f"{reference}:{counts[each.statement_id, scheme_id]}"
            uses.append(
                SubsidyUse(
                    reference=reference,
                    scheme_id=scheme_id,
                    version_id=one.version_id,
                    enterprise_id=each.enterprise_id,
                    statement_id=each.statement_id,
                    month=month,
                    year=int(month[:4]),
                    amount_micro_yuan=one.amount_micro_yuan,
                    by_id=by.user_id,
                    at=now,
                )
            )
            owner, amount = queries.owner_of(schemes[scheme_id]), one.amount_micro_yuan
            payment = ledger.Payment(owner, abs(amount), reference, beyond=rules.rate_of_award)
            (commits if amount > 0 else refunds).append(payment)
    session.add_all(uses)
    session.flush()
    ledger.give_up(session, refunds, at=now, by=by)
    ledger.commit(session, commits, at=now, by=by)


def give_back(session: Session, statement_id: int, *, by: Actor, now: dt.datetime) -> int:
    """The statement is returned: what it took counts no more. Returns how much came back, micro-yuan."""
    return _undo(session, statement_id, "statement:", by, now)


def give_back_claim(session: Session, statement_id: int, claim_id: int, *, by: Actor, now: dt.datetime) -> int:
    """The claim is declined or withdrawn: what it took counts no more."""
    return _undo(session, statement_id, f"claim:{claim_id}:", by, now)


def _undo(session: Session, statement_id: int, cause: str, by: Actor, now: dt.datetime) -> int:
    rows = _net(session, statement_id, cause)
    schemes = _lock_schemes(session, {use.scheme_id for use in rows})
    rows = _net(session, statement_id, cause)  # again, under the locks
    counts = _counts(session, [statement_id])
    releases: list[ledger.Payment] = []
    commits: list[ledger.Payment] = []
    total = 0
    for row in rows:
        if row.amount == 0:
            continue
        counts[statement_id, row.scheme_id] += 1
        prefix = f"statement:{statement_id}" if cause == "statement:" else cause.rstrip(":")
        reference = f"{prefix}:scheme:{row.scheme_id}:back:{counts[statement_id, row.scheme_id]}"
        session.add(
            SubsidyUse(
                reference=reference,
                scheme_id=row.scheme_id,
                version_id=row.version_id,
                enterprise_id=row.enterprise_id,
                statement_id=statement_id,
                month=row.month,
                year=int(row.month[:4]),
                amount_micro_yuan=-row.amount,
                by_id=by.user_id,
                at=now,
            )
        )
        total += row.amount
        # What a credit gave back is owed again, whatever is left.
        payment = ledger.Payment(queries.owner_of(schemes[row.scheme_id]), abs(row.amount), reference, beyond=True)
        (releases if row.amount > 0 else commits).append(payment)
    session.flush()
    ledger.give_up(session, releases, at=now, by=by)
    ledger.commit(session, commits, at=now, by=by)
    return total


def spend(session: Session, statement_id: int, *, by: Actor, now: dt.datetime) -> int:
    """The statement is settled: what it took is spent. Once: the ledger refuses the same statement again."""
    return _spend(session, statement_id, "statement:", f"statement:{statement_id}", by, now)


def spend_claim(session: Session, statement_id: int, claim_id: int, *, by: Actor, now: dt.datetime) -> int:
    """The claim is paid: what it took is spent."""
    return _spend(session, statement_id, f"claim:{claim_id}:", f"claim:{claim_id}", by, now)


def _spend(session: Session, statement_id: int, cause: str, prefix: str, by: Actor, now: dt.datetime) -> int:
    rows = [row for row in _net(session, statement_id, cause) if row.amount > 0]
    schemes = _lock_schemes(session, {row.scheme_id for row in rows})
    payments = [
        ledger.Payment(queries.owner_of(schemes[r.scheme_id]), r.amount, f"{prefix}:scheme:{r.scheme_id}:spend")
        for r in rows
    ]
    ledger.spend(session, payments, at=now, by=by)
    return sum(row.amount for row in rows)


@dataclass(frozen=True, slots=True)
class Net:
    scheme_id: int
    version_id: int
    enterprise_id: int
    month: str
    amount: int


def _net(session: Session, statement_id: int, cause: str) -> list[Net]:
    """What stands of a statement's takes (or of a claim's), by scheme."""
    rows = session.execute(
        sa.select(
            SubsidyUse.scheme_id,
            sa.func.max(SubsidyUse.version_id),
            SubsidyUse.enterprise_id,
            SubsidyUse.month,
            sa.func.sum(SubsidyUse.amount_micro_yuan),
        )
        .where(SubsidyUse.statement_id == statement_id, SubsidyUse.reference.startswith(cause))
        .group_by(SubsidyUse.scheme_id, SubsidyUse.enterprise_id, SubsidyUse.month)
        .order_by(SubsidyUse.scheme_id)
    )
    return [Net(scheme_id, version, firm, month, int(amount)) for scheme_id, version, firm, month, amount in rows]


def _versions(session: Session, ids: Iterable[int]) -> dict[int, tuple[int, SchemeRules]]:
    rows = session.execute(
        sa.select(SchemeVersion.id, SchemeVersion.scheme_id, SchemeVersion.rules).where(SchemeVersion.id.in_(list(ids)))
    )
    return {id: (scheme_id, SchemeRules.from_json(rules)) for id, scheme_id, rules in rows}


def _lock_schemes(session: Session, ids: Iterable[int]) -> dict[int, Scheme]:
    query = sa.select(Scheme).where(Scheme.id.in_(list(ids))).order_by(Scheme.id).with_for_update()
    return {scheme.id: scheme for scheme in session.scalars(query)}


def _counts(session: Session, statement_ids: Sequence[int]) -> defaultdict[tuple[int, int], int]:
    rows = session.execute(
        sa.select(SubsidyUse.statement_id, SubsidyUse.scheme_id, sa.func.count())
        .where(SubsidyUse.statement_id.in_(statement_ids))
        .group_by(SubsidyUse.statement_id, SubsidyUse.scheme_id)
    )
    return defaultdict(int, {(statement, scheme): n for statement, scheme, n in rows})


def _must_be_left(
    session: Session,
    month: str,
    statements: Sequence[StatementTakes],
    by_version: dict[int, tuple[int, SchemeRules]],
) -> None:
    """Under the locks: caps and pools of the year hold with these takes too."""
    asked: dict[tuple[int, int], int] = defaultdict(int)
    rules_of = {}
    for each in statements:
        for one in each.takes:
            scheme_id, rules = by_version[one.version_id]
            rules_of[scheme_id] = rules
            asked[each.enterprise_id, scheme_id] += one.amount_micro_yuan
    firms = {enterprise_id for enterprise_id, _scheme in asked}
    used = queries.used_of(session, firms, month)
    traits = queries.traits_on(session, firms, queries.last_day(month))
    in_all: dict[int, int] = defaultdict(int)
    for (enterprise_id, scheme_id), amount in asked.items():
        in_all[scheme_id] += amount
        cap = rules_of[scheme_id].cap(traits.get(enterprise_id, frozenset()))
        before = used[enterprise_id].get(scheme_id, queries.Used()).amount
        if cap is not None and amount > 0 and before + amount > cap:
            raise Refusal(Sentence("subsidy-cap-used-up", asked=amount, left=max(0, cap - before)))
    taken = queries.used_in_year(session, int(month[:4]))
    for scheme_id, amount in in_all.items():
        pool = rules_of[scheme_id].pool_micro_yuan
        if pool is not None and amount > 0 and taken.get(scheme_id, 0) + amount > pool:
            left = max(0, pool - taken.get(scheme_id, 0))
            raise Refusal(Sentence("subsidy-pool-used-up", asked=amount, left=left))


# -- one contract, one scheme -----------------------------------------------------------------------------------------


def _bind(
    session: Session,
    statements: Sequence[StatementTakes],
    by_version: dict[int, tuple[int, SchemeRules]],
    by: Actor,
    now: dt.datetime,
) -> None:
    """Contracts that are relieved stand in the scheme from now on. Refusal when one stands in another."""
    wanted = {
        allocation_id: (each.enterprise_id, by_version[one.version_id][0])
        for each in statements
        for one in each.takes
        for allocation_id in one.allocation_ids
        if by_version[one.version_id][1].no_double
    }
    if not wanted:
        return
    rows = [
        {"allocation_id": id, "enterprise_id": firm, "scheme_id": scheme_id, "by_id": by.user_id, "at": now}
        for id, (firm, scheme_id) in sorted(wanted.items())
    ]
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(ContractSubsidy).values(rows).on_conflict_do_nothing(index_elements=["allocation_id"]))
    for allocation_id, scheme_id in session.execute(
        sa.select(ContractSubsidy.allocation_id, ContractSubsidy.scheme_id).where(
            ContractSubsidy.allocation_id.in_(wanted)
        )
    ):
        if scheme_id != wanted[allocation_id][1]:
            raise Refusal(Sentence("contract-in-another-scheme", number=allocation_id))


def declare(
    session: Session,
    allocation_id: int,
    *,
    elsewhere: str,
    amount_micro_yuan: int | None,
    granted_on: dt.date | None,
    by: Actor,
    now: dt.datetime,
) -> ContractSubsidy:
    """The enterprise says that a scheme outside this portal bears part of the contract: no scheme here does any more.

    Raises NotFound, or Refusal("contract-in-another-scheme") where one bears part of it already.
    """
    require(by, Permission.SUBSIDY_DECLARE)
    allocation = lock(session, Allocation, allocation_id)
    if allocation is None or allocation.enterprise_id != by.enterprise_id:
        raise NotFound
    if not elsewhere.strip():
        raise Refusal(Sentence("declaration-names-the-scheme"), "elsewhere")
    found = session.scalar(sa.select(ContractSubsidy.id).where(ContractSubsidy.allocation_id == allocation_id))
    if found is not None:
        raise Refusal(Sentence("contract-in-another-scheme", number=allocation_id), "allocation_id")
    declared = ContractSubsidy(
        allocation_id=allocation_id,
        enterprise_id=allocation.enterprise_id,
        elsewhere=elsewhere.strip(),
        amount_micro_yuan=amount_micro_yuan,
        granted_on=granted_on,
        by_id=by.user_id,
        at=now,
    )
    session.add(declared)
    session.flush()
    return declared


# -- traits and meters ------------------------------------------------------------------------------------------------


def set_trait(
    session: Session,
    enterprise_id: int,
    trait: str,
    *,
    evidence: str,
    from_on: dt.date,
    until_on: dt.date | None,
    by: Actor,
    now: dt.datetime,
) -> Trait:
    """What schemes ask about the enterprise, with the evidence for it. Raises Refusal at `evidence` or `until_on`."""
    require(by, Permission.TRAIT_SET)
    if lock(session, Enterprise, enterprise_id) is None:
        raise NotFound
    if not evidence.strip():
        raise Refusal(Sentence("trait-needs-evidence"), "evidence")
    if until_on is not None and until_on < from_on:
        raise Refusal(Sentence("end-day-before-start", start=from_on), "until_on")
    row = Trait(
        enterprise_id=enterprise_id,
        trait=trait,
        evidence=evidence.strip(),
        from_on=from_on,
        until_on=until_on,
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(row)
    session.flush()
    return row


def end_trait(session: Session, trait_id: int, *, by: Actor, now: dt.datetime) -> int:
    """From tomorrow on it holds no more. Returns whose it was."""
    require(by, Permission.TRAIT_SET)
    row = lock(session, Trait, trait_id)
    if row is None:
        raise NotFound
    today = clock.day_of(now)
    if row.until_on is not None and row.until_on <= today:
        raise Refusal(Sentence("trait-is-over"))
    row.until_on, row.ended_by = max(today, row.from_on), by.user_id
    return row.enterprise_id


def enter_reading(
    session: Session, pool_id: int, month: str, kilowatt_hours: int, *, source: str, by: Actor, now: dt.datetime
) -> PowerReading:
    """The electricity that a pool's meter shows for a month that is over. Raises Refusal at the field."""
    require(by, Permission.READING_ENTER)
    if session.get(Pool, pool_id) is None:
        raise NotFound
    if not source.strip():
        raise Refusal(Sentence("reading-needs-source"), "source")
    if now < clock.month_bounds(month)[1]:
        raise Refusal(Sentence("month-not-over", month=month), "month")
    reading = PowerReading(
        pool_id=pool_id,
        month=month,
        kilowatt_hours=kilowatt_hours,
        source=source.strip(),
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(reading)
    session.flush()
    return reading
