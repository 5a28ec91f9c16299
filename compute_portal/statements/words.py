"""What the kinds of charge are called on statements, in files and in letters; msgids."""

from ..language import N_

KINDS_OF_CHARGE: dict[str, str] = {
    "usage": N_("Usage"),
    "cancellation": N_("Cancellation charge"),
    "no_show": N_("No-show"),
    "returned": N_("Handed back"),
    "outage": N_("Outage credit"),
    "correction": N_("Correction"),
    "rerate": N_("New price"),
}
