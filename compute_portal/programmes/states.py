"""Kinds that a programme's rules are made of."""

import enum

from ..language import N_


class Decision(enum.StrEnum):
    """How a track decides: at once by rule, or by the steps of a review."""

    AUTOMATIC = "automatic"
    STEPS = "steps"


class Asked(enum.StrEnum):
    """Whether a field of the request form is asked for."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    NOT_ASKED = "not_asked"


# The fields a programme may ask for beside size, period and purpose; the order is the form's.
FIELDS: dict[str, str] = {
    "title": N_("Name of the undertaking"),
    "model": N_("Model: architecture and size"),
    "dataset": N_("Data: what, how much, from where"),
    "result": N_("Expected result and when"),
    "contract": N_("Number of the contract or purchase order"),
    "other_support": N_("Other public support for the same undertaking"),
}
# Kinds of files a programme may require.
ATTACHMENTS: dict[str, str] = {
    "contract": N_("Contract or purchase order"),
    "plan": N_("Work plan"),
    "benchmark": N_("Benchmark of an earlier run"),
}
