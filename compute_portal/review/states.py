import enum

from ..lifecycle import Lifecycle


class AppealState(enum.StrEnum):
    FILED = "filed"
    UPHELD = "upheld"  # the enterprise was right: the award changes
    DISMISSED = "dismissed"  # the decision stands


APPEAL_LIFE = Lifecycle(
    "appeal",
    AppealState,
    {AppealState.FILED: frozenset({AppealState.UPHELD, AppealState.DISMISSED})},
)
