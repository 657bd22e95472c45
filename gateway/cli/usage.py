"""`tallygate usage`: what was used, by day or month, account, key, method and class."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import client, values
from gateway.cli.output import Format, FormatOption, write_rows
from metering.usage import GROUPS, REASON_GROUPS

DEFAULT_GROUPS = "key,method,class"
COUNTS = ("calls", "taken", "waived", "billable")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(usage)


def usage(
    context: typer.Context,
    period: Annotated[
        str | None,
        typer.Option(
            help="2026-10, 2026-10-05, or 2026-10-01..2026-10-08 (end excluded). Default: this month."
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help=f"Out of {', '.join(GROUPS)}; with commas. Default: {DEFAULT_GROUPS}. "
            f"With --reasons out of {', '.join(REASON_GROUPS)}, and by default none."
        ),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's.")] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--ledger", help="With what was counted since the last roll-up, or only the ledger."
        ),
    ] = True,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Denied calls and waived units by reason instead.")
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what was used, in units."""
    connection = client.of(context)
    query = values.given(period=period, account=account, key=key)
    query["live"] = "true" if live else "false"
    by_default = "" if reasons else DEFAULT_GROUPS
    named = by_default if group_by is None else group_by
    groups = [group.strip() for group in named.split(",") if group.strip()]
    query["group_by"] = ",".join(groups)
    if reasons:
        columns = (*groups, "effect", "reason", "units")
        write_rows(connection.pages("/v1/usage/reasons", query), columns, form, numbers=("units",))
        return
    rows = list(connection.pages("/v1/usage", query))
    write_rows(rows, (*groups, *COUNTS), form, numbers=COUNTS)
