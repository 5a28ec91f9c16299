"""Decide on requests step by step; the applicant follows, reads the letter and may appeal."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, make_response, redirect, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import clock, paging
from ..access import Permission
from ..allocations import conflicts
from ..allocations import review as steps_of
from ..allocations.review import Step
from ..allocations.review_models import RequestStep
from ..allocations.states import WAITING, AllocationState
from ..bookings.queue import Range, usual_start
from ..desk import impact
from ..desk.impact import Impact
from ..forms import show
from ..guard import actor, allows, language, now, one_time, portal, read, tell
from ..language import N_, gettext
from ..programmes import queries as programmes
from ..programmes import service as programmes_service
from ..programmes.rules import Rules
from ..sentences import Refusal, Sentence
from ..workdays.queries import load_calendar
from . import appeals, letters, queries, service
from .forms import (
    ROLES,
    AnswerForm,
    AppealForm,
    CommentForm,
    DecisionForm,
    DeclareForm,
    RemoveStepForm,
    StepForm,
    WaiverForm,
)

HORIZON_DAYS = 90  # over which a pool’s open awards are compared with what its cards can give
blueprint = Blueprint("review", __name__, template_folder="templates")


@blueprint.app_template_filter("step_name")
def step_name(step: RequestStep | Step) -> str:
    """A step's name in the reader's language; one without a name is the decision."""
    return str((language() == "en" and step.name_en) or step.name or gettext(language(), N_("Decision")))


@blueprint.get("/reviews")
@allows(Permission.REVIEW_VIEW)
def index() -> ResponseReturnValue:
    tally = queries.tally(read(), now())
    page = paging.page_of(tally.waiting + tally.stopped)
    rows = queries.list_waiting(read(), offset=page.offset)
    calendar = load_calendar(read())
    return show(
        "review/index.html",
        tally=tally,
        page=page,
        rows=rows,
        clocks={row.step.id: steps_of.clock_of(row.step, calendar, now()) for row in rows},
        appeals=queries.list_open_appeals(read()),
    )


# -- one request, for reviewers


@blueprint.get("/reviews/<int:allocation_id>")
@allows(Permission.REVIEW_VIEW)
def page(allocation_id: int) -> ResponseReturnValue:
    form = DecisionForm()
    if "awarded_hours" in http.args:  # the effects of another award; nothing is changed
        form.awarded_hours.process(http.args)
        form.awarded_hours.errors = list(form.awarded_hours.process_errors)
    return _page(allocation_id, form)


@dataclass(frozen=True, slots=True)
class Effect:
    """A number now and after the award, and the largest either can be."""

    now: float
    after: float
    whole: float


@dataclass(frozen=True, slots=True)
class Panel:
    """What a decider weighs before the click. Effects are missing while the award cannot be read."""

    others: list[queries.Other]
    place: queries.Place
    programme: Effect | None
    enterprise: Effect | None
    share: Effect | None
    pool: Effect | None
    ends_in_days: int | None  # when that is so soon that it needs a second yes
    days: Impact | None  # by the pool's recorded days
    start: Range | None  # of a node for a day, asked for now


def _page(
    allocation_id: int,
    form: DecisionForm,
    comment_form: CommentForm | None = None,
    declare_form: DeclareForm | None = None,
    waiver_form: WaiverForm | None = None,
) -> ResponseReturnValue:
    by, at = actor(), now()
    found = queries.get_request(read(), allocation_id, by)
    allocation = found.allocation
    steps = steps_of.list_steps(read(), allocation_id)
    if not steps and allocation.state in WAITING:  # asked before there were steps: they begin with the first word
        steps = steps_of.planned(read(), allocation, now=allocation.requested_at)
    opinions, remarks = queries.list_said(read(), allocation_id)
    calendar = load_calendar(read())
    step = steps_of.open_step(steps) if allocation.state in WAITING else None
    if form.awarded_hours.typed is None:
        form.awarded_hours.data = allocation.requested_gpu_seconds
    may_decide = by.may(Permission.REVIEW_APPROVE) and step is not None and step.paused_at is None
    said_already = step is not None and any(
        o.by_id == by.user_id and (o.step_id != step.id or o.round == step.round) for o in opinions
    )
    not_for = _why_not(by, allocation.requested_by, step, said_already) if may_decide else None
    panel = _panel(found, form, at) if step is not None else None
    reasons = queries.list_reasons(read()) if may_decide else []
    if step is not None and may_decide:
        _fill(form, step, reasons)
    outcomes = queries.list_outcomes(read(), allocation_id) if step is None else []
    may_waive = by.may(Permission.REVIEW_WAIVE)
    recused = queries.list_recused(read(), allocation.enterprise_id) if may_waive else []
    waiver_form = waiver_form or WaiverForm(formdata=None)
    waiver_form.user_id.choices = [(each.user_id, _name(each)) for each in recused]
    forms = [form, comment_form, declare_form, waiver_form]
    return show(
        "review/page.html",
        next((each for each in forms if each is not None and each.problems), form),
        row=found,
        steps=steps,
        step=step,
        clocks={each.id: steps_of.clock_of(each, calendar, at) for each in steps},
        opinions=opinions,
        remarks=remarks,
        panel=panel,
        horizon_days=HORIZON_DAYS,
        may_decide=may_decide and not_for is None,
        not_for=not_for,
        outcomes=outcomes,
        appeal=queries.find_appeal(read(), allocation_id) if outcomes else None,
        recused=recused,
        decision_form=form,
        comment_form=comment_form or CommentForm(formdata=None),
        declare_form=declare_form or DeclareForm(formdata=None),
        waiver_form=waiver_form,
        reasons={reason.code: reason for reason in reasons},
    )


def _why_not(by: Any, requested_by: int | None, step: RequestStep | None, said: bool) -> Sentence | None:
    """Why this reviewer cannot decide now; the verb says the same."""
    if step is None:
        return None
    if by.user_id == requested_by:
        return Sentence("not-your-own")
    if step.role not in by.roles and step.assigned_to != by.user_id:
        return Sentence("review-other-role", role=f"role-{step.role}")
    return Sentence("review-said-already") if said else None


def _name(person: Any) -> str:
    return str((language() == "en" and person.name_en) or person.name)


def _fill(form: DecisionForm, step: RequestStep, reasons: Any) -> None:
    english = language() == "en"
    form.checked.choices = [(n, point[1 if english else 0]) for n, point in enumerate(step.checklist)]
    form.reason_code.choices = [("", "–"), *((r.code, r.name_en if english else r.name) for r in reasons)]


def _panel(found: queries.Request, form: DecisionForm, at: dt.datetime) -> Panel:
    allocation = found.allocation
    others = queries.list_others(read(), allocation)
    half_life = portal().policy.queue.of_pool(found.pool.name).usage_half_life_days
    place = queries.place_of(read(), allocation, half_life_days=half_life, now=at)
    days_left = (allocation.ends_on - clock.day_of(at)).days
    soon = days_left + 1 if days_left < portal().policy.review.warn_ends_within_days else None
    days, picture = impact.load(read(), allocation.pool_id, clock.day_of(at))
    start = usual_start(picture, found.pool)
    award = form.awarded_hours.data
    if award is None:
        return Panel(others, place, None, None, None, None, soon, None, start)
    active = [other for other in others if other.state is AllocationState.ACTIVE]
    here = sum(other.available for other in active if other.pool_id == allocation.pool_id)
    had = sum(other.awarded for other in active if other.programme_id == allocation.programme_id)
    given = found.funded_gpu_seconds - found.left_gpu_seconds
    capacity = found.pool_gpus * HORIZON_DAYS * 86_400
    return Panel(
        others,
        place,
        Effect(found.left_gpu_seconds, found.left_gpu_seconds - award, max(found.funded_gpu_seconds, 1)),
        Effect(here, here + award, max(here + allocation.requested_gpu_seconds, 1)),
        Effect(100 * had / given if given else 0, 100 * (had + award) / max(1, given + award), 100),
        Effect(
            100 * place.open_gpu_seconds / capacity if capacity else 0,
            100 * (place.open_gpu_seconds + award) / capacity if capacity else 0,
            100,
        ),
        soon,
        impact.reckon(days, allocation.enterprise_id, award, (allocation.ends_on - allocation.starts_on).days + 1),
        start,
    )


@blueprint.post("/reviews/<int:allocation_id>/approve")
@allows(Permission.REVIEW_APPROVE)
def approve(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DecisionForm(), actor(), now()
    policy = portal().policy
    if form.validate():
        award, code, reason = form.awarded_hours.data or 0, form.reason_code.data or None, form.reason.data or ""
        checked, soon = form.checked.ticked, bool(form.ends_soon.data)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.approve(
                    s, allocation_id, awarded_gpu_seconds=award, reason_code=code, reason=reason, checked=checked,
                    ends_soon_confirmed=soon, policy=policy, by=by, now=at,
                ),
                lambda _done: url_for("review.page", allocation_id=allocation_id),
            )  # fmt: skip
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            _tell_where_it_stands(allocation_id, award)
            return redirect(address)
    return _page(allocation_id, form)


def _tell_where_it_stands(allocation_id: int, award: int | None) -> None:
    by = actor()
    found = queries.get_request(read(), allocation_id, by).allocation
    if found.state is AllocationState.ACTIVE:
        tell(Sentence("allocation-approved", hours=found.awarded_gpu_seconds or award))
    elif found.state is AllocationState.DECLINED:
        tell(Sentence("allocation-declined"))
    else:
        done_now = any(step.done_at == now() for step in steps_of.list_steps(read(), allocation_id))
        tell(Sentence("review-next-step" if done_now else "review-noted"))


@blueprint.post("/reviews/<int:allocation_id>/decline")
@allows(Permission.REVIEW_DECLINE)
def decline(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DecisionForm(), actor(), now()
    policy = portal().policy
    if form.validate():
        code, reason = form.reason_code.data or None, form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.decline(
                    s, allocation_id, reason_code=code, reason=reason, policy=policy, by=by, now=at
                ),
                lambda _done: url_for("review.page", allocation_id=allocation_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            _tell_where_it_stands(allocation_id, None)
            return redirect(address)
    return _page(allocation_id, form)


@blueprint.post("/reviews/<int:allocation_id>/return")
@allows(Permission.REVIEW_RETURN)
def ask_changes(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DecisionForm(), actor(), now()
    if form.validate():
        reason = form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.ask_changes(s, allocation_id, reason=reason, by=by, now=at),
                lambda _done: url_for("review.page", allocation_id=allocation_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("review-returned"))
            return redirect(address)
    return _page(allocation_id, form)


@blueprint.post("/reviews/<int:allocation_id>/comment")
@allows(Permission.REVIEW_COMMENT)
def comment(allocation_id: int) -> ResponseReturnValue:
    form, by, at = CommentForm(), actor(), now()
    if form.validate():
        public, private = form.public_text.data or "", form.private_text.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.comment(s, allocation_id, public_text=public, private_text=private, by=by, now=at),
                lambda _done: url_for("review.page", allocation_id=allocation_id, _anchor="comments"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("review-commented"))
            return redirect(address)
    return _page(allocation_id, DecisionForm(formdata=None), comment_form=form)


@blueprint.post("/reviews/<int:allocation_id>/declare")
@allows(Permission.REVIEW_DECLARE)
def declare(allocation_id: int) -> ResponseReturnValue:
    form, by, at = DeclareForm(), actor(), now()
    if form.validate():
        reason = form.conflict_reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: conflicts.declare(s, allocation_id, reason=reason, by=by, now=at),
                lambda _done: url_for("review.index"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("conflict-recused"))
            return redirect(address)
    return _page(allocation_id, DecisionForm(formdata=None), declare_form=form)


@blueprint.post("/reviews/<int:allocation_id>/waive")
@allows(Permission.REVIEW_WAIVE)
def waive(allocation_id: int) -> ResponseReturnValue:
    form, by, at = WaiverForm(), actor(), now()
    found = queries.get_request(read(), allocation_id, by)
    recused = queries.list_recused(read(), found.enterprise.id)
    form.user_id.choices = [(each.user_id, _name(each)) for each in recused]
    if form.validate():
        user_id, plan = form.user_id.data, form.plan.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: conflicts.waive(s, allocation_id, user_id, plan=plan, by=by, now=at),
                lambda _done: url_for("review.page", allocation_id=allocation_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("conflict-waiver-kept"))
            return redirect(address)
    return _page(allocation_id, DecisionForm(formdata=None), waiver_form=form)


# -- for the applicant


@blueprint.get("/allocations/<int:allocation_id>/review")
@allows(Permission.REVIEW_FOLLOW)
def follow(allocation_id: int) -> ResponseReturnValue:
    return _follow(allocation_id, AppealForm())


def _follow(allocation_id: int, form: AppealForm) -> ResponseReturnValue:
    by, at = actor(), now()
    allocation, pool, enterprise = queries.get_own_request(read(), allocation_id, by)
    steps = steps_of.list_steps(read(), allocation_id)
    outcomes = queries.list_outcomes(read(), allocation_id)
    appeal = queries.find_appeal(read(), allocation_id)
    calendar = load_calendar(read())
    rule = portal().policy.review
    first = next((outcome.decision for outcome in outcomes if not outcome.decision.on_appeal), None)
    may_be = first is not None and appeal is None and appeals.may_be_appealed(allocation, first)
    until = appeals.file_until(first, calendar, rule) if may_be and first is not None else None
    return show(
        "review/follow.html",
        form,
        allocation=allocation,
        pool=pool,
        enterprise=enterprise,
        steps=steps,
        step=steps_of.open_step(steps),
        clocks={step.id: steps_of.clock_of(step, calendar, at) for step in steps},
        outcomes=outcomes,
        appeal=appeal,
        appeal_until=until,
        may_appeal=until is not None and at <= until and by.may(Permission.APPEAL_FILE),
        answer_days=rule.appeal_decide_working_days,
        remarks=queries.list_public_remarks(read(), allocation_id),
    )


@blueprint.post("/allocations/<int:allocation_id>/appeal")
@allows(Permission.APPEAL_FILE)
def file_appeal(allocation_id: int) -> ResponseReturnValue:
    form, by, at = AppealForm(), actor(), now()
    rule = portal().policy.review
    if form.validate():
        text = form.text.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: appeals.file(s, allocation_id, text=text, policy=rule, by=by, now=at),
                lambda _done: url_for("review.follow", allocation_id=allocation_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            appeal = queries.find_appeal(read(), allocation_id)
            if appeal is not None:
                tell(Sentence("appeal-received", due_at=appeal.due_at))
            return redirect(address)
    return _follow(allocation_id, form)


@blueprint.get("/letters/<int:letter_id>")
@allows(Permission.LETTER_VIEW)
def letter(letter_id: int) -> Response:
    """The letter as it was issued."""
    found = letters.get_letter(read(), letter_id, actor())
    response = make_response(found.content)
    response.headers["Content-Type"] = "application/pdf"
    response.headers["Content-Disposition"] = f'attachment; filename="decision-{found.number}.pdf"'
    return response


# -- appeals, for the bureau


@blueprint.get("/appeals/<int:appeal_id>")
@allows(Permission.REVIEW_VIEW)
def appeal_page(appeal_id: int) -> ResponseReturnValue:
    return _appeal_page(appeal_id, AnswerForm())


def _appeal_page(appeal_id: int, form: AnswerForm) -> ResponseReturnValue:
    by = actor()
    row = queries.get_appeal(read(), appeal_id, by)
    if form.awarded_hours.typed is None:
        form.awarded_hours.data = row.allocation.requested_gpu_seconds
    deciders = appeals.deciders_of(read(), row.allocation)
    return show(
        "review/appeal.html",
        form,
        row=row,
        outcomes=queries.list_outcomes(read(), row.allocation.id),
        warning=load_calendar(read()).warning(row.appeal.due_at),
        is_open=row.appeal.decided_at is None,
        may_answer=by.may(Permission.APPEAL_DISMISS) and by.user_id not in deciders,
        decided_before=by.user_id in deciders,
    )


@blueprint.post("/appeals/<int:appeal_id>/uphold")
@allows(Permission.APPEAL_UPHOLD)
def uphold(appeal_id: int) -> ResponseReturnValue:
    form, by, at = AnswerForm(), actor(), now()
    policy = portal().policy
    if form.validate():
        award, reason = form.awarded_hours.data or 0, form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: appeals.uphold(
                    s, appeal_id, awarded_gpu_seconds=award, reason=reason, policy=policy, by=by, now=at
                ),
                lambda _done: url_for("review.appeal_page", appeal_id=appeal_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            given = queries.get_appeal(read(), appeal_id, by).appeal.awarded_gpu_seconds
            tell(Sentence("review-noted") if given is None else Sentence("appeal-upheld", hours=given))
            return redirect(address)
    return _appeal_page(appeal_id, form)


@blueprint.post("/appeals/<int:appeal_id>/dismiss")
@allows(Permission.APPEAL_DISMISS)
def dismiss(appeal_id: int) -> ResponseReturnValue:
    form, by, at = AnswerForm(), actor(), now()
    policy = portal().policy
    if form.validate():
        reason = form.reason.data or ""
        try:
            address = one_time(
                form.form_key.data,
                lambda s: appeals.dismiss(s, appeal_id, reason=reason, policy=policy, by=by, now=at),
                lambda _done: url_for("review.appeal_page", appeal_id=appeal_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("appeal-dismissed"))
            return redirect(address)
    return _appeal_page(appeal_id, form)


# -- the steps of a programme's tracks


@blueprint.get("/programmes/<int:programme_id>/review-steps")
@allows(Permission.REVIEW_VIEW_FLOW)
def flow(programme_id: int) -> ResponseReturnValue:
    return _flow(programme_id, http.args.get("track", ""), StepForm(formdata=None))


def _rules(programme_id: int) -> Rules:
    return Rules.from_json(programmes_service.newest_version(read(), programme_id).rules)


def _flow(programme_id: int, track: str, form: StepForm) -> ResponseReturnValue:
    programme = programmes.get_programme(read(), programme_id)
    rules = _rules(programme_id)
    keys = [each.key for each in rules.tracks]
    track = track if track in keys else keys[-1]
    form.role.choices = [(value, gettext(language(), word)) for value, word in ROLES]
    if not form.problems:
        form.track.data = track
    return show(
        "review/flow.html",
        form,
        programme=programme,
        tracks=keys,
        track=track,
        by_rule=rules.track(track),
        steps=steps_of.flow_of(read(), programme_id, track, rules),
        roles=dict(ROLES),
        may_set=actor().may(Permission.REVIEW_SET_FLOW),
    )


@blueprint.post("/programmes/<int:programme_id>/review-steps")
@allows(Permission.REVIEW_SET_FLOW)
def set_flow(programme_id: int) -> ResponseReturnValue:
    form, by, at = StepForm(), actor(), now()
    form.role.choices = [(value, gettext(language(), word)) for value, word in ROLES]
    programmes.get_programme(read(), programme_id)
    rules = _rules(programme_id)
    track = form.track.data if form.track.data in [each.key for each in rules.tracks] else rules.largest.key
    if form.validate():
        step = Step(
            form.name.data,
            form.name_en.data or None,
            next(role for role in steps_of.REVIEWERS if role.value == form.role.data),
            form.deciders.data,
            form.working_days.data,
            form.two_above_hours.data,
            form.points(),
        )
        place = (form.place.data or 99) - 1
        try:
            address = one_time(
                form.form_key.data,
                lambda s: steps_of.add_step(s, programme_id, track, step, place, rules=rules, by=by, now=at),
                lambda _done: url_for("review.flow", programme_id=programme_id, track=track),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("review-flow-set"))
            return redirect(address)
    return _flow(programme_id, track, form)


@blueprint.post("/programmes/<int:programme_id>/review-steps/remove")
@allows(Permission.REVIEW_SET_FLOW)
def remove_step(programme_id: int) -> ResponseReturnValue:
    form, by, at = RemoveStepForm(), actor(), now()
    programmes.get_programme(read(), programme_id)
    rules = _rules(programme_id)
    if not form.validate() or form.track.data not in [each.key for each in rules.tracks]:
        raise Refusal(Sentence("not-a-choice"))
    track, place = form.track.data or "", form.place.data - 1
    address = one_time(
        form.form_key.data,
        lambda s: steps_of.remove_step(s, programme_id, track, place, rules=rules, by=by, now=at),
        lambda _done: url_for("review.flow", programme_id=programme_id, track=track),
    )
    tell(Sentence("review-flow-set"))
    return redirect(address)


# -- published


@blueprint.get("/decision-times")
@allows(Permission.REVIEW_VIEW_TIMES)
def times() -> ResponseReturnValue:
    days = portal().policy.review.times_of_days
    since = now() - dt.timedelta(days=days)
    return show(
        "review/times.html",
        times=queries.decision_times(read(), since=since),
        appeals=queries.appeal_numbers(read(), since=since),
        programmes=queries.programmes_named(read()),
        since=clock.day_of(since),
    )
