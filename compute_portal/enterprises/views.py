"""Enterprises and the people in them. The page of one enterprise shows several features, so it stands in `desk`."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, url_for
from flask import request as http
from flask.typing import ResponseReturnValue

from .. import paging
from ..access import Permission
from ..guard import actor, allows, read
from . import queries
from .states import SIZE_NAMES

blueprint = Blueprint("enterprises", __name__, template_folder="templates")
LONGEST_SEARCH = 60


@blueprint.get("/enterprises")
@allows(Permission.ENTERPRISE_VIEW)
def index() -> ResponseReturnValue:
    """The bureau's list; a member has only the own enterprise."""
    by = actor()
    if not by.is_bureau:
        return redirect(url_for("desk.enterprise", enterprise_id=by.enterprise_id))
    find = _searched()
    page, rows = paging.rows_of(read(), queries.every_enterprise(find))
    members = queries.count_members(read(), [enterprise.id for enterprise in rows])
    return render_template("enterprises/index.html", page=page, rows=rows, members=members, find=find, sizes=SIZE_NAMES)


def _searched() -> str:
    """Part of a name or code; the zero byte, which PostgreSQL refuses, is in no name."""
    return http.args.get("find", "").replace("\0", "").strip()[:LONGEST_SEARCH]


@blueprint.get("/members")
@allows(Permission.ENTERPRISE_VIEW)
def members() -> ResponseReturnValue:
    """The people of the enterprise acted for; the bureau looks at an enterprise's own page."""
    by = actor()
    if by.enterprise_id is None:
        return redirect(url_for("enterprises.index"))
    page = paging.page_of(queries.count_members(read(), [by.enterprise_id])[by.enterprise_id])
    rows = queries.list_members(read(), by.enterprise_id, offset=page.offset)
    return render_template("enterprises/members.html", page=page, rows=rows)
