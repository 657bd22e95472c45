"""`tallygate bill pay` and its like: payments noted, listed and reversed, and what an account owes."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import typer

from gateway.cli import client, values
from gateway.cli.bills import IdempotencyOption, invoice_id, once
from gateway.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    write_one,
    write_rows,
)

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
AMOUNTS = ("total", "credited", "allocated", "outstanding", "disputed")
STATEMENT_COLUMNS = ("account_id", "currency", "kind", "reference", "issued_on", *AMOUNTS)
PAID_COLUMNS = (*PAYMENT_COLUMNS, "outstanding", "credit", "oldest_unpaid_issued_on", "in_force")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    # Otherwise -5 is told as an option that there is not, and not as an amount that cannot be.
    app.command(context_settings={"ignore_unknown_options": True})(pay)
    app.command()(payments)
    app.command()(reverse)
    app.command()(balance)


def pay(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id, acc_...")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="As 34.50, in the account's currency.")],
    invoice: Annotated[str | None, typer.Option(help="Pays this one first. Default: the oldest.")] = None,
    reference: Annotated[str | None, typer.Option(help="What the bank or the customer wrote.")] = None,
    received_at: Annotated[str | None, typer.Option(help=f"Default: now. {values.INSTANT_HELP}")] = None,
    key: IdempotencyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Note a payment; the keys' standing follows from the next call on."""
    connection = client.of(context)
    body = values.given(
        account_id=account,
        amount=values.amount(amount, "AMOUNT"),
        invoice_id=None if invoice is None else invoice_id(connection, invoice),
        reference=reference,
        received_at=None if received_at is None else values.instant(received_at, "--received-at"),
    )
    told = connection.rehearsed("POST", "/v1/payments", body, idempotency_key=key)
    confirmed(f"Note a payment of {body['amount']} by {account}{_after(told)}.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", "/v1/payments", body, idempotency_key=once(key), dry_run=dry_run)
    write_one(done, PAID_COLUMNS, form)


def payments(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List payments in the order in which they were noted."""
    rows = client.of(context).pages("/v1/payments", values.given(account=account), limit)
    write_rows(rows, PAYMENT_COLUMNS, form, numbers=("amount",))


def reverse(
    context: typer.Context,
    payment: Annotated[str, typer.Argument(metavar="PAYMENT", help="The payment's id, pay_...")],
    reason: Annotated[str, typer.Option(help="Why it came back.")],
    key: IdempotencyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take a payment out of the reckoning; what it paid is open again."""
    connection = client.of(context)
    path = f"/v1/payments/{client.segment(payment)}/reverse"
    body = {"reason": reason}
    told = connection.rehearsed("POST", path, body, idempotency_key=key)
    whose = f" ({told['amount']} {told['currency']} of {told['account_id']})" if told else ""
    confirmed(f"Reverse {payment}{whose}.", yes=yes, dry_run=dry_run)
    done = connection.call("POST", path, body, idempotency_key=once(key), dry_run=dry_run)
    write_one(done, PAID_COLUMNS, form)


def balance(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id, acc_...")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what an account owes, invoice by invoice; `bill payments --account` lists what it paid.

    CSV has a row an invoice and one for credit: what is outstanding adds up to what the account owes.
    """
    found = client.of(context).call("GET", f"/v1/accounts/{client.segment(account)}/balance")
    if form is Format.CSV:
        write_rows(_statement(found), STATEMENT_COLUMNS, form)
        return
    columns = ("account_id", "currency", "total", "outstanding", "credit", "oldest_unpaid_issued_on")
    write_one(found, columns, form)
    if form is Format.TABLE:
        write_rows(found["invoices"], ("reference", "issued_on", *AMOUNTS), form, numbers=AMOUNTS)


def _after(told: dict[str, Any] | None) -> str:
    """Say what a payment would leave: an amount with a digit too many shows as credit."""
    if told is None:
        return ""
    left, credit, currency = Decimal(told["outstanding"]), Decimal(told["credit"]), told["currency"]
    return f", which leaves {left:,.2f} {currency} to pay and {credit:,.2f} {currency} of credit"


def _statement(balance: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a balance as rows of one kind, of which the amounts can be added up."""
    whose = {"account_id": balance["account_id"], "currency": balance["currency"]}
    for invoice in balance["invoices"]:
        yield {**whose, "kind": "invoice", **invoice}
    yield {**whose, "kind": "credit", "outstanding": str(0 - Decimal(balance["credit"]))}
