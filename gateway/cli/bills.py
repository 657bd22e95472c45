"""`tallygate bill`: invoices shown, paid, made void, and their lines disputed."""

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
PAYMENT_COLUMNS = (
    "id",
    "account_id",
    "invoice_id",
    "amount",
    "currency",
    "received_at",
    "reference",
    "reversed_at",
    "reversal_reason",
)
PAID_COLUMNS = (*PAYMENT_COLUMNS, "outstanding", "credit", "oldest_unpaid_issued_on", "in_force")
DISPUTE_COLUMNS = (
    "id",
    "invoice_id",
    "position",
    "amount",
    "determined_on",
    "status",
    "evidence",
    "resolution",
    "credit_note",
)

InvoiceArgument = Annotated[
    str, typer.Argument(metavar="INVOICE", help="The invoice's id, inv_..., or its number, INV-000001.")
]
KeyOption = Annotated[
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
    path = f"/v1/invoices/{client.segment(_invoice_id(connection, invoice))}"
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
    reason: Annotated[str, typer.Option(help="Why; it stands on the invoice.")],
    key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make an invoice void; its number stays taken, and its month is not billed again."""
    connection = client.of(context)
    path = f"/v1/invoices/{client.segment(_invoice_id(connection, invoice))}/void"
    confirmed(f"Make {invoice} void, for good.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", path, {"reason": reason}, idempotency_key=_once(key), dry_run=dry_run)
    write_one(done, WHOLE_COLUMNS, form)


@app.command()
def pay(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id, acc_...")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="As 34.50, in the account's currency.")],
    invoice: Annotated[str | None, typer.Option(help="Pays this one first. Default: the oldest.")] = None,
    reference: Annotated[str | None, typer.Option(help="What the bank or the customer wrote.")] = None,
    received_at: Annotated[str | None, typer.Option(help=f"Default: now. {values.INSTANT_HELP}")] = None,
    key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Note a payment; the keys' standing follows from the next call on."""
    connection = client.of(context)
    body = values.given(
        account_id=account,
        amount=values.amount(amount, "AMOUNT"),
        invoice_id=None if invoice is None else _invoice_id(connection, invoice),
        reference=reference,
        received_at=None if received_at is None else values.instant(received_at, "--received-at"),
    )
    confirmed(f"Note a payment of {body['amount']} by {account}.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", "/v1/payments", body, idempotency_key=_once(key), dry_run=dry_run)
    write_one(done, PAID_COLUMNS, form)


@app.command()
def payments(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List payments in the order in which they were noted."""
    rows = client.of(context).pages("/v1/payments", values.given(account=account), limit)
    write_rows(rows, PAYMENT_COLUMNS, form, numbers=("amount",))


@app.command()
def reverse(
    context: typer.Context,
    payment: Annotated[str, typer.Argument(metavar="PAYMENT", help="The payment's id, pay_...")],
    reason: Annotated[str, typer.Option(help="Why it came back.")],
    key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take a payment out of the reckoning; what it paid is open again."""
    confirmed(f"Reverse {payment}.", yes=yes, dry_run=dry_run)
    path = f"/v1/payments/{client.segment(payment)}/reverse"
    body = {"reason": reason}
    done = client.of(context).call("POST", path, body, idempotency_key=_once(key), dry_run=dry_run)
    write_one(done, PAID_COLUMNS, form)


@app.command()
def balance(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id, acc_...")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what an account owes, invoice by invoice."""
    found = client.of(context).call("GET", f"/v1/accounts/{client.segment(account)}/balance")
    columns = ("account_id", "currency", "total", "outstanding", "credit", "oldest_unpaid_issued_on")
    write_one(found, columns, form)
    if form is Format.TABLE:
        amounts = ("total", "credited", "allocated", "outstanding", "disputed")
        write_rows(found["invoices"], ("number", "issued_on", *amounts), form, numbers=("number", *amounts))


@app.command()
def dispute(
    context: typer.Context,
    invoice: InvoiceArgument,
    line: Annotated[int, typer.Option(min=1, help="The line's position.")],
    evidence: Annotated[str, typer.Option(help="What is wrong, and how it shows.")],
    determined_on: Annotated[str, typer.Option(help="When the problem was determined, as 2026-11-12.")],
    amount: Annotated[str | None, typer.Option(help="How much of it. Default: all that is left.")] = None,
    key: KeyOption = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Dispute a line of an issued invoice; meanwhile its amount does not count as unpaid."""
    connection = client.of(context)
    body = values.given(
        invoice_id=_invoice_id(connection, invoice),
        position=line,
        evidence=evidence,
        determined_on=values.day(determined_on, "--determined-on"),
        amount=None if amount is None else values.amount(amount, "--amount"),
    )
    confirmed(f"Dispute line {line} of {invoice}.", yes=True, dry_run=dry_run)
    done = connection.call("POST", "/v1/disputes", body, idempotency_key=_once(key), dry_run=dry_run)
    write_one(done, DISPUTE_COLUMNS, form)


@app.command()
def resolve(
    context: typer.Context,
    dispute: Annotated[str, typer.Argument(metavar="DISPUTE", help="The dispute's id, dsp_...")],
    resolution: Annotated[str, typer.Option(help="Why; it stands on the credit note.")],
    accept: Annotated[bool, typer.Option("--accept/--reject", help="Who is right.")],
    quantity: Annotated[
        int | None,
        typer.Option(
            min=0, help="The key's right units in the line's days, over all tiers, not this line's."
        ),
    ] = None,
    amount: Annotated[str | None, typer.Option(help="Or the right amount of the line.")] = None,
    key: KeyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Accept a dispute with what is right for its line, or reject it; accepted, a credit note follows."""
    if accept == (quantity is None and amount is None):
        raise CliError("--accept takes the right --quantity or --amount; --reject takes neither.")
    body = values.given(
        accepted=accept,
        resolution=resolution,
        quantity=quantity,
        amount=None if amount is None else values.amount(amount, "--amount"),
    )
    what = f"{'Accept' if accept else 'Reject'} {dispute}, for good."
    confirmed(what, yes=yes, dry_run=dry_run)
    path = f"/v1/disputes/{client.segment(dispute)}/resolve"
    done = client.of(context).call("POST", path, body, idempotency_key=_once(key), dry_run=dry_run)
    write_one(done, DISPUTE_COLUMNS, form)


@app.command()
def disputes(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    status: Annotated[str | None, typer.Option(help="Only open, accepted or rejected.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List disputes, the oldest first."""
    rows = client.of(context).pages("/v1/disputes", values.given(account=account, status=status), limit)
    write_rows(rows, DISPUTE_COLUMNS[:-1], form, numbers=("position", "amount"))


@app.command("credit-notes")
def credit_notes(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List credit notes, the oldest first."""
    rows = client.of(context).pages("/v1/credit-notes", values.given(account=account), limit)
    columns = ("reference", "account_id", "invoice_id", "total", "currency", "issued_on", "reason")
    write_rows(rows, columns, form, numbers=("total",))


def _invoice_id(connection: Connection, text: str) -> str:
    """Return the id of an invoice that is given by its id or its number; raises CliError."""
    if not text.upper().startswith("INV-"):
        return text
    found: list[dict[str, Any]] = connection.call("GET", "/v1/invoices", query={"reference": text})["items"]
    if not found:
        raise CliError(f"There is no invoice {text}.")
    return str(found[0]["id"])


def _once(key: str | None) -> str:
    return key if key is not None else client.new_idempotency_key()
