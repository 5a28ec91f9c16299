"""Statements: a company's own, a month of all of them for finance, one as a sheet, and as a file."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence

from flask import Blueprint, Response, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, exports, paging, units
from ..access import Actor, Permission
from ..enterprises.models import Enterprise
from ..guard import actor, allows, log_access, now, portal, read
from ..lifecycle import list_history
from ..sentences import NotFound
from ..signin.queries import names_of
from . import queries, service
from .models import Statement
from .queries import Line, Sheet, Totals, Which
from .states import LIFE, StatementState

blueprint = Blueprint("statements", __name__, template_folder="templates")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
LONGEST_SEARCH = 60
LINES_ON_A_PAGE = 100
NOTHING = Totals(0, 0, 0)
# The way of a statement; a returned one is computed again, like a draft.
STEPS = (StatementState.DRAFT, StatementState.IN_REVIEW, StatementState.APPROVED, StatementState.ISSUED)


@blueprint.get("/statements")
@allows(Permission.STATEMENT_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    return _month_page(by) if by.is_bureau else _own_page(by)


def _month() -> str | None:
    asked = http.args.get("month")
    if asked is not None and not MONTH.fullmatch(asked):
        raise NotFound
    return asked


def _state() -> StatementState | None:
    asked = http.args.get("state")
    if asked is not None and asked not in set(StatementState):
        raise NotFound
    return None if asked is None else StatementState(asked)


def _searched() -> str:
    """Part of a name, code or number; the zero byte, which PostgreSQL refuses, is in none of them."""
    return http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]


def _own_page(by: Actor) -> ResponseReturnValue:
    """What a company's manager sees: every month of the company, the newest first."""
    which = Which(month=_month())
    page = paging.page_of(queries.count_statements(read(), which, by))
    rows = queries.list_statements(read(), which, by, offset=page.offset)
    drafts = [statement.id for statement, _enterprise in rows if statement.state is StatementState.DRAFT]
    totals = queries.draft_totals_of(read(), statement_ids=drafts) if drafts else {}
    return render_template("statements/own.html", which=which, page=page, rows=_priced(rows, totals))


def _priced(
    rows: Sequence[tuple[Statement, Enterprise]], drafts: dict[int, Totals]
) -> list[tuple[Statement, Enterprise, Totals]]:
    """Each statement with its totals: frozen, or of a draft computed from its charges so far."""
    return [(statement, firm, drafts.get(statement.id) or queries.totals_of(statement, [])) for statement, firm in rows]


def _month_page(by: Actor) -> ResponseReturnValue:
    """What finance and auditors see: one month, every company."""
    months = queries.list_months(read(), by)
    month = _month() or _usual_month(months)
    which = Which(month, _state(), _searched())
    by_state = queries.sums_by_state(read(), month)
    drafts = queries.draft_totals_of(read(), month=month)
    page = paging.page_of(queries.count_statements(read(), which, by))
    return render_template(
        "statements/month.html",
        which=which,
        month=month,
        earlier=next((known for known in months if known < month), None),
        later=next((known for known in reversed(months) if known > month), None),
        counts={state: by_state.get(state, (0, NOTHING))[0] for state in StatementState},
        closed=sum((totals for _n, totals in by_state.values()), NOTHING),
        drafts=sum(drafts.values(), NOTHING),
        page=page,
        rows=_priced(queries.list_statements(read(), which, by, offset=page.offset), drafts),
    )


def _usual_month(months: list[str]) -> str:
    """The month that finance works on: the last one that is over, if there are statements."""
    this = clock.month_of(now())
    return next((month for month in months if month < this), months[0] if months else this)


# -- one statement


@blueprint.get("/statements/<int:statement_id>")
@allows(Permission.STATEMENT_VIEW)
def page(statement_id: int) -> ResponseReturnValue:
    by = actor()
    sheet = queries.get_sheet(read(), statement_id, by)
    statement, enterprise = sheet.statement, sheet.enterprise
    lines = queries.lines_of(read(), statement)
    lines_page = paging.page_of(len(lines), LINES_ON_A_PAGE)
    history = list_history(read(), LIFE, statement_id)
    _, end = clock.month_bounds(statement.month)
    draft = statement.state is StatementState.DRAFT
    return render_template(
        "statements/page.html",
        statement=statement,
        enterprise=enterprise,
        sponsor=sheet.sponsor,
        opens=by.is_bureau or by.enterprise_id == enterprise.id,
        lines=lines[lines_page.offset : lines_page.offset + lines_page.size],
        page=lines_page,
        totals=queries.totals_of(statement, lines),
        period=(clock.month_bounds(statement.month)[0].astimezone(clock.SHANGHAI).date(), _last_day(end)),
        closes_at=end + dt.timedelta(hours=portal().policy.metering.close_month_after_hours),
        over=now() >= end,
        unmetered=service.unmetered_before(read(), enterprise.id, end) if draft and now() >= end else 0,
        steps=STEPS,
        reached=_reached(statement.state),
        history=history,
        names=names_of(read(), [entry.by_id for entry in history]),
        records=lambda **line: url_for("usage.records", billed_in=statement.month, **line),
        export=by.may(Permission.STATEMENT_EXPORT),
    )


def _last_day(end: dt.datetime) -> dt.date:
    return clock.day_of(end - dt.timedelta(seconds=1))


def _reached(state: StatementState) -> int:
    """How many of STEPS are done; the next one is where it stands."""
    if state is StatementState.SETTLED:
        return len(STEPS)
    return 0 if state is StatementState.RETURNED else STEPS.index(state)


# -- the file

COLUMNS = (
    "kind", "statement", "state", "month", "enterprise", "credit_code", "payer", "payer_credit_code",
    "booking_id", "booking_title", "pool", "adjustment", "gpu_seconds", "gpu_hours", "price_cny_per_gpu_hour",
    "amount_cny",
)  # fmt: skip


@blueprint.get("/statements/<int:statement_id>/export.csv")
@allows(Permission.STATEMENT_EXPORT)
def export(statement_id: int) -> ResponseReturnValue:
    sheet = queries.get_sheet(read(), statement_id, actor())
    statement = sheet.statement
    lines = queries.lines_of(read(), statement)
    totals = queries.totals_of(statement, lines)
    log_access("export", statement.number)
    response = Response(exports.csv_lines(COLUMNS, _rows(sheet, lines, totals)), mimetype=exports.MIMETYPE)
    response.headers["Content-Disposition"] = f'attachment; filename="{statement.number}.csv"'
    return response


def _rows(sheet: Sheet, lines: Sequence[Line], totals: Totals) -> Iterator[Sequence[exports.Cell]]:
    """The lines, then their sum, the tax and what is payable."""
    statement, enterprise, payer = sheet.statement, sheet.enterprise, sheet.sponsor or sheet.enterprise
    head = (
        statement.number, statement.state.value, statement.month, enterprise.name, enterprise.credit_code,
        payer.name, payer.credit_code,
    )  # fmt: skip
    for line in lines:
        yield (
            "line",
            *head,
            line.booking_id,
            line.title,
            line.pool_name,
            int(line.adjustment),
            line.gpu_seconds,
            units.gpu_hours(line.gpu_seconds),
            units.yuan(line.price_micro_yuan),
            units.yuan(line.amount_micro_yuan),
        )
    hours = units.gpu_hours(totals.gpu_seconds)
    yield (
        "subtotal",
        *head,
        None,
        None,
        None,
        None,
        totals.gpu_seconds,
        hours,
        None,
        units.yuan(totals.amount_micro_yuan),
    )
    for kind, amount in (("tax", totals.tax_micro_yuan), ("payable", totals.payable_micro_yuan)):
        yield (kind, *head, None, None, None, None, None, None, None, units.yuan(amount))
