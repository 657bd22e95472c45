"""Rows of FOCUS 1.2 CostAndUsage, held to rules of the specification that bind every row."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from metering import focus
from policies.period import Period, month_of
from tests.gateway.pages import samples
from tests.policies.samples import MOSCOW

INVOICE_ROWS = focus.invoice_rows(samples.invoice(), samples.lines(), issuer="Seller", zone=MOSCOW)
NOVEMBER = month_of(samples.OCTOBER.last_excluded)


def credit_rows(period: Period = NOVEMBER) -> list[focus.Row]:
    return focus.credit_note_rows(
        samples.credit_note("12.00"),
        samples.invoice(),
        samples.lines(),
        period=period,
        issuer="Seller",
        zone=MOSCOW,
    )


ROWS = [*INVOICE_ROWS, *credit_rows()]
NEVER_NULL = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["ChargeDescription"])
def test_every_row_is_whole(row: focus.Row) -> None:
    """Each row has every column, none that must hold a value is empty, and values are of the closed lists."""
    assert tuple(row) == focus.COLUMNS
    assert [name for name in NEVER_NULL if row[name] is None] == []
    assert row["ChargeCategory"] in {"Usage", "Purchase", "Tax", "Credit", "Adjustment"}
    assert row["ChargeClass"] in {None, "Correction"}
    assert row["ChargeFrequency"] in {"One-Time", "Recurring", "Usage-Based"}
    for name in ("BillingPeriodStart", "ChargePeriodStart"):
        begins, ends = (datetime.fromisoformat(row[each]) for each in (name, name.replace("Start", "End")))
        assert begins < ends


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["ChargeDescription"])
def test_costs_follow_from_unit_prices(row: focus.Row) -> None:
    """List and contracted cost are unit price times quantity, exactly, or the row is a correction."""
    if row["ListUnitPrice"] is None:
        assert row["ChargeClass"] == "Correction"
        return
    assert row["ListUnitPrice"] * row["PricingQuantity"] == row["ListCost"]
    assert row["ContractedUnitPrice"] * row["PricingQuantity"] == row["ContractedCost"]
    assert abs(row["ListCost"] - row["BilledCost"]) <= Decimal("0.005")


def test_rows_add_up_to_the_invoice() -> None:
    """What is billed is the invoice's total, and what is consumed its units."""
    assert sum(row["BilledCost"] for row in INVOICE_ROWS) == samples.invoice().total
    consumed: list[Any] = [row["ConsumedQuantity"] for row in INVOICE_ROWS if row["ConsumedQuantity"]]
    assert sum(consumed) == 81_900 + 1_410_902 + 4_111 + 90


def test_late_counts_correct_the_month_they_belong_to() -> None:
    """A late line stands in this month's billing period with the days of the month before."""
    [late] = [row for row in INVOICE_ROWS if row["ChargeClass"] == "Correction"]
    assert (late["ChargePeriodStart"], late["ChargePeriodEnd"]) == (
        "2026-08-31T21:00:00Z",
        "2026-09-30T21:00:00Z",
    )
    assert late["BillingPeriodStart"] == "2026-09-30T21:00:00Z"


def test_a_credit_note_is_a_correction_in_the_month_of_its_issuing() -> None:
    """It gives back, under its own number, in the billing period in which it was issued."""
    [row] = credit_rows()
    assert (row["BilledCost"], row["ChargeCategory"], row["ChargeClass"]) == (
        Decimal("-12.00"),
        "Credit",
        "Correction",
    )
    assert row["InvoiceId"] == "CRN-000003"
    assert row["BillingPeriodStart"] == "2026-10-31T21:00:00Z"
