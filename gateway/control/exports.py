"""What billing jobs pull: a month as FOCUS rows, and the comparison of its books."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cells import safe_cell
from gateway.control.auth import Right
from gateway.control.models import Month, NoInput, NoQuery, Output, Query
from gateway.control.operations import Call, Operation, Reply, wrong_cursor
from gateway.control.problems import conflict
from gateway.control.rows import NEXT_CURSOR
from gateway.control.terms import terms_of
from metering import focus
from metering.billing.reconcile import Kind, reconcile
from metering.ledger import credit_notes, invoice_lines, invoices
from metering.ledger.invoices import Status
from policies.period import add_months, month_of, parse_period

INVOICES, CREDIT_NOTES = "i", "c"
SCHEMA_PATH = "/v1/exports/focus/schema"
DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000


class FocusQuery(Query):
    """Which month, and where it goes on."""

    period: Month
    format: Literal["csv", "json"] = "csv"
    cursor: Annotated[str, Field(max_length=1_000)] | None = Field(
        None, description=f"The {NEXT_CURSOR} (or `next_cursor`) of the page before, as it came."
    )
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="Invoices on a page, each whole.")


class FocusPage(Output):
    """Rows of FOCUS 1.2 CostAndUsage; numbers and instants are text, null is what does not apply."""

    period: str
    schema_id: str
    items: list[dict[str, str | None]]
    next_cursor: str | None


class FocusSchema(Output):
    """Metadata of the dataset, under the names that FOCUS 1.2 gives them."""

    DataGenerator: str
    Schema: dict[str, Any]


class PeriodQuery(Query):
    """Which month."""

    period: Month | None = Field(None, description="Default: the month before this one.")


class Difference(Output):
    """Two books that do not agree on an object."""

    kind: Kind
    object_id: str
    account_id: str | None
    expected: str
    found: str
    explanation: str


class Reconciled(Output):
    """What was compared, and every difference."""

    period: str
    agrees: bool
    invoices: int = Field(description="Issued ones and drafts; void ones are not counted.")
    counted: int = Field(description="Billable units of the ledger.")
    billed: int = Field(description="Billable units on invoices and drafts.")
    voided: int = Field(description="Billable units on void invoices, which are not billed again.")
    invoiced: Decimal
    credited: Decimal
    paid: Decimal
    outstanding: Decimal
    counters: int = Field(description="Days of keys that Redis still has.")
    differences: list[Difference]


async def export_focus(call: Call[NoInput, FocusQuery]) -> Reply:
    """Return a part of a month as FOCUS rows: its issued invoices, then credit notes issued in it."""
    query = call.query
    _seller(call)
    async with call.control.engine.connect() as connection:
        try:
            rows, following = await _focus(call, connection)
        except ValueError as error:
            raise wrong_cursor(error) from error
    if query.format == "json":
        page = FocusPage(
            period=query.period,
            schema_id=focus.SCHEMA_ID,
            items=[focus.written(row) for row in rows],
            next_cursor=following,
        )
        return Reply(page)
    headers = {"Cache-Control": "no-store", "Link": f'<{SCHEMA_PATH}>; rel="describedby"'}
    if following is not None:
        headers[NEXT_CURSOR] = following
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(column.name for column in focus.COLUMNS)
    writer.writerows(_cells(row) for row in rows)
    return Reply(
        web.Response(text=buffer.getvalue(), content_type="text/csv", charset="utf-8", headers=headers)
    )


async def show_schema(call: Call[NoInput, NoQuery]) -> Reply:
    """Return which columns the dataset has, and of which types."""
    return Reply(FocusSchema(**focus.metadata(_seller(call))))


def _seller(call: Call[Any, Any]) -> str:
    """Return who issues the invoices; raises a Problem, as no row is without it."""
    name = call.control.settings.billing.seller.name.strip()
    if not name:
        raise conflict("Each row names who issues the invoice: set `name` in [billing.seller].")
    return name


def _cells(row: focus.Row) -> list[str | None]:
    text = focus.written(row)
    # A negative number begins as a formula does, and is none.
    return [
        text[column.name] if column.kind is focus.Kind.NUMBER else safe_cell(text[column.name])
        for column in focus.COLUMNS
    ]


async def _focus(
    call: Call[NoInput, FocusQuery], connection: AsyncConnection
) -> tuple[list[focus.Row], str | None]:
    query, zone = call.query, call.control.settings.contract.zone
    period = parse_period(query.period)
    issuer = _seller(call)
    part, _, cursor = (query.cursor or INVOICES).partition(".")
    if part == INVOICES:
        page = await invoices.listed(
            connection,
            period_first=period.first,
            status=Status.ISSUED,
            cursor=cursor or None,
            limit=query.limit,
        )
        lines = await invoice_lines.of_invoices(connection, [each.id for each in page.items])
        rows = [
            row
            for each in page.items
            for row in focus.invoice_rows(each, lines[each.id], issuer=issuer, zone=zone)
        ]
        return rows, f"{INVOICES}.{page.next_cursor}" if page.next_cursor else CREDIT_NOTES
    if part != CREDIT_NOTES:
        raise ValueError("this is not a cursor of this list; take `next_cursor` of a page as it came")
    notes = await credit_notes.listed(connection, issued_in=period, cursor=cursor or None, limit=query.limit)
    ids = sorted({note.invoice_id for note in notes.items})
    corrected, lines = await invoices.by_id(connection, ids), await invoice_lines.of_invoices(connection, ids)
    rows = []
    for note in notes.items:
        invoice = corrected[note.invoice_id]
        own = lines[note.invoice_id]
        rows += focus.credit_note_rows(note, invoice, own, period=period, issuer=issuer, zone=zone)
    return rows, f"{CREDIT_NOTES}.{notes.next_cursor}" if notes.next_cursor else None


async def compare(call: Call[NoInput, PeriodQuery]) -> Reply:
    """Compare counters, ledger, invoices and payments of a month."""
    control, terms = call.control, terms_of(call.control.settings)
    if call.query.period is not None:
        period = parse_period(call.query.period)
    else:
        period = month_of(add_months(month_of(terms.day_of(call.now)).first, -1))
    found = await reconcile(control.engine, control.redis, period, terms=terms)
    return Reply(
        Reconciled(
            period=f"{period.first:%Y-%m}",
            agrees=not found.differences,
            differences=[Difference.model_validate(each, from_attributes=True) for each in found.differences],
            **{
                name: getattr(found, name)
                for name in Reconciled.model_fields.keys() - {"agrees", "differences", "period"}
            },
        )
    )


OPERATIONS = (
    Operation(
        "exportFocus",
        "GET",
        "/v1/exports/focus",
        "A month's issued invoices and credit notes as rows of FOCUS 1.2 CostAndUsage",
        export_focus,
        rights=(Right.BILLS_READ,),
        query=FocusQuery,
        answer=FocusPage,
        media={"text/csv": f"The default; {NEXT_CURSOR} continues it."},
        etag=True,
        conflicts=True,
    ),
    Operation(
        "showFocusSchema",
        "GET",
        SCHEMA_PATH,
        "The columns of the FOCUS export and their types, as the specification's metadata",
        show_schema,
        rights=(Right.BILLS_READ,),
        answer=FocusSchema,
        etag=True,
        conflicts=True,
    ),
    Operation(
        "reconcile",
        "GET",
        "/v1/reconcile",
        "Compare counters, ledger, invoices and payments of a month; name every difference, and when counts "
        "may have been lost",
        compare,
        rights=(Right.BILLS_READ, Right.JOBS_RUN),
        query=PeriodQuery,
        answer=Reconciled,
    ),
)
