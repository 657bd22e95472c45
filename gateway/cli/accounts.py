"""`tallygate account`: the customers whose keys are counted and billed."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client, values
from gateway.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="Customers whose keys are counted and billed.")

COLUMNS = ("id", "name", "main_domain", "billing_email", "currency", "first_request_at", "created_at")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The customer's name.")],
    domain: Annotated[str | None, typer.Option(help="The main site, for which support is given.")] = None,
    email: Annotated[str | None, typer.Option(help="Where invoices and notices are sent.")] = None,
    first_request: Annotated[
        str | None, typer.Option(help=f"When the customer first asked. {values.INSTANT_HELP}")
    ] = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make an account."""
    body = values.given(
        name=name,
        main_domain=domain,
        billing_email=email,
        first_request_at=None if first_request is None else values.instant(first_request, "--first-request"),
    )
    if dry_run:
        confirmed(f"Make an account for {name}.", yes=True, dry_run=True)
    write_one(client.of(context).call("POST", "/v1/accounts", body, dry_run=dry_run), COLUMNS, form)


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List accounts, the oldest first."""
    write_rows(client.of(context).pages("/v1/accounts", {}, limit), COLUMNS, form)


@app.command()
def show(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show an account and its keys."""
    connection = client.of(context)
    found = connection.call("GET", f"/v1/accounts/{client.segment(account)}")
    keys = list(connection.pages("/v1/keys", {"account": account}))
    found["keys"] = [key["id"] for key in keys]
    write_one(found, (*COLUMNS, "keys"), form)


@app.command("set")
def set_(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")],
    name: Annotated[str | None, typer.Option(help="The customer's name.")] = None,
    domain: Annotated[
        str | None, typer.Option(help="The main site, for which support is given; or none.")
    ] = None,
    email: Annotated[
        str | None, typer.Option(help="Where invoices and notices are sent from now on; or none.")
    ] = None,
    first_request: Annotated[
        str | None, typer.Option(help=f"When the customer first asked. {values.INSTANT_HELP} Or none.")
    ] = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Change an account; invoices that were issued keep what they say."""
    body: dict[str, str | None] = values.given(name=name)
    texts = {"main_domain": domain, "billing_email": email}
    body |= {
        field: None if values.cleared(text) else text for field, text in texts.items() if text is not None
    }
    if first_request is not None:
        asked = None if values.cleared(first_request) else values.instant(first_request, "--first-request")
        body["first_request_at"] = asked
    if not body:
        raise typer.BadParameter("say what to set, such as --email bills@shop.example; see --help")
    connection, path = client.of(context), f"/v1/accounts/{client.segment(account)}"
    if dry_run:
        named = ", ".join(field.replace("_", " ") for field in body)
        before = connection.call("GET", path)["name"]
        confirmed(f"Change {named} of {account} ({before}).", yes=True, dry_run=True)
    write_one(connection.call("PATCH", path, body, dry_run=dry_run), COLUMNS, form)


@app.command()
def close(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account's id, acc_...")],
    at: Annotated[
        str | None, typer.Option(help=f"When its service ends; default now. {values.INSTANT_HELP}")
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """End an account's service with that of all its keys; it is billed up to that moment."""
    connection, path = client.of(context), f"/v1/accounts/{client.segment(account)}"
    body = {} if at is None else {"at": values.instant(at, "--at")}
    name = connection.call("GET", path)["name"]
    when = "now" if at is None else f"at {body['at']}"
    what = f"End the service of {account} ({name}) and of all its keys {when}."
    confirmed(what, yes=yes, dry_run=dry_run)
    closed = connection.call("POST", f"{path}/close", body, dry_run=dry_run)
    write_one(closed, (*COLUMNS, "closed_at"), form)
