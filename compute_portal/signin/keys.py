"""OpenSSH public keys as people paste them: checked byte by byte, never handed to a program."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from ..sentences import Refusal, Sentence

LONGEST = 4_000
LEAST_RSA_BITS = 2_048
MOST_RSA_BITS = 16_384
# Length of the uncompressed point: one byte 0x04 and two coordinates.
_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Type and body, without the comment; the fingerprint as `ssh-keygen -l` shows it."""

    text: str
    fingerprint: str


def parse_public_key(text: str) -> PublicKey:
    """Raises Refusal at the field `public_key` for anything but one ed25519, ECDSA or RSA (≥ 2,048 bits) key."""
    if "PRIVATE KEY" in text:
        raise _refusal("key-is-private")
    lines = text.strip().splitlines()
    if len(lines) != 1 or len(text) > LONGEST or not lines[0].isprintable():
        raise _refusal("key-not-one-line")
    kind, _, rest = lines[0].strip().partition(" ")
    body = rest.strip().partition(" ")[0]
    if kind not in ("ssh-ed25519", "ssh-rsa", *(f"ecdsa-sha2-{curve}" for curve in _CURVES)):
        raise _refusal("key-unknown-type")
    try:
        blob = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise _refusal("key-damaged") from None
    _check_body(kind, _fields(blob))
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(f"{kind} {base64.b64encode(blob).decode()}", f"SHA256:{digest}")


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed fields of the wire format (RFC 4253 §6.6), which must fill the blob exactly."""
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            raise _refusal("key-damaged")
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return fields


def _check_body(kind: str, fields: list[bytes]) -> None:
    if not fields or fields[0] != kind.encode():
        raise _refusal("key-damaged")
    if kind == "ssh-ed25519":
        whole = len(fields) == 2 and len(fields[1]) == 32
    elif kind == "ssh-rsa":
        exponent, modulus = (int.from_bytes(part, "big") for part in (*fields[1:3], b"", b"")[:2])
        whole = len(fields) == 3 and exponent >= 3 and exponent % 2 == 1 and modulus % 2 == 1
        if whole:
            bits = modulus.bit_length()
            if not LEAST_RSA_BITS <= bits <= MOST_RSA_BITS:
                raise _refusal("key-rsa-size", bits=bits, least=LEAST_RSA_BITS)
    else:
        curve = kind.removeprefix("ecdsa-sha2-")
        whole = (
            len(fields) == 3 and fields[1] == curve.encode() and len(fields[2]) == _CURVES[curve] and fields[2][0] == 4
        )
    if not whole:
        raise _refusal("key-damaged")


def _refusal(id: str, **values: int) -> Refusal:
    return Refusal(Sentence(id, **values), "public_key")
