"""Which schemes an enterprise comes under in a month and what is left for it; lists for pages."""

from __future__ import annotations

import calendar
import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
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

    Three to eight statements for any number of enterprises: only what some scheme in force looks at is asked for.
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
    rules = [each.rules for each in schemes]
    firms = _firms(session, enterprise_ids, month, rules)
    used: dict[int, dict[int, Used]] = defaultdict(dict)
    taken: dict[int, int] = {}
    if any(r.cap_micro_yuan is not None or r.pool_micro_yuan is not None or r.months for r in rules):
        used, taken = _used_and_taken(session, enterprise_ids, month)
    left = _left_of_pools(session, schemes, taken)
    bound = _bound(session, enterprise_ids)
    return {
        id: Entitled(
            id,
            month,
            tuple(
                _entitlement(each, firms[id], used[id].get(each.scheme.id, Used()), left[each.scheme.id])
                for each in schemes
                if id in firms and _may_have(each, firms[id], used[id].get(each.scheme.id, Used()), month)
            ),
            bound[id],
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


def _firms(session: Session, ids: Collection[int], month: str, rules: Collection[SchemeRules]) -> dict[int, Firm]:
    day = last_day(month)
    own: dict[int, Firm] = {}
    for id, today, state, code, size in session.execute(
        sa.select(Enterprise.id, Enterprise.size_class, Enterprise.state, Enterprise.credit_code, SizeChange.size_class)
        .outerjoin(SizeChange, sa.and_(SizeChange.enterprise_id == Enterprise.id, SizeChange.from_on <= day))
        .where(Enterprise.id.in_(ids))
        .order_by(SizeChange.from_on, SizeChange.id)
    ):
        codes = frozenset([code] if code else [])
        own[id] = Firm((size or today).value, state is EnterpriseState.VERIFIED, frozenset(), codes)  # the last one
    if any(r.asks_traits for r in rules):
        for id, traits in traits_on(session, ids, day).items():
            own[id].traits = traits
    if any(r.suppliers for r in rules):
        for id, code in _related_codes(session, ids, day):
            own[id].codes |= {code}
    return own


def traits_on(session: Session, ids: Collection[int], day: dt.date) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for id, trait in session.execute(
        sa.select(Trait.enterprise_id, Trait.trait).where(
            Trait.enterprise_id.in_(ids),
            Trait.from_on <= day,
            sa.or_(Trait.until_on.is_(None), Trait.until_on >= day),
        )
    ):
        found[id].add(trait)
    return {id: frozenset(traits) for id, traits in found.items()}


def _related_codes(session: Session, ids: Collection[int], day: dt.date) -> list[tuple[int, str]]:
    """(enterprise, credit code of somebody it is not independent of), whichever of the two was entered first."""
    other = orm.aliased(Enterprise)
    holds = sa.and_(RelatedParty.from_on <= day, sa.or_(RelatedParty.until_on.is_(None), RelatedParty.until_on >= day))
    forth = (
        sa.select(RelatedParty.enterprise_id, sa.func.coalesce(RelatedParty.other_code, other.credit_code))
        .outerjoin(other, other.id == RelatedParty.other_id)
        .where(RelatedParty.enterprise_id.in_(ids), holds)
    )
    back = (
        sa.select(RelatedParty.other_id, other.credit_code)
        .join(other, other.id == RelatedParty.enterprise_id)
        .where(RelatedParty.other_id.in_(ids), holds)
    )
    both: list[Any] = list(session.execute(sa.union_all(forth, back)))
    return [(id, code) for id, code in both if id is not None and code is not None]


def used_of(session: Session, ids: Collection[int], month: str) -> dict[int, dict[int, Used]]:
    """Enterprise → scheme → what it took in the month's year."""
    return _used_and_taken(session, ids, month)[0]


def _used_and_taken(
    session: Session, ids: Collection[int], month: str
) -> tuple[dict[int, dict[int, Used]], dict[int, int]]:
    """`used_of`, and what all enterprises took from each scheme in that year: one statement."""
    year = int(month[:4])
    this_year = sa.func.sum(sa.case((SubsidyUse.year == year, SubsidyUse.amount_micro_yuan), else_=0))
    own = (
        sa.select(SubsidyUse.enterprise_id, SubsidyUse.scheme_id, this_year, sa.func.min(SubsidyUse.month))
        .where(SubsidyUse.enterprise_id.in_(ids))
        .group_by(SubsidyUse.enterprise_id, SubsidyUse.scheme_id)
    )
    everybody = (
        sa.select(sa.null(), SubsidyUse.scheme_id, sa.func.sum(SubsidyUse.amount_micro_yuan), sa.literal(""))
        .where(SubsidyUse.year == year)
        .group_by(SubsidyUse.scheme_id)
    )
    used: dict[int, dict[int, Used]] = defaultdict(dict)
    taken: dict[int, int] = {}
    rows: list[Any] = list(session.execute(sa.union_all(own, everybody)))
    for enterprise_id, scheme_id, amount, first_month in rows:
        if enterprise_id is None:
            taken[scheme_id] = int(amount)
        else:
            used[enterprise_id][scheme_id] = Used(int(amount), first_month)
    return used, taken


def _left_of_pools(session: Session, schemes: Collection[InForce], taken: Mapping[int, int]) -> dict[int, int | None]:
    """The year's pool and the budget, whichever is less. A subsidy that awards promised has no limit."""
    owners = {owner_of(each.scheme) for each in schemes if not each.rules.rate_of_award}
    money = ledger_queries.money_left(session, owners) if owners else {}
    left: dict[int, int | None] = {}
    for each in schemes:
        if each.rules.rate_of_award:
            left[each.scheme.id] = None
            continue
        limits = [max(0, money[owner_of(each.scheme)])]
        if each.rules.pool_micro_yuan is not None:
            limits.append(max(0, each.rules.pool_micro_yuan - taken.get(each.scheme.id, 0)))
        left[each.scheme.id] = min(limits)
    return left


def used_in_year(session: Session, year: int) -> dict[int, int]:
    rows = session.execute(
        sa.select(SubsidyUse.scheme_id, sa.func.sum(SubsidyUse.amount_micro_yuan))
        .where(SubsidyUse.year == year)
        .group_by(SubsidyUse.scheme_id)
    )
    return {scheme_id: int(amount) for scheme_id, amount in rows}


def _bound(session: Session, ids: Collection[int]) -> Mapping[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for enterprise_id, allocation_id, scheme_id in session.execute(
        sa.select(ContractSubsidy.enterprise_id, ContractSubsidy.allocation_id, ContractSubsidy.scheme_id).where(
            ContractSubsidy.enterprise_id.in_(ids)
        )
    ):
        found[enterprise_id][allocation_id] = ELSEWHERE if scheme_id is None else scheme_id
    return found


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
