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

    ACCOUNT_CHANGE = "account:change"
    ACCOUNT_VIEW = "account:view"
    ALLOCATION_APPROVE = "allocation:approve"
    ALLOCATION_DECLINE = "allocation:decline"
    ALLOCATION_REQUEST = "allocation:request"
    ALLOCATION_VIEW = "allocation:view"
    ALLOCATION_WITHDRAW = "allocation:withdraw"
    ANNOUNCEMENT_PUBLISH = "announcement:publish"
    ANNOUNCEMENT_VIEW = "announcement:view"
    ANNOUNCEMENT_WITHDRAW = "announcement:withdraw"
    APPEAL_DISMISS = "appeal:dismiss"
    APPEAL_FILE = "appeal:file"
    APPEAL_UPHOLD = "appeal:uphold"
    BOOKING_APPROVE = "booking:approve"
    BOOKING_CANCEL = "booking:cancel"
    BOOKING_CLAIM = "booking:claim"
    BOOKING_DECLINE = "booking:decline"
    BOOKING_EXTEND = "booking:extend"
    BOOKING_HAND_BACK = "booking:hand_back"
    BOOKING_STOP = "booking:stop"
    BOOKING_SUBMIT = "booking:submit"
    BOOKING_VIEW = "booking:view"
    BOOKING_WAIT = "booking:wait"
    BUDGET_SET = "budget:set"
    BUDGET_VIEW = "budget:view"
    CHANGE_APPROVE = "change:approve"
    CHANGE_DECLINE = "change:decline"
    CHANGE_REQUEST = "change:request"
    CHANGE_WITHDRAW = "change:withdraw"
    CLAIM_APPROVE = "claim:approve"
    CLAIM_CHECK = "claim:check"
    CLAIM_CONFIRM = "claim:confirm"
    CLAIM_DECLINE = "claim:decline"
    CLAIM_EXPORT = "claim:export"
    CLAIM_PAY = "claim:pay"
    CLAIM_VIEW = "claim:view"
    CLAIM_WITHDRAW = "claim:withdraw"
    CLUSTER_VIEW = "cluster:view"
    DATASET_EDIT = "dataset:edit"
    DATASET_LIST = "dataset:list"
    DATASET_RETIRE = "dataset:retire"
    DATASET_VIEW = "dataset:view"
    DISCOUNT_SET = "discount:set"
    DISPUTE_ANSWER = "dispute:answer"
    DISPUTE_OPEN = "dispute:open"
    DISPUTE_VIEW = "dispute:view"
    DISPUTE_WITHDRAW = "dispute:withdraw"
    ENTERPRISE_ADMIT = "enterprise:admit"
    ENTERPRISE_BREACH = "enterprise:breach"
    ENTERPRISE_CHANGE = "enterprise:change"
    ENTERPRISE_CLASSIFY = "enterprise:classify"
    ENTERPRISE_DECLINE = "enterprise:decline"
    ENTERPRISE_REGISTER = "enterprise:register"
    ENTERPRISE_RELATE = "enterprise:relate"
    ENTERPRISE_RESUME = "enterprise:resume"
    ENTERPRISE_SPONSOR = "enterprise:sponsor"
    ENTERPRISE_SUSPEND = "enterprise:suspend"
    ENTERPRISE_VERIFY = "enterprise:verify"
    ENTERPRISE_VIEW = "enterprise:view"
    FAPIAO_ENTER = "fapiao:enter"
    FEED_MAKE = "feed:make"
    FEED_REVOKE = "feed:revoke"
    FEED_VIEW = "feed:view"
    FIGURE_ENTER = "figure:enter"
    FIGURE_VIEW = "figure:view"
    FILE_VIEW = "file:view"
    HISTORY_EXPORT = "history:export"
    HISTORY_VIEW = "history:view"
    INVITATION_ACCEPT = "invitation:accept"
    JOB_RETRY = "job:retry"
    JOB_VIEW = "job:view"
    KEY_ADD = "key:add"
    KEY_REMOVE = "key:remove"
    KEY_VIEW = "key:view"
    LETTER_VIEW = "letter:view"
    MAIL_RETRY = "mail:retry"
    MAIL_VIEW = "mail:view"
    MAINTENANCE_CANCEL = "maintenance:cancel"
    MAINTENANCE_PLAN = "maintenance:plan"
    MEMBER_APPOINT = "member:appoint"
    MEMBER_CHANGE = "member:change"
    MEMBER_INVITE = "member:invite"
    MEMBER_REMOVE = "member:remove"
    NODE_DRAIN = "node:drain"
    NODE_RESUME = "node:resume"
    NOTICE_READ = "notice:read"
    NOTICE_VIEW = "notice:view"
    OVERVIEW_VIEW = "overview:view"
    PAYMENT_ENTER = "payment:enter"
    PAYMENT_MATCH = "payment:match"
    PAYMENT_VIEW = "payment:view"
    PERSON_DISABLE = "person:disable"
    PERSON_ENABLE = "person:enable"
    PERSON_ERASE = "person:erase"
    PERSON_GIVE = "person:give"
    PERSON_TAKE = "person:take"
    PERSON_VIEW = "person:view"
    POOL_EDIT = "pool:edit"
    POOL_VIEW = "pool:view"
    PROGRAMME_FUND = "programme:fund"
    PROGRAMME_OPEN = "programme:open"
    PROGRAMME_REVISE = "programme:revise"
    PROGRAMME_VIEW = "programme:view"
    QUEUE_VIEW = "queue:view"
    READING_ENTER = "reading:enter"
    READING_VIEW = "reading:view"
    REPORT_ACCEPT = "report:accept"
    REPORT_HAND_IN = "report:hand_in"
    REPORT_RETURN = "report:return"
    REVIEW_APPROVE = "review:approve"
    REVIEW_COMMENT = "review:comment"
    REVIEW_DECLARE = "review:declare"
    REVIEW_DECLINE = "review:decline"
    REVIEW_FOLLOW = "review:follow"
    REVIEW_RETURN = "review:return"
    REVIEW_SET_FLOW = "review:set_flow"
    REVIEW_VIEW = "review:view"
    REVIEW_VIEW_FLOW = "review:view_flow"
    REVIEW_VIEW_TIMES = "review:view_times"
    REVIEW_WAIVE = "review:waive"
    RULES_SET = "rules:set"
    RULES_VIEW = "rules:view"
    SAMPLE_VIEW = "sample:view"
    SCHEME_EXPORT = "scheme:export"
    SCHEME_FUND = "scheme:fund"
    SCHEME_OPEN = "scheme:open"
    SCHEME_REVISE = "scheme:revise"
    SCHEME_VIEW = "scheme:view"
    START_VIEW = "start:view"
    STATEMENT_APPROVE = "statement:approve"
    STATEMENT_CHECK = "statement:check"
    STATEMENT_CLOSE = "statement:close"
    STATEMENT_CONFIRM = "statement:confirm"
    STATEMENT_EXPORT = "statement:export"
    STATEMENT_ISSUE = "statement:issue"
    STATEMENT_PACK = "statement:pack"
    STATEMENT_RETURN = "statement:return"
    STATEMENT_SETTLE = "statement:settle"
    STATEMENT_VIEW = "statement:view"
    STRIKE_VIEW = "strike:view"
    STRIKE_WAIVE = "strike:waive"
    SUBSIDY_DECLARE = "subsidy:declare"
    SUBSIDY_VIEW = "subsidy:view"
    TARIFF_SET = "tariff:set"
    TARIFF_VIEW = "tariff:view"
    TRAIT_SET = "trait:set"
    USAGE_CORRECT = "usage:correct"
    USAGE_EXPORT = "usage:export"
    USAGE_RERATE = "usage:rerate"
    USAGE_VIEW = "usage:view"
    VIEW_AS_START = "view_as:start"
    WEIGHT_SET = "weight:set"
    WORKDAY_SET = "workday:set"
    WORKDAY_VIEW = "workday:view"


P = Permission
# Somebody who has just signed up may look after the own account, and has no role yet.
UNCONFIRMED = frozenset({P.ACCOUNT_VIEW})
SIGNED_IN = UNCONFIRMED | {P.ACCOUNT_CHANGE, P.NOTICE_READ, P.NOTICE_VIEW}
# Whoever is not with the bureau may found a place of their own or take one that is offered.
NEWCOMER = SIGNED_IN | {P.ENTERPRISE_REGISTER, P.INVITATION_ACCEPT}
_EVERYBODY = SIGNED_IN | {
    P.FEED_MAKE, P.FEED_REVOKE, P.FEED_VIEW, P.START_VIEW, P.POOL_VIEW, P.PROGRAMME_VIEW, P.REVIEW_VIEW_TIMES,
    P.TARIFF_VIEW, P.WORKDAY_VIEW,
}  # fmt: skip
_MEMBER = _EVERYBODY | NEWCOMER | {
    P.LETTER_VIEW, P.REVIEW_FOLLOW,
    P.BUDGET_VIEW,
    P.FILE_VIEW,
    P.ALLOCATION_VIEW, P.BOOKING_VIEW, P.BOOKING_SUBMIT, P.BOOKING_CANCEL, P.BOOKING_STOP, P.BOOKING_CLAIM,
    P.BOOKING_EXTEND, P.BOOKING_HAND_BACK, P.BOOKING_WAIT, P.STRIKE_VIEW,
    P.ENTERPRISE_VIEW, P.KEY_ADD, P.KEY_REMOVE, P.KEY_VIEW, P.USAGE_VIEW, P.USAGE_EXPORT,
}  # fmt: skip
_BUREAU_READS = _EVERYBODY | {
    P.LETTER_VIEW, P.REVIEW_VIEW, P.REVIEW_VIEW_FLOW, P.STRIKE_VIEW,
    P.ANNOUNCEMENT_VIEW, P.BUDGET_VIEW, P.CLUSTER_VIEW, P.DATASET_VIEW, P.FIGURE_VIEW, P.HISTORY_VIEW, P.JOB_VIEW,
    P.OVERVIEW_VIEW, P.QUEUE_VIEW,
    P.READING_VIEW, P.RULES_VIEW,
    P.FILE_VIEW,
    P.ALLOCATION_VIEW, P.BOOKING_VIEW, P.ENTERPRISE_VIEW, P.STATEMENT_VIEW, P.USAGE_VIEW,
}  # fmt: skip

_REVIEWS = frozenset(
    {
        P.APPEAL_DISMISS, P.APPEAL_UPHOLD, P.REVIEW_APPROVE, P.REVIEW_COMMENT, P.REVIEW_DECLARE, P.REVIEW_DECLINE,
        P.REVIEW_RETURN,
    }
)  # fmt: skip

# Schemes, budgets and claims: who reads them in the bureau.
_SCHEMES = frozenset({P.CLAIM_EXPORT, P.CLAIM_VIEW, P.SCHEME_EXPORT, P.SCHEME_VIEW, P.SUBSIDY_VIEW})

# What finance does with statements, and what auditors read of it.
_MONEY_READS = frozenset({P.DISPUTE_VIEW, P.PAYMENT_VIEW})
_MONEY = _MONEY_READS | {
    P.DISPUTE_ANSWER, P.FAPIAO_ENTER, P.PAYMENT_ENTER, P.PAYMENT_MATCH, P.STATEMENT_APPROVE, P.STATEMENT_CHECK,
    P.STATEMENT_CLOSE, P.STATEMENT_CONFIRM, P.STATEMENT_ISSUE, P.STATEMENT_PACK, P.STATEMENT_RETURN,
    P.STATEMENT_SETTLE,
}  # fmt: skip

ALLOWED: dict[Role, frozenset[Permission]] = {
    Role.MEMBER: _MEMBER,
    Role.MANAGER: _MEMBER
    | {
        P.APPEAL_FILE,
        P.ALLOCATION_REQUEST, P.ALLOCATION_WITHDRAW, P.STATEMENT_VIEW, P.STATEMENT_EXPORT,
        P.DISPUTE_OPEN, P.DISPUTE_VIEW, P.DISPUTE_WITHDRAW,
        P.BUDGET_SET,
        P.CHANGE_REQUEST, P.CHANGE_WITHDRAW, P.REPORT_HAND_IN,
        P.CLAIM_CONFIRM, P.CLAIM_EXPORT, P.CLAIM_VIEW, P.CLAIM_WITHDRAW, P.SUBSIDY_DECLARE, P.SUBSIDY_VIEW,
        P.ENTERPRISE_CHANGE, P.ENTERPRISE_SPONSOR, P.MEMBER_CHANGE, P.MEMBER_INVITE, P.MEMBER_REMOVE,
    },
    Role.OPERATOR: (_BUREAU_READS - {P.STATEMENT_VIEW})
    | _REVIEWS
    | {
        P.ENTERPRISE_ADMIT, P.ENTERPRISE_BREACH, P.ENTERPRISE_CLASSIFY, P.ENTERPRISE_DECLINE, P.ENTERPRISE_RELATE,
        P.ENTERPRISE_RESUME, P.ENTERPRISE_SUSPEND, P.ENTERPRISE_VERIFY,
        P.ANNOUNCEMENT_PUBLISH, P.ANNOUNCEMENT_WITHDRAW, P.JOB_RETRY, P.VIEW_AS_START,
        P.DATASET_EDIT, P.DATASET_LIST, P.DATASET_RETIRE, P.FIGURE_ENTER,
        P.CHANGE_APPROVE, P.CHANGE_DECLINE, P.PROGRAMME_OPEN, P.PROGRAMME_REVISE, P.REPORT_ACCEPT, P.REPORT_RETURN,
        P.READING_ENTER, P.SCHEME_VIEW, P.TRAIT_SET, P.WEIGHT_SET,
        P.ALLOCATION_APPROVE, P.ALLOCATION_DECLINE, P.BOOKING_APPROVE, P.BOOKING_DECLINE, P.MAIL_RETRY, P.MAIL_VIEW,
        P.MAINTENANCE_CANCEL, P.MAINTENANCE_PLAN, P.NODE_DRAIN, P.NODE_RESUME, P.POOL_EDIT, P.STRIKE_WAIVE,
        P.USAGE_CORRECT, P.USAGE_EXPORT,
    },
    Role.FINANCE: _BUREAU_READS | _SCHEMES | _MONEY | {
        P.CLAIM_APPROVE, P.CLAIM_CHECK, P.CLAIM_DECLINE, P.CLAIM_PAY,
        P.SCHEME_FUND, P.SCHEME_OPEN, P.SCHEME_REVISE, P.TRAIT_SET,
    } | {P.DISCOUNT_SET, P.PROGRAMME_FUND, P.STATEMENT_EXPORT, P.TARIFF_SET, P.USAGE_EXPORT, P.USAGE_RERATE},
    Role.AUDITOR: _BUREAU_READS | _SCHEMES | _MONEY_READS | {
        P.HISTORY_EXPORT, P.MAIL_VIEW, P.PERSON_VIEW, P.SAMPLE_VIEW, P.STATEMENT_EXPORT, P.USAGE_EXPORT,
    },
    Role.ADMIN: (_BUREAU_READS - {P.STATEMENT_VIEW})
    | _REVIEWS
    | {P.MEMBER_APPOINT, P.REVIEW_SET_FLOW, P.REVIEW_WAIVE, P.WORKDAY_SET}
    | {
        P.PROGRAMME_OPEN, P.PROGRAMME_REVISE, P.WEIGHT_SET,
        P.ANNOUNCEMENT_PUBLISH, P.ANNOUNCEMENT_WITHDRAW, P.HISTORY_EXPORT, P.JOB_RETRY, P.RULES_SET, P.VIEW_AS_START,
        P.MAIL_RETRY, P.MAIL_VIEW, P.PERSON_DISABLE, P.PERSON_ENABLE, P.PERSON_ERASE, P.PERSON_GIVE, P.PERSON_TAKE,
        P.PERSON_VIEW,
    },
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
        permissions = (SIGNED_IN if roles else NEWCOMER).union(*(ALLOWED[role] for role in roles))
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
    return query if sees_all(by) else query.where(enterprise_id == by.enterprise_id)


def sees_all(by: Actor) -> bool:
    """The bureau and the system see every enterprise's rows."""
    return by is SYSTEM or by.is_bureau


def must_see(thing: M | None, by: Actor) -> M:
    """The loaded row if this actor may know of it, else NotFound: another's row does not exist."""
    if thing is None:
        raise NotFound
    if by is SYSTEM or by.is_bureau or getattr(thing, "enterprise_id", None) == by.enterprise_id:
        return thing
    raise NotFound
