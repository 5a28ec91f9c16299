"""A scheme's rules as a form, money for its budget, declarations, traits."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from wtforms import BooleanField
from wtforms.widgets import TextArea

from .. import units
from ..enterprises.states import SIZE_NAMES
from ..forms import (
    ChoiceField,
    CountField,
    DayField,
    LineField,
    PortalForm,
    Required,
    TypedField,
    YuanField,
)
from ..guard import language
from ..language import N_, gettext
from ..sentences import Sentence
from .rules import SIZE_CLASSES, Payer, SchemeRules
from .states import MODES, ROUNDINGS, TRAITS, Mode, Rounding, SchemeKind

LONGEST = 2_000
_KEY = re.compile(r"[a-z][a-z0-9_]{0,23}")
_DECIMAL = {"inputmode": "decimal"}
_NUMERIC = {"inputmode": "numeric"}


def _said(text: str) -> str:
    return gettext(language(), text)


def permille_of(text: str) -> int:
    """'33.5' percent → 335. Raises ValueError beyond 0 to 100 or with more digits."""
    try:
        permille = Decimal(text.strip().rstrip("%％")) * 10
    except InvalidOperation:
        raise ValueError(text) from None
    if not permille.is_finite() or permille != permille.to_integral_value() or not 0 <= permille <= 1000:
        raise ValueError(text)
    return int(permille)


def percent_of(permille: int) -> str:
    return f"{Decimal(permille) / 10:f}".removesuffix(".0")


class RateField(TypedField):
    """Percent with one digit at most; `data` in thousandths."""

    complaint = Sentence("not-a-rate", example="33.5")

    def read(self, text: str) -> int:
        return permille_of(text)

    def write(self, value: int) -> str:
        return percent_of(value)


class _LinesField(TypedField):
    """One entry on each line."""

    widget = TextArea()

    def process_formdata(self, valuelist: list[str]) -> None:
        super().process_formdata([text[:LONGEST] for text in valuelist])
        if valuelist:
            self.typed = valuelist[0][:LONGEST]

    def read(self, text: str) -> Any:
        return self.entries([line.strip() for line in text.splitlines() if line.strip()])

    def entries(self, lines: list[str]) -> Any:
        raise NotImplementedError


class RatesField(_LinesField):
    """'startup 60': a name and a percentage."""

    complaint = Sentence("not-rates", example="startup 60")

    def entries(self, lines: list[str]) -> dict[str, int]:
        return {key: permille_of(value) for key, value in (_pair(line) for line in lines)}

    def write(self, value: dict[str, int]) -> str:
        return "\n".join(f"{key} {percent_of(rate)}" for key, rate in value.items())


class CapsField(_LinesField):
    """'champion 10000000': a name and yuan."""

    complaint = Sentence("not-caps", example="champion 10000000")

    def entries(self, lines: list[str]) -> dict[str, int]:
        return {key: units.parse_yuan(value) for key, value in (_pair(line) for line in lines)}

    def write(self, value: dict[str, int]) -> str:
        return "\n".join(f"{key} {units.yuan(amount):f}".removesuffix(".00") for key, amount in value.items())


class ResourcesField(_LinesField):
    """'domestic: Ascend, 910B': a class and parts of the names of its GPU models."""

    complaint = Sentence("not-resources", example="domestic: Ascend, 910B")

    def entries(self, lines: list[str]) -> dict[str, tuple[str, ...]]:
        found = {}
        for line in lines:
            key, colon, names = line.replace("：", ":").partition(":")
            models = tuple(name.strip() for name in re.split("[,，、]", names) if name.strip())
            if not colon or not models or not _KEY.fullmatch(key.strip()):
                raise ValueError(line)
            found[key.strip()] = models
        return found

    def write(self, value: dict[str, tuple[str, ...]]) -> str:
        return "\n".join(f"{key}: {', '.join(names)}" for key, names in value.items())


class PayersField(_LinesField):
    """'city 1': who pays, and how many parts."""

    complaint = Sentence("not-payers", example="city 1")

    def entries(self, lines: list[str]) -> tuple[Payer, ...]:
        found = []
        for line in lines:
            name, _blank, parts = line.rpartition(" ")
            if not name.strip() or not 0 < int(parts) < 1000:
                raise ValueError(line)
            found.append(Payer(name.strip()[:60], int(parts)))
        return tuple(found)

    def write(self, value: tuple[Payer, ...]) -> str:
        return "\n".join(f"{payer.name} {payer.parts}" for payer in value)


class NamesField(TypedField):
    """Names with commas between them."""

    complaint = Sentence("not-names", example="startup, champion")

    def process_formdata(self, valuelist: list[str]) -> None:
        super().process_formdata([text[:400] for text in valuelist])
        if valuelist:
            self.typed = valuelist[0][:400]

    def read(self, text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in re.split("[,，、 ]", text) if name.strip())
        if any(len(name) > 24 for name in names):
            raise ValueError(text)
        return names

    def write(self, value: tuple[str, ...]) -> str:
        return ", ".join(value)


def _pair(line: str) -> tuple[str, str]:
    key, _blank, value = line.partition(" ")
    if not _KEY.fullmatch(key) or not value.strip():
        raise ValueError(line)
    return key, value


class SchemeForm(PortalForm):
    """All of a version. What a scheme is called and whose it is stays as it was opened."""

    name = LineField(N_("Name of the scheme"))
    name_en = LineField(N_("English name of the scheme"))
    programme_id = ChoiceField(N_("Whose it is"), coerce=int)
    mode = ChoiceField(N_("How it pays"))
    rate = RateField(N_("Rate of the cost"), [Required()], render_kw=_DECIMAL)
    rate_of_award = BooleanField(N_("The rate is the one that each award promised"))
    rate_by_size = RatesField(N_("Rate by size of company"), description=N_("One on each line, for example: small 50"))
    rate_by_trait = RatesField(
        N_("Rate by what the company is"), description=N_("One on each line, for example: startup 60")
    )
    rate_by_resource = RatesField(
        N_("Rate by class of resource"), description=N_("One on each line, for example: domestic 30")
    )
    resources = ResourcesField(
        N_("Classes of resources"), description=N_("Parts of names of GPU models, for example: domestic: Ascend, 910B")
    )
    cap = YuanField(N_("Cap per company and year"), description=N_("Empty: no cap"), render_kw=_DECIMAL)
    cap_by_trait = CapsField(
        N_("Higher cap by what the company is"), description=N_("One on each line, for example: champion 10000000")
    )
    pool = YuanField(
        N_("Pool for all companies per year"), description=N_("Empty: only the budget limits it"), render_kw=_DECIMAL
    )
    minimum = YuanField(N_("From a month’s cost of"), description=N_("Empty: from the first fen"), render_kw=_DECIMAL)
    any_trait = NamesField(
        N_("Only companies that are one of"), description=N_("Empty: all; for example: demo_project, model_firm")
    )
    excluded_costs = NamesField(N_("Costs that do not count"))
    suppliers = NamesField(
        N_("Suppliers"), description=N_("Credit codes; companies related to one of them get nothing")
    )
    no_double = BooleanField(N_("Nothing for a contract that stands in another scheme"))
    pro_rata = BooleanField(N_("A month in which it is only partly in force counts by its days"))
    rounding = ChoiceField(N_("What is left over"))
    unit_yuan = ChoiceField(N_("Counted in"), coerce=int)
    digits = ChoiceField(N_("With so many digits"), coerce=int)
    valid_from = DayField(N_("First day"), [Required()])
    valid_until = DayField(N_("Last day"), description=N_("Empty: until it is revised"))
    months = CountField(
        N_("Months for each company, from its first"), description=N_("Empty: no limit"), render_kw=_NUMERIC
    )
    payers = PayersField(N_("Who pays"), description=N_("Name and parts, for example: city 1"))
    bonus_trait = ChoiceField(N_("Bonus for each"))
    bonus = YuanField(N_("Bonus"), render_kw=_DECIMAL)
    bonus_most = YuanField(N_("At most in a year"), render_kw=_DECIMAL)
    note_zh = LineField(N_("Note in Chinese"), most=400)
    note_en = LineField(N_("Note in English"), most=400)
    from_on = DayField(N_("In force from"), [Required()], description=N_("The first day of a month"))
    why = LineField(N_("Why"), most=400)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mode.choices = [(mode.value, _said(word)) for mode, word in MODES.items()]
        self.rounding.choices = [(rounding.value, _said(word)) for rounding, word in ROUNDINGS.items()]
        self.unit_yuan.choices = [(1, _said(N_("yuan"))), (10_000, _said(N_("10,000 yuan")))]
        self.digits.choices = [(n, str(n)) for n in range(7)]
        none = ("", _said(N_("no bonus")))
        self.bonus_trait.choices = [none, *((key, _said(word)) for key, word in TRAITS.items())]

    def fill(self, rules: SchemeRules) -> None:
        self.programme_id.data = self.programme_id.data or 0
        self.mode.data, self.rounding.data = rules.mode.value, rules.rounding.value
        self.rate.data, self.cap.data, self.pool.data = rules.rate_permille, rules.cap_micro_yuan, rules.pool_micro_yuan
        self.minimum.data = rules.minimum_micro_yuan or None
        self.bonus.data, self.bonus_most.data = rules.bonus_micro_yuan or None, rules.bonus_most_micro_yuan or None
        for name in (
            "rate_of_award", "rate_by_size", "rate_by_trait", "rate_by_resource", "resources", "cap_by_trait",
            "any_trait", "excluded_costs", "suppliers", "no_double", "pro_rata", "unit_yuan", "digits", "valid_from",
            "valid_until", "months", "payers", "bonus_trait",
        ):  # fmt: skip
            self[name].data = getattr(rules, name)
        self.note_zh.data, self.note_en.data = rules.notes.get("zh", ""), rules.notes.get("en", "")
        for size in SIZE_CLASSES:
            self[f"for_{size}"].data = size in rules.size_classes

    def to_rules(self, kind: SchemeKind, before: SchemeRules | None = None) -> SchemeRules:
        usual = before or SchemeRules(1, kind, Mode.DEDUCT)
        notes = {"zh": self.note_zh.data, "en": self.note_en.data}
        return dataclasses.replace(
            usual,
            kind=kind,
            mode=Mode(self.mode.data),
            rate_permille=self.rate.data,
            rate_of_award=bool(self.rate_of_award.data),
            rate_by_size=self.rate_by_size.data or {},
            rate_by_trait=self.rate_by_trait.data or {},
            rate_by_resource=self.rate_by_resource.data or {},
            resources=self.resources.data or {},
            cap_micro_yuan=self.cap.data,
            cap_by_trait=self.cap_by_trait.data or {},
            pool_micro_yuan=self.pool.data,
            minimum_micro_yuan=self.minimum.data or 0,
            size_classes=tuple(size for size in SIZE_CLASSES if self[f"for_{size}"].data),
            any_trait=self.any_trait.data or (),
            excluded_costs=self.excluded_costs.data or (),
            suppliers=self.suppliers.data or (),
            no_double=bool(self.no_double.data),
            pro_rata=bool(self.pro_rata.data),
            rounding=Rounding(self.rounding.data),
            unit_yuan=self.unit_yuan.data,
            digits=self.digits.data,
            valid_from=self.valid_from.data,
            valid_until=self.valid_until.data,
            months=self.months.data,
            payers=self.payers.data or (),
            bonus_trait=self.bonus_trait.data or "",
            bonus_micro_yuan=self.bonus.data or 0,
            bonus_most_micro_yuan=self.bonus_most.data or 0,
            notes={key: text for key, text in notes.items() if text},
        )


for _size in SIZE_CLASSES:
    setattr(SchemeForm, f"for_{_size}", BooleanField(dict(SIZE_NAMES)[_size]))  # type: ignore[index]


class MoneyForm(PortalForm):
    amount = YuanField(
        N_("Yuan to add"),
        [Required()],
        description=N_("They can be promised at once. Added money cannot be taken out again."),
        render_kw=_DECIMAL,
    )


class DeclareForm(PortalForm):
    allocation_id = ChoiceField(N_("Contract"), coerce=int)
    elsewhere = LineField(
        N_("Which scheme bears part of it"), [Required()], most=200, description=N_("As the notice of the grant says")
    )
    amount = YuanField(N_("Amount"), render_kw=_DECIMAL)
    granted_on = DayField(N_("Granted on"))


class TraitForm(PortalForm):
    trait = ChoiceField(N_("What the company is"))
    evidence = LineField(N_("What shows it"), [Required()], most=400, description=N_("A list, a number, a document"))
    from_on = DayField(N_("From"), [Required()])
    until_on = DayField(N_("Until"), description=N_("Empty: still"))

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trait.choices = [(key, _said(word)) for key, word in TRAITS.items()]


class DayForm(PortalForm):
    """Which day a report is of, from the address."""

    class Meta(PortalForm.Meta):
        csrf = False

    on = DayField(N_("At the end of"))


def usual_rules(today: dt.date) -> SchemeRules:
    """What a new scheme starts from on its page."""
    return SchemeRules(
        1, SchemeKind.VOUCHER, Mode.DEDUCT, rate_permille=300, valid_from=today.replace(day=1),
        payers=(Payer(_said(N_("city")), 1),),
    )  # fmt: skip
