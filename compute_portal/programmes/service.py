"""Open a programme, give it rules, fund its pool of GPU-hours; discounts and the rates of exchange.

Owns: programmes, versions of their rules, discounts, card weights. Does not own: who is awarded what (allocations).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import SYSTEM, Actor, Permission, require
from ..db import lock
from ..ledger import service as ledger
from ..pools.models import Discount, Pool
from ..sentences import NotFound, Refusal, Sentence
from .models import CardWeight, EnterpriseShare, Programme, ProgrammePool, ProgrammeVersion
from .rules import SIZE_CLASSES, Rules, Track

FOR_EVER_DAYS = 3_660


def one_track(most_gpu_seconds: int, decision_days: int) -> Rules:
    """The plainest rules: any size up to the programme's most, decided by one operator."""
    return Rules(1, (Track("M", most_gpu_seconds, FOR_EVER_DAYS, decision_days=decision_days),))


def open_programme(
    session: Session,
    *,
    name: str,
    name_en: str | None,
    starts_on: dt.date,
    ends_on: dt.date,
    pool_ids: Iterable[int],
    most_gpu_seconds: int,
    booking_approval_gpu_seconds: int,
    decision_days: int = 3,
    shares: int = 1,
    rules: Rules | None = None,
    by: Actor = SYSTEM,
    now: dt.datetime | None = None,
) -> Programme:
    """A programme over some pools, without hours yet. Without `rules` it has one track; see `one_track`.

    `now` is when the rules were made; without it the programme's first day.
    """
    require(by, Permission.PROGRAMME_OPEN)
    if ends_on < starts_on:
        raise Refusal(Sentence("end-day-before-start", start=starts_on), "ends_on")
    taken = sa.select(Programme.id).where(sa.or_(Programme.name == name))
    if session.scalar(taken.limit(1)) is not None:
        raise Refusal(Sentence("programme-name-taken"), "name")
    rules = rules or one_track(most_gpu_seconds, decision_days)
    check_rules(rules)
    programme = Programme(
        name=name,
        name_en=name_en,
        starts_on=starts_on,
        ends_on=ends_on,
        shares=shares,
        most_gpu_seconds=rules.largest.most_gpu_seconds,
        booking_approval_gpu_seconds=booking_approval_gpu_seconds,
        decision_days=rules.largest.decision_days,
    )
    session.add(programme)
    session.flush()
    session.add_all(ProgrammePool(programme_id=programme.id, pool_id=id) for id in pool_ids)
    _add_version(session, programme, rules, starts_on, "", by, now or clock.start_of_day(starts_on))
    return programme


def _add_version(
    session: Session, programme: Programme, rules: Rules, from_on: dt.date, why: str, by: Actor, now: dt.datetime
) -> ProgrammeVersion:
    version = ProgrammeVersion(
        programme_id=programme.id,
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
    session: Session, programme_id: int, rules: Rules, *, why: str, by: Actor, now: dt.datetime
) -> ProgrammeVersion:
    """New rules from today on, as the next version. Requests that were made keep the version they were made under.

    Raises Refusal at the field of the rules that does not hold, or at `why`.
    """
    require(by, Permission.PROGRAMME_REVISE)
    programme = lock(session, Programme, programme_id)
    if programme is None:
        raise NotFound
    if not why.strip():
        raise Refusal(Sentence("revision-needs-reason"), "why")
    last = newest_version(session, programme_id)
    if rules.to_json() | {"number": 0} == last.rules | {"number": 0}:
        raise Refusal(Sentence("revision-changes-nothing"))
    rules = dataclasses.replace(rules, number=last.number + 1)
    check_rules(rules)
    programme.most_gpu_seconds = rules.largest.most_gpu_seconds
    programme.decision_days = rules.largest.decision_days
    return _add_version(session, programme, rules, clock.day_of(now), why.strip(), by, now)


def open_again(session: Session, programme_id: int, *, why: str, by: Actor, now: dt.datetime) -> ProgrammeVersion:
    """Take requests again."""
    return _open_or_close(session, programme_id, True, why, by, now)


def close(session: Session, programme_id: int, *, why: str, by: Actor, now: dt.datetime) -> ProgrammeVersion:
    """Take no more requests; those that wait are decided, and allocations run on."""
    return _open_or_close(session, programme_id, False, why, by, now)


def _open_or_close(
    session: Session, programme_id: int, is_open: bool, why: str, by: Actor, now: dt.datetime
) -> ProgrammeVersion:
    if lock(session, Programme, programme_id) is None:  # before the rules are read: somebody may revise them now
        raise NotFound
    rules = Rules.from_json(newest_version(session, programme_id).rules)
    return revise(session, programme_id, dataclasses.replace(rules, is_open=is_open), why=why, by=by, now=now)


def newest_version(session: Session, programme_id: int) -> ProgrammeVersion:
    """The version in force: versions begin on the day they are made, so the newest one is it."""
    version = session.scalars(
        sa.select(ProgrammeVersion)
        .where(ProgrammeVersion.programme_id == programme_id)
        .order_by(ProgrammeVersion.number.desc())
        .limit(1)
    ).first()
    if version is None:
        raise NotFound
    return version


def check_rules(rules: Rules) -> None:
    """Raises Refusal at the field of the form: `<track>_most`, `released` and so on."""
    if not rules.tracks:
        raise Refusal(Sentence("rules-need-a-track"))
    before: Track | None = None
    for track in rules.tracks:
        field = track.key.lower()
        if track.most_gpu_seconds <= 0 or (before and track.most_gpu_seconds <= before.most_gpu_seconds):
            raise Refusal(Sentence("track-must-grow", track=track.key), f"{field}_hours")
        if track.most_days <= 0 or (before and track.most_days < before.most_days):
            raise Refusal(Sentence("track-must-not-shorten", track=track.key), f"{field}_days")
        for value, name in ((track.released_percent, "released"), (track.guard_percent, "guard")):
            if not (1 if name == "released" else 0) <= value <= 100:
                raise Refusal(Sentence("not-a-percentage"), f"{field}_{name}")
        before = track
    if not rules.size_classes:
        raise Refusal(Sentence("rules-need-a-size-class"), "size_classes")
    for name in rules.size_classes:
        if name not in SIZE_CLASSES:
            raise ValueError(name)


def fund(session: Session, programme_id: int, gpu_seconds: int, *, reference: str, by: Actor, now: dt.datetime) -> None:
    """The bureau adds hours. `reference` makes it happen once: the same reference again is refused by the ledger."""
    require(by, Permission.PROGRAMME_FUND)
    if lock(session, Programme, programme_id) is None:
        raise NotFound
    ledger.fund(session, programme_id, gpu_seconds, reference=f"programme:{programme_id}:{reference}", at=now, by=by)


def set_share(session: Session, programme_id: int, enterprise_id: int, shares: int) -> None:
    """The enterprise's shares under this programme in the fair tree."""
    row = session.get(EnterpriseShare, (programme_id, enterprise_id))
    if row is None:
        session.add(EnterpriseShare(programme_id=programme_id, enterprise_id=enterprise_id, shares=shares))
    else:
        row.shares = shares
    session.flush()


def offers(session: Session, programme_id: int, pool_id: int) -> bool:
    return (
        session.scalar(
            sa.select(ProgrammePool.pool_id).where(
                ProgrammePool.programme_id == programme_id, ProgrammePool.pool_id == pool_id
            )
        )
        is not None
    )


# -- discounts and rates of exchange ----------------------------------------------------------------------------------


def set_discount(
    session: Session,
    pool_id: int,
    *,
    from_on: dt.date,
    until_on: dt.date,
    by: Actor,
    now: dt.datetime,
    size_class: str | None = None,
    programme_id: int | None = None,
    percent: int | None = None,
    price_micro_yuan: int | None = None,
) -> Discount:
    """A contract price in a pool from the first to the last day: for a size class, a programme, or a class in one.

    Either so many percent off the list price, or a price per GPU-hour in its place (never above it). One day has at
    most one of a scope. Raises Refusal at `size_class`, `programme_id`, `from_on`, `until_on`, `percent` or `price`.
    """
    require(by, Permission.DISCOUNT_SET)
    if lock(session, Pool, pool_id) is None:
        raise NotFound
    if size_class is not None and size_class not in SIZE_CLASSES:
        raise Refusal(Sentence("not-a-choice"), "size_class")
    if programme_id is not None and not offers(session, programme_id, pool_id):
        raise Refusal(Sentence("programme-has-no-such-pool"), "programme_id")
    if size_class is None and programme_id is None:
        raise Refusal(Sentence("discount-for-nobody"), "size_class")
    if until_on < from_on:
        raise Refusal(Sentence("end-day-before-start", start=from_on), "until_on")
    if from_on <= clock.day_of(now):
        raise Refusal(Sentence("discount-needs-future", first=clock.day_of(now) + dt.timedelta(days=1)), "from_on")
    if (percent is None) == (price_micro_yuan is None):
        raise Refusal(Sentence("discount-is-one-of-both"), "percent")
    if percent is not None and not 1 <= percent <= 100:
        raise Refusal(Sentence("not-a-percentage"), "percent")
    clash = session.scalars(
        sa.select(Discount)
        .where(
            Discount.pool_id == pool_id,
            Discount.size_class.is_not_distinct_from(size_class),
            Discount.programme_id.is_not_distinct_from(programme_id),
            Discount.from_on <= until_on,
            Discount.until_on >= from_on,
        )
        .limit(1)
    ).first()
    if clash is not None:
        days = {"first": clash.from_on, "last": clash.until_on}
        if clash.percent is None:
            raise Refusal(Sentence("contract-price-overlaps", price=clash.price_micro_yuan, **days), "from_on")
        raise Refusal(Sentence("discount-overlaps", percent=clash.percent, **days), "from_on")
    discount = Discount(
        pool_id=pool_id,
        programme_id=programme_id,
        size_class=size_class,
        from_on=from_on,
        until_on=until_on,
        percent=percent,
        price_micro_yuan=price_micro_yuan,
        set_by=by.user_id,
        set_at=now,
    )
    session.add(discount)
    session.flush()
    return discount


def set_weight(
    session: Session,
    programme_id: int,
    pool_id: int,
    *,
    from_on: dt.date,
    weight_milli: int,
    by: Actor,
    now: dt.datetime,
) -> CardWeight:
    """Publish what a GPU-hour of a pool counts in exchange from a day on. Raises Refusal at `pool_id` or `from_on`."""
    require(by, Permission.WEIGHT_SET)
    if lock(session, Programme, programme_id) is None:
        raise NotFound
    if not offers(session, programme_id, pool_id):
        raise Refusal(Sentence("programme-has-no-such-pool"), "pool_id")
    if not 0 < weight_milli <= 1_000_000:
        raise Refusal(Sentence("weight-out-of-range"), "weight")
    if from_on < clock.day_of(now):
        raise Refusal(Sentence("weight-needs-future", first=clock.day_of(now)), "from_on")
    taken = sa.select(CardWeight.id).where(
        CardWeight.programme_id == programme_id, CardWeight.pool_id == pool_id, CardWeight.from_on == from_on
    )
    if session.scalar(taken) is not None:
        raise Refusal(Sentence("weight-day-taken", day=from_on), "from_on")
    weight = CardWeight(
        programme_id=programme_id,
        pool_id=pool_id,
        from_on=from_on,
        weight_milli=weight_milli,
        set_by=by.user_id,
        set_at=now,
    )
    session.add(weight)
    session.flush()
    return weight


def weight_on(session: Session, programme_id: int, pool_id: int, day: dt.date) -> int | None:
    """The pool's weight on a day in thousandths; None while none is published."""
    return session.scalar(
        sa.select(CardWeight.weight_milli)
        .where(CardWeight.programme_id == programme_id, CardWeight.pool_id == pool_id, CardWeight.from_on <= day)
        .order_by(CardWeight.from_on.desc())
        .limit(1)
    )


def exchanged(gpu_seconds: int, weight_from: int, weight_to: int) -> int:
    """GPU-seconds of another pool for these, cut to the second: nobody gains by exchanging back and forth."""
    return gpu_seconds * weight_from // weight_to
