import enum

from ..language import N_
from ..lifecycle import Lifecycle


class EnterpriseState(enum.StrEnum):
    APPLIED = "applied"
    VERIFIED = "verified"
    SUSPENDED = "suspended"
    DECLINED = "declined"


S = EnterpriseState
LIFE = Lifecycle(
    "enterprise",
    EnterpriseState,
    {
        S.APPLIED: frozenset({S.VERIFIED, S.DECLINED}),
        S.VERIFIED: frozenset({S.SUSPENDED}),
        S.SUSPENDED: frozenset({S.VERIFIED}),
    },
)


class SizeClass(enum.StrEnum):
    MICRO = "micro"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


SIZE_NAMES: dict[SizeClass, str] = {
    SizeClass.MICRO: N_("Micro"),
    SizeClass.SMALL: N_("Small"),
    SizeClass.MEDIUM: N_("Medium"),
    SizeClass.LARGE: N_("Large"),
}
