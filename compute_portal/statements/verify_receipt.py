"""Checks a receipt offline: python verify_receipt.py RECEIPT.json PUBLIC_KEY_HEX [PREVIOUS_RECEIPT.json]

Needs the package `cryptography` and nothing of the portal. Take the public key from the bureau by another way.
"""

import hashlib
import json
import sys
from collections import Counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def check(receipt: dict[str, Any], public_key: str, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises an exception that says what does not fit; returns the statement."""
    text = receipt["content"].encode()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(receipt["signature"]), text)
    said: dict[str, Any] = json.loads(text)
    records = "".join(line + "\n" for line in receipt["records"]).encode()
    assert hashlib.sha256(records).hexdigest() == said["records"]["sha256"], "the usage records were changed"
    keys = ("booking", "kind", "tariff", "discount_id", "weight_milli", "adjustment")
    billed, metered = Counter[Any](), Counter[Any]()
    for line in said["lines"]:
        assert line["list"] - line["discount"] - line["subsidy"] - line["voucher"] == line["net"], "a line is wrong"
        billed[tuple(line[key] for key in keys)] += line["gpu_seconds"]
    for row in map(json.loads, receipt["records"]):
        metered[tuple(row[1:7])] += row[7]
    assert billed == metered, "the lines are not what the records add up to"
    totals = said["totals"]
    assert totals["net"] == sum(line["net"] for line in said["lines"]), "the sum is wrong"
    assert totals["payable"] == totals["net"] + totals["tax"], "the payable amount is wrong"
    if previous is not None:
        before = hashlib.sha256(previous["content"].encode()).hexdigest()
        assert said["chain"]["previous_sha256"] == before, "this is not the receipt before"
    return said


if __name__ == "__main__":
    receipts = []
    for name in sys.argv[1:2] + sys.argv[3:4]:
        with open(name, encoding="utf-8") as file:
            receipts.append(json.load(file))
    found = check(receipts[0], sys.argv[2], *receipts[1:])
    sys.stdout.write(f"genuine: {found['number']}, {found['totals']['payable'] / 1e6:.2f} payable\n")
