"""What every form shares: labels in the reader's language, refusals at their field, a one-time key, typed numbers.

Labels, hints (`description`) and messages are English msgids marked with `N_()`; the macro translates them where they
are shown. An error is a Sentence, or a msgid.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from flask import g, make_response, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup, escape
from wtforms import Field, HiddenField, RadioField, SelectField, StringField, TextAreaField, ValidationError
from wtforms.fields.choices import SelectChoice
from wtforms.validators import StopValidation
from wtforms.widgets import Input, Select

from . import clock, metrics, units
from .guard import language
from .language import N_, amount, count, hours, typed
from .sentences import Refusal, Sentence

Message = str | Sentence


def a_form_key() -> str:
    return secrets.token_urlsafe(24)


def csrf_token() -> str:
    """The token of this browser's forms. Its age does not matter (WTF_CSRF_TIME_LIMIT), so it is signed once, not for
    each page: that took as long as a query.
    """
    secret: str | None = session.get("csrf_token")
    return generate_csrf() if secret is None or "csrf_token" in g else _signed(secret)


@lru_cache(4_096)
def _signed(_secret: str) -> str:
    """For what this request's session holds. Not to be asked once flask-wtf has signed in this request: it gives that
    one again, also when the session has got another secret since.
    """
    return str(generate_csrf())


def attributes(**values: Any) -> Markup:
    """What WTForms' `html_params` gives, at a fifth of its time, which was a quarter of a page with a form."""
    parts = []
    for name, value in sorted(values.items()):
        name = name.rstrip("_")
        if name.startswith(("data_", "aria_")):
            name = name.replace("_", "-")
        if value is True:
            parts.append(name)
        elif value is not False:
            parts.append(f'{name}="{str(escape(value)).replace(QUOTE, "&quot;")}"')
    return Markup(" ".join(parts))  # noqa: S704 - names are ours, values are escaped


QUOTE = '"'  # in what was marked as safe already
Input.html_params = staticmethod(attributes)


class _Select(Select):
    """As WTForms draws it, without groups."""

    def __call__(self, field: Any, **kwargs: Any) -> Markup:
        required = kwargs.pop("required", field.flags.required or False)
        drawn = [f"<select {attributes(id=kwargs.pop('id', field.id), name=field.name, required=required, **kwargs)}>"]
        for choice in field.iter_choices():
            chosen = " selected" if choice.selected else ""
            drawn.append(f'<option{chosen} value="{escape(choice.value)}">{escape(choice.label)}</option>')
        return Markup("".join(drawn) + "</select>")  # noqa: S704 - all of it is escaped


class PortalForm(FlaskForm):
    """A form with its one-time key (`form.form_key.data`, for `guard.one_time`)."""

    form_key = HiddenField(default=a_form_key)

    class Meta(FlaskForm.Meta):
        @property
        def locales(self) -> list[str]:
            """WTForms' own messages come in the reader's language; it calls Simplified Chinese 'zh'."""
            return [language()]

    def refuse(self, refusal: Refusal) -> None:
        """Show a rule's sentence at its field, or above the form when it names none."""
        metrics.refused(refusal)
        if refusal.field is not None and refusal.field in self._fields:
            field = self._fields[refusal.field]
            field.errors = [*field.errors, refusal.sentence]
        else:
            self.form_errors: list[Message] = [*self.form_errors, refusal.sentence]

    @property
    def problems(self) -> list[tuple[str | None, Message]]:
        """Every error with the id of its field, in the form's order; those of the whole form first, without one."""
        at_fields = [(field.id, error) for field in self for error in field.errors]
        return [(None, error) for error in self.form_errors] + at_fields


class ActionForm(PortalForm):
    """A form that is only a button."""


def show(template: str, form: PortalForm | None = None, **values: Any) -> ResponseReturnValue:
    """Render a page with a form: 422 when what was sent has problems, else 200."""
    was_sent = request.method == "POST" or bool(request.args)
    status = 422 if was_sent and form is not None and form.problems else 200
    return make_response(render_template(template, form=form, **values), status)


class Required:
    """Something must be typed or chosen. Looks at what came, so that an unreadable number keeps its own complaint."""

    def __init__(self, message: Message | None = None) -> None:
        self.message = message or Sentence("required")
        self.field_flags = {"required": True}

    def __call__(self, form: FlaskForm, field: Field) -> None:
        if not field.raw_data or not str(field.raw_data[0]).strip():
            field.errors = []
            raise StopValidation(self.message)


class AtMost:
    """No more characters than this; the browser is told too."""

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.field_flags = {"maxlength": characters}

    def __call__(self, form: FlaskForm, field: Field) -> None:
        if len(field.data or "") > self.characters:
            raise ValidationError(Sentence("too-long", n=self.characters))


def _no_control_characters(form: FlaskForm, field: Field) -> None:
    """PostgreSQL refuses the zero byte, and the others have no place in a text but for line breaks and tabs."""
    if any(ord(letter) < 32 and letter not in "\t\r\n" for letter in field.data or ""):
        raise ValidationError(N_("This text holds a character that cannot be stored; type it again."))


def _one_line(form: FlaskForm, field: Field) -> None:
    if any(letter in "\t\r\n" for letter in field.data or ""):
        raise ValidationError(N_("This text holds a character that cannot be stored; type it again."))


def _stripped(text: str | None) -> str | None:
    return text.strip() if text is not None else None


class LineField(StringField):
    """One line of text, stripped."""

    def __init__(self, label: str, validators: Sequence[Any] = (), *, most: int = 120, **options: Any) -> None:
        options.setdefault("filters", [_stripped])
        super().__init__(label, [*validators, AtMost(most), _no_control_characters, _one_line], **options)


class TextField(TextAreaField):
    """Some lines of text, stripped, line ends as \\n."""

    def __init__(self, label: str, validators: Sequence[Any] = (), *, most: int = 4000, **options: Any) -> None:
        options.setdefault("filters", [_stripped, lambda text: text.replace("\r\n", "\n") if text else text])
        super().__init__(label, [*validators, AtMost(most), _no_control_characters], **options)


class TypedField(StringField):
    """Text that stands for something else. `data` is the value or None; what was typed is kept for showing again."""

    complaint: Sentence
    data: Any

    def __init__(self, label: str, validators: Sequence[Any] = (), **options: Any) -> None:
        self.typed: str | None = None
        super().__init__(label, validators, **options)

    def read(self, text: str) -> Any:
        """The value. Raises ValueError when the text does not stand for one."""
        raise NotImplementedError

    def write(self, value: Any) -> str:
        raise NotImplementedError

    def process_formdata(self, valuelist: list[str]) -> None:
        if not valuelist:
            return
        self.typed, self.data = valuelist[0][:60], None
        if text := valuelist[0].strip():
            try:
                self.data = self.read(text)
            except (ValueError, OverflowError):
                raise ValueError(self.complaint) from None

    def _value(self) -> str:
        if self.typed is not None:
            return self.typed
        return "" if self.data is None else self.write(self.data)


class CountField(TypedField):
    """A positive whole number, thousands separators allowed."""

    complaint = Sentence("not-a-whole-number", example="64")

    def read(self, text: str) -> int:
        number = int(text.replace(",", "").replace("，", ""))
        if not 0 < number < 2**31:
            raise ValueError(text)
        return number

    def write(self, value: int) -> str:
        return count(value, language())


class HoursField(TypedField):
    """GPU-hours as people write them; `data` is GPU-seconds."""

    complaint = Sentence("not-a-number", example="2,000")

    def read(self, text: str) -> int:
        return units.parse_gpu_hours(text)

    def write(self, value: int) -> str:
        return hours(value, language())


class YuanField(TypedField):
    """Yuan as people write them; `data` is micro-yuan."""

    complaint = Sentence("not-a-number", example="16.50")

    def read(self, text: str) -> int:
        return units.parse_yuan(text)

    def write(self, value: int) -> str:
        return amount(value, language())


class BillionsField(TypedField):
    """Billions with up to three decimals; `data` is millions."""

    complaint = Sentence("not-a-number", example="7")

    def read(self, text: str) -> int:
        try:
            millions = Decimal(text.replace(",", "").replace("，", "")) * 1000
        except InvalidOperation:
            raise ValueError(text) from None
        if not millions.is_finite() or millions != millions.to_integral_value() or not 0 < millions <= 10**9:
            raise ValueError(text)
        return int(millions)

    def write(self, value: int) -> str:
        return f"{Decimal(value) / 1000:f}".rstrip("0").rstrip(".")


class MomentField(TypedField):
    """2026-11-20 20:00 in Beijing time; `data` is the UTC instant."""

    complaint = Sentence("not-an-instant", example="2026-11-20 20:00")

    def read(self, text: str) -> dt.datetime:
        plain = text.replace("T", " ").replace("：", ":")
        local = dt.datetime.strptime(plain, "%Y-%m-%d %H:%M").replace(tzinfo=clock.SHANGHAI)
        if not 2000 <= local.year <= 2200:
            raise ValueError(text)
        return local.astimezone(dt.UTC)

    def write(self, value: dt.datetime) -> str:
        return typed(value)


class DayField(TypedField):
    """2026-11-20; `data` is the date."""

    complaint = Sentence("not-a-date", example="2026-11-20")

    def read(self, text: str) -> dt.date:
        day = dt.date.fromisoformat(text)
        if not 2000 <= day.year <= 2200:
            raise ValueError(text)
        return day

    def write(self, value: dt.date) -> str:
        return value.isoformat()


def _as_choices(pairs: Any) -> list[SelectChoice] | None:
    if pairs is None:
        return None
    return [pair if isinstance(pair, SelectChoice) else SelectChoice(*pair) for pair in pairs]


class _Choices:
    """`choices` are set by the view: pairs of value and text in the reader's language."""

    _choices: list[SelectChoice] | None

    def __init__(self, label: str, validators: Sequence[Any] = (), *, choices: Any = None, **options: Any) -> None:
        super().__init__(label, validators, choices=_as_choices(choices), **options)  # type: ignore[call-arg]

    @property
    def choices(self) -> list[SelectChoice] | None:
        return self._choices

    @choices.setter
    def choices(self, pairs: Any) -> None:
        self._choices = _as_choices(pairs)

    def pre_validate(self, form: FlaskForm) -> None:
        try:
            super().pre_validate(form)  # type: ignore[misc]
        except ValidationError:
            raise ValidationError(Sentence("not-a-choice")) from None

    def process_formdata(self, valuelist: list[str]) -> None:
        try:
            super().process_formdata(valuelist)  # type: ignore[misc]
        except (ValueError, OverflowError):
            raise ValueError(Sentence("not-a-choice")) from None


class ChoiceField(_Choices, SelectField):
    """One of a list that opens."""

    widget = _Select()


class RadioChoiceField(_Choices, RadioField):
    """One of a few that are all seen."""
