import enum

from ..lifecycle import Lifecycle


class PersonState(enum.StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    ERASED = "erased"  # only the id is left, so that histories stay whole


S = PersonState
PERSON_LIFE = Lifecycle(
    "person",
    PersonState,
    {
        S.ACTIVE: frozenset({S.DISABLED, S.ERASED}),
        S.DISABLED: frozenset({S.ACTIVE, S.ERASED}),
    },
)
