"""`tallygate export` and `tallygate reconcile`: what accountants take away, and whether the books agree."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli import client, values
from gateway.cli.output import Format, FormatOption, note, write_one, write_rows

app = typer.Typer(no_args_is_help=True, help="Months for accountants.")

SUMMARY_COLUMNS = (
    "period",
    "agrees",
    "invoices",
    "counted",
    "billed",
    "invoiced",
    "credited",
    "paid",
    "outstanding",
    "counters",
)
DIFFERENCE_COLUMNS = ("kind", "object_id", "account_id", "expected", "found", "explanation")
PeriodOption = Annotated[str, typer.Option("--period", help="A month, as 2026-10.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reconcile)


@app.command()
def focus(context: typer.Context, period: PeriodOption) -> None:
    """Write a month as FOCUS 1.2 CostAndUsage (CSV): issued invoices, and credit notes issued in it."""
    connection = client.of(context)
    query = {"period": values.month(period, "--period")}
    cursor: str | None = None
    first = True
    while first or cursor is not None:
        text, cursor = connection.text("/v1/exports/focus", query | ({"cursor": cursor} if cursor else {}))
        head, _, rest = text.partition("\r\n")
        sys.stdout.write(text if first else rest)
        first = False
        assert head  # every page names its columns


def reconcile(
    context: typer.Context,
    period: Annotated[
        str | None, typer.Option(help="A month, as 2026-10. Default: the one before this.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Compare counters, ledger, invoices and payments of a month; every difference is named.

    Exit code 1 says that something does not agree.
    """
    query = values.given(period=None if period is None else values.month(period, "--period"))
    found = client.of(context).call("GET", "/v1/reconcile", query=query)
    if form is Format.TABLE:
        write_one(found, SUMMARY_COLUMNS, form)
        if found["differences"]:
            write_rows(found["differences"], DIFFERENCE_COLUMNS, form)
    elif form is Format.CSV:
        write_rows(found["differences"], DIFFERENCE_COLUMNS, form)
    else:
        write_one(found, SUMMARY_COLUMNS, form)
    if found["agrees"]:
        note("All books agree.")
        return
    note(f"{len(found['differences'])} differences.")
    raise typer.Exit(1)
