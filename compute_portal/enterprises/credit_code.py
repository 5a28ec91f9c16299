"""The unified social credit code (GB 32100-2015): 18 characters, the last one checks the others."""

from __future__ import annotations

import unicodedata

from stdnum import exceptions
from stdnum.cn import uscc

from ..sentences import Refusal, Sentence

FIELD = "credit_code"


def read(text: str) -> str:
    """The code as it is kept: full-width letters, blanks and hyphens of a copied code are put right.

    Raises Refusal("code-length" | "code-letters") at `credit_code`. The check digit is another matter: see `fits`.
    """
    code: str = uscc.compact(unicodedata.normalize("NFKC", text))
    try:
        uscc.validate(code)
    except exceptions.InvalidLength:
        raise Refusal(Sentence("code-length", n=len(code)), FIELD) from None
    except exceptions.InvalidFormat:
        raise Refusal(Sentence("code-letters"), FIELD) from None
    except exceptions.InvalidChecksum:
        return code
    return code


def fits(code: str) -> bool:
    """Does the check digit agree? Codes were issued for which it does not."""
    return bool(uscc.is_valid(code))
