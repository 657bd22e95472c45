"""`tallygate export` and `tallygate reconcile`: what accountants take away, and whether the books agree."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import client, parquet, values
from gateway.cli.client import Connection
from gateway.cli.output import CliError, Format, FormatOption, note, write_one, write_rows

app = typer.Typer(no_args_is_help=True, help="Months for accountants.")

FOCUS = "/v1/exports/focus"
PAGE = 1_000  # invoices that are asked for at a time
SUMMARY_COLUMNS = (
    "period",
    "agrees",
    "invoices",
    "counted",
    "billed",
    "voided",
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


class FocusFormat(StrEnum):
    """How a month's rows are written."""

    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def focus(
    context: typer.Context,
    period: PeriodOption,
    output: Annotated[
        Path | None,
        typer.Option(help="The file to write, CSV or Parquet (.parquet). Default: CSV to the terminal."),
    ] = None,
    form: Annotated[
        FocusFormat | None,
        typer.Option("--format", help="Default: as the file is named. Parquet needs the extra `parquet`."),
    ] = None,
) -> None:
    """Write a month as FOCUS 1.2 CostAndUsage: issued invoices, and credit notes issued in it.

    A file stands under its name once it is whole.
    """
    connection, query = client.of(context), {"period": values.month(period, "--period"), "limit": str(PAGE)}
    if form is None:
        named = output is not None and output.suffix == ".parquet"
        form = FocusFormat.PARQUET if named else FocusFormat.CSV
    if output is None:
        if form is FocusFormat.PARQUET:
            raise CliError(
                "Parquet is written to a file: name it with --output, as --output october.parquet."
            )
        for text in _csv_pages(connection, query):
            sys.stdout.write(text)
        return
    unfinished = output.with_name(f"{output.name}.part")
    try:
        if form is FocusFormat.PARQUET:
            rows = _write_parquet(connection, query, unfinished)
        else:
            rows = _write_csv(connection, query, unfinished)
        unfinished.replace(output)
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    note(f"{output}: {rows} rows of {query['period']}.")


@app.command("focus-schema")
def focus_schema(context: typer.Context) -> None:
    """Write the columns of the FOCUS export and their types (JSON), as the specification's metadata."""
    write_one(client.of(context).call("GET", f"{FOCUS}/schema"), (), Format.JSON)


def _csv_pages(connection: Connection, query: Mapping[str, str]) -> Iterator[str]:
    """Yield a month as CSV, page by page; the header stands before the first."""
    cursor: str | None = None
    first = True
    while first or cursor is not None:
        text, cursor = connection.text(FOCUS, {**query, **({"cursor": cursor} if cursor else {})})
        _, _, rest = text.partition("\r\n")  # every page names its columns
        yield text if first else rest
        first = False


def _write_csv(connection: Connection, query: Mapping[str, str], path: Path) -> int:
    rows = -1
    with path.open("w", encoding="utf-8", newline="") as file:
        for text in _csv_pages(connection, query):
            file.write(text)
            rows += sum(1 for _ in csv.reader(io.StringIO(text)))
    return rows


def _write_parquet(connection: Connection, query: Mapping[str, str], path: Path) -> int:
    generator = connection.call("GET", f"{FOCUS}/schema")["DataGenerator"]
    with parquet.Writer(path, generator) as writer:
        cursor: str | None = None
        while True:
            asked = {**query, "format": "json", **({"cursor": cursor} if cursor else {})}
            page = connection.call("GET", FOCUS, query=asked)
            writer.add(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    return writer.rows


def reconcile(
    context: typer.Context,
    period: Annotated[
        str | None, typer.Option(help="A month, as 2026-10. Default: the one before this.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Compare counters, ledger, invoices and payments of a month; every difference is named.

    So is every interruption in which counts may have been lost, until it is acknowledged. Exit code 1 says
    that something does not agree.
    """
    query = values.given(period=None if period is None else values.month(period, "--period"))
    found = client.of(context).call("GET", "/v1/reconcile", query=query, timeout_s=client.LONG_S)
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
    if any(each["kind"] == "interruption" for each in found["differences"]):
        note("Calls may lack in the count: `tallygate interruption show ID` says which, then acknowledge it.")
    raise typer.Exit(1)
