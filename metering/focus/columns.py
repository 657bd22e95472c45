"""The columns of the dataset, and its schema as the specification's metadata wants it told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from policies.money import PRICE_PLACES

FOCUS_VERSION = "1.2"
PRECISION = 38  # digits of a number, at most
PLACES = PRICE_PLACES  # of them behind the point: prices have so many, and whole units times a price no more
SCHEMA_CREATED_AT = "2026-11-21T00:00:00Z"  # changes with the columns


class Kind(StrEnum):
    """Of which type a column is, in the specification's words."""

    TEXT = "STRING"
    NUMBER = "DECIMAL"
    INSTANT = "DATETIME"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class Column:
    """A column; those whose names begin with `x_` are this project's own."""

    name: str
    kind: Kind = Kind.TEXT


COLUMNS = (
    Column("BilledCost", Kind.NUMBER),
    Column("BillingAccountId"),
    Column("BillingAccountName"),
    Column("BillingAccountType"),
    Column("BillingCurrency"),
    Column("BillingPeriodEnd", Kind.INSTANT),
    Column("BillingPeriodStart", Kind.INSTANT),
    Column("ChargeCategory"),
    Column("ChargeClass"),
    Column("ChargeDescription"),
    Column("ChargeFrequency"),
    Column("ChargePeriodEnd", Kind.INSTANT),
    Column("ChargePeriodStart", Kind.INSTANT),
    Column("ConsumedQuantity", Kind.NUMBER),
    Column("ConsumedUnit"),
    Column("ContractedCost", Kind.NUMBER),
    Column("ContractedUnitPrice", Kind.NUMBER),
    Column("EffectiveCost", Kind.NUMBER),
    Column("InvoiceId"),
    Column("InvoiceIssuerName"),
    Column("ListCost", Kind.NUMBER),
    Column("ListUnitPrice", Kind.NUMBER),
    Column("PricingCategory"),
    Column("PricingCurrency"),
    Column("PricingQuantity", Kind.NUMBER),
    Column("PricingUnit"),
    Column("ProviderName"),
    Column("PublisherName"),
    Column("ResourceId"),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory"),
    Column("ServiceName"),
    Column("ServiceSubcategory"),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails", Kind.JSON),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("SubAccountType"),
    Column("x_Calls", Kind.NUMBER),
    Column("x_InvoiceLine", Kind.NUMBER),
    Column("x_TakenUnits", Kind.NUMBER),
    Column("x_WaivedUnits", Kind.NUMBER),
)
# The same for the same columns, wherever the dataset is made.
SCHEMA_ID = str(
    uuid5(
        NAMESPACE_URL,
        f"tallygate:focus:{FOCUS_VERSION}:" + ",".join(f"{each.name}:{each.kind}" for each in COLUMNS),
    )
)


def metadata(generator: str) -> dict[str, Any]:
    """Return the metadata of the dataset, under the specification's names; `generator` makes the data."""
    return {
        "DataGenerator": generator,
        "Schema": {
            "SchemaId": SCHEMA_ID,
            "FocusVersion": FOCUS_VERSION,
            "CreationDate": SCHEMA_CREATED_AT,
            "ColumnDefinition": [_definition(column) for column in COLUMNS],
        },
    }


def _definition(column: Column) -> dict[str, Any]:
    told: dict[str, Any] = {"ColumnName": column.name, "DataType": column.kind.value}
    match column.kind:
        case Kind.NUMBER:
            told |= {"NumericPrecision": PRECISION, "NumberScale": PLACES}
        case Kind.TEXT | Kind.JSON:
            told["StringEncoding"] = "UTF-8"
        case Kind.INSTANT:
            pass
    return told
