"""Documents that belong to something: an enterprise, a request. Their bytes stand in a table of their own."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..db import Base, UtcDateTime


class File(Base):
    """One document. `owner_kind` and `owner_id` say what it hangs on; `enterprise_id` says who may read it."""

    __tablename__ = "files"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_kind: Mapped[str] = mapped_column(sa.String(24))
    owner_id: Mapped[int]
    kind: Mapped[str] = mapped_column(sa.String(40))  # what it is to its owner, for example 'business_licence'
    enterprise_id: Mapped[int | None] = mapped_column(sa.ForeignKey("enterprises.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(120))
    media_type: Mapped[str] = mapped_column(sa.String(100))
    size: Mapped[int]  # bytes
    sha256: Mapped[str] = mapped_column(sa.String(64))
    kept_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    kept_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    removed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    removed_by: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    __table_args__ = (sa.Index("ix_files_owner", "owner_kind", "owner_id"),)


class FileContent(Base):
    """Apart, so that a list of documents never loads them."""

    __tablename__ = "file_contents"
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"), primary_key=True)
    content: Mapped[bytes] = mapped_column(sa.LargeBinary)
