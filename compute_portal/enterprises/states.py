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
        # A new name or code is looked at again.
        S.VERIFIED: frozenset({S.SUSPENDED, S.APPLIED}),
        S.SUSPENDED: frozenset({S.VERIFIED}),
        # Corrected, it may be applied for again.
        S.DECLINED: frozenset({S.APPLIED}),
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

# Documents of an enterprise; which of them are required says config/policy.toml.
DOCUMENT_NAMES: dict[str, str] = {
    "business_licence": N_("Business licence"),
    "sponsor_agreement": N_("Agreement with the sponsor"),
    "authorisation": N_("Letter of authorisation"),
    "other": N_("Other document"),
}


class DeclineReason(enum.StrEnum):
    NAME = "name"
    LICENCE = "licence"
    CODE = "code"
    NOT_HERE = "not_here"
    NOT_ENTITLED = "not_entitled"
    OTHER = "other"


DECLINE_NAMES: dict[DeclineReason, str] = {
    DeclineReason.NAME: N_("Name and licence differ"),
    DeclineReason.LICENCE: N_("The licence cannot be read or is out of date"),
    DeclineReason.CODE: N_("The credit code is not this enterprise’s"),
    DeclineReason.NOT_HERE: N_("Not registered in this city"),
    DeclineReason.NOT_ENTITLED: N_("Who applied may not act for it"),
    DeclineReason.OTHER: N_("Another reason"),
}


class Relation(enum.StrEnum):
    HOLDS = "holds"
    HELD = "held"
    SAME_HAND = "same_hand"
    PERSONS = "persons"
    OTHER = "other"


RELATION_NAMES: dict[Relation, str] = {
    Relation.HOLDS: N_("holds shares of it"),
    Relation.HELD: N_("is held by it"),
    Relation.SAME_HAND: N_("controlled by the same hand"),
    Relation.PERSONS: N_("the same people lead both"),
    Relation.OTHER: N_("another relation"),
}
