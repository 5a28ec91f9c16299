from __future__ import annotations

import re
from typing import Any

from flask_wtf import FlaskForm
from wtforms import Field, PasswordField, TextAreaField, ValidationError

from ..forms import AtMost, LineField, PortalForm, RadioChoiceField, Required
from ..language import LANGUAGE_NAMES, N_
from ..sentences import Sentence
from .keys import LONGEST as LONGEST_KEY
from .passwords import LONGEST as LONGEST_PASSWORD

# What mail servers of today take without asking: one @, plain letters, a domain with a dot.
ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)


class AddressField(LineField):
    """An e-mail address, in lower case."""

    def __init__(self, label: str, **options: Any) -> None:
        render = {"autocomplete": "email", "type": "email", "spellcheck": "false"}
        super().__init__(label, [Required(), _an_address], most=254, render_kw=render, filters=[_lower], **options)


def _lower(text: str | None) -> str | None:
    return text.strip().lower() if text else text


def _an_address(form: FlaskForm, field: Field) -> None:
    name = (field.data or "").partition("@")[0]
    if not ADDRESS.fullmatch(field.data or "") or name.startswith(".") or name.endswith(".") or ".." in name:
        raise ValidationError(Sentence("not-an-address", example="lin@example.cn"))


def _new_password(label: str) -> PasswordField:
    return PasswordField(
        label,
        [Required(), AtMost(1_000)],
        description=N_("At least 10 characters. A sentence is easier to keep in mind than signs."),
        render_kw={"autocomplete": "new-password", "maxlength": LONGEST_PASSWORD},
    )


class SignUpForm(PortalForm):
    name = LineField(N_("Name"), [Required()], most=80, render_kw={"autocomplete": "name"})
    name_en = LineField(
        N_("Name in English"), most=80, description=N_("For English pages and letters, for example: Lin Xiaohe.")
    )
    email = AddressField(N_("E-mail"), description=N_("You sign in with it, and notices go there."))
    password = _new_password(N_("Password"))


class ForgotForm(PortalForm):
    email = AddressField(N_("E-mail"))


class NewPasswordForm(PortalForm):
    password = _new_password(N_("New password"))


class ProfileForm(PortalForm):
    name = LineField(N_("Name"), [Required()], most=80, render_kw={"autocomplete": "name"})
    name_en = LineField(N_("Name in English"), most=80)
    language = RadioChoiceField(
        N_("Language"), [Required()], choices=list(LANGUAGE_NAMES.items()), description=N_("Of pages and of mail.")
    )


class SignInForm(PortalForm):
    email = LineField(N_("E-mail"), [Required()], most=254, render_kw={"autocomplete": "username", "type": "email"})
    password = PasswordField(
        N_("Password"), [Required(), AtMost(1_000)], render_kw={"autocomplete": "current-password"}
    )


class PasswordForm(PortalForm):
    current = PasswordField(
        N_("Current password"), [Required(), AtMost(1_000)], render_kw={"autocomplete": "current-password"}
    )
    password = _new_password(N_("New password"))


class KeyForm(PortalForm):
    name = LineField(
        N_("Name of the key"), [Required()], most=80, description=N_("So that you know it again, for example: laptop.")
    )
    public_key = TextAreaField(
        N_("Public key"),
        [Required(), AtMost(2 * LONGEST_KEY)],
        description=N_("The line in ~/.ssh/id_ed25519.pub. Ed25519, ECDSA or RSA from 2,048 bits."),
        render_kw={"rows": 4, "spellcheck": "false", "autocomplete": "off"},
    )
