"""Which schemes an enterprise comes under in a month and what is left for it; lists for pages."""

from __future__ import annotations

import calendar
import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from ..enterprises.models import Enterprise, RelatedParty, SizeChange
from ..enterprises.states import EnterpriseState
from ..ledger import queries as ledger_queries
from ..ledger import service as ledger
from ..sentences import NotFound
from .models import ContractSubsidy, Scheme, SchemeVersion, SubsidyUse, Trait
from .rules import ELSEWHERE, Entitled, Entitlement, SchemeRules
from .states import Mode


def owner_of(scheme: Scheme) -> str:
    """Whose budget it draws on, as the ledger calls it."""
    return ledger.scheme(scheme.id) if scheme.programme_id is None else ledger.programme(scheme.programme_id)


def first_day(month: str) -> dt.date:
    return dt.date(int(month[:4]), int(month[5:]), 1)


def last_day(month: str) -> dt.date:
    first = first_day(month)
    return first.replace(day=calendar.monthrange(first.year, first.month)[1])


# -- what an enterprise is entitled to --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InForce:
    scheme: Scheme
    version_id: int
    rules: SchemeRules
    days: tuple[int, int]


def in_force(session: Session, month: str, mode: Mode | None = None, *, lock: bool = False) -> list[InForce]:
    """The schemes of a month with their version, in the order of their ids; with `lock` their rows FOR UPDATE."""
    if lock:
        session.execute(sa.select(Scheme.id).order_by(Scheme.id).with_for_update()).all()
    return _in_force(_all_versions(session), month, mode)


def _all_versions(session: Session) -> list[tuple[Scheme, SchemeVersion]]:
    rows = session.execute(
        sa.select(Scheme, SchemeVersion)
        .join(SchemeVersion, SchemeVersion.scheme_id == Scheme.id)
        .order_by(Scheme.id, SchemeVersion.number)
    )
    return [(scheme, version) for scheme, version in rows]


def _in_force(rows: Iterable[tuple[Scheme, SchemeVersion]], month: str, mode: Mode | None) -> list[InForce]:
    schemes: dict[int, Scheme] = {}
    versions: dict[int, SchemeVersion] = {}
    for scheme, version in rows:
        if version.from_on <= first_day(month):
            schemes[scheme.id], versions[scheme.id] = scheme, version  # the last one wins
    found = []
    for scheme_id, version in versions.items():
        rules = SchemeRules.from_json(version.rules)
        days = rules.days_in(month)
        if (mode is None or rules.mode is mode) and days[0] and (rules.pro_rata or days[0] == days[1]):
            found.append(InForce(schemes[scheme_id], version.id, rules, days if rules.pro_rata else (1, 1)))
    return sorted(found, key=lambda each: each.scheme.id)


def entitlements(
    session: Session, enterprise_id: int, month: str, *, mode: Mode | None = Mode.DEDUCT, lock: bool = False
) -> Entitled:
    """One enterprise's schemes of a month: see `entitlements_of`."""
    return entitlements_of(session, [enterprise_id], month, mode=mode, lock=lock)[enterprise_id]


def entitlements_of(
    session: Session,
    enterprise_ids: Collection[int],
    month: str,
    *,
    mode: Mode | None = Mode.DEDUCT,
    lock: bool = False,
) -> dict[int, Entitled]:
    """For each enterprise the schemes of this mode (None: of both) and what is left.

    Two statements for any number of enterprises, and only what some scheme in force looks at is asked for.
    With `lock` the schemes' rows are held FOR UPDATE: what is left stays true until the transaction ends. They are
    locked after billing months and before ledger accounts.
    """
    if lock:
        session.execute(sa.select(Scheme.id).order_by(Scheme.id).with_for_update()).all()
    versions = _all_versions(session)
    schemes = _in_force(versions, month, mode)
    vouchers = frozenset(version.id for scheme, version in versions if scheme.programme_id is None)
    if not schemes:
        return {id: Entitled(id, month, vouchers=vouchers) for id in enterprise_ids}
    facts = _facts(session, enterprise_ids, month, schemes)
    left = {each.scheme.id: _left_of_pool(each, facts) for each in schemes}
    return {
        id: Entitled(
            id,
            month,
            tuple(
                _entitlement(each, facts.firms[id], facts.used[id].get(each.scheme.id, Used()), left[each.scheme.id])
                for each in schemes
                if id in facts.firms
                and _may_have(each, facts.firms[id], facts.used[id].get(each.scheme.id, Used()), month)
            ),
            facts.bound[id],
            vouchers,
        )
        for id in enterprise_ids
    }


@dataclass(slots=True)
class Firm:
    """What schemes ask about an enterprise, as it was on the last day of the month."""

    size_class: str
    verified: bool
    traits: frozenset[str]
    codes: frozenset[str]  # its own credit code and those of its related parties


@dataclass(frozen=True, slots=True)
class Used:
    """What an enterprise took from a scheme in a year, and its first month with it ('': none)."""

    amount: int = 0
    first_month: str = ""


def _may_have(each: InForce, firm: Firm, used: Used, month: str) -> bool:
    rules = each.rules
    if not firm.verified or firm.size_class not in rules.size_classes or firm.codes & set(rules.suppliers):
        return False
    if rules.any_trait and not firm.traits & set(rules.any_trait):
        return False
    return rules.months is None or not used.first_month or _months_between(used.first_month, month) < rules.months


def _months_between(first: str, later: str) -> int:
    return (int(later[:4]) - int(first[:4])) * 12 + int(later[5:]) - int(first[5:])


def _entitlement(each: InForce, firm: Firm, used: Used, left_of_pool: int | None) -> Entitlement:
    cap = each.rules.cap(firm.traits)
    return Entitlement(
        version_id=each.version_id,
        scheme_id=each.scheme.id,
        rules=each.rules,
        programme_id=each.scheme.programme_id,
        left_of_cap_micro_yuan=None if cap is None else max(0, cap - used.amount),
        left_of_pool_micro_yuan=left_of_pool,
        size_class=firm.size_class,
        traits=firm.traits,
        days=each.days,
        name=each.scheme.name,
        name_en=each.scheme.name_en,
    )


@dataclass(slots=True)
class Facts:
    """What the schemes of a month look at: firms, what they took, which contracts are bound, and what money is left."""

    firms: dict[int, Firm] = field(default_factory=dict)
    used: dict[int, dict[int, Used]] = field(default_factory=lambda: defaultdict(dict))
    bound: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    taken: dict[int, int] = field(default_factory=dict)  # scheme → by everybody, in the month's year
    money: dict[str, int] = field(default_factory=dict)  # budget → what is left in it


def _facts(session: Session, ids: Collection[int], month: str, schemes: Collection[InForce]) -> Facts:
    """One statement, however many enterprises and schemes there are."""
    rules, day = [each.rules for each in schemes], last_day(month)
    parts = [_firms(ids, day), _bound(ids)]
    if any(r.asks_traits for r in rules):
        parts.append(_fact("trait", Trait.enterprise_id, Trait.trait).where(*_has_trait(ids, day)))
    if any(r.suppliers for r in rules):
        parts += _related_codes(ids, day)
    if any(r.cap_micro_yuan is not None or r.pool_micro_yuan is not None or r.months for r in rules):
        parts += [_used(ids, int(month[:4])), _taken(int(month[:4]))]
    owners = {owner_of(each.scheme) for each in schemes if not each.rules.rate_of_award}
    if owners:
        left = ledger_queries.money_left_query(owners).subquery()
        parts.append(_fact("money", None, left.c.owner, number=left.c.amount))
    return _gather(session.execute(sa.union_all(*parts)))


def _gather(rows: Iterable[Any]) -> Facts:
    facts = Facts()
    traits: dict[int, set[str]] = defaultdict(set)
    codes: dict[int, set[str]] = defaultdict(set)
    for what, firm, text, other, number, scheme in rows:
        match what:
            case "firm":
                facts.firms[firm] = Firm(text, bool(number), frozenset(), frozenset())
                codes[firm].update([other] if other else [])
            case "trait":
                traits[firm].add(text)
            case "code":
                codes[firm].update([text] if text else [])
            case "bound":
                facts.bound[firm][number] = ELSEWHERE if scheme is None else scheme
            case "used":
                facts.used[firm][scheme] = Used(int(number), text)
            case "taken":
                facts.taken[scheme] = int(number)
            case "money":
                facts.money[text] = int(number)
    for id, own in facts.firms.items():
        own.traits, own.codes = frozenset(traits[id]), frozenset(codes[id])
    return facts


def _fact(
    what: str, firm: Any, text: Any = None, other: Any = None, *, number: Any = None, scheme: Any = None
) -> sa.Select[*tuple[Any, ...]]:
    """A part of the one statement: what it tells, of which enterprise, two texts, a number and a scheme."""
    return sa.select(
        sa.literal_column(f"'{what}'"),
        sa.cast(firm, sa.BigInteger),
        sa.cast(text, sa.String),
        sa.cast(other, sa.String),
        sa.cast(number, sa.BigInteger),
        sa.cast(scheme, sa.BigInteger),
    )


def _firms(ids: Collection[int], day: dt.date) -> sa.Select[*tuple[Any, ...]]:
    """The size class as it was on the day, today's where none was entered; and the own code."""
    then = (
        sa.select(SizeChange.size_class)
        .where(SizeChange.enterprise_id == Enterprise.id, SizeChange.from_on <= day)
        .order_by(SizeChange.from_on.desc(), SizeChange.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    verified = sa.case((Enterprise.state == EnterpriseState.VERIFIED, 1), else_=0)
    size = sa.func.coalesce(then, Enterprise.size_class)
    return _fact("firm", Enterprise.id, size, Enterprise.credit_code, number=verified).where(Enterprise.id.in_(ids))


def _has_trait(ids: Collection[int], day: dt.date) -> list[sa.ColumnElement[bool]]:
    until = sa.or_(Trait.until_on.is_(None), Trait.until_on >= day)
    return [Trait.enterprise_id.in_(ids), Trait.from_on <= day, until]


def traits_on(session: Session, ids: Collection[int], day: dt.date) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for id, trait in session.execute(sa.select(Trait.enterprise_id, Trait.trait).where(*_has_trait(ids, day))):
        found[id].add(trait)
    return {id: frozenset(traits) for id, traits in found.items()}


def _related_codes(ids: Collection[int], day: dt.date) -> list[sa.Select[*tuple[Any, ...]]]:
    """The codes of those an enterprise is not independent of, whichever of the two was entered first."""
    other = orm.aliased(Enterprise)
    holds = sa.and_(RelatedParty.from_on <= day, sa.or_(RelatedParty.until_on.is_(None), RelatedParty.until_on >= day))
    code = sa.func.coalesce(RelatedParty.other_code, other.credit_code)
    return [
        _fact("code", RelatedParty.enterprise_id, code)
        .outerjoin(other, other.id == RelatedParty.other_id)
        .where(RelatedParty.enterprise_id.in_(ids), holds),
        _fact("code", RelatedParty.other_id, other.credit_code)
        .join(other, other.id == RelatedParty.enterprise_id)
        .where(RelatedParty.other_id.in_(ids), holds),
    ]


def used_of(session: Session, ids: Collection[int], month: str) -> dict[int, dict[int, Used]]:
    """Enterprise → scheme → what it took in the month's year."""
    return _gather(session.execute(_used(ids, int(month[:4])))).used


def _used(ids: Collection[int], year: int) -> sa.Select[*tuple[Any, ...]]:
    this_year = sa.func.sum(sa.case((SubsidyUse.year == year, SubsidyUse.amount_micro_yuan), else_=0))
    first = sa.func.min(SubsidyUse.month)
    return (
        _fact("used", SubsidyUse.enterprise_id, first, number=this_year, scheme=SubsidyUse.scheme_id)
        .where(SubsidyUse.enterprise_id.in_(ids))
        .group_by(SubsidyUse.enterprise_id, SubsidyUse.scheme_id)
    )


def _taken(year: int) -> sa.Select[*tuple[Any, ...]]:
    amount = sa.func.sum(SubsidyUse.amount_micro_yuan)
    return (
        _fact("taken", None, number=amount, scheme=SubsidyUse.scheme_id)
        .where(SubsidyUse.year == year)
        .group_by(SubsidyUse.scheme_id)
    )


def _bound(ids: Collection[int]) -> sa.Select[*tuple[Any, ...]]:
    """Contracts that stand in a scheme, or in one of somebody else."""
    return _fact(
        "bound", ContractSubsidy.enterprise_id, number=ContractSubsidy.allocation_id, scheme=ContractSubsidy.scheme_id
    ).where(ContractSubsidy.enterprise_id.in_(ids))


def _left_of_pool(each: InForce, facts: Facts) -> int | None:
    """The year's pool or the budget, whichever is less. A subsidy that awards promised has no limit."""
    if each.rules.rate_of_award:
        return None
    limits = [max(0, facts.money.get(owner_of(each.scheme), 0))]
    if each.rules.pool_micro_yuan is not None:
        limits.append(max(0, each.rules.pool_micro_yuan - facts.taken.get(each.scheme.id, 0)))
    return min(limits)


def used_in_year(session: Session, year: int) -> dict[int, int]:
    rows = session.execute(
        sa.select(SubsidyUse.scheme_id, sa.func.sum(SubsidyUse.amount_micro_yuan))
        .where(SubsidyUse.year == year)
        .group_by(SubsidyUse.scheme_id)
    )
    return {scheme_id: int(amount) for scheme_id, amount in rows}


# -- schemes ----------------------------------------------------------------------------------------------------------


def get_scheme(session: Session, scheme_id: int) -> Scheme:
    scheme = session.get(Scheme, scheme_id)
    if scheme is None:
        raise NotFound
    return scheme


def every_scheme() -> sa.Select[Scheme]:
    return sa.select(Scheme).order_by(Scheme.is_example, Scheme.name, Scheme.id)


def list_versions(session: Session, scheme_id: int) -> list[SchemeVersion]:
    """Newest first."""
    return list(
        session.scalars(
            sa.select(SchemeVersion)
            .where(SchemeVersion.scheme_id == scheme_id)
            .order_by(SchemeVersion.number.desc())
            .limit(100)
        )
    )


def rules_of(session: Session, scheme_ids: Iterable[int]) -> dict[int, SchemeRules]:
    """The newest rules of some schemes, in one query."""
    found = {}
    for version in session.scalars(
        sa.select(SchemeVersion).where(SchemeVersion.scheme_id.in_(list(scheme_ids))).order_by(SchemeVersion.number)
    ):
        found[version.scheme_id] = SchemeRules.from_json(version.rules)
    return found


def schemes_by_version(session: Session, version_ids: Iterable[int]) -> dict[int, tuple[Scheme, SchemeVersion]]:
    """What a statement's lines name: version → its scheme and itself, in one query."""
    rows = session.execute(
        sa.select(Scheme, SchemeVersion)
        .join(SchemeVersion, SchemeVersion.scheme_id == Scheme.id)
        .where(SchemeVersion.id.in_(list(version_ids)))
    )
    return {version.id: (scheme, version) for scheme, version in rows}


def list_contracts(session: Session, enterprise_id: int) -> list[tuple[ContractSubsidy, Scheme | None]]:
    """Which contract of the enterprise stands in which scheme, newest first."""
    rows = session.execute(
        sa.select(ContractSubsidy, Scheme)
        .outerjoin(Scheme, Scheme.id == ContractSubsidy.scheme_id)
        .where(ContractSubsidy.enterprise_id == enterprise_id)
        .order_by(ContractSubsidy.id.desc())
        .limit(100)
    )
    return [(row, scheme) for row, scheme in rows]


def list_traits(session: Session, enterprise_id: int) -> list[Trait]:
    """Newest first."""
    return list(
        session.scalars(
            sa.select(Trait).where(Trait.enterprise_id == enterprise_id).order_by(Trait.id.desc()).limit(100)
        )
    )
