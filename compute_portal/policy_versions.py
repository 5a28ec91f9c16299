"""Which `policy.toml` was in force when: a row for each content that was ever used, never changed.

A decision stores the id of the version it was made under, so that it can be explained under the rules of its day.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from .db import Base, UtcDateTime
from .policy import Policy


class PolicyVersion(Base):
    """The policy from `from_at` until the next row. Append-only. Going back to an older content is a new row."""

    __tablename__ = "policy_versions"
    id: Mapped[int] = mapped_column(primary_key=True)
    from_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    content: Mapped[dict[str, Any]] = mapped_column(sa.JSON)

    def to_policy(self) -> Policy:
        """Raises pydantic.ValidationError when this code no longer knows a section of that day."""
        return Policy.model_validate(self.content)


def fingerprint(policy: Policy) -> str:
    """SHA-256 of what the policy says; comments and the order of its lines do not count."""
    said = json.dumps(policy.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()


def newest(session: Session) -> PolicyVersion | None:
    return session.scalars(sa.select(PolicyVersion).order_by(PolicyVersion.id.desc()).limit(1)).first()


def keep(session: Session, policy: Policy, *, now: dt.datetime) -> PolicyVersion:
    """The version that says what `policy` says; a new row if it is not the newest one's content."""
    known, sha256 = newest(session), fingerprint(policy)
    if known is not None and known.sha256 == sha256:
        return known
    version = PolicyVersion(from_at=now, sha256=sha256, content=policy.model_dump(mode="json"))
    session.add(version)
    session.flush()
    return version
