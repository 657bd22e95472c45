"""Every row held to FOCUS 1.2 `CostAndUsage`, column by column.

Source: FinOps Open Cost and Usage Specification, version 1.2: its column definitions, and its
attributes Null Handling, Date/Time Format, Numeric Format, Currency Format, Unit Format, Key-Value Format and
Column Handling. The rules are restated here in our words; what they say of commitment discounts, capacity
reservations, regions, tags and taxes has no counterpart in what is sold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from metering import focus
from metering.focus import Kind, Row
from tests.gateway.pages import samples
from tests.metering.focus.datasets import ROWS, row_id

MANDATORY, CONDITIONAL, RECOMMENDED = "mandatory", "conditional", "recommended"


@dataclass(frozen=True)
class Rule:
    """What the specification says of a column: its level, type, whether null may stand, allowed values."""

    level: str
    kind: Kind
    nullable: bool
    allowed: frozenset[str] | None = None
    non_negative: bool = False


def of(level: str, kind: Kind, *, null: bool, allowed: str = "", non_negative: bool = False) -> Rule:
    return Rule(level, kind, null, frozenset(allowed.split("|")) if allowed else None, non_negative)


T, N, I, J = Kind.TEXT, Kind.NUMBER, Kind.INSTANT, Kind.JSON  # noqa: E741 - a table reads by its columns
COLUMNS = {
    "BilledCost": of(MANDATORY, N, null=False),
    "BillingAccountId": of(MANDATORY, T, null=False),
    "BillingAccountName": of(MANDATORY, T, null=False),  # not null where accounts have names, and ours have
    "BillingAccountType": of(CONDITIONAL, T, null=False),
    "BillingCurrency": of(MANDATORY, T, null=False),
    "BillingPeriodEnd": of(MANDATORY, I, null=False),
    "BillingPeriodStart": of(MANDATORY, I, null=False),
    "ChargeCategory": of(MANDATORY, T, null=False, allowed="Usage|Purchase|Tax|Credit|Adjustment"),
    "ChargeClass": of(MANDATORY, T, null=True, allowed="Correction"),
    "ChargeDescription": of(MANDATORY, T, null=False),  # "should not" be null
    "ChargeFrequency": of(RECOMMENDED, T, null=False, allowed="One-Time|Recurring|Usage-Based"),
    "ChargePeriodEnd": of(MANDATORY, I, null=False),
    "ChargePeriodStart": of(MANDATORY, I, null=False),
    "ConsumedQuantity": of(CONDITIONAL, N, null=True),
    "ConsumedUnit": of(CONDITIONAL, T, null=True),
    "ContractedCost": of(MANDATORY, N, null=False),
    "ContractedUnitPrice": of(CONDITIONAL, N, null=True, non_negative=True),
    "EffectiveCost": of(MANDATORY, N, null=False),
    "InvoiceId": of(RECOMMENDED, T, null=False),  # not null for what stands on an issued invoice
    "InvoiceIssuerName": of(MANDATORY, T, null=False),
    "ListCost": of(MANDATORY, N, null=False),
    "ListUnitPrice": of(CONDITIONAL, N, null=True, non_negative=True),
    "PricingCategory": of(CONDITIONAL, T, null=True, allowed="Standard|Dynamic|Committed|Other"),
    "PricingCurrency": of(CONDITIONAL, T, null=False),
    "PricingQuantity": of(MANDATORY, N, null=True),
    "PricingUnit": of(MANDATORY, T, null=True),
    "ProviderName": of(MANDATORY, T, null=False),
    "PublisherName": of(MANDATORY, T, null=False),
    "ResourceId": of(CONDITIONAL, T, null=True),
    "ResourceName": of(CONDITIONAL, T, null=True),
    "ResourceType": of(CONDITIONAL, T, null=True),
    "ServiceCategory": of(
        MANDATORY,
        T,
        null=False,
        allowed="AI and Machine Learning|Analytics|Business Applications|Compute|Databases|Developer Tools|"
        "Management and Governance|Identity|Integration|Internet of Things|Media|Migration|Mobile|Multicloud|"
        "Networking|Security|Storage|Web|Other",
    ),
    "ServiceName": of(MANDATORY, T, null=False),
    # The children of "Integration".
    "ServiceSubcategory": of(
        RECOMMENDED,
        T,
        null=False,
        allowed="API Management|Messaging|Workflow Orchestration|Other (Integration)",
    ),
    "SkuId": of(CONDITIONAL, T, null=True),
    "SkuMeter": of(CONDITIONAL, T, null=True),
    "SkuPriceDetails": of(CONDITIONAL, J, null=True),
    "SkuPriceId": of(CONDITIONAL, T, null=True),
    "SubAccountId": of(CONDITIONAL, T, null=True),
    "SubAccountName": of(CONDITIONAL, T, null=True),
    "SubAccountType": of(CONDITIONAL, T, null=True),
}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NUMBER = re.compile(r"-?\d+(\.\d+)?")  # neither a sign for positive ones, nor an exponent, nor groups
UNIT = re.compile(r"(\d+ )?[A-Z][A-Za-z]*s")  # a count-based unit in the plural, maybe a number of them

Check = Callable[[Row], bool]


def charged(row: Row) -> bool:
    """Whether the stricter rules hold: usage or purchase that corrects nothing."""
    return row["ChargeCategory"] in {"Usage", "Purchase"} and row["ChargeClass"] != "Correction"


def together(*names: str) -> Check:
    return lambda row: len({row[name] is None for name in names}) == 1


def product(price: str, cost: str) -> Check:
    def holds(row: Row) -> bool:
        if None in (row[price], row["PricingQuantity"]) or row["ChargeClass"] == "Correction":
            return True
        return bool(row[price] * row["PricingQuantity"] == row[cost])

    return holds


# What columns ask of each other, in words and as a check.
BETWEEN: list[tuple[str, Check]] = [
    ("a period ends after it began", lambda row: row["BillingPeriodStart"] < row["BillingPeriodEnd"]
        and row["ChargePeriodStart"] < row["ChargePeriodEnd"]),
    ("a purchase is not usage-based", lambda row: (row["ChargeCategory"], row["ChargeFrequency"])
        != ("Purchase", "Usage-Based")),
    ("a charge of days outside the billing period is a correction, and a correction has such days",
        lambda row: (row["ChargeClass"] == "Correction")
        == (not row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"])),
    ("only usage is consumed",
        lambda row: row["ChargeCategory"] == "Usage" or row["ConsumedQuantity"] is None),
    ("usage tells what was consumed", lambda row: not charged(row) or row["ChargeCategory"] != "Usage"
        or row["ConsumedQuantity"] is not None),
    ("what was consumed has a unit", together("ConsumedQuantity", "ConsumedUnit")),
    ("what is priced has a unit", together("PricingQuantity", "PricingUnit")),
    *((f"usage and purchases have {name}", lambda row, name=name: not charged(row) or row[name] is not None)
      for name in ("ListUnitPrice", "ContractedUnitPrice", "PricingQuantity", "PricingCategory", "SkuId",
                   "SkuPriceId")),
    ("list cost is list price times quantity", product("ListUnitPrice", "ListCost")),
    ("contracted cost is contracted price times quantity", product("ContractedUnitPrice", "ContractedCost")),
    ("without a list price, list cost is what is billed",
        lambda row: row["ListUnitPrice"] is not None or row["ListCost"] == row["BilledCost"]),
    ("without a contracted price, contracted cost is what is billed",
        lambda row: row["ContractedUnitPrice"] is not None or row["ContractedCost"] == row["BilledCost"]),
    ("nothing is bought ahead, so effective cost is what is billed",
        lambda row: row["EffectiveCost"] == row["BilledCost"]),
    ("prices agreed before are standard", lambda row: row["PricingCategory"] in {None, "Standard"}),
    ("a resource has a type", together("ResourceId", "ResourceType")),
    ("only a resource has a name, and it is not its identifier",
        lambda row: row["ResourceName"] is None or row["ResourceName"] != row["ResourceId"]),
    ("a sub account has a name and a type", together("SubAccountId", "SubAccountName", "SubAccountType")),
    ("what is sold is metered", together("SkuId", "SkuMeter")),
    ("a price belongs to something sold", lambda row: row["SkuPriceId"] is None or row["SkuId"] is not None),
    ("only a price has details", lambda row: row["SkuPriceDetails"] is None or row["SkuPriceId"] is not None),
]  # fmt: skip


def test_the_columns_are_those_of_the_specification() -> None:
    """Every column that applies is there, once, before our own, and each is of its type."""
    kinds = {column.name: column.kind for column in focus.COLUMNS}
    names = [column.name for column in focus.COLUMNS]
    assert len(kinds) == len(names)
    own = [name for name in names if name.startswith("x_")]
    assert names == sorted(set(names) - set(own)) + own
    assert {name: kinds[name] for name in names if name not in own} == {
        name: rule.kind for name, rule in COLUMNS.items()
    }


@pytest.mark.parametrize("name", COLUMNS)
def test_each_value_is_allowed(name: str) -> None:
    """A column holds values of its type and list only; what does not apply is null, never a placeholder."""
    rule, filled = COLUMNS[name], 0
    for row in ROWS:
        value, text = row[name], focus.written(row)[name]
        if value is None:
            assert rule.nullable, row_id(row)
            continue
        filled += 1
        assert text is not None
        assert text.strip(), row_id(row)
        assert rule.allowed is None or value in rule.allowed
        match rule.kind:
            case Kind.NUMBER:
                assert NUMBER.fullmatch(text), text
                assert not (rule.non_negative and value < 0), row_id(row)
                assert value or not text.startswith("-"), "there is no negative zero"
            case Kind.INSTANT:
                assert INSTANT.fullmatch(text), text
                assert datetime.fromisoformat(text).tzinfo == UTC
            case Kind.JSON:
                found: dict[str, Any] = json.loads(text)
                assert found
                assert all(key.startswith("x_") and isinstance(each, str) for key, each in found.items())
            case Kind.TEXT:
                assert isinstance(value, str)
        if name.endswith("Currency"):
            assert re.fullmatch("[A-Z]{3}", text)
        if name.endswith("Unit"):
            assert UNIT.fullmatch(text), text
    assert filled, "no row fills it, so that nothing was checked"


@pytest.mark.parametrize(("rule", "holds"), BETWEEN, ids=[text for text, _ in BETWEEN])
def test_columns_agree_with_each_other(rule: str, holds: Check) -> None:
    """What one column holds asks something of another, in every row."""
    assert [row_id(row) for row in ROWS if not holds(row)] == [], rule


def test_identifiers_mean_one_thing() -> None:
    """A price belongs to one thing sold and has one unit price, and what is sold is metered in one way."""
    for within, of_ in (("SkuId", "SkuPriceId"), ("SkuMeter", "SkuId"), ("SkuPriceDetails", "SkuPriceId")):
        found: dict[str, set[str]] = {}
        for row in ROWS:
            if row[of_] is not None:
                found.setdefault(row[of_], set()).add(row[within])
        assert [name for name, values in found.items() if len(values) > 1] == []


def test_a_document_adds_up() -> None:
    """The rows of an invoice, and those of a credit note, are what the document asks for or gives back."""
    sums: dict[str, Decimal] = {}
    for row in ROWS:
        sums[row["InvoiceId"]] = sums.get(row["InvoiceId"], Decimal(0)) + row["BilledCost"]
    assert sums["INV-000017"] == samples.invoice().total
    assert sums["CRN-000003"] == Decimal("-12.00")


def test_the_metadata_describe_the_columns() -> None:
    """The schema names each column with its type, and a change of columns changes its identifier."""
    told = focus.metadata("Seller")
    schema = told["Schema"]
    assert (told["DataGenerator"], schema["FocusVersion"]) == ("Seller", "1.2")
    assert [each["ColumnName"] for each in schema["ColumnDefinition"]] == [
        column.name for column in focus.COLUMNS
    ]
    assert INSTANT.fullmatch(schema["CreationDate"])
    assert schema["SchemaId"] == focus.SCHEMA_ID == "ed8a030f-ba66-5b28-b320-0fafe520fa98"
