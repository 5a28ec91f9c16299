from __future__ import annotations

import enum

from ..language import N_
from ..lifecycle import Lifecycle


class Tier(enum.StrEnum):
    """How a dataset may be had; DCAT-AP's accessRights PUBLIC, RESTRICTED and NON_PUBLIC."""

    OPEN = "open"
    CONDITIONAL = "conditional"
    NOT_OPEN = "not_open"


TIER_NAMES: dict[str, str] = {
    Tier.OPEN: N_("Open to everybody"),
    Tier.CONDITIONAL: N_("Open on conditions"),
    Tier.NOT_OPEN: N_("Not open"),
}


class DatasetState(enum.StrEnum):
    LISTED = "listed"
    RETIRED = "retired"


DATASET_LIFE = Lifecycle(
    "dataset",
    DatasetState,
    {
        DatasetState.LISTED: frozenset({DatasetState.RETIRED}),
        DatasetState.RETIRED: frozenset({DatasetState.LISTED}),
    },
)


class SiteState(enum.StrEnum):
    """A site's power is in exactly one stage, so that no megawatt counts twice."""

    ANNOUNCED = "announced"
    COMMITTED = "committed"
    BUILDING = "building"
    ENERGISED = "energised"
    DROPPED = "dropped"


S = SiteState
SITE_LIFE = Lifecycle(
    "site",
    SiteState,
    {
        S.ANNOUNCED: frozenset({S.COMMITTED, S.BUILDING, S.ENERGISED, S.DROPPED}),
        S.COMMITTED: frozenset({S.ANNOUNCED, S.BUILDING, S.ENERGISED, S.DROPPED}),
        S.BUILDING: frozenset({S.COMMITTED, S.ENERGISED, S.DROPPED}),
        S.ENERGISED: frozenset({S.BUILDING, S.DROPPED}),
    },
)


class TransitionState(enum.StrEnum):
    RECORDED = "recorded"
    WITHDRAWN = "withdrawn"


TRANSITION_LIFE = Lifecycle(
    "transition", TransitionState, {TransitionState.RECORDED: frozenset({TransitionState.WITHDRAWN})}
)


class Figure(enum.StrEnum):
    """What the timetable publishes, one row each."""

    NOW = "now"
    TIME_TO_PERMIT = "time-to-permit"
    WAITS = "waits"
    ALLOCATION_RATE = "allocation-rate"
    FAIRNESS = "fairness"
