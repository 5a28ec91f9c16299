"""What was used: a month by day, pool and member, the records behind every number, and how one became a charge."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, exports, paging, units
from ..access import Actor, Permission
from ..addresses import address
from ..allocations import queries as allocations
from ..allocations.states import AllocationState
from ..bookings import queries as bookings
from ..db import Database
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..forms import show
from ..guard import actor, allows, log_access, now, one_time, portal, read, tell
from ..language import N_, typed
from ..ledger.models import Bucket
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import names_of
from . import queries, service
from .burn import burn
from .forecast import of_allocation, outlooks
from .forms import CorrectionForm, RerateForm
from .freshness import Span, freshness, span
from .models import ChargeKind
from .queries import Change, RecordRow, Sums, Which
from .sums import spend

blueprint = Blueprint("usage", __name__, template_folder="templates")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
DAY = re.compile(r"20\d\d-\d\d-\d\d")
LARGEST_ID = 2**31 - 1
LONGEST_SEARCH = 60
KIND_NAMES = {
    ChargeKind.USAGE: N_("Usage"),
    ChargeKind.CANCELLATION: N_("Cancellation charge"),
    ChargeKind.NO_SHOW: N_("No-show"),
    ChargeKind.RETURNED: N_("Handed back"),
    ChargeKind.OUTAGE: N_("Outage credit"),
    ChargeKind.CORRECTION: N_("Correction"),
    ChargeKind.RERATE: N_("New price"),
}
BUCKETS = {
    Bucket.EXPIRED: N_("Expired"),
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
    found = {each.name: value for each in fields(which) if (value := getattr(which, each.name)) is not None}
    if which.adjustment is not None:
        found["adjustment"] = int(which.adjustment)
    return found


def _records_of(which: Which) -> Callable[..., str]:
    """What a number opens to: the records of the same filters, some changed."""
    return lambda **changes: address("usage.records", **_in_address(replace(which, **changes)))


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
    of_one = not by.is_bureau or which.enterprise_id is not None
    sums = queries.sums(read(), which, by, by_member=of_one)
    known = span(read(), by, now(), which.enterprise_id)
    return render_template(
        "usage/index.html",
        which=which,
        enterprise=_enterprise(which, by),
        sums=sums,
        plot=_plot(which.month or "", sums.by_day) if sums.total else None,
        months=_neighbours(which.month or "", known),
        fresh=known.fresh,
        records=_records_of(which),
        month_address=lambda month: address("usage.index", month=month, enterprise_id=which.enterprise_id),
        export=address("usage.export", **_in_address(which)) if by.may(Permission.USAGE_EXPORT) else None,
        **(_by_member(which, by, sums, known) if of_one else _by_enterprise(which, by)),
    )


def _enterprise(which: Which, by: Actor) -> Enterprise | None:
    """The enterprise the bureau chose. A member's own is in the header."""
    return None if which.enterprise_id is None else enterprises.get_enterprise(read(), which.enterprise_id, by)


def _neighbours(shown: str, known: Span) -> tuple[str | None, str | None]:
    """The month before and the one after, where there is anything to see."""
    last = max(known.last_month or "", clock.month_of(now()))
    earlier = clock.previous_month(shown) if known.first_month and known.first_month < shown else None
    return earlier, clock.next_month(shown) if shown < last else None


def _by_member(which: Which, by: Actor, sums: Sums, known: Span) -> dict[str, object]:
    """One enterprise: who used it, what it costs so far, how long each allocation lasts."""
    enterprise_id = which.enterprise_id or by.enterprise_id or 0
    page = paging.page_of(len(sums.by_member))
    costs = by.may(Permission.STATEMENT_VIEW)
    return {
        "members": sums.by_member[page.offset : page.offset + page.size],
        "page": page,
        "find": None,
        "spend": spend(read(), enterprise_id, which.month or "") if costs else None,
        "current": outlooks(read(), enterprise_id, by, known.fresh.metered_until),
    }


def _by_enterprise(which: Which, by: Actor) -> dict[str, object]:
    find = _searched()
    page = paging.page_of(queries.count_enterprises(read(), which, by, find))
    rows = queries.sums_by_enterprise(read(), which, by, find, offset=page.offset)
    return {"firms": rows, "page": page, "find": find, "spend": None, "current": []}


# -- an allocation, day by day


@blueprint.get("/usage/allocations/<int:allocation_id>")
@allows(Permission.USAGE_VIEW)
def allocation(allocation_id: int) -> ResponseReturnValue:
    by = actor()
    row = allocations.get_row(read(), allocation_id, by)
    running = row.allocation.state is AllocationState.ACTIVE
    forecast = of_allocation(read(), row.allocation, row.balance, now()) if running else None
    return render_template(
        "usage/allocation.html",
        row=row,
        forecast=forecast,
        burn=burn(
            queries.used_by_day(read(), row.allocation),
            awarded=row.balance.awarded,
            starts_on=row.allocation.starts_on,
            ends_on=row.allocation.ends_on,
            today=clock.day_of(now()),
            forecast=forecast,
        ),
        export=url_for("usage.export_allocation", allocation_id=allocation_id)
        if by.may(Permission.USAGE_EXPORT)
        else None,
    )


@blueprint.get("/usage/allocations/<int:allocation_id>.csv")
@allows(Permission.USAGE_EXPORT)
def export_allocation(allocation_id: int) -> ResponseReturnValue:
    row = allocations.get_row(read(), allocation_id, actor())
    log_access("export", f"allocation {allocation_id}")
    lines, so_far = [], 0
    for day, seconds in queries.used_by_day(read(), row.allocation).items():
        so_far += seconds
        lines.append((day.isoformat(), seconds, so_far, row.balance.awarded))
    header = ("day", "used_gpu_seconds", "used_so_far_gpu_seconds", "awarded_gpu_seconds")
    response = Response("".join(exports.csv_lines(header, lines)), mimetype=exports.MIMETYPE)
    response.headers["Content-Disposition"] = f'attachment; filename="allocation-{allocation_id}.csv"'
    return response


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
    changes = queries.list_changes(read(), [row.record.id for row in rows]) if rows else {}
    return render_template(
        "usage/records.html",
        which=which,
        enterprise=_enterprise(which, by),
        booking=booking,
        names=names_of(read(), [row.record.user_id for row in rows]),
        rows=rows,
        page=page,
        seconds=seconds,
        changes=changes,
        fresh=freshness(read(), by, now(), which.enterprise_id),
        without=_records_of(which),
        export=url_for("usage.export", **_in_address(which)) if by.may(Permission.USAGE_EXPORT) else None,
    )


@blueprint.get("/usage/records/<int:record_id>")
@allows(Permission.USAGE_VIEW)
def record(record_id: int) -> ResponseReturnValue:
    return _record_page(record_id, CorrectionForm())


def _record_page(record_id: int, form: CorrectionForm) -> ResponseReturnValue:
    by = actor()
    row = queries.get_record(read(), record_id, by)
    changes = queries.list_changes(read(), [record_id]).get(record_id, [])
    left = _left(row, changes)
    return show(
        "usage/record.html",
        form,
        row=row,
        changes=changes,
        left=sum(left.values()),
        names=names_of(read(), [row.record.user_id, *(change.charge.by_id for change in changes)]),
        legs=queries.ledger_entries_of(read(), record_id),
        buckets=BUCKETS,
        kinds=KIND_NAMES,
        fresh=freshness(read(), by, now(), row.record.enterprise_id),
        in_parts=_in_parts,
        may_correct=by.may(Permission.USAGE_CORRECT) and any(left.values()),
    )


def _in_parts(milli: int) -> str:
    """Thousandths as a decimal number with at least one digit after the point."""
    text = f"{Decimal(milli) / 1000:.3f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _left(row: RecordRow, changes: Sequence[Change]) -> dict[int, int]:
    """GPU-seconds of each charge of a record that can still be given back."""
    charges = [row.charge, *(change.charge for change in changes)]
    left = {charge.id: charge.gpu_seconds for charge in charges if charge.gpu_seconds > 0}
    for charge in charges:
        if charge.gpu_seconds < 0 and charge.corrects_id in left:
            left[charge.corrects_id] += charge.gpu_seconds
    return left


@blueprint.post("/usage/records/<int:record_id>/correct")
@allows(Permission.USAGE_CORRECT)
def correct(record_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    row = queries.get_record(read(), record_id, by)
    left = _left(row, queries.list_changes(read(), [record_id]).get(record_id, []))
    charge_id = max(left, key=lambda id: (left[id], id))  # what was re-rated has all its hours in the newest
    form = CorrectionForm()
    if form.validate():
        hours, reason = form.hours.data, form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda session: service.correct(session, charge_id, hours, reason=reason, by=by, now=at),
                lambda _id: url_for("usage.record", record_id=record_id, _anchor="changes"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("usage-corrected", hours=hours))
            return redirect(address)
    return _record_page(record_id, form)


# -- another rate


@blueprint.get("/enterprises/<int:enterprise_id>/usage/rerate")
@allows(Permission.USAGE_RERATE)
def new_rate(enterprise_id: int) -> ResponseReturnValue:
    return _rate_page(enterprise_id, RerateForm())


def _rate_page(enterprise_id: int, form: RerateForm) -> ResponseReturnValue:
    enterprise = enterprises.get_enterprise(read(), enterprise_id, actor())
    return show("usage/rerate.html", form, enterprise=enterprise)


@blueprint.post("/enterprises/<int:enterprise_id>/usage/rerate")
@allows(Permission.USAGE_RERATE)
def rerate(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = RerateForm(), actor(), now()
    enterprises.get_enterprise(read(), enterprise_id, by)
    if form.validate():
        month, reason = form.month.data or "", form.reason.data or ""
        start, end = clock.month_bounds(month)
        done: list[service.Rerated] = []

        def work(session: Session) -> int:
            done[:] = [service.rerate(session, enterprise_id, start, end, reason=reason, by=by, now=at)]
            return done[0].charges

        try:
            address = one_time(
                form.form_key.data,
                work,
                lambda _n: url_for("usage.index", month=month, enterprise_id=enterprise_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(_words_of(done[0]) if done else Sentence("usage-rerated-nothing"))
            return redirect(address)
    return _rate_page(enterprise_id, form)


def _words_of(done: service.Rerated) -> Sentence:
    if not done.charges:
        return Sentence("usage-rerated-nothing")
    return Sentence("usage-rerated", hours=done.gpu_seconds, before=done.before_micro_yuan, after=done.after_micro_yuan)


# -- the file

COLUMNS = (
    "record_id", "billed_month", "adjustment", "enterprise", "credit_code", "pool", "booking_id", "booking_title",
    "attempt", "starts_at_beijing", "ends_at_beijing", "cards", "gpu_seconds", "gpu_hours",
    "price_cny_per_gpu_hour", "amount_cny", "kind", "share_of_cards", "weight", "contract_price_cny_per_gpu_hour",
    "corrects_charge", "charge",
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
        for row in queries.every_charge(session, which, by):
            yield _line(row)


def _line(row: RecordRow) -> Sequence[exports.Cell]:
    record, charge, price = row.record, row.charge, row.price
    return (
        record.id,
        charge.billed_in,
        int(charge.adjustment),
        row.enterprise.name,
        row.enterprise.credit_code,
        row.pool.name,
        record.booking_id,
        row.booking.title,
        row.attempt.key,
        f"{typed(record.starts_at)}:{record.starts_at:%S}",
        f"{typed(record.ends_at)}:{record.ends_at:%S}",
        record.gpus,
        charge.gpu_seconds,
        units.gpu_hours(charge.gpu_seconds),
        units.yuan(price.list_micro_yuan),
        units.yuan(row.amount_micro_yuan),
        charge.kind.value,
        Decimal(record.share_milli) / 1000,
        Decimal(charge.weight_milli) / 1000,
        units.yuan(price.contract_micro_yuan),
        charge.corrects_id,
        charge.id,
    )
