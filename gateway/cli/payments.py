"""`tallygate bill pay` and its like: payments noted, listed and reversed, and what an account owes."""

from __future__ import annotations

from typing import Annotated

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
    connection.rehearsed("POST", "/v1/payments", body, idempotency_key=key)
    confirmed(f"Note a payment of {body['amount']} by {account}.", yes=yes, dry_run=dry_run)
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
    """Show what an account owes, invoice by invoice."""
    found = client.of(context).call("GET", f"/v1/accounts/{client.segment(account)}/balance")
    columns = ("account_id", "currency", "total", "outstanding", "credit", "oldest_unpaid_issued_on")
    write_one(found, columns, form)
    if form is Format.TABLE:
        amounts = ("total", "credited", "allocated", "outstanding", "disputed")
        write_rows(found["invoices"], ("reference", "issued_on", *amounts), form, numbers=amounts)
