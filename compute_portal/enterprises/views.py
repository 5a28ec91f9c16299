"""Enterprises: how they register, what the bureau decides about them, who belongs to them.

What an enterprise has and uses is shown by `desk.enterprise`, because that concerns several features.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, abort, make_response, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from .. import clock, guard, paging
from ..access import Permission, Role
from ..files import queries as files
from ..forms import PortalForm, show
from ..guard import _, actor, allows, now, one_time, portal, public, read, takes_files, tell, transact
from ..language import N_
from ..lifecycle import list_history
from ..sentences import Refusal, Sentence
from ..signin import service as signin
from ..signin.queries import names_of
from . import credit_code, membership, queries, service
from .forms import (
    LANGUAGE_NAMES,
    ROLES,
    SIZES,
    AcceptForm,
    AppointForm,
    BreachForm,
    DeclineForm,
    DocumentForm,
    EndForm,
    InvitationForm,
    ParticularsForm,
    ReasonForm,
    RelatedForm,
    SizeForm,
    particulars_of,
)
from .models import Enterprise
from .states import DOCUMENT_NAMES, LIFE, RELATION_NAMES, SIZE_NAMES, EnterpriseState, SizeClass

blueprint = Blueprint("enterprises", __name__, template_folder="templates")
LONGEST_SEARCH = 60
AN_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")


# -- the bureau's list


@blueprint.get("/enterprises")
@allows(Permission.ENTERPRISE_VIEW)
def index() -> ResponseReturnValue:
    """The bureau's list; a member has only the own enterprise."""
    by = actor()
    if not by.is_bureau:
        return redirect(url_for("desk.enterprise", enterprise_id=by.enterprise_id))
    find, state = _searched(), _state_asked()
    counts = queries.count_by_state(read())
    if find:
        page = paging.page_of(queries.count_fitting(read(), find, state))
    else:
        page = paging.page_of(sum(counts.values()) if state is None else counts[state])
    return render_template(
        "enterprises/index.html",
        page=page,
        rows=queries.list_enterprises(read(), find, state, offset=page.offset, limit=page.size),
        counts=counts,
        find=find,
        chosen=state,
        states=EnterpriseState,
        sizes=SIZE_NAMES,
    )


def _searched() -> str:
    """Part of a name or code; the zero byte, which PostgreSQL refuses, is in no name."""
    return http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]


def _state_asked() -> EnterpriseState | None:
    asked = http.args.get("state", "")
    return next((state for state in EnterpriseState if state.value == asked), None)


# -- registration and data


@blueprint.get("/enterprises/register")
@allows(Permission.ENTERPRISE_REGISTER)
def register_form() -> ResponseReturnValue:
    form = ParticularsForm()
    form.size_class.choices = _sizes()
    return show("enterprises/register.html", form)


@blueprint.post("/enterprises/register")
@allows(Permission.ENTERPRISE_REGISTER)
def register() -> ResponseReturnValue:
    form, by, at, session_id = ParticularsForm(), actor(), now(), guard.signed_in().session_id
    form.size_class.choices = _sizes()
    if form.validate():
        said = form.to_particulars()

        def work(session: Session) -> int:
            enterprise = service.register(session, said, by=by, now=at)
            signin.act_for(session, session_id, enterprise.id)
            return enterprise.id

        try:
            address = one_time(form.form_key.data, work, lambda id: url_for("enterprises.record", enterprise_id=id))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("enterprise-registered"))
            return redirect(address)
    return show("enterprises/register.html", form)


def _sizes() -> list[tuple[str, str]]:
    return [(value, _(name)) for value, name in SIZES]


@blueprint.get("/enterprises/<int:enterprise_id>/record")
@allows(Permission.ENTERPRISE_VIEW)
def record(enterprise_id: int) -> ResponseReturnValue:
    return _record_page(enterprise_id, DocumentForm())


def _record_page(enterprise_id: int, form: DocumentForm) -> ResponseReturnValue:
    """The data that the bureau verifies, with everything that was decided about them."""
    by, session = actor(), read()
    family = queries.get_family(session, enterprise_id, by)
    enterprise = family.enterprise
    history = list_history(session, LIFE, enterprise_id)
    documents = files.list_files(session, service.OWNER_KIND, enterprise_id)
    people = [entry.by_id for entry in history] + [(entry.why or {}).get("member") for entry in history]
    form.kinds(_)
    return show(
        "enterprises/record.html",
        form,
        family=family,
        enterprise=enterprise,
        documents=documents,
        missing=[kind for kind in _required(enterprise) if kind not in {file.kind for file in documents}],
        document_names=DOCUMENT_NAMES,
        code_fits=enterprise.credit_code is None or credit_code.fits(enterprise.credit_code),
        members=queries.list_members(session, enterprise_id, limit=paging.SIZE),
        breaches=queries.list_breaches(session, enterprise_id),
        related=queries.list_related(session, enterprise),
        relations=RELATION_NAMES,
        sizes=SIZE_NAMES,
        history=history,
        names=names_of(session, people),
        decided=next((entry for entry in history if entry.verb in ("decline", "suspend")), None),
        today=clock.day_of(now()),
        largest=portal().policy.files.largest_megabytes,
    )


def _required(enterprise: Enterprise) -> tuple[str, ...]:
    """The kinds of document that its verification asks for."""
    rules = portal().policy.enterprises
    return rules.team_documents_required if enterprise.credit_code is None else rules.documents_required


@blueprint.post("/enterprises/<int:enterprise_id>/documents")
@allows(Permission.ENTERPRISE_CHANGE)
@takes_files()
def attach(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = DocumentForm(), actor(), now()
    queries.get_enterprise(read(), enterprise_id, by)
    form.kinds(_)
    if form.validate():
        kind, sent, policy = form.kind.data, form.document.data, portal().policy.files
        assert sent is not None  # Chosen() has looked

        def work(session: Session) -> str:
            return service.attach(
                session, enterprise_id, kind=kind, name=sent.name, content=sent.content, policy=policy, by=by, now=at
            ).name

        try:
            address = one_time(form.form_key.data, work, lambda name: _record_of(enterprise_id, "documents"))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("document-attached"))
            return redirect(address)
    return _record_page(enterprise_id, form)


@blueprint.post("/documents/<int:file_id>/remove")
@allows(Permission.ENTERPRISE_CHANGE)
def detach(file_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.detach(s, file_id, by=by, now=at))
    tell(Sentence("document-removed"))
    return redirect(_record_of(by.enterprise_id, "documents"))


def _record_of(enterprise_id: int | None, part: str | None = None) -> str:
    return url_for("enterprises.record", enterprise_id=enterprise_id, _anchor=part)


@blueprint.get("/enterprises/<int:enterprise_id>/change")
@allows(Permission.ENTERPRISE_CHANGE)
def change_form(enterprise_id: int) -> ResponseReturnValue:
    family = queries.get_family(read(), enterprise_id, actor())
    form = ParticularsForm(data=particulars_of(family.enterprise, family.sponsor))
    _code_as_taken(form, family.enterprise)
    return _change_page(form, family.enterprise)


@blueprint.post("/enterprises/<int:enterprise_id>/change")
@allows(Permission.ENTERPRISE_CHANGE)
def change(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = ParticularsForm(), actor(), now()
    enterprise = queries.get_enterprise(read(), enterprise_id, by)
    form.size_class.choices = _sizes()
    _code_as_taken(form, enterprise)
    if not _may_declare_size(enterprise):
        form.size_class.data = enterprise.size_class.value
    if form.validate():
        said = form.to_particulars(None if _may_declare_size(enterprise) else enterprise.size_class)
        try:
            address = one_time(
                form.form_key.data,
                lambda s: service.change(s, enterprise_id, said, by=by, now=at),
                lambda _changed: _record_of(enterprise_id),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("enterprise-changed"))
            return redirect(address)
    return _change_page(form, enterprise)


def _change_page(form: ParticularsForm, enterprise: Enterprise) -> ResponseReturnValue:
    form.size_class.choices = _sizes()
    return show("enterprises/change.html", form, enterprise=enterprise, may_declare_size=_may_declare_size(enterprise))


def _code_as_taken(form: ParticularsForm, enterprise: Enterprise) -> None:
    """An odd code that stays need not be confirmed again."""
    code = enterprise.credit_code
    if code is not None and form.credit_code.data == code and not credit_code.fits(code):
        form.as_on_licence.data = True


def _may_declare_size(enterprise: Enterprise) -> bool:
    """Until somebody has verified it; later an operator changes the class."""
    return enterprise.state in (EnterpriseState.APPLIED, EnterpriseState.DECLINED)


# -- what an operator decides: one page and one verb each


class Act:
    """The words of a page that decides something: heading, what follows from it, and the button (msgids)."""

    def __init__(self, heading: str, effect: str, button: str, tone: str = "primary") -> None:
        self.heading, self.effect, self.button, self.tone = heading, effect, button, tone


def _act_page(act: Act, form: PortalForm, enterprise: Enterprise) -> ResponseReturnValue:
    return show(
        "enterprises/act.html", form, act=act, enterprise=enterprise, months=portal().policy.enterprises.breach_months
    )


def _act(
    act: Act, form: PortalForm, enterprise_id: int, work: Callable[[Session], Any], told: Sentence
) -> ResponseReturnValue:
    """Run the verb once, or show its page again with what it refuses."""
    enterprise = queries.get_enterprise(read(), enterprise_id, actor())
    if form.validate():
        try:
            address = one_time(form.form_key.data, work, lambda _result: _record_of(enterprise_id))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(told)
            return redirect(address)
    return _act_page(act, form, enterprise)


def _enterprise(enterprise_id: int) -> Enterprise:
    return queries.get_enterprise(read(), enterprise_id, actor())


VERIFY = Act(
    N_("Verify %(enterprise)s?"),
    N_("It may then request GPU-hours and book. Write what you compared; the company reads it."),
    N_("Verify this enterprise"),
)
ADMIT = Act(
    N_("Admit the credit code of %(enterprise)s?"),
    N_("Its check digit does not fit, and such codes were issued. Write what shows that this one is right."),
    N_("Admit this code"),
)
DECLINE = Act(
    N_("Decline the application of %(enterprise)s?"),
    N_("The company reads your reason, and may correct its data and apply again."),
    N_("Decline this application"),
    "danger",
)
SUSPEND = Act(
    N_("Suspend %(enterprise)s?"),
    N_("It can make no new requests and bookings; what runs or waits goes on. The company reads your reason."),
    N_("Suspend this enterprise"),
    "danger",
)
RESUME = Act(
    N_("Resume %(enterprise)s?"),
    N_("It may request and book again. The company reads your reason."),
    N_("Resume this enterprise"),
)
APPOINT = Act(
    N_("Appoint a manager for %(enterprise)s"),
    N_("It has no manager who can sign in. The person may then invite, request and read statements, and is told."),
    N_("Appoint this manager"),
)
CLASSIFY = Act(
    N_("Change the size class of %(enterprise)s"),
    N_("Prices and conditions of programmes follow the class of the day. Earlier decisions keep theirs."),
    N_("Change the size class"),
)
RELATE = Act(
    N_("Enter a related party of %(enterprise)s"),
    N_("Vouchers are not paid for what a related party supplies. Both companies read the entry."),
    N_("Enter this relation"),
)
UNRELATE = Act(
    N_("End a relation of %(enterprise)s"),
    N_("The entry stays in the register and counts until its last day."),
    N_("End this relation"),
)
BREACH = Act(
    N_("Enter a credit breach of %(enterprise)s"),
    N_("It blocks new requests for %(months)s months from its day. The company reads the entry."),
    N_("Enter this breach"),
    "danger",
)
LIFT = Act(
    N_("Lift a credit breach of %(enterprise)s"),
    N_("From today it blocks nothing any more. The entry stays in the register."),
    N_("Lift this breach"),
)


@blueprint.get("/enterprises/<int:enterprise_id>/verify")
@allows(Permission.ENTERPRISE_VERIFY)
def verify_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(VERIFY, ReasonForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/verify")
@allows(Permission.ENTERPRISE_VERIFY)
def verify(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = ReasonForm(), actor(), now()
    required = _required(_enterprise(enterprise_id))
    return _act(
        VERIFY,
        form,
        enterprise_id,
        lambda s: service.verify(s, enterprise_id, reason=form.reason.data, required=required, by=by, now=at),
        Sentence("enterprise-verified"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/admit")
@allows(Permission.ENTERPRISE_ADMIT)
def admit_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(ADMIT, ReasonForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/admit")
@allows(Permission.ENTERPRISE_ADMIT)
def admit(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = ReasonForm(), actor(), now()
    return _act(
        ADMIT,
        form,
        enterprise_id,
        lambda s: service.admit(s, enterprise_id, reason=form.reason.data, by=by, now=at),
        Sentence("enterprise-code-admitted"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/decline")
@allows(Permission.ENTERPRISE_DECLINE)
def decline_form(enterprise_id: int) -> ResponseReturnValue:
    form = DeclineForm()
    form.reasons(_)
    return _act_page(DECLINE, form, _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/decline")
@allows(Permission.ENTERPRISE_DECLINE)
def decline(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = DeclineForm(), actor(), now()
    form.reasons(_)
    return _act(
        DECLINE,
        form,
        enterprise_id,
        lambda s: service.decline(s, enterprise_id, why=form.to_reason(), reason=form.reason.data, by=by, now=at),
        Sentence("enterprise-declined"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/suspend")
@allows(Permission.ENTERPRISE_SUSPEND)
def suspend_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(SUSPEND, ReasonForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/suspend")
@allows(Permission.ENTERPRISE_SUSPEND)
def suspend(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = ReasonForm(), actor(), now()
    return _act(
        SUSPEND,
        form,
        enterprise_id,
        lambda s: service.suspend(s, enterprise_id, reason=form.reason.data, by=by, now=at),
        Sentence("enterprise-suspended"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/resume")
@allows(Permission.ENTERPRISE_RESUME)
def resume_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(RESUME, ReasonForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/resume")
@allows(Permission.ENTERPRISE_RESUME)
def resume(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = ReasonForm(), actor(), now()
    return _act(
        RESUME,
        form,
        enterprise_id,
        lambda s: service.resume(s, enterprise_id, reason=form.reason.data, by=by, now=at),
        Sentence("enterprise-resumed"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/appoint")
@allows(Permission.MEMBER_APPOINT)
def appoint_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(APPOINT, AppointForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/appoint")
@allows(Permission.MEMBER_APPOINT)
def appoint(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = AppointForm(), actor(), now()
    return _act(
        APPOINT,
        form,
        enterprise_id,
        lambda s: (
            membership.appoint(s, enterprise_id, form.address.data, reason=form.reason.data, by=by, now=at).user_id
        ),
        Sentence("manager-appointed"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/classify")
@allows(Permission.ENTERPRISE_CLASSIFY)
def classify_form(enterprise_id: int) -> ResponseReturnValue:
    enterprise = _enterprise(enterprise_id)
    form = SizeForm(data={"size_class": enterprise.size_class.value, "from_on": clock.day_of(now())})
    form.size_class.choices = _sizes()
    return _act_page(CLASSIFY, form, enterprise)


@blueprint.post("/enterprises/<int:enterprise_id>/classify")
@allows(Permission.ENTERPRISE_CLASSIFY)
def classify(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = SizeForm(), actor(), now()
    form.size_class.choices = _sizes()
    return _act(
        CLASSIFY,
        form,
        enterprise_id,
        lambda s: service.classify(
            s,
            enterprise_id,
            size_class=SizeClass(form.size_class.data),
            from_on=form.from_on.data,
            reason=form.reason.data,
            by=by,
            now=at,
        ),
        Sentence("enterprise-classified"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/relate")
@allows(Permission.ENTERPRISE_RELATE)
def relate_form(enterprise_id: int) -> ResponseReturnValue:
    form = RelatedForm()
    form.relations(_)
    return _act_page(RELATE, form, _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/relate")
@allows(Permission.ENTERPRISE_RELATE)
def relate(enterprise_id: int) -> ResponseReturnValue:
    form, by, at = RelatedForm(), actor(), now()
    form.relations(_)
    return _act(
        RELATE,
        form,
        enterprise_id,
        lambda s: service.relate(s, enterprise_id, form.to_firm(), by=by, now=at),
        Sentence("relation-entered"),
    )


@blueprint.get("/related-parties/<int:party_id>/end")
@allows(Permission.ENTERPRISE_RELATE)
def unrelate_form(party_id: int) -> ResponseReturnValue:
    party = queries.get_party(read(), party_id)
    form = EndForm(data={"until_on": clock.day_of(now())})
    return _act_page(UNRELATE, form, _enterprise(party.enterprise_id))


@blueprint.post("/related-parties/<int:party_id>/end")
@allows(Permission.ENTERPRISE_RELATE)
def unrelate(party_id: int) -> ResponseReturnValue:
    form, by, at = EndForm(), actor(), now()
    party = queries.get_party(read(), party_id)
    return _act(
        UNRELATE,
        form,
        party.enterprise_id,
        lambda s: service.unrelate(s, party_id, until_on=form.until_on.data, reason=form.reason.data, by=by, now=at),
        Sentence("relation-ended"),
    )


@blueprint.get("/enterprises/<int:enterprise_id>/breach")
@allows(Permission.ENTERPRISE_BREACH)
def breach_form(enterprise_id: int) -> ResponseReturnValue:
    return _act_page(BREACH, BreachForm(), _enterprise(enterprise_id))


@blueprint.post("/enterprises/<int:enterprise_id>/breach")
@allows(Permission.ENTERPRISE_BREACH)
def breach(enterprise_id: int) -> ResponseReturnValue:
    form, by, at, months = BreachForm(), actor(), now(), portal().policy.enterprises.breach_months
    return _act(
        BREACH,
        form,
        enterprise_id,
        lambda s: service.enter_breach(
            s,
            enterprise_id,
            happened_on=form.happened_on.data,
            evidence=form.evidence.data,
            months=months,
            by=by,
            now=at,
        ),
        Sentence("breach-is-entered"),
    )


@blueprint.get("/credit-breaches/<int:breach_id>/lift")
@allows(Permission.ENTERPRISE_BREACH)
def lift_form(breach_id: int) -> ResponseReturnValue:
    return _act_page(LIFT, ReasonForm(), _enterprise(queries.get_breach(read(), breach_id).enterprise_id))


@blueprint.post("/credit-breaches/<int:breach_id>/lift")
@allows(Permission.ENTERPRISE_BREACH)
def lift(breach_id: int) -> ResponseReturnValue:
    form, by, at = ReasonForm(), actor(), now()
    breach = queries.get_breach(read(), breach_id)
    return _act(
        LIFT,
        form,
        breach.enterprise_id,
        lambda s: service.lift_breach(s, breach_id, reason=form.reason.data, by=by, now=at),
        Sentence("breach-is-lifted"),
    )


# -- a sponsor answers a team


@blueprint.post("/teams/<int:team_id>/confirm")
@allows(Permission.ENTERPRISE_SPONSOR)
def confirm_sponsor(team_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.confirm_sponsor(s, team_id, by=by, now=at).id)
    tell(Sentence("team-sponsored"))
    return redirect(_record_of(by.enterprise_id, "teams"))


@blueprint.post("/teams/<int:team_id>/refuse")
@allows(Permission.ENTERPRISE_SPONSOR)
def refuse_sponsor(team_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: service.refuse_sponsor(s, team_id, by=by, now=at).id)
    tell(Sentence("team-not-sponsored"))
    return redirect(_record_of(by.enterprise_id, "teams"))


# -- members and invitations


@blueprint.get("/members")
@allows(Permission.ENTERPRISE_VIEW)
def members() -> ResponseReturnValue:
    """The people of the enterprise acted for; the bureau looks at an enterprise's own page."""
    by = actor()
    if by.enterprise_id is None:
        return redirect(url_for("enterprises.index"))
    page = paging.page_of(queries.count_members(read(), by.enterprise_id))
    return render_template(
        "enterprises/members.html",
        page=page,
        rows=queries.list_members(read(), by.enterprise_id, offset=page.offset),
        invitations=queries.list_invitations(read(), by.enterprise_id) if by.may(Permission.MEMBER_INVITE) else [],
        manager=Role.MANAGER,
    )


@blueprint.get("/members/invite")
@allows(Permission.MEMBER_INVITE)
def invite_form() -> ResponseReturnValue:
    return _invite_page(InvitationForm(data={"role": Role.MEMBER.value, "language": guard.language()}))


@blueprint.post("/members/invite")
@allows(Permission.MEMBER_INVITE)
def invite() -> ResponseReturnValue:
    form, by, at, policy = InvitationForm(), actor(), now(), portal().policy.enterprises
    _invite_choices(form)
    if form.validate():
        if not AN_ADDRESS.fullmatch(form.address.data):
            form.refuse(Refusal(Sentence("not-an-address", example="name@example.cn"), "address"))
            return _invite_page(form)
        address, role, language = form.address.data, Role(form.role.data), form.language.data
        try:
            where = one_time(
                form.form_key.data,
                lambda s: membership.invite(s, address, role=role, language=language, policy=policy, by=by, now=at),
                lambda _invitation: url_for("enterprises.members"),
            )
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("invitation-sent", address=address, n=policy.invitation_days))
            return redirect(where)
    return _invite_page(form)


def _invite_page(form: InvitationForm) -> ResponseReturnValue:
    _invite_choices(form)
    return show("enterprises/invite.html", form, days=portal().policy.enterprises.invitation_days)


def _invite_choices(form: InvitationForm) -> None:
    form.role.choices = [(value, _(name)) for value, name in ROLES]
    form.language.choices = LANGUAGE_NAMES


@blueprint.post("/invitations/<int:invitation_id>/resend")
@allows(Permission.MEMBER_INVITE)
def resend(invitation_id: int) -> ResponseReturnValue:
    by, at, policy = actor(), now(), portal().policy.enterprises
    address = transact(lambda s: membership.resend(s, invitation_id, policy=policy, by=by, now=at).address)
    tell(Sentence("invitation-sent", address=address, n=policy.invitation_days))
    return redirect(url_for("enterprises.members"))


@blueprint.post("/invitations/<int:invitation_id>/revoke")
@allows(Permission.MEMBER_INVITE)
def revoke(invitation_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: membership.revoke(s, invitation_id, by=by, now=at))
    tell(Sentence("invitation-revoked"))
    return redirect(url_for("enterprises.members"))


@blueprint.post("/members/<int:user_id>/role")
@allows(Permission.MEMBER_CHANGE)
def change_role(user_id: int) -> ResponseReturnValue:
    by, at, asked = actor(), now(), http.form.get("role", "")
    queries.get_member(read(), by.enterprise_id or 0, user_id)
    if asked not in (Role.MEMBER, Role.MANAGER):
        abort(400)
    transact(lambda s: membership.change_role(s, user_id, role=Role(asked), by=by, now=at).user_id)
    tell(Sentence("role-changed"))
    return redirect(guard.home() if user_id == by.user_id else url_for("enterprises.members"))


@blueprint.get("/members/<int:user_id>/remove")
@allows(Permission.MEMBER_REMOVE)
def remove_form(user_id: int) -> ResponseReturnValue:
    member = queries.get_member(read(), actor().enterprise_id or 0, user_id)
    return render_template("enterprises/remove.html", member=member)


@blueprint.post("/members/<int:user_id>/remove")
@allows(Permission.MEMBER_REMOVE)
def remove(user_id: int) -> ResponseReturnValue:
    by, at = actor(), now()
    transact(lambda s: membership.remove_member(s, user_id, by=by, now=at))
    tell(Sentence("member-is-removed"))
    return redirect(url_for("signin.home") if user_id == by.user_id else url_for("enterprises.members"))


# -- the invited person


@blueprint.get("/invitation")
@public
def invitation() -> ResponseReturnValue:
    """What a mailed link leads to; looking at it uses nothing up."""
    return _invitation_page(AcceptForm(data={"token": http.args.get("token", "")}))


def _invitation_page(form: AcceptForm) -> ResponseReturnValue:
    token = (form.token.data or "")[:100]
    try:
        found, enterprise = membership.look(read(), token, now())
    except Refusal:
        return make_response(render_template("enterprises/invitation_over.html"), 410)
    who = guard.person()
    return show(
        "enterprises/invitation.html",
        form,
        invitation=found,
        enterprise=enterprise,
        here=url_for("enterprises.invitation", token=token),
        mine=who is not None and who.email == found.address,
        at_bureau=who is not None and who.actor.is_bureau,
        role_name=dict(ROLES)[found.role.value],
    )


@blueprint.post("/invitation")
@allows(Permission.INVITATION_ACCEPT)
def accept() -> ResponseReturnValue:
    form, by, at, session_id = AcceptForm(), actor(), now(), guard.signed_in().session_id
    if form.validate():
        token, number = form.token.data or "", form.invitation_id.data or ""

        def work(session: Session) -> int:
            if not token and number.isdecimal() and int(number) < 2**31:
                joined = membership.accept_own(session, int(number), by=by, now=at)
            else:
                joined = membership.accept(session, token, by=by, now=at)
            signin.act_for(session, session_id, joined.enterprise_id)
            return joined.enterprise_id

        try:
            address = one_time(form.form_key.data, work, lambda _id: url_for("desk.start"))
        except Refusal as refusal:
            form.refuse(refusal)
        else:
            tell(Sentence("invitation-accepted"))
            return redirect(address)
    return _invitation_page(form)
