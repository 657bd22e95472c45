"""`tallygate bill`: invoices listed, shown and made void; its other commands are in modules of their own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from gateway.cli import client, values
from gateway.cli.client import Connection
from gateway.cli.output import (
    CliError,
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="Bills: closed, issued, paid, disputed and shown.")

INVOICE_COLUMNS = (
    "id",
    "reference",
    "account_id",
    "period",
    "status",
    "total",
    "currency",
    "issued_on",
    "due_on",
)
WHOLE_COLUMNS = (
    *INVOICE_COLUMNS,
    "credited",
    "paid",
    "outstanding",
    "disputed",
    "credit_notes",
    "void_reason",
)
LINE_COLUMNS = (
    "position",
    "kind",
    "site",
    "key_id",
    "tier",
    "quantity",
    "unit_price",
    "amount",
    "first_day",
    "last_excluded",
    "plan",
    "version",
    "calls",
    "taken",
    "waived",
)
LINE_NUMBERS = ("position", "quantity", "unit_price", "amount", "version", "calls", "taken", "waived")
InvoiceArgument = Annotated[
    str, typer.Argument(metavar="INVOICE", help="The invoice's id, inv_..., or its number, INV-000001.")
]
IdempotencyOption = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="Repeating the command with the same one has no second effect. Default: a new one.",
    ),
]


class Shown(StrEnum):
    """How an invoice is shown."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


@app.command("list")
def list_(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    period: Annotated[str | None, typer.Option(help="Only of this month, as 2026-10.")] = None,
    status: Annotated[str | None, typer.Option(help="Only draft, issued or void.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List invoices by month."""
    month = None if period is None else values.month(period, "--period")
    query = values.given(account=account, period=month, status=status)
    rows = client.of(context).pages("/v1/invoices", query, limit)
    write_rows(rows, INVOICE_COLUMNS, form, numbers=("total",))


@app.command()
def show(
    context: typer.Context,
    invoice: InvoiceArgument,
    form: Annotated[Shown, typer.Option("--format", help="html is a page to print.")] = Shown.TABLE,
) -> None:
    """Show an invoice with its lines."""
    connection = client.of(context)
    path = f"/v1/invoices/{client.segment(invoice_id(connection, invoice))}"
    if form in (Shown.HTML, Shown.CSV):
        text, _ = connection.text(path, {"format": form.value})
        typer.echo(text, nl=False)
        return
    found = connection.call("GET", path)
    if form is Shown.JSON:
        write_one(found, WHOLE_COLUMNS, Format.JSON)
        return
    write_one(found, WHOLE_COLUMNS, Format.TABLE)
    write_rows(found["lines"], LINE_COLUMNS, Format.TABLE, numbers=LINE_NUMBERS)


@app.command()
def void(
    context: typer.Context,
    invoice: InvoiceArgument,
    reason: Annotated[str, typer.Option(help="Why; it stands on the invoice, and the customer is told.")],
    key: IdempotencyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make an invoice void; its number stays taken, and its month is not billed again."""
    connection = client.of(context)
    path = f"/v1/invoices/{client.segment(invoice_id(connection, invoice))}/void"
    told = connection.rehearsed("POST", path, {"reason": reason}, idempotency_key=key)
    whose = f" ({told['total']} {told['currency']} of {told['account_id']})" if told else ""
    confirmed(f"Make {invoice}{whose} void, for good.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", path, {"reason": reason}, idempotency_key=once(key), dry_run=dry_run)
    write_one(done, WHOLE_COLUMNS, form)


def invoice_id(connection: Connection, text: str) -> str:
    """Return the id of an invoice that is given by its id or its number; raises CliError."""
    if not text.upper().startswith("INV-"):
        return text
    found: list[dict[str, Any]] = connection.call("GET", "/v1/invoices", query={"reference": text})["items"]
    if not found:
        raise CliError(f"There is no invoice {text}.")
    return str(found[0]["id"])


def once(key: str | None) -> str:
    """Return the idempotency key that was given, or a new one."""
    return key if key is not None else client.new_idempotency_key()
