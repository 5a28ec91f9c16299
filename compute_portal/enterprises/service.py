"""Firms: they register, are verified, suspended and resumed, and the bureau keeps what it knows about them.

Owns: the life and the data of an enterprise. Does not own: who belongs to it (membership.py), its documents (files).
Lock: the enterprise's row, before anything else.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..access import ENTERPRISE_ROLES, SYSTEM, Actor, Permission, Role, require
from ..db import lock
from ..files import queries as files
from ..files import service as files_service
from ..files.models import File
from ..lifecycle import begin, move_to, note_event
from ..policy import FilesPolicy
from ..sentences import NotFound, Refusal, Sentence
from ..signin.models import BureauRole
from ..signin.service import locked_user
from . import credit_code, standing
from .belonging import is_bound
from .models import CreditBreach, Enterprise, Membership, RelatedParty, SizeChange
from .notify import send_to_managers
from .states import DOCUMENT_NAMES, DeclineReason, EnterpriseState, Relation, SizeClass

OWNER_KIND = "enterprise"  # of its documents
APPLICATIONS_MOST = 5  # that one person may have waiting: more is no founder but a mistake or mischief


@dataclass(frozen=True, slots=True)
class Particulars:
    """What an enterprise says of itself.

    A firm has a credit code; a team without one names, by its code, the enterprise that sponsors it. A code whose check
    digit does not fit is taken only with `as_on_licence`: somebody has compared it.
    """

    name: str
    credit_code: str | None
    size_class: SizeClass
    name_en: str | None = None
    sponsor_code: str | None = None
    as_on_licence: bool = False
    contact_name: str | None = None
    contact_phone: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class _Identity:
    """What the bureau verifies; a change of it is verified again."""

    name: str
    name_en: str | None
    credit_code: str | None
    sponsor_id: int | None


# -- registration and data


def register(session: Session, said: Particulars, *, by: Actor, now: dt.datetime) -> Enterprise:
    """An enterprise that has applied, an operator verifies it; the person who registers it becomes its manager.

    Raises Refusal at `name`, `credit_code` or `sponsor_code`, Refusal("too-many-applications").
    """
    require(by, Permission.ENTERPRISE_REGISTER)
    if by.user_id is not None:
        _not_too_many(session, by.user_id)
    identity = _identity(session, said, None)
    enterprise = Enterprise(
        name=identity.name,
        name_en=identity.name_en,
        credit_code=identity.credit_code,
        sponsor_id=identity.sponsor_id,
        size_class=said.size_class,
        state=EnterpriseState.APPLIED,
        applied_at=now,
        applied_by=by.user_id,
        contact_name=said.contact_name or None,
        contact_phone=said.contact_phone or None,
        address=said.address or None,
    )
    session.add(enterprise)
    _flush_unique(session, identity)
    session.add(_size(enterprise, said.size_class, clock.day_of(now), by, now))
    begin(session, enterprise, verb="register", at=now, by=by)
    if by.user_id is not None:
        add_member(session, enterprise.id, by.user_id, Role.MANAGER, now=now)
    _ask_sponsor(session, enterprise, now)
    return enterprise


def _not_too_many(session: Session, user_id: int) -> None:
    waiting = session.scalar(
        sa.select(sa.func.count()).where(Enterprise.applied_by == user_id, Enterprise.state == EnterpriseState.APPLIED)
    )
    if (waiting or 0) >= APPLICATIONS_MOST:
        raise Refusal(Sentence("too-many-applications", most=APPLICATIONS_MOST))


def _identity(session: Session, said: Particulars, own_id: int | None) -> _Identity:
    """Checked and free. Of an enterprise that is here already, people learn no more than that it is."""
    name = said.name.strip()
    if not name:
        raise Refusal(Sentence("required"), "name")
    code, sponsor_id = None, None
    if said.credit_code:
        code = credit_code.read(said.credit_code)
        if said.sponsor_code:
            raise Refusal(Sentence("code-and-sponsor"), "sponsor_code")
        if not credit_code.fits(code) and not said.as_on_licence:
            raise Refusal(Sentence("code-check-digit"), credit_code.FIELD)
    else:
        sponsor_id = _sponsor(session, said.sponsor_code, own_id)
    taken = sa.select(Enterprise.id).where(Enterprise.state != EnterpriseState.DECLINED, Enterprise.id != (own_id or 0))
    if code is not None and session.scalar(taken.where(Enterprise.credit_code == code)) is not None:
        raise Refusal(Sentence("code-taken"), credit_code.FIELD)
    if session.scalar(taken.where(Enterprise.name == name)) is not None:
        raise Refusal(Sentence("name-taken"), "name")
    return _Identity(name, (said.name_en or "").strip() or None, code, sponsor_id)


def _sponsor(session: Session, code: str | None, own_id: int | None) -> int:
    if not code:
        raise Refusal(Sentence("code-or-sponsor"), credit_code.FIELD)
    try:
        read = credit_code.read(code)
    except Refusal as refusal:
        raise Refusal(refusal.sentence, "sponsor_code") from None
    sponsor_id = session.scalar(
        sa.select(Enterprise.id).where(Enterprise.credit_code == read, Enterprise.state == EnterpriseState.VERIFIED)
    )
    if sponsor_id is None or sponsor_id == own_id:
        raise Refusal(Sentence("sponsor-not-verified"), "sponsor_code")
    return sponsor_id


def _flush_unique(session: Session, identity: _Identity) -> None:
    """Two people may register the same firm at one moment: the index lets the second one down."""
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        if "credit_code" in str(error.orig):
            raise Refusal(Sentence("code-taken"), credit_code.FIELD) from None
        if "name" in str(error.orig):
            raise Refusal(Sentence("name-taken"), "name") from None
        raise


def _ask_sponsor(session: Session, team: Enterprise, now: dt.datetime) -> None:
    if team.sponsor_id is not None:
        send_to_managers(
            session,
            team.sponsor_id,
            about=Sentence("mail-sponsor-asked", team=team.name),
            body=[Sentence("mail-sponsor-asked-what")],
            link=f"/enterprises/{team.sponsor_id}/record#teams",
            key=f"sponsor-{team.id}-{int(now.timestamp())}",
            now=now,
        )


def change(session: Session, enterprise_id: int, said: Particulars, *, by: Actor, now: dt.datetime) -> Enterprise:
    """A manager corrects the data. A new name, code or sponsor is verified again; until then nothing new can be asked.

    The size class counts only while nobody has verified it; later an operator changes it. Raises Refusal at `name`,
    `credit_code` or `sponsor_code`, Refusal("suspended-keeps-its-name").
    """
    require(by, Permission.ENTERPRISE_CHANGE)
    enterprise = _own(session, enterprise_id, by)
    before = _Identity(enterprise.name, enterprise.name_en, enterprise.credit_code, enterprise.sponsor_id)
    if said.credit_code and enterprise.credit_code == said.credit_code.strip().upper():
        said = _confirmed(said)
    after = _identity(session, said, enterprise.id)
    if after != before and enterprise.state is EnterpriseState.SUSPENDED:
        raise Refusal(Sentence("suspended-keeps-its-name"))
    enterprise.contact_name = said.contact_name or None
    enterprise.contact_phone = said.contact_phone or None
    enterprise.address = said.address or None
    if enterprise.state in (EnterpriseState.APPLIED, EnterpriseState.DECLINED):
        _declare_size(session, enterprise, said.size_class, by, now)
    if after != before:
        _rename(session, enterprise, before, after, now)
    if enterprise.state is EnterpriseState.DECLINED or (
        enterprise.state is EnterpriseState.VERIFIED and after != before
    ):
        enterprise.applied_at, enterprise.applied_by = now, by.user_id
        move_to(session, enterprise, EnterpriseState.APPLIED, verb="apply", at=now, by=by, why=_told(before, after))
    else:
        note_event(session, enterprise, verb="change", at=now, by=by, why=_told(before, after))
    _flush_unique(session, after)
    return enterprise


def _confirmed(said: Particulars) -> Particulars:
    """The code stays as it was taken: nobody has to confirm it again."""
    values = {name: getattr(said, name) for name in Particulars.__slots__}
    return Particulars(**values | {"as_on_licence": True})


def _told(before: _Identity, after: _Identity) -> Sentence:
    if before == after:
        return Sentence("enterprise-data-changed")
    return Sentence(
        "enterprise-renamed",
        before=f"{before.name} {before.credit_code or ''}".strip(),
        after=f"{after.name} {after.credit_code or ''}".strip(),
    )


def _rename(session: Session, enterprise: Enterprise, before: _Identity, after: _Identity, now: dt.datetime) -> None:
    enterprise.name, enterprise.name_en = after.name, after.name_en
    if after.credit_code != before.credit_code:
        enterprise.credit_code, enterprise.code_admitted_at = after.credit_code, None
    if after.sponsor_id != before.sponsor_id:
        enterprise.sponsor_id, enterprise.sponsor_confirmed_at = after.sponsor_id, None
        _flush_unique(session, after)
        _ask_sponsor(session, enterprise, now)
    _flush_unique(session, after)


def _declare_size(session: Session, enterprise: Enterprise, size: SizeClass, by: Actor, now: dt.datetime) -> None:
    if size is not enterprise.size_class:
        enterprise.size_class = size
        session.add(_size(enterprise, size, clock.day_of(now), by, now))


def _size(enterprise: Enterprise, size: SizeClass, day: dt.date, by: Actor, now: dt.datetime) -> SizeChange:
    return SizeChange(enterprise_id=enterprise.id, size_class=size, from_on=day, set_by=by.user_id, set_at=now)


# -- documents


def attach(
    session: Session,
    enterprise_id: int,
    *,
    kind: str,
    name: str,
    content: bytes,
    policy: FilesPolicy,
    by: Actor,
    now: dt.datetime,
) -> File:
    """A manager adds a document. Raises Refusal at `document`."""
    require(by, Permission.ENTERPRISE_CHANGE)
    enterprise = _own(session, enterprise_id, by)
    if kind not in DOCUMENT_NAMES:
        raise Refusal(Sentence("not-a-choice"), "kind")
    try:
        return files_service.keep(
            session,
            name=name,
            content=content,
            kind=kind,
            owner_kind=OWNER_KIND,
            owner_id=enterprise.id,
            enterprise_id=enterprise.id,
            policy=policy,
            by=by,
            now=now,
        )
    except Refusal as refusal:
        raise Refusal(refusal.sentence, "document") from None


def detach(session: Session, file_id: int, *, by: Actor, now: dt.datetime) -> None:
    """Take a document away. What the bureau looked at when it verified stays: then a newer one is added instead."""
    require(by, Permission.ENTERPRISE_CHANGE)
    file = files.get_file(session, file_id, by)
    if file.owner_kind != OWNER_KIND:
        raise NotFound
    enterprise = _own(session, file.owner_id, by)
    if enterprise.state not in (EnterpriseState.APPLIED, EnterpriseState.DECLINED):
        raise Refusal(Sentence("document-is-evidence"))
    files_service.remove(session, file, by=by, now=now)


# -- the bureau decides


def verify(
    session: Session, enterprise_id: int, *, reason: str, required: Collection[str], by: Actor, now: dt.datetime
) -> Enterprise:
    """The enterprise is who it says it is. `required` are the kinds of document without which nobody can know.

    Raises Refusal("code-not-admitted" | "sponsor-not-confirmed" | "verification-lacks"), at `reason` without one.
    """
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_VERIFY, by)
    _must_be(enterprise, EnterpriseState.APPLIED, "verify")
    _need(reason, "verify-needs-reason")
    if enterprise.credit_code is None:
        _check_sponsor(session, enterprise)
    elif not credit_code.fits(enterprise.credit_code) and enterprise.code_admitted_at is None:
        raise Refusal(Sentence("code-not-admitted"))
    there = files.kinds_of(session, OWNER_KIND, enterprise.id) if required else set()
    missing = next((kind for kind in required if kind not in there), None)
    if missing is not None:
        raise Refusal(Sentence("verification-lacks", document=missing))
    move_to(session, enterprise, EnterpriseState.VERIFIED, verb="verify", at=now, by=by, note=reason.strip())
    _tell(session, enterprise, "mail-enterprise-verified", now)
    return enterprise


def _check_sponsor(session: Session, team: Enterprise) -> None:
    sponsor = session.get(Enterprise, team.sponsor_id) if team.sponsor_id is not None else None
    if sponsor is None or team.sponsor_confirmed_at is None or sponsor.state is not EnterpriseState.VERIFIED:
        raise Refusal(Sentence("sponsor-not-confirmed"))


def decline(
    session: Session, enterprise_id: int, *, why: DeclineReason, reason: str, by: Actor, now: dt.datetime
) -> Enterprise:
    """Raises Refusal at `reason`: the applicant must know what to put right."""
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_DECLINE, by)
    _must_be(enterprise, EnterpriseState.APPLIED, "decline")
    _need(reason, "decline-needs-reason")
    move_to(
        session,
        enterprise,
        EnterpriseState.DECLINED,
        verb="decline",
        at=now,
        by=by,
        why=Sentence("enterprise-declined-for", reason=f"decline-{why}"),
        note=reason.strip(),
    )
    _tell(session, enterprise, "mail-enterprise-declined", now, Sentence("mail-reason", reason=reason.strip()))
    return enterprise


def admit(session: Session, enterprise_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Enterprise:
    """A code was issued although its check digit does not fit. Raises Refusal("code-fits"), at `reason` without one."""
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_ADMIT, by)
    _must_be(enterprise, EnterpriseState.APPLIED, "admit")
    code = enterprise.credit_code
    if code is None or credit_code.fits(code) or enterprise.code_admitted_at is not None:
        raise Refusal(Sentence("code-fits"))
    _need(reason, "admit-needs-reason")
    enterprise.code_admitted_at = now
    note_event(
        session, enterprise, verb="admit", at=now, by=by, why=Sentence("code-admitted", code=code), note=reason.strip()
    )
    session.flush()
    return enterprise


def suspend(session: Session, enterprise_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Enterprise:
    """No new requests and bookings; what runs goes on, what waits keeps its place."""
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_SUSPEND, by)
    _must_be(enterprise, EnterpriseState.VERIFIED, "suspend")
    _need(reason, "suspend-needs-reason")
    move_to(session, enterprise, EnterpriseState.SUSPENDED, verb="suspend", at=now, by=by, note=reason.strip())
    _tell(session, enterprise, "mail-enterprise-suspended", now, Sentence("mail-reason", reason=reason.strip()))
    return enterprise


def resume(session: Session, enterprise_id: int, *, reason: str, by: Actor, now: dt.datetime) -> Enterprise:
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_RESUME, by)
    _must_be(enterprise, EnterpriseState.SUSPENDED, "resume")
    _need(reason, "resume-needs-reason")
    move_to(session, enterprise, EnterpriseState.VERIFIED, verb="resume", at=now, by=by, note=reason.strip())
    _tell(session, enterprise, "mail-enterprise-resumed", now)
    return enterprise


def classify(
    session: Session,
    enterprise_id: int,
    *,
    size_class: SizeClass,
    from_on: dt.date,
    reason: str,
    by: Actor,
    now: dt.datetime,
) -> Enterprise:
    """The size class from a day on, today at the latest: what counts on a day must be known on that day.

    Raises Refusal at `from_on` or `reason`.
    """
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_CLASSIFY, by)
    today = clock.day_of(now)
    if from_on > today:
        raise Refusal(Sentence("size-not-in-future", today=today), "from_on")
    _need(reason, "classify-needs-reason")
    session.add(_size(enterprise, size_class, from_on, by, now))
    session.flush()
    enterprise.size_class = size_on(session, enterprise, today)
    note_event(
        session,
        enterprise,
        verb="classify",
        at=now,
        by=by,
        why=Sentence("size-class-from", size=f"size-{size_class}", day=from_on),
        note=reason.strip(),
    )
    session.flush()
    return enterprise


def size_on(session: Session, enterprise: Enterprise, day: dt.date) -> SizeClass:
    """The size class on a day; before anything was known, what was known first. One query."""
    rows = session.scalars(
        sa.select(SizeChange)
        .where(SizeChange.enterprise_id == enterprise.id)
        .order_by(SizeChange.from_on.desc(), SizeChange.id.desc())
    ).all()
    known = next((row for row in rows if row.from_on <= day), rows[-1] if rows else None)
    return enterprise.size_class if known is None else known.size_class


# -- what the bureau keeps


@dataclass(frozen=True, slots=True)
class RelatedFirm:
    """The other side of an entry, by its credit code; with its name where it is not registered here."""

    credit_code: str
    name: str
    relation: Relation
    evidence: str
    from_on: dt.date


def relate(session: Session, enterprise_id: int, other: RelatedFirm, *, by: Actor, now: dt.datetime) -> RelatedParty:
    """Raises Refusal at `credit_code` or `evidence`, Refusal("already-related") where such an entry still holds."""
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_RELATE, by)
    code = credit_code.read(other.credit_code)
    if code == enterprise.credit_code:
        raise Refusal(Sentence("not-related-to-itself"), credit_code.FIELD)
    _need(other.evidence, "needs-evidence", "evidence")
    found = session.scalar(
        sa.select(Enterprise.id).where(Enterprise.credit_code == code, Enterprise.state != EnterpriseState.DECLINED)
    )
    if standing.relation_on(session, enterprise.id, code, other.from_on) is not None:
        raise Refusal(Sentence("already-related"), credit_code.FIELD)
    party = RelatedParty(
        enterprise_id=enterprise.id,
        other_id=found,
        other_code=None if found is not None else code,
        other_name=None if found is not None else other.name.strip() or None,
        relation=other.relation,
        evidence=other.evidence.strip(),
        from_on=other.from_on,
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(party)
    note_event(
        session,
        enterprise,
        verb="relate",
        at=now,
        by=by,
        why=Sentence("related-from", code=code, day=other.from_on),
        note=other.evidence.strip(),
    )
    session.flush()
    return party


def unrelate(
    session: Session, party_id: int, *, until_on: dt.date, reason: str, by: Actor, now: dt.datetime
) -> RelatedParty:
    """The entry holds until a last day. Raises Refusal at `until_on` or `reason`."""
    require(by, Permission.ENTERPRISE_RELATE)
    party = session.get(RelatedParty, party_id)
    if party is None:
        raise NotFound
    enterprise = _to_decide(session, party.enterprise_id, Permission.ENTERPRISE_RELATE, by)
    session.refresh(party)
    if party.until_on is not None:
        raise Refusal(Sentence("already-ended", last=party.until_on))
    if until_on < party.from_on:
        raise Refusal(Sentence("end-day-before-start", start=party.from_on), "until_on")
    _need(reason, "needs-evidence", "reason")
    party.until_on, party.ended_by = until_on, by.user_id
    note_event(
        session, enterprise, verb="unrelate", at=now, by=by, why=Sentence("related-until", day=until_on),
        note=reason.strip(),
    )  # fmt: skip
    session.flush()
    return party


def enter_breach(
    session: Session,
    enterprise_id: int,
    *,
    happened_on: dt.date,
    evidence: str,
    months: int,
    by: Actor,
    now: dt.datetime,
) -> CreditBreach:
    """A credit breach; it blocks requests for `months` from that day. Raises Refusal at `happened_on` or `evidence`."""
    enterprise = _to_decide(session, enterprise_id, Permission.ENTERPRISE_BREACH, by)
    if happened_on > clock.day_of(now):
        raise Refusal(Sentence("breach-not-in-future"), "happened_on")
    _need(evidence, "needs-evidence", "evidence")
    breach = CreditBreach(
        enterprise_id=enterprise.id,
        happened_on=happened_on,
        free_on=standing.months_after(happened_on, months),
        evidence=evidence.strip(),
        entered_by=by.user_id,
        entered_at=now,
    )
    session.add(breach)
    note_event(
        session,
        enterprise,
        verb="breach",
        at=now,
        by=by,
        why=Sentence("breach-entered", day=happened_on, free=breach.free_on),
        note=evidence.strip(),
    )
    session.flush()
    return breach


def lift_breach(session: Session, breach_id: int, *, reason: str, by: Actor, now: dt.datetime) -> CreditBreach:
    """The credit is repaired, or the entry was wrong: from today it blocks nothing. Raises Refusal at `reason`."""
    require(by, Permission.ENTERPRISE_BREACH)
    breach = session.get(CreditBreach, breach_id)
    if breach is None:
        raise NotFound
    enterprise = _to_decide(session, breach.enterprise_id, Permission.ENTERPRISE_BREACH, by)
    session.refresh(breach)
    if breach.lifted_on is not None:
        raise Refusal(Sentence("already-ended", last=breach.lifted_on))
    _need(reason, "needs-evidence", "reason")
    breach.lifted_on, breach.lifted_why, breach.lifted_by = clock.day_of(now), reason.strip(), by.user_id
    note_event(
        session, enterprise, verb="lift", at=now, by=by, why=Sentence("breach-lifted", day=breach.happened_on),
        note=reason.strip(),
    )  # fmt: skip
    session.flush()
    return breach


# -- sponsors of teams


def confirm_sponsor(session: Session, team_id: int, *, by: Actor, now: dt.datetime) -> Enterprise:
    """The sponsor's manager takes the team on; its statements go to the sponsor. Then an operator can verify it."""
    team = _asked_to_sponsor(session, team_id, by)
    team.sponsor_confirmed_at = now
    note_event(session, team, verb="sponsor", at=now, by=by, why=Sentence("sponsor-confirmed"))
    session.flush()
    send_to_managers(
        session,
        team.id,
        about=Sentence("mail-sponsor-confirmed", team=team.name),
        link=f"/enterprises/{team.id}/record",
        key=f"sponsor-confirmed-{team.id}-{int(now.timestamp())}",
        now=now,
    )
    return team


def refuse_sponsor(session: Session, team_id: int, *, by: Actor, now: dt.datetime) -> Enterprise:
    """The team is told and names another sponsor."""
    team = _asked_to_sponsor(session, team_id, by)
    team.sponsor_id = None
    note_event(session, team, verb="refuse", at=now, by=by, why=Sentence("sponsor-refused"))
    session.flush()
    send_to_managers(
        session,
        team.id,
        about=Sentence("mail-sponsor-refused", team=team.name),
        link=f"/enterprises/{team.id}/record",
        key=f"sponsor-refused-{team.id}-{int(now.timestamp())}",
        now=now,
    )
    return team


def _asked_to_sponsor(session: Session, team_id: int, by: Actor) -> Enterprise:
    require(by, Permission.ENTERPRISE_SPONSOR)
    team = lock(session, Enterprise, team_id)
    if team is None or by.enterprise_id is None or team.sponsor_id != by.enterprise_id:
        raise NotFound
    if team.sponsor_confirmed_at is not None:
        raise Refusal(Sentence("sponsor-answered"))
    return team


# -- members


def add_member(session: Session, enterprise_id: int, user_id: int, role: Role, *, now: dt.datetime) -> Membership:
    """A bureau role and a membership exclude each other: whoever gives one locks the person."""
    if role not in ENTERPRISE_ROLES:
        raise ValueError(f"{role} is not an enterprise role")
    locked_user(session, user_id)
    if session.scalar(sa.select(BureauRole.user_id).where(BureauRole.user_id == user_id).limit(1)) is not None:
        raise Refusal(Sentence("bureau-or-enterprise"))
    membership = Membership(user_id=user_id, enterprise_id=enterprise_id, role=role, since_at=now)
    session.add(membership)
    session.flush()
    return membership


# -- what several verbs ask


def _own(session: Session, enterprise_id: int, by: Actor) -> Enterprise:
    """The enterprise acted for, locked; another one does not exist."""
    if by is not SYSTEM and by.enterprise_id != enterprise_id:
        raise NotFound
    enterprise = lock(session, Enterprise, enterprise_id)
    if enterprise is None:
        raise NotFound
    return enterprise


def _to_decide(session: Session, enterprise_id: int, permission: Permission, by: Actor) -> Enterprise:
    """Locked, if this person may decide: nobody decides about an enterprise they belong or belonged to."""
    require(by, permission)
    enterprise = lock(session, Enterprise, enterprise_id)
    if enterprise is None:
        raise NotFound
    if by.user_id is not None and is_bound(session, enterprise_id, by.user_id):
        raise Refusal(Sentence("not-your-own-enterprise"))
    return enterprise


def _must_be(enterprise: Enterprise, state: EnterpriseState, verb: str) -> None:
    """Two verbs may lead to one state: each has its own beginning."""
    if enterprise.state is not state:
        raise Refusal(Sentence("no-such-move", kind="enterprise", before=enterprise.state.value, verb=verb))


def _need(reason: str, sentence: str, field: str = "reason") -> None:
    if not reason.strip():
        raise Refusal(Sentence(sentence), field)


def _tell(session: Session, enterprise: Enterprise, about: str, now: dt.datetime, *body: Sentence) -> None:
    send_to_managers(
        session,
        enterprise.id,
        about=Sentence(about, enterprise=enterprise.name),
        body=body,
        link=f"/enterprises/{enterprise.id}/record",
        key=f"{about}-{enterprise.id}-{int(now.timestamp())}",
        now=now,
    )
