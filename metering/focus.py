"""Invoices as rows of FOCUS 1.2 `CostAndUsage` (FinOps Open Cost and Usage Specification), pure.

A line is one row. Late counts and credit notes are corrections: rows of the period in which they were issued
whose days lie in the period that they correct. Instants are where days of the billing timezone begin,
in UTC. Columns that begin with `x_` are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from metering.ledger.credit_notes import CreditNote
from metering.ledger.invoices import Invoice, InvoiceLine
from metering.rating import LineKind
from policies.period import Period, midnight

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "x_Calls",
    "x_TakenUnits",
    "x_WaivedUnits",
)
CORRECTION = "Correction"
UNIT = "Units"
SERVICE = "API calls"

Row = dict[str, Any]


def invoice_rows(invoice: Invoice, lines: Sequence[InvoiceLine], *, issuer: str, zone: ZoneInfo) -> list[Row]:
    """Return the rows of an issued invoice, one for each line."""
    customer = invoice.snapshot.get("customer", {})
    return [
        _row(line, invoice.currency, invoice.period, invoice.account_id, customer.get("name"), issuer, zone)
        | {"InvoiceId": invoice.reference}
        for line in lines
    ]


def credit_note_rows(
    note: CreditNote,
    invoice: Invoice,
    lines: Sequence[InvoiceLine],
    *,
    period: Period,
    issuer: str,
    zone: ZoneInfo,
) -> list[Row]:
    """Return the rows of a credit note, in the billing period in which it was issued."""
    by_position = {line.position: line for line in lines}
    customer = invoice.snapshot.get("customer", {})
    rows = []
    for part in note.lines:
        line = by_position[part.position]
        row = _row(line, note.currency, period, note.account_id, customer.get("name"), issuer, zone)
        rows.append(
            row
            | dict.fromkeys(("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit"))
            | dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice", "PricingCategory"))
            | dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), -part.amount)
            | {
                "ChargeCategory": "Credit",
                "ChargeClass": CORRECTION,
                "ChargeDescription": f"Credit for line {part.position} of {invoice.reference}: "
                f"{part.explanation}",
                "ChargeFrequency": "One-Time",
                "InvoiceId": note.reference,
                "x_Calls": None,
                "x_TakenUnits": None,
                "x_WaivedUnits": None,
            }
        )
    return rows


def _row(
    line: InvoiceLine,
    currency: str,
    period: Period,
    account_id: str,
    account_name: str | None,
    issuer: str,
    zone: ZoneInfo,
) -> Row:
    used = line.kind in {LineKind.USAGE, LineKind.TRIAL, LineKind.LATE}
    late = line.kind is LineKind.LATE
    exact = line.amount if line.unit_price is None else line.quantity * line.unit_price
    sku = f"{line.plan}/{line.version}" if line.plan is not None and line.version is not None else line.plan
    return dict.fromkeys(COLUMNS) | {
        "BilledCost": line.amount,
        "BillingAccountId": account_id,
        "BillingAccountName": account_name,
        "BillingAccountType": "Account",
        "BillingCurrency": currency,
        "BillingPeriodEnd": _instant(period.last_excluded, zone),
        "BillingPeriodStart": _instant(period.first, zone),
        "ChargeCategory": "Usage" if used else "Purchase",
        "ChargeClass": CORRECTION if late else None,
        "ChargeDescription": _description(line),
        "ChargeFrequency": "Usage-Based" if used else "Recurring",
        "ChargePeriodEnd": _instant(line.last_excluded, zone),
        "ChargePeriodStart": _instant(line.first, zone),
        "ConsumedQuantity": _plain(line.quantity) if used else None,
        "ConsumedUnit": UNIT if used else None,
        "ContractedCost": _plain(exact),
        "ContractedUnitPrice": None if line.unit_price is None else _plain(line.unit_price),
        "EffectiveCost": line.amount,
        "InvoiceIssuerName": issuer,
        "ListCost": _plain(exact),
        "ListUnitPrice": None if line.unit_price is None else _plain(line.unit_price),
        "PricingCategory": None if late else "Standard",
        "PricingCurrency": currency,
        "PricingQuantity": _plain(line.quantity),
        "PricingUnit": UNIT if used else "Fees",
        "ProviderName": issuer,
        "PublisherName": issuer,
        "ResourceId": line.key_id,
        "ResourceName": line.site,
        "ResourceType": "API key",
        "ServiceCategory": "Integration",
        "ServiceName": SERVICE,
        "ServiceSubcategory": "API Management",
        "SkuId": line.plan,
        "SkuMeter": "Billable units" if used else None,
        "SkuPriceId": None if sku is None else f"{sku}: {line.tier}",
        "SubAccountId": line.key_id,
        "SubAccountName": line.site,
        "SubAccountType": "Key",
        "x_Calls": line.calls,
        "x_TakenUnits": line.taken,
        "x_WaivedUnits": line.waived,
    }


def _description(line: InvoiceLine) -> str:
    match line.kind:
        case LineKind.USAGE:
            return f"Calls, {line.tier}"
        case LineKind.FLAT:
            return f"Fee, {line.tier}"
        case LineKind.TRIAL:
            return "Calls in the free month"
        case LineKind.MINIMUM:
            return f"Up to the {line.tier}"
        case LineKind.LATE:
            return f"Calls {line.tier}"


def _instant(day: date, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(midnight(day, zone), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(number: Decimal) -> Decimal:
    """Return a number that is written in digits, without an exponent."""
    return Decimal(f"{number:f}")
