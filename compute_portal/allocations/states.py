import enum

from ..lifecycle import Lifecycle


class AllocationState(enum.StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    IN_REVIEW = "in_review"
    CHANGES_REQUESTED = "changes_requested"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


S = AllocationState
LIFE = Lifecycle(
    "allocation",
    AllocationState,
    {
        S.DRAFT: frozenset({S.SUBMITTED, S.WITHDRAWN}),
        S.SUBMITTED: frozenset({S.IN_REVIEW, S.ACTIVE, S.DECLINED, S.WITHDRAWN, S.CHANGES_REQUESTED}),
        S.IN_REVIEW: frozenset({S.ACTIVE, S.DECLINED, S.WITHDRAWN, S.CHANGES_REQUESTED}),
        S.CHANGES_REQUESTED: frozenset({S.SUBMITTED, S.WITHDRAWN}),
        S.ACTIVE: frozenset({S.CLOSED, S.SUSPENDED}),
        S.SUSPENDED: frozenset({S.ACTIVE, S.CLOSED}),
    },
)
# A request until it is decided; afterwards an allocation or history.
WAITING = frozenset({S.SUBMITTED, S.IN_REVIEW})
