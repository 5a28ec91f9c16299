"""The verbs of the ledger: each posts entries whose reference says what caused them; the same cause twice is refused.

Owns: accounts, entries, balances. Does not own: why hours move (allocations, bookings, usage decide that).
All amounts here are GPU-seconds (integers). The caller has locked the allocation's row, so an allocation's accounts
move one verb at a time; the accounts themselves are locked by id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..access import Actor
from ..db import AboutThese
from ..sentences import Refusal, Sentence
from .models import Bucket, LedgerAccount, LedgerEntry, Unit

BUREAU = "bureau"
ALLOCATION_BUCKETS = (
    Bucket.WITHHELD, Bucket.AVAILABLE, Bucket.HELD, Bucket.USED, Bucket.EXPIRED, Bucket.OVERDRAFT,
)  # fmt: skip


def programme(programme_id: int) -> str:
    return f"programme:{programme_id}"


def allocation(allocation_id: int) -> str:
    return f"allocation:{allocation_id}"


# Made once: every booking and every usage record runs them.
_ACCOUNTS, _ENTRIES = cast(sa.Table, LedgerAccount.__table__), cast(sa.Table, LedgerEntry.__table__)
_LOCK_ACCOUNTS = AboutThese(
    lambda these: (
        sa.select(_ACCOUNTS.c.owner, _ACCOUNTS.c.bucket, _ACCOUNTS.c.id, _ACCOUNTS.c.balance)
        .where(these(_ACCOUNTS.c.owner), _ACCOUNTS.c.unit == Unit.GPU_SECONDS)
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


def open_accounts(session: Session, owner: str, buckets: Iterable[Bucket]) -> None:
    """Create the owner's accounts; those that exist stay, also when another transaction creates them right now."""
    present = set(session.scalars(sa.select(LedgerAccount.bucket).where(LedgerAccount.owner == owner)))
    rows = [
        {"owner": owner, "bucket": bucket, "unit": Unit.GPU_SECONDS, "balance": 0}
        for bucket in buckets
        if bucket not in present
    ]
    if rows:
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        session.execute(insert(LedgerAccount).values(rows).on_conflict_do_nothing())


def lock_accounts(session: Session, *owners: str) -> dict[tuple[str, Bucket], Account]:
    """The owners' accounts FOR UPDATE, in the order of their ids."""
    rows = session.execute(*_LOCK_ACCOUNTS(owners))
    return {(owner, bucket): Account(id, balance) for owner, bucket, id, balance in rows}


def post(session: Session, legs: Sequence[Leg], *, at: dt.datetime, by: Actor) -> None:
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
                "unit": Unit.GPU_SECONDS,
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
