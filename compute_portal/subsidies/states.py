import enum

from ..language import N_


class SchemeKind(enum.StrEnum):
    """PROGRAMME lowers lines of one programme's allocations; VOUCHER those without a programme's subsidy."""

    PROGRAMME = "programme"
    VOUCHER = "voucher"


class Mode(enum.StrEnum):
    """DEDUCT lowers the line; REIMBURSE leaves it and opens a claim when the statement is settled."""

    DEDUCT = "deduct"
    REIMBURSE = "reimburse"


class Rounding(enum.StrEnum):
    HALF_UP = "half_up"
    CUT = "cut"


# What schemes ask about an enterprise besides its size.
TRAITS: dict[str, str] = {
    "startup": N_("Start-up"),
    "champion": N_("Champion"),
    "filed_model": N_("Filed model"),
    "demo_project": N_("Demonstration project"),
    "model_firm": N_("Model developer"),
}
MODES: dict[Mode, str] = {Mode.DEDUCT: N_("lowers the statement"), Mode.REIMBURSE: N_("reimbursed after payment")}
ROUNDINGS: dict[Rounding, str] = {Rounding.HALF_UP: N_("rounded half up"), Rounding.CUT: N_("cut off")}
