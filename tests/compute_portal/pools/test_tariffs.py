"""Setting prices, contract prices and weights: what would overlap is refused by the verb and by the database."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from compute_portal import units
from compute_portal.pools import service
from compute_portal.pools.models import Discount, Tariff
from compute_portal.pools.queries import price_book
from compute_portal.programmes import service as programmes
from compute_portal.sentences import Refusal
from tests.cast import NOW, Cast

TOMORROW = dt.date(2026, 11, 19)
DECEMBER = dt.date(2026, 12, 1)
NIGHT = (22, 8)


def set_price(cast: Cast, from_on: dt.date = TOMORROW, yuan: str = "20", **more: Any) -> int:
    return cast.database.transaction(
        lambda s: (
            service.set_tariff(
                s, cast.pool, from_on=from_on, price_micro_yuan=units.parse_yuan(yuan), by=cast.finance, now=NOW, **more
            ).id
        )
    )


def refusal(cast: Cast, *args: Any, **more: Any) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        set_price(cast, *args, **more)
    return refused.value.sentence.id, refused.value.field


def test_a_new_price_of_the_day_ends_the_one_before_and_nothing_lies_between(cast: Cast) -> None:
    set_price(cast, DECEMBER)
    with cast.database.read_only() as session:
        first, second = session.scalars(sa.select(Tariff).order_by(Tariff.from_on))
    assert (first.until_on, second.from_on, second.until_on) == (dt.date(2026, 11, 30), DECEMBER, None)
    assert refusal(cast, TOMORROW) == ("tariff-overlaps", "from_on")
    assert refusal(cast, DECEMBER) == ("tariff-day-taken", "from_on")
    assert refusal(cast, dt.date(2026, 11, 18)) == ("tariff-needs-future", "from_on")
    assert refusal(cast, dt.date(2027, 1, 1), until_on=dt.date(2027, 2, 1)) == ("tariff-of-the-day-is-open", "until_on")
    assert refusal(cast, dt.date(2027, 1, 1), gpus_most=8) == ("tariff-limit-needs-hours", "gpus_most")


def test_off_peak_hours_that_meet_are_refused_and_others_stand_beside_them(cast: Cast) -> None:
    set_price(cast, TOMORROW, "8", hours=NIGHT, until_on=dt.date(2026, 12, 31), gpus_most=16)
    for hours in ((7, 9), (21, 23), (0, 1), (8, 23), NIGHT):
        assert refusal(cast, DECEMBER, hours=hours) == ("tariff-hours-overlap", "from_hour"), hours
    set_price(cast, DECEMBER, "12", hours=(12, 14))
    set_price(cast, dt.date(2027, 1, 1), "9", hours=NIGHT)
    for hours, expected in (
        ((24, 3), ("not-an-hour", "from_hour")),
        ((3, 0), ("not-an-hour", "until_hour")),
        ((0, 24), ("hours-are-the-day", "until_hour")),
        ((5, 5), ("hours-are-the-day", "until_hour")),
    ):
        assert refusal(cast, DECEMBER, hours=hours) == expected
    assert refusal(cast, DECEMBER, hours=(9, 10), until_on=TOMORROW)[1] == "until_on"
    assert refusal(cast, DECEMBER, hours=(9, 10), gpus_most=0)[1] == "gpus_most"


def test_an_open_off_peak_price_is_ended_once_and_not_in_the_past(cast: Cast) -> None:
    night = set_price(cast, DECEMBER, "8", hours=NIGHT)

    def end(id: int, day: dt.date) -> None:
        cast.database.transaction(lambda s: service.end_tariff(s, id, until_on=day, by=cast.finance, now=NOW).id)

    with pytest.raises(Refusal, match="tariff-ends-too-early"):
        end(night, dt.date(2026, 11, 30))
    end(night, dt.date(2026, 12, 24))
    with pytest.raises(Refusal, match="tariff-has-ended"):
        end(night, dt.date(2026, 12, 26))
    with cast.database.read_only() as session:
        book = price_book(session, cast.pool)
    [day] = [tariff.id for tariff in book.tariffs if not tariff.off_peak]
    with pytest.raises(Refusal, match="tariff-of-the-day-is-open"):
        end(day, dt.date(2026, 12, 24))
    assert book.off_peak_prices(DECEMBER)[0].id == night
    with pytest.raises(Refusal, match="not-allowed"):
        cast.database.transaction(
            lambda s: service.end_tariff(s, night, until_on=DECEMBER, by=cast.operator, now=NOW).id
        )


def _insert_tariff(
    session: Session, cast: Cast, from_on: str, hours: tuple[int, int] | None, until: str | None
) -> None:
    first, last = hours or (None, None)
    session.execute(
        sa.insert(Tariff),
        {
            "pool_id": cast.pool, "from_on": dt.date.fromisoformat(from_on), "from_hour": first, "until_hour": last,
            "until_on": None if until is None else dt.date.fromisoformat(until), "price_micro_yuan": 1, "set_at": NOW,
        },
    )  # fmt: skip


def test_the_database_refuses_two_prices_of_one_hour_and_any_change_but_a_last_day(
    cast: Cast, session: Session
) -> None:
    set_price(cast, DECEMBER)
    set_price(cast, DECEMBER, "8", hours=NIGHT, until_on=dt.date(2026, 12, 31))
    clashes = [
        ("2026-06-01", None, None),
        ("2026-11-30", None, "2026-11-30"),
        ("2027-06-01", None, None),
        ("2026-12-31", (7, 8), None),
        ("2026-11-01", (23, 24), "2026-12-01"),
        ("2026-11-01", (1, 23), None),
    ]
    for clash in clashes:
        with pytest.raises(sa.exc.DBAPIError, match="prices overlap"), session.begin_nested():
            _insert_tariff(session, cast, *clash)
    with session.begin_nested():
        _insert_tariff(session, cast, "2026-12-05", (8, 22), None)
        _insert_tariff(session, cast, "2027-01-01", (7, 8), None)
    changes = {"price_micro_yuan": 2, "from_on": TOMORROW, "until_on": None, "pool_id": cast.pool + 0, "gpus_most": 3}
    for row in session.scalars(sa.select(Tariff)).all():
        for column, value in changes.items():
            if column == "gpus_most" and row.from_hour is None:
                continue
            with pytest.raises(sa.exc.DBAPIError, match="append-only"), session.begin_nested():
                session.execute(sa.update(Tariff).where(Tariff.id == row.id).values({column: value}))
        again = pytest.raises(sa.exc.DBAPIError, match="append-only")
        if row.until_on is not None:
            with again, session.begin_nested():
                session.execute(
                    sa.update(Tariff).where(Tariff.id == row.id).values(until_on=row.until_on + dt.timedelta(days=1))
                )


# -- contract prices --------------------------------------------------------------------------------------------------


def contract(cast: Cast, first: dt.date = DECEMBER, last: dt.date = dt.date(2026, 12, 31), **scope: Any) -> int:
    terms = {"percent": 10} | scope
    return cast.database.transaction(
        lambda s: (
            programmes.set_discount(s, cast.pool, from_on=first, until_on=last, by=cast.finance, now=NOW, **terms).id
        )
    )


def test_contract_prices_of_one_scope_never_overlap_and_those_of_others_may(cast: Cast, session: Session) -> None:
    scopes: list[dict[str, Any]] = [
        {"size_class": "small"},
        {"programme_id": cast.programme},
        {"programme_id": cast.programme, "size_class": "small", "percent": None, "price_micro_yuan": 9_000_000},
    ]
    for scope in scopes:
        contract(cast, **scope)
        with pytest.raises(Refusal, match=r"(discount|contract-price)-overlaps") as refused:
            contract(cast, first=dt.date(2026, 12, 31), last=dt.date(2027, 1, 1), **scope)
        assert refused.value.field == "from_on"
        contract(cast, first=dt.date(2027, 1, 1), last=dt.date(2027, 1, 31), **scope)
    dates = {"pool_id": cast.pool, "from_on": DECEMBER, "until_on": DECEMBER, "set_at": NOW}
    for scope in scopes:
        with pytest.raises(sa.exc.DBAPIError, match="discounts overlap"), session.begin_nested():
            session.execute(sa.insert(Discount), {"percent": 1} | scope | dates)
    session.rollback()
    with cast.database.read_only() as reading:
        book = price_book(reading, cast.pool)
    assert len(book.discounts) == 6


@pytest.mark.parametrize(
    ("terms", "sentence", "field"),
    [
        ({}, "discount-for-nobody", "size_class"),
        ({"size_class": "huge"}, "not-a-choice", "size_class"),
        ({"programme_id": 99}, "programme-has-no-such-pool", "programme_id"),
        ({"size_class": "small", "price_micro_yuan": 1}, "discount-is-one-of-both", "percent"),
        ({"size_class": "small", "percent": None}, "discount-is-one-of-both", "percent"),
        ({"size_class": "small", "percent": 101}, "not-a-percentage", "percent"),
        ({"size_class": "small", "first": dt.date(2026, 11, 18)}, "discount-needs-future", "from_on"),
    ],
)
def test_a_contract_price_that_says_nothing_clear_is_refused_at_its_field(
    cast: Cast, terms: dict[str, Any], sentence: str, field: str
) -> None:
    with pytest.raises(Refusal, match=sentence) as refused:
        contract(cast, **terms)
    assert refused.value.field == field


# -- weights ----------------------------------------------------------------------------------------------------------


def test_a_weight_is_set_for_a_day_to_come_and_a_slice_says_its_part_of_a_card(cast: Cast) -> None:
    def weigh(day: dt.date, milli: int, slice: str = "") -> int:
        return cast.database.transaction(
            lambda s: (
                service.set_pool_weight(
                    s, cast.pool, from_on=day, weight_milli=milli, slice=slice, by=cast.finance, now=NOW
                ).id
            )
        )

    weigh(DECEMBER, 1_500)
    weigh(dt.date(2026, 1, 1), 125, "1g.10gb")
    for day, milli, slice, sentence, field in (
        (DECEMBER, 1_200, "", "weight-day-taken", "from_on"),
        (dt.date(2026, 11, 18), 1_200, "", "weight-needs-future", "from_on"),
        (dt.date(2026, 11, 18), 130, "1g.10gb", "weight-needs-future", "from_on"),
        (DECEMBER, 0, "", "weight-out-of-range", "weight"),
        (DECEMBER, 1_001, "7g", "slice-out-of-range", "weight"),
        (DECEMBER, 100, "半卡", "not-a-slice", "slice"),
    ):
        with pytest.raises(Refusal, match=sentence) as refused:
            weigh(day, milli, slice)
        assert refused.value.field == field
