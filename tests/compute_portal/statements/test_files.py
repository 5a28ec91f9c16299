"""The same sums in every format, nothing that a spreadsheet would run, and a receipt that cannot be altered."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pypdf
import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_portal import units
from compute_portal.policy import Policy
from compute_portal.review import letters
from compute_portal.statements import content, files, pdf, receipts
from compute_portal.statements.models import Statement
from compute_portal.statements.pricing import Group, Price, price, total
from compute_portal.usage.models import ChargeKind
from tests.cast import Cast
from tests.compute_portal.statements.conftest import ISSUER, Books

TITLES = ("训练", "=cmd|'/c calc'!A1", "@SUM(1)", "+1", "-1", "\t=1", "＝1", "🚀 emoji", 'a "quoted", one')
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def made_up(lines: list[tuple[int, int, int, bool]], permille: int = 60) -> content.Content:
    """A content from (GPU-seconds, price in fen, discount in percent, adjustment), as `gather` makes it."""
    groups = [
        Group(n, ChargeKind.USAGE if seconds > 0 else ChargeKind.OUTAGE,
              Price(1, percent or None, 1000, fen * 10_000, fen * 10_000 * (100 - percent) // 100), late, seconds, 1, 1)
        for n, (seconds, fen, percent, late) in enumerate(lines, 1)
    ]  # fmt: skip
    priced, _ = price(groups)
    sums = total(priced, permille)
    firm = {"id": 7, "name": "屿声科技", "name_en": "Yusheng Voice", "credit_code": "91440300708461136T"}
    return {
        "format": content.FORMAT, "number": "S-202611-00007", "state": "issued", "month": "2026-11",
        "period": {"start": "2026-10-31T16:00:00Z", "end": "2026-11-30T16:00:00Z"},
        "issued_at": "2026-12-03T02:00:00Z", "closed_at": "2026-12-01T02:00:00Z", "pay_until": "2027-01-02",
        "bureau": {"name": "市人工智能局", "name_en": "City Bureau", "service": "平台", "service_en": "Commons"},
        "enterprise": firm, "payer": firm, "currency": "CNY", "rule_version": "2026-1", "tax_permille": permille,
        "schemes": [],
        "allocations": [{"id": 1, "programme": "计划", "programme_en": None, "asked_gpu_seconds": 3600,
                         "awarded_gpu_seconds": 3600, "used_gpu_seconds": 3600}],
        "lines": [
            {
                "position": n, "booking": n, "title": TITLES[n % len(TITLES)], "pool": "H800", "model": "NVIDIA H800",
                "cards": 8, "allocation": 1, "kind": line.group.kind.value, "adjustment": line.group.adjustment,
                "gpu_seconds": line.group.gpu_seconds, "weight_milli": 1000, "tariff": 1, "discount_id": None,
                "scheme_version": None, "list_price": line.group.price.list_micro_yuan,
                "contract_price": line.group.price.contract_micro_yuan, "list": line.list_micro_yuan,
                "discount": line.discount_micro_yuan, "subsidy": 0, "voucher": 0, "net": line.net_micro_yuan,
            }
            for n, line in enumerate(priced, 1)
        ],
        "totals": {
            "gpu_seconds": sums.gpu_seconds, "list": sums.list_micro_yuan, "discount": sums.discount_micro_yuan,
            "subsidy": 0, "voucher": 0, "net": sums.amount_micro_yuan, "tax": sums.tax_micro_yuan,
            "payable": sums.payable_micro_yuan,
        },
        "chain": {"sequence": 1, "previous_sha256": None}, "records": {"count": 0, "sha256": "0" * 64},
    }  # fmt: skip


def yuan(micro: int) -> Decimal:
    return units.yuan(micro)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def cells(made: bytes) -> list[tuple[str, str | None, str]]:
    """(cell, type, value or shared string) of the only sheet, read without any spreadsheet library."""
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))  # noqa: S314 - our own file
        strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))  # noqa: S314
        texts = ["".join(node.itertext()) for node in strings.iter(f"{MAIN}si")]
    assert not list(sheet.iter(f"{MAIN}f")), "no cell is a formula"
    found = []
    for cell in sheet.iter(f"{MAIN}c"):
        value = cell.findtext(f"{MAIN}v")
        if value is not None:
            kind = cell.get("t")
            found.append((cell.get("r", ""), kind, texts[int(value)] if kind == "s" else value))
    return found


lines_st = st.lists(
    st.tuples(
        st.integers(-9_000_000, 9_000_000).filter(bool), st.integers(0, 5_000), st.integers(0, 100), st.booleans()
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=25)
@given(lines_st, st.integers(0, 200))
def test_totals_are_equal_in_csv_xlsx_and_focus(lines: list[tuple[int, int, int, bool]], permille: int) -> None:
    said = made_up(lines, permille)
    totals = said["totals"]
    rows = rows_of("".join(files.csv(said)))
    of_lines = [row for row in rows if row["kind"] == "line"]
    assert sum((Decimal(row["amount_cny"]) for row in of_lines), Decimal(0)) == yuan(totals["net"])
    assert [Decimal(row["amount_cny"]) for row in rows[len(of_lines) :]] == [
        yuan(totals["net"]), yuan(totals["tax"]), yuan(totals["payable"]),
    ]  # fmt: skip
    focus = rows_of("".join(files.focus_csv(said)))
    assert sum((Decimal(row["BilledCost"]) for row in focus), Decimal(0)) == yuan(totals["payable"])
    assert sum((Decimal(row["ListCost"]) for row in focus if row["ChargeCategory"] != "Tax"), Decimal(0)) == yuan(
        totals["list"]
    )
    for row in focus:
        if row["ChargeCategory"] == "Usage" and not row["ChargeClass"]:
            cost = Decimal(row["ContractedUnitPrice"]) * Decimal(row["PricingQuantity"])
            assert abs(cost - Decimal(row["ContractedCost"])) <= Decimal("0.00501"), "to the fen"
    shown = cells(files.xlsx(said, "zh"))
    last = [value for cell, _kind, value in shown if re.fullmatch(r"O\d+", cell)]
    nets = [Decimal(value).quantize(Decimal("0.01")) for value in last[1:]]
    assert nets[-2:] == [yuan(totals["tax"]), yuan(totals["payable"])]
    assert sum(nets[:-3], Decimal(0)) == nets[-3] == yuan(totals["net"])


def test_nothing_that_was_typed_becomes_a_formula() -> None:
    said = made_up([(3600, 1650, 0, False)] * len(TITLES))
    for text in ("".join(files.csv(said)), "".join(files.focus_csv(said))):
        for row in rows_of(text):
            title = row.get("booking_title") or row.get("ResourceName") or ""
            assert not title.lstrip().startswith(tuple("=+-@＝＋－＠")), title
    titles = {value for cell, kind, value in cells(files.xlsx(said, "en")) if cell.startswith("C") and kind == "s"}
    assert set(TITLES) <= {title.replace("_x0009_", "\t") for title in titles}, "there they stay as typed, as text"


def test_focus_has_the_columns_that_version_1_2_demands_and_each_value_it_allows() -> None:
    """The list is that of the published requirements model of FOCUS 1.2, CostAndUsage, presence rules with MUST."""
    mandatory = [
        "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
        "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
        "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
        "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
    ]  # fmt: skip
    assert set(files.FOCUS_MANDATORY) == set(mandatory) and len(mandatory) == 21
    own = [name for name in files.FOCUS_COLUMNS if name.startswith("x_")]
    assert own == list(files.FOCUS_OWN) and len(set(files.FOCUS_COLUMNS)) == len(files.FOCUS_COLUMNS)
    said = made_up([(7200, 1650, 10, False), (-3600, 1650, 10, True), (-60, 1, 0, False)])
    rows = rows_of("".join(files.focus_csv(said)))
    never_empty = set(mandatory) - {"ChargeClass", "PricingQuantity", "PricingUnit"}
    for row in rows:
        assert all(row[name] for name in never_empty), row
        assert row["ChargeCategory"] in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
        assert row["ChargeClass"] in ("", "Correction")
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["ChargePeriodStart"])
        assert (row["PricingQuantity"] == "") == (row["ChargeCategory"] == "Tax"), row
    assert [row["ChargeClass"] for row in rows] == ["", "Correction", "", ""]
    assert rows[-1]["ChargeCategory"] == "Tax"
    assert {row["InvoiceId"] for row in rows} == {"S-202611-00007"}


def test_the_pdf_says_the_same_in_both_languages_and_is_made_the_same_again() -> None:
    said = made_up([(8_287_488, 1650, 10, False), (-3600, 1650, 10, True)])
    made = pdf.make(said)
    assert made == pdf.make(json.loads(content.canonical(said)))
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(made)).pages)
    payable = f"{yuan(said['totals']['payable']):,.2f}"
    assert text.count(payable) >= 4 and text.count("人民币") == 2
    for words in ("应付合计", "Total payable", "屿声科技", "91440300708461136T", "2,302.08", "adjustment"):
        assert words in text, words
    assert letters.coverage()


def test_a_missing_font_is_a_loud_error_and_no_pdf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pdf, "FONTS", tmp_path)
    with pytest.raises(pdf.FontMissing):
        pdf.make(made_up([(3600, 1650, 0, False)]))
    (tmp_path / pdf.FONT).write_bytes(b"not a font")
    with pytest.raises(pdf.FontMissing):
        pdf.make(made_up([(3600, 1650, 0, False)]))
    monkeypatch.undo()
    unwritable = made_up([(3600, 1650, 0, False)])
    unwritable["enterprise"]["name"] = "𬭎科技"
    with pytest.raises(letters.MissingGlyphs):
        pdf.make(unwritable)


# -- receipts


def a_receipt(books: Books) -> str:
    books.use(gpus=4, seconds=7201)
    id = books.issued()
    found = books.content(id)
    with books.cast.database.read_only() as session:
        records = list(content.records(session, session.get_one(Statement, id)))
    return "".join(receipts.write(found.content, found.signature, ISSUER.signer.public_key, records))


def verify(tmp_path: Path, receipt: str, key: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "receipt.json"
    path.write_text(receipt, encoding="utf-8")
    command = [sys.executable, str(receipts.SCRIPT), str(path), key]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_the_script_finds_a_receipt_genuine_offline_and_each_changed_digit(
    books: Books, cast: Cast, policy: Policy, tmp_path: Path
) -> None:
    receipt, key = a_receipt(books), ISSUER.signer.public_key
    genuine = verify(tmp_path, receipt, key)
    assert genuine.returncode == 0 and "S-202611-00001" in genuine.stdout, genuine.stderr
    assert len(receipts.SCRIPT.read_text(encoding="utf-8").splitlines()) <= 45, (
        "short enough to be read before it is run"
    )
    read = json.loads(receipt)
    assert len(read["records"]) == 3
    other = receipts.make_signer("", "another").public_key
    sys.path.insert(0, str(receipts.SCRIPT.parent))
    try:
        import verify_receipt  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)

    def broken(**changes: Any) -> bool:
        try:
            verify_receipt.check(read | changes, key)
        except Exception:
            return True
        return False

    assert not broken()
    assert broken(content=read["content"].replace('"payable":', '"payable":1', 1))
    assert broken(content=read["content"].replace("2026-11", "2026-12", 1))
    assert broken(records=[read["records"][0].replace("14400", "14401"), *read["records"][1:]])
    assert broken(records=read["records"][1:]) and broken(records=read["records"][::-1])
    with pytest.raises(InvalidSignature):
        verify_receipt.check(read, other)
    with pytest.raises(AssertionError, match="receipt before"):
        verify_receipt.check(read, key, read)
