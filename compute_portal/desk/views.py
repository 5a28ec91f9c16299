"""Pages that show several features: the start page of each role, and one enterprise as a whole."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence

from flask import Blueprint, Response, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, exports, guard, paging
from ..access import Permission, Role
from ..addresses import address
from ..allocations import conflicts
from ..badges import BADGES
from ..db import Database
from ..enterprises import queries as enterprises
from ..enterprises.models import Enterprise
from ..enterprises.states import LIFE, SIZE_NAMES
from ..forms import show
from ..guard import actor, allows, log_access, now, one_time, portal, read, signed_in, tell, transact
from ..language import WORDS, Language, typed
from ..language import say as say_in
from ..lifecycle import list_history
from ..pools import service as pools
from ..sentences import Refusal, Sentence
from ..signin import view_as as viewing
from ..signin.queries import names_of
from . import cluster as clusters
from . import history as histories
from . import jobs as timetable
from . import overview as overviews
from . import queries
from . import queue as queues
from .forms import NodesForm, ViewAsForm
from .queue import KIND_NAMES, Kind

blueprint = Blueprint("desk", __name__, template_folder="templates")
LONGEST_SEARCH = 60


@blueprint.get("/start")
@allows(Permission.START_VIEW)
def start() -> ResponseReturnValue:
    by = actor()
    if by.enterprise_id is not None:
        desk = queries.member_desk(read(), by.enterprise_id, by, now=now())
        return render_template(
            "desk/member.html", desk=desk, month=clock.month_of(now()), today=clock.day_of(now()), shown=queries.SHOWN
        )
    return _bureau_start()


def _bureau_start() -> ResponseReturnValue:
    """One page for all roles a person has at the bureau."""
    roles, session, at = actor().roles, read(), now()
    operator = queries.operator_desk(session, at) if Role.OPERATOR in roles else None
    finance = queries.finance_desk(session, at) if Role.FINANCE in roles else None
    auditor = queries.auditor_desk(session, at) if Role.AUDITOR in roles else None
    admin = queries.admin_desk(session, at) if Role.ADMIN in roles else None
    # Operators and administrators both want to know; it is one thing.
    silent = any(desk.silent for desk in (operator, admin) if desk is not None)
    seen = [] if auditor is None else [*(m.by_id for m in auditor.moves), *(d.user_id for d in auditor.latest_denials)]
    return render_template(
        "desk/bureau.html",
        operator=operator,
        finance=finance,
        auditor=auditor,
        admin=admin,
        silent=silent,
        count=silent + sum(desk.count for desk in (operator, finance, admin) if desk is not None),
        names=names_of(session, seen),
        kinds=WORDS,
        today=clock.day_of(at),
    )


@blueprint.get("/enterprises/<int:enterprise_id>")
@allows(Permission.ENTERPRISE_VIEW)
def enterprise(enterprise_id: int) -> ResponseReturnValue:
    by, session = actor(), read()
    enterprise = enterprises.get_enterprise(session, enterprise_id, by)
    history = list_history(session, LIFE, enterprise_id)
    return render_template(
        "desk/enterprise.html",
        enterprise=enterprise,
        overview=queries.overview(session, enterprise_id, by, now()),
        members=enterprises.list_members(session, enterprise_id, limit=paging.SIZE),
        history=history,
        names=names_of(session, [entry.by_id for entry in history]),
        sizes=SIZE_NAMES,
    )


# -- the queue -----------------------------------------------------------------------------------------------------


@blueprint.get("/queue")
@allows(Permission.QUEUE_VIEW)
def queue() -> ResponseReturnValue:
    """Everything that waits for a decision, what is due first on top."""
    by, policy = actor(), portal().policy
    asked = http.args.get("kind", "")
    which = queues.Which(
        kind=Kind(asked) if asked in set(Kind) else None,
        mine=bool(http.args.get("mine")),
        late=bool(http.args.get("late")),
        after=queues.Place.read(http.args.get("after", "")),
    )
    found = queues.load(read(), which, queues.Rules(policy.desk, policy.bookings), by, now())
    return render_template(
        "desk/queue.html",
        queue=found,
        which=which,
        kinds=KIND_NAMES,
        most=queues.MOST_COUNTED,
        address_of=_address_of,
        names=names_of(read(), [item.assigned_to for item in found.items]),
    )


# Where a thing of the queue is decided: the page, and what its number is called there.
PAGE_OF: dict[Kind, tuple[str, str]] = {
    Kind.ENTERPRISE: ("enterprises.record", "enterprise_id"),
    Kind.REQUEST: ("review.page", "allocation_id"),
    Kind.CHANGE: ("changes.page", "change_id"),
    Kind.APPEAL: ("review.appeal_page", "appeal_id"),
    Kind.REPORT: ("reports.page", "report_id"),
    Kind.BOOKING: ("bookings.page", "booking_id"),
}


def _address_of(item: queues.Item) -> str:
    if item.kind in PAGE_OF:
        page, number = PAGE_OF[item.kind]
        return address(page, **{number: item.id})
    if item.kind is Kind.INSTRUCTION and (item.text or "").endswith(" node"):
        return address("pools.node", node_id=item.target_id)
    if item.kind is Kind.INSTRUCTION:
        return address("bookings.page", booking_id=item.target_id)
    return address("people.mail" if item.kind is Kind.MAIL else "desk.jobs")


# -- the cluster ---------------------------------------------------------------------------------------------------


@blueprint.get("/cluster")
@allows(Permission.CLUSTER_VIEW)
def cluster() -> ResponseReturnValue:
    policy = portal().policy.audit
    found = clusters.load(read(), policy, now())
    return render_template(
        "desk/cluster.html",
        cluster=found,
        silent_for=clusters.ago(found.heartbeat_at, now()),
        pue_permille=policy.pue_permille,
    )


@blueprint.get("/cluster/<int:pool_id>")
@allows(Permission.CLUSTER_VIEW)
def rack(pool_id: int) -> ResponseReturnValue:
    """Sixteen nodes of a pool: `?rack=` counts from 1."""
    return _rack_page(pool_id, NodesForm())


def _rack_page(pool_id: int, form: NodesForm, ticked: Sequence[int] = ()) -> ResponseReturnValue:
    return show("desk/rack.html", form, shown=clusters.load_rack(read(), pool_id, _rack(), now()), ticked=ticked)


def _rack() -> int:
    asked = http.args.get("rack", "1")
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 1


@blueprint.post("/cluster/<int:pool_id>/drain")
@allows(Permission.NODE_DRAIN)
def drain_nodes(pool_id: int) -> ResponseReturnValue:
    return _ask_nodes(pool_id, pools.drain_all)


@blueprint.post("/cluster/<int:pool_id>/resume")
@allows(Permission.NODE_RESUME)
def resume_nodes(pool_id: int) -> ResponseReturnValue:
    return _ask_nodes(pool_id, pools.resume_all)


def _ask_nodes(pool_id: int, verb: Callable[..., list[int]]) -> ResponseReturnValue:
    """An instruction for each chosen node, or for none; the page shows them waiting."""
    shown = clusters.load_rack(read(), pool_id, _rack(), now())
    form, by, at = NodesForm(), actor(), now()
    node_ids = clusters.chosen(http.form.getlist("node_ids"), shown.rack.nodes)
    if form.validate():
        why = form.why.data or ""
        try:
            if not node_ids:
                raise Refusal(Sentence("choose-a-node"))
            address = one_time(
                form.form_key.data,
                lambda s: verb(s, node_ids, why=why, by=by, now=at),
                lambda _ids: url_for("desk.rack", pool_id=pool_id, rack=shown.rack.number),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("asked-the-scheduler"))
            return redirect(address)
    return _rack_page(pool_id, form, node_ids)


# -- one enterprise, for the bureau --------------------------------------------------------------------------------


@blueprint.get("/enterprises/<int:enterprise_id>/overview")
@allows(Permission.OVERVIEW_VIEW)
def overview(enterprise_id: int) -> ResponseReturnValue:
    by = actor()
    enterprise = enterprises.get_enterprise(read(), enterprise_id, by)
    return render_template(
        "desk/overview.html", enterprise=enterprise, overview=overviews.load(read(), enterprise_id, by, now())
    )


# -- the health of the timetable -----------------------------------------------------------------------------------


@blueprint.get("/jobs")
@allows(Permission.JOB_VIEW)
def jobs() -> ResponseReturnValue:
    health = timetable.load(read(), now())
    asked_by = [job.asked.by_id for job in health.jobs if job.asked is not None]
    return render_template("desk/jobs.html", health=health, names=names_of(read(), asked_by))


@blueprint.post("/jobs/<int:job_id>/retry")
@allows(Permission.JOB_RETRY)
def retry(job_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: timetable.retry(s, job_id, by=by, now=at))
    tell(Sentence("asked-the-scheduler"))
    return redirect(url_for("desk.jobs"))


# -- the history of everything -------------------------------------------------------------------------------------

COLUMNS = ("id", "at", "kind", "subject_id", "verb", "before", "after", "by_id", "by_name", "why", "note")


@blueprint.get("/history")
@allows(Permission.HISTORY_VIEW)
def history() -> ResponseReturnValue:
    search, who = _search()
    entries, following = histories.page(read(), search)
    return render_template(
        "desk/history.html",
        rows=entries,
        following=following,
        search=search,
        typed_name=who,
        kinds=WORDS,
        known=sorted(BADGES),
        word_of=_word_of,
        names=names_of(read(), [entry.by_id for entry in entries]),
    )


def _search() -> tuple[histories.Search, str]:
    """What the address asks for, nonsense left out, and what was typed as the person's name."""
    today = clock.day_of(now())
    to_on = _day("to", today)
    subject, who = http.args.get("subject", ""), _text("who")
    by_ids: tuple[int, ...] | None = () if http.args.get("system") else None
    if who:
        # nobody of that name: nothing is found, not everything
        by_ids = tuple(histories.find_people(read(), who)) or (-1,)
    search = histories.Search(
        from_on=min(to_on, _day("from", to_on - histories.LOOKING_BACK)),
        to_on=to_on,
        kind=_text("kind"),
        subject_id=int(subject) if subject.isascii() and subject.isdigit() and len(subject) < 10 else None,
        verb=_text("verb"),
        by_ids=by_ids,
        after=histories.Place.read(http.args.get("after", "")),
    )
    return search, who


def _text(name: str) -> str:
    """The zero byte, which PostgreSQL refuses, is in no word."""
    return http.args.get(name, "").replace("\0", "").strip()[:LONGEST_SEARCH]


def _day(name: str, otherwise: dt.date) -> dt.date:
    try:
        day = dt.date.fromisoformat(http.args.get(name, ""))
    except ValueError:
        return otherwise
    return day if 2000 <= day.year <= 2200 else otherwise


def _word_of(kind: str, state: str | None) -> str:
    """The msgid of a state, or the bare state where a kind has no picture."""
    found = BADGES.get(kind, {}).get(state or "")
    return found.word if found is not None else state or ""


@blueprint.get("/history.csv")
@allows(Permission.HISTORY_EXPORT)
def export_history() -> ResponseReturnValue:
    search, _who = _search()
    log_access("export", http.query_string.decode("ascii", "replace")[:200])
    rows = _history_lines(portal().database, search, guard.language())
    response = Response(exports.csv_lines(COLUMNS, rows), mimetype=exports.MIMETYPE)
    name = f"history-{search.from_on}-{search.to_on}.csv"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _history_lines(
    database: Database, search: histories.Search, language: Language
) -> Iterator[Sequence[exports.Cell]]:
    """Read while it is sent, in a snapshot of its own."""
    with database.read_only() as session:
        for entry, name in histories.every_row(session, search):
            why = Sentence.from_json(entry.why)
            yield (
                entry.id,
                f"{typed(entry.at)}:{entry.at:%S}",
                entry.kind,
                entry.subject_id,
                entry.verb,
                entry.before,
                entry.after,
                entry.by_id,
                name,
                say_in(why, language) if why is not None else None,
                entry.note,
            )


# -- seeing the portal as a member does ----------------------------------------------------------------------------


@blueprint.get("/enterprises/<int:enterprise_id>/view-as")
@allows(Permission.VIEW_AS_START)
def view_as(enterprise_id: int) -> ResponseReturnValue:
    form, enterprise = _view_as_form(enterprise_id)
    return show("desk/view_as.html", form, enterprise=enterprise, minutes=_minutes())


def _minutes() -> int:
    return int(viewing.LASTS.total_seconds()) // 60


def _view_as_form(enterprise_id: int) -> tuple[ViewAsForm, Enterprise]:
    enterprise = enterprises.get_enterprise(read(), enterprise_id, actor())
    form = ViewAsForm()
    english = guard.language() == "en"
    form.user_id.choices = [
        (row.user_id, (english and row.name_en) or row.name)
        for row in enterprises.list_members(read(), enterprise_id, limit=queries.MOST_VIEWED)
    ]
    return form, enterprise


@blueprint.post("/enterprises/<int:enterprise_id>/view-as")
@allows(Permission.VIEW_AS_START)
def start_view_as(enterprise_id: int) -> ResponseReturnValue:
    form, enterprise = _view_as_form(enterprise_id)
    who, by, at = signed_in(), actor(), now()
    if form.validate():
        user_id, why = form.user_id.data, form.why.data

        def look(s: Session) -> None:
            conflicts.must_be_free_of(s, enterprise_id, by)  # what does not open here does not open that way either
            viewing.start(s, who.session_id, user_id=user_id, enterprise_id=enterprise_id, why=why, by=by, now=at)

        try:
            address = one_time(
                form.form_key.data,
                look,
                lambda _none: url_for("desk.start"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            log_access("view-as-start", f"as {user_id}")
            return redirect(address)
    return show("desk/view_as.html", form, enterprise=enterprise, minutes=_minutes())


@blueprint.post("/view-as/end")
@allows(Permission.START_VIEW)
def end_view_as() -> ResponseReturnValue:
    who = signed_in()
    transact(lambda s: viewing.end(s, who.session_id))
    if who.viewer is not None and who.place is not None:
        log_access("view-as-end", f"as {who.user_id}")
        return redirect(url_for("desk.overview", enterprise_id=who.place.enterprise_id))
    return redirect(url_for("desk.start"))
