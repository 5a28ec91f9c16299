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
        S.DECLINED: frozenset({S.ACTIVE}),  # upheld on appeal
    },
)
# A request until it is decided; afterwards an allocation or history.
WAITING = frozenset({S.SUBMITTED, S.IN_REVIEW})
# The enterprise writes: before it is submitted, and when something is missing.
WRITABLE = frozenset({S.DRAFT, S.CHANGES_REQUESTED})


class ChangeKind(enum.StrEnum):
    """What may be asked for of an allocation that runs."""

    SUPPLEMENT = "supplement"
    EXTENSION = "extension"
    REDUCTION = "reduction"
    TRANSFER = "transfer"


class ChangeState(enum.StrEnum):
    SUBMITTED = "submitted"
    DONE = "done"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


CHANGE_LIFE = Lifecycle(
    "change",
    ChangeState,
    {ChangeState.SUBMITTED: frozenset({ChangeState.DONE, ChangeState.DECLINED, ChangeState.WITHDRAWN})},
)


class ReportKind(enum.StrEnum):
    PROGRESS = "progress"
    FINAL = "final"


class ReportState(enum.StrEnum):
    DUE = "due"
    HANDED_IN = "handed_in"
    RETURNED = "returned"
    ACCEPTED = "accepted"


REPORT_LIFE = Lifecycle(
    "report",
    ReportState,
    {
        ReportState.DUE: frozenset({ReportState.HANDED_IN}),
        ReportState.HANDED_IN: frozenset({ReportState.ACCEPTED, ReportState.RETURNED}),
        ReportState.RETURNED: frozenset({ReportState.HANDED_IN}),
    },
)
