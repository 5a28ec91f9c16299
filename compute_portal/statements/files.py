"""A statement's content as files: CSV, XLSX and FOCUS 1.2, whose sums are those of the content to the fen.

Each writer reads the content alone, so that the file of an issued statement is the same for ever. Text that people
typed cannot become a formula: CSV cells are defused (`exports.safe`), XLSX cells are written as text.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import xlsxwriter

from .. import exports, units
from ..language import N_, Language, gettext
from .content import Content
from .words import KINDS_OF_CHARGE

CSV_COLUMNS = (
    "kind", "statement", "state", "month", "enterprise", "credit_code", "payer", "payer_credit_code", "line",
    "booking_id", "booking_title", "pool", "charge", "adjustment", "gpu_seconds", "gpu_hours", "weight",
    "price_cny_per_gpu_hour", "contract_price_cny_per_gpu_hour", "list_cny", "discount_cny", "subsidy_cny",
    "voucher_cny", "amount_cny",
)  # fmt: skip
AMOUNTS = ("list", "discount", "subsidy", "voucher", "net")
MEDIA_TYPES = {
    "csv": exports.MIMETYPE,
    "focus.csv": exports.MIMETYPE,
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pdf": "application/pdf",
    "json": "application/json",
}


def exact_yuan(micro: int) -> Decimal:
    """With as many decimals as it has, two at least."""
    value = Decimal(micro) / units.MICRO_PER_YUAN
    return value.quantize(Decimal("0.01")) if micro % units.MICRO_PER_FEN == 0 else value


# -- CSV


def csv(content: Content) -> Iterator[str]:
    return exports.csv_lines(CSV_COLUMNS, csv_rows(content))


def csv_rows(content: Content) -> Iterator[Sequence[exports.Cell]]:
    """The lines, then their sum, the tax and what is payable."""
    firm, payer, totals = content["enterprise"], content["payer"], content["totals"]
    head = (
        content["number"], content["state"], content["month"], firm["name"], firm["credit_code"], payer["name"],
        payer["credit_code"],
    )  # fmt: skip
    for line in content["lines"]:
        yield (
            "line", *head, line["position"], line["booking"], line["title"], line["pool"], line["kind"],
            int(line["adjustment"]), line["gpu_seconds"], units.gpu_hours(line["gpu_seconds"]),
            Decimal(line["weight_milli"]) / 1000, exact_yuan(line["list_price"]), exact_yuan(line["contract_price"]),
            *(units.yuan(line[name]) for name in AMOUNTS),
        )  # fmt: skip
    nothing = (None,) * 6
    yield (
        "subtotal", *head, *nothing, totals["gpu_seconds"], units.gpu_hours(totals["gpu_seconds"]), None, None, None,
        *(units.yuan(totals[name]) for name in AMOUNTS),
    )  # fmt: skip
    for kind in ("tax", "payable"):
        yield (kind, *head, *nothing, *(None,) * 9, units.yuan(totals[kind]))


# -- XLSX


def xlsx(content: Content, language: Language) -> bytes:
    """One sheet: who and when, the lines, the sums. Amounts are numbers, everything typed is text."""
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(
        buffer,
        {
            "in_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "default_date_format": "yyyy-mm-dd",
        },
    )
    # The same content gives the same bytes.
    made = dt.datetime.strptime(content["issued_at"] or content["period"]["end"], "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007
    book.set_properties({"title": content["number"], "created": made})
    sheet = book.add_worksheet(content["number"][:31])
    bold, money = book.add_format({"bold": True}), book.add_format({"num_format": "#,##0.00"})
    whole, quantity = book.add_format({"num_format": "#,##0"}), book.add_format({"num_format": "#,##0.00"})
    strong = book.add_format({"bold": True, "num_format": "#,##0.00"})

    def say(text: str) -> str:
        return gettext(language, text)

    for row, (label, value) in enumerate(_head(content, say)):
        sheet.write_string(row, 0, label, bold)
        sheet.write_string(row, 1, value)
    row = len(list(_head(content, say))) + 1
    for column, title in enumerate(_titles(say)):
        sheet.write_string(row, column, title, bold)
    sheet.freeze_panes(row + 1, 0)
    for line in content["lines"]:
        row += 1
        sheet.write_number(row, 0, line["position"], whole)
        sheet.write_number(row, 1, line["booking"])
        sheet.write_string(row, 2, line["title"])
        sheet.write_string(row, 3, line["pool"])
        sheet.write_string(row, 4, say(KINDS_OF_CHARGE[line["kind"]]))
        sheet.write_string(row, 5, say(N_("adjustment")) if line["adjustment"] else "")
        sheet.write_number(row, 6, line["gpu_seconds"], whole)
        sheet.write_number(row, 7, float(units.gpu_hours(line["gpu_seconds"])), quantity)
        sheet.write_number(row, 8, float(exact_yuan(line["list_price"])), money)
        sheet.write_number(row, 9, float(exact_yuan(line["contract_price"])), money)
        for offset, name in enumerate(AMOUNTS):
            sheet.write_number(row, 10 + offset, float(units.yuan(line[name])), money)
    row += 1
    totals = content["totals"]
    sheet.write_string(row, 0, say(N_("Subtotal, before tax")), bold)
    sheet.write_number(row, 6, totals["gpu_seconds"], whole)
    sheet.write_number(row, 7, float(units.gpu_hours(totals["gpu_seconds"])), quantity)
    for offset, name in enumerate(AMOUNTS):
        sheet.write_number(row, 10 + offset, float(units.yuan(totals[name])), strong)
    for name, label in (("tax", say(N_("Tax"))), ("payable", say(N_("Payable")))):
        row += 1
        sheet.write_string(row, 0, label, bold)
        sheet.write_number(row, 14, float(units.yuan(totals[name])), strong)
    for column, width in enumerate((8, 12, 32, 14, 16, 10, 14, 12, 12, 12, 14, 14, 14, 14, 14)):
        sheet.set_column(column, column, width)
    book.close()
    return buffer.getvalue()


def _head(content: Content, say: Any) -> Iterator[tuple[str, str]]:
    yield say(N_("Number")), content["number"]
    yield say(N_("Month")), content["month"]
    yield say(N_("Enterprise")), content["enterprise"]["name"]
    yield say(N_("Credit code")), content["enterprise"]["credit_code"] or ""
    if content["payer"]["id"] != content["enterprise"]["id"]:
        yield say(N_("Billed to")), content["payer"]["name"]
        yield say(N_("Credit code")), content["payer"]["credit_code"] or ""
    yield say(N_("Bureau")), content["bureau"]["name"]
    yield say(N_("Currency")), content["currency"]


def _titles(say: Any) -> list[str]:
    titles = (
        N_("Line"), N_("Booking"), N_("Title"), N_("Pool"), N_("Kind of charge"), N_("Adjustment"), N_("GPU-seconds"),
        N_("GPU-hours"), N_("Unit price"), N_("Contract price"), N_("List"), N_("Discount"), N_("Subsidy"),
        N_("Voucher"), N_("Net"),
    )  # fmt: skip
    return [say(title) for title in titles]


# -- FOCUS 1.2 (focus.finops.org, FinOps Open Cost and Usage Specification)

FOCUS_MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
# Those that the specification asks of whom they apply to, and those that version 1.0 asked of everybody.
FOCUS_MORE = (
    "BillingAccountType", "ChargeFrequency", "CommitmentDiscountCategory", "CommitmentDiscountId",
    "CommitmentDiscountName", "CommitmentDiscountStatus", "CommitmentDiscountType", "ConsumedQuantity",
    "ConsumedUnit", "ContractedUnitPrice", "InvoiceId", "ListUnitPrice", "PricingCategory", "RegionId", "RegionName",
    "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceId",
    "SubAccountId", "SubAccountName", "Tags",
)  # fmt: skip
FOCUS_OWN = (
    "x_Line",
    "x_ChargeKind",
    "x_Model",
    "x_Weight",
    "x_Discount",
    "x_Subsidy",
    "x_Voucher",
    "x_CreditCode",
    "x_Rules",
)
FOCUS_COLUMNS = (*FOCUS_MANDATORY, *FOCUS_MORE, *FOCUS_OWN)
SERVICE = "GPU compute"
# What gives back something of an invoice before is a correction; what the bureau bears or grants is a credit.
CREDITS = frozenset({"returned", "outage"})


def focus_csv(content: Content) -> Iterator[str]:
    """Without a byte order mark: the specification asks for plain UTF-8, and numbers stay numbers."""
    return exports.csv_lines(FOCUS_COLUMNS, focus_rows(content), mark=False)


def focus_rows(content: Content) -> Iterator[Sequence[exports.Cell]]:
    """One row for each line at its contract price, one for each subsidy or voucher, one for the tax.

    The sum of BilledCost is the payable amount.
    """
    for line in content["lines"]:
        yield _focus(content, line, _of_line(line))
        for name in ("subsidy", "voucher"):
            if line[name]:
                yield _focus(content, line, _of_relief(line, name))
    tax = content["totals"]["tax"]
    if tax:
        cost = units.yuan(tax)
        yield _focus(
            content,
            None,
            {
                "ChargeCategory": "Tax",
                "ChargeDescription": f"Tax at {Decimal(content['tax_permille']) / 10}% on {content['number']}",
                "BilledCost": cost,
                "EffectiveCost": cost,
                "ContractedCost": cost,
                "ListCost": cost,
            },
        )


def _of_line(line: Mapping[str, Any]) -> dict[str, exports.Cell]:
    contract = line["list"] - line["discount"]
    credit = line["kind"] in CREDITS and not line["adjustment"]
    hours = (Decimal(line["gpu_seconds"]) / units.SECONDS_PER_HOUR).quantize(Decimal("1e-9"))
    weighted = (Decimal(line["gpu_seconds"] * line["weight_milli"]) / (1000 * units.SECONDS_PER_HOUR)).quantize(
        Decimal("1e-9")
    )
    return {
        "ChargeCategory": "Credit" if credit else "Usage",
        "ChargeClass": "Correction" if line["adjustment"] else None,
        "ChargeDescription": f"{line['kind']}: booking {line['booking']}, {line['cards']} cards of {line['model']}",
        "BilledCost": units.yuan(contract),
        "EffectiveCost": units.yuan(contract),
        "ContractedCost": units.yuan(contract),
        "ListCost": units.yuan(line["list"]),
        "ListUnitPrice": exact_yuan(line["list_price"]),
        "ContractedUnitPrice": exact_yuan(line["contract_price"]),
        "PricingQuantity": weighted,
        "PricingUnit": "GPU-Hours",
        "PricingCategory": "Standard",
        "ConsumedQuantity": None if credit else hours,
        "ConsumedUnit": None if credit else "GPU-Hours",
        "SkuId": f"pool-{line['pool']}",
        "SkuMeter": "GPU time",
        "SkuPriceId": f"tariff-{line['tariff']}",
    }


def _of_relief(line: Mapping[str, Any], name: str) -> dict[str, exports.Cell]:
    cost = units.yuan(-line[name])
    return {
        "ChargeCategory": "Credit",
        "ChargeClass": "Correction" if line["adjustment"] else None,
        "ChargeDescription": f"{name} on line {line['position']}, scheme version {line['scheme_version']}",
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ContractedCost": cost,
        "ListCost": cost,
    }


def _focus(content: Content, line: Mapping[str, Any] | None, values: dict[str, exports.Cell]) -> Sequence[exports.Cell]:
    payer, firm, bureau = content["payer"], content["enterprise"], content["bureau"]
    common: dict[str, exports.Cell] = {
        "BillingAccountId": f"enterprise-{payer['id']}",
        "BillingAccountName": payer["name"],
        "BillingAccountType": "Enterprise",
        "BillingCurrency": content["currency"],
        "BillingPeriodStart": content["period"]["start"],
        "BillingPeriodEnd": content["period"]["end"],
        "ChargePeriodStart": content["period"]["start"],
        "ChargePeriodEnd": content["period"]["end"],
        "ChargeFrequency": "Usage-Based",
        "InvoiceId": content["number"],
        "InvoiceIssuerName": bureau["name_en"],
        "ProviderName": bureau["service_en"],
        "PublisherName": bureau["name_en"],
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": SERVICE,
        "ServiceSubcategory": "Other (AI and Machine Learning)",
        "SubAccountId": f"enterprise-{firm['id']}",
        "SubAccountName": firm["name"],
        "x_CreditCode": firm["credit_code"],
        "x_Rules": content["rule_version"],
    }
    if line is not None:
        common |= {
            "ResourceId": f"booking-{line['booking']}",
            "ResourceName": line["title"],
            "ResourceType": "Booking",
            "x_Line": line["position"],
            "x_ChargeKind": line["kind"],
            "x_Model": line["model"],
            "x_Weight": Decimal(line["weight_milli"]) / 1000,
            "x_Discount": units.yuan(line["discount"]),
            "x_Subsidy": units.yuan(line["subsidy"]),
            "x_Voucher": units.yuan(line["voucher"]),
        }
    common |= values
    return [common.get(name) for name in FOCUS_COLUMNS]
