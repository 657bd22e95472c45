"""What people read: tables, CSV, JSON, questions, and errors to act on."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cells import safe_cell


class CliError(Exception):
    """A failure, said so that a person can act on it."""


class Format(StrEnum):
    """How a command's result is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How the result is written.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def out() -> Console:
    """Return the console of results."""
    return Console(soft_wrap=True)


def err() -> Console:
    """Return the console of notes and errors."""
    return Console(stderr=True, soft_wrap=True)


def report(message: str) -> None:
    """Write an error."""
    first, _, rest = message.partition("\n")
    err().print(f"[bold red]Error:[/] {escape(first)}", highlight=False)
    if rest:
        err().print(escape(rest), highlight=False)


def note(message: str) -> None:
    """Write what is no result, where it does not get into a pipe."""
    err().print(escape(message), highlight=False)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: Format, *, numbers: Sequence[str] = ()
) -> None:
    """Write a list: `columns` name what a table and CSV show, in order; JSON has everything.

    CSV and JSON are written row by row, however many there are.
    """
    if form is Format.JSON:
        _write_json(rows)
    elif form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(
                column.replace("_", " "), justify="right" if column in numbers else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(escape(_cell(row.get(column))) for column in columns))
        Console(width=None if sys.stdout.isatty() else 1_000).print(table)


def write_one(row: Mapping[str, Any], columns: Sequence[str], form: Format) -> None:
    """Write one object: a line a field, or as a list of one."""
    if form is Format.JSON:
        sys.stdout.write(json.dumps(row, indent=2, ensure_ascii=False) + "\n")
    elif form is Format.CSV:
        write_rows([row], columns, form)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for column in columns:
            table.add_row(column.replace("_", " "), escape(_cell(row.get(column))))
        Console(width=None if sys.stdout.isatty() else 1_000).print(table)


def write_file(path: Path) -> None:
    """Write a file that comes with the program as it is."""
    sys.stdout.write(path.read_text(encoding="utf-8"))


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """Show that something takes a while, where somebody watches."""
    return err().status(escape(f"{what} ...")) if sys.stderr.isatty() else contextlib.nullcontext()


def confirmed(what: str, *, yes: bool, dry_run: bool) -> bool:
    """Say what will be done, and ask; False for a dry run.

    Raises CliError when there is nobody to ask, and Abort when the answer is no.
    """
    if dry_run:
        note(f"Would: {what}")
        return False
    note(what)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CliError("There is nobody to ask; add --yes to do it, or --dry-run to see what would be done.")
    if not typer.confirm("Go on?", err=True):
        raise typer.Abort
    return True


def _write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    before = "["
    for row in rows:
        text = json.dumps(row, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        sys.stdout.write(f"{before}\n  {text}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(each)}" for name, each in value.items())
    return str(value)


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    return _cell(value) if isinstance(value, bool | list | dict) else safe_cell(value)
