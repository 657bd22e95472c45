"""`tallygate audit`: who changed what."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client, values
from gateway.cli.output import Format, FormatOption, write_rows

app = typer.Typer(no_args_is_help=True, help="Who changed what, when, from what to what.")

COLUMNS = ("at", "actor", "action", "object_id", "before", "after", "request_id")


@app.command("list")
def list_(
    context: typer.Context,
    object_: Annotated[str | None, typer.Option("--object", help="Only changes of this id.")] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only changes by this actor, as the list shows it.")
    ] = None,
    since: Annotated[str | None, typer.Option(help=values.INSTANT_HELP)] = None,
    until: Annotated[str | None, typer.Option(help=f"Excluded. {values.INSTANT_HELP}")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    form: FormatOption = Format.TABLE,
) -> None:
    """List changes, the newest first."""
    query = values.given(
        object=object_,
        actor=actor,
        since=None if since is None else values.instant(since, "--since"),
        until=None if until is None else values.instant(until, "--until"),
    )
    write_rows(client.of(context).pages("/v1/audit", query, limit), COLUMNS, form)
