"""`tallygate pepper`: what old peppers are still needed for."""

from __future__ import annotations

import typer

from gateway.cli import client
from gateway.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    YesOption,
    confirmed,
    note,
    write_one,
    write_rows,
)

app = typer.Typer(no_args_is_help=True, help="Peppers under which keys, tokens and secrets are kept.")

COLUMNS = ("id", "configured", "first", "keys", "carried", "tokens", "secrets")


@app.command()
def status(context: typer.Context, form: FormatOption = Format.TABLE) -> None:
    """Show what each pepper is needed for; one with nothing but carried keys can go."""
    found = client.of(context).call("GET", "/v1/peppers")["items"]
    write_rows(found, COLUMNS, form, numbers=COLUMNS[3:])
    lacking = [each for each in found if each["id"] is not None and not each["configured"]]
    if any(each["keys"] or each["tokens"] or each["secrets"] for each in lacking):
        note("What needs a pepper that is not configured does not work until it is.")


@app.command()
def reseal(
    context: typer.Context,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Seal signing and webhook secrets under the first pepper."""
    connection = client.of(context)
    items = connection.call("GET", "/v1/peppers")["items"]
    count = sum(each["secrets"] for each in items if not each["first"])
    if confirmed(f"Seal {count} secrets under the pepper {items[0]['id']}.", yes=yes, dry_run=dry_run):
        told = connection.call("POST", "/v1/peppers/reseal", {}, timeout_s=client.LONG_S)
        write_one(told, tuple(told), form)
