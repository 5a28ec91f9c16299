"""Statements: a company's own, a month of all of them for finance, one as a sheet with its life, one line of it, and
as files; disputes, payments, receipts."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, abort, make_response, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, paging
from ..access import Actor, Permission
from ..db import Database, Session
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..enterprises.queries import EnterpriseName
from ..forms import PortalForm, show
from ..guard import _, actor, allows, language, log_access, now, one_time, portal, public, read, tell, transact
from ..language import N_
from ..policy import StatementPolicy
from ..sentences import NotFound, Refusal, Sentence
from ..signin.queries import history_with_names
from . import capitals, content, disputes, files, forms, jobs, payments, pdf, queries, receipts, service
from .models import ReceiptKey, Statement
from .pricing import Totals
from .queries import ONLY, Difference, Line, Sheet, Which
from .states import COMPUTED, DISPUTE_LIFE, FINAL, LIFE, DisputeState, JobKind, StatementState
from .words import KINDS_OF_CHARGE

# What a statement can be taken away as: the file's name for people, and its route.
FILES = (("PDF", "letter"), ("XLSX", "workbook"), ("CSV", "export"), ("FOCUS 1.2", "focus"))

blueprint = Blueprint("statements", __name__, template_folder="templates")
MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
LONGEST_SEARCH = 60
LINES_ON_A_PAGE = 100
LARGEST_ID = 2**31 - 1
LINE_IS_KNOWN_BY = ("booking", "kind", "tariff", "discount", "weight", "adjustment")
NOTHING = Totals()
# The way of a statement; a returned one is computed again, like a draft.
STEPS = (StatementState.DRAFT, StatementState.IN_REVIEW, StatementState.APPROVED, StatementState.ISSUED)


@blueprint.get("/statements")
@allows(Permission.STATEMENT_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    return _month_page(by) if by.is_bureau else _own_page(by)


def _month(where: Any = None) -> str | None:
    asked = (where if where is not None else http.args).get("month")
    if asked is not None and not MONTH.fullmatch(asked):
        raise NotFound
    return None if asked is None else str(asked)


def _state() -> StatementState | None:
    asked = http.args.get("state")
    if asked is not None and asked not in set(StatementState):
        raise NotFound
    return None if asked is None else StatementState(asked)


def _only() -> str | None:
    asked = http.args.get("only")
    if asked is not None and asked not in ONLY:
        raise NotFound
    return asked


def _searched() -> str:
    """Part of a name, code or number; the zero byte, which PostgreSQL refuses, is in none of them."""
    return http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]


def _own_page(by: Actor) -> ResponseReturnValue:
    """What a company's manager sees: every month of the company, the newest first."""
    which = Which(month=_month())
    page = paging.page_of(queries.count_statements(read(), which, by))
    rows = queries.list_statements(read(), which, by, offset=page.offset)
    open_disputes = queries.count_disputes(read(), by, only_open=True)
    return render_template(
        "statements/own.html", which=which, page=page, rows=_with_sums(rows), open_disputes=open_disputes
    )


def _with_sums(
    rows: Sequence[tuple[Statement, EnterpriseName]],
) -> list[tuple[Statement, EnterpriseName, Totals]]:
    """Each statement with its totals: frozen, or of a draft what there is before subsidies and tax."""
    drafts = queries.so_far(read(), [statement for statement, _firm in rows])
    return [(statement, firm, drafts.get(statement.id) or queries.totals_of(statement, [])) for statement, firm in rows]


def _month_page(by: Actor) -> ResponseReturnValue:
    """What finance and auditors see: one month, every company."""
    months = queries.list_months(read(), by)
    month = _month() or _usual_month(months)
    today = clock.day_of(now())
    which = Which(month, _state(), _searched(), _only(), today)
    found = queries.overview(read(), month, today)
    counts = {state: found.counts.get(state, 0) for state in StatementState}
    drafted = sum(counts[state] for state in COMPUTED)
    if which.find or which.only:
        total = queries.count_statements(read(), which, by)
    else:  # counted already
        total = sum(counts.values()) if which.state is None else counts[which.state]
    page = paging.page_of(total)
    return render_template(
        "statements/month.html",
        which=which,
        month=month,
        earlier=next((known for known in months if known < month), None),
        later=next((known for known in reversed(months) if known > month), None),
        counts=counts,
        only=found.only,
        closed=found.closed,
        drafts=queries.drafts_so_far(read(), month) if drafted else NOTHING,
        drafted=drafted,
        jobs=queries.list_jobs(read(), month),
        page=page,
        rows=_with_sums(queries.list_statements(read(), which, by, offset=page.offset)),
        may=by.may,
    )


def _usual_month(months: list[str]) -> str:
    """The month that finance works on: the last one that is over, if there are statements."""
    this = clock.month_of(now())
    return next((month for month in months if month < this), months[0] if months else this)


@blueprint.get("/statements/year")
@allows(Permission.STATEMENT_VIEW)
def year() -> ResponseReturnValue:
    """The closed months of a year, of one company or of all."""
    by = actor()
    firm = _firm_asked(by)
    years = queries.list_years(read(), by, None if firm is None else firm.id)
    shown = _year() or (years[0] if years else clock.day_of(now()).year)
    rows = queries.months_of_year(read(), shown, by, None if firm is None else firm.id)
    return render_template(
        "statements/year.html",
        year=shown,
        years=years,
        enterprise=firm,
        rows=rows,
        whole=sum((row.totals for row in rows), NOTHING),
        paid=sum(row.paid_micro_yuan for row in rows),
    )


def _year() -> int | None:
    asked = http.args.get("year")
    if asked is not None and not re.fullmatch(r"20\d\d", asked):
        raise NotFound
    return None if asked is None else int(asked)


def _firm_asked(by: Actor) -> Enterprise | None:
    asked = http.args.get("enterprise_id")
    if not by.is_bureau:
        return enterprises.get_enterprise(read(), by.enterprise_id or 0, by)
    if asked is None:
        return None
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 10 and int(asked) <= LARGEST_ID):
        raise NotFound
    return enterprises.get_enterprise(read(), int(asked), by)


# -- one statement


@blueprint.get("/statements/<int:statement_id>")
@allows(Permission.STATEMENT_VIEW)
def page(statement_id: int) -> ResponseReturnValue:
    by = actor()
    sheet = queries.get_sheet(read(), statement_id, by)
    statement, enterprise = sheet.statement, sheet.enterprise
    lines = queries.lines_of(read(), statement)
    lines_page = paging.page_of(len(lines), LINES_ON_A_PAGE)
    history, names = history_with_names(read(), LIFE, statement_id)
    totals = queries.totals_of(statement, lines)
    start, end = clock.month_bounds(statement.month)
    final = statement.state in FINAL
    paid = queries.payments_of(read(), statement_id) if final else []
    return render_template(
        "statements/page.html",
        statement=statement,
        enterprise=enterprise,
        sponsor=sheet.sponsor,
        opens=by.is_bureau or by.enterprise_id == enterprise.id,
        lines=lines[lines_page.offset : lines_page.offset + lines_page.size],
        page=lines_page,
        totals=totals,
        capitals=capitals.in_words(totals.payable_micro_yuan),
        period=(clock.day_of(start), _last_day(end)),
        closes_at=end + dt.timedelta(hours=portal().policy.metering.close_month_after_hours),
        over=now() >= end,
        gap=None if final or now() < start else _gap(statement, end),
        steps=STEPS,
        reached=_reached(statement.state),
        computed=statement.state in COMPUTED,
        final=final,
        history=history,
        names=names,
        line_address=lambda line: _line_address(statement, line),
        everything=url_for("usage.records", billed_in=statement.month, enterprise_id=enterprise.id),
        disputes={dispute.line_id: dispute for dispute in queries.disputes_of(read(), statement_id)} if final else {},
        payments=paid,
        paid=sum(payment.amount_micro_yuan for payment in paid),
        fapiaos=queries.fapiaos_of(read(), statement_id) if final else [],
        kinds=KINDS_OF_CHARGE,
        files=FILES,
        owns=by.may(Permission.DISPUTE_OPEN),
        may=by.may,
        me=by.user_id,
    )


def _gap(statement: Statement, end: dt.datetime) -> service.Gap | None:
    """What is missing now: of a month that is over up to its end, of this one since it was marked."""
    if now() >= end:
        return service.find_gaps(read(), [statement.enterprise_id], end).get(statement.enterprise_id)
    return None if statement.incomplete_since is None else service.Gap(0, statement.incomplete_since)


def _last_day(end: dt.datetime) -> dt.date:
    return clock.day_of(end - dt.timedelta(seconds=1))


def _reached(state: StatementState) -> int:
    """How many of STEPS are done; the next one is where it stands."""
    if state in FINAL:
        return len(STEPS)
    return 0 if state is StatementState.RETURNED else STEPS.index(state)


def _line_address(statement: Statement, line: Line) -> str:
    """A computed line has no number that stays, so its address says what it adds up."""
    return url_for(
        "statements.line",
        statement_id=statement.id,
        booking=line.booking_id,
        kind=line.kind.value,
        tariff=line.tariff_id,
        discount=line.discount_id or 0,
        weight=line.weight_milli,
        adjustment=int(line.adjustment),
    )


@blueprint.get("/statements/<int:statement_id>/line")
@allows(Permission.STATEMENT_VIEW)
def line(statement_id: int) -> ResponseReturnValue:
    """How a line came about: its charges, weight, prices and rule, step by step. Without a choice the first one."""
    by = actor()
    sheet = queries.get_sheet(read(), statement_id, by)
    if not (by.is_bureau or by.enterprise_id == sheet.enterprise.id):
        raise NotFound  # the sponsor pays for a team, and sees its sums
    chosen = http.args.keys() & LINE_IS_KNOWN_BY
    lines = (each for each in queries.lines_of(read(), sheet.statement) if not chosen or _is_asked(each))
    found = next(lines, None)
    if found is None:
        raise NotFound
    page = paging.page_of(queries.count_charges(read(), sheet.statement, found))
    schemes = queries.names_of_schemes(read(), [found.scheme_version_id])
    return render_template(
        "statements/line.html",
        statement=sheet.statement,
        enterprise=sheet.enterprise,
        line=found,
        rows=queries.list_charges(read(), sheet.statement, found, offset=page.offset),
        page=page,
        kinds=KINDS_OF_CHARGE,
        scheme=schemes.get(found.scheme_version_id or 0),
    )


def _is_asked(line: Line) -> bool:
    asked = {name: http.args.get(name, "") for name in LINE_IS_KNOWN_BY}
    return asked == {
        "booking": str(line.booking_id),
        "kind": line.kind.value,
        "tariff": str(line.tariff_id),
        "discount": str(line.discount_id or 0),
        "weight": str(line.weight_milli),
        "adjustment": str(int(line.adjustment)),
    }


# -- its life

Verb = Callable[[Session, int, Actor, dt.datetime], Any]


def _policy() -> StatementPolicy:
    return portal().policy.statements


def _issuer() -> service.Issuer:
    settings = portal().settings
    return service.Issuer(_bureau(), receipts.make_signer(settings.receipt_key, settings.secret_key))


def _bureau() -> content.Bureau:
    settings = portal().settings
    return content.Bureau(
        settings.bureau_name_zh, settings.bureau_name_en, settings.service_name_zh, settings.service_name_en
    )


def _act(statement_id: int, verb: Verb, done: str) -> ResponseReturnValue:
    """A button on the statement's page."""
    by, at = actor(), now()
    queries.get_sheet(read(), statement_id, by)
    here = url_for("statements.page", statement_id=statement_id)
    try:
        transact(lambda session: verb(session, statement_id, by, at) and None)
    except Refusal as refusal:
        tell(refusal.sentence, "stop")
        return redirect(here)
    tell(Sentence(done))
    return redirect(here)


@blueprint.post("/statements/<int:statement_id>/check")
@allows(Permission.STATEMENT_CHECK)
def check(statement_id: int) -> ResponseReturnValue:
    return _act(statement_id, lambda s, id, by, at: service.check(s, id, by=by, now=at), "statement-checked")


@blueprint.post("/statements/<int:statement_id>/approve")
@allows(Permission.STATEMENT_APPROVE)
def approve(statement_id: int) -> ResponseReturnValue:
    return _act(statement_id, lambda s, id, by, at: service.approve(s, id, by=by, now=at), "statement-approved")


@blueprint.post("/statements/<int:statement_id>/settle")
@allows(Permission.STATEMENT_SETTLE)
def settle(statement_id: int) -> ResponseReturnValue:
    return _act(statement_id, lambda s, id, by, at: service.settle(s, id, by=by, now=at), "statement-settled")


@blueprint.post("/statements/<int:statement_id>/close")
@allows(Permission.STATEMENT_CLOSE)
def close(statement_id: int) -> ResponseReturnValue:
    def verb(session: Session, id: int, by: Actor, at: dt.datetime) -> Statement:
        known = session.get_one(Statement, id)
        return service.close_month(session, known.enterprise_id, known.month, policy=_policy(), by=by, now=at)

    return _act(statement_id, verb, "statement-closed")


def _ask(statement_id: int, step: str, form: PortalForm) -> ResponseReturnValue:
    """The page before a step that cannot be taken back, or that needs a reason."""
    sheet = queries.get_sheet(read(), statement_id, actor())
    _start, end = clock.month_bounds(sheet.statement.month)
    return show(
        "statements/act.html",
        form,
        step=step,
        statement=sheet.statement,
        enterprise=sheet.enterprise,
        totals=queries.totals_of(sheet.statement, []),
        gap=service.find_gaps(read(), [sheet.enterprise.id], end).get(sheet.enterprise.id),
    )


def _do(statement_id: int, step: str, verb: Callable[[Session, str, Actor, dt.datetime], Any], done: str) -> Any:
    form, by, at = forms.ActForm(), actor(), now()
    queries.get_sheet(read(), statement_id, by)
    if form.validate():
        try:
            address = one_time(
                form.form_key.data,
                lambda session: verb(session, form.reason.data or "", by, at),
                lambda _result: url_for("statements.page", statement_id=statement_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence(done))
            return redirect(address)
    return _ask(statement_id, step, form)


@blueprint.get("/statements/<int:statement_id>/return")
@allows(Permission.STATEMENT_RETURN)
def return_page(statement_id: int) -> ResponseReturnValue:
    return _ask(statement_id, "return", forms.ActForm())


@blueprint.post("/statements/<int:statement_id>/return")
@allows(Permission.STATEMENT_RETURN)
def return_(statement_id: int) -> ResponseReturnValue:
    return _do(
        statement_id,
        "return",
        lambda s, reason, by, at: service.return_(s, statement_id, reason=reason, by=by, now=at),
        "statement-returned",
    )


@blueprint.get("/statements/<int:statement_id>/confirm")
@allows(Permission.STATEMENT_CONFIRM)
def confirm_page(statement_id: int) -> ResponseReturnValue:
    return _ask(statement_id, "confirm", forms.ActForm())


@blueprint.post("/statements/<int:statement_id>/confirm")
@allows(Permission.STATEMENT_CONFIRM)
def confirm(statement_id: int) -> ResponseReturnValue:
    return _do(
        statement_id,
        "confirm",
        lambda s, reason, by, at: service.confirm_gap(s, statement_id, reason=reason, by=by, now=at),
        "gap-confirmed",
    )


@blueprint.get("/statements/<int:statement_id>/issue")
@allows(Permission.STATEMENT_ISSUE)
def issue_page(statement_id: int) -> ResponseReturnValue:
    return _ask(statement_id, "issue", forms.ActForm())


@blueprint.post("/statements/<int:statement_id>/issue")
@allows(Permission.STATEMENT_ISSUE)
def issue(statement_id: int) -> ResponseReturnValue:
    issuer, policy = _issuer(), _policy()
    return _do(
        statement_id,
        "issue",
        lambda s, _reason, by, at: service.issue(s, statement_id, issuer=issuer, policy=policy, by=by, now=at),
        "statement-issued",
    )


# -- a whole month


def _all(verb: Callable[[Session, str, Actor, dt.datetime], int], done: str) -> ResponseReturnValue:
    month, by, at = _month(http.form), actor(), now()
    if month is None:
        abort(400)
    count = transact(lambda session: verb(session, month, by, at))
    tell(Sentence(done, n=count))
    return redirect(url_for("statements.index", month=month))


@blueprint.post("/statements/check")
@allows(Permission.STATEMENT_CHECK)
def check_all() -> ResponseReturnValue:
    return _all(lambda s, month, by, at: service.check_all(s, month, by=by, now=at), "statements-checked")


@blueprint.post("/statements/approve")
@allows(Permission.STATEMENT_APPROVE)
def approve_all() -> ResponseReturnValue:
    return _all(lambda s, month, by, at: service.approve_all(s, month, by=by, now=at), "statements-approved")


def _job(kind: JobKind) -> ResponseReturnValue:
    month, by, at = _month(http.form), actor(), now()
    if month is None:
        abort(400)
    try:
        transact(lambda session: jobs.ask(session, kind, month, by=by, now=at).id)
    except Refusal as refusal:
        tell(refusal.sentence, "stop")
    else:
        tell(Sentence("job-asked"))
    return redirect(url_for("statements.index", month=month))


@blueprint.post("/statements/issue")
@allows(Permission.STATEMENT_ISSUE)
def issue_all() -> ResponseReturnValue:
    return _job(JobKind.ISSUE)


@blueprint.post("/statements/pack")
@allows(Permission.STATEMENT_PACK)
def pack() -> ResponseReturnValue:
    return _job(JobKind.PACK)


@blueprint.get("/statements/packs/<int:pack_id>.zip")
@allows(Permission.STATEMENT_PACK)
def pack_file(pack_id: int) -> ResponseReturnValue:
    job = jobs.get_file(read(), pack_id, actor())
    log_access("export", f"pack {job.month}")
    response = Response(_parts(portal().database, job.id), mimetype="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="statements-{job.month}.zip"'
    response.headers["Content-Length"] = str(job.size)
    return response


def _parts(database: Database, job_id: int) -> Iterator[bytes]:
    with database.read_only() as session:
        yield from jobs.parts(session, job_id)


# -- files


def _content(statement_id: int) -> content.Content:
    """What was issued, or how it stands now."""
    sheet = queries.get_sheet(read(), statement_id, actor())
    found = queries.content_of(read(), statement_id)
    if found is not None:
        return dict(json.loads(found.content))
    lines = queries.lines_of(read(), sheet.statement)
    totals = queries.totals_of(sheet.statement, lines)
    return content.gather(read(), sheet.statement, lines, totals, _bureau(), issued_at=None)


def _file(statement_id: int, ending: str, made: bytes | str | Iterator[str]) -> Response:
    number = _number(statement_id)
    log_access("export", f"{number}.{ending}")
    response = Response(made, mimetype=files.MEDIA_TYPES[ending])
    response.headers["Content-Disposition"] = f'attachment; filename="{number}.{ending}"'
    return response


def _number(statement_id: int) -> str:
    return queries.get_sheet(read(), statement_id, actor()).statement.number


@blueprint.get("/statements/<int:statement_id>/export.csv")
@allows(Permission.STATEMENT_EXPORT)
def export(statement_id: int) -> ResponseReturnValue:
    return _file(statement_id, "csv", files.csv(_content(statement_id)))


@blueprint.get("/statements/<int:statement_id>/focus.csv")
@allows(Permission.STATEMENT_EXPORT)
def focus(statement_id: int) -> ResponseReturnValue:
    return _file(statement_id, "focus.csv", files.focus_csv(_content(statement_id)))


@blueprint.get("/statements/<int:statement_id>/statement.xlsx")
@allows(Permission.STATEMENT_EXPORT)
def workbook(statement_id: int) -> ResponseReturnValue:
    return _file(statement_id, "xlsx", files.xlsx(_content(statement_id), language()))


@blueprint.get("/statements/<int:statement_id>/statement.pdf")
@allows(Permission.STATEMENT_EXPORT)
def letter(statement_id: int) -> ResponseReturnValue:
    """As it was issued; until the timetable has set it, made from the same content."""
    said = _content(statement_id)
    return _file(statement_id, "pdf", pdf.find(read(), statement_id) or pdf.make(said))


@blueprint.get("/statements/<int:statement_id>/receipt.json")
@allows(Permission.STATEMENT_EXPORT)
def receipt(statement_id: int) -> ResponseReturnValue:
    """Signed: the content and every record behind it. For the company and the bureau, not for a sponsor."""
    by = actor()
    sheet = queries.get_sheet(read(), statement_id, by)
    found = queries.content_of(read(), statement_id)
    if not (by.is_bureau or by.enterprise_id == sheet.enterprise.id):
        raise NotFound
    if found is None:
        raise Refusal(Sentence("not-issued-yet"))
    key = read().get_one(ReceiptKey, found.key_id).public_key
    records = list(content.records(read(), sheet.statement))
    return _file(statement_id, "json", receipts.write(found.content, found.signature, key, records))


@blueprint.get("/receipts")
@public
def receipt_keys() -> ResponseReturnValue:
    """How anybody checks a receipt: the script and the public keys."""
    settings = portal().settings
    signer = receipts.make_signer(settings.receipt_key, settings.secret_key)
    return render_template(
        "statements/receipts.html",
        keys=receipts.list_keys(read()),
        current=signer.public_key,
        command=f"python {receipts.SCRIPT.name} S-202611-00001.json {signer.public_key[:12]}…",
    )


@blueprint.get("/receipts/verify_receipt.py")
@public
def verify_script() -> ResponseReturnValue:
    response = make_response(receipts.SCRIPT.read_text(encoding="utf-8"))
    response.headers["Content-Type"] = "text/x-python; charset=utf-8"
    response.headers["Content-Disposition"] = 'attachment; filename="verify_receipt.py"'
    return response


# -- disputes


@blueprint.get("/disputes")
@allows(Permission.DISPUTE_VIEW)
def disputes_list() -> ResponseReturnValue:
    by = actor()
    only_open = by.is_bureau and http.args.get("all") != "1"
    page = paging.page_of(queries.count_disputes(read(), by, only_open=only_open))
    rows = queries.list_disputes(read(), by, only_open=only_open, offset=page.offset)
    return render_template("statements/disputes.html", rows=rows, page=page, only_open=only_open)


@blueprint.get("/disputes/<int:dispute_id>")
@allows(Permission.DISPUTE_VIEW)
def dispute(dispute_id: int) -> ResponseReturnValue:
    return _dispute_page(dispute_id, forms.AnswerForm())


def _dispute_page(dispute_id: int, form: forms.AnswerForm) -> ResponseReturnValue:
    by = actor()
    row = queries.get_dispute(read(), dispute_id, by)
    form.outcome.choices = [(state.value, _(text)) for state, text in forms.OUTCOMES.items()]
    history, names = history_with_names(read(), DISPUTE_LIFE, dispute_id)
    found = queries.find_line(read(), row.line.id)
    return show(
        "statements/dispute.html",
        form,
        row=row,
        line=None if found is None else found[1],
        line_address=lambda line: _line_address(row.statement, line),
        is_open=row.dispute.state is DisputeState.OPENED,
        history=history,
        names=names,
        kinds=KINDS_OF_CHARGE,
        may=by.may,
    )


@blueprint.get("/statements/lines/<int:line_id>/dispute")
@allows(Permission.DISPUTE_OPEN)
def dispute_new(line_id: int) -> ResponseReturnValue:
    return _new_dispute_page(line_id, forms.DisputeForm())


def _new_dispute_page(line_id: int, form: forms.DisputeForm) -> ResponseReturnValue:
    sheet, found = _line_to_dispute(line_id)
    return show(
        "statements/dispute_new.html", form, statement=sheet.statement, enterprise=sheet.enterprise, line=found,
        kinds=KINDS_OF_CHARGE, answer_days=_policy().dispute_answer_working_days,
    )  # fmt: skip


def _line_to_dispute(line_id: int) -> tuple[Sheet, Line]:
    """Raises NotFound for a line of another company, and for one that was closed again since."""
    found = queries.find_line(read(), line_id)
    if found is None:
        raise NotFound
    return queries.get_sheet(read(), found[0], actor()), found[1]


@blueprint.post("/statements/lines/<int:line_id>/dispute")
@allows(Permission.DISPUTE_OPEN)
def dispute_open(line_id: int) -> ResponseReturnValue:
    form, by, at, policy = forms.DisputeForm(), actor(), now(), _policy()
    _line_to_dispute(line_id)
    if form.validate():
        try:
            address = one_time(
                form.form_key.data,
                lambda session: (
                    disputes.open_dispute(
                        session, line_id, reason=form.reason.data or "", policy=policy, by=by, now=at
                    ).id
                ),
                lambda id: url_for("statements.dispute", dispute_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("dispute-opened"))
            return redirect(address)
    return _new_dispute_page(line_id, form)


@blueprint.post("/disputes/<int:dispute_id>/answer")
@allows(Permission.DISPUTE_ANSWER)
def dispute_answer(dispute_id: int) -> ResponseReturnValue:
    form, by, at = forms.AnswerForm(), actor(), now()
    queries.get_dispute(read(), dispute_id, by)
    form.outcome.choices = [(state.value, _(text)) for state, text in forms.OUTCOMES.items()]
    if form.validate():
        try:
            address = one_time(
                form.form_key.data,
                lambda session: (
                    disputes.answer(
                        session,
                        dispute_id,
                        DisputeState(form.outcome.data),
                        text=form.text.data or "",
                        gpu_seconds=form.hours.data,
                        by=by,
                        now=at,
                    ).id
                ),
                lambda id: url_for("statements.dispute", dispute_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("dispute-answered"))
            return redirect(address)
    return _dispute_page(dispute_id, form)


@blueprint.post("/disputes/<int:dispute_id>/withdraw")
@allows(Permission.DISPUTE_WITHDRAW)
def dispute_withdraw(dispute_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    queries.get_dispute(read(), dispute_id, by)
    try:
        transact(lambda session: disputes.withdraw(session, dispute_id, by=by, now=at).id)
    except Refusal as refusal:
        tell(refusal.sentence, "stop")
    else:
        tell(Sentence("dispute-withdrawn"))
    return redirect(url_for("statements.dispute", dispute_id=dispute_id))


# -- payments and fapiao


@blueprint.get("/payments")
@allows(Permission.PAYMENT_VIEW)
def reconcile() -> ResponseReturnValue:
    return _reconcile_page(forms.PaymentForm(formdata=None), forms.MatchForm(formdata=None))


def _reconcile_page(form: PortalForm, match: forms.MatchForm, matching: int | None = None) -> ResponseReturnValue:
    """Money that matches no statement, and statements whose money does not match."""
    today = clock.day_of(now())
    page = paging.page_of(queries.count_differences(read(), today))
    return show(
        "statements/payments.html",
        match if matching is not None else form,
        payment_form=form,
        match_form=match,
        matching=matching,
        unmatched=queries.unmatched_payments(read()),
        differences=queries.list_differences(read(), today, offset=page.offset),
        page=page,
        why=lambda row: _difference(row, today),
        may=actor().may,
    )


def _difference(row: Difference, today: dt.date) -> str:
    """Why a statement stands on the list; msgid."""
    if row.fapiao_micro_yuan is not None and row.fapiao_micro_yuan != row.payable_micro_yuan:
        return N_("fapiao and statement differ")
    if row.paid_micro_yuan > row.payable_micro_yuan:
        return N_("paid too much")
    if row.statement.pay_until_on is not None and row.statement.pay_until_on < today:
        return N_("overdue")
    return N_("paid in part")


@blueprint.post("/payments")
@allows(Permission.PAYMENT_ENTER)
def payment_enter() -> ResponseReturnValue:
    form, by, at = forms.PaymentForm(), actor(), now()
    if form.validate():
        try:
            address = one_time(
                form.form_key.data,
                lambda session: (
                    payments.enter_payment(
                        session,
                        reference=form.reference.data or "",
                        amount_micro_yuan=form.amount.data,
                        paid_on=form.paid_on.data,
                        payer=form.payer.data or "",
                        note=form.note.data or "",
                        by=by,
                        now=at,
                    ).statement_id
                ),
                lambda id: url_for("statements.reconcile" if id is None else "statements.page", statement_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("payment-waits" if address == url_for("statements.reconcile") else "payment-matched"))
            return redirect(address)
    return _reconcile_page(form, forms.MatchForm(formdata=None))


@blueprint.post("/payments/<int:payment_id>/match")
@allows(Permission.PAYMENT_MATCH)
def payment_match(payment_id: int) -> ResponseReturnValue:
    form, by, at = forms.MatchForm(), actor(), now()
    queries.get_payment(read(), payment_id)
    if form.validate():
        try:
            transact(lambda session: payments.match(session, payment_id, form.number.data or "", by=by, now=at).id)
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("payment-matched"))
            return redirect(url_for("statements.reconcile"))
    return _reconcile_page(forms.PaymentForm(formdata=None), form, payment_id)


@blueprint.post("/payments/<int:payment_id>/unmatch")
@allows(Permission.PAYMENT_MATCH)
def payment_unmatch(payment_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    try:
        transact(lambda session: payments.unmatch(session, payment_id, by=by, now=at).id)
    except Refusal as refusal:
        tell(refusal.sentence, "stop")
    else:
        tell(Sentence("payment-waits"))
    return redirect(url_for("statements.reconcile"))


@blueprint.get("/statements/<int:statement_id>/fapiao")
@allows(Permission.FAPIAO_ENTER)
def fapiao_new(statement_id: int) -> ResponseReturnValue:
    return _fapiao_page(statement_id, forms.FapiaoForm())


def _fapiao_page(statement_id: int, form: forms.FapiaoForm) -> ResponseReturnValue:
    sheet = queries.get_sheet(read(), statement_id, actor())
    return show(
        "statements/fapiao.html", form, statement=sheet.statement, enterprise=sheet.enterprise,
        payable=sheet.statement.amount_micro_yuan + sheet.statement.tax_micro_yuan,
    )  # fmt: skip


@blueprint.post("/statements/<int:statement_id>/fapiao")
@allows(Permission.FAPIAO_ENTER)
def fapiao_enter(statement_id: int) -> ResponseReturnValue:
    form, by, at = forms.FapiaoForm(), actor(), now()
    queries.get_sheet(read(), statement_id, by)
    if form.validate():
        try:
            address = one_time(
                form.form_key.data,
                lambda session: (
                    payments.enter_fapiao(
                        session,
                        statement_id,
                        number=form.number.data or "",
                        amount_micro_yuan=form.amount.data,
                        issued_on=form.issued_on.data,
                        by=by,
                        now=at,
                    ).id
                ),
                lambda _id: url_for("statements.page", statement_id=statement_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("fapiao-kept"))
            return redirect(address)
    return _fapiao_page(statement_id, form)
