import enum

from ..language import N_


class AlertKind(enum.StrEnum):
    USED = "used"
    DAYS = "days"


class Action(enum.StrEnum):
    """What a threshold does to an allocation, the mildest first. Each also tells the managers."""

    NOTIFY = "notify"
    SLOW = "slow"
    BLOCK = "block"
    END = "end"


ACTION_NAMES: dict[Action, str] = {
    Action.NOTIFY: N_("Tell the managers"),
    Action.SLOW: N_("Its bookings come last"),
    Action.BLOCK: N_("No new bookings"),
    Action.END: N_("The allocation ends"),
}

# What the first version of the rules says; it comes with the tables.
FIRST_RULES = N_("The rules this portal begins with")
