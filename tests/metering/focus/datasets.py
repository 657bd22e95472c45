"""Rows of every kind: each price model, free months, fees, minimums, late counts and credit notes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal

from metering import focus
from metering.focus import Row
from metering.ledger.credit_notes import CreditNote
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice
from metering.ledger.plan_versions import price_facts
from metering.rating import Counts, Segment, rate
from policies.period import month_of
from policies.plan_versions import PlanVersion, Proration
from policies.pricing import Model, Price
from tests.gateway.pages import samples
from tests.policies.prices import tier
from tests.policies.samples import MOSCOW

SELLER = "Seller"
NOVEMBER = month_of(samples.OCTOBER.last_excluded)
HALF = date(2026, 10, 16)
PRICES = {
    Model.PER_UNIT: Price(Model.PER_UNIT, (tier(None, "0.0012345"),), free_units=Decimal(100)),
    Model.GRADUATED: Price(Model.GRADUATED, (tier("1000", "0.001", "5"), tier(None, "0.0008", "7.50"))),
    Model.VOLUME: Price(Model.VOLUME, (tier("1000", "0.001"), tier(None, "0.0009", "3"))),
    Model.PACKAGE: Price(Model.PACKAGE, (tier(None, "2.50", "2.50"),), package_size=Decimal(1_000)),
    Model.STAIRSTEP: Price(Model.STAIRSTEP, (tier("1000", flat="10"), tier(None, flat="25"))),
}


def rated(model: Model, *units: int, minimum: str = "0.00") -> list[Row]:
    """Return the rows of an invoice of one key: half a month free of charge, half of it at a price."""
    version = PlanVersion(
        plan=model.value,
        version=1,
        currency="USD",
        announced_at=datetime(2025, 12, 1, tzinfo=UTC),
        effective_from=date(2026, 1, 1),
        price=PRICES[model],
        minimum=Decimal(minimum),
        minimum_proration=Proration.NONE,
    )
    month = samples.OCTOBER
    lines = rate(
        "key_00000000000000b9",
        None,
        month,
        [
            (Segment(month.first, HALF, None), Counts(units[0], units[0], 0)),
            (Segment(HALF, month.last_excluded, version), Counts(units[1], units[1], 0)),
        ],
    )
    kept = [
        InvoiceLine(invoice_id="inv_1", position=position, **asdict(line))
        for position, line in enumerate(lines, 1)
    ]
    invoice = samples.invoice(
        number=100 + list(Model).index(model),
        total=sum((line.amount for line in lines), Decimal(0)),
        snapshot={
            "customer": {"name": "Shop"},
            "prices": {f"{model.value}/1": {"price": price_facts(PRICES[model]), "minimum": minimum}},
            "keys": {"key_00000000000000b9": {"plan": model.value, "site": None, "label": None}},
        },
    )
    return focus.invoice_rows(invoice, kept, issuer=SELLER, zone=MOSCOW)


def credited(note: CreditNote, invoice: Invoice) -> list[Row]:
    """Return the rows of a credit note of the sample invoice, issued in November."""
    return focus.credit_note_rows(note, invoice, samples.lines(), period=NOVEMBER, issuer=SELLER, zone=MOSCOW)


def row_id(row: Row) -> str:
    """Name a row when a rule does not hold for it."""
    return f"{row['InvoiceId']} {row['ChargeDescription']}"


INVOICE_ROWS = focus.invoice_rows(samples.invoice(), samples.lines(), issuer=SELLER, zone=MOSCOW)
CREDIT_ROWS = credited(samples.credit_note("12.00"), samples.invoice())
ROWS = [
    *INVOICE_ROWS,
    *CREDIT_ROWS,
    *(row for model in Model for row in rated(model, 5, 2_500)),
    *(row for model in Model for row in rated(model, 0, 0, minimum="15.00")),
]
