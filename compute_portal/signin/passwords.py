"""Passwords: argon2id, and the rules for a new one. Slow on purpose, so never inside a transaction."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ..sentences import Refusal, Sentence

# RFC 9106's second recommended option: 64 MiB, three passes, four lanes (the library's default).
HASHER = PasswordHasher()
SHORTEST = 10
LONGEST = 128
_COMMON = Path(__file__).parent / "common-passwords.txt"


def hash_password(password: str) -> str:
    return HASHER.hash(password)


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password fits. Without a hash the same work is done on a stand-in: nobody learns who exists."""
    try:
        fits = HASHER.verify(password_hash or _stand_in(), password)
    except (VerificationError, InvalidHashError):
        return False
    return fits and password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Whether it was made with other parameters than today's."""
    return HASHER.check_needs_rehash(password_hash)


def check_password_rules(password: str, *, email: str, name: str = "") -> None:
    """Length, not a common one, not the person's own name or address. No rules about kinds of characters.

    Raises Refusal at the field `password`.
    """
    if len(password) < SHORTEST:
        raise Refusal(Sentence("password-too-short", least=SHORTEST), "password")
    if len(password) > LONGEST:
        raise Refusal(Sentence("password-too-long", most=LONGEST), "password")
    plain = password.casefold()
    if plain in _common() or len(set(plain)) < 4:
        raise Refusal(Sentence("password-common"), "password")
    own = [email.casefold(), email.casefold().partition("@")[0], name.casefold()]
    if any(len(word) >= 4 and word in plain and len(plain) - len(word) < 4 for word in own):
        raise Refusal(Sentence("password-own-name"), "password")


@cache
def _common() -> frozenset[str]:
    return frozenset(_COMMON.read_text(encoding="utf-8").split())


@cache
def _stand_in() -> str:
    return HASHER.hash("nobody has this password")
