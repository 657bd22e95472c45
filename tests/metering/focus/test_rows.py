"""What FOCUS rows say of a bill; that they conform is shown beside this."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from policies.pricing import Model
from tests.gateway.pages import samples
from tests.metering.focus.datasets import CREDIT_ROWS, INVOICE_ROWS, rated


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
    assert (late["ChargeCategory"], late["ConsumedQuantity"]) == ("Usage", 90)


def test_a_credit_note_corrects_what_it_recalculates() -> None:
    """It gives back units and money as the usage they were charged as, under its own number, when issued."""
    [row] = CREDIT_ROWS
    assert (row["BilledCost"], row["ChargeCategory"], row["ChargeClass"]) == (
        Decimal("-12.00"),
        "Usage",
        "Correction",
    )
    assert row["ConsumedQuantity"] == -12_000
    assert row["InvoiceId"] == "CRN-000003"
    assert row["BillingPeriodStart"] == "2026-10-31T21:00:00Z"
    assert row["ChargePeriodStart"] == "2026-10-08T21:00:00Z"


def test_packages_stand_with_the_units_they_were_bought_for() -> None:
    """One row says how many units were used and how many packages were paid; a fee stays apart."""
    trial, used, fee = rated(Model.PACKAGE, 5, 2_500)
    assert trial["SkuId"] == used["SkuId"] == "package"
    assert (used["ConsumedQuantity"], used["PricingQuantity"], used["PricingUnit"]) == (
        2_500,
        3,
        "1000 Units",
    )
    assert used["BilledCost"] == Decimal("7.50")
    assert (fee["ChargeCategory"], fee["SkuId"], fee["BilledCost"]) == (
        "Purchase",
        "package/fee",
        Decimal("2.50"),
    )


def test_a_minimum_is_an_adjustment() -> None:
    """What the minimum adds follows from the other charges: it has no price of its own."""
    *_, minimum = rated(Model.PER_UNIT, 0, 0, minimum="15.00")
    assert (minimum["ChargeCategory"], minimum["SkuId"]) == ("Adjustment", "per_unit/minimum")
    assert (minimum["ListUnitPrice"], minimum["PricingQuantity"]) == (None, None)
    assert minimum["ListCost"] == minimum["BilledCost"] == Decimal("15.00")


def test_a_price_is_told_without_its_amount() -> None:
    """The details of a price name its list, its tier and its model; the site groups keys."""
    row = INVOICE_ROWS[1]
    assert json.loads(row["SkuPriceDetails"]) == {
        "x_PriceList": "K1/1",
        "x_Tier": "up to 1,000,000",
        "x_PricingModel": "graduated",
    }
    assert (row["SubAccountId"], row["SubAccountType"], row["ResourceName"]) == (
        "shop.example",
        "Site",
        "main",
    )
