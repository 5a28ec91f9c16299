from __future__ import annotations

from wtforms import PasswordField, TextAreaField

from ..forms import AtMost, LineField, PortalForm, Required
from ..language import N_
from .keys import LONGEST as LONGEST_KEY
from .passwords import LONGEST as LONGEST_PASSWORD


class SignInForm(PortalForm):
    email = LineField(N_("E-mail"), [Required()], most=254, render_kw={"autocomplete": "username", "type": "email"})
    password = PasswordField(
        N_("Password"), [Required(), AtMost(1_000)], render_kw={"autocomplete": "current-password"}
    )


class PasswordForm(PortalForm):
    current = PasswordField(
        N_("Current password"), [Required(), AtMost(1_000)], render_kw={"autocomplete": "current-password"}
    )
    password = PasswordField(
        N_("New password"),
        [Required(), AtMost(1_000)],
        description=N_("At least 10 characters. A sentence is easier to keep in mind than signs."),
        render_kw={"autocomplete": "new-password", "maxlength": LONGEST_PASSWORD},
    )


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
