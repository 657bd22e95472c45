"""The invoice page made from the ledger, as it is shown, sent and printed."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.pages.invoice import View, view_of
from gateway.settings import Settings
from metering.billing import standing
from metering.billing.balance import InvoiceBalance
from metering.ledger import credit_notes, disputes, invoice_lines
from metering.ledger.invoices import Invoice


async def balance_of(
    connection: AsyncConnection, invoice: Invoice, settings: Settings
) -> InvoiceBalance | None:
    """Return how an invoice stands; None for one that asks for no payment."""
    counts = settings.billing.disputed_counts_as_unpaid
    balances = await standing.balances(connection, [invoice.account_id], disputed_counts=counts)
    own = (each for each in balances[invoice.account_id].invoices if each.invoice_id == invoice.id)
    return next(own, None)


async def view(connection: AsyncConnection, invoice: Invoice, settings: Settings) -> View:
    """Return what the page of an invoice shows at this moment."""
    return view_of(
        invoice,
        await invoice_lines.of_invoice(connection, invoice.id),
        balance=await balance_of(connection, invoice, settings),
        credit_notes=await credit_notes.of_invoice(connection, invoice.id),
        seller=settings.billing.seller,
        steps=settings.contract.steps,
        zone=settings.contract.zone,
        dispute_days=settings.billing.dispute_days,
        disputes=await disputes.open_of(connection, invoice.id),
        disputed_is_due=settings.billing.disputed_counts_as_unpaid,
    )
