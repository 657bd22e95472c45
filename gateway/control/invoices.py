"""Invoices: listed, each shown as JSON, CSV or a page, and made void."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date
from typing import Any

from aiohttp import web

from gateway.cells import safe_cell
from gateway.control.auth import Right
from gateway.control.invoice_models import (
    InvoiceForm,
    InvoiceOut,
    InvoicePage,
    InvoiceQuery,
    InvoicesQuery,
    InvoiceWhole,
    LineOut,
    Voided,
    Voiding,
    invoice_fields,
    line_out,
    whole,
)
from gateway.control.me import own_key
from gateway.control.models import NoInput, NoQuery, PageQuery
from gateway.control.operations import Call, Operation, Reply, moving_money
from gateway.control.problems import not_found
from gateway.control.terms import terms_of
from gateway.pages import invoice as invoice_page
from gateway.pages import kept
from metering import notices as texts
from metering.billing import issue
from metering.ledger import credit_notes, invoice_lines, invoices, notices
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice, Status
from policies.period import parse_period

# The page is what a customer prints: it loads nothing, runs nothing, and stands in nobody else's frame.
PAGE_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
MEDIA = {
    "text/csv": "With format=csv: a header, then a line a row.",
    "text/html": "With format=html: the invoice as a page that can be printed.",
}


async def void(call: Call[Voiding, NoQuery]) -> Reply:
    """Make an invoice void; its number stays taken."""
    made = await issue.void(
        call.connection,
        call.path("invoice_id"),
        reason=call.body.reason,
        terms=terms_of(call.control.settings),
        now=call.now,
        by=call.by,
    )
    if made.reference is not None:  # nobody was sent a draft
        assert made.issued_on is not None and made.voided_at is not None and made.void_reason is not None
        told = texts.invoice_voided(
            account_id=made.account_id,
            invoice_id=made.id,
            number=made.reference,
            currency=made.currency,
            total=made.total,
            period_first=made.period.first,
            issued_on=made.issued_on,
            voided_at=made.voided_at.astimezone(call.control.settings.contract.zone),
            reason=made.void_reason,
        )
        await notices.add(call.connection, [told], now=call.now)
    return Reply(Voided(**invoice_fields(made)))


async def listed(call: Call[NoInput, InvoicesQuery]) -> Reply:
    """List invoices."""
    query = call.query
    first = parse_period(query.period).first if query.period is not None else None
    if query.reference is not None:
        async with call.control.engine.connect() as connection:
            found = await invoices.find(connection, int(query.reference[4:]))
        wanted = (query.account, first, query.status)
        is_it = found is not None and all(
            asked in (None, has)
            for asked, has in zip(wanted, (found.account_id, found.period.first, found.status), strict=True)
        )
        items = [InvoiceOut(**invoice_fields(found))] if found is not None and is_it else []
        return Reply(InvoicePage(items=items, next_cursor=None))
    return await _listed(call, query.account, first, query.status)


async def show(call: Call[NoInput, InvoiceQuery]) -> Reply:
    """Return one invoice with its lines, as JSON, CSV or a page."""
    return await _show(call, None)


async def listed_own(call: Call[NoInput, PageQuery]) -> Reply:
    """List the issued invoices of the account whose key the request carries."""
    key = await own_key(call)
    return await _listed(call, key.account_id, None, Status.ISSUED)


async def show_own(call: Call[NoInput, InvoiceQuery]) -> Reply:
    """Return an issued invoice of the account whose key the request carries."""
    key = await own_key(call)
    return await _show(call, key.account_id)


async def _listed(
    call: Call[NoInput, Any], account_id: str | None, first: date | None, status: Status | None
) -> Reply:
    async with call.control.engine.connect() as connection:
        page = await invoices.listed(
            connection,
            account_id=account_id,
            period_first=first,
            status=status,
            cursor=call.query.cursor,
            limit=call.query.limit,
        )
    items = [InvoiceOut(**invoice_fields(each)) for each in page.items]
    return Reply(InvoicePage(items=items, next_cursor=page.next_cursor))


async def _show(call: Call[NoInput, InvoiceQuery], account_id: str | None) -> Reply:
    """Return an invoice; for a customer only an own one that was issued."""
    invoice_id, settings = call.path("invoice_id"), call.control.settings
    async with call.control.engine.connect() as connection:
        found = await invoices.get(connection, invoice_id)
        if account_id is not None and (found.account_id, found.status) != (account_id, Status.ISSUED):
            raise not_found("invoice", invoice_id)
        if call.query.format is InvoiceForm.HTML:
            text = invoice_page.page(await kept.view(connection, found, settings))
            return Reply(web.Response(text=text, content_type="text/html", headers=PAGE_HEADERS))
        lines = await invoice_lines.of_invoice(connection, invoice_id)
        if call.query.format is InvoiceForm.CSV:
            return Reply(_csv(found, lines))
        notes = await credit_notes.of_invoice(connection, invoice_id)
        balance = await kept.balance_of(connection, found, settings)
    return Reply(whole(found, lines, balance, [note.reference for note in notes]))


def _csv(invoice: Invoice, lines: Sequence[InvoiceLine]) -> web.Response:
    columns = list(LineOut.model_fields)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(["invoice", "currency", *columns])
    for line in lines:
        row = line_out(line, line.position).model_dump(mode="json")
        cells = [safe_cell(row[column]) for column in columns]
        writer.writerow([invoice.reference or invoice.id, invoice.currency, *cells])
    return web.Response(
        text=buffer.getvalue(),
        content_type="text/csv",
        charset="utf-8",
        headers={"Cache-Control": "private, no-cache"},
    )


OPERATIONS = (
    Operation(
        "listInvoices",
        "GET",
        "/v1/invoices",
        "List invoices by month",
        listed,
        rights=(Right.BILLS_READ,),
        query=InvoicesQuery,
        answer=InvoicePage,
        etag=True,
    ),
    Operation(
        "showInvoice",
        "GET",
        "/v1/invoices/{invoice_id}",
        "Show an invoice with its lines, as JSON, CSV or a page to print",
        show,
        rights=(Right.BILLS_READ,),
        query=InvoiceQuery,
        answer=InvoiceWhole,
        media=MEDIA,
        etag=True,
    ),
    moving_money(
        "voidInvoice",
        "/v1/invoices/{invoice_id}/void",
        "Make an invoice void; its number stays taken",
        void,
        Voiding,
        Voided,
    ),
    Operation(
        "listOwnInvoices",
        "GET",
        "/v1/me/invoices",
        "The issued invoices of the account whose key is sent along",
        listed_own,
        query=PageQuery,
        answer=InvoicePage,
        etag=True,
    ),
    Operation(
        "showOwnInvoice",
        "GET",
        "/v1/me/invoices/{invoice_id}",
        "An issued invoice of the account whose key is sent along",
        show_own,
        query=InvoiceQuery,
        answer=InvoiceWhole,
        media=MEDIA,
        etag=True,
    ),
)
