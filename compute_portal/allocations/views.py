"""Ask for GPU-hours, see what became of them, decide on requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, guard, language, paging
from ..access import Permission
from ..bookings import queue as queues
from ..desk import impact
from ..enterprises import queries as enterprises
from ..files import queries as files
from ..forms import Required, TypedField, show
from ..guard import actor, allows, now, one_time, portal, read, takes_files, tell, transact
from ..language import N_
from ..ledger.models import Bucket
from ..lifecycle import HistoryEntry, list_history
from ..pools import queries as pools
from ..pools.models import Pool
from ..programmes import queries as programmes
from ..programmes import service as programme_service
from ..programmes.models import Programme
from ..programmes.rules import Rules, Track, eligibility, failed
from ..programmes.states import ATTACHMENTS, FIELDS, Asked
from ..sentences import Refusal, Sentence
from ..signin.queries import history_with_names, names_of
from ..usage.forecast import of_allocation
from . import changes, facts, queries, reports, requests, review, service
from .facts import UsualStart
from .forms import (
    AnswerForm,
    BeginningForm,
    ChangeForm,
    DocumentForm,
    ReportForm,
    RequestForm,
    SizeForm,
)
from .models import Allocation, AllocationChange, Report
from .queries import Which
from .sizing import Size, size_of
from .states import CHANGE_LIFE, LIFE, REPORT_LIFE, WRITABLE, AllocationState, ChangeKind, ReportKind

blueprint = Blueprint("allocations", __name__, template_folder="templates")
allocation_changes = Blueprint("changes", __name__, template_folder="templates")
allocation_reports = Blueprint("reports", __name__, template_folder="templates")

CHANGE_NAMES = {
    ChangeKind.SUPPLEMENT: N_("More hours"),
    ChangeKind.EXTENSION: N_("More time"),
    ChangeKind.REDUCTION: N_("Give hours back"),
    ChangeKind.TRANSFER: N_("Move hours to another pool"),
}
REPORT_NAMES = {ReportKind.PROGRESS: N_("Progress report"), ReportKind.FINAL: N_("Final report")}

BUCKETS = {
    Bucket.SOURCE: N_("Bureau"),
    Bucket.POOL: N_("Programme"),
    Bucket.WITHHELD: N_("Withheld"),
    Bucket.AVAILABLE: N_("Left"),
    Bucket.HELD: N_("Held"),
    Bucket.USED: N_("Used"),
    Bucket.EXPIRED: N_("Expired"),
    Bucket.OVERDRAFT: N_("Overdraft"),
}
VERBS = {
    "award": N_("award"),
    "stage": N_("stage"),
    "hold": N_("hold"),
    "charge": N_("charge"),
    "release": N_("release"),
    "expire": N_("expire"),
    "correct": N_("correction"),
}


@blueprint.get("/allocations")
@allows(Permission.ALLOCATION_VIEW)
def index() -> ResponseReturnValue:
    by = actor()
    tab = http.args.get("tab", "")
    tab = tab if tab in queries.TABS else "active"
    which = Which(_number("programme_id"), _number("enterprise_id"))
    counts = queries.count_by_tab(read(), by, which)
    page = paging.page_of(counts[tab])
    rows = queries.list_allocations(read(), by, states=queries.TABS[tab], which=which, offset=page.offset)
    kept = {"programme_id": which.programme_id, "enterprise_id": which.enterprise_id}
    return render_template("allocations/index.html", tab=tab, counts=counts, page=page, rows=rows, kept=kept)


def _number(name: str) -> int | None:
    """A filter in the address; nonsense finds nothing rather than everything."""
    asked = http.args.get(name)
    if asked is None:
        return None
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0


# -- begin a request: the rules first, then the size ------------------------------------------------------------------


@blueprint.get("/allocations/request")
@allows(Permission.ALLOCATION_REQUEST)
def new() -> ResponseReturnValue:
    form = BeginningForm()
    form.programme_id.data = http.args.get("programme_id", "")
    if http.args.get("hours"):  # from the size helper
        form.hours.process(http.args)
        form.hours.errors = list(form.hours.process_errors)
    return _beginning_page(form)


@blueprint.post("/allocations/request")
@allows(Permission.ALLOCATION_REQUEST)
def request() -> ResponseReturnValue:
    form, by, at = BeginningForm(), actor(), now()
    if form.validate():
        asked = form.to_beginning()
        try:
            if asked is None:
                raise Refusal(Sentence("programme-has-no-such-pool"), "programme_id")
            started = asked
            address = one_time(
                form.form_key.data,
                lambda s: requests.start(s, started, by=by, now=at).id,
                lambda id: url_for("allocations.write", allocation_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("request-started", number=address.split("/")[-2]))
            return redirect(address)
    return _beginning_page(form)


def _beginning_page(form: BeginningForm) -> ResponseReturnValue:
    """The rules of the chosen programme, one by one, before anything is written."""
    pairs = programmes.list_open_pairs(read(), clock.day_of(now()))
    chosen = next((p for p in pairs if _pair(p) == form.programme_id.data), pairs[0] if pairs else None)
    sizes = SizeForm(formdata=http.args if "parameters" in http.args else None, meta={"csrf": False})
    if chosen is None:
        return show("allocations/request.html", form, chosen=None)
    programme, pool = chosen
    form.programme_id.data = _pair(chosen)
    enterprise = enterprises.get_enterprise(read(), actor().enterprise_id or 0, actor())
    rules = Rules.from_json(programme_service.newest_version(read(), programme.id).rules)
    known = facts.find_facts(read(), enterprise, programme, now())
    results = eligibility(rules, known)
    price = pools.price_book(read(), pool.id).list_price(now())
    return show(
        "allocations/request.html",
        form,
        pairs=[(_pair(pair), _pair_words(pair)) for pair in pairs],
        chosen=chosen,
        rules=rules,
        facts=known,
        results=results,
        blocked=failed(results),
        price=None if price is None else price.price_micro_yuan,
        subsidy=rules.subsidy(enterprise.size_class.value),
        start=_usual_start(pool.id),
        sizes=sizes,
        size=_size(sizes, pool),
    )


def _usual_start(pool_id: int) -> UsualStart | None:
    """As the last look ahead has it; None before there was one."""
    pool, picture = queues.get_queue(read(), pool_id)
    range = queues.usual_start(picture, pool)
    if range is None:
        return None
    waits = [max(0, clock.seconds_between(now(), at)) for at in (range.p10_at, range.p50_at, range.p90_at)]
    return UsualStart(pool.gpus_per_node, queues.USUAL_SECONDS // 3_600, *waits)


def _pair(pair: tuple[Programme, Pool]) -> str:
    return f"{pair[0].id}:{pair[1].id}"


def _pair_words(pair: tuple[Programme, Pool]) -> str:
    return f"{(guard.language() == 'en' and pair[0].name_en) or pair[0].name} · {pair[1].name}"


USUAL_UTILISATION = 40
USUAL_CARDS = 64


def _size(form: SizeForm, pool: Pool) -> Size | None:
    """What the helper says for the pool's cards; None until it is asked, or where the numbers cannot be read."""
    if form.utilisation.typed is None:
        form.utilisation.data, form.cards.data = USUAL_UTILISATION, USUAL_CARDS
        return None
    for field in form:
        field.errors = list(field.process_errors)
    numbers = (form.parameters.data, form.tokens.data, form.utilisation.data, form.cards.data)
    if None in numbers or not 1 <= form.utilisation.data <= 100:
        return None
    return size_of(
        parameters_million=form.parameters.data,
        tokens_million=form.tokens.data,
        tflops=pool.tflops_fp16_dense,
        utilisation_percent=form.utilisation.data,
        cards=form.cards.data,
    )


# -- write it: a draft that keeps what was typed ----------------------------------------------------------------------


@blueprint.get("/allocations/<int:allocation_id>/write")
@allows(Permission.ALLOCATION_REQUEST)
def write(allocation_id: int) -> ResponseReturnValue:
    allocation = queries.get_allocation(read(), allocation_id, actor())
    if allocation.state not in WRITABLE:
        return redirect(url_for("allocations.page", allocation_id=allocation_id))
    form = RequestForm()
    _fill(form, allocation)
    return _write_page(form, allocation)


def _fill(form: RequestForm, allocation: Allocation) -> None:
    """What was typed last, else what was submitted last, else what is known."""
    answers = requests.last_answers(read(), allocation)
    form.hours.data = allocation.requested_gpu_seconds
    form.starts_on.data, form.ends_on.data = allocation.starts_on, allocation.ends_on
    for name in ("purpose", *FIELDS):
        form[name].data = answers.get(name, "")
    for name, text in (allocation.draft or {}).items():
        field = form[name]
        if isinstance(field, TypedField):
            field.typed = text
        else:
            field.data = text


def _shape(form: RequestForm, allocation: Allocation) -> Track:
    """Ask for what the track of this size asks for."""
    rules = service.rules_of(read(), allocation)
    track = rules.track(allocation.track)
    hours, first, last = form.hours.data, form.starts_on.data, form.ends_on.data
    if hours and first and last:
        track = rules.track_for(hours, (last - first).days + 1) or track
    for name in FIELDS:
        if track.asks(name) is Asked.NOT_ASKED:
            del form[name]
        elif track.asks(name) is Asked.REQUIRED:
            form[name].validators = [Required(), *form[name].validators]
    return track


def _write_page(
    form: RequestForm, allocation: Allocation, track: Track | None = None, document: DocumentForm | None = None
) -> ResponseReturnValue:
    track = track or _shape(form, allocation)
    row = queries.get_row(read(), allocation.id, actor())
    document = document or DocumentForm(formdata=None)
    document.kind.choices = [(kind, language.gettext(guard.language(), word)) for kind, word in ATTACHMENTS.items()]
    document.kind.data = document.kind.data or next(iter(track.attachments), None)
    copied = None
    if allocation.copied_from_id is not None:
        copied = requests.last_answers(read(), queries.get_allocation(read(), allocation.copied_from_id, actor()))
    taken_over = {
        name for name in ("purpose", *FIELDS) if copied and name in form and copied.get(name) == form[name].data
    }
    return show(
        "allocations/write.html",
        document if document.problems else form,
        request_form=form,
        document_form=document,
        row=row,
        track=track,
        asked=Asked,
        fields=[name for name in FIELDS if name in form],
        files=files.list_files(read(), facts.FILES, allocation.id),
        kinds=ATTACHMENTS,
        taken_over={name for name in taken_over if form[name].data},
        returned=_return_note(allocation),
    )


def _return_note(allocation: Allocation) -> HistoryEntry | None:
    """What the reviewer said is missing."""
    if allocation.state is not AllocationState.CHANGES_REQUESTED:
        return None
    return next((e for e in list_history(read(), LIFE, allocation.id) if e.verb == "ask-changes"), None)


@blueprint.post("/allocations/<int:allocation_id>/save")
@allows(Permission.ALLOCATION_REQUEST)
def save(allocation_id: int) -> ResponseReturnValue:
    """The draft as it is typed: the button, or static/draft.js while somebody writes, which reads only the time."""
    form, by, at = RequestForm(), actor(), now()
    typed = form.as_typed()
    transact(lambda s: requests.save(s, allocation_id, typed, by=by, now=at))
    if http.headers.get("X-Requested-With") == "fetch":
        return {"saved": language.exact(at)[11:16]}
    tell(Sentence("request-saved"))
    return redirect(url_for("allocations.write", allocation_id=allocation_id))


@blueprint.post("/allocations/<int:allocation_id>/submit")
@allows(Permission.ALLOCATION_REQUEST)
def submit(allocation_id: int) -> ResponseReturnValue:
    form, by, at = RequestForm(), actor(), now()
    allocation = queries.get_allocation(read(), allocation_id, by)
    again = allocation.state is AllocationState.CHANGES_REQUESTED
    track = _shape(form, allocation)
    if form.validate():
        answers, start = form.to_answers(), _usual_start(allocation.pool_id)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: requests.submit(s, allocation_id, answers, by=by, now=at, start=start).id,
                lambda id: url_for("allocations.page", allocation_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            _tell_submitted(allocation_id, again)
            return redirect(address)
    typed = form.as_typed()
    if allocation.state in WRITABLE:
        transact(lambda s: requests.save(s, allocation_id, typed, by=by, now=at))
    return _write_page(form, queries.get_allocation(read(), allocation_id, by), track)


def _tell_submitted(allocation_id: int, again: bool) -> None:
    done = queries.get_allocation(read(), allocation_id, actor())
    if done.state is AllocationState.ACTIVE:
        tell(Sentence("request-awarded-at-once", hours=done.awarded_gpu_seconds))
    else:
        tell(Sentence("request-resubmitted" if again else "request-submitted"))


@blueprint.post("/allocations/<int:allocation_id>/attach")
@takes_files()
@allows(Permission.ALLOCATION_REQUEST)
def attach(allocation_id: int) -> ResponseReturnValue:
    form, by, at, policy = DocumentForm(), actor(), now(), portal().policy.files
    allocation = queries.get_allocation(read(), allocation_id, by)
    form.kind.choices = list(ATTACHMENTS.items())
    if form.validate():
        sent, kind = form.document.data, form.kind.data
        assert sent is not None  # Chosen() says so
        try:
            transact(
                lambda s: requests.attach(
                    s, allocation_id, name=sent.name, content=sent.content, kind=kind, policy=policy, by=by, now=at
                )
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("document-attached"))
            return redirect(url_for("allocations.write", allocation_id=allocation_id))
    if allocation.state not in WRITABLE:
        raise Refusal(Sentence("request-not-writable"))
    asked = RequestForm(formdata=None)
    _fill(asked, allocation)
    return _write_page(asked, allocation, document=form)


@blueprint.post("/allocations/<int:allocation_id>/detach/<int:file_id>")
@allows(Permission.ALLOCATION_REQUEST)
def detach(allocation_id: int, file_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: requests.detach(s, allocation_id, file_id, by=by, now=at))
    tell(Sentence("document-removed"))
    return redirect(url_for("allocations.write", allocation_id=allocation_id))


@blueprint.post("/allocations/<int:allocation_id>/copy")
@allows(Permission.ALLOCATION_REQUEST)
def copy(allocation_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    id = transact(lambda s: requests.copy(s, allocation_id, by=by, now=at).id)
    tell(Sentence("request-copied", number=allocation_id))
    return redirect(url_for("allocations.write", allocation_id=id))


# -- what was asked, and everything that is open ----------------------------------------------------------------------


@blueprint.get("/allocations/<int:allocation_id>/asked")
@allows(Permission.ALLOCATION_VIEW)
def asked(allocation_id: int) -> ResponseReturnValue:
    """The request as it was submitted: answers, what changed, the rules of its day, the preview and what came of it."""
    row = queries.get_row(read(), allocation_id, actor())
    submissions = requests.list_submissions(read(), allocation_id)
    newest = submissions[-1] if submissions else None
    changed = [
        (after, requests.differences(before.answers, after.answers))
        for before, after in itertools.pairwise(submissions)
    ]
    return render_template(
        "allocations/asked.html",
        row=row,
        newest=newest,
        answers=requests.last_answers(read(), row.allocation) if newest is None else newest.answers,
        changed=list(reversed(changed)),
        results=requests.replay(read(), newest) if newest is not None else [],
        rules=service.rules_of(read(), row.allocation),
        fields=FIELDS,
        files=files.list_files(read(), facts.FILES, allocation_id),
        kinds=ATTACHMENTS,
        names=names_of(read(), [submission.by_id for submission in submissions]),
        seconds=_decided_after(row.allocation),
        first=queues.find_first(read(), allocation_id) if newest is not None and newest.preview.get("start") else None,
    )


def _decided_after(allocation: Allocation) -> int | None:
    if allocation.decided_at is None:
        return None
    return clock.seconds_between(allocation.requested_at, allocation.decided_at)


@blueprint.get("/allocations/mine")
@allows(Permission.ALLOCATION_VIEW)
def mine() -> ResponseReturnValue:
    """Every request, change and report that is open: its state, who has the ball, until when."""
    items = queries.list_open_items(read(), actor())
    page = paging.page_of(len(items))
    return render_template(
        "allocations/mine.html",
        page=page,
        items=items[page.offset : page.offset + page.size],
        ours=sum(item.ours for item in items),
        change_names=CHANGE_NAMES,
        report_names=REPORT_NAMES,
    )


@blueprint.get("/allocations/<int:allocation_id>")
@allows(Permission.ALLOCATION_VIEW)
def page(allocation_id: int) -> ResponseReturnValue:
    """What was asked, awarded and used. Who decides on a request does that in its review."""
    row = queries.get_row(read(), allocation_id, actor())
    allocation = row.allocation
    bucket = http.args.get("bucket")
    chosen = Bucket(bucket) if bucket in {known.value for known in BUCKETS} else None
    awarded = allocation.awarded_gpu_seconds is not None
    entries_page, lines = _entries(allocation_id, chosen) if awarded else (paging.page_of(0), [])
    people = [allocation.requested_by, allocation.decided_by]
    history, names = history_with_names(read(), LIFE, allocation_id, people)
    names |= {line.by.id: line.by for line in lines if line.by is not None}
    steps = [] if awarded else review.list_steps(read(), allocation_id)
    running = allocation.state is AllocationState.ACTIVE
    return render_template(
        "allocations/page.html",
        row=row,
        forecast=of_allocation(read(), allocation, row.balance, now()) if running else None,
        history=history,
        names=names,
        lines=lines,
        page=entries_page,
        bucket=chosen,
        buckets=BUCKETS,
        verbs=VERBS,
        steps=steps,
        changes=queries.list_changes(read(), allocation_id) if awarded else [],
        reports=queries.list_reports(read(), allocation_id) if awarded else [],
        change_names=CHANGE_NAMES,
        report_names=REPORT_NAMES,
    )


def _entries(allocation_id: int, bucket: Bucket | None) -> tuple[paging.Page, list[queries.EntryRow]]:
    """One query where the address asks for a page that there is."""
    offset = paging.asked_offset()
    lines, total = queries.list_entries(read(), allocation_id, bucket, offset=offset)
    if lines or not offset:
        return paging.page_of(total), lines
    page = paging.page_of(queries.count_entries(read(), allocation_id, bucket))
    return page, queries.list_entries(read(), allocation_id, bucket, offset=page.offset)[0]


@blueprint.post("/allocations/<int:allocation_id>/withdraw")
@allows(Permission.ALLOCATION_WITHDRAW)
def withdraw(allocation_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.withdraw(s, allocation_id, by=by, now=at))
    tell(Sentence("allocation-withdrawn"))
    return redirect(url_for("allocations.page", allocation_id=allocation_id))


# -- changes of an allocation that runs -------------------------------------------------------------------------------


@allocation_changes.get("/allocations/<int:allocation_id>/change", endpoint="new")
@allows(Permission.CHANGE_REQUEST)
def new_change(allocation_id: int) -> ResponseReturnValue:
    return _change_page(allocation_id, ChangeForm(), _kind(http.args.get("kind")))


@allocation_changes.post("/allocations/<int:allocation_id>/change", endpoint="request")
@allows(Permission.CHANGE_REQUEST)
def request_change(allocation_id: int) -> ResponseReturnValue:
    form, by, at = ChangeForm(), actor(), now()
    kind = _kind(http.args.get("kind"))
    _shape_change(form, queries.get_allocation(read(), allocation_id, by), kind)
    if form.validate():
        wish = form.to_wish(kind)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: changes.request(s, allocation_id, wish, by=by, now=at).id,
                lambda id: url_for("changes.page", change_id=id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            at_once = kind in (ChangeKind.REDUCTION, ChangeKind.TRANSFER)
            tell(Sentence("change-done" if at_once else "change-requested"))
            return redirect(address)
    return _change_page(allocation_id, form, kind)


def _kind(text: str | None) -> ChangeKind:
    return ChangeKind(text) if text in {kind.value for kind in ChangeKind} else ChangeKind.SUPPLEMENT


def _shape_change(form: ChangeForm, allocation: Allocation, kind: ChangeKind) -> None:
    """Only the fields of this kind."""
    if kind is ChangeKind.EXTENSION:
        del form.hours
    else:
        del form.ends_on
    if kind is ChangeKind.TRANSFER:
        rows = queries.list_receivers(read(), allocation, now())
        form.to_allocation_id.choices = [
            (str(row.allocation.id), f"{row.allocation.id} · {row.pool.name} · {row.allocation.ends_on}")
            for row in rows
        ]
    else:
        del form.to_allocation_id
        del form.receiver_code


def _change_page(allocation_id: int, form: ChangeForm, kind: ChangeKind) -> ResponseReturnValue:
    row = queries.get_row(read(), allocation_id, actor())
    if "reason" in form and ("hours" in form) == ("ends_on" in form):  # not shaped yet
        _shape_change(form, row.allocation, kind)
    ended = row.allocation.state is AllocationState.CLOSED or now() >= row.allocation.ends_at
    return show(
        "allocations/change.html", form, row=row, kind=kind, kinds=CHANGE_NAMES, ended=ended,
        track=service.track_of(read(), row.allocation),
    )  # fmt: skip


@allocation_changes.get("/changes/<int:change_id>", endpoint="page")
@allows(Permission.ALLOCATION_VIEW)
def page_of_change(change_id: int) -> ResponseReturnValue:
    return _decide_change_page(change_id, AnswerForm())


def _decide_change_page(change_id: int, form: AnswerForm) -> ResponseReturnValue:
    by = actor()
    change = queries.get_change(read(), change_id, by)
    row = queries.get_row(read(), change.allocation_id, by)
    people = [change.requested_by, change.first_by, change.decided_by]
    history, names = history_with_names(read(), CHANGE_LIFE, change_id, people)
    left = programmes.hours(read(), [row.programme.id])[row.programme.id]
    decides = change.kind is ChangeKind.SUPPLEMENT and change.decided_at is None and by.may(Permission.CHANGE_APPROVE)
    return show(
        "allocations/change_page.html",
        form,
        impact=_impact(row.allocation, change) if decides else None,
        change=change,
        row=row,
        history=history,
        names=names,
        kinds=CHANGE_NAMES,
        left=left,
        deciders=2 if changes.two_decide(read(), row.allocation, change) else 1,
    )


def _impact(allocation: Allocation, change: AllocationChange) -> impact.Impact | None:
    """More hours, used evenly from now on."""
    today = clock.day_of(now())
    days, _picture = impact.load(read(), allocation.pool_id, today)
    left = (allocation.ends_on - max(today, allocation.starts_on)).days + 1
    return impact.reckon(days, allocation.enterprise_id, change.gpu_seconds or 0, left)


@allocation_changes.post("/changes/<int:change_id>/approve", endpoint="approve")
@allows(Permission.CHANGE_APPROVE)
def approve_change(change_id: int) -> ResponseReturnValue:
    return _answer_change(change_id, changes.approve, "change-approved")


@allocation_changes.post("/changes/<int:change_id>/decline", endpoint="decline")
@allows(Permission.CHANGE_DECLINE)
def decline_change(change_id: int) -> ResponseReturnValue:
    return _answer_change(change_id, changes.decline, "change-declined")


def _answer_change(change_id: int, verb: Callable[..., AllocationChange], told: str) -> ResponseReturnValue:
    form, by, at = AnswerForm(), actor(), now()
    if form.validate():
        reason = form.reason.data or ""
        try:
            change = transact(lambda s: verb(s, change_id, reason=reason, by=by, now=at))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("change-first-approval" if change.state.value == "submitted" else told))
            return redirect(url_for("changes.page", change_id=change_id))
    return _decide_change_page(change_id, form)


@allocation_changes.post("/changes/<int:change_id>/withdraw", endpoint="withdraw")
@allows(Permission.CHANGE_WITHDRAW)
def withdraw_change(change_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: changes.withdraw(s, change_id, by=by, now=at))
    tell(Sentence("change-withdrawn"))
    return redirect(url_for("changes.page", change_id=change_id))


# -- reports ----------------------------------------------------------------------------------------------------------


@allocation_reports.get("/reports/<int:report_id>", endpoint="page")
@allows(Permission.ALLOCATION_VIEW)
def page_of_report(report_id: int) -> ResponseReturnValue:
    by = actor()
    report = queries.get_report(read(), report_id, by)
    form = ReportForm() if by.may(Permission.REPORT_HAND_IN) else AnswerForm()
    if isinstance(form, ReportForm):
        form.text.data = report.text
    return _report_page(report, form)


def _report_page(report: Report, form: ReportForm | AnswerForm) -> ResponseReturnValue:
    row = queries.get_row(read(), report.allocation_id, actor())
    history = list_history(read(), REPORT_LIFE, report.id)
    return show(
        "allocations/report.html",
        form,
        report=report,
        row=row,
        history=history,
        names=names_of(read(), [report.handed_in_by, report.decided_by, *(e.by_id for e in history)]),
        report_names=REPORT_NAMES,
        overdue=clock.day_of(now()) > report.due_on,
    )


@allocation_reports.post("/reports/<int:report_id>/hand_in")
@allows(Permission.REPORT_HAND_IN)
def hand_in(report_id: int) -> ResponseReturnValue:
    form, by, at = ReportForm(), actor(), now()
    report = queries.get_report(read(), report_id, by)
    if form.validate():
        text = form.text.data
        try:
            transact(lambda s: reports.hand_in(s, report_id, text=text, by=by, now=at))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("report-handed-in"))
            return redirect(url_for("reports.page", report_id=report_id))
    return _report_page(report, form)


@allocation_reports.post("/reports/<int:report_id>/accept")
@allows(Permission.REPORT_ACCEPT)
def accept(report_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: reports.accept(s, report_id, by=by, now=at))
    tell(Sentence("report-accepted"))
    return redirect(url_for("reports.page", report_id=report_id))


@allocation_reports.post("/reports/<int:report_id>/return")
@allows(Permission.REPORT_RETURN)
def send_back(report_id: int) -> ResponseReturnValue:
    form, by, at = AnswerForm(), actor(), now()
    report = queries.get_report(read(), report_id, by)
    if form.validate():
        reason = form.reason.data or ""
        try:
            transact(lambda s: reports.send_back(s, report_id, reason=reason, by=by, now=at))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("report-returned"))
            return redirect(url_for("reports.page", report_id=report_id))
    return _report_page(report, form)
