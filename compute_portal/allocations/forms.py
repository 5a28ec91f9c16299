from __future__ import annotations

from wtforms import HiddenField

from ..files.forms import Chosen, UploadField
from ..forms import (
    BillionsField,
    ChoiceField,
    CountField,
    DayField,
    HoursField,
    LineField,
    PortalForm,
    Required,
    TextField,
)
from ..language import N_
from ..programmes.states import FIELDS
from .changes import Wish
from .requests import Answers, Beginning
from .states import ChangeKind


class BeginningForm(PortalForm):
    """`programme_id` names a programme and one of its pools, as '<programme>:<pool>'; it was chosen before."""

    programme_id = HiddenField(N_("Programme and pool"), [Required()])
    hours = HoursField(
        N_("GPU-hours"),
        [Required()],
        description=N_("Cards × hours: 64 cards for 100 hours are 6,400."),
        render_kw={"inputmode": "decimal"},
    )
    starts_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
    ends_on = DayField(N_("Last day"), [Required()], description=N_("What is not used by then expires"))

    def to_beginning(self) -> Beginning | None:
        """None when the hidden field was tampered with."""
        programme, _, pool = (self.programme_id.data or "").partition(":")
        if not (programme.isascii() and programme.isdigit() and pool.isascii() and pool.isdigit()):
            return None
        if len(programme) > 9 or len(pool) > 9:
            return None
        return Beginning(int(programme), int(pool), self.hours.data, self.starts_on.data, self.ends_on.data)


class RequestForm(PortalForm):
    """Which of the fields of the programme are asked for is decided by the view, from the track's rules."""

    hours = HoursField(
        N_("GPU-hours"),
        [Required()],
        description=N_("Cards × hours: 64 cards for 100 hours are 6,400."),
        render_kw={"inputmode": "decimal"},
    )
    starts_on = DayField(N_("First day"), [Required()], description=N_("For example 2026-12-01"))
    ends_on = DayField(N_("Last day"), [Required()], description=N_("What is not used by then expires"))
    title = LineField(FIELDS["title"])
    purpose = TextField(
        N_("What it is for"),
        [Required()],
        most=2000,
        description=N_("Two or three sentences: model, data, result. A person reads it."),
        render_kw={"rows": 4},
    )
    model = TextField(FIELDS["model"], most=1000, render_kw={"rows": 2})
    dataset = TextField(FIELDS["dataset"], most=1000, render_kw={"rows": 2})
    result = TextField(FIELDS["result"], most=1000, render_kw={"rows": 2})
    contract = LineField(FIELDS["contract"])
    other_support = TextField(
        FIELDS["other_support"],
        most=1000,
        description=N_("One contract is not supported twice. Write “none” if there is none."),
        render_kw={"rows": 2},
    )

    def to_answers(self) -> Answers:
        return Answers(
            gpu_seconds=self.hours.data,
            starts_on=self.starts_on.data,
            ends_on=self.ends_on.data,
            purpose=self.purpose.data,
            fields={name: self[name].data or "" for name in FIELDS if name in self},
        )

    def as_typed(self) -> dict[str, str]:
        """Every field as it came, for the draft; no longer than the field may be."""
        kept = {}
        for name in ("hours", "starts_on", "ends_on", "purpose", *FIELDS):
            if name in self and self[name].raw_data:
                kept[name] = str(self[name].raw_data[0]).replace("\x00", "")[:4000]
        return kept


class DocumentForm(PortalForm):
    kind = ChoiceField(N_("What it is"), [Required()])
    document = UploadField(N_("Document"), [Chosen()], description=N_("PDF, picture, Word, Excel or ZIP"))


class SizeForm(PortalForm):
    """Read from the address: nothing is stored."""

    parameters = BillionsField(N_("Parameters"), render_kw={"inputmode": "decimal"})
    tokens = BillionsField(N_("Training tokens"), render_kw={"inputmode": "decimal"})
    utilisation = CountField(
        N_("Utilisation"), description=N_("40 is usual for a well-tuned run"), render_kw={"inputmode": "numeric"}
    )
    cards = CountField(N_("Cards used together"), render_kw={"inputmode": "numeric"})


class ChangeForm(PortalForm):
    """One of four kinds; the fields of the others are taken out by the view."""

    hours = HoursField(N_("GPU-hours"), render_kw={"inputmode": "decimal"})
    ends_on = DayField(N_("New last day"), description=N_("For example 2026-12-01"))
    to_allocation_id = ChoiceField(N_("To which allocation"))
    receiver_code = LineField(
        N_("Credit code of the receiver"), most=18, description=N_("Your own; hours cannot go to another company")
    )
    reason = TextField(N_("Reason"), [Required()], most=1000, render_kw={"rows": 3})

    def to_wish(self, kind: ChangeKind) -> Wish:
        to = self.to_allocation_id.data if "to_allocation_id" in self else None
        return Wish(
            kind,
            self.reason.data,
            gpu_seconds=self.hours.data if "hours" in self else None,
            ends_on=self.ends_on.data if "ends_on" in self else None,
            to_allocation_id=int(to) if to else None,
            receiver_code=(self.receiver_code.data or None) if "receiver_code" in self else None,
        )


class AnswerForm(PortalForm):
    """Decide on a change or a report."""

    reason = TextField(
        N_("Reason (the company reads it)"),
        most=1000,
        description=N_("Needed when you decline or send back"),
        render_kw={"rows": 3},
    )


class ReportForm(PortalForm):
    text = TextField(
        N_("Report"),
        [Required()],
        most=8000,
        description=N_("What was run, on how many cards, what came of it, what comes next"),
        render_kw={"rows": 8},
    )
