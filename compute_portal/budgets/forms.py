from __future__ import annotations

from typing import Any

from ..forms import HoursField, LineField, PortalForm, Required, TextField
from ..language import N_
from ..sentences import Sentence
from .states import Action


class BudgetForm(PortalForm):
    """The reserve; the members' limits are fields of their own, one per member: see `LimitField`."""

    reserve = HoursField(N_("Reserve"), description=N_("Bookings cannot use it; lower it when you want to spend it."))


def budget_form(members: list[tuple[int, str]]) -> type[BudgetForm]:
    """A form with one limit per member."""
    fields: dict[str, Any] = {f"limit_{user_id}": HoursField(name) for user_id, name in members}
    return type("BudgetFormOfMembers", (BudgetForm,), fields)


class RulesForm(PortalForm):
    """Percentages are typed by action, several separated by commas: rows that can be added without a script."""

    notify = LineField(N_("Tell the managers"), description=N_("Percentages of the award used, for example 50, 75, 90"))
    slow = LineField(N_("Its bookings come last"), description=N_("From this percentage on; leave empty for never"))
    block = LineField(N_("No new bookings"), description=N_("From this percentage on; leave empty for never"))
    end = LineField(N_("The allocation ends"), description=N_("From this percentage on; leave empty for never"))
    days = LineField(N_("Days before the end"), [Required()], description=N_("For example 30, 14, 7, 1"))
    overdraft_percent = LineField(
        N_("Overdraft"), [Required()], description=N_("Percent of an award that may be booked beyond it; 0 is none")
    )
    why = TextField(N_("Reason"), [Required()], most=200)

    def numbers(self, name: str, most: int) -> list[int] | None:
        """The whole numbers of a field; None, with the complaint at the field, when it holds anything else."""
        field = self._fields[name]
        text = (field.data or "").replace("，", ",").replace("、", ",").replace("%", "")
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if all(part.isascii() and part.isdigit() and len(part) < 5 and int(part) <= most for part in parts):
            return [int(part) for part in parts]
        field.errors = [*field.errors, Sentence("not-numbers", example="30, 14, 7", most=most)]
        return None


FIELDS: dict[Action, str] = {action: action.value for action in Action}
