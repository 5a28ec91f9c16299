"""Documents are given out as attachments: a browser saves them and shows none of them inside the portal."""

from __future__ import annotations

import io

from flask import Blueprint, Response, send_file

from ..access import Permission
from ..guard import actor, allows, log_access, read
from . import queries

blueprint = Blueprint("files", __name__, template_folder="templates")


@blueprint.get("/files/<int:file_id>")
@allows(Permission.FILE_VIEW)
def download(file_id: int) -> Response:
    file = queries.get_file(read(), file_id, actor())
    content = queries.content_of(read(), file)
    log_access("export", f"file {file.id}")
    return send_file(
        io.BytesIO(content),
        mimetype=file.media_type,
        as_attachment=True,
        download_name=file.name,
        etag=False,
        conditional=False,
    )
