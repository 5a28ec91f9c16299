from __future__ import annotations

from collections.abc import Callable, Collection

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..access import SYSTEM, Actor
from ..sentences import NotFound
from .models import File, FileContent

# What a kind of owner asks besides, by `owner_kind`: features above this one know more about who may read.
_ASKED_BESIDES: dict[str, Callable[[Session, int, Actor], None]] = {}


def ask_besides(owner_kind: str, check: Callable[[Session, int, Actor], None]) -> None:
    """`check(session, owner_id, by)` raises NotFound or Refusal when the owner's documents do not open for `by`."""
    _ASKED_BESIDES[owner_kind] = check


def get_file(session: Session, file_id: int, by: Actor) -> File:
    """Raises NotFound for a removed file and for one that this person may not know of, and what its owner says."""
    file = session.get(File, file_id)
    if file is None or file.removed_at is not None or not _may_read(file, by):
        raise NotFound
    if (check := _ASKED_BESIDES.get(file.owner_kind)) is not None:
        check(session, file.owner_id, by)
    return file


def _may_read(file: File, by: Actor) -> bool:
    if by is SYSTEM or by.is_bureau:
        return True
    if file.enterprise_id is not None:
        return file.enterprise_id == by.enterprise_id
    return file.kept_by is not None and file.kept_by == by.user_id


def content_of(session: Session, file: File) -> bytes:
    return session.get_one(FileContent, file.id).content


def list_files(session: Session, owner_kind: str, owner_id: int) -> list[File]:
    """One query, oldest first, without their bytes. The caller has checked that the owner may be seen."""
    return list_files_of(session, owner_kind, [owner_id])


def list_files_of(session: Session, owner_kind: str, owner_ids: Collection[int]) -> list[File]:
    return list(
        session.scalars(
            sa.select(File)
            .where(File.owner_kind == owner_kind, File.owner_id.in_(owner_ids), File.removed_at.is_(None))
            .order_by(File.id)
        )
    )


def kinds_of(session: Session, owner_kind: str, owner_id: int) -> set[str]:
    """Which kinds of document are there: what a rule that requires one asks."""
    return set(
        session.scalars(
            sa.select(File.kind).where(
                File.owner_kind == owner_kind, File.owner_id == owner_id, File.removed_at.is_(None)
            )
        )
    )
