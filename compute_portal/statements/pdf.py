"""An issued statement as a PDF in Chinese and English, made from its content alone: the same content, the same bytes.

Like the letters of reviews it is set outside any transaction, and its words go to the typesetter as data.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import typst
from sqlalchemy.orm import Session

from .. import clock
from ..language import LANGUAGES, N_, Language, amount, day, exact, gettext, hours_exact, money, month_name
from ..review.letters import FONTS, check_glyphs, coverage
from .capitals import in_words
from .content import Content
from .models import Statement, StatementContent, StatementDocument
from .words import KINDS_OF_CHARGE

HERE = Path(__file__).parent
FONT = "NotoSansSC-GBK-Regular.otf"
UNKNOWN = "\u3013"  # 〓, what a typesetter puts where a sign is missing


class FontMissing(Exception):
    """The font is not where it should be: the typesetter would draw blanks without a word."""


def inputs(content: Content) -> dict[str, Any]:
    """Everything it says, in both languages, as plain data."""
    return {
        "title": f"{content['number']} {content['enterprise']['name']}",
        "author": content["bureau"]["name"],
        "sections": [_section(language, content) for language in LANGUAGES],
    }


def _section(language: Language, content: Content) -> dict[str, Any]:
    def say(text: str, **values: object) -> str:
        return gettext(language, text) % values if values else gettext(language, text)

    english, totals = language == "en", content["totals"]
    bureau, firm, payer = content["bureau"], content["enterprise"], content["payer"]
    start, end = (_instant(content["period"][name]) for name in ("start", "end"))
    first, last = clock.day_of(start), clock.day_of(end - dt.timedelta(seconds=1))
    issued_at = _instant(content["issued_at"]) if content["issued_at"] else None
    rate = f"{Decimal(content['tax_permille']) / 10:f}"
    payable = totals["payable"]
    facts = [
        [
            [say(N_("Company")), firm["name"]],
            *([["", firm["name_en"]]] if firm["name_en"] else []),
            [say(N_("Credit code")), firm["credit_code"] or "–"],
            *(
                [[say(N_("Billed to")), f"{payer['name']} {payer['credit_code'] or ''}".strip()]]
                if payer["id"] != firm["id"]
                else []
            ),
        ],
        [
            [say(N_("Billing period")), f"{day(first, language)} – {day(last, language)}"],
            *([[say(N_("Issued on")), exact(issued_at)]] if issued_at else []),
            *([[say(N_("Pay until")), day(dt.date.fromisoformat(content["pay_until"]), language)]]
              if content["pay_until"] else []),
            [say(N_("Rules")), say(N_("version %(version)s"), version=content["rule_version"])],
        ],
    ]  # fmt: skip
    sums = [
        [say(N_("Subtotal, before tax")), hours_exact(totals["gpu_seconds"], language), "",
         amount(totals["list"], language),
         _minus(totals["discount"], language), _minus(totals["subsidy"] + totals["voucher"], language),
         amount(totals["net"], language)],
        [say(N_("Tax at %(rate)s%%"), rate=rate), "", "", "", "", "", amount(totals["tax"], language)],
        [say(N_("Total payable")), "", "", "", "", "", amount(payable, language)],
    ]  # fmt: skip
    return {
        "lang": "en" if english else "zh",
        "bureau": bureau["name_en"] if english else bureau["name"],
        "footer": bureau["service_en"] if english else bureau["service"],
        "title": say(N_("Statement for %(month)s"), month=month_name(content["month"], language)),
        "number": content["number"],
        "payable_label": say(N_("Total payable, with tax")),
        "payable": money(payable, language),
        "capitals": in_words(payable),
        "facts": facts,
        "columns": [
            say(N_("Line")), say(N_("Booking")), say(N_("Kind of charge")), say(N_("GPU-hours")),
            say(N_("Unit price")), say(N_("List")), say(N_("Discount")), say(N_("Subsidy, voucher")), say(N_("Net")),
        ],
        "lines": [_line(language, line, say) for line in content["lines"]],
        "sums": sums,
        "allocation_columns": [
            say(N_("Allocation")), say(N_("Asked, GPU-hours")), say(N_("Awarded, GPU-hours")),
            say(N_("Used this month, GPU-hours")),
        ],
        "allocations": [
            [
                f"{each['id']} {(english and each['programme_en']) or each['programme']}",
                hours_exact(each["asked_gpu_seconds"], language),
                hours_exact(each["awarded_gpu_seconds"] or 0, language),
                hours_exact(each["used_gpu_seconds"], language),
            ]
            for each in content["allocations"]
        ],
        "notes": [
            say(N_("Amounts in CNY. Each line is rounded once, to the fen; tax is rounded once, on the sum.")),
            *(
                [say(N_("Signed; number %(sequence)s of this company. The signed receipt can be downloaded in the "
                        "portal and checked without it. Records: %(count)s, SHA-256 %(hash)s"),
                     sequence=content["chain"]["sequence"], count=content["records"]["count"],
                     hash=content["records"]["sha256"])]
                if "chain" in content
                else [say(N_("Not issued yet: this is how it stands now."))]
            ),
        ],
    }  # fmt: skip


def _line(language: Language, line: Mapping[str, Any], say: Any) -> list[str]:
    kind = say(KINDS_OF_CHARGE[line["kind"]])
    if line["adjustment"]:
        kind = f"{kind} ({say(N_('adjustment'))})"
    return [
        str(line["position"]),
        _printable(f"{line['booking']} {line['title']} · {line['pool']}"),
        kind,
        hours_exact(line["gpu_seconds"], language),
        amount(line["list_price"], language),
        amount(line["list"], language),
        _minus(line["discount"], language),
        _minus(line["subsidy"] + line["voucher"], language),
        amount(line["net"], language),
    ]


def _minus(micro: int, language: Language) -> str:
    return amount(-micro, language) if micro else "–"


def _printable(text: str) -> str:
    known = coverage()
    return "".join(letter if ord(letter) in known else UNKNOWN for letter in text)


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def make(content: Content) -> bytes:
    """Raises MissingGlyphs for a name that the font cannot write, FontMissing where there is no font."""
    if not (FONTS / FONT).is_file():
        raise FontMissing(f"{FONTS / FONT} is not there: no statement can be set")
    said = inputs(content)
    check_glyphs(said)
    made, warnings = typst.compile_with_warnings(
        str(HERE / "statement.typ"),
        root=str(HERE),
        font_paths=[str(FONTS)],
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(said, ensure_ascii=False)},
        pdf_standards=["a-2b"],
        timestamp=int(_instant(content["issued_at"] or content["period"]["end"]).timestamp()),
    )
    if warnings:
        raise FontMissing("; ".join(str(warning) for warning in warnings))
    assert isinstance(made, bytes)
    return made


# -- kept as issued


def list_without(session: Session, limit: int = 50) -> list[int]:
    """Issued statements whose PDF is not made yet, the oldest first."""
    return list(
        session.scalars(
            sa.select(StatementContent.statement_id)
            .outerjoin(StatementDocument, StatementDocument.statement_id == StatementContent.statement_id)
            .where(StatementDocument.statement_id.is_(None))
            .order_by(StatementContent.statement_id)
            .limit(limit)
        )
    )


def keep(session: Session, statement_id: int, made: bytes, *, now: dt.datetime) -> None:
    """Once: whoever comes second finds it there."""
    session.get_one(Statement, statement_id, with_for_update=True)
    if find(session, statement_id) is None:
        session.add(
            StatementDocument(
                statement_id=statement_id,
                kind="pdf",
                sha256=hashlib.sha256(made).hexdigest(),
                content=made,
                made_at=now,
            )
        )
        session.flush()


def find(session: Session, statement_id: int) -> bytes | None:
    """As it was issued, if it was made already. The caller may see the statement."""
    return session.scalar(
        sa.select(StatementDocument.content).where(
            StatementDocument.statement_id == statement_id, StatementDocument.kind == "pdf"
        )
    )
