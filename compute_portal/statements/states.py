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
