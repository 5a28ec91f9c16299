import enum

from ..lifecycle import Lifecycle


class ClaimState(enum.StrEnum):
    OPENED = "opened"
    CONFIRMED = "confirmed"
    CHECKED = "checked"
    APPROVED = "approved"
    PAID = "paid"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


S = ClaimState
# Two people of finance: one checks, another approves. Before the money is on its way either side can still stop it.
LIFE = Lifecycle(
    "claim",
    ClaimState,
    {
        S.OPENED: frozenset({S.CONFIRMED, S.WITHDRAWN}),
        S.CONFIRMED: frozenset({S.CHECKED, S.DECLINED, S.WITHDRAWN}),
        S.CHECKED: frozenset({S.APPROVED, S.DECLINED}),
        S.APPROVED: frozenset({S.PAID}),
    },
)
