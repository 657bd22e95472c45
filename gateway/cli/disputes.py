"""`tallygate bill dispute` and its like: lines disputed, disputes resolved, and what is credited for them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli import client, values
from gateway.cli.bills import IdempotencyOption, InvoiceArgument, invoice_id, once
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


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(dispute)
    app.command()(resolve)
    app.command()(disputes)
    app.command("credit-notes")(credit_notes)


def dispute(
    context: typer.Context,
    invoice: InvoiceArgument,
    line: Annotated[int, typer.Option(min=1, help="The line's position.")],
    evidence: Annotated[str, typer.Option(help="What is wrong, and how it shows.")],
    determined_on: Annotated[str, typer.Option(help="When the problem was determined, as 2026-11-12.")],
    amount: Annotated[str | None, typer.Option(help="How much of it. Default: all that is left.")] = None,
    key: IdempotencyOption = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Dispute a line of an issued invoice; until it is resolved that counts as unpaid only if so set."""
    connection = client.of(context)
    body = values.given(
        invoice_id=invoice_id(connection, invoice),
        position=line,
        evidence=evidence,
        determined_on=values.day(determined_on, "--determined-on"),
        amount=None if amount is None else values.amount(amount, "--amount"),
    )
    connection.rehearsed("POST", "/v1/disputes", body, idempotency_key=key)
    confirmed(f"Dispute line {line} of {invoice}.", yes=True, dry_run=dry_run)
    done = connection.call("POST", "/v1/disputes", body, idempotency_key=once(key), dry_run=dry_run)
    write_one(done, DISPUTE_COLUMNS, form)


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
    key: IdempotencyOption = None,
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
    connection = client.of(context)
    path = f"/v1/disputes/{client.segment(dispute)}/resolve"
    told = connection.rehearsed("POST", path, body, idempotency_key=key)
    what = f"{'Accept' if accept else 'Reject'} {dispute}, for good{_given_back(told)}."
    confirmed(what, yes=yes, dry_run=dry_run)
    done = connection.call("POST", path, body, idempotency_key=once(key), dry_run=dry_run)
    note = done["credit_note"]
    if form is not Format.JSON and note is not None:
        done["credit_note"] = f"{note['reference']} over {note['total']} {note['currency']}"
    write_one(done, DISPUTE_COLUMNS, form)


def _given_back(told: dict[str, Any] | None) -> str:
    """Say what an accepted dispute gives back: nothing where the minimum of the month swallows it."""
    if told is None or told["status"] != "accepted":
        return ""
    note = told["credit_note"]
    return (
        "; nothing is given back" if note is None else f"; {note['total']} {note['currency']} are given back"
    )


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
