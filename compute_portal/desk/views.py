"""Pages that show several features: the start page of each role, and one enterprise as a whole."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template
from flask.typing import ResponseReturnValue

from .. import clock, guard, paging
from ..access import Permission, Role
from ..enterprises import queries as enterprises
from ..enterprises.states import LIFE, SIZE_NAMES
from ..guard import actor, allows, now, portal, public, read
from ..language import WORDS
from ..lifecycle import list_history
from ..signin.queries import names_of
from . import queries

blueprint = Blueprint("desk", __name__, template_folder="templates")


@blueprint.get("/")
@public
def root() -> ResponseReturnValue:
    """To the start page, or to the sign-in page."""
    return redirect(guard.home())


@blueprint.get("/start")
@allows(Permission.START_VIEW)
def start() -> ResponseReturnValue:
    by = actor()
    if by.enterprise_id is not None:
        tax = portal().policy.statements.tax_permille
        desk = queries.member_desk(read(), by.enterprise_id, by, tax_permille=tax, now=now())
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
