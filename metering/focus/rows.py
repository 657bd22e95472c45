"""Lines of invoices and credit notes as rows.

A line is one row; packages stand in one row with the units that they were bought for. Late counts and credit
notes are corrections: rows of the billing period in which they were issued, whose days lie in the period that
they correct. Instants are where days of the billing timezone begin, in UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from metering.focus.columns import COLUMNS
from metering.ledger.credit_notes import CreditNote
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice
from metering.ledger.plan_versions import price_from
from metering.rating import LineKind
from policies.period import Period, midnight
from policies.pricing import Price

CORRECTION = "Correction"
UNITS, FEES = "Units", "Fees"
SERVICE = "API calls"
ZERO = Decimal(0)

Row = dict[str, Any]  # by column: text, Decimal or None; instants and JSON as text


@dataclass(frozen=True, slots=True)
class _Sku:
    """What is sold: the suffix of its identifier, what it meters, and how it is charged."""

    suffix: str
    meter: str
    category: str
    frequency: str


_CALLS = _Sku("", "API calls", "Usage", "Usage-Based")
_FEE = _Sku("/fee", "Fixed fee", "Purchase", "Recurring")
_MINIMUM = _Sku("/minimum", "Monthly minimum", "Adjustment", "Recurring")


def invoice_rows(invoice: Invoice, lines: Sequence[InvoiceLine], *, issuer: str, zone: ZoneInfo) -> list[Row]:
    """Return the rows of an issued invoice."""
    dataset = _Dataset(invoice, lines, invoice.period, issuer, zone)
    return [dataset.charge(line) for line in lines if not dataset.is_package(line)]


def credit_note_rows(
    note: CreditNote,
    invoice: Invoice,
    lines: Sequence[InvoiceLine],
    *,
    period: Period,
    issuer: str,
    zone: ZoneInfo,
) -> list[Row]:
    """Return the rows of a credit note, in the billing period in which it was issued.

    What is recalculated is given back as what it was charged as, so that sums of a category, a site or a key
    come out right over time.
    """
    dataset = _Dataset(invoice, lines, period, issuer, zone)
    by_position = {line.position: line for line in lines}
    rows = []
    for part in note.lines:
        line = by_position[part.position]
        counted = bool(part.quantity) and dataset.sku(line) is _CALLS
        rows.append(
            dataset.identity(line)
            | dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), ZERO - part.amount)
            | {
                "ChargeClass": CORRECTION,
                "ChargeDescription": f"Credit for line {part.position} of {invoice.reference}: "
                f"{part.explanation}",
                "ChargeFrequency": "One-Time",
                "ConsumedQuantity": ZERO - part.quantity if counted else None,
                "ConsumedUnit": UNITS if counted else None,
                "InvoiceId": note.reference,
                "x_InvoiceLine": Decimal(part.position),
            }
        )
    return rows


def written(row: Row) -> dict[str, str | None]:
    """Return a row as text: numbers in digits, without an exponent."""
    return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in row.items()}


class _Dataset:
    """What all rows of an invoice share."""

    def __init__(
        self, invoice: Invoice, lines: Sequence[InvoiceLine], period: Period, issuer: str, zone: ZoneInfo
    ) -> None:
        self._invoice = invoice
        self._period = period
        self._issuer = issuer
        self._zone = zone
        self._keys: Mapping[str, Any] = invoice.snapshot.get("keys", {})
        prices: Mapping[str, Any] = invoice.snapshot.get("prices", {})
        self._prices: dict[str, Price] = {name: price_from(each["price"]) for name, each in prices.items()}
        # Packages, by the days of the key for which they were bought; they stand before any other fee.
        self._bought = {
            (line.key_id, line.first): line for line in reversed(lines) if self._package(line) is not None
        }

    def is_package(self, line: InvoiceLine) -> bool:
        """Say whether a line is of packages, which stand in the row of their units."""
        return self._bought.get((line.key_id, line.first)) is line

    def sku(self, line: InvoiceLine) -> _Sku:
        """Return what a line is charged for."""
        match line.kind:
            case LineKind.USAGE | LineKind.TRIAL | LineKind.LATE:
                return _CALLS
            case LineKind.FLAT:
                return _CALLS if self.is_package(line) else _FEE
            case LineKind.MINIMUM:
                return _MINIMUM

    def charge(self, line: InvoiceLine) -> Row:
        """Return a line's row, with the packages that were bought for its units."""
        bought = self._bought.get((line.key_id, line.first))
        if bought is not None and (line.kind is not LineKind.USAGE or line.tier != bought.tier):
            bought = None
        sku, priced = self.sku(line), bought or line
        used, late = sku is _CALLS, line.kind is LineKind.LATE
        amount = line.amount if bought is None else line.amount + bought.amount
        # What a minimum adds and what counts came late follow from other charges: they have no price.
        price = None if late or line.kind is LineKind.MINIMUM else priced.unit_price
        exact = amount if price is None else priced.quantity * price
        quantity = priced.quantity if late or price is not None else None
        unit = (None if bought is None else self._package(bought)) or (UNITS if used else FEES)
        return self.identity(line) | {
            "BilledCost": amount,
            "ChargeClass": CORRECTION if late else None,
            "ChargeDescription": _description(line),
            "ConsumedQuantity": line.quantity if used else None,
            "ConsumedUnit": UNITS if used else None,
            "ContractedCost": exact,
            "ContractedUnitPrice": price,
            "EffectiveCost": amount,
            "InvoiceId": self._invoice.reference,
            "ListCost": exact,
            "ListUnitPrice": price,
            "PricingCategory": None if price is None else "Standard",
            "PricingQuantity": quantity,
            "PricingUnit": None if quantity is None else unit,
            "x_Calls": Decimal(line.calls),
            "x_InvoiceLine": Decimal(line.position),
            "x_TakenUnits": Decimal(line.taken),
            "x_WaivedUnits": Decimal(line.waived),
        }

    def identity(self, line: InvoiceLine) -> Row:
        """Return what a row says of whom, when and what, without quantities and costs."""
        invoice, sku, key = self._invoice, self.sku(line), self._keys.get(line.key_id, {})
        customer = invoice.snapshot.get("customer", {})
        plan = line.plan or key.get("plan")
        sold = f"{plan}{sku.suffix}" if plan is not None else None
        price_id, details = self._price(line, sold)
        return dict.fromkeys(column.name for column in COLUMNS) | {
            "BillingAccountId": invoice.account_id,
            "BillingAccountName": customer.get("name"),
            "BillingAccountType": "Account",
            "BillingCurrency": invoice.currency,
            "BillingPeriodEnd": self._instant(self._period.last_excluded),
            "BillingPeriodStart": self._instant(self._period.first),
            "ChargeCategory": sku.category,
            "ChargeFrequency": sku.frequency,
            "ChargePeriodEnd": self._instant(line.last_excluded),
            "ChargePeriodStart": self._instant(line.first),
            "InvoiceIssuerName": self._issuer,
            "PricingCurrency": invoice.currency,
            "ProviderName": self._issuer,
            "PublisherName": self._issuer,
            "ResourceId": line.key_id,
            "ResourceName": key.get("label"),
            "ResourceType": "API key",
            "ServiceCategory": "Integration",
            "ServiceName": SERVICE,
            "ServiceSubcategory": "API Management",
            "SkuId": sold,
            "SkuMeter": None if sold is None else sku.meter,
            "SkuPriceDetails": details,
            "SkuPriceId": price_id,
            "SubAccountId": line.site,
            "SubAccountName": line.site,
            "SubAccountType": None if line.site is None else "Site",
        }

    def _price(self, line: InvoiceLine, sold: str | None) -> tuple[str | None, str | None]:
        """Return which price of a price list a line has, and what that list says of it but the amount."""
        if sold is None or line.kind in {LineKind.LATE, LineKind.MINIMUM}:
            return None, None
        if line.version is None:
            return f"{sold}:{line.tier}", json.dumps({"x_Tier": line.tier}, ensure_ascii=False)
        found = self._prices.get(f"{line.plan}/{line.version}")
        details = {"x_PriceList": f"{line.plan}/{line.version}", "x_Tier": line.tier}
        if found is not None:
            details["x_PricingModel"] = found.model.value
        return f"{sold}/{line.version}:{line.tier}", json.dumps(details, ensure_ascii=False)

    def _package(self, line: InvoiceLine) -> str | None:
        """Return the unit of what may be a line of packages, None for any other."""
        price = self._prices.get(f"{line.plan}/{line.version}")
        if price is None or price.package_size is None or line.kind is not LineKind.FLAT:
            return None
        if line.unit_price != price.tiers[0].unit:
            return None
        size = price.package_size
        return f"{size:.0f} {UNITS}" if size == size.to_integral_value() else "Packages"

    def _instant(self, day: date) -> str:
        return datetime.fromtimestamp(midnight(day, self._zone), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
