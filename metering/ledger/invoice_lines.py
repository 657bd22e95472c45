"""What invoices charge: their lines, and what they billed of each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import invoice_keys, invoice_lines, invoices
from metering.rating import LineKind


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line as it was reckoned (see `metering.rating.Line`), at its place on the invoice, from 1."""

    invoice_id: str
    position: int
    kind: LineKind
    key_id: str
    site: str | None
    tier: str
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal
    first: date
    last_excluded: date
    plan: str | None
    version: int | None
    calls: int
    taken: int
    waived: int


@dataclass(frozen=True, slots=True)
class InvoiceKey:
    """What an invoice billed of one key's month; `segments` is described with the table."""

    invoice_id: str
    key_id: str
    period_first: date
    plan: str
    segments: list[list[Any]]
    amount: Decimal


_PART = (
    invoice_keys.c.invoice_id,
    invoice_keys.c.key_id,
    invoice_keys.c.period_first,
    invoice_keys.c.plan,
    invoice_keys.c.segments,
    invoice_keys.c.amount,
)


async def of_invoice(connection: AsyncConnection, invoice_id: str) -> list[InvoiceLine]:
    """Return an invoice's lines in their order."""
    return (await of_invoices(connection, [invoice_id]))[invoice_id]


async def of_invoices(
    connection: AsyncConnection, invoice_ids: Sequence[str]
) -> dict[str, list[InvoiceLine]]:
    """Return the lines of several invoices in their order."""
    table = invoice_lines
    query = (
        sa.select(table)
        .where(table.c.invoice_id == sa.any_(sa.bindparam("ids", list(invoice_ids), sa.ARRAY(sa.Text))))
        .order_by(table.c.invoice_id, table.c.position)
    )
    found: dict[str, list[InvoiceLine]] = {invoice_id: [] for invoice_id in invoice_ids}
    for row in await connection.execute(query):
        columns = dict(row._mapping)
        columns["kind"] = LineKind(columns["kind"])
        columns["first"] = columns.pop("first_day")
        found[row.invoice_id].append(InvoiceLine(**columns))
    return found


async def parts_of(connection: AsyncConnection, key_id: str, month: date) -> list[InvoiceKey]:
    """Return what issued invoices billed of a key's month: the month's own, and those with late counts."""
    table = invoice_keys
    query = (
        sa.select(*_PART)
        .join(invoices, invoices.c.id == table.c.invoice_id)
        .where(table.c.key_id == key_id, table.c.period_first == month, invoices.c.status == "issued")
        .order_by(invoices.c.number)
    )
    return [InvoiceKey(**row._mapping) for row in await connection.execute(query)]
