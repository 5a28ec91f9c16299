"""Keep documents and give them out. Whether somebody may attach one is for the verb of its owner to say."""

from __future__ import annotations

import datetime as dt
import hashlib

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import Actor
from ..policy import FilesPolicy
from ..sentences import NotFound, Refusal, Sentence
from .content import MediaType, media_type_of, safe_name
from .models import File, FileContent

BYTES_PER_MEGABYTE = 1_000_000


def check(content: bytes, policy: FilesPolicy) -> MediaType:
    """Raises Refusal("file-empty" | "file-too-large" | "file-unknown-type")."""
    if not content:
        raise Refusal(Sentence("file-empty"))
    if len(content) > policy.largest_megabytes * BYTES_PER_MEGABYTE:
        raise Refusal(Sentence("file-too-large", most=policy.largest_megabytes))
    media_type = media_type_of(content)
    if media_type is None:
        raise Refusal(Sentence("file-unknown-type"))
    return media_type


def keep(
    session: Session,
    *,
    name: str,
    content: bytes,
    kind: str,
    owner_kind: str,
    owner_id: int,
    enterprise_id: int | None,
    policy: FilesPolicy,
    by: Actor,
    now: dt.datetime,
) -> File:
    """Keep a document of `owner_kind` `owner_id`.

    With an `enterprise_id` its members may read it, without one only who kept it; the bureau reads all.
    Raises Refusal("file-empty" | "file-too-large" | "file-unknown-type" | "files-too-many").
    """
    media_type = check(content, policy)
    there = session.scalar(
        sa.select(sa.func.count()).where(
            File.owner_kind == owner_kind, File.owner_id == owner_id, File.removed_at.is_(None)
        )
    )
    if (there or 0) >= policy.most_per_owner:
        raise Refusal(Sentence("files-too-many", most=policy.most_per_owner))
    file = File(
        owner_kind=owner_kind,
        owner_id=owner_id,
        kind=kind,
        enterprise_id=enterprise_id,
        name=safe_name(name, media_type),
        media_type=media_type.name,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        kept_by=by.user_id,
        kept_at=now,
    )
    session.add(file)
    session.flush()
    session.add(FileContent(file_id=file.id, content=content))
    session.flush()
    return file


def remove(session: Session, file: File, *, by: Actor, now: dt.datetime) -> None:
    """The bytes are gone; that there was such a document, and who took it away, stays. Raises NotFound the second time.

    The caller has loaded the file through `queries.get_file` and decided that `by` may.
    """
    if file.removed_at is not None:
        raise NotFound
    file.removed_at, file.removed_by = now, by.user_id
    session.execute(sa.delete(FileContent).where(FileContent.file_id == file.id))
    session.flush()
