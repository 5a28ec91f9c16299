"""What was used: a month by day, pool and member, the records behind every number, and how one became a charge."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flask import Blueprint, Response, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, exports, paging, units
from ..access import Actor, Permission
from ..bookings import queries as bookings
from ..db import Database
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..guard import actor, allows, log_access, now, portal, read
from ..language import N_, typed
from ..ledger.models import Bucket
from ..sentences import NotFound
from ..signin.queries import names_of
from . import queries
from .queries import RecordRow, Which

blueprint = Blueprint("usage", __name__, template_folder="templates")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
DAY = re.compile(r"20\d\d-\d\d-\d\d")
LARGEST_ID = 2**31 - 1
LONGEST_SEARCH = 60
BUCKETS = {
    Bucket.HELD: N_("Held"),
    Bucket.AVAILABLE: N_("Left"),
    Bucket.OVERDRAFT: N_("Overdraft"),
    Bucket.USED: N_("Used"),
}


# -- which usage the address asks for


def _which(by: Actor) -> Which:
    """The filters in the address. What no row can have is not found, like another enterprise's rows."""
    enterprise_id = _id("enterprise_id")
    if enterprise_id is not None and not by.is_bureau:
        if enterprise_id != by.enterprise_id:
            raise NotFound
        enterprise_id = None  # members see nothing else anyway
    return Which(
        month=_month("month"),
        enterprise_id=enterprise_id,
        day=_day(),
        pool_id=_id("pool_id"),
        user_id=_id("user_id"),
        booking_id=_id("booking_id"),
        billed_in=_month("billed_in"),
        tariff_id=_id("tariff_id"),
        adjustment=_yes_or_no("adjustment"),
    )


def _month(name: str) -> str | None:
    asked = http.args.get(name)
    if asked is not None and not MONTH.fullmatch(asked):
        raise NotFound
    return asked


def _day() -> dt.date | None:
    asked = http.args.get("day")
    if asked is None:
        return None
    try:
        return dt.date.fromisoformat(asked if DAY.fullmatch(asked) else "")
    except ValueError:
        raise NotFound from None


def _id(name: str) -> int | None:
    asked = http.args.get(name)
    if asked is None:
        return None
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 10 and int(asked) <= LARGEST_ID):
        raise NotFound
    return int(asked)


def _yes_or_no(name: str) -> bool | None:
    asked = http.args.get(name)
    if asked not in (None, "0", "1"):
        raise NotFound
    return None if asked is None else asked == "1"


def _in_address(which: Which) -> dict[str, Any]:
    """The filters as an address carries them."""
    found = {name: value for name, value in asdict(which).items() if value is not None}
    if which.adjustment is not None:
        found["adjustment"] = int(which.adjustment)
    return found


def _records_of(which: Which) -> Callable[..., str]:
    """What a number opens to: the records of the same filters, some changed."""
    return lambda **changes: url_for("usage.records", **_in_address(replace(which, **changes)))


def _searched() -> str:
    """Part of a name or code; the zero byte, which PostgreSQL refuses, is in no name."""
    return http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]


# -- a month


@dataclass(frozen=True, slots=True)
class Bar:
    """A day in the picture: percent across, pixels down."""

    day: dt.date
    gpu_seconds: int
    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Plot:
    """A month as bars from zero. `lines` are (GPU-seconds, pixels down)."""

    bars: list[Bar]
    lines: list[tuple[int, float]]
    most: Bar


LEFT_PERCENT, TOP, BOTTOM = 7.0, 24.0, 196.0


def _plot(month: str, by_day: dict[dt.date, int]) -> Plot:
    year, number = (int(part) for part in month.split("-"))
    days = [dt.date(year, number, day) for day in range(1, calendar.monthrange(year, number)[1] + 1)]
    lines = _round_lines(max(by_day.values()))
    slot = (100 - LEFT_PERCENT) / len(days)
    tall = (BOTTOM - TOP) / lines[-1]
    bars = []
    for index, day in enumerate(days):
        seconds = by_day.get(day, 0)
        height = seconds * tall
        bars.append(Bar(day, seconds, LEFT_PERCENT + index * slot + slot * 0.14, slot * 0.72, BOTTOM - height, height))
    return Plot(bars, [(line, BOTTOM - line * tall) for line in lines], max(bars, key=lambda bar: bar.gpu_seconds))


def _round_lines(most: int) -> list[int]:
    """Zero and two to five round numbers of GPU-hours up to at least the most, in GPU-seconds."""
    hours = max(1, -(-most // units.SECONDS_PER_HOUR))
    step = 10 ** (len(str(hours)) - 1)
    for smaller in (step // 5, step // 2):
        if smaller and hours <= 4 * smaller:
            step = smaller
            break
    count = -(-hours // step)
    if count > 5:
        step, count = step * 2, -(-hours // (step * 2))
    return [units.gpu_seconds(step * i) for i in range(count + 1)]


@blueprint.get("/usage")
@allows(Permission.USAGE_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    asked = _which(by)
    which = Which(month=asked.month or clock.month_of(now()), enterprise_id=asked.enterprise_id)
    sums = queries.sums(read(), which, by)
    return render_template(
        "usage/index.html",
        which=which,
        enterprise=_enterprise(which, by),
        sums=sums,
        plot=_plot(which.month or "", sums.by_day) if sums.total else None,
        months=_neighbours(which, by),
        records=_records_of(which),
        month_address=lambda month: url_for("usage.index", month=month, enterprise_id=which.enterprise_id),
        export=url_for("usage.export", **_in_address(which)) if by.may(Permission.USAGE_EXPORT) else None,
        **(_by_enterprise(which, by) if by.is_bureau and which.enterprise_id is None else _by_member(which, by)),
    )


def _enterprise(which: Which, by: Actor) -> Enterprise | None:
    """The enterprise the bureau chose. A member's own is in the header."""
    return None if which.enterprise_id is None else enterprises.get_enterprise(read(), which.enterprise_id, by)


def _neighbours(which: Which, by: Actor) -> tuple[str | None, str | None]:
    """The month before and the one after, where there is anything to see."""
    found, shown = queries.find_months(read(), which, by), which.month or ""
    last = max(found[1] if found else "", clock.month_of(now()))
    earlier = clock.previous_month(shown) if found and found[0] < shown else None
    return earlier, clock.next_month(shown) if shown < last else None


def _by_member(which: Which, by: Actor) -> dict[str, object]:
    members = queries.sums_by_member(read(), which, by)
    page = paging.page_of(len(members))
    return {"members": members[page.offset : page.offset + page.size], "page": page, "find": None}


def _by_enterprise(which: Which, by: Actor) -> dict[str, object]:
    find = _searched()
    page = paging.page_of(queries.count_enterprises(read(), which, by, find))
    rows = queries.sums_by_enterprise(read(), which, by, find, offset=page.offset)
    return {"firms": rows, "page": page, "find": find}


# -- records


@blueprint.get("/usage/records")
@allows(Permission.USAGE_VIEW)
def records() -> ResponseReturnValue:
    by = actor()
    which = _which(by)
    booking = None if which.booking_id is None else bookings.get_booking(read(), which.booking_id, by)
    count, seconds = queries.count_records(read(), which, by)
    page = paging.page_of(count)
    rows = queries.list_records(read(), which, by, offset=page.offset) if count else []
    return render_template(
        "usage/records.html",
        which=which,
        enterprise=_enterprise(which, by),
        booking=booking,
        names=names_of(read(), [row.record.user_id for row in rows]),
        rows=rows,
        page=page,
        seconds=seconds,
        amount_of=units.amount_micro_yuan,
        without=_records_of(which),
        export=url_for("usage.export", **_in_address(which)) if by.may(Permission.USAGE_EXPORT) else None,
    )


@blueprint.get("/usage/records/<int:record_id>")
@allows(Permission.USAGE_VIEW)
def record(record_id: int) -> ResponseReturnValue:
    row = queries.get_record(read(), record_id, actor())
    return render_template(
        "usage/record.html",
        row=row,
        names=names_of(read(), [row.record.user_id]),
        legs=queries.ledger_entries_of(read(), record_id),
        buckets=BUCKETS,
        amount_of=units.amount_micro_yuan,
    )


# -- the file

COLUMNS = (
    "record_id", "billed_month", "adjustment", "enterprise", "credit_code", "pool", "booking_id", "booking_title",
    "attempt", "starts_at_beijing", "ends_at_beijing", "cards", "gpu_seconds", "gpu_hours",
    "price_cny_per_gpu_hour", "amount_cny",
)  # fmt: skip


@blueprint.get("/usage/export.csv")
@allows(Permission.USAGE_EXPORT)
def export() -> ResponseReturnValue:
    by = actor()
    which = _which(by)
    _enterprise(which, by)
    if which.booking_id is not None:
        bookings.get_booking(read(), which.booking_id, by)
    log_access("export", http.query_string.decode("ascii", "replace")[:200])
    name = "-".join(["usage", *(part for part in (which.month, which.billed_in) if part)])
    response = Response(exports.csv_lines(COLUMNS, _lines(portal().database, which, by)), mimetype=exports.MIMETYPE)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response


def _lines(database: Database, which: Which, by: Actor) -> Iterator[Sequence[exports.Cell]]:
    """Read while it is sent, in a snapshot of its own: the file may be larger than the memory."""
    with database.read_only() as session:
        for row in queries.every_record(session, which, by):
            yield _line(row)


def _line(row: RecordRow) -> Sequence[exports.Cell]:
    record, price = row.record, row.tariff.price_micro_yuan
    return (
        record.id,
        row.charge.billed_in,
        int(row.charge.adjustment),
        row.enterprise.name,
        row.enterprise.credit_code,
        row.pool.name,
        record.booking_id,
        row.booking.title,
        row.attempt.key,
        f"{typed(record.starts_at)}:{record.starts_at:%S}",
        f"{typed(record.ends_at)}:{record.ends_at:%S}",
        record.gpus,
        record.gpu_seconds,
        units.gpu_hours(record.gpu_seconds),
        units.yuan(price),
        units.yuan(units.amount_micro_yuan(record.gpu_seconds, price)),
    )
