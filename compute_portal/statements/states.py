import enum

from ..lifecycle import Lifecycle


class StatementState(enum.StrEnum):
    DRAFT = "draft"
    IN_REVIEW = "in_review"
    RETURNED = "returned"
    APPROVED = "approved"
    ISSUED = "issued"
    SETTLED = "settled"


S = StatementState
LIFE = Lifecycle(
    "statement",
    StatementState,
    {
        S.DRAFT: frozenset({S.IN_REVIEW}),
        S.IN_REVIEW: frozenset({S.APPROVED, S.RETURNED}),
        S.RETURNED: frozenset({S.DRAFT}),
        S.APPROVED: frozenset({S.ISSUED, S.RETURNED}),
        S.ISSUED: frozenset({S.SETTLED}),
    },
)
# Its lines are computed from the charges each time somebody looks; in the other states they are frozen.
COMPUTED = frozenset({S.DRAFT, S.RETURNED})
# The content stands for ever: the database refuses to change it.
FINAL = frozenset({S.ISSUED, S.SETTLED})


class DisputeState(enum.StrEnum):
    OPENED = "opened"
    UPHELD = "upheld"
    PARTLY = "partly"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


D = DisputeState
DISPUTE_LIFE = Lifecycle(
    "dispute",
    DisputeState,
    {D.OPENED: frozenset({D.UPHELD, D.PARTLY, D.REJECTED, D.WITHDRAWN})},
)


class JobState(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class JobKind(enum.StrEnum):
    ISSUE = "issue"
    PACK = "pack"
