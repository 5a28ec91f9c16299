from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import BooleanField, Field, ValidationError

from ..access import Role
from ..files.forms import Chosen, UploadField
from ..forms import ChoiceField, DayField, LineField, PortalForm, RadioChoiceField, Required, TextField
from ..language import N_
from ..sentences import Refusal, Sentence
from . import credit_code
from .models import Enterprise
from .service import Particulars, RelatedFirm
from .states import DECLINE_NAMES, DOCUMENT_NAMES, RELATION_NAMES, SIZE_NAMES, DeclineReason, Relation, SizeClass

SIZES = [(size.value, name) for size, name in SIZE_NAMES.items()]
LANGUAGE_NAMES = [("zh", "简体中文"), ("en", "English")]
ROLES = [(Role.MEMBER.value, N_("member")), (Role.MANAGER.value, N_("enterprise manager"))]


def _a_code(form: FlaskForm, field: Field) -> None:
    """At the field, with the reason; a check digit that does not fit may be confirmed (`as_on_licence`)."""
    if not field.data:
        return
    try:
        code = credit_code.read(field.data)
    except Refusal as refusal:
        raise ValidationError(refusal.sentence) from None
    confirmed = getattr(form, "as_on_licence", None)
    if confirmed is not None and field.name == credit_code.FIELD and not (confirmed.data or credit_code.fits(code)):
        raise ValidationError(Sentence("code-check-digit"))


class ParticularsForm(PortalForm):
    """What an enterprise says of itself. `doubtful` once a code was sent whose check digit does not fit."""

    name = LineField(N_("Name as on the licence"), [Required()], most=120)
    name_en = LineField(N_("English name"), most=120)
    credit_code = LineField(
        N_("Unified social credit code"),
        [_a_code],
        most=60,
        description=N_("18 characters, for example 91440300708461136T. A team without a code leaves this empty."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    as_on_licence = BooleanField(N_("The licence really says so; an operator looks at it"))
    sponsor_code = LineField(
        N_("Credit code of the sponsor"),
        [_a_code],
        most=60,
        description=N_("Only for teams: the enterprise that stands for you and receives your statements."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    size_class = ChoiceField(N_("Size"), [Required()], description=N_("By the national standard for your industry"))
    contact_name = LineField(N_("Contact person"), [Required()], most=80)
    contact_phone = LineField(
        N_("Telephone"), [Required()], most=40, description=N_("For example 0592 123 4567"), render_kw={"type": "tel"}
    )
    address = LineField(N_("Address"), [Required()], most=200)

    @property
    def doubtful(self) -> bool:
        return bool(self.as_on_licence.data) or any(
            getattr(error, "id", "") == "code-check-digit" for error in self.credit_code.errors
        )

    def to_particulars(self, size_class: SizeClass | None = None) -> Particulars:
        """`size_class` where the form does not ask for it."""
        return Particulars(
            name=self.name.data,
            name_en=self.name_en.data or None,
            credit_code=self.credit_code.data or None,
            sponsor_code=self.sponsor_code.data or None,
            as_on_licence=self.as_on_licence.data,
            size_class=size_class or SizeClass(self.size_class.data),
            contact_name=self.contact_name.data,
            contact_phone=self.contact_phone.data,
            address=self.address.data,
        )


def particulars_of(enterprise: Enterprise, sponsor: Enterprise | None) -> dict[str, object]:
    """What the form shows first when the data are changed."""
    return {
        "name": enterprise.name,
        "name_en": enterprise.name_en,
        "credit_code": enterprise.credit_code,
        "sponsor_code": sponsor.credit_code if sponsor is not None else None,
        "size_class": enterprise.size_class.value,
        "contact_name": enterprise.contact_name,
        "contact_phone": enterprise.contact_phone,
        "address": enterprise.address,
    }


class DocumentForm(PortalForm):
    kind = ChoiceField(N_("What it is"), [Required()])
    document = UploadField(N_("File"), [Chosen()])

    def kinds(self, translate) -> None:
        self.kind.choices = [(kind, translate(name)) for kind, name in DOCUMENT_NAMES.items()]


class ReasonForm(PortalForm):
    """Verify, admit, suspend, resume, lift: a reason in words."""

    reason = TextField(N_("Reason"), [Required()], most=1000, render_kw={"rows": 3})


class DeclineForm(PortalForm):
    why = ChoiceField(N_("Why"), [Required()])
    reason = TextField(
        N_("What to put right"),
        [Required()],
        most=1000,
        description=N_("The company reads it and may correct its data and apply again."),
        render_kw={"rows": 3},
    )

    def reasons(self, translate) -> None:
        self.why.choices = [(code.value, translate(name)) for code, name in DECLINE_NAMES.items()]

    def to_reason(self) -> DeclineReason:
        return DeclineReason(self.why.data)


class SizeForm(PortalForm):
    size_class = ChoiceField(N_("Size"), [Required()])
    from_on = DayField(N_("From this day on"), [Required()], description=N_("Today or earlier, for example 2026-11-20"))
    reason = TextField(N_("Reason"), [Required()], most=1000, render_kw={"rows": 3})


class RelatedForm(PortalForm):
    credit_code = LineField(
        N_("Credit code of the other firm"),
        [Required(), _a_code],
        most=60,
        description=N_("It need not be registered here."),
        render_kw={"autocomplete": "off", "spellcheck": "false"},
    )
    name = LineField(N_("Its name"), most=120, description=N_("Only where it is not registered here"))
    relation = ChoiceField(N_("Relation"), [Required()], description=N_("What this enterprise is to the other firm"))
    from_on = DayField(N_("From this day on"), [Required()], description=N_("For example 2026-11-20"))
    evidence = TextField(
        N_("Evidence"), [Required()], most=1000, description=N_("Source and date"), render_kw={"rows": 3}
    )

    def relations(self, translate) -> None:
        self.relation.choices = [(relation.value, translate(name)) for relation, name in RELATION_NAMES.items()]

    def to_firm(self) -> RelatedFirm:
        return RelatedFirm(
            credit_code=self.credit_code.data,
            name=self.name.data or "",
            relation=Relation(self.relation.data),
            evidence=self.evidence.data,
            from_on=self.from_on.data,
        )


class EndForm(PortalForm):
    until_on = DayField(N_("Last day"), [Required()], description=N_("For example 2026-11-20"))
    reason = TextField(N_("Evidence"), [Required()], most=1000, render_kw={"rows": 3})


class BreachForm(PortalForm):
    happened_on = DayField(N_("Day of the breach"), [Required()], description=N_("For example 2026-11-20"))
    evidence = TextField(
        N_("Evidence"), [Required()], most=1000, description=N_("Source and date"), render_kw={"rows": 3}
    )


class InvitationForm(PortalForm):
    address = LineField(
        N_("E-mail"),
        [Required()],
        most=254,
        description=N_("The link works for this address only."),
        render_kw={"type": "email", "autocomplete": "off"},
    )
    role = RadioChoiceField(N_("Role"), [Required()], default=Role.MEMBER.value)
    language = RadioChoiceField(N_("Language of the mail"), [Required()])


class AppointForm(PortalForm):
    address = LineField(
        N_("E-mail"),
        [Required()],
        most=254,
        description=N_("Of an account that is confirmed; a member or somebody new, nobody of the bureau."),
        render_kw={"type": "email", "autocomplete": "off"},
    )
    reason = TextField(N_("Reason"), [Required()], most=1000, render_kw={"rows": 3})


class AcceptForm(PortalForm):
    """The link's token; or, on a person's own first page, the number of the invitation."""

    token = LineField(N_("Link"), most=100)
    invitation_id = LineField(N_("Link"), most=10)
