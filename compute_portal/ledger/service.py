"""The verbs of the ledger: each posts entries whose reference says what caused them; the same cause twice is refused.

Owns: accounts, entries, balances. Does not own: why hours or money move (allocations, bookings, usage, subsidies
decide that). All amounts are integers: GPU-seconds, and in the verbs of budgets, at the end, micro-yuan; an owner's
accounts of one unit are others than those of the other, and the database refuses an entry between them. The caller has
locked the allocation's or the scheme's row, so an owner's accounts move one verb at a time; the accounts themselves are
locked by id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..access import Actor
from ..db import AboutThese
from ..sentences import Refusal, Sentence
from .models import Bucket, LedgerAccount, LedgerEntry, Unit

BUREAU = "bureau"
ALLOCATION = "allocation:"  # and its number: who owns an account
ALLOCATION_BUCKETS = (
    Bucket.WITHHELD, Bucket.AVAILABLE, Bucket.HELD, Bucket.USED, Bucket.EXPIRED, Bucket.OVERDRAFT,
)  # fmt: skip


def programme(programme_id: int) -> str:
    return f"programme:{programme_id}"


def allocation(allocation_id: int) -> str:
    return f"{ALLOCATION}{allocation_id}"


# Made once: every booking and every usage record runs them.
_ACCOUNTS, _ENTRIES = cast(sa.Table, LedgerAccount.__table__), cast(sa.Table, LedgerEntry.__table__)
_LOCK_ACCOUNTS = AboutThese(
    lambda these: (
        sa.select(_ACCOUNTS.c.owner, _ACCOUNTS.c.bucket, _ACCOUNTS.c.id, _ACCOUNTS.c.balance)
        .where(these(_ACCOUNTS.c.owner), _ACCOUNTS.c.unit == sa.bindparam("unit"))
        .order_by(_ACCOUNTS.c.id)
        .with_for_update()
    )
)
_INSERT_ENTRIES = sa.insert(_ENTRIES)
_MOVE_BALANCE = (
    sa.update(_ACCOUNTS)
    .where(_ACCOUNTS.c.id == sa.bindparam("account"))
    .values(balance=_ACCOUNTS.c.balance + sa.bindparam("change", type_=sa.BigInteger))
)


@dataclass(slots=True)
class Account:
    id: int
    balance: int


@dataclass(frozen=True, slots=True)
class Leg:
    reference: str
    verb: str
    source: Account
    target: Account
    amount: int
    why: Sentence | None = None
    corrects_id: int | None = None


def open_accounts(session: Session, owner: str, buckets: Iterable[Bucket], unit: Unit = Unit.GPU_SECONDS) -> None:
    """Create the owner's accounts; those that exist stay, also when another transaction creates them right now."""
    present = set(
        session.scalars(sa.select(LedgerAccount.bucket).where(LedgerAccount.owner == owner, LedgerAccount.unit == unit))
    )
    rows = [
        {"owner": owner, "bucket": bucket, "unit": unit, "balance": 0} for bucket in buckets if bucket not in present
    ]
    if rows:
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        session.execute(insert(LedgerAccount).values(rows).on_conflict_do_nothing())


def lock_accounts(session: Session, *owners: str, unit: Unit = Unit.GPU_SECONDS) -> dict[tuple[str, Bucket], Account]:
    """The owners' accounts of one unit FOR UPDATE, in the order of their ids."""
    statement, those = _LOCK_ACCOUNTS(owners)
    rows = session.execute(statement, those | {"unit": unit})
    return {(owner, bucket): Account(id, balance) for owner, bucket, id, balance in rows}


def post(session: Session, legs: Sequence[Leg], *, at: dt.datetime, by: Actor, unit: Unit = Unit.GPU_SECONDS) -> None:
    """Write the entries and move the balances. The accounts must be locked by this transaction.

    `Account.balance` is kept true while legs are planned (see `plan`), so that one verb can split by what is left.
    """
    if not legs:
        return
    numbers: dict[str, int] = {}
    rows = []
    delta: dict[int, int] = {}
    for leg in legs:
        number = numbers[leg.reference] = numbers.get(leg.reference, 0) + 1
        rows.append(
            {
                "reference": leg.reference,
                "leg": number,
                "verb": leg.verb,
                "unit": unit,
                "from_account_id": leg.source.id,
                "to_account_id": leg.target.id,
                "amount": leg.amount,
                "at": at,
                "by_id": by.user_id,
                "why": None if leg.why is None else leg.why.to_json(),
                "corrects_id": leg.corrects_id,
            }
        )
        delta[leg.source.id] = delta.get(leg.source.id, 0) - leg.amount
        delta[leg.target.id] = delta.get(leg.target.id, 0) + leg.amount
    session.execute(_INSERT_ENTRIES, rows)
    # The CHECK refuses a balance below zero whatever was planned.
    changes = [{"account": id, "change": change} for id, change in sorted(delta.items()) if change]
    if changes:
        session.execute(_MOVE_BALANCE, changes)


def plan(
    reference: str, verb: str, source: Account, target: Account, amount: int, why: Sentence | None = None
) -> list[Leg]:
    """A leg of `amount` (none when it is zero), with both balances moved in memory so that later legs see it."""
    if amount < 0:
        raise ValueError(f"{reference}: negative amount {amount}")
    if amount == 0:
        return []
    source.balance -= amount
    target.balance += amount
    return [Leg(reference, verb, source, target, amount, why)]


def fund(session: Session, programme_id: int, amount: int, *, reference: str, at: dt.datetime, by: Actor) -> None:
    """source → programme.pool: the bureau opens or adds to a programme."""
    open_accounts(session, BUREAU, [Bucket.SOURCE])
    open_accounts(session, programme(programme_id), [Bucket.POOL])
    accounts = lock_accounts(session, BUREAU, programme(programme_id))
    source, pool = accounts[BUREAU, Bucket.SOURCE], accounts[programme(programme_id), Bucket.POOL]
    post(session, plan(reference, "fund", source, pool, amount), at=at, by=by)


def award(
    session: Session,
    programme_id: int,
    allocation_id: int,
    amount: int,
    *,
    at: dt.datetime,
    by: Actor,
    withheld: int = 0,
    reference: str | None = None,
) -> None:
    """programme.pool → allocation.available, `withheld` of it aside for later; an overdraft is repaid first.

    `reference` names the cause where it is not the decision on the request. Raises Refusal("pool-too-small").
    """
    owner = allocation(allocation_id)
    open_accounts(session, programme(programme_id), [Bucket.POOL])  # nobody may have funded it yet
    open_accounts(session, owner, ALLOCATION_BUCKETS)
    accounts = lock_accounts(session, programme(programme_id), owner)
    pool = accounts[programme(programme_id), Bucket.POOL]
    if pool.balance < amount:
        raise Refusal(Sentence("pool-too-small", asked=amount, left=pool.balance), field="awarded_hours")
    overdraft = accounts[owner, Bucket.OVERDRAFT]
    reference = reference or f"allocation:{allocation_id}:award"
    legs = plan(reference, "award", pool, accounts[owner, Bucket.WITHHELD], withheld)
    now = amount - withheld
    repaid = min(now, max(0, -overdraft.balance))
    legs += plan(reference, "award", pool, overdraft, repaid)
    legs += plan(reference, "award", pool, accounts[owner, Bucket.AVAILABLE], now - repaid)
    post(session, legs, at=at, by=by)


def stage(session: Session, allocation_id: int, *, at: dt.datetime, by: Actor) -> int:
    """withheld → available: the rest of an award after an accepted progress report. Returns how much."""
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, owner)
    withheld = accounts[owner, Bucket.WITHHELD]
    amount = withheld.balance
    reference = f"allocation:{allocation_id}:stage"
    post(session, plan(reference, "stage", withheld, accounts[owner, Bucket.AVAILABLE], amount), at=at, by=by)
    return amount


def give_back(
    session: Session, programme_id: int, allocation_id: int, amount: int, *, reference: str, at: dt.datetime, by: Actor
) -> None:
    """available → programme.pool: hours that somebody else may be awarded. Refusal("needs-more-hours") beyond it."""
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, programme(programme_id), owner)
    available = accounts[owner, Bucket.AVAILABLE]
    if available.balance < amount:
        raise Refusal(Sentence("gives-back-too-much", asked=amount, available=available.balance), field="hours")
    pool = accounts[programme(programme_id), Bucket.POOL]
    post(session, plan(reference, "expire", available, pool, amount), at=at, by=by)


def hold(
    session: Session,
    allocation_id: int,
    amount: int,
    *,
    reference: str,
    at: dt.datetime,
    by: Actor,
    overdraft_most: int = 0,
) -> int:
    """available → held for a booking, and what is missing from the overdraft as far as the rules let it go.

    Returns what is left. Refusal("needs-more-hours") when there is less.
    """
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, owner)
    available, overdraft, held = (accounts[owner, b] for b in (Bucket.AVAILABLE, Bucket.OVERDRAFT, Bucket.HELD))
    beyond = max(0, overdraft_most + overdraft.balance)
    if available.balance + beyond < amount:
        raise Refusal(Sentence("needs-more-hours", needed=amount, available=available.balance + beyond), field="gpus")
    legs = plan(reference, "hold", available, held, min(amount, available.balance))
    legs += plan(reference, "hold", overdraft, held, amount - sum(leg.amount for leg in legs))
    post(session, legs, at=at, by=by)
    return available.balance


@dataclass(frozen=True, slots=True)
class Use:
    """One usage record's hours, and how much of them its booking still has on hold."""

    reference: str
    amount: int
    from_hold: int


def charge(session: Session, allocation_id: int, uses: Sequence[Use], *, at: dt.datetime, by: Actor) -> None:
    """held, then available, then overdraft → used, for many records of one allocation at once."""
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, owner)
    held, available = accounts[owner, Bucket.HELD], accounts[owner, Bucket.AVAILABLE]
    used, overdraft = accounts[owner, Bucket.USED], accounts[owner, Bucket.OVERDRAFT]
    legs: list[Leg] = []
    for use in uses:
        rest = use.amount - use.from_hold
        from_available = min(rest, max(0, available.balance))
        legs += plan(use.reference, "charge", held, used, use.from_hold)
        legs += plan(use.reference, "charge", available, used, from_available)
        legs += plan(use.reference, "charge", overdraft, used, rest - from_available)
    post(session, legs, at=at, by=by)


def release(
    session: Session, allocation_id: int, amount: int, *, reference: str, ended: bool, at: dt.datetime, by: Actor
) -> None:
    """held → available; of an allocation that has ended → expired. What is overdrawn is repaid first."""
    release_all(session, [Release(allocation_id, amount, reference, ended)], at=at, by=by)


@dataclass(frozen=True, slots=True)
class Release:
    """What one booking still has on hold; `ended` when its allocation has ended."""

    allocation_id: int
    amount: int
    reference: str
    ended: bool


def release_all(session: Session, releases: Sequence[Release], *, at: dt.datetime, by: Actor) -> None:
    """`release` for many bookings at once."""
    accounts = lock_accounts(session, *{allocation(each.allocation_id) for each in releases})
    legs: list[Leg] = []
    for each in releases:
        owner = allocation(each.allocation_id)
        held, overdraft = accounts[owner, Bucket.HELD], accounts[owner, Bucket.OVERDRAFT]
        repaid = min(each.amount, max(0, -overdraft.balance))
        target = accounts[owner, Bucket.EXPIRED if each.ended else Bucket.AVAILABLE]
        legs += plan(each.reference, "release", held, overdraft, repaid)
        legs += plan(each.reference, "release", held, target, each.amount - repaid)
    post(session, legs, at=at, by=by)


def expire(session: Session, allocation_id: int, *, at: dt.datetime, by: Actor) -> int:
    """available → expired when the allocation has ended; returns how much. What was withheld goes the same way."""
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, owner)
    available, withheld = accounts[owner, Bucket.AVAILABLE], accounts[owner, Bucket.WITHHELD]
    reference = f"allocation:{allocation_id}:expire"
    legs = plan(reference, "stage", withheld, available, withheld.balance)
    amount = max(0, available.balance)
    legs += plan(reference, "expire", available, accounts[owner, Bucket.EXPIRED], amount)
    post(session, legs, at=at, by=by)
    return amount


def correct(
    session: Session, entry_id: int, amount: int, *, reference: str, why: Sentence, at: dt.datetime, by: Actor
) -> None:
    """used → available: give back up to the amount of the charge it names. Refusal("correct-too-much") beyond that."""
    entry = session.get_one(LedgerEntry, entry_id)
    owner = str(session.scalar(sa.select(LedgerAccount.owner).where(LedgerAccount.id == entry.to_account_id)))
    accounts = lock_accounts(session, owner)
    # Under the locks: two corrections of one charge are counted one after the other.
    given = session.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(LedgerEntry.amount), 0)).where(LedgerEntry.corrects_id == entry_id)
    )
    left = entry.amount - int(given or 0)
    if entry.verb != "charge" or not 0 < amount <= left:
        raise Refusal(Sentence("correct-too-much", asked=amount, left=max(0, left)), field="amount")
    used, available = accounts[owner, Bucket.USED], accounts[owner, Bucket.AVAILABLE]
    post(session, [Leg(reference, "correct", used, available, amount, why, entry_id)], at=at, by=by)


@dataclass(frozen=True, slots=True)
class Credit:
    """So many GPU-seconds of what was charged under the reference `charged`."""

    charged: str
    amount: int
    reference: str


def credit(
    session: Session,
    allocation_id: int,
    credits: Sequence[Credit],
    *,
    ended: bool,
    why: Sentence,
    at: dt.datetime,
    by: Actor,
) -> None:
    """used → available; of an allocation that has ended → expired. What is overdrawn is repaid first.

    Each names the entries that it gives back, the last leg first. Refusal("correct-too-much") beyond what is left.
    """
    owner = allocation(allocation_id)
    accounts = lock_accounts(session, owner)
    used, overdraft = accounts[owner, Bucket.USED], accounts[owner, Bucket.OVERDRAFT]
    target = accounts[owner, Bucket.EXPIRED if ended else Bucket.AVAILABLE]
    left = _left_of(session, {each.charged for each in credits})
    legs: list[Leg] = []
    for each in credits:
        entries = left.get(each.charged, [])
        whole = sum(entry.balance for entry in entries)
        if not 0 < each.amount <= whole:
            raise Refusal(Sentence("correct-too-much", asked=each.amount, left=whole), field="amount")
        rest = each.amount
        for entry in entries:
            part = min(rest, entry.balance)
            entry.balance -= part
            rest -= part
            repaid = min(part, max(0, -overdraft.balance))
            for account, amount in ((overdraft, repaid), (target, part - repaid)):
                for leg in plan(each.reference, "correct", used, account, amount, why):
                    legs.append(replace(leg, corrects_id=entry.id))
    post(session, legs, at=at, by=by)


def _left_of(session: Session, references: set[str]) -> dict[str, list[Account]]:
    """The entries that charged these, the last leg first, with what no correction has given back yet."""
    back = orm.aliased(LedgerEntry)
    given = sa.select(sa.func.sum(back.amount)).where(back.corrects_id == LedgerEntry.id).scalar_subquery()
    rows = session.execute(
        sa.select(LedgerEntry.reference, LedgerEntry.id, LedgerEntry.amount - sa.func.coalesce(given, 0))
        .where(LedgerEntry.reference.in_(references), LedgerEntry.verb == "charge")
        .order_by(LedgerEntry.reference, LedgerEntry.leg.desc())
    )
    found: dict[str, list[Account]] = {}
    for reference, id, amount in rows:
        found.setdefault(reference, []).append(Account(id, int(amount)))
    return found


# -- budgets: micro-yuan ----------------------------------------------------------------------------------------------

BUDGET_BUCKETS = (Bucket.POOL, Bucket.HELD, Bucket.USED, Bucket.OVERDRAFT)


def scheme(scheme_id: int) -> str:
    return f"scheme:{scheme_id}"


@dataclass(frozen=True, slots=True)
class Payment:
    """So much of one owner's budget, in micro-yuan; `beyond`: also when the budget is used up, because it is owed."""

    owner: str
    amount: int
    reference: str
    beyond: bool = False


def open_budget(session: Session, owner: str) -> None:
    """The accounts of a programme's or scheme's money, beside its hours."""
    open_accounts(session, BUREAU, [Bucket.SOURCE], Unit.MICRO_YUAN)
    open_accounts(session, owner, BUDGET_BUCKETS, Unit.MICRO_YUAN)


def fund_budget(session: Session, owner: str, amount: int, *, reference: str, at: dt.datetime, by: Actor) -> None:
    """source → pool: the bureau opens or adds to a budget; what was owed beyond it is repaid first."""
    open_budget(session, owner)
    accounts = _lock_money(session, BUREAU, owner)
    source = accounts[BUREAU, Bucket.SOURCE]
    repaid = min(amount, max(0, -accounts[owner, Bucket.OVERDRAFT].balance))
    legs = plan(reference, "fund", source, accounts[owner, Bucket.OVERDRAFT], repaid)
    legs += plan(reference, "fund", source, accounts[owner, Bucket.POOL], amount - repaid)
    post(session, legs, at=at, by=by, unit=Unit.MICRO_YUAN)


def commit(session: Session, payments: Sequence[Payment], *, at: dt.datetime, by: Actor) -> None:
    """pool → held: promised to somebody. Refusal("budget-too-small") when the pool has less."""
    accounts = _lock_money(session, *{each.owner for each in payments})
    legs: list[Leg] = []
    for each in payments:
        pool, held = accounts[each.owner, Bucket.POOL], accounts[each.owner, Bucket.HELD]
        if pool.balance < each.amount and not each.beyond:
            raise Refusal(Sentence("budget-too-small", asked=each.amount, left=pool.balance))
        there = min(each.amount, pool.balance)
        legs += plan(each.reference, "commit", pool, held, there)
        legs += plan(each.reference, "commit", accounts[each.owner, Bucket.OVERDRAFT], held, each.amount - there)
    post(session, legs, at=at, by=by, unit=Unit.MICRO_YUAN)


def give_up(session: Session, payments: Sequence[Payment], *, at: dt.datetime, by: Actor) -> None:
    """held → pool: what was promised is not paid. A credit that finds too little there: used → pool.

    held + used is what stands of all promises, and what is left is exact, at every instant.
    """
    accounts = _lock_money(session, *{each.owner for each in payments})
    legs: list[Leg] = []
    for each in payments:
        held = min(each.amount, accounts[each.owner, Bucket.HELD].balance)
        legs += _back(accounts, each, "release", Bucket.HELD, held)
        legs += _back(accounts, each, "refund", Bucket.USED, each.amount - held)
    post(session, legs, at=at, by=by, unit=Unit.MICRO_YUAN)


def spend(session: Session, payments: Sequence[Payment], *, at: dt.datetime, by: Actor) -> None:
    """held → used: paid. What a credit took out of held meanwhile is not there any more, and is not paid."""
    accounts = _lock_money(session, *{each.owner for each in payments})
    legs: list[Leg] = []
    for each in payments:
        held = accounts[each.owner, Bucket.HELD]
        amount = min(each.amount, held.balance)
        legs += plan(each.reference, "spend", held, accounts[each.owner, Bucket.USED], amount)
    post(session, legs, at=at, by=by, unit=Unit.MICRO_YUAN)


def _back(
    accounts: dict[tuple[str, Bucket], Account], payment: Payment, verb: str, source: Bucket, amount: int
) -> list[Leg]:
    """source → pool; what was owed beyond the budget is repaid first."""
    owner = payment.owner
    overdraft = accounts[owner, Bucket.OVERDRAFT]
    repaid = min(amount, max(0, -overdraft.balance))
    legs = plan(payment.reference, verb, accounts[owner, source], overdraft, repaid)
    return legs + plan(payment.reference, verb, accounts[owner, source], accounts[owner, Bucket.POOL], amount - repaid)


def _lock_money(session: Session, *owners: str) -> dict[tuple[str, Bucket], Account]:
    return lock_accounts(session, *owners, unit=Unit.MICRO_YUAN)
