"""Who may do what: roles, permissions, the table between them, and the Actor that every verb receives."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

import sqlalchemy as sa

from .sentences import NotFound, Refusal, Sentence


class Role(enum.StrEnum):
    """Enterprise roles come from a membership, bureau roles from the bureau; a person never has both kinds."""

    MEMBER = "member"
    MANAGER = "manager"
    OPERATOR = "operator"
    FINANCE = "finance"
    AUDITOR = "auditor"
    ADMIN = "admin"


ENTERPRISE_ROLES = frozenset({Role.MEMBER, Role.MANAGER})
BUREAU_ROLES = frozenset(Role) - ENTERPRISE_ROLES


class Permission(enum.StrEnum):
    """'<noun>:<verb>'; the verb is the one in the address, the service and the history row."""

    ALLOCATION_APPROVE = "allocation:approve"
    ALLOCATION_DECLINE = "allocation:decline"
    ALLOCATION_REQUEST = "allocation:request"
    ALLOCATION_VIEW = "allocation:view"
    ALLOCATION_WITHDRAW = "allocation:withdraw"
    BOOKING_APPROVE = "booking:approve"
    BOOKING_CANCEL = "booking:cancel"
    BOOKING_CLAIM = "booking:claim"
    BOOKING_DECLINE = "booking:decline"
    BOOKING_STOP = "booking:stop"
    BOOKING_SUBMIT = "booking:submit"
    BOOKING_VIEW = "booking:view"
    ENTERPRISE_VIEW = "enterprise:view"
    KEY_ADD = "key:add"
    KEY_REMOVE = "key:remove"
    KEY_VIEW = "key:view"
    MAINTENANCE_CANCEL = "maintenance:cancel"
    MAINTENANCE_PLAN = "maintenance:plan"
    NODE_DRAIN = "node:drain"
    NODE_RESUME = "node:resume"
    POOL_VIEW = "pool:view"
    PROGRAMME_FUND = "programme:fund"
    PROGRAMME_VIEW = "programme:view"
    START_VIEW = "start:view"
    STATEMENT_EXPORT = "statement:export"
    STATEMENT_VIEW = "statement:view"
    TARIFF_SET = "tariff:set"
    TARIFF_VIEW = "tariff:view"
    USAGE_EXPORT = "usage:export"
    USAGE_VIEW = "usage:view"


P = Permission
_EVERYBODY = frozenset({P.START_VIEW, P.POOL_VIEW, P.PROGRAMME_VIEW, P.TARIFF_VIEW})
_MEMBER = _EVERYBODY | {
    P.ALLOCATION_VIEW, P.BOOKING_VIEW, P.BOOKING_SUBMIT, P.BOOKING_CANCEL, P.BOOKING_STOP, P.BOOKING_CLAIM,
    P.ENTERPRISE_VIEW, P.KEY_ADD, P.KEY_REMOVE, P.KEY_VIEW, P.USAGE_VIEW, P.USAGE_EXPORT,
}  # fmt: skip
_BUREAU_READS = _EVERYBODY | {
    P.ALLOCATION_VIEW, P.BOOKING_VIEW, P.ENTERPRISE_VIEW, P.STATEMENT_VIEW, P.USAGE_VIEW,
}  # fmt: skip

ALLOWED: dict[Role, frozenset[Permission]] = {
    Role.MEMBER: _MEMBER,
    Role.MANAGER: _MEMBER
    | {P.ALLOCATION_REQUEST, P.ALLOCATION_WITHDRAW, P.STATEMENT_VIEW, P.STATEMENT_EXPORT},
    Role.OPERATOR: (_BUREAU_READS - {P.STATEMENT_VIEW})
    | {
        P.ALLOCATION_APPROVE, P.ALLOCATION_DECLINE, P.BOOKING_APPROVE, P.BOOKING_DECLINE, P.MAINTENANCE_CANCEL,
        P.MAINTENANCE_PLAN, P.NODE_DRAIN, P.NODE_RESUME, P.USAGE_EXPORT,
    },
    Role.FINANCE: _BUREAU_READS | {P.PROGRAMME_FUND, P.STATEMENT_EXPORT, P.TARIFF_SET, P.USAGE_EXPORT},
    Role.AUDITOR: _BUREAU_READS | {P.STATEMENT_EXPORT, P.USAGE_EXPORT},
    Role.ADMIN: _BUREAU_READS - {P.STATEMENT_VIEW},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, for one request: ids, roles, permissions. `enterprise_id` is set for members, None for the bureau."""

    user_id: int | None
    enterprise_id: int | None = None
    roles: frozenset[Role] = frozenset()
    permissions: frozenset[Permission] = field(default=frozenset())

    @classmethod
    def of(cls, user_id: int, roles: frozenset[Role], enterprise_id: int | None = None) -> Actor:
        permissions = frozenset().union(*(ALLOWED[role] for role in roles))
        return cls(user_id, enterprise_id, roles, permissions)

    @property
    def is_bureau(self) -> bool:
        return bool(self.roles & BUREAU_ROLES)

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions


# What the timetable does has no person behind it; a history row without a person was written by the system.
SYSTEM = Actor(user_id=None)

M = TypeVar("M")
Columns = TypeVarTuple("Columns")


def require(by: Actor, permission: Permission) -> None:
    """A verb checks again what its route declared: the command line and the API come this way too."""
    if by is not SYSTEM and not by.may(permission):
        raise Refusal(Sentence("not-allowed"))


def visible(query: sa.Select[*Columns], enterprise_id: Any, by: Actor) -> sa.Select[*Columns]:
    """Narrow a query to the rows this actor may see: the bureau and the system all, a member the own enterprise's."""
    if by is SYSTEM or by.is_bureau:
        return query
    return query.where(enterprise_id == by.enterprise_id)


def must_see(thing: M | None, by: Actor) -> M:
    """The loaded row if this actor may know of it, else NotFound: another's row does not exist."""
    if thing is None:
        raise NotFound
    if by is SYSTEM or by.is_bureau or getattr(thing, "enterprise_id", None) == by.enterprise_id:
        return thing
    raise NotFound
