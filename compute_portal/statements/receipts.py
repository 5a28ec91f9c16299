"""Signed receipts: the content of an issued statement and the records behind it, checked offline by anybody.

The key is Ed25519. Its secret half is the installation's (`PORTAL_RECEIPT_KEY`), or comes from its secret; the public
halves of all that ever signed stand in `receipt_keys` and on a page that everybody can open.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy.orm import Session

from .models import ReceiptKey

SCRIPT = Path(__file__).parent / "verify_receipt.py"
PURPOSE = b"compute-commons receipts"


class Signer:
    """Signs with one key. `public_key` is hexadecimal."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def sign(self, text: str) -> str:
        return self._key.sign(text.encode()).hex()


@cache
def make_signer(receipt_key: str, secret_key: str) -> Signer:
    """With `receipt_key` (32 bytes, hexadecimal), or else a key that is made from the installation's secret."""
    if receipt_key:
        return Signer(bytes.fromhex(receipt_key))
    return Signer(HKDF(hashes.SHA256(), 32, salt=None, info=PURPOSE).derive(secret_key.encode()))


def key_of(session: Session, signer: Signer, now: dt.datetime) -> int:
    """The id of the signer's public key, kept with its first signature."""
    key = session.scalars(sa.select(ReceiptKey).where(ReceiptKey.public_key == signer.public_key)).one_or_none()
    if key is None:
        key = ReceiptKey(public_key=signer.public_key, first_used_at=now)
        session.add(key)
        session.flush()
    return key.id


def list_keys(session: Session) -> list[ReceiptKey]:
    return list(session.scalars(sa.select(ReceiptKey).order_by(ReceiptKey.id)))


def write(content: str, signature: str, public_key: str, records: Iterable[str]) -> Iterator[str]:
    """The file in parts. The content stands in it as text: its bytes are what was signed."""
    head = {"content": content, "public_key": public_key, "signature": signature}
    yield json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "records": ['
    comma = "\n"
    for record in records:
        yield f"{comma}  {json.dumps(record)}"
        comma = ",\n"
    yield "\n ]\n}\n"
