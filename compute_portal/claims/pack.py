"""The evidence pack of a claim: contract, usage, statement, fapiao, proof of payment, and the hash of each.

The same claim gives the same bytes: parts in order of their names, with the instant of the claim. It is read and
packed outside of writing transactions; what an enterprise confirms is kept as it was then.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, undefer

from .. import clock, exports, units
from ..allocations.models import Allocation
from ..allocations.review_models import Decision
from ..bookings.models import Booking
from ..files import queries as files
from ..files.models import File
from ..pools.models import Pool, Tariff
from ..programmes.models import Programme
from ..review.models import Letter
from ..statements import pdf
from ..statements import queries as statements
from ..statements.models import Fapiao, Payment, Statement, StatementContent, StatementDocument, StatementLine
from ..subsidies.models import Scheme, SchemeVersion
from ..usage.models import Charge, UsageRecord
from .models import Claim, ClaimLine
from .service import FILES

USAGE_COLUMNS = (
    "charge", "kind", "booking_id", "pool", "starts_at", "ends_at", "gpus", "gpu_seconds", "weight_milli",
    "list_price_cny_per_gpu_hour", "billed_in",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pack:
    """`missing` names what an enterprise or finance still has to bring, in `language.WORDS`."""

    content: bytes
    parts: tuple[tuple[str, int, str], ...]  # name, bytes, SHA-256
    missing: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def build(session: Session, claim: Claim) -> Pack:
    """Everything there is now. The caller may see the claim."""
    statement = session.get_one(Statement, claim.statement_id)
    lines = list(
        session.scalars(
            sa.select(StatementLine)
            .join(ClaimLine, ClaimLine.statement_line_id == StatementLine.id)
            .where(ClaimLine.claim_id == claim.id)
            .order_by(StatementLine.position)
        )
    )
    usage = _usage(session, statement, sorted({line.booking_id for line in lines}))
    parts: dict[str, bytes] = {"claim.json": _json(_claim(session, claim, statement))}
    parts.update(_contracts(session, lines))
    parts["usage/usage.csv"] = "".join(exports.csv_lines(USAGE_COLUMNS, usage)).encode()
    document, content = pdf.find(session, statement.id), statements.content_of(session, statement.id)
    if document is not None:
        parts[f"statement/{statement.number}.pdf"] = document
    if content is not None:
        signed = {"content": content.content, "signature": content.signature, "sha256": content.sha256}
        parts[f"statement/{statement.number}.json"] = _json(signed)
    fapiaos = _fapiaos(session, statement.id)
    if fapiaos:
        parts["fapiao/fapiao.json"] = _json(fapiaos)
    payments = _payments(session, statement.id)
    if payments:
        parts["payment/payments.json"] = _json(payments)
    proofs = [file for file in files.list_files(session, FILES, claim.id) if file.kind == "payment_proof"]
    parts.update({f"payment/{file.id}-{file.name}": files.content_of(session, file) for file in proofs})
    there = {
        "pack-contract": any(name.startswith("contract/") for name in parts),
        "pack-usage": bool(usage),
        "pack-statement": document is not None and content is not None,
        "pack-fapiao": bool(fapiaos),
        "pack-payment": bool(payments or proofs),
    }
    return _zip(claim, parts, tuple(kind for kind, found in there.items() if not found))


def missing(session: Session, claim: Claim) -> tuple[str, ...]:
    """What `build` would not find, without packing anything: one statement."""
    bookings = (
        sa.select(StatementLine.booking_id)
        .join(ClaimLine, ClaimLine.statement_line_id == StatementLine.id)
        .where(ClaimLine.claim_id == claim.id)
    )
    statement = sa.select(Statement).where(Statement.id == claim.statement_id).subquery()
    proof = sa.exists().where(
        File.owner_kind == FILES, File.owner_id == claim.id, File.kind == "payment_proof", File.removed_at.is_(None)
    )
    usage, document, signed, fapiao, payment = session.execute(
        sa.select(
            sa.exists().where(
                Charge.enterprise_id == statement.c.enterprise_id,
                Charge.billed_in == statement.c.month,
                Charge.booking_id.in_(bookings),
            ),
            sa.exists().where(StatementDocument.statement_id == claim.statement_id, StatementDocument.kind == "pdf"),
            sa.exists().where(StatementContent.statement_id == claim.statement_id),
            sa.exists().where(Fapiao.statement_id == claim.statement_id),
            sa.or_(sa.exists().where(Payment.statement_id == claim.statement_id), proof),
        ).select_from(statement)
    ).one()
    there = {
        "pack-usage": usage,
        "pack-statement": document and signed,
        "pack-fapiao": fapiao,
        "pack-payment": payment,
    }
    return tuple(kind for kind, found in there.items() if not found)


def _zip(claim: Claim, parts: dict[str, bytes], missing: tuple[str, ...]) -> Pack:
    listed = tuple((name, len(content), hashlib.sha256(content).hexdigest()) for name, content in sorted(parts.items()))
    manifest = {
        "claim": claim.number,
        "parts": [{"name": name, "bytes": size, "sha256": sha256} for name, size, sha256 in listed],
        "missing": list(missing),
    }
    opened = claim.opened_at.astimezone(clock.SHANGHAI)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted({**parts, "manifest.json": _json(manifest)}.items()):
            info = zipfile.ZipInfo(name, opened.timetuple()[:6])
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, content)
    return Pack(buffer.getvalue(), listed, missing)


def _json(what: Any) -> bytes:
    return (json.dumps(what, ensure_ascii=False, sort_keys=True, indent=2) + "\n").encode()


def _claim(session: Session, claim: Claim, statement: Statement) -> dict[str, Any]:
    scheme = session.get_one(Scheme, claim.scheme_id)
    version = session.get_one(SchemeVersion, claim.version_id)
    rows = session.execute(
        sa.select(StatementLine.position, ClaimLine.cost_micro_yuan, ClaimLine.rate_permille)
        .join(StatementLine, StatementLine.id == ClaimLine.statement_line_id)
        .where(ClaimLine.claim_id == claim.id)
        .order_by(StatementLine.position)
    )
    return {
        "claim": claim.number,
        "statement": statement.number,
        "month": statement.month,
        "scheme": {"name": scheme.name, "version": version.number, "from_on": version.from_on.isoformat()},
        "rules": version.rules,
        "cost_cny": str(units.yuan(claim.cost_micro_yuan)),
        "amount_cny": str(units.yuan(claim.amount_micro_yuan)),
        "bonus_cny": str(units.yuan(claim.bonus_micro_yuan)),
        "shares_cny": {name: str(units.yuan(share)) for name, share in claim.shares.items()},
        "lines": [
            {"line": position, "cost_cny": str(units.yuan(cost)), "rate_permille": rate}
            for position, cost, rate in rows
        ],
    }


def _contracts(session: Session, lines: Sequence[StatementLine]) -> dict[str, bytes]:
    """The terms of each allocation behind the lines, and the letter of award as it was issued."""
    parts = {}
    found = session.execute(
        sa.select(Allocation, Programme.name, Pool.name)
        .join(Programme, Programme.id == Allocation.programme_id)
        .join(Pool, Pool.id == Allocation.pool_id)
        .where(
            Allocation.id.in_(
                sa.select(Booking.allocation_id).where(Booking.id.in_({line.booking_id for line in lines}))
            )
        )
        .order_by(Allocation.id)
    ).all()
    for allocation, programme, pool in found:
        parts[f"contract/allocation-{allocation.id}.json"] = _json(
            {
                "allocation": allocation.id,
                "programme": programme,
                "pool": pool,
                "starts_on": allocation.starts_on.isoformat(),
                "ends_on": allocation.ends_on.isoformat(),
                "awarded_gpu_seconds": allocation.awarded_gpu_seconds,
                "price_micro_yuan": allocation.price_micro_yuan,
                "subsidy_percent": allocation.subsidy_percent,
            }
        )
    letters = session.execute(
        sa.select(Decision.allocation_id, Letter)
        .join(Letter, Letter.decision_id == Decision.id)
        .where(Decision.allocation_id.in_([allocation.id for allocation, _p, _n in found]))
        .options(undefer(Letter.content))
        .order_by(Letter.id)
    )
    for allocation_id, letter in letters:
        parts[f"contract/allocation-{allocation_id}-letter-{letter.number}.pdf"] = letter.content
    return parts


def _usage(session: Session, statement: Statement, booking_ids: Sequence[int]) -> list[Sequence[exports.Cell]]:
    """What was charged for these bookings in the month, with the usage record behind each charge."""
    rows = session.execute(
        sa.select(Charge, UsageRecord, Pool.name, Tariff.price_micro_yuan)
        .join(Booking, Booking.id == Charge.booking_id)
        .join(Pool, Pool.id == Booking.pool_id)
        .join(Tariff, Tariff.id == Charge.tariff_id)
        .outerjoin(UsageRecord, UsageRecord.id == Charge.usage_record_id)
        .where(
            Charge.enterprise_id == statement.enterprise_id,
            Charge.billed_in == statement.month,
            Charge.booking_id.in_(booking_ids),
        )
        .order_by(Charge.id)
    )
    return list(_usage_rows(rows.all()))


def _usage_rows(rows: Sequence[Any]) -> Iterator[Sequence[exports.Cell]]:
    for charge, record, pool, price in rows:
        yield (
            charge.id, charge.kind.value, charge.booking_id, pool,
            None if record is None else record.starts_at.isoformat(),
            None if record is None else record.ends_at.isoformat(),
            None if record is None else record.gpus,
            charge.gpu_seconds, charge.weight_milli, str(units.yuan(price)), charge.billed_in,
        )  # fmt: skip


def _fapiaos(session: Session, statement_id: int) -> list[dict[str, Any]]:
    return [
        {"number": f.number, "amount_cny": str(units.yuan(f.amount_micro_yuan)), "issued_on": f.issued_on.isoformat()}
        for f in statements.fapiaos_of(session, statement_id)
    ]


def _payments(session: Session, statement_id: int) -> list[dict[str, Any]]:
    return [
        {
            "reference": payment.reference,
            "paid_on": payment.paid_on.isoformat(),
            "amount_cny": str(units.yuan(payment.amount_micro_yuan)),
            "payer": payment.payer,
        }
        for payment in statements.payments_of(session, statement_id)
    ]
