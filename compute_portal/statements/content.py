"""What a statement says, as one document: every file and every page of an issued one is made from it.

`gather` reads it from the rows; `canonical` writes it as the bytes that are hashed, signed and kept. Money is
integer micro-yuan, quantity integer GPU-seconds, instants UTC: nothing in it depends on a language or on how floats are
written.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import clock
from ..allocations.models import Allocation
from ..enterprises.models import Enterprise
from ..programmes.models import Programme
from ..usage.models import Charge, UsageRecord
from .models import Statement
from .pricing import Totals
from .queries import Line, names_of_schemes

FORMAT = "compute-commons/statement/1"
CURRENCY = "CNY"
Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bureau:
    """Who issues: the names that the installation's settings give."""

    name_zh: str
    name_en: str
    service_zh: str
    service_en: str


def gather(
    session: Session,
    statement: Statement,
    lines: Sequence[Line],
    totals: Totals,
    bureau: Bureau,
    *,
    issued_at: dt.datetime | None,
) -> Content:
    """Everything it says. Of one that is not issued yet `issued_at`, the chain and the records are missing."""
    firm = session.get_one(Enterprise, statement.enterprise_id)
    payer = firm if statement.sponsor_id is None else session.get_one(Enterprise, statement.sponsor_id)
    start, end = clock.month_bounds(statement.month)
    schemes = names_of_schemes(session, {line.scheme_version_id for line in lines})
    return {
        "format": FORMAT,
        "number": statement.number,
        "state": "issued" if issued_at is not None else statement.state.value,
        "month": statement.month,
        "period": {"start": _instant(start), "end": _instant(end)},
        "issued_at": None if issued_at is None else _instant(issued_at),
        "closed_at": None if statement.closed_at is None else _instant(statement.closed_at),
        "bureau": {"name": bureau.name_zh, "name_en": bureau.name_en, "service": bureau.service_zh,
                   "service_en": bureau.service_en},
        "enterprise": _firm(firm),
        "payer": _firm(payer),
        "currency": CURRENCY,
        "rule_version": statement.rule_version,
        "tax_permille": statement.tax_permille,
        "pay_until": None if statement.pay_until_on is None else statement.pay_until_on.isoformat(),
        "allocations": list(_allocations(session, lines)),
        "schemes": [
            {"version_id": id, "name": name, "name_en": name_en} for id, (name, name_en) in sorted(schemes.items())
        ],
        "lines": [_line(line) for line in lines],
        "totals": {
            "gpu_seconds": totals.gpu_seconds,
            "list": totals.list_micro_yuan,
            "discount": totals.discount_micro_yuan,
            "subsidy": totals.subsidy_micro_yuan,
            "voucher": totals.voucher_micro_yuan,
            "net": totals.amount_micro_yuan,
            "tax": totals.tax_micro_yuan,
            "payable": totals.payable_micro_yuan,
        },
    }  # fmt: skip


def _instant(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _firm(firm: Enterprise) -> dict[str, Any]:
    return {"id": firm.id, "name": firm.name, "name_en": firm.name_en, "credit_code": firm.credit_code}


def _line(line: Line) -> dict[str, Any]:
    return {
        "position": line.position,
        "booking": line.booking_id,
        "title": line.title,
        "pool": line.pool_name,
        "model": line.model,
        "cards": line.gpus,
        "allocation": line.allocation_id,
        "kind": line.kind.value,
        "adjustment": line.adjustment,
        "gpu_seconds": line.gpu_seconds,
        "weight_milli": line.weight_milli,
        "tariff": line.tariff_id,
        "discount_id": line.discount_id,
        "scheme_version": line.scheme_version_id,
        "list_price": line.price_micro_yuan,
        "contract_price": line.contract_price_micro_yuan,
        "list": line.list_micro_yuan,
        "discount": line.discount_micro_yuan,
        "subsidy": line.subsidy_micro_yuan,
        "voucher": line.voucher_micro_yuan,
        "net": line.amount_micro_yuan,
    }


def _allocations(session: Session, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Asked, awarded and used of each allocation behind the lines: the three are always kept apart."""
    used: dict[int, int] = {}
    for line in lines:
        used[line.allocation_id] = used.get(line.allocation_id, 0) + line.gpu_seconds
    rows = session.execute(
        sa.select(
            Allocation.id, Allocation.requested_gpu_seconds, Allocation.awarded_gpu_seconds, Programme.name,
            Programme.name_en,
        )
        .join(Programme, Programme.id == Allocation.programme_id)
        .where(Allocation.id.in_(sorted(used)))
        .order_by(Allocation.id)
    )  # fmt: skip
    for id, asked, awarded, name, name_en in rows:
        yield {
            "id": id,
            "programme": name,
            "programme_en": name_en,
            "asked_gpu_seconds": asked,
            "awarded_gpu_seconds": awarded,
            "used_gpu_seconds": used[id],
        }


# -- the records behind it


def records(session: Session, statement: Statement) -> Iterator[str]:
    """One line of text for each charge billed in the month, in the order of their ids: what a receipt lists.

    charge, booking, kind, tariff, discount, weight, adjustment, GPU-seconds, record, start, end, share.
    """
    rows = session.execute(
        sa.select(
            Charge.id, Charge.booking_id, Charge.kind, Charge.tariff_id, Charge.discount_id, Charge.weight_milli,
            Charge.adjustment, Charge.gpu_seconds, Charge.usage_record_id, UsageRecord.starts_at, UsageRecord.ends_at,
            UsageRecord.share_milli,
        )
        .outerjoin(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(Charge.enterprise_id == statement.enterprise_id, Charge.billed_in == statement.month)
        .order_by(Charge.id),
        execution_options={"yield_per": 1000},
    )  # fmt: skip
    for id, booking, kind, tariff, discount, weight, adjustment, seconds, record, start, end, share in rows:
        yield json.dumps(
            [
                id, booking, kind.value, tariff, discount, weight, int(adjustment), seconds, record,
                None if start is None else _instant(start), None if end is None else _instant(end), share,
            ],
            separators=(",", ":"),
        )  # fmt: skip


def digest(texts: Iterable[str]) -> tuple[int, str]:
    """How many lines of text, and the SHA-256 of them, each ended by a line feed."""
    count, hashed = 0, hashlib.sha256()
    for text in texts:
        hashed.update(text.encode() + b"\n")
        count += 1
    return count, hashed.hexdigest()


# -- its bytes


def canonical(content: Mapping[str, Any]) -> str:
    """One way to write it: keys in order, no blanks, integers only."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
