from __future__ import annotations

from decimal import Decimal

from wtforms import BooleanField, SelectMultipleField
from wtforms.widgets import CheckboxInput, ListWidget

from .. import units
from ..access import Role
from ..forms import ChoiceField, CountField, HoursField, LineField, PortalForm, Required, TextField
from ..language import N_

ROLES = ((Role.OPERATOR.value, N_("operator")), (Role.ADMIN.value, N_("administrator")))


class ChecklistField(SelectMultipleField):
    """The points of a step's checklist, each with a box. `data` is the numbers of those that are ticked, from 0."""

    widget = ListWidget(prefix_label=False)
    option_widget = CheckboxInput()

    def __init__(self, label: str, **options: object) -> None:
        super().__init__(label, coerce=int, validate_choice=False, **options)

    @property
    def ticked(self) -> set[int]:
        return {number for number in self.data or [] if 0 <= number < 1000}


class DecisionForm(PortalForm):
    """The award is chosen first, so that its effects can be shown; deciding sends it along unseen."""

    awarded_hours = HoursField(N_("Award"), render_kw={"inputmode": "decimal"})
    checked = ChecklistField(N_("Checklist"))
    reason_code = ChoiceField(
        N_("Reason from the list"),
        description=N_("Needed when you award less than asked, or decline"),
        validate_choice=False,
    )
    reason = TextField(
        N_("Reason (the company reads it)"),
        most=1000,
        description=N_("Needed with a reason from the list, and when you ask for changes"),
        render_kw={"rows": 3},
    )
    ends_soon = BooleanField(N_("Yes, the award is meant to end so soon"))

    @property
    def exact_award(self) -> str:
        """The award in GPU-hours as the field reads it back, to the second."""
        return f"{Decimal(self.awarded_hours.data) / units.SECONDS_PER_HOUR:f}"


class CommentForm(PortalForm):
    """Two fields, so that nobody writes to the company by mistake."""

    public_text = TextField(
        N_("For the company"), most=2000, description=N_("It is told and reads this"), render_kw={"rows": 2}
    )
    private_text = TextField(
        N_("For the bureau only"), most=2000, description=N_("The company never sees this"), render_kw={"rows": 2}
    )


class DeclareForm(PortalForm):
    conflict_reason = TextField(
        N_("What ties you to the company"),
        most=1000,
        description=N_("Only administrators read it. You step back from all requests of this company."),
        render_kw={"rows": 2},
    )


class WaiverForm(PortalForm):
    user_id = ChoiceField(N_("Reviewer"), coerce=int)
    plan = TextField(
        N_("How the tie is kept from mattering"),
        most=1000,
        description=N_("For example: a second person looks at every figure"),
        render_kw={"rows": 2},
    )


class AppealForm(PortalForm):
    text = TextField(
        N_("What should be looked at again, and why"),
        [Required()],
        most=4000,
        description=N_("Name what was overlooked or has become clear since. New documents go to the request."),
        render_kw={"rows": 5},
    )


class AnswerForm(PortalForm):
    awarded_hours = HoursField(
        N_("Award in all"),
        description=N_("Only to uphold: more than was awarded, at most what was asked for"),
        render_kw={"inputmode": "decimal"},
    )
    reason = TextField(N_("Reason (the company reads it)"), [Required()], most=2000, render_kw={"rows": 4})


class StepForm(PortalForm):
    """A step to add to a track's review."""

    track = LineField(N_("Track"), most=8)
    place = CountField(N_("Order"), description=N_("Empty: at the end"), render_kw={"inputmode": "numeric"})
    name = LineField(N_("Chinese name"), [Required()], most=60)
    name_en = LineField(N_("English name"), most=80)
    role = ChoiceField(N_("Who decides"), [Required()])
    deciders = CountField(N_("How many people decide"), [Required()], default=1, render_kw={"inputmode": "numeric"})
    working_days = CountField(N_("Working days"), [Required()], default=3, render_kw={"inputmode": "numeric"})
    two_above_hours = HoursField(
        N_("Two people above"),
        description=N_("Requests for more than so many GPU-hours need two; empty: as said above"),
        render_kw={"inputmode": "decimal"},
    )
    checklist = TextField(
        N_("Checklist"),
        most=2000,
        description=N_("One point per line: Chinese, then | and English"),
        render_kw={"rows": 3},
    )

    def points(self) -> tuple[tuple[str, str], ...]:
        found = []
        for line in (self.checklist.data or "").splitlines():
            zh, _, en = line.partition("|")
            if zh.strip():
                found.append((zh.strip(), en.strip() or zh.strip()))
        return tuple(found[:20])


class RemoveStepForm(PortalForm):
    track = LineField(N_("Track"), most=8)
    place = CountField(N_("Order"), [Required()])
